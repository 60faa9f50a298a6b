//! The rules of one network: who reaches whom, exactly as libvirt's iptables rules decide it.

use super::rule::{Chain, Element, Key, L4Proto, Map, Rule, Stmt};
use crate::model::{ForwardMode, LinkName, Nat, Network};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// IPv4 destinations that are never translated: link-local multicast (RFC 5771) and limited broadcast (RFC 919).
const KEPT_V4: [(Ipv4Addr, u8); 2] = [(Ipv4Addr::new(224, 0, 0, 0), 24), (Ipv4Addr::BROADCAST, 32)];

/// The IPv6 destination that is never translated: link-local multicast (RFC 4291).
const KEPT_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0), 16);

/// The chains of one network and the map elements that lead to them. Empty for a network without rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkRules {
    /// `to-BRIDGE`, `from-BRIDGE` and, where something is translated, `nat-BRIDGE`.
    pub chains: Vec<Chain>,
    /// Elements of the maps, sorted.
    pub elements: Vec<Element>,
}

/// The names that a network's chains may have.
pub(super) fn chain_names(bridge: &LinkName) -> [String; 3] {
    [format!("to-{bridge}"), format!("from-{bridge}"), format!("nat-{bridge}")]
}

impl NetworkRules {
    /// The rules of `network`, whose bridge is called `bridge`. A network in mode open has none, nor has one
    /// without a bridge of its own. Static routes change nothing, as in libvirt: what comes from or goes to a
    /// routed prefix is rejected unless it is a network's own.
    ///
    /// libvirt also accepts DHCP, DNS and TFTP to and from the host (INPUT and OUTPUT). There is nothing of that
    /// here, because an accept in our table can't override a drop in another one; firewalls that would drop it
    /// are found by [`super::foreign::detect`] instead. Nor is there its CHECKSUM rule for DHCP answers: nftables
    /// has no such thing, and DHCP clients learn from the kernel which checksums are not filled in yet.
    pub fn of(network: &Network, bridge: &LinkName) -> Self {
        let mode = network.forward.mode;
        if !mode.has_own_bridge() || mode == ForwardMode::Open {
            return Self::default();
        }
        let [to_name, from_name, nat_name] = chain_names(bridge);
        // What is bridged passes here only with br_netfilter, and passes always.
        let mut to = vec![Rule::new([Stmt::Iifname(bridge.clone()), Stmt::Accept])];
        let mut from = Vec::new();
        let mut nat = Vec::new();
        let mut translated = Vec::new();
        // libvirt looks at the first device only.
        let uplink = network.forward.devices.first().map(|d| &d.dev);
        let mut prefixes: Vec<IpNet> = Vec::new();
        for prefix in network.ips.iter().map(|ip| ip.network().trunc()) {
            if !prefixes.contains(&prefix) {
                prefixes.push(prefix);
            }
        }
        for prefix in prefixes {
            let translates = match (mode, prefix) {
                (ForwardMode::Nat, IpNet::V4(_)) => true,
                // Without `<nat ipv6='yes'>` the IPv6 part of such a network is routed.
                (ForwardMode::Nat, IpNet::V6(_)) => network.forward.nat.ipv6 == Some(true),
                (ForwardMode::Route, _) => false,
                _ => continue,
            };
            let mut out = vec![Stmt::Saddr(prefix)];
            out.extend(uplink.cloned().map(Stmt::Oifname));
            out.push(Stmt::Accept);
            from.push(Rule { stmts: out });
            let mut back = vec![Stmt::Daddr { net: prefix, negated: false }];
            back.extend(uplink.cloned().map(Stmt::Iifname));
            if translates {
                back.push(Stmt::CtEstablishedRelated);
            }
            back.push(Stmt::Accept);
            to.push(Rule { stmts: back });
            if translates {
                nat.extend(translation(network, prefix, uplink));
                translated.push(prefix);
            }
        }
        to.push(Rule::new([Stmt::Reject]));
        from.push(Rule::new([Stmt::Reject]));

        let chain = |name: &str, rules| Chain { name: name.into(), base: None, rules };
        let link = |map, name: &str| Element { map, key: Key::Link(bridge.clone()), chain: name.into() };
        let mut chains = vec![chain(&to_name, to), chain(&from_name, from)];
        let mut elements = vec![link(Map::To, &to_name), link(Map::From, &from_name)];
        if !nat.is_empty() {
            chains.push(chain(&nat_name, nat));
            elements.extend(outermost(&translated).map(|net| Element {
                map: if matches!(net, IpNet::V4(_)) { Map::Nat4 } else { Map::Nat6 },
                key: Key::Net(net),
                chain: nat_name.clone(),
            }));
        }
        elements.sort();
        Self { chains, elements }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.elements.is_empty()
    }
}

/// The prefixes that lie in no other one of the list: intervals of a map may not overlap.
fn outermost(prefixes: &[IpNet]) -> impl Iterator<Item = IpNet> {
    prefixes.iter().filter(|p| !prefixes.iter().any(|q| q != *p && q.contains(*p))).copied()
}

/// The rules that translate what leaves `prefix`.
fn translation(network: &Network, prefix: IpNet, uplink: Option<&LinkName>) -> Vec<Rule> {
    let nat = &network.forward.nat;
    let kept: Vec<IpNet> = match prefix {
        IpNet::V4(_) => KEPT_V4.iter().map(|&(a, len)| Ipv4Net::new_assert(a, len).into()).collect(),
        IpNet::V6(_) => vec![Ipv6Net::new_assert(KEPT_V6.0, KEPT_V6.1).into()],
    };
    let mut rules: Vec<Rule> = kept
        .into_iter()
        .map(|net| Rule::new([Stmt::Saddr(prefix), Stmt::Daddr { net, negated: false }, Stmt::Return]))
        .collect();
    for proto in [Some(L4Proto::Tcp), Some(L4Proto::Udp), None] {
        let mut stmts = vec![Stmt::Saddr(prefix), Stmt::Daddr { net: prefix, negated: true }];
        stmts.extend(uplink.cloned().map(Stmt::Oifname));
        stmts.extend(proto.map(Stmt::L4proto));
        let ports = proto.map(|_| nat.ports.unwrap_or(Nat::PORTS));
        stmts.push(match (nat.addresses, prefix) {
            (Some(addresses), IpNet::V4(_)) => Stmt::Snat { addresses, ports },
            _ => Stmt::Masquerade { ports },
        });
        rules.push(Rule { stmts });
    }
    rules
}
