//! Forwarding-database entries of bridge ports.

use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::attr::Attrs;
use crate::channel::{NLM_F_CREATE, NLM_F_EXCL};
use crate::error::Error;
use crate::socket::{Dump, Request, Socket};

/// Length of `struct ndmsg`.
const HEADER: usize = 12;
pub(crate) const RTM_NEWNEIGH: u16 = 28;
pub(crate) const RTM_DELNEIGH: u16 = 29;

const AF_BRIDGE: u8 = 7;

const NDA_LLADDR: u16 = 2;
const NDA_VLAN: u16 = 5;
const NDA_MASTER: u16 = 9;

const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 0x02;

/// An entry of a bridge's forwarding database, or of a link's own address filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// Index of the port, or of the bridge itself.
    pub port: u32,
    /// The Ethernet address.
    pub mac: [u8; 6],
    /// The VLAN, on a bridge that filters VLANs.
    pub vlan: Option<u16>,
    /// Index of the bridge, when the entry is in its database.
    pub bridge: Option<u32>,
    /// Was put there and does not age (`static`).
    pub fixed: bool,
    /// The port's or the bridge's own address: frames to it are for the host (`permanent`).
    pub local: bool,
    /// Is in the link's own filter (`self`), not in the bridge's database.
    pub own: bool,
}

/// A static forwarding-database entry to be added or deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbChange {
    /// Index of the port.
    pub port: u32,
    /// The Ethernet address behind it.
    pub mac: [u8; 6],
    /// The VLAN; `None`: all VLANs of the port, or no VLAN.
    pub vlan: Option<u16>,
    /// In the link's own filter (`self`) instead of the bridge's database (`master`).
    pub own: bool,
}

/// Reads the payload of an `RTM_NEWNEIGH` or `RTM_DELNEIGH` of family bridge; `None` for other families.
pub(crate) fn read(payload: &[u8]) -> Option<FdbEntry> {
    let header = payload.first_chunk::<HEADER>()?;
    if header[0] != AF_BRIDGE {
        return None;
    }
    let state = u16::from_ne_bytes([header[8], header[9]]);
    let mut mac = None;
    let mut entry = FdbEntry {
        port: u32::from_ne_bytes([header[4], header[5], header[6], header[7]]),
        mac: [0; 6],
        vlan: None,
        bridge: None,
        fixed: state & NUD_NOARP != 0,
        local: state & NUD_PERMANENT != 0,
        own: header[10] & NTF_SELF != 0,
    };
    for attr in Attrs::after(payload, HEADER) {
        match attr.kind {
            NDA_LLADDR => mac = attr.mac(),
            NDA_VLAN => entry.vlan = attr.u16(),
            NDA_MASTER => entry.bridge = attr.u32(),
            _ => {}
        }
    }
    entry.mac = mac?;
    Some(entry)
}

fn message(change: &FdbChange) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = change.port;
    message.header.state = NeighbourState::Noarp;
    message.header.flags = if change.own { NeighbourFlags::Own } else { NeighbourFlags::Controller };
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(change.mac.to_vec()));
    message.attributes.extend(change.vlan.map(NeighbourAttribute::Vlan));
    message
}

impl Request {
    /// Adds a static entry.
    pub fn add_fdb(change: &FdbChange) -> Self {
        let message = RouteNetlinkMessage::NewNeighbour(message(change));
        Request::new("add the forwarding entry", NLM_F_CREATE | NLM_F_EXCL, HEADER, &message)
    }

    /// Deletes an entry.
    pub fn delete_fdb(change: &FdbChange) -> Self {
        let message = RouteNetlinkMessage::DelNeighbour(message(change));
        Request::new("delete the forwarding entry", 0, HEADER, &message)
    }
}

impl Socket {
    /// Lists forwarding entries, of one port or of all links.
    ///
    /// # Errors
    /// [`Error::Kernel`] and the socket's own errors.
    pub fn fdb(&mut self, port: Option<u32>) -> Result<Dump<FdbEntry>, Error> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = port.unwrap_or(0);
        let request = Request::new("list forwarding entries", 0, HEADER, &RouteNetlinkMessage::GetNeighbour(message));
        let wanted = |entry: &FdbEntry| port.is_none_or(|port| entry.port == port);
        self.dump(&request, RTM_NEWNEIGH, |payload| read(payload).filter(wanted))
    }

    /// Adds a static entry.
    ///
    /// # Errors
    /// [`Error::Kernel`], with EEXIST when the address is in the database, and the socket's own errors.
    pub fn add_fdb(&mut self, change: &FdbChange) -> Result<(), Error> {
        self.execute(&Request::add_fdb(change))
    }

    /// Deletes an entry.
    ///
    /// # Errors
    /// [`Error::Kernel`], with ENOENT when there is none, and the socket's own errors.
    pub fn delete_fdb(&mut self, change: &FdbChange) -> Result<(), Error> {
        self.execute(&Request::delete_fdb(change))
    }
}
