//! Identities: of this installation, this boot and this network namespace; and random bytes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::rand::GetRandomFlags;
use uuid::{Builder, Uuid};

use crate::store::{Directory, Durability, FileMode};
use crate::{Error, Result};

/// Reads this installation's id, which the marks on our kernel objects say, in the file `path`; at the first start it is made.
///
/// # Errors
/// [`Error::File`] when it can't be read or written. [`Error::Content`] when the file holds something else: with another id all
/// that is there would be somebody else's.
pub fn instance(path: &Path) -> Result<Uuid> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(Error::Name { what: "file", name: path.display().to_string(), problem: "is no file's path" });
    };
    let directory = Directory::open(parent, FileMode::Shared)?;
    let Some(bytes) = directory.read(name, 4096)? else {
        let id = random_uuid()?;
        directory.write(name, format!("{id}\n").as_bytes(), Durability::Power)?;
        return Ok(id);
    };
    let text = String::from_utf8_lossy(&bytes);
    Uuid::try_parse(text.trim()).ok().filter(|id| !id.is_nil()).ok_or_else(|| Error::Content {
        path: path.into(),
        problem: format!(
            "{:?} is not the id of this installation, a UUID: put back the one that the alias of its links says \
             (patchcord:ID:...), or remove the file; a new one is made then, and what bears the former one counts as others'",
            text.trim().chars().take(64).collect::<String>()
        ),
    })
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
    fn an_instance_is_made_once_and_nothing_else_is_taken_for_one() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("var/lib/patchcord/instance");
        let made = instance(&path).unwrap();
        assert_eq!(made.get_version_num(), 4);
        assert_eq!(instance(&path).unwrap(), made);
        for damaged in ["rubbish\n", "", "00000000-0000-0000-0000-000000000000\n"] {
            fs::write(&path, damaged).unwrap();
            let error = instance(&path).unwrap_err();
            assert!(error.to_string().contains("lib/patchcord/instance"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), damaged, "it is left as it is");
        }
    }

    #[test]
    fn boot_and_namespace_are_known() {
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
        assert_ne!(network_namespace().unwrap(), 0);
    }
}
