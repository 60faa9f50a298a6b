//! A network namespace for one test, and named peer namespaces beside it.

use std::fs::{self, File};
use std::panic::resume_unwind;
use std::process::Command;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use crate::process::{self, Process};
use crate::{require_root, sys};

/// A network namespace that belongs to the running test.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Its name below /run/netns; none for the one that the test itself runs in.
    name: Option<String>,
}

/// Runs `test` on a thread of its own in fresh network and mount namespaces.
///
/// There, mounts are private, /sys shows the new namespace's devices, /run/netns is an empty tmpfs, `lo` is up and
/// forwarding is off. Threads and processes started inside inherit all that; the rest of the process does not, so
/// tests of one process may run side by side. Everything is gone when the last of them ends: hold processes in
/// [`Process`], and join threads.
///
/// /proc/sys/net follows the thread that opens it, but /proc/net and /proc/self/net follow the process's main
/// thread: read /proc/thread-self/net instead.
///
/// Without root the test is skipped.
///
/// # Panics
/// With the test's own panic, or if the namespaces cannot be made.
pub fn in_namespace(test: impl FnOnce(&Namespace) + Send) {
    if !require_root() {
        return;
    }
    let name = crate::test_name();
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(name).spawn_scoped(scope, || {
            if let Err(error) = enter() {
                panic!("cannot set up a namespace for the test: {error}");
            }
            test(&Namespace { name: None });
        });
        match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(error) => panic!("cannot start a thread: {error}"),
        }
    });
}

/// Moves the calling thread into new namespaces and sets them up.
fn enter() -> Result<(), String> {
    let step = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let none = MountFlags::empty();
    // A mount point must exist before it can be covered.
    fs::create_dir_all("/run/netns").map_err(step("make /run/netns"))?;
    sys::unshare(true).map_err(step("unshare"))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| step("make mounts private")(error.into()))?;
    mount("sysfs", "/sys", "sysfs", none, None).map_err(|error| step("mount /sys")(error.into()))?;
    mount("tmpfs", "/run/netns", "tmpfs", none, None).map_err(|error| step("mount /run/netns")(error.into()))?;
    forwarding_off()?;
    let mut lo = Command::new("ip");
    lo.args(["link", "set", "lo", "up"]);
    process::output(lo)?;
    Ok(())
}

/// A new namespace may inherit the machine's settings (net.core.devconf_inherit_init_net).
fn forwarding_off() -> Result<(), String> {
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/default/forwarding"] {
        let path = format!("/proc/sys/net/{key}");
        fs::write(&path, "0").map_err(|error| format!("{path}: {error}"))?;
    }
    Ok(())
}

impl Namespace {
    /// Makes another network namespace, `lo` up and forwarding off, that `ip netns` and `ip link set netns` know by
    /// this name. It ends with the test.
    ///
    /// # Panics
    /// If there is one of this name.
    pub fn peer(&self, name: &str) -> Namespace {
        self.run(&format!("ip netns add {name}"));
        let peer = Namespace { name: Some(name.to_owned()) };
        peer.run("ip link set lo up");
        if let Err(error) = peer.inside(forwarding_off) {
            panic!("{name}: {error}");
        }
        peer
    }

    /// Joins `link` here and `peer_link` in `peer` by a veth pair, both up.
    ///
    /// # Panics
    /// If that fails.
    pub fn veth(&self, link: &str, peer: &Namespace, peer_link: &str) {
        let netns = peer.name.as_ref().map(|name| format!("netns {name}"));
        let netns = netns.unwrap_or_default();
        self.run(&format!("ip link add name {link} type veth peer name {peer_link} {netns}"));
        self.run(&format!("ip link set dev {link} up"));
        peer.run(&format!("ip link set dev {peer_link} up"));
    }

    /// The command `line`, split at white space, to be run in this namespace.
    ///
    /// # Panics
    /// If the line is empty.
    pub fn command(&self, line: &str) -> Command {
        let mut words = line.split_whitespace();
        let Some(program) = words.next() else {
            panic!("an empty command line");
        };
        let mut command = match &self.name {
            None => Command::new(program),
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name, program]);
                command
            }
        };
        command.args(words);
        command
    }

    /// Runs a command line in this namespace and returns its standard output.
    ///
    /// # Errors
    /// If it cannot be run or ends with another status than 0: the command with what it printed.
    pub fn try_run(&self, line: &str) -> Result<String, String> {
        process::output(self.command(line))
    }

    /// Runs a command line in this namespace and returns its standard output.
    ///
    /// # Panics
    /// Where [`Namespace::try_run`] returns an error.
    pub fn run(&self, line: &str) -> String {
        self.try_run(line).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs a command that prints JSON (`ip -j`, `bridge -j`, `tc -j`, `nft -j`); no output is `null`.
    ///
    /// # Panics
    /// If it fails, or prints anything else.
    pub fn json(&self, line: &str) -> Value {
        let text = self.run(line);
        if text.trim().is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text}"))
    }

    /// Starts a command line in this namespace and leaves it running until the result is dropped.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(&self, line: &str) -> Process {
        Process::start(self.command(line))
    }

    /// Runs a closure with its sockets and /proc/sys/net in this namespace. (/sys stays the test's own.)
    ///
    /// # Panics
    /// With the closure's own panic, or if the namespace cannot be entered.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let Some(name) = &self.name else {
            return work();
        };
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let path = format!("/run/netns/{name}");
                let entered = File::open(&path).and_then(|file| {
                    use std::os::fd::AsFd as _;
                    let kind = Some(LinkNameSpaceType::Network);
                    Ok(move_into_link_name_space(file.as_fd(), kind)?)
                });
                if let Err(error) = entered {
                    panic!("{path}: {error}");
                }
                work()
            });
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}
