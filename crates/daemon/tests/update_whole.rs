//! Networks whose bridge, domain, addresses or mode change under their guests, who go on as they were.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::{Host, SOON, attach, differences, interface, interface_with_mac, ip, tap, update};
use patchcord_api::methods::{ListLeases, UpdateNetwork};
use patchcord_testkit::{in_namespace, wait_until};
use std::net::IpAddr;

const NET: &str = "<network><name>net</name><forward mode='nat'/><bridge name='brnet' stp='off'/>\
     <domain name='lab.test'/><ip address='10.5.0.1' prefix='24'><dhcp><range start='10.5.0.10' end='10.5.0.99'/>\
     <host mac='52:54:00:00:00:01' ip='10.5.0.101' name='one'/></dhcp></ip></network>";

/// The addresses of a link.
fn addresses(host: &Host<'_>, link: &str) -> Vec<String> {
    let shown = host.ns.json(&format!("ip -j addr show dev {link}"));
    let of = shown[0]["addr_info"].as_array().unwrap().iter();
    of.map(|a| format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"])).collect()
}

#[test]
fn a_subnet_comes_and_goes() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(NET);
        let (nic, mut guest) = host.guest("web", &interface_with_mac("net", "52:54:00:00:00:01"));
        guest.dhcp(SOON).unwrap();
        Host::reaches(&mut guest, "10.5.0.1");
        let six = "<ip family='ipv6' address='fd00:5::1' prefix='64'/>";
        host.call(&update("net", "add", "ip", six));
        assert!(addresses(&host, "brnet").contains(&"fd00:5::1/64".into()), "{:?}", addresses(&host, "brnet"));
        assert_eq!(host.sysctl("ipv6/conf/brnet/disable_ipv6"), "0");
        assert_eq!(host.sysctl("ipv6/conf/all/forwarding"), "1", "a network with addresses of IPv6 routes them");
        host.call(&update("net", "add", "ip", "<ip address='10.6.0.1' prefix='24'/>"));
        Host::reaches(&mut guest, "10.5.0.1");
        guest.set_static(ip("10.6.0.2"), 24, None);
        Host::reaches(&mut guest, "10.6.0.1");
        assert_eq!(guest.resolve("one.lab.test", ip("10.6.0.1"), SOON).unwrap().len(), 1, "it is served there too");

        // Whoever has an address there keeps it.
        let before = addresses(&host, "brnet");
        let (error, refusal) = host.refused(&update("net", "delete", "ip", "<ip address='10.6.0.1'/>"));
        assert_eq!((error.as_str(), refusal.field.as_deref()), ("InUse", Some("<ip address>")), "{refusal}");
        assert!(refusal.to_string().contains("guest 'web'"), "{refusal}");
        assert_eq!(addresses(&host, "brnet"), before);
        drop(guest);
        host.detach(&nic.id);
        host.call(&update("net", "delete", "ip", "<ip address='10.6.0.1'/>"));
        host.call(&update("net", "delete", "ip", six));
        assert_eq!(addresses(&host, "brnet"), ["10.5.0.1/24"]);
        assert_eq!(host.sysctl("ipv6/conf/brnet/disable_ipv6"), "1");
        // Another address of the same subnet.
        let other = "<ip address='10.5.0.254' prefix='24'><dhcp><range start='10.5.0.20' end='10.5.0.20'/></dhcp></ip>";
        host.call(&UpdateNetwork { parent: Some(0), ..update("net", "modify", "ip", other) });
        assert_eq!(addresses(&host, "brnet"), ["10.5.0.254/24"]);
        let (_, mut guest) = host.guest_on("net", "web");
        let lease = guest.dhcp(SOON).unwrap();
        assert_eq!(
            (IpAddr::from(lease.address), lease.router.map(IpAddr::from)),
            (ip("10.5.0.20"), Some(ip("10.5.0.254")))
        );
        Host::reaches(&mut guest, "10.5.0.254");
    });
}

#[test]
fn guests_go_to_the_bridge_of_another_name_with_what_they_have() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        host.network(NET);
        let (nic, mut guest) = host.guest_on("net", "web");
        let lease = guest.dhcp(SOON).unwrap();
        let index = host.link(&tap(&nic)).unwrap()["ifindex"].clone();
        host.call(&update("net", "modify", "bridge", "<bridge name='swan' stp='off'/>"));
        assert!(host.link("brnet").is_none());
        let port = host.link(&tap(&nic)).unwrap();
        assert_eq!((&port["ifindex"], &port["master"]), (&index, &"swan".into()));
        assert_eq!(host.nic(&nic.id).actual.bridge.as_deref(), Some("swan"));
        Host::reaches(&mut guest, "10.5.0.1");
        let rules = host.rules();
        assert!(rules.contains("swan") && !rules.contains("brnet"), "{rules}");
        let leases = host.call(&ListLeases { network: "net".into() }).leases;
        assert_eq!(leases.iter().map(|l| ip(&l.ip)).collect::<Vec<_>>(), [IpAddr::from(lease.address)]);
        assert_eq!(guest.dhcp(SOON).unwrap().address, lease.address, "dnsmasq serves the new one");
        assert_eq!(host.dnsmasqs().len(), 1);
        host.kill();
        host.start();
        Host::reaches(&mut guest, "10.5.0.1");
        host.stop_network("net");
        host.start_network("net");
        assert!(host.link("swan").is_some(), "the definition has it too");
        Host::reaches(&mut guest, "10.5.0.1");
        // A name that somebody has is not taken, whether that is known yet or not, and nothing changes.
        let before = host.state();
        ns.run("ip link add taken0 type bridge");
        let (error, refusal) = host.refused(&update("net", "modify", "bridge", "<bridge name='taken0'/>"));
        assert!(["InUse", "HostFailed"].contains(&error.as_str()), "{error}: {refusal}");
        ns.run("ip link del taken0");
        assert_eq!(differences(&before, &host.state()), "");
        Host::reaches(&mut guest, "10.5.0.1");
        // What the bridge does changes in place.
        let swan = host.link("swan").unwrap()["ifindex"].clone();
        host.call(&update("net", "modify", "bridge", "<bridge stp='on' delay='4'/>"));
        let shown = ns.json("ip -j -d link show dev swan");
        let data = &shown[0]["linkinfo"]["info_data"];
        assert_eq!((&shown[0]["ifindex"], &data["stp_state"], &data["forward_delay"]), (&swan, &1.into(), &400.into()));
    });
}

#[test]
fn a_host_bridge_is_another_and_guests_meet_who_is_there() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        for (bridge, address) in [("br0", "10.9.0.100"), ("br1", "10.9.0.101")] {
            let peer = ns.peer(bridge);
            ns.run(&format!("ip link add {bridge} up type bridge"));
            ns.veth(&format!("{bridge}up"), &peer, "eth0");
            ns.run(&format!("ip link set {bridge}up master {bridge}"));
            peer.run(&format!("ip addr add {address}/24 dev eth0"));
        }
        host.network("<network><name>net</name><forward mode='bridge'/><bridge name='br0'/></network>");
        let (nic, mut guest) = host.guest_on("net", "web");
        guest.set_static(ip("10.9.0.2"), 24, None);
        Host::reaches(&mut guest, "10.9.0.100");
        host.call(&update("net", "modify", "bridge", "<bridge name='br1'/>"));
        Host::reaches(&mut guest, "10.9.0.101");
        assert_eq!(host.link(&tap(&nic)).unwrap()["master"], "br1");
        let (error, refusal) = host.refused(&update("net", "modify", "bridge", "<bridge name='br2'/>"));
        assert_eq!(error, "NotFound", "{refusal}");
        Host::reaches(&mut guest, "10.9.0.101");
    });
}

#[test]
fn a_mode_is_another_under_a_guest() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        let outside = ns.peer("outside");
        ns.veth("up0", &outside, "eth0");
        ns.run("ip addr add 192.0.2.1/24 dev up0");
        outside.run("ip addr add 192.0.2.9/24 dev eth0");
        host.network(NET);
        let (nic, mut guest) = host.guest_on("net", "web");
        guest.dhcp(SOON).unwrap();
        Host::reaches(&mut guest, "192.0.2.9");
        let master = host.link(&tap(&nic)).unwrap()["master"].clone();
        // Routed, its own address is seen outside, where nobody knows a way back to it before it is told.
        host.call(&update("net", "modify", "forward", "<forward mode='route'/>"));
        assert!(!host.rules().contains("masquerade"), "{}", host.rules());
        outside.run("ip route add 10.5.0.0/24 via 192.0.2.1");
        Host::reaches(&mut guest, "192.0.2.9");
        host.call(&update("net", "delete", "forward", "<forward mode='route'/>"));
        assert_eq!(host.sysctl("ipv4/ip_forward"), "0");
        assert!(guest.ping(ip("192.0.2.9"), std::time::Duration::from_secs(2)).is_err(), "nobody forwards");
        Host::reaches(&mut guest, "10.5.0.1");
        host.call(&update("net", "add", "forward", "<forward mode='nat' dev='up0'/>"));
        Host::reaches(&mut guest, "192.0.2.9");
        assert_eq!(host.link(&tap(&nic)).unwrap()["master"], master);
        let (error, refusal) = host.refused(&update("net", "modify", "forward", "<forward mode='bridge'/>"));
        assert_eq!((error.as_str(), refusal.field.as_deref()), ("Unsupported", Some("<forward mode>")), "{refusal}");
    });
}

#[test]
fn names_are_in_another_domain() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(NET);
        let (_, mut guest) = host.guest("web", &interface_with_mac("net", "52:54:00:00:00:01"));
        guest.dhcp(SOON).unwrap();
        let one = |guest: &mut patchcord_testkit::Guest, domain: &str| {
            guest.resolve(&format!("one.{domain}"), ip("10.5.0.1"), SOON).map(|found| found.len())
        };
        assert_eq!(one(&mut guest, "lab.test").unwrap(), 1);
        host.call(&update("net", "modify", "domain", "<domain name='new.test' localOnly='yes'/>"));
        wait_until("the new domain", SOON, || one(&mut guest, "new.test"));
        assert!(one(&mut guest, "lab.test").is_err());
        Host::reaches(&mut guest, "10.5.0.1");
        host.call(&update("net", "delete", "domain", "<domain name='new.test'/>"));
        wait_until("its end", SOON, || one(&mut guest, "new.test").map_or(Ok(()), |found| Err(format!("{found}"))));
    });
}

#[test]
fn a_pool_is_another_and_holders_keep_their_devices() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        let switch = ns.peer("switch");
        for n in 0..3 {
            ns.veth(&format!("eth1{n}"), &switch, &format!("sw{n}"));
        }
        host.network("<network><name>net</name><forward mode='vepa'><interface dev='eth10'/></forward></network>");
        let nic = host.call(&attach("web", &interface("net"))).nic;
        let others = "<forward mode='vepa'><interface dev='eth11'/><interface dev='eth12'/></forward>";
        let (error, refusal) = host.refused(&update("net", "modify", "forward", others));
        assert!(error == "InUse" && refusal.to_string().contains("guest 'web' has eth10"), "{error}: {refusal}");
        let private = "<forward mode='private'><interface dev='eth10'/></forward>";
        let (error, refusal) = host.refused(&update("net", "modify", "forward", private));
        assert!(error == "InUse" && refusal.to_string().contains("guest 'web'"), "{error}: {refusal}");
        host.detach(&nic.id);
        host.call(&update("net", "modify", "forward", others));
        let nic = host.call(&attach("web", &interface("net"))).nic;
        assert_eq!(nic.actual.dev.as_deref(), Some("eth11"));
    });
}
