//! IP addresses of links.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::attr::Attrs;
use crate::channel::{NLM_F_CREATE, NLM_F_EXCL};
use crate::error::Error;
use crate::socket::{Dump, Request, Socket};

/// Length of `struct ifaddrmsg`.
const HEADER: usize = 8;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_DELADDR: u16 = 21;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;

const IFA_F_NODAD: u32 = 0x02;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_TENTATIVE: u32 = 0x40;
const IFA_F_PERMANENT: u32 = 0x80;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;

/// An address of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of the link.
    pub index: u32,
    /// The local address.
    pub address: IpAddr,
    /// Prefix length in bits.
    pub prefix: u8,
    /// IPv4 only.
    pub broadcast: Option<Ipv4Addr>,
    /// Scope (`RT_SCOPE_*`): 0 global, 253 link, 254 host.
    pub scope: u8,
    /// Has no lifetime.
    pub permanent: bool,
    /// IPv6: duplicate address detection has not finished, so the address cannot be bound yet.
    pub tentative: bool,
    /// IPv6: somebody else has it.
    pub duplicate: bool,
    /// Who added it (`IFA_PROTO`, kernel 5.18); 0 when nobody said.
    pub protocol: u8,
    /// An attribute that this struct stands for had an unexpected form; its field has the default value.
    pub partly_read: bool,
}

/// Which addresses to list; the default lists all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressFilter {
    /// Those of one link only.
    pub index: Option<u32>,
}

/// An address to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAddress {
    /// Index of the link.
    pub index: u32,
    /// The local address.
    pub address: IpAddr,
    /// Prefix length in bits.
    pub prefix: u8,
    /// IPv4 only; ignored for IPv6.
    pub broadcast: Option<Ipv4Addr>,
    /// IPv6: no duplicate address detection, so that the address can be bound at once.
    pub nodad: bool,
    /// No route to the prefix appears with it.
    pub no_prefix_route: bool,
    /// Our mark on it (`IFA_PROTO`; kernels before 5.18 ignore it).
    pub protocol: Option<u8>,
}

/// Reads the payload of an `RTM_NEWADDR` or `RTM_DELADDR`; `None` for other families than IPv4 and IPv6, and when
/// there is no address in it.
pub(crate) fn read(payload: &[u8]) -> Option<Address> {
    let header = payload.first_chunk::<HEADER>()?;
    let mut address = Address {
        index: u32::from_ne_bytes([header[4], header[5], header[6], header[7]]),
        address: match header[0] {
            AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        },
        prefix: header[1],
        broadcast: None,
        scope: header[3],
        permanent: false,
        tentative: false,
        duplicate: false,
        protocol: 0,
        partly_read: false,
    };
    let mut flags = u32::from(header[2]);
    let (mut local, mut peer) = (None, None);
    let mut attrs = Attrs::after(payload, HEADER);
    for attr in attrs.by_ref() {
        let read = match attr.kind {
            IFA_LOCAL => attr.ip().map(|ip| local = Some(ip)),
            IFA_ADDRESS => attr.ip().map(|ip| peer = Some(ip)),
            IFA_BROADCAST => attr.ip().map(|ip| {
                if let IpAddr::V4(ip) = ip {
                    address.broadcast = Some(ip);
                }
            }),
            IFA_FLAGS => attr.u32().map(|bits| flags = bits),
            IFA_PROTO => attr.u8().map(|number| address.protocol = number),
            _ => Some(()),
        };
        address.partly_read |= read.is_none();
    }
    address.partly_read |= attrs.broken();
    // On a point-to-point link IFA_ADDRESS is the other end, and IFA_LOCAL ours.
    address.address = local.or(peer)?;
    address.permanent = flags & IFA_F_PERMANENT != 0;
    address.tentative = flags & IFA_F_TENTATIVE != 0;
    address.duplicate = flags & IFA_F_DADFAILED != 0;
    Some(address)
}

fn message(index: u32, address: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = prefix;
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    message
}

impl Request {
    /// Adds an address to a link.
    pub fn add_address(new: &NewAddress) -> Self {
        let mut message = message(new.index, new.address, new.prefix);
        if new.address.is_ipv4() {
            message.attributes.extend(new.broadcast.map(AddressAttribute::Broadcast));
        }
        let mut flags = 0;
        if new.nodad && new.address.is_ipv6() {
            flags |= IFA_F_NODAD;
        }
        if new.no_prefix_route {
            flags |= IFA_F_NOPREFIXROUTE;
        }
        message.attributes.push(AddressAttribute::Flags(AddressFlags::from_bits_retain(flags)));
        message.attributes.extend(new.protocol.map(|number| AddressAttribute::Protocol(AddressProtocol::from(number))));
        Request::new("add the address", NLM_F_CREATE | NLM_F_EXCL, HEADER, &RouteNetlinkMessage::NewAddress(message))
    }

    /// Deletes an address from a link.
    pub fn delete_address(index: u32, address: IpAddr, prefix: u8) -> Self {
        let message = RouteNetlinkMessage::DelAddress(message(index, address, prefix));
        Request::new("delete the address", 0, HEADER, &message)
    }
}

impl Socket {
    /// Lists addresses, IPv4 and IPv6.
    ///
    /// # Errors
    /// [`Error::Kernel`], with ENODEV when the filter's link does not exist, and the socket's own errors.
    pub fn addresses(&mut self, filter: AddressFilter) -> Result<Dump<Address>, Error> {
        let mut message = AddressMessage::default();
        message.header.index = filter.index.unwrap_or(0);
        let request = Request::new("list addresses", 0, HEADER, &RouteNetlinkMessage::GetAddress(message));
        let wanted = |address: &Address| filter.index.is_none_or(|index| address.index == index);
        self.dump(&request, RTM_NEWADDR, |payload| read(payload).filter(wanted))
    }

    /// Adds an address to a link.
    ///
    /// # Errors
    /// [`Error::Kernel`], with EEXIST when the link has it, and the socket's own errors.
    pub fn add_address(&mut self, new: &NewAddress) -> Result<(), Error> {
        self.execute(&Request::add_address(new))
    }

    /// Deletes an address from a link.
    ///
    /// # Errors
    /// [`Error::Kernel`], with EADDRNOTAVAIL when the link does not have it, and the socket's own errors.
    pub fn delete_address(&mut self, index: u32, address: IpAddr, prefix: u8) -> Result<(), Error> {
        self.execute(&Request::delete_address(index, address, prefix))
    }
}
