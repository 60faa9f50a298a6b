//! Port profiles: how a switch is told which of its profiles a guest's port is to have.
//!
//! For 802.1Qbg the switch and lldpad on this host speak VDP, and lldpad is asked ([`Lldpad`]). For 802.1Qbh the device's
//! driver speaks with the switch, and the kernel is asked ([`Request::port_profile`](crate::Request::port_profile)).
//! Either way a request is acknowledged at once, and how it went has to be asked for until it is decided.
//!
//! Numbers and layouts are those of the kernel's `linux/if_link.h`, from `IFLA_VF_PORT_UNSPEC` on.

mod profile;
mod vsi;

pub use profile::{Profile, ProfileName};
pub use vsi::{Lldpad, TypeId, Vsi};
pub(crate) use {profile::read as read_kernel, vsi::read as read_lldpad};

use std::fmt;

use crate::attr::Attrs;
use crate::link::HEADER;

const IFLA_VF_PORTS: u16 = 24;
const IFLA_VF_PORT: u16 = 1;

const IFLA_PORT_VF: u16 = 1;
const IFLA_PORT_INSTANCE_UUID: u16 = 4;
const IFLA_PORT_REQUEST: u16 = 6;
const IFLA_PORT_RESPONSE: u16 = 7;

const ASK: &str = "ask about the port profile";
const SET: &str = "request the port profile";

/// What is asked of the switch (kernel: `PORT_REQUEST_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Check that the profile can be had.
    PreAssociate,
    /// The same, and reserve what it needs.
    PreAssociateReserving,
    /// Let the guest's frames pass as the profile says.
    Associate,
    /// No more.
    Disassociate,
}

impl Operation {
    fn number(self) -> u8 {
        match self {
            Operation::PreAssociate => 0,
            Operation::PreAssociateReserving => 1,
            Operation::Associate => 2,
            Operation::Disassociate => 3,
        }
    }
}

/// How a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Not decided yet.
    InProgress,
    /// Done.
    Success,
    /// Refused, or failed.
    Failed(Failure),
}

/// Why a request failed (kernel: `PORT_VDP_RESPONSE_*`, `PORT_PROFILE_RESPONSE_*`; and two of lldpad's own).
/// `Display` says it in words, and with the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    code: u16,
}

impl Failure {
    /// The number that was answered: from 256 on by a driver, below that by a switch or lldpad.
    pub fn code(self) -> u16 {
        self.code
    }

    /// In words. IEEE 802.1Qbg as it became a standard gives three numbers another meaning than its drafts, and which of
    /// them lldpad and the switch have agreed upon is not told.
    fn words(self) -> &'static str {
        match self.code {
            1 => "the switch can't read the request",
            2 => "the switch has no resources left for it",
            3 => "the switch doesn't know the type, or can't reach its VSI manager",
            4 => "the type is not allowed here, or the switch has other reasons",
            5 => "the switch doesn't have this version of the type, or refuses the MAC address or VLAN",
            6 => "the switch is out of step",
            252 => "the switch withdrew it",
            253 => "the switch didn't answer in time",
            0x102 => "the driver calls the request invalid",
            0x103 => "the driver can't do that in the port's present state",
            0x104 => "the switch or the device has no resources left for it",
            0x105 => "the driver reports an error",
            _ => "the answer has no known meaning",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (response {})", self.words(), self.code)
    }
}

impl Response {
    fn read(code: u16) -> Self {
        match code {
            0 | 0x100 => Response::Success,
            0x101 => Response::InProgress,
            code => Response::Failed(Failure { code }),
        }
    }
}

/// One port in an answer.
#[derive(Clone, Copy, Debug, Default)]
struct Port<'a> {
    vf: Option<u32>,
    instance: Option<&'a [u8]>,
    response: Option<Response>,
}

impl<'a> Port<'a> {
    fn read(attrs: Attrs<'a>) -> Self {
        let mut port = Port::default();
        for attr in attrs {
            match attr.kind {
                IFLA_PORT_VF => port.vf = attr.u32(),
                IFLA_PORT_INSTANCE_UUID => port.instance = Some(attr.value),
                IFLA_PORT_RESPONSE => port.response = attr.u16().map(Response::read),
                _ => {}
            }
        }
        port
    }
}

fn ports(payload: &[u8]) -> impl Iterator<Item = Port<'_>> {
    let lists = Attrs::after(payload, HEADER).filter(|attr| attr.kind == IFLA_VF_PORTS);
    let ports = lists.flat_map(|list| list.nested()).filter(|attr| attr.kind == IFLA_VF_PORT);
    ports.map(|port| Port::read(port.nested()))
}
