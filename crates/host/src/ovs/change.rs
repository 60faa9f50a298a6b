//! Transactions: what makes the port of a name what it is to be, or removes it.
//!
//! Between reading and writing others may write, so each transaction begins by making sure that what it depends on is
//! still there (`wait` with no time to wait). A name that appeared meanwhile is refused by the database itself.

use std::collections::BTreeMap;

use patchcord_core::model::LinkName;
use patchcord_core::plan::ovs::{INSTANCE, PORT, Settings, Shaping};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::rows::{Bridge, Found, shaping_mark};
use super::value::{map, new_row, row, set};

/// Names of rows within a transaction.
const NEW_PORT: &str = "port";
const NEW_INTERFACE: &str = "interface";
const NEW_QOS: &str = "qos";
const NEW_QUEUE: &str = "queue";

/// Operations on the port `name`.
pub(super) struct Change<'a> {
    name: &'a LinkName,
    instance: Uuid,
    guards: Vec<Value>,
    operations: Vec<Value>,
    /// Whether ovs-vswitchd is to look again even if nothing changes.
    again: bool,
    /// Whether the port is taken off its bridges.
    removes: bool,
}

impl<'a> Change<'a> {
    pub(super) fn new(name: &'a LinkName, instance: Uuid) -> Self {
        Self { name, instance, guards: Vec::new(), operations: Vec::new(), again: false, removes: false }
    }

    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.operations.is_empty() && !self.again
    }

    /// Whether the port is gone after it.
    pub(super) fn removes(&self) -> bool {
        self.removes
    }

    /// All operations. The last one's result has `next_cfg` as it is then: once ovs-vswitchd has written it to
    /// `cur_cfg`, it has taken the change.
    pub(super) fn finish(mut self) -> Vec<Value> {
        self.guards.append(&mut self.operations);
        self.guards.push(json!({
            "op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": [["next_cfg", "+=", 1]]
        }));
        self.guards.push(json!({"op": "select", "table": "Open_vSwitch", "where": [], "columns": ["next_cfg"]}));
        self.guards
    }

    /// Makes the port, on that bridge.
    pub(super) fn make(&mut self, (bridge_name, bridge): (&str, Bridge), wanted: &Settings, leftover: bool) {
        self.guard("Bridge", json!([["_uuid", "==", row(bridge.id)]]), bridge_name);
        if leftover {
            self.delete_shaping();
        }
        self.insert_interface(wanted);
        let mut columns = vlan_columns(wanted);
        columns.insert("name".to_owned(), json!(self.name.as_str()));
        columns.insert("interfaces".to_owned(), new_row(NEW_INTERFACE));
        columns.insert("external_ids".to_owned(), map(&wanted.port_ids));
        // For operators who have Open vSwitch's start script delete what no reboot survives.
        columns.insert("other_config".to_owned(), json!(["map", [["transient", "true"]]]));
        columns.insert("qos".to_owned(), self.insert_shaping(wanted.shaping));
        self.operations.push(json!({"op": "insert", "table": "Port", "uuid-name": NEW_PORT, "row": columns}));
        self.mutate("Bridge", bridge.id, json!([["ports", "insert", new_row(NEW_PORT)]]));
    }

    /// Changes what differs. A port that is on another bridge moves.
    pub(super) fn alter(&mut self, (bridge_name, bridge): (&str, Bridge), wanted: &Settings, found: &Found) {
        self.guard_port(found);
        if !found.bridges.contains_key(bridge_name) {
            self.guard("Bridge", json!([["_uuid", "==", row(bridge.id)]]), bridge_name);
            self.mutate("Bridge", bridge.id, json!([["ports", "insert", row(found.port)]]));
        }
        for (_, other) in found.bridges.iter().filter(|(name, _)| *name != bridge_name) {
            self.mutate("Bridge", other.id, json!([["ports", "delete", row(found.port)]]));
        }

        let present = &found.state.settings;
        let mut columns = if present.vlan == wanted.vlan { Map::new() } else { vlan_columns(wanted) };
        // What others have set up is not known, so it can't be had back: not even to undo a change.
        if present.shaping != wanted.shaping && wanted.shaping != Shaping::Other {
            self.delete_shaping();
            columns.insert("qos".to_owned(), self.insert_shaping(wanted.shaping));
        }
        match found.interface {
            None => {
                self.insert_interface(wanted);
                columns.insert("interfaces".to_owned(), new_row(NEW_INTERFACE));
            }
            Some(interface) => {
                if present.policing != wanted.policing {
                    self.update("Interface", interface, policing_columns(wanted));
                }
                self.set_ids("Interface", interface, &present.interface_ids, &wanted.interface_ids);
            }
        }
        if !columns.is_empty() {
            self.update("Port", found.port, columns);
        }
        self.set_ids("Port", found.port, &present.port_ids, &wanted.port_ids);
        // What could not be used may be usable by now.
        self.again = found.problem().is_some();
    }

    /// Takes the port off its bridges: then nothing refers to it and its interface, and the database drops them.
    pub(super) fn remove(&mut self, found: &Found) {
        self.removes = true;
        self.guard_port(found);
        for bridge in found.bridges.values() {
            self.mutate("Bridge", bridge.id, json!([["ports", "delete", row(found.port)]]));
        }
        // The database drops the port last, and until then it refers to its QoS.
        self.update("Port", found.port, Map::from_iter([("qos".to_owned(), set::<Value>([]))]));
        self.delete_shaping();
    }

    /// Deletes all QoS and queues that were made for the port.
    pub(super) fn delete_shaping(&mut self) {
        for table in ["QoS", "Queue"] {
            let condition = json!([["external_ids", "includes", shaping_mark(self.instance, self.name.as_str())]]);
            self.operations.push(json!({"op": "delete", "table": table, "where": condition}));
        }
    }

    /// Adds QoS and queue; gives the value of the column that refers to them.
    fn insert_shaping(&mut self, shaping: Shaping) -> Value {
        let Shaping::Limit(limit) = shaping else { return set::<Value>([]) };
        let (kind, qos, queue) = limit.columns();
        let mark = json!(["map", [[INSTANCE, self.instance.to_string()], [PORT, self.name.as_str()]]]);
        self.operations.push(json!({
            "op": "insert", "table": "Queue", "uuid-name": NEW_QUEUE,
            "row": {"other_config": map(&queue), "external_ids": mark}
        }));
        self.operations.push(json!({
            "op": "insert", "table": "QoS", "uuid-name": NEW_QOS,
            "row": {
                "type": kind, "other_config": map(&qos), "external_ids": mark,
                "queues": ["map", [[0, new_row(NEW_QUEUE)]]]
            }
        }));
        new_row(NEW_QOS)
    }

    fn insert_interface(&mut self, wanted: &Settings) {
        let mut columns = policing_columns(wanted);
        columns.insert("name".to_owned(), json!(self.name.as_str()));
        columns.insert("external_ids".to_owned(), map(&wanted.interface_ids));
        self.operations.push(json!({"op": "insert", "table": "Interface", "uuid-name": NEW_INTERFACE, "row": columns}));
    }

    /// That the port still carries our mark, and is where it was.
    fn guard_port(&mut self, found: &Found) {
        let mark = json!(["map", [[INSTANCE, self.instance.to_string()]]]);
        let marked = json!([["_uuid", "==", row(found.port)], ["external_ids", "includes", mark]]);
        self.guard("Port", marked, self.name.as_str());
        for (name, bridge) in &found.bridges {
            let with_port = json!([["_uuid", "==", row(bridge.id)], ["ports", "includes", row(found.port)]]);
            self.guard("Bridge", with_port, name);
        }
    }

    /// That the condition selects a row of that name.
    fn guard(&mut self, table: &str, condition: Value, name: &str) {
        self.guards.push(json!({
            "op": "wait", "timeout": 0, "table": table, "where": condition, "columns": ["name"], "until": "==",
            "rows": [{"name": name}]
        }));
    }

    fn mutate(&mut self, table: &str, id: Uuid, mutations: Value) {
        let condition = json!([["_uuid", "==", row(id)]]);
        self.operations.push(json!({"op": "mutate", "table": table, "where": condition, "mutations": mutations}));
    }

    fn update(&mut self, table: &str, id: Uuid, columns: Map<String, Value>) {
        let condition = json!([["_uuid", "==", row(id)]]);
        self.operations.push(json!({"op": "update", "table": table, "where": condition, "row": columns}));
    }

    /// Changes those external_ids that differ, and leaves others' alone.
    fn set_ids(
        &mut self,
        table: &str,
        id: Uuid,
        present: &BTreeMap<String, String>,
        wanted: &BTreeMap<String, String>,
    ) {
        let differs = |key: &&String| present.get(*key) != wanted.get(*key);
        // To insert a key that is there would keep its value.
        let old: Vec<&str> = present.keys().filter(differs).map(String::as_str).collect();
        let new = wanted.iter().filter(|(key, _)| differs(key));
        if present != wanted {
            let mutations = json!([["external_ids", "delete", set(old)], ["external_ids", "insert", map(new)]]);
            self.mutate(table, id, mutations);
        }
    }
}

fn vlan_columns(settings: &Settings) -> Map<String, Value> {
    let vlan = &settings.vlan;
    Map::from_iter([
        ("vlan_mode".to_owned(), set(vlan.mode.clone())),
        ("tag".to_owned(), set(vlan.tag)),
        ("trunks".to_owned(), set(vlan.trunks.iter().copied())),
    ])
}

fn policing_columns(settings: &Settings) -> Map<String, Value> {
    Map::from_iter([
        ("ingress_policing_rate".to_owned(), settings.policing.rate.into()),
        ("ingress_policing_burst".to_owned(), settings.policing.burst.into()),
    ])
}
