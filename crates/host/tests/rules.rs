//! Packet rules over netlink against nft's own reading of the same rules as text.
#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::{INSTANCE, NETWORKS, active, apply, kernel, plan};
use patchcord_core::intent::Intent;
use patchcord_core::model::LinkName;
use patchcord_core::plan::nft::foreign::{Firewalls, Owner};
use patchcord_core::plan::nft::{self, NetworkRules, Scope};
use patchcord_core::plan::{Op, desired};
use patchcord_testkit::{Namespace, in_namespace, needs};
use serde_json::Value;

/// The rules of the networks with these places in the list.
fn rules(which: &[usize]) -> nft::Intent {
    let mut intent = Intent::new(INSTANCE);
    let mut wanted = nft::Intent::new();
    for at in which {
        let uuid = active(&mut intent, *at as u128, NETWORKS[*at]);
        wanted.extend(desired::network(&intent, uuid).rules);
    }
    wanted
}

fn has_nft() -> bool {
    needs("nftables", &["nft add table inet probe"])
}

/// What nft lists of our table, without handles and without the comments that carry fingerprints.
fn listed(ns: &Namespace) -> Vec<Value> {
    fn without(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.remove("handle");
                map.values_mut().for_each(without);
            }
            Value::Array(values) => values.iter_mut().for_each(without),
            _ => {}
        }
    }
    let mut value = ns.json("nft -j list table inet patchcord")["nftables"].take();
    without(&mut value);
    let mut objects: Vec<Value> = value.as_array().unwrap().clone();
    objects.retain(|object| object.get("metainfo").is_none());
    for object in &mut objects {
        if let Some(rule) = object.get_mut("rule").and_then(Value::as_object_mut) {
            rule.remove("comment");
        }
        if let Some(elements) = object.pointer_mut("/map/elem").and_then(Value::as_array_mut) {
            elements.sort_by_key(ToString::to_string);
        }
    }
    // Rules stay in order behind their kind; tables, maps and chains may be listed in another.
    objects.sort_by_key(|object| {
        let kind = object.as_object().unwrap().keys().next().unwrap().clone();
        let body = &object[&kind];
        let name = body.get("chain").or_else(|| body.get("name")).map(ToString::to_string);
        (kind, name)
    });
    objects
}

#[test]
fn the_kernel_gets_the_rules_that_nft_would_make_of_the_text() {
    if !has_nft() {
        return;
    }
    in_namespace(|ns| {
        let wanted = rules(&[0, 1, 2, 3, 4, 5]);
        let mut kernel = kernel();
        let change = nft::diff(&kernel.observed().nft, &wanted, Scope::Whole, INSTANCE).unwrap();
        apply(&mut kernel, &plan([Op::Nft(change.clone())]));

        let peer = ns.peer("text");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), change.text()).unwrap();
        peer.run(&format!("nft -f {}", file.path().display()));
        let (ours, theirs) = (listed(ns), listed(&peer));
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours, theirs);
        }
        assert_eq!(ours.len(), theirs.len());
        assert!(ours.len() > 40, "{}", ours.len());
        // As text, too, in which nft shows what it can't decode.
        let text = |ns: &Namespace| {
            let text = ns.run("nft list table inet patchcord");
            text.lines().map(|line| line.split(" comment \"").next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(text(ns).len(), text(&peer).len());
        assert!(ns.run("nft list table inet patchcord").contains(&format!("comment \"patchcord:{INSTANCE}\"")));

        let read = kernel.read_nft().unwrap();
        assert_eq!(nft::diff(&read, &wanted, Scope::Whole, INSTANCE).unwrap().ops, []);
        // Every rule's handle is known without reading.
        assert_eq!(read, kernel.observed().nft);
    });
}

#[test]
fn any_set_of_networks_turns_into_any_other_and_back() {
    if !has_nft() {
        return;
    }
    in_namespace(|_| {
        let mut kernel = kernel();
        let sets: [&[usize]; 6] = [&[0], &[0, 1, 5], &[1, 2], &[], &[3, 0], &[0, 2, 3, 5]];
        let mut previous = rules(&[]);
        for set in sets {
            let mut wanted = rules(set);
            for bridge in previous.keys() {
                wanted.entry(bridge.clone()).or_default();
            }
            let before = kernel.read_nft().unwrap();
            // What the engine knows has no handles for what it had done itself.
            let mut known = before.clone();
            for rule in known.chains.values_mut().flat_map(|chain| &mut chain.rules) {
                rule.handle = None;
            }
            let change = nft::diff(&known, &wanted, Scope::Changed, INSTANCE).unwrap();
            let undo = change.undo(&known, &previous_of(&previous, &wanted), INSTANCE);
            apply(&mut kernel, &plan([Op::Nft(change.clone())]));
            let after = kernel.read_nft().unwrap();
            assert_eq!(nft::diff(&after, &rules(set), Scope::Whole, INSTANCE).unwrap().ops, [], "{set:?}");
            assert_eq!(after, kernel.observed().nft);

            apply(&mut kernel, &plan([Op::Nft(undo)]));
            let back = kernel.read_nft().unwrap();
            let prints = |table: &nft::ObservedTable| -> Vec<(String, Vec<String>)> {
                let rules = |c: &nft::ObservedChain| c.rules.iter().map(|r| r.fingerprint.clone()).collect();
                table.chains.iter().map(|(name, chain)| (name.clone(), rules(chain))).collect()
            };
            assert_eq!(prints(&back), prints(&before), "{set:?}");
            assert!(back.elements().eq(before.elements()));
            let again = nft::diff(&back, &wanted, Scope::Changed, INSTANCE).unwrap();
            apply(&mut kernel, &plan([Op::Nft(again)]));
            previous = rules(set);
        }
    });
}

/// The rules before, for every network that is mentioned now.
fn previous_of(previous: &nft::Intent, wanted: &nft::Intent) -> nft::Intent {
    let of = |bridge: &LinkName| previous.get(bridge).cloned().unwrap_or_else(NetworkRules::default);
    wanted.keys().map(|bridge| (bridge.clone(), of(bridge))).collect()
}

#[test]
fn a_refused_transaction_names_its_object_and_changes_nothing() {
    if !has_nft() {
        return;
    }
    in_namespace(|ns| {
        let mut kernel = kernel();
        let change = nft::diff(&kernel.observed().nft, &rules(&[0]), Scope::Whole, INSTANCE).unwrap();
        apply(&mut kernel, &plan([Op::Nft(change)]));
        let before = ns.run("nft -a list ruleset");
        let gone = nft::NftChange {
            ops: vec![
                nft::NftOp::FlushChain("to-virbr0".into()),
                nft::NftOp::DeleteElement(nft::Map::To, nft::Key::Link(common::name("virbr7"))),
            ],
        };
        let failure = kernel.apply(&plan([Op::Nft(gone)])).outcome.failed.unwrap();
        assert_eq!(failure.errno, Some(2));
        assert!(failure.cause.starts_with("ENOENT (No such file or directory)"), "{}", failure.cause);
        assert!(failure.cause.contains("elements of inet patchcord to"), "{}", failure.cause);
        assert_eq!(ns.run("nft -a list ruleset"), before);
    });
}

#[test]
fn a_rule_that_is_known_by_an_old_handle_only_is_found_again() {
    if !has_nft() {
        return;
    }
    in_namespace(|ns| {
        let mut kernel = kernel();
        let change = nft::diff(&kernel.observed().nft, &rules(&[0]), Scope::Whole, INSTANCE).unwrap();
        apply(&mut kernel, &plan([Op::Nft(change)]));
        // Somebody saves the ruleset and restores it: the same rules under other handles.
        let saved = ns.run("nft list ruleset");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("flush ruleset\n{saved}")).unwrap();
        ns.run("nft add rule inet patchcord from-virbr0 counter");
        ns.run(&format!("nft -f {}", file.path().display()));
        let chain = "to-virbr0".to_owned();
        let print = kernel.observed().nft.chains[&chain].rules[0].fingerprint.clone();
        let rule = nft::RuleRef { handle: None, fingerprint: print };
        let delete = nft::NftChange { ops: vec![nft::NftOp::DeleteRule { chain: chain.clone(), rule }] };
        let had = kernel.read_nft().unwrap().chains[&chain].rules.len();
        apply(&mut kernel, &plan([Op::Nft(delete)]));
        assert_eq!(kernel.read_nft().unwrap().chains[&chain].rules.len(), had - 1);
    });
}

#[test]
fn other_firewalls_are_seen() {
    if !has_nft() {
        return;
    }
    in_namespace(|ns| {
        let mut kernel = kernel();
        assert_eq!(kernel.foreign_firewalls().unwrap(), Firewalls::default());
        let change = nft::diff(&kernel.observed().nft, &rules(&[0]), Scope::Whole, INSTANCE).unwrap();
        apply(&mut kernel, &plan([Op::Nft(change)]));
        assert_eq!(kernel.foreign_firewalls().unwrap(), Firewalls::default());
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = r#"
            table ip filter {
                chain DOCKER-USER { }
                chain FORWARD { type filter hook forward priority filter; policy drop; }
            }
            table inet firewalld {
                chain filter_FORWARD {
                    type filter hook forward priority filter + 10;
                    ct state established accept
                    counter reject with icmpx admin-prohibited
                }
            }
            table inet site {
                chain in { type filter hook input priority 0; iifname "x" drop; }
                chain pass { type filter hook forward priority 0; counter; }
            }
            table inet off {
                flags dormant
                chain in { type filter hook input priority 0; policy drop; }
            }
        "#;
        std::fs::write(file.path(), text).unwrap();
        ns.run(&format!("nft -f {}", file.path().display()));
        let Firewalls { dropping: found, firewalld } = kernel.foreign_firewalls().unwrap();
        let tables = ns.json("nft -j -a list tables");
        let handle =
            |t: &serde_json::Value| (t["table"]["name"] == "firewalld").then(|| t["table"]["handle"].as_u64())?;
        assert_eq!(firewalld, tables["nftables"].as_array().unwrap().iter().find_map(handle));
        assert!(firewalld.is_some(), "{tables}");
        let mut owners: Vec<_> = found.iter().map(|f| (f.owner.clone(), f.chain.as_str())).collect();
        owners.sort_by_key(|(_, chain)| (*chain).to_owned());
        let expected = [(Owner::Firewalld, "inet firewalld filter_FORWARD"), (Owner::Docker, "ip filter FORWARD")];
        assert_eq!(owners, expected);
    });
}
