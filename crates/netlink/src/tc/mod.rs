//! Traffic control: queueing disciplines, filters and their actions (`tc`).
//!
//! The packet crate encodes what it knows; options that it lacks travel inside its messages as bytes of ours. Numbers
//! and layouts are those of the kernel's `linux/rtnetlink.h`, `linux/pkt_sched.h`, `linux/pkt_cls.h` and
//! `linux/tc_act/*.h`.

mod action;
mod classify;
mod filter;
#[cfg(test)]
mod golden;
mod htb;
mod ingress;
mod leaf;
mod qdisc;
mod rate;

pub use action::{Action, ActionKind};
pub use classify::{ClassFilter, ClassNumber};
pub use filter::Filter;
pub use htb::{Htb, HtbClass};
pub use ingress::{Police, Redirect};
pub use leaf::Leaf;
pub use qdisc::Qdisc;
pub use rate::rounded_burst;

use std::fmt;

use netlink_packet_route::tc::{TcAttribute, TcHandle, TcHeader, TcMessage};

/// Length of `struct tcmsg`.
const HEADER: usize = 20;

pub(crate) const RTM_NEWQDISC: u16 = 36;
pub(crate) const RTM_DELQDISC: u16 = 37;
pub(crate) const RTM_NEWTCLASS: u16 = 40;
pub(crate) const RTM_DELTCLASS: u16 = 41;
pub(crate) const RTM_NEWTFILTER: u16 = 44;
pub(crate) const RTM_DELTFILTER: u16 = 45;
pub(crate) const RTM_NEWACTION: u16 = 48;
pub(crate) const RTM_DELACTION: u16 = 49;
pub(crate) const RTM_NEWCHAIN: u16 = 100;
pub(crate) const RTM_DELCHAIN: u16 = 101;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;

/// What qdiscs, classes and the places for them are called by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle {
    /// The qdisc's number on its link; 0 for the qdiscs that the kernel makes by itself.
    pub major: u16,
    /// The class's number in its qdisc; 0 for the qdisc itself.
    pub minor: u16,
}

impl Handle {
    /// The parent of a link's root qdisc.
    pub const ROOT: Handle = Handle { major: 0xffff, minor: 0xffff };
    /// The parent of a clsact or ingress qdisc.
    pub const CLSACT: Handle = Handle { major: 0xffff, minor: 0xfff1 };
    /// The parent of filters that see frames as they come in at a link with clsact.
    pub const INGRESS: Handle = Handle { major: 0xffff, minor: 0xfff2 };

    fn read(value: u32) -> Self {
        Handle { major: (value >> 16) as u16, minor: value as u16 }
    }

    fn number(self) -> u32 {
        u32::from(self.major) << 16 | u32::from(self.minor)
    }
}

/// As `tc` prints it: both numbers hexadecimal, `1:` for a qdisc, `1:a` for a class.
impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.minor {
            0 => write!(f, "{:x}:", self.major),
            minor => write!(f, "{:x}:{minor:x}", self.major),
        }
    }
}

impl From<Handle> for TcHandle {
    fn from(handle: Handle) -> Self {
        TcHandle { major: handle.major, minor: handle.minor }
    }
}

/// The header that all messages of traffic control share.
#[derive(Clone, Copy, Debug)]
struct Header {
    link: u32,
    handle: u32,
    parent: Handle,
    info: u32,
}

impl Header {
    /// The header and the attributes behind it; `None` when the message is shorter.
    fn read(payload: &[u8]) -> Option<(Self, &[u8])> {
        let (header, attributes) = payload.split_first_chunk::<HEADER>()?;
        let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let header = Header { link: word(4), handle: word(8), parent: Handle::read(word(12)), info: word(16) };
        Some((header, attributes))
    }

    fn message(self, attributes: Vec<TcAttribute>) -> TcMessage {
        let header = TcHeader {
            index: self.link.cast_signed(),
            handle: TcHandle::from(self.handle),
            parent: self.parent.into(),
            info: self.info,
            ..TcHeader::default()
        };
        TcMessage::from_parts(header, attributes)
    }
}

/// Feeds bytes to the readers, for [`fuzz_readers`](crate::fuzz_readers).
pub(crate) fn fuzz_payload(bytes: &[u8]) {
    let _ = qdisc::read(bytes);
    let _ = filter::read(bytes);
    let _ = htb::read(bytes);
    let _ = action::read_all(bytes);
}
