//! Devices of the host as libvirt's clients know them: network devices, PCI devices, and the computer that has them.
//!
//! [`NodeDevice`] is all that can be read about one; it is printed by [`xml::write_node_device`](crate::xml::write_node_device).
//! [`Registry`] is which there are.

mod registry;

pub use registry::{DeviceId, Listed, News, Registry};

use crate::model::PciAddress;
use uuid::Uuid;

/// The name of the computer, which all other devices are below.
pub const COMPUTER: &str = "computer";

/// What a device is (libvirt's capability types, as far as they are known here).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceKind {
    /// The computer.
    System,
    /// A PCI device.
    Pci,
    /// A network device.
    Net,
}

impl DeviceKind {
    /// libvirt's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Pci => "pci",
            Self::Net => "net",
        }
    }
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeDevice {
    /// Its name: [`COMPUTER`], or what [`pci_name`] or [`net_name`] give.
    pub name: String,
    /// Where sysfs has it; none for the computer.
    pub path: Option<String>,
    /// The name of the device that it is part of; none for the computer.
    pub parent: Option<String>,
    /// Its driver.
    pub driver: Option<String>,
    /// What it is and can do.
    pub capability: Capability,
}

/// What a device is and can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// It is the computer.
    System(System),
    /// It is a PCI device.
    Pci(Box<Pci>),
    /// It is a network device.
    Net(Net),
}

/// What the firmware says of the computer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct System {
    /// What it is called.
    pub product: Option<String>,
    /// Who made it.
    pub vendor: Option<String>,
    /// Which version of it this is.
    pub version: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its UUID; nil where it is unknown.
    pub uuid: Uuid,
    /// The firmware.
    pub firmware: Firmware,
}

/// The computer's firmware.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firmware {
    /// Who made it.
    pub vendor: Option<String>,
    /// Which version of it this is.
    pub version: Option<String>,
    /// The day on which it was released, as it says itself.
    pub released: Option<String>,
}

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Net {
    /// The link's name.
    pub interface: String,
    /// Its hardware address; links without frames have none.
    pub address: Option<String>,
    /// `operstate` as the kernel spells it; none where it can't be told.
    pub state: Option<String>,
    /// Mbit/s, while its state is `up` and where it has one.
    pub speed: Option<u32>,
    /// What it can take off the host's hands, in libvirt's words and order.
    pub features: Vec<&'static str>,
    /// Whether it is a wireless one (IEEE 802.11).
    pub wireless: bool,
}

/// A PCI device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pci {
    /// Class, subclass and interface, 0 to 0xffffff.
    pub class: Option<u32>,
    /// Where it is.
    pub address: PciAddress,
    /// What it is, by number and name.
    pub product: PciId,
    /// Who made it, by number and name.
    pub vendor: PciId,
    /// The device whose virtual function it is.
    pub physical_function: Option<PciAddress>,
    /// Its virtual functions, if it can have any.
    pub virtual_functions: Option<VirtualFunctions>,
    /// Whether it leads to other devices.
    pub bridge: Option<BridgeKind>,
    /// Those that it can be given to a guest with only.
    pub iommu_group: Option<IommuGroup>,
    /// The NUMA node that it is at.
    pub numa_node: Option<u32>,
    /// Its links, if it is PCI Express.
    pub express: Option<Express>,
}

/// A number, and what `pci.ids` calls it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PciId {
    /// The number.
    pub id: u16,
    /// The name.
    pub name: Option<String>,
}

/// Virtual functions of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtualFunctions {
    /// How many it could have; 0 where it doesn't say.
    pub max: u32,
    /// Those it has, by their numbers.
    pub addresses: Vec<PciAddress>,
}

/// What a bridge leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BridgeKind {
    /// A PCI bus.
    Pci,
    /// A `CardBus` slot.
    Cardbus,
}

/// Devices that the IOMMU can't keep apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IommuGroup {
    /// Its number.
    pub number: u32,
    /// All in it.
    pub addresses: Vec<PciAddress>,
}

/// What a PCI Express device says of its link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Express {
    /// What it can be.
    pub capable: Option<ExpressLink>,
    /// What it is now.
    pub status: Option<ExpressLink>,
}

/// A link of PCI Express.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpressLink {
    /// GT/s, such as `2.5` or `16`; none where it is unknown.
    pub speed: Option<String>,
    /// Lanes; 0 where there is no link.
    pub width: u32,
}

/// The name of a PCI device.
pub fn pci_name(address: PciAddress) -> String {
    plain(&format!("pci_{address}"))
}

/// The name of a network device with that hardware address.
pub fn net_name(interface: &str, address: Option<&str>) -> String {
    match address {
        Some(address) => plain(&format!("net_{interface}_{address}")),
        None => plain(&format!("net_{interface}")),
    }
}

/// In names of devices there are ASCII letters and digits only; the rest of them are underscores, one for each byte.
fn plain(name: &str) -> String {
    name.bytes().map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte) } else { '_' }).collect()
}
