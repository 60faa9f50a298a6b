//! Netlink attributes: a tolerant reader, and a writer for what the packet crates cannot say.
//!
//! An attribute is a native-endian 16-bit length (header included), a 16-bit type whose two top bits are flags, and
//! the value, padded to four bytes (kernel: `include/uapi/linux/netlink.h`, `struct nlattr`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const HEADER: usize = 4;
const TYPE_MASK: u16 = 0x3fff;

/// Rounds up to netlink's alignment of four bytes.
pub(crate) fn align(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// One attribute of a received message: its type without flags, and its value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attr<'a> {
    pub(crate) kind: u16,
    pub(crate) value: &'a [u8],
}

impl<'a> Attr<'a> {
    /// The value as one byte; `None` when it is empty. Wider values give their first byte's worth only when exact.
    pub(crate) fn u8(&self) -> Option<u8> {
        match self.value {
            [byte] => Some(*byte),
            _ => None,
        }
    }

    /// The value as a native-endian 16-bit number.
    pub(crate) fn u16(&self) -> Option<u16> {
        Some(u16::from_ne_bytes(self.value.try_into().ok()?))
    }

    /// The value as a native-endian 32-bit number.
    pub(crate) fn u32(&self) -> Option<u32> {
        Some(u32::from_ne_bytes(self.value.try_into().ok()?))
    }

    /// The value as a native-endian 64-bit number.
    pub(crate) fn u64(&self) -> Option<u64> {
        Some(u64::from_ne_bytes(self.value.try_into().ok()?))
    }

    /// The native-endian 32-bit number at this place of a structure.
    pub(crate) fn u32_at(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(*self.value.get(at..)?.first_chunk()?))
    }

    /// The value as a big-endian 32-bit number, as nfnetlink writes them.
    pub(crate) fn be32(&self) -> Option<u32> {
        Some(u32::from_be_bytes(self.value.try_into().ok()?))
    }

    /// The value as a big-endian 64-bit number.
    pub(crate) fn be64(&self) -> Option<u64> {
        Some(u64::from_be_bytes(self.value.try_into().ok()?))
    }

    /// The value as an Ethernet address.
    pub(crate) fn mac(&self) -> Option<[u8; 6]> {
        self.value.try_into().ok()
    }

    /// The value as an IPv4 or IPv6 address, by its length.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        if let Ok(v4) = <[u8; 4]>::try_from(self.value) {
            return Some(IpAddr::V4(Ipv4Addr::from(v4)));
        }
        Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(self.value).ok()?)))
    }

    /// The value up to its first NUL.
    pub(crate) fn bytes_to_nul(&self) -> &'a [u8] {
        let end = self.value.iter().position(|b| *b == 0).unwrap_or(self.value.len());
        &self.value[..end]
    }

    /// The value up to its first NUL; bytes that are not UTF-8 become U+FFFD.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(self.bytes_to_nul()).into_owned()
    }

    /// The attributes inside this one.
    pub(crate) fn nested(&self) -> Attrs<'a> {
        Attrs::new(self.value)
    }
}

/// Walks a series of attributes. Stops at the first one whose length cannot be true; [`Attrs::broken`] tells.
#[derive(Clone, Debug)]
pub(crate) struct Attrs<'a> {
    rest: &'a [u8],
    broken: bool,
}

impl<'a> Attrs<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Attrs { rest: bytes, broken: false }
    }

    /// The attributes that follow a fixed header of `header` bytes; none when the message is shorter.
    pub(crate) fn after(bytes: &'a [u8], header: usize) -> Self {
        match bytes.get(header..) {
            Some(rest) => Attrs::new(rest),
            None => Attrs { rest: &[], broken: true },
        }
    }

    /// Whether the walk ended at an attribute that could not be framed.
    pub(crate) fn broken(&self) -> bool {
        self.broken
    }

    /// The first attribute of this type.
    pub(crate) fn find(bytes: &'a [u8], kind: u16) -> Option<Attr<'a>> {
        Attrs::new(bytes).find(|attr| attr.kind == kind)
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Attr<'a>;

    fn next(&mut self) -> Option<Attr<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let header: Option<&[u8; HEADER]> = self.rest.first_chunk();
        let Some(header) = header else {
            self.broken = true;
            self.rest = &[];
            return None;
        };
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        if length < HEADER || length > self.rest.len() {
            self.broken = true;
            self.rest = &[];
            return None;
        }
        let value = &self.rest[HEADER..length];
        self.rest = self.rest.get(align(length)..).unwrap_or(&[]);
        Some(Attr { kind, value })
    }
}

/// Builds a series of attributes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Writer::default()
    }

    /// Bytes that are not an attribute: the fixed header in front.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// One attribute. Values longer than an attribute can hold are cut by the length field's width, which callers
    /// prevent: every value here is bounded by what the kernel itself accepts.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(HEADER + value.len()).unwrap_or(u16::MAX);
        let value = &value[..usize::from(length) - HEADER];
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(align(self.bytes.len()), 0);
        self
    }

    /// A big-endian 32-bit number.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// A native-endian 64-bit number.
    pub(crate) fn ne64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// A NUL-terminated string.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes)
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_it_reads() {
        let mut inner = Writer::new();
        inner.put(9, &[1]);
        let mut writer = Writer::new();
        writer.be32(1, 7).text(2, "abc").put(3 | 0x8000, &inner.into_bytes());
        let bytes = writer.into_bytes();
        let attrs: Vec<_> = Attrs::new(&bytes).collect();
        assert_eq!(attrs[0].be32(), Some(7));
        assert_eq!(attrs[1].text(), "abc");
        assert_eq!(attrs[2].kind, 3);
        assert_eq!(attrs[2].nested().next().and_then(|a| a.u8()), Some(1));
    }

    #[test]
    fn an_impossible_length_ends_the_walk() {
        let mut attrs = Attrs::new(&[3, 0, 1, 0]);
        assert!(attrs.next().is_none());
        assert!(attrs.broken());
        let mut attrs = Attrs::new(&[40, 0, 1, 0, 9]);
        assert!(attrs.next().is_none());
        assert!(attrs.broken());
    }
}
