//! `cargo xtask bench`: the daemon as it ships, measured by `crates/bench`.

use crate::Result;
use crate::workspace::{Workspace, run as run_command};

/// Builds the daemon and the program that measures it, and runs that.
pub(crate) fn run(ws: &Workspace, args: &[&str]) -> Result<()> {
    let build = ["build", "--release", "--locked", "-p", "patchcord-daemon", "-p", "patchcord-bench"];
    run_command(&mut ws.cargo(build))?;
    let programs = ws.target.join("release");
    let mut bench = ws.command(programs.join("patchcord-bench"));
    // Where the daemon's loop runs in it, it does so on a thread that is not the first; as in the daemon, its memory is to
    // be that of the first.
    bench.env("MALLOC_ARENA_MAX", "1");
    run_command(bench.arg("--daemon").arg(programs.join("patchcordd")).args(args))
}
