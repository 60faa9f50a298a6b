//! rtnetlink, nfnetlink, generic netlink and kernel events over blocking sockets.
//!
//! [`Socket`] speaks rtnetlink: links, virtual functions, addresses, routes, forwarding-database entries, traffic control
//! ([`tc`]) and port profiles ([`portprofile`]), each as a plain struct and a handful of verbs. [`nft::Socket`] speaks
//! nfnetlink: nftables transactions and what is needed to read them back. [`Monitor`] and [`nft::Monitor`] receive the
//! kernel's announcements as [`Hint`]s that say what to read again, and [`DeviceMonitor`] those of devices. [`GenericSocket`]
//! speaks generic netlink, to find out what devices can do.
//!
//! The packet crates' types end at this crate's edge: they encode our requests. What the kernel sends is read attribute
//! by attribute by readers of our own, because one surprising attribute (an alias that is not UTF-8, a number of
//! an unknown width) makes the packet crates refuse a whole message, and no message may be lost.
//!
//! A netlink socket belongs to the network namespace in which it was opened.
#![forbid(unsafe_code)]

mod addr;
mod attr;
mod channel;
mod error;
mod events;
mod extack;
mod frame;
mod generic;
mod link;
mod monitor;
mod neigh;
pub mod nft;
pub mod portprofile;
mod route;
mod socket;
pub mod tc;
mod uevent;
mod vf;

pub use addr::{Address, AddressFilter, NewAddress};
pub use error::{Error, KernelError};
pub use generic::GenericSocket;
pub use link::{
    BondOptions, BridgeOptions, BridgePort, BridgeSpec, BridgeVlans, IfbSpec, Link, LinkChange, MacvlanMode,
    MacvlanSpec, OperState, TunInfo, VethSpec, VlansOf,
};
pub use monitor::{Hint, LINK_GROUPS, Monitor, MonitorGroups};
pub use neigh::{FdbChange, FdbEntry};
pub use route::{NewRoute, Route, RouteFilter, TABLE_LOCAL, TABLE_MAIN};
pub use socket::{Dump, Request, Socket};
pub use uevent::DeviceMonitor;
pub use vf::{VfChange, VfLinkState, VfVlan, VirtualFunction};

/// Feeds bytes to every reader of kernel messages in this crate; for fuzzing, which looks for panics.
#[doc(hidden)]
pub fn fuzz_readers(bytes: &[u8]) {
    for frame in frame::Frames::new(bytes) {
        let Ok(frame) = frame else { break };
        fuzz_payload(frame.payload);
        let _ = monitor::classify(&frame);
        let _ = nft::classify(&frame);
    }
    fuzz_payload(bytes);
}

fn fuzz_payload(bytes: &[u8]) {
    let _ = link::read(bytes);
    let _ = link::read_vlans(bytes);
    let _ = addr::read(bytes);
    let _ = route::read(bytes);
    let _ = neigh::read(bytes);
    let _ = extack::read_error(bytes, 0);
    let _ = extack::read_error(bytes, u16::MAX);
    let _ = extack::read_done(bytes);
    let _ = vf::read(bytes);
    generic::fuzz_payload(bytes);
    let _ = portprofile::read_lldpad(bytes, &[0; 16]);
    let _ = portprofile::read_kernel(bytes, None);
    let _ = portprofile::read_kernel(bytes, Some(0));
    nft::fuzz_payload(bytes);
    tc::fuzz_payload(bytes);
}
