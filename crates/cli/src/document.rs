//! XML that the user submits: a file, the standard input, or the command line itself.

use crate::error::CommandError;
use std::io::{self, Read};
use std::path::Path;

/// Bytes of a document at most; the daemon takes less.
const LIMIT: u64 = 4 << 20;

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
        let failed = |name: &str| {
            let name = name.to_owned();
            move |error: io::Error| CommandError::io(format!("can't read {name}"), &error)
        };
        if path == Path::new("-") {
            return read_text("<stdin>".into(), io::stdin().lock()).map_err(failed("the standard input"));
        }
        let name = path.display().to_string();
        std::fs::File::open(path).and_then(|file| read_text(name.clone(), file)).map_err(failed(&name))
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

fn read_text(name: String, source: impl Read) -> io::Result<Document> {
    let mut text = String::new();
    source.take(LIMIT + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has more than {LIMIT} bytes")));
    }
    Ok(Document { name, text })
}
