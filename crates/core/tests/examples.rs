//! What the documents and the examples show is accepted: each XML document there is read strictly and checked.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use patchcord_core::xml::{Mode, read_network, read_nic, root_name};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Files of that extension in a directory of the repository, with their text.
fn files(directory: &str, extension: &str) -> Vec<(PathBuf, String)> {
    let entries = std::fs::read_dir(root().join(directory)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// Reads a network's or a NIC's document as the `patchcord` command's users have it read.
fn check(place: &str, text: &str) {
    let root = root_name(text).unwrap_or_else(|| panic!("{place}: no root element"));
    let checked = match root {
        "network" => read_network(text, Mode::Strict).map(drop),
        "interface" => read_nic(text).and_then(|nic| nic.validate()),
        other => panic!("{place}: <{other}> is neither a network nor a NIC; put a fragment into a command line"),
    };
    checked.unwrap_or_else(|error| panic!("{place}: {error}"));
}

/// The text of each fenced block of XML, with the line at which it starts.
fn blocks(markdown: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut lines = markdown.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if line.trim() == "```xml" {
            let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```");
            found.push((number + 2, inside.collect::<Vec<_>>().join("\n")));
        }
    }
    found
}

#[test]
fn every_example_is_accepted() {
    let examples = files("examples", "xml");
    assert!(examples.len() >= 12, "{} examples", examples.len());
    for (path, text) in examples {
        check(&path.display().to_string(), &text);
    }
}

#[test]
fn every_xml_block_in_the_documents_is_accepted() {
    let mut pages = files("docs", "md");
    pages.extend(files(".", "md"));
    let mut count = 0;
    for (path, text) in pages {
        for (line, block) in blocks(&text) {
            check(&format!("{}:{line}", path.display()), &block);
            count += 1;
        }
    }
    assert!(count > 0, "there is no XML in any page");
}

#[test]
fn blocks_are_found_with_their_lines() {
    let page = "a\n```xml\n<x/>\n<y/>\n```\nb\n```sh\n<z/>\n```\n  ```xml\n  <q/>\n  ```\n";
    assert_eq!(blocks(page), [(3, "<x/>\n<y/>".to_owned()), (11, "  <q/>".to_owned())]);
}
