//! Watching files and directories by one inotify instance, however many they are: the kernel allows each user 128
//! instances by default, and tens of thousands of watches.
//!
//! A file is watched by the directories through which its path leads: a symbolic link that is pointed elsewhere, a
//! file that is replaced, and one that is not there yet are all changes of directories. /etc/resolv.conf is all of
//! these in its life.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::{Error, Result};

/// Most symbolic links in a path, as the kernel has it.
const MOST_LINKS: usize = 40;

/// What is watched, and what changed.
///
/// The descriptor becomes readable when there is something to [`Files::read`].
#[derive(Debug)]
pub struct Files {
    inotify: OwnedFd,
    /// Watch descriptors and what depends on each.
    watches: BTreeMap<i32, Watch>,
    files: BTreeSet<PathBuf>,
    directories: BTreeSet<PathBuf>,
}

/// What there was to read.
#[derive(Debug)]
pub struct Changes {
    /// What changed, each path once. For a watched directory these are paths of its entries, or its own when it is gone
    /// or when anything in it may have changed.
    pub paths: BTreeSet<PathBuf>,
    /// Why some changes may go unnoticed: [`Error::Watch`] when the kernel's notes can't be read, [`Error::File`] for each
    /// file whose new way can't be watched.
    pub errors: Vec<Error>,
}

/// One directory of the kernel's, and who is interested in it.
#[derive(Debug, Default)]
struct Watch {
    /// Watched files, by an entry here that their path leads through.
    files: BTreeMap<OsString, BTreeSet<PathBuf>>,
    /// Watched directories that this is; by more than one path where links lead here.
    directories: BTreeSet<PathBuf>,
}

impl Files {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// [`Error::Watch`] when the user has no instance left.
    pub fn new() -> Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|errno| Error::Watch { source: errno.into() })?;
        Ok(Self { inotify, watches: BTreeMap::new(), files: BTreeSet::new(), directories: BTreeSet::new() })
    }

    /// Watches a file by its absolute path; it need not exist.
    ///
    /// # Errors
    /// [`Error::File`] when its directory can't be watched.
    pub fn watch_file(&mut self, path: impl Into<PathBuf>) -> Result<()> {
        let path = path.into();
        self.follow(&path)?;
        self.files.insert(path);
        Ok(())
    }

    /// Watches all entries of a directory, which must exist. When it is gone, so is the watch.
    ///
    /// # Errors
    /// [`Error::File`] when it can't be watched.
    pub fn watch_directory(&mut self, path: impl Into<PathBuf>) -> Result<()> {
        let path = path.into();
        let wd = self.add(&path).map_err(Error::file("watch", &path))?;
        self.watches.entry(wd).or_default().directories.insert(path.clone());
        self.directories.insert(path);
        Ok(())
    }

    /// What changed since the last call. When the kernel lost count it is everything watched.
    pub fn read(&mut self) -> Changes {
        let mut errors = Vec::new();
        let mut changed = BTreeSet::new();
        // Files whose way there may lead elsewhere now.
        let mut moved = BTreeSet::new();
        let mut buffer = [MaybeUninit::uninit(); 16384];
        let mut reader = Reader::new(self.inotify.as_fd(), &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(errno) => {
                    errors.push(Error::Watch { source: errno.into() });
                    break;
                }
            };
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                changed.extend(self.files.iter().chain(&self.directories).cloned());
                moved.extend(self.files.iter().cloned());
                continue;
            }
            let Some(watch) = self.watches.get(&event.wd()) else { continue };
            match event.file_name() {
                Some(name) => {
                    let name = OsStr::from_bytes(name.to_bytes());
                    changed.extend(watch.directories.iter().map(|directory| directory.join(name)));
                    if let Some(files) = watch.files.get(name) {
                        changed.extend(files.iter().cloned());
                        moved.extend(files.iter().cloned());
                    }
                }
                // The directory itself was moved or deleted, or its file system unmounted.
                None => {
                    let files = watch.files.values().flatten();
                    moved.extend(files.clone().cloned());
                    changed.extend(files.chain(&watch.directories).cloned());
                }
            }
            if event.events().contains(ReadFlags::IGNORED) {
                self.watches.remove(&event.wd());
            }
        }
        errors.extend(moved.iter().filter_map(|path| self.follow_again(path).err()));
        Changes { paths: changed, errors }
    }

    /// Forgets the way to a file and follows it anew.
    fn follow_again(&mut self, path: &Path) -> Result<()> {
        let before: Vec<i32> = self.watches.keys().copied().collect();
        for watch in self.watches.values_mut() {
            watch.files.retain(|_, files| {
                files.remove(path);
                !files.is_empty()
            });
        }
        self.follow(path)?;
        for wd in before {
            if self.watches.get(&wd).is_some_and(|watch| watch.files.is_empty() && watch.directories.is_empty()) {
                self.watches.remove(&wd);
                // The kernel may have removed it already, with the directory.
                let _ = inotify::remove_watch(&self.inotify, wd);
            }
        }
        Ok(())
    }

    /// Watches every directory on the way to `path` in which a step is a symbolic link, is the last, or is missing.
    fn follow(&mut self, path: &Path) -> Result<()> {
        // A directory may go between the look and the watch; what is there instead is found by another look.
        for _ in 0..MOST_LINKS {
            match self.follow_once(path) {
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                other => return other.map_err(Error::file("watch", path)),
            }
        }
        Err(Error::file("watch", path)(Errno::NOENT))
    }

    fn follow_once(&mut self, path: &Path) -> rustix::io::Result<()> {
        // Components still to go, the next one last.
        let mut rest = components(path);
        let mut here = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == ".." {
                here.pop();
                continue;
            }
            let next = here.join(&name);
            let mut step = Step::at(&next, rest.is_empty());
            if !matches!(step, Step::Directory) {
                let wd = self.add(&here)?;
                let files = &mut self.watches.entry(wd).or_default().files;
                files.entry(name).or_default().insert(path.to_owned());
                // It may have become another before the watch was there.
                step = Step::at(&next, rest.is_empty());
            }
            match step {
                Step::End => return Ok(()),
                Step::Directory => here = next,
                Step::Link(target) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Errno::LOOP);
                    }
                    if target.is_absolute() {
                        here = PathBuf::from("/");
                    }
                    rest.extend(components(&target));
                }
            }
        }
        Ok(())
    }

    fn add(&self, directory: &Path) -> rustix::io::Result<i32> {
        // With ATTRIB, since a program becomes one by its mode.
        let events = WatchFlags::ATTRIB
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MODIFY
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&self.inotify, directory, events)
    }
}

impl AsFd for Files {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// One step on the way to a file.
enum Step {
    /// On to where this link points.
    Link(PathBuf),
    /// On into this directory.
    Directory,
    /// The file, or something missing before it.
    End,
}

impl Step {
    fn at(path: &Path, last: bool) -> Self {
        match std::fs::read_link(path) {
            Ok(target) => Self::Link(target),
            Err(_) if !last && path.is_dir() => Self::Directory,
            Err(_) => Self::End,
        }
    }
}

/// A path's components, the first one last; `.` and the root left out.
fn components(path: &Path) -> Vec<OsString> {
    let parts = path.components().rev();
    parts
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}
