//! XML that the user submits: a file, the standard input, or the command line itself.

use crate::error::CommandError;
use std::io::{self, Read};
use std::path::Path;

/// Bytes of a document at most, as the daemon has it.
const LIMIT: u64 = patchcord_api::MAX_DOCUMENT as u64;

/// A document, and what errors call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Document {
    /// The file's name.
    pub(crate) name: String,
    /// What is in it.
    pub(crate) text: String,
}

impl Document {
    /// Reads a file, or the standard input for `-`.
    pub(crate) fn read(path: &Path) -> Result<Self, CommandError> {
        if path == Path::new("-") {
            return read_text("the standard input", "<stdin>".into(), io::stdin().lock());
        }
        let name = path.display().to_string();
        let file = std::fs::File::open(path).map_err(|error| failed(&name, &error))?;
        read_text(&name, name.clone(), file)
    }

    /// Takes what starts with `<` as the document itself, anything else as [`Document::read`] does.
    pub(crate) fn given(argument: &str) -> Result<Self, CommandError> {
        if argument.trim_start().starts_with('<') {
            Ok(Self { name: "<command line>".into(), text: argument.to_owned() })
        } else {
            Self::read(Path::new(argument))
        }
    }
}

/// Reads a document; `what` is its name in errors, `name` that beside its lines.
fn read_text(what: &str, name: String, source: impl Read) -> Result<Document, CommandError> {
    let mut bytes = Vec::new();
    // No more than it takes to see that there is more.
    let count = source.take(LIMIT + 1).read_to_end(&mut bytes).map_err(|error| failed(what, &error))?;
    if count as u64 > LIMIT {
        let cause = format!("can't read {what}: it has more than {LIMIT} bytes, and a document may have no more");
        return Err(CommandError::new(cause));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let (at, bytes) = (error.utf8_error().valid_up_to(), error.as_bytes());
        let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        let cause =
            format!("can't read {what}: it is not UTF-8: byte {:#04x} in line {line}, at offset {at}", bytes[at]);
        CommandError::new(cause).hint("save it as UTF-8")
    })?;
    Ok(Document { name, text })
}

fn failed(what: &str, error: &io::Error) -> CommandError {
    CommandError::io(format!("can't read {what}"), error)
}
