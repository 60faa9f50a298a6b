//! `cargo xtask vm`: the workspace's tests in a QEMU machine that runs Debian's own kernel.
//!
//! The machine sees the host's file system read-only with a memory overlay on top, so that it runs
//! the binaries that were built on the host. What a test needs and the kernel at hand lacks, this
//! one has; therefore it runs with `STRICT=1`, under which a skip is a failure.

pub(crate) mod kernel;
mod machine;
mod netdevsim;
pub(crate) mod systemd;

use crate::ci::{Count, skip_log};
use crate::suite::{self, Skip, Test};
use crate::workspace::{Workspace, read, write};
use crate::{Result, workspace};

/// The guest's script, which runs the tests of a list; `@DIR@` stands for the lane's directory.
const GUEST: &str = include_str!("guest.sh");

/// Packages whose integration tests drive a kernel, for a run without filter or skip log.
const KERNEL_PACKAGES: [&str; 2] = ["patchcord-netlink", "patchcord-host"];

/// What to build and run.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Choice<'a> {
    /// The packages to build and to take tests from; none stands for the whole workspace.
    packages: Vec<&'a str>,
    /// Parts of the names of tests or of their binaries.
    filters: &'a [&'a str],
}

impl<'a> Choice<'a> {
    /// Reads `[-p PACKAGE]... [-- FILTER...]`; `None` if it is something else.
    pub(crate) fn parse(mut args: &'a [&'a str]) -> Option<Self> {
        let mut choice = Self::default();
        loop {
            match args {
                [] => return Some(choice),
                ["--", filters @ ..] => return Some(Self { filters, ..choice }),
                ["-p", package, rest @ ..] => {
                    choice.packages.push(package);
                    args = rest;
                }
                _ => return None,
            }
        }
    }

    /// The same for cargo.
    fn cargo_args(&self) -> Vec<&'a str> {
        if self.packages.is_empty() {
            return vec!["--workspace"];
        }
        self.packages.iter().flat_map(|package| ["-p", package]).collect()
    }
}

/// Runs the tests that the filters pick, or the default choice without one.
pub(crate) fn run(ws: &Workspace, choice: &Choice<'_>) -> Result<Count> {
    let filters = choice.filters;
    let dir = ws.target.join("vm");
    std::fs::create_dir_all(&dir)?;
    // Some tests run the workspace's programs, and those of other packages are not built for them.
    workspace::run(ws.cargo(["build"]).args(choice.cargo_args()))?;
    let tests = suite::list(ws, &choice.cargo_args())?;
    let log = skip_log(ws);
    let mut skips = if log.exists() { Some(suite::skips(&read(&log)?)?) } else { None };
    if let Some(skips) = &mut skips
        && !choice.packages.is_empty()
    {
        // The log is of the whole workspace.
        skips.retain(|skip| tests.iter().any(|test| skip.names(test)));
    }
    let chosen = choose(&tests, filters, skips.as_deref())?;
    if chosen.is_empty() {
        if filters.is_empty() {
            println!("vm: no test was skipped and none is marked, so there is nothing to run");
            return Ok(Count::default());
        }
        return Err(format!("no test matches {}", filters.join(" ")).into());
    }

    let kernel = kernel::prepare(ws, &dir)?;
    let list: String = chosen.iter().map(|test| line(test)).collect();
    write(&dir.join("tests"), list)?;
    write(&dir.join("guest.sh"), GUEST.replace("@DIR@", &dir.to_string_lossy()))?;
    println!("vm: {} tests on kernel {}", chosen.len(), kernel.version);
    machine::run(ws, &kernel, chosen.len())
}

/// The tests to run: those that match a filter; without filters those that another kernel may run
/// and those with `vm_` in their names; without a skip log all that drive a kernel.
fn choose<'a>(tests: &'a [Test], filters: &[&str], skips: Option<&[Skip]>) -> Result<Vec<&'a Test>> {
    if !filters.is_empty() {
        let matches =
            |test: &Test| filters.iter().any(|part| test.name.contains(part) || test.binary_id.contains(part));
        return Ok(tests.iter().filter(|test| matches(test)).collect());
    }
    let no_log = skips.is_none();
    let skips: Vec<&Skip> = skips.into_iter().flatten().filter(|skip| skip.is_for_the_vm()).collect();
    if let Some(lost) = skips.iter().find(|skip| !tests.iter().any(|test| skip.names(test))) {
        return Err(format!("a skip names no test: {}", lost.name).into());
    }
    let drives_kernel = |test: &Test| {
        let package = test.binary_id.split("::").next().unwrap_or_default();
        test.kind == "test" && KERNEL_PACKAGES.contains(&package)
    };
    let wanted = |test: &Test| test.name.contains("vm_") || skips.iter().any(|skip| skip.names(test));
    Ok(tests.iter().filter(|test| wanted(test) || (no_log && drives_kernel(test))).collect())
}

/// One line of the guest's list.
fn line(test: &Test) -> String {
    let (binary, directory) = (test.binary.display(), test.directory.display());
    format!("{binary}\t{directory}\t{}\t{}\n", test.binary_id, test.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(binary_id: &str, name: &str, kind: &str) -> Test {
        Test {
            binary_id: binary_id.into(),
            name: name.into(),
            binary: "/t".into(),
            directory: "/p".into(),
            kind: kind.into(),
        }
    }

    fn names<'a>(tests: &'a [Test], filters: &[&str], skips: Option<&[Skip]>) -> Vec<&'a str> {
        choose(tests, filters, skips).unwrap().iter().map(|test| test.name.as_str()).collect()
    }

    fn all() -> [Test; 4] {
        [
            test("patchcord-core", "xml::reads", "lib"),
            test("patchcord-host::links", "vlan", "test"),
            test("patchcord-host::links", "bridge", "test"),
            test("patchcord-daemon::vm", "vm_bond", "test"),
        ]
    }

    fn skip(name: &str, reason: &str) -> Skip {
        Skip { name: name.into(), reason: reason.into() }
    }

    #[test]
    fn arguments() {
        let choice = Choice::parse(&["-p", "a", "-p", "b", "--", "f"]).unwrap();
        assert_eq!(choice, Choice { packages: vec!["a", "b"], filters: &["f"] });
        assert_eq!(choice.cargo_args(), ["-p", "a", "-p", "b"]);
        assert_eq!(Choice::parse(&["--"]).unwrap().cargo_args(), ["--workspace"]);
        assert_eq!(Choice::parse(&["-p"]), None);
        assert_eq!(Choice::parse(&["filter"]), None);
    }

    #[test]
    fn filters_pick_by_test_or_binary_name() {
        assert_eq!(names(&all(), &["reads"], None), ["xml::reads"]);
        assert_eq!(names(&all(), &["host::links"], None), ["vlan", "bridge"]);
        assert_eq!(names(&all(), &["nothing"], None), [""; 0]);
    }

    #[test]
    fn skips_run_again_unless_the_host_lacks_something() {
        let skips = [skip("vlan", "kernel has no 8021q"), skip("bridge", "host has no virsh")];
        assert_eq!(names(&all(), &[], Some(&skips)), ["vlan", "vm_bond"]);
        assert_eq!(names(&all(), &[], Some(&[])), ["vm_bond"]);
    }

    #[test]
    fn without_a_log_all_that_drive_a_kernel_run() {
        assert_eq!(names(&all(), &[], None), ["vlan", "bridge", "vm_bond"]);
    }

    #[test]
    fn a_skip_of_an_unknown_test_is_an_error() {
        let error = choose(&all(), &[], Some(&[skip("gone", "kernel has no fw")])).unwrap_err();
        assert_eq!(error.to_string(), "a skip names no test: gone");
    }
}
