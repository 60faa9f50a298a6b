//! `patchcord events`.

use crate::args::EventsCommand;
use crate::daemon::Daemon;
use crate::error::CommandError;
use crate::nic;
use crate::table::clean;
use crate::ui::Ui;
use patchcord_api::methods::Monitor;
use patchcord_api::{Event, Monitored};

/// Prints what there is, and what happens until somebody ends it.
pub(crate) fn execute(command: EventsCommand, mut daemon: Daemon, ui: Ui) -> Result<(), CommandError> {
    if !command.follow {
        return ui.show(&daemon.call(&Monitor {})?, |now| format!("{}\n", describe(now)));
    }
    daemon.into_client().monitor(|message| ui.line(&message, describe).map(|()| true))
}

pub(crate) fn describe(message: &Monitored) -> String {
    match message {
        Monitored::Snapshot { networks, nics } => {
            let mut lines = vec![format!("{} networks, {} NICs", networks.len(), nics.len())];
            lines.extend(networks.iter().map(|network| {
                let state = if network.active { "active" } else { "inactive" };
                format!("  network '{}' {state}", clean(&network.name))
            }));
            lines.extend(
                nics.iter().map(|nic| format!("  NIC {} of '{}' {}", nic.id, clean(&nic.guest), nic::place(nic))),
            );
            lines.join("\n")
        }
        Monitored::Event { sequence, event } => format!("{sequence} {}", describe_event(event)),
        Monitored::Overflow { missed } => format!("{missed} events were missed"),
    }
}

fn describe_event(event: &Event) -> String {
    let what = &event.what;
    let text = |text: &Option<String>| clean(text.as_deref().unwrap_or_default());
    match (&event.nic, &event.lease) {
        (Some(nic), _) => format!("NIC {} of '{}' {what}: {}", nic.id, clean(&nic.guest), nic::place(nic)),
        (_, Some(lease)) => {
            let (mac, name) = (text(&lease.mac), text(&lease.hostname));
            format!("lease {what} on '{}': {} {mac} {name}", clean(&lease.network), lease.ip).trim_end().to_owned()
        }
        _ if event.kind == "device" => {
            let networks = event.networks.iter().flatten().map(|name| format!("'{}'", clean(name)));
            let networks = networks.collect::<Vec<_>>().join(", ");
            format!("device {} {what}; listed by {networks}", text(&event.device))
        }
        _ if event.kind == "drift" => {
            let culprit = event.culprit.as_ref().map(|who| format!(" (by {})", clean(who))).unwrap_or_default();
            format!("{} {what}{culprit}: {}", text(&event.object), text(&event.cause))
        }
        _ => format!("network '{}' {what}", text(&event.network)),
    }
}
