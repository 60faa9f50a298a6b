//! libvirt's own files about its networks, made into what can be taken over; and back.
//!
//! libvirt keeps definitions below /etc/libvirt/qemu/networks, active networks and their ports below
//! /run/libvirt/network. It writes UUIDs, bridges and MACs that it chose into both, so nothing is made up here.

use crate::engine::{Adoption, Attach, PortAttach};
use crate::merge::Precedence;
use crate::model::{Name, Network, NetworkPort, Nic, NicSource, Plug};
use crate::plan::Handover;
use crate::xml::{self, Mode};
use crate::{Error, ErrorKind};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// What libvirt's files say, by file stem, which is the network's name or the port's UUID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Definitions.
    pub definitions: BTreeMap<String, String>,
    /// Those that start by themselves.
    pub autostart: BTreeSet<String>,
    /// Active networks.
    pub active: BTreeMap<String, String>,
    /// Ports, by network.
    pub ports: BTreeMap<String, BTreeMap<String, String>>,
}

/// A network that libvirt has.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// What would be taken over, or why it can't be read.
    pub adoption: Result<Adoption, Error>,
    /// Its ports, or why one can't be read.
    pub ports: Vec<Result<NetworkPort, Error>>,
}

/// All networks that libvirt has, by name.
pub fn survey(found: &Found) -> Vec<Candidate> {
    let names: BTreeSet<&String> = found.definitions.keys().chain(found.active.keys()).collect();
    let candidate = |name: &String| {
        let ports = found.ports.get(name).into_iter().flatten();
        let ports = ports.map(|(stem, text)| port(stem, text)).collect();
        Candidate { name: name.clone(), adoption: adoption(found, name), ports }
    };
    names.into_iter().map(candidate).collect()
}

fn adoption(found: &Found, name: &String) -> Result<Adoption, Error> {
    let object = || format!("network '{name}'");
    let wrong = |cause: String| Error::new(ErrorKind::InvalidXml, object(), cause);
    let named = |network: Network| match network.name.as_str() == name {
        true => Ok(network),
        false => Err(wrong(format!("its file is about network '{}'", network.name))),
    };
    let definition = found.definitions.get(name).map(|text| xml::read_network(text, Mode::Lenient));
    let definition = definition.transpose()?.map(named).transpose()?;
    let active = found.active.get(name).map(|text| xml::read_libvirt_state(text));
    let active = active.transpose()?.map(named).transpose()?;
    let uuids: BTreeSet<Option<Uuid>> = definition.iter().chain(&active).map(|network| network.uuid).collect();
    match uuids.into_iter().collect::<Vec<_>>()[..] {
        [Some(_)] => {}
        [None, ..] => return Err(wrong("it has no <uuid>, as all that libvirt's daemon wrote have".into())),
        _ => return Err(wrong("the network that runs has another <uuid> than the definition".into())),
    }
    let autostart = found.autostart.contains(name) && definition.is_some();
    Ok(Adoption { definition, autostart, active, effect: true })
}

fn port(stem: &str, text: &str) -> Result<NetworkPort, Error> {
    let port = xml::read_networkport(text, Mode::Lenient)?;
    match port.uuid {
        Some(uuid) if uuid.to_string() == stem => Ok(port),
        _ => Err(Error::new(ErrorKind::InvalidXml, format!("port {stem}"), "its file is about another port")),
    }
}

/// What makes a port of libvirt's daemon one of ours: as if its guest's driver claimed it back.
///
/// # Errors
/// When the port has no UUID.
pub fn attach(network: &Name, port: NetworkPort) -> Result<Attach, Error> {
    let id = port.uuid.ok_or_else(|| Error::new(ErrorKind::InvalidXml, "a port", "it has no <uuid>"))?;
    let nic = Nic {
        mac: Some(port.mac),
        virtualport: port.virtualport,
        bandwidth: port.bandwidth,
        vlan: port.vlan,
        port_isolated: port.isolated,
        trust_guest_rx_filters: port.trust_guest_rx_filters,
        ..Nic::new(NicSource::Network { network: network.clone(), portgroup: port.group })
    };
    let plug = port.plug.filter(|plug| *plug != Plug::None);
    Ok(Attach {
        guest: port.owner,
        guest_uuid: Some(port.owner_uuid),
        nic,
        owner: None,
        handover: Handover::Name { uid: None },
        uid: 0,
        precedence: Precedence::Nic,
        reservation: None,
        port: Some(PortAttach { id, plug }),
        mac_unknown: false,
    })
}

/// What libvirt's daemon needs to find of a network, by file stem; run state only of one that is active.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandedBack {
    /// Its definition, unless it is transient.
    pub definition: Option<String>,
    /// As it runs.
    pub active: Option<String>,
    /// Its ports.
    pub ports: BTreeMap<String, String>,
}

/// A network's documents as libvirt's daemon reads them.
///
/// # Errors
/// When one of ours can't be read.
pub fn hand_back(definition: Option<&str>, active: Option<&str>, ports: &[String]) -> Result<HandedBack, Error> {
    let read = |text: &str| xml::read_network(text, Mode::Lenient);
    let options = xml::WriteOptions { tags: xml::TagForm::Metadata, inactive: true, ..xml::WriteOptions::default() };
    let (mut classes, mut floor, mut files) = (BTreeSet::new(), 0, BTreeMap::new());
    for text in ports {
        let port = xml::read_networkport(text, Mode::Lenient)?;
        classes.extend(port.class_id);
        floor += port.bandwidth.as_ref().and_then(|b| b.inbound).and_then(|rate| rate.floor).unwrap_or(0);
        files.extend(port.uuid.map(|uuid| (uuid.to_string(), xml::write_networkport(&port))));
    }
    let definition = definition.map(read).transpose()?.map(|network| xml::write_network_with(&network, &options));
    let active = active.map(read).transpose()?;
    let active = active.map(|network| xml::write_libvirt_state(&network, &classes, floor));
    Ok(HandedBack { definition, active, ports: files })
}

/// Whether two definitions say the same, so that the file need not be written anew.
pub fn is_same(a: &str, b: &str) -> bool {
    let read = |text: &str| xml::read_network(text, Mode::Lenient).ok();
    read(a).is_some_and(|a| Some(a) == read(b))
}

#[cfg(test)]
mod tests;
