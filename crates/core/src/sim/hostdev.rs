//! NICs on virtual functions and NICs that are one: who gets which, what it is set to, and that it is as before when
//! they are gone.

use super::functions::{address, untouched};
use super::tests::{at_rest, attach, host, nat, network, nic, nic_on};
use super::{Full, Host};
use crate::engine::{Body, Command, DeviceEvent, Event, Free, Input, NicState, NicView, RecordKey};
use crate::intent::Owner;
use crate::model::{Network, Nic, NicSource};
use crate::plan::{Cable, Change, FunctionVlan, LinkKind, MarkKind};
use crate::{Error, ErrorKind, xml};

/// A network with that inside its `<forward>`, and that after it.
fn forwarded(name: &str, mode: &str, forward: &str, rest: &str) -> Box<Network> {
    network(&format!("<network><name>{name}</name><forward mode='{mode}'>{forward}</forward>{rest}</network>"))
}

fn from_pf(name: &str, mode: &str, rest: &str) -> Box<Network> {
    forwarded(name, mode, "<pf dev='eth0'/>", rest)
}

/// A network on the functions of eth4, in a VLAN.
pub(super) fn on_functions(name: &str, mode: &str) -> Box<Network> {
    forwarded(name, mode, "<pf dev='eth4'/>", "<vlan><tag id='42'/></vlan>")
}

const STAFF: &str = "<portgroup name='staff' default='yes'><vlan><tag id='42'/></vlan></portgroup>";

/// A host with a device eth0 that has three virtual functions, with links v0 and v1, and one without.
fn bed() -> Host {
    let mut host = host();
    for name in ["eth0", "eth1", "v0", "v1"] {
        host.add_link(name, LinkKind::Other(String::new()));
    }
    host.set_functions("eth0", &[(0, Some("v0")), (1, Some("v1")), (2, None)]);
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    host.settle();
    host
}

fn attached(host: &mut Host, guest: &str, network: &str) -> NicView {
    nic(host.ask(attach(guest, nic_on(network))).unwrap().body)
}

fn refused(host: &mut Host, command: Command) -> Error {
    let error = host.ask(command).unwrap_err();
    at_rest_all(host);
    error
}

fn at_rest_all(host: &mut Host) {
    at_rest(host);
    assert_eq!(host.check_functions(), Vec::<String>::new());
}

fn document(host: &mut Host, command: Command) -> String {
    let Body::Xml(text) = host.ask(command).unwrap().body else { panic!("no document") };
    text
}

fn device_events(host: &mut Host) -> Vec<(String, Vec<String>, DeviceEvent)> {
    let all = std::mem::take(&mut host.events).into_iter();
    let device = |event| match event {
        Event::Device { device, networks, what } => Some((device, networks, what)),
        _ => None,
    };
    all.filter_map(device).collect()
}

#[test]
fn a_function_is_set_for_its_guest_and_is_as_before_when_that_is_gone() {
    let mut host = bed();
    host.ask(Command::Create(from_pf("sriov", "hostdev", STAFF))).unwrap();
    let before = host.records.clone();
    let view = attached(&mut host, "web", "sriov");
    assert_eq!((view.state, view.actual, view.pci), (NicState::Plugged, "hostdev", Some(address(0))));
    assert_eq!((view.tap, view.ifindex), (None, None));
    assert_eq!(host.sysfs.take(), ["?0", "+0"]);
    at_rest_all(&mut host);
    assert!(host.kernel.link_marked(MarkKind::Tap, view.id).is_none());
    let live = document(&mut host, Command::NicXml { id: view.id, inactive: false });
    assert!(live.contains("<interface type='hostdev' managed='no'>") || live.contains("<interface type='hostdev'>"));
    let source = "<source network='sriov' portgroup='staff'>
    <address type='pci' domain='0x0000' bus='0x3b' slot='0x02' function='0x0'/>
  </source>";
    assert!(live.contains(source), "{live}");
    assert!(live.contains("<tag id='42'/>"), "{live}");
    let listed = document(&mut host, Command::NetworkXml { network: "sriov".into(), inactive: false });
    assert!(listed.contains("function='0x0' connections='1'/>") && listed.contains("function='0x2'/>"), "{listed}");
    host.crash();
    host.settle();
    assert_eq!(host.sysfs.take(), ["+0"], "nobody knows whether it was");
    at_rest_all(&mut host);
    host.ask(Command::Detach(view.id)).unwrap();
    assert_eq!(host.sysfs.take(), ["-0"]);
    at_rest_all(&mut host);
    assert_eq!(host.records, before);
}

#[test]
fn functions_run_out_and_exclude_their_links() {
    let mut host = bed();
    host.ask(Command::Create(from_pf("whole", "hostdev", ""))).unwrap();
    host.ask(Command::Create(from_pf("shared", "bridge", ""))).unwrap();
    let on_link = attached(&mut host, "a", "shared");
    assert_eq!(on_link.dev.as_deref(), Some("v0"));
    let whole: Vec<_> = ["b", "c"].map(|guest| attached(&mut host, guest, "whole")).into();
    assert_eq!(whole.iter().map(|view| view.pci).collect::<Vec<_>>(), [Some(address(1)), Some(address(2))]);
    let error = refused(&mut host, attach("d", nic_on("whole")));
    assert_eq!(error.kind, ErrorKind::InUse);
    let held = |n: usize| format!("is held exclusively by guest '{}' (NIC {})", whole[n].guest, whole[n].id);
    for part in ["0000:3b:02.0 has the link v0, which NICs sit on".to_owned(), held(0), held(1)] {
        assert!(error.cause.contains(&part), "{error}");
    }
    let second = attached(&mut host, "e", "shared");
    assert_eq!(second.dev.as_deref(), Some("v0"), "v1 is a guest's");
    let Body::Devices(devices) = host.ask(Command::ListDevices).unwrap().body else { panic!("no devices") };
    let find = |name: &str| devices.iter().find(|d| d.name == name).unwrap();
    assert_eq!(find("v1").unusable.as_deref(), Some("is the link of 0000:3b:02.1, which a guest has"));
    assert_eq!((find("0000:3b:02.1").function.clone(), find("v0").free), (Some(("eth0".into(), 1)), Free::Shared));
    // One that the host itself uses is nobody's.
    for view in whole {
        host.ask(Command::Detach(view.id)).unwrap();
    }
    let v1 = host.kernel.link_named("v1").unwrap().index;
    host.kernel.set_addresses(v1, ["192.0.2.1/24".parse().unwrap()].into());
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    assert_eq!(attached(&mut host, "f", "whole").pci, Some(address(2)));
    let error = refused(&mut host, attach("g", nic_on("whole")));
    assert!(error.cause.contains("has the link v1, on which the host has 192.0.2.1"), "{error}");
}

#[test]
fn what_a_device_has_is_found_and_kept_up_to_date() {
    let mut host = bed();
    host.ask(Command::Create(from_pf("links", "private", ""))).unwrap();
    host.ask(Command::Create(from_pf("whole", "hostdev", ""))).unwrap();
    let by_hand = "<address type='pci' domain='0' bus='0x3b' slot='2' function='3'/>";
    let answer = host.ask(Command::Create(forwarded("mine", "hostdev", by_hand, ""))).unwrap();
    assert_eq!(answer.warnings, ["no virtual functions of this host's: 0000:3b:02.3; NICs get others"]);
    let free = |host: &mut Host| {
        let Body::Networks(all) = host.ask(Command::ListNetworks).unwrap().body else { panic!("no networks") };
        all.into_iter().map(|n| (n.name, n.free_devices.unwrap())).collect::<Vec<_>>()
    };
    let counts = |links, mine, whole| vec![("links".into(), links), ("mine".into(), mine), ("whole".into(), whole)];
    assert_eq!(free(&mut host), counts(2, 0, 3));
    device_events(&mut host);
    host.add_link("v3", LinkKind::Other(String::new()));
    host.set_functions("eth0", &[(0, Some("v0")), (1, Some("v1")), (2, None), (3, Some("v3"))]);
    host.settle();
    let appeared = |name: &str, networks: &[&str]| {
        (name.to_owned(), networks.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>(), DeviceEvent::Appeared)
    };
    let mut told = device_events(&mut host);
    told.iter_mut().for_each(|(_, networks, _)| networks.sort_unstable());
    assert_eq!(told, [appeared("v3", &["links"]), appeared("0000:3b:02.3", &["mine", "whole"])]);
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    assert_eq!(free(&mut host), counts(3, 1, 4));
    // One that its guest has goes, and comes back as if new.
    let view = nic(host.ask(attach("web", nic_on("mine"))).unwrap().body);
    host.sysfs.take();
    host.set_functions("eth0", &[(0, Some("v0"))]);
    host.settle();
    let show = |host: &mut Host| nic(host.ask(Command::ShowNic(view.id)).unwrap().body).state;
    assert_eq!(show(&mut host), NicState::Waiting);
    host.set_functions("eth0", &[(0, Some("v0")), (3, None)]);
    host.settle();
    assert_eq!((show(&mut host), host.sysfs.take()), (NicState::Plugged, vec!["+3".to_owned()]));
    at_rest_all(&mut host);
    let live = document(&mut host, Command::NetworkXml { network: "links".into(), inactive: false });
    assert!(live.contains("<pf dev='eth0'/>") && live.contains("<interface dev='v0'/>"), "{live}");
    assert!(!live.contains("v1"), "{live}");
    // A daemon that starts finds what there is then.
    host.set_functions("eth0", &[(1, Some("v1")), (3, None)]);
    host.crash();
    host.settle();
    let live = document(&mut host, Command::NetworkXml { network: "links".into(), inactive: false });
    assert!(live.contains("<interface dev='v1'/>") && !live.contains("v0"), "{live}");
    at_rest_all(&mut host);
    // And one without is none to have functions of.
    for (mode, dev, kind) in [("bridge", "eth1", ErrorKind::InvalidArgument), ("hostdev", "eth7", ErrorKind::NoDevice)]
    {
        let other = forwarded("other", mode, &format!("<pf dev='{dev}'/>"), "");
        let error = refused(&mut host, Command::Create(other));
        assert_eq!((error.kind, error.field.as_deref()), (kind, Some("<pf dev>")), "{error}");
    }
    host.set_functions("eth0", &[]);
    let answer = host.ask(Command::Create(from_pf("none", "hostdev", ""))).unwrap();
    assert!(answer.warnings[0].starts_with("eth0 has no virtual functions now"), "{:?}", answer.warnings);
}

#[test]
fn a_tap_on_a_function_of_its_own_has_that_set_while_it_is_there() {
    let mut host = bed();
    host.ask(Command::Create(from_pf("pass", "passthrough", STAFF))).unwrap();
    host.ask(Command::Create(nat("nat", 1))).unwrap();
    host.ask(Command::Create(forwarded("one", "passthrough", "<interface dev='v1'/>", ""))).unwrap();
    let view = attached(&mut host, "web", "pass");
    assert_eq!((view.dev.as_deref(), host.sysfs.take()), (Some("v0"), vec!["?0".to_owned(), "+0".to_owned()]));
    at_rest_all(&mut host);
    let id = view.id;
    for (to, done) in [("one", &["?1", "+1", "-0"][..]), ("nat", &["-1"]), ("pass", &["?0", "+0"]), ("", &["-0"])] {
        let to = if to.is_empty() { Nic::new(NicSource::None) } else { nic_on(to) };
        host.ask(Command::Modify(id, Box::new(to), Default::default())).unwrap();
        assert_eq!(host.sysfs.take(), done);
        at_rest_all(&mut host);
    }
    host.ask(Command::Modify(id, Box::new(nic_on("pass")), Default::default())).unwrap();
    host.sysfs.take();
    for (command, done) in [
        (Command::Link(id, false), &["-0"][..]),
        (Command::Link(id, true), &["?0", "+0"]),
        (Command::Stop("pass".into()), &["-0"]),
        (Command::Create(from_pf("pass", "passthrough", "")), &["?0", "+0"]),
        (Command::Detach(id), &["-0"]),
    ] {
        host.ask(command).unwrap();
        assert_eq!(host.sysfs.take(), done);
        at_rest_all(&mut host);
    }
}

#[test]
fn only_functions_have_a_vlan() {
    let mut host = bed();
    host.ask(Command::Create(forwarded("mixed", "passthrough", "<interface dev='eth1'/>", STAFF))).unwrap();
    let error = refused(&mut host, attach("a", nic_on("mixed")));
    assert_eq!((error.kind, error.field.as_deref()), (ErrorKind::Unsupported, Some("<vlan>")));
    assert!(error.cause.starts_with("eth1 is no virtual function"), "{error}");
    // Not even later, when it waits for a device that turns out to be none.
    let mut waits = nic_on("late");
    waits.optional = true;
    host.ask(Command::Create(forwarded("late", "passthrough", "<interface dev='eth5'/>", STAFF))).unwrap();
    let view = nic(host.ask(attach("b", waits)).unwrap().body);
    assert_eq!(view.state, NicState::Waiting);
    super::devices::appears(&mut host, "eth5");
    host.ask(Command::Stop("late".into())).unwrap();
    host.ask(Command::Create(forwarded("late", "passthrough", "<interface dev='eth5'/>", STAFF))).unwrap();
    assert_eq!(nic(host.ask(Command::ShowNic(view.id)).unwrap().body).state, NicState::Waiting);
    let qbh = "<virtualport type='802.1Qbh'><parameters profileid='p'/></virtualport>";
    let own = "<interface type='network'><source network='qbh'/><vlan><tag id='7'/></vlan></interface>";
    host.ask(Command::Create(forwarded("qbh", "passthrough", "<interface dev='v0'/>", qbh))).unwrap();
    let error = refused(&mut host, attach("c", xml::read_nic(own).unwrap()));
    assert!(error.cause.contains("the switch's profile says"), "{error}");
}

#[test]
fn who_has_a_tap_gets_no_function_later() {
    let mut host = bed();
    host.set_functions("eth0", &[]);
    host.ask(Command::Create(from_pf("whole", "hostdev", ""))).unwrap();
    host.ask(Command::Create(from_pf("pass", "passthrough", ""))).unwrap();
    let [whole, pass] = ["whole", "pass"].map(|network| {
        let wanted = crate::model::Nic { optional: true, ..nic_on(network) };
        nic(host.ask(attach("web", wanted)).unwrap().body)
    });
    assert_eq!((whole.state, pass.state), (NicState::Waiting, NicState::Waiting));
    assert!(whole.cause.is_some_and(|cause| cause.contains("detach the NIC and attach a new one")), "{whole:?}");
    assert_eq!(pass.cause, None);
    host.set_functions("eth0", &[(0, Some("v0"))]);
    host.settle();
    let [whole, pass] = [whole, pass].map(|of| nic(host.ask(Command::ShowNic(of.id)).unwrap().body));
    assert_eq!((whole.state, whole.pci), (NicState::Waiting, None));
    assert_eq!((pass.state, pass.dev.as_deref()), (NicState::Plugged, Some("v0")));
    at_rest_all(&mut host);
}

#[test]
fn who_waits_gets_a_function_when_it_is_what_it_was() {
    let mut host = bed();
    host.set_functions("eth0", &[]);
    host.ask(Command::Create(from_pf("pass", "passthrough", ""))).unwrap();
    let [first, second] = ["a", "b"].map(|guest| {
        let wanted = crate::model::Nic { optional: true, ..nic_on("pass") };
        nic(host.ask(attach(guest, wanted)).unwrap().body).id
    });
    host.set_functions("eth0", &[(0, Some("v0"))]);
    host.settle();
    host.sysfs.keeps = true;
    host.ask(Command::Detach(first)).unwrap();
    let state = |host: &mut Host| nic(host.ask(Command::ShowNic(second)).unwrap().body).state;
    assert_eq!(state(&mut host), NicState::Waiting);
    host.sysfs.keeps = false;
    host.settle_with_clock();
    assert_eq!(state(&mut host), NicState::Plugged);
    at_rest_all(&mut host);
}

#[test]
fn what_a_driver_refuses_is_not_attached() {
    let mut host = bed();
    host.ask(Command::Create(from_pf("whole", "hostdev", ""))).unwrap();
    host.ask(Command::Create(from_pf("pass", "passthrough", ""))).unwrap();
    let before = host.records.clone();
    host.sysfs.refuses = true;
    for network in ["whole", "pass"] {
        let error = refused(&mut host, attach("web", nic_on(network)));
        assert_eq!((error.kind, error.field.as_deref()), (ErrorKind::HostFailed, Some("<source>")));
        assert_eq!(error.cause, "its driver refuses the MAC address");
        assert_eq!(host.sysfs.take(), ["?0", "+0", "-0"]);
        assert_eq!(host.records, before);
    }
    host.sysfs.refuses = false;
    // Nor what can't be written down: nothing is set without.
    host.full = Full { run_state: true, ..Full::default() };
    for network in ["whole", "pass"] {
        host.ask(attach("web", nic_on(network))).unwrap_err();
        assert!(host.sysfs.take().iter().all(|what| what.starts_with('?')));
    }
    host.full = Full::default();
    host.settle_with_clock();
    at_rest_all(&mut host);
    let view = attached(&mut host, "web", "whole");
    host.sysfs.keeps = true;
    let answer = host.ask(Command::Detach(view.id)).unwrap();
    assert_eq!(
        answer.warnings,
        ["0000:3b:02.0 is not what it was before this NIC had it, and is given to no other until it is: its driver \
          refuses the VLAN"]
    );
    assert!(host.engine.intent().nic(view.id).is_none());
    // Nobody else gets it as it is: not now, and not from a daemon that starts meanwhile.
    let given = |host: &mut Host| attached(host, "db", "whole").pci.unwrap();
    let other = given(&mut host);
    assert_eq!(other, address(1));
    host.events.clear();
    host.crash();
    host.settle();
    assert_eq!(host.sysfs.is_set(address(0)).mac, view.mac);
    let on_link = attach("db", nic_on("pass"));
    let error = host.ask(on_link.clone()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::InUse);
    let why =
        "v0 could not be made what it was before its last guest, which is tried again: its driver refuses the VLAN";
    assert!(error.cause.contains(why), "{error}");
    // It is tried again until that is possible, and told once each way.
    host.sysfs.take();
    host.settle_with_clock();
    assert!(host.sysfs.take().len() > 2);
    host.sysfs.keeps = false;
    host.settle_with_clock();
    at_rest_all(&mut host);
    let told = host.events.iter().filter_map(|event| match event {
        Event::Drift { what, repaired, .. } => Some((what.split(',').next().unwrap_or_default(), *repaired)),
        _ => None,
    });
    let (not, is) = (
        "0000:3b:02.0 is not what it was before this NIC had it",
        "0000:3b:02.0 is what it was before this NIC had it",
    );
    assert_eq!(told.collect::<Vec<_>>(), [(not, false), (is, true)]);
    assert!(!host.records.keys().any(|key| matches!(key, RecordKey::Function(_, of) if *of == address(0))));
    host.ask(on_link).unwrap();
    at_rest_all(&mut host);
}

#[test]
fn a_guest_keeps_its_function_while_its_network_is_stopped() {
    let mut host = bed();
    host.ask(Command::Define(from_pf("whole", "hostdev", STAFF))).unwrap();
    host.ask(Command::Start("whole".into())).unwrap();
    let id = attached(&mut host, "web", "whole").id;
    let show = |host: &mut Host| nic(host.ask(Command::ShowNic(id)).unwrap().body);
    host.sysfs.take();
    host.ask(Command::Stop("whole".into())).unwrap();
    assert_eq!((show(&mut host).state, host.sysfs.take()), (NicState::Parked, vec!["+0".to_owned()]));
    let vlan = FunctionVlan { id: 42, ..FunctionVlan::default() };
    at_rest_all(&mut host);
    host.crash();
    host.settle();
    at_rest_all(&mut host);
    host.ask(Command::Start("whole".into())).unwrap();
    assert_eq!(show(&mut host).state, NicState::Plugged);
    for (up, state) in [(false, NicState::Unplugged), (true, NicState::Plugged)] {
        host.ask(Command::Link(id, up)).unwrap();
        assert_eq!((show(&mut host).state, show(&mut host).pci), (state, Some(address(0))));
        at_rest_all(&mut host);
    }
    assert_ne!(untouched(0).vlan, Some(vlan));
    // A driver that can't pull a cable keeps nobody from stopping; it is told.
    host.sysfs.refuses = true;
    host.events.clear();
    host.ask(Command::Stop("whole".into())).unwrap();
    let told = |event: &Event| matches!(event, Event::Drift { what, .. } if what.contains("may still see its cable"));
    assert_eq!(host.events.iter().filter(|event| told(event)).count(), 1);
    host.sysfs.refuses = false;
    host.ask(Command::Start("whole".into())).unwrap();
    at_rest_all(&mut host);
    // A network that is gone for good leaves its guests where it had them.
    host.ask(Command::Create(forwarded("once", "hostdev", "<pf dev='eth0'/>", "<vlan><tag id='9'/></vlan>"))).unwrap();
    let once = attached(&mut host, "db", "once");
    host.ask(Command::Stop("once".into())).unwrap();
    let set = host.sysfs.is_set(once.pci.unwrap());
    assert_eq!((set.vlan.map(|vlan| vlan.id), set.cable), (Some(9), Some(Cable::Pulled)));
    host.ask(Command::Detach(once.id)).unwrap();
    at_rest_all(&mut host);
    // Its network may come back with something else: what the guest has is the guest's.
    host.ask(Command::Stop("whole".into())).unwrap();
    let uuid = host.engine.intent().nic(id).unwrap().network;
    host.ask(Command::Define(Box::new(Network { uuid, ..*nat("whole", 1) }))).unwrap();
    host.ask(Command::Start("whole".into())).unwrap();
    let view = show(&mut host);
    assert_eq!((view.state, view.pci, view.tap), (NicState::Waiting, Some(address(0)), None));
    assert!(view.cause.unwrap().starts_with("its network gives no PCI devices any more"));
    host.ask(Command::Detach(id)).unwrap();
    at_rest_all(&mut host);
}

#[test]
fn a_pci_device_is_the_guests_for_as_long_as_the_nic_lives() {
    let mut host = bed();
    host.ask(Command::Create(from_pf("whole", "hostdev", ""))).unwrap();
    host.ask(Command::Create(nat("nat", 1))).unwrap();
    let given = "<interface type='network'><source network='whole'/><target dev='tap7'/></interface>";
    let answer = host.ask(attach("web", xml::read_nic(given).unwrap())).unwrap();
    assert_eq!(answer.warnings, ["there will be no tap7: its guest gets a PCI device, and no tap"]);
    let function = nic(answer.body);
    let tap = attached(&mut host, "db", "nat");
    for (id, to, says) in [
        (function.id, nic_on("nat"), "its guest has PCI device 0000:3b:02.0, which can't be taken from it"),
        (function.id, Nic::new(NicSource::None), "its guest has PCI device 0000:3b:02.0"),
        (tap.id, nic_on("whole"), "the NIC has a tap, and can't become a PCI device"),
    ] {
        let error = refused(&mut host, Command::Modify(id, Box::new(to), Default::default()));
        assert!(error.kind == ErrorKind::Unsupported && error.cause.starts_with(says), "{error}");
    }
    // Its VLAN may change.
    let mut tagged = nic_on("whole");
    tagged.vlan = xml::read_nic("<interface type='none'><vlan><tag id='9'/></vlan></interface>").unwrap().vlan;
    host.sysfs.take();
    host.ask(Command::Modify(function.id, Box::new(tagged), Default::default())).unwrap();
    assert_eq!(host.sysfs.take(), ["+0"]);
    at_rest_all(&mut host);
}

#[test]
fn a_driver_is_bound_where_that_is_allowed() {
    let mut host = bed();
    let managed = |driver: &str| {
        network(&format!(
            "<network><name>m</name><forward mode='hostdev' managed='yes'>{driver}<pf dev='eth0'/></forward></network>"
        ))
    };
    for (driver, bound) in
        [("", "vfio-pci"), ("<driver name='vfio'/>", "vfio-pci"), ("<driver name='xen'/>", "pciback")]
    {
        host.ask(Command::Create(managed(driver))).unwrap();
        let id = attached(&mut host, "web", "m").id;
        let setup =
            host.engine.intent().nic(id).and_then(|nic| crate::plan::function(host.engine.intent(), &host.kernel, nic));
        assert_eq!(setup.unwrap().driver.as_deref(), Some(bound));
        at_rest_all(&mut host);
        host.ask(Command::Detach(id)).unwrap();
        host.ask(Command::Stop("m".into())).unwrap();
        at_rest_all(&mut host);
    }
    host.forbid_drivers();
    let error = refused(&mut host, Command::Create(managed("")));
    assert_eq!((error.kind, error.field.as_deref()), (ErrorKind::Unsupported, Some("<forward managed>")));
}

#[test]
fn a_guest_that_dies_leaves_no_function_behind() {
    let mut host = bed();
    let owner = Owner { pid: 5, start_time: 6 };
    host.processes.insert(owner);
    host.ask(Command::Create(from_pf("whole", "hostdev", STAFF))).unwrap();
    host.ask(Command::Create(from_pf("pass", "passthrough", STAFF))).unwrap();
    for (network, down) in [("whole", false), ("pass", false), ("whole", true), ("pass", true)] {
        let Command::Attach(mut wanted) = attach("web", nic_on(network)) else { unreachable!() };
        wanted.owner = Some(owner);
        host.processes.insert(owner);
        host.ask(Command::Attach(wanted)).unwrap();
        at_rest_all(&mut host);
        if down {
            host.processes.remove(&owner);
            host.crash();
        } else {
            host.kill(owner);
        }
        host.settle();
        at_rest_all(&mut host);
        assert_eq!(host.engine.intent().nics().count(), 0);
    }
}

#[test]
fn with_802_1qbh_the_switch_is_asked_about_the_function() {
    let mut host = bed();
    let qbh = "<virtualport type='802.1Qbh'><parameters profileid='gold'/></virtualport>";
    host.ask(Command::Create(from_pf("whole", "hostdev", qbh))).unwrap();
    let id = attached(&mut host, "web", "whole").id;
    assert!(host.sysfs.take().is_empty(), "its profile says all");
    let given = &host.switch.given[&id];
    assert_eq!((given.device.as_str(), given.function), ("eth0", Some(address(0))));
    at_rest_all(&mut host);
    host.crash();
    host.settle();
    at_rest_all(&mut host);
    host.ask(Command::Detach(id)).unwrap();
    assert!(host.switch.given.is_empty());
    at_rest_all(&mut host);
}

#[test]
fn a_function_is_nobodys_before_it_is_what_it_was() {
    let mut host = bed();
    host.set_functions("eth0", &[(0, Some("v0"))]);
    host.ask(Command::Create(from_pf("whole", "hostdev", ""))).unwrap();
    host.ask(Command::Create(from_pf("shared", "bridge", ""))).unwrap();
    let owner = Owner { pid: 5, start_time: 6 };
    host.processes.insert(owner);
    let Command::Attach(mut wanted) = attach("web", nic_on("whole")) else { unreachable!() };
    wanted.owner = Some(owner);
    host.ask(Command::Attach(wanted)).unwrap();
    host.sysfs.slow = true;
    host.kill(owner);
    for network in ["whole", "shared"] {
        let error = host.ask(attach("db", nic_on(network))).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InUse);
        assert!(error.cause.ends_with("is being given back just now"), "{error}");
    }
    host.end_restores();
    let view = attached(&mut host, "db", "whole");
    at_rest_all(&mut host);
    host.ask(Command::Detach(view.id)).unwrap();
    at_rest_all(&mut host);
}

#[test]
fn nothing_is_set_before_what_it_was_is_written_down() {
    let mut host = bed();
    host.ask(Command::Create(from_pf("pass", "passthrough", STAFF))).unwrap();
    attached(&mut host, "web", "pass");
    let functions = [(0, Some("v0")), (1, Some("v1")), (2, None)];
    let goes = |host: &mut Host, functions: &[(u8, Option<&str>)]| {
        host.set_functions("eth0", functions);
        host.settle();
        host.settle_with_clock();
    };
    goes(&mut host, &functions[1..]);
    // When it is back there is no room to write down what it was.
    host.full = Full { run_state: true, ..Full::default() };
    goes(&mut host, &functions);
    assert_eq!(host.sysfs.is_set(address(0)), untouched(0));
    host.full = Full::default();
    host.settle_with_clock();
    at_rest_all(&mut host);
    assert_eq!(host.sysfs.is_set(address(0)).vlan.map(|vlan| vlan.id), Some(42));
}
