//! XML that the user submits: a file, the standard input, or the command line itself.

use crate::error::CommandError;
use std::io::{self, Read};
use std::path::Path;

/// Bytes of a document at most, as the daemon takes it. A longer one would end the connection before it is answered.
const LIMIT: u64 = 1 << 20;

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
            read_text("<command line>".into(), argument.as_bytes())
                .map_err(|error| CommandError::io("can't take the document on the command line".into(), &error))
        } else {
            Self::read(Path::new(argument))
        }
    }
}

fn read_text(name: String, source: impl Read) -> io::Result<Document> {
    let invalid = |cause: String| io::Error::new(io::ErrorKind::InvalidData, cause);
    let mut bytes = Vec::new();
    source.take(LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LIMIT {
        return Err(invalid(format!("it has more than {LIMIT} bytes, and no document may have more")));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        invalid(format!("it is not UTF-8, beginning with byte {} (line {line})", good.len() + 1))
    })?;
    Ok(Document { name, text })
}
