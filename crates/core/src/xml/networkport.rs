//! `<networkport>`: what libvirt's drivers hand over when a guest starts, and get back with its `<plug>`.

use super::{
    network::MAC_TABLE_MANAGERS,
    parts::{
        link_name, parse_unicast_mac, read_bandwidth, read_name, read_pci, read_uuid, read_virtualport, read_vlan,
        write_bandwidth, write_pci, write_virtualport, write_vlan,
    },
    reader::{Cursor, Mode, read_document},
    writer::Writer,
};
use crate::Result;
use crate::model::{DirectMode, LinkName, MacTableManager, NetworkPort, Plug};

/// Reads a port.
pub fn read_networkport(text: &str, mode: Mode) -> Result<NetworkPort> {
    read_document(text, mode, "network port", "networkport", read_networkport_element)
}

/// Prints a port.
pub fn write_networkport(port: &NetworkPort) -> String {
    let mut w = Writer::new();
    write_networkport_into(&mut w, port);
    w.finish()
}

/// Reads `<networkport>` wherever it stands.
pub(crate) fn read_networkport_element(c: &Cursor<'_, '_>) -> Result<NetworkPort> {
    let uuid = read_uuid(c, "uuid")?;
    if let Some(uuid) = uuid {
        c.set_object(format!("network port {uuid}"));
    }
    let missing = |name: &str| c.error(format!("<{name}> is missing"));
    let owner = c.child("owner").ok_or_else(|| missing("owner"))?;
    let mac = c.child("mac").ok_or_else(|| missing("mac"))?.required("address", parse_unicast_mac)?;
    let (bandwidth, class_id) = read_bandwidth(c, true)?.map_or((None, None), |(b, class)| (Some(b), class));
    Ok(NetworkPort {
        uuid,
        owner: read_name(&owner, "name")?.ok_or_else(|| owner.error("<name> is missing"))?,
        owner_uuid: read_uuid(&owner, "uuid")?.ok_or_else(|| owner.error("<uuid> is missing"))?,
        group: read_name(c, "group")?,
        mac,
        virtualport: read_virtualport(c)?,
        bandwidth,
        class_id,
        vlan: read_vlan(c)?,
        isolated: c.child("port").map(|p| p.yes_no("isolated")).transpose()?.flatten(),
        trust_guest_rx_filters: c.child("rxfilters").map(|r| r.yes_no("trustGuest")).transpose()?.flatten(),
        plug: c.child("plug").map(|p| read_plug(&p)).transpose()?,
    })
}

fn read_plug(c: &Cursor<'_, '_>) -> Result<Plug> {
    let bridge = || -> Result<(LinkName, Option<MacTableManager>)> {
        Ok((c.required("bridge", link_name)?, c.choice("macTableManager", MAC_TABLE_MANAGERS)?))
    };
    Ok(match c.required("type", |text| Ok(text.to_owned()))?.as_str() {
        "none" => Plug::None,
        "network" => {
            let (bridge, mac_table_manager) = bridge()?;
            Plug::Network { bridge, mac_table_manager }
        }
        "bridge" => {
            let (bridge, mac_table_manager) = bridge()?;
            Plug::Bridge { bridge, mac_table_manager }
        }
        "direct" => Plug::Direct { dev: c.required("dev", link_name)?, mode: c.choice("mode", DirectMode::WORDS)? },
        "hostdev-pci" => Plug::Hostdev {
            managed: c.yes_no("managed")?,
            driver: c.child("driver").map(|d| d.string("name")).transpose()?.flatten(),
            address: read_pci(&c.child("address").ok_or_else(|| c.error("<address> is missing"))?)?,
        },
        other => {
            let cause = format!("'{other}' is none of 'none', 'network', 'bridge', 'direct', 'hostdev-pci'");
            return Err(c.attr_error("type", cause));
        }
    })
}

/// Writes `<networkport>` wherever the writer stands.
pub(crate) fn write_networkport_into(w: &mut Writer, port: &NetworkPort) {
    w.element("networkport").body(|w| {
        if let Some(uuid) = port.uuid {
            w.text("uuid", uuid);
        }
        w.element("owner").body(|w| {
            w.text("name", &port.owner);
            w.text("uuid", port.owner_uuid);
        });
        if let Some(group) = &port.group {
            w.text("group", group);
        }
        w.element("mac").attr("address", port.mac).close();
        write_virtualport(w, port.virtualport.as_ref());
        write_bandwidth(w, port.bandwidth.as_ref(), port.class_id);
        write_vlan(w, port.vlan.as_ref());
        if let Some(isolated) = port.isolated {
            w.element("port").yes_no("isolated", Some(isolated)).close();
        }
        if let Some(trust) = port.trust_guest_rx_filters {
            w.element("rxfilters").yes_no("trustGuest", Some(trust)).close();
        }
        if let Some(plug) = &port.plug {
            write_plug(w, plug);
        }
    });
}

fn write_plug(w: &mut Writer, plug: &Plug) {
    let tag = w.element("plug");
    let manager = |m: &Option<MacTableManager>| {
        m.and_then(|m| MAC_TABLE_MANAGERS.iter().find(|(_, known)| *known == m)).map(|(word, _)| *word)
    };
    match plug {
        Plug::None => tag.attr("type", "none").close(),
        Plug::Network { bridge, mac_table_manager } => {
            let tag = tag.attr("type", "network").attr("bridge", bridge);
            tag.opt("macTableManager", manager(mac_table_manager)).close();
        }
        Plug::Bridge { bridge, mac_table_manager } => {
            let tag = tag.attr("type", "bridge").attr("bridge", bridge);
            tag.opt("macTableManager", manager(mac_table_manager)).close();
        }
        Plug::Direct { dev, mode } => {
            let mode = mode.map(DirectMode::as_str);
            tag.attr("type", "direct").attr("dev", dev).opt("mode", mode).close();
        }
        Plug::Hostdev { managed, driver, address } => {
            tag.attr("type", "hostdev-pci").yes_no("managed", *managed).body(|w| {
                if let Some(driver) = driver {
                    w.element("driver").attr("name", driver).close();
                }
                write_pci(w, None, address, None);
            });
        }
    }
}
