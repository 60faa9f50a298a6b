//! `cargo xtask tidy`: the rules of the repository that a program can check.
//!
//! Each check is a function from text to complaints, so that its tests need no repository.

mod manifest;
mod mask;
mod rust;
mod text;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::workspace::{Workspace, read};

/// One broken rule: the line, counted from 1, and what is wrong there.
#[derive(Debug, PartialEq)]
pub(crate) struct Complaint(usize, String);

/// Checks every file that git knows and every manifest; complaints go to the standard error.
pub(crate) fn run(ws: &Workspace) -> Result<()> {
    let files = ws.files()?;
    let mut found = Vec::new();
    let mut sources = Vec::new();
    for file in &files {
        let Ok(content) = std::fs::read_to_string(ws.root.join(file)) else {
            continue; // Not text.
        };
        let mut complaints = text::machine_paths(&content);
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => sources.push((file.clone(), content)),
            Some("md") => complaints.extend(text::links(&content, |link| {
                let directory = file.parent().unwrap_or(Path::new(""));
                ws.root.join(directory).join(link).exists()
            })),
            _ => {}
        }
        found.extend(complaints.into_iter().map(|complaint| (file.clone(), complaint)));
    }
    let test_modules: BTreeSet<PathBuf> =
        sources.iter().flat_map(|(file, content)| rust::test_modules(file, content)).collect();
    for (file, content) in &sources {
        let complaints = rust::check(file, content, rust::is_test(file, &test_modules));
        found.extend(complaints.into_iter().map(|complaint| (file.clone(), complaint)));
    }
    let page = PathBuf::from("docs/dependencies.md");
    let reasons = read(&ws.root.join(&page))?;
    found.extend(manifest::check(&ws.packages, &reasons));

    for (file, Complaint(line, what)) in &found {
        eprintln!("{}:{line}: {what}", file.display());
    }
    if found.is_empty() {
        println!("tidy: {} files", files.len());
        Ok(())
    } else {
        Err(format!("{} breaches of the rules in docs/style.md", found.len()).into())
    }
}
