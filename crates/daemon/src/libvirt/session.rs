//! What any connection can be asked: opening and closing it, what it is, what it can.

use super::devices::Devices;
use super::errors::{invalid, no_support, read_only};
use super::events::{DeviceCallbacks, NetworkCallbacks};
use super::guard::Guard;
use super::{connection, errors};
use crate::handle::Handle;
use patchcord_core::engine::{Answer, Command};
use patchcord_host::root::Root;
use patchcord_libvirt_wire::procedure::{Access, LAST};
use patchcord_libvirt_wire::reply::RemoteError;
use patchcord_libvirt_wire::{Call, Driver, Frame, NodeDeviceCall, Procedure, Reply};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use tokio::sync::{Notify, mpsc};

/// The version of libvirt whose protocol and documents this follows, as libvirt counts: 9.0.0.
const VERSION: u64 = 9_000_000;

/// Features that clients ask about (libvirt's `virDrvFeature`).
mod feature {
    pub(super) const FD_PASSING: i32 = 8;
    pub(super) const TYPED_PARAM_STRING: i32 = 9;
    pub(super) const PROGRAM_KEEPALIVE: i32 = 10;
    pub(super) const REMOTE_EVENT_CALLBACK: i32 = 14;
    pub(super) const REMOTE_CLOSE_CALLBACK: i32 = 15;
    pub(super) const NETWORK_UPDATE_HAS_CORRECT_ORDER: i32 = 16;
}

/// A client, and its way to the engine.
pub(super) struct Session {
    pub(super) handle: Handle,
    /// Where the host's files are.
    pub(super) root: Root,
    /// Whose socket it came by.
    driver: Driver,
    /// The host's devices, where that is the one for them.
    pub(super) devices: Option<Rc<Devices>>,
    /// Whether its socket is the one for reading.
    read_only: bool,
    /// Who it is, and what it may.
    pub(super) guard: Guard,
}

impl Session {
    /// A session of that client, on a socket of that driver's.
    pub(super) fn new(
        handle: Handle,
        root: Root,
        driver: Driver,
        devices: Option<Rc<Devices>>,
        read_only: bool,
        guard: Guard,
    ) -> Self {
        Self { handle, root, driver, devices, read_only, guard }
    }

    /// Whose socket it came by.
    pub(super) const fn driver(&self) -> Driver {
        self.driver
    }

    /// Whether its socket is the one for reading.
    pub(super) const fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whose it is.
    pub(super) const fn uid(&self) -> u32 {
        self.guard.uid()
    }

    /// Carries out a command.
    pub(super) async fn command(&self, command: Command) -> Result<Answer, RemoteError> {
        self.handle.call(command).await.map_err(|error| errors::remote(&error))
    }
}

/// A session and what its connection has come to.
pub(super) struct Open {
    pub(super) session: Session,
    /// What the client wants to be told.
    pub(super) callbacks: RefCell<NetworkCallbacks>,
    pub(super) device_callbacks: RefCell<DeviceCallbacks>,
    pub(super) outgoing: mpsc::Sender<Frame>,
    /// Woken when there is something to be told of, or nothing more.
    pub(super) awake: Notify,
    opened: Cell<bool>,
    /// Whether it was opened for reading only, on whichever socket.
    reads_only: Cell<bool>,
    closed: Cell<bool>,
}

impl Open {
    /// A connection on which nothing was asked yet.
    pub(super) fn new(session: Session, outgoing: mpsc::Sender<Frame>) -> Self {
        Self {
            reads_only: Cell::new(session.read_only),
            session,
            callbacks: RefCell::default(),
            device_callbacks: RefCell::default(),
            outgoing,
            awake: Notify::new(),
            opened: Cell::new(false),
            closed: Cell::new(false),
        }
    }

    /// Whether its client has closed it.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Nothing is told any more.
    pub(super) fn close(&self) {
        self.closed.set(true);
        self.awake.notify_one();
    }

    /// Answers a packet.
    pub(super) async fn answer(&self, Frame { header, payload }: Frame) -> Result<Reply, RemoteError> {
        connection::is_ours(header)?;
        let procedure = Procedure::of(header.procedure).ok_or_else(|| match header.procedure {
            // What others' drivers do: clients take that for an answer, and go on.
            number @ 1..=LAST => no_support(self.session.driver, &format!("procedure {number}")),
            number => RemoteError::rpc(format!("unknown procedure: {number}")),
        })?;
        match procedure.access() {
            Access::Anybody => {}
            _ if !self.session.guard.is_authenticated() => return Err(RemoteError::rpc("authentication required")),
            Access::Always => {}
            _ if !self.opened.get() => return Err(RemoteError::rpc("the connection is not open")),
            Access::Write if self.reads_only.get() => return Err(read_only(self.session.driver, procedure.api())),
            Access::Read | Access::Write => {}
        }
        if let Some(other) = procedure.driver().filter(|driver| *driver != self.session.driver) {
            return Err(no_support(other, procedure.api()));
        }
        let malformed = |error| RemoteError::rpc(format!("the arguments of {}: {error}", procedure.api()));
        let call = Call::decode(procedure, &payload).map_err(malformed)?;
        let done = async {
            self.session.permit(procedure, &call).await?;
            self.carry_out(procedure, call).await
        };
        done.await.map_err(|error| errors::of(self.session.driver, error))
    }

    async fn carry_out(&self, procedure: Procedure, call: Call) -> Result<Reply, RemoteError> {
        match call {
            Call::ConnectOpen { name, flags } => self.open(name.as_deref(), flags),
            Call::ConnectClose => {
                self.close();
                Ok(Reply::Nothing)
            }
            Call::ConnectGetType => Ok(Reply::Text(self.session.driver.kind().into())),
            Call::ConnectGetUri => Ok(Reply::Text(self.session.driver.uri().into())),
            Call::ConnectGetVersion | Call::ConnectGetLibVersion => Ok(Reply::Uhyper(VERSION)),
            Call::ConnectGetHostname => Ok(Reply::Text(hostname())),
            Call::ConnectIsSecure => Ok(Reply::Int(1)),
            Call::ConnectSupportsFeature { feature } => Ok(Reply::Int(i32::from(supports(feature)))),
            Call::AuthList => Ok(Reply::Ints(vec![self.session.guard.method()])),
            Call::AuthPolkit => self.session.guard.authenticate(self.session.read_only).await.map(|()| Reply::Int(1)),
            // Nothing closes a connection but what its client notices anyway.
            Call::ConnectRegisterCloseCallback | Call::ConnectUnregisterCloseCallback => Ok(Reply::Nothing),
            Call::ConnectSetIdentity { params, .. } => {
                self.session.guard.set_identity(&params).map(|()| Reply::Nothing)
            }
            Call::ConnectNetworkEventRegisterAny { event, net } => self.register(event, net),
            Call::ConnectNetworkEventDeregisterAny { callback } => self.deregister(callback),
            Call::Interface(call) => self.session.carry_out_interface(procedure, call).await,
            Call::NodeDevice(NodeDeviceCall::EventRegisterAny { event, device }) => {
                self.register_device(event, device).await
            }
            Call::NodeDevice(NodeDeviceCall::EventDeregisterAny { callback }) => self.deregister(callback),
            Call::NodeDevice(call) => self.session.node_device(procedure, call).await,
            other => self.session.carry_out(procedure, other).await,
        }
    }

    fn open(&self, name: Option<&str>, flags: u32) -> Result<Reply, RemoteError> {
        const READ_ONLY: u32 = 1;
        let uri = self.session.driver.uri();
        if let Some(name) = name.filter(|name| *name != uri && !name.is_empty()) {
            return Err(invalid("the connection's URI", format!("'{name}' is not {uri}, which is served here")));
        }
        if flags & READ_ONLY != 0 {
            self.reads_only.set(true);
        }
        self.opened.set(true);
        Ok(Reply::Nothing)
    }
}

const fn supports(asked: i32) -> bool {
    matches!(
        asked,
        feature::FD_PASSING
            | feature::TYPED_PARAM_STRING
            | feature::PROGRAM_KEEPALIVE
            | feature::REMOTE_EVENT_CALLBACK
            | feature::REMOTE_CLOSE_CALLBACK
            | feature::NETWORK_UPDATE_HAS_CORRECT_ORDER
    )
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
