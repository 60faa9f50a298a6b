//! Taps by name, and how long NICs live.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::{Host, SOON, attach, differences, idler, interface, ip, mac, tap, told};
use patchcord_api::methods::{AttachNIC, FetchNIC, ModifyNIC, OwnNIC, SetNICLink};
use patchcord_api::types::Nic;
use patchcord_testkit::{Guest, in_namespace, wait_until};
use std::time::Duration;

const NET: &str = "<network><name>net</name><bridge name='brnet' stp='off'/><ip address='10.5.0.1' prefix='24'>\
     </ip></network>";
const OTHER: &str = "<network><name>other</name><bridge name='brother' stp='off'/>\
     <ip address='10.6.0.1' prefix='24'/></network>";

fn by_name(guest: &str, xml: &str) -> AttachNIC {
    AttachNIC { by_name: Some(true), ..attach(guest, xml) }
}

fn tun(host: &Host<'_>, nic: &Nic) -> serde_json::Value {
    host.link(&tap(nic)).expect("the tap")["linkinfo"]["info_data"].clone()
}

/// Whether `ip` shows that somebody holds one of the tap's queues: only then it has a carrier.
fn has_carrier(host: &Host<'_>, nic: &Nic) -> bool {
    let link = host.link(&tap(nic)).expect("the tap");
    !link["flags"].as_array().unwrap().contains(&"NO-CARRIER".into())
}

fn gone(host: &Host<'_>, nic: &Nic) {
    let name = tap(nic);
    wait_until("the NIC to be gone", SOON, || {
        let known = host.nics().iter().any(|n| n.id == nic.id);
        let link = host.link(&name).is_some();
        if known || link { Err(format!("known {known}, link {link}")) } else { Ok(()) }
    });
    assert!(!host.root.join(format!("run/patchcord/nics/{}.xml", nic.id)).exists());
}

/// A guest with a fixed address behind a tap that it opens by name.
fn guest_at(nic: &Nic, address: &str) -> Guest {
    let mut guest = Guest::open_by_name(&tap(nic), mac(nic)).unwrap();
    guest.set_static(ip(address), 24, None);
    guest
}

#[test]
fn a_tap_by_name_persists_and_belongs_to_the_user_it_is_for() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(NET);
        let nic = host.call(&AttachNIC { uid: Some(12345), ..by_name("g", &interface("net")) }).nic;
        let data = tun(&host, &nic);
        assert_eq!((&data["persist"], &data["user"]), (&true.into(), &12345.into()), "{data}");
        assert_eq!((&data["multi_queue"], &data["vnet_hdr"]), (&false.into(), &true.into()), "{data}");
        assert_eq!(nic.handover, "name");
        assert!(!has_carrier(&host, &nic), "somebody holds it: QEMU would find it busy");
        let mut guest = guest_at(&nic, "10.5.0.2");
        Host::reaches(&mut guest, "10.5.0.1");

        let many = "<interface type='network'><source network='net'/><driver queues='4'/></interface>";
        let many = host.call(&by_name("m", many)).nic;
        assert_eq!((tun(&host, &many)["multi_queue"].clone(), many.queues), (true.into(), 4));
        let (error, refusal) = host.refused(&FetchNIC { id: many.id.clone() });
        assert_eq!(error, "InvalidState", "{refusal}");
        for nic in [&nic, &many] {
            host.detach(&nic.id);
            gone(&host, nic);
        }
    });
}

#[test]
fn a_tap_by_descriptor_has_a_queue_for_each_descriptor() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(NET);
        let xml = "<interface type='network'><source network='net'/><driver queues='3'/></interface>";
        let nic = host.call(&attach("g", xml)).nic;
        let (_, fds) = host.client().call_with_fds(&FetchNIC { id: nic.id.clone() }, |r| r.fds.clone()).unwrap();
        assert_eq!(fds.len(), 3);
        let data = tun(&host, &nic);
        assert_eq!((&data["multi_queue"], &data["numqueues"]), (&true.into(), &3.into()), "{data}");
        assert_eq!(data["persist"], false);
        host.detach(&nic.id);
        gone(&host, &nic);
        // As many as one message carries, and no more.
        let most = xml.replace("'3'", "'253'");
        let nic = host.call(&attach("g", &most)).nic;
        let (_, fds) = host.client().call_with_fds(&FetchNIC { id: nic.id.clone() }, |r| r.fds.clone()).unwrap();
        assert_eq!(fds.len(), 253);
        let more = xml.replace("'3'", "'254'");
        let (error, refusal) = host.refused(&attach("h", &more));
        assert_eq!((error.as_str(), refusal.field.as_deref()), ("Unsupported", Some("<driver queues>")), "{refusal}");
        assert!(refusal.hint.as_ref().unwrap().contains("by name"), "{refusal}");
        assert_eq!(host.call(&by_name("h", &more)).nic.queues, 254);
    });
}

#[test]
fn a_nic_ends_with_its_owner() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        let mut events = host.events();
        host.network(NET);
        let mut owners = [idler(), idler()];
        let owned = |owner: &patchcord_testkit::Process, method: AttachNIC| {
            host.call(&AttachNIC { owner_pid: Some(owner.id()), ..method }).nic
        };
        let one = owned(&owners[0], by_name("one", &interface("net")));
        let two = owned(&owners[0], attach("two", &interface("net")));
        let three = owned(&owners[1], by_name("three", &interface("net")));
        let free = host.call(&by_name("free", &interface("net"))).nic;
        assert_eq!(one.owner.map(|o| o.pid), Some(owners[0].id()));
        owners[0].kill();
        for nic in [&one, &two] {
            gone(&host, nic);
            events
                .wait("the owner's end", |e| e.what == "owner-gone" && e.nic.as_ref().is_some_and(|n| n.id == nic.id));
        }
        assert_eq!(host.nic(&three.id).state, "plugged");

        // And while no daemon runs.
        host.kill();
        owners[1].kill();
        host.start();
        gone(&host, &three);
        assert_eq!((host.nic(&free.id).state.as_str(), host.nics().len()), ("plugged", 1));
        host.detach(&free.id);
        gone(&host, &free);
    });
}

#[test]
fn a_nic_is_handed_to_another_owner_and_to_none() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        host.network(NET);
        let (mut first, mut second) = (idler(), idler());
        let nic = host.call(&AttachNIC { owner_pid: Some(first.id()), ..by_name("g", &interface("net")) }).nic;
        let handed = host.call(&OwnNIC { id: nic.id.clone(), pid: Some(second.id()) }).nic;
        assert_eq!(handed.owner.map(|o| o.pid), Some(second.id()));
        first.kill();
        host.kill();
        host.start();
        assert_eq!(host.nic(&nic.id).owner.map(|o| o.pid), Some(second.id()));
        let (error, _) = host.refused(&OwnNIC { id: nic.id.clone(), pid: Some(first.id()) });
        assert_eq!(error, "InvalidArgument", "that process has ended");
        host.call(&OwnNIC { id: nic.id.clone(), pid: None });
        second.kill();
        host.kill();
        host.start();
        assert_eq!(host.nic(&nic.id).owner, None);
        assert_eq!(host.nic(&nic.id).state, "plugged");
    });
}

#[test]
fn a_nic_moves_between_networks_on_the_same_tap() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        let mut events = host.events();
        host.network(NET);
        host.network(OTHER);
        let (nic, mut guest) = host.guest_on("net", "g");
        guest.set_static(ip("10.5.0.2"), 24, None);
        Host::reaches(&mut guest, "10.5.0.1");
        let modify = |xml: &str| host.call(&ModifyNIC { id: nic.id.clone(), xml: xml.into() }).nic;
        let master = || host.link(&tap(&nic)).expect("the same tap")["master"].clone();
        let index = nic.actual.ifindex;

        let moved = modify(&interface("other"));
        assert_eq!((moved.actual.ifindex, moved.state.as_str(), &moved.mac), (index, "plugged", &nic.mac));
        assert_eq!(master(), "brother");
        guest.set_static(ip("10.6.0.2"), 24, None);
        Host::reaches(&mut guest, "10.6.0.1");

        let none = modify("<interface type='none'/>");
        assert_eq!((none.actual.ifindex, none.state.as_str()), (index, "unplugged"));
        assert_eq!(master(), serde_json::Value::Null);
        assert!(guest.ping(ip("10.6.0.1"), Duration::from_secs(1)).is_err(), "it is plugged into nothing");
        events.wait("unplugged", |e| e.kind == "nic" && e.nic.as_ref().is_some_and(|n| n.state == "unplugged"));

        let back = modify(&interface("net"));
        assert_eq!((back.actual.ifindex, back.state.as_str()), (index, "plugged"));
        guest.set_static(ip("10.5.0.2"), 24, None);
        Host::reaches(&mut guest, "10.5.0.1");

        let (error, refusal) = host.refused(&ModifyNIC { id: nic.id.clone(), xml: interface("nowhere") });
        assert_eq!(error, "NotFound", "{refusal}");
        assert_eq!((host.nic(&nic.id).state.as_str(), master()), ("plugged", "brnet".into()));
        let id = nic.id.clone();
        drop(guest);
        host.kill();
        host.start();
        assert_eq!(host.nic(&id).network.as_deref(), Some("net"));
    });
}

#[test]
fn pulling_the_cable_cuts_traffic_and_plugging_it_restores_it() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        host.network(NET);
        let (nic, mut guest) = host.guest_on("net", "g");
        guest.set_static(ip("10.5.0.2"), 24, None);
        Host::reaches(&mut guest, "10.5.0.1");
        let link = |host: &Host<'_>, up| host.call(&SetNICLink { id: nic.id.clone(), up }).nic;
        link(&host, false);
        assert!(guest.ping(ip("10.5.0.1"), Duration::from_secs(1)).is_err(), "the cable is pulled");
        host.kill();
        host.start();
        assert!(guest.ping(ip("10.5.0.1"), Duration::from_secs(1)).is_err(), "and stays so over a restart");
        let up = link(&host, true);
        assert_eq!((up.state.as_str(), up.actual.ifindex), ("plugged", nic.actual.ifindex));
        Host::reaches(&mut guest, "10.5.0.1");
    });
}

#[test]
fn a_guests_own_configuration_counts() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(NET);
        let xml = "<interface type='network'><mac address='52:54:00:aa:bb:cc'/><source network='net'/>\
             <target dev='mytap0'/><mtu size='1350'/><link state='down'/></interface>";
        let nic = host.call(&attach("g", xml)).nic;
        assert_eq!((tap(&nic).as_str(), nic.mac.as_deref()), ("mytap0", Some("52:54:00:aa:bb:cc")));
        let link = host.link("mytap0").unwrap();
        assert_eq!((&link["mtu"], &link["address"]), (&1350.into(), &"fe:54:00:aa:bb:cc".into()));
        assert_eq!(nic.state, "unplugged");
        // type='bridge' names a bridge of the host itself.
        ns.run("ip link add hostbr type bridge");
        let nic = host.call(&attach("h", "<interface type='bridge'><source bridge='hostbr'/></interface>")).nic;
        assert_eq!(host.link(&tap(&nic)).unwrap()["master"], "hostbr");
    });
}

#[test]
fn a_full_bridge_takes_no_nic_and_leaves_nothing_of_it() {
    in_namespace(|ns| {
        let host = &Host::new(ns);
        host.network(NET);
        host.network(OTHER);
        let mover = host.call(&by_name("mover", &interface("other"))).nic;
        // Somebody else's ports, all but the last three that the kernel has room for.
        let lines = (1..=1020).map(|n| format!("tuntap add dev full{n} mode tap\nlink set full{n} master brnet\n"));
        let directory = tempfile::tempdir().unwrap();
        let batch = directory.path().join("batch");
        std::fs::write(&batch, lines.collect::<String>()).unwrap();
        ns.run(&format!("ip -batch {}", batch.display()));
        // All at once, and before the daemon has heard of all those ports: the kernel may be the one that refuses.
        let attempts: Vec<_> = std::thread::scope(|scope| {
            let attempt = |n| move || host.client().call(&by_name(&format!("g{n}"), &interface("net")));
            let threads: Vec<_> = (0..8).map(|n| scope.spawn(attempt(n))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (plugged, refused): (Vec<_>, Vec<_>) = attempts.into_iter().partition(Result::is_ok);
        assert_eq!((plugged.len(), refused.len()), (3, 5));
        for error in refused.into_iter().map(Result::unwrap_err) {
            let said = told(&error);
            assert!(said.contains("1023 ports") && said.contains("attach it to another network"), "{said}");
        }
        let names =
            |which: &str| ns.run(&format!("ip -br link show {which}")).lines().map(str::to_owned).collect::<Vec<_>>();
        let taps: Vec<_> = names("").into_iter().filter(|name| name.starts_with("pct")).collect();
        assert_eq!((names("master brnet").len(), taps.len(), host.nics().len()), (1023, 4, 4), "{taps:?}");
        wait_until("the daemon to know of all ports", SOON, || {
            let (error, _) = host.refused(&attach("late", &interface("net")));
            if error == "InUse" { Ok(()) } else { Err(error) }
        });

        let before = host.state();
        let on_bridge = "<interface type='bridge'><source bridge='brnet'/></interface>";
        for attach in
            [attach("late", &interface("net")), by_name("late", &interface("net")), by_name("late", on_bridge)]
        {
            let (error, refusal) = host.refused(&attach);
            assert_eq!((error.as_str(), refusal.object.as_str()), ("InUse", "NIC of guest 'late'"));
            assert_eq!(refusal.cause, "bridge brnet has 1023 ports, and can have no more");
            assert_eq!(refusal.hint.as_deref(), Some("attach it to another network"));
        }
        let (error, refusal) = host.refused(&ModifyNIC { id: mover.id.clone(), xml: interface("net") });
        assert_eq!((error.as_str(), refusal.cause.contains("1023 ports")), ("InUse", true), "{refusal:?}");
        assert_eq!(differences(&before, &host.state()), "");
        assert_eq!(host.nic(&mover.id).state, "plugged", "it is where it was");

        // Room is found as soon as there is some, and only as much.
        ns.run("ip link del full7");
        let late = wait_until("a port", SOON, || host.client().call(&by_name("late", &interface("net")))).nic;
        assert_eq!(host.link(&tap(&late)).unwrap()["master"], "brnet");
        host.refused(&by_name("later", &interface("net")));
    });
}
