//! NICs that wait for a device of their network get one when there is one to be had.
//!
//! That is no move: a NIC that has a device keeps it, also while that is not there. Who has none was attached while there was
//! none, or has lost its own at a start of its network.

use super::{Engine, Object};
use crate::intent::NicIntent;
use crate::model::{ActualType, LinkName};
use crate::plan::{Change, Link};
use crate::pool::{Access, Device};
use uuid::Uuid;

impl Engine {
    /// The devices that NICs may be able to have after this change, and could not have before.
    pub(super) fn may_be_had_after(&self, change: &Change) -> Vec<Device> {
        let Change::Link(index, now) = change else { return Vec::new() };
        let before = self.observed.link(*index);
        let own = |link: &&Link| link.mark.is_none();
        let (was, is) = (before.filter(own), now.as_ref().filter(own));
        let named = |link: &Link| LinkName::new(link.name.as_str()).ok();
        let itself = is.filter(|is| {
            let state = |link: &Link| (link.name.clone(), link.carrier, link.controller, link.is_doomed());
            was.is_none_or(|was| state(was) != state(is))
        });
        // A macvlan of others' that was in the way.
        let sat_on = was.filter(|was| was.is_macvlan()).and_then(|was| {
            let place = |link: &Link| (link.is_macvlan(), link.lower, link.mode);
            let lower = self.observed.link(was.lower?)?;
            is.is_none_or(|is| place(is) != place(was)).then_some(lower)
        });
        itself.into_iter().chain(sat_on).filter_map(named).map(Device::Link).collect()
    }

    /// A device may be had that could not be had before: when this call is through, the networks that list it are looked at.
    pub(super) fn offer(&mut self, device: &Device) {
        let waited_for = |network: &Uuid| self.intent.without_device(*network).next().is_some();
        self.concerned.offers.extend(self.intent.pool().lists(device).filter(waited_for));
        if let Device::Pci(address) = device
            && let Some(link) = self.observed.functions.at(*address).and_then(|(_, vf)| vf.link.clone())
        {
            self.offer(&Device::Link(link));
        }
    }

    /// Whatever a network has is offered.
    pub(super) fn offer_of(&mut self, network: Uuid) {
        if self.intent.without_device(network).next().is_some() {
            self.concerned.offers.insert(network);
        }
    }

    /// All that networks have is offered to those who wait for it.
    pub(super) fn offer_all(&mut self) {
        self.concerned.offers.extend(self.intent.networks_short_of_devices());
    }

    /// A NIC is to be another: the device that it leaves is free once it has left it.
    pub(super) fn note_left(&mut self, id: Uuid, now: Option<&NicIntent>) {
        let device = |nic: &NicIntent| nic.allocation.as_ref().map(|allocation| allocation.device());
        let had = self.intent.nic(id).and_then(device);
        if had.is_some() && had != now.and_then(device) {
            self.left.entry(id).or_default().extend(had);
        }
    }

    /// A NIC is settled, or what was asked of it is over: what it has left is free.
    pub(super) fn offer_left(&mut self, id: Uuid) {
        for device in self.left.remove(&id).unwrap_or_default() {
            if self.intent.pool().holders(&device).all(|holder| holder != id) {
                self.offer(&device);
            }
        }
    }

    /// Gives the devices that were offered to those who wait for them, in the order in which they were attached.
    pub(super) fn give_out(&mut self) {
        while let Some(network) = self.concerned.offers.pop_first() {
            // Its operation may fail, and its devices be others again; it offers them at its end.
            if self.is_under_change(Object::Network(network)) {
                continue;
            }
            for id in self.intent.without_device(network).collect::<Vec<_>>() {
                // One device may be gone to the first of many.
                if !self.has_devices_left(network) {
                    break;
                }
                self.give_device(id);
            }
        }
    }

    fn has_devices_left(&self, network: Uuid) -> bool {
        let active = self.intent.network(network).and_then(|network| network.active.as_ref());
        let Some(ActualType::Direct(mode)) = active.map(ActualType::of_network) else { return false };
        self.intent.pool().has_any(network, |device| self.usable(device, Access::Shared, mode).is_ok())
    }

    fn give_device(&mut self, id: Uuid) {
        let object = Object::Nic(id);
        if self.is_damaged(object) || self.is_under_change(object) {
            return;
        }
        let Some(nic) = self.intent.nic(id).cloned() else { return };
        if let Some(allocation) = self.allocation_now(&nic) {
            self.put_nic(id, Some(NicIntent { allocation: Some(allocation), ..nic }));
            self.work.entry(object).or_default().expected = true;
            self.advance(object);
        }
    }

    fn is_under_change(&self, object: Object) -> bool {
        self.work.get(&object).is_some_and(|work| work.operation.is_some())
    }
}
