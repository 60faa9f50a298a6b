//! varlink's framing: JSON objects, each ended by a NUL byte.

use std::ops::Range;

/// Cuts a stream of bytes into messages. It never holds more than its limit and what was read at once.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Where the first message that was not taken yet begins.
    start: usize,
    /// How far we looked for its end.
    searched: usize,
    limit: usize,
}

/// A message that is longer than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message is longer than {0} bytes")]
pub struct TooLong(
    /// The limit, in bytes.
    pub usize,
);

impl Decoder {
    /// A decoder of messages of at most `limit` bytes, the NUL not counted.
    pub fn new(limit: usize) -> Self {
        Self { buffer: Vec::new(), start: 0, searched: 0, limit }
    }

    /// Takes more of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message, if it has come entirely.
    pub fn message(&mut self) -> Result<Option<&[u8]>, TooLong> {
        Ok(self.take()?.map(|range| &self.buffer[range]))
    }

    /// Bytes that were pushed and not given out yet.
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Whether the stream may end here: between two messages.
    pub fn is_between(&self) -> bool {
        self.pending() == 0
    }

    fn take(&mut self) -> Result<Option<Range<usize>>, TooLong> {
        let Some(length) = self.buffer[self.searched..].iter().position(|byte| *byte == 0) else {
            self.searched = self.buffer.len();
            if self.pending() > self.limit {
                return Err(TooLong(self.limit));
            }
            if self.pending() == 0 {
                // A large message's memory is not kept for the small ones that follow.
                *self = Self::new(self.limit);
            }
            return Ok(None);
        };
        let range = self.start..self.searched + length;
        if range.len() > self.limit {
            return Err(TooLong(self.limit));
        }
        self.start = range.end + 1;
        self.searched = self.start;
        Ok(Some(range))
    }
}

/// A value as a message, with its NUL.
pub fn encode(message: &impl serde::Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = serde_json::to_vec(message)?;
    bytes.push(0);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(decoder: &mut Decoder) -> Result<Vec<Vec<u8>>, TooLong> {
        let mut messages = Vec::new();
        while let Some(message) = decoder.message()? {
            messages.push(message.to_vec());
        }
        Ok(messages)
    }

    #[test]
    fn a_message_longer_than_the_limit_is_refused_before_it_has_ended() {
        let mut decoder = Decoder::new(4);
        decoder.push(b"1234\0");
        assert_eq!(decoder.message(), Ok(Some(&b"1234"[..])));
        decoder.push(b"12345");
        assert_eq!(decoder.message(), Err(TooLong(4)));
        let mut decoder = Decoder::new(4);
        decoder.push(b"1234567\0");
        assert_eq!(decoder.message(), Err(TooLong(4)));
    }

    proptest! {
        /// However a stream is cut into reads, the same messages come out, and nothing is kept that was given out.
        #[test]
        fn cuts_do_not_matter(
            messages in prop::collection::vec(prop::collection::vec(1u8.., 0..40), 0..12),
            rest in prop::collection::vec(1u8.., 0..40),
            cuts in prop::collection::vec(1usize..30, 1..60),
        ) {
            let mut stream: Vec<u8> = messages.iter().flat_map(|m| m.iter().copied().chain([0])).collect();
            stream.extend(&rest);
            let (mut decoder, mut seen, mut left) = (Decoder::new(40), Vec::new(), &stream[..]);
            for cut in cuts.iter().cycle() {
                if left.is_empty() {
                    break;
                }
                let (now, later) = left.split_at((*cut).min(left.len()));
                decoder.push(now);
                seen.extend(all(&mut decoder).unwrap());
                left = later;
            }
            prop_assert_eq!(seen, messages);
            prop_assert_eq!(decoder.pending(), rest.len());
        }

        /// Whatever comes: no panic, and never more in memory than the limit and one read.
        #[test]
        fn random_bytes_stay_within_the_limit(reads in prop::collection::vec(prop::collection::vec(0u8..4, 0..64), 0..40)) {
            let mut decoder = Decoder::new(32);
            for read in reads {
                decoder.push(&read);
                match all(&mut decoder) {
                    Ok(messages) => prop_assert!(messages.iter().all(|m| m.len() <= 32 && !m.contains(&0))),
                    Err(TooLong(_)) => break,
                }
                prop_assert!(decoder.pending() <= 32);
            }
        }
    }
}
