//! The standard output: text for people, one JSON document for programs.

use crate::error::CommandError;
use serde::Serialize;
use std::io::{self, Write};

/// How to print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ui {
    json: bool,
}

impl Ui {
    /// For programs or people.
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints a value as JSON, or what `text` makes of it.
    pub(crate) fn show<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), CommandError> {
        if !self.json {
            return self.text(&text(value));
        }
        let json = serde_json::to_string_pretty(value)
            .map_err(|error| CommandError::new(format!("can't print the answer as JSON: {error}")))?;
        self.text(&format!("{json}\n"))
    }

    /// Prints a value as one line of JSON, or of text.
    pub(crate) fn line<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), CommandError> {
        let line = if self.json {
            serde_json::to_string(value)
                .map_err(|error| CommandError::new(format!("can't print an event as JSON: {error}")))?
        } else {
            text(value)
        };
        self.text(&format!("{line}\n"))
    }

    /// Prints text. A reader that has seen enough (`| head`) ends the program in peace.
    pub(crate) fn text(self, text: &str) -> Result<(), CommandError> {
        let mut out = anstream::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            result => result.map_err(|error| CommandError::io("can't write to the standard output".into(), &error)),
        }
    }

    /// Tells what the daemon wants the user to know besides.
    pub(crate) fn warnings(self, warnings: &[String]) {
        let style = anstyle::AnsiColor::Yellow.on_default().bold();
        for warning in warnings {
            // There may be nobody to tell.
            let _ = writeln!(anstream::stderr(), "{style}warning{style:#}: {warning}");
        }
    }
}
