//! One connection to ovsdb-server: JSON-RPC 1.0 as RFC 7047 (section 4) has it, within a time and a size.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_json::de::IoRead;
use serde_json::{Deserializer, StreamDeserializer, Value, json};

use crate::{Error, Result};

/// Most bytes that are read from one connection. 10,000 ports of ours, with all that can be set, are 15 MiB.
const ANSWERS_LIMIT: usize = 24 << 20;

/// How long ovsdb-server may take to say that a `wait` was in vain.
const GRACE: Duration = Duration::from_secs(1);

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
    /// When what was asked for must have happened.
    deadline: Instant,
    last_id: u64,
}

impl Connection {
    /// Connects; all that is asked for on this connection must have happened within `time`.
    pub(super) fn open(socket: &Path, time: Duration) -> Result<Self> {
        let deadline = Instant::now() + time;
        let stream = connect(socket, time).map_err(Error::ovs_socket("connect to", socket))?;
        let copy = stream.try_clone().map_err(Error::ovs_socket("connect to", socket))?;
        let wire = |stream| Wire { stream, deadline: deadline + GRACE, left: ANSWERS_LIMIT };
        let messages = Deserializer::from_reader(BufReader::with_capacity(64 << 10, wire(copy))).into_iter();
        Ok(Self { socket: socket.to_owned(), wire: wire(stream), messages, deadline, last_id: 0 })
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
            match message.get("method").and_then(Value::as_str) {
                // The server asks whether we live (section 4.1.11).
                Some("echo") => {
                    self.send(&json!({"result": message["params"], "error": null, "id": message["id"]}))?;
                }
                // Nothing else is ours to answer, and we asked for no notifications.
                Some(_) => {}
                None if message["id"] == id => return Ok(message),
                None => return Err(self.odd("an answer to what was not asked".to_owned())),
            }
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

/// Connecting waits while the server's queue is full, so that has a limit, too.
fn connect(path: &Path, time: Duration) -> io::Result<UnixStream> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(time.max(Duration::from_millis(1))))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?).map_err(|errno| timed_out(errno.into()))?;
    Ok(UnixStream::from(socket))
}

/// Others' words, not too many of them.
pub(super) fn words(text: &str) -> String {
    text.chars().take(WORDS_LIMIT).collect()
}

/// A socket's timeout shows as "try again".
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

/// The socket, with an end to the time and to the bytes that are read.
struct Wire {
    stream: UnixStream,
    deadline: Instant,
    left: usize,
}

impl Wire {
    fn remaining(&self) -> io::Result<Option<Duration>> {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(remaining)) }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(self.left);
        if room == 0 {
            return Err(io::Error::other(format!("more than {} MiB", ANSWERS_LIMIT >> 20)));
        }
        self.stream.set_read_timeout(self.remaining()?)?;
        let length = self.stream.read(&mut buffer[..room]).map_err(timed_out)?;
        self.left -= length;
        Ok(length)
    }
}

impl Write for Wire {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.remaining()?)?;
        self.stream.write(buffer).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
