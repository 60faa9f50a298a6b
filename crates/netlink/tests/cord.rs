//! Redirects between a tap and macvlans, with frames that pass, looked at with tc's eyes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::time::Duration;

use common::index;
use patchcord_netlink::tc::{Action, ActionKind, Handle, Redirect};
use patchcord_netlink::{Hint, LINK_GROUPS, LinkChange, MacvlanMode, MacvlanSpec, Monitor, Request, Socket};
use patchcord_testkit::{Guest, Namespace, create_tap, in_namespace};
use serde_json::Value;

const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const COOKIE: [u8; 16] = *b"patchcord:cord:1";
const PRIORITY: NonZeroU16 = NonZeroU16::new(7).unwrap();
const SOON: Duration = Duration::from_secs(10);

fn all(socket: &mut Socket, requests: &[Request]) {
    socket.execute_all(requests).unwrap().into_iter().collect::<Result<(), _>>().unwrap();
}

/// The filters of a link as tc sees them, priorities and hash tables left out.
fn tc_filters(ns: &Namespace, link: &str) -> Vec<Value> {
    let filters = ns.json(&format!("tc -j filter show dev {link} ingress"));
    let filters = filters.as_array().unwrap().clone();
    filters.into_iter().filter(|filter| !filter["options"]["actions"].is_null()).collect()
}

/// A macvlan with the guest's address on a link that leads to a namespace with this address. Nothing joins it to the
/// guest yet but the way back: from the macvlan to the tap.
fn macvlan(ns: &Namespace, socket: &mut Socket, number: u8, tap: u32) -> u32 {
    let far = ns.peer(&format!("far{number}"));
    ns.veth(&format!("x{number}"), &far, "y");
    far.run(&format!("ip addr add 192.0.2.{number}/24 dev y"));
    let spec = MacvlanSpec {
        name: format!("pcm{number}"),
        lower: index(socket, &format!("x{number}")),
        mode: MacvlanMode::Vepa,
        tap: false,
        mac: Some(MAC),
        mtu: None,
        group: 0,
        alias: None,
    };
    let macvlan = socket.make_macvlan(&spec).unwrap();
    let back = Redirect { link: macvlan, priority: PRIORITY, to: tap, cookie: COOKIE };
    let up = LinkChange { up: Some(true), addr_gen_none: Some(true), ..Default::default() };
    let mut requests = vec![Request::add_clsact(macvlan), Request::redirect(&back)];
    requests.extend(Request::set_link(macvlan, &up));
    all(socket, &requests);
    macvlan
}

fn address(number: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, number).into()
}

#[test]
fn a_guest_goes_out_by_a_cord_and_by_another_after_a_replacement() {
    in_namespace(|ns| {
        let mut socket = Socket::open().unwrap();
        let mut guest = Guest::new(create_tap("pct0").unwrap(), MAC, 10).unwrap();
        guest.set_static(address(99), 24, None);
        let tap = index(&mut socket, "pct0");
        let first = macvlan(ns, &mut socket, 1, tap);
        let second = macvlan(ns, &mut socket, 2, tap);

        let mut redirect = Redirect { link: tap, priority: PRIORITY, to: first, cookie: COOKIE };
        all(&mut socket, &[Request::add_clsact(tap), Request::redirect(&redirect)]);
        guest.ping(address(1), SOON).unwrap();
        assert!(guest.ping(address(2), Duration::from_millis(300)).is_err());

        redirect.to = second;
        socket.redirect(&redirect).unwrap();
        guest.ping(address(2), SOON).unwrap();
        let filters = tc_filters(ns, "pct0");
        let [filter] = &filters[..] else { panic!("{filters:?}") };
        assert_eq!((&filter["pref"], &filter["protocol"], &filter["kind"]), (&7.into(), &"all".into(), &"u32".into()));
        assert_eq!(filter["options"]["fh"], "800::2");
        let action = &filter["options"]["actions"][0];
        assert_eq!((&action["mirred_action"], &action["direction"]), (&"redirect".into(), &"egress".into()));
        assert_eq!((&action["to_dev"], &action["control_action"]["type"]), (&"pcm2".into(), &"stolen".into()));
        let cookie: String = COOKIE.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(action["cookie"], cookie);

        socket.delete_filter(tap, PRIORITY).unwrap();
        assert!(tc_filters(ns, "pct0").is_empty());
        assert!(guest.ping(address(2), Duration::from_millis(300)).is_err());
        assert!(socket.delete_filter(tap, PRIORITY).unwrap_err().is_not_found());
    });
}

#[test]
fn filters_are_read_whoever_made_them() {
    in_namespace(|ns| {
        let mut socket = Socket::open().unwrap();
        ns.run("ip link add va type veth peer name vb");
        ns.run("ip link add vc type veth peer name vd");
        let (link, to) = (index(&mut socket, "va"), index(&mut socket, "vc"));
        assert!(socket.ingress_filters(link).unwrap().entries.is_empty());
        assert!(socket.ingress_filters(4711).unwrap().entries.is_empty());

        socket.add_clsact(link).unwrap();
        assert!(socket.add_clsact(link).unwrap_err().is_exists());
        assert!(socket.ingress_filters(link).unwrap().entries.is_empty());
        socket.redirect(&Redirect { link, priority: PRIORITY, to, cookie: COOKIE }).unwrap();
        ns.run(
            "tc filter add dev va ingress prio 9 protocol ip u32 match u32 0 0 action mirred egress mirror dev vd \
             action mirred egress redirect dev vc cookie a1b2",
        );
        let filters = socket.ingress_filters(link).unwrap();
        assert!(filters.consistent);
        let [ours, theirs] = &filters.entries[..] else { panic!("{filters:?}") };
        assert_eq!((ours.link, ours.parent, ours.priority), (link, Handle::INGRESS, 7));
        assert_eq!((ours.kind.as_str(), ours.handle), ("u32", 0x8000_0002));
        let redirect = |cookie: &[u8]| Action { kind: ActionKind::Redirect { to }, cookie: Some(cookie.to_vec()) };
        assert_eq!(ours.actions, [redirect(&COOKIE)]);
        assert_eq!((theirs.priority, theirs.kind.as_str()), (9, "u32"));
        let mirror = Action { kind: ActionKind::Other("mirred".to_owned()), cookie: None };
        assert_eq!(theirs.actions, [mirror, redirect(&[0xa1, 0xb2])]);

        // A target that is gone.
        ns.run("ip link del vc");
        let filters = socket.ingress_filters(link).unwrap().entries;
        assert_eq!(filters[0].actions[0].kind, ActionKind::Redirect { to: 0 });

        socket.delete_filter(link, PRIORITY).unwrap();
        assert_eq!(socket.ingress_filters(link).unwrap().entries.len(), 1);
        assert_eq!(tc_filters(ns, "va").len(), 1);
        socket.delete_clsact(link).unwrap();
        assert!(socket.ingress_filters(link).unwrap().entries.is_empty());
        assert!(socket.delete_clsact(link).unwrap_err().errno().is_some());
    });
}

#[test]
fn qdiscs_are_those_that_tc_lists() {
    in_namespace(|ns| {
        let mut socket = Socket::open().unwrap();
        ns.run("ip link add va type veth peer name vb");
        ns.run("tc qdisc add dev va root handle 12: pfifo limit 10");
        ns.run("tc qdisc add dev vb root handle 1: htb");
        let (link, other) = (index(&mut socket, "va"), index(&mut socket, "vb"));
        socket.add_clsact(link).unwrap();
        let seen = ns.json("tc -j qdisc show dev va");
        assert_eq!((&seen[0]["kind"], &seen[0]["handle"]), (&"pfifo".into(), &"12:".into()));
        assert_eq!((&seen[1]["kind"], &seen[1]["parent"]), (&"clsact".into(), &"ffff:fff1".into()));

        let read = socket.qdiscs(Some(link)).unwrap().entries;
        let read: Vec<_> = read.iter().map(|q| (q.kind.as_str(), q.handle.to_string(), q.parent)).collect();
        assert_eq!(read, [("pfifo", "12:".to_owned(), Handle::ROOT), ("clsact", "ffff:".to_owned(), Handle::CLSACT)]);
        let all = socket.qdiscs(None).unwrap().entries;
        assert!(all.iter().any(|qdisc| qdisc.link == other && qdisc.kind == "htb"));
        assert!(socket.qdiscs(Some(4711)).unwrap().entries.is_empty());
    });
}

#[test]
fn changes_of_traffic_control_are_announced() {
    in_namespace(|ns| {
        let mut socket = Socket::open().unwrap();
        ns.run("ip link add va type veth peer name vb");
        let (link, to) = (index(&mut socket, "va"), index(&mut socket, "vb"));
        let mut monitor = Monitor::open(LINK_GROUPS).unwrap();
        let told = [Hint::Traffic { index: link }];
        let mut heard = |what: &str| assert_eq!(monitor.receive(Some(SOON)).unwrap(), told, "{what}");
        ns.run("tc qdisc add dev va clsact");
        heard("a qdisc");
        socket.redirect(&Redirect { link, priority: PRIORITY, to, cookie: COOKIE }).unwrap();
        heard("a filter");
        ns.run("tc filter del dev va ingress prio 7");
        heard("no filter");
        ns.run("tc chain add dev va ingress chain 5");
        heard("a chain");
        ns.run("tc qdisc del dev va clsact");
        heard("no qdisc");
        ns.run("tc qdisc add dev va root handle 1: htb");
        heard("another qdisc");
        ns.run("tc class add dev va parent 1: classid 1:1 htb rate 1mbit");
        heard("a class");
        ns.run("tc class del dev va classid 1:1");
        heard("no class");
        ns.run("tc actions add action mirred egress redirect dev vb");
        assert!(matches!(monitor.receive(Some(SOON)).unwrap()[..], [Hint::Resync { .. }]));
    });
}
