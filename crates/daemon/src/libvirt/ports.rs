//! Calls about network ports: what libvirt's drivers ask for before they make a guest's NIC.

use super::errors::{self, invalid, unexpected};
use super::networks::id;
use super::session::Session;
use patchcord_core::engine::{Attach, Body, Command, NicView, PortAttach};
use patchcord_core::merge::Precedence;
use patchcord_core::model::{Bandwidth, NetworkPort, Nic, NicSource, Rate};
use patchcord_core::plan::Handover;
use patchcord_core::xml::{self, Mode};
use patchcord_core::{Error, ErrorKind};
use patchcord_libvirt_wire::reply::RemoteError;
use patchcord_libvirt_wire::xdr::{Parameter, Value};
use patchcord_libvirt_wire::{Call, Driver, NetworkRef, PortRef, Procedure, Reply};
use uuid::Uuid;

/// Flags of a port's creation (libvirt's `virNetworkPortCreateFlags`).
const RECLAIM: u32 = 1;
const VALIDATE: u32 = 2;

impl Session {
    /// Carries out a call about ports.
    pub(super) async fn carry_out_port(&self, procedure: Procedure, call: Call) -> Result<Reply, RemoteError> {
        match call {
            Call::NetworkListAllPorts { net, need_results, .. } => {
                let all = self.ports(&net).await?;
                let count = all.len();
                let ports = all.iter().filter(|_| need_results).map(|port| reference(&net, port)).collect();
                Ok(Reply::Ports(ports, count))
            }
            Call::NetworkPortLookupByUuid { net, uuid } => {
                let port = self.port(&PortRef { network: net.clone(), uuid }).await?;
                Ok(Reply::Port(reference(&net, &port)))
            }
            Call::NetworkPortCreateXml { net, xml, flags } => self.create_port(net, &xml, flags).await,
            Call::NetworkPortGetXmlDesc { port, .. } => {
                let id = self.port(&port).await?.id;
                match self.command(Command::PortXml { id, for_driver: true }).await?.body {
                    Body::Xml(text) => Ok(Reply::Text(text)),
                    _ => Err(unexpected()),
                }
            }
            Call::NetworkPortDelete { port, .. } => {
                let id = self.port(&port).await?.id;
                self.command(Command::Detach(id)).await.map(|_| Reply::Nothing)
            }
            // Clients say that they have room for none, and take all.
            Call::NetworkPortGetParameters { port, .. } => {
                let rates = parameters(self.document(&port).await?.bandwidth.as_ref());
                let count = i32::try_from(rates.len()).unwrap_or(i32::MAX);
                Ok(Reply::Parameters(rates, count))
            }
            Call::NetworkPortSetParameters { port, params, .. } => {
                let given = Nic { bandwidth: bandwidth(&params)?, ..self.given(&port).await? };
                let modify = Command::Modify(Uuid::from_bytes(port.uuid), Box::new(given), Precedence::Nic);
                self.command(modify).await.map(|_| Reply::Nothing)
            }
            _ => Err(errors::no_support(Driver::Network, procedure.api())),
        }
    }

    /// The ports of a network.
    async fn ports(&self, network: &NetworkRef) -> Result<Vec<NicView>, RemoteError> {
        match self.command(Command::ListNics(Some(id(network)))).await?.body {
            Body::Nics(nics) => self.visible_ports(nics.into_iter().filter(|nic| nic.port).collect()).await,
            _ => Err(unexpected()),
        }
    }

    /// A port that a client means. Its network may be gone, and is known by its UUID.
    pub(super) async fn port(&self, port: &PortRef) -> Result<NicView, RemoteError> {
        let uuid = Uuid::from_bytes(port.uuid);
        match self.handle.call(Command::ShowNic(uuid)).await {
            Ok(answer) => match answer.body {
                Body::Nic(nic) if nic.port && nic.network_uuid == Some(Uuid::from_bytes(port.network.uuid)) => {
                    return Ok(*nic);
                }
                Body::Nic(_) => {}
                _ => return Err(unexpected()),
            },
            Err(error) if error.kind == ErrorKind::NoNic => {}
            Err(error) => return Err(errors::remote(&error)),
        }
        let network = self.shown(&port.network).await?;
        let cause = format!("network '{}' has no port {uuid}", network.name);
        Err(errors::remote(&Error::new(ErrorKind::NoPort, format!("port {uuid}"), cause)))
    }

    async fn document(&self, port: &PortRef) -> Result<NetworkPort, RemoteError> {
        let id = self.port(port).await?.id;
        let all = Command::PortXml { id, for_driver: false };
        let Body::Xml(text) = self.command(all).await?.body else { return Err(unexpected()) };
        xml::read_networkport(&text, Mode::Lenient).map_err(|error| errors::remote(&error))
    }

    /// What a port's client gave for its NIC.
    async fn given(&self, port: &PortRef) -> Result<Nic, RemoteError> {
        let id = self.port(port).await?.id;
        let Body::Xml(text) = self.command(Command::NicXml { id, inactive: true }).await?.body else {
            return Err(unexpected());
        };
        xml::read_nic(&text).map_err(|error| errors::remote(&error))
    }

    async fn create_port(&self, net: NetworkRef, text: &str, flags: u32) -> Result<Reply, RemoteError> {
        let mode = if flags & VALIDATE != 0 { Mode::Strict } else { Mode::Lenient };
        let port = xml::read_networkport(text, mode).map_err(|error| errors::remote(&error))?;
        let network = self.shown(&net).await?;
        let reclaimed = flags & RECLAIM != 0;
        match (&port.plug, reclaimed) {
            (None, true) => {
                return Err(invalid("<plug>", "a port that is claimed back says what its guest is plugged into"));
            }
            (Some(_), false) => {
                return Err(invalid("<plug>", "what a guest is plugged into is for the network to say"));
            }
            _ => {}
        }
        let id = match port.uuid {
            Some(id) => id,
            None => patchcord_host::ident::random_uuid().map_err(|_| unexpected())?,
        };
        let object = format!("port {id}");
        let named = patchcord_core::model::Name::new(network.name.as_str())
            .map_err(|cause| errors::remote(&Error::new(ErrorKind::Internal, object, cause)))?;
        let nic = Nic {
            mac: Some(port.mac),
            virtualport: port.virtualport,
            bandwidth: port.bandwidth,
            vlan: port.vlan,
            port_isolated: port.isolated,
            trust_guest_rx_filters: port.trust_guest_rx_filters,
            ..Nic::new(NicSource::Network { network: named, portgroup: port.group })
        };
        let attach = Attach {
            guest: port.owner,
            guest_uuid: Some(port.owner_uuid),
            nic,
            owner: None,
            handover: Handover::Name { uid: None },
            uid: self.uid(),
            precedence: Precedence::Nic,
            reservation: None,
            port: Some(PortAttach { id, plug: port.plug }),
            mac_unknown: false,
        };
        self.command(Command::Attach(Box::new(attach))).await?;
        Ok(Reply::Port(PortRef { network: net, uuid: id.into_bytes() }))
    }
}

fn reference(network: &NetworkRef, port: &NicView) -> PortRef {
    PortRef { network: network.clone(), uuid: port.id.into_bytes() }
}

/// Rates by the names that typed parameters have for them, in KiB/s and KiB. An average is there as soon as anything is.
fn parameters(bandwidth: Option<&Bandwidth>) -> Vec<Parameter> {
    let mut all = Vec::new();
    for (direction, rate) in
        [("inbound", bandwidth.and_then(|b| b.inbound)), ("outbound", bandwidth.and_then(|b| b.outbound))]
    {
        let rate = rate.unwrap_or_default();
        let floor = rate.floor.filter(|_| direction == "inbound");
        for (name, value) in [("average", rate.average), ("peak", rate.peak), ("floor", floor), ("burst", rate.burst)] {
            if direction == "outbound" && name == "floor" {
                continue;
            }
            let value = Value::Uint(u32::try_from(value.unwrap_or(0)).unwrap_or(u32::MAX));
            all.push(Parameter { field: format!("{direction}.{name}"), value });
        }
    }
    all
}

/// Rates that these parameters say, whole: what none names has no limit from now on, nor has what is zero. That is what
/// libvirt makes of them, whose drivers send all that is to be.
fn bandwidth(params: &[Parameter]) -> Result<Option<Bandwidth>, RemoteError> {
    let (mut inbound, mut outbound) = (None, None);
    for Parameter { field, value } in params {
        let Value::Uint(number) = value else {
            return Err(invalid(field, "it is an unsigned number of 32 bits"));
        };
        let number = Some(u64::from(*number)).filter(|number| *number > 0);
        let (direction, name) = field.split_once('.').unwrap_or((field, ""));
        let rate: &mut Rate = match direction {
            "inbound" => inbound.get_or_insert_default(),
            "outbound" => outbound.get_or_insert_default(),
            _ => return Err(invalid(field, "there is no such parameter")),
        };
        match (direction, name) {
            (_, "average") => rate.average = number,
            (_, "peak") => rate.peak = number,
            (_, "burst") => rate.burst = number,
            ("inbound", "floor") => rate.floor = number,
            _ => return Err(invalid(field, "there is no such parameter")),
        }
    }
    let limit = |rate: Option<Rate>| rate.filter(|rate| *rate != Rate::default());
    let rates = Bandwidth { inbound: limit(inbound), outbound: limit(outbound) };
    Ok(Some(rates).filter(|rates| *rates != Bandwidth::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(params: &[(&str, u32)]) -> Vec<Parameter> {
        params.iter().map(|(field, n)| Parameter { field: (*field).to_owned(), value: Value::Uint(*n) }).collect()
    }

    #[test]
    fn parameters_say_all_that_is_to_be() {
        let rate = |average| Some(Rate { average: Some(average), ..Rate::default() });
        let lifted = [("inbound.average", 0), ("inbound.peak", 0), ("inbound.burst", 0), ("outbound.average", 50)];
        let outbound = bandwidth(&of(&lifted)).unwrap().unwrap();
        assert_eq!((outbound.inbound, outbound.outbound), (None, rate(50)));
        let raised = bandwidth(&of(&[("inbound.average", 7), ("inbound.floor", 3)])).unwrap().unwrap();
        assert_eq!(raised.inbound, Some(Rate { average: Some(7), floor: Some(3), ..Rate::default() }));
        assert_eq!(raised.outbound, None);
        assert_eq!(bandwidth(&of(&lifted[..3])).unwrap(), None);
        let shown = parameters(Some(&outbound));
        assert_eq!(shown.len(), 7);
        assert_eq!(shown[4], of(&[("outbound.average", 50)])[0]);
        for wrong in [of(&[("outbound.floor", 1)]), of(&[("sideways.average", 1)]), of(&[("average", 1)])] {
            assert_eq!(bandwidth(&wrong).unwrap_err().code, 8);
        }
    }
}
