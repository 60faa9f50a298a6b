//! Taps that others made for ports of ours: libvirt's driver makes a guest's tap, puts it into the bridge that its port
//! names, and tells nobody. It is known by its address, which is the guest's with the first byte 0xfe; a macvtap has the
//! guest's own, and sits on the port's device.
//!
//! Such a tap may be given a bridge that it has lost, and what goes with that, and limits where they are ours to see to; it
//! is never renamed or deleted.

use super::desired::{self, Plug, Resolved};
use super::mark::MarkKind;
use super::observed::{Index, Link, LinkKind, Observed};
use super::rates::{self, Rates};
use super::step::{LinkChange, LinkRef, Op, Plan};
use super::{plug, shape, vlan};
use crate::intent::{Claim, Intent, NicIntent};
use crate::model::LinkName;
use uuid::Uuid;

/// The tap or macvtap of a port's guest, if there is one and it can be no other's: one in the port's bridge before one
/// elsewhere. While its network is stopped, what it sits on is not known.
pub fn claimed<'a>(intent: &Intent, observed: &'a Observed, port: &NicIntent) -> Option<&'a Link> {
    let (home, links) = candidates(intent, observed, port);
    let only = |links: &mut dyn Iterator<Item = &'a Link>| links.next().filter(|_| links.next().is_none());
    if links.iter().any(|link| home.is_some() && link.controller == home) {
        return only(&mut links.into_iter().filter(|link| link.controller == home));
    }
    let contested = || others(intent, port).any(|other| competes(intent, observed, other));
    only(&mut links.into_iter()).filter(|link| link.kind == LinkKind::Macvtap || !contested())
}

/// Whether there is a link that may be a port's guest's. With several guests of one address that can be so for each of
/// their ports, and it is for none to say that its guest is gone.
pub fn may_live(intent: &Intent, observed: &Observed, port: &NicIntent) -> bool {
    !candidates(intent, observed, port).1.is_empty()
}

/// Whether whoever makes the link of a port's guest has made it: a tap is put into a bridge.
pub fn is_made(intent: &Intent, observed: &Observed, port: &NicIntent) -> bool {
    claimed(intent, observed, port).is_some_and(|link| link.kind == LinkKind::Macvtap || link.controller.is_some())
}

/// Whether a port's guest has its tap in no bridge.
pub fn is_loose(intent: &Intent, observed: &Observed, port: &NicIntent) -> bool {
    claimed(intent, observed, port)
        .is_some_and(|link| link.kind == LinkKind::Tap && has_lost_its_bridge(link, observed))
}

/// The port's bridge, and what may be its guest's link: what is in the bridge of another port of that address is not.
fn candidates<'a>(intent: &Intent, observed: &'a Observed, port: &NicIntent) -> (Option<Index>, Vec<&'a Link>) {
    let Some(mac) = port.nic.mac.filter(|_| port.function().is_none()) else { return (None, Vec::new()) };
    // Who has a device sits on it, whatever its network is now.
    if let Some(device) = port.device() {
        let lower = observed.link_named(device.as_str()).map(|l| l.index);
        let on_device = |l: &&Link| l.kind == LinkKind::Macvtap && (l.lower == lower || lower.is_none());
        return (None, observed.foreign_taps(mac).filter(on_device).collect());
    }
    let home = home(intent, observed, port);
    let taken: Vec<Index> = others(intent, port).filter_map(|other| self::home(intent, observed, other)).collect();
    let taps = observed.foreign_taps(mac.of_tap()).filter(|l| l.kind == LinkKind::Tap);
    let theirs = |l: &Link| l.controller.is_some_and(|c| Some(c) != home && taken.contains(&c));
    (home, taps.filter(|l| !theirs(l)).collect())
}

/// Ports on other networks whose guests' taps have the same address.
fn others<'a>(intent: &'a Intent, port: &'a NicIntent) -> impl Iterator<Item = &'a NicIntent> {
    let same = port.nic.mac.into_iter().flat_map(|mac| intent.ports_with_tap(mac.of_tap()));
    let same = same.filter_map(|id| intent.nic(id));
    same.filter(|other| other.network != port.network && other.allocation.is_none())
}

/// Whether a tap in no bridge may be that of this port's guest: it had one, and has none in its bridge.
fn competes(intent: &Intent, observed: &Observed, port: &NicIntent) -> bool {
    let home = home(intent, observed, port);
    let taps = || port.nic.mac.into_iter().flat_map(|mac| observed.foreign_taps(mac.of_tap()));
    port.port == Some(Claim::Bound) && !taps().any(|tap| home.is_some() && tap.controller == home)
}

/// The bridge that a port's tap should be in.
fn home(intent: &Intent, observed: &Observed, port: &NicIntent) -> Option<Index> {
    let (Resolved::Virtual(name, _) | Resolved::HostBridge(name, _)) = desired::resolve(intent, port) else {
        return None;
    };
    observed.link_named(name.as_str()).filter(|l| l.kind == LinkKind::Bridge && !l.is_doomed()).map(|l| l.index)
}

fn has_lost_its_bridge(tap: &Link, observed: &Observed) -> bool {
    tap.controller.is_none_or(|c| observed.link(c).is_none_or(Link::is_doomed))
}

/// When a port's tap is to be put into its bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakeBack<'a> {
    /// When it is in none.
    pub loose: bool,
    /// When it is in this one, which its network is leaving.
    pub left: Option<&'a LinkName>,
}

/// The steps for a port's tap: to be in the bridge that its network has now, unless others keep it elsewhere.
pub fn steps(plan: &mut Plan, intent: &Intent, observed: &Observed, port: &NicIntent, take_back: TakeBack<'_>) {
    let Some(tap) = claimed(intent, observed, port) else { return };
    let Some(wanted) = bridge(intent, observed, port) else { return };
    let Plug::Bridge { controller, flags, forwarding, .. } = &wanted else { return };
    let loose = has_lost_its_bridge(tap, observed);
    let there = tap.controller.filter(|_| !loose).and_then(|index| observed.link(index));
    let left = there.is_some_and(|bridge| take_back.left.is_some_and(|name| bridge.name == name.as_str()));
    // In no bridge, or not in the one that it should be in.
    let lost = loose || left;
    if if lost { !(left || take_back.loose) } else { tap.controller != Some(*controller) } {
        return;
    }
    let here = LinkRef::Index(tap.index);
    let vlans = vlan::Wanted::of(&wanted, Some(tap), observed);
    if let Some(vlans) = &vlans {
        vlans.filtering(plan);
    }
    if lost {
        let change = |controller| LinkChange { controller: Some(controller), ..LinkChange::default() };
        let undo = Op::SetLink(here, change(there.map(|bridge| LinkRef::Index(bridge.index))));
        plan.push(
            Op::SetLink(here, change(Some(LinkRef::Index(*controller)))),
            Some(undo),
            if left { "its network has another bridge now" } else { "the guest's tap is back in its bridge" },
        );
    }
    let there = Some(tap).filter(|_| !lost);
    // A new tap's address is its driver's to write, who takes an entry that is there for an error. It wrote none where the
    // bridge learned by itself, and none into a bridge that came later.
    let learned = port.port == Some(Claim::Bound) && tap.port.is_some_and(|was| was.learning);
    plug::port(plan, here, there.and_then(|tap| tap.port), *flags);
    let forgotten = vlans.is_some_and(|vlans| vlans.port(plan, here, there, observed, *forwarding));
    if lost || learned || forgotten {
        plug::write(plan, (here, there.filter(|_| !forgotten).map(|tap| tap.index)), *forwarding, observed);
    }
}

/// The steps by which guests' taps come out of a bridge that others made, which their network has left for another one. It
/// stays, and nobody could tell later that they are there by mistake.
pub fn come_out(plan: &mut Plan, intent: &Intent, observed: &Observed, network: Uuid) {
    let active = intent.network(network).and_then(|n| n.active.as_ref()?.bridge.name.as_ref());
    let (Some(name), Some(old)) = (active, observed.link_marked(MarkKind::Bridge, network)) else { return };
    if !old.is_claimed() || old.name == name.as_str() {
        return;
    }
    let taps = intent.nics_of(network).filter(|nic| nic.is_port()).filter_map(|port| claimed(intent, observed, port));
    for tap in taps.filter(|tap| tap.controller == Some(old.index)) {
        let to = |controller| LinkChange { controller: Some(controller), ..LinkChange::default() };
        let undo = Op::SetLink(tap.index.into(), to(Some(old.index.into())));
        plan.push(Op::SetLink(tap.index.into(), to(None)), Some(undo), "its network has another bridge now");
    }
}

/// The limits at a port's tap, where they are `ours` to see to: none while somebody else limits it.
pub fn limits(plan: &mut Plan, intent: &Intent, observed: &Observed, port: &NicIntent, ours: bool) {
    let tap = claimed(intent, observed, port).filter(|link| link.kind == LinkKind::Tap);
    let limited = ours && rates::at_ports_tap(intent, port) && !is_limited_by_others(intent, observed, port);
    let wanted = if limited { rates::of_nic(intent, observed, port) } else { Rates::default() };
    let at = tap.map(|tap| ((LinkRef::Index(tap.index), Some(tap.index)), &wanted));
    let why = ("the rate towards the guest", "the rate from the guest");
    shape::limits(plan, (intent.instance, MarkKind::Ifb, port.id), at, observed, why);
}

/// Whether somebody else limits a port's tap.
pub fn is_limited_by_others(intent: &Intent, observed: &Observed, port: &NicIntent) -> bool {
    let shape = claimed(intent, observed, port).and_then(|link| observed.shapes.get(&link.index));
    shape.is_some_and(|shape| shape.others)
}

/// Takes our limits off taps of others that are no port's any more, save those that are `left` as they are.
pub fn lift_limits(plan: &mut Plan, intent: &Intent, observed: &Observed, left: impl Fn(&Link) -> bool) {
    for link in observed.limited_foreign_taps() {
        if !left(link) && !is_claimed(intent, observed, link) {
            shape::lift(plan, link.index, observed);
        }
    }
}

/// Leaves our limits at the taps of ports that have gone to others: their driver was never told of them, and would set none
/// before the guest starts anew.
pub fn leave_limits(plan: &mut Plan, intent: &Intent, observed: &Observed, ports: &[NicIntent]) {
    for tap in ports.iter().filter_map(|port| port.nic.mac).flat_map(|mac| observed.foreign_taps(mac.of_tap())) {
        if tap.kind == LinkKind::Tap && !is_claimed(intent, observed, tap) {
            shape::leave(plan, tap.index, observed);
        }
    }
    ports.iter().for_each(|port| shape::no_other_ifb(plan, (MarkKind::Ifb, port.id), None, observed));
}

/// Whether a link is the tap of a port's guest.
fn is_claimed(intent: &Intent, observed: &Observed, link: &Link) -> bool {
    of_tap(intent, link).any(|port| claimed(intent, observed, port).is_some_and(|tap| tap.index == link.index))
}

/// The ports whose guest's tap a link may be.
pub fn of_tap<'a>(intent: &'a Intent, link: &Link) -> impl Iterator<Item = &'a NicIntent> {
    let tap = link.mac.filter(|_| link.kind == LinkKind::Tap && link.mark.is_none());
    tap.into_iter().flat_map(|mac| intent.ports_with_tap(mac)).filter_map(|id| intent.nic(id))
}

/// The bridge that a port's tap should be in, and how.
fn bridge(intent: &Intent, observed: &Observed, port: &NicIntent) -> Option<Plug> {
    let bridge = observed.link(home(intent, observed, port)?)?;
    let merged = desired::merged(intent, port).ok();
    Some(desired::bridge_port(port, merged.as_ref(), desired::resolve(intent, port).network(), bridge))
}
