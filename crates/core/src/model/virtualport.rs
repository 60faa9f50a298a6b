//! Virtual port parameters: 802.1Qbg, 802.1Qbh, Open vSwitch and midonet.

use uuid::Uuid;

/// `<virtualport type>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VirtualPortType {
    /// `802.1Qbg`
    Qbg,
    /// `802.1Qbh`
    Qbh,
    /// `openvswitch`
    OpenVSwitch,
    /// `midonet`
    Midonet,
}

impl VirtualPortType {
    /// libvirt's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Qbg => "802.1Qbg",
            Self::Qbh => "802.1Qbh",
            Self::OpenVSwitch => "openvswitch",
            Self::Midonet => "midonet",
        }
    }
}

/// `<virtualport>`: a type and whatever parameters were given; complete or not is decided after merging.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtualPort {
    /// The type; without one, the other sides' is taken.
    pub kind: Option<VirtualPortType>,
    /// `managerid`, 0 to 255.
    pub manager_id: Option<u8>,
    /// `typeid`, 24 bits.
    pub type_id: Option<u32>,
    /// `typeidversion`, 0 to 255.
    pub type_id_version: Option<u8>,
    /// `instanceid`
    pub instance_id: Option<Uuid>,
    /// `profileid`
    pub profile_id: Option<String>,
    /// `interfaceid`
    pub interface_id: Option<Uuid>,
}

impl VirtualPort {
    /// The first parameter that means nothing to its type; `None` if there is none or no type yet (libvirt's rules).
    pub fn foreign_parameter(&self) -> Option<&'static str> {
        use VirtualPortType::{Midonet, OpenVSwitch, Qbg, Qbh};
        let kind = self.kind?;
        let qbg = kind == Qbg;
        [
            ("managerid", self.manager_id.is_some(), qbg),
            ("typeid", self.type_id.is_some(), qbg),
            ("typeidversion", self.type_id_version.is_some(), qbg),
            ("instanceid", self.instance_id.is_some(), qbg),
            ("profileid", self.profile_id.is_some(), matches!(kind, Qbh | OpenVSwitch)),
            ("interfaceid", self.interface_id.is_some(), matches!(kind, OpenVSwitch | Midonet)),
        ]
        .into_iter()
        .find_map(|(name, given, wanted)| (given && !wanted).then_some(name))
    }
}
