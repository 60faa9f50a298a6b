//! Rules for manifests: which crate may depend on which, and that each dependency has its reason.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;

use super::Complaint;

/// What a crate may depend on, tests apart.
struct Arrows {
    package: &'static str,
    ours: &'static [&'static str],
    /// The other crates, where they are limited: that keeps IO out of the crates that decide and
    /// those that parse.
    others: Option<&'static [&'static str]>,
}

/// The arrows of ARCHITECTURE.md.
const ARROWS: [Arrows; 10] = [
    Arrows { package: "patchcord-core", ours: &[], others: Some(&["ipnet", "roxmltree", "thiserror", "uuid"]) },
    Arrows {
        package: "patchcord-netlink",
        ours: &[],
        others: Some(&[
            "netlink-packet-core",
            "netlink-packet-netfilter",
            "netlink-packet-route",
            "netlink-sys",
            "rustix",
            "thiserror",
        ]),
    },
    Arrows {
        package: "patchcord-host",
        ours: &["patchcord-core", "patchcord-netlink"],
        others: Some(&["ipnet", "parking_lot", "rustix", "serde_json", "thiserror", "uuid"]),
    },
    Arrows { package: "patchcord-libvirt-wire", ours: &[], others: Some(&["thiserror"]) },
    Arrows { package: "patchcord-api", ours: &["patchcord-core"], others: None },
    Arrows {
        package: "patchcord-daemon",
        ours: &["patchcord-core", "patchcord-host", "patchcord-libvirt-wire", "patchcord-api"],
        others: None,
    },
    Arrows { package: "patchcord-cli", ours: &["patchcord-api"], others: None },
    Arrows { package: "patchcord-testkit", ours: &[], others: None },
    // Measures, and never ships.
    Arrows {
        package: "patchcord-bench",
        ours: &[
            "patchcord-api",
            "patchcord-core",
            "patchcord-daemon",
            "patchcord-host",
            "patchcord-libvirt-wire",
            "patchcord-netlink",
            "patchcord-testkit",
        ],
        others: None,
    },
    Arrows { package: "patchcord-xtask", ours: &[], others: None },
];

/// Checks the packages of `cargo metadata` against the arrows, and their dependencies against the
/// page of reasons.
pub(crate) fn check(packages: &[Value], reasons: &str) -> Vec<(PathBuf, Complaint)> {
    let mut found = Vec::new();
    let mut external = BTreeSet::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let manifest = PathBuf::from(package["manifest_path"].as_str().unwrap_or_default());
        let mut complain = |what: String| found.push((manifest.clone(), Complaint(1, what)));
        let Some(arrows) = ARROWS.iter().find(|arrows| arrows.package == name) else {
            complain(format!("{name} has no entry among the dependency arrows"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().unwrap_or_default();
            let is_ours = dependency["path"].is_string();
            let is_dev = dependency["kind"] == "dev";
            if !is_ours {
                external.insert(used.to_owned());
            }
            let allowed = if is_ours {
                arrows.ours.contains(&used)
            } else {
                arrows.others.is_none_or(|list| list.contains(&used))
            };
            // Tests may use anything; what ships may not.
            let allowed = allowed || is_dev;
            if !allowed {
                complain(format!("{name} may not depend on {used}"));
            }
        }
    }
    let page = PathBuf::from("docs/dependencies.md");
    for name in external {
        if !reasons.lines().any(|line| line.starts_with(&format!("| `{name}` |"))) {
            found.push((page.clone(), Complaint(1, format!("no line with the reason for {name}"))));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn complaints(name: &str, dependencies: Value) -> Vec<String> {
        let package = json!({"name": name, "manifest_path": "/m", "dependencies": dependencies});
        let found = check(&[package], "| `uuid` | reason |\n| `proptest` | reason |");
        found.into_iter().map(|(_, Complaint(_, what))| what).collect()
    }

    #[test]
    fn arrows_hold_for_what_ships() {
        let ours = |kind: Option<&str>| json!([{"name": "patchcord-testkit", "path": "/t", "kind": kind}]);
        assert_eq!(complaints("patchcord-daemon", ours(Some("dev"))), [""; 0]);
        assert_eq!(
            complaints("patchcord-daemon", ours(None)),
            ["patchcord-daemon may not depend on patchcord-testkit"]
        );
        let back = json!([{"name": "patchcord-host", "path": "/h", "kind": null}]);
        assert_eq!(complaints("patchcord-core", back.clone()), ["patchcord-core may not depend on patchcord-host"]);
        assert_eq!(complaints("patchcord-daemon", back), [""; 0]);
        assert_eq!(complaints("patchcord-new", json!([])), ["patchcord-new has no entry among the dependency arrows"]);
    }

    #[test]
    fn other_crates_are_allowed_and_explained() {
        let uses = |name: &str, kind: Option<&str>| json!([{"name": name, "kind": kind}]);
        assert_eq!(complaints("patchcord-core", uses("uuid", None)), [""; 0]);
        assert_eq!(complaints("patchcord-core", uses("proptest", Some("dev"))), [""; 0]);
        assert_eq!(complaints("patchcord-core", uses("proptest", None)), ["patchcord-core may not depend on proptest"]);
        assert_eq!(complaints("patchcord-daemon", uses("tokio", None)), ["no line with the reason for tokio"]);
    }
}
