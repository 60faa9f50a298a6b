//! Reads what other firewalls have on the hooks that guests' traffic passes, and whether firewalld is there.

use std::collections::BTreeMap;
use std::fs;

use patchcord_core::plan::nft::TABLE;
use patchcord_core::plan::nft::foreign::{ForeignChain, ForeignRules, Hook, TableFamily};
use patchcord_netlink::Error;
use patchcord_netlink::nft::{self, Family, Policy, Socket, Verdict};

/// Base chains on forward and input in all tables but ours, the names of iptables-legacy's tables, and firewalld's table.
///
/// # Errors
/// The socket's.
pub fn read(socket: &mut Socket) -> Result<ForeignRules, Error> {
    let tables = socket.tables()?;
    let firewalld = tables.iter().find(|t| t.family == Family::Inet && t.name == "firewalld");
    let mut rules = ForeignRules {
        chains: Vec::new(),
        legacy_v4: legacy("ip_tables_names"),
        legacy_v6: legacy("ip6_tables_names"),
        firewalld: firewalld.map(|table| table.handle),
    };
    let dormant: Vec<(Family, String)> = tables.into_iter().filter(|t| t.dormant).map(|t| (t.family, t.name)).collect();
    let mut chains: BTreeMap<(Family, String), Vec<nft::Chain>> = BTreeMap::new();
    for chain in socket.chains()? {
        chains.entry((chain.family, chain.table.clone())).or_default().push(chain);
    }
    for ((family, table), chains) in chains {
        let ours = family == Family::Inet && table == TABLE;
        let Some(family_seen) = routed_family(family) else { continue };
        if ours || dormant.contains(&(family, table.clone())) {
            continue;
        }
        let siblings: Vec<String> = chains.iter().map(|chain| chain.name.clone()).collect();
        for chain in chains {
            let Some((base, hook)) = chain.base.as_ref().and_then(|base| Some((base, hook(base)?))) else { continue };
            let rules_of_chain = socket.rules(family, &table, Some(&chain.name))?;
            rules.chains.push(ForeignChain {
                family: family_seen,
                table: table.clone(),
                name: chain.name,
                hook,
                priority: base.priority,
                policy_drop: base.policy == Policy::Drop,
                ends_in_drop: rules_of_chain.iter().any(drops_everything),
                siblings: siblings.clone(),
            });
        }
    }
    Ok(rules)
}

/// Which families see what the host routes.
fn routed_family(family: Family) -> Option<TableFamily> {
    match family {
        Family::Ip => Some(TableFamily::Ip),
        Family::Ip6 => Some(TableFamily::Ip6),
        Family::Inet => Some(TableFamily::Inet),
        Family::Arp | Family::Netdev | Family::Bridge => None,
    }
}

fn hook(base: &nft::BaseHook) -> Option<Hook> {
    match (base.kind.as_str(), base.hook?) {
        ("filter", nft::Hook::Forward) => Some(Hook::Forward),
        ("filter", nft::Hook::Input) => Some(Hook::Input),
        _ => None,
    }
}

/// Whether a rule drops or rejects whatever reaches it: only counting or logging stands before that.
fn drops_everything(rule: &nft::Rule) -> bool {
    let Some((last, before)) = rule.expressions.split_last() else { return false };
    let ends = last == "reject" || (last == "immediate" && rule.verdict == Some(Verdict::Drop));
    ends && before.iter().all(|name| matches!(name.as_str(), "counter" | "log"))
}

/// The tables of iptables-legacy in use; none when there is no such file. `/proc/net` is that of the process's first
/// thread, so it is this thread's own that is read.
fn legacy(file: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
