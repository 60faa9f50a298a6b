//! SR-IOV: the virtual functions (VFs) of a physical one (PF), read and set through the PF's link.
//!
//! The kernel lists them when it is asked to (`RTEXT_FILTER_VF`), each with what its driver tells. Numbers and layouts
//! are those of the kernel's `linux/if_link.h`, from `IFLA_VF_INFO_UNSPEC` on.

use netlink_packet_core::DefaultNla;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::attr::{Attr, Attrs, Writer};
use crate::error::Error;
use crate::link::HEADER;
use crate::socket::{Request, Socket};

pub(crate) const IFLA_VFINFO_LIST: u16 = 22;
const IFLA_VF_INFO: u16 = 1;

const IFLA_VF_MAC: u16 = 1;
const IFLA_VF_VLAN: u16 = 2;
const IFLA_VF_SPOOFCHK: u16 = 4;
const IFLA_VF_LINK_STATE: u16 = 5;
const IFLA_VF_RATE: u16 = 6;
const IFLA_VF_TRUST: u16 = 9;
const IFLA_VF_VLAN_LIST: u16 = 12;
const IFLA_VF_VLAN_INFO: u16 = 1;

/// What the kernel says of a switch that the driver does not know.
const UNKNOWN: u32 = u32::MAX;
/// `MAX_ADDR_LEN`: room for an address in `struct ifla_vf_mac`.
const ADDRESS_ROOM: usize = 32;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;

/// One virtual function, as far as its driver tells and it could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtualFunction {
    /// Its number among those of its PF, from 0.
    pub number: u32,
    /// The Ethernet address that the PF gave it; all zero when it gave none.
    pub mac: Option<[u8; 6]>,
    /// The VLAN that the PF put it into.
    pub vlan: Option<VfVlan>,
    /// Whether frames from other addresses than its own are dropped.
    pub spoof_check: Option<bool>,
    /// Whether it may change its address and receive more than is for it.
    pub trust: Option<bool>,
    /// What it is told of the cable.
    pub link_state: Option<VfLinkState>,
    /// The least it can send in Mbit/s; 0 is no promise.
    pub min_rate: Option<u32>,
    /// The most it can send in Mbit/s; 0 is no limit.
    pub max_rate: Option<u32>,
    /// An attribute that this struct stands for had an unexpected form; its field is `None`.
    pub partly_read: bool,
}

/// The VLAN of a virtual function: the tag that the device adds to what the VF sends, and removes again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VfVlan {
    /// 1 to 4094; 0 is no VLAN.
    pub id: u16,
    /// Priority (802.1p), 0 to 7.
    pub qos: u8,
    /// Whether the tag is a service tag (802.1ad), and not the usual one (802.1Q).
    pub service: bool,
}

/// What a virtual function is told of the cable (kernel: `IFLA_VF_LINK_STATE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VfLinkState {
    /// How it is.
    Auto,
    /// Always plugged.
    Enable,
    /// Never plugged.
    Disable,
}

/// What to change about a virtual function; `None` leaves it as it is. The kernel carries it out in the order of the
/// fields, and stops at the first that is refused, with those before it done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VfChange {
    /// The Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// The VLAN.
    pub vlan: Option<VfVlan>,
    /// Whether frames from other addresses than its own are dropped.
    pub spoof_check: Option<bool>,
    /// What it is told of the cable.
    pub link_state: Option<VfLinkState>,
    /// Whether it may change its address and receive more than is for it.
    pub trust: Option<bool>,
}

impl Request {
    /// Changes the virtual function with this number of the PF with this index.
    pub fn set_vf(pf: u32, number: u32, change: &VfChange) -> Self {
        let mut info = Writer::new();
        if let Some(mac) = change.mac {
            put_mac(&mut info, number, mac);
        }
        match change.vlan {
            Some(vlan) if vlan.service => {
                let mut list = Writer::new();
                let numbers = [number, u32::from(vlan.id), u32::from(vlan.qos)].map(u32::to_ne_bytes).concat();
                list.put(IFLA_VF_VLAN_INFO, &[&numbers[..], &ETH_P_8021AD.to_be_bytes(), &[0; 2]].concat());
                info.put(IFLA_VF_VLAN_LIST, &list.into_bytes());
            }
            Some(vlan) => put_vlan(&mut info, number, vlan.id, vlan.qos),
            None => {}
        }
        let numbers = [
            (IFLA_VF_SPOOFCHK, change.spoof_check.map(u32::from)),
            (IFLA_VF_LINK_STATE, change.link_state.map(VfLinkState::number)),
            (IFLA_VF_TRUST, change.trust.map(u32::from)),
        ];
        for (kind, value) in numbers {
            if let Some(value) = value {
                info.put(kind, &[number, value].map(u32::to_ne_bytes).concat());
            }
        }
        set_link("change the virtual function", pf, [(IFLA_VFINFO_LIST, info_list(info))])
    }
}

impl Socket {
    /// The virtual functions of the PF with this index, in the kernel's order; none of a link that is no PF. `None` when
    /// there is no such link.
    ///
    /// # Errors
    /// [`Error::Kernel`] and the socket's own errors; [`Error::Answer`] when there are more than some 300, whose list is
    /// longer than a message can be.
    pub fn vfs(&mut self, pf: u32) -> Result<Option<Vec<VirtualFunction>>, Error> {
        let payload = self.link_with_vfs("list virtual functions", pf)?;
        Ok(payload.map(|payload| read(&payload)))
    }

    /// Changes a virtual function; see [`Request::set_vf`].
    ///
    /// # Errors
    /// [`Error::Kernel`], with EOPNOTSUPP when the link is no PF or its driver can't do that, and the socket's own errors.
    pub fn set_vf(&mut self, pf: u32, number: u32, change: &VfChange) -> Result<(), Error> {
        self.execute(&Request::set_vf(pf, number, change))
    }

    /// The message about one link with what it says of virtual functions; `None` when there is no such link.
    pub(crate) fn link_with_vfs(&mut self, what: &'static str, index: u32) -> Result<Option<Vec<u8>>, Error> {
        let mut message = LinkMessage::default();
        message.header.interface_family = AddressFamily::Unspec;
        message.header.index = index;
        let wanted = vec![LinkExtentMask::Vf, LinkExtentMask::SkipStats];
        message.attributes.push(LinkAttribute::ExtMask(wanted));
        match self.ask(&Request::link(what, 0, RouteNetlinkMessage::GetLink(message))) {
            Ok(replies) => Ok(replies.into_iter().next()),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A request to change a link that carries these attributes of ours.
pub(crate) fn set_link(
    what: &'static str,
    index: u32,
    attributes: impl IntoIterator<Item = (u16, Vec<u8>)>,
) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let raw = |(kind, value)| LinkAttribute::Other(DefaultNla::new(kind, value));
    message.attributes.extend(attributes.into_iter().map(raw));
    Request::link(what, 0, RouteNetlinkMessage::SetLink(message))
}

/// The value of an `IFLA_VFINFO_LIST` about one VF.
pub(crate) fn info_list(info: Writer) -> Vec<u8> {
    let mut list = Writer::new();
    list.put(IFLA_VF_INFO, &info.into_bytes());
    list.into_bytes()
}

pub(crate) fn put_mac(info: &mut Writer, number: u32, mac: [u8; 6]) {
    let mut room = [0; ADDRESS_ROOM];
    room[..mac.len()].copy_from_slice(&mac);
    info.put(IFLA_VF_MAC, &[&number.to_ne_bytes()[..], &room].concat());
}

pub(crate) fn put_vlan(info: &mut Writer, number: u32, id: u16, qos: u8) {
    info.put(IFLA_VF_VLAN, &[number, u32::from(id), u32::from(qos)].map(u32::to_ne_bytes).concat());
}

/// Reads the virtual functions in the payload of an `RTM_NEWLINK`. One that has no number is left out.
pub(crate) fn read(payload: &[u8]) -> Vec<VirtualFunction> {
    let lists = Attrs::after(payload, HEADER).filter(|attr| attr.kind == IFLA_VFINFO_LIST);
    let infos = lists.flat_map(|list| list.nested()).filter(|attr| attr.kind == IFLA_VF_INFO);
    infos.filter_map(|info| read_one(&info)).collect()
}

/// Every attribute begins with the VF's number; the first one that can be read tells it.
fn read_one(info: &Attr<'_>) -> Option<VirtualFunction> {
    let mut vf = VirtualFunction::default();
    let mut number = None;
    let mut attrs = info.nested();
    for attr in attrs.by_ref() {
        let whole = match attr.kind {
            IFLA_VF_MAC => words::<3>(&attr).map(|[_, a, b]| {
                let ([a, b, c, d], [e, f, ..]) = (a.to_ne_bytes(), b.to_ne_bytes());
                vf.mac = Some([a, b, c, d, e, f]);
            }),
            // The list says the same and the tag's kind; where both are there, it is behind.
            IFLA_VF_VLAN => words(&attr).and_then(|[_, id, qos]| {
                vf.vlan = Some(VfVlan { id: id.try_into().ok()?, qos: qos.try_into().ok()?, service: false });
                Some(())
            }),
            IFLA_VF_VLAN_LIST => {
                attr.nested().find(|entry| entry.kind == IFLA_VF_VLAN_INFO).and_then(|entry| read_vlan(&mut vf, &entry))
            }
            IFLA_VF_SPOOFCHK => words(&attr).map(|[_, on]| vf.spoof_check = switch(on)),
            IFLA_VF_TRUST => words(&attr).map(|[_, on]| vf.trust = switch(on)),
            IFLA_VF_RATE => words(&attr).map(|[_, min, max]| (vf.min_rate, vf.max_rate) = (Some(min), Some(max))),
            IFLA_VF_LINK_STATE => words(&attr).and_then(|[_, state]| {
                vf.link_state = Some(VfLinkState::read(state)?);
                Some(())
            }),
            _ => continue,
        };
        vf.partly_read |= whole.is_none();
        if attr.kind != IFLA_VF_VLAN_LIST {
            number = number.or_else(|| words(&attr).map(|[number]| number));
        }
    }
    vf.partly_read |= attrs.broken();
    vf.number = number?;
    Some(vf)
}

fn read_vlan(vf: &mut VirtualFunction, entry: &Attr<'_>) -> Option<()> {
    let [_, id, qos] = words(entry)?;
    let service = match u16::from_be_bytes(entry.value.get(12..14)?.try_into().ok()?) {
        ETH_P_8021Q => false,
        ETH_P_8021AD => true,
        _ => return None,
    };
    vf.vlan = Some(VfVlan { id: id.try_into().ok()?, qos: qos.try_into().ok()?, service });
    Some(())
}

/// The first native-endian 32-bit numbers of a value, which may be longer: the kernel's structs have grown before.
fn words<const N: usize>(attr: &Attr<'_>) -> Option<[u32; N]> {
    let mut words = [0; N];
    let mut chunks = attr.value.chunks_exact(4);
    for word in &mut words {
        *word = u32::from_ne_bytes(chunks.next()?.try_into().ok()?);
    }
    Some(words)
}

fn switch(setting: u32) -> Option<bool> {
    (setting != UNKNOWN).then_some(setting != 0)
}

impl VfLinkState {
    fn read(value: u32) -> Option<Self> {
        match value {
            0 => Some(VfLinkState::Auto),
            1 => Some(VfLinkState::Enable),
            2 => Some(VfLinkState::Disable),
            _ => None,
        }
    }

    const fn number(self) -> u32 {
        match self {
            Self::Auto => 0,
            Self::Enable => 1,
            Self::Disable => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What `ip link set dev v0 vf 3 …` (iproute2 6.1) sends to link 3 behind the netlink header.
    #[test]
    fn changes_are_the_bytes_that_iproute2_sends() {
        let header = "00000000030000000000000000000000";
        let tagged = |service| Some(VfVlan { id: 5, qos: 2, service });
        let cases = [
            // mac 52:54:00:01:02:03 vlan 5 qos 2 spoofchk on trust off
            (
                VfChange {
                    mac: Some(MAC),
                    vlan: tagged(false),
                    spoof_check: Some(true),
                    trust: Some(false),
                    link_state: None,
                },
                "580016005400010028000100030000005254000102030000000000000000000000000000000000000000000000000000\
                 100002000300000005000000020000000c00040003000000010000000c0009000300000000000000",
            ),
            // state disable
            (
                VfChange { link_state: Some(VfLinkState::Disable), ..VfChange::default() },
                "14001600100001000c0005000300000002000000",
            ),
            // vlan 5 qos 2 proto 802.1ad
            (
                VfChange { vlan: tagged(true), ..VfChange::default() },
                "200016001c00010018000c001400010003000000050000000200000088a80000",
            ),
        ];
        for (change, expected) in cases {
            let request = Request::set_vf(3, 3, &change);
            assert_eq!(hex(&request.body), format!("{header}{expected}"));
        }
    }

    fn entry(kind: u16, words: &[u32]) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.put(kind, &words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>());
        writer.into_bytes()
    }

    fn message(vfs: &[Vec<u8>]) -> Vec<u8> {
        let mut list = Writer::new();
        for vf in vfs {
            list.put(IFLA_VF_INFO, vf);
        }
        let mut message = Writer::new();
        message.raw(&[0; HEADER]).put(3, b"eth0\0").put(IFLA_VFINFO_LIST, &list.into_bytes()).put(27, &[0; 4]);
        message.into_bytes()
    }

    /// In the kernel's order (`rtnl_fill_vfinfo`), with what means nothing to us.
    fn whole(number: u32, vlan_info: &[u8]) -> Vec<u8> {
        let mut mac = Writer::new();
        put_mac(&mut mac, number, MAC);
        let mut vlans = Writer::new();
        vlans.put(IFLA_VF_VLAN_INFO, vlan_info);
        let mut list = Writer::new();
        list.put(IFLA_VF_VLAN_LIST, &vlans.into_bytes());
        [
            mac.into_bytes(),
            entry(13, &[u32::MAX; 8]),
            entry(IFLA_VF_VLAN, &[number, 5, 2]),
            entry(IFLA_VF_RATE, &[number, 100, 2000]),
            entry(3, &[number, 2000]),
            entry(IFLA_VF_SPOOFCHK, &[number, 1]),
            entry(IFLA_VF_LINK_STATE, &[number, 2]),
            entry(7, &[number, u32::MAX]),
            entry(IFLA_VF_TRUST, &[number, u32::MAX]),
            list.into_bytes(),
        ]
        .concat()
    }

    fn vlan_info(number: u32, protocol: u16) -> Vec<u8> {
        [&[number, 5, 2].map(u32::to_ne_bytes).concat()[..], &protocol.to_be_bytes(), &[0; 2]].concat()
    }

    #[test]
    fn what_the_kernel_lists_is_read() {
        let vf = VirtualFunction {
            number: 0,
            mac: Some(MAC),
            vlan: Some(VfVlan { id: 5, qos: 2, service: true }),
            spoof_check: Some(true),
            trust: None,
            link_state: Some(VfLinkState::Disable),
            min_rate: Some(100),
            max_rate: Some(2000),
            partly_read: false,
        };
        let other =
            VirtualFunction { number: 7, vlan: Some(VfVlan { service: false, ..vf.vlan.unwrap() }), ..vf.clone() };
        let listed = [whole(0, &vlan_info(0, ETH_P_8021AD)), whole(7, &vlan_info(7, ETH_P_8021Q))];
        assert_eq!(read(&message(&listed)), [vf, other]);
        assert_eq!(read(&message(&[])), []);
    }

    #[test]
    fn what_looks_odd_is_lost_alone() {
        let odd = [
            entry(IFLA_VF_MAC, &[4]),
            entry(IFLA_VF_VLAN, &[4, 1 << 20, 0]),
            entry(IFLA_VF_RATE, &[4]),
            entry(IFLA_VF_SPOOFCHK, &[4]),
            entry(IFLA_VF_TRUST, &[]),
            entry(IFLA_VF_LINK_STATE, &[4, 9]),
            vec![9, 0, 1],
        ];
        for attribute in odd {
            let vfs = read(&message(&[[entry(3, &[4, 0]), entry(IFLA_VF_RATE, &[4, 0, 10]), attribute].concat()]));
            let [vf] = &vfs[..] else { panic!("{vfs:?}") };
            assert!(vf.partly_read, "{vf:?}");
            let rest = VirtualFunction { partly_read: false, ..vf.clone() };
            let expected = VirtualFunction { number: 4, min_rate: Some(0), max_rate: Some(10), ..Default::default() };
            assert_eq!(rest, expected);
        }
        let unknown_tag = read(&message(&[whole(1, &vlan_info(1, 0x9100))]));
        assert_eq!(unknown_tag[0].vlan, Some(VfVlan { id: 5, qos: 2, service: false }));
        assert!(unknown_tag[0].partly_read);
        assert_eq!(read(&message(&[entry(13, &[1; 8])])), [], "nothing tells its number");
    }
}
