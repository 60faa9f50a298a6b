//! Where clients look for each of libvirt's daemons, and whether we are it.

use crate::config::{Libvirt, Policy};
use crate::systemd;
use patchcord_host::root::Root;
use patchcord_libvirt_wire::Driver;
use serde::Deserialize;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use tokio::net::UnixListener;
use tracing::{info, warn};

/// Whether the sockets of one of libvirt's daemons are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// Unless a daemon of libvirt's serves the same on this host.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
    /// Where systemd opens them, since whoever has it do so asks for it. This is where a configuration is silent about
    /// sockets that have to be asked for.
    #[serde(skip)]
    IfPassed,
}

/// A socket that clients come by.
#[derive(Debug)]
pub struct Door {
    pub(super) driver: Driver,
    pub(super) listener: UnixListener,
    pub(super) read_only: bool,
}

/// Opens the sockets below the root, or takes those that systemd passed. The lock on the root must be ours.
///
/// # Errors
/// When one can't be opened there; the error names the path.
pub fn open(root: &Root, libvirt: Libvirt) -> io::Result<Vec<Door>> {
    let mut doors = Vec::new();
    for driver in Driver::ALL {
        doors.extend(open_driver(root, driver, libvirt)?.into_iter().flatten());
    }
    Ok(doors)
}

fn open_driver(root: &Root, driver: Driver, libvirt: Libvirt) -> io::Result<Option<[Door; 2]>> {
    let switch = libvirt.of(driver);
    if switch == Switch::Off {
        return Ok(None);
    }
    let (path, read_only_path) = root.libvirt_sockets(driver.daemon());
    let [passed, passed_read_only] = passed_names(driver).map(|name| systemd::passed_listener(&name));
    match (switch, passed.is_some()) {
        (Switch::IfPassed, false) => return Ok(None),
        (Switch::Auto, false) => {
            if let Some(other) = [root.libvirtd_socket(), path.clone()].iter().find(|path| is_served(path)) {
                let (socket, daemon) = (other.display(), driver.daemon());
                info!(%socket, daemon, "a daemon of libvirt's serves there, so libvirt's clients are left to it");
                return Ok(None);
            }
        }
        _ => {}
    }
    // Who comes there may do everything: without systemd, which can give the socket to a group, that is root; where
    // polkit says who may, anybody can ask.
    let mode = if libvirt.authentication == Policy::Polkit { 0o666 } else { 0o600 };
    let listener = passed.map_or_else(|| listen(&path, mode), Ok)?;
    let read_only = passed_read_only.map_or_else(|| listen(&read_only_path, 0o666), Ok)?;
    Ok(Some([(listener, false), (read_only, true)].map(|(listener, read_only)| Door { driver, listener, read_only })))
}

/// Names of a driver's sockets in their units (`FileDescriptorName=`).
fn passed_names(driver: Driver) -> [String; 2] {
    let name = format!("libvirt-{}", driver.kind());
    [name.clone(), format!("{name}-ro")]
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
