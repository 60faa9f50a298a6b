//! Finding a network that fits, asking it ahead, and holding its answer.

#![allow(clippy::unwrap_used)]

mod common;

use common::{TestEnv, path};
use patchcord_testkit::wait_until;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const GUEST: &str = "5b0c8f1e-9d2a-4c57-8f0e-0c6f0d3f6a11";

/// A document of a NIC with that last byte of its MAC.
fn document(env: &TestEnv, mac: u8) -> PathBuf {
    let xml = format!(
        "<interface type='network'><source network='sriov'/><mac address='52:54:00:00:00:{mac:02x}'/></interface>"
    );
    env.write(&format!("{mac}.xml"), &xml)
}

fn attach(env: &TestEnv, arguments: &[&str]) -> common::Ended {
    env.run(&[&["nic", "attach", "--by-name"], arguments].concat())
}

#[test]
fn what_is_reserved_is_kept_from_others_until_it_is_claimed() {
    let env = TestEnv::new();
    env.sriov();
    let [first, second, third] = [1, 2, 3].map(|mac| document(&env, mac));
    let ask = |file: &PathBuf, more: &[&str]| env.json(&[&["network", "check", "sriov", path(file)], more].concat());
    // Without --reserve nothing is held, and there is no id that could mean something.
    let would = ask(&first, &[]);
    assert_eq!((would.get("id"), &would["reservation"]), (None, &Value::Null));
    assert_eq!(would["actual"]["pci"], "0000:3b:02.0");
    let held = ask(&first, &["--reserve", "600", "--guest", "coming", "--guest-uuid", GUEST]);
    let (id, expires) = (&held["reservation"]["id"], held["reservation"]["expires"].as_u64().unwrap());
    let id = id.as_str().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!((now + 590..=now + 600).contains(&expires), "{expires}, and it is {now}");
    assert_eq!(held["id"], id);
    let text = env.ok(&["network", "check", "sriov", path(&second), "--reserve", "600", "--guest", "other"]);
    let (would, other) = text.split_once('\n').unwrap();
    assert!(would.starts_with("the NIC would attach: "), "{text}");
    let other = other.strip_prefix("reserved for 600 s: ").unwrap().trim();
    // Both functions are spoken for.
    assert!(env.ok(&["device", "list"]).contains("coming (reserved)"));
    let refused = attach(&env, &["--guest", "late", path(&third)]);
    assert_eq!(refused.status, 4, "{}", refused.stderr);
    assert!(refused.stderr.contains(&format!("guest 'coming' (reservation {id})")), "{}", refused.stderr);
    assert_eq!(env.run(&["network", "check", "sriov", path(&third)]).status, 4);
    // One is claimed by its id, the other by the guest's UUID and the MAC. The NICs have the ids that were promised.
    let claimed = attach(&env, &["--guest", "other", "--reservation", other, path(&second)]);
    assert_eq!((claimed.status, claimed.stdout.trim()), (0, other), "{}", claimed.stderr);
    let claimed = attach(&env, &["--guest", "coming", "--guest-uuid", GUEST, path(&first)]);
    assert_eq!((claimed.status, claimed.stdout.trim()), (0, id), "{}", claimed.stderr);
    assert_eq!(env.json(&["nic", "show", id])["actual"]["pci"], "0000:3b:02.0");
    assert!(!env.ok(&["device", "list"]).contains("reserved"));
    // What was claimed is no reservation any more.
    let again = attach(&env, &["--guest", "again", "--reservation", id, path(&third)]);
    assert_eq!(again.status, 3);
    assert!(again.stderr.contains(&format!("there is no reservation {id}")), "{}", again.stderr);
}

#[test]
fn a_reservation_ends_with_its_time() {
    let env = TestEnv::new();
    env.sriov();
    let [first, second, third] = [1, 2, 3].map(|mac| document(&env, mac));
    assert_eq!(attach(&env, &["--guest", "there", path(&first)]).status, 0);
    let check = ["network", "check", "sriov", path(&second)];
    let held = env.json(&[&check[..], &["--reserve", "1"]].concat());
    wait_until("the reservation's end", Duration::from_secs(30), || match env.ok(&["device", "list"]) {
        devices if devices.contains("reserved") => Err(devices),
        _ => Ok(()),
    });
    let late = attach(&env, &["--guest", "web", "--reservation", held["id"].as_str().unwrap(), path(&second)]);
    assert_eq!(late.status, 3);
    assert!(late.stderr.contains("ask again, and attach in time"), "{}", late.stderr);
    assert_eq!(attach(&env, &["--guest", "other", path(&third)]).status, 0);
    for seconds in ["0", "3601", "x"] {
        assert_eq!(env.run(&[&check[..], &["--reserve", seconds]].concat()).status, 2);
    }
}

#[test]
fn networks_are_listed_by_what_is_asked_of_them() {
    let env = TestEnv::new();
    env.lab().sriov();
    let file = env.write(
        "nat.xml",
        "<network><name>home</name><tag name='blue'/><forward mode='nat'/><portgroup name='a,b'/>\
         <ip address='192.0.2.1' prefix='24'/></network>",
    );
    env.ok(&["network", "define", path(&file)]);
    let listed = |options: &[&str]| -> Vec<String> {
        let all = env.json(&[&["network", "list"], options].concat());
        let mut names: Vec<_> =
            all.as_array().unwrap().iter().map(|n| n["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let one = attach(&env, &["--guest", "web", path(&document(&env, 1))]);
    assert_eq!(one.status, 0, "{}", one.stderr);
    for (options, names) in [
        (&[][..], &["home", "lab", "sriov"][..]),
        (&["--mode", "isolated"], &["lab"]),
        (&["--mode", "nat"], &["home"]),
        (&["--mode", "hostdev"], &["sriov"]),
        (&["--mode", "vepa"], &[]),
        (&["--tag", "blue"], &["home", "sriov"]),
        (&["--tag", "blue", "--tag", "fast"], &["sriov"]),
        (&["--tag", "green"], &[]),
        (&["--portgroup", "a,b"], &["home", "lab"]),
        (&["--portgroup", "a,b", "--tag", "blue"], &["home"]),
        (&["--portgroup", "a"], &[]),
        (&["--free-devices", "1"], &["sriov"]),
        (&["--free-devices", "2"], &[]),
        (&["--active"], &["lab", "sriov"]),
        (&["--active", "--portgroup", "a,b"], &["lab"]),
    ] {
        assert_eq!(listed(options), names, "{options:?}");
    }
    let wrong = env.run(&["network", "list", "--mode", "wrong"]);
    assert_eq!((wrong.status, wrong.stdout.as_str()), (2, ""));
    let modes = "isolated, nat, route, open, bridge, private, vepa, passthrough, hostdev";
    assert!(
        wrong.stderr.contains("the list, mode: there is no mode 'wrong'") && wrong.stderr.contains(modes),
        "{}",
        wrong.stderr
    );
    let table = env.ok(&["network", "list", "--free-devices", "1"]);
    assert!(table.contains("(1 free)"), "{table}");
    assert_eq!(env.json(&["network", "list", "--tag", "green"]), json!([]));
}
