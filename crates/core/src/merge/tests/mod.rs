//! Every cell of the rules: each parameter and element in each of the three places, each kind of connection.

mod elements;
mod property;
mod virtualport;

use super::{Given, Merged, Precedence, merge};
use crate::Error;
use crate::model::{
    ActualType, Bandwidth, DeviceRef, DirectMode, ForwardMode, LinkName, Name, Network, Nic, NicSource, Portgroup,
    Rate, VirtualPortType, Vlan, VlanTag,
};
use std::fmt::Write as _;
use uuid::Uuid;

const ID: Uuid = Uuid::from_u128(0x1d);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn link(text: &str) -> LinkName {
    LinkName::new(text).unwrap()
}

fn group(text: &str) -> Portgroup {
    Portgroup {
        name: name(text),
        default: None,
        trust_guest_rx_filters: None,
        tags: Vec::new(),
        vlan: None,
        virtualport: None,
        bandwidth: None,
    }
}

/// Network 'red' of that mode with a device, and portgroup 'staff', which is the default.
fn red(mode: ForwardMode) -> Network {
    let mut network = Network::new(name("red"));
    network.forward.mode = mode;
    if !mode.has_own_bridge() {
        network.forward.devices = vec![DeviceRef { dev: link("eth1") }];
    }
    network.portgroups = vec![Portgroup { default: Some(true), ..group("staff") }];
    network
}

/// Network 'red' on a bridge of the host's.
fn on_bridge() -> Network {
    let mut network = red(ForwardMode::Bridge);
    network.forward.devices.clear();
    network.bridge.name = Some(link("br0"));
    network
}

fn nic() -> Nic {
    Nic::new(NicSource::Network { network: name("red"), portgroup: None })
}

fn merged(nic: &Nic, network: &Network) -> Result<Merged, Error> {
    let given = Given {
        object: format_args!("NIC of guest 'web'"),
        nic,
        network: Some(network),
        precedence: Precedence::Nic,
        id: ID,
    };
    merge(&given)
}

/// What a NIC can be connected to: a name, a NIC and its network.
fn connections() -> Vec<(&'static str, Nic, Option<Network>)> {
    use ForwardMode::{Bridge, Hostdev, Isolated, Nat, Open, Passthrough, Private, Route, Vepa};
    let direct = |mode| Nic::new(NicSource::Direct { dev: link("eth1"), mode });
    vec![
        ("isolated", nic(), Some(red(Isolated))),
        ("nat", nic(), Some(red(Nat))),
        ("route", nic(), Some(red(Route))),
        ("open", nic(), Some(red(Open))),
        ("host bridge", nic(), Some(on_bridge())),
        ("bridge", nic(), Some(red(Bridge))),
        ("private", nic(), Some(red(Private))),
        ("vepa", nic(), Some(red(Vepa))),
        ("passthrough", nic(), Some(red(Passthrough))),
        ("hostdev", nic(), Some(red(Hostdev))),
        ("type='bridge'", Nic::new(NicSource::Bridge { bridge: link("br0") }), None),
        ("type='direct'", direct(None), None),
        ("… passthrough", direct(Some(DirectMode::Passthrough)), None),
        ("type='none'", Nic::new(NicSource::None), None),
        ("stopped", nic(), None),
    ]
}

/// A row for each connection, of what happens when the NIC has been changed so.
fn for_each_connection(changes: &[impl Fn(&mut Nic)]) -> String {
    let mut table = String::new();
    for (what, nic, network) in connections() {
        write!(table, "{what:<14}").unwrap();
        for change in changes {
            let mut nic = nic.clone();
            change(&mut nic);
            let given = Given {
                object: format_args!("NIC"),
                nic: &nic,
                network: network.as_ref(),
                precedence: Precedence::Nic,
                id: ID,
            };
            write!(table, "{:<9}", if merge(&given).is_ok() { "yes" } else { "-" }).unwrap();
        }
        table.truncate(table.trim_end().len());
        table.push('\n');
    }
    table
}

fn vlan(ids: &[u16]) -> Vlan {
    let tags = ids.iter().map(|id| VlanTag { id: *id, native: None }).collect();
    Vlan { trunk: (ids.len() > 1).then_some(true), tags }
}

fn inbound(average: u64) -> Bandwidth {
    Bandwidth { inbound: Some(Rate { average: Some(average), ..Rate::default() }), outbound: None }
}

#[test]
fn which_portgroup() {
    let mut network = red(ForwardMode::Nat);
    network.portgroups.push(group("students"));
    let ask = |network: &Network, wanted: Option<&str>| {
        let nic = Nic::new(NicSource::Network { network: name("red"), portgroup: wanted.map(name) });
        merged(&nic, network).map(|m| m.portgroup.map(|p| p.to_string()))
    };
    assert_eq!(ask(&network, Some("students")), Ok(Some("students".into())));
    assert_eq!(ask(&network, None), Ok(Some("staff".into())));
    let unknown = ask(&network, Some("guests")).unwrap_err();
    assert_eq!(unknown.kind, crate::ErrorKind::NoPortgroup);
    let mut told = format!("{unknown}\n");
    network.portgroups[0].default = None;
    assert_eq!(ask(&network, None), Ok(None));
    network.portgroups.clear();
    assert_eq!(ask(&network, None), Ok(None));
    writeln!(told, "{}", ask(&network, Some("staff")).unwrap_err()).unwrap();
    insta::assert_snapshot!(told, @r#"
    NIC of guest 'web', <source portgroup>: network 'red': there is no portgroup 'guests'; there are 'staff', 'students'; leave it out to get the network's default
    NIC of guest 'web', <source portgroup>: network 'red': there is no portgroup 'staff': the network has none; leave it out to get the network's default
    "#);
}

#[test]
fn tags_come_in_order_and_once() {
    let tags = |all: &[&str]| all.iter().map(|t| name(t)).collect::<Vec<_>>();
    let (mut nic, mut network) = (nic(), red(ForwardMode::Nat));
    nic.tags = tags(&["wumpus", "both"]);
    network.tags = tags(&["twisty", "both"]);
    network.portgroups[0].tags = tags(&["xyzzytag", "twisty", "wumpus"]);
    assert_eq!(merged(&nic, &network).unwrap().tags, tags(&["wumpus", "both", "twisty", "xyzzytag"]));
}

#[test]
fn exclusive_devices() {
    let kinds = [None, Some(VirtualPortType::Qbg), Some(VirtualPortType::Qbh)];
    let exclusive = |(what, nic, network): (&str, Nic, Option<Network>)| {
        let actual = ActualType::of_nic(&nic, network.as_ref());
        kinds.iter().any(|kind| actual.is_exclusive(*kind)).then(|| {
            let with: Vec<_> = kinds
                .iter()
                .filter(|k| actual.is_exclusive(**k))
                .map(|k| k.map_or("none", VirtualPortType::as_str))
                .collect();
            format!("{what}: {}", with.join(", "))
        })
    };
    let all: Vec<_> = connections().into_iter().filter_map(exclusive).collect();
    insta::assert_snapshot!(all.join("\n"), @r#"
    private: 802.1Qbh
    passthrough: none, 802.1Qbg, 802.1Qbh
    hostdev: none, 802.1Qbg, 802.1Qbh
    … passthrough: none, 802.1Qbg, 802.1Qbh
    "#);
}
