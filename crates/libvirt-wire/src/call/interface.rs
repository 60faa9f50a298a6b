//! What clients ask about interfaces of the host.

use super::{flags, maximum, not_decoded, switch, xml};
use crate::InterfaceRef;
use crate::procedure::Procedure;
use crate::xdr::{Malformed, Reader};

/// A call about interfaces. Fields have the names of libvirt's protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // one variant for each procedure, which says what it is
pub enum InterfaceCall {
    NumOf,
    List { max: i32 },
    NumOfDefined,
    ListDefined { max: i32 },
    ListAll { need_results: bool, flags: u32 },
    LookupByName { name: String },
    LookupByMac { mac: String },
    GetXmlDesc { interface: InterfaceRef, flags: u32 },
    IsActive { interface: InterfaceRef },
    DefineXml { xml: String, flags: u32 },
    Undefine { interface: InterfaceRef },
    Create { interface: InterfaceRef, flags: u32 },
    Destroy { interface: InterfaceRef, flags: u32 },
    ChangeBegin { flags: u32 },
    ChangeCommit { flags: u32 },
    ChangeRollback { flags: u32 },
}

/// The call of that procedure, with what the reader has for arguments.
pub(super) fn decode(procedure: Procedure, r: &mut Reader<'_>) -> Result<InterfaceCall, Malformed> {
    use InterfaceCall as Call;
    use Procedure as P;
    Ok(match procedure {
        P::ConnectNumOfInterfaces => Call::NumOf,
        P::ConnectListInterfaces => Call::List { max: maximum(r)? },
        P::ConnectNumOfDefinedInterfaces => Call::NumOfDefined,
        P::ConnectListDefinedInterfaces => Call::ListDefined { max: maximum(r)? },
        P::ConnectListAllInterfaces => Call::ListAll { need_results: switch(r, "need_results")?, flags: flags(r)? },
        P::InterfaceLookupByName => Call::LookupByName { name: r.string("the name")? },
        P::InterfaceLookupByMacString => Call::LookupByMac { mac: r.string("the MAC")? },
        P::InterfaceGetXmlDesc => Call::GetXmlDesc { interface: interface(r)?, flags: flags(r)? },
        P::InterfaceIsActive => Call::IsActive { interface: interface(r)? },
        P::InterfaceDefineXml => Call::DefineXml { xml: xml(r)?, flags: flags(r)? },
        P::InterfaceUndefine => Call::Undefine { interface: interface(r)? },
        P::InterfaceCreate => Call::Create { interface: interface(r)?, flags: flags(r)? },
        P::InterfaceDestroy => Call::Destroy { interface: interface(r)?, flags: flags(r)? },
        P::InterfaceChangeBegin => Call::ChangeBegin { flags: flags(r)? },
        P::InterfaceChangeCommit => Call::ChangeCommit { flags: flags(r)? },
        P::InterfaceChangeRollback => Call::ChangeRollback { flags: flags(r)? },
        other => return Err(not_decoded(other)),
    })
}

fn interface(r: &mut Reader<'_>) -> Result<InterfaceRef, Malformed> {
    Ok(InterfaceRef { name: r.string("the interface's name")?, mac: r.string("the interface's MAC")? })
}
