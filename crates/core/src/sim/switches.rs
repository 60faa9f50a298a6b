//! NICs on bridges of Open vSwitch: their ports are made, changed and removed by jobs.

use super::Host;
use super::tests::{at_rest, attach, host, nat, network, nic, nic_on, on_open_vswitch};
use crate::engine::{Command, NicState, NicView};
use crate::intent::Owner;
use crate::model::LinkName;
use crate::plan::{MarkKind, OvsPort};
use crate::{ErrorKind, xml};
use uuid::Uuid;

fn switches() -> Host {
    let mut host = host();
    host.ask(Command::Create(on_open_vswitch("ovs"))).unwrap();
    host.ask(Command::Create(nat("nat", 1))).unwrap();
    host.ask(Command::Create(network(
        "<network><name>groups</name><forward mode='bridge'/><bridge name='ovsbr1'/>\
         <virtualport type='openvswitch'/>\
         <portgroup name='sales'><vlan><tag id='42'/></vlan>\
         <virtualport><parameters profileid='gold'/></virtualport></portgroup></network>",
    )))
    .unwrap();
    host
}

fn attached(host: &mut Host, network: &str) -> NicView {
    nic(host.ask(attach("web", nic_on(network))).unwrap().body)
}

fn port(host: &Host, nic: Uuid) -> (LinkName, OvsPort) {
    host.kernel.ovs[&nic].port.clone().unwrap()
}

#[test]
fn a_nic_gets_a_port_with_what_network_portgroup_and_nic_say() {
    let mut host = switches();
    let view = attached(&mut host, "ovs");
    assert_eq!((view.state, view.actual), (NicState::Plugged, "bridge"));
    let (bridge, made) = port(&host, view.id);
    let tap = host.kernel.link_marked(MarkKind::Tap, view.id).unwrap().index;
    assert_eq!((bridge.as_str(), made.link), ("ovsbr0", tap));
    at_rest(&mut host);
    let given = "<interface type='network'><source network='groups' portgroup='sales'/>\
                 <virtualport><parameters interfaceid='09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f'/></virtualport></interface>";
    let moved = Command::Modify(view.id, Box::new(xml::read_nic(given).unwrap()), Default::default());
    host.ask(moved).unwrap();
    let (bridge, changed) = port(&host, view.id);
    assert_eq!((bridge.as_str(), changed.profile_id.as_deref()), ("ovsbr1", Some("gold")));
    assert_eq!(changed.interface_id.to_string(), "09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f");
    assert_eq!(changed.vlan.unwrap().tags[0].id, 42);
    assert_eq!(changed.link, made.link);
    at_rest(&mut host);
    host.ask(Command::Detach(view.id)).unwrap();
    assert!(host.kernel.ovs.is_empty());
}

#[test]
fn an_interface_id_of_our_own_stays_the_same() {
    let mut host = switches();
    let view = attached(&mut host, "ovs");
    let first = port(&host, view.id).1.interface_id;
    host.held.insert(view.id);
    host.crash();
    host.settle();
    assert_eq!(port(&host, view.id).1.interface_id, first);
    host.ask(Command::Modify(view.id, Box::new(nic_on("nat")), Default::default())).unwrap();
    assert!(host.kernel.ovs.is_empty(), "its port goes before it is plugged into a bridge");
    host.ask(Command::Modify(view.id, Box::new(nic_on("ovs")), Default::default())).unwrap();
    at_rest(&mut host);
}

#[test]
fn a_refusal_of_the_switch_leaves_nothing() {
    let mut host = switches();
    host.ovs_refuses = Some("there is no bridge ovsbr0 (there are: br-int)".into());
    let refused = host.ask(attach("web", nic_on("ovs"))).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::HostFailed);
    assert!(refused.to_string().contains("there are: br-int"), "{refused}");
    assert_eq!(host.kernel.links_marked(MarkKind::Tap, Uuid::nil()).count(), 0);
    assert_eq!(host.engine.intent().nics().count(), 0);
    // A NIC that is moved there stays where it was.
    let view = attached(&mut host, "nat");
    let moved = host.ask(Command::Modify(view.id, Box::new(nic_on("ovs")), Default::default()));
    assert_eq!(moved.unwrap_err().kind, ErrorKind::HostFailed);
    assert_eq!(host.engine.intent().nic(view.id).unwrap().network_name().unwrap().as_str(), "nat");
    at_rest(&mut host);
}

#[test]
fn a_port_that_a_crash_left_is_removed() {
    let mut host = switches();
    let owner = Owner { pid: 100, start_time: 5 };
    host.processes.insert(owner);
    let Command::Attach(mut wanted) = attach("web", nic_on("ovs")) else { unreachable!() };
    wanted.owner = Some(owner);
    host.ask(Command::Attach(wanted)).unwrap();
    assert_eq!(host.kernel.ovs.len(), 1);
    // Its guest ends while no daemon runs.
    host.processes.remove(&owner);
    host.crash();
    host.settle();
    assert_eq!(host.engine.intent().nics().count(), 0);
    assert!(host.kernel.ovs.is_empty());
    at_rest(&mut host);
}
