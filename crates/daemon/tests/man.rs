//! The daemon's man page, which comes from its options.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

use std::fs;
use std::process::Command;

#[test]
fn the_man_page_tells_of_every_option_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man");
    let daemon = || Command::new(env!("CARGO_BIN_EXE_patchcordd"));
    let done = daemon().arg("--man").arg(&pages).output().unwrap();
    assert!(done.status.success() && done.stdout.is_empty() && done.stderr.is_empty(), "{done:?}");
    let files: Vec<_> = fs::read_dir(&pages).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files, ["patchcordd.8"]);
    let page = fs::read_to_string(pages.join("patchcordd.8")).unwrap();
    assert!(page.contains(".TH patchcordd 8") && page.contains("SIGTERM"), "{page}");

    let help = daemon().arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let words = help.split_whitespace().map(|word| word.trim_end_matches(','));
    let mut options: Vec<_> = words.filter(|word| word.starts_with("--")).collect();
    options.sort();
    options.dedup();
    assert_eq!(options, ["--config", "--help", "--root", "--version"]);
    for option in options {
        assert!(page.contains(&option.replace('-', r"\-")), "{option} is missing in {page}");
    }
    assert!(!page.contains(r"\-\-man") && !page.contains("SUBCOMMANDS"), "{page}");

    // Where it can't be written, that is said.
    let refused = daemon().arg("--man").arg(pages.join("patchcordd.8")).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("can't write a man page to"), "{said}");
}
