//! libvirt's own daemon, of an unpacked package, to see what it does.

use patchcord_testkit::{Namespace, Process, skip, test_name, unpacked, wait_until};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// `libvirtd` with one driver alone, in a namespace of its own for processes, so that its dnsmasqs end with it.
pub(crate) struct Libvirtd {
    /// Where its bridges are.
    pub(crate) ns: Namespace,
    process: Process,
    log: PathBuf,
    _scratch: tempfile::TempDir,
}

impl Libvirtd {
    /// Starts it with its network driver, in a namespace of its own for links; or skips the test.
    pub(crate) fn start(ns: &Namespace) -> Option<Self> {
        Self::with_driver("network", ns, || ns.peer("libvirtd"))
    }

    /// Starts it with its driver for node devices, where it sees the test's links; or skips the test.
    pub(crate) fn with_devices(ns: &Namespace) -> Option<Self> {
        Self::with_driver("nodedev", ns, || ns.clone())
    }

    /// Puts the package's files under the test's /usr, and starts it; or skips the test. Where it runs is made when all it
    /// keeps has its place.
    fn with_driver(driver: &str, ns: &Namespace, inside: impl FnOnce() -> Namespace) -> Option<Self> {
        let package = unpacked("libvirtd")?.join("usr");
        let scratch = tempfile::tempdir().unwrap();
        // What the package's installation would have linked.
        let links = scratch.path().join("usr/sbin");
        fs::create_dir_all(&links).unwrap();
        for name in ["iptables", "ip6tables", "ebtables"] {
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
        let (configuration, log) = (scratch.path().join("libvirtd.conf"), scratch.path().join("log"));
        fs::write(&configuration, "unix_sock_dir='/run/libvirt'\nauth_unix_rw='none'\nauth_unix_ro='none'\n").unwrap();

        let ns = inside();
        // As a child of the shell: who is the first process has to wait for dnsmasqs that ended, which libvirtd doesn't.
        let mut command = ns.command("unshare --pid --fork --kill-child --mount-proc sh -c");
        command.arg(format!("libvirtd -p /run/libvirt/pid -f {} & wait", configuration.display()));
        command.env("LIBVIRT_DRIVER_DIR", drivers).env("LIBVIRT_LOG_OUTPUTS", "2:stderr");
        // A sysfs of files is as good as the kernel's.
        command.env("SYSTEMD_DEVICE_VERIFY_SYSFS", "0");
        let output = File::create(&log).unwrap();
        command.stdout(output.try_clone().unwrap()).stderr(output);
        let mut libvirtd = Self { ns, process: Process::start(command), log, _scratch: scratch };
        wait_until("libvirtd", super::SOON, || {
            if let Some(status) = libvirtd.process.ended() {
                panic!("libvirtd ended: {status}\n{}", libvirtd.log());
            }
            UnixStream::connect(&libvirtd.sockets()[0]).map_err(|error| error.to_string())
        });
        Some(libvirtd)
    }

    /// Where it serves, and where only those who read.
    pub(crate) fn sockets(&self) -> [PathBuf; 2] {
        ["libvirt-sock", "libvirt-sock-ro"].map(|name| PathBuf::from("/run/libvirt").join(name))
    }

    /// What it has said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("libvirtd said:\n{}", self.log());
        }
    }
}
