//! Addresses that the host has on a network, and static routes through it.

use super::{Dhcp, DhcpRange};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr};

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
    Netmask(Ipv4Addr),
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

    /// Whether a host can have the address in that network. The error is the cause.
    pub fn check_address(&self) -> Result<(), String> {
        let (net, address) = (self.network(), self.address);
        if address.is_loopback() {
            return Err(format!("{address} is a loopback address, which leaves no host"));
        }
        if address.is_multicast() {
            return Err(format!("{address} is a multicast address, which no host has as its own"));
        }
        if address.is_unspecified() {
            return Err(format!("{address} stands for no address, or for any"));
        }
        // Of IPv6's, the first one is routers' own (RFC 4291 section 2.6.1), and there is no broadcast.
        if address.is_ipv4() && net.prefix_len() < 31 {
            if address == net.network() {
                return Err(format!(
                    "{address} is the network's own address, with a prefix of {} bits",
                    net.prefix_len()
                ));
            }
            if address == net.broadcast() {
                let len = net.prefix_len();
                return Err(format!("{address} is the network's broadcast address, with a prefix of {len} bits"));
            }
        }
        if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err(format!("{address} is everybody's broadcast address"));
        }
        Ok(())
    }

    /// Whether the range lies within the network, in order, without the network's own and the broadcast address, and
    /// with at most 65,535 steps from start to end (libvirt's limit). The error is the field at fault and the cause.
    pub fn check_range(&self, range: &DhcpRange) -> Result<(), (&'static str, String)> {
        let net = self.network();
        let (start, end) = (range.start, range.end);
        for (field, address) in [("start", start), ("end", end)] {
            if !net.contains(&address) {
                return Err((field, format!("{address} is outside the network {}", net.trunc())));
            }
        }
        if start > end {
            return Err(("end", format!("{end} is before the start, {start}")));
        }
        if start.is_ipv4() && net.prefix_len() < 31 {
            if start == net.network() {
                return Err(("start", format!("{start} is the network's own address")));
            }
            if end == net.broadcast() {
                return Err(("end", format!("{end} is the network's broadcast address")));
            }
        }
        let number = |address| match address {
            IpAddr::V4(a) => u128::from(u32::from(a)),
            IpAddr::V6(a) => u128::from(a),
        };
        if number(end) - number(start) > 0xffff {
            return Err(("end", format!("{end} is more than 65535 addresses after the start, {start}")));
        }
        Ok(())
    }

    /// Whether a reservation for `address` makes sense here. The error is the cause.
    pub fn check_host_address(&self, address: IpAddr) -> Result<(), String> {
        let net = self.network();
        if !net.contains(&address) {
            return Err(format!("{address} is outside the network {}", net.trunc()));
        }
        if address == self.address {
            return Err(format!("{address} is the host's own address there"));
        }
        if address.is_ipv4() && net.prefix_len() < 31 && (address == net.network() || address == net.broadcast()) {
            return Err(format!("{address} is the network's own or its broadcast address"));
        }
        Ok(())
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

impl Route {
    /// Where it leads. Without a mask: everywhere for the unspecified address, else as in [`Ip::network`].
    pub fn destination(&self) -> IpNet {
        if self.mask.is_none() && self.address.is_unspecified() {
            return IpNet::new(self.address, 0).unwrap_or_else(|_| IpNet::from(self.address));
        }
        let ip = Ip {
            family: self.family,
            address: self.address,
            mask: self.mask,
            local_ptr: None,
            tftp_root: None,
            dhcp: None,
        };
        ip.network()
    }
}
