//! Ports of Open vSwitch bridges, made and removed through its database: OVSDB (RFC 7047) on ovsdb-server's socket.
//!
//! ovsdb-server keeps what should be, and ovs-vswitchd makes it so. A change is one transaction, and is done when
//! ovs-vswitchd has taken it. Bridges are the host's: they get ports of ours and lose them, nothing else. Each call
//! has a connection of its own, so a restart of Open vSwitch in between goes unnoticed. What others do to our ports is
//! noticed by a [`Watcher`].
//!
//! The tap is of type system to Open vSwitch, as any link is that exists already; its own type `tap` would be one
//! that it makes itself.

mod bell;
mod change;
mod connection;
mod monitor;
mod rows;
mod settings;
mod value;
mod watch;
mod wire;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use patchcord_core::model::LinkName;
use patchcord_core::plan::ovs::Settings;
use patchcord_core::plan::{OvsPort, OvsState};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::cause::Cause;
use crate::{Error, Result};
use change::Change;
use connection::{Answer, Connection};
use rows::{Found, Reading};
pub use watch::{OvsReport, Watcher};

/// The database (its schema is in ovs-vswitchd.conf.db(5)).
const DATABASE: &str = "Open_vSwitch";

/// How often a change is tried, if others change the same rows meanwhile.
const TRIES: usize = 16;

/// Open vSwitch on this host.
#[derive(Clone, Debug)]
pub struct Ovs {
    socket: PathBuf,
    instance: Uuid,
    timeout: Duration,
}

impl Ovs {
    /// `socket` is ovsdb-server's; `instance` is this installation's id, which all that we make is
    /// marked with. `timeout` is for each call, and includes ovs-vswitchd's work; what takes a failed change back may
    /// take as much again.
    pub fn new(socket: impl Into<PathBuf>, instance: Uuid, timeout: Duration) -> Self {
        Self { socket: socket.into(), instance, timeout }
    }

    /// The names of all bridges. "Fake" bridges, which are VLANs of others, are not among them.
    ///
    /// # Errors
    /// [`Error::OvsSocket`] when ovsdb-server can't be reached, [`Error::OvsAnswer`] when it can't be understood.
    pub fn bridges(&self) -> Result<BTreeSet<String>> {
        rows::read_bridges(&mut self.connect()?)
    }

    /// Whether there is a bridge of that name.
    ///
    /// # Errors
    /// As [`Ovs::bridges`].
    pub fn has_bridge(&self, name: &LinkName) -> Result<bool> {
        Ok(self.bridges()?.contains(name.as_str()))
    }

    /// All ports that carry our mark, in the order of their names: for a daemon that starts.
    ///
    /// # Errors
    /// As [`Ovs::bridges`].
    pub fn ports(&self) -> Result<Vec<OvsState>> {
        rows::read_all(&mut self.connect()?, self.instance)
    }

    /// Makes the port on that bridge, or changes what differs; a port of ours that is on another bridge moves in one
    /// transaction, and one that was made for a link that is gone is made anew. When this returns, ovs-vswitchd has
    /// taken it. If it can't, what was there before is put back: a new port is removed again. (If the connection
    /// breaks, what was written stays, and calling again goes on from there.) Gives whether there was anything to do.
    ///
    /// The link is best brought up after this: ovs-vswitchd writes a link's flags as it last knew them, and can so
    /// bring down one that came up a moment ago.
    ///
    /// # Errors
    /// [`Error::OvsNoBridge`]; [`Error::OvsForeign`] when a port of that name is not ours; [`Error::OvsPort`] with
    /// the words of ovsdb-server or ovs-vswitchd; and as [`Ovs::bridges`].
    pub fn set_port(&self, bridge: &LinkName, port: &OvsPort) -> Result<bool> {
        let wanted = Settings::of(port, self.instance);
        let mut connection = self.connect()?;
        let mut written = self.put(&mut connection, bridge.as_str(), &port.name, &wanted)?;
        if written.removed {
            if !self.wait(&mut connection, written.cfg)? {
                return Err(self.port_error(&port.name, Some(bridge.as_str()), self.unheard()));
            }
            written = self.put(&mut connection, bridge.as_str(), &port.name, &wanted)?;
        }
        let mut problem = match self.wait(&mut connection, written.cfg)? {
            true => match rows::read(&mut connection, self.instance, &port.name)?.port.map(|found| found.problem()) {
                Some(None) => return Ok(written.changed),
                Some(Some(problem)) => problem,
                None => "others have removed it".to_owned(),
            },
            false => self.unheard(),
        };
        drop(connection);
        if let Err(error) = self.put_back(&port.name, written.before) {
            problem = format!("{problem}; and it can't be taken back: {}", Cause::from(error).text);
        }
        Err(self.port_error(&port.name, Some(bridge.as_str()), problem))
    }

    /// Removes the port of that name with all that was made for it. When this returns, ovs-vswitchd has let go of the
    /// tap. If there is no such port, that is all right.
    ///
    /// # Errors
    /// [`Error::OvsForeign`] when a port of that name is not ours; [`Error::OvsPort`] when the port is gone from the
    /// database and ovs-vswitchd takes no notice; and as [`Ovs::bridges`].
    pub fn remove_port(&self, name: &LinkName) -> Result<()> {
        let mut connection = self.connect()?;
        let written = self.take(&mut connection, name)?;
        if self.wait(&mut connection, written.cfg)? {
            return Ok(());
        }
        let bridge = written.before.and_then(|found| found.bridges.into_keys().next());
        Err(self.port_error(name, bridge.as_deref(), format!("its removal is written down, but {}", self.unheard())))
    }

    fn connect(&self) -> Result<Connection> {
        Connection::open(&self.socket, self.timeout)
    }

    /// Writes what [`Ovs::set_port`] is to write; of a port that is to be made anew, the removal.
    fn put(&self, connection: &mut Connection, bridge: &str, name: &LinkName, wanted: &Settings) -> Result<Written> {
        self.write(connection, name, |reading, change| {
            let Some(&to) = reading.bridges.get(bridge) else {
                let known = reading.bridges.keys().cloned().collect();
                return Err(Error::OvsNoBridge { socket: self.socket.clone(), bridge: bridge.to_owned(), known });
            };
            match &reading.port {
                None => change.make((bridge, to), wanted, reading.leftover),
                Some(found) if found.state.settings.link() != wanted.link() => change.remove(found),
                Some(found) => change.alter((bridge, to), wanted, found),
            }
            Ok(())
        })
    }

    /// Writes what [`Ovs::remove_port`] is to write.
    fn take(&self, connection: &mut Connection, name: &LinkName) -> Result<Written> {
        self.write(connection, name, |reading, change| {
            match &reading.port {
                Some(found) => change.remove(found),
                None if reading.leftover => change.delete_shaping(),
                None => {}
            }
            Ok(())
        })
    }

    /// Undoes a change.
    fn put_back(&self, name: &LinkName, before: Option<Found>) -> Result<()> {
        let mut connection = self.connect()?;
        match before.as_ref().and_then(|found| Some((found, found.bridges.keys().next()?))) {
            None => self.take(&mut connection, name)?,
            Some((found, bridge)) => self.put(&mut connection, bridge, name, &found.state.settings)?,
        };
        Ok(())
    }

    /// Reads, lets `decide` say what to do about it, and does that; once more, if others were quicker.
    fn write(
        &self,
        connection: &mut Connection,
        name: &LinkName,
        decide: impl Fn(&Reading, &mut Change<'_>) -> Result<()>,
    ) -> Result<Written> {
        let mut tries = 0;
        loop {
            tries += 1;
            let reading = rows::read(connection, self.instance, name)?;
            if let Some(whose) = reading.foreign {
                return Err(Error::OvsForeign { socket: self.socket.clone(), port: name.to_string(), whose });
            }
            let mut change = Change::new(name, self.instance);
            decide(&reading, &mut change)?;
            if change.is_empty() {
                return Ok(Written { before: reading.port, cfg: reading.next_cfg, changed: false, removed: false });
            }
            let removed = change.removes();
            match connection.transact(&change.finish())? {
                Answer::Done(results) => {
                    let cfg = rows::next_cfg(results.last().unwrap_or(&Value::Null));
                    let cfg = cfg.map_err(|problem| connection.odd(problem))?;
                    return Ok(Written { before: reading.port, cfg, changed: true, removed });
                }
                Answer::Refused(refusal) if refusal.is_conflict() && tries < TRIES => {}
                Answer::Refused(refusal) => return Err(self.port_error(name, None, refusal.to_string())),
            }
        }
    }

    /// Waits until ovs-vswitchd has taken all that was written up to `cfg`. False when it did not in time.
    fn wait(&self, connection: &mut Connection, cfg: i64) -> Result<bool> {
        let left = u64::try_from(connection.remaining().as_millis()).unwrap_or(u64::MAX);
        // Until no row is behind: others may write, and cur_cfg skip the very number.
        let wait = json!({
            "op": "wait", "timeout": left, "table": "Open_vSwitch", "where": [["cur_cfg", "<", cfg]],
            "columns": ["cur_cfg"], "until": "==", "rows": []
        });
        match connection.transact(&[wait])? {
            Answer::Done(_) => Ok(true),
            Answer::Refused(refusal) if refusal.is_timeout() => Ok(false),
            Answer::Refused(refusal) => Err(connection.odd(format!("it does not let us wait: {refusal}"))),
        }
    }

    fn unheard(&self) -> String {
        format!("ovs-vswitchd took no notice within {:?}: is it running?", self.timeout)
    }

    fn port_error(&self, port: &LinkName, bridge: Option<&str>, problem: String) -> Error {
        let bridge = bridge.map(str::to_owned);
        Error::OvsPort { socket: self.socket.clone(), port: port.to_string(), bridge, problem }
    }
}

/// What a change did.
struct Written {
    /// The port before it.
    before: Option<Found>,
    /// Once `Open_vSwitch.cur_cfg` is that, ovs-vswitchd has taken it.
    cfg: i64,
    /// Whether anything was written.
    changed: bool,
    /// Whether the port was removed.
    removed: bool,
}
