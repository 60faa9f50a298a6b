//! Addresses, routes and forwarding entries on a real kernel, looked at with iproute2's eyes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::net::{IpAddr, Ipv4Addr};

use common::{bridge, in_new_namespace, json, run, veth};
use patchcord_netlink::{AddressFilter, FdbChange, LinkChange, NewAddress, NewRoute, RouteFilter, Socket, TABLE_MAIN};

const OURS: u8 = 88;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn address(index: u32, text: &str, prefix: u8) -> NewAddress {
    NewAddress {
        index,
        address: ip(text),
        prefix,
        broadcast: None,
        nodad: false,
        no_prefix_route: false,
        protocol: Some(OURS),
    }
}

#[test]
fn addresses_come_and_go() {
    if !in_new_namespace("addresses_come_and_go") {
        return;
    }
    let mut socket = Socket::open().unwrap();
    let index = bridge(&mut socket, "b");
    let other = bridge(&mut socket, "other");
    let broadcast = Some(Ipv4Addr::new(192, 168, 122, 255));
    let v4 = NewAddress { broadcast, ..address(index, "192.168.122.1", 24) };
    let v6 = NewAddress { nodad: true, ..address(index, "fd00:1::1", 64) };
    socket.add_address(&v4).unwrap();
    socket.add_address(&v6).unwrap();
    socket.add_address(&address(other, "10.0.0.1", 8)).unwrap();
    assert!(socket.add_address(&v4).unwrap_err().is_exists());

    let seen = json("ip", &["-j", "addr", "show", "dev", "b"]);
    let seen = seen[0]["addr_info"].as_array().unwrap();
    let of = |family: &str, scope: &str| seen.iter().find(|a| a["family"] == family && a["scope"] == scope).unwrap();
    assert_eq!(of("inet", "global")["local"], "192.168.122.1");
    assert_eq!(of("inet", "global")["prefixlen"], 24);
    assert_eq!(of("inet", "global")["broadcast"], "192.168.122.255");
    assert_eq!(of("inet6", "global")["local"], "fd00:1::1");
    assert_eq!(of("inet6", "global")["nodad"], true);

    let list = socket.addresses(AddressFilter { index: Some(index) }).unwrap();
    assert!(list.entries.iter().all(|a| a.index == index && !a.partly_read));
    let read = list.entries.iter().find(|a| a.address == v4.address).unwrap();
    assert_eq!((read.prefix, read.broadcast, read.protocol, read.scope), (24, broadcast, OURS, 0));
    let read = list.entries.iter().find(|a| a.address == v6.address).unwrap();
    assert_eq!((read.prefix, read.tentative, read.permanent, read.protocol), (64, false, true, OURS));
    let all = socket.addresses(AddressFilter::default()).unwrap();
    assert!(all.entries.iter().any(|a| a.index == other));

    for gone in [&v4, &v6] {
        socket.delete_address(index, gone.address, gone.prefix).unwrap();
        assert!(socket.delete_address(index, gone.address, gone.prefix).unwrap_err().is_not_found());
    }
    assert!(!run("ip", &["addr", "show", "dev", "b"]).contains("192.168.122.1"));
    assert!(socket.addresses(AddressFilter { index: Some(4711) }).unwrap_err().is_not_found());
}

#[test]
fn routes_come_and_go() {
    if !in_new_namespace("routes_come_and_go") {
        return;
    }
    let mut socket = Socket::open().unwrap();
    let (a, b) = veth(&mut socket, "a", "b");
    for end in [a, b] {
        socket.set_link(end, &LinkChange { up: Some(true), ..Default::default() }).unwrap();
    }
    socket.add_address(&address(a, "192.168.5.1", 24)).unwrap();
    socket.add_address(&NewAddress { nodad: true, ..address(a, "fd00:5::1", 64) }).unwrap();
    let route = |destination: &str, prefix, gateway: Option<&str>, metric| NewRoute {
        destination: ip(destination),
        prefix,
        gateway: gateway.map(ip),
        link: a,
        metric,
        protocol: OURS,
    };
    let routes = [
        route("10.20.0.0", 16, Some("192.168.5.2"), Some(7)),
        route("0.0.0.0", 0, Some("192.168.5.3"), None),
        route("172.16.0.0", 12, None, None),
        route("fd00:6::", 64, Some("fd00:5::2"), None),
    ];
    for route in &routes {
        socket.add_route(route).unwrap();
        assert!(socket.add_route(route).unwrap_err().is_exists());
    }
    let seen = json("ip", &["-j", "route", "show", "proto", "88"]);
    let seen = seen.as_array().unwrap();
    assert_eq!(seen.len(), 3, "{seen:?}");
    let with = |dst: &str| seen.iter().find(|r| r["dst"] == dst).unwrap();
    assert_eq!(with("10.20.0.0/16")["gateway"], "192.168.5.2");
    assert_eq!(with("10.20.0.0/16")["metric"], 7);
    assert_eq!(with("default")["gateway"], "192.168.5.3");
    assert_eq!(with("172.16.0.0/12")["scope"], "link");
    assert_eq!(json("ip", &["-j", "-6", "route", "show", "proto", "88"])[0]["dst"], "fd00:6::/64");

    let ours = socket.routes(RouteFilter { protocol: Some(OURS), ..Default::default() }).unwrap();
    assert_eq!(ours.entries.len(), 4, "{ours:?}");
    let read = ours.entries.iter().find(|r| r.prefix == 16).unwrap();
    assert_eq!(
        (read.destination, read.gateway, read.link, read.metric),
        (ip("10.20.0.0"), Some(ip("192.168.5.2")), Some(a), 7)
    );
    assert_eq!((read.table, read.kind, read.partly_read), (TABLE_MAIN, 1, false));
    let main = socket.routes(RouteFilter { table: Some(TABLE_MAIN), ..Default::default() }).unwrap();
    assert!(main.entries.iter().all(|r| r.table == TABLE_MAIN));
    assert!(main.entries.iter().any(|r| r.destination == ip("192.168.5.0") && r.protocol == 2 && r.link == Some(a)));
    assert!(socket.routes(RouteFilter { table: Some(31337), ..Default::default() }).unwrap().entries.is_empty());

    for route in &routes {
        socket.delete_route(route).unwrap();
        assert!(socket.delete_route(route).unwrap_err().is_not_found());
    }
    assert_eq!(json("ip", &["-j", "route", "show", "proto", "88"]).as_array().unwrap().len(), 0);
}

#[test]
fn a_multipath_route_tells_its_first_hop() {
    if !in_new_namespace("a_multipath_route_tells_its_first_hop") {
        return;
    }
    let mut socket = Socket::open().unwrap();
    let (a, b) = veth(&mut socket, "a", "b");
    for end in [a, b] {
        socket.set_link(end, &LinkChange { up: Some(true), ..Default::default() }).unwrap();
    }
    socket.add_address(&address(a, "192.168.5.1", 24)).unwrap();
    let hops = ["nexthop", "via", "192.168.5.2", "dev", "a", "nexthop", "via", "192.168.5.3", "dev", "a"];
    run("ip", &[&["route", "add", "10.9.0.0/16"][..], &hops].concat());
    let routes = socket.routes(RouteFilter { table: Some(TABLE_MAIN), ..Default::default() }).unwrap();
    let read = routes.entries.iter().find(|r| r.destination == ip("10.9.0.0")).unwrap();
    assert_eq!((read.link, read.gateway), (Some(a), Some(ip("192.168.5.2"))));
}

#[test]
fn forwarding_entries_come_and_go() {
    if !in_new_namespace("forwarding_entries_come_and_go") {
        return;
    }
    let mut socket = Socket::open().unwrap();
    let bridge = bridge(&mut socket, "b");
    let (port, _) = veth(&mut socket, "p", "q");
    socket.set_link(port, &LinkChange { controller: Some(Some(bridge)), ..Default::default() }).unwrap();
    let entry = FdbChange { port, mac: [0x52, 0x54, 0, 0, 0, 7], vlan: None, own: false };
    socket.add_fdb(&entry).unwrap();
    assert!(socket.add_fdb(&entry).unwrap_err().is_exists());
    let seen = json("bridge", &["-j", "fdb", "show", "dev", "p"]);
    let seen = seen.as_array().unwrap().iter().find(|e| e["mac"] == "52:54:00:00:00:07").unwrap().clone();
    assert_eq!(seen["state"], "static");
    assert_eq!(seen["master"], "b");
    let list = socket.fdb(Some(port)).unwrap();
    assert!(list.entries.iter().all(|e| e.port == port));
    let read = list.entries.iter().find(|e| e.mac == entry.mac).unwrap();
    assert_eq!((read.bridge, read.fixed, read.local, read.own), (Some(bridge), true, false, false));
    assert!(socket.fdb(None).unwrap().entries.len() >= list.entries.len());
    socket.delete_fdb(&entry).unwrap();
    assert!(socket.delete_fdb(&entry).unwrap_err().is_not_found());
}
