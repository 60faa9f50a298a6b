//! What others do to our ports, as it is reported.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, channel};

use patchcord_core::model::{Bandwidth, Rate};
use patchcord_core::plan::{OvsPort, OvsState};
use patchcord_host::Error;
use patchcord_host::ovs::{Ovs, OvsReport, Watcher};
use serde_json::json;
use uuid::Uuid;

use crate::access;
use crate::answers::{Script, ovs, with_server};
use crate::bed::{INSTANCE, NIC, SOON, name, plain, with_bed};

/// A watcher, and what it reports.
struct Reports {
    watcher: Watcher,
    told: Receiver<OvsReport>,
}

impl Reports {
    fn new(ovs: Ovs) -> Self {
        let (sink, told) = channel();
        let watcher = Watcher::new(ovs, move |report| drop(sink.send(report))).unwrap();
        Self { watcher, told }
    }

    fn start(ovs: Ovs) -> Self {
        let mut reports = Self::new(ovs);
        reports.watcher.watch().unwrap();
        reports
    }

    fn next(&self) -> OvsReport {
        self.told.recv_timeout(SOON).unwrap()
    }

    fn all(&self) -> BTreeMap<Uuid, OvsState> {
        match self.next() {
            OvsReport::All(ports) => ports,
            other => panic!("{other:?}"),
        }
    }

    fn lost(&self) -> Error {
        match self.next() {
            OvsReport::Lost(error) => error,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until a NIC's port is reported that is as `right` says; others' are none that come meanwhile.
    fn until(&self, nic: Uuid, right: impl Fn(Option<&OvsState>) -> bool) -> Option<OvsState> {
        loop {
            match self.next() {
                OvsReport::Port(of, port) if of == nic && right(port.as_deref()) => return port.map(|port| *port),
                OvsReport::Port(of, port) => assert_eq!(of, nic, "{port:?}"),
                other => panic!("{other:?}"),
            }
        }
    }
}

fn of(port: &OvsPort) -> OvsState {
    OvsState::of(&name("br0"), port, INSTANCE)
}

#[test]
fn what_others_do_to_a_port_is_reported() {
    with_bed(|bed| {
        let _taps = ["pct0", "pct1", "veth7"].map(|tap| bed.tap(tap));
        let second = Uuid::from_u128(2);
        let rate = Rate { average: Some(100), burst: None, peak: None, floor: None };
        let bandwidth = Some(Bandwidth { inbound: Some(rate), outbound: None });
        let one = plain("pct0");
        let two = OvsPort { nic: second, vlan: access(42), bandwidth, ..plain("pct1") };
        bed.ovs().set_port(&name("br0"), &one).unwrap();
        let reports = Reports::start(bed.ovs());
        assert_eq!(reports.all(), BTreeMap::from([(NIC, of(&one))]));
        // Our own changes are heard like others'.
        bed.ovs().set_port(&name("br0"), &two).unwrap();
        assert_eq!(reports.until(second, |port| port.is_some()), Some(of(&two)));
        let wrong = |change: &str| {
            // What is nobody's business here.
            bed.vsctl("--may-exist add-port br1 veth7 tag=9 -- set Interface pct1 mtu_request=1400");
            bed.vsctl("--if-exists del-port veth7");
            bed.vsctl(change);
            let seen = reports.until(second, |port| port != Some(&of(&two)));
            assert!(bed.ovs().set_port(&name("br0"), &two).unwrap());
            reports.until(second, |port| port == Some(&of(&two)));
            seen.map(|port| of(&two).wrong(Some(&port)))
        };
        assert_eq!(wrong("set port pct1 tag=9").unwrap(), "port pct1 had tag=9, not tag=42");
        assert_eq!(wrong("del-port pct1"), None);
        let ids = Some("port pct1 had other external_ids".to_owned());
        assert_eq!(wrong("remove Port pct1 external_ids patchcord-nic"), ids);
        assert_eq!(wrong("remove Interface pct1 external_ids patchcord-instance"), ids);
        assert_eq!(wrong("set Interface pct1 external_ids:iface-id=x"), ids);
        let rates = Some("port pct1 had other rates".to_owned());
        assert_eq!(wrong("set Interface pct1 ingress_policing_rate=1"), rates);
        assert_eq!(wrong("clear Port pct1 qos"), rates);
        let queue = bed.get("QoS", &bed.get("Port", "pct1", "qos"), "queues:0");
        assert_eq!(wrong(&format!("set Queue {queue} other_config:max-rate=1")), rates);
        let id = bed.get("Port", "pct1", "_uuid");
        let moved = wrong(&format!("remove Bridge br0 ports {id} -- add Bridge br1 ports {id}")).unwrap();
        assert_eq!(moved, "port pct1 was on bridge br1, not br0");
        let id = bed.get("Port", "pct1", "_uuid");
        let both = wrong(&format!("--no-wait add Bridge br1 ports {id}")).unwrap();
        assert!(both.starts_with("port pct1 was on bridge br0, br1, not br0"), "{both}");
        // Somebody else's from now on.
        bed.vsctl("remove Port pct1 external_ids patchcord-instance");
        assert_eq!(reports.until(second, |port| port.is_none()), None);
    });
}

#[test]
fn a_port_that_ovs_vswitchd_can_not_use_is_reported_in_its_words() {
    with_bed(|bed| {
        let tap = bed.tap("pct0");
        bed.ovs().set_port(&name("br0"), &plain("pct0")).unwrap();
        let reports = Reports::start(bed.ovs());
        assert_eq!(reports.all()[&NIC].error, None);
        drop(tap);
        // ovs-vswitchd looks when it starts.
        bed.switch = None;
        bed.start_switch();
        bed.vsctl("set Open_vSwitch . external_ids:started=true");
        let seen = reports.until(NIC, |port| port.is_some_and(|port| port.error.is_some())).unwrap();
        assert_eq!(seen.error.as_deref(), Some("could not open network device pct0 (No such device)"));
    });
}

#[test]
fn a_database_that_goes_and_comes_back_is_followed_again() {
    with_bed(|bed| {
        let _tap = bed.tap("pct0");
        bed.ovs().set_port(&name("br0"), &plain("pct0")).unwrap();
        let reports = Reports::start(bed.ovs());
        let right = BTreeMap::from([(NIC, of(&plain("pct0")))]);
        assert_eq!(reports.all(), right);
        bed.database = None;
        assert!(matches!(reports.lost(), Error::OvsSocket { .. }));
        bed.start_database();
        assert_eq!(reports.all(), right);
        // Once more, and nothing is left of what it knew.
        bed.start_anew();
        reports.lost();
        assert!(reports.all().is_empty());
        bed.vsctl("add-br br0 -- set bridge br0 datapath_type=netdev");
        assert!(reports.all().is_empty(), "that there is a bridge now is news");
        bed.ovs().set_port(&name("br0"), &plain("pct0")).unwrap();
        assert_eq!(reports.until(NIC, |port| port == right.get(&NIC)), right.get(&NIC).cloned());
    });
}

#[test]
fn nothing_is_done_before_there_may_be_ports() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("db.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut reports = Reports::new(ovs(&socket));
    assert!(listener.accept().is_err());
    reports.watcher.watch().unwrap();
    listener.set_nonblocking(false).unwrap();
    drop(listener.accept().unwrap());
    assert!(matches!(reports.lost(), Error::OvsSocket { .. }));
    drop(listener.accept().unwrap());
    // It ends though it is asked to wait, and with it the connection.
    let mut last = listener.accept().unwrap().0;
    drop(reports);
    last.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn a_server_that_tells_nonsense_is_left_and_asked_again() {
    let none = || json!([{"rows": []}, {"rows": []}, {"rows": []}, {"rows": []}, {"rows": []}]);
    // Lets them watch, and shows them that there is nothing; then says something.
    let then = move |said: String| -> Script {
        Box::new(move |peer| {
            peer.answer(json!({}));
            peer.answer(none());
            peer.send(&said);
            peer.wait();
        })
    };
    let update = |tables: &str| format!("{{\"method\":\"update2\",\"params\":[null,{tables}],\"id\":null}}");
    let row = "6cd6ee4f-4e64-4b4e-9e6f-9d2c1a2b3c4d";
    let scripts = [
        Box::new(|peer: &mut crate::answers::Peer| {
            let id = peer.receive()["id"].clone();
            peer.send(&json!({"result": null, "error": "unknown method", "id": id}).to_string());
            peer.wait();
        }) as Script,
        then("HTTP/1.1 400\r\n".to_owned()),
        then(update("7")),
        then(update("{\"Port\":{\"x\":null}}")),
        then(update(&format!("{{\"Port\":{{\"{row}\":7}}}}"))),
        then(format!("{{\"method\":\"update2\",\"params\":[\"{}", "x".repeat(25 << 20))),
        then("[".repeat(100_000)),
        // One that does, in the end, with an echo and what came before it was asked for.
        Box::new(move |peer| {
            peer.answer(json!({}));
            let id = peer.receive()["id"].clone();
            peer.send(&update(&format!("{{\"Bridge\":{{\"{row}\":{{\"insert\":{{}}}}}}}}")));
            peer.send(&json!({"result": none(), "error": null, "id": id}).to_string());
            peer.send("{\"method\":\"echo\",\"params\":[],\"id\":\"echo\"}");
            peer.answer(none());
            assert_eq!(peer.receive(), json!({"result": [], "error": null, "id": "echo"}));
            peer.wait();
        }),
    ];
    with_server(scripts, |socket| {
        let mut reports = Reports::start(ovs(socket));
        let told = |reports: &mut Reports| {
            let text = reports.lost().to_string();
            // It need not be waited for.
            reports.watcher.watch().unwrap();
            text.split_once("db.sock").unwrap().1.to_owned()
        };
        assert_eq!(told(&mut reports), ": it does not let us watch: \"unknown method\"");
        for expected in [
            ": no JSON: expected value at line 1 column",
            ": an update without tables",
            ": an update of a row of Port that has no id",
            ": an update of Port that is none",
            "",
            ": no JSON: recursion limit exceeded",
        ] {
            assert!(reports.all().is_empty());
            let text = told(&mut reports);
            assert!(text.starts_with(expected), "{text}");
        }
        assert!(reports.all().is_empty());
        assert!(reports.all().is_empty(), "for the bridge");
    });
}
