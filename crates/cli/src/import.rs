//! `patchcord import`.

use crate::args::ImportCommand;
use crate::daemon::Daemon;
use crate::error::CommandError;
use crate::table::{or_dash, table, yes_no};
use crate::ui::Ui;
use patchcord_api::ImportedNetwork;
use patchcord_api::methods::ImportLibvirt;

/// Carries out a command.
pub(crate) fn execute(command: &ImportCommand, daemon: &mut Daemon, ui: Ui) -> Result<(), CommandError> {
    let ImportCommand::Libvirt { dry_run, undo } = *command;
    let reply = daemon.call(&ImportLibvirt { dry_run: Some(dry_run), undo: Some(undo) })?;
    ui.warnings(&reply.warnings);
    for network in &reply.networks {
        let about = |warning: &String| format!("network '{}': {warning}", network.name);
        ui.warnings(&network.warnings.iter().map(about).collect::<Vec<_>>());
    }
    ui.show(&reply.networks, |networks| list(networks, (dry_run, undo)))?;
    let left = reply.networks.iter().filter(|network| !network.done).count();
    if left == 0 || dry_run {
        return Ok(());
    }
    let what = if undo { "handed back" } else { "taken over" };
    Err(CommandError::new(format!("{left} of {} networks were not {what}", reply.networks.len())))
}

fn list(networks: &[ImportedNetwork], how: (bool, bool)) -> String {
    if networks.is_empty() {
        return if how.1 { "there are no networks\n" } else { "libvirt has no networks\n" }.into();
    }
    let done = match how {
        (false, false) => "taken over",
        (true, false) => "would be taken over",
        (false, true) => "handed back",
        (true, true) => "would be handed back",
    };
    let rows = networks.iter().map(|network| {
        let left = || format!("left: {}", network.cause.as_deref().unwrap_or("no reason is known"));
        vec![
            network.name.clone(),
            if network.active { "active" } else { "inactive" }.into(),
            yes_no(network.autostart),
            or_dash(network.bridge.as_ref()),
            network.ports.to_string(),
            if network.done { done.into() } else { left() },
        ]
    });
    table(&["NAME", "STATE", "AUTOSTART", "BRIDGE", "PORTS", "WHAT"], rows)
}
