//! Open vSwitch from its packages, for one test: a database, and a switch with bridges of the userspace datapath, which
//! needs no kernel module.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::{Process, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// Open vSwitch in the calling thread's namespaces. It ends when this is dropped.
pub struct OpenVSwitch {
    package: PathBuf,
    dir: PathBuf,
    /// ovs-vswitchd, which ends first.
    pub switch: Option<Process>,
    /// ovsdb-server.
    pub database: Option<Process>,
}

impl OpenVSwitch {
    /// Starts it from where it was [unpacked](crate::unpacked), with all its files in `dir`, and the bridges `br0` and `br1`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(package: &Path, dir: &Path) -> Self {
        let mut started = Self { package: package.to_owned(), dir: dir.to_owned(), switch: None, database: None };
        started.start_anew();
        started.start_switch();
        started.add_bridges();
        started
    }

    /// Starts ovsdb-server with an empty database, in place of the one that runs.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_anew(&mut self) {
        self.database = None;
        for file in ["conf.db", ".conf.db.~lock~"] {
            let _ = std::fs::remove_file(self.dir.join(file));
        }
        let schema = self.package.join("usr/share/openvswitch/vswitch.ovsschema");
        let created = self.command("ovsdb-tool", &["create", "conf.db", &schema.to_string_lossy()]).output();
        assert!(created.as_ref().is_ok_and(|c| c.status.success()), "{created:?}");
        self.start_database();
        // The first row, as Open vSwitch's own start script makes it.
        self.vsctl("--no-wait init");
    }

    /// Starts ovsdb-server with the database that there is.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_database(&mut self) {
        let arguments = ["conf.db", "--remote=punix:db.sock", "-vsyslog:off", "-vconsole:err"];
        self.database = Some(Process::start(self.command("ovsdb-server", &arguments)));
        drop(wait_until("ovsdb-server", SOON, || UnixStream::connect(self.socket())));
    }

    /// Makes `br0` and `br1`.
    ///
    /// # Panics
    /// When `ovs-vsctl` fails.
    pub fn add_bridges(&self) {
        for bridge in ["br0", "br1"] {
            self.vsctl(&format!("add-br {bridge} -- set bridge {bridge} datapath_type=netdev"));
        }
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        command(&self.dir, &self.package, program, arguments)
    }

    /// The socket of ovsdb-server.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("db.sock")
    }

    /// Starts ovs-vswitchd. It counts the host's processors at most every ten seconds, by a clock that begins with the
    /// machine: one that runs for less has none, and the kernel's datapath nobody to ask about a frame that it does not know.
    pub fn start_switch(&mut self) {
        let runs =
            Duration::from_secs(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec.unsigned_abs());
        std::thread::sleep(Duration::from_secs(11).saturating_sub(runs));
        let database = format!("unix:{}", self.socket().display());
        let arguments = [database.as_str(), "-vsyslog:off", "-vconsole:err"];
        self.switch = Some(Process::start(self.command("ovs-vswitchd", &arguments)));
    }

    /// What `ovs-vsctl` prints; its words are separated by white space.
    ///
    /// # Panics
    /// When it fails.
    pub fn vsctl(&self, words: &str) -> String {
        self.try_vsctl(words).unwrap_or_else(|error| panic!("ovs-vsctl {words}: {error}"))
    }

    /// The same, or what it complains of.
    ///
    /// # Errors
    /// In its words.
    pub fn try_vsctl(&self, words: &str) -> Result<String, String> {
        let database = format!("--db=unix:{}", self.socket().display());
        let mut arguments = vec![database.as_str(), "--timeout=60"];
        arguments.extend(words.split_whitespace());
        let output = self.command("ovs-vsctl", &arguments).output().map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// A column, as `ovs-vsctl` prints it.
    pub fn get(&self, table: &str, record: &str, column: &str) -> String {
        self.vsctl(&format!("get {table} {record} {column}"))
    }

    /// The rows of a table.
    ///
    /// # Panics
    /// When `ovs-vsctl` prints no table.
    pub fn rows(&self, table: &str) -> Vec<Value> {
        let printed: Value =
            serde_json::from_str(&self.vsctl(&format!("--format=json list {table}"))).unwrap_or_default();
        printed["data"].as_array().cloned().unwrap_or_else(|| panic!("no table {table}: {printed}"))
    }
}

fn command(dir: &Path, package: &Path, program: &str, arguments: &[&str]) -> Command {
    let places = ["usr/bin", "usr/sbin", "usr/lib/openvswitch-switch"];
    let found = places.iter().map(|place| package.join(place).join(program)).find(|path| path.exists());
    let mut command = Command::new(found.unwrap_or_else(|| panic!("the packages have no {program}")));
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
        command.env(variable, dir);
    }
    // Libraries that the machine lacks were unpacked, too.
    let libraries =
        ["usr/lib", "lib"].map(|lib| package.join(lib).join(format!("{}-linux-gnu", std::env::consts::ARCH)));
    command.env("LD_LIBRARY_PATH", libraries.map(|path| path.display().to_string()).join(":"));
    command.current_dir(dir).args(arguments);
    command
}
