//! XDR (RFC 4506): big-endian, in units of four bytes, with the limits of libvirt's protocol.

use crate::RawUuid;

/// Bytes in a string at most.
pub const MAX_STRING: usize = 4 << 20;
/// Bytes in the buffer of a typed parameter's name at most.
const MAX_FIELD: usize = 80;

/// Bytes that are not what belongs there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They end too early.
    #[error("the message ends inside {0}")]
    Short(&'static str),
    /// There are more than belong there.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// A count or length is beyond its limit.
    #[error("{what}: {count} is more than {limit}")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// How many.
        count: u32,
        /// And may be.
        limit: usize,
    },
    /// A text is not UTF-8, or has a NUL in it.
    #[error("{0} is no text")]
    NoText(&'static str),
    /// A choice that there is not.
    #[error("{what}: there is no {value}")]
    NoSuch {
        /// What is chosen.
        what: &'static str,
        /// The number that was given.
        value: i32,
    },
}

/// A typed parameter (libvirt's `virTypedParameter`).
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name.
    pub field: String,
    /// Its value.
    pub value: Value,
}

/// A typed parameter's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `int`
    Int(i32),
    /// `unsigned int`
    Uint(u32),
    /// `long long`
    Llong(i64),
    /// `unsigned long long`
    Ullong(u64),
    /// `double`
    Double(f64),
    /// `boolean`
    Boolean(bool),
    /// `string`
    String(String),
}

/// Takes values from bytes, in order.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// From these.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// That nothing is left.
    ///
    /// # Errors
    /// [`Malformed::Trailing`].
    pub const fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Trailing(self.rest.len())) }
    }

    fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Malformed::Short(what))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        self.take(N, what)?.try_into().map_err(|_| Malformed::Short(what))
    }

    /// An unsigned number of 32 bits.
    ///
    /// # Errors
    /// [`Malformed::Short`], as of all that follow.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        self.array(what).map(u32::from_be_bytes)
    }

    /// A signed number of 32 bits.
    pub fn i32(&mut self, what: &'static str) -> Result<i32, Malformed> {
        self.array(what).map(i32::from_be_bytes)
    }

    /// An unsigned number of 64 bits.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        self.array(what).map(u64::from_be_bytes)
    }

    /// A signed number of 64 bits.
    pub fn i64(&mut self, what: &'static str) -> Result<i64, Malformed> {
        self.array(what).map(i64::from_be_bytes)
    }

    /// A UUID: 16 bytes as they are.
    pub fn uuid(&mut self, what: &'static str) -> Result<RawUuid, Malformed> {
        self.array(what)
    }

    /// The number of elements that follow, each of which has `least` bytes or more.
    ///
    /// # Errors
    /// [`Malformed::TooMany`] beyond `limit`; [`Malformed::Short`] for more than the bytes that are left can be.
    pub fn count(&mut self, limit: usize, least: usize, what: &'static str) -> Result<usize, Malformed> {
        let count = self.u32(what)?;
        if count as usize > limit {
            return Err(Malformed::TooMany { what, count, limit });
        }
        if count as usize * least > self.rest.len() {
            return Err(Malformed::Short(what));
        }
        Ok(count as usize)
    }

    /// A text.
    ///
    /// # Errors
    /// [`Malformed::TooMany`] beyond [`MAX_STRING`]; [`Malformed::NoText`].
    pub fn string(&mut self, what: &'static str) -> Result<String, Malformed> {
        self.string_within(MAX_STRING, what)
    }

    fn string_within(&mut self, limit: usize, what: &'static str) -> Result<String, Malformed> {
        let length = self.count(limit, 1, what)?;
        let bytes = self.take(length, what)?;
        self.take(length.wrapping_neg() % 4, what)?;
        let text = std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
        text.map(str::to_owned).ok_or(Malformed::NoText(what))
    }

    /// What may be missing.
    ///
    /// # Errors
    /// [`Malformed::NoSuch`] for what is neither there nor missing; those of `read`.
    pub fn option<T>(
        &mut self,
        what: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        match self.i32(what)? {
            0 => Ok(None),
            1 => read(self).map(Some),
            value => Err(Malformed::NoSuch { what, value }),
        }
    }

    /// Typed parameters.
    ///
    /// # Errors
    /// [`Malformed::NoSuch`] for a type that there is not; [`Malformed::TooMany`] beyond `limit`.
    pub fn parameters(&mut self, limit: usize, what: &'static str) -> Result<Vec<Parameter>, Malformed> {
        let count = self.count(limit, 12, what)?;
        (0..count).map(|_| self.parameter(what)).collect()
    }

    fn parameter(&mut self, what: &'static str) -> Result<Parameter, Malformed> {
        let field = self.string_within(MAX_FIELD, what)?;
        let value = match self.i32(what)? {
            1 => Value::Int(self.i32(what)?),
            2 => Value::Uint(self.u32(what)?),
            3 => Value::Llong(self.i64(what)?),
            4 => Value::Ullong(self.u64(what)?),
            5 => Value::Double(f64::from_bits(self.u64(what)?)),
            6 => Value::Boolean(self.i32(what)? != 0),
            7 => Value::String(self.string(what)?),
            value => return Err(Malformed::NoSuch { what, value }),
        };
        Ok(Parameter { field, value })
    }
}

/// Puts values into bytes, in order.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// An unsigned number of 32 bits.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// A signed number of 32 bits.
    pub fn i32(&mut self, value: i32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// An unsigned number of 64 bits.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// A signed number of 64 bits.
    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// A UUID.
    pub fn uuid(&mut self, value: RawUuid) -> &mut Self {
        self.raw(&value)
    }

    /// A text, of [`MAX_STRING`] bytes at most; of a longer one the beginning.
    pub fn string(&mut self, text: &str) -> &mut Self {
        let text = &text[..text.floor_char_boundary(MAX_STRING)];
        self.count(text.len()).raw(text.as_bytes());
        let padding = text.len().wrapping_neg() % 4;
        self.raw(&[0; 4][..padding])
    }

    /// What may be missing.
    pub fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) -> &mut Self {
        self.u32(u32::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
        self
    }

    /// A text that may be missing.
    pub fn text(&mut self, text: Option<&str>) -> &mut Self {
        self.option(text, |w, text| {
            w.string(text);
        })
    }

    /// The number of elements that follow.
    pub fn count(&mut self, count: usize) -> &mut Self {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Typed parameters.
    pub fn parameters(&mut self, parameters: &[Parameter]) -> &mut Self {
        self.count(parameters.len());
        for Parameter { field, value } in parameters {
            self.string(field);
            match value {
                Value::Int(value) => self.i32(1).i32(*value),
                Value::Uint(value) => self.i32(2).u32(*value),
                Value::Llong(value) => self.i32(3).i64(*value),
                Value::Ullong(value) => self.i32(4).u64(*value),
                Value::Double(value) => self.i32(5).u64(value.to_bits()),
                Value::Boolean(value) => self.i32(6).i32(i32::from(*value)),
                Value::String(value) => self.i32(7).string(value),
            };
        }
        self
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }
}
