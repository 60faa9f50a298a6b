//! Virtual functions in a sysfs made for the test; set on a device that the kernel simulates, and on links that have none.
#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use patchcord_core::model::{LinkName, PciAddress};
use patchcord_core::plan::VirtualFunction;
use patchcord_host::Error;
use patchcord_host::sriov::{Sriov, VfPlace, program, restore};
use patchcord_netlink::{Socket, VfChange, VfVlan};
use patchcord_testkit::{Namespace, NetdevSim, Sysfs, in_namespace};
use serde_json::{Value, json};

/// A sysfs in a directory that goes with the test.
struct Host {
    root: tempfile::TempDir,
    sysfs: Sysfs,
}

impl Host {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let sysfs = Sysfs::new(root.path());
        Self { root, sysfs }
    }

    fn sriov(&self) -> Sriov {
        Sriov::new(self.root.path())
    }
}

const PF: &str = "0000:3b:00.0";
const VFS: [&str; 12] = [
    "0000:3b:02.0",
    "0000:3b:02.1",
    "0000:3b:02.2",
    "0000:3b:02.3",
    "0000:3b:02.4",
    "0000:3b:02.5",
    "0000:3b:02.6",
    "0000:3b:02.7",
    "0000:3b:03.0",
    "0000:3b:03.1",
    "0000:3b:03.2",
    "0000:3b:03.3",
];

/// A PF with twelve VFs, of which the one with number 10 has a link and the others are guests'.
fn usual() -> Host {
    let host = Host::new();
    let sysfs = &host.sysfs;
    sysfs.add_function(PF);
    VFS.iter().for_each(|vf| sysfs.add_function(vf));
    sysfs.enable(PF, &VFS);
    sysfs.add_link(PF, "eth0", &[]);
    sysfs.add_link(VFS[10], "eth0v10", &[]);
    host
}

fn name(text: &str) -> LinkName {
    LinkName::new(text).unwrap()
}

fn address(slot: u8, function: u8) -> PciAddress {
    PciAddress { domain: 0, bus: 0x3b, slot, function }
}

fn place(pf: &str, number: u32) -> Option<VfPlace> {
    Some(VfPlace { pf: name(pf), number })
}

#[test]
fn a_pf_lists_its_vfs_by_number() {
    let host = usual();
    let sriov = host.sriov();
    // A PF without VFs, a link of a function that is none, and one without a function.
    host.sysfs.add_function("0000:3b:01.0");
    host.sysfs.enable("0000:3b:01.0", &[]);
    host.sysfs.add_link("0000:3b:01.0", "eth1", &[]);
    fs::create_dir(host.sysfs.path("class/net/lo")).unwrap();
    let all = sriov.all().unwrap();
    let functions = all.of(&name("eth0")).unwrap();
    assert_eq!(functions.iter().map(|vf| vf.number).collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());
    assert_eq!(functions[3], VirtualFunction { number: 3, address: address(2, 3), link: None });
    assert_eq!(functions[10], VirtualFunction { number: 10, address: address(3, 2), link: Some(name("eth0v10")) });
    assert_eq!(all.with_link(&name("eth0v10")), Some(address(3, 2)));
    assert_eq!(all.at(address(3, 2)), Some((&name("eth0"), &functions[10])));
    assert_eq!(all.of(&name("eth1")), Some(&[][..]));
    for other in ["eth0v10", "lo", "absent"] {
        assert_eq!(all.of(&name(other)), None, "{other}");
    }
    for (link, belongs) in [("eth0", true), ("eth0v10", true), ("lo", false), ("absent", false)] {
        assert_eq!(sriov.has_device(link), belongs, "{link}");
    }
}

#[test]
fn a_vf_is_found_by_its_link_and_by_its_address() {
    let host = usual();
    let sriov = host.sriov();
    assert_eq!(sriov.of_link(&name("eth0v10")).unwrap(), place("eth0", 10));
    assert_eq!(sriov.of_address(address(2, 0)).unwrap(), place("eth0", 0));
    assert_eq!(sriov.of_address(address(3, 3)).unwrap(), place("eth0", 11));
    // A PF, a link without a device, a link and a function that are not there.
    fs::create_dir(host.sysfs.path("class/net/lo")).unwrap();
    for other in ["eth0", "lo", "absent"] {
        assert_eq!(sriov.of_link(&name(other)).unwrap(), None);
    }
    assert_eq!(sriov.of_address(address(0, 0)).unwrap(), None);
    assert_eq!(sriov.of_address(address(9, 0)).unwrap(), None);
}

#[test]
fn the_pf_is_told_from_the_links_beside_it() {
    // A PF that is a switch has a link for itself and for each of its VFs.
    let host = usual();
    host.sysfs.add_link(PF, "eth0r0", &[("phys_port_name", "pf0vf0")]);
    host.sysfs.add_link(PF, "eth0s0", &[("phys_port_name", "pf0sf88")]);
    assert_eq!(host.sriov().all().unwrap().of(&name("eth0r0")), None);
    assert_eq!(host.sriov().of_address(address(2, 0)).unwrap(), place("eth0", 0));
    // Two ports of one function: only the VF's own link tells which of them it belongs to.
    host.sysfs.add_link(PF, "eth1", &[("phys_port_id", "b"), ("phys_port_name", "p1")]);
    let error = host.sriov().of_address(address(2, 0)).unwrap_err().to_string();
    assert_eq!(
        error,
        "virtual function 0000:3b:02.0: its physical function 0000:3b:00.0 has several links: eth0, eth1"
    );
    host.sysfs.add_link(VFS[1], "eth1v1", &[("phys_port_id", "b")]);
    assert_eq!(host.sriov().of_link(&name("eth1v1")).unwrap(), place("eth1", 1));
}

#[test]
fn a_pf_without_a_link_is_named() {
    let host = Host::new();
    for function in [PF, VFS[0], VFS[1]] {
        host.sysfs.add_function(function);
    }
    host.sysfs.enable(PF, &VFS[..1]);
    host.sysfs.add_link(VFS[0], "eth5", &[]);
    let error = host.sriov().of_link(&name("eth5")).unwrap_err().to_string();
    let expected = "virtual function eth5: its physical function 0000:3b:00.0 has no link; it needs its network driver";
    assert_eq!(error, expected);
    symlink(format!("../{PF}"), host.sysfs.device(VFS[1]).join("physfn")).unwrap();
    let error = host.sriov().of_address(address(2, 1)).unwrap_err().to_string();
    let expected = "virtual function 0000:3b:02.1: its physical function 0000:3b:00.0 does not list it";
    assert_eq!(error, expected);
}

#[test]
fn the_kernels_own_sysfs_has_the_layout_that_is_read() {
    let sriov = Sriov::new(Path::new("/"));
    sriov.all().unwrap();
    for link in fs::read_dir("/sys/class/net").unwrap() {
        let link = link.unwrap();
        // A file beside the links, `bonding_masters`, comes with bonds.
        if !link.path().is_dir() {
            continue;
        }
        let link = name(link.file_name().to_str().unwrap());
        sriov.of_link(&link).unwrap();
    }
}

#[test]
fn a_link_that_is_no_pf_has_no_vf_to_set() {
    in_namespace(|ns| {
        ns.run("ip link add eth0 type veth peer name eth1");
        let mut netlink = Socket::open().unwrap();
        let index = netlink.link_by_name("eth0").unwrap().unwrap().index;
        let vf = VfPlace { pf: name("eth0"), number: 3 };
        let change = VfChange { mac: Some([0x52, 0x54, 0, 1, 2, 3]), ..VfChange::default() };
        let error = program(&mut netlink, index, &vf, &change).unwrap_err().to_string();
        assert_eq!(error, "virtual function 3 of eth0: there is none of that number; the link has 0");
        let error = program(&mut netlink, 4711, &vf, &change).unwrap_err().to_string();
        assert_eq!(error, "virtual function 3 of eth0: that link is gone");
        let error = restore(&mut netlink, index, &vf, &change).unwrap_err();
        assert_eq!(error.errno(), Some(rustix::io::Errno::OPNOTSUPP));
        restore(&mut netlink, index, &vf, &VfChange::default()).unwrap();
    });
}

/// What `ip` shows of a VF's settings: address, VLAN, spoof check, trust.
fn shown(ns: &Namespace, number: usize) -> Value {
    let vf = &ns.json("ip -j -d link show eth0")[0]["vfinfo_list"][number];
    json!([vf["address"], vf["vlan_list"][0], vf["spoofchk"], vf["trust"]])
}

/// The VF, and the index of its PF's link, for what follows.
fn of_eth0(netlink: &mut Socket, number: u32) -> (u32, VfPlace) {
    let index = netlink.link_by_name("eth0").unwrap().unwrap().index;
    (index, VfPlace { pf: name("eth0"), number })
}

const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

#[test]
fn a_vf_is_programmed_and_restored() {
    in_namespace(|ns| {
        let Some(_pf) = NetdevSim::start("eth0", 3) else { return };
        ns.run("ip link set eth0 vf 1 mac 52:54:00:aa:aa:aa vlan 7 qos 2 spoofchk on");
        let untouched = json!(["00:00:00:00:00:00", {}, false, false]);
        let was = json!(["52:54:00:aa:aa:aa", {"vlan": 7, "qos": 2}, true, false]);
        assert_eq!([shown(ns, 0), shown(ns, 1)], [untouched.clone(), was.clone()]);

        let mut netlink = Socket::open().unwrap();
        let (index, vf) = of_eth0(&mut netlink, 1);
        let vlan = VfVlan { id: 5, qos: 3, service: false };
        let wanted = VfChange {
            mac: Some(MAC),
            vlan: Some(vlan),
            spoof_check: Some(false),
            link_state: None,
            trust: Some(true),
        };
        let before = program(&mut netlink, index, &vf, &wanted).unwrap();
        let programmed = json!(["52:54:00:01:02:03", {"vlan": 5, "qos": 3}, false, true]);
        assert_eq!(shown(ns, 1), programmed);
        assert_eq!([shown(ns, 0), shown(ns, 2)], [untouched.clone(), untouched.clone()]);
        assert_eq!(program(&mut netlink, index, &vf, &wanted).unwrap(), VfChange::default(), "all is as it should be");

        // A service tag, and no other change: what is to be restored is the VLAN alone.
        let service = VfChange { vlan: Some(VfVlan { service: true, ..vlan }), ..wanted };
        let vlan_before = program(&mut netlink, index, &vf, &service).unwrap();
        assert_eq!(vlan_before, VfChange { vlan: Some(vlan), ..VfChange::default() });
        assert_eq!(shown(ns, 1)[1], json!({"vlan": 5, "qos": 3, "protocol": "802.1ad"}));
        restore(&mut netlink, index, &vf, &vlan_before).unwrap();
        assert_eq!(shown(ns, 1), programmed);

        restore(&mut netlink, index, &vf, &before).unwrap();
        assert_eq!(shown(ns, 1), was);

        // One that had no settings has none again.
        let (index, vf) = of_eth0(&mut netlink, 2);
        let before = program(&mut netlink, index, &vf, &VfChange { spoof_check: Some(true), ..wanted }).unwrap();
        assert_eq!(shown(ns, 2), json!(["52:54:00:01:02:03", {"vlan": 5, "qos": 3}, true, true]));
        restore(&mut netlink, index, &vf, &before).unwrap();
        assert_eq!([shown(ns, 0), shown(ns, 1), shown(ns, 2)], [untouched.clone(), was, untouched]);
    });
}

#[test]
fn a_vf_that_is_refused_one_setting_keeps_what_it_had() {
    in_namespace(|ns| {
        let Some(pf) = NetdevSim::start("eth0", 3) else { return };
        ns.run("ip link set eth0 vf 1 mac 52:54:00:aa:aa:aa vlan 7");
        let was = shown(ns, 1);
        let mut netlink = Socket::open().unwrap();
        let (index, vf) = of_eth0(&mut netlink, 1);
        // The driver refuses a priority beyond 7, and a group's address.
        let vlan = VfVlan { id: 5, qos: 8, service: false };
        let wanted =
            VfChange { mac: Some(MAC), vlan: Some(vlan), spoof_check: Some(true), link_state: None, trust: Some(true) };
        let error = program(&mut netlink, index, &vf, &wanted).unwrap_err();
        assert_eq!(error.to_string(), "virtual function 1 of eth0: its driver refuses the VLAN");
        assert_eq!(shown(ns, 1), was);
        let group = VfChange { mac: Some([1, 0, 0x5e, 0, 0, 1]), ..wanted };
        let error = program(&mut netlink, index, &vf, &group).unwrap_err();
        assert_eq!(error.to_string(), "virtual function 1 of eth0: its driver refuses the MAC address");
        assert_eq!(shown(ns, 1), was);

        // What is put back is refused, too, once there is no such VF.
        let before = program(&mut netlink, index, &vf, &VfChange { vlan: None, ..wanted }).unwrap();
        pf.enable(1);
        let error = restore(&mut netlink, index, &vf, &before).unwrap_err();
        assert_eq!(error.errno(), Some(rustix::io::Errno::INVAL));
        let error = program(&mut netlink, index, &vf, &wanted).unwrap_err().to_string();
        assert_eq!(error, "virtual function 1 of eth0: there is none of that number; the link has 1");
        assert_eq!(shown(ns, 0), json!(["00:00:00:00:00:00", {}, false, false]));
    });
}

#[test]
fn the_last_of_very_many_vfs_is_programmed() {
    in_namespace(|ns| {
        let Some(pf) = NetdevSim::start("eth0", 200) else { return };
        let mut netlink = Socket::open().unwrap();
        let wanted = VfChange { mac: Some(MAC), ..VfChange::default() };
        let (index, vf) = of_eth0(&mut netlink, 199);
        program(&mut netlink, index, &vf, &wanted).unwrap();
        assert_eq!(shown(ns, 199), json!(["52:54:00:01:02:03", {}, false, false]));
        // `ip` asks for counters, too, for which a message has no room from 223 VFs on.
        pf.enable(256);
        let vf = VfPlace { number: 255, ..vf };
        let before = program(&mut netlink, index, &vf, &wanted).unwrap();
        assert_eq!(before, VfChange { mac: Some([0; 6]), ..VfChange::default() });
        assert_eq!(program(&mut netlink, index, &vf, &wanted).unwrap(), VfChange::default());
        // More than the kernel can list: that is told, and nothing is set.
        pf.enable(600);
        let error = program(&mut netlink, index, &vf, &wanted).unwrap_err();
        assert!(matches!(error, Error::Netlink(patchcord_netlink::Error::Answer { .. })), "{error:?}");
    });
}
