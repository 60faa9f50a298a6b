//! Uplinks of host bridges, which carry the VLANs of NICs there.

use super::Host;
use super::tests::{attach, host, nic_in, nic_on};
use crate::engine::{Body, Command, Input};
use crate::model::{LinkName, Nic, Vlan, VlanTag};
use crate::plan::{Change, Link, LinkKind, PortVlans, VlanState};
use crate::xml;
use uuid::Uuid;

/// A host whose bridge br0 keeps VLANs apart and has the uplink eth0, which carries VLAN 7 by itself, and two networks on
/// it, of which one has a portgroup in VLAN 42.
fn with_uplink() -> Host {
    let mut host = host();
    let link = |name: &str| LinkName::new(name).unwrap();
    host.config.uplinks = [(link("br0"), [link("eth0")].into())].into();
    host.crash();
    let bridge = host.add_link("br0", LinkKind::Bridge);
    let filtering = VlanState { filtering: true, ..VlanState::default() };
    host.kernel.set_link(bridge, Some(Link { vlan: filtering, ..host.kernel.link(bridge).unwrap().clone() }));
    let port = host.add_link("eth0", LinkKind::Other("veth".into()));
    host.kernel.set_link(port, Some(Link { controller: Some(bridge), ..host.kernel.link(port).unwrap().clone() }));
    host.kernel.set_vlans(port, PortVlans { tagged: [7].into(), ..PortVlans::access(1) });
    host.see_everything();
    host.settle();
    for (name, portgroup) in
        [("red", "<portgroup name='p' default='yes'><vlan><tag id='42'/></vlan></portgroup>"), ("blue", "")]
    {
        let text =
            format!("<network><name>{name}</name><forward mode='bridge'/><bridge name='br0'/>{portgroup}</network>");
        host.ask(Command::Create(Box::new(xml::read_network(&text, xml::Mode::Strict).unwrap()))).unwrap();
    }
    host
}

fn in_vlans(nic: Nic, tags: &[u16]) -> Nic {
    let tags = tags.iter().map(|id| VlanTag { id: *id, native: None }).collect::<Vec<_>>();
    Nic { vlan: Some(Vlan { trunk: (tags.len() > 1).then_some(true), tags }), ..nic }
}

fn plugged(host: &mut Host, guest: &str, nic: Nic) -> Uuid {
    let answer = host.ask(attach(guest, nic)).unwrap();
    assert_eq!(answer.warnings, Vec::<String>::new());
    host.settle();
    match answer.body {
        Body::Nic(nic) => nic.id,
        other => panic!("{other:?}"),
    }
}

fn carried(host: &Host) -> Vec<u16> {
    let port = host.kernel.link_named("eth0").unwrap();
    let vlans = host.kernel.vlans_of(port);
    assert_eq!((vlans.pvid, &vlans.untagged), (Some(1), &[1].into()), "what it has by itself stays");
    vlans.tagged.into_iter().collect()
}

#[test]
fn what_networks_share_goes_with_the_last_of_their_nics() {
    let mut host = with_uplink();
    let first = plugged(&mut host, "a", nic_on("red"));
    assert_eq!(carried(&host), [7, 42]);
    let second = plugged(&mut host, "b", in_vlans(nic_on("blue"), &[42, 43, 7]));
    let third = plugged(&mut host, "c", in_vlans(nic_in("br0"), &[42]));
    assert_eq!(carried(&host), [7, 42, 43]);
    host.ask(Command::Detach(first)).unwrap();
    host.crash();
    host.settle();
    assert_eq!(carried(&host), [7, 42, 43], "after a crash it is known whose they are");
    host.ask(Command::Modify(second, Box::new(nic_on("blue")), Default::default())).unwrap();
    host.settle();
    assert_eq!(carried(&host), [7, 42], "unset, it is in none");
    host.ask(Command::Detach(third)).unwrap();
    host.settle();
    assert_eq!(carried(&host), [7]);
    assert!(host.engine.intent().saved.carried.is_empty());
    assert!(host.records.keys().all(|key| *key != crate::engine::RecordKey::Host));
}

#[test]
fn it_carries_them_whatever_others_do_and_is_left_alone_once_it_is_no_uplink() {
    let mut host = with_uplink();
    plugged(&mut host, "a", nic_on("red"));
    let port = host.kernel.link_named("eth0").unwrap().index;
    let others = PortVlans { tagged: [9].into(), ..PortVlans::access(1) };
    host.kernel.set_vlans(port, others.clone());
    host.tell(Input::Observed(Change::Vlans(port, others)));
    host.settle();
    assert_eq!(carried(&host), [9, 42]);
    host.config.uplinks.clear();
    host.crash();
    host.settle();
    assert_eq!(carried(&host), [9]);
    assert!(host.engine.intent().saved.carried.is_empty());
}

#[test]
fn what_cant_be_written_down_is_not_added() {
    let mut host = with_uplink();
    host.full.run_state = true;
    host.ask(attach("a", nic_on("red"))).unwrap_err();
    host.settle();
    assert_eq!(carried(&host), [7]);
}

#[test]
fn a_port_that_is_renamed_gives_back_what_it_carried_for_us() {
    for lost in [false, true] {
        let mut host = with_uplink();
        plugged(&mut host, "a", nic_on("red"));
        assert_eq!(carried(&host), [7, 42]);
        let port = Link { name: "old0".into(), ..host.kernel.link_named("eth0").unwrap().clone() };
        host.kernel.set_link(port.index, Some(port.clone()));
        match lost {
            false => host.tell(Input::Observed(Change::Link(port.index, Some(port.clone())))),
            true => host.see_everything(),
        }
        host.settle();
        assert_eq!(host.kernel.vlans_of(&port).tagged, [7].into(), "announcement lost: {lost}");
        assert!(host.engine.intent().saved.carried.is_empty());
        assert_eq!(host.check(), [""; 0]);
    }
}
