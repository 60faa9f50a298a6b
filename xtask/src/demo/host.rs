//! What the host looks like, to be compared before and after.

use std::path::Path;

use serde_json::Value;

use crate::Result;
use crate::workspace::{Workspace, capture};

/// The host's settings that a demonstration could have touched.
pub(super) struct State(Vec<(&'static str, Vec<String>)>);

impl State {
    /// Looks at the host.
    pub(super) fn read(ws: &Workspace) -> Result<Self> {
        let show = |line: &str| {
            let mut words = line.split(' ');
            capture(ws.command(words.next().unwrap_or_default()).args(words))
        };
        let lines = |text: String| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let mut settings = Vec::new();
        for directory in ["ipv4/conf", "ipv6/conf", "bridge"] {
            read_all(&Path::new("/proc/sys/net").join(directory), &mut settings);
        }
        read_all(Path::new("/proc/sys/net/ipv4/ip_forward"), &mut settings);
        Ok(Self(vec![
            ("links", fields(&show("ip -j link show")?, &["ifindex", "ifname", "address", "mtu", "master"])?),
            ("addresses", addresses(&show("ip -j address show")?)?),
            ("routes", lines(show("ip -4 route show")?)),
            ("packet rules", lines(show("nft --stateless list ruleset")?)),
            ("network settings", settings),
        ]))
    }

    /// Says what was compared, or what differs.
    pub(super) fn compare(&self, before: &Self) -> Result<String> {
        let mut seen = Vec::new();
        for ((what, now), (_, then)) in self.0.iter().zip(&before.0) {
            let news = now.iter().find(|line| !then.contains(line)).map(|line| format!("now '{line}'"));
            let gone = then.iter().find(|line| !now.contains(line)).map(|line| format!("no more '{line}'"));
            if let Some(difference) = news.or(gone) {
                return Err(format!("the host's {what} changed: {difference}").into());
            }
            seen.push(format!("{} {what}", now.len()));
        }
        Ok(seen.join(", "))
    }
}

/// These fields of a list of objects, without what changes by itself.
fn fields(json: &str, names: &[&str]) -> Result<Vec<String>> {
    let objects: Vec<Value> = serde_json::from_str(json)?;
    let line = |object: &Value| names.iter().map(|name| object[name].to_string()).collect::<Vec<_>>().join(" ");
    Ok(objects.iter().map(line).collect())
}

fn addresses(json: &str) -> Result<Vec<String>> {
    let links: Vec<Value> = serde_json::from_str(json)?;
    let mut all = Vec::new();
    for link in &links {
        for address in link["addr_info"].as_array().into_iter().flatten() {
            all.push(format!("{} {}/{}", link["ifname"], address["local"], address["prefixlen"]));
        }
    }
    Ok(all)
}

/// Every setting below a path. Those that cannot be read, such as a secret that was never set, are left out.
fn read_all(path: &Path, into: &mut Vec<String>) {
    if let Ok(entries) = std::fs::read_dir(path) {
        let mut entries: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        entries.sort();
        entries.iter().for_each(|entry| read_all(entry, into));
    } else if let Ok(value) = std::fs::read_to_string(path) {
        into.push(format!("{}: {}", path.display(), value.trim()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named() {
        let state = |lines: &[&str]| State(vec![("links", lines.iter().map(|line| (*line).to_owned()).collect())]);
        let error = |now: &[&str], before: &[&str]| state(now).compare(&state(before)).unwrap_err().to_string();
        assert_eq!(state(&["lo"]).compare(&state(&["lo"])).unwrap(), "1 links");
        assert_eq!(error(&["lo", "x"], &["lo"]), "the host's links changed: now 'x'");
        assert_eq!(error(&[], &["lo"]), "the host's links changed: no more 'lo'");
    }
}
