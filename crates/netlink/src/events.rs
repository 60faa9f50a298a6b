//! A socket that listens to the kernel's announcements.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::channel::{KERNEL, MSG_DONTWAIT, NLMSG_OVERRUN, ReceiveError, enlarge, receive_datagram, wait};
use crate::error::Error;
use crate::frame::{Frame, Frames};

const RECEIVE_BUFFER: usize = 64 * 1024;
/// Room in the kernel for announcements that we have not read yet: some ten thousand link messages.
const SOCKET_BUFFER: usize = 32 * 1024 * 1024;
/// Datagrams read in one go, so that a flood does not keep the caller from its other work.
const DATAGRAMS: usize = 1024;
const WHAT: &str = "listen to the kernel";

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Events {
    socket: netlink_sys::Socket,
    buffer: Vec<u8>,
}

impl Events {
    /// Opens a socket of this netlink protocol that receives these groups. Extended acknowledgements do not matter here.
    pub(crate) fn open(protocol: isize, groups: &[u32]) -> Result<Self, Error> {
        let mut socket = netlink_sys::Socket::new(protocol).map_err(Error::Open)?;
        enlarge(&socket, SOCKET_BUFFER);
        socket.bind_auto().map_err(Error::Open)?;
        for group in groups {
            socket.add_membership(*group).map_err(Error::Open)?;
        }
        Ok(Events { socket, buffer: vec![0; RECEIVE_BUFFER] })
    }

    /// Waits for announcements (`None`: as long as it takes) and gives each message to `each`, or a reason when messages
    /// were lost. Returns without any when the time is over.
    pub(crate) fn receive(
        &mut self,
        timeout: Option<Duration>,
        mut each: impl FnMut(Result<&Frame<'_>, &'static str>),
    ) -> Result<(), Error> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        if !wait(&self.socket, deadline).map_err(|source| Error::Receive { request: WHAT, source })? {
            return Ok(());
        }
        for _ in 0..DATAGRAMS {
            match receive_datagram(&self.socket, KERNEL, &mut self.buffer, MSG_DONTWAIT) {
                Ok(length) => {
                    for frame in Frames::new(&self.buffer[..length]) {
                        match frame {
                            Ok(frame) if frame.kind == NLMSG_OVERRUN => each(Err("the kernel ran out of room")),
                            Ok(frame) => each(Ok(&frame)),
                            Err(_) => each(Err("a message could not be framed")),
                        }
                    }
                }
                Err(ReceiveError::Truncated) => each(Err("a message was longer than the buffer")),
                Err(ReceiveError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(ReceiveError::Io(error))
                    if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) =>
                {
                    each(Err("announcements came faster than they were read"));
                }
                Err(ReceiveError::Io(source)) => return Err(Error::Receive { request: WHAT, source }),
            }
        }
        Ok(())
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
