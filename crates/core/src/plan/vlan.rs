//! VLANs on bridges (IEEE 802.1Q): which ones a port is in, and the steps there.
//!
//! A bridge that does not filter passes every frame, whatever its ports' VLANs are. So what ports are in is read of
//! bridges that filter, and assumed to be the kernel's default elsewhere, which is also what it is.

use super::desired::{DesiredBridge, Plug};
use super::mark::MarkKind;
use super::observed::{Index, Link, Observed};
use super::step::{LinkRef, Op, Plan};
use crate::intent::Intent;
use crate::model::{MacAddr, NativeMode, Vlan};
use std::collections::BTreeSet;
use std::fmt;
use uuid::Uuid;

/// The VLAN that frames without a tag belong to on a bridge of ours, the kernel's default.
pub const NO_VLAN: u16 = 1;

/// How a bridge treats VLANs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanState {
    /// Whether frames pass only between ports that are in their VLAN (`IFLA_BR_VLAN_FILTERING`).
    pub filtering: bool,
    /// The VLAN that a new port is put into, for frames without a tag (`IFLA_BR_VLAN_DEFAULT_PVID`); 0: none.
    pub default_pvid: u16,
}

impl Default for VlanState {
    /// A new bridge's, and that of a kernel which knows no VLANs.
    fn default() -> Self {
        Self { filtering: false, default_pvid: NO_VLAN }
    }
}

/// The VLANs that a bridge port is in, 1 to 4094; or a bridge itself, as the port that leads to the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortVlans {
    /// Which of them frames belong to that come in without a tag; without any, such frames are dropped.
    pub pvid: Option<u16>,
    /// Those whose frames leave without a tag.
    pub untagged: BTreeSet<u16>,
    /// Those whose frames leave with a tag.
    pub tagged: BTreeSet<u16>,
}

impl PortVlans {
    /// In one VLAN, without tags; in none for 0.
    pub fn access(vid: u16) -> Self {
        let pvid = (vid != 0).then_some(vid);
        Self { pvid, untagged: pvid.into_iter().collect(), tagged: BTreeSet::new() }
    }

    /// Whether it is in that VLAN alone, without tags; in none for 0. Nearly every port is, and each plan asks.
    pub fn is_access(&self, vid: u16) -> bool {
        let pvid = (vid != 0).then_some(vid);
        self.pvid == pvid && self.tagged.is_empty() && self.untagged.iter().copied().eq(pvid)
    }

    /// What `<vlan>` says: one VLAN without tags, or a trunk. What comes over a trunk without a tag belongs to its native
    /// VLAN, whose own frames leave without a tag, or with one in mode `tagged`; without a native VLAN it is dropped.
    pub fn of(vlan: &Vlan) -> Self {
        if let ([tag], None) = (&vlan.tags[..], vlan.trunk) {
            return Self::access(tag.id);
        }
        let native = vlan.tags.iter().find(|tag| tag.native.is_some());
        let bare = native.filter(|tag| tag.native == Some(NativeMode::Untagged)).map(|tag| tag.id);
        let tagged = vlan.tags.iter().map(|tag| tag.id).filter(|id| Some(*id) != bare).collect();
        Self { pvid: native.map(|tag| tag.id), untagged: bare.into_iter().collect(), tagged }
    }

    /// Whether it is in that VLAN.
    pub fn contains(&self, vid: u16) -> bool {
        self.untagged.contains(&vid) || self.tagged.contains(&vid)
    }

    /// All of them: VLANs in a row that leave alike, the one for frames without a tag by itself. First, last, whether it
    /// is that one, and whether its frames leave without a tag.
    pub fn ranges(&self) -> Vec<(u16, u16, bool, bool)> {
        let mut ranges: Vec<(u16, u16, bool, bool)> = Vec::new();
        for (vids, untagged) in [(&self.untagged, true), (&self.tagged, false)] {
            for &vid in vids {
                let pvid = self.pvid == Some(vid);
                match ranges.last_mut() {
                    Some((_, last, false, same)) if !pvid && *last + 1 == vid && *same == untagged => *last = vid,
                    _ => ranges.push((vid, vid, pvid, untagged)),
                }
            }
        }
        ranges
    }
}

impl fmt::Display for PortVlans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (first, last, pvid, untagged)) in self.ranges().into_iter().enumerate() {
            let comma = if n > 0 { ", " } else { "" };
            write!(f, "{comma}vid {first}")?;
            if last != first {
                write!(f, "-{last}")?;
            }
            f.write_str(if pvid { " pvid" } else { "" })?;
            f.write_str(if untagged { " untagged" } else { "" })?;
        }
        Ok(())
    }
}

/// What a NIC's tap is to be in, and what that takes.
pub(super) struct Wanted<'a> {
    vlans: &'a PortVlans,
    bridge: &'a Link,
    /// Whether the tap is to join the bridge, and would be in VLANs that are not its own for a moment.
    pub(super) held_back: bool,
}

impl<'a> Wanted<'a> {
    /// Of a tap that is to be in a bridge.
    pub(super) fn of(plug: &'a Plug, now: Option<&Link>, observed: &'a Observed) -> Option<Self> {
        let Plug::Bridge { controller, vlans, .. } = plug else { return None };
        let bridge = observed.link(*controller)?;
        let joins = now.and_then(|l| l.controller) != Some(*controller);
        Some(Self { vlans, bridge, held_back: joins && !vlans.is_access(bridge.vlan.default_pvid) })
    }

    /// The bridge filters, before the first port with VLANs of its own is in it. All others are in the kernel's default
    /// one, and notice nothing.
    pub(super) fn filtering(&self, plan: &mut Plan) {
        if !self.bridge.vlan.filtering && !self.vlans.is_access(self.bridge.vlan.default_pvid) {
            let bridge = LinkRef::Index(self.bridge.index);
            let undo = Op::SetFiltering(bridge, false);
            plan.push(Op::SetFiltering(bridge, true), Some(undo), "the bridge keeps VLANs apart");
        }
    }

    /// The tap's VLANs, once it is in the bridge; `forwarding` is the guest's address where we write it into the bridge's
    /// table. Says whether the entries for that are gone: there is one for each VLAN.
    pub(super) fn port(
        &self,
        plan: &mut Plan,
        tap: LinkRef,
        now: Option<&Link>,
        observed: &Observed,
        forwarding: Option<MacAddr>,
    ) -> bool {
        let there = now.filter(|l| l.controller == Some(self.bridge.index));
        let is = there.and_then(|l| observed.vlans(l.index));
        if is.map_or_else(|| self.vlans.is_access(self.bridge.vlan.default_pvid), |is| is == self.vlans) {
            return false;
        }
        let entry = forwarding.filter(|mac| there.is_some_and(|l| observed.forwarding.contains(&(l.index, *mac))));
        if let Some(mac) = entry {
            let entry = |present| Op::SetForwarding { port: tap, mac, present };
            plan.push(entry(false), Some(entry(true)), "the guest's address is in other VLANs");
        }
        let set = |vlans| Op::SetVlans { link: tap, own: false, vlans };
        let undo = there.map(|l| set(observed.vlans_of(l)));
        plan.push(set(self.vlans.clone()), undo, "the NIC's VLANs");
        entry.is_some()
    }
}

/// A tap that leaves a bridge leaves its VLANs there first, so that it gets them back should it have to return.
pub(super) fn leave(plan: &mut Plan, tap: LinkRef, now: Option<&Link>, to: Option<Index>, observed: &Observed) {
    let Some(now) = now.filter(|l| l.controller != to) else { return };
    let Some(was) = observed.vlans(now.index) else { return };
    if now.controller.and_then(|c| observed.link(c)).is_some_and(|c| !c.is_doomed()) {
        let set = |vlans| Op::SetVlans { link: tap, own: false, vlans };
        plan.push(set(PortVlans::default()), Some(set(was.clone())), "the NIC leaves its VLANs");
    }
}

/// A network's own bridge, whether it filters, and the host's VLANs on it. Until ports get VLANs of their own they are in
/// the kernel's default one.
pub(super) fn bridge(plan: &mut Plan, desired: &DesiredBridge, link: LinkRef, now: Option<&Link>, observed: &Observed) {
    let wanted = desired.spec.vlan_filtering;
    if now.is_some_and(|l| l.vlan.filtering != wanted) {
        let why = if wanted { "the bridge keeps VLANs apart" } else { "nobody has a VLAN here any more" };
        plan.push(Op::SetFiltering(link, wanted), Some(Op::SetFiltering(link, !wanted)), why);
    }
    let was = now.map_or_else(|| PortVlans::access(NO_VLAN), |l| observed.vlans_of(l));
    if was != desired.vlans {
        let set = |vlans| Op::SetVlans { link, own: true, vlans };
        let undo = now.map(|_| set(was));
        plan.push(set(desired.vlans.clone()), undo, "the host's VLANs on the bridge");
    }
}

/// The own bridge that a NIC is in now filters no longer when this plan takes away the last that has a VLAN there.
pub fn last_leaves(plan: &mut Plan, intent: &Intent, observed: &Observed, nic: Uuid) {
    let tap = observed.link_marked(MarkKind::Tap, nic);
    let bridge = tap.and_then(|l| observed.link(l.controller?));
    let Some(bridge) = bridge.filter(|l| l.vlan.filtering && !l.is_doomed()) else { return };
    let network = bridge.mark.filter(|m| m.kind == MarkKind::Bridge && m.instance == intent.instance).map(|m| m.id);
    let Some(network) = network.filter(|n| intent.network(*n).is_some_and(|n| n.active.is_some())) else { return };
    if !intent.has_vlans(network) {
        let link = LinkRef::Index(bridge.index);
        let undo = Op::SetFiltering(link, true);
        plan.push(Op::SetFiltering(link, false), Some(undo), "nobody has a VLAN here any more");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::VlanTag;

    fn vlan(trunk: Option<bool>, tags: &[(u16, Option<NativeMode>)]) -> String {
        let tags = tags.iter().map(|(id, native)| VlanTag { id: *id, native: *native }).collect();
        PortVlans::of(&Vlan { trunk, tags }).to_string()
    }

    #[test]
    fn an_element_says_which_vlans_a_port_is_in() {
        let (tagged, untagged) = (Some(NativeMode::Tagged), Some(NativeMode::Untagged));
        assert_eq!(vlan(None, &[(42, None)]), "vid 42 pvid untagged");
        assert_eq!(vlan(Some(true), &[(42, None)]), "vid 42");
        assert_eq!(vlan(Some(true), &[(42, None), (44, None), (43, None), (50, None)]), "vid 42-44, vid 50");
        assert_eq!(vlan(Some(true), &[(42, untagged), (43, None)]), "vid 42 pvid untagged, vid 43");
        assert_eq!(vlan(Some(true), &[(42, None), (43, tagged), (44, None)]), "vid 42, vid 43 pvid, vid 44");
        assert_eq!(PortVlans::access(0), PortVlans::default());
        let ports =
            [PortVlans::default(), PortVlans::access(42), PortVlans { tagged: [42].into(), ..PortVlans::default() }];
        for (port, vid) in ports.iter().flat_map(|port| [0, 1, 42].map(|vid| (port, vid))) {
            assert_eq!(port.is_access(vid), *port == PortVlans::access(vid), "{port}, {vid}");
        }
    }
}
