//! Routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::attr::Attrs;
use crate::channel::{NLM_F_CREATE, NLM_F_EXCL};
use crate::error::Error;
use crate::socket::{Dump, Request, Socket};

/// Length of `struct rtmsg`.
const HEADER: usize = 12;
pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_DELROUTE: u16 = 25;

/// The table of ordinary routes.
pub const TABLE_MAIN: u32 = 254;
/// The kernel's table of local and broadcast addresses.
pub const TABLE_LOCAL: u32 = 255;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;

/// Length of `struct rtnexthop`.
const NEXT_HOP: usize = 8;

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The destination's network address; unspecified for a default route.
    pub destination: IpAddr,
    /// The destination's prefix length in bits.
    pub prefix: u8,
    /// The next hop; of a multipath route the first one.
    pub gateway: Option<IpAddr>,
    /// Index of the link that it leaves by; of a multipath route the first one.
    pub link: Option<u32>,
    /// Lower is preferred; 0 when the kernel does not tell (IPv4's default).
    pub metric: u32,
    /// Who added it (`RTPROT_*`): 2 the kernel, 3 boot, 4 an administrator.
    pub protocol: u8,
    /// Its table.
    pub table: u32,
    /// Its type (`RTN_*`): 1 unicast, 2 local, 3 broadcast, 6 blackhole, 7 unreachable, 8 prohibit.
    pub kind: u8,
    /// The preferred source address.
    pub source: Option<IpAddr>,
    /// An attribute that this struct stands for had an unexpected form; its field has the default value.
    pub partly_read: bool,
}

/// Which routes to list; the default lists all, of all tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteFilter {
    /// Of one table only, such as [`TABLE_MAIN`].
    pub table: Option<u32>,
    /// Added by one protocol only.
    pub protocol: Option<u8>,
    /// Leaving by one link only.
    pub link: Option<u32>,
}

/// A unicast route of the main table to be added or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRoute {
    /// The destination's network address; host bits must be 0.
    pub destination: IpAddr,
    /// The destination's prefix length in bits.
    pub prefix: u8,
    /// The next hop, of the destination's family. `None`: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Index of the link that it leaves by.
    pub link: u32,
    /// Lower is preferred; `None`: the kernel's default.
    pub metric: Option<u32>,
    /// Our mark on it (`RTPROT_*`).
    pub protocol: u8,
}

/// Reads the payload of an `RTM_NEWROUTE` or `RTM_DELROUTE`; `None` for other families than IPv4 and IPv6.
pub(crate) fn read(payload: &[u8]) -> Option<Route> {
    let header = payload.first_chunk::<HEADER>()?;
    let mut route = Route {
        destination: match header[0] {
            AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        },
        prefix: header[1],
        gateway: None,
        link: None,
        metric: 0,
        protocol: header[5],
        table: u32::from(header[4]),
        kind: header[7],
        source: None,
        partly_read: false,
    };
    let mut attrs = Attrs::after(payload, HEADER);
    for attr in attrs.by_ref() {
        let read = match attr.kind {
            RTA_DST => attr.ip().map(|ip| route.destination = ip),
            RTA_OIF => attr.u32().map(|index| route.link = Some(index)),
            RTA_GATEWAY => attr.ip().map(|ip| route.gateway = Some(ip)),
            // struct rtvia: a 16-bit family, then the address.
            RTA_VIA => {
                let value = attr.value.get(2..).unwrap_or(&[]);
                crate::attr::Attr { kind: RTA_VIA, value }.ip().map(|ip| route.gateway = Some(ip))
            }
            RTA_PRIORITY => attr.u32().map(|metric| route.metric = metric),
            RTA_PREFSRC => attr.ip().map(|ip| route.source = Some(ip)),
            RTA_TABLE => attr.u32().map(|table| route.table = table),
            RTA_MULTIPATH => read_first_hop(attr.value, &mut route),
            _ => Some(()),
        };
        route.partly_read |= read.is_none();
    }
    route.partly_read |= attrs.broken();
    Some(route)
}

fn read_first_hop(hops: &[u8], route: &mut Route) -> Option<()> {
    let header = hops.first_chunk::<NEXT_HOP>()?;
    let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
    route.link = Some(u32::from_ne_bytes([header[4], header[5], header[6], header[7]]));
    let attrs = Attrs::new(hops.get(NEXT_HOP..length)?);
    if let Some(gateway) = attrs.clone().find(|attr| attr.kind == RTA_GATEWAY) {
        route.gateway = Some(gateway.ip()?);
    }
    Some(())
}

fn message(route: &NewRoute) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family =
        if route.destination.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = route.prefix;
    message.header.table = TABLE_MAIN as u8;
    message.header.protocol = RouteProtocol::from(route.protocol);
    let on_link = route.gateway.is_none() && route.destination.is_ipv4();
    message.header.scope = if on_link { RouteScope::Link } else { RouteScope::Universe };
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(route.destination)));
    message.attributes.extend(route.gateway.map(|ip| RouteAttribute::Gateway(RouteAddress::from(ip))));
    message.attributes.push(RouteAttribute::Oif(route.link));
    message.attributes.extend(route.metric.map(RouteAttribute::Priority));
    message
}

impl Request {
    /// Adds a route to the main table.
    pub fn add_route(route: &NewRoute) -> Self {
        let message = RouteNetlinkMessage::NewRoute(message(route));
        Request::new("add the route", NLM_F_CREATE | NLM_F_EXCL, HEADER, &message)
    }

    /// Deletes a route from the main table: the one that agrees in everything given here, protocol included.
    pub fn delete_route(route: &NewRoute) -> Self {
        Request::new("delete the route", 0, HEADER, &RouteNetlinkMessage::DelRoute(message(route)))
    }
}

impl Socket {
    /// Lists routes, IPv4 and IPv6.
    ///
    /// # Errors
    /// [`Error::Kernel`] and the socket's own errors. A table that does not exist is empty.
    pub fn routes(&mut self, filter: RouteFilter) -> Result<Dump<Route>, Error> {
        let mut all = Dump { entries: Vec::new(), consistent: true };
        for (family, v4) in [(AddressFamily::Inet, true), (AddressFamily::Inet6, false)] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.protocol = RouteProtocol::from(filter.protocol.unwrap_or(0));
            message.attributes.extend(filter.table.map(RouteAttribute::Table));
            message.attributes.extend(filter.link.map(RouteAttribute::Oif));
            let request = Request::new("list routes", 0, HEADER, &RouteNetlinkMessage::GetRoute(message));
            // Without IPv6 the kernel answers for all families that it has, filters aside.
            let wanted = |route: &Route| {
                route.destination.is_ipv4() == v4
                    && filter.table.is_none_or(|table| route.table == table)
                    && filter.protocol.is_none_or(|protocol| route.protocol == protocol)
                    && filter.link.is_none_or(|link| route.link == Some(link))
            };
            match self.dump(&request, RTM_NEWROUTE, |payload| read(payload).filter(wanted)) {
                Ok(part) => {
                    all.consistent &= part.consistent;
                    all.entries.extend(part.entries);
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// Adds a route to the main table.
    ///
    /// # Errors
    /// [`Error::Kernel`], with EEXIST when there is one for that destination and metric, and the socket's own errors.
    pub fn add_route(&mut self, route: &NewRoute) -> Result<(), Error> {
        self.execute(&Request::add_route(route))
    }

    /// Deletes a route from the main table.
    ///
    /// # Errors
    /// [`Error::Kernel`], with ESRCH when there is none, and the socket's own errors.
    pub fn delete_route(&mut self, route: &NewRoute) -> Result<(), Error> {
        self.execute(&Request::delete_route(route))
    }
}
