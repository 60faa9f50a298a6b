//! VLANs of a NIC, portgroup or network (IEEE 802.1Q).

/// `<vlan>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// `trunk`: given, or implied by several tags or a native one; never `Some(false)`, as libvirt forgets that.
    pub trunk: Option<bool>,
    /// `<tag>` elements; at least one.
    pub tags: Vec<VlanTag>,
}

/// `<tag id nativeMode>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanTag {
    /// VLAN id, 0 to 4095 as libvirt takes it (0 and 4095 mean nothing on the wire).
    pub id: u16,
    /// Whether this is the native VLAN, and whether its frames carry a tag.
    pub native: Option<NativeMode>,
}

/// How the native VLAN's frames leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NativeMode {
    /// `tagged`
    Tagged,
    /// `untagged`
    Untagged,
}
