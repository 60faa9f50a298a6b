//! `<interface>` of the host: an Ethernet link, bridge, bond or VLAN, with its addresses.

use super::writer::Writer;
use crate::model::LinkName;
use crate::model::interface::{
    Addresses, ArpValidate, Bond, BondCarrier, BondMode, BondMonitor, Ethernet, HostBridge, Interface, InterfaceKind,
    LinkReport, OperState, PortKind, Protocol, StartMode, VlanLink,
};
use std::fmt::Display;

/// Prints a host interface.
pub fn write_interface(interface: &Interface) -> String {
    let mut w = Writer::new();
    let Interface { name, start, mtu, addresses, report, kind } = interface;
    w.element("interface").attr("type", word_of(kind)).attr("name", name).body(|w| {
        if let Some(mode) = start {
            w.element("start").opt("mode", word(StartMode::WORDS, *mode)).close();
        }
        if let Some(mtu) = mtu {
            w.element("mtu").attr("size", mtu).close();
        }
        write_addresses(w, addresses);
        match kind {
            InterfaceKind::Ethernet(ethernet) => {
                write_report(w, *report);
                write_ethernet(w, *ethernet);
            }
            // libvirt's grammar has no <link> for one.
            InterfaceKind::Bridge(bridge) => write_bridge(w, bridge),
            InterfaceKind::Bond(bond) => {
                write_report(w, *report);
                write_bond(w, bond);
            }
            InterfaceKind::Vlan(vlan) => {
                write_report(w, *report);
                write_vlan_link(w, vlan);
            }
        }
    });
    w.finish()
}

/// The word for a value.
fn word<T: PartialEq>(words: &[(&'static str, T)], value: T) -> Option<&'static str> {
    words.iter().find(|(_, known)| *known == value).map(|(word, _)| *word)
}

const fn word_of(kind: &InterfaceKind) -> &'static str {
    match kind {
        InterfaceKind::Ethernet(_) => "ethernet",
        InterfaceKind::Bridge(_) => "bridge",
        InterfaceKind::Bond(_) => "bond",
        InterfaceKind::Vlan(_) => "vlan",
    }
}

fn write_addresses(w: &mut Writer, Addresses { ipv4, ipv6, autoconf }: &Addresses) {
    if let Some(ipv4) = ipv4 {
        write_protocol(w, "ipv4", false, ipv4);
    }
    match ipv6 {
        Some(ipv6) => write_protocol(w, "ipv6", *autoconf, ipv6),
        None if *autoconf => write_protocol(w, "ipv6", true, &Protocol::<std::net::Ipv6Addr>::default()),
        None => {}
    }
}

fn write_protocol<A: Display>(w: &mut Writer, family: &str, autoconf: bool, protocol: &Protocol<A>) {
    w.element("protocol").attr("family", family).body(|w| {
        if autoconf {
            w.element("autoconf").close();
        }
        if let Some(dhcp) = protocol.dhcp {
            w.element("dhcp").yes_no("peerdns", dhcp.peer_dns).close();
        }
        for (address, prefix) in &protocol.addresses {
            w.element("ip").attr("address", address).opt("prefix", *prefix).close();
        }
        if let Some(gateway) = &protocol.gateway {
            w.element("route").attr("gateway", gateway).close();
        }
    });
}

fn write_report(w: &mut Writer, report: Option<LinkReport>) {
    if let Some(LinkReport { speed, state }) = report {
        w.element("link").opt("speed", speed).opt("state", state.map(OperState::as_str)).close();
    }
}

fn write_ethernet(w: &mut Writer, ethernet: Ethernet) {
    if let Some(mac) = ethernet.mac {
        w.element("mac").attr("address", mac).close();
    }
}

fn write_bridge(w: &mut Writer, bridge: &HostBridge) {
    let stp = bridge.stp.map(|stp| if stp { "on" } else { "off" });
    w.element("bridge").opt("stp", stp).opt("delay", bridge.delay).body(|w| {
        for port in &bridge.ports {
            let kind = match port.kind {
                PortKind::Ethernet(_) => "ethernet",
                PortKind::Bond(_) => "bond",
                PortKind::Vlan(_) => "vlan",
            };
            write_nested(w, kind, &port.name, port.report, |w| match &port.kind {
                PortKind::Ethernet(ethernet) => write_ethernet(w, *ethernet),
                PortKind::Bond(bond) => write_bond(w, bond),
                PortKind::Vlan(vlan) => write_vlan_link(w, vlan),
            });
        }
    });
}

fn write_nested(
    w: &mut Writer,
    kind: &str,
    name: &LinkName,
    report: Option<LinkReport>,
    rest: impl FnOnce(&mut Writer),
) {
    w.element("interface").attr("type", kind).attr("name", name).body(|w| {
        write_report(w, report);
        rest(w);
    });
}

fn write_bond(w: &mut Writer, bond: &Bond) {
    w.element("bond").opt("mode", bond.mode.and_then(|mode| word(BondMode::WORDS, mode))).body(|w| {
        match bond.monitor {
            Some(BondMonitor::Mii { interval, down_delay, up_delay, carrier }) => {
                let carrier = carrier.and_then(|carrier| word(BondCarrier::WORDS, carrier));
                let tag = w.element("miimon").attr("freq", interval);
                tag.opt("downdelay", down_delay).opt("updelay", up_delay).opt("carrier", carrier).close();
            }
            Some(BondMonitor::Arp { interval, target, validate }) => {
                let validate = validate.and_then(|validate| word(ArpValidate::WORDS, validate));
                let tag = w.element("arpmon").attr("interval", interval).attr("target", target);
                tag.opt("validate", validate).close();
            }
            None => {}
        }
        for port in &bond.ports {
            write_nested(w, "ethernet", &port.name, port.report, |w| write_ethernet(w, port.ethernet));
        }
    });
}

fn write_vlan_link(w: &mut Writer, vlan: &VlanLink) {
    w.element("vlan").attr("tag", vlan.tag).body(|w| {
        w.element("interface").attr("name", &vlan.device).close();
    });
}
