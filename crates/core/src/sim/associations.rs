//! NICs whose ports get a profile of the switch: when it is asked, and what happens when it refuses.

use super::tests::{at_rest, attach, host, network, nic, nic_on};
use super::{Full, Host};
use crate::engine::{Command, Event, Input, NicState, NicView};
use crate::intent::Owner;
use crate::model::{DevicePlug, LinkState, Network, Nic, NicSource};
use crate::plan::{Change, Handover, LinkKind};
use crate::{ErrorKind, xml};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A network whose NICs are associated.
pub(super) fn associated(name: &str, mode: &str, devices: &[&str]) -> Box<Network> {
    let devices: String = devices.iter().map(|d| format!("<interface dev='{d}'/>")).collect();
    network(&format!(
        "<network><name>{name}</name><forward mode='{mode}'>{devices}</forward>
         <virtualport type='802.1Qbg'><parameters managerid='11' typeid='1193047' typeidversion='2'/></virtualport>
         </network>"
    ))
}

fn bed() -> Host {
    let mut host = host();
    for name in ["eth0", "eth1", "eth2"] {
        host.add_link(name, LinkKind::Other(String::new()));
    }
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    host.ask(Command::Create(associated("red", "vepa", &["eth0"]))).unwrap();
    host.ask(Command::Create(associated("blue", "passthrough", &["eth1"]))).unwrap();
    host.ask(Command::Create(super::tests::on_devices("plain", "vepa", &["eth2"]))).unwrap();
    host
}

fn attached(host: &mut Host, network: &str) -> NicView {
    nic(host.ask(attach("web", nic_on(network))).unwrap().body)
}

fn holders(host: &Host) -> usize {
    host.engine.intent().pool().usage().map(|u| u.holders.len()).sum()
}

#[test]
fn a_nic_is_associated_with_what_the_merged_virtualport_says() {
    let mut host = bed();
    let own = "<interface type='network'><source network='red'/><mac address='de:ad:be:ef:ca:fe'/>
        <virtualport><parameters instanceid='09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f'/></virtualport></interface>";
    let view = nic(host.ask(attach("web", xml::read_nic(own).unwrap())).unwrap().body);
    assert_eq!(view.state, NicState::Plugged);
    let given = host.switch.given[&view.id].clone();
    assert_eq!((given.device.as_str(), given.vlan, given.mac.to_string().as_str()), ("eth0", 0, "de:ad:be:ef:ca:fe"));
    assert_eq!(Some(given.index), host.kernel.link_named("eth0").map(|l| l.index));
    let port = &given.port;
    assert_eq!((port.manager_id, port.type_id, port.type_id_version), (Some(11), Some(1193047), Some(2)));
    assert_eq!(port.instance_id, Uuid::try_parse("09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f").ok());
    let other = attached(&mut host, "red");
    assert_eq!(host.switch.given[&other.id].port.instance_id, Some(other.id), "generated, and kept");
    at_rest(&mut host);
    host.ask(Command::Detach(view.id)).unwrap();
    assert_eq!(host.switch.take(), ["+eth0", "+eth0", "-eth0"]);
    at_rest(&mut host);
}

#[test]
fn what_the_switch_refuses_is_not_attached() {
    for hangs in [false, true] {
        let mut host = bed();
        let before = (host.records.clone(), host.kernel.links().cloned().collect::<Vec<_>>());
        (host.switch.refuses, host.switch.hangs) = (!hangs, hangs);
        let request = host.request(attach("web", nic_on("blue")));
        host.settle();
        assert_eq!(host.replies.contains_key(&request), !hangs, "no answer before the switch's");
        host.end_associations();
        host.settle();
        let refused = host.replies.remove(&request).unwrap().unwrap_err();
        assert_eq!((refused.kind, refused.field.as_deref()), (ErrorKind::HostFailed, Some("<virtualport>")));
        let says = if hangs { "the switch did not decide in time" } else { "doesn't know the type (response 3)" };
        assert!(refused.cause.ends_with(says), "{refused}");
        host.reap();
        assert_eq!((host.records.clone(), host.kernel.links().cloned().collect::<Vec<_>>()), before);
        assert_eq!(holders(&host), 0);
        at_rest(&mut host);
        (host.switch.refuses, host.switch.hangs) = (false, false);
        attached(&mut host, "blue");
        at_rest(&mut host);
    }
}

#[test]
fn who_comes_with_a_pulled_cable_has_what_it_will_take_reserved() {
    let mut host = bed();
    let pulled = || Nic { link: Some(LinkState::Down), ..nic_on("red") };
    let id = nic(host.ask(attach("web", pulled())).unwrap().body).id;
    assert!(host.switch.given[&id].reserved);
    assert_eq!(host.switch.take(), ["(+)eth0"]);
    at_rest(&mut host);
    host.crash();
    host.settle();
    assert_eq!(host.switch.take(), ["(+)eth0"], "what is known of a switch after a crash is not certain");
    at_rest(&mut host);
    for (up, asked) in [(true, "+eth0"), (false, "-eth0"), (true, "+eth0")] {
        host.ask(Command::Link(id, up)).unwrap();
        assert_eq!(host.switch.take(), [asked]);
        at_rest(&mut host);
    }
    host.switch.refuses = true;
    let refused = host.ask(attach("db", pulled())).unwrap_err();
    assert_eq!(refused.field.as_deref(), Some("<virtualport>"));
    // But nobody is kept from pulling a cable.
    host.ask(Command::Link(id, false)).unwrap();
    host.switch.refuses = false;
    at_rest(&mut host);
    let moved = nic(host.ask(attach("db", pulled())).unwrap().body).id;
    host.switch.take();
    host.ask(Command::Modify(moved, Box::new(nic_on("blue")), Default::default())).unwrap();
    assert_eq!(host.switch.take(), ["-eth0", "+eth1"], "what was reserved is given back first");
    at_rest(&mut host);
}

#[test]
fn an_association_follows_the_nic() {
    let mut host = bed();
    let id = attached(&mut host, "red").id;
    let moves: [(&str, &[&str]); 5] = [
        ("blue", &["-eth0", "+eth1"]),
        ("red", &["-eth1", "+eth0"]),
        ("plain", &["-eth0"]),
        ("", &[]),
        ("red", &["+eth0"]),
    ];
    host.switch.take();
    for (to, asked) in moves {
        let to = if to.is_empty() { Nic::new(NicSource::None) } else { nic_on(to) };
        host.ask(Command::Modify(id, Box::new(to), Default::default())).unwrap();
        assert_eq!(host.switch.take(), asked);
        at_rest(&mut host);
    }
    // Its cable, and its network.
    for (command, asked) in [
        (Command::Link(id, false), "-eth0"),
        (Command::Link(id, true), "+eth0"),
        (Command::Stop("red".into()), "-eth0"),
    ] {
        host.ask(command).unwrap();
        assert_eq!(host.switch.take(), [asked]);
        at_rest(&mut host);
    }
    host.ask(Command::Create(associated("red", "vepa", &["eth0"]))).unwrap();
    assert_eq!(host.switch.take(), ["+eth0"]);
    // Its device.
    let index = host.kernel.link_named("eth0").unwrap().index;
    let gone: Vec<_> = host.kernel.macvlans_on(index).map(|l| l.index).chain([index]).collect();
    host.remove_link(index);
    gone.into_iter().for_each(|index| host.tell(Input::Observed(Change::Link(index, None))));
    at_rest(&mut host);
    assert_eq!(host.switch.take(), ["-eth0"]);
    let index = host.add_link("eth0", LinkKind::Other(String::new()));
    host.tell(Input::Observed(Change::Link(index, host.kernel.link(index).cloned())));
    at_rest(&mut host);
    assert_eq!(host.switch.take(), ["+eth0"]);
}

/// It stays on its device, down.
#[test]
fn a_macvtap_that_is_pulled_out_is_not_associated() {
    let mut host = bed();
    let macvtap = Nic { plug: Some(DevicePlug::Macvtap), ..nic_on("red") };
    let Command::Attach(mut wanted) = attach("web", macvtap) else { unreachable!() };
    wanted.handover = Handover::Name { uid: None };
    let id = nic(host.ask(Command::Attach(wanted)).unwrap().body).id;
    for (command, asked) in [
        (Command::ShowNic(id), "+eth0"),
        (Command::Link(id, false), "-eth0"),
        (Command::Link(id, true), "+eth0"),
        (Command::Stop("red".into()), "-eth0"),
    ] {
        host.ask(command).unwrap();
        assert_eq!(host.switch.take(), [asked]);
        at_rest(&mut host);
    }
}

#[test]
fn a_modification_that_the_switch_refuses_leaves_what_was() {
    let mut host = bed();
    let id = attached(&mut host, "red").id;
    let was = host.switch.given[&id].clone();
    let request = host.request(Command::Modify(id, Box::new(nic_on("blue")), Default::default()));
    // It refuses the new one, and takes the old one back.
    host.switch.hangs = true;
    host.settle();
    host.switch.hangs = false;
    host.end_associations();
    host.settle();
    let refused = host.replies.remove(&request).unwrap().unwrap_err();
    assert_eq!(refused.kind, ErrorKind::HostFailed, "{refused}");
    assert_eq!(host.switch.given, BTreeMap::from([(id, was)]));
    assert_eq!(nic(host.ask(Command::ShowNic(id)).unwrap().body).dev.as_deref(), Some("eth0"));
    assert_eq!(holders(&host), 1);
    at_rest(&mut host);
}

#[test]
fn what_could_not_be_ended_is_told_and_is_in_nobodys_way() {
    let mut host = bed();
    let id = attached(&mut host, "red").id;
    host.switch.keeps = true;
    let answer = host.ask(Command::Detach(id)).unwrap();
    assert!(answer.warnings[0].ends_with("was not told that its port is gone: lldpad does not answer"), "{answer:?}");
    let told = |e: &Event| matches!(e, Event::Drift { repaired: false, what, .. } if what.contains("not told"));
    assert!(host.events.iter().any(told), "{:?}", host.events);
    at_rest(&mut host);
}

#[test]
fn a_daemon_that_starts_asks_again_and_ends_what_nobody_wants() {
    let owner = Owner { pid: 100, start_time: 5 };
    // Killed before and after each of the effects of an attach, and of a detach.
    for effects in 0..30 {
        let mut host = bed();
        host.processes.insert(owner);
        let Command::Attach(mut wanted) = attach("mortal", nic_on("red")) else { unreachable!() };
        wanted.owner = Some(owner);
        let mortal = nic(host.ask(Command::Attach(wanted)).unwrap().body).id;
        let id = attached(&mut host, "red").id;
        host.request(Command::Detach(id));
        host.request(attach("db", nic_on("blue")));
        for _ in 0..effects {
            host.step();
        }
        host.processes.remove(&owner);
        host.switch.take();
        host.crash();
        at_rest(&mut host);
        assert!(!host.switch.given.contains_key(&mortal));
        assert!(host.switch.take().contains(&"-eth0".to_owned()), "{effects}");
        assert_eq!(host.switch.given.len(), host.engine.intent().nics().count());
    }
    let mut host = bed();
    let id = attached(&mut host, "red").id;
    host.switch.take();
    host.crash();
    at_rest(&mut host);
    assert_eq!(host.switch.take(), ["+eth0"], "whether the switch knows of it is not known");
    host.switch.refuses = true;
    host.crash();
    host.settle();
    assert_eq!(nic(host.ask(Command::ShowNic(id)).unwrap().body).state, NicState::Plugged, "it is tried again");
    host.switch.refuses = false;
    at_rest(&mut host);
    host.reboot("boot-2");
    host.switch.take();
    at_rest(&mut host);
    assert_eq!((host.switch.take(), host.engine.intent().nics().count()), (Vec::new(), 0));
}

#[test]
fn an_association_that_cant_be_written_down_is_not_asked_for() {
    let mut host = bed();
    let request = host.request(attach("web", nic_on("red")));
    for _ in 0..1000 {
        // When the tap is there, and before the association is written down.
        if host.kernel.links().any(|l| l.name == "pct0") {
            break;
        }
        host.step();
    }
    host.full = Full { run_state: true, ..Full::default() };
    host.settle();
    let refused = host.replies.remove(&request).unwrap().unwrap_err();
    assert!(refused.to_string().contains("no space left on device"), "{refused}");
    assert_eq!(host.switch.given.len(), 0);
    assert!(!host.switch.take().contains(&"+eth0".to_owned()));
    host.full = Full::default();
    at_rest(&mut host);
}
