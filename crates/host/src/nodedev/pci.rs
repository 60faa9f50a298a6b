//! A PCI device: what sysfs says of it. Of its configuration space the daemon may read what is the same in all devices;
//! the rest, such as vital product data's place, is kept for those with `CAP_SYS_ADMIN`.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use patchcord_core::model::PciAddress;
use patchcord_core::nodedev::{BridgeKind, Express, ExpressLink, IommuGroup, Pci, VirtualFunctions};

use super::ids::PciIds;
use super::{target_name, text};
use crate::sriov;

/// Where the kind of header is in the configuration space, and the bits of it that say so (PCI specification).
const HEADER_TYPE: usize = 0x0e;
const HEADER_TYPE_MASK: u8 = 0x7f;

/// Reads all about a device; none when it is gone.
pub(super) fn read(device: &Path, address: PciAddress, ids: &PciIds) -> Option<Pci> {
    let id = |name| u16::try_from(hexadecimal(device, name)?).ok();
    let (vendor, product) = ids.name(id("vendor")?, id("device")?);
    Some(Pci {
        class: hexadecimal(device, "class"),
        address,
        product,
        vendor,
        physical_function: target_name(device, "physfn").and_then(|name| name.parse().ok()),
        virtual_functions: virtual_functions(device),
        bridge: bridge(device),
        iommu_group: iommu_group(device),
        // -1 where there is none.
        numa_node: number(device, "numa_node"),
        express: express(device),
    })
}

fn number(device: &Path, name: &str) -> Option<u32> {
    text(device, name)?.parse().ok()
}

fn hexadecimal(device: &Path, name: &str) -> Option<u32> {
    u32::from_str_radix(text(device, name)?.strip_prefix("0x")?, 16).ok()
}

fn virtual_functions(device: &Path) -> Option<VirtualFunctions> {
    let max = number(device, "sriov_totalvfs").unwrap_or(0);
    let functions = sriov::virtual_functions(device).unwrap_or_default();
    let addresses: Vec<PciAddress> = functions.into_iter().map(|(_, address)| address).collect();
    (max > 0 || !addresses.is_empty()).then_some(VirtualFunctions { max, addresses })
}

fn bridge(device: &Path) -> Option<BridgeKind> {
    let mut header = [0; HEADER_TYPE + 1];
    File::open(device.join("config")).ok()?.read_exact(&mut header).ok()?;
    match header[HEADER_TYPE] & HEADER_TYPE_MASK {
        1 => Some(BridgeKind::Pci),
        2 => Some(BridgeKind::Cardbus),
        _ => None,
    }
}

fn iommu_group(device: &Path) -> Option<IommuGroup> {
    let number = target_name(device, "iommu_group")?.parse().ok()?;
    let all = sriov::names(&device.join("iommu_group/devices")).unwrap_or_default();
    let mut addresses: Vec<PciAddress> = all.into_iter().filter_map(|name| name.parse().ok()).collect();
    addresses.sort_unstable();
    Some(IommuGroup { number, addresses })
}

/// The kernel has these files for devices of PCI Express only, with words in them where a device has no link.
fn express(device: &Path) -> Option<Express> {
    let of = |speed: &str, width: &str| {
        let gigatransfers = text(device, speed)?;
        let gigatransfers = gigatransfers.split_once(" GT/s").map(|(speed, _)| speed.trim_end_matches(".0").to_owned());
        // 255 is what an unknown width is read as.
        let width = number(device, width).filter(|width| *width < 255).unwrap_or(0);
        Some(ExpressLink { speed: gigatransfers, width })
    };
    let capable = of("max_link_speed", "max_link_width")?;
    if capable.speed.is_none() {
        return Some(Express::default());
    }
    let status = of("current_link_speed", "current_link_width");
    Some(Express { capable: Some(capable), status })
}
