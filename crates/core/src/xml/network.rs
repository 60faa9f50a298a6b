//! `<network>`.

use super::{
    DNSMASQ_NAMESPACE, PATCHCORD_NAMESPACE,
    dns::{dns_name, read_dns, write_dns},
    forward::{read_forward, write_forward},
    ip::{read_ip, read_route, write_ip, write_route},
    metadata::{read_metadata, write_metadata},
    parts::{
        is_ours, name, parse_unicast_mac, read_bandwidth, read_name, read_tags, read_uuid, read_virtualport, read_vlan,
        without_doubles, write_bandwidth, write_tags, write_virtualport, write_vlan,
    },
    reader::{Cursor, Mode, plain_text, read_document},
    writer::Writer,
};
use crate::Result;
use crate::model::{
    Bridge, Domain, ForwardMode, LinkName, MacTableManager, MetadataElement, MetadataNode, Name, Network, PciAddress,
    Portgroup, Tag,
};
use std::collections::{BTreeMap, HashMap};

pub(crate) const MAC_TABLE_MANAGERS: &[(&str, MacTableManager)] =
    &[("kernel", MacTableManager::Kernel), ("libvirt", MacTableManager::Libvirt)];

/// How a network is printed.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteOptions<'a> {
    /// How tags are written.
    pub tags: TagForm,
    /// The definition only: without usage counts, and without the functions found for `<pf>`.
    pub inactive: bool,
    /// Usage counts of a network that is active, which is printed with what was decided when it started.
    pub connections: Option<&'a Connections>,
}

/// How tags are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TagForm {
    /// As `<tag>` elements.
    #[default]
    Elements,
    /// Inside `<metadata>`, where libvirt's clients and schemas leave them in peace.
    Metadata,
}

/// How many NICs use a network, and each of its devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// The network; not printed when 0.
    pub network: u32,
    /// Its links.
    pub by_device: BTreeMap<LinkName, u32>,
    /// Its PCI devices.
    pub by_address: BTreeMap<PciAddress, u32>,
}

/// Reads a network's definition and checks it with [`Network::validate`].
pub fn read_network(text: &str, mode: Mode) -> Result<Network> {
    let network = read_document(text, mode, "network", "network", read_network_element)?;
    network.validate()?;
    Ok(network)
}

/// Prints a definition as it is stored, and as `show --inactive` shows it.
pub fn write_network(network: &Network) -> String {
    write_network_with(network, &WriteOptions { inactive: true, ..WriteOptions::default() })
}

/// Prints a network with options.
pub fn write_network_with(network: &Network, options: &WriteOptions<'_>) -> String {
    let mut w = Writer::new();
    write_network_into(&mut w, network, options);
    w.finish()
}

/// Reads `<network>` wherever it stands.
pub(crate) fn read_network_element(c: &Cursor<'_, '_>) -> Result<Network> {
    let Some(title) = read_name(c, "name")? else {
        return Err(c.error("<name> is missing").hint("add <name>NAME</name>"));
    };
    c.set_object(format!("network '{title}'"));
    c.ignore_attr("connections");

    let mut network = Network::new(title);
    network.ipv6 = c.yes_no("ipv6")?.filter(|yes| *yes);
    network.trust_guest_rx_filters = c.yes_no("trustGuestRxFilters")?;
    network.uuid = read_uuid(c, "uuid")?;
    read_tags(c, None, &mut network.tags)?;
    network.title = read_text(c, "title");
    network.description = read_text(c, "description");
    network.forward = read_forward(c)?;
    network.bridge = read_bridge(c, network.forward.mode)?;
    network.mtu = c.child("mtu").map(|m| m.number("size", 68..=65535)).transpose()?.flatten();
    network.mac = c.child("mac").map(|m| m.required("address", parse_unicast_mac)).transpose()?;
    network.domain = c.child("domain").map(|d| read_domain(&d)).transpose()?;
    network.dns = read_dns(c)?;
    network.vlan = read_vlan(c)?;
    network.bandwidth = read_bandwidth(c, false)?.map(|(b, _)| b);
    network.port_isolated = c.child("port").map(|p| p.yes_no("isolated")).transpose()?.flatten();
    for ip in c.children("ip") {
        network.ips.push(read_ip(&ip)?);
    }
    for route in c.children("route") {
        network.routes.push(read_route(&route)?);
    }
    network.virtualport = read_virtualport(c)?;
    for portgroup in c.children("portgroup") {
        network.portgroups.push(read_portgroup(&portgroup)?);
    }
    if let Some(metadata) = c.child("metadata") {
        read_metadata_tags(&metadata, &mut network)?;
        network.metadata = read_metadata(&metadata, |e| is_ours(e, "tags") || is_ours(e, "tag"));
    }
    without_doubles(&mut network.tags);
    network.portgroups.iter_mut().for_each(|p| without_doubles(&mut p.tags));
    for options in c.children_in(Some(DNSMASQ_NAMESPACE), "options") {
        for option in options.children_in(Some(DNSMASQ_NAMESPACE), "option") {
            network.dnsmasq_options.push(option.required("value", plain_text)?);
        }
    }
    Ok(network)
}

/// The text of a child element that people read; an empty one counts as absent.
fn read_text(c: &Cursor<'_, '_>, name: &str) -> Option<String> {
    c.child(name).map(|t| t.text()).filter(|t| !t.is_empty())
}

fn read_metadata_tags(metadata: &Cursor<'_, '_>, network: &mut Network) -> Result<()> {
    let ours = Some(PATCHCORD_NAMESPACE);
    let mut portgroups: HashMap<Name, &mut Vec<Tag>> =
        network.portgroups.iter_mut().map(|p| (p.name.clone(), &mut p.tags)).collect();
    read_tags(metadata, ours, &mut network.tags)?;
    for tags in metadata.children_in(ours, "tags") {
        read_tags(&tags, ours, &mut network.tags)?;
        for group in tags.children_in(ours, "portgroup") {
            let wanted = group.required("name", name)?;
            // Portgroups that are gone may have left their tags behind.
            let mut nobody = Vec::new();
            let tags = portgroups.get_mut(&wanted).map_or(&mut nobody, |tags| &mut **tags);
            read_tags(&group, ours, tags)?;
        }
    }
    Ok(())
}

fn read_bridge(c: &Cursor<'_, '_>, mode: ForwardMode) -> Result<Bridge> {
    c.child("bridge").map_or_else(|| Ok(with_defaults(Bridge::default(), mode)), |b| read_bridge_element(&b, mode))
}

/// Reads `<bridge>`, in a network and as the fragment of an update.
pub(crate) fn read_bridge_element(c: &Cursor<'_, '_>, mode: ForwardMode) -> Result<Bridge> {
    let mut bridge = Bridge::default();
    match c.attr("name") {
        Some("") | None => {}
        Some(pattern) if pattern.contains("%d") => {
            bridge.pattern = Some(check_pattern(pattern).map_err(|cause| c.attr_error("name", cause))?);
        }
        Some(_) => bridge.name = c.parsed("name", |text| LinkName::new(text))?,
    }
    bridge.stp = c.choice("stp", &[("on", true), ("off", false)])?;
    bridge.delay = c.number("delay", 0..=u32::MAX)?;
    bridge.zone = c.string("zone")?;
    bridge.mac_table_manager = c.choice("macTableManager", MAC_TABLE_MANAGERS)?;
    if !mode.has_own_bridge() {
        let given = [("stp", bridge.stp.is_some()), ("delay", bridge.delay.is_some()), ("zone", bridge.zone.is_some())];
        if let Some((name, _)) = given.iter().find(|(_, given)| *given) {
            let mode = mode.as_str().unwrap_or_default();
            return Err(c.attr_error(name, format!("forward mode '{mode}' uses a bridge of the host's as it is")));
        }
    }
    Ok(with_defaults(bridge, mode))
}

/// What a network's own bridge has unless it is said otherwise.
fn with_defaults(bridge: Bridge, mode: ForwardMode) -> Bridge {
    if !mode.has_own_bridge() {
        return bridge;
    }
    Bridge { stp: bridge.stp.or(Some(true)), delay: bridge.delay.or(Some(0)), ..bridge }
}

/// A bridge name with one `%d` in it, which leaves room for a digit.
fn check_pattern(pattern: &str) -> Result<String, String> {
    if pattern.matches('%').count() != 1 || !pattern.ends_with("%d") {
        return Err(format!("'{pattern}' is not a pattern for names: it must end with its only %, in %d"));
    }
    LinkName::new(pattern.replace("%d", "0"))?;
    Ok(pattern.to_owned())
}

/// Reads `<domain>`, in a network and as the fragment of an update.
pub(crate) fn read_domain(c: &Cursor<'_, '_>) -> Result<Domain> {
    Ok(Domain {
        name: c.required("name", dns_name)?,
        local_only: c.yes_no("localOnly")?,
        register: c.yes_no("register")?,
    })
}

/// Reads `<portgroup>`, in a network and as the fragment of an update.
pub(crate) fn read_portgroup(c: &Cursor<'_, '_>) -> Result<Portgroup> {
    let mut portgroup = Portgroup {
        name: c.required("name", name)?,
        // libvirt does not print default='no'.
        default: c.yes_no("default")?.filter(|yes| *yes),
        trust_guest_rx_filters: c.yes_no("trustGuestRxFilters")?,
        tags: Vec::new(),
        vlan: read_vlan(c)?,
        virtualport: read_virtualport(c)?,
        bandwidth: read_bandwidth(c, false)?.map(|(b, _)| b),
    };
    read_tags(c, None, &mut portgroup.tags)?;
    without_doubles(&mut portgroup.tags);
    Ok(portgroup)
}

/// Writes `<network>` wherever the writer stands.
pub(crate) fn write_network_into(w: &mut Writer, network: &Network, options: &WriteOptions<'_>) {
    let connections = options.connections.filter(|_| !options.inactive).map(|c| c.network).filter(|n| *n > 0);
    let dnsmasq = (!network.dnsmasq_options.is_empty()).then_some(DNSMASQ_NAMESPACE);
    w.element("network")
        .opt("xmlns:dnsmasq", dnsmasq)
        .opt("connections", connections)
        .opt("ipv6", (network.ipv6 == Some(true)).then_some("yes"))
        .yes_no("trustGuestRxFilters", network.trust_guest_rx_filters)
        .body(|w| write_children(w, network, options));
}

fn write_children(w: &mut Writer, network: &Network, options: &WriteOptions<'_>) {
    w.text("name", &network.name);
    if let Some(uuid) = network.uuid {
        w.text("uuid", uuid);
    }
    if options.tags == TagForm::Elements {
        write_tags(w, &network.tags);
    }
    for (name, text) in [("title", &network.title), ("description", &network.description)] {
        if let Some(text) = text {
            w.text(name, text);
        }
    }
    match (options.tags, metadata_tags(network)) {
        (TagForm::Metadata, Some(tags)) => {
            let mut metadata = network.metadata.clone().unwrap_or_default();
            metadata.elements.push(tags);
            write_metadata(w, &metadata);
        }
        _ => network.metadata.iter().for_each(|m| write_metadata(w, m)),
    }
    write_forward(w, &network.forward, options);
    write_bridge(w, network);
    if let Some(mtu) = network.mtu {
        w.element("mtu").attr("size", mtu).close();
    }
    if let Some(mac) = network.mac {
        w.element("mac").attr("address", mac).close();
    }
    if let Some(domain) = &network.domain {
        w.element("domain")
            .attr("name", &domain.name)
            .yes_no("localOnly", domain.local_only)
            .yes_no("register", domain.register)
            .close();
    }
    write_dns(w, network.dns.as_ref());
    write_vlan(w, network.vlan.as_ref());
    write_bandwidth(w, network.bandwidth.as_ref(), None);
    if let Some(isolated) = network.port_isolated {
        w.element("port").yes_no("isolated", Some(isolated)).close();
    }
    network.ips.iter().for_each(|ip| write_ip(w, ip));
    network.routes.iter().for_each(|route| write_route(w, route));
    write_virtualport(w, network.virtualport.as_ref());
    for portgroup in &network.portgroups {
        write_portgroup(w, portgroup, options.tags);
    }
    if !network.dnsmasq_options.is_empty() {
        w.element("dnsmasq:options").body(|w| {
            for option in &network.dnsmasq_options {
                w.element("dnsmasq:option").attr("value", option).close();
            }
        });
    }
}

/// The tags of a network and its portgroups as one element of ours; `None` if there are none.
pub(super) fn metadata_tags(network: &Network) -> Option<MetadataElement> {
    let element = |name: &str, attribute: Option<&Name>, tags: &[Tag]| MetadataElement {
        uri: PATCHCORD_NAMESPACE.into(),
        name: format!("pc:{name}"),
        attributes: attribute.iter().map(|v| ("name".to_owned(), v.to_string())).collect(),
        children: tags
            .iter()
            .map(|tag| {
                MetadataNode::Element(MetadataElement {
                    uri: PATCHCORD_NAMESPACE.into(),
                    name: "pc:tag".into(),
                    attributes: vec![("name".into(), tag.to_string())],
                    ..MetadataElement::default()
                })
            })
            .collect(),
        ..MetadataElement::default()
    };
    let mut tags = element("tags", None, &network.tags);
    tags.namespaces.push(("pc".into(), PATCHCORD_NAMESPACE.into()));
    for portgroup in network.portgroups.iter().filter(|p| !p.tags.is_empty()) {
        tags.children.push(MetadataNode::Element(element("portgroup", Some(&portgroup.name), &portgroup.tags)));
    }
    (!tags.children.is_empty()).then_some(tags)
}

fn write_bridge(w: &mut Writer, network: &Network) {
    let (bridge, own) = (&network.bridge, network.forward.mode.has_own_bridge());
    if !own && *bridge == Bridge::default() {
        return;
    }
    let name = bridge.name.as_ref().map(LinkName::as_str).or(bridge.pattern.as_deref());
    let on_off = |on: Option<bool>| if on.unwrap_or(true) { "on" } else { "off" };
    let manager = bridge.mac_table_manager.map(|m| match m {
        MacTableManager::Kernel => "kernel",
        MacTableManager::Libvirt => "libvirt",
    });
    w.element("bridge")
        .opt("name", name)
        .opt("zone", bridge.zone.as_ref())
        .opt("stp", own.then(|| on_off(bridge.stp)))
        .opt("delay", own.then(|| bridge.delay.unwrap_or(0)))
        .opt("macTableManager", manager)
        .close();
}

fn write_portgroup(w: &mut Writer, portgroup: &Portgroup, tags: TagForm) {
    w.element("portgroup")
        .attr("name", &portgroup.name)
        .opt("default", (portgroup.default == Some(true)).then_some("yes"))
        .yes_no("trustGuestRxFilters", portgroup.trust_guest_rx_filters)
        .body(|w| {
            if tags == TagForm::Elements {
                write_tags(w, &portgroup.tags);
            }
            write_vlan(w, portgroup.vlan.as_ref());
            write_virtualport(w, portgroup.virtualport.as_ref());
            write_bandwidth(w, portgroup.bandwidth.as_ref(), None);
        });
}
