//! The procedures of the program `remote` that the sockets for networks, interfaces and node devices know.
//!
//! Numbers are never given twice, and clients find out that a procedure is missing by calling it.

use crate::Driver;

/// Who may call a procedure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody, before it is proved who that is as well.
    Anybody,
    /// Whoever may come at all, before a connection is opened as well.
    Always,
    /// Whoever may read.
    Read,
    /// Whoever may write, too.
    Write,
}

macro_rules! procedures {
    ($($owner:ident { $($number:literal $name:ident $api:literal $access:ident;)* })*) => {
        /// A procedure.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Procedure {
            $($(#[doc = $api] $name = $number,)*)*
        }

        impl Procedure {
            /// All there are.
            pub const ALL: &'static [Self] = &[$($(Self::$name,)*)*];

            /// That of a number.
            pub const fn of(number: i32) -> Option<Self> {
                match number {
                    $($($number => Some(Self::$name),)*)*
                    _ => None,
                }
            }

            /// Its number.
            pub const fn number(self) -> i32 {
                self as i32
            }

            /// The function of libvirt's interface that calls it, as messages name it.
            pub const fn api(self) -> &'static str {
                match self {
                    $($(Self::$name => $api,)*)*
                }
            }

            /// Who may call it.
            pub const fn access(self) -> Access {
                match self {
                    $($(Self::$name => Access::$access,)*)*
                }
            }

            /// The driver that carries it out; none for what any connection can be asked.
            pub const fn driver(self) -> Option<Driver> {
                match self {
                    $($(Self::$name)|* => owner!($owner),)*
                }
            }
        }
    };
}

/// A group's driver.
macro_rules! owner {
    (Any) => {
        None
    };
    ($driver:ident) => {
        Some(Driver::$driver)
    };
}

procedures! {
    Any {
        1 ConnectOpen "virConnectOpen" Always;
        2 ConnectClose "virConnectClose" Always;
        3 ConnectGetType "virConnectGetType" Read;
        4 ConnectGetVersion "virConnectGetVersion" Read;
        59 ConnectGetHostname "virConnectGetHostname" Read;
        60 ConnectSupportsFeature "virConnectSupportsFeature" Always;
        66 AuthList "virConnectAuthList" Anybody;
        70 AuthPolkit "virConnectAuthPolkit" Anybody;
        110 ConnectGetUri "virConnectGetURI" Read;
        149 ConnectIsSecure "virConnectIsSecure" Read;
        157 ConnectGetLibVersion "virConnectGetLibVersion" Read;
        360 ConnectRegisterCloseCallback "virConnectRegisterCloseCallback" Read;
        361 ConnectUnregisterCloseCallback "virConnectUnregisterCloseCallback" Read;
        419 ConnectSetIdentity "virConnectSetIdentity" Write;
    }

    Network {
        36 ConnectListDefinedNetworks "virConnectListDefinedNetworks" Read;
        38 ConnectListNetworks "virConnectListNetworks" Read;
        39 NetworkCreate "virNetworkCreate" Write;
        40 NetworkCreateXml "virNetworkCreateXML" Write;
        41 NetworkDefineXml "virNetworkDefineXML" Write;
        42 NetworkDestroy "virNetworkDestroy" Write;
        43 NetworkGetXmlDesc "virNetworkGetXMLDesc" Read;
        44 NetworkGetAutostart "virNetworkGetAutostart" Read;
        45 NetworkGetBridgeName "virNetworkGetBridgeName" Read;
        46 NetworkLookupByName "virNetworkLookupByName" Read;
        47 NetworkLookupByUuid "virNetworkLookupByUUID" Read;
        48 NetworkSetAutostart "virNetworkSetAutostart" Write;
        49 NetworkUndefine "virNetworkUndefine" Write;
        50 ConnectNumOfDefinedNetworks "virConnectNumOfDefinedNetworks" Read;
        52 ConnectNumOfNetworks "virConnectNumOfNetworks" Read;
        152 NetworkIsActive "virNetworkIsActive" Read;
        153 NetworkIsPersistent "virNetworkIsPersistent" Read;
        283 ConnectListAllNetworks "virConnectListAllNetworks" Read;
        291 NetworkUpdate "virNetworkUpdate" Write;
        313 ConnectNetworkEventRegisterAny "virConnectNetworkEventRegisterAny" Read;
        314 ConnectNetworkEventDeregisterAny "virConnectNetworkEventDeregisterAny" Read;
        341 NetworkGetDhcpLeases "virNetworkGetDHCPLeases" Read;
        432 NetworkDefineXmlFlags "virNetworkDefineXMLFlags" Write;
        437 NetworkCreateXmlFlags "virNetworkCreateXMLFlags" Write;
        444 NetworkSetMetadata "virNetworkSetMetadata" Write;
        445 NetworkGetMetadata "virNetworkGetMetadata" Read;

        404 NetworkListAllPorts "virNetworkListAllPorts" Read;
        405 NetworkPortLookupByUuid "virNetworkPortLookupByUUID" Read;
        406 NetworkPortCreateXml "virNetworkPortCreateXML" Write;
        407 NetworkPortGetParameters "virNetworkPortGetParameters" Read;
        408 NetworkPortSetParameters "virNetworkPortSetParameters" Write;
        409 NetworkPortGetXmlDesc "virNetworkPortGetXMLDesc" Read;
        410 NetworkPortDelete "virNetworkPortDelete" Write;
    }

    Interface {
        126 ConnectNumOfInterfaces "virConnectNumOfInterfaces" Read;
        127 ConnectListInterfaces "virConnectListInterfaces" Read;
        128 InterfaceLookupByName "virInterfaceLookupByName" Read;
        129 InterfaceLookupByMacString "virInterfaceLookupByMACString" Read;
        130 InterfaceGetXmlDesc "virInterfaceGetXMLDesc" Read;
        131 InterfaceDefineXml "virInterfaceDefineXML" Write;
        132 InterfaceUndefine "virInterfaceUndefine" Write;
        133 InterfaceCreate "virInterfaceCreate" Write;
        134 InterfaceDestroy "virInterfaceDestroy" Write;
        137 ConnectNumOfDefinedInterfaces "virConnectNumOfDefinedInterfaces" Read;
        138 ConnectListDefinedInterfaces "virConnectListDefinedInterfaces" Read;
        156 InterfaceIsActive "virInterfaceIsActive" Read;
        220 InterfaceChangeBegin "virInterfaceChangeBegin" Write;
        221 InterfaceChangeCommit "virInterfaceChangeCommit" Write;
        222 InterfaceChangeRollback "virInterfaceChangeRollback" Write;
        284 ConnectListAllInterfaces "virConnectListAllInterfaces" Read;
    }

    NodeDevice {
        111 NodeNumOfDevices "virNodeNumOfDevices" Read;
        112 NodeListDevices "virNodeListDevices" Read;
        113 NodeDeviceLookupByName "virNodeDeviceLookupByName" Read;
        114 NodeDeviceGetXmlDesc "virNodeDeviceGetXMLDesc" Read;
        115 NodeDeviceGetParent "virNodeDeviceGetParent" Read;
        116 NodeDeviceNumOfCaps "virNodeDeviceNumOfCaps" Read;
        117 NodeDeviceListCaps "virNodeDeviceListCaps" Read;
        118 NodeDeviceDettach "virNodeDeviceDettach" Write;
        119 NodeDeviceReAttach "virNodeDeviceReAttach" Write;
        120 NodeDeviceReset "virNodeDeviceReset" Write;
        123 NodeDeviceCreateXml "virNodeDeviceCreateXML" Write;
        124 NodeDeviceDestroy "virNodeDeviceDestroy" Write;
        285 ConnectListAllNodeDevices "virConnectListAllNodeDevices" Read;
        297 NodeDeviceLookupScsiHostByWwn "virNodeDeviceLookupSCSIHostByWWN" Read;
        301 NodeDeviceDetachFlags "virNodeDeviceDetachFlags" Write;
        374 ConnectNodeDeviceEventRegisterAny "virConnectNodeDeviceEventRegisterAny" Read;
        375 ConnectNodeDeviceEventDeregisterAny "virConnectNodeDeviceEventDeregisterAny" Read;
        428 NodeDeviceDefineXml "virNodeDeviceDefineXML" Write;
        429 NodeDeviceUndefine "virNodeDeviceUndefine" Write;
        430 NodeDeviceCreate "virNodeDeviceCreate" Write;
        433 NodeDeviceGetAutostart "virNodeDeviceGetAutostart" Read;
        434 NodeDeviceSetAutostart "virNodeDeviceSetAutostart" Write;
        435 NodeDeviceIsPersistent "virNodeDeviceIsPersistent" Read;
        436 NodeDeviceIsActive "virNodeDeviceIsActive" Read;
    }
}

/// The last procedure that the protocol has as of libvirt 11.3. What is up to here and not in [`Procedure`] belongs to
/// other drivers.
pub const LAST: i32 = 453;

/// The number of the message that tells of a network's life (`NETWORK_EVENT_LIFECYCLE`).
pub const NETWORK_EVENT_LIFECYCLE: i32 = 315;
/// That of the message that tells of a node device's life (`NODE_DEVICE_EVENT_LIFECYCLE`).
pub const NODE_DEVICE_EVENT_LIFECYCLE: i32 = 376;
/// That of the message that a node device is described otherwise now (`NODE_DEVICE_EVENT_UPDATE`).
pub const NODE_DEVICE_EVENT_UPDATE: i32 = 377;
/// That of the message that tells of a change of a network's metadata (`NETWORK_EVENT_CALLBACK_METADATA_CHANGE`).
pub const NETWORK_EVENT_METADATA_CHANGE: i32 = 446;
