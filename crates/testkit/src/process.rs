//! Commands: run to the end, or kept running beside the test.

use std::process::{Child, Command, ExitStatus, Stdio};

/// Runs `command` to its end and returns its standard output, or a text that says what failed.
pub(crate) fn output(mut command: Command) -> Result<String, String> {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{shown}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!(
        "{shown}: {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// A process that runs beside the test and is killed, and waited for, when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `command`, which inherits the calling thread's namespaces.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(mut command: Command) -> Process {
        let child = command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Process { child }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status if it has ended.
    ///
    /// # Panics
    /// If it cannot be waited for.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap_or_else(|error| panic!("cannot wait for {}: {error}", self.child.id()))
    }

    /// Kills it (SIGKILL) and returns its exit status.
    ///
    /// # Panics
    /// If it cannot be waited for.
    pub fn kill(&mut self) -> ExitStatus {
        // It may have ended already: then there is nothing to kill, and the status says how it ended.
        let _ = self.child.kill();
        self.child.wait().unwrap_or_else(|error| panic!("cannot wait for {}: {error}", self.child.id()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
