//! libvirt's networks served by dnsmasq with libvirt's configuration, and by ours: guests of both get the same answers.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::outside::name_server;
use common::{Host, SOON, corpus, interface_with_mac, ip, xml_files};
use patchcord_core::model::Network;
use patchcord_core::xml::{Mode, read_network};
use patchcord_testkit::{
    DnsKind, DnsRecord, Guest, GuestError, Lease, Namespace, Process, RouterAdvertisement, create_tap, in_namespace,
};
use std::fmt::Debug;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;

/// What the host's name server says of every name; [`Host`] has it in its `resolv.conf`.
const UPSTREAM: &str = "192.0.2.53";
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// Where the corpus' files to boot from are.
const TFTP_ROOT: &str = "/var/lib/tftproot";
const IMAGE: &str = "pxeboot.img";
/// Nobody has reserved anything for it.
const STRANGER: &str = "52:54:00:5e:00:01";

/// Options of a lease that differ: dnsmasq shortens the times of renewal and rebinding at random, so that guests don't come
/// all at once.
const RANDOM: [u8; 2] = [58, 59];

/// What differs on purpose, beside what no guest is told (see `patchcord_core::plan::dnsmasq`): we name the network's own
/// address as the DNS server of advertisements, and not the link-local one that dnsmasq falls back to.
fn apart_from_dns(mut heard: RouterAdvertisement) -> RouterAdvertisement {
    heard.dns.clear();
    heard
}

/// One of the corpus' networks, with a place of its own for the files that guests boot from.
struct Case {
    network: Network,
    xml: String,
    conf: String,
    reservations: String,
}

impl Case {
    fn read(path: &Path, tftp: &Path) -> Self {
        let moved = |extension: &str| {
            let text = fs::read_to_string(path.with_extension(extension));
            text.map(|text| text.replace(TFTP_ROOT, &tftp.display().to_string()))
        };
        // Ports that look for loops first would make every guest wait for seconds.
        let xml = moved("xml").unwrap().replace("stp='on'", "stp='off'");
        let network = read_network(&xml, Mode::Lenient).unwrap();
        Self { network, xml, conf: moved("conf").unwrap(), reservations: moved("hostsfile").unwrap_or_default() }
    }

    /// libvirt's dnsmasq, its files in a directory of the test's. The corpus has no file of names beside its
    /// configurations: here it is as libvirt documents it, an address and its names in each line.
    fn dnsmasq(&self, ns: &Namespace, directory: &Path) -> Process {
        let at = |file: &str| directory.join(file).display().to_string();
        let adapted = self.conf.lines().map(|line| match line.split_once('=') {
            Some((key @ "dhcp-hostsfile", _)) => format!("{key}={}", at("hosts")),
            Some((key @ "addn-hosts", _)) => format!("{key}={}", at("names")),
            _ => line.to_owned(),
        });
        let hosts = self.network.dns.iter().flat_map(|dns| &dns.hosts);
        let names = hosts.map(|host| format!("{} {}\n", host.ip.unwrap(), host.hostnames.join(" ")));
        let conf: Vec<String> = adapted.collect();
        fs::write(at("conf"), conf.join("\n")).unwrap();
        fs::write(at("names"), names.collect::<String>()).unwrap();
        fs::write(at("hosts"), &self.reservations).unwrap();
        fs::write(at("resolv.conf"), format!("nameserver {UPSTREAM}\n")).unwrap();
        // It becomes a user who must read them, unless it is told to stay.
        ns.spawn(&format!(
            "/usr/sbin/dnsmasq --keep-in-foreground --user=root --conf-file={} --resolv-file={} --leasefile-ro --pid-file=",
            at("conf"),
            at("resolv.conf")
        ))
    }

    /// MACs with a reservation, and one without.
    fn macs(&self) -> Vec<String> {
        let dhcp = || self.network.ips.iter().filter_map(|ip| ip.dhcp.as_ref());
        let reserved = dhcp().flat_map(|dhcp| &dhcp.hosts).filter_map(|host| host.mac);
        let stranger = dhcp().any(|dhcp| !dhcp.ranges.is_empty()).then(|| STRANGER.to_owned());
        reserved.map(|mac| mac.to_string()).chain(stranger).collect()
    }

    /// Every name and address that the network says something of, and those that it says nothing of.
    fn questions(&self) -> Vec<(String, DnsKind)> {
        let domain = self.network.domain.as_ref().map_or("nowhere.test", |domain| &domain.name);
        let reservations = self.network.ips.iter().filter_map(|ip| ip.dhcp.as_ref()).flat_map(|dhcp| &dhcp.hosts);
        let dns = || self.network.dns.iter();
        let mut names = vec!["nobody".to_owned(), "www.example.test".to_owned(), domain.to_owned()];
        let mut addresses = vec![ip("192.168.122.77"), ip("10.99.0.1"), ip("198.51.100.9"), ip("2001:db8::9")];
        addresses.extend(self.network.ips.iter().map(|ip| ip.address));
        for host in reservations.clone() {
            names.extend(host.name.clone());
            addresses.extend(host.ip);
        }
        for host in dns().flat_map(|dns| &dns.hosts) {
            names.extend(host.hostnames.clone());
            addresses.extend(host.ip);
        }
        let qualified: Vec<_> = names.iter().map(|name| format!("{name}.{domain}")).collect();
        names.extend(qualified);
        let mut all: Vec<_> =
            names.into_iter().flat_map(|name| [(name.clone(), DnsKind::A), (name, DnsKind::Aaaa)]).collect();
        all.extend(addresses.into_iter().map(|address| (reverse(address), DnsKind::Ptr)));
        all.extend(dns().flat_map(|dns| &dns.txts).map(|txt| (txt.name.clone(), DnsKind::Txt)));
        for srv in dns().flat_map(|dns| &dns.srvs) {
            let name = format!("_{}._{}", srv.service, srv.protocol);
            let within = srv.domain.as_deref().unwrap_or(domain);
            all.extend([(format!("{name}.{within}"), DnsKind::Srv), (name, DnsKind::Srv)]);
        }
        all
    }
}

/// The name of an address' reverse look-up.
fn reverse(address: IpAddr) -> String {
    let (labels, suffix): (Vec<String>, _) = match address {
        IpAddr::V4(v4) => (v4.octets().iter().map(u8::to_string).collect(), "in-addr.arpa"),
        IpAddr::V6(v6) => {
            (v6.octets().iter().flat_map(|o| [o >> 4, o & 15]).map(|n| format!("{n:x}")).collect(), "ip6.arpa")
        }
    };
    let labels: Vec<_> = labels.into_iter().rev().collect();
    format!("{}.{suffix}", labels.join("."))
}

/// Who was asked what, and the records in order or the error.
type Answer = (IpAddr, String, DnsKind, Result<Vec<DnsRecord>, String>);

/// What guests of one side were told.
#[derive(Debug)]
struct Told {
    leases: Vec<(String, Lease)>,
    advertisement: Option<RouterAdvertisement>,
    answers: Vec<Answer>,
    boot: Option<Vec<u8>>,
    /// What the host's name server was asked.
    forwarded: Vec<String>,
}

impl Told {
    fn of(case: &Case, upstream: &Receiver<String>, mut guest: impl FnMut(&str) -> Guest) -> Self {
        let mut leases = Vec::new();
        for mac in case.macs() {
            let mut lease = guest(&mac).dhcp(SOON).unwrap_or_else(|error| panic!("{mac}: {error}"));
            lease.options.retain(|number, _| !RANDOM.contains(number));
            leases.push((mac, lease));
        }
        let first = case.network.ips[0].address;
        let IpAddr::V4(gateway) = first else { panic!("{first} is no IPv4 address") };
        let [a, b, c, _] = gateway.octets();
        // Somebody who has an address without asking.
        let mut guest = guest("52:54:00:5e:00:02");
        guest.set_static(Ipv4Addr::new(a, b, c, 200).into(), 24, Some(first));
        let advertisement = case.network.ips.iter().any(|ip| ip.address.is_ipv6()).then(|| {
            let mut heard = guest.solicit_router(SOON).unwrap();
            // In the kernel's order of addresses, and from a bridge with a MAC of its own.
            heard.prefixes.sort_by_key(|prefix| prefix.prefix);
            heard.dns.iter_mut().filter(|server| **server == heard.router).for_each(|server| *server = LINK_LOCAL);
            heard.router = LINK_LOCAL;
            heard
        });
        let mut ask = |server, name: String, kind| {
            let answer = match guest.query(&name, kind, server, SOON) {
                Ok(mut records) => {
                    records.sort();
                    Ok(records)
                }
                Err(GuestError::Dns { rcode, .. }) => Err(rcode),
                Err(error) => panic!("{name} {kind:?}: {error}"),
            };
            (server, name, kind, answer)
        };
        let mut answers: Vec<_> = case.questions().into_iter().map(|(name, kind)| ask(first, name, kind)).collect();
        // Every address of the network's answers.
        let others = case.network.ips.iter().enumerate();
        answers.extend(others.map(|(n, ip)| ask(ip.address, format!("asked-at-{n}.test"), DnsKind::A)));
        let tftp = case.network.ips.iter().any(|ip| ip.tftp_root.is_some());
        let boot = tftp.then(|| guest.tftp_read(IMAGE, first, SOON).unwrap());
        // A question that was lost is asked again.
        let mut forwarded: Vec<_> = upstream.try_iter().collect();
        forwarded.dedup();
        Self { leases, advertisement, answers, boot, forwarded }
    }
}

/// Stands for the link-local address of a bridge.
const LINK_LOCAL: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);

/// A namespace for libvirt's side: the bridge with its addresses.
fn beside(ns: &Namespace, case: &Case) -> (Namespace, String) {
    let theirs = ns.peer("libvirt");
    let bridge = case.network.bridge.name.as_ref().unwrap().to_string();
    theirs.run(&format!("ip link add {bridge} up type bridge"));
    for address in &case.network.ips {
        let nodad = if address.address.is_ipv6() { "nodad" } else { "" };
        theirs.run(&format!("ip addr add {} dev {bridge} {nodad}", address.network()));
    }
    (theirs, bridge)
}

/// Adds a name server to a host.
fn upstream(ns: &Namespace) -> Receiver<String> {
    ns.run(&format!("ip addr add {UPSTREAM}/32 dev lo"));
    name_server(ns, UPSTREAM, OUTSIDE)
}

fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

#[track_caller]
fn same<T: PartialEq + Debug>(of: &Path, what: &str, theirs: T, ours: T) {
    assert_eq!(ours, theirs, "{}: {what} (ours left, libvirt's right)", of.display());
}

fn compare(path: &Path) {
    in_namespace(|ns| {
        let host = Host::new(ns);
        let tftp = host.root.join("tftp");
        fs::create_dir(&tftp).unwrap();
        fs::write(tftp.join(IMAGE), "an image").unwrap();
        let case = Case::read(path, &tftp);

        let asked = upstream(ns);
        let network = host.network(&case.xml);
        let ours = Told::of(&case, &asked, |mac| host.guest(mac, &interface_with_mac(&network.name, mac)).1);

        let (beside, bridge) = beside(ns, &case);
        let asked = upstream(&beside);
        let directory = host.root.join("libvirt");
        fs::create_dir(&directory).unwrap();
        let _dnsmasq = case.dnsmasq(&beside, &directory);
        let mut taps = 0;
        let theirs = Told::of(&case, &asked, |text| {
            taps += 1;
            let tap = format!("tap{taps}");
            let fd = beside.inside(|| create_tap(&tap)).unwrap();
            beside.run(&format!("ip link set {tap} master {bridge}"));
            Guest::new(fd, mac(text), 12).unwrap()
        });

        same(path, "leases", theirs.leases, ours.leases);
        for (theirs, ours) in theirs.answers.into_iter().zip(ours.answers) {
            same(path, "an answer", theirs, ours);
        }
        same(path, "names that were forwarded", theirs.forwarded, ours.forwarded);
        same(path, "the file to boot from", theirs.boot, ours.boot);
        let own = case.network.ips.iter().find_map(|ip| if let IpAddr::V6(v6) = ip.address { Some(v6) } else { None });
        let dns =
            |heard: &Option<RouterAdvertisement>| heard.iter().flat_map(|heard| heard.dns.clone()).collect::<Vec<_>>();
        same(path, "our advertised DNS server", own.into_iter().collect::<Vec<_>>(), dns(&ours.advertisement));
        same(path, "libvirt's", own.map(|_| LINK_LOCAL).into_iter().collect::<Vec<_>>(), dns(&theirs.advertisement));
        let rest = |heard: Option<RouterAdvertisement>| heard.map(apart_from_dns);
        same(path, "advertisements", rest(theirs.advertisement), rest(ours.advertisement));
    });
}

#[test]
fn guests_are_served_as_by_libvirts_configuration() {
    let Some(corpus) = corpus() else { return };
    let networks: Vec<PathBuf> = xml_files(&corpus.join("networkxml2confdata"));
    assert!(!networks.is_empty(), "no networks in {}", corpus.display());
    // Side by side: before it offers an address, dnsmasq listens for three seconds whether somebody has it.
    std::thread::scope(|scope| {
        for network in &networks {
            scope.spawn(|| compare(network));
        }
    });
}
