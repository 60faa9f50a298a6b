//! Port profiles: a peer that plays lldpad, and a kernel whose links have none.
#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

use std::io;
use std::time::{Duration, Instant};

use patchcord_netlink::portprofile::{Lldpad, Operation, Profile, ProfileName, Response, TypeId, Vsi};
use patchcord_netlink::{Error, Request, Socket};
use patchcord_testkit::{NetlinkPeer, in_namespace};

const INSTANCE: [u8; 16] = *b"\xfa\x9b\x7f\xff\xb0\xa0\x48\x93\x0e\x0e\xbe\xef\x4f\xf1\x8f\x8f";
const EOPNOTSUPP: i32 = 95;
const ENXIO: i32 = 6;
const ECONNREFUSED: i32 = 111;
const NLMSG_DONE: u16 = 3;

/// What lldpad 1.1 answered about one port, after the netlink header: under way, taken, refused for its type, gone.
const UNDER_WAY: &str = "00000000020000000000000000000000240018802000018014000400\
    fa9b7fffb0a048930e0ebeef4ff18f8f08000100ffffffff";
const TAKEN: &str = "000000000200000000000000000000002c0018802800018014000400\
    fa9b7fffb0a048930e0ebeef4ff18f8f08000100ffffffff0600070000000000";
const REFUSED: &str = "000000000200000000000000000000002c0018802800018014000400\
    fa9b7fffb0a048930e0ebeef4ff18f8f08000100ffffffff0600070004000000";
const GONE: &str = "00000000020000000000000000000000";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn vsi() -> Vsi {
    Vsi {
        manager_id: 12,
        type_id: TypeId::new(0x12_3456).unwrap(),
        type_id_version: 1,
        instance: INSTANCE,
        mac: [0x52, 0x54, 0, 0xc7, 0x3e, 0xce],
        vlan: 3,
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// A request's length, type and flags, and what follows its sequence number and port. Those are checked here.
fn split(message: &[u8], from: u32) -> (&[u8], &[u8]) {
    assert_ne!(message[8..12], [0; 4], "a request has a number");
    assert_eq!(message[12..16], from.to_ne_bytes(), "lldpad keeps the port that is written in a request");
    (&message[..8], &message[16..])
}

/// Runs a test with a peer on a thread of its own, which does `play` and must have come to its end.
fn with_peer(play: impl FnOnce(&NetlinkPeer) + Send, test: impl FnOnce(&mut Lldpad)) {
    let peer = NetlinkPeer::bind(0);
    let mut lldpad = Lldpad::open(peer.port()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| play(&peer));
        test(&mut lldpad);
    });
}

#[test]
fn lldpad_is_asked_with_these_bytes() {
    // struct nlmsghdr's first half; ifinfomsg, index 2; name; IFLA_VFINFO_LIST with the MAC and VLAN 3; IFLA_VF_PORTS with
    // manager, type and version, instance, and the operation.
    let head = "9c00000013000500";
    let body = "00000000020000000000000000000000090003006574683000000000\
        400016003c00010028000100ffffffff525400c73ece0000000000000000000000000000000000000000000000000000\
        10000200ffffffff0300000000000000\
        300018002c0001000c0003000c5634120100000014000400fa9b7fffb0a048930e0ebeef4ff18f8f05000600";
    let operations = [
        (Operation::PreAssociate, "00"),
        (Operation::PreAssociateReserving, "01"),
        (Operation::Associate, "02"),
        (Operation::Disassociate, "03"),
    ];
    in_namespace(|_| {
        let play = |peer: &NetlinkPeer| {
            for (_, number) in operations {
                let (request, from) = peer.receive();
                let expected = bytes(&format!("{body}{number}000000"));
                assert_eq!(split(&request, from), (&bytes(head)[..], &expected[..]));
                peer.acknowledge(from, &request, 0);
            }
            let (request, from) = peer.receive();
            let expected = ("2000000012000500", "00000000020000000000000000000000");
            assert_eq!(split(&request, from), (&bytes(expected.0)[..], &bytes(expected.1)[..]));
            peer.answer(from, &request, NLMSG_DONE, &bytes(GONE));
        };
        with_peer(play, |lldpad| {
            for (operation, _) in operations {
                lldpad.request((2, "eth0"), operation, &vsi(), soon()).unwrap();
            }
            lldpad.response(2, &INSTANCE, soon()).unwrap();
        });
    });
}

#[test]
fn answers_of_lldpad_are_read() {
    in_namespace(|_| {
        let play = |peer: &NetlinkPeer| {
            for answer in [UNDER_WAY, TAKEN, REFUSED, GONE] {
                let (request, from) = peer.receive();
                peer.answer(from, &request, NLMSG_DONE, &bytes(answer));
            }
            let (request, from) = peer.receive();
            peer.answer(from, &request, NLMSG_DONE, &bytes(TAKEN));
            for _ in 0..2 {
                let (request, from) = peer.receive();
                peer.acknowledge(from, &request, ENXIO);
            }
        };
        with_peer(play, |lldpad| {
            let mut ask = |instance: &[u8; 16]| lldpad.response(2, instance, soon());
            assert_eq!(ask(&INSTANCE).unwrap(), Some(Response::InProgress));
            assert_eq!(ask(&INSTANCE).unwrap(), Some(Response::Success));
            let Some(Response::Failed(failure)) = ask(&INSTANCE).unwrap() else { panic!("it was refused") };
            assert_eq!(failure.code(), 4);
            assert_eq!(
                failure.to_string(),
                "the type is not allowed here, or the switch has other reasons (response 4)"
            );
            assert_eq!(ask(&INSTANCE).unwrap(), None);
            assert_eq!(ask(&[1; 16]).unwrap(), None, "that is another's");
            assert_eq!(ask(&INSTANCE).unwrap_err().errno(), Some(ENXIO));
            let error = lldpad.request((2, "eth0"), Operation::Associate, &vsi(), soon()).unwrap_err();
            assert!(matches!(&error, Error::Kernel { .. }) && error.errno() == Some(ENXIO), "{error}");
        });
    });
}

fn is_late(error: &Error) -> bool {
    match error {
        Error::Send { source, .. } | Error::Receive { source, .. } => source.kind() == io::ErrorKind::TimedOut,
        _ => false,
    }
}

#[test]
fn silence_ends_at_the_deadline_and_a_late_answer_counts_for_nothing() {
    in_namespace(|_| {
        let (told, heard) = std::sync::mpsc::channel();
        let play = move |peer: &NetlinkPeer| {
            let (first, from) = peer.receive();
            heard.recv().unwrap();
            let (second, _) = peer.receive();
            peer.answer(from, &first, NLMSG_DONE, &bytes(TAKEN));
            peer.answer(from, &second, NLMSG_DONE, &bytes(UNDER_WAY));
        };
        with_peer(play, |lldpad| {
            let patience = Duration::from_millis(200);
            let start = Instant::now();
            let error = lldpad.response(2, &INSTANCE, start + patience).unwrap_err();
            assert!(is_late(&error), "{error}");
            assert!(start.elapsed() >= patience, "{:?}", start.elapsed());
            told.send(()).unwrap();
            assert_eq!(lldpad.response(2, &INSTANCE, soon()).unwrap(), Some(Response::InProgress));
        });
    });
}

#[test]
fn an_lldpad_that_reads_nothing_keeps_nobody_waiting() {
    in_namespace(|_| {
        let peer = NetlinkPeer::bind(0);
        peer.limit(4096);
        let mut lldpad = Lldpad::open(peer.port()).unwrap();
        let requests = (0..100).map(|_| {
            let deadline = Instant::now() + Duration::from_millis(5);
            lldpad.request((2, "eth0"), Operation::Associate, &vsi(), deadline).unwrap_err()
        });
        let errors: Vec<Error> = requests.collect();
        assert!(errors.iter().all(is_late), "{errors:?}");
        assert!(matches!(errors.last(), Some(Error::Send { .. })), "its buffer should be full by now");
    });
}

#[test]
fn nobody_else_is_heard_and_nobody_there_is_noticed() {
    in_namespace(|_| {
        let stranger = NetlinkPeer::bind(0);
        let play = |peer: &NetlinkPeer| {
            let (request, from) = peer.receive();
            let forged = stranger.send(from, &request);
            assert_eq!(forged.unwrap_err().raw_os_error(), Some(ECONNREFUSED));
            peer.answer(from, &request, NLMSG_DONE, &bytes(UNDER_WAY));
        };
        with_peer(play, |lldpad| {
            assert_eq!(lldpad.response(2, &INSTANCE, soon()).unwrap(), Some(Response::InProgress));
        });
        let gone = NetlinkPeer::bind(0).port();
        let mut lldpad = Lldpad::open(gone).unwrap();
        let error = lldpad.response(2, &INSTANCE, soon()).unwrap_err();
        assert!(matches!(&error, Error::Send { .. }) && error.errno() == Some(ECONNREFUSED), "{error}");
    });
}

#[test]
fn a_link_that_has_no_port_profiles_refuses_them() {
    in_namespace(|ns| {
        ns.run("ip link add v0 type veth peer name v1");
        let mut socket = Socket::open().unwrap();
        let index = socket.link_by_name("v0").unwrap().unwrap().index;
        let profile = Profile {
            name: ProfileName::new("gold").unwrap(),
            instance: INSTANCE,
            host: [7; 16],
            mac: [0x52, 0x54, 0, 1, 2, 3],
        };
        for vf in [None, Some(0)] {
            for operation in [Operation::Associate, Operation::Disassociate] {
                let request = Request::port_profile(index, vf, operation, &profile);
                let error = socket.execute(&request).unwrap_err();
                assert_eq!(error.errno(), Some(EOPNOTSUPP), "{vf:?} {operation:?}: {error}");
            }
            assert_eq!(socket.port_profile(index, vf).unwrap(), None);
            assert_eq!(socket.port_profile(4711, vf).unwrap(), None, "there is no such link");
        }
    });
}
