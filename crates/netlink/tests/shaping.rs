//! Rates: classes of what leaves a link, limits on what comes in, looked at with tc's eyes and frames that are counted.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::num::{NonZeroU16, NonZeroU64};
use std::time::Duration;

use common::index;
use patchcord_netlink::tc::{
    ActionKind, ClassFilter, ClassNumber, Handle, Htb, HtbClass, Leaf, Police, Redirect, rounded_burst,
};
use patchcord_netlink::{BridgeSpec, IfbSpec, LinkChange, Request, Socket};
use patchcord_testkit::{Guest, Namespace, create_tap, in_namespace, needs, wait_until};

const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const COOKIE: [u8; 16] = *b"patchcord:rate:1";
const PRIORITY: NonZeroU16 = NonZeroU16::new(3).unwrap();
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const QDISC: Handle = Handle { major: 1, minor: 0 };

fn minor(minor: u16) -> Handle {
    Handle { minor, ..QDISC }
}

/// A class below the qdisc of one megabyte per second.
fn class(link: u32, handle: Handle) -> HtbClass {
    let (rate, burst) = (1_000_000, 10_000);
    HtbClass { link, handle, parent: QDISC, priority: 3, rate, ceil: 2 * rate, burst, cburst: 2 * burst, leaf: None }
}

/// A bridge that is up and sends no frame by itself, with an htb whose frames go to class 1:1 if not elsewhere.
fn shaped_bridge(ns: &Namespace, socket: &mut Socket) -> u32 {
    let name = "br0".to_owned();
    let link = socket.make_bridge(&BridgeSpec { name, up: true, addr_gen_none: true, ..Default::default() }).unwrap();
    ns.run(&format!("ip addr add {HOST}/24 dev br0"));
    socket.add_htb(&Htb { link, major: 1, default: 1 }).unwrap();
    socket.set_htb_class(&class(link, minor(1))).unwrap();
    link
}

/// The line that tc writes about a class.
fn tc_class(ns: &Namespace, link: &str, class: Handle) -> Option<String> {
    let start = format!("class htb {class} ");
    ns.run(&format!("tc class show dev {link}")).lines().find(|line| line.starts_with(&start)).map(str::to_owned)
}

/// Frames that left a class, and those that were dropped at it.
fn counts(ns: &Namespace, link: &str, class: Handle) -> (u32, u32) {
    let text = ns.run(&format!("tc -s class show dev {link} classid {class}"));
    let number_before = |what: &str| {
        let before = text.split(what).next().unwrap();
        before.split_whitespace().next_back().unwrap().parse().unwrap()
    };
    let dropped = text.split("(dropped ").nth(1).unwrap().split(',').next().unwrap();
    (number_before(" pkt "), dropped.parse().unwrap())
}

/// Sends so many frames of 1042 bytes from the bridge to an address behind it that has this MAC.
fn send(ns: &Namespace, frames: u32, host: u8, mac: &str) {
    ns.run(&format!("ip neigh replace 192.0.2.{host} lladdr {mac} nud permanent dev br0"));
    let socket = UdpSocket::bind((HOST, 0)).unwrap();
    for _ in 0..frames {
        // What the qdisc drops is an error here, or not.
        let _ = socket.send_to(&[0; 1000], (Ipv4Addr::new(192, 0, 2, host), 9));
    }
}

#[test]
fn classes_are_what_tc_says_they_are() {
    in_namespace(|ns| {
        let mut socket = Socket::open().unwrap();
        let link = shaped_bridge(ns, &mut socket);
        assert!(socket.add_htb(&Htb { link, major: 1, default: 1 }).unwrap_err().is_exists());
        let seen = ns.json("tc -j qdisc show dev br0");
        assert_eq!((&seen[0]["kind"], &seen[0]["handle"]), (&"htb".into(), &"1:".into()));
        assert_eq!(seen[0]["options"]["default"], "0x1");

        let inner = HtbClass { parent: minor(1), priority: 5, ..class(link, minor(0xab)) };
        socket.set_htb_class(&inner).unwrap();
        let line = tc_class(ns, "br0", minor(0xab)).unwrap();
        let expected = "class htb 1:ab parent 1:1 prio 5 rate 8Mbit ceil 16Mbit burst 10000b cburst 20000b";
        assert_eq!(line.trim(), expected);
        let mut read = socket.htb_classes(link).unwrap().entries;
        read.sort_by_key(|class| class.handle);
        assert_eq!(read, [class(link, minor(1)), inner]);

        let fast = HtbClass { rate: 40_000_000_000, ceil: 50_000_000_000, burst: 1 << 20, cburst: 1 << 21, ..inner };
        socket.set_htb_class(&fast).unwrap();
        let line = tc_class(ns, "br0", minor(0xab)).unwrap();
        assert!(line.contains("rate 320Gbit ceil 400Gbit"), "{line}");
        let read = socket.htb_classes(link).unwrap().into_iter().find(|class| class.handle == inner.handle).unwrap();
        assert_eq!(read.burst, rounded_burst(fast.burst, fast.rate));
        assert_eq!(read, HtbClass { burst: read.burst, cburst: rounded_burst(fast.cburst, fast.ceil), ..fast });

        assert!(socket.delete_htb_class(link, minor(1)).unwrap_err().is_busy());
        socket.delete_htb_class(link, minor(0xab)).unwrap();
        assert!(tc_class(ns, "br0", minor(0xab)).is_none());
        assert!(socket.delete_htb_class(link, minor(0xab)).unwrap_err().is_not_found());
        assert!(socket.set_htb_class(&HtbClass { rate: 0, ..inner }).is_err());

        let another = |error: patchcord_netlink::Error| assert_eq!(error.errno(), Some(22), "{error:?}");
        another(socket.delete_root(link, 2).unwrap_err());
        socket.delete_root(link, 1).unwrap();
        assert_eq!(ns.json("tc -j qdisc show dev br0")[0]["kind"], "noqueue");
        another(socket.delete_root(link, 1).unwrap_err());
        assert!(socket.htb_classes(link).unwrap().entries.is_empty());
        assert!(socket.htb_classes(4711).unwrap().entries.is_empty());
    });
}

/// Puts a qdisc below a class twice, and looks at it.
fn a_class_gets(leaf: Leaf) {
    in_namespace(|ns| {
        let mut socket = Socket::open().unwrap();
        let link = shaped_bridge(ns, &mut socket);
        for _ in 0..2 {
            socket.set_leaf(link, minor(1), leaf).unwrap();
            let seen = ns.json("tc -j qdisc show dev br0");
            assert_eq!((&seen[1]["kind"], &seen[1]["parent"]), (&leaf.kind().into(), &"1:1".into()), "{seen}");
            if let Leaf::Pfifo { limit } = leaf {
                assert_eq!(seen[1]["options"]["limit"], limit);
            }
            let told = socket.htb_classes(link).unwrap().entries[0].leaf.map(|leaf| leaf.to_string());
            assert_eq!(told.as_deref(), seen[1]["handle"].as_str());
        }
        // And another one in its place.
        socket.set_leaf(link, minor(1), Leaf::Pfifo { limit: 7 }).unwrap();
        let read = socket.qdiscs(Some(link)).unwrap().entries;
        let read: Vec<_> = read.iter().map(|qdisc| (qdisc.kind.as_str(), qdisc.parent)).collect();
        assert_eq!(read, [("htb", Handle::ROOT), ("pfifo", minor(1))]);
    });
}

#[test]
fn a_class_gets_a_pfifo() {
    a_class_gets(Leaf::Pfifo { limit: 12 });
}

#[test]
fn a_class_gets_an_sfq() {
    if needs("sfq", &["tc qdisc add dev lo root sfq"]) {
        a_class_gets(Leaf::Sfq);
    }
}

#[test]
fn a_class_gets_an_fq_codel() {
    if needs("fq_codel", &["tc qdisc add dev lo root fq_codel"]) {
        a_class_gets(Leaf::FqCodel);
    }
}

#[test]
fn a_class_passes_its_burst_and_drops_what_its_queue_cannot_hold() {
    in_namespace(|ns| {
        let mut socket = Socket::open().unwrap();
        let link = shaped_bridge(ns, &mut socket);
        // A new class begins with its burst.
        socket.delete_htb_class(link, minor(1)).unwrap();
        let slow = HtbClass { rate: 100, ceil: 100, burst: 5_000, cburst: 5_000, ..class(link, minor(1)) };
        let leaf = Request::set_leaf(link, slow.handle, Leaf::Pfifo { limit: 3 });
        let results = socket.execute_all(&[Request::set_htb_class(&slow), leaf]).unwrap();
        results.into_iter().collect::<Result<(), _>>().unwrap();
        send(ns, 100, 2, "52:54:00:00:00:02");
        let (passed, dropped) = counts(ns, "br0", slow.handle);
        // Five frames are the burst, three wait, and one comes of every ten seconds that this takes.
        assert!((4..12).contains(&passed) && dropped > 80, "{passed} passed, {dropped} dropped");
    });
}

#[test]
fn frames_go_to_the_class_of_their_destination() {
    in_namespace(|ns| {
        let mut socket = Socket::open().unwrap();
        let link = shaped_bridge(ns, &mut socket);
        let number = |number| ClassNumber::new(number).unwrap();
        let filter = |class, last| ClassFilter {
            link,
            major: 1,
            priority: PRIORITY,
            class: number(class),
            destination: [0x52, 0x54, 0, 0, 0, last],
        };
        for minor_number in [2, 0xfff] {
            let fast = HtbClass { burst: 1 << 20, cburst: 1 << 20, ..class(link, minor(minor_number)) };
            socket.set_htb_class(&fast).unwrap();
            socket.add_class_filter(&filter(minor_number, minor_number as u8)).unwrap();
        }
        let passed = |class| counts(ns, "br0", minor(class)).0;
        // A frame may still be on its way.
        let soon = |expected: (u32, u32)| {
            wait_until("the classes' counts", Duration::from_secs(5), || match (passed(2), passed(0xfff)) {
                counts if counts == expected => Ok(()),
                counts => Err(format!("{counts:?}")),
            });
        };
        send(ns, 5, 2, "52:54:00:00:00:02");
        send(ns, 6, 3, "52:54:00:00:00:ff");
        send(ns, 7, 4, "52:54:00:00:01:02");
        send(ns, 1, 5, "53:54:00:00:00:02");
        soon((5, 6));
        // Besides what the host sends by itself.
        assert!(passed(1) >= 8);

        let read = socket.filters(link, QDISC).unwrap().entries;
        let read: Vec<_> = read.iter().map(|f| (f.priority, f.handle, f.class, f.destination)).collect();
        let told = |number: u16, last| {
            (3, 0x8000_0000 | u32::from(number), Some(minor(number)), Some([0x52, 0x54, 0, 0, 0, last]))
        };
        assert_eq!(read, [told(2, 2), told(0xfff, 0xff)]);

        // The guest has another address now.
        assert!(socket.add_class_filter(&filter(2, 9)).unwrap_err().is_exists());
        let requests =
            [Request::delete_class_filter(link, 1, PRIORITY, number(2)), Request::add_class_filter(&filter(2, 9))];
        socket.execute_all(&requests).unwrap().into_iter().collect::<Result<(), _>>().unwrap();
        send(ns, 3, 2, "52:54:00:00:00:02");
        send(ns, 4, 6, "52:54:00:00:00:09");
        soon((9, 6));

        assert!(socket.delete_htb_class(link, minor(2)).unwrap_err().is_busy());
        socket.delete_class_filter(link, 1, PRIORITY, number(2)).unwrap();
        assert!(socket.delete_class_filter(link, 1, PRIORITY, number(2)).unwrap_err().is_not_found());
        socket.delete_htb_class(link, minor(2)).unwrap();
        send(ns, 1, 6, "52:54:00:00:00:09");
        send(ns, 1, 3, "52:54:00:00:00:ff");
        wait_until("one more", Duration::from_secs(5), || if passed(0xfff) == 7 { Ok(()) } else { Err("") });
    });
}

#[test]
fn what_a_guest_sends_waits_in_the_classes_of_an_ifb() {
    in_namespace(|ns| {
        let mut socket = Socket::open().unwrap();
        shaped_bridge(ns, &mut socket);
        let spec = IfbSpec {
            name: "pci0".to_owned(),
            group: 77,
            alias: Some("patchcord:x:ifb:y".to_owned()),
            addr_gen_none: true,
            up: true,
        };
        let ifb = socket.make_ifb(&spec).unwrap();
        assert!(socket.make_ifb(&spec).unwrap_err().is_exists());
        let seen = common::ip_link("pci0");
        assert_eq!((&seen["ifindex"], &seen["linkinfo"]["info_kind"]), (&ifb.into(), &"ifb".into()));
        assert_eq!((&seen["group"], &seen["ifalias"]), (&"77".into(), &"patchcord:x:ifb:y".into()));
        assert_eq!(seen["inet6_addr_gen_mode"], "none");

        let mut guest = Guest::new(create_tap("pct0").unwrap(), MAC, 10).unwrap();
        guest.set_static(Ipv4Addr::new(192, 0, 2, 2).into(), 24, None);
        let tap = index(&mut socket, "pct0");
        let br0 = index(&mut socket, "br0");
        socket.set_link(tap, &LinkChange { controller: Some(Some(br0)), ..Default::default() }).unwrap();
        let slow = HtbClass { link: ifb, ..class(ifb, minor(1)) };
        let requests = [
            Request::add_htb(&Htb { link: ifb, major: 1, default: 1 }),
            Request::set_htb_class(&slow),
            Request::add_clsact(tap),
            Request::redirect(&Redirect { link: tap, priority: PRIORITY, to: ifb, cookie: COOKIE }),
        ];
        socket.execute_all(&requests).unwrap().into_iter().collect::<Result<(), _>>().unwrap();
        guest.ping(HOST, Duration::from_secs(10)).unwrap();
        let (passed, _) = counts(ns, "pci0", minor(1));
        assert!(passed >= 2, "ARP and an echo request, not {passed}");
    });
}

#[test]
fn a_limit_comes_before_the_redirect_whichever_is_there_first() {
    let limit = "tc filter add dev lo ingress protocol all u32 match u32 0 0 action police rate 1mbit burst 10k drop";
    if !needs("act_police", &["tc qdisc add dev lo clsact", limit]) {
        return;
    }
    in_namespace(|ns| {
        let mut socket = Socket::open().unwrap();
        let guest = Guest::new(create_tap("pct0").unwrap(), MAC, 10).unwrap();
        ns.run("ip link add name va type veth peer name vb");
        for end in ["va", "vb"] {
            let quiet = LinkChange { up: Some(true), addr_gen_none: Some(true), ..Default::default() };
            let end = index(&mut socket, end);
            socket.set_link(end, &quiet).unwrap();
        }
        let (tap, to) = (index(&mut socket, "pct0"), index(&mut socket, "va"));
        socket.add_clsact(tap).unwrap();
        socket.redirect(&Redirect { link: tap, priority: PRIORITY, to, cookie: COOKIE }).unwrap();
        let rate = |rate| NonZeroU64::new(rate).unwrap();
        let mut police =
            Police { link: tap, priority: PRIORITY, rate: rate(1_000), burst: 10_000, mtu: 65_536, cookie: COOKIE };
        socket.police(&police).unwrap();
        let received = || ns.json("ip -j -s link show dev vb")[0]["stats64"]["rx"]["packets"].as_u64().unwrap();
        let frame = [&[0x52, 0x54, 0, 0, 0, 9][..], &MAC, &[0x88, 0xb5], &[0; 986]].concat();
        let passed = |frames| {
            let before = received();
            (0..frames).for_each(|_| guest.send_frame(&frame));
            received() - before
        };
        // Ten frames are the burst, and one comes of every second that this takes.
        let some = passed(100);
        assert!((9..60).contains(&some), "{some} passed");

        let filters = socket.ingress_filters(tap).unwrap().entries;
        let read: Vec<_> = filters.iter().map(|filter| (filter.handle, &filter.actions[0])).collect();
        assert_eq!((read[0].0, read[1].0), (0x8000_0001, 0x8000_0002));
        assert_eq!(read[0].1.kind, ActionKind::Police { rate: 1_000, burst: 10_000, mtu: 65_536 });
        assert_eq!(read[0].1.cookie.as_deref(), Some(&COOKIE[..]));
        // As text: in JSON tc has one key for both verdicts.
        let seen = ns.run("tc filter show dev pct0 ingress");
        assert!(seen.contains("rate 8Kbit burst 10000b mtu 64Kb action drop/continue"), "{seen}");

        // Frames that are too long.
        police.mtu = 500;
        socket.police(&police).unwrap();
        assert_eq!(passed(5), 0);
        // A rate that no frame meets, beyond 32 bits.
        (police.mtu, police.rate, police.burst) = (65_536, rate(40_000_000_000), 1 << 20);
        socket.police(&police).unwrap();
        assert_eq!(passed(100), 100);
        let filters = socket.ingress_filters(tap).unwrap().entries;
        let (rate, mtu) = (police.rate.get(), police.mtu);
        let burst = rounded_burst(police.burst, rate);
        assert_eq!(filters[0].actions[0].kind, ActionKind::Police { rate, burst, mtu });

        // Each goes alone.
        socket.delete_redirect(tap, PRIORITY).unwrap();
        assert!(socket.delete_redirect(tap, PRIORITY).unwrap_err().is_not_found());
        assert_eq!(passed(5), 0);
        socket.redirect(&Redirect { link: tap, priority: PRIORITY, to, cookie: COOKIE }).unwrap();
        socket.delete_police(tap, PRIORITY).unwrap();
        assert!(socket.delete_police(tap, PRIORITY).unwrap_err().is_not_found());
        assert_eq!(passed(100), 100);
    });
}
