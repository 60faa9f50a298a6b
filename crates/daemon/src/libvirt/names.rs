//! The files by which libvirt's modules for the name service switch know guests: `BRIDGE.status` has a network's leases,
//! `BRIDGE.macs` the addresses of each guest (libvirt's `nsswitch` page). They are made of what watchers are told of.

use crate::handle::{Handle, Numbered};
use patchcord_core::engine::{Body, Command, Event, LeaseView, NicEvent};
use patchcord_core::model::{MacAddr, Name};
use patchcord_core::plan::dnsmasq::Lease;
use patchcord_host::libvirt;
use patchcord_host::root::Root;
use patchcord_host::store::{Directory, Durability, Entry, FileMode, Limits};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

/// How long changes are gathered before they are written: many guests often come at once.
const GATHER: Duration = Duration::from_millis(100);
/// How many times as long as writing took nothing is written again: all guests of a network are written when one changes,
/// and no more than a tenth of the time is to go into that, however many they are.
const PAUSE: u32 = 9;
/// But no longer than that.
const LONGEST: Duration = Duration::from_secs(2);

/// What a file is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    /// A network's leases.
    Status,
    /// Its guests' addresses.
    Macs,
}

impl About {
    const ALL: [Self; 2] = [Self::Status, Self::Macs];

    /// The name of the file for a network with that bridge.
    fn file(self, bridge: &str) -> String {
        match self {
            Self::Status => format!("{bridge}.status"),
            Self::Macs => format!("{bridge}.macs"),
        }
    }
}

/// Files that may not be what they should be, by network.
type Due = BTreeSet<(String, About)>;

/// How the name of a network's record ends, which says of which bridge it has files.
const RECORD: &str = ".br";

/// The files, and what was written to them.
pub(super) struct NameFiles {
    directory: Arc<Directory>,
    /// Where it is noted which of the files are ours: libvirt's daemon has files of the same kind there.
    records: Directory,
    handle: Handle,
    /// The bridge of each network that has files, as recorded.
    bridges: HashMap<String, String>,
    written: HashMap<String, String>,
    /// Where libvirt's daemon notes which networks it runs, and where their definitions are.
    theirs: [PathBuf; 2],
}

impl NameFiles {
    /// Files in the directory where libvirt's modules look; those that a daemon of ours wrote before are known again.
    ///
    /// # Errors
    /// When it can't be made, or the records can't be read.
    pub(super) fn open(root: &Root, handle: Handle) -> Result<Self, patchcord_host::Error> {
        let directory = Arc::new(Directory::open(root.libvirt_dnsmasq(), FileMode::Shared)?);
        // A crash may have left half a file.
        directory.sweep()?;
        let records = Directory::open(root.names(), FileMode::Private)?;
        records.sweep()?;
        let recorded = records.read_all(RECORD, Limits::default())?.into_iter();
        let bridge = |entry: Entry| Some((entry.name, String::from_utf8(entry.contents.ok()?).ok()?));
        let bridges = recorded.filter_map(bridge).collect();
        let theirs = [root.libvirt_run_networks(), root.libvirt_networks()];
        Ok(Self { directory, records, handle, bridges, written: HashMap::new(), theirs })
    }

    /// Keeps them true for as long as there is an engine.
    pub(super) async fn keep(mut self) {
        let mut events = self.handle.subscribe();
        let mut due = self.all().await;
        loop {
            let begun = Instant::now();
            for (network, about) in std::mem::take(&mut due) {
                self.refresh(&network, about).await;
            }
            let rested = Instant::now() + (begun.elapsed() * PAUSE).min(LONGEST);
            match events.recv().await {
                Ok((_, event)) => self.add(&event, &mut due),
                Err(RecvError::Lagged(_)) => due = self.all().await,
                Err(RecvError::Closed) => return,
            }
            sleep_until(rested.max(Instant::now() + GATHER)).await;
            if self.gather(&mut events, &mut due).is_err() {
                due = self.all().await;
            }
        }
    }

    /// The files of all networks, and of those that have some.
    async fn all(&self) -> Due {
        let mut networks: BTreeSet<String> = self.bridges.keys().cloned().collect();
        if let Ok(Body::Networks(all)) = self.handle.call(Command::ListNetworks).await.map(|answer| answer.body) {
            networks.extend(all.into_iter().map(|network| network.name));
        }
        networks.into_iter().flat_map(|network| About::ALL.map(|about| (network.clone(), about))).collect()
    }

    /// Takes up what else has happened.
    fn gather(&self, events: &mut Receiver<Numbered>, due: &mut Due) -> Result<(), TryRecvError> {
        loop {
            match events.try_recv() {
                Ok((_, event)) => self.add(&event, due),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return Ok(()),
                Err(lagged) => return Err(lagged),
            }
        }
    }

    /// Takes up the files that an event concerns.
    fn add(&self, event: &Event, due: &mut Due) {
        match event {
            Event::Network { name, .. } => due.extend(About::ALL.map(|about| (name.clone(), about))),
            Event::Lease { network, .. } => drop(due.insert((network.clone(), About::Status))),
            Event::Nic { what: NicEvent::Plugged | NicEvent::Unplugged, .. } => {}
            Event::Nic { nic, what } => {
                due.extend(nic.network.clone().map(|network| (network, About::Macs)));
                // It may have come from another network.
                if let (NicEvent::Modified, Some(mac)) = (what, nic.mac) {
                    due.extend(self.that_mention(mac).map(|network| (network.clone(), About::Macs)));
                }
            }
            Event::Device { .. } | Event::Drift { .. } => {}
        }
    }

    /// The networks whose guests have that address, as far as is written.
    fn that_mention(&self, mac: MacAddr) -> impl Iterator<Item = &String> {
        let mac = mac.to_string();
        let mentions =
            move |bridge: &String| self.written.get(&About::Macs.file(bridge)).is_some_and(|t| t.contains(&mac));
        self.bridges.iter().filter(move |(_, bridge)| mentions(bridge)).map(|(network, _)| network)
    }

    async fn refresh(&mut self, network: &str, about: About) {
        let found = self.contents(network, about).await;
        let bridge = found.as_ref().map(|(bridge, _)| bridge);
        if let Some(before) = self.bridges.get(network).filter(|before| Some(*before) != bridge).cloned() {
            self.remove(network, &before).await;
        }
        if let Some((bridge, contents)) = found {
            let file = about.file(&bridge);
            // Before there is a file that nobody would know to be ours.
            if self.bridges.insert(network.to_owned(), bridge.clone()).is_none() {
                self.record(network, Some(&bridge));
            }
            self.put(file, Some(contents)).await;
        }
    }

    /// Removes a network's files, unless others go on with them.
    async fn remove(&mut self, network: &str, bridge: &str) {
        self.bridges.remove(network);
        let another_has_them = self.bridges.values().any(|other| other == bridge);
        let is_libvirts = self.is_libvirts(network, bridge);
        let mut done = true;
        for name in About::ALL.map(|about| about.file(bridge)).into_iter().filter(|_| !another_has_them) {
            if is_libvirts {
                self.written.remove(&name);
            } else {
                done &= self.put(name, None).await;
            }
        }
        // What could not be removed is tried again at the next start.
        if done {
            self.record(network, None);
        }
    }

    /// Notes, or forgets, that a network has files of that bridge.
    fn record(&self, network: &str, bridge: Option<&str>) {
        let name = format!("{network}{RECORD}");
        let done = match bridge {
            Some(bridge) => self.records.write(&name, bridge.as_bytes(), Durability::Crash),
            None => self.records.delete(&name, Durability::Crash).map(drop),
        };
        if let Err(error) = done {
            warn!(%error, "whose the files for libvirt's modules are is not noted");
        }
    }

    /// Whether libvirt's daemon goes on with a network's files: it was handed back, or another has a bridge of that name. Of
    /// files that a daemon before this one wrote it is enough that libvirt's could have gone on with them since.
    fn is_libvirts(&self, network: &str, bridge: &str) -> bool {
        let is_this_ones = About::ALL.iter().any(|about| self.written.contains_key(&about.file(bridge)));
        let [runs, defined] = &self.theirs;
        let tags = ['\'', '"'].map(|quote| format!("<bridge name={quote}{bridge}{quote}"));
        let has_bridge = |path: PathBuf| {
            let document = fs::read(path).unwrap_or_default();
            tags.iter().any(|tag| String::from_utf8_lossy(&document).contains(tag))
        };
        let is_there = |directory: &PathBuf| {
            let documents = fs::read_dir(directory).into_iter().flatten().flatten();
            directory.join(format!("{network}.xml")).exists() || documents.map(|entry| entry.path()).any(has_bridge)
        };
        is_there(runs) || (!is_this_ones && is_there(defined))
    }

    /// The bridge of an active network that serves addresses, and what its file should say.
    async fn contents(&self, network: &str, about: About) -> Option<(String, Contents)> {
        let ask = async |command| self.handle.call(command).await.ok().map(|answer| answer.body);
        let Body::Network(view) = ask(Command::ShowNetwork(network.to_owned())).await? else { return None };
        let bridge = view.bridge.clone().filter(|_| view.active && view.mode.has_own_bridge())?;
        let id = view.uuid.to_string();
        let contents = match about {
            About::Status => match ask(Command::Leases(id)).await? {
                Body::Leases(leases) => Contents::Status(leases),
                _ => return None,
            },
            About::Macs => match ask(Command::ListAddresses(id)).await? {
                Body::Addresses(addresses) => Contents::Macs(addresses),
                _ => return None,
            },
        };
        Some((bridge, contents))
    }

    /// Writes a file, unless that is what was written last, or removes it without contents; false when that failed. It is a
    /// thread of its own that does it: a large file takes its time.
    async fn put(&mut self, name: String, contents: Option<Contents>) -> bool {
        let (directory, file, before) = (Arc::clone(&self.directory), name.clone(), self.written.remove(&name));
        let put = move || {
            let text = contents.map(Contents::text);
            if text.is_some() && text == before {
                return (true, before);
            }
            let done = match &text {
                Some(text) => directory.write(&file, text.as_bytes(), Durability::Crash),
                None => directory.delete(&file, Durability::Crash).map(drop),
            };
            match done {
                Ok(()) => (true, text),
                Err(error) => {
                    warn!(%error, "guests' names can't be told to libvirt's modules");
                    (false, before)
                }
            }
        };
        let (done, written) = spawn_blocking(put).await.unwrap_or_default();
        self.written.extend(written.map(|text| (name, text)));
        done
    }
}

/// What a file should say.
enum Contents {
    Status(Vec<LeaseView>),
    Macs(Vec<(Name, MacAddr)>),
}

impl Contents {
    fn text(self) -> String {
        match self {
            Self::Status(leases) => status(&leases),
            Self::Macs(addresses) => macs(&addresses),
        }
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

/// A guest as the file has it.
#[derive(Serialize)]
struct Guest<'a> {
    domain: &'a str,
    macs: BTreeSet<String>,
}

fn macs(addresses: &[(Name, MacAddr)]) -> String {
    let mut guests: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (guest, mac) in addresses {
        guests.entry(guest.as_str()).or_default().insert(mac.to_string());
    }
    let guests: Vec<_> = guests.into_iter().map(|(domain, macs)| Guest { domain, macs }).collect();
    // Names and addresses are text, which nothing is wrong with.
    serde_json::to_string_pretty(&guests).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_written_once_with_all_its_addresses() {
        let guest = |name: &str, last| (Name::new(name).unwrap(), MacAddr([0x52, 0x54, 0, 0, 0, last]));
        let expected = r#"[
  {
    "domain": "d\"b",
    "macs": [
      "52:54:00:00:00:03"
    ]
  },
  {
    "domain": "web",
    "macs": [
      "52:54:00:00:00:01",
      "52:54:00:00:00:02"
    ]
  }
]
"#;
        assert_eq!(macs(&[guest("web", 2), guest("d\"b", 3), guest("web", 1), guest("web", 2)]), expected);
        assert_eq!(macs(&[]), "[]\n");
    }
}
