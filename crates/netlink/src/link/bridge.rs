//! Settings of bridges and of their ports.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, LinkAttribute,
    LinkInfo, LinkMessage,
};

use super::read::keep;
use crate::attr::Attrs;
use crate::error::Error;
use crate::socket::{Request, Socket};

const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BR_HELLO_TIME: u16 = 2;
const IFLA_BR_MAX_AGE: u16 = 3;
const IFLA_BR_AGEING_TIME: u16 = 4;
const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BR_PRIORITY: u16 = 6;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BR_GROUP_FWD_MASK: u16 = 9;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;

const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_GUARD: u16 = 5;
const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;
const IFLA_BRPORT_MCAST_FLOOD: u16 = 27;
const IFLA_BRPORT_BCAST_FLOOD: u16 = 30;
const IFLA_BRPORT_NEIGH_SUPPRESS: u16 = 32;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_BRPORT_LOCKED: u16 = 39;

/// A bridge's settings. When writing, `None` leaves a setting as it is; when reading, it means that the kernel did not tell
/// it. Times are in hundredths of a second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BridgeOptions {
    /// The spanning tree protocol runs.
    pub stp: Option<bool>,
    /// Time in the listening and the learning state each, 1/100 s; without STP the kernel takes 0.
    pub forward_delay: Option<u32>,
    /// Time between hellos, 1/100 s.
    pub hello_time: Option<u32>,
    /// Maximum message age, 1/100 s.
    pub max_age: Option<u32>,
    /// How long a learned address stays, 1/100 s.
    pub ageing_time: Option<u32>,
    /// The bridge's priority in the spanning tree.
    pub priority: Option<u16>,
    /// Ports have VLANs (IEEE 802.1Q).
    pub vlan_filtering: Option<bool>,
    /// The VLAN of untagged frames on new ports; 0 for none.
    pub vlan_default_pvid: Option<u16>,
    /// IGMP and MLD are listened to.
    pub multicast_snooping: Option<bool>,
    /// Which link-local groups 01:80:c2:00:00:0X are forwarded, by bit X.
    pub group_forward_mask: Option<u16>,
}

impl BridgeOptions {
    pub(super) fn read(attrs: Attrs<'_>) -> (Self, bool) {
        let mut options = BridgeOptions::default();
        let mut whole = true;
        for attr in attrs {
            let flag = attr.u8().map(|byte| Some(byte != 0));
            whole &= match attr.kind {
                IFLA_BR_FORWARD_DELAY => keep(&mut options.forward_delay, attr.u32().map(Some)),
                IFLA_BR_HELLO_TIME => keep(&mut options.hello_time, attr.u32().map(Some)),
                IFLA_BR_MAX_AGE => keep(&mut options.max_age, attr.u32().map(Some)),
                IFLA_BR_AGEING_TIME => keep(&mut options.ageing_time, attr.u32().map(Some)),
                IFLA_BR_STP_STATE => keep(&mut options.stp, attr.u32().map(|state| Some(state != 0))),
                IFLA_BR_PRIORITY => keep(&mut options.priority, attr.u16().map(Some)),
                IFLA_BR_VLAN_FILTERING => keep(&mut options.vlan_filtering, flag),
                IFLA_BR_VLAN_DEFAULT_PVID => keep(&mut options.vlan_default_pvid, attr.u16().map(Some)),
                IFLA_BR_MCAST_SNOOPING => keep(&mut options.multicast_snooping, flag),
                IFLA_BR_GROUP_FWD_MASK => keep(&mut options.group_forward_mask, attr.u16().map(Some)),
                _ => true,
            };
        }
        (options, whole)
    }

    pub(super) fn encode(&self) -> Vec<InfoBridge> {
        let stp = |on| if on { BridgeStpState::KernelStp } else { BridgeStpState::Disabled };
        [
            self.forward_delay.map(InfoBridge::ForwardDelay),
            self.hello_time.map(InfoBridge::HelloTime),
            self.max_age.map(InfoBridge::MaxAge),
            self.ageing_time.map(InfoBridge::AgeingTime),
            self.stp.map(|on| InfoBridge::StpState(stp(on))),
            self.priority.map(InfoBridge::Priority),
            self.vlan_filtering.map(InfoBridge::VlanFiltering),
            self.vlan_default_pvid.map(InfoBridge::VlanDefaultPvid),
            self.multicast_snooping.map(InfoBridge::MulticastSnooping),
            self.group_forward_mask.map(InfoBridge::GroupFwdMask),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// A bridge port's settings. When writing, `None` leaves a setting as it is; when reading, it means that the kernel did not
/// tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BridgePort {
    /// Exchanges frames with ports that are not isolated only.
    pub isolated: Option<bool>,
    /// Frames may leave by the port they came in.
    pub hairpin: Option<bool>,
    /// Source addresses are learned.
    pub learning: Option<bool>,
    /// Frames to unknown unicast addresses go out here.
    pub unicast_flood: Option<bool>,
    /// Frames to unknown multicast groups go out here.
    pub multicast_flood: Option<bool>,
    /// Broadcast frames go out here.
    pub broadcast_flood: Option<bool>,
    /// Spanning tree messages from here are ignored (kernel: guard).
    pub bpdu_guard: Option<bool>,
    /// The bridge answers ARP and neighbour discovery for known neighbours.
    pub neighbour_suppression: Option<bool>,
    /// Frames from sources without an entry of this port are dropped (kernel 5.18).
    pub locked: Option<bool>,
    /// The spanning tree state: 0 disabled, 1 listening, 2 learning, 3 forwarding, 4 blocking. Read only.
    pub state: Option<u8>,
}

impl BridgePort {
    pub(super) fn read(attrs: Attrs<'_>) -> (Self, bool) {
        let mut port = BridgePort::default();
        let mut whole = true;
        for attr in attrs {
            let flag = attr.u8().map(|byte| Some(byte != 0));
            whole &= match attr.kind {
                IFLA_BRPORT_STATE => keep(&mut port.state, attr.u8().map(Some)),
                IFLA_BRPORT_MODE => keep(&mut port.hairpin, flag),
                IFLA_BRPORT_GUARD => keep(&mut port.bpdu_guard, flag),
                IFLA_BRPORT_LEARNING => keep(&mut port.learning, flag),
                IFLA_BRPORT_UNICAST_FLOOD => keep(&mut port.unicast_flood, flag),
                IFLA_BRPORT_MCAST_FLOOD => keep(&mut port.multicast_flood, flag),
                IFLA_BRPORT_BCAST_FLOOD => keep(&mut port.broadcast_flood, flag),
                IFLA_BRPORT_NEIGH_SUPPRESS => keep(&mut port.neighbour_suppression, flag),
                IFLA_BRPORT_ISOLATED => keep(&mut port.isolated, flag),
                IFLA_BRPORT_LOCKED => keep(&mut port.locked, flag),
                _ => true,
            };
        }
        (port, whole)
    }

    fn encode(&self) -> Vec<InfoBridgePort> {
        [
            self.isolated.map(InfoBridgePort::Isolated),
            self.hairpin.map(InfoBridgePort::HairpinMode),
            self.learning.map(InfoBridgePort::Learning),
            self.unicast_flood.map(InfoBridgePort::UnicastFlood),
            self.multicast_flood.map(InfoBridgePort::MulticastFlood),
            self.broadcast_flood.map(InfoBridgePort::BroadcastFlood),
            self.bpdu_guard.map(InfoBridgePort::Guard),
            self.neighbour_suppression.map(InfoBridgePort::NeighSupress),
            self.locked.map(InfoBridgePort::Locked),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl Request {
    /// Changes settings of an existing bridge. An `RTM_NEWLINK` without `NLM_F_CREATE`: with `RTM_SETLINK` the kernel
    /// reports success and changes nothing.
    pub fn set_bridge(index: u32, options: &BridgeOptions) -> Self {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(options.encode())),
        ]));
        Request::link("change the bridge", 0, RouteNetlinkMessage::NewLink(message))
    }

    /// Changes settings of a link as a port of its bridge; the kernel refuses it (EINVAL or EOPNOTSUPP) when it is none.
    pub fn set_bridge_port(index: u32, port: &BridgePort) -> Self {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(port.encode())),
        ]));
        Request::link("change the bridge port", 0, RouteNetlinkMessage::NewLink(message))
    }
}

impl Socket {
    /// Changes settings of an existing bridge.
    ///
    /// # Errors
    /// [`Error::Kernel`] and the socket's own errors.
    pub fn set_bridge(&mut self, index: u32, options: &BridgeOptions) -> Result<(), Error> {
        self.execute(&Request::set_bridge(index, options))
    }

    /// Changes settings of a bridge port.
    ///
    /// # Errors
    /// [`Error::Kernel`] and the socket's own errors.
    pub fn set_bridge_port(&mut self, index: u32, port: &BridgePort) -> Result<(), Error> {
        self.execute(&Request::set_bridge_port(index, port))
    }
}
