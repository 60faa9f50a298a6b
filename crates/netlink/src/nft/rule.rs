//! Writes a rule's expressions the way `nft` would, one method per match or statement.

use std::net::IpAddr;

use super::Family;
use super::expr::{CtKey, Expr, MetaKey, Nat, Operator, PayloadBase, Reject, Verdict, ip_bytes};

const IFNAMSIZ: usize = 16;

/// A rule's expressions, in the order in which the methods are called.
///
/// ```
/// use patchcord_netlink::nft::{Body, Family, ct_state};
/// // iifname "virbr0" ip saddr 192.168.122.0/24 ct state established,related counter accept
/// let body = Body::new(Family::Inet)
///     .iif_name("virbr0")
///     .source("192.168.122.0".parse().unwrap(), 24)
///     .ct_state(ct_state::ESTABLISHED | ct_state::RELATED)
///     .counter()
///     .accept();
/// assert!(!body.expressions().is_empty());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    family: Family,
    expressions: Vec<Expr>,
}

impl Body {
    /// An empty rule for a table of this family, which decides what must be checked before addresses are.
    pub fn new(family: Family) -> Self {
        Body { family, expressions: Vec::new() }
    }

    /// What has been written so far.
    pub fn expressions(&self) -> &[Expr] {
        &self.expressions
    }

    /// Adds an expression as it is.
    #[must_use]
    pub fn expr(mut self, expr: Expr) -> Self {
        self.expressions.push(expr);
        self
    }

    fn compare(self, load: Expr, operator: Operator, data: Vec<u8>) -> Self {
        self.expr(load).expr(Expr::Cmp(operator, data))
    }

    /// `iifname NAME`.
    #[must_use]
    pub fn iif_name(self, name: &str) -> Self {
        self.compare(Expr::Meta(MetaKey::IifName), Operator::Equal, name_bytes(name))
    }

    /// `iifname != NAME`.
    #[must_use]
    pub fn not_iif_name(self, name: &str) -> Self {
        self.compare(Expr::Meta(MetaKey::IifName), Operator::NotEqual, name_bytes(name))
    }

    /// `oifname NAME`.
    #[must_use]
    pub fn oif_name(self, name: &str) -> Self {
        self.compare(Expr::Meta(MetaKey::OifName), Operator::Equal, name_bytes(name))
    }

    /// `oifname != NAME`.
    #[must_use]
    pub fn not_oif_name(self, name: &str) -> Self {
        self.compare(Expr::Meta(MetaKey::OifName), Operator::NotEqual, name_bytes(name))
    }

    /// `meta nfproto ipv4` or `ipv6`; in the bridge and netdev families by the Ethernet type; nothing where the table has one
    /// family only.
    #[must_use]
    pub fn ip_version(self, v6: bool) -> Self {
        match self.family {
            Family::Inet => self.compare(Expr::Meta(MetaKey::NfProto), Operator::Equal, vec![if v6 { 10 } else { 2 }]),
            Family::Bridge | Family::Netdev => {
                let ether_type: u16 = if v6 { 0x86dd } else { 0x0800 };
                self.compare(Expr::Meta(MetaKey::Protocol), Operator::Equal, ether_type.to_be_bytes().to_vec())
            }
            Family::Ip | Family::Ip6 | Family::Arp => self,
        }
    }

    /// `ip saddr ADDRESS/PREFIX` or `ip6 saddr`; the address's host bits are ignored.
    #[must_use]
    pub fn source(self, address: IpAddr, prefix: u8) -> Self {
        self.address(address, prefix, Operator::Equal, if address.is_ipv4() { 12 } else { 8 })
    }

    /// `ip daddr ADDRESS/PREFIX` or `ip6 daddr`.
    #[must_use]
    pub fn destination(self, address: IpAddr, prefix: u8) -> Self {
        self.address(address, prefix, Operator::Equal, if address.is_ipv4() { 16 } else { 24 })
    }

    /// `ip daddr != ADDRESS/PREFIX` or `ip6 daddr !=`.
    #[must_use]
    pub fn not_destination(self, address: IpAddr, prefix: u8) -> Self {
        self.address(address, prefix, Operator::NotEqual, if address.is_ipv4() { 16 } else { 24 })
    }

    fn address(self, address: IpAddr, prefix: u8, operator: Operator, offset: u32) -> Self {
        let bytes = ip_bytes(&address);
        let mask = mask_bytes(prefix, bytes.len());
        let network = bytes.iter().zip(&mask).map(|(byte, mask)| byte & mask).collect();
        let load = Expr::Payload { base: PayloadBase::Network, offset, length: bytes.len() as u32 };
        let with_version = self.ip_version(address.is_ipv6()).expr(load);
        let masked = if usize::from(prefix) < bytes.len() * 8 {
            with_version.expr(Expr::Bitwise { xor: vec![0; mask.len()], mask })
        } else {
            with_version
        };
        masked.expr(Expr::Cmp(operator, network))
    }

    /// Loads the source address, for [`Body::verdict_map`] or [`Body::in_set`].
    #[must_use]
    pub fn load_source(self, v6: bool) -> Self {
        self.load_address(v6, if v6 { 8 } else { 12 })
    }

    /// Loads the destination address, for [`Body::verdict_map`] or [`Body::in_set`].
    #[must_use]
    pub fn load_destination(self, v6: bool) -> Self {
        self.load_address(v6, if v6 { 24 } else { 16 })
    }

    fn load_address(self, v6: bool, offset: u32) -> Self {
        let length = if v6 { 16 } else { 4 };
        self.ip_version(v6).expr(Expr::Payload { base: PayloadBase::Network, offset, length })
    }

    /// Loads the name of the link that the packet came in by.
    #[must_use]
    pub fn load_iif_name(self) -> Self {
        self.expr(Expr::Meta(MetaKey::IifName))
    }

    /// Loads the name of the link that the packet goes out by.
    #[must_use]
    pub fn load_oif_name(self) -> Self {
        self.expr(Expr::Meta(MetaKey::OifName))
    }

    /// `ether saddr`; in the bridge and netdev families only.
    #[must_use]
    pub fn source_mac(self, mac: [u8; 6]) -> Self {
        let load = Expr::Payload { base: PayloadBase::Link, offset: 6, length: 6 };
        self.compare(load, Operator::Equal, mac.to_vec())
    }

    /// `vmap @MAP` on what was loaded.
    #[must_use]
    pub fn verdict_map(self, map: &str) -> Self {
        self.expr(Expr::VerdictMap { map: map.to_owned() })
    }

    /// `@SET` on what was loaded.
    #[must_use]
    pub fn in_set(self, set: &str) -> Self {
        self.expr(Expr::InSet { set: set.to_owned(), invert: false })
    }

    /// `meta l4proto NUMBER`: 1 ICMP, 6 TCP, 17 UDP, 58 ICMPv6.
    #[must_use]
    pub fn l4proto(self, number: u8) -> Self {
        self.compare(Expr::Meta(MetaKey::L4Proto), Operator::Equal, vec![number])
    }

    /// `sport PORT`, after [`Body::l4proto`].
    #[must_use]
    pub fn source_port(self, port: u16) -> Self {
        self.port(0, port)
    }

    /// `dport PORT`, after [`Body::l4proto`].
    #[must_use]
    pub fn destination_port(self, port: u16) -> Self {
        self.port(2, port)
    }

    fn port(self, offset: u32, port: u16) -> Self {
        let load = Expr::Payload { base: PayloadBase::Transport, offset, length: 2 };
        self.compare(load, Operator::Equal, port.to_be_bytes().to_vec())
    }

    /// `ct state` any of these bits of [`ct_state`](super::ct_state).
    #[must_use]
    pub fn ct_state(self, states: u32) -> Self {
        self.expr(Expr::Ct(CtKey::State))
            .expr(Expr::Bitwise { mask: states.to_ne_bytes().to_vec(), xor: vec![0; 4] })
            .expr(Expr::Cmp(Operator::NotEqual, vec![0; 4]))
    }

    /// `counter`.
    #[must_use]
    pub fn counter(self) -> Self {
        self.expr(Expr::Counter)
    }

    /// `accept`.
    #[must_use]
    pub fn accept(self) -> Self {
        self.expr(Expr::Verdict(Verdict::Accept))
    }

    /// `drop`.
    #[must_use]
    pub fn drop(self) -> Self {
        self.expr(Expr::Verdict(Verdict::Drop))
    }

    /// `return`.
    #[must_use]
    pub fn return_(self) -> Self {
        self.expr(Expr::Verdict(Verdict::Return))
    }

    /// `jump CHAIN`.
    #[must_use]
    pub fn jump(self, chain: &str) -> Self {
        self.expr(Expr::Verdict(Verdict::Jump(chain.to_owned())))
    }

    /// `goto CHAIN`.
    #[must_use]
    pub fn goto(self, chain: &str) -> Self {
        self.expr(Expr::Verdict(Verdict::Goto(chain.to_owned())))
    }

    /// `reject with ...`.
    #[must_use]
    pub fn reject(self, how: Reject) -> Self {
        self.expr(Expr::Reject(how))
    }

    /// `masquerade ...`, in a NAT chain.
    #[must_use]
    pub fn masquerade(self, nat: Nat) -> Self {
        self.expr(Expr::Masquerade(nat))
    }

    /// `snat to FIRST-LAST ...`, in a NAT chain; in an inet table the rule's family is checked first.
    #[must_use]
    pub fn source_nat(self, first: IpAddr, last: IpAddr, nat: Nat) -> Self {
        self.ip_version(first.is_ipv6()).expr(Expr::SourceNat { first, last, nat })
    }
}

/// A link's name as the kernel compares it: 16 bytes, the rest zeros. Longer names match nothing, as no link has one.
pub(super) fn name_bytes(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(IFNAMSIZ, 0);
    bytes
}

/// A prefix length as a mask of `length` bytes.
pub(super) fn mask_bytes(prefix: u8, length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| {
            let bits = usize::from(prefix).saturating_sub(at * 8).min(8);
            (0xff00u16 >> bits) as u8
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks() {
        assert_eq!(mask_bytes(0, 4), [0, 0, 0, 0]);
        assert_eq!(mask_bytes(20, 4), [255, 255, 240, 0]);
        assert_eq!(mask_bytes(32, 4), [255, 255, 255, 255]);
        assert_eq!(mask_bytes(64, 16), [[255; 8], [0; 8]].concat());
    }
}
