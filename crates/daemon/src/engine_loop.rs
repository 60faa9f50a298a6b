//! The loop that owns the engine: one input at a time goes in, and its effects are carried out in order.
//!
//! ```text
//! connections ──asks──►┌──────────┐──plans──► executor (thread) ──► kernel
//!                      │  engine  │◄─reports─┘        ▲ hints
//! timers, files ──────►│  (here)  │──jobs───► blocking threads, pidfds
//!                      └──────────┘◄──ends───┘
//! ```
//!
//! Asks wait in a bounded queue, whose senders wait when it is full; plans do, too. Reports and ends are as many as
//! there are plans and jobs under way, plus one for each link that changed. Who reports ports of Open vSwitch waits, too.

use crate::handle::{Ask, Numbered};
use crate::hooks::HookDirectory;
use crate::jobs::{End, Jobs, phrase};
use crate::pollable::Pollable;
use crate::records::Records;
use crate::systemd;
use patchcord_core::engine::{
    Answer, Effect, Engine, Event, Input, Job, JobId, JobOutcome, RecordKey, RequestId, Startup,
};
use patchcord_core::model::DevicePlug;
use patchcord_core::plan::{Change, Observed};
use patchcord_core::{Error, ErrorKind};
use patchcord_host::executor::{ExecutorReport, ExecutorRequest, Hands};
use patchcord_host::files::Files;
use patchcord_host::ovs::OvsReport;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{Duration, Instant, sleep_until};
use tracing::{debug, info, warn};
use uuid::Uuid;

/// The engine and what carries out its effects.
pub struct EngineLoop {
    engine: Engine,
    records: Records,
    jobs: Jobs,
    executor: Hands,
    events: broadcast::Sender<Numbered>,
    sequence: u64,
    /// What begins with telling the watchers, once an answer is on its way.
    later: VecDeque<Effect>,
    waiting: HashMap<RequestId, oneshot::Sender<Result<Answer, Error>>>,
    networks_of_jobs: HashMap<JobId, Uuid>,
    /// Descriptors of taps that are handed over by descriptor, one for each queue.
    taps: HashMap<Uuid, Vec<OwnedFd>>,
    wakes: BTreeSet<u64>,
    begun: Instant,
    next_request: u64,
    resolv_conf: PathBuf,
    hooks: HookDirectory,
}

/// What the loop listens to.
pub struct Sources {
    /// What connections ask.
    pub asks: mpsc::Receiver<Ask>,
    /// What the executor reports.
    pub reports: mpsc::UnboundedReceiver<ExecutorReport>,
    /// How jobs end.
    pub ends: mpsc::UnboundedReceiver<End>,
    /// What is seen of our ports on bridges of Open vSwitch.
    pub ports: mpsc::Receiver<OvsReport>,
    /// Lease files, hooks and the host's resolv.conf.
    pub files: AsyncFd<Pollable<Files>>,
}

/// What the loop works with.
pub struct Parts {
    /// The engine, which knows nothing yet.
    pub engine: Engine,
    /// Its records.
    pub records: Records,
    /// Its jobs.
    pub jobs: Jobs,
    /// The way to the executor.
    pub executor: Hands,
    /// The way to the watchers.
    pub events: broadcast::Sender<Numbered>,
    /// The host's resolv.conf.
    pub resolv_conf: PathBuf,
    /// Where hooks are.
    pub hooks: HookDirectory,
    /// Descriptors of taps that were there before.
    pub taps: HashMap<Uuid, Vec<OwnedFd>>,
}

impl EngineLoop {
    /// The loop, with nothing told to the engine yet.
    pub fn new(parts: Parts) -> Self {
        Self {
            engine: parts.engine,
            records: parts.records,
            jobs: parts.jobs,
            executor: parts.executor,
            events: parts.events,
            sequence: 0,
            later: VecDeque::new(),
            waiting: HashMap::new(),
            networks_of_jobs: HashMap::new(),
            taps: parts.taps,
            wakes: BTreeSet::new(),
            begun: Instant::now(),
            next_request: 0,
            resolv_conf: parts.resolv_conf,
            hooks: parts.hooks,
        }
    }

    /// Tells the engine what was found, and begins what that asks for.
    pub fn start(&mut self, startup: Startup) {
        let networks: Vec<Uuid> = startup.observed.services.keys().copied().collect();
        self.tell(Input::Start(Box::new(startup)));
        for network in networks {
            self.leases_changed(&self.jobs.lease_path(network));
        }
    }

    /// Runs until `stop` is done.
    pub async fn run(&mut self, mut sources: Sources, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            if !self.later.is_empty() {
                // Whoever was answered is told before anything else happens.
                yield_now().await;
            }
            let wake = self.wakes.first().map(|at| self.begun + Duration::from_millis(*at));
            let wake = wake.into_iter().chain(self.jobs.leases.due()).min();
            let timer = async {
                match wake {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = &mut stop => return self.catch_up(),
                Some(report) = sources.reports.recv() => self.reported(report),
                Some(report) = sources.ports.recv() => self.ports_reported(report),
                Some(end) = sources.ends.recv() => {
                    let networks = &self.networks_of_jobs;
                    if let Some(input) = self.jobs.ended(end, |id| networks.get(&id).copied()) {
                        if let Input::Finished(id, _) = &input {
                            self.networks_of_jobs.remove(id);
                        }
                        self.tell(input);
                    }
                }
                () = timer => {
                    for input in self.jobs.leases.still(self.engine.observed(), Instant::now()) {
                        self.tell(input);
                    }
                    let now = self.now();
                    self.wakes.retain(|at| *at > now);
                    self.tell(Input::Tick);
                }
                changed = changed_files(&mut sources.files) => self.files_changed(changed, &mut sources.files.get_mut().0),
                Some(ask) = sources.asks.recv() => self.asked(ask),
                () = std::future::ready(()), if !self.later.is_empty() => self.catch_up(),
            }
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn asked(&mut self, ask: Ask) {
        match ask {
            Ask::Command(command, answer) => {
                let random = match patchcord_host::ident::random::<16>() {
                    Ok(bytes) => u128::from_be_bytes(bytes),
                    Err(error) => {
                        let _ = answer.send(Err(Error::new(ErrorKind::HostFailed, "the daemon", phrase(&error))));
                        return;
                    }
                };
                self.next_request += 1;
                let id = RequestId(self.next_request);
                self.waiting.insert(id, answer);
                self.tell(Input::Request(id, *command, random));
            }
            Ask::Descriptors(nic, answer) => {
                let _ = answer.send(self.descriptors(nic));
            }
        }
    }

    /// Duplicates of a tap's descriptors.
    fn descriptors(&self, nic: Uuid) -> Result<Vec<OwnedFd>, Error> {
        let object = || format!("NIC {nic}");
        let held = self.taps.get(&nic).ok_or_else(|| {
            Error::new(ErrorKind::InvalidState, object(), "the daemon holds no descriptor of its tap")
                .hint("a NIC that was attached by name is opened by its name; one whose daemon was restarted is held by its owner alone")
        })?;
        let copies: Result<Vec<_>, _> = held.iter().map(OwnedFd::try_clone).collect();
        copies.map_err(|error| {
            Error::new(ErrorKind::HostFailed, object(), format!("its descriptor can't be copied: {error}"))
        })
    }

    fn reported(&mut self, report: ExecutorReport) {
        match report {
            ExecutorReport::Applied { plan, outcome, taps } => {
                for (nic, queues) in taps {
                    self.keep(nic, queues);
                }
                self.tell(Input::Applied(plan, outcome));
            }
            ExecutorReport::Observed(change) => self.tell(Input::Observed(change)),
            ExecutorReport::Snapshot(observed) => {
                let whole = Box::new(self.with_our_own(*observed));
                self.tell(Input::Observed(Change::Snapshot(whole)));
            }
            ExecutorReport::LookedFor(job) => self.tell(Input::Finished(job, JobOutcome::Done)),
            ExecutorReport::Firewalls(found) => self.tell(Input::Observed(Change::Firewalls(found))),
            ExecutorReport::Trouble(what) => warn!(what),
            // Those who look after devices get that, and no others.
            ExecutorReport::Heard(_) => {}
        }
    }

    /// Keeps the descriptors of a new tap, for its NIC's owner.
    fn keep(&mut self, nic: Uuid, queues: Vec<OwnedFd>) {
        if self.engine.intent().nic(nic).is_some_and(|nic| nic.confirmed) {
            // It was made anew: those in the store are of one that is gone.
            systemd::forget(nic);
            systemd::store(nic, &queues);
        }
        if let Some(old) = self.taps.insert(nic, queues) {
            self.executor.ask(ExecutorRequest::Close(old));
        }
    }

    /// Lets go of them.
    fn release(&mut self, nic: Uuid) {
        systemd::forget(nic);
        if let Some(held) = self.taps.remove(&nic) {
            // Closing the last descriptor of a tap takes the kernel long.
            self.executor.ask(ExecutorRequest::Close(held));
        }
    }

    fn ports_reported(&mut self, report: OvsReport) {
        match report {
            OvsReport::All(ports) => {
                info!(ports = ports.len(), "ports of Open vSwitch are watched");
                self.tell(Input::Observed(Change::OvsPorts(ports)));
            }
            OvsReport::Port(nic, port) => self.tell(Input::Observed(Change::OvsPort(nic, port))),
            OvsReport::Lost(error) => {
                warn!(error = phrase(&error), "what others do to ports of Open vSwitch is not noticed for now");
            }
        }
    }

    /// A snapshot of the kernel, with what is not in the kernel as it is known.
    fn with_our_own(&self, mut observed: Observed) -> Observed {
        let known = self.engine.observed();
        observed.services.clone_from(&known.services);
        observed.leases.clone_from(&known.leases);
        observed.resolvers.clone_from(&known.resolvers);
        observed.firewalls.clone_from(&known.firewalls);
        observed.zones.clone_from(&known.zones);
        observed.hooks.clone_from(&known.hooks);
        observed.ovs.clone_from(&known.ovs);
        observed
    }

    fn files_changed(&mut self, changed: BTreeSet<PathBuf>, files: &mut Files) {
        if changed.iter().any(|path| self.hooks.is_concerned(path)) {
            let hooks = self.hooks.look(files);
            self.tell(Input::Observed(Change::Hooks(hooks)));
        }
        for path in changed {
            if path == self.resolv_conf {
                match patchcord_host::resolv::name_servers(&path) {
                    Ok(servers) => self.tell(Input::Observed(Change::Resolvers(servers))),
                    Err(error) => warn!(error = phrase(&error), "the host's name servers are unknown"),
                }
            } else {
                self.leases_changed(&path);
            }
        }
    }

    fn leases_changed(&mut self, path: &Path) {
        for input in self.jobs.leases.changed(path, self.engine.observed(), Instant::now()) {
            self.tell(input);
        }
    }

    /// Tells the engine one thing, and carries out what it wants done. Watchers and the log have a little time when
    /// somebody is answered.
    fn tell(&mut self, input: Input) {
        self.catch_up();
        let effects = self.engine.handle(self.now(), input).into();
        self.later = self.carry_out(effects, true);
    }

    /// Carries out what was put off.
    fn catch_up(&mut self) {
        let later = std::mem::take(&mut self.later);
        self.carry_out(later, false);
    }

    /// Carries out effects in order; where `answer_first`, only up to the first event behind an answer, and gives the
    /// rest. A record that can't be written ends the list.
    fn carry_out(&mut self, mut effects: VecDeque<Effect>, answer_first: bool) -> VecDeque<Effect> {
        let mut answered = false;
        while let Some(effect) = effects.pop_front() {
            if answered && answer_first && matches!(effect, Effect::Publish(_)) {
                effects.push_front(effect);
                break;
            }
            match effect {
                Effect::Persist(record) => {
                    if let Err(error) = self.records.put(&record) {
                        effects = self.not_persisted(record.key, &error, effects);
                    }
                }
                Effect::Confirm(nic) => {
                    if let Err(error) = self.records.confirm(nic) {
                        effects = self.not_persisted(RecordKey::Nic(nic), &error, effects);
                    }
                }
                Effect::Apply(id, plan) => {
                    for step in &plan.steps {
                        debug!(plan = id.0, op = %step.op, why = step.why, "step");
                    }
                    // Waits when the executor is far behind; it never waits for us.
                    self.executor.apply(id, plan);
                }
                Effect::Start(id, Job::TryShaping) => {
                    self.executor.ask(ExecutorRequest::TryShaping(id));
                }
                Effect::Start(id, Job::LookFor(link)) => {
                    self.executor.ask(ExecutorRequest::LookFor(id, link));
                }
                Effect::Start(id, job) => {
                    if let Job::StartService(network, _) | Job::ReloadService(network, ..) = &job {
                        self.networks_of_jobs.insert(id, *network);
                    }
                    self.jobs.start(id, job);
                }
                Effect::Reply(id, reply) => {
                    if let Some(answer) = self.waiting.remove(&id) {
                        // Who hung up doesn't want to know.
                        let _ = answer.send(reply);
                    }
                    answered = true;
                }
                Effect::Release(nic) => self.release(nic),
                Effect::Publish(event) => self.publish(event),
                Effect::Wake(at) => {
                    self.wakes.insert(at);
                }
            }
        }
        effects
    }

    /// Tells the engine of a record that can't be written, and of what is not done therefore. Gives what is to be done
    /// instead.
    fn not_persisted(
        &mut self,
        key: RecordKey,
        error: &patchcord_host::Error,
        dropped: VecDeque<Effect>,
    ) -> VecDeque<Effect> {
        let cause = phrase(error);
        warn!(cause, "a record could not be written");
        let input = Input::NotPersisted { key, cause, dropped: dropped.into() };
        self.engine.handle(self.now(), input).into()
    }

    fn publish(&mut self, event: Event) {
        use patchcord_core::engine::NicEvent;
        match &event {
            Event::Nic { nic, what } => {
                info!(nic = %nic.id, guest = nic.guest, network = nic.network, event = ?what, "NIC");
                // It was confirmed: from now on its tap outlives us.
                if let (NicEvent::Attached, Some(held)) = (what, self.taps.get(&nic.id)) {
                    systemd::store(nic.id, held);
                }
                // The descriptors of a macvtap that went with its device are dead, and nobody's to fetch.
                if nic.plug == Some(DevicePlug::Macvtap) && nic.ifindex.is_none() {
                    self.release(nic.id);
                }
            }
            Event::Network { name, what, .. } => info!(network = name, event = ?what, "network"),
            Event::Lease { network, lease, what } => {
                info!(network, ip = %lease.ip, mac = ?lease.mac, event = ?what, "lease");
            }
            Event::Device { device, what, .. } => info!(device, event = ?what, "device"),
            Event::Drift { object, what, culprit, repaired: true } => info!(object, what, culprit, "put right"),
            Event::Drift { object, what, culprit, .. } => warn!(object, what, culprit, "not as it should be"),
        }
        self.sequence += 1;
        // Nobody listening is fine.
        let _ = self.events.send((self.sequence, Arc::new(event)));
    }
}

async fn changed_files(files: &mut AsyncFd<Pollable<Files>>) -> BTreeSet<PathBuf> {
    let Ok(mut ready) = files.readable_mut().await else { return std::future::pending().await };
    let changed = ready.get_inner_mut().0.read();
    ready.clear_ready();
    for error in &changed.errors {
        warn!(error = phrase(error), "watched files can't be followed");
    }
    changed.paths
}
