//! libvirt's remote protocol, as far as networks and node devices need it: bytes to values and back, without IO.
//!
//! | module | what |
//! |---|---|
//! | [`frame`] | packets: length, header, payload |
//! | [`xdr`] | the values in a payload (RFC 4506, with libvirt's limits) |
//! | [`driver`] | whose sockets there are |
//! | [`procedure`] | the numbers of procedures, what each is called, whose it is, and who may call it |
//! | [`call`] | what clients ask |
//! | [`reply`] | what they are answered and told |
//!
//! Numbers, fields and limits are those of libvirt's published protocol. Strings are UTF-8 here; others are refused.
#![forbid(unsafe_code)]

pub mod call;
pub mod driver;
pub mod frame;
pub mod permission;
pub mod procedure;
pub mod reply;
pub mod xdr;

pub use call::{Call, InterfaceCall, NodeDeviceCall};
pub use driver::Driver;
pub use frame::{Decoder, Frame, Header, Kind, Status};
pub use procedure::Procedure;
pub use reply::{RemoteError, Reply};
pub use xdr::Malformed;

/// A UUID, as it goes over the wire.
pub type RawUuid = [u8; 16];

/// A network as clients know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRef {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: RawUuid,
}

/// An interface of the host as clients know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceRef {
    /// Its name.
    pub name: String,
    /// Its address, empty where it has none.
    pub mac: String,
}

/// A network port as clients know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRef {
    /// The network that it is on.
    pub network: NetworkRef,
    /// Its UUID.
    pub uuid: RawUuid,
}
