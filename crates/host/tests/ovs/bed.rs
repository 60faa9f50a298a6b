//! Open vSwitch in a namespace of its own, its bridges of the userspace datapath, which needs no kernel module; and taps.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use patchcord_core::model::LinkName;
use patchcord_core::plan::Index;
use patchcord_host::ovs::{Ovs, PortSpec};
use patchcord_testkit::{Namespace, Process, create_tap, in_namespace, unpacked, wait_until};
use serde_json::Value;
use uuid::Uuid;

pub(crate) const INSTANCE: Uuid = Uuid::from_u128(0xa1);
pub(crate) const NIC: Uuid = Uuid::from_u128(0x1234);
pub(crate) const GUEST: Uuid = Uuid::from_u128(0x9000);
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Open vSwitch in a namespace: two bridges, `br0` and `br1`.
pub(crate) struct Bed<'a> {
    pub(crate) ns: &'a Namespace,
    package: PathBuf,
    dir: tempfile::TempDir,
    /// ovs-vswitchd ends first.
    pub(crate) switch: Option<Process>,
    _database: Process,
}

impl Bed<'_> {
    /// A program of the package, which lives below the temporary directory alone.
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        command(self.dir.path(), &self.package, program, arguments)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("db.sock")
    }

    pub(crate) fn ovs(&self) -> Ovs {
        Ovs::new(self.socket(), INSTANCE, SOON)
    }

    /// What `ovs-vsctl` prints; its words are separated by white space.
    pub(crate) fn vsctl(&self, words: &str) -> String {
        self.try_vsctl(words).unwrap_or_else(|error| panic!("ovs-vsctl {words}: {error}"))
    }

    pub(crate) fn try_vsctl(&self, words: &str) -> Result<String, String> {
        let database = format!("--db=unix:{}", self.socket().display());
        let mut arguments = vec![database.as_str(), "--timeout=60"];
        arguments.extend(words.split_whitespace());
        let output = self.command("ovs-vsctl", &arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// A column, as `ovs-vsctl` prints it.
    pub(crate) fn get(&self, table: &str, record: &str, column: &str) -> String {
        self.vsctl(&format!("get {table} {record} {column}"))
    }

    /// The rows of a table.
    pub(crate) fn rows(&self, table: &str) -> Vec<Value> {
        let printed: Value = serde_json::from_str(&self.vsctl(&format!("--format=json list {table}"))).unwrap();
        printed["data"].as_array().unwrap().clone()
    }

    /// How many QoS and queues there are.
    pub(crate) fn shaping(&self) -> (usize, usize) {
        (self.rows("QoS").len(), self.rows("Queue").len())
    }

    /// What others have: all that a refusal must leave as it is.
    pub(crate) fn everything(&self) -> Vec<String> {
        let tables = ["Open_vSwitch", "Bridge", "Port", "Interface", "QoS", "Queue"];
        // Columns that ovs-vswitchd changes by itself.
        let columns = ["next_cfg", "name,ports", "name,interfaces,tag,qos,external_ids", "name,type,external_ids"];
        let columns = columns.into_iter().chain(["_uuid", "_uuid"]);
        let list = |(table, columns)| self.vsctl(&format!("--columns={columns} list {table}"));
        tables.into_iter().zip(columns).map(list).collect()
    }

    /// A tap that is up.
    pub(crate) fn tap(&self, name: &str) -> Tap {
        // Without, each new link sends neighbour discovery of its own.
        self.ns.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
        let fd = create_tap(name).unwrap();
        let flags = rustix::fs::fcntl_getfl(&fd).unwrap();
        rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
        Tap { fd, seen: RefCell::default() }
    }

    pub(crate) fn start_switch(&mut self) {
        let database = format!("unix:{}", self.socket().display());
        let arguments = [database.as_str(), "-vsyslog:off", "-vconsole:err"];
        self.switch = Some(Process::start(self.command("ovs-vswitchd", &arguments)));
    }

    pub(crate) fn signal(&self, signal: &str) {
        self.ns.run(&format!("kill -{signal} {}", self.switch.as_ref().unwrap().id()));
    }
}

fn command(dir: &Path, package: &Path, program: &str, arguments: &[&str]) -> Command {
    let places = ["usr/bin", "usr/sbin", "usr/lib/openvswitch-switch"];
    let program = places.iter().map(|place| package.join(place).join(program)).find(|path| path.exists());
    let mut command = Command::new(program.expect("the packages have their programs"));
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
        command.env(variable, dir);
    }
    // Libraries that the machine lacks were unpacked, too.
    let libraries =
        ["usr/lib", "lib"].map(|lib| package.join(lib).join(format!("{}-linux-gnu", std::env::consts::ARCH)));
    command.env("LD_LIBRARY_PATH", libraries.map(|path| path.display().to_string()).join(":"));
    command.current_dir(dir).args(arguments);
    command
}

/// Runs a test with its bed, or skips it aloud.
pub(crate) fn with_bed(test: impl FnOnce(&mut Bed<'_>) + Send) {
    let Some(package) = unpacked("openvswitch") else { return };
    in_namespace(|ns| {
        let dir = tempfile::tempdir().unwrap();
        let run = |program: &str, arguments: &[&str]| command(dir.path(), &package, program, arguments);
        let schema = package.join("usr/share/openvswitch/vswitch.ovsschema");
        let created = run("ovsdb-tool", &["create", "conf.db", schema.to_str().unwrap()]).output().unwrap();
        assert!(created.status.success(), "{created:?}");
        let start = Instant::now();
        let database = Process::start(run("ovsdb-server", &["conf.db", "--remote=punix:db.sock", "-vsyslog:off"]));
        wait_until(
            "ovsdb-server",
            SOON,
            || if dir.path().join("db.sock").exists() { Ok(()) } else { Err("no socket") },
        );
        let listening = start.elapsed();
        let mut bed = Bed { ns, package, dir, switch: None, _database: database };
        // The first row, as Open vSwitch's own start script makes it.
        bed.vsctl("--no-wait init");
        let start = Instant::now();
        bed.start_switch();
        bed.vsctl("add-br br0 -- set bridge br0 datapath_type=netdev");
        println!("ovsdb-server listens after {listening:?}, ovs-vswitchd works after {:?}", start.elapsed());
        bed.vsctl("add-br br1 -- set bridge br1 datapath_type=netdev");
        test(&mut bed);
    });
}

pub(crate) fn name(name: &str) -> LinkName {
    LinkName::new(name).unwrap()
}

/// A port with nothing but what it must have.
pub(crate) fn plain(port: &str) -> PortSpec {
    // The test's own namespace is mounted there.
    let index = std::fs::read_to_string(format!("/sys/class/net/{port}/ifindex")).unwrap_or_default();
    PortSpec {
        name: name(port),
        link: Index(index.trim().parse().unwrap_or_default()),
        nic: NIC,
        interface_id: Uuid::from_u128(7),
        profile_id: None,
        mac: None,
        guest: None,
        vlan: None,
        bandwidth: None,
    }
}

/// The outer end of a tap: where a guest would be.
pub(crate) struct Tap {
    fd: OwnedFd,
    seen: RefCell<Vec<Frame>>,
}

/// The number in a frame, and the VLAN of its tag.
pub(crate) type Frame = (u8, Option<u16>);

/// EtherType of local experiments (IEEE 802).
const EXPERIMENT: u16 = 0x88b5;
/// The header before each frame.
const VNET_HEADER: usize = 10;

impl Tap {
    /// Sends a frame to everyone, with that number in it.
    pub(crate) fn send(&self, number: u8) {
        let mut frame = vec![0; VNET_HEADER];
        frame.extend([0xff; 6]);
        frame.extend([0x52, 0x54, 0, 0, 0, number]);
        frame.extend(EXPERIMENT.to_be_bytes());
        frame.extend([number; 46]);
        assert_eq!(rustix::io::write(&self.fd, &frame), Ok(frame.len()));
    }

    /// The frames that have come.
    pub(crate) fn received(&self) -> Vec<Frame> {
        let mut buffer = [0; 2048];
        let mut seen = self.seen.borrow_mut();
        while let Ok(length) = rustix::io::read(&self.fd, &mut buffer) {
            let frame = &buffer[VNET_HEADER..length];
            let kind = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
            match (kind(12), kind(16)) {
                (EXPERIMENT, _) => seen.push((frame[14], None)),
                (0x8100, EXPERIMENT) => seen.push((frame[18], Some(kind(14) & 0xfff))),
                _ => {}
            }
        }
        seen.clone()
    }

    /// Waits for the frame of that number; gives all that have come.
    pub(crate) fn wait(&self, number: u8) -> Vec<Frame> {
        wait_until("a frame", SOON, || {
            let seen = self.received();
            if seen.iter().any(|(seen, _)| *seen == number) { Ok(seen) } else { Err(format!("{seen:?}")) }
        })
    }
}
