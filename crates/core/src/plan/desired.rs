//! What should be: the pure function from intent and observation to the kernel objects of one network or NIC.

use super::macvtap::{self, DesiredMacvtap};
use super::mark::{Mark, MarkKind};
use super::nft::NetworkRules;
use super::observed::{BridgeState, Index, Link, LinkKind, Observed, PortFlags, Sysctl};
use super::rates::{self, Rates};
use super::step::{BridgeSpec, MacvlanSpec, RouteSpec, TapSpec};
use super::vlan::{NO_VLAN, PortVlans};
use crate::intent::{Allocation, Intent, NetworkIntent, NicIntent};
use crate::merge::{self, Merged};
use crate::model::{ActualType, DirectMode, Family, Ip, LinkName, LinkState, MacAddr, MacTableManager};
use crate::model::{Network, NicSource, PciAddress, Route, VirtualPortType};
use ipnet::{IpNet, Ipv6Net};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Arguments;
use std::net::{IpAddr, Ipv6Addr};
use uuid::Uuid;

/// MTU of links nobody gave one, in bytes.
pub(super) const MTU: u32 = 1500;

/// The kernel objects of one network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredNetwork {
    /// Its own bridge, while it is active.
    pub bridge: Option<DesiredBridge>,
    /// The bridge's name and the packet rules that belong to it.
    pub rules: Option<(LinkName, NetworkRules)>,
}

/// A network's own bridge and what is on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredBridge {
    /// The link.
    pub spec: BridgeSpec,
    /// The host's VLANs on it: the network's, so that it reaches the NICs that have no others.
    pub vlans: PortVlans,
    /// The host's addresses.
    pub addresses: BTreeSet<IpNet>,
    /// Static routes.
    pub routes: BTreeSet<RouteSpec>,
    /// Settings of the link.
    pub sysctls: BTreeMap<Sysctl, String>,
}

/// The kernel objects of one NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredNic {
    /// Its tap.
    pub tap: TapSpec,
    /// What the tap is plugged into.
    pub plug: Plug,
    /// The limits at the tap or macvtap.
    pub rates: Rates,
    /// The guest's address, to be announced when the tap moves.
    pub announce: Option<MacAddr>,
}

/// What a NIC's tap is plugged into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plug {
    /// A bridge that is there.
    Bridge {
        /// The bridge.
        controller: Index,
        /// The tap's flags as its port.
        flags: PortFlags,
        /// The address that we write into the bridge's forwarding table ourselves.
        forwarding: Option<MacAddr>,
        /// The VLANs that the tap is in.
        vlans: PortVlans,
    },
    /// A macvlan on a device that is there, joined to the tap by a cord.
    Cord(MacvlanSpec),
    /// A bridge of Open vSwitch, which a job sees to.
    Ovs(LinkName),
    /// A macvtap, which is no tap that could be plugged into anything else.
    Macvtap(DesiredMacvtap),
    /// Nothing, and why.
    Nothing(Unplugged),
}

/// Why a NIC is plugged into nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unplugged {
    /// Its owner wants that: `type='none'`, or the link is down.
    Wanted,
    /// Its network is stopped.
    Parked,
    /// The bridge or device that it should be plugged into is not there.
    Waiting,
    /// What it asks for does not go with its network: its portgroup is gone, say.
    Contradicts,
    /// The bridge or device does not keep apart the VLANs that it is to be in.
    NotKeptApart,
    /// It was a macvtap, handed over by descriptor, and went with its device. Another one would be of no use to whoever
    /// holds those descriptors.
    Lost,
    /// It is a macvtap, and its network does not want it on its device, or in its mode, any more.
    Misfit,
    /// Its guest has a PCI device, and its network gives none any more.
    Kept,
    /// It has a tap, since there was no PCI device for its guest when it was attached.
    Missed,
}

impl Unplugged {
    /// What its state does not say.
    pub const fn cause(self) -> Option<&'static str> {
        match self {
            Self::Wanted | Self::Parked | Self::Waiting => None,
            Self::Contradicts => Some(
                "what it asks for does not go with its network as that is now (a portgroup that is gone, for one): \
                 'patchcord network check' says what is in the way; change the NIC, or the network",
            ),
            Self::NotKeptApart => Some(
                "the bridge or device that it would be plugged into does not keep VLANs apart (any more), and it is to be \
                 in some",
            ),
            Self::Lost => Some(
                "its macvtap went with its device, and its guest's descriptors with that: detach the NIC and attach a \
                 new one",
            ),
            Self::Kept => Some(
                "its network gives no PCI devices any more, and its guest has one: detach the NIC and attach a new one",
            ),
            Self::Missed => Some(
                "its network gives PCI devices, and it got none when it was attached, but a tap: detach the NIC and attach \
                 a new one",
            ),
            Self::Misfit => Some(
                "its network has another device or mode now, and a macvtap can't be moved there: detach the NIC and \
                 attach a new one",
            ),
        }
    }
}

/// What a NIC's type comes down to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved<'a> {
    /// A network's own bridge; the bridge's name and the active network.
    Virtual(&'a LinkName, &'a Network),
    /// A host bridge, named by a network or by the NIC itself.
    HostBridge(&'a LinkName, Option<&'a Network>),
    /// A device of the host's, in that mode; none while the NIC has got no device.
    Device(Option<&'a LinkName>, DirectMode, Option<&'a Network>),
    /// A virtual function that its guest has; none while it has got none.
    Function(Option<PciAddress>, &'a Network),
    /// Its network is stopped.
    Stopped,
    /// Nothing.
    None,
}

impl<'a> Resolved<'a> {
    /// The active network.
    pub const fn network(&self) -> Option<&'a Network> {
        match self {
            Self::Virtual(_, network) | Self::Function(_, network) => Some(network),
            Self::HostBridge(_, network) | Self::Device(_, _, network) => *network,
            Self::Stopped | Self::None => None,
        }
    }
}

/// What this NIC's source comes down to now.
pub fn resolve<'a>(intent: &'a Intent, nic: &'a NicIntent) -> Resolved<'a> {
    let network = intent.active_network_of(nic);
    let bridge = match &nic.nic.source {
        NicSource::Bridge { bridge } => Some(bridge),
        _ => network.and_then(|n| n.bridge.name.as_ref()),
    };
    match (ActualType::of_nic(&nic.nic, network), network, bridge) {
        (ActualType::Network, Some(network), Some(bridge)) => Resolved::Virtual(bridge, network),
        (ActualType::Bridge, network, Some(bridge)) => Resolved::HostBridge(bridge, network),
        (ActualType::Direct(mode), network, _) => Resolved::Device(nic.device(), mode, network),
        (ActualType::Hostdev, Some(network), _) => Resolved::Function(nic.function(), network),
        (_, None, _) if nic.network.is_some() => Resolved::Stopped,
        _ => Resolved::None,
    }
}

/// What a NIC gets, put together from itself, its portgroup and its network.
///
/// # Errors
/// See [`merge::merge`].
pub fn merged(intent: &Intent, nic: &NicIntent) -> crate::Result<Merged> {
    merged_with(intent.active_network_of(nic), nic)
}

/// The same, were that its active network.
///
/// # Errors
/// See [`merge::merge`].
pub fn merged_with(network: Option<&Network>, nic: &NicIntent) -> crate::Result<Merged> {
    merge::merge(&given(network, nic, format_args!("NIC {} of guest '{}'", nic.id, nic.guest)))
}

/// What is put together for a NIC that errors call `object`, were that its active network.
pub const fn given<'a>(network: Option<&'a Network>, nic: &'a NicIntent, object: Arguments<'a>) -> merge::Given<'a> {
    merge::Given { object, nic: &nic.nic, network, precedence: nic.precedence, id: nic.id }
}

/// The objects that a network should have.
pub fn network(intent: &Intent, uuid: Uuid) -> DesiredNetwork {
    let Some(NetworkIntent { active: Some(active), .. }) = intent.network(uuid) else {
        return DesiredNetwork::default();
    };
    let (Some(name), true) = (&active.bridge.name, active.forward.mode.has_own_bridge()) else {
        return DesiredNetwork::default();
    };
    let rules = NetworkRules::of(active, name);
    let rules = (!rules.is_empty()).then(|| (name.clone(), rules));
    DesiredNetwork { bridge: active.mac.map(|mac| bridge(intent, uuid, active, name, mac)), rules }
}

fn bridge(intent: &Intent, uuid: Uuid, network: &Network, name: &LinkName, mac: MacAddr) -> DesiredBridge {
    let link = name.to_string();
    let uses_ipv6 = network.ips.iter().any(|ip| ip.address.is_ipv6());
    let mut addresses: BTreeSet<IpNet> = network.ips.iter().map(Ip::network).collect();
    if uses_ipv6 {
        // Router advertisements come from a link-local address, and the kernel makes none before a guest is there.
        addresses.insert(IpNet::V6(Ipv6Net::new_assert(link_local(mac), 64)));
    }
    // A bridge without an IPv6 address keeps out of its guests' IPv6 altogether; with one it is a router, and
    // doesn't listen to guests that advertise themselves.
    let sysctls = if uses_ipv6 {
        let [listening, making] = [Sysctl::AcceptRa(link.clone()), Sysctl::Autoconf(link.clone())];
        BTreeMap::from([listening, making, Sysctl::DisableIpv6(link)].map(|sysctl| (sysctl, "0".into())))
    } else {
        BTreeMap::from([(Sysctl::DisableIpv6(link), "1".into())])
    };
    DesiredBridge {
        spec: BridgeSpec {
            name: name.clone(),
            mark: Mark { instance: intent.instance, kind: MarkKind::Bridge, id: uuid },
            mac,
            mtu: network.mtu.unwrap_or(MTU),
            settings: settings(network),
            vlan_filtering: intent.has_vlans(uuid),
        },
        vlans: network.vlan.as_ref().map_or_else(|| PortVlans::access(NO_VLAN), PortVlans::of),
        addresses,
        routes: network.routes.iter().map(route).collect(),
        sysctls,
    }
}

/// The bridge's settings as the kernel will have them: while spanning tree is on it takes delays of 2 to 30 s only
/// (IEEE 802.1D-1998, table 8-3), and makes one of them out of others.
fn settings(network: &Network) -> BridgeState {
    let stp = network.bridge.stp.unwrap_or(true);
    let delay = network.bridge.delay.unwrap_or(0);
    let seconds = if stp { delay.clamp(2, 30) } else { delay };
    BridgeState { stp, delay: seconds.saturating_mul(100) }
}

/// The route in the kernel's terms. libvirt's default metric is 1.
fn route(route: &Route) -> RouteSpec {
    let len = match (route.mask, route.address, route.family) {
        (Some(mask), _, _) => mask.len(),
        (None, IpAddr::V6(_), _) | (None, _, Some(Family::V6)) => 64,
        (None, IpAddr::V4(a), _) if a.is_unspecified() => 0,
        (None, IpAddr::V4(a), _) => match a.octets()[0] {
            0..=127 => 8,
            128..=191 => 16,
            _ => 24,
        },
    };
    let to = IpNet::new(route.address, len).map_or_else(|_| IpNet::from(route.address), |net| net.trunc());
    RouteSpec { to, via: Some(route.gateway), metric: route.metric.unwrap_or(1) }
}

/// The link-local address of an interface identifier made from a MAC (RFC 4291, appendix A).
fn link_local(mac: MacAddr) -> Ipv6Addr {
    let m = mac.0;
    let pair = |a, b| u16::from_be_bytes([a, b]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, pair(m[0] ^ 2, m[1]), pair(m[2], 0xff), pair(0xfe, m[3]), pair(m[4], m[5]))
}

/// The objects that a NIC should have; `None` once it is detached.
pub fn nic(intent: &Intent, observed: &Observed, id: Uuid) -> Option<DesiredNic> {
    nic_as(intent, observed, intent.nic(id)?)
}

/// The objects that a NIC should have if it were like this.
pub fn nic_as(intent: &Intent, observed: &Observed, nic: &NicIntent) -> Option<DesiredNic> {
    let id = nic.id;
    let name = nic.nic.target.clone()?;
    let resolved = resolve(intent, nic);
    // One whose configuration contradicts its network's, changed meanwhile, gets nothing.
    let merged = merged(intent, nic).ok();
    let network = resolved.network();
    let link = match &resolved {
        Resolved::Virtual(bridge, _) | Resolved::HostBridge(bridge, _) => {
            observed.link_named(bridge.as_str()).filter(|l| l.kind == LinkKind::Bridge)
        }
        Resolved::Device(device, ..) => device.and_then(|d| observed.link_named(d.as_str())),
        Resolved::Function(..) | Resolved::Stopped | Resolved::None => None,
    };
    let link = link.filter(|l| !l.is_doomed());
    let mtu = nic.nic.mtu.or_else(|| network.and_then(|n| n.mtu)).or_else(|| match resolved {
        // A port with a smaller MTU would drag a host bridge's down with it; and a device takes no longer frames.
        Resolved::HostBridge(..) | Resolved::Device(..) => link.map(|l| l.mtu),
        Resolved::Virtual(..) => Some(MTU),
        Resolved::Function(..) | Resolved::Stopped | Resolved::None => None,
    });
    // Unplugged, it keeps the MTU it had: the guest behind it was told.
    let mtu = mtu.or_else(|| observed.link_marked(MarkKind::Tap, id).map(|l| l.mtu)).unwrap_or(MTU);
    let plug = match (&resolved, link) {
        _ if nic.is_macvtap() => {
            Plug::Macvtap(macvtap::desired((intent, observed), nic, merged.as_ref(), (&resolved, link, mtu)))
        }
        _ if nic.nic.link == Some(LinkState::Down) => Plug::Nothing(Unplugged::Wanted),
        (Resolved::None, _) => Plug::Nothing(Unplugged::Wanted),
        (Resolved::Stopped, _) => Plug::Nothing(Unplugged::Parked),
        (Resolved::HostBridge(bridge, _), _) if merged.as_ref().is_some_and(is_ovs) => Plug::Ovs((*bridge).clone()),
        (Resolved::Function(..), _) => Plug::Nothing(Unplugged::Missed),
        (_, None) => Plug::Nothing(Unplugged::Waiting),
        (Resolved::Device(_, mode, _), Some(device)) => {
            cord((intent, observed), nic, merged.as_ref(), (*mode, device, mtu))
        }
        (_, Some(bridge)) => bridge_port(nic, merged.as_ref(), network, bridge),
    };
    Some(DesiredNic {
        tap: TapSpec {
            name,
            mark: Mark { instance: intent.instance, kind: MarkKind::Tap, id },
            mac: nic.nic.mac.map(MacAddr::of_tap),
            mtu,
            queues: nic.nic.queues.unwrap_or(1),
            handover: nic.handover,
        },
        plug,
        rates: rates::of_nic(intent, observed, nic),
        announce: nic.nic.mac,
    })
}

/// Whether a NIC's bridge is one of Open vSwitch.
fn is_ovs(merged: &Merged) -> bool {
    merged.virtualport.as_ref().and_then(|v| v.kind) == Some(VirtualPortType::OpenVSwitch)
}

/// A tap in a bridge. A NIC whose configuration contradicts its network's, and so comes to nothing, is in none: better out
/// than in without what keeps it apart.
pub(super) fn bridge_port(nic: &NicIntent, merged: Option<&Merged>, network: Option<&Network>, bridge: &Link) -> Plug {
    let Some(merged) = merged else { return Plug::Nothing(Unplugged::Contradicts) };
    let own = network.is_some_and(|n| n.forward.mode.has_own_bridge());
    let vlans = match &merged.vlan {
        Some(vlan) if own || bridge.vlan.filtering => PortVlans::of(vlan),
        // A host bridge that filters no longer keeps nobody apart.
        Some(_) => return Plug::Nothing(Unplugged::NotKeptApart),
        None => PortVlans::access(if own { NO_VLAN } else { bridge.vlan.default_pvid }),
    };
    let written = network.is_some_and(|n| n.bridge.mac_table_manager == Some(MacTableManager::Libvirt));
    Plug::Bridge {
        controller: bridge.index,
        flags: PortFlags { isolated: merged.isolated, learning: !written, flood: !written },
        forwarding: nic.nic.mac.filter(|_| written),
        vlans,
    }
}

/// Whether a device keeps apart what a NIC on it wants kept apart: a virtual function has one VLAN, others have none.
pub(super) fn keeps_apart(merged: &Merged, device: &Link, observed: &Observed) -> bool {
    let function = || LinkName::new(device.name.as_str()).ok().and_then(|link| observed.functions.with_link(&link));
    merged.vlan.is_none() || function().is_some()
}

/// A tap joined to a macvlan on a device. A NIC without an address, or without a device of its own, has none.
fn cord(
    (intent, observed): (&Intent, &Observed),
    nic: &NicIntent,
    merged: Option<&Merged>,
    (mode, device, mtu): (DirectMode, &Link, u32),
) -> Plug {
    let macvlan = nic.allocation.as_ref().and_then(Allocation::macvlan);
    let Some(merged) = merged else { return Plug::Nothing(Unplugged::Contradicts) };
    let (Some(mac), Some(macvlan)) = (nic.nic.mac, macvlan) else { return Plug::Nothing(Unplugged::Waiting) };
    if !keeps_apart(merged, device, observed) {
        return Plug::Nothing(Unplugged::NotKeptApart);
    }
    Plug::Cord(MacvlanSpec {
        name: macvlan.clone(),
        mark: Mark { instance: intent.instance, kind: MarkKind::Macvlan, id: nic.id },
        lower: device.index,
        mode,
        mac,
        mtu: mtu.min(device.mtu),
    })
}

/// The host-wide settings that the active networks need, given what is there. IPv6 forwarding makes the kernel
/// deaf to router advertisements, so the links that live on them are told to go on listening.
pub fn host(intent: &Intent, observed: &Observed) -> BTreeMap<Sysctl, String> {
    let mut wanted = BTreeMap::new();
    let routed = intent.routed();
    if routed.v4 > 0 {
        wanted.insert(Sysctl::Ipv4Forward, "1".into());
    }
    if routed.v6 > 0 {
        // Our own bridges have routers' settings of their own, and a link that is gone has none.
        let uplink = |sysctl: &&Sysctl| match sysctl {
            Sysctl::AcceptRa(link) => observed.link_named(link).is_some_and(|l| l.mark.is_none()),
            _ => false,
        };
        let listening = observed.sysctls.iter().filter(|(_, value)| *value == "1").map(|(sysctl, _)| sysctl);
        let told = intent.saved.settings.keys();
        wanted.extend(listening.chain(told).filter(uplink).map(|sysctl| (sysctl.clone(), "2".into())));
        wanted.insert(Sysctl::Ipv6Forward, "1".into());
    }
    wanted
}
