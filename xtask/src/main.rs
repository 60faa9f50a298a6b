//! The repository's own tasks, run as `cargo xtask TASK`.
#![forbid(unsafe_code)]

mod bench;
mod ci;
mod demo;
mod guest;
mod man;
mod suite;
mod tidy;
mod vm;
mod workspace;

use std::error::Error;
use std::process::ExitCode;

use workspace::Workspace;

/// The tasks report to a person, who needs a sentence and no type.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "\
usage: cargo xtask TASK

ci                     every check and every test; what `make test` runs
tidy                   the repository's rules, without building anything
guest-image            the small Linux that QEMU boots as a guest, into target/guest
man                    man pages and shell completions, into target/man and target/completions
bench [--quick] [SECTION]...
                       what the daemon costs beside the kernel's own cost, in private namespaces
                       (root); sections: networks attach nics devices replug frames restart scale ports
                       libvirt
demo [--vm]            the main job, shown in private namespaces (root or sudo); --vm with QEMU's guests
vm [-p PACKAGE]... [-- FILTER...]
                       tests in a QEMU machine with Debian's kernel; a FILTER is a part of a test's
                       name or of its binary's; without one, those that the last ci run skipped
                       and those with `vm_` in their names
vm --systemd           the service units there, under a running systemd";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["ci"] => Workspace::find().and_then(|ws| ci::run(&ws)),
        ["tidy"] => Workspace::find().and_then(|ws| tidy::run(&ws)),
        ["guest-image"] => Workspace::find().and_then(|ws| guest::image(&ws)),
        ["man"] => Workspace::find().and_then(|ws| man::run(&ws)),
        ["bench", ref rest @ ..] => Workspace::find().and_then(|ws| bench::run(&ws, rest)),
        ["demo", ref rest @ ..] => match demo::run(rest) {
            Some(done) => done,
            None => {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            }
        },
        ["vm", "--systemd"] => Workspace::find().and_then(|ws| match vm::systemd::skip() {
            Some(skip) => Err(skip.reason.into()),
            None => vm::systemd::run(&ws)?.verdict(),
        }),
        ["vm", ref rest @ ..] => {
            let Some(choice) = vm::Choice::parse(rest) else {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            };
            Workspace::find().and_then(|ws| vm::run(&ws, &choice)?.verdict())
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
