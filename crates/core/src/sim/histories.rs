//! Random histories: requests, meddling, refused steps and crashes between any two effects. Whatever happened, the
//! host comes to rest as it should be.

use super::happening::{
    Happening, NETWORKS, PORTS, device, happen, happening, has_functions, hurried, name, network, nic_of, owner, pick,
};
use super::tests::{attach, host, nat, nic_on};
use super::{Full, Host};
use crate::engine::{Command, Input};
use crate::model::{DevicePlug, LinkState, Nic};
use crate::plan::rates::Shape;
use crate::plan::{Change, Link, MarkKind, Sysctl};
use crate::xml;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn every_history_converges(running in any::<u8>(), [hooked, police, shapes] in any::<[bool; 3]>(), history in proptest::collection::vec(happening(), 1..40)) {
        let mut host = in_use(running, police);
        host.config.shapes_ports = shapes;
        host.crash();
        with_guests_of_libvirts(&mut host);
        host.install_hook(hooked);
        converges(host, &history)?;
    }

    #[test]
    fn whoever_asks_while_others_are_served_is_answered(history in proptest::collection::vec(hurried(), 1..40)) {
        converges(in_use(u8::MAX, true), &history)?;
    }
}

/// A host with devices and functions, on which these networks and guests on them are, as on most hosts.
fn in_use(running: u8, police: bool) -> Host {
    let mut host = host();
    host.police = police;
    for n in 0..5 {
        host.add_link(&format!("eth{n}"), device());
    }
    has_functions(&mut host, 0b1111);
    host.processes.extend((0..3).map(owner));
    for n in (0..NETWORKS).filter(|n| running & (1 << n) != 0) {
        host.request(Command::Create(network(n)));
        host.request(attach("guest", nic_on(&name(n))));
        let plug = Some(DevicePlug::Macvtap);
        host.request(attach("guest", Nic { plug, ..nic_of(n, false, running % 6) }));
    }
    happen(&mut host, &Happening::AttachToBridge(0));
    host.settle();
    host
}

/// Guests of libvirt's come, of which two and two have one address: on two bridges, and on a bridge and devices.
fn with_guests_of_libvirts(host: &mut Host) {
    for (id, n) in (0..PORTS).zip([0, 1, 2, 4]) {
        host.ask_for_port(id, nic_of(n, false, 2), false);
    }
    host.settle();
    for id in 0..PORTS {
        host.make_or_end_link(id);
    }
    host.see_everything();
    host.settle();
}

/// What happened, happened; and the host comes to rest as it should be, now and when all is stopped.
fn converges(mut host: Host, history: &[Happening]) -> Result<(), TestCaseError> {
    for what in history {
        happen(&mut host, what);
    }
    host.full = Full::default();
    host.hook.fails_at.clear();
    host.refuse_after = None;
    host.ovs.refuses = None;
    (host.switch.refuses, host.switch.hangs) = (false, false);
    (host.sysfs.refuses, host.sysfs.keeps) = (false, false);
    host.settle();
    host.end_associations();
    host.settle();
    // What failed while steps were refused is tried again when its time has come.
    host.settle_with_clock();
    host.see_everything();
    host.settle_with_clock();
    host.reap();
    prop_assert!(host.unanswered.is_empty(), "never answered: {:?}", host.unanswered);
    prop_assert_eq!(host.check(), Vec::<String>::new());
    prop_assert_eq!(host.check_waiting(), Vec::<String>::new());
    prop_assert_eq!(host.check_functions(), Vec::<String>::new());
    prop_assert_eq!(host.check_hook(), Vec::<String>::new());
    // Nothing is planned for a host that is at rest, and a daemon that starts anew agrees.
    host.crash();
    host.settle();
    host.reap();
    prop_assert_eq!(host.check(), Vec::<String>::new());
    prop_assert_eq!(host.check_waiting(), Vec::<String>::new());
    prop_assert_eq!(host.check_functions(), Vec::<String>::new());
    prop_assert_eq!(host.check_hook(), Vec::<String>::new());
    // When all is stopped, nothing is left and the host's settings are as they were.
    for n in 0..NETWORKS {
        let _ = host.ask(Command::Stop(name(n)));
    }
    let nics: Vec<_> = host.engine.intent().nics().map(|n| n.id).collect();
    for id in nics {
        prop_assert!(host.ask(Command::Detach(id)).is_ok());
    }
    host.reap();
    prop_assert_eq!(host.check_hook(), Vec::<String>::new());
    // Links of ports' guests are others'.
    let ours = |l: &&Link| !l.name.starts_with("eth") && !l.name.starts_with("vnet");
    let left: Vec<_> = host.kernel.links().filter(ours).collect();
    prop_assert!(left.is_empty(), "{:?}", left);
    prop_assert!(host.kernel.redirects.is_empty());
    prop_assert!(host.kernel.ovs.is_empty());
    // What others set is others', too.
    let others = Shape { others: true, ..Shape::default() };
    let left: Vec<_> = host.kernel.shapes.values().filter(|shape| **shape != others).collect();
    prop_assert!(left.is_empty(), "{:?}", left);
    prop_assert!(host.switch.given.is_empty());
    prop_assert_eq!(host.check_functions(), Vec::<String>::new());
    prop_assert_eq!(host.engine.intent().pool().usage().count(), 0);
    prop_assert_eq!(&host.kernel.nft, &Default::default());
    prop_assert!(host.kernel.services.is_empty());
    prop_assert_eq!(&host.kernel.sysctls[&Sysctl::Ipv4Forward], "0");
    Ok(())
}

impl Host {
    /// The daemon reads everything again, as after an overrun of its sockets.
    pub(super) fn see_everything(&mut self) {
        self.tell(Input::Observed(Change::Snapshot(Box::new(self.kernel.clone()))));
    }
}

#[test]
fn a_pulled_cable_stays_pulled() {
    let mut host = host();
    host.ask(Command::Create(nat("net0", 0))).unwrap();
    host.ask(attach("guest", nic_on("net0"))).unwrap();
    let id = pick(&host, 0).unwrap();
    host.ask(Command::Link(id, false)).unwrap();
    host.crash();
    host.settle();
    assert_eq!(host.engine.intent().nic(id).unwrap().nic.link, Some(LinkState::Down));
    assert_eq!(host.kernel.link_marked(MarkKind::Tap, id).unwrap().controller, None);
    let text = xml::write_nic(&host.engine.intent().nic(id).unwrap().given);
    assert!(text.contains("<link state='down'/>"), "{text}");
}

/// A guest dies while its NIC moves to a network whose devices go: one that was seen to outlive its owner.
#[test]
fn no_nic_outlives_its_owner_on_its_way() {
    use Happening::*;
    let attach = |network, owner, rates| {
        let (by_name, plug, optional, vlan) = (false, None, false, false);
        Attach { network, by_name, owner, plug, optional, vlan, rates }
    };
    for n in 0..128 {
        let (hooked, police, libvirts) = (n & 1 != 0, n & 2 != 0, n & 4 != 0);
        let history = [
            attach(3, None, 2),
            Port { id: 0, network: 5, reclaim: false, rates: 5 },
            Detach(0),
            Rest,
            attach(1, Some(0), 0),
            Rest,
            Modify(n / 8, Some(3), false, 2),
            OwnerDies(0),
            Device(2),
        ];
        let mut host = in_use(58, police);
        if libvirts {
            with_guests_of_libvirts(&mut host);
        }
        host.install_hook(hooked);
        converges(host, &history).unwrap_or_else(|error| panic!("{history:?}: {error}"));
    }
}
