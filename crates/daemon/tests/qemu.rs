//! Real machines, in the three ways in which QEMU gets a tap: it has a lease, and goes on while the daemon dies and while
//! its network stops and starts.
//!
//! The machine is emulated and boots the image of `cargo xtask guest-image`, which obeys lines on its serial console.
// clippy.toml allows it in tests, which does not cover the helpers beside them.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Host, SOON, interface_with_mac, tap};
use patchcord_api::methods::{AttachNIC, OwnNIC};
use patchcord_testkit::{Namespace, in_namespace, skip, test_name, wait_until};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const MAC: &str = "52:54:00:00:00:09";
const GATEWAY: &str = "192.0.2.1";

/// Debian's nobody, as whom QEMU runs where it needs no privilege.
const NOBODY: u32 = 65534;

/// A network whose bridge forwards at once.
const LAB: &str = "<network><name>lab</name><forward mode='nat'/><bridge name='virbr0' stp='off'/><ip address='192.0.2.1' prefix='24'>\
                   <dhcp><range start='192.0.2.50' end='192.0.2.99'/></dhcp></ip></network>";

/// Emulated, and beside others.
const BOOT: Duration = Duration::from_secs(90);

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
        let programs = Path::new(env!("CARGO_BIN_EXE_patchcordd")).parent().unwrap().to_owned();
        let image = programs.parent().unwrap().join("guest");
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let mut qemu = std::env::split_paths(&paths).map(|path| path.join("qemu-system-x86_64"));
        let missing = if !qemu.any(|path| path.exists()) {
            "host has no qemu-system-x86_64".to_owned()
        } else if !image.join("initramfs").exists() {
            "host has no guest image: 'cargo xtask guest-image' makes it".to_owned()
        } else if !programs.join("patchcord").exists() || !programs.join("patchcord-qemu-helper").exists() {
            "host has no patchcord: 'cargo build --workspace' makes it".to_owned()
        } else {
            return Some(Self { programs, image });
        };
        skip(&test_name(), &missing);
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
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Machine {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let console = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in console.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                println!("console: {line}");
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { input: child.stdin.take().unwrap(), child, lines }
    }

    /// What stands behind `start` in the next line that has it.
    fn hear(&self, start: &str, within: Duration) -> String {
        let end = std::time::Instant::now() + within;
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|error| panic!("no '{start}': {error}"));
            if let Some((_, rest)) = line.split_once(start) {
                return rest.to_owned();
            }
        }
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        self.hear(&format!("vm: {line}: "), SOON)
    }

    fn pings(&mut self, target: &str) -> bool {
        self.ask(&format!("ping {target}")).starts_with("answered")
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
    let address = machine.hear("vm: address ", BOOT);
    assert!(address.starts_with("192.0.2.") && address.contains(&format!("gateway {GATEWAY}, DNS {GATEWAY}")));
    let address = address.split('/').next().unwrap().to_owned();
    assert!(machine.pings(GATEWAY));
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
    assert_eq!(machine.ask(&format!("watch {GATEWAY}")), "answers");
    host.kill();
    assert!(machine.pings(GATEWAY));
    host.start();
    assert_eq!(host.nics(), before);
    assert!(machine.pings(GATEWAY));
    let count = machine.ask("count");
    assert!(count.contains(", lost 0, ") && !count.starts_with("sent 0,"), "{count}");

    host.stop_network("lab");
    assert_eq!(host.nics()[0].state, "parked");
    assert!(!machine.pings(GATEWAY));
    host.start_network("lab");
    assert_eq!(host.nics()[0].state, "plugged");
    wait_until("the machine on its network", SOON, || machine.pings(GATEWAY).then_some(()).ok_or("no answer"));
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
