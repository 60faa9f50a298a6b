//! Associations: that a switch has given a guest's port one of its profiles (802.1Qbg, 802.1Qbh).
//!
//! Neither the kernel nor the switch's agent tells whose an association is, so each is written down before it is asked
//! for, and what was written down is ended when nobody wants it any more.

use super::desired::{self, Plug, Resolved};
use super::macvtap::DesiredMacvtap;
use super::observed::{Index, Observed};
use crate::intent::{Intent, NicIntent};
use crate::model::{LinkName, LinkState, MacAddr, PciAddress, VirtualPort, VirtualPortType};
use uuid::Uuid;

/// A NIC's association: what it is about, and everything that the switch is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Association {
    /// The NIC.
    pub nic: Uuid,
    /// The device whose link leads to the switch.
    pub device: LinkName,
    /// Its index.
    pub index: Index,
    /// The device's virtual function that the guest has, where it has one; it need not have a link.
    pub function: Option<PciAddress>,
    /// The guest's address.
    pub mac: MacAddr,
    /// The VLAN of its frames, 1 to 4094; 0 for none.
    pub vlan: u16,
    /// The guest's UUID, or the NIC's where it has none; for 802.1Qbh.
    pub guest: Uuid,
    /// The virtualport, complete for its type, which is 802.1Qbg or 802.1Qbh.
    pub port: VirtualPort,
    /// Whether the switch is to keep ready what the port will take, and no more: the guest's cable is pulled. That is VDP's
    /// pre-association with resource reservation (IEEE 802.1Qbg), for which 802.1Qbh has nothing.
    pub reserved: bool,
}

impl Association {
    /// Whether the switch goes from the one to the other by itself.
    pub fn leads_to(&self, other: &Self) -> bool {
        self.reserved && *other == Self { reserved: false, ..self.clone() }
    }
}

/// Whether NICs with a virtualport of that type are associated by us.
pub const fn is_associated(kind: VirtualPortType) -> bool {
    matches!(kind, VirtualPortType::Qbg | VirtualPortType::Qbh)
}

/// The association that a NIC should have: while it is plugged into a device, and its virtualport asks for one; or as a
/// reservation, while its cable is pulled.
pub fn association(intent: &Intent, observed: &Observed, nic: Uuid) -> Option<Association> {
    // A port's is for whoever makes its link.
    let nic: &NicIntent = intent.nic(nic).filter(|nic| !nic.is_port())?;
    let (device, function) = match desired::resolve(intent, nic) {
        Resolved::Device(Some(device), ..) => (device, None),
        Resolved::Function(Some(address), _) => (observed.functions.at(address)?.0, Some(address)),
        _ => return None,
    };
    let merged = desired::merged(intent, nic).ok()?;
    let port = merged.virtualport.filter(|port| port.kind.is_some_and(is_associated))?;
    let pulled = nic.nic.link == Some(LinkState::Down);
    let reserved = pulled && function.is_none() && port.kind == Some(VirtualPortType::Qbg);
    let plugged = match function {
        Some(_) => !pulled,
        None => {
            let plug = desired::nic_as(intent, observed, nic)?.plug;
            !matches!(plug, Plug::Nothing(_) | Plug::Macvtap(DesiredMacvtap { unplugged: Some(_), .. }))
        }
    };
    if !plugged && !reserved {
        return None;
    }
    Some(Association {
        nic: nic.id,
        device: device.clone(),
        function,
        index: observed.link_named(device.as_str())?.index,
        mac: nic.nic.mac?,
        // More than one tag is refused where there are devices.
        vlan: merged.vlan.and_then(|vlan| vlan.tags.first().map(|tag| tag.id)).unwrap_or(0),
        guest: nic.guest_uuid.unwrap_or(nic.id),
        port,
        reserved,
    })
}
