//! Virtual functions: pools of them, NICs on them and NICs that are one, set and given back; what survives what.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::switch::{address, switch};
use common::{Host, SOON, attach, differences, interface, told};
use patchcord_api::Nic;
use patchcord_api::methods::{GetNICXML, GetNetworkXML, ListDevices, ModifyNIC, SetNICLink, StartNetwork};
use patchcord_testkit::{NetdevSim, Sysfs, in_namespace, wait_until};
use serde_json::{Value, json};
use std::fs;

const PF: &str = "0000:3b:00.0";
const VFS: [&str; 3] = ["0000:3b:02.0", "0000:3b:02.1", "0000:3b:02.2"];

/// A sysfs of the host's in which the link `pf` has three functions, the first two with links.
fn sysfs(host: &Host<'_>, pf: &str, links: [&str; 2]) -> Sysfs {
    let sysfs = Sysfs::new(&host.root);
    for driver in ["iavf", "vfio-pci"] {
        sysfs.add_driver(driver);
    }
    for function in [PF].iter().chain(&VFS) {
        sysfs.add_function(function);
    }
    sysfs.enable(PF, &VFS);
    sysfs.add_real_link(PF, pf);
    for (function, link) in VFS.iter().zip(links) {
        sysfs.bind(function, "iavf");
        sysfs.add_real_link(function, link);
    }
    sysfs
}

fn from_pf(name: &str, mode: &str, pf: &str, rest: &str) -> String {
    format!("<network><name>{name}</name><forward {mode}><pf dev='{pf}'/></forward>{rest}</network>")
}

fn names(host: &Host<'_>) -> Vec<(String, Option<String>, Option<u32>)> {
    let devices = host.call(&ListDevices {}).devices;
    devices.into_iter().filter(|d| d.present).map(|d| (d.name, d.pf, d.function)).collect()
}

#[test]
fn the_functions_of_a_device_are_a_pool() {
    in_namespace(|ns| {
        let _switch = switch(ns, &["eth10", "eth11", "eth12"]);
        let mut host = Host::without_daemon(ns);
        let sysfs = sysfs(&host, "eth10", ["eth11", "eth12"]);
        host.start();
        host.network(&from_pf("pool", "mode='vepa'", "eth10", ""));
        let function = |name: &str, number| (name.to_owned(), Some("eth10".to_owned()), Some(number));
        assert_eq!(names(&host), [function("eth11", 0), function("eth12", 1)]);
        let (first, mut guest) = host.guest_on("pool", "a");
        address(&mut guest, 21);
        Host::reaches(&mut guest, "10.9.0.1");
        let (second, _second) = host.guest_on("pool", "b");
        let on = [&first, &second].map(|nic| nic.actual.dev.clone().unwrap());
        assert_eq!(on, ["eth11", "eth12"]);

        // A third function gets a driver, and with that a link; the second one loses both.
        sysfs.add_link(VFS[2], "eth13", &[]);
        ns.run("ip link add eth13 type veth peer name eth13p");
        wait_until("the new function's link", SOON, || {
            if names(&host).len() == 3 { Ok(()) } else { Err(format!("{:?}", names(&host))) }
        });
        sysfs.unbind(VFS[1]);
        ns.run("ip link del eth12");
        wait_until("the old function's end", SOON, || match &names(&host)[..] {
            [(a, ..), (b, ..)] if a == "eth11" && b == "eth13" => Ok(()),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(host.nic(&second.id).state, "waiting");
        let live = GetNetworkXML { name: "pool".into(), inactive: Some(false) };
        let xml = host.call(&live).xml;
        assert!(xml.contains("<pf dev='eth10'/>\n    <interface dev='eth11' connections='1'/>"), "{xml}");
        assert!(xml.contains("<interface dev='eth13'/>") && !xml.contains("eth12"), "{xml}");
        host.kill();
        host.start();
        assert_eq!(host.call(&live).xml, xml);
        Host::reaches(&mut guest, "10.9.0.1");
    });
}

#[test]
fn what_the_device_refuses_is_not_attached() {
    in_namespace(|ns| {
        // Nobody can set functions of a veth.
        let _switch = switch(ns, &["eth10", "eth11", "eth12"]);
        let mut host = Host::without_daemon(ns);
        let _sysfs = sysfs(&host, "eth10", ["eth11", "eth12"]);
        host.start();
        for mode in ["passthrough", "hostdev"] {
            host.network(&from_pf(mode, &format!("mode='{mode}'"), "eth10", ""));
            let before = host.state();
            let (name, refusal) = host.refused(&attach("web", &interface(mode)));
            assert_eq!((name.as_str(), refusal.field.as_deref()), ("HostFailed", Some("<source>")), "{refusal}");
            let says = "virtual function 0 of eth10: there is none of that number; the link has 0";
            assert_eq!(refusal.cause, says);
            assert_eq!(differences(&before, &host.state()), "");
        }
        let managed = from_pf("bound", "mode='hostdev' managed='yes'", "eth10", "");
        host.call(&patchcord_api::methods::DefineNetwork { xml: managed });
        let (_, refusal) = host.refused(&StartNetwork { name: "bound".into() });
        assert_eq!(refusal.field.as_deref(), Some("<forward managed>"));
        assert!(refusal.hint.unwrap().contains("bind_drivers = true"));
    });
}

/// What `ip` shows of a function's settings: address, VLAN, trust, cable.
fn shown(host: &Host<'_>, number: usize) -> Value {
    let vf = &host.ns.json("ip -j -d link show eth0")[0]["vfinfo_list"][number];
    json!([vf["address"], vf["vlan_list"][0], vf["trust"], vf["link_state"]])
}

fn driver(sysfs: &Sysfs, function: &str) -> Option<String> {
    let driver = fs::read_link(sysfs.device(function).join("driver")).ok()?;
    Some(driver.file_name()?.to_string_lossy().into_owned())
}

fn attached(host: &Host<'_>, network: &str) -> Nic {
    host.call(&attach("web", &interface(network))).nic
}

#[test]
fn a_function_is_a_guests_and_is_what_it_was_when_that_is_gone() {
    in_namespace(|ns| {
        let Some(_pf) = NetdevSim::start("eth0", 3) else { return };
        let _switch = switch(ns, &["eth11", "eth12"]);
        let mut host = Host::without_daemon(ns);
        let sysfs = sysfs(&host, "eth0", ["eth11", "eth12"]);
        let _kernel = sysfs.bind_as_told("iavf");
        fs::create_dir_all(host.root.join("etc/patchcord")).unwrap();
        fs::write(host.root.join("etc/patchcord/patchcord.toml"), "[devices]\nbind_drivers = true\n").unwrap();
        ns.run("ip link set eth0 vf 0 mac 52:54:00:aa:aa:aa vlan 7 qos 2");
        let was = json!(["52:54:00:aa:aa:aa", {"vlan": 7, "qos": 2}, false, "auto"]);
        assert_eq!(shown(&host, 0), was);
        host.start();
        let staff = "<vlan><tag id='42'/></vlan>";
        host.network(&from_pf("whole", "mode='hostdev' managed='yes'", "eth0", staff));
        host.network(&from_pf("pass", "mode='passthrough'", "eth0", ""));
        let before = host.state();

        let nic = attached(&host, "whole");
        assert_eq!((nic.state.as_str(), nic.actual.kind.as_str()), ("plugged", "hostdev"));
        assert_eq!((nic.actual.pci.as_deref(), nic.actual.tap.as_deref()), (Some(VFS[0]), None));
        let set = |cable: &str| json!([nic.mac, {"vlan": 42}, false, cable]);
        assert_eq!(shown(&host, 0), set("auto"));
        assert_eq!(driver(&sysfs, VFS[0]).as_deref(), Some("vfio-pci"));
        let xml = host.call(&GetNICXML { id: nic.id.clone(), inactive: Some(false) }).xml;
        assert!(xml.starts_with("<interface type='hostdev' managed='yes'>"), "{xml}");
        assert!(xml.contains("<address type='pci' domain='0x0000' bus='0x3b' slot='0x02' function='0x0'/>"), "{xml}");

        // The daemon dies; its guest has it still, and after another daemon's start, too.
        host.kill();
        assert_eq!(shown(&host, 0), set("auto"));
        host.start();
        assert_eq!(host.nic(&nic.id).actual.pci.as_deref(), Some(VFS[0]));
        assert_eq!(shown(&host, 0), set("auto"));
        for (up, cable) in [(false, "disable"), (true, "auto")] {
            host.call(&SetNICLink { id: nic.id.clone(), up });
            assert_eq!(shown(&host, 0), set(cable));
        }
        host.stop_network("whole");
        assert_eq!(shown(&host, 0), set("disable"), "parked, and in its VLAN still");
        host.start_network("whole");
        assert_eq!(shown(&host, 0), set("auto"));
        let (_, refusal) = host.refused(&ModifyNIC { id: nic.id.clone(), xml: interface("pass") });
        assert!(refusal.cause.starts_with("its guest has PCI device 0000:3b:02.0"), "{refusal}");

        // A guest on the next one, by its link.
        let (on_link, mut guest) = host.guest_on("pass", "db");
        assert_eq!(on_link.actual.dev.as_deref(), Some("eth12"), "eth11 went with its driver");
        address(&mut guest, 22);
        Host::reaches(&mut guest, "10.9.0.1");
        assert_eq!(shown(&host, 1), json!([on_link.mac, {}, false, "auto"]));
        host.call(&ModifyNIC { id: on_link.id.clone(), xml: "<interface type='none'/>".into() });
        assert_eq!(shown(&host, 1), json!(["00:00:00:00:00:00", {}, false, "auto"]));
        host.detach(&on_link.id);

        host.detach(&nic.id);
        assert_eq!(shown(&host, 0), was);
        assert_eq!(driver(&sysfs, VFS[0]).as_deref(), Some("iavf"));
        let links = |state: &str| state.lines().filter(|line| line.contains("\"ifname\"")).count();
        assert_eq!(links(&before), links(&host.state()));
        let left: Vec<_> = fs::read_dir(host.root.join("run/patchcord/functions")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");

        // Its owner dies while there is no daemon.
        let mut owner = patchcord_testkit::Process::start({
            let mut sleep = std::process::Command::new("sleep");
            sleep.arg("1000");
            sleep
        });
        let owned = host.client().call(&patchcord_api::methods::AttachNIC {
            owner_pid: Some(owner.id()),
            ..attach("vm", &interface("whole"))
        });
        let owned = owned.unwrap_or_else(|error| panic!("{}", told(&error))).nic;
        assert_ne!(shown(&host, 0), was);
        host.kill();
        owner.kill();
        host.start();
        wait_until("the function's return", SOON, || {
            if shown(&host, 0) == was { Ok(()) } else { Err(shown(&host, 0).to_string()) }
        });
        assert!(host.nics().iter().all(|nic| nic.id != owned.id));
    });
}

#[test]
fn functions_without_links_are_announced_by_the_pci_bus() {
    in_namespace(|ns| {
        let Some(_pf) = NetdevSim::start("eth0", 3) else { return };
        let _switch = switch(ns, &["eth11", "eth12"]);
        let mut host = Host::without_daemon(ns);
        let sysfs = sysfs(&host, "eth0", ["eth11", "eth12"]);
        host.start();
        host.network(&from_pf("whole", "mode='hostdev'", "eth0", ""));
        assert_eq!(names(&host).len(), 3);
        sysfs.enable(PF, &VFS[..1]);
        // Any function will do: which of them it is about, nobody looks at.
        let device = fs::read_dir("/sys/bus/pci/devices").unwrap().next().unwrap().unwrap();
        fs::write(device.path().join("uevent"), "change").unwrap();
        wait_until("the functions' end", SOON, || {
            if names(&host).len() == 1 { Ok(()) } else { Err(format!("{:?}", names(&host))) }
        });
    });
}
