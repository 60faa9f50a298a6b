//! What users do, on the simulated host, step by step.

use super::{Full, Host};
use crate::engine::{Attach, Body, Command, Config, Event, Input, NicState, RecordKey};
use crate::intent::Owner;
use crate::model::{Name, Network, Nic, UpdateCommand, UpdateSection};
use crate::plan::nft::foreign::Firewalls;
use crate::plan::{Change, Handover, MarkKind, Sysctl, dnsmasq};
use crate::{ErrorKind, xml};
use uuid::Uuid;

pub(super) fn host() -> Host {
    Host::new(Config {
        instance: Uuid::from_u128(7),
        stamp: xml::Stamp { boot_id: "boot-1".into(), netns: 4026531840 },
        needs_carrier: false,
        binds_drivers: true,
        plug: Default::default(),
        shapes_ports: false,
        uplinks: Default::default(),
        nodes: "/run/patchcord/nodes".into(),
        dnsmasq: dnsmasq::Settings {
            dir: "/var/lib/patchcord/dnsmasq".into(),
            run_dir: "/run/patchcord/dnsmasq".into(),
            user: None,
            group: None,
            instance: Uuid::from_u128(7),
            upstream: Vec::new(),
        },
    })
}

pub(super) fn network(text: &str) -> Box<Network> {
    Box::new(xml::read_network(text, xml::Mode::Strict).unwrap())
}

pub(super) fn nat(name: &str, subnet: u8) -> Box<Network> {
    network(&format!(
        "<network><name>{name}</name><forward mode='nat'/><ip address='10.0.{subnet}.1' netmask='255.255.255.0'>
         <dhcp><range start='10.0.{subnet}.2' end='10.0.{subnet}.99'/></dhcp></ip></network>"
    ))
}

/// A network on devices of the host's.
pub(super) fn on_devices(name: &str, mode: &str, devices: &[&str]) -> Box<Network> {
    let devices: String = devices.iter().map(|d| format!("<interface dev='{d}'/>")).collect();
    network(&format!("<network><name>{name}</name><forward mode='{mode}'>{devices}</forward></network>"))
}

pub(super) fn on_open_vswitch(name: &str) -> Box<Network> {
    network(&format!(
        "<network><name>{name}</name><forward mode='bridge'/><bridge name='ovsbr0'/>\
         <virtualport type='openvswitch'/></network>"
    ))
}

pub(super) fn nic_on(name: &str) -> Nic {
    xml::read_nic(&format!("<interface type='network'><source network='{name}'/></interface>")).unwrap()
}

pub(super) fn nic_in(bridge: &str) -> Nic {
    xml::read_nic(&format!("<interface type='bridge'><source bridge='{bridge}'/></interface>")).unwrap()
}

pub(super) fn attach(guest: &str, nic: Nic) -> Command {
    Command::Attach(Box::new(Attach {
        guest: Name::new(guest).unwrap(),
        guest_uuid: None,
        nic,
        owner: None,
        handover: Handover::Name { uid: None },
        uid: 0,
        precedence: Default::default(),
        reservation: None,
        port: None,
        mac_unknown: false,
    }))
}

pub(super) fn nic(body: Body) -> crate::engine::NicView {
    match body {
        Body::Nic(nic) => *nic,
        other => panic!("{other:?} is no NIC"),
    }
}

pub(super) fn at_rest(host: &mut Host) {
    host.settle_with_clock();
    host.reap();
    assert_eq!(host.check(), Vec::<String>::new());
}

#[test]
fn a_nic_is_plugged_parked_and_plugged_again() {
    let mut host = host();
    host.ask(Command::Define(nat("lab", 1))).unwrap();
    let refused = host.ask(attach("web", nic_on("lab"))).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "NIC of guest 'web', <source network>: network 'lab' is not active; start it: patchcord network start 'lab'"
    );
    host.ask(Command::Start("lab".into())).unwrap();
    let web = nic(host.ask(attach("web", nic_on("lab"))).unwrap().body);
    assert_eq!(
        (web.state, web.bridge.as_deref(), web.tap.as_deref()),
        (NicState::Plugged, Some("virbr0"), Some("pct0"))
    );
    assert!(web.mac.unwrap().to_string().starts_with("52:54:00:"));
    at_rest(&mut host);
    assert_eq!(host.kernel.sysctls[&Sysctl::Ipv4Forward], "1");

    let tap = host.kernel.link_marked(MarkKind::Tap, web.id).unwrap().index;
    host.ask(Command::Stop("lab".into())).unwrap();
    at_rest(&mut host);
    let parked = nic(host.ask(Command::ShowNic(web.id)).unwrap().body);
    assert_eq!(parked.state, NicState::Parked);
    assert_eq!(host.kernel.sysctls[&Sysctl::Ipv4Forward], "0", "put back when the last user goes");

    host.ask(Command::Start("lab".into())).unwrap();
    let again = nic(host.ask(Command::ShowNic(web.id)).unwrap().body);
    assert_eq!(again.state, NicState::Plugged);
    assert_eq!(host.kernel.link_marked(MarkKind::Tap, web.id).unwrap().index, tap, "the tap is for life");
    host.ask(Command::Detach(web.id)).unwrap();
    at_rest(&mut host);
    assert!(host.kernel.link_marked(MarkKind::Tap, web.id).is_none());
}

#[test]
fn what_a_third_party_takes_away_is_put_back() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    let web = nic(host.ask(attach("web", nic_on("lab"))).unwrap().body);
    at_rest(&mut host);

    let bridge = host.kernel.link_named("virbr0").unwrap().index;
    let dnsmasq = |host: &Host| host.kernel.services.values().next().unwrap().pid;
    let before = dnsmasq(&host);
    host.remove_link(bridge);
    let tap = host.kernel.link_marked(MarkKind::Tap, web.id).unwrap().clone();
    host.tell(crate::engine::Input::Observed(crate::plan::Change::Link(tap.index, Some(tap))));
    host.tell(crate::engine::Input::Observed(crate::plan::Change::Link(bridge, None)));
    at_rest(&mut host);
    assert!(host.kernel.link_named("virbr0").is_some());
    assert_ne!(dnsmasq(&host), before, "it can't hear on a link that it was not started on");

    host.kernel.nft = crate::plan::nft::ObservedTable::default();
    let gone = crate::plan::Change::Nft(host.kernel.nft.clone(), Some("nft (pid 4711)".into()));
    host.tell(crate::engine::Input::Observed(gone));
    at_rest(&mut host);
    let told = host.events.iter().any(
        |e| matches!(e, crate::engine::Event::Drift { culprit: Some(c), repaired: true, .. } if c.contains("4711")),
    );
    assert!(told, "{:?}", host.events);
}

#[test]
fn a_nic_that_is_attached_while_its_networks_bridge_is_made_again_waits_for_it() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    let bridge = host.kernel.link_named("virbr0").unwrap().index;
    host.remove_link(bridge);
    host.tell(Input::Observed(Change::Link(bridge, None)));
    let web = host.request(attach("web", nic_on("lab")));
    host.settle();
    let answer = host.replies.remove(&web).unwrap().unwrap();
    assert_eq!(nic(answer.body).state, NicState::Plugged);
    at_rest(&mut host);
    // Where it can't be made now, whoever asks is told whose it is.
    let bridge = host.kernel.link_named("virbr0").unwrap().index;
    host.remove_link(bridge);
    host.refuse_after = Some(0);
    host.tell(Input::Observed(Change::Link(bridge, None)));
    let error = host.ask(attach("db", nic_on("lab"))).unwrap_err();
    assert!(error.hint.as_ref().is_some_and(|hint| hint.contains("network 'lab's own")), "{error}");
    host.refuse_after = None;
    host.settle_with_clock();
    at_rest(&mut host);
}

#[test]
fn rules_that_others_flush_while_a_network_starts_or_stops_are_no_obstacle() {
    for steps in 0..6 {
        for stop in [false, true] {
            let mut host = host();
            host.ask(Command::Create(nat("other", 2))).unwrap();
            host.ask(Command::Define(nat("lab", 1))).unwrap();
            if stop {
                host.ask(Command::Start("lab".into())).unwrap();
            }
            let command = if stop { Command::Stop("lab".into()) } else { Command::Start("lab".into()) };
            let request = host.request(command);
            for _ in 0..steps {
                host.step();
            }
            // The announcement comes after the next plan.
            host.kernel.nft = crate::plan::nft::ObservedTable::default();
            host.settle();
            host.tell(Input::Observed(Change::Nft(host.kernel.nft.clone(), None)));
            at_rest(&mut host);
            assert_eq!(host.replies[&request].as_ref().err(), None, "after {steps} steps, stop: {stop}");
        }
    }
}

#[test]
fn a_dnsmasq_that_could_not_be_changed_ends_with_its_network() {
    // Whether that is asked for while it is told to change, before it is reported that it could not be, or later.
    for steps in 0..6 {
        let mut host = host();
        host.ask(Command::Create(nat("lab", 1))).unwrap();
        host.full = Full { services: true, ..Full::default() };
        host.tell(Input::Observed(Change::Resolvers(vec!["192.0.2.7".parse().unwrap()])));
        for _ in 0..steps {
            host.step();
        }
        assert_eq!(host.kernel.services.len(), 1, "it serves on");
        let stop = host.request(Command::Stop("lab".into()));
        host.overtake();
        host.settle();
        assert_eq!(host.replies[&stop].as_ref().err(), None, "after {steps} steps");
        assert!(host.kernel.services.is_empty());
    }
}

#[test]
fn a_refused_step_leaves_what_was_there_before() {
    for refused in 0..12 {
        let mut host = host();
        host.ask(Command::Define(nat("lab", 1))).unwrap();
        host.refuse_after = Some(refused);
        match host.ask(Command::Start("lab".into())) {
            Ok(_) => {
                assert!(host.refuse_after.is_some(), "the start passed over a refused step");
                return;
            }
            Err(error) => assert_eq!(error.kind, ErrorKind::HostFailed, "{error}"),
        }
        assert!(host.kernel.link_named("virbr0").is_none());
        at_rest(&mut host);
        host.ask(Command::Start("lab".into())).unwrap();
        at_rest(&mut host);
    }
    panic!("a start has fewer than twelve steps");
}

#[test]
fn a_nic_ends_with_its_owner_also_while_the_daemon_was_down() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    let owner = Owner { pid: 42, start_time: 1 };
    host.processes.insert(owner);
    let Command::Attach(mut wanted) = attach("web", nic_on("lab")) else { unreachable!() };
    wanted.owner = Some(owner);
    let web = nic(host.ask(Command::Attach(wanted)).unwrap().body);
    host.processes.remove(&owner);
    host.crash();
    at_rest(&mut host);
    assert!(host.ask(Command::ShowNic(web.id)).is_err());
    assert!(host.kernel.link_named("pct0").is_none());
}

#[test]
fn a_transient_network_that_comes_back_has_its_bridges_mac() {
    let mut host = host();
    let mac = |host: &Host| host.kernel.link_named("virbr0").unwrap().mac;
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    let first = mac(&host);
    host.ask(Command::Stop("lab".into())).unwrap();
    host.reap();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    assert_eq!(mac(&host), first);
    host.ask(Command::Create(nat("other", 2))).unwrap();
    assert_ne!(host.kernel.link_named("virbr1").unwrap().mac, first);
}

#[test]
fn names_bridges_and_subnets_that_clash_are_refused() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    let clash = host.ask(Command::Create(nat("other", 1))).unwrap_err();
    assert_eq!(
        clash.to_string(),
        "network 'other', <ip address>: subnet 10.0.1.0/24 overlaps with 10.0.1.0/24 of the active network 'lab'; \
         choose another subnet"
    );
    let bridge = network("<network><name>third</name><bridge name='virbr0'/></network>");
    let clash = host.ask(Command::Define(bridge)).unwrap_err();
    assert_eq!(clash.kind, ErrorKind::InUse, "{clash}");
    at_rest(&mut host);
}

#[test]
fn a_reboot_forgets_what_ran_and_starts_what_starts_by_itself() {
    let mut host = host();
    host.ask(Command::Define(nat("always", 1))).unwrap();
    host.ask(Command::Autostart("always".into(), true)).unwrap();
    host.ask(Command::Define(nat("once", 2))).unwrap();
    host.ask(Command::Start("always".into())).unwrap();
    host.ask(Command::Start("once".into())).unwrap();
    host.ask(attach("web", nic_on("once"))).unwrap();
    host.reboot("boot-2");
    at_rest(&mut host);
    let active: Vec<_> = host
        .engine
        .intent()
        .networks()
        .filter(|(_, n)| n.active.is_some())
        .map(|(_, n)| n.current().unwrap().name.to_string())
        .collect();
    assert_eq!(active, ["always"]);
    assert_eq!(host.engine.intent().nics().count(), 0);
}

#[test]
fn a_bridge_is_in_its_firewalld_zone_while_the_network_runs() {
    let mut host = host();
    let zoned = "<network><name>z</name><bridge name='virbr9' zone='work'/></network>";
    host.ask(Command::Define(network(zoned))).unwrap();
    host.ask(Command::Start("z".into())).unwrap();
    let zones = |host: &Host| host.zone_of.iter().map(|(_, b, z)| format!("{b} {z}")).collect::<Vec<_>>();
    assert_eq!(zones(&host), ["virbr9 work"]);
    host.crash();
    at_rest(&mut host);
    assert_eq!(zones(&host), ["virbr9 work"]);
    // A reload: firewalld's table is another one, and it has forgotten the bridge.
    let forgets = |host: &mut Host, table| {
        host.zone_of.clear();
        let firewalls = Firewalls { firewalld: table, ..Firewalls::default() };
        host.tell(Input::Observed(Change::Firewalls(firewalls)));
        host.settle();
    };
    forgets(&mut host, Some(3));
    host.events.clear();
    forgets(&mut host, Some(7));
    assert_eq!(zones(&host), ["virbr9 work"]);
    let told = |e: &Event| matches!(e, Event::Drift { what, repaired: true, .. } if what.contains("zone 'work'"));
    assert!(matches!(&host.events[..], [event] if told(event)), "{:?}", host.events);
    // A stop of it: nobody is there who could be told.
    forgets(&mut host, None);
    assert_eq!(zones(&host), [""; 0]);
    forgets(&mut host, Some(7));
    assert_eq!(zones(&host), [""; 0], "it was there all the time");
    forgets(&mut host, Some(9));
    assert_eq!(zones(&host), ["virbr9 work"]);
    host.ask(Command::Stop("z".into())).unwrap();
    assert_eq!(zones(&host), [""; 0]);
    at_rest(&mut host);
}

#[test]
fn a_restart_takes_no_bridge_of_ours_for_an_uplink() {
    let mut host = host();
    host.ask(Command::Create(network("<network><name>island</name></network>"))).unwrap();
    let dual = "<network><name>dual</name><forward mode='nat'/><ip address='10.0.9.1' prefix='24'/>
        <ip family='ipv6' address='fd00:9::1' prefix='64'/></network>";
    host.ask(Command::Create(network(dual))).unwrap();
    // What the kernel has on every link, and a snapshot reads.
    host.kernel.sysctls.insert(Sysctl::AcceptRa("virbr0".into()), "1".into());
    host.crash();
    host.settle();
    assert_eq!(host.kernel.sysctls[&Sysctl::AcceptRa("virbr0".into())], "1", "it is no uplink");
    host.ask(Command::Stop("island".into())).unwrap();
    host.ask(Command::Stop("dual".into())).unwrap();
    at_rest(&mut host);
    assert!(!host.records.contains_key(&crate::engine::RecordKey::Host), "{:?}", host.records);
    assert_eq!(host.kernel.sysctls[&Sysctl::Ipv6Forward], "0");
}

#[test]
fn nobody_takes_the_address_of_another_users_guest_by_giving_its_name() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    let twin = |uid, nic: &str| match attach("web", xml::read_nic(nic).unwrap()) {
        Command::Attach(attach) => Command::Attach(Box::new(Attach { uid, ..*attach })),
        other => panic!("{other:?}"),
    };
    let on_lab = "<interface type='network'><mac address='52:54:00:00:00:01'/><source network='lab'/></interface>";
    let nowhere = "<interface type='none'><mac address='52:54:00:00:00:01'/></interface>";
    host.ask(twin(0, on_lab)).unwrap();
    assert_eq!(host.ask(twin(1000, on_lab)).unwrap_err().kind, ErrorKind::InUse);
    let parked = nic(host.ask(twin(1000, nowhere)).unwrap().body);
    let moved = Command::Modify(parked.id, Box::new(nic_on("lab")), Default::default());
    assert_eq!(host.ask(moved).unwrap_err().kind, ErrorKind::InUse);
    host.ask(twin(0, on_lab)).unwrap();
}

#[test]
fn a_nic_does_not_drag_a_host_bridges_mtu_down() {
    let mut host = host();
    let bridge = host.add_link("br0", crate::plan::LinkKind::Bridge);
    let bridge = host.kernel.link(bridge).cloned().unwrap();
    host.tell(Input::Observed(Change::Link(bridge.index, Some(bridge))));
    host.settle();
    let with_mtu = |mtu: u32| {
        let text = format!("<interface type='bridge'><source bridge='br0'/><mtu size='{mtu}'/></interface>");
        attach("web", xml::read_nic(&text).unwrap())
    };
    let refused = host.ask(with_mtu(1400)).unwrap_err();
    assert_eq!((refused.kind, refused.field.as_deref()), (ErrorKind::InvalidArgument, Some("<mtu size>")));
    host.ask(with_mtu(9000)).unwrap();
}

#[test]
fn a_tap_gets_its_networks_mtu_back() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    host.ask(attach("web", nic_on("lab"))).unwrap();
    let mut tap = host.kernel.link_named("pct0").unwrap().clone();
    tap.mtu = 1300;
    host.kernel.set_link(tap.index, Some(tap.clone()));
    host.tell(Input::Observed(Change::Link(tap.index, Some(tap))));
    host.settle();
    assert_eq!(host.kernel.link_named("pct0").unwrap().mtu, 1500);
}

#[test]
fn a_bridge_that_was_made_just_now_is_looked_for_before_a_nic_is_refused() {
    use crate::plan::LinkKind;
    let mut host = host();
    host.settle();
    let nic = nic_in("br0");
    assert_eq!(host.ask(attach("web", nic.clone())).unwrap_err().kind, ErrorKind::NoDevice);
    // The kernel's announcement is still on its way.
    host.add_link("br0", LinkKind::Bridge);
    host.ask(attach("web", nic)).unwrap();
}

#[test]
fn a_nic_that_knows_a_networks_bridge_by_its_name_comes_back_with_it() {
    let mut host = host();
    let on_it = "<network><name>lan</name><forward mode='bridge'/><bridge name='virbr0'/></network>";
    for network in [nat("lab", 1), network(on_it)] {
        let name = network.name.to_string();
        host.ask(Command::Define(network)).unwrap();
        host.ask(Command::Start(name)).unwrap();
    }
    for nic in [nic_in("virbr0"), nic_on("lan")] {
        host.ask(attach("web", nic)).unwrap();
    }
    let plugged = |host: &Host| {
        let bridge = host.kernel.link_named("virbr0").map(|bridge| bridge.index);
        let taps = host.engine.intent().nics().filter_map(|nic| host.kernel.link_marked(MarkKind::Tap, nic.id));
        taps.filter(|tap| tap.controller.is_some() && tap.controller == bridge).count()
    };
    assert_eq!(plugged(&host), 2);
    host.ask(Command::Stop("lab".into())).unwrap();
    host.settle();
    assert_eq!(plugged(&host), 0);
    host.ask(Command::Start("lab".into())).unwrap();
    host.settle();
    assert_eq!(plugged(&host), 2);
}

#[test]
fn nobody_gets_between_a_network_and_its_uuid_by_a_name() {
    let mut host = host();
    host.ask(Command::Define(nat("lab", 1))).unwrap();
    let show = |host: &mut Host, name: &str| match host.ask(Command::ShowNetwork(name.to_owned())).unwrap().body {
        Body::Network(view) => view,
        other => panic!("{other:?}"),
    };
    let uuid = show(&mut host, "lab").uuid.to_string();
    host.ask(Command::Define(nat(&uuid, 2))).unwrap();
    assert_eq!(show(&mut host, &uuid).name, "lab");
}

#[test]
fn a_tap_that_is_made_anew_is_told_of_as_what_it_is() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    let web = nic(host.ask(attach("web", nic_on("lab"))).unwrap().body);
    let tap = host.kernel.link_marked(MarkKind::Tap, web.id).unwrap().index;
    host.remove_link(tap);
    host.tell(Input::Observed(Change::Link(tap, None)));
    at_rest(&mut host);
    assert!(host.kernel.link_marked(MarkKind::Tap, web.id).is_some());
    let told = |e: &Event| matches!(e, Event::Drift { what, repaired: false, .. } if what.contains("cut off"));
    assert_eq!(host.events.iter().filter(|e| told(e)).count(), 1, "{:?}", host.events);
    // One that nobody had fetched goes with the daemon, and nobody is cut off.
    let Command::Attach(mut idle) = attach("idle", nic_on("lab")) else { unreachable!() };
    idle.handover = Handover::Descriptor;
    let idle = nic(host.ask(Command::Attach(idle)).unwrap().body);
    host.events.clear();
    host.crash();
    assert!(host.kernel.link_marked(MarkKind::Tap, idle.id).is_none());
    at_rest(&mut host);
    assert!(host.kernel.link_marked(MarkKind::Tap, idle.id).is_some());
    assert!(!host.events.iter().any(told), "{:?}", host.events);
}

#[test]
fn a_tap_that_others_rename_is_shown_as_it_is_called() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    let web = nic(host.ask(attach("web", nic_on("lab"))).unwrap().body);
    let tap = host.kernel.link_marked(MarkKind::Tap, web.id).unwrap();
    let tap = crate::plan::Link { name: "web0".into(), ..tap.clone() };
    host.kernel.set_link(tap.index, Some(tap.clone()));
    host.tell(Input::Observed(Change::Link(tap.index, Some(tap))));
    host.settle();
    assert_eq!(nic(host.ask(Command::ShowNic(web.id)).unwrap().body).tap.as_deref(), Some("web0"));
}

#[test]
fn a_definition_keeps_its_bridge_whatever_the_network_has_for_the_time_being() {
    let mut host = host();
    host.ask(Command::Define(nat("lab", 1))).unwrap();
    host.ask(Command::Start("lab".into())).unwrap();
    let update = Command::Update {
        network: "lab".into(),
        command: UpdateCommand::Modify,
        section: UpdateSection::Bridge,
        parent: None,
        xml: "<bridge name='brlive'/>".into(),
        live: true,
        config: false,
    };
    host.ask(update).unwrap();
    host.ask(Command::Define(nat("lab", 1))).unwrap();
    assert!(host.records[&RecordKey::Definition("lab".into())].contains("name='virbr0'"), "{:?}", host.records);
    assert!(host.kernel.link_named("brlive").is_some());
    at_rest(&mut host);
}

#[test]
fn a_nic_that_does_not_go_with_its_network_any_more_says_so() {
    let mut host = host();
    let lab = |portgroup: &str| {
        network(&format!(
            "<network><name>lab</name><portgroup name='{portgroup}'/><ip address='10.0.1.1' prefix='24'/></network>"
        ))
    };
    host.ask(Command::Define(lab("staff"))).unwrap();
    host.ask(Command::Start("lab".into())).unwrap();
    let text = "<interface type='network'><source network='lab' portgroup='staff'/></interface>";
    let web = nic(host.ask(attach("web", xml::read_nic(text).unwrap())).unwrap().body);
    host.ask(Command::Stop("lab".into())).unwrap();
    host.ask(Command::Define(lab("guests"))).unwrap();
    host.ask(Command::Start("lab".into())).unwrap();
    let web = nic(host.ask(Command::ShowNic(web.id)).unwrap().body);
    assert_eq!(web.state, NicState::Waiting);
    assert!(web.cause.is_some_and(|cause| cause.contains("portgroup that is gone")), "{web:?}");
    at_rest(&mut host);
}

#[test]
fn the_live_document_says_what_a_nic_has_and_not_what_it_asked_for() {
    let mut host = host();
    let isolated = "<network><name>lab</name><ip address='10.0.1.1' prefix='24'/><port isolated='yes'/></network>";
    host.ask(Command::Create(network(isolated))).unwrap();
    let text = "<interface type='network'><source network='lab'/><port isolated='no'/></interface>";
    let Command::Attach(mut wanted) = attach("web", xml::read_nic(text).unwrap()) else { unreachable!() };
    wanted.precedence = crate::merge::Precedence::Host;
    let web = nic(host.ask(Command::Attach(wanted)).unwrap().body);
    let Body::Xml(live) = host.ask(Command::NicXml { id: web.id, inactive: false }).unwrap().body else { panic!() };
    assert!(live.contains("<port isolated='yes'/>"), "{live}");
}

#[test]
fn an_update_of_both_sides_says_which_of_them_is_in_the_way() {
    let mut host = host();
    host.ask(Command::Define(nat("lab", 1))).unwrap();
    host.ask(Command::Start("lab".into())).unwrap();
    let update = |live, config| Command::Update {
        network: "lab".into(),
        command: if live && config { UpdateCommand::Delete } else { UpdateCommand::AddLast },
        section: UpdateSection::IpDhcpHost,
        parent: None,
        xml: "<host mac='52:54:00:00:00:01' ip='10.0.1.7'/>".into(),
        live,
        config,
    };
    for (live, side) in [(true, "definition"), (false, "what runs")] {
        host.ask(update(live, !live)).unwrap();
        let error = host.ask(update(true, true)).unwrap_err();
        assert!(error.hint.as_ref().is_some_and(|hint| hint.contains(side)), "{error:?}");
        host.ask(Command::Stop("lab".into())).unwrap();
        host.ask(Command::Start("lab".into())).unwrap();
    }
}
