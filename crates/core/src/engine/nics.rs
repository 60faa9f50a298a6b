//! Requests about NICs: attach, detach, modify, cable, owner; and owners that are gone.

use super::effect::{Answer, Body, Effect, Event, Job, JobId, NicEvent, RecordKey};
use super::input::{Attach, RequestId};
use super::view::{self, NicState, NicView};
use super::work::{Goal, Operation};
use super::{Engine, Object};
use crate::intent::{NicIntent, Owner};
use crate::merge::Precedence;
use crate::model::{LinkState, Nic, NicSource, NicType};
use crate::plan::desired::{self, Resolved};
use crate::plan::plug;
use crate::{Error, ErrorKind, xml};
use uuid::Uuid;

impl Engine {
    /// Attaches a NIC.
    pub(super) fn attach(&mut self, request: RequestId, attach: Attach, random: u128) -> Result<(), Error> {
        // A port has an id of its own, so that what was reserved for it is given back to be had anew.
        let reserved = match (&attach.port, self.claimed(&attach)) {
            (Some(_), Ok(Some(reserved))) => self.intent.unreserve(reserved.id),
            _ => None,
        };
        let (intent, warnings) = match self.admit(&attach, random) {
            Ok(admitted) => admitted,
            Err(error) => {
                if let Some((nic, until)) = reserved {
                    self.intent.reserve(nic, until);
                }
                return Err(error);
            }
        };
        let id = intent.id;
        if let Some(reserved) = reserved.or_else(|| self.intent.unreserve(id)) {
            self.redeemed.insert(id, reserved);
        }
        self.put_nic(id, Some(intent));
        self.begin_nic(request, id, None, NicEvent::Attached, warnings);
        Ok(())
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
        self.begin_operation(Object::Nic(id), operation);
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
    pub(super) fn modify(
        &mut self,
        request: RequestId,
        id: Uuid,
        given: Nic,
        precedence: Precedence,
    ) -> Result<(), Error> {
        let previous = self.find_nic(id)?.clone();
        let (intent, warnings) = self.admit_change(&previous, given, precedence)?;
        self.put_nic(id, Some(intent));
        self.begin_nic(request, id, Some(previous), NicEvent::Modified, warnings);
        Ok(())
    }

    /// Pulls or plugs its cable.
    pub(super) fn link(&mut self, request: RequestId, id: Uuid, up: bool) -> Result<(), Error> {
        let previous = self.find_nic(id)?.clone();
        self.cable_is_ours(&previous)?;
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
        self.redeemed.remove(&id);
        // One that waits was passed over while it was under change.
        if let Some(network) = self.intent.nic(id).filter(|nic| nic.allocation.is_none()).and_then(|nic| nic.network) {
            self.offer_of(network);
        }
        let Some(request) = operation.request else { return };
        if let Some(error) = operation.error {
            return self.out.push(Effect::refuse(request, error));
        }
        let was_pending = self.intent.confirm_nic(id);
        let Some(nic) = self.intent.nic(id) else {
            if event != NicEvent::Detached {
                let error =
                    Error::new(ErrorKind::NoNic, self.describe(Object::Nic(id)), "its owner is gone, and it too");
                self.out.push(Effect::refuse(request, error));
            } else if let Some(previous) = previous {
                let nic = Box::new(self.nic_view(&previous));
                let answer = Answer { body: Body::Done, warnings: operation.warnings };
                self.out.push(Effect::Reply(request, Ok(answer)));
                self.out.push(Effect::Publish(Event::Nic { nic, what: event }));
            }
            return;
        };
        let (view, owner) = (self.nic_view(nic), nic.owner);
        if view.port {
            self.ports.told_plugged.insert(id, view.state == NicState::Plugged);
        }
        let answer = Answer { body: Body::Nic(Box::new(view.clone())), warnings: operation.warnings };
        self.out.push(Effect::Reply(request, Ok(answer)));
        if was_pending {
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
        let view = view::nic(&self.intent, &self.observed, &self.config.nodes, nic);
        if self.is_damaged(Object::Nic(nic.id)) && plug::is_plugged(&self.observed, nic.id) {
            return NicView { state: NicState::Plugged, ..view };
        }
        view
    }

    /// A NIC's document: as given, or live with what it resolved to.
    pub(super) fn nic_xml(&self, id: Uuid, inactive: bool) -> Result<String, Error> {
        let nic = self.find_nic(id)?;
        Ok(if inactive { xml::write_nic(&nic.given) } else { self.live_nic_xml(nic) })
    }

    /// A NIC's live document, also of one that was just there.
    pub(super) fn live_nic_xml(&self, nic: &NicIntent) -> String {
        let view = self.nic_view(nic);
        let mut live = nic.nic.clone();
        live.tags = view.tags.iter().filter_map(|t| crate::model::Name::new(t.as_str()).ok()).collect();
        if let (NicSource::Network { portgroup, .. }, Some(got)) = (&mut live.source, &view.portgroup) {
            *portgroup = crate::model::Name::new(got.as_str()).ok();
        }
        if let Ok(merged) = desired::merged(&self.intent, nic) {
            live.virtualport = merged.virtualport;
            live.bandwidth = merged.bandwidth;
            live.vlan = merged.vlan;
            // As it is, whatever it asked for; of what nobody asked for nothing is said.
            let told = |asked: Option<bool>, is: bool| (is || asked.is_some()).then_some(is);
            live.trust_guest_rx_filters = told(live.trust_guest_rx_filters, merged.trust_guest_rx_filters);
            live.port_isolated = told(live.port_isolated, merged.isolated);
        }
        let source = |kind| xml::LiveSource { kind, bridge: None, dev: None, mode: None, function: None };
        let source = match desired::resolve(&self.intent, nic) {
            Resolved::Virtual(bridge, _) => xml::LiveSource { bridge: Some(bridge), ..source(NicType::Network) },
            Resolved::HostBridge(bridge, _) => xml::LiveSource { bridge: Some(bridge), ..source(NicType::Bridge) },
            Resolved::Device(dev, mode, _) => xml::LiveSource { dev, mode: Some(mode), ..source(NicType::Direct) },
            Resolved::Function(function, network) => {
                let function = function.map(|address| (address, &network.forward));
                xml::LiveSource { function, ..source(NicType::Hostdev) }
            }
            // Parked: it is what it will be again.
            Resolved::Stopped => return xml::write_nic(&live),
            Resolved::None => source(NicType::None),
        };
        xml::write_nic_live(&live, &source)
    }
}
