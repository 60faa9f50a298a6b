//! From any observed state to any intent: it arrives, in legal operations, touching nothing that stays.

use super::super::{
    At, Element, Intent, Key, Map, NftChange, NftOp, ObservedTable, RuleRef, Scope, diff, fingerprint, table_comment,
};
use super::{INSTANCE, from_nothing, link, network, rules, with_uplink};
use crate::model::ForwardMode::{Isolated, Nat, Open, Route};
use crate::model::Network;
use proptest::prelude::*;

const BRIDGES: usize = 4;

fn name(i: usize) -> String {
    format!("virbr{i}")
}

/// The definition number `kind` of the network on bridge `i`.
fn definition(i: usize, kind: u8) -> Network {
    let (v4, other, v6) = (format!("10.{i}.0.1/16"), format!("172.16.{i}.1/24"), format!("2001:db8:{i}::1/64"));
    match kind {
        0 => network(Open, &[&v4]),
        1 => network(Isolated, &[&v4]),
        2 => network(Route, &[&v4, &v6]),
        3 => network(Nat, &[&v4]),
        4 => with_uplink(network(Nat, &[&v4]), "eth0"),
        5 => {
            let mut nat66 = network(Nat, &[&v4, &v6]);
            nat66.forward.nat.ipv6 = Some(true);
            nat66
        }
        _ => network(Nat, &[&v4, &other]),
    }
}

fn intent(kinds: &[u8]) -> Intent {
    let one = |(i, kind): (usize, &u8)| (link(&name(i)), rules(&definition(i, *kind), &name(i)));
    kinds.iter().enumerate().map(one).collect()
}

/// The kernel's side: refuses what it would refuse, and gives new rules a handle.
fn carry_out(table: &mut ObservedTable, change: &NftChange, handles: &mut u64) {
    for op in &change.ops {
        let rules_of = |chain: &str| &table.chains.get(chain).unwrap_or_else(|| panic!("{op}: no chain")).rules;
        let referenced = |chain: &str| table.elements().any(|e| e.chain == chain);
        match op {
            NftOp::AddTable { .. } => assert!(table.comment.is_none(), "{op}"),
            NftOp::AddMap(map) => assert!(!table.maps.contains(map), "{op}"),
            NftOp::AddChain { name, .. } => assert!(!table.chains.contains_key(name), "{op}"),
            NftOp::DeleteChain(name) => assert!(rules_of(name).is_empty() && !referenced(name), "{op}"),
            NftOp::AddRule { chain, at: At::Before(rule), .. } | NftOp::DeleteRule { chain, rule } => {
                assert!(rule.handle.is_some() && rules_of(chain).contains(rule), "{op}");
            }
            NftOp::FlushChain(chain) | NftOp::AddRule { chain, at: At::End, .. } => {
                rules_of(chain);
            }
            NftOp::AddElement(e) => {
                assert!(table.maps.contains(&e.map) && table.element(e.map, &e.key).is_none(), "{op}");
                assert!(table.chains.contains_key(&e.chain), "{op}");
            }
            NftOp::DeleteElement(map, key) => assert!(table.element(*map, key).is_some(), "{op}"),
            NftOp::DeleteTable => assert!(table.comment.is_some(), "{op}"),
        }
        table.apply(&NftChange { ops: vec![op.clone()] });
        for rule in table.chains.values_mut().flat_map(|c| &mut c.rules).filter(|r| r.handle.is_none()) {
            *handles += 1;
            rule.handle = Some(*handles);
        }
    }
}

/// A table of that intent, in which others have been at work.
fn spoilt(kinds: &[u8], damage: &[(u8, usize)], handles: &mut u64) -> ObservedTable {
    let mut table = ObservedTable::default();
    carry_out(&mut table, &from_nothing(&intent(kinds)), handles);
    for (what, n) in damage {
        let chains: Vec<String> = table.chains.keys().cloned().collect();
        let Some(chain) = chains.get(n % chains.len().max(1)) else { continue };
        let elements: Vec<Element> = table.elements().collect();
        let rules = &mut table.chains.get_mut(chain).unwrap().rules;
        *handles += 1;
        match what {
            0 if !rules.is_empty() => {
                rules.remove(n % rules.len());
            }
            1 => rules.insert(n % (rules.len() + 1), RuleRef { handle: Some(*handles), fingerprint: String::new() }),
            2 => rules.reverse(),
            3 if !elements.is_empty() => {
                let e = &elements[n % elements.len()];
                table.remove_element(e.map, &e.key);
            }
            4 if !elements.is_empty() => {
                let e = elements[n % elements.len()].clone();
                table.set_element(Element { chain: chain.clone(), ..e });
            }
            5 if elements.iter().all(|e| e.chain != *chain) => {
                table.chains.remove(chain);
            }
            6 => {
                table.chains.entry("stray".into()).or_default();
                let key = Key::Range([10, 9, 0, 3].into(), [10, 9, 0, 7].into());
                table.set_element(Element { map: Map::Nat4, key, chain: "stray".into() });
            }
            _ => {}
        }
    }
    table
}

fn kinds() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0..7_u8, BRIDGES)
}

/// What the table says of a network, handles included.
fn part(table: &ObservedTable, bridge: &str) -> Vec<String> {
    let chains = ["to", "from", "nat"].map(|p| format!("{p}-{bridge}"));
    let rules = chains.iter().filter_map(|c| table.chains.get(c).map(|rules| format!("{c} {rules:?}")));
    rules.chain(table.elements().filter(|e| chains.contains(&e.chain)).map(|e| format!("{e:?}"))).collect()
}

proptest! {
    #[test]
    fn it_arrives_from_anywhere(
        was in kinds(), wanted in kinds(), damage in prop::collection::vec((0..7_u8, 0..64_usize), 0..6),
    ) {
        let mut handles = 0;
        let mut table = spoilt(&was, &damage, &mut handles);
        let wanted = intent(&wanted);
        let change = diff(&table, &wanted, Scope::Whole, INSTANCE).unwrap();
        carry_out(&mut table, &change, &mut handles);
        prop_assert_eq!(diff(&table, &wanted, Scope::Whole, INSTANCE).unwrap(), NftChange::default());
        // What is there is what is wanted, not only what the diff takes for it.
        let chains = wanted.values().flat_map(|r| &r.chains);
        for chain in chains.clone() {
            let have: Vec<&str> = table.chains[&chain.name].rules.iter().map(|r| r.fingerprint.as_str()).collect();
            let want: Vec<String> = chain.rules.iter().map(fingerprint).collect();
            prop_assert_eq!(have, want);
        }
        let mut elements: Vec<Element> = wanted.values().flat_map(|r| r.elements.clone()).collect();
        elements.sort();
        prop_assert_eq!(table.elements().collect::<Vec<_>>(), elements);
        prop_assert_eq!(table.chains.len(), if chains.clone().count() == 0 { 0 } else { chains.count() + 2 });
    }

    #[test]
    fn what_stays_is_not_touched(was in kinds(), changed in 0..BRIDGES, kind in 0..7_u8) {
        let mut handles = 0;
        let mut table = spoilt(&was, &[], &mut handles);
        let before = table.clone();
        let mut wanted = was.clone();
        wanted[changed] = kind;
        let all = intent(&wanted);
        let one: Intent = all.iter().filter(|(b, _)| b.as_str() == name(changed)).map(|(b, r)| (b.clone(), r.clone())).collect();
        let change = diff(&table, &one, Scope::Changed, INSTANCE).unwrap();
        if before.comment.is_some() && change.ops != [NftOp::DeleteTable] {
            prop_assert_eq!(&change, &diff(&table, &all, Scope::Whole, INSTANCE).unwrap());
            let other = (0..BRIDGES).filter(|i| *i != changed).map(name).find(|b| change.text().contains(b.as_str()));
            prop_assert_eq!(other, None);
        }
        prop_assert!(was[changed] != kind || change.is_empty());
        carry_out(&mut table, &change, &mut handles);
        for bridge in (0..BRIDGES).filter(|i| *i != changed).map(name) {
            prop_assert_eq!(part(&table, &bridge), part(&before, &bridge));
        }
    }

    #[test]
    fn an_undo_puts_back_what_was(was in kinds(), then in kinds(), which in 1..16_usize) {
        let mut handles = 0;
        let before = spoilt(&was, &[], &mut handles);
        let pick = |kinds: &[u8]| -> Intent {
            intent(kinds).into_iter().enumerate().filter(|(i, _)| which >> i & 1 == 1).map(|(_, x)| x).collect()
        };
        let change = diff(&before, &pick(&then), Scope::Changed, INSTANCE).unwrap();
        let undo = change.undo(&before, &pick(&was), INSTANCE);
        prop_assert!(!change.is_empty() || undo.is_empty());
        let mut table = before.clone();
        carry_out(&mut table, &change, &mut handles);
        let undo = undo.resolve(&table);
        carry_out(&mut table, &undo, &mut handles);
        let shape = |table: &ObservedTable| {
            let mut table = table.clone();
            for rule in table.chains.values_mut().flat_map(|c| &mut c.rules) {
                rule.handle = None;
            }
            table
        };
        prop_assert_eq!(shape(&table), shape(&before));
    }
}

#[test]
fn a_rule_in_the_middle_changes_alone() {
    let mut handles = 0;
    let mut table = ObservedTable::default();
    carry_out(&mut table, &from_nothing(&intent(&[3])), &mut handles);
    // An address more: one rule in each filter chain, before the reject; five for translation at the end.
    let change = diff(&table, &intent(&[6]), Scope::Changed, INSTANCE).unwrap();
    let text = change.text();
    assert!(!text.contains("delete"), "{text}");
    assert_eq!(text.matches("insert rule").count(), 2, "{text}");
    assert_eq!(text.matches("add rule").count(), 5, "{text}");
    assert_eq!(text.matches("add element").count(), 1, "{text}");
    assert_eq!(text.lines().count(), 8, "{text}");
}

#[test]
fn a_table_of_another_installation_is_left_alone() {
    let mut table = ObservedTable::default();
    table.comment = Some("patchcord:someone-else".into());
    let refused = diff(&table, &intent(&[3]), Scope::Whole, INSTANCE).unwrap_err();
    assert_eq!(refused.ours, table_comment(INSTANCE));
    assert!(refused.to_string().contains("someone-else"), "{refused}");
}

#[test]
fn the_last_network_takes_the_table_with_it() {
    let mut handles = 0;
    let table = spoilt(&[3, 1], &[], &mut handles);
    let gone = |kinds: &[u8]| diff(&table, &intent(kinds), Scope::Changed, INSTANCE).unwrap().ops;
    assert_eq!(gone(&[0, 0]), [NftOp::DeleteTable]);
    assert_ne!(gone(&[0]), [NftOp::DeleteTable]);
}
