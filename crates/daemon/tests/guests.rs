//! What guests get from their networks: addresses, names, and who they reach.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::outside::{echo_server, seen_as, uplink};
use common::{Host, SOON, interface, interface_with_mac, ip, pid};
use patchcord_testkit::{DnsKind, DnsRecord, Guest, GuestError, ask_dns, in_namespace};
use rustix::process::{Signal, kill_process};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Long enough for what should not arrive.
const NEVER: Duration = Duration::from_secs(2);

fn echo(guest: &mut Guest, address: &str, port: u16) -> bool {
    guest.tcp_echo_client(ip(address), port, b"through", NEVER).is_ok_and(|back| back == b"through")
}

const NAT: &str = "<network><name>nat</name><forward mode='nat'/><bridge name='brnat' stp='off'/><domain name='lab.test' \
     localOnly='yes'/><dns><host ip='10.5.0.177'><hostname>static.lab.test</hostname></host>\
     <txt name='note.lab.test' value='hello'/><txt name='quotes.lab.test' value='say \"hi\" #1'/>\
     <srv service='sip' protocol='tcp' domain='lab.test' target='static.lab.test' port='5060' priority='1' weight='2'/>\
     </dns><ip address='10.5.0.1' prefix='24'><dhcp><range start='10.5.0.10' end='10.5.0.99'/>\
     <host mac='52:54:00:00:00:42' name='fixed' ip='10.5.0.42'/></dhcp></ip></network>";

#[test]
fn a_guest_gets_a_lease_and_reaches_its_gateway_its_neighbour_and_the_host() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        let mut events = host.events();
        host.network(NAT);
        let (nic, mut one) = host.guest_on("nat", "one");
        one.set_hostname("one");
        let lease = one.dhcp(SOON).unwrap();
        assert_eq!(lease.prefix_len, 24);
        assert_eq!(lease.router.map(IpAddr::from), Some(ip("10.5.0.1")));
        assert_eq!(lease.dns, ["10.5.0.1".parse::<std::net::Ipv4Addr>().unwrap()]);
        assert_eq!(lease.options.get(&15).map(Vec::as_slice), Some(&b"lab.test"[..]));
        Host::reaches(&mut one, "10.5.0.1");
        let server = echo_server(ns, "10.5.0.1:7777");
        assert_eq!(seen_as(&mut one, &server, "10.5.0.1", 7777).ip(), IpAddr::from(lease.address));

        let fixed = interface_with_mac("nat", "52:54:00:00:00:42");
        let (_, mut two) = host.guest("two", &fixed);
        two.set_hostname("two");
        let reserved = two.dhcp(SOON).unwrap();
        assert_eq!(IpAddr::from(reserved.address), ip("10.5.0.42"));
        two.tcp_server(4242);
        let two = two.run_in_background();
        Host::reaches(&mut one, "10.5.0.42");
        assert!(echo(&mut one, "10.5.0.42", 4242));

        // Names: a reservation's, a guest's own, and a record's.
        let gateway = ip("10.5.0.1");
        let resolve = |guest: &mut Guest, name: &str| guest.resolve(name, gateway, SOON);
        assert_eq!(resolve(&mut one, "fixed.lab.test").unwrap().map_ips(), ["10.5.0.42"]);
        assert_eq!(resolve(&mut one, "one.lab.test").unwrap(), [lease.address]);
        assert_eq!(resolve(&mut one, "static.lab.test").unwrap().map_ips(), ["10.5.0.177"]);

        let added = events.wait("the first lease", |e| {
            e.kind == "lease" && e.what == "added" && e.lease.as_ref().is_some_and(|l| l.ip != "10.5.0.42")
        });
        let told = added.lease.unwrap();
        assert_eq!((told.ip, told.nic, told.mac), (lease.address.to_string(), Some(nic.id), nic.mac));
        assert_eq!(told.hostname.as_deref(), Some("one"));
        drop(two);
    });
}

#[test]
fn a_lease_is_not_gone_while_its_file_is_written() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        let mut events = host.events();
        let network = host.network(NAT);
        let (_, mut guest) = host.guest_on("nat", "one");
        guest.dhcp(SOON).unwrap();
        events.wait("the lease", |e| e.kind == "lease" && e.what == "added");
        // As dnsmasq does: in place, emptied first.
        let path = host.root.join(format!("var/lib/patchcord/dnsmasq/{}.leases", network.uuid));
        let leases = std::fs::read(&path).unwrap();
        for _ in 0..300 {
            std::fs::write(&path, &leases).unwrap();
        }
        host.stop_network("nat");
        events.wait("the end", |e| e.kind == "network" && e.what == "stopped");
        let seen: Vec<_> = events.seen.iter().filter(|e| e.kind == "lease").collect();
        assert!(seen.is_empty(), "{seen:#?}");
    });
}

#[test]
fn a_lease_whose_notice_the_kernel_dropped_is_found() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        let mut events = host.events();
        let network = host.network(NAT);
        let directory = host.root.join("var/lib/patchcord/dnsmasq");
        let daemon = pid(host.pid());
        kill_process(daemon, Signal::STOP).unwrap();
        let most = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        // Two different notices in turn, since equal ones in a row are one.
        for _ in 0..=most.trim().parse::<usize>().unwrap() / 2 {
            std::fs::write(directory.join("noise"), "").unwrap();
            std::fs::remove_file(directory.join("noise")).unwrap();
        }
        let leases = std::fs::File::options().append(true).open(directory.join(format!("{}.leases", network.uuid)));
        // Infinite, as dnsmasq writes it.
        leases.unwrap().write_all(b"0 52:54:00:00:00:01 10.5.0.10 one *\n").unwrap();
        kill_process(daemon, Signal::CONT).unwrap();
        let added = events.wait("the lease", |e| e.kind == "lease" && e.what == "added");
        assert_eq!(added.lease.unwrap().ip, "10.5.0.10");
    });
}

/// Addresses as text.
trait Texts {
    fn map_ips(&self) -> Vec<String>;
}

impl Texts for Vec<std::net::Ipv4Addr> {
    fn map_ips(&self) -> Vec<String> {
        self.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn text_and_service_records_are_answered() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(NAT);
        let ask = |name: &str, kind| ask_dns("10.5.0.1:53".parse().unwrap(), name, kind, SOON).unwrap().records;
        let text = |text: &str| [DnsRecord::Text(vec![text.to_owned()])];
        assert_eq!(ask("note.lab.test", DnsKind::Txt), text("hello"));
        assert_eq!(ask("quotes.lab.test", DnsKind::Txt), text("say \"hi\" #1"));
        let target = "static.lab.test".to_owned();
        let service = DnsRecord::Service { priority: 1, weight: 2, port: 5060, target };
        assert_eq!(ask("_sip._tcp.lab.test", DnsKind::Srv), [service]);
    });
}

#[test]
fn nat_hides_guests_behind_the_hosts_address() {
    in_namespace(|ns| {
        let peer = uplink(ns);
        let server = echo_server(&peer, "203.0.113.2:7777");
        let host = Host::new(ns);
        host.network(NAT);
        let (_, mut guest) = host.guest_on("nat", "g");
        guest.dhcp(SOON).unwrap();
        Host::reaches(&mut guest, "203.0.113.2");
        assert_eq!(seen_as(&mut guest, &server, "203.0.113.2", 7777).ip(), ip("203.0.113.1"));
        // From outside nobody opens a connection to a guest, even who knows the way.
        peer.run("ip route add 10.5.0.0/24 via 203.0.113.1");
        let address = guest.lease().unwrap().address;
        guest.tcp_server(4242);
        let _guest = guest.run_in_background();
        let opened =
            peer.inside(|| std::net::TcpStream::connect_timeout(&SocketAddr::new(address.into(), 4242), NEVER));
        assert!(opened.is_err(), "NAT let a connection in");
    });
}

#[test]
fn nat_uses_the_addresses_and_ports_it_was_given() {
    in_namespace(|ns| {
        let peer = uplink(ns);
        ns.run("ip addr add 203.0.113.50/24 dev up0");
        let server = echo_server(&peer, "203.0.113.2:7777");
        let host = Host::new(ns);
        host.network(
            "<network><name>n</name><bridge stp='off'/><forward mode='nat' dev='up0'><nat><address start='203.0.113.50' \
             end='203.0.113.50'/><port start='20000' end='20010'/></nat></forward><ip address='10.5.1.1' prefix='24'>\
             <dhcp><range start='10.5.1.10' end='10.5.1.20'/></dhcp></ip></network>",
        );
        let (_, mut guest) = host.guest_on("n", "g");
        guest.dhcp(SOON).unwrap();
        let seen = seen_as(&mut guest, &server, "203.0.113.2", 7777);
        assert_eq!(seen.ip(), ip("203.0.113.50"));
        assert!((20000..=20010).contains(&seen.port()), "{seen}");
    });
}

#[test]
fn nat_by_one_uplink_closes_the_others() {
    in_namespace(|ns| {
        let peer = uplink(ns);
        let server = echo_server(&peer, "203.0.113.2:7777");
        let other = ns.peer("other");
        ns.veth("alt0", &other, "alt1");
        ns.run("ip addr add 198.51.100.1/24 dev alt0");
        other.run("ip addr add 198.51.100.2/24 dev alt1");
        // Who leaves untranslated is answered, too.
        other.run("ip route add 10.5.0.0/16 via 198.51.100.1");
        let alternative = echo_server(&other, "198.51.100.2:7777");
        let host = Host::new(ns);
        let network = |name: &str, dev: &str, net: u8| {
            host.network(&format!(
                "<network><name>{name}</name><bridge stp='off'/><forward mode='nat' {dev}/><ip address='10.5.{net}.1' \
                 prefix='24'><dhcp><range start='10.5.{net}.10' end='10.5.{net}.20'/></dhcp></ip></network>"
            ));
            let (_, mut guest) = host.guest_on(name, name);
            guest.dhcp(SOON).unwrap();
            guest
        };
        let mut bound = network("bound", "dev='up0'", 1);
        assert_eq!(seen_as(&mut bound, &server, "203.0.113.2", 7777).ip(), ip("203.0.113.1"));
        assert!(!echo(&mut bound, "198.51.100.2", 7777), "it left by another link");
        let mut free = network("free", "", 2);
        assert_eq!(seen_as(&mut free, &server, "203.0.113.2", 7777).ip(), ip("203.0.113.1"));
        assert_eq!(seen_as(&mut free, &alternative, "198.51.100.2", 7777).ip(), ip("198.51.100.1"));
    });
}

#[test]
fn nat66_and_addresses_by_router_advertisement() {
    in_namespace(|ns| {
        let peer = uplink(ns);
        let server = echo_server(&peer, "[fd00:99::2]:7777");
        let host = Host::new(ns);
        host.network(
            "<network><name>n</name><bridge stp='off'/><forward mode='nat'><nat ipv6='yes'/></forward><mtu size='1400'/>\
             <ip family='ipv6' address='fd00:5::1' prefix='64'/></network>",
        );
        let (_, mut guest) = host.guest_on("n", "g");
        let heard = guest.solicit_router(SOON).unwrap();
        assert!(heard.prefixes.iter().any(|p| p.prefix.to_string() == "fd00:5::" && p.autonomous), "{heard:?}");
        assert!(!heard.lifetime.is_zero(), "it is their router");
        Host::reaches(&mut guest, "fd00:5::1");
        assert_eq!(seen_as(&mut guest, &server, "fd00:99::2", 7777).ip(), ip("fd00:99::1"));
    });
}

#[test]
fn a_range_of_ipv6_addresses_is_managed() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(
            "<network><name>n</name><bridge stp='off'/><forward mode='route'/><ip family='ipv6' address='fd00:5::1' prefix='64'>\
             <dhcp><range start='fd00:5::100' end='fd00:5::1ff'/></dhcp></ip></network>",
        );
        let (_, mut guest) = host.guest_on("n", "g");
        let heard = guest.solicit_router(SOON).unwrap();
        assert!(heard.managed, "addresses come by DHCPv6: {heard:?}");
    });
}

#[test]
fn routed_guests_keep_their_addresses_both_ways() {
    in_namespace(|ns| {
        let peer = uplink(ns);
        peer.run("ip route add 10.6.0.0/24 via 203.0.113.1");
        let server = echo_server(&peer, "203.0.113.2:7777");
        let host = Host::new(ns);
        host.network(
            "<network><name>r</name><bridge stp='off'/><forward mode='route'/><ip address='10.6.0.1' prefix='24'>\
             <dhcp><range start='10.6.0.10' end='10.6.0.20'/></dhcp></ip></network>",
        );
        let (_, mut guest) = host.guest_on("r", "g");
        let address = IpAddr::from(guest.dhcp(SOON).unwrap().address);
        assert_eq!(seen_as(&mut guest, &server, "203.0.113.2", 7777).ip(), address);
        guest.tcp_server(4242);
        let _guest = guest.run_in_background();
        let target = SocketAddr::new(address, 4242);
        let opened = peer.inside(|| std::net::TcpStream::connect_timeout(&target, SOON));
        opened.expect("routed guests are reached from outside");
    });
}

#[test]
fn isolated_guests_reach_each_other_and_nobody_else() {
    in_namespace(|ns| {
        let peer = uplink(ns);
        peer.run("ip route add 10.8.0.0/24 via 203.0.113.1");
        let server = echo_server(&peer, "203.0.113.2:7777");
        let mut host = Host::new(ns);
        // A second network makes the host forward: it is the rules that hold the isolated one back.
        host.network(NAT);
        host.network(
            "<network><name>i</name><bridge name='bri' stp='off'/><ip address='10.8.0.1' prefix='24'>\
             <dhcp><range start='10.8.0.10' end='10.8.0.20'/></dhcp></ip></network>",
        );
        let (_, mut one) = host.guest_on("i", "one");
        let (_, mut two) = host.guest_on("i", "two");
        let lease = one.dhcp(SOON).unwrap();
        let other = two.dhcp(SOON).unwrap().address.to_string();
        assert_eq!(lease.router, None, "there is nothing behind it");
        let _two = two.run_in_background();
        Host::reaches(&mut one, &other);
        let (_, mut elsewhere) = host.guest_on("nat", "elsewhere");
        let elsewhere_ip = elsewhere.dhcp(SOON).unwrap().address.to_string();
        elsewhere.tcp_server(7);
        let _elsewhere = elsewhere.run_in_background();
        one.set_static(ip("10.8.0.50"), 24, Some(ip("10.8.0.1")));
        assert!(!echo(&mut one, "203.0.113.2", 7777), "it got out");
        assert!(!echo(&mut one, &elsewhere_ip, 7), "it reached another network");
        let bridges = ["brnat", "bri"].map(|b| host.link(b).is_some());
        assert_eq!(bridges, [true; 2]);
        // Nothing but the rules was in the way.
        host.kill();
        ns.run("nft flush ruleset");
        seen_as(&mut one, &server, "203.0.113.2", 7777);
        assert!(echo(&mut one, &elsewhere_ip, 7), "with no rules it isn't reached either");
    });
}

#[test]
fn an_open_networks_traffic_is_the_hosts_business() {
    in_namespace(|ns| {
        let peer = uplink(ns);
        peer.run("ip route add 10.9.0.0/24 via 203.0.113.1");
        let server = echo_server(&peer, "203.0.113.2:7777");
        let host = Host::new(ns);
        host.network(
            "<network><name>o</name><bridge stp='off'/><forward mode='open'/><ip address='10.9.0.1' prefix='24'>\
             <dhcp><range start='10.9.0.10' end='10.9.0.20'/></dhcp></ip></network>",
        );
        let (_, mut guest) = host.guest_on("o", "g");
        let address = IpAddr::from(guest.dhcp(SOON).unwrap().address);
        assert_eq!(seen_as(&mut guest, &server, "203.0.113.2", 7777).ip(), address);
    });
}

#[test]
fn isolated_ports_reach_the_gateway_and_not_each_other() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(NAT);
        let xml = "<interface type='network'><source network='nat'/><port isolated='yes'/></interface>";
        let (nic, mut one) = host.guest("one", xml);
        let (_, mut two) = host.guest("two", xml);
        let (_, mut open) = host.guest("open", &interface("nat"));
        one.dhcp(SOON).unwrap();
        let second = two.dhcp(SOON).unwrap().address;
        let third = open.dhcp(SOON).unwrap().address;
        let (_two, _open) = (two.run_in_background(), open.run_in_background());
        Host::reaches(&mut one, "10.5.0.1");
        Host::reaches(&mut one, &third.to_string());
        assert!(one.ping(second.into(), NEVER).is_err(), "two isolated ports met");
        let port = ns.json(&format!("bridge -j -d link show dev {}", common::tap(&nic)));
        assert_eq!(port[0]["isolated"], true, "{port}");
    });
}

#[test]
fn the_dhcp_reply_says_mtu_and_time_and_boot_files_are_served() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        let tftp = host.root.join("tftp");
        std::fs::create_dir(&tftp).unwrap();
        // Of two blocks, the second of them not full.
        let image: Vec<u8> = (0..700u16).map(|n| n.to_le_bytes()[0]).collect();
        std::fs::write(tftp.join("boot.img"), &image).unwrap();
        let network = |name: &str, net: u8, tftp: &str, bootp: &str| {
            host.network(&format!(
                "<network><name>{name}</name><bridge stp='off'/><mtu size='1300'/><ip address='10.5.{net}.1' prefix='24'>\
                 {tftp}<dhcp><range start='10.5.{net}.10' end='10.5.{net}.20'><lease expiry='10' unit='minutes'/></range>\
                 {bootp}</dhcp></ip></network>"
            ));
            let (_, mut guest) = host.guest_on(name, name);
            let lease = guest.dhcp(SOON).unwrap();
            (guest, lease)
        };
        let root = format!("<tftp root='{}'/>", tftp.display());
        let (mut guest, lease) = network("own", 0, &root, "<bootp file='boot.img'/>");
        assert_eq!(lease.options.get(&26).map(Vec::as_slice), Some(&1300u16.to_be_bytes()[..]), "MTU");
        assert_eq!(lease.lease_seconds, 600);
        let leases = host.call(&patchcord_api::methods::ListLeases { network: "own".into() }).leases;
        assert_eq!(leases.len(), 1, "{leases:?}");
        // What firmware does: it reads the file that it was told of, from where it was told.
        assert_eq!(IpAddr::from(lease.boot_server), ip("10.5.0.1"));
        assert_eq!(guest.tftp_read(&lease.boot_file, lease.boot_server.into(), SOON).unwrap(), image);
        let missing = guest.tftp_read("other.img", lease.boot_server.into(), SOON);
        assert!(matches!(&missing, Err(GuestError::Tftp { .. })), "{missing:?}");

        let (_, lease) = network("elsewhere", 1, "", "<bootp file='pxe/boot.0' server='10.5.1.9'/>");
        assert_eq!((lease.boot_file.as_str(), IpAddr::from(lease.boot_server)), ("pxe/boot.0", ip("10.5.1.9")));
    });
}
