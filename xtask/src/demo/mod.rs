//! `cargo xtask demo`: the main job, shown in private namespaces, each claim checked as it is made.
//!
//! It runs in three stages: the first builds as the user who called; the second, as root, looks at the host before and
//! after; the third, in mount, network and process namespaces of its own, tells the story. All that the third makes ends
//! with its namespaces, whatever happens to it.

mod cast;
mod devices;
mod guest;
mod host;
mod machine;
mod outside;
mod stage;
mod story;

use std::path::PathBuf;

use crate::ci::as_root;
use crate::workspace::{Workspace, run as run_command};
use crate::{Result, guest as guest_image};

/// What stands between the stages' namespaces: the third one's own /run, /sys and /dev/net/tun.
const ENTER: &str = "\
mount -t tmpfs -o mode=755 tmpfs /run && mount -t sysfs sysfs /sys && mkdir -p /run/netns && ip link set lo up &&
mknod -m 666 /run/tun c 10 200 && mount --bind /run/tun /dev/net/tun || exit 1
# The shell stays, as the first process of its namespace, which reaps what others leave behind.
\"$@\"
exit $?";

/// Reads the task's arguments and does the stage that they ask for. `None` if they are something else.
pub(crate) fn run(args: &[&str]) -> Option<Result<()>> {
    let (machines, stage) = match args {
        ["--vm", rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let stage: fn(&Workspace, bool) -> Result<()> = match stage {
        [] => build,
        ["--as-root"] => beside,
        ["--inside"] => story::tell,
        ["--outside", address] if !machines => return Some(outside::serve(address)),
        _ => return None,
    };
    Some(Workspace::find().and_then(|ws| stage(&ws, machines)))
}

/// The first stage.
fn build(ws: &Workspace, machines: bool) -> Result<()> {
    run_command(&mut ws.cargo(["build", "--quiet", "--workspace", "--bins"]))?;
    std::fs::create_dir_all(ws.target.join("demo"))?;
    if machines {
        guest_image::image(ws)?;
    }
    let mut next = as_root(ws)?;
    next.arg(itself(ws)).arg("demo").args(machines.then_some("--vm"));
    run_command(next.arg("--as-root"))
}

/// This program, which the first stage may just have built anew.
fn itself(ws: &Workspace) -> PathBuf {
    ws.target.join("debug/patchcord-xtask")
}

/// The second stage.
fn beside(ws: &Workspace, machines: bool) -> Result<()> {
    let before = host::State::read(ws)?;
    let mut next = ws.command("unshare");
    next.args(["--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", ENTER, "sh"]);
    next.arg(itself(ws)).arg("demo").args(machines.then_some("--vm"));
    let told = run_command(next.arg("--inside"));
    let same = host::State::read(ws)?.compare(&before);
    println!();
    told.map_err(|_| "the demonstration did not show what it should")?;
    let seen = same?;
    println!("The host is as it was: {seen} are the same before and after.");
    Ok(())
}
