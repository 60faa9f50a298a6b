//! NICs on bridges of Open vSwitch: the port that a NIC should have, the job that sees to it, and what others do to it.
//!
//! What is seen of a port may be older than what a job of ours made of it since. So what is seen while a job is under way
//! only leads to another look, and what turns out to be as it should be when a job looks is no drift.

use super::effect::{Effect, Event, Job};
use super::hooks::Moment;
use super::input::{JobOutcome, Now};
use super::work::{Contest, Flight, Goal};
use super::{Engine, Object};
use crate::model::LinkName;
use crate::plan::desired::{self, Plug, Resolved};
use crate::plan::{Handover, MarkKind, Op, OvsKnown, OvsPort, OvsState, Plan};
use crate::{Error, ErrorKind};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// What others did to a NIC's port.
#[derive(Debug, Default)]
pub(super) struct Meddling {
    /// What is wrong with it; nothing once it is right.
    what: Option<String>,
    /// How often it was put right lately, and how long it is let be.
    contest: Contest,
}

impl Meddling {
    /// A job saw to the port: gives what it put right, if that was anything.
    fn put_right(&mut self, outcome: &JobOutcome, now: Now) -> Option<String> {
        let what = self.what.take().filter(|_| *outcome != JobOutcome::Unchanged)?;
        self.contest.put_right(now);
        Some(what)
    }
}

impl Engine {
    /// The job that a NIC's port needs: to go before the tap is plugged into something else, to be made or changed once
    /// the tap is there.
    pub(super) fn ovs_job(&self, object: Object, moment: Moment) -> Option<Job> {
        let Object::Nic(id) = object else { return None };
        let known = self.observed.ovs.get(&id);
        match moment {
            Moment::Before => {
                let known = known?;
                (!self.is_to_be_on_ovs(id)).then(|| Job::RemoveOvsPort(id, known.name.clone()))
            }
            Moment::After => {
                let (bridge, port) = self.wanted_port(id)?;
                let wanted = self.ovs_state(&bridge, &port);
                let is = known.and_then(|k| k.port.as_ref()) == Some(&wanted);
                let doubted = self.work.get(&object).is_some_and(|work| work.port_doubted);
                (!is || doubted).then(|| Job::SetOvsPort(Box::new((bridge, port))))
            }
        }
    }

    fn is_to_be_on_ovs(&self, id: Uuid) -> bool {
        let desired = desired::nic(&self.intent, &self.observed, id);
        matches!(desired.map(|d| d.plug), Some(Plug::Ovs(_)))
    }

    /// The port that a NIC should have, with its bridge; none before its tap is there.
    pub(crate) fn wanted_port(&self, id: Uuid) -> Option<(LinkName, OvsPort)> {
        let nic = self.intent.nic(id)?;
        // Most NICs are on none: those are not looked at closer.
        if !matches!(desired::resolve(&self.intent, nic), Resolved::HostBridge(..)) {
            return None;
        }
        let Plug::Ovs(bridge) = desired::nic_as(&self.intent, &self.observed, nic)?.plug else { return None };
        let tap = self.observed.link_marked(MarkKind::Tap, id)?;
        let merged = desired::merged(&self.intent, nic).ok()?;
        let virtualport = merged.virtualport?;
        let port = OvsPort {
            name: nic.nic.target.clone()?,
            link: tap.index,
            nic: id,
            interface_id: virtualport.interface_id?,
            profile_id: virtualport.profile_id,
            mac: nic.nic.mac,
            guest: nic.guest_uuid,
            vlan: merged.vlan,
            bandwidth: merged.bandwidth,
        };
        Some((bridge, port))
    }

    fn ovs_state(&self, bridge: &LinkName, port: &OvsPort) -> OvsState {
        OvsState::of(bridge, port, self.config.instance)
    }

    /// A port was made, changed or removed, or could not be.
    pub(super) fn ovs_done(&mut self, object: Object, job: Job, outcome: JobOutcome) {
        if let Some(work) = self.work.get_mut(&object) {
            work.flight = None;
        }
        match (job, outcome) {
            (Job::SetOvsPort(_), JobOutcome::Failed(cause)) => {
                let error = Error::new(ErrorKind::HostFailed, self.describe(object), cause);
                self.failed(object, error.field("<virtualport>"));
            }
            (Job::SetOvsPort(set), outcome) => {
                let (bridge, port) = *set;
                let state = self.ovs_state(&bridge, &port);
                self.observed.ovs.insert(port.nic, OvsKnown { name: port.name, port: Some(state) });
                let wrong =
                    self.meddlings.get_mut(&port.nic).and_then(|meddling| meddling.put_right(&outcome, self.now));
                if outcome != JobOutcome::Unchanged {
                    self.port_changed(object, wrong);
                }
                match self.announcement(object) {
                    Some(plan) => self.launch(object, plan),
                    None => self.advance(object),
                }
            }
            (Job::RemoveOvsPort(nic, name), outcome) => {
                self.observed.ovs.remove(&nic);
                self.meddlings.remove(&nic);
                self.port_changed(object, None);
                if let JobOutcome::Failed(cause) = outcome {
                    // Nobody is kept waiting for it: whoever finds it later removes what carries our mark.
                    self.drift(object, format!("port {name} stays in Open vSwitch's database: {cause}"), false);
                }
                self.advance(object);
            }
            _ => self.advance(object),
        }
    }

    /// A port changed as a plan would change something; for what others did to it, where that was why.
    fn port_changed(&mut self, object: Object, wrong: Option<String>) {
        let work = self.work.entry(object).or_default();
        work.plans += 1;
        if let Some(wrong) = wrong {
            work.why = Some(wrong.into());
        }
    }

    /// All ports that carry our mark were read: the database has come back, or has another bridge.
    pub(super) fn ports_seen(&mut self, ports: &BTreeMap<Uuid, OvsState>, concerned: &mut BTreeSet<Object>) {
        let nics: BTreeSet<Uuid> = self.observed.ovs.keys().chain(ports.keys()).copied().collect();
        for nic in nics {
            self.port_seen(nic, ports.get(&nic), concerned);
        }
        // What could not be had may be had now.
        let failed = self.repairs.iter().filter(|(_, repairs)| repairs.until > 0);
        let ids = failed.filter_map(|(object, _)| if let Object::Nic(id) = object { Some(*id) } else { None });
        let ids: Vec<Uuid> = ids.filter(|id| self.wanted_port(*id).is_some()).collect();
        for object in ids.into_iter().map(Object::Nic) {
            self.repairs.entry(object).and_modify(|repairs| repairs.until = 0);
            concerned.insert(object);
        }
    }

    /// A NIC's port was read, or is not there.
    pub(super) fn port_seen(&mut self, nic: Uuid, seen: Option<&OvsState>, concerned: &mut BTreeSet<Object>) {
        let object = Object::Nic(nic);
        if let Some((bridge, port)) = self.port_being_set(object) {
            if seen != Some(&self.ovs_state(bridge, port)) {
                self.work.entry(object).or_default().port_doubted = true;
            }
            return;
        }
        let known = self.observed.ovs.get(&nic).and_then(|known| known.port.as_ref());
        if known == seen {
            return;
        }
        let wanted = self.wanted_port(nic).map(|(bridge, port)| self.ovs_state(&bridge, &port));
        if let Some(wanted) = wanted {
            if known == Some(&wanted) {
                self.found_wrong(nic, wanted.wrong(seen));
            } else if let Some(meddling) = self.meddlings.get_mut(&nic).filter(|_| seen == Some(&wanted)) {
                meddling.what = None;
            }
        }
        concerned.insert(object);
    }

    /// What the job that is under way for a NIC makes of its port.
    fn port_being_set(&self, object: Object) -> Option<&(LinkName, OvsPort)> {
        let Some(Flight::Job(id)) = self.work.get(&object)?.flight else { return None };
        match self.jobs.get(&id) {
            Some((_, Job::SetOvsPort(set))) => Some(set),
            _ => None,
        }
    }

    /// A port was right, and others changed it. Should they do so all the time, it is let be for a while.
    fn found_wrong(&mut self, nic: Uuid, what: String) {
        let now = self.now;
        let meddling = self.meddlings.entry(nic).or_default();
        meddling.what = Some(what.clone());
        if let Some(at) = meddling.contest.rests(now) {
            let what = format!("{what}; it is being changed again and again, so we wait a little");
            let object = self.describe(Object::Nic(nic));
            self.out.push(Effect::Publish(Event::Drift { object, what, culprit: None, repaired: false }));
            self.wake(at, Object::Nic(nic));
        }
    }

    /// Whether a job that nobody asked for has to wait, since the last one failed or others undo what it does.
    pub(super) fn is_put_off(&self, object: Object, job: &Job) -> bool {
        let Job::SetOvsPort(set) = job else { return false };
        if self.work.get(&object).is_some_and(|work| work.operation.is_some()) || !self.is_drift(object) {
            return false;
        }
        let failed = self.repairs.get(&object).map(|repairs| repairs.until);
        let changed = self.meddlings.get(&set.1.nic).and_then(|meddling| meddling.contest.rests(self.now));
        changed.is_some() || failed.is_some_and(|until| until > self.now)
    }

    /// What tells switches where a guest is now that was moved while it ran. There is no other way into a bridge of Open
    /// vSwitch than the guest's own: through a tap that we hold a descriptor of.
    fn announcement(&self, object: Object) -> Option<Plan> {
        let Object::Nic(id) = object else { return None };
        let goal = &self.work.get(&object)?.operation.as_ref()?.goal;
        let Goal::Nic { previous: Some(_), .. } = goal else { return None };
        let tap = self.observed.link_marked(MarkKind::Tap, id)?;
        let nic = self.intent.nic(id).filter(|nic| nic.handover == Handover::Descriptor)?;
        let mac = nic.nic.mac?;
        let mut plan = Plan::default();
        plan.push(Op::Announce(tap.index.into(), mac), None, "switches learn where the guest is now");
        Some(plan)
    }
}
