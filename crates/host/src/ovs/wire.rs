//! The socket of a connection, with an end to the time and to the bytes that are read.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::bell::Bell;

/// Most bytes that are read from one connection, or for one update. 10,000 ports of ours, with all that can be set, are 15
/// MiB.
const ANSWERS_LIMIT: usize = 24 << 20;

/// How long ovsdb-server may take to say that a `wait` was in vain.
const GRACE: Duration = Duration::from_secs(1);

/// How long, and how much, may still be read: both ends of a connection share it.
pub(super) struct Limits {
    time: Duration,
    /// None while what is waited for need not come.
    deadline: Cell<Option<Instant>>,
    left: Cell<usize>,
    bell: Option<Arc<Bell>>,
}

impl Limits {
    /// The bell ends waiting for what need not come.
    pub(super) fn new(time: Duration, bell: Option<Arc<Bell>>) -> Self {
        let limits = Self { time, deadline: Cell::default(), left: Cell::default(), bell };
        limits.renew();
        limits
    }

    /// What comes now has all the time and size again.
    pub(super) fn renew(&self) {
        self.deadline.set(Some(Instant::now() + self.time + GRACE));
        self.left.set(ANSWERS_LIMIT);
    }

    /// What comes next need not come. Once it has begun, it has as much time as anything.
    pub(super) fn lift(&self) {
        self.deadline.set(None);
        self.left.set(ANSWERS_LIMIT);
    }

    /// How much time is left.
    fn remaining(&self) -> io::Result<Option<Duration>> {
        let deadline = self.deadline.get().unwrap_or_else(Instant::now);
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(remaining)) }
    }
}

/// One end.
pub(super) struct Wire {
    stream: UnixStream,
    limits: Rc<Limits>,
}

impl Wire {
    pub(super) fn new(stream: UnixStream, limits: Rc<Limits>) -> Self {
        Self { stream, limits }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(bell) = &self.limits.bell {
            bell.wait_for(self.stream.as_fd(), self.limits.deadline.get())?;
            if self.limits.deadline.get().is_none() {
                self.limits.renew();
            }
        }
        let left = self.limits.left.get();
        let room = buffer.len().min(left);
        if room == 0 {
            return Err(io::Error::other(format!("more than {} MiB", ANSWERS_LIMIT >> 20)));
        }
        self.stream.set_read_timeout(self.limits.remaining()?)?;
        let length = self.stream.read(&mut buffer[..room]).map_err(timed_out)?;
        self.limits.left.set(left - length);
        Ok(length)
    }
}

impl Write for Wire {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.limits.remaining()?)?;
        self.stream.write(buffer).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Connecting waits while the server's queue is full, so that has a limit, too.
pub(super) fn connect(path: &Path, time: Duration) -> io::Result<UnixStream> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(time.max(Duration::from_millis(1))))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?).map_err(|errno| timed_out(errno.into()))?;
    Ok(UnixStream::from(socket))
}

/// A socket's timeout shows as "try again".
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}
