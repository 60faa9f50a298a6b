//! Disks that are full or read-only: what needs them is refused, with nothing changed, and goes on once they are not.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::{Host, SOON, attach, differences, interface};
use patchcord_api::error::Refusal;
use patchcord_api::methods::{
    AttachNIC, CreateNetwork, DefineNetwork, GetNetworkXML, ListNetworks, SetAutostart, StartNetwork, StopNetwork,
    UndefineNetwork, UpdateNetwork,
};
use patchcord_testkit::{in_namespace, wait_until};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

const NET: &str = "<network><name>net</name><uuid>8f1a2b3c-0000-4000-8000-000000000001</uuid><bridge name='brnet' stp='off'/>\
     <ip address='10.5.0.1' prefix='24'><dhcp><range start='10.5.0.2' end='10.5.0.9'/></dhcp></ip></network>";
const IDLE: &str = "<network><name>idle</name><ip address='10.8.0.1' prefix='24'/></network>";

fn define(xml: impl Into<String>) -> DefineNetwork {
    DefineNetwork { xml: xml.into() }
}

fn autostart(name: &str, autostart: bool) -> SetAutostart {
    SetAutostart { name: name.into(), autostart }
}

/// A reservation more, in the definition and, where `live`, in what runs.
fn reserve(live: bool) -> UpdateNetwork {
    UpdateNetwork {
        name: "net".into(),
        command: "add".into(),
        section: "ip-dhcp-host".into(),
        xml: "<host mac='52:54:00:00:00:09' ip='10.5.0.20'/>".into(),
        live: Some(live),
        config: Some(true),
        ..UpdateNetwork::default()
    }
}

/// Takes all room below a directory, in its own file system: for bytes as for names.
fn fill(directory: &Path) {
    let mut file = File::create(directory.join("fill")).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    for number in 0.. {
        if File::create(directory.join(format!("fill{number}"))).is_err() {
            return;
        }
    }
}

/// Gives it back.
fn make_room(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("fill") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

/// It says which file, why, and how the command ends.
fn names_the_file(host: &Host<'_>, (error, refusal): &(String, Refusal), below: &str, why: &str) {
    let path = host.root.join(below).display().to_string();
    assert_eq!((error.as_str(), refusal.exit), ("HostFailed", 1), "{refusal}");
    assert!(refusal.cause.contains(&path) && refusal.cause.contains(why), "{refusal}");
    assert!(refusal.hint.as_ref().is_some_and(|hint| hint.contains("try again")), "{refusal}");
}

/// Run state can't be written.
fn fails_cleanly(host: &Host<'_>, why: &str, broken: impl FnOnce(), repaired: impl FnOnce()) {
    host.network(NET);
    host.call(&define(IDLE));
    let nic = host.call(&attach("g", &interface("net"))).nic;
    broken();
    let before = host.state();
    let new = "<network><name>new</name><forward mode='nat'/><ip address='10.7.0.1' prefix='24'><dhcp>\
               <range start='10.7.0.2' end='10.7.0.9'/></dhcp></ip></network>";
    let mut refusals = vec![
        host.refused(&CreateNetwork { xml: new.into() }),
        host.refused(&StartNetwork { name: "idle".into() }),
        host.refused(&attach("h", &interface("net"))),
    ];
    refusals.extend([
        host.refused(&AttachNIC { by_name: Some(true), ..attach("h", &interface("net")) }),
        // Its definition could be written; it is not changed either.
        host.refused(&reserve(true)),
    ]);
    for refusal in refusals {
        names_the_file(host, &refusal, "run/patchcord", why);
    }
    wait_until("everything as it was", SOON, || {
        let after = host.state();
        if after == before { Ok(()) } else { Err(differences(&before, &after)) }
    });
    assert_eq!(host.nic(&nic.id).state, "plugged");
    repaired();
    host.start_network("idle");
    host.detach(&nic.id);
    host.stop_network("net");
}

#[test]
fn full_run_state_refuses_and_changes_nothing() {
    in_namespace(|ns| {
        let mut host = Host::without_daemon(ns);
        let run = host.root.join("run");
        fs::create_dir(&run).unwrap();
        ns.run(&format!("mount -t tmpfs -o size=256k,nr_inodes=100,mode=755 tmpfs {}", run.display()));
        host.start();
        fails_cleanly(&host, "No space left", || fill(&run), || make_room(&run));
    });
}

/// Directories of run state, made mounts of their own before the daemon starts: what remounts them, read-only ("ro") or not.
/// The whole can't be: the daemon holds its lock open there.
fn run_state<'a>(host: &Host<'a>) -> impl Fn(&str) + use<'a> {
    let directories = ["networks", "nics", "dnsmasq"].map(|d| host.root.join("run/patchcord").join(d));
    for directory in &directories {
        fs::create_dir_all(directory).unwrap();
        host.ns.run(&format!("mount --bind {0} {0}", directory.display()));
    }
    let ns = host.ns;
    move |how| {
        for directory in &directories {
            ns.run(&format!("mount -o remount,bind,{how} {}", directory.display()));
        }
    }
}

#[test]
fn read_only_run_state_refuses_and_changes_nothing() {
    in_namespace(|ns| {
        let mut host = Host::without_daemon(ns);
        let remount = run_state(&host);
        host.start();
        fails_cleanly(&host, "Read-only", || remount("ro"), || remount("rw"));
    });
}

#[test]
fn a_stop_that_cannot_be_recorded_changes_nothing() {
    in_namespace(|ns| {
        let mut host = Host::without_daemon(ns);
        let remount = run_state(&host);
        host.start();
        host.network(NET);
        let nic = host.call(&attach("g", &interface("net"))).nic;
        let (before, serving) = (host.state(), host.dnsmasqs());
        assert_eq!(serving.len(), 1);
        remount("ro");
        names_the_file(&host, &host.refused(&StopNetwork { name: "net".into() }), "run/patchcord", "Read-only");
        assert!(before == host.state(), "{}", differences(&before, &host.state()));
        assert_eq!(host.dnsmasqs(), serving);
        assert_eq!(host.nic(&nic.id).state, "plugged");
        assert!(host.show("net").active);
        remount("rw");
        host.stop_network("net");
        assert!(host.dnsmasqs().is_empty());
    });
}

#[test]
fn a_network_stops_though_files_of_its_dnsmasq_stay() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        let files = host.root.join("var/lib/patchcord/dnsmasq");
        host.network(NET);
        let conf = files.join("8f1a2b3c-0000-4000-8000-000000000001.conf");
        let stop = |host: &Host<'_>| {
            // On top of what is there, where dnsmasq writes leases: that can't be made read-only.
            ns.run(&format!("mount --bind -o ro {0} {0}", files.display()));
            host.stop_network("net");
            assert!(!host.show("net").active);
            assert!(host.dnsmasqs().is_empty());
            assert!(host.link("brnet").is_none());
            assert!(host.log().contains(&conf.display().to_string()), "{}", host.log());
            assert!(conf.exists());
            ns.run(&format!("umount {}", files.display()));
        };
        stop(&host);
        // What stayed is in nobody's way.
        host.start_network("net");
        assert_eq!(host.dnsmasqs().len(), 1);
        stop(&host);
        host.kill();
        host.start();
        assert!(!conf.exists(), "it goes when the daemon starts");
    });
}

/// What the daemon says of its networks.
fn view(host: &Host<'_>) -> String {
    let mut view = format!("{:#?}\n", host.call(&ListNetworks::default()).networks);
    for (name, inactive) in [("net", false), ("net", true), ("idle", true)] {
        view += &host.call(&GetNetworkXML { name: name.into(), inactive: Some(inactive) }).xml;
    }
    view
}

/// Definitions can't be written: the network that runs goes on as it was, and so it is after a restart.
fn definitions_stay(host: &mut Host<'_>, why: &str, broken: impl FnOnce(), repaired: impl FnOnce()) {
    host.network(NET);
    host.call(&define(IDLE));
    host.call(&autostart("net", true));
    broken();
    let (before, told) = (host.state(), view(host));
    let refusals = [
        ("new", host.refused(&define("<network><name>new</name></network>"))),
        ("net", host.refused(&define(NET.replace("10.5.0.9", "10.5.0.99")))),
        ("net", host.refused(&reserve(false))),
        ("net", host.refused(&reserve(true))),
        ("idle", host.refused(&autostart("idle", true))),
    ];
    for (network, refusal) in &refusals {
        names_the_file(host, refusal, "etc/patchcord/networks", why);
        assert_eq!(refusal.1.object, format!("network '{network}'"));
    }
    let unchanged = |host: &Host<'_>| {
        let (after, says) = (host.state(), view(host));
        assert!(before == after, "{}", differences(&before, &after));
        assert!(told == says, "{}", differences(&told, &says));
    };
    unchanged(host);
    // What needs no definition works.
    let nic = host.call(&attach("g", &interface("net"))).nic;
    host.detach(&nic.id);
    host.kill();
    host.start();
    unchanged(host);
    repaired();
    host.call(&reserve(true));
    host.call(&autostart("idle", true));
    host.kill();
    host.start();
    let xml = host.call(&GetNetworkXML { name: "net".into(), inactive: Some(true) }).xml;
    assert!(xml.contains("10.5.0.20"), "{xml}");
    assert!(host.show("idle").active, "it started by itself");
    host.call(&autostart("idle", false));
    host.stop_network("idle");
}

/// A file system of its own for definitions.
fn small_etc(host: &Host<'_>) -> std::path::PathBuf {
    let etc = host.root.join("etc/patchcord");
    fs::create_dir_all(&etc).unwrap();
    host.ns.run(&format!("mount -t tmpfs -o size=256k,nr_inodes=100,mode=755 tmpfs {}", etc.display()));
    etc
}

#[test]
fn a_full_disk_of_definitions_refuses_and_changes_nothing() {
    in_namespace(|ns| {
        let mut host = Host::without_daemon(ns);
        let etc = small_etc(&host);
        host.start();
        definitions_stay(&mut host, "No space left", || fill(&etc), || make_room(&etc));
        // What makes room is done.
        host.call(&autostart("idle", true));
        fill(&etc);
        host.call(&UndefineNetwork { name: "idle".into() });
        host.kill();
        host.start();
        let left: Vec<String> = host.call(&ListNetworks::default()).networks.into_iter().map(|n| n.name).collect();
        assert_eq!(left, ["net"]);
    });
}

#[test]
fn read_only_definitions_are_not_changed() {
    in_namespace(|ns| {
        let mut host = Host::without_daemon(ns);
        let etc = small_etc(&host);
        host.start();
        let remount = |how: &str| ns.run(&format!("mount -o remount,{how} {}", etc.display()));
        definitions_stay(&mut host, "Read-only", || drop(remount("ro")), || drop(remount("rw")));
        remount("ro");
        let (before, told) = (host.state(), view(&host));
        for (name, starts) in [("net", true), ("idle", false)] {
            let refused =
                [host.refused(&UndefineNetwork { name: name.into() }), host.refused(&autostart(name, !starts))];
            for refusal in &refused {
                names_the_file(&host, refusal, "etc/patchcord/networks", "Read-only");
                assert_eq!(refusal.1.object, format!("network '{name}'"));
            }
        }
        host.kill();
        host.start();
        assert!(before == host.state(), "{}", differences(&before, &host.state()));
        assert!(told == view(&host), "{}", differences(&told, &view(&host)));
    });
}
