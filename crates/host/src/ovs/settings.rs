//! Columns that are ours to set, read.

use std::collections::BTreeMap;

use patchcord_core::plan::ovs::{INTERFACE_KEYS, Limit, PORT_KEYS, Policing, VlanColumns};

use super::value::{Problem, Row};

/// Those of a Port's external_ids that are ours to set.
pub(super) fn port_ids(port: &Row<'_>) -> Result<BTreeMap<String, String>, Problem> {
    only(&PORT_KEYS, port)
}

/// Those of an Interface's.
pub(super) fn interface_ids(interface: &Row<'_>) -> Result<BTreeMap<String, String>, Problem> {
    only(&INTERFACE_KEYS, interface)
}

fn only(keys: &[&str], row: &Row<'_>) -> Result<BTreeMap<String, String>, Problem> {
    let mut ids = row.map("external_ids")?;
    ids.retain(|key, _| keys.contains(&key.as_str()));
    Ok(ids)
}

/// How a Port treats VLANs.
pub(super) fn vlan(port: &Row<'_>) -> Result<VlanColumns, Problem> {
    Ok(VlanColumns {
        mode: port.optional_text("vlan_mode")?.map(str::to_owned),
        tag: port.optional_number("tag")?,
        trunks: port.numbers("trunks")?.into_iter().collect(),
    })
}

/// What an Interface lets in.
pub(super) fn policing(interface: &Row<'_>) -> Result<Policing, Problem> {
    Ok(Policing {
        rate: interface.number("ingress_policing_rate")?,
        burst: interface.number("ingress_policing_burst")?,
    })
}

/// The limit that makes exactly the columns of this QoS and its Queue 0, if there is one.
pub(super) fn limit(qos: &Row<'_>, queue: &Row<'_>) -> Result<Option<Limit>, Problem> {
    let columns = (qos.text("type")?, qos.map("other_config")?, queue.map("other_config")?);
    let number = |key: &str| columns.2.get(key).and_then(|text| text.parse().ok());
    let limit = number("max-rate").map(|rate| Limit { rate, burst: number("burst") });
    Ok(limit.filter(|limit| limit.columns() == columns))
}
