//! A guest's network interface, as its owner configured it.

use super::{Bandwidth, LinkName, MacAddr, Name, Tag, VirtualPort, VirtualPortType, Vlan};
use crate::{Error, ErrorKind, Result};
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

impl DirectMode {
    /// All of them, with libvirt's words.
    pub const WORDS: &[(&str, Self)] = &[
        ("vepa", Self::Vepa),
        ("bridge", Self::Bridge),
        ("private", Self::Private),
        ("passthrough", Self::Passthrough),
    ];

    /// libvirt's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vepa => "vepa",
            Self::Bridge => "bridge",
            Self::Private => "private",
            Self::Passthrough => "passthrough",
        }
    }
}

/// How a NIC is plugged into a device of the host's: `<pc:driver plug>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DevicePlug {
    /// By a cord: a tap joined to a macvlan on the device. The NIC can be moved to anything while it runs.
    #[default]
    Cord,
    /// By a macvtap, the kernel's own link of both: a little less work for each frame, and it stays on its device.
    Macvtap,
}

impl DevicePlug {
    /// Both, with the words that documents use.
    pub const WORDS: &[(&str, Self)] = &[("cord", Self::Cord), ("macvtap", Self::Macvtap)];

    /// The word that documents use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cord => "cord",
            Self::Macvtap => "macvtap",
        }
    }
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
    /// The other attributes of `<driver>`, which are the VMM's affair, in order.
    pub driver_attributes: Vec<(String, String)>,
    /// The children of `<driver>` (the guest's and the host's offloads), as written.
    pub driver_kept: Vec<String>,
    /// `<pc:driver plug>`: how it is plugged into a device; as the daemon's configuration says when absent.
    pub plug: Option<DevicePlug>,
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
            driver_attributes: Vec::new(),
            driver_kept: Vec::new(),
            plug: None,
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

    /// Checks what depends on several fields: parameters that a source has no use for.
    pub fn validate(&self) -> Result<()> {
        let object = self.mac.map_or_else(|| "NIC".to_owned(), |mac| format!("NIC {mac}"));
        let invalid = |field: &str, cause: &str| Err(Error::new(ErrorKind::InvalidXml, &object, cause).field(field));
        if self.mac.is_some_and(|mac| mac.is_multicast() || mac.is_zero()) {
            return invalid("<mac address>", "no NIC can have a multicast address or all zeros");
        }
        if let Some(port) = &self.virtualport {
            let software = matches!(port.kind, Some(VirtualPortType::OpenVSwitch | VirtualPortType::Midonet));
            if let Some(name) = port.foreign_parameter() {
                return invalid("<virtualport parameters>", &format!("'{name}' does not go with its type"));
            }
            if software && self.kind() == NicType::Direct {
                return invalid("<virtualport type>", "openvswitch and midonet are bridges: a direct NIC has neither");
            }
            if !software && port.kind.is_some() && self.kind() == NicType::Bridge {
                return invalid("<virtualport type>", "802.1Qbg and 802.1Qbh need a physical device, not a bridge");
            }
        }
        if self.plug == Some(DevicePlug::Macvtap) && self.kind() == NicType::Bridge {
            return invalid("<pc:driver plug>", "a bridge takes a tap: macvtap sits on a device");
        }
        if self.bandwidth.as_ref().and_then(|b| b.inbound).is_some_and(|r| r.floor.is_some())
            && !matches!(self.kind(), NicType::Network | NicType::None)
        {
            return invalid("<inbound floor>", "a guaranteed rate needs a network that counts what it has promised");
        }
        Ok(())
    }
}
