//! NICs that are a macvtap: what can be done with one, and what becomes of it when its device goes.

use super::Host;
use super::devices::{appears, switchboard, vanishes};
use super::tests::{at_rest, attach, nic, nic_on, on_devices};
use crate::engine::{Command, Event, NicEvent, NicState, NicView, RecordKey};
use crate::model::{DevicePlug, Nic, NicSource};
use crate::plan::{Handover, LinkKind, MarkKind};
use crate::{ErrorKind, xml};
use uuid::Uuid;

fn macvtap(network: &str) -> Nic {
    Nic { plug: Some(DevicePlug::Macvtap), ..nic_on(network) }
}

/// One that is handed over by descriptor.
fn by_descriptor(network: &str) -> Command {
    let Command::Attach(mut wanted) = attach("web", macvtap(network)) else { unreachable!() };
    wanted.handover = Handover::Descriptor;
    Command::Attach(wanted)
}

fn show(host: &mut Host, id: Uuid) -> NicView {
    nic(host.ask(Command::ShowNic(id)).unwrap().body)
}

fn modified(host: &mut Host, id: Uuid, to: Nic) -> Result<NicView, crate::Error> {
    host.ask(Command::Modify(id, Box::new(to), Default::default())).map(|answer| nic(answer.body))
}

fn steps(host: &Host) -> String {
    host.last_plan.steps.iter().map(|step| format!("{}\n", step.op)).collect()
}

#[test]
fn a_macvtap_sits_on_its_device_under_the_guests_address() {
    let mut host = switchboard();
    let view = nic(host.ask(attach("web", macvtap("private"))).unwrap().body);
    assert_eq!((view.state, view.actual, view.plug), (NicState::Plugged, "direct", Some(DevicePlug::Macvtap)));
    assert_eq!(view.node.as_deref(), Some("/run/patchcord/nodes/pct0"));
    let made = steps(&host).replace(&view.mac.unwrap().to_string(), "MAC");
    insta::assert_snapshot!(made, @"
    ip link add pct0 link if2 address MAC mtu 1500 type macvtap mode private
    ip link set (made by step 0) up
    ");
    let link = host.kernel.link_marked(MarkKind::Tap, view.id).unwrap();
    assert_eq!((&link.kind, link.mac), (&LinkKind::Macvtap, view.mac));
    assert!(host.kernel.link_marked(MarkKind::Macvlan, view.id).is_none());
    at_rest(&mut host);
    host.crash();
    at_rest(&mut host);
    assert_eq!(show(&mut host, view.id), view);
    host.ask(Command::Detach(view.id)).unwrap();
    at_rest(&mut host);
    assert!(host.kernel.link_named("pct0").is_none());
}

#[test]
fn the_configuration_chooses_for_nics_that_say_nothing() {
    let mut host = switchboard();
    host.config.plug = DevicePlug::Macvtap;
    host.crash();
    host.settle();
    let plug = |host: &mut Host, nic_| nic(host.ask(attach("web", nic_)).unwrap().body).plug;
    assert_eq!(plug(&mut host, nic_on("vepa")), Some(DevicePlug::Macvtap));
    let cord = Nic { plug: Some(DevicePlug::Cord), ..nic_on("vepa") };
    assert_eq!(plug(&mut host, cord), Some(DevicePlug::Cord));
    // What has a tap for life is plugged into devices by a cord, whatever is configured.
    let nat = nic(host.ask(attach("web", nic_on("nat"))).unwrap().body);
    assert_eq!(nat.plug, None);
    assert_eq!(modified(&mut host, nat.id, nic_on("vepa")).unwrap().plug, Some(DevicePlug::Cord));
    at_rest(&mut host);
    // And what was decided is kept when the configuration changes.
    host.config.plug = DevicePlug::Cord;
    host.crash();
    at_rest(&mut host);
    let plugs = |host: &mut Host| {
        let Ok(answer) = host.ask(Command::ListNics(Some("vepa".into()))) else { panic!("no list") };
        let crate::engine::Body::Nics(nics) = answer.body else { panic!("no list") };
        nics.iter().filter(|n| n.plug == Some(DevicePlug::Macvtap)).count()
    };
    assert_eq!(plugs(&mut host), 1);
}

#[test]
fn only_its_mode_changes_and_other_moves_are_refused_by_name() {
    let mut host = switchboard();
    let view = nic(host.ask(attach("web", macvtap("vepa"))).unwrap().body);
    assert_eq!(view.dev.as_deref(), Some("eth0"));
    for to in ["private", "bridge", "vepa"] {
        assert_eq!(modified(&mut host, view.id, nic_on(to)).unwrap().state, NicState::Plugged);
        let index = host.kernel.link_marked(MarkKind::Tap, view.id).unwrap().index.0;
        assert_eq!(steps(&host), format!("ip link set if{index} type macvlan mode {to}\n"));
        at_rest(&mut host);
    }
    let mut refusals = String::new();
    let cord = Nic { plug: Some(DevicePlug::Cord), ..nic_on("vepa") };
    let device = xml::read_nic("<interface type='direct'><source dev='eth1' mode='vepa'/></interface>").unwrap();
    for to in
        [nic_on("pass"), nic_on("pass0"), nic_on("nat"), nic_on("outside"), Nic::new(NicSource::None), cord, device]
    {
        let before = host.kernel.clone();
        let error = modified(&mut host, view.id, to).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        refusals += &format!("{error}\n").replace(&view.id.to_string(), "ID");
        assert_eq!(host.kernel, before);
        at_rest(&mut host);
    }
    let tap = nic(host.ask(attach("db", nic_on("vepa"))).unwrap().body).id;
    let error = modified(&mut host, tap, macvtap("vepa")).unwrap_err();
    refusals += &format!("{error}\n").replace(&tap.to_string(), "ID");
    for (what, nic) in [("nat", macvtap("nat")), ("none", Nic { source: NicSource::None, ..macvtap("nat") })] {
        let error = host.ask(attach(what, nic)).unwrap_err();
        refusals += &format!("{error}\n");
    }
    insta::assert_snapshot!(refusals, @"
    NIC ID of guest 'web', <source>: the NIC is a macvtap on eth0, and can't be moved to eth2; detach the NIC and attach a new one
    NIC ID of guest 'web', <source>: the NIC is a macvtap in mode vepa, which the kernel can't change to passthrough; detach the NIC and attach a new one
    NIC ID of guest 'web', <source>: the NIC is a macvtap, and can't be moved from its device to a bridge of its own; detach the NIC and attach a new one
    NIC ID of guest 'web', <source>: the NIC is a macvtap, and can't be moved from its device to a bridge of the host's; detach the NIC and attach a new one
    NIC ID of guest 'web', <source>: the NIC is a macvtap, and can't be moved from its device to nothing; pull its cable instead: patchcord nic link ID down
    NIC ID of guest 'web', <pc:driver plug>: the NIC is a macvtap, and can't be plugged in by a cord while it lives; detach the NIC and attach a new one
    NIC ID of guest 'web', <source>: the NIC is a macvtap on eth0, and can't be moved to eth1; detach the NIC and attach a new one
    NIC ID of guest 'db', <pc:driver plug>: the NIC has a tap, and can't become a macvtap while it lives; detach the NIC and attach a new one
    NIC of guest 'nat', <pc:driver plug>: a macvtap sits on a device of the host's, and this NIC would get a bridge of its own; leave it out, or use a network on devices
    NIC of guest 'none', <pc:driver plug>: a macvtap sits on a device of the host's, and this NIC would get nothing; leave it out, or use a network on devices
    ");
}

#[test]
fn with_its_cable_out_or_its_network_stopped_it_is_down() {
    let mut host = switchboard();
    let id = nic(host.ask(by_descriptor("vepa")).unwrap().body).id;
    let index = host.kernel.link_marked(MarkKind::Tap, id).unwrap().index;
    let up = |host: &Host| host.kernel.link(index).unwrap().up;
    host.ask(Command::Link(id, false)).unwrap();
    assert_eq!((show(&mut host, id).state, up(&host)), (NicState::Unplugged, false));
    at_rest(&mut host);
    host.ask(Command::Link(id, true)).unwrap();
    assert_eq!((show(&mut host, id).state, up(&host)), (NicState::Plugged, true));
    host.ask(Command::Define(on_devices("vepa", "vepa", &["eth0", "eth1"]))).unwrap();
    host.ask(Command::Stop("vepa".into())).unwrap();
    assert_eq!((show(&mut host, id).state, up(&host)), (NicState::Parked, false));
    assert_eq!(show(&mut host, id).plug, Some(DevicePlug::Macvtap));
    at_rest(&mut host);
    host.ask(Command::Start("vepa".into())).unwrap();
    assert_eq!((show(&mut host, id).state, up(&host)), (NicState::Plugged, true));
    at_rest(&mut host);
    // Its network comes back without its device: it stays where it is, waits, and says why.
    for devices in [&["eth1"][..], &["eth1", "eth0"]] {
        host.ask(Command::Stop("vepa".into())).unwrap();
        host.ask(Command::Define(on_devices("vepa", "vepa", devices))).unwrap();
        host.ask(Command::Start("vepa".into())).unwrap();
        at_rest(&mut host);
        let view = show(&mut host, id);
        let fits = devices.contains(&"eth0");
        assert_eq!((view.state == NicState::Plugged, up(&host), view.cause.is_none()), (fits, fits, fits), "{view:?}");
    }
}

#[test]
fn by_descriptor_it_is_lost_with_its_device_and_by_name_it_is_made_anew() {
    let mut host = switchboard();
    let lost = nic(host.ask(by_descriptor("vepa")).unwrap().body).id;
    host.held.insert(lost);
    let named = nic(host.ask(attach("db", macvtap("pass"))).unwrap().body).id;
    host.events.clear();
    for (device, id) in [("eth0", lost), ("eth2", named)] {
        vanishes(&mut host, device);
        at_rest(&mut host);
        assert_eq!(show(&mut host, id).state, NicState::Waiting);
        let told = |e: &&Event| matches!(e, Event::Nic { nic, what: NicEvent::Unplugged } if nic.id == id);
        assert_eq!(host.events.iter().filter(told).count(), 1, "{:?}", host.events);
        appears(&mut host, device);
        at_rest(&mut host);
    }
    assert_eq!(show(&mut host, named).state, NicState::Plugged);
    let view = show(&mut host, lost);
    assert_eq!(view.state, NicState::Waiting);
    assert!(view.cause.unwrap().contains("its guest's descriptors"), "{view:?}");
    assert!(modified(&mut host, lost, nic_on("bridge")).unwrap_err().to_string().contains("went with its device"));
    host.crash();
    at_rest(&mut host);
    assert_eq!(show(&mut host, lost).state, NicState::Waiting);
    host.ask(Command::Detach(lost)).unwrap();
    at_rest(&mut host);
}

#[test]
fn without_its_device_there_is_nothing_to_hand_over() {
    let mut host = switchboard();
    vanishes(&mut host, "eth2");
    vanishes(&mut host, "eth3");
    let optional = |command| match command {
        Command::Attach(mut wanted) => {
            wanted.nic.optional = true;
            Command::Attach(wanted)
        }
        other => other,
    };
    let refused = host.ask(optional(by_descriptor("pass"))).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NoDevice, "{refused}");
    let view = nic(host.ask(optional(attach("web", macvtap("pass")))).unwrap().body);
    assert_eq!((view.state, view.node), (NicState::Waiting, None));
    at_rest(&mut host);
    super::devices::appears(&mut host, "eth3");
    let view = nic(host.ask(Command::ShowNic(view.id)).unwrap().body);
    assert_eq!((view.state, view.dev.as_deref()), (NicState::Plugged, Some("eth3")));
    assert!(view.node.is_some(), "{view:?}");
    at_rest(&mut host);
}

#[test]
fn a_refused_step_leaves_nothing_behind() {
    for refused in 0..2 {
        let mut host = switchboard();
        let before = host.kernel.clone();
        host.refuse_after = Some(refused);
        host.ask(by_descriptor("vepa")).unwrap_err();
        at_rest(&mut host);
        assert_eq!(host.kernel, before);
    }
}

/// Before there were macvtaps, their word was read and every NIC on a device had a cord.
#[test]
fn an_older_record_is_that_of_a_cord() {
    let mut host = switchboard();
    let id = nic(host.ask(attach("web", macvtap("vepa"))).unwrap().body).id;
    let record = host.records[&RecordKey::Nic(id)].clone();
    let read = |text: &str| xml::read_nic_state(&host.config.stamp, text).unwrap().unwrap();
    assert!(read(&record).is_macvtap());
    let older = read(&record.replacen(" plug='macvtap'", "", 1));
    assert!(!older.is_macvtap());
    assert_eq!(older.given.plug, Some(DevicePlug::Macvtap));
}
