//! Taps that others made for ports of ours: libvirt's driver makes a guest's tap, puts it into the bridge that its port
//! names, and tells nobody. It is known by its address, which is the guest's with the first byte 0xfe; a macvtap has the
//! guest's own, and sits on the port's device.
//!
//! Such a tap may be given a bridge that it has lost, and what goes with that; it is never renamed or deleted.

use super::desired::{self, Plug, Resolved};
use super::observed::{Link, LinkKind, Observed};
use super::step::{LinkChange, LinkRef, Op, Plan};
use super::{plug, vlan};
use crate::intent::{Intent, NicIntent};

/// The tap or macvtap of a port's guest, if there is one and it can be no other's. While its network is stopped, what it
/// sits on is not known.
pub fn claimed<'a>(intent: &Intent, observed: &'a Observed, port: &NicIntent) -> Option<&'a Link> {
    let mac = port.nic.mac?;
    let taps = observed.foreign_taps(mac.of_tap()).filter(|l| l.kind == LinkKind::Tap);
    let lower = port.device().and_then(|device| observed.link_named(device.as_str())).map(|l| l.index);
    let on_device = |l: &&Link| l.kind == LinkKind::Macvtap && (l.lower == lower || lower.is_none());
    let macvtaps = observed.foreign_taps(mac).filter(on_device);
    let mut links: Box<dyn Iterator<Item = &Link>> = match desired::resolve(intent, port) {
        Resolved::Device(..) => Box::new(macvtaps),
        Resolved::Stopped if port.device().is_some() => Box::new(macvtaps),
        _ => Box::new(taps),
    };
    links.next().filter(|_| links.next().is_none())
}

/// The steps for a port's tap: to be in the bridge that its network has now, unless others keep it elsewhere.
pub fn steps(plan: &mut Plan, intent: &Intent, observed: &Observed, port: &NicIntent) {
    let Some(tap) = claimed(intent, observed, port) else { return };
    let Some(wanted) = bridge(intent, observed, port) else { return };
    let Plug::Bridge { controller, flags, forwarding, .. } = &wanted else { return };
    let lost = tap.controller.is_none_or(|c| observed.link(c).is_none_or(Link::is_doomed));
    if !lost && tap.controller != Some(*controller) {
        return;
    }
    let here = LinkRef::Index(tap.index);
    let vlans = vlan::Wanted::of(&wanted, Some(tap), observed);
    if let Some(vlans) = &vlans {
        vlans.filtering(plan);
    }
    if lost {
        let change = |controller| LinkChange { controller: Some(controller), ..LinkChange::default() };
        let undo = Op::SetLink(here, change(None));
        plan.push(
            Op::SetLink(here, change(Some(LinkRef::Index(*controller)))),
            Some(undo),
            "the guest's tap is back in its bridge",
        );
    }
    plug::port(plan, here, tap.port.filter(|_| !lost), *flags);
    if let Some(vlans) = &vlans {
        vlans.port(plan, here, Some(tap).filter(|_| !lost), observed, *forwarding);
    }
}

/// The bridge that a port's tap should be in, and how.
fn bridge(intent: &Intent, observed: &Observed, port: &NicIntent) -> Option<Plug> {
    let resolved = desired::resolve(intent, port);
    let (Resolved::Virtual(name, _) | Resolved::HostBridge(name, _)) = resolved else { return None };
    let bridge = observed.link_named(name.as_str()).filter(|l| l.kind == LinkKind::Bridge && !l.is_doomed())?;
    Some(desired::bridge_port(intent, port, resolved.network(), bridge))
}
