//! `patchcord network edit`: the definition in the user's editor, again until it is right or given up.

use crate::daemon::Daemon;
use crate::document::Document;
use crate::error::CommandError;
use patchcord_api::methods::{ChangedNetwork, DefineNetwork, GetNetworkXML};
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;
use std::process::Command;
use tempfile::NamedTempFile;

/// Edits a network's definition; `None` when nothing was changed. What was written and is not taken on is kept.
pub(crate) fn edit(daemon: &mut Daemon, name: &str) -> Result<Option<ChangedNetwork>, CommandError> {
    let before = definition(daemon, name)?;
    let file = scratch(&before)?;
    let edited = until_taken_on(daemon, name, &before, file.path());
    if edited.is_err() && std::fs::read(file.path()).is_ok_and(|text| text != before.as_bytes()) {
        keep(file);
    }
    edited
}

/// Runs the editor, and submits what it leaves, as long as the user wants that.
fn until_taken_on(
    daemon: &mut Daemon,
    name: &str,
    before: &str,
    file: &Path,
) -> Result<Option<ChangedNetwork>, CommandError> {
    loop {
        run_editor(file)?;
        let document = Document::read(file)?;
        if document.text == before {
            return Ok(None);
        }
        if definition(daemon, name)? != before {
            let error = CommandError::new(format!("network '{name}': somebody else changed it meanwhile"));
            return Err(error.hint("edit it again, and take over what you wrote"));
        }
        match daemon.submit(&DefineNetwork { xml: document.text.clone() }, &document) {
            Ok(reply) => return Ok(Some(reply)),
            Err(error) if io::stdin().is_terminal() => {
                anstream::eprintln!("{}", error.render());
                anstream::eprint!("edit it again? [Y/n] ");
                let mut answer = String::new();
                let read = io::stdin().lock().read_line(&mut answer);
                if read.unwrap_or(0) == 0 || answer.trim_start().starts_with(['n', 'N']) {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn definition(daemon: &mut Daemon, name: &str) -> Result<String, CommandError> {
    Ok(daemon.call(&GetNetworkXML { name: name.to_owned(), inactive: Some(true) })?.xml)
}

/// Runs the user's editor, which may have arguments in its name.
fn run_editor(path: &Path) -> Result<(), CommandError> {
    let set = |name| std::env::var(name).ok().filter(|editor| !editor.trim().is_empty());
    let editor = set("VISUAL").or_else(|| set("EDITOR")).unwrap_or_else(|| "vi".into());
    let status = Command::new("sh").args(["-c", &format!("{editor} \"$1\""), "sh"]).arg(path).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(CommandError::new(format!("the editor '{editor}' ended with {status}"))),
        Err(error) => Err(CommandError::io("can't run the editor".into(), &error)),
    }
}

/// A file that only its user can read, and that goes away unless it is kept.
fn scratch(text: &str) -> Result<NamedTempFile, CommandError> {
    let file = tempfile::Builder::new().prefix("patchcord-").suffix(".xml").tempfile();
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()).map(|()| file));
    written.map_err(|error| CommandError::io(format!("can't write into {}", std::env::temp_dir().display()), &error))
}

/// Leaves the file to its user, so that nothing that was written is lost, and says where it is.
fn keep(file: NamedTempFile) {
    match file.into_temp_path().keep() {
        Ok(path) => anstream::eprintln!("what you wrote is kept in {}", path.display()),
        Err(error) => anstream::eprintln!("what you wrote can't be kept: {error}"),
    }
}
