//! Announcing a guest for which we hold no queue of the tap: from the bridge, by a packet socket.
//!
//! The frame goes out of every port of the bridge, so that the switches behind its uplink learn where the guest is.
//! The bridge itself forgot the guest's old place when the tap left the bridge it was in.

use std::os::fd::OwnedFd;

use patchcord_core::plan::Index;
use rustix::io::{Errno, Result};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sendto, socket_with};

use crate::{sys, tap};

/// A socket that sends frames and receives none.
#[derive(Debug)]
pub(crate) struct Announcer {
    socket: OwnedFd,
}

impl Announcer {
    /// Opens it in the caller's network namespace.
    pub(crate) fn open() -> Result<Self> {
        // Without a protocol the kernel gives it no frames.
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket })
    }

    /// Sends a RARP request of this address out of a link.
    pub(crate) fn announce(&self, link: Index, mac: [u8; 6]) -> Result<()> {
        let frame = tap::rarp_request(mac);
        let index = i32::try_from(link.0).map_err(|_| Errno::RANGE)?;
        sendto(&self.socket, &frame, SendFlags::DONTWAIT, &sys::LinkAddress { index }).map(drop)
    }
}
