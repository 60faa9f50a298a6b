//! Networks that come from libvirt's daemon while they run, and go back to it.
//!
//! A bridge is claimed before the network becomes intent, and a network leaves intent before its bridge is released, so
//! that a crash at any point leaves a bridge that is claimed at most, and never one that is taken for ours and deleted.
//! What of libvirt's would be in the way (its dnsmasq, its packet rules) goes by jobs, when ours is ready to take its
//! place: once for each network with a claimed bridge, after an adoption as after a start of the daemon.

use super::effect::{Answer, Body, Effect, Job, NetworkEvent};
use super::input::{Adoption, JobOutcome, RequestId};
use super::work::{Goal, Operation};
use super::{Engine, Object};
use crate::intent::{NetworkIntent, NicIntent, Saved};
use crate::model::{ForwardMode, MacAddr, Network};
use crate::plan::nft::foreign::Owner;
use crate::plan::nft::{ForeignTable, libvirt::Signs};
use crate::plan::{Link, Mark, MarkKind, Plan, adopt, claim, diff};
use crate::{Error, ErrorKind};
use uuid::Uuid;

/// A network on its way from or to others.
#[derive(Debug)]
pub(super) enum Transfer {
    /// What is intended once the bridge is claimed.
    Adopt(Box<NetworkIntent>),
    /// It is intended.
    Adopted,
    /// It is to go once its bridge is claimed only.
    HandBack,
    /// It has gone; these were its ports.
    Gone(Vec<NicIntent>),
}

/// What of libvirt's was seen to since the daemon started.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Takeover {
    service: bool,
    rules: bool,
}

impl Engine {
    /// Takes a network over from libvirt's daemon.
    pub(super) fn adopt(&mut self, id: RequestId, adoption: Adoption, random: u128) -> Result<(), Error> {
        let Adoption { definition, autostart, active, effect } = adoption;
        let Some(given) = active.as_ref().or(definition.as_ref()) else {
            return Err(Error::new(ErrorKind::InvalidArgument, "the network", "it is neither defined nor active"));
        };
        let (uuid, known) = self.identify(given, random)?;
        if known.is_some() {
            let object = format!("network '{}'", given.name);
            return Err(Error::new(ErrorKind::NetworkExists, object, "it is Patchcord's already"));
        }
        // libvirt remembers bridges and addresses that it chose, so there is nothing left to choose.
        let complete = |network: Option<Network>| network.map(|n| self.complete(n, uuid, None, random)).transpose();
        let (definition, active) = (complete(definition)?, complete(active)?);
        let warnings = active.as_ref().map_or(Ok(Vec::new()), |active| self.may_adopt(uuid, active))?;
        if !effect {
            self.out.push(Effect::Reply(id, Ok(Answer { body: Body::Done, warnings })));
            return Ok(());
        }
        let autostart = autostart && definition.is_some();
        let Some(active) = active else {
            self.put_network(uuid, Some(NetworkIntent { definition, autostart, active: None }));
            let event = self.network_event(uuid, NetworkEvent::Defined);
            self.out.extend(event.map(Effect::Publish));
            let view = self.network_view(uuid).map_or(Body::Done, |v| Body::Network(Box::new(v)));
            self.out.push(Effect::answer(id, view));
            return Ok(());
        };
        let goal = Goal::Network { previous: None, event: NetworkEvent::Started };
        let mut operation = Operation::new(Some(id), goal);
        operation.warnings = warnings;
        let intent = NetworkIntent { definition, autostart, active: Some(active) };
        operation.transfer = Some(Transfer::Adopt(Box::new(intent)));
        self.begin_operation(Object::Network(uuid), operation);
        self.advance(Object::Network(uuid));
        Ok(())
    }

    /// Whether a network that runs may be taken over; gives what the user should know besides.
    fn may_adopt(&self, uuid: Uuid, network: &Network) -> Result<Vec<String>, Error> {
        let (own, Some(bridge)) = (network.forward.mode.has_own_bridge(), &network.bridge.name) else {
            return self.may_start(uuid, network);
        };
        if !own {
            return self.may_start(uuid, network);
        }
        self.promises_fit(uuid, network)?;
        let link = adopt::claimable(&self.observed, bridge.as_str(), uuid).map_err(|cause| {
            Error::new(ErrorKind::InUse, format!("network '{}'", network.name), cause).field("<bridge name>")
        })?;
        self.subnets_free(uuid, network, Some(link.index))?;
        self.rules_can_be_had(network, bridge)?;
        if network.ips.is_empty() || network.forward.mode == ForwardMode::Open {
            return Ok(Vec::new());
        }
        let kept = |what: &String| format!("libvirt's packet rules for it stay beside ours: without them, {what}");
        Ok(self.others_that_drop().iter().map(kept).collect())
    }

    /// Other firewalls than libvirt's that would drop guests' traffic, or may.
    fn others_that_drop(&self) -> Vec<String> {
        let all = self.observed.firewalls.dropping.iter();
        all.filter(|firewall| firewall.owner != Owner::LibvirtChains).map(ToString::to_string).collect()
    }

    /// Leaves a network to libvirt's daemon.
    pub(super) fn hand_back(&mut self, id: RequestId, name: &str, effect: bool) -> Result<(), Error> {
        let uuid = self.find(name)?;
        let object = self.describe(Object::Network(uuid));
        let ours: Vec<String> =
            self.intent.nics_of(uuid).filter(|n| !n.is_port()).map(|n| n.guest.to_string()).collect();
        if !ours.is_empty() {
            let cause = format!("libvirt knows nothing of the NICs that are attached to it, of {}", ours.join(", "));
            return Err(Error::new(ErrorKind::InUse, object, cause).hint("'patchcord nic detach' detaches them"));
        }
        if !effect {
            self.out.push(Effect::answer(id, Body::Done));
            return Ok(());
        }
        let known = self.intent.network(uuid).cloned();
        let goal = Goal::Network { previous: known.map(Box::new), event: NetworkEvent::Undefined };
        let mut operation = Operation::new(Some(id), goal);
        operation.transfer = Some(Transfer::HandBack);
        self.begin_operation(Object::Network(uuid), operation);
        self.advance(Object::Network(uuid));
        Ok(())
    }

    fn transfer_of(&self, object: Object) -> Option<&Transfer> {
        self.work.get(&object)?.operation.as_ref()?.transfer.as_ref()
    }

    fn set_transfer(&mut self, object: Object, transfer: Transfer) {
        if let Some(operation) = self.work.get_mut(&object).and_then(|work| work.operation.as_mut()) {
            operation.transfer = Some(transfer);
        }
    }

    fn take_transfer(&mut self, object: Object) -> Option<Transfer> {
        self.work.get_mut(&object)?.operation.as_mut()?.transfer.take()
    }

    /// Whether a network has just come from others but for its claim, or is going to them.
    pub(super) fn is_in_transfer(&self, object: Object) -> bool {
        self.transfer_of(object).is_some_and(|transfer| !matches!(transfer, Transfer::Adopted))
    }

    /// Whether a link may be the tap of a port that is going to others.
    pub(super) fn is_tap_in_transfer(&self, link: &Link) -> bool {
        let transfers = self.work.values().filter_map(|work| work.operation.as_ref()?.transfer.as_ref());
        let gone =
            transfers.filter_map(|transfer| if let Transfer::Gone(ports) = transfer { Some(ports) } else { None });
        gone.flatten().any(|port| link.mac.is_some() && port.nic.mac.map(MacAddr::of_tap) == link.mac)
    }

    /// A transfer failed: a network that came goes back, and ports that went come back.
    pub(super) fn end_transfer(&mut self, object: Object) {
        match self.take_transfer(object) {
            Some(Transfer::Adopt(_) | Transfer::Adopted) => self.set_transfer(object, Transfer::Gone(Vec::new())),
            Some(Transfer::Gone(ports)) => ports.into_iter().for_each(|port| self.put_nic(port.id, Some(port))),
            Some(Transfer::HandBack) | None => {}
        }
    }

    /// Takes the step from the claim to the intent, or back, once the claim is as it has to be.
    pub(super) fn transfer(&mut self, object: Object) {
        let Object::Network(uuid) = object else { return };
        let bridge = self.observed.link_marked(MarkKind::Bridge, uuid);
        let ready = match self.transfer_of(object) {
            Some(Transfer::Adopt(intent)) => needs_no_bridge(intent) || bridge.is_some(),
            Some(Transfer::HandBack) => bridge.is_none_or(Link::is_claimed),
            Some(Transfer::Adopted | Transfer::Gone(_)) | None => false,
        };
        if !ready {
            return;
        }
        match self.take_transfer(object) {
            Some(Transfer::Adopt(intent)) => {
                self.set_transfer(object, Transfer::Adopted);
                // That it runs is written down first: one that is only defined would have its bridge taken down.
                let runs = NetworkIntent { definition: None, autostart: false, active: intent.active.clone() };
                self.put_network(uuid, Some(runs));
                self.put_network(uuid, Some(*intent));
                self.adopt_lost_nics(uuid);
            }
            Some(Transfer::HandBack) => {
                let ports: Vec<NicIntent> = self.intent.nics_of(uuid).cloned().collect();
                ports.iter().for_each(|port| self.put_nic(port.id, None));
                self.forget_forwarding_for_others(uuid);
                self.put_network(uuid, None);
                self.takeovers.remove(&uuid);
                self.set_transfer(object, Transfer::Gone(ports));
            }
            Some(Transfer::Adopted | Transfer::Gone(_)) | None => {}
        }
    }

    /// The host goes on forwarding for a network that others have from now on.
    fn forget_forwarding_for_others(&mut self, uuid: Uuid) {
        let before = self.intent.routed();
        let active = self.intent.network(uuid).and_then(|n| n.active.as_ref());
        let routed = active.is_some_and(|n| n.forward.mode.has_own_bridge() && n.forward.mode != ForwardMode::Isolated);
        if routed && (before.v4 > 0 || before.v6 > 0) && !self.intent.saved.settings.is_empty() {
            self.remember(Saved { settings: Default::default(), ..self.intent.saved.clone() });
        }
    }

    /// The steps of a transfer: to claim the network's bridge, or to leave it.
    pub(super) fn plan_transfer(&self, plan: &mut Plan, uuid: Uuid) -> Result<(), ForeignTable> {
        let object = Object::Network(uuid);
        let mark = Mark { instance: self.config.instance, kind: MarkKind::Bridge, id: uuid };
        match self.transfer_of(object) {
            Some(Transfer::Adopt(intent)) => {
                let bridge = intent.active.as_ref().and_then(|n| n.bridge.name.as_ref());
                // One that went since is said to be missing when the network itself is made.
                let link = bridge.and_then(|b| adopt::claimable(&self.observed, b.as_str(), uuid).ok());
                link.into_iter().for_each(|link| adopt::claim(plan, link, mark));
            }
            Some(Transfer::HandBack) => {
                let link = self.observed.link_marked(MarkKind::Bridge, uuid);
                link.into_iter().for_each(|link| adopt::claim(plan, link, mark));
            }
            Some(Transfer::Gone(ports)) => {
                let before = self.rules_before(object);
                diff::hand_back(plan, (self.config.instance, uuid), &self.observed, before)?;
                // Last, since it is not taken back.
                claim::leave_limits(plan, &self.intent, &self.observed, ports);
            }
            Some(Transfer::Adopted) | None => {}
        }
        Ok(())
    }

    /// The claimed bridge of a network that is no more is nobody's.
    pub(super) fn plan_release(&self, plan: &mut Plan, uuid: Uuid) {
        let bridge = self.observed.link_marked(MarkKind::Bridge, uuid).filter(|link| link.is_claimed());
        if let Some(link) = bridge.filter(|_| self.intent.network(uuid).is_none()) {
            adopt::release(plan, link);
        }
    }

    /// The network, if it runs on a bridge that others made.
    fn on_claimed_bridge(&self, object: Object) -> Option<(Uuid, &Network, &Link)> {
        let Object::Network(uuid) = object else { return None };
        let active = self.intent.network(uuid)?.active.as_ref()?;
        let link = self.observed.link_marked(MarkKind::Bridge, uuid).filter(|link| link.is_claimed())?;
        Some((uuid, active, link))
    }

    /// The job that ends libvirt's dnsmasq, where ours is to be.
    pub(super) fn service_to_end(&self, object: Object) -> Option<Job> {
        let (network, active, link) = self.on_claimed_bridge(object)?;
        let done = self.takeovers.get(&network).is_some_and(|takeover| takeover.service);
        let (name, bridge) = (active.name.to_string(), link.name.clone());
        (!done).then_some(Job::EndLibvirtService { network, name, bridge })
    }

    /// The job that removes libvirt's packet rules, when ours are there. Where another firewall drops what nobody
    /// accepts, they are what lets guests through, and stay.
    pub(super) fn rules_to_remove(&self, object: Object) -> Option<Job> {
        let (network, active, link) = self.on_claimed_bridge(object)?;
        let done = self.takeovers.get(&network).is_some_and(|takeover| takeover.rules);
        if done || !self.others_that_drop().is_empty() {
            return None;
        }
        Some(Job::RemoveLibvirtRules { network, signs: Signs::of(active, link) })
    }

    /// What of libvirt's was in the way has gone, or not.
    pub(super) fn taken_over(&mut self, object: Object, job: &Job, outcome: JobOutcome) {
        self.work.entry(object).or_default().flight = None;
        let (network, service, what) = match job {
            Job::EndLibvirtService { network, .. } => (*network, true, "libvirt's dnsmasq for it can't be replaced"),
            Job::RemoveLibvirtRules { network, .. } => {
                (*network, false, "libvirt's packet rules for it can't be removed")
            }
            _ => return,
        };
        if let JobOutcome::Failed(cause) = outcome {
            let error = Error::new(ErrorKind::HostFailed, self.describe(object), format!("{what}: {cause}"));
            return self.failed(object, error);
        }
        let takeover = self.takeovers.entry(network).or_default();
        if service {
            takeover.service = true;
        } else {
            takeover.rules = true;
        }
        self.advance(object);
    }
}

fn needs_no_bridge(intent: &NetworkIntent) -> bool {
    intent.active.as_ref().is_none_or(|network| !network.forward.mode.has_own_bridge())
}
