//! What users see of the host's interfaces: links as they are, in libvirt's terms.
//!
//! Links behind which guests are do not count among the host's interfaces, and no bridge shows them as ports: taps,
//! macvtaps, and what else of ours carries a NIC's frames. Somebody who names one gets it all the same.

use crate::error::{Error, ErrorKind, Result};
use crate::model::interface::{
    Addresses, Bond, BondPort, BridgePort, Delay, Ethernet, HostBridge, Interface, InterfaceKind, LinkReport,
    OperState, PortKind, VlanLink,
};
use crate::model::{LinkName, MacAddr};
use crate::plan::{Index, Link, LinkKind, MarkKind, Observed};

/// An interface of the host, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceView {
    /// Its name.
    pub name: LinkName,
    /// Its address, whatever kind it is.
    pub mac: Option<MacAddr>,
    /// Whether it is up and running, as far as its driver says.
    pub active: bool,
}

/// All interfaces, by name, without what is a port of a bridge or a guest's.
pub(super) fn all(observed: &Observed) -> Vec<InterfaceView> {
    let mut all: Vec<_> = listed(observed).filter_map(view).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// That of a name, whatever it is.
pub(super) fn named(observed: &Observed, name: &str) -> Result<InterfaceView> {
    view(link_named(observed, name)?).ok_or_else(|| no_interface(name))
}

/// What it is. The speeds of its links are not known here.
pub(super) fn described(observed: &Observed, name: &str) -> Result<Interface> {
    describe(observed, link_named(observed, name)?).ok_or_else(|| no_interface(name))
}

/// That with an address. Where several have it, those that are not listed step back, and so do ports of a bond that has
/// it too.
pub(super) fn with(observed: &Observed, mac: MacAddr) -> Result<InterfaceView> {
    let has_it = |link: &&Link| link.mac == Some(mac) && !link.is_doomed();
    let mut found: Vec<&Link> = listed(observed).filter(has_it).collect();
    if found.is_empty() {
        found = observed.links().filter(has_it).collect();
    }
    let all = found.clone();
    found.retain(|link| all.iter().all(|other| link.controller != Some(other.index)));
    let error = |kind, cause: String| Error::new(kind, format!("MAC address {mac}"), cause);
    let mut views = found.iter().filter_map(|link| view(link));
    let first = views.next().ok_or_else(|| error(ErrorKind::NoInterface, "no interface of this host has it".into()))?;
    let others: Vec<_> = views.map(|other| format!("and '{}'", other.name)).collect();
    if others.is_empty() {
        return Ok(first);
    }
    let cause = format!("'{}' {} have it", first.name, others.join(" "));
    Err(error(ErrorKind::SeveralInterfaces, cause).hint("name the one that is meant"))
}

fn no_interface(name: &str) -> Error {
    Error::new(ErrorKind::NoInterface, format!("interface '{name}'"), "there is no such link on this host")
}

fn link_named<'a>(observed: &'a Observed, name: &str) -> Result<&'a Link> {
    observed.link_named(name).filter(|link| !link.is_doomed()).ok_or_else(|| no_interface(name))
}

fn listed(observed: &Observed) -> impl Iterator<Item = &Link> {
    observed.links().filter(|link| !is_guests(link) && !is_port(observed, link))
}

/// Whether guests are behind it, or it is about to be deleted.
fn is_guests(link: &Link) -> bool {
    let tap = match &link.kind {
        LinkKind::Tap | LinkKind::Macvtap => true,
        // One for IP packets instead of frames.
        LinkKind::Other(kind) => kind == "tun",
        LinkKind::Bridge | LinkKind::Macvlan => false,
    };
    tap || link.is_doomed() || link.mark.is_some_and(|mark| mark.kind != MarkKind::Bridge)
}

/// Whether it is a port of a bridge, and so a part of that.
fn is_port(observed: &Observed, link: &Link) -> bool {
    link.controller.and_then(|index| observed.link(index)).is_some_and(|link| link.kind == LinkKind::Bridge)
}

/// A link in short; nothing of one whose name nobody could say.
fn view(link: &Link) -> Option<InterfaceView> {
    // The state of a link whose driver does not say is that it works.
    let active = link.up && matches!(link.state, OperState::Up | OperState::Unknown);
    Some(InterfaceView { name: name(link)?, mac: link.mac, active })
}

fn describe(observed: &Observed, link: &Link) -> Option<Interface> {
    let kind = match link.kind {
        LinkKind::Bridge => InterfaceKind::Bridge(bridge(observed, link)),
        _ => match kind(observed, link) {
            PortKind::Ethernet(ethernet) => InterfaceKind::Ethernet(ethernet),
            PortKind::Bond(bond) => InterfaceKind::Bond(bond),
            PortKind::Vlan(vlan) => InterfaceKind::Vlan(vlan),
        },
    };
    Some(Interface {
        name: name(link)?,
        start: None,
        mtu: Some(link.mtu),
        addresses: addresses(observed, link.index),
        report: Some(report(link)),
        kind,
    })
}

fn name(link: &Link) -> Option<LinkName> {
    LinkName::new(link.name.as_str()).ok()
}

fn report(link: &Link) -> LinkReport {
    LinkReport { speed: None, state: Some(link.state) }
}

/// What kind of interface a link is, unless it is a bridge.
fn kind(observed: &Observed, link: &Link) -> PortKind {
    let device = link.lower.and_then(|lower| name(observed.link(lower)?));
    match (&link.bond, link.tag.zip(device)) {
        (Some(state), _) => {
            let mut ports: Vec<&Link> = observed.ports_of(link.index).collect();
            ports.sort_by_key(|port| Some(port.index) != state.primary);
            let port = |port: &&Link| {
                let ethernet = Ethernet { mac: port.mac };
                Some(BondPort { name: name(port)?, report: Some(report(port)), ethernet })
            };
            PortKind::Bond(Bond {
                mode: state.mode,
                monitor: state.monitor,
                ports: ports.iter().filter_map(port).collect(),
            })
        }
        (None, Some((tag, device))) => PortKind::Vlan(VlanLink { tag, device }),
        // One whose device is in another network namespace has none that could be named.
        (None, None) => PortKind::Ethernet(Ethernet { mac: link.mac }),
    }
}

fn bridge(observed: &Observed, link: &Link) -> HostBridge {
    let port = |port: &Link| {
        let kind = kind(observed, port);
        Some(BridgePort { name: name(port)?, report: Some(report(port)), kind })
    };
    HostBridge {
        stp: link.bridge.map(|state| state.stp),
        delay: link.bridge.map(|state| Delay(state.delay)),
        ports: observed.ports_of(link.index).filter(|link| !is_guests(link)).filter_map(port).collect(),
    }
}

/// A link's addresses, and the gateways of its way out by the main table: those that win, where there are several. One of
/// the other family has no place in libvirt's grammar.
fn addresses(observed: &Observed, index: Index) -> Addresses {
    let mut addresses = Addresses::default();
    for net in observed.addresses(index) {
        addresses.add(net.addr(), net.prefix_len());
    }
    for v4 in [true, false] {
        let out = observed.routes().filter(|r| r.link == index && r.to.prefix_len() == 0);
        let via = out.filter_map(|r| Some((r.metric, r.via?, r.to.addr())));
        let of_family = via.filter(|(_, via, to)| via.is_ipv4() == v4 && to.is_ipv4() == v4);
        if let Some((_, gateway, _)) = of_family.min() {
            addresses.set_gateway(gateway);
        }
    }
    addresses
}
