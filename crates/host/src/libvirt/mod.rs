//! What libvirt's own daemon has of networks on this host: its files, its dnsmasqs and its packet rules, for when
//! networks are taken over from it, or handed back.
//!
//! | path below the root | what |
//! |---|---|
//! | `etc/libvirt/qemu/networks/NAME.xml`, `autostart/NAME.xml` | definitions, and links to those that start by themselves |
//! | `run/libvirt/network/driver.pid` | locked (`fcntl`) by the daemon that serves networks, be it virtnetworkd or libvirtd |
//! | `run/libvirt/network/NAME.xml`, `NAME.pid`, `NAME/ports/UUID.xml` | an active network, its dnsmasq, its ports |
//! | `var/lib/libvirt/dnsmasq/NAME.conf`, `BRIDGE.status` | that dnsmasq's configuration, the leases that it gave |
//!
//! `rules` is about the packet rules, `leases` about what stands in `BRIDGE.status`.

mod leases;
mod rules;

use crate::process::{Process, Signal};
use crate::root::Root;
use crate::spawner::Spawner;
use crate::store::{Directory, Durability, Entry, FileMode, Limits};
use crate::{Error, Result};
use patchcord_core::import::{Found, HandedBack};
use patchcord_core::plan::dnsmasq::parse_leases;
use rustix::fs::{FlockOperation, Mode, OFlags, fcntl_lock};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

pub use leases::status;
pub use rules::remove as remove_rules;

/// How long a dnsmasq may take to end in order, and then to die.
const PATIENCE: Duration = Duration::from_secs(2);

/// Most networks that are read, and most ports of each.
const LIMITS: Limits = Limits { file: 4 << 20, files: 10_000 };

/// libvirt's files below a root.
#[derive(Clone, Debug)]
pub struct Libvirt {
    root: Root,
}

/// Keeps libvirt's daemons from serving networks, for as long as it lives.
#[derive(Debug)]
pub struct DriverLock {
    path: PathBuf,
    _file: OwnedFd,
}

impl Drop for DriverLock {
    fn drop(&mut self) {
        // As libvirt's own does, while the lock is held; whoever waits for it looks whether the file is still there.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Libvirt {
    /// Those below `root`.
    pub fn new(root: Root) -> Self {
        Self { root }
    }

    /// Keeps libvirt's daemons away from networks; `None` when one of them serves them. Of one process, only one may ask
    /// at a time: the lock is the process's.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn lock(&self) -> Result<Option<DriverLock>> {
        let directory = self.root.libvirt_run_networks();
        Directory::open(&directory, FileMode::Shared)?;
        let path = directory.join("driver.pid");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o644)).map_err(Error::file("open", &path))?;
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(DriverLock { path, _file: file })),
            Err(Errno::AGAIN | Errno::ACCESS) => Ok(None),
            Err(errno) => Err(Error::file("lock", path)(errno)),
        }
    }

    /// All that libvirt's files say of networks. A file that can't be read counts as empty, which is no document.
    ///
    /// # Errors
    /// [`Error::File`] when a directory can't be read, [`Error::Content`] when it holds too much.
    pub fn read(&self) -> Result<Found> {
        let definitions = self.root.libvirt_networks();
        let run = self.root.libvirt_run_networks();
        let active = texts(&run)?;
        let mut ports = BTreeMap::new();
        for name in active.keys() {
            ports.insert(name.clone(), texts(&run.join(name).join("ports"))?);
        }
        let autostart = match existing(&definitions.join("autostart"))? {
            Some(directory) => directory.names(".xml", LIMITS.files)?,
            None => Vec::new(),
        };
        Ok(Found { definitions: texts(&definitions)?, autostart: autostart.into_iter().collect(), active, ports })
    }

    /// Removes what says that libvirt's daemon runs a network, or is to start it by itself; its definition stays.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn forget(&self, name: &str) -> Result<()> {
        if let Some(directory) = existing(&self.root.libvirt_networks().join("autostart"))? {
            directory.delete(&format!("{name}.xml"), Durability::Power)?;
        }
        let Some(run) = existing(&self.root.libvirt_run_networks())? else { return Ok(()) };
        run.delete(&format!("{name}.xml"), Durability::Crash)?;
        run.delete(&format!("{name}.pid"), Durability::Crash)?;
        let own = run.path().join(name);
        match std::fs::remove_dir_all(&own) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("delete", own)(error)),
            _ => Ok(()),
        }
    }

    /// Tells libvirt's daemon that it runs a network, before it starts.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write_active(&self, name: &str, back: &HandedBack) -> Result<()> {
        let Some(active) = &back.active else { return Ok(()) };
        let run = Directory::open(self.root.libvirt_run_networks(), FileMode::Shared)?;
        if !back.ports.is_empty() {
            Directory::open(run.path().join(name), FileMode::Shared)?;
            let ports = Directory::open(run.path().join(name).join("ports"), FileMode::Private)?;
            for (uuid, text) in &back.ports {
                ports.write(&format!("{uuid}.xml"), text.as_bytes(), Durability::Crash)?;
            }
        }
        write_private(&run, &format!("{name}.xml"), active)
    }

    /// Gives libvirt's daemon a network's definition.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write_definition(&self, name: &str, definition: &str, autostart: bool) -> Result<()> {
        let directory = self.root.libvirt_networks();
        let file = format!("{name}.xml");
        let files = Directory::open(&directory, FileMode::Shared)?;
        let same = files.read(&file, LIMITS.file).ok().flatten();
        let same =
            same.is_some_and(|there| patchcord_core::import::is_same(&String::from_utf8_lossy(&there), definition));
        if !same {
            write_private(&files, &file, definition)?;
        }
        let links = Directory::open(directory.join("autostart"), FileMode::Shared)?;
        if autostart {
            // As libvirt's own, which is absolute.
            links.link(&file, &directory.join(&file).to_string_lossy(), Durability::Power)
        } else {
            links.delete(&file, Durability::Power).map(drop)
        }
    }

    /// Writes the leases that our dnsmasq gave where libvirt's helper reads them.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn give_leases(&self, network: Uuid, bridge: &str) -> Result<()> {
        let ours = Directory::open(self.root.dnsmasq(), FileMode::Shared)?;
        let Some(text) = ours.read(&format!("{network}.leases"), leases::LONGEST)? else { return Ok(()) };
        let text = String::from_utf8_lossy(&text);
        let duid = text.lines().find_map(|line| line.strip_prefix("duid "));
        let status = status(&parse_leases(&text), duid);
        let theirs = Directory::open(self.root.libvirt_dnsmasq(), FileMode::Shared)?;
        theirs.write(&format!("{bridge}.status"), status.as_bytes(), Durability::Crash)
    }

    /// Ends the dnsmasq of a network of libvirt's, if it runs, and writes the leases that it gave where ours looks for
    /// them, unless ours has given some since.
    ///
    /// # Errors
    /// [`Error::Service`] when it can't be ended; [`Error::File`], [`Error::Content`].
    pub fn take_service(&self, spawner: &Spawner, network: Uuid, name: &str, bridge: &str) -> Result<()> {
        let ended = match self.service(spawner, name)? {
            Some(process) => end(spawner, network, &process)?,
            None => false,
        };
        if ended || !self.has_leases(network) { self.take_leases(network, bridge) } else { Ok(()) }
    }

    /// Writes a network's leases where our dnsmasq looks for them.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Content`].
    pub fn take_leases(&self, network: Uuid, bridge: &str) -> Result<()> {
        let Some(theirs) = existing(&self.root.libvirt_dnsmasq())? else { return Ok(()) };
        let file = format!("{bridge}.status");
        let Some(status) = theirs.read(&file, leases::LONGEST)? else { return Ok(()) };
        let wrong = |problem| Error::Content { path: theirs.path().join(&file), problem };
        let text = leases::translate(&status).map_err(wrong)?;
        let ours = Directory::open(self.root.dnsmasq(), FileMode::Shared)?;
        ours.write(&format!("{network}.leases"), text.as_bytes(), Durability::Crash)
    }

    /// Whether our dnsmasq has a lease file of that network.
    pub fn has_leases(&self, network: Uuid) -> bool {
        self.root.dnsmasq().join(format!("{network}.leases")).exists()
    }

    /// The dnsmasq that libvirt's daemon started for a network: known by its pid file, its program and a command line
    /// that names libvirt's configuration.
    fn service(&self, spawner: &Spawner, name: &str) -> Result<Option<Process>> {
        let Some(run) = existing(&self.root.libvirt_run_networks())? else { return Ok(None) };
        let text = run.read(&format!("{name}.pid"), 64)?.unwrap_or_default();
        let Some(pid) = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok()) else {
            return Ok(None);
        };
        let Some(info) = spawner.inspect(pid)? else { return Ok(None) };
        // libvirt names its files below the host's own root, whatever ours is.
        let option = format!("--conf-file=/var/lib/libvirt/dnsmasq/{name}.conf");
        let is_dnsmasq = info.exe.as_deref().and_then(Path::file_name) == Some(OsStr::new("dnsmasq"));
        let is_theirs = info.cmdline.iter().any(|arg| arg.as_bytes() == option.as_bytes());
        if is_dnsmasq && is_theirs { Process::open_same(info.id) } else { Ok(None) }
    }
}

/// Ends a process, in order or else by force; false when it had ended already.
fn end(spawner: &Spawner, network: Uuid, process: &Process) -> Result<bool> {
    for signal in [Signal::Terminate, Signal::Kill] {
        if !spawner.signal(process.id(), signal)? {
            return Ok(false);
        }
        if process.wait(PATIENCE)? {
            return Ok(true);
        }
    }
    Err(Error::Service { network, problem: format!("process {} does not end when killed", process.id().pid) })
}

/// A directory, if it is there: none is made.
fn existing(path: &Path) -> Result<Option<Directory>> {
    if path.exists() { Directory::open(path, FileMode::Shared).map(Some) } else { Ok(None) }
}

/// Documents of a directory by file stem.
fn texts(path: &Path) -> Result<BTreeMap<String, String>> {
    let Some(directory) = existing(path)? else { return Ok(BTreeMap::new()) };
    let text = |Entry { name, contents }: Entry| {
        (name, contents.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default())
    };
    Ok(directory.read_all(".xml", LIMITS)?.into_iter().map(text).collect())
}

/// Writes a file that only root may read, as libvirt does.
fn write_private(directory: &Directory, name: &str, text: &str) -> Result<()> {
    Directory::open(directory.path(), FileMode::Private)?.write(name, text.as_bytes(), Durability::Power)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_is_forgotten_is_run_state_and_autostart_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let libvirt = Libvirt::new(Root::new(scratch.path()));
        assert_eq!(libvirt.read().unwrap(), Found::default(), "nothing is no error, and nothing is made");
        assert!(!scratch.path().join("etc").exists());
        let back = HandedBack {
            definition: None,
            active: Some("<networkstatus/>".into()),
            ports: BTreeMap::from([("11111111-2222-3333-4444-555555555555".into(), "<networkport/>".into())]),
        };
        libvirt.write_definition("a 'b'", "<network/>", true).unwrap();
        libvirt.write_active("a 'b'", &back).unwrap();
        let found = libvirt.read().unwrap();
        assert_eq!(found.autostart, BTreeSet::from(["a 'b'".to_owned()]));
        assert_eq!((&found.definitions["a 'b'"], &found.ports["a 'b'"]), (&"<network/>".to_owned(), &back.ports));
        libvirt.forget("a 'b'").unwrap();
        libvirt.forget("a 'b'").unwrap();
        let left = libvirt.read().unwrap();
        assert_eq!(left, Found { definitions: found.definitions, ..Found::default() });
    }

    #[test]
    fn leases_go_where_our_dnsmasq_finds_them() {
        let scratch = tempfile::tempdir().unwrap();
        let libvirt = Libvirt::new(Root::new(scratch.path()));
        let network = Uuid::from_u128(7);
        libvirt.take_leases(network, "virbr0").unwrap();
        assert!(!libvirt.has_leases(network));
        let theirs = scratch.path().join("var/lib/libvirt/dnsmasq");
        std::fs::create_dir_all(&theirs).unwrap();
        let status = r#"[{"ip-address": "10.0.0.4", "mac-address": "52:54:00:00:00:07", "expiry-time": 1700000000}]"#;
        std::fs::write(theirs.join("virbr0.status"), status).unwrap();
        libvirt.take_leases(network, "virbr0").unwrap();
        let ours = scratch.path().join(format!("var/lib/patchcord/dnsmasq/{network}.leases"));
        let lease = "1700000000 52:54:00:00:00:07 10.0.0.4 * *\n";
        assert_eq!(std::fs::read_to_string(&ours).unwrap(), lease);
        libvirt.give_leases(network, "virbr1").unwrap();
        std::fs::write(&ours, "").unwrap();
        libvirt.take_leases(network, "virbr1").unwrap();
        assert_eq!(std::fs::read_to_string(&ours).unwrap(), lease);
    }
}
