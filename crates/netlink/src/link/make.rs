//! New links. The kernel makes taps through `/dev/net/tun` only, so they are not here.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoMacVlan, InfoMacVtap, InfoVeth, LinkAttribute, LinkInfo, LinkMessage, MacVlanMode,
};

use super::{BridgeOptions, LinkChange, MacvlanMode, read};
use crate::channel::{NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL};
use crate::error::Error;
use crate::socket::{Request, Socket};

/// A bridge to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BridgeSpec {
    /// At most 15 bytes.
    pub name: String,
    /// `None`: the kernel draws one, which then follows the ports' addresses.
    pub mac: Option<[u8; 6]>,
    /// In bytes. `None`: the kernel's 1500, which then follows the smallest port.
    pub mtu: Option<u32>,
    /// STP, forward delay, VLAN filtering and the like.
    pub options: BridgeOptions,
    /// Set right after the bridge is made; the kernel takes no alias at creation.
    pub alias: Option<String>,
    /// The group number, part of the creation itself.
    pub group: u32,
    /// IPv6 makes no address by itself on it.
    pub addr_gen_none: bool,
    /// Whether it comes up at once.
    pub up: bool,
}

/// A macvlan or macvtap to be made. It comes down, so that IPv6 can be kept quiet first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MacvlanSpec {
    /// At most 15 bytes.
    pub name: String,
    /// Index of the link below.
    pub lower: u32,
    /// How it exchanges frames with its siblings.
    pub mode: MacvlanMode,
    /// A macvtap, with a character device, instead of a macvlan.
    pub tap: bool,
    /// Ignored by the kernel for mode passthru, which takes the lower link's.
    pub mac: Option<[u8; 6]>,
    /// In bytes; `None`: the lower link's.
    pub mtu: Option<u32>,
    /// The group number.
    pub group: u32,
    /// Set right after the link is made.
    pub alias: Option<String>,
}

/// An intermediate functional block to be made: a link that gives frames which are redirected to it back to where they
/// came from, after its own qdisc. So what comes in at a link can wait in classes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IfbSpec {
    /// At most 15 bytes.
    pub name: String,
    /// The group number, part of the creation itself.
    pub group: u32,
    /// Set right after the link is made.
    pub alias: Option<String>,
    /// IPv6 makes no address by itself on it.
    pub addr_gen_none: bool,
    /// Whether it comes up at once; it passes nothing while it is down.
    pub up: bool,
}

/// A veth pair to be made, both ends down and in this namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VethSpec {
    /// The end whose index is returned; at most 15 bytes.
    pub name: String,
    /// The other end; at most 15 bytes.
    pub peer: String,
    /// The first end's Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// The group number of both ends.
    pub group: u32,
}

impl Socket {
    /// Makes a bridge and returns its index.
    ///
    /// # Errors
    /// [`Error::Kernel`], with EEXIST when the name is taken, and the socket's own errors. When a step after the creation
    /// is refused, the bridge is deleted again.
    pub fn make_bridge(&mut self, spec: &BridgeSpec) -> Result<u32, Error> {
        let mut message = new_link(&spec.name, spec.mac, spec.mtu, spec.group);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(spec.options.encode())),
        ]));
        let finish = LinkChange {
            alias: spec.alias.clone(),
            addr_gen_none: spec.addr_gen_none.then_some(true),
            up: spec.up.then_some(true),
            ..LinkChange::default()
        };
        self.make("make the bridge", message, &spec.name, &finish)
    }

    /// Makes a macvlan or macvtap, down, and returns its index.
    ///
    /// # Errors
    /// [`Error::Kernel`], with EBUSY when the lower link is a bridge port, and the socket's own errors.
    pub fn make_macvlan(&mut self, spec: &MacvlanSpec) -> Result<u32, Error> {
        let mut message = new_link(&spec.name, spec.mac, spec.mtu, spec.group);
        message.attributes.push(LinkAttribute::Link(spec.lower));
        message.attributes.push(macvlan_info(spec.tap, spec.mode));
        let finish = LinkChange { alias: spec.alias.clone(), ..LinkChange::default() };
        self.make("make the macvlan", message, &spec.name, &finish)
    }

    /// Changes the mode of an existing macvlan or macvtap in place. To or from passthru the kernel refuses it.
    ///
    /// # Errors
    /// [`Error::Kernel`] and the socket's own errors.
    pub fn set_macvlan_mode(&mut self, index: u32, tap: bool, mode: MacvlanMode) -> Result<(), Error> {
        self.execute(&Request::set_macvlan_mode(index, tap, mode))
    }

    /// Makes an intermediate functional block and returns its index.
    ///
    /// # Errors
    /// [`Error::Kernel`], with EEXIST when the name is taken, and the socket's own errors. When a step after the creation
    /// is refused, the link is deleted again.
    pub fn make_ifb(&mut self, spec: &IfbSpec) -> Result<u32, Error> {
        let mut message = new_link(&spec.name, None, None, spec.group);
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]));
        let finish = LinkChange {
            alias: spec.alias.clone(),
            addr_gen_none: spec.addr_gen_none.then_some(true),
            up: spec.up.then_some(true),
            ..LinkChange::default()
        };
        self.make("make the ifb link", message, &spec.name, &finish)
    }

    /// Makes a veth pair, both ends down, and returns the first end's index; the other's is its
    /// [`lower`](super::Link::lower).
    ///
    /// # Errors
    /// [`Error::Kernel`] and the socket's own errors.
    pub fn make_veth(&mut self, spec: &VethSpec) -> Result<u32, Error> {
        let mut message = new_link(&spec.name, spec.mac, None, spec.group);
        let peer = new_link(&spec.peer, None, None, spec.group);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.make("make the veth pair", message, &spec.name, &LinkChange::default())
    }

    fn make(
        &mut self,
        what: &'static str,
        message: LinkMessage,
        name: &str,
        finish: &LinkChange,
    ) -> Result<u32, Error> {
        let flags = NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO;
        let request = Request::link(what, flags, RouteNetlinkMessage::NewLink(message));
        let replies = self.ask(&request)?;
        // Kernels before 6.2 ignore NLM_F_ECHO for links, so ask for the new link by name there.
        let echoed = replies.iter().find_map(|payload| read(payload)).map(|link| link.index);
        let index = match echoed {
            Some(index) => index,
            None => match self.link_by_name(name)? {
                Some(link) => link.index,
                None => return Err(Error::Answer { request: what, what: "missing: the new link is gone again" }),
            },
        };
        if let Err(error) = self.set_link(index, finish) {
            // The refusal is what the caller needs to hear; a link that cannot be deleted either shows in the next
            // snapshot, by its group.
            let _ = self.delete_link(index);
            return Err(error);
        }
        Ok(index)
    }
}

impl Request {
    /// Changes the mode of an existing macvlan or macvtap; see [`Socket::set_macvlan_mode`].
    pub fn set_macvlan_mode(index: u32, tap: bool, mode: MacvlanMode) -> Self {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(macvlan_info(tap, mode));
        Request::link("change the macvlan's mode", 0, RouteNetlinkMessage::NewLink(message))
    }
}

fn new_link(name: &str, mac: Option<[u8; 6]>, mtu: Option<u32>, group: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    message.attributes.extend((group != 0).then_some(LinkAttribute::Group(group)));
    message
}

fn macvlan_info(tap: bool, mode: MacvlanMode) -> LinkAttribute {
    let (kind, data) = if tap {
        (InfoKind::MacVtap, InfoData::MacVtap(vec![InfoMacVtap::Mode(mode.into())]))
    } else {
        (InfoKind::MacVlan, InfoData::MacVlan(vec![InfoMacVlan::Mode(mode.into())]))
    };
    LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)])
}

impl From<MacvlanMode> for MacVlanMode {
    fn from(mode: MacvlanMode) -> Self {
        match mode {
            MacvlanMode::Private => MacVlanMode::Private,
            MacvlanMode::Vepa => MacVlanMode::Vepa,
            MacvlanMode::Bridge => MacVlanMode::Bridge,
            MacvlanMode::Passthru => MacVlanMode::Passthrough,
            MacvlanMode::Source => MacVlanMode::Source,
        }
    }
}
