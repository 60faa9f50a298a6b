//! VLANs of bridge ports and of bridges themselves (IEEE 802.1Q).

use std::collections::BTreeMap;

use netlink_packet_route::link::{
    AfSpecBridge, BridgeFlag, BridgeVlanInfo, BridgeVlanInfoFlags, LinkAttribute, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::attr::{Attrs, Writer};
use crate::error::Error;
use crate::socket::{Dump, Request, Socket};

/// Length of `struct br_vlan_msg` (linux/if_bridge.h): the family, padding, a link's index.
const HEADER: usize = 8;
const AF_BRIDGE: u8 = 7;
const RTM_NEWVLAN: u16 = 112;
const RTM_GETVLAN: u16 = 114;

const BRIDGE_VLANDB_DUMP_FLAGS: u16 = 1;
const BRIDGE_VLANDB_DUMPF_STATS: u32 = 1;
const BRIDGE_VLANDB_ENTRY: u16 = 1;
const BRIDGE_VLANDB_ENTRY_INFO: u16 = 1;
const BRIDGE_VLANDB_ENTRY_RANGE: u16 = 2;

const PVID: u16 = 1 << 1;
const UNTAGGED: u16 = 1 << 2;

/// VLANs in a row that a bridge port is in, or a bridge itself as the port that leads to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BridgeVlans {
    /// The first, 1 to 4094.
    pub first: u16,
    /// The last; that is the first where it is one alone.
    pub last: u16,
    /// Frames that come in without a tag belong to it. At most one VLAN of a port is that; others leave it alone.
    pub pvid: bool,
    /// Its frames leave without a tag.
    pub untagged: bool,
}

/// Reads the payload of an `RTM_NEWVLAN`: the link's index and its VLANs; `None` when it is no such message.
pub(crate) fn read(payload: &[u8]) -> Option<(u32, Vec<BridgeVlans>)> {
    let header = payload.first_chunk::<HEADER>()?;
    if header[0] != AF_BRIDGE {
        return None;
    }
    let index = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
    let entries = Attrs::after(payload, HEADER).filter(|attr| attr.kind == BRIDGE_VLANDB_ENTRY);
    let vlans = entries.filter_map(|entry| {
        let info = Attrs::find(entry.value, BRIDGE_VLANDB_ENTRY_INFO)?;
        let info = info.value.first_chunk::<4>()?;
        let (flags, first) = (u16::from_ne_bytes([info[0], info[1]]), u16::from_ne_bytes([info[2], info[3]]));
        let last = Attrs::find(entry.value, BRIDGE_VLANDB_ENTRY_RANGE).and_then(|last| last.u16()).unwrap_or(first);
        Some(BridgeVlans { first, last, pvid: flags & PVID != 0, untagged: flags & UNTAGGED != 0 })
    });
    Some((index, vlans.collect()))
}

/// Puts VLANs behind others: into one row with the last ones where they leave alike.
fn append(all: &mut Vec<BridgeVlans>, next: BridgeVlans) {
    match all.last_mut() {
        Some(last)
            if last.last.checked_add(1) == Some(next.first)
                && !last.pvid
                && !next.pvid
                && last.untagged == next.untagged =>
        {
            last.last = next.last;
        }
        _ => all.push(next),
    }
}

/// How a bridge port is reached: through its bridge; and a bridge's own VLANs through the bridge itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VlansOf {
    /// Of the bridge port of that index.
    Port(u32),
    /// Of the bridge of that index itself.
    Bridge(u32),
}

fn message(of: VlansOf, vlans: &[BridgeVlans]) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    let (index, flag) = match of {
        VlansOf::Port(index) => (index, BridgeFlag::Controller),
        VlansOf::Bridge(index) => (index, BridgeFlag::LowerDev),
    };
    message.header.index = index;
    let mut spec = vec![AfSpecBridge::Flags(flag)];
    for range in vlans {
        let mut flags = BridgeVlanInfoFlags::empty();
        flags.set(BridgeVlanInfoFlags::Pvid, range.pvid);
        flags.set(BridgeVlanInfoFlags::Untagged, range.untagged);
        if range.first == range.last {
            spec.push(AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid: range.first }));
        } else {
            let (begin, end) = (BridgeVlanInfoFlags::RangeBegin, BridgeVlanInfoFlags::RangeEnd);
            spec.push(AfSpecBridge::VlanInfo(BridgeVlanInfo { flags: flags | begin, vid: range.first }));
            spec.push(AfSpecBridge::VlanInfo(BridgeVlanInfo { flags: flags | end, vid: range.last }));
        }
    }
    message.attributes.push(LinkAttribute::AfSpecBridge(spec));
    message
}

impl Request {
    /// Puts a port, or a bridge itself, into VLANs. Those that it is in already get these flags. The kernel refuses
    /// (EINVAL) several VLANs in a row of which each would be the one for frames without a tag.
    pub fn add_vlans(of: VlansOf, vlans: &[BridgeVlans]) -> Self {
        Request::link("put the port into VLANs", 0, RouteNetlinkMessage::SetLink(message(of, vlans)))
    }

    /// Takes a port, or a bridge itself, out of VLANs. Those that it is not in are passed over.
    pub fn delete_vlans(of: VlansOf, vlans: &[BridgeVlans]) -> Self {
        Request::link("take the port out of VLANs", 0, RouteNetlinkMessage::DelLink(message(of, vlans)))
    }
}

impl Socket {
    /// The VLANs of bridge ports and bridges, whether their bridges filter by them or not: of that link, or of all. One
    /// entry for each link that has some; none at all on a kernel without VLAN filtering (it is there from Linux 5.6).
    ///
    /// # Errors
    /// [`Error::Kernel`], with EINVAL for a link that is neither bridge nor port and ENODEV for one that is gone, and
    /// the socket's own errors.
    pub fn vlans(&mut self, link: Option<u32>) -> Result<Dump<(u32, Vec<BridgeVlans>)>, Error> {
        let mut body = Writer::new();
        body.raw(&[AF_BRIDGE, 0, 0, 0]).raw(&link.unwrap_or(0).to_ne_bytes());
        // With statistics each VLAN comes by itself. Put together by the kernel (6.1), those in a row with the one for
        // frames without a tag get lost.
        body.put(BRIDGE_VLANDB_DUMP_FLAGS, &BRIDGE_VLANDB_DUMPF_STATS.to_ne_bytes());
        let request = Request::encoded("list VLANs", RTM_GETVLAN, HEADER, body.into_bytes());
        let dump = match self.dump(&request, RTM_NEWVLAN, read) {
            Err(error) if error.is_unsupported() => Dump { entries: Vec::new(), consistent: true },
            result => result?,
        };
        let mut links: BTreeMap<u32, Vec<BridgeVlans>> = BTreeMap::new();
        for (link, vlans) in dump.entries {
            let all = links.entry(link).or_default();
            vlans.into_iter().for_each(|next| append(all, next));
        }
        Ok(Dump { entries: links.into_iter().collect(), consistent: dump.consistent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two VLANs of link 9 as the kernel lists them: 42 for what has no tag, 100 to 199 with tags.
    const LISTED: [u8; 44] = [
        7, 0, 0, 0, 9, 0, 0, 0, // struct br_vlan_msg
        12, 0, 1, 128, 8, 0, 1, 0, 6, 0, 42, 0, // entry: info
        20, 0, 1, 128, 8, 0, 1, 0, 0, 0, 100, 0, 6, 0, 2, 0, 199, 0, 0, 0, // entry: info, range
        4, 0, 9, 0, // another attribute
    ];

    #[test]
    fn entries_and_ranges_are_read() {
        let one = BridgeVlans { first: 42, last: 42, pvid: true, untagged: true };
        let range = BridgeVlans { first: 100, last: 199, pvid: false, untagged: false };
        assert_eq!(read(&LISTED), Some((9, vec![one, range])));
        assert_eq!(read(&LISTED[..7]), None);
        assert_eq!(read(&[0; 8]), None);
        // What is cut is passed over.
        assert_eq!(read(&LISTED[..24]), Some((9, vec![one])));
    }
}
