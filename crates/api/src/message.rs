//! varlink's messages: a call, and a reply to it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Call {
    /// Interface and method.
    pub method: String,
    /// The method's parameters, an object.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub parameters: Value,
    /// The caller takes several replies.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// The caller takes no reply.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oneway: bool,
    /// The caller wants to speak something else afterwards; no method here does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub upgrade: bool,
}

/// A reply.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reply {
    /// What was asked for, or the error's parameters; an object.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub parameters: Value,
    /// The error's interface and name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// More replies follow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub continues: bool,
}

/// The interface that every varlink service has (varlink.org, "Service").
pub mod service {
    use serde::{Deserialize, Serialize};

    /// Its name.
    pub const INTERFACE: &str = "org.varlink.service";
    /// Its text.
    pub const DESCRIPTION: &str = include_str!("../org.varlink.service.varlink");

    /// Who serves.
    #[derive(Clone, Debug, Serialize, Deserialize)]
    pub struct Info {
        /// Who made it.
        pub vendor: String,
        /// What it is.
        pub product: String,
        /// Its version.
        pub version: String,
        /// Where it is described.
        pub url: String,
        /// What it serves.
        pub interfaces: Vec<String>,
    }

    /// Which interface is asked about.
    #[derive(Clone, Debug, Serialize, Deserialize)]
    pub struct GetInterfaceDescription {
        /// Its name.
        pub interface: String,
    }

    /// An interface's text.
    #[derive(Clone, Debug, Serialize, Deserialize)]
    pub struct InterfaceDescription {
        /// The text.
        pub description: String,
    }
}
