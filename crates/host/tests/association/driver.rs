//! Associations with a thread that plays a device's driver, in the kernel's place.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use patchcord_core::model::{VirtualPort, VirtualPortType};
use patchcord_host::Error;
use patchcord_host::association::{Association, Peers, Uplink, associate, disassociate};
use patchcord_testkit::{NetlinkPeer, in_namespace};
use rustix::io::Errno;

use crate::player::{Role, play};
use crate::{LONG, guest, uplink};

/// A port of each kind: a device's own, and that of a virtual function of it.
const PORTS: [Option<u32>; 2] = [None, Some(3)];

/// `RTM_GETLINK` for link 2, with `IFLA_EXT_MASK`: virtual functions, and no statistics.
const QUESTION: &str = "280000001200050000000000020000000000000000000000\
    08001d0009000000";

/// `RTM_SETLINK` for link 2, without its length: flags, `struct ifinfomsg`.
const SET: &str = "1300050000000000020000000000000000000000";
/// `IFLA_PORT_PROFILE`, gold, in all its room; `IFLA_PORT_INSTANCE_UUID`, the guest's; `IFLA_PORT_HOST_UUID`.
const DETAILS: &str = "2c000200676f6c64000000000000000000000000000000000000000000000000000000000000000000000000\
    1400040000000000000000000000000000000001\
    1400050000000000000000000000000000000002";
/// `IFLA_VFINFO_LIST`, `IFLA_VF_INFO` and `IFLA_VF_MAC` for VF 3.
const MAC: &str = "300016002c0001002800010003000000525400c73ece\
    0000000000000000000000000000000000000000000000000000";
/// `IFLA_PORT_VF` 3.
const VF: &str = "0800010003000000";

/// What is asked for the association of that port (`PORT_REQUEST_ASSOCIATE`), and for its end
/// (`PORT_REQUEST_DISASSOCIATE`): in `IFLA_PORT_SELF`, or in an `IFLA_VF_PORT` of `IFLA_VF_PORTS`.
fn requests(vf: Option<u32>) -> [String; 2] {
    let (associate, disassociate) = ("0500060002000000", "0500060003000000");
    match vf {
        None => [format!("80000000{SET}60001900{DETAILS}{associate}"), format!("2c000000{SET}0c001900{disassociate}")],
        Some(_) => [
            format!("bc000000{SET}{MAC}6c00180068000100{DETAILS}{VF}{associate}"),
            format!("38000000{SET}1800180014000100{VF}{disassociate}"),
        ],
    }
}

fn port(vf: Option<u32>) -> Association {
    let virtualport =
        VirtualPort { kind: Some(VirtualPortType::Qbh), profile_id: Some("gold".to_owned()), ..VirtualPort::default() };
    Association::new(Uplink { vf, ..uplink() }, &virtualport, &guest()).unwrap()
}

/// Asks a driver that plays this script, and gives the outcome and what the driver received: `?` a question, or a request's
/// operation. All bytes of both are compared.
fn asked(
    vf: Option<u32>,
    script: &str,
    ask: impl FnOnce(Peers<'_>) -> Result<(), Error>,
) -> (Result<(), Error>, String) {
    let (peer, stop) = (NetlinkPeer::bind(0), NetlinkPeer::bind(0));
    let log = Mutex::new(Vec::new());
    let nowhere = "/nonexistent".into();
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| play(&peer, Role::Driver { vf }, script, |told| log.lock().unwrap().push(told)));
        let outcome = ask(Peers { drivers: peer.port(), ..Peers::from(&nowhere) });
        stop.send(peer.port(), b"end").unwrap();
        outcome
    });
    let [associate, disassociate] = requests(vf);
    let short = |line: String| match line {
        line if line == associate => "2",
        line if line == disassociate => "3",
        line => {
            assert_eq!(line, QUESTION, "{vf:?} {script}");
            "?"
        }
    };
    let received = log.into_inner().unwrap().into_iter().map(short).collect::<Vec<_>>().join(" ");
    (outcome, received)
}

fn associated(vf: Option<u32>, script: &str, patience: Duration) -> (Result<(), Error>, String) {
    asked(vf, script, |peers| associate(&port(vf), peers, Instant::now() + patience))
}

#[test]
fn a_driver_is_asked_until_it_has_decided() {
    in_namespace(|_| {
        for vf in PORTS {
            let (outcome, received) = associated(vf, "ack code:256", LONG);
            outcome.unwrap();
            assert_eq!(received, "2 ?");
            let start = Instant::now();
            let (outcome, received) = associated(vf, "ack progress progress code:256", LONG);
            outcome.unwrap();
            assert_eq!(received, "2 ? ? ?");
            assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
        }
    });
}

#[test]
fn what_a_driver_refuses_is_named_and_taken_back() {
    let cases = [
        (258, "the driver calls the request invalid", "compare the virtualport's"),
        (259, "the driver can't do that in the port's present state", "the kernel's log"),
        (260, "the switch or the device has no resources left", "free some"),
        (261, "the driver reports an error", "the kernel's log"),
        (99, "the answer has no known meaning", "what the switch logs"),
    ];
    in_namespace(|_| {
        for (vf, (code, words, help)) in PORTS.into_iter().flat_map(|vf| cases.map(|case| (vf, case))) {
            let (outcome, received) = associated(vf, &format!("ack progress code:{code} ack"), LONG);
            let error = outcome.unwrap_err();
            assert!(matches!(error, Error::Association { left: None, .. }), "{error:?}");
            let error = error.to_string();
            assert!(error.starts_with(&format!("eth0: 802.1Qbh profile 'gold': {words}")), "{error}");
            assert!(error.contains(&format!("(response {code})")) && error.contains(help), "{error}");
            assert_eq!(received, "2 ? ? 3");
        }
        // A request that was not taken leaves nothing to take back.
        let (outcome, received) = associated(None, "errno:22", LONG);
        let error = outcome.unwrap_err();
        assert!(error.to_string().contains("'gold': its driver refuses it; see what the driver says"), "{error}");
        assert_eq!((error.errno(), received.as_str()), (Some(Errno::INVAL), "2"));
        let (outcome, received) = associated(Some(3), "ack code:261 errno:16", LONG);
        let error = outcome.unwrap_err().to_string();
        assert!(error.ends_with("; it could not be taken back: its driver refuses it"), "{error}");
        assert_eq!(received, "2 ? 3");
    });
}

#[test]
fn what_a_driver_does_not_decide_in_time_is_taken_back() {
    in_namespace(|_| {
        for vf in PORTS {
            let start = Instant::now();
            let (outcome, received) = associated(vf, "ack waiting ack", Duration::from_millis(550));
            let error = outcome.unwrap_err();
            assert!(error.to_string().contains(": the switch did not decide in time; see "), "{error}");
            assert!(matches!(error, Error::Association { left: None, .. }), "{error:?}");
            assert!(received.starts_with("2 ? ?") && received.ends_with("? 3"), "{received}");
            assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());

            let (outcome, received) = associated(vf, "ack progress none ack", LONG);
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains(": the driver has dropped it; see what the driver says"), "{error}");
            assert_eq!(received, "2 ? ? 3");
        }
    });
}

#[test]
fn a_driver_is_asked_to_end_what_it_was_asked_for() {
    in_namespace(|_| {
        let cases = [("ack progress none", "3 ? ?"), ("ack code:256", "3 ?"), ("ack none", "3 ?"), ("errno:19", "3")];
        for (vf, (script, expected)) in PORTS.into_iter().flat_map(|vf| cases.map(|case| (vf, case))) {
            let (outcome, received) = asked(vf, script, |peers| disassociate(&port(vf), peers, Instant::now() + LONG));
            outcome.unwrap();
            assert_eq!(received, expected, "{script}");
        }
        let ended = |script| asked(None, script, |peers| disassociate(&port(None), peers, Instant::now() + LONG));
        let error = ended("ack code:259").0.unwrap_err().to_string();
        assert!(error.contains(": the driver can't do that in the port's present state (response 259); "), "{error}");
    });
}
