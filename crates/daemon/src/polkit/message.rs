//! D-Bus's messages, as far as one kind of call and its answer need them (D-Bus specification, "Message Protocol").
//!
//! Of what comes, only lengths within [`MAX_MESSAGE`] are believed, and nothing is allocated by them.

use std::fmt;

/// Bytes of a message that is taken, its header included. The answers that are waited for have some hundred.
pub(super) const MAX_MESSAGE: usize = 64 * 1024;
/// Bytes at the beginning of each message that say how long it is.
pub(super) const PREFIX: usize = 16;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;

/// Header fields.
mod field {
    pub(super) const PATH: u8 = 1;
    pub(super) const INTERFACE: u8 = 2;
    pub(super) const MEMBER: u8 = 3;
    pub(super) const ERROR_NAME: u8 = 4;
    pub(super) const REPLY_SERIAL: u8 = 5;
    pub(super) const DESTINATION: u8 = 6;
    pub(super) const SIGNATURE: u8 = 8;
}

/// Whom a call is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) destination: &'static str,
    pub(super) path: &'static str,
    pub(super) interface: &'static str,
    pub(super) member: &'static str,
}

/// Arguments of a call, and their types.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) signature: &'static str,
    pub(super) bytes: Writer,
}

/// A call's bytes.
pub(super) fn call(serial: u32, target: Target, arguments: &Arguments) -> Vec<u8> {
    let mut w = Writer::default();
    let body = &arguments.bytes.0;
    w.0.extend([b'l', METHOD_CALL, 0, 1]);
    w.u32(length(body.len())).u32(serial);
    w.array(8, |w| {
        let fields = [
            (field::PATH, "o", target.path),
            (field::DESTINATION, "s", target.destination),
            (field::INTERFACE, "s", target.interface),
            (field::MEMBER, "s", target.member),
        ];
        for (code, kind, value) in fields {
            w.align(8).0.push(code);
            w.signature(kind).string(value);
        }
        if !arguments.signature.is_empty() {
            w.align(8).0.push(field::SIGNATURE);
            w.signature("g").signature(arguments.signature);
        }
    });
    w.align(8).0.extend(body);
    w.0
}

/// Puts values together, little-endian and aligned from the first byte on.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn align(&mut self, to: usize) -> &mut Self {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.align(4).0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn i32(&mut self, value: i32) -> &mut Self {
        self.align(4).0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.align(8).0.extend(value.to_le_bytes());
        self
    }

    /// A text. It must have no NUL in it.
    pub(super) fn string(&mut self, text: &str) -> &mut Self {
        self.u32(length(text.len()));
        self.0.extend(text.as_bytes());
        self.0.push(0);
        self
    }

    /// The types of what follows.
    pub(super) fn signature(&mut self, text: &'static str) -> &mut Self {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
        self
    }

    /// An array of what `fill` puts, whose elements are aligned so.
    pub(super) fn array(&mut self, element: usize, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.u32(0);
        let at = self.0.len();
        self.align(element);
        let start = self.0.len();
        fill(self);
        let bytes = length(self.0.len() - start).to_le_bytes();
        self.0[at - 4..at].copy_from_slice(&bytes);
        self
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// That what came is no message, or not the one that belongs there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

/// How many bytes the message has that begins so.
pub(super) fn size(prefix: &[u8; PREFIX]) -> Result<usize, Malformed> {
    let mut r = Reader::new(prefix, prefix[0])?;
    r.skip(4)?;
    let (body, _serial, fields) = (r.u32()?, r.u32()?, r.u32()?);
    let [body, fields] = [body, fields].map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    let size = fields.saturating_add(PREFIX).checked_next_multiple_of(8).and_then(|header| header.checked_add(body));
    size.filter(|size| *size <= MAX_MESSAGE).ok_or(Malformed("a message is too long"))
}

/// An answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer<'a> {
    /// What the method returned: its types, and the values.
    Return(&'a str, Reader<'a>),
    /// An error's name, and what it says.
    Error(&'a str, &'a str),
}

/// The answer to the call of that number; nothing if the message is something else.
pub(super) fn answer(message: &[u8], to: u32) -> Result<Option<Answer<'_>>, Malformed> {
    let mut r = Reader::new(message, *message.first().ok_or(SHORT)?)?;
    r.skip(1)?;
    let kind = r.byte()?;
    if kind != METHOD_RETURN && kind != ERROR {
        return Ok(None);
    }
    r.skip(2 + 8)?;
    let end = r.end_of_array(8)?;
    let (mut name, mut reply_to, mut signature) = ("", None, "");
    while r.at < end {
        r.align(8)?;
        let (code, of) = (r.byte()?, r.signature()?);
        match (code, of) {
            (field::REPLY_SERIAL, "u") => reply_to = Some(r.u32()?),
            (field::ERROR_NAME, "s") => name = r.string()?,
            (field::SIGNATURE, "g") => signature = r.signature()?,
            (_, "s" | "o") => drop(r.string()?),
            (_, "g") => drop(r.signature()?),
            (_, "u") => drop(r.u32()?),
            _ => return Err(Malformed("a header has a field of a strange type")),
        }
    }
    if reply_to != Some(to) {
        return Ok(None);
    }
    r.align(8)?;
    Ok(Some(match kind {
        ERROR => Answer::Error(name, if signature.starts_with('s') { r.string()? } else { "" }),
        _ => Answer::Return(signature, r),
    }))
}

const SHORT: Malformed = Malformed("a message ends too early");

/// Takes values from a message, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], order: u8) -> Result<Self, Malformed> {
        match order {
            b'l' | b'B' => Ok(Self { bytes, at: 0, big_endian: order == b'B' }),
            _ => Err(Malformed("what came is no message of D-Bus's")),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(SHORT)?;
        let taken = self.bytes.get(self.at..end).ok_or(SHORT)?;
        self.at = end;
        Ok(taken)
    }

    fn skip(&mut self, count: usize) -> Result<(), Malformed> {
        self.take(count).map(drop)
    }

    fn align(&mut self, to: usize) -> Result<(), Malformed> {
        self.skip(self.at.next_multiple_of(to) - self.at)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.take(1)?.first().copied().ok_or(SHORT)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.align(4)?;
        let bytes = *self.take(4)?.first_chunk().ok_or(SHORT)?;
        Ok(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// A truth value.
    pub(super) fn boolean(&mut self) -> Result<bool, Malformed> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("a truth value is neither true nor false")),
        }
    }

    fn text(&mut self, length: usize) -> Result<&'a str, Malformed> {
        let text = self.take(length)?;
        self.skip(1)?;
        std::str::from_utf8(text).map_err(|_| Malformed("a text is not UTF-8"))
    }

    /// A text.
    pub(super) fn string(&mut self) -> Result<&'a str, Malformed> {
        let length = self.u32()?;
        self.text(usize::try_from(length).map_err(|_| SHORT)?)
    }

    fn signature(&mut self) -> Result<&'a str, Malformed> {
        let length = self.byte()?;
        self.text(length.into())
    }

    /// Where an array ends that begins here; its elements are aligned so.
    fn end_of_array(&mut self, element: usize) -> Result<usize, Malformed> {
        let length = usize::try_from(self.u32()?).map_err(|_| SHORT)?;
        self.align(element)?;
        self.at.checked_add(length).filter(|end| *end <= self.bytes.len()).ok_or(SHORT)
    }

    /// Pairs of texts.
    pub(super) fn pairs(&mut self) -> Result<Vec<(&'a str, &'a str)>, Malformed> {
        let end = self.end_of_array(8)?;
        let mut pairs = Vec::new();
        while self.at < end {
            self.align(8)?;
            pairs.push((self.string()?, self.string()?));
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What polkitd 122 answered through dbus-daemon 1.14 for an action that takes a password, after its header's fields
    /// for who sent it.
    fn verdict() -> Vec<u8> {
        let mut body = Writer::default();
        body.u32(0).u32(1).array(8, |w| {
            w.align(8).string("polkit.retains_authorization_after_challenge").string("1");
        });
        let mut w = Writer::default();
        w.0.extend([b'l', METHOD_RETURN, 1, 1]);
        w.u32(length(body.0.len())).u32(7);
        w.array(8, |w| {
            w.align(8).0.push(field::REPLY_SERIAL);
            w.signature("u").u32(2);
            w.align(8).0.push(field::SIGNATURE);
            w.signature("g").signature("(bba{ss})");
            w.align(8).0.push(7);
            w.signature("s").string(":1.1");
        });
        w.align(8).0.extend(body.0);
        w.0
    }

    #[test]
    fn answers_are_told_from_others() {
        let message = verdict();
        assert_eq!(size(message.first_chunk().unwrap()), Ok(message.len()));
        assert_eq!(answer(&message, 3), Ok(None));
        let Ok(Some(Answer::Return("(bba{ss})", mut r))) = answer(&message, 2) else { panic!("{message:?}") };
        assert_eq!((r.boolean(), r.boolean()), (Ok(false), Ok(true)));
        assert_eq!(r.pairs(), Ok(vec![("polkit.retains_authorization_after_challenge", "1")]));
    }

    #[test]
    fn lengths_are_not_believed() {
        let mut message = verdict();
        message[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(size(message.first_chunk().unwrap()).is_err() && answer(&message, 2).is_err());
        message[0] = b'x';
        assert!(size(message.first_chunk().unwrap()).is_err());
        let target = Target { destination: "a.b", path: "/", interface: "a.b", member: "C" };
        let called = call(1, target, &Arguments::default());
        assert_eq!((size(called.first_chunk().unwrap()), answer(&called, 1)), (Ok(called.len()), Ok(None)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), places in
            proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6))
        {
            let _ = answer(&bytes, 2);
            bytes = verdict();
            for (place, value) in places {
                let at = place.index(bytes.len());
                bytes[at] = value;
            }
            if let Ok(Some(Answer::Return(_, mut r))) = answer(&bytes, 2) {
                let _ = (r.boolean(), r.boolean(), r.pairs());
            }
        }
    }
}
