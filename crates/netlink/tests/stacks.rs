//! VLAN links and bonds as the kernel tells of them, made with iproute2.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{in_new_namespace, index, run, veth};
use patchcord_netlink::{BondOptions, Link, Socket};
use patchcord_testkit::skip;
use std::process::Command;

fn ip(line: &str) {
    run("ip", &line.split_whitespace().collect::<Vec<_>>());
}

/// Whether a link of that kind can be made; else the test is skipped, with the reason.
fn can(test: &str, kind: &str, line: &str) -> bool {
    let made = Command::new("ip").args(line.split_whitespace()).output().unwrap();
    let error = String::from_utf8_lossy(&made.stderr);
    if !made.status.success() {
        skip(test, &format!("kernel has no {kind} ({})", error.trim().replace('\n', " ")));
    }
    made.status.success()
}

fn link(socket: &mut Socket, name: &str) -> Link {
    let link = socket.link_by_name(name).unwrap().unwrap();
    assert!(!link.partly_read, "{link:?}");
    link
}

#[test]
fn a_vlan_is_told_with_its_number_and_its_device() {
    let test = "a_vlan_is_told_with_its_number_and_its_device";
    if !in_new_namespace(test) {
        return;
    }
    let mut socket = Socket::open().unwrap();
    let (device, _) = veth(&mut socket, "v0", "v1");
    if !can(test, "802.1Q links", "link add link v0 name v0.42 type vlan id 42") {
        return;
    }
    let vlan = link(&mut socket, "v0.42");
    assert_eq!((vlan.kind.as_deref(), vlan.vlan, vlan.lower), (Some("vlan"), Some(42), Some(device)));
    assert_eq!(link(&mut socket, "v0").vlan, None);
}

#[test]
fn a_bond_is_told_with_its_settings() {
    let test = "a_bond_is_told_with_its_settings";
    if !in_new_namespace(test) {
        return;
    }
    let mut socket = Socket::open().unwrap();
    veth(&mut socket, "v0", "v1");
    if !can(
        test,
        "bonds",
        "link add b0 type bond mode active-backup miimon 100 updelay 200 downdelay 300 use_carrier 0",
    ) {
        return;
    }
    ip("link set v0 master b0");
    ip("link set b0 type bond primary v0");
    let expected = BondOptions {
        mode: Some(1),
        mii_interval: Some(100),
        up_delay: Some(200),
        down_delay: Some(300),
        use_carrier: Some(false),
        arp_interval: Some(0),
        arp_targets: Vec::new(),
        arp_validate: Some(0),
        primary: Some(index(&mut socket, "v0")),
    };
    assert_eq!(link(&mut socket, "b0").bond.as_deref(), Some(&expected));
    ip("link add b1 type bond mode balance-rr arp_interval 250 arp_ip_target 192.0.2.1,192.0.2.2");
    let bond = link(&mut socket, "b1").bond.unwrap();
    let targets: Vec<_> = bond.arp_targets.iter().map(ToString::to_string).collect();
    assert_eq!((bond.mode, bond.arp_interval), (Some(0), Some(250)));
    assert_eq!(targets, ["192.0.2.1", "192.0.2.2"]);
}
