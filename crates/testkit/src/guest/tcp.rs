//! TCP: a client of an echo service, and that service.

use std::net::IpAddr;
use std::time::Duration;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;

use super::{Guest, GuestError};

/// Connections that one echo service serves at a time.
const ECHO_SOCKETS: usize = 4;

impl Guest {
    /// Connects to `ip`, sends `payload` and returns what comes back, until it is as much.
    ///
    /// # Errors
    /// `Timeout`; `Reset`; `CannotSend` without a matching address.
    pub fn tcp_echo_client(
        &mut self,
        ip: IpAddr,
        port: u16,
        payload: &[u8],
        deadline: Duration,
    ) -> Result<Vec<u8>, GuestError> {
        self.source(ip)?;
        let local = self.next_number();
        let mut socket = new_socket();
        socket
            .connect(self.interface.context(), (ip, port), local)
            .map_err(|error| GuestError::CannotSend(error.to_string()))?;
        let handle = self.sockets.add(socket);
        let (mut sent, mut received) = (0, Vec::new());
        let outcome = self.until(
            || format!("echo from {ip} port {port}"),
            deadline,
            |guest| {
                let socket = guest.sockets.get_mut::<tcp::Socket<'_>>(handle);
                if socket.can_send() && sent < payload.len() {
                    sent += socket.send_slice(&payload[sent..]).unwrap_or(0);
                }
                while socket.can_recv() {
                    let read = socket.recv(|data| (data.len(), received.extend_from_slice(data)));
                    if read.is_err() {
                        break;
                    }
                }
                if received.len() >= payload.len() && socket.may_send() {
                    Some(true)
                } else {
                    // Refused or reset, or closed by the peer before everything came back.
                    let ended = matches!(socket.state(), tcp::State::Closed | tcp::State::CloseWait);
                    ended.then_some(false)
                }
            },
        );
        self.close_tcp(handle);
        match outcome? {
            true => Ok(received),
            false => Err(GuestError::Reset { peer: format!("{ip} port {port}"), bytes: received.len() }),
        }
    }

    /// Says goodbye to the peer, for at most 100 ms, and forgets the connection.
    fn close_tcp(&mut self, handle: SocketHandle) {
        self.sockets.get_mut::<tcp::Socket<'_>>(handle).close();
        // A peer that does not answer is no concern of the caller's, who has its result.
        let _ = self.until(String::new, Duration::from_millis(100), |guest| {
            let state = guest.sockets.get::<tcp::Socket<'_>>(handle).state();
            matches!(state, tcp::State::Closed | tcp::State::TimeWait | tcp::State::FinWait2).then_some(())
        });
        self.sockets.remove(handle);
    }

    /// Begins to echo what connections to `port` send, while the guest's stack works.
    pub fn tcp_server(&mut self, port: u16) {
        for _ in 0..ECHO_SOCKETS {
            let handle = self.sockets.add(new_socket());
            self.echo_servers.push((port, handle));
        }
        self.echo();
    }

    /// Moves data of the echo services.
    pub(super) fn echo(&mut self) {
        for (port, handle) in &self.echo_servers {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(*handle);
            if !socket.is_open() {
                // A closed socket and a port that is not 0 are all that listen asks for.
                let _ = socket.listen(*port);
            }
            let room = socket.send_capacity() - socket.send_queue();
            if room > 0 && socket.can_recv() && socket.may_send() {
                let data = socket.recv(|data| {
                    let len = data.len().min(room);
                    (len, data[..len].to_vec())
                });
                if let Ok(data) = data {
                    let _ = socket.send_slice(&data);
                }
            } else if socket.state() == tcp::State::CloseWait && !socket.can_recv() {
                socket.close();
            }
        }
    }
}

fn new_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; 65_535]);
    tcp::Socket::new(buffer(), buffer())
}
