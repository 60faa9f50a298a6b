//! What clients ask about node devices.

use super::{flags, maximum, not_decoded, switch, xml};
use crate::procedure::Procedure;
use crate::xdr::{Malformed, Reader};

/// A call about node devices. Fields have the names of libvirt's protocol.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // one variant for each procedure, which says what it is
pub enum NodeDeviceCall {
    NumOfDevices { capability: Option<String>, flags: u32 },
    ListDevices { capability: Option<String>, max: i32, flags: u32 },
    ListAll { need_results: bool, flags: u32 },
    LookupByName { name: String },
    LookupScsiHostByWwn { wwnn: String, wwpn: String, flags: u32 },
    GetXmlDesc { name: String, flags: u32 },
    GetParent { name: String },
    NumOfCaps { name: String },
    ListCaps { name: String, max: i32 },
    Dettach { name: String },
    DetachFlags { name: String, driver: Option<String>, flags: u32 },
    ReAttach { name: String },
    Reset { name: String },
    CreateXml { xml: String, flags: u32 },
    DefineXml { xml: String, flags: u32 },
    Destroy { name: String },
    Undefine { name: String, flags: u32 },
    Create { name: String, flags: u32 },
    GetAutostart { name: String },
    SetAutostart { name: String, autostart: bool },
    IsPersistent { name: String },
    IsActive { name: String },
    EventRegisterAny { event: i32, device: Option<String> },
    EventDeregisterAny { callback: i32 },
}

/// The call of that procedure, with what the reader has for arguments.
pub(super) fn decode(procedure: Procedure, r: &mut Reader<'_>) -> Result<NodeDeviceCall, Malformed> {
    use NodeDeviceCall as Call;
    use Procedure as P;
    Ok(match procedure {
        P::NodeNumOfDevices => Call::NumOfDevices { capability: capability(r)?, flags: flags(r)? },
        P::NodeListDevices => Call::ListDevices { capability: capability(r)?, max: maximum(r)?, flags: flags(r)? },
        P::ConnectListAllNodeDevices => Call::ListAll { need_results: switch(r, "need_results")?, flags: flags(r)? },
        P::NodeDeviceLookupByName => Call::LookupByName { name: name(r)? },
        P::NodeDeviceLookupScsiHostByWwn => {
            Call::LookupScsiHostByWwn { wwnn: r.string("the WWNN")?, wwpn: r.string("the WWPN")?, flags: flags(r)? }
        }
        P::NodeDeviceGetXmlDesc => Call::GetXmlDesc { name: name(r)?, flags: flags(r)? },
        P::NodeDeviceGetParent => Call::GetParent { name: name(r)? },
        P::NodeDeviceNumOfCaps => Call::NumOfCaps { name: name(r)? },
        P::NodeDeviceListCaps => Call::ListCaps { name: name(r)?, max: maximum(r)? },
        P::NodeDeviceDettach => Call::Dettach { name: name(r)? },
        P::NodeDeviceDetachFlags => Call::DetachFlags {
            name: name(r)?,
            driver: r.option("the driver", |r| r.string("the driver"))?,
            flags: flags(r)?,
        },
        P::NodeDeviceReAttach => Call::ReAttach { name: name(r)? },
        P::NodeDeviceReset => Call::Reset { name: name(r)? },
        P::NodeDeviceCreateXml => Call::CreateXml { xml: xml(r)?, flags: flags(r)? },
        P::NodeDeviceDefineXml => Call::DefineXml { xml: xml(r)?, flags: flags(r)? },
        P::NodeDeviceDestroy => Call::Destroy { name: name(r)? },
        P::NodeDeviceUndefine => Call::Undefine { name: name(r)?, flags: flags(r)? },
        P::NodeDeviceCreate => Call::Create { name: name(r)?, flags: flags(r)? },
        P::NodeDeviceGetAutostart => Call::GetAutostart { name: name(r)? },
        P::NodeDeviceSetAutostart => Call::SetAutostart { name: name(r)?, autostart: switch(r, "autostart")? },
        P::NodeDeviceIsPersistent => Call::IsPersistent { name: name(r)? },
        P::NodeDeviceIsActive => Call::IsActive { name: name(r)? },
        P::ConnectNodeDeviceEventRegisterAny => {
            Call::EventRegisterAny { event: r.i32("the event")?, device: r.option("the device", name)? }
        }
        P::ConnectNodeDeviceEventDeregisterAny => Call::EventDeregisterAny { callback: r.i32("the callback")? },
        other => return Err(not_decoded(other)),
    })
}

fn name(r: &mut Reader<'_>) -> Result<String, Malformed> {
    r.string("the device's name")
}

fn capability(r: &mut Reader<'_>) -> Result<Option<String>, Malformed> {
    r.option("the capability", |r| r.string("the capability"))
}
