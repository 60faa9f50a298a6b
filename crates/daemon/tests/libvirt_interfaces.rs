//! Interfaces of the host as libvirt's clients see them, beside what libvirt's own daemon (its udev backend) and its driver for
//! tests make of the same.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::python::{PYTHON, binding};
use common::remote::{Client, call};
use common::{Host, SOON};
use patchcord_libvirt_wire::xdr::Writer;
use patchcord_libvirt_wire::{Procedure, Status};
use patchcord_testkit::{Libvirtd, Namespace, has_dummy, in_namespace, needs, wait_until};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// What libvirt says of what nothing here does yet.
const UNSUPPORTED: &str = "error: this function is not supported by the connection driver: ";

/// A bridge with a port and a guest's tap; a link with addresses and a way out, and one without a carrier; a macvlan, and a
/// macvtap for a guest; a bridge that is down.
const LINKS: &str = "ip link add eth0 address 52:54:00:00:00:10 type veth peer name far0 address 52:54:00:00:00:20
    ip link add eth1 address 52:54:00:00:00:11 type veth peer name far1 address 52:54:00:00:00:21
    ip link add eth2 address 52:54:00:00:00:12 type veth peer name far2 address 52:54:00:00:00:22
    ip link add br0 address 52:54:00:00:00:30 type bridge forward_delay 250
    ip link add br1 address 52:54:00:00:00:31 mtu 1400 type bridge forward_delay 1500
    ip link set dev eth0 master br0
    ip tuntap add dev vnet0 mode tap
    ip link set dev vnet0 address fe:54:00:00:00:01 master br0
    ip link add link eth1 name host0 address 52:54:00:00:00:40 type macvlan mode bridge
    ip link add link eth1 name guest0 address 52:54:00:00:00:41 type macvtap mode bridge
    ip link set dev eth1 addrgenmode none mtu 1450
    ip link set dev far0 up
    ip link set dev far1 up
    ip link set dev eth0 up
    ip link set dev eth1 up
    ip link set dev eth2 up
    ip link set dev br0 up
    ip address add 192.0.2.1/24 dev eth1
    ip address add 2001:db8::1/64 dev eth1 nodad
    ip route add default via 192.0.2.254 metric 20
    ip route add default via 192.0.2.253 metric 10
    ip -6 route add default via 2001:db8::ff";

fn run_all(ns: &Namespace, lines: &str) {
    lines.lines().for_each(|line| drop(ns.run(line)));
}

/// A host whose links were there before its daemon, which finds sysfs where it always is.
fn host<'a>(ns: &'a Namespace, links: &str) -> Host<'a> {
    run_all(ns, links);
    let mut host = Host::without_daemon(ns);
    symlink("/sys", host.root.join("sys")).unwrap();
    host.start();
    host
}

fn sockets(host: &Host<'_>) -> [PathBuf; 2] {
    ["virtinterfaced-sock", "virtinterfaced-sock-ro"].map(|name| host.root.join("run/libvirt").join(name))
}

/// virsh, on some driver for interfaces.
struct Virsh {
    uri: String,
}

impl Virsh {
    fn on(socket: &Path) -> Self {
        Self { uri: uri(socket) }
    }

    fn ours(host: &Host<'_>) -> Self {
        Self::on(&sockets(host)[0])
    }

    fn command(&self, arguments: &str) -> Command {
        let mut virsh = Command::new("virsh");
        virsh.args(["-q", "-c", &self.uri]).args(arguments.split(' ')).env("LC_ALL", "C").stdin(Stdio::null());
        virsh
    }

    /// What it prints of something that works.
    fn says(&self, arguments: &str) -> String {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(status.success(), "virsh {arguments}: {stdout}{stderr}");
        stdout.trim_end().to_owned() + "\n"
    }

    /// What it prints of something that does not.
    fn complains(&self, arguments: &str) -> String {
        let Output { status, stderr, .. } = self.command(arguments).output().unwrap();
        assert!(!status.success(), "virsh {arguments} should fail");
        String::from_utf8(stderr).unwrap()
    }

    /// The rows of a list, with their columns one space apart.
    fn rows(&self, arguments: &str) -> Vec<String> {
        let list = self.says(arguments);
        let rows = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        rows.filter(|row| !row.is_empty()).collect()
    }

    /// Waits until a list is that: the kernel takes its time to tell.
    fn comes_to(&self, arguments: &str, expected: &[&str]) {
        wait_until(arguments, SOON, || {
            let rows = self.rows(arguments);
            if rows == expected { Ok(()) } else { Err(format!("{rows:#?}")) }
        });
    }
}

/// The last of [`LINKS`] to run is the bridge.
fn wait_for_bridge(virsh: &Virsh) {
    wait_until("br0 to run", SOON, || if virsh.rows("iface-list").len() == 5 { Ok(()) } else { Err("it does not") });
}

fn uri(socket: &Path) -> String {
    format!("interface+unix:///system?socket={}", socket.display())
}

#[test]
fn virsh_lists_finds_and_shows_what_the_host_has() {
    in_namespace(|ns| {
        let host = host(ns, LINKS);
        let virsh = Virsh::ours(&host);
        let active = [
            "br0 active 52:54:00:00:00:30",
            "eth1 active 52:54:00:00:00:11",
            "far0 active 52:54:00:00:00:20",
            "far1 active 52:54:00:00:00:21",
            "lo active 00:00:00:00:00:00",
        ];
        let inactive = [
            "br1 inactive 52:54:00:00:00:31",
            "eth2 inactive 52:54:00:00:00:12",
            "far2 inactive 52:54:00:00:00:22",
            "host0 inactive 52:54:00:00:00:40",
        ];
        virsh.comes_to("iface-list", &active);
        virsh.comes_to("iface-list --inactive", &inactive);
        let mut all = [&active[..], &inactive].concat();
        all.sort_unstable();
        virsh.comes_to("iface-list --all", &all);
        // What is asked by name may be anything.
        for (name, mac) in [("eth0", "52:54:00:00:00:10"), ("vnet0", "fe:54:00:00:00:01"), ("br0", "52:54:00:00:00:30")]
        {
            assert_eq!(virsh.says(&format!("iface-mac {name}")).trim(), mac);
            assert_eq!(virsh.says(&format!("iface-name {}", mac.to_uppercase())).trim(), name);
        }
        let expected = "<interface type='ethernet' name='eth1'>
  <mtu size='1450'/>
  <protocol family='ipv4'>
    <ip address='192.0.2.1' prefix='24'/>
    <route gateway='192.0.2.253'/>
  </protocol>
  <protocol family='ipv6'>
    <ip address='2001:db8::1' prefix='64'/>
    <route gateway='2001:db8::ff'/>
  </protocol>
  <link speed='10000' state='up'/>
  <mac address='52:54:00:00:00:11'/>
</interface>
";
        assert_eq!(virsh.says("iface-dumpxml eth1"), expected);
        assert_eq!(virsh.says("iface-dumpxml 52:54:00:00:00:11"), expected);
        let configured = expected.replace("  <link speed='10000' state='up'/>\n", "");
        assert_eq!(virsh.says("iface-dumpxml --inactive eth1"), configured);
        let bridge = "<interface type='bridge' name='br0'>
  <mtu size='1500'/>
  <bridge stp='off' delay='2.5'>
    <interface type='ethernet' name='eth0'>
      <mac address='52:54:00:00:00:10'/>
    </interface>
  </bridge>
</interface>
";
        assert_eq!(virsh.says("iface-dumpxml --inactive br0"), bridge);

        // It is what there is now that is told.
        run_all(
            ns,
            "ip link add eth3 address 52:54:00:00:00:13 type veth peer name far3 address 52:54:00:00:00:11
            ip link set dev far2 up
            ip link set dev br1 name br2
            ip link del host0",
        );
        virsh.comes_to(
            "iface-list --all",
            &[
                "br0 active 52:54:00:00:00:30",
                "br2 inactive 52:54:00:00:00:31",
                "eth1 active 52:54:00:00:00:11",
                "eth2 active 52:54:00:00:00:12",
                "eth3 inactive 52:54:00:00:00:13",
                "far0 active 52:54:00:00:00:20",
                "far1 active 52:54:00:00:00:21",
                "far2 active 52:54:00:00:00:22",
                "far3 inactive 52:54:00:00:00:11",
                "lo active 00:00:00:00:00:00",
            ],
        );
        // virsh does not say why.
        assert!(virsh.complains("iface-name 52:54:00:00:00:11").contains("failed to get interface"));
        let gone = "error: Interface not found: interface 'host0': there is no such link on this host";
        assert!(virsh.complains("iface-dumpxml host0").contains(gone));
        // Nothing of that is listened to before somebody asks, and nothing was put right.
        assert!(!host.log().contains("put right"), "{}", host.log());
    });
}

#[test]
fn what_would_change_interfaces_is_not_supported_and_says_so() {
    in_namespace(|ns| {
        let host = host(ns, LINKS);
        let virsh = Virsh::ours(&host);
        wait_for_bridge(&virsh);
        let now = || (virsh.rows("iface-list --all"), virsh.says("iface-dumpxml eth1"), ns.run("ip route"));
        let before = now();
        let file = host.root.join("eth1.xml");
        fs::write(&file, virsh.says("iface-dumpxml --inactive eth1")).unwrap();
        let file = file.display();
        let define = format!("iface-define {file}");
        let validated = format!("iface-define --validate {file}");
        for (arguments, api) in [
            (define.as_str(), "virInterfaceDefineXML"),
            (&validated, "virInterfaceDefineXML"),
            ("iface-undefine eth1", "virInterfaceUndefine"),
            ("iface-start br1", "virInterfaceCreate"),
            ("iface-destroy eth1", "virInterfaceDestroy"),
            ("iface-begin", "virInterfaceChangeBegin"),
            ("iface-commit", "virInterfaceChangeCommit"),
            ("iface-rollback", "virInterfaceChangeRollback"),
            ("iface-bridge eth1 br7 --no-start", "virInterfaceDefineXML"),
            ("iface-unbridge br0", "virInterfaceDestroy"),
        ] {
            let said = virsh.complains(arguments);
            let ours = "interfaces of the host are shown here, and changed by what configures the host";
            assert!(said.lines().any(|line| line == format!("{UNSUPPORTED}{api}: {ours}")), "{arguments}: {said}");
        }
        // virsh says so, and ends as if all were well.
        let edited = virsh.command("iface-edit eth1").env("EDITOR", "sed -i s/1450/1400/").output().unwrap();
        assert_eq!(String::from_utf8(edited.stderr).unwrap(), "error: Failed.\n");
        let unchanged = virsh.command("iface-edit eth1").env("EDITOR", "true").output().unwrap();
        assert!(unchanged.status.success() && unchanged.stderr.is_empty(), "{unchanged:?}");
        // On the socket for reading it is refused to begin with, whatever the client says.
        for (socket, code) in sockets(&host).iter().zip([3, 29]) {
            let mut client = Client::on(socket);
            client.say(&call(Procedure::ConnectOpen, 0, Writer::default().u32(0).u32(0)));
            assert_eq!(client.hears().unwrap().header.status, Status::Ok);
            client.say(&call(Procedure::InterfaceDestroy, 1, Writer::default().string("eth1").string("").u32(0)));
            let refused = client.hears_refusal();
            assert!(refused.0 == code && refused.1.contains("virInterfaceDestroy"), "{refused:?}");
        }
        assert_eq!(now(), before);
    });
}

/// What libvirt's driver for tests prints of a document that it has read, once it has found it valid.
fn as_read(directory: &Path, name: &str, document: &str) -> String {
    let file = directory.join("given.xml");
    fs::write(&file, document).unwrap();
    let mut virsh = Command::new("virsh");
    let define = format!("iface-define --validate {}", file.display());
    virsh.args(["-q", "-c", "test:///default", &format!("{define}; iface-dumpxml {name}")]).env("LC_ALL", "C");
    let Output { status, stdout, stderr } = virsh.output().unwrap();
    assert!(status.success(), "{}{document}", String::from_utf8_lossy(&stderr));
    let stdout = String::from_utf8(stdout).unwrap();
    stdout[stdout.find("<interface").unwrap()..].trim_end().to_owned() + "\n"
}

/// These have documents that libvirt reads as its own and prints alike.
fn libvirt_reads_them(host: &Host<'_>, names: &[&str]) {
    let virsh = Virsh::ours(host);
    for name in names {
        for flag in ["", "--inactive "] {
            let ours = virsh.says(&format!("iface-dumpxml {flag}{name}"));
            assert_eq!(as_read(&host.root, name, &ours), ours);
        }
    }
}

fn first_word(row: &str) -> String {
    row.split(' ').next().unwrap_or_default().to_owned()
}

/// What differs from what libvirt's own daemon shows, and is meant to:
///
/// - Addresses and gateways are shown.
/// - A bridge's delay is in seconds, as its documents have it, and not in hundredths of one.
/// - A link whose driver does not say whether it works (`lo`, dummies) is active while it is up.
/// - Macvtaps are guests', as taps are.
fn like_libvirts(host: &Host<'_>, libvirtd: &Libvirtd, others: &[&str]) {
    let (hidden, unknown) = ("guest0", "lo");
    let (ours, theirs) = (Virsh::ours(host), Virsh::on(&libvirtd.sockets()[0]));
    let names = wait_until("the same list", SOON, || {
        let expected: Vec<String> = theirs
            .rows("iface-list --all")
            .into_iter()
            .filter(|row| first_word(row) != hidden)
            .map(|row| if first_word(&row) == unknown { row.replace(" inactive", " active") } else { row })
            .collect();
        let found = ours.rows("iface-list --all");
        if found == expected { Ok(found) } else { Err(format!("{found:#?}, and libvirt's {expected:#?}")) }
    });
    for name in names.iter().map(|row| first_word(row)).chain(others.iter().map(|name| (*name).to_owned())) {
        let [ours, theirs] = [&ours, &theirs].map(|virsh| virsh.says(&format!("iface-dumpxml {name}")));
        assert_eq!(without_addresses(&ours), in_seconds(&theirs), "{name}");
    }
}

fn without_addresses(document: &str) -> String {
    let mut inside = false;
    document.lines().fold(String::new(), |mut kept, line| {
        inside |= line.starts_with("  <protocol");
        if !inside {
            writeln!(kept, "{line}").unwrap();
        }
        inside &= line != "  </protocol>";
        kept
    })
}

fn in_seconds(document: &str) -> String {
    let Some((before, rest)) = document.split_once(" delay='") else { return document.to_owned() };
    let (hundredths, after) = rest.split_once('\'').unwrap();
    let seconds = hundredths.parse::<f64>().unwrap() / 100.0;
    format!("{before} delay='{seconds}'{after}")
}

#[test]
fn documents_are_libvirts_and_say_what_its_own_daemon_says() {
    in_namespace(|ns| {
        let host = host(ns, LINKS);
        let virsh = Virsh::ours(&host);
        wait_for_bridge(&virsh);
        libvirt_reads_them(&host, &["lo", "eth0", "eth1", "eth2", "br0", "br1", "host0", "vnet0", "guest0"]);
        let Some(libvirtd) = Libvirtd::with_interfaces(ns) else { return };
        like_libvirts(&host, &libvirtd, &["eth0", "vnet0", "guest0"]);
    });
}

/// Bonds, VLANs and dummies, in each other.
const STACK: &str = "ip link add eth4 address 52:54:00:00:00:14 type veth peer name far4 address 52:54:00:00:00:24
    ip link add eth5 address 52:54:00:00:00:15 type veth peer name far5 address 52:54:00:00:00:25
    ip link add eth6 address 52:54:00:00:00:18 type veth peer name far6 address 52:54:00:00:00:28
    ip link add bond0 address 52:54:00:00:00:50 type bond mode active-backup miimon 100 updelay 200 downdelay 300
    ip link set dev eth4 master bond0
    ip link set dev eth5 master bond0
    ip link set dev bond0 type bond primary eth5
    ip link add bond1 address 52:54:00:00:00:51 type bond mode 802.3ad miimon 50
    ip link add bond2 address 52:54:00:00:00:52 type bond mode balance-rr arp_interval 250 arp_ip_target 192.0.2.9
    ip link set dev eth6 master bond2
    ip link add dummy0 address 52:54:00:00:00:16 type dummy
    ip link set dev dummy0 master bond1
    ip link add link bond0 name bond0.42 address 52:54:00:00:00:53 type vlan id 42
    ip link add link eth2 name storage address 52:54:00:00:00:54 type vlan id 7
    ip link add dummy1 address 52:54:00:00:00:17 type dummy
    ip link set dev dummy1 up
    ip link set dev far4 up
    ip link set dev far5 up
    ip link set dev bond0 up
    ip link set dev bond1 master br0
    ip link set dev storage master br0";

#[test]
fn bonds_and_vlans_are_libvirts_too() {
    in_namespace(|ns| {
        if !needs("bonds", &["ip link add name probe0 type bond"]) {
            return;
        }
        assert!(has_dummy());
        let host = host(ns, &format!("{LINKS}\n{STACK}"));
        let virsh = Virsh::ours(&host);
        let bond = "<interface type='bond' name='bond0'>
  <mtu size='1500'/>
  <bond mode='active-backup'>
    <miimon freq='100' downdelay='300' updelay='200' carrier='netif'/>
    <interface type='ethernet' name='eth5'>
      <mac address='52:54:00:00:00:50'/>
    </interface>
    <interface type='ethernet' name='eth4'>
      <mac address='52:54:00:00:00:50'/>
    </interface>
  </bond>
</interface>
";
        wait_until("bond0", SOON, || {
            let told = virsh.says("iface-dumpxml --inactive bond0");
            if told == bond { Ok(()) } else { Err(told) }
        });
        // The bond, and not one of its ports, to which it gave its address.
        assert_eq!(virsh.says("iface-name 52:54:00:00:00:50").trim(), "bond0");
        let vlan = "<interface type='vlan' name='bond0.42'>
  <mtu size='1500'/>
  <vlan tag='42'>
    <interface name='bond0'/>
  </vlan>
</interface>
";
        assert_eq!(virsh.says("iface-dumpxml --inactive bond0.42"), vlan);
        let asking = "<arpmon interval='250' target='192.0.2.9'/>";
        assert!(virsh.says("iface-dumpxml bond2").contains(asking));
        let bridge = virsh.says("iface-dumpxml br0");
        let mut parts = bridge.as_str();
        for part in [
            "<interface type='ethernet' name='eth0'>",
            "<interface type='bond' name='bond1'>",
            "<bond mode='802.3ad'>",
            "<miimon freq='50' carrier='netif'/>",
            "<interface type='ethernet' name='dummy0'>",
            "<interface type='vlan' name='storage'>",
            "<vlan tag='7'>",
            "<interface name='eth2'/>",
        ] {
            parts = parts.split_once(part).unwrap_or_else(|| panic!("{part} in {bridge}")).1;
        }
        libvirt_reads_them(&host, &["bond0", "bond1", "bond2", "bond0.42", "storage", "dummy0", "br0"]);
        let active = virsh.rows("iface-list");
        assert!(active.iter().any(|row| row == "dummy1 active 52:54:00:00:00:17"), "{active:?}");
    });
}

/// Goes through a section of `scripts/interfaces.py`.
fn script(whose: &str, [socket, read_only]: &[PathBuf; 2], section: &str) {
    let Some(modules) = binding() else { return };
    let mut python = Command::new(PYTHON);
    python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/interfaces.py")).args([whose, section]);
    python.args([uri(socket), uri(read_only)]).env("PYTHONPATH", modules).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = python.stdin(Stdio::null()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{section}, {whose}: {error}{}", String::from_utf8_lossy(&output.stdout));
}

fn ours(section: &str) {
    in_namespace(|ns| script("ours", &sockets(&host(ns, LINKS)), section));
}

#[test]
fn programs_connect() {
    ours("connection");
}

#[test]
fn programs_list_and_look_up() {
    ours("shows");
}

#[test]
fn programs_make_mistakes() {
    ours("mistakes");
}

#[test]
fn programs_are_refused_what_nothing_does() {
    ours("refusals");
}

#[test]
fn threads_share_a_connection() {
    ours("threads");
}

/// What the script expects is what libvirt's own daemon does, where it doesn't say otherwise.
#[test]
fn libvirts_own_daemon_answers_likewise() {
    in_namespace(|ns| {
        run_all(ns, LINKS);
        let Some(libvirtd) = Libvirtd::with_interfaces(ns) else { return };
        for section in ["connection", "shows", "mistakes", "refusals", "threads"] {
            script("libvirts", &libvirtd.sockets(), section);
        }
    });
}
