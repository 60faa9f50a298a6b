//! Requests that only read.

use super::effect::{Answer, Body};
use super::input::Command;
use super::{Engine, Object, interfaces, view};
use crate::intent::{Allocation, NicIntent};
use crate::model::Network;
use crate::plan::plug;
use crate::pool::Device;
use crate::{Error, ErrorKind, xml};
use uuid::Uuid;

impl Engine {
    /// Answers what only reads.
    pub(super) fn read(&self, command: Command) -> Result<Answer, Error> {
        let body = match command {
            Command::ListNetworks => {
                let mut all: Vec<_> = self.intent.networks().filter_map(|(uuid, _)| self.network_view(uuid)).collect();
                all.sort_by(|a, b| a.name.cmp(&b.name));
                Body::Networks(all)
            }
            Command::ShowNetwork(name) => {
                let uuid = self.find(&name)?;
                self.network_view(uuid).map_or(Body::Done, |v| Body::Network(Box::new(v)))
            }
            Command::NetworkXml { network, inactive } => {
                let uuid = self.find(&network)?;
                let of = self.intent.network(uuid);
                let wanted = of.and_then(|n| if inactive { n.definition.as_ref() } else { n.current() });
                let wanted = wanted.ok_or_else(|| {
                    let object = self.describe(Object::Network(uuid));
                    Error::new(ErrorKind::InvalidState, object, "it is transient: it has no definition")
                })?;
                let live = of.is_some_and(|n| n.active.is_some()) && !inactive;
                let options = xml::WriteOptions { inactive, ..xml::WriteOptions::default() };
                Body::Xml(if live {
                    self.live_network_xml(uuid, wanted)
                } else {
                    xml::write_network_with(wanted, &options)
                })
            }
            Command::Annotation { network, part, live, config } => self.annotation(&network, &part, live, config)?,
            Command::Leases(name) => {
                let uuid = self.find(&name)?;
                let active = self.active(uuid)?.active.as_ref();
                let leases = self.observed.leases.get(&uuid).into_iter().flatten();
                Body::Leases(active.map_or_else(Vec::new, |network| {
                    leases.map(|lease| view::lease(&self.intent, network, uuid, lease)).collect()
                }))
            }
            Command::ListNics(network) => {
                let nics: Vec<_> = match network {
                    Some(name) => {
                        let uuid = self.find(&name)?;
                        self.intent.nics_of(uuid).map(|n| self.nic_view(n)).collect()
                    }
                    None => self.intent.nics().map(|n| self.nic_view(n)).collect(),
                };
                Body::Nics(nics)
            }
            Command::ListAddresses(name) => {
                let uuid = self.find(&name)?;
                // Watchers are told of what comes and goes when it has, and not of what comes to nothing.
                let settled = self.intent.nics_of(uuid).filter(|nic| nic.confirmed);
                let all = settled.chain(self.leaving_nics().filter(|nic| nic.network == Some(uuid)));
                Body::Addresses(all.filter_map(|nic| Some((nic.guest.clone(), nic.nic.mac?))).collect())
            }
            Command::ListInterfaces => Body::Interfaces(interfaces::all(&self.observed)),
            Command::ShowInterface(name) => Body::Interface(interfaces::named(&self.observed, &name)?),
            Command::DescribeInterface(name) => {
                Body::Description(Box::new(interfaces::described(&self.observed, &name)?))
            }
            Command::InterfaceWith(mac) => Body::Interface(interfaces::with(&self.observed, mac)?),
            Command::ListDevices => Body::Devices(self.devices()),
            Command::ShowNic(id) => Body::Nic(Box::new(self.nic_view(self.find_nic(id)?))),
            Command::PortXml { id, for_driver } => Body::Xml(self.port_xml(id, for_driver)?),
            Command::NicXml { id, inactive } => Body::Xml(self.nic_xml(id, inactive)?),
            other => {
                let what = format!("{other:?} reached the reader");
                return Err(Error::new(ErrorKind::Internal, "the daemon", what));
            }
        };
        Ok(body.into())
    }

    /// An active network's document, with the number of its NICs that are plugged in, in all and on each of its devices.
    pub(super) fn live_network_xml(&self, uuid: Uuid, network: &Network) -> String {
        let mut connections = xml::Connections::default();
        let plugged = |nic: &&NicIntent| nic.function().is_some() || plug::is_plugged(&self.observed, nic.id);
        for nic in self.intent.nics_of(uuid).filter(plugged) {
            connections.network += 1;
            match nic.allocation.as_ref().map(Allocation::device) {
                Some(Device::Link(link)) => *connections.by_device.entry(link).or_default() += 1,
                Some(Device::Pci(address)) => *connections.by_address.entry(address).or_default() += 1,
                None => {}
            }
        }
        let options = xml::WriteOptions { connections: Some(&connections), ..xml::WriteOptions::default() };
        xml::write_network_with(network, &options)
    }
}
