//! What the kernel announces of devices.
#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

use patchcord_netlink::DeviceMonitor;
use patchcord_testkit::in_namespace;
use std::time::Duration;

const NOW: Duration = Duration::ZERO;
const SOON: Duration = Duration::from_secs(60);

#[test]
fn devices_of_the_subsystem_are_announced_and_others_are_not() {
    in_namespace(|ns| {
        let mut links = DeviceMonitor::open("net").unwrap();
        let mut others = DeviceMonitor::open("et").unwrap();
        ns.run("ip link add v0 type veth peer name v1");
        assert!(links.receive(Some(SOON)).unwrap());
        // Announcements come in one order to all sockets.
        assert!(!others.receive(Some(SOON)).unwrap());
        while links.receive(Some(NOW)).unwrap() {}
        std::fs::write("/sys/class/net/lo/uevent", "change").unwrap();
        assert!(links.receive(Some(SOON)).unwrap());
    });
}
