//! Starts and stops of networks.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use patchcord_api::methods::{StartNetwork, StopNetwork};
use patchcord_testkit::Namespace;

use crate::daemon::Daemon;
use crate::raw::Raw;
use crate::stats::{Samples, show, table, timed};
use crate::{Result, Setup, memory};

/// Patience with a dnsmasq that should answer already.
const DNS: Duration = Duration::from_millis(500);

/// An isolated network with an address and nothing that serves.
pub(crate) fn isolated(name: &str, subnet: &str) -> String {
    format!("<network><name>{name}</name><dns enable='no'/><ip address='{subnet}.1' prefix='24'/></network>")
}

/// A NAT network with DHCP and DNS.
pub(crate) fn nat(name: &str, subnet: &str) -> String {
    format!(
        "<network><name>{name}</name><forward mode='nat'/><ip address='{subnet}.1' prefix='24'>
         <dhcp><range start='{subnet}.2' end='{subnet}.254'/></dhcp></ip></network>"
    )
}

/// Whether a name server answers there, be it that there is no such name.
pub(crate) fn answers(server: &str) -> Result<bool> {
    // A recursive query for the address of "bench." (RFC 1035, section 4).
    let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x05bench\0\0\x01\0\x01";
    let server: IpAddr = server.parse()?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect((server, 53))?;
    socket.set_read_timeout(Some(DNS))?;
    socket.send(query)?;
    let mut answer = [0; 512];
    Ok(socket.recv(&mut answer).is_ok_and(|length| length >= 12 && answer[..2] == query[..2]))
}

/// Times of starts, stops and of links' ends.
#[derive(Default)]
pub(crate) struct Cycle {
    pub(crate) start: Samples,
    pub(crate) stop: Samples,
    pub(crate) gone: Samples,
    pub(crate) answered: u32,
}

impl Cycle {
    /// Starts and stops a network that is defined, once, and waits until its bridge is gone.
    pub(crate) fn round(&mut self, daemon: &mut Daemon, raw: &mut Raw, name: &str, dns: Option<&str>) -> Result<()> {
        let (time, started) = timed(|| daemon.call(&StartNetwork { name: name.to_owned() }))?;
        self.start.push(time);
        if let Some(server) = dns {
            self.answered += u32::from(answers(server)?);
        }
        let bridge = raw.index_of(&started.network.bridge.ok_or("a network without a bridge")?)?;
        let (time, _) = timed(|| daemon.call(&StopNetwork { name: name.to_owned() }))?;
        self.stop.push(time);
        self.gone.push(raw.wait_gone(bridge)?);
        Ok(())
    }
}

/// Measures a host with no other networks.
pub(crate) fn run(setup: &Setup, _: &Namespace) -> Result<()> {
    let rounds = if setup.quick { 5 } else { 50 };
    let mut daemon = Daemon::start(&setup.program)?;
    let mut raw = Raw::new()?;
    let idle = memory::row("nothing", daemon.pid())?;
    for xml in [isolated("lab", "10.1.1"), nat("out", "10.1.2")] {
        let xml = patchcord_api::methods::DefineNetwork { xml };
        daemon.call(&xml)?;
    }
    let (mut lab, mut out, mut socket) = (Cycle::default(), Cycle::default(), Samples::default());
    for _ in 0..rounds {
        socket.push(daemon.trivial_call());
        lab.round(&mut daemon, &mut raw, "lab", None)?;
        out.round(&mut daemon, &mut raw, "out", Some("10.1.2.1"))?;
    }
    let row = |what: &str, cycle: &Cycle, targets: [&str; 2], dns: String| {
        let (start, stop) = (cycle.start.cell(), cycle.stop.cell());
        vec![what.into(), start, targets[0].into(), stop, targets[1].into(), cycle.gone.cell(), dns]
    };
    table(
        &format!(
            "Starting and stopping a network ({rounds} rounds, the socket's round trip of {} included)",
            show(socket.p50())
        ),
        &["network", "start", "target", "stop", "target", "links gone after the stop", "DNS answers at once"],
        &[
            row("isolated", &lab, ["≤ 2 ms", "≤ 5 ms"], "–".into()),
            row("NAT with DHCP", &out, ["≤ 12 ms", "≤ 10 ms"], format!("{} of {rounds}", out.answered)),
        ],
    );
    table("Memory, idle", &memory::HEAD, &[idle, memory::row("after those rounds", daemon.pid())?]);
    Ok(())
}
