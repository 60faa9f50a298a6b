//! The program that QEMU calls for a tap.
#![forbid(unsafe_code)]

use clap::Parser;
use patchcord_cli::helper::{self, Arguments};
use std::process::ExitCode;

fn main() -> ExitCode {
    match helper::execute(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(false),
    }
}
