//! What a caller must be permitted for each procedure (libvirt's access control, the `@acl` of its protocol's definition),
//! by the procedure's number: for those that are served here and for those that will be.

/// What a permission is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    /// The connection: what is about no single object.
    Connect,
    /// A network.
    Network,
    /// A port of a network.
    NetworkPort,
    /// An interface of the host.
    Interface,
    /// A device of the host.
    NodeDevice,
}

impl Object {
    /// Its name in the names of polkit's actions.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Network => "network",
            Self::NetworkPort => "network-port",
            Self::Interface => "interface",
            Self::NodeDevice => "node-device",
        }
    }
}

/// When a permission is needed, by the call's flags for updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Whatever they are.
    Always,
    /// When the definition is to change.
    Config,
    /// When nothing is said of what is to change.
    Unsaid,
}

/// libvirt's flags that say what an update changes (`virNetworkUpdateFlags`).
const LIVE: u32 = 1;
const CONFIG: u32 = 2;

/// A permission that a procedure takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission {
    /// What it is about.
    pub object: Object,
    /// Its name in the names of polkit's actions.
    pub name: &'static str,
    /// When it is needed.
    pub when: When,
}

impl Permission {
    /// To see that an object is there, which lists and events take for each.
    pub const fn getattr(object: Object) -> Self {
        Self { object, name: "getattr", when: When::Always }
    }

    /// polkit's name for it.
    pub fn action(self) -> String {
        format!("org.libvirt.api.{}.{}", self.object.as_str(), self.name)
    }

    /// Whether a call with these flags takes it.
    pub const fn is_needed(self, flags: u32) -> bool {
        match self.when {
            When::Always => true,
            When::Config => flags & CONFIG != 0,
            When::Unsaid => flags & (LIVE | CONFIG) == 0,
        }
    }
}

macro_rules! permissions {
    ($($numbers:pat => $($object:ident $name:literal $($when:ident)?),*;)*) => {
        /// The permissions that the procedure of a number takes, all of them; nothing for one that is not known, which
        /// must not be carried out.
        pub const fn of(number: i32) -> Option<&'static [Permission]> {
            Some(match number {
                $($numbers => &[$(Permission { object: Object::$object, name: $name, when: when!($($when)?) }),*],)*
                _ => return None,
            })
        }
    };
}

macro_rules! when {
    () => {
        When::Always
    };
    ($when:ident) => {
        When::$when
    };
}

permissions! {
    // The connection.
    1 | 3 | 4 | 59 | 60 | 110 | 157 | 360 | 361 => Connect "getattr";
    2 | 66..=70 | 149 => ;
    419 => Connect "write";

    // Networks.
    36 | 38 | 50 | 52 | 283 | 313 => Connect "search-networks";
    314 => Connect "read";
    46 | 47 => Network "getattr";
    43 | 44 | 45 | 152 | 153 | 341 | 445 => Network "read";
    41 | 432 => Network "write", Network "save";
    40 | 437 => Network "write", Network "start";
    39 => Network "start";
    42 => Network "stop";
    49 => Network "delete";
    48 => Network "write";
    291 | 444 => Network "write", Network "save" Unsaid, Network "save" Config;

    // Their ports.
    404 => Network "search-ports";
    405 => NetworkPort "getattr";
    406 => NetworkPort "create";
    407 | 409 => NetworkPort "read";
    408 => NetworkPort "write";
    410 => NetworkPort "delete";

    // Interfaces.
    126 | 127 | 137 | 138 | 284 => Connect "search-interfaces";
    128 | 129 => Interface "getattr";
    130 | 156 => Interface "read";
    131 => Interface "write", Interface "save";
    132 => Interface "delete";
    133 => Interface "start";
    134 => Interface "stop";
    220..=222 => Connect "interface-transaction";

    // Node devices.
    111 | 112 | 285 | 374 => Connect "search-node-devices";
    375 => Connect "read";
    113 | 297 => NodeDevice "getattr";
    114..=117 | 433 | 435 | 436 => NodeDevice "read";
    118..=120 | 301 => NodeDevice "detach";
    123 => NodeDevice "write", NodeDevice "start";
    124 => NodeDevice "stop";
    428 | 434 => NodeDevice "write";
    429 => NodeDevice "delete";
    430 => NodeDevice "start";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Procedure;
    use crate::procedure::Access;

    #[test]
    fn every_procedure_has_permissions() {
        for procedure in Procedure::ALL {
            let permissions = of(procedure.number()).unwrap_or_else(|| panic!("{procedure:?} has none"));
            let free = matches!(
                procedure,
                Procedure::ConnectClose | Procedure::AuthList | Procedure::AuthPolkit | Procedure::ConnectIsSecure
            );
            assert_eq!(permissions.is_empty(), free, "{procedure:?}");
            // Who may only see and read can change nothing.
            let changes = |p: &Permission| !matches!(p.name, "getattr" | "read") && !p.name.starts_with("search-");
            if procedure.access() == Access::Write {
                assert!(permissions.iter().any(changes), "{procedure:?}");
            }
        }
        assert_eq!(of(5), None);
    }

    #[test]
    fn an_update_of_the_definition_saves() {
        let saves = |flags| of(291).unwrap().iter().any(|p| p.name == "save" && p.is_needed(flags));
        assert_eq!([0, LIVE, CONFIG, LIVE | CONFIG].map(saves), [true, false, true, true]);
        assert_eq!(of(406).unwrap()[0].action(), "org.libvirt.api.network-port.create");
    }
}
