//! Reads what sysfs says of the host's network and PCI devices, and of the computer.
//!
//! Which devices there are is cheap to read, and read of what changed; all about one is read when somebody asks.

mod ids;
mod net;
mod pci;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use patchcord_core::model::PciAddress;
use patchcord_core::nodedev::{Capability, DeviceId, Firmware, Listed, NodeDevice, System, net_name, pci_name};

use crate::Result;
use crate::sriov::names;
use ids::PciIds;

/// The devices that sysfs shows.
#[derive(Debug, Clone)]
pub struct NodeDevices {
    sys: PathBuf,
    ids: PciIds,
}

impl NodeDevices {
    /// With sysfs at `ROOT/sys`, and names of PCI devices in `ROOT/usr/share`, where they are, and else the host's.
    pub fn new(root: &Path) -> Self {
        let own = Some(root.join("sys")).filter(|path| path.exists());
        let places = [root, Path::new("/")].into_iter().flat_map(|base| ids::PLACES.map(|place| base.join(place)));
        Self { sys: own.unwrap_or_else(|| "/sys".into()), ids: PciIds::new(places.collect()) }
    }

    /// All network devices that libvirt would list, by the indexes of their links.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File).
    pub fn links(&self) -> Result<BTreeMap<DeviceId, Listed>> {
        let all = names(&self.sys.join("class/net"))?;
        Ok(all.iter().filter_map(|name| self.look_at_link(name)).collect())
    }

    /// The network device of a link; none when there is no such link, or libvirt would not list it.
    pub fn link(&self, index: u32, name: &str) -> Option<Listed> {
        let (id, listed) = self.look_at_link(name)?;
        (id == DeviceId::Link(index)).then_some(listed)
    }

    fn look_at_link(&self, name: &str) -> Option<(DeviceId, Listed)> {
        let directory = self.sys.join("class/net").join(name);
        let uevent = net::Uevent::read(&directory)?;
        if !uevent.is_listed() {
            return None;
        }
        let address = text(&directory, "address");
        let listed = Listed {
            name: net_name(name, address.as_deref()),
            path: self.shown(&directory)?,
            state: text(&directory, "operstate").unwrap_or_default(),
        };
        Some((DeviceId::Link(uevent.index), listed))
    }

    /// All PCI devices.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File).
    pub fn pci(&self) -> Result<BTreeMap<DeviceId, Listed>> {
        let directory = self.sys.join("bus/pci/devices");
        let addresses = names(&directory)?.into_iter().filter_map(|name| name.parse().ok());
        let listed = |address: PciAddress| {
            let device = directory.join(address.to_string());
            let functions = text(&device, "sriov_numvfs").unwrap_or_default();
            let state = format!("{} {functions}", target_name(&device, "driver").unwrap_or_default());
            Some((DeviceId::Pci(address), Listed { name: pci_name(address), path: self.shown(&device)?, state }))
        };
        Ok(addresses.filter_map(listed).collect())
    }

    /// All about a device; none when it is gone. `parent` is the name of the device that it is part of.
    pub fn describe(&self, id: DeviceId, listed: &Listed, parent: Option<String>) -> Option<NodeDevice> {
        let device = self.sys.join(listed.path.trim_start_matches("/sys/"));
        let capability = match id {
            DeviceId::Computer => Capability::System(self.computer()),
            DeviceId::Pci(address) => Capability::Pci(Box::new(pci::read(&device, address, &self.ids)?)),
            DeviceId::Link(index) => Capability::Net(net::read(&self.sys, &device, index)?),
        };
        Some(NodeDevice {
            name: listed.name.clone(),
            path: Some(listed.path.clone()).filter(|path| !path.is_empty()),
            parent,
            // A link's device has one, a link has none.
            driver: matches!(id, DeviceId::Pci(_)).then(|| target_name(&device, "driver")).flatten(),
            capability,
        })
    }

    fn computer(&self) -> System {
        let directory = self.sys.join("devices/virtual/dmi/id");
        let text = |name| text(&directory, name);
        System {
            product: text("product_name"),
            vendor: text("sys_vendor"),
            version: text("product_version"),
            serial: text("product_serial"),
            uuid: text("product_uuid").and_then(|uuid| uuid.parse().ok()).unwrap_or_default(),
            firmware: Firmware {
                vendor: text("bios_vendor"),
                version: text("bios_version"),
                released: text("bios_date"),
            },
        }
    }

    /// A device's own path, as it is where sysfs always is.
    fn shown(&self, device: &Path) -> Option<String> {
        let (device, sys) = (fs::canonicalize(device).ok()?, fs::canonicalize(&self.sys).ok()?);
        let below = device.strip_prefix(sys).ok()?;
        Some(Path::new("/sys").join(below).to_string_lossy().into_owned())
    }
}

/// A setting; none where it is missing, empty, or the driver doesn't tell it.
fn text(device: &Path, name: &str) -> Option<String> {
    let text = fs::read(device.join(name)).ok()?;
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    Some(text).filter(|text| !text.is_empty())
}

/// The last part of where a link of sysfs leads.
fn target_name(device: &Path, name: &str) -> Option<String> {
    let target = fs::read_link(device.join(name)).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}
