//! The daemon runs no `ip`, `tc`, `nft` or the like, wherever such a program is.
//!
//! Where the kernel has Landlock, the confined process can't run any program, and the kernel refuses it. What its spawner runs,
//! what those programs run, and everything before the confinement or without it, ends in traps.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::{Events, Host, SOON, attach, interface, interface_with_mac, ip, pid, tap, update};
use patchcord_api::methods::{ModifyNIC, SetNICLink};
use patchcord_testkit::{Guest, has_bridge_vlan_filtering, in_namespace, wait_until};
use rustix::process::{Signal, kill_process};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What others configure networks with.
const PROGRAMS: [&str; 26] = [
    "ip",
    "bridge",
    "tc",
    "nft",
    "brctl",
    "vconfig",
    "ifconfig",
    "route",
    "tunctl",
    "ethtool",
    "sysctl",
    "modprobe",
    "iptables",
    "iptables-save",
    "iptables-restore",
    "ip6tables",
    "ip6tables-save",
    "ip6tables-restore",
    "ebtables",
    "ebtables-save",
    "ebtables-restore",
    "arptables",
    "ipset",
    "conntrack",
    "ovs-vsctl",
    "ovs-ofctl",
];

/// Where programs are, whatever PATH says.
const DIRECTORIES: &str = "/usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin";

/// Becomes what follows, in a mount namespace where a program of each directory is covered by the trap of its name.
const COVER: &str = "for directory in $DIRECTORIES; do for trap in \"$TRAPS\"/*; do \
     program=$directory/${trap##*/}; [ ! -e \"$program\" ] || mount --bind \"$trap\" \"$program\" || exit; done; done; \
     exec \"$@\"";

/// Programs that write down that they were run, and fail.
struct Traps {
    directory: PathBuf,
    trace: PathBuf,
}

impl Traps {
    fn new(below: &Path) -> Self {
        let (directory, trace) = (below.join("traps"), below.join("trace"));
        fs::create_dir(&directory).unwrap();
        for program in PROGRAMS {
            let path = directory.join(program);
            fs::write(&path, format!("#!/bin/sh\necho \"$0 $*\" >> {}\nexit 1\n", trace.display())).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        // dnsmasq's user may write there, too.
        fs::write(&trace, "").unwrap();
        fs::set_permissions(&trace, fs::Permissions::from_mode(0o666)).unwrap();
        Self { directory, trace }
    }

    /// PATH with the traps first.
    fn path(&self) -> String {
        format!("{}:{}", self.directory.display(), DIRECTORIES.replace(' ', ":"))
    }

    fn start(&self, host: &mut Host<'_>) {
        let daemon = Host::command(&host.root, &host.root.join("daemon.log"));
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", COVER, "sh"]).arg(daemon.get_program()).args(daemon.get_args());
        command.env("DIRECTORIES", DIRECTORIES).env("TRAPS", &self.directory).env("PATH", self.path());
        let log = fs::File::options().create(true).append(true).open(host.root.join("daemon.log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        host.start_as(command);
    }

    /// What was run, which is forgotten.
    fn take(&self) -> Vec<String> {
        let lines = fs::read_to_string(&self.trace).unwrap().lines().map(str::to_owned).collect();
        fs::write(&self.trace, "").unwrap();
        lines
    }

    /// Whatever is called where the daemon is, by its name or its path, goes into the trap.
    fn hold(&self, daemon: u32) {
        let mut calls: Vec<_> = PROGRAMS.iter().map(|program| (*program).to_owned()).collect();
        let everywhere =
            DIRECTORIES.split(' ').flat_map(|directory| PROGRAMS.map(|name| format!("{directory}/{name}")));
        calls.extend(everywhere.filter(|path| Path::new(path).exists()));
        assert!(calls.iter().any(|call| call.ends_with("/ip")), "this host has no ip: {calls:?}");
        let script: String = calls.iter().map(|call| format!("{call} link\n")).collect();
        let mut command = Command::new("nsenter");
        command.args([&format!("--mount=/proc/{daemon}/ns/mnt"), "sh", "-c", &script]).env("PATH", self.path());
        assert_eq!(command.status().unwrap().code(), Some(1), "the last one fails, too");
        assert_eq!(self.take().len(), calls.len(), "{calls:?}");
    }
}

fn network(average: u32) -> String {
    format!(
        "<network><name>net</name><forward mode='nat'/><bridge name='brnet' stp='off'/>\
         <bandwidth><inbound average='{average}'/><outbound average='{average}'/></bandwidth>\
         <ip address='10.5.0.1' prefix='24'><dhcp><range start='10.5.0.10' end='10.5.0.99'/>\
         <host mac='52:54:00:00:00:42' ip='10.5.0.42'/></dhcp></ip>\
         <ip family='ipv6' address='fd00:5::1' prefix='64'/><route address='10.55.0.0' prefix='16' gateway='10.5.0.9'/>\
         </network>"
    )
}

fn leases(guest: &mut Guest) {
    assert_eq!(ip("10.5.0.42"), guest.dhcp(SOON).unwrap().address);
}

fn repaired(events: &mut Events, what: &str, mut good: impl FnMut() -> bool) {
    wait_until(what, SOON, || if good() { Ok(()) } else { Err("it is not back") });
    events.wait(what, |e| e.kind == "drift" && e.what == "repaired");
}

/// All that needs the kernel: it comes, changes, is lost and goes.
fn work(host: &mut Host<'_>, traps: &Traps) {
    let ns = host.ns;
    host.network(&network(20_000));
    let rate = "<bandwidth><inbound average='1000' floor='500'/><outbound average='1000'/></bandwidth>";
    let shaped = interface_with_mac("net", "52:54:00:00:00:42").replace("</interface>", &format!("{rate}</interface>"));
    let (nic, mut guest) = host.guest("g", &shaped);
    leases(&mut guest);
    let named = host.call(&attach("named", &interface("net"))).nic;

    // VLANs, where the kernel has them; without them the refusal is all there is.
    let vlan = interface("net").replace("</interface>", "<vlan><tag id='42'/></vlan></interface>");
    if has_bridge_vlan_filtering() {
        let tagged = host.call(&attach("tagged", &vlan)).nic;
        host.detach(&tagged.id);
    } else {
        host.refused(&attach("tagged", &vlan));
    }

    // To another network and back, a cable pulled, other rates, other reservations.
    host.network(
        "<network><name>other</name><bridge name='brother' stp='off'/><dns enable='no'/>\
         <ip address='10.6.0.1' prefix='24'/></network>",
    );
    host.call(&ModifyNIC { id: nic.id.clone(), xml: shaped.replace("'net'", "'other'").replace(" floor='500'", "") });
    assert_eq!(host.link(&tap(&nic)).unwrap()["master"], "brother");
    host.call(&ModifyNIC { id: nic.id.clone(), xml: shaped.replace("'1000'", "'2000'") });
    assert_eq!(host.link(&tap(&nic)).unwrap()["master"], "brnet");
    for up in [false, true] {
        host.call(&SetNICLink { id: nic.id.clone(), up });
    }
    host.call(&update("net", "add", "ip-dhcp-host", "<host mac='52:54:00:00:00:43' ip='10.5.0.43'/>"));
    leases(&mut guest);

    let mut events = host.events();
    let master = |host: &Host<'_>| host.link(&tap(&nic)).is_some_and(|link| link["master"] == "brnet");
    ns.run("nft flush ruleset");
    repaired(&mut events, "the rules", || host.rules().contains("masquerade"));
    ns.run("ip addr del 10.5.0.1/24 dev brnet");
    repaired(&mut events, "the address", || ns.run("ip -o addr show dev brnet").contains("10.5.0.1/24"));
    ns.run(&format!("ip link set {} nomaster", tap(&nic)));
    repaired(&mut events, "the port", || master(host));
    fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
    repaired(&mut events, "forwarding", || host.sysctl("ipv4/ip_forward") == "1");
    let dnsmasqs = host.dnsmasqs();
    assert_eq!(dnsmasqs.len(), 1);
    kill_process(pid(dnsmasqs[0]), Signal::KILL).unwrap();
    wait_until("dnsmasq", SOON, || match &host.dnsmasqs()[..] {
        [new] if dnsmasqs != [*new] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    ns.run("ip link del brnet");
    repaired(&mut events, "the bridge", || host.link("brnet").is_some() && master(host));
    leases(&mut guest);

    // And while nobody looks.
    drop(events);
    host.kill();
    ns.run("nft flush ruleset");
    ns.run("ip link del brnet");
    traps.start(host);
    wait_until("the bridge", SOON, || master(host).then_some(()).ok_or("it is not back"));
    leases(&mut guest);
    host.stop();
    traps.start(host);
    leases(&mut guest);

    host.detach(&nic.id);
    host.detach(&named.id);
    for name in ["net", "other"] {
        host.stop_network(name);
    }
}

#[test]
fn no_other_program_configures_the_network() {
    in_namespace(|ns| {
        let mut host = Host::without_daemon(ns);
        let elsewhere = tempfile::tempdir().unwrap();
        fs::set_permissions(elsewhere.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let traps = Traps::new(elsewhere.path());
        traps.start(&mut host);
        traps.hold(host.pid());
        work(&mut host, &traps);
        assert_eq!(traps.take(), [""; 0]);

        // What the daemon's own processes run would have been seen. A hook is one of them, called for the start, which it
        // refuses, and for its end.
        traps.hold(host.pid());
        let hooks = host.root.join("etc/patchcord/hooks");
        fs::create_dir_all(&hooks).unwrap();
        fs::write(hooks.join("10-show"), "#!/bin/sh\n/usr/sbin/ip link show\n[ \"$2\" != start ]\n").unwrap();
        fs::set_permissions(hooks.join("10-show"), fs::Permissions::from_mode(0o755)).unwrap();
        host.refused(&patchcord_api::methods::StartNetwork { name: "net".into() });
        assert_eq!(traps.take(), ["/usr/sbin/ip link show"; 2]);
    });
}
