//! What should be: the pure function from intent and observation to the kernel objects of one network or NIC.

use super::mark::{Mark, MarkKind};
use super::nft::NetworkRules;
use super::observed::{BridgeState, Index, LinkKind, Observed, PortFlags, Sysctl};
use super::step::{BridgeSpec, RouteSpec, TapSpec};
use crate::intent::{Intent, NetworkIntent, NicIntent};
use crate::model::{Family, Ip, LinkName, LinkState, MacAddr, MacTableManager, Network, Nic, NicSource, Route};
use ipnet::{IpNet, Ipv6Net};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use uuid::Uuid;

/// MTU of links nobody gave one, in bytes.
const MTU: u32 = 1500;

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
    },
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
    /// The bridge it should be in is not there.
    Waiting,
}

/// What a NIC's type comes down to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved<'a> {
    /// A network's own bridge; the bridge's name and the active network.
    Virtual(&'a LinkName, &'a Network),
    /// A host bridge, named by a network or by the NIC itself.
    HostBridge(&'a LinkName, Option<&'a Network>),
    /// Its network is stopped.
    Stopped,
    /// Nothing.
    None,
}

/// What this NIC's source comes down to now.
pub fn resolve<'a>(intent: &'a Intent, nic: &'a NicIntent) -> Resolved<'a> {
    match &nic.nic.source {
        NicSource::None | NicSource::Direct { .. } => Resolved::None,
        NicSource::Bridge { bridge } => Resolved::HostBridge(bridge, None),
        NicSource::Network { .. } => {
            let active = nic.network.and_then(|uuid| intent.network(uuid)).and_then(|n| n.active.as_ref());
            match active.and_then(|n| n.bridge.name.as_ref().map(|b| (n, b))) {
                Some((network, bridge)) if network.forward.mode.has_own_bridge() => Resolved::Virtual(bridge, network),
                Some((network, bridge)) => Resolved::HostBridge(bridge, Some(network)),
                None => Resolved::Stopped,
            }
        }
    }
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
        BTreeMap::from([(Sysctl::AcceptRa(link.clone()), "0".into()), (Sysctl::Autoconf(link), "0".into())])
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
        },
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
    BridgeState { stp, delay: if stp { delay.clamp(2, 30) } else { delay } }
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
    let (bridge, network) = match &resolved {
        Resolved::Virtual(bridge, network) => (Some(*bridge), Some(*network)),
        Resolved::HostBridge(bridge, network) => (Some(*bridge), *network),
        Resolved::Stopped | Resolved::None => (None, None),
    };
    let link =
        bridge.and_then(|b| observed.link_named(b.as_str())).filter(|l| !l.is_doomed() && l.kind == LinkKind::Bridge);
    let plug = match (&resolved, link) {
        _ if nic.nic.link == Some(LinkState::Down) => Plug::Nothing(Unplugged::Wanted),
        (Resolved::None, _) => Plug::Nothing(Unplugged::Wanted),
        (Resolved::Stopped, _) => Plug::Nothing(Unplugged::Parked),
        (_, None) => Plug::Nothing(Unplugged::Waiting),
        (_, Some(link)) => {
            let written = network.is_some_and(|n| n.bridge.mac_table_manager == Some(MacTableManager::Libvirt));
            Plug::Bridge {
                controller: link.index,
                flags: PortFlags { isolated: isolated(&nic.nic, network), learning: !written, flood: !written },
                forwarding: nic.nic.mac.filter(|_| written),
            }
        }
    };
    let mtu = nic.nic.mtu.or_else(|| network.and_then(|n| n.mtu)).or_else(|| match resolved {
        // A port with a smaller MTU would drag a host bridge's down with it.
        Resolved::HostBridge(..) => link.map(|l| l.mtu),
        Resolved::Virtual(..) => Some(MTU),
        Resolved::Stopped | Resolved::None => None,
    });
    // Unplugged, it keeps the MTU it had: the guest behind it was told.
    let mtu = mtu.or_else(|| observed.link_marked(MarkKind::Tap, id).map(|l| l.mtu)).unwrap_or(MTU);
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
        announce: nic.nic.mac,
    })
}

/// Whether the NIC may not reach other isolated ones: its own word, else its network's.
fn isolated(nic: &Nic, network: Option<&Network>) -> bool {
    nic.port_isolated.or_else(|| network.and_then(|n| n.port_isolated)).unwrap_or(false)
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
        let told = intent.saved.keys();
        wanted.extend(listening.chain(told).filter(uplink).map(|sysctl| (sysctl.clone(), "2".into())));
        wanted.insert(Sysctl::Ipv6Forward, "1".into());
    }
    wanted
}
