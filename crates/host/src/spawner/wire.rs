//! Messages between daemon and spawner: fixed-size integers, and bytes behind their length.
//!
//! Both ends are the same executable, so there is no version; each message is one packet.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Longest message, in bytes; below the default size of a Unix socket's send buffer.
pub(super) const MAX_MESSAGE: usize = 192 << 10;

/// Builds a message.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes.push(value);
        self
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_ne_bytes());
        self
    }

    pub(super) fn i32(&mut self, value: i32) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_ne_bytes());
        self
    }

    pub(super) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.u64(value.len() as u64);
        self.bytes.extend_from_slice(value);
        self
    }

    pub(super) fn text(&mut self, value: impl AsRef<OsStr>) -> &mut Self {
        self.bytes(value.as_ref().as_bytes())
    }

    pub(super) fn list<T: AsRef<OsStr>>(&mut self, values: impl ExactSizeIterator<Item = T>) -> &mut Self {
        self.u64(values.len() as u64);
        for value in values {
            self.text(value);
        }
        self
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Takes a message apart; every method gives `None` when the message ends too early.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        Some(self.take::<1>()?[0])
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_ne_bytes(self.take()?))
    }

    pub(super) fn i32(&mut self) -> Option<i32> {
        Some(i32::from_ne_bytes(self.take()?))
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u64()?).ok()?;
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    pub(super) fn text(&mut self) -> Option<OsString> {
        Some(OsString::from_vec(self.bytes()?.to_vec()))
    }

    pub(super) fn list(&mut self) -> Option<Vec<OsString>> {
        let count = self.u64()?;
        // Nothing is allocated by what the message promises, only by what it holds.
        (0..count).map(|_| self.text()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_is_read_past_the_end() {
        let mut writer = Writer::default();
        writer.u8(7).u64(u64::MAX).i32(-3).bytes(b"\0\xff").list(["a", ""].iter());
        let message = writer.finish();
        let read = |message: &[u8]| {
            let mut reader = Reader::new(message);
            Some((reader.u8()?, reader.u64()?, reader.i32()?, reader.bytes()?.to_vec(), reader.list()?))
        };
        let expected = (7, u64::MAX, -3, b"\0\xff".to_vec(), vec![OsString::from("a"), OsString::new()]);
        assert_eq!(read(&message), Some(expected));
        for length in 0..message.len() {
            assert_eq!(read(&message[..length]), None, "{length}");
        }
        assert_eq!(Reader::new(&u64::MAX.to_ne_bytes()).list(), None);
    }
}
