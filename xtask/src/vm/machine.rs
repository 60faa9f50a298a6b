//! One run of the virtual machine, judged by what it prints.

use std::io::{BufRead, BufReader};
use std::process::{ChildStdout, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::kernel::Kernel;
use crate::Result;
use crate::ci::Count;
use crate::workspace::Workspace;

/// Boot takes some seconds, a test under emulation up to some more.
const TIME_LIMIT: Duration = Duration::from_secs(20 * 60);

/// Boots, shows the console, and returns the result once the machine is off.
///
/// QEMU's exit status is 0 after a kernel panic too, so only the guest's own last line counts.
/// Hardware virtualisation is not used even where the device node exists: nested, it hangs on some
/// hosts, and the lane does without the speed.
pub(crate) fn run(ws: &Workspace, kernel: &Kernel, tests: usize) -> Result<Count> {
    let mut qemu = ws.command("qemu-system-x86_64");
    qemu.args("-accel tcg,thread=multi -cpu max -smp 2 -m 2048".split(' '));
    qemu.args("-nodefaults -no-user-config -no-reboot -display none -serial stdio".split(' '));
    qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&kernel.initramfs);
    qemu.args(["-append", "console=ttyS0 quiet loglevel=1 panic=-1"]);
    // Without remap, file IDs of different host mounts collide, and the guest goes wrong quietly.
    qemu.args(["-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"]);
    qemu.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = qemu.spawn().map_err(|e| format!("cannot run qemu-system-x86_64: {e}"))?;
    let console = child.stdout.take().ok_or("QEMU has no console")?;
    let finished = follow(console, Instant::now() + TIME_LIMIT);
    // Off already, or beyond its time.
    let _ = child.kill();
    child.wait()?;
    let count = verdict(&finished?, tests)?;
    println!("vm: {} passed, {} failed", count.passed, count.failed);
    Ok(count)
}

/// Prints the console's lines until it closes, and returns the guest's `LANE` lines.
fn follow(console: ChildStdout, deadline: Instant) -> Result<Vec<String>> {
    let (sender, receiver) = mpsc::sync_channel(64);
    std::thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(|line| line.ok()) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut lane = Vec::new();
    loop {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                println!("{line}");
                if line.starts_with("LANE ") {
                    lane.push(line);
                }
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(lane),
            Err(RecvTimeoutError::Timeout) => {
                return Err(format!("not done after {} s", TIME_LIMIT.as_secs()).into());
            }
        }
    }
}

/// Reads the result; a guest that did not say that it ran every test has failed.
fn verdict(lane: &[String], tests: usize) -> Result<Count> {
    let [counts, result] = lane else {
        return Err("the machine ended without a result".into());
    };
    let number = |name: &str| -> Result<usize> {
        let word = counts.split(' ').find_map(|word| word.strip_prefix(name));
        Ok(word.ok_or_else(|| format!("no {name} in '{counts}'"))?.parse()?)
    };
    let count = Count { passed: number("passed=")?, failed: number("failed=")? };
    if count.passed + count.failed != tests {
        return Err(format!("{tests} tests were to run, but '{counts}'").into());
    }
    let expected = if count.failed == 0 { "LANE rc=0" } else { "LANE rc=1" };
    if result != expected {
        return Err(format!("'{counts}' but '{result}'").into());
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(lane: &[&str], tests: usize) -> Result<Count> {
        super::verdict(&lane.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>(), tests)
    }

    #[test]
    fn only_a_complete_result_counts() {
        let good = ["LANE passed=2 failed=1", "LANE rc=1"];
        assert_eq!(verdict(&good, 3).unwrap(), Count { passed: 2, failed: 1 });
        assert!(verdict(&good, 4).is_err());
        assert!(verdict(&[], 0).is_err());
        assert!(verdict(&["LANE rc=0"], 0).is_err());
        assert!(verdict(&["LANE passed=1 failed=0", "LANE rc=1"], 1).is_err());
    }
}
