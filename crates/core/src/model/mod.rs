//! What a network and a NIC are: plain values, one file per noun, with libvirt's names and units.
//!
//! Values here are well-formed by construction where a type can say so; what depends on several fields is
//! checked by `Network::validate` and `Nic::validate`.

mod actual;
mod bandwidth;
mod bridge;
mod dhcp;
mod dns;
mod forward;
pub mod interface;
mod ip;
mod mac;
mod metadata;
mod name;
mod network;
mod nic;
mod port;
mod portgroup;
mod update;
mod validate;
mod virtualport;
mod vlan;

pub use actual::{ActualType, VIRTUALPORT_TYPES_HINT};
pub use bandwidth::{Bandwidth, Rate};
pub use bridge::{Bridge, MacTableManager};
pub use dhcp::{Bootp, Dhcp, DhcpHost, DhcpRange, Expiry, LeaseUnit};
pub use dns::{Dns, DnsForwarder, DnsHost, DnsSrv, DnsTxt};
pub use forward::{DeviceRef, Forward, ForwardMode, Nat, PciAddress};
pub use interface::Interface;
pub use ip::{Family, Ip, Mask, Route};
pub use mac::MacAddr;
pub use metadata::{Metadata, MetadataElement, MetadataNode, MetadataPart};
pub use name::{LinkName, Name, Tag};
pub use network::{Domain, Network};
pub use nic::{DevicePlug, DirectMode, LinkState, Nic, NicSource, NicType};
pub use port::{NetworkPort, Plug};
pub use portgroup::Portgroup;
pub use update::{UpdateCommand, UpdateSection};
pub use virtualport::{VirtualPort, VirtualPortType};
pub use vlan::{NativeMode, Vlan, VlanTag};
