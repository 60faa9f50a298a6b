//! What users see of devices: who lists them, who holds them, and whether there is room for more.

use super::Engine;
use crate::intent::NetworkIntent;
use crate::model::{ActualType, DirectMode, ForwardMode, LinkName, Network, PciAddress};
use crate::plan::{Link, LinkKind};
use crate::pool::{Access, Device, Unusable, Usage};
use std::net::IpAddr;
use uuid::Uuid;

/// A device that networks list or NICs hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceView {
    /// Its name.
    pub name: String,
    /// Its link's kind, empty for physical devices; `pci` for a virtual function by address; none while it is not there.
    pub kind: Option<String>,
    /// Whether it has a carrier.
    pub carrier: bool,
    /// Its MTU in bytes, while it is there.
    pub mtu: Option<u32>,
    /// The link of the device whose virtual function it is, and its number there.
    pub function: Option<(String, u32)>,
    /// The active networks that list it, with their modes.
    pub networks: Vec<(String, ForwardMode)>,
    /// Those who hold it.
    pub holders: Vec<DeviceHolder>,
    /// Whether it is held by one alone.
    pub exclusive: bool,
    /// Who may have it besides.
    pub free: Free,
    /// Why nobody can, where that is not because of its holders.
    pub unusable: Option<String>,
}

/// Who holds a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceHolder {
    /// The NIC's id, or a reservation's.
    pub id: Uuid,
    /// The guest.
    pub guest: String,
    /// The network that it was got through.
    pub network: Option<String>,
    /// Whether it is held for a NIC that is to come.
    pub reserved: bool,
}

/// Who else may have a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Free {
    /// Nobody.
    None,
    /// Whoever shares it.
    Shared,
    /// Anybody, alone if need be.
    Exclusive,
}

impl Free {
    /// The word users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Shared => "shared",
            Self::Exclusive => "exclusive",
        }
    }
}

impl Engine {
    /// All devices that active networks list or NICs hold, by name.
    pub(super) fn devices(&self) -> Vec<DeviceView> {
        self.intent.pool().usage().map(|usage| self.device(&usage)).collect()
    }

    /// How many devices of a network nobody holds and somebody could; none for a network that has no devices.
    pub(super) fn free_devices(&self, uuid: Uuid, network: &Network) -> Option<usize> {
        let mode = match ActualType::of_network(network) {
            ActualType::Direct(mode) => mode,
            ActualType::Hostdev => DirectMode::Passthrough,
            _ => return None,
        };
        let pool = self.intent.pool();
        let free = |device: &&Device| pool.holders(device).next().is_none();
        Some(pool.listed(uuid).filter(free).filter(|d| self.usable(d, Access::Exclusive, mode).is_ok()).count())
    }

    fn device(&self, usage: &Usage<'_>) -> DeviceView {
        let name = usage.device.to_string();
        let link = self.observed.link_named(&name);
        let unusable = self.usable(usage.device, Access::Shared, DirectMode::Bridge).err();
        let free = match (&unusable, usage.exclusive, usage.holders.is_empty()) {
            (Some(_), ..) | (None, true, _) => Free::None,
            (None, false, false) => Free::Shared,
            (None, false, true) => Free::Exclusive,
        };
        let is_link = matches!(usage.device, Device::Link(_));
        let functions = &self.observed.functions;
        let address = match usage.device {
            Device::Link(link) => functions.with_link(link),
            Device::Pci(address) => Some(*address),
        };
        let function = address.and_then(|address| functions.at(address));
        // The cable of a virtual function is its device's.
        let wire = link.or_else(|| self.observed.link_named(function?.0.as_str()));
        let networks = usage.lists.iter().filter_map(|uuid| self.intent.network(*uuid)?.active.as_ref());
        DeviceView {
            kind: link.map_or_else(
                || function.filter(|_| !is_link).map(|_| "pci".into()),
                |l| {
                    Some(match &l.kind {
                        LinkKind::Bridge => "bridge".into(),
                        LinkKind::Tap => "tun".into(),
                        LinkKind::Macvlan => "macvlan".into(),
                        LinkKind::Macvtap => "macvtap".into(),
                        LinkKind::Other(kind) => kind.clone(),
                    })
                },
            ),
            carrier: wire.is_some_and(|l| l.carrier),
            function: function.map(|(pf, vf)| (pf.to_string(), vf.number)),
            mtu: link.map(|l| l.mtu),
            networks: networks.map(|n| (n.name.to_string(), n.forward.mode)).collect(),
            holders: usage.holders.iter().map(|id| self.holder(*id)).collect(),
            exclusive: usage.exclusive,
            free,
            unusable: unusable.as_ref().map(Unusable::to_string),
            name,
        }
    }

    fn holder(&self, id: Uuid) -> DeviceHolder {
        let reserved = self.intent.nic(id).is_none();
        let nic = self.intent.nic(id).or_else(|| self.intent.reserved(id));
        let network = nic.and_then(|n| n.network).and_then(|uuid| self.intent.network(uuid));
        DeviceHolder {
            id,
            guest: nic.map(|n| n.guest.to_string()).unwrap_or_default(),
            network: network.and_then(NetworkIntent::current).map(|n| n.name.to_string()),
            reserved,
        }
    }

    /// What users call a holder.
    pub(super) fn holder_name(&self, id: Uuid) -> String {
        let holder = self.holder(id);
        let what = if holder.reserved { "reservation" } else { "NIC" };
        format!("guest '{}' ({what} {id})", holder.guest)
    }

    /// Whether a device can carry a macvlan in that mode, or be given away, whoever of ours holds it.
    pub(super) fn usable(&self, device: &Device, access: Access, mode: DirectMode) -> Result<(), Unusable> {
        match device {
            Device::Link(name) => self.link_usable(name, access, mode),
            Device::Pci(address) => self.function_usable(*address),
        }
    }

    fn function_usable(&self, address: PciAddress) -> Result<(), Unusable> {
        let Some((pf, vf)) = self.observed.functions.at(address) else { return Err(Unusable::NoFunction) };
        let wire = self.observed.link_named(pf.as_str());
        if self.config.needs_carrier && !wire.is_some_and(|l| l.carrier) {
            return Err(Unusable::NoCarrier);
        }
        self.is_restored(address)?;
        let Some(name) = &vf.link else { return Ok(()) };
        if self.intent.pool().holders(&Device::Link(name.clone())).next().is_some() {
            return Err(Unusable::LinkHeld(name.clone()));
        }
        let Some(link) = self.observed.link_named(name.as_str()) else { return Ok(()) };
        self.without_controller(link)?;
        if let Some(macvlan) = self.observed.macvlans_on(link.index).find(|l| l.mark.is_none()) {
            return Err(Unusable::Carries(macvlan.name.clone()));
        }
        // The kernel gives every link that is up such an address by itself.
        let by_itself = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        match self.observed.addresses(link.index).map(|net| net.addr()).find(|ip| !by_itself(ip)) {
            Some(ip) => Err(Unusable::HostsOwn(name.clone(), ip)),
            None => Ok(()),
        }
    }

    fn without_controller(&self, link: &Link) -> Result<(), Unusable> {
        let Some(controller) = link.controller else { return Ok(()) };
        let controller = self.observed.link(controller).map_or_else(|| "a controller".into(), |l| l.name.clone());
        Err(Unusable::PortOf(controller))
    }

    fn link_usable(&self, name: &LinkName, access: Access, mode: DirectMode) -> Result<(), Unusable> {
        let Some(link) = self.observed.link_named(name.as_str()).filter(|l| !l.is_doomed()) else {
            return Err(Unusable::Absent);
        };
        if name.as_str() == "lo" {
            return Err(Unusable::Loopback);
        }
        self.without_controller(link)?;
        if let Some(address) = self.observed.functions.with_link(name) {
            if self.intent.pool().holders(&Device::Pci(address)).next().is_some() {
                return Err(Unusable::GivenAway(address));
            }
            self.is_restored(address)?;
        }
        if self.config.needs_carrier && !link.carrier {
            return Err(Unusable::NoCarrier);
        }
        let foreign = || self.observed.macvlans_on(link.index).filter(|l| l.mark.is_none());
        if let Some(taken) = foreign().find(|l| l.mode == Some(DirectMode::Passthrough)) {
            return Err(Unusable::TakenBy(taken.name.clone()));
        }
        match foreign().next() {
            Some(other) if access == Access::Exclusive || mode == DirectMode::Passthrough => {
                Err(Unusable::Carries(other.name.clone()))
            }
            _ => Ok(()),
        }
    }
}
