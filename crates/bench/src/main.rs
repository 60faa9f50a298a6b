//! `patchcord-bench`: what the daemon costs, beside what the kernel takes for the same objects.
//!
//! Everything runs in private network and mount namespaces, which are gone afterwards. `cargo xtask bench` builds the
//! daemon and this program, and starts it.
#![forbid(unsafe_code)]

mod daemon;
mod devices;
mod frames;
mod inside;
mod libvirt;
mod memory;
mod networks;
mod nics;
mod ports;
mod raw;
mod replug;
mod restart;
mod scale;
mod stats;
mod steps;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use patchcord_testkit::{Namespace, in_namespace};

/// The measurements report to a person, who needs a sentence and no type.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "\
usage: patchcord-bench --daemon PATH [--quick] [SECTION]...

sections: networks attach nics devices replug frames restart scale ports libvirt; all of them without one
--quick   fewer rounds and smaller hosts: to see whether it works";

/// What is measured with.
pub(crate) struct Setup {
    /// The daemon's program.
    pub(crate) program: PathBuf,
    /// Fewer rounds, smaller hosts.
    pub(crate) quick: bool,
}

type Section = fn(&Setup, &Namespace) -> Result<()>;

/// Each in namespaces of its own; one word may stand for several.
const SECTIONS: [(&str, Section); 13] = [
    ("networks", networks::run),
    ("attach", inside::run),
    ("devices", devices::cords),
    ("devices", devices::macvtaps),
    ("devices", steps::run),
    ("replug", replug::run),
    ("nics", nics::run),
    ("frames", frames::run),
    ("restart", restart::networks),
    ("restart", restart::nics),
    ("scale", scale::run),
    ("ports", ports::run),
    ("libvirt", libvirt::run),
];

fn main() -> ExitCode {
    let Some((setup, wanted)) = read_args(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if !rustix::process::geteuid().is_root() {
        eprintln!("patchcord-bench: network namespaces need root");
        return ExitCode::FAILURE;
    }
    println!("{}", machine());
    for (name, section) in
        SECTIONS.into_iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| w == name))
    {
        let mut result = Ok(());
        // What a section says must outlive its thread.
        in_namespace(|ns| result = section(&setup, ns).map_err(|error| error.to_string()));
        if let Err(error) = result {
            eprintln!("patchcord-bench: {name}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn read_args(mut args: impl Iterator<Item = String>) -> Option<(Setup, Vec<String>)> {
    let (mut program, mut quick, mut wanted) = (None, false, Vec::new());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--daemon" => program = Some(std::path::absolute(args.next()?).ok()?),
            "--quick" => quick = true,
            name if SECTIONS.iter().any(|(section, _)| *section == name) => wanted.push(arg),
            _ => return None,
        }
    }
    Some((Setup { program: program?, quick }, wanted))
}

/// The machine in general words.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    let version = release.trim().split('-').next().unwrap_or_default().to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    format!("Linux {version}, {cores} cores, load {load} before the run. Cells are median / 99th percentile.")
}
