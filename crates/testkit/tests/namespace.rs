//! Namespaces, probes and skips, looked at from both sides.
// clippy.toml allows it in tests, which does not cover the helpers beside them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Command;
use std::time::Duration;

use patchcord_testkit::{
    has_bond, has_bridge_vlan_filtering, has_dummy, has_vlan, in_namespace, probe, test_name, wait_until,
};

fn names(links: &serde_json::Value) -> Vec<String> {
    let links = links.as_array().unwrap();
    links.iter().map(|link| link["ifname"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_namespace_is_empty_and_private() {
    let outside = fs::read_link("/proc/thread-self/ns/net").unwrap();
    in_namespace(|ns| {
        assert_ne!(fs::read_link("/proc/thread-self/ns/net").unwrap(), outside);
        assert_eq!(names(&ns.json("ip -j link")), ["lo"]);
        assert!(ns.json("ip -j link")[0]["flags"].to_string().contains("UP"));
        for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            assert_eq!(fs::read_to_string(format!("/proc/sys/net/{key}")).unwrap(), "0\n");
        }
        ns.run("ip link add pctest0 type bridge");
        assert!(fs::exists("/sys/class/net/pctest0").unwrap());
        // Threads begun here are here.
        let seen = std::thread::spawn(|| fs::exists("/sys/class/net/pctest0").unwrap());
        assert!(seen.join().unwrap());
    });
    assert_eq!(fs::read_link("/proc/thread-self/ns/net").unwrap(), outside);
    assert!(!fs::exists("/sys/class/net/pctest0").unwrap());
}

#[test]
fn peers_are_joined_by_veth() {
    in_namespace(|ns| {
        let peer = ns.peer("server");
        ns.veth("a", &peer, "b");
        ns.run("ip addr add 192.0.2.1/24 dev a");
        peer.run("ip addr add 192.0.2.2/24 dev b");
        assert_eq!(names(&peer.json("ip -j link show type veth")), ["b"]);
        // From this side to a listener made in the other one.
        let listener = peer.inside(|| std::net::TcpListener::bind("192.0.2.2:7").unwrap());
        let server = std::thread::spawn(move || listener.accept().unwrap().1.ip());
        std::net::TcpStream::connect("192.0.2.2:7").unwrap();
        assert_eq!(server.join().unwrap().to_string(), "192.0.2.1");
        assert!(peer.try_run("ip link show dev a").unwrap_err().contains("does not exist"));
    });
    assert!(!fs::exists("/run/netns/server").unwrap());
}

#[test]
fn a_test_that_fails_inside_fails_outside() {
    let result = std::panic::catch_unwind(|| in_namespace(|_| panic!("inside")));
    assert!(result.is_err() || !is_root());
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").unwrap().uid() == 0
}

#[test]
fn a_spawned_process_ends_with_its_guard() {
    in_namespace(|ns| {
        let mut process = ns.spawn("sleep 1000");
        let path = format!("/proc/{}", process.id());
        assert!(fs::exists(&path).unwrap());
        assert!(process.ended().is_none());
        drop(process);
        assert!(!fs::exists(&path).unwrap());
    });
}

#[test]
fn a_probe_does_and_leaves_nothing() {
    if !patchcord_testkit::require_root() {
        return;
    }
    probe(&["ip link add pctest1 type bridge", "ip link set pctest1 up"]).unwrap();
    assert!(!fs::exists("/sys/class/net/pctest1").unwrap());
    let error = probe(&["ip link add pctest1 type nosuchkind"]).unwrap_err();
    assert!(error.contains("nosuchkind"), "{error}");
}

/// A feature that is missing must be missing for the kernel's reason, not for a mistake in the probe.
#[test]
fn feature_probes_ask_what_they_mean() {
    if !patchcord_testkit::require_root() {
        return;
    }
    for (has, commands) in [
        (has_dummy(), "ip link add name probe0 type dummy"),
        (has_bond(), "ip link add name probe0 type bond"),
        (has_bridge_vlan_filtering(), "ip link add name probe0 type bridge vlan_filtering 1"),
        (has_vlan(), "ip link add link lo name probe0 type vlan id 5"),
    ] {
        match probe(&[commands]) {
            Ok(()) => assert!(has, "{commands}"),
            Err(error) => {
                assert!(!has, "{commands}: {error}");
                let reasons = ["Unknown device type", "not supported", "VLAN not supported"];
                assert!(reasons.iter().any(|reason| error.contains(reason)), "{error}");
            }
        }
    }
}

/// Not a test of its own: `skips_are_told` runs it in a process of its own.
#[test]
fn skipper() {
    if std::env::var_os("PATCHCORD_SKIP_LOG").is_some_and(|path| path.to_string_lossy().ends_with(".told")) {
        assert!(!patchcord_testkit::needs("magic", &["ip link add name probe0 type nosuchkind"]));
    }
}

#[test]
fn skips_are_told() {
    if !patchcord_testkit::require_root() {
        return;
    }
    let log = std::env::temp_dir().join(format!("patchcord-skip-{}.told", std::process::id()));
    let run = |strict: &str| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "skipper", "--nocapture"])
            .env("PATCHCORD_SKIP_LOG", &log)
            .env("STRICT", strict)
            .output()
            .unwrap()
    };
    let output = run("0");
    let told = fs::read_to_string(&log).unwrap();
    assert!(output.status.success());
    assert!(told.starts_with("SKIP skipper: kernel has no magic ("), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(String::from_utf8_lossy(&output.stdout).contains(&told));
    assert!(!run("1").status.success());
    fs::remove_file(&log).unwrap();
}

#[test]
fn a_wait_that_fails_says_what_it_saw() {
    let mut turns = 0;
    let panic = std::panic::catch_unwind(move || {
        wait_until("the impossible", Duration::from_millis(30), || {
            turns += 1;
            Err::<(), _>(format!("turn {turns}"))
        })
    });
    let text = *panic.unwrap_err().downcast::<String>().unwrap();
    assert!(text.contains("the impossible; seen last: turn "), "{text}");
    assert_eq!(wait_until("now", Duration::ZERO, || Ok::<_, String>(7)), 7);
}

#[test]
fn a_test_knows_its_name() {
    assert_eq!(test_name(), "a_test_knows_its_name");
}
