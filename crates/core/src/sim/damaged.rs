//! Records that can't be read, and those that somebody wrote by hand.

use super::Host;
use super::tests::{attach, host, nat, nic, nic_on};
use crate::ErrorKind;
use crate::engine::{Body, Command, Event, Input, RecordKey};
use crate::model::Name;
use crate::plan::{Change, Sysctl};

#[test]
fn definitions_written_by_hand_are_finished_and_wrong_ones_left_alone() {
    let mut host = host();
    let record = |host: &mut Host, stem: &str, text: &str| {
        host.records.insert(RecordKey::Definition(stem.into()), text.into());
    };
    let distribution = "<network><name>default</name><bridge name='virbr0'/><forward/>
        <ip address='192.168.122.1' netmask='255.255.255.0'><dhcp>
        <range start='192.168.122.2' end='192.168.122.254'/></dhcp></ip></network>";
    record(&mut host, "default", distribution);
    record(&mut host, "copy", "<network><name>other</name></network>");
    record(&mut host, "torn", "<network><name>torn</na");
    host.records.insert(RecordKey::Autostart("default".into()), String::new());
    host.crash();
    host.settle();
    let uuid = host.engine.intent().named(&Name::new("default").unwrap()).unwrap();
    assert!(host.engine.intent().network(uuid).unwrap().active.is_some());
    assert!(host.records[&RecordKey::Definition("default".into())].contains(&uuid.to_string()));
    assert_eq!(host.engine.intent().networks().count(), 1);
    let told = |what: &str| host.events.iter().any(|e| format!("{e:?}").contains(what));
    assert!(told("copy.xml") && told("torn.xml"), "{:?}", host.events);
    host.crash();
    host.settle();
    assert_eq!(host.engine.intent().named(&Name::new("default").unwrap()), Some(uuid), "it keeps what it was given");
}

#[test]
fn what_a_network_with_a_damaged_record_needs_stays() {
    let mut host = host();
    host.ask(Command::Define(nat("lab", 1))).unwrap();
    host.ask(Command::Start("lab".into())).unwrap();
    host.ask(Command::Create(nat("fleeting", 2))).unwrap();
    host.ask(Command::Create(nat("fine", 3))).unwrap();
    for name in ["lab", "fleeting"] {
        let record = RecordKey::Network(name.into());
        host.records.insert(record, "<networkstatus format='1'".into());
    }
    host.crash();
    host.settle();
    // A third party touches the bridges, and the last network that is known to need forwarding stops.
    for name in ["virbr0", "virbr1"] {
        let mut link = host.kernel.link_named(name).unwrap().clone();
        link.up = false;
        host.kernel.set_link(link.index, Some(link.clone()));
        host.tell(Input::Observed(Change::Link(link.index, Some(link))));
    }
    host.settle();
    host.ask(Command::Stop("fine".into())).unwrap();
    host.settle();
    let bridges: Vec<_> = host.kernel.links().filter(|l| !l.is_doomed()).map(|l| l.name.as_str()).collect();
    assert_eq!(bridges, ["virbr0", "virbr1"]);
    assert_eq!(host.kernel.sysctls[&Sysctl::Ipv4Forward], "1");
    assert_eq!(host.kernel.services.len(), 2, "their dnsmasq serves on");
    let Body::Network(lab) = host.ask(Command::ShowNetwork("lab".into())).unwrap().body else { panic!() };
    assert!(lab.active, "whatever is known of it, it runs");
}

#[test]
fn what_the_hosts_settings_were_is_not_written_over_while_it_cannot_be_read() {
    let mut host = host();
    let newer = "<hoststatus format='99'/>";
    host.records.insert(RecordKey::Host, newer.into());
    host.crash();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    assert_eq!(host.kernel.sysctls[&Sysctl::Ipv4Forward], "1", "guests get on");
    assert_eq!(host.records[&RecordKey::Host], newer);
    let told = |e: &Event| matches!(e, Event::Drift { object, what, .. } if object.contains("host.xml") && what.contains("left as it is"));
    assert!(host.events.iter().any(told), "{:?}", host.events);
    host.ask(Command::Stop("lab".into())).unwrap();
    assert_eq!(host.kernel.sysctls[&Sysctl::Ipv4Forward], "0", "what this daemon changed it puts back");
    assert_eq!(host.records[&RecordKey::Host], newer);
}

#[test]
fn a_nic_whose_record_cannot_be_read_is_there_all_the_same() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    let web = nic(host.ask(attach("web", nic_on("lab"))).unwrap().body);
    host.records.insert(RecordKey::Nic(web.id), "<nicstatus".into());
    host.crash();
    for command in [Command::ShowNic(web.id), Command::Detach(web.id)] {
        assert_eq!(host.ask(command).unwrap_err().kind, ErrorKind::InvalidState);
    }
    assert!(host.kernel.link_named("pct0").is_some());
}
