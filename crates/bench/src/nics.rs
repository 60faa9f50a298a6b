//! Attaching and detaching NICs, beside the kernel's own cost of the same links.

use std::thread::sleep;
use std::time::Duration;

use patchcord_testkit::Namespace;

use crate::daemon::Daemon;
use crate::networks::isolated;
use crate::raw::Raw;
use crate::stats::{Samples, ratio, show, table};
use crate::{Result, Setup, memory};

/// NICs on one network while a host is filled; a bridge takes 1,023 ports.
pub(crate) const PER_NETWORK: usize = 1000;

/// How long nothing is done before each attach, by the daemon and by hand alike: an attach comes alone.
pub(crate) const REST: Duration = Duration::from_millis(5);

const HEAD: [&str; 9] = [
    "NICs",
    "handed over by",
    "socket alone",
    "attach",
    "raw",
    "(attach − socket) / raw",
    "detach",
    "raw",
    "(detach − socket) / raw",
];

/// Times of one way to hand taps over, with so many NICs present.
#[derive(Default)]
struct Times {
    attach: Samples,
    detach: Samples,
    raw_attach: Samples,
    raw_detach: Samples,
    socket: Samples,
}

impl Times {
    /// A NIC attached and detached by the daemon, then the same links by hand; each waits until the one before is
    /// gone from the kernel.
    fn round(&mut self, network: &str, daemon: &mut Daemon, raw: &mut Raw, by_name: bool, counts: bool) -> Result<()> {
        let mut times = Times::default();
        sleep(REST);
        times.socket.push(daemon.trivial_call());
        let (time, nic) = daemon.attach(network, "bench", by_name)?;
        times.attach.push(time);
        let link = nic.actual.ifindex.ok_or("a NIC without a tap")?;
        times.detach.push(daemon.detach(&nic)?);
        raw.wait_gone(link)?;
        sleep(REST);
        let (time, tap) = raw.attach(by_name)?;
        times.raw_attach.push(time);
        times.raw_detach.push(raw.detach(tap)?);
        if counts {
            self.attach.append(times.attach);
            self.detach.append(times.detach);
            self.raw_attach.append(times.raw_attach);
            self.raw_detach.append(times.raw_detach);
            self.socket.append(times.socket);
        }
        Ok(())
    }

    fn row(&self, present: usize, how: &str) -> Vec<String> {
        let socket = self.socket.p50();
        let own = |samples: &Samples| samples.p50().saturating_sub(socket);
        vec![
            present.to_string(),
            how.to_owned(),
            show(socket),
            self.attach.cell(),
            self.raw_attach.cell(),
            ratio(own(&self.attach), self.raw_attach.p50()),
            self.detach.cell(),
            self.raw_detach.cell(),
            ratio(own(&self.detach), self.raw_detach.p50()),
        ]
    }
}

/// Measures hosts with more and more NICs.
pub(crate) fn run(setup: &Setup, _: &Namespace) -> Result<()> {
    let (levels, rounds): (&[usize], _) =
        if setup.quick { (&[1, 100], 5) } else { (&[1, 100, 1000, 4000, 10_000], 50) };
    let mut daemon = Daemon::start(&setup.program)?;
    let mut raw = Raw::new()?;
    daemon.network(&isolated("measured", "10.2.0"))?;
    let (mut rows, mut sizes) = (Vec::new(), Vec::new());
    let mut filled = 0;
    for &level in levels {
        // The one that is being measured counts.
        while filled + 1 < level {
            let network = format!("fill{}", filled / PER_NETWORK);
            if filled % PER_NETWORK == 0 {
                daemon.transient(&isolated(&network, &format!("10.2.{}", 1 + filled / PER_NETWORK)))?;
            }
            daemon.attach(&network, &format!("guest{filled}"), true)?;
            filled += 1;
        }
        if level > 1 {
            sizes.push(memory::row(&format!("{} NICs", filled), daemon.pid())?);
        }
        for (how, by_name) in [("descriptor", false), ("name", true)] {
            let mut times = Times::default();
            for round in 0..rounds + 10 {
                times.round("measured", &mut daemon, &mut raw, by_name, round >= 10)?;
            }
            rows.push(times.row(level, how));
        }
    }
    table(&format!("Attaching and detaching a NIC ({rounds} rounds after 10 that do not count)"), &HEAD, &rows);
    table("Memory, with NICs", &memory::HEAD, &sizes);
    Ok(())
}

/// Devices of the pool.
const DEVICES: usize = 1000;

/// Measures NICs that are joined to devices of a large pool by cords.
pub(crate) fn on_devices(setup: &Setup, ns: &Namespace) -> Result<()> {
    let (levels, rounds, devices): (&[usize], _, _) =
        if setup.quick { (&[1, 20], 5, 10) } else { (&[1, 100, 1000], 50, DEVICES) };
    // Bridges without ports: as cheap as devices get, and macvlans sit on them like on any.
    for device in 0..=devices {
        ns.run(&format!("ip link add dev{device} up type bridge"));
    }
    let mut daemon = Daemon::start(&setup.program)?;
    let mut raw = Raw::on_device(&format!("dev{devices}"))?;
    let listed: String = (0..devices).map(|n| format!("<interface dev='dev{n}'/>")).collect();
    daemon.transient(&format!("<network><name>pool</name><forward mode='vepa'>{listed}</forward></network>"))?;
    let (mut rows, mut filled) = (Vec::new(), 0);
    for &level in levels {
        while filled + 1 < level {
            daemon.attach("pool", &format!("guest{filled}"), true)?;
            filled += 1;
        }
        for (how, by_name) in [("descriptor", false), ("name", true)] {
            let mut times = Times::default();
            for round in 0..rounds + 10 {
                times.round("pool", &mut daemon, &mut raw, by_name, round >= 10)?;
            }
            rows.push(times.row(level, how));
        }
    }
    let title = format!("The same on one of {devices} devices, by a cord ({rounds} rounds)");
    table(&title, &HEAD, &rows);
    Ok(())
}
