//! From the engine's views, events and errors to the native interface's types, and from its words to the engine's.

use patchcord_api::error::Refusal;
use patchcord_api::{Actual, Device, DeviceHolder, DeviceNetwork, Event, Lease, Network, Nic, Owner};
use patchcord_core::engine::{
    DeviceEvent, DeviceView, Event as CoreEvent, LeaseEvent, LeaseView, NetworkEvent, NetworkView, NicEvent, NicView,
};
use patchcord_core::model::{ForwardMode, UpdateCommand, UpdateSection};
use patchcord_core::plan::Handover;
use patchcord_core::{Error, ErrorKind};

/// The sections of an update that are known.
const SECTIONS: [UpdateSection; 13] = [
    UpdateSection::Bridge,
    UpdateSection::Domain,
    UpdateSection::Ip,
    UpdateSection::IpDhcpHost,
    UpdateSection::IpDhcpRange,
    UpdateSection::Forward,
    UpdateSection::ForwardInterface,
    UpdateSection::ForwardPf,
    UpdateSection::Portgroup,
    UpdateSection::DnsHost,
    UpdateSection::DnsTxt,
    UpdateSection::DnsSrv,
    UpdateSection::Bandwidth,
];

/// The error's name, without the interface, and its parameters.
pub fn error(error: &Error) -> (&'static str, Refusal) {
    let codes = error.kind.codes();
    let position = error.position.as_ref();
    let refusal = Refusal {
        object: error.object.clone(),
        field: error.field.clone(),
        cause: error.cause.clone(),
        hint: error.hint.clone(),
        also: error.also.clone(),
        line: position.map(|p| p.line),
        column: position.map(|p| p.column),
        start: position.map(|p| p.start),
        end: position.map(|p| p.end),
        exit: codes.exit,
    };
    (codes.varlink, refusal)
}

/// A network.
pub fn network(view: NetworkView) -> Network {
    Network {
        name: view.name,
        uuid: view.uuid.to_string(),
        active: view.active,
        persistent: view.persistent,
        autostart: view.autostart,
        mode: mode_word(view.mode).to_owned(),
        bridge: view.bridge,
        addresses: view.addresses,
        devices: view.devices,
        free_devices: view.free_devices,
        portgroups: view.portgroups,
        tags: view.tags,
        nics: view.nics,
        dnsmasq: view.dnsmasq,
        mtu: view.mtu,
    }
}

/// A NIC.
pub fn nic(view: NicView) -> Nic {
    Nic {
        id: view.id.to_string(),
        guest: view.guest,
        guest_uuid: view.guest_uuid.map(|u| u.to_string()),
        mac: view.mac.map(|m| m.to_string()),
        state: view.state.as_str().to_owned(),
        cause: view.cause.map(str::to_owned),
        network: view.network,
        portgroup: view.portgroup,
        tags: view.tags,
        actual: Actual {
            kind: view.actual.to_owned(),
            bridge: view.bridge,
            dev: view.dev,
            mode: view.mode.map(|mode| mode.as_str().to_owned()),
            pci: view.pci.map(|address| address.to_string()),
            plug: view.plug.map(|plug| plug.as_str().to_owned()),
            node: view.node,
            tap: view.tap,
            ifindex: view.ifindex,
            mtu: view.mtu,
        },
        queues: view.queues,
        owner: view.owner.map(|o| Owner { pid: o.pid, start_time: o.start_time }),
        handover: match view.handover {
            _ if view.port => "port",
            Handover::Descriptor => "descriptor",
            Handover::Name { .. } => "name",
        }
        .to_owned(),
        uid: view.uid,
    }
}

/// A device.
pub fn device(view: DeviceView) -> Device {
    let networks =
        view.networks.into_iter().map(|(network, m)| DeviceNetwork { network, mode: mode_word(m).to_owned() });
    let holders = view.holders.into_iter().map(|holder| DeviceHolder {
        id: holder.id.to_string(),
        guest: holder.guest,
        network: holder.network,
        reserved: holder.reserved,
    });
    Device {
        present: view.kind.is_some(),
        name: view.name,
        kind: view.kind,
        carrier: view.carrier,
        mtu: view.mtu,
        pf: view.function.as_ref().map(|(pf, _)| pf.clone()),
        function: view.function.map(|(_, number)| number),
        networks: networks.collect(),
        holders: holders.collect(),
        exclusive: view.exclusive,
        free: view.free.as_str().to_owned(),
        unusable: view.unusable,
    }
}

/// A lease of a network's.
pub fn lease(network: &str, view: LeaseView) -> Lease {
    Lease {
        network: network.to_owned(),
        mac: view.mac.map(|m| m.to_string()),
        ip: view.ip.to_string(),
        prefix: view.prefix,
        hostname: view.hostname,
        client_id: view.client_id,
        iaid: view.iaid,
        expires: view.expires,
        nic: view.nic.map(|id| id.to_string()),
    }
}

/// An event.
pub fn event(event: &CoreEvent) -> Event {
    match event {
        CoreEvent::Network { name, uuid, tags, what } => Event {
            kind: "network".into(),
            what: match what {
                NetworkEvent::Defined => "defined",
                NetworkEvent::Undefined => "undefined",
                NetworkEvent::Started => "started",
                NetworkEvent::Stopped => "stopped",
                NetworkEvent::Updated | NetworkEvent::Annotated(_) => "updated",
            }
            .into(),
            network: Some(name.clone()),
            uuid: Some(uuid.to_string()),
            tags: Some(tags.clone()),
            ..Event::default()
        },
        CoreEvent::Nic { nic: view, what } => Event {
            kind: "nic".into(),
            what: match what {
                NicEvent::Attached => "attached",
                NicEvent::Detached => "detached",
                NicEvent::OwnerGone => "owner-gone",
                NicEvent::Modified => "modified",
                NicEvent::Plugged => "plugged",
                NicEvent::Unplugged => "unplugged",
            }
            .into(),
            network: view.network.clone(),
            nic: Some(nic((**view).clone())),
            ..Event::default()
        },
        CoreEvent::Lease { network, lease: view, what } => Event {
            kind: "lease".into(),
            what: match what {
                LeaseEvent::Added => "added",
                LeaseEvent::Renewed => "renewed",
                LeaseEvent::Removed => "removed",
            }
            .into(),
            network: Some(network.clone()),
            lease: Some(lease(network, view.clone())),
            ..Event::default()
        },
        CoreEvent::Device { device, networks, what } => Event {
            kind: "device".into(),
            what: match what {
                DeviceEvent::Appeared => "appeared",
                DeviceEvent::Gone => "gone",
            }
            .into(),
            device: Some(device.clone()),
            networks: Some(networks.clone()),
            ..Event::default()
        },
        CoreEvent::Drift { object, what, culprit, repaired } => Event {
            kind: "drift".into(),
            what: if *repaired { "repaired" } else { "failed" }.into(),
            object: Some(object.clone()),
            cause: Some(what.clone()),
            culprit: culprit.clone(),
            ..Event::default()
        },
    }
}

/// A network's forward mode in a word.
fn mode_word(mode: ForwardMode) -> &'static str {
    mode.as_str().unwrap_or("isolated")
}

/// The forward mode of that word.
pub fn forward_mode(word: &str) -> Result<ForwardMode, Error> {
    let modes = || ForwardMode::WORDS.iter().map(|(_, mode)| *mode);
    let known = || modes().map(mode_word).collect::<Vec<_>>().join(", ");
    modes().find(|mode| mode_word(*mode) == word).ok_or_else(|| unknown("the list", "mode", word, known()))
}

/// What to do with a part of a network.
pub fn update_command(word: &str) -> Result<UpdateCommand, Error> {
    Ok(match word {
        "add" => UpdateCommand::AddLast,
        "add_first" => UpdateCommand::AddFirst,
        "modify" => UpdateCommand::Modify,
        "delete" => UpdateCommand::Delete,
        _ => return Err(unknown("the update", "command", word, "add, add_first, modify, delete".into())),
    })
}

/// Which part of a network.
pub fn update_section(word: &str) -> Result<UpdateSection, Error> {
    let known = || SECTIONS.map(UpdateSection::as_str).join(", ");
    SECTIONS.into_iter().find(|s| s.as_str() == word).ok_or_else(|| unknown("the update", "section", word, known()))
}

fn unknown(object: &str, field: &str, word: &str, known: String) -> Error {
    let cause = format!("there is no {field} '{word}'");
    Error::new(ErrorKind::InvalidArgument, object, cause).field(field).hint(format!("known are {known}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use patchcord_core::Position;

    #[test]
    fn errors_keep_what_they_say() {
        let core = Error::new(ErrorKind::InvalidXml, "network 'lab'", "'x' is no address")
            .field("<ip address>")
            .hint("write 192.0.2.1")
            .at(Position { start: 10, end: 13, line: 2, column: 4 });
        let (name, refusal) = error(&core);
        assert_eq!((name, refusal.exit), ("InvalidXml", 1));
        assert_eq!(refusal.to_string(), "network 'lab', <ip address>: 'x' is no address");
        assert_eq!((refusal.line, refusal.column, refusal.start, refusal.end), (Some(2), Some(4), Some(10), Some(13)));
        assert_eq!(refusal.hint.as_deref(), Some("write 192.0.2.1"));
    }

    #[test]
    fn words_of_updates() {
        assert_eq!(update_command("add"), Ok(UpdateCommand::AddLast));
        assert_eq!(update_section("ip-dhcp-host"), Ok(UpdateSection::IpDhcpHost));
        let error = update_section("dhcp").unwrap_err();
        assert!(error.hint.is_some_and(|hint| hint.contains("ip-dhcp-host")));
    }

    #[test]
    fn each_error_has_a_name_in_the_text() {
        for kind in [
            ErrorKind::NoNetwork,
            ErrorKind::NotActive,
            ErrorKind::NetworkExists,
            ErrorKind::InUse,
            ErrorKind::BadXml,
            ErrorKind::InvalidXml,
            ErrorKind::InvalidArgument,
            ErrorKind::Denied,
            ErrorKind::Unsupported,
            ErrorKind::HostFailed,
            ErrorKind::HookFailed,
            ErrorKind::PartlyRolledBack,
            ErrorKind::Busy,
            ErrorKind::Internal,
        ] {
            let line = format!("error {} (object: string,", kind.codes().varlink);
            assert!(patchcord_api::DESCRIPTION.contains(&line), "{line}");
        }
    }
}
