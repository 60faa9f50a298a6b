//! What clients of libvirt 9.8 and later keep with networks. virsh of Debian 12 is older: it sees the documents, and a client of
//! our own makes the calls.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::Host;
use common::remote::{Client, bytes, call, says};
use patchcord_libvirt_wire::xdr::{Reader, Writer};
use patchcord_libvirt_wire::{Frame, Kind, Procedure, Status};
use patchcord_testkit::in_namespace;

const UUID: &str = "81ff0d90-c91e-6742-64da-4a736edb9a9b";
const LAB: &str = "<network><name>lab</name><uuid>81ff0d90-c91e-6742-64da-4a736edb9a9b</uuid>\
    <bridge name='virbr7'/><mac address='52:54:00:77:00:01'/></network>";

const DESCRIPTION: i32 = 0;
const TITLE: i32 = 1;
const ELEMENT: i32 = 2;
const CURRENT: u32 = 0;
const LIVE: u32 = 1;
const CONFIG: u32 = 2;
const NOWHERE: &str = "ffffffff-ffff-ffff-ffff-ffffffffffff";

/// What is told of a change: the callback, the kind of metadata, and an element's namespace.
type Told = (i32, i32, Option<String>);

/// A client that makes one call at a time, and keeps what it is told meanwhile.
struct Newer {
    client: Client,
    serial: u32,
    told: Vec<Told>,
}

impl Newer {
    fn new(host: &Host<'_>, read_only: bool) -> Self {
        let client = Client::opened_at(host, read_only);
        Self { client, serial: 0, told: Vec::new() }
    }

    /// The answer's payload, or the refusal's code and text.
    fn ask(&mut self, procedure: Procedure, arguments: &Writer) -> Result<Vec<u8>, (i32, String)> {
        self.serial += 1;
        self.client.say(&call(procedure, self.serial, arguments));
        loop {
            let Frame { header, payload } = self.client.hears().unwrap();
            let mut r = Reader::new(&payload);
            if header.kind == Kind::Message {
                assert_eq!(header.procedure, 446);
                let callback = r.i32("").unwrap();
                assert_eq!((r.string("").unwrap().as_str(), r.uuid("").unwrap()), ("lab", bytes(UUID)));
                self.told.push((callback, r.i32("").unwrap(), r.option("", |r| r.string("")).unwrap()));
                r.end().unwrap();
                continue;
            }
            assert_eq!((header.serial, header.procedure), (self.serial, procedure.number()));
            return match header.status {
                Status::Error => {
                    let (code, _domain) = (r.i32("").unwrap(), r.i32("").unwrap());
                    Err((code, r.option("", |r| r.string("")).unwrap().unwrap()))
                }
                _ => Ok(payload),
            };
        }
    }

    fn set(
        &mut self,
        kind: i32,
        value: Option<&str>,
        of: Option<(&str, &str)>,
        flags: u32,
    ) -> Result<(), (i32, String)> {
        let mut w = Writer::default();
        let (key, uri) = of.unzip();
        w.string("lab").uuid(bytes(UUID)).i32(kind).text(value).text(key).text(uri).u32(flags);
        self.ask(Procedure::NetworkSetMetadata, &w).map(|payload| assert!(payload.is_empty()))
    }

    fn get(&mut self, kind: i32, uri: Option<&str>, flags: u32) -> Result<String, (i32, String)> {
        let mut w = Writer::default();
        w.string("lab").uuid(bytes(UUID)).i32(kind).text(uri).u32(flags);
        self.ask(Procedure::NetworkGetMetadata, &w).map(|payload| Reader::new(&payload).string("").unwrap())
    }

    /// Registers for changes of what is kept with that network.
    fn listen(&mut self, uuid: &str) -> i32 {
        let mut w = Writer::default();
        w.i32(1).u32(1).string("lab").uuid(bytes(uuid));
        let payload = self.ask(Procedure::ConnectNetworkEventRegisterAny, &w).unwrap();
        Reader::new(&payload).i32("").unwrap()
    }
}

/// The lines that a network's document has of what is kept with it.
fn kept(document: &str) -> Vec<&str> {
    let lines = document.lines().map(str::trim).skip_while(|line| !line.starts_with("<uuid>")).skip(1);
    lines.take_while(|line| !line.starts_with("<bridge")).collect()
}

#[test]
fn what_is_kept_with_a_network_is_in_its_document_and_outlives_the_daemon() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        host.network(LAB);
        let mut newer = Newer::new(&host, false);
        let app = ("k", "urn:a");
        newer.set(TITLE, Some("Staff & guests"), None, LIVE | CONFIG).unwrap();
        newer.set(DESCRIPTION, Some("What runs"), None, CURRENT).unwrap();
        newer.set(DESCRIPTION, Some("What is\ndefined"), None, CONFIG).unwrap();
        newer.set(ELEMENT, Some("<app><on/></app>"), Some(app), LIVE | CONFIG).unwrap();
        newer.set(ELEMENT, Some("<other/>"), Some(("o", "urn:o")), LIVE).unwrap();
        let title = "<title>Staff &amp; guests</title>";
        let element = ["<metadata>", "<k:app xmlns:k=\"urn:a\">", "<k:on/>", "</k:app>"];
        let live = [
            &[title, "<description>What runs</description>"],
            &element[..],
            &["<o:other xmlns:o=\"urn:o\"/>", "</metadata>"],
        ]
        .concat();
        let config =
            [&[title, "<description>What is", "defined</description>"], &element[..], &["</metadata>"]].concat();
        let check = |host: &Host<'_>| {
            assert_eq!(kept(&says(host, &["net-dumpxml", "lab"])), live);
            assert_eq!(kept(&says(host, &["net-dumpxml", "lab", "--inactive"])), config);
            let mut reader = Newer::new(host, true);
            assert_eq!(reader.get(TITLE, None, CURRENT).unwrap(), "Staff & guests");
            assert_eq!(reader.get(DESCRIPTION, None, CURRENT).unwrap(), "What runs");
            assert_eq!(reader.get(DESCRIPTION, None, CONFIG).unwrap(), "What is\ndefined");
            assert_eq!(reader.get(ELEMENT, Some("urn:a"), LIVE).unwrap(), "<app>\n  <on/>\n</app>");
            assert_eq!(reader.get(ELEMENT, Some("urn:o"), LIVE).unwrap(), "<other/>");
            assert_eq!(reader.get(ELEMENT, Some("urn:o"), CONFIG).unwrap_err().0, 111);
        };
        check(&host);
        let bridge = ns.json("ip -j link show virbr7");
        host.kill();
        host.start();
        check(&host);
        assert_eq!(ns.json("ip -j link show virbr7")[0]["ifindex"], bridge[0]["ifindex"]);

        // What is removed leaves nothing behind, and what stopped has what is defined.
        says(&host, &["net-destroy", "lab"]);
        let mut newer = Newer::new(&host, false);
        newer.set(TITLE, None, None, CURRENT).unwrap();
        newer.set(DESCRIPTION, Some(""), None, CURRENT).unwrap();
        newer.set(ELEMENT, None, Some(app), CURRENT).unwrap();
        assert_eq!(kept(&says(&host, &["net-dumpxml", "lab"])), [""; 0]);
        says(&host, &["net-start", "lab"]);
        assert_eq!(kept(&says(&host, &["net-dumpxml", "lab"])), [""; 0]);
    });
}

#[test]
fn changes_are_told_to_who_wants_to_know() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(LAB);
        let mut newer = Newer::new(&host, false);
        let callback = newer.listen(UUID);
        newer.listen(NOWHERE);
        newer.set(TITLE, Some("A title"), None, LIVE).unwrap();
        newer.set(ELEMENT, Some("<app/>"), Some(("k", "urn:a")), CONFIG).unwrap();
        newer.set(ELEMENT, None, Some(("k", "urn:a")), LIVE | CONFIG).unwrap();
        newer.set(TITLE, Some("two\nlines"), None, LIVE).unwrap_err();
        // The answer to a call may be on its way before what it did is told.
        let lasting = |kind, uri: Option<&str>| (callback, kind, uri.map(str::to_owned));
        let expected = [lasting(TITLE, None), lasting(ELEMENT, Some("urn:a")), lasting(ELEMENT, Some("urn:a"))];
        let deadline = std::time::Instant::now() + common::SOON;
        while newer.told.len() < expected.len() && std::time::Instant::now() < deadline {
            newer.get(TITLE, None, LIVE).unwrap();
        }
        assert_eq!(newer.told, expected);
        let mut w = Writer::default();
        w.i32(2).u32(0);
        let refused = newer.ask(Procedure::ConnectNetworkEventRegisterAny, &w).unwrap_err();
        assert_eq!(refused, (8, "invalid argument: the event: there is no event 2 of networks".into()));
    });
}

#[test]
fn what_is_not_there_or_cannot_be_is_refused() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.transient(LAB);
        let mut newer = Newer::new(&host, false);
        let get = |newer: &mut Newer, kind, uri, flags| newer.get(kind, uri, flags).unwrap_err();
        let missing = |what: &str| (111, format!("metadata not found: network 'lab': {what}"));
        assert_eq!(get(&mut newer, TITLE, None, CURRENT), missing("it has no title"));
        assert_eq!(get(&mut newer, DESCRIPTION, None, LIVE), missing("it has no description"));
        let nothing = missing("its metadata has nothing in namespace 'urn:a'");
        assert_eq!(get(&mut newer, ELEMENT, Some("urn:a"), CURRENT), nothing);
        assert_eq!(get(&mut newer, TITLE, None, CONFIG).0, 55);
        for (kind, uri, flags) in [
            (3, None, CURRENT),
            (-1, None, CURRENT),
            (TITLE, Some("urn:a"), CURRENT),
            (ELEMENT, None, CURRENT),
            (TITLE, None, LIVE | CONFIG),
            (TITLE, None, 4),
        ] {
            assert_eq!(get(&mut newer, kind, uri, flags).0, 8, "{kind} {uri:?} {flags}");
        }
        let key = Some(("k", "urn:a"));
        for (kind, value, of, flags, code) in [
            (TITLE, "two\nlines", None, CURRENT, 8),
            (DESCRIPTION, "a\u{1}b", None, CURRENT, 8),
            (DESCRIPTION, "x", key, CURRENT, 8),
            (ELEMENT, "<app>", key, CURRENT, 35),
            (ELEMENT, "<app/>", Some(("1", "urn:a")), CURRENT, 8),
            (ELEMENT, "<app/>", None, CURRENT, 8),
            (TITLE, "x", None, CONFIG, 55),
            (TITLE, "x", None, 4, 8),
        ] {
            assert_eq!(newer.set(kind, Some(value), of, flags).unwrap_err().0, code, "{kind} {value}");
        }
        assert_eq!(kept(&says(&host, &["net-dumpxml", "lab"])), [""; 0]);
        let (code, text) = Newer::new(&host, true).set(TITLE, Some("x"), None, CURRENT).unwrap_err();
        let says = "operation forbidden: read only access prevents virNetworkSetMetadata";
        assert_eq!((code, text.as_str()), (29, says));
    });
}
