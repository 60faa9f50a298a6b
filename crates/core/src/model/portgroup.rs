//! A named class of connections inside a network.

use super::{Bandwidth, Name, Tag, VirtualPort, Vlan};

/// `<portgroup>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portgroup {
    /// Unique within the network.
    pub name: Name,
    /// Whether a NIC that names no portgroup gets this one.
    pub default: Option<bool>,
    /// Whether guests may change their MAC filter.
    pub trust_guest_rx_filters: Option<bool>,
    /// Labels.
    pub tags: Vec<Tag>,
    /// VLANs.
    pub vlan: Option<Vlan>,
    /// Virtual port parameters.
    pub virtualport: Option<VirtualPort>,
    /// Bandwidth of each NIC.
    pub bandwidth: Option<Bandwidth>,
}
