//! `patchcord device`.

use crate::args::DeviceCommand;
use crate::daemon::Daemon;
use crate::error::CommandError;
use crate::events::describe;
use crate::table::{clean, or_dash, table};
use crate::ui::Ui;
use patchcord_api::Device;
use patchcord_api::methods::ListDevices;
use patchcord_api::{Event, Monitored};

/// Carries out a command.
pub(crate) fn execute(command: DeviceCommand, mut daemon: Daemon, ui: Ui) -> Result<(), CommandError> {
    match command {
        DeviceCommand::List => {
            let devices = daemon.call(&ListDevices {})?.devices;
            ui.show(&devices, |devices| list(devices))
        }
        DeviceCommand::Watch => daemon.into_client().monitor(|message| match &message {
            Monitored::Event { event, .. } if !is_of_device(event) => Ok(true),
            Monitored::Snapshot { .. } => Ok(true),
            _ => ui.line(&message, describe).map(|()| true),
        }),
    }
}

fn is_of_device(event: &Event) -> bool {
    event.kind == "device"
}

fn list(devices: &[Device]) -> String {
    let rows = devices.iter().map(|device| {
        let networks = device.networks.iter().map(|n| format!("{} ({})", clean(&n.network), n.mode));
        let holders = device.holders.iter().map(|h| {
            let guest = clean(&h.guest);
            if h.reserved { format!("{guest} (reserved)") } else { guest }
        });
        vec![
            device.name.clone(),
            if device.present { "present" } else { "absent" }.into(),
            networks.collect::<Vec<_>>().join(" "),
            holders.collect::<Vec<_>>().join(" "),
            device.free.clone(),
            or_dash(device.unusable.as_ref()),
        ]
    });
    table(&["DEVICE", "STATE", "NETWORKS", "HELD BY", "FREE", "UNUSABLE"], rows)
}
