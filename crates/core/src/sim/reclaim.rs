//! Ports that libvirt's drivers claim back, saying what their guests are plugged into.

use super::Host;
use super::functions::address;
use super::ports::{made, port, show};
use super::tests::{at_rest, host, nat, network, on_devices};
use crate::ErrorKind;
use crate::engine::{Command, Input, PortAttach};
use crate::model::{DirectMode, LinkName, MacAddr, Plug};
use crate::plan::{Change, LinkKind};
use uuid::Uuid;

fn direct(dev: &str, mode: Option<DirectMode>) -> Option<Plug> {
    Some(Plug::Direct { dev: LinkName::new(dev).unwrap(), mode })
}

/// A host with these devices.
fn host_with(devices: &[&str]) -> Host {
    let mut host = host();
    for name in devices {
        host.add_link(name, LinkKind::Other(String::new()));
    }
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    host
}

#[test]
fn a_port_is_claimed_back_where_its_guest_is_plugged_in() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    let plug = |bridge: &str| Some(Plug::Network { bridge: LinkName::new(bridge).unwrap(), mac_table_manager: None });
    made(&mut host, port(1, 7, "lab", plug("virbr0")));
    let refused = host.ask(port(2, 7, "lab", plug("virbr9"))).unwrap_err();
    assert_eq!((refused.kind, refused.field.as_deref()), (ErrorKind::InvalidState, Some("<plug>")));
    at_rest(&mut host);
}

#[test]
fn a_port_is_claimed_back_on_the_device_that_its_guest_is_on() {
    let mut host = host_with(&["eth0", "eth1", "eth2"]);
    host.ask(Command::Create(on_devices("pass", "passthrough", &["eth0", "eth1", "eth2"]))).unwrap();
    let pass = Some(DirectMode::Passthrough);
    // The guest's other port has the first device, which is not where this one is.
    assert_eq!(made(&mut host, port(1, 7, "pass", None)).dev.as_deref(), Some("eth0"));
    assert_eq!(made(&mut host, port(2, 7, "pass", direct("eth1", pass))).dev.as_deref(), Some("eth1"));
    // It is the guest's own, for as many ports as say so, and nobody else's.
    assert_eq!(made(&mut host, port(3, 7, "pass", direct("eth1", None))).dev.as_deref(), Some("eth1"));
    let Command::Attach(mut other) = port(4, 8, "pass", direct("eth1", pass)) else { unreachable!() };
    other.nic.mac = Some(MacAddr([0x52, 0x54, 0, 1, 2, 4]));
    let held = host.ask(Command::Attach(other.clone())).unwrap_err();
    assert_eq!((held.kind, held.field.as_deref()), (ErrorKind::InUse, Some("<plug>")));
    // A guest that uses its device otherwise than its network does now is not where that would plug it in.
    other.port = Some(PortAttach { id: Uuid::from_u128(4), plug: direct("eth2", Some(DirectMode::Bridge)) });
    let refused = host.ask(Command::Attach(other.clone())).unwrap_err();
    assert_eq!((refused.kind, refused.field.as_deref()), (ErrorKind::InvalidState, Some("<plug>")));
    let both =
        "plugged into device eth2 in mode bridge, and its network plugs it into device eth2 in mode passthrough now";
    assert!(refused.cause.contains(both), "{refused}");
    other.port = Some(PortAttach { id: Uuid::from_u128(4), plug: direct("eth2", pass) });
    assert_eq!(made(&mut host, Command::Attach(other)).dev.as_deref(), Some("eth2"));
    host.crash();
    host.settle();
    let devices = [1, 2, 3, 4].map(|id| show(&mut host, id).dev);
    assert_eq!(devices.map(Option::unwrap), ["eth0", "eth1", "eth1", "eth2"]);
    at_rest(&mut host);
}

#[test]
fn a_function_is_claimed_back_by_its_address() {
    let mut host = host();
    host.add_link("eth0", LinkKind::Other(String::new()));
    host.set_functions("eth0", &[(0, None), (1, None)]);
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    let whole = "<network><name>whole</name><forward mode='hostdev' managed='yes'><pf dev='eth0'/></forward></network>";
    host.ask(Command::Create(network(whole))).unwrap();
    assert_eq!(made(&mut host, port(1, 7, "whole", None)).pci, Some(address(0)));
    let plug = |n| Some(Plug::Hostdev { managed: None, driver: None, address: address(n) });
    assert_eq!(made(&mut host, port(2, 7, "whole", plug(1))).pci, Some(address(1)));
    // What its guest has is no link of the host's.
    let refused = host.ask(port(3, 7, "whole", direct("eth0", None))).unwrap_err();
    assert_eq!((refused.kind, refused.field.as_deref()), (ErrorKind::InvalidArgument, Some("<plug>")));
    at_rest(&mut host);
}
