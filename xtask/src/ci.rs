//! `cargo xtask ci`: every check and every test, each step even if one before it failed.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::suite::{self, Skip};
use crate::workspace::{Workspace, capture, read, run as run_command, write};
use crate::{Result, guest, tidy, vm};

/// Where a test that skips appends its line, for the whole run.
pub(crate) fn skip_log(ws: &Workspace) -> PathBuf {
    ws.target.join("skipped.log")
}

/// Runs all steps, then says which tests were skipped and how many passed and failed.
pub(crate) fn run(ws: &Workspace) -> Result<()> {
    let mut steps = Steps::default();
    steps.run("format", || run_command(&mut ws.cargo(["fmt", "--all", "--check"])));
    steps.run("tidy", || tidy::run(ws));
    steps.run("dependencies", || dependencies(ws));
    steps.run("clippy", || {
        let clippy = ["clippy", "--locked", "--workspace", "--all-targets", "--", "-Dwarnings"];
        run_command(&mut ws.cargo(clippy))
    });
    steps.run("build", || {
        run_command(&mut ws.cargo(["build", "--workspace"]))?;
        run_command(&mut ws.cargo(["nextest", "run", "--workspace", "--no-run"]))
    });
    steps.run("guest image", || guest::image(ws));
    let (mut here, mut skips) = (Count::default(), Vec::new());
    steps.run("tests", || {
        (here, skips) = tests(ws)?;
        here.verdict()
    });
    // nextest counts a test that skips as one that passed.
    let skipped = skips.len();
    steps.run("doctests", || run_command(&mut ws.cargo(["test", "--workspace", "--doc", "--quiet"])));
    steps.run("documentation", || {
        let mut doc = ws.cargo(["doc", "--workspace", "--no-deps", "--quiet"]);
        run_command(doc.env("RUSTDOCFLAGS", "-Dwarnings"))
    });
    let mut machine = Count::default();
    steps.run("vm", || {
        machine = vm::run(ws, &vm::Choice::default())?;
        machine.verdict()
    });
    let mut units = Count::default();
    match vm::systemd::skip() {
        Some(skip) => skips.push(skip),
        None => drop(steps.run("systemd", || {
            units = vm::systemd::run(ws)?;
            units.verdict()
        })),
    }

    println!("\n{}", steps.table());
    for Skip { name, reason } in &skips {
        println!("SKIP {name}: {reason}");
    }
    println!(
        "{} passed, {} failed, {} skipped here; in the virtual machine {} passed, {} failed",
        here.passed.saturating_sub(skipped),
        here.failed,
        skips.len(),
        machine.passed + units.passed,
        machine.failed + units.failed
    );
    steps.verdict()
}

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Count {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
}

impl Count {
    /// An error if a test failed.
    pub(crate) fn verdict(self) -> Result<()> {
        if self.failed == 0 { Ok(()) } else { Err(format!("{} tests failed", self.failed).into()) }
    }
}

/// What ran, how long it took, and what went wrong.
#[derive(Default)]
struct Steps(Vec<(&'static str, Duration, Option<String>)>);

impl Steps {
    fn run<T>(&mut self, name: &'static str, step: impl FnOnce() -> Result<T>) -> Option<T> {
        println!("\n== {name}");
        let start = Instant::now();
        let result = step();
        let error = result.as_ref().err().map(ToString::to_string);
        if let Some(error) = &error {
            println!("{name} FAILED: {error}");
        }
        self.0.push((name, start.elapsed(), error));
        result.ok()
    }

    fn table(&self) -> String {
        let mut table = String::new();
        for (name, time, error) in &self.0 {
            let result = error.as_ref().map_or("ok".into(), |error| format!("FAILED: {error}"));
            table += &format!("{name:14} {:6.1} s  {result}\n", time.as_secs_f64());
        }
        table
    }

    fn verdict(&self) -> Result<()> {
        let failed: Vec<_> = self.0.iter().filter(|(_, _, error)| error.is_some()).map(|(name, ..)| *name).collect();
        if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", ")).into()) }
    }
}

/// Licences, sources and bans always; advisories where their database can be fetched.
fn dependencies(ws: &Workspace) -> Result<()> {
    let deny = |check: &[&str]| {
        let args = ["deny", "--log-level=error", "check", "--hide-inclusion-graph"];
        run_command(&mut ws.cargo(args.into_iter().chain(check.iter().copied())))
    };
    deny(&["bans", "licenses", "sources"])?;
    let mut fetch = ws.command("timeout");
    fetch.args(["60", "cargo", "deny", "fetch", "db"]).stdout(Stdio::null()).stderr(Stdio::null());
    if run_command(&mut fetch).is_ok() {
        deny(&["--disable-fetch", "advisories"])
    } else {
        println!("advisories not checked: their database cannot be reached");
        Ok(())
    }
}

/// Runs the tests, of which some may fail, in namespaces of their own, so that not even a faulty one reaches the host's
/// links or its /run/netns.
fn tests(ws: &Workspace) -> Result<(Count, Vec<Skip>)> {
    const INSIDE: &str = "mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && \
                          ip link set lo up && exec \"$@\"";
    let log = skip_log(ws);
    let junit = ws.target.join("nextest/ci/junit.xml");
    // Made here, lest root own it.
    std::fs::create_dir_all(ws.target.join("nextest/ci"))?;
    // A count or a skip of an earlier run must not be taken for one of this run.
    let _ = std::fs::remove_file(&junit);
    write(&log, "")?;

    let mut command = as_root(ws)?;
    command.arg(format!("PATCHCORD_SKIP_LOG={}", log.display()));
    command.args(["unshare", "--mount", "--net", "sh", "-c", INSIDE, "sh"]);
    command.args(["cargo", "nextest", "run", "--workspace", "--profile=ci", "--offline"]);
    let result = run_command(&mut command);
    let skips = suite::skips(&read(&log)?)?;
    match (result, read(&junit)) {
        (Ok(()), report) => Ok((count(&report?)?, skips)),
        (Err(error), Ok(report)) => match count(&report)? {
            // nextest itself failed, not a test.
            Count { failed: 0, .. } => Err(error),
            count => Ok((count, skips)),
        },
        (Err(error), Err(_)) => Err(error),
    }
}

/// `env` as root, with the toolchain's environment kept where sudo would drop it. Arguments follow.
pub(crate) fn as_root(ws: &Workspace) -> Result<Command> {
    if capture(Command::new("id").arg("-u"))?.trim() == "0" {
        return Ok(ws.command("env"));
    }
    let mut command = ws.command("sudo");
    command.arg("env");
    for (name, value) in std::env::vars() {
        let kept = ["HOME", "TERM", "STRICT", "CARGO_HOME", "CARGO_TARGET_DIR"].contains(&name.as_str())
            || ["RUST", "PATCHCORD_"].iter().any(|prefix| name.starts_with(prefix));
        if kept {
            command.arg(format!("{name}={value}"));
        }
    }
    let path = command.get_envs().find(|(name, _)| *name == "PATH").and_then(|(_, path)| path);
    let path = path.map(|path| format!("PATH={}", path.to_string_lossy()));
    command.args(path);
    Ok(command)
}

/// Reads the totals from the first element of nextest's JUnit report.
fn count(report: &str) -> Result<Count> {
    let head = report.split_once("<testsuites").and_then(|(_, rest)| rest.split_once('>'));
    let (head, _) = head.ok_or("nextest's report has no <testsuites>")?;
    let number = |name: &str| -> Result<usize> {
        let value = head.split_once(&format!(" {name}=\"")).and_then(|(_, rest)| rest.split_once('"'));
        let (value, _) = value.ok_or_else(|| format!("nextest's report has no {name}"))?;
        Ok(value.parse()?)
    };
    let failed = number("failures")? + number("errors")?;
    Ok(Count { passed: number("tests")?.saturating_sub(failed), failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_a_report() {
        let report = r#"<?xml version="1.0"?><testsuites name="n" tests="7" failures="2" errors="1">"#;
        assert_eq!(count(report).unwrap(), Count { passed: 4, failed: 3 });
        assert!(count("<testsuites>").is_err());
    }

    #[test]
    fn a_failed_test_fails_the_step() {
        assert!(Count { passed: 1, failed: 0 }.verdict().is_ok());
        assert_eq!(Count { passed: 1, failed: 2 }.verdict().unwrap_err().to_string(), "2 tests failed");
    }

    #[test]
    fn a_failed_step_fails_the_run_and_later_steps_run() {
        let mut steps = Steps::default();
        assert_eq!(steps.run("first", || Err::<(), _>("broken".into())), None);
        assert_eq!(steps.run("second", || Ok(1)), Some(1));
        assert!(steps.table().contains("FAILED: broken"));
        assert_eq!(steps.verdict().unwrap_err().to_string(), "failed: first");
    }
}
