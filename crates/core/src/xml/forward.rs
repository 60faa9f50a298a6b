//! `<forward>`.

use super::{
    network::WriteOptions,
    parts::{link_name, read_pci, write_pci},
    reader::{Cursor, number_in},
    writer::Writer,
};
use crate::Result;
use crate::model::{DeviceRef, Forward, ForwardMode, LinkName, Nat};
use std::collections::HashSet;
use std::net::Ipv4Addr;

pub(crate) fn read_forward(parent: &Cursor<'_, '_>) -> Result<Forward> {
    parent.child("forward").map_or_else(|| Ok(Forward::default()), |c| read_forward_element(&c))
}

/// Reads `<forward>`, in a network and as the fragment of an update.
pub(crate) fn read_forward_element(c: &Cursor<'_, '_>) -> Result<Forward> {
    let mut forward = Forward {
        mode: c.choice("mode", ForwardMode::WORDS)?.unwrap_or(ForwardMode::Nat),
        managed: c.yes_no("managed")?,
        ..Forward::default()
    };
    if forward.mode == ForwardMode::Hostdev {
        forward.managed = Some(forward.managed == Some(true));
    } else {
        forward.managed = None;
    }
    if let Some(driver) = c.child("driver") {
        forward.driver = Some(driver.required("name", |text| match text {
            "vfio" | "kvm" | "xen" => Ok(text.to_owned()),
            _ => Err(format!("'{text}' is none of 'vfio', 'kvm', 'xen'")),
        })?);
    }
    if let Some(nat) = c.child("nat") {
        if forward.mode != ForwardMode::Nat {
            return Err(nat.error("it goes with <forward mode='nat'> only"));
        }
        forward.nat = read_nat(&nat)?;
    }
    if let Some(pf) = c.child("pf") {
        forward.pf = Some(read_pf(&pf)?);
    }
    let mut addresses = HashSet::new();
    for a in c.children("address") {
        if a.required("type", |text| Ok(text.to_owned()))? != "pci" {
            return Err(a.attr_error("type", "only 'pci' addresses can be given"));
        }
        a.ignore_attr("connections");
        let address = read_pci(&a)?;
        if !addresses.insert(address) {
            return Err(a.error("this address is listed twice"));
        }
        forward.addresses.push(address);
    }
    let dev = c.parsed("dev", link_name)?;
    if let Some(dev) = &dev {
        if forward.pf.is_some() || !forward.addresses.is_empty() {
            return Err(c.attr_error("dev", "it can't be given together with <pf> or <address>"));
        }
        if forward.mode == ForwardMode::Open {
            return Err(c
                .attr_error("dev", "forward mode 'open' takes no device")
                .hint("use mode 'route' to bind the network to one"));
        }
        forward.devices.push(DeviceRef { dev: dev.clone() });
    }
    let mut devices: HashSet<_> = dev.iter().cloned().collect();
    for (n, interface) in c.children("interface").enumerate() {
        interface.ignore_attr("connections");
        let name = interface.required("dev", link_name)?;
        match &dev {
            Some(dev) if n == 0 && *dev != name => {
                let cause = format!("<forward dev='{dev}'> must name the first <interface>, which is '{name}'");
                return Err(c.attr_error("dev", cause));
            }
            Some(_) if n == 0 => continue,
            _ => {}
        }
        if !devices.insert(name.clone()) {
            return Err(interface.attr_error("dev", format!("'{name}' is listed twice")));
        }
        forward.devices.push(DeviceRef { dev: name });
    }
    if !forward.devices.is_empty() && !forward.addresses.is_empty() {
        return Err(c.error("<interface> and <address> can't be mixed"));
    }
    if forward.mode == ForwardMode::Isolated {
        // What an isolated network says about forwarding has no effect and is not printed.
        forward = Forward::default();
    }
    Ok(forward)
}

/// Reads `<pf>`, in a network and as the fragment of an update.
pub(crate) fn read_pf(c: &Cursor<'_, '_>) -> Result<LinkName> {
    c.required("dev", link_name)
}

fn read_nat(c: &Cursor<'_, '_>) -> Result<Nat> {
    let ipv4 = |text: &str| text.parse::<Ipv4Addr>().map_err(|_| format!("'{text}' is not an IPv4 address"));
    let mut nat = Nat { ipv6: c.yes_no("ipv6")?, ..Nat::default() };
    if let Some(a) = c.child("address") {
        let (start, end) = (a.required("start", ipv4)?, a.required("end", ipv4)?);
        if start > end {
            return Err(a.attr_error("end", format!("{end} is before the start, {start}")));
        }
        nat.addresses = Some((start, end));
    }
    if let Some(p) = c.child("port") {
        let port = |text: &str| number_in(text, 1..=u16::MAX);
        let (start, end) = (p.required("start", port)?, p.required("end", port)?);
        if start > end {
            return Err(p.attr_error("end", format!("{end} is before the start, {start}")));
        }
        nat.ports = Some((start, end));
    }
    Ok(nat)
}

pub(crate) fn write_forward(w: &mut Writer, forward: &Forward, options: &WriteOptions<'_>) {
    let Some(mode) = forward.mode.as_str() else { return };
    let hostdev = forward.mode == ForwardMode::Hostdev;
    let dev = forward.devices.first().map(|d| &d.dev).filter(|_| forward.pf.is_none());
    let counts = options.connections.filter(|_| !options.inactive);
    w.element("forward")
        .opt("dev", dev)
        .attr("mode", mode)
        .yes_no("managed", hostdev.then_some(forward.managed == Some(true)))
        .body_or_close(|w| {
            if let Some(driver) = &forward.driver {
                w.element("driver").attr("name", driver).close();
            }
            // What runs has ports, whether they were given or not.
            let running = forward.mode == ForwardMode::Nat && counts.is_some();
            let ports = forward.nat.ports.or(running.then_some(Nat::PORTS));
            write_nat(w, &Nat { ports, ..forward.nat.clone() });
            if let Some(pf) = &forward.pf {
                w.element("pf").attr("dev", pf).close();
                if options.inactive {
                    return;
                }
            }
            for device in &forward.devices {
                let count = counts.and_then(|c| c.by_device.get(&device.dev).copied()).filter(|n| *n > 0);
                w.element("interface").attr("dev", &device.dev).opt("connections", count).close();
            }
            for address in &forward.addresses {
                let count = counts.and_then(|c| c.by_address.get(address).copied()).filter(|n| *n > 0);
                write_pci(w, Some("pci"), address, count);
            }
        });
}

fn write_nat(w: &mut Writer, nat: &Nat) {
    if *nat == Nat::default() {
        return;
    }
    w.element("nat").yes_no("ipv6", nat.ipv6).body_or_close(|w| {
        if let Some((start, end)) = nat.addresses {
            w.element("address").attr("start", start).attr("end", end).close();
        }
        if let Some((start, end)) = nat.ports {
            w.element("port").attr("start", start).attr("end", end).close();
        }
    });
}
