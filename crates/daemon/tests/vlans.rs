//! VLANs of NICs on bridges: who meets whom, what the kernel was told, and what is as it was when they are gone.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::{Host, SOON, attach, mac, tap};
use patchcord_api::methods::{AttachNIC, CreateNetwork, ModifyNIC, UpdateNetwork};
use patchcord_api::types::Nic;
use patchcord_testkit::{Guest, Namespace, has_bridge_vlan_filtering, in_namespace, needs, wait_until};
use serde_json::Value;
use std::net::IpAddr;
use std::time::Duration;

/// Long enough for a ping that gets through, on a slow machine.
const IN_VAIN: Duration = Duration::from_secs(3);

const LAB: &str = "<network><name>lab</name><bridge name='brlab' stp='off'/>\
     <ip address='10.5.0.1' prefix='24'><dhcp><range start='10.5.0.100' end='10.5.0.199'/></dhcp></ip></network>";

fn vlans_here() -> bool {
    needs("bridge VLAN filtering", &["ip link add name probe0 type bridge vlan_filtering 1"])
}

/// The `<interface>` of a NIC with VLANs: `source` as in `network='lab'`.
fn nic(source: &str, vlan: &str) -> String {
    let kind = source.split('=').next().unwrap();
    format!("<interface type='{kind}'><source {source}/>{vlan}</interface>")
}

fn access(vid: u16) -> String {
    format!("<vlan><tag id='{vid}'/></vlan>")
}

/// A guest with VLANs and the address 10.5.0.LAST.
fn guest(host: &Host<'_>, name: &str, xml: &str, last: u8) -> (Nic, Guest) {
    let (nic, mut guest) = host.guest(name, xml);
    assert_eq!(nic.state, "plugged");
    guest.set_static(ip(last), 24, None);
    (nic, guest)
}

fn ip(last: u8) -> IpAddr {
    format!("10.5.0.{last}").parse().unwrap()
}

fn reaches(guest: &mut Guest, last: u8) {
    guest.ping(ip(last), SOON).unwrap();
}

fn misses(guest: &mut Guest, last: u8) {
    assert!(guest.ping(ip(last), IN_VAIN).is_err(), "10.5.0.{last} was reached");
}

/// What `bridge` says of a link's VLANs: `1 PVID Egress Untagged`, `43-45`.
fn seen(ns: &Namespace, link: &str) -> Vec<String> {
    let all = ns.json("bridge -j -compressvlans vlan show");
    let link = all.as_array().unwrap().iter().find(|l| l["ifname"] == link).cloned().unwrap_or_default();
    let text = |vlan: &Value| {
        let last = vlan["vlanEnd"].as_u64().map(|last| format!("-{last}")).unwrap_or_default();
        let flags = vlan["flags"].as_array().into_iter().flatten().map(|f| format!(" {}", f.as_str().unwrap()));
        format!("{}{last}{}", vlan["vlan"], flags.collect::<String>())
    };
    link["vlans"].as_array().into_iter().flatten().map(text).collect()
}

fn filters(host: &Host<'_>, bridge: &str) -> bool {
    host.link(bridge).unwrap()["linkinfo"]["info_data"]["vlan_filtering"] == 1
}

fn modify(host: &Host<'_>, nic: &Nic, xml: &str) {
    host.call(&ModifyNIC { id: nic.id.clone(), xml: xml.into() });
}

#[test]
fn guests_meet_in_their_own_vlan_only() {
    in_namespace(|ns| {
        if !vlans_here() {
            return;
        }
        let mut host = Host::new(ns);
        host.network(LAB);
        let (plain, mut no_vlan) = guest(&host, "plain", &nic("network='lab'", ""), 10);
        assert!(!filters(&host, "brlab"));
        let (first, mut one) = guest(&host, "one", &nic("network='lab'", &access(42)), 11);
        let (second, two) = guest(&host, "two", &nic("network='lab'", &access(42)), 12);
        let (third, three) = guest(&host, "three", &nic("network='lab'", &access(43)), 13);
        let (two, three) = (two.run_in_background(), three.run_in_background());
        assert!(filters(&host, "brlab"));
        assert_eq!(seen(ns, &tap(&first)), ["42 PVID Egress Untagged"]);
        assert_eq!(seen(ns, &tap(&third)), ["43 PVID Egress Untagged"]);
        assert_eq!(seen(ns, &tap(&plain)), ["1 PVID Egress Untagged"]);
        assert_eq!(seen(ns, "brlab"), ["1 PVID Egress Untagged"]);
        reaches(&mut one, 12);
        misses(&mut one, 13);
        misses(&mut one, 1);
        reaches(&mut no_vlan, 1);
        misses(&mut no_vlan, 12);

        // A daemon that starts anew finds all as it should be.
        let before = (host.state(), ns.run("bridge -j vlan show"));
        host.kill();
        host.start();
        host.nics();
        assert_eq!(common::differences(&before.0, &host.state()), "");
        assert_eq!(before.1, ns.run("bridge -j vlan show"));

        // What others change is put back.
        ns.run(&format!("bridge vlan add dev {} vid 43 pvid untagged", tap(&first)));
        ns.run("ip link set dev brlab type bridge vlan_filtering 0");
        wait_until("the VLANs", SOON, || match (seen(ns, &tap(&first)), filters(&host, "brlab")) {
            (vlans, true) if vlans == ["42 PVID Egress Untagged"] => Ok(()),
            other => Err(format!("{other:?}")),
        });

        // Into another VLAN, and out of it, while the guest runs.
        modify(&host, &second, &nic("network='lab'", &access(43)));
        misses(&mut one, 12);
        modify(&host, &first, &nic("network='lab'", &access(43)));
        reaches(&mut one, 12);
        reaches(&mut one, 13);
        modify(&host, &first, &nic("network='lab'", ""));
        assert_eq!(seen(ns, &tap(&first)), ["1 PVID Egress Untagged"]);
        reaches(&mut one, 1);
        misses(&mut one, 13);
        host.detach(&second.id);
        assert!(filters(&host, "brlab"));
        host.detach(&third.id);
        assert!(!filters(&host, "brlab"));
        reaches(&mut no_vlan, 1);
        drop((two, three));
    });
}

#[test]
fn a_trunk_has_tags_and_its_native_vlan_none() {
    in_namespace(|ns| {
        if !vlans_here() {
            return;
        }
        let host = Host::new(ns);
        host.network(LAB);
        let trunk = |mode: &str| {
            let tags = "<tag id='43'/><tag id='44'/><tag id='45'/>";
            nic("network='lab'", &format!("<vlan trunk='yes'><tag id='42' nativeMode='{mode}'/>{tags}</vlan>"))
        };
        let method = AttachNIC { fetch: Some(true), ..attach("trunk", &trunk("untagged")) };
        let answer = host.client().call_with_fds(&method, |reply| reply.fds.clone().unwrap_or_default());
        let (reply, mut fds) = answer.unwrap();
        let inside = ns.peer("trunk");
        let _wire = inside.behind(fds.remove(0), "eth0", mac(&reply.nic));
        assert_eq!(seen(ns, &tap(&reply.nic)), ["42 PVID Egress Untagged", "43-45"]);
        // An address is reached by the link that has it, and by no other.
        inside.inside(|| std::fs::write("/proc/sys/net/ipv4/conf/all/arp_ignore", "1")).unwrap();
        inside.run("ip addr add 10.5.0.20/24 dev eth0");
        for (vid, address) in [(42, "10.42.0.1"), (43, "10.43.0.1")] {
            inside.run(&format!("ip link add link eth0 name v{vid} type vlan id {vid}"));
            inside.run(&format!("ip addr add {address}/24 dev v{vid}"));
            inside.run(&format!("ip link set v{vid} up"));
        }
        let (_, mut native) = guest(&host, "native", &nic("network='lab'", &access(42)), 11);
        reaches(&mut native, 20);
        native.set_static("10.42.0.2".parse().unwrap(), 24, None);
        assert!(native.ping("10.42.0.1".parse().unwrap(), IN_VAIN).is_err());
        let (_, mut tagged) = host.guest("tagged", &nic("network='lab'", &access(43)));
        tagged.set_static("10.43.0.2".parse().unwrap(), 24, None);
        tagged.ping("10.43.0.1".parse().unwrap(), SOON).unwrap();
        let (_, mut other) = host.guest("other", &nic("network='lab'", &access(46)));
        other.set_static("10.43.0.3".parse().unwrap(), 24, None);
        assert!(other.ping("10.43.0.1".parse().unwrap(), IN_VAIN).is_err());

        // In the other mode the native VLAN's frames reach the guest with their tag.
        modify(&host, &reply.nic, &trunk("tagged"));
        assert_eq!(seen(ns, &tap(&reply.nic)), ["42 PVID", "43-45"]);
        native.ping("10.42.0.1".parse().unwrap(), SOON).unwrap();
    });
}

#[test]
fn a_network_in_a_vlan_has_the_host_in_it() {
    in_namespace(|ns| {
        if !vlans_here() {
            return;
        }
        let host = Host::new(ns);
        let lab = LAB.replace(
            "<ip ",
            "<vlan><tag id='42'/></vlan><portgroup name='p'><vlan><tag id='43'/></vlan></portgroup><ip ",
        );
        host.network(&lab);
        assert_eq!(seen(ns, "brlab"), ["42 PVID Egress Untagged"]);
        let (_, mut one) = host.guest_on("lab", "one");
        one.dhcp(SOON).unwrap();
        reaches(&mut one, 1);
        let (other, mut two) = guest(&host, "two", &nic("network='lab' portgroup='p'", ""), 12);
        misses(&mut two, 1);
        // The portgroup's VLAN changes, and its NICs with it.
        host.call(&UpdateNetwork {
            name: "lab".into(),
            command: "modify".into(),
            section: "portgroup".into(),
            xml: "<portgroup name='p'/>".into(),
            parent: None,
            live: Some(true),
            config: None,
        });
        assert_eq!(seen(ns, &tap(&other)), ["42 PVID Egress Untagged"]);
        reaches(&mut two, 1);
    });
}

#[test]
fn guests_meet_in_a_vlan_of_a_bridge_that_learns_nothing() {
    in_namespace(|ns| {
        if !vlans_here() {
            return;
        }
        let host = Host::new(ns);
        host.network(&LAB.replace("stp='off'", "stp='off' macTableManager='libvirt'"));
        let (first, mut one) = guest(&host, "one", &nic("network='lab'", ""), 11);
        let (_, two) = guest(&host, "two", &nic("network='lab'", &access(42)), 12);
        let _two = two.run_in_background();
        misses(&mut one, 12);
        modify(&host, &first, &nic("network='lab'", &access(42)));
        reaches(&mut one, 12);
        let entries = ns.json(&format!("bridge -j fdb show dev {}", tap(&first)));
        let entries = entries.as_array().unwrap().iter().filter(|e| e["mac"].as_str() == first.mac.as_deref());
        let vlans: Vec<u64> = entries.filter_map(|e| e["vlan"].as_u64()).collect();
        assert_eq!(vlans, [42], "an entry for each VLAN that it is in, and no other");
    });
}

#[test]
fn a_host_bridges_vlans_are_its_owners() {
    in_namespace(|ns| {
        if !vlans_here() {
            return;
        }
        let outside = ns.peer("outside");
        ns.veth("eth10", &outside, "up0");
        ns.run("ip link add name br0 address 52:54:00:99:00:01 type bridge");
        ns.run("ip link set br0 up");
        ns.run("ip link set eth10 master br0");
        outside.run("ip addr add 10.5.0.2/24 dev up0");
        outside.run("ip link add link up0 name v42 type vlan id 42");
        outside.run("ip link set v42 up");
        let host = Host::new(ns);
        let in_42 = nic("bridge='br0'", &access(42));
        let before = host.state();
        let (_, refusal) = host.refused(&attach("web", &in_42));
        assert!(
            refusal.hint.clone().unwrap().contains("ip link set dev br0 type bridge vlan_filtering 1"),
            "{refusal:?}"
        );
        assert_eq!(common::differences(&before, &host.state()), "");

        ns.run("ip link set dev br0 type bridge vlan_filtering 1");
        let untouched = || (ns.run("bridge -j vlan show"), host.state());
        let before = untouched();
        // The daemon has heard of it when it no longer refuses.
        let method = attach("web", &in_42);
        let web = wait_until("a bridge that filters", SOON, || {
            host.client().call(&method).map_err(|error| common::told(&error))
        });
        let missed = web.warnings.clone();
        assert!(missed.iter().any(|w| w.contains("no other port of br0 (eth10) carries VLAN 42")), "{missed:?}");
        host.detach(&web.nic.id);
        assert_eq!(before.0, untouched().0);
        assert_eq!(common::differences(&before.1, &untouched().1), "");

        ns.run("bridge vlan add dev eth10 vid 42");
        let before = untouched();
        let (nic_42, mut tagged) = guest(&host, "web", &in_42, 10);
        let (nic_1, mut plain) = guest(&host, "db", &nic("bridge='br0'", ""), 11);
        assert_eq!(seen(ns, &tap(&nic_42)), ["42 PVID Egress Untagged"]);
        assert_eq!(seen(ns, &tap(&nic_1)), ["1 PVID Egress Untagged"]);
        reaches(&mut plain, 2);
        misses(&mut tagged, 2);
        outside.run("ip addr del 10.5.0.2/24 dev up0");
        outside.run("ip addr add 10.5.0.2/24 dev v42");
        reaches(&mut tagged, 2);

        // Who has a VLAN is out while its owner has the bridge keep them apart no longer.
        ns.run("ip link set dev br0 type bridge vlan_filtering 0");
        wait_until("the NIC to wait", SOON, || match host.nic(&nic_42.id).state.as_str() {
            "waiting" => Ok(()),
            other => Err(other.to_owned()),
        });
        assert!(host.link(&tap(&nic_42)).unwrap()["master"].is_null());
        ns.run("ip link set dev br0 type bridge vlan_filtering 1");
        wait_until("the NIC to be back", SOON, || match seen(ns, &tap(&nic_42)) {
            vlans if vlans == ["42 PVID Egress Untagged"] => Ok(()),
            other => Err(format!("{other:?}")),
        });
        reaches(&mut tagged, 2);
        host.detach(&nic_42.id);
        host.detach(&nic_1.id);
        assert_eq!(before.0, untouched().0);
        assert_eq!(common::differences(&before.1, &untouched().1), "");
    });
}

#[test]
fn an_uplink_carries_what_networks_share_until_their_last_nic_is_gone() {
    in_namespace(|ns| {
        if !vlans_here() {
            return;
        }
        let outside = ns.peer("outside");
        ns.veth("eth10", &outside, "up0");
        ns.run("ip link add name br0 type bridge vlan_filtering 1");
        ns.run("ip link set br0 up");
        ns.run("ip link set eth10 master br0");
        ns.run("bridge vlan add dev eth10 vid 7");
        outside.run("ip link add link up0 name v42 type vlan id 42");
        outside.run("ip addr add 10.5.0.2/24 dev v42");
        outside.run("ip link set v42 up");
        let mut host = Host::without_daemon(ns);
        let config = "[bridges.br0]\nuplinks = ['eth10']\n";
        let directory = host.root.join("etc/patchcord");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("patchcord.toml"), config).unwrap();
        host.start();
        for (name, vid) in [("red", 42), ("blue", 42)] {
            host.transient(&format!(
                "<network><name>{name}</name><forward mode='bridge'/><bridge name='br0'/>{}</network>",
                access(vid)
            ));
        }
        let before = (ns.run("bridge -j vlan show"), host.state());
        let carries = |wanted: &[&str]| {
            wait_until("the uplink's VLANs", SOON, || match seen(ns, "eth10") {
                vlans if vlans == wanted => Ok(()),
                other => Err(format!("{other:?}")),
            });
        };
        let (red, mut web) = guest(&host, "web", &nic("network='red'", ""), 10);
        carries(&["1 PVID Egress Untagged", "7", "42"]);
        reaches(&mut web, 2);
        let (blue, mut db) = guest(&host, "db", &nic("network='blue'", ""), 11);
        host.detach(&red.id);
        // It is still carried by whoever comes after, and for the other network.
        host.kill();
        host.start();
        reaches(&mut db, 2);
        carries(&["1 PVID Egress Untagged", "7", "42"]);
        ns.run("bridge vlan del dev eth10 vid 42");
        carries(&["1 PVID Egress Untagged", "7", "42"]);
        host.detach(&blue.id);
        carries(&["1 PVID Egress Untagged", "7"]);
        wait_until("all to be as before", SOON, || {
            let now = (ns.run("bridge -j vlan show"), host.state());
            let differences = common::differences(&before.1, &now.1);
            if now.0 == before.0 && differences.is_empty() { Ok(()) } else { Err(differences) }
        });
    });
}

#[test]
fn where_the_kernel_has_no_vlans_they_are_refused_and_nothing_changes() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(LAB);
        let (_, mut plain) = guest(&host, "plain", &nic("network='lab'", ""), 10);
        let other = "<network><name>other</name><portgroup name='p'><vlan><tag id='42'/></vlan></portgroup></network>";
        if has_bridge_vlan_filtering() {
            host.transient(other);
            guest(&host, "web", &nic("network='lab'", &access(42)), 11);
        } else {
            let before = host.state();
            let (_, refusal) = host.refused(&attach("web", &nic("network='lab'", &access(42))));
            assert!(refusal.cause.contains("EOPNOTSUPP"), "{refusal:?}");
            let (_, refusal) = host.refused(&CreateNetwork { xml: other.into() });
            assert!(refusal.cause.contains("EOPNOTSUPP"), "{refusal:?}");
            assert_eq!(common::differences(&before, &host.state()), "");
        }
        reaches(&mut plain, 1);
    });
}
