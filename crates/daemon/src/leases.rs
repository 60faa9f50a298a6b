//! Lease files. dnsmasq writes them in place, emptied first, so that a reader may find a part of one.
//!
//! What is in a file is true at once; what is not there any more counts as gone when the file has stood still for a
//! moment.

use patchcord_core::engine::Input;
use patchcord_core::plan::dnsmasq::{Lease, parse_leases};
use patchcord_core::plan::{Change, Observed};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use tokio::time::{Duration, Instant};
use tracing::warn;
use uuid::Uuid;

/// Longest lease file that is read, in bytes: about 300,000 leases.
const LONGEST: u64 = 32 << 20;

/// How long a file stands still before what it has lost is gone: many times what dnsmasq takes to write one.
const STILL: Duration = Duration::from_millis(250);

/// When a file that can't be read is tried again: descriptors may be short, or the disk in trouble, for a while.
const AGAIN: Duration = Duration::from_secs(5);

/// The lease files of the networks that are served.
#[derive(Debug, Default)]
pub struct LeaseFiles {
    networks: HashMap<PathBuf, Uuid>,
    /// Files that have lost something, and when to read them again.
    losing: BTreeMap<PathBuf, Instant>,
    /// Files that could not be read, and when to try again; none of those above.
    unread: BTreeMap<PathBuf, Instant>,
}

impl LeaseFiles {
    /// The file is that of the network.
    pub fn add(&mut self, path: PathBuf, network: Uuid) {
        self.networks.insert(path, network);
    }

    /// The file is of no interest any more.
    pub fn remove(&mut self, path: &Path) {
        self.networks.remove(path);
        self.losing.remove(path);
        self.unread.remove(path);
    }

    /// What is said where something changed: by a lease file of ours, or by all of them where their directory is named,
    /// since any may have changed then. `known` is what they said before.
    pub fn changed(&mut self, path: &Path, known: &Observed, now: Instant) -> Vec<Input> {
        // All of them are in one.
        let is_directory = self.networks.keys().next().is_some_and(|file| file.parent() == Some(path));
        if !is_directory {
            return self.file_changed(path, known, now).into_iter().collect();
        }
        let files: Vec<PathBuf> = self.networks.keys().cloned().collect();
        files.iter().filter_map(|file| self.file_changed(file, known, now)).collect()
    }

    fn file_changed(&mut self, path: &Path, known: &Observed, now: Instant) -> Option<Input> {
        let (network, mut leases) = self.read(path, now)?;
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
        self.losing.values().chain(self.unread.values()).min().copied()
    }

    /// What those files say that are to be read again by now; `known` is what they said before.
    pub fn still(&mut self, known: &Observed, now: Instant) -> Vec<Input> {
        let due = |files: &BTreeMap<PathBuf, Instant>| -> Vec<PathBuf> {
            files.iter().filter(|(_, at)| **at <= now).map(|(path, _)| path.clone()).collect()
        };
        let (lost, unread) = (due(&self.losing), due(&self.unread));
        self.losing.retain(|_, at| *at > now);
        let read = lost.iter().filter_map(|path| self.read(path, now));
        let mut inputs: Vec<Input> =
            read.map(|(network, leases)| Input::Observed(Change::Leases(network, leases))).collect();
        inputs.extend(unread.iter().filter_map(|path| self.file_changed(path, known, now)));
        inputs
    }

    /// What is in a file; one that is not there has no leases. `None` when that is not known, and stays as it was.
    fn read(&mut self, path: &Path, now: Instant) -> Option<(Uuid, Vec<Lease>)> {
        let network = *self.networks.get(path)?;
        self.unread.remove(path);
        if std::fs::metadata(path).is_ok_and(|about| about.len() > LONGEST) {
            warn!(path = %path.display(), "the lease file is too long to be read");
            return None;
        }
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                warn!(path = %path.display(), %error, "the lease file can't be read; its leases count as they were");
                self.losing.remove(path);
                self.unread.insert(path.to_owned(), now + AGAIN);
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

    /// Which network's leases are told, and their addresses.
    fn of_any(input: &Input) -> (u128, Vec<String>) {
        match input {
            Input::Observed(Change::Leases(network, leases)) => {
                (network.as_u128(), leases.iter().map(|lease| lease.ip.to_string()).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    fn addresses(input: Option<&Input>) -> Vec<String> {
        let (network, addresses) = of_any(input.unwrap());
        assert_eq!(network, u128::MAX);
        addresses
    }

    #[test]
    fn what_is_lost_is_gone_when_the_file_stands_still() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path();
        let write = |text: &str| std::fs::write(path, text).unwrap();
        let mut files = LeaseFiles::default();
        let mut known = Observed::default();
        let now = Instant::now();
        assert!(files.changed(path, &known, now).is_empty(), "nobody's");
        files.add(path.to_owned(), Uuid::max());
        known.leases.insert(Uuid::max(), parse_leases(&[ONE, TWO].concat()));

        // Emptied, and half of it written again: nothing is gone.
        write("");
        assert_eq!(addresses(files.changed(path, &known, now).first()), ["10.5.0.10", "10.5.0.11"]);
        write(&[ONE, &TWO[..40]].concat());
        assert_eq!(addresses(files.changed(path, &known, now).first()), ["10.5.0.10", "10.5.0.11"]);
        assert!(files.due().is_some());
        assert!(files.still(&known, now).is_empty());
        write(&[ONE, TWO].concat());
        assert_eq!(addresses(files.changed(path, &known, now).first()), ["10.5.0.10", "10.5.0.11"]);
        assert_eq!(files.due(), None);

        // One has ended.
        write(TWO);
        assert_eq!(addresses(files.changed(path, &known, now).first()).len(), 2);
        let due = files.due().unwrap();
        assert_eq!(addresses(files.still(&known, due).first()), ["10.5.0.11"]);
        assert_eq!(files.due(), None);
    }

    #[test]
    fn all_files_are_read_where_their_directory_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (mut files, known, now) = (LeaseFiles::default(), Observed::default(), Instant::now());
        for (network, text) in [(1, ONE), (2, TWO)] {
            let path = directory.path().join(format!("{network}.leases"));
            std::fs::write(&path, text).unwrap();
            files.add(path, Uuid::from_u128(network));
        }
        let mut read: Vec<_> = files.changed(directory.path(), &known, now).iter().map(of_any).collect();
        read.sort();
        assert_eq!(read, [(1, vec!["10.5.0.10".to_owned()]), (2, vec!["10.5.0.11".to_owned()])]);
        assert!(files.changed(&directory.path().join("other"), &known, now).is_empty());
    }

    #[test]
    fn leases_stay_known_while_their_file_can_not_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("1.leases");
        let (mut files, mut known, now) = (LeaseFiles::default(), Observed::default(), Instant::now());
        files.add(path.clone(), Uuid::max());
        known.leases.insert(Uuid::max(), parse_leases(&[ONE, TWO].concat()));
        std::fs::write(&path, ONE).unwrap();
        assert_eq!(files.changed(&path, &known, now).len(), 1);
        assert_eq!(files.due(), Some(now + STILL));

        // A directory is the error that even root gets.
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(files.still(&known, now + STILL).is_empty(), "nothing is told");
        let again = files.due().unwrap();
        assert!(again > now + STILL && files.still(&known, again).is_empty());
        assert!(files.changed(&path, &known, again).is_empty());

        // Of what is lost then, nobody knows yet whether it is being written.
        std::fs::remove_dir(&path).unwrap();
        std::fs::write(&path, TWO).unwrap();
        let again = files.due().unwrap();
        assert_eq!(addresses(files.still(&known, again).first()).len(), 2);
        assert_eq!(files.due(), Some(again + STILL));
        assert_eq!(addresses(files.still(&known, again + STILL).first()), ["10.5.0.11"]);
        assert_eq!(files.due(), None);

        // One that is gone has none.
        std::fs::remove_file(&path).unwrap();
        assert_eq!(addresses(files.changed(&path, &known, now).first()).len(), 2);
        assert_eq!(addresses(files.still(&known, now + STILL).first()), [""; 0]);
    }
}
