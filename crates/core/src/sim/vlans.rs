//! VLANs of NICs on bridges: how they come, change and go, and what the bridge does meanwhile.

use super::Host;
use super::tests::{at_rest, attach, host, nat, network, nic, nic_on};
use crate::engine::{Body, Command, Event, Input, NicState};
use crate::model::{Nic, UpdateCommand, UpdateSection};
use crate::plan::{Change, Index, LinkKind, LinkRef, MarkKind, Op, PortVlans, VlanState};
use crate::{ErrorKind, xml};
use uuid::Uuid;

/// A NIC with a fixed address and, where given, that `<vlan>`.
fn nic_in(source: &str, mac: u8, vlan: &str) -> Nic {
    let kind = if source.starts_with("network") { "network" } else { "bridge" };
    let text = format!(
        "<interface type='{kind}'><mac address='52:54:00:00:00:{mac:02x}'/><source {source}/>{vlan}</interface>"
    );
    xml::read_nic(&text).unwrap()
}

const ACCESS: &str = "<vlan><tag id='42'/></vlan>";

/// A host bridge that filters VLANs as said, with the uplink eth0 in VLAN 1 and those.
fn host_bridge(host: &mut Host, filtering: bool, uplink: &[u16]) -> Index {
    let bridge = host.add_link("br0", LinkKind::Bridge);
    let eth0 = host.add_link("eth0", LinkKind::Other(String::new()));
    let mut link = host.kernel.link(bridge).cloned().unwrap();
    link.vlan = VlanState { filtering, ..VlanState::default() };
    host.kernel.set_link(bridge, Some(link));
    let mut link = host.kernel.link(eth0).cloned().unwrap();
    link.controller = Some(bridge);
    host.kernel.set_link(eth0, Some(link));
    let tagged = uplink.iter().copied().collect();
    host.kernel.set_vlans(eth0, PortVlans { tagged, ..PortVlans::access(1) });
    see(host);
    bridge
}

fn see(host: &mut Host) {
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    host.settle();
}

fn vlans(host: &Host, id: Uuid) -> String {
    host.kernel.vlans_of(host.kernel.link_marked(MarkKind::Tap, id).unwrap()).to_string()
}

fn filters(host: &Host, bridge: &str) -> bool {
    host.kernel.link_named(bridge).unwrap().vlan.filtering
}

fn attached(host: &mut Host, guest: &str, wanted: Nic) -> Uuid {
    let view = nic(host.ask(attach(guest, wanted)).unwrap().body);
    assert_eq!(view.state, NicState::Plugged);
    at_rest(host);
    view.id
}

fn modified(host: &mut Host, id: Uuid, to: Nic) {
    host.ask(Command::Modify(id, Box::new(to), Default::default())).unwrap();
}

/// The steps of the last plan, with links' names for their indexes.
fn steps(host: &Host) -> String {
    let named = |word: &str| {
        let link = host.kernel.links().find(|l| LinkRef::Index(l.index).to_string() == word);
        link.map_or_else(|| word.to_owned(), |l| l.name.clone())
    };
    let line = |op: &Op| op.to_string().split(' ').map(named).collect::<Vec<_>>().join(" ") + "\n";
    host.last_plan.steps.iter().map(|step| line(&step.op)).collect()
}

#[test]
fn a_bridge_filters_while_somebody_has_a_vlan() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    let plain = attached(&mut host, "plain", nic_on("lab"));
    assert!(!filters(&host, "virbr0"));
    let web = attached(&mut host, "web", nic_in("network='lab'", 1, ACCESS));
    insta::assert_snapshot!(steps(&host), @"
    ip tuntap add pct1 mode tap vnet_hdr
    ip link set virbr0 type bridge vlan_filtering 1
    ip link set (made by step 0) master virbr0
    bridge vlan add dev (made by step 0) vid 42 pvid untagged # and no others
    ip link set (made by step 0) up
    ");
    assert_eq!(
        (vlans(&host, plain).as_str(), vlans(&host, web).as_str()),
        ("vid 1 pvid untagged", "vid 42 pvid untagged")
    );
    let trunk = "<vlan trunk='yes'><tag id='42' nativeMode='untagged'/><tag id='43'/><tag id='44'/></vlan>";
    modified(&mut host, web, nic_in("network='lab'", 1, trunk));
    insta::assert_snapshot!(steps(&host), @"bridge vlan add dev pct1 vid 42 pvid untagged, vid 43-44 # and no others");
    at_rest(&mut host);
    host.crash();
    let plans = host.last_plan.clone();
    at_rest(&mut host);
    assert_eq!(plans, host.last_plan, "a restart plans nothing");

    modified(&mut host, web, nic_in("network='lab'", 1, ""));
    insta::assert_snapshot!(steps(&host), @"
    bridge vlan add dev pct1 vid 1 pvid untagged # and no others
    ip link set virbr0 type bridge vlan_filtering 0
    ");
    at_rest(&mut host);
    modified(&mut host, web, nic_in("network='lab'", 1, ACCESS));
    at_rest(&mut host);
    assert!(filters(&host, "virbr0"));
    host.ask(Command::Detach(web)).unwrap();
    assert!(!filters(&host, "virbr0"));
    at_rest(&mut host);
    assert!(!host.events.iter().any(|e| matches!(e, Event::Drift { .. })), "{:?}", host.events);
}

#[test]
fn a_nic_that_is_not_plugged_in_takes_its_vlan_away_too() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    let web = attached(&mut host, "web", nic_in("network='lab'", 1, ACCESS));
    host.ask(Command::Link(web, false)).unwrap();
    at_rest(&mut host);
    assert!(filters(&host, "virbr0"));
    host.ask(Command::Detach(web)).unwrap();
    at_rest(&mut host);
    assert!(!filters(&host, "virbr0"));
}

#[test]
fn a_networks_own_vlan_is_the_hosts_too() {
    let mut host = host();
    let lab = network(
        "<network><name>lab</name><forward mode='nat'/><vlan><tag id='42'/></vlan>
         <portgroup name='other'><vlan><tag id='43'/></vlan></portgroup>
         <ip address='10.0.1.1' netmask='255.255.255.0'/></network>",
    );
    host.ask(Command::Create(lab)).unwrap();
    let bridge = host.kernel.link_named("virbr0").unwrap();
    assert!(bridge.vlan.filtering);
    assert_eq!(host.kernel.vlans_of(bridge).to_string(), "vid 42 pvid untagged");
    let web = attached(&mut host, "web", nic_in("network='lab'", 1, ""));
    let other = attached(&mut host, "other", nic_in("network='lab' portgroup='other'", 2, ""));
    assert_eq!(
        (vlans(&host, web).as_str(), vlans(&host, other).as_str()),
        ("vid 42 pvid untagged", "vid 43 pvid untagged")
    );
    host.crash();
    at_rest(&mut host);
    host.ask(Command::Stop("lab".into())).unwrap();
    at_rest(&mut host);
}

#[test]
fn a_portgroups_vlan_moves_its_nics() {
    let mut host = host();
    let lab = "<network><name>lab</name><portgroup name='staff'/></network>";
    host.ask(Command::Create(network(lab))).unwrap();
    let web = attached(&mut host, "web", nic_in("network='lab' portgroup='staff'", 1, ""));
    let update = |vlan: &str| Command::Update {
        network: "lab".into(),
        command: UpdateCommand::Modify,
        section: UpdateSection::Portgroup,
        parent: None,
        xml: format!("<portgroup name='staff'>{vlan}</portgroup>"),
        live: true,
        config: false,
    };
    for (vlan, wanted) in [(ACCESS, "vid 42 pvid untagged"), ("<vlan trunk='yes'><tag id='7'/></vlan>", "vid 7")] {
        host.ask(update(vlan)).unwrap();
        at_rest(&mut host);
        assert_eq!((vlans(&host, web).as_str(), filters(&host, "virbr0")), (wanted, true));
    }
    host.ask(update("")).unwrap();
    at_rest(&mut host);
    assert_eq!((vlans(&host, web).as_str(), filters(&host, "virbr0")), ("vid 1 pvid untagged", false));
}

#[test]
fn a_nic_moves_between_bridges_without_a_frame_in_a_vlan_that_is_not_its_own() {
    let mut host = host();
    host_bridge(&mut host, true, &[42]);
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    let web = attached(&mut host, "web", nic_in("network='lab'", 1, ACCESS));
    modified(&mut host, web, nic_in("bridge='br0'", 1, ACCESS));
    insta::assert_snapshot!(steps(&host), @"
    bridge vlan del dev pct0 # all
    ip link set pct0 master br0 down
    bridge vlan add dev pct0 vid 42 pvid untagged # and no others
    ip link set pct0 up
    announce 52:54:00:00:00:01 on pct0
    ip link set virbr0 type bridge vlan_filtering 0
    ");
    at_rest(&mut host);
    for refused in 0..6 {
        host.refuse_after = Some(refused);
        let error = host.ask(Command::Modify(web, Box::new(nic_in("network='lab'", 1, "")), Default::default()));
        let Err(error) = error else { panic!("step {refused} was not refused") };
        assert!(error.to_string().contains("refused by the test"), "{error}");
        at_rest(&mut host);
        if host.refuse_after.take().is_some() || steps(&host).lines().count() == refused + 1 {
            return;
        }
        assert_eq!(vlans(&host, web), "vid 42 pvid untagged");
        assert!(host.kernel.link_marked(MarkKind::Tap, web).unwrap().up);
    }
}

#[test]
fn a_written_forwarding_table_follows_the_vlans() {
    let mut host = host();
    host.ask(Command::Create(network("<network><name>lab</name><bridge macTableManager='libvirt'/></network>")))
        .unwrap();
    let web = attached(&mut host, "web", nic_in("network='lab'", 1, ""));
    modified(&mut host, web, nic_in("network='lab'", 1, ACCESS));
    insta::assert_snapshot!(steps(&host), @"
    ip link set virbr0 type bridge vlan_filtering 1
    bridge fdb del 52:54:00:00:00:01 dev pct0 master static
    bridge vlan add dev pct0 vid 42 pvid untagged # and no others
    bridge fdb replace 52:54:00:00:00:01 dev pct0 master static
    ");
    at_rest(&mut host);
}

#[test]
fn a_host_bridge_that_does_not_filter_refuses_vlans_and_stays_as_it_is() {
    let mut host = host();
    host_bridge(&mut host, false, &[]);
    let before = host.kernel.clone();
    let refused = host.ask(attach("web", nic_in("bridge='br0'", 1, ACCESS))).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unsupported);
    assert_eq!(
        refused.to_string(),
        "NIC of guest 'web', <vlan>: bridge br0 does not keep VLANs apart; once its ports are in the VLANs they need \
         ('bridge vlan'), 'ip link set dev br0 type bridge vlan_filtering 1' has it do so"
    );
    let outside = "<network><name>outside</name><forward mode='bridge'/><bridge name='br0'/>
        <portgroup name='a'/><portgroup name='b'><vlan><tag id='42'/></vlan></portgroup></network>";
    let created = host.ask(Command::Create(network(outside))).unwrap();
    assert!(
        created.warnings.iter().any(|w| w.contains("bridge br0 does not keep VLANs apart")),
        "{:?}",
        created.warnings
    );
    host.ask(attach("web", nic_in("network='outside' portgroup='b'", 1, ""))).unwrap_err();
    assert_eq!(host.kernel, before);
    // Nor may a portgroup get a VLAN under the NICs that are there.
    attached(&mut host, "web", nic_in("network='outside' portgroup='a'", 1, ""));
    let update = host.ask(Command::Update {
        network: "outside".into(),
        command: UpdateCommand::Modify,
        section: UpdateSection::Portgroup,
        parent: None,
        xml: format!("<portgroup name='a'>{ACCESS}</portgroup>"),
        live: true,
        config: false,
    });
    assert_eq!(update.unwrap_err().kind, ErrorKind::Unsupported);
    at_rest(&mut host);
}

#[test]
fn a_host_bridges_uplink_is_left_alone_and_missed() {
    let mut host = host();
    host_bridge(&mut host, true, &[42]);
    let answer = host.ask(attach("web", nic_in("bridge='br0'", 1, ACCESS))).unwrap();
    assert!(answer.warnings.is_empty(), "{:?}", answer.warnings);
    let web = nic(answer.body).id;
    let answer = host.ask(attach("db", nic_in("bridge='br0'", 2, "<vlan><tag id='43'/></vlan>"))).unwrap();
    assert!(answer.warnings[0].starts_with("no other port of br0 (eth0) carries VLAN 43"), "{:?}", answer.warnings);
    let db = nic(answer.body).id;
    let plain = attached(&mut host, "plain", nic_in("bridge='br0'", 3, ""));
    assert_eq!(
        (vlans(&host, web).as_str(), vlans(&host, db).as_str()),
        ("vid 42 pvid untagged", "vid 43 pvid untagged")
    );
    assert_eq!(vlans(&host, plain), "vid 1 pvid untagged");
    let uplink = host.kernel.link_named("eth0").unwrap();
    assert_eq!(host.kernel.vlans_of(uplink).to_string(), "vid 1 pvid untagged, vid 42");

    // When its owner has it keep VLANs apart no longer, who has one is better out than in.
    let was = host.kernel.link_named("br0").cloned().unwrap();
    let off = crate::plan::Link { vlan: VlanState::default(), ..was.clone() };
    host.kernel.set_link(was.index, Some(off.clone()));
    host.tell(Input::Observed(Change::Link(was.index, Some(off))));
    at_rest(&mut host);
    let state = |host: &mut Host, id| nic(host.ask(Command::ShowNic(id)).unwrap().body).state;
    assert_eq!((state(&mut host, web), state(&mut host, plain)), (NicState::Waiting, NicState::Plugged));
    host.kernel.set_link(was.index, Some(was.clone()));
    host.tell(Input::Observed(Change::Link(was.index, Some(was))));
    at_rest(&mut host);
    assert_eq!(state(&mut host, web), NicState::Plugged);
    assert_eq!(vlans(&host, web), "vid 42 pvid untagged");
}

#[test]
fn what_others_do_to_vlans_is_put_back() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    let web = attached(&mut host, "web", nic_in("network='lab'", 1, ACCESS));
    let tap = host.kernel.link_marked(MarkKind::Tap, web).unwrap().index;
    let other = PortVlans { tagged: [7].into(), ..PortVlans::access(1) };
    host.kernel.set_vlans(tap, other.clone());
    host.tell(Input::Observed(Change::Vlans(tap, other)));
    at_rest(&mut host);
    assert_eq!(vlans(&host, web), "vid 42 pvid untagged");
    let bridge = host.kernel.link_named("virbr0").cloned().unwrap();
    let off = crate::plan::Link { vlan: VlanState::default(), ..bridge };
    host.kernel.set_link(off.index, Some(off.clone()));
    host.tell(Input::Observed(Change::Link(off.index, Some(off))));
    at_rest(&mut host);
    assert!(filters(&host, "virbr0"));
    let drift: Vec<_> = host.events.iter().filter(|e| matches!(e, Event::Drift { repaired: true, .. })).collect();
    assert!(drift.len() >= 2, "{drift:?}");
}

#[test]
fn a_kernel_without_vlans_refuses_them_and_nothing_else() {
    let mut host = host();
    host.no_vlans = true;
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    attached(&mut host, "plain", nic_on("lab"));
    let before = host.kernel.clone();
    let refused = host.ask(attach("web", nic_in("network='lab'", 1, ACCESS))).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::HostFailed);
    assert!(refused.to_string().contains("the bridge keeps VLANs apart"), "{refused}");
    assert!(refused.to_string().contains("EOPNOTSUPP"), "{refused}");
    at_rest(&mut host);
    assert_eq!(host.kernel, before);
    let refused = host.ask(Command::Create(network(
        "<network><name>other</name><portgroup name='a'><vlan><tag id='42'/></vlan></portgroup></network>",
    )));
    assert!(refused.unwrap_err().to_string().contains("EOPNOTSUPP"));
    at_rest(&mut host);
    assert_eq!(host.kernel, before);
}

#[test]
fn a_nic_on_nothing_keeps_its_vlan_for_later() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    let web = attached(&mut host, "web", nic_in("network='lab'", 1, ACCESS));
    modified(&mut host, web, xml::read_nic(&format!("<interface type='none'>{ACCESS}</interface>")).unwrap());
    at_rest(&mut host);
    assert!(!filters(&host, "virbr0"));
    let Body::Xml(text) = host.ask(Command::NicXml { id: web, inactive: true }).unwrap().body else { panic!("no XML") };
    assert!(text.contains("<tag id='42'/>"), "{text}");
}
