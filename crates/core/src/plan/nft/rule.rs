//! Rules, chains and map elements as typed values, and their text in nft's syntax.
//!
//! The text is for plans, logs and golden tests, and what a rule's fingerprint is made of. The kernel gets the
//! same values over netlink, where link names and prefixes are bytes and nothing needs escaping.

use crate::model::LinkName;
use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// Counts up whenever the same statement is encoded differently for the kernel: rules of an older encoding then
/// differ in their fingerprint, and are replaced.
const ENCODING: u32 = 1;

/// Transport protocols whose source ports are translated into a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum L4Proto {
    /// TCP, protocol number 6.
    Tcp,
    /// UDP, protocol number 17.
    Udp,
}

/// One statement of a rule: a match, or the verdict or translation at its end. All matches of a rule must hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stmt {
    /// The link it came in by has this name.
    Iifname(LinkName),
    /// The link it goes out by has this name.
    Oifname(LinkName),
    /// The source address is in this prefix. Implies a match on the address family (`meta nfproto`).
    Saddr(IpNet),
    /// The destination address is in this prefix, or with `negated` is not. Either implies a match on the address family.
    Daddr {
        /// The prefix.
        net: IpNet,
        /// Whether the address must be outside of it.
        negated: bool,
    },
    /// The transport protocol (`meta l4proto`).
    L4proto(L4Proto),
    /// `ct state established,related`
    CtEstablishedRelated,
    /// Look the packet up in a map, by what the map is keyed by, and do what the element says; no element: go on.
    Dispatch(Map),
    /// Let it pass; ends this base chain only, other tables' chains still see the packet.
    Accept,
    /// Back to the calling chain.
    Return,
    /// Drop it and tell the sender: ICMP or ICMPv6 "port unreachable" (`icmpx`), which is iptables' default.
    Reject,
    /// Source address of the link it goes out by.
    Masquerade {
        /// Source ports to use, first and last; needs an [`L4proto`](Stmt::L4proto) match before it.
        ports: Option<(u16, u16)>,
    },
    /// Source address of this range.
    Snat {
        /// First and last address.
        addresses: (Ipv4Addr, Ipv4Addr),
        /// Source ports to use, first and last; needs an [`L4proto`](Stmt::L4proto) match before it.
        ports: Option<(u16, u16)>,
    },
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Matches, then what to do, in order.
    pub stmts: Vec<Stmt>,
}

impl Rule {
    /// A rule of these statements.
    pub fn new(stmts: impl IntoIterator<Item = Stmt>) -> Self {
        Self { stmts: stmts.into_iter().collect() }
    }
}

/// A short hash of the rule's text and of the encoding's version: 16 hexadecimal digits (FNV-1a, 64 bits). It
/// stands in the rule's comment in the kernel, so that what is there can be compared without decoding expressions.
pub fn fingerprint(rule: &Rule) -> String {
    let text = format!("{ENCODING} {rule}");
    let hash =
        text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
}

/// The verdict maps that lead to the networks' chains, so that a packet's cost does not grow with their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Map {
    /// By outgoing link: what comes to a network.
    To,
    /// By incoming link: what leaves a network.
    From,
    /// By IPv4 source prefix: what is translated.
    Nat4,
    /// By IPv6 source prefix: what is translated.
    Nat6,
}

impl Map {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::To, Self::From, Self::Nat4, Self::Nat6];

    /// Its name in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::To => "to",
            Self::From => "from",
            Self::Nat4 => "nat4",
            Self::Nat6 => "nat6",
        }
    }

    /// The map of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.name() == name)
    }

    /// nft's word for the type of its keys.
    pub const fn key_type(self) -> &'static str {
        match self {
            Self::To | Self::From => "ifname",
            Self::Nat4 => "ipv4_addr",
            Self::Nat6 => "ipv6_addr",
        }
    }

    /// Whether its keys are intervals.
    pub const fn is_interval(self) -> bool {
        matches!(self, Self::Nat4 | Self::Nat6)
    }

    /// What of the packet is looked up in it, in nft's words.
    const fn field(self) -> &'static str {
        match self {
            Self::To => "oifname",
            Self::From => "iifname",
            Self::Nat4 => "ip saddr",
            Self::Nat6 => "ip6 saddr",
        }
    }
}

/// The key of a map's element.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// A link name.
    Link(LinkName),
    /// A prefix, host bits zero.
    Net(IpNet),
    /// First and last address of an interval that is no prefix: never ours, but it can be observed, and removed.
    Range(IpAddr, IpAddr),
}

/// One element of a verdict map: `jump` to a chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Element {
    /// In which map.
    pub map: Map,
    /// Its key.
    pub key: Key,
    /// The chain it jumps to.
    pub chain: String,
}

/// Where a base chain hooks into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    /// `type filter hook forward priority filter` (0), policy accept.
    Forward,
    /// `type nat hook postrouting priority srcnat` (100), policy accept.
    Postrouting,
}

/// A chain and its rules, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name; at most 20 bytes here (the kernel's limit `NFT_NAME_MAXLEN` is 256 with the NUL).
    pub name: String,
    /// The hook, for the two base chains.
    pub base: Option<Base>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// The base chains. They only dispatch: to the chain of the network a packet goes to, then to the chain of the one
/// it comes from, as libvirt's LIBVIRT_FWI comes before LIBVIRT_FWO.
pub fn base_chains() -> [Chain; 2] {
    let dispatch = |map| Rule::new([Stmt::Dispatch(map)]);
    [
        Chain {
            name: "forward".into(),
            base: Some(Base::Forward),
            rules: vec![dispatch(Map::To), dispatch(Map::From)],
        },
        Chain {
            name: "postrouting".into(),
            base: Some(Base::Postrouting),
            rules: vec![dispatch(Map::Nat4), dispatch(Map::Nat6)],
        },
    ]
}

/// A link name between quotes; a `*` at its end would be nft's wildcard, so it gets a backslash. nft has no way to
/// write a quote: such a name is printed as it is, for reading only.
pub(super) struct Quoted<'a>(pub(super) &'a LinkName);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_str().strip_suffix('*') {
            Some(stem) => write!(f, "\"{stem}\\*\""),
            None => write!(f, "\"{}\"", self.0),
        }
    }
}

/// A prefix as nft prints it: without the length when it is one address.
struct Prefix<'a>(&'a IpNet);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            write!(f, "{}", self.0.addr())
        } else {
            write!(f, "{}", self.0)
        }
    }
}

const fn family(net: &IpNet) -> &'static str {
    match net {
        IpNet::V4(_) => "ip",
        IpNet::V6(_) => "ip6",
    }
}

fn write_ports(f: &mut fmt::Formatter<'_>, ports: Option<(u16, u16)>) -> fmt::Result {
    match ports {
        Some((first, last)) if first == last => write!(f, ":{first}"),
        Some((first, last)) => write!(f, ":{first}-{last}"),
        None => Ok(()),
    }
}

impl fmt::Display for Stmt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iifname(name) => write!(f, "iifname {}", Quoted(name)),
            Self::Oifname(name) => write!(f, "oifname {}", Quoted(name)),
            Self::Saddr(net) => write!(f, "{} saddr {}", family(net), Prefix(net)),
            Self::Daddr { net, negated } => {
                write!(f, "{} daddr {}{}", family(net), if *negated { "!= " } else { "" }, Prefix(net))
            }
            Self::L4proto(L4Proto::Tcp) => f.write_str("meta l4proto tcp"),
            Self::L4proto(L4Proto::Udp) => f.write_str("meta l4proto udp"),
            Self::CtEstablishedRelated => f.write_str("ct state established,related"),
            Self::Dispatch(map) => write!(f, "{} vmap @{}", map.field(), map.name()),
            Self::Accept => f.write_str("accept"),
            Self::Return => f.write_str("return"),
            Self::Reject => f.write_str("reject with icmpx port-unreachable"),
            Self::Masquerade { ports } => {
                f.write_str("masquerade")?;
                if ports.is_some() {
                    f.write_str(" to ")?;
                }
                write_ports(f, *ports)
            }
            Self::Snat { addresses: (first, last), ports } => {
                write!(f, "snat ip to {first}")?;
                if first != last {
                    write!(f, "-{last}")?;
                }
                write_ports(f, *ports)
            }
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, stmt) in self.stmts.iter().enumerate() {
            if i > 0 {
                f.write_str(" ")?;
            }
            write!(f, "{stmt}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(name) => write!(f, "{}", Quoted(name)),
            Self::Net(net) => write!(f, "{}", Prefix(net)),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

impl fmt::Display for Element {
    /// The inside of the braces: `KEY : jump CHAIN`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} : jump {}", self.key, self.chain)
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "type filter hook forward priority filter; policy accept;",
            Self::Postrouting => "type nat hook postrouting priority srcnat; policy accept;",
        })
    }
}
