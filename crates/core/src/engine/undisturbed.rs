//! Whether a network may change while its guests run: what they have stays, or the change is refused with who has it.

use super::{Engine, Object};
use crate::intent::{NicIntent, devices};
use crate::model::{ActualType, ForwardMode, Ip, Network, VirtualPortType};
use crate::plan::desired::{self, Resolved};
use crate::plan::{Link, MarkKind, claim, driver};
use crate::pool::Device;
use crate::{Error, ErrorKind};
use uuid::Uuid;

/// NICs that a refusal names.
const NAMED: usize = 3;

impl Engine {
    /// Refuses to make network `uuid`, which is `before`, what `after` is, where that would take from its NICs what their
    /// guests can't do without: an address of the host's in their subnet, the kind of thing that they are plugged into, a
    /// device, or what keeps them apart.
    pub(super) fn nics_stay(&self, uuid: Uuid, before: &Network, after: &Network) -> Result<(), Error> {
        let kept = |ip: &Ip| after.ips.iter().any(|other| other.network() == ip.network());
        if let Some(ip) = before.ips.iter().find(|ip| !kept(ip)) {
            let what = format!("{} is their gateway and their subnet's", ip.network());
            let nics = self.intent.nics_of(uuid).chain(self.nics_by_name(before));
            none_cut_off(nics, after, "<ip address>", &what)?;
        }
        let [was, is] = [before, after].map(ActualType::of_network);
        if was != is {
            none_cut_off(self.intent.nics_of(uuid), after, "<forward mode>", "they are plugged in as its mode says")?;
        }
        if driver(before) != driver(after) {
            none_cut_off(
                self.intent.nics_of(uuid),
                after,
                "<forward managed>",
                "their devices have the driver that it says",
            )?;
        }
        self.intent.nics_of(uuid).try_for_each(|nic| self.nic_stays(nic, after))
    }

    /// Refuses to leave a bridge for one of another name where guests would stay behind: those that know it by its name,
    /// whatever others put there, and libvirt's in one that libvirt made. That is nobody's once it is left, and could not be had back if the change failed.
    pub(super) fn bridge_may_be_left(&self, uuid: Uuid, before: &Network, after: &Network) -> Result<(), Error> {
        let Some(bridge) = before.bridge.name.as_ref().filter(|_| before.forward.mode.has_own_bridge()) else {
            return Ok(());
        };
        if self.observed.link_marked(MarkKind::Bridge, uuid).is_some_and(Link::is_claimed) {
            let cause = format!("{bridge} was made by libvirt's daemon, and can't be left while the network runs");
            return Err(Error::new(ErrorKind::Unsupported, format!("network '{}'", after.name), cause)
                .field("<bridge name>")
                .hint("change the definition alone and stop and start the network"));
        }
        let what = format!("they are in {bridge} by its name, not as this network's");
        none_cut_off(self.nics_by_name(before), after, "<bridge name>", &what)?;
        let others = self.others_ports(uuid);
        if others.is_empty() {
            return Ok(());
        }
        let cause = format!("what others put into {bridge} would be cut off: {}", others.join(", "));
        Err(Error::new(ErrorKind::NeededByNics, format!("network '{}'", after.name), cause)
            .field("<bridge name>")
            .hint("take it out first ('ip link set dev PORT nomaster')"))
    }

    /// NICs that are in a network's own bridge since they name that, and not the network.
    fn nics_by_name<'a>(&'a self, network: &'a Network) -> impl Iterator<Item = &'a NicIntent> {
        let bridge = network.bridge.name.as_ref().filter(|_| network.forward.mode.has_own_bridge());
        bridge.into_iter().flat_map(|bridge| self.intent.nics_on_bridge(bridge))
    }

    /// The ports of a network's bridge that are neither ours nor those of its guests, by name.
    fn others_ports(&self, uuid: Uuid) -> Vec<&str> {
        let bridge = self.observed.link_marked(MarkKind::Bridge, uuid).map(|bridge| bridge.index);
        let of_guests = |link: &Link| claim::of_tap(&self.intent, link).any(|port| port.network == Some(uuid));
        let ports = self.observed.links().filter(|link| bridge.is_some() && link.controller == bridge);
        let others = ports.filter(|link| link.mark.is_none() && !of_guests(link));
        others.map(|link| link.name.as_str()).collect()
    }

    /// A NIC keeps its device, and what keeps it apart.
    fn nic_stays(&self, nic: &NicIntent, after: &Network) -> Result<(), Error> {
        let merged = desired::merged_with(Some(after), nic).map_err(|error| match error.kind {
            ErrorKind::NoPortgroup => error.hint("move the NIC to another portgroup first, or to none"),
            _ => error,
        })?;
        let ovs = merged.virtualport.as_ref().and_then(|v| v.kind) == Some(VirtualPortType::OpenVSwitch);
        let bridge = after.bridge.name.as_ref().filter(|_| after.forward.mode == ForwardMode::Bridge && !ovs);
        if let Some(bridge) = bridge {
            let object = self.describe(Object::Nic(nic.id));
            self.vlans_can_be_had(&object, &Resolved::HostBridge(bridge, Some(after)), merged.vlan.as_ref())?;
        }
        let Some(device) = nic.allocation.as_ref().map(crate::intent::Allocation::device) else { return Ok(()) };
        if devices(&after.forward).any(|d| d == device) {
            return Ok(());
        }
        let cause = format!("NIC {} of guest '{}' has {device}", nic.id, nic.guest);
        let field = match device {
            _ if after.forward.pf.is_some() => "<forward pf>",
            Device::Link(_) => "<forward interface>",
            Device::Pci(_) => "<forward address>",
        };
        Err(Error::new(ErrorKind::NeededByNics, format!("network '{}'", after.name), cause)
            .field(field)
            .hint("move or detach the NIC first"))
    }
}

/// Refuses while there are NICs, naming them; `what` says what they have of it.
fn none_cut_off<'a>(
    mut nics: impl Iterator<Item = &'a NicIntent>,
    network: &Network,
    field: &str,
    what: &str,
) -> Result<(), Error> {
    let named: Vec<_> =
        nics.by_ref().take(NAMED).map(|nic| format!("NIC {} of guest '{}'", nic.id, nic.guest)).collect();
    if named.is_empty() {
        return Ok(());
    }
    let more = match nics.count() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let cause = format!("{}{more} would be cut off: {what}", named.join(", "));
    Err(Error::new(ErrorKind::NeededByNics, format!("network '{}'", network.name), cause)
        .field(field)
        .hint("detach them first, or change the definition alone and stop and start the network"))
}
