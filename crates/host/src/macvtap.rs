//! Macvtaps: made on a device, and handed over by way of their device nodes.
//!
//! The kernel has a node made for each macvtap, `/dev/tapN` with N its link's index. All network namespaces share one
//! /dev, and two of them may each have a link of that index: then the first one's node is there, and the second has none
//! (`macvtap_device_event` of the kernel's drivers/net/macvtap.c, which does without). So the number that sysfs gives is
//! what counts; where the node under that name is not there or is another's, we make one of our own.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use patchcord_core::plan::{Handover, Index, LinkKind, MacvtapSpec, Observed};
use rustix::fs::{AtFlags, CWD, Dev, FileType, Mode, OFlags, StatVfsMountFlags, Uid, makedev};
use rustix::io::Errno;

use crate::cause::Cause;
use crate::kernel::{Kernel, Run};
use crate::{Error, Result, sys};

/// The major number of macvtaps' nodes; none while the kernel knows no macvtap.
pub fn device_major() -> Option<u32> {
    let devices = fs::read_to_string("/proc/devices").ok()?;
    let mut lines = devices.lines().map(str::split_whitespace);
    lines.find_map(|mut words| {
        let number = words.next()?.parse().ok()?;
        (words.next() == Some("macvtap")).then_some(number)
    })
}

/// The directory with the nodes of macvtaps that are opened by name, each called like its link: a link to the kernel's
/// node, or a node of our own.
#[derive(Debug)]
pub(crate) struct Nodes {
    directory: PathBuf,
    /// Those that are there.
    of: HashMap<Index, PathBuf>,
}

impl Nodes {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, of: HashMap::new() }
    }

    /// The macvtap is gone or about to be.
    pub(crate) fn remove(&mut self, index: Index) {
        if let Some(path) = self.of.remove(&index) {
            remove(&path);
        }
    }

    /// Finds out whose nodes are there, and removes those of nobody.
    pub(crate) fn sweep(&mut self, observed: &Observed) {
        self.of.clear();
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let link = entry.file_name().to_str().and_then(|name| observed.link_named(name));
            match link.filter(|l| l.kind == LinkKind::Macvtap && l.mark.is_some() && !l.is_doomed()) {
                Some(link) => drop(self.of.insert(link.index, entry.path())),
                None => remove(&entry.path()),
            }
        }
    }
}

/// What can't be removed is looked at again at the next start.
fn remove(path: &Path) {
    let _ = rustix::fs::unlink(path);
}

/// A macvtap's node.
enum Node {
    /// The kernel's.
    Kernels(PathBuf),
    /// One that we made, under the link's name in our directory.
    Own(PathBuf),
}

impl Node {
    fn path(&self) -> &Path {
        match self {
            Self::Kernels(path) | Self::Own(path) => path,
        }
    }
}

impl Kernel {
    /// Makes a macvtap, down, and hands it over: by descriptors of its node, or by the node.
    pub(crate) fn make_macvtap(&mut self, spec: &MacvtapSpec, run: &mut Run) -> Result<Index, Cause> {
        let index = self.make_on_device(&spec.link, true)?;
        match self.hand_over(index, spec) {
            Ok(queues) => {
                if !queues.is_empty() {
                    run.taps.push((index, spec.link.mark.id, queues));
                }
                Ok(index)
            }
            Err(error) => Err(self.unmake(index, error.into())),
        }
    }

    fn hand_over(&mut self, index: Index, spec: &MacvtapSpec) -> Result<Vec<OwnedFd>> {
        let name = spec.link.name.as_str();
        let number = device_number(name, index)?;
        let own = self.nodes.directory.join(name);
        let node = find(index, number, &own)?;
        match spec.handover {
            Handover::Descriptor => {
                let queues = (0..spec.queues.max(1)).map(|_| open(&node, name, number, spec.queues > 1)).collect();
                if let Node::Own(path) = &node {
                    remove(path);
                }
                queues
            }
            Handover::Name { uid } => {
                self.nodes.of.insert(index, own.clone());
                give(&node, uid.unwrap_or(0))?;
                if let Node::Kernels(path) = &node {
                    remove(&own);
                    rustix::fs::symlink(path, &own).map_err(node_error("link", &own, ""))?;
                }
                Ok(Vec::new())
            }
        }
    }
}

/// The number of the node of the macvtap called `name`; none where there is no such macvtap.
pub(crate) fn number_of(name: &str) -> Option<Dev> {
    let tap = fs::read_dir(format!("/sys/class/net/{name}/macvtap")).ok()?.flatten().next()?;
    number(&fs::read_to_string(tap.path().join("dev")).ok()?)
}

/// A device's number as sysfs writes it.
fn number(text: &str) -> Option<Dev> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// The number of a new macvtap's node.
fn device_number(name: &str, index: Index) -> Result<Dev> {
    let path = PathBuf::from(format!("/sys/class/net/{name}/macvtap/tap{}/dev", index.0));
    let hint = "; /sys must be that of the daemon's network namespace";
    let text = fs::read_to_string(&path).map_err(node_error("read", &path, hint))?;
    number(&text).ok_or_else(|| Error::Content { path, problem: format!("'{}' is no device number", text.trim()) })
}

/// The kernel's node if it has that number, else one of our own.
fn find(index: Index, number: Dev, own: &Path) -> Result<Node> {
    let kernels = PathBuf::from(format!("/dev/tap{}", index.0));
    if is_device(&kernels, number) {
        return Ok(Node::Kernels(kernels));
    }
    remove(own);
    let parent = own.parent().unwrap_or(own);
    let no_devices = rustix::fs::statvfs(parent).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::NODEV));
    if no_devices {
        let hint = "; /dev/tapN is not there or another namespace's, and our own directory is mounted nodev: mount a \
                    devtmpfs at /dev, or use a root on a file system with devices";
        return Err(node_error("make", own, hint)(Errno::ACCESS));
    }
    let hint = "; /dev/tapN is not there or another namespace's, and to make one takes CAP_MKNOD";
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(CWD, own, FileType::CharacterDevice, mode, number).map_err(node_error("make", own, hint))?;
    Ok(Node::Own(own.to_owned()))
}

fn is_device(path: &Path, number: Dev) -> bool {
    let stat = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW);
    stat.is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::CharacterDevice && s.st_rdev == number)
}

/// Opens one queue, blocking as taps' are.
fn open(node: &Node, name: &str, number: Dev, multi_queue: bool) -> Result<OwnedFd> {
    let path = node.path();
    let hint = "; the daemon keeps the right to it only if the kernel had macvtap when the daemon started, or \
                'plug = \"macvtap\"' is configured: load the module macvtap, and start the daemon again";
    let queue = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
        .map_err(|errno| node_error("open", path, if errno == Errno::ACCESS { hint } else { "" })(errno))?;
    // It may have been replaced since it was looked at.
    if rustix::fs::fstat(&queue).map_err(node_error("look at", path, ""))?.st_rdev != number {
        return Err(node_error("open", path, "; it is another device's now")(Errno::NXIO));
    }
    let mut flags = sys::IFF_TAP | sys::IFF_NO_PI | sys::IFF_VNET_HDR;
    if multi_queue {
        flags |= sys::IFF_MULTI_QUEUE;
    }
    // The kernel looks at the flags only.
    sys::tun_set_iff(queue.as_fd(), name, flags).map_err(node_error("set up", path, ""))?;
    Ok(queue)
}

/// Lets that user open a node, and nobody else.
fn give(node: &Node, uid: u32) -> Result<()> {
    let path = node.path();
    let hint = "; to give it to another user takes CAP_CHOWN";
    let stat = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).map_err(node_error("look at", path, ""))?;
    if stat.st_mode & 0o777 != 0o600 {
        // While it is ours: to change that of others takes more rights.
        rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR).map_err(node_error("restrict", path, ""))?;
    }
    if stat.st_uid == uid {
        return Ok(());
    }
    let owner = Some(Uid::from_raw(uid));
    rustix::fs::chownat(CWD, path, owner, None, AtFlags::SYMLINK_NOFOLLOW).map_err(node_error("give away", path, hint))
}

fn node_error<E: Into<io::Error>>(op: &'static str, path: &Path, hint: &'static str) -> impl FnOnce(E) -> Error {
    let path = path.to_owned();
    move |source| Error::Node { op, path, hint, source: source.into() }
}
