//! NICs whose ports a switch gives a profile, through an lldpad that this test plays.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::lldpad::Lldpad;
use common::{Host, SOON, interface};
use patchcord_api::methods::{AttachNIC, ModifyNIC};
use patchcord_testkit::{Namespace, in_namespace, wait_until};
use std::fs;

/// The network of libvirt's 2011 design in vepa mode, whose virtualport says what is the same for all NICs.
const NETWORK: &str = "<network><name>red-network</name><forward mode='vepa'><interface dev='eth10'/></forward>
    <virtualport type='802.1Qbg'><parameters managerid='11' typeid='1193047' typeidversion='2'/></virtualport></network>";

/// And its NIC, which says the rest.
const NIC: &str = "<interface type='network'><source network='red-network'/><mac address='de:ad:be:ef:ca:fe'/>
    <virtualport><parameters instanceid='09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f'/></virtualport></interface>";

/// Not a test: the process that plays lldpad, started by the tests below.
#[test]
#[ignore = "is the lldpad process of the other tests"]
fn lldpad_process() {
    common::lldpad::play();
}

/// A host whose device eth10 leads to a switch, with a daemon that waits a second for it.
fn bed<'a>(ns: &'a Namespace, mode: &str) -> (Host<'a>, Lldpad, Namespace) {
    let switch = ns.peer("switch");
    ns.veth("eth10", &switch, "p0");
    ns.veth("eth11", &switch, "p1");
    let mut host = Host::without_daemon(ns);
    fs::create_dir_all(host.root.join("etc/patchcord")).unwrap();
    fs::create_dir_all(host.root.join("var/run")).unwrap();
    fs::write(host.root.join("etc/patchcord/patchcord.toml"), "[devices]\nassociation_timeout = 1\n").unwrap();
    let lldpad = Lldpad::start(&host, mode);
    host.start();
    host.network(NETWORK);
    host.network("<network><name>plain</name><forward mode='vepa'><interface dev='eth11'/></forward></network>");
    (host, lldpad, switch)
}

fn attach(xml: &str) -> AttachNIC {
    AttachNIC { guest: "web".into(), xml: xml.into(), ..AttachNIC::default() }
}

/// The request for the NIC above on eth10, with that index.
fn request(index: u32, operation: u8) -> String {
    let index: String = index.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "00000000{index}0000000000000000\
        0a0003006574683130000000\
        400016003c00010028000100ffffffffdeadbeefcafe0000000000000000000000000000000000000000000000000000\
        10000200ffffffff0000000000000000\
        300018002c0001000c0003000b57341202000000\
        1400040009b11c538b5c4eeb8f00d84eaa0aaa4f05000600{operation:02x}000000"
    )
}

#[test]
fn a_nic_is_associated_with_exactly_what_its_document_and_its_networks_say() {
    in_namespace(|ns| {
        let (host, lldpad, _switch) = bed(ns, "accept");
        let index = host.link("eth10").unwrap()["ifindex"].as_u64().unwrap() as u32;
        let nic = host.call(&attach(NIC)).nic;
        assert_eq!((nic.state.as_str(), nic.actual.dev.as_deref()), ("plugged", Some("eth10")));
        assert_eq!(lldpad.requests(), [request(index, 2)], "before the answer");
        // A NIC that says nothing has its id for an instance.
        let plain = host.call(&attach(&interface("red-network"))).nic;
        assert!(lldpad.requests()[1].contains(&plain.id.replace('-', "")));
        host.detach(&nic.id);
        assert_eq!(lldpad.requests()[2], request(index, 3));
        let moved = host.call(&ModifyNIC { id: plain.id.clone(), xml: interface("plain") }).nic;
        assert_eq!(moved.actual.dev.as_deref(), Some("eth11"));
        host.call(&ModifyNIC { id: plain.id.clone(), xml: interface("red-network") });
        host.detach(&plain.id);
        assert_eq!(lldpad.operations(), [2, 2, 3, 3, 2, 3]);
    });
}

#[test]
fn what_the_switch_refuses_or_does_not_answer_is_not_attached_and_leaves_nothing() {
    in_namespace(|ns| {
        let (host, lldpad, _switch) = bed(ns, "refuse");
        let before = host.state();
        let (name, refusal) = host.refused(&attach(NIC));
        assert!(name.ends_with("HostFailed"), "{name}");
        let says = "eth10: 802.1Qbg type 1193047 version 2 of manager 11, instance 09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f: \
            the type is not allowed here, or the switch has other reasons (response 4)";
        assert!(refusal.cause.contains(says), "{}", refusal.cause);
        assert_eq!(host.state(), before);
        lldpad.mode("silent");
        let (_, refusal) = host.refused(&attach(NIC));
        assert!(refusal.cause.contains(": lldpad does not answer; see "), "{}", refusal.cause);
        assert_eq!(host.state(), before);
        drop(lldpad);
        let (_, refusal) = host.refused(&attach(NIC));
        assert!(refusal.cause.contains("which does not run"), "{}", refusal.cause);
        assert_eq!(host.state(), before);
        let again = Lldpad::start(&host, "accept");
        assert_eq!(host.call(&attach(NIC)).nic.state, "plugged");
        assert_eq!(again.operations(), [2]);
    });
}

#[test]
fn a_daemon_that_is_killed_while_it_asks_leaves_nothing() {
    in_namespace(|ns| {
        let (mut host, lldpad, _switch) = bed(ns, "accept");
        let before = host.state();
        lldpad.mode("silent");
        let client = host.client();
        let asking = std::thread::spawn(move || {
            let mut client = client;
            client.call(&attach(NIC)).map(drop).map_err(|error| error.to_string())
        });
        wait_until("the request", SOON, || lldpad.operations().first().copied().ok_or("none"));
        host.kill();
        assert!(asking.join().unwrap().is_err());
        // It was taken after all.
        lldpad.mode("accept");
        host.start();
        let asked = |operations: &[u8]| {
            wait_until("the request", SOON, || match lldpad.operations() {
                got if got == operations => Ok(()),
                got => Err(format!("{got:?}")),
            });
        };
        asked(&[2, 3]);
        wait_until("the end of its record", SOON, || if host.state() == before { Ok(()) } else { Err(host.state()) });
        // And what lives on is asked for again.
        let nic = host.call(&attach(NIC)).nic;
        host.kill();
        host.start();
        asked(&[2, 3, 2, 2]);
        host.detach(&nic.id);
        asked(&[2, 3, 2, 2, 3]);
        assert_eq!(host.state(), before);
    });
}
