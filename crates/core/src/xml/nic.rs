//! A guest's `<interface>`: what it is plugged into is read, what is the VMM's affair is kept as given, and what
//! would be a loss of security or reachability if it were forgotten is refused.

use super::{
    PATCHCORD_NAMESPACE,
    parts::{
        link_name, name, parse_unicast_mac, parse_uuid, read_bandwidth, read_tags, read_virtualport, read_vlan,
        without_doubles, write_bandwidth, write_pci, write_tags, write_virtualport, write_vlan,
    },
    reader::{Cursor, Mode, read_document},
    writer::Writer,
};
use crate::Result;
use crate::model::{DevicePlug, DirectMode, Forward, LinkName, LinkState, Name, Nic, NicSource, NicType, PciAddress};

/// Children that are the VMM's affair: kept as written.
const KEPT: &[&str] = &["model", "address", "boot", "rom", "tune", "coalesce", "guest", "alias", "acpi"];

/// Children that would be a loss if they were forgotten, each with what to do instead.
const REFUSED: &[(&str, &str)] = &[
    ("filterref", "network filters are not supported yet; remove it to go without"),
    ("ip", "addresses inside the guest are not set from here; remove it"),
    ("route", "routes inside the guest are not set from here; remove it"),
    ("script", "scripts are not run here; use a hook"),
    ("downscript", "scripts are not run here; use a hook"),
    ("backend", "other backends than the kernel's are not supported; remove it"),
    ("backenddomain", "driver domains are not supported; remove it"),
    ("portForward", "port forwarding belongs to user-mode networking; remove it"),
    ("teaming", "failover pairs are not supported yet; remove it"),
    ("actual", "what a NIC resolved to is this daemon's to say; remove it"),
];

/// What a running NIC resolved to, for printing it live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveSource<'a> {
    /// The actual type, as libvirt counts it: `Network` for a virtual network's own bridge, `Bridge` for the host's.
    pub kind: NicType,
    /// The bridge it is a port of.
    pub bridge: Option<&'a LinkName>,
    /// The device it sits on.
    pub dev: Option<&'a LinkName>,
    /// macvtap's mode on that device.
    pub mode: Option<DirectMode>,
    /// The PCI device that its guest has, and what its network says about such.
    pub function: Option<(PciAddress, &'a Forward)>,
}

/// Reads a guest's `<interface>`. There is no lenient reading: what is unknown here might be what keeps guests apart.
pub fn read_nic(text: &str) -> Result<Nic> {
    read_document(text, Mode::Strict, "NIC", "interface", read_nic_element)
}

/// Prints the configuration of a NIC, as given.
pub fn write_nic(nic: &Nic) -> String {
    let mut w = Writer::new();
    write_nic_into(&mut w, nic, None);
    w.finish()
}

/// Prints a NIC as it is: `nic` with merged parameters, and what its source resolved to.
pub fn write_nic_live(nic: &Nic, live: &LiveSource<'_>) -> String {
    let mut w = Writer::new();
    write_nic_into(&mut w, nic, Some(live));
    w.finish()
}

/// Reads `<interface>` wherever it stands.
pub(crate) fn read_nic_element(c: &Cursor<'_, '_>) -> Result<Nic> {
    for child in c.elements() {
        if let Some((name, hint)) =
            REFUSED.iter().find(|(name, _)| child.namespace().is_none() && *name == child.name())
        {
            return Err(child.error(format!("<{name}> is not accepted")).hint(*hint));
        }
    }
    let mut nic = Nic::new(NicSource::None);
    nic.mac = c.child("mac").map(|m| m.required("address", parse_unicast_mac)).transpose()?;
    if nic.mac.is_some_and(|mac| mac.is_zero()) {
        return Err(c.error("the MAC address is all zeros").field("<mac address>"));
    }
    if let Some(mac) = nic.mac {
        c.set_object(format!("NIC {mac}"));
    }
    read_source(c, &mut nic)?;
    if let Some(target) = c.child("target") {
        target.ignore_attr("managed");
        nic.target = target.parsed("dev", link_name)?;
    }
    read_tags(c, None, &mut nic.tags)?;
    without_doubles(&mut nic.tags);
    nic.virtualport = read_virtualport(c)?;
    nic.bandwidth = read_bandwidth(c, true)?.map(|(b, _)| b);
    nic.vlan = read_vlan(c)?;
    nic.trust_guest_rx_filters = c.yes_no("trustGuestRxFilters")?;
    nic.port_isolated = c.child("port").map(|p| p.yes_no("isolated")).transpose()?.flatten();
    if let Some(link) = c.child("link") {
        nic.link = link.choice("state", &[("up", LinkState::Up), ("down", LinkState::Down)])?;
    }
    nic.mtu = c.child("mtu").map(|m| m.number("size", 68..=65535)).transpose()?.flatten();
    if let Some(driver) = c.child("driver") {
        read_driver(&driver, &mut nic)?;
    }
    for driver in c.children_in(Some(PATCHCORD_NAMESPACE), "driver").take(1) {
        nic.plug = driver.choice("plug", DevicePlug::WORDS)?;
    }
    for child in c.elements().filter(|child| child.namespace().is_none() && KEPT.contains(&child.name())) {
        nic.kept.push(keep(&child)?);
    }
    Ok(nic)
}

/// An element as written. One that uses prefixes would depend on declarations that stay behind.
fn keep(c: &Cursor<'_, '_>) -> Result<String> {
    let foreign = |n: roxmltree::Node<'_, '_>| {
        n.tag_name().namespace().is_some() || n.attributes().any(|a| a.namespace().is_some())
    };
    if c.node().descendants().any(foreign) {
        return Err(c.error("it is kept as written, and so can't hold names of other namespaces"));
    }
    c.keep();
    Ok(c.source().to_owned())
}

fn read_source(c: &Cursor<'_, '_>, nic: &mut Nic) -> Result<()> {
    let kind = c.required("type", |text| Ok(text.to_owned()))?;
    let source = c.child("source");
    let needed = |attribute: &str| {
        let hint = format!("add <source {attribute}='…'/>");
        source.ok_or_else(|| c.error(format!("type '{kind}' needs a <source>")).hint(hint))
    };
    if let Some(s) = source {
        nic.optional =
            s.choice("startupPolicy", &[("optional", true), ("mandatory", false), ("requisite", false)])? == Some(true);
    }
    nic.source = match kind.as_str() {
        "network" => {
            let s = needed("network")?;
            nic.port_id = s.parsed("portid", parse_uuid)?;
            NicSource::Network { network: s.required("network", name)?, portgroup: s.parsed("portgroup", name)? }
        }
        "bridge" => NicSource::Bridge { bridge: needed("bridge")?.required("bridge", link_name)? },
        "direct" => {
            let s = needed("dev")?;
            NicSource::Direct { dev: s.required("dev", link_name)?, mode: s.choice("mode", DirectMode::WORDS)? }
        }
        "none" | "null" => NicSource::None,
        other => {
            let hint = match other {
                "hostdev" => "give the device through a network with <forward mode='hostdev'>",
                "ethernet" => "let a network or bridge make the tap: type 'network' or 'bridge'",
                "user" => "user-mode networking is the VMM's own; use type 'network'",
                _ => "use one of 'network', 'bridge', 'direct', 'none'",
            };
            return Err(c.attr_error("type", format!("type '{other}' is not supported")).hint(hint));
        }
    };
    Ok(())
}

fn read_driver(driver: &Cursor<'_, '_>, nic: &mut Nic) -> Result<()> {
    nic.queues = driver.number("queues", 1..=256)?;
    for a in driver.node().attributes().filter(|a| a.namespace().is_none() && a.name() != "queues") {
        // Asked for by name, so that it is not left over.
        if let Some(value) = driver.string(a.name())? {
            nic.driver_attributes.push((a.name().to_owned(), value));
        }
    }
    for child in driver.elements().filter(|child| matches!(child.name(), "host" | "guest")) {
        nic.driver_kept.push(keep(&child)?);
    }
    Ok(())
}

/// Writes `<interface>` wherever the writer stands.
pub(crate) fn write_nic_into(w: &mut Writer, nic: &Nic, live: Option<&LiveSource<'_>>) {
    let kind = match live.map_or(nic.kind(), |l| l.kind) {
        NicType::Network => "network",
        NicType::Bridge => "bridge",
        NicType::Direct => "direct",
        NicType::Hostdev => "hostdev",
        NicType::None => "none",
    };
    w.element("interface")
        .opt("xmlns:pc", nic.plug.map(|_| PATCHCORD_NAMESPACE))
        .attr("type", kind)
        .yes_no("managed", live.and_then(|l| l.function).and_then(|(_, forward)| forward.managed))
        .yes_no("trustGuestRxFilters", nic.trust_guest_rx_filters)
        .body(|w| write_children(w, nic, live));
}

fn write_children(w: &mut Writer, nic: &Nic, live: Option<&LiveSource<'_>>) {
    if let Some(mac) = nic.mac {
        w.element("mac").attr("address", mac).close();
    }
    if let Some(driver) = live.and_then(|l| l.function).and_then(|(_, forward)| forward.driver.as_deref()) {
        w.element("driver").attr("name", driver).close();
    }
    write_source(w, nic, live);
    write_tags(w, &nic.tags);
    write_vlan(w, nic.vlan.as_ref());
    write_virtualport(w, nic.virtualport.as_ref());
    write_bandwidth(w, nic.bandwidth.as_ref(), None);
    if let Some(isolated) = nic.port_isolated {
        w.element("port").yes_no("isolated", Some(isolated)).close();
    }
    if let Some(target) = &nic.target {
        w.element("target").attr("dev", target).close();
    }
    if nic.queues.is_some() || !nic.driver_attributes.is_empty() || !nic.driver_kept.is_empty() {
        let mut driver = w.element("driver");
        for (name, value) in &nic.driver_attributes {
            driver = driver.attr(name, value);
        }
        driver.opt("queues", nic.queues).body_or_close(|w| nic.driver_kept.iter().for_each(|xml| w.raw(xml)));
    }
    if let Some(plug) = nic.plug {
        w.element("pc:driver").attr("plug", plug.as_str()).close();
    }
    if let Some(link) = nic.link {
        w.element("link").attr("state", if link == LinkState::Up { "up" } else { "down" }).close();
    }
    if let Some(mtu) = nic.mtu {
        w.element("mtu").attr("size", mtu).close();
    }
    nic.kept.iter().for_each(|xml| w.raw(xml));
}

fn write_source(w: &mut Writer, nic: &Nic, live: Option<&LiveSource<'_>>) {
    let (mut network, mut portgroup): (Option<&Name>, Option<&Name>) = (None, None);
    let (mut bridge, mut dev, mut mode) = (None, None, None);
    match &nic.source {
        NicSource::Network { network: n, portgroup: p } => (network, portgroup) = (Some(n), p.as_ref()),
        NicSource::Bridge { bridge: b } => bridge = Some(b),
        NicSource::Direct { dev: d, mode: m } => (dev, mode) = (Some(d), *m),
        NicSource::None => {}
    }
    if let Some(live) = live {
        (bridge, dev, mode) = (live.bridge, live.dev, live.mode);
    }
    let optional = nic.optional.then_some("optional");
    if network.is_none() && bridge.is_none() && dev.is_none() && optional.is_none() {
        return;
    }
    let mode = mode.map(DirectMode::as_str);
    w.element("source")
        .opt("network", network)
        .opt("portgroup", portgroup)
        .opt("portid", nic.port_id)
        .opt("bridge", bridge)
        .opt("dev", dev)
        .opt("mode", mode)
        .opt("startupPolicy", optional)
        .body_or_close(|w| {
            if let Some((address, _)) = live.and_then(|l| l.function) {
                write_pci(w, Some("pci"), &address, None);
            }
        });
}
