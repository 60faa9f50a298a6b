//! Elements that networks, portgroups, NICs and ports share. Reading and writing stand side by side.

use super::{
    PATCHCORD_NAMESPACE,
    reader::{Cursor, number_in, plain_text},
    writer::Writer,
};
use crate::Result;
use crate::model::{
    Bandwidth, LinkName, MacAddr, Name, NativeMode, PciAddress, Rate, Tag, VirtualPort, VirtualPortType, Vlan, VlanTag,
};
use std::collections::HashSet;
use std::net::IpAddr;
use uuid::Uuid;

/// 32 hexadecimal digits; dashes and white space between them mean nothing to libvirt.
pub(crate) fn parse_uuid(text: &str) -> Result<Uuid, String> {
    let digits: String = text.chars().filter(|c| *c != '-' && !c.is_ascii_whitespace()).collect();
    let whole = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    u128::from_str_radix(&digits, 16)
        .ok()
        .filter(|_| whole)
        .map(Uuid::from_u128)
        .ok_or_else(|| format!("'{text}' is not a UUID: 32 hexadecimal digits"))
}

pub(crate) fn parse_ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("'{text}' is not an IP address"))
}

/// An address that a NIC or a bridge may have.
pub(crate) fn parse_unicast_mac(text: &str) -> Result<MacAddr, String> {
    let mac: MacAddr = text.parse()?;
    if mac.is_multicast() {
        return Err(format!("'{mac}' is a multicast address: the second digit must be even"));
    }
    Ok(mac)
}

pub(crate) fn link_name(text: &str) -> Result<LinkName, String> {
    LinkName::new(text)
}

pub(crate) fn name(text: &str) -> Result<Name, String> {
    Name::new(text)
}

/// A child element `name` with nothing but a UUID in it.
pub(crate) fn read_uuid(parent: &Cursor<'_, '_>, name: &str) -> Result<Option<Uuid>> {
    parent.child(name).map(|c| parse_uuid(&c.text()).map_err(|cause| c.error(cause))).transpose()
}

/// A child element `name` with nothing but a name in it.
pub(crate) fn read_name(parent: &Cursor<'_, '_>, name: &str) -> Result<Option<Name>> {
    parent.child(name).map(|c| Name::new(c.text()).map_err(|cause| c.error(cause))).transpose()
}

/// `<tag name='…'/>` children. `namespace` is ours where they stand in `<metadata>`. See [`without_doubles`].
pub(crate) fn read_tags(parent: &Cursor<'_, '_>, namespace: Option<&'static str>, tags: &mut Vec<Tag>) -> Result<()> {
    for child in parent.children_in(namespace, "tag") {
        tags.push(child.required("name", name)?);
    }
    Ok(())
}

/// A tag counts once, where it was named first.
pub(crate) fn without_doubles(tags: &mut Vec<Tag>) {
    let mut seen = HashSet::new();
    let keep: Vec<bool> = tags.iter().map(|tag| seen.insert(tag)).collect();
    let mut keep = keep.into_iter();
    tags.retain(|_| keep.next().unwrap_or(false));
}

pub(crate) fn write_tags(w: &mut Writer, tags: &[Tag]) {
    for tag in tags {
        w.element("tag").attr("name", tag).close();
    }
}

/// Whether a cursor is an element of ours inside somebody else's document.
pub(crate) fn is_ours(cursor: &Cursor<'_, '_>, name: &str) -> bool {
    cursor.namespace() == Some(PATCHCORD_NAMESPACE) && cursor.name() == name
}

pub(crate) fn read_vlan(parent: &Cursor<'_, '_>) -> Result<Option<Vlan>> {
    let Some(vlan) = parent.child("vlan") else { return Ok(None) };
    let mut tags = Vec::new();
    for tag in vlan.children("tag") {
        let id = tag.required("id", |text| number_in(text, 0..=4095))?;
        let native = tag.choice("nativeMode", &[("tagged", NativeMode::Tagged), ("untagged", NativeMode::Untagged)])?;
        if native.is_some() && tags.iter().any(|t: &VlanTag| t.native.is_some()) {
            return Err(tag.attr_error("nativeMode", "another <tag> is the native VLAN already"));
        }
        tags.push(VlanTag { id, native });
    }
    if tags.is_empty() {
        return Err(vlan.error("there is no <tag> in it").hint("write <tag id='N'/> for each VLAN"));
    }
    // libvirt implies a trunk from several tags and from a native one, and forgets trunk='no' where it is true.
    let implied = tags.len() > 1 || tags.iter().any(|t| t.native.is_some());
    let given = vlan.yes_no("trunk")?;
    if given == Some(false) && implied {
        let cause = if tags.len() > 1 { "several VLANs need trunk='yes'" } else { "a native VLAN needs trunk='yes'" };
        return Err(vlan.attr_error("trunk", cause));
    }
    Ok(Some(Vlan { trunk: (implied || given == Some(true)).then_some(true), tags }))
}

pub(crate) fn write_vlan(w: &mut Writer, vlan: Option<&Vlan>) {
    let Some(vlan) = vlan.filter(|v| !v.tags.is_empty()) else { return };
    w.element("vlan").opt("trunk", (vlan.trunk == Some(true)).then_some("yes")).body(|w| {
        for tag in &vlan.tags {
            let native = tag.native.map(|n| match n {
                NativeMode::Tagged => "tagged",
                NativeMode::Untagged => "untagged",
            });
            w.element("tag").attr("id", tag.id).opt("nativeMode", native).close();
        }
    });
}

/// Reads `<bandwidth>`; `floor` says whether a guarantee makes sense there. Also its class id, which only a port has.
pub(crate) fn read_bandwidth(parent: &Cursor<'_, '_>, floor: bool) -> Result<Option<(Bandwidth, Option<u32>)>> {
    parent.child("bandwidth").map_or(Ok(None), |cursor| read_bandwidth_element(&cursor, floor))
}

/// The element itself.
pub(crate) fn read_bandwidth_element(cursor: &Cursor<'_, '_>, floor: bool) -> Result<Option<(Bandwidth, Option<u32>)>> {
    let class = if floor { cursor.number("classID", 1..=u32::MAX)? } else { None };
    let inbound = cursor.child("inbound").map(|c| read_rate(&c, floor)).transpose()?.flatten();
    let outbound = cursor.child("outbound").map(|c| read_rate(&c, false)).transpose()?.flatten();
    if inbound.is_none() && outbound.is_none() && class.is_none() {
        return Ok(None);
    }
    Ok(Some((Bandwidth { inbound, outbound }, class)))
}

fn read_rate(cursor: &Cursor<'_, '_>, floor_allowed: bool) -> Result<Option<Rate>> {
    // Rates become bytes a second in 64 bits in the kernel.
    const MOST: u64 = u64::MAX / 1024;
    // 0 means not given, as it does to libvirt.
    let number = |name| cursor.number(name, 0..=MOST).map(|n| n.filter(|n| *n != 0));
    if !floor_allowed && cursor.attr("floor").is_some() {
        return Err(cursor
            .attr_error("floor", "a guaranteed rate is not possible here")
            .hint("give floor in the <inbound> of a NIC"));
    }
    let floor = if floor_allowed { number("floor")? } else { None };
    let rate = Rate { average: number("average")?, peak: number("peak")?, burst: number("burst")?, floor };
    if rate.average.is_none() && cursor.attr("average").is_none() && rate.floor.is_none() {
        let which = if floor_allowed { "one of 'average' and 'floor'" } else { "'average'" };
        return Err(cursor.error(format!("it needs {which}")));
    }
    if rate.average.is_none() && (rate.peak.is_some() || rate.burst.is_some()) {
        return Err(cursor.error("'peak' and 'burst' need 'average'"));
    }
    Ok((rate != Rate::default()).then_some(rate))
}

pub(crate) fn write_bandwidth(w: &mut Writer, bandwidth: Option<&Bandwidth>, class: Option<u32>) {
    let Some(b) = bandwidth.filter(|b| b.inbound.is_some() || b.outbound.is_some() || class.is_some()) else { return };
    w.element("bandwidth").opt("classID", class).body(|w| {
        for (name, rate) in [("inbound", b.inbound), ("outbound", b.outbound)] {
            if let Some(r) = rate {
                w.element(name)
                    .opt("average", r.average)
                    .opt("peak", r.peak)
                    .opt("floor", r.floor)
                    .opt("burst", r.burst)
                    .close();
            }
        }
    });
}

const VIRTUALPORT_TYPES: &[(&str, VirtualPortType)] = {
    use VirtualPortType::{Midonet, OpenVSwitch, Qbg, Qbh};
    &[(Qbg.as_str(), Qbg), (Qbh.as_str(), Qbh), (OpenVSwitch.as_str(), OpenVSwitch), (Midonet.as_str(), Midonet)]
};

/// Bytes of a profile's name at most (`PORT_PROFILE_MAX` of the kernel's `if_link.h`, less the NUL).
const PROFILE_MAX: usize = 39;

pub(crate) fn read_virtualport(parent: &Cursor<'_, '_>) -> Result<Option<VirtualPort>> {
    let Some(cursor) = parent.child("virtualport") else { return Ok(None) };
    let kind = cursor.choice("type", VIRTUALPORT_TYPES)?;
    let mut port = VirtualPort { kind, ..VirtualPort::default() };
    // libvirt reads them from wherever they stand in the element; all its documents have one <parameters>.
    if let Some(p) = cursor.child("parameters") {
        port.manager_id = p.number("managerid", 0..=u8::MAX)?;
        port.type_id = p.number("typeid", 0..=0xff_ffff)?;
        port.type_id_version = p.number("typeidversion", 0..=u8::MAX)?;
        port.instance_id = p.parsed("instanceid", parse_uuid)?;
        port.profile_id = p.parsed("profileid", |text| match plain_text(text)? {
            id if id.len() > PROFILE_MAX => Err(format!("'{id}' has more than {PROFILE_MAX} bytes")),
            id => Ok(id),
        })?;
        port.interface_id = p.parsed("interfaceid", parse_uuid)?;
        let not_for_type = |name: &str| {
            let kind = cursor.attr("type").unwrap_or_default();
            p.attr_error(name, format!("a virtualport of type '{kind}' has no such parameter"))
        };
        if let Some(name) = port.foreign_parameter() {
            return Err(not_for_type(name));
        }
    }
    if port == VirtualPort::default() {
        return Err(cursor.error("it has neither a type nor parameters"));
    }
    Ok(Some(port))
}

pub(crate) fn write_virtualport(w: &mut Writer, port: Option<&VirtualPort>) {
    let Some(port) = port else { return };
    let bare = VirtualPort { kind: port.kind, ..VirtualPort::default() };
    let tag = w.element("virtualport").opt("type", port.kind.map(VirtualPortType::as_str));
    if *port == bare {
        return tag.close();
    }
    tag.body(|w| {
        w.element("parameters")
            .opt("managerid", port.manager_id)
            .opt("typeid", port.type_id)
            .opt("typeidversion", port.type_id_version)
            .opt("instanceid", port.instance_id)
            .opt("interfaceid", port.interface_id)
            .opt("profileid", port.profile_id.as_ref())
            .close();
    });
}

/// The attributes of a PCI `<address>`, in the hexadecimal or decimal that libvirt takes.
pub(crate) fn read_pci(cursor: &Cursor<'_, '_>) -> Result<PciAddress> {
    let number = |name: &str, most: u16| {
        let parse = |text: &str| {
            let parsed = match text.strip_prefix("0x") {
                Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => u16::from_str_radix(hex, 16).ok(),
                _ => text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit())),
            };
            parsed.filter(|n| *n <= most).ok_or_else(|| format!("'{text}' is not a number from 0x0 to {most:#x}"))
        };
        cursor.parsed(name, parse).map(Option::unwrap_or_default)
    };
    Ok(PciAddress {
        domain: number("domain", 0xffff)?,
        bus: number("bus", 0xff)? as u8,
        slot: number("slot", 0x1f)? as u8,
        function: number("function", 7)? as u8,
    })
}

/// Writes a PCI `<address>`; a port's has no `type`.
pub(crate) fn write_pci(w: &mut Writer, kind: Option<&str>, a: &PciAddress, connections: Option<u32>) {
    w.element("address")
        .opt("type", kind)
        .attr("domain", format_args!("{:#06x}", a.domain))
        .attr("bus", format_args!("{:#04x}", a.bus))
        .attr("slot", format_args!("{:#04x}", a.slot))
        .attr("function", format_args!("{:#x}", a.function))
        .opt("connections", connections)
        .close();
}
