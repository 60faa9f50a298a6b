//! Guests: programs that take a lease and obey lines, on the standard input of `patchcord-guest` or on the serial
//! console of a machine.

use std::io::Write as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use super::stage::{Lines, SOON};
use crate::Result;

/// A machine boots under emulation, several at a time; a bridge with STP forwards after four seconds.
const LEASE: Duration = Duration::from_secs(120);

/// A running guest.
pub(super) struct Guest {
    pub(super) name: String,
    child: Child,
    input: ChildStdin,
    lines: Lines,
    /// Its address, once it has a lease.
    pub(super) address: String,
}

impl Guest {
    /// Starts a guest, which says its name before each line.
    pub(super) fn start(name: &str, command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("cannot start guest {name}: {e}"))?;
        let input = child.stdin.take().ok_or("the guest's input is not ours")?;
        let lines = Lines::of(&mut child)?;
        Ok(Self { name: name.to_owned(), child, input, lines, address: String::new() })
    }

    /// Waits for the line that says which address the guest has, and shows it.
    pub(super) fn leased(&mut self) -> Result<()> {
        let said = self.hear("address ", LEASE)?;
        println!("  {}: address {said}", self.name);
        let address = said.split(['/', ',']).next().unwrap_or_default();
        self.address = address.to_owned();
        Ok(())
    }

    /// The guest's process, which is the one that `patchcord run` became.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets the guest do something, shows and returns its answer, `Err` inside if it could not.
    pub(super) fn ask(&mut self, line: &str) -> Result<std::result::Result<String, String>> {
        writeln!(self.input, "{line}").map_err(|e| format!("guest {} ended: {e}", self.name))?;
        let answer = self.hear(&format!("{line}: "), SOON)?;
        println!("  {}: {line}: {answer}", self.name);
        Ok(match answer.strip_prefix("failed: ") {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer),
        })
    }

    /// How the pings went since they began, or since the last count.
    pub(super) fn count(&mut self) -> Result<Count> {
        let said = self.ask("count")?.map_err(|error| format!("no count: {error}"))?;
        Count::parse(&said).ok_or_else(|| format!("'{said}' is no count").into())
    }

    /// Ends the guest.
    pub(super) fn quit(mut self) -> Result<()> {
        // It may have ended already, which is as good.
        let _ = writeln!(self.input, "quit");
        drop(self.input);
        self.child.wait()?;
        Ok(())
    }

    fn hear(&self, start: &str, within: Duration) -> Result<String> {
        let name = &self.name;
        let heard = |line: &str| {
            // A kernel may have written to the same console just before.
            let (_, said) = line.split_once(&format!("{name}: {start}"))?;
            Some(said.to_owned())
        };
        self.lines.next(&format!("'{name}: {start}...'"), within, heard)
    }
}

/// How a stream of pings went.
#[derive(Debug, PartialEq)]
pub(super) struct Count {
    pub(super) sent: u32,
    pub(super) lost: u32,
    /// The longest time without an answer, in milliseconds.
    pub(super) gap: u32,
}

impl Count {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(", ").map(|part| part.split(' ').find_map(|word| word.parse().ok()));
        Some(Self { sent: numbers.next()??, lost: numbers.next()??, gap: numbers.next()?? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let count = Count { sent: 512, lost: 3, gap: 61 };
        assert_eq!(Count::parse("sent 512, lost 3, longest gap 61 ms"), Some(count));
        assert_eq!(Count::parse("sent 512, lost 3"), None);
    }
}
