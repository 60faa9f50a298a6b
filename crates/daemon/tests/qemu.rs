//! Real machines, in the three ways in which QEMU gets a tap: it has a lease, and goes on while the daemon dies and while
//! its network stops and starts.
//!
//! The machine is emulated and boots the image of `cargo xtask guest-image`, which obeys lines on its serial console.
// clippy.toml allows it in tests, which does not cover the helpers beside them.
#![allow(clippy::unwrap_used)]

mod common;

use common::console::{BOOT, Console, guest_image};
use common::{Host, SOON, interface_with_mac, tap};
use patchcord_api::methods::{AttachNIC, OwnNIC};
use patchcord_testkit::{Namespace, in_namespace, skip, test_name, wait_until};
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const MAC: &str = "52:54:00:00:00:09";
const GATEWAY: &str = "192.0.2.1";

/// Debian's nobody, as whom QEMU runs where it needs no privilege.
const NOBODY: u32 = 65534;

/// A network whose bridge forwards at once.
const LAB: &str = "<network><name>lab</name><forward mode='nat'/><bridge name='virbr0' stp='off'/><ip address='192.0.2.1' prefix='24'>\
                   <dhcp><range start='192.0.2.50' end='192.0.2.99'/></dhcp></ip></network>";

/// What the tests need besides the daemon.
struct Kit {
    /// Where `patchcord` and its helper are.
    programs: PathBuf,
    /// Where the machine's kernel and initramfs are.
    image: PathBuf,
}

impl Kit {
    /// Finds it, or skips the test.
    fn find() -> Option<Self> {
        let image = guest_image()?;
        let programs = Path::new(env!("CARGO_BIN_EXE_patchcordd")).parent().unwrap().to_owned();
        if programs.join("patchcord").exists() && programs.join("patchcord-qemu-helper").exists() {
            return Some(Self { programs, image });
        }
        skip(&test_name(), "host has no patchcord: 'cargo build --workspace' makes it");
        None
    }

    /// QEMU's arguments: the value of `-netdev` without its id.
    fn machine(&self, netdev: &str, mac: &str) -> Vec<String> {
        let file = |name: &str| self.image.join(name).display().to_string();
        let fixed = "-accel tcg -cpu max -m 128 -nodefaults -no-user-config -no-reboot -display none -serial stdio";
        let mut args: Vec<String> = fixed.split(' ').map(str::to_owned).collect();
        args.extend(["-kernel".into(), file("vmlinuz"), "-initrd".into(), file("initramfs"), "-append".into()]);
        args.push("console=ttyS0 quiet loglevel=1 panic=-1 guest_name=vm".into());
        let device = format!("virtio-net-pci,netdev=n0,mac={mac},romfile=");
        args.extend(["-netdev".into(), format!("{netdev},id=n0"), "-device".into(), device]);
        args
    }
}

/// A running machine and its console.
struct Machine {
    child: Child,
    console: Console,
}

impl Machine {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let console = Console::new(child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, console }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A daemon with the network, on which the user `nobody` may attach NICs, and a tap device for all users.
fn host(ns: &Namespace) -> Host<'_> {
    // The test's own mounts; this one has room for a device node.
    ns.run("mknod -m 666 /run/netns/tun c 10 200");
    ns.run("mount --bind /run/netns/tun /dev/net/tun");
    let mut host = Host::without_daemon(ns);
    fs::create_dir_all(host.root.join("etc/patchcord")).unwrap();
    let access = "[[access]]\nusers = ['nobody']\nnetworks = ['lab']\nallow = ['attach', 'show']\n";
    fs::write(host.root.join("etc/patchcord/patchcord.toml"), access).unwrap();
    host.start();
    host.network(LAB);
    host
}

/// QEMU as nobody, who can't read below a private build directory: the files are where it can.
fn unprivileged_qemu(host: &Host<'_>, kit: &mut Kit) -> Command {
    let bin = host.root.join("bin");
    fs::create_dir(&bin).unwrap();
    for (from, name) in [(&kit.programs, "patchcord-qemu-helper"), (&kit.image, "vmlinuz"), (&kit.image, "initramfs")] {
        fs::copy(from.join(name), bin.join(name)).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    kit.image = bin;
    let mut command =
        host.ns.command(&format!("setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups qemu-system-x86_64"));
    command.current_dir("/");
    command
}

/// The machine has a lease, and keeps its network through what happens to the daemon and to the network.
fn lives(host: &mut Host<'_>, machine: &mut Machine) {
    let address = machine.console.hear("vm: address ", BOOT);
    assert!(address.starts_with("192.0.2.") && address.contains(&format!("gateway {GATEWAY}, DNS {GATEWAY}")));
    let address = address.split('/').next().unwrap().to_owned();
    assert!(machine.console.pings(GATEWAY));
    // It echoes what a connection to port 7 sends. Its service may start a moment after its lease.
    let echoed = wait_until("the echo", SOON, || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&format!("{address}:7").parse().unwrap(), SOON)?;
        stream.write_all(b"hello")?;
        stream.shutdown(std::net::Shutdown::Write)?;
        std::io::read_to_string(stream)
    });
    assert_eq!(echoed, "hello");

    let before = host.nics();
    assert_eq!(before.len(), 1, "{before:?}");
    assert_eq!(machine.console.ask(&format!("watch {GATEWAY}")), "answers");
    host.kill();
    assert!(machine.console.pings(GATEWAY));
    host.start();
    assert_eq!(host.nics(), before);
    assert!(machine.console.pings(GATEWAY));
    let count = machine.console.ask("count");
    assert!(count.contains(", lost 0, ") && !count.starts_with("sent 0,"), "{count}");

    host.stop_network("lab");
    assert_eq!(host.nics()[0].state, "parked");
    assert!(!machine.console.pings(GATEWAY));
    host.start_network("lab");
    assert_eq!(host.nics()[0].state, "plugged");
    wait_until("the machine on its network", SOON, || machine.console.pings(GATEWAY).then_some(()).ok_or("no answer"));
    assert_eq!(host.nics()[0].actual.tap, before[0].actual.tap);
}

/// Its NIC ends with the machine, which is its owner.
fn ends(host: &Host<'_>, machine: Machine) {
    drop(machine);
    wait_until("the end of its NIC", SOON, || match host.nics() {
        nics if nics.is_empty() => Ok(()),
        nics => Err(format!("{nics:?}")),
    });
    wait_until("the end of its tap", SOON, || {
        let links = host.ns.json("ip -j link show");
        let names: Vec<&str> = links.as_array().unwrap().iter().filter_map(|link| link["ifname"].as_str()).collect();
        if names == ["lo", "virbr0"] { Ok(()) } else { Err(names.join(" ")) }
    });
}

#[test]
fn a_machine_by_descriptor() {
    let Some(kit) = Kit::find() else { return };
    in_namespace(|ns| {
        let mut host = host(ns);
        let mut run = Command::new(kit.programs.join("patchcord"));
        run.arg("--root").arg(&host.root).args(["run", "--guest", "vm", "--nic", "network=lab", "--"]);
        run.arg("qemu-system-x86_64").args(kit.machine("tap,fd={fd0}", "{mac0}"));
        let mut machine = Machine::start(&mut run);
        lives(&mut host, &mut machine);
        let nic = &host.nics()[0];
        assert_eq!((nic.guest.as_str(), nic.owner.map(|owner| owner.pid)), ("vm", Some(machine.child.id())));
        ends(&host, machine);
    });
}

#[test]
fn a_machine_by_name() {
    let Some(mut kit) = Kit::find() else { return };
    in_namespace(|ns| {
        let mut host = host(ns);
        let attach = AttachNIC {
            guest: "vm".into(),
            xml: interface_with_mac("lab", MAC),
            by_name: Some(true),
            uid: Some(NOBODY),
            ..AttachNIC::default()
        };
        let nic = host.call(&attach).nic;
        let mut qemu = unprivileged_qemu(&host, &mut kit);
        let netdev = format!("tap,ifname={},script=no,downscript=no", tap(&nic));
        let mut machine = Machine::start(qemu.args(kit.machine(&netdev, MAC)));
        host.call(&OwnNIC { id: nic.id, pid: Some(machine.child.id()) });
        lives(&mut host, &mut machine);
        ends(&host, machine);
    });
}

#[test]
fn a_machine_by_the_helper() {
    let Some(mut kit) = Kit::find() else { return };
    in_namespace(|ns| {
        let mut host = host(ns);
        let mut qemu = unprivileged_qemu(&host, &mut kit);
        let helper = format!("{}/patchcord-qemu-helper --root {}", kit.image.display(), host.root.display());
        let mut machine = Machine::start(qemu.args(kit.machine(&format!("bridge,helper={helper},br=lab"), MAC)));
        lives(&mut host, &mut machine);
        let nic = &host.nics()[0];
        assert_eq!((nic.mac.as_deref(), nic.uid), (None, NOBODY));
        ends(&host, machine);
    });
}

#[test]
fn the_helper_is_refused_where_the_access_list_does_not_allow_it() {
    let Some(mut kit) = Kit::find() else { return };
    in_namespace(|ns| {
        let host = host(ns);
        host.network("<network><name>staff</name></network>");
        let mut qemu = unprivileged_qemu(&host, &mut kit);
        let helper = format!("{}/patchcord-qemu-helper --root {}", kit.image.display(), host.root.display());
        let qemu = qemu.args(kit.machine(&format!("bridge,helper={helper},br=staff"), MAC));
        let output = qemu.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("staff"), "{said}");
        assert_eq!(host.nics(), []);
    });
}
