//! The directory of hooks: which of its files are called.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::{Error, Result};

/// Most hooks that are called.
pub const MOST: usize = 64;

/// Longest directory that is read to its end, in entries.
const MOST_ENTRIES: usize = 4096;

/// What a directory of hooks holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Absolute paths of those that are called, in the order of their names.
    pub programs: Vec<String>,
    /// Names of files that are passed over though they look like hooks, each with the reason.
    pub passed_over: Vec<(String, &'static str)>,
}

/// Reads a directory; one that is not there holds no hooks. Hidden files, backups (`*~`) and directories are none.
///
/// # Errors
/// [`Error::File`] when it is there and can't be read.
pub fn list(directory: &Path) -> Result<Hooks> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Hooks::default()),
        Err(error) => return Err(Error::file("read", directory)(error)),
    };
    let mut names = Vec::new();
    for entry in entries.take(MOST_ENTRIES) {
        names.push(entry.map_err(Error::file("read", directory))?.file_name());
    }
    names.sort_unstable();
    let mut hooks = Hooks::default();
    for name in names {
        let path = directory.join(&name);
        let lossy = name.to_string_lossy();
        if lossy.starts_with('.') || lossy.ends_with('~') {
            continue;
        }
        // Links count as what they lead to. What is gone by now is none.
        let Ok(about) = fs::metadata(&path) else { continue };
        if about.is_dir() {
            continue;
        }
        let reason = match path.to_str() {
            None => "its name is not UTF-8",
            Some(_) if !about.is_file() => "it is no regular file",
            Some(_) if about.permissions().mode() & 0o111 == 0 => "it is not executable (chmod +x)",
            Some(_) if hooks.programs.len() == MOST => "there are 64 hooks before it",
            Some(path) => {
                hooks.programs.push(path.to_owned());
                continue;
            }
        };
        hooks.passed_over.push((lossy.into_owned(), reason));
    }
    Ok(hooks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executable_files_are_hooks_in_the_order_of_their_names() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path();
        let file = |name: &str, mode: u32| {
            fs::write(directory.join(name), "#!/bin/sh\n").unwrap();
            fs::set_permissions(directory.join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        for (name, mode) in [("b", 0o755), ("a", 0o700), ("10-x", 0o500), (".hidden", 0o755), ("b~", 0o755)] {
            file(name, mode);
        }
        file("data", 0o644);
        fs::create_dir(directory.join("network.d")).unwrap();
        std::os::unix::fs::symlink("a", directory.join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", directory.join("dangling")).unwrap();
        let hooks = list(directory).unwrap();
        let paths: Vec<_> = hooks.programs.iter().map(|p| Path::new(p).strip_prefix(directory).unwrap()).collect();
        assert_eq!(paths, ["10-x", "a", "b", "link"].map(Path::new));
        assert_eq!(hooks.passed_over, [("data".to_owned(), "it is not executable (chmod +x)")]);
        assert_eq!(list(&directory.join("missing")).unwrap(), Hooks::default());
        assert!(list(&directory.join("a")).is_err(), "a file is no directory");
        for n in 0..MOST {
            file(&format!("0{n:02}"), 0o755);
        }
        let hooks = list(directory).unwrap();
        assert_eq!(hooks.programs.len(), MOST);
        assert_eq!(hooks.passed_over.len(), 5);
    }
}
