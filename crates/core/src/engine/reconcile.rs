//! From an object to its next plan or job, again and again until nothing differs: then it is settled.
//!
//! | where it is | what happens | where it is then |
//! |---|---|---|
//! | `advance` | something differs | a plan or a job is in flight |
//! | in flight | it ends well | `advance` |
//! | in flight | it fails, and nobody waits for it | `retry_later`, with growing pauses |
//! | in flight | it fails, and an operation waits for it | `restore` what was before, `advance`; if that fails, too, `finish` and `retry_later` |
//! | `advance` | nothing differs | `settled`: a network's NICs follow it, and its operation waits for them |
//! | `settled` | nothing is waited for | `finish`: whoever asked is answered, and requests that waited begin |

use super::admit_nic::BRIDGE_PORTS;
use super::effect::{Effect, Event, Job, PlanId};
use super::work::{Flight, Goal, PLANS, Repairs, backoff};
use super::{Engine, Object};
use crate::intent::{NetworkIntent, NicIntent};
use crate::plan::nft::NftChange;
use crate::plan::{LinkRef, Op, Outcome, Plan, StepFailure, claim, desired, diff, nft, plug, vlan};
use crate::{Error, ErrorKind};
use std::sync::Arc;

/// How the kernel refuses a port that a bridge has no room for: `EXFULL`.
const EXFULL: i32 = 54;

/// What is told when a NIC's tap is there again. Whoever had opened the one before still holds that.
const CUT_OFF: &str = "its tap was taken away and is made anew; its guest is cut off until whoever runs it opens the tap \
                       again by its name, or fetches its descriptors again";

impl Engine {
    /// Looks at an object, and starts what is missing; when nothing is, the object is settled. Does nothing while a
    /// plan or job is in flight, whose end leads here again.
    pub(super) fn advance(&mut self, object: Object) {
        if self.is_damaged(object) {
            return;
        }
        let work = self.work.entry(object).or_default();
        if work.flight.is_some() {
            return;
        }
        if work.plans >= PLANS {
            let why = work.why.as_deref().unwrap_or("a plan");
            let cause = format!("it did not settle after {PLANS} plans, the last one for: {why}");
            return self.given_up(object, Error::new(ErrorKind::HostFailed, self.describe(object), cause));
        }
        self.transfer(object);
        if let Some(job) = self.job_before(object) {
            return self.start_job(object, job);
        }
        self.look_for_loose_tap(object);
        self.look_for_others_limits(object);
        if self.needs_shaping_tried(object) {
            return self.start_job(object, Job::TryShaping);
        }
        match self.plan(object) {
            Err(error) => self.given_up(object, error),
            Ok(plan) if !plan.is_empty() => {
                if self.line.joins(object, self.is_promised(object)) {
                    self.launch(object, plan);
                }
            }
            Ok(_) => match self.slow_job(object) {
                Err(error) => self.given_up(object, error),
                Ok(Some(job)) if self.starts_again(object, &job) => {
                    if !self.is_let_be(object) {
                        self.contests.entry(object).or_default().put_right(self.now);
                        self.start_job(object, job);
                    }
                }
                Ok(Some(job)) => self.start_job(object, job),
                Ok(None) => match self.job_after(object) {
                    Some(job) if self.is_put_off(object, &job) => drop(self.work.remove(&object)),
                    Some(job) => self.start_job(object, job),
                    None => self.settled(object),
                },
            },
        }
    }

    /// What an object's kernel objects need.
    fn plan(&self, object: Object) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        let foreign = |e: nft::ForeignTable| foreign_table(self.describe(object), &e);
        match object {
            Object::Network(uuid) if self.is_in_transfer(object) => {
                self.plan_transfer(&mut plan, uuid).map_err(foreign)?;
            }
            Object::Network(uuid) => {
                let wanted = desired::host(&self.intent, &self.observed);
                diff::host(&mut plan, &wanted, self.to_be_put_back(), &self.observed);
                let desired = desired::network(&self.intent, uuid);
                let before = self.rules_before(object);
                claim::come_out(&mut plan, &self.intent, &self.observed, uuid);
                diff::network(&mut plan, (self.config.instance, uuid), &desired, &self.observed, before)
                    .map_err(foreign)?;
                self.plan_release(&mut plan, uuid);
                self.plan_network_rates(&mut plan, uuid);
            }
            Object::Nic(id) => {
                if let Some(port) = self.intent.nic(id).filter(|nic| nic.is_port()) {
                    self.plan_port(&mut plan, port);
                } else {
                    if self.intent.nic(id).is_none() {
                        self.lift_ports_limits(&mut plan);
                    }
                    let desired = desired::nic(&self.intent, &self.observed, id);
                    plug::nic(&mut plan, id, desired.as_ref(), &self.observed);
                }
                vlan::last_leaves(&mut plan, &self.intent, &self.observed, id);
                if let Some(network) = self.intent.nic(id).filter(|n| n.class.is_some()).and_then(|n| n.network) {
                    self.plan_network_rates(&mut plan, network);
                }
            }
            Object::Host => {
                let wanted = desired::host(&self.intent, &self.observed);
                diff::host(&mut plan, &wanted, self.to_be_put_back(), &self.observed);
                self.plan_uplinks(&mut plan);
                self.lift_ports_limits(&mut plan);
                diff::orphans(&mut plan, &self.intent, &self.observed, |mark| self.may_be_damaged(mark));
                // With a network whose record can't be read, rules that nobody seems to need may be its own.
                let scope = if self.damaged.networks.is_empty() { nft::Scope::Whole } else { nft::Scope::Changed };
                diff::all_rules(&mut plan, &self.intent, &self.observed, scope).map_err(foreign)?;
            }
        }
        Ok(plan)
    }

    /// The rules that a network's operation started from.
    pub(super) fn rules_before(&self, object: Object) -> diff::RulesBefore {
        let active = self.work.get(&object)?.network_before()?.active.as_ref()?;
        let bridge = active.bridge.name.clone()?;
        let rules = nft::NetworkRules::of(active, &bridge);
        (!rules.is_empty()).then_some((bridge, rules))
    }

    pub(super) fn launch(&mut self, object: Object, plan: Plan) {
        let work = self.work.entry(object).or_default();
        work.culprit = self.culprit.clone();
        if self.is_let_be(object) {
            self.line.leaves(object);
            return self.serve_line();
        }
        let work = self.work.entry(object).or_default();
        work.plans += 1;
        work.touch();
        work.why = plan.steps.first().map(|s| s.why.into());
        self.remember_settings(&plan);
        let (id, plan) = (PlanId(self.fresh()), Arc::new(plan));
        self.plans.insert(id, (object, Arc::clone(&plan)));
        self.work.entry(object).or_default().flight = Some(Flight::Plan(id));
        self.out.push(Effect::Apply(id, plan));
    }

    /// Whether what nobody asked for has to wait, since others undo it again and again. Watchers are told once.
    pub(super) fn is_let_be(&mut self, object: Object) -> bool {
        let asked_for = self.work.get(&object).is_some_and(|work| work.operation.is_some() || work.expected);
        if asked_for || !self.started || !self.is_drift(object) {
            return false;
        }
        let now = self.now;
        let Some(contest) = self.contests.get_mut(&object) else { return false };
        let Some(at) = contest.rests(now) else { return false };
        if contest.is_to_be_told() {
            self.drift(object, "it is being changed again and again; we wait a little".into(), false);
        }
        if self.work.get(&object).is_some_and(super::work::Work::is_idle) {
            self.work.remove(&object);
        }
        self.wake(at, object);
        true
    }

    /// A plan was carried out, or how far.
    pub(super) fn applied(&mut self, id: PlanId, outcome: &Outcome) {
        let Some((object, plan)) = self.plans.remove(&id) else { return };
        self.observed.absorb(&plan, outcome);
        self.line.leaves(object);
        let work = self.work.entry(object).or_default();
        work.flight = None;
        match &outcome.failed {
            None => {
                let made = plan.steps.iter().any(|s| matches!(s.op, Op::MakeBridge(_)));
                work.made_bridge |= made;
                if let Object::Nic(id) = object {
                    // There is one all the time, whatever it is plugged into; a macvtap may not have had a device before.
                    let made = plan.steps.iter().any(|s| matches!(s.op, Op::MakeTap(_)));
                    let had_one = made && !self.untapped.remove(&id);
                    work.made_tap |= had_one && self.intent.nic(id).is_some_and(|nic| nic.confirmed);
                }
                if let (true, Object::Network(uuid)) = (made, object) {
                    let active = self.intent.network(uuid).and_then(|n| n.active.as_ref());
                    let bridge = active.and_then(|n| n.bridge.name.as_ref());
                    // firewalld still notes one of another name, which anybody may have next.
                    if self.observed.zones.get(&uuid).is_some_and(|z| bridge.is_some_and(|b| z.bridge == b.as_str())) {
                        self.observed.zones.remove(&uuid);
                    }
                    // dnsmasq listens on the link that it was started on: one that outlived its bridge is deaf. What is
                    // not known to run is started, and a start ends what ran before.
                    if active.is_some() {
                        self.observed.services.remove(&uuid);
                    }
                }
                self.advance(object);
            }
            Some(failure) if self.is_outdated(object, &plan, failure) => self.advance(object),
            Some(failure) => {
                let error = self.explain(object, &plan, failure);
                self.failed(object, error);
            }
        }
        self.serve_line();
    }

    /// Whoever waited for a plan about what networks share to be done looks again.
    pub(super) fn serve_line(&mut self) {
        while let Some(next) = self.line.next() {
            self.advance(next);
        }
    }

    /// Whether a change of our packet rules was refused because others changed them while it was on its way. They have been
    /// read since, and to what is there now another change leads.
    fn is_outdated(&self, object: Object, plan: &Plan, failure: &StepFailure) -> bool {
        let refused = plan.steps.get(failure.step).map(|step| &step.op).filter(|op| matches!(op, Op::Nft(_)));
        refused.is_some_and(|refused| {
            let now = self.plan(object);
            failure.left.is_empty() && now.is_ok_and(|now| now.steps.iter().all(|step| step.op != *refused))
        })
    }

    /// What a user reads of a step that the host refused.
    fn explain(&self, object: Object, plan: &Plan, failure: &StepFailure) -> Error {
        let mut cause = failure.cause.clone();
        let mut kind = ErrorKind::HostFailed;
        if let Some(step) = plan.steps.get(failure.step) {
            let link = match &step.op {
                Op::SetLink(LinkRef::Index(i), _)
                | Op::SetFiltering(LinkRef::Index(i), _)
                | Op::Doom(i)
                | Op::Claim(i, _) => self.observed.link(*i).map(|l| l.name.clone()),
                _ => None,
            };
            let on = link.map(|l| format!(" ({l})")).unwrap_or_default();
            let op = match &step.op {
                // All of them would fill a screen.
                Op::Nft(NftChange { ops }) if ops.len() > 1 => format!("nft: {} and {} more", ops[0], ops.len() - 1),
                op => op.to_string(),
            };
            cause = format!("{}: {op}{on}: {}", step.why, failure.cause);
        }
        if !failure.left.is_empty() {
            kind = ErrorKind::PartlyRolledBack;
            cause = format!("{cause}; and this could not be taken back: {}", failure.left.join("; "));
        }
        let error = Error::new(kind, self.describe(object), cause);
        if failure.errno == Some(EXFULL) {
            // Ports that are new to us too came before this one.
            return error.hint(format!("a bridge has {BRIDGE_PORTS} ports at most: attach it to another network"));
        }
        error
    }

    /// A plan or job of this object failed. Where nobody had asked for it, and somebody asked for something meanwhile, that
    /// is not what failed: it begins now.
    pub(super) fn failed(&mut self, object: Object, error: Error) {
        let work = self.work.entry(object).or_default();
        work.flight = None;
        if work.operation.as_ref().is_some_and(|operation| !operation.touched) {
            work.plans = 0;
            return self.advance(object);
        }
        self.given_up(object, error);
    }

    /// An object can't become what it should be. An operation restores what was before; what nobody asked for is tried
    /// again later.
    fn given_up(&mut self, object: Object, error: Error) {
        let work = self.work.entry(object).or_default();
        work.plans = 0;
        match &mut work.operation {
            Some(operation) if operation.error.is_none() => {
                operation.error = Some(error);
                self.restore(object);
                self.advance(object);
            }
            Some(operation) => {
                // Where nothing was begun, before as after, the host is as it was, whatever is wrong with it.
                if let Some(first) = &mut operation.error
                    && operation.touched
                    && first.kind != ErrorKind::PartlyRolledBack
                {
                    first.kind = ErrorKind::PartlyRolledBack;
                    first.cause = format!("{}; and restoring what was before failed: {}", first.cause, error.cause);
                }
                self.finish(object);
                self.retry_later(object);
            }
            None => {
                // What is being taken apart by somebody else is often half gone at the first look: a second one tells.
                if self.repairs.get(&object).is_some_and(|r| r.failures > 0) {
                    self.drift(object, error.to_string(), false);
                }
                self.follower_done(object);
                self.retry_later(object);
            }
        }
    }

    fn retry_later(&mut self, object: Object) {
        let repairs: &mut Repairs = self.repairs.entry(object).or_default();
        let at = self.now + backoff(repairs.failures);
        repairs.failures += 1;
        repairs.until = at;
        let work = self.work.remove(&object).unwrap_or_default();
        if work.made_bridge {
            // Its NICs follow once all is well.
            self.work.entry(object).or_default().made_bridge = true;
        }
        for (id, command, random) in work.waiting {
            self.request(id, command, random);
        }
        self.wake(at, object);
    }

    /// Puts back the intent that an operation started from, records included.
    fn restore(&mut self, object: Object) {
        let Some(operation) = self.work.get_mut(&object).and_then(|w| w.operation.as_mut()) else { return };
        match (object, &operation.goal) {
            (Object::Network(uuid), Goal::Network { previous, .. }) => {
                let previous = previous.as_deref().cloned();
                let failed = self.intent.network(uuid).cloned();
                if let Some(operation) = self.work.get_mut(&object).and_then(|w| w.operation.as_mut()) {
                    // NICs that went along come back.
                    operation.followed = false;
                    for nic in std::mem::take(&mut operation.nics) {
                        self.followers.remove(&(nic, uuid));
                    }
                    // The rules that are to go are those of the failed attempt.
                    if let Goal::Network { previous, .. } = &mut operation.goal {
                        *previous = failed.map(Box::new);
                    }
                }
                self.put_network(uuid, previous);
                self.end_transfer(object);
            }
            (Object::Nic(id), Goal::Nic { previous, .. }) => {
                // One whose owner died meanwhile does not come back: nobody would end it.
                let lives = |nic: &NicIntent| nic.owner.is_none_or(|owner| self.watched.contains(&owner));
                let previous = previous.as_deref().filter(|nic| lives(nic)).cloned();
                self.put_nic(id, previous);
                self.reserve_again(id);
            }
            _ => {}
        }
    }

    /// Nothing differs any more.
    fn settled(&mut self, object: Object) {
        self.repairs.remove(&object);
        let Some(work) = self.work.get_mut(&object) else { return };
        let (repaired, why) = (std::mem::take(&mut work.plans) > 0, work.why.take());
        let made_bridge = std::mem::take(&mut work.made_bridge);
        let made_tap = std::mem::take(&mut work.made_tap);
        let expected = std::mem::take(&mut work.expected);
        let followed = work.operation.as_mut().map(|o| std::mem::replace(&mut o.followed, true));
        match object {
            Object::Network(uuid) => {
                self.forget_settings();
                if self.intent.network(uuid).is_none() {
                    self.contests.remove(&object);
                }
                if followed == Some(false) || (followed.is_none() && made_bridge) {
                    self.follow(uuid);
                }
                if self.work.get(&object).and_then(|w| w.operation.as_ref()).is_some_and(|o| !o.nics.is_empty()) {
                    return;
                }
            }
            Object::Nic(id) => {
                if followed.is_none() && self.intent.nic(id).is_some_and(|nic| nic.is_port()) {
                    self.publish_port(id);
                } else if followed.is_none() && repaired {
                    self.publish_nic(id, None);
                }
                // Its plan saw to the bridge, unless it was not plugged in.
                for network in std::mem::take(&mut self.without_vlans) {
                    self.advance(Object::Network(network));
                }
            }
            Object::Host => self.forget_settings(),
        }
        if followed.is_none()
            && repaired
            && !expected
            && self.started
            && let Some(why) = why.filter(|_| self.is_drift(object))
        {
            self.contests.entry(object).or_default().put_right(self.now);
            match made_tap {
                true => self.drift(object, CUT_OFF.into(), false),
                false => self.drift(object, why.into(), true),
            }
        }
        self.finish(object);
        self.follower_done(object);
        if let Object::Nic(id) = object {
            if self.intent.nic(id).is_none() {
                self.contests.remove(&object);
                self.out.push(Effect::Release(id));
            }
            self.look_after_port(id);
        }
    }

    /// Ends an object's operation, and lets in what waited for it.
    pub(super) fn finish(&mut self, object: Object) {
        let Some(work) = self.work.get_mut(&object) else { return };
        if let Some(operation) = work.operation.take() {
            match object {
                Object::Network(uuid) => {
                    for nic in &operation.nics {
                        self.followers.remove(&(*nic, uuid));
                    }
                    self.network_done(uuid, operation);
                }
                Object::Nic(id) => self.nic_done(id, operation),
                Object::Host => {}
            }
        }
        if let Object::Nic(id) = object {
            self.offer_left(id);
        }
        let waiting = self.work.get_mut(&object).map(|w| std::mem::take(&mut w.waiting)).unwrap_or_default();
        if self.work.get(&object).is_some_and(super::work::Work::is_idle) {
            self.work.remove(&object);
        }
        for (id, command, random) in waiting {
            self.request(id, command, random);
        }
        // A bridge that was made may be the uplink of another network.
        self.start_those_that_waited();
    }

    /// How users know an object.
    pub(super) fn describe(&self, object: Object) -> String {
        match object {
            Object::Host => "the host".into(),
            Object::Network(uuid) => match self.intent.network(uuid).and_then(NetworkIntent::current) {
                Some(network) => format!("network '{}'", network.name),
                None => format!("network {uuid}"),
            },
            Object::Nic(id) => match self.intent.nic(id) {
                Some(nic) => format!("NIC {id} of guest '{}'", nic.guest),
                None => format!("NIC {id}"),
            },
        }
    }

    pub(super) fn drift(&mut self, object: Object, what: String, repaired: bool) {
        let at = object;
        let object = self.describe(at);
        let culprit = self.work.get_mut(&at).and_then(|w| w.culprit.take());
        self.out.push(Effect::Publish(Event::Drift { object, what, culprit, repaired }));
    }

    /// Whether a repair is worth a word: a NIC that follows its network is no drift.
    pub(super) fn is_drift(&self, object: Object) -> bool {
        match object {
            Object::Nic(id) => {
                // One that was detached, or whose owner is gone, goes as it should.
                let Some(nic) = self.intent.nic(id) else { return false };
                let network = nic.network.map(Object::Network);
                // A port's tap is others', who may put it back as well.
                !nic.is_port() && network.is_none_or(|n| self.work.get(&n).is_none_or(|w| w.operation.is_none()))
            }
            _ => true,
        }
    }
}

/// Packet rules can't be had beside another installation's.
pub(super) fn foreign_table(object: String, table: &nft::ForeignTable) -> Error {
    Error::new(ErrorKind::InUse, object, table.to_string())
        .hint("another installation of Patchcord made it: remove it, or stop that installation")
}
