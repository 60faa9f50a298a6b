//! XML in and out: libvirt's grammar, libvirt's layout, our elements beside them.
//!
//! For each element a function that reads and one that writes stand side by side. Reading gives model values, with
//! errors that say where; writing gives what libvirt 9.0 would print. What depends on several elements is checked by
//! [`Network::validate`](crate::model::Network::validate), which [`read_network`] calls.

mod annotation;
pub(crate) mod dns;
pub(crate) mod forward;
mod interface;
pub(crate) mod ip;
mod libvirt;
mod metadata;
pub(crate) mod network;
mod networkport;
mod nic;
mod nodedev;
pub(crate) mod parts;
pub(crate) mod reader;
mod runstate;
mod writer;

pub use annotation::{annotate, annotation};
pub use interface::write_interface;
pub use libvirt::{read_libvirt_state, write_libvirt_state};
pub use network::{Connections, TagForm, WriteOptions, read_network, write_network, write_network_with};
pub use networkport::{read_networkport, write_networkport};
pub use nic::{LiveSource, read_nic, write_nic, write_nic_live};
pub use nodedev::{read_node_device_type, write_node_device};
pub use reader::{MAX_BYTES, MAX_DEPTH, Mode, root_name};
pub use runstate::{
    NicClaim, Stamp, nic_claim, read_association, read_function, read_host_state, read_network_state, read_nic_state,
    write_association, write_function, write_host_state, write_network_state, write_nic_state,
};
pub use writer::{Tag, Writer};

/// The namespace of what is ours inside other people's documents.
pub const PATCHCORD_NAMESPACE: &str = "urn:patchcord:1";
/// The namespace of `<dnsmasq:options>`.
pub const DNSMASQ_NAMESPACE: &str = "http://libvirt.org/schemas/network/dnsmasq/1.0";
