//! Hooks: which there are, and their calls, each on a thread of its own, so that one that hangs delays its object only.

use crate::jobs::phrase;
use patchcord_core::engine::{HookCall, JobOutcome};
use patchcord_host::files::Files;
use patchcord_host::hooks;
use patchcord_host::spawner::{End, Outcome, Request, Spawner};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

/// Objects whose hooks are called at once; others wait. The spawner runs four times as many programs.
const AT_ONCE: usize = 64;

/// Lines of what a failed hook wrote that an error holds, and characters of each.
const LINES: usize = 4;
const LINE: usize = 200;

/// What every hook has in its environment, beside what its call says.
const ENVIRONMENT: [(&str, &str); 2] =
    [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("LANG", "C")];

/// The directory of hooks, watched.
#[derive(Debug)]
pub struct HookDirectory {
    path: PathBuf,
    /// Files that the log has a warning about.
    passed_over: BTreeSet<(String, &'static str)>,
}

impl HookDirectory {
    /// The directory, which need not exist.
    pub fn new(path: PathBuf) -> Self {
        Self { path, passed_over: BTreeSet::new() }
    }

    /// Whether a change of that path may change which hooks there are.
    pub fn is_concerned(&self, changed: &Path) -> bool {
        changed == self.path || changed.parent() == Some(&self.path)
    }

    /// The hooks that there are now; later changes are told by `files`. What looks like a hook and is none is logged.
    pub fn look(&mut self, files: &mut Files) -> Vec<String> {
        // The directory itself may come and go.
        let watched = files.watch_file(&self.path).and_then(|()| match self.path.is_dir() {
            true => files.watch_directory(&self.path),
            false => Ok(()),
        });
        if let Err(error) = watched {
            warn!(error = phrase(&error), "changes of the hooks will not be noticed");
        }
        let found = hooks::list(&self.path).unwrap_or_else(|error| {
            warn!(error = phrase(&error), "the hooks can't be read, and are not called");
            hooks::Hooks::default()
        });
        let passed_over: BTreeSet<_> = found.passed_over.into_iter().collect();
        for (name, reason) in passed_over.difference(&self.passed_over) {
            warn!(file = %self.path.join(name).display(), reason, "passed over as a hook");
        }
        self.passed_over = passed_over;
        found.programs
    }
}

/// Calls hooks.
#[derive(Clone, Debug)]
pub struct HookCaller {
    spawner: Spawner,
    /// For each program.
    timeout: Duration,
    places: Arc<Semaphore>,
}

impl HookCaller {
    /// Calls are carried out by `spawner`; each program has `timeout`.
    pub fn new(spawner: Spawner, timeout: Duration) -> Self {
        Self { spawner, timeout, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Makes a call, and says how it went. It must be called from within the runtime's local set.
    pub fn call(&self, call: HookCall, done: impl Fn(JobOutcome) + Clone + Send + 'static) {
        let caller = self.clone();
        tokio::task::spawn_local(async move {
            // It is never closed.
            let place = Arc::clone(&caller.places).acquire_owned().await;
            let told = done.clone();
            let thread = std::thread::Builder::new().name("hook".to_owned()).spawn(move || {
                let outcome = caller.run(&call);
                drop(place);
                told(outcome);
            });
            if let Err(error) = thread {
                done(JobOutcome::Failed(format!("there is no thread to call it: {error}")));
            }
        });
    }

    /// Runs the programs of a call, one after the other.
    fn run(&self, call: &HookCall) -> JobOutcome {
        let mut failures = Vec::new();
        for program in &call.programs {
            let Err(failure) = self.run_one(program, call) else { continue };
            failures.push(format!("{program}: {failure}"));
            if call.refuses {
                break;
            }
        }
        debug!(operation = %call.operation, object = call.object, ?failures, "hooks called");
        if failures.is_empty() { JobOutcome::Done } else { JobOutcome::Failed(failures.join("; ")) }
    }

    fn run_one(&self, program: &str, call: &HookCall) -> Result<(), String> {
        let fixed = ENVIRONMENT.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let environment = fixed.chain(call.variables.iter().cloned());
        let request = Request {
            env: environment.map(|(name, value)| (name.into(), value.into())).collect(),
            stdin: call.document.clone().into_bytes(),
            timeout: self.timeout,
            ..Request::new(program).args(&call.arguments)
        };
        match self.spawner.run(&request) {
            Ok(outcome) => judge(&outcome, self.timeout),
            // It was removed, and the word of that is on its way.
            Err(_) if !Path::new(program).exists() => Ok(()),
            Err(error) => Err(phrase(&error)),
        }
    }
}

fn judge(outcome: &Outcome, timeout: Duration) -> Result<(), String> {
    let ended = match outcome.end {
        End::Exit(0) => return Ok(()),
        End::Exit(status) => format!("exit status {status}"),
        End::Signal(signal) => format!("ended by signal {signal}"),
        End::TimedOut => format!("it did not end within {} s and was killed", timeout.as_secs()),
    };
    let said = beginning(&outcome.stderr);
    Err(if said.is_empty() { ended } else { format!("{ended}: {said}") })
}

/// The first lines of what a program wrote, on one line.
fn beginning(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).take(LINES);
    let shorten = |line: &str| line.chars().filter(|c| !c.is_control()).take(LINE).collect::<String>();
    lines.map(shorten).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_holds_the_first_lines_of_what_was_said() {
        let outcome = |end, stderr: &str| Outcome { end, stdout: b"out".to_vec(), stderr: stderr.into() };
        let of = |end, stderr: &str| judge(&outcome(end, stderr), Duration::from_secs(30));
        assert_eq!(of(End::Exit(0), "a warning"), Ok(()));
        assert_eq!(of(End::Exit(3), ""), Err("exit status 3".into()));
        assert_eq!(
            of(End::Exit(3), "\n no\x1b[31m \n\nreally\n3\n4\n5\n"),
            Err("exit status 3: no[31m; really; 3; 4".into())
        );
        assert_eq!(of(End::Signal(9), "bye"), Err("ended by signal 9: bye".into()));
        assert_eq!(of(End::TimedOut, ""), Err("it did not end within 30 s and was killed".into()));
        assert_eq!(of(End::Exit(1), &"é".repeat(500)).unwrap_err().chars().count(), "exit status 1: ".len() + LINE);
    }
}
