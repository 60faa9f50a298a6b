//! The daemon put together: claims its root and namespace, finds out what is there, and runs the loop.

use crate::associations::Associator;
use crate::config::{Config as Settings, Shaping};
use crate::engine_loop::{EngineLoop, Parts, Sources};
use crate::handle::Handle;
use crate::hooks::{HookCaller, HookDirectory};
use crate::jobs::{FIREWALL_CMD, Jobs, phrase};
use crate::pollable::{Pollable, readable};
use crate::records::Records;
use crate::systemd;
use patchcord_core::engine::{Config, Engine, Startup};
use patchcord_core::intent::Owner;
use patchcord_core::plan::{LinkKind, MarkKind, Observed, OvsKnown, OvsState, dnsmasq};
use patchcord_core::xml;
use patchcord_host::dnsmasq::Dnsmasq;
use patchcord_host::executor::{Executor, ExecutorReport, ExecutorRequest, Heard};
use patchcord_host::files::Files;
use patchcord_host::function::FunctionSetter;
use patchcord_host::kernel::KernelOptions;
use patchcord_host::libvirt::Libvirt;
use patchcord_host::lock::{NamespaceClaim, NamespaceLock, RootLock};
use patchcord_host::ovs::{Ovs, Watcher};
use patchcord_host::process::{Process, ProcessId};
use patchcord_host::reclaim::tap_descriptors;
use patchcord_host::root::Root;
use patchcord_host::spawner::{AllowList, Spawner};
use patchcord_host::store::{Directory, FileMode};
use patchcord_host::{Error as HostError, ident};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Duration, Instant, sleep};
use tracing::{info, warn};
use uuid::Uuid;

/// The argument that makes this program the spawner.
pub const SPAWNER: &str = "--run-as-spawner";

/// Requests of connections that may wait.
const ASKS: usize = 1024;
/// Events that a slow watcher may be behind before it misses some.
const EVENTS: usize = 4096;
/// What was heard of devices that who looks after them may be behind before it looks at all of them.
const HEARD: usize = 1024;

/// Reports about ports of Open vSwitch that may wait.
const PORT_REPORTS: usize = 256;

/// How long Open vSwitch has for one port.
const OVS_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the daemon can't start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon, or something about files, processes or netlink.
    #[error(transparent)]
    Host(#[from] patchcord_host::Error),
    /// The first look at the kernel failed.
    #[error("the kernel can't be read: {0}")]
    Kernel(String),
}

/// A daemon that holds its root and namespace, and knows what is there; it serves nobody yet.
pub struct Service {
    sources: Sources,
    engine_loop: EngineLoop,
    startup: Startup,
    handle: Handle,
    heard: broadcast::Sender<Heard>,
    _executor: Executor,
    _root: RootLock,
    _namespace: Option<NamespaceLock>,
}

/// Starts the process that starts programs for the daemon. It comes first: children inherit what the daemon is
/// confined to later.
///
/// # Errors
/// When it can't be started.
pub fn start_spawner(executable: &Path, dnsmasq: &Path, root: &Root) -> Result<Spawner, patchcord_host::Error> {
    let programs = vec![dnsmasq.to_owned(), FIREWALL_CMD.into()];
    // lldpad's pid file is where everybody's are.
    let allow = AllowList { programs, directories: vec![root.hooks()], files: vec![root.lldpad_pid()] };
    Spawner::start(executable, &[OsStr::new(SPAWNER)], &allow)
}

/// Makes the directories below the root that are missing, so that the daemon can be confined to them.
///
/// # Errors
/// When one can't be made; the error names it.
pub fn make_directories(root: &Root) -> Result<(), patchcord_host::Error> {
    Records::open(root)?;
    for path in
        [root.lib(), root.dnsmasq(), root.run_dnsmasq(), root.nodes(), root.libvirt_run(), root.libvirt_dnsmasq()]
    {
        Directory::open(path, FileMode::Shared)?;
    }
    Ok(())
}

/// How long another daemon may take to end. One that was killed is still there for a moment.
const LAST_MOMENTS: Duration = Duration::from_secs(1);

/// Claims what another daemon may be about to let go.
async fn patiently<T>(claim: impl Fn() -> Result<T, HostError>) -> Result<T, HostError> {
    let patience = Instant::now() + LAST_MOMENTS;
    loop {
        match claim() {
            Err(HostError::RootHeld { .. } | HostError::NamespaceHeld { .. }) if Instant::now() < patience => {
                sleep(Duration::from_millis(20)).await;
            }
            result => return result,
        }
    }
}

impl Service {
    /// Claims the root and the namespace, reads records and kernel. It must be called within a runtime's local set.
    ///
    /// # Errors
    /// With what is in the way: another daemon, a directory that can't be made, netlink that can't be opened.
    pub async fn open(
        root: &Root,
        config: &Settings,
        spawner: Spawner,
        mut reclaimed: Reclaimed,
    ) -> Result<Self, OpenError> {
        let lock = patiently(|| RootLock::take(&root.lock())).await?;
        let namespace = match patiently(NamespaceLock::claim).await? {
            NamespaceClaim::Held(lock) => Some(lock),
            NamespaceClaim::Squatted { uid, pid } => {
                warn!(?uid, ?pid, "somebody else holds this namespace's socket, which says nothing and is passed over");
                None
            }
        };
        let instance = ident::instance(&root.instance())?;
        let records = Records::open(root)?;
        let mut startup = records.load()?;

        let (reports_in, mut reports) = mpsc::unbounded_channel();
        let resolv_conf = resolv_conf(root);
        let options = KernelOptions {
            instance,
            resolv_conf: resolv_conf.clone(),
            root: root.base().to_owned(),
            nodes: root.nodes(),
        };
        let (heard, _) = broadcast::channel(HEARD);
        let heard_in = heard.clone();
        let executor = Executor::start(&options, move |report| {
            // There may be nobody who looks after devices, and the loop has ended when nobody listens to the others.
            match report {
                ExecutorReport::Heard(what) => drop(heard_in.send(what)),
                report => drop(reports_in.send(report)),
            }
        })?;
        let hands = executor.hands();
        hands.ask(ExecutorRequest::Snapshot);
        hands.ask(ExecutorRequest::Firewalls);

        let (ends_in, ends) = mpsc::unbounded_channel();
        let services = Dnsmasq::new(spawner.clone(), config.dnsmasq.clone(), root.dnsmasq(), root.run_dnsmasq());
        warn_of_closed_directories(&root.dnsmasq());
        let caller = HookCaller::new(spawner.clone(), Duration::from_secs(config.hooks.timeout.into()));
        let socket = config.openvswitch.socket.clone().unwrap_or_else(|| root.open_vswitch());
        let ovs = Ovs::new(&socket, instance, OVS_TIMEOUT);
        let (seen, ports) = mpsc::channel(PORT_REPORTS);
        // The loop has ended when nobody listens.
        let watcher = Watcher::new(ovs.clone(), move |report| drop(seen.blocking_send(report)))?;
        let known_ports = ports_of(&ovs, &socket);
        let patience = Duration::from_secs(config.devices.association_timeout.into());
        let associator = Associator::new(root, spawner.clone(), instance, patience);
        let functions = FunctionSetter::new(root.base());
        let others = (functions, Libvirt::new(root.clone()));
        let mut jobs = Jobs::new(services, spawner, caller, (ovs, watcher), associator, others, ends_in);
        if !known_ports.is_empty() {
            jobs.watch_ports();
        }
        let running = jobs.running()?;
        let mut files = watched(root, &resolv_conf)?;
        let mut hooks = HookDirectory::new(root.hooks());

        startup.observed = *snapshot(&mut reports).await?;
        if let Err(error) = patchcord_host::resolv::name_servers(&resolv_conf) {
            warn!(error = phrase(&error), "the host's name servers are unknown, and guests get none");
        }
        startup.observed.hooks = hooks.look(&mut files.get_mut().0);
        startup.observed.ovs = known_ports;
        startup.observed.services = running;
        startup.owners = living_owners(&startup);
        // A macvtap's descriptors outlive it, and are good for nothing then.
        reclaimed.retain(|nic, _| startup.observed.link_marked(MarkKind::Tap, *nic).is_some());
        startup.held = held(&startup, &reclaimed);
        startup.random = u128::from_be_bytes(ident::random()?);
        for (nic, queues) in &reclaimed {
            let tap = startup.observed.link_marked(MarkKind::Tap, *nic).filter(|link| link.kind == LinkKind::Tap);
            if let (Some(link), Some(Ok(queue))) = (tap, queues.first().map(OwnedFd::try_clone)) {
                hands.ask(ExecutorRequest::Hold(link.index, queue));
            }
        }

        let engine = Engine::new(Config {
            instance,
            stamp: xml::Stamp { boot_id: ident::boot_id()?.to_string(), netns: ident::network_namespace()? },
            needs_carrier: config.devices.carrier,
            binds_drivers: config.devices.bind_drivers,
            plug: config.devices.plug,
            shapes_ports: config.libvirt.shaping == Shaping::Patchcord,
            uplinks: config.bridges.clone(),
            nodes: root.nodes().to_string_lossy().into_owned(),
            dnsmasq: dnsmasq::Settings {
                dir: root.dnsmasq().to_string_lossy().into_owned(),
                run_dir: root.run_dnsmasq().to_string_lossy().into_owned(),
                user: Some(patchcord_host::dnsmasq::service_user().to_owned()),
                group: None,
                instance,
                upstream: Vec::new(),
            },
        });
        let (asks_in, asks) = mpsc::channel(ASKS);
        let (events, _) = broadcast::channel(EVENTS);
        let handle = Handle::new(asks_in, events.clone());
        let parts = Parts { engine, records, jobs, executor: hands, events, resolv_conf, hooks, taps: reclaimed };
        Ok(Self {
            engine_loop: EngineLoop::new(parts),
            sources: Sources { asks, reports, ends, ports, files },
            startup,
            handle,
            heard,
            _executor: executor,
            _root: lock,
            _namespace: namespace,
        })
    }

    /// The way to the engine.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// What is heard from now on of the host's devices.
    pub fn heard(&self) -> broadcast::Receiver<Heard> {
        self.heard.subscribe()
    }

    /// Puts right what is not as it should be, and serves until `stop` is done. What runs goes on running.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let (networks, nics) = (self.startup.networks.len(), self.startup.nics.len());
        self.engine_loop.start(self.startup);
        info!(networks, nics, "started");
        self.engine_loop.run(self.sources, stop).await;
        info!("stopping; networks and NICs stay as they are");
    }
}

/// Our ports on bridges of Open vSwitch, by their NICs.
fn ports_of(ovs: &Ovs, socket: &Path) -> BTreeMap<Uuid, OvsKnown> {
    if !socket.exists() {
        return BTreeMap::new();
    }
    let ports = ovs.ports().unwrap_or_else(|error| {
        warn!(error = phrase(&error), "the ports of Open vSwitch are unknown: none that is left over is removed");
        Vec::new()
    });
    let known = |port: OvsState| Some((port.settings.nic()?, OvsKnown { name: port.name.clone(), port: Some(port) }));
    ports.into_iter().filter_map(known).collect()
}

/// dnsmasq reads its files again under a user of its own. A directory on the way that this user can't enter costs the
/// network's own names, and dnsmasq says so nowhere but in its log.
fn warn_of_closed_directories(path: &Path) {
    let open = |path: &Path| std::fs::metadata(path).is_ok_and(|about| about.permissions().mode() & 0o001 != 0);
    for closed in path.ancestors().filter(|path| !open(path)) {
        warn!(
            directory = %closed.display(),
            user = patchcord_host::dnsmasq::service_user(),
            "dnsmasq's user can't enter this directory: <dns> hosts and changed reservations are not served until it can (chmod o+x)"
        );
    }
}

/// The host's resolv.conf, or the one below the root where there is one.
fn resolv_conf(root: &Root) -> PathBuf {
    let own = root.base().join("etc/resolv.conf");
    if own.exists() { own } else { PathBuf::from("/etc/resolv.conf") }
}

fn watched(root: &Root, resolv_conf: &Path) -> Result<AsyncFd<Pollable<Files>>, patchcord_host::Error> {
    let mut files = Files::new()?;
    let leases = Directory::open(root.dnsmasq(), FileMode::Shared)?;
    files.watch_directory(leases.path())?;
    if let Err(error) = files.watch_file(resolv_conf) {
        warn!(error = phrase(&error), "changes of the host's name servers will not be noticed");
    }
    readable(files).map_err(|(_, source)| patchcord_host::Error::Watch { source })
}

/// The first full reading of the kernel, and of other firewalls where they can be read.
async fn snapshot(reports: &mut mpsc::UnboundedReceiver<ExecutorReport>) -> Result<Box<Observed>, OpenError> {
    let mut observed: Option<Box<Observed>> = None;
    while let Some(report) = reports.recv().await {
        match (report, &mut observed) {
            (ExecutorReport::Snapshot(read), _) => observed = Some(read),
            (ExecutorReport::Firewalls(found), Some(observed)) => {
                observed.firewalls = found;
                return Ok(std::mem::take(observed));
            }
            (ExecutorReport::Trouble(what), Some(observed)) => {
                warn!(what);
                return Ok(std::mem::take(observed));
            }
            (ExecutorReport::Trouble(what), None) => return Err(OpenError::Kernel(what)),
            // Nothing was asked for that would lead to others.
            _ => {}
        }
    }
    Err(OpenError::Kernel("the executor has ended".into()))
}

/// Descriptors of taps, got back for NICs that were attached before the daemon started.
pub type Reclaimed = HashMap<Uuid, Vec<OwnedFd>>;

/// Gets back the descriptors of taps that NICs' owners hold, and those that systemd kept for us. It must be called
/// before the daemon is confined.
///
/// # Errors
/// When the records can't be read.
pub fn reclaim(root: &Root) -> Result<Reclaimed, patchcord_host::Error> {
    let mut reclaimed = systemd::stored();
    for claim in claims(&Records::open(root)?.load()?) {
        let (Some(tap), Some(owner)) = (&claim.descriptor_of, claim.owner) else { continue };
        if reclaimed.contains_key(&claim.id) {
            continue;
        }
        if let Ok(Some(process)) = Process::open_same(ProcessId { pid: owner.pid, start_time: owner.start_time }) {
            let held = tap_descriptors(&process, tap);
            if !held.is_empty() {
                reclaimed.insert(claim.id, held);
            }
        }
    }
    Ok(reclaimed)
}

/// What the records of NICs say of whom they belong to.
fn claims(startup: &Startup) -> impl Iterator<Item = xml::NicClaim> {
    startup.nics.values().chain(startup.pending_nics.values()).filter_map(|text| xml::nic_claim(text.as_ref().ok()?))
}

/// The owners in NICs' records that still live, or may.
fn living_owners(startup: &Startup) -> Vec<Owner> {
    let owners: BTreeSet<Owner> = claims(startup).filter_map(|claim| claim.owner).collect();
    let lives = |owner: &Owner| {
        let id = ProcessId { pid: owner.pid, start_time: owner.start_time };
        !matches!(Process::open_same(id), Ok(None))
    };
    owners.into_iter().filter(lives).collect()
}

/// NICs whose tap somebody holds: one by descriptor is there only as long. A macvtap is there anyhow, and so somebody must
/// have been seen with its descriptors.
fn held(startup: &Startup, reclaimed: &Reclaimed) -> Vec<Uuid> {
    let taps = startup.observed.links().filter_map(|link| Some((link, link.mark?)));
    let taps = taps.filter(|(_, mark)| mark.kind == MarkKind::Tap);
    let held = taps.filter(|(link, mark)| link.kind == LinkKind::Tap || reclaimed.contains_key(&mark.id));
    held.map(|(_, mark)| mark.id).collect()
}
