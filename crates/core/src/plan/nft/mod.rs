//! Packet rules: one table of our own, `inet patchcord`, and nothing else of the ruleset.
//!
//! Two base chains dispatch through verdict maps to the chains of each network, so that a network that comes or
//! goes is elements and chains of its own, and a packet costs the same with one network and with a thousand:
//!
//! ```text
//! forward      oifname vmap @to      to-virbr0    what may come to the network's guests
//!              iifname vmap @from    from-virbr0  what its guests may send
//! postrouting  ip saddr vmap @nat4   nat-virbr0   whose source address is translated
//!              ip6 saddr vmap @nat6
//! ```
//!
//! | file | what |
//! |---|---|
//! | `rule` | rules, chains and elements as values, their text and fingerprints |
//! | `network` | the rules of one network |
//! | `observed` | what the kernel has of our table |
//! | `diff` | from there to what it should have, as one transaction |
//! | `foreign` | other firewalls that would still drop guests' traffic |
//! | `libvirt` | the rules of libvirt's daemon for a network that was taken over from it |

mod diff;
pub mod foreign;
pub mod libvirt;
mod network;
mod observed;
mod rule;

#[cfg(test)]
mod tests;

pub use diff::{At, ForeignTable, Intent, NftChange, NftOp, Scope, diff, not_foreign, table_comment};
pub use network::NetworkRules;
pub use observed::{ObservedChain, ObservedTable, RuleRef};
pub use rule::{Base, Chain, Element, Key, L4Proto, Map, Rule, Stmt, base_chains, fingerprint};

/// The table's name, of family `inet`.
pub const TABLE: &str = "patchcord";
