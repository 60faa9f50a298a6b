//! Records on disk: one file per object, each written whole or not at all.
//!
//! A file is written beside its place, then renamed over it, so a reader and a crash see the old or the new one.
//! Definitions survive a loss of power as well ([`Durability::Power`]); run state ends with the boot, so for it the
//! rename is enough ([`Durability::Crash`]), and no file system is waited for.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::{Error, Result, ident};

/// Prefix of files that are being written; those of a crashed writer are swept at start.
const TEMPORARY: &str = ".tmp-";

/// What a written file must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A crash of the process: enough for what ends with the boot.
    Crash,
    /// A loss of power: file and directory are flushed before the write counts as done.
    Power,
}

/// Who may read what a directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileMode {
    /// The daemon's user only: files 0600, directories 0700.
    Private,
    /// Everyone: files 0644, directories 0755; for what dnsmasq or libnss_libvirt read under users of their own.
    Shared,
}

impl FileMode {
    fn file(self) -> Mode {
        Mode::from_raw_mode(if self == Self::Private { 0o600 } else { 0o644 })
    }

    fn directory(self) -> Mode {
        Mode::from_raw_mode(if self == Self::Private { 0o700 } else { 0o755 })
    }
}

/// Limits for reading a whole directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest file, in bytes.
    pub file: usize,
    /// Most files.
    pub files: usize,
}

impl Default for Limits {
    /// 4 MiB per file, 100,000 files.
    fn default() -> Self {
        Self { file: 4 << 20, files: 100_000 }
    }
}

/// One record, as read.
#[derive(Debug)]
pub struct Entry {
    /// The file's name without the suffix.
    pub name: String,
    /// What it holds, or why it can't be read; one bad file doesn't hide the others.
    pub contents: Result<Vec<u8>>,
}

/// A directory of records.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    path: PathBuf,
    mode: FileMode,
}

impl Directory {
    /// Opens `path`, making it (with `mode`) and its parents (0755) where they are missing.
    ///
    /// # Errors
    /// [`Error::File`] when it can't be made or opened.
    pub fn open(path: impl Into<PathBuf>, mode: FileMode) -> Result<Self> {
        let path = path.into();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = match rustix::fs::open(&path, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                make_directory(&path, mode)?;
                rustix::fs::open(&path, flags, Mode::empty())
            }
            other => other,
        };
        Ok(Self { fd: fd.map_err(Error::file("open", &path))?, path, mode })
    }

    /// The directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the file `name`, atomically.
    ///
    /// # Errors
    /// [`Error::File`], with the path and the cause (a full or read-only disk, say); what was there stays.
    pub fn write(&self, name: &str, contents: &[u8], durability: Durability) -> Result<()> {
        check_file_name(name)?;
        let path = self.path.join(name);
        let temporary = temporary_name()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(&self.fd, &temporary, flags, self.mode.file()).map_err(Error::file("write", &path))?;
        let result = (|| {
            // The process's umask must not decide what dnsmasq can read.
            rustix::fs::fchmod(&file, self.mode.file())?;
            write_all(file.as_fd(), contents)?;
            if durability == Durability::Power {
                rustix::fs::fsync(&file)?;
            }
            rustix::fs::renameat(&self.fd, &temporary, &self.fd, name)
        })();
        if let Err(errno) = result {
            // The first error is the one that counts; a leftover is swept at the next start.
            let _ = rustix::fs::unlinkat(&self.fd, &temporary, AtFlags::empty());
            return Err(Error::file("write", path)(errno));
        }
        self.flush(durability)
    }

    /// Writes the file `name` in its place, where a reader after a crash may find it empty or half written: for what
    /// counts only once it was [renamed](Self::rename), and costs half as much as [`Self::write`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn create(&self, name: &str, contents: &[u8]) -> Result<()> {
        check_file_name(name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let written = rustix::fs::openat(&self.fd, name, flags, self.mode.file())
            .and_then(|file| write_all(file.as_fd(), contents));
        written.map_err(|errno| {
            let _ = rustix::fs::unlinkat(&self.fd, name, AtFlags::empty());
            Error::file("write", self.path.join(name))(errno)
        })
    }

    /// Gives a file another name, in place of what has it.
    ///
    /// # Errors
    /// [`Error::File`]; then both are what they were.
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        check_file_name(from)?;
        check_file_name(to)?;
        rustix::fs::renameat(&self.fd, from, &self.fd, to)
            .map_err(|errno| Error::file("rename", self.path.join(from))(errno))
    }

    /// Reads the file `name`; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::File`] when it can't be read, [`Error::Content`] when it is longer than `limit` bytes or no file.
    pub fn read(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>> {
        check_file_name(name)?;
        let path = self.path.join(name);
        // Non-blocking, for the sake of a FIFO that someone put there.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(Error::file("read", &path))?,
        };
        let stat = rustix::fs::fstat(&file).map_err(Error::file("read", &path))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::Content { path, problem: "is no regular file".to_owned() });
        }
        let mut contents = Vec::with_capacity(usize::try_from(stat.st_size).unwrap_or(0).min(limit) + 1);
        let mut chunk = [0; 16384];
        loop {
            match rustix::io::read(&file, &mut chunk) {
                Ok(0) => return Ok(Some(contents)),
                Ok(count) => contents.extend_from_slice(&chunk[..count]),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::file("read", path)(errno)),
            }
            if contents.len() > limit {
                return Err(Error::Content { path, problem: format!("is longer than {limit} bytes") });
            }
        }
    }

    /// Deletes the file `name`; false when there was none.
    ///
    /// # Errors
    /// [`Error::File`] when it can't be deleted.
    pub fn delete(&self, name: &str, durability: Durability) -> Result<bool> {
        check_file_name(name)?;
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(Error::file("delete", self.path.join(name))(errno)),
            Ok(()) => self.flush(durability).map(|()| true),
        }
    }

    /// Names of the files that end with `suffix` (".xml"), without it, sorted.
    ///
    /// # Errors
    /// [`Error::File`] when the directory can't be read, [`Error::Content`] when it holds more than `most` files.
    pub fn names(&self, suffix: &str, most: usize) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(Error::file("read", &self.path))? {
            let entry = entry.map_err(Error::file("read", &self.path))?;
            let is_directory = entry.file_type() == FileType::Directory;
            let Some(name) = file_name(entry.file_name()) else { continue };
            match name.strip_suffix(suffix) {
                Some(stem) if !stem.is_empty() && !is_directory && !is_temporary(name) => {
                    names.push(stem.to_owned());
                }
                _ => continue,
            }
            if names.len() > most {
                let problem = format!("holds more than {most} files");
                return Err(Error::Content { path: self.path.clone(), problem });
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Reads all files that end with `suffix`, in the order of their names.
    ///
    /// # Errors
    /// As [`Directory::names`]; what is wrong with a single file stands in its entry.
    pub fn read_all(&self, suffix: &str, limits: Limits) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for name in self.names(suffix, limits.files)? {
            match self.read(&format!("{name}{suffix}"), limits.file) {
                // Gone since, or a link to nothing.
                Ok(None) => {}
                Ok(Some(contents)) => entries.push(Entry { name, contents: Ok(contents) }),
                Err(error) => entries.push(Entry { name, contents: Err(error) }),
            }
        }
        Ok(entries)
    }

    /// Removes what a crashed writer left; call it at start, while nobody writes.
    ///
    /// # Errors
    /// [`Error::File`] when the directory can't be read.
    pub fn sweep(&self) -> Result<()> {
        for entry in Dir::read_from(&self.fd).map_err(Error::file("read", &self.path))? {
            let entry = entry.map_err(Error::file("read", &self.path))?;
            if file_name(entry.file_name()).is_some_and(is_temporary) {
                // It harms nobody if it stays.
                let _ = rustix::fs::unlinkat(&self.fd, entry.file_name(), AtFlags::empty());
            }
        }
        Ok(())
    }

    /// Makes `NAME` a symbolic link to `target`, replacing what is there.
    ///
    /// # Errors
    /// [`Error::File`] when it can't be made.
    pub fn link(&self, name: &str, target: &str, durability: Durability) -> Result<()> {
        check_file_name(name)?;
        let temporary = temporary_name()?;
        let path = self.path.join(name);
        rustix::fs::symlinkat(target, &self.fd, &temporary).map_err(Error::file("link", &path))?;
        if let Err(errno) = rustix::fs::renameat(&self.fd, &temporary, &self.fd, name) {
            let _ = rustix::fs::unlinkat(&self.fd, &temporary, AtFlags::empty());
            return Err(Error::file("link", path)(errno));
        }
        self.flush(durability)
    }

    /// Makes the directory's entries durable, if asked for.
    fn flush(&self, durability: Durability) -> Result<()> {
        match durability {
            Durability::Crash => Ok(()),
            Durability::Power => rustix::fs::fsync(&self.fd).map_err(Error::file("flush", &self.path)),
        }
    }
}

/// Definitions in libvirt's layout: `NAME.xml`, and `autostart/NAME.xml`, a link to it.
#[derive(Debug)]
pub struct Definitions {
    files: Directory,
    autostart: Directory,
}

impl Definitions {
    /// Opens the directory and its `autostart`, making what is missing, and sweeps both.
    ///
    /// # Errors
    /// As [`Directory::open`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let files = Directory::open(path, FileMode::Private)?;
        let autostart = Directory::open(files.path().join("autostart"), FileMode::Private)?;
        files.sweep()?;
        autostart.sweep()?;
        Ok(Self { files, autostart })
    }

    /// The directory of the definitions themselves.
    pub fn files(&self) -> &Directory {
        &self.files
    }

    /// Writes one definition.
    ///
    /// # Errors
    /// As [`Directory::write`].
    pub fn write(&self, name: &str, xml: &[u8]) -> Result<()> {
        self.files.write(&format!("{name}.xml"), xml, Durability::Power)
    }

    /// Deletes one definition and its autostart; false when there was none.
    ///
    /// # Errors
    /// As [`Directory::delete`].
    pub fn delete(&self, name: &str) -> Result<bool> {
        self.set_autostart(name, false)?;
        self.files.delete(&format!("{name}.xml"), Durability::Power)
    }

    /// Reads all definitions.
    ///
    /// # Errors
    /// As [`Directory::read_all`].
    pub fn read_all(&self, limits: Limits) -> Result<Vec<Entry>> {
        self.files.read_all(".xml", limits)
    }

    /// Marks a definition to be started with the daemon, or not. The link is relative, so a copied or moved
    /// directory stays whole.
    ///
    /// # Errors
    /// As [`Directory::link`] and [`Directory::delete`].
    pub fn set_autostart(&self, name: &str, autostart: bool) -> Result<()> {
        let file = format!("{name}.xml");
        if autostart {
            self.autostart.link(&file, &format!("../{file}"), Durability::Power)
        } else {
            self.autostart.delete(&file, Durability::Power).map(|_| ())
        }
    }

    /// Names that are marked, whether by us or by libvirt (whose links are absolute).
    ///
    /// # Errors
    /// As [`Directory::names`].
    pub fn autostarted(&self, limits: Limits) -> Result<Vec<String>> {
        self.autostart.names(".xml", limits.files)
    }
}

/// Makes `path` with `mode`, and its parents readable for everyone.
fn make_directory(path: &Path, mode: FileMode) -> Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists()) {
        make_directory(parent, FileMode::Shared)?;
    }
    match rustix::fs::mkdir(path, mode.directory()) {
        Ok(()) => rustix::fs::chmod(path, mode.directory()).map_err(Error::file("make", path)),
        Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(Error::file("make", path)(errno)),
    }
}

/// A name for a file that is being written.
fn temporary_name() -> Result<String> {
    Ok(format!("{TEMPORARY}{:016x}", u64::from_ne_bytes(ident::random()?)))
}

/// Whether that is the name of such a file, and not of a record whose object is called `.tmp-something`.
fn is_temporary(name: &str) -> bool {
    let random = name.strip_prefix(TEMPORARY).unwrap_or_default();
    random.len() == 16 && random.bytes().all(|b| b.is_ascii_hexdigit())
}

/// One path component that is no special one.
fn check_file_name(name: &str) -> Result<()> {
    let problem = if name.is_empty() || name == "." || name == ".." {
        "is not allowed"
    } else if name.len() > 255 {
        "is longer than 255 bytes"
    } else if name.bytes().any(|byte| matches!(byte, b'/' | 0)) {
        "must not contain '/' or NUL"
    } else {
        return Ok(());
    };
    Err(Error::Name { what: "file", name: name.to_owned(), problem })
}

/// A directory entry's name; ours are all UTF-8.
fn file_name(name: &CStr) -> Option<&str> {
    name.to_str().ok().filter(|name| *name != "." && *name != "..")
}

pub(crate) fn write_all(file: impl AsFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&file, bytes) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
