//! Programs of packages that scripts/setup.sh unpacks and does not install, since that would change the machine.

use std::path::{Path, PathBuf};

use crate::{skip, test_name};

/// The directory into which packages were unpacked under that name, or nothing, and the running test is skipped.
///
/// It is `packages/NAME` in cargo's target directory, that of the running test program.
#[must_use = "return from the test when there is none"]
pub fn unpacked(name: &str) -> Option<PathBuf> {
    let program = std::env::current_exe().ok();
    // PROGRAM is in TARGET/PROFILE/deps.
    let target = program.as_deref().and_then(|program| program.ancestors().nth(3)).unwrap_or(Path::new("target"));
    let directory = target.join("packages").join(name);
    if directory.is_dir() {
        return Some(directory);
    }
    skip(&test_name(), &format!("host has no {name} unpacked"));
    None
}
