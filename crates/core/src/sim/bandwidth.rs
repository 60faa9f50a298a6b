//! Rates: where frames wait or are dropped, how that changes in place, and what is promised to whom.

use super::Host;
use super::tests::{at_rest, attach, host, network, nic, nic_on, on_devices};
use crate::engine::{Body, Command, Event, Input};
use crate::model::{DevicePlug, Network, Nic, NicSource, UpdateCommand, UpdateSection};
use crate::plan::{Change, Index, LinkKind, LinkRef, MarkKind, Op};
use crate::{ErrorKind, xml};
use uuid::Uuid;

/// A network whose bridge has rates, and which limits its NICs.
pub(super) fn shaped(name: &str, subnet: u8) -> Box<Network> {
    network(&format!(
        "<network><name>{name}</name><forward mode='nat'/>
         <bandwidth><inbound average='1000' peak='2000'/><outbound average='500'/></bandwidth>
         <ip address='10.0.{subnet}.1' netmask='255.255.255.0'/>
         <portgroup name='all' default='yes'><bandwidth><outbound average='200'/></bandwidth></portgroup></network>"
    ))
}

/// A NIC with these rates.
pub(super) fn limited(network: &str, bandwidth: &str) -> Nic {
    xml::read_nic(&format!(
        "<interface type='network'><mac address='52:54:00:00:00:01'/><source network='{network}'/>
         <bandwidth>{bandwidth}</bandwidth></interface>"
    ))
    .unwrap()
}

fn another(nic: Nic, mac: u8) -> Nic {
    Nic { mac: Some(crate::model::MacAddr([0x52, 0x54, 0, 0, 0, mac])), ..nic }
}

/// A host with a network without rates, one with, and one on a device.
fn switchboard(police: bool) -> Host {
    let mut host = host();
    host.police = police;
    host.add_link("eth0", LinkKind::Other(String::new()));
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    host.ask(Command::Create(network("<network><name>wire</name></network>"))).unwrap();
    host.ask(Command::Create(shaped("shaped", 1))).unwrap();
    host.ask(Command::Create(on_devices("vepa", "vepa", &["eth0"]))).unwrap();
    host
}

fn attached(host: &mut Host, guest: &str, wanted: Nic) -> Uuid {
    nic(host.ask(attach(guest, wanted)).unwrap().body).id
}

fn modify(host: &mut Host, id: Uuid, wanted: Nic) {
    host.ask(Command::Modify(id, Box::new(wanted), Default::default())).unwrap();
}

/// The last plan's steps, with links' names for their indexes.
fn steps(host: &Host) -> String {
    let named = |word: &str| {
        let link = host.kernel.links().find(|l| LinkRef::Index(l.index).to_string() == word);
        link.map_or_else(|| word.to_owned(), |l| l.name.clone())
    };
    let line = |op: &Op| op.to_string().split(' ').map(named).collect::<Vec<_>>().join(" ") + "\n";
    // The id, and so the ifb's name, is drawn.
    let text: String = host.last_plan.steps.iter().map(|step| line(&step.op)).collect();
    let ifbs = host.kernel.links().filter(|l| l.name.starts_with("pci"));
    ifbs.fold(text, |text, ifb| text.replace(&ifb.name, "pci*"))
}

fn moves(police: bool) -> String {
    let mut host = switchboard(police);
    let limits = "<inbound average='100' burst='30'/><outbound average='50' peak='80'/>";
    let id = attached(&mut host, "web", limited("wire", limits));
    let mut all = format!("attached:\n{}", steps(&host));
    at_rest(&mut host);
    for (what, to) in [
        ("changed", limited("wire", "<inbound average='200'/><outbound average='60'/>")),
        ("on a device", limited("vepa", "<inbound average='200'/><outbound average='60'/>")),
        ("in a bridge", limited("wire", "<inbound average='200'/><outbound average='60'/>")),
        ("unset", another(nic_on("wire"), 1)),
    ] {
        modify(&mut host, id, to);
        all += &format!("{what}:\n{}", steps(&host));
        at_rest(&mut host);
    }
    host.ask(Command::Detach(id)).unwrap();
    at_rest(&mut host);
    all
}

#[test]
fn frames_from_guests_wait_where_the_kernel_drops_none() {
    insta::assert_snapshot!(moves(false), @"
    attached:
    ip tuntap add pct0 mode tap vnet_hdr
    tc qdisc add dev (made by step 0) root htb default 1; class 1 rate 102400bps ceil 102400bps burst 30720 cburst 30720
    ip link add pci* type ifb
    tc qdisc add dev (made by step 2) root htb default 1; class 1 rate 51200bps ceil 81920bps burst 16384 cburst 16384
    ip link set (made by step 2) up
    tc filter replace dev (made by step 0) ingress protocol all u32 match u32 0 0 action mirred egress redirect dev (made by step 2)
    ip link set (made by step 0) master virbr0 up
    changed:
    tc class replace dev pct0 classid 1 rate 204800bps ceil 204800bps burst 16384 cburst 16384
    tc class replace dev pci* classid 1 rate 61440bps ceil 61440bps burst 16384 cburst 16384
    on a device:
    ip link add pcm0 link eth0 address 52:54:00:00:00:01 mtu 1500 type macvlan mode vepa
    tc filter replace dev (made by step 0) ingress protocol all u32 match u32 0 0 action mirred egress redirect dev pct0
    tc qdisc add dev (made by step 0) root htb default 1; class 1 rate 61440bps ceil 61440bps burst 16384 cburst 16384
    ip link set (made by step 0) up
    tc filter replace dev pct0 ingress protocol all u32 match u32 0 0 action mirred egress redirect dev (made by step 0)
    ip link set pct0 nomaster
    announce 52:54:00:00:00:01 on pct0
    ip link del pcdel7
    in a bridge:
    ip link add pci* type ifb
    tc qdisc add dev (made by step 0) root htb default 1; class 1 rate 61440bps ceil 61440bps burst 16384 cburst 16384
    ip link set (made by step 0) up
    ip link set pct0 master virbr0
    tc filter replace dev pct0 ingress protocol all u32 match u32 0 0 action mirred egress redirect dev (made by step 0)
    announce 52:54:00:00:00:01 on pct0
    ip link del pcdel8
    unset:
    tc qdisc del dev pct0 root
    tc filter del dev pct0 ingress
    ip link del pcdel9
    ");
}

#[test]
fn frames_from_guests_are_dropped_at_the_tap_where_the_kernel_can() {
    insta::assert_snapshot!(moves(true), @"
    attached:
    ip tuntap add pct0 mode tap vnet_hdr
    tc qdisc add dev (made by step 0) root htb default 1; class 1 rate 102400bps ceil 102400bps burst 30720 cburst 30720
    tc filter replace dev (made by step 0) ingress u32 match u32 0 0 police rate 51200bps burst 65558
    ip link set (made by step 0) master virbr0 up
    changed:
    tc class replace dev pct0 classid 1 rate 204800bps ceil 204800bps burst 16384 cburst 16384
    tc filter replace dev pct0 ingress u32 match u32 0 0 police rate 61440bps burst 65558
    on a device:
    ip link add pcm0 link eth0 address 52:54:00:00:00:01 mtu 1500 type macvlan mode vepa
    tc filter replace dev (made by step 0) ingress protocol all u32 match u32 0 0 action mirred egress redirect dev pct0
    ip link set (made by step 0) up
    tc filter replace dev pct0 ingress protocol all u32 match u32 0 0 action mirred egress redirect dev (made by step 0)
    ip link set pct0 nomaster
    announce 52:54:00:00:00:01 on pct0
    in a bridge:
    ip link set pct0 master virbr0
    tc filter del dev pct0 ingress
    announce 52:54:00:00:00:01 on pct0
    ip link del pcdel6
    unset:
    tc qdisc del dev pct0 root
    tc filter del dev pct0 ingress police
    ");
}

fn of_a_macvtap(police: bool) -> String {
    let mut host = switchboard(police);
    let macvtap = |bandwidth: &str| Nic { plug: Some(DevicePlug::Macvtap), ..limited("vepa", bandwidth) };
    let limits = "<inbound average='100'/><outbound average='50' peak='80' burst='30'/>";
    let id = attached(&mut host, "web", macvtap(limits));
    let mut all = format!("attached:\n{}", steps(&host));
    at_rest(&mut host);
    for (what, to) in [
        ("changed", "<inbound average='200'/><outbound average='60'/>"),
        ("towards the guest only", "<inbound average='200'/>"),
        ("from the guest only", "<outbound average='60'/>"),
    ] {
        modify(&mut host, id, macvtap(to));
        all += &format!("{what}:\n{}", steps(&host));
        at_rest(&mut host);
    }
    modify(&mut host, id, macvtap(limits));
    host.ask(Command::Link(id, false)).unwrap();
    at_rest(&mut host);
    host.crash();
    at_rest(&mut host);
    modify(&mut host, id, another(nic_on("vepa"), 1));
    all += &format!("unset, and its cable in again:\n{}", steps(&host));
    at_rest(&mut host);
    host.ask(Command::Detach(id)).unwrap();
    at_rest(&mut host);
    all
}

#[test]
fn a_macvtap_sees_the_directions_the_other_way_round() {
    insta::assert_snapshot!(of_a_macvtap(false), @"
    attached:
    ip link add pct0 link eth0 address 52:54:00:00:00:01 mtu 1500 type macvtap mode vepa
    tc qdisc add dev (made by step 0) root htb default 1; class 1 rate 51200bps ceil 81920bps burst 30720 cburst 16384
    ip link add pci* type ifb
    tc qdisc add dev (made by step 2) root htb default 1; class 1 rate 102400bps ceil 102400bps burst 16384 cburst 16384
    ip link set (made by step 2) up
    tc filter replace dev (made by step 0) ingress protocol all u32 match u32 0 0 action mirred egress redirect dev (made by step 2)
    ip link set (made by step 0) up
    changed:
    tc class replace dev pct0 classid 1 rate 61440bps ceil 61440bps burst 16384 cburst 16384
    tc class replace dev pci* classid 1 rate 204800bps ceil 204800bps burst 16384 cburst 16384
    towards the guest only:
    tc qdisc del dev pct0 root
    from the guest only:
    tc qdisc add dev pct0 root htb default 1; class 1 rate 61440bps ceil 61440bps burst 16384 cburst 16384
    tc filter del dev pct0 ingress
    ip link del pcdel7
    unset, and its cable in again:
    tc qdisc del dev pct0 root
    tc filter del dev pct0 ingress
    ip link del pcdel8
    ip link set pct0 up
    ");
}

#[test]
fn what_comes_to_a_macvtap_is_dropped_at_it_where_the_kernel_can() {
    insta::assert_snapshot!(of_a_macvtap(true), @"
    attached:
    ip link add pct0 link eth0 address 52:54:00:00:00:01 mtu 1500 type macvtap mode vepa
    tc qdisc add dev (made by step 0) root htb default 1; class 1 rate 51200bps ceil 81920bps burst 30720 cburst 16384
    tc filter replace dev (made by step 0) ingress u32 match u32 0 0 police rate 102400bps burst 102400
    ip link set (made by step 0) up
    changed:
    tc class replace dev pct0 classid 1 rate 61440bps ceil 61440bps burst 16384 cburst 16384
    tc filter replace dev pct0 ingress u32 match u32 0 0 police rate 204800bps burst 204800
    towards the guest only:
    tc qdisc del dev pct0 root
    from the guest only:
    tc qdisc add dev pct0 root htb default 1; class 1 rate 61440bps ceil 61440bps burst 16384 cburst 16384
    tc filter del dev pct0 ingress police
    unset, and its cable in again:
    tc qdisc del dev pct0 root
    tc filter del dev pct0 ingress police
    ip link set pct0 up
    ");
}

#[test]
fn a_daemon_that_starts_anew_plans_nothing() {
    for police in [false, true] {
        let mut host = switchboard(police);
        attached(&mut host, "a", limited("shaped", "<inbound average='70' floor='30'/>"));
        attached(&mut host, "b", another(limited("vepa", "<outbound average='7'/>"), 2));
        let macvtap = Nic { plug: Some(DevicePlug::Macvtap), ..limited("vepa", "<inbound average='7'/>") };
        attached(&mut host, "c", another(macvtap, 3));
        at_rest(&mut host);
        host.last_plan = Default::default();
        host.events.clear();
        host.crash();
        at_rest(&mut host);
        assert!(host.last_plan.is_empty(), "{:?}", host.last_plan);
        assert!(!host.events.iter().any(|e| matches!(e, Event::Drift { .. })), "{:?}", host.events);
    }
}

#[test]
fn nothing_is_tried_while_nobody_asks_for_rates() {
    let mut host = host();
    host.ask(Command::Create(network("<network><name>wire</name></network>"))).unwrap();
    attached(&mut host, "web", nic_on("wire"));
    at_rest(&mut host);
    assert_eq!(host.engine.observed().shaping, None);
}

#[test]
fn no_more_is_promised_than_there_is_and_a_refusal_says_to_whom() {
    let mut host = switchboard(false);
    let floor = |kib: u32, mac| another(limited("shaped", &format!("<inbound floor='{kib}'/>")), mac);
    let a = attached(&mut host, "a", floor(600, 1));
    let b = attached(&mut host, "b", floor(300, 2));
    let refused = host.ask(attach("c", floor(101, 3))).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::InUse);
    let text = refused.to_string();
    let says = [
        "<inbound floor>: 101 KiB/s are asked for, and network 'shaped' has 100 left of 1000",
        &format!("600 to guest 'a' (NIC {a})"),
        &format!("300 to guest 'b' (NIC {b})"),
    ];
    assert!(says.iter().all(|part| text.contains(part)), "{text}");
    assert!(host.ask(Command::Modify(b, Box::new(floor(401, 2)), Default::default())).is_err());
    at_rest(&mut host);
    modify(&mut host, b, floor(400, 2));
    at_rest(&mut host);
    let classes = |host: &Host| {
        let bridge = host.kernel.links().find(|l| l.name == "virbr1").unwrap().index;
        let classes = &host.kernel.shapes[&bridge].classes;
        classes.iter().map(|(number, c)| (*number, c.limit.rate / 1024, c.limit.ceil / 1024)).collect::<Vec<_>>()
    };
    assert_eq!(classes(&host), [(1, 1000, 2000), (2, 0, 2000), (3, 600, 2000), (4, 400, 2000)]);
    // What is given back is there for others, and a number is nobody's but one's.
    host.ask(Command::Detach(a)).unwrap();
    at_rest(&mut host);
    assert_eq!(classes(&host), [(1, 1000, 2000), (2, 600, 2000), (4, 400, 2000)]);
    attached(&mut host, "c", floor(500, 3));
    assert_eq!(classes(&host), [(1, 1000, 2000), (2, 100, 2000), (3, 500, 2000), (4, 400, 2000)]);
    at_rest(&mut host);
    assert!(!host.events.iter().any(|e| matches!(e, Event::Drift { .. })), "{:?}", host.events);
    // A network that can't keep what it promised to those who wait for it does not start.
    host.ask(Command::Stop("shaped".into())).unwrap();
    let mut less = shaped("shaped", 1);
    less.bandwidth.as_mut().unwrap().inbound.as_mut().unwrap().average = Some(899);
    let refused = host.ask(Command::Create(less)).unwrap_err().to_string();
    assert!(refused.contains("promised more than its 899 KiB/s"), "{refused}");
    assert!(refused.contains("400 to guest 'b'") && refused.contains("500 to guest 'c'"), "{refused}");
    host.ask(Command::Create(shaped("shaped", 1))).unwrap();
    at_rest(&mut host);
    assert_eq!(classes(&host).len(), 4);
}

#[test]
fn an_attach_whose_class_is_refused_leaves_nothing_behind() {
    for refused in 0..16 {
        let mut host = switchboard(false);
        at_rest(&mut host);
        let before = host.kernel.shapes.clone();
        host.refuse_after = Some(refused);
        let asked = host.ask(attach("a", limited("shaped", "<inbound average='70' floor='30'/>")));
        let passed_over = host.refuse_after.take().is_some();
        at_rest(&mut host);
        if asked.is_ok() {
            assert!(passed_over, "an attach passed over a refused step");
            return;
        }
        assert_eq!(host.kernel.shapes, before);
        assert!(host.kernel.links_marked(MarkKind::Tap, Uuid::nil()).next().is_none());
    }
    panic!("an attach has fewer than sixteen steps");
}

#[test]
fn a_changed_class_of_connections_reaches_its_nics() {
    let mut host = switchboard(false);
    let id = attached(&mut host, "web", nic_on("shaped"));
    at_rest(&mut host);
    host.ask(Command::Update {
        network: "shaped".into(),
        command: UpdateCommand::Modify,
        section: UpdateSection::Portgroup,
        parent: None,
        xml: "<portgroup name='all' default='yes'><bandwidth><outbound average='300'/></bandwidth></portgroup>".into(),
        live: true,
        config: false,
    })
    .unwrap();
    assert!(host.last_plan.steps.iter().all(|s| matches!(s.op, Op::SetClass(..))), "{:?}", host.last_plan);
    at_rest(&mut host);
    let Ok(answer) = host.ask(Command::NicXml { id, inactive: false }) else { panic!("no document") };
    let Body::Xml(text) = answer.body else { panic!("no document") };
    assert!(text.contains("<outbound average='300'/>"), "{text}");
    // Plugged into nothing, it waits nowhere.
    modify(&mut host, id, Nic::new(NicSource::None));
    at_rest(&mut host);
    assert!(host.kernel.link_marked(MarkKind::Ifb, id).is_none());
}

/// The nth link that is limited, counted round.
pub(super) fn pick_shaped(host: &Host, n: u8) -> Option<Index> {
    let shaped: Vec<Index> = host.kernel.shapes.keys().copied().collect();
    (!shaped.is_empty()).then(|| shaped[usize::from(n) % shaped.len()])
}
