//! What others' rules look at: links, and where a packet comes from.

use super::Family;
use crate::attr::Attrs;

/// A comparison for equality in a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// With the name of the link that a packet comes in or leaves by; a beginning that several names may have is none.
    LinkName(String),
    /// With that link's index.
    LinkIndex(u32),
    /// Of the source address, from its first octet on: shorter than an address for a prefix of whole octets, otherwise
    /// with zeros where the prefix ends.
    Source(Vec<u8>),
}

/// What a register was loaded with last.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Loaded {
    Name,
    Index,
    Source,
    Other,
}

/// Reads one expression of a rule by its kernel name and data; `loaded` is what the one before has loaded.
pub(super) fn read(family: Family, name: &str, data: &[u8], loaded: &mut Loaded) -> Option<Match> {
    match name {
        "meta" => *loaded = meta(data),
        "payload" => *loaded = payload(family, data),
        // It masks what is loaded.
        "bitwise" => {}
        "cmp" => return compare(data, *loaded),
        _ => *loaded = Loaded::Other,
    }
    None
}

fn meta(data: &[u8]) -> Loaded {
    const KEY: u16 = 2;
    const IIF: u32 = 4;
    const OIF: u32 = 5;
    const IIFNAME: u32 = 6;
    const OIFNAME: u32 = 7;
    match Attrs::find(data, KEY).and_then(|key| key.be32()) {
        Some(IIF | OIF) => Loaded::Index,
        Some(IIFNAME | OIFNAME) => Loaded::Name,
        _ => Loaded::Other,
    }
}

fn payload(family: Family, data: &[u8]) -> Loaded {
    const BASE: u16 = 2;
    const OFFSET: u16 = 3;
    const NETWORK_HEADER: u32 = 1;
    let number = |kind| Attrs::find(data, kind).and_then(|attr| attr.be32());
    let source = match family {
        Family::Ip => 12,
        Family::Ip6 => 8,
        _ => return Loaded::Other,
    };
    if number(BASE) == Some(NETWORK_HEADER) && number(OFFSET) == Some(source) { Loaded::Source } else { Loaded::Other }
}

fn compare(data: &[u8], loaded: Loaded) -> Option<Match> {
    const OPERATOR: u16 = 2;
    const DATA: u16 = 3;
    const VALUE: u16 = 1;
    const EQUAL: u32 = 0;
    if Attrs::find(data, OPERATOR).and_then(|attr| attr.be32()) != Some(EQUAL) {
        return None;
    }
    let value = Attrs::find(Attrs::find(data, DATA)?.value, VALUE)?.value;
    match loaded {
        Loaded::Name => {
            let end = value.iter().position(|byte| *byte == 0)?;
            Some(Match::LinkName(String::from_utf8_lossy(&value[..end]).into_owned()))
        }
        // In the host's byte order, as metadata is.
        Loaded::Index => Some(Match::LinkIndex(u32::from_ne_bytes(value.try_into().ok()?))),
        Loaded::Source => Some(Match::Source(value.to_vec())),
        Loaded::Other => None,
    }
}
