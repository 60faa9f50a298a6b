//! NICs on devices: who gets which, and how a tap moves between them, bridges and nothing.

use super::Host;
use super::tests::{at_rest, attach, host, nat, network, nic, nic_on, on_devices, on_open_vswitch};
use crate::ErrorKind;
use crate::engine::{Command, DeviceEvent, Event, NicState, NicView};
use crate::model::{DirectMode, Nic, NicSource};
use crate::plan::{Change, Index, LinkKind, LinkRef, MarkKind, Op};
use crate::{engine::Input, xml};

/// A host with devices eth0 to eth3 and a bridge br0, and networks of every kind.
pub(super) fn switchboard() -> Host {
    let mut host = host();
    for name in ["eth0", "eth1", "eth2", "eth3"] {
        host.add_link(name, LinkKind::Other(String::new()));
    }
    host.add_link("br0", LinkKind::Bridge);
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    host.ask(Command::Create(nat("nat", 1))).unwrap();
    host.ask(Command::Create(network(
        "<network><name>outside</name><forward mode='bridge'/><bridge name='br0'/></network>",
    )))
    .unwrap();
    for (name, mode, devices) in [
        ("vepa", "vepa", &["eth0", "eth1"][..]),
        ("private", "private", &["eth0"]),
        ("bridge", "bridge", &["eth0"]),
        ("pass", "passthrough", &["eth2", "eth3"]),
        ("pass0", "passthrough", &["eth0"]),
    ] {
        host.ask(Command::Create(on_devices(name, mode, devices))).unwrap();
    }
    host.ask(Command::Create(on_open_vswitch("ovs"))).unwrap();
    host
}

pub(super) fn attached(host: &mut Host, guest: &str, network: &str) -> NicView {
    nic(host.ask(attach(guest, nic_on(network))).unwrap().body)
}

pub(super) fn appears(host: &mut Host, name: &str) -> Index {
    let index = host.add_link(name, LinkKind::Other(String::new()));
    let link = host.kernel.link(index).cloned();
    host.tell(Input::Observed(Change::Link(index, link)));
    host.settle();
    index
}

pub(super) fn vanishes(host: &mut Host, name: &str) {
    let index = host.kernel.link_named(name).unwrap().index;
    let uppers: Vec<Index> = host.kernel.macvlans_on(index).map(|l| l.index).collect();
    host.remove_link(index);
    for gone in uppers.into_iter().chain([index]) {
        host.tell(Input::Observed(Change::Link(gone, None)));
    }
    host.settle();
}

#[test]
fn a_pool_is_shared_evenly_and_a_nic_is_joined_to_its_device() {
    let mut host = switchboard();
    let got: Vec<_> = (0..4).map(|n| attached(&mut host, &format!("g{n}"), "vepa").dev.unwrap()).collect();
    assert_eq!(got, ["eth0", "eth1", "eth0", "eth1"]);
    let view = attached(&mut host, "last", "private");
    assert_eq!((view.state, view.actual, view.mode), (NicState::Plugged, "direct", Some(DirectMode::Private)));
    at_rest(&mut host);
    let Ok(answer) = host.ask(Command::NicXml { id: view.id, inactive: false }) else { panic!("no document") };
    let crate::engine::Body::Xml(text) = answer.body else { panic!("no document") };
    assert!(text.contains("<interface type='direct'>"), "{text}");
    assert!(text.contains("<source network='private' dev='eth0' mode='private'/>"), "{text}");
}

#[test]
fn a_network_stops_whatever_its_nics_are_told_meanwhile() {
    for (what, steps) in (0..2).flat_map(|what| (0..40).map(move |steps| (what, steps))) {
        let mut host = switchboard();
        let nics = ["a", "b", "c"].map(|guest| attached(&mut host, guest, "vepa"));
        host.request(Command::Stop("vepa".into()));
        for _ in 0..steps {
            host.step();
        }
        for nic in &nics {
            host.request(match what {
                0 => Command::Detach(nic.id),
                _ => Command::Modify(nic.id, Box::new(nic_on("nat")), Default::default()),
            });
            host.overtake();
        }
        host.settle();
        assert!(host.unanswered.is_empty(), "{:?} after {steps} steps, {what}", host.unanswered);
    }
}

#[test]
fn exclusive_devices_run_out_and_the_refusal_names_their_holders() {
    let mut host = switchboard();
    let first = attached(&mut host, "a", "pass");
    let second = attached(&mut host, "b", "pass");
    assert_eq!((first.dev.as_deref(), second.dev.as_deref()), (Some("eth2"), Some("eth3")));
    let refused = host.ask(attach("c", nic_on("pass"))).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::InUse);
    let text = refused.to_string();
    assert!(text.contains(&format!("eth2 is held exclusively by guest 'a' (NIC {})", first.id)), "{text}");
    assert!(text.contains("eth3 is held exclusively by guest 'b'"), "{text}");
    // Two networks can't hand out one device, one of them exclusively.
    attached(&mut host, "d", "vepa");
    let refused = host.ask(attach("e", nic_on("pass0"))).unwrap_err().to_string();
    assert!(refused.contains("eth0 is held by guest 'd'"), "{refused}");
    at_rest(&mut host);
    host.ask(Command::Detach(first.id)).unwrap();
    assert_eq!(attached(&mut host, "c", "pass").dev.as_deref(), Some("eth2"));
    at_rest(&mut host);
    let held: Vec<_> = host.engine.intent().pool().usage().map(|u| u.holders.len()).collect();
    host.crash();
    host.settle();
    assert_eq!(host.engine.intent().pool().usage().map(|u| u.holders.len()).collect::<Vec<_>>(), held);
    at_rest(&mut host);
}

/// Every backend that a tap can be plugged into, and the way between each two of them.
#[test]
fn a_nic_moves_from_anything_to_anything() {
    let places = ["vepa", "private", "bridge", "pass", "pass0", "nat", "outside", "ovs", ""];
    let to = |place: &str| if place.is_empty() { Nic::new(NicSource::None) } else { nic_on(place) };
    for from in places {
        for next in places {
            let mut host = switchboard();
            let id = nic(host.ask(attach("web", to(from))).unwrap().body).id;
            let tap = host.kernel.link_marked(MarkKind::Tap, id).unwrap().index;
            let moved = host.ask(Command::Modify(id, Box::new(to(next)), Default::default()));
            let state = nic(moved.unwrap_or_else(|e| panic!("{from} to {next}: {e}")).body).state;
            let wanted = if next.is_empty() { NicState::Unplugged } else { NicState::Plugged };
            assert_eq!(state, wanted, "{from} to {next}");
            assert_eq!(host.kernel.link_marked(MarkKind::Tap, id).unwrap().index, tap, "{from} to {next}");
            at_rest(&mut host);
            host.crash();
            at_rest(&mut host);
        }
    }
}

/// Moves a NIC, and gives the steps that it took, with links' names for their indexes.
fn steps(host: &mut Host, id: uuid::Uuid, to: &Nic) -> String {
    let before = host.kernel.clone();
    host.ask(Command::Modify(id, Box::new(to.clone()), Default::default())).unwrap();
    let named = |word: &str| {
        let link = before.links().find(|l| LinkRef::Index(l.index).to_string() == word);
        link.map_or_else(|| word.to_owned(), |l| l.name.clone())
    };
    let line = |op: &Op| op.to_string().split(' ').map(named).collect::<Vec<_>>().join(" ") + "\n";
    let text = host.last_plan.steps.iter().map(|step| line(&step.op)).collect();
    at_rest(host);
    text
}

#[test]
fn the_new_way_is_there_before_the_old_one_goes() {
    let fixed = |place: &str| {
        let text = format!(
            "<interface type='network'><mac address='52:54:00:00:00:01'/><source network='{place}'/></interface>"
        );
        xml::read_nic(&text).unwrap()
    };
    let mut host = switchboard();
    let id = nic(host.ask(attach("web", fixed("vepa"))).unwrap().body).id;
    at_rest(&mut host);
    let mut all = String::new();
    for to in ["pass", "vepa", "private", "pass0", "bridge", "outside", "nat", "vepa", ""] {
        let moved = if to.is_empty() { Nic::new(NicSource::None) } else { fixed(to) };
        all += &format!("to '{to}':\n{}", steps(&mut host, id, &moved));
    }
    insta::assert_snapshot!(all, @"
    to 'pass':
    ip link add pcm1 link eth2 address 52:54:00:00:00:01 mtu 1500 type macvlan mode passthru
    tc filter replace dev (made by step 0) ingress protocol all u32 match u32 0 0 action mirred egress redirect dev pct0
    ip link set (made by step 0) up
    tc filter replace dev pct0 ingress protocol all u32 match u32 0 0 action mirred egress redirect dev (made by step 0)
    announce 52:54:00:00:00:01 on pct0
    ip link del pcm0
    to 'vepa':
    ip link add pcm2 link eth0 address 52:54:00:00:00:01 mtu 1500 type macvlan mode vepa
    tc filter replace dev (made by step 0) ingress protocol all u32 match u32 0 0 action mirred egress redirect dev pct0
    ip link set (made by step 0) up
    tc filter replace dev pct0 ingress protocol all u32 match u32 0 0 action mirred egress redirect dev (made by step 0)
    announce 52:54:00:00:00:01 on pct0
    ip link del pcm1
    to 'private':
    ip link set pcm2 type macvlan mode private
    to 'pass0':
    ip link del pcm2
    ip link add pcm2 link eth0 address 52:54:00:00:00:01 mtu 1500 type macvlan mode passthru
    tc filter replace dev (made by step 1) ingress protocol all u32 match u32 0 0 action mirred egress redirect dev pct0
    ip link set (made by step 1) up
    tc filter replace dev pct0 ingress protocol all u32 match u32 0 0 action mirred egress redirect dev (made by step 1)
    announce 52:54:00:00:00:01 on pct0
    to 'bridge':
    ip link del pcm2
    ip link add pcm2 link eth0 address 52:54:00:00:00:01 mtu 1500 type macvlan mode bridge
    tc filter replace dev (made by step 1) ingress protocol all u32 match u32 0 0 action mirred egress redirect dev pct0
    ip link set (made by step 1) up
    tc filter replace dev pct0 ingress protocol all u32 match u32 0 0 action mirred egress redirect dev (made by step 1)
    announce 52:54:00:00:00:01 on pct0
    to 'outside':
    ip link set pct0 master br0
    tc filter del dev pct0 ingress
    announce 52:54:00:00:00:01 on pct0
    ip link del pcm2
    to 'nat':
    ip link set pct0 master virbr0
    announce 52:54:00:00:00:01 on pct0
    to 'vepa':
    ip link add pcm3 link eth0 address 52:54:00:00:00:01 mtu 1500 type macvlan mode vepa
    tc filter replace dev (made by step 0) ingress protocol all u32 match u32 0 0 action mirred egress redirect dev pct0
    ip link set (made by step 0) up
    tc filter replace dev pct0 ingress protocol all u32 match u32 0 0 action mirred egress redirect dev (made by step 0)
    ip link set pct0 nomaster
    announce 52:54:00:00:00:01 on pct0
    to '':
    tc filter del dev pct0 ingress
    ip link del pcm3
    ");
}

#[test]
fn a_nic_waits_for_its_device_and_is_plugged_in_when_it_returns() {
    let mut host = switchboard();
    let id = attached(&mut host, "web", "pass").id;
    at_rest(&mut host);
    vanishes(&mut host, "eth2");
    let state = |host: &mut Host| nic(host.ask(Command::ShowNic(id)).unwrap().body).state;
    assert_eq!(state(&mut host), NicState::Waiting);
    at_rest(&mut host);
    let told = |host: &Host, wanted| {
        host.events.iter().any(|e| matches!(e, Event::Device { device, networks, what } if device == "eth2" && networks == &["pass"] && *what == wanted))
    };
    assert!(told(&host, DeviceEvent::Gone), "{:?}", host.events);
    // It holds its device meanwhile, and nobody else gets it.
    appears(&mut host, "eth2");
    assert_eq!(state(&mut host), NicState::Plugged);
    assert!(told(&host, DeviceEvent::Appeared));
    at_rest(&mut host);
}

#[test]
fn a_missing_device_fails_the_attach_unless_it_may_wait() {
    let mut host = host();
    let direct = |optional: &str| {
        let text = format!("<interface type='direct'><source dev='eth7' mode='bridge'{optional}/></interface>");
        attach("web", xml::read_nic(&text).unwrap())
    };
    let refused = host.ask(direct("")).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NoDevice, "{refused}");
    assert!(refused.to_string().contains("eth7 is not there"), "{refused}");
    let waiting = nic(host.ask(direct(" startupPolicy='optional'")).unwrap().body);
    assert_eq!((waiting.state, waiting.dev.as_deref()), (NicState::Waiting, Some("eth7")));
    at_rest(&mut host);
    appears(&mut host, "eth7");
    assert_eq!(nic(host.ask(Command::ShowNic(waiting.id)).unwrap().body).state, NicState::Plugged);
    at_rest(&mut host);
}

#[test]
fn what_cannot_carry_a_macvlan_is_refused_with_the_reason() {
    let mut host = host();
    let bridge = host.add_link("br0", LinkKind::Bridge);
    let port = host.add_link("eth0", LinkKind::Other(String::new()));
    let mut link = host.kernel.link(port).cloned().unwrap();
    link.controller = Some(bridge);
    host.kernel.set_link(port, Some(link));
    let lower = host.add_link("eth1", LinkKind::Other(String::new()));
    let other = host.add_link("macvtap0", LinkKind::Macvtap);
    let mut link = host.kernel.link(other).cloned().unwrap();
    (link.lower, link.mode) = (Some(lower), Some(DirectMode::Vepa));
    host.kernel.set_link(other, Some(link));
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    let mut refusal = |dev: &str, mode: &str| {
        let text = format!("<interface type='direct'><source dev='{dev}' mode='{mode}'/></interface>");
        let refused = host.ask(attach("web", xml::read_nic(&text).unwrap())).unwrap_err();
        (refused.kind, refused.to_string())
    };
    // They are there, and others use them.
    let (kind, refused) = refusal("eth0", "vepa");
    assert!(refused.contains("eth0 is a port of br0"), "{refused}");
    assert!(refused.contains("free it on the host, or use another"), "{refused}");
    assert_eq!(kind, ErrorKind::InUse);
    let (kind, refused) = refusal("eth1", "passthrough");
    assert!(refused.contains("eth1 carries macvtap0, which is not ours"), "{refused}");
    assert_eq!(kind, ErrorKind::InUse);
}

#[test]
fn a_refused_step_leaves_the_nic_where_it_was() {
    for refused in 0..16 {
        let mut host = switchboard();
        let id = attached(&mut host, "web", "vepa").id;
        at_rest(&mut host);
        host.refuse_after = Some(refused);
        let moved = host.ask(Command::Modify(id, Box::new(nic_on("pass0")), Default::default()));
        let passed_over = host.refuse_after.take().is_some();
        at_rest(&mut host);
        let view = nic(host.ask(Command::ShowNic(id)).unwrap().body);
        match moved {
            Ok(_) => {
                assert!(passed_over, "the move passed over a refused step");
                assert_eq!(view.network.as_deref(), Some("pass0"));
                return;
            }
            Err(_) => assert_eq!((view.state, view.network.as_deref()), (NicState::Plugged, Some("vepa"))),
        }
    }
    panic!("a move has fewer than sixteen steps");
}

#[test]
fn everything_that_is_in_the_way_is_said_at_once() {
    let mut host = switchboard();
    attached(&mut host, "holder", "pass0");
    host.add_link("taken", LinkKind::Tap);
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    let text = "<interface type='network'><mac address='52:54:00:00:00:09'/><source network='bridge'/>
        <target dev='taken'/><port isolated='yes'/></interface>";
    let wanted = attach("web", xml::read_nic(text).unwrap());
    let error = host.ask(wanted).unwrap_err().to_string();
    for part in ["there is a link taken already", "eth0 is held exclusively by guest 'holder'", "isolation"] {
        assert!(error.contains(part), "{error}");
    }
    at_rest(&mut host);
}

#[test]
fn asking_ahead_tells_every_reason_of_a_pool() {
    let mut host = switchboard();
    for guest in ["a", "b"] {
        attached(&mut host, guest, "pass");
    }
    let text = "<interface type='network'><mac address='52:54:00:00:00:09'/><source network='pass'/>
        <vlan trunk='yes'><tag id='5'/></vlan><virtualport type='openvswitch'/><port isolated='yes'/>
        <bandwidth><inbound average='200' floor='100'/></bandwidth></interface>";
    let Command::Attach(wanted) = attach("web", xml::read_nic(text).unwrap()) else { unreachable!() };
    let error = host.ask(Command::Check(wanted, None)).unwrap_err();
    let told = error.to_string();
    for part in ["type 'openvswitch'", "100 KiB/s", "no trunk", "isolation", "held exclusively by guest 'a'"] {
        assert!(told.contains(part), "{told}");
    }
    assert_eq!(error.also.len(), 4, "{told}");
    // That a device has no VLANs of its own is found when the virtualport is refused, too.
    let text = "<interface type='network'><mac address='52:54:00:00:00:09'/><source network='pass0'/>
        <vlan><tag id='5'/></vlan><virtualport type='openvswitch'/></interface>";
    let Command::Attach(wanted) = attach("web", xml::read_nic(text).unwrap()) else { unreachable!() };
    let told = host.ask(Command::Check(wanted, None)).unwrap_err().to_string();
    assert!(told.contains("type 'openvswitch'") && told.contains("eth0 is no virtual function"), "{told}");
    at_rest(&mut host);
}

#[test]
fn what_is_reserved_is_kept_for_its_guest_for_a_while() {
    let mut host = switchboard();
    let fixed = |guest: &str, mac: u8| {
        let text = format!(
            "<interface type='network'><mac address='52:54:00:00:00:{mac:02x}'/><source network='pass0'/></interface>"
        );
        let Command::Attach(mut attach) = attach(guest, xml::read_nic(&text).unwrap()) else { unreachable!() };
        attach.guest_uuid = Some(uuid::Uuid::from_u128(7));
        attach
    };
    let ask = |host: &mut Host, reserve| nic(host.ask(Command::Check(fixed("coming", 1), reserve)).unwrap().body);
    // Asking alone holds nothing.
    ask(&mut host, None);
    let reserved = ask(&mut host, Some(30));
    assert_eq!(reserved.dev.as_deref(), Some("eth0"));
    let refused = host.ask(Command::Attach(fixed("other", 2))).unwrap_err().to_string();
    assert!(refused.contains(&format!("guest 'coming' (reservation {})", reserved.id)), "{refused}");
    let crate::engine::Body::Devices(devices) = host.ask(Command::ListDevices).unwrap().body else {
        panic!("no devices")
    };
    let eth0 = devices.iter().find(|d| d.name == "eth0").unwrap();
    assert!(eth0.exclusive && eth0.holders[0].reserved);
    assert_eq!(eth0.networks.len(), 4, "{eth0:?}");
    // The guest's UUID and MAC claim it, and the NIC has the id that was promised.
    let got = nic(host.ask(Command::Attach(fixed("coming", 1))).unwrap().body);
    assert_eq!((got.id, got.dev.as_deref(), got.state), (reserved.id, Some("eth0"), NicState::Plugged));
    at_rest(&mut host);
    host.ask(Command::Detach(got.id)).unwrap();
    // By its id, and only while it lasts.
    let again = ask(&mut host, Some(30));
    host.settle_with_clock();
    let mut late = fixed("coming", 1);
    late.reservation = Some(again.id);
    assert_eq!(host.ask(Command::Attach(late)).unwrap_err().kind, ErrorKind::NoNic);
    nic(host.ask(Command::Attach(fixed("other", 2))).unwrap().body);
    at_rest(&mut host);
    assert_eq!(host.ask(Command::Check(fixed("coming", 1), Some(4000))).unwrap_err().kind, ErrorKind::InvalidArgument);
}

#[test]
fn what_is_reserved_is_there_still_after_an_attach_that_failed() {
    let mut host = switchboard();
    let coming = || {
        let text = "<interface type='network'><mac address='52:54:00:00:00:01'/><source network='pass0'/></interface>";
        let Command::Attach(mut attach) = attach("coming", xml::read_nic(text).unwrap()) else { unreachable!() };
        attach.guest_uuid = Some(uuid::Uuid::from_u128(7));
        attach
    };
    let reserved = nic(host.ask(Command::Check(coming(), Some(30))).unwrap().body);
    host.refuse_after = Some(0);
    host.ask(Command::Attach(coming())).unwrap_err();
    host.refuse_after = None;
    host.full.run_state = true;
    host.ask(Command::Attach(coming())).unwrap_err();
    host.full.run_state = false;
    assert!(host.engine.intent().reserved(reserved.id).is_some());
    assert_eq!(nic(host.ask(Command::Attach(coming())).unwrap().body).id, reserved.id);
    at_rest(&mut host);
    assert!(host.engine.intent().reserved(reserved.id).is_none());
}

#[test]
fn a_device_that_is_being_left_is_not_given_out_before_that_is_done() {
    let mut host = switchboard();
    let first = attached(&mut host, "a", "pass");
    attached(&mut host, "b", "pass");
    // The detach is under way, and will fail.
    let leaving = host.request(Command::Detach(first.id));
    host.step();
    host.refuse_after = Some(0);
    let next = host.request(attach("c", nic_on("pass")));
    host.settle();
    assert!(host.replies[&leaving].is_err());
    let refused = host.replies[&next].clone().unwrap_err();
    assert_eq!(refused.kind, ErrorKind::InUse);
    assert!(refused.to_string().contains("eth2 is being given back just now"), "{refused}");
    at_rest(&mut host);
}

#[test]
fn the_loopback_is_no_device_for_guests() {
    let mut host = host();
    host.add_link("lo", crate::plan::LinkKind::Other(String::new()));
    host.see_everything();
    host.settle();
    let direct = xml::read_nic("<interface type='direct'><source dev='lo' mode='bridge'/></interface>").unwrap();
    let error = host.ask(attach("web", direct)).unwrap_err();
    assert!(error.to_string().contains("lo is the host's loopback"), "{error}");
}
