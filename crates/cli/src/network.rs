//! `patchcord network`.

use crate::args::{ListOptions, NetworkCommand, UpdateWord};
use crate::daemon::Daemon;
use crate::document::Document;
use crate::error::CommandError;
use crate::table::{or_dash, table, yes_no};
use crate::ui::Ui;
use crate::{edit, nic};
use patchcord_api::methods::{
    CheckNIC, DefineNetwork, GetNetworkXML, ListLeases, ListNICs, ListNetworks, SetAutostart, ShowNetwork,
    StartNetwork, StopNetwork, UndefineNetwork, UpdateNetwork,
};
use patchcord_api::{Lease, Network, Nic, Reservation};
use serde::Serialize;
use serde_json::{Map, Value};
use std::time::{SystemTime, UNIX_EPOCH};

/// A network with its document.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    network: Network,
    xml: String,
}

/// A NIC that would attach.
#[derive(Serialize)]
struct Checked {
    /// With an id only where something is reserved under it.
    #[serde(flatten)]
    nic: Map<String, Value>,
    reservation: Option<Reservation>,
    #[serde(skip)]
    place: String,
}

impl Checked {
    fn new(would: Nic, reservation: Option<Reservation>) -> Result<Self, CommandError> {
        let place = nic::place(&would);
        let Ok(Value::Object(mut nic)) = serde_json::to_value(&would) else {
            return Err(CommandError::new("can't print the NIC as JSON"));
        };
        if reservation.is_none() {
            nic.remove("id");
        }
        Ok(Self { nic, reservation, place })
    }
}

/// What is printed where there is nothing else to say.
#[derive(Serialize)]
struct Done {
    name: String,
}

/// Carries out a command.
pub(crate) fn execute(command: NetworkCommand, daemon: &mut Daemon, ui: Ui) -> Result<(), CommandError> {
    match command {
        NetworkCommand::Define { file } => {
            let document = Document::read(&file)?;
            let reply = daemon.submit(&DefineNetwork { xml: document.text.clone() }, &document)?;
            ui.warnings(&reply.warnings);
            ui.show(&reply.network, |network| format!("network '{}' is defined\n", network.name))
        }
        NetworkCommand::List(ListOptions { mode, tags, portgroup, free_devices, active }) => {
            let (tags, active) = (Some(tags), active.then_some(true));
            let networks = daemon.call(&ListNetworks { mode, tags, portgroup, free_devices, active })?.networks;
            ui.show(&networks, |networks| list(networks))
        }
        NetworkCommand::Show { name, inactive } => {
            let network = daemon.call(&ShowNetwork { name: name.clone() })?.network;
            let xml = daemon.call(&GetNetworkXML { name, inactive: Some(inactive) })?.xml;
            ui.show(&Shown { network, xml }, |shown| shown.xml.clone())
        }
        NetworkCommand::Start { name } => {
            let reply = daemon.call(&StartNetwork { name })?;
            ui.warnings(&reply.warnings);
            ui.show(&reply.network, |network| format!("network '{}' is started\n", network.name))
        }
        NetworkCommand::Stop { name } => {
            let reply = daemon.call(&StopNetwork { name: name.clone() })?;
            done(ui, name, &reply.warnings, "is stopped")
        }
        NetworkCommand::Undefine { name } => {
            let reply = daemon.call(&UndefineNetwork { name: name.clone() })?;
            done(ui, name, &reply.warnings, "is undefined")
        }
        NetworkCommand::Autostart { name, off } => {
            let reply = daemon.call(&SetAutostart { name: name.clone(), autostart: !off })?;
            let what = if off { "does not start by itself any more" } else { "starts with the daemon" };
            done(ui, name, &reply.warnings, what)
        }
        NetworkCommand::Update { name, command, section, xml, parent, live, config } => {
            let document = Document::given(&xml)?;
            let update = UpdateNetwork {
                name: name.clone(),
                command: match command {
                    UpdateWord::Add => "add",
                    UpdateWord::AddFirst => "add_first",
                    UpdateWord::Modify => "modify",
                    UpdateWord::Delete => "delete",
                }
                .into(),
                section,
                parent,
                xml: document.text.clone(),
                live: Some(live),
                config: Some(config),
            };
            let reply = daemon.submit(&update, &document)?;
            done(ui, name, &reply.warnings, "is updated")
        }
        NetworkCommand::Edit { name } => match edit::edit(daemon, &name)? {
            Some(reply) => {
                ui.warnings(&reply.warnings);
                ui.show(&reply.network, |network| format!("network '{}' is defined\n", network.name))
            }
            None => done(ui, name, &[], "is unchanged"),
        },
        NetworkCommand::Ports { name } => {
            let nics = daemon.call(&ListNICs { network: Some(name) })?.nics;
            ui.show(&nics, |nics| nic::list(nics))
        }
        NetworkCommand::Leases { name } => {
            let leases = daemon.call(&ListLeases { network: name })?.leases;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            ui.show(&leases, |leases| lease_list(leases, now))
        }
        NetworkCommand::Check { name, file, guest, guest_uuid, reserve } => {
            let document = Document::read(&file)?;
            let check = CheckNIC { network: Some(name), guest, guest_uuid, xml: document.text.clone(), reserve };
            let reply = daemon.submit(&check, &document)?;
            ui.warnings(&reply.warnings);
            let checked = Checked::new(reply.nic, reply.reservation)?;
            ui.show(&checked, |checked| {
                let held = checked.reservation.as_ref().zip(reserve);
                let held = held.map(|(held, seconds)| format!("reserved for {seconds} s: {}\n", held.id));
                format!("the NIC would attach: {}\n{}", checked.place, held.unwrap_or_default())
            })
        }
    }
}

fn done(ui: Ui, name: String, warnings: &[String], what: &str) -> Result<(), CommandError> {
    ui.warnings(warnings);
    ui.show(&Done { name }, |done| format!("network '{}' {what}\n", done.name))
}

fn list(networks: &[Network]) -> String {
    let headings = ["NAME", "STATE", "AUTOSTART", "MODE", "BRIDGE", "DEVICES", "ADDRESSES", "NICS", "TAGS"];
    let rows = networks.iter().map(|network| {
        vec![
            network.name.clone(),
            match (network.active, network.persistent) {
                (true, true) => "active",
                (true, false) => "active (transient)",
                (false, _) => "inactive",
            }
            .into(),
            yes_no(network.autostart),
            network.mode.clone(),
            or_dash(network.bridge.as_ref()),
            devices(network),
            network.addresses.join(" "),
            network.nics.to_string(),
            network.tags.join(" "),
        ]
    });
    table(&headings, rows)
}

/// A network's devices: their names, or how many there are, and how many nobody holds.
fn devices(network: &Network) -> String {
    let names = match &network.devices[..] {
        few @ ([] | [_] | [_, _]) => few.join(" "),
        many => many.len().to_string(),
    };
    match network.free_devices {
        Some(free) => format!("{names} ({free} free)"),
        None => names,
    }
}

fn lease_list(leases: &[Lease], now: u64) -> String {
    let rows = leases.iter().map(|lease| {
        vec![
            format!("{}/{}", lease.ip, lease.prefix),
            or_dash(lease.mac.as_ref()),
            or_dash(lease.hostname.as_ref()),
            lease.expires.map_or("never".into(), |at| left(at.saturating_sub(now))),
            or_dash(lease.nic.as_ref()),
        ]
    });
    table(&["ADDRESS", "MAC", "NAME", "LEFT", "NIC"], rows)
}

/// A time that is left, in its two largest units.
fn left(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_lease() {
        for (seconds, text) in [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (90_000, "1 d 1 h")] {
            assert_eq!(left(seconds), text);
        }
    }
}
