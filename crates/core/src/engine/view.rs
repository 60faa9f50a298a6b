//! What users see of networks, NICs and leases: intent and observation put together.

use crate::intent::{Intent, NetworkIntent, NicIntent, Owner, devices};
use crate::merge::Merged;
use crate::model::{DevicePlug, DirectMode, ForwardMode, LinkName, LinkState, MacAddr, Network, PciAddress};
use crate::plan::desired::{self, Plug, Resolved, Unplugged};
use crate::plan::{DesiredMacvtap, Handover, Index, Link, MarkKind, Observed, claim, dnsmasq};
use std::net::IpAddr;
use uuid::Uuid;

/// A network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkView {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// Whether it runs.
    pub active: bool,
    /// Whether it has a definition.
    pub persistent: bool,
    /// Whether it starts by itself.
    pub autostart: bool,
    /// Its forward mode.
    pub mode: ForwardMode,
    /// The bridge's name, where it has one.
    pub bridge: Option<String>,
    /// The host's addresses on it, with prefix lengths.
    pub addresses: Vec<String>,
    /// Devices it forwards through.
    pub devices: Vec<String>,
    /// How many of its devices nobody holds; none for a network that gives NICs no devices.
    pub free_devices: Option<usize>,
    /// Names of its portgroups.
    pub portgroups: Vec<String>,
    /// Labels.
    pub tags: Vec<String>,
    /// How many NICs name it.
    pub nics: usize,
    /// Process id of its dnsmasq.
    pub dnsmasq: Option<u32>,
    /// MTU in bytes, where one is set.
    pub mtu: Option<u32>,
}

/// What a NIC is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NicState {
    /// It is being attached.
    Pending,
    /// It is plugged in.
    Plugged,
    /// It is plugged into nothing, as its owner wants.
    Unplugged,
    /// Its network is stopped.
    Parked,
    /// What it should be plugged into is not there.
    Waiting,
}

impl NicState {
    /// The word users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Plugged => "plugged",
            Self::Unplugged => "unplugged",
            Self::Parked => "parked",
            Self::Waiting => "waiting",
        }
    }
}

/// A NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicView {
    /// Its id.
    pub id: Uuid,
    /// The guest.
    pub guest: String,
    /// The guest's UUID.
    pub guest_uuid: Option<Uuid>,
    /// Its MAC; none when only its guest knows.
    pub mac: Option<MacAddr>,
    /// What it is doing.
    pub state: NicState,
    /// The network it names.
    pub network: Option<String>,
    /// That network's UUID, also when it is gone.
    pub network_uuid: Option<Uuid>,
    /// The portgroup it got.
    pub portgroup: Option<String>,
    /// Its labels, then its network's, then its portgroup's.
    pub tags: Vec<String>,
    /// What it resolved to: `network` for a network's own bridge, `bridge` for the host's, `direct` for a device, `hostdev`
    /// for a PCI device, `none`.
    pub actual: &'static str,
    /// The bridge it is in.
    pub bridge: Option<String>,
    /// The device it is on.
    pub dev: Option<String>,
    /// How it is on that device.
    pub mode: Option<DirectMode>,
    /// The PCI device that its guest has.
    pub pci: Option<PciAddress>,
    /// How it is plugged into its device. A macvtap is one whatever it is plugged into.
    pub plug: Option<DevicePlug>,
    /// The device node of a macvtap that is opened by name.
    pub node: Option<String>,
    /// What its state does not say.
    pub cause: Option<&'static str>,
    /// Its tap.
    pub tap: Option<String>,
    /// The tap's index.
    pub ifindex: Option<u32>,
    /// MTU of the tap in bytes.
    pub mtu: Option<u32>,
    /// Queues.
    pub queues: u16,
    /// Its owner.
    pub owner: Option<Owner>,
    /// How the tap is handed over.
    pub handover: Handover,
    /// Whether it is a port of libvirt's, whose tap others make.
    pub port: bool,
    /// Who attached it.
    pub uid: u32,
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseView {
    /// The network's bridge.
    pub bridge: String,
    /// The guest's address.
    pub mac: Option<MacAddr>,
    /// The address leased.
    pub ip: IpAddr,
    /// Prefix length of the network it is from.
    pub prefix: u8,
    /// The name the guest gave itself, or that it was given.
    pub hostname: Option<String>,
    /// Client id or DUID.
    pub client_id: Option<String>,
    /// Identity association (RFC 8415), for IPv6.
    pub iaid: Option<u32>,
    /// When it ends, in seconds since 1970; none is never.
    pub expires: Option<u64>,
    /// The NIC it belongs to, when one of ours has that MAC.
    pub nic: Option<Uuid>,
}

/// What users see of a network.
pub(super) fn network(
    intent: &Intent,
    observed: &Observed,
    uuid: Uuid,
    of: &NetworkIntent,
    now: &Network,
) -> NetworkView {
    NetworkView {
        name: now.name.to_string(),
        uuid,
        active: of.active.is_some(),
        persistent: of.definition.is_some(),
        autostart: of.autostart,
        mode: now.forward.mode,
        bridge: now.bridge.name.as_ref().map(ToString::to_string),
        addresses: now.ips.iter().map(|ip| ip.network().to_string()).collect(),
        devices: devices(&now.forward).map(|device| device.to_string()).collect(),
        free_devices: None,
        portgroups: now.portgroups.iter().map(|p| p.name.to_string()).collect(),
        tags: now.tags.iter().map(ToString::to_string).collect(),
        nics: intent.nics_on(uuid),
        dnsmasq: observed.services.get(&uuid).map(|s| s.pid),
        mtu: now.mtu,
    }
}

/// What users see of a NIC.
pub(super) fn nic(intent: &Intent, observed: &Observed, nodes: &str, nic: &NicIntent) -> NicView {
    let claimed = Some(nic).filter(|nic| nic.is_port()).and_then(|port| claim::claimed(intent, observed, port));
    let link = observed.link_marked(MarkKind::Tap, nic.id).or(claimed);
    let resolved = desired::resolve(intent, nic);
    let plug = desired::nic_as(intent, observed, nic).map(|d| d.plug);
    let function =
        nic.function().filter(|_| !nic.is_port()).map(|address| function_state(observed, nic, &resolved, address));
    let unplugged = match &plug {
        _ if function.is_some() => function.flatten(),
        Some(Plug::Nothing(why) | Plug::Macvtap(DesiredMacvtap { unplugged: Some(why), .. })) => Some(*why),
        _ => None,
    };
    let state = match &plug {
        _ if !nic.confirmed => NicState::Pending,
        _ if nic.is_port() => port_state(observed, &resolved, claimed),
        Some(Plug::Bridge { controller, .. }) if link.is_some_and(|l| l.controller == Some(*controller)) => {
            NicState::Plugged
        }
        Some(Plug::Cord(spec)) if is_joined(observed, nic.id, spec.lower) => NicState::Plugged,
        Some(Plug::Ovs(bridge)) if is_on_ovs(observed, nic.id, bridge) => NicState::Plugged,
        Some(Plug::Macvtap(DesiredMacvtap { unplugged: None, .. })) if link.is_some_and(|l| l.up) => NicState::Plugged,
        _ => match unplugged {
            None if function.is_some() => NicState::Plugged,
            None => NicState::Pending,
            Some(Unplugged::Wanted) => NicState::Unplugged,
            Some(Unplugged::Parked) => NicState::Parked,
            Some(
                Unplugged::Waiting
                | Unplugged::Contradicts
                | Unplugged::NotKeptApart
                | Unplugged::Lost
                | Unplugged::Misfit
                | Unplugged::Kept
                | Unplugged::Missed,
            ) => NicState::Waiting,
        },
    };
    // A parked NIC is shown with what its network will give it again.
    let network = nic.network.and_then(|u| intent.network(u)).and_then(NetworkIntent::current);
    let merged = desired::merged_with(network, nic).unwrap_or_else(|_| Merged::of_nic(&nic.nic));
    let (actual, bridge, dev, mode) = match resolved {
        _ if plug == Some(Plug::Nothing(Unplugged::Wanted)) => ("none", None, None, None),
        Resolved::Virtual(bridge, _) => ("network", Some(bridge), None, None),
        Resolved::HostBridge(bridge, _) => ("bridge", Some(bridge), None, None),
        Resolved::Device(dev, mode, _) => ("direct", None, dev, Some(mode)),
        Resolved::Function(..) => ("hostdev", None, None, None),
        Resolved::Stopped | Resolved::None => ("none", None, None, None),
    };
    let tap = nic.nic.target.as_ref();
    let by_name = matches!(nic.handover, Handover::Name { .. });
    NicView {
        id: nic.id,
        guest: nic.guest.to_string(),
        guest_uuid: nic.guest_uuid,
        mac: nic.nic.mac,
        state,
        network: nic.network_name().map(ToString::to_string),
        network_uuid: nic.network,
        portgroup: merged.portgroup.map(|p| p.to_string()),
        tags: merged.tags.iter().map(ToString::to_string).collect(),
        actual,
        bridge: bridge.map(ToString::to_string),
        dev: dev.map(ToString::to_string),
        mode,
        pci: nic.function(),
        plug: (actual == "direct" || nic.is_macvtap()).then(|| nic.nic.plug.unwrap_or_default()),
        node: tap.filter(|_| by_name && nic.is_macvtap() && link.is_some()).map(|tap| format!("{nodes}/{tap}")),
        cause: unplugged.and_then(Unplugged::cause),
        // As it is called now: others may have renamed it.
        tap: link.map(|l| l.name.clone()).or_else(|| tap.map(ToString::to_string)),
        ifindex: link.map(|l| {
            let Index(i) = l.index;
            i
        }),
        mtu: link.map(|l| l.mtu),
        queues: nic.nic.queues.unwrap_or(1),
        owner: nic.owner,
        handover: nic.handover,
        port: nic.is_port(),
        uid: nic.uid,
    }
}

/// What a port's guest does, as far as it is known: what it does on devices is its own business.
fn port_state(observed: &Observed, resolved: &Resolved<'_>, tap: Option<&Link>) -> NicState {
    match resolved {
        Resolved::Stopped | Resolved::None => NicState::Parked,
        Resolved::Device(..) | Resolved::Function(..) => NicState::Plugged,
        Resolved::Virtual(bridge, _) | Resolved::HostBridge(bridge, _) => {
            let bridge = observed.link_named(bridge.as_str()).map(|l| l.index);
            let plugged = tap.is_some_and(|tap| tap.controller.is_some() && tap.controller == bridge);
            if plugged { NicState::Plugged } else { NicState::Waiting }
        }
    }
}

/// Why the guest that has this function gets nothing by it, if it gets nothing.
fn function_state(
    observed: &Observed,
    nic: &NicIntent,
    resolved: &Resolved<'_>,
    address: PciAddress,
) -> Option<Unplugged> {
    match resolved {
        Resolved::Stopped => Some(Unplugged::Parked),
        Resolved::Function(..) if nic.nic.link == Some(LinkState::Down) => Some(Unplugged::Wanted),
        Resolved::Function(..) => observed.functions.at(address).is_none().then_some(Unplugged::Waiting),
        _ => Some(Unplugged::Kept),
    }
}

/// Whether a NIC's tap is joined to a macvlan on that device.
fn is_joined(observed: &Observed, nic: Uuid, lower: Index) -> bool {
    let end = observed.links_marked(MarkKind::Macvlan, nic).find(|l| l.lower == Some(lower));
    let tap = observed.link_marked(MarkKind::Tap, nic);
    tap.zip(end).is_some_and(|(tap, end)| observed.redirects.get(&tap.index) == Some(&Some(end.index)))
}

/// Whether a NIC has its port on that bridge of Open vSwitch.
fn is_on_ovs(observed: &Observed, nic: Uuid, bridge: &LinkName) -> bool {
    let port = observed.ovs.get(&nic).and_then(|known| known.port.as_ref());
    port.is_some_and(|port| port.error.is_none() && port.bridges.iter().eq([bridge.as_str()]))
}

/// What users see of a lease.
pub(super) fn lease(intent: &Intent, network: &Network, uuid: Uuid, lease: &dnsmasq::Lease) -> LeaseView {
    let prefix = network.ips.iter().map(crate::model::Ip::network).find(|net| net.contains(&lease.ip));
    LeaseView {
        bridge: network.bridge.name.as_ref().map(ToString::to_string).unwrap_or_default(),
        mac: lease.mac,
        ip: lease.ip,
        prefix: prefix.map_or(lease_prefix(lease.ip), |net| net.prefix_len()),
        hostname: lease.hostname.clone(),
        client_id: lease.client_id.clone(),
        iaid: lease.iaid,
        expires: lease.expiry,
        nic: lease.mac.and_then(|mac| intent.nics_with(mac).find(|n| n.network == Some(uuid))).map(|n| n.id),
    }
}

const fn lease_prefix(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}
