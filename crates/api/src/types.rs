//! Networks, NICs and leases, as clients see them.

use serde::{Deserialize, Serialize};

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Whether it runs.
    pub active: bool,
    /// Whether it has a definition.
    pub persistent: bool,
    /// Whether it starts with the daemon.
    pub autostart: bool,
    /// Forward mode, libvirt's word; `isolated` without one.
    pub mode: String,
    /// Its bridge.
    pub bridge: Option<String>,
    /// The host's addresses on it, with prefix lengths.
    pub addresses: Vec<String>,
    /// Host links it forwards through.
    pub devices: Vec<String>,
    /// How many of its devices nobody holds; none for a network that gives NICs no devices.
    pub free_devices: Option<usize>,
    /// Names of its portgroups.
    pub portgroups: Vec<String>,
    /// Labels.
    pub tags: Vec<String>,
    /// How many NICs name it.
    pub nics: usize,
    /// Process id of its dnsmasq.
    pub dnsmasq: Option<u32>,
    /// MTU in bytes, where one is set.
    pub mtu: Option<u32>,
}

/// A NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Its id.
    pub id: String,
    /// The guest.
    pub guest: String,
    /// The guest's UUID.
    pub guest_uuid: Option<String>,
    /// Its MAC; none where only the guest knows.
    pub mac: Option<String>,
    /// `pending`, `plugged`, `unplugged`, `parked` or `waiting`.
    pub state: String,
    /// What the state does not say.
    pub cause: Option<String>,
    /// The network it names.
    pub network: Option<String>,
    /// The portgroup it got.
    pub portgroup: Option<String>,
    /// Its labels, its network's and its portgroup's.
    pub tags: Vec<String>,
    /// What it resolved to.
    pub actual: Actual,
    /// Queues of its tap.
    pub queues: u16,
    /// The process it ends with.
    pub owner: Option<Owner>,
    /// `descriptor`, `name`, or `port`: of libvirt's, whose tap others make.
    pub handover: String,
    /// Who attached it.
    pub uid: u32,
}

/// What a NIC resolved to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actual {
    /// `network`, `bridge`, `direct`, `hostdev` or `none`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The bridge it is in.
    pub bridge: Option<String>,
    /// The device it is on.
    pub dev: Option<String>,
    /// How it is on that device.
    pub mode: Option<String>,
    /// The address of the PCI device that its guest has.
    pub pci: Option<String>,
    /// `cord` or `macvtap`: how it is plugged into that device.
    pub plug: Option<String>,
    /// The device node of a macvtap that is opened by name.
    pub node: Option<String>,
    /// Its tap.
    pub tap: Option<String>,
    /// The tap's index.
    pub ifindex: Option<u32>,
    /// MTU of the tap in bytes.
    pub mtu: Option<u32>,
}

/// A device of the host's that networks list or NICs hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Whether it is there.
    pub present: bool,
    /// Its link's kind, empty for physical devices; `pci` for a virtual function by address.
    pub kind: Option<String>,
    /// Whether it has a carrier.
    pub carrier: bool,
    /// Its MTU in bytes.
    pub mtu: Option<u32>,
    /// Of a virtual function: the link of the device that it belongs to.
    pub pf: Option<String>,
    /// And its number there, from 0.
    pub function: Option<u32>,
    /// The active networks that list it.
    pub networks: Vec<DeviceNetwork>,
    /// Those who hold it.
    pub holders: Vec<DeviceHolder>,
    /// Whether it is held by one alone.
    pub exclusive: bool,
    /// `exclusive`: anybody may have it, alone if need be. `shared`: whoever shares it. `none`: nobody.
    pub free: String,
    /// Why nobody can have it, where that is not because of its holders.
    pub unusable: Option<String>,
}

/// A network that lists a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNetwork {
    /// Its name.
    pub network: String,
    /// Its forward mode.
    pub mode: String,
}

/// Who holds a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceHolder {
    /// The NIC's id, or a reservation's.
    pub id: String,
    /// The guest.
    pub guest: String,
    /// The network that the device was got through.
    pub network: Option<String>,
    /// Whether it is held for a NIC that is to come.
    pub reserved: bool,
}

/// The process that a NIC belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
}

/// What a NIC that is to come would get, held for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// Its id, which will be the NIC's.
    pub id: String,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The network's name.
    pub network: String,
    /// The guest's address.
    pub mac: Option<String>,
    /// The address leased.
    pub ip: String,
    /// Prefix length of the network it is from.
    pub prefix: u8,
    /// The guest's name.
    pub hostname: Option<String>,
    /// Client id or DUID.
    pub client_id: Option<String>,
    /// Identity association (RFC 8415), for IPv6.
    pub iaid: Option<u32>,
    /// When it ends, in seconds since 1970; none is never.
    pub expires: Option<u64>,
    /// The NIC it belongs to.
    pub nic: Option<String>,
}

/// What became of a network of libvirt's daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedNetwork {
    /// Its name.
    pub name: String,
    /// Its UUID, where that is known.
    pub uuid: Option<String>,
    /// Whether it was taken over or handed back, or would be.
    pub done: bool,
    /// Why not.
    pub cause: Option<String>,
    /// Whether it runs.
    pub active: bool,
    /// Whether it starts by itself.
    pub autostart: bool,
    /// Its bridge.
    pub bridge: Option<String>,
    /// How many ports went with it, or would.
    pub ports: usize,
    /// What the client should know besides.
    pub warnings: Vec<String>,
}
