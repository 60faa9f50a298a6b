//! What wakes a thread that waits for others: it is wanted, or to end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

/// The bell. Being rung twice is being rung once.
#[derive(Debug)]
pub(super) struct Bell {
    rope: OwnedFd,
    ends: AtomicBool,
}

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        let rope = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { rope, ends: AtomicBool::new(false) })
    }

    /// Wakes the thread.
    pub(super) fn ring(&self) {
        // It fails when it was rung some 2^64 times.
        let _ = rustix::io::write(&self.rope, &1u64.to_ne_bytes());
    }

    /// Has the thread end.
    pub(super) fn end(&self) {
        self.ends.store(true, Ordering::Release);
        self.ring();
    }

    /// Whether the thread is to end.
    pub(super) fn has_ended(&self) -> bool {
        self.ends.load(Ordering::Acquire)
    }

    /// Waits until it is rung, or the time is over, which never is with none. Whether it was rung.
    pub(super) fn wait(&self, time: Option<Duration>) -> io::Result<bool> {
        self.poll(self.rope.as_fd(), time)
    }

    /// Waits until `other` can be read, however often it is rung. It is an error that the time is over, or that the thread
    /// is to end.
    pub(super) fn wait_for(&self, other: BorrowedFd<'_>, deadline: Option<Instant>) -> io::Result<()> {
        loop {
            if self.has_ended() {
                return Err(io::Error::other("nobody listens any more"));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if self.poll(other, left)? {
                return Ok(());
            }
        }
    }

    /// Whether `other` can be read, or has ended.
    fn poll(&self, other: BorrowedFd<'_>, time: Option<Duration>) -> io::Result<bool> {
        let mut fds = [self.rope.as_fd(), other].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let time =
            time.map(|time| Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() });
        match poll(&mut fds, time.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let [rung, ready] = fds.map(|fd| !fd.revents().is_empty());
        if rung {
            let _ = rustix::io::read(&self.rope, &mut [0; 8]);
        }
        Ok(ready)
    }
}
