//! The interface's text says what the types say.

#![allow(clippy::unwrap_used)]

use patchcord_api::error::Refusal;
use patchcord_api::event::{Event, Monitored};
use patchcord_api::message::service;
use patchcord_api::methods::*;
use patchcord_api::{
    Actual, DESCRIPTION, Device, DeviceHolder, DeviceNetwork, INTERFACE, ImportedNetwork, Lease, Network, Nic, Owner,
    Reservation,
};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use zlink_idl::{CustomType, Field, Interface, Type};

/// Types of the text by name; enums are their members.
type Types<'a> = BTreeMap<&'a str, &'a CustomType<'a>>;

fn nic() -> Nic {
    let s = |text: &str| Some(text.to_owned());
    Nic {
        id: "1".into(),
        guest: "g".into(),
        guest_uuid: s("u"),
        mac: s("m"),
        state: "plugged".into(),
        cause: s("c"),
        network: s("n"),
        portgroup: s("p"),
        tags: vec!["t".into()],
        actual: Actual {
            kind: "network".into(),
            bridge: s("b"),
            dev: s("d"),
            mode: s("m"),
            pci: s("0000:3b:02.1"),
            plug: s("cord"),
            node: s("n"),
            tap: s("t"),
            ifindex: Some(1),
            mtu: Some(1500),
        },
        queues: 1,
        owner: Some(Owner { pid: 1, start_time: 2 }),
        handover: "name".into(),
        uid: 0,
    }
}

fn network() -> Network {
    Network {
        name: "n".into(),
        uuid: "u".into(),
        active: true,
        persistent: true,
        autostart: true,
        mode: "nat".into(),
        bridge: Some("b".into()),
        addresses: vec!["a".into()],
        devices: vec!["d".into()],
        free_devices: Some(1),
        portgroups: vec!["p".into()],
        tags: vec!["t".into()],
        nics: 1,
        dnsmasq: Some(1),
        mtu: Some(1500),
    }
}

fn imported_network() -> ImportedNetwork {
    ImportedNetwork {
        name: "n".into(),
        uuid: Some("u".into()),
        done: false,
        cause: Some("c".into()),
        active: true,
        autostart: true,
        bridge: Some("b".into()),
        ports: 1,
        warnings: vec!["w".into()],
    }
}

fn lease() -> Lease {
    let s = |text: &str| Some(text.to_owned());
    Lease {
        network: "n".into(),
        mac: s("m"),
        ip: "i".into(),
        prefix: 24,
        hostname: s("h"),
        client_id: s("c"),
        iaid: Some(1),
        expires: Some(1),
        nic: s("1"),
    }
}

fn device() -> Device {
    let s = |text: &str| Some(text.to_owned());
    Device {
        name: "eth0".into(),
        present: true,
        kind: s(""),
        carrier: true,
        mtu: Some(1500),
        pf: s("eth0"),
        function: Some(1),
        networks: vec![DeviceNetwork { network: "n".into(), mode: "vepa".into() }],
        holders: vec![DeviceHolder { id: "i".into(), guest: "g".into(), network: s("n"), reserved: false }],
        exclusive: false,
        free: "shared".into(),
        unusable: s("u"),
    }
}

fn event() -> Event {
    let s = |text: &str| Some(text.to_owned());
    Event {
        kind: "network".into(),
        what: "started".into(),
        network: s("n"),
        uuid: s("u"),
        tags: Some(vec!["t".into()]),
        nic: Some(nic()),
        lease: Some(lease()),
        device: s("d"),
        networks: Some(vec!["n".into()]),
        object: s("o"),
        cause: s("c"),
        culprit: s("c"),
    }
}

/// Complains unless `value` is what the text calls `wanted`, with every field that the text has.
fn agrees(types: &Types<'_>, wanted: &Type<'_>, value: &Value, at: &str) {
    match wanted {
        Type::Optional(inner) if !value.is_null() => agrees(types, inner.inner(), value, at),
        Type::Optional(_) => panic!("{at}: the sample leaves it out"),
        Type::String => assert!(value.is_string(), "{at}: {value}"),
        Type::Bool => assert!(value.is_boolean(), "{at}: {value}"),
        Type::Int => assert!(value.is_i64() || value.is_u64(), "{at}: {value}"),
        Type::Array(inner) => {
            let values = value.as_array().unwrap_or_else(|| panic!("{at}: {value}"));
            assert!(!values.is_empty(), "{at}: the sample is empty");
            values.iter().for_each(|value| agrees(types, inner.inner(), value, at));
        }
        Type::Enum(variants) => {
            let words: Vec<String> = variants.iter().map(|v| v.name().to_string()).collect();
            assert!(words.iter().any(|w| value == w.as_str()), "{at}: {value} is none of {words:?}");
        }
        Type::Custom(name) => match types.get(&**name).unwrap_or_else(|| panic!("{at}: no type {name}")) {
            CustomType::Object(object) => fields_agree(types, object.fields(), value, at),
            CustomType::Enum(words) => {
                assert!(words.variants().any(|w| value == w.name().to_string().as_str()), "{at}: {value}");
            }
        },
        other => panic!("{at}: {other} is not used here"),
    }
}

fn fields_agree<'a>(types: &Types<'_>, fields: impl Iterator<Item = &'a Field<'a>>, value: &Value, at: &str) {
    let object = value.as_object().unwrap_or_else(|| panic!("{at}: {value}"));
    let mut known = BTreeSet::new();
    for field in fields {
        let name = field.name().to_string();
        let at = format!("{at}.{name}");
        agrees(types, field.ty(), object.get(&name).unwrap_or_else(|| panic!("{at} is missing")), &at);
        known.insert(name);
    }
    let unknown: Vec<_> = object.keys().filter(|key| !known.contains(*key)).collect();
    assert!(unknown.is_empty(), "{at}: the text has no {unknown:?}");
}

struct Check<'a> {
    interface: &'a Interface<'a>,
    types: Types<'a>,
    seen: BTreeSet<&'static str>,
}

impl Check<'_> {
    fn method<M: Method>(&mut self, call: &M, reply: &M::Reply) {
        let method = self.interface.methods().find(|m| *m.name() == M::NAME);
        let method = method.unwrap_or_else(|| panic!("the text has no method {}", M::NAME));
        fields_agree(&self.types, method.inputs(), &json(call), M::NAME);
        fields_agree(&self.types, method.outputs(), &json(reply), &format!("{}'s reply", M::NAME));
        self.seen.insert(M::NAME);
    }
}

fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap()
}

#[test]
fn methods_and_types_agree_with_the_text() {
    let interface = Interface::try_from(DESCRIPTION).unwrap();
    assert_eq!(interface.name().to_string(), INTERFACE);
    let names: Vec<String> = interface.custom_types().map(|t| t.name().to_string()).collect();
    let types = names.iter().map(String::as_str).zip(interface.custom_types()).collect();
    let mut check = Check { interface: &interface, types, seen: BTreeSet::new() };
    let (name, xml, id, yes) = (|| "n".to_owned(), || "<x/>".to_owned(), || "1".to_owned(), Some(true));
    let done = Done { warnings: vec!["w".into()] };
    let changed = ChangedNetwork { network: network(), warnings: vec!["w".into()] };
    let changed_nic = ChangedNic { nic: nic(), warnings: vec!["w".into()] };

    let listed = ListNetworks {
        mode: Some(name()),
        tags: Some(vec![name()]),
        portgroup: Some(name()),
        free_devices: Some(1),
        active: Some(true),
    };
    check.method(&listed, &Networks { networks: vec![network()] });
    check.method(&ListDevices {}, &Devices { devices: vec![device()] });
    check.method(&ShowNetwork { name: name() }, &OneNetwork { network: network() });
    check.method(&GetNetworkXML { name: name(), inactive: yes }, &Document { xml: xml() });
    check.method(&DefineNetwork { xml: xml() }, &changed);
    check.method(&CreateNetwork { xml: xml() }, &changed);
    check.method(&StartNetwork { name: name() }, &changed);
    check.method(&StopNetwork { name: name() }, &done);
    check.method(&UndefineNetwork { name: name() }, &done);
    check.method(&SetAutostart { name: name(), autostart: true }, &done);
    let update = UpdateNetwork {
        name: name(),
        command: "add_first".into(),
        section: "portgroup".into(),
        parent: Some(0),
        xml: xml(),
        live: yes,
        config: yes,
    };
    check.method(&update, &done);
    let imported = Imported { networks: vec![imported_network()], warnings: vec!["w".into()] };
    check.method(&ImportLibvirt { dry_run: yes, undo: yes }, &imported);
    check.method(&ListLeases { network: name() }, &Leases { leases: vec![lease()] });
    let attach = AttachNIC {
        guest: "g".into(),
        guest_uuid: Some("u".into()),
        xml: xml(),
        owner_pid: Some(1),
        by_name: yes,
        uid: Some(1),
        fetch: yes,
        mac_unknown: yes,
        reservation: Some(id()),
    };
    check.method(&attach, &Attached { nic: nic(), warnings: vec!["w".into()], fds: Some(vec![0]) });
    check.method(&DetachNIC { id: id() }, &done);
    check.method(&ModifyNIC { id: id(), xml: xml() }, &changed_nic);
    check.method(&SetNICLink { id: id(), up: true }, &changed_nic);
    check.method(&OwnNIC { id: id(), pid: Some(1) }, &changed_nic);
    check.method(&ListNICs { network: Some(name()) }, &Nics { nics: vec![nic()] });
    check.method(&ShowNIC { id: id() }, &OneNic { nic: nic() });
    check.method(&GetNICXML { id: id(), inactive: yes }, &Document { xml: xml() });
    check.method(&FetchNIC { id: id() }, &Fetched { nic: nic(), fds: vec![0] });
    let checked =
        CheckNIC { network: Some(name()), guest: "g".into(), guest_uuid: Some(id()), xml: xml(), reserve: Some(1) };
    let reservation = Some(Reservation { id: id(), expires: 1 });
    check.method(&checked, &CheckedNic { nic: nic(), warnings: vec!["w".into()], reservation });

    // Monitor's replies share one type in the text; together they use all of its fields.
    let replies = [
        Monitored::Snapshot { networks: vec![network()], nics: vec![nic()] },
        Monitored::Event { sequence: 1, event: Box::new(event()) },
        Monitored::Overflow { missed: 1 },
    ];
    let mut together = serde_json::Map::new();
    for reply in replies {
        together.append(&mut json(&reply).as_object().unwrap().clone());
    }
    let monitor = interface.methods().find(|m| *m.name() == Monitor::NAME).unwrap();
    fields_agree(&check.types, monitor.outputs(), &Value::Object(together), "Monitor's reply");
    check.seen.insert(Monitor::NAME);

    let text: BTreeSet<String> = interface.methods().map(|m| m.name().to_string()).collect();
    assert_eq!(text, check.seen.iter().map(|s| (*s).to_owned()).collect());
    assert_eq!(text, Request::NAMES.iter().map(|s| (*s).to_owned()).collect());

    let refusal = Refusal {
        object: "o".into(),
        field: Some("f".into()),
        cause: "c".into(),
        hint: Some("h".into()),
        also: vec!["a".into()],
        line: Some(1),
        column: Some(1),
        start: Some(0),
        end: Some(1),
        exit: 1,
    };
    for error in interface.errors() {
        fields_agree(&check.types, error.fields(), &json(&refusal), error.name());
    }
}

#[test]
fn every_method_type_and_error_is_explained() {
    let interface = Interface::try_from(DESCRIPTION).unwrap();
    assert!(interface.methods().all(|m| m.comments().count() > 0));
    assert!(interface.errors().all(|e| e.comments().count() > 0));
}

#[test]
fn the_service_interface_parses() {
    let interface = Interface::try_from(service::DESCRIPTION).unwrap();
    assert_eq!(interface.name().to_string(), service::INTERFACE);
}
