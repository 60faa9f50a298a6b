//! Ethernet addresses (IEEE 802, 48 bits), read as libvirt reads them.

use std::{fmt, str::FromStr};

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Whether it is a group address (IEEE 802: the lowest bit of the first octet): no NIC can have one.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Whether all octets are zero: no NIC can have that either.
    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }

    /// An address for a NIC or bridge that gave none: the prefix 52:54:00 that KVM guests use, and 24 of the given bits.
    pub const fn generated(random: u32) -> Self {
        let r = random.to_be_bytes();
        Self([0x52, 0x54, 0x00, r[1], r[2], r[3]])
    }

    /// The address of the tap behind a guest's NIC: the guest's own with the first octet `fe`, so that a bridge
    /// never takes its own address from a tap (the kernel's bridge takes the numerically lowest one).
    pub const fn of_tap(self) -> Self {
        let m = self.0;
        Self([0xfe, m[1], m[2], m[3], m[4], m[5]])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = String;

    /// Six groups of one or two hexadecimal digits between colons.
    fn from_str(s: &str) -> Result<Self, String> {
        let wrong = || format!("'{s}' is not a MAC address: six groups of hexadecimal digits, like 52:54:00:12:34:56");
        let mut octets = [0; 6];
        let mut parts = s.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or_else(wrong)?;
            if part.is_empty() || part.len() > 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Self(octets)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_libvirt_reads() {
        for (text, want) in [
            ("52:54:00:E6:A2:C9", Some("52:54:00:e6:a2:c9")),
            ("0:1:2:3:4:5", Some("00:01:02:03:04:05")),
            ("52:54:00:e6:a2", None),
            ("52:54:00:e6:a2:c9:01", None),
            ("52-54-00-e6-a2-c9", None),
            ("52:54:00:e6:a2:+9", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<MacAddr>().ok().map(|m| m.to_string()).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn the_taps_address_differs_in_the_first_octet_only() {
        let guest = MacAddr([0x52, 0x54, 0, 1, 2, 3]);
        assert_eq!(guest.of_tap().to_string(), "fe:54:00:01:02:03");
    }
}
