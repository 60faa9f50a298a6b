//! Packet rules as libvirt's daemons make them are removed for one network, and others' stay.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

use patchcord_core::plan::Index;
use patchcord_core::plan::nft::libvirt::Signs;
use patchcord_host::libvirt::remove_rules;
use patchcord_testkit::{Namespace, in_namespace};
use std::fs;

/// As `iptables` of nftables leaves them for libvirt up to 10.3, beside rules of the host's own.
const BY_IPTABLES: &str = r#"
table ip filter {
    chain LIBVIRT_INP {
        iifname "virbr0" udp dport 53 counter accept
        iifname "virbr1" udp dport 53 counter accept
    }
    chain INPUT {
        type filter hook input priority filter; policy accept;
        counter jump LIBVIRT_INP
        iifname "virbr0" tcp dport 22 counter drop
    }
    chain LIBVIRT_FWO {
        iifname "virbr0" ip saddr 192.168.122.0/24 counter accept
        iifname "virbr0" counter reject
        iifname "virbr1" counter reject
    }
    chain FORWARD {
        type filter hook forward priority filter; policy accept;
        counter jump LIBVIRT_FWO
        ip saddr 192.168.122.0/24 counter accept
    }
}
table ip nat {
    chain LIBVIRT_PRT {
        ip saddr 192.168.122.0/24 ip daddr 224.0.0.0/24 counter return
        meta l4proto tcp ip saddr 192.168.122.0/24 ip daddr != 192.168.122.0/24 counter masquerade to :1024-65535
        ip saddr 10.1.0.0/25 counter masquerade
        ip saddr 10.2.0.0/25 counter masquerade
    }
    chain POSTROUTING {
        type nat hook postrouting priority srcnat; policy accept;
        counter jump LIBVIRT_PRT
    }
}
table ip6 filter {
    chain LIBVIRT_FWI {
        oifname "virbr0" ip6 daddr fd00:7::/64 counter accept
        oifname "virbr0" counter reject
    }
    chain FORWARD {
        type filter hook forward priority filter; policy accept;
        counter jump LIBVIRT_FWI
    }
}
"#;

/// As libvirt documents its own tables, of 10.4 and later.
const ITS_OWN: &str = r#"
table ip libvirt_network {
    chain forward {
        type filter hook forward priority filter; policy accept;
        counter jump guest_cross
        counter jump guest_input
    }
    chain guest_cross {
        iif "virbr0" oif "virbr0" counter accept
        iif "virbr1" oif "virbr1" counter accept
    }
    chain guest_input {
        oif "virbr0" ip daddr 192.168.122.0/24 ct state established,related counter accept
        oif "virbr0" counter reject
    }
    chain guest_nat {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 192.168.122.0/24 ip daddr != 192.168.122.0/24 counter masquerade
        ip saddr 10.1.0.0/25 counter masquerade
    }
}
"#;

fn loaded(ns: &Namespace, rules: &str) {
    for bridge in ["virbr0", "virbr1"] {
        ns.run(&format!("ip link add {bridge} type bridge"));
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), rules).unwrap();
    ns.run(&format!("nft -f {}", file.path().display()));
}

fn remove(ns: &Namespace, bridge: &str, subnets: &[&str]) {
    let index = ns.json(&format!("ip -j link show dev {bridge}"))[0]["ifindex"].as_u64().unwrap();
    let subnets = subnets.iter().map(|net| net.parse().unwrap()).collect();
    let signs = Signs { bridge: bridge.into(), index: Index(u32::try_from(index).unwrap()), subnets };
    remove_rules(&signs).unwrap();
}

/// What rules say, without their counters.
fn rules(ns: &Namespace) -> Vec<String> {
    let all = ns.run("nft -s list ruleset");
    all.lines().map(|line| line.trim().replace("counter ", "")).filter(|line| !line.is_empty() && line != "}").collect()
}

fn about<'a>(rules: &'a [String], sign: &str) -> Vec<&'a str> {
    rules.iter().map(String::as_str).filter(|rule| rule.contains(sign)).collect()
}

#[test]
fn rules_that_iptables_made_go_network_by_network() {
    in_namespace(|ns| {
        loaded(ns, BY_IPTABLES);
        remove(ns, "virbr0", &["192.168.122.0/24", "10.1.0.0/25", "fd00:7::/64"]);
        let left = rules(ns);
        assert_eq!(about(&left, "virbr0"), ["iifname \"virbr0\" tcp dport 22 drop"], "the host's own");
        assert_eq!(about(&left, "192.168.122"), ["ip saddr 192.168.122.0/24 accept"], "the host's own");
        assert_eq!(about(&left, "saddr 10."), ["ip saddr 10.2.0.0/25 masquerade"]);
        assert_eq!((about(&left, "virbr1").len(), about(&left, "jump LIBVIRT_").len()), (2, 4));

        remove(ns, "virbr1", &["10.2.0.0/25"]);
        let left = rules(ns);
        assert_eq!(about(&left, "LIBVIRT"), [""; 0], "nobody uses them any more");
        assert_eq!((about(&left, "virbr0").len(), about(&left, "type ").len()), (1, 4), "the host's own");
        remove(ns, "virbr1", &[]);
        assert_eq!(rules(ns), left);
    });
}

#[test]
fn libvirts_own_tables_go_with_its_last_network() {
    in_namespace(|ns| {
        loaded(ns, ITS_OWN);
        remove(ns, "virbr0", &["192.168.122.0/24"]);
        let left = rules(ns);
        assert_eq!((about(&left, "virbr0").len(), about(&left, "192.168.122").len()), (0, 0), "{left:#?}");
        assert_eq!((about(&left, "virbr1").len(), about(&left, "10.1.0.0/25").len()), (1, 1), "{left:#?}");
        remove(ns, "virbr1", &["10.1.0.0/25"]);
        assert_eq!(rules(ns), [""; 0]);
    });
}

#[test]
fn without_any_there_is_nothing_to_do() {
    in_namespace(|ns| {
        ns.run("ip link add virbr0 type bridge");
        remove(ns, "virbr0", &["192.168.122.0/24"]);
        assert_eq!(rules(ns), [""; 0]);
    });
}
