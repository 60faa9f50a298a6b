//! Echo requests, IPv4 and IPv6.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use smoltcp::iface::SocketHandle;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::icmp;
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr};

use super::{Guest, GuestError};

const PAYLOAD: &[u8] = b"patchcord";

/// A socket that sends echo requests to one address and hears the answers.
pub(super) struct Pinger {
    socket: SocketHandle,
    target: IpAddr,
    ident: u16,
}

impl Guest {
    /// Pings `ip`, five times a second, until it answers; returns that round trip's time.
    ///
    /// # Errors
    /// `Timeout`, or `CannotSend` without a matching address.
    pub fn ping(&mut self, ip: IpAddr, deadline: Duration) -> Result<Duration, GuestError> {
        self.source(ip)?;
        let pinger = self.open_pinger(ip);
        let mut sent: Vec<Instant> = Vec::new();
        let answer = self.until(
            || format!("echo reply from {ip}"),
            deadline,
            |guest| {
                if let Some(seq) = guest.pong(&pinger) {
                    return sent.get(usize::from(seq)).map(Instant::elapsed);
                }
                if sent.last().is_none_or(|at| at.elapsed() >= Duration::from_millis(200)) {
                    guest.send_ping(&pinger, u16::try_from(sent.len()).unwrap_or(u16::MAX));
                    sent.push(Instant::now());
                }
                None
            },
        );
        self.sockets.remove(pinger.socket);
        answer
    }

    pub(super) fn open_pinger(&mut self, target: IpAddr) -> Pinger {
        let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 64], vec![0; 8192]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        let ident = self.next_number();
        // A fresh socket and an identifier that is not 0 are all that bind asks for.
        let _ = socket.bind(icmp::Endpoint::Ident(ident));
        let socket = self.sockets.add(socket);
        Pinger { socket, target, ident }
    }

    pub(super) fn close_pinger(&mut self, pinger: Pinger) {
        self.sockets.remove(pinger.socket);
    }

    /// Queues one request. A full queue (the target's MAC is not known yet) loses it, as a network would.
    pub(super) fn send_ping(&mut self, pinger: &Pinger, seq_no: u16) {
        let Ok(source) = self.source(pinger.target) else {
            return;
        };
        let checksums = ChecksumCapabilities::default();
        let ident = pinger.ident;
        let data = PAYLOAD;
        let socket = self.sockets.get_mut::<icmp::Socket<'_>>(pinger.socket);
        match (source, pinger.target) {
            (_, IpAddr::V4(_)) => {
                let echo = Icmpv4Repr::EchoRequest { ident, seq_no, data };
                if let Ok(buffer) = socket.send(echo.buffer_len(), pinger.target.into()) {
                    echo.emit(&mut Icmpv4Packet::new_unchecked(buffer), &checksums);
                }
            }
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                let echo = Icmpv6Repr::EchoRequest { ident, seq_no, data };
                if let Ok(buffer) = socket.send(echo.buffer_len(), target.into()) {
                    let mut packet = Icmpv6Packet::new_unchecked(buffer);
                    echo.emit(&source, &target, &mut packet, &checksums);
                }
            }
            (IpAddr::V4(_), IpAddr::V6(_)) => {}
        }
    }

    /// The sequence number of the next answer that has come from the target.
    pub(super) fn pong(&mut self, pinger: &Pinger) -> Option<u16> {
        let source = self.source(pinger.target).ok()?;
        let checksums = ChecksumCapabilities::default();
        let socket = self.sockets.get_mut::<icmp::Socket<'_>>(pinger.socket);
        while let Ok((payload, from)) = socket.recv() {
            if IpAddr::from(from) != pinger.target {
                continue;
            }
            match (source, pinger.target) {
                (_, IpAddr::V4(_)) => {
                    let packet = Icmpv4Packet::new_checked(payload).ok()?;
                    let answer = Icmpv4Repr::parse(&packet, &checksums);
                    if let Ok(Icmpv4Repr::EchoReply { seq_no, data: PAYLOAD, .. }) = answer {
                        return Some(seq_no);
                    }
                }
                (IpAddr::V6(source), IpAddr::V6(target)) => {
                    let packet = Icmpv6Packet::new_checked(payload).ok()?;
                    let answer = Icmpv6Repr::parse(&target, &source, &packet, &checksums);
                    if let Ok(Icmpv6Repr::EchoReply { seq_no, data: PAYLOAD, .. }) = answer {
                        return Some(seq_no);
                    }
                }
                (IpAddr::V4(_), IpAddr::V6(_)) => {}
            }
        }
        None
    }
}
