//! NICs on bridges of Open vSwitch: their ports are made, changed and removed by jobs.

use super::Host;
use super::tests::{at_rest, attach, host, nat, network, nic, nic_on, on_open_vswitch};
use crate::engine::{Command, Event, Input, NicState, NicView};
use crate::intent::Owner;
use crate::model::LinkName;
use crate::plan::{Change, MarkKind, OvsState};
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

fn port(host: &Host, nic: Uuid) -> OvsState {
    host.port(nic).unwrap()
}

fn is_on(port: &OvsState, bridge: &str) -> bool {
    port.bridges.iter().eq([bridge])
}

/// What was told since the last time of what is not as it should be, and whether it was put right.
fn drifts(host: &mut Host) -> Vec<(String, bool)> {
    let events = std::mem::take(&mut host.events).into_iter();
    let told = events.filter_map(|event| match event {
        Event::Drift { what, repaired, .. } => Some((what, repaired)),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_nic_gets_a_port_with_what_network_portgroup_and_nic_say() {
    let mut host = switches();
    let view = attached(&mut host, "ovs");
    assert_eq!((view.state, view.actual), (NicState::Plugged, "bridge"));
    let made = port(&host, view.id);
    let tap = host.kernel.link_marked(MarkKind::Tap, view.id).unwrap().index;
    assert!(is_on(&made, "ovsbr0"));
    assert_eq!(made.settings.link(), Some(tap));
    at_rest(&mut host);
    let given = "<interface type='network'><source network='groups' portgroup='sales'/>\
                 <virtualport><parameters interfaceid='09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f'/></virtualport></interface>";
    let moved = Command::Modify(view.id, Box::new(xml::read_nic(given).unwrap()), Default::default());
    host.ask(moved).unwrap();
    let changed = port(&host, view.id);
    assert!(is_on(&changed, "ovsbr1"));
    assert_eq!(changed.settings.interface_ids["port-profile"], "gold");
    assert_eq!(changed.settings.interface_id(), Some("09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f"));
    assert_eq!(changed.settings.vlan.tag, Some(42));
    assert_eq!(changed.settings.link(), made.settings.link());
    at_rest(&mut host);
    assert!(drifts(&mut host).is_empty(), "what is seen of our own changes is no drift");
    host.ask(Command::Detach(view.id)).unwrap();
    assert!(host.kernel.ovs.is_empty());
}

#[test]
fn an_interface_id_of_our_own_stays_the_same() {
    let mut host = switches();
    let view = attached(&mut host, "ovs");
    let first = port(&host, view.id).settings.interface_ids;
    host.held.insert(view.id);
    host.crash();
    host.settle();
    assert_eq!(port(&host, view.id).settings.interface_ids, first);
    host.ask(Command::Modify(view.id, Box::new(nic_on("nat")), Default::default())).unwrap();
    assert!(host.kernel.ovs.is_empty(), "its port goes before it is plugged into a bridge");
    host.ask(Command::Modify(view.id, Box::new(nic_on("ovs")), Default::default())).unwrap();
    at_rest(&mut host);
}

#[test]
fn a_refusal_of_the_switch_leaves_nothing() {
    let mut host = switches();
    host.ovs.refuses = Some("there is no bridge ovsbr0 (there are: br-int)".into());
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

#[test]
fn what_others_do_to_a_port_is_put_right_and_told() {
    let mut host = switches();
    let view = attached(&mut host, "ovs");
    let right = port(&host, view.id);
    host.meddle_with_port(view.id, None);
    host.settle();
    assert_eq!(port(&host, view.id), right);
    let name = &right.name;
    assert_eq!(drifts(&mut host), [(format!("port {name} was gone from bridge ovsbr0"), true)]);
    let mut wrong = right.clone();
    wrong.settings.vlan.tag = Some(9);
    host.meddle_with_port(view.id, Some(wrong.clone()));
    host.settle();
    assert_eq!(port(&host, view.id), right);
    assert_eq!(drifts(&mut host), [(format!("port {name} had tag=9, not no VLAN of its own"), true)]);
    // They put it right themselves, or what was seen is out of date: nothing was to be done.
    host.tell(Input::Observed(Change::OvsPort(view.id, Some(Box::new(wrong)))));
    host.settle();
    assert_eq!(drifts(&mut host), []);
    at_rest(&mut host);
    // A port that another daemon of ours left, with nobody's mark.
    let stray = OvsState { name: LinkName::new("pct77").unwrap(), ..right };
    host.meddle_with_port(Uuid::from_u128(77), Some(stray));
    host.settle();
    assert_eq!(host.kernel.ovs.keys().collect::<Vec<_>>(), [&view.id]);
    assert_eq!(drifts(&mut host), []);
}

#[test]
fn a_database_that_starts_anew_gets_all_ports_once_its_bridges_are_back() {
    let mut host = switches();
    let views: Vec<NicView> = (0..3).map(|_| attached(&mut host, "ovs")).collect();
    host.ovs.refuses = Some("there is no bridge ovsbr0".into());
    host.empty_ports();
    host.settle_with_clock();
    assert!(host.kernel.ovs.is_empty());
    assert_eq!(nic(host.ask(Command::ShowNic(views[0].id)).unwrap().body).state, NicState::Pending);
    let failures = drifts(&mut host);
    assert!(failures.iter().all(|(what, repaired)| what.contains("there is no bridge") && !repaired), "{failures:?}");
    // The next try is a minute away, but there is news: somebody has made a bridge.
    host.ovs.refuses = None;
    host.empty_ports();
    host.settle();
    assert_eq!(host.kernel.ovs.len(), 3);
    let repaired = drifts(&mut host);
    assert_eq!(repaired.len(), 3, "{repaired:?}");
    assert!(repaired.iter().all(|(what, repaired)| what.contains("was gone from bridge") && *repaired), "{repaired:?}");
    at_rest(&mut host);
}

#[test]
fn a_port_that_can_not_be_had_is_tried_with_pauses_whatever_is_seen_of_it() {
    let mut host = switches();
    let view = attached(&mut host, "ovs");
    let right = port(&host, view.id);
    host.ovs.refuses = Some("no room".into());
    let tried = host.ovs.set;
    let failed = OvsState { error: Some("could not open network device".into()), ..right.clone() };
    // As each try makes and removes it, it is seen to come and go.
    for _ in 0..20 {
        host.meddle_with_port(view.id, Some(failed.clone()));
        host.settle();
        host.meddle_with_port(view.id, None);
        host.settle();
    }
    assert_eq!(host.ovs.set - tried, 1);
    host.ovs.refuses = None;
    host.settle_with_clock();
    assert_eq!(port(&host, view.id), right);
    at_rest(&mut host);
}

#[test]
fn who_removes_a_port_all_the_time_meets_a_pause() {
    let mut host = switches();
    let view = attached(&mut host, "ovs");
    for _ in 0..20 {
        host.meddle_with_port(view.id, None);
        host.settle();
    }
    assert!(host.kernel.ovs.is_empty());
    let told = drifts(&mut host);
    assert_eq!(told.iter().filter(|(_, repaired)| *repaired).count(), 8);
    let [(what, false)] = &told[8..] else { panic!("{told:?}") };
    assert!(what.ends_with("it is being changed again and again, so we wait a little"), "{what}");
    // Whoever asks for something doesn't wait.
    host.ask(Command::Link(view.id, false)).unwrap();
    host.ask(Command::Link(view.id, true)).unwrap();
    assert_eq!(host.kernel.ovs.len(), 1);
    host.meddle_with_port(view.id, None);
    host.settle_with_clock();
    assert_eq!(host.kernel.ovs.len(), 1);
    at_rest(&mut host);
}

#[test]
fn what_others_do_while_a_job_is_under_way_is_not_lost() {
    let mut host = switches();
    let view = attached(&mut host, "ovs");
    let to_groups = Command::Modify(view.id, Box::new(nic_on("groups")), Default::default());
    let request = host.request(to_groups);
    while is_on(&port(&host, view.id), "ovsbr0") {
        assert!(host.step());
    }
    // After the job has written, and before its end is heard of.
    host.kernel.ovs.clear();
    host.inputs.retain(|input| !matches!(input, Input::Observed(_)));
    host.inputs.push_front(Input::Observed(Change::OvsPort(view.id, None)));
    host.settle();
    assert!(host.replies[&request].is_ok());
    assert!(is_on(&port(&host, view.id), "ovsbr1"));
    at_rest(&mut host);
}
