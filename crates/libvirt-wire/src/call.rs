//! What clients ask: a procedure's arguments, decoded and within their limits.

mod interface;
mod nodedev;

pub use interface::InterfaceCall;
pub use nodedev::NodeDeviceCall;

use crate::RawUuid;
use crate::procedure::Procedure;
use crate::xdr::{Malformed, Parameter, Reader};
use crate::{Driver, NetworkRef, PortRef};

/// Parameters of an identity at most.
const IDENTITY: usize = 20;
/// Parameters of a port at most.
const PORT_PARAMETERS: usize = 16;

/// A call. Fields have the names of libvirt's protocol.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // one variant for each procedure, which says what it is
pub enum Call {
    ConnectOpen {
        name: Option<String>,
        flags: u32,
    },
    ConnectClose,
    ConnectGetType,
    ConnectGetVersion,
    ConnectGetHostname,
    ConnectSupportsFeature {
        feature: i32,
    },
    AuthList,
    AuthPolkit,
    ConnectGetUri,
    ConnectIsSecure,
    ConnectGetLibVersion,
    ConnectRegisterCloseCallback,
    ConnectUnregisterCloseCallback,
    ConnectSetIdentity {
        params: Vec<Parameter>,
        flags: u32,
    },

    ConnectListDefinedNetworks {
        max: i32,
    },
    ConnectListNetworks {
        max: i32,
    },
    ConnectNumOfDefinedNetworks,
    ConnectNumOfNetworks,
    ConnectListAllNetworks {
        need_results: bool,
        flags: u32,
    },
    NetworkLookupByName {
        name: String,
    },
    NetworkLookupByUuid {
        uuid: RawUuid,
    },
    /// With or without flags.
    NetworkDefineXml {
        xml: String,
        flags: u32,
    },
    /// With or without flags.
    NetworkCreateXml {
        xml: String,
        flags: u32,
    },
    NetworkCreate {
        net: NetworkRef,
    },
    NetworkDestroy {
        net: NetworkRef,
    },
    NetworkUndefine {
        net: NetworkRef,
    },
    NetworkGetXmlDesc {
        net: NetworkRef,
        flags: u32,
    },
    NetworkGetBridgeName {
        net: NetworkRef,
    },
    NetworkGetAutostart {
        net: NetworkRef,
    },
    NetworkSetAutostart {
        net: NetworkRef,
        autostart: bool,
    },
    NetworkIsActive {
        net: NetworkRef,
    },
    NetworkIsPersistent {
        net: NetworkRef,
    },
    NetworkUpdate {
        net: NetworkRef,
        command: u32,
        section: u32,
        parent_index: i32,
        xml: String,
        flags: u32,
    },
    NetworkGetDhcpLeases {
        net: NetworkRef,
        mac: Option<String>,
        need_results: bool,
        flags: u32,
    },
    NetworkSetMetadata {
        net: NetworkRef,
        kind: i32,
        metadata: Option<String>,
        key: Option<String>,
        uri: Option<String>,
        flags: u32,
    },
    NetworkGetMetadata {
        net: NetworkRef,
        kind: i32,
        uri: Option<String>,
        flags: u32,
    },
    ConnectNetworkEventRegisterAny {
        event: i32,
        net: Option<NetworkRef>,
    },
    ConnectNetworkEventDeregisterAny {
        callback: i32,
    },

    /// About interfaces of the host.
    Interface(InterfaceCall),

    NetworkListAllPorts {
        net: NetworkRef,
        need_results: bool,
        flags: u32,
    },
    NetworkPortLookupByUuid {
        net: NetworkRef,
        uuid: RawUuid,
    },
    NetworkPortCreateXml {
        net: NetworkRef,
        xml: String,
        flags: u32,
    },
    NetworkPortGetXmlDesc {
        port: PortRef,
        flags: u32,
    },
    NetworkPortDelete {
        port: PortRef,
        flags: u32,
    },
    NetworkPortGetParameters {
        port: PortRef,
        max: i32,
        flags: u32,
    },
    NetworkPortSetParameters {
        port: PortRef,
        params: Vec<Parameter>,
        flags: u32,
    },

    NodeDevice(NodeDeviceCall),
}

impl Call {
    /// The call of that procedure with these arguments.
    ///
    /// # Errors
    /// [`Malformed`] says what of them is not what belongs there.
    pub fn decode(procedure: Procedure, payload: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(payload);
        let call = decode(procedure, &mut r)?;
        r.end()?;
        Ok(call)
    }
}

fn decode(procedure: Procedure, r: &mut Reader<'_>) -> Result<Call, Malformed> {
    use Procedure as P;
    Ok(match procedure {
        P::ConnectOpen => Call::ConnectOpen { name: text(r, "the URI")?, flags: flags(r)? },
        P::ConnectClose => Call::ConnectClose,
        P::ConnectGetType => Call::ConnectGetType,
        P::ConnectGetVersion => Call::ConnectGetVersion,
        P::ConnectGetHostname => Call::ConnectGetHostname,
        P::ConnectSupportsFeature => Call::ConnectSupportsFeature { feature: r.i32("the feature")? },
        P::AuthList => Call::AuthList,
        P::AuthPolkit => Call::AuthPolkit,
        P::ConnectGetUri => Call::ConnectGetUri,
        P::ConnectIsSecure => Call::ConnectIsSecure,
        P::ConnectGetLibVersion => Call::ConnectGetLibVersion,
        P::ConnectRegisterCloseCallback => Call::ConnectRegisterCloseCallback,
        P::ConnectUnregisterCloseCallback => Call::ConnectUnregisterCloseCallback,
        P::ConnectSetIdentity => {
            Call::ConnectSetIdentity { params: r.parameters(IDENTITY, "the identity")?, flags: flags(r)? }
        }
        P::ConnectListDefinedNetworks => Call::ConnectListDefinedNetworks { max: maximum(r)? },
        P::ConnectListNetworks => Call::ConnectListNetworks { max: maximum(r)? },
        P::ConnectNumOfDefinedNetworks => Call::ConnectNumOfDefinedNetworks,
        P::ConnectNumOfNetworks => Call::ConnectNumOfNetworks,
        P::ConnectListAllNetworks => {
            Call::ConnectListAllNetworks { need_results: switch(r, "need_results")?, flags: flags(r)? }
        }
        P::NetworkLookupByName => Call::NetworkLookupByName { name: r.string("the name")? },
        P::NetworkLookupByUuid => Call::NetworkLookupByUuid { uuid: r.uuid("the UUID")? },
        P::NetworkDefineXml => Call::NetworkDefineXml { xml: xml(r)?, flags: 0 },
        P::NetworkDefineXmlFlags => Call::NetworkDefineXml { xml: xml(r)?, flags: flags(r)? },
        P::NetworkCreateXml => Call::NetworkCreateXml { xml: xml(r)?, flags: 0 },
        P::NetworkCreateXmlFlags => Call::NetworkCreateXml { xml: xml(r)?, flags: flags(r)? },
        P::NetworkCreate => Call::NetworkCreate { net: network(r)? },
        P::NetworkDestroy => Call::NetworkDestroy { net: network(r)? },
        P::NetworkUndefine => Call::NetworkUndefine { net: network(r)? },
        P::NetworkGetXmlDesc => Call::NetworkGetXmlDesc { net: network(r)?, flags: flags(r)? },
        P::NetworkGetBridgeName => Call::NetworkGetBridgeName { net: network(r)? },
        P::NetworkGetAutostart => Call::NetworkGetAutostart { net: network(r)? },
        P::NetworkSetAutostart => Call::NetworkSetAutostart { net: network(r)?, autostart: switch(r, "autostart")? },
        P::NetworkIsActive => Call::NetworkIsActive { net: network(r)? },
        P::NetworkIsPersistent => Call::NetworkIsPersistent { net: network(r)? },
        P::NetworkUpdate => Call::NetworkUpdate {
            net: network(r)?,
            command: r.u32("the command")?,
            section: r.u32("the section")?,
            parent_index: r.i32("the parent's index")?,
            xml: xml(r)?,
            flags: flags(r)?,
        },
        P::NetworkGetDhcpLeases => Call::NetworkGetDhcpLeases {
            net: network(r)?,
            mac: text(r, "the MAC")?,
            need_results: switch(r, "need_results")?,
            flags: flags(r)?,
        },
        P::NetworkSetMetadata => Call::NetworkSetMetadata {
            net: network(r)?,
            kind: r.i32("the kind of metadata")?,
            metadata: text(r, "the metadata")?,
            key: text(r, "the key")?,
            uri: text(r, "the namespace")?,
            flags: flags(r)?,
        },
        P::NetworkGetMetadata => Call::NetworkGetMetadata {
            net: network(r)?,
            kind: r.i32("the kind of metadata")?,
            uri: text(r, "the namespace")?,
            flags: flags(r)?,
        },
        P::ConnectNetworkEventRegisterAny => {
            Call::ConnectNetworkEventRegisterAny { event: r.i32("the event")?, net: r.option("the network", network)? }
        }
        P::ConnectNetworkEventDeregisterAny => {
            Call::ConnectNetworkEventDeregisterAny { callback: r.i32("the callback")? }
        }
        P::NetworkListAllPorts => {
            Call::NetworkListAllPorts { net: network(r)?, need_results: switch(r, "need_results")?, flags: flags(r)? }
        }
        P::NetworkPortLookupByUuid => Call::NetworkPortLookupByUuid { net: network(r)?, uuid: r.uuid("the UUID")? },
        P::NetworkPortCreateXml => Call::NetworkPortCreateXml { net: network(r)?, xml: xml(r)?, flags: flags(r)? },
        P::NetworkPortGetXmlDesc => Call::NetworkPortGetXmlDesc { port: port(r)?, flags: flags(r)? },
        P::NetworkPortDelete => Call::NetworkPortDelete { port: port(r)?, flags: flags(r)? },
        P::NetworkPortGetParameters => {
            Call::NetworkPortGetParameters { port: port(r)?, max: maximum(r)?, flags: flags(r)? }
        }
        P::NetworkPortSetParameters => Call::NetworkPortSetParameters {
            port: port(r)?,
            params: r.parameters(PORT_PARAMETERS, "the port's parameters")?,
            flags: flags(r)?,
        },
        _ if procedure.driver() == Some(Driver::Interface) => Call::Interface(interface::decode(procedure, r)?),
        _ if procedure.driver() == Some(Driver::NodeDevice) => Call::NodeDevice(nodedev::decode(procedure, r)?),
        _ => return Err(not_decoded(procedure)),
    })
}

/// That a procedure is in the table and nowhere else.
fn not_decoded(procedure: Procedure) -> Malformed {
    Malformed::NoSuch { what: "the procedure", value: procedure.number() }
}

fn network(r: &mut Reader<'_>) -> Result<NetworkRef, Malformed> {
    Ok(NetworkRef { name: r.string("the network's name")?, uuid: r.uuid("the network's UUID")? })
}

fn port(r: &mut Reader<'_>) -> Result<PortRef, Malformed> {
    Ok(PortRef { network: network(r)?, uuid: r.uuid("the port's UUID")? })
}

fn text(r: &mut Reader<'_>, what: &'static str) -> Result<Option<String>, Malformed> {
    r.option(what, |r| r.string(what))
}

fn xml(r: &mut Reader<'_>) -> Result<String, Malformed> {
    r.string("the document")
}

fn flags(r: &mut Reader<'_>) -> Result<u32, Malformed> {
    r.u32("the flags")
}

fn maximum(r: &mut Reader<'_>) -> Result<i32, Malformed> {
    r.i32("the maximum")
}

fn switch(r: &mut Reader<'_>, what: &'static str) -> Result<bool, Malformed> {
    r.i32(what).map(|number| number != 0)
}
