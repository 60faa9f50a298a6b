//! Identities: of this installation, this boot and this network namespace; and random bytes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::rand::GetRandomFlags;
use uuid::{Builder, Uuid};

use crate::store::{Directory, Durability, FileMode};
use crate::{Error, Result};

/// This installation's id, and how we came by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// What the marks on our kernel objects say.
    pub id: Uuid,
    /// Where it comes from.
    pub origin: InstanceOrigin,
}

/// Where the instance id comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceOrigin {
    /// It was there.
    Read,
    /// This is the first start.
    Made,
    /// The file held something else, which is given; objects marked with a former id count as foreign.
    Repaired(String),
}

/// Reads the id in the file `path`, or makes it.
///
/// # Errors
/// [`Error::File`] when it can't be read or written.
pub fn instance(path: &Path) -> Result<Instance> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(Error::Name { what: "file", name: path.display().to_string(), problem: "is no file's path" });
    };
    let directory = Directory::open(parent, FileMode::Shared)?;
    let origin = match directory.read(name, 4096)? {
        None => InstanceOrigin::Made,
        Some(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            match Uuid::try_parse(text.trim()) {
                Ok(id) if !id.is_nil() => return Ok(Instance { id, origin: InstanceOrigin::Read }),
                _ => InstanceOrigin::Repaired(text.trim().chars().take(64).collect()),
            }
        }
    };
    let id = random_uuid()?;
    directory.write(name, format!("{id}\n").as_bytes(), Durability::Power)?;
    Ok(Instance { id, origin })
}

/// This boot's id, which the kernel draws at start.
///
/// # Errors
/// [`Error::File`] or [`Error::Content`] when the kernel doesn't say.
pub fn boot_id() -> Result<Uuid> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(path).map_err(Error::file("read", path))?;
    Uuid::try_parse(text.trim())
        .map_err(|_| Error::Content { path: path.into(), problem: format!("{:?} is no UUID", text.trim()) })
}

/// The calling thread's network namespace, as its inode number: unique among those that exist.
///
/// # Errors
/// [`Error::File`] without /proc.
pub fn network_namespace() -> Result<u64> {
    let path = "/proc/thread-self/ns/net";
    Ok(fs::metadata(path).map_err(Error::file("read", path))?.ino())
}

/// `N` random bytes from the kernel.
///
/// # Errors
/// [`Error::Random`], which no kernel gives once it has started.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match rustix::rand::getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::Random { source: errno.into() }),
        }
    }
    Ok(bytes)
}

/// A random UUID (version 4).
///
/// # Errors
/// As [`random`].
pub fn random_uuid() -> Result<Uuid> {
    Ok(Builder::from_random_bytes(random()?).into_uuid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_is_made_once_and_repaired_when_damaged() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("var/lib/patchcord/instance");
        let made = instance(&path).unwrap();
        assert_eq!(made.origin, InstanceOrigin::Made);
        assert_eq!(made.id.get_version_num(), 4);
        assert_eq!(instance(&path).unwrap(), Instance { id: made.id, origin: InstanceOrigin::Read });
        fs::write(&path, "rubbish\n").unwrap();
        let repaired = instance(&path).unwrap();
        assert_eq!(repaired.origin, InstanceOrigin::Repaired("rubbish".into()));
        assert_ne!(repaired.id, made.id);
        assert_eq!(instance(&path).unwrap().id, repaired.id);
    }

    #[test]
    fn boot_and_namespace_are_known() {
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
        assert_ne!(network_namespace().unwrap(), 0);
    }
}
