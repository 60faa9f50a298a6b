//! Where the workspace is, what it consists of, and how its commands are run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::Result;

/// The workspace as cargo describes it.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
    /// The members' entries in the answer of `cargo metadata`.
    pub(crate) packages: Vec<Value>,
}

impl Workspace {
    /// Asks cargo about the workspace that the current directory is in.
    pub(crate) fn find() -> Result<Self> {
        let mut command = Command::new("cargo");
        command.args(["metadata", "--format-version=1", "--no-deps"]);
        let metadata: Value = serde_json::from_str(&capture(&mut command)?)?;
        let path = |key: &str| {
            let text = metadata[key].as_str();
            text.map(PathBuf::from).ok_or_else(|| format!("cargo metadata has no {key}"))
        };
        let packages = metadata["packages"].as_array().cloned();
        Ok(Self {
            root: path("workspace_root")?,
            target: path("target_directory")?,
            packages: packages.ok_or("cargo metadata has no packages")?,
        })
    }

    /// A command in the workspace's root that finds the tools of `scripts/setup.sh` and what Debian
    /// keeps out of an ordinary user's path.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let tools = self.target.join("tools/bin");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        command.env("PATH", format!("{}:{path}:/usr/local/sbin:/usr/sbin:/sbin", tools.display()));
        command
    }

    /// `cargo` with these arguments.
    pub(crate) fn cargo<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = self.command("cargo");
        command.args(args);
        command
    }

    /// The files that git tracks or would track, relative to the root. Those deleted but not yet
    /// committed as such are left out.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>> {
        let mut git = self.command("git");
        git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let names = capture(&mut git)?;
        let mut files: Vec<PathBuf> = names.split_terminator('\0').map(PathBuf::from).collect();
        files.retain(|file| self.root.join(file).is_file());
        files.sort();
        files.dedup();
        Ok(files)
    }
}

/// Runs a command to its end; anything but success is an error that names the command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|e| format!("cannot run {}: {e}", line(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{}: {status}", line(command)).into()) }
}

/// Runs a command and returns its standard output; its standard error goes to the terminal.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output().map_err(|e| format!("cannot run {}: {e}", line(command)))?;
    if !output.status.success() {
        return Err(format!("{}: {}", line(command), output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Reads a file; the error names it.
pub(crate) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()).into())
}

/// Writes a file; the error names it.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    std::fs::write(path, content).map_err(|e| format!("cannot write {}: {e}", path.display()).into())
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
