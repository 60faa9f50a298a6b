//! VLANs of bridge ports and bridges on a real kernel, looked at with iproute2's eyes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{in_new_namespace, index, json, run, veth};
use patchcord_netlink::{
    BridgeOptions, BridgeSpec, BridgeVlans, Hint, LINK_GROUPS, LinkChange, Monitor, Request, Socket, VlansOf,
};
use patchcord_testkit::skip;
use std::time::Duration;

/// A bridge that filters VLANs and a port of it; the indexes of both. None, with the reason printed, where there are no
/// such bridges.
fn filtering(test: &str) -> Option<(Socket, u32, u32)> {
    if !in_new_namespace(test) {
        return None;
    }
    let mut socket = Socket::open().unwrap();
    let options = BridgeOptions { vlan_filtering: Some(true), ..Default::default() };
    let spec = BridgeSpec { name: "b".into(), options, up: true, ..Default::default() };
    let bridge = match socket.make_bridge(&spec) {
        Ok(bridge) => bridge,
        Err(error) => {
            assert!(error.is_unsupported(), "{error:?}");
            assert!(socket.vlans(None).unwrap().entries.is_empty());
            skip(test, &format!("kernel has no bridge VLAN filtering ({error})"));
            return None;
        }
    };
    let (port, _) = veth(&mut socket, "p", "q");
    socket.set_link(port, &LinkChange { controller: Some(Some(bridge)), ..Default::default() }).unwrap();
    Some((socket, bridge, port))
}

/// What `bridge vlan show` says of a link, as text: `1 PVID Egress Untagged`, `100-199`.
fn seen(link: &str) -> Vec<String> {
    let all = json("bridge", &["-j", "-compressvlans", "vlan", "show"]);
    let link = all.as_array().unwrap().iter().find(|l| l["ifname"] == link).cloned().unwrap_or_default();
    let vlans = link["vlans"].as_array().cloned().unwrap_or_default();
    let text = |vlan: &serde_json::Value| {
        let mut text = vlan["vlan"].to_string();
        if vlan["vlanEnd"].is_u64() {
            text = format!("{text}-{}", vlan["vlanEnd"]);
        }
        for flag in vlan["flags"].as_array().into_iter().flatten() {
            text = format!("{text} {}", flag.as_str().unwrap());
        }
        text
    };
    vlans.iter().map(text).collect()
}

fn one(vid: u16, pvid: bool, untagged: bool) -> BridgeVlans {
    BridgeVlans { first: vid, last: vid, pvid, untagged }
}

#[test]
fn ports_and_bridges_are_put_into_vlans() {
    let Some((mut socket, bridge, port)) = filtering("ports_and_bridges_are_put_into_vlans") else { return };
    assert_eq!(socket.vlans(Some(port)).unwrap().entries, [(port, vec![one(1, true, true)])]);
    let trunk = BridgeVlans { first: 100, last: 4094, pvid: false, untagged: false };
    let of = VlansOf::Port(port);
    socket.execute(&Request::add_vlans(of, &[one(42, true, true), trunk, one(7, false, false)])).unwrap();
    assert_eq!(seen("p"), ["1 Egress Untagged", "7", "42 PVID Egress Untagged", "100-4094"]);
    let read = socket.vlans(Some(port)).unwrap().entries;
    let wanted = vec![one(1, false, true), one(7, false, false), one(42, true, true), trunk];
    assert_eq!(read, [(port, wanted)]);
    socket.execute(&Request::delete_vlans(of, &[one(1, false, false), trunk, one(9, false, false)])).unwrap();
    assert_eq!(seen("p"), ["7", "42 PVID Egress Untagged"]);

    // VLANs in a row that leave alike, the first of them for frames without a tag.
    let row = BridgeVlans { first: 43, last: 45, pvid: false, untagged: false };
    socket.execute(&Request::add_vlans(of, &[one(42, true, true), row])).unwrap();
    socket.execute(&Request::add_vlans(of, &[one(42, true, false), row])).unwrap();
    assert_eq!(seen("p"), ["7", "42 PVID", "43-45"]);
    let read = socket.vlans(Some(port)).unwrap().entries;
    assert_eq!(read, [(port, vec![one(7, false, false), one(42, true, false), row])]);

    let own = VlansOf::Bridge(bridge);
    socket.execute(&Request::add_vlans(own, &[one(42, true, true)])).unwrap();
    socket.execute(&Request::delete_vlans(own, &[one(1, false, false)])).unwrap();
    assert_eq!(seen("b"), ["42 PVID Egress Untagged"]);
    // Another bridge's are not among those of this link, and among those of all.
    run("ip", &["link", "add", "name", "c", "type", "bridge"]);
    let other = index(&mut socket, "c");
    assert_eq!(socket.vlans(Some(bridge)).unwrap().entries, [(bridge, vec![one(42, true, true)])]);
    let all = socket.vlans(None).unwrap().entries;
    assert!(all.contains(&(other, vec![one(1, true, true)])), "{all:?}");
    assert_eq!(all.len(), 3, "{all:?}");
    assert!(socket.vlans(Some(9999)).unwrap_err().is_not_found());
    assert!(socket.vlans(Some(1)).is_err(), "lo is no port");
}

#[test]
fn a_vlan_that_others_add_or_remove_is_a_hint() {
    let Some((_, _, port)) = filtering("a_vlan_that_others_add_or_remove_is_a_hint") else { return };
    let mut monitor = Monitor::open(LINK_GROUPS).unwrap();
    for command in ["add", "del"] {
        run("bridge", &["vlan", command, "dev", "p", "vid", "5"]);
        let hints = monitor.receive(Some(Duration::from_secs(10))).unwrap();
        assert!(hints.contains(&Hint::Link { index: port, gone: false, link: None }), "{command}: {hints:?}");
    }
    // And so is a bridge that filters no longer, with what it is now.
    run("ip", &["link", "set", "dev", "b", "type", "bridge", "vlan_filtering", "0"]);
    let hints = monitor.receive(Some(Duration::from_secs(10))).unwrap();
    let told = hints.iter().rev().find_map(|h| match h {
        Hint::Link { link: Some(link), .. } if link.name == "b" => link.bridge.as_ref()?.vlan_filtering,
        _ => None,
    });
    assert_eq!(told, Some(false), "{hints:?}");
}
