//! DNS questions and answers as bytes (RFC 1035, 2782, 3596), for guests and for tests that ask from a namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// The question's transaction where a socket asks only one.
const ID: u16 = 0x1234;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsKind {
    /// IPv4 addresses.
    A = 1,
    /// The name of an address.
    Ptr = 12,
    /// Texts.
    Txt = 16,
    /// IPv6 addresses.
    Aaaa = 28,
    /// Who serves.
    Srv = 33,
}

/// One record of an answer. (Names have no dot at their end.)
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum DnsRecord {
    /// A or AAAA.
    Address(IpAddr),
    /// PTR or CNAME.
    Name(String),
    /// TXT: its strings.
    Text(Vec<String>),
    /// SRV.
    Service {
        /// Smaller is asked first.
        priority: u16,
        /// The share among those of equal priority.
        weight: u16,
        /// The port.
        port: u16,
        /// The host; nothing where there is no such service.
        target: String,
    },
    /// Any other: its type.
    Other(u16),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsAnswer {
    /// 0 for no error, 3 for no such name, 5 for refused.
    pub rcode: u8,
    /// The records, in the server's order.
    pub records: Vec<DnsRecord>,
}

/// Asks a server from the calling thread's network namespace, again every half second.
///
/// # Errors
/// If nobody answered in time, or the question can't be sent.
pub fn ask_dns(server: SocketAddr, name: &str, kind: DnsKind, deadline: Duration) -> io::Result<DnsAnswer> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let question = question(name, kind, ID).map_err(io::Error::other)?;
    let end = Instant::now() + deadline;
    let mut buffer = [0; 4096];
    while Instant::now() < end {
        // A server that is not there yet is one that doesn't answer.
        let received = socket.send(&question).and_then(|_| socket.recv(&mut buffer));
        match received {
            Ok(count) => {
                if let Some(answer) = parse(&buffer[..count], ID) {
                    return Ok(answer);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer from {server} for {name} within {deadline:?}")))
}

/// The question for one name, of that transaction; or what is wrong with the name.
pub(crate) fn question(name: &str, kind: DnsKind, id: u16) -> Result<Vec<u8>, String> {
    // Recursion desired, one question.
    let mut bytes = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.trim_end_matches('.').split('.') {
        match u8::try_from(label.len()) {
            Ok(len @ 1..=63) => bytes.push(len),
            _ => return Err(format!("{name} is no DNS name")),
        }
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend((kind as u16).to_be_bytes());
    bytes.extend([0, 1]);
    Ok(bytes)
}

/// The answer to the question of that transaction; `None` for anything else.
pub(crate) fn parse(bytes: &[u8], id: u16) -> Option<DnsAnswer> {
    let mut reader = Reader { bytes, at: 0 };
    let header: Vec<u16> = (0..6).map(|_| reader.number()).collect::<Option<_>>()?;
    if header[0] != id || header[1] & 0x8000 == 0 {
        return None;
    }
    for _ in 0..header[2] {
        reader.name()?;
        reader.take(4)?;
    }
    let records = (0..header[3]).map(|_| reader.record()).collect::<Option<_>>()?;
    Some(DnsAnswer { rcode: (header[1] & 15) as u8, records })
}

/// A place in a message.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    /// A name, which may go on elsewhere.
    fn name(&mut self) -> Option<String> {
        let mut labels = Vec::new();
        loop {
            let len = usize::from(self.take(1)?[0]);
            if len == 0 {
                return Some(labels.join("."));
            }
            if len < 64 {
                labels.push(String::from_utf8_lossy(self.take(len)?).into_owned());
                continue;
            }
            let there = (len & 63) << 8 | usize::from(self.take(1)?[0]);
            // Only what comes before: so it ends.
            let rest = Reader { bytes: self.bytes.get(..self.at - 2)?, at: there }.name()?;
            labels.extend((!rest.is_empty()).then_some(rest));
            return Some(labels.join("."));
        }
    }

    fn record(&mut self) -> Option<DnsRecord> {
        self.name()?;
        let kind = self.number()?;
        self.take(6)?; // class and time to live
        let len = usize::from(self.number()?);
        let data = self.bytes.get(self.at..self.at + len)?;
        let mut inner = Reader { bytes: &self.bytes[..self.at + len], at: self.at };
        self.at += len;
        Some(match kind {
            1 => DnsRecord::Address(<[u8; 4]>::try_from(data).ok()?.into()),
            28 => DnsRecord::Address(<[u8; 16]>::try_from(data).ok()?.into()),
            5 | 12 => DnsRecord::Name(inner.name()?),
            16 => {
                let mut strings = Vec::new();
                while inner.at < inner.bytes.len() {
                    let len = inner.take(1)?[0];
                    strings.push(String::from_utf8_lossy(inner.take(len.into())?).into_owned());
                }
                DnsRecord::Text(strings)
            }
            33 => DnsRecord::Service {
                priority: inner.number()?,
                weight: inner.number()?,
                port: inner.number()?,
                target: inner.name()?,
            },
            other => DnsRecord::Other(other),
        })
    }
}
