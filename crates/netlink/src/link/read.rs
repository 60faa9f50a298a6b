//! Reads a link from the kernel's message, attribute by attribute.
//!
//! The packet crate refuses a whole message for one attribute that it does not like (a name or alias that is not
//! UTF-8, a number of another width); the tests hold such messages. A reader of our own for the few attributes that
//! matter loses at most that attribute.

use super::{BondOptions, BridgeOptions, BridgePort, HEADER, Link, MacvlanMode, OperState, TunInfo};
use crate::attr::{Attr, Attrs};

const IFF_UP: u32 = 1;
const IFF_ALLMULTI: u32 = 1 << 9;
const IFF_LOWER_UP: u32 = 1 << 16;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_LINK_NETNSID: u16 = 37;

const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;

const AF_INET6: u16 = 10;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_NONE: u8 = 1;

const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_VLAN_ID: u16 = 1;

const IFLA_TUN_OWNER: u16 = 1;
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_VNET_HDR: u16 = 5;
const IFLA_TUN_PERSIST: u16 = 6;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;
const IFLA_TUN_NUM_QUEUES: u16 = 8;
const TUN_TYPE_TAP: u8 = 2;

/// Reads the payload of an `RTM_NEWLINK` or `RTM_DELLINK`; `None` only when it is shorter than its fixed header.
pub(crate) fn read(payload: &[u8]) -> Option<Link> {
    let header = payload.first_chunk::<HEADER>()?;
    let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let flags = word(8);
    let mut link = Link {
        index: word(4),
        hardware: u16::from_ne_bytes([header[2], header[3]]),
        up: flags & IFF_UP != 0,
        carrier: flags & IFF_LOWER_UP != 0,
        all_multicast: flags & IFF_ALLMULTI != 0,
        ..Link::default()
    };
    let mut elsewhere = false;
    let mut attrs = Attrs::after(payload, HEADER);
    for attr in attrs.by_ref() {
        let read = match attr.kind {
            IFLA_ADDRESS => {
                link.mac = attr.mac();
                true
            }
            IFLA_IFNAME => {
                link.name = attr.text();
                std::str::from_utf8(attr.bytes_to_nul()).is_ok()
            }
            IFLA_IFALIAS => {
                link.alias = Some(attr.text());
                std::str::from_utf8(attr.bytes_to_nul()).is_ok()
            }
            IFLA_MTU => keep(&mut link.mtu, attr.u32()),
            IFLA_GROUP => keep(&mut link.group, attr.u32()),
            IFLA_NUM_TX_QUEUES => keep(&mut link.queues.0, attr.u32()),
            IFLA_NUM_RX_QUEUES => keep(&mut link.queues.1, attr.u32()),
            IFLA_LINK => keep_some(&mut link.lower, attr.u32().map(|n| (n != 0).then_some(n))),
            IFLA_MASTER => keep_some(&mut link.controller, attr.u32().map(|n| (n != 0).then_some(n))),
            IFLA_OPERSTATE => keep(&mut link.operstate, attr.u8().map(OperState::from_kernel)),
            IFLA_LINK_NETNSID => {
                elsewhere = true;
                true
            }
            IFLA_LINKINFO => read_info(&attr, &mut link),
            IFLA_AF_SPEC => read_family_settings(&attr, &mut link),
            _ => true,
        };
        link.partly_read |= !read;
    }
    link.partly_read |= attrs.broken();
    if elsewhere {
        link.lower = None;
    }
    Some(link)
}

/// Stores what could be read; says whether it could.
pub(super) fn keep<T>(place: &mut T, value: Option<T>) -> bool {
    let read = value.is_some();
    if let Some(value) = value {
        *place = value;
    }
    read
}

fn keep_some<T>(place: &mut Option<T>, value: Option<Option<T>>) -> bool {
    keep(place, value)
}

fn read_info(info: &Attr<'_>, link: &mut Link) -> bool {
    let port_kind = Attrs::find(info.value, IFLA_INFO_SLAVE_KIND).map(|attr| attr.text());
    link.kind = Attrs::find(info.value, IFLA_INFO_KIND).map(|attr| attr.text());
    let mut whole = true;
    let mut attrs = info.nested();
    for attr in attrs.by_ref() {
        match (attr.kind, link.kind.as_deref(), port_kind.as_deref()) {
            (IFLA_INFO_DATA, Some("bridge"), _) => {
                let (options, read) = BridgeOptions::read(attr.nested());
                link.bridge = Some(options);
                whole &= read;
            }
            (IFLA_INFO_DATA, Some("bond"), _) => {
                let (options, read) = BondOptions::read(attr.nested());
                link.bond = Some(Box::new(options));
                whole &= read;
            }
            (IFLA_INFO_DATA, Some("vlan"), _) => {
                link.vlan = Attrs::find(attr.value, IFLA_VLAN_ID).and_then(|id| id.u16());
                whole &= link.vlan.is_some();
            }
            (IFLA_INFO_DATA, Some("macvlan" | "macvtap"), _) => {
                let mode = Attrs::find(attr.value, IFLA_MACVLAN_MODE).and_then(|mode| mode.u32());
                link.macvlan = mode.and_then(MacvlanMode::from_kernel);
                whole &= link.macvlan.is_some();
            }
            (IFLA_INFO_DATA, Some("tun"), _) => {
                let (tun, read) = read_tun(attr.nested());
                link.tun = Some(tun);
                whole &= read;
            }
            (IFLA_INFO_SLAVE_DATA, _, Some("bridge")) => {
                let (port, read) = BridgePort::read(attr.nested());
                link.port = Some(port);
                whole &= read;
            }
            _ => {}
        }
    }
    whole && !attrs.broken()
}

fn read_tun(attrs: Attrs<'_>) -> (TunInfo, bool) {
    let mut tun = TunInfo::default();
    let mut whole = true;
    for attr in attrs {
        let flag = attr.u8().map(|byte| byte != 0);
        whole &= match attr.kind {
            IFLA_TUN_OWNER => keep_some(&mut tun.owner, attr.u32().map(Some)),
            IFLA_TUN_TYPE => keep(&mut tun.tap, attr.u8().map(|kind| kind == TUN_TYPE_TAP)),
            IFLA_TUN_VNET_HDR => keep(&mut tun.vnet_header, flag),
            IFLA_TUN_PERSIST => keep(&mut tun.persist, flag),
            IFLA_TUN_MULTI_QUEUE => keep(&mut tun.multi_queue, flag),
            IFLA_TUN_NUM_QUEUES => keep_some(&mut tun.open_queues, attr.u32().map(Some)),
            _ => true,
        };
    }
    (tun, whole)
}

fn read_family_settings(spec: &Attr<'_>, link: &mut Link) -> bool {
    let Some(inet6) = Attrs::find(spec.value, AF_INET6) else {
        return true;
    };
    let Some(mode) = Attrs::find(inet6.value, IFLA_INET6_ADDR_GEN_MODE) else {
        return true;
    };
    keep_some(&mut link.addr_gen_none, mode.u8().map(|mode| Some(mode == ADDR_GEN_NONE)))
}

impl OperState {
    fn from_kernel(value: u8) -> Self {
        match value {
            1 => OperState::NotPresent,
            2 => OperState::Down,
            3 => OperState::LowerLayerDown,
            4 => OperState::Testing,
            5 => OperState::Dormant,
            6 => OperState::Up,
            _ => OperState::Unknown,
        }
    }
}

impl MacvlanMode {
    fn from_kernel(value: u32) -> Option<Self> {
        match value {
            1 => Some(MacvlanMode::Private),
            2 => Some(MacvlanMode::Vepa),
            4 => Some(MacvlanMode::Bridge),
            8 => Some(MacvlanMode::Passthru),
            16 => Some(MacvlanMode::Source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::Writer;

    const IFLA_VF_PORTS: u16 = 24;
    const IFLA_PORT_SELF: u16 = 25;

    fn message(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.raw(&[0, 0, 1, 0, 7, 0, 0, 0]).raw(&IFF_UP.to_ne_bytes()).raw(&[0; 4]);
        writer.put(IFLA_IFNAME, b"eth0\0");
        for (kind, value) in attributes {
            writer.put(*kind, value);
        }
        writer.put(IFLA_GROUP, &9u32.to_ne_bytes());
        writer.into_bytes()
    }

    #[test]
    fn an_attribute_of_another_width_is_lost_alone() {
        let odd: [(u16, &[u8]); 6] = [
            (IFLA_MTU, &[1, 2]),
            (IFLA_MASTER, &[0; 8]),
            (IFLA_OPERSTATE, &[]),
            (IFLA_NUM_TX_QUEUES, &[1]),
            (IFLA_IFALIAS, &[0xff, 0xfe]),
            (IFLA_LINKINFO, &[9, 0, 1]),
        ];
        for attribute in odd {
            let link = read(&message(&[attribute])).unwrap();
            assert!(link.partly_read, "{attribute:?}");
            assert_eq!((link.index, link.name.as_str(), link.group, link.up), (7, "eth0", 9, true));
        }
    }

    #[test]
    fn attributes_without_meaning_to_us_may_look_as_they_like() {
        let attributes: [(u16, &[u8]); 4] = [(IFLA_VF_PORTS, &[]), (IFLA_PORT_SELF, &[]), (999, &[1]), (7, &[1, 2, 3])];
        let link = read(&message(&attributes)).unwrap();
        assert!(!link.partly_read);
        assert_eq!(link.group, 9);
    }

    #[test]
    fn a_lower_link_elsewhere_has_no_index_here() {
        let lower = (IFLA_LINK, &5u32.to_ne_bytes()[..]);
        assert_eq!(read(&message(&[lower])).unwrap().lower, Some(5));
        assert_eq!(read(&message(&[lower, (IFLA_LINK_NETNSID, &[0; 4])])).unwrap().lower, None);
    }
}
