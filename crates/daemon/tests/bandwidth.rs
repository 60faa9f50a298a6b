//! Rates: what passes towards guests and from them, counted where it arrives, and what `tc` says of it.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::rates::{
    HEADER, KIB, LIMITS, Port, Sending, assert_rate, has_police, ifbs, limited, limits_of, passed, qdiscs,
    rate_between, rates,
};
use common::remote::says;
use common::{Host, SOON, attach, interface, mac, tap, update};
use patchcord_api::methods::{AttachNIC, ModifyNIC, UpdateNetwork};
use patchcord_testkit::{Namespace, in_namespace, needs, open_tap, wait_until};
use std::fs::{self, File};
use std::io::Write;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const WIRE: &str = "<network><name>wire</name><bridge stp='off'/></network>";

#[test]
fn the_rates_of_a_nic_in_a_bridge_are_those_that_were_asked_for_and_survive_moves() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        host.network(WIRE);
        host.network(&WIRE.replace("wire", "other"));
        let slow = Port::attach(&host, "slow", &limited("wire", LIMITS));
        let fast = Port::attach(&host, "fast", &interface("wire"));
        assert_rate(rate_between(&fast, &slow), 1024.0, "inbound");
        assert_rate(rate_between(&slow, &fast), 2048.0, "outbound");
        let police = has_police(ns);
        assert_eq!(ifbs(ns).len(), usize::from(!police));
        assert!(qdiscs(ns, &tap(&slow.nic)).contains(&"htb".into()));
        assert!(!qdiscs(ns, &tap(&fast.nic)).contains(&"htb".into()));

        // In place, and to another bridge and back.
        let moved = |network: &str, limits: &str| {
            host.call(&ModifyNIC { id: slow.nic.id.clone(), xml: limited(network, limits) });
        };
        moved("other", LIMITS);
        moved("wire", "<inbound average='1024'/><outbound average='512'/>");
        assert_rate(rate_between(&fast, &slow), 1024.0, "inbound after moves");
        assert_rate(rate_between(&slow, &fast), 512.0, "outbound after a change");

        // A daemon that starts anew finds all as it should be.
        let seen = |ns: &Namespace| {
            let tc = |what: &str| ns.run(&format!("tc {what} show dev {}", tap(&slow.nic)));
            format!("{}{}{:?}", tc("qdisc"), tc("class"), ifbs(ns))
        };
        let before = seen(ns);
        host.kill();
        host.start();
        let log = host.log();
        assert!(!log.contains("put right"), "{log}");
        assert_eq!(seen(ns), before);

        // Unset, there are no limits; and nothing is left behind.
        host.call(&ModifyNIC { id: slow.nic.id.clone(), xml: interface("wire") });
        wait_until("the ifb's end", SOON, || if ifbs(ns).is_empty() { Ok(()) } else { Err(format!("{:?}", ifbs(ns))) });
        assert!(!qdiscs(ns, &tap(&slow.nic)).contains(&"htb".into()));
        assert!(rate_between(&fast, &slow) > 3000.0 * KIB);
        host.call(&ModifyNIC { id: slow.nic.id.clone(), xml: limited("wire", LIMITS) });
        host.detach(&slow.nic.id);
        wait_until(
            "the end of all",
            SOON,
            || if ifbs(ns).is_empty() { Ok(()) } else { Err(format!("{:?}", ifbs(ns))) },
        );
    });
}

/// A host on which the taps of libvirt's driver are ours to limit.
fn shaping(ns: &Namespace) -> Host<'_> {
    let mut host = Host::without_daemon(ns);
    fs::create_dir_all(host.root.join("etc/patchcord")).unwrap();
    fs::write(host.root.join("etc/patchcord/patchcord.toml"), "[libvirt]\nshaping = 'patchcord'\n").unwrap();
    host.start();
    host.network(WIRE);
    host
}

/// A port of libvirt's, whose guest's tap is made as libvirt's driver makes it.
fn port(host: &Host<'_>, bandwidth: &str) -> Port {
    let address = "54:00:7b:35:93";
    let document = host.root.join("port.xml");
    let xml = format!(
        "<networkport><owner><name>claimed</name><uuid>06578fc1-c686-46fa-bc2c-83893b466a6d</uuid></owner>
         <mac address='52:{address}'/><bandwidth>{bandwidth}</bandwidth></networkport>"
    );
    fs::write(&document, xml).unwrap();
    says(host, &["net-port-create", "wire", document.to_str().unwrap()]);
    let file = File::from(open_tap("vnet0").unwrap());
    host.ns.run(&format!("ip link set dev vnet0 address fe:{address} master virbr0 up"));
    host.ns.run("tc qdisc add dev vnet0 root noqueue");
    let nic = wait_until("the port's tap to be known", SOON, || match host.nics() {
        mut all if all.len() == 1 && all[0].state == "plugged" => Ok(all.remove(0)),
        all => Err(format!("{all:?}")),
    });
    Port::new(nic, file)
}

#[test]
fn the_rates_of_a_tap_that_libvirts_driver_made_are_those_of_its_port() {
    in_namespace(|ns| {
        let mut host = shaping(ns);
        let slow = port(&host, LIMITS);
        let fast = Port::attach(&host, "fast", &interface("wire"));
        let are_there = || limits_of(ns, "vnet0").contains("mirred") || limits_of(ns, "vnet0").contains("police");
        wait_until("the tap's limits", SOON, || are_there().then_some(()).ok_or_else(|| host.log()));
        assert_rate(rate_between(&fast, &slow), 1024.0, "inbound");
        assert_rate(rate_between(&slow, &fast), 2048.0, "outbound");
        assert_eq!(ifbs(ns).len(), usize::from(!has_police(ns)));

        // Whatever becomes of the daemon; and it has nothing to put right when it is back.
        let seen = || (limits_of(ns, "vnet0"), ifbs(ns));
        let before = seen();
        host.kill();
        assert_rate(rate_between(&slow, &fast), 2048.0, "outbound without the daemon");
        host.start();
        assert_eq!(seen(), before);
        assert!(!host.log().contains("put right"), "{}", host.log());

        // They go with the port, and the tap stays.
        says(&host, &["net-port-delete", "wire", &slow.nic.id]);
        wait_until("the ifb's end", SOON, || if ifbs(ns).is_empty() { Ok(()) } else { Err(ifbs(ns).join(" ")) });
        assert!(!are_there() && qdiscs(ns, "vnet0")[0] == "noqueue", "{}", limits_of(ns, "vnet0"));
        assert!(rate_between(&fast, &slow) > 3000.0 * KIB);
        assert!(rate_between(&slow, &fast) > 3000.0 * KIB);
    });
}

#[test]
fn the_rates_of_a_nic_on_a_device_are_those_that_were_asked_for_and_survive_moves() {
    in_namespace(|ns| {
        let switch = ns.peer("switch");
        for n in 0..2 {
            ns.veth(&format!("eth1{n}"), &switch, &format!("p{n}"));
        }
        let host = Host::new(ns);
        for n in 0..2 {
            host.network(&format!(
                "<network><name>pool{n}</name><forward mode='bridge'><interface dev='eth1{n}'/></forward></network>"
            ));
        }
        let slow = Port::attach(&host, "slow", &limited("pool0", LIMITS));
        let fast = Port::attach(&host, "fast", &interface("pool1"));
        // To the other's device.
        host.call(&ModifyNIC { id: slow.nic.id.clone(), xml: limited("pool1", LIMITS) });
        assert_rate(rate_between(&fast, &slow), 1024.0, "inbound");
        assert_rate(rate_between(&slow, &fast), 2048.0, "outbound");
        assert_eq!(ifbs(ns), Vec::<String>::new());
        // Into a bridge, where it waits elsewhere, and back.
        host.network(WIRE);
        host.call(&ModifyNIC { id: slow.nic.id.clone(), xml: limited("wire", LIMITS) });
        assert_eq!(ifbs(ns).len(), usize::from(!has_police(ns)));
        host.call(&ModifyNIC { id: slow.nic.id.clone(), xml: limited("pool1", LIMITS) });
        assert_rate(rate_between(&slow, &fast), 2048.0, "outbound after moves");
        wait_until("the ifb's end", SOON, || if ifbs(ns).is_empty() { Ok(()) } else { Err(format!("{:?}", ifbs(ns))) });
    });
}

/// A network whose bridge has rates, and the host's address on it.
const SHAPED: &str = "<network><name>shaped</name><forward mode='open'/><bridge name='virbr7' stp='off'/>
    <mac address='52:54:00:77:00:01'/><bandwidth><inbound average='2048'/><outbound average='1024'/></bandwidth>
    <ip address='10.7.0.1' prefix='24'/></network>";

/// Has the host send datagrams to a guest, as many as can leave.
fn host_sends(ns: &Namespace, to: &Port, last: u8) -> Sending {
    let address = format!("10.7.0.{last}");
    ns.run(&format!("ip neigh replace {address} lladdr {} dev virbr7 nud permanent", to.nic.mac.as_deref().unwrap()));
    // The bridge learns where it is, and floods nothing.
    let hello = [&[0; HEADER][..], &[0xff; 6], &mac(&to.nic), &[0x88, 0xb5], &[0; 46]].concat();
    (&to.file).write_all(&hello).unwrap();
    let socket = UdpSocket::bind("10.7.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    Sending::start(move || drop(socket.send_to(&[0; 1000], (address.as_str(), 9))))
}

/// A datagram of 1000 bytes to port 7000 of the host.
fn datagram(from: [u8; 6]) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 4, 4, 0, 0, 0, 0, 64, 17, 0, 0, 10, 7, 0, 9, 10, 7, 0, 1];
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !((sum & 0xffff) as u16 + (sum >> 16) as u16);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let udp = [0x1b, 0x58, 0x1b, 0x58, 3, 240, 0, 0];
    [&[0; HEADER][..], &[0x52, 0x54, 0, 0x77, 0, 1], &from, &[8, 0], &ip, &udp, &[0; 1000]].concat()
}

#[test]
fn a_bridge_as_a_whole_has_the_rates_of_its_network() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(SHAPED);
        let guests = [2, 3].map(|n| Port::attach(&host, &format!("g{n}"), &interface("shaped")));
        let sending = [host_sends(ns, &guests[0], 2), host_sends(ns, &guests[1], 3)];
        let [one, other] = rates([&guests[0].counter(), &guests[1].counter()]);
        drop(sending);
        assert_rate(one + other, 2048.0, "towards guests together");

        let socket = UdpSocket::bind("10.7.0.1:7000").unwrap();
        let received = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&received);
        std::thread::spawn(move || {
            let mut buffer = [0; 2000];
            while let Ok(length) = socket.recv(&mut buffer) {
                count.fetch_add(length as u64 + 42, Ordering::Relaxed);
            }
        });
        let (frame, mut file) = (datagram(mac(&guests[0].nic)), guests[0].file.try_clone().unwrap());
        let sending = Sending::start(move || drop(file.write(&frame)));
        let [from] = rates([&|| received.load(Ordering::Relaxed)]);
        drop(sending);
        assert_rate(from, 1024.0, "from guests");

        // One guest's own limit comes before: its frames wait twice.
        let own = Port::attach(&host, "own", &limited("shaped", "<outbound average='512'/>"));
        let (frame, mut file) = (datagram(mac(&own.nic)), own.file.try_clone().unwrap());
        let sending = Sending::start(move || drop(file.write(&frame)));
        let [from] = rates([&|| received.load(Ordering::Relaxed)]);
        drop(sending);
        assert_rate(from, 512.0, "from one guest");
        assert_eq!(ifbs(ns).len(), if has_police(ns) { 0 } else { 2 });

        host.stop_network("shaped");
        host.detach(&own.nic.id);
        wait_until("the ifbs' end", SOON, || if ifbs(ns).is_empty() { Ok(()) } else { Err(format!("{:?}", ifbs(ns))) });
    });
}

#[test]
fn what_is_promised_is_kept_while_others_are_greedy() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        host.network(SHAPED);
        let favoured = Port::attach(&host, "favoured", &limited("shaped", "<inbound floor='1536'/>"));
        let greedy: Vec<_> =
            (3..6).map(|n| (n, Port::attach(&host, &format!("greedy{n}"), &interface("shaped")))).collect();
        let _greed: Vec<_> = greedy.iter().map(|(n, port)| host_sends(ns, port, *n)).collect();
        let all = |greedy: &[(u8, Port)]| greedy.iter().map(|(_, p)| p.received.load(Ordering::Relaxed)).sum::<u64>();
        // What nobody uses is borrowed.
        let [rest] = rates([&|| all(&greedy)]);
        assert_rate(rest, 2048.0, "the others alone");
        let sending = host_sends(ns, &favoured, 2);
        let [promised, rest] = rates([&favoured.counter(), &|| all(&greedy)]);
        assert!(promised > 0.95 * 1536.0 * KIB, "{:.0} KiB/s of 1536", promised / KIB);
        assert_rate(promised + rest, 2048.0, "together");
        assert!(rest > 0.9 * 512.0 * KIB, "the others are left {:.0} KiB/s", rest / KIB);
        drop(sending);

        let more = AttachNIC { ..attach("more", &limited("shaped", "<inbound floor='600'/>")) };
        let (name, refusal) = host.refused(&more);
        assert!(name.ends_with("InUse"), "{name}");
        let says = ["600 KiB/s are asked for", "512 left of 2048", "1536 to guest 'favoured'", &favoured.nic.id];
        assert!(says.iter().all(|part| refusal.cause.contains(part)), "{}", refusal.cause);
        let classes = |ns: &Namespace| ns.run("tc class show dev virbr7").lines().count();
        assert_eq!(classes(ns), 3);
        let fits = host.call(&AttachNIC { ..attach("fits", &limited("shaped", "<inbound floor='512'/>")) }).nic;
        assert_eq!(classes(ns), 4);
        host.detach(&fits.id);
        wait_until("the class's end", SOON, || match classes(ns) {
            3 => Ok(()),
            n => Err(n),
        });
        // A daemon that starts anew knows what is promised.
        host.kill();
        host.start();
        assert_eq!(host.refused(&more).1.cause, refusal.cause);
        assert_eq!(classes(ns), 3);

        // The bridge as a whole gets another rate meanwhile, and none that is less than what is promised.
        let whole = |average: u32| {
            let rate = format!("<bandwidth><inbound average='{average}'/></bandwidth>");
            update("shaped", "modify", "bandwidth", &rate)
        };
        let before = host.state();
        let (name, refusal) = host.refused(&whole(1000));
        assert!(name.ends_with("InUse") && refusal.cause.contains("more than its 1000 KiB/s"), "{refusal:?}");
        assert_eq!(common::differences(&before, &host.state()), "");
        host.call(&whole(1600));
        assert_rate(rates([&|| all(&greedy)])[0], 1600.0, "the others alone, at the new rate");
    });
}

#[test]
fn what_others_take_away_comes_back_and_a_class_of_connections_changes_its_nics() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        let group = |average: u32, burst: &str| {
            format!(
                "<portgroup name='all' default='yes'><bandwidth><inbound average='{average}'{burst}/>
                 <outbound average='{average}'/></bandwidth></portgroup>"
            )
        };
        host.network(&SHAPED.replace("<ip ", &format!("{}<ip ", group(1000, ""))));
        let nic = host.call(&attach("web", &limited("shaped", "<inbound average='3000' floor='100'/>"))).nic;
        let other = host.call(&attach("other", &interface("shaped"))).nic;
        let seen = |ns: &Namespace| {
            let links = [tap(&nic), tap(&other), "virbr7".into()].into_iter().chain(ifbs(ns));
            links.map(|link| limits_of(ns, &link)).collect::<String>()
        };
        let before = seen(ns);
        let breaks = [
            format!("tc qdisc del dev {} root", tap(&nic)),
            "tc qdisc del dev virbr7 root".into(),
            "tc filter del dev virbr7".into(),
            "tc filter del dev virbr7 ingress".into(),
            format!("tc filter del dev {} ingress", tap(&other)),
            format!("tc qdisc replace dev {} root handle 5: htb", tap(&nic)),
            format!("tc class change dev {} classid 7063:1 htb rate 1gbit", tap(&nic)),
            format!("tc qdisc del dev {} parent 7063:1", tap(&nic)),
            "tc qdisc del dev virbr7 ingress".into(),
        ];
        let ifbs_deleted = ifbs(ns).into_iter().map(|ifb| format!("ip link del {ifb}"));
        for what in breaks.into_iter().chain(ifbs_deleted) {
            ns.run(&what);
            wait_until(&what, SOON, || match seen(ns) {
                now if now == before => Ok(()),
                now => Err(format!("{before}\n{now}")),
            });
        }
        // A class of connections reaches its NICs, in place.
        let rate = |link: &str| {
            let text = ns.run(&format!("tc class show dev {link}"));
            text.split(" rate ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
        };
        assert_eq!((rate(&tap(&other)), rate(&tap(&nic))), ("8192Kbit".into(), "24576Kbit".into()));
        let update = UpdateNetwork {
            name: "shaped".into(),
            command: "modify".into(),
            section: "portgroup".into(),
            xml: group(125, " burst='64'"),
            ..UpdateNetwork::default()
        };
        host.call(&update);
        assert_eq!((rate(&tap(&other)), rate(&tap(&nic))), ("1024Kbit".into(), "24576Kbit".into()));
        assert!(ns.run(&format!("tc class show dev {}", tap(&other))).contains("burst 64Kb"));
    });
}

/// Tells whether the kernel drops what comes in above a rate.
const POLICE: [&str; 2] = [
    "tc qdisc add dev lo clsact",
    "tc filter add dev lo ingress protocol all u32 match u32 0 0 action police rate 1mbit burst 10k drop",
];

/// Where it does, nothing else is needed for that, neither in a bridge nor on a device.
#[test]
fn what_a_guest_sends_too_much_is_dropped_at_its_tap() {
    if !needs("act_police", &POLICE) {
        return;
    }
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        host.network(WIRE);
        let limits = "<outbound average='1'/>";
        let slow = Port::attach(&host, "slow", &limited("wire", limits));
        let fast = Port::attach(&host, "fast", &interface("wire"));
        let passed = || passed(&slow, &fast);
        // A frame of 64 KiB must fit: so much is the burst, and one frame comes of every second that this takes.
        let some = passed();
        assert!((60..100).contains(&some), "{some} frames passed");
        assert_eq!(ifbs(ns), Vec::<String>::new());
        let shown = |link: &str| ns.run(&format!("tc filter show dev {link} ingress"));
        // tc counts the burst in ticks, and not every version rounds alike.
        assert!(shown(&tap(&slow.nic)).contains("rate 8192bit burst 6555"), "{}", shown(&tap(&slow.nic)));
        host.call(&ModifyNIC { id: slow.nic.id.clone(), xml: limited("wire", "<outbound average='4000000'/>") });
        assert_eq!(passed(), 200);

        ns.run("ip link add eth10 type veth peer name eth11");
        ns.run("ip link set eth10 up");
        ns.run("ip link set eth11 up");
        host.network("<network><name>dev</name><forward mode='bridge'><interface dev='eth10'/></forward></network>");
        host.call(&ModifyNIC { id: slow.nic.id.clone(), xml: limited("dev", limits) });
        host.call(&ModifyNIC { id: fast.nic.id.clone(), xml: interface("dev") });
        let some = passed();
        assert!((60..100).contains(&some), "{some} frames passed on the device");
        let before = shown(&tap(&slow.nic));
        assert!(before.contains("police") && before.contains("mirred"), "{before}");
        host.kill();
        host.start();
        assert_eq!(shown(&tap(&slow.nic)), before);
        assert!(!host.log().contains("put right"), "{}", host.log());
        host.call(&ModifyNIC { id: slow.nic.id.clone(), xml: interface("dev") });
        assert!(!shown(&tap(&slow.nic)).contains("police"));
        assert_eq!(passed(), 200);
    });
}

/// So is what the guest of a port of libvirt's sends.
#[test]
fn what_the_guest_of_a_port_sends_too_much_is_dropped_at_its_tap() {
    if !needs("act_police", &POLICE) {
        return;
    }
    in_namespace(|ns| {
        let host = shaping(ns);
        let slow = port(&host, "<outbound average='1'/>");
        let fast = Port::attach(&host, "fast", &interface("wire"));
        let dropped = || ns.run("tc filter show dev vnet0 ingress").contains("police");
        wait_until("the tap's limit", SOON, || dropped().then_some(()).ok_or_else(|| host.log()));
        let some = passed(&slow, &fast);
        assert!((60..100).contains(&some), "{some} frames passed");
        assert_eq!(ifbs(ns), Vec::<String>::new());
        says(&host, &["net-port-delete", "wire", &slow.nic.id]);
        assert!(!dropped());
        assert_eq!(passed(&slow, &fast), 200);
    });
}

#[test]
fn a_class_waits_in_the_best_queue_that_the_kernel_has() {
    if !needs("fq_codel", &["tc qdisc add dev lo root fq_codel"]) {
        return;
    }
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(WIRE);
        let nic = host.call(&attach("web", &limited("wire", "<inbound average='1000'/>"))).nic;
        assert_eq!(qdiscs(ns, &tap(&nic)), ["htb", "fq_codel"]);
    });
}
