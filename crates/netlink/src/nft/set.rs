//! Keys and elements of named sets and maps.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_netfilter::nftables::{DataAttribute, ListAttribute, SetElementAttribute, SetElementFlags};

use super::HEADER;
use super::expr::{Verdict, ip_bytes};
use super::rule::{mask_bytes, name_bytes};
use crate::attr::Attrs;

const LIST_ELEMENTS: u16 = 3;
const ELEM_KEY: u16 = 1;
const ELEM_DATA: u16 = 2;
const ELEM_FLAGS: u16 = 3;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const INTERVAL_END: u32 = 1;

/// What a set's or map's keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// Link names.
    IfName,
    /// IPv4 addresses.
    Ipv4,
    /// IPv6 addresses.
    Ipv6,
    /// Ethernet addresses.
    Mac,
}

impl KeyKind {
    /// nft's number of the data type, and the key's length in bytes.
    pub(super) fn numbers(self) -> (u32, u32) {
        match self {
            KeyKind::Ipv4 => (7, 4),
            KeyKind::Ipv6 => (8, 16),
            KeyKind::Mac => (9, 6),
            KeyKind::IfName => (41, 16),
        }
    }

    /// nft's user data of a set: the byte order of its keys (type 0, 1 the host's, 2 big-endian), without which it
    /// lists link names as nothing.
    pub(super) fn user_data(self) -> Vec<u8> {
        let order: u32 = if self == KeyKind::IfName { 1 } else { 2 };
        [&[0, 4][..], &order.to_ne_bytes()].concat()
    }
}

/// A key of a set or map.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// A link's name.
    IfName(String),
    /// One address.
    Address(IpAddr),
    /// All addresses from the first to the last, both included; in interval sets only.
    Range(IpAddr, IpAddr),
    /// An Ethernet address.
    Mac([u8; 6]),
}

impl Key {
    /// All addresses of a prefix; the address's host bits are ignored. In interval sets only.
    pub fn prefix(address: IpAddr, prefix: u8) -> Self {
        let bytes = ip_bytes(&address);
        let mask = mask_bytes(prefix, bytes.len());
        let first: Vec<u8> = bytes.iter().zip(&mask).map(|(byte, mask)| byte & mask).collect();
        let last: Vec<u8> = bytes.iter().zip(&mask).map(|(byte, mask)| byte | !mask).collect();
        match (ip(&first), ip(&last)) {
            (Some(first), Some(last)) => Key::Range(first, last),
            _ => Key::Address(address),
        }
    }
}

/// An element: a key and, in a verdict map, its verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// What is looked up.
    pub key: Key,
    /// What a verdict map does with it; `None` in sets.
    pub verdict: Option<Verdict>,
}

impl Element {
    /// The kernel's elements for this one: in interval sets a start and, unless the interval reaches the end of the space,
    /// an exclusive end.
    pub(super) fn encode(&self, interval: bool) -> Vec<ListAttribute<SetElementAttribute>> {
        let (first, last) = match &self.key {
            Key::IfName(name) => (name_bytes(name), None),
            Key::Mac(mac) => (mac.to_vec(), None),
            Key::Address(ip) => (ip_bytes(ip), Some(ip_bytes(ip))),
            Key::Range(first, last) => (ip_bytes(first), Some(ip_bytes(last))),
        };
        let mut start = vec![SetElementAttribute::Key(DataAttribute::Value(first))];
        start.extend(self.verdict.as_ref().map(|verdict| SetElementAttribute::Data(verdict.encode())));
        let mut elements = vec![ListAttribute::Element(start)];
        if let Some(end) = last.filter(|_| interval).and_then(|last| successor(&last)) {
            elements.push(ListAttribute::Element(vec![
                SetElementAttribute::Flags(SetElementFlags::IntervalEnd),
                SetElementAttribute::Key(DataAttribute::Value(end)),
            ]));
        }
        elements
    }
}

/// One of the kernel's elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawElement {
    key: Vec<u8>,
    end: bool,
    verdict: Option<Verdict>,
}

/// Reads the elements in the payload of an `NFT_MSG_NEWSETELEM`.
pub(super) fn read(payload: &[u8]) -> Vec<RawElement> {
    let lists = Attrs::after(payload, HEADER).filter(|attr| attr.kind == LIST_ELEMENTS);
    lists.flat_map(|list| list.nested()).filter_map(|element| read_one(element.value)).collect()
}

fn read_one(element: &[u8]) -> Option<RawElement> {
    let key = Attrs::find(Attrs::find(element, ELEM_KEY)?.value, DATA_VALUE)?.value.to_vec();
    let flags = Attrs::find(element, ELEM_FLAGS).and_then(|attr| attr.be32()).unwrap_or(0);
    let verdict = Attrs::find(element, ELEM_DATA)
        .and_then(|data| Attrs::find(data.value, DATA_VERDICT))
        .and_then(|verdict| Verdict::read(verdict.value));
    Some(RawElement { key, end: flags & INTERVAL_END != 0, verdict })
}

/// Puts starts and ends of intervals together again. Keys that do not fit the kind are left out.
pub(super) fn combine(kind: KeyKind, mut raw: Vec<RawElement>) -> Vec<Element> {
    // Where one interval ends and the next begins at the same key, the end comes first.
    raw.sort_by(|a, b| a.key.cmp(&b.key).then(b.end.cmp(&a.end)));
    let intervals = raw.iter().any(|element| element.end);
    let mut out = Vec::new();
    let mut rest = raw.into_iter().peekable();
    while let Some(start) = rest.next() {
        if start.end {
            continue;
        }
        let end = rest.peek().filter(|next| next.end).map(|next| next.key.clone());
        let key = match kind {
            KeyKind::IfName => {
                let end = start.key.iter().position(|byte| *byte == 0).unwrap_or(start.key.len());
                Some(Key::IfName(String::from_utf8_lossy(&start.key[..end]).into_owned()))
            }
            KeyKind::Mac => start.key.as_slice().try_into().ok().map(Key::Mac),
            KeyKind::Ipv4 | KeyKind::Ipv6 => address_key(&start.key, end.as_deref(), intervals),
        };
        out.extend(key.map(|key| Element { key, verdict: start.verdict }));
    }
    out
}

fn address_key(first: &[u8], end: Option<&[u8]>, intervals: bool) -> Option<Key> {
    let start = ip(first)?;
    let last = match end {
        Some(end) => ip(&predecessor(end)?)?,
        // An interval without an end reaches the end of the space.
        None if intervals => ip(&vec![0xff; first.len()])?,
        None => start,
    };
    Some(if start == last { Key::Address(start) } else { Key::Range(start, last) })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::V4(Ipv4Addr::from(v4)));
    }
    Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)))
}

/// The next number of the same width; `None` after the last.
fn successor(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut next = bytes.to_vec();
    for byte in next.iter_mut().rev() {
        let (sum, carry) = byte.overflowing_add(1);
        *byte = sum;
        if !carry {
            return Some(next);
        }
    }
    None
}

/// The number before of the same width; `None` before 0.
fn predecessor(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut before = bytes.to_vec();
    for byte in before.iter_mut().rev() {
        let (difference, borrow) = byte.overflowing_sub(1);
        *byte = difference;
        if !borrow {
            return Some(before);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours() {
        assert_eq!(successor(&[10, 0, 0, 255]), Some(vec![10, 0, 1, 0]));
        assert_eq!(successor(&[255; 4]), None);
        assert_eq!(predecessor(&[10, 0, 1, 0]), Some(vec![10, 0, 0, 255]));
        assert_eq!(predecessor(&[0; 4]), None);
    }

    #[test]
    fn adjacent_intervals_stay_apart() {
        let element = |key: [u8; 4], end| RawElement { key: key.to_vec(), end, verdict: None };
        let raw = vec![
            element([10, 0, 1, 0], true),
            element([10, 0, 0, 0], false),
            element([10, 0, 2, 0], true),
            element([10, 0, 1, 0], false),
            element([240, 0, 0, 0], false),
        ];
        let keys: Vec<Key> = combine(KeyKind::Ipv4, raw).into_iter().map(|element| element.key).collect();
        assert_eq!(
            keys,
            [
                Key::prefix(Ipv4Addr::new(10, 0, 0, 0).into(), 24),
                Key::prefix(Ipv4Addr::new(10, 0, 1, 0).into(), 24),
                Key::prefix(Ipv4Addr::new(240, 0, 0, 0).into(), 4),
            ]
        );
    }
}
