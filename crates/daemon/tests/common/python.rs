//! libvirt's Python binding, of an unpacked package.

use patchcord_testkit::{skip, test_name, unpacked};
use std::path::PathBuf;
use std::process::Command;

/// The interpreter that it is made for.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// Where the binding is; without it the test is skipped.
pub(crate) fn binding() -> Option<PathBuf> {
    let modules = unpacked("python3-libvirt")?.join("usr/lib/python3/dist-packages");
    let mut python = Command::new(PYTHON);
    python.args(["-c", "import libvirt"]).env("PYTHONPATH", &modules);
    match python.output() {
        Ok(output) if output.status.success() => return Some(modules),
        Ok(output) => {
            let error = String::from_utf8_lossy(&output.stderr);
            skip(&test_name(), &format!("host has no Python for that: {}", error.lines().last().unwrap_or("")));
        }
        Err(error) => skip(&test_name(), &format!("host has no {PYTHON}: {error}")),
    }
    None
}
