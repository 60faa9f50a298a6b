//! The interface's methods: their parameters and replies.

use crate::types::{Device, ImportedNetwork, Lease, Network, Nic, Reservation};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A method's parameters, which know its name and its reply.
pub trait Method: Serialize + DeserializeOwned {
    /// The method's name, without the interface.
    const NAME: &'static str;
    /// What it answers.
    type Reply: Serialize + DeserializeOwned;
}

/// Defines each method's parameters, and [`Request`] as one of them all.
macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* } -> $reply:ty;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
            #[serde(deny_unknown_fields)]
            pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

            impl Method for $name {
                const NAME: &'static str = stringify!($name);
                type Reply = $reply;
            }
        )*

        /// A call with its parameters.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Request { $($(#[$doc])* $name($name),)* }

        impl Request {
            /// Names of all methods, without the interface.
            pub const NAMES: &[&str] = &[$(stringify!($name),)*];

            /// The call of that name (without the interface), or `None` when there is no such method.
            /// Absent parameters count as empty ones.
            pub fn read(method: &str, parameters: Value) -> Option<Result<Self, serde_json::Error>> {
                let parameters = if parameters.is_null() { Value::Object(Default::default()) } else { parameters };
                match method {
                    $(stringify!($name) => Some(serde_json::from_value(parameters).map(Self::$name)),)*
                    _ => None,
                }
            }
        }
    };
}

methods! {
    /// Networks; all that fit what is given.
    ListNetworks {
        /// Those of this forward mode.
        mode: Option<String>,
        /// Those with all these labels.
        tags: Option<Vec<String>>,
        /// Those with a portgroup of this name.
        portgroup: Option<String>,
        /// Those with at least so many devices that nobody holds.
        free_devices: Option<usize>,
        /// Those that run, or that don't.
        active: Option<bool>,
    } -> Networks;
    /// One network.
    ShowNetwork {
        /// Its name or UUID.
        name: String,
    } -> OneNetwork;
    /// A network's document.
    GetNetworkXML {
        /// Its name or UUID.
        name: String,
        /// The definition instead of what runs.
        inactive: Option<bool>,
    } -> Document;
    /// Stores a definition.
    DefineNetwork {
        /// The document.
        xml: String,
    } -> ChangedNetwork;
    /// Starts a network that is not stored.
    CreateNetwork {
        /// The document.
        xml: String,
    } -> ChangedNetwork;
    /// Starts a stored network.
    StartNetwork {
        /// Its name or UUID.
        name: String,
    } -> ChangedNetwork;
    /// Stops a network.
    StopNetwork {
        /// Its name or UUID.
        name: String,
    } -> Done;
    /// Forgets a definition.
    UndefineNetwork {
        /// Its name or UUID.
        name: String,
    } -> Done;
    /// Whether a network starts with the daemon.
    SetAutostart {
        /// Its name or UUID.
        name: String,
        /// Whether it does.
        autostart: bool,
    } -> Done;
    /// Changes one part of a network.
    UpdateNetwork {
        /// Its name or UUID.
        name: String,
        /// `add`, `add_first`, `modify` or `delete`.
        command: String,
        /// Which part, by libvirt's word.
        section: String,
        /// Which of the `<ip>` elements, from 0.
        parent: Option<u32>,
        /// The part.
        xml: String,
        /// Change what runs.
        live: Option<bool>,
        /// Change the definition.
        config: Option<bool>,
    } -> Done;
    /// A network's leases.
    ListLeases {
        /// Its name or UUID.
        network: String,
    } -> Leases;
    /// Attaches a NIC.
    AttachNIC {
        /// The guest.
        guest: String,
        /// The guest's UUID.
        guest_uuid: Option<String>,
        /// The guest's `<interface>`.
        xml: String,
        /// The process it ends with.
        owner_pid: Option<u32>,
        /// Make a tap that persists and is opened by its name.
        by_name: Option<bool>,
        /// Who may open it.
        uid: Option<u32>,
        /// Send the descriptors with the reply.
        fetch: Option<bool>,
        /// The guest chooses the MAC, and nobody else knows it.
        mac_unknown: Option<bool>,
        /// The reservation that it claims.
        reservation: Option<String>,
    } -> Attached;
    /// Detaches a NIC.
    DetachNIC {
        /// Its id.
        id: String,
    } -> Done;
    /// Configures a NIC anew.
    ModifyNIC {
        /// Its id.
        id: String,
        /// The guest's `<interface>`.
        xml: String,
    } -> ChangedNic;
    /// Pulls or plugs a NIC's cable.
    SetNICLink {
        /// Its id.
        id: String,
        /// Whether it is plugged.
        up: bool,
    } -> ChangedNic;
    /// Gives a NIC another owner, or none.
    OwnNIC {
        /// Its id.
        id: String,
        /// The owner.
        pid: Option<u32>,
    } -> ChangedNic;
    /// NICs.
    ListNICs {
        /// Those of this network only.
        network: Option<String>,
    } -> Nics;
    /// One NIC.
    ShowNIC {
        /// Its id.
        id: String,
    } -> OneNic;
    /// A NIC's document.
    GetNICXML {
        /// Its id.
        id: String,
        /// As given.
        inactive: Option<bool>,
    } -> Document;
    /// The descriptors of a NIC's tap.
    FetchNIC {
        /// Its id.
        id: String,
    } -> Fetched;
    /// Would this NIC attach, and what would it get?
    CheckNIC {
        /// The network that is asked about: the one that its source names, or where it has none, as if it named this one.
        network: Option<String>,
        /// The guest.
        guest: String,
        /// The guest's UUID, by which a reservation is claimed, with the MAC.
        guest_uuid: Option<String>,
        /// The guest's `<interface>`.
        xml: String,
        /// Hold what it would get for so many seconds.
        reserve: Option<u32>,
    } -> CheckedNic;
    /// Devices that networks list or NICs hold.
    ListDevices {} -> Devices;
    /// Takes networks over from libvirt's daemon, or hands them back.
    ImportLibvirt {
        /// Find out what would become of each, without effect.
        dry_run: Option<bool>,
        /// Hand all networks back.
        undo: Option<bool>,
    } -> Imported;
    /// What there is, and what happens.
    Monitor {} -> crate::event::Monitored;
}

/// Defines replies.
macro_rules! replies {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
            pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
        )*
    };
}

replies! {
    /// Done.
    Done {
        /// What the client should know besides.
        warnings: Vec<String>,
    }
    /// Networks.
    Networks {
        /// They.
        networks: Vec<Network>,
    }
    /// A network.
    OneNetwork {
        /// It.
        network: Network,
    }
    /// A network that was changed.
    ChangedNetwork {
        /// As it is now.
        network: Network,
        /// What the client should know besides.
        warnings: Vec<String>,
    }
    /// A document.
    Document {
        /// It.
        xml: String,
    }
    /// Networks that were taken over, or handed back, or would be.
    Imported {
        /// They, and those of which nothing came.
        networks: Vec<ImportedNetwork>,
        /// What the client should know besides.
        warnings: Vec<String>,
    }
    /// Leases.
    Leases {
        /// They.
        leases: Vec<Lease>,
    }
    /// Devices.
    Devices {
        /// They.
        devices: Vec<Device>,
    }
    /// NICs.
    Nics {
        /// They.
        nics: Vec<Nic>,
    }
    /// A NIC.
    OneNic {
        /// It.
        nic: Nic,
    }
    /// A NIC that was changed.
    ChangedNic {
        /// As it is now.
        nic: Nic,
        /// What the client should know besides.
        warnings: Vec<String>,
    }
    /// A NIC that would attach.
    CheckedNic {
        /// As it would be. Its id means something only where it is reserved.
        nic: Nic,
        /// What the client should know besides.
        warnings: Vec<String>,
        /// What holds it, if that was asked for.
        reservation: Option<Reservation>,
    }
    /// A NIC that was attached.
    Attached {
        /// As it is now.
        nic: Nic,
        /// What the client should know besides.
        warnings: Vec<String>,
        /// Places of the descriptors among those beside the reply, when they were asked for.
        fds: Option<Vec<usize>>,
    }
    /// A NIC's descriptors.
    Fetched {
        /// The NIC.
        nic: Nic,
        /// Their places among those beside the reply, one for each queue.
        fds: Vec<usize>,
    }
}
