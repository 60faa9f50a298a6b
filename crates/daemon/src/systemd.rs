//! systemd: the socket it opened for us, and telling it when we are ready. Without it we open the socket ourselves.

use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::net::UnixListener;
use tracing::debug;

/// The name of the native socket in its unit (`FileDescriptorName=`).
const NATIVE: &str = "native";

/// The native socket: the one that was passed, or a new one at `path`, which every local user may connect to, since
/// each call is checked by its caller's credentials.
///
/// # Errors
/// When it can't be opened there; the error names the path.
pub fn native_listener(path: &Path) -> io::Result<UnixListener> {
    if let Some(passed) = passed(NATIVE) {
        let listener = std::os::unix::net::UnixListener::from(passed);
        listener.set_nonblocking(true)?;
        return UnixListener::from_std(listener);
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

/// A socket that systemd passed under that name. It comes as a number, which is made a descriptor by asking the kernel
/// for a copy of our own.
fn passed(name: &str) -> Option<OwnedFd> {
    let (number, _) = sd_notify::listen_fds_with_names().ok()?.find(|(_, n)| n == name)?;
    let this = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
    pidfd_getfd(this, number, PidfdGetfdFlags::empty()).ok()
}

/// The sockets accept. Without systemd nobody is told.
pub fn ready() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        debug!(%error, "nobody to be told that we are ready");
    }
}
