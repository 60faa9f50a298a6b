//! Splits a datagram into netlink messages.

use crate::attr::align;

/// Length of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;

/// One message of a datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    /// Message type.
    pub(crate) kind: u16,
    /// `NLM_F_*`.
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// The port of the socket whose request caused this; 0 for the kernel itself.
    pub(crate) port: u32,
    /// What follows the header, padding excluded.
    pub(crate) payload: &'a [u8],
}

/// The rest of a datagram cannot be split: a length that is smaller than a header or reaches past the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unframed;

/// Walks the messages of one datagram. A message that cannot be decoded later does not take its neighbours with it.
#[derive(Clone, Debug)]
pub(crate) struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    pub(crate) fn new(datagram: &'a [u8]) -> Self {
        Frames { rest: datagram }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, Unframed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let Some(header) = self.rest.first_chunk::<HEADER>() else {
            self.rest = &[];
            return Some(Err(Unframed));
        };
        let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = word(0) as usize;
        if length < HEADER || length > self.rest.len() {
            self.rest = &[];
            return Some(Err(Unframed));
        }
        let frame = Frame {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: word(8),
            port: word(12),
            payload: &self.rest[HEADER..length],
        };
        self.rest = self.rest.get(align(length)..).unwrap_or(&[]);
        Some(Ok(frame))
    }
}

/// Appends one message to the kernel to a buffer, padded to four bytes.
pub(crate) fn append(buffer: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, payload: &[u8]) {
    append_from(buffer, kind, flags, sequence, 0, payload);
}

/// The same with the sender's port, which the kernel knows by itself and a process may ask for.
pub(crate) fn append_from(buffer: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, port: u32, payload: &[u8]) {
    // A request is bounded by the socket's send buffer, far below 4 GiB.
    let length = (HEADER + payload.len()) as u32;
    buffer.extend_from_slice(&length.to_ne_bytes());
    buffer.extend_from_slice(&kind.to_ne_bytes());
    buffer.extend_from_slice(&flags.to_ne_bytes());
    buffer.extend_from_slice(&sequence.to_ne_bytes());
    buffer.extend_from_slice(&port.to_ne_bytes());
    buffer.extend_from_slice(payload);
    buffer.resize(align(buffer.len()), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_length_ends_the_datagram_and_says_so() {
        let mut bytes = Vec::new();
        append(&mut bytes, 16, 5, 7, &[1, 2, 3]);
        append(&mut bytes, 17, 0, 8, &[]);
        bytes.extend_from_slice(&[200, 0, 0, 0, 1]);
        let frames: Vec<_> = Frames::new(&bytes).collect();
        assert_eq!(frames.len(), 3);
        let first = frames[0].unwrap();
        assert_eq!((first.kind, first.flags, first.sequence, first.payload), (16, 5, 7, &[1u8, 2, 3][..]));
        assert_eq!(frames[1].unwrap().kind, 17);
        assert!(frames[2].is_err());
    }
}
