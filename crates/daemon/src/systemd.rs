//! systemd: the socket it opened for us, taps' descriptors it keeps while we are away, and telling it when we are ready.
//! Without it we open the socket ourselves, and a tap lives as long as its guest's process holds it.

use patchcord_api::MAX_FDS;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use sd_notify::NotifyState;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::net::UnixListener;
use tracing::{debug, warn};
use uuid::Uuid;

/// The name of the native socket in its unit (`FileDescriptorName=`).
const NATIVE: &str = "native";

/// What the names of taps' descriptors in systemd's store begin with; the NIC's id follows.
const TAP: &str = "tap-";

/// The native socket: the one that was passed, or a new one at `path`, which every local user may connect to, since
/// each call is checked by its caller's credentials.
///
/// # Errors
/// When it can't be opened there; the error names the path.
pub fn native_listener(path: &Path) -> io::Result<UnixListener> {
    if let Some(passed) = passed_listener(NATIVE) {
        return Ok(passed);
    }
    let named = |error: io::Error| io::Error::new(error.kind(), format!("can't listen on {}: {error}", path.display()));
    // The lock on the root is ours: whoever made the socket that is there has ended.
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(named(errno.into())),
    }
    let listener = UnixListener::bind(path).map_err(named)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(named)?;
    Ok(listener)
}

/// The listening socket that systemd passed under that name, if it did and can be used.
pub fn passed_listener(name: &str) -> Option<UnixListener> {
    let listener = std::os::unix::net::UnixListener::from(passed(name)?);
    let listener = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener));
    listener.inspect_err(|error| warn!(name, %error, "a socket that systemd passed can't be used")).ok()
}

/// A socket that systemd passed under that name.
fn passed(name: &str) -> Option<OwnedFd> {
    let (number, _) = sd_notify::listen_fds_with_names().ok()?.find(|(_, n)| n == name)?;
    own(number)
}

/// What was passed comes as a number, which is made a descriptor by asking the kernel for a copy of our own.
fn own(number: RawFd) -> Option<OwnedFd> {
    let this = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
    pidfd_getfd(this, number, PidfdGetfdFlags::empty()).ok()
}

/// Descriptors of taps that systemd kept for us while we were away, by NIC.
pub fn stored() -> HashMap<Uuid, Vec<OwnedFd>> {
    let mut stored: HashMap<Uuid, Vec<OwnedFd>> = HashMap::new();
    for (number, name) in sd_notify::listen_fds_with_names().into_iter().flatten() {
        let nic = name.strip_prefix(TAP).and_then(|id| Uuid::try_parse(id).ok());
        if let (Some(nic), Some(queue)) = (nic, nic.and_then(|_| own(number))) {
            stored.entry(nic).or_default().push(queue);
        }
    }
    stored
}

/// Gives systemd a copy of a tap's descriptors, so that it outlives us.
pub fn store(nic: Uuid, queues: &[OwnedFd]) {
    let name = format!("{TAP}{nic}");
    let queues: Vec<BorrowedFd<'_>> = queues.iter().map(AsFd::as_fd).collect();
    for some in queues.chunks(MAX_FDS) {
        if let Err(error) = sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(&name)], some) {
            warn!(%nic, %error, "systemd does not keep its tap's descriptors");
        }
    }
}

/// The NIC is gone: systemd needn't keep anything for it.
pub fn forget(nic: Uuid) {
    let name = format!("{TAP}{nic}");
    if let Err(error) = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]) {
        debug!(%nic, %error, "systemd can't be told that the NIC is gone");
    }
}

/// The sockets accept. Without systemd nobody is told.
pub fn ready() {
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        debug!(%error, "nobody to be told that we are ready");
    }
}
