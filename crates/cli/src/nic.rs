//! `patchcord nic`.

use crate::args::{LinkWord, NicCommand};
use crate::daemon::Daemon;
use crate::document::Document;
use crate::error::CommandError;
use crate::table::{or_dash, table};
use crate::ui::Ui;
use patchcord_api::Nic;
use patchcord_api::methods::{
    AttachNIC, ChangedNic, DetachNIC, GetNICXML, ListNICs, ModifyNIC, OwnNIC, SetNICLink, ShowNIC,
};
use serde::Serialize;

/// A NIC with its document.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    nic: Nic,
    xml: String,
}

/// What is printed where there is nothing else to say.
#[derive(Serialize)]
struct Done {
    id: String,
}

/// Carries out a command.
pub(crate) fn execute(command: NicCommand, daemon: &mut Daemon, ui: Ui) -> Result<(), CommandError> {
    match command {
        NicCommand::Attach { guest, guest_uuid, pid, by_name, uid, reservation, file } => {
            let document = Document::read(&file)?;
            let attach = AttachNIC {
                guest,
                guest_uuid,
                xml: document.text.clone(),
                owner_pid: pid,
                by_name: Some(by_name),
                uid,
                fetch: Some(false),
                mac_unknown: Some(false),
                reservation,
            };
            let reply = daemon.submit(&attach, &document)?;
            ui.warnings(&reply.warnings);
            let id = &reply.nic.id;
            let shown = ui.show(&reply.nic, |nic| format!("{}\n", nic.id));
            shown.map_err(|error| error.hint(format!("the NIC is attached all the same; its id is {id}")))
        }
        NicCommand::List => {
            let nics = daemon.call(&ListNICs { network: None })?.nics;
            ui.show(&nics, |nics| list(nics))
        }
        NicCommand::Show { id, inactive } => {
            let nic = daemon.call(&ShowNIC { id: id.clone() })?.nic;
            let xml = daemon.call(&GetNICXML { id, inactive: Some(inactive) })?.xml;
            ui.show(&Shown { nic, xml }, |shown| shown.xml.clone())
        }
        NicCommand::Modify { id, file } => {
            let document = Document::read(&file)?;
            let reply = daemon.submit(&ModifyNIC { id, xml: document.text.clone() }, &document)?;
            changed(ui, &reply)
        }
        NicCommand::Link { id, state } => changed(ui, &daemon.call(&SetNICLink { id, up: state == LinkWord::Up })?),
        NicCommand::Own { id, pid } => changed(ui, &daemon.call(&OwnNIC { id, pid: Some(pid) })?),
        NicCommand::Detach { id } => {
            ui.warnings(&daemon.call(&DetachNIC { id: id.clone() })?.warnings);
            ui.show(&Done { id }, |done| format!("NIC {} is detached\n", done.id))
        }
    }
}

fn changed(ui: Ui, reply: &ChangedNic) -> Result<(), CommandError> {
    ui.warnings(&reply.warnings);
    ui.show(&reply.nic, |nic| format!("NIC {}: {}\n", nic.id, place(nic)))
}

/// NICs as a table.
pub(crate) fn list(nics: &[Nic]) -> String {
    let headings = ["ID", "GUEST", "MAC", "STATE", "NETWORK", "PORTGROUP", "ON", "TAP", "TAGS"];
    let rows = nics.iter().map(|nic| {
        vec![
            nic.id.clone(),
            nic.guest.clone(),
            or_dash(nic.mac.as_ref()),
            nic.state.clone(),
            or_dash(nic.network.as_ref()),
            or_dash(nic.portgroup.as_ref()),
            or_dash(nic.actual.bridge.as_ref().or(nic.actual.dev.as_ref()).or(nic.actual.pci.as_ref())),
            or_dash(nic.actual.tap.as_ref()),
            nic.tags.join(" "),
        ]
    });
    table(&headings, rows)
}

/// Where a NIC is plugged, in a phrase.
pub(crate) fn place(nic: &Nic) -> String {
    let mut phrase = nic.state.clone();
    if let Some(network) = &nic.network {
        phrase += &format!(", network '{network}'");
    }
    if let Some(portgroup) = &nic.portgroup {
        phrase += &format!(", portgroup '{portgroup}'");
    }
    if let Some(bridge) = &nic.actual.bridge {
        phrase += &format!(", bridge {bridge}");
    }
    if let Some(dev) = &nic.actual.dev {
        phrase += &format!(", device {dev}");
    }
    if let Some(pci) = &nic.actual.pci {
        phrase += &format!(", PCI device {pci}");
    }
    if let Some(mode) = &nic.actual.mode {
        phrase += &format!(", mode {mode}");
    }
    if let Some(plug) = &nic.actual.plug {
        phrase += &format!(", by {plug}");
    }
    if let Some(node) = &nic.actual.node {
        phrase += &format!(", node {node}");
    }
    if let Some(tap) = &nic.actual.tap {
        phrase += &format!(", tap {tap}");
    }
    if let Some(mac) = &nic.mac {
        phrase += &format!(", MAC {mac}");
    }
    if let Some(cause) = &nic.cause {
        phrase += &format!("; {cause}");
    }
    phrase
}
