//! The packet rules that libvirt's own daemon made for a network, to be removed when ours have taken their place.
//!
//! Up to version 10.3, and where it is told so later, it calls iptables: in the tables `filter`, `nat` and `mangle` of
//! `ip` and `ip6` its chains are called `LIBVIRT_*`. Later it has tables of its own, called `libvirt_network`. A rule is
//! a network's if it names the network's bridge, or compares the source with its subnet; nobody else puts rules there.

use super::foreign::TableFamily;
use crate::model::{Ip, Network};
use crate::plan::{Index, Link};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// How libvirt's chains begin in tables that iptables shares out.
const PREFIX: &str = "LIBVIRT_";
/// libvirt's own table.
const OWN_TABLE: &str = "libvirt_network";

/// What libvirt's rules know a network by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signs {
    /// Its bridge.
    pub bridge: String,
    /// That link's index.
    pub index: Index,
    /// Its subnets.
    pub subnets: Vec<IpNet>,
}

impl Signs {
    /// Those of a network on that bridge.
    pub fn of(network: &Network, bridge: &Link) -> Self {
        let subnets = network.ips.iter().map(Ip::network).map(|net| net.trunc()).collect();
        Self { bridge: bridge.name.clone(), index: bridge.index, subnets }
    }
}

/// A chain of any table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainName {
    /// Its table's family.
    pub family: TableFamily,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
}

impl ChainName {
    /// Whether it is one of libvirt's.
    pub fn is_libvirts(&self) -> bool {
        self.has_own_table() || self.chain.starts_with(PREFIX)
    }

    fn has_own_table(&self) -> bool {
        self.table == OWN_TABLE
    }
}

/// A rule of a table in which libvirt has chains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRule {
    /// Where it is.
    pub at: ChainName,
    /// Its handle.
    pub handle: u64,
    /// Links that it names.
    pub links: Vec<String>,
    /// Links that it knows by index.
    pub indexes: Vec<u32>,
    /// With what it compares the source, from the first octet on.
    pub sources: Vec<Vec<u8>>,
    /// The chain that it jumps to.
    pub jump: Option<String>,
}

impl TableRule {
    fn is_about(&self, signs: &Signs) -> bool {
        let Index(index) = signs.index;
        // Subnets of one host don't overlap, so that their first address is enough to tell them apart.
        let within = |source: &Vec<u8>| {
            signs
                .subnets
                .iter()
                .any(|net| !source.is_empty() && octets(net.network()).starts_with(source) && whole(net, source))
        };
        self.links.contains(&signs.bridge) || self.indexes.contains(&index) || self.sources.iter().any(within)
    }
}

/// Whether so many octets hold all that a subnet fixes: a shorter comparison is about a larger one.
fn whole(net: &IpNet, source: &[u8]) -> bool {
    source.len() * 8 >= usize::from(net.prefix_len())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// What is to be removed, in one transaction and in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Rules, by chain and handle.
    pub rules: Vec<(ChainName, u64)>,
    /// Chains that nothing is left in or leads to.
    pub chains: Vec<ChainName>,
    /// Tables of libvirt's own that nothing is left in.
    pub tables: Vec<(TableFamily, String)>,
}

impl Removal {
    /// Whether there is nothing to remove.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.chains.is_empty() && self.tables.is_empty()
    }
}

/// What libvirt made for a network, given all chains and rules of the tables in which it has some. Where it was its
/// last network its empty chains go as well, with what leads to them; without a rule to remove they are left, since its
/// daemon may run and count on them.
pub fn removal(chains: &[ChainName], rules: &[TableRule], signs: &Signs) -> Removal {
    let (gone, kept): (Vec<&TableRule>, Vec<&TableRule>) =
        rules.iter().filter(|rule| rule.at.is_libvirts()).partition(|rule| rule.is_about(signs));
    let mut removal =
        Removal { rules: gone.iter().map(|rule| (rule.at.clone(), rule.handle)).collect(), ..Removal::default() };
    // What only leads from one of its chains to another is no network's.
    if gone.is_empty() || kept.iter().any(|rule| rule.jump.is_none()) {
        return removal;
    }
    let (own, shared): (Vec<&ChainName>, Vec<&ChainName>) =
        chains.iter().filter(|chain| chain.is_libvirts()).partition(|chain| chain.has_own_table());
    let tables: BTreeSet<(TableFamily, String)> = own.iter().map(|chain| (chain.family, chain.table.clone())).collect();
    let leads_there =
        |rule: &&TableRule| !rule.at.has_own_table() && rule.jump.as_ref().is_some_and(|to| to.starts_with(PREFIX));
    removal.rules.extend(rules.iter().filter(leads_there).map(|rule| (rule.at.clone(), rule.handle)));
    // A table's end is that of its rules.
    removal.rules.retain(|(at, _)| !at.has_own_table());
    removal.chains = shared.into_iter().cloned().collect();
    removal.tables = tables.into_iter().collect();
    removal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(family: TableFamily, table: &str, chain: &str) -> ChainName {
        ChainName { family, table: table.into(), chain: chain.into() }
    }

    fn rule(at: &ChainName, handle: u64) -> TableRule {
        let (links, indexes, sources) = (Vec::new(), Vec::new(), Vec::new());
        TableRule { at: at.clone(), handle, links, indexes, sources, jump: None }
    }

    fn named(at: &ChainName, handle: u64, link: &str) -> TableRule {
        TableRule { links: vec![link.into()], ..rule(at, handle) }
    }

    fn from(at: &ChainName, handle: u64, source: &[u8]) -> TableRule {
        TableRule { sources: vec![source.to_vec()], ..rule(at, handle) }
    }

    fn jump(at: &ChainName, handle: u64, to: &str) -> TableRule {
        TableRule { jump: Some(to.into()), ..rule(at, handle) }
    }

    fn signs() -> Signs {
        let subnets = vec!["192.168.122.0/24".parse().unwrap(), "fd00:7::/64".parse().unwrap()];
        Signs { bridge: "virbr0".into(), index: Index(7), subnets }
    }

    fn handles(removal: &Removal) -> Vec<u64> {
        removal.rules.iter().map(|(_, handle)| *handle).collect()
    }

    #[test]
    fn a_networks_rules_go_and_those_of_others_stay() {
        let forward = at(TableFamily::Ip, "filter", "LIBVIRT_FWI");
        let post = at(TableFamily::Ip, "nat", "LIBVIRT_PRT");
        let base = at(TableFamily::Ip, "filter", "FORWARD");
        let rules = [
            jump(&base, 1, "LIBVIRT_FWI"),
            named(&base, 2, "virbr0"),
            named(&forward, 3, "virbr0"),
            named(&forward, 4, "virbr01"),
            from(&post, 5, &[192, 168, 122]),
            from(&post, 6, &[192, 168, 122, 0]),
            from(&post, 7, &[192, 168]),
            from(&post, 8, &[192, 168, 123]),
        ];
        let removal = removal(&[base.clone(), forward.clone(), post.clone()], &rules, &signs());
        assert_eq!(handles(&removal), [3, 5, 6], "no rule of the host's own, though it names the bridge");
        assert_eq!((removal.chains, removal.tables), (vec![], vec![]), "other networks use them");
    }

    #[test]
    fn with_the_last_network_chains_and_what_leads_there_go() {
        let forward = at(TableFamily::Ip6, "filter", "LIBVIRT_FWO");
        let unused = at(TableFamily::Ip6, "nat", "LIBVIRT_PRT");
        let base = at(TableFamily::Ip6, "filter", "FORWARD");
        let rules = [jump(&base, 1, "LIBVIRT_FWO"), jump(&base, 2, "DOCKER"), named(&forward, 3, "virbr0")];
        let chains = [base.clone(), forward.clone(), unused.clone()];
        let removed = removal(&chains, &rules, &signs());
        assert_eq!(handles(&removed), [3, 1]);
        assert_eq!(removed.chains, [forward, unused]);
        // What is empty already may be a running daemon's.
        assert!(removal(&chains, &rules[..2], &signs()).is_empty());
    }

    #[test]
    fn libvirts_own_table_is_known_by_link_indexes_and_goes_whole() {
        let base = at(TableFamily::Ip, "libvirt_network", "forward");
        let guests = at(TableFamily::Ip, "libvirt_network", "guest_input");
        let nat = at(TableFamily::Ip, "libvirt_network", "guest_nat");
        let by_index = |handle, index| TableRule { indexes: vec![index], ..rule(&guests, handle) };
        let mut rules =
            vec![jump(&base, 1, "guest_input"), by_index(2, 7), from(&nat, 3, &[192, 168, 122]), by_index(4, 8)];
        let chains = [base.clone(), guests.clone(), nat.clone()];
        let removed = removal(&chains, &rules, &signs());
        assert_eq!((handles(&removed), removed.tables.len()), (vec![2, 3], 0));
        rules.pop();
        let removed = removal(&chains, &rules, &signs());
        assert_eq!((handles(&removed), removed.chains.len()), (vec![], 0));
        assert_eq!(removed.tables, [(TableFamily::Ip, "libvirt_network".into())]);
    }
}
