//! Calls about interfaces of the host: they are shown, and nothing changes them yet.

use super::errors::{self, invalid, known_flags, no_support, unexpected};
use super::session::Session;
use patchcord_core::engine::{Body, Command, InterfaceView};
use patchcord_core::model::MacAddr;
use patchcord_core::model::interface::Interface;
use patchcord_core::{Error, ErrorKind, xml};
use patchcord_host::speed;
use patchcord_libvirt_wire::reply::RemoteError;
use patchcord_libvirt_wire::{Driver, InterfaceCall, InterfaceRef, Procedure, Reply};
use tokio::sync::Semaphore;

/// Flags of lists (libvirt's `virConnectListAllInterfacesFlags`).
const INACTIVE: u32 = 1;
const ACTIVE: u32 = 2;
/// Flags of documents (libvirt's `virInterfaceXMLFlags`): as it would be configured, instead of as it is.
const XML_INACTIVE: u32 = 1;

/// Whoever asks for speeds waits for others to be through: a driver may take its time to tell, and work on threads is
/// done for networks first of all.
static SPEEDS: Semaphore = Semaphore::const_new(1);

impl Session {
    /// Carries out a call about interfaces.
    pub(super) async fn carry_out_interface(
        &self,
        procedure: Procedure,
        call: InterfaceCall,
    ) -> Result<Reply, RemoteError> {
        match call {
            InterfaceCall::ListAll { need_results, flags } => {
                known_flags(flags, INACTIVE | ACTIVE)?;
                let fits = |active: bool| flags == 0 || flags & if active { ACTIVE } else { INACTIVE } != 0;
                let all = self.interfaces(fits).await?;
                let count = all.len();
                let told = if need_results { all.iter().map(reference).collect() } else { Vec::new() };
                Ok(Reply::Interfaces(told, count))
            }
            InterfaceCall::List { max } => self.interface_names(max, true).await,
            InterfaceCall::ListDefined { max } => self.interface_names(max, false).await,
            InterfaceCall::NumOf => self.interface_count(true).await,
            InterfaceCall::NumOfDefined => self.interface_count(false).await,
            InterfaceCall::LookupByName { name } => {
                self.interface(Command::ShowInterface(name)).await.map(|found| Reply::Interface(reference(&found)))
            }
            InterfaceCall::LookupByMac { mac } => self
                .interface(Command::InterfaceWith(address(&mac)?))
                .await
                .map(|found| Reply::Interface(reference(&found))),
            InterfaceCall::IsActive { interface } => {
                let found = self.interface(Command::ShowInterface(interface.name)).await?;
                Ok(Reply::Int(i32::from(found.active)))
            }
            InterfaceCall::GetXmlDesc { interface, flags } => self.interface_xml(interface.name, flags).await,
            InterfaceCall::DefineXml { .. }
            | InterfaceCall::Undefine { .. }
            | InterfaceCall::Create { .. }
            | InterfaceCall::Destroy { .. }
            | InterfaceCall::ChangeBegin { .. }
            | InterfaceCall::ChangeCommit { .. }
            | InterfaceCall::ChangeRollback { .. } => Err(not_changed(procedure)),
        }
    }

    async fn interfaces(&self, wanted: impl Fn(bool) -> bool) -> Result<Vec<InterfaceView>, RemoteError> {
        let Body::Interfaces(all) = self.command(Command::ListInterfaces).await?.body else { return Err(unexpected()) };
        self.visible_interfaces(all.into_iter().filter(|interface| wanted(interface.active)).collect()).await
    }

    async fn interface_names(&self, max: i32, active: bool) -> Result<Reply, RemoteError> {
        let max = usize::try_from(max).map_err(|_| invalid("the maximum", format!("{max} is less than none")))?;
        let all = self.interfaces(|is| is == active).await?;
        Ok(Reply::Texts(all.into_iter().take(max).map(|interface| interface.name.to_string()).collect()))
    }

    async fn interface_count(&self, active: bool) -> Result<Reply, RemoteError> {
        let count = self.interfaces(|is| is == active).await?.len();
        Ok(Reply::Int(i32::try_from(count).unwrap_or(i32::MAX)))
    }

    pub(super) async fn interface(&self, command: Command) -> Result<InterfaceView, RemoteError> {
        match self.command(command).await?.body {
            Body::Interface(view) => Ok(view),
            _ => Err(unexpected()),
        }
    }

    /// A document. What nobody configured here has no configuration to show but what it is.
    async fn interface_xml(&self, name: String, flags: u32) -> Result<Reply, RemoteError> {
        known_flags(flags, XML_INACTIVE)?;
        let Body::Description(interface) = self.command(Command::DescribeInterface(name)).await?.body else {
            return Err(unexpected());
        };
        let interface = match flags {
            XML_INACTIVE => interface.as_configured(),
            _ => self.with_speeds(*interface).await?,
        };
        Ok(Reply::Text(xml::write_interface(&interface)))
    }

    /// The same with the speeds of its links, as far as they can be read.
    async fn with_speeds(&self, mut interface: Interface) -> Result<Interface, RemoteError> {
        let turn = SPEEDS.acquire().await;
        let root = self.root.clone();
        let read = tokio::task::spawn_blocking(move || {
            // Whether somebody still waits for that or not.
            let _turn = turn;
            interface.each_report(|name, report| {
                if let Some(report) = report.as_mut().filter(|report| report.is_up()) {
                    report.speed = speed::read(&root, name);
                }
            });
            interface
        });
        read.await.map_err(|_| unexpected())
    }
}

fn reference(view: &InterfaceView) -> InterfaceRef {
    InterfaceRef { name: view.name.to_string(), mac: view.mac.map(|mac| mac.to_string()).unwrap_or_default() }
}

/// An address that clients mean. No interface has one that is none: clients take that for what it is.
pub(super) fn address(mac: &str) -> Result<MacAddr, RemoteError> {
    let no_address = |cause: String| Error::new(ErrorKind::NoInterface, format!("MAC address '{mac}'"), cause);
    mac.parse().map_err(|cause| errors::remote(&no_address(cause)))
}

/// That nothing changes interfaces here yet.
fn not_changed(procedure: Procedure) -> RemoteError {
    let api = procedure.api();
    let detail = format!("{api}: interfaces of the host are shown here, and changed by what configures the host");
    no_support(Driver::Interface, &detail)
}
