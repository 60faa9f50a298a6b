//! Where a value comes from.

use crate::model::Name;
use std::fmt;

/// A place that says something about a NIC, in the words of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// Its own configuration.
    Nic,
    /// A portgroup, of a network.
    Portgroup(&'a Name, &'a Name),
    /// A network.
    Network(&'a Name),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nic => f.write_str("the NIC"),
            Self::Portgroup(portgroup, network) => write!(f, "portgroup '{portgroup}' of network '{network}'"),
            Self::Network(network) => write!(f, "network '{network}'"),
        }
    }
}
