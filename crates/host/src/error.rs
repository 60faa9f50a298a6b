//! What can go wrong at the edges.
//!
//! `Display` says what was attempted on which object and, where it is known, what would help; the cause is the
//! error's source, with the kernel's error number kept.

use std::io;
use std::path::PathBuf;

use patchcord_core::model::LinkName;
use rustix::io::Errno;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory operation failed.
    #[error("cannot {op} {}", path.display())]
    File {
        /// What was attempted, as a verb: "read", "write".
        op: &'static str,
        /// What it was attempted on.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A file was read, and what it holds can't be used.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A name can't be used for what it was meant.
    #[error("{what} name {name:?}: {problem}")]
    Name {
        /// The kind of name: "link", "file", "sysctl".
        what: &'static str,
        /// The name as given.
        name: String,
        /// The rule that it breaks.
        problem: &'static str,
    },
    /// Another daemon has the root.
    #[error("{} is held by {}; two daemons can't share a root directory: stop that one or use another --root",
        path.display(), holder(*pid))]
    RootHeld {
        /// The lock file.
        path: PathBuf,
        /// The holder, as it wrote itself down.
        pid: Option<u32>,
    },
    /// Another daemon of the same user has the network namespace.
    #[error("this network namespace is held by {}; two daemons can't share one: stop that one or use another \
        namespace", holder(*pid))]
    NamespaceHeld {
        /// The holder, as the kernel tells.
        pid: Option<u32>,
    },
    /// The claim on the network namespace could not be made.
    #[error("cannot {op} the socket that claims this network namespace")]
    NamespaceClaim {
        /// What was attempted.
        op: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// /dev/net/tun can't be opened.
    #[error("cannot open /dev/net/tun{}", tun_hint(source))]
    TunDevice {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A tap was to be made under a name that a link already has.
    #[error("tap {name}: a link of that name exists")]
    TapExists {
        /// The tap's name.
        name: String,
    },
    /// All queues of a tap are attached to someone.
    #[error("tap {name}: held by another process, and it has no free queue")]
    TapBusy {
        /// The tap's name.
        name: String,
    },
    /// No persistent tap has the name.
    #[error("tap {name}: there is no persistent tap of that name")]
    TapAbsent {
        /// The tap's name.
        name: String,
    },
    /// Another operation on a tap failed.
    #[error("tap {name}: cannot {op}{}", permission_hint(source))]
    Tap {
        /// The tap's name, or a description of the descriptor.
        name: String,
        /// What was attempted.
        op: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Something could not be done with a macvtap's device node.
    #[error("cannot {op} the macvtap's node {}{hint}", path.display())]
    Node {
        /// What was attempted, as a verb.
        op: &'static str,
        /// The node, or the file that tells of it.
        path: PathBuf,
        /// What would help, with a semicolon before it; empty when that is not known.
        hint: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a netlink request, or netlink itself failed.
    #[error(transparent)]
    Netlink(#[from] patchcord_netlink::Error),
    /// A thread can't be started.
    #[error("cannot start the thread {name:?}")]
    Thread {
        /// Its name.
        name: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A descriptor for waiting or waking can't be used.
    #[error("cannot {op} the watcher's descriptors")]
    Listen {
        /// What was attempted.
        op: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Random bytes could not be had.
    #[error("cannot draw random bytes")]
    Random {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A process can't be watched, read about or signalled.
    #[error("cannot {op} process {pid}")]
    Process {
        /// Its id.
        pid: u32,
        /// What was attempted.
        op: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The spawner, which runs programs for us, can't be reached.
    #[error("cannot {op} the spawner")]
    Spawner {
        /// What was attempted.
        op: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The spawner has ended; the daemon must be started again to have a new one.
    #[error("the spawner has ended; no program can be run until the daemon is started again")]
    SpawnerGone,
    /// The spawner's reply makes no sense, which no input can bring about.
    #[error("the spawner's reply can't be read")]
    SpawnerReply,
    /// A program can't be run.
    #[error("cannot run {}: {problem}", program.display())]
    Program {
        /// Its path.
        program: PathBuf,
        /// What is in the way.
        problem: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// dnsmasq did not do what it should.
    #[error("{problem}")]
    Service {
        /// The network's UUID.
        network: uuid::Uuid,
        /// What is wrong, in dnsmasq's words where it said something.
        problem: String,
    },
    /// There is no dnsmasq.
    #[error("no dnsmasq at {}: install it (Debian's package dnsmasq-base) or set its path in the configuration",
        program.display())]
    NoDnsmasq {
        /// Where it was looked for.
        program: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Box<Error>,
    },
    /// There is no lldpad to ask.
    #[error("802.1Qbg needs lldpad, and it can't be found: {} {problem}; start lldpad (Debian's package lldpad)",
        pid_file.display())]
    NoLldpad {
        /// The file that should hold its process id.
        pid_file: PathBuf,
        /// What is wrong with it, as the rest of a sentence about it.
        problem: String,
    },
    /// A guest's port did not get its profile from the switch, or did not lose it.
    #[error("{device}: {profile}: {problem}; {help}{}", tail("; it could not be taken back: ", left.as_deref()))]
    Association {
        /// The link that leads to the switch.
        device: LinkName,
        /// The profile, with what tells it from others.
        profile: String,
        /// What the switch, lldpad or the driver answered.
        problem: String,
        /// What would help.
        help: &'static str,
        /// Why what had been asked for could not be taken back; `None` when it was, or nothing was left to take back.
        left: Option<String>,
        /// What the question failed with.
        #[source]
        source: Option<patchcord_netlink::Error>,
    },
    /// A PCI device does not get a driver.
    #[error("PCI device {address} does not get driver {driver}: {problem}")]
    Driver {
        /// The device.
        address: patchcord_core::model::PciAddress,
        /// The driver.
        driver: String,
        /// What is in the way, and what would help.
        problem: String,
    },
    /// A virtual function can't be found or set.
    #[error("virtual function {function}: {problem}{}", tail("; not put back: ", left.as_deref()))]
    VirtualFunction {
        /// Its link, its PCI address, or its number and its physical function.
        function: String,
        /// What is in the way, and what would help.
        problem: String,
        /// What had been set and could not be put back.
        left: Option<String>,
        /// The kernel's answer, where it was asked.
        #[source]
        source: Option<patchcord_netlink::Error>,
    },
    /// Files can't be watched.
    #[error("cannot watch files")]
    Watch {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Open vSwitch's database can't be reached, or ends an answer before its end.
    #[error("cannot {op} Open vSwitch's database at {}{}", socket.display(), ovs_hint(source))]
    OvsSocket {
        /// What was attempted.
        op: &'static str,
        /// ovsdb-server's socket.
        socket: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Open vSwitch's database answers what RFC 7047 and the schema don't have.
    #[error("Open vSwitch's database at {}: {problem}", socket.display())]
    OvsAnswer {
        /// ovsdb-server's socket.
        socket: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// There is no such bridge.
    #[error("Open vSwitch at {} has no bridge {bridge}: {}; make it with 'ovs-vsctl add-br {bridge}' or name another",
        socket.display(), bridges(known))]
    OvsNoBridge {
        /// ovsdb-server's socket.
        socket: PathBuf,
        /// The bridge's name.
        bridge: String,
        /// Those that are there.
        known: Vec<String>,
    },
    /// A port has the name of ours, and is not.
    #[error("Open vSwitch at {}: port {port} is {whose} and stays; choose another name for the tap, or remove the port \
        with 'ovs-vsctl del-port {port}'", socket.display())]
    OvsForeign {
        /// ovsdb-server's socket.
        socket: PathBuf,
        /// The port's name.
        port: String,
        /// "somebody else's".
        whose: &'static str,
    },
    /// ovsdb-server refused a port, or ovs-vswitchd can't use it.
    #[error("Open vSwitch at {}: port {port}{}: {problem}", socket.display(), on_bridge(bridge.as_deref()))]
    OvsPort {
        /// ovsdb-server's socket.
        socket: PathBuf,
        /// The port's name.
        port: String,
        /// Its bridge, where that is known.
        bridge: Option<String>,
        /// What is wrong, in their words.
        problem: String,
    },
}

/// "process 12", or "another process".
fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// What is said only where there is something to say.
fn tail(introduction: &str, text: Option<&str>) -> String {
    text.map_or_else(String::new, |text| format!("{introduction}{text}"))
}

/// What helps when /dev/net/tun doesn't open.
fn tun_hint(source: &io::Error) -> &'static str {
    match Errno::from_io_error(source) {
        Some(Errno::NOENT | Errno::NXIO | Errno::NODEV) => "; load the kernel module tun",
        Some(Errno::ACCESS | Errno::PERM) => "; access to that device is needed",
        _ => "",
    }
}

/// What helps when the kernel says no.
fn permission_hint(source: &io::Error) -> &'static str {
    match Errno::from_io_error(source) {
        Some(Errno::PERM) => "; CAP_NET_ADMIN, or being the tap's owner, is needed",
        _ => "",
    }
}

/// What helps when ovsdb-server can't be reached.
fn ovs_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "; is Open vSwitch (Debian's package openvswitch-switch) installed and running?"
        }
        io::ErrorKind::TimedOut => "; is ovsdb-server stuck?",
        _ => "",
    }
}

/// The bridges that are there, at most ten of them.
fn bridges(known: &[String]) -> String {
    let named = known[..known.len().min(10)].join(", ");
    match known.len() {
        0 => "it has none".to_owned(),
        1..=10 => format!("it has {named}"),
        _ => format!("it has {named} and more"),
    }
}

fn on_bridge(bridge: Option<&str>) -> String {
    bridge.map_or_else(String::new, |bridge| format!(" on bridge {bridge}"))
}

impl Error {
    /// The kernel's error number, where one is at the bottom of this.
    pub fn errno(&self) -> Option<Errno> {
        if let Self::Netlink(error)
        | Self::Association { source: Some(error), .. }
        | Self::VirtualFunction { source: Some(error), .. } = self
        {
            return error.errno().map(Errno::from_raw_os_error);
        }
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            if let Some(errno) = error.downcast_ref::<io::Error>().and_then(Errno::from_io_error) {
                return Some(errno);
            }
            if let Some(errno) = error.downcast_ref::<Errno>() {
                return Some(*errno);
            }
            cause = error.source();
        }
        None
    }

    /// For `map_err` on a file operation.
    pub(crate) fn file<E: Into<io::Error>>(op: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::File { op, path, source: source.into() }
    }

    /// For `map_err` on what is done with Open vSwitch's socket.
    pub(crate) fn ovs_socket(op: &'static str, socket: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let socket = socket.into();
        move |source| Self::OvsSocket { op, socket, source }
    }
}
