//! Ports of libvirt's: a guest's claim to a place on a network. Whoever runs the guest makes its link, as the port's
//! `<plug>` says, so that a port is a NIC without a tap of ours.

use super::effect::{Effect, Event, NicEvent};
use super::input::{Attach, Now};
use super::view::NicState;
use super::{Engine, Object};
use crate::intent::{Allocation, Claim, NetworkIntent, NicIntent};
use crate::merge::Merged;
use crate::model::{LinkName, Network, NetworkPort, NicSource, Plug};
use crate::plan::desired::{self, Resolved};
use crate::plan::{Plan, claim};
use crate::pool::{Access, Device};
use crate::{Error, ErrorKind, xml};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// How long a port waits for its guest's link to come back, in milliseconds.
const GRACE: Now = 60_000;
/// How long a tap that was taken out of its bridge is left alone, in milliseconds.
const MOMENT: Now = 1000;

/// What is remembered of ports beside what is intended.
#[derive(Debug, Default)]
pub(super) struct Ports {
    /// Those whose guests' links are gone, and until when they may come back.
    pub(super) lost: BTreeMap<Uuid, Now>,
    /// Those whose guests' taps are in no bridge, and from when on they may be put back.
    pub(super) loose: BTreeMap<Uuid, Now>,
    /// Those whose taps have lost limits of ours, or are new in their bridge, and until when their driver may set its own.
    pub(super) lifted: BTreeMap<Uuid, Now>,
    /// Those whose taps others limit, so that we don't.
    pub(super) limited_by_others: BTreeSet<Uuid>,
    /// Whether watchers were told last that one is plugged in.
    pub(super) told_plugged: BTreeMap<Uuid, bool>,
}

impl Engine {
    /// Whether a port of that id may be made.
    pub(super) fn port_is_new(&self, object: &str, attach: &Attach) -> Result<(), Error> {
        let Some(port) = &attach.port else { return Ok(()) };
        match self.intent.nic(port.id) {
            Some(_) => {
                let error = Error::new(ErrorKind::PortExists, object, format!("there is a port {} already", port.id));
                Err(error.field("<uuid>"))
            }
            None => Ok(()),
        }
    }

    /// The device of a port that does not choose one: of a port that lives; the one that it claims back, or was promised;
    /// or that of the guest's other port on this network (its driver asks for another one before it lets go of the first).
    pub(super) fn settled_device(
        &self,
        object: &str,
        port: &NicIntent,
        access: Access,
    ) -> Result<Option<Allocation>, Error> {
        let same = |other: &NicIntent| other.network == port.network && other.nic.mac == port.nic.mac;
        if let Some(was) = self.intent.nic(port.id).filter(|was| same(was)) {
            return Ok(was.allocation.clone());
        }
        let mac = port.nic.mac.into_iter().flat_map(|mac| self.intent.nics_with(mac));
        let twins = mac.filter(|other| other.is_port() && same(other) && other.guest_uuid == port.guest_uuid);
        let mut held = twins.filter_map(|twin| twin.allocation.as_ref());
        // Where its guest is plugged in, it is, whatever device its twin has.
        let Some(claimed) = &port.allocation else { return Ok(held.next().cloned()) };
        if let Some(shared) = held.find(|held| held.device() == claimed.device()) {
            return Ok(Some(shared.clone()));
        }
        let claimed = match claimed.clone() {
            Allocation::Link { device, macvlan, .. } => Allocation::Link { device, access, macvlan },
            function => function,
        };
        // What sits on it is the guest's own.
        let may = self.intent.pool().may_take(port.id, &claimed.device(), access, |_| Ok(()));
        may.map_err(|refusal| refusal.into_error(object, |holder| self.holder_name(holder)).field("<plug>"))?;
        Ok(Some(claimed))
    }

    /// The device that a port claims back, which its network must list.
    pub(super) fn claimed_device(&mut self, object: &str, attach: &Attach) -> Result<Option<Allocation>, Error> {
        let Some(plug) = attach.port.as_ref().and_then(|port| port.plug.as_ref()) else { return Ok(None) };
        let device = match plug {
            Plug::Direct { dev, .. } => Device::Link(dev.clone()),
            Plug::Hostdev { address, .. } => Device::Pci(*address),
            Plug::None | Plug::Network { .. } | Plug::Bridge { .. } => return Ok(None),
        };
        let network = match &attach.nic.source {
            NicSource::Network { network, .. } => self.intent.named(network),
            _ => None,
        };
        if !network.is_some_and(|network| self.intent.pool().listed(network).any(|listed| *listed == device)) {
            let cause = format!("{device} is none of its network's devices");
            return Err(Error::new(ErrorKind::InvalidArgument, object, cause).field("<plug>"));
        }
        Ok(Some(match device {
            // Its mode of use is settled later.
            Device::Link(device) => Allocation::Link { device, access: Access::Shared, macvlan: self.free_macvlan()? },
            Device::Pci(address) => Allocation::Function(address),
        }))
    }

    /// Whether a port that is claimed back is where its guest is plugged in.
    pub(super) fn plug_fits(&self, object: &str, attach: &Attach, intent: &NicIntent) -> Result<(), Error> {
        let Some(wanted) = attach.port.as_ref().and_then(|port| port.plug.as_ref()) else { return Ok(()) };
        let there = plug(&desired::resolve(&self.intent, intent));
        if leads_to_the_same(wanted, &there) {
            return Ok(());
        }
        let cause = format!("its guest is plugged into {wanted}, and its network plugs it into {there} now");
        Err(Error::new(ErrorKind::InvalidState, object, cause).field("<plug>").hint("plug the guest's NIC in anew"))
    }

    /// Whether a NIC's cable is ours to pull and plug: a port's guest has a link of its driver's, which puts it back where the
    /// guest's configuration says.
    pub(super) fn cable_is_ours(&self, nic: &NicIntent) -> Result<(), Error> {
        if !nic.is_port() {
            return Ok(());
        }
        let cause = "it is a port of libvirt's, and the cable of its guest's NIC is libvirt's to pull and plug";
        let mac = nic.nic.mac.map_or_else(String::new, |mac| format!(" {mac}"));
        let hint = format!("use 'virsh domif-setlink {}{mac} up|down'", nic.guest);
        Err(Error::new(ErrorKind::Unsupported, self.describe(Object::Nic(nic.id)), cause)
            .field("<link state>")
            .hint(hint))
    }

    /// Looks after a port at rest: one whose guest's link was there and is gone ends, unless it comes back or the port is
    /// claimed back in time. Its guest may have died while its driver could not tell us.
    pub(super) fn look_after_port(&mut self, id: Uuid) {
        let Some(port) = self.intent.nic(id).filter(|nic| nic.confirmed) else {
            self.ports.lost.remove(&id);
            self.ports.loose.remove(&id);
            self.ports.lifted.remove(&id);
            return;
        };
        match (port.port, self.ports.lost.get(&id)) {
            (None, _) => {}
            // Its driver makes a tap before it puts it into the bridge.
            (Some(Claim::Unbound), _) => {
                if claim::is_made(&self.intent, &self.observed, port) {
                    let bound = NicIntent { port: Some(Claim::Bound), ..port.clone() };
                    self.put_nic(id, Some(bound));
                }
            }
            (Some(Claim::Bound), _) if claim::may_live(&self.intent, &self.observed, port) => {
                self.ports.lost.remove(&id);
            }
            (Some(Claim::Bound), None) => {
                let until = self.now + GRACE;
                self.ports.lost.insert(id, until);
                self.wake(until, Object::Nic(id));
            }
            (Some(Claim::Bound), Some(until)) if *until <= self.now => {
                let gone = Event::Nic { nic: Box::new(self.nic_view(port)), what: NicEvent::OwnerGone };
                self.ports.lost.remove(&id);
                self.put_nic(id, None);
                self.out.push(Effect::Publish(gone));
                self.advance(Object::Nic(id));
            }
            (Some(Claim::Bound), Some(_)) => {}
        }
    }

    /// Notes whether a port's tap is in no bridge. Whoever took it out may be about to put it into another one, and must
    /// not find it in ours again: it is left alone for a moment, unless its network is what took the bridge away.
    pub(super) fn look_for_loose_tap(&mut self, object: Object) {
        let Object::Nic(id) = object else { return };
        let Some(port) = self.intent.nic(id).filter(|nic| nic.port == Some(Claim::Bound)) else { return };
        if !claim::is_loose(&self.intent, &self.observed, port) {
            self.ports.loose.remove(&id);
        } else if !self.ports.loose.contains_key(&id) {
            let at = self.now + MOMENT;
            self.ports.loose.insert(id, at);
            self.wake(at, object);
        }
    }

    /// A port's network has a bridge again: its tap needs no waiting for.
    pub(super) fn tap_may_come_back(&mut self, id: Uuid) {
        if self.intent.nic(id).is_some_and(|nic| nic.port == Some(Claim::Bound)) {
            self.ports.loose.insert(id, self.now);
        }
    }

    /// The bridge that a port's network is leaving for another one.
    fn bridge_left(&self, port: &NicIntent) -> Option<&LinkName> {
        let network = self.work.get(&Object::Network(port.network?))?.network_before()?;
        let before = network.active.as_ref()?.bridge.name.as_ref();
        before.filter(|_| self.intent.active_network_of(port).is_some_and(|now| now.bridge.name.as_ref() != before))
    }

    /// The steps for a port's tap.
    pub(super) fn plan_port(&self, plan: &mut Plan, port: &NicIntent) {
        let loose = self.ports.loose.get(&port.id).is_some_and(|at| *at <= self.now);
        let take_back = claim::TakeBack { loose, left: self.bridge_left(port) };
        claim::steps(plan, &self.intent, &self.observed, port, take_back);
        self.plan_port_rates(plan, port);
    }

    /// Tells watchers that a port was plugged in or out, whoever did it.
    pub(super) fn publish_port(&mut self, id: Uuid) {
        let Some(nic) = self.intent.nic(id) else { return };
        let plugged = self.nic_view(nic).state == NicState::Plugged;
        // What it is when the daemon starts is no news.
        if self.ports.told_plugged.insert(id, plugged).is_some_and(|was| was != plugged) {
            self.publish_nic(id, None);
        }
    }

    /// A port's document. Its driver does what it reads there, and so does not hear of rates that we see to.
    pub(super) fn port_xml(&self, id: Uuid, for_driver: bool) -> Result<String, Error> {
        let nic = self.find_nic(id)?;
        let mut port = self.networkport(nic).filter(|_| nic.is_port());
        if let Some(port) = port.as_mut().filter(|_| for_driver && self.shapes_port(nic)) {
            port.bandwidth = None;
        }
        port.map(|port| xml::write_networkport(&port))
            .ok_or_else(|| Error::new(ErrorKind::NoPort, format!("NIC {id}"), "it is no port of libvirt's"))
    }

    /// A NIC as libvirt would have it. One without a network, or whose address only its guest knows, is none.
    pub(super) fn networkport(&self, nic: &NicIntent) -> Option<NetworkPort> {
        nic.network_name()?;
        let network = nic.network.and_then(|uuid| self.intent.network(uuid)).and_then(NetworkIntent::current);
        let merged = desired::merged_with(network, nic).unwrap_or_else(|_| Merged::of_nic(&nic.nic));
        Some(NetworkPort {
            uuid: Some(nic.id),
            owner: nic.guest.clone(),
            // libvirt's element needs one.
            owner_uuid: nic.guest_uuid.unwrap_or_else(Uuid::nil),
            group: merged.portgroup,
            mac: nic.nic.mac?,
            virtualport: merged.virtualport,
            bandwidth: merged.bandwidth,
            class_id: nic.class.map(u32::from),
            vlan: merged.vlan,
            isolated: merged.isolated.then_some(true),
            trust_guest_rx_filters: merged.trust_guest_rx_filters.then_some(true),
            plug: Some(plug(&desired::resolve(&self.intent, nic))),
        })
    }
}

/// Whether what a guest is plugged into is what its network gives it. Whose bridge it is, and how its driver came by a PCI
/// device, makes no difference to the guest.
fn leads_to_the_same(is: &Plug, given: &Plug) -> bool {
    match (is, given) {
        (
            Plug::Network { bridge: is, .. } | Plug::Bridge { bridge: is, .. },
            Plug::Network { bridge: given, .. } | Plug::Bridge { bridge: given, .. },
        ) => is == given,
        (Plug::Direct { dev: is, mode: as_is }, Plug::Direct { dev: given, mode }) => {
            is == given && (as_is.is_none() || as_is == mode)
        }
        (Plug::Hostdev { address: is, .. }, Plug::Hostdev { address: given, .. }) => is == given,
        (Plug::None, Plug::None) => true,
        _ => false,
    }
}

/// What a NIC is plugged into, in libvirt's terms.
fn plug(resolved: &Resolved<'_>) -> Plug {
    let manager = |network: &Network| network.bridge.mac_table_manager;
    match resolved {
        Resolved::Virtual(bridge, network) => {
            Plug::Network { bridge: (*bridge).clone(), mac_table_manager: manager(network) }
        }
        Resolved::HostBridge(bridge, network) => {
            Plug::Bridge { bridge: (*bridge).clone(), mac_table_manager: network.and_then(manager) }
        }
        Resolved::Device(Some(dev), mode, _) => Plug::Direct { dev: (*dev).clone(), mode: Some(*mode) },
        Resolved::Function(Some(address), network) => {
            let forward = &network.forward;
            Plug::Hostdev { managed: forward.managed, driver: forward.driver.clone(), address: *address }
        }
        Resolved::Device(None, ..) | Resolved::Function(None, _) | Resolved::Stopped | Resolved::None => Plug::None,
    }
}
