//! From what the kernel has to what it should have, in one transaction that leaves alone what stays.

use super::network::{NetworkRules, chain_names};
use super::observed::{ObservedChain, ObservedTable, RuleRef};
use super::rule::{Base, Chain, Element, Key, Map, Rule, base_chains, fingerprint};
use crate::model::LinkName;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use uuid::Uuid;

/// The networks whose rules are to be looked at, by bridge: their rules, or none at all.
pub type Intent = BTreeMap<LinkName, NetworkRules>;

/// How much of the table a diff covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The networks in the intent, and what all of them stand on.
    Changed,
    /// The whole table: the intent names every network there is, and what belongs to none of them goes.
    Whole,
}

/// Where a rule is put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// Behind the chain's last rule.
    End,
    /// Right before that one.
    Before(RuleRef),
}

/// One operation of a transaction, on our table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NftOp {
    /// Makes the table, with this comment.
    AddTable {
        /// See [`table_comment`].
        comment: String,
    },
    /// Deletes the table with all that is in it.
    DeleteTable,
    /// Makes a map.
    AddMap(Map),
    /// Makes an empty chain.
    AddChain {
        /// Its name.
        name: String,
        /// Its hook, for a base chain.
        base: Option<Base>,
    },
    /// Removes all rules of a chain.
    FlushChain(String),
    /// Deletes a chain that is empty and that nothing jumps to.
    DeleteChain(String),
    /// Puts a rule into a chain. Its fingerprint goes into its comment.
    AddRule {
        /// The chain.
        chain: String,
        /// Where in it.
        at: At,
        /// The rule.
        rule: Rule,
    },
    /// Deletes a rule.
    DeleteRule {
        /// The chain.
        chain: String,
        /// The rule.
        rule: RuleRef,
    },
    /// Puts an element into a map.
    AddElement(Element),
    /// Takes an element from a map.
    DeleteElement(Map, Key),
}

/// The operations of one transaction, in order. Either all of them happen or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NftChange {
    /// The operations.
    pub ops: Vec<NftOp>,
}

/// There is a table of our name whose comment is not ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the nftables table 'inet {}' is not ours: its comment is '{comment}', where ours says '{ours}'", super::TABLE)]
pub struct ForeignTable {
    /// What it says.
    pub comment: String,
    /// What ours says.
    pub ours: String,
}

/// The comment that marks the table as this installation's.
pub fn table_comment(instance: Uuid) -> String {
    format!("patchcord:{instance}")
}

/// What has to be done so that the networks of `intent` have their rules and nothing else. Networks that are not
/// in it keep theirs, unless `scope` is the whole table. When no network with rules is left, the table goes. One that is not
/// ours holds no rules of ours, so that it is in the way only where there are to be some.
pub fn diff(
    observed: &ObservedTable,
    intent: &Intent,
    scope: Scope,
    instance: Uuid,
) -> Result<NftChange, ForeignTable> {
    let ours = table_comment(instance);
    if observed.comment.as_ref() != Some(&ours) && intent.values().all(NetworkRules::is_empty) {
        return Ok(NftChange::default());
    }
    not_foreign(observed, instance)?;
    if observed.comment.is_some() && nothing_left(observed, intent, scope) {
        return Ok(NftChange { ops: vec![NftOp::DeleteTable] });
    }
    Ok(change(observed, intent, scope, ours))
}

/// Whether rules of ours can be had: the table of our name is ours, or to be made.
///
/// # Errors
/// [`ForeignTable`].
pub fn not_foreign(observed: &ObservedTable, instance: Uuid) -> Result<(), ForeignTable> {
    let ours = table_comment(instance);
    match &observed.comment {
        Some(comment) if *comment != ours => Err(ForeignTable { comment: comment.clone(), ours }),
        _ => Ok(()),
    }
}

/// Whether no network has rules once the intent is carried out.
fn nothing_left(observed: &ObservedTable, intent: &Intent, scope: Scope) -> bool {
    let wanted = intent.values().any(|rules| !rules.is_empty());
    let goes = |chain: &str| is_base(chain) || intent.keys().any(|b| chain_names(b).iter().any(|n| n == chain));
    !wanted && (scope == Scope::Whole || observed.chains.keys().all(|c| goes(c)))
}

fn is_base(chain: &str) -> bool {
    base_chains().iter().any(|c| c.name == chain)
}

fn change(observed: &ObservedTable, intent: &Intent, scope: Scope, comment: String) -> NftChange {
    let mut ops = Vec::new();
    if observed.comment.is_none() {
        ops.push(NftOp::AddTable { comment });
    }
    let base = base_chains();
    let networks: Vec<&Chain> = intent.values().flat_map(|rules| &rules.chains).collect();
    // Networks' chains before maps, since nft moves the elements of a new interval map up to the map.
    for chain in &networks {
        edit_chain(observed.chains.get(&chain.name), chain, &mut ops);
    }
    ops.extend(Map::ALL.into_iter().filter(|m| !observed.maps.contains(m)).map(NftOp::AddMap));
    for chain in &base {
        edit_chain(observed.chains.get(&chain.name), chain, &mut ops);
    }

    let keep: BTreeSet<&str> = base.iter().chain(networks).map(|c| c.name.as_str()).collect();
    let going: BTreeSet<String> = match scope {
        Scope::Whole => observed.chains.keys().filter(|c| !keep.contains(c.as_str())).cloned().collect(),
        Scope::Changed => intent
            .keys()
            .flat_map(chain_names)
            .filter(|c| !keep.contains(c.as_str()) && observed.chains.contains_key(c))
            .collect(),
    };
    edit_elements(observed, intent, scope, &mut ops);
    // All are emptied before the first is deleted, since one may jump to another.
    ops.extend(going.iter().cloned().map(NftOp::FlushChain));
    ops.extend(going.into_iter().map(NftOp::DeleteChain));
    NftChange { ops }
}

/// Makes a chain, or changes its rules where they differ: what is equal at its beginning and end stays.
fn edit_chain(observed: Option<&ObservedChain>, wanted: &Chain, ops: &mut Vec<NftOp>) {
    let name = &wanted.name;
    let there: &[RuleRef] = match observed {
        Some(chain) if wanted.base.is_none() || chain.base == wanted.base => &chain.rules,
        other => {
            if other.is_some() {
                // A base chain of ours with another hook: someone replaced it.
                ops.extend([NftOp::FlushChain(name.clone()), NftOp::DeleteChain(name.clone())]);
            }
            ops.push(NftOp::AddChain { name: name.clone(), base: wanted.base });
            &[]
        }
    };
    let prints: Vec<String> = wanted.rules.iter().map(fingerprint).collect();
    let same = |a: &RuleRef, b: &String| a.fingerprint == *b;
    let head = there.iter().zip(&prints).take_while(|(a, b)| same(a, b)).count();
    let tail = there[head..].iter().rev().zip(prints[head..].iter().rev()).take_while(|(a, b)| same(a, b)).count();
    let at = match there[there.len() - tail..].first() {
        Some(rule) => At::Before(rule.clone()),
        None => At::End,
    };
    for rule in &wanted.rules[head..prints.len() - tail] {
        ops.push(NftOp::AddRule { chain: name.clone(), at: at.clone(), rule: rule.clone() });
    }
    for rule in &there[head..there.len() - tail] {
        ops.push(NftOp::DeleteRule { chain: name.clone(), rule: rule.clone() });
    }
}

fn edit_elements(observed: &ObservedTable, intent: &Intent, scope: Scope, ops: &mut Vec<NftOp>) {
    let wanted: BTreeMap<(Map, &Key), &str> =
        intent.values().flat_map(|r| &r.elements).map(|e| ((e.map, &e.key), e.chain.as_str())).collect();
    let mut going: BTreeSet<(Map, Key)> = BTreeSet::new();
    // The keys that are wanted with another chain, those of these networks' links, and what jumps to their chains.
    for (map, key) in wanted.keys() {
        if observed.element(*map, key).is_some() {
            going.insert((*map, (*key).clone()));
        }
    }
    for bridge in intent.keys() {
        for map in [Map::To, Map::From] {
            let key = Key::Link(bridge.clone());
            if observed.element(map, &key).is_some() {
                going.insert((map, key));
            }
        }
        going.extend(chain_names(bridge).iter().flat_map(|chain| observed.elements_to(chain)).cloned());
    }
    if scope == Scope::Whole {
        going.extend(observed.elements().map(|e| (e.map, e.key)));
    }
    going.retain(|(map, key)| wanted.get(&(*map, key)).copied() != observed.element(*map, key));
    ops.extend(going.into_iter().map(|(map, key)| NftOp::DeleteElement(map, key)));
    for ((map, key), chain) in wanted {
        if observed.element(map, key) != Some(chain) {
            ops.push(NftOp::AddElement(Element { map, key: key.clone(), chain: chain.into() }));
        }
    }
}

impl NftChange {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The change that takes this one back, once it is carried out on `before`: it gives the same networks the
    /// rules of `previous`, which must name every network that this change is about. What others had put into
    /// their chains does not come back. The rules that this change makes are named by their fingerprints.
    pub fn undo(&self, before: &ObservedTable, previous: &Intent, instance: Uuid) -> Self {
        if self.ops.iter().any(|op| matches!(op, NftOp::AddTable { .. })) {
            return Self { ops: vec![NftOp::DeleteTable] };
        }
        let mut after = self.touched(before, previous);
        after.apply(self);
        change(&after, previous, Scope::Changed, table_comment(instance))
    }

    /// The part of `before` that this change, or a diff to `previous`, looks at.
    fn touched(&self, before: &ObservedTable, previous: &Intent) -> ObservedTable {
        let mut part = ObservedTable::default();
        part.comment.clone_from(&before.comment);
        part.maps.clone_from(&before.maps);
        let networks: Vec<String> = previous.keys().flat_map(chain_names).collect();
        let base = base_chains();
        for name in networks.iter().chain(base.iter().map(|c| &c.name)) {
            if let Some(chain) = before.chains.get(name) {
                part.chains.insert(name.clone(), chain.clone());
            }
        }
        let changed = self.ops.iter().filter_map(|op| match op {
            NftOp::AddElement(Element { map, key, .. }) | NftOp::DeleteElement(map, key) => Some((*map, key)),
            _ => None,
        });
        let previous = previous.values().flat_map(|r| &r.elements).map(|e| (e.map, &e.key));
        let theirs = networks.iter().flat_map(|c| before.elements_to(c)).map(|(map, key)| (*map, key));
        for (map, key) in changed.chain(previous).chain(theirs) {
            if let Some(chain) = before.element(map, key) {
                part.set_element(Element { map, key: key.clone(), chain: chain.into() });
            }
        }
        part
    }

    /// Fills in the handles that are missing, by the fingerprint, from what is there now. A rule that is not
    /// there any more needs no deleting, and what was to go before it goes to the end.
    #[must_use]
    pub fn resolve(&self, now: &ObservedTable) -> Self {
        let find = |chain: &str, rule: &RuleRef| {
            let rules = &now.chains.get(chain)?.rules;
            match rule.handle {
                Some(_) => Some(rule.clone()),
                None => rules.iter().find(|r| r.fingerprint == rule.fingerprint).cloned(),
            }
        };
        let ops = self.ops.iter().filter_map(|op| match op {
            NftOp::DeleteRule { chain, rule } => {
                Some(NftOp::DeleteRule { chain: chain.clone(), rule: find(chain, rule)? })
            }
            NftOp::AddRule { chain, at: At::Before(next), rule } => {
                let at = find(chain, next).map_or(At::End, At::Before);
                Some(NftOp::AddRule { chain: chain.clone(), at, rule: rule.clone() })
            }
            other => Some(other.clone()),
        });
        Self { ops: ops.collect() }
    }

    /// The transaction as nft commands, one a line.
    pub fn text(&self) -> String {
        self.ops.iter().map(|op| format!("{op}\n")).collect()
    }
}

impl ObservedTable {
    /// What is there once `change` is carried out. New rules have no handle yet.
    pub fn apply(&mut self, change: &NftChange) {
        for op in &change.ops {
            match op {
                NftOp::AddTable { comment } => self.comment = Some(comment.clone()),
                NftOp::DeleteTable => *self = Self::default(),
                NftOp::AddMap(map) => {
                    self.maps.insert(*map);
                }
                NftOp::AddChain { name, base } => {
                    self.chains.entry(name.clone()).or_default().base = *base;
                }
                NftOp::FlushChain(name) => {
                    if let Some(chain) = self.chains.get_mut(name) {
                        chain.rules.clear();
                    }
                }
                NftOp::DeleteChain(name) => {
                    self.chains.remove(name);
                }
                NftOp::AddRule { chain, at, rule } => {
                    let rules = &mut self.chains.entry(chain.clone()).or_default().rules;
                    let place = match at {
                        At::Before(next) => rules.iter().position(|r| r == next),
                        At::End => None,
                    };
                    let new = RuleRef { handle: None, fingerprint: fingerprint(rule) };
                    rules.insert(place.unwrap_or(rules.len()), new);
                }
                NftOp::DeleteRule { chain, rule } => {
                    let rules = self.chains.get_mut(chain).map(|c| &mut c.rules);
                    if let Some((rules, at)) = rules.and_then(|r| r.iter().position(|r| r == rule).map(|at| (r, at))) {
                        rules.remove(at);
                    }
                }
                NftOp::AddElement(element) => self.set_element(element.clone()),
                NftOp::DeleteElement(map, key) => self.remove_element(*map, key),
            }
        }
    }
}

impl fmt::Display for NftOp {
    /// nft's syntax. A rule without a handle is named by its fingerprint, which nft can't read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const T: &str = "inet patchcord";
        let handle = |rule: &RuleRef| rule.handle.map_or_else(|| rule.fingerprint.clone(), |h| h.to_string());
        match self {
            Self::AddTable { comment } => write!(f, "add table {T} {{ comment \"{comment}\"; }}"),
            Self::DeleteTable => write!(f, "delete table {T}"),
            Self::AddMap(map) => {
                let flags = if map.is_interval() { " flags interval;" } else { "" };
                write!(f, "add map {T} {} {{ type {} : verdict;{flags} }}", map.name(), map.key_type())
            }
            Self::AddChain { name, base: Some(base) } => write!(f, "add chain {T} {name} {{ {base} }}"),
            Self::AddChain { name, base: None } => write!(f, "add chain {T} {name}"),
            Self::FlushChain(name) => write!(f, "flush chain {T} {name}"),
            Self::DeleteChain(name) => write!(f, "delete chain {T} {name}"),
            Self::AddRule { chain, at: At::End, rule } => write!(f, "add rule {T} {chain} {rule}"),
            Self::AddRule { chain, at: At::Before(next), rule } => {
                write!(f, "insert rule {T} {chain} handle {} {rule}", handle(next))
            }
            Self::DeleteRule { chain, rule } => write!(f, "delete rule {T} {chain} handle {}", handle(rule)),
            Self::AddElement(element) => write!(f, "add element {T} {} {{ {element} }}", element.map.name()),
            Self::DeleteElement(map, key) => write!(f, "delete element {T} {} {{ {key} }}", map.name()),
        }
    }
}

impl fmt::Display for NftChange {
    /// On one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, op) in self.ops.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{op}")?;
        }
        Ok(())
    }
}
