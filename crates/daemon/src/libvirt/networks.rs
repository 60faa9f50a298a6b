//! Calls about networks.

use super::errors::{self, invalid, known_flags, unexpected};
use super::session::Session;
use patchcord_core::engine::{Body, Command, LeaseView, NetworkView};
use patchcord_core::model::{MacAddr, UpdateCommand, UpdateSection};
use patchcord_core::xml::{self, Mode};
use patchcord_core::{Error, ErrorKind};
use patchcord_libvirt_wire::reply::{Lease, RemoteError};
use patchcord_libvirt_wire::{Call, NetworkRef, Procedure, Reply};
use uuid::Uuid;

/// Flags of lists (libvirt's `virConnectListAllNetworksFlags`).
mod list {
    pub(super) const INACTIVE: u32 = 1;
    pub(super) const ACTIVE: u32 = 2;
    pub(super) const PERSISTENT: u32 = 4;
    pub(super) const TRANSIENT: u32 = 8;
    pub(super) const AUTOSTART: u32 = 16;
    pub(super) const NO_AUTOSTART: u32 = 32;
    pub(super) const ALL: u32 = 63;
}

/// Flags of documents: the definition instead of what runs.
const XML_INACTIVE: u32 = 1;
/// Flags of definitions: unknown elements are errors.
const VALIDATE: u32 = 1;
/// Flags of updates (libvirt's `virNetworkUpdateFlags`).
pub(super) const LIVE: u32 = 1;
pub(super) const CONFIG: u32 = 2;

impl Session {
    /// Carries out a call about networks.
    pub(super) async fn carry_out(&self, procedure: Procedure, call: Call) -> Result<Reply, RemoteError> {
        let number = |yes: bool| Ok(Reply::Int(i32::from(yes)));
        match call {
            Call::ConnectListAllNetworks { need_results, flags } => {
                known_flags(flags, list::ALL)?;
                let all = self.networks(|network| fits(flags, network)).await?;
                let count = all.len();
                Ok(Reply::Networks(if need_results { all.iter().map(reference).collect() } else { Vec::new() }, count))
            }
            Call::ConnectListNetworks { max } => self.names(max, true).await,
            Call::ConnectListDefinedNetworks { max } => self.names(max, false).await,
            Call::ConnectNumOfNetworks => self.count(true).await,
            Call::ConnectNumOfDefinedNetworks => self.count(false).await,
            Call::NetworkLookupByName { name } => {
                let found = self.named(&name).await?;
                Ok(Reply::Network(reference(&found)))
            }
            Call::NetworkLookupByUuid { uuid } => {
                let found = self.show(&Uuid::from_bytes(uuid).to_string()).await?;
                Ok(Reply::Network(reference(&found)))
            }
            Call::NetworkDefineXml { xml, flags } => {
                let network = document(&xml, flags)?;
                self.network(Command::Define(Box::new(network))).await
            }
            Call::NetworkCreateXml { xml, flags } => {
                let network = document(&xml, flags)?;
                self.network(Command::Create(Box::new(network))).await
            }
            Call::NetworkCreate { net } => self.done(Command::Start(id(&net))).await,
            Call::NetworkDestroy { net } => self.done(Command::Stop(id(&net))).await,
            Call::NetworkUndefine { net } => self.done(Command::Undefine(id(&net))).await,
            Call::NetworkSetAutostart { net, autostart } => self.done(Command::Autostart(id(&net), autostart)).await,
            Call::NetworkGetXmlDesc { net, flags } => self.xml(&net, flags).await,
            Call::NetworkGetBridgeName { net } => {
                let network = self.shown(&net).await?;
                let missing =
                    || Error::new(ErrorKind::Internal, format!("network '{}'", network.name), "it has no bridge");
                network.bridge.clone().map(Reply::Text).ok_or_else(|| errors::remote(&missing()))
            }
            Call::NetworkGetAutostart { net } => number(self.shown(&net).await?.autostart),
            Call::NetworkIsActive { net } => number(self.shown(&net).await?.active),
            Call::NetworkIsPersistent { net } => number(self.shown(&net).await?.persistent),
            Call::NetworkUpdate { net, command, section, parent_index, xml, flags } => {
                known_flags(flags, LIVE | CONFIG)?;
                let update = Command::Update {
                    network: id(&net),
                    command: update_command(command)?,
                    section: update_section(section)?,
                    parent: u32::try_from(parent_index).ok(),
                    xml,
                    live: flags & LIVE != 0,
                    config: flags & CONFIG != 0,
                };
                self.done(update).await
            }
            Call::NetworkGetDhcpLeases { net, mac, need_results, flags } => {
                known_flags(flags, 0)?;
                let leases = self.leases(&net, mac.as_deref()).await?;
                let count = leases.len();
                Ok(Reply::Leases(if need_results { leases } else { Vec::new() }, count))
            }
            call @ Call::NetworkSetMetadata { .. } => self.set_metadata(call).await,
            Call::NetworkGetMetadata { net, kind, uri, flags } => self.metadata(&net, kind, uri, flags).await,
            about_ports => self.carry_out_port(procedure, about_ports).await,
        }
    }

    async fn networks(&self, wanted: impl Fn(&NetworkView) -> bool) -> Result<Vec<NetworkView>, RemoteError> {
        let Body::Networks(all) = self.command(Command::ListNetworks).await?.body else { return Err(unexpected()) };
        self.visible_networks(all.into_iter().filter(wanted).collect()).await
    }

    async fn names(&self, max: i32, active: bool) -> Result<Reply, RemoteError> {
        let max = usize::try_from(max).map_err(|_| invalid("the maximum", format!("{max} is less than none")))?;
        let all = self.networks(|network| network.active == active).await?;
        Ok(Reply::Texts(all.into_iter().take(max).map(|network| network.name).collect()))
    }

    async fn count(&self, active: bool) -> Result<Reply, RemoteError> {
        let count = self.networks(|network| network.active == active).await?.len();
        Ok(Reply::Int(i32::try_from(count).unwrap_or(i32::MAX)))
    }

    async fn show(&self, network: &str) -> Result<NetworkView, RemoteError> {
        match self.command(Command::ShowNetwork(network.to_owned())).await?.body {
            Body::Network(view) => Ok(*view),
            _ => Err(unexpected()),
        }
    }

    /// The network of that name.
    pub(super) async fn named(&self, name: &str) -> Result<NetworkView, RemoteError> {
        let found = self.show(name).await?;
        // A UUID names a network elsewhere.
        if found.name == name { Ok(found) } else { Err(errors::remote(&no_network(name))) }
    }

    /// The network that a client means: the UUID says which, and its name is for people.
    pub(super) async fn shown(&self, network: &NetworkRef) -> Result<NetworkView, RemoteError> {
        self.show(&id(network)).await
    }

    /// Carries out a command whose answer is a network.
    async fn network(&self, command: Command) -> Result<Reply, RemoteError> {
        match self.command(command).await?.body {
            Body::Network(view) => Ok(Reply::Network(reference(&view))),
            _ => Err(unexpected()),
        }
    }

    pub(super) async fn done(&self, command: Command) -> Result<Reply, RemoteError> {
        self.command(command).await.map(|_| Reply::Nothing)
    }

    async fn xml(&self, network: &NetworkRef, flags: u32) -> Result<Reply, RemoteError> {
        known_flags(flags, XML_INACTIVE)?;
        let view = self.shown(network).await?;
        // A transient network has no definition, and what runs is all there is to say.
        let inactive = flags & XML_INACTIVE != 0 && view.persistent;
        let command = Command::NetworkXml { network: id(network), inactive };
        match self.command(command).await?.body {
            Body::Xml(text) => Ok(Reply::Text(text)),
            _ => Err(unexpected()),
        }
    }

    async fn leases(&self, network: &NetworkRef, mac: Option<&str>) -> Result<Vec<Lease>, RemoteError> {
        let parse = |text: &str| text.parse::<MacAddr>().map_err(|cause| invalid("the MAC address", cause));
        let mac = mac.map(parse).transpose()?;
        if !self.shown(network).await?.active {
            return Ok(Vec::new());
        }
        let Body::Leases(leases) = self.command(Command::Leases(id(network))).await?.body else {
            return Err(unexpected());
        };
        Ok(leases.into_iter().filter(|lease| mac.is_none_or(|mac| lease.mac == Some(mac))).map(lease).collect())
    }
}

/// What the engine knows a network by that a client means.
pub(super) fn id(network: &NetworkRef) -> String {
    Uuid::from_bytes(network.uuid).to_string()
}

fn reference(view: &NetworkView) -> NetworkRef {
    NetworkRef { name: view.name.clone(), uuid: view.uuid.into_bytes() }
}

fn no_network(name: &str) -> Error {
    Error::new(ErrorKind::NoNetwork, format!("network '{name}'"), "there is no such network")
}

/// Whether a network is among those that a list is to have: one of each group of flags that is given.
fn fits(flags: u32, network: &NetworkView) -> bool {
    let group = |yes: u32, no: u32, is: bool| flags & (yes | no) == 0 || flags & if is { yes } else { no } != 0;
    group(list::ACTIVE, list::INACTIVE, network.active)
        && group(list::PERSISTENT, list::TRANSIENT, network.persistent)
        && group(list::AUTOSTART, list::NO_AUTOSTART, network.autostart)
}

/// The network that a document describes.
pub(super) fn document(text: &str, flags: u32) -> Result<patchcord_core::model::Network, RemoteError> {
    known_flags(flags, VALIDATE)?;
    let mode = if flags & VALIDATE != 0 { Mode::Strict } else { Mode::Lenient };
    xml::read_network(text, mode).map_err(|error| errors::remote(&error))
}

fn update_command(number: u32) -> Result<UpdateCommand, RemoteError> {
    Ok(match number {
        1 => UpdateCommand::Modify,
        2 => UpdateCommand::Delete,
        3 => UpdateCommand::AddLast,
        4 => UpdateCommand::AddFirst,
        _ => return Err(invalid("the update's command", format!("there is no {number}"))),
    })
}

fn update_section(number: u32) -> Result<UpdateSection, RemoteError> {
    use UpdateSection::*;
    let sections = [
        Bridge,
        Domain,
        Ip,
        IpDhcpHost,
        IpDhcpRange,
        Forward,
        ForwardInterface,
        ForwardPf,
        Portgroup,
        DnsHost,
        DnsTxt,
        DnsSrv,
    ];
    let place = usize::try_from(number).unwrap_or(usize::MAX).wrapping_sub(1);
    // A later libvirt's client may know more of them.
    let unknown = || Error::new(ErrorKind::Unsupported, "the update's section", format!("there is no {number}"));
    sections.get(place).copied().ok_or_else(|| errors::remote(&unknown()))
}

fn lease(view: LeaseView) -> Lease {
    Lease {
        bridge: view.bridge,
        expires: view.expires.and_then(|at| i64::try_from(at).ok()).unwrap_or(0),
        ipv6: view.ip.is_ipv6(),
        mac: view.mac.map(|mac| mac.to_string()),
        iaid: view.iaid.map(|iaid| iaid.to_string()),
        ip: view.ip.to_string(),
        prefix: view.prefix.into(),
        hostname: view.hostname,
        client_id: view.client_id,
    }
}
