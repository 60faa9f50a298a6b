//! The `patchcord` command.
#![forbid(unsafe_code)]

use clap::Parser;
use patchcord_cli::args::Cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json;
    match patchcord_cli::execute(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(json),
    }
}
