//! Processes: which one it is, whether it still is, and telling it something.
//!
//! A process id is used again after a while; a process id with its start time is not, within one boot. A pidfd
//! refers to one process for good, and becomes readable when that ends.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use crate::{Error, Result};

/// One process, for as long as the machine is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// Its id, in our process namespace.
    pub pid: u32,
    /// When it started, in clock ticks since boot (field 22 of /proc/PID/stat, proc(5)).
    pub start_time: u64,
}

/// What /proc says about a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Which one it is.
    pub id: ProcessId,
    /// Its real user.
    pub uid: u32,
    /// Its executable; `None` when it has none (a kernel thread) or we may not know.
    pub exe: Option<PathBuf>,
    /// Its arguments, the program's name first.
    pub cmdline: Vec<OsString>,
}

/// What a process can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: dnsmasq reads its host files again.
    Hangup,
    /// SIGTERM: end in order.
    Terminate,
    /// SIGKILL: end.
    Kill,
}

impl From<Signal> for rustix::process::Signal {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::Hangup => Self::HUP,
            Signal::Terminate => Self::TERM,
            Signal::Kill => Self::KILL,
        }
    }
}

/// A running process, held by a pidfd.
///
/// The descriptor becomes readable when the process has ended: wait for it in an event loop through `AsFd`.
#[derive(Debug)]
pub struct Process {
    fd: OwnedFd,
    id: ProcessId,
}

impl Process {
    /// Takes hold of the process that has this id now; `None` when there is none, or it has ended.
    ///
    /// # Errors
    /// [`Error::Process`] when the kernel doesn't let us.
    pub fn open(pid: u32) -> Result<Option<Self>> {
        let failed = |errno: Errno| Error::Process { pid, op: "watch", source: errno.into() };
        let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let fd = match rustix::process::pidfd_open(raw, PidfdFlags::empty()) {
            Ok(fd) => fd,
            // EINVAL: the id of a thread that leads no process.
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        };
        let Some(start_time) = start_time(pid)? else { return Ok(None) };
        let process = Self { fd, id: ProcessId { pid, start_time } };
        // What was read belongs to the descriptor's process only if that still lived afterwards.
        Ok(process.alive()?.then_some(process))
    }

    /// Takes hold of this very process; `None` when it has ended, whoever has its number now.
    ///
    /// # Errors
    /// As [`Process::open`].
    pub fn open_same(id: ProcessId) -> Result<Option<Self>> {
        Ok(Self::open(id.pid)?.filter(|process| process.id == id))
    }

    /// Which process it is.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// [`Error::Process`] when the kernel doesn't say.
    pub fn alive(&self) -> Result<bool> {
        Ok(!self.wait(Duration::ZERO)?)
    }

    /// Waits until it has ended, at most so long; true when it has.
    ///
    /// # Errors
    /// [`Error::Process`] when the kernel doesn't say.
    pub fn wait(&self, timeout: Duration) -> Result<bool> {
        let end = Instant::now() + timeout;
        loop {
            let mut ready = [PollFd::new(&self.fd, PollFlags::IN)];
            match rustix::event::poll(&mut ready, Some(&timespec(end.saturating_duration_since(Instant::now())))) {
                Ok(count) => return Ok(count > 0),
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(Error::Process { pid: self.id.pid, op: "wait for", source: errno.into() });
                }
            }
        }
    }

    /// Sends a signal; false when the process has ended already.
    ///
    /// # Errors
    /// [`Error::Process`] when we may not.
    pub fn signal(&self, signal: Signal) -> Result<bool> {
        match rustix::process::pidfd_send_signal(&self.fd, signal.into()) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(errno) => Err(Error::Process { pid: self.id.pid, op: "signal", source: errno.into() }),
        }
    }

    /// What /proc says about it; `None` when it has ended.
    ///
    /// # Errors
    /// [`Error::Process`] when /proc can't be read.
    pub fn info(&self) -> Result<Option<ProcessInfo>> {
        let pid = self.id.pid;
        let Some(status) = read(pid, "status")? else { return Ok(None) };
        let uid = String::from_utf8_lossy(&status)
            .lines()
            .find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok());
        let Some(cmdline) = read(pid, "cmdline")? else { return Ok(None) };
        let cmdline = cmdline.strip_suffix(b"\0").unwrap_or(&cmdline);
        let cmdline = if cmdline.is_empty() {
            Vec::new()
        } else {
            cmdline.split(|byte| *byte == 0).map(|arg| OsString::from_vec(arg.to_vec())).collect()
        };
        let exe = fs::read_link(format!("/proc/{pid}/exe")).ok().map(without_deleted);
        if !self.alive()? {
            return Ok(None);
        }
        let Some(uid) = uid else {
            return Err(Error::Content { path: format!("/proc/{pid}/status").into(), problem: "has no uid".into() });
        };
        Ok(Some(ProcessInfo { id: self.id, uid, exe, cmdline }))
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// For the kernel; a duration too long for it becomes its longest.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
}

/// The kernel's name for an executable that was replaced while it ran, as a package upgrade does.
fn without_deleted(exe: PathBuf) -> PathBuf {
    match exe.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        Some(path) => OsString::from_vec(path.to_vec()).into(),
        None => exe,
    }
}

/// One of a process's files in /proc; `None` when the process is gone.
pub(crate) fn read(pid: u32, file: &str) -> Result<Option<Vec<u8>>> {
    match fs::read(format!("/proc/{pid}/{file}")) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::SRCH)) => Ok(None),
        Err(source) => Err(Error::Process { pid, op: "read about", source }),
    }
}

/// Start time of the process in clock ticks since boot; `None` when it is gone.
fn start_time(pid: u32) -> Result<Option<u64>> {
    let Some(stat) = read(pid, "stat")? else { return Ok(None) };
    match parse_start_time(&stat) {
        Some(ticks) => Ok(Some(ticks)),
        None => Err(Error::Content { path: format!("/proc/{pid}/stat").into(), problem: "has no start time".into() }),
    }
}

/// Field 22. The second field is the program's name in parentheses, which may hold anything, so count from its end.
fn parse_start_time(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    std::str::from_utf8(&stat[end + 1..]).ok()?.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn start_time_is_found_behind_any_program_name() {
        let fields: Vec<String> = (4..=52).map(|n| (n * 10).to_string()).collect();
        for name in ["sh", "a b", "x) R 1 (y", ""] {
            let stat = format!("7 ({name}) S {}", fields.join(" "));
            assert_eq!(parse_start_time(stat.as_bytes()), Some(220), "{name}");
        }
        assert_eq!(parse_start_time(b"7 (x) S 1"), None);
    }

    #[test]
    fn a_process_is_itself_until_it_ends() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let process = Process::open(child.id()).unwrap().unwrap();
        let start = Command::new("sh").args(["-c", &format!("cut -d' ' -f22 /proc/{}/stat", child.id())]).output();
        let start = String::from_utf8(start.unwrap().stdout).unwrap();
        assert_eq!(process.id().start_time.to_string(), start.trim());
        assert!(process.alive().unwrap());
        let other = ProcessId { start_time: process.id().start_time + 1, ..process.id() };
        assert!(Process::open_same(other).unwrap().is_none());
        assert!(Process::open_same(process.id()).unwrap().is_some());
        assert!(process.signal(Signal::Kill).unwrap());
        assert!(process.wait(Duration::from_secs(5)).unwrap());
        // Not waited for yet: it has a number still, and counts as ended.
        assert!(Process::open(child.id()).unwrap().is_none());
        child.wait().unwrap();
        assert!(!process.signal(Signal::Hangup).unwrap());
        assert!(process.info().unwrap().is_none());
        assert!(Process::open(0).unwrap().is_none());
    }

    #[test]
    fn info_tells_program_arguments_and_user() {
        let info = Process::open(std::process::id()).unwrap().unwrap().info().unwrap().unwrap();
        assert_eq!(info.exe, Some(std::env::current_exe().unwrap()));
        assert_eq!(info.cmdline, std::env::args_os().collect::<Vec<_>>());
        assert_eq!(info.uid, rustix::process::getuid().as_raw());
        assert_eq!(without_deleted("/usr/sbin/dnsmasq (deleted)".into()), PathBuf::from("/usr/sbin/dnsmasq"));
    }
}
