//! Programs that others wrote on libvirt's library, on our sockets: its Perl binding, and virt-manager's library.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::remote::socket;
use common::{Host, SOON};
use patchcord_testkit::{in_namespace, skip, test_name, unpacked};
use std::env::consts::ARCH;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
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

/// Perl with the binding of the package.
fn perl(package: &Path, arguments: &[&str]) -> Command {
    let mut perl = Command::new("perl");
    let libraries = package.join(format!("usr/lib/{ARCH}-linux-gnu"));
    let modules = fs::read_dir(libraries.join("perl5")).into_iter().flatten().flatten();
    let modules: Vec<_> = modules.map(|entry| entry.path().display().to_string()).collect();
    perl.args(arguments).env("PERL5LIB", modules.join(":")).env("LD_LIBRARY_PATH", libraries);
    perl
}

/// Where the binding is, if it can be used; if not, the test is skipped.
fn perls_binding() -> Option<PathBuf> {
    unpacked("sys-virt").filter(|package| can(perl(package, &["-MSys::Virt", "-e", "1"])))
}

#[test]
fn perls_binding_goes_through_all_that_networks_have() {
    in_namespace(|ns| {
        let Some(package) = perls_binding() else { return };
        let host = Host::new(ns);
        host.network(LAB);
        let (nic, mut guest) = host.guest_on("lab", "web");
        guest.dhcp(SOON).unwrap();
        let mac = nic.mac.unwrap();
        let arguments = [&script("networks.pl"), &uri(&host, false), &uri(&host, true), "lab", &mac];
        goes_through(perl(&package, &arguments), &host);
    });
}

#[test]
fn perls_binding_goes_through_interfaces_and_node_devices() {
    in_namespace(|ns| {
        let Some(package) = perls_binding() else { return };
        let away = ns.peer("away");
        for (link, up) in [("eth1", true), ("eth2", false)] {
            ns.veth(link, &away, link);
            let state = if up { "up" } else { "down" };
            ns.run(&format!("ip link set {link} address 52:54:00:00:00:0{} {state}", &link[3..]));
        }
        let mut host = Host::without_daemon(ns);
        symlink("/sys", host.root.join("sys")).unwrap();
        fs::create_dir_all(host.root.join("etc/patchcord")).unwrap();
        fs::write(host.root.join("etc/patchcord/patchcord.toml"), "[libvirt]\nnodedev = \"on\"\n").unwrap();
        host.start();
        let uri = |driver: &str, socket: &str| {
            format!("{driver}+unix:///system?socket={}", host.root.join("run/libvirt").join(socket).display())
        };
        let interfaces = uri("interface", "virtinterfaced-sock");
        let [devices, readers] = ["virtnodedevd-sock", "virtnodedevd-sock-ro"].map(|socket| uri("nodedev", socket));
        goes_through(perl(&package, &[&script("host.pl"), &interfaces, &devices, &readers]), &host);
    });
}

#[test]
fn virt_managers_library_lists_networks_and_makes_one() {
    in_namespace(|ns| {
        let Some(package) = unpacked("virtinst") else { return };
        let host = Host::new(ns);
        let home = host.root.join("home");
        fs::create_dir_all(&home).unwrap();
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
