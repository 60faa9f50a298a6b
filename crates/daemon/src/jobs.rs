//! Slow work: dnsmasq's starts and ends, ports of Open vSwitch, associations, virtual functions and hooks on threads of their own, and
//! waiting for processes to end.

use crate::associations::{Associator, Demand};
use crate::hooks::HookCaller;
use crate::leases::LeaseFiles;
use crate::pollable::readable;
use patchcord_core::engine::{Input, Job, JobId, JobOutcome};
use patchcord_core::intent::Owner;
use patchcord_core::plan::dnsmasq::Config;
use patchcord_core::plan::{Change, Service};
use patchcord_host::dnsmasq::Dnsmasq;
use patchcord_host::function::FunctionSetter;
use patchcord_host::libvirt::Libvirt;
use patchcord_host::ovs::{Ovs, Watcher};
use patchcord_host::process::{Process, ProcessId};
use patchcord_host::spawner::{self, Request, Spawner};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use tokio::sync::mpsc;
use tracing::{debug, warn};
use uuid::Uuid;

/// How often a process is looked at that can't be waited for.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// Carries out jobs; their ends come out of the channel.
#[derive(Debug)]
pub struct Jobs {
    dnsmasq: Dnsmasq,
    spawner: Spawner,
    hooks: HookCaller,
    ovs: Ovs,
    ports: Watcher,
    associator: Associator,
    functions: FunctionSetter,
    libvirt: Libvirt,
    ends: mpsc::UnboundedSender<End>,
    /// Which process serves each network now: the end of another one means nothing.
    serving: HashMap<Uuid, u32>,
    /// Where leases are written by those that run.
    pub leases: LeaseFiles,
}

/// Something that a job, or a process that a job started, came to.
#[derive(Debug)]
pub enum End {
    /// A job ended.
    Job(JobId, JobOutcome),
    /// A dnsmasq of ours ended by itself, or because it was told to.
    Service(Uuid, u32),
}

impl Jobs {
    /// Jobs whose ends go to `ends`.
    pub fn new(
        dnsmasq: Dnsmasq,
        spawner: Spawner,
        hooks: HookCaller,
        (ovs, ports): (Ovs, Watcher),
        associator: Associator,
        (functions, libvirt): (FunctionSetter, Libvirt),
        ends: mpsc::UnboundedSender<End>,
    ) -> Self {
        let (serving, leases) = (HashMap::new(), LeaseFiles::default());
        Self { dnsmasq, spawner, hooks, ovs, ports, associator, functions, libvirt, ends, serving, leases }
    }

    /// What runs already, for the engine's start; what is left of others is removed.
    ///
    /// # Errors
    /// When a process can't be looked at.
    pub fn running(&mut self) -> Result<BTreeMap<Uuid, Service>, patchcord_host::Error> {
        let mut services = BTreeMap::new();
        for running in self.dnsmasq.running()? {
            let pid = running.process.id().pid;
            self.watch_service(running.network, running.process.id().pid, wait(running.process));
            services.insert(running.network, Service { pid, files: running.files });
        }
        if let Err(error) = self.dnsmasq.sweep(|network| services.contains_key(&network)) {
            warn!(error = phrase(&error), "files of a dnsmasq that has ended can't be removed");
        }
        Ok(services)
    }

    /// Begins a job. It must be called from within the runtime's local set.
    pub fn start(&mut self, id: JobId, job: Job) {
        let (dnsmasq, ends) = (self.dnsmasq.clone(), self.ends.clone());
        match job {
            Job::StartService(network, config) => {
                self.leases.add(dnsmasq.lease_path(network), network);
                // The one that ran before is ended.
                let known = self.serving.remove(&network);
                spawn(ends, id, move || {
                    let process = dnsmasq.start(network, known, &config).map_err(|e| phrase(&e))?;
                    Ok(running(&process, *config))
                });
            }
            Job::ReloadService(network, pid, config) => spawn(ends, id, move || {
                let process =
                    dnsmasq.find_known(network, Some(pid)).map_err(|e| phrase(&e))?.filter(|p| p.id().pid == pid);
                let process = process.ok_or("it has ended by itself")?;
                dnsmasq.reload(network, &process, &config).map_err(|e| phrase(&e))?;
                Ok(running(&process, *config))
            }),
            Job::StopService(network) => {
                let known = self.serving.remove(&network);
                spawn(ends, id, move || {
                    if let Some(process) = dnsmasq.find_known(network, known).map_err(|e| phrase(&e))? {
                        dnsmasq.stop(network, &process).map_err(|e| phrase(&e))?;
                    }
                    if let Err(error) = dnsmasq.clear(network) {
                        warn!(%network, error = phrase(&error), "its dnsmasq has ended, and the files can't be removed");
                    }
                    Ok(JobOutcome::Done)
                });
            }
            Job::ForgetService(network) => {
                self.leases.remove(&dnsmasq.lease_path(network));
                // Here and now, since a network of that UUID may be started next.
                if let Err(error) = dnsmasq.forget(network) {
                    warn!(%network, error = phrase(&error), "its leases can't be removed");
                }
                let _ = ends.send(End::Job(id, JobOutcome::Done));
            }
            Job::EndLibvirtService { network, name, bridge } => {
                // The leases are written before our dnsmasq is there.
                self.leases.add(self.dnsmasq.lease_path(network), network);
                let (libvirt, spawner) = (self.libvirt.clone(), self.spawner.clone());
                spawn(ends, id, move || {
                    libvirt.take_service(&spawner, network, &name, &bridge).map_err(|e| phrase(&e))?;
                    Ok(JobOutcome::Done)
                });
            }
            Job::RemoveLibvirtRules { signs, .. } => spawn(ends, id, move || {
                patchcord_host::libvirt::remove_rules(&signs).map_err(|e| phrase(&e))?;
                Ok(JobOutcome::Done)
            }),
            Job::SetZone { bridge, zone, present, .. } => {
                let spawner = self.spawner.clone();
                spawn(ends, id, move || set_zone(&spawner, &bridge, &zone, present).map(|()| JobOutcome::Done));
            }
            Job::LookFor(_) | Job::TryShaping => {
                // The executor's, which knows what was reported before.
                let _ = ends.send(End::Job(id, JobOutcome::Done));
            }
            Job::Hook(call) => self.hooks.call(*call, move |outcome| {
                let _ = ends.send(End::Job(id, outcome));
            }),
            Job::SetOvsPort(set) => {
                self.watch_ports();
                let ovs = self.ovs.clone();
                spawn(ends, id, move || {
                    let (bridge, port) = &*set;
                    let changed = ovs.set_port(bridge, port).map_err(|e| phrase(&e))?;
                    Ok(if changed { JobOutcome::Done } else { JobOutcome::Unchanged })
                });
            }
            Job::RemoveOvsPort(_, name) => {
                let ovs = self.ovs.clone();
                spawn(ends, id, move || {
                    ovs.remove_port(&name).map_err(|e| phrase(&e))?;
                    Ok(JobOutcome::Done)
                });
            }
            Job::Associate(of) => self.associator.start(Demand::Associate, *of, move |outcome| {
                let _ = ends.send(End::Job(id, outcome));
            }),
            Job::Disassociate(of) => self.associator.start(Demand::Disassociate, *of, move |outcome| {
                let _ = ends.send(End::Job(id, outcome));
            }),
            Job::ReadFunction(address) => {
                let functions = self.functions.clone();
                spawn(ends, id, move || {
                    let before = functions.read(address).map_err(|e| phrase(&e))?;
                    Ok(JobOutcome::Function(Box::new(before)))
                });
            }
            Job::SetFunction(set) => {
                let functions = self.functions.clone();
                spawn(ends, id, move || {
                    functions.set(&set.0, &set.1).map_err(|e| phrase(&e))?;
                    Ok(JobOutcome::Done)
                });
            }
            Job::RestoreFunction(address, before) => {
                let functions = self.functions.clone();
                spawn(ends, id, move || {
                    functions.restore(address, &before).map_err(|e| phrase(&e))?;
                    Ok(JobOutcome::Done)
                });
            }
            Job::WatchOwner(owner) => {
                tokio::task::spawn_local(async move {
                    owner_gone(owner).await;
                    let _ = ends.send(End::Job(id, JobOutcome::Done));
                });
            }
        }
    }

    /// What the engine is to be told of an end.
    pub fn ended(&mut self, end: End, network_of: impl Fn(JobId) -> Option<Uuid>) -> Option<Input> {
        match end {
            End::Job(id, outcome) => {
                if let (JobOutcome::Running(service), Some(network)) = (&outcome, network_of(id)) {
                    self.serve(network, service.pid);
                }
                Some(Input::Finished(id, outcome))
            }
            End::Service(network, pid) => (self.serving.get(&network) == Some(&pid)).then(|| {
                self.serving.remove(&network);
                warn!(%network, pid, "dnsmasq ended");
                Input::Observed(Change::Service(network, None))
            }),
        }
    }

    /// There are ports of ours on bridges of Open vSwitch, or will be: what others do to them is noticed from now on.
    pub fn watch_ports(&mut self) {
        if let Err(error) = self.ports.watch() {
            warn!(error = phrase(&error), "what others do to ports of Open vSwitch is not noticed");
        }
    }

    /// Where a network's leases are.
    pub fn lease_path(&self, network: Uuid) -> PathBuf {
        self.dnsmasq.lease_path(network)
    }

    /// A dnsmasq was started: wait for its end, unless that is done already.
    fn serve(&mut self, network: Uuid, pid: u32) {
        if self.serving.get(&network) == Some(&pid) {
            return;
        }
        self.watch_service(network, pid, end_of(move || Process::open(pid)));
    }

    fn watch_service(&mut self, network: Uuid, pid: u32, end: impl Future<Output = ()> + 'static) {
        let ends = self.ends.clone();
        self.serving.insert(network, pid);
        self.leases.add(self.dnsmasq.lease_path(network), network);
        tokio::task::spawn_local(async move {
            end.await;
            let _ = ends.send(End::Service(network, pid));
        });
    }
}

fn running(process: &Process, config: Config) -> JobOutcome {
    JobOutcome::Running(Service { pid: process.id().pid, files: config.files })
}

/// Runs blocking work and sends its outcome.
fn spawn(
    ends: mpsc::UnboundedSender<End>,
    id: JobId,
    work: impl FnOnce() -> Result<JobOutcome, String> + Send + 'static,
) {
    tokio::task::spawn_blocking(move || {
        let outcome = work().unwrap_or_else(JobOutcome::Failed);
        debug!(?id, failed = matches!(outcome, JobOutcome::Failed(_)), "job ended");
        let _ = ends.send(End::Job(id, outcome));
    });
}

/// firewalld's own command, which speaks to it over D-Bus.
pub const FIREWALL_CMD: &str = "/usr/bin/firewall-cmd";

/// Puts a bridge into a firewalld zone, or takes it out, until firewalld is restarted.
fn set_zone(spawner: &Spawner, bridge: &str, zone: &str, present: bool) -> Result<(), String> {
    let what = if present { "change" } else { "remove" };
    let request = Request::new(FIREWALL_CMD).args([format!("--zone={zone}"), format!("--{what}-interface={bridge}")]);
    let outcome = spawner.run(&request).map_err(|error| phrase(&error))?;
    match outcome.end {
        spawner::End::Exit(0) => Ok(()),
        _ => {
            let said = [outcome.stderr, outcome.stdout].concat();
            Err(String::from_utf8_lossy(&said).trim().to_owned())
        }
    }
}

/// An error with its causes, on one line.
pub fn phrase(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

async fn owner_gone(owner: Owner) {
    end_of(|| Process::open_same(ProcessId { pid: owner.pid, start_time: owner.start_time })).await;
}

/// Waits until a process has ended. That it can't be looked at (no descriptor is free, say) is no end.
async fn end_of(open: impl Fn() -> Result<Option<Process>, patchcord_host::Error>) {
    loop {
        match open() {
            Ok(Some(process)) => return wait(process).await,
            Ok(None) => return,
            Err(error) => warn!(error = phrase(&error), "a process can't be looked at: once more in a second"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// A pidfd becomes readable when its process has ended.
async fn wait(process: Process) {
    match readable(process) {
        Ok(fd) => {
            let _ = fd.readable().await;
        }
        Err((process, error)) => {
            warn!(%error, "a process can't be waited for: it is looked at every second instead");
            while process.alive().unwrap_or(true) {
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::io::ErrorKind;
    use std::pin::pin;
    use std::process::Command;
    use std::task::Poll;

    #[tokio::test]
    async fn that_a_process_cannot_be_looked_at_is_not_its_end() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let (pid, looks) = (child.id(), Cell::new(0));
        let mut end = pin!(end_of(|| {
            looks.set(looks.get() + 1);
            if looks.get() > 1 {
                return Process::open(pid);
            }
            Err(patchcord_host::Error::Process { pid, op: "watch", source: ErrorKind::Other.into() })
        }));
        assert!(poll_fn(|cx| Poll::Ready(end.as_mut().poll(cx).is_pending())).await);
        child.kill().unwrap();
        end.await;
        assert_eq!(looks.get(), 2);
        child.wait().unwrap();
    }
}
