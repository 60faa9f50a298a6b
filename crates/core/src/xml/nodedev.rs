//! `<device>`: a device of the host. Nothing is made from such a document, so of one that clients send little is read.

use super::parts::write_pci;
use super::reader::{Mode, read_document};
use super::writer::Writer;
use crate::Result;
use crate::model::PciAddress;
use crate::nodedev::{BridgeKind, Capability, Express, ExpressLink, Net, NodeDevice, Pci, PciId, System};

/// Prints a device.
pub fn write_node_device(device: &NodeDevice) -> String {
    let mut w = Writer::new();
    w.element("device").body(|w| {
        w.text("name", &device.name);
        optional(w, "path", device.path.as_deref());
        optional(w, "parent", device.parent.as_deref());
        if let Some(driver) = &device.driver {
            w.element("driver").body(|w| w.text("name", driver));
        }
        match &device.capability {
            Capability::System(system) => w.element("capability").attr("type", "system").body(|w| of_system(w, system)),
            Capability::Pci(pci) => w.element("capability").attr("type", "pci").body(|w| of_pci(w, pci)),
            Capability::Net(net) => w.element("capability").attr("type", "net").body(|w| of_net(w, net)),
        }
    });
    w.finish()
}

/// What kind of device a document describes: the type of its `<capability>`.
///
/// # Errors
/// When it is no XML, or no `<device>` with a `<capability type=…>`.
pub fn read_node_device_type(text: &str) -> Result<String> {
    read_document(text, Mode::Lenient, "node device", "device", |c| {
        let capability = c.child("capability").ok_or_else(|| c.error("<capability> is missing"))?;
        capability.required("type", |text| Ok(text.to_owned()))
    })
}

fn of_system(w: &mut Writer, system: &System) {
    optional(w, "product", system.product.as_deref());
    w.element("hardware").body(|w| {
        optional(w, "vendor", system.vendor.as_deref());
        optional(w, "version", system.version.as_deref());
        optional(w, "serial", system.serial.as_deref());
        w.text("uuid", system.uuid);
    });
    w.element("firmware").body(|w| {
        optional(w, "vendor", system.firmware.vendor.as_deref());
        optional(w, "version", system.firmware.version.as_deref());
        optional(w, "release_date", system.firmware.released.as_deref());
    });
}

fn of_pci(w: &mut Writer, pci: &Pci) {
    optional(w, "class", pci.class.map(|class| format!("{class:#08x}")));
    let PciAddress { domain, bus, slot, function } = pci.address;
    w.text("domain", domain);
    w.text("bus", bus);
    w.text("slot", slot);
    w.text("function", function);
    of_id(w, "product", &pci.product);
    of_id(w, "vendor", &pci.vendor);
    if let Some(physical) = pci.physical_function {
        w.element("capability").attr("type", "phys_function").body(|w| write_pci(w, None, &physical, None));
    }
    if let Some(functions) = &pci.virtual_functions {
        let max = Some(functions.max).filter(|max| *max > 0);
        let capability = w.element("capability").attr("type", "virt_functions").opt("maxCount", max);
        capability.body_or_close(|w| functions.addresses.iter().for_each(|address| write_pci(w, None, address, None)));
    }
    match pci.bridge {
        Some(BridgeKind::Pci) => w.element("capability").attr("type", "pci-bridge").close(),
        Some(BridgeKind::Cardbus) => w.element("capability").attr("type", "cardbus-bridge").close(),
        None => {}
    }
    if let Some(group) = &pci.iommu_group {
        let element = w.element("iommuGroup").attr("number", group.number);
        element.body_or_close(|w| group.addresses.iter().for_each(|address| write_pci(w, None, address, None)));
    }
    if let Some(node) = pci.numa_node {
        w.element("numa").attr("node", node).close();
    }
    if let Some(Express { capable, status }) = &pci.express {
        w.element("pci-express").body_or_close(|w| {
            of_link(w, "cap", capable.as_ref());
            of_link(w, "sta", status.as_ref());
        });
    }
}

fn of_net(w: &mut Writer, net: &Net) {
    w.text("interface", &net.interface);
    optional(w, "address", net.address.as_deref());
    if let Some(state) = &net.state {
        w.element("link").opt("speed", net.speed).attr("state", state).close();
    }
    for feature in &net.features {
        w.element("feature").attr("name", feature).close();
    }
    w.element("capability").attr("type", if net.wireless { "80211" } else { "80203" }).close();
}

fn of_id(w: &mut Writer, name: &str, PciId { id, name: called }: &PciId) {
    let element = w.element(name).attr("id", format!("{id:#06x}"));
    match called {
        Some(called) => element.text(called),
        None => element.close(),
    }
}

fn of_link(w: &mut Writer, validity: &str, link: Option<&ExpressLink>) {
    if let Some(ExpressLink { speed, width }) = link {
        w.element("link").attr("validity", validity).opt("speed", speed.as_ref()).attr("width", width).close();
    }
}

fn optional(w: &mut Writer, name: &str, text: Option<impl std::fmt::Display>) {
    if let Some(text) = text {
        w.text(name, text);
    }
}
