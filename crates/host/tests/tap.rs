//! Taps in a namespace of their own, seen with `ip` and `bridge`.
#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

use std::os::fd::AsFd;
use std::time::Duration;

use patchcord_host::Error;
use patchcord_host::tap::{self, Tap, TapOwner, TapSpec};
use patchcord_testkit::{Namespace, in_namespace, wait_until};
use rustix::io::Errno;
use serde_json::Value;

fn spec(name: &str, queues: u16, owner: Option<TapOwner>) -> TapSpec {
    TapSpec { name: name.to_owned(), queues, owner, vnet_hdr: true }
}

/// What `ip` says about the tap: the `info_data` of its link.
fn seen(ns: &Namespace, name: &str) -> Value {
    let links = ns.json(&format!("ip -d -j link show dev {name}"));
    assert_eq!(links[0]["linkinfo"]["info_kind"], "tun");
    links[0]["linkinfo"]["info_data"].clone()
}

fn exists(ns: &Namespace, name: &str) -> bool {
    ns.try_run(&format!("ip link show dev {name}")).is_ok()
}

#[test]
fn by_descriptor_lives_as_long_as_its_queues() {
    in_namespace(|ns| {
        let made = Tap::create(&spec("pct0", 1, None)).unwrap();
        assert_eq!(made.fds.len(), 1);
        assert_eq!(tap::name_of(made.fds[0].as_fd()).unwrap(), "pct0");
        let info = seen(ns, "pct0");
        assert_eq!(info["type"], "tap");
        assert_eq!(info["pi"], false);
        assert_eq!(info["vnet_hdr"], true);
        assert_eq!(info["multi_queue"], false);
        assert_eq!(info["persist"], false);
        let error = Tap::create(&spec("pct0", 1, None)).unwrap_err();
        assert!(matches!(&error, Error::TapExists { name } if name == "pct0"), "{error}");
        drop(made);
        wait_until("the tap to go", Duration::from_secs(5), || if exists(ns, "pct0") { Err("there") } else { Ok(()) });
    });
}

#[test]
fn several_queues_have_a_descriptor_each() {
    in_namespace(|ns| {
        let made = Tap::create(&spec("pct1", 4, None)).unwrap();
        assert_eq!(made.fds.len(), 4);
        let info = seen(ns, "pct1");
        assert_eq!(info["multi_queue"], true);
        assert_eq!(info["numqueues"], 4);
        for fd in &made.fds {
            assert_eq!(tap::name_of(fd.as_fd()).unwrap(), "pct1");
        }
    });
}

#[test]
fn by_name_stays_belongs_to_its_owner_and_is_attached_to_again() {
    in_namespace(|ns| {
        let owner = TapOwner { uid: 12345, gid: Some(54321) };
        let made = Tap::create(&spec("pct2", 1, Some(owner))).unwrap();
        assert_eq!(seen(ns, "pct2")["persist"], false, "until it is marked, a crash takes it along");
        made.persist().unwrap();
        let info = seen(ns, "pct2");
        assert_eq!(info["persist"], true);
        assert_eq!(info["multi_queue"], false);
        assert_eq!(info["user"], 12345);
        assert_eq!(info["group"], 54321);

        let first = Tap::attach("pct2", 1, true).unwrap();
        assert!(tap::is_persistent(first.fds[0].as_fd()).unwrap());
        let error = Tap::attach("pct2", 1, true).unwrap_err();
        assert!(matches!(&error, Error::TapBusy { name } if name == "pct2"), "{error}");
        drop(first);
        let again = Tap::attach("pct2", 1, true).unwrap();
        tap::set_persistent(again.fds[0].as_fd(), false).unwrap();
        drop(again);
        wait_until("the tap to go", Duration::from_secs(5), || if exists(ns, "pct2") { Err("there") } else { Ok(()) });
    });
}

#[test]
fn attaching_makes_nothing() {
    in_namespace(|ns| {
        let error = Tap::attach("pct3", 1, true).unwrap_err();
        assert!(matches!(&error, Error::TapAbsent { name } if name == "pct3"), "{error}");
        wait_until("no tap", Duration::from_secs(5), || if exists(ns, "pct3") { Err("there") } else { Ok(()) });
        ns.run("ip link add pct3 type bridge");
        let error = Tap::attach("pct3", 1, true).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::INVAL), "{error}");
        assert!(matches!(Tap::create(&spec("pct3", 1, None)), Err(Error::TapExists { .. })));
        assert!(matches!(Tap::create(&spec("pct%d", 1, None)), Err(Error::Name { what: "link", .. })));
    });
}

#[test]
fn too_many_queues_leave_no_tap() {
    in_namespace(|ns| {
        let error = Tap::create(&spec("pct4", tap::MAX_QUEUES + 1, None)).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::TOOBIG), "{error}");
        wait_until("no tap", Duration::from_secs(5), || if exists(ns, "pct4") { Err("there") } else { Ok(()) });
    });
}

#[test]
fn a_bridge_learns_from_the_announcement_whatever_the_header_size() {
    in_namespace(|ns| {
        ns.run("ip link add br0 up type bridge");
        for (name, vnet_hdr, size) in [("pct5", true, 10), ("pct6", true, 12), ("pct7", false, 0)] {
            let made = Tap::create(&TapSpec { vnet_hdr, ..spec(name, 1, None) }).unwrap();
            let fd = made.fds[0].as_fd();
            if vnet_hdr {
                tap::set_vnet_hdr_size(fd, size).unwrap();
            }
            ns.run(&format!("ip link set {name} master br0"));
            let mac = [0x52, 0x54, 0, 0, 0, u8::try_from(size).unwrap()];
            let error = tap::announce(fd, mac).unwrap_err();
            assert_eq!(error.errno(), Some(Errno::AGAIN), "a link that is down takes nothing: {error}");
            ns.run(&format!("ip link set {name} up"));
            wait_until("the port to forward", Duration::from_secs(5), || {
                let ports = ns.json(&format!("bridge -j link show dev {name}"));
                if ports[0]["state"] == "forwarding" { Ok(()) } else { Err(ports.to_string()) }
            });
            tap::announce(fd, mac).unwrap();
            let address = mac.map(|byte| format!("{byte:02x}")).join(":");
            let table = ns.json("bridge -j fdb show br br0");
            let entry = table.as_array().unwrap().iter().find(|entry| entry["mac"] == address.as_str());
            assert_eq!(entry.unwrap()["ifname"], name);
        }
    });
}

#[test]
fn carrier_and_offloads_are_set() {
    in_namespace(|ns| {
        let made = Tap::create(&spec("pct8", 1, None)).unwrap();
        let fd = made.fds[0].as_fd();
        ns.run("ip link set pct8 up");
        let has_carrier = || !ns.json("ip -j link show dev pct8")[0]["flags"].to_string().contains("NO-CARRIER");
        assert!(has_carrier());
        tap::set_carrier(fd, false).unwrap();
        assert!(!has_carrier());
        tap::set_carrier(fd, true).unwrap();
        assert!(has_carrier());
        // TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6
        tap::set_offloads(fd, 0x7).unwrap();
        assert!(tap::set_offloads(fd, 1 << 30).is_err());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(tap::name_of(file.as_fd()).is_err());
    });
}
