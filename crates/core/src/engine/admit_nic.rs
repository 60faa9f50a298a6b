//! Whether a NIC may be attached or changed, and what its document leaves to us: MAC, tap name, device.

use super::Engine;
use super::input::Attach;
use crate::error::Reasons;
use crate::intent::{Allocation, Claim, NicIntent};
use crate::merge::{Precedence, merge_noting};
use crate::model::{
    ActualType, DevicePlug, DirectMode, LinkName, LinkState, MacAddr, Network, Nic, NicSource, VirtualPortType,
};
use crate::plan::{LinkKind, MarkKind, desired, is_associated};
use crate::pool::{Access, Device, Refusal, Unusable};
use crate::{Error, ErrorKind};
use std::collections::BTreeSet;
use uuid::Uuid;

/// Ports a bridge can have (`BR_PORT_BITS` in the kernel's `net/bridge/br_private.h`, less port 0).
pub(super) const BRIDGE_PORTS: usize = 1023;

impl Engine {
    /// Whether a NIC may be attached, and what it would be; refusals are complete, and nothing is changed.
    pub(super) fn admit(&mut self, attach: &Attach, random: u128) -> Result<(NicIntent, Vec<String>), Error> {
        let object = format!("NIC of guest '{}'", attach.guest);
        let refuse = |kind, cause: String| Error::new(kind, object.clone(), cause);
        let mut nic = attach.nic.clone();
        let mut reasons = Reasons::default();
        reasons.note(nic.validate());
        reasons.note(self.port_is_new(&object, attach));
        let claimed_device = reasons.note(self.claimed_device(&object, attach)).flatten();
        let network = reasons.note(self.named_network(&object, &nic));
        let claimed = reasons.note(self.claimed(attach)).flatten();
        nic.mac = nic.mac.or_else(|| claimed.as_ref()?.nic.mac);
        if nic.mac.is_none() && !attach.mac_unknown {
            nic.mac = Some(self.free_mac(random));
        }
        if let Some(name) = &nic.target {
            let used = self.observed.link_named(name.as_str()).is_some()
                || self.intent.nics().any(|n| n.nic.target.as_ref() == Some(name));
            if used {
                let used = refuse(ErrorKind::InUse, format!("there is a link {name} already"));
                let hint = "choose another name, or leave it out to get one";
                reasons.note::<()>(Err(used.field("<target dev>").hint(hint)));
            }
        }
        if nic.queues.is_some_and(|q| q > 1) && attach.mac_unknown {
            let several = refuse(ErrorKind::InvalidArgument, "QEMU refuses several queues from a helper".into());
            reasons.note::<()>(Err(several.field("<driver queues>")));
        }
        let id = uuid::Builder::from_random_bytes(random.to_be_bytes()).into_uuid();
        // What was promised is found under the reservation's id.
        let id = claimed.as_ref().map_or(id, |reserved| reserved.id);
        let id = attach.port.as_ref().map_or(id, |port| port.id);
        let mut intent = NicIntent {
            id,
            guest: attach.guest.clone(),
            guest_uuid: attach.guest_uuid,
            given: attach.nic.clone(),
            nic,
            network: network.flatten(),
            allocation: claimed_device.or(claimed.and_then(|reserved| reserved.allocation)),
            class: None,
            port: attach.port.as_ref().map(|_| Claim::Unbound),
            precedence: attach.precedence,
            owner: attach.owner,
            handover: attach.handover,
            uid: attach.uid,
            turn: self.numbers.turn,
            confirmed: false,
        };
        self.numbers.turn += 1;
        // Without its network nothing can be said about the rest.
        let settled = network.and_then(|_| reasons.note(self.settle_on(&object, &mut intent)));
        if settled.is_some() {
            reasons.note(self.plug_fits(&object, attach, &intent));
        }
        let mut warnings = reasons.or_value(settled.unwrap_or_default())?;
        if intent.function().is_some() {
            // What stands for the guest's end there is the PCI device itself.
            let given = intent.nic.target.take();
            warnings
                .extend(given.map(|name| format!("there will be no {name}: its guest gets a PCI device, and no tap")));
        } else if intent.nic.target.is_none() && !intent.is_port() {
            intent.nic.target = Some(self.free_tap()?);
        }
        Ok((intent, warnings))
    }

    /// What a NIC would be with another configuration. What is fixed for its life must be the same or left out.
    pub(super) fn admit_change(
        &mut self,
        was: &NicIntent,
        given: Nic,
        precedence: Precedence,
    ) -> Result<(NicIntent, Vec<String>), Error> {
        let object = self.describe(super::Object::Nic(was.id));
        let mut nic = given.clone();
        nic.validate()?;
        let fixed = [
            ("<mac address>", nic.mac.is_some() && nic.mac != was.nic.mac),
            ("<target dev>", nic.target.is_some() && nic.target != was.nic.target),
            ("<driver queues>", nic.queues.is_some() && nic.queues != was.nic.queues),
        ];
        if let Some((field, _)) = fixed.iter().find(|(_, differs)| *differs) {
            return Err(Error::new(ErrorKind::Unsupported, object, "it can't be changed while the NIC lives")
                .field(*field)
                .hint("detach the NIC and attach a new one"));
        }
        nic.mac = was.nic.mac;
        nic.target = was.nic.target.clone();
        nic.queues = was.nic.queues;
        let network = self.named_network(&object, &nic)?;
        if was.is_port() && network != was.network {
            let cause = "it is a port of libvirt's, whose guest is plugged in by libvirt";
            return Err(Error::new(ErrorKind::Unsupported, object, cause)
                .field("<source>")
                .hint("move the guest's NIC with 'virsh update-device'"));
        }
        if nic.link == Some(LinkState::Down) {
            self.cable_is_ours(was)?;
        }
        let mut changed = NicIntent { given, nic, network, precedence, ..was.clone() };
        let warnings = self.settle_on(&object, &mut changed)?;
        Ok((changed, warnings))
    }

    /// Whether a NIC can be what is wanted. Notes the device that it gets and how it is plugged into that; gives what the user
    /// should know besides.
    fn settle_on(&mut self, object: &str, nic: &mut NicIntent) -> Result<Vec<String>, Error> {
        let mut reasons = Reasons::default();
        let mut warnings = reasons.note(self.mac_is_free(object, nic)).unwrap_or_default();
        let network = self.intent.active_network_of(nic);
        let merged = merge_noting(&desired::given(network, nic, format_args!("{object}")), &mut reasons);
        let kind = merged.virtualport.as_ref().and_then(|v| v.kind);
        let ovs = kind == Some(VirtualPortType::OpenVSwitch);
        let resolved = desired::resolve(&self.intent, nic);
        if !ovs {
            warnings.extend(reasons.note(self.vlans_can_be_had(object, &resolved, merged.vlan.as_ref())).flatten());
        }
        if !ovs && !kind.is_none_or(is_associated) {
            let cause = "a virtual port of that type is not supported yet";
            reasons.note::<()>(Err(Error::new(ErrorKind::Unsupported, object, cause).field("<virtualport>")));
        }
        nic.class = reasons.note(self.promise(object, nic, &merged)).flatten();
        let actual = ActualType::of_nic(&nic.nic, network);
        let plug = match nic.is_port() {
            true => Some(None),
            false => reasons.note(self.settle_plug(object, nic, actual)),
        };
        nic.allocation = match actual {
            // Whether it has that bridge, Open vSwitch itself says.
            ActualType::Bridge if ovs => None,
            ActualType::Network | ActualType::Bridge => {
                reasons.note(self.bridge_has_room(object, nic, network));
                None
            }
            ActualType::Direct(mode) => {
                let access = if actual.is_exclusive(kind) { Access::Exclusive } else { Access::Shared };
                let allocation = reasons.note(self.allocate(object, nic, mode, access));
                if merged.vlan.is_some() {
                    reasons.note(self.function_has_vlans(object, allocation.as_ref().and_then(Option::as_ref), kind));
                }
                if let (Some(allocation), Some(Some(DevicePlug::Macvtap))) = (&allocation, plug) {
                    reasons.note(self.macvtap_fits(object, nic, mode, allocation.as_ref()));
                }
                allocation.flatten()
            }
            ActualType::Hostdev => {
                reasons.note(self.allocate(object, nic, DirectMode::Passthrough, Access::Exclusive)).flatten()
            }
            ActualType::None => None,
        };
        reasons.note(self.function_stays(object, nic));
        nic.nic.plug = plug.flatten();
        reasons.or_value(warnings)
    }

    /// Whether a NIC has a PCI device, and which, is settled when it is attached: only its guest can give it back.
    fn function_stays(&self, object: &str, nic: &NicIntent) -> Result<(), Error> {
        let Some(was) = self.intent.nic(nic.id).map(NicIntent::function).filter(|was| *was != nic.function()) else {
            return Ok(());
        };
        let cause = match was {
            Some(address) => format!("its guest has PCI device {address}, which can't be taken from it"),
            None => "the NIC has a tap, and can't become a PCI device".to_owned(),
        };
        let error = Error::new(ErrorKind::Unsupported, object, format!("{cause} while the NIC lives"));
        Err(error.field("<source>").hint("detach the NIC and attach a new one"))
    }

    /// Whether there is somebody who keeps a NIC's VLAN on its device apart.
    fn function_has_vlans(
        &self,
        object: &str,
        allocation: Option<&Allocation>,
        kind: Option<VirtualPortType>,
    ) -> Result<(), Error> {
        let refuse = |cause: String| Error::new(ErrorKind::Unsupported, object, cause).field("<vlan>");
        if kind == Some(VirtualPortType::Qbh) {
            let error = refuse("with 802.1Qbh the switch's profile says which VLAN a NIC is in".into());
            return Err(error.hint("remove <vlan>, or the virtualport"));
        }
        let Some(device) = allocation.and_then(Allocation::link) else { return Ok(()) };
        if self.observed.functions.with_link(device).is_some() {
            return Ok(());
        }
        let error = refuse(format!("{device} is no virtual function, and only those have a VLAN set by their device"));
        Err(error.hint("use a bridge, or a VLAN link of the host's as the device"))
    }

    /// A network starts, maybe with other devices than those that its parked NICs had: whoever's will not do any more gets
    /// another one, or waits for somebody to move it.
    pub(super) fn allocate_anew(&mut self, network: Uuid) {
        // A macvtap and a PCI device stay where they are, fit for their network or not.
        let stays = |nic: &&NicIntent| {
            let macvtap = nic.is_macvtap() && self.observed.link_marked(MarkKind::Tap, nic.id).is_some();
            macvtap || nic.function().is_some() || nic.is_port()
        };
        let nics: Vec<NicIntent> = self.intent.nics_of(network).filter(|nic| !stays(nic)).cloned().collect();
        for nic in nics {
            let allocation = self.allocation_now(&nic);
            if allocation != nic.allocation {
                self.put_nic(nic.id, Some(NicIntent { allocation, ..nic }));
            }
        }
    }

    /// The device that a NIC which lives gets as things are now; none, and it waits, where none can be had.
    pub(super) fn allocation_now(&mut self, nic: &NicIntent) -> Option<Allocation> {
        let optional = Nic { optional: true, ..nic.nic.clone() };
        let object = self.describe(super::Object::Nic(nic.id));
        let mut wanted = NicIntent { nic: optional, ..nic.clone() };
        self.settle_on(&object, &mut wanted).ok()?;
        wanted.allocation
    }

    /// The network that a NIC's source names, which must be active.
    fn named_network(&self, object: &str, nic: &Nic) -> Result<Option<Uuid>, Error> {
        let NicSource::Network { network, .. } = &nic.source else { return Ok(None) };
        let refuse = |kind, cause: String| Error::new(kind, object, cause).field("<source network>");
        let uuid = self.intent.named(network).ok_or_else(|| {
            refuse(ErrorKind::NoNetwork, format!("there is no network '{network}'"))
                .hint("'patchcord network list' shows those there are")
        })?;
        if self.intent.network(uuid).is_none_or(|n| n.active.is_none()) {
            return Err(refuse(ErrorKind::NotActive, format!("network '{network}' is not active"))
                .hint(format!("start it: patchcord network start '{network}'")));
        }
        Ok(Some(uuid))
    }

    /// Whether nobody else has its MAC where it would be; on other networks a twin is worth a warning.
    fn mac_is_free(&self, object: &str, nic: &NicIntent) -> Result<Vec<String>, Error> {
        let refuse = |cause: String| {
            let error = Error::new(ErrorKind::InUse, object, cause).field("<mac address>");
            error.hint("choose another, or leave it out to get one")
        };
        let Some(mac) = nic.nic.mac else { return Ok(Vec::new()) };
        if self.intent.active_network_of(nic).and_then(|n| n.mac) == Some(mac) {
            return Err(refuse("that is the address of the network's own bridge".into()));
        }
        let mut warnings = Vec::new();
        let reserved = self.intent.reservations().filter(|r| r.nic.mac == Some(mac));
        for other in self.intent.nics_with(mac).chain(reserved).filter(|other| other.id != nic.id) {
            let same_network = other.network.is_some() && other.network == nic.network;
            // A guest's name is anybody's to give; whose it is, is not.
            let same_owner = (&other.guest, other.uid) == (&nic.guest, nic.uid);
            let name = other.network_name().map(|n| format!("network '{n}'")).unwrap_or_else(|| "no network".into());
            let whose = format!("guest '{}' has {mac} on {name} already (NIC {})", other.guest, other.id);
            if same_network && !same_owner {
                return Err(refuse(whose));
            }
            warnings.push(whose);
        }
        Ok(warnings)
    }

    /// The device that a NIC gets, which is the one it has where that will do. None, and it waits, where none can be had
    /// and it may wait.
    fn allocate(
        &mut self,
        object: &str,
        nic: &NicIntent,
        mode: DirectMode,
        access: Access,
    ) -> Result<Option<Allocation>, Error> {
        if nic.nic.mac.is_none() {
            let cause = "the guest's address is not known, and a device passes on frames for known addresses only";
            return Err(Error::new(ErrorKind::InvalidArgument, object, cause)
                .field("<mac address>")
                .hint("give it with --mac, or use a network with a bridge"));
        }
        if nic.is_port()
            && let Some(settled) = self.settled_device(object, nic, access)?
        {
            return Ok(Some(settled));
        }
        let leaving = self.leaving_devices(nic.id, access);
        let usable = |device: &Device| match leaving.contains(device) {
            true => Err(Unusable::Leaving),
            false => self.usable(device, access, mode),
        };
        let pool = self.intent.pool();
        let chosen = match (&nic.nic.source, nic.network) {
            (NicSource::Direct { dev, .. }, _) => {
                let device = Device::Link(dev.clone());
                match pool.may_take(nic.id, &device, access, usable) {
                    // It is that one and no other that it waits for.
                    Err(refusal) if nic.nic.optional && refusal.is_absence() => Ok(device),
                    result => result.map(|()| device),
                }
            }
            (_, Some(network)) => pool.choose(network, nic.id, access, usable),
            _ => Err(Refusal::default()),
        };
        let device = match chosen {
            Ok(Device::Link(device)) => device,
            Ok(Device::Pci(address)) => return Ok(Some(Allocation::Function(address))),
            Err(refusal) if nic.nic.optional && refusal.is_absence() => return Ok(None),
            Err(refusal) => {
                return Err(refusal.into_error(object, |holder| self.holder_name(holder)).field("<source>"));
            }
        };
        let macvlan = match &nic.allocation {
            Some(Allocation::Link { device: had, macvlan, .. }) if *had == device => macvlan.clone(),
            _ => self.free_macvlan()?,
        };
        Ok(Some(Allocation::Link { device, access, macvlan }))
    }

    /// Devices that other NICs are leaving: should a detach or a move fail, they come back to them.
    fn leaving_devices(&self, but: Uuid, access: Access) -> BTreeSet<Device> {
        let holds = |nic: &NicIntent, device: &Device| {
            let now = self.intent.nic(nic.id).and_then(|nic| nic.allocation.as_ref());
            now.is_some_and(|now| now.device() == *device)
        };
        let in_the_way = |held: &&Allocation| access == Access::Exclusive || held.access() == Access::Exclusive;
        let left = self.leaving_nics().filter(|nic| nic.id != but).filter_map(|nic| {
            let device = nic.allocation.as_ref().filter(in_the_way)?.device();
            (!holds(nic, &device)).then_some(device)
        });
        left.collect()
    }

    /// Whether the bridge that the NIC would be plugged into is there and has room.
    fn bridge_has_room(&self, object: &str, nic: &NicIntent, network: Option<&Network>) -> Result<(), Error> {
        let bridge: &LinkName = match (&nic.nic.source, network) {
            (NicSource::Bridge { bridge }, _) => bridge,
            (_, Some(Network { bridge: crate::model::Bridge { name: Some(name), .. }, .. })) => name,
            _ => return Ok(()),
        };
        let Some(link) = self.observed.link_named(bridge.as_str()) else {
            if nic.nic.optional {
                return Ok(());
            }
            let error = Error::new(ErrorKind::NoDevice, object, format!("there is no bridge {bridge} on this host"));
            let error = error.field("<source>");
            return Err(match network {
                Some(network) if network.forward.mode.has_own_bridge() => error.hint(format!(
                    "it is network '{}'s own, somebody took it away, and it is made again in a moment: try again, and see \
                     'patchcord events' and the daemon's log if it stays away",
                    network.name
                )),
                _ => error.hint("make it first; with startupPolicy='optional' on <source> the NIC waits for it"),
            });
        };
        if link.kind != LinkKind::Bridge {
            let error =
                Error::new(ErrorKind::InvalidArgument, object, format!("{bridge} is no bridge of the kernel's"));
            return Err(error.field("<source>").hint(
                "if it is one of Open vSwitch, add <virtualport type='openvswitch'/> to the NIC or its network",
            ));
        }
        let mtu = nic.nic.mtu.or_else(|| network.and_then(|n| n.mtu));
        if link.mark.is_none()
            && let Some(mtu) = mtu.filter(|mtu| *mtu < link.mtu)
        {
            // The kernel gives a bridge the least MTU of its ports, and that of a host bridge is not ours to change.
            let cause =
                format!("{mtu} is less than the {} bytes of bridge {bridge}, which would go down to it", link.mtu);
            return Err(Error::new(ErrorKind::InvalidArgument, object, cause)
                .field("<mtu size>")
                .hint("leave it out to get the bridge's"));
        }
        let ports = self.observed.ports(link.index);
        if ports >= BRIDGE_PORTS {
            let cause = format!("bridge {bridge} has {ports} ports, and can have no more");
            return Err(Error::new(ErrorKind::InUse, object, cause).hint("attach it to another network"));
        }
        Ok(())
    }

    /// An address nobody here has.
    fn free_mac(&self, random: u128) -> MacAddr {
        let mut bits = (random >> 64) as u32 ^ random as u32;
        loop {
            let mac = MacAddr::generated(bits);
            if self.intent.nics_with(mac).next().is_none() {
                return mac;
            }
            bits = bits.wrapping_add(1);
        }
    }

    /// A tap name that is free: we count, since the kernel's own search grows with the number of links.
    fn free_tap(&mut self) -> Result<LinkName, Error> {
        let name = free_link(&self.observed, "pct", &mut self.numbers.tap);
        LinkName::new(name).map_err(|cause| Error::new(ErrorKind::Internal, "the daemon", cause))
    }

    /// A name for a macvlan, likewise.
    pub(super) fn free_macvlan(&mut self) -> Result<LinkName, Error> {
        let name = free_link(&self.observed, "pcm", &mut self.numbers.macvlan);
        LinkName::new(name).map_err(|cause| Error::new(ErrorKind::Internal, "the daemon", cause))
    }
}

fn free_link(observed: &crate::plan::Observed, prefix: &str, next: &mut u32) -> String {
    loop {
        let name = format!("{prefix}{next}");
        *next = next.wrapping_add(1);
        if observed.link_named(&name).is_none() {
            return name;
        }
    }
}
