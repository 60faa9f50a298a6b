//! `cargo xtask vm --systemd`: the service units under a running systemd.
//!
//! The machine is that of the tests, with the host's systemd as PID 1 and nothing of the host's own services. The
//! script installs the daemon as docs/install.md says, uses it, and looks at what systemd makes of it.

use std::path::Path;

use super::{kernel, machine};
use crate::ci::Count;
use crate::workspace::{Workspace, run as run_command, write};
use crate::{Result, suite::Skip};

/// The guest's script; each line that begins with `check` is one check.
const SCRIPT: &str = include_str!("systemd.sh");

/// Why it can't be done here, if it can't.
pub(crate) fn skip() -> Option<Skip> {
    let reason = "host has no systemd".to_owned();
    (!Path::new("/lib/systemd/systemd").exists()).then(|| Skip { name: "units under systemd".into(), reason })
}

/// Boots the machine and counts the checks.
pub(crate) fn run(ws: &Workspace) -> Result<Count> {
    let dir = ws.target.join("vm");
    std::fs::create_dir_all(&dir)?;
    run_command(&mut ws.cargo(["build", "--workspace"]))?;
    let kernel = kernel::prepare(ws, &dir)?;
    let mut script = SCRIPT.to_owned();
    let places = [("@DIR@", &dir), ("@ROOT@", &ws.root), ("@PROGRAMS@", &ws.target.join("debug"))];
    for (mark, path) in places {
        script = script.replace(mark, &path.to_string_lossy());
    }
    write(&dir.join("guest.sh"), script)?;
    println!("vm: {} checks of the units on kernel {}", checks(SCRIPT), kernel.version);
    machine::run(ws, &kernel, checks(SCRIPT))
}

fn checks(script: &str) -> usize {
    script.lines().filter(|line| line.starts_with("check ")).count()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_check_counts() {
        assert_eq!(super::checks("check() {\ncheck 'a' true\n  check 'b'\n# check 'c'\ncheck 'd' false\n"), 2);
        assert!(super::checks(super::SCRIPT) > 30);
    }
}
