//! libvirt's drivers that have a daemon and sockets of their own, as far as they are served here.

/// A driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Driver {
    /// Networks and their ports.
    Network,
    /// Interfaces of the host.
    Interface,
    /// Devices of the host.
    NodeDevice,
}

impl Driver {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Network, Self::Interface, Self::NodeDevice];

    /// What a connection to it says that it is (`virConnectGetType`).
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Interface => "interface",
            Self::NodeDevice => "nodedev",
        }
    }

    /// The URI that clients open.
    pub const fn uri(self) -> &'static str {
        match self {
            Self::Network => "network:///system",
            Self::Interface => "interface:///system",
            Self::NodeDevice => "nodedev:///system",
        }
    }

    /// libvirt's name for its daemon, with which the names of its sockets begin.
    pub const fn daemon(self) -> &'static str {
        match self {
            Self::Network => "virtnetworkd",
            Self::Interface => "virtinterfaced",
            Self::NodeDevice => "virtnodedevd",
        }
    }

    /// Where its errors come from (libvirt's `virErrorDomain`).
    pub const fn domain(self) -> i32 {
        match self {
            Self::Network => 19,
            Self::Interface => 26,
            Self::NodeDevice => 22,
        }
    }
}
