//! What users see of the host's interfaces.

use super::Host;
use super::tests::{attach, host, nat, nic, nic_on};
use crate::engine::{Body, Command, Effect, Input, InterfaceView};
use crate::model::interface::{BondMode, OperState};
use crate::plan::{BondState, BridgeState, Change, Index, Link, LinkKind, Route};
use crate::{ErrorKind, xml};
use std::collections::BTreeSet;

/// A link that others made, with an address of its own by its index.
fn add(host: &mut Host, name: &str, kind: &str, change: impl FnOnce(&mut Link)) -> Index {
    let kind = match kind {
        "bridge" => LinkKind::Bridge,
        "tap" => LinkKind::Tap,
        "macvtap" => LinkKind::Macvtap,
        other => LinkKind::Other(other.into()),
    };
    let index = host.add_link(name, kind);
    let mut link = host.kernel.link(index).unwrap().clone();
    link.mac = format!("52:54:00:00:00:{:02x}", index.0).parse().ok();
    change(&mut link);
    host.kernel.set_link(index, Some(link.clone()));
    host.tell(Input::Observed(Change::Link(index, Some(link))));
    index
}

fn all(host: &mut Host) -> Vec<InterfaceView> {
    match host.ask(Command::ListInterfaces).unwrap().body {
        Body::Interfaces(all) => all,
        other => panic!("{other:?}"),
    }
}

fn names(host: &mut Host) -> Vec<String> {
    all(host).iter().map(|view| view.name.to_string()).collect()
}

fn document(host: &mut Host, name: &str) -> String {
    match host.ask(Command::DescribeInterface(name.into())).unwrap().body {
        Body::Description(interface) => xml::write_interface(&interface),
        other => panic!("{other:?}"),
    }
}

/// The interface with an address, or what is said instead.
fn with(host: &mut Host, mac: &str) -> Result<String, (ErrorKind, String)> {
    match host.ask(Command::InterfaceWith(mac.parse().unwrap())) {
        Ok(answer) => match answer.body {
            Body::Interface(view) => Ok(view.name.to_string()),
            other => panic!("{other:?}"),
        },
        Err(error) => Err((error.kind, error.to_string())),
    }
}

#[test]
fn parts_of_others_and_guests_are_not_listed_and_can_be_named() {
    let mut host = host();
    add(&mut host, "eth0", "", |_| {});
    let bridge = add(&mut host, "br0", "bridge", |link| {
        link.bridge = Some(BridgeState { stp: true, delay: 205 });
        link.state = OperState::Down;
    });
    add(&mut host, "eth1", "", |link| link.controller = Some(bridge));
    add(&mut host, "vnet7", "tap", |link| link.controller = Some(bridge));
    add(&mut host, "macvtap0", "macvtap", |_| {});
    add(&mut host, "vpn0", "tun", |_| {});
    add(&mut host, "dummy0", "dummy", |link| link.state = OperState::Unknown);
    add(&mut host, "dummy1", "dummy", |link| (link.up, link.state) = (false, OperState::Unknown));
    host.ask(Command::Define(nat("lab", 1))).unwrap();
    host.ask(Command::Start("lab".into())).unwrap();
    let tap = nic(host.ask(attach("web", nic_on("lab"))).unwrap().body).tap.unwrap();
    assert_eq!(names(&mut host), ["br0", "dummy0", "dummy1", "eth0", "virbr0"]);
    let active: Vec<_> = all(&mut host).into_iter().filter(|view| view.active).map(|v| v.name.to_string()).collect();
    assert_eq!(active, ["dummy0", "eth0", "virbr0"]);
    for name in ["eth1", "vnet7", "macvtap0", "vpn0", &tap] {
        let body = host.ask(Command::ShowInterface(name.into())).unwrap().body;
        assert!(matches!(&body, Body::Interface(view) if view.name.as_str() == name), "{body:?}");
    }
    let missing = host.ask(Command::ShowInterface("eth9".into())).unwrap_err();
    assert_eq!(missing.kind, ErrorKind::NoInterface);
    // Guests' taps are no ports that anybody would configure.
    let expected = "<interface type='bridge' name='br0'>
  <mtu size='1500'/>
  <bridge stp='on' delay='2.05'>
    <interface type='ethernet' name='eth1'>
      <link state='up'/>
      <mac address='52:54:00:00:00:04'/>
    </interface>
  </bridge>
</interface>
";
    assert_eq!(document(&mut host, "br0"), expected);
}

#[test]
fn an_address_names_the_interface_that_people_mean() {
    const MAC: &str = "52:54:00:aa:00:01";
    let mac = || MAC.parse().ok();
    let mut host = host();
    assert_eq!(with(&mut host, MAC).unwrap_err().0, ErrorKind::NoInterface);
    // A bridge has the address of a port, and a bond gives its ports its own.
    let bridge = add(&mut host, "br0", "bridge", |link| link.mac = mac());
    add(&mut host, "eth1", "", |link| (link.controller, link.mac) = (Some(bridge), mac()));
    assert_eq!(with(&mut host, MAC).as_deref(), Ok("br0"));
    let mut host = super::tests::host();
    let bond = add(&mut host, "bond0", "bond", |link| {
        link.bond = Some(Box::default());
        link.mac = mac();
    });
    let port = add(&mut host, "eth1", "", |link| (link.controller, link.mac) = (Some(bond), mac()));
    assert_eq!(with(&mut host, MAC).as_deref(), Ok("bond0"));
    // A VLAN has that of its device, and is as much of an interface as that.
    add(&mut host, "bond0.5", "vlan", |link| (link.lower, link.tag, link.mac) = (Some(bond), Some(5), mac()));
    let (kind, told) = with(&mut host, MAC).unwrap_err();
    assert_eq!(kind, ErrorKind::SeveralInterfaces);
    assert!(told.contains("'bond0' and 'bond0.5' have it"), "{told}");
    // What is not listed has an address too.
    let bridge = add(&mut host, "br0", "bridge", |_| {});
    let mut link = host.kernel.link(port).unwrap().clone();
    (link.controller, link.mac) = (Some(bridge), "52:54:00:bb:00:01".parse().ok());
    host.tell(Input::Observed(Change::Link(port, Some(link))));
    assert_eq!(with(&mut host, "52:54:00:bb:00:01").as_deref(), Ok("eth1"));
}

#[test]
fn bonds_and_vlans_are_described_with_addresses_and_the_way_out() {
    let mut host = host();
    let bond = add(&mut host, "bond0", "bond", |_| {});
    add(&mut host, "eth0", "", |link| link.controller = Some(bond));
    let primary = add(&mut host, "eth1", "", |link| {
        (link.controller, link.state) = (Some(bond), OperState::LowerLayerDown);
    });
    let mut link = host.kernel.link(bond).unwrap().clone();
    link.bond = Some(Box::new(BondState { mode: Some(BondMode::ActiveBackup), monitor: None, primary: Some(primary) }));
    host.tell(Input::Observed(Change::Link(bond, Some(link))));
    let vlan = add(&mut host, "bond0.5", "vlan", |link| (link.lower, link.tag) = (Some(bond), Some(5)));
    add(&mut host, "moved", "vlan", |link| link.tag = Some(6));
    let addresses = ["192.0.2.1/24", "2001:db8::1/64"].map(|net| net.parse().unwrap());
    host.tell(Input::Observed(Change::Addresses(vlan, addresses.into())));
    let route = |to: &str, via: Option<&str>, link, metric| Route {
        to: to.parse().unwrap(),
        via: via.map(|via| via.parse().unwrap()),
        link,
        metric,
        protocol: 3,
    };
    let routes: BTreeSet<Route> = [
        route("0.0.0.0/0", Some("192.0.2.9"), vlan, 20),
        route("0.0.0.0/0", Some("192.0.2.8"), vlan, 10),
        route("0.0.0.0/0", Some("2001:db8::7"), vlan, 5),
        route("0.0.0.0/0", None, vlan, 1),
        route("198.51.100.0/24", Some("192.0.2.7"), vlan, 0),
        route("::/0", Some("2001:db8::9"), bond, 0),
    ]
    .into();
    host.tell(Input::Observed(Change::Routes(routes)));
    let expected = "<interface type='vlan' name='bond0.5'>
  <mtu size='1500'/>
  <protocol family='ipv4'>
    <ip address='192.0.2.1' prefix='24'/>
    <route gateway='192.0.2.8'/>
  </protocol>
  <protocol family='ipv6'>
    <ip address='2001:db8::1' prefix='64'/>
  </protocol>
  <link state='up'/>
  <vlan tag='5'>
    <interface name='bond0'/>
  </vlan>
</interface>
";
    assert_eq!(document(&mut host, "bond0.5"), expected);
    let expected = "<interface type='bond' name='bond0'>
  <mtu size='1500'/>
  <protocol family='ipv6'>
    <route gateway='2001:db8::9'/>
  </protocol>
  <link state='up'/>
  <bond mode='active-backup'>
    <interface type='ethernet' name='eth1'>
      <link state='lowerlayerdown'/>
      <mac address='52:54:00:00:00:04'/>
    </interface>
    <interface type='ethernet' name='eth0'>
      <link state='up'/>
      <mac address='52:54:00:00:00:03'/>
    </interface>
  </bond>
</interface>
";
    assert_eq!(document(&mut host, "bond0"), expected);
    // Its device is in another network namespace, and so there is none to name.
    assert!(document(&mut host, "moved").starts_with("<interface type='ethernet' name='moved'>"));
}

#[test]
fn what_a_link_does_by_itself_is_noted_and_leads_to_nothing() {
    let mut host = host();
    host.ask(Command::Define(nat("lab", 1))).unwrap();
    host.ask(Command::Start("lab".into())).unwrap();
    let mut link = host.engine.observed().link_named("virbr0").unwrap().clone();
    for (state, active) in [(OperState::Down, false), (OperState::Up, true)] {
        link.state = state;
        let effects = host.engine.handle(1_000, Input::Observed(Change::Link(link.index, Some(link.clone()))));
        assert_eq!(effects, []);
        assert_eq!(all(&mut host).iter().map(|view| view.active).collect::<Vec<_>>(), [active]);
    }
    // What waits to be tried again goes on waiting.
    link.up = false;
    host.kernel.set_link(link.index, Some(link.clone()));
    host.refuse_after = Some(0);
    host.tell(Input::Observed(Change::Link(link.index, Some(link.clone()))));
    host.settle();
    assert_eq!((host.refuse_after, host.kernel.link_named("virbr0").unwrap().up), (None, false), "it was tried");
    let mut noted = |state, up| {
        (link.state, link.up) = (state, up);
        let effects = host.engine.handle(1_000, Input::Observed(Change::Link(link.index, Some(link.clone()))));
        (effects.iter().any(|effect| matches!(effect, Effect::Apply(..))), all(&mut host)[0].active)
    };
    assert_eq!(noted(OperState::Down, false), (false, false));
    assert_eq!(noted(OperState::Up, false), (false, false));
    // What others do to it is not by itself, whatever its state does meanwhile.
    assert_eq!(noted(OperState::Unknown, true), (false, true));
    assert_eq!(noted(OperState::Down, false), (true, false));
}
