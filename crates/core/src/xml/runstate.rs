//! Run state: what a daemon that starts again needs to know about networks and NICs that it left running.
//!
//! One document for each object, with `format='1'` on its root element. Boot id and network namespace tell whether it
//! is still true: after a reboot, or in another namespace, it counts as gone.

use super::network::{read_network_element, write_network_into};
use super::nic::{read_nic_element, write_nic_into};
use super::parts::{read_virtualport, write_virtualport};
use super::reader::{Cursor, Mode, read_document};
use super::writer::Tag;
use super::{WriteOptions, Writer};
use crate::intent::{Allocation, Claim, NicIntent, Owner, Saved};
use crate::merge::Precedence;
use crate::model::{DevicePlug, LinkName, MacAddr, Name, Network, NicSource, PciAddress};
use crate::plan::{Association, Cable, FunctionBefore, FunctionVlan, Handover, Index, Sysctl};
use crate::pool::Access;
use crate::{Error, ErrorKind, Result};
use std::str::FromStr;
use uuid::Uuid;

/// The format we write, and the newest one we read.
const FORMAT: u32 = 1;

/// Where and when a document is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The host's boot id (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// The network namespace's inode number.
    pub netns: u64,
}

/// Begins a document.
fn begin<'w>(w: &'w mut Writer, root: &'w str, stamp: &Stamp) -> Tag<'w> {
    w.element(root).attr("format", FORMAT).attr("boot", &stamp.boot_id).attr("netns", stamp.netns)
}

/// Reads a document if it is true here and now.
fn read<T>(text: &str, root: &str, stamp: &Stamp, of: impl FnOnce(&Cursor<'_, '_>) -> Result<T>) -> Result<Option<T>> {
    read_document(text, Mode::Lenient, "run state", root, |c| {
        let format: u32 = c.required("format", parse)?;
        if format > FORMAT {
            return Err(c
                .error(format!("it has format {format}, and this version knows {FORMAT}"))
                .hint("a newer version wrote it: start that one again"));
        }
        let boot: String = c.required("boot", |s| Ok(s.to_owned()))?;
        let netns: u64 = c.required("netns", parse)?;
        if boot != stamp.boot_id || netns != stamp.netns {
            return Ok(None);
        }
        of(c).map(Some)
    })
}

fn parse<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("'{text}' is not what belongs there"))
}

fn uuid(text: &str) -> Result<Uuid, String> {
    Uuid::try_parse(text).map_err(|_| format!("'{text}' is not a UUID"))
}

/// An active network.
pub fn write_network_state(stamp: &Stamp, network: &Network) -> String {
    let mut w = Writer::new();
    begin(&mut w, "networkstatus", stamp).body(|w| write_network_into(w, network, &WriteOptions::default()));
    w.finish()
}

/// An active network with its UUID; `None` when it is gone.
pub fn read_network_state(stamp: &Stamp, text: &str) -> Result<Option<(Uuid, Network)>> {
    read(text, "networkstatus", stamp, |c| {
        let element = c.child("network").ok_or_else(|| c.error("it has no <network>"))?;
        let network = read_network_element(&element)?;
        let uuid = network.uuid.ok_or_else(|| element.error("it has no <uuid>"))?;
        Ok((uuid, network))
    })
}

/// A NIC: as given, and what was filled in.
pub fn write_nic_state(stamp: &Stamp, nic: &NicIntent) -> String {
    let mut w = Writer::new();
    let tag = begin(&mut w, "nicstatus", stamp)
        .attr("id", nic.id)
        .attr("guest", &nic.guest)
        .opt("guestuuid", nic.guest_uuid)
        .opt("networkuuid", nic.network)
        .opt("mac", nic.nic.mac)
        .opt("tap", nic.nic.target.as_ref())
        .opt("plug", nic.is_macvtap().then_some(DevicePlug::Macvtap.as_str()))
        .opt("queues", nic.nic.queues)
        .opt("ownerpid", nic.owner.map(|o| o.pid))
        .opt("ownerstart", nic.owner.map(|o| o.start_time));
    let tag = match nic.handover {
        _ if nic.is_port() => {
            tag.attr("handover", "port").opt("bound", (nic.port == Some(Claim::Bound)).then_some("yes"))
        }
        Handover::Descriptor => tag.attr("handover", "descriptor"),
        Handover::Name { uid } => tag.attr("handover", "name").opt("opener", uid),
    };
    let policy = (nic.precedence == Precedence::Host).then_some("host");
    tag.opt("class", nic.class).attr("uid", nic.uid).attr("turn", nic.turn).opt("policy", policy).body(|w| {
        write_nic_into(w, &nic.given, None);
        match &nic.allocation {
            None => {}
            Some(Allocation::Link { device, access, macvlan }) => {
                w.element("actual").attr("type", "direct").body(|w| {
                    let exclusive = *access == Access::Exclusive;
                    let source = w.element("source").attr("dev", device);
                    source.attr("macvlan", macvlan).yes_no("exclusive", Some(exclusive)).close();
                })
            }
            Some(Allocation::Function(address)) => {
                w.element("actual").attr("type", "hostdev").body(|w| w.element("source").attr("pci", address).close());
            }
        }
    });
    w.finish()
}

/// What a daemon that starts needs of a NIC's document before anything is known of the host: whom to look for, and
/// what they may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicClaim {
    /// Its id.
    pub id: Uuid,
    /// Its owner.
    pub owner: Option<Owner>,
    /// Its tap's name, if it is handed over by descriptor.
    pub descriptor_of: Option<String>,
}

/// Reads that of a document, whatever else is in it.
pub fn nic_claim(text: &str) -> Option<NicClaim> {
    let claim = |c: &Cursor<'_, '_>| {
        let by_descriptor = c.attr("handover") == Some("descriptor");
        let tap = c.attr("tap").filter(|_| by_descriptor).map(str::to_owned);
        Ok(NicClaim { id: c.required("id", uuid)?, owner: read_owner(c)?, descriptor_of: tap })
    };
    read_document(text, Mode::Lenient, "run state", "nicstatus", claim).ok()
}

fn read_owner(c: &Cursor<'_, '_>) -> Result<Option<Owner>> {
    Ok(match (c.parsed("ownerpid", parse)?, c.parsed("ownerstart", parse)?) {
        (Some(pid), Some(start_time)) => Some(Owner { pid, start_time }),
        _ => None,
    })
}

/// A NIC; `None` when it is gone.
pub fn read_nic_state(stamp: &Stamp, text: &str) -> Result<Option<NicIntent>> {
    read(text, "nicstatus", stamp, |c| {
        let element = c.child("interface").ok_or_else(|| c.error("it has no <interface>"))?;
        let given = read_nic_element(&element)?;
        let mut nic = given.clone();
        nic.mac = c.parsed("mac", str::parse::<MacAddr>)?;
        nic.target = c.parsed("tap", |s| LinkName::new(s))?;
        nic.queues = c.parsed("queues", parse)?;
        // Those who wrote older documents plugged in all NICs by cords.
        let cord = given.plug.filter(|plug| *plug == DevicePlug::Cord);
        nic.plug = c.choice("plug", DevicePlug::WORDS)?.or(cord);
        let owner = read_owner(c)?;
        let handover = match c.required("handover", |s| Ok(s.to_owned()))?.as_str() {
            "descriptor" => Handover::Descriptor,
            "name" => Handover::Name { uid: c.parsed("opener", parse)? },
            // Others make its tap.
            "port" => Handover::Name { uid: None },
            other => return Err(c.attr_error("handover", format!("'{other}' is neither 'descriptor' nor 'name'"))),
        };
        let network = c.parsed("networkuuid", uuid)?;
        if network.is_none() && matches!(given.source, NicSource::Network { .. }) {
            return Err(c.missing("networkuuid"));
        }
        Ok(NicIntent {
            id: c.required("id", uuid)?,
            guest: c.required("guest", |s| Name::new(s))?,
            guest_uuid: c.parsed("guestuuid", uuid)?,
            given,
            nic,
            network,
            allocation: read_allocation(c)?,
            class: c.parsed("class", parse)?,
            port: read_claim(c)?,
            precedence: if c.attr("policy") == Some("host") { Precedence::Host } else { Precedence::Nic },
            owner,
            handover,
            uid: c.required("uid", parse)?,
            // Those of older documents come first, in any order.
            turn: c.parsed("turn", parse)?.unwrap_or(0),
            // Older documents say so themselves; now it is the file's name that says it.
            confirmed: c.attr("state") != Some("pending"),
        })
    })
}

fn read_claim(c: &Cursor<'_, '_>) -> Result<Option<Claim>> {
    let claim = if c.yes_no("bound")? == Some(true) { Claim::Bound } else { Claim::Unbound };
    Ok((c.attr("handover") == Some("port")).then_some(claim))
}

/// The device that a NIC has got: what its source came down to, and nothing else can tell.
fn read_allocation(c: &Cursor<'_, '_>) -> Result<Option<Allocation>> {
    let Some(actual) = c.child("actual") else { return Ok(None) };
    let source = actual.child("source").ok_or_else(|| actual.error("it has no <source>"))?;
    if actual.attr("type") == Some("hostdev") {
        return Ok(Some(Allocation::Function(source.required("pci", str::parse::<PciAddress>)?)));
    }
    let link = |s: &str| LinkName::new(s);
    Ok(Some(Allocation::Link {
        device: source.required("dev", link)?,
        access: if source.yes_no("exclusive")? == Some(true) { Access::Exclusive } else { Access::Shared },
        macvlan: source.required("macvlan", link)?,
    }))
}

/// What a virtual function was before a NIC got it.
pub fn write_function(stamp: &Stamp, nic: Uuid, address: PciAddress, before: &FunctionBefore) -> String {
    let mut w = Writer::new();
    begin(&mut w, "function", stamp)
        .attr("nic", nic)
        .attr("address", address)
        .opt("mac", before.mac)
        .opt("vlan", before.vlan.map(|vlan| vlan.id))
        .opt("priority", before.vlan.map(|vlan| vlan.priority))
        .yes_no("service", before.vlan.map(|vlan| vlan.service))
        .yes_no("trusted", before.trusted)
        .opt("cable", before.cable.map(Cable::as_str))
        .opt("driver", before.driver.as_ref())
        .yes_no("bound", before.bound.then_some(true))
        .body(|_| ());
    w.finish()
}

/// The same, with the NIC and the function; `None` when the host has booted since.
pub fn read_function(stamp: &Stamp, text: &str) -> Result<Option<(Uuid, PciAddress, FunctionBefore)>> {
    read(text, "function", stamp, |c| {
        let service = c.yes_no("service")? == Some(true);
        let vlan = match (c.parsed("vlan", parse)?, c.parsed("priority", parse)?) {
            (Some(id), Some(priority)) => Some(FunctionVlan { id, priority, service }),
            _ => None,
        };
        let before = FunctionBefore {
            mac: c.parsed("mac", str::parse::<MacAddr>)?,
            vlan,
            trusted: c.yes_no("trusted")?,
            cable: c.choice("cable", Cable::WORDS)?,
            driver: c.parsed("driver", |s| Ok::<_, String>(s.to_owned()))?,
            bound: c.yes_no("bound")? == Some(true),
        };
        Ok((c.required("nic", uuid)?, c.required("address", str::parse::<PciAddress>)?, before))
    })
}

/// What a switch is about to be asked to give a NIC's port.
pub fn write_association(stamp: &Stamp, of: &Association) -> String {
    let Index(index) = of.index;
    let mut w = Writer::new();
    begin(&mut w, "association", stamp)
        .attr("nic", of.nic)
        .attr("dev", &of.device)
        .attr("index", index)
        .attr("mac", of.mac)
        .attr("vlan", of.vlan)
        .attr("guestuuid", of.guest)
        .opt("pci", of.function)
        .yes_no("reserved", of.reserved.then_some(true))
        .body(|w| write_virtualport(w, Some(&of.port)));
    w.finish()
}

/// The same; `None` when the host has booted since.
pub fn read_association(stamp: &Stamp, text: &str) -> Result<Option<Association>> {
    read(text, "association", stamp, |c| {
        Ok(Association {
            nic: c.required("nic", uuid)?,
            device: c.required("dev", |s| LinkName::new(s))?,
            index: Index(c.required("index", parse)?),
            function: c.parsed("pci", str::parse::<PciAddress>)?,
            mac: c.required("mac", str::parse::<MacAddr>)?,
            vlan: c.required("vlan", parse)?,
            guest: c.required("guestuuid", uuid)?,
            port: read_virtualport(c)?.ok_or_else(|| c.error("it has no <virtualport>"))?,
            reserved: c.yes_no("reserved")? == Some(true),
        })
    })
}

/// What is different on the host by our doing: settings as they were before us, and VLANs that we added.
pub fn write_host_state(stamp: &Stamp, saved: &Saved) -> String {
    let mut w = Writer::new();
    begin(&mut w, "hoststatus", stamp).body(|w| {
        for (sysctl, was) in &saved.settings {
            let (key, link) = match sysctl {
                Sysctl::Ipv4Forward => ("ipv4-forward", None),
                Sysctl::Ipv6Forward => ("ipv6-forward", None),
                Sysctl::AcceptRa(link) => ("accept-ra", Some(link)),
                Sysctl::DisableIpv6(link) => ("disable-ipv6", Some(link)),
                Sysctl::Autoconf(link) => ("autoconf", Some(link)),
            };
            w.element("setting").attr("key", key).opt("link", link).attr("was", was).close();
        }
        for (port, vids) in &saved.carried {
            for vid in vids {
                w.element("carried").attr("port", port).attr("vid", vid).close();
            }
        }
    });
    w.finish()
}

/// The same; `None` when the host has booted since.
pub fn read_host_state(stamp: &Stamp, text: &str) -> Result<Option<Saved>> {
    read(text, "hoststatus", stamp, |c| {
        let mut saved = Saved::default();
        for setting in c.children("setting") {
            let link = || setting.required("link", |s| Ok(s.to_owned()));
            let sysctl = match setting.required("key", |s| Ok(s.to_owned()))?.as_str() {
                "ipv4-forward" => Sysctl::Ipv4Forward,
                "ipv6-forward" => Sysctl::Ipv6Forward,
                "accept-ra" => Sysctl::AcceptRa(link()?),
                "disable-ipv6" => Sysctl::DisableIpv6(link()?),
                "autoconf" => Sysctl::Autoconf(link()?),
                other => {
                    return Err(Error::new(
                        ErrorKind::InvalidXml,
                        "run state",
                        format!("setting '{other}' is unknown"),
                    ));
                }
            };
            saved.settings.insert(sysctl, setting.required("was", |s| Ok(s.to_owned()))?);
        }
        for carried in c.children("carried") {
            let port = carried.required("port", |s| LinkName::new(s))?;
            saved.carried.entry(port).or_default().insert(carried.required("vid", parse)?);
        }
        Ok(saved)
    })
}
