//! Others take away what a network needs: it is noticed, put back, and said.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::{Events, Host, SOON, ip, pid, tap};
use patchcord_testkit::{Guest, in_namespace, wait_until};
use rustix::process::{Signal, kill_process};
use std::fs;
use std::time::{Duration, Instant};

const NET: &str = "<network><name>net</name><forward mode='nat'/><bridge name='brnet' stp='off'/>\
     <ip address='10.5.0.1' prefix='24'><dhcp><range start='10.5.0.10' end='10.5.0.99'/></dhcp></ip></network>";

fn restored(what: &str, mut good: impl FnMut() -> bool) {
    wait_until(what, SOON, || if good() { Ok(()) } else { Err("it is not back") });
}

/// The rules without numbers that the kernel gives out.
fn rules(host: &Host<'_>) -> String {
    let text = host.rules();
    let lines = text.lines().map(|line| line.split(" # handle").next().unwrap_or_default().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

fn repaired(events: &mut Events, within: &str) -> patchcord_api::event::Event {
    events.wait(within, |e| e.kind == "drift" && e.what == "repaired")
}

/// A guest that has a lease from the network, and renews it whenever it is asked to.
fn leases(guest: &mut Guest) {
    let lease = guest.dhcp(SOON).unwrap_or_else(|error| panic!("no lease: {error}"));
    assert_eq!(lease.server.to_string(), "10.5.0.1");
}

#[test]
fn rules_that_others_delete_come_back_and_the_culprit_is_named() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        let mut events = host.events();
        host.network(NET);
        let before = rules(&host);
        assert!(before.contains("masquerade"), "{before}");
        ns.run("nft flush ruleset");
        restored("the rules after a flush", || rules(&host) == before);
        let event = repaired(&mut events, "the flush");
        assert!(event.culprit.as_deref().is_some_and(|c| c.contains("nft")), "{event:?}");

        let tables = ns.json("nft -j list tables");
        let table = tables["nftables"].as_array().unwrap().iter().find_map(|t| t.get("table")).expect("a table");
        let (family, name) = (table["family"].as_str().unwrap(), table["name"].as_str().unwrap());
        ns.run(&format!("nft delete table {family} {name}"));
        restored("the rules after a deleted table", || rules(&host) == before);

        let all = ns.json("nft -j -a list ruleset");
        let rule = all["nftables"].as_array().unwrap().iter().filter_map(|o| o.get("rule")).next().expect("a rule");
        let text = |key: &str| rule[key].as_str().unwrap().to_owned();
        ns.run(&format!(
            "nft delete rule {} {} {} handle {}",
            text("family"),
            text("table"),
            text("chain"),
            rule["handle"]
        ));
        restored("a deleted rule", || rules(&host) == before);
        // A foreign table is none of our business.
        ns.run("nft add table inet foreign");
        ns.run("nft add chain inet foreign c");
        host.stop_network("net");
        assert!(host.rules().contains("inet foreign"));
    });
}

#[test]
fn a_deleted_bridge_is_made_again_with_its_ports_and_dhcp() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(NET);
        let (nic, mut guest) = host.guest_on("net", "g");
        leases(&mut guest);
        let mac = host.link("brnet").unwrap()["address"].clone();
        let index = host.link("brnet").unwrap()["ifindex"].clone();
        ns.run("ip link del brnet");
        restored("the bridge and its port", || {
            host.link("brnet").is_some_and(|l| l["ifindex"] != index)
                && host.link(&tap(&nic)).is_some_and(|l| l["master"] == "brnet")
        });
        assert_eq!(host.link("brnet").unwrap()["address"], mac);
        Host::reaches(&mut guest, "10.5.0.1");
        leases(&mut guest);
        assert_eq!(host.dnsmasqs().len(), 1);
    });
}

#[test]
fn forwarding_that_others_turn_off_comes_back_while_it_is_needed() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(
            "<network><name>net</name><forward mode='nat'/><ip address='10.5.0.1' prefix='24'/>
             <ip family='ipv6' address='fd00:5::1' prefix='64'/></network>",
        );
        let settings = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"];
        let value = |setting: &str| fs::read_to_string(setting).unwrap().trim().to_owned();
        for setting in settings {
            fs::write(setting, "0").unwrap();
            restored(setting, || value(setting) == "1");
        }
        host.stop_network("net");
        for setting in settings {
            assert_eq!(value(setting), "0", "{setting} is put back when nobody needs it");
        }
    });
}

#[test]
fn a_port_an_address_and_a_route_come_back() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(
            "<network><name>net</name><forward mode='route'/><bridge name='brnet' stp='off'/>\
             <ip address='10.5.0.1' prefix='24'/><ip family='ipv6' address='fd00:5::1' prefix='64'/>\
             <route address='10.55.0.0' prefix='16' gateway='10.5.0.9'/></network>",
        );
        let (nic, mut guest) = host.guest_on("net", "g");
        guest.set_static(ip("10.5.0.2"), 24, None);
        let name = tap(&nic);
        ns.run(&format!("ip link set {name} nomaster"));
        restored("the port", || host.link(&name).is_some_and(|l| l["master"] == "brnet"));
        Host::reaches(&mut guest, "10.5.0.1");
        ns.run("ip link set brnet down");
        restored("the link", || host.link("brnet").is_some_and(|l| l["flags"].to_string().contains("\"UP\"")));
        for address in ["10.5.0.1/24", "fd00:5::1/64"] {
            ns.run(&format!("ip addr del {address} dev brnet"));
            restored(address, || ns.run("ip -o addr show dev brnet").contains(address));
        }
        restored("the route", || ns.run("ip route show dev brnet").contains("10.55.0.0/16 via 10.5.0.9"));
        ns.run("ip route del 10.55.0.0/16");
        restored("the route", || ns.run("ip route show dev brnet").contains("10.55.0.0/16 via 10.5.0.9"));
        ns.run("ip link set brnet mtu 1280");
        restored("the MTU", || host.link("brnet").is_some_and(|l| l["mtu"] == 1500));
        Host::reaches(&mut guest, "10.5.0.1");
    });
}

#[test]
fn a_killed_dnsmasq_is_started_again() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        host.network(NET);
        let (_, mut guest) = host.guest_on("net", "g");
        leases(&mut guest);
        for while_down in [false, true] {
            let old = host.dnsmasqs();
            assert_eq!(old.len(), 1);
            if while_down {
                host.kill();
            }
            kill_process(pid(old[0]), Signal::KILL).unwrap();
            if while_down {
                host.start();
            }
            restored("dnsmasq", || matches!(host.dnsmasqs()[..], [new] if new != old[0]));
            restored("its pid", || host.show("net").dnsmasq.is_some_and(|new| new != old[0]));
            leases(&mut guest);
        }
    });
}

#[test]
fn dnsmasq_follows_the_hosts_name_servers() {
    in_namespace(|ns| {
        // An upstream that answers one name, at an address of the host's.
        ns.run("ip addr add 198.51.100.53/32 dev lo");
        let mut host = Host::without_daemon(ns);
        // A pid file of its own: dnsmasq deletes what is there before it writes.
        let _upstream = ns.spawn(&format!(
            "dnsmasq --keep-in-foreground --conf-file= --no-resolv --no-hosts --bind-interfaces \
             --listen-address=198.51.100.53 --address=/outside.test/192.0.2.99 --pid-file={}/pid --log-facility=-",
            host.root.display()
        ));
        host.start();
        host.network(NET);
        let (_, mut guest) = host.guest_on("net", "g");
        guest.set_static(ip("10.5.0.2"), 24, Some(ip("10.5.0.1")));
        let before = host.dnsmasqs();
        let mut resolves = |within: Duration| guest.resolve("www.outside.test", ip("10.5.0.1"), within);
        assert!(resolves(Duration::from_secs(1)).is_err());
        // As NetworkManager does it: another file takes its place.
        let resolv = host.root.join("etc/resolv.conf");
        fs::write(host.root.join("etc/new"), "search x\nnameserver 198.51.100.53\n").unwrap();
        fs::rename(host.root.join("etc/new"), &resolv).unwrap();
        let end = Instant::now() + SOON;
        loop {
            match resolves(Duration::from_secs(1)) {
                Ok(found) => {
                    assert_eq!(found, ["192.0.2.99".parse::<std::net::Ipv4Addr>().unwrap()]);
                    break;
                }
                Err(error) => assert!(Instant::now() < end, "{error}\n{}", host.log()),
            }
        }
        assert_eq!(host.dnsmasqs(), before, "without a restart");
    });
}

#[test]
fn what_changed_while_the_daemon_was_down_is_put_back_at_the_start() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        host.network(NET);
        let (nic, mut guest) = host.guest_on("net", "g");
        guest.set_static(ip("10.5.0.2"), 24, None);
        let before = rules(&host);
        host.kill();
        ns.run("nft flush ruleset");
        ns.run("ip link del brnet");
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        host.start();
        restored("the rules", || rules(&host) == before);
        restored("the port", || host.link(&tap(&nic)).is_some_and(|l| l["master"] == "brnet"));
        assert_eq!(host.sysctl("ipv4/ip_forward"), "1");
        Host::reaches(&mut guest, "10.5.0.1");
        leases(&mut guest);
        host.stop_network("net");
        assert_eq!(host.sysctl("ipv4/ip_forward"), "0");
    });
}

#[test]
fn a_tap_that_is_deleted_is_made_again_when_it_is_opened_by_name() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(NET);
        let method =
            patchcord_api::methods::AttachNIC { by_name: Some(true), ..common::attach("g", &common::interface("net")) };
        let nic = host.call(&method).nic;
        let name = tap(&nic);
        ns.run(&format!("ip link del {name}"));
        restored("the tap", || {
            let is_back = host.link(&name).is_some_and(|l| l["master"] == "brnet");
            is_back && host.nic(&nic.id).actual.ifindex != nic.actual.ifindex
        });
        let mut guest = Guest::open_by_name(&name, common::mac(&nic)).unwrap();
        guest.set_static(ip("10.5.0.2"), 24, None);
        Host::reaches(&mut guest, "10.5.0.1");
    });
}
