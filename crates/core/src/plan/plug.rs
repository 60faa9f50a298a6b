//! The steps for one NIC: its tap, and what that is plugged into.
//!
//! A tap moves by make before break, as far as the kernel allows: the new way is there before the old one goes, so that
//! frames always have one. Only to and from passthrough mode on the same device the old macvlan must be gone first.

use super::desired::{DesiredNic, Plug};
use super::mark::MarkKind;
use super::observed::{Index, Link, LinkKind, Observed, PortFlags};
use super::rates::Classes;
use super::shape::{self, At};
use super::step::{LinkChange, LinkRef, MacvlanSpec, Op, Plan};
use super::vlan;
use crate::model::{DirectMode, MacAddr};
use uuid::Uuid;

/// Why frames are handed on.
const JOINED: &str = "the two ends of the cord are joined";
const WAITS: &str = "what the guest sends waits for its turn";

/// The steps for one NIC; `desired` is `None` once it is detached.
pub fn nic(plan: &mut Plan, id: Uuid, desired: Option<&DesiredNic>, observed: &Observed) {
    let there = observed.link_marked(MarkKind::Tap, id);
    let Some(desired) = desired else {
        let others = [MarkKind::Macvlan, MarkKind::Ifb].into_iter().flat_map(|kind| observed.links_marked(kind, id));
        for link in there.into_iter().chain(others) {
            plan.push(Op::Doom(link.index), None, "the NIC is detached");
        }
        return;
    };
    if let Plug::Macvtap(macvtap) = &desired.plug {
        return super::macvtap::steps(plan, id, (macvtap, desired), observed);
    }
    let (tap, index) = match there {
        Some(link) => (LinkRef::Index(link.index), Some(link.index)),
        None => (plan.push(Op::MakeTap(desired.tap.clone()), None, "the NIC's tap"), None),
    };
    let now = index.and_then(|i| observed.link(i));
    shape::outgoing(plan, (tap, index), &desired.rates.classes, observed, "the rate towards the guest");
    shape::police(plan, (tap, index), desired.rates.incoming.police(), observed, "the rate from the guest");
    let waiting = desired.rates.incoming.classes();
    let (mut end, mut ifb) = (None, None);
    match &desired.plug {
        Plug::Cord(spec) => end = Some(far_end(plan, tap, id, (spec, &waiting), observed)),
        Plug::Bridge { .. } => {
            ifb = shape::ifb(plan, (desired.tap.mark.instance, MarkKind::Ifb, id), &waiting, observed);
        }
        Plug::Ovs(_) | Plug::Macvtap(_) | Plug::Nothing(_) => {}
    }
    let redirected = end.is_some_and(|end| redirect(plan, (tap, index), end, observed, JOINED));
    // What leaves by a macvlan does so until the tap is in its bridge.
    let leaves = index.is_some_and(|i| observed.redirects.contains_key(&i));
    if let Some((ifb, _)) = ifb.filter(|_| !leaves) {
        redirect(plan, (tap, index), ifb, observed, WAITS);
    }
    let wanted = vlan::Wanted::of(&desired.plug, now, observed);
    if let Some(vlans) = &wanted {
        vlans.filtering(plan);
    }
    let held_back = wanted.as_ref().is_some_and(|vlans| vlans.held_back);
    let plugged = set_tap(plan, tap, now, desired, observed, held_back);
    match ifb {
        Some((ifb, _)) if leaves => drop(redirect(plan, (tap, index), ifb, observed, WAITS)),
        None if end.is_none() => end_redirect(plan, (tap, index), observed, "the tap's frames no longer go elsewhere"),
        _ => {}
    }
    if let Plug::Bridge { flags, forwarding, controller: to, .. } = &desired.plug {
        let there = now.filter(|l| l.controller == Some(*to));
        learns_again(plan, (there, *flags), desired.announce, observed);
        port(plan, tap, there.and_then(|l| l.port), *flags);
        let forgotten = wanted.is_some_and(|vlans| vlans.port(plan, tap, now, observed, *forwarding));
        write(plan, (tap, index.filter(|_| !plugged && !forgotten)), *forwarding, observed);
    }
    if held_back {
        let up = |up| LinkChange { up: Some(up), ..LinkChange::default() };
        let undo = now.map(|_| Op::SetLink(tap, up(false)));
        plan.push(Op::SetLink(tap, up(true)), undo, "the NIC is plugged in");
    }
    if let (true, Some(mac), Some(_)) = (plugged || redirected, desired.announce, index) {
        plan.push(Op::Announce(tap, mac), None, "switches learn where the guest is now");
    }
    for old in observed.links_marked(MarkKind::Macvlan, id) {
        if end != Some(LinkRef::Index(old.index)) && !deletes(plan, old.index) {
            plan.push(Op::Doom(old.index), None, "the NIC is no longer on that device");
        }
    }
    shape::no_other_ifb(plan, (MarkKind::Ifb, id), ifb, observed);
}

/// What differs about the tap itself; says whether it joins a bridge. One that is held back is down until it is in its
/// VLANs.
fn set_tap(
    plan: &mut Plan,
    tap: LinkRef,
    now: Option<&Link>,
    desired: &DesiredNic,
    observed: &Observed,
    held_back: bool,
) -> bool {
    let controller = now.and_then(|l| l.controller);
    let is_bridge = |c: &Index| observed.link(*c).is_none_or(|l| l.kind == LinkKind::Bridge);
    let wanted = match &desired.plug {
        Plug::Bridge { controller, .. } => Some(*controller),
        // Open vSwitch's datapath takes control of its ports' links by itself.
        Plug::Ovs(_) => controller.filter(|c| !is_bridge(c)),
        Plug::Cord(_) | Plug::Macvtap(_) | Plug::Nothing(_) => None,
    };
    let (mut change, mut undo) = (LinkChange::default(), LinkChange::default());
    // A controller that is doomed is as good as none.
    let parked_on_doomed = controller.is_some_and(|c| observed.link(c).is_none_or(Link::is_doomed)) && wanted.is_none();
    if controller != wanted && !parked_on_doomed {
        vlan::leave(plan, tap, now, wanted, observed);
        change.controller = Some(wanted.map(LinkRef::Index));
        undo.controller = Some(controller.map(LinkRef::Index));
    }
    if now.is_some_and(|l| l.mtu != desired.tap.mtu) {
        (change.mtu, undo.mtu) = (Some(desired.tap.mtu), now.map(|l| l.mtu));
    }
    if held_back {
        (change.up, undo.up) = (now.filter(|l| l.up).map(|_| false), now.map(|l| l.up));
    } else if now.is_none_or(|l| !l.up) {
        (change.up, undo.up) = (Some(true), Some(false));
    }
    if change == LinkChange::default() {
        return false;
    }
    let plugged = change.controller.is_some() && wanted.is_some();
    let why = match desired.plug {
        Plug::Nothing(_) => "the NIC is plugged into nothing",
        Plug::Bridge { .. } | Plug::Cord(_) | Plug::Ovs(_) | Plug::Macvtap(_) => "the NIC is plugged in",
    };
    let undo = now.map(|_| Op::SetLink(tap, undo));
    plan.push(Op::SetLink(tap, change), undo, why);
    plugged
}

/// The macvlan that the NIC's frames leave by, waiting there if need be, with its way back to the tap: the one that is
/// there, changed where it differs, or a new one.
fn far_end(
    plan: &mut Plan,
    tap: LinkRef,
    id: Uuid,
    (spec, waiting): (&MacvlanSpec, &Classes),
    observed: &Observed,
) -> LinkRef {
    let on_device = observed.links_marked(MarkKind::Macvlan, id).rfind(|l| l.lower == Some(spec.lower));
    let kept = on_device.filter(|l| l.mode == Some(spec.mode) || changes_in_place(l.mode, spec.mode));
    if let Some(old) = on_device.filter(|_| kept.is_none()) {
        plan.push(Op::Delete(old.index), None, "a device in passthrough mode carries one macvlan alone");
    }
    let (end, index) = match kept {
        Some(link) => {
            change_macvlan(plan, link, spec, true);
            (LinkRef::Index(link.index), Some(link.index))
        }
        None => (plan.push(Op::MakeMacvlan(spec.clone()), None, "the macvlan on the NIC's device"), None),
    };
    redirect(plan, (end, index), tap, observed, JOINED);
    shape::outgoing(plan, (end, index), waiting, observed, "the rate from the guest");
    if kept.is_none() {
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        plan.push(Op::SetLink(end, up), None, "the macvlan carries frames");
    }
    end
}

/// Whether the kernel changes a macvlan from the one mode to the other.
pub(crate) fn changes_in_place(from: Option<DirectMode>, to: DirectMode) -> bool {
    from.is_some_and(|from| from != DirectMode::Passthrough) && to != DirectMode::Passthrough
}

/// What differs about a macvlan or macvtap that is there.
pub(super) fn change_macvlan(plan: &mut Plan, link: &Link, spec: &MacvlanSpec, up: bool) {
    let here = LinkRef::Index(link.index);
    if let Some(mode) = link.mode.filter(|mode| *mode != spec.mode) {
        plan.push(Op::SetMode(here, spec.mode), Some(Op::SetMode(here, mode)), "the network's mode");
    }
    let (mut change, mut undo) = (LinkChange::default(), LinkChange::default());
    if link.mac != Some(spec.mac) {
        (change.mac, undo.mac) = (Some(spec.mac), link.mac);
    }
    if link.mtu != spec.mtu {
        // It went down with its device's, and does not come back by itself.
        (change.mtu, undo.mtu) = (Some(spec.mtu), Some(link.mtu));
    }
    if !link.all_multicast {
        (change.all_multicast, undo.all_multicast) = (Some(true), Some(false));
    }
    if link.up != up {
        (change.up, undo.up) = (Some(up), Some(link.up));
    }
    if change != LinkChange::default() {
        plan.push(Op::SetLink(here, change), Some(Op::SetLink(here, undo)), "the macvlan as it should be");
    }
}

/// Has what comes in at one end go out by the other; says whether it did not before.
pub(super) fn redirect(
    plan: &mut Plan,
    (from, index): At,
    to: LinkRef,
    observed: &Observed,
    why: &'static str,
) -> bool {
    let was = index.and_then(|i| observed.redirects.get(&i));
    if was.is_some_and(|was| was.map(LinkRef::Index) == Some(to)) {
        return false;
    }
    let undo = match was {
        Some(Some(was)) if !deletes(plan, *was) => Some(Op::Redirect(from, LinkRef::Index(*was))),
        _ => index.map(|_| Op::EndRedirect(from)),
    };
    plan.push(Op::Redirect(from, to), undo, why);
    true
}

/// Has a link keep what comes in at it, if it hands it on.
pub(super) fn end_redirect(plan: &mut Plan, (from, index): At, observed: &Observed, why: &'static str) {
    if let Some(was) = index.and_then(|i| observed.redirects.get(&i)) {
        plan.push(Op::EndRedirect(from), was.map(|to| Op::Redirect(from, LinkRef::Index(to))), why);
    }
}

/// Whether a link is gone once the plan is carried out so far.
fn deletes(plan: &Plan, link: Index) -> bool {
    plan.steps.iter().any(|step| step.op == Op::Delete(link))
}

/// A port's flags; a new port has the kernel's defaults.
pub(super) fn port(plan: &mut Plan, link: LinkRef, now: Option<PortFlags>, wanted: PortFlags) {
    let was = now.unwrap_or(PortFlags::NEW);
    if was != wanted {
        let undo = now.map(|was| Op::SetPort(link, was));
        plan.push(Op::SetPort(link, wanted), undo, "isolation and learning as defined");
    }
}

/// The guest's address in the bridge's table, where we write it there. The index is that of a port whose entries are as
/// they were.
pub(super) fn write(plan: &mut Plan, (port, there): At, forwarding: Option<MacAddr>, observed: &Observed) {
    let Some(mac) = forwarding else { return };
    if !there.is_some_and(|index| observed.forwarding.contains(&(index, mac))) {
        let entry = Op::SetForwarding { port, mac, present: true };
        plan.push(entry, None, "the bridge learns the guest's address from us");
    }
}

/// What we wrote into the bridge's table for a port that is there goes when it learns again.
fn learns_again(
    plan: &mut Plan,
    (there, flags): (Option<&Link>, PortFlags),
    mac: Option<MacAddr>,
    observed: &Observed,
) {
    let (Some(link), Some(mac)) = (there, mac) else { return };
    let learned = link.port.is_none_or(|was| was.learning);
    if flags.learning && !learned && observed.forwarding.contains(&(link.index, mac)) {
        let entry = |present| Op::SetForwarding { port: link.index.into(), mac, present };
        plan.push(entry(false), Some(entry(true)), "the bridge learns the guest's address again");
    }
}

/// Whether a NIC is plugged in: its tap is in some bridge that lives, or joined to a macvlan, or a macvtap that is up.
pub fn is_plugged(observed: &Observed, nic: Uuid) -> bool {
    let Some(tap) = observed.link_marked(MarkKind::Tap, nic) else { return false };
    if observed.ovs.get(&nic).is_some_and(|known| known.port.is_some()) {
        return true;
    }
    let in_bridge = tap.controller.and_then(|c| observed.link(c)).is_some_and(|l| !l.is_doomed());
    let on_device = tap.kind == LinkKind::Macvtap && tap.up;
    let end = observed.redirects.get(&tap.index).copied().flatten().and_then(|to| observed.link(to));
    in_bridge || on_device || end.is_some_and(|end| end.mark.is_some_and(|mark| mark.kind == MarkKind::Macvlan))
}
