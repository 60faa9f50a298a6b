//! NICs that wait for a device of their network: who gets which, and when.

use super::Host;
use super::devices::{appears, attached, switchboard, vanishes};
use super::tests::{at_rest, attach, nic, nic_on, on_devices};
use crate::ErrorKind;
use crate::engine::{
    Answer, Body, Command, DeviceView, Effect, Event, Free, Input, NicEvent, NicState, NicView, RecordKey,
};
use crate::intent::{NicIntent, Owner};
use crate::model::{DirectMode, ForwardMode, Name, Nic, UpdateCommand, UpdateSection};
use crate::plan::{Change, Handover, Link, LinkKind};

impl Host {
    /// NICs that wait for a device while there is one of their network's that anybody could have.
    pub(super) fn check_waiting(&mut self) -> Vec<String> {
        let Ok(Answer { body: Body::Devices(devices), .. }) = self.ask(Command::ListDevices) else {
            panic!("no devices")
        };
        let listed = |of: &DeviceView, network: &Name| {
            of.networks.iter().any(|(name, mode)| name == network.as_str() && *mode != ForwardMode::Hostdev)
        };
        // The descriptors of a macvtap that is gone are of no use any more.
        let waits = |nic: &&NicIntent| {
            let lost = nic.is_macvtap() && nic.handover == Handover::Descriptor;
            nic.allocation.is_none() && !nic.is_port() && !lost
        };
        let intent = self.engine.intent();
        let in_vain = intent.nics().filter(waits).filter_map(|nic| {
            let network = &intent.active_network_of(nic)?.name;
            let free = devices.iter().find(|of| of.free == Free::Exclusive && listed(of, network))?;
            Some(format!("NIC {} waits, and {} is free", nic.id, free.name))
        });
        in_vain.collect()
    }
}

/// Attaches a NIC that may wait.
fn patient(host: &mut Host, guest: &str, network: &str) -> NicView {
    nic(host.ask(attach(guest, Nic { optional: true, ..nic_on(network) })).unwrap().body)
}

/// The states and devices of these NICs.
fn places(host: &mut Host, nics: &[&NicView]) -> Vec<(NicState, Option<String>)> {
    let view = |nic_: &&NicView| nic(host.ask(Command::ShowNic(nic_.id)).unwrap().body);
    nics.iter().map(view).map(|view| (view.state, view.dev)).collect()
}

const WAITS: (NicState, Option<String>) = (NicState::Waiting, None);

fn on(device: &str) -> (NicState, Option<String>) {
    (NicState::Plugged, Some(device.to_owned()))
}

#[test]
fn who_waits_for_a_pool_gets_its_devices_as_they_come_in_order_of_attaching() {
    let mut host = switchboard();
    vanishes(&mut host, "eth2");
    vanishes(&mut host, "eth3");
    let guests: Vec<NicView> = ["c", "a", "b"].iter().map(|guest| patient(&mut host, guest, "pass")).collect();
    let [first, second, third] = &guests[..] else { unreachable!() };
    let all = [first, second, third];
    assert_eq!(places(&mut host, &all), [WAITS, WAITS, WAITS]);
    at_rest(&mut host);
    // What is there after a start, and who is first, is known from the records.
    host.crash();
    host.settle();
    assert_eq!(places(&mut host, &all), [WAITS, WAITS, WAITS]);
    host.events.clear();
    appears(&mut host, "eth3");
    assert_eq!(places(&mut host, &all), [on("eth3"), WAITS, WAITS]);
    let plugged = |e: &Event| matches!(e, Event::Nic { nic, what: NicEvent::Plugged } if nic.id == first.id);
    assert!(host.events.iter().any(plugged), "{:?}", host.events);
    assert!(!host.events.iter().any(|e| matches!(e, Event::Drift { .. })), "it is no repair: {:?}", host.events);
    at_rest(&mut host);
    // It comes while there is no daemon.
    host.add_link("eth2", LinkKind::Other(String::new()));
    host.crash();
    host.settle();
    assert_eq!(places(&mut host, &all), [on("eth3"), on("eth2"), WAITS]);
    at_rest(&mut host);
    // A NIC that has a device keeps it, also while that is away.
    vanishes(&mut host, "eth3");
    assert_eq!(places(&mut host, &all)[0], (NicState::Waiting, Some("eth3".into())));
    assert_eq!(places(&mut host, &all)[2], WAITS);
    appears(&mut host, "eth3");
    assert_eq!(places(&mut host, &all), [on("eth3"), on("eth2"), WAITS]);
    // What its holder gives back goes to who waits, and not to who comes later.
    host.ask(Command::Detach(second.id)).unwrap();
    assert_eq!(places(&mut host, &[first, third]), [on("eth3"), on("eth2")]);
    assert_eq!(host.ask(attach("late", nic_on("pass"))).unwrap_err().kind, ErrorKind::InUse);
    at_rest(&mut host);
    host.crash();
    at_rest(&mut host);
    assert_eq!(places(&mut host, &[first, third]), [on("eth3"), on("eth2")]);
}

#[test]
fn who_waits_gets_a_device_that_is_free_for_any_reason() {
    let mut host = switchboard();
    vanishes(&mut host, "eth1");
    let eth0 = host.kernel.link_named("eth0").unwrap().clone();
    let observe = |host: &mut Host, link: Link| {
        host.kernel.set_link(link.index, Some(link.clone()));
        host.tell(Input::Observed(Change::Link(link.index, Some(link))));
        host.settle();
    };
    // Somebody's bridge has it, and lets it go.
    let bridge = host.kernel.link_named("br0").unwrap().index;
    observe(&mut host, Link { controller: Some(bridge), ..eth0.clone() });
    vanishes(&mut host, "eth2");
    vanishes(&mut host, "eth3");
    let waiting = patient(&mut host, "a", "pass");
    host.ask(Command::Create(on_devices("also", "passthrough", &["eth0", "eth9"]))).unwrap();
    // It has lost its device at a start of its network.
    observe(&mut host, eth0.clone());
    let parked = attached(&mut host, "p", "also");
    host.ask(Command::Stop("also".into())).unwrap();
    observe(&mut host, Link { controller: Some(bridge), ..eth0.clone() });
    host.ask(Command::Create(on_devices("also", "passthrough", &["eth0", "eth9"]))).unwrap();
    assert_eq!(places(&mut host, &[&parked, &waiting]), [WAITS, WAITS]);
    observe(&mut host, eth0.clone());
    assert_eq!(places(&mut host, &[&parked, &waiting]), [on("eth0"), WAITS]);
    at_rest(&mut host);
    // A macvlan of others' was in the way.
    host.ask(Command::Detach(parked.id)).unwrap();
    vanishes(&mut host, "eth0");
    let later = patient(&mut host, "b", "pass0");
    let lower = host.add_link("eth0", LinkKind::Other(String::new()));
    let theirs = host.add_link("theirs", LinkKind::Macvlan);
    let link = Link { lower: Some(lower), mode: Some(DirectMode::Bridge), ..host.kernel.link(theirs).unwrap().clone() };
    observe(&mut host, link);
    let link = host.kernel.link(lower).unwrap().clone();
    observe(&mut host, link);
    assert_eq!(places(&mut host, &[&later]), [WAITS]);
    host.remove_link(theirs);
    host.tell(Input::Observed(Change::Link(theirs, None)));
    host.settle();
    assert_eq!(places(&mut host, &[&later]), [on("eth0")]);
    // Its network lists a device more.
    let xml = "<forward mode='passthrough'><interface dev='eth1'/><interface dev='eth2'/></forward>".to_owned();
    appears(&mut host, "eth1");
    host.ask(Command::Update {
        network: "pass".into(),
        command: UpdateCommand::Modify,
        section: UpdateSection::Forward,
        parent: None,
        xml,
        live: true,
        config: false,
    })
    .unwrap();
    assert_eq!(places(&mut host, &[&waiting]), [on("eth1")]);
    at_rest(&mut host);
}

#[test]
fn a_reservation_and_a_gone_owner_leave_their_device_to_who_waits() {
    let mut host = switchboard();
    vanishes(&mut host, "eth2");
    vanishes(&mut host, "eth3");
    let waiting = ["a", "b"].map(|guest| patient(&mut host, guest, "pass"));
    host.ask(Command::Create(on_devices("other", "passthrough", &["eth2"]))).unwrap();
    host.ask(Command::Create(on_devices("same", "passthrough", &["eth3"]))).unwrap();
    host.ask(Command::Stop("pass".into())).unwrap();
    appears(&mut host, "eth2");
    appears(&mut host, "eth3");
    let Command::Attach(mut reserved) = attach("r", nic_on("other")) else { unreachable!() };
    host.ask(Command::Check(reserved.clone(), Some(30))).unwrap();
    let owner = Owner { pid: 100, start_time: 5 };
    host.processes.insert(owner);
    (reserved.nic, reserved.owner) = (nic_on("same"), Some(owner));
    host.ask(Command::Attach(reserved)).unwrap();
    host.ask(Command::Create(on_devices("pass", "passthrough", &["eth2", "eth3"]))).unwrap();
    let [a, b] = &waiting;
    assert_eq!(places(&mut host, &[a, b]), [WAITS, WAITS]);
    host.kill(owner);
    host.settle();
    assert_eq!(places(&mut host, &[a, b]), [on("eth3"), WAITS]);
    host.settle_with_clock();
    assert_eq!(places(&mut host, &[a, b]), [on("eth3"), on("eth2")]);
    at_rest(&mut host);
}

#[test]
fn a_device_is_written_down_before_it_is_used() {
    let mut host = switchboard();
    vanishes(&mut host, "eth2");
    vanishes(&mut host, "eth3");
    let waiting = patient(&mut host, "a", "pass");
    let index = host.add_link("eth2", LinkKind::Other(String::new()));
    let link = host.kernel.link(index).cloned();
    let effects = host.engine.handle(0, Input::Observed(Change::Link(index, link)));
    let at = |what: &dyn Fn(&Effect) -> bool| effects.iter().position(what).unwrap();
    let written = at(&|e| {
        matches!(e, Effect::Persist(r) if r.key == RecordKey::Nic(waiting.id)
        && r.content.as_ref().is_some_and(|text| text.contains("dev='eth2'")))
    });
    assert!(written < at(&|e| matches!(e, Effect::Apply(..))), "{effects:?}");
}
