//! DNS questions over UDP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use smoltcp::socket::udp;
use smoltcp::wire::IpEndpoint;

use super::{Guest, GuestError};
use crate::dns::{DnsKind, DnsRecord, parse, question};

impl Guest {
    /// Asks `server` for the IPv4 addresses of `name`. No record of the kind is an empty list.
    ///
    /// # Errors
    /// `Timeout`; `Dns` for an answer with an error code.
    pub fn resolve(&mut self, name: &str, server: IpAddr, deadline: Duration) -> Result<Vec<Ipv4Addr>, GuestError> {
        let all = self.query(name, DnsKind::A, server, deadline)?;
        let address = |r| if let DnsRecord::Address(IpAddr::V4(ip)) = r { Some(ip) } else { None };
        Ok(all.into_iter().filter_map(address).collect())
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
        let all = self.query(name, DnsKind::Aaaa, server, deadline)?;
        let address = |r| if let DnsRecord::Address(IpAddr::V6(ip)) = r { Some(ip) } else { None };
        Ok(all.into_iter().filter_map(address).collect())
    }

    /// Asks `server` for records of `name`. None of the kind is an empty list.
    ///
    /// # Errors
    /// `Timeout`; `Dns` for an answer with an error code.
    pub fn query(
        &mut self,
        name: &str,
        kind: DnsKind,
        server: IpAddr,
        deadline: Duration,
    ) -> Result<Vec<DnsRecord>, GuestError> {
        self.source(server)?;
        let (handle, id) = self.udp_socket();
        let question = question(name, kind, id).map_err(GuestError::CannotSend)?;
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
        let answer = answer?;
        let rcode = match answer.rcode {
            0 => return Ok(answer.records),
            2 => "ServFail".to_owned(),
            3 => "NXDomain".to_owned(),
            5 => "Refused".to_owned(),
            other => format!("error {other}"),
        };
        Err(GuestError::Dns { name: name.to_owned(), rcode })
    }
}
