//! What the kernel says to an operation on our packet rules that does not fit what is there.

use crate::plan::nft::{NftOp, ObservedTable};

/// Refuses what the kernel's nf_tables would refuse.
pub(super) fn refused(table: &ObservedTable, op: &NftOp) -> Result<(), String> {
    let needs = |there: bool, what: &str| if there { Ok(()) } else { Err(format!("ENOENT ({what})")) };
    let chain = |name: &String| needs(table.chains.contains_key(name), name);
    if !matches!(op, NftOp::AddTable { .. }) {
        needs(table.comment.is_some(), "the table")?;
    }
    match op {
        NftOp::AddTable { .. } | NftOp::DeleteTable | NftOp::AddMap(_) | NftOp::AddChain { .. } => Ok(()),
        NftOp::FlushChain(name) | NftOp::DeleteChain(name) => chain(name),
        NftOp::AddRule { chain: name, .. } => chain(name),
        NftOp::DeleteRule { chain: name, rule } => {
            let rules = table.chains.get(name).map(|c| c.rules.as_slice()).unwrap_or_default();
            needs(rules.iter().any(|r| r.fingerprint == rule.fingerprint), name)
        }
        NftOp::AddElement(element) => {
            needs(table.maps.contains(&element.map), element.map.name())?;
            chain(&element.chain)
        }
        NftOp::DeleteElement(map, key) => needs(table.element(*map, key).is_some(), map.name()),
    }
}
