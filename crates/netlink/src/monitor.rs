//! rtnetlink's announcements, as hints what to read again.
//!
//! A hint carries a key, and for links what the announcement told. It does not say what is true now: announcements queue up, and
//! the reader reads again. Which message types are read and which are known and passed over is written in
//! [`classify`]; any other type leads to a [`Hint::Resync`], as do lost messages.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::error::Error;
use crate::events::Events;
use crate::frame::Frame;
use crate::link::Link;
use crate::{addr, link, neigh, route, tc};

const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_NEIGH: u32 = 3;
const RTNLGRP_TC: u32 = 4;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
const RTNLGRP_IPV4_NETCONF: u32 = 24;
const RTNLGRP_IPV6_NETCONF: u32 = 25;

const RTM_NEWNETCONF: u16 = 80;
const RTM_DELNETCONF: u16 = 81;

const AF_BRIDGE: u8 = 7;
/// Stands for a link's index in messages about filters of several links (`TCM_IFINDEX_MAGIC_BLOCK`).
const SHARED_BLOCK: u32 = u32::MAX;

/// What to listen to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MonitorGroups {
    /// Links that come, go and change.
    pub links: bool,
    /// IPv4 and IPv6 addresses.
    pub addresses: bool,
    /// IPv4 and IPv6 routes.
    pub routes: bool,
    /// Neighbours and forwarding entries.
    pub neighbours: bool,
    /// Settings of the whole host: whether it forwards.
    pub settings: bool,
    /// Traffic control: qdiscs, classes and filters.
    pub traffic: bool,
}

/// Links, addresses, routes, settings and traffic control.
pub const LINK_GROUPS: MonitorGroups =
    MonitorGroups { links: true, addresses: true, routes: true, neighbours: false, settings: true, traffic: true };

/// Something changed: what to read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// A link came, went or changed.
    Link {
        /// Its index.
        index: u32,
        /// It left this network namespace: deleted, or moved to another one.
        gone: bool,
        /// What the announcement told about it; `None` where that is only a part.
        link: Option<Box<Link>>,
    },
    /// An address of this link came, went or changed.
    Address {
        /// The link's index.
        index: u32,
    },
    /// A route came, went or changed.
    Route,
    /// A neighbour or a forwarding entry of this link came, went or changed.
    Neighbour {
        /// The link's index.
        index: u32,
    },
    /// A setting of the whole host changed: whether it forwards IPv4 or IPv6.
    Settings,
    /// A qdisc, class or filter of this link came, went or changed. What goes with its link, or with the qdisc it
    /// belongs to, may not be announced by itself.
    Traffic {
        /// The link's index.
        index: u32,
    },
    /// Announcements were lost or not understood: read everything.
    Resync {
        /// Why, for the log.
        reason: &'static str,
    },
}

/// A socket that listens to rtnetlink. It can be polled together with others; [`Monitor::receive`] with a
/// timeout of zero then never blocks.
#[derive(Debug)]
pub struct Monitor {
    events: Events,
}

impl Monitor {
    /// Opens a socket in the calling thread's network namespace. What happens from now on is announced; read the
    /// present state afterwards, so that nothing is missed between.
    ///
    /// # Errors
    /// [`Error::Open`].
    pub fn open(groups: MonitorGroups) -> Result<Self, Error> {
        let wanted = [
            (groups.links, RTNLGRP_LINK),
            (groups.addresses, RTNLGRP_IPV4_IFADDR),
            (groups.addresses, RTNLGRP_IPV6_IFADDR),
            (groups.routes, RTNLGRP_IPV4_ROUTE),
            (groups.routes, RTNLGRP_IPV6_ROUTE),
            (groups.neighbours, RTNLGRP_NEIGH),
            (groups.settings, RTNLGRP_IPV4_NETCONF),
            (groups.settings, RTNLGRP_IPV6_NETCONF),
            (groups.traffic, RTNLGRP_TC),
        ];
        let numbers: Vec<u32> = wanted.iter().filter(|(on, _)| *on).map(|(_, number)| *number).collect();
        Ok(Monitor { events: Events::open(netlink_sys::protocols::NETLINK_ROUTE, &numbers)? })
    }

    /// Waits for announcements (`None`: as long as it takes) and returns what they hint at; nothing when the time is
    /// over. Each link is given once, with what was told of it last, unless that was ever only a part, and behind the rest, of
    /// which equal hints in a row are given once.
    ///
    /// # Errors
    /// The socket's own errors. Lost announcements are no error but a [`Hint::Resync`].
    pub fn receive(&mut self, timeout: Option<Duration>) -> Result<Vec<Hint>, Error> {
        let mut hints = Vec::new();
        // One change of a link is announced several times, and what is read of all but the last time is of no use.
        let mut links: BTreeMap<u32, Told> = BTreeMap::new();
        self.events.receive(timeout, |message| {
            let hint = match message {
                Ok(frame) => match index(frame.payload) {
                    Some(index) if is_link(frame) => {
                        links.entry(index).or_default().tell(frame);
                        None
                    }
                    _ => classify(frame),
                },
                Err(reason) => Some(Hint::Resync { reason }),
            };
            if let Some(hint) = hint.filter(|hint| hints.last() != Some(hint)) {
                hints.push(hint);
            }
        })?;
        hints.extend(links.values().filter_map(Told::hint));
        Ok(hints)
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

/// What was told of a link since its announcements were read last.
#[derive(Debug, Default)]
struct Told {
    kind: u16,
    payload: Vec<u8>,
    /// One was the bridge's view of a port: what that alone tells, no other one does.
    part: bool,
}

impl Told {
    fn tell(&mut self, frame: &Frame<'_>) {
        self.kind = frame.kind;
        self.payload.clear();
        self.payload.extend_from_slice(frame.payload);
        self.part |= frame.payload.first() == Some(&AF_BRIDGE);
    }

    fn hint(&self) -> Option<Hint> {
        let hint = classify(&Frame { kind: self.kind, flags: 0, sequence: 0, port: 0, payload: &self.payload })?;
        Some(match hint {
            Hint::Link { index, gone, .. } if self.part => Hint::Link { index, gone, link: None },
            hint => hint,
        })
    }
}

/// What an announcement hints at; `None` for those that are known and mean nothing to us.
pub(crate) fn classify(frame: &Frame<'_>) -> Option<Hint> {
    const NLMSG_NOOP: u16 = 1;
    let short = Hint::Resync { reason: "a message was shorter than its header" };
    Some(match frame.kind {
        _ if is_link(frame) => link_hint(frame).unwrap_or(short),
        addr::RTM_NEWADDR | addr::RTM_DELADDR => index(frame.payload).map_or(short, |index| Hint::Address { index }),
        route::RTM_NEWROUTE | route::RTM_DELROUTE => Hint::Route,
        neigh::RTM_NEWNEIGH | neigh::RTM_DELNEIGH => {
            index(frame.payload).map_or(short, |index| Hint::Neighbour { index })
        }
        // Each new link announces its own settings, too, which come with the link.
        RTM_NEWNETCONF | RTM_DELNETCONF => return of_all_links(frame.payload).then_some(Hint::Settings),
        tc::RTM_NEWQDISC
        | tc::RTM_DELQDISC
        | tc::RTM_NEWTCLASS
        | tc::RTM_DELTCLASS
        | tc::RTM_NEWTFILTER
        | tc::RTM_DELTFILTER
        | tc::RTM_NEWCHAIN
        | tc::RTM_DELCHAIN => match index(frame.payload) {
            // A block that several links share; ours never do.
            Some(SHARED_BLOCK) => return None,
            index => index.map_or(short, |index| Hint::Traffic { index }),
        },
        tc::RTM_NEWACTION | tc::RTM_DELACTION => {
            Hint::Resync { reason: "an action of traffic control changed, and nobody says of which link" }
        }
        NLMSG_NOOP => return None,
        _ => Hint::Resync { reason: "a message was of an unknown type" },
    })
}

/// Whether settings are those of all links (`NETCONFA_IFINDEX` is `NETCONFA_IFINDEX_ALL`; `linux/netconf.h`).
fn of_all_links(payload: &[u8]) -> bool {
    const NETCONFA_IFINDEX: u16 = 1;
    const NETCONFA_IFINDEX_ALL: i32 = -1;
    // struct netconfmsg is one byte, padded.
    let Some(attributes) = payload.get(4..) else { return false };
    let of = |a: &crate::attr::Attr<'_>| a.kind == NETCONFA_IFINDEX && a.value == NETCONFA_IFINDEX_ALL.to_ne_bytes();
    crate::attr::Attrs::new(attributes).any(|a| of(&a))
}

/// The link's index, which links, addresses, neighbours and traffic control have at the same place of their headers.
fn index(payload: &[u8]) -> Option<u32> {
    let bytes = payload.get(4..8)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn is_link(frame: &Frame<'_>) -> bool {
    matches!(frame.kind, link::RTM_NEWLINK | link::RTM_DELLINK)
}

fn link_hint(frame: &Frame<'_>) -> Option<Hint> {
    let link = link::read(frame.payload)?;
    let index = link.index;
    if frame.payload.first() == Some(&AF_BRIDGE) {
        // The bridge's view of a port. Its RTM_DELLINK says that the port left its bridge, not that the link is gone.
        return Some(Hint::Link { index, gone: false, link: None });
    }
    let gone = frame.kind == link::RTM_DELLINK;
    Some(Hint::Link { index, gone, link: (!gone).then(|| Box::new(link)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(kind: u16, payload: &[u8]) -> Option<Hint> {
        classify(&Frame { kind, flags: 0, sequence: 0, port: 0, payload })
    }

    #[test]
    fn a_bridges_dellink_is_no_end_and_a_links_is() {
        let mut header = [0; 16];
        header[4] = 9;
        assert_eq!(hint(link::RTM_DELLINK, &header), Some(Hint::Link { index: 9, gone: true, link: None }));
        header[0] = AF_BRIDGE;
        assert_eq!(hint(link::RTM_DELLINK, &header), Some(Hint::Link { index: 9, gone: false, link: None }));
    }

    #[test]
    fn a_bridges_view_is_not_forgotten_for_what_is_told_behind_it() {
        let mut header = [0; 16];
        header[4] = 9;
        let tell = |told: &mut Told, family: u8, header: &mut [u8; 16]| {
            header[0] = family;
            told.tell(&Frame { kind: link::RTM_NEWLINK, flags: 0, sequence: 0, port: 0, payload: &header[..] });
        };
        let mut told = Told::default();
        tell(&mut told, 0, &mut header);
        assert!(matches!(told.hint(), Some(Hint::Link { index: 9, link: Some(_), .. })));
        tell(&mut told, AF_BRIDGE, &mut header);
        tell(&mut told, 0, &mut header);
        assert_eq!(told.hint(), Some(Hint::Link { index: 9, gone: false, link: None }));
    }

    #[test]
    fn what_is_not_understood_is_never_skipped() {
        // Multicast database, next hop, link property, VLAN.
        for kind in [84, 104, 108, 112] {
            assert!(matches!(hint(kind, &[0; 16]), Some(Hint::Resync { .. })), "{kind}");
        }
        for kind in [link::RTM_NEWLINK, addr::RTM_NEWADDR, neigh::RTM_DELNEIGH] {
            assert!(matches!(hint(kind, &[0; 3]), Some(Hint::Resync { .. })), "{kind}");
        }
    }

    #[test]
    fn traffic_control_names_its_link() {
        let header = |index: u32| [&[0; 4][..], &index.to_ne_bytes(), &[0; 12]].concat();
        for kind in [36, 37, 40, 41, 44, 45, 100, 101] {
            assert_eq!(hint(kind, &header(9)), Some(Hint::Traffic { index: 9 }), "{kind}");
            assert_eq!(hint(kind, &header(SHARED_BLOCK)), None, "{kind}");
            assert!(matches!(hint(kind, &[0; 7]), Some(Hint::Resync { .. })), "{kind}");
        }
        assert!(matches!(hint(tc::RTM_NEWACTION, &[0; 4]), Some(Hint::Resync { .. })));
    }

    #[test]
    fn settings_of_all_links_are_told_from_those_of_one() {
        let settings = |index: i32| [&[2, 0, 0, 0, 8, 0, 1, 0][..], &index.to_ne_bytes()].concat();
        assert_eq!(hint(RTM_NEWNETCONF, &settings(-1)), Some(Hint::Settings));
        assert_eq!(hint(RTM_NEWNETCONF, &settings(7)), None);
        assert_eq!(hint(RTM_NEWNETCONF, &[]), None);
    }
}
