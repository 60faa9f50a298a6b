//! What kind of connection a NIC's source comes down to, and what each kind can do.

use super::{DirectMode, ForwardMode, Network, Nic, NicSource, VirtualPortType, Vlan};

/// The kind of connection; libvirt's "actual type", with macvtap's mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActualType {
    /// A network's own bridge.
    Network,
    /// A bridge of the host's.
    Bridge,
    /// A cord or macvtap on a device of the host's.
    Direct(DirectMode),
    /// A PCI device given to the guest whole.
    Hostdev,
    /// Nothing, or nothing for now.
    None,
}

/// What helps against a virtualport's type in the wrong place: [`ActualType::takes_virtualport`] in words.
pub const VIRTUALPORT_TYPES_HINT: &str = "802.1Qbg goes with a device of the host's (cord or macvtap), \
    802.1Qbh with that or a PCI device, openvswitch and midonet with a bridge of the host's; leave <virtualport> out to go without";

impl ActualType {
    /// That of the NICs of a network. A network in mode `bridge` that names neither bridge nor device counts as one with a
    /// bridge, as Open vSwitch networks are written.
    pub fn of_network(network: &Network) -> Self {
        let forward = &network.forward;
        match forward.mode {
            ForwardMode::Isolated | ForwardMode::Nat | ForwardMode::Route | ForwardMode::Open => Self::Network,
            ForwardMode::Bridge if forward.devices.is_empty() && forward.pf.is_none() => Self::Bridge,
            ForwardMode::Bridge => Self::Direct(DirectMode::Bridge),
            ForwardMode::Private => Self::Direct(DirectMode::Private),
            ForwardMode::Vepa => Self::Direct(DirectMode::Vepa),
            ForwardMode::Passthrough => Self::Direct(DirectMode::Passthrough),
            ForwardMode::Hostdev => Self::Hostdev,
        }
    }

    /// That of a NIC; `network` is the active one that it names. Without it, such a NIC is connected to nothing.
    pub fn of_nic(nic: &Nic, network: Option<&Network>) -> Self {
        match nic.source {
            NicSource::Network { .. } => network.map_or(Self::None, Self::of_network),
            NicSource::Bridge { .. } => Self::Bridge,
            NicSource::Direct { mode, .. } => Self::Direct(mode.unwrap_or(DirectMode::Vepa)),
            NicSource::None => Self::None,
        }
    }

    /// Whether a virtualport of that type means something here: 802.1Qbg and 802.1Qbh are spoken on a physical device,
    /// the others by a software switch (libvirt's rules).
    pub const fn takes_virtualport(self, kind: VirtualPortType) -> bool {
        use VirtualPortType::{Midonet, OpenVSwitch, Qbg, Qbh};
        match self {
            Self::Network => false,
            Self::Bridge => matches!(kind, OpenVSwitch | Midonet),
            Self::Direct(_) => matches!(kind, Qbg | Qbh),
            // 802.1Qbg needs a link of the host's to speak on, and that device is the guest's.
            Self::Hostdev => matches!(kind, Qbh),
            Self::None => true,
        }
    }

    /// Whether VLANs can be kept apart here at all: by a bridge, or by a device's own filter for one virtual function.
    pub const fn takes_vlans(self) -> bool {
        !matches!(self, Self::Direct(DirectMode::Bridge | DirectMode::Private | DirectMode::Vepa))
    }

    /// Why these VLANs can't be had here, as an end to a sentence about what is connected to, and what would help;
    /// `kind` is the type of the virtualport.
    pub fn refuses_vlan(self, vlan: &Vlan, kind: Option<VirtualPortType>) -> Option<(String, &'static str)> {
        let first = match self {
            Self::None => return None,
            _ if !self.takes_vlans() => {
                let hint = "use a bridge, or a VLAN link of the host's as the device";
                return Some(("which has no VLANs, save in mode passthrough".into(), hint));
            }
            Self::Direct(_) | Self::Hostdev => {
                if vlan.trunk == Some(true) || vlan.tags.len() != 1 {
                    return Some(("which has one VLAN and no trunk".into(), "give one <tag>, and no trunk='yes'"));
                }
                // 0 is how a virtual function is told to use none (`IFLA_VF_VLAN` of the kernel's if_link.h).
                0
            }
            // Open vSwitch takes VLAN 0 for frames with a priority and no VLAN, and all others.
            Self::Bridge if kind == Some(VirtualPortType::OpenVSwitch) => return None,
            // `br_vlan_valid_id` in the kernel's net/bridge/br_private.h.
            Self::Network | Self::Bridge => 1,
        };
        let bad = vlan.tags.iter().find(|tag| !(first..=4094).contains(&tag.id))?;
        Some((format!("which has VLANs {first} to 4094, not {}", bad.id), "give another <tag id>"))
    }

    /// Whether a NIC needs its device for itself: in mode passthrough, as a PCI device, and with 802.1Qbh in mode private
    /// (libvirt's rule).
    pub fn is_exclusive(self, kind: Option<VirtualPortType>) -> bool {
        match self {
            Self::Direct(DirectMode::Passthrough) | Self::Hostdev => true,
            Self::Direct(DirectMode::Private) => kind == Some(VirtualPortType::Qbh),
            Self::Network | Self::Bridge | Self::Direct(_) | Self::None => false,
        }
    }

    /// What NICs are connected to, for messages.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Network => "a bridge of its own",
            Self::Bridge => "a bridge of the host's",
            Self::Direct(_) => "a device of the host's (cord or macvtap)",
            Self::Hostdev => "a PCI device",
            Self::None => "nothing",
        }
    }
}
