//! The thread that listens to Open vSwitch's database: what others do to our ports is read and reported.
//!
//! An update says which port to read, no more. All ports are read when the database is there again, or has another
//! bridge. Our own changes are heard like any others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use patchcord_core::model::LinkName;
use patchcord_core::plan::OvsState;
use uuid::Uuid;

use super::bell::Bell;
use super::connection::Connection;
use super::monitor::{Hints, Rows, requests};
use super::{Ovs, rows};
use crate::{Error, Result};

/// How long to wait before connecting again at first; then twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What is told of our ports.
#[derive(Debug)]
pub enum OvsReport {
    /// All there are, by their NICs.
    All(BTreeMap<Uuid, OvsState>),
    /// One NIC's; none if it is gone.
    Port(Uuid, Option<Box<OvsState>>),
    /// The database can't be followed any more, until all are told again.
    Lost(Error),
}

type Sink = Box<dyn FnMut(OvsReport) + Send>;

/// Watches our ports, from when there may be some.
pub struct Watcher {
    ovs: Ovs,
    bell: Arc<Bell>,
    sink: Option<Sink>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").field("ovs", &self.ovs).field("thread", &self.thread).finish_non_exhaustive()
    }
}

impl Watcher {
    /// A watcher that does nothing yet. What it reports goes to `sink`.
    ///
    /// # Errors
    /// When the system has no descriptor for it.
    pub fn new(ovs: Ovs, sink: impl FnMut(OvsReport) + Send + 'static) -> Result<Self> {
        let bell = Bell::new().map_err(|source| Error::Listen { op: "make", source })?;
        Ok(Self { ovs, bell: Arc::new(bell), sink: Some(Box::new(sink)), thread: None })
    }

    /// Watches from now on: there are ports of ours, or will be. When the database is lost while there are none, nothing
    /// is done before this is called again.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn watch(&mut self) -> Result<()> {
        self.bell.ring();
        let Some(sink) = self.sink.take() else { return Ok(()) };
        let (ovs, bell, nics) = (self.ovs.clone(), Arc::clone(&self.bell), BTreeMap::new());
        let mut follower = Follower { ovs, bell, sink, nics, lost: false };
        let thread = std::thread::Builder::new().name("openvswitch".to_owned()).spawn(move || follower.run());
        self.thread = Some(thread.map_err(|source| Error::Thread { name: "openvswitch", source })?);
        Ok(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.bell.end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Follower {
    ovs: Ovs,
    bell: Arc<Bell>,
    sink: Sink,
    /// The NICs of the ports that were reported last.
    nics: BTreeMap<LinkName, Uuid>,
    /// Whether it was told that the database can't be followed.
    lost: bool,
}

impl Follower {
    fn run(&mut self) {
        let mut pause = Duration::ZERO;
        while !self.bell.has_ended() {
            let start = Instant::now();
            let lost = match self.connect() {
                Ok(mut connection) => self.follow(&mut connection),
                Err(error) => error,
            };
            if self.bell.has_ended() {
                return;
            }
            if !std::mem::replace(&mut self.lost, true) {
                (self.sink)(OvsReport::Lost(lost));
            }
            // One that ends whoever follows it soon is not asked all the time.
            let before = if start.elapsed() > LONGEST_PAUSE { Duration::ZERO } else { pause };
            pause = (before * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            // Without ports of ours there is nothing to come back for, save one that is being made just now.
            let rest = (!self.nics.is_empty() || pause < LONGEST_PAUSE).then_some(pause);
            match self.bell.wait(rest) {
                Ok(true) => pause = Duration::ZERO,
                Ok(false) => {}
                Err(_) => return,
            }
        }
    }

    fn connect(&self) -> Result<Connection> {
        Connection::open_for_updates(&self.ovs.socket, self.ovs.timeout, Arc::clone(&self.bell))
    }

    /// Reports all ports, and then those that change, until the connection ends; gives why it did.
    fn follow(&mut self, connection: &mut Connection) -> Error {
        let mut followed = || {
            let there = connection.monitor(requests(self.ovs.instance))?;
            let mut rows = Rows::default();
            let mut hints = Hints { all: true, names: BTreeSet::new() };
            rows.take(&there, &mut hints).map_err(|problem| connection.odd(problem))?;
            loop {
                self.report(connection, std::mem::take(&mut hints))?;
                loop {
                    let update = connection.update()?;
                    rows.take(&update, &mut hints).map_err(|problem| connection.odd(problem))?;
                    if !connection.has_updates() {
                        break;
                    }
                }
            }
        };
        let never: Result<std::convert::Infallible> = followed();
        match never {
            Err(error) => error,
        }
    }

    /// Reads what the hints are about, and reports it.
    fn report(&mut self, connection: &mut Connection, hints: Hints) -> Result<()> {
        connection.renew();
        if hints.all {
            let ports = rows::read_all(connection, self.ovs.instance)?;
            let nics = ports.into_iter().filter_map(|port| Some((port.settings.nic()?, port)));
            let ports: BTreeMap<Uuid, OvsState> = nics.collect();
            self.nics = ports.iter().map(|(nic, port)| (port.name.clone(), *nic)).collect();
            self.lost = false;
            (self.sink)(OvsReport::All(ports));
            return Ok(());
        }
        for name in hints.names {
            connection.renew();
            let port = rows::read(connection, self.ovs.instance, &name)?.port.map(|found| found.state);
            let before = self.nics.get(&name).copied();
            let now = port.as_ref().and_then(|port| port.settings.nic().or(before));
            // Another NIC's has its name now.
            if let Some(gone) = before.filter(|_| before != now) {
                self.nics.remove(&name);
                (self.sink)(OvsReport::Port(gone, None));
            }
            if let Some((nic, port)) = now.zip(port) {
                self.nics.insert(name, nic);
                (self.sink)(OvsReport::Port(nic, Some(Box::new(port))));
            }
        }
        Ok(())
    }
}
