//! Programs that others wrote on libvirt's library, on our sockets: its Perl binding, and virt-manager's library.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::remote::socket;
use common::{Host, SOON};
use patchcord_testkit::{in_namespace, skip, test_name, unpacked};
use std::env::consts::ARCH;
use std::path::Path;
use std::process::Command;

const LAB: &str = "<network><name>lab</name><forward mode='nat'/><bridge name='virbr7'/>\
    <ip address='10.77.0.1' netmask='255.255.255.0'><dhcp><range start='10.77.0.2' end='10.77.0.99'/></dhcp></ip></network>";

fn script(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(name).to_str().unwrap().to_owned()
}

fn uri(host: &Host<'_>, read_only: bool) -> String {
    format!("network+unix:///system?socket={}", socket(host, read_only).display())
}

/// Whether a program that only loads what the script needs ends well; if not, the test is skipped.
fn can(mut trial: Command) -> bool {
    let failure = match trial.output() {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned(),
        Err(error) => error.to_string(),
    };
    skip(&test_name(), &format!("host can't run that program: {failure}"));
    false
}

fn goes_through(mut program: Command, host: &Host<'_>) {
    let output = program.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", host.log());
}

#[test]
fn perls_binding_goes_through_all_that_it_has() {
    in_namespace(|ns| {
        let Some(package) = unpacked("sys-virt") else { return };
        let perl = |arguments: &[&str]| {
            let mut perl = Command::new("perl");
            let libraries = package.join(format!("usr/lib/{ARCH}-linux-gnu"));
            let modules = std::fs::read_dir(libraries.join("perl5")).into_iter().flatten().flatten();
            let modules: Vec<_> = modules.map(|entry| entry.path().display().to_string()).collect();
            perl.args(arguments).env("PERL5LIB", modules.join(":")).env("LD_LIBRARY_PATH", libraries);
            perl
        };
        if !can(perl(&["-MSys::Virt", "-e", "1"])) {
            return;
        }
        let host = Host::new(ns);
        host.network(LAB);
        let (nic, mut guest) = host.guest_on("lab", "web");
        guest.dhcp(SOON).unwrap();
        let mac = nic.mac.unwrap();
        goes_through(perl(&[&script("networks.pl"), &uri(&host, false), &uri(&host, true), "lab", &mac]), &host);
    });
}

#[test]
fn virt_managers_library_lists_networks_and_makes_one() {
    in_namespace(|ns| {
        let Some(package) = unpacked("virtinst") else { return };
        let host = Host::new(ns);
        let home = host.root.join("home");
        std::fs::create_dir_all(&home).unwrap();
        let python = |arguments: &[&str]| {
            let mut python = Command::new("/usr/bin/python3");
            let libraries = package.join(format!("usr/lib/{ARCH}-linux-gnu"));
            let modules = ["usr/lib/python3/dist-packages", "usr/share/virt-manager"].map(|path| package.join(path));
            python.args(arguments).env("PYTHONPATH", modules.map(|path| path.display().to_string()).join(":"));
            python.env("GI_TYPELIB_PATH", libraries.join("girepository-1.0")).env("LD_LIBRARY_PATH", libraries);
            python.env("PYTHONDONTWRITEBYTECODE", "1").env("HOME", &home);
            python
        };
        if !can(python(&["-c", "import virtinst"])) {
            return;
        }
        ns.run("ip link add wire0 type veth peer name wire1");
        host.network(LAB);
        host.network("<network><name>pool</name><forward mode='vepa' dev='wire0'/></network>");
        goes_through(python(&[&script("virt_manager.py"), &uri(&host, false)]), &host);
    });
}
