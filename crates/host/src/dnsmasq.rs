//! dnsmasq, one process per network that serves names or addresses.
//!
//! It makes a daemon of itself, and outlives ours. After a restart of ours it is found again: by its pid file, its
//! executable, and a command line that names our configuration, all as the spawner sees them. Where the pid file was lost all
//! processes are looked at.
//!
//! dnsmasq reads its configuration as root and opens its lease file; then it becomes an unprivileged user, as whom
//! it reads the other files again on SIGHUP. So these are readable for everyone, as are their directories; the
//! lease file is written through the descriptor that is open, whoever owns it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use patchcord_core::plan::dnsmasq::Config;
use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use uuid::Uuid;

use crate::process::{Process, ProcessInfo, Signal};
use crate::spawner::{End, Request, Spawner};
use crate::store::{Directory, Durability, FileMode};
use crate::{Error, Result};

/// The files that dnsmasq reads, by what follows the network's UUID in their names. Leases are not among them:
/// they stay when a network stops.
const READ_FILES: [&str; 4] = ["conf", "servers", "hosts", "addnhosts"];

/// Longest file that is read back, in bytes: about 100,000 hosts.
const FILE_LIMIT: usize = 16 << 20;

/// The argument that names the configuration.
const CONF_FILE: &[u8] = b"--conf-file=";

/// How long a dnsmasq may take to end in order, and then to die.
const PATIENCE: Duration = Duration::from_secs(2);

/// How dnsmasq complains when it could not list all links, because they changed meanwhile: one of any network's went, or
/// too much was told at once.
const NOT_LISTED: &str = "failed to find list of interfaces";

/// How often it is started again for that.
const ATTEMPTS: u32 = 20;

/// What dnsmasq needs as root: to become its user, own its pid file, and bind, answer and probe as a DHCP server.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// Starts, finds, reloads and stops networks' dnsmasq processes.
#[derive(Debug, Clone)]
pub struct Dnsmasq {
    spawner: Spawner,
    program: PathBuf,
    dir: PathBuf,
    run_dir: PathBuf,
}

/// A dnsmasq of ours that was running already.
#[derive(Debug)]
pub struct Running {
    /// Its network.
    pub network: Uuid,
    /// Its process.
    pub process: Process,
    /// What it has read, by path. The configuration is missing when it was written after the process started: it
    /// needs to be started again then.
    pub files: BTreeMap<String, String>,
}

impl Dnsmasq {
    /// `program` is dnsmasq's absolute path, which the spawner allows; `dir` and `run_dir` are those of the
    /// configuration's `Settings`.
    pub fn new(spawner: Spawner, program: PathBuf, dir: PathBuf, run_dir: PathBuf) -> Self {
        Self { spawner, program, dir, run_dir }
    }

    /// Where a network's leases are.
    pub fn lease_path(&self, network: Uuid) -> PathBuf {
        self.path(network, "leases")
    }

    /// dnsmasq's version, "2.90".
    ///
    /// # Errors
    /// [`Error::NoDnsmasq`], or [`Error::Program`] when it is something else.
    pub fn version(&self) -> Result<String> {
        let outcome = self.run(Request::new(&self.program).args(["--version"]))?;
        let text = String::from_utf8_lossy(&outcome.stdout);
        let version = text.strip_prefix("Dnsmasq version ").and_then(|rest| rest.split_whitespace().next());
        version.map(str::to_owned).ok_or_else(|| Error::Program {
            program: self.program.clone(),
            problem: "it does not say that it is dnsmasq".to_owned(),
            source: io::ErrorKind::InvalidData.into(),
        })
    }

    /// Writes the configuration's files and starts dnsmasq in place of one of the same network that runs (`known` by its number,
    /// perhaps), which stays when they can't be written. When this returns it answers.
    ///
    /// # Errors
    /// [`Error::Service`] with what dnsmasq said; [`Error::NoDnsmasq`]; [`Error::File`] when a file can't be
    /// written.
    pub fn start(&self, network: Uuid, known: Option<u32>, config: &Config) -> Result<Process> {
        self.write(network, config)?;
        if let Some(old) = self.find_known(network, known)? {
            self.end(network, &old)?;
        }
        Directory::open(&self.run_dir, FileMode::Shared)?;
        let mut request = Request::new(&self.program).args(&config.args);
        request.capabilities = Some(CAPABILITIES);
        let mut outcome = self.run(request.clone())?;
        for _ in 1..ATTEMPTS {
            if !matches!(outcome.end, End::Exit(1..)) || !String::from_utf8_lossy(&outcome.stderr).contains(NOT_LISTED)
            {
                break;
            }
            outcome = self.run(request.clone())?;
        }
        let failed = |problem: String| Error::Service { network, problem };
        let said = String::from_utf8_lossy(&outcome.stderr);
        let said = said.trim().trim_start_matches("dnsmasq: ");
        match outcome.end {
            End::Exit(0) => self.find(network)?.ok_or_else(|| failed("ended right after its start".to_owned())),
            End::Exit(status) if said.is_empty() => Err(failed(format!("ended with status {status}"))),
            End::Exit(_) => Err(failed(said.to_owned())),
            End::Signal(signal) => Err(failed(format!("killed by signal {signal}"))),
            End::TimedOut => Err(failed("not ready in time, killed".to_owned())),
        }
    }

    /// The network's dnsmasq, if one runs; its pid file is removed if not, where it can be.
    ///
    /// # Errors
    /// [`Error::File`] when the pid file can't be read, [`Error::Process`] when the process can't be looked at.
    pub fn find(&self, network: Uuid) -> Result<Option<Process>> {
        let path = self.pid_path(network);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("read", path)(error)),
        };
        let pid = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
        if let Some(process) = pid.map_or(Ok(None), |pid| self.process(network, pid))? {
            return Ok(Some(process));
        }
        // It misleads nobody if it stays: the process that it names is looked at.
        let _ = remove(&path);
        Ok(None)
    }

    /// The network's dnsmasq, which may be known as the process of that number: it may have lost its pid file.
    ///
    /// # Errors
    /// As [`Dnsmasq::find`].
    pub fn find_known(&self, network: Uuid, known: Option<u32>) -> Result<Option<Process>> {
        match (self.find(network)?, known) {
            (None, Some(pid)) => self.process(network, pid),
            (found, _) => Ok(found),
        }
    }

    /// The process of that number, if it is the network's dnsmasq.
    fn process(&self, network: Uuid, pid: u32) -> Result<Option<Process>> {
        let info = self.spawner.inspect(pid)?.filter(|info| self.is_ours(info, &self.path(network, "conf")));
        info.map_or(Ok(None), |info| Process::open_same(info.id))
    }

    /// The processes whose command lines name configurations of ours, by network.
    fn strays(&self) -> Result<BTreeMap<Uuid, u32>> {
        let proc = Path::new("/proc");
        let entries = fs::read_dir(proc).map_err(Error::file("read", proc))?;
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let network = |pid: u32| {
            // One that ends meanwhile is none.
            let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let conf = cmdline.split(|byte| *byte == 0).find_map(|arg| arg.strip_prefix(CONF_FILE))?;
            let conf = Path::new(OsStr::from_bytes(conf));
            let network = Uuid::try_parse(conf.file_stem()?.to_str()?).ok()?;
            is_same_file(conf, &self.path(network, "conf")).then_some((network, pid))
        };
        Ok(pids.filter_map(network).collect())
    }

    /// All that run, for a daemon that starts. Each is told to read its files again, since who wrote them may have
    /// died before it could say so.
    ///
    /// # Errors
    /// As [`Dnsmasq::find`].
    pub fn running(&self) -> Result<Vec<Running>> {
        let mut networks = BTreeSet::new();
        for (directory, kind) in [(&self.run_dir, ".pid"), (&self.dir, ".conf")] {
            let names = Directory::open(directory, FileMode::Shared)?.names(kind, usize::MAX)?;
            networks.extend(names.iter().filter_map(|name| Uuid::try_parse(name).ok()));
        }
        let (mut running, mut strays) = (Vec::new(), None);
        for network in networks {
            let (found, path) = (self.find(network)?, self.path(network, "conf"));
            let known = found.is_some();
            let process = match found {
                None if path.exists() => {
                    let strays = match &mut strays {
                        Some(strays) => strays,
                        none => none.insert(self.strays()?),
                    };
                    strays.get(&network).map_or(Ok(None), |pid| self.process(network, *pid))?
                }
                found => found,
            };
            let Some(process) = process else { continue };
            let mut files = BTreeMap::new();
            for path in READ_FILES.map(|kind| self.path(network, kind)) {
                if let Some(text) = read(&path)? {
                    files.insert(path.to_string_lossy().into_owned(), text);
                }
            }
            if !known || modified(&path)? > modified(&self.pid_path(network))? {
                files.remove(path.to_string_lossy().as_ref());
            }
            if self.spawner.signal(process.id(), Signal::Hangup)? {
                running.push(Running { network, process, files });
            }
        }
        Ok(running)
    }

    /// Writes the files that changed, and tells dnsmasq to read them again. The configuration itself is read at
    /// the start only.
    ///
    /// # Errors
    /// [`Error::Service`] when it has ended; [`Error::File`].
    pub fn reload(&self, network: Uuid, process: &Process, config: &Config) -> Result<()> {
        self.write(network, config)?;
        if self.spawner.signal(process.id(), Signal::Hangup)? {
            Ok(())
        } else {
            Err(Error::Service { network, problem: "has ended by itself".to_owned() })
        }
    }

    /// Stops it. One that has ended already is fine. Its files are [`Dnsmasq::clear`]'s: one that has ended is stopped,
    /// whether they can be removed or not.
    ///
    /// # Errors
    /// [`Error::Service`] when it can't be killed.
    pub fn stop(&self, network: Uuid, process: &Process) -> Result<()> {
        self.end(network, process)
    }

    /// Removes the files of one that does not run, but not its leases.
    ///
    /// # Errors
    /// [`Error::File`]. What stays is written anew at the network's next start, or goes by [`Dnsmasq::sweep`].
    pub fn clear(&self, network: Uuid) -> Result<()> {
        READ_FILES.iter().try_for_each(|kind| remove(&self.path(network, kind)))
    }

    /// Removes the files of all networks but those that `runs` is true of, for a daemon that starts: they could not be
    /// removed when the network stopped, or its daemon died before it did that.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn sweep(&self, runs: impl Fn(Uuid) -> bool) -> Result<()> {
        let directory = Directory::open(&self.dir, FileMode::Shared)?;
        directory.sweep()?;
        for kind in READ_FILES {
            for network in directory.names(&format!(".{kind}"), usize::MAX)? {
                if let Ok(network) = Uuid::try_parse(&network)
                    && !runs(network)
                {
                    remove(&self.path(network, kind))?;
                }
            }
        }
        Ok(())
    }

    /// Removes what is left of a network that is no more: its leases, too.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn forget(&self, network: Uuid) -> Result<()> {
        self.clear(network)?;
        remove(&self.lease_path(network))
    }

    /// Ends the process: in order, or else by force.
    fn end(&self, network: Uuid, process: &Process) -> Result<()> {
        for signal in [Signal::Terminate, Signal::Kill] {
            if !self.spawner.signal(process.id(), signal)? || process.wait(PATIENCE)? {
                // As in `find`.
                let _ = remove(&self.pid_path(network));
                return Ok(());
            }
        }
        Err(Error::Service { network, problem: format!("process {} does not end when killed", process.id().pid) })
    }

    fn path(&self, network: Uuid, kind: &str) -> PathBuf {
        self.dir.join(format!("{network}.{kind}"))
    }

    fn pid_path(&self, network: Uuid) -> PathBuf {
        self.run_dir.join(format!("{network}.pid"))
    }

    fn run(&self, request: Request) -> Result<crate::spawner::Outcome> {
        self.spawner.run(&request).map_err(|error| match error.errno() {
            Some(Errno::NOENT) => Error::NoDnsmasq { program: self.program.clone(), source: Box::new(error) },
            _ => error,
        })
    }

    /// Whether the process is the dnsmasq of this configuration. Its executable goes by its name, since an upgrade
    /// replaces the file and a link may have led to it.
    fn is_ours(&self, info: &ProcessInfo, conf: &Path) -> bool {
        let same_program = info.exe.as_deref().and_then(Path::file_name).is_some_and(|name| {
            let real = self.program.canonicalize().unwrap_or_else(|_| self.program.clone());
            Some(name) == self.program.file_name() || Some(name) == real.file_name()
        });
        let mut named = info.cmdline.iter().filter_map(|arg| arg.as_bytes().strip_prefix(CONF_FILE));
        same_program && named.any(|path| is_same_file(Path::new(OsStr::from_bytes(path)), conf))
    }

    /// Writes what is not there yet as it should be, and removes what the network has no more.
    fn write(&self, network: Uuid, config: &Config) -> Result<()> {
        let directory = Directory::open(&self.dir, FileMode::Shared)?;
        for (path, text) in &config.files {
            let path = Path::new(path);
            let name = path.file_name().and_then(OsStr::to_str);
            let Some(name) = name.filter(|_| path.parent() == Some(self.dir.as_path())) else {
                let name = path.display().to_string();
                return Err(Error::Name { what: "file", name, problem: "is not in dnsmasq's directory" });
            };
            // What is there can be longer than is read, or no text: then it is another.
            if !matches!(directory.read(name, FILE_LIMIT), Ok(Some(old)) if old == text.as_bytes()) {
                directory.write(name, text.as_bytes(), Durability::Crash)?;
            }
        }
        for path in READ_FILES.map(|kind| self.path(network, kind)) {
            if !config.files.contains_key(path.to_string_lossy().as_ref()) {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

/// The user that dnsmasq is to become: `dnsmasq` where its package made one, else `nobody`.
pub fn service_user() -> &'static str {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    if users.lines().any(|line| line.starts_with("dnsmasq:")) { "dnsmasq" } else { "nobody" }
}

/// Whether two paths are one file's, which the root directory may have been spelled otherwise for. It may be gone.
fn is_same_file(a: &Path, b: &Path) -> bool {
    a == b || a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
}

/// A file's text; `None` when there is none.
fn read(path: &Path) -> Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", path)(error)),
    }
}

/// When a file was written; `None`, which is less than any time, when there is none.
fn modified(path: &Path) -> Result<Option<std::time::SystemTime>> {
    match fs::metadata(path).and_then(|metadata| metadata.modified()) {
        Ok(time) => Ok(Some(time)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", path)(error)),
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("delete", path)(error)),
        _ => Ok(()),
    }
}
