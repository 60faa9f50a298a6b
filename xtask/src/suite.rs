//! The workspace's tests as nextest lists them, and the skips that they reported.

use std::path::PathBuf;

use serde_json::Value;

use crate::Result;
use crate::workspace::{Workspace, capture};

/// One test function.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Test {
    /// nextest's name for the binary: the package, then `::` and the file under `tests/` if any.
    pub(crate) binary_id: String,
    pub(crate) name: String,
    pub(crate) binary: PathBuf,
    /// The package's directory, in which cargo runs its tests.
    pub(crate) directory: PathBuf,
    /// `lib`, `bin`, `test` and so on.
    pub(crate) kind: String,
}

/// A test that said it could not run, by a line `SKIP name: reason` in the skip log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Skip {
    pub(crate) name: String,
    pub(crate) reason: String,
}

impl Skip {
    /// Whether another kernel would help: not where the host lacks a program or a file, since the
    /// virtual machine sees the same ones.
    pub(crate) fn is_for_the_vm(&self) -> bool {
        !self.reason.starts_with("host has no ")
    }

    /// Whether the test that reported this skip is the given one. A test may name itself by its
    /// function alone.
    pub(crate) fn names(&self, test: &Test) -> bool {
        let is_suffix = |long: &str, short: &str| {
            long.strip_suffix(short).is_some_and(|head| head.is_empty() || head.ends_with("::"))
        };
        is_suffix(&test.name, &self.name) || is_suffix(&self.name, &test.name)
    }
}

/// Builds the test binaries of the packages, given as cargo's own options, and lists their tests,
/// ignored ones left out.
pub(crate) fn list(ws: &Workspace, packages: &[&str]) -> Result<Vec<Test>> {
    let mut command = ws.cargo(["nextest", "list", "--message-format=json"]);
    command.args(packages);
    from_json(&serde_json::from_str(&capture(&mut command)?)?)
}

fn from_json(list: &Value) -> Result<Vec<Test>> {
    let suites = list["rust-suites"].as_object().ok_or("nextest lists no suites")?;
    let mut tests = Vec::new();
    for (binary_id, suite) in suites {
        let text = |key: &str| {
            let text = suite[key].as_str().map(str::to_owned);
            text.ok_or_else(|| format!("nextest gives no {key} for {binary_id}"))
        };
        let cases = suite["testcases"].as_object().ok_or("nextest gives no test cases")?;
        for (name, case) in cases {
            if case["ignored"].as_bool() == Some(true) {
                continue;
            }
            tests.push(Test {
                binary_id: binary_id.clone(),
                name: name.clone(),
                binary: text("binary-path")?.into(),
                directory: text("cwd")?.into(),
                kind: text("kind")?,
            });
        }
    }
    Ok(tests)
}

/// Reads a skip log; a line of another form is an error, so that no skip gets lost.
pub(crate) fn skips(log: &str) -> Result<Vec<Skip>> {
    let mut skips = Vec::new();
    for line in log.lines() {
        let parts = line.strip_prefix("SKIP ").and_then(|rest| rest.split_once(": "));
        let (name, reason) = parts.ok_or_else(|| format!("not a skip: {line}"))?;
        let skip = Skip { name: name.to_owned(), reason: reason.to_owned() };
        if !skips.contains(&skip) {
            skips.push(skip);
        }
    }
    Ok(skips)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn test(name: &str) -> Test {
        let name = name.to_owned();
        let (binary, directory) = (PathBuf::new(), PathBuf::new());
        Test { binary_id: "p".into(), name, binary, directory, kind: "test".into() }
    }

    #[test]
    fn lists_what_nextest_lists_but_ignored_tests() {
        let list = json!({"rust-suites": {"p::t": {
            "binary-path": "/t/deps/t-1", "cwd": "/p", "kind": "test",
            "testcases": {"a": {"ignored": false}, "b": {"ignored": true}},
        }}});
        let tests = from_json(&list).unwrap();
        assert_eq!(tests.len(), 1);
        assert_eq!((tests[0].binary_id.as_str(), tests[0].name.as_str()), ("p::t", "a"));
        assert_eq!(tests[0].binary, PathBuf::from("/t/deps/t-1"));
    }

    #[test]
    fn reads_skips_and_refuses_other_lines() {
        let log = "SKIP a::b: kernel has no fw\nSKIP a::b: kernel has no fw\nSKIP c: host has no x";
        let skips = skips(log).unwrap();
        assert_eq!(skips.len(), 2);
        assert_eq!((skips[0].name.as_str(), skips[0].reason.as_str()), ("a::b", "kernel has no fw"));
        assert!(skips[0].is_for_the_vm());
        assert!(!skips[1].is_for_the_vm());
        assert!(super::skips("SKIP without reason").is_err());
    }

    #[test]
    fn a_skip_names_its_test_with_or_without_the_module() {
        let skip = |name: &str| Skip { name: name.into(), reason: "r".into() };
        assert!(skip("b").names(&test("a::b")));
        assert!(skip("a::b").names(&test("a::b")));
        assert!(skip("crate::a::b").names(&test("a::b")));
        assert!(!skip("b").names(&test("ab")));
        assert!(!skip("a").names(&test("a::b")));
    }
}
