//! Reads tables, chains and rules, ours and others'.

use super::batch::{Hook, Policy};
use super::expr::Verdict;
use super::matches::{self, Loaded, Match};
use super::{Family, HEADER};
use crate::attr::{Attr, Attrs};

const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// What it sees.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// Its handle, unique for the namespace's life.
    pub handle: u64,
    /// The comment in its user data.
    pub comment: Option<String>,
    /// Exists but is switched off (`dormant`).
    pub dormant: bool,
    /// How many chains, sets and the like are in it.
    pub objects: u32,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its table's family.
    pub family: Family,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Its handle, unique in its table.
    pub handle: u64,
    /// Of a base chain: where it sits.
    pub base: Option<BaseHook>,
    /// How many rules are in it and jumps to it are there.
    pub references: u32,
}

/// Where a base chain sits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseHook {
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// The hook; `None` for one without a name here.
    pub hook: Option<Hook>,
    /// Lower runs first.
    pub priority: i32,
    /// At its end.
    pub policy: Policy,
    /// Of hooks ingress and egress: the links.
    pub devices: Vec<String>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its table's family.
    pub family: Family,
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// Its handle, unique in its table.
    pub handle: u64,
    /// The comment in its user data.
    pub comment: Option<String>,
    /// Its user data as it is.
    pub user_data: Vec<u8>,
    /// The kernel's names of its expressions, in order, such as `meta`, `cmp`, `counter`, `immediate`.
    pub expressions: Vec<String>,
    /// What it compares, as far as it is about links and sources.
    pub matches: Vec<Match>,
    /// The verdict at its end, if it has one.
    pub verdict: Option<Verdict>,
}

/// The state of the whole ruleset of a namespace; another number means that somebody changed it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// Counts up with every transaction.
    pub number: u32,
    /// The thread that made the last change (a process's first thread has the process's number); 0 when not told.
    pub pid: u32,
    /// That thread's name, at most 15 bytes.
    pub process: String,
}

fn family(payload: &[u8]) -> Option<Family> {
    Family::from_number(*payload.first()?)
}

/// The comment in nft's user data: a series of type, length, value.
fn comment(data: &[u8]) -> Option<String> {
    let mut rest = data;
    while let [kind, length, tail @ ..] = rest {
        let value = tail.get(..usize::from(*length))?;
        if *kind == 0 {
            return Some(Attr { kind: 0, value }.text());
        }
        rest = &tail[usize::from(*length)..];
    }
    None
}

/// Reads the payload of an `NFT_MSG_NEWTABLE`.
pub(super) fn table(payload: &[u8]) -> Option<Table> {
    let mut table =
        Table { family: family(payload)?, name: String::new(), handle: 0, comment: None, dormant: false, objects: 0 };
    for attr in Attrs::after(payload, HEADER) {
        match attr.kind {
            1 => table.name = attr.text(),
            2 => table.dormant = attr.be32().unwrap_or(0) & 1 != 0,
            3 => table.objects = attr.be32().unwrap_or(0),
            4 => table.handle = attr.be64().unwrap_or(0),
            6 => table.comment = comment(attr.value),
            _ => {}
        }
    }
    Some(table)
}

/// Reads the payload of an `NFT_MSG_NEWCHAIN`.
pub(super) fn chain(payload: &[u8]) -> Option<Chain> {
    let family = family(payload)?;
    let mut chain = Chain { family, table: String::new(), name: String::new(), handle: 0, base: None, references: 0 };
    let (mut kind, mut policy) = (String::new(), Policy::Accept);
    for attr in Attrs::after(payload, HEADER) {
        match attr.kind {
            1 => chain.table = attr.text(),
            2 => chain.handle = attr.be64().unwrap_or(0),
            3 => chain.name = attr.text(),
            4 => chain.base = Some(hook(attr.value, family)),
            5 if attr.be32() == Some(0) => policy = Policy::Drop,
            6 => chain.references = attr.be32().unwrap_or(0),
            7 => kind = attr.text(),
            _ => {}
        }
    }
    if let Some(base) = &mut chain.base {
        base.kind = kind;
        base.policy = policy;
    }
    Some(chain)
}

fn hook(bytes: &[u8], family: Family) -> BaseHook {
    let mut base =
        BaseHook { kind: String::new(), hook: None, priority: 0, policy: Policy::Accept, devices: Vec::new() };
    for attr in Attrs::new(bytes) {
        match attr.kind {
            1 => base.hook = attr.be32().and_then(|number| Hook::from_number(number, family)),
            2 => base.priority = attr.be32().unwrap_or(0).cast_signed(),
            3 => base.devices = vec![attr.text()],
            4 => base.devices = attr.nested().map(|device| device.text()).collect(),
            _ => {}
        }
    }
    base
}

/// Reads the payload of an `NFT_MSG_NEWRULE`.
pub(super) fn rule(payload: &[u8]) -> Option<Rule> {
    let mut rule = Rule {
        family: family(payload)?,
        table: String::new(),
        chain: String::new(),
        handle: 0,
        comment: None,
        user_data: Vec::new(),
        expressions: Vec::new(),
        matches: Vec::new(),
        verdict: None,
    };
    for attr in Attrs::after(payload, HEADER) {
        match attr.kind {
            1 => rule.table = attr.text(),
            2 => rule.chain = attr.text(),
            3 => rule.handle = attr.be64().unwrap_or(0),
            4 => {
                let mut loaded = Loaded::Other;
                for expression in attr.nested() {
                    let name = Attrs::find(expression.value, EXPR_NAME).map(|name| name.text());
                    let data = Attrs::find(expression.value, EXPR_DATA);
                    if let (Some(name), Some(data)) = (&name, &data) {
                        rule.matches.extend(matches::read(rule.family, name, data.value, &mut loaded));
                    }
                    rule.verdict = data
                        .filter(|_| name.as_deref() == Some("immediate"))
                        .and_then(|data| immediate_verdict(data.value));
                    rule.expressions.push(name.unwrap_or_default());
                }
            }
            7 => {
                rule.comment = comment(attr.value);
                rule.user_data = attr.value.to_vec();
            }
            _ => {}
        }
    }
    Some(rule)
}

fn immediate_verdict(immediate: &[u8]) -> Option<Verdict> {
    const IMMEDIATE_DATA: u16 = 2;
    const DATA_VERDICT: u16 = 2;
    let data = Attrs::find(immediate, IMMEDIATE_DATA)?;
    Verdict::read(Attrs::find(data.value, DATA_VERDICT)?.value)
}

/// Reads the payload of an `NFT_MSG_NEWGEN`.
pub(super) fn generation(payload: &[u8]) -> Option<Generation> {
    let mut generation = Generation::default();
    let mut found = false;
    for attr in Attrs::after(payload, HEADER) {
        match attr.kind {
            1 => {
                generation.number = attr.be32()?;
                found = true;
            }
            2 => generation.pid = attr.be32().unwrap_or(0),
            3 => generation.process = attr.text(),
            _ => {}
        }
    }
    found.then_some(generation)
}
