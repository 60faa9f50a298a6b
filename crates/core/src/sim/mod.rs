//! A simulated host: what the kernel, the files and the processes would do, without any of them.
//!
//! It carries out effects one at a time, can refuse a step, can lose the daemon between two effects, and can be
//! meddled with as by a third party. [`Host::check`] says whether what is there is what was asked for.

#[cfg(test)]
mod adopt;
#[cfg(test)]
mod associations;
#[cfg(test)]
mod autostart;
#[cfg(test)]
mod bandwidth;
mod check;
#[cfg(test)]
mod contests;
#[cfg(test)]
mod damaged;
mod database;
#[cfg(test)]
mod devices;
#[cfg(test)]
mod foreign_table;
#[cfg(test)]
mod full_disk;
pub mod functions;
#[cfg(test)]
mod happening;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod hook_tests;
mod hooks;
#[cfg(test)]
mod hostdev;
#[cfg(test)]
mod interfaces;
mod kernel;
#[cfg(test)]
mod macvtaps;
#[cfg(test)]
mod port_rates;
#[cfg(test)]
mod ports;
#[cfg(test)]
mod reclaim;
#[cfg(test)]
mod reshape;
mod rules;
mod switch;
#[cfg(test)]
mod switches;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod uplinks;
#[cfg(test)]
mod vlans;
#[cfg(test)]
mod waiting;

use crate::engine::{
    Config, Effect, Engine, Event, Input, Job, JobOutcome, Now, Record, RecordKey, RequestId, Startup,
};
use crate::intent::Owner;
use crate::plan::rates::ShapingSupport;
use crate::plan::{Change, Handover, Index, LinkKind, MarkKind, Observed, Op, Plan, Service, Sysctl};
use crate::{Error, Result, engine::Answer, engine::Command};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use uuid::Uuid;

/// The host and the daemon on it.
pub struct Host {
    config: Config,
    /// The daemon.
    pub engine: Engine,
    /// What is really there.
    pub kernel: Observed,
    /// Files.
    pub records: BTreeMap<RecordKey, String>,
    /// Answers that clients got.
    pub replies: BTreeMap<RequestId, Result<Answer>>,
    /// Requests to the daemon as it runs that were not answered yet.
    pub unanswered: BTreeSet<RequestId>,
    /// The last plan that was carried out.
    pub last_plan: Arc<Plan>,
    /// Events that watchers got.
    pub events: Vec<Event>,
    /// Processes that live.
    pub processes: BTreeSet<Owner>,
    /// NICs whose tap's descriptor a guest has.
    pub held: BTreeSet<Uuid>,
    /// NICs of whose taps the daemon has descriptors.
    pub kept: BTreeSet<Uuid>,
    /// What firewalld was told: network, bridge and zone.
    pub zone_of: BTreeSet<(Uuid, String, String)>,
    /// The hook that may be installed: what it does, and what it was told.
    pub hook: hooks::Hook,
    /// The switch that gives NICs' ports profiles.
    pub switch: switch::Switch,
    /// What the functions of its devices are set to.
    pub sysfs: functions::Sysfs,
    /// Who waits for which process to end.
    watching: BTreeMap<Owner, crate::engine::JobId>,
    /// Open vSwitch.
    pub ovs: database::Database,
    /// How many steps may still be carried out before one fails; none fails when `None`.
    pub refuse_after: Option<usize>,
    /// Whether bridges can't keep VLANs apart here.
    pub no_vlans: bool,
    /// Whether its kernel drops what comes in above a rate.
    pub police: bool,
    /// Which files can't be written.
    pub full: Full,
    /// Effects yet to be carried out, in order.
    pub pending: VecDeque<Effect>,
    /// What is on its way to the engine.
    inputs: VecDeque<Input>,
    wakes: BTreeSet<Now>,
    now: Now,
    next_index: u32,
    next_request: u64,
    next_pid: u32,
}

/// The file systems on which there is no room.
#[derive(Clone, Copy, Debug, Default)]
pub struct Full {
    /// That of definitions.
    pub definitions: bool,
    /// That of run state.
    pub run_state: bool,
    /// That of dnsmasq's files.
    pub services: bool,
}

impl Host {
    /// A host that has just booted, with the daemon started.
    pub fn new(config: Config) -> Self {
        let mut kernel = Observed::default();
        for sysctl in [Sysctl::Ipv4Forward, Sysctl::Ipv6Forward] {
            kernel.sysctls.insert(sysctl, "0".into());
        }
        let mut host = Self {
            engine: Engine::new(config.clone()),
            config,
            kernel,
            records: BTreeMap::new(),
            replies: BTreeMap::new(),
            unanswered: BTreeSet::new(),
            last_plan: Arc::default(),
            events: Vec::new(),
            processes: BTreeSet::new(),
            held: BTreeSet::new(),
            kept: BTreeSet::new(),
            zone_of: BTreeSet::new(),
            hook: hooks::Hook::default(),
            switch: switch::Switch::default(),
            sysfs: functions::Sysfs::default(),
            watching: BTreeMap::new(),
            ovs: database::Database::default(),
            refuse_after: None,
            no_vlans: false,
            police: false,
            full: Full::default(),
            pending: VecDeque::new(),
            inputs: VecDeque::new(),
            wakes: BTreeSet::new(),
            now: 0,
            next_index: 1,
            next_request: 0,
            next_pid: 1000,
        };
        host.start_daemon();
        host
    }

    /// Starts the daemon on what is there, as after a crash.
    pub fn start_daemon(&mut self) {
        self.engine = Engine::new(self.config.clone());
        self.pending.clear();
        self.inputs.clear();
        self.unanswered.clear();
        self.kept.clear();
        self.ovs.late.clear();
        self.wakes.clear();
        self.watching.clear();
        // A new daemon tries again.
        self.kernel.shaping = None;
        self.switch.abandon();
        let startup = self.startup();
        self.inputs.push_back(Input::Start(Box::new(startup)));
    }

    /// The daemon dies. Taps that only it held go with it; what was doomed goes too, by whoever reaps it next.
    pub fn crash(&mut self) {
        let gone: Vec<Index> = self
            .kernel
            .links()
            .filter(|l| {
                // A macvtap outlives its descriptors.
                let Some(mark) = l.mark.filter(|m| m.kind == MarkKind::Tap && l.kind == LinkKind::Tap) else {
                    return false;
                };
                let by_descriptor = self.descriptor_taps().contains(&mark.id);
                by_descriptor && !self.held.contains(&mark.id)
            })
            .map(|l| l.index)
            .collect();
        for index in gone {
            self.kernel.set_link(index, None);
        }
        self.reap();
        self.start_daemon();
    }

    /// The host reboots: links, rules and processes are gone, files stay.
    pub fn reboot(&mut self, boot_id: &str) {
        self.config.stamp.boot_id = boot_id.into();
        self.kernel = Self::new(self.config.clone()).kernel;
        self.processes.clear();
        self.held.clear();
        self.switch = switch::Switch::default();
        self.sysfs = functions::Sysfs::default();
        self.start_daemon();
    }

    fn descriptor_taps(&self) -> BTreeSet<Uuid> {
        let nics = self.engine.intent().nics().filter(|n| n.handover == Handover::Descriptor);
        let known = nics.map(|n| n.id);
        // A tap of a NIC that the engine forgot just now is as good as gone.
        let all = self.kernel.links().filter_map(|l| l.mark).filter(|m| m.kind == MarkKind::Tap).map(|m| m.id);
        known.chain(all.filter(|id| self.engine.intent().nic(*id).is_none())).collect()
    }

    fn startup(&self) -> Startup {
        let mut startup = Startup { observed: self.kernel.clone(), ..Startup::default() };
        for (key, content) in &self.records {
            match key {
                RecordKey::Definition(name) => {
                    startup.definitions.insert(name.clone(), Ok(content.clone()));
                }
                RecordKey::Autostart(name) => startup.autostart.push(name.clone()),
                RecordKey::Network(name) => {
                    startup.networks.insert(name.clone(), Ok(content.clone()));
                }
                RecordKey::Nic(id) => {
                    startup.nics.insert(id.to_string(), Ok(content.clone()));
                }
                RecordKey::PendingNic(id) => {
                    startup.pending_nics.insert(id.to_string(), Ok(content.clone()));
                }
                RecordKey::Association(id) => {
                    startup.associations.insert(id.to_string(), Ok(content.clone()));
                }
                RecordKey::Function(nic, address) => {
                    startup.functions.insert(format!("{nic}@{address}"), Ok(content.clone()));
                }
                RecordKey::Host => startup.host = Some(Ok(content.clone())),
            }
        }
        startup.owners = self.processes.iter().copied().collect();
        startup.held = self.held.iter().copied().collect();
        startup
    }

    /// Sends a request, and gives its number.
    pub fn request(&mut self, command: Command) -> RequestId {
        self.next_request += 1;
        let id = RequestId(self.next_request);
        // Any bits will do, as long as they differ.
        let random = u128::from(self.next_request).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        self.inputs.push_back(Input::Request(id, command, random));
        self.unanswered.insert(id);
        id
    }

    /// The last request comes before all reports of what is under way, as from a client that is quicker than the kernel.
    pub fn overtake(&mut self) {
        let Some(at) = self.inputs.iter().rposition(|input| matches!(input, Input::Request(..))) else { return };
        let first = usize::from(matches!(self.inputs.front(), Some(Input::Start(_))));
        let request = self.inputs.remove(at);
        request.into_iter().for_each(|request| self.inputs.insert(first, request));
    }

    /// Jobs take longer than plans and whatever else is under way.
    pub fn jobs_take_longer(&mut self) {
        let is_job = |input: &Input| matches!(input, Input::Finished(..));
        let (jobs, others): (Vec<_>, Vec<_>) = self.inputs.drain(..).partition(is_job);
        self.inputs.extend(others.into_iter().chain(jobs));
    }

    /// Sends a request and lets everything happen; gives the answer.
    pub fn ask(&mut self, command: Command) -> Result<Answer> {
        let id = self.request(command);
        self.settle();
        let silence = Error::new(crate::ErrorKind::Internal, "the engine", "it never answered");
        self.replies.remove(&id).unwrap_or(Err(silence))
    }

    /// Something is told to the engine.
    pub fn tell(&mut self, input: Input) {
        self.inputs.push_back(input);
    }

    /// A process ends, and whoever waits for that is told.
    pub fn kill(&mut self, owner: Owner) {
        self.processes.remove(&owner);
        if let Some(job) = self.watching.remove(&owner) {
            self.inputs.push_back(Input::Finished(job, JobOutcome::Done));
        }
    }

    /// Carries out one effect, or hands one input to the engine. False when there is nothing to do.
    pub fn step(&mut self) -> bool {
        if let Some(effect) = self.pending.pop_front() {
            self.perform(effect);
            return true;
        }
        let Some(mut input) = self.inputs.pop_front() else { return false };
        if let Input::Observed(Change::Snapshot(seen)) = &mut input {
            // Ports of Open vSwitch are known from the jobs that make them.
            seen.ovs.clone_from(&self.engine.observed().ovs);
        }
        self.now += 1;
        let first = self.engine.observed().hooks.is_empty() && matches!(input, Input::Observed(Change::Hooks(_)));
        let starts = matches!(input, Input::Start(_));
        self.pending.extend(self.engine.handle(self.now, input));
        if first || starts {
            let pending = self.records.keys().filter_map(|key| match key {
                RecordKey::PendingNic(id) if starts => Some(*id),
                _ => None,
            });
            self.hook.count_as_told(self.engine.intent(), pending);
        }
        true
    }

    /// Lets everything happen that is under way, clocks excepted.
    pub fn settle(&mut self) {
        for _ in 0..1_000_000 {
            if !self.step() {
                return;
            }
        }
        // why: a host that never comes to rest is what the tests look for
        panic!("the engine does not come to rest");
    }

    /// Lets the clock run until nothing is waited for.
    pub fn settle_with_clock(&mut self) {
        self.settle();
        for _ in 0..64 {
            let Some(at) = self.wakes.pop_first() else { return };
            self.wake(at);
        }
    }

    /// Lets the clock run until then.
    pub fn wait_until(&mut self, time: Now) {
        while let Some(at) = self.wakes.first().copied().filter(|at| *at <= time) {
            self.wakes.remove(&at);
            self.wake(at);
        }
        self.now = self.now.max(time);
    }

    /// When the clock has something to tell next.
    pub fn next_wake(&self) -> Option<Now> {
        self.wakes.first().copied()
    }

    fn wake(&mut self, at: Now) {
        self.now = self.now.max(at);
        self.inputs.push_back(Input::Tick);
        self.settle();
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Persist(Record { key, .. }) if self.is_full(&key) => self.not_persisted(key),
            Effect::Persist(Record { key, content }) => {
                match content {
                    Some(content) => self.records.insert(key, content),
                    None => self.records.remove(&key),
                };
            }
            Effect::Confirm(id) if self.full.run_state => self.not_persisted(RecordKey::Nic(id)),
            Effect::Confirm(id) => {
                if let Some(content) = self.records.remove(&RecordKey::PendingNic(id)) {
                    self.records.insert(RecordKey::Nic(id), content);
                }
            }
            Effect::Apply(id, plan) => {
                let outcome = self.apply(&plan);
                self.last_plan = Arc::clone(&plan);
                let failed = outcome.failed.is_some();
                self.kept.extend(plan.steps.iter().filter(|_| !failed).filter_map(|step| match &step.op {
                    Op::MakeTap(tap) => (tap.handover == Handover::Descriptor).then_some(tap.mark.id),
                    _ => None,
                }));
                if failed && plan.steps.iter().any(|step| matches!(step.op, Op::Nft(_))) {
                    // The real host reads the rules again then: what was known of them may have been out of date.
                    self.inputs.push_back(Input::Observed(Change::Nft(self.kernel.nft.clone(), None)));
                }
                self.inputs.push_back(Input::Applied(id, outcome));
            }
            Effect::Start(id, job) => self.run(id, job),
            Effect::Reply(id, reply) => {
                self.unanswered.remove(&id);
                self.replies.insert(id, reply);
            }
            Effect::Release(nic) => {
                self.kept.remove(&nic);
            }
            Effect::Publish(event) => self.events.push(event),
            Effect::Wake(at) => {
                self.wakes.insert(at);
            }
        }
    }

    /// Whether that record can't be written.
    fn is_full(&self, key: &RecordKey) -> bool {
        match key {
            RecordKey::Definition(_) | RecordKey::Autostart(_) => self.full.definitions,
            RecordKey::Network(_)
            | RecordKey::Nic(_)
            | RecordKey::PendingNic(_)
            | RecordKey::Association(_)
            | RecordKey::Function(..)
            | RecordKey::Host => self.full.run_state,
        }
    }

    fn not_persisted(&mut self, key: RecordKey) {
        let dropped = self.pending.drain(..).collect();
        let cause = "no space left on device".into();
        self.pending.extend(self.engine.handle(self.now, Input::NotPersisted { key, cause, dropped }));
    }

    fn run(&mut self, id: crate::engine::JobId, job: Job) {
        let outcome = match job {
            // What runs goes on.
            Job::StartService(..) | Job::ReloadService(..) if self.full.services => {
                JobOutcome::Failed("no space left on device".into())
            }
            Job::StartService(network, config) => {
                self.next_pid += 1;
                let service = Service { pid: self.next_pid, files: config.files };
                self.kernel.services.insert(network, service.clone());
                JobOutcome::Running(service)
            }
            Job::ReloadService(network, pid, config) => {
                let service = Service { pid, files: config.files };
                self.kernel.services.insert(network, service.clone());
                JobOutcome::Running(service)
            }
            Job::StopService(network) => {
                self.kernel.services.remove(&network);
                JobOutcome::Done
            }
            Job::ForgetService(_) | Job::EndLibvirtService { .. } | Job::RemoveLibvirtRules { .. } => JobOutcome::Done,
            Job::SetOvsPort(set) => self.set_port(&set.0, &set.1),
            Job::RemoveOvsPort(nic, _) => self.remove_port(nic),
            Job::LookFor(name) => {
                if let Some(link) = self.kernel.link_named(&name) {
                    let change = Change::Link(link.index, Some(link.clone()));
                    self.inputs.push_back(Input::Observed(change));
                }
                JobOutcome::Done
            }
            Job::TryShaping => {
                let support = ShapingSupport { police: self.police };
                self.kernel.shaping = Some(support);
                self.inputs.push_back(Input::Observed(Change::Shaping(support)));
                JobOutcome::Done
            }
            Job::SetZone { network, bridge, zone, present, .. } => {
                self.zone_of.retain(|(n, b, _)| (*n, b) != (network, &bridge));
                if present {
                    self.zone_of.insert((network, bridge, zone));
                }
                JobOutcome::Done
            }
            // Ends when the process does; see `kill`.
            Job::WatchOwner(owner) if self.processes.contains(&owner) => {
                self.watching.insert(owner, id);
                return;
            }
            Job::WatchOwner(_) => JobOutcome::Done,
            Job::Associate(association) => match self.switch.associate(id, *association) {
                Some(outcome) => outcome,
                None => return,
            },
            Job::Disassociate(association) => self.switch.disassociate(&association),
            Job::ReadFunction(address) => self.sysfs.read(address),
            Job::SetFunction(set) => {
                self.see_that_it_is_written_down(&set.0);
                self.sysfs.set(&set.0, &set.1)
            }
            Job::RestoreFunction(address, before) => match self.sysfs.restore(id, address, *before) {
                Some(outcome) => outcome,
                None => return,
            },
            Job::Hook(call) => match self.hook.call(id, *call) {
                Some(outcome) => outcome,
                None => return,
            },
        };
        self.inputs.push_back(Input::Finished(id, outcome));
        self.inputs.append(&mut self.ovs.late);
    }
}
