//! The list of PCI devices' names, `pci.ids`, that distributions install.

use std::fs;
use std::path::PathBuf;

use patchcord_core::nodedev::PciId;

/// Where distributions have the list, below the root directory.
pub(super) const PLACES: [&str; 2] = ["usr/share/hwdata/pci.ids", "usr/share/misc/pci.ids"];

/// Where the list may be.
#[derive(Debug, Clone)]
pub(super) struct PciIds {
    places: Vec<PathBuf>,
}

impl PciIds {
    /// At the first of these places where there is one.
    pub(super) const fn new(places: Vec<PathBuf>) -> Self {
        Self { places }
    }

    /// What vendor and product are called, as far as the list is there and has them.
    pub(super) fn name(&self, vendor: u16, product: u16) -> (PciId, PciId) {
        let list = self.places.iter().find_map(|place| fs::read(place).ok());
        let (vendor_name, product_name) = look_up(&list.unwrap_or_default(), vendor, product);
        (PciId { id: vendor, name: vendor_name }, PciId { id: product, name: product_name })
    }
}

/// A vendor has a line `8086  Intel Corporation`; below it each product has one, with a tab before it.
fn look_up(list: &[u8], vendor: u16, product: u16) -> (Option<String>, Option<String>) {
    let name = |line: &[u8], id: u16| {
        let line = line.strip_prefix(format!("{id:04x}  ").as_bytes())?;
        Some(String::from_utf8_lossy(line).trim().to_owned())
    };
    let mut lines = list.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && !line.starts_with(b"#"));
    let Some(vendor) = lines.find_map(|line| name(line, vendor)) else { return (None, None) };
    let mut products = lines.take_while(|line| line.starts_with(b"\t"));
    (Some(vendor), products.find_map(|line| name(&line[1..], product)))
}

#[cfg(test)]
mod tests {
    use super::look_up;

    const LIST: &[u8] =
        b"# a comment\n\n1af4  Red Hat, Inc.\n\t1041  Virtio 1.0 network device\n8086  Intel Corporation\n\
        \t158b  Ethernet Controller XXV710 for 25GbE SFP28\n\t\t8086 0001  Ethernet Network Adapter\n\
        \t1041  Another\nC 02  Network controller\n\t00  Ethernet controller\n";

    #[test]
    fn names_are_found_below_their_vendor() {
        let of = |vendor, product| {
            let (vendor, product) = look_up(LIST, vendor, product);
            (vendor.unwrap_or_default(), product.unwrap_or_default())
        };
        assert_eq!(of(0x1af4, 0x1041), ("Red Hat, Inc.".into(), "Virtio 1.0 network device".into()));
        assert_eq!(of(0x8086, 0x1041), ("Intel Corporation".into(), "Another".into()));
        assert_eq!(of(0x8086, 0x8086).1, "");
        assert_eq!(of(0x1af4, 0x158b), ("Red Hat, Inc.".into(), String::new()));
        assert_eq!(of(0x15b3, 0x1041), (String::new(), String::new()));
    }
}
