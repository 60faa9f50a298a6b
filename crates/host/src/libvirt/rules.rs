//! libvirt's packet rules, read as far as it takes to find those of a network, and removed.

use patchcord_core::plan::nft::foreign::TableFamily;
use patchcord_core::plan::nft::libvirt::{ChainName, Signs, TableRule, removal};
use patchcord_netlink::nft::{Batch, Family, Match, Rule, Socket, Verdict};
use std::collections::BTreeSet;

/// How often the whole is read again when somebody else changed the rules meanwhile.
const ATTEMPTS: u32 = 5;

/// Removes the rules that libvirt's daemon made for a network, in one transaction.
///
/// # Errors
/// The socket's.
pub fn remove(signs: &Signs) -> crate::Result<()> {
    let mut socket = Socket::open()?;
    let mut attempt = 1;
    loop {
        match remove_once(&mut socket, signs) {
            // A rule that was to go has gone by other means.
            Err(error) if attempt < ATTEMPTS && error.is_not_found() => attempt += 1,
            result => return Ok(result?),
        }
    }
}

fn remove_once(socket: &mut Socket, signs: &Signs) -> Result<(), patchcord_netlink::Error> {
    let mut chains = Vec::new();
    for chain in socket.chains()? {
        if let Some(family) = table_family(chain.family) {
            chains.push(ChainName { family, table: chain.table, chain: chain.name });
        }
    }
    let libvirts = chains.iter().filter(|chain| chain.is_libvirts());
    let tables: BTreeSet<(TableFamily, String)> = libvirts.map(|chain| (chain.family, chain.table.clone())).collect();
    chains.retain(|chain| tables.contains(&(chain.family, chain.table.clone())));
    let mut rules = Vec::new();
    for (family, table) in &tables {
        let read = socket.rules(kernel_family(*family), table, None)?;
        rules.extend(read.into_iter().map(|rule| table_rule(*family, rule)));
    }
    let removal = removal(&chains, &rules, signs);
    let mut batch = Batch::new();
    for (at, handle) in &removal.rules {
        batch.delete_rule(kernel_family(at.family), &at.table, &at.chain, *handle);
    }
    for at in &removal.chains {
        batch.delete_chain(kernel_family(at.family), &at.table, &at.chain);
    }
    for (family, table) in &removal.tables {
        batch.delete_table(kernel_family(*family), table);
    }
    socket.commit(&batch).map(drop)
}

fn table_rule(family: TableFamily, rule: Rule) -> TableRule {
    let at = ChainName { family, table: rule.table, chain: rule.chain };
    let jump = match rule.verdict {
        Some(Verdict::Jump(chain)) => Some(chain),
        _ => None,
    };
    let (links, indexes, sources) = (Vec::new(), Vec::new(), Vec::new());
    let mut read = TableRule { at, handle: rule.handle, links, indexes, sources, jump };
    for compared in rule.matches {
        match compared {
            Match::LinkName(name) => read.links.push(name),
            Match::LinkIndex(index) => read.indexes.push(index),
            Match::Source(octets) => read.sources.push(octets),
        }
    }
    read
}

/// libvirt makes rules for IPv4 and IPv6 apart.
const fn table_family(family: Family) -> Option<TableFamily> {
    match family {
        Family::Ip => Some(TableFamily::Ip),
        Family::Ip6 => Some(TableFamily::Ip6),
        _ => None,
    }
}

const fn kernel_family(family: TableFamily) -> Family {
    match family {
        TableFamily::Ip => Family::Ip,
        TableFamily::Ip6 => Family::Ip6,
        TableFamily::Inet => Family::Inet,
    }
}
