//! Finding lldpad, which speaks 802.1Qbg's VDP with the switch, by the file in which it writes its process id.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::process::{self, Process};
use crate::spawner::Spawner;
use crate::{Error, Result};

/// Where lldpad writes its process id.
pub const PID_FILE: &str = "/var/run/lldpad.pid";

/// The name of its executable.
const NAME: &str = "lldpad";
/// The file has 32 bytes: the number, a line feed, NULs.
const FILE_MAX: u64 = 64;

/// lldpad's pid file, and who reads it.
#[derive(Debug, Clone, Copy)]
pub struct PidFile<'a> {
    path: &'a Path,
    spawner: Option<&'a Spawner>,
}

impl<'a> From<&'a PathBuf> for PidFile<'a> {
    fn from(path: &'a PathBuf) -> Self {
        Self { path, spawner: None }
    }
}

impl<'a> PidFile<'a> {
    /// One that the spawner reads, for who may not: it comes and goes in a directory full of others' files.
    pub fn read_by(spawner: &'a Spawner, path: &'a Path) -> Self {
        Self { path, spawner: Some(spawner) }
    }

    /// What it begins with; nothing of a directory, and `None` where there is nothing.
    fn read(self) -> Result<Option<Vec<u8>>> {
        let contents = match self.spawner {
            Some(spawner) => spawner.read(self.path),
            None => read(self.path),
        };
        match contents {
            Err(error) if error.errno() == Some(Errno::ISDIR) => Ok(Some(Vec::new())),
            other => other,
        }
    }
}

/// The netlink port at which lldpad can be asked: its process id in its own process namespace.
///
/// The file's number must be that of a running process whose executable is called `lldpad`.
///
/// # Errors
/// [`Error::NoLldpad`] says what is in the way; [`Error::File`] and [`Error::Process`] when it can't be found out.
pub fn netlink_port<'a>(pid_file: impl Into<PidFile<'a>>) -> Result<u32> {
    let pid_file = pid_file.into();
    let absent = |problem: String| Error::NoLldpad { pid_file: pid_file.path.to_owned(), problem };
    let contents = pid_file.read()?.ok_or_else(|| absent("is not there".to_owned()))?;
    let pid = number(&contents).ok_or_else(|| absent("holds no process id".to_owned()))?;
    let gone = || absent(format!("names process {pid}, which does not run"));
    let process = Process::open(pid)?.ok_or_else(gone)?;
    let info = process.info()?.ok_or_else(gone)?;
    let status = process::read(pid, "status")?.ok_or_else(gone)?;
    let status = Status::parse(&String::from_utf8_lossy(&status));
    // What was read belongs to that process only if it still lives.
    if !process.alive()? {
        return Err(gone());
    }
    // A confined daemon may not see other people's executables: then their name has to do.
    let name = match info.exe.as_deref().and_then(Path::file_name) {
        Some(name) => name.to_string_lossy().into_owned(),
        None => status.name,
    };
    if name != NAME {
        return Err(absent(format!("names process {pid}, which is {name}")));
    }
    Ok(status.innermost.unwrap_or(pid))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let mut contents = Vec::new();
    match File::open(path).and_then(|file| file.take(FILE_MAX).read_to_end(&mut contents)) {
        Ok(_) => Ok(Some(contents)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", path)(error)),
    }
}

/// The number at the beginning of the file, which NULs follow.
fn number(contents: &[u8]) -> Option<u32> {
    let text = contents.split(|byte| *byte == 0).next().unwrap_or_default();
    std::str::from_utf8(text).ok()?.trim().parse().ok().filter(|pid| *pid != 0)
}

/// What matters of `/proc/PID/status` (proc(5)).
#[derive(Debug, Default, PartialEq, Eq)]
struct Status {
    name: String,
    /// Its id in the innermost of its process namespaces, the last number of the line.
    innermost: Option<u32>,
}

impl Status {
    fn parse(text: &str) -> Self {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        Self {
            name: value("Name:").trim().to_owned(),
            innermost: value("NSpid:").split_whitespace().last().and_then(|pid| pid.parse().ok()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::process::{Child, Command};
    use std::time::Duration;

    use super::*;

    /// A process with an executable of that name, and a directory with its pid file.
    struct Bed {
        directory: tempfile::TempDir,
        child: Child,
    }

    impl Bed {
        fn start(name: &str, prefix: &[&str]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let program = directory.path().join(name);
            fs::copy("/bin/sleep", &program).unwrap();
            let words: Vec<&str> = prefix.iter().copied().chain([program.to_str().unwrap(), "600"]).collect();
            let child = Command::new(words[0]).args(&words[1..]).spawn().unwrap();
            Self { directory, child }
        }

        /// The port that is found when the pid file holds these bytes.
        fn find(&self, bytes: impl AsRef<[u8]>) -> Result<u32> {
            let path = self.path();
            fs::write(&path, bytes).unwrap();
            netlink_port(&path)
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("lldpad.pid")
        }
    }

    impl Drop for Bed {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn padded(pid: u32) -> Vec<u8> {
        let mut bytes = format!("{pid}\n").into_bytes();
        bytes.resize(32, 0);
        bytes
    }

    #[test]
    fn it_is_found_by_its_file_and_only_if_it_is_lldpad() {
        let mut bed = Bed::start("lldpad", &[]);
        let pid = bed.child.id();
        assert_eq!(bed.find(padded(pid)).unwrap(), pid);
        assert_eq!(bed.find(pid.to_string()).unwrap(), pid);
        let said = |result: Result<u32>| {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::NoLldpad { .. }), "{error:?}");
            error.to_string()
        };
        for nonsense in ["", "\n", "0\n", "-1\n", "lldpad\n", "99999999999\n", "12 13\n"] {
            assert!(said(bed.find(nonsense)).contains("holds no process id"), "{nonsense:?}");
        }
        bed.child.kill().unwrap();
        bed.child.wait().unwrap();
        assert!(said(bed.find(padded(pid))).contains(&format!("names process {pid}, which does not run")));
        let other = Bed::start("lldpade", &[]);
        let pid = other.child.id();
        assert!(said(other.find(padded(pid))).contains(&format!("names process {pid}, which is lldpade;")));
        fs::remove_file(other.path()).unwrap();
        assert!(said(netlink_port(&other.path())).contains("lldpad.pid is not there"));
    }

    #[test]
    fn its_port_is_its_own_idea_of_its_id() {
        if !patchcord_testkit::require_root() {
            return;
        }
        let bed = Bed::start("lldpad", &["unshare", "--pid", "--fork", "--kill-child"]);
        let parent = bed.child.id();
        let children = format!("/proc/{parent}/task/{parent}/children");
        let pid: u32 = patchcord_testkit::wait_until("the child", Duration::from_secs(10), || {
            fs::read_to_string(&children).unwrap_or_default().trim().parse::<u32>().map_err(|error| error.to_string())
        });
        let port = patchcord_testkit::wait_until("lldpad", Duration::from_secs(10), || bed.find(padded(pid)));
        assert_eq!(port, 1);
    }

    #[test]
    fn the_last_number_of_a_status_counts() {
        let status = Status::parse("Name:\tlldpad\nUmask:\t0022\nNSpid:\t4711\t42\t7\nVmPeak:\t1 kB\n");
        assert_eq!(status, Status { name: "lldpad".to_owned(), innermost: Some(7) });
        assert_eq!(Status::parse("Name:\tx\n").innermost, None);
    }
}
