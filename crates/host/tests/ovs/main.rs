//! Ports of real Open vSwitch bridges, seen with `ovs-vsctl` and by frames.
#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod answers;
mod bed;
mod others;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use patchcord_core::model::{Bandwidth, MacAddr, NativeMode, Rate, Vlan, VlanTag};
use patchcord_core::plan::{OvsPort, OvsState};
use patchcord_host::Error;
use patchcord_host::ovs::Ovs;
use patchcord_testkit::{Namespace, needs, skip, test_name};
use uuid::Uuid;

use bed::{Bed, GUEST, INSTANCE, NIC, SOON, Tap, name, plain, with_bed};

fn tags(trunk: Option<bool>, tags: &[(u16, Option<NativeMode>)]) -> Option<Vlan> {
    let tags = tags.iter().map(|(id, native)| VlanTag { id: *id, native: *native }).collect();
    Some(Vlan { trunk, tags })
}

fn access(id: u16) -> Option<Vlan> {
    tags(None, &[(id, None)])
}

/// In KiB a second, and KiB.
fn rate(average: u64, burst: Option<u64>) -> Option<Rate> {
    Some(Rate { average: Some(average), burst, peak: None, floor: None })
}

#[test]
fn a_port_is_made_with_what_describes_it_and_removed() {
    with_bed(|bed| {
        let ovs = bed.ovs();
        assert_eq!(ovs.bridges().unwrap(), ["br0", "br1"].map(str::to_owned).into());
        assert!(ovs.has_bridge(&name("br1")).unwrap());
        assert!(!ovs.has_bridge(&name("br2")).unwrap());
        let _tap = bed.tap("pct0");
        let port = OvsPort {
            profile_id: Some("web \"front\"".to_owned()),
            mac: Some(MacAddr([0x52, 0x54, 0, 0, 0, 1])),
            guest: Some(GUEST),
            vlan: access(5),
            ..plain("pct0")
        };
        ovs.set_port(&name("br0"), &port).unwrap();
        assert_eq!(bed.vsctl("list-ports br0"), "pct0");
        // No waiting: ovs-vswitchd has it when set_port returns.
        assert!(bed.get("Interface", "pct0", "ofport").parse::<u16>().unwrap() > 0);
        assert_eq!(bed.get("Interface", "pct0", "type"), "\"\"");
        assert_eq!(bed.ns.json("ip -d -j link show dev pct0")[0]["promiscuity"], 1, "the datapath listens");
        let ids = format!(
            "{{attached-mac=\"52:54:00:00:00:01\", iface-id=\"{}\", iface-status=active, patchcord-instance=\"{INSTANCE}\", \
            port-profile=\"web \\\"front\\\"\", vm-id=\"{GUEST}\"}}",
            Uuid::from_u128(7)
        );
        assert_eq!(bed.get("Interface", "pct0", "external_ids"), ids);
        let mark = format!(
            "{{patchcord-instance=\"{INSTANCE}\", patchcord-link=\"{}\", patchcord-nic=\"{NIC}\"}}",
            port.link.0
        );
        assert_eq!(bed.get("Port", "pct0", "external_ids"), mark);
        assert_eq!(bed.vsctl("get Port pct0 tag vlan_mode trunks qos"), "5\naccess\n[]\n[]");

        let cfg = bed.get("Open_vSwitch", ".", "next_cfg");
        assert!(!ovs.set_port(&name("br0"), &port).unwrap());
        assert_eq!(bed.get("Open_vSwitch", ".", "next_cfg"), cfg, "nothing differs, nothing is written");

        ovs.remove_port(&port.name).unwrap();
        assert_eq!(bed.vsctl("list-ports br0"), "");
        assert!(bed.try_vsctl("get Interface pct0 name").is_err());
        assert_eq!(bed.ns.json("ip -d -j link show dev pct0")[0]["promiscuity"], 0, "the datapath has let go");
        ovs.remove_port(&port.name).unwrap();
    });
}

#[test]
fn frames_stay_in_their_vlans_and_carry_tags_as_the_port_says() {
    with_bed(|bed| {
        let ovs = bed.ovs();
        let native = |mode| tags(None, &[(5, Some(mode)), (7, None)]);
        let (tagged, untagged) = (Some(Some(5)), Some(None));
        // What comes out of each port when one in VLAN 5 sends.
        let ports = [
            ("pct1", access(5), untagged),
            ("pct2", access(6), None),
            ("pct3", tags(Some(true), &[(5, None)]), tagged),
            ("pct4", tags(None, &[(6, None), (7, None)]), None),
            ("pct5", native(NativeMode::Tagged), tagged),
            ("pct6", native(NativeMode::Untagged), untagged),
            ("pct7", None, tagged),
        ];
        let sender = bed.tap("pct0");
        ovs.set_port(&name("br0"), &OvsPort { vlan: access(5), ..plain("pct0") }).unwrap();
        let taps: Vec<Tap> = ports.iter().map(|(port, ..)| bed.tap(port)).collect();
        for (port, vlan, _) in &ports {
            ovs.set_port(&name("br0"), &OvsPort { vlan: vlan.clone(), ..plain(port) }).unwrap();
        }
        sender.send(1);
        taps[0].wait(1);
        // Once the second frame is there, the first one would be, too.
        ovs.set_port(&name("br0"), &plain("pct0")).unwrap();
        for (port, ..) in &ports {
            ovs.set_port(&name("br0"), &plain(port)).unwrap();
        }
        sender.send(2);
        for ((port, vlan, expected), tap) in ports.iter().zip(&taps) {
            let mut received = tap.wait(2);
            assert_eq!(received.pop(), Some((2, None)), "without VLANs all are together again");
            let expected: Vec<_> = expected.iter().map(|tag| (1, *tag)).collect();
            assert_eq!(received, expected, "{port}: {vlan:?}");
        }
    });
}

#[test]
fn what_differs_is_changed_and_what_others_set_stays() {
    with_bed(|bed| {
        let ovs = bed.ovs();
        let _tap = bed.tap("pct0");
        let full = OvsPort {
            profile_id: Some("web".to_owned()),
            mac: Some(MacAddr([0x52, 0x54, 0, 0, 0, 1])),
            guest: Some(GUEST),
            vlan: tags(None, &[(5, Some(NativeMode::Untagged)), (7, None)]),
            ..plain("pct0")
        };
        ovs.set_port(&name("br0"), &full).unwrap();
        assert_eq!(bed.vsctl("get Port pct0 tag vlan_mode trunks"), "5\nnative-untagged\n[5, 7]");
        bed.vsctl("set Interface pct0 external_ids:ovn-installed=true mtu_request=1400");
        bed.vsctl("set Port pct0 external_ids:note=hello other_config:priority-tags=always");
        let ids = (bed.get("Interface", "pct0", "_uuid"), bed.get("Interface", "pct0", "ofport"));

        ovs.set_port(&name("br0"), &OvsPort { nic: Uuid::from_u128(2), ..plain("pct0") }).unwrap();
        assert_eq!(bed.vsctl("get Port pct0 tag vlan_mode trunks"), "[]\n[]\n[]");
        let shown = bed.get("Interface", "pct0", "external_ids");
        for gone in ["attached-mac", "vm-id", "port-profile"] {
            assert!(!shown.contains(gone), "{shown}");
        }
        assert!(shown.contains("ovn-installed=\"true\"") && shown.contains("iface-id"), "{shown}");
        let shown = bed.get("Port", "pct0", "external_ids");
        assert!(shown.contains("note=hello") && shown.contains(&Uuid::from_u128(2).to_string()), "{shown}");
        assert_eq!(bed.get("Interface", "pct0", "mtu_request"), "1400");
        assert_eq!(bed.get("Port", "pct0", "other_config"), "{priority-tags=always, transient=\"true\"}");
        let now = (bed.get("Interface", "pct0", "_uuid"), bed.get("Interface", "pct0", "ofport"));
        assert_eq!(now, ids, "the interface is the same");

        // Others have put the port into a bond.
        bed.vsctl("-- --id=@other create Interface name=other type=internal -- add Port pct0 interfaces @other");
        let state = |ovs: &Ovs| ovs.ports().unwrap().remove(0);
        let right = || OvsState::of(&name("br0"), &plain("pct0"), INSTANCE);
        assert_ne!(state(&ovs), right());
        ovs.set_port(&name("br0"), &plain("pct0")).unwrap();
        assert_eq!(bed.vsctl("list-ifaces br0"), "pct0");
        assert_eq!(state(&ovs), right());
    });
}

/// The class for all frames, as `tc` shows it from its rate on.
fn class(ns: &Namespace, link: &str) -> Option<String> {
    let classes = ns.run(&format!("tc class show dev {link}"));
    let class = classes.lines().find(|line| line.starts_with("class htb 1:1 "))?;
    Some(class[class.find("rate")?..].to_owned())
}

#[test]
fn bandwidth_comes_changes_and_goes_and_nothing_of_it_is_left() {
    with_bed(|bed| {
        let ovs = bed.ovs();
        let _taps = [bed.tap("pct0"), bed.tap("pct1")];
        let limited =
            |port: &str, inbound, outbound| OvsPort { bandwidth: Some(Bandwidth { inbound, outbound }), ..plain(port) };
        let br0 = name("br0");
        let policing = |bed: &Bed<'_>| bed.vsctl("get Interface pct0 ingress_policing_rate ingress_policing_burst");
        ovs.set_port(&br0, &limited("pct0", rate(1000, Some(256)), rate(2000, Some(100)))).unwrap();
        assert_eq!(policing(bed), "16384\n820");
        assert_eq!(bed.shaping(), (1, 1));
        let qos = bed.get("Port", "pct0", "qos");
        assert_eq!(bed.vsctl(&format!("get QoS {qos} type other_config")), "linux-htb\n{max-rate=\"8192000\"}");
        let queue = bed.get("QoS", &qos, "queues:0");
        let limits = "{burst=\"2097152\", max-rate=\"8192000\", min-rate=\"8192000\"}";
        assert_eq!(bed.get("Queue", &queue, "other_config"), limits);
        let limited_to = |rate: &str| {
            let class = class(bed.ns, "pct0").unwrap();
            assert!(class.starts_with(&format!("rate {rate} ceil {rate} burst ")), "{class}");
            class
        };
        assert!(limited_to("8192Kbit").contains("burst 256Kb"));
        let cfg = bed.get("Open_vSwitch", ".", "next_cfg");
        ovs.set_port(&br0, &limited("pct0", rate(1000, Some(256)), rate(2000, Some(100)))).unwrap();
        assert_eq!(bed.get("Open_vSwitch", ".", "next_cfg"), cfg);

        // Another port's limits are its own.
        ovs.set_port(&br0, &limited("pct1", rate(50, None), None)).unwrap();
        ovs.set_port(&br0, &limited("pct0", rate(3000, None), None)).unwrap();
        assert_eq!(policing(bed), "0\n0");
        assert_eq!(bed.shaping(), (2, 2));
        limited_to("24576Kbit");
        assert!(class(bed.ns, "pct1").unwrap().starts_with("rate 409600bit ceil 409600bit"));
        // More than Open vSwitch can count to is not taken for a small limit.
        ovs.set_port(&br0, &limited("pct1", rate(5_000_000, None), None)).unwrap();
        let class_of_other = class(bed.ns, "pct1").unwrap();
        assert!(class_of_other.starts_with("rate 34359Mbit ceil 34359Mbit"), "{class_of_other}");

        // Others have changed the queue, or put a QoS of theirs in its place.
        let mut queue = bed.get("QoS", &bed.get("Port", "pct0", "qos"), "queues:0");
        for key in ["min-rate", "max-rate", "priority"] {
            bed.vsctl(&format!("set Queue {queue} other_config:{key}=1000"));
            ovs.set_port(&br0, &limited("pct0", rate(3000, None), None)).unwrap();
            limited_to("24576Kbit");
            assert_eq!(bed.shaping(), (2, 2));
            let now = bed.get("QoS", &bed.get("Port", "pct0", "qos"), "queues:0");
            assert_ne!(std::mem::replace(&mut queue, now), queue, "{key}");
        }
        bed.vsctl("set Port pct0 qos=@theirs -- --id=@theirs create QoS type=linux-noop");
        ovs.set_port(&br0, &limited("pct0", rate(3000, None), None)).unwrap();
        limited_to("24576Kbit");
        assert_eq!(bed.shaping(), (3, 2), "theirs stays, unused");
        bed.vsctl("--all destroy QoS -- --all destroy Queue -- clear Port pct0 qos -- clear Port pct1 qos");

        ovs.set_port(&br0, &limited("pct0", rate(3000, None), None)).unwrap();
        ovs.set_port(&br0, &plain("pct0")).unwrap();
        assert_eq!((bed.shaping(), class(bed.ns, "pct0")), ((0, 0), None));
        ovs.set_port(&br0, &limited("pct0", rate(3000, None), None)).unwrap();
        ovs.remove_port(&name("pct0")).unwrap();
        assert_eq!(bed.shaping(), (0, 0));
        // Others have deleted the port, and what it had is left: the next one takes it away.
        for again in [true, false] {
            ovs.set_port(&br0, &limited("pct0", rate(3000, None), None)).unwrap();
            bed.vsctl("del-port pct0");
            assert_eq!(bed.shaping(), (1, 1));
            if again {
                ovs.set_port(&br0, &plain("pct0")).unwrap();
            }
            ovs.remove_port(&name("pct0")).unwrap();
            assert_eq!(bed.shaping(), (0, 0));
        }
    });
}

#[test]
fn what_a_guest_sends_beyond_its_rate_is_dropped_by_a_policer() {
    let commands =
        ["tc qdisc add dev lo ingress", "tc filter add dev lo parent ffff: basic police rate 1mbit burst 9k drop"];
    if !needs("act_police", &commands) {
        return;
    }
    with_bed(|bed| {
        let _tap = bed.tap("pct0");
        let bandwidth = Some(Bandwidth { inbound: None, outbound: rate(1000, Some(100)) });
        bed.ovs().set_port(&name("br0"), &OvsPort { bandwidth, ..plain("pct0") }).unwrap();
        let filters = bed.ns.run("tc filter show dev pct0 ingress");
        assert!(filters.contains("police") && filters.contains("8192Kbit"), "{filters}");
    });
}

#[test]
fn a_port_moves_between_bridges_with_its_interface() {
    with_bed(|bed| {
        let ovs = bed.ovs();
        let (moving, first, second) = (bed.tap("pct0"), bed.tap("pct1"), bed.tap("pct2"));
        ovs.set_port(&name("br0"), &plain("pct0")).unwrap();
        ovs.set_port(&name("br0"), &plain("pct1")).unwrap();
        ovs.set_port(&name("br1"), &plain("pct2")).unwrap();
        moving.send(1);
        first.wait(1);
        let id = bed.get("Port", "pct0", "_uuid");
        ovs.set_port(&name("br1"), &OvsPort { guest: Some(GUEST), ..plain("pct0") }).unwrap();
        assert_eq!((bed.vsctl("port-to-br pct0"), bed.get("Port", "pct0", "_uuid")), ("br1".to_owned(), id));
        assert_eq!(bed.vsctl("list-ports br0"), "pct1");
        moving.send(2);
        assert_eq!(second.wait(2), [(2, None)]);
        assert_eq!(first.received(), [(1, None)]);
        // Others have put it on both.
        let id = bed.get("Port", "pct0", "_uuid");
        bed.vsctl(&format!("--no-wait add Bridge br0 ports {id}"));
        ovs.set_port(&name("br0"), &plain("pct0")).unwrap();
        assert_eq!(bed.vsctl("port-to-br pct0"), "br0");
        assert_eq!(bed.vsctl("list-ports br1"), "pct2");
    });
}

#[test]
fn what_does_not_carry_our_mark_is_left_alone() {
    with_bed(|bed| {
        let ovs = bed.ovs();
        let _taps = ["pct0", "pct1", "pct2", "pct3"].map(|tap| bed.tap(tap));
        bed.vsctl("add-port br0 pct0 tag=9");
        bed.vsctl("add-bond br0 bond0 pct1 pct2");
        let others = Ovs::new(bed.socket(), Uuid::from_u128(0xb2), SOON);
        others.set_port(&name("br0"), &OvsPort { bandwidth: None, ..plain("pct3") }).unwrap();
        let before = bed.everything();
        let socket = bed.socket().display().to_string();
        for (port, whose) in [
            ("pct0", "somebody else's"),
            ("br0", "somebody else's"),
            ("br1", "somebody else's"),
            ("bond0", "somebody else's"),
            ("pct1", "another port's interface"),
            ("pct3", "another installation's of Patchcord"),
        ] {
            let set = ovs.set_port(&name("br1"), &OvsPort { vlan: access(5), ..plain(port) }).unwrap_err();
            let removed = ovs.remove_port(&name(port)).unwrap_err();
            for error in [set, removed] {
                assert!(matches!(error, Error::OvsForeign { .. }), "{error}");
                let start = format!("Open vSwitch at {socket}: port {port} is {whose} and stays; choose another name");
                assert!(error.to_string().starts_with(&start), "{error}");
            }
        }
        let error = ovs.set_port(&name("br7"), &plain("pct9")).unwrap_err();
        let text = format!(
            "Open vSwitch at {socket} has no bridge br7: it has br0, br1; make it with 'ovs-vsctl add-br br7' or name another"
        );
        assert_eq!(error.to_string(), text);
        assert_eq!(bed.everything(), before);
        assert!(ovs.ports().unwrap().is_empty());
        assert_eq!(others.ports().unwrap().len(), 1);
    });
}

#[test]
fn what_ovs_vswitchd_can_not_do_is_taken_back_and_its_words_are_told() {
    with_bed(|bed| {
        let ovs = bed.ovs();
        let bandwidth = Some(Bandwidth { inbound: rate(100, None), outbound: None });
        let port = OvsPort { vlan: access(5), bandwidth, ..plain("pct0") };
        let socket = bed.socket().display().to_string();
        let told = |error: Error, bridge: &str, problem: &str| {
            let text = format!("Open vSwitch at {socket}: port pct0 on bridge {bridge}: {problem}");
            assert_eq!(error.to_string(), text);
        };
        let error = ovs.set_port(&name("br0"), &port).unwrap_err();
        told(error, "br0", "could not open network device pct0 (No such device)");
        assert_eq!((bed.vsctl("list-ports br0"), bed.shaping()), (String::new(), (0, 0)));
        let tap = bed.tap("pct0");
        let port = OvsPort { link: plain("pct0").link, ..port };
        ovs.set_port(&name("br0"), &port).unwrap();

        // A bridge that does not work: the port stays where it was.
        bed.vsctl("--no-wait add-br broken -- set bridge broken datapath_type=nonesuch");
        let other = OvsPort { guest: Some(GUEST), vlan: None, ..port.clone() };
        let error = ovs.set_port(&name("broken"), &other).unwrap_err();
        told(error, "broken", "bridge broken does not work; the log of ovs-vswitchd says why");
        assert_eq!(ovs.ports().unwrap(), [OvsState::of(&name("br0"), &port, INSTANCE)]);
        assert_eq!((bed.vsctl("list-ports broken"), bed.shaping()), (String::new(), (1, 1)));

        // The tap goes, and ovs-vswitchd starts without it.
        drop(tap);
        bed.switch = None;
        bed.start_switch();
        bed.vsctl("set Open_vSwitch . external_ids:started=true");
        assert_eq!(
            ovs.ports().unwrap().remove(0).error.as_deref(),
            Some("could not open network device pct0 (No such device)")
        );
        let cfg = bed.get("Open_vSwitch", ".", "next_cfg");
        let error = ovs.set_port(&name("br0"), &port).unwrap_err();
        told(error, "br0", "could not open network device pct0 (No such device)");
        assert_ne!(bed.get("Open_vSwitch", ".", "next_cfg"), cfg, "ovs-vswitchd was told to look again");
        assert_eq!(bed.vsctl("list-ports br0"), "pct0", "what was there before is there again");
        let _tap = bed.tap("pct0");
        ovs.set_port(&name("br0"), &plain("pct0")).unwrap();
        assert_eq!(ovs.ports().unwrap().remove(0).error, None);
    });
}

#[test]
fn a_tap_that_is_made_anew_gets_a_port_that_takes_its_frames() {
    with_bed(|bed| {
        let (tap, other) = (bed.tap("pct0"), bed.tap("pct1"));
        let make = || {
            let port = OvsPort { guest: Some(GUEST), ..plain("pct0") };
            bed.ovs().set_port(&name("br0"), &port).unwrap();
            assert_eq!(bed.ovs().ports().unwrap()[0].settings.link(), Some(port.link));
        };
        make();
        bed.ovs().set_port(&name("br0"), &plain("pct1")).unwrap();
        drop(tap);
        let tap = bed.tap("pct0");
        make();
        // ovs-vswitchd writes the link's flags back as it knew them, sometimes from before it was up.
        bed.ns.run("ip link set pct0 up");
        tap.send(1);
        other.wait(1);
        other.send(2);
        tap.wait(2);
    });
}

#[test]
fn the_kernels_datapath_takes_a_tap_and_lets_go_of_it() {
    with_bed(|bed| {
        // Type system is the default.
        bed.vsctl("--no-wait add-br br2");
        bed.vsctl("set Open_vSwitch . external_ids:made=true");
        if bed.get("Bridge", "br2", "datapath_id") == "[]" {
            return skip(&test_name(), "kernel has no Open vSwitch datapath");
        }
        let ovs = bed.ovs();
        let br2 = name("br2");
        let set = |port: &str, id| ovs.set_port(&br2, &OvsPort { vlan: access(id), ..plain(port) }).unwrap();
        let (first, near) = (bed.tap("pct0"), bed.tap("pct1"));
        set("pct0", 5);
        set("pct1", 5);
        let controller = || bed.ns.json("ip -d -j link show dev pct0")[0]["linkinfo"]["info_slave_kind"].clone();
        assert_eq!(controller(), "openvswitch");
        first.send(1);
        assert_eq!(near.wait(1), [(1, None)]);
        // Another link of the same name, which ovs-vswitchd may or may not have noticed.
        drop(first);
        let second = bed.tap("pct0");
        set("pct0", 6);
        assert_eq!((controller(), bed.get("Port", "pct0", "tag")), ("openvswitch".into(), "6".into()));
        second.send(2);
        set("pct0", 5);
        second.send(3);
        assert_eq!(near.wait(3), [(1, None), (3, None)], "and nothing from the other VLAN");

        ovs.remove_port(&name("pct0")).unwrap();
        // No waiting: another bridge can have it.
        bed.ns.run("ip link add br3 type bridge");
        bed.ns.run("ip link set pct0 master br3");
    });
}

#[test]
fn an_ovs_vswitchd_that_takes_no_notice_is_an_error_in_time() {
    with_bed(|bed| {
        let _taps = [bed.tap("pct0"), bed.tap("pct1")];
        let ovs = Ovs::new(bed.socket(), INSTANCE, Duration::from_secs(2));
        bed.ovs().set_port(&name("br0"), &plain("pct0")).unwrap();
        bed.signal("STOP");
        let start = Instant::now();
        let error = ovs.set_port(&name("br0"), &plain("pct1")).unwrap_err().to_string();
        assert!(
            error.ends_with("pct1 on bridge br0: ovs-vswitchd took no notice within 2s: is it running?"),
            "{error}"
        );
        assert!(start.elapsed() < Duration::from_secs(20));
        assert_eq!(bed.vsctl("--no-wait list-ports br0"), "pct0");
        let error = ovs.remove_port(&name("pct0")).unwrap_err().to_string();
        let end =
            "on bridge br0: its removal is written down, but ovs-vswitchd took no notice within 2s: is it running?";
        assert!(error.ends_with(end), "{error}");
        // Not done before ovs-vswitchd has let go, however often it is asked.
        assert!(ovs.remove_port(&name("pct0")).is_err());
        bed.signal("CONT");
        bed.ovs().remove_port(&name("pct0")).unwrap();
        assert_eq!(bed.ns.json("ip -d -j link show dev pct0")[0]["promiscuity"], 0);
    });
}

#[test]
fn a_daemon_that_starts_finds_its_ports_and_what_others_did_to_them() {
    with_bed(|bed| {
        let ovs = bed.ovs();
        let _taps = ["pct0", "pct1", "pct2"].map(|tap| bed.tap(tap));
        let bandwidth = Some(Bandwidth { inbound: rate(100, Some(10)), outbound: rate(200, None) });
        let ports = BTreeMap::from([
            ("pct0", ("br0", plain("pct0"))),
            ("pct1", ("br1", OvsPort { vlan: access(5), nic: Uuid::from_u128(2), ..plain("pct1") })),
            ("pct2", ("br0", OvsPort { bandwidth, nic: Uuid::from_u128(3), ..plain("pct2") })),
        ]);
        for (bridge, port) in ports.values() {
            ovs.set_port(&name(bridge), port).unwrap();
        }
        let drifted = || -> BTreeSet<String> {
            let found = ovs.ports().unwrap();
            assert_eq!(found.len(), ports.len());
            let is = |state: &OvsState| {
                let (bridge, port) = &ports[state.name.as_str()];
                *state == OvsState::of(&name(bridge), port, INSTANCE)
            };
            found.into_iter().filter(|state| !is(state)).map(|state| state.name.to_string()).collect()
        };
        assert_eq!(drifted(), BTreeSet::new());
        for state in ovs.ports().unwrap() {
            let (_, port) = &ports[state.name.as_str()];
            assert_eq!(state.settings.nic(), Some(port.nic));
            assert_eq!(state.settings.interface_id(), Some(port.interface_id.to_string().as_str()));
        }
        for change in [
            "set Port pct1 tag=6",
            "set Port pct1 vlan_mode=dot1q-tunnel",
            "set Port pct1 trunks=1,2",
            "remove Interface pct1 external_ids patchcord-instance",
            "set Interface pct1 external_ids:vm-id=x",
            "set Interface pct1 ingress_policing_burst=1",
            "set Port pct1 qos=@q -- --id=@q create QoS type=linux-noop",
        ] {
            bed.vsctl(change);
            assert_eq!(drifted(), BTreeSet::from(["pct1".to_owned()]), "{change}");
            let (bridge, port) = &ports["pct1"];
            ovs.set_port(&name(bridge), port).unwrap();
            assert_eq!(drifted(), BTreeSet::new(), "{change}");
        }
        bed.vsctl("clear Port pct2 qos");
        assert_eq!(drifted(), BTreeSet::from(["pct2".to_owned()]));
    });
}

#[test]
fn several_at_once_do_not_get_in_each_others_way() {
    with_bed(|bed| {
        let _tap = bed.tap("pct0");
        let socket = bed.socket();
        std::thread::scope(|scope| {
            for number in 0..4 {
                let ovs = Ovs::new(&socket, INSTANCE, SOON);
                scope.spawn(move || {
                    let bandwidth = Some(Bandwidth { inbound: rate(100 + u64::from(number), None), outbound: None });
                    let port = OvsPort { vlan: access(number), bandwidth, ..plain("pct0") };
                    for turn in 0..4 {
                        let bridge = if (number + turn) % 2 == 0 { "br0" } else { "br1" };
                        ovs.set_port(&name(bridge), &port).unwrap();
                    }
                });
            }
        });
        let found = bed.ovs().ports().unwrap();
        assert_eq!((found.len(), found[0].bridges.len(), bed.shaping()), (1, 1, (1, 1)), "{found:?}");
        bed.ovs().remove_port(&name("pct0")).unwrap();
        assert_eq!(bed.shaping(), (0, 0));
    });
}
