//! Links: reading, making, changing, deleting.

mod bond;
mod bridge;
mod make;
mod read;
mod set;
mod vlan;

pub use bond::BondOptions;
pub use bridge::{BridgeOptions, BridgePort};
pub use make::{BridgeSpec, IfbSpec, MacvlanSpec, VethSpec};
pub(crate) use read::read;
pub use set::LinkChange;
pub(crate) use vlan::read as read_vlans;
pub use vlan::{BridgeVlans, VlansOf};

use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::error::Error;
use crate::socket::{Dump, Request, Socket};

/// Length of `struct ifinfomsg`.
pub(crate) const HEADER: usize = 16;
pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;

/// A kernel network device, as far as it could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The interface index: unique and stable for the link's life in its namespace.
    pub index: u32,
    /// Up to 15 bytes; bytes that are not UTF-8 are shown as U+FFFD.
    pub name: String,
    /// The driver's kind, such as `bridge`, `veth`, `tun`, `macvlan`; `None` for most hardware.
    pub kind: Option<String>,
    /// The Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// In bytes, link header not counted.
    pub mtu: u32,
    /// Hardware type (`ARPHRD_*`): 1 is Ethernet, 772 loopback.
    pub hardware: u16,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Has a carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// The operational state of RFC 2863.
    pub operstate: OperState,
    /// Receives all multicast frames (`IFF_ALLMULTI`, the flag as it was set by an administrator).
    pub all_multicast: bool,
    /// Index of the bridge, bond or VRF that this link is a port of (`IFLA_MASTER`).
    pub controller: Option<u32>,
    /// Index of the link below: a macvlan's or VLAN's parent, a veth's peer (`IFLA_LINK`). `None` when that link is in
    /// another network namespace.
    pub lower: Option<u32>,
    /// The free text that people and programs attach; bytes that are not UTF-8 are shown as U+FFFD.
    pub alias: Option<String>,
    /// The group number; 0 by default.
    pub group: u32,
    /// Transmit and receive queues.
    pub queues: (u32, u32),
    /// As a bridge port: its settings.
    pub port: Option<BridgePort>,
    /// As a bridge: its settings.
    pub bridge: Option<BridgeOptions>,
    /// As a bond: its settings.
    pub bond: Option<Box<BondOptions>>,
    /// As a VLAN link: the VLAN's number, 0 to 4094.
    pub vlan: Option<u16>,
    /// As a macvlan or macvtap: its mode.
    pub macvlan: Option<MacvlanMode>,
    /// As a tun or tap device: its settings.
    pub tun: Option<TunInfo>,
    /// IPv6 makes no link-local address by itself (`addrgenmode none`); `None` where IPv6 is absent from the link.
    pub addr_gen_none: Option<bool>,
    /// An attribute that this struct stands for had an unexpected form; its field has the default value.
    pub partly_read: bool,
}

/// The operational state of a link, RFC 2863 (kernel: `IF_OPER_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OperState {
    /// The driver does not say; common for tap and loopback.
    #[default]
    Unknown,
    /// The hardware is absent.
    NotPresent,
    /// Down.
    Down,
    /// The link below is down.
    LowerLayerDown,
    /// In a test mode.
    Testing,
    /// Waiting for an external event, such as authentication.
    Dormant,
    /// Up.
    Up,
}

/// How a macvlan or macvtap exchanges frames with its siblings (kernel: `MACVLAN_MODE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacvlanMode {
    /// Siblings do not hear each other.
    Private,
    /// Everything goes out; the switch may reflect it (802.1Qbg's virtual Ethernet port aggregator).
    Vepa,
    /// Siblings reach each other directly.
    Bridge,
    /// One macvlan takes the whole lower link.
    Passthru,
    /// Only frames from listed sources.
    Source,
}

/// What the kernel tells about a tun or tap device (kernel: `IFLA_TUN_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunInfo {
    /// Carries Ethernet frames (a tap), not IP packets.
    pub tap: bool,
    /// Stays when its last descriptor is closed.
    pub persist: bool,
    /// The user who may open it, besides those with CAP_NET_ADMIN.
    pub owner: Option<u32>,
    /// Frames carry a virtio-net header.
    pub vnet_header: bool,
    /// Several queues may be attached.
    pub multi_queue: bool,
    /// Queues attached now; told for multi-queue devices only.
    pub open_queues: Option<u32>,
}

impl Request {
    pub(crate) fn link(name: &'static str, flags: u16, message: RouteNetlinkMessage) -> Self {
        Request::new(name, flags, HEADER, &message)
    }

    /// Deletes a link by index. Waits for RCU in the kernel: 15–30 ms.
    pub fn delete_link(index: u32) -> Self {
        let mut message = LinkMessage::default();
        message.header.index = index;
        Request::link("delete the link", 0, RouteNetlinkMessage::DelLink(message))
    }

    /// Deletes **every** link of a group, whoever put it there; for a hundred links as dear as for two.
    pub fn delete_group(group: u32) -> Self {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Group(group));
        Request::link("delete the links of the group", 0, RouteNetlinkMessage::DelLink(message))
    }
}

impl Socket {
    /// All links of the namespace, without statistics.
    ///
    /// # Errors
    /// [`Error::Kernel`] and the socket's own errors.
    pub fn links(&mut self) -> Result<Dump<Link>, Error> {
        let request = get_link("list links", 0, None);
        self.dump(&request, RTM_NEWLINK, read)
    }

    /// The link with this index; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::Kernel`] and the socket's own errors.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, Error> {
        self.one_link(&get_link("read the link", index, None))
    }

    /// The link with this name; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::Kernel`], such as ERANGE for a name of more than 15 bytes, and the socket's own errors.
    pub fn link_by_name(&mut self, name: &str) -> Result<Option<Link>, Error> {
        self.one_link(&get_link("read the link", 0, Some(name)))
    }

    fn one_link(&mut self, request: &Request) -> Result<Option<Link>, Error> {
        match self.ask(request) {
            Ok(replies) => Ok(replies.iter().find_map(|payload| read(payload))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes a link by index. Waits for RCU in the kernel: 15–30 ms.
    ///
    /// # Errors
    /// [`Error::Kernel`] with ENODEV when there is no such link, and the socket's own errors.
    pub fn delete_link(&mut self, index: u32) -> Result<(), Error> {
        self.execute(&Request::delete_link(index))
    }

    /// Deletes **every** link of a group, whoever put it there. The caller makes sure from a dump that it holds nothing
    /// foreign. An empty group is no error.
    ///
    /// # Errors
    /// [`Error::Kernel`] and the socket's own errors.
    pub fn delete_group(&mut self, group: u32) -> Result<(), Error> {
        match self.execute(&Request::delete_group(group)) {
            Err(error) if error.is_not_found() => Ok(()),
            result => result,
        }
    }
}

fn get_link(what: &'static str, index: u32, name: Option<&str>) -> Request {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Unspec;
    message.header.index = index;
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message.attributes.extend(name.map(|n| LinkAttribute::IfName(n.to_owned())));
    Request::link(what, 0, RouteNetlinkMessage::GetLink(message))
}
