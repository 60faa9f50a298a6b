//! DNS questions over UDP (RFC 1035).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use smoltcp::socket::udp;
use smoltcp::wire::{
    DnsFlags, DnsOpcode, DnsPacket, DnsQueryType, DnsQuestion, DnsRcode, DnsRecord, DnsRecordData, DnsRepr, IpEndpoint,
};

use super::{Guest, GuestError};

impl Guest {
    /// Asks `server` for the IPv4 addresses of `name`. No record of the kind is an empty list.
    ///
    /// # Errors
    /// `Timeout`; `Dns` for an answer with an error code.
    pub fn resolve(&mut self, name: &str, server: IpAddr, deadline: Duration) -> Result<Vec<Ipv4Addr>, GuestError> {
        let all = self.query(name, DnsQueryType::A, server, deadline)?;
        Ok(all.into_iter().filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None }).collect())
    }

    /// Asks `server` for the IPv6 addresses of `name`. No record of the kind is an empty list.
    ///
    /// # Errors
    /// `Timeout`; `Dns` for an answer with an error code.
    pub fn resolve_ipv6(
        &mut self,
        name: &str,
        server: IpAddr,
        deadline: Duration,
    ) -> Result<Vec<Ipv6Addr>, GuestError> {
        let all = self.query(name, DnsQueryType::Aaaa, server, deadline)?;
        Ok(all.into_iter().filter_map(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None }).collect())
    }

    fn query(
        &mut self,
        name: &str,
        kind: DnsQueryType,
        server: IpAddr,
        deadline: Duration,
    ) -> Result<Vec<IpAddr>, GuestError> {
        self.source(server)?;
        let id = self.next_number();
        let question = question(name, kind, id)?;
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 8192]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        // A fresh socket and a port that is not 0 are all that bind asks for.
        let _ = socket.bind(id);
        let handle = self.sockets.add(socket);
        let mut asked: Option<Instant> = None;
        let answer = self.until(
            || format!("answer from DNS server {server} for {name}"),
            deadline,
            |guest| {
                let socket = guest.sockets.get_mut::<udp::Socket<'_>>(handle);
                while let Ok((bytes, from)) = socket.recv() {
                    let answer = parse(bytes, id).filter(|_| IpAddr::from(from.endpoint.addr) == server);
                    if answer.is_some() {
                        return answer;
                    }
                }
                if asked.is_none_or(|at| at.elapsed() >= Duration::from_millis(500)) {
                    asked = Some(Instant::now());
                    // A full queue is a lost question: the next one follows.
                    let _ = socket.send_slice(&question, IpEndpoint::new(server.into(), 53));
                }
                None
            },
        );
        self.sockets.remove(handle);
        answer?.map_err(|rcode| GuestError::Dns { name: name.to_owned(), rcode: format!("{rcode:?}") })
    }
}

fn question(name: &str, type_: DnsQueryType, id: u16) -> Result<Vec<u8>, GuestError> {
    let mut encoded = Vec::new();
    for label in name.trim_end_matches('.').split('.') {
        match u8::try_from(label.len()) {
            Ok(len @ 1..=63) => encoded.push(len),
            _ => return Err(GuestError::CannotSend(format!("{name} is no DNS name"))),
        }
        encoded.extend_from_slice(label.as_bytes());
    }
    encoded.push(0);
    let repr = DnsRepr {
        transaction_id: id,
        opcode: DnsOpcode::Query,
        flags: DnsFlags::RECURSION_DESIRED,
        question: DnsQuestion { name: &encoded, type_ },
    };
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut DnsPacket::new_unchecked(bytes.as_mut_slice()));
    Ok(bytes)
}

/// The addresses in the answer to question `id`, or its error code; `None` for anything else.
fn parse(bytes: &[u8], id: u16) -> Option<Result<Vec<IpAddr>, DnsRcode>> {
    let packet = DnsPacket::new_checked(bytes).ok()?;
    if packet.transaction_id() != id || !packet.flags().contains(DnsFlags::RESPONSE) {
        return None;
    }
    if packet.rcode() != DnsRcode::NoError {
        return Some(Err(packet.rcode()));
    }
    let (mut rest, _) = DnsQuestion::parse(packet.payload()).ok()?;
    let mut addresses = Vec::new();
    for _ in 0..packet.answer_record_count() {
        let (next, record) = DnsRecord::parse(rest).ok()?;
        rest = next;
        match record.data {
            DnsRecordData::A(ip) => addresses.push(ip.into()),
            DnsRecordData::Aaaa(ip) => addresses.push(ip.into()),
            DnsRecordData::Cname(_) | DnsRecordData::Other(..) => {}
        }
    }
    Some(Ok(addresses))
}
