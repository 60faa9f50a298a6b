//! Addresses that the host has on a network, and static routes through it.

use super::Dhcp;
use ipnet::IpNet;
use std::net::IpAddr;

/// Address family, as written: libvirt prints it back only when it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `ipv4`
    V4,
    /// `ipv6`
    V6,
}

/// How the length of a prefix was written, since it is printed back that way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// `netmask='255.255.255.0'`
    Netmask(std::net::Ipv4Addr),
    /// `prefix='24'`
    Prefix(u8),
}

/// `<ip>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// `family`, when given.
    pub family: Option<Family>,
    /// The host's own address.
    pub address: IpAddr,
    /// Netmask or prefix, when given.
    pub mask: Option<Mask>,
    /// Whether reverse look-ups of the network's addresses stay on this host.
    pub local_ptr: Option<bool>,
    /// `<tftp root>`.
    pub tftp_root: Option<String>,
    /// `<dhcp>`.
    pub dhcp: Option<Dhcp>,
}

impl Ip {
    /// The address with its prefix length. Without a mask: 64 for IPv6, the address' historical class for IPv4
    /// (libvirt's rule; RFC 791 classes A, B and C are 8, 16 and 24).
    pub fn network(&self) -> IpNet {
        let len = match (self.mask, self.address) {
            (Some(mask), _) => mask.len(),
            (None, IpAddr::V6(_)) => 64,
            (None, IpAddr::V4(a)) => match a.octets()[0] {
                0..=127 => 8,
                128..=191 => 16,
                192..=223 => 24,
                _ => 32,
            },
        };
        // A length beyond the family's was refused when the document was read.
        IpNet::new(self.address, len).unwrap_or_else(|_| IpNet::from(self.address))
    }
}

impl Mask {
    /// The prefix length.
    pub fn len(self) -> u8 {
        match self {
            Self::Netmask(m) => u32::from(m).leading_ones() as u8,
            Self::Prefix(p) => p,
        }
    }

    /// Whether it covers everything (a length of 0).
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// `<route>`: a static route through a gateway on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// `family`, when given.
    pub family: Option<Family>,
    /// Destination.
    pub address: IpAddr,
    /// Netmask or prefix, when given.
    pub mask: Option<Mask>,
    /// The gateway, which one of the network's addresses must reach.
    pub gateway: IpAddr,
    /// `metric`, when given; 1 to 2³²−1.
    pub metric: Option<u32>,
}
