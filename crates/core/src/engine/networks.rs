//! Requests about networks: define, create, start, stop, undefine, autostart, and reading.

use super::adopt::Transfer;
use super::effect::{Answer, Body, Effect, Event, Job, JobId, NetworkEvent, RecordKey};
use super::input::RequestId;
use super::work::{Goal, Operation};
use super::{Engine, Object, view};
use crate::intent::NetworkIntent;
use crate::model::Network;
use crate::plan::MarkKind;
use crate::{Error, ErrorKind, xml};
use uuid::Uuid;

impl Engine {
    /// Stores a definition.
    pub(super) fn define(&mut self, id: RequestId, network: Network, random: u128) -> Result<(), Error> {
        let (uuid, known) = self.identify(&network, random)?;
        let network = self.complete(network, uuid, known.as_ref(), random)?;
        let intent = match known {
            Some(known) => NetworkIntent { definition: Some(network), ..known },
            None => NetworkIntent { definition: Some(network), autostart: false, active: None },
        };
        self.put_network(uuid, Some(intent));
        self.adopt_lost_nics(uuid);
        self.publish_network(uuid, NetworkEvent::Defined);
        let view = self.network_view(uuid).map_or(Body::Done, |v| Body::Network(Box::new(v)));
        self.out.push(Effect::answer(id, view));
        Ok(())
    }

    /// Starts a network that is not stored.
    pub(super) fn create(&mut self, id: RequestId, network: Network, random: u128) -> Result<(), Error> {
        let (uuid, known) = self.identify(&network, random)?;
        if known.as_ref().is_some_and(|k| k.active.is_some()) {
            let object = format!("network '{}'", network.name);
            return Err(Error::new(ErrorKind::InvalidState, object, "it is active already").hint("stop it first"));
        }
        let network = self.complete(network, uuid, known.as_ref(), random)?;
        self.launch_network(id, uuid, network)
    }

    /// Starts a stored one.
    pub(super) fn start(&mut self, id: RequestId, name: &str) -> Result<(), Error> {
        let uuid = self.find(name)?;
        let object = self.describe(Object::Network(uuid));
        let known = self.intent.network(uuid);
        if known.is_some_and(|k| k.active.is_some()) {
            return Err(Error::new(ErrorKind::InvalidState, object, "it is active already"));
        }
        let Some(definition) = known.and_then(|k| k.definition.clone()) else {
            return Err(Error::new(ErrorKind::NoNetwork, object, "it has no definition"));
        };
        self.launch_network(id, uuid, definition)
    }

    /// Starts `network`, which is complete, as the active instance.
    fn launch_network(&mut self, id: RequestId, uuid: Uuid, network: Network) -> Result<(), Error> {
        let warnings = self.may_start(uuid, &network)?;
        self.activate(Some(id), uuid, network, warnings);
        Ok(())
    }

    /// Makes `network` the active instance; `request` is answered when it runs.
    pub(super) fn activate(
        &mut self,
        request: Option<RequestId>,
        uuid: Uuid,
        mut network: Network,
        warnings: Vec<String>,
    ) {
        self.list_functions(&mut network);
        let previous = self.intent.network(uuid).cloned();
        let intent = match previous.clone() {
            Some(known) => NetworkIntent { active: Some(network), ..known },
            None => NetworkIntent { definition: None, autostart: false, active: Some(network) },
        };
        self.begin(request, uuid, previous, intent, NetworkEvent::Started, warnings);
    }

    /// Stops one; its NICs are parked.
    pub(super) fn stop(&mut self, id: RequestId, name: &str) -> Result<(), Error> {
        let uuid = self.find(name)?;
        let known = self.active(uuid)?.clone();
        let intent = NetworkIntent { active: None, ..known.clone() };
        self.begin(Some(id), uuid, Some(known), intent, NetworkEvent::Stopped, Vec::new());
        Ok(())
    }

    /// Begins an operation that makes a network's intent `intent`.
    pub(super) fn begin(
        &mut self,
        request: Option<RequestId>,
        uuid: Uuid,
        previous: Option<NetworkIntent>,
        intent: NetworkIntent,
        event: NetworkEvent,
        warnings: Vec<String>,
    ) {
        let object = Object::Network(uuid);
        self.put_network(uuid, Some(intent));
        let started = event == NetworkEvent::Started;
        let goal = Goal::Network { previous: previous.map(Box::new), event };
        let mut operation = Operation::new(request, goal);
        operation.warnings = warnings;
        self.begin_operation(object, operation);
        if started {
            self.adopt_lost_nics(uuid);
            self.allocate_anew(uuid);
        }
        self.advance(object);
    }

    /// Forgets the definition.
    pub(super) fn undefine(&mut self, id: RequestId, name: &str) -> Result<(), Error> {
        let uuid = self.find(name)?;
        let known = self.intent.network(uuid).cloned();
        let Some(known) = known.filter(|k| k.definition.is_some()) else {
            let object = self.describe(Object::Network(uuid));
            return Err(Error::new(ErrorKind::InvalidState, object, "it is transient: it has no definition")
                .hint("stopping it makes it go away"));
        };
        let event = self.network_event(uuid, NetworkEvent::Undefined);
        self.put_network(uuid, Some(NetworkIntent { definition: None, autostart: false, ..known }));
        self.out.extend(event.map(Effect::Publish));
        self.forget_leases(uuid);
        self.out.push(Effect::answer(id, Body::Done));
        if self.intent.network(uuid).is_none() && self.observed.link_marked(MarkKind::Bridge, uuid).is_some() {
            // A bridge that others made was left behind when it stopped.
            self.advance(Object::Network(uuid));
        }
        Ok(())
    }

    /// Whether it starts by itself.
    pub(super) fn autostart(&mut self, id: RequestId, name: &str, on: bool) -> Result<(), Error> {
        let uuid = self.find(name)?;
        let known = self.intent.network(uuid).cloned();
        let Some(known) = known.filter(|k| k.definition.is_some()) else {
            let object = self.describe(Object::Network(uuid));
            return Err(Error::new(ErrorKind::InvalidState, object, "it is transient, and can't start by itself")
                .hint("define it first"));
        };
        self.put_network(uuid, Some(NetworkIntent { autostart: on, ..known }));
        self.out.push(Effect::answer(id, Body::Done));
        Ok(())
    }

    /// The network, if it is active.
    pub(super) fn active(&self, uuid: Uuid) -> Result<&NetworkIntent, Error> {
        self.intent.network(uuid).filter(|n| n.active.is_some()).ok_or_else(|| {
            let object = self.describe(Object::Network(uuid));
            Error::new(ErrorKind::NotActive, object, "the network is not active")
                .hint("'patchcord network start' starts it")
        })
    }

    /// NICs that were parked when a network of that name went away for good come back to this one.
    pub(super) fn adopt_lost_nics(&mut self, uuid: Uuid) {
        let Some(name) = self.intent.network(uuid).and_then(NetworkIntent::current).map(|n| n.name.clone()) else {
            return;
        };
        let lost: Vec<_> =
            self.intent.nics_without_network().filter(|n| n.network_name() == Some(&name)).cloned().collect();
        for nic in lost {
            let id = nic.id;
            self.put_nic(id, Some(crate::intent::NicIntent { network: Some(uuid), ..nic }));
        }
    }

    /// Makes a network's intent what is given, and writes the records that differ.
    pub(super) fn put_network(&mut self, uuid: Uuid, intent: Option<NetworkIntent>) {
        let before = self.intent.network(uuid).cloned();
        let (was, is) = (before.as_ref(), intent.as_ref());
        let definition = |n: Option<&NetworkIntent>| n.and_then(|n| n.definition.clone());
        let active = |n: Option<&NetworkIntent>| n.and_then(|n| n.active.clone());
        let autostart = |n: Option<&NetworkIntent>| n.is_some_and(|n| n.autostart && n.definition.is_some());
        let (old, new) = (definition(was), definition(is));
        if old != new {
            let renamed = old.as_ref().filter(|o| new.as_ref().is_none_or(|n| n.name != o.name));
            if let Some(old) = renamed {
                if autostart(was) {
                    self.persist(RecordKey::Autostart(old.name.to_string()), None);
                }
                self.persist(RecordKey::Definition(old.name.to_string()), None);
            }
            if let Some(new) = &new {
                self.persist(RecordKey::Definition(new.name.to_string()), Some(xml::write_network(new)));
            }
        }
        if let Some(new) = new.as_ref().filter(|_| autostart(was) != autostart(is)) {
            let content = autostart(is).then(String::new);
            self.persist(RecordKey::Autostart(new.name.to_string()), content);
        }
        let (old, new) = (active(was), active(is));
        if old != new {
            if let Some(old) = old.filter(|o| new.as_ref().is_none_or(|n| n.name != o.name)) {
                self.persist(RecordKey::Network(old.name.to_string()), None);
            }
            if let Some(new) = &new {
                let content = xml::write_network_state(&self.config.stamp, new);
                self.persist(RecordKey::Network(new.name.to_string()), Some(content));
            }
        }
        self.set_network(uuid, intent);
    }

    /// A network's operation is over.
    pub(super) fn network_done(&mut self, uuid: Uuid, operation: Operation) {
        let Goal::Network { previous, event } = operation.goal else { return };
        self.offer_of(uuid);
        let reply = match operation.error {
            Some(error) => Err(error),
            None => {
                let stopped = event == NetworkEvent::Stopped;
                let now = self.intent.network(uuid).and_then(NetworkIntent::current);
                let network = now.or_else(|| previous.as_deref().and_then(NetworkIntent::current));
                let named = network.map(|network| event_of(network, uuid, event));
                self.out.extend(named.map(Effect::Publish));
                if stopped {
                    let parked: Vec<Uuid> = self.intent.nics_of(uuid).map(|n| n.id).collect();
                    for nic in parked {
                        // Of a port they were told already, if it changed.
                        if !self.ports.told_plugged.contains_key(&nic) {
                            self.publish_nic(nic, Some(super::NicEvent::Unplugged));
                        }
                    }
                }
                // One that was handed back has its leases where others look.
                if stopped || matches!(operation.transfer, Some(Transfer::Gone(_))) {
                    self.observed.leases.remove(&uuid);
                    self.forget_leases(uuid);
                }
                let body = self.network_view(uuid).map_or(Body::Done, |v| Body::Network(Box::new(v)));
                Ok(Answer { body, warnings: operation.warnings })
            }
        };
        match (operation.request, reply) {
            (Some(id), reply) => self.out.push(Effect::Reply(id, reply)),
            (None, Err(error)) => self.drift(Object::Network(uuid), error.to_string(), false),
            (None, Ok(_)) => {}
        }
    }

    /// Leases outlive a stop, and end with the network itself.
    fn forget_leases(&mut self, uuid: Uuid) {
        if self.intent.network(uuid).is_none() {
            let (id, job) = (JobId(self.fresh()), Job::ForgetService(uuid));
            self.jobs.insert(id, (Object::Host, job.clone()));
            self.out.push(Effect::Start(id, job));
        }
    }

    pub(super) fn publish_network(&mut self, uuid: Uuid, what: NetworkEvent) {
        let event = self.network_event(uuid, what);
        self.out.extend(event.map(Effect::Publish));
    }

    pub(super) fn network_event(&self, uuid: Uuid, what: NetworkEvent) -> Option<Event> {
        self.intent.network(uuid)?.current().map(|n| event_of(n, uuid, what))
    }

    pub(super) fn network_view(&self, uuid: Uuid) -> Option<view::NetworkView> {
        let of = self.intent.network(uuid)?;
        let now = of.current()?;
        let free_devices = of.active.as_ref().and_then(|active| self.free_devices(uuid, active));
        let view = view::network(&self.intent, &self.observed, uuid, of, now);
        // What is not known to run may do so all the same.
        let runs = self.is_damaged(Object::Network(uuid))
            && self.observed.link_marked(MarkKind::Bridge, uuid).is_some_and(|bridge| !bridge.is_doomed());
        Some(view::NetworkView { free_devices, active: view.active || runs, ..view })
    }
}

fn event_of(network: &Network, uuid: Uuid, what: NetworkEvent) -> Event {
    let tags = network.tags.iter().map(ToString::to_string).collect();
    Event::Network { name: network.name.to_string(), uuid, tags, what }
}
