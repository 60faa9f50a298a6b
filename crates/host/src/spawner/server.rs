//! The spawner's own side: what runs in the child process.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, IoSliceMut};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags};
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::wire::{MAX_MESSAGE, Reader, Writer};
use super::{AllowList, End, FAILED, INSPECT, MAX_FILE, MAX_OUTPUT, MAX_RUNNING, Outcome, READ, RUN, Request, SIGNAL};
use crate::process::{Process, ProcessId, ProcessInfo, Signal, timespec};
use crate::sys;

/// Why something could not be done.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) problem: String,
    pub(super) errno: Errno,
}

impl Failure {
    fn new(problem: &str, errno: Errno) -> Self {
        Self { problem: problem.to_owned(), errno }
    }

    fn io(problem: &str, error: &io::Error) -> Self {
        Self::new(problem, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }
}

/// What the spawner process does: the daemon's executable calls this, and nothing else, when it is started with
/// the arguments that [`Spawner::start`](super::Spawner::start) was given. It returns when the daemon has closed
/// its end and all programs that run have ended or were killed at their time.
pub fn spawner_main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(errno) => {
            eprintln!("patchcord spawner: standard input is not the daemon's socket: {errno}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> rustix::io::Result<()> {
    let socket = Arc::new(rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), 3)?);
    let mut buffer = vec![0; MAX_MESSAGE];
    let Some((length, _)) = receive(&socket, &mut buffer)? else { return Ok(()) };
    let allow = Arc::new(read_allow_list(&mut Reader::new(&buffer[..length])).ok_or(Errno::BADMSG)?);
    // A session of its own: keys on the daemon's terminal are not for us. It fails only where we have one already.
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    let _ = rustix::thread::set_name(c"patchcord-spawn");
    sys::close_on_exec_from(3)?;
    let running = Arc::new(AtomicUsize::new(0));
    let mut threads: Vec<std::thread::JoinHandle<()>> = Vec::new();
    while let Some((length, stdin)) = receive(&socket, &mut buffer)? {
        let message = &buffer[..length];
        let mut reader = Reader::new(message);
        let (Some(id), Some(kind)) = (reader.u64(), reader.u8()) else { continue };
        threads.retain(|thread| !thread.is_finished());
        if kind != RUN {
            reply(&socket, id, |writer| answer(writer, kind, &mut reader, &allow));
            continue;
        }
        let Some(request) = read_request(&mut reader) else { continue };
        if running.fetch_add(1, Ordering::Relaxed) >= MAX_RUNNING {
            running.fetch_sub(1, Ordering::Relaxed);
            let failure = Failure::new("too many programs run already", Errno::AGAIN);
            reply(&socket, id, |writer| write_failure(writer, &failure));
            continue;
        }
        let (reply_to, allow, count) = (Arc::clone(&socket), Arc::clone(&allow), Arc::clone(&running));
        let thread = std::thread::Builder::new().name("run".to_owned()).spawn(move || {
            let result = run(&request, stdin, &allow);
            count.fetch_sub(1, Ordering::Relaxed);
            reply(&reply_to, id, |writer| match &result {
                Ok(outcome) => write_outcome(writer, outcome),
                Err(failure) => write_failure(writer, failure),
            });
        });
        match thread {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                running.fetch_sub(1, Ordering::Relaxed);
                let failure = Failure::io("no thread to run it", &error);
                reply(&socket, id, |writer| write_failure(writer, &failure));
            }
        }
    }
    for thread in threads {
        // A panic there has been printed, and concerned one program only.
        let _ = thread.join();
    }
    Ok(())
}

/// The next packet's length and descriptor; `None` when the daemon has closed its end.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> rustix::io::Result<Option<(usize, Option<OwnedFd>)>> {
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(buffer)];
        let received = match rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => continue,
            // It went with replies unread.
            Err(Errno::CONNRESET) => return Ok(None),
            other => other?,
        };
        let mut descriptor = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                descriptor = fds.last();
            }
        }
        match received.bytes {
            0 => return Ok(None),
            _ if received.flags.contains(ReturnFlags::TRUNC) => continue,
            length => return Ok(Some((length, descriptor))),
        }
    }
}

/// Sends a reply; when the daemon is gone, nobody misses it.
fn reply(socket: &OwnedFd, id: u64, fill: impl FnOnce(&mut Writer)) {
    let mut writer = Writer::default();
    writer.u64(id);
    fill(&mut writer);
    let message = writer.finish();
    while let Err(Errno::INTR) = rustix::net::send(socket, &message, SendFlags::NOSIGNAL) {}
}

/// Answers what needs no program.
fn answer(writer: &mut Writer, kind: u8, reader: &mut Reader<'_>, allow: &AllowList) {
    let result = match kind {
        INSPECT => reader.u64().and_then(|pid| u32::try_from(pid).ok()).map(|pid| {
            let info = Process::open(pid).and_then(|process| match process {
                Some(process) => process.info(),
                None => Ok(None),
            });
            info.map(|info| write_info(writer, info.as_ref()))
        }),
        SIGNAL => read_signal(reader).map(|(id, signal)| {
            signal_process(id, signal, allow).map(|sent| {
                writer.u8(SIGNAL).u8(sent.into());
            })
        }),
        READ => reader
            .text()
            .map(PathBuf::from)
            .map(|file| read_file(&file, allow).map(|contents| write_contents(writer, contents.as_deref()))),
        _ => None,
    };
    match result {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            write_failure(writer, &Failure::new(&error.to_string(), error.errno().unwrap_or(Errno::IO)));
        }
        None => write_failure(writer, &Failure::new("unreadable request", Errno::BADMSG)),
    }
}

/// Signals a process, if it runs one of our programs. Where a program's path is a link, either name counts.
fn signal_process(id: ProcessId, signal: Signal, allow: &AllowList) -> crate::Result<bool> {
    let Some(process) = Process::open_same(id)? else { return Ok(false) };
    let Some(info) = process.info()? else { return Ok(false) };
    let allowed = info.exe.is_some_and(|exe| {
        allow.allows(&exe) || allow.programs.iter().any(|program| program.canonicalize().is_ok_and(|path| path == exe))
    });
    if !allowed {
        return Err(crate::Error::Process { pid: id.pid, op: "signal", source: Errno::ACCESS.into() });
    }
    process.signal(signal)
}

/// Reads the beginning of a file, if that is one that may be read. Where it should be nothing is waited for.
fn read_file(file: &Path, allow: &AllowList) -> crate::Result<Option<Vec<u8>>> {
    let failed = |error: io::Error| crate::Error::file("read", file)(error);
    if !allow.files.iter().any(|allowed| allowed == file) {
        return Err(failed(Errno::ACCESS.into()));
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = match rustix::fs::open(file, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => File::from(other.map_err(|errno| failed(errno.into()))?),
    };
    let mut contents = Vec::new();
    opened.take(MAX_FILE as u64).read_to_end(&mut contents).map_err(failed)?;
    Ok(Some(contents))
}

/// Runs one program to its end.
fn run(request: &Request, stdin: Option<OwnedFd>, allow: &AllowList) -> Result<Outcome, Failure> {
    if !allow.allows(&request.program) {
        return Err(Failure::new("it is not among the programs that may be run", Errno::ACCESS));
    }
    if let Some(capabilities) = request.capabilities {
        restrict(capabilities).map_err(|errno| Failure::new("its capabilities can't be restricted", errno))?;
    }
    let mut command = Command::new(&request.program);
    command
        .args(&request.args)
        .env_clear()
        .envs(request.env.iter().map(|(key, value)| (key, value)))
        .current_dir(&request.directory)
        .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    sys::start_in_own_session(&mut command);
    let mut child = command.spawn().map_err(|error| Failure::io("it can't be started", &error))?;
    let result = follow(&mut child, request.timeout);
    if result.is_err() {
        kill(&child);
    }
    let status = child.wait().map_err(|error| Failure::io("its end can't be learned", &error))?;
    let (timed_out, stdout, stderr) = result.map_err(|errno| Failure::new("it can't be watched", errno))?;
    let end = match (timed_out, status.code(), status.signal()) {
        (true, ..) => End::TimedOut,
        (_, Some(code), _) => End::Exit(code),
        (_, None, signal) => End::Signal(signal.unwrap_or(0)),
    };
    Ok(Outcome { end, stdout, stderr })
}

/// Reads the child's output until it ends or its time is up; then it is killed. Returns whether it was, and what
/// the child wrote. Someone to whom it passed its output on is not waited for.
fn follow(child: &mut Child, timeout: Duration) -> rustix::io::Result<(bool, Vec<u8>, Vec<u8>)> {
    let pidfd = rustix::process::pidfd_open(pid(child).ok_or(Errno::SRCH)?, PidfdFlags::empty())?;
    let deadline = Instant::now().checked_add(timeout);
    let mut streams =
        [Stream::new(child.stdout.take().map(OwnedFd::from))?, Stream::new(child.stderr.take().map(OwnedFd::from))?];
    let mut timed_out = false;
    loop {
        let left = if timed_out { None } else { deadline.map(|end| end.saturating_duration_since(Instant::now())) };
        let ended = {
            let mut ready = vec![PollFd::new(&pidfd, PollFlags::IN)];
            ready.extend(streams.iter().filter_map(|s| s.fd.as_ref()).map(|fd| PollFd::new(fd, PollFlags::IN)));
            match rustix::event::poll(&mut ready, left.map(timespec).as_ref()) {
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
                Ok(0) => {
                    timed_out = true;
                    kill(child);
                }
                Ok(_) => {}
            }
            !ready[0].revents().is_empty()
        };
        for stream in &mut streams {
            stream.drain();
        }
        if ended {
            let [stdout, stderr] = streams;
            return Ok((timed_out, stdout.kept, stderr.kept));
        }
    }
}

fn pid(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

/// Kills the child and its process group, whose number can't be anyone else's before the child is waited for.
fn kill(child: &Child) {
    if let Some(pid) = pid(child) {
        // It may have ended by itself in between.
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
}

/// One of a child's output streams.
struct Stream {
    fd: Option<OwnedFd>,
    kept: Vec<u8>,
}

impl Stream {
    fn new(fd: Option<OwnedFd>) -> rustix::io::Result<Self> {
        if let Some(fd) = &fd {
            rustix::fs::fcntl_setfl(fd, OFlags::NONBLOCK)?;
        }
        Ok(Self { fd, kept: Vec::new() })
    }

    /// Reads what is there, a megabyte at most, and keeps its beginning.
    fn drain(&mut self) {
        let mut chunk = [0; 16384];
        for _ in 0..64 {
            let Some(fd) = &self.fd else { return };
            match rustix::io::read(fd, &mut chunk) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Ok(0) | Err(_) => self.fd = None,
                Ok(count) => {
                    let room = MAX_OUTPUT - self.kept.len();
                    self.kept.extend_from_slice(&chunk[..count.min(room)]);
                }
            }
        }
    }
}

/// Leaves the calling thread, and what it starts, these capabilities at most. The thread ends with its program.
fn restrict(keep: CapabilitySet) -> rustix::io::Result<()> {
    let sets = rustix::thread::capabilities(None)?;
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if keep.contains(capability) {
            continue;
        }
        match rustix::thread::capability_is_in_bounding_set(capability) {
            Ok(true) => rustix::thread::remove_capability_from_bounding_set(capability)?,
            // EINVAL: this kernel doesn't know it.
            Ok(false) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    let sets = CapabilitySets {
        effective: sets.effective & keep,
        permitted: sets.permitted & keep,
        inheritable: sets.inheritable & keep,
    };
    rustix::thread::set_capabilities(None, sets)
}

// The messages' bodies: what one side writes the other reads.

pub(super) fn write_request(writer: &mut Writer, request: &Request) {
    writer.text(&request.program).list(request.args.iter());
    writer.list(request.env.iter().map(|(key, _)| key)).list(request.env.iter().map(|(_, value)| value));
    let timeout = u64::try_from(request.timeout.as_millis()).unwrap_or(u64::MAX);
    writer.text(&request.directory).u64(timeout);
    writer.u8(request.capabilities.is_some().into()).u64(request.capabilities.map_or(0, |set| set.bits()));
}

fn read_request(reader: &mut Reader<'_>) -> Option<Request> {
    let (program, args) = (reader.text()?.into(), reader.list()?);
    let (keys, values) = (reader.list()?, reader.list()?);
    let (directory, timeout) = (reader.text()?.into(), Duration::from_millis(reader.u64()?));
    let (restricted, bits) = (reader.u8()? != 0, reader.u64()?);
    let capabilities = restricted.then(|| CapabilitySet::from_bits_retain(bits));
    let env = keys.into_iter().zip(values).collect();
    Some(Request { program, args, env, stdin: Vec::new(), directory, timeout, capabilities })
}

fn read_allow_list(reader: &mut Reader<'_>) -> Option<AllowList> {
    let paths = |list: Vec<OsString>| list.into_iter().map(PathBuf::from).collect();
    let [programs, directories, files] = [reader.list()?, reader.list()?, reader.list()?].map(paths);
    Some(AllowList { programs, directories, files })
}

fn write_failure(writer: &mut Writer, failure: &Failure) {
    writer.u8(FAILED).i32(failure.errno.raw_os_error()).bytes(failure.problem.as_bytes());
}

fn read_failure(reader: &mut Reader<'_>) -> Option<Failure> {
    let errno = Errno::from_raw_os_error(reader.i32()?);
    Some(Failure { errno, problem: String::from_utf8_lossy(reader.bytes()?).into_owned() })
}

fn write_outcome(writer: &mut Writer, outcome: &Outcome) {
    let (how, number) = match outcome.end {
        End::Exit(status) => (0, status),
        End::Signal(signal) => (1, signal),
        End::TimedOut => (2, 0),
    };
    writer.u8(RUN).u8(how).i32(number).bytes(&outcome.stdout).bytes(&outcome.stderr);
}

pub(super) fn read_outcome(reader: &mut Reader<'_>) -> Option<Result<Outcome, Failure>> {
    if reader.u8()? != RUN {
        return read_failure(reader).map(Err);
    }
    let end = match (reader.u8()?, reader.i32()?) {
        (0, status) => End::Exit(status),
        (1, signal) => End::Signal(signal),
        _ => End::TimedOut,
    };
    Some(Ok(Outcome { end, stdout: reader.bytes()?.to_vec(), stderr: reader.bytes()?.to_vec() }))
}

fn write_info(writer: &mut Writer, info: Option<&ProcessInfo>) {
    writer.u8(INSPECT).u8(info.is_some().into());
    if let Some(info) = info {
        writer.u64(info.id.pid.into()).u64(info.id.start_time).u64(info.uid.into());
        writer.list(info.exe.iter()).list(info.cmdline.iter());
    }
}

pub(super) fn read_info(reader: &mut Reader<'_>) -> Option<Result<Option<ProcessInfo>, Failure>> {
    if reader.u8()? != INSPECT {
        return read_failure(reader).map(Err);
    }
    if reader.u8()? == 0 {
        return Some(Ok(None));
    }
    let id = ProcessId { pid: u32::try_from(reader.u64()?).ok()?, start_time: reader.u64()? };
    let uid = u32::try_from(reader.u64()?).ok()?;
    let exe = reader.list()?.into_iter().next().map(PathBuf::from);
    Some(Ok(Some(ProcessInfo { id, uid, exe, cmdline: reader.list()? })))
}

fn write_contents(writer: &mut Writer, contents: Option<&[u8]>) {
    writer.u8(READ).u8(contents.is_some().into()).bytes(contents.unwrap_or_default());
}

pub(super) fn read_contents(reader: &mut Reader<'_>) -> Option<Result<Option<Vec<u8>>, Failure>> {
    if reader.u8()? != READ {
        return read_failure(reader).map(Err);
    }
    let there = reader.u8()? != 0;
    let contents = reader.bytes()?.to_vec();
    Some(Ok(Some(contents).filter(|_| there)))
}

pub(super) fn signal_number(signal: Signal) -> u8 {
    match signal {
        Signal::Hangup => 1,
        Signal::Kill => 9,
        Signal::Terminate => 15,
    }
}

fn read_signal(reader: &mut Reader<'_>) -> Option<(ProcessId, Signal)> {
    let id = ProcessId { pid: u32::try_from(reader.u64()?).ok()?, start_time: reader.u64()? };
    let signal = match reader.u8()? {
        1 => Signal::Hangup,
        9 => Signal::Kill,
        15 => Signal::Terminate,
        _ => return None,
    };
    Some((id, signal))
}

pub(super) fn read_signalled(reader: &mut Reader<'_>) -> Option<Result<bool, Failure>> {
    if reader.u8()? != SIGNAL {
        return read_failure(reader).map(Err);
    }
    Some(Ok(reader.u8()? != 0))
}
