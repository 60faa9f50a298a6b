//! Requests about NICs: attach, detach, modify, cable, owner; and owners that are gone.

use super::effect::{Answer, Body, Effect, Event, Job, JobId, NicEvent, RecordKey};
use super::input::{Attach, RequestId};
use super::view::{self, NicState, NicView};
use super::work::{Goal, Operation};
use super::{Engine, Object};
use crate::intent::{NicIntent, Owner};
use crate::model::{LinkName, LinkState, MacAddr, Network, Nic, NicSource, NicType};
use crate::plan::desired::{self, Resolved};
use crate::{Error, ErrorKind, xml};
use uuid::Uuid;

/// Ports a bridge can have (`BR_PORT_BITS` in the kernel's `net/bridge/br_private.h`, less port 0).
const BRIDGE_PORTS: usize = 1023;

impl Engine {
    /// Attaches a NIC.
    pub(super) fn attach(&mut self, request: RequestId, attach: Attach, random: u128) -> Result<(), Error> {
        let (intent, warnings) = self.admit(&attach, random)?;
        let id = intent.id;
        self.put_nic(id, Some(intent));
        self.begin_nic(request, id, None, NicEvent::Attached, warnings);
        Ok(())
    }

    /// Says what would happen.
    pub(super) fn check(&mut self, request: RequestId, attach: &Attach, random: u128) -> Result<(), Error> {
        let (intent, warnings) = self.admit(attach, random)?;
        let nic = NicView { state: NicState::Pending, ..self.nic_view(&intent) };
        self.out.push(Effect::Reply(request, Ok(Answer { body: Body::Nic(Box::new(nic)), warnings })));
        Ok(())
    }

    /// Whether a NIC may be attached, and what it would be; refusals are complete, and nothing is changed.
    fn admit(&mut self, attach: &Attach, random: u128) -> Result<(NicIntent, Vec<String>), Error> {
        let object = format!("NIC of guest '{}'", attach.guest);
        let refuse = |kind, cause: String| Error::new(kind, object.clone(), cause);
        let mut nic = attach.nic.clone();
        nic.validate()?;
        let (uuid, network) = self.admit_source(&object, &nic)?;
        let mut warnings = Vec::new();

        if nic.mac.is_none() && !attach.mac_unknown {
            nic.mac = Some(self.free_mac(random));
        }
        if nic.mac.is_some() && nic.mac == network.as_ref().and_then(|n| n.mac) {
            return Err(refuse(ErrorKind::InUse, "that is the address of the network's own bridge".into())
                .field("<mac address>")
                .hint("choose another, or leave it out to get one"));
        }
        if let Some(mac) = nic.mac {
            for other in self.intent.nics_with(mac) {
                let same_network = other.network.is_some() && other.network == uuid;
                // A guest's name is anybody's to give; whose it is, is not.
                let same_owner = other.guest == attach.guest && other.uid == attach.uid;
                let name =
                    other.network_name().map(|n| format!("network '{n}'")).unwrap_or_else(|| "no network".into());
                let whose = format!("guest '{}' has {mac} on {name} already (NIC {})", other.guest, other.id);
                if same_network && !same_owner {
                    return Err(refuse(ErrorKind::InUse, whose)
                        .field("<mac address>")
                        .hint("choose another, or leave it out to get one"));
                }
                warnings.push(whose);
            }
        }
        match &nic.target {
            Some(name) => {
                let used = self.observed.link_named(name.as_str()).is_some()
                    || self.intent.nics().any(|n| n.nic.target.as_ref() == Some(name));
                if used {
                    return Err(refuse(ErrorKind::InUse, format!("there is a link {name} already"))
                        .field("<target dev>")
                        .hint("choose another name, or leave it out to get one"));
                }
            }
            None => nic.target = Some(self.free_tap()?),
        }
        if nic.queues.is_some_and(|q| q > 1) && attach.mac_unknown {
            return Err(refuse(ErrorKind::InvalidArgument, "QEMU refuses several queues from a helper".into())
                .field("<driver queues>"));
        }
        let id = uuid::Builder::from_random_bytes(random.to_be_bytes()).into_uuid();
        let intent = NicIntent {
            id,
            guest: attach.guest.clone(),
            guest_uuid: attach.guest_uuid,
            given: attach.nic.clone(),
            nic,
            network: uuid,
            owner: attach.owner,
            handover: attach.handover,
            uid: attach.uid,
            confirmed: false,
        };
        self.admit_bridge(&object, &intent, network.as_ref())?;
        Ok((intent, warnings))
    }

    /// The network that a NIC's source names, if it is one that can take NICs now.
    fn admit_source(&self, object: &str, nic: &Nic) -> Result<(Option<Uuid>, Option<Network>), Error> {
        let refuse = |kind, cause: String| Error::new(kind, object, cause);
        let unsupported =
            |what: &str, place: &str| refuse(ErrorKind::Unsupported, format!("{what} is not supported yet ({place})"));
        let (uuid, network) = match &nic.source {
            NicSource::Direct { .. } => {
                return Err(
                    unsupported("a direct connection to a device", "the NIC asks for it").field("type='direct'")
                );
            }
            NicSource::Bridge { .. } | NicSource::None => (None, None),
            NicSource::Network { network, portgroup } => {
                let uuid = self.intent.named(network).ok_or_else(|| {
                    refuse(ErrorKind::NoNetwork, format!("there is no network '{network}'"))
                        .field("<source network>")
                        .hint("'patchcord network list' shows those there are")
                })?;
                let active = self.intent.network(uuid).and_then(|n| n.active.clone()).ok_or_else(|| {
                    refuse(ErrorKind::NotActive, format!("network '{network}' is not active"))
                        .field("<source network>")
                        .hint(format!("start it: patchcord network start '{network}'"))
                })?;
                active.portgroup(portgroup.as_ref()).map_err(|cause| {
                    refuse(ErrorKind::NoPortgroup, format!("network '{network}': {cause}")).field("<source portgroup>")
                })?;
                (Some(uuid), Some(active))
            }
        };
        let portgroup = network.as_ref().and_then(|n| {
            let wanted = match &nic.source {
                NicSource::Network { portgroup, .. } => portgroup.as_ref(),
                _ => None,
            };
            n.portgroup(wanted).ok().flatten()
        });
        let places = [
            ("the NIC", nic.vlan.is_some(), nic.virtualport.is_some(), nic.bandwidth.is_some()),
            (
                "its portgroup",
                portgroup.is_some_and(|p| p.vlan.is_some()),
                portgroup.is_some_and(|p| p.virtualport.is_some()),
                portgroup.is_some_and(|p| p.bandwidth.is_some()),
            ),
            (
                "its network",
                network.as_ref().is_some_and(|n| n.vlan.is_some()),
                network.as_ref().is_some_and(|n| n.virtualport.is_some()),
                false,
            ),
        ];
        for (place, vlan, virtualport, bandwidth) in places {
            if vlan {
                return Err(unsupported("a VLAN", &format!("{place} asks for it")).field("<vlan>"));
            }
            if virtualport {
                return Err(
                    unsupported("a virtual port profile", &format!("{place} asks for it")).field("<virtualport>")
                );
            }
            if bandwidth {
                return Err(unsupported("bandwidth", &format!("{place} asks for it")).field("<bandwidth>"));
            }
        }
        Ok((uuid, network))
    }

    /// Whether what the NIC would be plugged into is there and has room.
    fn admit_bridge(&self, object: &str, nic: &NicIntent, network: Option<&Network>) -> Result<(), Error> {
        let bridge: &LinkName = match (&nic.nic.source, network) {
            (NicSource::Bridge { bridge }, _) => bridge,
            (_, Some(Network { bridge: crate::model::Bridge { name: Some(name), .. }, .. })) => name,
            _ => return Ok(()),
        };
        let Some(link) = self.observed.link_named(bridge.as_str()) else {
            if nic.nic.optional {
                return Ok(());
            }
            return Err(Error::new(ErrorKind::NoDevice, object, format!("there is no bridge {bridge} on this host"))
                .field("<source>")
                .hint("make it first; with startupPolicy='optional' on <source> the NIC waits for it"));
        };
        if link.kind != crate::plan::LinkKind::Bridge {
            return Err(
                Error::new(ErrorKind::InvalidArgument, object, format!("{bridge} is no bridge")).field("<source>")
            );
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
        loop {
            let name = format!("pct{}", self.next_tap);
            self.next_tap = self.next_tap.wrapping_add(1);
            if self.observed.link_named(&name).is_none() {
                let cause = |cause| Error::new(ErrorKind::Internal, "the daemon", cause);
                return LinkName::new(name).map_err(cause);
            }
        }
    }

    fn begin_nic(
        &mut self,
        request: RequestId,
        id: Uuid,
        previous: Option<NicIntent>,
        event: NicEvent,
        warnings: Vec<String>,
    ) {
        let goal = Goal::Nic { previous: previous.map(Box::new), event };
        let mut operation = Operation::new(Some(request), goal);
        operation.warnings = warnings;
        self.work.entry(Object::Nic(id)).or_default().operation = Some(operation);
        self.advance(Object::Nic(id));
    }

    /// Detaches it.
    pub(super) fn detach(&mut self, request: RequestId, id: Uuid) -> Result<(), Error> {
        let previous = self.find_nic(id)?.clone();
        self.put_nic(id, None);
        self.begin_nic(request, id, Some(previous), NicEvent::Detached, Vec::new());
        Ok(())
    }

    /// Configures it anew. What is fixed for its life (MAC, tap name, queues) must be the same or left out.
    pub(super) fn modify(&mut self, request: RequestId, id: Uuid, given: Nic) -> Result<(), Error> {
        let previous = self.find_nic(id)?.clone();
        let object = self.describe(Object::Nic(id));
        let mut nic = given.clone();
        nic.validate()?;
        let fixed = [
            ("<mac address>", nic.mac.is_some() && nic.mac != previous.nic.mac),
            ("<target dev>", nic.target.is_some() && nic.target != previous.nic.target),
            ("<driver queues>", nic.queues.is_some() && nic.queues != previous.nic.queues),
        ];
        if let Some((field, _)) = fixed.iter().find(|(_, differs)| *differs) {
            return Err(Error::new(ErrorKind::Unsupported, object, "it can't be changed while the NIC lives")
                .field(*field)
                .hint("detach the NIC and attach a new one"));
        }
        nic.mac = previous.nic.mac;
        nic.target = previous.nic.target.clone();
        nic.queues = previous.nic.queues;
        let (network, active) = self.admit_source(&object, &nic)?;
        if let Some(mac) = nic.mac.filter(|_| network != previous.network) {
            let twin = self.intent.nics_with(mac).find(|n| {
                n.network == network && network.is_some() && (&n.guest, n.uid) != (&previous.guest, previous.uid)
            });
            if let Some(twin) = twin {
                let cause = format!("guest '{}' has {mac} there already (NIC {})", twin.guest, twin.id);
                return Err(Error::new(ErrorKind::InUse, object, cause).field("<mac address>"));
            }
        }
        let intent = NicIntent { given, nic, network, ..previous.clone() };
        self.admit_bridge(&object, &intent, active.as_ref())?;
        self.put_nic(id, Some(intent));
        self.begin_nic(request, id, Some(previous), NicEvent::Modified, Vec::new());
        Ok(())
    }

    /// Pulls or plugs its cable.
    pub(super) fn link(&mut self, request: RequestId, id: Uuid, up: bool) -> Result<(), Error> {
        let previous = self.find_nic(id)?.clone();
        let mut intent = previous.clone();
        let state = Some(if up { LinkState::Up } else { LinkState::Down });
        (intent.nic.link, intent.given.link) = (state, state);
        self.put_nic(id, Some(intent));
        self.begin_nic(request, id, Some(previous), NicEvent::Modified, Vec::new());
        Ok(())
    }

    /// Gives it another owner, or none.
    pub(super) fn own(&mut self, request: RequestId, id: Uuid, owner: Option<Owner>) -> Result<(), Error> {
        let nic = NicIntent { owner, ..self.find_nic(id)?.clone() };
        self.put_nic(id, Some(nic));
        self.watch(owner);
        let view = self.nic_view(self.find_nic(id)?);
        self.out.push(Effect::answer(request, Body::Nic(Box::new(view))));
        Ok(())
    }

    /// Asks to be told when an owner is gone, once.
    pub(super) fn watch(&mut self, owner: Option<Owner>) {
        let Some(owner) = owner.filter(|o| self.watched.insert(*o)) else { return };
        let (id, job) = (JobId(self.fresh()), Job::WatchOwner(owner));
        self.jobs.insert(id, (Object::Host, job.clone()));
        self.out.push(Effect::Start(id, job));
    }

    /// An owner is gone, and with it its NICs.
    pub(super) fn owner_gone(&mut self, owner: Owner) {
        self.watched.remove(&owner);
        let nics: Vec<NicIntent> = self.intent.nics_owned_by(owner).cloned().collect();
        for nic in nics {
            let id = nic.id;
            let gone = Event::Nic { nic: Box::new(self.nic_view(&nic)), what: NicEvent::OwnerGone };
            self.put_nic(id, None);
            self.out.push(Effect::Publish(gone));
            self.advance(Object::Nic(id));
        }
    }

    /// Makes a NIC's intent what is given, and writes its record.
    pub(super) fn put_nic(&mut self, id: Uuid, nic: Option<NicIntent>) {
        let content = nic.as_ref().map(|nic| xml::write_nic_state(&self.config.stamp, nic));
        let pending = nic.as_ref().or_else(|| self.intent.nic(id)).is_some_and(|nic| !nic.confirmed);
        self.persist(if pending { RecordKey::PendingNic(id) } else { RecordKey::Nic(id) }, content);
        self.set_nic(id, nic);
    }

    /// A NIC's operation is over. An attach is confirmed right after its answer.
    pub(super) fn nic_done(&mut self, id: Uuid, operation: Operation) {
        let Goal::Nic { previous, event } = operation.goal else { return };
        let Some(request) = operation.request else { return };
        if let Some(error) = operation.error {
            return self.out.push(Effect::refuse(request, error));
        }
        let Some(nic) = self.intent.nic(id).cloned() else {
            if let Some(previous) = previous {
                let nic = Box::new(self.nic_view(&previous));
                self.out.push(Effect::answer(request, Body::Done));
                self.out.push(Effect::Publish(Event::Nic { nic, what: event }));
            }
            return;
        };
        let confirmed = NicIntent { confirmed: true, ..nic.clone() };
        let view = self.nic_view(&confirmed);
        let answer = Answer { body: Body::Nic(Box::new(view.clone())), warnings: operation.warnings };
        self.out.push(Effect::Reply(request, Ok(answer)));
        if !nic.confirmed {
            let owner = nic.owner;
            self.set_nic(id, Some(confirmed));
            self.out.push(Effect::Confirm(id));
            self.watch(owner);
        }
        self.out.push(Effect::Publish(Event::Nic { nic: Box::new(view), what: event }));
    }

    /// Tells the watchers what a NIC does now.
    pub(super) fn publish_nic(&mut self, id: Uuid, what: Option<NicEvent>) {
        let Some(nic) = self.intent.nic(id) else { return };
        let nic = self.nic_view(nic);
        let now = if nic.state == NicState::Plugged { NicEvent::Plugged } else { NicEvent::Unplugged };
        self.out.push(Effect::Publish(Event::Nic { nic: Box::new(nic), what: what.unwrap_or(now) }));
    }

    pub(super) fn nic_view(&self, nic: &NicIntent) -> NicView {
        view::nic(&self.intent, &self.observed, nic)
    }

    /// A NIC's document: as given, or live with what it resolved to.
    pub(super) fn nic_xml(&self, id: Uuid, inactive: bool) -> Result<String, Error> {
        let nic = self.find_nic(id)?;
        if inactive {
            return Ok(xml::write_nic(&nic.given));
        }
        let view = self.nic_view(nic);
        let mut live = nic.nic.clone();
        live.tags = view.tags.iter().filter_map(|t| crate::model::Name::new(t.as_str()).ok()).collect();
        if let (NicSource::Network { portgroup, .. }, Some(got)) = (&mut live.source, &view.portgroup) {
            *portgroup = crate::model::Name::new(got.as_str()).ok();
        }
        let (kind, bridge) = match desired::resolve(&self.intent, nic) {
            Resolved::Virtual(bridge, _) => (NicType::Network, Some(bridge)),
            Resolved::HostBridge(bridge, _) => (NicType::Bridge, Some(bridge)),
            // Parked: it is what it will be again.
            Resolved::Stopped => return Ok(xml::write_nic(&live)),
            Resolved::None => (NicType::None, None),
        };
        Ok(xml::write_nic_live(&live, &xml::LiveSource { kind, bridge, dev: None, mode: None }))
    }
}
