//! Attaching and detaching NICs, beside the kernel's own cost of the same links.

use std::thread::sleep;
use std::time::Duration;

use patchcord_testkit::Namespace;

use crate::daemon::{Daemon, on};
use crate::networks::isolated;
use crate::raw::Raw;
use crate::stats::{Samples, ratio, show, table};
use crate::{Result, Setup, memory};

/// NICs on one network while a host is filled; a bridge takes 1,023 ports.
pub(crate) const PER_NETWORK: usize = 1000;

/// How long nothing is done before each attach, by the daemon and by hand alike: an attach comes alone.
pub(crate) const REST: Duration = Duration::from_millis(5);

pub(crate) const HEAD: [&str; 9] = [
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
pub(crate) struct Times {
    attach: Samples,
    detach: Samples,
    raw_attach: Samples,
    raw_detach: Samples,
    socket: Samples,
}

impl Times {
    /// A NIC attached and detached by the daemon, then the same links by hand; each waits until the one before is
    /// gone from the kernel.
    pub(crate) fn round(
        &mut self,
        interface: &str,
        daemon: &mut Daemon,
        raw: &mut Raw,
        by_name: bool,
        counts: bool,
    ) -> Result<()> {
        let mut times = Times::default();
        sleep(REST);
        times.socket.push(daemon.trivial_call());
        let (time, nic) = daemon.attach(interface, "bench", by_name)?;
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

    pub(crate) fn row(&self, present: usize, how: &str) -> Vec<String> {
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
            daemon.attach(&on(&network), &format!("guest{filled}"), true)?;
            filled += 1;
        }
        if level > 1 {
            sizes.push(memory::row(&format!("{} NICs", filled), daemon.pid())?);
        }
        for (how, by_name) in [("descriptor", false), ("name", true)] {
            let mut times = Times::default();
            for round in 0..rounds + 10 {
                times.round(&on("measured"), &mut daemon, &mut raw, by_name, round >= 10)?;
            }
            rows.push(times.row(level, how));
        }
    }
    table(&format!("Attaching and detaching a NIC ({rounds} rounds after 10 that do not count)"), &HEAD, &rows);
    table("Memory, with NICs", &memory::HEAD, &sizes);
    Ok(())
}
