//! NICs that are a macvtap: tap and macvlan in one link of the kernel's, which can't be parted.
//!
//! So such a NIC stays on its device. Its mode can change, as far as the kernel changes it in place, and instead of being
//! plugged into nothing it is down. When its device goes the link goes along, and with it for good whatever descriptors
//! of it there are.

use super::desired::{DesiredNic, Resolved, Unplugged, keeps_apart};
use super::mark::{Mark, MarkKind};
use super::observed::{Link, LinkKind, Observed};
use super::plug::{change_macvlan, changes_in_place};
use super::shape;
use super::step::{Handover, LinkChange, LinkRef, MacvlanSpec, MacvtapSpec, Op, Plan};
use crate::intent::{Intent, NicIntent};
use crate::merge::Merged;
use crate::model::LinkState;
use uuid::Uuid;

/// The macvtap of a NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredMacvtap {
    /// As it should be; none where none can be made, and what is there stays.
    pub spec: Option<MacvtapSpec>,
    /// Why it is down; none when it is up.
    pub unplugged: Option<Unplugged>,
}

/// What a NIC's macvtap should be; `device` is the link that it sits on, and `mtu` in bytes what it should have.
pub(super) fn desired(
    (intent, observed): (&Intent, &Observed),
    nic: &NicIntent,
    merged: Option<&Merged>,
    (resolved, device, mtu): (&Resolved<'_>, Option<&Link>, u32),
) -> DesiredMacvtap {
    let down = |why| DesiredMacvtap { spec: None, unplugged: Some(why) };
    let there = observed.link_marked(MarkKind::Tap, nic.id);
    if there.is_none() && nic.confirmed && nic.handover == Handover::Descriptor {
        return down(Unplugged::Lost);
    }
    let (mode, network) = match resolved {
        Resolved::Device(_, mode, network) => (*mode, *network),
        Resolved::Stopped => return down(Unplugged::Parked),
        Resolved::Virtual(..) | Resolved::HostBridge(..) | Resolved::Function(..) | Resolved::None => {
            return down(Unplugged::Misfit);
        }
    };
    let (Some(device), Some(mac), Some(name), Some(merged)) = (device, nic.nic.mac, &nic.nic.target, merged) else {
        return down(Unplugged::Waiting);
    };
    if !keeps_apart(merged, device, observed) {
        return down(Unplugged::Waiting);
    }
    let listed = network.is_none_or(|n| n.forward.devices.iter().any(|d| d.dev.as_str() == device.name));
    let fits = |link: &Link| {
        let right_mode = link.mode == Some(mode) || changes_in_place(link.mode, mode);
        link.kind == LinkKind::Macvtap && link.lower == Some(device.index) && right_mode
    };
    if !listed || !there.is_none_or(fits) {
        return down(Unplugged::Misfit);
    }
    let link = MacvlanSpec {
        name: name.clone(),
        mark: Mark { instance: intent.instance, kind: MarkKind::Tap, id: nic.id },
        lower: device.index,
        mode,
        mac,
        mtu: mtu.min(device.mtu),
    };
    let spec = MacvtapSpec { link, queues: nic.nic.queues.unwrap_or(1), handover: nic.handover };
    let pulled = nic.nic.link == Some(LinkState::Down);
    DesiredMacvtap { spec: Some(spec), unplugged: pulled.then_some(Unplugged::Wanted) }
}

/// The steps for a NIC's macvtap. Its limits are there before it is up.
pub(super) fn steps(plan: &mut Plan, id: Uuid, (desired, nic): (&DesiredMacvtap, &DesiredNic), observed: &Observed) {
    let there = observed.link_marked(MarkKind::Tap, id);
    let link = match (there, &desired.spec) {
        (Some(link), _) => Some((LinkRef::Index(link.index), Some(link.index))),
        (None, Some(spec)) => {
            Some((plan.push(Op::MakeMacvtap(spec.clone()), None, "the NIC's macvtap on its device"), None))
        }
        (None, None) => None,
    };
    let why = ("the rate from the guest", "the rate towards the guest");
    let limited = link.map(|link| (link, &nic.rates));
    shape::limits(plan, (nic.tap.mark.instance, MarkKind::Ifb, id), limited, observed, why);
    let up = desired.unplugged.is_none();
    let set = |link, up| Op::SetLink(link, LinkChange { up: Some(up), ..LinkChange::default() });
    match (link, there, &desired.spec) {
        (_, Some(there), Some(spec)) => change_macvlan(plan, there, &spec.link, up),
        (Some((link, _)), Some(there), None) if there.up => {
            plan.push(set(link, false), Some(set(link, true)), "the NIC is plugged into nothing");
        }
        (Some((made, _)), None, _) if up => drop(plan.push(set(made, true), None, "the NIC is plugged in")),
        _ => {}
    }
}
