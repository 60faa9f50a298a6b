//! libvirt's own daemon, of an unpacked package, to see what it does.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::{Namespace, Process, skip, test_name, unpacked, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// `libvirtd` with one driver alone.
pub struct Libvirtd {
    /// Where its bridges are.
    pub ns: Namespace,
    process: Option<Process>,
    log: PathBuf,
    scratch: tempfile::TempDir,
    /// Whether its dnsmasqs outlive it.
    beside: bool,
}

impl Libvirtd {
    /// Starts it with its network driver, in namespaces of its own for links and for processes, so that its dnsmasqs end
    /// with it; or skips the test. `/run`, `/var` and `/etc/libvirt` are empty and its own from then on.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(ns: &Namespace) -> Option<Self> {
        let scratch = installed("network", ns)?;
        Some(Self::new(ns.peer("libvirtd"), scratch, false).apart())
    }

    /// Starts it with its driver for node devices, where it sees the test's links; or skips the test.
    ///
    /// # Panics
    /// When it does not start.
    pub fn with_devices(ns: &Namespace) -> Option<Self> {
        Some(Self::new(ns.clone(), installed("nodedev", ns)?, false).apart())
    }

    /// Starts it with its driver for interfaces, where it sees the test's links; or skips the test.
    ///
    /// # Panics
    /// When it does not start.
    pub fn with_interfaces(ns: &Namespace) -> Option<Self> {
        Some(Self::new(ns.clone(), installed("interface", ns)?, false).apart())
    }

    /// Starts it in a namespace of its own for processes.
    fn apart(mut self) -> Self {
        // As a child of the shell: who is the first process has to wait for dnsmasqs that ended, which libvirtd doesn't.
        let mut command = self.ns.command("unshare --pid --fork --kill-child --mount-proc sh -c");
        command.arg(format!("libvirtd -p /run/libvirt/pid -f {} & wait", self.configuration().display()));
        self.launch(command);
        self
    }

    /// With its network driver in the test's own namespaces, where it can be stopped, and what it made goes on; or skips the
    /// test.
    ///
    /// # Panics
    /// When it does not start.
    pub fn beside(ns: &Namespace) -> Option<Self> {
        let mut libvirtd = Self::new(ns.clone(), installed("network", ns)?, true);
        libvirtd.again();
        Some(libvirtd)
    }

    /// Starts it once more.
    ///
    /// # Panics
    /// When it does not start.
    pub fn again(&mut self) {
        let mut command = self.ns.command("libvirtd -p /run/libvirt/pid -f");
        command.arg(self.configuration());
        self.launch(command);
    }

    /// Ends it the way a service manager does.
    ///
    /// # Panics
    /// When it does not run, or does not end.
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("libvirtd");
        kill_process(Pid::from_raw(i32::try_from(process.id()).unwrap()).unwrap(), Signal::TERM).unwrap();
        wait_until("libvirtd's end", SOON, || process.ended().ok_or("it runs"));
    }

    fn new(ns: Namespace, scratch: tempfile::TempDir, beside: bool) -> Self {
        let log = scratch.path().join("log");
        let libvirtd = Self { ns, process: None, log, scratch, beside };
        let configuration = "unix_sock_dir='/run/libvirt'\nauth_unix_rw='none'\nauth_unix_ro='none'\n";
        fs::write(libvirtd.configuration(), configuration).unwrap();
        libvirtd
    }

    fn configuration(&self) -> PathBuf {
        self.scratch.path().join("libvirtd.conf")
    }

    fn launch(&mut self, mut command: Command) {
        command.env("LIBVIRT_DRIVER_DIR", self.scratch.path().join("drivers"));
        command.env("LIBVIRT_LOG_OUTPUTS", "2:stderr");
        // A sysfs of files is as good as the kernel's.
        command.env("SYSTEMD_DEVICE_VERIFY_SYSFS", "0");
        let output = File::options().create(true).append(true).open(&self.log).unwrap();
        command.stdout(output.try_clone().unwrap()).stderr(output);
        let mut process = Process::start(command);
        wait_until("libvirtd", SOON, || {
            if let Some(status) = process.ended() {
                panic!("libvirtd ended: {status}\n{}", self.log());
            }
            UnixStream::connect(&self.sockets()[0]).map_err(|error| error.to_string())
        });
        self.process = Some(process);
    }

    /// Where it serves, and where only those who read.
    pub fn sockets(&self) -> [PathBuf; 2] {
        ["libvirt-sock", "libvirt-sock-ro"].map(|name| PathBuf::from("/run/libvirt").join(name))
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// Puts the package's files under the test's /usr, with this driver alone, and makes new places for all that it keeps.
fn installed(driver: &str, ns: &Namespace) -> Option<tempfile::TempDir> {
    let package = unpacked("libvirtd")?.join("usr");
    let scratch = tempfile::tempdir().unwrap();
    // What the package's installation would have linked.
    let links = scratch.path().join("usr/sbin");
    fs::create_dir_all(&links).unwrap();
    for name in ["iptables", "ip6tables", "ebtables", "iptables-save"] {
        symlink("xtables-nft-multi", links.join(name)).unwrap();
    }
    let layers = format!("{}:{}:/usr", scratch.path().join("usr").display(), package.display());
    if let Err(error) = ns.try_run(&format!("mount -t overlay -o lowerdir={layers} overlay /usr")) {
        let error = error.trim_end().replace('\n', " ");
        skip(&test_name(), &format!("kernel has no overlay of directories ({error})"));
        return None;
    }
    // All that it keeps is new, and nothing of it stays.
    for directory in ["/run", "/var", "/etc/libvirt"] {
        ns.run(&format!("mount -t tmpfs tmpfs {directory}"));
    }
    for directory in ["/run/netns", "/run/libvirt"] {
        fs::create_dir(directory).unwrap();
    }
    let drivers = scratch.path().join("drivers");
    fs::create_dir(&drivers).unwrap();
    let module = format!("libvirt_driver_{driver}.so");
    let modules = format!("lib/{}-linux-gnu/libvirt/connection-driver", std::env::consts::ARCH);
    symlink(package.join(modules).join(&module), drivers.join(module)).unwrap();
    Some(scratch)
}

/// Ends the dnsmasqs that libvirtd started in the test's own namespaces.
fn end_dnsmasqs() {
    let mounts = |process: &Path| fs::read_link(process.join("ns/mnt")).ok();
    let own = mounts(Path::new("/proc/thread-self"));
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let theirs = String::from_utf8_lossy(&line).contains("--conf-file=/var/lib/libvirt/dnsmasq/");
        let pid = process.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        if let (true, true, Some(pid)) = (theirs, mounts(&process.path()) == own, pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        drop(self.process.take());
        if self.beside {
            end_dnsmasqs();
        }
        if std::thread::panicking() {
            eprintln!("libvirtd said:\n{}", self.log());
        }
    }
}
