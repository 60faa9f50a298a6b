//! Who reaches whom, by a small evaluator of the rules, compared with what libvirt's iptables rules decide.

use super::super::{Chain, Intent, Key, L4Proto, Map, Stmt, base_chains};
use super::{link, network, rules, with_uplink};
use crate::model::ForwardMode::{Isolated, Nat, Open, Route};
use std::net::IpAddr;

/// A packet that the host routes.
#[derive(Clone, Copy)]
struct Packet<'a> {
    iif: &'a str,
    oif: &'a str,
    src: IpAddr,
    dst: IpAddr,
    proto: Option<L4Proto>,
    established: bool,
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Accept,
    Reject,
    Translate(Stmt),
}

struct Table {
    chains: Vec<Chain>,
    intent: Intent,
}

impl Table {
    fn chain(&self, name: &str, p: &Packet<'_>) -> Option<Verdict> {
        let chain = self.chains.iter().find(|c| c.name == name).unwrap();
        'rules: for rule in &chain.rules {
            for stmt in &rule.stmts {
                let holds = match stmt {
                    Stmt::Iifname(name) => name.as_str() == p.iif,
                    Stmt::Oifname(name) => name.as_str() == p.oif,
                    Stmt::Saddr(net) => net.contains(&p.src),
                    // A family match stands before the address, negated or not.
                    Stmt::Daddr { net, negated } => {
                        net.addr().is_ipv4() == p.dst.is_ipv4() && net.contains(&p.dst) != *negated
                    }
                    Stmt::L4proto(proto) => Some(*proto) == p.proto,
                    Stmt::CtEstablishedRelated => p.established,
                    Stmt::Dispatch(map) => match self.look_up(*map, p).and_then(|chain| self.chain(&chain, p)) {
                        Some(verdict) => return Some(verdict),
                        None => continue 'rules,
                    },
                    Stmt::Accept => return Some(Verdict::Accept),
                    Stmt::Reject => return Some(Verdict::Reject),
                    Stmt::Return => return None,
                    Stmt::Masquerade { .. } | Stmt::Snat { .. } => return Some(Verdict::Translate(stmt.clone())),
                };
                if !holds {
                    continue 'rules;
                }
            }
        }
        None
    }

    fn look_up(&self, map: Map, p: &Packet<'_>) -> Option<String> {
        let hit = |key: &Key| match (map, key) {
            (Map::To, Key::Link(name)) => name.as_str() == p.oif,
            (Map::From, Key::Link(name)) => name.as_str() == p.iif,
            (_, Key::Net(net)) => net.contains(&p.src),
            _ => false,
        };
        let mut elements = self.intent.values().flat_map(|r| &r.elements).filter(|e| e.map == map);
        elements.find(|e| hit(&e.key)).map(|e| e.chain.clone())
    }

    /// Whether it is forwarded: the policy is accept.
    fn forwards(&self, p: &Packet<'_>) -> bool {
        self.chain("forward", p).unwrap_or(Verdict::Accept) == Verdict::Accept
    }

    fn translates(&self, p: &Packet<'_>) -> Option<Stmt> {
        match self.chain("postrouting", p) {
            Some(Verdict::Translate(stmt)) => Some(stmt),
            _ => None,
        }
    }
}

fn host() -> Table {
    let both = |n: u8| [format!("10.{n}.0.1/16"), format!("2001:db8:{n}::1/64")];
    let make = |mode, n| {
        let addresses = both(n);
        network(mode, &[addresses[0].as_str(), addresses[1].as_str()])
    };
    let mut nat66 = make(Nat, 6);
    nat66.forward.nat.ipv6 = Some(true);
    let networks = [
        ("nat", make(Nat, 1)),
        ("route", make(Route, 2)),
        ("isolated", make(Isolated, 3)),
        ("open", make(Open, 4)),
        ("natdev", with_uplink(make(Nat, 5), "eth0")),
        ("nat66", nat66),
        ("routedev", with_uplink(make(Route, 7), "eth0")),
    ];
    let intent: Intent = networks.iter().map(|(b, n)| (link(b), rules(n, b))).collect();
    let chains = base_chains().into_iter().chain(intent.values().flat_map(|r| r.chains.clone())).collect();
    Table { chains, intent }
}

/// An address behind that link, IPv4 or IPv6.
fn behind(name: &str, v6: bool) -> IpAddr {
    let n = match name {
        "nat" => 1,
        "route" => 2,
        "isolated" => 3,
        "open" => 4,
        "natdev" => 5,
        "nat66" => 6,
        "routedev" => 7,
        _ => return if v6 { "2001:db8:ffff::9" } else { "203.0.113.9" }.parse().unwrap(),
    };
    if v6 { format!("2001:db8:{n}::9") } else { format!("10.{n}.0.9") }.parse().unwrap()
}

fn packet<'a>(iif: &'a str, oif: &'a str, v6: bool, established: bool) -> Packet<'a> {
    let (src, dst) = (behind(iif, v6), behind(oif, v6));
    Packet { iif, oif, src, dst, proto: Some(L4Proto::Tcp), established }
}

/// From, to; for IPv4 a new connection and a packet of one that is established; the same for IPv6.
/// Read off libvirt's rules: LIBVIRT_FWX, then FWI of where it goes to, then FWO of where it comes from.
const TABLE: &str = "\
nat       eth0      yes yes  yes yes
eth0      nat       no  yes  yes yes
nat       nat       yes yes  yes yes
nat66     eth0      yes yes  yes yes
eth0      nat66     no  yes  no  yes
natdev    eth0      yes yes  yes yes
natdev    eth1      no  no   no  no
eth0      natdev    no  yes  yes yes
eth1      natdev    no  no   no  no
route     eth0      yes yes  yes yes
eth0      route     yes yes  yes yes
routedev  eth1      no  no   no  no
eth1      routedev  no  no   no  no
eth0      routedev  yes yes  yes yes
isolated  eth0      no  no   no  no
eth0      isolated  no  no   no  no
isolated  isolated  yes yes  yes yes
open      eth0      yes yes  yes yes
eth0      open      yes yes  yes yes
eth0      eth1      yes yes  yes yes
nat       route     yes yes  yes yes
route     nat       no  yes  yes yes
nat       nat66     no  yes  no  yes
isolated  route     yes yes  yes yes
route     isolated  no  no   no  no
isolated  open      no  no   no  no
open      isolated  no  no   no  no
nat       open      yes yes  yes yes
route     natdev    no  no   no  no
natdev    route     yes yes  yes yes
";

#[test]
fn the_same_packets_pass_as_with_libvirt() {
    let host = host();
    for line in TABLE.lines() {
        let mut words = line.split_ascii_whitespace();
        let (from, to) = (words.next().unwrap(), words.next().unwrap());
        for ((v6, established), want) in
            [(false, false), (false, true), (true, false), (true, true)].into_iter().zip(words)
        {
            let passes = host.forwards(&packet(from, to, v6, established));
            assert_eq!(passes, want == "yes", "{line}: IPv6 {v6}, established {established}");
        }
    }
}

#[test]
fn an_address_that_is_not_the_networks_is_rejected() {
    let host = host();
    let forged = Packet { src: behind("eth0", false), ..packet("route", "eth0", false, false) };
    assert!(!host.forwards(&forged));
    let elsewhere = Packet { dst: behind("nat", false), ..packet("eth0", "route", false, false) };
    assert!(!host.forwards(&elsewhere));
}

#[test]
fn what_is_translated() {
    let host = host();
    let ports = Some(Stmt::Masquerade { ports: Some((1024, 65535)) });
    let out = packet("nat", "eth0", false, false);
    assert_eq!(host.translates(&out), ports);
    assert_eq!(host.translates(&Packet { proto: Some(L4Proto::Udp), ..out }), ports);
    assert_eq!(host.translates(&Packet { proto: None, ..out }), Some(Stmt::Masquerade { ports: None }));
    // To another network of the host's as well, but not within its own, nor to multicast and broadcast.
    assert_eq!(host.translates(&packet("nat", "route", false, false)), ports);
    assert_eq!(host.translates(&packet("nat", "nat", false, false)), None);
    for kept in ["224.0.0.251", "255.255.255.255"] {
        assert_eq!(host.translates(&Packet { dst: kept.parse().unwrap(), ..out }), None, "{kept}");
    }
    assert_eq!(host.translates(&Packet { dst: "239.1.1.1".parse().unwrap(), ..out }), ports);
    assert_eq!(host.translates(&packet("nat", "eth0", true, false)), None);
    assert_eq!(host.translates(&packet("nat66", "eth0", true, false)), ports);
    let multicast = Packet { dst: "ff02::fb".parse().unwrap(), ..packet("nat66", "eth0", true, false) };
    assert_eq!(host.translates(&multicast), None);
    assert_eq!(host.translates(&packet("natdev", "eth1", false, false)), None);
    for from in ["route", "isolated", "open", "eth1"] {
        assert_eq!(host.translates(&packet(from, "eth0", false, false)), None, "{from}");
    }
}
