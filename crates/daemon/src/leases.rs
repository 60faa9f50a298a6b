//! Lease files. dnsmasq writes them in place, emptied first, so that a reader may find a part of one.
//!
//! What is in a file is true at once; what is not there any more counts as gone when the file has stood still for a
//! moment.

use patchcord_core::engine::Input;
use patchcord_core::plan::dnsmasq::{Lease, parse_leases};
use patchcord_core::plan::{Change, Observed};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use tokio::time::{Duration, Instant};
use tracing::warn;
use uuid::Uuid;

/// Longest lease file that is read, in bytes: about 300,000 leases.
const LONGEST: u64 = 32 << 20;

/// How long a file stands still before what it has lost is gone: many times what dnsmasq takes to write one.
const STILL: Duration = Duration::from_millis(250);

/// The lease files of the networks that are served.
#[derive(Debug, Default)]
pub struct LeaseFiles {
    networks: HashMap<PathBuf, Uuid>,
    /// Files that have lost something, and when to read them again.
    losing: BTreeMap<PathBuf, Instant>,
}

impl LeaseFiles {
    /// The file is that of the network.
    pub fn add(&mut self, path: PathBuf, network: Uuid) {
        self.networks.insert(path, network);
    }

    /// The files, if that is the directory where they all are.
    pub fn in_directory(&self, directory: &Path) -> Vec<PathBuf> {
        match self.networks.keys().next().and_then(|path| path.parent()) {
            Some(theirs) if theirs == directory => self.networks.keys().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// The file is of no interest any more.
    pub fn remove(&mut self, path: &Path) {
        self.networks.remove(path);
        self.losing.remove(path);
    }

    /// What a file says that changed, if it is a lease file of ours; `known` is what it said before.
    pub fn changed(&mut self, path: &Path, known: &Observed, now: Instant) -> Option<Input> {
        let (network, mut leases) = self.read(path)?;
        let there: BTreeSet<_> = leases.iter().map(|lease| lease.ip).collect();
        let before = known.leases.get(&network).into_iter().flatten();
        let lost: Vec<Lease> = before.filter(|lease| !there.contains(&lease.ip)).cloned().collect();
        if lost.is_empty() {
            self.losing.remove(path);
        } else {
            self.losing.insert(path.to_owned(), now + STILL);
            leases.extend(lost);
        }
        Some(Input::Observed(Change::Leases(network, leases)))
    }

    /// When a file is to be read again.
    pub fn due(&self) -> Option<Instant> {
        self.losing.values().min().copied()
    }

    /// What those files say that are to be read again by now.
    pub fn still(&mut self, now: Instant) -> Vec<Input> {
        let due: Vec<PathBuf> =
            self.losing.iter().filter(|(_, at)| **at <= now).map(|(path, _)| path.clone()).collect();
        self.losing.retain(|_, at| *at > now);
        let read = due.iter().filter_map(|path| self.read(path));
        read.map(|(network, leases)| Input::Observed(Change::Leases(network, leases))).collect()
    }

    fn read(&self, path: &Path) -> Option<(Uuid, Vec<Lease>)> {
        let network = *self.networks.get(path)?;
        if std::fs::metadata(path).is_ok_and(|about| about.len() > LONGEST) {
            warn!(path = %path.display(), "the lease file is too long to be read");
            return None;
        }
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                warn!(path = %path.display(), %error, "the lease file can't be read: its leases are those that were there");
                return None;
            }
        };
        Some((network, parse_leases(&String::from_utf8_lossy(&text))))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ONE: &str = "1700000000 52:54:00:00:00:01 10.5.0.10 one *\n";
    const TWO: &str = "1700000000 52:54:00:00:00:02 10.5.0.11 two *\n";

    fn addresses(input: Option<&Input>) -> Vec<String> {
        match input {
            Some(Input::Observed(Change::Leases(network, leases))) if *network == Uuid::max() => {
                leases.iter().map(|lease| lease.ip.to_string()).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lab.leases");
        std::fs::create_dir(&path).unwrap();
        let mut files = LeaseFiles::default();
        files.add(path.clone(), Uuid::max());
        let mut known = Observed::default();
        known.leases.insert(Uuid::max(), parse_leases(ONE));
        let now = Instant::now();
        assert!(files.changed(&path, &known, now).is_none() && files.due().is_none());
        assert_eq!(files.in_directory(directory.path()), std::slice::from_ref(&path));
        assert!(files.in_directory(&path).is_empty());
        // One that is gone says that its leases are, once it has stayed away.
        std::fs::remove_dir(&path).unwrap();
        assert_eq!(addresses(files.changed(&path, &known, now).as_ref()), ["10.5.0.10"]);
        assert!(files.due().is_some());
    }

    #[test]
    fn what_is_lost_is_gone_when_the_file_stands_still() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path();
        let write = |text: &str| std::fs::write(path, text).unwrap();
        let mut files = LeaseFiles::default();
        let mut known = Observed::default();
        let now = Instant::now();
        assert!(files.changed(path, &known, now).is_none(), "nobody's");
        files.add(path.to_owned(), Uuid::max());
        known.leases.insert(Uuid::max(), parse_leases(&[ONE, TWO].concat()));

        // Emptied, and half of it written again: nothing is gone.
        write("");
        assert_eq!(addresses(files.changed(path, &known, now).as_ref()), ["10.5.0.10", "10.5.0.11"]);
        write(&[ONE, &TWO[..40]].concat());
        assert_eq!(addresses(files.changed(path, &known, now).as_ref()), ["10.5.0.10", "10.5.0.11"]);
        assert!(files.due().is_some());
        assert!(files.still(now).is_empty());
        write(&[ONE, TWO].concat());
        assert_eq!(addresses(files.changed(path, &known, now).as_ref()), ["10.5.0.10", "10.5.0.11"]);
        assert_eq!(files.due(), None);

        // One has ended.
        write(TWO);
        assert_eq!(addresses(files.changed(path, &known, now).as_ref()).len(), 2);
        let due = files.due().unwrap();
        assert_eq!(addresses(files.still(due).first()), ["10.5.0.11"]);
        assert_eq!(files.due(), None);
    }
}
