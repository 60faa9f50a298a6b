//! The kernel's steps for a cord, made by hand with more and more cords on the host: which of them grow with the number?
//!
//! The kernel keeps one list of all places for filters on all links of all namespaces, and goes through it for each new
//! one (`indir_dev_add` of its net/core/flow_offload.c). A clsact has two such places, an ingress qdisc one.

use std::thread::sleep;
use std::time::{Duration, Instant};

use patchcord_netlink::Request;
use patchcord_testkit::Namespace;

use crate::devices::{self, DEVICES};
use crate::nics::REST;
use crate::raw::{Place, Raw, hand_over, redirect, up};
use crate::stats::{Samples, show, table, timed};
use crate::{Result, Setup};

const STEPS: [&str; 8] = [
    "tap made",
    "tap set up",
    "macvlan made",
    "macvlan set up",
    "place for filters on the tap",
    "on the macvlan",
    "both filters",
    "both up",
];

/// How cords are made.
struct Kind {
    label: &'static str,
    /// What gives a link its place for filters.
    place: fn(u32) -> Request,
    /// Whether the tap keeps the qdisc that the kernel gives it.
    queue: bool,
    /// Whether all are on one device.
    one_device: bool,
}

const KINDS: [Kind; 4] = [
    Kind { label: "clsact", place: Request::add_clsact, queue: true, one_device: false },
    Kind { label: "clsact, one device", place: Request::add_clsact, queue: true, one_device: true },
    Kind { label: "ingress", place: Request::add_ingress, queue: true, one_device: false },
    Kind { label: "ingress, tap without qdisc", place: Request::add_ingress, queue: false, one_device: false },
];

/// Measures the last cords before each number of them, one kind of cord after the other.
pub(crate) fn run(setup: &Setup, _: &Namespace) -> Result<()> {
    let (levels, counted, spread): (&[usize], _, _) =
        if setup.quick { (&[20, 40], 5, 10) } else { (&[100, 1000, 4000], 50, DEVICES) };
    let mut raw = Raw::new()?;
    devices::make(&mut raw, spread)?;
    let indexes = (0..spread).map(|n| raw.index_of(&format!("dev{n}"))).collect::<Result<Vec<_>>>()?;
    let (mut rows, mut deleted) = (Vec::new(), Vec::new());
    for kind in KINDS {
        let mut present = 0;
        for level in levels {
            let mut samples: [Samples; STEPS.len()] = Default::default();
            let mut whole = Samples::default();
            for n in present..*level {
                let device = indexes[if kind.one_device { 0 } else { n % spread }];
                let counts = n + counted >= *level;
                if counts {
                    sleep(REST);
                }
                let times = cord(&mut raw, device, &kind)?;
                if counts {
                    samples.iter_mut().zip(times).for_each(|(samples, time)| samples.push(time));
                    whole.push(times.iter().sum());
                }
            }
            present = *level;
            let cells = samples.iter().chain([&whole]).map(|samples| show(samples.p50()));
            rows.push([kind.label.to_owned(), level.to_string()].into_iter().chain(cells).collect::<Vec<_>>());
        }
        let (time, ()) = timed(|| raw.clear())?;
        deleted.push(format!("{} of {}", show(time / u32::try_from(present)?), kind.label));
    }
    let head = [&["filters at", "cords"][..], &STEPS, &["all"]].concat();
    let title = format!(
        "What the steps of a cord take by hand (medians of the last {counted} of so many, on {spread} devices)"
    );
    table(&title, &head, &rows);
    println!("\nDeleting all of them by their group took, for each: {}.", deleted.join("; "));
    Ok(())
}

fn cord(raw: &mut Raw, device: u32, kind: &Kind) -> Result<[Duration; STEPS.len()]> {
    raw.place = Place::Cord(device);
    let mut times = [Duration::ZERO; STEPS.len()];
    let mut last = Instant::now();
    let mut step = 0;
    let mut done = || {
        let now = Instant::now();
        times[step] = now - std::mem::replace(&mut last, now);
        step += 1;
    };
    let (tap, queue) = raw.tap()?;
    done();
    raw.settle_tap(tap)?;
    hand_over(queue, true)?;
    if !kind.queue {
        raw.socket.execute(&Request::no_queue(tap))?;
    }
    done();
    let macvlan = raw.macvlan(device, false)?;
    done();
    raw.settle_macvlan(macvlan)?;
    done();
    raw.socket.execute(&(kind.place)(tap))?;
    done();
    raw.socket.execute(&(kind.place)(macvlan))?;
    done();
    raw.all(&[redirect(macvlan, tap), redirect(tap, macvlan)])?;
    done();
    raw.socket.set_link(macvlan, &up())?;
    raw.socket.set_link(tap, &up())?;
    done();
    Ok(times)
}
