//! Where a network forwards to.

use super::LinkName;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// `<forward mode>`. libvirt writes `passthrough`, the kernel `passthru`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ForwardMode {
    /// No `<forward>`: guests reach each other and the host.
    #[default]
    Isolated,
    /// Behind the host's address.
    Nat,
    /// Routed by the host, addresses kept.
    Route,
    /// Routed, and no packet rules of ours.
    Open,
    /// A host bridge, or macvtap in bridge mode when devices are given.
    Bridge,
    /// macvtap in private mode.
    Private,
    /// macvtap in vepa mode.
    Vepa,
    /// macvtap in passthru mode: one NIC per device.
    Passthrough,
    /// PCI devices given to guests whole.
    Hostdev,
}

impl ForwardMode {
    /// libvirt's words for each.
    pub const WORDS: &[(&'static str, Self)] = &[
        // libvirt prints no <forward> for it, and reads the word all the same.
        ("none", Self::Isolated),
        ("nat", Self::Nat),
        ("route", Self::Route),
        ("open", Self::Open),
        ("bridge", Self::Bridge),
        ("private", Self::Private),
        ("vepa", Self::Vepa),
        ("passthrough", Self::Passthrough),
        ("hostdev", Self::Hostdev),
    ];

    /// libvirt's word; `None` for isolated, which has no `<forward>`.
    pub const fn as_str(self) -> Option<&'static str> {
        Some(match self {
            Self::Isolated => return None,
            Self::Nat => "nat",
            Self::Route => "route",
            Self::Open => "open",
            Self::Bridge => "bridge",
            Self::Private => "private",
            Self::Vepa => "vepa",
            Self::Passthrough => "passthrough",
            Self::Hostdev => "hostdev",
        })
    }

    /// Whether the network has a bridge, addresses and services of its own.
    pub const fn has_own_bridge(self) -> bool {
        matches!(self, Self::Isolated | Self::Nat | Self::Route | Self::Open)
    }

    /// Whether the host routes for the guests, and so needs forwarding on.
    pub const fn is_routed(self) -> bool {
        matches!(self, Self::Nat | Self::Route | Self::Open)
    }
}

/// `<forward>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forward {
    /// How.
    pub mode: ForwardMode,
    /// Whether hostdev devices are bound and unbound for the user.
    pub managed: Option<bool>,
    /// `<driver name>` of hostdev, as given.
    pub driver: Option<String>,
    /// `<pf dev>`: the pool is this device's virtual functions.
    pub pf: Option<LinkName>,
    /// `dev` or the `<interface>` children, in order; `dev` repeats the first one.
    pub devices: Vec<DeviceRef>,
    /// `<address>` children of hostdev.
    pub addresses: Vec<PciAddress>,
    /// `<nat>`.
    pub nat: Nat,
}

/// One `<interface dev>` of `<forward>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRef {
    /// The link.
    pub dev: LinkName,
}

/// `<address type='pci'>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    /// 0 to 0xffff.
    pub domain: u16,
    /// 0 to 0xff.
    pub bus: u8,
    /// 0 to 0x1f.
    pub slot: u8,
    /// 0 to 7.
    pub function: u8,
}

impl PciAddress {
    /// The first there can be.
    pub const FIRST: Self = Self { domain: 0, bus: 0, slot: 0, function: 0 };
    /// The last there can be.
    pub const LAST: Self = Self { domain: u16::MAX, bus: u8::MAX, slot: 0x1f, function: 7 };
}

impl FromStr for PciAddress {
    type Err = String;

    /// As the kernel names devices.
    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (domain, rest) = text.split_once(':')?;
            let (bus, rest) = rest.split_once(':')?;
            let (slot, function) = rest.split_once('.')?;
            let byte = |text| u8::from_str_radix(text, 16).ok();
            let domain = u16::from_str_radix(domain, 16).ok()?;
            let address = Self { domain, bus: byte(bus)?, slot: byte(slot)?, function: byte(function)? };
            // The kernel writes each in one way only.
            (address.to_string() == text).then_some(address)
        };
        parse().ok_or_else(|| format!("'{text}' is no PCI address such as 0000:3b:02.1"))
    }
}

impl fmt::Display for PciAddress {
    /// As the kernel names devices, in sysfs and elsewhere: `0000:03:10.1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, slot, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{slot:02x}.{function:x}")
    }
}

/// `<nat>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    /// Whether IPv6 is translated too.
    pub ipv6: Option<bool>,
    /// Source addresses to use instead of the uplink's, first and last.
    pub addresses: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Source ports to use, first and last; [`Nat::PORTS`] unless given.
    pub ports: Option<(u16, u16)>,
}

impl Nat {
    /// Source ports of translated connections when the network names none: not the privileged ones.
    pub const PORTS: (u16, u16) = (1024, 65535);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_are_read_as_the_kernel_writes_them() {
        let address = PciAddress { domain: 0, bus: 0x3b, slot: 0x02, function: 1 };
        assert_eq!(address.to_string(), "0000:3b:02.1");
        assert_eq!("0000:3b:02.1".parse(), Ok(address));
        for other in
            ["virtio3", "0000:3b:02", "0000:3b.1", "10000:e1:00.0", "0000:3b:zz.1", "0:3b:2.1", "+000:3b:02.1", ""]
        {
            assert!(other.parse::<PciAddress>().is_err(), "{other}");
        }
    }
}
