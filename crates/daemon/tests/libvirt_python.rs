//! libvirt's Python binding on our socket, and the same script on libvirt's own daemon: `scripts/networks.py`.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::python::{PYTHON, binding};
use common::{Host, SOON};
use patchcord_testkit::{Libvirtd, in_namespace};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A daemon that the script is to talk to.
struct Daemon {
    whose: &'static str,
    sockets: [PathBuf; 2],
}

impl Daemon {
    fn ours(host: &Host<'_>) -> Self {
        let directory = host.root.join("run/libvirt");
        let sockets = ["virtnetworkd-sock", "virtnetworkd-sock-ro"].map(|name| directory.join(name));
        Self { whose: "ours", sockets }
    }

    fn libvirts(libvirtd: &Libvirtd) -> Self {
        Self { whose: "libvirts", sockets: libvirtd.sockets() }
    }

    /// The command that goes through a section of the script.
    fn script(&self, modules: &Path, section: &str, arguments: &[&str]) -> Command {
        let mut python = Command::new(PYTHON);
        python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/networks.py"));
        python.args([self.whose, section]);
        python.args(self.sockets.iter().map(|path| format!("network+unix:///system?socket={}", path.display())));
        python.args(arguments).env("PYTHONPATH", modules).env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null());
        python
    }

    /// What a section finds wrong.
    fn fails(&self, modules: &Path, section: &str, arguments: &[&str]) -> Option<String> {
        let output = self.script(modules, section, arguments).output().unwrap();
        let error = || {
            format!("{section}, {}: {}", self.whose, String::from_utf8_lossy(&output.stderr))
                + &String::from_utf8_lossy(&output.stdout)
        };
        (!output.status.success()).then(error)
    }

    fn goes_through(&self, modules: &Path, section: &str, arguments: &[&str]) {
        if let Some(failure) = self.fails(modules, section, arguments) {
            panic!("{failure}");
        }
    }
}

/// Goes through a section with our daemon.
fn ours(section: &str) {
    in_namespace(|ns| {
        let Some(modules) = binding() else { return };
        Daemon::ours(&Host::new(ns)).goes_through(&modules, section, &[]);
    });
}

#[test]
fn connections_say_what_they_are() {
    ours("connection");
}

#[test]
fn networks_live_and_are_listed() {
    ours("lives");
}

#[test]
fn mistakes_have_the_codes_that_programs_look_for() {
    ours("mistakes");
}

#[test]
fn programs_hear_of_what_happens() {
    ours("events");
}

#[test]
fn threads_share_connections_and_have_their_own() {
    ours("threads");
}

#[test]
fn updates_go_where_they_belong() {
    ours("updates");
}

#[test]
fn ports_are_made_and_found() {
    ours("ports");
}

#[test]
fn leases_are_told() {
    in_namespace(|ns| {
        let Some(modules) = binding() else { return };
        let host = Host::new(ns);
        host.network(
            "<network><name>lab</name><bridge name='virbr7'/><ip address='10.77.0.1' netmask='255.255.255.0'>\
             <dhcp><range start='10.77.0.2' end='10.77.0.99'/></dhcp></ip></network>",
        );
        let (nic, mut guest) = host.guest_on("lab", "web");
        guest.dhcp(SOON).unwrap();
        Daemon::ours(&host).goes_through(&modules, "leases", &["lab", nic.mac.as_deref().unwrap()]);
    });
}

#[test]
fn programs_hear_that_the_daemon_went() {
    in_namespace(|ns| {
        let Some(modules) = binding() else { return };
        let mut host = Host::new(ns);
        let mut script = Daemon::ours(&host).script(&modules, "closing", &[]);
        let mut script = script.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(script.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line == "ready\n" {
            host.stop();
        }
        let status = script.wait().unwrap();
        let mut error = String::new();
        script.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        assert!(status.success(), "{error}");
    });
}

/// What the script expects is what libvirt's own daemon does, where it doesn't say otherwise.
fn libvirts(sections: &[&str]) {
    in_namespace(|ns| {
        let Some(modules) = binding() else { return };
        let Some(libvirtd) = Libvirtd::start(ns) else { return };
        let daemon = Daemon::libvirts(&libvirtd);
        sections.iter().for_each(|section| daemon.goes_through(&modules, section, &[]));
    });
}

#[test]
fn libvirts_own_daemon_lives_likewise() {
    libvirts(&["connection", "lives", "mistakes", "events", "ports"]);
}

#[test]
fn libvirts_own_daemon_updates_likewise() {
    libvirts(&["updates"]);
}

#[test]
fn libvirts_own_daemon_serves_threads_likewise() {
    libvirts(&["threads"]);
}
