//! The engine's records as files: which file each is, how safely it is written, and all of them at a start.

use crate::jobs::phrase;
use patchcord_core::engine::{Record, RecordKey, Startup, Text};
use patchcord_host::store::{Definitions, Directory, Durability, Entry, FileMode, Limits};
use patchcord_host::{Error, root::Root};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Where records are.
#[derive(Debug)]
pub struct Records {
    definitions: Definitions,
    networks: Directory,
    nics: Directory,
    associations: Directory,
    functions: Directory,
    run: Directory,
}

/// The host's settings as they were before us, in the run directory.
const HOST: &str = "host.xml";

impl Records {
    /// Opens the directories below `root`, making what is missing, and sweeps away what a crash left half written.
    ///
    /// # Errors
    /// [`Error::File`], with the path.
    pub fn open(root: &Root) -> Result<Self, Error> {
        let open = |path| {
            let directory = Directory::open(path, FileMode::Private)?;
            directory.sweep()?;
            Ok::<_, Error>(directory)
        };
        // Clients reach their socket through the run directory itself.
        let run = Directory::open(root.run(), FileMode::Shared)?;
        run.sweep()?;
        Ok(Self {
            definitions: Definitions::open(root.networks())?,
            networks: open(root.run_networks())?,
            nics: open(root.run_nics())?,
            associations: open(root.run_associations())?,
            functions: open(root.run_functions())?,
            run,
        })
    }

    /// Writes or deletes one record. Definitions outlive a loss of power; run state ends with the boot anyway.
    ///
    /// # Errors
    /// [`Error::File`], with the path and why; then what was there is there still.
    pub fn put(&self, record: &Record) -> Result<(), Error> {
        let content = record.content.as_deref().map(str::as_bytes);
        match &record.key {
            RecordKey::Definition(name) => match content {
                Some(xml) => self.definitions.write(name, xml),
                None => self.definitions.delete(name).map(drop),
            },
            RecordKey::Autostart(name) => self.definitions.set_autostart(name, content.is_some()),
            RecordKey::Network(name) => put(&self.networks, &format!("{name}.xml"), content),
            RecordKey::Nic(id) => put(&self.nics, &confirmed(*id), content),
            RecordKey::PendingNic(id) => match content {
                Some(content) => self.nics.create(&pending(*id), content),
                None => put(&self.nics, &pending(*id), None),
            },
            RecordKey::Association(id) => put(&self.associations, &confirmed(*id), content),
            RecordKey::Function(nic, address) => put(&self.functions, &format!("{nic}@{address}.xml"), content),
            RecordKey::Host => put(&self.run, HOST, content),
        }
    }

    /// Makes a pending NIC's record the NIC's.
    ///
    /// # Errors
    /// [`Error::File`], with the path and why; then it is pending still.
    pub fn confirm(&self, nic: Uuid) -> Result<(), Error> {
        self.nics.rename(&pending(nic), &confirmed(nic))
    }

    /// Reads everything, for the engine's start. A file that can't be read is there with its cause.
    ///
    /// # Errors
    /// [`Error::File`] when a directory can't be read.
    pub fn load(&self) -> Result<Startup, Error> {
        let limits = Limits::default();
        Ok(Startup {
            definitions: texts(self.definitions.read_all(limits)?),
            autostart: self.definitions.autostarted(limits)?,
            networks: texts(self.networks.read_all(".xml", limits)?),
            nics: texts(self.nics.read_all(".xml", limits)?),
            pending_nics: texts(self.nics.read_all(PENDING, limits)?),
            associations: texts(self.associations.read_all(".xml", limits)?),
            functions: texts(self.functions.read_all(".xml", limits)?),
            host: self.run.read(HOST, limits.file).transpose().map(text),
            ..Startup::default()
        })
    }
}

/// How the name of a NIC's record ends before its attach is answered.
const PENDING: &str = ".pending";

fn pending(nic: Uuid) -> String {
    format!("{nic}{PENDING}")
}

fn confirmed(nic: Uuid) -> String {
    format!("{nic}.xml")
}

fn put(directory: &Directory, name: &str, content: Option<&[u8]>) -> Result<(), Error> {
    match content {
        Some(content) => directory.write(name, content, Durability::Crash),
        None => directory.delete(name, Durability::Crash).map(drop),
    }
}

fn texts(entries: Vec<Entry>) -> BTreeMap<String, Text> {
    entries.into_iter().map(|entry| (entry.name, text(entry.contents))).collect()
}

fn text(contents: Result<Vec<u8>, Error>) -> Text {
    contents.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).map_err(|error| phrase(&error))
}
