//! The one error type that users see, and the table from its kinds to what each door reports.

use std::fmt;

/// What kind of refusal or failure this is. Every door maps it by [`ErrorKind::codes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No network of that name or UUID.
    NoNetwork,
    /// No port of that UUID on that network.
    NoPort,
    /// No NIC of that id.
    NoNic,
    /// No host link of that name.
    NoDevice,
    /// No interface of the host of that name or address.
    NoInterface,
    /// Several interfaces of the host have that address.
    SeveralInterfaces,
    /// The network has no portgroup of that name.
    NoPortgroup,
    /// Nothing of that kind is kept with the network.
    NoMetadata,
    /// The network is not active.
    NotActive,
    /// The operation does not fit the object's state: active already, in use, or the like.
    InvalidState,
    /// A network of that name or UUID is there already.
    NetworkExists,
    /// A port of that UUID is there already.
    PortExists,
    /// A bridge, MAC, address range or device that someone else holds.
    InUse,
    /// Something of a network that its NICs need.
    NeededByNics,
    /// The document is not well-formed XML, too large or too deep.
    BadXml,
    /// The document is well-formed, but an element, attribute or value in it is wrong.
    InvalidXml,
    /// An argument of the call is wrong.
    InvalidArgument,
    /// The caller may not do that.
    Denied,
    /// Understood, and not supported here.
    Unsupported,
    /// The kernel, a file or a helper program refused; nothing was changed.
    HostFailed,
    /// A hook of the administrator's refused, or failed; nothing was changed.
    HookFailed,
    /// Something failed and could not be put back entirely; the cause says what is left.
    PartlyRolledBack,
    /// Too much is waiting for this object or this client.
    Busy,
    /// A fault of ours.
    Internal,
}

/// What each door says for an [`ErrorKind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codes {
    /// libvirt's error code (`virErrorNumber` of libvirt's public header).
    pub libvirt_code: u32,
    /// libvirt's error domain (`virErrorDomain`).
    pub libvirt_domain: u32,
    /// The fixed text libvirt's clients match before the colon; empty where there is none.
    pub prefix: &'static str,
    /// The last part of the varlink error's name.
    pub varlink: &'static str,
    /// The command's exit status.
    pub exit: u8,
}

impl ErrorKind {
    /// The one table from kinds to codes.
    pub const fn codes(self) -> Codes {
        const NETWORK: u32 = 19;
        const INTERFACE: u32 = 26;
        const HOOK: u32 = 34;
        const fn row(
            libvirt_code: u32,
            libvirt_domain: u32,
            prefix: &'static str,
            varlink: &'static str,
            exit: u8,
        ) -> Codes {
            Codes { libvirt_code, libvirt_domain, prefix, varlink, exit }
        }
        match self {
            Self::NoNetwork => row(43, NETWORK, "Network not found", "NotFound", 3),
            Self::NoPort => row(107, NETWORK, "network port not found", "NotFound", 3),
            Self::NoNic => row(38, NETWORK, "", "NotFound", 3),
            Self::NoDevice => row(38, NETWORK, "", "NotFound", 3),
            Self::NoInterface => row(57, INTERFACE, "Interface not found", "NotFound", 3),
            Self::SeveralInterfaces => row(59, INTERFACE, "multiple matching interfaces found", "InvalidArgument", 2),
            Self::NoPortgroup => row(38, NETWORK, "", "NotFound", 3),
            Self::NoMetadata => row(111, NETWORK, "metadata not found", "NotFound", 3),
            Self::NotActive => row(55, NETWORK, "Requested operation is not valid", "InvalidState", 4),
            Self::InvalidState => row(55, NETWORK, "Requested operation is not valid", "InvalidState", 4),
            Self::NetworkExists => row(9, NETWORK, "operation failed", "Exists", 4),
            Self::PortExists => row(106, NETWORK, "network port already exists", "Exists", 4),
            Self::InUse => row(1, NETWORK, "internal error", "InUse", 4),
            Self::NeededByNics => row(55, NETWORK, "Requested operation is not valid", "InUse", 4),
            Self::BadXml => row(35, NETWORK, "", "InvalidXml", 1),
            Self::InvalidXml => row(27, NETWORK, "XML error", "InvalidXml", 1),
            Self::InvalidArgument => row(8, NETWORK, "invalid argument", "InvalidArgument", 2),
            Self::Denied => row(29, NETWORK, "operation forbidden", "Denied", 1),
            Self::Unsupported => row(84, NETWORK, "Operation not supported", "Unsupported", 1),
            Self::HostFailed => row(38, NETWORK, "", "HostFailed", 1),
            Self::HookFailed => row(70, HOOK, "Hook script execution failed", "HostFailed", 1),
            Self::PartlyRolledBack => row(9, NETWORK, "operation failed", "PartlyRolledBack", 5),
            Self::Busy => row(9, NETWORK, "operation failed", "Busy", 4),
            Self::Internal => row(1, NETWORK, "internal error", "Internal", 1),
        }
    }
}

/// A place in a document: byte range for drawing, line and column (from 1) for reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// First byte of the offending text.
    pub start: usize,
    /// One past its last byte.
    pub end: usize,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// A refusal or failure: which object, which field of it, why, and what would help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What kind it is.
    pub kind: ErrorKind,
    /// The object, as users know it: `network 'lab'`, `NIC 1f2e…`, `bridge virbr0`.
    pub object: String,
    /// The field or element of it, where one is at fault: `<bridge name>`, `dhcp range start`.
    pub field: Option<String>,
    /// Why.
    pub cause: String,
    /// What would help, where we know.
    pub hint: Option<String>,
    /// Where in the submitted document, where there is one.
    pub position: Option<Position>,
    /// What else is in the way, each with its field, cause and hint.
    pub also: Vec<String>,
}

/// The result of whatever a user can see fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error about `object`, because of `cause`.
    pub fn new(kind: ErrorKind, object: impl Into<String>, cause: impl Into<String>) -> Self {
        Self {
            kind,
            object: object.into(),
            field: None,
            cause: cause.into(),
            hint: None,
            position: None,
            also: Vec::new(),
        }
    }

    /// Names the field at fault.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Says what would help.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says where in the document.
    #[must_use]
    pub fn at(mut self, position: Position) -> Self {
        self.position = Some(position);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.object)?;
        if let Some(field) = &self.field {
            write!(f, ", {field}")?;
        }
        write!(f, ": {}", self.cause)?;
        if let Some(p) = &self.position {
            write!(f, " (line {}, column {})", p.line, p.column)?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        self.also.iter().try_for_each(|other| write!(f, "; and {other}"))
    }
}

impl std::error::Error for Error {}

/// Everything that is in the way of one wish, found by looking on after the first refusal.
#[derive(Clone, Debug, Default)]
pub struct Reasons(Vec<Error>);

impl Reasons {
    /// Takes note of a refusal; gives what there is otherwise.
    pub fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.0.push(error)).ok()
    }

    /// The value, if nothing was in the way.
    ///
    /// # Errors
    /// The first refusal, with the others behind it.
    pub fn or_value<T>(self, value: T) -> Result<T> {
        let mut all = self.0.into_iter();
        let Some(mut first) = all.next() else { return Ok(value) };
        let others = all.flat_map(|Error { field, cause, hint, also, .. }| {
            let field = field.map(|field| format!("{field}: ")).unwrap_or_default();
            let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            [format!("{field}{cause}{hint}")].into_iter().chain(also)
        });
        first.also.extend(others);
        Err(first)
    }
}
