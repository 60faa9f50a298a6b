//! Calls about node devices. There is nothing here that could be made, removed or taken from the host.

use super::devices::Devices;
use super::errors::{invalid, known_flags, no_support, remote, unexpected};
use super::session::Session;
use patchcord_core::nodedev::{COMPUTER, DeviceKind};
use patchcord_core::xml;
use patchcord_core::{Error, ErrorKind};
use patchcord_libvirt_wire::reply::RemoteError;
use patchcord_libvirt_wire::{Driver, NodeDeviceCall, Procedure, Reply};

/// Flags of lists (libvirt's `virConnectListAllNodeDeviceFlags`).
mod list {
    pub(super) const SYSTEM: u32 = 1 << 0;
    pub(super) const PCI: u32 = 1 << 1;
    pub(super) const NET: u32 = 1 << 4;
    /// All capabilities of which devices can be asked for, those of others too.
    pub(super) const CAPABILITIES: u32 = (1 << 22) - 1;
    pub(super) const INACTIVE: u32 = 1 << 30;
    pub(super) const ACTIVE: u32 = 1 << 31;
}

/// Flags of documents that a device is made from: unknown elements are errors.
const VALIDATE: u32 = 1;

impl Session {
    /// The devices of the host, on a socket for them.
    pub(super) fn devices(&self) -> Result<&Devices, RemoteError> {
        self.devices.as_deref().ok_or_else(unexpected)
    }

    /// Carries out a call about node devices.
    pub(super) async fn node_device(&self, procedure: Procedure, call: NodeDeviceCall) -> Result<Reply, RemoteError> {
        use NodeDeviceCall as Call;
        let devices = self.devices()?;
        devices.complete().await;
        // All there are run, and only the computer is there whatever comes and goes.
        let is_computer = |name: &str| Ok(Reply::Int(i32::from(name == COMPUTER)));
        match call {
            Call::NumOfDevices { capability, flags } => {
                known_flags(flags, 0)?;
                let names = names(devices, |kind| has(kind, capability.as_deref()));
                let count = self.visible_node_devices(names).await?.len();
                Ok(Reply::Int(i32::try_from(count).unwrap_or(i32::MAX)))
            }
            Call::ListDevices { capability, max, flags } => {
                known_flags(flags, 0)?;
                let names = names(devices, |kind| has(kind, capability.as_deref()));
                let mut names = self.visible_node_devices(names).await?;
                names.truncate(maximum(max)?);
                Ok(Reply::NodeDeviceNames(names))
            }
            Call::ListAll { need_results, flags } => {
                known_flags(flags, list::CAPABILITIES | list::ACTIVE | list::INACTIVE)?;
                let names = self.visible_node_devices(names(devices, |kind| fits(flags, kind))).await?;
                let count = names.len();
                Ok(Reply::NodeDevices(if need_results { names } else { Vec::new() }, count))
            }
            Call::LookupByName { name } => {
                kind(devices, &name)?;
                Ok(Reply::NodeDevice(name))
            }
            Call::LookupScsiHostByWwn { wwnn, wwpn, flags } => {
                known_flags(flags, 0)?;
                Err(no_device(format!("SCSI host with WWNN '{wwnn}' and WWPN '{wwpn}': there is no such device")))
            }
            Call::GetXmlDesc { name, flags } => {
                known_flags(flags, 0)?;
                let device = devices.describe(&name).await.ok_or_else(|| missing(&name))?;
                Ok(Reply::Text(xml::write_node_device(&device)))
            }
            Call::GetParent { name } => {
                let registry = devices.registry();
                let (id, listed) = registry.get(&name).ok_or_else(|| missing(&name))?;
                Ok(Reply::OptionalText(registry.parent(id, listed)))
            }
            Call::NumOfCaps { name } => kind(devices, &name).map(|_| Reply::Int(1)),
            Call::ListCaps { name, max } => {
                let all = [kind(devices, &name)?.as_str().to_owned()];
                Ok(Reply::NodeDeviceNames(all.into_iter().take(maximum(max)?).collect()))
            }
            Call::IsActive { name } => kind(devices, &name).map(|_| Reply::Int(1)),
            Call::IsPersistent { name } | Call::GetAutostart { name } => {
                kind(devices, &name)?;
                is_computer(&name)
            }
            Call::CreateXml { xml, flags } | Call::DefineXml { xml, flags } => {
                known_flags(flags, VALIDATE)?;
                let kind = xml::read_node_device_type(&xml).map_err(|error| remote(&error))?;
                Err(unsupported(format!("node device: devices of type '{kind}' are not made here")))
            }
            Call::Destroy { name } => {
                kind(devices, &name)?;
                Err(unsupported(format!("node device '{name}': it is the host's, and can't be removed here")))
            }
            Call::Undefine { name, flags } => {
                known_flags(flags, 0)?;
                kind(devices, &name)?;
                match name.as_str() {
                    COMPUTER => Err(unsupported(format!("node device '{name}': it can't be removed"))),
                    _ => Err(refused(ErrorKind::InvalidState, &name, "it has no definition")),
                }
            }
            Call::Create { name, flags } => {
                known_flags(flags, 0)?;
                kind(devices, &name)?;
                Err(refused(ErrorKind::InvalidState, &name, "it is active already"))
            }
            Call::SetAutostart { name, .. } => {
                kind(devices, &name)?;
                Err(refused(ErrorKind::Unsupported, &name, "it is there whenever the host has it"))
            }
            // They are hypervisors' drivers', which ask us for the device and take it from the host by themselves.
            Call::Dettach { .. } | Call::DetachFlags { .. } | Call::ReAttach { .. } | Call::Reset { .. } => {
                Err(no_support(Driver::NodeDevice, procedure.api()))
            }
            // Those are the connection's.
            Call::EventRegisterAny { .. } | Call::EventDeregisterAny { .. } => Err(unexpected()),
        }
    }
}

/// Names of devices of certain kinds.
fn names(devices: &Devices, wanted: impl Fn(DeviceKind) -> bool) -> Vec<String> {
    let registry = devices.registry();
    registry.names().filter(|(_, kind)| wanted(*kind)).map(|(name, _)| name.to_owned()).collect()
}

/// Whether devices of a kind have a capability, where one is asked for.
fn has(kind: DeviceKind, capability: Option<&str>) -> bool {
    capability.is_none_or(|capability| capability == kind.as_str())
}

/// Whether devices of a kind are among those that a list is to have: one of each group of flags that is given.
fn fits(flags: u32, kind: DeviceKind) -> bool {
    let of_kind = match kind {
        DeviceKind::System => list::SYSTEM,
        DeviceKind::Pci => list::PCI,
        DeviceKind::Net => list::NET,
    };
    let group = |all: u32, is: u32| flags & all == 0 || flags & is != 0;
    group(list::CAPABILITIES, of_kind) && group(list::ACTIVE | list::INACTIVE, list::ACTIVE)
}

/// What the device of that name is.
pub(super) fn kind(devices: &Devices, name: &str) -> Result<DeviceKind, RemoteError> {
    let registry = devices.registry();
    registry.get(name).map(|(id, _)| id.kind()).ok_or_else(|| missing(name))
}

fn maximum(max: i32) -> Result<usize, RemoteError> {
    usize::try_from(max).map_err(|_| invalid("the maximum", format!("{max} is less than none")))
}

fn missing(name: &str) -> RemoteError {
    no_device(format!("node device '{name}': there is no such device"))
}

fn no_device(detail: String) -> RemoteError {
    RemoteError::new(53, Driver::NodeDevice.domain(), "Node device not found", detail)
}

fn unsupported(detail: String) -> RemoteError {
    RemoteError::new(67, Driver::NodeDevice.domain(), "unsupported configuration", detail)
}

fn refused(kind: ErrorKind, name: &str, cause: &str) -> RemoteError {
    remote(&Error::new(kind, format!("node device '{name}'"), cause))
}
