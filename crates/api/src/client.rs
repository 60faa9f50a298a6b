//! A client that blocks: one call at a time, with the descriptors that its replies bring.

use crate::error::{ClientError, Refusal};
use crate::event::Monitored;
use crate::frame::{self, Decoder};
use crate::message::{Call, Reply};
use crate::methods::{Method, Monitor};
use crate::{INTERFACE, MAX_REPLY, socket};
use serde_json::Value;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    decoder: Decoder,
    fds: VecDeque<OwnedFd>,
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream =
            UnixStream::connect(path).map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
        Ok(Self { stream, decoder: Decoder::new(MAX_REPLY), fds: VecDeque::new() })
    }

    /// Calls a method and waits for its answer.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with what the daemon says; everything else is a broken connection.
    pub fn call<M: Method>(&mut self, method: &M) -> Result<M::Reply, ClientError> {
        self.send(method, false)?;
        let reply = self.receive()?;
        // Descriptors of an answer that does not speak of them are nobody's.
        self.fds.clear();
        Ok(serde_json::from_value(answer(reply)?)?)
    }

    /// Calls a method whose answer brings descriptors, and gives those that `places` finds in it.
    ///
    /// # Errors
    /// As [`Client::call`], and [`ClientError::Descriptors`].
    pub fn call_with_fds<M: Method>(
        &mut self,
        method: &M,
        places: impl FnOnce(&M::Reply) -> Vec<usize>,
    ) -> Result<(M::Reply, Vec<OwnedFd>), ClientError> {
        self.send(method, false)?;
        let reply = self.receive()?;
        let came: Vec<OwnedFd> = self.fds.drain(..).collect();
        let value = serde_json::from_value(answer(reply)?)?;
        let (places, got) = (places(&value), came.len());
        let mut came: Vec<Option<OwnedFd>> = came.into_iter().map(Some).collect();
        let fds = places.iter().map(|place| came.get_mut(*place).and_then(Option::take)).collect::<Option<Vec<_>>>();
        let fds = fds.ok_or(ClientError::Descriptors { wanted: places.len(), got })?;
        Ok((value, fds))
    }

    /// Calls `Monitor` and gives each message to `take`, until that says stop or the connection ends.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn monitor<E: From<ClientError>>(
        mut self,
        mut take: impl FnMut(Monitored) -> Result<bool, E>,
    ) -> Result<(), E> {
        self.send(&Monitor {}, true)?;
        loop {
            let reply = self.receive()?;
            let more = reply.continues;
            let message = serde_json::from_value(answer(reply)?).map_err(ClientError::from)?;
            if !take(message)? || !more {
                return Ok(());
            }
        }
    }

    fn send<M: Method>(&mut self, method: &M, more: bool) -> Result<(), ClientError> {
        let call = Call {
            method: format!("{INTERFACE}.{}", M::NAME),
            parameters: without_nulls(serde_json::to_value(method)?),
            more,
            oneway: false,
            upgrade: false,
        };
        let bytes = frame::encode(&call)?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match socket::send(&self.stream, rest, &[]) {
                Ok(sent) => rest = &rest[sent..],
                Err(error) => return Err(self.refused_early().unwrap_or_else(|| error.into())),
            }
        }
        Ok(())
    }

    /// What the daemon said of a message before it had ended: it answers, and closes the connection.
    fn refused_early(&mut self) -> Option<ClientError> {
        let answer = self.receive().and_then(answer);
        answer.err().filter(|error| matches!(error, ClientError::Refused { .. }))
    }

    fn receive(&mut self) -> Result<Reply, ClientError> {
        loop {
            if let Some(message) = self.decoder.message()? {
                return Ok(serde_json::from_slice(message)?);
            }
            let (mut bytes, mut fds) = ([0; 64 * 1024], Vec::new());
            let count = socket::receive(&self.stream, &mut bytes, &mut fds)?;
            self.fds.extend(fds);
            if count == 0 {
                return Err(ClientError::Closed);
            }
            self.decoder.push(&bytes[..count]);
        }
    }
}

/// Parameters that were not given are left out.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(fields.into_iter().filter(|(_, value)| !value.is_null()).collect()),
        other => other,
    }
}

/// A reply's parameters, or the error that it is.
fn answer(reply: Reply) -> Result<Value, ClientError> {
    let Some(error) = reply.error else { return Ok(reply.parameters) };
    let foreign = |parameters: &Value| ClientError::Foreign(format!("{error} {parameters}"));
    let Some(name) = error.strip_prefix(INTERFACE).and_then(|rest| rest.strip_prefix('.')) else {
        return Err(foreign(&reply.parameters));
    };
    let refusal: Refusal = serde_json::from_value(reply.parameters.clone()).map_err(|_| foreign(&reply.parameters))?;
    Err(ClientError::Refused { name: name.to_owned(), refusal: Box::new(refusal) })
}
