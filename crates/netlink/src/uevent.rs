//! The kernel's announcements of devices (`NETLINK_KOBJECT_UEVENT`), which udev listens to, too.
//!
//! Links are announced by rtnetlink. PCI functions come and go by nothing else than this; they are no network
//! namespace's, and announced in each.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::channel::{KERNEL, MSG_DONTWAIT, ReceiveError, enlarge, receive_datagram, wait};
use crate::error::Error;

/// The kernel's own announcements; group 2 has what udev makes of them.
const GROUP: u32 = 1;
/// `UEVENT_BUFFER_SIZE` and room for the path before that.
const RECEIVE_BUFFER: usize = 8 * 1024;
/// Room in the kernel: some thousand announcements.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// Datagrams read in one go.
const DATAGRAMS: usize = 256;
const WHAT: &str = "listen to the kernel";

/// A socket that listens for devices of one subsystem.
#[derive(Debug)]
pub struct DeviceMonitor {
    socket: netlink_sys::Socket,
    subsystem: Vec<u8>,
    buffer: Vec<u8>,
}

impl DeviceMonitor {
    /// Opens a socket in the calling thread's network namespace. What happens from now on to devices of this subsystem
    /// (such as `pci`) is announced.
    ///
    /// # Errors
    /// [`Error::Open`].
    pub fn open(subsystem: &str) -> Result<Self, Error> {
        let mut socket =
            netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_KOBJECT_UEVENT).map_err(Error::Open)?;
        enlarge(&socket, SOCKET_BUFFER);
        socket.bind_auto().map_err(Error::Open)?;
        socket.add_membership(GROUP).map_err(Error::Open)?;
        let subsystem = format!("SUBSYSTEM={subsystem}").into_bytes();
        Ok(Self { socket, subsystem, buffer: vec![0; RECEIVE_BUFFER] })
    }

    /// Waits for announcements (`None`: as long as it takes). True when a device of the subsystem came, went or changed, or
    /// when announcements were lost; false when the time is over or others were all there was.
    ///
    /// # Errors
    /// [`Error::Receive`].
    pub fn receive(&mut self, timeout: Option<Duration>) -> Result<bool, Error> {
        let failed = |source| Error::Receive { request: WHAT, source };
        if !wait(&self.socket, timeout.map(|timeout| Instant::now() + timeout)).map_err(failed)? {
            return Ok(false);
        }
        let mut concerned = false;
        for _ in 0..DATAGRAMS {
            match receive_datagram(&self.socket, KERNEL, &mut self.buffer, MSG_DONTWAIT) {
                Ok(length) => concerned |= self.is_concerned(&self.buffer[..length]),
                Err(ReceiveError::Truncated) => concerned = true,
                Err(ReceiveError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(ReceiveError::Io(error)) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                    concerned = true;
                }
                Err(ReceiveError::Io(source)) => return Err(failed(source)),
            }
        }
        Ok(concerned)
    }

    /// An announcement is `ACTION@PATH` and then `KEY=VALUE`, each with a NUL behind it.
    fn is_concerned(&self, announcement: &[u8]) -> bool {
        announcement.split(|byte| *byte == 0).any(|field| field == self.subsystem)
    }
}

impl AsFd for DeviceMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
