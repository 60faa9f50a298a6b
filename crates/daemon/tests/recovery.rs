//! The daemon is killed, the host reboots, networks stop and start: guests go on.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::{Host, SOON, attach, interface, ip, tap, update};
use patchcord_api::methods::{AttachNIC, CreateNetwork, DefineNetwork, SetAutostart};
use patchcord_testkit::{Guest, in_namespace, wait_until};
use std::fs;
use std::time::Duration;

const NET: &str = "<network><name>net</name><forward mode='nat'/><bridge name='brnet' stp='off'/>\
     <ip address='10.5.0.1' prefix='24'><dhcp><range start='10.5.0.10' end='10.5.0.99'/></dhcp></ip></network>";
const STATIC: &str = "<network><name>net</name><mac address='52:54:00:05:05:05'/><bridge name='brnet' stp='off'/>\
     <ip address='10.5.0.1' prefix='24'/></network>";

/// How long no answer may come when the daemon is not on the path at all; what remains is the machine being busy.
const UNNOTICED: Duration = Duration::from_millis(300);

fn fixed(guest: &mut Guest, address: &str) {
    guest.set_static(ip(address), 24, Some(ip("10.5.0.1")));
}

/// Link indexes, by name, of what is ours.
fn indexes(host: &Host<'_>) -> Vec<(String, u64)> {
    let links = host.ns.json("ip -j -d link show");
    let ours = links.as_array().unwrap().iter().filter(|l| l["ifalias"].is_string());
    ours.map(|l| (l["ifname"].as_str().unwrap().to_owned(), l["ifindex"].as_u64().unwrap())).collect()
}

#[test]
fn guests_do_not_notice_that_the_daemon_is_killed() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        host.network(NET);
        let (_, mut one) = host.guest_on("net", "one");
        let (nic, mut two) = host.guest_on("net", "two");
        fixed(&mut one, "10.5.0.2");
        fixed(&mut two, "10.5.0.3");
        let (one, two) = (one.run_in_background(), two.run_in_background());
        one.ping_every(ip("10.5.0.3"), Duration::from_millis(5), SOON).unwrap();
        two.ping_every(ip("10.5.0.1"), Duration::from_millis(5), SOON).unwrap();
        let before = (indexes(&host), host.dnsmasqs(), host.rules(), host.show("net").dnsmasq);
        for _ in 0..5 {
            host.kill();
            host.start();
            assert_eq!((indexes(&host), host.dnsmasqs(), host.rules(), host.show("net").dnsmasq), before);
            assert_eq!(host.nic(&nic.id).state, "plugged");
        }
        host.stop();
        host.start();
        assert_eq!((indexes(&host), host.dnsmasqs()), (before.0, before.1));
        for (name, guest) in [("one", one), ("two", two)] {
            let (_, seen) = guest.finish();
            assert_eq!(seen.lost(), 0, "{name}: {seen:?}");
            assert!(seen.longest_gap < UNNOTICED, "{name}: {seen:?}");
            assert!(seen.sent > 20, "{name}: {seen:?}");
        }
        // What was running is served still: DHCP, and the whole of the API.
        let (_, mut three) = host.guest_on("net", "three");
        three.dhcp(SOON).unwrap();
        host.stop_network("net");
        host.start_network("net");
    });
}

#[test]
fn a_stop_parks_nics_and_a_start_plugs_them_back() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        let mut events = host.events();
        host.network(NET);
        let (nic, mut guest) = host.guest_on("net", "g");
        let mac = host.link("brnet").unwrap()["address"].clone();
        let address = guest.dhcp(SOON).unwrap().address;
        for restart in [false, true] {
            host.stop_network("net");
            assert_eq!(host.nic(&nic.id).state, "parked");
            assert!(guest.ping(ip("10.5.0.1"), Duration::from_millis(500)).is_err());
            if restart {
                host.kill();
                host.start();
                assert_eq!(host.nic(&nic.id).state, "parked");
            }
            host.start_network("net");
            wait_until("the NIC to be plugged", SOON, || match host.nic(&nic.id) {
                nic if nic.state == "plugged" => Ok(()),
                nic => Err(nic.state),
            });
            assert_eq!(host.nic(&nic.id).actual.ifindex, nic.actual.ifindex, "the same tap");
            assert_eq!(host.link("brnet").unwrap()["address"], mac, "the gateway's MAC is kept");
            Host::reaches(&mut guest, "10.5.0.1");
        }
        assert_eq!(guest.dhcp(SOON).unwrap().address, address, "leases outlive the network's stop");
        let is = |what: &'static str| move |e: &patchcord_api::event::Event| e.kind == "nic" && e.what == what;
        events.wait("unplugged", is("unplugged"));
        events.wait("plugged", is("plugged"));
    });
}

#[test]
fn a_transient_network_that_comes_back_takes_its_nics() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        let created = host.transient(STATIC);
        assert!(!created.persistent);
        let (nic, mut guest) = host.guest_on("net", "g");
        fixed(&mut guest, "10.5.0.2");
        Host::reaches(&mut guest, "10.5.0.1");
        host.stop_network("net");
        assert!(host.call(&patchcord_api::methods::ListNetworks::default()).networks.is_empty(), "it is forgotten");
        assert_eq!(host.nic(&nic.id).state, "parked");
        let again = host.transient(STATIC);
        assert_ne!(again.uuid, created.uuid);
        wait_until("the NIC to be plugged", SOON, || match host.nic(&nic.id) {
            nic if nic.state == "plugged" => Ok(()),
            nic => Err(nic.state),
        });
        Host::reaches(&mut guest, "10.5.0.1");
    });
}

/// Makes the run state another boot's.
fn reboot(host: &Host<'_>) {
    let mut changed = 0;
    for directory in ["networks", "nics", "."] {
        for entry in fs::read_dir(host.root.join("run/patchcord").join(directory)).unwrap().flatten() {
            let Ok(text) = fs::read_to_string(entry.path()) else { continue };
            let Some((before, rest)) = text.split_once("boot='") else { continue };
            let (_, after) = rest.split_once('\'').unwrap();
            fs::write(entry.path(), format!("{before}boot='00000000-0000-4000-8000-000000000000'{after}")).unwrap();
            changed += 1;
        }
    }
    assert!(changed >= 2, "there was run state: {changed}");
}

#[test]
fn after_a_reboot_only_what_starts_by_itself_runs() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        host.network(NET);
        host.network("<network><name>manual</name><ip address='10.7.0.1' prefix='24'/></network>");
        host.transient("<network><name>transient</name><ip address='10.8.0.1' prefix='24'/></network>");
        host.call(&SetAutostart { name: "net".into(), autostart: true });
        assert!(host.root.join("etc/patchcord/networks/autostart/net.xml").is_symlink());
        let nic = host.call(&AttachNIC { by_name: Some(true), ..attach("g", &interface("net")) }).nic;
        host.kill();
        for dnsmasq in host.dnsmasqs() {
            rustix::process::kill_process(common::pid(dnsmasq), rustix::process::Signal::KILL).unwrap();
        }
        for (name, _) in indexes(&host) {
            ns.run(&format!("ip link del {name}"));
        }
        ns.run("nft flush ruleset");
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        reboot(&host);
        host.start();
        wait_until("the network that starts by itself", SOON, || {
            let net = host.show("net");
            if net.active && net.dnsmasq.is_some() { Ok(()) } else { Err(format!("{net:?}")) }
        });
        assert!(host.link("brnet").is_some() && host.rules().contains("masquerade"));
        assert_eq!(host.sysctl("ipv4/ip_forward"), "1");
        assert!(!host.show("manual").active);
        let names: Vec<_> =
            host.call(&patchcord_api::methods::ListNetworks::default()).networks.into_iter().map(|n| n.name).collect();
        assert_eq!(names, ["manual", "net"]);
        assert!(host.nics().is_empty(), "NICs end with the boot");
        assert!(host.link(&tap(&nic)).is_none());
        assert_eq!(fs::read_dir(host.root.join("run/patchcord/nics")).unwrap().count(), 0);
        // What was saved before the reboot is not what this boot began with.
        host.stop_network("net");
        assert_eq!(host.sysctl("ipv4/ip_forward"), "0");
    });
}

#[test]
fn a_network_whose_uplink_comes_later_starts_then() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        let definitions = [
            "<network><name>lan</name><forward mode='bridge'/><bridge name='hostbr'/></network>",
            "<network><name>out</name><forward mode='nat' dev='up0'/><ip address='10.7.0.1' prefix='24'/></network>",
        ];
        for xml in definitions {
            let name = host.call(&DefineNetwork { xml: xml.into() }).network.name;
            host.call(&SetAutostart { name, autostart: true });
        }
        host.kill();
        host.start();
        assert!(!host.show("lan").active && !host.show("out").active);
        let starts = |name: &str| {
            wait_until(name, SOON, || if host.show(name).active { Ok(()) } else { Err("not active") });
        };
        ns.run("ip link add hostbr type bridge");
        starts("lan");
        assert!(!host.show("out").active);
        ns.run("ip link add up0 type bridge");
        starts("out");
    });
}

#[test]
fn a_damaged_record_leaves_its_network_running_and_is_kept() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        host.network(STATIC);
        host.network("<network><name>fine</name><bridge name='brfine'/></network>");
        let (_, mut guest) = host.guest_on("net", "g");
        fixed(&mut guest, "10.5.0.2");
        Host::reaches(&mut guest, "10.5.0.1");
        host.kill();
        let record = host.root.join("run/patchcord/networks/net.xml");
        fs::write(&record, "<networkstatus format='1'").unwrap();
        let before = host.link("brnet").unwrap()["ifindex"].clone();
        host.start();
        assert_eq!(host.link("brnet").expect("it goes on running")["ifindex"], before);
        Host::reaches(&mut guest, "10.5.0.1");
        assert!(host.show("fine").active);
        assert_eq!(fs::read_to_string(record).unwrap(), "<networkstatus format='1'");
        assert!(host.log().contains("net"), "it says so");
    });
}

#[test]
fn a_dnsmasq_that_no_pid_file_tells_of_is_found_again() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        let net = host.network(NET);
        let pid_file = host.root.join(format!("run/patchcord/dnsmasq/{}.pid", net.uuid));
        let serves = |host: &Host<'_>| {
            wait_until("one dnsmasq, and no other", SOON, || match (host.show("net").dnsmasq, host.dnsmasqs()) {
                (Some(known), there) if there == [known] && pid_file.exists() => Ok(()),
                other => Err(format!("{other:?}")),
            });
        };
        let loses = |content: Option<&str>| match content {
            Some(content) => fs::write(&pid_file, content).unwrap(),
            None => fs::remove_file(&pid_file).unwrap(),
        };
        for content in [None, Some("rubbish"), Some("1")] {
            host.kill();
            loses(content);
            host.start();
            serves(&host);
        }
        // However the root directory is spelled.
        let link = tempfile::tempdir().unwrap();
        let link = link.path().join("root");
        std::os::unix::fs::symlink(&host.root, &link).unwrap();
        host.kill();
        host.start_as(Host::command(&link, &host.root.join("daemon.log")));
        // It has another command line now, and the one before is ended.
        wait_until("dnsmasq", SOON, || match (host.show("net").dnsmasq, host.dnsmasqs()) {
            (Some(_), there) if there.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        });
        host.kill();
        host.start();
        serves(&host);
        // Nor is it in the way when another has to be started.
        loses(None);
        host.call(&update("net", "add", "dns-txt", "<txt name='a' value='b'/>"));
        serves(&host);
        // It goes with its network.
        host.kill();
        loses(None);
        fs::remove_file(host.root.join("run/patchcord/networks/net.xml")).unwrap();
        host.start();
        wait_until("no dnsmasq", SOON, || match host.dnsmasqs() {
            none if none.is_empty() => Ok(()),
            some => Err(format!("{some:?}")),
        });
        host.start_network("net");
        loses(None);
        host.stop_network("net");
        assert_eq!(host.dnsmasqs(), [0; 0]);
    });
}

#[test]
fn a_daemon_serves_on_when_nobody_reads_its_log() {
    in_namespace(|ns| {
        let mut host = Host::without_daemon(ns);
        let mut command = Host::command(&host.root, &host.root.join("daemon.log"));
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        command.stderr(writer);
        host.start_as(command);
        host.network(NET);
        assert!(host.show("net").active);
        host.stop();
    });
}

#[test]
fn links_of_ours_that_nobody_knows_are_removed_and_strangers_stay() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        host.network(STATIC);
        let nic = host.call(&AttachNIC { by_name: Some(true), ..attach("g", &interface("net")) }).nic;
        let kept = host.call(&CreateNetwork { xml: "<network><name>kept</name></network>".into() }).network;
        host.kill();
        fs::remove_file(host.root.join("run/patchcord/networks/net.xml")).unwrap();
        fs::remove_file(host.root.join(format!("run/patchcord/nics/{}.xml", nic.id))).unwrap();
        ns.run("ip link add stranger type bridge");
        ns.run("ip link set stranger alias patchcord:not-really");
        host.start();
        wait_until("orphans to be gone", SOON, || match indexes(&host) {
            links if links.len() == 2 => Ok(()),
            links => Err(format!("{links:?}")),
        });
        assert!(host.link("stranger").is_some() && host.link(kept.bridge.as_deref().unwrap()).is_some());
    });
}

#[test]
fn a_bridge_that_was_half_made_at_a_crash_is_made_again() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        host.network(STATIC);
        host.kill();
        // In the group of our links, 0x7063, and not marked yet.
        ns.run("ip link del brnet");
        ns.run("ip link add brnet group 28771 type bridge");
        ns.run("ip link add stranger type bridge");
        host.start();
        wait_until("the bridge", SOON, || match host.link("brnet") {
            Some(link) if link["ifalias"].is_string() => Ok(()),
            other => Err(format!("{other:?}")),
        });
        assert!(host.link("stranger").is_some());
        let (_, mut guest) = host.guest_on("net", "g");
        fixed(&mut guest, "10.5.0.2");
        Host::reaches(&mut guest, "10.5.0.1");
    });
}
