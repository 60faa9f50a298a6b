//! 802.1Qbg: asking lldpad, which speaks VDP with the switch.
//!
//! Messages go between processes: those that the kernel knows for virtual functions, sent to lldpad's netlink port.
//! What lldpad's answers look like is what lldpad 1.1 does: they are of the type `NLMSG_DONE`, list all ports of a link
//! with their instances, and those that are under way without a response.

use std::time::Instant;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;

use super::{ASK, IFLA_PORT_INSTANCE_UUID, IFLA_PORT_REQUEST, IFLA_VF_PORT, IFLA_VF_PORTS, Operation, Response, SET};
use crate::attr::Writer;
use crate::channel::{Channel, NLM_F_ACK, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use crate::error::Error;
use crate::link::RTM_NEWLINK;
use crate::socket::Request;
use crate::vf::{self, IFLA_VFINFO_LIST};
use crate::{extack, frame};

const IFLA_IFNAME: u16 = 3;
const IFLA_PORT_VSI_TYPE: u16 = 3;
/// In place of a virtual function's number: the link itself.
const PORT_SELF_VF: u32 = u32::MAX;

/// A VSI type's number: 24 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeId(u32);

impl TypeId {
    /// `None` for a number of more than 24 bits.
    pub fn new(number: u32) -> Option<Self> {
        (number < 1 << 24).then_some(TypeId(number))
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

/// A guest's port as 802.1Qbg sees it: a virtual station interface (VSI).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vsi {
    /// The VSI manager whose types are meant.
    pub manager_id: u8,
    /// The type among that manager's.
    pub type_id: TypeId,
    /// The type's version.
    pub type_id_version: u8,
    /// The UUID of this port, by which lldpad and the switch know it.
    pub instance: [u8; 16],
    /// The guest's Ethernet address.
    pub mac: [u8; 6],
    /// The VLAN of its frames, 1 to 4094; 0 for none.
    pub vlan: u16,
}

impl Vsi {
    /// What lldpad is asked to do about this port on the link with that index and name.
    fn request(&self, index: u32, name: &str, operation: Operation) -> Request {
        let mut info = Writer::new();
        vf::put_mac(&mut info, PORT_SELF_VF, self.mac);
        vf::put_vlan(&mut info, PORT_SELF_VF, self.vlan, 0);
        let [low, middle, high, _] = self.type_id.0.to_le_bytes();
        let mut port = Writer::new();
        // struct ifla_port_vsi: the number's lowest byte first, on every machine.
        port.put(IFLA_PORT_VSI_TYPE, &[self.manager_id, low, middle, high, self.type_id_version, 0, 0, 0]);
        port.put(IFLA_PORT_INSTANCE_UUID, &self.instance);
        port.put(IFLA_PORT_REQUEST, &[operation.number()]);
        let mut ports = Writer::new();
        ports.put(IFLA_VF_PORT, &port.into_bytes());
        let attributes = [
            (IFLA_IFNAME, [name.as_bytes(), &[0]].concat()),
            (IFLA_VFINFO_LIST, vf::info_list(info)),
            (IFLA_VF_PORTS, ports.into_bytes()),
        ];
        vf::set_link(SET, index, attributes)
    }
}

/// What lldpad is asked through. It answers requests one after the other, and may take its time.
#[derive(Debug)]
pub struct Lldpad {
    channel: Channel,
}

impl Lldpad {
    /// Opens a socket in the calling thread's network namespace that speaks with lldpad at this netlink port and with
    /// nobody else. (Its port is its process id, as it sees that itself.)
    ///
    /// # Errors
    /// [`Error::Open`], with EPERM without CAP_NET_ADMIN.
    pub fn open(port: u32) -> Result<Self, Error> {
        Ok(Lldpad { channel: Channel::open_to(netlink_sys::protocols::NETLINK_ROUTE, port)? })
    }

    /// Asks for a port on the link with this index and name; returns when lldpad has taken the request.
    ///
    /// # Errors
    /// [`Error::Kernel`] with what lldpad refuses it for: ENXIO when it doesn't speak VDP on that link, or the link is down.
    /// [`Error::Send`] with ECONNREFUSED when nobody has the port. An error of the kind `TimedOut` when there is
    /// no answer until then; whether lldpad takes the request after that is unknown.
    pub fn request(
        &mut self,
        (index, name): (u32, &str),
        operation: Operation,
        vsi: &Vsi,
        deadline: Instant,
    ) -> Result<(), Error> {
        let request = vsi.request(index, name, operation);
        self.exchange(&request, deadline, |_| ())
    }

    /// How the last request for the port with this instance on the link with that index went. `None` when lldpad
    /// has no such port any more: a disassociation is done then, and whatever else was asked for has failed.
    ///
    /// lldpad forgets a port that was refused as soon as it has told that, whoever asked: let one asker at a time wait for
    /// the ports of one link.
    ///
    /// # Errors
    /// As [`Lldpad::request`]; [`Error::Kernel`] with ENODEV when lldpad doesn't speak VDP on that link.
    pub fn response(&mut self, index: u32, instance: &[u8; 16], deadline: Instant) -> Result<Option<Response>, Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let request = Request::link(ASK, 0, RouteNetlinkMessage::GetLink(message));
        self.exchange(&request, deadline, |payload| self::read(payload, instance))
    }

    /// Sends one request and reads the answer, which is one message, whatever was asked.
    fn exchange<T: Default>(
        &mut self,
        request: &Request,
        deadline: Instant,
        read: impl Fn(&[u8]) -> T,
    ) -> Result<T, Error> {
        let sequence = self.channel.sequences(1);
        let mut bytes = Vec::new();
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        // Our port, to which lldpad tells what the switch does later. That nobody listens there by then is no harm.
        frame::append_from(&mut bytes, request.kind, flags, sequence, self.channel.port(), &request.body);
        self.channel.set_deadline(deadline)?;
        self.channel.send(request.name, &bytes)?;
        let mut answer = T::default();
        self.channel.receive(request.name, |frame| {
            // An answer to an earlier request that was given up counts for nothing here.
            if frame.sequence != sequence {
                return Ok(false);
            }
            match frame.kind {
                NLMSG_ERROR => extack::read_error(frame.payload, frame.flags)
                    .map_err(|source| Error::Kernel { request: request.name, source })?,
                NLMSG_DONE | RTM_NEWLINK => answer = read(frame.payload),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(answer)
    }
}

/// In lldpad's answer a port without a response is under way.
pub(crate) fn read(payload: &[u8], instance: &[u8; 16]) -> Option<Response> {
    let port = super::ports(payload).find(|port| port.instance == Some(instance))?;
    Some(port.response.unwrap_or(Response::InProgress))
}
