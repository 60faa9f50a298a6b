//! `patchcord topology`: what is plugged where, as a tree.

use crate::args::TopologyCommand;
use crate::daemon::Daemon;
use crate::error::CommandError;
use crate::svg;
use crate::table::clean;
use crate::ui::Ui;
use patchcord_api::methods::{ListNICs, ListNetworks};
use patchcord_api::{Network, Nic};
use serde::Serialize;
use std::collections::BTreeMap;

/// Everything, by where it is.
#[derive(Debug, Serialize)]
pub(crate) struct Topology {
    /// Networks with their NICs.
    pub(crate) networks: Vec<Switch>,
    /// Host bridges that NICs name themselves.
    pub(crate) bridges: Vec<Bridge>,
    /// NICs that are plugged into nothing.
    pub(crate) unplugged: Vec<Nic>,
}

/// A network and what is plugged into it.
#[derive(Debug, Serialize)]
pub(crate) struct Switch {
    /// The network. Its count of NICs gives way to the NICs themselves.
    #[serde(flatten)]
    pub(crate) network: Network,
    /// The NICs that name it.
    pub(crate) ports: Vec<Nic>,
}

/// A host bridge and what is plugged into it.
#[derive(Debug, Serialize)]
pub(crate) struct Bridge {
    /// The link.
    pub(crate) name: String,
    /// The NICs.
    pub(crate) ports: Vec<Nic>,
}

/// Prints the topology, and draws it.
pub(crate) fn execute(command: &TopologyCommand, daemon: &mut Daemon, ui: Ui) -> Result<(), CommandError> {
    let networks = daemon.call(&ListNetworks::default())?.networks;
    let topology = Topology::new(networks, daemon.call(&ListNICs { network: None })?.nics);
    if let Some(path) = &command.svg {
        std::fs::write(path, svg::draw(&topology))
            .map_err(|error| CommandError::io(format!("can't write {}", path.display()), &error))?;
    }
    ui.show(&topology, tree)
}

impl Topology {
    /// Puts NICs where they belong.
    pub(crate) fn new(networks: Vec<Network>, nics: Vec<Nic>) -> Self {
        let mut networks: Vec<Switch> =
            networks.into_iter().map(|network| Switch { network, ports: Vec::new() }).collect();
        networks.sort_by(|a, b| a.network.name.cmp(&b.network.name));
        let (mut bridges, mut unplugged) = (BTreeMap::<String, Vec<Nic>>::new(), Vec::new());
        for nic in nics {
            let switch = networks.iter_mut().find(|switch| nic.network.as_ref() == Some(&switch.network.name));
            match (switch, &nic.actual.bridge) {
                (Some(switch), _) => switch.ports.push(nic),
                (None, Some(bridge)) => bridges.entry(bridge.clone()).or_default().push(nic),
                (None, None) => unplugged.push(nic),
            }
        }
        let bridges = bridges.into_iter().map(|(name, ports)| Bridge { name, ports }).collect();
        let mut this = Self { networks, bridges, unplugged };
        let of_networks = this.networks.iter_mut().map(|switch| &mut switch.ports);
        let of_bridges = this.bridges.iter_mut().map(|bridge| &mut bridge.ports);
        for ports in of_networks.chain(of_bridges).chain([&mut this.unplugged]) {
            ports.sort_by(|a, b| (&a.guest, &a.id).cmp(&(&b.guest, &b.id)));
        }
        this
    }
}

/// What a network is, in a line.
pub(crate) fn network_line(network: &Network) -> String {
    let mut words = vec![network.mode.clone()];
    words.extend(network.bridge.clone());
    words.extend(network.addresses.iter().cloned());
    if !network.devices.is_empty() {
        words.push(format!("over {}", network.devices.join(" ")));
    }
    if !network.active {
        words.push("inactive".into());
    }
    words.join("  ")
}

/// What a NIC is, in its columns: guest, MAC, tap, state, portgroup.
pub(crate) fn nic_columns(nic: &Nic) -> [String; 5] {
    let text = |text: &Option<String>| text.as_deref().map_or("-".into(), clean);
    [clean(&nic.guest), text(&nic.mac), text(&nic.actual.tap), nic.state.clone(), text(&nic.portgroup)]
}

fn tree(topology: &Topology) -> String {
    let all = topology.networks.iter().flat_map(|switch| &switch.ports);
    let all = all.chain(topology.bridges.iter().flat_map(|bridge| &bridge.ports)).chain(&topology.unplugged);
    let mut widths = [0; 5];
    for nic in all {
        for (width, text) in widths.iter_mut().zip(nic_columns(nic)) {
            *width = (*width).max(text.chars().count());
        }
    }
    let mut lines = Vec::new();
    let mut branch = |heading: String, ports: &[Nic]| {
        lines.push(heading);
        for (index, nic) in ports.iter().enumerate() {
            let knot = if index + 1 == ports.len() { "└─" } else { "├─" };
            let columns = nic_columns(nic).into_iter().zip(widths).map(|(text, width)| format!("{text:width$}"));
            lines.push(format!("{knot} {}", columns.collect::<Vec<_>>().join("  ").trim_end()));
        }
    };
    for Switch { network, ports } in &topology.networks {
        branch(format!("{}  {}", clean(&network.name), network_line(network)), ports);
    }
    for Bridge { name, ports } in &topology.bridges {
        branch(format!("host bridge {}", clean(name)), ports);
    }
    if !topology.unplugged.is_empty() {
        branch("plugged into nothing".into(), &topology.unplugged);
    }
    if lines.is_empty() {
        lines.push("there are no networks and no NICs that you may see".into());
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use patchcord_api::Actual;

    pub(crate) fn sample() -> Topology {
        let network = |name: &str, active: bool| Network {
            name: name.into(),
            uuid: "u".into(),
            active,
            persistent: true,
            autostart: false,
            mode: "nat".into(),
            bridge: Some("virbr0".into()),
            addresses: vec!["192.0.2.0/24".into()],
            devices: Vec::new(),
            free_devices: None,
            portgroups: Vec::new(),
            tags: Vec::new(),
            nics: 0,
            dnsmasq: None,
            mtu: None,
        };
        let nic = |guest: &str, network: Option<&str>, bridge: Option<&str>, state: &str| Nic {
            id: guest.into(),
            guest: guest.into(),
            guest_uuid: None,
            mac: Some("52:54:00:00:00:01".into()),
            state: state.into(),
            cause: None,
            network: network.map(Into::into),
            portgroup: None,
            tags: Vec::new(),
            actual: Actual {
                kind: "network".into(),
                bridge: bridge.map(Into::into),
                dev: None,
                mode: None,
                pci: None,
                plug: None,
                node: None,
                tap: Some("pct0".into()),
                ifindex: Some(3),
                mtu: None,
            },
            queues: 1,
            owner: None,
            handover: "descriptor".into(),
            uid: 0,
        };
        Topology::new(
            vec![network("lab", true), network("a<b>", false)],
            vec![
                nic("web", Some("lab"), Some("virbr0"), "plugged"),
                nic("db & co", Some("lab"), Some("virbr0"), "plugged"),
                nic("x", None, Some("br0"), "plugged"),
                nic("y", Some("gone"), None, "parked"),
            ],
        )
    }

    #[test]
    fn a_tree_shows_what_is_plugged_where() {
        insta::assert_snapshot!(tree(&sample()), @r"
        a<b>  nat  virbr0  192.0.2.0/24  inactive
        lab  nat  virbr0  192.0.2.0/24
        ├─ db & co  52:54:00:00:00:01  pct0  plugged  -
        └─ web      52:54:00:00:00:01  pct0  plugged  -
        host bridge br0
        └─ x        52:54:00:00:00:01  pct0  plugged  -
        plugged into nothing
        └─ y        52:54:00:00:00:01  pct0  parked   -
        ");
        insta::assert_snapshot!(tree(&Topology::new(Vec::new(), Vec::new())), @r"
        there are no networks and no NICs that you may see
        ");
    }
}
