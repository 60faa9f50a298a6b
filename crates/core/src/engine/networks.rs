//! Requests about networks: define, create, start, stop, undefine, autostart, and reading.

use super::effect::{Answer, Body, Effect, Event, NetworkEvent, RecordKey};
use super::input::{Command, RequestId};
use super::work::{Goal, Operation};
use super::{Engine, Object, view};
use crate::intent::NetworkIntent;
use crate::model::{ForwardMode, LinkName, MacAddr, Network};
use crate::plan::{MarkKind, diff, subnet};
use crate::{Error, ErrorKind, xml};
use uuid::Uuid;

/// Networks' bridges that we name: `virbr0`, `virbr1` and so on.
const BRIDGE_PATTERN: &str = "virbr%d";

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
    pub(super) fn activate(&mut self, request: Option<RequestId>, uuid: Uuid, network: Network, warnings: Vec<String>) {
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
        let goal = Goal::Network { previous: previous.map(Box::new), event };
        let mut operation = Operation::new(request, goal);
        operation.warnings = warnings;
        self.work.entry(object).or_default().operation = Some(operation);
        if event == NetworkEvent::Started {
            self.adopt_lost_nics(uuid);
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
        self.out.push(Effect::answer(id, Body::Done));
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

    /// The UUID a document's network has, and what is known under it. A name and a UUID that belong to two networks
    /// are refused.
    fn identify(&self, network: &Network, random: u128) -> Result<(Uuid, Option<NetworkIntent>), Error> {
        let object = || format!("network '{}'", network.name);
        let named = self.intent.named(&network.name);
        match (network.uuid, named) {
            (Some(uuid), Some(other)) if uuid != other => {
                Err(Error::new(ErrorKind::NetworkExists, object(), format!("it is defined already, with UUID {other}"))
                    .field("<uuid>")
                    .hint("leave <uuid> out to keep that one, or choose another name"))
            }
            (Some(uuid), None) => match self.intent.network(uuid).and_then(NetworkIntent::current) {
                Some(other) => Err(Error::new(
                    ErrorKind::NetworkExists,
                    object(),
                    format!("network '{}' has UUID {uuid} already", other.name),
                )
                .field("<uuid>")
                .hint("leave <uuid> out to get a new one")),
                None => Ok((uuid, None)),
            },
            (_, Some(uuid)) => Ok((uuid, self.intent.network(uuid).cloned())),
            (None, None) => Ok((uuid::Builder::from_random_bytes(random.to_be_bytes()).into_uuid(), None)),
        }
    }

    /// Fills in what a definition leaves to us: UUID, bridge name and MAC, which stay what they were. Refuses a bridge
    /// that another network has.
    fn complete(
        &self,
        mut network: Network,
        uuid: Uuid,
        known: Option<&NetworkIntent>,
        random: u128,
    ) -> Result<Network, Error> {
        network.validate()?;
        network.uuid = Some(uuid);
        if !network.forward.mode.has_own_bridge() {
            return Ok(network);
        }
        let before = known.and_then(NetworkIntent::current).filter(|n| n.forward.mode.has_own_bridge());
        if network.bridge.name.is_none() {
            let kept = before.and_then(|n| n.bridge.name.clone()).filter(|_| network.bridge.pattern.is_none());
            let name = match kept {
                Some(name) => name,
                None => self.free_bridge(network.bridge.pattern.as_deref().unwrap_or(BRIDGE_PATTERN), &network)?,
            };
            network.bridge.name = Some(name);
        }
        network.bridge.pattern = None;
        if let Some(name) = &network.bridge.name {
            let mut all = self.intent.networks().chain(self.leaving());
            let clash = all.find(|(other, n)| *other != uuid && uses_bridge(n, name));
            if let Some((_, other)) = clash {
                let who = other.current().map(|n| n.name.to_string()).unwrap_or_default();
                return Err(Error::new(
                    ErrorKind::InUse,
                    format!("network '{}'", network.name),
                    format!("bridge {name} belongs to network '{who}'"),
                )
                .field("<bridge name>")
                .hint("leave the name out to get a free one"));
            }
        }
        // The bits that the UUID leaves.
        let generated = || MacAddr::generated((random >> 96) as u32 ^ random as u32);
        network.mac = network.mac.or_else(|| before.and_then(|n| n.mac)).or_else(|| Some(generated()));
        Ok(network)
    }

    /// The first free name of a pattern such as `virbr%d`.
    fn free_bridge(&self, pattern: &str, network: &Network) -> Result<LinkName, Error> {
        let all = self.intent.networks().chain(self.leaving());
        let taken: std::collections::BTreeSet<&LinkName> = all.flat_map(|(_, n)| bridges(n)).collect();
        let free = (0..100_000)
            .map(|n| LinkName::new(pattern.replacen("%d", &n.to_string(), 1)))
            .take_while(Result::is_ok)
            .flatten()
            .find(|name| !taken.contains(name) && self.observed.link_named(name.as_str()).is_none());
        free.ok_or_else(|| {
            Error::new(
                ErrorKind::InUse,
                format!("network '{}'", network.name),
                format!("there is no free bridge name for {pattern}"),
            )
            .field("<bridge name>")
        })
    }

    /// Whether a network may start now; gives what the user should know besides.
    pub(super) fn may_start(&self, uuid: Uuid, network: &Network) -> Result<Vec<String>, Error> {
        let refuse = |kind, cause: String| Error::new(kind, format!("network '{}'", network.name), cause);
        let mut warnings = Vec::new();
        if network.bandwidth.is_some() {
            return Err(refuse(ErrorKind::Unsupported, "bandwidth is not supported yet".into()).field("<bandwidth>"));
        }
        if let Some(zone) = &network.bridge.zone {
            return Err(refuse(
                ErrorKind::Unsupported,
                format!("firewalld zone '{zone}' can't be set: firewalld does not run on this host"),
            )
            .field("<bridge zone>"));
        }
        match network.forward.mode {
            ForwardMode::Isolated | ForwardMode::Nat | ForwardMode::Route | ForwardMode::Open => {
                let Some(bridge) = &network.bridge.name else {
                    return Err(refuse(ErrorKind::Internal, "it has no bridge name".into()));
                };
                let own = self.observed.link_marked(MarkKind::Bridge, uuid).is_some_and(|l| l.name == bridge.as_str());
                if let Some(link) = self.observed.link_named(bridge.as_str()).filter(|l| !own && !l.is_doomed()) {
                    let what = if link.mark.is_some() { "another network's bridge" } else { "a link that is not ours" };
                    return Err(refuse(ErrorKind::InUse, format!("{bridge} is there already: {what}"))
                        .field("<bridge name>")
                        .hint("choose another name, or forward mode 'bridge' to use it as it is"));
                }
                self.subnets_free(uuid, network)?;
                if !network.ips.is_empty() && network.forward.mode != ForwardMode::Open {
                    warnings.extend(self.observed.firewalls.iter().map(ToString::to_string));
                }
                for device in &network.forward.devices {
                    if self.observed.link_named(device.dev.as_str()).is_none() {
                        warnings.push(format!("{} is not there: guests reach the outside when it appears", device.dev));
                    }
                }
            }
            ForwardMode::Bridge if network.forward.devices.is_empty() => {
                let Some(bridge) = &network.bridge.name else {
                    return Err(refuse(ErrorKind::Unsupported, "Open vSwitch is not supported yet".into())
                        .field("<virtualport>"));
                };
                if self.observed.link_named(bridge.as_str()).is_none() {
                    return Err(refuse(ErrorKind::NoDevice, format!("there is no bridge {bridge} on this host"))
                        .field("<bridge name>")
                        .hint("make it first, or leave <forward> out to get a bridge of the network's own"));
                }
            }
            mode => {
                let word = mode.as_str().unwrap_or_default();
                return Err(refuse(
                    ErrorKind::Unsupported,
                    format!("networks on devices (forward mode '{word}') can't be started yet"),
                )
                .field("<forward mode>"));
            }
        }
        Ok(warnings)
    }

    /// Refuses addresses that overlap with those of an active network or with a route of the host.
    fn subnets_free(&self, uuid: Uuid, network: &Network) -> Result<(), Error> {
        let own = self.observed.link_marked(MarkKind::Bridge, uuid).map(|l| l.index);
        let subnets = network.ips.iter().map(crate::model::Ip::network);
        let others = self.intent.networks().chain(self.leaving()).filter(|(other, _)| *other != uuid);
        let others = others.filter_map(|(_, n)| n.active.as_ref());
        let others: Vec<_> = others.flat_map(|n| n.ips.iter().map(|ip| (n.name.as_str(), ip.network()))).collect();
        // A bridge that is about to be deleted has none any more.
        let routes = self.observed.routes().filter(|r| Some(r.link) != own);
        let routes = routes.filter_map(|r| Some((self.observed.link(r.link).filter(|l| !l.is_doomed())?, r.to)));
        let routes: Vec<_> = routes.map(|(link, to)| (link.name.as_str(), to)).collect();
        match subnet::subnets_overlap(subnets, others.iter().copied(), routes.iter().copied()) {
            None => Ok(()),
            Some(conflict) => {
                let object = format!("network '{}'", network.name);
                Err(Error::new(ErrorKind::InUse, object, conflict.to_string())
                    .field("<ip address>")
                    .hint("choose another subnet"))
            }
        }
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
    fn adopt_lost_nics(&mut self, uuid: Uuid) {
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
        let reply = match operation.error {
            Some(error) => Err(error),
            None => {
                let named = self.network_event(uuid, event).or_else(|| {
                    let gone = previous.as_deref().and_then(NetworkIntent::current)?;
                    Some(event_of(gone, uuid, event))
                });
                self.out.extend(named.map(Effect::Publish));
                if event == NetworkEvent::Stopped {
                    let parked: Vec<Uuid> = self.intent.nics_of(uuid).map(|n| n.id).collect();
                    for nic in parked {
                        self.publish_nic(nic, Some(super::NicEvent::Unplugged));
                    }
                    self.observed.leases.remove(&uuid);
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

    fn publish_network(&mut self, uuid: Uuid, what: NetworkEvent) {
        let event = self.network_event(uuid, what);
        self.out.extend(event.map(Effect::Publish));
    }

    fn network_event(&self, uuid: Uuid, what: NetworkEvent) -> Option<Event> {
        self.intent.network(uuid)?.current().map(|n| event_of(n, uuid, what))
    }

    fn network_view(&self, uuid: Uuid) -> Option<view::NetworkView> {
        let of = self.intent.network(uuid)?;
        Some(view::network(&self.intent, &self.observed, uuid, of, of.current()?))
    }

    /// Answers what only reads.
    pub(super) fn read(&self, command: Command) -> Result<Answer, Error> {
        let body = match command {
            Command::ListNetworks => {
                let mut all: Vec<_> = self.intent.networks().filter_map(|(uuid, _)| self.network_view(uuid)).collect();
                all.sort_by(|a, b| a.name.cmp(&b.name));
                Body::Networks(all)
            }
            Command::ShowNetwork(name) => {
                let uuid = self.find(&name)?;
                self.network_view(uuid).map_or(Body::Done, |v| Body::Network(Box::new(v)))
            }
            Command::NetworkXml { network, inactive } => {
                let uuid = self.find(&network)?;
                let of = self.intent.network(uuid);
                let wanted = of.and_then(|n| if inactive { n.definition.as_ref() } else { n.current() });
                let wanted = wanted.ok_or_else(|| {
                    let object = self.describe(Object::Network(uuid));
                    Error::new(ErrorKind::InvalidState, object, "it is transient: it has no definition")
                })?;
                let live = of.is_some_and(|n| n.active.is_some()) && !inactive;
                let plugged = || self.intent.nics_of(uuid).filter(|n| diff::is_plugged(&self.observed, n.id)).count();
                let connections = xml::Connections {
                    network: if live { u32::try_from(plugged()).unwrap_or(u32::MAX) } else { 0 },
                    ..xml::Connections::default()
                };
                let connections = live.then_some(&connections);
                let options = xml::WriteOptions { inactive, connections, ..xml::WriteOptions::default() };
                Body::Xml(xml::write_network_with(wanted, &options))
            }
            Command::Leases(name) => {
                let uuid = self.find(&name)?;
                let active = self.active(uuid)?.active.as_ref();
                let leases = self.observed.leases.get(&uuid).into_iter().flatten();
                Body::Leases(active.map_or_else(Vec::new, |network| {
                    leases.map(|lease| view::lease(&self.intent, network, uuid, lease)).collect()
                }))
            }
            Command::ListNics(network) => {
                let nics: Vec<_> = match network {
                    Some(name) => {
                        let uuid = self.find(&name)?;
                        self.intent.nics_of(uuid).map(|n| self.nic_view(n)).collect()
                    }
                    None => self.intent.nics().map(|n| self.nic_view(n)).collect(),
                };
                Body::Nics(nics)
            }
            Command::ShowNic(id) => Body::Nic(Box::new(self.nic_view(self.find_nic(id)?))),
            Command::NicXml { id, inactive } => Body::Xml(self.nic_xml(id, inactive)?),
            other => {
                let what = format!("{other:?} reached the reader");
                return Err(Error::new(ErrorKind::Internal, "the daemon", what));
            }
        };
        Ok(body.into())
    }
}

fn event_of(network: &Network, uuid: Uuid, what: NetworkEvent) -> Event {
    let tags = network.tags.iter().map(ToString::to_string).collect();
    Event::Network { name: network.name.to_string(), uuid, tags, what }
}

fn bridges(network: &NetworkIntent) -> impl Iterator<Item = &LinkName> {
    let known = network.definition.iter().chain(&network.active);
    known.filter(|n| n.forward.mode.has_own_bridge()).filter_map(|n| n.bridge.name.as_ref())
}

fn uses_bridge(network: &NetworkIntent, name: &LinkName) -> bool {
    bridges(network).any(|b| b == name)
}
