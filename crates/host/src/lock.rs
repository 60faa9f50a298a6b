//! One daemon per root directory, and one per network namespace.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::store::{Directory, FileMode};
use crate::{Error, Result};

/// The lock on a root directory; it goes with the process, however that ends.
#[derive(Debug)]
pub struct RootLock {
    /// Holds the lock while it is open. Close-on-exec: no child keeps it.
    _file: OwnedFd,
}

impl RootLock {
    /// Takes the lock file `path`, and writes the own process id into it.
    ///
    /// # Errors
    /// [`Error::RootHeld`] names the holder; [`Error::File`] when the file can't be made.
    pub fn take(path: &Path) -> Result<Self> {
        if let Some(parent) = path.parent() {
            Directory::open(parent, FileMode::Shared)?;
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)).map_err(Error::file("open", path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = [0; 16];
                let length = rustix::io::pread(&file, &mut text, 0).unwrap_or(0);
                let pid = String::from_utf8_lossy(&text[..length]).trim().parse().ok();
                return Err(Error::RootHeld { path: path.to_owned(), pid });
            }
            Err(errno) => return Err(Error::file("lock", path)(errno)),
        }
        let pid = format!("{}\n", std::process::id());
        rustix::fs::ftruncate(&file, 0).map_err(Error::file("write", path))?;
        rustix::io::pwrite(&file, pid.as_bytes(), 0).map_err(Error::file("write", path))?;
        Ok(Self { _file: file })
    }
}

/// The abstract socket's name. Abstract names belong to a network namespace, which is what is to be claimed.
const NAMESPACE_NAME: &[u8] = b"patchcord/netns";

/// A user may connect and never go; so many must before the holder can't be told any more.
const BACKLOG: i32 = 4096;

/// What came of claiming the network namespace.
#[derive(Debug)]
pub enum NamespaceClaim {
    /// It is ours as long as this lives.
    Held(NamespaceLock),
    /// Someone who is not of our user has the name, so that it says nothing; to be reported, and no obstacle.
    Squatted {
        /// The holder's user, where the kernel tells.
        uid: Option<u32>,
        /// The holder.
        pid: Option<u32>,
    },
}

/// The listening socket that claims a network namespace.
#[derive(Debug)]
pub struct NamespaceLock {
    socket: OwnedFd,
}

impl NamespaceLock {
    /// Claims the caller's network namespace.
    ///
    /// # Errors
    /// [`Error::NamespaceHeld`] when a process of the same user has it, [`Error::NamespaceClaim`] otherwise.
    pub fn claim() -> Result<NamespaceClaim> {
        let failed = |op| move |errno: Errno| Error::NamespaceClaim { op, source: errno.into() };
        let address = SocketAddrUnix::new_abstract_name(NAMESPACE_NAME).map_err(failed("name"))?;
        let socket = || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed("make"))
        };
        // A holder that ends between the two steps frees the name: once more, then.
        for _ in 0..2 {
            let listener = socket()?;
            match rustix::net::bind(&listener, &address) {
                Ok(()) => {
                    rustix::net::listen(&listener, BACKLOG).map_err(failed("listen on"))?;
                    return Ok(NamespaceClaim::Held(Self { socket: listener }));
                }
                Err(Errno::ADDRINUSE) => {}
                Err(errno) => return Err(failed("bind")(errno)),
            }
            let probe = socket()?;
            match rustix::net::connect(&probe, &address) {
                Ok(()) => {}
                Err(Errno::CONNREFUSED) => continue,
                // Its queue is full: its user can't be told.
                Err(Errno::AGAIN) => return Ok(NamespaceClaim::Squatted { uid: None, pid: None }),
                Err(errno) => return Err(failed("connect to")(errno)),
            }
            let peer = rustix::net::sockopt::socket_peercred(&probe).map_err(failed("ask"))?;
            let pid = u32::try_from(peer.pid.as_raw_nonzero().get()).ok();
            if peer.uid == rustix::process::geteuid() {
                return Err(Error::NamespaceHeld { pid });
            }
            return Ok(NamespaceClaim::Squatted { uid: Some(peer.uid.as_raw()), pid });
        }
        // Bound by someone who doesn't listen: no daemon of ours does that.
        Ok(NamespaceClaim::Squatted { uid: None, pid: None })
    }
}

impl AsFd for NamespaceLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
