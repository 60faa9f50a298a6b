//! Networks that start by themselves, whenever their uplink comes, and as long as nobody decides otherwise.

use super::Host;
use super::devices::appears;
use super::tests::{host, network};
use crate::engine::{Body, Command, Input};
use crate::plan::Change;

/// A host that has booted without the uplink of a network that starts by itself.
fn booted() -> Host {
    let mut host = host();
    host.ask(Command::Define(network(
        "<network><name>lab</name><forward mode='nat' dev='up0'/><ip address='10.0.1.1' prefix='24'/></network>",
    )))
    .unwrap();
    host.ask(Command::Autostart("lab".into(), true)).unwrap();
    host.reboot("boot-2");
    host.settle();
    assert!(!is_active(&mut host), "it has no uplink");
    host
}

fn is_active(host: &mut Host) -> bool {
    let Ok(answer) = host.ask(Command::ShowNetwork("lab".into())) else { panic!("no network") };
    let Body::Network(view) = answer.body else { panic!("no network") };
    view.active
}

#[test]
fn a_network_starts_when_its_uplink_comes_or_gets_its_name() {
    let mut host = booted();
    let index = appears(&mut host, "eth0");
    assert!(!is_active(&mut host));
    // As udev names it, right after it came.
    let mut link = host.kernel.link(index).cloned().unwrap();
    link.name = "up0".into();
    host.kernel.set_link(index, Some(link.clone()));
    host.tell(Input::Observed(Change::Link(index, Some(link))));
    host.settle();
    assert!(is_active(&mut host));
    assert_eq!(host.check(), [""; 0]);
}

#[test]
fn a_network_starts_when_its_uplink_is_seen_after_announcements_were_lost() {
    let mut host = booted();
    host.add_link("up0", crate::plan::LinkKind::Other(String::new()));
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    host.settle();
    assert!(is_active(&mut host));
    assert_eq!(host.check(), [""; 0]);
}

#[test]
fn a_network_behind_another_one_starts_after_it() {
    let mut host = host();
    // It comes first by name and by UUID, and its uplink is the bridge of the other one.
    for (name, number, dev) in [("a", 1, " dev='brb'"), ("b", 2, "")] {
        let uuid = uuid::Uuid::from_u128(number);
        host.ask(Command::Define(network(&format!(
            "<network><name>{name}</name><uuid>{uuid}</uuid><forward mode='nat'{dev}/><bridge name='br{name}'/>
             <ip address='10.0.{number}.1' prefix='24'/></network>"
        ))))
        .unwrap();
        host.ask(Command::Autostart(name.into(), true)).unwrap();
    }
    host.reboot("boot-2");
    host.settle();
    assert!(host.engine.intent().networks().all(|(_, network)| network.active.is_some()));
    assert_eq!(host.check(), [""; 0]);
}

#[test]
fn whoever_decides_meanwhile_decides() {
    type Decision = fn(&mut Host);
    let off: Decision = |host| drop(host.ask(Command::Autostart("lab".into(), false)).unwrap());
    let stopped: Decision = |host| {
        host.ask(Command::Start("lab".into())).unwrap();
        host.ask(Command::Stop("lab".into())).unwrap();
    };
    let gone: Decision = |host| drop(host.ask(Command::Undefine("lab".into())).unwrap());
    for decide in [off, stopped, gone] {
        let mut host = booted();
        decide(&mut host);
        appears(&mut host, "up0");
        host.settle_with_clock();
        assert!(host.engine.intent().networks().all(|(_, network)| network.active.is_none()));
        assert_eq!(host.check(), [""; 0]);
    }
}

#[test]
fn what_is_asked_for_as_the_uplink_comes_is_answered() {
    for steps in 0..20 {
        let mut host = booted();
        let update = host.request(Command::Define(network(
            "<network><name>lab</name><forward mode='nat' dev='up0'/><ip address='10.0.2.1' prefix='24'/></network>",
        )));
        for _ in 0..steps {
            host.step();
        }
        appears(&mut host, "up0");
        assert!(host.replies[&update].is_ok());
        assert!(is_active(&mut host), "after {steps} steps");
        assert_eq!(host.check(), [""; 0]);
    }
}

#[test]
fn a_stop_under_way_is_answered_and_holds() {
    for steps in 0..20 {
        let mut host = booted();
        host.ask(Command::Start("lab".into())).unwrap();
        let stop = host.request(Command::Stop("lab".into()));
        for _ in 0..steps {
            host.step();
        }
        appears(&mut host, "up0");
        host.settle_with_clock();
        assert!(host.replies[&stop].is_ok());
        assert!(!is_active(&mut host), "after {steps} steps");
    }
}
