//! VLANs that ports of host bridges carry for NICs on the bridge: added where they are missing, and taken away again when
//! the last NIC that needs them is gone, whichever network it is on. Only ports that the host's operator names are ours to
//! change like that; what such a port carries by itself stays.

use super::desired;
use super::observed::{Link, Observed};
use super::step::{Op, Plan};
use super::vlan::PortVlans;
use crate::intent::{Intent, NicIntent};
use crate::model::LinkName;
use std::collections::{BTreeMap, BTreeSet};

/// Host bridges, and those of their ports that are to carry their NICs' VLANs.
pub type Uplinks = BTreeMap<LinkName, BTreeSet<LinkName>>;

/// VLANs by the name of the port that carries them.
pub type Carried = BTreeMap<LinkName, BTreeSet<u16>>;

/// The steps for all uplinks.
pub fn steps(plan: &mut Plan, intent: &Intent, observed: &Observed, uplinks: &Uplinks) {
    let mut wanted: Carried = intent.saved.carried.keys().map(|port| (port.clone(), BTreeSet::new())).collect();
    for (bridge, ports) in uplinks {
        let needed = needed(intent, bridge);
        let there = ports.iter().filter(|port| is_in(observed, port, bridge));
        for port in there {
            wanted.entry(port.clone()).or_default().extend(&needed);
        }
    }
    for (name, wanted) in wanted {
        let Some(port) = filtered(observed, &name) else { continue };
        let now = observed.vlans_of(port);
        let ours = intent.saved.carried.get(&name).into_iter().flatten();
        let add: BTreeSet<u16> = wanted.iter().copied().filter(|vid| !now.contains(*vid)).collect();
        let end: BTreeSet<u16> =
            ours.copied().filter(|vid| !wanted.contains(vid) && now.tagged.contains(vid)).collect();
        let carry = |add, end| Op::Carry { port: port.index, add, end };
        if !end.is_empty() {
            let (none, ended) = (BTreeSet::new, end.clone());
            plan.push(carry(none(), end), Some(carry(ended, none())), "nobody on the bridge needs them any more");
        }
        if !add.is_empty() {
            let (none, added) = (BTreeSet::new, add.clone());
            plan.push(carry(add, none()), Some(carry(none(), added)), "guests on the bridge need them");
        }
    }
}

/// Those of the VLANs that we added that are still to be remembered: all but those that went with their port, or that
/// nobody needs any more and that are gone.
pub fn still_carried(intent: &Intent, observed: &Observed, uplinks: &Uplinks) -> Carried {
    let needed = |name: &LinkName| {
        let bridges = uplinks.iter().filter(|(_, ports)| ports.contains(name)).map(|(bridge, _)| bridge);
        bridges.filter(|bridge| is_in(observed, name, bridge)).flat_map(|bridge| needed(intent, bridge)).collect()
    };
    let mut carried = intent.saved.carried.clone();
    carried.retain(|name, vids| {
        let Some(port) = observed.link_named(name.as_str()).filter(|link| link.controller.is_some()) else {
            return false;
        };
        // A bridge that does not filter tells nothing of VLANs, and keeps them.
        if filtered(observed, name).is_some() {
            let (now, needed): (PortVlans, BTreeSet<u16>) = (observed.vlans_of(port), needed(name));
            vids.retain(|vid| now.tagged.contains(vid) || needed.contains(vid));
        }
        !vids.is_empty()
    });
    carried
}

/// Whether a NIC may need VLANs of an uplink.
pub fn may_need(intent: &Intent, nic: &NicIntent, uplinks: &Uplinks) -> bool {
    let network = intent.active_network_of(nic).and_then(|network| network.bridge.name.as_ref());
    nic.named_bridge().or(network).is_some_and(|bridge| uplinks.contains_key(bridge))
}

/// The VLANs that NICs on a host bridge are in.
fn needed(intent: &Intent, bridge: &LinkName) -> BTreeSet<u16> {
    let vlans = |nic: &NicIntent| desired::merged(intent, nic).ok().and_then(|merged| merged.vlan);
    let vlans = intent.nics_on_bridge(bridge).filter_map(vlans).map(|vlan| PortVlans::of(&vlan));
    vlans.flat_map(|vlans| vlans.untagged.into_iter().chain(vlans.tagged)).collect()
}

/// A port of a bridge that keeps VLANs apart.
fn filtered<'a>(observed: &'a Observed, port: &LinkName) -> Option<&'a Link> {
    let port = observed.link_named(port.as_str()).filter(|link| link.controller.is_some())?;
    observed.bridge_of(port).is_some_and(|bridge| bridge.vlan.filtering).then_some(port)
}

fn is_in(observed: &Observed, port: &LinkName, bridge: &LinkName) -> bool {
    let controller = observed.link_named(port.as_str()).and_then(|port| observed.link(port.controller?));
    controller.is_some_and(|controller| controller.name == bridge.as_str())
}
