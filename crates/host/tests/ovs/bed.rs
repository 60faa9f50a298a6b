//! Open vSwitch in a namespace of its own, and taps.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;
use std::time::Duration;

use patchcord_core::model::LinkName;
use patchcord_core::plan::Index;
use patchcord_core::plan::OvsPort;
use patchcord_host::ovs::Ovs;
use patchcord_testkit::{Namespace, OpenVSwitch, create_tap, in_namespace, unpacked, wait_until};
use uuid::Uuid;

pub(crate) const INSTANCE: Uuid = Uuid::from_u128(0xa1);
pub(crate) const NIC: Uuid = Uuid::from_u128(0x1234);
pub(crate) const GUEST: Uuid = Uuid::from_u128(0x9000);
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Open vSwitch in a namespace, with bridges `br0` and `br1`.
pub(crate) struct Bed<'a> {
    pub(crate) ns: &'a Namespace,
    started: OpenVSwitch,
    _dir: tempfile::TempDir,
}

impl Deref for Bed<'_> {
    type Target = OpenVSwitch;

    fn deref(&self) -> &OpenVSwitch {
        &self.started
    }
}

impl DerefMut for Bed<'_> {
    fn deref_mut(&mut self) -> &mut OpenVSwitch {
        &mut self.started
    }
}

impl Bed<'_> {
    pub(crate) fn ovs(&self) -> Ovs {
        Ovs::new(self.socket(), INSTANCE, SOON)
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

    pub(crate) fn signal(&self, signal: &str) {
        self.ns.run(&format!("kill -{signal} {}", self.switch.as_ref().unwrap().id()));
    }
}

/// Runs a test with its bed, or skips it aloud.
pub(crate) fn with_bed(test: impl FnOnce(&mut Bed<'_>) + Send) {
    let Some(package) = unpacked("openvswitch") else { return };
    in_namespace(|ns| {
        let dir = tempfile::tempdir().unwrap();
        let started = OpenVSwitch::start(&package, dir.path());
        test(&mut Bed { ns, started, _dir: dir });
    });
}

pub(crate) fn name(name: &str) -> LinkName {
    LinkName::new(name).unwrap()
}

/// A port with nothing but what it must have.
pub(crate) fn plain(port: &str) -> OvsPort {
    // The test's own namespace is mounted there.
    let index = std::fs::read_to_string(format!("/sys/class/net/{port}/ifindex")).unwrap_or_default();
    OvsPort {
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
