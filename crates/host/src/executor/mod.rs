//! Carries out plans and reads the kernel, one thing at a time, so that every report fits the plans before it.
//!
//! One [`Kernel`] does both, and whoever holds it. That is a thread of its own, which takes requests from one bounded
//! queue; between them, when none waits, it looks at what the watcher heard: it reads the object and reports it, unless
//! it is what whoever gets the reports believes already. Plans go first, so a flood of announcements delays a plan by
//! one object's reading at most, and looking waits for a pause between plans. While that thread has nothing else to do,
//! a short plan is carried out by whoever asks for it ([`Hands::apply`]): waking a thread and being woken by it takes as
//! long as half of such a plan.

mod look;
mod pace;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use patchcord_core::engine::{JobId, PlanId};
use patchcord_core::plan::nft::foreign::Firewalls;
use patchcord_core::plan::{Change, Index, LinkRef, Observed, Op, Outcome, Plan};
use uuid::Uuid;

use self::pace::Pace;
use crate::hints::Hints;
use crate::kernel::{Applied, Kernel, KernelOptions};
use crate::watcher::Watcher;
use crate::{Error, Result};

/// How many requests may wait; whoever sends more waits, too.
const QUEUE: usize = 256;
/// The longest plan that is carried out by whoever asks for it, in steps: nobody is to wait long for the kernel there.
const SHORT: usize = 24;
/// How long to wait for the executor to be through with an object that it looks at: handing over a plan takes longer.
const PATIENCE: Duration = Duration::from_micros(200);

/// What the executor is asked for.
#[derive(Debug)]
pub enum ExecutorRequest {
    /// Carry out a plan; [`ExecutorReport::Applied`] follows.
    Apply(PlanId, Arc<Plan>),
    /// Read everything; [`ExecutorReport::Snapshot`] follows.
    Snapshot,
    /// Look for other firewalls; [`ExecutorReport::Firewalls`] follows.
    Firewalls,
    /// Read the link of that name; [`ExecutorReport::LookedFor`] follows what it is.
    LookFor(JobId, String),
    /// Find out what the kernel can do about rates; [`ExecutorReport::LookedFor`] follows what it can.
    TryShaping(JobId),
    /// Keep this queue of the tap with that index, for announcements.
    Hold(Index, OwnedFd),
    /// Close descriptors, which for a tap's last one takes long, on a thread that has the time.
    Close(Vec<OwnedFd>),
    /// The watcher heard something.
    Look,
    /// End, once what was asked for before is done.
    Stop,
}

impl ExecutorRequest {
    /// Whether a plan is to wait for it.
    fn counts(&self) -> bool {
        !matches!(self, Self::Close(_) | Self::Look | Self::Stop)
    }
}

/// Something of the host's that the watcher heard of, whether or not it is any different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A link, by its index, and its name while it is there. One that is about to be deleted counts as gone.
    Link(u32, Option<String>),
    /// PCI devices, or links that may be theirs.
    Devices,
    /// Anything at all.
    Everything,
}

/// What the executor tells, in the order in which it came about.
#[derive(Debug)]
pub enum ExecutorReport {
    /// A plan was carried out, or how far.
    Applied {
        /// Which.
        plan: PlanId,
        /// How it went.
        outcome: Outcome,
        /// Descriptors of new taps that are handed over by descriptor, one for each queue, by the NIC's id.
        taps: Vec<(Uuid, Vec<OwnedFd>)>,
    },
    /// Something is different from before.
    Observed(Change),
    /// Everything was read: because it was asked for, or because announcements were lost. Services and leases are not
    /// in the kernel, and so not in here.
    Snapshot(Box<Observed>),
    /// What a job was to look for was reported before, if it was news.
    LookedFor(JobId),
    /// Other firewalls: when asked for, and when others change the ruleset so that they are different from before.
    Firewalls(Firewalls),
    /// Something went wrong without a plan failing; a phrase for the log.
    Trouble(String),
    /// The watcher heard of something, and nothing was read yet of what it heard but of a link, its name.
    Heard(Heard),
}

/// The executor and the watcher, each a thread.
#[derive(Debug)]
pub struct Executor {
    hands: Hands,
    thread: Option<JoinHandle<()>>,
    watcher: Option<Watcher>,
}

/// The way to the executor, for as many as need one.
#[derive(Clone, Debug)]
pub struct Hands {
    requests: SyncSender<ExecutorRequest>,
    worker: Arc<Mutex<Worker>>,
    /// How much the executor was asked for and has not done, and what it does of itself that may take long.
    load: Arc<AtomicUsize>,
}

impl Hands {
    /// Has a plan carried out: by the caller, if it is short and the executor has nothing to do, else by the executor. The
    /// report comes the same way in both cases. Waits while the queue is full.
    pub fn apply(&self, id: PlanId, plan: Arc<Plan>) {
        if plan.steps.len() <= SHORT
            && self.load.load(Ordering::Acquire) == 0
            && let Some(mut worker) = self.worker.try_lock_for(PATIENCE)
        {
            return worker.apply(id, &plan);
        }
        self.ask(ExecutorRequest::Apply(id, plan));
    }

    /// Asks the executor. Waits while the queue is full.
    pub fn ask(&self, request: ExecutorRequest) {
        let counts = request.counts();
        if counts {
            self.load.fetch_add(1, Ordering::AcqRel);
        }
        // It ends with the last of its owners, or by a panic, which was reported then.
        if self.requests.send(request).is_err() && counts {
            self.load.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Executor {
    /// Starts both in the caller's network namespace. Reports go to `sink`, on whichever thread carried out or read what
    /// they are about: it should not wait long, nor ask the executor. Ask for a [snapshot](ExecutorRequest::Snapshot)
    /// first; what changes while it is read is reported.
    ///
    /// # Errors
    /// When netlink can't be opened or a thread can't be started.
    pub fn start(options: &KernelOptions, sink: impl FnMut(ExecutorReport) + Send + 'static) -> Result<Self> {
        let (requests, inbox) = sync_channel(QUEUE);
        let hints = Arc::new(Hints::default());
        let watcher = Watcher::start(Arc::clone(&hints), requests.clone())?;
        let worker = Worker::new(Kernel::open(options)?, hints, Box::new(sink));
        let load = Arc::clone(&worker.load);
        let worker = Arc::new(Mutex::new(worker));
        let theirs = Arc::clone(&worker);
        let thread = std::thread::Builder::new()
            .name("executor".to_owned())
            .spawn(move || run(&theirs, &inbox))
            .map_err(|source: io::Error| Error::Thread { name: "executor", source })?;
        Ok(Self { hands: Hands { requests, worker, load }, thread: Some(thread), watcher: Some(watcher) })
    }

    /// The way to it.
    pub fn hands(&self) -> Hands {
        self.hands.clone()
    }
}

impl Drop for Executor {
    /// What was asked for is done before this returns. Doomed links are deleted once the last of its [`Hands`] is gone.
    fn drop(&mut self) {
        self.watcher = None;
        self.hands.ask(ExecutorRequest::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The executor's thread.
fn run(worker: &Mutex<Worker>, inbox: &Receiver<ExecutorRequest>) {
    loop {
        let request = match inbox.try_recv() {
            Ok(request) => request,
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => {
                let mut guard = worker.lock();
                let rest = guard.look_at_next();
                // To whoever waits, before the next object.
                MutexGuard::unlock_fair(guard);
                let Some(rest) = rest else { continue };
                let next = if rest.is_zero() {
                    inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
                } else {
                    inbox.recv_timeout(rest)
                };
                match next {
                    Ok(request) => request,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        match request {
            ExecutorRequest::Stop => return,
            request => worker.lock().serve(request),
        }
    }
}

struct Worker {
    kernel: Kernel,
    hints: Arc<Hints>,
    sink: Box<dyn FnMut(ExecutorReport) + Send>,
    /// The last snapshot was taken while things changed: the next hint, which those changes bring, leads to another.
    stale: bool,
    firewalls: Firewalls,
    pace: Pace,
    /// See [`Hands`].
    load: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("kernel", &self.kernel).finish_non_exhaustive()
    }
}

impl Worker {
    fn new(kernel: Kernel, hints: Arc<Hints>, sink: Box<dyn FnMut(ExecutorReport) + Send>) -> Self {
        Self {
            kernel,
            hints,
            sink,
            stale: false,
            firewalls: Firewalls::default(),
            pace: Pace::default(),
            load: Arc::default(),
        }
    }

    /// Looks at one object that the watcher heard of. When there is none, or now is not the time, says how long to rest;
    /// zero when nothing waits for that.
    fn look_at_next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let pause = self.pace.until_pause(now);
        if !pause.is_zero() {
            return Some(pause);
        }
        let rest = self.pace.until_heavy(now);
        match self.hints.next(self.kernel.nft_port(), rest.is_zero()) {
            Some(hint) => {
                self.look_paced(hint);
                None
            }
            None => {
                self.pace.caught_up();
                Some(rest)
            }
        }
    }

    fn serve(&mut self, request: ExecutorRequest) {
        let counts = request.counts();
        match request {
            ExecutorRequest::Apply(id, plan) => {
                let applied = self.kernel.apply(&plan);
                // Whoever gets the report may have the next plan.
                self.done();
                return self.applied(id, &plan, applied);
            }
            ExecutorRequest::Snapshot => self.snapshot(true),
            ExecutorRequest::Firewalls => match self.kernel.foreign_firewalls() {
                Ok(found) => {
                    self.firewalls.clone_from(&found);
                    self.report(ExecutorReport::Firewalls(found));
                }
                Err(error) => self.trouble("other firewalls can't be read", &error),
            },
            ExecutorRequest::LookFor(job, name) => {
                if let Err(error) = self.look_for(&name) {
                    self.trouble("a link can't be read", &error);
                }
                self.report(ExecutorReport::LookedFor(job));
            }
            ExecutorRequest::TryShaping(job) => {
                let support = match self.kernel.observed().shaping {
                    Some(known) => known,
                    None => self.kernel.try_shaping(),
                };
                self.changed(Change::Shaping(support));
                self.report(ExecutorReport::LookedFor(job));
            }
            ExecutorRequest::Hold(link, queue) => self.kernel.hold(link, queue),
            ExecutorRequest::Close(fds) => self.kernel.close(fds),
            // Looking at what the watcher heard and ending are the thread's own.
            ExecutorRequest::Look | ExecutorRequest::Stop => {}
        }
        if counts {
            self.done();
        }
    }

    /// One thing less to do.
    fn done(&self) {
        self.load.fetch_sub(1, Ordering::AcqRel);
    }

    fn report(&mut self, report: ExecutorReport) {
        (self.sink)(report);
    }

    fn trouble(&mut self, what: &str, error: &Error) {
        let mut text = format!("{what}: {error}");
        let mut source = std::error::Error::source(error);
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        self.report(ExecutorReport::Trouble(text));
    }

    fn apply(&mut self, id: PlanId, plan: &Plan) {
        let applied = self.kernel.apply(plan);
        self.applied(id, plan, applied);
    }

    /// Reports how a plan went, and looks at what it may have changed besides.
    fn applied(&mut self, id: PlanId, plan: &Plan, applied: Applied) {
        let Applied { outcome, taps, notes } = applied;
        self.pace.plan(Instant::now());
        let failed = outcome.failed.is_some();
        let left = outcome.failed.as_ref().is_some_and(|failure| !failure.left.is_empty());
        if failed && !left && plan.steps.iter().any(|step| matches!(step.op, Op::Nft(_))) {
            // Rules that were taken away and put back have other handles, and the plan may have failed because what was
            // known of them was out of date: that is told first, so that whoever hears of the failure knows.
            match self.kernel.read_nft() {
                Ok(table) => self.changed(Change::Nft(table, None)),
                Err(error) => self.trouble("the packet rules can't be read", &error),
            }
        }
        self.report(ExecutorReport::Applied { plan: id, outcome, taps });
        for note in notes {
            self.report(ExecutorReport::Trouble(note));
        }
        if !failed {
            for step in &plan.steps {
                if let Op::SetFiltering(LinkRef::Index(bridge), true) = step.op {
                    self.look_at_ports(bridge);
                }
            }
        }
        if left {
            // What the plan was made from is no longer true.
            self.snapshot(true);
        }
    }

    /// Reads everything, and reports it when asked to, or when it is not what is believed.
    fn snapshot(&mut self, wanted: bool) {
        self.hints.clear();
        self.report(ExecutorReport::Heard(Heard::Everything));
        let believed = if wanted { None } else { Some(self.kernel.observed().clone()) };
        match self.kernel.snapshot() {
            Ok(snapshot) => {
                self.stale = !snapshot.consistent;
                if believed.is_none_or(|believed| believed != snapshot.observed) {
                    self.report(ExecutorReport::Snapshot(Box::new(snapshot.observed)));
                }
            }
            Err(error) => {
                self.stale = true;
                self.trouble("the kernel can't be read", &error);
            }
        }
    }

    /// Takes on a change and reports it.
    fn changed(&mut self, change: Change) {
        self.kernel.take(change.clone());
        self.report(ExecutorReport::Observed(change));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use patchcord_testkit::in_namespace;
    use std::path::PathBuf;
    use std::sync::mpsc::channel;

    #[test]
    fn lost_announcements_lead_to_a_snapshot_where_something_is_different() {
        in_namespace(|ns| {
            let nowhere = PathBuf::from("/nonexistent");
            let options = KernelOptions {
                instance: Uuid::nil(),
                resolv_conf: nowhere.clone(),
                root: nowhere.clone(),
                nodes: nowhere,
            };
            let (sender, reports) = channel();
            let sink = move |report| {
                let _ = sender.send(report);
            };
            let kernel = Kernel::open(&options).unwrap();
            let hints = Arc::new(Hints::default());
            let mut worker = Worker::new(kernel, hints, Box::new(sink));
            let mut next = || {
                worker.hints.add_everything("announcements were lost");
                let hint = worker.hints.next(None, true).unwrap();
                worker.look(hint).unwrap();
                reports.try_iter().filter(|report| !matches!(report, ExecutorReport::Heard(_))).collect::<Vec<_>>()
            };
            next();
            let nothing_new = next();
            assert!(matches!(&nothing_new[..], [ExecutorReport::Trouble(why)] if why.contains("lost")));
            ns.run("ip link add b0 type bridge");
            let different = next();
            let [ExecutorReport::Trouble(_), ExecutorReport::Snapshot(observed)] = &different[..] else {
                panic!("{different:?}")
            };
            assert!(observed.link_named("b0").is_some());
        });
    }
}
