//! What libvirt's 2011 design of network abstraction is for: one `<interface>`, unchanged, on whatever a host's definition of
//! its network makes of it. The design ends with four definitions of 'red-network', which are here, and shows a short
//! `<interface>` (address and network) and a long one (portgroup and virtualport as well).

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::lldpad::Lldpad;
use common::switch::switch;
use common::{Host, SOON, attach, differences, tap};
use patchcord_api::error::ClientError;
use patchcord_api::methods::UndefineNetwork;
use patchcord_api::types::Nic;
use patchcord_testkit::{Namespace, in_namespace, wait_until};
use serde_json::Value;
use std::fs;

const SHORT: &str = "<interface type='network'>
    <source network='red-network'/>
    <mac address='de:ad:be:ef:ca:fe'/>
</interface>";

const LONG: &str = "<interface type='network'>
    <source network='red-network' portgroup='engineering'/>
    <virtualport type='802.1Qbg'>
        <parameters managerid='11' typeid='1193047' typeidversion='2' instanceid='09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f'/>
    </virtualport>
    <mac address='de:ad:be:ef:ca:fe'/>
</interface>";

/// A virtual network of libvirt's; the design leaves its addresses out.
const ROUTE: &str = "<network>
    <name>red-network</name>
    <bridge name='virbr0'/>
    <forward mode='route'/>
    <ip address='192.168.151.1' prefix='24'/>
</network>";

/// A bridge that the host has.
const BRIDGE: &str = "<network>
    <name>red-network</name>
    <forward mode='bridge'/>
    <bridge name='eth0'/>
</network>";

/// A device, with a switch that gives ports profiles. (That 'accounting' is the default is a comment there; it would need
/// default='yes'.)
const VEPA: &str = "<network>
    <name>red-network</name>
    <forward mode='vepa' dev='eth10'/>
    <virtualport type='802.1Qbg'><parameters managerid='11' typeid='1193047' typeidversion='2'/></virtualport>
    <portgroup name='accounting'><virtualport><parameters typeid='22'/></virtualport></portgroup>
    <portgroup name='engineering'><virtualport><parameters typeid='33'/></virtualport></portgroup>
</network>";

/// Devices, each for one guest alone.
const PASSTHROUGH: &str = "<network>
    <name>red-network</name>
    <forward mode='passthrough'>
        <interface dev='eth10'/><interface dev='eth11'/><interface dev='eth12'/><interface dev='eth13'/>
        <interface dev='eth14'/><interface dev='eth15'/><interface dev='eth16'/><interface dev='eth17'/>
    </forward>
</network>";

/// Not a test: the process that plays lldpad, started by the tests below.
#[test]
#[ignore = "is the lldpad process of the other tests"]
fn lldpad_process() {
    common::lldpad::play();
}

/// The host of the design: devices eth10 to eth17 and a bridge eth0, all of which lead to one switch, where a server is at
/// 10.9.0.1 that knows the way to what the host routes.
fn bed(ns: &Namespace) -> (Host<'_>, Lldpad, Namespace) {
    let devices: Vec<String> = (10..18).map(|n| format!("eth{n}")).chain(["uplink".to_owned()]).collect();
    let switch = switch(ns, &devices.iter().map(String::as_str).collect::<Vec<_>>());
    ns.run("ip link add eth0 address 52:54:00:99:00:02 type bridge");
    ns.run("ip link set uplink master eth0");
    ns.run("ip addr add 10.9.0.2/24 dev eth0");
    // Its link-local address would come when it likes.
    ns.run("sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1");
    ns.run("ip link set eth0 up");
    switch.run("ip route add 192.168.151.0/24 via 10.9.0.2");
    let mut host = Host::without_daemon(ns);
    fs::create_dir_all(host.root.join("var/run")).unwrap();
    let lldpad = Lldpad::start(&host, "accept");
    host.start();
    (host, lldpad, switch)
}

/// The links of a kind that live, as `ip` sees them.
fn links(ns: &Namespace, kind: &str) -> Vec<Value> {
    let all = ns.json(&format!("ip -d -j link show type {kind}"));
    let lives = |link: &Value| !link["ifname"].as_str().unwrap().starts_with("pcdel");
    all.as_array().into_iter().flatten().filter(|link| lives(link)).cloned().collect()
}

/// What a NIC is made of, as `ip` and `bridge` see it.
fn made_of(ns: &Namespace, nic: &Nic) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("nothing").to_owned();
    let link = &ns.json(&format!("ip -d -j link show dev {}", tap(nic)))[0];
    let mut told = format!("{} {}", text(&link["linkinfo"]["info_kind"]), text(&link["linkinfo"]["info_data"]["type"]));
    for port in ns.json(&format!("bridge -j link show dev {}", tap(nic))).as_array().into_iter().flatten() {
        told += &format!(", {} in {}", text(&port["state"]), text(&port["master"]));
    }
    for end in links(ns, "macvlan") {
        let mode = text(&end["linkinfo"]["info_data"]["mode"]);
        told += &format!(", macvlan {} in mode {mode} on {}", text(&end["address"]), text(&end["link"]));
    }
    told
}

/// What a NIC's type came down to.
fn actual(nic: &Nic) -> String {
    let actual = &nic.actual;
    let parts = [&actual.bridge, &actual.dev, &actual.mode].map(|part| part.as_deref());
    [Some(actual.kind.as_str())].into_iter().chain(parts).flatten().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_short_interface_becomes_what_its_network_is_on_each_host() {
    let rows = [
        (ROUTE, "192.168.151.9", "network virbr0", "tun tap, forwarding in virbr0", None),
        (BRIDGE, "10.9.0.9", "bridge eth0", "tun tap, forwarding in eth0", None),
        (
            VEPA,
            "10.9.0.9",
            "direct eth10 vepa",
            "tun tap, macvlan de:ad:be:ef:ca:fe in mode vepa on eth10",
            Some("11 1193047 2"),
        ),
        (
            PASSTHROUGH,
            "10.9.0.9",
            "direct eth10 passthrough",
            "tun tap, macvlan de:ad:be:ef:ca:fe in mode passthru on eth10",
            None,
        ),
    ];
    in_namespace(|ns| {
        let (host, lldpad, _switch) = bed(ns);
        let clean = host.state();
        let mut asked = Vec::new();
        for (definition, address, wanted, objects, profile) in rows {
            host.network(definition);
            let (nic, mut guest) = host.guest("web", SHORT);
            let gateway = (definition == ROUTE).then(|| "192.168.151.1".parse().unwrap());
            guest.set_static(address.parse().unwrap(), 24, gateway);
            Host::reaches(&mut guest, "10.9.0.1");
            assert_eq!((nic.state.as_str(), nic.mac.as_deref()), ("plugged", Some("de:ad:be:ef:ca:fe")));
            assert_eq!(actual(&nic), wanted);
            assert_eq!(made_of(ns, &nic), objects, "{wanted}");
            // Who does not say which instance it is is known by its id.
            asked.extend(profile.map(|profile| format!("{profile} {}", nic.id)));
            assert_eq!(lldpad.profiles(), asked, "{wanted}");
            host.detach(&nic.id);
            host.stop_network("red-network");
            host.call(&UndefineNetwork { name: "red-network".into() });
            // A device in passthrough mode has its own address back a moment after its macvlan is gone.
            wait_until("the host as it was", SOON, || match differences(&clean, &host.state()) {
                none if none.is_empty() => Ok(()),
                some => Err(some),
            });
        }
    });
}

/// What the long `<interface>` gets of each definition: what it became and which profile its port has, or the refusal.
#[test]
fn the_long_interface_gets_what_its_network_has_and_else_a_refusal_that_says_what_is_wrong() {
    let with_engineering =
        |definition: &str| definition.replace("</network>", "<portgroup name='engineering'/></network>");
    let no_type = LONG.replace(" typeid='1193047'", "");
    let no_group = LONG.replace(" portgroup='engineering'", "");
    let no_such_group = |and: &str| {
        format!(
            "NotFound: NIC of guest 'web', <source portgroup>: network 'red-network': there is no portgroup 'engineering': \
             the network has none{and}; leave it out to get the network's default"
        )
    };
    let nothing_there = |mode: &str, bridge: &str| {
        format!(
            "<virtualport type>: the NIC says type '802.1Qbg', and network 'red-network' (forward mode '{mode}') gives its \
             NICs {bridge}, where it means nothing; 802.1Qbg goes with a device of the host's (cord or macvtap), 802.1Qbh \
             with that or a PCI device, openvswitch and midonet with a bridge of the host's; leave <virtualport> out to go \
             without"
        )
    };
    let means_nothing =
        |mode: &str, bridge: &str| format!("Unsupported: NIC of guest 'web', {}", nothing_there(mode, bridge));
    let neither = |mode: &str, bridge: &str| no_such_group(&format!("; and {}", nothing_there(mode, bridge)));
    let contradicts = "InvalidXml: NIC of guest 'web', <parameters typeid>: the NIC says typeid 1193047, portgroup \
        'engineering' of network 'red-network' says 33; give it in one of the two places only";
    let instance = "09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f";
    let rows = [
        (ROUTE.to_owned(), LONG, neither("route", "a bridge of its own")),
        (with_engineering(ROUTE), LONG, means_nothing("route", "a bridge of its own")),
        (BRIDGE.to_owned(), LONG, neither("bridge", "a bridge of the host's")),
        (with_engineering(BRIDGE), LONG, means_nothing("bridge", "a bridge of the host's")),
        (VEPA.to_owned(), LONG, contradicts.to_owned()),
        (VEPA.to_owned(), &no_type, format!("direct eth10 vepa, 11 33 2 {instance}")),
        (VEPA.to_owned(), &no_group, format!("direct eth10 vepa, 11 1193047 2 {instance}")),
        (PASSTHROUGH.to_owned(), LONG, no_such_group("")),
        (with_engineering(PASSTHROUGH), LONG, format!("direct eth10 passthrough, 11 1193047 2 {instance}")),
    ];
    in_namespace(|ns| {
        let (host, lldpad, _switch) = bed(ns);
        for (definition, interface, wanted) in rows {
            host.network(&definition);
            let before = (host.state(), lldpad.requests());
            let got = match host.client().call(&attach("web", interface)) {
                Ok(reply) => {
                    host.detach(&reply.nic.id);
                    format!("{}, {}", actual(&reply.nic), lldpad.profiles().pop().unwrap())
                }
                Err(ClientError::Refused { name, refusal }) => {
                    assert_eq!(differences(&before.0, &host.state()), "", "a refusal leaves nothing: {definition}");
                    assert_eq!(lldpad.requests(), before.1, "nor is the switch asked: {definition}");
                    format!("{name}: {refusal}; {}", refusal.hint.as_deref().unwrap())
                }
                Err(other) => panic!("{definition}: {other}"),
            };
            assert_eq!(got, wanted, "{definition}");
            host.stop_network("red-network");
            host.call(&UndefineNetwork { name: "red-network".into() });
        }
    });
}
