//! Getting a tap's or macvtap's descriptors back from the process that holds them, after the daemon was restarted.
//!
//! It takes the right to look into that process (`PTRACE_MODE_ATTACH_REALCREDS`, see pidfd_getfd(2)), which the daemon
//! has only until it confines itself.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::process::PidfdGetfdFlags;

use crate::process::Process;
use crate::{macvtap, tap};

/// Descriptors of one process that are looked at, at most: a process with more of them is no VMM.
const MOST: usize = 65_536;

/// Copies of the descriptors that `process` has of the tap or macvtap called `name`, one for each queue. Empty when it has none,
/// or when we may not look.
pub fn tap_descriptors(process: &Process, name: &str) -> Vec<OwnedFd> {
    let directory = format!("/proc/{}/fd", process.id().pid);
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let tun = Path::new("/dev/net/tun");
    let macvtap = macvtap::number_of(name);
    // The name of a macvtap's node says nothing, and the node may be gone.
    let is_macvtap = |path: &Path| {
        let file = fs::metadata(path).ok().filter(|file| file.file_type().is_char_device());
        file.is_some_and(|file| macvtap == Some(file.rdev()))
    };
    let numbers = entries.take(MOST).flatten().filter_map(|entry| {
        let leads_to = fs::read_link(entry.path()).ok()?;
        let is_tap = leads_to == tun || is_macvtap(&entry.path());
        if is_tap { entry.file_name().to_str()?.parse().ok() } else { None }
    });
    let copies = numbers
        .filter_map(|number| rustix::process::pidfd_getfd(process.as_fd(), number, PidfdGetfdFlags::empty()).ok());
    copies.filter(|fd| tap::name_of(fd.as_fd()).is_ok_and(|tap| tap == name)).collect()
}
