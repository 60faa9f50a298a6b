//! Ports of libvirt's: what they get, and that their guests' taps find back into bridges.

use super::Host;
use super::functions::address;
use super::tests::{at_rest, host, nat, network, nic, nic_on, on_devices};
use crate::engine::{Attach, Body, Command, Event, Input, NicEvent, NicState, NicView, PortAttach};
use crate::merge::Precedence;
use crate::model::{DirectMode, LinkName, LinkState, MacAddr, Name, Nic, Plug};
use crate::plan::desired::{self, Resolved};
use crate::plan::rates::Shape;
use crate::plan::{Change, Handover, Index, Link, LinkKind};
use crate::{ErrorKind, Result};
use uuid::Uuid;

const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 1, 2, 3]);

pub(super) fn port(id: u128, guest: u128, network: &str, plug: Option<Plug>) -> Command {
    let nic = Nic { mac: Some(MAC), ..nic_on(network) };
    Command::Attach(Box::new(Attach {
        guest: Name::new(format!("guest{guest}")).unwrap(),
        guest_uuid: Some(Uuid::from_u128(guest)),
        nic,
        owner: None,
        handover: Handover::Name { uid: None },
        uid: 0,
        precedence: Precedence::Nic,
        reservation: None,
        port: Some(PortAttach { id: Uuid::from_u128(id), plug }),
        mac_unknown: false,
    }))
}

pub(super) fn made(host: &mut Host, command: Command) -> NicView {
    nic(host.ask(command).unwrap().body)
}

pub(super) fn show(host: &mut Host, id: u128) -> NicView {
    nic(host.ask(Command::ShowNic(Uuid::from_u128(id))).unwrap().body)
}

pub(super) fn document(host: &mut Host, id: u128) -> Result<String> {
    match host.ask(Command::PortXml { id: Uuid::from_u128(id), for_driver: true })?.body {
        Body::Xml(text) => Ok(text),
        other => panic!("{other:?} is no document"),
    }
}

/// libvirt's driver makes a tap, and puts it into a bridge.
pub(super) fn tap(host: &mut Host, bridge: Option<&str>) -> Index {
    tap_named(host, "vnet0", bridge)
}

fn tap_named(host: &mut Host, name: &str, bridge: Option<&str>) -> Index {
    let controller = bridge.map(|name| host.kernel.link_named(name).unwrap().index);
    let index = host.add_link(name, LinkKind::Tap);
    let link = Link { mac: Some(MAC.of_tap()), controller, ..host.kernel.link(index).unwrap().clone() };
    host.kernel.set_link(index, Some(link.clone()));
    host.tell(Input::Observed(Change::Link(index, Some(link))));
    host.settle();
    index
}

/// Somebody puts a tap into another bridge, or into none.
pub(super) fn put(host: &mut Host, name: &str, bridge: Option<&str>) {
    let controller = bridge.map(|name| host.kernel.link_named(name).unwrap().index);
    let link = Link { controller, ..host.kernel.link_named(name).unwrap().clone() };
    host.kernel.set_link(link.index, Some(link.clone()));
    host.tell(Input::Observed(Change::Link(link.index, Some(link))));
    host.settle();
}

fn controller(host: &Host) -> Option<String> {
    controller_of(host, "vnet0")
}

fn controller_of(host: &Host, name: &str) -> Option<String> {
    let tap = host.kernel.link_named(name).unwrap();
    tap.controller.and_then(|c| host.kernel.link(c)).map(|l| l.name.clone())
}

/// The id of a port in random histories.
pub(super) fn port_id(number: u8) -> Uuid {
    Uuid::from_u128(0xf000 + u128::from(number))
}

/// Its guest's address. Each has that of another one.
fn address_of(number: u8) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0xff, 0, number / 2])
}

impl Host {
    /// libvirt's driver asks for a port, or says what it had.
    pub(super) fn ask_for_port(&mut self, number: u8, nic: Nic, reclaim: bool) {
        let Command::Attach(mut wanted) = port(0, u128::from(number % 3), "any", None) else { unreachable!() };
        wanted.nic = Nic { mac: Some(address_of(number)), ..nic };
        let plug = self.kernel.link_named(&format!("vnet{number}")).filter(|_| reclaim).map(|link| {
            let on = link.controller.or(link.lower).and_then(|index| self.kernel.link(index));
            let on = LinkName::new(on.map_or("gone", |l| &l.name)).unwrap();
            match link.kind {
                LinkKind::Macvtap => Plug::Direct { dev: on, mode: link.mode },
                _ => Plug::Network { bridge: on, mac_table_manager: None },
            }
        });
        wanted.port = Some(PortAttach { id: port_id(number), plug });
        self.request(Command::Attach(wanted));
    }

    /// libvirt's driver makes a port's guest's link as the port says, or that goes with its guest.
    pub(super) fn make_or_end_link(&mut self, number: u8) {
        let name = format!("vnet{number}");
        if let Some(index) = self.kernel.link_named(&name).map(|l| l.index) {
            return self.remove_link(index);
        }
        let intent = self.engine.intent();
        let Some(port) = intent.nic(port_id(number)).filter(|nic| nic.is_port()) else { return };
        let named = |name: &LinkName| self.kernel.link_named(name.as_str()).map(|l| l.index);
        let (kind, mac, controller, lower, mode) = match desired::resolve(intent, port) {
            Resolved::Virtual(bridge, _) => (LinkKind::Tap, address_of(number).of_tap(), named(bridge), None, None),
            Resolved::Device(Some(device), mode, _) => {
                let Some(lower) = named(device) else { return };
                (LinkKind::Macvtap, address_of(number), None, Some(lower), Some(mode))
            }
            _ => return,
        };
        let index = self.add_link(&name, kind);
        let made = self.kernel.link(index).unwrap().clone();
        self.kernel.set_link(index, Some(Link { mac: Some(mac), controller, lower, mode, ..made }));
    }

    /// Somebody limits a port's guest's tap, in place of our limits there or `beside` one of them, or does so no longer.
    pub(super) fn limit_link(&mut self, number: u8, beside: bool) -> bool {
        let tap = self.kernel.link_named(&format!("vnet{number}")).filter(|link| link.kind == LinkKind::Tap);
        let Some(index) = tap.map(|tap| tap.index) else { return false };
        let was = self.kernel.shapes.get(&index).cloned().unwrap_or_default();
        let now = match (was.others, beside) {
            (true, _) => Shape { others: false, ..was },
            (false, true) => Shape { others: true, classes: Default::default(), ..was },
            (false, false) => {
                self.kernel.redirects.remove(&index);
                Shape { others: true, ..Shape::default() }
            }
        };
        self.kernel.take(Change::Shape(index, now));
        true
    }

    /// Somebody takes a port's guest's tap out of its bridge.
    pub(super) fn take_link_out(&mut self, number: u8) -> bool {
        let Some(link) = self.kernel.link_named(&format!("vnet{number}")).cloned() else { return false };
        self.kernel.set_link(link.index, Some(Link { controller: None, port: None, ..link }));
        true
    }
}

#[test]
fn a_port_says_where_its_guest_belongs_and_makes_nothing() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    let before = host.kernel.links().count();
    let view = made(&mut host, port(1, 7, "lab", None));
    assert_eq!((view.state, view.port, view.tap), (NicState::Waiting, true, None));
    assert_eq!(host.kernel.links().count(), before);
    let text = document(&mut host, 1).unwrap();
    assert!(text.contains("<plug type='network' bridge='virbr0'/>"), "{text}");
    assert!(text.contains("<name>guest7</name>") && text.contains("<mac address='52:54:00:01:02:03'/>"), "{text}");
    let twice = host.ask(port(1, 7, "lab", None)).unwrap_err();
    assert_eq!(twice.kind, ErrorKind::PortExists);
    host.crash();
    host.settle();
    assert_eq!(document(&mut host, 1).unwrap(), text);
    // One that is none of libvirt's has no such document.
    let own = made(&mut host, super::tests::attach("web", nic_on("lab"))).id;
    assert_eq!(host.ask(Command::PortXml { id: own, for_driver: true }).unwrap_err().kind, ErrorKind::NoPort);
    host.ask(Command::Detach(Uuid::from_u128(1))).unwrap();
    assert_eq!(document(&mut host, 1).unwrap_err().kind, ErrorKind::NoNic);
    at_rest(&mut host);
}

#[test]
fn a_guests_tap_finds_back_into_its_bridge() {
    let mut host = host();
    host.ask(Command::Define(nat("lab", 1))).unwrap();
    host.ask(Command::Start("lab".into())).unwrap();
    made(&mut host, port(1, 7, "lab", None));
    tap(&mut host, Some("virbr0"));
    let view = show(&mut host, 1);
    assert_eq!((view.state, view.tap.as_deref()), (NicState::Plugged, Some("vnet0")));
    assert_eq!(host.last_plan.steps.iter().filter(|s| s.op.to_string().contains("vnet0")).count(), 0);
    host.ask(Command::Stop("lab".into())).unwrap();
    assert_eq!(show(&mut host, 1).state, NicState::Parked);
    host.reap();
    assert_eq!(controller(&host), None);
    host.events.clear();
    host.ask(Command::Start("lab".into())).unwrap();
    assert_eq!(controller(&host).as_deref(), Some("virbr0"));
    assert_eq!(show(&mut host, 1).state, NicState::Plugged);
    assert!(!host.events.iter().any(|event| matches!(event, Event::Drift { .. })), "{:?}", host.events);
    // Who keeps it elsewhere has a reason.
    let elsewhere = host.add_link("br7", LinkKind::Bridge);
    let index = host.kernel.link_named("vnet0").unwrap().index;
    let moved = Link { controller: Some(elsewhere), ..host.kernel.link(index).unwrap().clone() };
    host.kernel.set_link(index, Some(moved));
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    host.settle();
    assert_eq!(controller(&host).as_deref(), Some("br7"));
    // With its port gone it is nobody's business.
    host.ask(Command::Detach(Uuid::from_u128(1))).unwrap();
    let out = Link { controller: None, ..host.kernel.link(index).unwrap().clone() };
    host.kernel.set_link(index, Some(out.clone()));
    host.tell(Input::Observed(Change::Link(index, Some(out))));
    host.settle();
    assert_eq!(controller(&host), None);
    assert!(host.kernel.link(index).is_some());
}

/// What became of NICs, as watchers were told since this was asked last.
fn told(host: &mut Host) -> Vec<NicEvent> {
    let of_nics = |event| if let Event::Nic { what, .. } = event { Some(what) } else { None };
    std::mem::take(&mut host.events).into_iter().filter_map(of_nics).collect()
}

#[test]
fn watchers_are_told_of_guests_that_others_plug_in_and_out() {
    use NicEvent::{Attached, Detached, Plugged, Unplugged};
    let mut host = host();
    host.add_link("br0", LinkKind::Bridge);
    host.add_link("eth0", LinkKind::Other(String::new()));
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    let office = "<network><name>office</name><forward mode='bridge'/><bridge name='br0'/></network>";
    for (definition, bridge) in
        [(nat("lab", 1), Some("virbr0")), (network(office), Some("br0")), (on_devices("dev", "vepa", &["eth0"]), None)]
    {
        let name = definition.name.to_string();
        host.ask(Command::Define(definition)).unwrap();
        host.ask(Command::Start(name.clone())).unwrap();
        made(&mut host, port(1, 7, &name, None));
        assert_eq!(told(&mut host), [Attached]);
        if let Some(bridge) = bridge {
            let index = tap(&mut host, Some(bridge));
            assert_eq!(told(&mut host), [Plugged], "{name}");
            let same = host.kernel.link(index).cloned();
            host.tell(Input::Observed(Change::Link(index, same)));
            assert_eq!(told(&mut host), []);
        }
        host.ask(Command::Stop(name.clone())).unwrap();
        host.reap();
        assert_eq!(told(&mut host), [Unplugged], "{name}");
        host.ask(Command::Start(name.clone())).unwrap();
        assert_eq!(told(&mut host), [Plugged], "{name}");
        host.crash();
        host.settle();
        assert_eq!(told(&mut host), [], "a daemon's start is no news");
        if let Some(index) = host.kernel.link_named("vnet0").map(|tap| tap.index) {
            host.kernel.set_link(index, None);
            host.tell(Input::Observed(Change::Link(index, None)));
            host.settle();
            assert_eq!(told(&mut host), [Unplugged], "{name}");
        }
        host.ask(Command::Detach(Uuid::from_u128(1))).unwrap();
        assert_eq!(told(&mut host), [Detached]);
    }
    at_rest(&mut host);
}

#[test]
fn a_guest_holds_one_device_however_often_its_driver_asks() {
    let mut host = host();
    for name in ["eth0", "eth1"] {
        host.add_link(name, LinkKind::Other(String::new()));
    }
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    host.ask(Command::Create(on_devices("pass", "passthrough", &["eth0"]))).unwrap();
    let first = made(&mut host, port(1, 7, "pass", None));
    assert_eq!((first.dev.as_deref(), first.state), (Some("eth0"), NicState::Plugged));
    let text = document(&mut host, 1).unwrap();
    assert!(text.contains("<plug type='direct' dev='eth0' mode='passthrough'/>"), "{text}");
    assert_eq!(made(&mut host, port(2, 7, "pass", None)).dev.as_deref(), Some("eth0"));
    let refused = host.ask(port(3, 8, "pass", None)).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::InUse);
    host.ask(Command::Detach(Uuid::from_u128(1))).unwrap();
    assert_eq!(host.ask(port(3, 8, "pass", None)).unwrap_err().kind, ErrorKind::InUse);
    host.crash();
    host.settle();
    assert_eq!(host.ask(port(3, 8, "pass", None)).unwrap_err().kind, ErrorKind::InUse);
    host.ask(Command::Detach(Uuid::from_u128(2))).unwrap();
    let third = made(&mut host, port(3, 8, "pass", None));
    assert_eq!(third.dev.as_deref(), Some("eth0"));
    // The guest's macvtap on its device is in nobody's way when its network comes back, or when it is claimed back.
    let lower = host.kernel.link_named("eth0").unwrap().index;
    let index = host.add_link("macvtap0", LinkKind::Macvtap);
    let macvtap = Link {
        lower: Some(lower),
        mode: Some(DirectMode::Passthrough),
        mac: Some(MAC),
        ..host.kernel.link(index).unwrap().clone()
    };
    host.kernel.set_link(index, Some(macvtap.clone()));
    host.tell(Input::Observed(Change::Link(index, Some(macvtap))));
    host.ask(Command::Stop("pass".into())).unwrap();
    host.ask(Command::Create(on_devices("pass", "passthrough", &["eth0"]))).unwrap();
    assert_eq!(show(&mut host, 3).dev.as_deref(), Some("eth0"));
    host.ask(Command::Detach(Uuid::from_u128(3))).unwrap();
    let plug = |dev: &str| Some(Plug::Direct { dev: LinkName::new(dev).unwrap(), mode: Some(DirectMode::Passthrough) });
    assert_eq!(made(&mut host, port(4, 8, "pass", plug("eth0"))).dev.as_deref(), Some("eth0"));
    let other = host.ask(port(5, 9, "pass", plug("eth1"))).unwrap_err();
    assert_eq!((other.kind, other.field.as_deref()), (ErrorKind::InvalidArgument, Some("<plug>")));
}

#[test]
fn the_cable_of_a_ports_guest_is_libvirts() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    made(&mut host, port(1, 7, "lab", None));
    tap(&mut host, Some("virbr0"));
    let id = Uuid::from_u128(1);
    let modify = |link| Command::Modify(id, Box::new(Nic { link, ..nic_on("lab") }), Precedence::Nic);
    for command in [Command::Link(id, false), Command::Link(id, true), modify(Some(LinkState::Down))] {
        let refused = host.ask(command).unwrap_err();
        assert_eq!((refused.kind, refused.field.as_deref()), (ErrorKind::Unsupported, Some("<link state>")));
        let hint = "use 'virsh domif-setlink guest7 52:54:00:01:02:03 up|down'";
        assert_eq!(refused.hint.as_deref(), Some(hint));
    }
    assert_eq!(show(&mut host, 1).state, NicState::Plugged);
    // As it is anyway, it may be said to be.
    host.ask(modify(Some(LinkState::Up))).unwrap();
    at_rest(&mut host);
}

#[test]
fn a_function_is_for_whoever_runs_the_guest_to_set() {
    let mut host = host();
    host.add_link("eth0", LinkKind::Other(String::new()));
    host.set_functions("eth0", &[(0, None)]);
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    let whole = "<network><name>whole</name><forward mode='hostdev' managed='yes'><pf dev='eth0'/></forward></network>";
    host.ask(Command::Create(network(whole))).unwrap();
    let view = made(&mut host, port(1, 7, "whole", None));
    assert_eq!((view.pci, view.state), (Some(address(0)), NicState::Plugged));
    assert_eq!(host.sysfs.take(), [""; 0]);
    let text = document(&mut host, 1).unwrap();
    assert!(text.contains("<plug type='hostdev-pci' managed='yes'>"), "{text}");
    assert!(text.contains("<address domain='0x0000' bus='0x3b' slot='0x02' function='0x0'/>"), "{text}");
    host.ask(Command::Detach(Uuid::from_u128(1))).unwrap();
    assert_eq!(host.sysfs.take(), [""; 0]);
    at_rest(&mut host);
}

#[test]
fn a_port_whose_guest_died_unseen_ends_and_one_that_waits_for_its_guest_does_not() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    made(&mut host, port(1, 7, "lab", None));
    host.settle_with_clock();
    assert_eq!(show(&mut host, 1).state, NicState::Waiting, "its guest may take its time");
    let vanish = |host: &mut Host| {
        let index = host.kernel.link_named("vnet0").unwrap().index;
        host.remove_link(index);
        host.tell(Input::Observed(Change::Link(index, None)));
        host.settle();
    };
    tap(&mut host, Some("virbr0"));
    vanish(&mut host);
    assert_eq!(show(&mut host, 1).state, NicState::Waiting);
    // It comes back, as after a guest that is plugged in anew, and goes with the daemon away.
    tap(&mut host, Some("virbr0"));
    host.settle_with_clock();
    assert_eq!(show(&mut host, 1).state, NicState::Plugged);
    let index = host.kernel.link_named("vnet0").unwrap().index;
    host.remove_link(index);
    host.crash();
    host.settle();
    assert_eq!(show(&mut host, 1).state, NicState::Waiting, "there is time to claim it back");
    host.events.clear();
    host.settle_with_clock();
    assert_eq!(host.ask(Command::ShowNic(Uuid::from_u128(1))).unwrap_err().kind, ErrorKind::NoNic);
    assert!(host.events.iter().any(|event| matches!(event, Event::Nic { what: NicEvent::OwnerGone, .. })));
    at_rest(&mut host);
}

#[test]
fn guests_of_one_address_on_two_networks_keep_their_ports_and_their_bridges() {
    let mut host = host();
    for (n, name) in [(1, "red"), (2, "blue")] {
        host.ask(Command::Define(nat(name, n))).unwrap();
        host.ask(Command::Start(name.into())).unwrap();
    }
    made(&mut host, port(1, 7, "red", None));
    made(&mut host, port(2, 8, "blue", None));
    // A tap in another port's bridge is that port's, also while the other guest has none.
    tap_named(&mut host, "vnet1", Some("virbr1"));
    assert_eq!((show(&mut host, 1).tap, show(&mut host, 2).tap.as_deref()), (None, Some("vnet1")));
    put(&mut host, "vnet1", None);
    host.settle_with_clock();
    assert_eq!(controller_of(&host, "vnet1").as_deref(), Some("virbr1"));
    tap(&mut host, Some("virbr0"));
    host.settle_with_clock();
    for (id, name) in [(1, "vnet0"), (2, "vnet1")] {
        let view = show(&mut host, id);
        assert_eq!((view.state, view.tap.as_deref()), (NicState::Plugged, Some(name)));
    }
    host.ask(Command::Stop("blue".into())).unwrap();
    host.reap();
    host.settle_with_clock();
    assert_eq!(controller_of(&host, "vnet1"), None, "it is none of red's");
    host.ask(Command::Start("blue".into())).unwrap();
    assert_eq!(controller_of(&host, "vnet1").as_deref(), Some("virbr1"));
    // With both networks down nobody can tell whose is which, and nobody's guest is gone.
    for name in ["red", "blue"] {
        host.ask(Command::Stop(name.into())).unwrap();
    }
    host.reap();
    host.settle_with_clock();
    host.ask(Command::Start("red".into())).unwrap();
    host.settle_with_clock();
    assert_eq!((controller_of(&host, "vnet0"), controller_of(&host, "vnet1")), (None, None));
    assert!([1, 2].iter().all(|id| show(&mut host, *id).port));
}

#[test]
fn a_function_that_stands_in_for_a_tap_of_the_same_address_does_not_end_with_it() {
    let mut host = host();
    host.add_link("eth0", LinkKind::Other(String::new()));
    host.set_functions("eth0", &[(0, None)]);
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    let whole = "<network><name>whole</name><forward mode='hostdev' managed='yes'><pf dev='eth0'/></forward></network>";
    host.ask(Command::Create(network(whole))).unwrap();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    // As for virtio's failover: two NICs of one guest and address.
    made(&mut host, port(1, 7, "lab", None));
    made(&mut host, port(2, 7, "whole", None));
    let index = tap(&mut host, Some("virbr0"));
    assert_eq!(show(&mut host, 2).tap, None);
    host.remove_link(index);
    host.tell(Input::Observed(Change::Link(index, None)));
    host.settle_with_clock();
    assert_eq!(host.ask(Command::ShowNic(Uuid::from_u128(1))).unwrap_err().kind, ErrorKind::NoNic);
    assert_eq!(show(&mut host, 2).pci, Some(address(0)));
}

#[test]
fn what_a_driver_does_with_a_tap_is_not_interfered_with() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    made(&mut host, port(1, 7, "lab", None));
    // It makes a tap first, and then puts it into its bridge, which would fail were it in there.
    let index = tap(&mut host, None);
    host.settle_with_clock();
    assert_eq!(controller(&host), None);
    put(&mut host, "vnet0", Some("virbr0"));
    assert_eq!(show(&mut host, 1).state, NicState::Plugged);
    // Likewise when it moves it from one bridge to another.
    host.add_link("br7", LinkKind::Bridge);
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    put(&mut host, "vnet0", None);
    assert_eq!(controller(&host), None);
    put(&mut host, "vnet0", Some("br7"));
    host.settle_with_clock();
    assert_eq!(controller(&host).as_deref(), Some("br7"));
    put(&mut host, "vnet0", None);
    host.settle_with_clock();
    assert_eq!(controller(&host).as_deref(), Some("virbr0"));
    host.remove_link(index);
}

#[test]
fn a_port_on_a_device_knows_its_link_whatever_its_network_becomes() {
    let mut host = host();
    host.add_link("eth0", LinkKind::Other(String::new()));
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    host.ask(Command::Define(on_devices("lab", "bridge", &["eth0"]))).unwrap();
    host.ask(Command::Start("lab".into())).unwrap();
    made(&mut host, port(1, 7, "lab", None));
    let lower = host.kernel.link_named("eth0").unwrap().index;
    let index = host.add_link("macvtap0", LinkKind::Macvtap);
    let mode = Some(DirectMode::Bridge);
    let link = Link { lower: Some(lower), mode, mac: Some(MAC), ..host.kernel.link(index).unwrap().clone() };
    host.kernel.set_link(index, Some(link.clone()));
    host.tell(Input::Observed(Change::Link(index, Some(link))));
    host.ask(Command::Stop("lab".into())).unwrap();
    let uuid = host.engine.intent().networks().next().unwrap().0;
    let again = crate::model::Network { uuid: Some(uuid), ..*nat("lab", 1) };
    host.ask(Command::Define(Box::new(again))).unwrap();
    host.ask(Command::Start("lab".into())).unwrap();
    host.settle_with_clock();
    assert_eq!(show(&mut host, 1).tap.as_deref(), Some("macvtap0"));
}

#[test]
fn a_port_of_an_id_that_was_used_before_gets_all_the_time_there_is() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    let vanish = |host: &mut Host, index| {
        host.remove_link(index);
        host.tell(Input::Observed(Change::Link(index, None)));
        host.settle();
    };
    made(&mut host, port(1, 7, "lab", None));
    let index = tap(&mut host, Some("virbr0"));
    vanish(&mut host, index);
    host.ask(Command::Detach(Uuid::from_u128(1))).unwrap();
    host.settle_with_clock();
    made(&mut host, port(1, 7, "lab", None));
    let index = tap(&mut host, Some("virbr0"));
    vanish(&mut host, index);
    assert_eq!(show(&mut host, 1).state, NicState::Waiting);
}

#[test]
fn a_port_that_is_going_is_gone_before_it_is_made_again() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    made(&mut host, port(1, 7, "lab", None));
    host.install_hook(true);
    host.settle();
    host.hook.hangs = true;
    let deleted = host.request(Command::Detach(Uuid::from_u128(1)));
    let again = host.request(port(1, 7, "lab", None));
    host.settle();
    host.hook.hangs = false;
    host.end_hooks();
    host.settle();
    assert!(host.replies.remove(&deleted).expect("an answer").is_ok());
    host.replies.remove(&again).expect("an answer").unwrap();
    at_rest(&mut host);
}

#[test]
fn guests_have_addresses_from_when_their_attach_is_answered_until_their_detach_is() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    let known = |host: &mut Host| match host.ask(Command::ListAddresses("lab".into())).unwrap().body {
        Body::Addresses(all) => all.into_iter().map(|(guest, mac)| format!("{guest} {mac}")).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let guest = "guest7 52:54:00:01:02:03";
    host.install_hook(true);
    host.settle();
    host.hook.hangs = true;
    let attach = host.request(port(1, 7, "lab", None));
    host.settle();
    assert_eq!(known(&mut host), [""; 0], "it is not attached yet");
    host.hook.hangs = false;
    host.end_hooks();
    host.settle();
    assert_eq!(host.replies.remove(&attach).expect("an answer").unwrap_err().kind, ErrorKind::HookFailed);
    assert_eq!(known(&mut host), [""; 0]);
    made(&mut host, port(1, 7, "lab", None));
    assert_eq!(known(&mut host), [guest]);
    host.hook.hangs = true;
    let detach = host.request(Command::Detach(Uuid::from_u128(1)));
    host.settle();
    assert_eq!(known(&mut host), [guest], "it may come back");
    host.hook.hangs = false;
    host.end_hooks();
    host.settle();
    host.replies.remove(&detach).expect("an answer").unwrap();
    assert_eq!(known(&mut host), [""; 0]);
}

#[test]
fn a_port_stays_on_its_network() {
    let mut host = host();
    for (n, name) in [(1, "lab"), (2, "other")] {
        host.ask(Command::Create(nat(name, n))).unwrap();
    }
    made(&mut host, port(1, 7, "lab", None));
    let to = |network| Command::Modify(Uuid::from_u128(1), Box::new(nic_on(network)), Precedence::Nic);
    let refused = host.ask(to("other")).unwrap_err();
    assert_eq!((refused.kind, refused.field.as_deref()), (ErrorKind::Unsupported, Some("<source>")));
    host.ask(to("lab")).unwrap();
    at_rest(&mut host);
}
