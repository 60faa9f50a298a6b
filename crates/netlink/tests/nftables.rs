//! nftables on a real kernel, looked at with nft's eyes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::net::IpAddr;

use common::{in_new_namespace, json, run};
use patchcord_netlink::Error;
use patchcord_netlink::nft::{
    BaseChain, Batch, Body, ChainKind, Element, Family, Hook, Key, KeyKind, Nat, NewChain, NewRule, NewSet, Place,
    Policy, Reject, Socket, Verdict, ct_state, priority,
};
use patchcord_testkit::skip;

const INET: Family = Family::Inet;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A namespace and a socket, where there are nftables and an `nft` to look with.
fn start(test: &str) -> Option<Socket> {
    if !in_new_namespace(test) {
        return None;
    }
    if std::process::Command::new("nft").arg("--version").output().is_err() {
        skip(test, "no nft program");
        return None;
    }
    Some(Socket::open().unwrap())
}

fn chain<'a>(name: &'a str, base: Option<BaseChain>) -> NewChain<'a> {
    NewChain { family: INET, table: "patchcord", name, base }
}

fn base(kind: ChainKind, hook: Hook, priority: i32) -> Option<BaseChain> {
    Some(BaseChain { kind, hook, priority, policy: Policy::Accept, device: None })
}

fn rule<'a>(chain: &'a str, body: &'a Body, comment: Option<&'a str>) -> NewRule<'a> {
    NewRule { family: INET, table: "patchcord", chain, place: Place::Last, body, comment }
}

fn body() -> Body {
    Body::new(INET)
}

/// The lines of `nft list table`, trimmed.
fn listed(table: &str) -> Vec<String> {
    run("nft", &["-s", "list", "table", "inet", table]).lines().map(|line| line.trim().to_owned()).collect()
}

#[test]
fn a_nat_network_reads_back_as_nft_would_write_it() {
    let Some(mut socket) = start("a_nat_network_reads_back_as_nft_would_write_it") else { return };
    let mut batch = Batch::new();
    batch.add_table(INET, "patchcord", Some("patchcord:instance"));
    batch.add_chain(&chain("forward", base(ChainKind::Filter, Hook::Forward, priority::FILTER)));
    batch.add_chain(&chain("postrouting", base(ChainKind::Nat, Hook::Postrouting, priority::SRCNAT)));
    batch.add_chain(&chain("net1", None));
    let (net, multicast) = (ip("192.168.122.0"), ip("224.0.0.0"));
    let ports = Nat { ports: Some((1024, 65535)), ..Nat::default() };
    let bodies = [
        ("forward", body().oif_name("virbr0").destination(net, 24).ct_state(6).counter().accept()),
        ("forward", body().iif_name("virbr0").source(net, 24).counter().accept()),
        ("forward", body().iif_name("virbr0").oif_name("virbr0").accept()),
        ("forward", body().oif_name("virbr0").reject(Reject::PortUnreachable)),
        ("forward", body().not_iif_name("virbr0").l4proto(6).reject(Reject::TcpReset)),
        ("forward", body().iif_name("virbr0").jump("net1")),
        ("net1", body().source(ip("fd00:1::"), 64).ct_state(ct_state::INVALID).drop()),
        ("net1", body().l4proto(17).destination_port(53).accept()),
        ("net1", body().return_()),
        ("postrouting", body().source(net, 24).destination(multicast, 24).return_()),
        ("postrouting", body().source(net, 24).not_destination(net, 24).l4proto(6).masquerade(ports)),
        ("postrouting", body().source(net, 24).not_destination(net, 24).counter().masquerade(Nat::default())),
        ("postrouting", body().l4proto(17).source_nat(ip("10.0.0.1"), ip("10.0.0.9"), Nat { random: true, ..ports })),
        ("postrouting", body().source_nat(ip("fd00::1"), ip("fd00::1"), Nat { persistent: true, ..Nat::default() })),
    ];
    for (chain, body) in &bodies {
        batch.add_rule(&rule(chain, body, Some("c")));
    }
    socket.commit(&batch).unwrap();
    let seen = listed("patchcord");
    let expected = [
        "table inet patchcord {",
        "comment \"patchcord:instance\"",
        "chain forward {",
        "type filter hook forward priority filter; policy accept;",
        "oifname \"virbr0\" ip daddr 192.168.122.0/24 ct state established,related counter accept comment \"c\"",
        "iifname \"virbr0\" ip saddr 192.168.122.0/24 counter accept comment \"c\"",
        "iifname \"virbr0\" oifname \"virbr0\" accept comment \"c\"",
        "oifname \"virbr0\" reject comment \"c\"",
        "iifname != \"virbr0\" meta l4proto tcp reject with tcp reset comment \"c\"",
        "iifname \"virbr0\" jump net1 comment \"c\"",
        "chain postrouting {",
        "type nat hook postrouting priority srcnat; policy accept;",
        "ip saddr 192.168.122.0/24 ip daddr 224.0.0.0/24 return comment \"c\"",
        "ip saddr 192.168.122.0/24 ip daddr != 192.168.122.0/24 meta l4proto tcp masquerade to :1024-65535 comment \"c\"",
        "ip saddr 192.168.122.0/24 ip daddr != 192.168.122.0/24 counter masquerade comment \"c\"",
        "meta l4proto udp meta nfproto ipv4 snat ip to 10.0.0.1-10.0.0.9:1024-65535 random comment \"c\"",
        "meta nfproto ipv6 snat ip6 to fd00::1 persistent comment \"c\"",
        "chain net1 {",
        "ip6 saddr fd00:1::/64 ct state invalid drop comment \"c\"",
        "udp dport 53 accept comment \"c\"",
        "return comment \"c\"",
    ];
    for line in expected {
        assert!(seen.iter().any(|have| have == line), "missing: {line}\nlisted:\n{}", seen.join("\n"));
    }
    // Nothing that the list above does not name.
    let known = |have: &String| have.is_empty() || have == "}" || expected.contains(&have.as_str());
    let more: Vec<_> = seen.iter().filter(|have| !known(have)).collect();
    assert!(more.is_empty(), "{more:?}");
}

#[test]
fn rules_have_handles_places_and_comments() {
    let Some(mut socket) = start("rules_have_handles_places_and_comments") else { return };
    let mut batch = Batch::new();
    batch.add_table(INET, "patchcord", None);
    batch.add_chain(&chain("c", None));
    let accept = body().counter().accept();
    let first = batch.add_rule(&rule("c", &accept, Some("b")));
    let second = batch.add_rule(&rule("c", &accept, Some("e")));
    let committed = socket.commit(&batch).unwrap();
    let (b, e) = (committed.rule_handle(first).unwrap(), committed.rule_handle(second).unwrap());
    assert_eq!(committed.rule_handle(0), None);

    let mut batch = Batch::new();
    let places = [(Place::After(b), "d"), (Place::After(b), "c"), (Place::Before(e), "d2"), (Place::First, "a")];
    for (place, comment) in places {
        batch.add_rule(&NewRule { place, ..rule("c", &accept, Some(comment)) });
    }
    let last = batch.add_rule(&rule("c", &body().jump("c2"), None));
    assert_eq!(last, 4);
    let error = socket.commit(&batch).unwrap_err();
    let Error::Transaction { object, message, source } = &error else { panic!("{error:?}") };
    assert_eq!((object.as_str(), *message, source.errno), ("rule of chain inet patchcord c", Some(4), 2));
    assert!(error.is_not_found());
    let rules = socket.rules(INET, "patchcord", Some("c")).unwrap();
    assert_eq!(rules.len(), 2, "a refused transaction changes nothing");

    let mut batch = Batch::new();
    for (place, comment) in places {
        batch.add_rule(&NewRule { place, ..rule("c", &accept, Some(comment)) });
    }
    socket.commit(&batch).unwrap();
    let rules = socket.rules(INET, "patchcord", Some("c")).unwrap();
    let comments: Vec<_> = rules.iter().map(|rule| rule.comment.as_deref().unwrap()).collect();
    assert_eq!(comments, ["a", "b", "c", "d", "d2", "e"]);
    assert_eq!(rules[1].handle, b);
    assert_eq!(rules[0].expressions, ["counter", "immediate"]);
    assert_eq!(rules[0].verdict, Some(Verdict::Accept));

    let mut batch = Batch::new();
    batch.delete_rule(INET, "patchcord", "c", b);
    socket.commit(&batch).unwrap();
    assert_eq!(socket.rules(INET, "patchcord", Some("c")).unwrap().len(), 5);
    let error = socket.commit(&batch).unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains(&format!("deleting rule {b}")), "{error}");
    let mut batch = Batch::new();
    batch.flush_chain(INET, "patchcord", "c");
    batch.delete_chain(INET, "patchcord", "c");
    socket.commit(&batch).unwrap();
    assert!(socket.chains().unwrap().is_empty());
    assert!(socket.rules(INET, "nothing", None).unwrap().is_empty());
}

#[test]
fn a_long_comment_is_refused_before_anything_happens() {
    let Some(mut socket) = start("a_long_comment_is_refused_before_anything_happens") else { return };
    let mut batch = Batch::new();
    batch.add_table(INET, "patchcord", Some(&"x".repeat(129)));
    let error = socket.commit(&batch).unwrap_err();
    let Error::Transaction { object, message: Some(0), source } = error else { panic!("{error:?}") };
    assert_eq!(object, "table inet patchcord");
    assert!(source.to_string().contains("comment"), "{source}");
    assert!(socket.tables().unwrap().is_empty());
    let mut batch = Batch::new();
    batch.add_table(INET, "patchcord", Some(&"x".repeat(128)));
    socket.commit(&batch).unwrap();
    assert_eq!(socket.tables().unwrap()[0].comment.as_deref(), Some("x".repeat(128).as_str()));
}

#[test]
fn verdict_maps_by_link_and_by_address() {
    let Some(mut socket) = start("verdict_maps_by_link_and_by_address") else { return };
    let map = |name, key, interval| NewSet { family: INET, table: "patchcord", name, key, interval, verdicts: true };
    let links = map("links", KeyKind::IfName, false);
    let nets = map("nets", KeyKind::Ipv4, true);
    let nets6 = map("nets6", KeyKind::Ipv6, true);
    let macs = NewSet { name: "macs", key: KeyKind::Mac, verdicts: false, ..links };
    let jump = |key, chain: &str| Element { key, verdict: Some(Verdict::Jump(chain.to_owned())) };
    let on_links = [jump(Key::IfName("virbr0".into()), "n"), jump(Key::IfName("virbr1".into()), "n")];
    let on_nets = [
        jump(Key::prefix(ip("10.0.0.0"), 24), "n"),
        jump(Key::prefix(ip("10.0.1.0"), 24), "n"),
        jump(Key::Address(ip("10.9.9.9")), "n"),
        jump(Key::Range(ip("172.16.0.3"), ip("172.16.0.9")), "n"),
        jump(Key::prefix(ip("240.0.0.0"), 4), "n"),
    ];
    let on_nets6 = [jump(Key::prefix(ip("fd00:1::"), 64), "n")];
    let on_macs = [Element { key: Key::Mac([2, 0, 0, 0, 0, 1]), verdict: None }];

    let mut batch = Batch::new();
    batch.add_table(INET, "patchcord", None);
    batch.add_chain(&chain("f", base(ChainKind::Filter, Hook::Forward, 0)));
    batch.add_chain(&chain("n", None));
    for (set, elements) in [(&links, &on_links[..]), (&nets, &on_nets), (&nets6, &on_nets6), (&macs, &on_macs)] {
        batch.add_set(set);
        batch.add_elements(set, elements);
    }
    batch.add_rule(&rule("f", &body().load_iif_name().verdict_map("links"), None));
    batch.add_rule(&rule("f", &body().load_source(false).verdict_map("nets"), None));
    batch.add_rule(&rule("f", &body().load_destination(true).verdict_map("nets6"), None));
    socket.commit(&batch).unwrap();

    let seen = listed("patchcord").join(" ");
    for part in [
        "map links { type ifname : verdict elements = { \"virbr0\" : jump n, \"virbr1\" : jump n } }",
        "type ipv4_addr : verdict flags interval",
        "10.0.0.0/24 : jump n",
        "10.0.1.0/24 : jump n",
        "10.9.9.9 : jump n",
        "172.16.0.3-172.16.0.9 : jump n",
        "240.0.0.0/4 : jump n",
        "fd00:1::/64 : jump n",
        "set macs { type ether_addr elements = { 02:00:00:00:00:01 } }",
        "iifname vmap @links",
        "ip saddr vmap @nets",
        "ip6 daddr vmap @nets6",
    ] {
        assert!(seen.contains(part), "missing: {part}\nlisted: {seen}");
    }
    for (set, elements) in [(&links, &on_links[..]), (&nets, &on_nets), (&nets6, &on_nets6), (&macs, &on_macs)] {
        let mut read = socket.elements(INET, "patchcord", set.name, set.key).unwrap();
        let mut wanted = elements.to_vec();
        read.sort_by(|a, b| a.key.cmp(&b.key));
        wanted.sort_by(|a, b| a.key.cmp(&b.key));
        assert_eq!(read, wanted, "{}", set.name);
    }

    // What nft itself puts into such a map is read the same.
    run("nft", &["add element inet patchcord links { \"eth7\" : jump n }"]);
    let read = socket.elements(INET, "patchcord", "links", KeyKind::IfName).unwrap();
    assert!(read.contains(&jump(Key::IfName("eth7".into()), "n")), "{read:?}");

    // An element more and one less, and nothing else touched.
    let mut batch = Batch::new();
    batch.delete_elements(&nets, &on_nets[..2]);
    batch.add_elements(&nets, &[jump(Key::prefix(ip("10.0.0.0"), 23), "n")]);
    batch.delete_elements(&links, &on_links[..1]);
    socket.commit(&batch).unwrap();
    let seen = listed("patchcord").join(" ");
    assert!(seen.contains("10.0.0.0/23 : jump n") && !seen.contains("10.0.1.0/24"), "{seen}");
    assert!(!seen.contains("\"virbr0\"") && seen.contains("\"virbr1\" : jump n"), "{seen}");

    let mut batch = Batch::new();
    batch.add_new_elements(&links, &on_links[1..]);
    assert!(socket.commit(&batch).unwrap_err().is_exists());
    let mut batch = Batch::new();
    batch.flush_set(INET, "patchcord", "links");
    socket.commit(&batch).unwrap();
    assert!(socket.elements(INET, "patchcord", "links", KeyKind::IfName).unwrap().is_empty());
    assert!(socket.elements(INET, "patchcord", "nothing", KeyKind::IfName).unwrap().is_empty());
}

#[test]
fn maps_match_real_packets() {
    let Some(mut socket) = start("maps_match_real_packets") else { return };
    run("ip", &["link", "set", "lo", "up"]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connects = || std::net::TcpStream::connect(address).is_ok();
    let set = |name, key, interval| NewSet { family: INET, table: "patchcord", name, key, interval, verdicts: true };
    let (links, nets) = (set("links", KeyKind::IfName, false), set("nets", KeyKind::Ipv4, true));
    let to_refuse = |key| [Element { key, verdict: Some(Verdict::Goto("refuse".to_owned())) }];
    let (lo, loopback) = (to_refuse(Key::IfName("lo".to_owned())), to_refuse(Key::prefix(ip("127.0.0.0"), 8)));
    let other = to_refuse(Key::prefix(ip("126.0.0.0"), 8));

    let mut batch = Batch::new();
    batch.add_table(INET, "patchcord", None);
    batch.add_chain(&chain("input", base(ChainKind::Filter, Hook::Input, 0)));
    batch.add_chain(&chain("refuse", None));
    batch.add_rule(&rule("refuse", &body().l4proto(6).destination_port(address.port()).reject(Reject::TcpReset), None));
    for set in [&links, &nets] {
        batch.add_set(set);
    }
    batch.add_elements(&nets, &other);
    batch.add_rule(&rule("input", &body().load_iif_name().verdict_map("links"), None));
    batch.add_rule(&rule("input", &body().load_source(false).verdict_map("nets"), None));
    socket.commit(&batch).unwrap();
    assert!(connects());
    for (set, elements) in [(&links, &lo), (&nets, &loopback)] {
        let mut batch = Batch::new();
        batch.add_elements(set, elements);
        socket.commit(&batch).unwrap();
        assert!(!connects(), "{}", set.name);
        let mut batch = Batch::new();
        batch.delete_elements(set, elements);
        socket.commit(&batch).unwrap();
        assert!(connects(), "{}", set.name);
    }
    let mut batch = Batch::new();
    batch.add_rule(&rule("input", &body().iif_name("lo").source(ip("127.1.0.0"), 16).reject(Reject::TcpReset), None));
    batch.flush_chain(INET, "patchcord", "input");
    let refuse = body()
        .iif_name("lo")
        .source(ip("127.0.0.0"), 25)
        .ct_state(ct_state::NEW)
        .l4proto(6)
        .destination_port(address.port());
    batch.add_rule(&rule("input", &refuse.reject(Reject::TcpReset), None));
    socket.commit(&batch).unwrap();
    assert!(!connects());
    assert_eq!(socket.rules(INET, "patchcord", Some("input")).unwrap().len(), 1);
}

#[test]
fn a_bridge_table_filters_by_mac_and_address() {
    let Some(mut socket) = start("a_bridge_table_filters_by_mac_and_address") else { return };
    let family = Family::Bridge;
    let mut batch = Batch::new();
    batch.add_table(family, "patchcord", None);
    let forward = BaseChain {
        kind: ChainKind::Filter,
        hook: Hook::Forward,
        priority: priority::BRIDGE_FILTER,
        policy: Policy::Drop,
        device: None,
    };
    batch.add_chain(&NewChain { family, table: "patchcord", name: "f", base: Some(forward) });
    let body = Body::new(family).iif_name("pct0").source_mac([2, 0, 0, 0, 0, 7]).source(ip("10.1.0.0"), 16).accept();
    let rule = NewRule { family, table: "patchcord", chain: "f", place: Place::Last, body: &body, comment: None };
    batch.add_rule(&rule);
    if let Err(error) = socket.commit(&batch) {
        skip("a_bridge_table_filters_by_mac_and_address", &format!("{error:?}"));
        return;
    }
    let seen = run("nft", &["list", "table", "bridge", "patchcord"]);
    assert!(seen.contains("hook forward priority filter; policy drop;"), "{seen}");
    assert!(seen.contains("iifname \"pct0\" ether saddr 02:00:00:00:00:07 ip saddr 10.1.0.0/16 accept"), "{seen}");
}

#[test]
fn others_tables_and_chains_are_read() {
    let Some(mut socket) = start("others_tables_and_chains_are_read") else { return };
    run(
        "nft",
        &["add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }"],
    );
    run("nft", &["add rule ip filter FORWARD iifname docker0 counter reject comment \"theirs\""]);
    run("nft", &["add table inet theirs { comment \"hello\"; }"]);
    let tables = socket.tables().unwrap();
    assert_eq!(tables.len(), 2);
    let theirs = tables.iter().find(|table| table.name == "theirs").unwrap();
    assert_eq!((theirs.family, theirs.comment.as_deref(), theirs.dormant), (INET, Some("hello"), false));
    let chains = socket.chains().unwrap();
    assert_eq!(chains.len(), 1);
    let base = chains[0].base.as_ref().unwrap();
    assert_eq!(
        (chains[0].family, chains[0].table.as_str(), chains[0].name.as_str()),
        (Family::Ip, "filter", "FORWARD")
    );
    assert_eq!(
        (base.kind.as_str(), base.hook, base.priority, base.policy),
        ("filter", Some(Hook::Forward), 0, Policy::Drop)
    );
    let rules = socket.rules(Family::Ip, "filter", None).unwrap();
    assert_eq!(rules[0].comment.as_deref(), Some("theirs"));
    assert_eq!(rules[0].expressions, ["meta", "cmp", "counter", "reject"]);
    let json = json("nft", &["-j", "list", "chains"]);
    assert_eq!(json["nftables"].as_array().unwrap().len(), 2);
}

#[test]
fn a_transaction_for_another_generation_is_refused() {
    let Some(mut socket) = start("a_transaction_for_another_generation_is_refused") else { return };
    let before = socket.generation().unwrap().number;
    let mut batch = Batch::for_generation(before);
    batch.add_table(INET, "patchcord", None);
    socket.commit(&batch).unwrap();
    assert_ne!(socket.generation().unwrap().number, before);
    let mut batch = Batch::for_generation(before);
    batch.add_table(INET, "other", None);
    let error = socket.commit(&batch).unwrap_err();
    let Error::Transaction { message: None, .. } = &error else { panic!("{error:?}") };
    assert_eq!(error.errno(), Some(85), "{error:?}");
    assert_eq!(socket.tables().unwrap().len(), 1);
    let mut batch = Batch::new();
    batch.delete_table(INET, "patchcord");
    socket.commit(&batch).unwrap();
    assert!(socket.tables().unwrap().is_empty());
    socket.commit(&Batch::new()).unwrap();
}

#[test]
fn two_thousand_rules_are_one_transaction() {
    let Some(mut socket) = start("two_thousand_rules_are_one_transaction") else { return };
    let mut batch = Batch::new();
    batch.add_table(INET, "patchcord", None);
    batch.add_chain(&chain("c", None));
    let mut last = 0;
    for n in 0..2000u16 {
        let [high, low] = n.to_be_bytes();
        let body = body().iif_name("virbr0").source(IpAddr::from([10, high, low, 0]), 24).counter().accept();
        last = batch.add_rule(&rule("c", &body, Some("one of many")));
    }
    let committed = socket.commit(&batch).unwrap();
    let rules = socket.rules(INET, "patchcord", Some("c")).unwrap();
    assert_eq!(rules.len(), 2000);
    assert_eq!(committed.rule_handle(last), Some(rules[1999].handle));
    assert!((2..=last).all(|at| committed.rule_handle(at).is_some()));
}
