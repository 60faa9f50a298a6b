//! Starts and stops of networks.

use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use patchcord_api::methods::{StartNetwork, StopNetwork};
use patchcord_testkit::Namespace;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

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

/// dnsmasq by itself: from its start until it has made a daemon of itself, which is when it answers, with a
/// configuration like the network's. That is the least that a start with DHCP can take.
struct Dnsmasq {
    directory: tempfile::TempDir,
}

impl Dnsmasq {
    /// On a bridge that is there, which gets an address.
    fn new(ns: &Namespace, bridge: &str) -> Result<Self> {
        ns.run(&format!("ip address add 10.1.3.1/24 dev {bridge}"));
        let directory = tempfile::tempdir()?;
        let at = |file: &str| directory.path().join(file).display().to_string();
        let conf = format!(
            "strict-order\npid-file={}\nexcept-interface=lo\nbind-interfaces\ninterface={bridge}\nno-resolv\n\
             dhcp-range=10.1.3.2,10.1.3.254,255.255.255.0\ndhcp-no-override\ndhcp-authoritative\n\
             dhcp-leasefile={}\n",
            at("pid"),
            at("leases"),
        );
        std::fs::write(at("conf"), conf)?;
        Ok(Self { directory })
    }

    /// Starts one, ends it, and says how long the start took.
    fn round(&self) -> Result<Duration> {
        let file = |name: &str| self.directory.path().join(name);
        let mut command = Command::new("/usr/sbin/dnsmasq");
        command.arg(format!("--conf-file={}", file("conf").display()));
        let (time, status) = timed(|| command.status())?;
        if !status.success() {
            return Err(format!("dnsmasq: {status}").into());
        }
        let pid = std::fs::read_to_string(file("pid"))?.trim().parse().ok().and_then(Pid::from_raw);
        let process = pidfd_open(pid.ok_or("dnsmasq wrote no process id")?, PidfdFlags::empty())?;
        pidfd_send_signal(&process, Signal::KILL)?;
        poll(&mut [PollFd::new(&process, PollFlags::IN)], None)?;
        Ok(time)
    }
}

/// Measures a host with no other networks.
pub(crate) fn run(setup: &Setup, ns: &Namespace) -> Result<()> {
    let rounds = if setup.quick { 5 } else { 50 };
    let mut daemon = Daemon::start(&setup.program)?;
    let mut raw = Raw::new()?;
    let (dnsmasq, mut alone) = (Dnsmasq::new(ns, "raw")?, Samples::default());
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
        alone.push(dnsmasq.round()?);
    }
    let row = |what: &str, cycle: &Cycle, targets: [&str; 2], least: String, dns: String| {
        let (start, stop) = (cycle.start.cell(), cycle.stop.cell());
        vec![what.into(), start, targets[0].into(), least, dns, stop, targets[1].into(), cycle.gone.cell()]
    };
    let socket = show(socket.p50());
    table(
        &format!("Starting and stopping a network ({rounds} rounds, the socket's round trip of {socket} included)"),
        &["network", "start", "target", "dnsmasq alone", "DNS answers at once", "stop", "target", "links gone after"],
        &[
            row("isolated", &lab, ["≤ 2 ms", "≤ 5 ms"], "–".into(), "–".into()),
            row("NAT with DHCP", &out, ["≤ 12 ms", "≤ 10 ms"], alone.cell(), format!("{} of {rounds}", out.answered)),
        ],
    );
    table("Memory, idle", &memory::HEAD, &[idle, memory::row("after those rounds", daemon.pid())?]);
    Ok(())
}
