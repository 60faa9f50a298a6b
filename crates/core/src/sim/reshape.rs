//! Networks of which a whole part changes while they run: bridge, domain, addresses, where they forward to.

use super::Host;
use super::hostdev::on_functions;
use super::ports::{made, port, tap};
use super::tests::{at_rest, attach, host, nat, network, nic, nic_in, nic_on, on_devices};
use crate::engine::{Answer, Command, Input, NicState};
use crate::model::{UpdateCommand as Do, UpdateSection as In};
use crate::plan::{Change, Link, LinkKind, MarkKind, Op};
use crate::{ErrorKind, Result};

/// Changes the active instance of network `lab`.
fn change(host: &mut Host, command: Do, section: In, parent: Option<u32>, xml: &str) -> Result<Answer> {
    let (network, xml) = ("lab".into(), xml.into());
    host.ask(Command::Update { network, command, section, parent, xml, live: true, config: false })
}

/// What the last plan did.
fn steps(host: &Host) -> String {
    host.last_plan.steps.iter().map(|step| format!("{}\n", step.op)).collect()
}

fn in_use() -> Host {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    nic(host.ask(attach("web", nic_on("lab"))).unwrap().body);
    at_rest(&mut host);
    host
}

#[test]
fn an_address_more_is_an_address_more() {
    let mut host = in_use();
    change(&mut host, Do::AddLast, In::Ip, None, "<ip family='ipv6' address='fd00::1' prefix='64'/>").unwrap();
    let told = steps(&host);
    assert!(told.contains("ip addr add fd00::1/64"), "{told}");
    assert!(!told.contains("addr del") && !told.contains("10.0.1"), "what was there stays: {told}");
    at_rest(&mut host);
    host.crash();
    host.settle();
    at_rest(&mut host);
}

#[test]
fn an_address_that_guests_have_stays() {
    let mut host = in_use();
    let cut_off = [
        (Do::Delete, "<ip address='10.0.1.1'/>"),
        (Do::Modify, "<ip address='10.0.1.1' prefix='16'/>"),
        (Do::Modify, "<ip address='10.0.2.1' prefix='24'/>"),
    ];
    for (command, xml) in cut_off {
        change(&mut host, Do::AddLast, In::Ip, None, "<ip address='10.9.9.1' prefix='24'/>").unwrap();
        let refused = change(&mut host, command, In::Ip, Some(0), xml).unwrap_err();
        assert_eq!(
            (refused.kind, refused.field.as_deref()),
            (ErrorKind::NeededByNics, Some("<ip address>")),
            "{refused}"
        );
        assert!(refused.to_string().contains("guest 'web'"), "it names who: {refused}");
        at_rest(&mut host);
        let no_nics_there = change(&mut host, Do::Delete, In::Ip, None, "<ip address='10.9.9.1' prefix='24'/>");
        // Nobody can say which of the subnets a guest has.
        assert_eq!(no_nics_there.unwrap_err().kind, ErrorKind::NeededByNics);
        let id = host.engine.intent().nics().next().unwrap().id;
        host.ask(Command::Detach(id)).unwrap();
        change(&mut host, Do::Delete, In::Ip, None, "<ip address='10.9.9.1' prefix='24'/>").unwrap();
        at_rest(&mut host);
        host.ask(attach("web", nic_on("lab"))).unwrap();
    }
    // What its <dhcp> says is another matter.
    change(&mut host, Do::Modify, In::Ip, Some(0), "<ip address='10.0.1.1' netmask='255.255.255.0'/>").unwrap();
    at_rest(&mut host);
}

#[test]
fn an_address_is_another_where_nobody_is() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    change(&mut host, Do::AddLast, In::Ip, None, "<ip family='ipv6' address='fd00::1' prefix='64'/>").unwrap();
    // In one subnet the kernel would take the new one away with the old.
    change(&mut host, Do::Modify, In::Ip, Some(0), "<ip address='10.0.1.254' prefix='24'/>").unwrap();
    assert!(steps(&host).starts_with("ip addr del 10.0.1.1/24"), "{}", steps(&host));
    at_rest(&mut host);
    change(&mut host, Do::Delete, In::Ip, Some(1), "<ip family='ipv6' address='fd00::1'/>").unwrap();
    at_rest(&mut host);
    let refused = change(&mut host, Do::Delete, In::Ip, Some(0), "<ip address='10.0.1.254'/>").unwrap_err();
    assert!(refused.to_string().contains("needs an address"), "{refused}");
    at_rest(&mut host);
}

#[test]
fn guests_are_plugged_into_the_bridge_of_another_name() {
    let mut host = in_use();
    let before = host.kernel.link_marked(MarkKind::Tap, host.engine.intent().nics().next().unwrap().id).cloned();
    change(&mut host, Do::Modify, In::Bridge, None, "<bridge name='swan' delay='2'/>").unwrap();
    at_rest(&mut host);
    let id = host.engine.intent().nics().next().unwrap().id;
    let tap = host.kernel.link_marked(MarkKind::Tap, id).cloned().unwrap();
    let swan = host.kernel.link_named("swan").unwrap();
    assert_eq!((Some(tap.index), tap.controller), (before.map(|tap| tap.index), Some(swan.index)));
    assert!(host.kernel.link_named("virbr0").is_none());
    // One that is there, or another network's, is not taken.
    host.ask(Command::Define(nat("other", 2))).unwrap();
    host.ask(Command::Update {
        network: "other".into(),
        command: Do::Modify,
        section: In::Bridge,
        parent: None,
        xml: "<bridge name='swan'/>".into(),
        live: false,
        config: true,
    })
    .unwrap_err();
    let refused = change(&mut host, Do::Modify, In::Bridge, None, "<bridge name='virbr0'/>").unwrap_err();
    assert!(refused.to_string().contains("belongs to network 'other'"), "{refused}");
    host.add_link("eth0", LinkKind::Other(String::new()));
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    change(&mut host, Do::Modify, In::Bridge, None, "<bridge name='eth0'/>").unwrap_err();
    at_rest(&mut host);
}

#[test]
fn a_mode_changes_what_the_host_does_and_no_guests_plug() {
    let mut host = in_use();
    for xml in ["<forward mode='route'/>", "<forward mode='open'/>", "<forward mode='nat' dev='eth0'/>"] {
        change(&mut host, Do::Modify, In::Forward, None, xml).unwrap();
        let plugs = |step: &crate::plan::Step| matches!(step.op, Op::SetLink(..) | Op::Doom(_) | Op::MakeBridge(_));
        assert!(!host.last_plan.steps.iter().any(plugs), "{}", steps(&host));
        at_rest(&mut host);
    }
    change(&mut host, Do::Delete, In::Forward, None, "<forward mode='nat'/>").unwrap();
    at_rest(&mut host);
    assert!(host.kernel.sysctls.values().all(|value| value != "1") || host.engine.intent().routed().v4 == 0);
    change(&mut host, Do::AddLast, In::Forward, None, "<forward mode='nat'/>").unwrap();
    at_rest(&mut host);
    let refused = change(&mut host, Do::Modify, In::Forward, None, "<forward mode='bridge'/>").unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unsupported, "{refused}");
    at_rest(&mut host);
}

#[test]
fn guests_on_devices_keep_theirs() {
    let mut host = host();
    for name in ["eth0", "eth1", "eth2"] {
        host.add_link(name, LinkKind::Other(String::new()));
    }
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    host.ask(Command::Create(on_devices("lab", "vepa", &["eth0", "eth1"]))).unwrap();
    let web = nic(host.ask(attach("web", nic_on("lab"))).unwrap().body);
    assert_eq!(web.dev.as_deref(), Some("eth0"));
    // Another list, with its device in it.
    let xml = "<forward mode='vepa'><interface dev='eth2'/><interface dev='eth0'/></forward>";
    change(&mut host, Do::Modify, In::Forward, None, xml).unwrap();
    let refused = change(&mut host, Do::Modify, In::Forward, None, "<forward mode='vepa' dev='eth1'/>").unwrap_err();
    assert!(refused.to_string().contains("guest 'web' has eth0"), "{refused}");
    let refused = change(&mut host, Do::Modify, In::Forward, None, &xml.replace("vepa", "private")).unwrap_err();
    assert_eq!(
        (refused.kind, refused.field.as_deref()),
        (ErrorKind::NeededByNics, Some("<forward mode>")),
        "{refused}"
    );
    at_rest(&mut host);
    host.ask(Command::Detach(web.id)).unwrap();
    change(&mut host, Do::Modify, In::Forward, None, &xml.replace("vepa", "private")).unwrap();
    assert_eq!(nic(host.ask(attach("web", nic_on("lab"))).unwrap().body).state, NicState::Plugged);
    at_rest(&mut host);
}

#[test]
fn a_pool_of_functions_is_another_devices() {
    let mut host = host();
    for name in ["eth4", "eth5", "ethv0", "ethv1"] {
        host.add_link(name, LinkKind::Other(String::new()));
    }
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    host.set_all_functions(&[("eth4", &[(0, Some("ethv0"))]), ("eth5", &[(1, Some("ethv1"))])]);
    host.ask(Command::Create(on_functions("lab", "passthrough"))).unwrap();
    // Other parts change while the functions that were found are listed.
    change(&mut host, Do::AddLast, In::Portgroup, None, "<portgroup name='a'/>").unwrap();
    let web = nic(host.ask(attach("web", nic_on("lab"))).unwrap().body);
    assert_eq!(web.dev.as_deref(), Some("ethv0"));
    let refused = change(&mut host, Do::Modify, In::ForwardPf, None, "<pf dev='eth5'/>").unwrap_err();
    assert!(refused.to_string().contains("guest 'web' has ethv0"), "{refused}");
    host.ask(Command::Detach(web.id)).unwrap();
    change(&mut host, Do::Modify, In::ForwardPf, None, "<pf dev='eth5'/>").unwrap();
    let web = nic(host.ask(attach("web", nic_on("lab"))).unwrap().body);
    assert_eq!(web.dev.as_deref(), Some("ethv1"));
    at_rest(&mut host);
}

#[test]
fn a_domain_is_dnsmasqs_affair() {
    let mut host = in_use();
    let plan = host.last_plan.clone();
    change(&mut host, Do::AddLast, In::Domain, None, "<domain name='a.test'/>").unwrap();
    assert_eq!(host.last_plan, plan, "nothing in the kernel");
    change(&mut host, Do::Modify, In::Domain, None, "<domain name='b.test' localOnly='yes'/>").unwrap();
    change(&mut host, Do::Delete, In::Domain, None, "<domain name='b.test'/>").unwrap();
    at_rest(&mut host);
}

#[test]
fn a_host_bridge_is_another_and_its_guests_go_there() {
    let mut host = host();
    for name in ["br0", "br1"] {
        host.add_link(name, LinkKind::Bridge);
    }
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    let lab = "<network><name>lab</name><forward mode='bridge'/><bridge name='br0'/></network>";
    host.ask(Command::Create(network(lab))).unwrap();
    let web = nic(host.ask(attach("web", nic_on("lab"))).unwrap().body);
    change(&mut host, Do::Modify, In::Bridge, None, "<bridge name='br1'/>").unwrap();
    let bridge = |host: &mut Host| nic(host.ask(Command::ShowNic(web.id)).unwrap().body).bridge;
    assert_eq!(bridge(&mut host).as_deref(), Some("br1"));
    at_rest(&mut host);
    let refused = change(&mut host, Do::Modify, In::Bridge, None, "<bridge name='br2'/>").unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NoDevice);
    assert_eq!(bridge(&mut host).as_deref(), Some("br1"));
    at_rest(&mut host);
}

/// A network with a zone, rates, and a guest.
fn with_zone_and_rates() -> Host {
    let mut host = host();
    let lab = "<network><name>lab</name><forward mode='nat'/><bridge name='br7' zone='trusted'/>
         <bandwidth><inbound average='1000'/><outbound average='500'/></bandwidth>
         <ip address='10.0.1.1' prefix='24'/><ip family='ipv6' address='fd00::1' prefix='64'/>
         <route address='10.77.0.0' prefix='16' gateway='10.0.1.7'/></network>";
    host.ask(Command::Create(network(lab))).unwrap();
    host.ask(attach("web", nic_on("lab"))).unwrap();
    at_rest(&mut host);
    host
}

#[test]
fn nothing_is_left_in_a_zone_under_a_name_that_is_free() {
    let mut host = with_zone_and_rates();
    let zones =
        |host: &Host| host.zone_of.iter().map(|(_, bridge, zone)| format!("{bridge} {zone}")).collect::<Vec<_>>();
    change(&mut host, Do::Modify, In::Bridge, None, "<bridge name='swan' zone='trusted'/>").unwrap();
    assert_eq!(zones(&host), ["swan trusted"]);
    change(&mut host, Do::Modify, In::Bridge, None, "<bridge name='br7'/>").unwrap();
    assert_eq!(zones(&host), Vec::<String>::new());
    at_rest(&mut host);
}

#[test]
fn a_bridge_that_cannot_be_made_leaves_the_one_that_was() {
    let mut refused = 0;
    loop {
        let mut host = with_zone_and_rates();
        let before = host.engine.intent().networks().next().unwrap().1.clone();
        host.refuse_after = Some(refused);
        let answer = change(&mut host, Do::Modify, In::Bridge, None, "<bridge name='swan'/>");
        if host.refuse_after.take().is_some() {
            assert!(answer.is_ok() && refused > 10, "all steps were carried out");
            return;
        }
        // Some of them are a guest's, who is looked at again.
        if answer.is_err() {
            assert_eq!(host.engine.intent().networks().next().unwrap().1, &before);
            assert!(host.kernel.link_named("br7").is_some(), "step {refused}: it is back before that is answered");
        }
        at_rest(&mut host);
        refused += 1;
    }
}

#[test]
fn guests_that_know_a_bridge_by_its_name_keep_it() {
    let mut host = in_use();
    let db = nic(host.ask(attach("db", nic_in("virbr0"))).unwrap().body);
    assert_eq!(db.state, NicState::Plugged);
    let refused = change(&mut host, Do::Modify, In::Bridge, None, "<bridge name='swan'/>").unwrap_err();
    assert_eq!((refused.kind, refused.field.as_deref()), (ErrorKind::NeededByNics, Some("<bridge name>")), "{refused}");
    assert!(refused.to_string().contains("guest 'db' would") && !refused.to_string().contains("'web'"), "{refused}");
    at_rest(&mut host);
    change(&mut host, Do::Modify, In::Bridge, None, "<bridge delay='2'/>").unwrap();
    let web = host.engine.intent().nics().find(|nic| nic.id != db.id).unwrap().id;
    host.ask(Command::Detach(web)).unwrap();
    let other = "<ip address='10.0.7.1' prefix='24'/>";
    let refused = change(&mut host, Do::Modify, In::Ip, Some(0), other).unwrap_err();
    assert_eq!((refused.kind, refused.field.as_deref()), (ErrorKind::NeededByNics, Some("<ip address>")), "{refused}");
    host.ask(Command::Detach(db.id)).unwrap();
    change(&mut host, Do::Modify, In::Ip, Some(0), other).unwrap();
    // Nor are others' ports left behind.
    let veth = host.add_link("veth7", LinkKind::Other("veth".into()));
    let controller = host.kernel.link_named("virbr0").map(|bridge| bridge.index);
    let port = |controller| Link { controller, ..host.kernel.link(veth).unwrap().clone() };
    let [inside, outside] = [port(controller), port(None)];
    for (link, ends_well) in [(inside, false), (outside, true)] {
        host.kernel.set_link(veth, Some(link.clone()));
        host.tell(Input::Observed(Change::Link(veth, Some(link))));
        let answer = change(&mut host, Do::Modify, In::Bridge, None, "<bridge name='swan'/>");
        assert_eq!(answer.is_ok(), ends_well);
        assert!(answer.err().is_none_or(|refused| refused.cause.ends_with("cut off: veth7")));
    }
    at_rest(&mut host);
}

#[test]
fn libvirts_guests_go_to_another_host_bridge() {
    let mut host = host();
    for name in ["br0", "br1", "br2"] {
        host.add_link(name, LinkKind::Bridge);
    }
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    let lab = "<network><name>lab</name><forward mode='bridge'/><bridge name='br0'/></network>";
    host.ask(Command::Create(network(lab))).unwrap();
    made(&mut host, port(1, 7, "lab", None));
    let tap = tap(&mut host, Some("br0"));
    let is_in = |host: &Host, bridge: &str| {
        let controller = host.kernel.link(tap).and_then(|link| link.controller);
        assert_eq!(controller, host.kernel.link_named(bridge).map(|link| link.index), "{bridge}");
    };
    change(&mut host, Do::Modify, In::Bridge, None, "<bridge name='br1'/>").unwrap();
    is_in(&host, "br1");
    at_rest(&mut host);
    // Where others put it since, it stays.
    let elsewhere =
        Link { controller: host.kernel.link_named("br2").map(|l| l.index), ..host.kernel.link(tap).unwrap().clone() };
    host.kernel.set_link(tap, Some(elsewhere.clone()));
    host.tell(Input::Observed(Change::Link(tap, Some(elsewhere))));
    change(&mut host, Do::Modify, In::Bridge, None, "<bridge name='br0'/>").unwrap();
    is_in(&host, "br2");
}

#[test]
fn a_guests_device_keeps_its_driver() {
    let mut host = host();
    host.add_link("eth4", LinkKind::Other(String::new()));
    host.tell(Input::Observed(Change::Snapshot(Box::new(host.kernel.clone()))));
    host.set_functions("eth4", &[(0, None)]);
    let forward = |managed: &str, driver: &str| {
        format!("<forward mode='hostdev' managed='{managed}'>{driver}<pf dev='eth4'/></forward>")
    };
    let lab = format!("<network><name>lab</name>{}</network>", forward("yes", ""));
    host.ask(Command::Create(network(&lab))).unwrap();
    let web = nic(host.ask(attach("web", nic_on("lab"))).unwrap().body);
    for other in [forward("no", ""), forward("yes", "<driver name='kvm'/>")] {
        let refused = change(&mut host, Do::Modify, In::Forward, None, &other).unwrap_err();
        assert_eq!(
            (refused.kind, refused.field.as_deref()),
            (ErrorKind::NeededByNics, Some("<forward managed>")),
            "{refused}"
        );
        assert!(refused.to_string().contains("guest 'web'"), "{refused}");
    }
    change(&mut host, Do::Modify, In::Forward, None, &forward("yes", "<driver name='vfio'/>")).unwrap();
    host.ask(Command::Detach(web.id)).unwrap();
    change(&mut host, Do::Modify, In::Forward, None, &forward("no", "")).unwrap();
    at_rest(&mut host);
}

/// For a random network of that number: another bridge, domain, address, mode, or list of devices.
pub(super) fn reshape(network: &str, n: u8, part: u8, (live, config): (bool, bool)) -> Command {
    use Do::{AddLast, Delete, Modify};
    use In::{Bridge, Domain, Forward, Ip};
    let six = format!("<ip family='ipv6' address='fd00:{n}::1' prefix='64'/>");
    let (command, section, xml) = match (n, part) {
        (3, 0..4) => (Modify, Forward, "<forward mode='vepa'><interface dev='eth1'/></forward>".into()),
        (3, _) => (Modify, Forward, "<forward mode='private'><interface dev='eth0'/></forward>".into()),
        (4, _) => (Modify, Forward, "<forward mode='passthrough'><interface dev='eth3'/></forward>".into()),
        (5, _) => (Modify, Bridge, format!("<bridge name='ovsbr{}'/>", part % 2)),
        (_, 0) => (AddLast, Ip, six),
        (_, 1) => (Delete, Ip, six),
        (_, 2) => (Modify, Ip, format!("<ip address='10.0.{n}.1' netmask='255.255.0.0'/>")),
        (_, 3) => (Modify, Bridge, format!("<bridge name='swan{n}' stp='off'/>")),
        (_, 4) => (Modify, Bridge, format!("<bridge name='virbr{}'/>", n % 2)),
        (_, 5) => (Modify, Forward, "<forward mode='route'/>".into()),
        (_, 6) => (Delete, Forward, "<forward/>".into()),
        (_, 7) => (AddLast, Forward, "<forward mode='nat'/>".into()),
        (_, _) => (AddLast, Domain, "<domain name='a.test'/>".into()),
    };
    Command::Update { network: network.to_owned(), command, section, parent: None, xml, live, config }
}

#[test]
fn a_nic_moves_to_a_network_that_is_starting_once_it_has_started_or_not_at_all() {
    for fails in [false, true] {
        let mut host = host();
        host.ask(Command::Create(nat("lab", 1))).unwrap();
        host.ask(Command::Define(nat("next", 2))).unwrap();
        let web = nic(host.ask(attach("web", nic_on("lab"))).unwrap().body);
        host.full.services = fails;
        let start = host.request(Command::Start("next".into()));
        let modify = host.request(Command::Modify(web.id, Box::new(nic_on("next")), Default::default()));
        host.settle();
        assert_eq!(host.replies[&start].is_err(), fails);
        match host.replies.remove(&modify).unwrap() {
            Ok(answer) => assert_eq!((fails, nic(answer.body).state), (false, NicState::Plugged)),
            Err(error) => assert!(fails && error.to_string().contains("network 'next' is not active"), "{error}"),
        }
        let view = nic(host.ask(Command::ShowNic(web.id)).unwrap().body);
        assert_eq!(
            (view.state, view.network.as_deref()),
            (NicState::Plugged, Some(if fails { "lab" } else { "next" }))
        );
        assert_eq!(host.check(), [""; 0]);
    }
}

#[test]
fn nics_come_back_with_their_network_when_a_change_fails() {
    type Failure = fn(&mut Host);
    // So that even what was before can't be had at once, and so that it can.
    let no_dnsmasq: Failure = |host| host.full.services = true;
    let one_step: Failure = |host| host.refuse_after = Some(0);
    for (fails, steps) in [no_dnsmasq, one_step].into_iter().flat_map(|fails| (0..60).map(move |steps| (fails, steps)))
    {
        let mut host = in_use();
        let (network, xml) = ("lab".into(), "<bridge name='swan'/>".into());
        let update = host.request(Command::Update {
            network,
            command: Do::Modify,
            section: In::Bridge,
            parent: None,
            xml,
            live: true,
            config: false,
        });
        for _ in 0..steps {
            host.step();
        }
        // Others take away what it made.
        if let Some(bridge) = host.kernel.link_named("swan").map(|link| link.index) {
            host.remove_link(bridge);
            host.tell(Input::Observed(Change::Link(bridge, None)));
        }
        fails(&mut host);
        host.settle();
        (host.full.services, host.refuse_after) = (false, None);
        host.settle_with_clock();
        assert!(host.replies.contains_key(&update), "after {steps} steps");
        assert_eq!(host.check(), [""; 0], "after {steps} steps");
    }
}
