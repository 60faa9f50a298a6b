//! A guest's network interface, as its owner configured it.

use super::{Bandwidth, LinkName, MacAddr, Name, Tag, VirtualPort, Vlan};
use uuid::Uuid;

/// What a NIC is plugged into: `<interface type>` with its `<source>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NicSource {
    /// `type='network'`
    Network {
        /// `<source network>`
        network: Name,
        /// `<source portgroup>`
        portgroup: Option<Name>,
    },
    /// `type='bridge'`: a host bridge.
    Bridge {
        /// `<source bridge>`
        bridge: LinkName,
    },
    /// `type='direct'`: macvtap on a host link.
    Direct {
        /// `<source dev>`
        dev: LinkName,
        /// `<source mode>`; vepa unless given.
        mode: Option<DirectMode>,
    },
    /// `type='none'` (or `null`): plugged into nothing.
    None,
}

/// The types of [`NicSource`], without their contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NicType {
    /// A network.
    Network,
    /// A host bridge.
    Bridge,
    /// macvtap on a host link.
    Direct,
    /// A PCI device given to the guest.
    Hostdev,
    /// Nothing.
    None,
}

/// macvtap's modes, with libvirt's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DirectMode {
    /// `vepa`
    Vepa,
    /// `bridge`
    Bridge,
    /// `private`
    Private,
    /// `passthrough`
    Passthrough,
}

/// `<link state>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkState {
    /// `up`
    #[default]
    Up,
    /// `down`: the cable is out.
    Down,
}

/// `<interface>` of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// What it is plugged into.
    pub source: NicSource,
    /// `<source portid>`: the libvirt port this NIC came from.
    pub port_id: Option<Uuid>,
    /// `<source startupPolicy='optional'>`: wait for a missing device instead of failing.
    pub optional: bool,
    /// `<mac address>`; generated when absent, save for NICs whose guest chooses its own.
    pub mac: Option<MacAddr>,
    /// `<target dev>`: the tap's name.
    pub target: Option<LinkName>,
    /// Labels.
    pub tags: Vec<Tag>,
    /// `<virtualport>`
    pub virtualport: Option<VirtualPort>,
    /// `<bandwidth>`
    pub bandwidth: Option<Bandwidth>,
    /// `<vlan>`
    pub vlan: Option<Vlan>,
    /// `trustGuestRxFilters`
    pub trust_guest_rx_filters: Option<bool>,
    /// `<port isolated>`
    pub port_isolated: Option<bool>,
    /// `<link state>`
    pub link: Option<LinkState>,
    /// `<mtu size>`, 68 to 65535 bytes.
    pub mtu: Option<u32>,
    /// `<driver queues>`, 1 to 256.
    pub queues: Option<u16>,
    /// `<pc:driver plug='macvtap'>`: a true macvtap instead of a cord.
    pub plug_macvtap: bool,
    /// Children that are the VMM's affair (model, address, boot and the like), as written, in order.
    pub kept: Vec<String>,
}

impl Nic {
    /// A NIC of that source with nothing else said.
    pub fn new(source: NicSource) -> Self {
        Self {
            source,
            port_id: None,
            optional: false,
            mac: None,
            target: None,
            tags: Vec::new(),
            virtualport: None,
            bandwidth: None,
            vlan: None,
            trust_guest_rx_filters: None,
            port_isolated: None,
            link: None,
            mtu: None,
            queues: None,
            plug_macvtap: false,
            kept: Vec::new(),
        }
    }

    /// The type of its source.
    pub const fn kind(&self) -> NicType {
        match self.source {
            NicSource::Network { .. } => NicType::Network,
            NicSource::Bridge { .. } => NicType::Bridge,
            NicSource::Direct { .. } => NicType::Direct,
            NicSource::None => NicType::None,
        }
    }
}
