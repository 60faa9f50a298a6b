//! What libvirt's files come to.

use super::*;

const UUID: &str = "2073f403-bca6-40a6-8b64-0ba2977708dc";
const PORT: &str = "11111111-2222-3333-4444-555555555555";

fn network(name: &str, uuid: &str) -> String {
    format!(
        "<network><name>{name}</name>{uuid}<forward mode='nat'/><bridge name='virbr0' stp='on' delay='0'/>\
         <mac address='52:54:00:18:6f:74'/><ip address='192.168.122.1' netmask='255.255.255.0'/></network>"
    )
}

fn with_uuid(name: &str) -> String {
    network(name, &format!("<uuid>{UUID}</uuid>"))
}

fn active(name: &str) -> String {
    format!("<networkstatus><class_id bitmap='0-2'/><floor sum='0'/>{}</networkstatus>", with_uuid(name))
}

fn port_file(uuid: &str) -> String {
    format!(
        "<networkport><uuid>{uuid}</uuid><owner><name>web</name><uuid>aaaaaaaa-2222-3333-4444-555555555555</uuid>\
         </owner><mac address='52:54:00:00:00:07'/><plug type='network' bridge='virbr0'/></networkport>"
    )
}

fn files(of: &[(&str, String)]) -> BTreeMap<String, String> {
    of.iter().map(|(stem, text)| ((*stem).to_owned(), text.clone())).collect()
}

fn only(found: &Found) -> Candidate {
    let mut all = survey(found);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

#[test]
fn a_network_is_what_its_files_say_together() {
    let found = Found {
        definitions: files(&[("default", with_uuid("default"))]),
        autostart: BTreeSet::from(["default".into(), "gone".into()]),
        active: files(&[("default", active("default"))]),
        ports: BTreeMap::from([("default".into(), files(&[(PORT, port_file(PORT))]))]),
    };
    let whole = only(&found);
    let adoption = whole.adoption.unwrap();
    assert!(adoption.autostart && adoption.definition.is_some());
    assert_eq!(adoption.active.unwrap().uuid.unwrap().to_string(), UUID);
    assert_eq!(whole.ports[0].as_ref().unwrap().owner.as_str(), "web");

    let stopped = only(&Found { active: files(&[]), ..found.clone() }).adoption.unwrap();
    assert_eq!((stopped.autostart, stopped.active), (true, None));
    let transient = only(&Found { definitions: files(&[]), ..found }).adoption.unwrap();
    assert_eq!((transient.autostart, transient.definition), (false, None));
}

#[test]
fn files_that_contradict_each_other_are_refused_by_name() {
    let other = with_uuid("default").replace(UUID, "2073f403-bca6-40a6-8b64-0ba2977708dd");
    for (definition, running, says) in [
        (with_uuid("lab"), None, "its file is about network 'lab'"),
        (network("default", ""), None, "it has no <uuid>"),
        (other, Some(active("default")), "another <uuid>"),
        ("<network>".to_owned(), None, ""),
        (with_uuid("default"), Some(with_uuid("default")), ""),
    ] {
        let found = Found {
            definitions: files(&[("default", definition.clone())]),
            active: running.into_iter().map(|text| ("default".to_owned(), text)).collect(),
            ..Found::default()
        };
        let error = only(&found).adoption.unwrap_err();
        assert!(error.to_string().contains(says), "{definition}: {error}");
    }
    let found = Found {
        definitions: files(&[("default", with_uuid("default"))]),
        ports: BTreeMap::from([("default".into(), files(&[("other", port_file(PORT)), (PORT, "<x/>".into())]))]),
        ..Found::default()
    };
    assert!(only(&found).ports.iter().all(Result::is_err));
}

#[test]
fn a_port_is_claimed_back_as_it_was() {
    let port = xml::read_networkport(&port_file(PORT), Mode::Lenient).unwrap();
    let attach = attach(&Name::new("default").unwrap(), port.clone()).unwrap();
    assert_eq!(attach.port.unwrap(), PortAttach { id: PORT.parse().unwrap(), plug: port.plug.clone() });
    assert_eq!((attach.nic.mac, attach.guest.as_str()), (Some(port.mac), "web"));
    let without = NetworkPort { uuid: None, ..port };
    assert!(super::attach(&Name::new("default").unwrap(), without).is_err());
}

#[test]
fn what_is_handed_back_reads_as_what_came() {
    let (definition, port) = (with_uuid("default"), port_file(PORT));
    let handed = hand_back(Some(&definition), Some(&definition), std::slice::from_ref(&port)).unwrap();
    let found = Found {
        definitions: files(&[("default", handed.definition.clone().unwrap())]),
        active: files(&[("default", handed.active.unwrap())]),
        ports: BTreeMap::from([("default".into(), handed.ports)]),
        ..Found::default()
    };
    let again = only(&found);
    let adoption = again.adoption.unwrap();
    assert_eq!(adoption.definition, adoption.active);
    assert_eq!(again.ports[0], xml::read_networkport(&port, Mode::Lenient));
    assert!(is_same(&definition, &handed.definition.unwrap()));
    assert!(!is_same(&definition, &definition.replace("192.168.122.1", "192.168.123.1")));
    assert!(!is_same("<x/>", "<x/>"));
}
