//! Networks of every mode, seen in the kernel with `ip` and `nft`.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::{Host, interface};
use patchcord_api::methods::{
    CreateNetwork, DefineNetwork, GetNetworkXML, ListNetworks, StartNetwork, UndefineNetwork,
};
use patchcord_testkit::{in_namespace, wait_until};
use serde_json::Value;
use std::time::Duration;

fn addresses(host: &Host<'_>, link: &str) -> Vec<String> {
    let shown = host.ns.json(&format!("ip -j addr show dev {link}"));
    let all = shown[0]["addr_info"].as_array().unwrap().iter();
    all.map(|a| format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"])).collect()
}

/// Our links that are alive, by name.
fn our_links(host: &Host<'_>) -> Vec<String> {
    let links = host.ns.json("ip -j -d link show");
    let ours = |link: &&Value| link["ifalias"].as_str().is_some_and(|alias| alias.starts_with("patchcord:"));
    links.as_array().unwrap().iter().filter(ours).map(|l| l["ifname"].as_str().unwrap().to_owned()).collect()
}

fn nothing_left(host: &Host<'_>) {
    wait_until("all links to be gone", common::SOON, || match our_links(host) {
        links if links.is_empty() => Ok(()),
        links => Err(links.join(" ")),
    });
    assert!(!host.rules().contains("chain"), "{}", host.rules());
    assert!(host.dnsmasqs().is_empty(), "a dnsmasq is left");
}

#[test]
fn an_isolated_network_is_a_bridge_with_its_settings_and_goes_without_a_trace() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        let before = host.rules();
        let network = host.network(
            "<network><name>lab</name><uuid>8f1a2b3c-0000-4000-8000-000000000001</uuid>
             <bridge name='virbr7' stp='on' delay='4'/><mac address='52:54:00:11:22:33'/><mtu size='1400'/>
             <ip address='192.168.100.1' netmask='255.255.255.0'/></network>",
        );
        assert!(network.active && network.persistent && !network.autostart, "{network:?}");
        assert_eq!((network.bridge.as_deref(), network.mode.as_str()), (Some("virbr7"), "isolated"));
        let link = host.link("virbr7").expect("the bridge");
        assert_eq!(link["linkinfo"]["info_kind"], "bridge");
        assert_eq!(link["address"], "52:54:00:11:22:33");
        assert_eq!(link["mtu"], 1400);
        let data = &link["linkinfo"]["info_data"];
        assert_eq!((&data["stp_state"], &data["forward_delay"]), (&1.into(), &400.into()));
        assert!(link["flags"].as_array().unwrap().contains(&"UP".into()), "{link}");
        assert!(link["ifalias"].as_str().unwrap().ends_with(":bridge:8f1a2b3c-0000-4000-8000-000000000001"), "{link}");
        assert_eq!(addresses(&host, "virbr7"), ["192.168.100.1/24"]);
        // Without an address of its own the host says nothing in the guests' IPv6.
        assert_eq!(host.sysctl("ipv6/conf/virbr7/disable_ipv6"), "1");
        // An isolated network needs no forwarding.
        assert_eq!(host.sysctl("ipv4/ip_forward"), "0");

        host.stop_network("lab");
        assert!(host.link("virbr7").is_none(), "the name is free at once");
        nothing_left(&host);
        assert_eq!(host.rules().contains("chain"), before.contains("chain"));
        assert!(!host.show("lab").active);
        host.call(&UndefineNetwork { name: "lab".into() });
        assert!(host.call(&ListNetworks::default()).networks.is_empty());
        assert!(!host.root.join("etc/patchcord/networks/lab.xml").exists());
    });
}

#[test]
fn nat_forwards_while_it_runs_and_puts_forwarding_back_with_the_last() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        let xml = |name: &str, net: u8| {
            format!(
                "<network><name>{name}</name><forward mode='nat'/><bridge name='br-{name}'/>
                 <ip address='10.7.{net}.1' prefix='24'/></network>"
            )
        };
        host.network(&xml("one", 1));
        host.network(&xml("two", 2));
        assert_eq!(host.sysctl("ipv4/ip_forward"), "1");
        assert_eq!(host.sysctl("ipv6/conf/all/forwarding"), "0", "no IPv6, no IPv6 forwarding");
        let rules = host.rules();
        assert!(rules.contains("masquerade") && rules.contains("br-one") && rules.contains("br-two"), "{rules}");
        host.stop_network("one");
        assert_eq!(host.sysctl("ipv4/ip_forward"), "1", "the other one needs it");
        let rules = host.rules();
        assert!(!rules.contains("br-one") && rules.contains("br-two"), "{rules}");
        host.stop_network("two");
        assert_eq!(host.sysctl("ipv4/ip_forward"), "0");
        nothing_left(&host);
    });
}

#[test]
fn forwarding_that_was_on_stays_on() {
    in_namespace(|ns| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let host = Host::new(ns);
        host.network("<network><name>n</name><forward mode='nat'/><ip address='10.7.1.1' prefix='24'/></network>");
        host.stop_network("n");
        assert_eq!(host.sysctl("ipv4/ip_forward"), "1");
    });
}

#[test]
fn ipv6_forwarding_leaves_the_uplink_its_router() {
    in_namespace(|ns| {
        let peer = ns.peer("uplink");
        ns.veth("up0", &peer, "up1");
        // A link lives on router advertisements when it has a route from one.
        ns.run("ip link add quiet0 type bridge");
        peer.run("ip addr add fd00:99::1/64 dev up1 nodad");
        let directory = tempfile::tempdir().unwrap();
        // A pid file of its own: dnsmasq deletes what is there before it writes.
        let _router = peer.spawn(&format!(
            "dnsmasq --keep-in-foreground --conf-file= --port=0 --interface=up1 --bind-dynamic --enable-ra \
             --dhcp-range=fd00:99::,ra-only --ra-param=up1,4,1800 --pid-file={0}/pid --dhcp-leasefile={0}/leases \
             --log-facility=-",
            directory.path().display()
        ));
        let pid_file = directory.path().join("pid");
        wait_until("the uplink's router", common::SOON, || if pid_file.exists() { Ok(()) } else { Err("no pid file") });
        // A link that comes up asks for routers.
        ns.run("ip link set up0 down");
        ns.run("ip link set up0 up");
        wait_until("the uplink's router", Duration::from_secs(60), || {
            let routes = ns.run("ip -6 route show default dev up0");
            if routes.contains("proto ra") { Ok(()) } else { Err(routes) }
        });
        let host = Host::new(ns);
        assert_eq!(host.sysctl("ipv6/conf/up0/accept_ra"), "1");
        host.network(
            "<network><name>six</name><forward mode='route'/><bridge name='br6'/>
             <ip family='ipv6' address='fd00:6::1' prefix='64'/><ip family='ipv6' address='fd00:7::1' prefix='64'/>
             <ip address='10.6.0.1' prefix='16'/><ip address='10.8.0.1' netmask='255.255.255.0'/></network>",
        );
        assert_eq!(host.sysctl("ipv6/conf/all/forwarding"), "1");
        assert_eq!(host.sysctl("ipv6/conf/up0/accept_ra"), "2", "it still listens to its router");
        assert!(ns.run("ip -6 route show default dev up0").contains("proto ra"), "its route is still there");
        assert_eq!(host.sysctl("ipv6/conf/br6/accept_ra"), "0", "guests don't advertise to the host");
        assert_eq!(host.sysctl("ipv6/conf/br6/disable_ipv6"), "0");
        let all = addresses(&host, "br6");
        for wanted in ["fd00:6::1/64", "fd00:7::1/64", "10.6.0.1/16", "10.8.0.1/24"] {
            assert!(all.iter().any(|a| a == wanted), "{wanted}: {all:?}");
        }
        host.stop_network("six");
        assert_eq!(host.sysctl("ipv6/conf/all/forwarding"), "0");
        assert_eq!(host.sysctl("ipv6/conf/up0/accept_ra"), "1");
        nothing_left(&host);
    });
}

#[test]
fn static_routes_are_there_while_the_network_is() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(
            "<network><name>r</name><forward mode='route'/><bridge name='brr'/>
             <ip address='192.168.122.1' prefix='24'/><ip family='ipv6' address='fd00:1::1' prefix='64'/>
             <route address='192.168.222.0' prefix='24' gateway='192.168.122.2' metric='7'/>
             <route family='ipv6' address='fd00:2::' prefix='64' gateway='fd00:1::2'/></network>",
        );
        let routes = ns.json("ip -j route show dev brr");
        let route = routes.as_array().unwrap().iter().find(|r| r["dst"] == "192.168.222.0/24").expect("the route");
        assert_eq!((&route["gateway"], &route["metric"]), (&"192.168.122.2".into(), &7.into()));
        let routes = ns.run("ip -6 route show dev brr");
        assert!(routes.contains("fd00:2::/64 via fd00:1::2"), "{routes}");
        host.stop_network("r");
        assert!(!ns.run("ip route").contains("192.168.222.0"));
    });
}

#[test]
fn open_has_addresses_and_no_rules() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(
            "<network><name>o</name><forward mode='open'/><bridge name='bro'/>
             <ip address='10.9.0.1' prefix='24'/></network>",
        );
        assert_eq!(addresses(&host, "bro"), ["10.9.0.1/24"]);
        assert_eq!(host.sysctl("ipv4/ip_forward"), "1");
        assert!(!host.rules().contains("bro"), "{}", host.rules());
    });
}

#[test]
fn a_host_bridge_is_used_and_never_touched() {
    in_namespace(|ns| {
        ns.run("ip link add hostbr type bridge");
        ns.run("ip link set hostbr up mtu 1450");
        let host = Host::new(ns);
        let before = host.link("hostbr").unwrap();
        let network =
            host.network("<network><name>lan</name><forward mode='bridge'/><bridge name='hostbr'/></network>");
        assert_eq!(network.mode, "bridge");
        let nic = host.call(&common::attach("g", &interface("lan"))).nic;
        let tap = host.link(&common::tap(&nic)).expect("the tap");
        assert_eq!((&tap["master"], &tap["mtu"]), (&"hostbr".into(), &1450.into()));
        assert_eq!(nic.actual.kind, "bridge");
        host.detach(&nic.id);
        host.stop_network("lan");
        let after = host.link("hostbr").expect("the bridge is still there");
        assert_eq!((&before["mtu"], &before["ifalias"]), (&after["mtu"], &after["ifalias"]));
        assert_eq!(host.sysctl("ipv4/ip_forward"), "0");
    });
}

#[test]
fn bridges_are_numbered_around_what_is_there() {
    in_namespace(|ns| {
        ns.run("ip link add virbr0 type bridge");
        let host = Host::new(ns);
        let one = host.network("<network><name>one</name></network>");
        let two = host.network("<network><name>two</name><bridge name='lab%d'/></network>");
        let three = host.network("<network><name>three</name><bridge stp='off' delay='0'/></network>");
        let names = [&one, &two, &three].map(|n| n.bridge.clone().unwrap());
        assert_eq!(names, ["virbr1", "lab0", "virbr2"]);
        let mac = host.link("virbr1").unwrap()["address"].clone();
        host.stop_network("one");
        host.start_network("one");
        assert_eq!(host.show("one").bridge.as_deref(), Some("virbr1"), "the name is kept");
        assert_eq!(host.link("virbr1").unwrap()["address"], mac, "and the MAC");
    });
}

#[test]
fn names_with_quotes_and_of_any_length() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        let names = ["a 'quoted' \"name\" & <more>".to_owned(), "n".repeat(200), "büro ☎".to_owned()];
        for (number, name) in names.iter().enumerate() {
            let escaped = name.replace('&', "&amp;").replace('<', "&lt;");
            let xml = format!(
                "<network><name>{escaped}</name><forward mode='nat'/><ip address='10.{number}.0.1' prefix='24'>
                 <dhcp><range start='10.{number}.0.2' end='10.{number}.0.9'/></dhcp></ip></network>"
            );
            assert_eq!(host.network(&xml).name, *name);
            let nic = host.call(&common::attach(name, &interface(name))).nic;
            assert_eq!((nic.network.as_deref(), nic.state.as_str()), (Some(name.as_str()), "plugged"));
        }
        host.kill();
        host.start();
        for name in &names {
            assert!(host.show(name).active, "{name}");
            assert!(host.call(&GetNetworkXML { name: name.clone(), inactive: Some(true) }).xml.contains("<network"));
        }
        // Nobody but the daemon held their taps: they are made anew.
        wait_until("all NICs to be plugged", common::SOON, || {
            let nics = host.nics();
            if nics.iter().filter(|n| n.state == "plugged").count() == 3 { Ok(()) } else { Err(format!("{nics:?}")) }
        });
        for nic in host.nics() {
            host.detach(&nic.id);
        }
        for name in &names {
            host.stop_network(name);
            host.call(&UndefineNetwork { name: name.clone() });
        }
        nothing_left(&host);
        assert_eq!(std::fs::read_dir(host.root.join("run/patchcord/networks")).unwrap().count(), 0);
    });
}

#[test]
fn what_dnsmasq_refuses_is_told_with_what_helps_and_leaves_nothing() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        // Like a server that listens on all addresses.
        let _taken = std::net::UdpSocket::bind("0.0.0.0:53").unwrap();
        let (_, refusal) = host.refused(&CreateNetwork {
            xml: "<network><name>n</name><bridge name='brn'/><ip address='10.1.0.1' prefix='24'/></network>".into(),
        });
        assert_eq!((&*refusal.object, refusal.field.as_deref()), ("network 'n'", Some("DHCP and DNS")));
        assert!(refusal.cause.ends_with("10.1.0.1: Address already in use"), "{}", refusal.cause);
        assert!(
            refusal.hint.is_some_and(|hint| hint.contains("bind-interfaces") && hint.contains("<dns enable='no'/>"))
        );
        assert_ne!(refusal.exit, 5);
        nothing_left(&host);
    });
}

#[test]
fn a_definition_that_changes_counts_from_the_next_start() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        let xml =
            |ip: &str| format!("<network><name>n</name><bridge name='brn'/><ip address='{ip}' prefix='24'/></network>");
        host.network(&xml("10.1.0.1"));
        host.call(&DefineNetwork { xml: xml("10.2.0.1") });
        assert_eq!(addresses(&host, "brn"), ["10.1.0.1/24"]);
        host.stop_network("n");
        host.call(&StartNetwork { name: "n".into() });
        assert_eq!(addresses(&host, "brn"), ["10.2.0.1/24"]);
    });
}

#[test]
fn a_tap_is_quiet_and_has_the_networks_mtu() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(
            "<network><name>n</name><forward mode='route'/><mtu size='9000'/><bridge name='brn'/>
             <ip family='ipv6' address='fd00::1' prefix='64'/></network>",
        );
        let (nic, _guest) = host.guest_on("n", "g");
        let name = common::tap(&nic);
        let link = host.link(&name).unwrap();
        assert_eq!((&link["mtu"], &link["master"]), (&9000.into(), &"brn".into()));
        assert_eq!(host.sysctl(&format!("ipv6/conf/{name}/disable_ipv6")), "1");
        assert_eq!(addresses(&host, &name), [""; 0]);
        assert!(link["address"].as_str().unwrap().starts_with("fe:"), "{link}");
        let data = &link["linkinfo"]["info_data"];
        assert_eq!((&data["type"], &data["vnet_hdr"]), (&"tap".into(), &true.into()));
    });
}

#[test]
fn another_installations_packet_rules_are_in_the_way_and_nothing_is_done() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        let comment = "patchcord:8f1a2b3c-0000-4000-8000-000000000009";
        ns.run(&format!("nft add table inet patchcord {{ comment \"{comment}\" ; }}"));
        host.call(&DefineNetwork {
            xml: "<network><name>nat</name><forward mode='nat'/><ip address='10.5.0.1' prefix='24'/></network>".into(),
        });
        let before = host.state();
        let (error, refusal) = host.refused(&StartNetwork { name: "nat".into() });
        assert_eq!((error.as_str(), refusal.exit), ("InUse", 4), "{refusal}");
        assert_eq!(refusal.object, "network 'nat'");
        assert!(refusal.cause.contains(comment) && refusal.cause.matches("is not ours").count() == 1, "{refusal}");
        assert!(refusal.hint.as_ref().is_some_and(|hint| hint.contains("another installation")), "{refusal}");
        let after = host.state();
        assert!(before == after, "{}", common::differences(&before, &after));
        ns.run("nft delete table inet patchcord");
        wait_until("the table to be seen gone", common::SOON, || {
            host.client().call(&StartNetwork { name: "nat".into() }).map(drop).map_err(|error| format!("{error:?}"))
        });
        host.stop_network("nat");
    });
}
