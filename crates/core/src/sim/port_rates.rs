//! Rates at the taps that libvirt's driver makes for ports.

use super::Host;
use super::bandwidth::{limited, shaped};
use super::ports::{document, made, port, put, show, tap};
use super::tests::{at_rest, host, nic_on};
use crate::engine::{Command, Effect, Event, Input};
use crate::model::{MacAddr, Nic};
use crate::plan::rates::Shape;
use crate::plan::{Change, Index, LinkRef, MarkKind, Op};
use uuid::Uuid;

const ID: Uuid = Uuid::from_u128(1);

/// A network whose portgroup limits what guests send, with a guest of libvirt's on it.
fn with_guest(police: bool, nic: Nic) -> (Host, Index) {
    let mut host = host();
    host.police = police;
    host.config.shapes_ports = true;
    host.crash();
    host.ask(Command::Define(shaped("lab", 1))).unwrap();
    host.ask(Command::Start("lab".into())).unwrap();
    let Command::Attach(mut wanted) = port(1, 7, "lab", None) else { unreachable!() };
    wanted.nic = Nic { mac: wanted.nic.mac, ..nic };
    made(&mut host, Command::Attach(wanted));
    let index = tap(&mut host, Some("virbr0"));
    // Its driver may not be done with it.
    assert_eq!(at(&host, index), (None, None));
    host.settle_with_clock();
    (host, index)
}

fn nic() -> Nic {
    limited("lab", "<inbound average='100'/><outbound average='60'/>")
}

/// What may leave a tap and come in at it, in KiB a second.
fn at(host: &Host, index: Index) -> (Option<u64>, Option<u64>) {
    let kernel = &host.kernel;
    let leaves = |shape: &Shape| shape.classes.get(&1).map(|class| class.limit.rate / 1024);
    let shape = kernel.shapes.get(&index).cloned().unwrap_or_default();
    let ifb = kernel.redirects.get(&index).and_then(|to| kernel.shapes.get(&(*to)?));
    (leaves(&shape), shape.police.map(|police| police.rate / 1024).or_else(|| leaves(ifb?)))
}

fn drifts(host: &mut Host) -> Vec<String> {
    let what = |event| if let Event::Drift { what, .. } = event { Some(what) } else { None };
    std::mem::take(&mut host.events).into_iter().filter_map(what).collect()
}

/// Traffic control at a tap becomes this by somebody else's doing.
fn others_set(host: &mut Host, index: Index, shape: Shape) {
    if shape.others && host.kernel.redirects.remove(&index).is_some() {
        host.tell(Input::Observed(Change::Redirect(index, None)));
    }
    host.kernel.take(Change::Shape(index, shape.clone()));
    host.tell(Input::Observed(Change::Shape(index, shape)));
    host.settle();
}

#[test]
fn a_ports_tap_has_its_rates_and_its_driver_does_not_hear_of_them() {
    for police in [false, true] {
        let (mut host, index) = with_guest(police, nic());
        at_rest(&mut host);
        assert_eq!(at(&host, index), (Some(100), Some(60)));
        assert!(!document(&mut host, 1).unwrap().contains("bandwidth"));
        let whole = host.ask(Command::PortXml { id: ID, for_driver: false }).unwrap();
        assert!(format!("{whole:?}").contains("outbound average='60'"), "{whole:?}");
        // Changed in place, then only by the portgroup.
        let faster = limited("lab", "<inbound average='300'/><outbound average='200'/>");
        host.ask(Command::Modify(ID, Box::new(Nic { mac: None, ..faster }), Default::default())).unwrap();
        assert_eq!(at(&host, index), (Some(300), Some(200)));
        host.ask(Command::Modify(ID, Box::new(nic_on("lab")), Default::default())).unwrap();
        assert_eq!(at(&host, index), (None, Some(200)));
        at_rest(&mut host);
        // They are back when its network is, and stay when the daemon dies.
        host.ask(Command::Stop("lab".into())).unwrap();
        host.reap();
        host.ask(Command::Start("lab".into())).unwrap();
        assert_eq!(at(&host, index), (None, Some(200)));
        host.crash();
        host.settle();
        assert_eq!(at(&host, index), (None, Some(200)));
        at_rest(&mut host);
        assert_eq!(drifts(&mut host), [""; 0]);
        // The tap is others', and what limits it goes with the port.
        host.ask(Command::Detach(ID)).unwrap();
        host.reap();
        assert_eq!(at(&host, index), (None, None));
        assert!(host.kernel.link(index).is_some());
        assert_eq!(host.kernel.links_marked(MarkKind::Ifb, ID).count(), 0);
    }
}

#[test]
fn whoever_starts_with_the_other_setting_takes_the_limits_away() {
    for police in [false, true] {
        let (mut host, index) = with_guest(police, nic());
        host.config.shapes_ports = false;
        host.crash();
        host.settle();
        host.reap();
        assert_eq!(at(&host, index), (None, None));
        assert!(document(&mut host, 1).unwrap().contains("<outbound average='60'/>"));
        at_rest(&mut host);
    }
}

#[test]
fn a_port_that_went_while_the_daemon_was_dead_leaves_no_limits() {
    let (mut host, index) = with_guest(false, nic());
    host.records.remove(&crate::engine::RecordKey::Nic(ID));
    host.crash();
    host.settle();
    host.reap();
    assert_eq!(at(&host, index), (None, None));
    assert_eq!(host.kernel.links_marked(MarkKind::Ifb, ID).count(), 0);
}

#[test]
fn a_guest_that_goes_to_libvirts_daemon_stays_limited() {
    for police in [false, true] {
        let (mut host, index) = with_guest(police, nic());
        let bridge = host.kernel.link_named("virbr0").unwrap().index;
        host.ask(Command::HandBack { network: "lab".into(), effect: true }).unwrap();
        for crashes in [false, true] {
            if crashes {
                // A daemon that starts anew has no say in it.
                host.crash();
            }
            host.settle_with_clock();
            host.reap();
            assert_eq!(host.kernel.shapes.get(&index), Some(&Shape { others: true, ..Shape::default() }));
            // Where frames waited for an ifb, none wait for one that is gone.
            assert_eq!([index, bridge].map(|link| host.kernel.redirects.get(&link)), [None; 2]);
            assert!(!host.kernel.links().any(|link| link.mark.is_some()));
            assert_eq!(at(&host, bridge).0, Some(1000), "as it was");
        }
    }
}

#[test]
fn what_else_goes_on_leaves_a_guest_alone_that_goes_to_libvirts_daemon() {
    for steps in 0.. {
        let (mut host, index) = with_guest(true, nic());
        host.ask(Command::Define(shaped("other", 2))).unwrap();
        host.ask(Command::Start("other".into())).unwrap();
        let Command::Attach(mut wanted) = port(2, 8, "other", None) else { unreachable!() };
        wanted.nic.mac = Some(MacAddr([0x52, 0x54, 0, 1, 2, 4]));
        made(&mut host, Command::Attach(wanted));
        host.request(Command::HandBack { network: "lab".into(), effect: true });
        let went = (0..steps).all(|_| host.step());
        // A port goes, whose tap may have limits. What has become libvirt's would go as well where it was taken for ours.
        let lifts = |op: &Op| matches!(op, Op::EndHtb(at) | Op::EndPolice(at) if *at == LinkRef::Index(index));
        host.request(Command::Detach(Uuid::from_u128(2)));
        let last = host.inputs.pop_back().unwrap();
        host.inputs.push_front(last);
        while host.step() {
            if let Some(Effect::Apply(_, plan)) = host.pending.front() {
                assert!(!plan.steps.iter().any(|step| lifts(&step.op)), "after {steps} steps: {plan:?}");
            }
        }
        let left = Shape { others: true, ..Shape::default() };
        assert_eq!(host.kernel.shapes.get(&index), Some(&left), "after {steps} steps");
        if !went {
            assert!(steps > 5, "{steps} steps");
            break;
        }
    }
}

#[test]
fn what_others_limit_we_do_not() {
    for police in [false, true] {
        let (mut host, index) = with_guest(police, nic());
        drifts(&mut host);
        // As libvirt's driver does it: all that is there goes, and then comes its own. Nothing is put in its way.
        others_set(&mut host, index, Shape::default());
        assert_eq!(at(&host, index).0, None);
        let others = Shape { others: true, ..Shape::default() };
        others_set(&mut host, index, others.clone());
        host.settle_with_clock();
        host.reap();
        assert_eq!(host.kernel.shapes.get(&index), Some(&others));
        assert_eq!(at(&host, index), (None, None));
        let told = drifts(&mut host);
        assert_eq!(told, ["somebody else limits or filters at its tap vnet0, so that we don't limit it meanwhile"]);
        at_rest(&mut host);
        // A daemon that starts anew does not either.
        host.crash();
        host.settle_with_clock();
        assert_eq!(at(&host, index), (None, None));
        // When they don't any more, we do.
        others_set(&mut host, index, Shape::default());
        assert_eq!(at(&host, index), (Some(100), Some(60)));
        // Beside ours there are none of others either.
        let beside = Shape { others: true, ..host.kernel.shapes[&index].clone() };
        others_set(&mut host, index, beside);
        assert_eq!(at(&host, index), (None, None));
    }
}

#[test]
fn limits_that_somebody_takes_away_are_back_after_a_moment() {
    let (mut host, index) = with_guest(true, nic());
    others_set(&mut host, index, Shape::default());
    assert_eq!(at(&host, index), (None, None));
    host.settle_with_clock();
    assert_eq!(at(&host, index), (Some(100), Some(60)));
    // A tap that is in another bridge by somebody's doing keeps what its guest may send.
    host.add_link("br7", crate::plan::LinkKind::Bridge);
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    put(&mut host, "vnet0", Some("br7"));
    assert_eq!(at(&host, index), (Some(100), Some(60)));
    assert_eq!(show(&mut host, 1).mac, Some(MacAddr([0x52, 0x54, 0, 1, 2, 3])));
}
