//! What can be done to the host: operations, ordered into plans, each with what takes it back.

use super::mark::Mark;
use super::nft;
use super::observed::{BridgeState, Index, PortFlags, Route, Sysctl};
use super::rates::{self, Class, Classes, IfbSpec, Police};
use super::vlan::PortVlans;
use crate::model::{DirectMode, LinkName, MacAddr};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::fmt;

/// A link, by index, or as what an earlier step of the same plan makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkRef {
    /// One that is there.
    Index(Index),
    /// The one that step makes (numbered from 0).
    MadeBy(usize),
}

impl From<Index> for LinkRef {
    fn from(index: Index) -> Self {
        Self::Index(index)
    }
}

/// How a tap is handed to whoever runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handover {
    /// By descriptor: it lives as long as someone holds one of them.
    Descriptor,
    /// By name: it persists, and that user may open it; root when there is none.
    Name {
        /// Who may open it (`TUNSETOWNER`).
        uid: Option<u32>,
    },
}

/// A tap to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapSpec {
    /// Its name.
    pub name: LinkName,
    /// Its mark.
    pub mark: Mark,
    /// Its own address, which is not the guest's; the kernel draws one when `None`.
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Queues, 1 to 256.
    pub queues: u16,
    /// How it is handed over.
    pub handover: Handover,
}

/// A macvlan to be made: the far end of a cord.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MacvlanSpec {
    /// Its name.
    pub name: LinkName,
    /// Its mark.
    pub mark: Mark,
    /// The device it sits on.
    pub lower: Index,
    /// How it exchanges frames with its siblings.
    pub mode: DirectMode,
    /// Its address, which is the guest's. In passthrough mode the device takes it on until the macvlan goes.
    pub mac: MacAddr,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// A macvtap to be made: a tap and the macvlan that its frames leave by, in one link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MacvtapSpec {
    /// The link. Its mark is that of a tap.
    pub link: MacvlanSpec,
    /// Queues, 1 to 256.
    pub queues: u16,
    /// How it is handed over. It outlives its descriptors in either case.
    pub handover: Handover,
}

/// A bridge to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeSpec {
    /// Its name.
    pub name: LinkName,
    /// Its mark.
    pub mark: Mark,
    /// Its address.
    pub mac: MacAddr,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its settings.
    pub settings: BridgeState,
    /// Whether it keeps VLANs apart.
    pub vlan_filtering: bool,
}

/// What to change about a link, in one message; `None` leaves as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// Administratively up or down.
    pub up: Option<bool>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Address.
    pub mac: Option<MacAddr>,
    /// The bridge it is to be a port of, or none.
    pub controller: Option<Option<LinkRef>>,
    /// Whether it receives all multicast frames.
    pub all_multicast: Option<bool>,
}

/// One action on the host. Names kernel objects, never commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Makes a bridge, down, with our mark, and without IPv6 addresses of the kernel's own choosing.
    MakeBridge(BridgeSpec),
    /// Makes a tap, down, with our mark, never taking part in IPv6 itself.
    MakeTap(TapSpec),
    /// Makes a macvlan, down, with our mark, receiving all multicast frames and never taking part in IPv6 itself.
    MakeMacvlan(MacvlanSpec),
    /// Makes a macvtap, likewise, and hands it over.
    MakeMacvtap(MacvtapSpec),
    /// Changes a macvlan's or macvtap's mode in place, which the kernel does between all modes but passthrough.
    SetMode(LinkRef, DirectMode),
    /// Hands what comes in at a link of ours to another, in place of what it was handed to.
    Redirect(LinkRef, LinkRef),
    /// Hands on no longer what comes in at a link of ours.
    EndRedirect(LinkRef),
    /// Makes an ifb, down, with our mark, never taking part in IPv6 itself.
    MakeIfb(IfbSpec),
    /// Has what leaves a link wait in these classes, in place of whatever is at its root.
    AddHtb(LinkRef, Classes),
    /// Has nothing wait any more; what waits now is lost.
    EndHtb(LinkRef),
    /// Adds a class, or changes it in place.
    SetClass(LinkRef, u16, Class),
    /// Takes a class away.
    EndClass(LinkRef, u16),
    /// Limits what comes in at a link, or changes the limit in place.
    Police(LinkRef, Police),
    /// Limits it no longer.
    EndPolice(LinkRef),
    /// Leaves what limits a link of others to them: it stays, and nothing says that it was ours.
    LeaveLimits(LinkRef, Classes, Option<Police>),
    /// Deletes a link of ours at once, which takes the kernel 15 to 30 ms: for what can't be there beside the next step.
    Delete(Index),
    /// Changes a link.
    SetLink(LinkRef, LinkChange),
    /// Changes a bridge's settings.
    SetBridge(LinkRef, BridgeState),
    /// Changes a bridge port's flags.
    SetPort(LinkRef, PortFlags),
    /// Has a bridge keep VLANs apart, or no longer.
    SetFiltering(LinkRef, bool),
    /// Puts a bridge port, or a bridge itself, into these VLANs and no others.
    SetVlans {
        /// The port, or the bridge.
        link: LinkRef,
        /// Whether it is a bridge.
        own: bool,
        /// The VLANs.
        vlans: PortVlans,
    },
    /// Has a bridge port of others' carry VLANs, with a tag, and others no longer; all else that it is in stays.
    Carry {
        /// The port.
        port: Index,
        /// VLANs that it carries from now on.
        add: BTreeSet<u16>,
        /// VLANs that it carries no longer.
        end: BTreeSet<u16>,
    },
    /// Takes a link of ours out of use at once: no controller, down, another name, in the doomed group.
    /// It is deleted soon after, with the others in that group.
    Doom(Index),
    /// Makes a bridge that is there a network's, without making it ours: it gets the mark, and leaves our link group.
    Claim(Index, Mark),
    /// Takes that mark away.
    Release(Index),
    /// Gives a link an address.
    AddAddress(LinkRef, IpNet),
    /// Takes an address from a link.
    RemoveAddress(LinkRef, IpNet),
    /// Adds a route.
    AddRoute(LinkRef, RouteSpec),
    /// Removes a route.
    RemoveRoute(LinkRef, RouteSpec),
    /// Adds or removes a static entry of a bridge's forwarding table.
    SetForwarding {
        /// The bridge port.
        port: LinkRef,
        /// The address behind it.
        mac: MacAddr,
        /// Whether the entry is to be there.
        present: bool,
    },
    /// Changes our packet rules, in one transaction.
    Nft(nft::NftChange),
    /// Writes a setting.
    SetSysctl(Sysctl, String),
    /// Tells the neighbourhood where a guest's address is now.
    Announce(LinkRef, MacAddr),
}

/// A route without its link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteSpec {
    /// Where to.
    pub to: IpNet,
    /// By which gateway.
    pub via: Option<std::net::IpAddr>,
    /// Priority; 0 is unset.
    pub metric: u32,
}

impl From<&Route> for RouteSpec {
    fn from(route: &Route) -> Self {
        Self { to: route.to, via: route.via, metric: route.metric }
    }
}

/// An action, what takes it back, and why it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What to do.
    pub op: Op,
    /// What takes it back. Making a link needs none: a link made by a failed plan is doomed.
    pub undo: Option<Op>,
    /// Why, for people.
    pub why: &'static str,
}

/// An ordered list of steps. When one fails, the undos of those before it run in reverse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Appends a step, and says which link it makes.
    pub fn push(&mut self, op: Op, undo: Option<Op>, why: &'static str) -> LinkRef {
        self.steps.push(Step { op, undo, why });
        LinkRef::MadeBy(self.steps.len() - 1)
    }
}

/// How far a plan got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// For each step that was done and not undone, the index of the link it made.
    pub made: Vec<Option<Index>>,
    /// Why it stopped, if it did; then nothing of it is left, save for what `left` says.
    pub failed: Option<StepFailure>,
}

/// A step that the host refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepFailure {
    /// Its number.
    pub step: usize,
    /// What the kernel said, as a phrase: the error's name and, where given, the kernel's own words.
    pub cause: String,
    /// `errno`, where there was one.
    pub errno: Option<i32>,
    /// What couldn't be taken back, as phrases.
    pub left: Vec<String>,
}

impl fmt::Display for Op {
    /// One line a person reads, in iproute2's words where there are such.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MakeBridge(b) => write!(
                f,
                "ip link add {} type bridge address {} mtu {} stp_state {} forward_delay {}",
                b.name,
                b.mac,
                b.mtu,
                u8::from(b.settings.stp),
                b.settings.delay
            )
            .and_then(|()| if b.vlan_filtering { write!(f, " vlan_filtering 1") } else { Ok(()) }),
            Self::MakeTap(t) => {
                write!(f, "ip tuntap add {} mode tap vnet_hdr", t.name)?;
                if t.queues > 1 {
                    write!(f, " multi_queue # {} queues", t.queues)?;
                }
                match t.handover {
                    Handover::Descriptor => write!(f, " # by descriptor"),
                    Handover::Name { uid: Some(uid) } => write!(f, " user {uid}"),
                    Handover::Name { uid: None } => Ok(()),
                }
            }
            Self::MakeMacvlan(m) => write!(
                f,
                "ip link add {} link {} address {} mtu {} type macvlan mode {}",
                m.name,
                LinkRef::Index(m.lower),
                m.mac,
                m.mtu,
                kernel_mode(m.mode)
            ),
            Self::MakeMacvtap(MacvtapSpec { link: m, queues, handover }) => {
                let lower = LinkRef::Index(m.lower);
                let mode = kernel_mode(m.mode);
                write!(
                    f,
                    "ip link add {} link {lower} address {} mtu {} type macvtap mode {mode}",
                    m.name, m.mac, m.mtu
                )?;
                match handover {
                    Handover::Descriptor => write!(f, " # {queues} queues by descriptor"),
                    Handover::Name { uid: Some(uid) } => write!(f, " # for user {uid}"),
                    Handover::Name { uid: None } => Ok(()),
                }
            }
            Self::SetMode(link, mode) => write!(f, "ip link set {link} type macvlan mode {}", kernel_mode(*mode)),
            Self::Redirect(link, to) => write!(
                f,
                "tc filter replace dev {link} ingress protocol all u32 match u32 0 0 \
                 action mirred egress redirect dev {to}"
            ),
            Self::EndRedirect(link) => write!(f, "tc filter del dev {link} ingress"),
            Self::MakeIfb(spec) => write!(f, "ip link add {} type ifb", spec.name),
            Self::AddHtb(link, classes) => {
                write!(f, "tc qdisc add dev {link} root htb default {:x}", rates::class_of_the_rest(classes))?;
                classes.iter().try_for_each(|(number, class)| write!(f, "; class {number:x} {class}"))
            }
            Self::EndHtb(link) => write!(f, "tc qdisc del dev {link} root"),
            Self::SetClass(link, number, class) => write!(f, "tc class replace dev {link} classid {number:x} {class}"),
            Self::EndClass(link, number) => write!(f, "tc class del dev {link} classid {number:x}"),
            Self::Police(link, Police { rate, burst }) => {
                write!(f, "tc filter replace dev {link} ingress u32 match u32 0 0 police rate {rate}bps burst {burst}")
            }
            Self::EndPolice(link) => write!(f, "tc filter del dev {link} ingress police"),
            Self::LeaveLimits(link, ..) => write!(f, "tc qdisc replace dev {link} root handle 1: htb"),
            Self::Delete(index) => write!(f, "ip link del {}", LinkRef::Index(*index)),
            Self::SetLink(link, c) => {
                write!(f, "ip link set {link}")?;
                if let Some(all) = c.all_multicast {
                    write!(f, " allmulticast {}", on(all))?;
                }
                if let Some(mtu) = c.mtu {
                    write!(f, " mtu {mtu}")?;
                }
                if let Some(mac) = c.mac {
                    write!(f, " address {mac}")?;
                }
                match c.controller {
                    Some(Some(controller)) => write!(f, " master {controller}")?,
                    Some(None) => write!(f, " nomaster")?,
                    None => {}
                }
                match c.up {
                    Some(true) => write!(f, " up"),
                    Some(false) => write!(f, " down"),
                    None => Ok(()),
                }
            }
            Self::SetBridge(link, b) => {
                write!(f, "ip link set {link} type bridge stp_state {} forward_delay {}", u8::from(b.stp), b.delay)
            }
            Self::SetPort(link, p) => write!(
                f,
                "bridge link set dev {link} isolated {} learning {} flood {}",
                on(p.isolated),
                on(p.learning),
                on(p.flood)
            ),
            Self::SetFiltering(link, on) => {
                write!(f, "ip link set {link} type bridge vlan_filtering {}", u8::from(*on))
            }
            Self::SetVlans { link, own, vlans } => {
                let own = if *own { " self" } else { "" };
                if vlans.ranges().is_empty() {
                    write!(f, "bridge vlan del dev {link}{own} # all")
                } else {
                    write!(f, "bridge vlan add dev {link}{own} {vlans} # and no others")
                }
            }
            Self::Carry { port, add, end } => {
                let port = LinkRef::Index(*port);
                let steps = [("add", add), ("del", end)].into_iter().filter(|(_, vids)| !vids.is_empty());
                for (n, (verb, vids)) in steps.enumerate() {
                    let vids = PortVlans { tagged: vids.clone(), ..PortVlans::default() };
                    write!(f, "{}bridge vlan {verb} dev {port} {vids}", if n > 0 { "; " } else { "" })?;
                }
                Ok(())
            }
            Self::Doom(index) => write!(f, "ip link del {}", LinkRef::Index(*index)),
            Self::Claim(index, mark) => write!(f, "ip link set {} group 0 alias {mark}", LinkRef::Index(*index)),
            Self::Release(index) => write!(f, "ip link set {} alias ''", LinkRef::Index(*index)),
            Self::AddAddress(link, a) => write!(f, "ip addr add {a} dev {link}"),
            Self::RemoveAddress(link, a) => write!(f, "ip addr del {a} dev {link}"),
            Self::AddRoute(link, r) => write!(f, "ip route add {r} dev {link}"),
            Self::RemoveRoute(link, r) => write!(f, "ip route del {r} dev {link}"),
            Self::SetForwarding { port, mac, present } => {
                write!(f, "bridge fdb {} {mac} dev {port} master static", if *present { "replace" } else { "del" })
            }
            Self::Nft(change) => write!(f, "nft: {change}"),
            Self::SetSysctl(key, value) => write!(f, "sysctl {}={value}", key.name()),
            Self::Announce(link, mac) => write!(f, "announce {mac} on {link}"),
        }
    }
}

/// The kernel writes `passthru`.
const fn kernel_mode(mode: DirectMode) -> &'static str {
    match mode {
        DirectMode::Passthrough => "passthru",
        other => other.as_str(),
    }
}

fn on(flag: bool) -> &'static str {
    if flag { "on" } else { "off" }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rates::Limit { rate, ceil, burst, cburst } = self.limit;
        if let Some(parent) = self.parent {
            write!(f, "parent {parent:x} ")?;
        }
        write!(f, "rate {rate}bps ceil {ceil}bps burst {burst} cburst {cburst}")?;
        self.destination.map_or(Ok(()), |mac| write!(f, " for {mac}"))
    }
}

impl fmt::Display for LinkRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(Index(i)) => write!(f, "if{i}"),
            Self::MadeBy(step) => write!(f, "(made by step {step})"),
        }
    }
}

impl fmt::Display for RouteSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        Ok(())
    }
}
