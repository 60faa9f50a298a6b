//! VLANs of bridge ports and bridges: reading them, and making them what they should be.

use std::collections::{BTreeMap, BTreeSet};

use patchcord_core::plan::{Index, Link, Observed, PortVlans};
use patchcord_netlink::{BridgeVlans, Request, Socket, VlansOf};

use crate::Result;
use crate::cause::Cause;
use crate::kernel::Kernel;
use crate::ops::gone_is_done;

/// VLANs or ranges of them in one message: what is in a netlink attribute may have 64 KiB, and each takes 16 bytes.
const MESSAGE: usize = 2048;

impl Kernel {
    /// Adds VLANs to a port, with a tag, and takes it out of others; whatever it is in besides stays.
    pub(crate) fn carry(&mut self, port: Index, add: &BTreeSet<u16>, end: &BTreeSet<u16>) -> Result<(), Cause> {
        let of = VlansOf::Port(port.0);
        let one = |vid: &u16| BridgeVlans { first: *vid, last: *vid, pvid: false, untagged: false };
        for vids in add.iter().map(one).collect::<Vec<_>>().chunks(MESSAGE) {
            self.route.execute(&Request::add_vlans(of, vids))?;
        }
        // One by one: somebody may have taken it out of some already.
        for vid in end {
            gone_is_done(self.route.execute(&Request::delete_vlans(of, &[one(vid)])))?;
        }
        Ok(())
    }

    /// Puts a port, or a bridge itself, into these VLANs first and takes it out of others then, so that what is in both
    /// goes on.
    pub(crate) fn set_vlans(&mut self, index: Index, own: bool, wanted: &PortVlans) -> Result<(), Cause> {
        let there = self.route.vlans(Some(index.0))?.entries;
        let others: Vec<BridgeVlans> = there
            .iter()
            .flat_map(|(_, vlans)| vlans)
            .flat_map(|range| range.first..=range.last)
            .filter(|vid| !wanted.contains(*vid))
            .map(|vid| BridgeVlans { first: vid, last: vid, pvid: false, untagged: false })
            .collect();
        let ranges = wanted.ranges().into_iter();
        let wanted: Vec<BridgeVlans> =
            ranges.map(|(first, last, pvid, untagged)| BridgeVlans { first, last, pvid, untagged }).collect();
        let of = if own { VlansOf::Bridge(index.0) } else { VlansOf::Port(index.0) };
        let mut requests = Vec::new();
        for some in wanted.chunks(MESSAGE) {
            requests.push(Request::add_vlans(of, some));
        }
        for some in others.chunks(MESSAGE) {
            requests.push(Request::delete_vlans(of, some));
        }
        Ok(self.route.execute_all(&requests)?.into_iter().collect::<Result<(), _>>()?)
    }
}

/// Reads the VLANs of a bridge port or of a bridge; none when it is neither any more.
///
/// # Errors
/// The socket's.
pub(crate) fn read(route: &mut Socket, index: Index) -> Result<Option<PortVlans>> {
    match route.vlans(Some(index.0)) {
        Ok(dump) => Ok(Some(port_vlans(dump.entries.iter().flat_map(|(_, vlans)| vlans)))),
        // That is said of what is no port, too.
        Err(error) if error.is_not_found() || error.is_invalid() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads the VLANs of all bridges that filter, and of their ports; says whether they stood still meanwhile.
///
/// # Errors
/// The socket's.
pub(crate) fn read_all(route: &mut Socket, observed: &mut Observed) -> Result<bool> {
    if !observed.links().any(|link| link.vlan.filtering) {
        return Ok(true);
    }
    let dump = route.vlans(None)?;
    let by_link: BTreeMap<u32, Vec<BridgeVlans>> = dump.entries.into_iter().collect();
    // One that is in none is not listed.
    let filtered = |link: &&Link| observed.bridge_of(link).is_some_and(|b| b.vlan.filtering);
    let links: Vec<Index> = observed.links().filter(filtered).map(|link| link.index).collect();
    for index in links {
        observed.set_vlans(index, port_vlans(by_link.get(&index.0).into_iter().flatten()));
    }
    Ok(dump.consistent)
}

fn port_vlans<'a>(ranges: impl Iterator<Item = &'a BridgeVlans>) -> PortVlans {
    let mut vlans = PortVlans::default();
    for range in ranges {
        let leave = if range.untagged { &mut vlans.untagged } else { &mut vlans.tagged };
        leave.extend(range.first..=range.last);
        if range.pvid {
            vlans.pvid = Some(range.first);
        }
    }
    vlans
}
