//! A process with which others exchange netlink messages, as lldpad is one.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, getsockname, recvfrom, sendto, socket_with,
};

/// More than any message of the tests.
const MESSAGE: usize = 16 << 10;

/// So that a test which has failed elsewhere ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// A NETLINK_ROUTE socket with a known port, in the network namespace in which it was made.
#[derive(Debug)]
pub struct NetlinkPeer {
    fd: OwnedFd,
    port: u32,
}

impl NetlinkPeer {
    /// Takes this port, or any when it is 0.
    ///
    /// # Panics
    /// If it is taken.
    pub fn bind(port: u32) -> Self {
        let open = || {
            // The protocol's number is 0, which rustix has no name for.
            let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
            bind(&fd, &SocketAddrNetlink::new(port, 0))?;
            set_socket_timeout(&fd, Timeout::Recv, Some(PATIENCE))?;
            let port = SocketAddrNetlink::try_from(getsockname(&fd)?)?.pid();
            Ok::<_, rustix::io::Errno>(NetlinkPeer { fd, port })
        };
        open().unwrap_or_else(|error| panic!("netlink port {port}: {error}"))
    }

    /// The port.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Has the kernel keep no more than about so many bytes that were not received yet.
    ///
    /// # Panics
    /// If it refuses.
    pub fn limit(&self, bytes: usize) {
        set_socket_recv_buffer_size(&self.fd, bytes)
            .unwrap_or_else(|error| panic!("netlink port {}: {error}", self.port));
    }

    /// Waits for the next datagram and returns it with its sender's port.
    ///
    /// # Panics
    /// If the socket fails, or nothing comes within a minute.
    pub fn receive(&self) -> (Vec<u8>, u32) {
        let mut buffer = vec![0; MESSAGE];
        let received = recvfrom(&self.fd, &mut buffer, RecvFlags::empty());
        let (_, length, from) = received.unwrap_or_else(|error| panic!("netlink port {}: {error}", self.port));
        buffer.truncate(length);
        let from = from.and_then(|from| SocketAddrNetlink::try_from(from).ok()).map(|from| from.pid());
        (buffer, from.unwrap_or(0))
    }

    /// Sends a datagram to the socket with that port.
    ///
    /// # Errors
    /// The kernel's; ECONNREFUSED when there is no such socket, or it speaks with another one only.
    pub fn send(&self, to: u32, datagram: &[u8]) -> std::io::Result<()> {
        sendto(&self.fd, datagram, SendFlags::empty(), &SocketAddrNetlink::new(to, 0))?;
        Ok(())
    }

    /// Acknowledges a request as lldpad 1.1 does, or refuses it with this error number.
    ///
    /// # Panics
    /// If the request is shorter than its header, or its sender has gone.
    pub fn acknowledge(&self, to: u32, request: &[u8], errno: i32) {
        let payload = [&(-errno).to_ne_bytes()[..], &request[..16]].concat();
        self.answer(to, request, 2, &payload);
    }

    /// Answers a request with a message of this type.
    ///
    /// # Panics
    /// As [`NetlinkPeer::acknowledge`].
    pub fn answer(&self, to: u32, request: &[u8], kind: u16, payload: &[u8]) {
        let length = (16 + payload.len()) as u32;
        let mut message = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 2]].concat();
        // Sequence number and port as they came.
        message.extend(&request[8..16]);
        message.extend(payload);
        self.send(to, &message).unwrap_or_else(|error| panic!("netlink port {to}: {error}"));
    }
}
