//! What links' hardware does, and switches in devices, as ethtool and the kernel's own files have it.
#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

use patchcord_netlink::{GenericSocket, Socket};
use patchcord_testkit::{Namespace, NetdevSim, in_namespace};
use std::collections::BTreeSet;

/// What ethtool says is on, by the kernel's names: those of its own, which stand for several, have others below them.
fn on(ns: &Namespace, link: &str) -> BTreeSet<String> {
    let said = ns.run(&format!("ethtool -k {link}"));
    let lines = said.lines().filter_map(|line| line.trim().split_once(": on"));
    lines.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn features_are_those_that_are_on() {
    in_namespace(|ns| {
        ns.run("ip link add v0 type veth peer name v1");
        let index = Socket::open().unwrap().link_by_name("v0").unwrap().unwrap().index;
        let mut socket = GenericSocket::open().unwrap();
        let mut read = || socket.features(index).unwrap().into_iter().collect::<BTreeSet<_>>();
        // ethtool has names of its own for some of them.
        let below =
            ["tx-checksum-ip-generic", "tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-udp_tnl-segmentation"];
        for feature in below {
            assert!(read().contains(feature) && on(ns, "v0").contains(feature), "{feature} of {:?}", read());
        }
        ns.run("ethtool -K v0 tx-tcp6-segmentation off");
        assert!(!read().contains("tx-tcp6-segmentation") && read().contains("tx-tcp-segmentation"));
        let kernels: BTreeSet<String> = read().into_iter().filter(|name| name.starts_with("tx-gre")).collect();
        assert_eq!(kernels, on(ns, "v0").into_iter().filter(|name| name.starts_with("tx-gre")).collect());
        assert_eq!(socket.features(4711).unwrap_err().errno(), Some(19), "ENODEV");
        assert_eq!(socket.is_switch("pci", "0000:ff:1f.7").unwrap(), None);
    });
}

#[test]
fn a_device_is_a_switch_or_not() {
    in_namespace(|ns| {
        let Some(device) = NetdevSim::start("pf0", 2) else { return };
        let mut socket = GenericSocket::open().unwrap();
        assert_eq!(socket.is_switch("netdevsim", &device.device()).unwrap(), Some(false));
        ns.run(&format!("devlink dev eswitch set netdevsim/{} mode switchdev", device.device()));
        assert_eq!(socket.is_switch("netdevsim", &device.device()).unwrap(), Some(true));
    });
}
