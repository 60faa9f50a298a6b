//! Reads what is: everything at once, or one object again.
//!
//! An object that can't be read whole is kept with what could be read; none is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ipnet::IpNet;
use patchcord_core::model::interface::{ArpValidate, BondCarrier, BondMode, BondMonitor, OperState};
use patchcord_core::model::{DirectMode, MacAddr};
use patchcord_core::plan::rates::ShapingSupport;
use patchcord_core::plan::{
    BondState, BridgeState, Change, GROUP_DOOMED, Index, Link, LinkKind, Mark, MarkKind, Observed, PortFlags, Route,
    Sysctl, VlanState,
};
use patchcord_netlink::{AddressFilter, BondOptions, FdbEntry, MacvlanMode, RouteFilter, Socket, TABLE_MAIN, nft};
use rustix::io::Errno;
use uuid::Uuid;

use crate::{Result, resolv, shaping, sysctl, vlan};

/// Who adds the routes that router advertisements bring (kernel: `RTPROT_RA`; NetworkManager and networkd use it, too).
const PROTOCOL_RA: u8 = 9;
/// A unicast route (kernel: `RTN_UNICAST`).
const UNICAST: u8 = 1;

/// The kernel, read whole.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What is there. Services and leases are not in the kernel, and so not in here.
    pub observed: Observed,
    /// False when something changed during each of several attempts: it is to be read again soon.
    pub consistent: bool,
}

/// Reads everything. Without an nftables socket there are no rules. What limits taps of others is ours if it is the
/// `instance`'s; what this kernel can do about rates says when it is not.
///
/// # Errors
/// The sockets'. Settings and a resolv.conf that can't be read are left out.
pub fn snapshot(
    route: &mut Socket,
    rules: Option<&mut nft::Socket>,
    resolv_conf: &Path,
    instance: Uuid,
    support: Option<ShapingSupport>,
) -> Result<Snapshot> {
    let mut observed = Observed::default();
    let links = route.links()?;
    let addresses = route.addresses(AddressFilter::default())?;
    let mut consistent = links.consistent && addresses.consistent;
    for told in &links.entries {
        observed.set_link(Index(told.index), Some(link(told)));
    }
    let mut by_link: BTreeMap<Index, BTreeSet<IpNet>> = BTreeMap::new();
    for address in &addresses.entries {
        by_link.entry(Index(address.index)).or_default().extend(ip_net(address));
    }
    for (index, addresses) in by_link {
        observed.set_addresses(index, addresses);
    }
    let (routes, whole) = routes(route)?;
    consistent &= whole;
    observed.set_routes(routes);
    // Only where a port does not learn do we write entries ourselves.
    if observed.links().any(|l| is_our_tap(l) && l.port.is_some_and(|port| !port.learning)) {
        let entries = route.fdb(None)?;
        consistent &= entries.consistent;
        let ours: Vec<_> = entries.entries.iter().filter_map(|e| forwarding(&observed, e)).collect();
        observed.forwarding.extend(ours);
    }
    consistent &= vlan::read_all(route, &mut observed)?;
    // Only a link with such a place has filters (earlier versions made it with clsact), and only one with our htb classes of ours; and only ours are ours to look at.
    let qdiscs = route.qdiscs(None)?;
    consistent &= qdiscs.consistent;
    for qdisc in &qdiscs.entries {
        let index = Index(qdisc.link);
        let Some(link) = observed.link(index).filter(|link| shaping::may_be_limited(link)).cloned() else { continue };
        let mut shape = observed.shapes.get(&index).cloned().unwrap_or_default();
        if matches!(qdisc.kind.as_str(), "ingress" | "clsact") {
            let incoming = shaping::read_incoming(route, &link, instance)?;
            observed.redirects.extend(incoming.redirect.map(|to| (index, to)));
            shape.police = incoming.police;
            shape.others |= incoming.is_others(support) && shaping::is_others_tap(&link);
        } else if shaping::is_our_htb(qdisc) {
            shape.classes = shaping::read_classes(route, index)?;
        } else if shaping::is_others_tap(&link) && shaping::is_others_root(qdisc) {
            shape.others = true;
        } else {
            continue;
        }
        observed.take(Change::Shape(index, shape));
    }
    if let Some(rules) = rules {
        observed.nft = crate::nft::read(rules)?;
    }
    let mut settings = vec![Sysctl::Ipv4Forward, Sysctl::Ipv6Forward];
    settings.extend(router_settings(&observed));
    for bridge in observed.links().filter(|l| is_our_bridge(l)) {
        let name = || bridge.name.clone();
        settings.extend([Sysctl::AcceptRa(name()), Sysctl::Autoconf(name()), Sysctl::DisableIpv6(name())]);
    }
    for setting in settings {
        if let Some(value) = read_sysctl(&setting)? {
            observed.sysctls.insert(setting, value);
        }
    }
    // Networks without name servers to ask are better than none: whoever starts us says why they are unknown.
    observed.resolvers = resolv::name_servers(resolv_conf).unwrap_or_default();
    Ok(Snapshot { observed, consistent })
}

/// A link in the planner's terms.
pub fn link(told: &patchcord_netlink::Link) -> Link {
    let kind = match told.kind.as_deref() {
        Some("bridge") => LinkKind::Bridge,
        Some("tun") if told.tun.is_some_and(|tun| tun.tap) => LinkKind::Tap,
        Some("macvlan") => LinkKind::Macvlan,
        Some("macvtap") => LinkKind::Macvtap,
        other => LinkKind::Other(other.unwrap_or_default().to_owned()),
    };
    let mark: Option<Mark> = told.alias.as_deref().and_then(|alias| alias.parse().ok());
    // It may be left up till it is deleted, by the kernel's means of the day, and counts as gone either way.
    let doomed = told.group == GROUP_DOOMED;
    let bridge = told
        .bridge
        .as_ref()
        .map(|options| BridgeState { stp: options.stp.unwrap_or(false), delay: options.forward_delay.unwrap_or(0) });
    let port = told.port.as_ref().map(|port| PortFlags {
        isolated: port.isolated.unwrap_or(PortFlags::NEW.isolated),
        learning: port.learning.unwrap_or(PortFlags::NEW.learning),
        flood: port.unicast_flood.unwrap_or(PortFlags::NEW.flood),
    });
    Link {
        index: Index(told.index),
        name: told.name.clone(),
        kind,
        mac: told.mac.map(MacAddr),
        mtu: told.mtu,
        up: told.up && !doomed,
        controller: told.controller.map(Index),
        lower: told.lower.map(Index).filter(|_| told.macvlan.is_some() || told.vlan.is_some()),
        mode: told.macvlan.filter(|_| !doomed).and_then(mode),
        all_multicast: told.all_multicast,
        carrier: told.carrier || mark.is_some(),
        state: if doomed || is_nics(mark) { OperState::Unknown } else { state(told.operstate) },
        mark,
        group: told.group,
        bridge,
        bond: told.bond.as_deref().map(|options| Box::new(bond(options))),
        tag: told.vlan,
        port,
        vlan: told.bridge.as_ref().map_or_else(VlanState::default, |options| VlanState {
            filtering: options.vlan_filtering.unwrap_or(VlanState::default().filtering),
            default_pvid: options.vlan_default_pvid.unwrap_or(VlanState::default().default_pvid),
        }),
    }
}

/// Whether a link is one of those that NICs of ours are made of. What they do from moment to moment is no news.
fn is_nics(mark: Option<Mark>) -> bool {
    mark.is_some_and(|mark| mark.kind != MarkKind::Bridge)
}

const fn state(told: patchcord_netlink::OperState) -> OperState {
    use patchcord_netlink::OperState as Told;
    match told {
        Told::Unknown => OperState::Unknown,
        Told::NotPresent => OperState::NotPresent,
        Told::Down => OperState::Down,
        Told::LowerLayerDown => OperState::LowerLayerDown,
        Told::Testing => OperState::Testing,
        Told::Dormant => OperState::Dormant,
        Told::Up => OperState::Up,
    }
}

/// A bond's settings in libvirt's words, of which it has none for more than one address to ask for.
fn bond(told: &BondOptions) -> BondState {
    let set = |value: Option<u32>| value.filter(|value| *value != 0);
    let target = told.arp_targets.first().copied();
    let monitor = match (set(told.arp_interval).zip(target), set(told.mii_interval)) {
        (Some((interval, target)), _) => {
            let validate = word(ArpValidate::WORDS, told.arp_validate.filter(|validate| *validate != 0));
            Some(BondMonitor::Arp { interval, target, validate })
        }
        (None, Some(interval)) => Some(BondMonitor::Mii {
            interval,
            down_delay: set(told.down_delay),
            up_delay: set(told.up_delay),
            carrier: told.use_carrier.map(|driver| if driver { BondCarrier::Netif } else { BondCarrier::Ioctl }),
        }),
        (None, None) => None,
    };
    let mode = word(BondMode::WORDS, told.mode.map(u32::from));
    BondState { mode, monitor, primary: told.primary.map(Index) }
}

/// What the kernel has that number for.
fn word<T: Copy>(words: &[(&str, T)], number: Option<u32>) -> Option<T> {
    words.get(usize::try_from(number?).ok()?).map(|(_, value)| *value)
}

/// A macvlan's mode in libvirt's words; it has none for the kernel's `source`.
fn mode(mode: MacvlanMode) -> Option<DirectMode> {
    Some(match mode {
        MacvlanMode::Private => DirectMode::Private,
        MacvlanMode::Vepa => DirectMode::Vepa,
        MacvlanMode::Bridge => DirectMode::Bridge,
        MacvlanMode::Passthru => DirectMode::Passthrough,
        MacvlanMode::Source => return None,
    })
}

/// Reads one link again; `None` when it is gone.
///
/// # Errors
/// The socket's.
pub fn read_link(route: &mut Socket, index: Index) -> Result<Option<Link>> {
    Ok(route.link_by_index(index.0)?.as_ref().map(link))
}

/// Reads one link's addresses again; none when the link is gone.
///
/// # Errors
/// The socket's.
pub fn read_addresses(route: &mut Socket, index: Index) -> Result<BTreeSet<IpNet>> {
    match route.addresses(AddressFilter { index: Some(index.0) }) {
        Ok(addresses) => Ok(addresses.entries.iter().filter_map(ip_net).collect()),
        Err(error) if error.is_not_found() => Ok(BTreeSet::new()),
        Err(error) => Err(error.into()),
    }
}

/// Reads the main table again.
///
/// # Errors
/// The socket's.
pub fn read_routes(route: &mut Socket) -> Result<BTreeSet<Route>> {
    Ok(routes(route)?.0)
}

/// Unicast routes of the main table that leave by a link, and whether the table stood still meanwhile.
fn routes(socket: &mut Socket) -> Result<(BTreeSet<Route>, bool)> {
    let dump = socket.routes(RouteFilter { table: Some(TABLE_MAIN), ..RouteFilter::default() })?;
    let routes = dump.entries.iter().filter(|r| r.kind == UNICAST).filter_map(|r| {
        Some(Route {
            to: IpNet::new(r.destination, r.prefix).ok()?,
            via: r.gateway,
            link: Index(r.link?),
            metric: r.metric,
            protocol: r.protocol,
        })
    });
    Ok((routes.collect(), dump.consistent))
}

/// Reads a setting; `None` when there is none such, as of a link that is gone.
///
/// # Errors
/// What the system says otherwise.
pub fn read_sysctl(setting: &Sysctl) -> Result<Option<String>> {
    // The names begin below /proc/sys, and the files of this crate below /proc/sys/net.
    match sysctl::read(&setting.path()[1..]) {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NOTDIR | Errno::NODEV)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether links listen to router advertisements that have their default route from one.
pub(crate) fn router_settings(observed: &Observed) -> BTreeSet<Sysctl> {
    let learned = observed.routes().filter(|r| r.protocol == PROTOCOL_RA && r.to.prefix_len() == 0);
    learned.filter_map(|r| observed.link(r.link)).map(|link| Sysctl::AcceptRa(link.name.clone())).collect()
}

fn ip_net(address: &patchcord_netlink::Address) -> Option<IpNet> {
    IpNet::new(address.address, address.prefix).ok()
}

fn is_our_tap(link: &Link) -> bool {
    link.mark.is_some_and(|mark| mark.kind == MarkKind::Tap) && !link.is_doomed()
}

/// Whether a link is ours and lives.
pub(crate) fn is_ours(link: &Link) -> bool {
    link.mark.is_some() && !link.is_doomed()
}

fn is_our_bridge(link: &Link) -> bool {
    link.mark.is_some_and(|mark| mark.kind == MarkKind::Bridge) && !link.is_doomed()
}

/// A static entry of a bridge for a tap of ours.
fn forwarding(observed: &Observed, entry: &FdbEntry) -> Option<(Index, MacAddr)> {
    let link = observed.link(Index(entry.port))?;
    let written = entry.fixed && !entry.local && !entry.own && entry.bridge.is_some();
    (written && is_our_tap(link)).then_some((link.index, MacAddr(entry.mac)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use patchcord_testkit::in_namespace;

    #[test]
    fn name_servers_that_cannot_be_read_hide_nothing_else() {
        in_namespace(|_| {
            let a_directory = Path::new("/");
            let snapshot = snapshot(&mut Socket::open().unwrap(), None, a_directory, Uuid::nil(), None).unwrap();
            assert!(snapshot.observed.link_named("lo").is_some());
            assert!(snapshot.observed.resolvers.is_empty());
        });
    }
}
