//! Links on a real kernel, looked at with iproute2's eyes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{bridge, in_new_namespace, ip_link, json, run, veth};
use patchcord_netlink::{
    BridgeOptions, BridgePort, BridgeSpec, Error, LinkChange, MacvlanMode, MacvlanSpec, Request, Socket,
};
use patchcord_testkit::skip;
use serde_json::Value;

#[test]
fn a_bridge_is_made_as_asked() {
    if !in_new_namespace("a_bridge_is_made_as_asked") {
        return;
    }
    let mut socket = Socket::open().unwrap();
    let spec = BridgeSpec {
        name: "virbr0".to_owned(),
        mac: Some([0x52, 0x54, 0, 1, 2, 3]),
        mtu: Some(1400),
        options: BridgeOptions { stp: Some(true), forward_delay: Some(200), ..Default::default() },
        alias: Some("patchcord:x:bridge:y".to_owned()),
        group: 77,
        addr_gen_none: true,
        up: true,
    };
    let index = socket.make_bridge(&spec).unwrap();
    let seen = ip_link("virbr0");
    assert_eq!(seen["ifindex"], index);
    assert_eq!(seen["address"], "52:54:00:01:02:03");
    assert_eq!(seen["mtu"], 1400);
    assert_eq!(seen["ifalias"], "patchcord:x:bridge:y");
    assert_eq!(seen["group"], "77");
    assert_eq!(seen["inet6_addr_gen_mode"], "none");
    assert_eq!(seen["linkinfo"]["info_kind"], "bridge");
    assert_eq!(seen["linkinfo"]["info_data"]["stp_state"], 1);
    assert_eq!(seen["linkinfo"]["info_data"]["forward_delay"], 200);
    assert!(seen["flags"].as_array().unwrap().contains(&Value::from("UP")));

    let link = socket.link_by_name("virbr0").unwrap().unwrap();
    assert_eq!(link.index, index);
    assert_eq!(link.kind.as_deref(), Some("bridge"));
    assert_eq!((link.mac, link.mtu, link.group, link.up), (spec.mac, 1400, 77, true));
    assert_eq!(link.alias, spec.alias);
    assert_eq!(link.addr_gen_none, Some(true));
    assert!(!link.partly_read);
    let options = link.bridge.unwrap();
    assert_eq!((options.stp, options.forward_delay), (Some(true), Some(200)));
    assert!(socket.make_bridge(&spec).unwrap_err().is_exists());
    assert_eq!(ip_link("virbr0")["ifindex"], index);
}

#[test]
fn a_bridge_changes_its_options() {
    if !in_new_namespace("a_bridge_changes_its_options") {
        return;
    }
    let mut socket = Socket::open().unwrap();
    let index = bridge(&mut socket, "b");
    let options = BridgeOptions { forward_delay: Some(300), ageing_time: Some(1000), ..Default::default() };
    socket.set_bridge(index, &options).unwrap();
    let seen = ip_link("b");
    assert_eq!(seen["linkinfo"]["info_data"]["forward_delay"], 300);
    assert_eq!(seen["linkinfo"]["info_data"]["ageing_time"], 1000);
}

#[test]
fn a_bridge_filters_vlans() {
    if !in_new_namespace("a_bridge_filters_vlans") {
        return;
    }
    let mut socket = Socket::open().unwrap();
    let options = BridgeOptions { vlan_filtering: Some(true), ..Default::default() };
    match socket.make_bridge(&BridgeSpec { name: "b".to_owned(), options, ..Default::default() }) {
        Ok(_) => assert_eq!(ip_link("b")["linkinfo"]["info_data"]["vlan_filtering"], 1),
        Err(error) => {
            assert!(matches!(error, Error::Kernel { .. }), "{error:?}");
            assert!(socket.link_by_name("b").unwrap().is_none());
            skip("a_bridge_filters_vlans", "the kernel's bridges have no VLAN filtering");
        }
    }
}

#[test]
fn a_port_joins_has_flags_and_leaves() {
    if !in_new_namespace("a_port_joins_has_flags_and_leaves") {
        return;
    }
    let mut socket = Socket::open().unwrap();
    let bridge = bridge(&mut socket, "b");
    let (port, _) = veth(&mut socket, "p", "q");
    let join = LinkChange {
        controller: Some(Some(bridge)),
        up: Some(true),
        mtu: Some(1300),
        mac: Some([2, 0, 0, 0, 0, 9]),
        group: Some(5),
        alias: Some("a port".to_owned()),
        all_multicast: Some(true),
        ..Default::default()
    };
    assert_eq!(Request::set_link(port, &join).len(), 1);
    socket.set_link(port, &join).unwrap();
    let seen = ip_link("p");
    assert_eq!(seen["master"], "b");
    assert_eq!(seen["mtu"], 1300);
    assert_eq!(seen["address"], "02:00:00:00:00:09");
    assert_eq!(seen["ifalias"], "a port");
    let flags = seen["flags"].as_array().unwrap();
    assert!(flags.contains(&Value::from("UP")) && flags.contains(&Value::from("ALLMULTI")), "{flags:?}");

    let settings = BridgePort {
        isolated: Some(true),
        hairpin: Some(true),
        learning: Some(false),
        unicast_flood: Some(false),
        multicast_flood: Some(false),
        broadcast_flood: Some(false),
        ..Default::default()
    };
    socket.set_bridge_port(port, &settings).unwrap();
    let seen = json("bridge", &["-j", "-d", "link", "show", "dev", "p"])[0].clone();
    assert_eq!(seen["isolated"], true);
    assert_eq!(seen["hairpin"], true);
    assert_eq!(seen["learning"], false);
    assert_eq!(seen["flood"], false);
    assert_eq!(seen["mcast_flood"], false);
    assert_eq!(seen["bcast_flood"], false);
    let link = socket.link_by_index(port).unwrap().unwrap();
    assert_eq!(link.controller, Some(bridge));
    assert!(link.all_multicast);
    let read = link.port.unwrap();
    assert_eq!(
        BridgePort { state: None, locked: None, bpdu_guard: None, neighbour_suppression: None, ..read },
        settings
    );

    socket.set_link(port, &LinkChange { controller: Some(None), ..Default::default() }).unwrap();
    assert!(ip_link("p")["master"].is_null());
    assert!(socket.link_by_index(port).unwrap().unwrap().port.is_none());
    assert!(socket.set_bridge_port(port, &settings).is_err());
    socket.set_link(port, &LinkChange { alias: Some(String::new()), ..Default::default() }).unwrap();
    assert!(ip_link("p")["ifalias"].is_null());
}

#[test]
fn ipv6_is_quiet_before_the_link_is_up() {
    if !in_new_namespace("ipv6_is_quiet_before_the_link_is_up") {
        return;
    }
    let mut socket = Socket::open().unwrap();
    let (a, b) = veth(&mut socket, "a", "b");
    let quiet = LinkChange { up: Some(true), addr_gen_none: Some(true), ..Default::default() };
    socket.set_link(b, &quiet).unwrap();
    socket.set_link(a, &quiet).unwrap();
    let seen = json("ip", &["-j", "-6", "addr", "show", "dev", "a"]);
    assert!(seen[0]["addr_info"].as_array().is_none_or(Vec::is_empty), "{seen}");
}

#[test]
fn a_link_goes_down_takes_another_name_and_dies_with_its_group() {
    if !in_new_namespace("a_link_goes_down_takes_another_name_and_dies_with_its_group") {
        return;
    }
    let mut socket = Socket::open().unwrap();
    let doomed = LinkChange { up: Some(false), group: Some(4242), ..Default::default() };
    let mut requests = Vec::new();
    for n in 0..3 {
        let index = bridge(&mut socket, &format!("b{n}"));
        requests.extend(Request::set_link(index, &LinkChange { name: Some(format!("pcdel{n}")), ..doomed.clone() }));
    }
    bridge(&mut socket, "stays");
    for result in socket.execute_all(&requests).unwrap() {
        result.unwrap();
    }
    assert_eq!(ip_link("pcdel2")["group"], "4242");
    socket.delete_group(4242).unwrap();
    let names: Vec<String> = socket.links().unwrap().into_iter().map(|link| link.name).collect();
    assert!(names.contains(&"stays".to_owned()));
    assert!(!names.iter().any(|name| name.starts_with("pcdel")), "{names:?}");
    socket.delete_group(4242).unwrap();
}

#[test]
fn a_batch_gives_every_message_its_own_result() {
    if !in_new_namespace("a_batch_gives_every_message_its_own_result") {
        return;
    }
    let mut socket = Socket::open().unwrap();
    let index = bridge(&mut socket, "b");
    let mut requests = Vec::new();
    // More than one system call's worth.
    for n in 0..300 {
        let target = if n == 137 { 9999 } else { index };
        requests.extend(Request::set_link(target, &LinkChange { group: Some(n), ..Default::default() }));
    }
    let results = socket.execute_all(&requests).unwrap();
    assert_eq!(results.len(), 300);
    for (n, result) in results.iter().enumerate() {
        match result {
            Err(error) => assert!(n == 137 && error.is_not_found(), "{n}: {error:?}"),
            Ok(()) => assert_ne!(n, 137),
        }
    }
    assert_eq!(ip_link("b")["group"], "299");
}

#[test]
fn a_macvlan_changes_its_mode() {
    if !in_new_namespace("a_macvlan_changes_its_mode") {
        return;
    }
    let mut socket = Socket::open().unwrap();
    let (lower, _) = veth(&mut socket, "x", "y");
    for tap in [false, true] {
        let spec = MacvlanSpec {
            name: format!("pcm{}", u8::from(tap)),
            lower,
            mode: MacvlanMode::Vepa,
            tap,
            mac: Some([0x52, 0x54, 0, 0, 0, u8::from(tap)]),
            mtu: None,
            group: 3,
            alias: Some("m".to_owned()),
        };
        let index = match socket.make_macvlan(&spec) {
            Ok(index) => index,
            Err(error) => {
                skip("a_macvlan_changes_its_mode", &format!("{error:?}"));
                return;
            }
        };
        socket.set_macvlan_mode(index, tap, MacvlanMode::Private).unwrap();
        let seen = ip_link(&spec.name);
        assert_eq!(seen["linkinfo"]["info_kind"], if tap { "macvtap" } else { "macvlan" });
        assert_eq!(seen["linkinfo"]["info_data"]["mode"], "private");
        assert_eq!(seen["link"], "x");
        let link = socket.link_by_index(index).unwrap().unwrap();
        assert_eq!((link.macvlan, link.lower), (Some(MacvlanMode::Private), Some(lower)));
    }
}

#[test]
fn the_kernels_own_words_arrive() {
    if !in_new_namespace("the_kernels_own_words_arrive") {
        return;
    }
    let mut socket = Socket::open().unwrap();
    let bridge = bridge(&mut socket, "b");
    let inner = common::bridge(&mut socket, "inner");
    let join = LinkChange { controller: Some(Some(bridge)), ..Default::default() };
    let error = socket.set_link(inner, &join).unwrap_err();
    let Error::Kernel { request, source } = error else { panic!("{error:?}") };
    assert_eq!(request, "change the link");
    assert_eq!(source.ext_ack.as_deref(), Some("Can not enslave a bridge to a bridge"));
    assert!(source.to_string().contains("Can not enslave"), "{source}");

    let long = LinkChange { name: Some("a-name-of-more-than-15-bytes".to_owned()), ..Default::default() };
    let Error::Kernel { source, .. } = socket.set_link(inner, &long).unwrap_err() else { panic!() };
    // IFLA_IFNAME
    assert_eq!(source.attribute, [3], "{source:?}");
}

#[test]
fn names_and_aliases_that_are_not_utf8_lose_nothing() {
    if !in_new_namespace("names_and_aliases_that_are_not_utf8_lose_nothing") {
        return;
    }
    use std::os::unix::ffi::OsStrExt;
    let mut socket = Socket::open().unwrap();
    let odd = bridge(&mut socket, "odd");
    let other = bridge(&mut socket, "other");
    let set = |args: &[&std::ffi::OsStr]| {
        assert!(std::process::Command::new("ip").args(["link", "set"]).args(args).status().unwrap().success());
    };
    let bytes = std::ffi::OsStr::from_bytes;
    set(&[bytes(b"odd"), bytes(b"alias"), bytes(b"caf\xe9")]);
    set(&[bytes(b"other"), bytes(b"down")]);
    set(&[bytes(b"other"), bytes(b"name"), bytes(b"x\xff")]);
    let links = socket.links().unwrap();
    assert!(links.consistent);
    let find = |index| links.entries.iter().find(|link| link.index == index).unwrap();
    assert_eq!(find(odd).alias.as_deref(), Some("caf\u{fffd}"));
    assert_eq!(find(odd).name, "odd");
    assert_eq!(find(odd).kind.as_deref(), Some("bridge"));
    assert!(find(odd).partly_read);
    assert_eq!(find(other).name, "x\u{fffd}");
    assert!(find(other).partly_read);
    assert_eq!(socket.link_by_index(odd).unwrap().unwrap(), *find(odd));
}

#[test]
fn a_tap_tells_its_owner() {
    if !in_new_namespace("a_tap_tells_its_owner") {
        return;
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        skip("a_tap_tells_its_owner", "no /dev/net/tun");
        return;
    }
    run("ip", &["tuntap", "add", "pct0", "mode", "tap", "user", "1234", "vnet_hdr"]);
    let link = Socket::open().unwrap().link_by_name("pct0").unwrap().unwrap();
    assert_eq!(link.kind.as_deref(), Some("tun"));
    let tun = link.tun.unwrap();
    assert!(tun.tap && tun.persist && tun.vnet_header && !tun.multi_queue);
    assert_eq!(tun.owner, Some(1234));
    assert!(!link.partly_read);
}

#[test]
fn what_is_not_there_is_none() {
    if !in_new_namespace("what_is_not_there_is_none") {
        return;
    }
    let mut socket = Socket::open().unwrap();
    assert!(socket.link_by_index(4711).unwrap().is_none());
    assert!(socket.link_by_name("nothing").unwrap().is_none());
    assert!(socket.delete_link(4711).unwrap_err().is_not_found());
    let lo = socket.link_by_name("lo").unwrap().unwrap();
    assert_eq!((lo.index, lo.hardware, lo.up), (1, 772, false));
}
