//! `patchcord network edit`: the definition in the user's editor, again until it is right or given up.

use crate::daemon::Daemon;
use crate::document::Document;
use crate::error::CommandError;
use patchcord_api::methods::{ChangedNetwork, DefineNetwork, GetNetworkXML};
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Edits a network's definition; `None` when nothing was changed.
pub(crate) fn edit(daemon: &mut Daemon, name: &str) -> Result<Option<ChangedNetwork>, CommandError> {
    let before = daemon.call(&GetNetworkXML { name: name.to_owned(), inactive: Some(true) })?.xml;
    let file = Scratch::new(&before)?;
    loop {
        run_editor(&file.path)?;
        let document = Document::read(&file.path)?;
        if document.text == before {
            return Ok(None);
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

/// A file that only its user can read, and that goes away.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new(text: &str) -> Result<Self, CommandError> {
        let path = std::env::temp_dir().join(format!("patchcord-{}.xml", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| CommandError::io(format!("can't write {}", path.display()), &error))?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may be gone already, and there is nobody to tell.
        let _ = fs::remove_file(&self.path);
    }
}
