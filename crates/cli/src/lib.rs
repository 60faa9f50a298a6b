//! The `patchcord` command and QEMU's helper.
//!
//! | file | what |
//! |---|---|
//! | `args` | the command line |
//! | `daemon` | the connection to the daemon |
//! | `network`, `edit`, `nic`, `device`, `run`, `import`, `events`, `topology`, `svg` | the commands |
//! | `document` | XML from files and the standard input |
//! | `table`, `ui`, `error` | what people see |
//! | `helper` | QEMU's helper |
#![forbid(unsafe_code)]

pub mod args;
mod daemon;
mod device;
mod document;
mod edit;
pub mod error;
mod events;
pub mod helper;
mod import;
mod network;
mod nic;
mod run;
mod svg;
mod table;
mod topology;
mod ui;

use args::{Cli, Command};
use clap::CommandFactory;
use daemon::Daemon;
use error::CommandError;
use std::path::Path;
use ui::Ui;

/// The command line, for man pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Carries out a command line.
///
/// # Errors
/// What the user is to be told, with the exit status.
pub fn execute(cli: Cli) -> Result<(), CommandError> {
    let ui = Ui::new(cli.json);
    let daemon = || Daemon::connect(&cli.place);
    match cli.command {
        Command::Network(command) => network::execute(command, &mut daemon()?, ui),
        Command::Nic(command) => nic::execute(command, &mut daemon()?, ui),
        Command::Device(command) => device::execute(command, daemon()?, ui),
        Command::Run(command) => run::execute(command, daemon()?, ui),
        Command::Import(command) => import::execute(&command, &mut daemon()?, ui),
        Command::Events(command) => events::execute(command, daemon()?, ui),
        Command::Topology(command) => topology::execute(&command, &mut daemon()?, ui),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command(), "patchcord", &mut script);
            ui.text(&String::from_utf8_lossy(&script))
        }
        Command::Man { directory } => man_pages(&directory),
    }
}

/// Writes the man pages of both programs.
fn man_pages(directory: &Path) -> Result<(), CommandError> {
    let failed = |error| CommandError::io(format!("can't write man pages to {}", directory.display()), &error);
    std::fs::create_dir_all(directory).map_err(failed)?;
    [command(), helper::Arguments::command()].into_iter().try_for_each(|program| {
        let mut program = program.disable_help_subcommand(true);
        program.build();
        man_pages_of(program, directory).map_err(failed)
    })
}

/// A command's page, after those of its subcommands, which have no version of their own to name.
fn man_pages_of(command: clap::Command, directory: &Path) -> std::io::Result<()> {
    let shown = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
    shown.cloned().try_for_each(|subcommand| man_pages_of(subcommand, directory))?;
    let source = concat!("patchcord ", env!("CARGO_PKG_VERSION"));
    clap_mangen::Man::new(command).source(source).generate_to(directory).map(drop)
}
