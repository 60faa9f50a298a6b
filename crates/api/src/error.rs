//! Errors as they travel, and what can go wrong for a client.

use crate::frame::TooLong;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::path::PathBuf;

/// The parameters of every error of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The object, as users know it.
    pub object: String,
    /// The field of it that is at fault.
    pub field: Option<String>,
    /// Why.
    pub cause: String,
    /// What would help.
    pub hint: Option<String>,
    /// What else is in the way.
    #[serde(default)]
    pub also: Vec<String>,
    /// Line in the submitted document, from 1.
    pub line: Option<u32>,
    /// Column in characters, from 1.
    pub column: Option<u32>,
    /// First byte of the offending text.
    pub start: Option<usize>,
    /// One past its last byte.
    pub end: Option<usize>,
    /// The status a command should end with.
    pub exit: u8,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.object)?;
        if let Some(field) = &self.field {
            write!(f, ", {field}")?;
        }
        write!(f, ": {}", self.cause)?;
        self.also.iter().try_for_each(|other| write!(f, "; and {other}"))
    }
}

/// What can go wrong for a client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon can't be reached.
    #[error("can't connect to {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the daemon broke")]
    Io(#[from] io::Error),
    /// The daemon closed the connection.
    #[error("the daemon closed the connection: it was restarted, or has more clients than it takes")]
    Closed,
    /// A reply was longer than the client takes.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// A message could not be written or understood.
    #[error("a message of the daemon's can't be understood")]
    Json(#[from] serde_json::Error),
    /// The daemon refused, or failed. The name is the error's, without the interface.
    #[error("{refusal}")]
    Refused {
        /// The error's last name: `NotFound`, `Denied` and so on.
        name: String,
        /// What it says.
        refusal: Box<Refusal>,
    },
    /// The service does not know the method, or its parameters: another version, or another service.
    #[error("the service at the socket answered {0}")]
    Foreign(
        /// The error's full name and its parameters.
        String,
    ),
    /// A reply did not bring the descriptors it speaks of.
    #[error("the reply speaks of {wanted} descriptors and brought {got}")]
    Descriptors {
        /// How many it speaks of.
        wanted: usize,
        /// How many came.
        got: usize,
    },
}
