//! The files by which libvirt's modules for the name service switch know guests: `BRIDGE.status` has a network's leases,
//! `BRIDGE.macs` the addresses of each guest (libvirt's `nsswitch` page). They are made of what watchers are told of.

use crate::handle::{Handle, Numbered};
use patchcord_core::engine::{Body, Command, Event, LeaseView, NicView};
use patchcord_core::plan::dnsmasq::Lease;
use patchcord_host::libvirt;
use patchcord_host::root::Root;
use patchcord_host::store::{Directory, Durability, FileMode};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::sleep;
use tracing::warn;

/// How long changes are gathered before they are written: many guests often come at once.
const GATHER: Duration = Duration::from_millis(100);

/// The files, and what was written to them.
pub(super) struct NameFiles {
    directory: Directory,
    handle: Handle,
    /// The bridge of each network that has files.
    bridges: HashMap<String, String>,
    written: HashMap<String, String>,
    /// Where libvirt's daemon notes which networks it runs.
    theirs: PathBuf,
}

impl NameFiles {
    /// Files in the directory where libvirt's modules look.
    ///
    /// # Errors
    /// When it can't be made.
    pub(super) fn open(root: &Root, handle: Handle) -> Result<Self, patchcord_host::Error> {
        let directory = Directory::open(root.libvirt_dnsmasq(), FileMode::Shared)?;
        let theirs = root.libvirt_run_networks();
        Ok(Self { directory, handle, bridges: HashMap::new(), written: HashMap::new(), theirs })
    }

    /// Keeps them true for as long as there is an engine.
    pub(super) async fn keep(mut self) {
        let mut events = self.handle.subscribe();
        let mut networks = self.all().await;
        loop {
            for network in std::mem::take(&mut networks) {
                self.refresh(&network).await;
            }
            match events.recv().await {
                Ok((_, event)) => networks.extend(concerned(&event)),
                Err(RecvError::Lagged(_)) => networks = self.all().await,
                Err(RecvError::Closed) => return,
            }
            sleep(GATHER).await;
            if gather(&mut events, &mut networks).is_err() {
                networks = self.all().await;
            }
        }
    }

    /// The names of all networks, and of those that have files.
    async fn all(&self) -> BTreeSet<String> {
        let known = self.bridges.keys().cloned();
        match self.handle.call(Command::ListNetworks).await.map(|answer| answer.body) {
            Ok(Body::Networks(all)) => all.into_iter().map(|network| network.name).chain(known).collect(),
            _ => known.collect(),
        }
    }

    async fn refresh(&mut self, network: &str) {
        let contents = self.contents(network).await;
        let bridge = contents.as_ref().map(|(bridge, ..)| bridge.clone());
        let before = self.bridges.get(network).filter(|before| Some(*before) != bridge.as_ref()).cloned();
        if let Some(before) = before {
            self.bridges.remove(network);
            if self.is_libvirts(network) {
                self.written.remove(&format!("{before}.status"));
                self.written.remove(&format!("{before}.macs"));
            } else {
                self.put(format!("{before}.status"), None);
                self.put(format!("{before}.macs"), None);
            }
        }
        if let Some((bridge, status, macs)) = contents {
            self.put(format!("{bridge}.status"), Some(status));
            self.put(format!("{bridge}.macs"), Some(macs));
            self.bridges.insert(network.to_owned(), bridge);
        }
    }

    /// Whether a network was handed back to libvirt's daemon, which goes on with the files.
    fn is_libvirts(&self, network: &str) -> bool {
        self.theirs.join(format!("{network}.xml")).exists()
    }

    /// The bridge of an active network that serves addresses, and what its files should say.
    async fn contents(&self, network: &str) -> Option<(String, String, String)> {
        let ask = async |command| self.handle.call(command).await.ok().map(|answer| answer.body);
        let Body::Network(view) = ask(Command::ShowNetwork(network.to_owned())).await? else { return None };
        let bridge = view.bridge.clone().filter(|_| view.active && view.mode.has_own_bridge())?;
        let id = view.uuid.to_string();
        let Body::Leases(leases) = ask(Command::Leases(id.clone())).await? else { return None };
        let Body::Nics(nics) = ask(Command::ListNics(Some(id))).await? else { return None };
        Some((bridge, status(&leases), macs(&nics)))
    }

    /// Writes a file, or removes it without content, unless that is what was done last.
    fn put(&mut self, name: String, content: Option<String>) {
        if self.written.get(&name) == content.as_ref() {
            return;
        }
        let done = match &content {
            Some(content) => self.directory.write(&name, content.as_bytes(), Durability::Crash),
            None => self.directory.delete(&name, Durability::Crash).map(drop),
        };
        match (done, content) {
            (Err(error), _) => warn!(%error, "guests' names can't be told to libvirt's modules"),
            (Ok(()), Some(content)) => drop(self.written.insert(name, content)),
            (Ok(()), None) => drop(self.written.remove(&name)),
        }
    }
}

/// Takes up what else has happened.
fn gather(events: &mut Receiver<Numbered>, networks: &mut BTreeSet<String>) -> Result<(), TryRecvError> {
    loop {
        match events.try_recv() {
            Ok((_, event)) => networks.extend(concerned(&event)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => return Ok(()),
            Err(lagged) => return Err(lagged),
        }
    }
}

/// The network whose files an event concerns.
fn concerned(event: &Event) -> Option<String> {
    match event {
        Event::Network { name, .. } => Some(name.clone()),
        Event::Lease { network, .. } => Some(network.clone()),
        Event::Nic { nic, .. } => nic.network.clone(),
        Event::Device { .. } | Event::Drift { .. } => None,
    }
}

fn status(leases: &[LeaseView]) -> String {
    let lease = |lease: &LeaseView| Lease {
        ip: lease.ip,
        mac: lease.mac,
        expiry: lease.expires,
        hostname: lease.hostname.clone(),
        client_id: lease.client_id.clone(),
        iaid: lease.iaid,
    };
    libvirt::status(&leases.iter().map(lease).collect::<Vec<_>>(), None)
}

fn macs(nics: &[NicView]) -> String {
    let mut guests: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for nic in nics {
        guests.entry(&nic.guest).or_default().extend(nic.mac.map(|mac| mac.to_string()));
    }
    print(guests.into_iter().map(|(guest, macs)| json!({ "domain": guest, "macs": macs })).collect())
}

fn print(entries: Vec<Value>) -> String {
    format!("{:#}\n", Value::Array(entries))
}
