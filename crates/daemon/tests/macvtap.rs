//! NICs that are a macvtap: handed over by descriptors or by a device node, on all modes, and what they survive.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::switch::{address, pool, switch};
use common::{Host, SOON, attach, ip, mac, tap};
use patchcord_api::methods::{AttachNIC, FetchNIC, ModifyNIC, SetNICLink};
use patchcord_api::types::Nic;
use patchcord_testkit::{Guest, Namespace, in_namespace, wait_until};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

/// A NIC on a network that asks for a macvtap.
fn macvtap(network: &str) -> String {
    let source = format!("<source network='{network}'/>");
    format!("<interface type='network' xmlns:pc='urn:patchcord:1'>{source}<pc:driver plug='macvtap'/></interface>")
}

/// The same without saying so, for moves.
fn plain(network: &str) -> String {
    common::interface(network)
}

fn fetched(host: &Host<'_>, id: &str) -> Vec<OwnedFd> {
    host.client().call_with_fds(&FetchNIC { id: id.into() }, |reply| reply.fds.clone()).unwrap().1
}

fn by_name(host: &Host<'_>, network: &str, uid: u32) -> Nic {
    let ask = AttachNIC { by_name: Some(true), uid: Some(uid), ..attach("named", &macvtap(network)) };
    host.call(&ask).nic
}

fn node(nic: &Nic) -> PathBuf {
    PathBuf::from(nic.actual.node.as_ref().expect("a node"))
}

/// What is left in the directory of nodes.
fn nodes(host: &Host<'_>) -> Vec<String> {
    let entries = fs::read_dir(host.root.join("run/patchcord/nodes")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The number of a macvtap's node, by sysfs.
fn number(nic: &Nic) -> String {
    let (name, index) = (tap(nic), nic.actual.ifindex.unwrap());
    fs::read_to_string(format!("/sys/class/net/{name}/macvtap/tap{index}/dev")).unwrap().trim().to_owned()
}

/// Whether a user without any rights can open a file for reading and writing.
fn opens(ns: &Namespace, uid: u32, path: &std::path::Path) -> bool {
    let mut command =
        ns.command(&format!("setpriv --reuid {uid} --regid {uid} --clear-groups --bounding-set -all sh -c"));
    command.arg(format!("exec 3<>'{}'", path.display())).output().unwrap().status.success()
}

fn gone(host: &Host<'_>, link: &str) {
    wait_until("the macvtap's end", SOON, || match host.link(link) {
        None => Ok(()),
        Some(link) => Err(link.to_string()),
    });
}

#[test]
fn guests_on_a_macvtap_reach_the_switch_in_every_mode() {
    in_namespace(|ns| {
        let _switch = switch(ns, &["eth10"]);
        let host = Host::new(ns);
        for (n, mode) in (10..).zip(["vepa", "private", "bridge", "passthrough"]) {
            host.network(&pool(mode, mode, &["eth10"]));
            let (nic, mut guest) = host.guest(mode, &macvtap(mode));
            address(&mut guest, n);
            Host::reaches(&mut guest, "10.9.0.1");
            assert_eq!((nic.state.as_str(), nic.actual.plug.as_deref()), ("plugged", Some("macvtap")));
            assert_eq!((nic.actual.dev.as_deref(), nic.actual.node), (Some("eth10"), None));
            let link = host.link(nic.actual.tap.as_ref().unwrap()).unwrap();
            let info = &link["linkinfo"];
            assert_eq!(info["info_kind"], "macvtap", "{link}");
            assert_eq!(info["info_data"]["mode"], if mode == "passthrough" { "passthru" } else { mode });
            assert!(link["flags"].as_array().unwrap().contains(&"ALLMULTI".into()), "{link}");
            assert_eq!((link["link"].as_str(), link["address"].as_str()), (Some("eth10"), nic.mac.as_deref()));
            let name = link["ifname"].as_str().unwrap();
            assert_eq!(host.sysctl(&format!("ipv6/conf/{name}/disable_ipv6")), "1");
            host.detach(&nic.id);
            gone(&host, name);
        }
        let macvlans = ns.json("ip -j link show type macvlan");
        assert!(macvlans.as_array().is_none_or(Vec::is_empty), "{macvlans}");
    });
}

#[test]
fn a_node_is_for_the_user_that_it_was_made_for() {
    in_namespace(|ns| {
        let _switch = switch(ns, &["eth10"]);
        let host = Host::new(ns);
        fs::set_permissions(&host.root, fs::Permissions::from_mode(0o755)).unwrap();
        host.network(&pool("vepa", "vepa", &["eth10"]));
        let nic = by_name(&host, "vepa", 12345);
        assert_eq!(nic.handover, "name");
        let file = fs::metadata(node(&nic)).unwrap();
        assert!(file.file_type().is_char_device());
        assert_eq!((file.uid(), file.mode() & 0o777), (12345, 0o600));
        let rdev = file.rdev();
        assert_eq!(number(&nic), format!("{}:{}", rustix::fs::major(rdev), rustix::fs::minor(rdev)));
        assert!(opens(ns, 12345, &node(&nic)));
        assert!(!opens(ns, 12346, &node(&nic)));
        let mut guest = Guest::open_by_node(&node(&nic), mac(&nic)).unwrap();
        address(&mut guest, 21);
        Host::reaches(&mut guest, "10.9.0.1");

        // A namespace beside this one has the index that the next macvtap will have, and so the node of that name.
        let other = ns.peer("other");
        other.run("ip link add v0 type veth peer name v1");
        let next = nic.actual.ifindex.unwrap() + 1;
        for index in next..next + 3 {
            other.run(&format!("ip link add link v0 name m{index} index {index} type macvtap mode vepa"));
        }
        let second = by_name(&host, "vepa", 12345);
        let index = second.actual.ifindex.unwrap();
        assert!((next..next + 3).contains(&index), "{index}");
        let own = fs::symlink_metadata(node(&second)).unwrap();
        assert!(own.file_type().is_char_device(), "a node of our own");
        assert_ne!(own.rdev(), fs::metadata(format!("/dev/tap{index}")).unwrap().rdev());
        assert_eq!(fs::metadata(format!("/dev/tap{index}")).unwrap().uid(), 0, "what is another's is left alone");
        assert!(opens(ns, 12345, &node(&second)));
        assert!(!opens(ns, 12346, &node(&second)));
        let mut guest = Guest::open_by_node(&node(&second), mac(&second)).unwrap();
        address(&mut guest, 22);
        Host::reaches(&mut guest, "10.9.0.1");
        // By descriptor it serves as well, and is not left behind.
        let (third, mut guest) = host.guest("third", &macvtap("vepa"));
        address(&mut guest, 23);
        Host::reaches(&mut guest, "10.9.0.1");
        let mut left = nodes(&host);
        left.sort();
        assert_eq!(left, [tap(&nic), tap(&second)]);
        for nic in [&nic, &second, &third] {
            host.detach(&nic.id);
            gone(&host, &tap(nic));
        }
        assert_eq!(nodes(&host), Vec::<String>::new());
    });
}

#[test]
fn where_no_node_can_be_had_the_attach_says_so_and_leaves_nothing() {
    in_namespace(|ns| {
        let _switch = switch(ns, &["eth10"]);
        let mut host = Host::without_daemon(ns);
        // As systemd mounts /run.
        let run = host.root.join("run/patchcord");
        fs::create_dir_all(&run).unwrap();
        ns.run(&format!("mount -t tmpfs -o nodev,mode=755 tmpfs {}", run.display()));
        host.start();
        host.network(&pool("vepa", "vepa", &["eth10"]));
        let before = ns.run("ip -br link");
        // Another namespace's are the nodes of the next indexes.
        ns.run("ip link add probe type bridge");
        let probe = ns.json("ip -j link show dev probe")[0]["ifindex"].as_u64().unwrap();
        ns.run("ip link del probe");
        let other = ns.peer("other");
        other.run("ip link add v0 type veth peer name v1");
        for index in probe + 1..probe + 5 {
            other.run(&format!("ip link add link v0 name m{index} index {index} type macvtap mode vepa"));
        }
        let ask = attach("web", &macvtap("vepa"));
        for ask in [AttachNIC { by_name: Some(true), ..ask.clone() }, ask] {
            let (name, refusal) = host.refused(&ask);
            assert_eq!(name, "HostFailed");
            assert!(refusal.cause.contains("/dev/tapN is not there or another namespace's"), "{refusal}");
            assert!(refusal.cause.contains("mounted nodev"), "{refusal}");
            assert_eq!(host.nics(), []);
            wait_until("the macvtap's end", SOON, || {
                let now = ns.run("ip -br link");
                if now == before { Ok(()) } else { Err(now) }
            });
        }
        assert_eq!(nodes(&host), Vec::<String>::new());
        drop(host);
        ns.run(&format!("umount -l {}", run.display()));
    });
}

#[test]
fn the_daemon_keeps_what_macvtaps_take_and_no_more() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        let status = fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
        let kept = u64::from_str_radix(line.trim(), 16).unwrap();
        // linux/capability.h: CHOWN is 0, NET_ADMIN 12, NET_RAW 13, MKNOD 27.
        assert_eq!(kept, 1 << 0 | 1 << 12 | 1 << 13 | 1 << 27, "{kept:x}");
    });
}

#[test]
fn each_queue_has_a_descriptor() {
    in_namespace(|ns| {
        let switch = switch(ns, &["eth10"]);
        let host = Host::new(ns);
        host.network(&pool("bridge", "bridge", &["eth10"]));
        let xml = macvtap("bridge").replace("<pc:", "<driver queues='4'/><pc:");
        let nic = host.call(&attach("web", &xml)).nic;
        let queues = fetched(&host, &nic.id);
        assert_eq!((queues.len(), nic.queues), (4, 4));
        let received = || {
            let links = switch.json("ip -s -j link show dev p0");
            links[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
        };
        for queue in queues {
            let before = received();
            let broadcast = patchcord_testkit::frame([0xff; 6], mac(&nic), None, 60, 1);
            patchcord_testkit::Frames::new(queue).unwrap().send(&broadcast);
            wait_until("the queue's frame", SOON, || if received() > before { Ok(()) } else { Err("nothing came") });
        }
    });
}

#[test]
fn its_guest_notices_nothing_of_a_daemon_that_is_killed() {
    in_namespace(|ns| {
        let _switch = switch(ns, &["eth10", "eth11"]);
        let mut host = Host::new(ns);
        host.network(&pool("vepa", "vepa", &["eth10"]));
        host.network(&pool("pass", "passthrough", &["eth11"]));
        let owner = Some(std::process::id());
        let ask = AttachNIC { owner_pid: owner, ..attach("web", &macvtap("vepa")) };
        let nic = host.call(&ask).nic;
        let mut guest = Guest::new(fetched(&host, &nic.id).remove(0), mac(&nic), 12).unwrap();
        address(&mut guest, 31);
        Host::reaches(&mut guest, "10.9.0.1");
        let named = by_name(&host, "pass", 0);
        let mut idle = common::idler();
        let ask = AttachNIC { owner_pid: Some(idle.id()), ..attach("ends", &macvtap("vepa")) };
        let ends = host.call(&ask).nic;
        let refusal = host.refused(&attach("late", &macvtap("pass"))).1.cause;
        let before = (host.nic(&nic.id), host.nic(&named.id));

        let guest = guest.run_in_background();
        guest.ping_every(ip("10.9.0.1"), Duration::from_millis(10), SOON).unwrap();
        host.kill();
        // What ends meanwhile leaves its macvtap, which nobody else deletes.
        idle.kill();
        assert!(host.link(&tap(&ends)).is_some());
        host.start();
        gone(&host, &tap(&ends));
        assert_eq!((host.nic(&nic.id), host.nic(&named.id)), before);
        assert_eq!(host.refused(&attach("late", &macvtap("pass"))).1.cause, refusal, "who holds what is known");
        let (guest, seen) = guest.finish();
        assert_eq!(seen.lost(), 0, "{seen:?}");
        // The descriptors were got back from their owner.
        drop(guest);
        let mut guest = Guest::new(fetched(&host, &nic.id).remove(0), mac(&nic), 12).unwrap();
        address(&mut guest, 31);
        Host::reaches(&mut guest, "10.9.0.1");
        let mut guest = Guest::open_by_node(&node(&named), mac(&named)).unwrap();
        address(&mut guest, 32);
        Host::reaches(&mut guest, "10.9.0.1");
        host.detach(&named.id);
        gone(&host, &tap(&named));
        assert_eq!(nodes(&host), Vec::<String>::new(), "the next daemon knows whose nodes there are");
    });
}

#[test]
fn only_its_mode_changes_while_it_runs() {
    in_namespace(|ns| {
        let _switch = switch(ns, &["eth10", "eth11"]);
        let host = Host::new(ns);
        for (name, mode, device) in [
            ("vepa", "vepa", "eth10"),
            ("bridge", "bridge", "eth10"),
            ("private", "private", "eth10"),
            ("pass", "passthrough", "eth10"),
            ("other", "vepa", "eth11"),
        ] {
            host.network(&pool(name, mode, &[device]));
        }
        let (nic, mut guest) = host.guest("web", &macvtap("vepa"));
        address(&mut guest, 41);
        let link = || host.link(&tap(&nic)).unwrap();
        let index = link()["ifindex"].clone();
        for to in ["bridge", "private", "vepa"] {
            assert_eq!(host.call(&ModifyNIC { id: nic.id.clone(), xml: plain(to) }).nic.state, "plugged");
            assert_eq!((&link()["linkinfo"]["info_data"]["mode"], &link()["ifindex"]), (&to.into(), &index));
            Host::reaches(&mut guest, "10.9.0.1");
        }
        let cord = macvtap("vepa").replace("macvtap", "cord");
        for (to, says) in [
            (plain("pass"), "can't change to passthrough"),
            (plain("other"), "can't be moved to eth11"),
            ("<interface type='none'/>".into(), "can't be moved from its device to nothing"),
            (cord, "can't be plugged in by a cord"),
        ] {
            let (name, refusal) = host.refused(&ModifyNIC { id: nic.id.clone(), xml: to });
            assert_eq!(name, "Unsupported");
            assert!(refusal.cause.contains(says), "{refusal}");
        }
        Host::reaches(&mut guest, "10.9.0.1");
        let up = || link()["flags"].as_array().unwrap().contains(&"UP".into());
        let set = |up| host.call(&SetNICLink { id: nic.id.clone(), up }).nic.state;
        assert_eq!((set(false).as_str(), up()), ("unplugged", false));
        assert_eq!((set(true).as_str(), up()), ("plugged", true));
        Host::reaches(&mut guest, "10.9.0.1");
        host.stop_network("vepa");
        assert_eq!((host.nic(&nic.id).state.as_str(), up()), ("parked", false));
        host.start_network("vepa");
        assert_eq!((host.nic(&nic.id).state.as_str(), up()), ("plugged", true));
        Host::reaches(&mut guest, "10.9.0.1");
    });
}

#[test]
fn a_device_that_goes_takes_its_macvtap_along() {
    in_namespace(|ns| {
        let switch = switch(ns, &["eth10", "eth11"]);
        let host = Host::new(ns);
        host.network(&pool("vepa", "vepa", &["eth10"]));
        host.network(&pool("pass", "passthrough", &["eth11"]));
        let (lost, _guest) = host.guest("web", &macvtap("vepa"));
        let named = by_name(&host, "pass", 0);
        let mut events = host.events();
        for (nic, device, port) in [(&lost, "eth10", "p0"), (&named, "eth11", "p1")] {
            ns.run(&format!("ip link del {device}"));
            let waits = |n: &Nic| n.id == nic.id && n.state == "waiting";
            events.wait("the NIC's waiting", |e| e.what == "unplugged" && e.nic.as_ref().is_some_and(waits));
            assert_eq!(host.nic(&nic.id).actual.node, None);
            ns.veth(device, &switch, port);
            switch.run(&format!("ip link set {port} master fabric"));
        }
        events.wait("the return", |e| e.nic.as_ref().is_some_and(|n| n.id == named.id && n.state == "plugged"));
        let again = host.nic(&named.id);
        let mut guest = Guest::open_by_node(&node(&again), mac(&again)).unwrap();
        address(&mut guest, 51);
        Host::reaches(&mut guest, "10.9.0.1");
        let waiting = host.nic(&lost.id);
        assert_eq!(waiting.state, "waiting");
        assert!(waiting.cause.as_ref().unwrap().contains("went with its device"), "{waiting:?}");
        assert_eq!(host.refused(&FetchNIC { id: lost.id.clone() }).0, "InvalidState");
        host.detach(&lost.id);
        assert_eq!(nodes(&host), [tap(&again)]);
    });
}

#[test]
fn the_configuration_makes_macvtaps_of_nics_that_say_nothing() {
    in_namespace(|ns| {
        let _switch = switch(ns, &["eth10"]);
        let mut host = Host::without_daemon(ns);
        fs::create_dir_all(host.root.join("etc/patchcord")).unwrap();
        fs::write(host.root.join("etc/patchcord/patchcord.toml"), "[devices]\nplug = 'macvtap'\n").unwrap();
        host.start();
        host.network(&pool("vepa", "vepa", &["eth10"]));
        let (nic, mut guest) = host.guest_on("vepa", "web");
        address(&mut guest, 61);
        Host::reaches(&mut guest, "10.9.0.1");
        assert_eq!(host.link(&tap(&nic)).unwrap()["linkinfo"]["info_kind"], "macvtap");
        let cord = host.call(&attach("db", &macvtap("vepa").replace("macvtap", "cord"))).nic;
        assert_eq!(cord.actual.plug.as_deref(), Some("cord"));
        assert_eq!(host.link(&tap(&cord)).unwrap()["linkinfo"]["info_kind"], "tun");
    });
}
