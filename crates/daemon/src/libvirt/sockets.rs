//! Where libvirt's clients look for the network daemon, and whether we are it.

use crate::systemd;
use patchcord_host::root::Root;
use serde::Deserialize;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use tokio::net::UnixListener;
use tracing::{info, warn};

/// Whether a socket of libvirt's is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// Unless a daemon of libvirt's serves networks on this host.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// A socket that clients come by.
#[derive(Debug)]
pub struct Door {
    pub(super) listener: UnixListener,
    pub(super) read_only: bool,
}

/// libvirt's name for the daemon of networks.
const NETWORK: &str = "virtnetworkd";
/// Names of the sockets in their units (`FileDescriptorName=`).
const PASSED: [&str; 2] = ["libvirt-network", "libvirt-network-ro"];

/// Opens the sockets below the root, or takes those that systemd passed. The lock on the root must be ours.
///
/// # Errors
/// When one can't be opened there; the error names the path.
pub fn open(root: &Root, switch: Switch) -> io::Result<Vec<Door>> {
    let (path, read_only_path) = root.libvirt_sockets(NETWORK);
    if switch == Switch::Off {
        return Ok(Vec::new());
    }
    // Whoever has systemd open them wants them served.
    let [passed, passed_read_only] = PASSED.map(systemd::passed_listener);
    if switch == Switch::Auto
        && passed.is_none()
        && let Some(other) = [root.libvirtd_socket(), path.clone()].iter().find(|path| is_served(path))
    {
        info!(socket = %other.display(), "a daemon of libvirt's serves networks, so libvirt's clients are left to it");
        return Ok(Vec::new());
    }
    // Who may write may do everything: without systemd, which can give the socket to a group, that is root.
    let listener = passed.map_or_else(|| listen(&path, 0o600), Ok)?;
    let read_only = passed_read_only.map_or_else(|| listen(&read_only_path, 0o666), Ok)?;
    Ok(vec![Door { listener, read_only: false }, Door { listener: read_only, read_only: true }])
}

fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("can't listen on {}: {error}", path.display()));
    if is_served(path) {
        warn!(socket = %path.display(), "whoever listens there loses its clients to us, as is configured");
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(named)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(named)?;
    Ok(listener)
}

/// Whether somebody listens there.
fn is_served(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}
