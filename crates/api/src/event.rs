//! What a monitoring client is told.

use crate::types::{Lease, Network, Nic};
use serde::{Deserialize, Serialize};

/// Something that happened. Which fields are there depends on the kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// `network`, `nic`, `lease`, `device` or `drift`.
    pub kind: String,
    /// What happened to it: `started`, `plugged`, `added`, `repaired` and so on.
    pub what: String,
    /// The network's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The network's UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    /// The NIC as it is now, or was last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nic: Option<Nic>,
    /// The lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// The device that came or went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The active networks that list the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<String>>,
    /// Drift: the object that was not as it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Drift: why it was changed, or what failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Drift: who did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub culprit: Option<String>,
}

/// One reply to `Monitor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Monitored {
    /// What there is.
    Snapshot {
        /// Networks.
        networks: Vec<Network>,
        /// NICs.
        nics: Vec<Nic>,
    },
    /// Something happened.
    Event {
        /// Rises with each event.
        sequence: u64,
        /// What.
        event: Box<Event>,
    },
    /// Events were missed; a snapshot follows.
    Overflow {
        /// How many.
        missed: u64,
    },
}
