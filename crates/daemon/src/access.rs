//! Who may do what over the native interface: root and the group `patchcord` everything, others what the access list
//! of the configuration grants them.

use patchcord_core::merge::Precedence;
use serde::Deserialize;
use std::collections::BTreeSet;

/// Members of this group may do everything.
pub const GROUP: &str = "patchcord";

/// The host's users, as passwd(5) describes.
pub const PASSWD: &str = "/etc/passwd";

/// Its groups, as group(5) describes.
pub const GROUPS: &str = "/etc/group";

/// What an entry of the list can grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Attach NICs, and see the network.
    Attach,
    /// See networks and the NICs on them.
    Show,
}

/// One `[[access]]` of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, try_from = "Given")]
pub struct Entry {
    users: Vec<String>,
    groups: Vec<String>,
    networks: Vec<String>,
    portgroups: Option<Vec<String>>,
    allow: Vec<Action>,
    nic_policy: bool,
}

/// An entry as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    groups: Vec<String>,
    networks: Vec<String>,
    portgroups: Option<Vec<String>>,
    allow: Vec<Action>,
    #[serde(default)]
    nic_policy: bool,
}

impl TryFrom<Given> for Entry {
    type Error = &'static str;

    fn try_from(given: Given) -> Result<Self, &'static str> {
        let Given { users, groups, networks, portgroups, allow, nic_policy } = given;
        if users.is_empty() && groups.is_empty() {
            return Err("an access entry needs users or groups");
        }
        Ok(Self { users, groups, networks, portgroups, allow, nic_policy })
    }
}

/// The process at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its user's name, where there is one.
    pub user: Option<String>,
    /// Names of all of its groups.
    pub groups: BTreeSet<String>,
}

impl Peer {
    /// Whether it may do everything.
    pub fn is_full(&self) -> bool {
        self.uid == 0 || self.groups.contains(GROUP)
    }

    /// What errors call it.
    pub fn describe(&self) -> String {
        match &self.user {
            Some(name) => format!("user '{name}'"),
            None => format!("user {}", self.uid),
        }
    }
}

/// The access list.
#[derive(Clone, Debug, Default)]
pub struct Access {
    entries: Vec<Entry>,
}

/// What a NIC that may be attached may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Whether the NIC's own VLAN, bandwidth, trust and isolation count.
    pub nic_policy: bool,
}

impl Access {
    /// A list with these entries.
    pub fn new(entries: Vec<Entry>) -> Self {
        Self { entries }
    }

    /// What is to be said of entries about users and groups that are not there, by the content of passwd(5) and group(5).
    pub fn strangers(&self, passwd: &str, group: &str) -> Vec<String> {
        let names = |text: &str, name: &str| text.lines().any(|line| line.split(':').next() == Some(name));
        let mut all = Vec::new();
        for (n, entry) in self.entries.iter().enumerate() {
            let users = entry.users.iter().filter(|user| !names(passwd, user)).map(|user| ("user", PASSWD, user));
            let groups = entry.groups.iter().filter(|name| !names(group, name)).map(|name| ("group", GROUPS, name));
            all.extend(users.chain(groups).map(|(what, file, name)| {
                format!("[[access]] entry {}: there is no {what} '{name}' in {file}, so it grants them nothing", n + 1)
            }));
        }
        all
    }

    /// Whether the peer may see a network. Who may attach to it may.
    pub fn shows_network(&self, peer: &Peer, network: &str) -> bool {
        peer.is_full() || self.of(peer).any(|entry| !entry.allow.is_empty() && matches(&entry.networks, network))
    }

    /// Whether the peer may see other people's NICs on a network; those it attached itself it may see anyhow.
    pub fn shows_nic(&self, peer: &Peer, uid: u32, network: Option<&str>, portgroup: Option<&str>) -> bool {
        let shows = |network: &str| {
            self.of(peer).any(|entry| entry.allow.contains(&Action::Show) && entry.covers(network, portgroup))
        };
        peer.is_full() || peer.uid == uid || network.is_some_and(shows)
    }

    /// What the peer may choose for a NIC on that network and portgroup; `None` when it may not attach one.
    pub fn grant(&self, peer: &Peer, network: &str, portgroup: Option<&str>) -> Option<Grant> {
        if peer.is_full() {
            return Some(Grant { nic_policy: true });
        }
        let attach = |entry: &&Entry| entry.allow.contains(&Action::Attach) && entry.covers(network, portgroup);
        let mut granted = self.of(peer).filter(attach).peekable();
        granted.peek()?;
        Some(Grant { nic_policy: granted.any(|entry| entry.nic_policy) })
    }

    /// Whether the peer may attach a NIC anywhere at all.
    pub fn grants_any(&self, peer: &Peer) -> bool {
        peer.is_full() || self.of(peer).any(|entry| entry.allow.contains(&Action::Attach))
    }

    /// The entries about the peer.
    fn of<'a>(&'a self, peer: &'a Peer) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| {
            peer.user.as_ref().is_some_and(|user| entry.users.contains(user))
                || entry.groups.iter().any(|group| peer.groups.contains(group))
        })
    }
}

impl Entry {
    /// Whether it is about that network and portgroup. A list of portgroups does not cover a NIC without one.
    fn covers(&self, network: &str, portgroup: Option<&str>) -> bool {
        let portgroup = |patterns: &Vec<String>| portgroup.is_some_and(|name| matches(patterns, name));
        matches(&self.networks, network) && self.portgroups.as_ref().is_none_or(portgroup)
    }
}

impl Grant {
    /// Whose values count where the NIC's own document and its network both say something.
    pub const fn precedence(self) -> Precedence {
        if self.nic_policy { Precedence::Nic } else { Precedence::Host }
    }
}

fn matches(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| glob(pattern.as_bytes(), name.as_bytes()))
}

/// Whether a name fits a pattern, in which `*` stands for any text and `?` for one byte.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    // Where the last star was, and how much of the name it stands for: only that one needs trying again.
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, n) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(user: &str, groups: &[&str]) -> Peer {
        let uid = if user == "root" { 0 } else { 1000 };
        Peer { uid, user: Some(user.into()), groups: groups.iter().map(|g| (*g).to_owned()).collect() }
    }

    fn access() -> Access {
        let text = "
            [[access]]
            users = ['alice']
            networks = ['lab-*', 'shared']
            portgroups = ['students', 'guest?']
            allow = ['attach', 'show']
            [[access]]
            groups = ['ops']
            networks = ['*']
            allow = ['show']
            [[access]]
            groups = ['ops']
            networks = ['lab-1']
            allow = ['attach']
            nic_policy = true";
        Access::new(crate::config::Config::parse(text).unwrap().access)
    }

    #[test]
    fn entries_about_nobody_are_told() {
        let passwd = "root:x:0:0::/root:/bin/sh\nbob:x:1001:1001:alice:/home/alice:/bin/sh\n";
        let group = "root:x:0:\nwheel:x:10:ops\nalice:x:1000:\n";
        let says = |what: &str, entry: u8| {
            let file = if what.starts_with("user") { PASSWD } else { GROUPS };
            format!("[[access]] entry {entry}: there is no {what} in {file}, so it grants them nothing")
        };
        let told = [says("user 'alice'", 1), says("group 'ops'", 2), says("group 'ops'", 3)];
        assert_eq!(access().strangers(passwd, group), told);
        let passwd = "alice:x:1000:1000::/:/bin/sh\n";
        assert!(access().strangers(passwd, "ops:x:1001:\n").is_empty());
    }

    #[test]
    fn patterns() {
        for (pattern, name, fits) in [
            ("lab-*", "lab-1", true),
            ("lab-*", "lab-", true),
            ("lab-*", "lab", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("?b", "ab", true),
            ("?b", "b", false),
            ("*a", "aaab", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), name.as_bytes()), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn who_may_attach_where() {
        let policy = |nic_policy| Some(Grant { nic_policy });
        for (peer, network, portgroup, grant) in [
            (peer("root", &[]), "any", None, policy(true)),
            (peer("eve", &[GROUP]), "any", None, policy(true)),
            (peer("eve", &[]), "lab-1", Some("students"), None),
            (peer("alice", &[]), "lab-1", Some("students"), policy(false)),
            (peer("alice", &[]), "shared", Some("guest1"), policy(false)),
            (peer("alice", &[]), "shared", Some("guest12"), None),
            (peer("alice", &[]), "lab-1", Some("staff"), None),
            (peer("alice", &[]), "lab-1", None, None),
            (peer("alice", &[]), "other", Some("students"), None),
            (peer("bob", &["ops"]), "lab-1", None, policy(true)),
            (peer("bob", &["ops"]), "lab-2", None, None),
            // The entries add up.
            (peer("alice", &["ops"]), "lab-1", Some("students"), policy(true)),
        ] {
            assert_eq!(access().grant(&peer, network, portgroup), grant, "{peer:?} {network} {portgroup:?}");
        }
    }

    #[test]
    fn who_may_see_what() {
        let access = access();
        assert!(access.shows_network(&peer("alice", &[]), "lab-7"));
        assert!(!access.shows_network(&peer("alice", &[]), "other"));
        assert!(access.shows_network(&peer("bob", &["ops"]), "other"));
        assert!(!access.shows_network(&peer("eve", &[]), "lab-1"));
        let shows = |peer: &Peer, uid, network, portgroup| access.shows_nic(peer, uid, network, portgroup);
        assert!(shows(&peer("eve", &[]), 1000, Some("secret"), None), "its own");
        assert!(!shows(&peer("eve", &[]), 1001, Some("lab-1"), None));
        assert!(shows(&peer("alice", &[]), 1001, Some("lab-1"), Some("students")));
        assert!(!shows(&peer("alice", &[]), 1001, Some("lab-1"), Some("staff")));
        assert!(!shows(&peer("bob", &["ops"]), 1001, None, None), "on no network");
        assert!(access.grants_any(&peer("alice", &[])) && !access.grants_any(&peer("eve", &[])));
    }
}
