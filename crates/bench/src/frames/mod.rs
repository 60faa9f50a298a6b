//! What a frame costs between a guest's descriptor and a device, by each way to join the two.

mod meter;
mod ways;

use std::time::{Duration, Instant};

use patchcord_netlink::Socket;
use patchcord_testkit::Namespace;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use self::meter::{FRAMES, Helper, Sender, measure};
use self::ways::{Joined, Maker, WAYS, Way};
use crate::stats::{quantile, table};
use crate::{Result, Setup};

/// Who sends frames, and how long they are: without the checksum, with the 14 bytes of Ethernet's header.
const CASES: [(Sender, usize); 4] =
    [(Sender::Guest, 64), (Sender::Guest, 1514), (Sender::Wire, 64), (Sender::Wire, 1514)];
const HEAD: [&str; 5] = [
    "between tap and device",
    "guest → wire, 64 B",
    "guest → wire, 1,514 B",
    "wire → guest, 64 B",
    "wire → guest, 1,514 B",
];

/// What was measured of one way, by case and round, in ns for each frame.
#[derive(Default)]
struct Times {
    cpu: [Vec<f64>; CASES.len()],
    wall: [Vec<f64>; CASES.len()],
}

/// A way, or why there is none.
type Tried = (Way, std::result::Result<(Joined, Times), String>);

/// Measures all ways in turn, in each round beginning with another one.
pub(crate) fn run(setup: &Setup, ns: &Namespace) -> Result<()> {
    let rounds = if setup.quick { 5 } else { 150 };
    // Nobody but us sends.
    for which in ["all", "default"] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1")?;
    }
    let programs = tempfile::tempdir()?;
    // Without eBPF there is nothing to be kept here.
    let mounted = mount("bpf", programs.path(), "bpf", MountFlags::empty(), None).is_ok();
    let mut maker = Maker { socket: Socket::open()?, ns, programs: programs.path(), made: 0 };
    let mut tried = WAYS.map(|way| {
        let joined = maker.join(way).map(|joined| (joined, Times::default()));
        (way, joined.map_err(|error| error.to_string()))
    });
    let helper = Helper::pinned()?;
    let (begun, helped) = (Instant::now(), helper.ran()?);
    let (mut sent, mut lost, mut used, mut taken) = (0, 0, Duration::ZERO, Duration::ZERO);
    for round in 0..rounds {
        tried.rotate_left(usize::from(round > 0));
        for (_, made) in &mut tried {
            let Ok((joined, times)) = made else { continue };
            for (case, (from, len)) in CASES.into_iter().enumerate() {
                let cost = measure(joined, from, len)?;
                times.cpu[case].push(each(cost.cpu));
                times.wall[case].push(each(cost.wall));
                (sent, lost) = (sent + u64::from(FRAMES), lost + cost.lost);
                (used, taken) = (used + cost.cpu, taken + cost.wall);
            }
        }
    }
    let (lasted, helped) = (begun.elapsed(), helper.ran()?.saturating_sub(helped));
    tried.rotate_right((rounds - 1) % WAYS.len());
    show(&tried, rounds);
    println!(
        "\nOf {sent} frames {lost} were lost. The thread's CPU time is {:.1} % of the clock's; ksoftirqd on its processor \
         ran for {:.1} ms of {:.0} s.",
        100.0 * used.as_secs_f64() / taken.as_secs_f64(),
        1e3 * helped.as_secs_f64(),
        lasted.as_secs_f64()
    );
    if mounted {
        unmount(programs.path(), UnmountFlags::DETACH)?;
    }
    Ok(())
}

fn each(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9 / f64::from(FRAMES)
}

fn show(tried: &[Tried], rounds: usize) {
    let first = tried.first().and_then(|(_, made)| made.as_ref().ok()).map(|(_, times)| times);
    let over = |times: &Times, case: usize| {
        let first = first.map(|first| first.cpu[case].as_slice()).unwrap_or_default();
        times.cpu[case].iter().zip(first).map(|(of, to)| of / to).collect::<Vec<f64>>()
    };
    let title = format!("What a frame costs, in ns of CPU time ({rounds} rounds of {FRAMES} frames)");
    rows(&title, tried, |times, case| spread(&times.cpu[case], 0));
    rows("The same over macvtap's of the same round", tried, |times, case| spread(&over(times, case), 2));
    rows("The same in ns by the clock", tried, |times, case| spread(&times.wall[case], 0));
    for (way, error) in tried.iter().filter_map(|(way, made)| Some((way, made.as_ref().err()?))) {
        println!("\nNot measured: {}. {}", way.label(), error.lines().collect::<Vec<_>>().join(" "));
    }
}

fn rows(title: &str, tried: &[Tried], cell: impl Fn(&Times, usize) -> String) {
    let row = |(way, made): &Tried| {
        let cells = match made {
            Ok((_, times)) => (0..CASES.len()).map(|case| cell(times, case)).collect(),
            Err(_) => vec![format!("kernel has no {}", way.needs()); CASES.len()],
        };
        [vec![way.label()], cells].concat()
    };
    table(title, &HEAD, &tried.iter().map(row).collect::<Vec<_>>());
}

/// `median (10th to 90th percentile)`; a dash without any.
fn spread(values: &[f64], digits: usize) -> String {
    let [low, middle, high] = [10, 50, 90].map(|percent| quantile(values, percent));
    match values {
        [] => "–".to_owned(),
        _ => format!("{middle:.digits$} ({low:.digits$}–{high:.digits$})"),
    }
}
