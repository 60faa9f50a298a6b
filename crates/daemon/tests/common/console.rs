//! The serial console of a machine that boots the image of `cargo xtask guest-image`, which obeys lines.

use super::SOON;
use patchcord_testkit::{skip, test_name};
use std::io::{BufRead as _, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// What a boot may take: emulated, and beside others.
pub(crate) const BOOT: Duration = Duration::from_secs(90);

/// The directory with the machine's kernel and initramfs; without it, or QEMU, the test is skipped.
pub(crate) fn guest_image() -> Option<PathBuf> {
    // PROGRAM is in TARGET/PROFILE.
    let program = Path::new(env!("CARGO_BIN_EXE_patchcordd"));
    let image = program.ancestors().nth(2).unwrap().join("guest");
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let mut qemu = std::env::split_paths(&paths).map(|path| path.join("qemu-system-x86_64"));
    let missing = if !qemu.any(|path| path.exists()) {
        "host has no qemu-system-x86_64"
    } else if !image.join("initramfs").exists() {
        "host has no guest image: 'cargo xtask guest-image' makes it"
    } else {
        return Some(image);
    };
    skip(&test_name(), missing);
    None
}

/// A machine's console.
pub(crate) struct Console {
    input: Box<dyn Write>,
    lines: Receiver<String>,
}

impl Console {
    /// Listens to `output` until it ends.
    pub(crate) fn new(input: impl Write + 'static, output: impl Read + Send + 'static) -> Self {
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                println!("console: {line}");
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { input: Box::new(input), lines }
    }

    /// What stands behind `start` in the next line that has it.
    pub(crate) fn hear(&self, start: &str, within: Duration) -> String {
        let end = Instant::now() + within;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|error| panic!("no '{start}': {error}"));
            if let Some((_, rest)) = line.split_once(start) {
                return rest.to_owned();
            }
        }
    }

    pub(crate) fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        self.hear(&format!("vm: {line}: "), SOON)
    }

    pub(crate) fn pings(&mut self, target: &str) -> bool {
        self.ask(&format!("ping {target}")).starts_with("answered")
    }
}
