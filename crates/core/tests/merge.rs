//! What guests get of networks, document by document: the same two `<interface>`s on the four kinds of network that the
//! 2011 design of network abstraction shows, each once as shown and once with the portgroup that the long one names.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use patchcord_core::merge::{Given, Merged, Precedence, merge};
use patchcord_core::model::{ActualType, Network, Nic};
use patchcord_core::xml::{Mode, read_network, read_nic};
use proptest::prelude::*;
use std::fmt::Write as _;
use uuid::Uuid;

/// MAC and network: all that most guests say.
const SHORT: &str = "<interface type='network'>
      <source network='red-network'/>
      <mac address='de:ad:be:ef:ca:fe'/>
    </interface>";

/// With a portgroup and a virtualport.
const LONG: &str = "<interface type='network'>
      <source network='red-network' portgroup='engineering'/>
      <virtualport type='802.1Qbg'>
        <parameters managerid='11' typeid='1193047' typeidversion='2' instanceid='09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f'/>
      </virtualport>
      <mac address='de:ad:be:ef:ca:fe'/>
    </interface>";

const ROUTE: &str = "<network>
      <name>red-network</name>
      <bridge name='virbr0'/>
      <forward mode='route'/>
      <ip address='192.168.151.1' prefix='24'/>
    </network>";

const BRIDGE: &str = "<network>
      <name>red-network</name>
      <forward mode='bridge'/>
      <bridge name='eth0'/>
    </network>";

/// The comment beside it there, that 'accounting' is assumed, would need default='yes'.
const VEPA: &str = "<network>
      <name>red-network</name>
      <forward mode='vepa' dev='eth10'/>
      <virtualport type='802.1Qbg'>
        <parameters managerid='11' typeid='1193047' typeidversion='2'/>
      </virtualport>
      <portgroup name='accounting'>
        <virtualport><parameters typeid='22'/></virtualport>
      </portgroup>
      <portgroup name='engineering'>
        <virtualport><parameters typeid='33'/></virtualport>
      </portgroup>
    </network>";

const PASSTHROUGH: &str = "<network>
      <name>red-network</name>
      <forward mode='passthrough'>
        <interface dev='eth10'/>
        <interface dev='eth11'/>
        <interface dev='eth12'/>
        <interface dev='eth13'/>
        <interface dev='eth14'/>
        <interface dev='eth15'/>
        <interface dev='eth16'/>
        <interface dev='eth17'/>
      </forward>
    </network>";

const ID: Uuid = Uuid::from_u128(0x1d);

fn network(text: &str) -> Network {
    read_network(text, Mode::Strict).unwrap()
}

fn nic(text: &str) -> Nic {
    let nic = read_nic(text).unwrap();
    nic.validate().unwrap();
    nic
}

/// The same network with an empty portgroup 'engineering'.
fn with_engineering(text: &str) -> String {
    text.replace("</network>", "<portgroup name='engineering'/></network>")
}

fn outcome(nic: &Nic, network: &Network) -> String {
    let given = Given { object: format_args!("NIC"), nic, network: Some(network), precedence: Precedence::Nic, id: ID };
    let merged = match merge(&given) {
        Ok(merged) => merged,
        Err(error) => return format!("{:?}: {error}", error.kind),
    };
    let Merged { portgroup, virtualport, id_used, bandwidth, vlan, trust_guest_rx_filters, isolated, tags } = merged;
    assert_eq!((bandwidth, vlan, trust_guest_rx_filters, isolated, tags), (None, None, false, false, Vec::new()));
    let mut told = format!("{:?}", ActualType::of_network(network));
    if let Some(portgroup) = portgroup {
        write!(told, ", portgroup '{portgroup}'").unwrap();
    }
    if let Some(port) = virtualport {
        let number = |n: Option<u32>| n.map_or("-".into(), |n| n.to_string());
        let numbers = [port.manager_id.map(u32::from), port.type_id, port.type_id_version.map(u32::from)].map(number);
        let id = port.instance_id.unwrap().to_string();
        write!(told, ", {} {} {}", port.kind.unwrap().as_str(), numbers.join(" "), &id[id.len() - 4..]).unwrap();
    }
    if id_used {
        told += " (generated)";
    }
    told
}

#[test]
fn the_networks_of_2011() {
    let no_type = LONG.replace(" typeid='1193047'", "");
    let no_group = LONG.replace(" portgroup='engineering'", "");
    let mut told = String::new();
    for (kind, text) in [("route", ROUTE), ("bridge", BRIDGE), ("vepa", VEPA), ("passthrough", PASSTHROUGH)] {
        writeln!(told, "{kind}").unwrap();
        let mut tell = |what: &str, interface: &str, text: &str| {
            writeln!(told, "  {what}: {}", outcome(&nic(interface), &network(text))).unwrap();
        };
        tell("short", SHORT, text);
        tell("long", LONG, text);
        if kind == "vepa" {
            tell("long, typeid left to the portgroup", &no_type, text);
            tell("long, no portgroup", &no_group, text);
            let assumed = text.replace("name='accounting'", "name='accounting' default='yes'");
            tell("short, 'accounting' the default", SHORT, &assumed);
        } else {
            tell("long, with 'engineering'", LONG, &with_engineering(text));
        }
    }
    insta::assert_snapshot!(told, @r#"
    route
      short: Network
      long: NoPortgroup: NIC, <source portgroup>: network 'red-network': there is no portgroup 'engineering': the network has none; leave it out to get the network's default; and <virtualport type>: the NIC says type '802.1Qbg', and network 'red-network' (forward mode 'route') gives its NICs a bridge of its own, where it means nothing; 802.1Qbg goes with a device of the host's (cord or macvtap), 802.1Qbh with that or a PCI device, openvswitch and midonet with a bridge of the host's; leave <virtualport> out to go without
      long, with 'engineering': Unsupported: NIC, <virtualport type>: the NIC says type '802.1Qbg', and network 'red-network' (forward mode 'route') gives its NICs a bridge of its own, where it means nothing; 802.1Qbg goes with a device of the host's (cord or macvtap), 802.1Qbh with that or a PCI device, openvswitch and midonet with a bridge of the host's; leave <virtualport> out to go without
    bridge
      short: Bridge
      long: NoPortgroup: NIC, <source portgroup>: network 'red-network': there is no portgroup 'engineering': the network has none; leave it out to get the network's default; and <virtualport type>: the NIC says type '802.1Qbg', and network 'red-network' (forward mode 'bridge') gives its NICs a bridge of the host's, where it means nothing; 802.1Qbg goes with a device of the host's (cord or macvtap), 802.1Qbh with that or a PCI device, openvswitch and midonet with a bridge of the host's; leave <virtualport> out to go without
      long, with 'engineering': Unsupported: NIC, <virtualport type>: the NIC says type '802.1Qbg', and network 'red-network' (forward mode 'bridge') gives its NICs a bridge of the host's, where it means nothing; 802.1Qbg goes with a device of the host's (cord or macvtap), 802.1Qbh with that or a PCI device, openvswitch and midonet with a bridge of the host's; leave <virtualport> out to go without
    vepa
      short: Direct(Vepa), 802.1Qbg 11 1193047 2 001d (generated)
      long: InvalidXml: NIC, <parameters typeid>: the NIC says typeid 1193047, portgroup 'engineering' of network 'red-network' says 33; give it in one of the two places only
      long, typeid left to the portgroup: Direct(Vepa), portgroup 'engineering', 802.1Qbg 11 33 2 aa4f
      long, no portgroup: Direct(Vepa), 802.1Qbg 11 1193047 2 aa4f
      short, 'accounting' the default: Direct(Vepa), portgroup 'accounting', 802.1Qbg 11 22 2 001d (generated)
    passthrough
      short: Direct(Passthrough)
      long: NoPortgroup: NIC, <source portgroup>: network 'red-network': there is no portgroup 'engineering': the network has none; leave it out to get the network's default
      long, with 'engineering': Direct(Passthrough), portgroup 'engineering', 802.1Qbg 11 1193047 2 aa4f
    "#);
}

proptest! {
    /// Attributes and elements mean the same in whatever order they stand.
    #[test]
    fn order_means_nothing(
        parameters in Just(vec!["managerid='11'", "typeid='33'", "typeidversion='2'", "profileid='x'"]).prop_shuffle(),
        given in proptest::sample::subsequence(vec![0usize, 1, 2, 3], 0..=4),
        elements in Just(vec![0usize, 1, 2]).prop_shuffle(),
    ) {
        // The same parameters, in the order of the grammar and in another.
        let all = ["managerid='11'", "typeid='33'", "typeidversion='2'", "profileid='x'"];
        let chosen: Vec<&str> = given.iter().map(|i| all[*i]).collect();
        let shuffled: Vec<&str> = parameters.into_iter().filter(|p| chosen.contains(p)).collect();
        let interface = |parameters: &[&str], order: &[usize]| {
            let parts = [
                "<source network='red-network' portgroup='engineering'/>".to_owned(),
                format!("<virtualport><parameters {}/></virtualport>", parameters.join(" ")),
                "<mac address='de:ad:be:ef:ca:fe'/>".to_owned(),
            ];
            // An empty virtualport is refused where it is read.
            let parts = order.iter().filter(|i| **i != 1 || !parameters.is_empty()).map(|i| parts[*i].as_str());
            format!("<interface type='network'>{}</interface>", parts.collect::<String>())
        };
        let network = network(VEPA);
        let one = outcome(&nic(&interface(&chosen, &[0, 1, 2])), &network);
        let other = outcome(&nic(&interface(&shuffled, &elements)), &network);
        prop_assert_eq!(one, other);
    }
}
