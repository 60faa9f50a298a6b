//! What the database is asked to tell of, and which ports what it tells is about.
//!
//! An update is a hint only: the port is read again. So of rows no more is known here than which port they are part of.
//! Columns that ovs-vswitchd writes all the time, such as counters, are left out; of what it writes only errors count.

use std::collections::{BTreeSet, HashMap};

use patchcord_core::model::LinkName;
use patchcord_core::plan::ovs::{INSTANCE, PORT};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::value::{Problem, as_row, elements};

/// Most rows of ours that are followed: four for each of some 16,000 ports.
const ROWS_LIMIT: usize = 1 << 16;

/// The request of `monitor_cond`: rows that carry our mark, and which ports bridges have.
pub(super) fn requests(instance: Uuid) -> Value {
    let ours = json!([["external_ids", "includes", ["map", [[INSTANCE, instance.to_string()]]]]]);
    let rows = |columns: &[&str]| json!([{"columns": columns, "where": ours}]);
    json!({
        "Bridge": [{"columns": ["ports"]}],
        "Port": rows(&["name", "interfaces", "vlan_mode", "tag", "trunks", "qos", "external_ids"]),
        "Interface": rows(&["name", "ingress_policing_rate", "ingress_policing_burst", "external_ids", "error"]),
        "QoS": rows(&["type", "queues", "other_config", "external_ids"]),
        "Queue": rows(&["other_config", "external_ids"]),
    })
}

/// What is to be read again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hints {
    /// Everything: a bridge came or went.
    pub(super) all: bool,
    /// The ports of these names.
    pub(super) names: BTreeSet<LinkName>,
}

/// Rows of ours, by their ids: the names of the ports that they are part of.
#[derive(Debug, Default)]
pub(super) struct Rows {
    names: HashMap<Uuid, LinkName>,
}

impl Rows {
    /// Takes up an update (`<table-updates2>`), and adds to the hints what it is about.
    pub(super) fn take(&mut self, tables: &Value, hints: &mut Hints) -> Result<(), Problem> {
        for (table, rows) in tables.as_object().into_iter().flatten() {
            for (id, update) in rows.as_object().into_iter().flatten() {
                let id = Uuid::try_parse(id).map_err(|_| format!("an update of a row of {table} that has no id"))?;
                let update = update.as_object().ok_or_else(|| format!("an update of {table} that is none"))?;
                match table.as_str() {
                    "Bridge" => self.take_bridge(update, hints),
                    _ => self.take_row(id, update, hints),
                }
            }
        }
        if self.names.len() > ROWS_LIMIT {
            return Err(format!("more than {ROWS_LIMIT} rows carry our mark"));
        }
        Ok(())
    }

    fn take_bridge(&self, update: &Map<String, Value>, hints: &mut Hints) {
        // Of a set that changed, the elements that came or went.
        match update.get("modify").and_then(|row| row.get("ports")) {
            Some(ports) => {
                let ports = elements(ports).iter().filter_map(as_row);
                hints.names.extend(ports.filter_map(|port| self.names.get(&port)).cloned());
            }
            None => hints.all = true,
        }
    }

    fn take_row(&mut self, id: Uuid, update: &Map<String, Value>, hints: &mut Hints) {
        if let Some(name) = update.get("initial").or_else(|| update.get("insert")).and_then(port_of) {
            self.names.insert(id, name);
        }
        let known = if update.contains_key("delete") { self.names.remove(&id) } else { self.names.get(&id).cloned() };
        hints.names.extend(known);
    }
}

/// The port that a row is part of, if that could be one of ours.
fn port_of(row: &Value) -> Option<LinkName> {
    let of_shaping = || {
        let ids = row.get("external_ids")?.get(1)?.as_array()?;
        ids.iter().find(|entry| entry[0] == PORT)?.get(1)?.as_str()
    };
    let name = row.get("name").and_then(Value::as_str).or_else(of_shaping)?;
    LinkName::new(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> String {
        Uuid::from_u128(number).to_string()
    }

    fn hints(rows: &mut Rows, tables: Value) -> Hints {
        let mut hints = Hints::default();
        rows.take(&tables, &mut hints).unwrap();
        hints
    }

    fn of(names: &[&str]) -> Hints {
        Hints { all: false, names: names.iter().map(|name| LinkName::new(*name).unwrap()).collect() }
    }

    #[test]
    fn what_is_told_of_rows_leads_to_their_ports() {
        let mut rows = Rows::default();
        let there = hints(
            &mut rows,
            json!({
                "Port": {id(1): {"initial": {"name": "pct0", "external_ids": ["map", []]}}},
                "Interface": {id(2): {"initial": {"name": "pct0"}}},
                "QoS": {id(3): {"initial": {"type": "linux-htb", "external_ids": ["map", [["a", "b"], [PORT, "pct0"]]]}}},
            }),
        );
        assert_eq!(there, of(&["pct0"]));
        assert_eq!(hints(&mut rows, json!({"Port": {id(1): {"modify": {"tag": 9}}}})), of(&["pct0"]));
        assert_eq!(hints(&mut rows, json!({"QoS": {id(3): {"delete": null}}})), of(&["pct0"]));
        assert_eq!(hints(&mut rows, json!({"QoS": {id(3): {"delete": null}}})), of(&[]));
        assert_eq!(hints(&mut rows, json!({"Port": {id(4): {"insert": {"name": "pct1"}}}})), of(&["pct1"]));
        // Ports that came to a bridge or left it, ours and others.
        let both = json!(["set", [["uuid", id(1)], ["uuid", id(4)], ["uuid", id(77)]]]);
        assert_eq!(hints(&mut rows, json!({"Bridge": {id(9): {"modify": {"ports": both}}}})), of(&["pct0", "pct1"]));
        let one = json!(["uuid", id(4)]);
        assert_eq!(hints(&mut rows, json!({"Bridge": {id(9): {"modify": {"ports": one}}}})), of(&["pct1"]));
        assert!(hints(&mut rows, json!({"Bridge": {id(10): {"insert": {"ports": ["set", []]}}}})).all);
        assert!(hints(&mut rows, json!({"Bridge": {id(10): {"delete": null}}})).all);
    }

    #[test]
    fn odd_updates_are_passed_over_or_refused() {
        let mut rows = Rows::default();
        let long = json!({"Port": {id(1): {"insert": {"name": "longer than a link may be"}}}});
        assert_eq!(hints(&mut rows, long), of(&[]));
        let no_port = json!({"QoS": {id(2): {"insert": {"external_ids": ["map", [["patchcord-port"], 7]]}}}});
        assert_eq!(hints(&mut rows, no_port), of(&[]));
        assert_eq!(hints(&mut rows, json!({"Port": 7})), of(&[]));
        let mut refused = |tables: Value| rows.take(&tables, &mut Hints::default()).unwrap_err();
        assert!(refused(json!({"Port": {"x": {"delete": null}}})).contains("no id"));
        assert!(refused(json!({"Port": {id(1): 7}})).contains("is none"));
        let row = |number: usize| (id(number as u128), json!({"insert": {"name": "pct0"}}));
        let flood: Map<String, Value> = (0..=ROWS_LIMIT).map(row).collect();
        assert!(refused(json!({"Port": flood})).contains("more than 65536"));
    }
}
