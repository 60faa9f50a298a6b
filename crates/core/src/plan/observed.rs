//! What is: the host as last read, and how it changes.

use super::dnsmasq::Lease;
use super::function::Functions;
use super::mark::{GROUP_DOOMED, GROUP_LIVE, Mark, MarkKind};
use super::nft::{ObservedTable, foreign::Firewalls};
use super::ovs::{OvsKnown, OvsState};
use super::rates::{Shape, ShapingSupport};
use super::vlan::{PortVlans, VlanState};
use crate::model::interface::{BondMode, BondMonitor, OperState};
use crate::model::{DirectMode, MacAddr};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use uuid::Uuid;

/// A kernel link's index (`ifindex`), never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Index(pub u32);

/// What kind a link is, as far as it matters here (`IFLA_INFO_KIND`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// `bridge`
    Bridge,
    /// `tun`: a tap.
    Tap,
    /// `macvlan`
    Macvlan,
    /// `macvtap`
    Macvtap,
    /// Anything else, with the kernel's word; empty for physical devices.
    Other(String),
}

/// A bridge's own settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgeState {
    /// Spanning tree.
    pub stp: bool,
    /// Forwarding delay in hundredths of a second.
    pub delay: u32,
}

/// A bond's own settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BondState {
    /// How it spreads frames.
    pub mode: Option<BondMode>,
    /// How it looks after its ports.
    pub monitor: Option<BondMonitor>,
    /// The port that it prefers.
    pub primary: Option<Index>,
}

/// A bridge port's flags, with the kernel's words (`IFLA_BRPORT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortFlags {
    /// Can't reach other isolated ports.
    pub isolated: bool,
    /// Learns addresses.
    pub learning: bool,
    /// Gets frames to unknown unicast addresses.
    pub flood: bool,
}

impl PortFlags {
    /// What the kernel gives a new port.
    pub const NEW: Self = Self { isolated: false, learning: true, flood: true };
}

/// A link as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: Index,
    /// Its name, up to 15 bytes; what is not UTF-8 is replaced.
    pub name: String,
    /// Its kind.
    pub kind: LinkKind,
    /// Its address.
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Administratively up. What is about to be deleted counts as down: a macvlan may be left up till then.
    pub up: bool,
    /// The bridge or bond it is in.
    pub controller: Option<Index>,
    /// The link below, which a macvlan, macvtap or VLAN sits on.
    pub lower: Option<Index>,
    /// A macvlan's or macvtap's mode, until it is about to be deleted.
    pub mode: Option<DirectMode>,
    /// Receives all multicast frames.
    pub all_multicast: bool,
    /// Whether it has a carrier, so that frames can leave by it. Ours always have, to us.
    pub carrier: bool,
    /// What the kernel says that it does; of NICs' links of ours, and of what is about to be deleted, nothing is noted. Nothing that is planned depends on it.
    pub state: OperState,
    /// Our mark, if it carries one.
    pub mark: Option<Mark>,
    /// Its link group.
    pub group: u32,
    /// A bridge's settings.
    pub bridge: Option<BridgeState>,
    /// A bond's settings.
    pub bond: Option<Box<BondState>>,
    /// As a VLAN of the link below: its number, 0 to 4094.
    pub tag: Option<u16>,
    /// Its flags as a bridge port.
    pub port: Option<PortFlags>,
    /// As a bridge: how it treats VLANs.
    pub vlan: VlanState,
}

impl Link {
    /// Whether it is about to be deleted, and so counts as gone.
    pub const fn is_doomed(&self) -> bool {
        self.group == GROUP_DOOMED
    }

    /// Whether it is a network's bridge that others made, see [`adopt`](super::adopt).
    pub const fn is_claimed(&self) -> bool {
        matches!(self.kind, LinkKind::Bridge) && self.mark.is_some() && self.group != GROUP_LIVE && !self.is_doomed()
    }

    /// Whether there is no difference to another but in what the link does by itself.
    pub fn is_but_for_state(&self, other: &Self) -> bool {
        self.state != other.state && Self { state: other.state, ..self.clone() } == *other
    }

    /// Whether it sits on another link as a macvlan does.
    pub const fn is_macvlan(&self) -> bool {
        matches!(self.kind, LinkKind::Macvlan | LinkKind::Macvtap)
    }

    /// How [`Observed::links_marked`] finds it.
    fn as_marked(&self) -> Option<(MarkKind, Uuid, Index)> {
        self.mark.filter(|_| !self.is_doomed()).map(|mark| (mark.kind, mark.id, self.index))
    }

    /// How [`Observed::foreign_taps`] finds it.
    fn as_foreign_tap(&self) -> Option<(MacAddr, Index)> {
        let foreign = matches!(self.kind, LinkKind::Tap | LinkKind::Macvtap) && self.mark.is_none();
        self.mac.filter(|_| foreign).map(|mac| (mac, self.index))
    }

    /// How [`Observed::macvlans_on`] finds it.
    fn as_upper(&self) -> Option<(Index, Index)> {
        self.lower.filter(|_| self.is_macvlan()).map(|lower| (lower, self.index))
    }
}

/// Has something found by another key than before, or none.
fn rekey<K: Ord>(keys: &mut BTreeSet<K>, before: Option<K>, now: Option<K>) {
    if before != now {
        if let Some(before) = before {
            keys.remove(&before);
        }
        keys.extend(now);
    }
}

/// A route of the main table, whoever made it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Where to; a length of 0 is a default route.
    pub to: IpNet,
    /// By which gateway.
    pub via: Option<IpAddr>,
    /// Out of which link.
    pub link: Index,
    /// Priority; lower wins, 0 is unset.
    pub metric: u32,
    /// Who made it (`rtm_protocol`).
    pub protocol: u8,
}

/// A kernel setting that we may change and put back.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sysctl {
    /// `net.ipv4.ip_forward`
    Ipv4Forward,
    /// `net.ipv6.conf.all.forwarding`
    Ipv6Forward,
    /// `net.ipv6.conf.LINK.accept_ra`: 2 keeps a host's own router advertisements working while it forwards.
    AcceptRa(String),
    /// `net.ipv6.conf.LINK.disable_ipv6`
    DisableIpv6(String),
    /// `net.ipv6.conf.LINK.autoconf`
    Autoconf(String),
}

impl Sysctl {
    /// The path below `/proc/sys`, as components, since a link's name may have dots in it.
    pub fn path(&self) -> Vec<&str> {
        match self {
            Self::Ipv4Forward => vec!["net", "ipv4", "ip_forward"],
            Self::Ipv6Forward => vec!["net", "ipv6", "conf", "all", "forwarding"],
            Self::AcceptRa(link) => vec!["net", "ipv6", "conf", link, "accept_ra"],
            Self::DisableIpv6(link) => vec!["net", "ipv6", "conf", link, "disable_ipv6"],
            Self::Autoconf(link) => vec!["net", "ipv6", "conf", link, "autoconf"],
        }
    }

    /// The link that the setting is of, if it is of one: it goes with it.
    pub fn link(&self) -> Option<&str> {
        match self {
            Self::Ipv4Forward | Self::Ipv6Forward => None,
            Self::AcceptRa(link) | Self::DisableIpv6(link) | Self::Autoconf(link) => Some(link),
        }
    }

    /// The dotted name, for people.
    pub fn name(&self) -> String {
        self.path().join(".")
    }
}

/// A network's dnsmasq as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its process.
    pub pid: u32,
    /// The files it was started with or told to read again, by name: what a new configuration is compared with.
    pub files: BTreeMap<String, String>,
}

/// The host as last read. Keyed for look-up by what the planner asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    links: BTreeMap<Index, Link>,
    by_name: HashMap<String, Index>,
    by_mark: BTreeSet<(MarkKind, Uuid, Index)>,
    /// Taps and macvtaps that others made, by address.
    foreign_taps: BTreeSet<(MacAddr, Index)>,
    /// Each link with macvlans or macvtaps on it, and those.
    uppers: BTreeSet<(Index, Index)>,
    addresses: BTreeMap<Index, BTreeSet<IpNet>>,
    routes: BTreeSet<Route>,
    ports: HashMap<Index, usize>,
    /// Of bridges that filter VLANs, and of their ports: the VLANs they are in, where those are not the bridge's default.
    vlans: BTreeMap<Index, PortVlans>,
    /// Static entries that we wrote into bridges' forwarding tables: the port and the address behind it.
    pub forwarding: BTreeSet<(Index, MacAddr)>,
    /// Links that hand what comes in at them to another link for us, and that one; none when it is gone.
    pub redirects: BTreeMap<Index, Option<Index>>,
    /// What of ours limits links, and whether others limit taps of theirs; none is empty.
    pub shapes: BTreeMap<Index, Shape>,
    /// What the kernel can do about rates, once it was tried.
    pub shaping: Option<ShapingSupport>,
    /// Our packet rules.
    pub nft: ObservedTable,
    /// Settings that were read. What is missing was never read.
    pub sysctls: BTreeMap<Sysctl, String>,
    /// Each network's dnsmasq.
    pub services: BTreeMap<Uuid, Service>,
    /// Each network's leases.
    pub leases: BTreeMap<Uuid, Vec<Lease>>,
    /// The host's own name servers, in order.
    pub resolvers: Vec<IpAddr>,
    /// Other people's firewalls.
    pub firewalls: Firewalls,
    /// The firewalld zone that each network's bridge was put into.
    pub zones: BTreeMap<Uuid, Zone>,
    /// Ports of Open vSwitch bridges that we made, by NIC.
    pub ovs: BTreeMap<Uuid, OvsKnown>,
    /// Virtual functions of the host's devices.
    pub functions: Functions,
    /// Programs to call when networks and NICs come, change and go: absolute paths, in order.
    pub hooks: Vec<String>,
}

/// What firewalld was told about a network's bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// The bridge.
    pub bridge: String,
    /// The zone it is in.
    pub zone: String,
    /// firewalld's table at that time, see [`Firewalls::firewalld`].
    pub table: Option<u64>,
}

impl Observed {
    /// The link of that index.
    pub fn link(&self, index: Index) -> Option<&Link> {
        self.links.get(&index)
    }

    /// The link of that name.
    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.get(self.by_name.get(name)?)
    }

    /// The living link that carries that mark; the newest where there are several.
    pub fn link_marked(&self, kind: MarkKind, id: Uuid) -> Option<&Link> {
        self.links_marked(kind, id).next_back()
    }

    /// All living links that carry that mark: more than one while a NIC moves from one device to another.
    pub fn links_marked(&self, kind: MarkKind, id: Uuid) -> impl DoubleEndedIterator<Item = &Link> {
        let marked = self.by_mark.range((kind, id, Index(0))..=(kind, id, Index(u32::MAX)));
        marked.filter_map(|(.., index)| self.links.get(index))
    }

    /// The macvlans and macvtaps on a link, whoever made them, those included that are about to be deleted.
    pub fn macvlans_on(&self, lower: Index) -> impl Iterator<Item = &Link> {
        let on = self.uppers.range((lower, Index(0))..=(lower, Index(u32::MAX)));
        on.filter_map(|(_, upper)| self.links.get(upper))
    }

    /// The taps and macvtaps with that address that others made.
    pub fn foreign_taps(&self, mac: MacAddr) -> impl Iterator<Item = &Link> {
        let taps = self.foreign_taps.range((mac, Index(0))..=(mac, Index(u32::MAX)));
        taps.filter_map(|(_, index)| self.links.get(index))
    }

    /// Taps of others that limits of ours, or ways elsewhere, are at. Each detach asks for them: with many cords on a host
    /// those are few who are others', and with many of others' those that are limited. The fewer are gone through.
    pub fn limited_foreign_taps(&self) -> Vec<&Link> {
        let limited = |index: &Index| self.shapes.contains_key(index) || self.redirects.contains_key(index);
        let tap = |link: &&Link| link.kind == LinkKind::Tap && link.mark.is_none();
        if self.foreign_taps.len() < self.shapes.len() + self.redirects.len() {
            let indexes = self.foreign_taps.iter().map(|(_, index)| index).filter(|index| limited(index));
            return indexes.filter_map(|index| self.link(*index)).filter(tap).collect();
        }
        let redirected = self.redirects.keys().filter(|index| !self.shapes.contains_key(index));
        self.shapes.keys().chain(redirected).filter_map(|index| self.link(*index)).filter(tap).collect()
    }

    /// All links.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// How many ports a bridge has.
    pub fn ports(&self, bridge: Index) -> usize {
        self.ports.get(&bridge).copied().unwrap_or(0)
    }

    /// The ports of a bridge. Looks at all links.
    pub fn ports_of(&self, bridge: Index) -> impl Iterator<Item = &Link> {
        self.links.values().filter(move |l| l.controller == Some(bridge))
    }

    /// The VLANs of a bridge port, or of a bridge itself, where they are not what the bridge gives a new port.
    pub fn vlans(&self, index: Index) -> Option<&PortVlans> {
        self.vlans.get(&index)
    }

    /// The VLANs of a bridge port, or of a bridge itself.
    pub fn vlans_of(&self, link: &Link) -> PortVlans {
        let default = || PortVlans::access(self.bridge_of(link).map_or(0, |bridge| bridge.vlan.default_pvid));
        self.vlans.get(&link.index).cloned().unwrap_or_else(default)
    }

    /// The bridge whose VLANs a link is in: its controller, or a bridge itself.
    pub fn bridge_of<'a>(&'a self, link: &'a Link) -> Option<&'a Link> {
        let bridge = if link.kind == LinkKind::Bridge { Some(link) } else { self.link(link.controller?) };
        bridge.filter(|bridge| bridge.kind == LinkKind::Bridge)
    }

    /// The VLANs of a port or bridge were read, or set. Those of a bridge that does not filter are forgotten again, as
    /// they mean nothing.
    pub fn set_vlans(&mut self, index: Index, vlans: PortVlans) {
        let bridge = self.link(index).and_then(|link| self.bridge_of(link)).filter(|bridge| bridge.vlan.filtering);
        match bridge.map(|bridge| bridge.vlan.default_pvid) {
            Some(default) if !vlans.is_access(default) => self.vlans.insert(index, vlans),
            _ => self.vlans.remove(&index),
        };
    }

    /// The addresses of a link.
    pub fn addresses(&self, index: Index) -> impl Iterator<Item = IpNet> + '_ {
        self.addresses.get(&index).into_iter().flatten().copied()
    }

    /// The addresses of all links.
    pub fn all_addresses(&self) -> impl Iterator<Item = (Index, IpNet)> + '_ {
        self.addresses.iter().flat_map(|(index, all)| all.iter().map(|address| (*index, *address)))
    }

    /// All routes of the main table.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }

    /// A link was read, or is gone.
    pub fn set_link(&mut self, index: Index, link: Option<Link>) {
        let old = match link {
            Some(link) => self.links.insert(index, link),
            None => self.links.remove(&index),
        };
        let (was, is) = (old.as_ref(), self.links.get(&index));
        rekey(&mut self.by_mark, was.and_then(Link::as_marked), is.and_then(Link::as_marked));
        rekey(&mut self.foreign_taps, was.and_then(Link::as_foreign_tap), is.and_then(Link::as_foreign_tap));
        rekey(&mut self.uppers, was.and_then(Link::as_upper), is.and_then(Link::as_upper));
        if let Some(old) = was.filter(|old| is.is_none_or(|is| is.name != old.name)) {
            if self.by_name.get(&old.name) == Some(&index) {
                self.by_name.remove(&old.name);
            }
            for of_link in [Sysctl::AcceptRa, Sysctl::DisableIpv6, Sysctl::Autoconf] {
                self.sysctls.remove(&of_link(old.name.clone()));
            }
        }
        if let Some(link) = is.filter(|is| self.by_name.get(&is.name) != Some(&index)) {
            self.by_name.insert(link.name.clone(), index);
        }
        let (left, joined) = (was.and_then(|was| was.controller), is.and_then(|is| is.controller));
        if left != joined {
            if let Some(ports) = left.and_then(|left| self.ports.get_mut(&left)) {
                *ports = ports.saturating_sub(1);
            }
            if let Some(joined) = joined {
                *self.ports.entry(joined).or_default() += 1;
            }
        }
        let gone = is.is_none();
        if let Some(old) = old {
            self.forget_vlans(&old);
            if gone {
                self.forget_redirects(index, old.mark);
            }
        }
        if gone {
            self.addresses.remove(&index);
            self.ports.remove(&index);
            self.shapes.remove(&index);
            self.routes.retain(|r| r.link != index);
            self.forget_forwarding(index);
        }
    }

    /// What a link hands on goes with the link, and what is handed to it leads nowhere: both ends belong to one NIC or
    /// network. A port's tap carries no mark that says so.
    fn forget_redirects(&mut self, index: Index, mark: Option<Mark>) {
        self.redirects.remove(&index);
        let Some(mark) = mark else { return };
        if mark.kind == MarkKind::Ifb {
            self.redirects.values_mut().filter(|to| **to == Some(index)).for_each(|to| *to = None);
            return;
        }
        for kind in [MarkKind::Tap, MarkKind::Macvlan, MarkKind::Bridge] {
            let ends: Vec<Index> = self.links_marked(kind, mark.id).map(|l| l.index).collect();
            for end in ends {
                if let Some(to) = self.redirects.get_mut(&end).filter(|to| **to == Some(index)) {
                    *to = None;
                }
            }
        }
    }

    /// A port's VLANs go when it leaves its bridge. Those of a bridge's ports mean something else once it filters no
    /// longer, or has another default.
    fn forget_vlans(&mut self, old: &Link) {
        let new = self.links.get(&old.index);
        if new.is_none_or(|new| new.controller != old.controller) {
            self.vlans.remove(&old.index);
        }
        if old.vlan.filtering && new.is_none_or(|new| new.vlan != old.vlan) {
            let links = &self.links;
            let in_it = |port: &Index| links.get(port).is_some_and(|l| l.controller == Some(old.index));
            self.vlans.retain(|port, _| *port != old.index && !in_it(port));
        }
    }

    /// A port's static entries go when it leaves its bridge.
    pub(super) fn forget_forwarding(&mut self, port: Index) {
        let entries = (port, MacAddr([0; 6]))..=(port, MacAddr([0xff; 6]));
        let gone: Vec<_> = self.forwarding.range(entries).copied().collect();
        for entry in gone {
            self.forwarding.remove(&entry);
        }
    }

    /// The addresses of a link were read.
    pub fn set_addresses(&mut self, index: Index, addresses: BTreeSet<IpNet>) {
        if addresses.is_empty() {
            self.addresses.remove(&index);
        } else {
            self.addresses.insert(index, addresses);
        }
    }

    /// The main table was read.
    pub fn set_routes(&mut self, routes: BTreeSet<Route>) {
        self.routes = routes;
    }

    /// Mutable access for `super::absorb`, which knows what our own operations did.
    pub(super) fn routes_mut(&mut self) -> &mut BTreeSet<Route> {
        &mut self.routes
    }

    /// See [`Self::routes_mut`].
    pub(super) fn addresses_mut(&mut self, index: Index) -> &mut BTreeSet<IpNet> {
        self.addresses.entry(index).or_default()
    }
}

/// One thing that is different from before, read after the fact: never a guess from an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A link was read again; `None` when it is gone.
    Link(Index, Option<Link>),
    /// A link's addresses were read again.
    Addresses(Index, BTreeSet<IpNet>),
    /// What a link of ours hands what comes in at it to was read again; `None` when it hands on nothing.
    Redirect(Index, Option<Option<Index>>),
    /// The VLANs of a bridge port, or of a bridge itself, were read again.
    Vlans(Index, PortVlans),
    /// What limits a link of ours was read again.
    Shape(Index, Shape),
    /// What the kernel can do about rates was tried.
    Shaping(ShapingSupport),
    /// The main routing table was read again.
    Routes(BTreeSet<Route>),
    /// Our table was read again; who changed it last, when known.
    Nft(ObservedTable, Option<String>),
    /// A setting was read again; `None` when it is gone.
    Sysctl(Sysctl, Option<String>),
    /// A network's dnsmasq was looked at; `None` when it is gone.
    Service(Uuid, Option<Service>),
    /// A network's leases were read again.
    Leases(Uuid, Vec<Lease>),
    /// The host's name servers were read again.
    Resolvers(Vec<IpAddr>),
    /// Other people's firewalls are different.
    Firewalls(Firewalls),
    /// Virtual functions came or went, or have other links.
    Functions(Functions),
    /// Other hooks are installed than before.
    Hooks(Vec<String>),
    /// A NIC's port on a bridge of Open vSwitch was read; `None` when it is gone.
    OvsPort(Uuid, Option<Box<OvsState>>),
    /// All ports of Open vSwitch bridges that we made were read.
    OvsPorts(BTreeMap<Uuid, OvsState>),
    /// Everything was read again, because messages were lost.
    Snapshot(Box<Observed>),
}

#[cfg(test)]
mod tests;
