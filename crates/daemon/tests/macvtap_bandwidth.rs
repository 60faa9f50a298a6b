//! Rates of NICs that are a macvtap, measured where their frames arrive.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::rates::{
    KIB, LIMITS, Port, assert_rate, has_police, ifbs, limited, limits_of, passed, qdiscs, rate_between, rates,
};
use common::switch::{pool, switch};
use common::{Host, SOON, interface, mac, tap};
use patchcord_api::methods::ModifyNIC;
use patchcord_testkit::{in_namespace, needs, wait_until};

/// The `<interface>` of a NIC that is a macvtap, with rates.
fn macvtap(network: &str, bandwidth: &str) -> String {
    let plug = "<pc:driver xmlns:pc='urn:patchcord:1' plug='macvtap'/></interface>";
    limited(network, bandwidth).replace("</interface>", plug)
}

/// Measures what two guests get of each other, at once.
fn assert_rates_of(slow: &Port, fast: &Port, inbound: f64, outbound: f64, what: &str) {
    let _sending = [fast.send_to(mac(&slow.nic)), slow.send_to(mac(&fast.nic))];
    let [towards, from] = rates([&slow.counter(), &fast.counter()]);
    assert_rate(towards, inbound, &format!("inbound, {what}"));
    assert_rate(from, outbound, &format!("outbound, {what}"));
}

#[test]
fn a_macvtap_has_the_rates_that_were_asked_for() {
    in_namespace(|ns| {
        let _switch = switch(ns, &["eth10", "eth11"]);
        let mut host = Host::new(ns);
        host.network(&pool("shared", "bridge", &["eth10"]));
        host.network(&pool("alone", "passthrough", &["eth11"]));
        let police = has_police(ns);
        let fast = Port::attach(&host, "fast", &interface("shared"));
        let alone = Port::attach(&host, "alone", &macvtap("alone", LIMITS));
        assert_rates_of(&alone, &fast, 1024.0, 2048.0, "through a switch");
        host.detach(&alone.nic.id);
        let slow = Port::attach(&host, "slow", &macvtap("shared", LIMITS));
        let link = tap(&slow.nic);
        assert_eq!(host.link(&link).unwrap()["linkinfo"]["info_kind"], "macvtap");
        assert_rates_of(&slow, &fast, 1024.0, 2048.0, "on one device");
        wait_until("the first one's ifb to go", SOON, || match ifbs(ns) {
            left if left.len() == usize::from(!police) => Ok(()),
            left => Err(format!("{left:?}")),
        });

        // In place, as its guest's descriptors are for good.
        let changed = |limits: &str| host.call(&ModifyNIC { id: slow.nic.id.clone(), xml: macvtap("shared", limits) });
        let index = host.link(&link).unwrap()["ifindex"].clone();
        changed("<inbound average='512'/><outbound average='768' burst='64'/>");
        assert_rates_of(&slow, &fast, 512.0, 768.0, "after a change");

        // A daemon that starts anew finds all as it should be, and what others take away is put back.
        let seen = || [link.clone()].into_iter().chain(ifbs(ns)).map(|link| limits_of(ns, &link)).collect::<String>();
        let before = seen();
        assert!(before.contains("rate 6291Kbit ceil 6291Kbit burst 64Kb"), "{before}");
        host.kill();
        host.start();
        assert!(!host.log().contains("put right"), "{}", host.log());
        assert_eq!(seen(), before);
        let breaks = [
            format!("tc qdisc del dev {link} root"),
            format!("tc filter del dev {link} ingress"),
            format!("tc qdisc del dev {link} ingress"),
            format!("tc class change dev {link} classid 7063:1 htb rate 1gbit"),
        ];
        let ifbs_deleted = ifbs(ns).into_iter().map(|ifb| format!("ip link del {ifb}"));
        for what in breaks.into_iter().chain(ifbs_deleted) {
            ns.run(&what);
            wait_until(&what, SOON, || match seen() {
                now if now == before => Ok(()),
                now => Err(format!("{before}\n{now}")),
            });
        }

        // Without limits there is nothing of them.
        host.call(&ModifyNIC { id: slow.nic.id.clone(), xml: interface("shared") });
        wait_until("the ifb's end", SOON, || if ifbs(ns).is_empty() { Ok(()) } else { Err(format!("{:?}", ifbs(ns))) });
        assert!(!qdiscs(ns, &link).contains(&"htb".into()));
        assert!(rate_between(&fast, &slow) > 3000.0 * KIB);
        assert!(rate_between(&slow, &fast) > 3000.0 * KIB);
        assert_eq!(host.link(&link).unwrap()["ifindex"], index);
        host.call(&ModifyNIC { id: slow.nic.id.clone(), xml: macvtap("shared", LIMITS) });
        host.detach(&slow.nic.id);
        wait_until("the end of all", SOON, || {
            let left = ns.run("ip -o link show");
            if left.contains("pci") || left.contains(&link) { Err(left) } else { Ok(()) }
        });
    });
}

/// A macvtap sees the directions the other way round: what comes to its guest comes in at it.
#[test]
fn what_comes_to_a_macvtap_too_fast_is_dropped_at_it() {
    let limit = "tc filter add dev lo ingress protocol all u32 match u32 0 0 action police rate 1mbit burst 10k drop";
    if !needs("act_police", &["tc qdisc add dev lo clsact", limit]) {
        return;
    }
    in_namespace(|ns| {
        let _switch = switch(ns, &["eth10"]);
        let mut host = Host::new(ns);
        host.network(&pool("shared", "bridge", &["eth10"]));
        let limits = "<inbound average='1'/>";
        let slow = Port::attach(&host, "slow", &macvtap("shared", limits));
        let fast = Port::attach(&host, "fast", &interface("shared"));
        // A frame of 64 KiB must fit: so much is the burst, and one frame comes of every second that this takes.
        let some = passed(&fast, &slow);
        assert!((60..100).contains(&some), "{some} frames passed");
        assert_eq!(passed(&slow, &fast), 200, "what its guest sends is not limited");
        assert_eq!(ifbs(ns), Vec::<String>::new());
        let shown = || ns.run(&format!("tc filter show dev {} ingress", tap(&slow.nic)));
        let before = shown();
        assert!(before.contains("rate 8192bit burst 6555"), "{before}");
        host.kill();
        host.start();
        assert_eq!(shown(), before);
        assert!(!host.log().contains("put right"), "{}", host.log());
        let set = |xml: String| host.call(&ModifyNIC { id: slow.nic.id.clone(), xml });
        set(macvtap("shared", "<inbound average='4000000'/>"));
        assert_eq!(passed(&fast, &slow), 200);
        set(macvtap("shared", limits));
        ns.run(&format!("tc filter del dev {} ingress", tap(&slow.nic)));
        wait_until("the limit to be put back", SOON, || match shown() {
            now if now.contains("rate 8192bit") => Ok(()),
            now => Err(now),
        });
        let some = passed(&fast, &slow);
        assert!((60..100).contains(&some), "{some} frames passed");
        set(interface("shared"));
        assert!(!shown().contains("police"));
        assert_eq!(passed(&fast, &slow), 200);
    });
}
