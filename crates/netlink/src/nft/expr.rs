//! The expressions that rules are made of.
//!
//! Each loads a value into register 1, compares register 1, or acts. The packet crate has types for six of the kernel's
//! expressions; the others (ct, counter, masq, nat, reject) travel in its raw variant.

use std::net::IpAddr;

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute, Lookup, Meta,
    MetaKey as MetaNumber, Operator as OperatorNumber, Payload, Register, Verdict as VerdictCode, VerdictAttribute,
};

/// One step of a rule; the rule goes on while comparisons are true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Loads a property of the packet.
    Meta(MetaKey),
    /// Loads bytes of the packet: offset and length in bytes, length at most 16.
    Payload {
        /// Where the offset counts from.
        base: PayloadBase,
        /// In bytes.
        offset: u32,
        /// In bytes, at most 16.
        length: u32,
    },
    /// Loads a property of the packet's connection.
    Ct(CtKey),
    /// Keeps the bits of the mask and flips those of the other; both as long as what was loaded.
    Bitwise {
        /// The bits to keep.
        mask: Vec<u8>,
        /// The bits to flip.
        xor: Vec<u8>,
    },
    /// Compares what was loaded, byte by byte.
    Cmp(Operator, Vec<u8>),
    /// Looks up what was loaded in a named set, and goes on when it is there (or, inverted, when it is not).
    InSet {
        /// The set, in the rule's table.
        set: String,
        /// Go on when it is not there.
        invert: bool,
    },
    /// Looks up what was loaded in a named map and carries out the verdict found; goes on when there is none.
    VerdictMap {
        /// The map, in the rule's table.
        map: String,
    },
    /// Counts packets and bytes.
    Counter,
    /// Ends or leaves the rule.
    Verdict(Verdict),
    /// Answers with an error and drops the packet.
    Reject(Reject),
    /// Gives the packet the address of the link that it leaves by.
    Masquerade(Nat),
    /// Gives the packet a source address of a range.
    SourceNat {
        /// The first address.
        first: IpAddr,
        /// The last address, of the same family; the same as the first for a single one.
        last: IpAddr,
        /// Ports and flags.
        nat: Nat,
    },
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes this base chain.
    Accept,
    /// It is gone.
    Drop,
    /// Back to the calling chain; in a base chain, its policy.
    Return,
    /// On to the next rule.
    Continue,
    /// Through another chain, and back.
    Jump(String),
    /// Through another chain, and not back.
    Goto(String),
}

/// A property of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaKey {
    /// Name of the link it came in by, 16 bytes padded with zeros.
    IifName,
    /// Name of the link it goes out by, 16 bytes padded with zeros.
    OifName,
    /// Index of the link it came in by, 4 bytes in the host's order.
    Iif,
    /// Index of the link it goes out by, 4 bytes in the host's order.
    Oif,
    /// 1 byte: 2 IPv4, 10 IPv6.
    NfProto,
    /// 1 byte: IP's protocol number.
    L4Proto,
    /// 2 bytes, big-endian: the Ethernet type.
    Protocol,
    /// 4 bytes in the host's order.
    Mark,
    /// 1 byte: 0 to us, 1 broadcast, 2 multicast, 3 to others.
    PacketType,
    /// In the bridge family: name of the bridge it came in by.
    BridgeIifName,
    /// In the bridge family: name of the bridge it goes out by.
    BridgeOifName,
}

/// A property of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtKey {
    /// 4 bytes in the host's order: bits of [`ct_state`].
    State,
    /// 4 bytes in the host's order; bit 5 after destination NAT, bit 4 after source NAT.
    Status,
    /// 4 bytes in the host's order.
    Mark,
}

/// Bits of a connection's state.
pub mod ct_state {
    /// Belongs to no connection and can't begin one.
    pub const INVALID: u32 = 1;
    /// Belongs to a connection that has seen both directions.
    pub const ESTABLISHED: u32 = 2;
    /// Begins a connection that belongs to another one.
    pub const RELATED: u32 = 4;
    /// Begins a connection.
    pub const NEW: u32 = 8;
    /// Is not tracked.
    pub const UNTRACKED: u32 = 64;
}

/// Where a payload offset counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadBase {
    /// The Ethernet header.
    Link,
    /// The IP or ARP header.
    Network,
    /// The TCP, UDP or ICMP header.
    Transport,
}

/// How bytes are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Less.
    Less,
    /// Less or equal.
    AtMost,
    /// Greater.
    Greater,
    /// Greater or equal.
    AtLeast,
}

/// How a packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// ICMP or ICMPv6 "port unreachable", by the packet's family.
    PortUnreachable,
    /// ICMP or ICMPv6 "administratively prohibited", by the packet's family.
    Prohibited,
    /// ICMP or ICMPv6 "host unreachable", by the packet's family.
    HostUnreachable,
    /// A TCP reset.
    TcpReset,
}

/// Ports and flags of an address translation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    /// First and last source port; the rule must have matched TCP, UDP or the like before.
    pub ports: Option<(u16, u16)>,
    /// Ports are drawn at random.
    pub random: bool,
    /// The same client gets the same address each time.
    pub persistent: bool,
}

const RANDOM: u32 = 4;
const PERSISTENT: u32 = 8;
const REGISTER: Register = Register::Reg1;

impl Expr {
    /// The kernel expressions that this stands for, in order.
    pub(super) fn encode(&self) -> Vec<ListAttribute<ExpressionAttribute>> {
        let mut out = Vec::new();
        match self {
            Expr::Meta(key) => {
                out.push(Expressions::Meta(vec![Meta::Key(key.number()), Meta::DestinationRegister(REGISTER)]));
            }
            Expr::Payload { base, offset, length } => out.push(Expressions::Payload(vec![
                Payload::DestinationRegister(REGISTER),
                Payload::Base(base.number()),
                Payload::Offset(*offset),
                Payload::Len(*length),
            ])),
            Expr::Ct(key) => out.push(raw("ct", &[(1, be(u32::from(REGISTER))), (2, be(key.number()))])),
            Expr::Bitwise { mask, xor } => out.push(Expressions::Bitwise(vec![
                Bitwise::SourceRegister(REGISTER),
                Bitwise::DestinationRegister(REGISTER),
                Bitwise::Length(mask.len() as u32),
                Bitwise::Mask(DataAttribute::Value(mask.clone())),
                Bitwise::Xor(DataAttribute::Value(xor.clone())),
            ])),
            Expr::Cmp(operator, data) => out.push(Expressions::Cmp(vec![
                Cmp::SourceRegister(REGISTER),
                Cmp::Op(operator.number()),
                Cmp::Data(DataAttribute::Value(data.clone())),
            ])),
            Expr::InSet { set, invert } => {
                let mut lookup = vec![Lookup::Set(set.clone()), Lookup::SourceRegister(REGISTER)];
                lookup.extend(invert.then_some(Lookup::Flags(1)));
                out.push(Expressions::Lookup(lookup));
            }
            Expr::VerdictMap { map } => out.push(Expressions::Lookup(vec![
                Lookup::Set(map.clone()),
                Lookup::SourceRegister(REGISTER),
                Lookup::DestinationRegister(Register::Verdict),
            ])),
            Expr::Counter => out.push(raw("counter", &[])),
            Expr::Verdict(verdict) => out.push(Expressions::Immediate(vec![
                Immediate::DestinationRegister(Register::Verdict),
                Immediate::Data(verdict.encode()),
            ])),
            Expr::Reject(reject) => {
                let (kind, code) = reject.numbers();
                out.push(raw("reject", &[(1, be(kind)), (2, vec![code])]));
            }
            Expr::Masquerade(nat) => {
                let mut attributes = Vec::new();
                nat.encode(&mut out, &mut attributes, (1, 2, 3));
                out.push(raw("masq", &attributes));
            }
            Expr::SourceNat { first, last, nat } => {
                load(&mut out, Register::Reg1, &ip_bytes(first));
                let family: u32 = if first.is_ipv4() { 2 } else { 10 };
                let mut attributes = vec![(1, be(0)), (2, be(family)), (3, be(u32::from(Register::Reg1)))];
                if last != first {
                    load(&mut out, Register::Reg2, &ip_bytes(last));
                    attributes.push((4, be(u32::from(Register::Reg2))));
                }
                nat.encode(&mut out, &mut attributes, (7, 5, 6));
                out.push(raw("nat", &attributes));
            }
        }
        out.into_iter().map(ListAttribute::from).collect()
    }
}

impl Nat {
    /// Loads the ports and adds the attributes with these numbers: flags, first port's register, last port's register.
    fn encode(&self, out: &mut Vec<Expressions>, attributes: &mut Vec<(u16, Vec<u8>)>, numbers: (u16, u16, u16)) {
        if let Some((first, last)) = self.ports {
            load(out, Register::Reg3, &first.to_be_bytes());
            attributes.push((numbers.1, be(u32::from(Register::Reg3))));
            // Without a last one the kernel takes the first.
            if last != first {
                load(out, Register::Reg4, &last.to_be_bytes());
                attributes.push((numbers.2, be(u32::from(Register::Reg4))));
            }
        }
        let flags = if self.random { RANDOM } else { 0 } | if self.persistent { PERSISTENT } else { 0 };
        if flags != 0 {
            attributes.push((numbers.0, be(flags)));
        }
    }
}

fn load(out: &mut Vec<Expressions>, register: Register, data: &[u8]) {
    out.push(Expressions::Immediate(vec![
        Immediate::DestinationRegister(register),
        Immediate::Data(DataAttribute::Value(data.to_vec())),
    ]));
}

fn raw(name: &str, attributes: &[(u16, Vec<u8>)]) -> Expressions {
    Expressions::Other {
        expression_type: name.to_owned(),
        attributes: attributes.iter().map(|(kind, value)| DefaultNla::new(*kind, value.clone())).collect(),
    }
}

fn be(value: u32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

/// An address in network order.
pub(super) fn ip_bytes(ip: &IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

impl Verdict {
    /// As data of an immediate expression or of a map's element.
    pub(super) fn encode(&self) -> DataAttribute {
        let (code, chain) = match self {
            Verdict::Drop => (VerdictCode::Other(0), None),
            Verdict::Accept => (VerdictCode::Other(1), None),
            Verdict::Return => (VerdictCode::Return, None),
            Verdict::Continue => (VerdictCode::Continue, None),
            Verdict::Jump(chain) => (VerdictCode::Jump, Some(chain)),
            Verdict::Goto(chain) => (VerdictCode::Goto, Some(chain)),
        };
        let mut attributes = vec![VerdictAttribute::Code(code)];
        attributes.extend(chain.map(|chain| VerdictAttribute::Chain(chain.clone())));
        DataAttribute::Verdict(attributes)
    }

    /// From the attributes inside `NFTA_DATA_VERDICT`; `None` for a code that has no name here.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        const CODE: u16 = 1;
        const CHAIN: u16 = 2;
        let find = |kind| crate::attr::Attrs::find(bytes, kind);
        let chain = || find(CHAIN).map(|attr| attr.text());
        match find(CODE)?.be32()?.cast_signed() {
            0 => Some(Verdict::Drop),
            1 => Some(Verdict::Accept),
            -1 => Some(Verdict::Continue),
            -3 => Some(Verdict::Jump(chain()?)),
            -4 => Some(Verdict::Goto(chain()?)),
            -5 => Some(Verdict::Return),
            _ => None,
        }
    }
}

impl MetaKey {
    fn number(self) -> MetaNumber {
        match self {
            MetaKey::IifName => MetaNumber::Iifname,
            MetaKey::OifName => MetaNumber::Oifname,
            MetaKey::Iif => MetaNumber::Iif,
            MetaKey::Oif => MetaNumber::Oif,
            MetaKey::NfProto => MetaNumber::Nfproto,
            MetaKey::L4Proto => MetaNumber::L4Proto,
            MetaKey::Protocol => MetaNumber::EtherTypeProtocol,
            MetaKey::Mark => MetaNumber::Mark,
            MetaKey::PacketType => MetaNumber::PacketType,
            MetaKey::BridgeIifName => MetaNumber::BriIifname,
            MetaKey::BridgeOifName => MetaNumber::BriOifname,
        }
    }
}

impl CtKey {
    fn number(self) -> u32 {
        match self {
            CtKey::State => 0,
            CtKey::Status => 2,
            CtKey::Mark => 3,
        }
    }
}

impl PayloadBase {
    fn number(self) -> u32 {
        match self {
            PayloadBase::Link => 0,
            PayloadBase::Network => 1,
            PayloadBase::Transport => 2,
        }
    }
}

impl Operator {
    fn number(self) -> OperatorNumber {
        match self {
            Operator::Equal => OperatorNumber::Equal,
            Operator::NotEqual => OperatorNumber::NotEqual,
            Operator::Less => OperatorNumber::LessThan,
            Operator::AtMost => OperatorNumber::LessThanEqual,
            Operator::Greater => OperatorNumber::GreaterThan,
            Operator::AtLeast => OperatorNumber::GreatherThanEqual,
        }
    }
}

impl Reject {
    /// Type and code (kernel: `NFT_REJECT_*`, `NFT_REJECT_ICMPX_*`).
    fn numbers(self) -> (u32, u8) {
        match self {
            Reject::PortUnreachable => (2, 1),
            Reject::HostUnreachable => (2, 2),
            Reject::Prohibited => (2, 3),
            Reject::TcpReset => (1, 0),
        }
    }
}
