//! One connection to ovsdb-server: JSON-RPC 1.0 as RFC 7047 (section 4) has it, within a time and a size.
//!
//! Only for updates of what is monitored the wait is without end, until somebody calls: see [`Bell`].

use std::collections::VecDeque;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::de::IoRead;
use serde_json::{Deserializer, StreamDeserializer, Value, json};

use super::bell::Bell;
use super::wire::{Limits, Wire, connect};
use crate::{Error, Result};

/// Most characters of others' words in an error of ours.
const WORDS_LIMIT: usize = 500;

/// What came of a transaction.
pub(super) enum Answer {
    /// It was carried out: the result of each operation.
    Done(Vec<Value>),
    /// Nothing of it was.
    Refused(Refusal),
}

/// Why a transaction was not carried out.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The RFC's string: "timed out", "constraint violation".
    kind: String,
    /// What ovsdb-server adds, for people.
    details: String,
}

impl Refusal {
    /// Whether a `wait` was in vain.
    pub(super) fn is_timeout(&self) -> bool {
        self.kind == "timed out"
    }

    /// Whether others may have changed what we had read.
    pub(super) fn is_conflict(&self) -> bool {
        self.is_timeout() || self.kind == "constraint violation"
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let separator = if self.details.is_empty() { "" } else { ": " };
        write!(f, "{}{separator}{}", self.kind, self.details)
    }
}

/// A connection.
pub(super) struct Connection {
    socket: PathBuf,
    wire: Wire,
    messages: StreamDeserializer<'static, IoRead<BufReader<Wire>>, Value>,
    limits: Rc<Limits>,
    /// When what was asked for must have happened.
    deadline: Instant,
    time: Duration,
    last_id: u64,
    /// Updates that came while something else was waited for.
    updates: VecDeque<Value>,
}

impl Connection {
    /// Connects; all that is asked for on this connection must have happened within `time`.
    pub(super) fn open(socket: &Path, time: Duration) -> Result<Self> {
        Self::open_with(socket, time, None)
    }

    /// The same for a connection that is kept; the bell ends waiting for updates.
    pub(super) fn open_for_updates(socket: &Path, time: Duration, bell: Arc<Bell>) -> Result<Self> {
        Self::open_with(socket, time, Some(bell))
    }

    fn open_with(socket: &Path, time: Duration, bell: Option<Arc<Bell>>) -> Result<Self> {
        let deadline = Instant::now() + time;
        let stream = connect(socket, time).map_err(Error::ovs_socket("connect to", socket))?;
        let copy = stream.try_clone().map_err(Error::ovs_socket("connect to", socket))?;
        let limits = Rc::new(Limits::new(time, bell));
        let wire = |stream| Wire::new(stream, Rc::clone(&limits));
        let messages = Deserializer::from_reader(BufReader::with_capacity(64 << 10, wire(copy))).into_iter();
        let (socket, wire, updates) = (socket.to_owned(), wire(stream), VecDeque::new());
        Ok(Self { socket, wire, messages, limits, deadline, time, last_id: 0, updates })
    }

    /// What is asked for from now on has as much time and size as if the connection were new.
    pub(super) fn renew(&mut self) {
        self.deadline = Instant::now() + self.time;
        self.limits.renew();
    }

    /// Has the server tell of changes to rows, as `requests` say (ovsdb-server(7), 4.1.12 `monitor_cond`); gives those that
    /// are there.
    pub(super) fn monitor(&mut self, requests: Value) -> Result<Value> {
        let mut reply = self.call("monitor_cond", vec![super::DATABASE.into(), Value::Null, requests])?;
        match reply.get_mut("result").map(Value::take) {
            Some(rows) if rows.is_object() => Ok(rows),
            _ => Err(self.odd(format!("it does not let us watch: {}", words(&reply["error"].to_string())))),
        }
    }

    /// The next update of what is monitored: the tables with changed rows. Waits until there is one, or somebody says that
    /// there is nothing to wait for any more, which is an error.
    pub(super) fn update(&mut self) -> Result<Value> {
        loop {
            if let Some(mut update) = self.updates.pop_front() {
                let tables = update.pointer_mut("/params/1").map(Value::take).filter(Value::is_object);
                return tables.ok_or_else(|| self.odd("an update without tables".to_owned()));
            }
            self.limits.lift();
            let message = self.receive()?;
            self.renew();
            self.heard(message)?;
        }
    }

    /// Whether there are updates that were heard already.
    pub(super) fn has_updates(&self) -> bool {
        !self.updates.is_empty()
    }

    /// Carries out the operations, all or none.
    pub(super) fn transact(&mut self, operations: &[Value]) -> Result<Answer> {
        let mut params = vec![Value::from(super::DATABASE)];
        params.extend_from_slice(operations);
        let mut reply = self.call("transact", params)?;
        let odd = |what: &str| self.odd(format!("the answer to a transaction {what}"));
        let error = &reply["error"];
        if !error.is_null() {
            return Err(self.odd(format!("a transaction was refused: {}", words(&error.to_string()))));
        }
        let Some(Value::Array(results)) = reply.get_mut("result").map(Value::take) else {
            return Err(odd("has no results"));
        };
        let failed = results.iter().find_map(|result| Some((result, result.get("error")?.as_str()?)));
        if let Some((result, kind)) = failed {
            let details = result["details"].as_str().unwrap_or_default();
            return Ok(Answer::Refused(Refusal { kind: words(kind), details: words(details) }));
        }
        if results.len() != operations.len() {
            return Err(odd(&format!("has {} results for {} operations", results.len(), operations.len())));
        }
        Ok(Answer::Done(results))
    }

    /// Sends a request and waits for its reply.
    fn call(&mut self, method: &str, params: Vec<Value>) -> Result<Value> {
        self.last_id += 1;
        let id = Value::from(self.last_id);
        self.send(&json!({"method": method, "params": params, "id": id}))?;
        loop {
            let message = self.receive()?;
            if message.get("method").is_none() && message["id"] == id {
                return Ok(message);
            }
            self.heard(message)?;
        }
    }

    /// A message that is not the reply to what was asked.
    fn heard(&mut self, message: Value) -> Result<()> {
        match message.get("method").and_then(Value::as_str) {
            // The server asks whether we live (section 4.1.11).
            Some("echo") => self.send(&json!({"result": message["params"], "error": null, "id": message["id"]})),
            Some("update2") => {
                self.updates.push_back(message);
                Ok(())
            }
            // Nothing else is ours to answer.
            Some(_) => Ok(()),
            None => Err(self.odd("an answer to what was not asked".to_owned())),
        }
    }

    fn send(&mut self, message: &Value) -> Result<()> {
        self.wire.write_all(message.to_string().as_bytes()).map_err(Error::ovs_socket("ask", &self.socket))
    }

    fn receive(&mut self) -> Result<Value> {
        match self.messages.next() {
            Some(Ok(message)) if message.is_object() => Ok(message),
            Some(Ok(_)) => Err(self.odd("a message that is no JSON object".to_owned())),
            Some(Err(error)) if error.is_syntax() || error.is_data() => Err(self.odd(format!("no JSON: {error}"))),
            Some(Err(error)) => Err(Error::ovs_socket("get an answer from", &self.socket)(io::Error::from(error))),
            None => {
                let closed = io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection");
                Err(Error::ovs_socket("get an answer from", &self.socket)(closed))
            }
        }
    }

    /// How much time is left.
    pub(super) fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// That an answer can't be used.
    pub(super) fn odd(&self, problem: String) -> Error {
        Error::OvsAnswer { socket: self.socket.clone(), problem }
    }
}

/// Others' words, not too many of them.
pub(super) fn words(text: &str) -> String {
    text.chars().take(WORDS_LIMIT).collect()
}
