//! NICs on bridges of Open vSwitch, as `ovs-vsctl` and the guests see them.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::{Events, Host, SOON, attach, idler, interface, tap};
use patchcord_api::methods::{AttachNIC, ModifyNIC};
use patchcord_api::types::Nic;
use patchcord_testkit::{OpenVSwitch, in_namespace, unpacked, wait_until};
use std::fs;

fn network(name: &str, bridge: &str, more: &str) -> String {
    format!(
        "<network><name>{name}</name><forward mode='bridge'/><bridge name='{bridge}'/>\
         <virtualport type='openvswitch'/>{more}</network>"
    )
}

/// Runs a test on a host with Open vSwitch and the networks `ovs` and `sales`, and with `sw`, whose bridge is the kernel's.
fn with_switch(test: impl FnOnce(&mut Host<'_>, &mut OpenVSwitch) + Send) {
    let Some(package) = unpacked("openvswitch") else { return };
    in_namespace(|ns| {
        let dir = tempfile::tempdir().unwrap();
        let mut switch = OpenVSwitch::start(&package, dir.path());
        let mut host = Host::without_daemon(ns);
        let etc = host.root.join("etc/patchcord");
        fs::create_dir_all(&etc).unwrap();
        let config = format!("[openvswitch]\nsocket = \"{}\"\n", switch.socket().display());
        fs::write(etc.join("patchcord.toml"), config).unwrap();
        host.start();
        host.network(&network("ovs", "br0", ""));
        host.network(&network("sales", "br0", "<vlan><tag id='42'/></vlan>"));
        host.network("<network><name>sw</name><bridge name='virbr9'/></network>");
        test(&mut host, &mut switch);
    });
}

#[test]
fn guests_on_open_vswitch_reach_their_like_and_move_in_and_out() {
    with_switch(|host, switch| {
        let (first, mut one) = host.guest_on("ovs", "one");
        let (second, mut two) = host.guest_on("ovs", "two");
        one.set_static("10.7.0.1".parse().unwrap(), 24, None);
        two.set_static("10.7.0.2".parse().unwrap(), 24, None);
        let _one = one.run_in_background();
        Host::reaches(&mut two, "10.7.0.1");
        let ports: Vec<String> = switch.vsctl("list-ports br0").lines().map(str::to_owned).collect();
        assert_eq!(ports, [tap(&first), tap(&second)]);
        let ids = switch.get("Interface", &tap(&first), "external_ids");
        assert!(ids.contains(&format!("attached-mac=\"{}\"", first.mac.as_deref().unwrap())), "{ids}");
        assert!(ids.contains("iface-id="), "{ids}");
        // A VLAN of its own keeps it apart, and only its port's tag says so.
        let change = |network: &str| ModifyNIC { id: first.id.clone(), xml: interface(network) };
        let moved = host.call(&change("sales")).nic;
        assert_eq!((tap(&moved), moved.state.as_str()), (tap(&first), "plugged"));
        assert_eq!(switch.get("Port", &tap(&first), "tag"), "42");
        host.call(&change("sw"));
        assert_eq!(switch.vsctl("list-ports br0"), tap(&second));
        assert_eq!(host.link(&tap(&first)).unwrap()["master"], "virbr9");
        host.call(&change("ovs"));
        assert_eq!(switch.get("Port", &tap(&first), "tag"), "[]");
        Host::reaches(&mut two, "10.7.0.1");
        host.detach(&first.id);
        assert_eq!(switch.vsctl("list-ports br0"), tap(&second));
        assert!(host.link(&tap(&first)).is_none());
    });
}

#[test]
fn ports_are_kept_over_a_restart_and_removed_when_their_guest_ended_meanwhile() {
    with_switch(|host, switch| {
        let (kept, _guest) = host.guest_on("ovs", "kept");
        let owner = idler();
        let gone = AttachNIC { owner_pid: Some(owner.id()), ..attach("gone", &interface("ovs")) };
        let gone = host.call(&gone).nic;
        let interface_id = switch.get("Interface", &tap(&kept), "external_ids:iface-id");
        assert_eq!(switch.vsctl("list-ports br0").lines().count(), 2);
        host.kill();
        drop(owner);
        host.start();
        wait_until("the port of the guest that ended", SOON, || {
            let ports = switch.vsctl("list-ports br0");
            if ports == tap(&kept) { Ok(()) } else { Err(ports) }
        });
        assert!(host.link(&tap(&gone)).is_none());
        assert_eq!(switch.get("Interface", &tap(&kept), "external_ids:iface-id"), interface_id);
    });
}

#[test]
fn what_open_vswitch_lacks_is_said_and_nothing_is_left() {
    with_switch(|host, switch| {
        host.network(&network("typo", "br9", ""));
        let (_, refusal) = host.refused(&attach("web", &interface("typo")));
        assert!(refusal.cause.contains("br9") && refusal.cause.contains("br0"), "{refusal:?}");
        assert_eq!(switch.vsctl("list-ports br0"), "");
        assert!(host.nics().is_empty());
        assert!(!host.ns.run("ip link").contains("pct"));
    });
}

/// What was put right next, and what the daemon says of it.
fn put_right(events: &mut Events, nic: &Nic, what: &str) {
    let name = tap(nic);
    let event = events.wait(what, |e| e.kind == "drift" && e.what == "repaired");
    let said = event.cause.as_deref().unwrap_or_default();
    assert_eq!(said, format!("port {name} {what}"), "{event:?}");
}

/// Whether the daemon watches Open vSwitch's database.
fn watches(host: &Host<'_>) -> bool {
    let threads = fs::read_dir(format!("/proc/{}/task", host.pid())).unwrap().flatten();
    let mut names = threads.map(|thread| fs::read_to_string(thread.path().join("comm")).unwrap_or_default());
    names.any(|name| name.trim() == "openvswitch")
}

#[test]
fn what_others_do_to_a_port_is_put_right_and_said() {
    with_switch(|host, switch| {
        host.guest_on("sw", "elsewhere");
        assert!(!watches(host), "there is nothing to watch");
        let (first, mut one) = host.guest_on("sales", "one");
        assert!(watches(host));
        let (second, mut two) = host.guest_on("sales", "two");
        one.set_static("10.7.0.1".parse().unwrap(), 24, None);
        two.set_static("10.7.0.2".parse().unwrap(), 24, None);
        let _one = one.run_in_background();
        Host::reaches(&mut two, "10.7.0.1");
        let mut events = host.events();
        let name = tap(&first);
        let is_right = |switch: &OpenVSwitch| {
            assert_eq!(
                (switch.vsctl(&format!("port-to-br {name}")), switch.get("Port", &name, "tag")),
                ("br0".into(), "42".into())
            );
            assert_eq!(host.nic(&first.id).state, "plugged");
        };
        switch.vsctl(&format!("del-port {name}"));
        put_right(&mut events, &first, "was gone from bridge br0");
        is_right(switch);
        Host::reaches(&mut two, "10.7.0.1");
        switch.vsctl(&format!("set port {name} tag=9"));
        put_right(&mut events, &first, "had tag=9, not tag=42");
        is_right(switch);
        Host::reaches(&mut two, "10.7.0.1");

        // ovsdb-server ends, and another one begins with nothing.
        switch.start_anew();
        wait_until("that the port is missed", SOON, || match host.nic(&first.id).state.as_str() {
            "pending" => Ok(()),
            state => Err(state.to_owned()),
        });
        switch.add_bridges();
        wait_until("both ports", SOON, || {
            let ports = switch.vsctl("list-ports br0");
            if ports.lines().eq([tap(&first), tap(&second)]) { Ok(()) } else { Err(ports) }
        });
        let event = events.wait("the first", |e| e.kind == "drift" && e.what == "repaired");
        assert!(event.cause.as_deref().unwrap_or_default().ends_with("was gone from bridge br0"), "{event:?}");
        events.wait("the second", |e| e.kind == "drift" && e.what == "repaired");
        is_right(switch);
        Host::reaches(&mut two, "10.7.0.1");
    });
}
