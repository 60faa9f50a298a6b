//! What clients are answered and told.

use crate::frame::{Frame, Header, Kind, REMOTE, Status, VERSION};
use crate::procedure::{
    NETWORK_EVENT_LIFECYCLE, NETWORK_EVENT_METADATA_CHANGE, NODE_DEVICE_EVENT_LIFECYCLE, NODE_DEVICE_EVENT_UPDATE,
};
use crate::xdr::{Parameter, Writer};
use crate::{InterfaceRef, NetworkRef, PortRef};

/// Networks, ports, interfaces and names in one answer at most.
pub const MAX_LIST: usize = 16_384;
/// Leases in one answer at most.
pub const MAX_LEASES: usize = 65_536;
/// Node devices, and their names, in one answer at most.
pub const MAX_NODE_DEVICES: usize = 65_536;

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Done.
    Nothing,
    /// A number.
    Int(i32),
    /// Numbers.
    Ints(Vec<i32>),
    /// A large one.
    Uhyper(u64),
    /// A text.
    Text(String),
    /// A text, or none.
    OptionalText(Option<String>),
    /// Texts.
    Texts(Vec<String>),
    /// A network.
    Network(NetworkRef),
    /// Networks, and how many there are: those are left out where only their number was asked for.
    Networks(Vec<NetworkRef>, usize),
    /// A port.
    Port(PortRef),
    /// Ports, and how many there are.
    Ports(Vec<PortRef>, usize),
    /// An interface of the host.
    Interface(InterfaceRef),
    /// Interfaces, and how many there are.
    Interfaces(Vec<InterfaceRef>, usize),
    /// Leases, and how many there are.
    Leases(Vec<Lease>, usize),
    /// Parameters, and how many there are.
    Parameters(Vec<Parameter>, i32),
    /// A node device, which is its name.
    NodeDevice(String),
    /// Names of node devices, or of what one is capable of.
    NodeDeviceNames(Vec<String>),
    /// Node devices, and how many there are.
    NodeDevices(Vec<String>, usize),
}

/// A lease (libvirt's `virNetworkDHCPLease`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The network's bridge.
    pub bridge: String,
    /// When it ends, in seconds since 1970; 0 is never.
    pub expires: i64,
    /// Whether its address is IPv6.
    pub ipv6: bool,
    /// The guest's address.
    pub mac: Option<String>,
    /// Identity association, for IPv6.
    pub iaid: Option<String>,
    /// The address leased.
    pub ip: String,
    /// Prefix length of its network.
    pub prefix: u32,
    /// The guest's name.
    pub hostname: Option<String>,
    /// Client id or DUID.
    pub client_id: Option<String>,
}

impl Reply {
    /// The payload. Of a list that is longer than clients take, the beginning.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        match self {
            Self::Nothing => {}
            Self::Int(value) => {
                w.i32(*value);
            }
            Self::Ints(values) => list(&mut w, values, MAX_LIST, |w, value| {
                w.i32(*value);
            }),
            Self::Uhyper(value) => {
                w.u64(*value);
            }
            Self::Text(text) | Self::NodeDevice(text) => {
                w.string(text);
            }
            Self::OptionalText(text) => {
                w.text(text.as_deref());
            }
            Self::Texts(texts) => list(&mut w, texts, MAX_LIST, |w, text| {
                w.string(text);
            }),
            Self::Network(network) => put_network(&mut w, network),
            Self::Networks(networks, count) => {
                list(&mut w, networks, MAX_LIST, put_network);
                w.count(*count);
            }
            Self::Port(port) => put_port(&mut w, port),
            Self::Ports(ports, count) => {
                list(&mut w, ports, MAX_LIST, put_port);
                w.count(*count);
            }
            Self::Interface(interface) => put_interface(&mut w, interface),
            Self::Interfaces(interfaces, count) => {
                list(&mut w, interfaces, MAX_LIST, put_interface);
                w.count(*count);
            }
            Self::Leases(leases, count) => {
                list(&mut w, leases, MAX_LEASES, put_lease);
                w.count(*count);
            }
            Self::Parameters(parameters, count) => {
                w.parameters(parameters).i32(*count);
            }
            Self::NodeDeviceNames(names) => put_names(&mut w, names),
            Self::NodeDevices(names, count) => {
                put_names(&mut w, names);
                w.count(*count);
            }
        }
        w.into_bytes()
    }
}

fn list<T>(w: &mut Writer, items: &[T], limit: usize, put: impl Fn(&mut Writer, &T)) {
    let items = &items[..items.len().min(limit)];
    w.count(items.len());
    items.iter().for_each(|item| put(w, item));
}

fn put_names(w: &mut Writer, names: &[String]) {
    list(w, names, MAX_NODE_DEVICES, |w, name| {
        w.string(name);
    });
}

fn put_network(w: &mut Writer, network: &NetworkRef) {
    w.string(&network.name).uuid(network.uuid);
}

fn put_port(w: &mut Writer, port: &PortRef) {
    put_network(w, &port.network);
    w.uuid(port.uuid);
}

fn put_interface(w: &mut Writer, interface: &InterfaceRef) {
    w.string(&interface.name).string(&interface.mac);
}

fn put_lease(w: &mut Writer, lease: &Lease) {
    w.string(&lease.bridge).i64(lease.expires).i32(i32::from(lease.ipv6));
    w.text(lease.mac.as_deref()).text(lease.iaid.as_deref()).string(&lease.ip).u32(lease.prefix);
    w.text(lease.hostname.as_deref()).text(lease.client_id.as_deref());
}

/// A refusal (libvirt's `virError`). Clients print the message alone, and branch on the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteError {
    /// libvirt's number for what kind it is (`virErrorNumber`).
    pub code: i32,
    /// Which part of libvirt it would come from (`virErrorDomain`).
    pub domain: i32,
    /// All there is to say.
    pub message: String,
    /// What is fixed of the message: `Network not found: %s`. Empty where all of it is our own.
    pub format: String,
    /// What takes the place of `%s`.
    pub detail: String,
}

impl RemoteError {
    /// One that begins with a fixed text, which may be empty.
    pub fn new(code: i32, domain: i32, prefix: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let (message, format) = match prefix {
            "" => (detail.clone(), "%s".to_owned()),
            prefix => (format!("{prefix}: {detail}"), format!("{prefix}: %s")),
        };
        Self { code, domain, message, format, detail }
    }

    /// One of the protocol itself.
    pub fn rpc(message: impl Into<String>) -> Self {
        const RPC_CODE: i32 = 39;
        const RPC_DOMAIN: i32 = 7;
        Self::new(RPC_CODE, RPC_DOMAIN, "", message)
    }

    /// The payload.
    pub fn encode(&self) -> Vec<u8> {
        const ERROR: i32 = 2;
        let mut w = Writer::default();
        w.i32(self.code).i32(self.domain).text(Some(&self.message)).i32(ERROR);
        // No domain object; then three texts, two numbers, and no network object.
        w.u32(0).text(Some(&self.format)).text(Some(&self.detail)).text(None).i32(-1).i32(-1).u32(0);
        w.into_bytes()
    }
}

/// What happened to a network (libvirt's `virNetworkEventLifecycleType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the words say it
pub enum Lifecycle {
    Defined = 0,
    Undefined = 1,
    Started = 2,
    Stopped = 3,
}

/// The packet that tells a client of a network's life, by the number of its callback.
pub fn lifecycle(callback: i32, network: &NetworkRef, what: Lifecycle) -> Frame {
    let mut w = Writer::default();
    w.i32(callback);
    put_network(&mut w, network);
    w.i32(what as i32).i32(0);
    message(NETWORK_EVENT_LIFECYCLE, w)
}

/// What happened to a node device (libvirt's `virNodeDeviceEventLifecycleType`, as far as it happens here).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the words say it
pub enum DeviceLifecycle {
    Created = 0,
    Deleted = 1,
}

/// The packet that tells a client of a node device's life, by the number of its callback.
pub fn device_lifecycle(callback: i32, device: &str, what: DeviceLifecycle) -> Frame {
    let mut w = Writer::default();
    w.i32(callback).string(device).i32(what as i32).i32(0);
    message(NODE_DEVICE_EVENT_LIFECYCLE, w)
}

/// The packet that tells a client that a node device is described otherwise now, by the number of its callback.
pub fn device_update(callback: i32, device: &str) -> Frame {
    let mut w = Writer::default();
    w.i32(callback).string(device);
    message(NODE_DEVICE_EVENT_UPDATE, w)
}

/// The packet that tells a client that metadata of that kind changed; of an element, with its namespace.
pub fn metadata_change(callback: i32, network: &NetworkRef, kind: i32, uri: Option<&str>) -> Frame {
    let mut w = Writer::default();
    w.i32(callback);
    put_network(&mut w, network);
    w.i32(kind).text(uri);
    message(NETWORK_EVENT_METADATA_CHANGE, w)
}

fn message(procedure: i32, payload: Writer) -> Frame {
    // libvirt's daemon gives events the serial 1, and clients look at none.
    let header =
        Header { program: REMOTE, version: VERSION, procedure, kind: Kind::Message, serial: 1, status: Status::Ok };
    Frame { header, payload: payload.into_bytes() }
}
