//! NICs on devices of the host's: a tap joined to a macvlan, devices shared and run out, and what survives what.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::switch::{address, pool, switch};
use common::{Host, SOON, attach, interface, interface_with_mac, ip, tap, told};
use patchcord_api::methods::{AttachNIC, DetachNIC, ListDevices, ModifyNIC};
use patchcord_testkit::{Namespace, in_namespace, wait_until};
use serde_json::Value;
use std::time::Duration;

/// The macvlans on a device, as `ip` sees them: name and mode.
fn macvlans(ns: &Namespace, device: &str) -> Vec<(String, String)> {
    let links = ns.json("ip -d -j link show type macvlan");
    let on = |l: &&Value| l["link"] == device && !l["ifname"].as_str().unwrap().starts_with("pcdel");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let links = links.as_array().into_iter().flatten().filter(on);
    links.map(|l| (text(&l["ifname"]), text(&l["linkinfo"]["info_data"]["mode"]))).collect()
}

/// Where a link's incoming frames go, as `tc` sees it.
fn redirect(ns: &Namespace, link: &str) -> Option<String> {
    let filters = ns.json(&format!("tc -j filter show dev {link} ingress"));
    let action = |f: &Value| f["options"]["actions"][0]["to_dev"].as_str().map(str::to_owned);
    filters.as_array()?.iter().find_map(action)
}

#[test]
fn guests_on_devices_reach_the_switch_in_every_mode() {
    in_namespace(|ns| {
        let switch = switch(ns, &["eth10", "eth11"]);
        let host = Host::new(ns);
        for (n, mode) in (10..).zip(["vepa", "private", "bridge", "passthrough"]) {
            host.network(&pool(mode, mode, &["eth10"]));
            let (nic, mut guest) = host.guest_on(mode, mode);
            address(&mut guest, n);
            Host::reaches(&mut guest, "10.9.0.1");
            assert_eq!(nic.state, "plugged");
            assert_eq!((nic.actual.kind.as_str(), nic.actual.dev.as_deref()), ("direct", Some("eth10")));
            let [(macvlan, kernel)] = &macvlans(ns, "eth10")[..] else { panic!("{:?}", macvlans(ns, "eth10")) };
            assert_eq!(kernel, if mode == "passthrough" { "passthru" } else { mode });
            assert_eq!(redirect(ns, &tap(&nic)).as_ref(), Some(macvlan));
            assert_eq!(redirect(ns, macvlan), Some(tap(&nic)));
            let end = host.link(macvlan).unwrap();
            assert_eq!(end["address"].as_str(), nic.mac.as_deref());
            assert!(end["flags"].as_array().unwrap().iter().any(|f| f == "ALLMULTI"), "{end}");
            assert_eq!(host.sysctl(&format!("ipv6/conf/{macvlan}/disable_ipv6")), "1");
            host.detach(&nic.id);
            wait_until("the macvlan's end", SOON, || match &macvlans(ns, "eth10")[..] {
                [] => Ok(()),
                left => Err(format!("{left:?}")),
            });
            assert!(host.link(&tap(&nic)).is_none());
        }
        drop(switch);
    });
}

#[test]
fn a_pool_is_shared_and_runs_out_and_counts_outlive_the_daemon() {
    in_namespace(|ns| {
        let _switch = switch(ns, &["eth10", "eth11", "eth12"]);
        let mut host = Host::new(ns);
        host.network(&pool("shared", "bridge", &["eth10", "eth11"]));
        host.network(&pool("own", "passthrough", &["eth11", "eth12"]));
        let dev = |host: &Host<'_>, network: &str, guest: &str| {
            let (nic, guest) = host.guest_on(network, guest);
            (nic.actual.dev.clone().unwrap(), nic, guest)
        };
        let (one, a, mut guest) = dev(&host, "shared", "a");
        address(&mut guest, 21);
        let (two, b, _b) = dev(&host, "shared", "b");
        let (three, c, _c) = dev(&host, "own", "c");
        assert_eq!([one.as_str(), &two, &three], ["eth10", "eth11", "eth12"]);
        let attach = AttachNIC { guest: "d".into(), xml: interface("own"), ..AttachNIC::default() };
        let (name, refusal) = host.refused(&attach);
        assert!(name.ends_with("InUse"), "{name}");
        for part in ["eth11 is held by guest 'b'", "eth12 is held exclusively by guest 'c'", &c.id] {
            assert!(refusal.cause.contains(part), "{}", refusal.cause);
        }
        // What is held is known to the next daemon, and guests notice nothing of the change.
        let guest = guest.run_in_background();
        guest.ping_every(ip("10.9.0.1"), Duration::from_millis(10), SOON).unwrap();
        host.kill();
        host.start();
        assert_eq!(host.refused(&attach).1.cause, refusal.cause);
        let (_guest, seen) = guest.finish();
        assert_eq!(seen.lost(), 0, "{seen:?}");
        host.detach(&b.id);
        let nic = host.call(&attach).nic;
        assert_eq!(nic.actual.dev.as_deref(), Some("eth11"));
        assert_eq!(host.nic(&a.id).state, "plugged");
    });
}

#[test]
fn a_guest_is_moved_between_devices_bridges_and_nothing_while_it_runs() {
    in_namespace(|ns| {
        let _switch = switch(ns, &["eth10", "eth11", "eth12"]);
        ns.run("ip link add br0 type bridge");
        ns.run("ip link set br0 up");
        ns.run("ip link set eth12 master br0");
        let host = Host::new(ns);
        host.network(&pool("vepa", "vepa", &["eth10"]));
        host.network(&pool("bridge", "bridge", &["eth11"]));
        host.network(&pool("pass", "passthrough", &["eth11"]));
        host.network("<network><name>host</name><forward mode='bridge'/><bridge name='br0'/></network>");
        let (nic, mut guest) = host.guest("web", &interface_with_mac("vepa", "52:54:00:00:00:31"));
        address(&mut guest, 31);
        let index = host.link(&tap(&nic)).unwrap()["ifindex"].clone();
        for to in ["bridge", "pass", "host", "vepa", "host", "pass", "vepa", "bridge"] {
            let nic = host.call(&ModifyNIC { id: nic.id.clone(), xml: interface(to) }).nic;
            assert_eq!(nic.state, "plugged", "{to}");
            Host::reaches(&mut guest, "10.9.0.1");
            assert_eq!(host.link(&tap(&nic)).unwrap()["ifindex"], index, "the tap is for life");
        }
        let none = "<interface type='none'/>".to_owned();
        let nic = host.call(&ModifyNIC { id: nic.id, xml: none }).nic;
        assert_eq!((nic.state.as_str(), redirect(ns, &tap(&nic))), ("unplugged", None));
        assert!(guest.ping(ip("10.9.0.1"), Duration::from_secs(1)).is_err());
    });
}

#[test]
fn a_device_that_goes_leaves_its_nic_waiting_until_it_is_back() {
    in_namespace(|ns| {
        let switch = switch(ns, &["eth10"]);
        let host = Host::new(ns);
        let mut events = host.events();
        host.network(&pool("vepa", "vepa", &["eth10"]));
        let (nic, mut guest) = host.guest_on("vepa", "web");
        address(&mut guest, 41);
        Host::reaches(&mut guest, "10.9.0.1");
        ns.run("ip link del eth10");
        events.wait("the device's end", |e| e.kind == "device" && e.what == "gone");
        events.wait("the NIC's waiting", |e| e.nic.as_ref().is_some_and(|n| n.state == "waiting"));
        ns.veth("eth10", &switch, "p0");
        switch.run("ip link set p0 master fabric");
        events.wait("the device's return", |e| e.kind == "device" && e.what == "appeared");
        Host::reaches(&mut guest, "10.9.0.1");
        assert_eq!(host.nic(&nic.id).state, "plugged");
        // What others take away is put back.
        let [(macvlan, _)] = &macvlans(ns, "eth10")[..] else { panic!("one macvlan") };
        ns.run(&format!("tc filter del dev {macvlan} ingress"));
        Host::reaches(&mut guest, "10.9.0.1");
        ns.run(&format!("ip link del {macvlan}"));
        Host::reaches(&mut guest, "10.9.0.1");
    });
}

/// A device that leads to the switch.
fn plug_in(ns: &Namespace, switch: &Namespace, device: &str, port: &str) {
    ns.veth(device, switch, port);
    switch.run(&format!("ip link set {port} master fabric"));
}

#[test]
fn who_waits_for_a_pool_without_devices_gets_them_in_turn() {
    in_namespace(|ns| {
        let switch = switch(ns, &[]);
        let mut host = Host::new(ns);
        host.network(&pool("own", "passthrough", &["eth10", "eth11"]));
        let xml = "<interface type='network'><source network='own' startupPolicy='optional'/></interface>";
        let mut guests = ["c", "a", "b"].map(|name| host.guest(name, xml));
        let got = |host: &Host<'_>, id: &str| {
            let nic = host.nic(id);
            format!("{} {}", nic.state, nic.actual.dev.unwrap_or_default())
        };
        let wait = |host: &Host<'_>, id: &str, device: &str| {
            let wanted = format!("plugged {device}");
            wait_until("its device", SOON, || match got(host, id) {
                got if got == wanted => Ok(()),
                got => Err(got),
            });
        };
        let ids = guests.each_ref().map(|(nic, _)| nic.id.clone());
        assert_eq!(ids.each_ref().map(|id| got(&host, id)), ["waiting "; 3]);
        plug_in(ns, &switch, "eth10", "p0");
        wait(&host, &ids[0], "eth10");
        address(&mut guests[0].1, 51);
        Host::reaches(&mut guests[0].1, "10.9.0.1");
        assert_eq!([&ids[1], &ids[2]].map(|id| got(&host, id)), ["waiting "; 2]);
        // The next comes while there is no daemon.
        host.kill();
        plug_in(ns, &switch, "eth11", "p1");
        host.start();
        wait(&host, &ids[1], "eth11");
        address(&mut guests[1].1, 52);
        Host::reaches(&mut guests[1].1, "10.9.0.1");
        assert_eq!([&ids[0], &ids[2]].map(|id| got(&host, id)), ["plugged eth10", "waiting "]);
        // And one is given back.
        host.detach(&ids[0]);
        wait(&host, &ids[2], "eth10");
        address(&mut guests[2].1, 53);
        Host::reaches(&mut guests[2].1, "10.9.0.1");
    });
}

/// How often each client attaches a NIC and detaches it again, by its network. Those that have a device alone wait for the
/// kernel, which deletes the macvlan before in its own time.
const CLIENTS: [(&str, usize, usize); 2] = [("shared", 12, 800), ("alone", 8, 50)];

fn attach_and_detach(host: &Host<'_>, network: &str, number: usize, pairs: usize) {
    let mut client = host.client();
    let wanted = attach(&format!("{network}{number}"), &interface(network));
    for pair in 0..pairs {
        // Eight have eight devices alone: there is one for each, however close they follow each other.
        let failed = |error| panic!("{network} {number}, pair {pair}: {}", told(&error));
        let id = client.call(&wanted).unwrap_or_else(failed).nic.id;
        client.call(&DetachNIC { id }).unwrap_or_else(|error| panic!("{network} {number}: {}", told(&error)));
    }
}

#[test]
fn ten_thousand_attaches_and_detaches_from_many_clients_leave_nothing_held() {
    in_namespace(|ns| {
        let devices: Vec<String> = (0..10).map(|n| format!("eth{n}")).collect();
        let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
        let _switch = switch(ns, &devices);
        let host = Host::new(ns);
        host.network(&pool("shared", "vepa", &devices[..2]));
        host.network(&pool("alone", "passthrough", &devices[2..]));
        std::thread::scope(|scope| {
            for (network, clients, pairs) in CLIENTS {
                for number in 0..clients {
                    let host = &host;
                    scope.spawn(move || attach_and_detach(host, network, number, pairs));
                }
            }
        });
        let left = host.call(&ListDevices {}).devices;
        assert_eq!(left.len(), devices.len());
        assert!(left.iter().all(|device| device.holders.is_empty()), "{left:?}");
        assert!(host.nics().is_empty());
        wait_until("every link to be gone", SOON, || {
            let links = ns.run("ip -o link show");
            if links.contains("pct") || links.contains("pcm") || links.contains("pcdel") { Err(links) } else { Ok(()) }
        });
        // All eight can be had at once.
        let guests: Vec<_> = devices[2..].iter().map(|device| host.guest_on("alone", device)).collect();
        assert!(guests.iter().all(|(nic, _)| nic.state == "plugged"));
    });
}
