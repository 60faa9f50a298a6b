//! Our packet rules over netlink: changes become transactions, and the kernel's table is read back.
//!
//! A rule carries its fingerprint as comment, and the table carries the installation's id, so what is there can be
//! compared without decoding expressions.

use std::net::IpAddr;

use ipnet::IpNet;
use patchcord_core::model::LinkName;
use patchcord_core::plan::nft::{
    At, Base, Element, Key, L4Proto, Map, NftChange, NftOp, ObservedTable, Rule, RuleRef, Stmt, TABLE, fingerprint,
};
use patchcord_netlink::Error;
use patchcord_netlink::nft::{
    self, BaseChain, Batch, Body, ChainKind, Expr, Family, Hook, KeyKind, Nat, NewChain, NewRule, NewSet, Operator,
    PayloadBase, Place, Policy, Reject, Socket, Verdict, ct_state, priority,
};

const FAMILY: Family = Family::Inet;

/// Protocol numbers of the Internet (IANA).
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Commits a change, whose rules all have handles, and takes it on in `table`, with the handles of new rules.
///
/// # Errors
/// The kernel's refusal: then nothing of it was done.
pub fn commit(socket: &mut Socket, change: &NftChange, table: &mut ObservedTable) -> Result<(), Error> {
    let mut batch = Batch::new();
    let positions: Vec<usize> = change.ops.iter().map(|op| add(&mut batch, op)).collect();
    let committed = socket.commit(&batch)?;
    table.apply(change);
    for (op, position) in change.ops.iter().zip(positions) {
        let NftOp::AddRule { chain, rule, .. } = op else { continue };
        let print = fingerprint(rule);
        let rules = table.chains.get_mut(chain).map(|chain| &mut chain.rules);
        let new = rules.and_then(|rules| rules.iter_mut().find(|r| r.handle.is_none() && r.fingerprint == print));
        if let Some(new) = new {
            new.handle = committed.rule_handle(position);
        }
    }
    Ok(())
}

/// Reads our table; the default when there is none.
///
/// # Errors
/// The socket's.
pub fn read(socket: &mut Socket) -> Result<ObservedTable, Error> {
    let mut table = ObservedTable::default();
    let Some(ours) = socket.tables()?.into_iter().find(|t| t.family == FAMILY && t.name == TABLE) else {
        return Ok(table);
    };
    table.comment = Some(ours.comment.unwrap_or_default());
    for chain in socket.chains()?.into_iter().filter(|c| c.family == FAMILY && c.table == TABLE) {
        table.chains.entry(chain.name).or_default().base = chain.base.as_ref().and_then(base_of);
    }
    for rule in socket.rules(FAMILY, TABLE, None)? {
        let rule_ref = RuleRef { handle: Some(rule.handle), fingerprint: rule.comment.unwrap_or_default() };
        table.chains.entry(rule.chain).or_default().rules.push(rule_ref);
    }
    for map in socket.set_names(FAMILY, TABLE)?.iter().filter_map(|name| Map::by_name(name)) {
        table.maps.insert(map);
        for element in socket.elements(FAMILY, TABLE, map.name(), key_kind(map))? {
            let chain = match element.verdict {
                Some(Verdict::Jump(chain)) => chain,
                _ => String::new(),
            };
            if let Some(key) = core_key(&element.key) {
                table.set_element(Element { map, key, chain });
            }
        }
    }
    Ok(table)
}

/// Whether two tables are the same; a rule without a handle stands for any with its fingerprint.
pub(crate) fn same(a: &ObservedTable, b: &ObservedTable) -> bool {
    let same_rule = |x: &RuleRef, y: &RuleRef| {
        x.fingerprint == y.fingerprint && (x.handle == y.handle || x.handle.is_none() || y.handle.is_none())
    };
    a.comment == b.comment
        && a.maps == b.maps
        && a.chains.len() == b.chains.len()
        && a.chains.iter().zip(&b.chains).all(|((name, x), (other, y))| {
            name == other
                && x.base == y.base
                && x.rules.len() == y.rules.len()
                && x.rules.iter().zip(&y.rules).all(|(x, y)| same_rule(x, y))
        })
        && a.elements().eq(b.elements())
}

/// Adds one operation to a transaction and gives its position.
fn add(batch: &mut Batch, op: &NftOp) -> usize {
    match op {
        NftOp::AddTable { comment } => batch.add_table(FAMILY, TABLE, Some(comment)),
        NftOp::DeleteTable => batch.delete_table(FAMILY, TABLE),
        NftOp::AddMap(map) => batch.add_set(&new_set(*map)),
        NftOp::AddChain { name, base } => {
            batch.add_chain(&NewChain { family: FAMILY, table: TABLE, name, base: base.map(base_chain) })
        }
        NftOp::FlushChain(name) => batch.flush_chain(FAMILY, TABLE, name),
        NftOp::DeleteChain(name) => batch.delete_chain(FAMILY, TABLE, name),
        NftOp::AddRule { chain, at, rule } => batch.add_rule(&NewRule {
            family: FAMILY,
            table: TABLE,
            chain,
            place: match at {
                At::Before(RuleRef { handle: Some(handle), .. }) => Place::Before(*handle),
                At::Before(RuleRef { handle: None, .. }) | At::End => Place::Last,
            },
            body: &body(rule),
            comment: Some(&fingerprint(rule)),
        }),
        // Handle 0 is no rule's: the kernel says that there is none.
        NftOp::DeleteRule { chain, rule } => batch.delete_rule(FAMILY, TABLE, chain, rule.handle.unwrap_or_default()),
        NftOp::AddElement(element) => {
            let verdict = Some(Verdict::Jump(element.chain.clone()));
            batch.add_elements(&new_set(element.map), &[nft::Element { key: kernel_key(&element.key), verdict }])
        }
        NftOp::DeleteElement(map, key) => {
            batch.delete_elements(&new_set(*map), &[nft::Element { key: kernel_key(key), verdict: None }])
        }
    }
}

fn new_set(map: Map) -> NewSet<'static> {
    NewSet {
        family: FAMILY,
        table: TABLE,
        name: map.name(),
        key: key_kind(map),
        interval: map.is_interval(),
        verdicts: true,
    }
}

fn key_kind(map: Map) -> KeyKind {
    match map {
        Map::To | Map::From => KeyKind::IfName,
        Map::Nat4 => KeyKind::Ipv4,
        Map::Nat6 => KeyKind::Ipv6,
    }
}

fn kernel_key(key: &Key) -> nft::Key {
    match key {
        Key::Link(name) => nft::Key::IfName(name.as_str().to_owned()),
        Key::Net(net) => nft::Key::prefix(net.addr(), net.prefix_len()),
        Key::Range(first, last) => nft::Key::Range(*first, *last),
    }
}

/// `None` for a key that no map of ours can have.
fn core_key(key: &nft::Key) -> Option<Key> {
    match key {
        nft::Key::IfName(name) => LinkName::new(name.as_str()).ok().map(Key::Link),
        nft::Key::Address(address) => Some(Key::Net(IpNet::from(*address))),
        nft::Key::Range(first, last) => Some(prefix(*first, *last).map_or(Key::Range(*first, *last), Key::Net)),
        nft::Key::Mac(_) => None,
    }
}

/// The prefix that has these first and last addresses, if one has.
fn prefix(first: IpAddr, last: IpAddr) -> Option<IpNet> {
    let (length, differing) = match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (32, 32 - (a.to_bits() ^ b.to_bits()).leading_zeros()),
        (IpAddr::V6(a), IpAddr::V6(b)) => (128, 128 - (a.to_bits() ^ b.to_bits()).leading_zeros()),
        _ => return None,
    };
    let net = IpNet::new(first, u8::try_from(length - differing).ok()?).ok()?;
    (net.network() == first && net.broadcast() == last).then_some(net)
}

fn base_chain(base: Base) -> BaseChain {
    let (kind, hook, priority) = match base {
        Base::Forward => (ChainKind::Filter, Hook::Forward, priority::FILTER),
        Base::Postrouting => (ChainKind::Nat, Hook::Postrouting, priority::SRCNAT),
    };
    BaseChain { kind, hook, priority, policy: Policy::Accept, device: None }
}

/// Which of our two base chains sits there; `None` for any other place.
fn base_of(hook: &nft::BaseHook) -> Option<Base> {
    let place = (hook.kind.as_str(), hook.hook?, hook.priority, hook.policy);
    match place {
        ("filter", Hook::Forward, priority::FILTER, Policy::Accept) => Some(Base::Forward),
        ("nat", Hook::Postrouting, priority::SRCNAT, Policy::Accept) => Some(Base::Postrouting),
        _ => None,
    }
}

/// A rule's expressions, as `nft` would write them.
fn body(rule: &Rule) -> Body {
    let mut rule_body = RuleBody { body: Body::new(FAMILY), version: None };
    for stmt in &rule.stmts {
        rule_body.write(stmt);
    }
    rule_body.body
}

/// A rule being written.
struct RuleBody {
    body: Body,
    /// Which version of IP it is known to be about: IPv6 or not.
    version: Option<bool>,
}

impl RuleBody {
    fn write(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Iifname(name) => self.with(|body| body.iif_name(name.as_str())),
            Stmt::Oifname(name) => self.with(|body| body.oif_name(name.as_str())),
            Stmt::Saddr(net) => self.address(*net, true, Operator::Equal),
            Stmt::Daddr { net, negated: false } => self.address(*net, false, Operator::Equal),
            Stmt::Daddr { net, negated: true } => self.address(*net, false, Operator::NotEqual),
            Stmt::L4proto(L4Proto::Tcp) => self.with(|body| body.l4proto(TCP)),
            Stmt::L4proto(L4Proto::Udp) => self.with(|body| body.l4proto(UDP)),
            Stmt::CtEstablishedRelated => {
                self.with(|body| body.ct_state(ct_state::ESTABLISHED | ct_state::RELATED));
            }
            Stmt::Dispatch(map) => self.with(|body| {
                let loaded = match map {
                    Map::To => body.load_oif_name(),
                    Map::From => body.load_iif_name(),
                    Map::Nat4 => body.load_source(false),
                    Map::Nat6 => body.load_source(true),
                };
                loaded.verdict_map(map.name())
            }),
            Stmt::Accept => self.with(Body::accept),
            Stmt::Return => self.with(Body::return_),
            Stmt::Reject => self.with(|body| body.reject(Reject::PortUnreachable)),
            Stmt::Masquerade { ports } => self.with(|body| body.masquerade(nat(*ports))),
            Stmt::Snat { addresses: (first, last), ports } => {
                self.version(false);
                let (first, last) = (IpAddr::from(*first), IpAddr::from(*last));
                self.with(|body| body.expr(Expr::SourceNat { first, last, nat: nat(*ports) }));
            }
        }
    }

    fn with(&mut self, write: impl FnOnce(Body) -> Body) {
        let body = std::mem::replace(&mut self.body, Body::new(FAMILY));
        self.body = write(body);
    }

    /// Checks the version of IP, unless an earlier statement did.
    fn version(&mut self, v6: bool) {
        if self.version != Some(v6) {
            self.version = Some(v6);
            self.with(|body| body.ip_version(v6));
        }
    }

    /// Compares the source or destination address with a prefix.
    fn address(&mut self, net: IpNet, source: bool, operator: Operator) {
        let (bytes, mask, offset) = match net.trunc() {
            IpNet::V4(net) => {
                let offset = if source { 12 } else { 16 };
                (net.addr().octets().to_vec(), net.netmask().octets().to_vec(), offset)
            }
            IpNet::V6(net) => {
                let offset = if source { 8 } else { 24 };
                (net.addr().octets().to_vec(), net.netmask().octets().to_vec(), offset)
            }
        };
        self.version(matches!(net, IpNet::V6(_)));
        let load = Expr::Payload { base: PayloadBase::Network, offset, length: bytes.len() as u32 };
        self.with(|body| body.expr(load));
        if net.prefix_len() < net.max_prefix_len() {
            let xor = vec![0; mask.len()];
            self.with(|body| body.expr(Expr::Bitwise { mask, xor }));
        }
        self.with(|body| body.expr(Expr::Cmp(operator, bytes)));
    }
}

fn nat(ports: Option<(u16, u16)>) -> Nat {
    Nat { ports, ..Nat::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_that_are_prefixes_are_read_as_prefixes() {
        let net = |text: &str| Some(text.parse::<IpNet>().unwrap());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (first, last, expected) in [
            ("192.168.122.0", "192.168.122.255", net("192.168.122.0/24")),
            ("10.0.0.7", "10.0.0.7", net("10.0.0.7/32")),
            ("0.0.0.0", "255.255.255.255", net("0.0.0.0/0")),
            ("fd00::", "fd00::ffff:ffff:ffff:ffff", net("fd00::/64")),
            ("10.0.0.1", "10.0.0.2", None),
            ("10.0.0.0", "10.0.0.2", None),
            ("10.0.0.128", "10.0.1.127", None),
        ] {
            assert_eq!(prefix(ip(first), ip(last)), expected, "{first}-{last}");
        }
    }
}
