//! Intent: what people asked for. With what is observed, it decides everything.

use crate::merge::Precedence;
use crate::model::{DevicePlug, Forward, LinkName, MacAddr, Name, Network, Nic, NicSource, PciAddress};
use crate::plan::uplink::Carried;
use crate::plan::{Handover, Sysctl};
use crate::pool::{Access, Device, Pool};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// A network: its definition, and its active instance while started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkIntent {
    /// The persistent definition; a transient network has none.
    pub definition: Option<Network>,
    /// Whether it starts by itself.
    pub autostart: bool,
    /// What runs; `None` while stopped.
    pub active: Option<Network>,
}

impl NetworkIntent {
    /// What describes it now: the active instance, else the definition.
    pub fn current(&self) -> Option<&Network> {
        self.active.as_ref().or(self.definition.as_ref())
    }

    /// Whether it is to start without being asked to.
    pub fn starts_by_itself(&self) -> bool {
        self.autostart && self.active.is_none()
    }
}

/// The process that a NIC belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// Process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot (`/proc/PID/stat`, field 22): with the pid it names a process for good.
    pub start_time: u64,
}

/// The record that a NIC has a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// A link that it sits on.
    Link {
        /// The link.
        device: LinkName,
        /// Whether others may have it, too.
        access: Access,
        /// The name of the NIC's macvlan on it. Another device means another name, since for a moment both are there. A
        /// NIC that is a macvtap makes no use of it.
        macvlan: LinkName,
    },
    /// A virtual function, which its guest gets whole, and nobody else.
    Function(PciAddress),
}

impl Allocation {
    /// The device.
    pub fn device(&self) -> Device {
        match self {
            Self::Link { device, .. } => Device::Link(device.clone()),
            Self::Function(address) => Device::Pci(*address),
        }
    }

    /// The device, where it is a link.
    pub const fn link(&self) -> Option<&LinkName> {
        match self {
            Self::Link { device, .. } => Some(device),
            Self::Function(_) => None,
        }
    }

    /// The name of the NIC's macvlan on its device.
    pub const fn macvlan(&self) -> Option<&LinkName> {
        match self {
            Self::Link { macvlan, .. } => Some(macvlan),
            Self::Function(_) => None,
        }
    }

    /// Whether others may have it, too.
    pub const fn access(&self) -> Access {
        match self {
            Self::Link { access, .. } => *access,
            Self::Function(_) => Access::Exclusive,
        }
    }
}

/// What a port of libvirt's has of its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nothing yet: it lives until it is deleted.
    Unbound,
    /// The guest's link was seen: should it go and not come back, the port goes, too.
    Bound,
}

/// A NIC that was attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicIntent {
    /// Its id.
    pub id: Uuid,
    /// The guest it belongs to, as its owner calls it.
    pub guest: Name,
    /// The guest's UUID, where given.
    pub guest_uuid: Option<Uuid>,
    /// As its owner configured it.
    pub given: Nic,
    /// The same with MAC, tap name and plug filled in; what is printed and planned.
    pub nic: Nic,
    /// The network it names, by UUID, so that it is found again after a rename; none for other sources.
    pub network: Option<Uuid>,
    /// The device that it sits on, where it sits on one: decided once, and kept until it is told to move.
    pub allocation: Option<Allocation>,
    /// The class of the network's bridge that what is promised to it has, as long as something is promised to it.
    pub class: Option<u16>,
    /// That it is a port of libvirt's: whoever runs its guest makes its link, and we say where that belongs.
    pub port: Option<Claim>,
    /// Whose values count where the NIC and its network both give some.
    pub precedence: Precedence,
    /// Its owner; without one it lives until detached.
    pub owner: Option<Owner>,
    /// How its tap is handed over.
    pub handover: Handover,
    /// Who attached it.
    pub uid: u32,
    /// Its place in the order in which NICs were attached: who waits for a device gets one in that order.
    pub turn: u64,
    /// Whether its attach was answered. One that was not is taken back after a crash, unless somebody holds its tap.
    pub confirmed: bool,
}

impl NicIntent {
    /// The name of the network it names, if it names one.
    pub fn network_name(&self) -> Option<&Name> {
        match &self.nic.source {
            NicSource::Network { network, .. } => Some(network),
            _ => None,
        }
    }

    /// The bridge that it names itself, if it names one.
    pub const fn named_bridge(&self) -> Option<&LinkName> {
        match &self.nic.source {
            NicSource::Bridge { bridge } => Some(bridge),
            _ => None,
        }
    }

    /// Whether it is a port of libvirt's.
    pub const fn is_port(&self) -> bool {
        self.port.is_some()
    }

    /// Whether it is a macvtap, for its whole life, instead of a tap that is plugged into something.
    pub fn is_macvtap(&self) -> bool {
        self.nic.plug == Some(DevicePlug::Macvtap)
    }

    /// The link of the host's that it sits on, where it sits on one.
    pub fn device(&self) -> Option<&LinkName> {
        self.allocation.as_ref()?.link()
    }

    /// The virtual function that its guest has, where it has one. Such a NIC has no tap.
    pub fn function(&self) -> Option<PciAddress> {
        match self.allocation {
            Some(Allocation::Function(address)) => Some(address),
            _ => None,
        }
    }
}

/// How many active networks need the host to forward, by address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Routed {
    /// IPv4.
    pub v4: usize,
    /// IPv6.
    pub v6: usize,
}

impl Routed {
    fn count(&mut self, active: Option<&Network>, by: isize) {
        let Some(network) = active.filter(|n| n.forward.mode.is_routed()) else { return };
        let has = |v6: bool| network.ips.iter().any(|ip| ip.address.is_ipv6() == v6);
        if has(false) {
            self.v4 = self.v4.saturating_add_signed(by);
        }
        if has(true) {
            self.v6 = self.v6.saturating_add_signed(by);
        }
    }
}

/// What we changed of the host's own and is to be put back, since nothing there says that it was us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Settings that we changed, with their values before.
    pub settings: BTreeMap<Sysctl, String>,
    /// VLANs that we added to ports of host bridges.
    pub carried: Carried,
}

/// All intent, and the values that were there before we changed host-wide settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intent {
    /// This installation's id, which marks what we make.
    pub instance: Uuid,
    networks: BTreeMap<Uuid, NetworkIntent>,
    names: BTreeMap<Name, Uuid>,
    /// Apart, so that looking through and adding to them moves none.
    nics: BTreeMap<Uuid, Box<NicIntent>>,
    nics_of: BTreeMap<Uuid, BTreeSet<Uuid>>,
    by_mac: BTreeMap<MacAddr, BTreeSet<Uuid>>,
    by_owner: BTreeMap<Owner, BTreeSet<Uuid>>,
    by_bridge: BTreeMap<LinkName, BTreeSet<Uuid>>,
    /// Ports, by the address that their taps have.
    by_tap_mac: BTreeMap<MacAddr, BTreeSet<Uuid>>,
    pool: Pool,
    /// What is held for NICs to come, and until when.
    reserved: BTreeMap<Uuid, (NicIntent, u64)>,
    routed: Routed,
    /// The NICs without a device of networks that give devices, in their order.
    without_device: BTreeMap<Uuid, BTreeSet<(u64, Uuid)>>,
    /// How many NICs of each network have a `<vlan>` of their own.
    with_vlan: BTreeMap<Uuid, usize>,
    /// What is different on the host by our doing, and bears no mark.
    pub saved: Saved,
}

impl Intent {
    /// No intent, of that installation.
    pub fn new(instance: Uuid) -> Self {
        Self { instance, ..Self::default() }
    }

    /// The network of that UUID.
    pub fn network(&self, uuid: Uuid) -> Option<&NetworkIntent> {
        self.networks.get(&uuid)
    }

    /// The UUID of the network of that name.
    pub fn named(&self, name: &Name) -> Option<Uuid> {
        self.names.get(name).copied()
    }

    /// All networks, by UUID.
    pub fn networks(&self) -> impl Iterator<Item = (Uuid, &NetworkIntent)> {
        self.networks.iter().map(|(uuid, network)| (*uuid, network))
    }

    /// Puts a network in place of what was there; one without definition and active instance is forgotten.
    pub fn set_network(&mut self, uuid: Uuid, network: NetworkIntent) {
        if let Some(old) = self.networks.remove(&uuid) {
            self.routed.count(old.active.as_ref(), -1);
            for known in [old.definition, old.active].into_iter().flatten() {
                if self.names.get(&known.name) == Some(&uuid) {
                    self.names.remove(&known.name);
                }
            }
        }
        match &network.active {
            Some(active) => {
                let forward = Some(&active.forward).filter(|f| !f.mode.has_own_bridge());
                self.pool.register(uuid, forward.into_iter().flat_map(devices));
            }
            None => self.pool.unregister(uuid),
        }
        self.without_device.remove(&uuid);
        if self.gives_devices(uuid) {
            let nics = self.nics_of(uuid).filter(|nic| has_no_device(nic)).map(|nic| (nic.turn, nic.id)).collect();
            self.without_device.insert(uuid, nics);
        }
        let Some(current) = network.current() else { return };
        self.names.insert(current.name.clone(), uuid);
        self.routed.count(network.active.as_ref(), 1);
        self.networks.insert(uuid, network);
    }

    /// Who holds which device.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The NICs that hold that device.
    pub fn nics_on_device(&self, device: &Device) -> impl Iterator<Item = &NicIntent> {
        self.pool.holders(device).filter_map(|id| self.nic(id))
    }

    /// The NICs without a device of a network that gives devices, in the order in which they were attached.
    pub fn without_device(&self, network: Uuid) -> impl Iterator<Item = Uuid> {
        self.without_device.get(&network).into_iter().flatten().map(|(_, id)| *id)
    }

    /// The networks that give devices and have NICs without one.
    pub fn networks_short_of_devices(&self) -> impl Iterator<Item = Uuid> {
        self.without_device.iter().filter(|(_, nics)| !nics.is_empty()).map(|(network, _)| *network)
    }

    fn gives_devices(&self, network: Uuid) -> bool {
        self.pool.listed(network).next().is_some()
    }

    /// How many active networks need the host to forward.
    pub fn routed(&self) -> Routed {
        self.routed
    }

    /// Whether VLANs have to be kept apart in a network: while it runs and it, one of its portgroups or one of its NICs
    /// has any.
    pub fn has_vlans(&self, network: Uuid) -> bool {
        let active = self.network(network).and_then(|n| n.active.as_ref());
        active.is_some_and(|n| {
            n.vlan.is_some()
                || n.portgroups.iter().any(|p| p.vlan.is_some())
                || self.with_vlan.get(&network).is_some_and(|count| *count > 0)
        })
    }

    /// The NIC of that id.
    pub fn nic(&self, id: Uuid) -> Option<&NicIntent> {
        self.nics.get(&id).map(|nic| &**nic)
    }

    /// The active network that a NIC names.
    pub fn active_network_of(&self, nic: &NicIntent) -> Option<&Network> {
        self.network(nic.network?)?.active.as_ref()
    }

    /// All NICs, by id.
    pub fn nics(&self) -> impl Iterator<Item = &NicIntent> {
        self.nics.values().map(|nic| &**nic)
    }

    /// The NICs that name that network.
    pub fn nics_of(&self, network: Uuid) -> impl Iterator<Item = &NicIntent> {
        self.nics_of.get(&network).into_iter().flatten().filter_map(|id| self.nic(*id))
    }

    /// How many NICs name that network.
    pub fn nics_on(&self, network: Uuid) -> usize {
        self.nics_of.get(&network).map_or(0, BTreeSet::len)
    }

    /// Holds for a NIC that is to come what it would get, until that time (milliseconds on the engine's clock).
    pub fn reserve(&mut self, nic: NicIntent, until: u64) {
        if let Some(allocation) = &nic.allocation {
            self.pool.hold(nic.id, &allocation.device(), allocation.access());
        }
        self.reserved.insert(nic.id, (nic, until));
    }

    /// Gives that back; what it was, and until when.
    pub fn unreserve(&mut self, id: Uuid) -> Option<(NicIntent, u64)> {
        let reserved = self.reserved.remove(&id)?;
        self.pool.release(id);
        Some(reserved)
    }

    /// The reservation of that id.
    pub fn reserved(&self, id: Uuid) -> Option<&NicIntent> {
        self.reserved.get(&id).map(|(nic, _)| nic)
    }

    /// All reservations.
    pub fn reservations(&self) -> impl Iterator<Item = &NicIntent> {
        self.reserved.values().map(|(nic, _)| nic)
    }

    /// Reservations whose time is over.
    pub fn expired(&self, now: u64) -> impl Iterator<Item = Uuid> {
        self.reserved.iter().filter(move |(_, (_, until))| *until <= now).map(|(id, _)| *id)
    }

    /// Adds a NIC, or puts it in place of the one, or of the reservation, of that id.
    pub fn set_nic(&mut self, nic: NicIntent) {
        self.unreserve(nic.id);
        // Most changes are of nothing that NICs are found by.
        if let Some(old) = self.nics.get_mut(&nic.id)
            && found_alike(old, &nic)
        {
            **old = nic;
            return;
        }
        self.remove_nic(nic.id);
        if let Some(network) = nic.network {
            self.nics_of.entry(network).or_default().insert(nic.id);
            if has_no_device(&nic) && self.gives_devices(network) {
                self.without_device.entry(network).or_default().insert((nic.turn, nic.id));
            }
            if nic.nic.vlan.is_some() {
                *self.with_vlan.entry(network).or_default() += 1;
            }
        }
        if let Some(mac) = nic.nic.mac {
            self.by_mac.entry(mac).or_default().insert(nic.id);
            if nic.is_port() {
                self.by_tap_mac.entry(mac.of_tap()).or_default().insert(nic.id);
            }
        }
        if let Some(owner) = nic.owner {
            self.by_owner.entry(owner).or_default().insert(nic.id);
        }
        if let Some(bridge) = nic.named_bridge() {
            self.by_bridge.entry(bridge.clone()).or_default().insert(nic.id);
        }
        if let Some(allocation) = &nic.allocation {
            self.pool.hold(nic.id, &allocation.device(), allocation.access());
        }
        self.nics.insert(nic.id, Box::new(nic));
    }

    /// The NICs with that address, on whatever network.
    pub fn nics_with(&self, mac: MacAddr) -> impl Iterator<Item = &NicIntent> {
        self.by_mac.get(&mac).into_iter().flatten().filter_map(|id| self.nic(*id))
    }

    /// The ports whose taps have that address.
    pub fn ports_with_tap(&self, mac: MacAddr) -> impl Iterator<Item = Uuid> {
        self.by_tap_mac.get(&mac).into_iter().flatten().copied()
    }

    /// The NICs that belong to that process.
    pub fn nics_owned_by(&self, owner: Owner) -> impl Iterator<Item = &NicIntent> {
        self.by_owner.get(&owner).into_iter().flatten().filter_map(|id| self.nic(*id))
    }

    /// The NICs that are to be plugged into the bridge of that name and are not on a network that it is the own bridge of.
    pub fn nics_on_bridge<'a>(&'a self, bridge: &'a LinkName) -> impl Iterator<Item = &'a NicIntent> {
        let networks = self.networks().filter(move |(_, n)| {
            let named = n.active.as_ref().filter(|active| !active.forward.mode.has_own_bridge());
            named.and_then(|active| active.bridge.name.as_ref()).is_some_and(|name| name == bridge)
        });
        let of_networks = networks.flat_map(|(uuid, _)| self.nics_of(uuid));
        let by_themselves = self.by_bridge.get(bridge).into_iter().flatten().filter_map(|id| self.nic(*id));
        of_networks.chain(by_themselves)
    }

    /// The NICs whose network is not known (any more), by the name they gave.
    pub fn nics_without_network(&self) -> impl Iterator<Item = &NicIntent> {
        let lost = self.nics_of.iter().filter(|(network, _)| !self.networks.contains_key(network));
        lost.flat_map(|(_, ids)| ids).filter_map(|id| self.nic(*id))
    }

    /// Notes that a NIC's attach was answered; says whether that is news.
    pub fn confirm_nic(&mut self, id: Uuid) -> bool {
        self.nics.get_mut(&id).is_some_and(|nic| !std::mem::replace(&mut nic.confirmed, true))
    }

    /// Forgets a NIC.
    pub fn remove_nic(&mut self, id: Uuid) -> Option<NicIntent> {
        let nic = *self.nics.remove(&id)?;
        self.pool.release(id);
        if let Some(network) = nic.network {
            remove(&mut self.nics_of, &network, id);
            if let Some(nics) = self.without_device.get_mut(&network) {
                nics.remove(&(nic.turn, id));
            }
            if let (true, Some(count)) = (nic.nic.vlan.is_some(), self.with_vlan.get_mut(&network)) {
                *count -= 1;
                if *count == 0 {
                    self.with_vlan.remove(&network);
                }
            }
        }
        if let Some(mac) = nic.nic.mac {
            remove(&mut self.by_mac, &mac, id);
            remove(&mut self.by_tap_mac, &mac.of_tap(), id);
        }
        if let Some(owner) = nic.owner {
            remove(&mut self.by_owner, &owner, id);
        }
        if let Some(bridge) = nic.named_bridge() {
            remove(&mut self.by_bridge, bridge, id);
        }
        Some(nic)
    }
}

/// What NICs that need a device get one of, in order.
pub fn devices(forward: &Forward) -> impl Iterator<Item = Device> {
    let links = forward.devices.iter().map(|d| Device::Link(d.dev.clone()));
    links.chain(forward.addresses.iter().map(|address| Device::Pci(*address)))
}

/// Whether a NIC would take a device. What a port's guest sits on is libvirt's business.
fn has_no_device(nic: &NicIntent) -> bool {
    nic.allocation.is_none() && !nic.is_port()
}

/// Whether two NICs are found by the same: network, VLANs there, address, that of a tap, owner, bridge, device and turn.
fn found_alike(one: &NicIntent, other: &NicIntent) -> bool {
    let place =
        |nic: &NicIntent| (nic.network, nic.nic.vlan.is_some(), nic.nic.mac, nic.is_port(), nic.owner, nic.turn);
    place(one) == place(other) && one.named_bridge() == other.named_bridge() && one.allocation == other.allocation
}

fn remove<K: Ord>(index: &mut BTreeMap<K, BTreeSet<Uuid>>, key: &K, id: Uuid) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(&id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}
