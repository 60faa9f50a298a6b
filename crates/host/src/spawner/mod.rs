//! Running programs from a daemon that has confined itself.
//!
//! Children inherit the daemon's confinement: a dnsmasq below a landlocked parent can't read its files, and a
//! daemon without CAP_KILL can't signal one that runs as another user. So before it confines itself the daemon
//! starts its own executable again as a small *spawner*, which runs programs for it, from a list that is fixed at
//! the start. Between them is one socket, which the spawner has as its standard input; it ends when that closes.
//! Daemons that it started live on.

mod server;
mod wire;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SeekFrom};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType,
};
use rustix::thread::CapabilitySet;

pub use server::spawner_main;

use crate::process::{ProcessId, ProcessInfo, Signal};
use crate::{Error, Result};
use wire::{MAX_MESSAGE, Reader, Writer};

/// What is kept of a program's output, in bytes, for each of its two streams; the rest is read and dropped.
pub const MAX_OUTPUT: usize = 64 << 10;

/// Most programs that run at once; more are refused.
pub const MAX_RUNNING: usize = 256;

/// How long the spawner may take beyond a program's own timeout.
const GRACE: Duration = Duration::from_secs(10);

/// What is read of a file, in bytes; the rest is left.
pub const MAX_FILE: usize = 4 << 10;

/// What the spawner may run and read, fixed when it starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList {
    /// Programs, by absolute path.
    pub programs: Vec<PathBuf>,
    /// Directories, by absolute path, all of whose programs may run (hooks).
    pub directories: Vec<PathBuf>,
    /// Files, by absolute path, that may be read: those in directories whose other files are none of the daemon's business.
    pub files: Vec<PathBuf>,
}

impl AllowList {
    /// Whether this program may run: no path with `..` in it does.
    fn allows(&self, program: &Path) -> bool {
        program.is_absolute()
            && (self.programs.iter().any(|allowed| allowed == program)
                || program.file_name().is_some()
                    && self.directories.iter().any(|allowed| Some(allowed.as_path()) == program.parent()))
    }
}

/// A program to run: with a clean environment, descriptors 0 to 2 only, and a session of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its absolute path, which must be allowed.
    pub program: PathBuf,
    /// Its arguments, without its name.
    pub args: Vec<OsString>,
    /// All of its environment.
    pub env: Vec<(OsString, OsString)>,
    /// What it reads on standard input, of any length.
    pub stdin: Vec<u8>,
    /// Its working directory.
    pub directory: PathBuf,
    /// When it has not ended after so long, it is killed, with what else is in its process group.
    pub timeout: Duration,
    /// The capabilities that it may have, at most; `None` leaves the spawner's.
    pub capabilities: Option<CapabilitySet>,
}

impl Request {
    /// Runs `program` with nothing else said: in `/`, for ten seconds at most.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            stdin: Vec::new(),
            directory: "/".into(),
            timeout: Duration::from_secs(10),
            capabilities: None,
        }
    }

    /// The same with these arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With this status.
    Exit(i32),
    /// By this signal.
    Signal(i32),
    /// Killed, because its time was up.
    TimedOut,
}

/// What came of running a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// The beginning of its standard output, see [`MAX_OUTPUT`].
    pub stdout: Vec<u8>,
    /// The beginning of its standard error.
    pub stderr: Vec<u8>,
}

/// Message kinds; a reply has its request's, or [`FAILED`].
const RUN: u8 = 1;
const INSPECT: u8 = 2;
const SIGNAL: u8 = 3;
const READ: u8 = 4;
const FAILED: u8 = 255;

/// The daemon's end: cheap to clone, usable from several threads at once.
#[derive(Debug, Clone)]
pub struct Spawner {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    socket: OwnedFd,
    next: AtomicU64,
    shared: Arc<Shared>,
    /// Until the thread that reads replies has it.
    child: Mutex<Option<Child>>,
    pid: u32,
}

/// What the reading thread shares with those that wait.
#[derive(Debug, Default)]
struct Shared {
    /// `None` once the spawner is gone.
    waiting: Mutex<Option<HashMap<u64, SyncSender<Vec<u8>>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds these locks can leave half a change behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Spawner {
    /// Starts `executable` with `args` as the spawner; there it must call [`spawner_main`]. It is to be started
    /// before the daemon confines itself, blocks signals or changes its working directory. No thread is started
    /// until the first request.
    ///
    /// # Errors
    /// [`Error::Spawner`] when it can't be started.
    pub fn start(executable: &Path, args: &[&OsStr], allow: &AllowList) -> Result<Self> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|errno| spawner_error("make a socket for", errno))?;
        let child = Command::new(executable)
            .args(args)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(|source| Error::Spawner { op: "start", source })?;
        let inner = Inner {
            socket: ours,
            next: AtomicU64::new(0),
            shared: Arc::new(Shared { waiting: Mutex::new(Some(HashMap::new())) }),
            pid: child.id(),
            child: Mutex::new(Some(child)),
        };
        let mut hello = Writer::default();
        hello.list(allow.programs.iter()).list(allow.directories.iter()).list(allow.files.iter());
        send(&inner.socket, &hello.finish(), None)?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The spawner's process id.
    pub fn pid(&self) -> u32 {
        self.inner.pid
    }

    /// Runs a program and waits until it has ended.
    ///
    /// # Errors
    /// [`Error::Program`] when it can't be run or is not allowed, [`Error::SpawnerGone`] when there is no one to
    /// run it, [`Error::Spawner`] when the request is too large.
    pub fn run(&self, request: &Request) -> Result<Outcome> {
        let stdin = if request.stdin.is_empty() { None } else { Some(memory_file(&request.stdin)?) };
        let timeout = request.timeout.saturating_add(GRACE);
        let reply = self.ask(RUN, timeout, stdin.as_ref(), |message| {
            server::write_request(message, request);
        })?;
        server::read_outcome(&mut reply.reader()).ok_or(UNREADABLE)?.map_err(|failure| Error::Program {
            program: request.program.clone(),
            problem: failure.problem,
            source: failure.errno.into(),
        })
    }

    /// What the spawner sees of a process, which is more than a confined daemon can; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::Process`] when it can't be read, [`Error::SpawnerGone`].
    pub fn inspect(&self, pid: u32) -> Result<Option<ProcessInfo>> {
        let reply = self.ask(INSPECT, GRACE, None, |message| {
            message.u64(pid.into());
        })?;
        server::read_info(&mut reply.reader()).ok_or(UNREADABLE)?.map_err(|failure| Error::Process {
            pid,
            op: "read about",
            source: failure.errno.into(),
        })
    }

    /// Signals a process whose executable is on the list; false when it has ended already.
    ///
    /// # Errors
    /// [`Error::Process`] when it may not be signalled (EACCES: its executable is not on the list),
    /// [`Error::SpawnerGone`].
    pub fn signal(&self, process: ProcessId, signal: Signal) -> Result<bool> {
        let reply = self.ask(SIGNAL, GRACE, None, |message| {
            message.u64(process.pid.into()).u64(process.start_time).u8(server::signal_number(signal));
        })?;
        server::read_signalled(&mut reply.reader()).ok_or(UNREADABLE)?.map_err(|failure| Error::Process {
            pid: process.pid,
            op: "signal",
            source: failure.errno.into(),
        })
    }

    /// What a file on the list begins with, see [`MAX_FILE`]; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::File`] when it can't be read (EACCES: it is not on the list), [`Error::SpawnerGone`].
    pub fn read(&self, file: &Path) -> Result<Option<Vec<u8>>> {
        let reply = self.ask(READ, GRACE, None, |message| {
            message.text(file);
        })?;
        server::read_contents(&mut reply.reader())
            .ok_or(UNREADABLE)?
            .map_err(|failure| Error::file("read", file)(failure.errno))
    }

    /// Sends a request and waits for its reply.
    fn ask(
        &self,
        kind: u8,
        timeout: Duration,
        stdin: Option<&OwnedFd>,
        fill: impl FnOnce(&mut Writer),
    ) -> Result<Reply> {
        self.read_replies()?;
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let mut message = Writer::default();
        message.u64(id).u8(kind);
        fill(&mut message);
        let (sender, receiver) = sync_channel(1);
        lock(&self.inner.shared.waiting).as_mut().ok_or(Error::SpawnerGone)?.insert(id, sender);
        let result = send(&self.inner.socket, &message.finish(), stdin).and_then(|()| {
            receiver.recv_timeout(timeout).map_err(|error| match error {
                RecvTimeoutError::Disconnected => Error::SpawnerGone,
                RecvTimeoutError::Timeout => spawner_error("get an answer from", Errno::TIMEDOUT),
            })
        });
        if let Some(waiting) = lock(&self.inner.shared.waiting).as_mut() {
            waiting.remove(&id);
        }
        Ok(Reply { message: result? })
    }

    /// Starts the thread that reads replies, once.
    fn read_replies(&self) -> Result<()> {
        let mut child = lock(&self.inner.child);
        if child.is_none() {
            return Ok(());
        }
        let socket = self.inner.socket.try_clone().map_err(|source| Error::Spawner { op: "listen to", source })?;
        let shared = Arc::clone(&self.inner.shared);
        let (sender, receiver) = sync_channel(1);
        std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                read_replies(&socket, &shared);
                if let Ok(mut child) = receiver.recv() {
                    reap(&mut child);
                }
            })
            .map_err(|source| Error::Spawner { op: "listen to", source })?;
        if let Some(child) = child.take() {
            // The receiver lives as long as the thread, which waits for this.
            let _ = sender.send(child);
        }
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Ends the spawner and the reading thread, which waits for the spawner's end.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        if let Some(child) = lock(&self.child).as_mut() {
            reap(child);
        }
    }
}

/// Takes note of the spawner's end; how it ended changes nothing.
fn reap(child: &mut Child) {
    let _ = child.wait();
}

/// Hands each reply to whom it is for, until the spawner is gone.
fn read_replies(socket: &OwnedFd, shared: &Shared) {
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let length = match rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((_, 0)) => break,
            Ok((_, length)) => length,
            Err(Errno::INTR) => continue,
            Err(_) => break,
        };
        let Some(message) = buffer.get(..length) else { break };
        let Some(id) = Reader::new(message).u64() else { continue };
        let waiter = lock(&shared.waiting).as_mut().and_then(|waiting| waiting.remove(&id));
        if let Some(waiter) = waiter {
            // It may have stopped waiting.
            let _ = waiter.try_send(message.to_vec());
        }
    }
    // All that still wait learn that no one will answer.
    *lock(&shared.waiting) = None;
}

/// A reply, its id not yet taken off.
struct Reply {
    message: Vec<u8>,
}

impl Reply {
    fn reader(&self) -> Reader<'_> {
        Reader::new(self.message.get(8..).unwrap_or_default())
    }
}

/// The two ends are one executable, so this is a fault of ours.
const UNREADABLE: Error = Error::SpawnerReply;

fn spawner_error(op: &'static str, errno: Errno) -> Error {
    Error::Spawner { op, source: errno.into() }
}

/// Sends one packet, with a descriptor if given.
fn send(socket: &OwnedFd, message: &[u8], descriptor: Option<&OwnedFd>) -> Result<()> {
    if message.len() > MAX_MESSAGE {
        return Err(spawner_error("send so long a request to", Errno::MSGSIZE));
    }
    let fds: Vec<_> = descriptor.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(Error::SpawnerGone),
            Err(errno) => return Err(spawner_error("send a request to", errno)),
        }
    }
}

/// A file in memory that holds `contents`, to be read from its beginning.
fn memory_file(contents: &[u8]) -> Result<OwnedFd> {
    let failed = |errno| spawner_error("make the input for", errno);
    let file = rustix::fs::memfd_create("stdin", MemfdFlags::CLOEXEC).map_err(failed)?;
    crate::store::write_all(&file, contents).map_err(failed)?;
    rustix::fs::seek(&file, SeekFrom::Start(0)).map_err(failed)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_programs_are_allowed() {
        let (programs, directories) = (vec!["/usr/sbin/dnsmasq".into()], vec!["/etc/hooks".into()]);
        let allow = AllowList { programs, directories, files: vec!["/etc/passwd".into()] };
        for good in ["/usr/sbin/dnsmasq", "/etc/hooks/10-log"] {
            assert!(allow.allows(Path::new(good)), "{good}");
        }
        for bad in [
            "/usr/sbin/dnsmasq2",
            "dnsmasq",
            "/etc/hooks",
            "/etc/hooks/a/b",
            "/etc/hooks/../passwd",
            "/etc/hooks/..",
            "/etc/passwd",
        ] {
            assert!(!allow.allows(Path::new(bad)), "{bad}");
        }
    }
}
