//! The text of the rules, for the networks whose iptables rules libvirt's corpus lists (networkxml2firewalldata).

use super::super::{Intent, NetworkRules};
use super::{from_nothing, link, network, rules, with_uplink};
use crate::model::ForwardMode::{Isolated, Nat, Open, Route};
use crate::model::Network;
use patchcord_testkit::skip;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// `CHAIN: RULE` and `@MAP: ELEMENT`, one a line.
fn text(rules: &NetworkRules) -> String {
    let chains = rules.chains.iter().flat_map(|c| c.rules.iter().map(move |r| format!("{}: {r}\n", c.name)));
    chains.chain(rules.elements.iter().map(|e| format!("@{}: {e}\n", e.map.name()))).collect()
}

#[track_caller]
fn check(network: &Network, want: &str) {
    assert_eq!(text(&rules(network, "virbr0")), want);
}

fn nat66(mut network: Network) -> Network {
    network.forward.nat.ipv6 = Some(true);
    network
}

const NAT_DEFAULT: &str = r#"to-virbr0: iifname "virbr0" accept
to-virbr0: ip daddr 192.168.122.0/24 ct state established,related accept
to-virbr0: reject with icmpx port-unreachable
from-virbr0: ip saddr 192.168.122.0/24 accept
from-virbr0: reject with icmpx port-unreachable
nat-virbr0: ip saddr 192.168.122.0/24 ip daddr 224.0.0.0/24 return
nat-virbr0: ip saddr 192.168.122.0/24 ip daddr 255.255.255.255 return
nat-virbr0: ip saddr 192.168.122.0/24 ip daddr != 192.168.122.0/24 meta l4proto tcp masquerade to :1024-65535
nat-virbr0: ip saddr 192.168.122.0/24 ip daddr != 192.168.122.0/24 meta l4proto udp masquerade to :1024-65535
nat-virbr0: ip saddr 192.168.122.0/24 ip daddr != 192.168.122.0/24 masquerade
@to: "virbr0" : jump to-virbr0
@from: "virbr0" : jump from-virbr0
@nat4: 192.168.122.0/24 : jump nat-virbr0
"#;

#[test]
fn nat_default() {
    // nat-tftp and nat-no-dhcp differ in what is accepted for the host only, and that is not ours to say.
    check(&network(Nat, &["192.168.122.1/24"]), NAT_DEFAULT);
}

#[test]
fn nat_ipv6_is_routed() {
    // Also nat-no-dhcp.
    check(
        &network(Nat, &["192.168.122.1/24", "2001:db8:ca2:2::1/64"]),
        r#"to-virbr0: iifname "virbr0" accept
to-virbr0: ip daddr 192.168.122.0/24 ct state established,related accept
to-virbr0: ip6 daddr 2001:db8:ca2:2::/64 accept
to-virbr0: reject with icmpx port-unreachable
from-virbr0: ip saddr 192.168.122.0/24 accept
from-virbr0: ip6 saddr 2001:db8:ca2:2::/64 accept
from-virbr0: reject with icmpx port-unreachable
nat-virbr0: ip saddr 192.168.122.0/24 ip daddr 224.0.0.0/24 return
nat-virbr0: ip saddr 192.168.122.0/24 ip daddr 255.255.255.255 return
nat-virbr0: ip saddr 192.168.122.0/24 ip daddr != 192.168.122.0/24 meta l4proto tcp masquerade to :1024-65535
nat-virbr0: ip saddr 192.168.122.0/24 ip daddr != 192.168.122.0/24 meta l4proto udp masquerade to :1024-65535
nat-virbr0: ip saddr 192.168.122.0/24 ip daddr != 192.168.122.0/24 masquerade
@to: "virbr0" : jump to-virbr0
@from: "virbr0" : jump from-virbr0
@nat4: 192.168.122.0/24 : jump nat-virbr0
"#,
    );
}

#[test]
fn nat_ipv6_masquerade() {
    check(
        &nat66(network(Nat, &["192.168.122.1/24", "2001:db8:ca2:2::1/64"])),
        r#"to-virbr0: iifname "virbr0" accept
to-virbr0: ip daddr 192.168.122.0/24 ct state established,related accept
to-virbr0: ip6 daddr 2001:db8:ca2:2::/64 ct state established,related accept
to-virbr0: reject with icmpx port-unreachable
from-virbr0: ip saddr 192.168.122.0/24 accept
from-virbr0: ip6 saddr 2001:db8:ca2:2::/64 accept
from-virbr0: reject with icmpx port-unreachable
nat-virbr0: ip saddr 192.168.122.0/24 ip daddr 224.0.0.0/24 return
nat-virbr0: ip saddr 192.168.122.0/24 ip daddr 255.255.255.255 return
nat-virbr0: ip saddr 192.168.122.0/24 ip daddr != 192.168.122.0/24 meta l4proto tcp masquerade to :1024-65535
nat-virbr0: ip saddr 192.168.122.0/24 ip daddr != 192.168.122.0/24 meta l4proto udp masquerade to :1024-65535
nat-virbr0: ip saddr 192.168.122.0/24 ip daddr != 192.168.122.0/24 masquerade
nat-virbr0: ip6 saddr 2001:db8:ca2:2::/64 ip6 daddr ff02::/16 return
nat-virbr0: ip6 saddr 2001:db8:ca2:2::/64 ip6 daddr != 2001:db8:ca2:2::/64 meta l4proto tcp masquerade to :1024-65535
nat-virbr0: ip6 saddr 2001:db8:ca2:2::/64 ip6 daddr != 2001:db8:ca2:2::/64 meta l4proto udp masquerade to :1024-65535
nat-virbr0: ip6 saddr 2001:db8:ca2:2::/64 ip6 daddr != 2001:db8:ca2:2::/64 masquerade
@to: "virbr0" : jump to-virbr0
@from: "virbr0" : jump from-virbr0
@nat4: 192.168.122.0/24 : jump nat-virbr0
@nat6: 2001:db8:ca2:2::/64 : jump nat-virbr0
"#,
    );
}

#[test]
fn nat_many_ips() {
    let got = text(&rules(&network(Nat, &["192.168.122.1/24", "192.168.128.1/24", "192.168.150.1/24"]), "virbr0"));
    for prefix in ["192.168.122.0/24", "192.168.128.0/24", "192.168.150.0/24"] {
        let one = NAT_DEFAULT.replace("192.168.122.0/24", prefix);
        for line in one.lines() {
            assert_eq!(got.matches(line).count(), 1, "{line}\nin\n{got}");
        }
    }
    assert_eq!(got.lines().count(), 3 + 2 * 3 + 5 * 3 + 2 + 3, "{got}");
}

#[test]
fn route_default() {
    check(
        &network(Route, &["192.168.122.1/24"]),
        r#"to-virbr0: iifname "virbr0" accept
to-virbr0: ip daddr 192.168.122.0/24 accept
to-virbr0: reject with icmpx port-unreachable
from-virbr0: ip saddr 192.168.122.0/24 accept
from-virbr0: reject with icmpx port-unreachable
@to: "virbr0" : jump to-virbr0
@from: "virbr0" : jump from-virbr0
"#,
    );
}

#[test]
fn isolated_and_open() {
    check(
        &network(Isolated, &["192.168.122.1/24"]),
        r#"to-virbr0: iifname "virbr0" accept
to-virbr0: reject with icmpx port-unreachable
from-virbr0: reject with icmpx port-unreachable
@to: "virbr0" : jump to-virbr0
@from: "virbr0" : jump from-virbr0
"#,
    );
    check(&network(Open, &["192.168.122.1/24"]), "");
}

#[test]
fn an_uplink_an_address_range_and_ports() {
    let mut n = with_uplink(network(Nat, &["10.0.0.1/8"]), "eth1");
    n.forward.nat.addresses = Some(([198, 51, 100, 1].into(), [198, 51, 100, 9].into()));
    n.forward.nat.ports = Some((5000, 6000));
    check(
        &n,
        r#"to-virbr0: iifname "virbr0" accept
to-virbr0: ip daddr 10.0.0.0/8 iifname "eth1" ct state established,related accept
to-virbr0: reject with icmpx port-unreachable
from-virbr0: ip saddr 10.0.0.0/8 oifname "eth1" accept
from-virbr0: reject with icmpx port-unreachable
nat-virbr0: ip saddr 10.0.0.0/8 ip daddr 224.0.0.0/24 return
nat-virbr0: ip saddr 10.0.0.0/8 ip daddr 255.255.255.255 return
nat-virbr0: ip saddr 10.0.0.0/8 ip daddr != 10.0.0.0/8 oifname "eth1" meta l4proto tcp snat ip to 198.51.100.1-198.51.100.9:5000-6000
nat-virbr0: ip saddr 10.0.0.0/8 ip daddr != 10.0.0.0/8 oifname "eth1" meta l4proto udp snat ip to 198.51.100.1-198.51.100.9:5000-6000
nat-virbr0: ip saddr 10.0.0.0/8 ip daddr != 10.0.0.0/8 oifname "eth1" snat ip to 198.51.100.1-198.51.100.9
@to: "virbr0" : jump to-virbr0
@from: "virbr0" : jump from-virbr0
@nat4: 10.0.0.0/8 : jump nat-virbr0
"#,
    );
    n.forward.nat.addresses = Some(([198, 51, 100, 1].into(), [198, 51, 100, 1].into()));
    n.forward.nat.ports = Some((5000, 5000));
    assert!(text(&rules(&n, "virbr0")).contains("udp snat ip to 198.51.100.1:5000\n"));
}

#[test]
fn prefixes_of_one_network_inside_each_other_make_one_interval() {
    let n = network(Nat, &["10.1.0.1/16", "10.0.0.1/8", "10.1.0.2/16"]);
    let got = text(&rules(&n, "virbr0"));
    let nat: Vec<_> = got.lines().filter(|l| l.starts_with("@nat4")).collect();
    assert_eq!(nat, ["@nat4: 10.0.0.0/8 : jump nat-virbr0"]);
}

#[test]
fn the_table_from_nothing() {
    let intent = Intent::from([(link("br*"), rules(&network(Isolated, &[]), "br*"))]);
    let want = r#"add table inet patchcord { comment "patchcord:00000000-0000-0000-0000-000000000007"; }
add chain inet patchcord to-br*
add rule inet patchcord to-br* iifname "br\*" accept
add rule inet patchcord to-br* reject with icmpx port-unreachable
add chain inet patchcord from-br*
add rule inet patchcord from-br* reject with icmpx port-unreachable
add map inet patchcord to { type ifname : verdict; }
add map inet patchcord from { type ifname : verdict; }
add map inet patchcord nat4 { type ipv4_addr : verdict; flags interval; }
add map inet patchcord nat6 { type ipv6_addr : verdict; flags interval; }
add chain inet patchcord forward { type filter hook forward priority filter; policy accept; }
add rule inet patchcord forward oifname vmap @to
add rule inet patchcord forward iifname vmap @from
add chain inet patchcord postrouting { type nat hook postrouting priority srcnat; policy accept; }
add rule inet patchcord postrouting ip saddr vmap @nat4
add rule inet patchcord postrouting ip6 saddr vmap @nat6
add element inet patchcord to { "br\*" : jump to-br* }
add element inet patchcord from { "br\*" : jump from-br* }
"#;
    assert_eq!(from_nothing(&intent).text(), want);
}

/// nft itself takes the text, and the kernel the transaction (which it checks and throws away).
#[test]
fn nft_takes_the_text() {
    const NAME: &str = "nft_takes_the_text";
    let quiet = |command: &mut Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    if !quiet(Command::new("nft").arg("--version")) {
        return skip(NAME, "there is no nft");
    }
    if !quiet(Command::new("unshare").args(["-n", "true"])) {
        return skip(NAME, "no network namespace can be made: not root");
    }
    let mut snat = with_uplink(network(Nat, &["10.3.0.1/16", "10.4.0.1/32"]), "eth1");
    snat.forward.nat.addresses = Some(([198, 51, 100, 1].into(), [198, 51, 100, 9].into()));
    snat.forward.nat.ports = Some((5000, 5000));
    let networks = [
        ("virbr0", nat66(network(Nat, &["192.168.122.1/24", "2001:db8:1::1/64"]))),
        ("virbr1", network(Route, &["10.1.0.1/16", "10.0.0.1/8"])),
        ("virbr2", network(Isolated, &["172.16.0.1/12"])),
        ("virbr3", snat),
        ("virbr4", network(Nat, &["2001:db8:2::1/64"])),
    ];
    let intent: Intent = networks.iter().map(|(b, n)| (link(b), rules(n, b))).collect();
    let text = from_nothing(&intent).text();
    let mut nft = Command::new("unshare")
        .args(["-n", "nft", "-c", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    nft.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let done = nft.wait_with_output().unwrap();
    assert!(done.status.success(), "{}\n{text}", String::from_utf8_lossy(&done.stderr));
}
