//! What one client asks, as its peer may ask it: calls about networks, and about the service itself.

use crate::access::{Access, Peer};
use crate::convert;
use crate::handle::Handle;
use crate::import::Importer;
use patchcord_api::frame::TooLong;
use patchcord_api::message::service::{self, GetInterfaceDescription, Info, InterfaceDescription};
use patchcord_api::message::{Call, Reply};
use patchcord_api::methods::{
    ChangedNetwork, Devices, Document, Done, Leases, ListNetworks, Networks, OneNetwork, Request, UpdateNetwork,
};
use patchcord_api::{DESCRIPTION, Device, INTERFACE, MAX_DOCUMENT, Network};
use patchcord_core::engine::{Answer, Body, Command, NetworkView};
use patchcord_core::xml::{self, Mode};
use patchcord_core::{Error, ErrorKind};
use serde::Serialize;
use serde_json::{Value, json};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use uuid::Uuid;

// Clients refuse what is larger before they send it.
const _: () = assert!(MAX_DOCUMENT == xml::MAX_BYTES);

/// A client's way to the engine.
pub(super) struct Session {
    pub(super) handle: Handle,
    pub(super) access: Arc<Access>,
    importer: Arc<Importer>,
    peer: Peer,
}

/// What becomes of a call.
pub(super) enum Answered {
    /// One reply.
    Once {
        /// It.
        message: Reply,
        /// Descriptors beside it.
        fds: Vec<OwnedFd>,
        /// The NIC that must not stay if the reply does not arrive.
        undo: Option<Uuid>,
    },
    /// None was wanted.
    Quiet,
    /// Replies until the client goes.
    Stream,
}

/// What a request came to.
pub(super) struct Outcome {
    /// The reply's parameters.
    pub(super) parameters: Value,
    /// Descriptors beside it.
    pub(super) fds: Vec<OwnedFd>,
    /// The NIC that was attached.
    pub(super) attached: Option<Uuid>,
}

impl Session {
    /// A session of that peer.
    pub(super) fn new(handle: Handle, access: Arc<Access>, importer: Arc<Importer>, peer: Peer) -> Self {
        Self { handle, access, importer, peer }
    }

    /// Who asks.
    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Carries out a call.
    pub(super) async fn answer(&self, call: Call) -> Answered {
        let Call { method, parameters, more, oneway, .. } = call;
        let (interface, name) = method.rsplit_once('.').unwrap_or(("", &method));
        let once = |message| Answered::Once { message, fds: Vec::new(), undo: None };
        let answered = match interface {
            INTERFACE => match Request::read(name, parameters) {
                Some(Ok(Request::Monitor(_))) if more && !oneway => return Answered::Stream,
                Some(Ok(request)) => match self.carry_out(request).await {
                    Ok(Outcome { parameters, fds, attached }) => {
                        Answered::Once { message: Reply { parameters, ..Reply::default() }, fds, undo: attached }
                    }
                    Err(error) => once(refusal(&error)),
                },
                Some(Err(error)) => once(invalid_parameter(&error)),
                None => once(service_error("MethodNotFound", json!({ "method": method }))),
            },
            service::INTERFACE => once(about_the_service(name, parameters)),
            _ => once(service_error("InterfaceNotFound", json!({ "interface": interface }))),
        };
        if oneway { Answered::Quiet } else { answered }
    }

    async fn carry_out(&self, request: Request) -> Result<Outcome, Error> {
        match request {
            Request::ListNetworks(asked) => {
                asked.mode.as_deref().map(convert::forward_mode).transpose()?;
                let networks = self.networks().await?.into_iter().filter(|network| fits(&asked, network)).collect();
                plain(&Networks { networks })
            }
            Request::ListDevices(_) => plain(&Devices { devices: self.devices().await? }),
            Request::ShowNetwork(asked) => {
                plain(&OneNetwork { network: convert::network(self.network(&asked.name).await?) })
            }
            Request::GetNetworkXML(asked) => {
                let network = self.network(&asked.name).await?.uuid.to_string();
                let inactive = asked.inactive.unwrap_or(false);
                plain(&Document { xml: document(self.handle.call(Command::NetworkXml { network, inactive }).await?)? })
            }
            Request::ListLeases(asked) => {
                let network = self.network(&asked.network).await?;
                match self.handle.call(Command::Leases(network.uuid.to_string())).await?.body {
                    Body::Leases(leases) => {
                        let leases = leases.into_iter().map(|lease| convert::lease(&network.name, lease)).collect();
                        plain(&Leases { leases })
                    }
                    _ => Err(unexpected()),
                }
            }
            Request::DefineNetwork(asked) => {
                self.must_be_full("define networks")?;
                let network = xml::read_network(&asked.xml, Mode::Strict)?;
                self.changed_network(Command::Define(Box::new(network))).await
            }
            Request::CreateNetwork(asked) => {
                self.must_be_full("create networks")?;
                let network = xml::read_network(&asked.xml, Mode::Strict)?;
                self.changed_network(Command::Create(Box::new(network))).await
            }
            Request::StartNetwork(asked) => {
                self.must_be_full("start networks")?;
                self.changed_network(Command::Start(asked.name)).await
            }
            Request::StopNetwork(asked) => {
                self.must_be_full("stop networks")?;
                self.done(Command::Stop(asked.name)).await
            }
            Request::UndefineNetwork(asked) => {
                self.must_be_full("undefine networks")?;
                self.done(Command::Undefine(asked.name)).await
            }
            Request::SetAutostart(asked) => {
                self.must_be_full("change networks")?;
                self.done(Command::Autostart(asked.name, asked.autostart)).await
            }
            Request::UpdateNetwork(asked) => {
                self.must_be_full("change networks")?;
                self.done(update(asked)?).await
            }
            Request::ImportLibvirt(asked) => {
                self.must_be_full("take networks over")?;
                let dry_run = asked.dry_run.unwrap_or(false);
                let imported = match asked.undo.unwrap_or(false) {
                    true => self.importer.hand_back(&self.handle, dry_run).await?,
                    false => self.importer.import(&self.handle, dry_run).await?,
                };
                plain(&imported)
            }
            Request::Monitor(_) => plain(&self.snapshot().await?),
            about_nics => self.carry_out_nic(about_nics).await,
        }
    }

    /// The networks that the peer may see.
    pub(super) async fn networks(&self) -> Result<Vec<Network>, Error> {
        let Body::Networks(all) = self.handle.call(Command::ListNetworks).await?.body else {
            return Err(unexpected());
        };
        let visible = all.into_iter().filter(|view| self.access.shows_network(&self.peer, &view.name));
        Ok(visible.map(convert::network).collect())
    }

    /// The devices that networks list which the peer may see, with holders likewise.
    async fn devices(&self) -> Result<Vec<Device>, Error> {
        let Body::Devices(all) = self.handle.call(Command::ListDevices).await?.body else {
            return Err(unexpected());
        };
        if self.peer.is_full() {
            return Ok(all.into_iter().map(convert::device).collect());
        }
        let nics = self.nics(None).await?;
        let visible = all.into_iter().map(convert::device).filter_map(|mut device| {
            device.networks.retain(|n| self.access.shows_network(&self.peer, &n.network));
            device.holders.retain(|holder| nics.iter().any(|nic| nic.id == holder.id));
            (!device.networks.is_empty() || !device.holders.is_empty()).then_some(device)
        });
        Ok(visible.collect())
    }

    /// A network, if the peer may see it.
    pub(super) async fn network(&self, name: &str) -> Result<NetworkView, Error> {
        let Body::Network(view) = self.handle.call(Command::ShowNetwork(name.to_owned())).await?.body else {
            return Err(unexpected());
        };
        if !self.access.shows_network(&self.peer, &view.name) {
            return Err(self.denied(format!("network '{name}'"), "see it"));
        }
        Ok(*view)
    }

    async fn changed_network(&self, command: Command) -> Result<Outcome, Error> {
        let Answer { body, warnings } = self.handle.call(command).await?;
        let Body::Network(view) = body else { return Err(unexpected()) };
        plain(&ChangedNetwork { network: convert::network(*view), warnings })
    }

    /// Carries out a command whose answer is that it was done.
    pub(super) async fn done(&self, command: Command) -> Result<Outcome, Error> {
        plain(&Done { warnings: self.handle.call(command).await?.warnings })
    }

    fn must_be_full(&self, what: &str) -> Result<(), Error> {
        if self.peer.is_full() { Ok(()) } else { Err(self.denied("networks".into(), what)) }
    }

    /// The refusal of something that the peer may not do.
    pub(super) fn denied(&self, object: String, what: &str) -> Error {
        Error::new(ErrorKind::Denied, object, format!("{} may not {what}", self.peer.describe()))
            .hint("root, the group patchcord and the access list of patchcord.toml decide who may")
    }
}

/// Whether a network fits everything that is asked for.
fn fits(asked: &ListNetworks, network: &Network) -> bool {
    asked.mode.as_ref().is_none_or(|mode| *mode == network.mode)
        && asked.tags.iter().flatten().all(|tag| network.tags.contains(tag))
        && asked.portgroup.as_ref().is_none_or(|portgroup| network.portgroups.contains(portgroup))
        && asked.free_devices.is_none_or(|wanted| network.free_devices.unwrap_or(0) >= wanted)
        && asked.active.is_none_or(|active| active == network.active)
}

fn update(asked: UpdateNetwork) -> Result<Command, Error> {
    Ok(Command::Update {
        command: convert::update_command(&asked.command)?,
        section: convert::update_section(&asked.section)?,
        network: asked.name,
        parent: asked.parent,
        xml: asked.xml,
        live: asked.live.unwrap_or(false),
        config: asked.config.unwrap_or(false),
    })
}

/// The document that an answer brings.
pub(super) fn document(answer: Answer) -> Result<String, Error> {
    match answer.body {
        Body::Xml(xml) => Ok(xml),
        _ => Err(unexpected()),
    }
}

/// A reply without descriptors.
pub(super) fn plain(reply: &impl Serialize) -> Result<Outcome, Error> {
    let parameters = serde_json::to_value(reply)
        .map_err(|error| Error::new(ErrorKind::Internal, "the reply", format!("it can't be written: {error}")))?;
    Ok(Outcome { parameters, fds: Vec::new(), attached: None })
}

/// The engine answered something else than was asked for.
pub(super) fn unexpected() -> Error {
    Error::new(ErrorKind::Internal, "the daemon", "the answer is not what was asked for")
}

/// An error of ours as a reply.
pub(super) fn refusal(error: &Error) -> Reply {
    let (name, refusal) = convert::error(error);
    let parameters = serde_json::to_value(refusal).unwrap_or_default();
    Reply { parameters, error: Some(format!("{INTERFACE}.{name}")), continues: false }
}

/// The answer to a message that is longer than one may be.
pub(super) fn too_long(error: TooLong) -> Reply {
    let error = Error::new(ErrorKind::InvalidArgument, "the call", error.to_string());
    refusal(&error.hint(format!("a document may have {MAX_DOCUMENT} bytes")))
}

/// What who sends something else than a call is told, before the connection ends: where the next one begins is not known.
pub(super) fn garbage(error: &serde_json::Error) -> Reply {
    let error = Error::new(ErrorKind::InvalidArgument, "the message", format!("it is no varlink call: {error}"));
    refusal(&error.hint("a call is {\"method\": …, \"parameters\": {…}} in JSON, and ends with a NUL byte"))
}

fn service_error(name: &str, parameters: Value) -> Reply {
    Reply { parameters, error: Some(format!("{}.{name}", service::INTERFACE)), continues: false }
}

fn invalid_parameter(error: &serde_json::Error) -> Reply {
    // Of one that is missing or unknown serde puts the name between backquotes. Of one that has another type it does not say
    // the name, so that its whole sentence has to do.
    let text = error.to_string();
    let named = ["missing field", "unknown field"].iter().any(|begins| text.starts_with(begins));
    let parameter = text.split('`').nth(1).filter(|_| named).unwrap_or(&text);
    service_error("InvalidParameter", json!({ "parameter": parameter }))
}

fn about_the_service(method: &str, parameters: Value) -> Reply {
    let reply =
        |value: Result<Value, serde_json::Error>| Reply { parameters: value.unwrap_or_default(), ..Reply::default() };
    match method {
        "GetInfo" => reply(serde_json::to_value(Info {
            vendor: "Patchcord".into(),
            product: "patchcordd".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            url: env!("CARGO_PKG_REPOSITORY").into(),
            interfaces: vec![service::INTERFACE.into(), INTERFACE.into()],
        })),
        "GetInterfaceDescription" => {
            let asked: GetInterfaceDescription = match serde_json::from_value(parameters) {
                Ok(asked) => asked,
                Err(error) => return invalid_parameter(&error),
            };
            let description = match asked.interface.as_str() {
                INTERFACE => DESCRIPTION,
                service::INTERFACE => service::DESCRIPTION,
                other => return service_error("InterfaceNotFound", json!({ "interface": other })),
            };
            reply(serde_json::to_value(InterfaceDescription { description: description.into() }))
        }
        other => service_error("MethodNotFound", json!({ "method": format!("{}.{other}", service::INTERFACE) })),
    }
}
