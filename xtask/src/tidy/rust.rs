//! Rules for Rust sources.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Complaint;
use super::mask::mask;

/// Lines that a file may have.
const LENGTH_LIMIT: usize = 600;

/// The only modules with unsafe code: system calls that have no safe wrapper.
const UNSAFE_MODULES: [&str; 2] = ["crates/host/src/sys.rs", "crates/testkit/src/sys.rs"];

/// What ends the process instead of returning an error.
const PANICS: [&str; 5] = [".unwrap()", ".expect(\"", "panic!", "todo!", "unimplemented!"];

/// Whether a file holds nothing but tests: by its place, or because its parent declares it so.
pub(crate) fn is_test(file: &Path, test_modules: &BTreeSet<PathBuf>) -> bool {
    let in_directory = |name: &str| file.components().any(|part| part.as_os_str() == name);
    file.starts_with("crates/testkit")
        || ["tests", "benches", "fuzz"].into_iter().any(in_directory)
        || file.ancestors().any(|path| test_modules.contains(path))
}

/// The files and directories of `#[cfg(test)] mod name;` declarations.
pub(crate) fn test_modules(file: &Path, source: &str) -> Vec<PathBuf> {
    let directory = file.parent().unwrap_or(Path::new(""));
    let stem = file.file_stem().unwrap_or_default();
    let is_root = ["lib", "main", "mod"].iter().any(|name| stem == *name);
    let children = if is_root { directory.to_owned() } else { directory.join(stem) };
    let masked = mask(source);
    let mut modules = Vec::new();
    for after in masked.split("#[cfg(test)]").skip(1) {
        let Some((item, _)) = after.split_once([';', '{']) else { continue };
        let words: Vec<&str> = item.split_whitespace().collect();
        let ["mod", name] = words[..] else { continue };
        modules.push(children.join(name));
        modules.push(children.join(format!("{name}.rs")));
    }
    modules
}

/// All rules for one file.
pub(crate) fn check(file: &Path, source: &str, is_test: bool) -> Vec<Complaint> {
    let masked = mask(source);
    let mut complaints = module_comment(source);
    let lines = source.lines().count();
    if lines > LENGTH_LIMIT {
        complaints.push(Complaint(lines, format!("{lines} lines; {LENGTH_LIMIT} are the limit")));
    }
    if !is_test {
        complaints.extend(panics(source, &without_tests(&masked)));
    }
    complaints.extend(unsafe_code(file, source, &masked));
    complaints.extend(unsafe_lint(file, &masked));
    complaints
}

/// Every module starts with `//!`; inner attributes may come first.
fn module_comment(source: &str) -> Vec<Complaint> {
    let mut lines = source.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with("#!["));
    match first {
        Some(line) if line.starts_with("//!") => Vec::new(),
        _ => vec![Complaint(1, "no //! comment at the top".into())],
    }
}

/// Masked source with the items under `#[cfg(test)]` blanked out too.
fn without_tests(masked: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(masked.len());
    let mut rest = masked;
    while let Some((before, item)) = rest.split_once(MARK) {
        kept.push_str(before);
        let mut depth = 0;
        let end = item.char_indices().find_map(|(at, char)| {
            match char {
                '{' | '(' | '[' => depth += 1,
                '}' | ')' | ']' => depth -= 1,
                _ => {}
            }
            let ends = depth == 0 && matches!(char, '}' | ';');
            ends.then(|| at + char.len_utf8())
        });
        let end = end.unwrap_or(item.len());
        kept.extend(item[..end].chars().filter(|&char| char == '\n'));
        rest = &item[end..];
    }
    kept.push_str(rest);
    kept
}

/// What panics needs a comment that says why, on its line or above the statement.
fn panics(source: &str, code: &str) -> Vec<Complaint> {
    let lines: Vec<&str> = source.lines().collect();
    let masked: Vec<String> = mask(source).lines().map(str::to_owned).collect();
    let mut complaints = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let found = PANICS
            .iter()
            .find(|panic| line.match_indices(**panic).any(|(at, _)| panic.starts_with('.') || !ends_word(&line[..at])));
        let Some(found) = found else { continue };
        // A call in a chain belongs to the line on which the chain starts.
        let mut start = index;
        while start > 0 && lines[start].trim_start().starts_with('.') {
            start -= 1;
        }
        let is_comment = |line: usize| {
            lines[line].trim_start().starts_with("// ") || has_trailing_comment(lines[line], &masked[line])
        };
        let explained = (start..=index).any(is_comment) || (start > 0 && is_comment(start - 1));
        if !explained {
            let name = found.trim_matches(['.', '"', '(', ')']);
            complaints.push(Complaint(index + 1, format!("{name} without a comment that says why")));
        }
    }
    complaints
}

fn ends_word(text: &str) -> bool {
    text.ends_with(|char: char| char.is_alphanumeric() || char == '_')
}

/// Whether a comment follows the code of a line.
fn has_trailing_comment(line: &str, masked: &str) -> bool {
    let code = masked.trim_end().chars().count();
    let rest: String = line.chars().skip(code).collect();
    code > 0 && rest.trim_start().starts_with("// ")
}

/// Unsafe code is in its modules only, and each piece says why it is sound.
fn unsafe_code(file: &Path, source: &str, masked: &str) -> Vec<Complaint> {
    let lines: Vec<&str> = source.lines().collect();
    let mut complaints = Vec::new();
    for (index, line) in masked.lines().enumerate() {
        let is_word = |at: usize| {
            let after = &line[at + "unsafe".len()..];
            !ends_word(&line[..at]) && !after.starts_with(|c: char| c.is_alphanumeric() || c == '_')
        };
        if !line.match_indices("unsafe").any(|(at, _)| is_word(at)) {
            continue;
        }
        if !UNSAFE_MODULES.iter().any(|module| file == Path::new(module)) {
            complaints.push(Complaint(index + 1, "unsafe code outside its modules".into()));
            continue;
        }
        let above = lines[..index].iter().rev().map(|line| line.trim());
        let mut above = above.take_while(|line| line.starts_with("//") || line.starts_with("#["));
        if !above.any(|line| line.contains("SAFETY:") || line.contains("# Safety")) {
            complaints.push(Complaint(index + 1, "unsafe code without a SAFETY: comment".into()));
        }
    }
    complaints
}

/// Each crate root forbids unsafe code, or denies it where a module of the crate is excepted.
fn unsafe_lint(file: &Path, masked: &str) -> Vec<Complaint> {
    let parts: Vec<_> = file.iter().filter_map(|part| part.to_str()).collect();
    let (package, rest) = match parts[..] {
        ["crates", _, ref rest @ ..] => (&parts[..2], rest),
        ["xtask", ref rest @ ..] => (&parts[..1], rest),
        _ => return Vec::new(),
    };
    if !matches!(rest, ["src", "lib.rs" | "main.rs"] | ["src", "bin", _]) {
        return Vec::new();
    }
    let package: PathBuf = package.iter().collect();
    let has_exception = UNSAFE_MODULES.iter().any(|module| Path::new(module).starts_with(&package));
    let level = if has_exception { "deny" } else { "forbid" };
    let lint = format!("#![{level}(unsafe_code)]");
    if masked.contains(&lint) || masked.contains("#![forbid(unsafe_code)]") {
        Vec::new()
    } else {
        vec![Complaint(1, format!("no {lint}"))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(complaints: Vec<Complaint>) -> Vec<usize> {
        complaints.into_iter().map(|Complaint(line, _)| line).collect()
    }

    fn check_plain(source: &str) -> Vec<usize> {
        lines(check(Path::new("crates/core/src/a.rs"), source, false))
    }

    #[test]
    fn modules_have_a_comment() {
        assert_eq!(check_plain("//! Doc.\nfn f() {}\n"), [0; 0]);
        assert_eq!(check_plain("#![deny(x)]\n\n//! Doc.\n"), [0; 0]);
        assert_eq!(check_plain("fn f() {}\n//! Late.\n"), [1]);
        assert_eq!(check_plain(""), [1]);
    }

    #[test]
    fn files_are_short() {
        assert_eq!(check_plain(&("//! Doc.\n".to_owned() + &"\n".repeat(599))), [0; 0]);
        assert_eq!(check_plain(&("//! Doc.\n".to_owned() + &"\n".repeat(600))), [601]);
    }

    #[test]
    fn panics_are_explained() {
        for call in ["x.unwrap();", "x.expect(\"y\");", "panic!(\"y\")", "todo!()"] {
            assert_eq!(check_plain(&format!("//! Doc.\n{call}\n")), [2], "{call}");
            assert_eq!(check_plain(&format!("//! Doc.\n{call} // It is set.\n")), [0; 0], "{call}");
            assert_eq!(check_plain(&format!("//! Doc.\n// It is set.\n{call}\n")), [0; 0], "{call}");
            assert_eq!(check_plain(&format!("//! Doc.\n/// Not why.\n{call}\n")), [3], "{call}");
        }
        assert_eq!(check_plain("//! Doc.\n// Why.\nx\n    .y()\n    .unwrap();\n"), [0; 0]);
        assert_eq!(check_plain("//! Doc.\nx\n    .y()\n    .unwrap();\n"), [4]);
        assert_eq!(check_plain("//! x.unwrap()\nlet a = \"panic!\"; x.expect(Token::A); my_panic!()\n"), [0; 0]);
        assert_eq!(check_plain("//! Doc.\nlet a = \"// no comment\"; x.unwrap();\n"), [2]);
    }

    #[test]
    fn tests_may_panic_but_not_what_follows_them() {
        let source = "//! Doc.\n#[cfg(test)]\nmod tests {\n    fn f() { x.unwrap() }\n}\ny.unwrap();\n";
        assert_eq!(check_plain(source), [6]);
        assert_eq!(check_plain("//! Doc.\n#[cfg(test)]\nuse a::{b, c};\ny.unwrap();\n"), [4]);
        assert!(check(Path::new("crates/core/src/a.rs"), source, true).is_empty());
    }

    #[test]
    fn declared_test_modules() {
        let declared = |file: &str| test_modules(Path::new(file), "#[cfg(test)]\nmod t;\nmod u;\n");
        assert_eq!(declared("c/src/lib.rs"), [PathBuf::from("c/src/t"), "c/src/t.rs".into()]);
        let modules: BTreeSet<_> = declared("c/src/a.rs").into_iter().collect();
        for (file, expected) in [
            ("c/src/a/t.rs", true),
            ("c/src/a/t/deep.rs", true),
            ("c/src/a/u.rs", false),
            ("c/tests/x.rs", true),
            ("crates/testkit/src/lib.rs", true),
        ] {
            assert_eq!(is_test(Path::new(file), &modules), expected, "{file}");
        }
    }

    #[test]
    fn unsafe_code_is_confined_and_explained() {
        let check = |file: &str, source: &str| lines(check(Path::new(file), source, false));
        let bare = "//! Doc.\nlet x = unsafe { f() };\n";
        let sound = "//! Doc.\n// SAFETY: f has no\n// conditions.\nlet x = unsafe { f() };\n";
        assert_eq!(check("crates/host/src/a.rs", sound), [4]);
        assert_eq!(check("crates/host/src/sys.rs", bare), [2]);
        assert_eq!(check("crates/host/src/sys.rs", sound), [0; 0]);
        assert_eq!(check("crates/host/src/a.rs", "//! unsafe\n#![deny(unsafe_code)]\n"), [0; 0]);
    }

    #[test]
    fn crate_roots_forbid_unsafe_code() {
        let check = |file: &str, source: &str| lines(check(Path::new(file), source, false));
        assert_eq!(check("crates/core/src/lib.rs", "//! Doc.\n"), [1]);
        assert_eq!(check("crates/core/src/lib.rs", "//! Doc.\n#![deny(unsafe_code)]\n"), [1]);
        assert_eq!(check("crates/core/src/lib.rs", "//! Doc.\n#![forbid(unsafe_code)]\n"), [0; 0]);
        assert_eq!(check("crates/host/src/lib.rs", "//! Doc.\n#![deny(unsafe_code)]\n"), [0; 0]);
        assert_eq!(check("crates/cli/src/bin/x.rs", "//! Doc.\n"), [1]);
        assert_eq!(check("xtask/src/main.rs", "//! Doc.\n"), [1]);
        assert_eq!(check("crates/core/src/a.rs", "//! Doc.\n"), [0; 0]);
    }
}
