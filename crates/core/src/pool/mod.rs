//! Who holds which device, on the whole host, and which device of a network's list is next.

mod refusal;
#[cfg(test)]
mod tests;

pub use refusal::{Reason, Refusal, UsedBy};

use crate::model::{LinkName, PciAddress};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use uuid::Uuid;

/// A device of the host that NICs are connected to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Device {
    /// A link.
    Link(LinkName),
    /// A PCI device.
    Pci(PciAddress),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(name) => name.fmt(f),
            Self::Pci(address) => address.fmt(f),
        }
    }
}

/// How a device is held; `ActualType::is_exclusive` says which is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Together with others.
    Shared,
    /// By one alone.
    Exclusive,
}

/// Why a device can't be used now, whoever holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is not there.
    Absent,
    /// It is the host's loopback, which leads nowhere.
    Loopback,
    /// It has no carrier, and such devices are to be passed over.
    NoCarrier,
    /// Who held it is leaving it just now, and comes back if that fails.
    Leaving,
    /// It is a virtual function that could not be made what it was before its last guest had it, for that reason.
    NotRestored(String),
    /// It is a port of that bridge or bond, which takes all its frames.
    PortOf(String),
    /// Others made that macvlan on it, and it is wanted exclusively.
    Carries(String),
    /// Others made that macvlan on it, in passthrough mode.
    TakenBy(String),
    /// It is no virtual function, or not there, and only such can be given to a guest.
    NoFunction,
    /// It is a virtual function whose link that is, and NICs sit on that.
    LinkHeld(LinkName),
    /// It is a virtual function whose link that is, and the host has that address on it.
    HostsOwn(LinkName, IpAddr),
    /// It is the link of that virtual function, which a guest has.
    GivenAway(PciAddress),
}

/// Who uses a device, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage<'a> {
    /// The device.
    pub device: &'a Device,
    /// The lists (networks) that it is in.
    pub lists: Vec<Uuid>,
    /// Those who hold it.
    pub holders: Vec<Uuid>,
    /// Whether it is held exclusively.
    pub exclusive: bool,
}

/// All devices that somebody lists or holds.
///
/// A holder is a NIC or a port. It holds what it was given until it gives that back, whatever happens to lists; it may
/// hold two devices while it moves from one to the other. A device is held either by any number together, or
/// exclusively, whatever list it was given out from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    devices: BTreeMap<Device, State>,
    lists: BTreeMap<Uuid, List>,
    held: BTreeMap<Uuid, BTreeSet<Device>>,
}

/// What is known of a device. One that is neither listed nor held is forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    holders: BTreeSet<Uuid>,
    exclusive: bool,
    /// The lists that it is in, with its place there.
    lists: BTreeMap<Uuid, usize>,
}

impl State {
    /// Whether `holder` may hold it so, given who else does.
    fn admits(&self, holder: Uuid, access: Access) -> bool {
        let alone = self.holders.iter().all(|h| *h == holder);
        alone || (access == Access::Shared && !self.exclusive)
    }
}

/// The devices of a network, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct List {
    devices: Vec<Device>,
    /// Number of holders and place of each device that is not held exclusively: the next one to give out comes first.
    /// It is kept as loads change, so that giving out needs no look at all devices.
    order: BTreeSet<(usize, usize)>,
}

impl Pool {
    /// Makes the list of that id what is given, in order; a device that is there twice counts where it is first.
    /// What is held stays held.
    pub fn register(&mut self, list: Uuid, devices: impl IntoIterator<Item = Device>) {
        self.unregister(list);
        let mut new = List::default();
        for device in devices {
            let state = self.devices.entry(device.clone()).or_default();
            if state.lists.contains_key(&list) {
                continue;
            }
            let place = new.devices.len();
            state.lists.insert(list, place);
            if !state.exclusive {
                new.order.insert((state.holders.len(), place));
            }
            new.devices.push(device);
        }
        self.lists.insert(list, new);
    }

    /// Forgets a list. What is held stays held.
    pub fn unregister(&mut self, list: Uuid) {
        for device in self.lists.remove(&list).unwrap_or_default().devices {
            self.change(&device, |state| {
                state.lists.remove(&list);
            });
        }
    }

    /// The device of a list that `holder` is to get: the one that it holds already, if there is such; else, exclusively,
    /// the first that nobody holds; else that which the fewest hold on the whole host, and the first of several.
    /// Devices that are not `usable` are passed over. It is not held yet.
    ///
    /// # Errors
    /// Says of each device of the list why not.
    pub fn choose(
        &self,
        list: Uuid,
        holder: Uuid,
        access: Access,
        usable: impl Fn(&Device) -> Result<(), Unusable>,
    ) -> Result<Device, Refusal> {
        let next = self.next(list, holder, access, &usable).cloned();
        next.ok_or_else(|| {
            let devices = self.lists.get(&list).map(|l| &l.devices[..]).unwrap_or_default();
            let reason = |d| usable(d).err().map_or_else(|| self.reason(d, holder), Reason::Unusable);
            Refusal::new(devices.iter().map(|d| (d, reason(d))))
        })
    }

    fn next(
        &self,
        list: Uuid,
        holder: Uuid,
        access: Access,
        usable: impl Fn(&Device) -> Result<(), Unusable>,
    ) -> Option<&Device> {
        let devices = &self.lists.get(&list)?.devices;
        let own = self.held.get(&holder).into_iter().flatten().filter(|d| usable(d).is_ok());
        let own = own.filter_map(|d| self.devices.get(d).filter(|s| s.admits(holder, access))?.lists.get(&list));
        if let Some(place) = own.min() {
            return devices.get(*place);
        }
        let order = self.lists.get(&list)?.order.iter();
        let fits = order.take_while(|(load, _)| access == Access::Shared || *load == 0);
        fits.filter_map(|(_, place)| devices.get(*place)).find(|d| usable(d).is_ok())
    }

    /// Whether a list has a `usable` device that nobody holds exclusively.
    pub fn has_any(&self, list: Uuid, usable: impl Fn(&Device) -> bool) -> bool {
        let Some(List { devices, order }) = self.lists.get(&list) else { return false };
        order.iter().filter_map(|(_, place)| devices.get(*place)).any(usable)
    }

    /// Whether `holder` may have this very device, in a list or not: what a NIC of `type='direct'` names.
    ///
    /// # Errors
    /// Says why not: it can't be used, or who holds it.
    pub fn may_take(
        &self,
        holder: Uuid,
        device: &Device,
        access: Access,
        usable: impl Fn(&Device) -> Result<(), Unusable>,
    ) -> Result<(), Refusal> {
        let refuse = |reason| Err(Refusal::new([(device, reason)]));
        match usable(device) {
            Err(why) => refuse(Reason::Unusable(why)),
            Ok(()) if self.devices.get(device).is_none_or(|state| state.admits(holder, access)) => Ok(()),
            Ok(()) => refuse(self.reason(device, holder)),
        }
    }

    /// Gives `holder` a device: one that was [chosen](Self::choose), or that a NIC which lives has already.
    pub fn hold(&mut self, holder: Uuid, device: &Device, access: Access) {
        self.held.entry(holder).or_default().insert(device.clone());
        self.devices.entry(device.clone()).or_default();
        self.change(device, |state| {
            state.holders.insert(holder);
            state.exclusive = access == Access::Exclusive;
        });
    }

    /// Takes back all that `holder` holds.
    pub fn release(&mut self, holder: Uuid) {
        for device in self.held.remove(&holder).unwrap_or_default() {
            self.let_go(holder, &device);
        }
    }

    /// What `holder` holds.
    pub fn held_by(&self, holder: Uuid) -> impl Iterator<Item = &Device> {
        self.held.get(&holder).into_iter().flatten()
    }

    /// Those who hold a device.
    pub fn holders(&self, device: &Device) -> impl Iterator<Item = Uuid> {
        self.devices.get(device).into_iter().flat_map(|state| &state.holders).copied()
    }

    /// The devices of a list, in order.
    pub fn listed(&self, list: Uuid) -> impl Iterator<Item = &Device> {
        self.lists.get(&list).into_iter().flat_map(|list| &list.devices)
    }

    /// The lists that a device is in.
    pub fn lists(&self, device: &Device) -> impl Iterator<Item = Uuid> {
        self.devices.get(device).into_iter().flat_map(|state| state.lists.keys()).copied()
    }

    /// All devices that are listed or held, in order of their names.
    pub fn usage(&self) -> impl Iterator<Item = Usage<'_>> {
        self.devices.iter().map(|(device, state)| Usage {
            device,
            lists: state.lists.keys().copied().collect(),
            holders: state.holders.iter().copied().collect(),
            exclusive: state.exclusive,
        })
    }

    fn let_go(&mut self, holder: Uuid, device: &Device) {
        self.change(device, |state| {
            state.holders.remove(&holder);
            state.exclusive &= !state.holders.is_empty();
        });
    }

    /// Changes what is known of a device, and its place in the order of each list that it is in.
    fn change(&mut self, device: &Device, change: impl FnOnce(&mut State)) {
        let Some(state) = self.devices.get_mut(device) else { return };
        let before = state.holders.len();
        change(state);
        for (list, place) in &state.lists {
            let Some(list) = self.lists.get_mut(list) else { continue };
            list.order.remove(&(before, *place));
            if !state.exclusive {
                list.order.insert((state.holders.len(), *place));
            }
        }
        if state.holders.is_empty() && state.lists.is_empty() {
            self.devices.remove(device);
        }
    }

    /// Why `holder` can't have it.
    fn reason(&self, device: &Device, holder: Uuid) -> Reason {
        let free = State::default();
        let State { holders, exclusive, .. } = self.devices.get(device).unwrap_or(&free);
        Reason::held(holders, holder, *exclusive)
    }
}
