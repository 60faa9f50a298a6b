//! Interfaces of the host as documents: what libvirt's own test files say, written from values.

use patchcord_core::model::interface::{
    Addresses, ArpValidate, Bond, BondCarrier, BondMode, BondMonitor, BondPort, BridgePort, Delay, DhcpClient,
    Ethernet, HostBridge, InterfaceKind, LinkReport, OperState, PortKind, Protocol, StartMode, VlanLink,
};
use patchcord_core::model::{Interface, LinkName};
use patchcord_core::xml::write_interface;
use patchcord_testkit::skip;
use std::path::{Path, PathBuf};

fn name(name: &str) -> LinkName {
    LinkName::new(name).expect("a name")
}

fn interface(of: &str, kind: InterfaceKind) -> Interface {
    let start = Some(StartMode::OnBoot);
    Interface { name: name(of), start, mtu: None, addresses: Addresses::default(), report: None, kind }
}

fn ethernet(of: &str) -> Interface {
    interface(of, InterfaceKind::Ethernet(Ethernet::default()))
}

/// What a protocol of IPv4 says: DHCP, addresses with prefixes, a gateway.
fn ipv4(dhcp: Option<Option<bool>>, addresses: &[(&str, Option<u8>)], gateway: Option<&str>) -> Addresses {
    let ip = |text: &str| text.parse().expect("an address");
    let protocol = Protocol {
        dhcp: dhcp.map(|peer_dns| DhcpClient { peer_dns }),
        addresses: addresses.iter().map(|(address, prefix)| (ip(address), *prefix)).collect(),
        gateway: gateway.map(ip),
    };
    Addresses { ipv4: Some(protocol), ..Addresses::default() }
}

fn plain_port(of: &str) -> BridgePort {
    BridgePort { name: name(of), report: None, kind: PortKind::Ethernet(Ethernet::default()) }
}

/// Values for libvirt's files, by name.
fn examples() -> Vec<(&'static str, Interface)> {
    let vlan = || VlanLink { tag: 42, device: name("eth0") };
    let bond_port = |of| BondPort { name: name(of), report: None, ethernet: Ethernet::default() };
    let bond = Bond {
        mode: Some(BondMode::ActiveBackup),
        monitor: Some(BondMonitor::Mii {
            interval: 100,
            down_delay: None,
            up_delay: Some(10),
            carrier: Some(BondCarrier::Ioctl),
        }),
        ports: vec![bond_port("eth1"), bond_port("eth0")],
    };
    let first_port = BridgePort {
        name: name("eth0"),
        report: Some(LinkReport { speed: Some(10), state: None }),
        kind: PortKind::Ethernet(Ethernet { mac: "ab:bb:cc:dd:ee:ff".parse().ok() }),
    };
    let bridge = |delay, ports| InterfaceKind::Bridge(HostBridge { stp: Some(false), delay, ports });
    let vlan_port = BridgePort { name: name("eth0.42"), report: None, kind: PortKind::Vlan(vlan()) };
    let vlans_report = LinkReport { speed: None, state: Some(OperState::LowerLayerDown) };
    let static_with =
        |addresses: &[_], dhcp| Interface { addresses: ipv4(dhcp, addresses, Some("192.168.0.1")), ..ethernet("eth1") };
    vec![
        (
            "bond",
            Interface {
                start: Some(StartMode::None),
                addresses: ipv4(None, &[("192.168.50.7", Some(24))], Some("192.168.50.1")),
                report: Some(LinkReport { speed: Some(1000), state: Some(OperState::Up) }),
                ..interface("bond0", InterfaceKind::Bond(bond))
            },
        ),
        ("bridge-empty", Interface { mtu: Some(1500), ..interface("br0", bridge(None, Vec::new())) }),
        (
            "bridge-vlan",
            Interface { addresses: ipv4(Some(None), &[], None), ..interface("br0", bridge(None, vec![vlan_port])) },
        ),
        (
            "bridge",
            Interface {
                mtu: Some(1500),
                addresses: ipv4(Some(None), &[], None),
                ..interface("br0", bridge(Some(Delay(1)), vec![first_port, plain_port("eth1")]))
            },
        ),
        (
            "ethernet-dhcp-and-multi-static",
            static_with(&[("192.168.0.5", Some(24)), ("1.2.3.4", Some(32))], Some(Some(true))),
        ),
        ("ethernet-static-no-prefix", static_with(&[("192.168.0.5", None)], None)),
        (
            "ipv6-local",
            Interface {
                addresses: Addresses { ipv6: Some(Protocol::default()), ..Addresses::default() },
                ..ethernet("eth0")
            },
        ),
        (
            "vlan",
            Interface {
                addresses: ipv4(Some(Some(false)), &[], None),
                report: Some(vlans_report),
                ..interface("eth0.42", InterfaceKind::Vlan(vlan()))
            },
        ),
    ]
}

#[test]
fn interfaces_are_printed_as_libvirt_prints_them() {
    let folder = std::env::var_os("PATCHCORD_CORPUS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus/libvirt-9.0.0"),
        PathBuf::from,
    );
    let folder = folder.join("interfaceschemadata");
    if !folder.is_dir() {
        let test = "interfaces_are_printed_as_libvirt_prints_them";
        return skip(test, &format!("host has no {} (PATCHCORD_CORPUS)", folder.display()));
    }
    for (file, interface) in examples() {
        let path = folder.join(file).with_extension("xml");
        let expected = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(write_interface(&interface), expected, "{file}");
    }
}

#[test]
fn what_comes_by_itself_is_no_configuration() {
    let report = Some(LinkReport { speed: Some(1000), state: Some(OperState::Up) });
    let mut found = Interface { report, ..ethernet("eth0") };
    found.addresses.add("fe80::1".parse().expect("an address"), 64);
    assert_eq!(found.clone().as_configured(), ethernet("eth0"));
    found.addresses.add("2001:db8::1".parse().expect("an address"), 64);
    let configured = found.as_configured();
    assert_eq!(configured.addresses.ipv6.expect("IPv6").addresses.len(), 1);
}

#[test]
fn a_bond_in_a_bridge_that_asks_for_somebody_and_addresses_that_are_taken() {
    let monitor =
        BondMonitor::Arp { interval: 250, target: [192, 0, 2, 1].into(), validate: Some(ArpValidate::Active) };
    let report = Some(LinkReport { speed: None, state: Some(OperState::Down) });
    let port = BondPort { name: name("eth0"), report, ethernet: Ethernet::default() };
    let bond = Bond { mode: Some(BondMode::Lacp), monitor: Some(monitor), ports: vec![port] };
    let port = BridgePort { name: name("bond0"), report, kind: PortKind::Bond(bond) };
    let bridge = HostBridge { stp: Some(true), delay: Some(Delay(1500)), ports: vec![port] };
    let mut bridge = Interface {
        start: Some(StartMode::Hotplug),
        addresses: Addresses { autoconf: true, ..Addresses::default() },
        report,
        ..interface("br0", InterfaceKind::Bridge(bridge))
    };
    bridge.each_report(|link, report| {
        if let Some(report) = report.as_mut().filter(|_| link.as_str() == "eth0") {
            *report = LinkReport { speed: Some(100), state: Some(OperState::Up) };
        }
    });
    let expected = "<interface type='bridge' name='br0'>
  <start mode='hotplug'/>
  <protocol family='ipv6'>
    <autoconf/>
  </protocol>
  <bridge stp='on' delay='15'>
    <interface type='bond' name='bond0'>
      <link state='down'/>
      <bond mode='802.3ad'>
        <arpmon interval='250' target='192.0.2.1' validate='active'/>
        <interface type='ethernet' name='eth0'>
          <link speed='100' state='up'/>
        </interface>
      </bond>
    </interface>
  </bridge>
</interface>
";
    assert_eq!(write_interface(&bridge), expected);
}
