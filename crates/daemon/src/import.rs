//! Networks of libvirt's own daemon: taken over as they run, and handed back.
//!
//! libvirt's daemon is kept away meanwhile. Each network is one request to the engine, which has its bridge, dnsmasq and
//! packet rules change hands; its ports are claimed back as by its guests' driver; and only then is libvirt's run state
//! removed, so that a take-over that was cut short goes on when it is asked for again. Definitions stay where they are.

use crate::handle::Handle;
use crate::jobs::phrase;
use patchcord_api::ImportedNetwork;
use patchcord_api::methods::Imported;
use patchcord_core::engine::{Adoption, Body, Command, NetworkView};
use patchcord_core::import::{self, Candidate};
use patchcord_core::model::Name;
use patchcord_core::{Error, ErrorKind};
use patchcord_host::libvirt::{DriverLock, Libvirt};
use patchcord_host::root::Root;
use std::path::PathBuf;
use tokio::sync::Mutex;
use tracing::warn;
use uuid::Uuid;

/// What keeps libvirt's daemon from running, for people who run it.
const STOP_IT: &str = "stop it and what would start it again: 'systemctl stop virtnetworkd.service virtnetworkd.socket \
                       virtnetworkd-ro.socket virtnetworkd-admin.socket', or where one libvirtd does everything, the \
                       same of libvirtd; networks and guests go on meanwhile";

/// Takes networks over from libvirt's daemon, and hands them back: one client's request at a time, since the lock that
/// keeps libvirt's daemon away is the process's.
#[derive(Debug)]
pub struct Importer {
    libvirt: Libvirt,
    turn: Mutex<()>,
}

impl Importer {
    /// With libvirt's files below the root directory `base`.
    pub fn new(base: impl Into<PathBuf>) -> Self {
        Self { libvirt: Libvirt::new(Root::new(base)), turn: Mutex::new(()) }
    }

    /// Takes over what libvirt's daemon has, or says what would be.
    ///
    /// # Errors
    /// When libvirt's daemon runs, or its files can't be read. What is the matter with one network stands with it.
    pub async fn import(&self, handle: &Handle, dry_run: bool) -> Result<Imported, Error> {
        let _turn = self.turn.lock().await;
        let (lock, warnings) = self.keep_away(dry_run).await?;
        let found = self.blocking(|libvirt| libvirt.read()).await?;
        let mut networks = Vec::new();
        for candidate in import::survey(&found) {
            networks.push(self.import_one(handle, candidate, dry_run).await);
        }
        drop(lock);
        Ok(Imported { networks, warnings })
    }

    /// Hands all networks to libvirt's daemon, or says which could be.
    ///
    /// # Errors
    /// As [`Importer::import`].
    pub async fn hand_back(&self, handle: &Handle, dry_run: bool) -> Result<Imported, Error> {
        let _turn = self.turn.lock().await;
        let (lock, warnings) = self.keep_away(dry_run).await?;
        let Body::Networks(all) = handle.call(Command::ListNetworks).await?.body else { return Err(unexpected()) };
        let mut networks = Vec::new();
        for view in all {
            let mut row = of_view(&view);
            match self.hand_back_one(handle, &view, &mut row, dry_run).await {
                Ok(()) => row.done = true,
                Err(error) => row.cause = Some(told(&error)),
            }
            networks.push(row);
        }
        drop(lock);
        Ok(Imported { networks, warnings })
    }

    /// Keeps libvirt's daemon away. Who only wants to know what would be done is told that it runs.
    async fn keep_away(&self, dry_run: bool) -> Result<(Option<DriverLock>, Vec<String>), Error> {
        match self.blocking(|libvirt| libvirt.lock()).await? {
            Some(lock) => Ok((Some(lock), Vec::new())),
            None if dry_run => Ok((None, vec![format!("libvirt's daemon serves these networks: first {STOP_IT}")])),
            None => {
                let cause = "it serves networks, and two daemons for the same networks would hold two truths";
                Err(Error::new(ErrorKind::InUse, "libvirt's daemon", cause).hint(STOP_IT))
            }
        }
    }

    async fn import_one(&self, handle: &Handle, candidate: Candidate, dry_run: bool) -> ImportedNetwork {
        let mut row = ImportedNetwork {
            name: candidate.name.clone(),
            uuid: None,
            done: false,
            cause: None,
            active: false,
            autostart: false,
            bridge: None,
            ports: candidate.ports.iter().filter(|port| port.is_ok()).count(),
            warnings: Vec::new(),
        };
        match self.try_import(handle, candidate, &mut row, dry_run).await {
            Ok(()) => row.done = true,
            Err(error) => row.cause = Some(told(&error)),
        }
        row
    }

    async fn try_import(
        &self,
        handle: &Handle,
        candidate: Candidate,
        row: &mut ImportedNetwork,
        dry_run: bool,
    ) -> Result<(), Error> {
        let adoption = Adoption { effect: !dry_run, ..candidate.adoption? };
        let network = adoption.current().ok_or_else(unexpected)?;
        let (name, uuid) = (network.name.clone(), network.uuid.ok_or_else(unexpected)?);
        let bridge = network.bridge.name.as_ref().map(ToString::to_string);
        let active = adoption.active.is_some();
        (row.uuid, row.bridge) = (Some(uuid.to_string()), bridge.clone());
        (row.active, row.autostart) = (active, adoption.autostart);
        let ours = match handle.call(Command::ShowNetwork(uuid.to_string())).await.map(|answer| answer.body) {
            Ok(Body::Network(view)) => Some(view),
            _ => None,
        };
        match ours {
            // Its definition, ports and libvirt's run state are what is left to do where it was cut short.
            Some(view) if !active || (view.active && view.bridge == bridge) => {
                if let (Some(definition), false, false) = (adoption.definition, view.persistent, dry_run) {
                    handle.call(Command::Define(Box::new(definition))).await?;
                    handle.call(Command::Autostart(uuid.to_string(), adoption.autostart)).await?;
                }
            }
            Some(_) => {
                let cause = "it is Patchcord's already, and runs as libvirt's beside that";
                return Err(Error::new(ErrorKind::InvalidState, "the network", cause)
                    .hint("start libvirt's daemon, 'virsh net-destroy' it there, and stop the daemon again"));
            }
            None => {
                if let (false, false, Some(bridge)) = (active, dry_run, bridge) {
                    self.take_leases(uuid, bridge).await?;
                }
                row.warnings.extend(handle.call(Command::Adopt(Box::new(adoption))).await?.warnings);
            }
        }
        for port in candidate.ports {
            match port {
                Ok(port) if !dry_run => self.import_port(handle, &name, port, row).await,
                Ok(_) => {}
                Err(error) => row.warnings.push(told(&error)),
            }
        }
        if !dry_run {
            let name = row.name.clone();
            self.blocking(move |libvirt| libvirt.forget(&name)).await?;
        }
        Ok(())
    }

    /// A network that does not run gives the addresses again that it gave.
    async fn take_leases(&self, network: Uuid, bridge: String) -> Result<(), Error> {
        self.blocking(
            move |libvirt| {
                if libvirt.has_leases(network) { Ok(()) } else { libvirt.take_leases(network, &bridge) }
            },
        )
        .await
    }

    async fn import_port(
        &self,
        handle: &Handle,
        network: &Name,
        port: patchcord_core::model::NetworkPort,
        row: &mut ImportedNetwork,
    ) {
        let taken = match import::attach(network, port) {
            Ok(attach) => handle.call(Command::Attach(Box::new(attach))).await.map(drop),
            Err(error) => Err(error),
        };
        match taken {
            Err(error) if error.kind != ErrorKind::PortExists => {
                row.ports = row.ports.saturating_sub(1);
                row.warnings.push(format!("a guest's port was not taken over: {}", told(&error)));
            }
            _ => {}
        }
    }

    async fn hand_back_one(
        &self,
        handle: &Handle,
        view: &NetworkView,
        row: &mut ImportedNetwork,
        dry_run: bool,
    ) -> Result<(), Error> {
        let network = view.uuid.to_string();
        handle.call(Command::HandBack { network: network.clone(), effect: false }).await?;
        let Body::Nics(nics) = handle.call(Command::ListNics(Some(network.clone()))).await?.body else {
            return Err(unexpected());
        };
        row.ports = nics.len();
        if dry_run {
            return Ok(());
        }
        let xml = async |inactive| document(handle, Command::NetworkXml { network: network.clone(), inactive }).await;
        let definition = if view.persistent { Some(xml(true).await?) } else { None };
        let active = if view.active { Some(xml(false).await?) } else { None };
        let mut ports = Vec::new();
        for nic in &nics {
            ports.push(document(handle, Command::PortXml { id: nic.id, for_driver: false }).await?);
        }
        let back = import::hand_back(definition.as_deref(), active.as_deref(), &ports)?;
        // Before the network goes, so that nothing is lost where this is cut short, and that those who keep files for
        // libvirt's modules know whose they are then; libvirt's daemon, which would go by it, is kept away.
        let (name, uuid, autostart) = (view.name.clone(), view.uuid, view.autostart);
        let bridge = view.bridge.clone().filter(|_| view.mode.has_own_bridge());
        let written = self.blocking(move |libvirt| {
            if let Some(definition) = &back.definition {
                libvirt.write_definition(&name, definition, autostart)?;
            }
            libvirt.write_active(&name, &back)?;
            bridge.map_or(Ok(()), |bridge| libvirt.give_leases(uuid, &bridge))
        });
        let handed_back = match written.await {
            Ok(()) => handle.call(Command::HandBack { network, effect: true }).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = handed_back {
            // It is ours still.
            let name = view.name.clone();
            if let Err(more) = self.blocking(move |libvirt| libvirt.forget(&name)).await {
                warn!(network = view.name, error = %more, "libvirt's daemon would think that it runs this network");
            }
            return Err(error);
        }
        Ok(())
    }

    /// Work on libvirt's files, which waits for disks.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Libvirt) -> Result<T, patchcord_host::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let libvirt = self.libvirt.clone();
        let done = tokio::task::spawn_blocking(move || work(&libvirt)).await.map_err(|_| unexpected())?;
        done.map_err(|error| {
            let failed = Error::new(ErrorKind::HostFailed, "libvirt's files", phrase(&error));
            // Where it is confined it may use what was there when it started.
            failed.hint("if libvirt was installed after the daemon had started, restart the daemon")
        })
    }
}

fn of_view(view: &NetworkView) -> ImportedNetwork {
    ImportedNetwork {
        name: view.name.clone(),
        uuid: Some(view.uuid.to_string()),
        done: false,
        cause: None,
        active: view.active,
        autostart: view.autostart,
        bridge: view.bridge.clone(),
        ports: 0,
        warnings: Vec::new(),
    }
}

async fn document(handle: &Handle, command: Command) -> Result<String, Error> {
    match handle.call(command).await?.body {
        Body::Xml(text) => Ok(text),
        _ => Err(unexpected()),
    }
}

/// An error beside the name of what it is about.
fn told(error: &Error) -> String {
    let mut text = error.cause.clone();
    if let Some(hint) = &error.hint {
        text = format!("{text}; {hint}");
    }
    text
}

fn unexpected() -> Error {
    Error::new(ErrorKind::Internal, "the daemon", "the answer is not what was asked for")
}
