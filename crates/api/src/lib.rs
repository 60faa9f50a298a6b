//! Patchcord's native interface: its varlink text, its types, the framing, and a blocking client.
//!
//! | file | what |
//! |---|---|
//! | `org.patchcord.Switch.varlink` | the interface as clients see it |
//! | `types`, `event` | objects and events |
//! | `methods` | calls, their parameters and replies |
//! | `error` | errors as they travel |
//! | `message`, `frame`, `socket` | varlink's messages, their framing, descriptors beside them |
//! | `client` | a client that blocks |
#![forbid(unsafe_code)]

pub mod client;
pub mod error;
pub mod event;
pub mod frame;
pub mod message;
pub mod methods;
pub mod socket;
pub mod types;

pub use client::Client;
pub use error::{ClientError, Refusal};
pub use event::{Event, Monitored};
pub use types::{
    Actual, Device, DeviceHolder, DeviceNetwork, ImportedNetwork, Lease, Network, Nic, Owner, Reservation,
};

/// The interface's name.
pub const INTERFACE: &str = "org.patchcord.Switch";
/// The interface's text.
pub const DESCRIPTION: &str = include_str!("../org.patchcord.Switch.varlink");
/// The socket's path below the root directory.
pub const SOCKET: &str = "run/patchcord/patchcord.sock";
/// Bytes of a document at most. Larger ones are best not sent at all.
pub const MAX_DOCUMENT: usize = 1 << 20;
/// Bytes of a client's message at most. A document of the largest size that is read fits, escaped.
pub const MAX_CALL: usize = 2 << 20;
/// Bytes of a reply that the client takes at most: a list of 10,000 NICs has some 6 MB.
pub const MAX_REPLY: usize = 64 << 20;
/// Descriptors that travel with one message at most (`SCM_MAX_FD` in the kernel's `include/net/scm.h`).
pub const MAX_FDS: usize = 253;
