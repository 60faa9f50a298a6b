//! Who a client is: what its socket says, what polkit makes of that, and for whom it asks.

use super::errors::invalid;
use crate::config::{Libvirt, Policy};
use crate::polkit::{Polkit, PolkitError, Question, Subject, Verdict};
use patchcord_host::process::{Process, ProcessId};
use patchcord_host::root::Root;
use patchcord_libvirt_wire::reply::RemoteError;
use patchcord_libvirt_wire::xdr::{Parameter, Value};
use std::cell::Cell;
use std::io::Read;
use std::path::PathBuf;
use std::rc::Rc;
use tokio::net::unix::UCred;

/// What AUTH_LIST says (libvirt's `remote_auth_type`).
const AUTH_NONE: i32 = 0;
const AUTH_POLKIT: i32 = 2;
/// What polkit is asked about a connection.
const MANAGE: &str = "org.libvirt.unix.manage";
const MONITOR: &str = "org.libvirt.unix.monitor";
/// Bytes of a system's token that are read: libvirt's has 64.
const MAX_TOKEN: u64 = 1024;

/// How all clients are looked at.
#[derive(Debug)]
pub(super) struct Gate {
    polkit: Polkit,
    authenticates: bool,
    checks: bool,
    /// Where libvirt's daemons keep what they know each other by.
    token: PathBuf,
}

impl Gate {
    /// As the configuration says.
    pub(super) fn new(root: &Root, libvirt: Libvirt) -> Self {
        Self {
            polkit: Polkit::new(root.system_bus()),
            authenticates: libvirt.authentication == Policy::Polkit,
            checks: libvirt.access_check == Policy::Polkit,
            token: root.libvirt_token(),
        }
    }

    /// Whether everybody may come to the sockets for writing, and has to prove there who that is.
    pub(super) fn is_open(&self) -> bool {
        self.authenticates
    }
}

/// About whom a question is.
#[derive(Clone, Copy, Debug)]
enum Identity {
    /// Who may do everything: root, and libvirt's daemons for themselves.
    System,
    /// A user's process.
    User(Subject),
    /// A user's process that has ended, or is in a place from which it has no number here.
    Unknown,
}

/// One client.
#[derive(Debug)]
pub(super) struct Guard {
    gate: Rc<Gate>,
    uid: u32,
    /// Who came.
    peer: Identity,
    /// And for whom it asks.
    identity: Cell<Identity>,
    authenticated: Cell<bool>,
    /// Whether polkit is being asked about the connection.
    asking: Cell<bool>,
}

impl Guard {
    /// Of the client that the kernel says these are of.
    pub(super) fn new(gate: Rc<Gate>, credentials: UCred) -> Self {
        let uid = credentials.uid();
        let asks_polkit = gate.authenticates || gate.checks;
        let peer = match uid {
            0 => Identity::System,
            // It is read as early as can be, so that it is the one who came and not who has its number later.
            uid if asks_polkit => {
                process(credentials.pid()).map_or(Identity::Unknown, |process| Identity::User(Subject { process, uid }))
            }
            _ => Identity::Unknown,
        };
        let authenticated = Cell::new(!gate.authenticates || uid == 0);
        Self { gate, uid, peer, identity: Cell::new(peer), authenticated, asking: Cell::new(false) }
    }

    /// The user who came.
    pub(super) const fn uid(&self) -> u32 {
        self.uid
    }

    /// Whether it is proved that the client may come at all.
    pub(super) fn is_authenticated(&self) -> bool {
        self.authenticated.get()
    }

    /// How it is to prove that.
    pub(super) fn method(&self) -> i32 {
        if self.is_authenticated() { AUTH_NONE } else { AUTH_POLKIT }
    }

    /// Asks polkit whether the client may come at all.
    ///
    /// # Errors
    /// libvirt's for authentications that fail: when it may not, and when nobody knows.
    pub(super) async fn authenticate(&self, read_only: bool) -> Result<(), RemoteError> {
        let action = if read_only { MONITOR } else { MANAGE };
        if self.is_authenticated() {
            return Err(refused(format!("nobody is asked for '{action}' here")));
        }
        let Identity::User(subject) = self.peer else {
            return Err(refused(format!("polkit can't be asked about '{action}': the client's process is unknown")));
        };
        if self.asking.replace(true) {
            return Err(refused(format!("polkit is being asked for '{action}' already")));
        }
        let verdict = self.gate.polkit.ask_people(subject, action).await;
        self.asking.set(false);
        let polkit_error = |code, prefix, detail: String| RemoteError::new(code, POLKIT, prefix, detail);
        match verdict {
            Ok(Verdict::Yes) => {
                self.authenticated.set(true);
                Ok(())
            }
            Ok(Verdict::No) => Err(refused(format!("polkit does not grant '{action}' to user {}", self.uid))),
            Ok(Verdict::Dismissed) => Err(polkit_error(
                AUTH_CANCELLED,
                "authentication cancelled",
                format!("nobody wanted to give the password for '{action}'"),
            )),
            Ok(Verdict::NobodyToAsk) => Err(polkit_error(
                AUTH_UNAVAILABLE,
                "authentication unavailable",
                format!("no polkit agent is there to ask for the password for '{action}' (pkttyagent is one)"),
            )),
            Err(error) => Err(refused(format!("polkit can't be asked about '{action}': {error}"))),
        }
    }

    /// Somebody asks for others from now on. Only root may.
    ///
    /// # Errors
    /// When it may not, or does not say for whom.
    pub(super) fn set_identity(&self, params: &[Parameter]) -> Result<(), RemoteError> {
        if self.uid != 0 {
            return Err(invalid("the identity", format!("user {} may not ask for others", self.uid)));
        }
        if !self.gate.checks {
            return Ok(());
        }
        let number = |name: &str| {
            let param = params.iter().find(|param| param.field == name)?;
            match param.value {
                Value::Int(value) => u64::try_from(value).ok(),
                Value::Uint(value) => Some(value.into()),
                Value::Llong(value) => u64::try_from(value).ok(),
                Value::Ullong(value) => Some(value),
                _ => None,
            }
        };
        let missing = |name: &str| invalid("the identity", format!("it has no {name} that can be one"));
        let small = |name: &str| number(name).and_then(|value| u32::try_from(value).ok()).ok_or_else(|| missing(name));
        let identity = if self.is_of_the_system(params) || small("unix-user-id")? == 0 {
            Identity::System
        } else {
            let start_time = number("process-time").ok_or_else(|| missing("process-time"))?;
            let process = ProcessId { pid: small("process-id")?, start_time };
            Identity::User(Subject { process, uid: small("unix-user-id")? })
        };
        self.identity.set(identity);
        Ok(())
    }

    /// Whether a daemon of libvirt's asks for itself: it knows what only root can read.
    fn is_of_the_system(&self, params: &[Parameter]) -> bool {
        let given = params.iter().find(|param| param.field == "system.token").map(|param| &param.value);
        let Some(Value::String(given)) = given else { return false };
        let mut token = String::new();
        let read =
            std::fs::File::open(&self.gate.token).and_then(|file| file.take(MAX_TOKEN).read_to_string(&mut token));
        let token = token.trim_end();
        read.is_ok() && !token.is_empty() && token == given
    }

    /// Whether what is asked for has to be permitted: not where nobody checks, and not to who may do everything.
    pub(super) fn is_checked(&self) -> bool {
        self.gate.checks && !matches!(self.identity.get(), Identity::System)
    }

    /// Which of some things the client may do.
    ///
    /// # Errors
    /// That access is denied, when nobody knows.
    pub(super) async fn ask(&self, questions: &[Question]) -> Result<Vec<bool>, RemoteError> {
        let unknown = |cause: &str| denied(format!("polkit can't be asked: {cause}"));
        let subject = match self.identity.get() {
            Identity::User(subject) => subject,
            Identity::System => return Ok(vec![true; questions.len()]),
            Identity::Unknown => return Err(unknown("the client's process is unknown")),
        };
        let asked: Result<_, PolkitError> = self.gate.polkit.ask_rules(subject, questions).await;
        asked.map_err(|error| unknown(&error.to_string()))
    }
}

/// The process of that number, which may have ended by now.
fn process(pid: Option<i32>) -> Option<ProcessId> {
    let pid = u32::try_from(pid?).ok()?;
    Process::open(pid).ok().flatten().map(|process| process.id())
}

/// libvirt's domain of errors of polkit's, and of access control.
const POLKIT: i32 = 60;
const ACCESS: i32 = 55;
/// libvirt's codes.
const AUTH_FAILED: i32 = 45;
const AUTH_CANCELLED: i32 = 79;
const ACCESS_DENIED: i32 = 88;
const AUTH_UNAVAILABLE: i32 = 94;

fn refused(detail: String) -> RemoteError {
    RemoteError::new(AUTH_FAILED, POLKIT, "authentication failed", detail)
}

/// That something is not permitted.
pub(super) fn denied(detail: String) -> RemoteError {
    RemoteError::new(ACCESS_DENIED, ACCESS, "access denied", detail)
}
