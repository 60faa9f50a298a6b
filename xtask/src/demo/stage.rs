//! Showing commands and what they print, and checking what is claimed.

use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Result;
use crate::workspace::{Workspace, capture};

/// Long enough for anything that works, on a slow machine.
pub(super) const SOON: Duration = Duration::from_secs(30);

/// The demonstration's own directory, in a file system of its namespaces.
const DIRECTORY: &str = "/run/demo";

/// Where the story is told: programs, the daemon, and its root directory.
pub(super) struct Stage<'a> {
    pub(super) ws: &'a Workspace,
    /// The programs, where every user may run them.
    pub(super) bin: PathBuf,
    pub(super) root: PathBuf,
    daemon: Option<Child>,
    colour: bool,
    began: Instant,
    checks: usize,
}

impl<'a> Stage<'a> {
    /// An empty root directory, and copies of the programs beside it.
    pub(super) fn set(ws: &'a Workspace, programs: &[&str]) -> Result<Self> {
        let (bin, root) = (Path::new(DIRECTORY).join("bin"), Path::new(DIRECTORY).join("root"));
        std::fs::create_dir_all(&bin)?;
        std::fs::create_dir_all(root.join("etc/patchcord"))?;
        for program in programs {
            let built = ws.target.join("debug").join(program);
            std::fs::copy(&built, bin.join(program)).map_err(|e| format!("cannot copy {}: {e}", built.display()))?;
        }
        // The host's own name servers are none of the demonstration's business.
        std::fs::write(root.join("etc/resolv.conf"), "nameserver 203.0.113.2\n")?;
        let colour = std::io::stdout().is_terminal();
        Ok(Self { ws, bin, root, daemon: None, colour, began: Instant::now(), checks: 0 })
    }

    /// A heading.
    pub(super) fn act(&self, title: &str) {
        let time = self.began.elapsed().as_secs();
        let (on, off) = if self.colour { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        println!("\n{on}== {title}{off}  ({time} s)");
    }

    /// A claim, and whether it is so.
    pub(super) fn check(&mut self, so: bool, claim: &str) -> Result<()> {
        if !so {
            return Err(format!("not so: {claim}").into());
        }
        self.checks += 1;
        let (on, off) = if self.colour { ("\x1b[32m", "\x1b[0m") } else { ("", "") };
        println!("{on}  ok: {claim}{off}");
        Ok(())
    }

    /// Waits until it is so.
    pub(super) fn check_soon(&mut self, claim: &str, mut so: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        let end = Instant::now() + SOON;
        while !so(self)? {
            if Instant::now() >= end {
                return Err(format!("not so within {} s: {claim}", SOON.as_secs()).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.check(true, claim)
    }

    /// How many claims were checked, and in what time.
    pub(super) fn score(&self) -> (usize, u64) {
        (self.checks, self.began.elapsed().as_secs())
    }

    /// `patchcord` with these arguments, on the demonstration's root.
    pub(super) fn patchcord(&self, args: &[&str]) -> Command {
        let mut command = self.ws.command(self.bin.join("patchcord"));
        command.arg("--root").arg(&self.root).args(args);
        command
    }

    /// Prints a command of `patchcord`, runs it, prints what it says, and returns that.
    pub(super) fn show(&self, line: &str) -> Result<String> {
        println!("$ patchcord {line}");
        let output = capture(&mut self.patchcord(&words(line)))?;
        for line in output.lines() {
            println!("  {line}");
        }
        Ok(output)
    }

    /// The same for a command that must be refused; returns what it says about that.
    pub(super) fn refused(&self, line: &str) -> Result<String> {
        println!("$ patchcord {line}");
        let output = self.patchcord(&words(line)).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        print!("{said}");
        if output.status.success() { Err(format!("patchcord {line}: it was done").into()) } else { Ok(said) }
    }

    /// Prints a command of somebody else's, runs it, and returns what it says.
    pub(super) fn other(&self, line: &str) -> Result<String> {
        println!("$ {line}");
        self.quiet(line)
    }

    /// Runs a command without showing it.
    pub(super) fn quiet(&self, line: &str) -> Result<String> {
        let words = words(line);
        let (program, args) = words.split_first().ok_or("an empty command")?;
        capture(self.ws.command(program).args(args))
    }

    /// The document that a command of `patchcord` gives to programs.
    pub(super) fn json(&self, line: &str) -> Result<Value> {
        let mut args = vec!["--json"];
        args.extend(words(line));
        Ok(serde_json::from_str(&capture(&mut self.patchcord(&args))?)?)
    }

    /// The NIC of a guest.
    pub(super) fn nic(&self, guest: &str) -> Result<Value> {
        let nics = self.json("nic list")?;
        let nic = nics.as_array().and_then(|nics| nics.iter().find(|nic| nic["guest"] == guest));
        nic.cloned().ok_or_else(|| format!("no NIC of guest '{guest}'").into())
    }

    /// Starts the daemon and waits until it answers.
    pub(super) fn start_daemon(&mut self) -> Result<Duration> {
        println!("$ patchcordd --root {} &", self.root.display());
        let log = std::fs::File::options().create(true).append(true).open(self.log())?;
        let mut command = self.ws.command(self.bin.join("patchcordd"));
        command.arg("--root").arg(&self.root).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let began = Instant::now();
        let daemon = self.daemon.insert(command.spawn()?);
        loop {
            if let Some(status) = daemon.try_wait()? {
                return Err(format!("the daemon ended: {status}").into());
            }
            // Its socket refuses until it serves.
            if std::os::unix::net::UnixStream::connect(self.root.join("run/patchcord/patchcord.sock")).is_ok() {
                return Ok(began.elapsed());
            }
            if began.elapsed() > SOON {
                return Err("the daemon does not serve".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the daemon by a signal, and returns once it is gone.
    pub(super) fn end_daemon(&mut self, signal: &str) -> Result<()> {
        let mut daemon = self.daemon.take().ok_or("there is no daemon")?;
        let kill = format!("kill -{signal} {}", daemon.id());
        println!("$ {kill}");
        // The shell's own: not every host has the program.
        capture(self.ws.command("sh").args(["-c", &kill]))?;
        daemon.wait()?;
        Ok(())
    }

    /// What the daemon said.
    pub(super) fn log(&self) -> PathBuf {
        self.root.join("daemon.log")
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// The lines that a program prints, as they come.
pub(super) struct Lines(Receiver<String>);

impl Lines {
    /// Reads what a child prints until it closes its end.
    pub(super) fn of(child: &mut Child) -> Result<Self> {
        let output = child.stdout.take().ok_or("the program's output is not ours")?;
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            // A serial console ends its lines with both characters.
            for line in BufReader::new(output).split(b'\n').map_while(std::result::Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self(receiver))
    }

    /// The next line of which `pick` makes something; the others are passed over.
    pub(super) fn next<T>(&self, what: &str, within: Duration, pick: impl Fn(&str) -> Option<T>) -> Result<T> {
        let end = Instant::now() + within;
        loop {
            match self.0.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(found) = pick(&line) {
                        return Ok(found);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("no {what} within {} s", within.as_secs()).into());
                }
                Err(RecvTimeoutError::Disconnected) => return Err(format!("the program ended without {what}").into()),
            }
        }
    }
}
