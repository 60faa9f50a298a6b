//! Programs of packages that scripts/setup.sh unpacks and does not install, since that would change the machine.

use std::path::{Path, PathBuf};

use crate::{skip, test_name};

/// The directory into which packages were unpacked under that name, or nothing, and the running test is skipped.
///
/// It is `packages/NAME` in cargo's target directory, that of the running test program.
#[must_use = "return from the test when there is none"]
pub fn unpacked(name: &str) -> Option<PathBuf> {
    let program = std::env::current_exe().ok();
    // A program is in TARGET/PROFILE, and that of a test in TARGET/PROFILE/deps.
    let above = program.as_deref().into_iter().flat_map(Path::ancestors).skip(2).take(2);
    let found = above.map(|target| target.join("packages").join(name)).find(|directory| directory.is_dir());
    if found.is_some() {
        return found;
    }
    skip(&test_name(), &format!("host has no {name} unpacked"));
    None
}
