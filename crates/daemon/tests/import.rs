//! Networks are taken over from libvirt's own daemon while a guest is on them, and handed back.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::{Host, SOON, differences, ip};
use patchcord_api::ImportedNetwork;
use patchcord_api::methods::{ImportLibvirt, Imported, ListLeases};
use patchcord_testkit::{Guest, Libvirtd, Namespace, in_namespace, wait_until};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const GUEST: [u8; 6] = [0x52, 0x54, 0, 0, 0, 7];
const PORT: &str = "11111111-2222-3333-4444-555555555555";

const NETWORKS: [(&str, &str); 5] = [
    (
        "default",
        "<network><name>default</name><forward mode='nat'/><bridge name='virbr0'/>\
         <ip address='192.168.122.1' netmask='255.255.255.0'><dhcp><range start='192.168.122.2' end='192.168.122.254'/>\
         </dhcp></ip><ip family='ipv6' address='fd00:7::1' prefix='64'/>\
         <route address='10.50.0.0' prefix='16' gateway='192.168.122.5'/></network>",
    ),
    (
        "alone",
        "<network><name>alone</name><bridge name='virbr7'/><ip address='10.7.0.1' netmask='255.255.255.0'/></network>",
    ),
    ("later", "<network><name>later</name><ip address='10.8.0.1' netmask='255.255.255.0'/></network>"),
    ("wire", "<network><name>wire</name><bridge name='virbr9'/></network>"),
    ("office", "<network><name>office</name><forward mode='bridge'/><bridge name='br0'/></network>"),
];

/// One that libvirt's daemon has never seen.
const MADE_SINCE: &str = "<network><name>made</name><forward mode='route'/><bridge name='virbr42'/>\
                          <ip address='10.42.0.1' netmask='255.255.255.0'/></network>";

/// What virsh prints for a command line.
fn virsh(socket: &Path, line: &str) -> String {
    try_virsh(socket, line).unwrap_or_else(|complaint| panic!("virsh {line}: {complaint}"))
}

/// The same, or what it complains of.
fn try_virsh(socket: &Path, line: &str) -> Result<String, String> {
    let mut virsh = Command::new("virsh");
    let uri = format!("network+unix:///system?socket={}", socket.display());
    virsh.args(["-q", "-c", &uri]).args(line.split(' ')).env("LC_ALL", "C").stdin(Stdio::null());
    let output = virsh.output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    if output.status.success() { Ok(stdout) } else { Err(stdout + &stderr) }
}

/// The networks that a daemon lists, with their states.
fn listed(socket: &Path) -> Vec<String> {
    let text = virsh(socket, "net-list --all");
    let row = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().map(row).filter(|row| !row.is_empty()).collect()
}

fn outside(ns: &Namespace) -> Namespace {
    let outside = ns.peer("outside");
    ns.veth("uplink", &outside, "eth0");
    ns.run("ip addr add 203.0.113.1/24 dev uplink");
    ns.run("ip link add br0 type bridge");
    outside.run("ip addr add 203.0.113.2/24 dev eth0");
    outside
}

fn define(libvirtd: &Libvirtd, start: &[&str]) {
    let socket = &libvirtd.sockets()[0];
    for (name, xml) in NETWORKS {
        let file = format!("/run/{name}.xml");
        fs::write(&file, xml).unwrap();
        virsh(socket, &format!("net-define {file}"));
    }
    for name in start {
        virsh(socket, &format!("net-start {name}"));
    }
    virsh(socket, "net-autostart default");
}

/// A guest as libvirt's QEMU driver plugs it in: its port, and a tap in the port's bridge.
fn guest(ns: &Namespace, socket: &Path) -> Guest {
    let port = format!(
        "<networkport><uuid>{PORT}</uuid><owner><name>web</name><uuid>aaaaaaaa-2222-3333-4444-555555555555</uuid>\
         </owner><mac address='52:54:00:00:00:07'/></networkport>"
    );
    fs::write("/run/port.xml", port).unwrap();
    virsh(socket, "net-port-create default /run/port.xml");
    ns.run("ip tuntap add dev vnet0 mode tap vnet_hdr");
    ns.run("ip link set dev vnet0 address fe:54:00:00:00:07 master virbr0 up");
    Guest::open_by_name("vnet0", GUEST).unwrap()
}

fn import(host: &Host<'_>, dry_run: bool, undo: bool) -> Imported {
    host.call(&ImportLibvirt { dry_run: Some(dry_run), undo: Some(undo) })
}

fn named<'a>(imported: &'a Imported, name: &str) -> &'a ImportedNetwork {
    imported.networks.iter().find(|network| network.name == name).unwrap_or_else(|| panic!("{name}: {imported:#?}"))
}

fn index(ns: &Namespace, link: &str) -> Value {
    ns.json(&format!("ip -j link show dev {link}"))[0]["ifindex"].clone()
}

fn addresses(ns: &Namespace, link: &str) -> Vec<String> {
    let text = ns.run(&format!("ip -o addr show dev {link} scope global"));
    text.lines().map(|line| line.split_whitespace().nth(3).unwrap().to_owned()).collect()
}

/// Rules of libvirt's that are about a network.
fn libvirts_rules(ns: &Namespace) -> Vec<String> {
    let all = ns.run("nft list ruleset");
    let ours = all.split("table ").filter(|table| !table.starts_with("inet patchcord"));
    let about = |line: &&str| ["virbr", "192.168.122", "10.7.0", "fd00:7"].iter().any(|sign| line.contains(sign));
    ours.flat_map(|table| table.lines().filter(about)).map(str::to_owned).collect()
}

#[test]
fn networks_change_hands_and_back_without_a_lost_packet() {
    in_namespace(|ns| {
        let Some(mut libvirtd) = Libvirtd::beside(ns) else { return };
        let theirs = libvirtd.sockets()[0].clone();
        let _outside = outside(ns);
        define(&libvirtd, &["default", "alone", "wire", "office"]);
        let mut guest = guest(ns, &theirs);
        guest.set_hostname("web");
        let lease = guest.dhcp(SOON).unwrap();
        let uuid = virsh(&theirs, "net-uuid default").trim().to_owned();
        let before = (index(ns, "virbr0"), addresses(ns, "virbr0"), index(ns, "virbr7"));
        assert!(libvirts_rules(ns).len() > 10, "{:?}", libvirts_rules(ns));
        let guest = guest.run_in_background();
        guest.ping_every(ip("203.0.113.2"), Duration::from_millis(5), SOON).unwrap();

        // While libvirt's daemon runs nothing is taken over, but what would be is told.
        let mut host = Host::beside_libvirt(ns);
        host.start();
        let (name, refusal) = host.refused(&ImportLibvirt::default());
        assert!(name.ends_with("InUse") && refusal.hint.unwrap().contains("systemctl stop virtnetworkd"), "{name}");
        let told = import(&host, true, false);
        assert!(told.warnings[0].contains("libvirt's daemon serves"), "{:?}", told.warnings);
        assert!(told.networks.len() == NETWORKS.len() && told.networks.iter().all(|n| n.done), "{told:#?}");
        assert!(host.nics().is_empty(), "nothing was done");
        host.stop();
        libvirtd.stop();
        fs::remove_file(&theirs).ok();
        host.start();

        let imported = import(&host, false, false);
        assert!(imported.networks.iter().all(|n| n.done && n.warnings.is_empty()), "{imported:#?}");
        let default = named(&imported, "default");
        assert_eq!(
            (default.uuid.as_deref(), default.active, default.autostart, default.ports),
            (Some(&*uuid), true, true, 1)
        );
        assert!(!named(&imported, "later").active);
        let ours = host.root.join("run/libvirt/virtnetworkd-sock");
        let rows = [
            "alone active no yes",
            "default active yes yes",
            "later inactive no yes",
            "office active no yes",
            "wire active no yes",
        ];
        assert_eq!(listed(&ours), rows);
        assert_eq!(virsh(&ours, "net-uuid default").trim(), uuid);
        assert_eq!((index(ns, "virbr0"), addresses(ns, "virbr0"), index(ns, "virbr7")), before);
        assert_eq!(libvirts_rules(ns), [""; 0]);
        assert!(!ns.run("nft list ruleset").contains("LIBVIRT"), "nothing of libvirt's is left where nothing uses it");
        assert!(host.rules().contains("192.168.122.0/24"));
        assert!(virsh(&ours, "net-port-list default").contains(PORT));
        let nic = &host.nics()[0];
        assert_eq!((nic.state.as_str(), nic.actual.tap.as_deref()), ("plugged", Some("vnet0")));

        // The lease is known, and renewed at the same address, by our dnsmasq.
        assert_eq!(host.dnsmasqs().len(), 2);
        wait_until("the lease", SOON, || {
            let known = host.call(&ListLeases { network: "default".into() }).leases;
            let same = known.iter().any(|l| l.ip == lease.address.to_string() && l.hostname.as_deref() == Some("web"));
            if same { Ok(()) } else { Err(format!("{known:?}")) }
        });

        // libvirt's daemon, where it runs for its guests' sake, leaves alone what it does not run, and can't start it. (One of
        // version 11 deletes the bridge as it finds that it can't. That is put right, but guests notice.)
        let state = host.state();
        libvirtd.again();
        assert_eq!(listed(&theirs)[1], "default inactive no yes");
        if ns.run("virsh --version").starts_with("9.") {
            assert!(try_virsh(&theirs, "net-start default").unwrap_err().contains("virbr0"));
        }
        libvirtd.stop();
        fs::remove_file(&theirs).ok();
        assert_eq!(differences(&state, &host.state()), "");

        // It is taken over for good: a restart, a second import and a stop know the bridge as claimed.
        host.kill();
        host.start();
        assert!(import(&host, false, false).networks.iter().all(|n| n.done));
        assert_eq!((index(ns, "virbr0"), host.nics().len()), (before.0.clone(), 1));
        host.stop_network("alone");
        let link = &ns.json("ip -j addr show dev virbr7")[0];
        assert_eq!((&link["ifindex"], link["flags"].as_array().unwrap().iter().any(|f| f == "UP")), (&before.2, false));
        assert_eq!(addresses(ns, "virbr7"), [""; 0]);
        host.start_network("alone");
        assert_eq!((index(ns, "virbr7"), addresses(ns, "virbr7").len()), (before.2.clone(), 1));
        let (guest, seen) = guest.finish();
        assert!(seen.lost() == 0 && seen.sent > 50, "{seen:?}");
        let mut guest = guest;
        let same = guest.dhcp(SOON).unwrap();
        assert_eq!((same.address, same.server), (lease.address, lease.server));

        // And back. A lease makes the guest ask for its neighbours again.
        Host::reaches(&mut guest, "192.168.122.1");
        let guest = guest.run_in_background();
        guest.ping_every(ip("192.168.122.1"), Duration::from_millis(5), SOON).unwrap();
        host.network(MADE_SINCE);
        let made = index(ns, "virbr42");
        let handed = import(&host, false, true);
        assert!(handed.networks.len() == NETWORKS.len() + 1 && handed.networks.iter().all(|n| n.done), "{handed:#?}");
        assert_eq!((listed(&ours), host.nics().len(), host.dnsmasqs().len()), (vec![], 0, 0));
        assert!(!host.rules().contains("192.168.122"), "{}", host.rules());
        assert_eq!(ns.json("ip -j link show dev virbr0")[0]["ifalias"], Value::Null);
        host.stop();
        libvirtd.again();
        let rows = [&rows[..3], &["made active no yes"], &rows[3..]].concat();
        assert_eq!(listed(&theirs), rows);
        assert_eq!((index(ns, "virbr0"), addresses(ns, "virbr0")), (before.0, before.1));
        assert_eq!(index(ns, "virbr42"), made);
        assert!(virsh(&theirs, "net-port-list default").contains(PORT));
        assert!(libvirts_rules(ns).len() > 10);
        wait_until("the lease", SOON, || {
            let leases = virsh(&theirs, "net-dhcp-leases default");
            if leases.contains(&lease.address.to_string()) { Ok(()) } else { Err(leases) }
        });
        let (mut guest, seen) = guest.finish();
        assert!(seen.lost() == 0 && seen.sent > 50, "{seen:?}");
        assert_eq!(guest.dhcp(SOON).unwrap().address, lease.address);
    });
}

#[test]
fn rules_that_let_guests_through_a_firewall_stay_until_it_lets_them_through_itself() {
    in_namespace(|ns| {
        let Some(mut libvirtd) = Libvirtd::beside(ns) else { return };
        let theirs = libvirtd.sockets()[0].clone();
        let _outside = outside(ns);
        ns.run("iptables -P FORWARD DROP");
        define(&libvirtd, &["default"]);
        let mut guest = guest(ns, &theirs);
        guest.dhcp(SOON).unwrap();
        Host::reaches(&mut guest, "203.0.113.2");
        let guest = guest.run_in_background();
        guest.ping_every(ip("203.0.113.2"), Duration::from_millis(5), SOON).unwrap();
        libvirtd.stop();
        fs::remove_file(&theirs).ok();

        let mut host = Host::beside_libvirt(ns);
        host.start();
        let imported = import(&host, false, false);
        let warnings = &named(&imported, "default").warnings;
        assert!(warnings.len() == 1 && warnings[0].contains("ip filter FORWARD"), "{warnings:?}");
        assert!(libvirts_rules(ns).len() > 10);
        let (mut guest, seen) = guest.finish();
        assert!(seen.lost() == 0 && seen.sent > 10, "{seen:?}");

        ns.run("iptables -P FORWARD ACCEPT");
        host.kill();
        host.start();
        wait_until("the end of libvirt's rules", SOON, || match libvirts_rules(ns) {
            left if left.is_empty() => Ok(()),
            left => Err(left.join("\n")),
        });
        Host::reaches(&mut guest, "203.0.113.2");
    });
}
