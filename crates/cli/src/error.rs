//! What users are told when something fails, and with which exit status.

use crate::document::Document;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use patchcord_api::error::Refusal;
use patchcord_api::{ClientError, SOCKET};
use serde_json::json;
use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

/// The status for what is refused or fails.
const FAILED: u8 = 1;
/// The status for a command line that makes no sense.
const USAGE: u8 = 2;

/// A command's failure.
#[derive(Debug)]
pub struct CommandError {
    /// Exit status.
    exit: u8,
    /// `object, field: cause`.
    message: String,
    /// What would help.
    hints: Vec<String>,
    /// The document at fault, and the range of bytes in it.
    place: Option<(Document, std::ops::Range<usize>)>,
    /// What the daemon refused, with its name.
    refused: Option<(String, Box<Refusal>)>,
}

impl CommandError {
    /// Something failed.
    pub fn new(message: impl Into<String>) -> Self {
        Self { exit: FAILED, message: message.into(), hints: Vec::new(), place: None, refused: None }
    }

    /// The command line makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: USAGE, ..Self::new(message) }
    }

    /// A file or the like refused.
    pub fn io(what: String, error: &io::Error) -> Self {
        Self::new(format!("{what}: {error}"))
    }

    /// Says what would help.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Whether it is a fault in a document that was submitted.
    pub fn is_in_document(&self) -> bool {
        self.place.is_some()
    }

    /// The error of a call that submitted `document`.
    pub(crate) fn about(error: ClientError, document: &Document) -> Self {
        let range = match &error {
            ClientError::Refused { refusal, .. } => refusal.start.zip(refusal.end),
            _ => None,
        };
        let mut this = Self::from(error);
        this.place = range.and_then(|(start, end)| {
            let range = start..end.max(start);
            document.text.get(range.clone()).map(|_| (document.clone(), range))
        });
        this
    }

    /// As text, with colours in it.
    pub fn render(&self) -> String {
        let renderer = Renderer::styled();
        let mut group: Group<'_> = Group::with_title(Level::ERROR.primary_title(&self.message));
        if let Some((document, range)) = &self.place {
            let snippet = Snippet::source(&document.text).path(&document.name);
            group = group.element(snippet.annotation(AnnotationKind::Primary.span(range.clone())));
        }
        let mut text = renderer.render(&[group]).to_string();
        for hint in &self.hints {
            let hint = Group::with_title(Level::HELP.with_name("hint").primary_title(hint));
            text = format!("{text}\n{}", renderer.render(&[hint]));
        }
        text
    }

    /// As a JSON document: what the daemon says of what it refuses, or else the cause alone.
    fn document(&self) -> serde_json::Value {
        let error = match &self.refused {
            Some((name, refusal)) => {
                let mut error = serde_json::to_value(refusal).unwrap_or_default();
                error["name"] = name.as_str().into();
                error
            }
            None => json!({ "cause": self.message, "hint": self.hints.first(), "exit": self.exit }),
        };
        json!({ "error": error })
    }

    /// Tells the user, and with `json` whatever reads the standard output, too; gives the exit status.
    pub fn report(&self, json: bool) -> ExitCode {
        // There may be nobody to tell.
        if json {
            let _ = writeln!(io::stdout(), "{}", self.document());
        }
        let _ = writeln!(anstream::stderr(), "{}", self.render());
        ExitCode::from(self.exit)
    }
}

impl From<ClientError> for CommandError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused { name, refusal } => {
                let mut this = Self { exit: refusal.exit, ..Self::new(refusal.to_string()) };
                this.hints.extend(refusal.hint.clone());
                this.refused = Some((name, refusal));
                this
            }
            ClientError::Connect { path, source } => {
                let this = Self::new(format!("can't connect to {}: {source}", path.display()));
                match source.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                        let this = this.hint("is patchcordd running?");
                        if path.ends_with(SOCKET) {
                            this.hint("with another root directory, say so with --root")
                        } else {
                            this
                        }
                    }
                    _ => this,
                }
            }
            other => {
                let source = other.source().map(|source| format!(": {source}")).unwrap_or_default();
                Self::new(format!("{other}{source}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(field: Option<&str>, range: Option<(usize, usize)>) -> ClientError {
        let refusal = Refusal {
            object: "network 'lab'".into(),
            field: field.map(Into::into),
            cause: "'10.0.0.300' is not an IPv4 address".into(),
            hint: Some("write four numbers from 0 to 255".into()),
            also: Vec::new(),
            line: None,
            column: None,
            start: range.map(|r| r.0),
            end: range.map(|r| r.1),
            exit: 4,
        };
        ClientError::Refused { name: "InvalidXml".into(), refusal: Box::new(refusal) }
    }

    fn plain(error: &CommandError) -> String {
        anstream::adapter::strip_str(&error.render()).to_string()
    }

    #[test]
    fn a_fault_is_drawn_under_its_line() {
        let text = "<network>\n  <name>lab</name>\n  <ip address='10.0.0.300'/>\n</network>\n";
        let start = text.find("address=").unwrap();
        let document = Document { name: "lab.xml".into(), text: text.into() };
        let error = refusal(Some("<ip address>"), Some((start, start + "address='10.0.0.300'".len())));
        insta::assert_snapshot!(plain(&CommandError::about(error, &document)), @r"
        error: network 'lab', <ip address>: '10.0.0.300' is not an IPv4 address
         --> lab.xml:3:7
          |
        3 |   <ip address='10.0.0.300'/>
          |       ^^^^^^^^^^^^^^^^^^^^
        hint: write four numbers from 0 to 255
        ");
    }

    #[test]
    fn without_a_place_the_object_has_to_do() {
        insta::assert_snapshot!(plain(&refusal(None, None).into()), @r"
        error: network 'lab': '10.0.0.300' is not an IPv4 address
        hint: write four numbers from 0 to 255
        ");
        let document = Document { name: "lab.xml".into(), text: "é".into() };
        for (start, end) in [(1, 1), (0, 1), (5, 9), (9, 5), (usize::MAX, usize::MAX)] {
            let error = CommandError::about(refusal(None, Some((start, end))), &document);
            assert!(!error.is_in_document(), "{start} {end}");
        }
    }

    #[test]
    fn a_daemon_that_does_not_run_is_named() {
        let source = io::Error::from_raw_os_error(2);
        let error = ClientError::Connect { path: "/srv/run/patchcord/patchcord.sock".into(), source };
        insta::assert_snapshot!(plain(&error.into()), @r"
        error: can't connect to /srv/run/patchcord/patchcord.sock: No such file or directory (os error 2)
        hint: is patchcordd running?
        hint: with another root directory, say so with --root
        ");
    }
}
