//! A blocking netlink socket: sends requests, sorts the answers by sequence number.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use netlink_sys::SocketAddr;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::Error;
use crate::extack;
use crate::frame::{self, Frame, Frames};

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_ECHO: u16 = 0x8;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
const NLM_F_DUMP_INTR: u16 = 0x10;

pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;
pub(crate) const NLMSG_OVERRUN: u16 = 4;

/// The kernel never puts more than 32 KiB into one datagram of a dump; twice that also holds big single messages.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// Room in the kernel for answers that we have not read yet: acknowledgements of a batch cost about 1 KiB each.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
const MSG_TRUNC: i32 = rustix::net::RecvFlags::TRUNC.bits() as i32;
pub(crate) const MSG_DONTWAIT: i32 = rustix::net::RecvFlags::DONTWAIT.bits() as i32;

const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// The port of the kernel itself.
pub(crate) const KERNEL: u32 = 0;

/// A netlink socket for requests, connected to the kernel or to the one process that has a port.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: netlink_sys::Socket,
    port: u32,
    peer: u32,
    /// Until when answers are waited for. The kernel always answers, a process may not.
    deadline: Option<Instant>,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One datagram that could not be received whole.
#[derive(Debug)]
pub(crate) enum ReceiveError {
    /// The system's error.
    Io(io::Error),
    /// Longer than the buffer.
    Truncated,
}

/// How an interrupted dump ended: whether every part of it belongs to one state of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consistency {
    Whole,
    Interrupted,
}

impl Channel {
    /// Opens a socket of this netlink protocol with extended and capped acknowledgements, and strict checking of dump
    /// requests (without it the kernel ignores their filters), to the kernel or to who plays it.
    pub(crate) fn open(protocol: isize, peer: u32) -> Result<Self, Error> {
        let channel = Self::open_to(protocol, peer)?;
        channel.socket.set_ext_ack(true).map_err(Error::Open)?;
        channel.socket.set_cap_ack(true).map_err(Error::Open)?;
        channel.socket.set_netlink_get_strict_chk(true).map_err(Error::Open)?;
        enlarge(&channel.socket, SOCKET_BUFFER);
        Ok(channel)
    }

    /// Opens a socket of this netlink protocol that exchanges messages with this port and with no other.
    pub(crate) fn open_to(protocol: isize, peer: u32) -> Result<Self, Error> {
        let mut socket = netlink_sys::Socket::new(protocol).map_err(Error::Open)?;
        let port = socket.bind_auto().map_err(Error::Open)?.port_number();
        socket.connect(&SocketAddr::new(peer, 0)).map_err(Error::Open)?;
        Ok(Channel { socket, port, peer, deadline: None, sequence: 0, buffer: vec![0; RECEIVE_BUFFER] })
    }

    /// Waits until then, and no longer, for room in the peer's receive buffer and for its answers. What comes later is an
    /// error of the kind `TimedOut`.
    pub(crate) fn set_deadline(&mut self, deadline: Instant) -> Result<(), Error> {
        use rustix::net::sockopt::{Timeout, set_socket_timeout};
        // No time at all would mean no limit.
        let left = deadline.saturating_duration_since(Instant::now()).max(SHORTEST_WAIT);
        set_socket_timeout(&self.socket, Timeout::Send, Some(left)).map_err(|error| Error::Open(error.into()))?;
        self.deadline = Some(deadline);
        Ok(())
    }

    /// The socket's port, unique in its namespace while it is open.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Numbers for `count` requests in a row; never 0, which the kernel uses for its own announcements.
    pub(crate) fn sequences(&mut self, count: u32) -> u32 {
        if self.sequence.checked_add(count).is_none() {
            self.sequence = 0;
        }
        let first = self.sequence + 1;
        self.sequence += count;
        first
    }

    /// Hands whole messages to the peer in one call.
    pub(crate) fn send(&self, request: &'static str, bytes: &[u8]) -> Result<(), Error> {
        let sent = retry(|| self.socket.send(bytes, 0)).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => Error::Send { request, source: io::ErrorKind::TimedOut.into() },
            _ => Error::Send { request, source },
        })?;
        if sent == bytes.len() {
            return Ok(());
        }
        Err(Error::Send { request, source: io::ErrorKind::WriteZero.into() })
    }

    /// Waits for the next datagram from the peer and gives its messages to `each`, until `each` says that it has all
    /// it waited for.
    pub(crate) fn receive(
        &mut self,
        request: &'static str,
        mut each: impl FnMut(&Frame<'_>) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let flags = if self.deadline.is_some() { MSG_DONTWAIT } else { 0 };
        let mut late = false;
        loop {
            if let Some(deadline) = self.deadline {
                let there = wait(&self.socket, deadline.into()).map_err(|source| Error::Receive { request, source })?;
                if !there || late {
                    return Err(Error::Receive { request, source: io::ErrorKind::TimedOut.into() });
                }
                // What has come by now is looked at; what else may come is not waited for.
                late = Instant::now() >= deadline;
            }
            let length = match receive_datagram(&self.socket, self.peer, &mut self.buffer, flags) {
                Ok(length) => length,
                Err(ReceiveError::Io(source)) if source.kind() == io::ErrorKind::WouldBlock => continue,
                Err(ReceiveError::Io(source)) => return Err(Error::Receive { request, source }),
                Err(ReceiveError::Truncated) => {
                    return Err(Error::Answer { request, what: "longer than the receive buffer" });
                }
            };
            for frame in Frames::new(&self.buffer[..length]) {
                let frame = frame.map_err(|_| Error::Answer { request, what: "not a netlink message" })?;
                if frame.kind == NLMSG_OVERRUN {
                    return Err(Error::Answer { request, what: "incomplete, the kernel ran out of room" });
                }
                if each(&frame)? {
                    return Ok(());
                }
            }
        }
    }

    /// Sends a dump request and gives every message of the answer to `each`.
    pub(crate) fn dump(
        &mut self,
        request: &'static str,
        kind: u16,
        body: &[u8],
        fixed_header: usize,
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<Consistency, Error> {
        let sequence = self.sequences(1);
        let mut bytes = Vec::with_capacity(frame::HEADER + body.len());
        frame::append(&mut bytes, kind, NLM_F_REQUEST | NLM_F_DUMP | NLM_F_ACK, sequence, body);
        self.send(request, &bytes)?;
        let mut consistency = Consistency::Whole;
        self.receive(request, |frame| {
            if frame.sequence != sequence {
                return Ok(false);
            }
            if frame.flags & NLM_F_DUMP_INTR != 0 {
                consistency = Consistency::Interrupted;
            }
            let result = match frame.kind {
                NLMSG_DONE => extack::read_done(frame.payload),
                NLMSG_ERROR => extack::read_error(frame.payload, frame.flags),
                kind => {
                    each(kind, frame.payload);
                    return Ok(false);
                }
            };
            result.map_err(|mut source| {
                extack::locate(&mut source, &bytes, fixed_header);
                Error::Kernel { request, source }
            })?;
            Ok(true)
        })?;
        Ok(consistency)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Asks for a larger receive buffer, beyond the system's limit where we may.
pub(crate) fn enlarge(socket: &netlink_sys::Socket, bytes: usize) {
    // Without CAP_NET_ADMIN the ordinary, capped size is the best there is; overruns are handled where they happen.
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, bytes).is_err() {
        let _ = socket.set_rx_buf_sz(bytes as i32);
    }
}

/// Waits until a datagram is there, at most until the deadline (`None`: as long as it takes); false when it has passed.
pub(crate) fn wait(socket: &netlink_sys::Socket, deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(socket, PollFlags::IN)], left.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads one datagram sent by this port into the buffer and returns its length. Datagrams of others, who may address
/// our port, are passed over.
pub(crate) fn receive_datagram(
    socket: &netlink_sys::Socket,
    from: u32,
    buffer: &mut [u8],
    flags: i32,
) -> Result<usize, ReceiveError> {
    loop {
        let mut room = &mut *buffer;
        let (length, sender) = retry(|| socket.recv_from(&mut room, MSG_TRUNC | flags)).map_err(ReceiveError::Io)?;
        if sender.port_number() != from {
            continue;
        }
        if length > buffer.len() {
            return Err(ReceiveError::Truncated);
        }
        return Ok(length);
    }
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
