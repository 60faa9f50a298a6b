//! Associations with a process that plays lldpad, with a thread that plays a driver, and with a driver that has no port
//! profiles.
#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod driver;
mod player;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use patchcord_core::model::{LinkName, MacAddr, VirtualPort, VirtualPortType};
use patchcord_host::Error;
use patchcord_host::association::{Association, Guest, Uplink, associate, disassociate, reserve};
use patchcord_testkit::{Namespace, NetlinkPeer, Process, in_namespace, wait_until};
use uuid::Uuid;

use player::{INSTANCE, Role, play};

/// `RTM_SETLINK` for the port below on link 2, eth0, without sequence number, port and operation.
const REQUEST: &str = "9c00000013000500\
    00000000020000000000000000000000\
    090003006574683000000000\
    400016003c00010028000100ffffffff525400c73ece0000000000000000000000000000000000000000000000000000\
    10000200ffffffff0300000000000000\
    300018002c0001000c0003000c56341201000000\
    14000400fa9b7fffb0a048938e0ebeef4ff18f8f05000600";
/// `RTM_GETLINK` for link 2.
const QUESTION: &str = "200000001200050000000000020000000000000000000000";

fn uplink() -> Uplink {
    Uplink { name: LinkName::new("eth0").unwrap(), index: 2, vf: None }
}

fn guest() -> Guest {
    Guest {
        mac: MacAddr([0x52, 0x54, 0, 0xc7, 0x3e, 0xce]),
        vlan: 3,
        uuid: Uuid::from_u128(1),
        host: Uuid::from_u128(2),
    }
}

fn qbg() -> VirtualPort {
    VirtualPort {
        kind: Some(VirtualPortType::Qbg),
        manager_id: Some(12),
        type_id: Some(0x12_3456),
        type_id_version: Some(1),
        instance_id: Some(INSTANCE),
        ..VirtualPort::default()
    }
}

fn port() -> Association {
    Association::new(uplink(), &qbg(), &guest()).unwrap()
}

fn within(time: Duration) -> Instant {
    Instant::now() + time
}

const LONG: Duration = Duration::from_secs(10);

/// Not a test: the process that plays lldpad, started by the tests below. It writes down what it received.
#[test]
#[ignore = "is the lldpad process of the other tests"]
fn lldpad_process() {
    let Ok(script) = std::env::var("SCRIPT") else { return };
    let mut log = fs::File::create(std::env::var_os("LOG").unwrap()).unwrap();
    let peer = NetlinkPeer::bind(std::process::id());
    writeln!(log, "ready").unwrap();
    play(&peer, Role::Lldpad, &script, |told| writeln!(log, "{told}").unwrap());
}

/// A running lldpad of ours, with its pid file.
struct Lldpad {
    directory: tempfile::TempDir,
    _process: Process,
}

impl Lldpad {
    fn start(ns: &Namespace, script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("lldpad");
        let test = std::env::current_exe().unwrap();
        if fs::hard_link(&test, &program).is_err() {
            fs::copy(&test, &program).unwrap();
        }
        let line = format!("{} --ignored --exact lldpad_process --nocapture", program.display());
        let mut command = ns.command(&line);
        command.env("SCRIPT", script).env("LOG", directory.path().join("log"));
        let process = Process::start(command);
        let mut text = format!("{}\n", process.id()).into_bytes();
        text.resize(32, 0);
        fs::write(directory.path().join("pid"), text).unwrap();
        let lldpad = Self { directory, _process: process };
        wait_until("the player", LONG, || if lldpad.log().starts_with("ready\n") { Ok(()) } else { Err("not ready") });
        lldpad
    }

    fn pid_file(&self) -> PathBuf {
        self.directory.path().join("pid")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// What it received: `?` a question, or a request's operation. All bytes of both are compared.
    fn received(&self) -> String {
        let short = |line: &str| match line.strip_prefix(REQUEST) {
            Some(operation) => operation.strip_suffix("000000").unwrap().trim_start_matches('0').to_owned(),
            None => {
                assert_eq!(line, QUESTION);
                "?".to_owned()
            }
        };
        self.log().lines().skip(1).map(short).collect::<Vec<_>>().join(" ")
    }
}

/// Associates with an lldpad that plays this script, and gives the outcome, what lldpad received, and the time it took.
fn played(ns: &Namespace, script: &str, patience: Duration) -> (Result<(), Error>, String, Duration) {
    let lldpad = Lldpad::start(ns, script);
    let start = Instant::now();
    let outcome = associate(&port(), &lldpad.pid_file(), start + patience);
    (outcome, lldpad.received(), start.elapsed())
}

#[test]
fn a_port_is_associated_when_the_switch_has_decided() {
    in_namespace(|ns| {
        let (outcome, received, took) = played(ns, "ack progress progress code:0", LONG);
        outcome.unwrap();
        assert_eq!(received, "2 ? ? ?");
        assert!(took >= Duration::from_millis(200), "{took:?}");
    });
}

#[test]
fn what_a_port_will_take_is_reserved() {
    in_namespace(|ns| {
        let lldpad = Lldpad::start(ns, "ack progress code:0");
        reserve(&port(), &lldpad.pid_file(), within(LONG)).unwrap();
        assert_eq!(lldpad.received(), "1 ? ?");
    });
}

#[test]
fn every_failure_is_named_and_nothing_is_left() {
    let cases = [
        (1, "the switch can't read the request", "same version of VDP"),
        (2, "the switch has no resources left for it", "free some"),
        (3, "the switch doesn't know the type, or can't reach its VSI manager", "compare the virtualport's"),
        (4, "the type is not allowed here, or the switch has other reasons", "compare the virtualport's"),
        (5, "the switch doesn't have this version of the type, or refuses", "compare the virtualport's"),
        (6, "the switch is out of step", "what the switch logs"),
        (252, "the switch withdrew it", "what the switch logs"),
        (253, "the switch didn't answer in time", "what the switch logs"),
        (258, "the driver calls the request invalid", "compare the virtualport's"),
        (259, "the driver can't do that in the port's present state", "the kernel's log"),
        (260, "the switch or the device has no resources left", "free some"),
        (261, "the driver reports an error", "the kernel's log"),
        (99, "the answer has no known meaning", "what the switch logs"),
    ];
    in_namespace(|ns| {
        for (code, words, help) in cases {
            let (outcome, received, _) = played(ns, &format!("ack progress code:{code} none"), LONG);
            let error = outcome.unwrap_err().to_string();
            let object = "eth0: 802.1Qbg type 1193046 version 1 of manager 12, instance \
                fa9b7fff-b0a0-4893-8e0e-beef4ff18f8f: ";
            assert!(error.starts_with(&format!("{object}{words}")), "{error}");
            assert!(error.contains(&format!("(response {code})")) && error.contains(help), "{error}");
            assert_eq!(received, "2 ? ? ?", "lldpad has forgotten it and must not be asked to end it");
        }
        let (outcome, received, _) = played(ns, "ack code:4 code:4 ack", LONG);
        assert_eq!(received, "2 ? ? 3", "lldpad knows it still");
        assert!(matches!(outcome, Err(Error::Association { left: None, .. })), "{outcome:?}");
    });
}

#[test]
fn what_the_switch_does_not_decide_in_time_is_taken_back() {
    in_namespace(|ns| {
        let (outcome, received, took) = played(ns, "ack waiting ack", Duration::from_millis(550));
        let error = outcome.unwrap_err();
        assert!(error.to_string().contains(": the switch did not decide in time; see "), "{error}");
        assert!(matches!(error, Error::Association { left: None, .. }), "{error:?}");
        assert!(received.starts_with("2 ? ?") && received.ends_with("? 3"), "{received}");
        assert!(took < Duration::from_secs(5), "{took:?}");

        let (outcome, received, _) = played(ns, "ack progress none", LONG);
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(": lldpad has dropped it: the switch did not answer"), "{error}");
        assert_eq!(received, "2 ? ? ?");
    });
}

#[test]
fn an_lldpad_that_refuses_hangs_or_is_elsewhere_is_named() {
    in_namespace(|ns| {
        let (outcome, received, _) = played(ns, "errno:6", LONG);
        let error = outcome.unwrap_err();
        assert!(error.to_string().contains(": lldpad does not speak VDP there; its link must be up, "), "{error}");
        assert_eq!((error.errno(), received.as_str()), (Some(rustix::io::Errno::NXIO), "2"));

        let (outcome, received, took) = played(ns, "silence", Duration::from_millis(300));
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(": lldpad does not answer; see whether lldpad runs"), "{error}");
        assert!(error.ends_with("; it could not be taken back: lldpad does not answer"), "{error}");
        assert_eq!(received, "2 ?", "whether it took the request is unknown");
        assert!(took < Duration::from_secs(5), "{took:?}");

        let elsewhere = Lldpad::start(&ns.peer("elsewhere"), "ack");
        let error = associate(&port(), &elsewhere.pid_file(), within(LONG)).unwrap_err().to_string();
        assert!(error.contains(": lldpad does not listen in this network namespace; run it where"), "{error}");
        assert_eq!(elsewhere.received(), "");

        let absent = tempfile::tempdir().unwrap();
        let error = associate(&port(), &absent.path().join("pid"), within(LONG)).unwrap_err();
        assert!(matches!(error, Error::NoLldpad { .. }), "{error:?}");
    });
}

#[test]
fn an_association_is_ended_once() {
    in_namespace(|ns| {
        let cases =
            [("code:0 ack progress none", "? 3 ? ?"), ("code:0 ack code:0", "? 3 ?"), ("none", "?"), ("errno:19", "?")];
        for (script, expected) in cases {
            let lldpad = Lldpad::start(ns, script);
            disassociate(&port(), &lldpad.pid_file(), within(LONG)).unwrap();
            assert_eq!(lldpad.received(), expected, "{script}");
        }
        let lldpad = Lldpad::start(ns, "code:0 ack code:6");
        let error = disassociate(&port(), &lldpad.pid_file(), within(LONG)).unwrap_err().to_string();
        assert!(error.contains(": the switch is out of step (response 6); "), "{error}");
    });
}

#[test]
fn a_device_whose_driver_has_no_port_profiles_says_so() {
    in_namespace(|ns| {
        ns.run("ip link add eth0 type veth peer name eth1");
        let index = ns.json("ip -j link show dev eth0")[0]["ifindex"].as_u64().unwrap() as u32;
        let virtualport = VirtualPort {
            kind: Some(VirtualPortType::Qbh),
            profile_id: Some("gold".to_owned()),
            ..VirtualPort::default()
        };
        let nowhere = PathBuf::from("/nonexistent");
        for vf in [None, Some(3)] {
            let port = Association::new(Uplink { index, vf, ..uplink() }, &virtualport, &guest()).unwrap();
            let error = associate(&port, &nowhere, within(LONG)).unwrap_err();
            let expected = "eth0: 802.1Qbh profile 'gold': its driver has no port profiles; 802.1Qbh needs a device whose \
                driver has (Cisco's enic)";
            assert_eq!(error.to_string(), expected);
            assert_eq!(error.errno(), Some(rustix::io::Errno::OPNOTSUPP));
            let gone = Association::new(Uplink { index: 4711, vf, ..uplink() }, &virtualport, &guest()).unwrap();
            disassociate(&gone, &nowhere, within(LONG)).unwrap();
        }
    });
}

#[test]
fn what_is_missing_in_a_virtualport_is_named() {
    let qbh = VirtualPort { kind: Some(VirtualPortType::Qbh), ..VirtualPort::default() };
    let cases = [
        (VirtualPort { manager_id: None, ..qbg() }, "802.1Qbg: its managerid"),
        (VirtualPort { type_id: None, ..qbg() }, "802.1Qbg: its typeid "),
        (VirtualPort { type_id: Some(1 << 24), ..qbg() }, "802.1Qbg: its typeid "),
        (VirtualPort { type_id_version: None, ..qbg() }, "802.1Qbg: its typeidversion"),
        (VirtualPort { instance_id: None, ..qbg() }, "802.1Qbg: its instanceid"),
        (VirtualPort { profile_id: Some("x".repeat(40)), ..qbh.clone() }, "802.1Qbh: its profileid"),
        (qbh, "802.1Qbh: its profileid"),
        (VirtualPort { kind: Some(VirtualPortType::OpenVSwitch), ..qbg() }, "openvswitch: its type"),
        (VirtualPort::default(), "without a type: its type"),
    ];
    for (port, expected) in cases {
        let error = Association::new(uplink(), &port, &guest()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("eth0: virtualport {expected}")), "{error}");
    }
}
