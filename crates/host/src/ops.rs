//! What each operation of a plan does to the kernel.
//!
//! To add what is there already, the same, and to remove what is gone are both done.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};

use ipnet::IpNet;
use patchcord_core::model::MacAddr;
use patchcord_core::plan::{
    ADDRESS_PROTOCOL, BridgeSpec, BridgeState, GROUP_DOOMED, GROUP_LIVE, GROUP_NONE, Handover, Index, LinkChange,
    MarkKind, Op, PortFlags, ROUTE_PROTOCOL, RouteSpec, Sysctl, TapSpec,
};
use patchcord_netlink as netlink;
use patchcord_netlink::{BridgeOptions, BridgePort, FdbChange, NewAddress, NewRoute, Request, RouteFilter};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::netdevice::name_to_index;

use crate::announce::Announcer;
use crate::cause::Cause;
use crate::cord::address_is_taken;
use crate::kernel::{Kernel, Run};
use crate::tap::{self, Tap, TapOwner};
use crate::{Result, sysctl};

/// The least MTU of a link that takes part in IPv6 (RFC 8200, section 5), in bytes. Below it the kernel has no IPv6
/// settings for a link.
const IPV6_MTU: u32 = 1280;
/// Below it are standard input and its like.
const FIRST_FD: i32 = 3;

impl Kernel {
    /// Carries out one operation; gives the link it made.
    pub(crate) fn carry_out(&mut self, op: &Op, run: &mut Run) -> Result<Option<Index>, Cause> {
        match op {
            Op::MakeBridge(spec) => return self.make_bridge(spec).map(Some),
            Op::MakeTap(spec) => return self.make_tap(spec, run).map(Some),
            Op::MakeMacvlan(spec) => return self.make_on_device(spec, false).map(Some),
            Op::MakeMacvtap(spec) => return self.make_macvtap(spec, run).map(Some),
            Op::MakeIfb(spec) => return self.make_ifb(spec).map(Some),
            Op::SetMode(link, mode) => self.set_mode(run.resolve(*link)?, *mode)?,
            Op::Redirect(link, to) => self.redirect(run.resolve(*link)?, run.resolve(*to)?)?,
            Op::EndRedirect(link) => self.end_redirect(run.resolve(*link)?)?,
            Op::AddHtb(link, classes) => self.add_htb(run.resolve(*link)?, classes)?,
            Op::EndHtb(link) => self.end_htb(run.resolve(*link)?)?,
            Op::SetClass(link, number, class) => self.set_class(run.resolve(*link)?, *number, class)?,
            Op::EndClass(link, number) => self.end_class(run.resolve(*link)?, *number)?,
            Op::Police(link, police) => self.police(run.resolve(*link)?, *police)?,
            Op::EndPolice(link) => self.end_police(run.resolve(*link)?)?,
            Op::LeaveLimits(link, classes, police) => self.leave_limits(run.resolve(*link)?, classes, *police)?,
            Op::Delete(index) => gone_is_done(self.route.delete_link(index.0))?,
            Op::SetLink(link, change) => {
                let controller = match change.controller {
                    Some(Some(controller)) => Some(Some(run.resolve(controller)?.0)),
                    Some(None) => Some(None),
                    None => None,
                };
                self.set_link(run.resolve(*link)?, change, controller)?;
            }
            Op::SetBridge(link, settings) => self.set_bridge(run.resolve(*link)?, *settings)?,
            Op::SetPort(link, flags) => self.set_port(run.resolve(*link)?, *flags)?,
            Op::SetFiltering(link, on) => {
                let options = BridgeOptions { vlan_filtering: Some(*on), ..BridgeOptions::default() };
                self.route.set_bridge(run.resolve(*link)?.0, &options)?;
            }
            Op::SetVlans { link, own, vlans } => self.set_vlans(run.resolve(*link)?, *own, vlans)?,
            Op::Carry { port, add, end } => self.carry(*port, add, end)?,
            Op::Doom(index) => self.doom(*index, Vec::new())?,
            Op::Claim(index, mark) => self.route.set_link(
                index.0,
                &netlink::LinkChange {
                    alias: Some(mark.to_string()),
                    group: Some(GROUP_NONE),
                    ..netlink::LinkChange::default()
                },
            )?,
            Op::Release(index) => gone_is_done(self.route.set_link(
                index.0,
                &netlink::LinkChange { alias: Some(String::new()), ..netlink::LinkChange::default() },
            ))?,
            Op::AddAddress(link, address) => self.add_address(run.resolve(*link)?, *address)?,
            Op::RemoveAddress(link, address) => {
                let index = run.resolve(*link)?;
                gone_is_done(self.route.delete_address(index.0, address.addr(), address.prefix_len()))?;
            }
            Op::AddRoute(link, spec) => self.add_route(run.resolve(*link)?, spec)?,
            Op::RemoveRoute(link, spec) => {
                gone_is_done(self.route.delete_route(&new_route(run.resolve(*link)?, spec)))?;
            }
            Op::SetForwarding { port, mac, present } => self.set_forwarding(run.resolve(*port)?, *mac, *present)?,
            Op::Nft(change) => self.change_rules(change)?,
            Op::SetSysctl(setting, value) => set_sysctl(setting, value)?,
            Op::Announce(link, mac) => {
                let index = run.resolve(*link)?;
                if let Err(cause) = self.announce(index, *mac) {
                    run.notes.push(format!("{op}: {}", cause.text));
                }
            }
        }
        Ok(None)
    }

    fn make_bridge(&mut self, spec: &BridgeSpec) -> Result<Index, Cause> {
        let index = self.route.make_bridge(&netlink::BridgeSpec {
            name: spec.name.to_string(),
            mac: Some(spec.mac.0),
            mtu: Some(spec.mtu),
            options: BridgeOptions {
                // A kernel without VLANs refuses to hear of them, even that they are not to be kept apart.
                vlan_filtering: spec.vlan_filtering.then_some(true),
                ..bridge_options(spec.settings)
            },
            alias: Some(spec.mark.to_string()),
            group: GROUP_LIVE,
            addr_gen_none: self.does_ipv6(spec.mtu),
            up: false,
        })?;
        Ok(Index(index))
    }

    fn make_tap(&mut self, spec: &TapSpec, run: &mut Run) -> Result<Index, Cause> {
        let owner = match spec.handover {
            Handover::Descriptor => None,
            // Without an owner anybody who can open /dev/net/tun could attach to it.
            Handover::Name { uid } => Some(TapOwner { uid: uid.unwrap_or(0), gid: None }),
        };
        let name = spec.name.to_string();
        let tap = Tap::create(&tap::TapSpec { name, queues: spec.queues, owner, vnet_hdr: true })?;
        let index = Index(name_to_index(&self.route, &tap.name)?);
        if let Err(cause) = self.finish_tap(index, spec) {
            return Err(match self.doom(index, tap.fds) {
                Ok(()) => cause,
                Err(more) => Cause { text: format!("{}; and it stays: {}", cause.text, more.text), ..cause },
            });
        }
        if owner.is_some() {
            // Marked by now: after a crash it is known to be ours.
            tap.persist()?;
            return Ok(index);
        }
        if let Some(queue) = tap.fds.first() {
            match fcntl_dupfd_cloexec(queue, FIRST_FD) {
                Ok(queue) => self.hold(index, queue),
                Err(errno) => run.notes.push(format!("{}: no announcements: {}", tap.name, Cause::from(errno).text)),
            }
        }
        if spec.mark.kind == MarkKind::Tap {
            run.taps.push((index, spec.mark.id, tap.fds));
        }
        Ok(index)
    }

    /// Marks a new tap and keeps it out of IPv6, before it comes up.
    fn finish_tap(&mut self, index: Index, spec: &TapSpec) -> Result<(), Cause> {
        let does_ipv6 = self.does_ipv6(spec.mtu);
        if does_ipv6 {
            set_sysctl(&Sysctl::DisableIpv6(spec.name.to_string()), "1")?;
        }
        let change = netlink::LinkChange {
            alias: Some(spec.mark.to_string()),
            group: Some(GROUP_LIVE),
            mac: spec.mac.map(|mac| mac.0),
            mtu: Some(spec.mtu),
            addr_gen_none: does_ipv6.then_some(true),
            ..netlink::LinkChange::default()
        };
        Ok(self.route.set_link(index.0, &change)?)
    }

    pub(crate) fn does_ipv6(&self, mtu: u32) -> bool {
        self.ipv6 && mtu >= IPV6_MTU
    }

    fn set_link(&mut self, index: Index, change: &LinkChange, controller: Option<Option<u32>>) -> Result<(), Cause> {
        let change = netlink::LinkChange {
            up: change.up,
            mtu: change.mtu,
            mac: change.mac.map(|mac| mac.0),
            controller,
            all_multicast: change.all_multicast,
            ..netlink::LinkChange::default()
        };
        match self.route.set_link(index.0, &change) {
            Err(error) if address_is_taken(&error) && self.make_way_for(index, &change)? => {
                Ok(self.route.set_link(index.0, &change)?)
            }
            result => Ok(result?),
        }
    }

    /// With STP on, the kernel refuses delays that STP does not allow; so it is off while the delay is one of those.
    fn set_bridge(&mut self, index: Index, settings: BridgeState) -> Result<(), Cause> {
        let BridgeOptions { stp, forward_delay, .. } = bridge_options(settings);
        let stp = BridgeOptions { stp, ..BridgeOptions::default() };
        let delay = BridgeOptions { forward_delay, ..BridgeOptions::default() };
        let order = if settings.stp { [delay, stp] } else { [stp, delay] };
        for options in order {
            self.route.set_bridge(index.0, &options)?;
        }
        Ok(())
    }

    fn set_port(&mut self, index: Index, flags: PortFlags) -> Result<(), Cause> {
        let port = BridgePort {
            isolated: Some(flags.isolated),
            learning: Some(flags.learning),
            unicast_flood: Some(flags.flood),
            ..BridgePort::default()
        };
        Ok(self.route.set_bridge_port(index.0, &port)?)
    }

    /// Takes a link of ours out of use and has it deleted; then these descriptors are closed.
    pub(crate) fn doom(&mut self, index: Index, mut fds: Vec<OwnedFd>) -> Result<(), Cause> {
        let out = netlink::LinkChange { up: Some(false), controller: Some(None), ..Default::default() };
        let away = netlink::LinkChange {
            name: Some(format!("pcdel{}", index.0)),
            group: Some(GROUP_DOOMED),
            ..Default::default()
        };
        let requests: Vec<Request> = match self.doom_up(index, &away)? {
            true => Vec::new(),
            false => [out, away].iter().flat_map(|change| Request::set_link(index.0, change)).collect(),
        };
        let results = self.route.execute_all(&requests)?;
        fds.extend(self.held.remove(&index));
        self.nodes.remove(index);
        match results.into_iter().collect::<Result<(), _>>() {
            Ok(()) => self.reaper.reap(index, fds),
            Err(error) => {
                self.reaper.close(fds);
                gone_is_done(Err(error))?;
            }
        }
        Ok(())
    }

    fn add_address(&mut self, index: Index, address: IpNet) -> Result<(), Cause> {
        let new = NewAddress {
            index: index.0,
            address: address.addr(),
            prefix: address.prefix_len(),
            broadcast: broadcast(address),
            nodad: true,
            no_prefix_route: false,
            protocol: Some(ADDRESS_PROTOCOL),
        };
        match self.route.add_address(&new) {
            // IPv6 also says so when the prefix is another one.
            Err(error) if error.is_exists() => {
                let there = crate::observe::read_addresses(&mut self.route, index)?;
                if there.contains(&address) { Ok(()) } else { Err(error.into()) }
            }
            result => Ok(result?),
        }
    }

    fn add_route(&mut self, index: Index, spec: &RouteSpec) -> Result<(), Cause> {
        let new = new_route(index, spec);
        match self.route.add_route(&new) {
            Err(error) if error.is_exists() => {
                let filter = RouteFilter { table: Some(netlink::TABLE_MAIN), link: Some(index.0), protocol: None };
                let same = |r: &netlink::Route| {
                    (r.destination, r.prefix, r.gateway, r.protocol)
                        == (new.destination, new.prefix, new.gateway, new.protocol)
                        && new.metric.is_none_or(|metric| r.metric == metric)
                };
                if self.route.routes(filter)?.entries.iter().any(same) { Ok(()) } else { Err(error.into()) }
            }
            result => Ok(result?),
        }
    }

    /// A static entry takes the place of one that the bridge learned, at whichever port.
    fn set_forwarding(&mut self, port: Index, mac: MacAddr, present: bool) -> Result<(), Cause> {
        let entry = FdbChange { port: port.0, mac: mac.0, vlan: None, own: false };
        if !present {
            let result = self.route.delete_fdb(&entry);
            // A link that is in no bridge any more has none; the kernel says that it can't be asked.
            let refused = |e: &netlink::Error| e.errno() == Some(Errno::OPNOTSUPP.raw_os_error());
            if result.as_ref().is_err_and(refused) {
                let link = self.route.link_by_index(port.0)?;
                if link.is_none_or(|link| link.controller.is_none()) {
                    return Ok(());
                }
            }
            return gone_is_done(result);
        }
        match self.route.add_fdb(&entry) {
            Err(error) if error.is_exists() => {
                let bridge = self.route.link_by_index(port.0)?.and_then(|link| link.controller);
                let there = self.route.fdb(None)?.entries;
                let of_bridge = |e: &&netlink::FdbEntry| e.mac == mac.0 && e.bridge == bridge && !e.own;
                // One for each of the port's VLANs, of which some may have been added before the first that was there.
                let there: Vec<_> = there.iter().filter(of_bridge).collect();
                if there.is_empty() {
                    return Err(error.into());
                }
                for old in there {
                    gone_is_done(self.route.delete_fdb(&FdbChange { port: old.port, vlan: old.vlan, ..entry }))?;
                }
                Ok(self.route.add_fdb(&entry)?)
            }
            result => Ok(result?),
        }
    }

    /// Speaks for the guest behind a tap: into the tap where we hold a queue of it, else from its bridge or out of its
    /// macvlan.
    fn announce(&mut self, index: Index, mac: MacAddr) -> Result<(), Cause> {
        if let Some(queue) = self.held.get(&index) {
            return Ok(tap::announce(queue.as_fd(), mac.0)?);
        }
        let bridge = self.route.link_by_index(index.0)?.and_then(|link| link.controller).map(Index);
        let end = match bridge {
            Some(bridge) => Some(bridge),
            None => match self.observed.link(index).cloned() {
                Some(link) => crate::shaping::read_incoming(&mut self.route, &link, self.instance)?.redirect.flatten(),
                None => None,
            },
        };
        let Some(end) = end else { return Err(Cause::ours("it is plugged into nothing")) };
        let announcer = match &self.announcer {
            Some(announcer) => announcer,
            None => self.announcer.insert(Announcer::open()?),
        };
        Ok(announcer.announce(end, mac.0)?)
    }
}

/// What is gone needs no removing.
pub(crate) fn gone_is_done(result: Result<(), netlink::Error>) -> Result<(), Cause> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        result => Ok(result?),
    }
}

fn bridge_options(settings: BridgeState) -> BridgeOptions {
    BridgeOptions { stp: Some(settings.stp), forward_delay: Some(settings.delay), ..BridgeOptions::default() }
}

/// The broadcast address that `ip address add ADDRESS broadcast +` gives; none where a prefix has room for two
/// addresses at most (RFC 3021).
fn broadcast(address: IpNet) -> Option<Ipv4Addr> {
    match address {
        IpNet::V4(net) if net.prefix_len() <= 30 => Some(net.broadcast()),
        _ => None,
    }
}

fn new_route(link: Index, spec: &RouteSpec) -> NewRoute {
    let destination: IpAddr = spec.to.network();
    NewRoute {
        destination,
        prefix: spec.to.prefix_len(),
        gateway: spec.via,
        link: link.0,
        metric: (spec.metric != 0).then_some(spec.metric),
        protocol: ROUTE_PROTOCOL,
    }
}

/// A link without IPv6 settings takes no part in IPv6 and can't be told to keep out of it: that is done.
pub(crate) fn set_sysctl(setting: &Sysctl, value: &str) -> Result<(), Cause> {
    // The names begin below /proc/sys, and the files of this crate below /proc/sys/net.
    let result = sysctl::write(&setting.path()[1..], value);
    let keeps_out = match setting {
        Sysctl::DisableIpv6(_) => value == "1",
        Sysctl::AcceptRa(_) | Sysctl::Autoconf(_) => value == "0",
        Sysctl::Ipv4Forward | Sysctl::Ipv6Forward => false,
    };
    match result {
        Err(error) if keeps_out && error.errno() == Some(Errno::NOENT) => Ok(()),
        result => Ok(result?),
    }
}
