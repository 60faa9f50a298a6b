//! Other firewalls on the host, and whether they would still drop guests' traffic.
//!
//! An accept in our table ends only our own base chain. Every other base chain on the same hook still sees the
//! packet, and a drop in any of them is final. So nothing that we write can let guests through; what we can do is
//! read, name who would drop, and say where that firewall wants to be told.

use std::fmt;

/// Where a base chain sits, as far as guests are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// What the host routes: guests' traffic in and out.
    Forward,
    /// What is for the host: DHCP and DNS queries of guests.
    Input,
}

/// Address family of a table (`NFPROTO_*`), of those that see routed traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TableFamily {
    /// `ip`
    Ip,
    /// `ip6`
    Ip6,
    /// `inet`: both.
    Inet,
}

impl fmt::Display for TableFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
        })
    }
}

/// A base chain of somebody else's, on one of the two hooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignChain {
    /// Its table's family.
    pub family: TableFamily,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Its hook.
    pub hook: Hook,
    /// Its priority; lower sees packets first.
    pub priority: i32,
    /// Whether its policy is drop.
    pub policy_drop: bool,
    /// Whether a rule of its own drops or rejects whatever reaches it (no match before the verdict).
    pub ends_in_drop: bool,
    /// The names of all chains of its table.
    pub siblings: Vec<String>,
}

/// What was read about other firewalls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForeignRules {
    /// Base chains on the hooks `forward` and `input`, in any table but ours.
    pub chains: Vec<ForeignChain>,
    /// The lines of `/proc/net/ip_tables_names`: tables of iptables-legacy that are in use.
    pub legacy_v4: Vec<String>,
    /// The lines of `/proc/net/ip6_tables_names`.
    pub legacy_v6: Vec<String>,
    /// See [`Firewalls::firewalld`].
    pub firewalld: Option<u64>,
}

/// Other firewalls on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firewalls {
    /// Those that would drop guests' traffic.
    pub dropping: Vec<ForeignFirewall>,
    /// The handle of firewalld's table: another one after a reload or restart, by which firewalld forgets what it was
    /// told of interfaces. None while there is no such table.
    pub firewalld: Option<u64>,
}

/// Whose a firewall is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// Docker.
    Docker,
    /// ufw.
    Ufw,
    /// firewalld.
    Firewalld,
    /// libvirt's own network driver.
    LibvirtChains,
    /// iptables-legacy, whose rules can't be seen through nftables.
    IptablesLegacy,
    /// Somebody we don't know: family and table.
    Other(String),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Docker => f.write_str("Docker"),
            Self::Ufw => f.write_str("ufw"),
            Self::Firewalld => f.write_str("firewalld"),
            Self::LibvirtChains => f.write_str("libvirt"),
            Self::IptablesLegacy => f.write_str("iptables-legacy"),
            Self::Other(table) => write!(f, "table {table}"),
        }
    }
}

/// A firewall that would, or may, drop guests' traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignFirewall {
    /// Whose it is.
    pub owner: Owner,
    /// The chain, as `FAMILY TABLE CHAIN`.
    pub chain: String,
    /// What it does, as a phrase.
    pub what: String,
    /// What would help, as a phrase.
    pub advice: String,
}

impl fmt::Display for ForeignFirewall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) {}; {}", self.owner, self.chain, self.what, self.advice)
    }
}

/// The firewalls among `rules` that would drop what guests send, get or ask of the host.
pub fn detect(rules: &ForeignRules) -> Vec<ForeignFirewall> {
    let mut found = Vec::new();
    for chain in &rules.chains {
        let has = |prefix: &str| chain.siblings.iter().any(|s| s.starts_with(prefix));
        let at = format!("{} {} {}", chain.family, chain.table, chain.name);
        let mut report = |owner: Owner, what: String| {
            let advice = advice(&owner, chain);
            found.push(ForeignFirewall { owner, chain: at.clone(), what, advice });
        };
        if chain.hook == Hook::Forward && (has("LIBVIRT_FW") || chain.table == "libvirt_network") {
            report(Owner::LibvirtChains, "rejects what it does not know on the bridges that libvirt made".into());
        }
        let Some(what) = drops(chain) else { continue };
        let mut owners = Vec::new();
        if chain.table == "firewalld" {
            owners.push(Owner::Firewalld);
        }
        if has("ufw-") || has("ufw6-") {
            owners.push(Owner::Ufw);
        }
        // Docker's own chains are about forwarded traffic only, an INPUT policy is not its doing.
        if chain.hook == Hook::Forward && (has("DOCKER") || chain.table.starts_with("docker")) {
            owners.push(Owner::Docker);
        }
        if owners.is_empty() {
            owners.push(Owner::Other(format!("{} {}", chain.family, chain.table)));
        }
        for owner in owners {
            report(owner, what.clone());
        }
    }
    for (family, names, command) in
        [("ip", &rules.legacy_v4, "iptables-legacy"), ("ip6", &rules.legacy_v6, "ip6tables-legacy")]
    {
        if names.iter().any(|n| n.trim() == "filter") {
            found.push(ForeignFirewall {
                owner: Owner::IptablesLegacy,
                chain: format!("{family} filter"),
                what: "may drop guests' traffic: its rules can't be seen through nftables".into(),
                advice: format!(
                    "look at `{command} -S FORWARD` and `{command} -S INPUT`, and accept the networks' bridges there"
                ),
            });
        }
    }
    found
}

/// What a chain does to traffic that none of its rules lets through, if it drops it.
fn drops(chain: &ForeignChain) -> Option<String> {
    let traffic = match chain.hook {
        Hook::Forward => "what guests send and get through the host",
        Hook::Input => "guests' DHCP and DNS queries to the host",
    };
    if chain.policy_drop {
        Some(format!("drops {traffic} unless a rule accepts it (policy drop)"))
    } else if chain.ends_in_drop {
        Some(format!("drops {traffic} unless a rule accepts it (its last rule drops or rejects)"))
    } else {
        None
    }
}

fn advice(owner: &Owner, chain: &ForeignChain) -> String {
    let iptables = if chain.family == TableFamily::Ip6 { "ip6tables" } else { "iptables" };
    match (owner, chain.hook) {
        (Owner::Docker, _) if chain.siblings.iter().any(|s| s == "DOCKER-USER") => format!(
            "accept the bridge in DOCKER-USER, which Docker keeps for that: `{iptables} -I DOCKER-USER -i BRIDGE -j \
             ACCEPT` and `{iptables} -I DOCKER-USER -o BRIDGE -j ACCEPT`"
        ),
        (Owner::Docker, _) => "set \"ip-forward-no-drop\": true in Docker's daemon.json, or accept the bridge in that \
                               chain"
            .into(),
        (Owner::Ufw, Hook::Forward) => {
            "let the bridge through: `ufw route allow in on BRIDGE` and `ufw route allow out on BRIDGE`".into()
        }
        (Owner::Ufw, Hook::Input) => {
            "let guests ask the host: `ufw allow in on BRIDGE to any port 67 proto udp` and `ufw allow in on BRIDGE \
             to any port 53`"
                .into()
        }
        (Owner::Firewalld, _) => {
            "put the bridge into a zone that forwards and offers dhcp and dns: <bridge zone='ZONE'/>, or \
             `firewall-cmd --zone=ZONE --change-interface=BRIDGE`"
                .into()
        }
        (Owner::LibvirtChains, _) => {
            "a network of ours with a bridge that libvirt had is rejected there: stop virtnetworkd, and restart the \
             host or remove its chains"
                .into()
        }
        (_, Hook::Forward) => "accept what comes in and goes out by BRIDGE in that chain, before its drop".into(),
        (_, Hook::Input) => {
            "accept UDP port 67 and port 53 that come in by BRIDGE in that chain, before its drop".into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(table: &str, name: &str, hook: Hook, siblings: &[&str]) -> ForeignChain {
        ForeignChain {
            family: TableFamily::Ip,
            table: table.into(),
            name: name.into(),
            hook,
            priority: 0,
            policy_drop: false,
            ends_in_drop: false,
            siblings: siblings.iter().map(|s| (*s).into()).collect(),
        }
    }

    fn owners(chains: Vec<ForeignChain>) -> Vec<Owner> {
        detect(&ForeignRules { chains, ..Default::default() }).into_iter().map(|f| f.owner).collect()
    }

    #[test]
    fn who_drops_is_named_with_the_place_to_tell_it() {
        let docker = ForeignChain {
            policy_drop: true,
            ..chain("filter", "FORWARD", Hook::Forward, &["FORWARD", "DOCKER", "DOCKER-USER"])
        };
        let found = detect(&ForeignRules { chains: vec![docker], ..Default::default() });
        assert_eq!(found.len(), 1);
        assert_eq!((&found[0].owner, found[0].chain.as_str()), (&Owner::Docker, "ip filter FORWARD"));
        assert!(found[0].advice.contains("iptables -I DOCKER-USER -i BRIDGE -j ACCEPT"), "{}", found[0]);

        let ufw = ["INPUT", "FORWARD", "ufw-user-input", "ufw-before-forward"];
        let input = ForeignChain { policy_drop: true, ..chain("filter", "INPUT", Hook::Input, &ufw) };
        let forward = ForeignChain { policy_drop: true, ..chain("filter", "FORWARD", Hook::Forward, &ufw) };
        let found = detect(&ForeignRules { chains: vec![input, forward], ..Default::default() });
        assert!(found[0].what.contains("DHCP") && found[0].advice.contains("port 67"), "{}", found[0]);
        assert!(found[1].advice.contains("ufw route allow"), "{}", found[1]);

        let firewalld = ForeignChain {
            family: TableFamily::Inet,
            ends_in_drop: true,
            ..chain("firewalld", "filter_FORWARD", Hook::Forward, &[])
        };
        assert_eq!(owners(vec![firewalld]), [Owner::Firewalld]);
        let mine = ForeignChain { policy_drop: true, ..chain("site", "in", Hook::Input, &[]) };
        assert_eq!(owners(vec![mine]), [Owner::Other("ip site".into())]);
    }

    #[test]
    fn two_owners_of_one_chain_are_both_named() {
        let both = ForeignChain {
            policy_drop: true,
            ..chain("filter", "FORWARD", Hook::Forward, &["ufw-user-forward", "DOCKER-USER", "LIBVIRT_FWI"])
        };
        assert_eq!(owners(vec![both]), [Owner::LibvirtChains, Owner::Ufw, Owner::Docker]);
    }

    #[test]
    fn who_lets_everything_through_is_not_named() {
        let docker = chain("filter", "FORWARD", Hook::Forward, &["DOCKER", "DOCKER-USER"]);
        let input = chain("filter", "INPUT", Hook::Input, &["LIBVIRT_INP", "LIBVIRT_FWI"]);
        assert_eq!(owners(vec![docker, input]), []);
    }

    #[test]
    fn legacy_tables_are_said_to_be_out_of_sight() {
        let rules = ForeignRules { legacy_v4: vec!["nat".into(), "filter".into()], ..Default::default() };
        let found = detect(&rules);
        assert_eq!((found.len(), &found[0].owner), (1, &Owner::IptablesLegacy));
        assert_eq!(detect(&ForeignRules { legacy_v6: vec!["nat".into()], ..Default::default() }), []);
    }
}
