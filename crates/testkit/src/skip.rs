//! Skipping a test aloud, and finding out what the kernel can do by doing it.

use std::io::Write as _;
use std::process::Command;

use crate::{NetdevSim, process, sys};

/// The running test's name, as libtest gives it to its thread; `test` on a thread without one.
///
/// With `--test-threads=1` libtest runs tests on the main thread: then it is the test that `--exact` names, as
/// nextest does, or else the program's name.
pub fn test_name() -> String {
    let thread = std::thread::current();
    match thread.name() {
        Some(name) if name != "main" => name.to_owned(),
        Some(_) => {
            let mut arguments = std::env::args();
            let program = arguments.next().unwrap_or_else(|| "test".to_owned());
            let arguments: Vec<String> = arguments.collect();
            if arguments.iter().any(|argument| argument == "--exact") {
                let test = arguments.into_iter().find(|a| !a.starts_with('-'));
                test.unwrap_or(program)
            } else {
                program
            }
        }
        None => "test".to_owned(),
    }
}

/// Prints `SKIP name: reason`; the caller then returns from its test.
///
/// The line is also appended to the file that PATCHCORD_SKIP_LOG names, since output of passing tests is hidden.
///
/// # Panics
/// With STRICT=1 in the environment, where nothing may be skipped; or if that file cannot be written.
pub fn skip(name: &str, reason: &str) {
    let line = format!("SKIP {name}: {reason}\n");
    print!("{line}");
    if let Some(path) = std::env::var_os("PATCHCORD_SKIP_LOG") {
        let file = std::fs::File::options().append(true).create(true).open(&path);
        // One write, so that lines of parallel tests stay whole.
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = written {
            panic!("cannot append to {}: {error}", path.display());
        }
    }
    if std::env::var_os("STRICT").is_some_and(|value| value == "1") {
        panic!("{} and STRICT=1 allows no skip", line.trim_end());
    }
}

/// True for root; otherwise skips the running test and returns false.
#[must_use = "return from the test when this is false"]
pub fn require_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip(&test_name(), "needs root");
    }
    root
}

/// Runs the command lines one after the other in a network namespace that is thrown away at the end.
///
/// # Errors
/// The first one that fails, with what it printed.
///
/// # Panics
/// If no namespace can be made.
pub fn probe(commands: &[&str]) -> Result<(), String> {
    elsewhere(|| {
        for line in commands {
            let mut words = line.split_whitespace();
            let program = words.next().ok_or("an empty command line")?;
            let mut command = Command::new(program);
            command.args(words);
            process::output(command)?;
        }
        Ok(())
    })
}

/// Tries something on a thread of its own, in a network namespace that ends with it.
fn elsewhere(attempt: impl FnOnce() -> Result<(), String> + Send) -> Result<(), String> {
    let run = || {
        sys::unshare(false).map_err(|error| format!("unshare: {error}"))?;
        attempt()
    };
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// True if the commands work here (see [`probe`]); otherwise skips the running test, naming the feature.
#[must_use = "return from the test when this is false"]
pub fn needs(feature: &str, commands: &[&str]) -> bool {
    match probe(commands) {
        Ok(()) => true,
        Err(error) => {
            let reason = format!("kernel has no {feature} ({})", error.trim_end());
            skip(&test_name(), &reason.replace('\n', " "));
            false
        }
    }
}

/// Whether bridges filter VLANs here.
pub fn has_bridge_vlan_filtering() -> bool {
    probe(&["ip link add name probe0 type bridge vlan_filtering 1"]).is_ok()
}

/// Whether there are dummy links here.
pub fn has_dummy() -> bool {
    probe(&["ip link add name probe0 type dummy"]).is_ok()
}

/// Whether there are 802.1Q links here.
pub fn has_vlan() -> bool {
    probe(&["ip link add name probe0 type veth peer name probe1", "ip link add link probe0 name probe2 type vlan id 5"])
        .is_ok()
}

/// Whether there are bonds here.
pub fn has_bond() -> bool {
    probe(&["ip link add name probe0 type bond"]).is_ok()
}

/// Whether the kernel simulates physical functions here, see [`NetdevSim`].
pub fn has_netdevsim() -> bool {
    elsewhere(|| NetdevSim::new().map(drop).map_err(|error| error.to_string())).is_ok()
}
