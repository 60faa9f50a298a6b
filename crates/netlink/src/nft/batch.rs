//! Transactions: messages that take effect together or not at all.

use netlink_packet_core::NetlinkSerializable;
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook as HookAttribute, HookNumber, NfTablesMessage, RuleAttribute, RuleMessage,
    SetAttribute, SetElementList, SetElementMessage, SetFlags, SetMessage, TableAttribute, TableMessage,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};

use super::Family;
use super::rule::Body;
use super::set::{Element, KeyKind};
use crate::channel::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL};

/// The longest comment that `nft` itself accepts, in bytes.
const COMMENT_MAX: usize = 128;
/// The data type of verdict maps (kernel: `NFT_DATA_VERDICT`).
const DATA_VERDICT: u32 = 0xffff_ff00;

/// Where a base chain's hook sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Before routing or bridging is decided.
    Prerouting,
    /// To this host.
    Input,
    /// Through this host or bridge.
    Forward,
    /// From this host.
    Output,
    /// After routing or bridging is decided.
    Postrouting,
    /// At a device, inbound; families netdev and inet.
    Ingress,
    /// At a device, outbound; family netdev.
    Egress,
}

impl Hook {
    /// The hooks of a family in the order of the kernel's numbers.
    fn of(family: Family) -> &'static [Hook] {
        match family {
            Family::Netdev => &[Hook::Ingress, Hook::Egress],
            Family::Arp => &[Hook::Input, Hook::Output, Hook::Forward],
            _ => &[Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting, Hook::Ingress],
        }
    }

    /// The kernel's number; for a hook that the family does not have, one that the kernel refuses.
    fn number(self, family: Family) -> u32 {
        Hook::of(family).iter().position(|hook| *hook == self).map_or(u32::MAX, |at| at as u32)
    }

    pub(super) fn from_number(number: u32, family: Family) -> Option<Self> {
        Hook::of(family).get(number as usize).copied()
    }
}

/// Common priorities of base chains; lower runs first (kernel: `NF_IP_PRI_*`, `NF_BR_PRI_*`).
pub mod priority {
    /// Before connection tracking.
    pub const RAW: i32 = -300;
    /// Packet mangling.
    pub const MANGLE: i32 = -150;
    /// Destination translation in prerouting.
    pub const DSTNAT: i32 = -100;
    /// Filtering.
    pub const FILTER: i32 = 0;
    /// Source translation in postrouting.
    pub const SRCNAT: i32 = 100;
    /// Filtering on bridges.
    pub const BRIDGE_FILTER: i32 = -200;
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// Filter packets.
    Filter,
    /// Translate addresses; sees the first packet of a connection only.
    Nat,
    /// Have changed packets routed anew.
    Route,
}

/// What happens to a packet that reaches the end of a base chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// It passes.
    #[default]
    Accept,
    /// It is dropped.
    Drop,
}

/// What makes a chain a base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// What it may do.
    pub kind: ChainKind,
    /// Where it sits.
    pub hook: Hook,
    /// Its place among the chains of that hook, see [`priority`].
    pub priority: i32,
    /// At its end.
    pub policy: Policy,
    /// Of hooks ingress and egress: the link.
    pub device: Option<String>,
}

/// A chain to be added; one that is there already, the same, is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewChain<'a> {
    /// Its table's family.
    pub family: Family,
    /// Its table.
    pub table: &'a str,
    /// Its name.
    pub name: &'a str,
    /// `None`: a regular chain, reached by jumps only.
    pub base: Option<BaseChain>,
}

/// Where in its chain a new rule goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// At the end.
    #[default]
    Last,
    /// At the beginning.
    First,
    /// Behind the rule with this handle.
    After(u64),
    /// In front of the rule with this handle.
    Before(u64),
}

/// A rule to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRule<'a> {
    /// Its table's family.
    pub family: Family,
    /// Its table.
    pub table: &'a str,
    /// Its chain.
    pub chain: &'a str,
    /// Where in the chain.
    pub place: Place,
    /// What it does.
    pub body: &'a Body,
    /// At most 128 bytes; `nft list` shows it.
    pub comment: Option<&'a str>,
}

/// A named set or verdict map to be added; one that is there already, the same, is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSet<'a> {
    /// Its table's family.
    pub family: Family,
    /// Its table.
    pub table: &'a str,
    /// Its name.
    pub name: &'a str,
    /// What its keys are.
    pub key: KeyKind,
    /// Its keys may be ranges.
    pub interval: bool,
    /// A map from keys to verdicts instead of a set.
    pub verdicts: bool,
}

/// One message of a batch.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) body: Vec<u8>,
    pub(super) object: String,
}

/// A transaction being written. Every method adds one message and returns its position, by which
/// [`Committed`](super::Committed) and errors refer to it.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub(super) messages: Vec<Message>,
    pub(super) generation: Option<u32>,
    /// The first message that cannot be sent as it was asked for, and why.
    pub(super) fault: Option<(usize, &'static str)>,
}

impl Batch {
    /// An empty transaction.
    pub fn new() -> Self {
        Batch::default()
    }

    /// An empty transaction that the kernel refuses with ERESTART unless the ruleset is still of this generation.
    pub fn for_generation(generation: u32) -> Self {
        Batch { generation: Some(generation), ..Batch::default() }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// How many messages are in it.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    fn push(&mut self, family: Family, flags: u16, message: NfTablesMessage, object: String) -> usize {
        let header = NetfilterHeader::new(NetfilterProtoFamily::from(family.number()), 0, 0);
        let message = NetfilterMessage::new(header, message);
        let mut body = vec![0; NetlinkSerializable::buffer_len(&message)];
        message.serialize(&mut body);
        self.messages.push(Message { kind: message.message_type(), flags, body, object });
        self.messages.len() - 1
    }

    /// nft's user data with a comment: type 0, length, text with a NUL. Tables, chains and rules use the same numbers.
    fn comment(&mut self, comment: Option<&str>) -> Option<Vec<u8>> {
        let text = comment?;
        if text.len() > COMMENT_MAX && self.fault.is_none() {
            self.fault = Some((self.messages.len(), "its comment is longer than 128 bytes"));
        }
        let text = text.as_bytes().get(..COMMENT_MAX).unwrap_or(text.as_bytes());
        let mut data = vec![0, text.len() as u8 + 1];
        data.extend_from_slice(text);
        data.push(0);
        Some(data)
    }

    /// Adds a table; one that is there already is no error and keeps its comment.
    pub fn add_table(&mut self, family: Family, name: &str, comment: Option<&str>) -> usize {
        let mut attributes = vec![TableAttribute::Name(name.to_owned())];
        attributes.extend(self.comment(comment).map(TableAttribute::UserData));
        let message = NfTablesMessage::NewTable(TableMessage { attributes });
        self.push(family, NLM_F_CREATE, message, format!("table {family} {name}"))
    }

    /// Deletes a table and all that is in it.
    pub fn delete_table(&mut self, family: Family, name: &str) -> usize {
        let attributes = vec![TableAttribute::Name(name.to_owned())];
        let message = NfTablesMessage::DeleteTable(TableMessage { attributes });
        self.push(family, 0, message, format!("deleting table {family} {name}"))
    }

    /// Adds a chain.
    pub fn add_chain(&mut self, chain: &NewChain<'_>) -> usize {
        let mut attributes =
            vec![ChainAttribute::Table(chain.table.to_owned()), ChainAttribute::Name(chain.name.to_owned())];
        if let Some(base) = &chain.base {
            let mut hook = vec![
                HookAttribute::Number(HookNumber::Other(base.hook.number(chain.family))),
                HookAttribute::Priority(base.priority.cast_unsigned()),
            ];
            hook.extend(base.device.clone().map(HookAttribute::NetDeviceName));
            let kind = match base.kind {
                ChainKind::Filter => "filter",
                ChainKind::Nat => "nat",
                ChainKind::Route => "route",
            };
            attributes.push(ChainAttribute::Hook(hook));
            attributes.push(ChainAttribute::Policy(u32::from(base.policy == Policy::Accept)));
            attributes.push(ChainAttribute::Type(kind.to_owned()));
        }
        let object = format!("chain {} {} {}", chain.family, chain.table, chain.name);
        self.push(chain.family, NLM_F_CREATE, NfTablesMessage::NewChain(ChainMessage { attributes }), object)
    }

    /// Deletes a chain, which must be empty and not jumped to when the transaction ends.
    pub fn delete_chain(&mut self, family: Family, table: &str, name: &str) -> usize {
        let attributes = vec![ChainAttribute::Table(table.to_owned()), ChainAttribute::Name(name.to_owned())];
        let message = NfTablesMessage::DeleteChain(ChainMessage { attributes });
        self.push(family, 0, message, format!("deleting chain {family} {table} {name}"))
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, family: Family, table: &str, chain: &str) -> usize {
        let attributes = vec![RuleAttribute::Table(table.to_owned()), RuleAttribute::Chain(chain.to_owned())];
        let message = NfTablesMessage::DeleteRule(RuleMessage { attributes });
        self.push(family, 0, message, format!("flushing chain {family} {table} {chain}"))
    }

    /// Adds a rule; its handle comes back with the commit.
    pub fn add_rule(&mut self, rule: &NewRule<'_>) -> usize {
        let mut attributes = vec![
            RuleAttribute::Table(rule.table.to_owned()),
            RuleAttribute::Chain(rule.chain.to_owned()),
            RuleAttribute::Expressions(rule.body.expressions().iter().flat_map(|expr| expr.encode()).collect()),
        ];
        let mut flags = NLM_F_CREATE | NLM_F_ECHO;
        match rule.place {
            Place::Last => flags |= NLM_F_APPEND,
            Place::First => {}
            Place::After(handle) => {
                flags |= NLM_F_APPEND;
                attributes.push(RuleAttribute::Position(handle));
            }
            Place::Before(handle) => attributes.push(RuleAttribute::Position(handle)),
        }
        attributes.extend(self.comment(rule.comment).map(RuleAttribute::UserData));
        let comment = rule.comment.map(|text| format!(" \"{text}\"")).unwrap_or_default();
        let object = format!("rule{comment} of chain {} {} {}", rule.family, rule.table, rule.chain);
        self.push(rule.family, flags, NfTablesMessage::NewRule(RuleMessage { attributes }), object)
    }

    /// Deletes the rule with this handle.
    pub fn delete_rule(&mut self, family: Family, table: &str, chain: &str, handle: u64) -> usize {
        let attributes = vec![
            RuleAttribute::Table(table.to_owned()),
            RuleAttribute::Chain(chain.to_owned()),
            RuleAttribute::Handle(handle),
        ];
        let message = NfTablesMessage::DeleteRule(RuleMessage { attributes });
        self.push(family, 0, message, format!("deleting rule {handle} of chain {family} {table} {chain}"))
    }

    /// Adds a named set or verdict map.
    pub fn add_set(&mut self, set: &NewSet<'_>) -> usize {
        let (key_type, key_length) = set.key.numbers();
        let mut flags = SetFlags::empty();
        flags.set(SetFlags::Interval, set.interval);
        flags.set(SetFlags::Map, set.verdicts);
        // The kernel wants an id of each set in a transaction; the position is one.
        let id = self.messages.len() as u32 + 1;
        let mut attributes = vec![
            SetAttribute::Table(set.table.to_owned()),
            SetAttribute::Name(set.name.to_owned()),
            SetAttribute::Flags(flags),
            SetAttribute::KeyType(key_type),
            SetAttribute::KeyLen(key_length),
            SetAttribute::Id(id),
            SetAttribute::UserData(set.key.user_data()),
        ];
        if set.verdicts {
            attributes.push(SetAttribute::DataType(DATA_VERDICT));
            attributes.push(SetAttribute::DataLen(0));
        }
        let what = if set.verdicts { "map" } else { "set" };
        let object = format!("{what} {} {} {}", set.family, set.table, set.name);
        self.push(set.family, NLM_F_CREATE, NfTablesMessage::NewSet(SetMessage { attributes }), object)
    }

    /// Deletes a set or map, which no rule may refer to when the transaction ends.
    pub fn delete_set(&mut self, family: Family, table: &str, name: &str) -> usize {
        let attributes = vec![SetAttribute::Table(table.to_owned()), SetAttribute::Name(name.to_owned())];
        let message = NfTablesMessage::DeleteSet(SetMessage { attributes });
        self.push(family, 0, message, format!("deleting set {family} {table} {name}"))
    }

    /// Adds elements to a set or map. One that is there already, the same, is no error; with another verdict it is.
    pub fn add_elements(&mut self, set: &NewSet<'_>, elements: &[Element]) -> usize {
        let message = NfTablesMessage::NewSetElement(element_message(set, elements));
        let object = format!("elements of {} {} {}", set.family, set.table, set.name);
        self.push(set.family, NLM_F_CREATE, message, object)
    }

    /// Adds elements to a set or map, none of which may be there already.
    pub fn add_new_elements(&mut self, set: &NewSet<'_>, elements: &[Element]) -> usize {
        let message = NfTablesMessage::NewSetElement(element_message(set, elements));
        let object = format!("new elements of {} {} {}", set.family, set.table, set.name);
        self.push(set.family, NLM_F_CREATE | NLM_F_EXCL, message, object)
    }

    /// Deletes elements of a set or map, which must be there.
    pub fn delete_elements(&mut self, set: &NewSet<'_>, elements: &[Element]) -> usize {
        let message = NfTablesMessage::DeleteSetElement(element_message(set, elements));
        let object = format!("deleting elements of {} {} {}", set.family, set.table, set.name);
        self.push(set.family, 0, message, object)
    }

    /// Deletes all elements of a set or map.
    pub fn flush_set(&mut self, family: Family, table: &str, name: &str) -> usize {
        let attributes = vec![SetElementList::Table(table.to_owned()), SetElementList::Set(name.to_owned())];
        let message = NfTablesMessage::DeleteSetElement(SetElementMessage { attributes });
        self.push(family, 0, message, format!("flushing set {family} {table} {name}"))
    }
}

fn element_message(set: &NewSet<'_>, elements: &[Element]) -> SetElementMessage {
    let elements = elements.iter().flat_map(|element| element.encode(set.interval)).collect();
    let attributes = vec![
        SetElementList::Table(set.table.to_owned()),
        SetElementList::Set(set.name.to_owned()),
        SetElementList::Elements(elements),
    ];
    SetElementMessage { attributes }
}
