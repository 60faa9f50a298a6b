//! Changes to existing links.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage};

use crate::error::Error;
use crate::socket::{Request, Socket};

/// What to change about a link; `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// Administratively up or down.
    pub up: Option<bool>,
    /// In bytes.
    pub mtu: Option<u32>,
    /// The Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// The bridge, bond or VRF to join, by index, or `Some(None)` to leave it.
    pub controller: Option<Option<u32>>,
    /// At most 15 bytes.
    pub name: Option<String>,
    /// The group number.
    pub group: Option<u32>,
    /// At most 255 bytes; empty removes it.
    pub alias: Option<String>,
    /// True: IPv6 makes no address by itself on this link. False: EUI-64, the kernel's default.
    pub addr_gen_none: Option<bool>,
    /// Receive all multicast frames.
    pub all_multicast: Option<bool>,
    /// Neither ask nor answer by ARP.
    pub no_arp: Option<bool>,
}

impl LinkChange {
    fn message(&self, index: u32) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let flags =
            [(LinkFlags::Up, self.up), (LinkFlags::Allmulti, self.all_multicast), (LinkFlags::Noarp, self.no_arp)];
        for (flag, wanted) in flags {
            let Some(on) = wanted else { continue };
            message.header.change_mask |= flag;
            message.header.flags.set(flag, on);
        }
        let attributes = &mut message.attributes;
        attributes.extend(self.name.clone().map(LinkAttribute::IfName));
        attributes.extend(self.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        attributes.extend(self.mtu.map(LinkAttribute::Mtu));
        attributes.extend(self.group.map(LinkAttribute::Group));
        attributes.extend(self.controller.map(|index| LinkAttribute::Controller(index.unwrap_or(0))));
        attributes.extend(self.alias.as_ref().map(|alias| alias_attribute(alias)));
        attributes.extend(self.addr_gen_none.map(|none| {
            let mode = if none { In6AddrGenMode::None } else { In6AddrGenMode::Eui64 };
            LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)])])
        }));
        message
    }

    fn is_empty(&self) -> bool {
        *self == LinkChange::default()
    }
}

/// The alias without a terminating NUL: the kernel stores the attribute's bytes as they are, and length 0 removes it.
fn alias_attribute(alias: &str) -> LinkAttribute {
    const IFLA_IFALIAS: u16 = 20;
    LinkAttribute::Other(netlink_packet_core::DefaultNla::new(IFLA_IFALIAS, alias.as_bytes().to_vec()))
}

impl Request {
    /// Changes a link: one `RTM_SETLINK`, and one in front of it where the kernel's own order inside a message would be
    /// wrong: IPv6 is told to make no address before the link comes up, and a link is down before it is renamed
    /// (kernels before 6.2 refuse otherwise). Nothing to change gives no request.
    pub fn set_link(index: u32, change: &LinkChange) -> Vec<Self> {
        let mut first = LinkChange::default();
        let mut rest = change.clone();
        if rest.up == Some(true) && rest.addr_gen_none == Some(true) {
            first.addr_gen_none = rest.addr_gen_none.take();
        }
        if rest.up == Some(false) && rest.name.is_some() {
            first.up = rest.up.take();
        }
        [first, rest]
            .iter()
            .filter(|part| !part.is_empty())
            .map(|part| Request::link("change the link", 0, RouteNetlinkMessage::SetLink(part.message(index))))
            .collect()
    }
}

impl Socket {
    /// Changes a link; see [`Request::set_link`].
    ///
    /// # Errors
    /// [`Error::Kernel`] and the socket's own errors. A refused change stops where it was refused.
    pub fn set_link(&mut self, index: u32, change: &LinkChange) -> Result<(), Error> {
        Request::set_link(index, change).iter().try_for_each(|request| self.execute(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_one_message_unless_order_matters() {
        let change = LinkChange { up: Some(true), controller: Some(Some(4)), mtu: Some(1500), ..Default::default() };
        assert_eq!(Request::set_link(3, &change).len(), 1);
        let quiet = LinkChange { addr_gen_none: Some(true), ..change };
        assert_eq!(Request::set_link(3, &quiet).len(), 2);
        assert_eq!(Request::set_link(3, &LinkChange::default()).len(), 0);
    }
}
