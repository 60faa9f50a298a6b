//! Packets: a length that counts itself, six numbers, and a payload.

use crate::xdr::{Reader, Writer};

/// Bytes of a packet at most, its length included.
pub const MAX_FRAME: usize = (32 << 20) + 4;
/// Bytes that a decoder keeps room for.
const KEPT: usize = 64 * 1024;
/// Bytes before the payload.
pub const HEADER: usize = 28;

/// The program of networks, interfaces and devices.
pub const REMOTE: u32 = 0x2000_8086;
/// The program of signs of life.
pub const KEEPALIVE: u32 = 0x6b65_6570;
/// The one version of both.
pub const VERSION: u32 = 1;
/// keepalive: is anybody there?
pub const PING: i32 = 1;
/// keepalive: yes.
pub const PONG: i32 = 2;

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A client asks.
    Call,
    /// It is answered.
    Reply,
    /// Somebody tells, and expects no answer.
    Message,
    /// Any other that the protocol knows (streams, descriptors), by number.
    Other(i32),
}

impl Kind {
    const fn of(number: i32) -> Self {
        match number {
            0 => Self::Call,
            1 => Self::Reply,
            2 => Self::Message,
            other => Self::Other(other),
        }
    }

    const fn number(self) -> i32 {
        match self {
            Self::Call => 0,
            Self::Reply => 1,
            Self::Message => 2,
            Self::Other(number) => number,
        }
    }
}

/// How a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// As asked.
    Ok,
    /// Not at all: the payload is an error.
    Error,
}

/// What stands before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which program.
    pub program: u32,
    /// Its version.
    pub version: u32,
    /// Which of its procedures.
    pub procedure: i32,
    /// What the packet is.
    pub kind: Kind,
    /// The caller's number for its call.
    pub serial: u32,
    /// How the call went; [`Status::Ok`] for all that is no reply.
    pub status: Status,
}

impl Header {
    /// That of an answer to this one.
    #[must_use]
    pub const fn answer(self, status: Status) -> Self {
        Self { kind: Kind::Reply, status, ..self }
    }
}

/// A packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Its bytes. A payload that is too long for a packet is an error of the caller's, and cut.
    pub fn encode(&self) -> Vec<u8> {
        let payload = &self.payload[..self.payload.len().min(MAX_FRAME - HEADER)];
        let Header { program, version, procedure, kind, serial, status } = self.header;
        let mut w = Writer::default();
        w.count(HEADER + payload.len()).u32(program).u32(version).i32(procedure);
        w.i32(kind.number()).u32(serial).i32(i32::from(status == Status::Error));
        w.raw(payload);
        w.into_bytes()
    }
}

/// A length that no packet has. The connection is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a packet of {0} bytes")]
pub struct BadLength(pub u32);

/// Takes packets from bytes as they come.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Bytes of the buffer that have been taken.
    taken: usize,
    longest: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::within(MAX_FRAME)
    }
}

impl Decoder {
    /// One that takes packets of that many bytes at most, their length included.
    pub fn within(longest: usize) -> Self {
        Self { buffer: Vec::new(), taken: 0, longest: longest.min(MAX_FRAME) }
    }

    /// Takes longer packets from now on, or only shorter ones.
    pub fn limit(&mut self, longest: usize) {
        self.longest = longest.min(MAX_FRAME);
    }

    /// More bytes came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..std::mem::take(&mut self.taken));
        // What one long packet took is not kept for the short ones that follow.
        self.buffer.shrink_to(self.buffer.len().max(KEPT));
        self.buffer.extend_from_slice(bytes);
    }

    /// The next packet, when all of it is there.
    ///
    /// # Errors
    /// [`BadLength`], as soon as a length is there.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, BadLength> {
        let there = &self.buffer[self.taken..];
        let Some(length) = there.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)) else { return Ok(None) };
        let size = length as usize;
        if !(HEADER..=self.longest).contains(&size) {
            return Err(BadLength(length));
        }
        let Some(whole) = there.get(..size) else { return Ok(None) };
        let mut r = Reader::new(&whole[4..]);
        let mut word = || r.i32("the header").unwrap_or_default();
        let (program, version, procedure, kind) = (word() as u32, word() as u32, word(), Kind::of(word()));
        let (serial, status) = (word() as u32, if word() == 1 { Status::Error } else { Status::Ok });
        let header = Header { program, version, procedure, kind, serial, status };
        let payload = whole[HEADER..].to_vec();
        self.taken += size;
        Ok(Some(Frame { header, payload }))
    }

    /// Whether no packet has begun.
    pub fn is_between(&self) -> bool {
        self.buffer.len() == self.taken
    }
}
