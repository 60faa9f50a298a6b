//! What there is: rows of Open vSwitch's database, and the ports of ours among them.

use std::collections::{BTreeMap, BTreeSet};

use patchcord_core::model::LinkName;
use patchcord_core::plan::OvsState;
use patchcord_core::plan::ovs::{INSTANCE, PORT, Settings, Shaping};
use serde_json::{Value, json};
use uuid::Uuid;

use super::connection::{Answer, Connection, words};
use super::settings::{interface_ids, limit, policing, port_ids, vlan};
use super::value::{Problem, Row, row, rows};
use crate::Result;

/// The columns that are read of each table.
const SYSTEM: (&str, &[&str]) = ("Open_vSwitch", &["next_cfg"]);
const BRIDGES: (&str, &[&str]) = ("Bridge", &["_uuid", "name", "datapath_id"]);
const BRIDGES_AND_PORTS: (&str, &[&str]) = ("Bridge", &["_uuid", "name", "datapath_id", "ports"]);
const PORTS: (&str, &[&str]) =
    ("Port", &["_uuid", "name", "interfaces", "vlan_mode", "tag", "trunks", "qos", "external_ids"]);
const INTERFACES: (&str, &[&str]) = (
    "Interface",
    &["_uuid", "name", "ingress_policing_rate", "ingress_policing_burst", "external_ids", "ofport", "error"],
);
const QOS: (&str, &[&str]) = ("QoS", &["_uuid", "type", "queues", "other_config", "external_ids"]);
const QUEUES: (&str, &[&str]) = ("Queue", &["_uuid", "other_config", "external_ids"]);

/// What is said where ovs-vswitchd says nothing.
const NOT_ADDED: &str = "ovs-vswitchd has not added it; its log says why";

/// A port that carries our mark, with the ids of its rows.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) state: OvsState,
    /// Whether ovs-vswitchd has taken it, at least as it was before.
    added: bool,
    /// The bridge that it is on, if that does not work.
    broken: Option<String>,
    pub(super) port: Uuid,
    /// Its one interface, which has its name; none if others have given it another one or more.
    pub(super) interface: Option<Uuid>,
    /// The bridges that it is on.
    pub(super) bridges: BTreeMap<String, Bridge>,
}

/// A bridge.
#[derive(Clone, Copy)]
pub(super) struct Bridge {
    pub(super) id: Uuid,
    works: bool,
}

impl Found {
    /// Why it can't be used, once ovs-vswitchd has seen it. What ovs-vswitchd writes is gone for a moment when ovsdb-server
    /// is started anew, and so nothing follows from that alone.
    pub(super) fn problem(&self) -> Option<String> {
        // The interface's own columns are as old as its former bridge, then.
        let broken = self.broken.as_ref();
        let broken = broken.map(|name| format!("bridge {name} does not work; the log of ovs-vswitchd says why"));
        let not_added = || (!self.added).then(|| NOT_ADDED.to_owned());
        broken.or_else(|| self.state.error.clone()).or_else(not_added)
    }

    fn is_on(&mut self, (name, bridge): (String, Bridge)) {
        self.state.bridges.insert(name.clone());
        if !bridge.works {
            self.broken = Some(name.clone());
        }
        self.bridges.insert(name, bridge);
    }
}

/// What a change to the port of one name depends on.
pub(super) struct Reading {
    /// `Open_vSwitch.next_cfg`: what has been written for ovs-vswitchd to take.
    pub(super) next_cfg: i64,
    /// All bridges.
    pub(super) bridges: BTreeMap<String, Bridge>,
    /// The port, if it is ours.
    pub(super) port: Option<Found>,
    /// Whose a port or an interface of that name is, if it is not ours.
    pub(super) foreign: Option<&'static str>,
    /// Whether shaping is left of a port that others deleted.
    pub(super) leftover: bool,
}

/// Reads what concerns the port `name`.
pub(super) fn read(connection: &mut Connection, instance: Uuid, name: &LinkName) -> Result<Reading> {
    let named = || json!([["name", "==", name.as_str()]]);
    let shaping = || json!([["external_ids", "includes", shaping_mark(instance, name.as_str())]]);
    let tables = [
        (SYSTEM, json!([])),
        (BRIDGES, json!([])),
        (PORTS, named()),
        (INTERFACES, named()),
        (QOS, shaping()),
        (QUEUES, shaping()),
    ];
    let mut reading = query(connection, tables, |[system, bridges, ports, interfaces, qos, queues]| {
        let ours = OurRows::of(interfaces, qos, queues)?;
        let mut reading = Reading {
            next_cfg: next_cfg(system)?,
            bridges: rows(BRIDGES.0, bridges)?.iter().map(bridge).collect::<Result<_, _>>()?,
            port: None,
            foreign: None,
            leftover: ours.has_shaping(name.as_str()),
        };
        // No two have one name.
        let Some(port) = rows(PORTS.0, ports)?.pop() else {
            let interface = rows(INTERFACES.0, interfaces)?.pop();
            reading.foreign = interface.map(|_| "another port's interface");
            return Ok(reading);
        };
        match port.map("external_ids")?.get(INSTANCE) {
            Some(mark) if *mark == instance.to_string() => reading.port = Some(ours.found(&port)?),
            Some(_) => reading.foreign = Some("another installation's of Patchcord"),
            None => reading.foreign = Some("somebody else's"),
        }
        Ok(reading)
    })?;
    if let Some(found) = &mut reading.port {
        // In a request of its own, so that what is read does not grow with the ports of a bridge.
        let with_port = json!([["ports", "includes", row(found.port)]]);
        query(connection, [(BRIDGES, with_port)], |[bridges]| {
            for row in rows(BRIDGES.0, bridges)? {
                found.is_on(bridge(&row)?);
            }
            Ok(())
        })?;
    }
    Ok(reading)
}

/// Reads all ports that carry our mark, by their names.
pub(super) fn read_all(connection: &mut Connection, instance: Uuid) -> Result<Vec<OvsState>> {
    let marked = || json!([["external_ids", "includes", json!(["map", [[INSTANCE, instance.to_string()]]])]]);
    let tables = [
        (BRIDGES_AND_PORTS, json!([])),
        (PORTS, marked()),
        (INTERFACES, marked()),
        (QOS, marked()),
        (QUEUES, marked()),
    ];
    query(connection, tables, |[bridges, ports, interfaces, qos, queues]| {
        let ours = OurRows::of(interfaces, qos, queues)?;
        let mut all = BTreeMap::new();
        for port in rows(PORTS.0, ports)? {
            // One that no link could have the name of is none that we made.
            if LinkName::new(port.text("name")?).is_ok() {
                let found = ours.found(&port)?;
                all.insert(found.port, found);
            }
        }
        for row in rows(BRIDGES_AND_PORTS.0, bridges)? {
            for port in row.rows("ports")? {
                if let Some(found) = all.get_mut(&port) {
                    found.is_on(bridge(&row)?);
                }
            }
        }
        let mut states: Vec<OvsState> = all.into_values().map(|found| found.state).collect();
        states.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(states)
    })
}

/// The names of all bridges.
pub(super) fn read_bridges(connection: &mut Connection) -> Result<BTreeSet<String>> {
    query(connection, [(BRIDGES, json!([]))], |[bridges]| {
        rows(BRIDGES.0, bridges)?.iter().map(|row| Ok(bridge(row)?.0)).collect()
    })
}

/// What the external_ids of a port's QoS and Queue include.
pub(super) fn shaping_mark(instance: Uuid, port: &str) -> Value {
    json!(["map", [[INSTANCE, instance.to_string()], [PORT, port]]])
}

/// `Open_vSwitch.next_cfg`, as a reading operation gave it.
pub(super) fn next_cfg(result: &Value) -> Result<i64, Problem> {
    let system = rows(SYSTEM.0, result)?.pop();
    system.ok_or("the database is empty: ovs-vswitchd has never used it")?.number("next_cfg")
}

/// Reads columns of the rows that each condition selects.
fn query<T, const N: usize>(
    connection: &mut Connection,
    tables: [((&str, &[&str]), Value); N],
    read: impl FnOnce([&Value; N]) -> Result<T, Problem>,
) -> Result<T> {
    let operations = tables.map(
        |((table, columns), condition)| json!({"op": "select", "table": table, "where": condition, "columns": columns}),
    );
    match connection.transact(&operations)? {
        // There is one result for each.
        Answer::Done(results) => {
            read(std::array::from_fn(|at| &results[at])).map_err(|problem| connection.odd(problem))
        }
        Answer::Refused(refusal) => Err(connection.odd(format!("it refuses to be read: {refusal}"))),
    }
}

/// A bridge's name and what is known of it.
fn bridge(row: &Row<'_>) -> Result<(String, Bridge), Problem> {
    // Once a bridge works, ovs-vswitchd has given it a number.
    Ok((row.text("name")?.to_owned(), Bridge { id: row.id()?, works: row.optional_text("datapath_id")?.is_some() }))
}

/// Whether ovs-vswitchd has taken an interface, and why it can't use it, if it can't.
fn use_of(interface: &Row<'_>) -> Result<(bool, Option<String>), Problem> {
    let said = interface.optional_text("error")?.map(words);
    // ofport is OpenFlow's number of the port, -1 for one that failed, and none for one that is new.
    let ofport = interface.optional_number("ofport")?;
    let failed = ofport.filter(|number| *number < 1).map(|_| NOT_ADDED.to_owned());
    Ok((ofport.is_some(), said.or(failed)))
}

/// The rows that belong to ports of ours, by what ports refer to them by.
struct OurRows<'a> {
    interfaces: BTreeMap<Uuid, Row<'a>>,
    /// By the name of the port.
    qos: BTreeMap<String, Vec<Row<'a>>>,
    queues: BTreeMap<String, Vec<Row<'a>>>,
}

impl<'a> OurRows<'a> {
    fn of(interfaces: &'a Value, qos: &'a Value, queues: &'a Value) -> Result<Self, Problem> {
        let interfaces = rows(INTERFACES.0, interfaces)?.into_iter().map(|row| Ok((row.id()?, row)));
        Ok(Self {
            interfaces: interfaces.collect::<Result<_, Problem>>()?,
            qos: by_port(rows(QOS.0, qos)?)?,
            queues: by_port(rows(QUEUES.0, queues)?)?,
        })
    }

    fn has_shaping(&self, port: &str) -> bool {
        self.qos.contains_key(port) || self.queues.contains_key(port)
    }

    /// A port's state; its bridges are not known here.
    fn found(&self, port: &Row<'_>) -> Result<Found, Problem> {
        let name = LinkName::new(port.text("name")?).map_err(|error| error.to_string())?;
        let interface = match port.rows("interfaces")?.as_slice() {
            [one] => self.interfaces.get(one).copied(),
            _ => None,
        };
        let interface = match interface {
            Some(interface) if interface.text("name")? == name.as_str() => Some(interface),
            _ => None,
        };
        let settings = Settings {
            port_ids: port_ids(port)?,
            interface_ids: interface.as_ref().map(interface_ids).transpose()?.unwrap_or_default(),
            vlan: vlan(port)?,
            policing: interface.as_ref().map(policing).transpose()?.unwrap_or_default(),
            shaping: self.shaping(port)?,
        };
        let (added, error) = interface.as_ref().map(use_of).transpose()?.unwrap_or((true, None));
        let state = OvsState { name, bridges: BTreeSet::new(), settings, error };
        let interface = interface.as_ref().map(Row::id).transpose()?;
        Ok(Found { state, added, broken: None, port: port.id()?, interface, bridges: BTreeMap::new() })
    }

    fn shaping(&self, port: &Row<'_>) -> Result<Shaping, Problem> {
        let name = port.text("name")?;
        let of_port = |rows: &BTreeMap<String, Vec<Row<'a>>>| rows.get(name).cloned().unwrap_or_default();
        match (port.rows("qos")?.as_slice(), of_port(&self.qos).as_slice(), of_port(&self.queues).as_slice()) {
            ([], [], []) => Ok(Shaping::None),
            ([used], [qos], [queue]) if *used == qos.id()? => {
                let queues = qos.row_map("queues")?;
                let limit = if queues == BTreeMap::from([(0, queue.id()?)]) { limit(qos, queue)? } else { None };
                Ok(limit.map_or(Shaping::Other, Shaping::Limit))
            }
            _ => Ok(Shaping::Other),
        }
    }
}

fn by_port(rows: Vec<Row<'_>>) -> Result<BTreeMap<String, Vec<Row<'_>>>, Problem> {
    let mut ports: BTreeMap<String, Vec<Row<'_>>> = BTreeMap::new();
    for row in rows {
        if let Some(port) = row.map("external_ids")?.remove(PORT) {
            ports.entry(port).or_default().push(row);
        }
    }
    Ok(ports)
}
