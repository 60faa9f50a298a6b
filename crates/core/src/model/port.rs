//! A network port: libvirt's record that one NIC occupies a network.

use super::{Bandwidth, DirectMode, LinkName, MacAddr, MacTableManager, Name, PciAddress, VirtualPort, Vlan};
use std::fmt;
use uuid::Uuid;

/// `<networkport>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPort {
    /// `<uuid>`: the client's choice.
    pub uuid: Option<Uuid>,
    /// `<owner>`'s `<name>`: the guest.
    pub owner: Name,
    /// `<owner>`'s `<uuid>`.
    pub owner_uuid: Uuid,
    /// `<group>`: the portgroup.
    pub group: Option<Name>,
    /// `<mac address>`
    pub mac: MacAddr,
    /// `<virtualport>`
    pub virtualport: Option<VirtualPort>,
    /// `<bandwidth>`
    pub bandwidth: Option<Bandwidth>,
    /// `<bandwidth classID>`: the traffic class that its guaranteed rate has on the bridge.
    pub class_id: Option<u32>,
    /// `<vlan>`
    pub vlan: Option<Vlan>,
    /// `<port isolated>`
    pub isolated: Option<bool>,
    /// `<rxfilters trustGuest>`
    pub trust_guest_rx_filters: Option<bool>,
    /// `<plug>`: how to connect. A client gives it only to claim back a port that it had.
    pub plug: Option<Plug>,
}

/// `<plug>`: how a NIC is to be connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plug {
    /// `type='none'`
    None,
    /// `type='network'`: a network's own bridge.
    Network {
        /// `bridge`
        bridge: LinkName,
        /// `macTableManager`
        mac_table_manager: Option<MacTableManager>,
    },
    /// `type='bridge'`: a host bridge.
    Bridge {
        /// `bridge`
        bridge: LinkName,
        /// `macTableManager`
        mac_table_manager: Option<MacTableManager>,
    },
    /// `type='direct'`: macvtap.
    Direct {
        /// `dev`
        dev: LinkName,
        /// `mode`
        mode: Option<DirectMode>,
    },
    /// `type='hostdev-pci'`: a PCI device.
    Hostdev {
        /// `managed`
        managed: Option<bool>,
        /// `<driver name>`
        driver: Option<String>,
        /// `<address>`
        address: PciAddress,
    },
}

impl fmt::Display for Plug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("nothing"),
            Self::Network { bridge, .. } | Self::Bridge { bridge, .. } => write!(f, "bridge {bridge}"),
            Self::Direct { dev, mode: None } => write!(f, "device {dev}"),
            Self::Direct { dev, mode: Some(mode) } => write!(f, "device {dev} in mode {}", mode.as_str()),
            Self::Hostdev { address, .. } => write!(f, "PCI device {address}"),
        }
    }
}
