//! Virtual functions set for a guest and made what they were, on a device that the kernel simulates; and drivers of PCI
//! devices in a sysfs made for the test.
#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

use std::fs;
use std::path::Path;

use patchcord_core::model::{MacAddr, PciAddress};
use patchcord_core::plan::{Cable, FunctionBefore, FunctionSetup, FunctionVlan};
use patchcord_host::Error;
use patchcord_host::driver::Drivers;
use patchcord_host::function::FunctionSetter;
use patchcord_testkit::{Namespace, NetdevSim, Sysfs, in_namespace};
use serde_json::{Value, json};
use uuid::Uuid;

const PF: &str = "0000:3b:00.0";
const VFS: [&str; 3] = ["0000:3b:02.0", "0000:3b:02.1", "0000:3b:02.2"];

fn address(vf: usize) -> PciAddress {
    VFS[vf].parse().unwrap()
}

/// A PF with three VFs that have the driver iavf, and a driver vfio-pci.
fn sysfs(root: &Path) -> Sysfs {
    let sysfs = Sysfs::new(root);
    for driver in ["iavf", "vfio-pci"] {
        sysfs.add_driver(driver);
    }
    for function in [PF].iter().chain(&VFS) {
        sysfs.add_function(function);
    }
    sysfs.enable(PF, &VFS);
    VFS.iter().for_each(|vf| sysfs.bind(vf, "iavf"));
    sysfs
}

fn setup(vf: usize) -> FunctionSetup {
    FunctionSetup {
        nic: Uuid::from_u128(9),
        address: address(vf),
        mac: MacAddr([0x52, 0x54, 0, 1, 2, 3]),
        vlan: 42,
        trusted: true,
        unplugged: false,
        driver: None,
    }
}

/// What `ip` shows of a VF's settings: address, VLAN, trust, cable.
fn shown(ns: &Namespace, number: usize) -> Value {
    let vf = &ns.json("ip -j -d link show eth0")[0]["vfinfo_list"][number];
    json!([vf["address"], vf["vlan_list"][0], vf["trust"], vf["link_state"]])
}

#[test]
fn a_function_is_set_for_a_guest_and_made_what_it_was() {
    in_namespace(|ns| {
        let Some(_pf) = NetdevSim::start("eth0", 3) else { return };
        let root = tempfile::tempdir().unwrap();
        let sysfs = sysfs(root.path());
        sysfs.add_real_link(PF, "eth0");
        let _kernel = sysfs.bind_as_told("iavf");
        ns.run("ip link set eth0 vf 1 mac 52:54:00:aa:aa:aa vlan 7 qos 2 state enable");
        let was = shown(ns, 1);
        assert_eq!(was, json!(["52:54:00:aa:aa:aa", {"vlan": 7, "qos": 2}, false, "enable"]));

        let functions = FunctionSetter::new(root.path());
        let before = functions.read(address(1)).unwrap();
        let expected = FunctionBefore {
            mac: Some(MacAddr([0x52, 0x54, 0, 0xaa, 0xaa, 0xaa])),
            vlan: Some(FunctionVlan { id: 7, priority: 2, service: false }),
            trusted: Some(false),
            cable: Some(Cable::Plugged),
            driver: Some("iavf".into()),
            bound: false,
        };
        assert_eq!(before, expected);
        functions.set(&setup(1), &before).unwrap();
        assert_eq!(shown(ns, 1), json!(["52:54:00:01:02:03", {"vlan": 42}, true, "enable"]));
        let changed = FunctionSetup { vlan: 0, trusted: false, unplugged: true, ..setup(1) };
        functions.set(&changed, &before).unwrap();
        assert_eq!(shown(ns, 1), json!(["52:54:00:01:02:03", {}, false, "disable"]));
        assert_eq!(Drivers::new(root.path()).of(address(1)).unwrap().as_deref(), Some("iavf"));
        functions.restore(address(1), &before).unwrap();
        assert_eq!(shown(ns, 1), was);

        // With a driver of its own, which a guest's death leaves to be given back.
        let bound = FunctionBefore { bound: true, ..before };
        functions.set(&FunctionSetup { driver: Some("vfio-pci".into()), ..setup(1) }, &bound).unwrap();
        assert_eq!(Drivers::new(root.path()).of(address(1)).unwrap().as_deref(), Some("vfio-pci"));
        functions.restore(address(1), &bound).unwrap();
        assert_eq!(Drivers::new(root.path()).of(address(1)).unwrap().as_deref(), Some("iavf"));
        assert_eq!(shown(ns, 1), was);

        // What is refused leaves all as it was: a VLAN, and a driver that is not loaded.
        let error = functions.set(&FunctionSetup { vlan: 4096, ..setup(1) }, &bound).unwrap_err().to_string();
        assert_eq!(error, "virtual function 1 of eth0: its driver refuses the VLAN");
        assert_eq!(shown(ns, 1), was);
        let missing = FunctionSetup { driver: Some("pciback".into()), ..setup(1) };
        let error = functions.set(&missing, &bound).unwrap_err().to_string();
        assert_eq!(
            error,
            "PCI device 0000:3b:02.1 does not get driver pciback: that driver is not loaded: 'modprobe pciback' loads it"
        );
        assert_eq!(shown(ns, 1), was);

        // One that is gone needs nothing any more, and can't be set.
        sysfs.enable(PF, &[]);
        functions.restore(address(1), &bound).unwrap();
        assert!(matches!(functions.set(&setup(1), &bound), Err(Error::VirtualFunction { .. })));
    });
}

#[test]
fn a_driver_is_bound_and_given_back() {
    let root = tempfile::tempdir().unwrap();
    let sysfs = sysfs(root.path());
    let drivers = Drivers::new(root.path());
    let kernel = sysfs.bind_as_told("iavf");
    for own in [Some("iavf"), None] {
        if own.is_none() {
            sysfs.unbind(VFS[0]);
        }
        assert_eq!(drivers.of(address(0)).unwrap().as_deref(), own);
        drivers.bind(address(0), "vfio-pci").unwrap();
        assert_eq!(drivers.of(address(0)).unwrap().as_deref(), Some("vfio-pci"));
        drivers.bind(address(0), "vfio-pci").unwrap();
        drivers.give_back(address(0), own).unwrap();
        // What is unbound goes when the stand-in for the kernel has seen it.
        patchcord_testkit::wait_until("the driver", std::time::Duration::from_secs(60), || {
            let now = drivers.of(address(0)).unwrap();
            if now.as_deref() == own { Ok(()) } else { Err(format!("it is {now:?}")) }
        });
    }
    assert_eq!(drivers.of(address(1)).unwrap().as_deref(), Some("iavf"), "another one is left alone");
    drop(kernel);

    // Nothing comes of what is written: as with a driver that refuses the device.
    sysfs.bind(VFS[0], "iavf");
    let error = drivers.bind(address(0), "vfio-pci").unwrap_err().to_string();
    let says =
        "PCI device 0000:3b:02.0 does not get driver vfio-pci: it has the driver iavf; the kernel's log says more";
    assert_eq!(error, says);
    let forced = fs::read_to_string(sysfs.device(VFS[0]).join("driver_override")).unwrap();
    assert_eq!(forced.lines().next(), Some(""), "any driver may take it again");
}
