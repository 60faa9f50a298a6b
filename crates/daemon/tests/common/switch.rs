//! A switch outside the host, with a server on it, and networks on the devices that lead there.

use patchcord_testkit::{Guest, Namespace};

/// A switch in a namespace of its own, with a server at 10.9.0.1, and devices of the host's that lead to it.
pub(crate) fn switch(ns: &Namespace, devices: &[&str]) -> Namespace {
    let switch = ns.peer("switch");
    // With an address of its own, which does not change with its ports.
    switch.run("ip link add fabric address 52:54:00:99:00:01 type bridge");
    switch.run("ip link set fabric up");
    switch.run("ip addr add 10.9.0.1/24 dev fabric");
    for (n, device) in devices.iter().enumerate() {
        ns.veth(device, &switch, &format!("p{n}"));
        switch.run(&format!("ip link set p{n} master fabric"));
    }
    switch
}

/// A network on devices of the host's.
pub(crate) fn pool(name: &str, mode: &str, devices: &[&str]) -> String {
    let devices: String = devices.iter().map(|dev| format!("<interface dev='{dev}'/>")).collect();
    format!("<network><name>{name}</name><forward mode='{mode}'>{devices}</forward></network>")
}

/// Gives a guest an address beside the server's.
pub(crate) fn address(guest: &mut Guest, last: u8) {
    guest.set_static(format!("10.9.0.{last}").parse().unwrap(), 24, None);
}
