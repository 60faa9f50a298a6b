//! The `patchcord` command.
#![forbid(unsafe_code)]

use clap::Parser;
use patchcord_cli::args::Cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    match patchcord_cli::execute(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}
