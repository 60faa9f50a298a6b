//! What a client may do with which object, where the configuration has polkit asked: libvirt's own actions, with the
//! details by which its access driver names objects.

use super::guard::denied;
use super::interfaces::address;
use super::networks::document;
use super::nodedevs::kind;
use super::session::Session;
use crate::polkit::Question;
use patchcord_core::engine::{Command, InterfaceView, NetworkView, NicView};
use patchcord_core::xml::{self, Mode};
use patchcord_libvirt_wire::permission::{self, Object, Permission};
use patchcord_libvirt_wire::reply::RemoteError;
use patchcord_libvirt_wire::{Call, InterfaceCall, NetworkRef, NodeDeviceCall, PortRef, Procedure};
use uuid::Uuid;

/// An object that a permission is about.
#[derive(Clone, Debug, Default)]
struct Target {
    /// What people call it; empty for the connection.
    name: String,
    /// What rules may look at.
    details: Vec<(&'static str, String)>,
}

impl Target {
    fn network(name: &str, uuid: Option<Uuid>) -> Self {
        let mut details = vec![("network_name", name.to_owned())];
        details.extend(uuid.map(|uuid| ("network_uuid", uuid.to_string())));
        Self { name: format!("network '{name}'"), details }
    }

    fn port(network: &str, network_uuid: Option<Uuid>, uuid: Option<Uuid>) -> Self {
        let mut target = Self::network(network, network_uuid);
        target.name = format!("a port of {}", target.name);
        target.details.extend(uuid.map(|uuid| ("port_uuid", uuid.to_string())));
        target
    }

    fn node_device(name: &str) -> Self {
        Self { name: format!("node device '{name}'"), details: vec![("node_device_name", name.to_owned())] }
    }
}

impl From<&NetworkView> for Target {
    fn from(network: &NetworkView) -> Self {
        Self::network(&network.name, Some(network.uuid))
    }
}

impl From<&InterfaceView> for Target {
    fn from(interface: &InterfaceView) -> Self {
        let mac = interface.mac.map(|mac| mac.to_string()).unwrap_or_default();
        let details = vec![("interface_name", interface.name.to_string()), ("interface_macaddr", mac)];
        Self { name: format!("interface '{}'", interface.name), details }
    }
}

impl From<&NicView> for Target {
    fn from(port: &NicView) -> Self {
        Self::port(port.network.as_deref().unwrap_or_default(), port.network_uuid, Some(port.id))
    }
}

impl Session {
    /// Sees to it that the client may do what it asks for.
    ///
    /// # Errors
    /// That it may not, or whatever is wrong with the object.
    pub(super) async fn permit(&self, procedure: Procedure, call: &Call) -> Result<(), RemoteError> {
        if !self.guard.is_checked() {
            return Ok(());
        }
        let unknown = || denied(format!("nobody knows what {} takes", procedure.api()));
        let flags = match call {
            Call::NetworkUpdate { flags, .. } | Call::NetworkSetMetadata { flags, .. } => *flags,
            _ => 0,
        };
        let needed = permission::of(procedure.number()).ok_or_else(unknown)?;
        let needed: Vec<&Permission> = needed.iter().filter(|permission| permission.is_needed(flags)).collect();
        let Some(object) = needed.first().map(|permission| permission.object) else { return Ok(()) };
        let target = match object {
            Object::Connect => Target::default(),
            _ => self.target(call).await?.ok_or_else(unknown)?,
        };
        let questions: Vec<_> = needed.iter().map(|permission| self.question(**permission, &target)).collect();
        let may = self.guard.ask(&questions).await?;
        match questions.iter().zip(may).find(|(_, may)| !may) {
            None => Ok(()),
            Some((Question { action, .. }, _)) if target.name.is_empty() => {
                Err(denied(format!("polkit does not grant '{action}'")))
            }
            Some((Question { action, .. }, _)) => {
                Err(denied(format!("polkit does not grant '{action}' on {}", target.name)))
            }
        }
    }

    /// Those of some networks that the client may know of.
    pub(super) async fn visible_networks(&self, all: Vec<NetworkView>) -> Result<Vec<NetworkView>, RemoteError> {
        self.visible(Object::Network, all, |network| network.into()).await
    }

    /// Those of some ports that it may know of.
    pub(super) async fn visible_ports(&self, all: Vec<NicView>) -> Result<Vec<NicView>, RemoteError> {
        self.visible(Object::NetworkPort, all, |port| port.into()).await
    }

    /// Those of some interfaces that it may know of.
    pub(super) async fn visible_interfaces(&self, all: Vec<InterfaceView>) -> Result<Vec<InterfaceView>, RemoteError> {
        self.visible(Object::Interface, all, |interface| interface.into()).await
    }

    /// Those of some node devices that it may know of.
    pub(super) async fn visible_node_devices(&self, all: Vec<String>) -> Result<Vec<String>, RemoteError> {
        self.visible(Object::NodeDevice, all, |name| Target::node_device(name)).await
    }

    /// Whether it may know of a network, which may be gone already.
    pub(super) async fn sees_network(&self, name: &str, uuid: Uuid) -> bool {
        self.sees(Object::Network, Target::network(name, Some(uuid))).await
    }

    /// Whether it may know of a node device, which may be gone already.
    pub(super) async fn sees_node_device(&self, name: &str) -> bool {
        self.sees(Object::NodeDevice, Target::node_device(name)).await
    }

    async fn sees(&self, object: Object, target: Target) -> bool {
        self.visible(object, vec![target], Target::clone).await.is_ok_and(|seen| !seen.is_empty())
    }

    async fn visible<T>(
        &self,
        object: Object,
        all: Vec<T>,
        target: impl Fn(&T) -> Target,
    ) -> Result<Vec<T>, RemoteError> {
        if !self.guard.is_checked() || all.is_empty() {
            return Ok(all);
        }
        let see = Permission::getattr(object);
        let questions: Vec<_> = all.iter().map(|one| self.question(see, &target(one))).collect();
        let may = self.guard.ask(&questions).await?;
        Ok(all.into_iter().zip(may).filter(|(_, may)| *may).map(|(one, _)| one).collect())
    }

    fn question(&self, permission: Permission, target: &Target) -> Question {
        let mut details = vec![("connect_driver", self.driver().kind().to_owned())];
        details.extend(target.details.iter().cloned());
        Question { action: permission.action(), details }
    }

    /// What a call is about; nothing if that is not known.
    async fn target(&self, call: &Call) -> Result<Option<Target>, RemoteError> {
        Ok(Some(match call {
            Call::NetworkLookupByName { name } => (&self.named(name).await?).into(),
            Call::NetworkLookupByUuid { uuid } => {
                let by_uuid = NetworkRef { name: String::new(), uuid: *uuid };
                (&self.shown(&by_uuid).await?).into()
            }
            Call::NetworkDefineXml { xml, flags } | Call::NetworkCreateXml { xml, flags } => {
                let network = document(xml, *flags)?;
                let name = network.name.as_str();
                let uuid = match network.uuid {
                    Some(uuid) => Some(uuid),
                    // That of the network that it changes, if there is one.
                    None => self.named(name).await.ok().map(|network| network.uuid),
                };
                Target::network(name, uuid)
            }
            Call::NetworkCreate { net }
            | Call::NetworkDestroy { net }
            | Call::NetworkUndefine { net }
            | Call::NetworkGetXmlDesc { net, .. }
            | Call::NetworkGetBridgeName { net }
            | Call::NetworkGetAutostart { net }
            | Call::NetworkSetAutostart { net, .. }
            | Call::NetworkIsActive { net }
            | Call::NetworkIsPersistent { net }
            | Call::NetworkUpdate { net, .. }
            | Call::NetworkSetMetadata { net, .. }
            | Call::NetworkGetMetadata { net, .. }
            | Call::NetworkGetDhcpLeases { net, .. }
            | Call::NetworkListAllPorts { net, .. } => (&self.shown(net).await?).into(),
            Call::NetworkPortCreateXml { net, xml, .. } => {
                let network = self.shown(net).await?;
                let port = xml::read_networkport(xml, Mode::Lenient).map_err(|error| super::errors::remote(&error))?;
                Target::port(&network.name, Some(network.uuid), port.uuid)
            }
            Call::NetworkPortLookupByUuid { net, uuid } => {
                (&self.port(&PortRef { network: net.clone(), uuid: *uuid }).await?).into()
            }
            Call::NetworkPortGetXmlDesc { port, .. }
            | Call::NetworkPortDelete { port, .. }
            | Call::NetworkPortGetParameters { port, .. }
            | Call::NetworkPortSetParameters { port, .. } => (&self.port(port).await?).into(),
            Call::Interface(call) => return self.interface_target(call).await,
            Call::NodeDevice(call) => return self.device_target(call).await,
            _ => return Ok(None),
        }))
    }

    async fn interface_target(&self, call: &InterfaceCall) -> Result<Option<Target>, RemoteError> {
        let command = match call {
            InterfaceCall::LookupByName { name } => Command::ShowInterface(name.clone()),
            InterfaceCall::LookupByMac { mac } => Command::InterfaceWith(address(mac)?),
            InterfaceCall::GetXmlDesc { interface, .. }
            | InterfaceCall::IsActive { interface }
            | InterfaceCall::Undefine { interface }
            | InterfaceCall::Create { interface, .. }
            | InterfaceCall::Destroy { interface, .. } => Command::ShowInterface(interface.name.clone()),
            // Nobody defines one here yet, and the others are about none or all.
            InterfaceCall::DefineXml { .. }
            | InterfaceCall::NumOf
            | InterfaceCall::List { .. }
            | InterfaceCall::NumOfDefined
            | InterfaceCall::ListDefined { .. }
            | InterfaceCall::ListAll { .. }
            | InterfaceCall::ChangeBegin { .. }
            | InterfaceCall::ChangeCommit { .. }
            | InterfaceCall::ChangeRollback { .. } => return Ok(None),
        };
        Ok(Some((&self.interface(command).await?).into()))
    }

    async fn device_target(&self, call: &NodeDeviceCall) -> Result<Option<Target>, RemoteError> {
        use NodeDeviceCall as Device;
        let name = match call {
            Device::LookupByName { name }
            | Device::GetXmlDesc { name, .. }
            | Device::GetParent { name }
            | Device::NumOfCaps { name }
            | Device::ListCaps { name, .. }
            | Device::Dettach { name }
            | Device::DetachFlags { name, .. }
            | Device::ReAttach { name }
            | Device::Reset { name }
            | Device::Destroy { name }
            | Device::Undefine { name, .. }
            | Device::Create { name, .. }
            | Device::GetAutostart { name }
            | Device::SetAutostart { name, .. }
            | Device::IsPersistent { name }
            | Device::IsActive { name } => name,
            // Of devices that are not there yet, or never.
            Device::LookupScsiHostByWwn { .. } | Device::CreateXml { .. } | Device::DefineXml { .. } => {
                return Ok(Some(Target { name: "a node device".into(), details: Vec::new() }));
            }
            Device::NumOfDevices { .. }
            | Device::ListDevices { .. }
            | Device::ListAll { .. }
            | Device::EventRegisterAny { .. }
            | Device::EventDeregisterAny { .. } => return Ok(None),
        };
        let devices = self.devices()?;
        devices.complete().await;
        kind(devices, name)?;
        Ok(Some(Target::node_device(name)))
    }
}
