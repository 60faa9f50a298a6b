//! The native door in front of the real engine, on a simulated host.

use super::*;
mod hand_back;
mod hostile;

use crate::access::Peer;
use crate::config::Config;
use crate::handle::Ask;
use patchcord_api::methods::*;
use patchcord_api::{Client, ClientError, Monitored};
use patchcord_core::engine::{self, Answer, Body};
use patchcord_core::{plan, sim, xml};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use tokio::sync::{broadcast, mpsc};
use uuid::Uuid;

const LAB: &str = "<network><name>lab</name><portgroup name='staff' default='yes'/><portgroup name='students'/>\
                   </network>";
const NIC: &str = "<interface type='network'><source network='lab'/></interface>";

/// A door on a simulated host. Dropping it ends the thread behind it with the test's process.
struct Door {
    directory: tempfile::TempDir,
}

impl Door {
    /// One through which everybody comes as `peer`, or with `None` as whom the kernel says they are.
    fn open(peer: Option<Peer>, access: &str) -> Self {
        let door = Self { directory: tempfile::tempdir().unwrap() };
        let listener = std::os::unix::net::UnixListener::bind(door.path()).unwrap();
        listener.set_nonblocking(true).unwrap();
        let access = Arc::new(Access::new(Config::parse(access).unwrap().access));
        let base = door.directory.path().to_owned();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let (asks, questions) = mpsc::channel(4);
                let (events, _) = broadcast::channel(64);
                let handle = Handle::new(asks, events.clone());
                let listener = UnixListener::from_std(listener).unwrap();
                tokio::spawn(run_engine(questions, events));
                let importer = Arc::new(Importer::new(base));
                let Some(peer) = peer else { return serve(listener, handle, access, importer).await };
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let session =
                        Session::new(handle.clone(), Arc::clone(&access), Arc::clone(&importer), peer.clone());
                    tokio::spawn(async move { converse(stream, &session).await });
                }
            });
        });
        door
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    fn client(&self) -> Client {
        Client::connect(&self.path()).unwrap()
    }

    /// A connection without a client's manners.
    fn raw(&self) -> std::os::unix::net::UnixStream {
        let stream = std::os::unix::net::UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Whether others are still served.
    fn lives(&self) -> bool {
        self.client().call(&ListNetworks::default()).is_ok()
    }
}

fn peer(uid: u32, user: &str) -> Option<Peer> {
    Some(Peer { uid, user: Some(user.into()), groups: Default::default() })
}

fn root() -> Option<Peer> {
    peer(0, "root")
}

/// The engine on a simulated host, with pipes in place of taps' descriptors. The network 'lab' runs on it.
async fn run_engine(mut questions: mpsc::Receiver<Ask>, events: broadcast::Sender<crate::handle::Numbered>) {
    let dnsmasq = plan::dnsmasq::Settings {
        dir: "/lib/d".into(),
        run_dir: "/run/d".into(),
        user: None,
        group: None,
        instance: Uuid::from_u128(7),
        upstream: Vec::new(),
    };
    let stamp = xml::Stamp { boot_id: "boot".into(), netns: 1 };
    let mut host = sim::Host::new(engine::Config {
        instance: Uuid::from_u128(7),
        stamp,
        needs_carrier: false,
        binds_drivers: false,
        plug: Default::default(),
        shapes_ports: false,
        uplinks: Default::default(),
        nodes: "/run/patchcord/nodes".into(),
        dnsmasq,
    });
    let lab = xml::read_network(LAB, xml::Mode::Strict).unwrap();
    host.ask(engine::Command::Create(Box::new(lab))).unwrap();
    host.events.clear();
    let mut sequence = 0;
    while let Some(question) = questions.recv().await {
        match question {
            Ask::Command(command, answer) => {
                if let engine::Command::Attach(attach) = &*command {
                    host.processes.extend(attach.owner);
                }
                let _ = answer.send(host.ask(*command));
                for event in host.events.drain(..) {
                    sequence += 1;
                    let _ = events.send((sequence, Arc::new(event)));
                }
            }
            Ask::Descriptors(id, answer) => {
                let queues = match host.ask(engine::Command::ShowNic(id)) {
                    Ok(Answer { body: Body::Nic(nic), .. }) => nic.queues,
                    other => panic!("{other:?}"),
                };
                let pipes: Vec<OwnedFd> = (0..queues)
                    .map(|queue| {
                        let (reader, mut writer) = std::io::pipe().unwrap();
                        write!(writer, "queue {queue}").unwrap();
                        reader.into()
                    })
                    .collect();
                let _ = answer.send(Ok(pipes));
            }
        }
    }
}

fn attach(xml: &str) -> AttachNIC {
    AttachNIC { guest: "web".into(), xml: xml.into(), ..AttachNIC::default() }
}

fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> (String, patchcord_api::Refusal) {
    match result {
        Err(ClientError::Refused { name, refusal }) => (name, *refusal),
        other => panic!("{other:?}"),
    }
}

#[test]
fn networks_are_defined_started_shown_and_forgotten() {
    let door = Door::open(root(), "");
    let mut client = door.client();
    let xml = "<network><name>lab2</name><tag name='blue'/></network>".to_owned();
    let defined = client.call(&DefineNetwork { xml }).unwrap().network;
    assert_eq!((defined.name.as_str(), defined.active, defined.mode.as_str()), ("lab2", false, "isolated"));
    assert_eq!(defined.tags, ["blue"]);
    let name = "lab2".to_owned();
    assert!(client.call(&StartNetwork { name: name.clone() }).unwrap().network.active);
    client.call(&SetAutostart { name: name.clone(), autostart: true }).unwrap();
    let shown = client.call(&ShowNetwork { name: defined.uuid.clone() }).unwrap().network;
    assert!(shown.active && shown.autostart && shown.bridge.is_some());
    let names: Vec<_> = client.call(&ListNetworks::default()).unwrap().networks.into_iter().map(|n| n.name).collect();
    assert_eq!(names.len(), 2);
    let xml = client.call(&GetNetworkXML { name: name.clone(), inactive: Some(true) }).unwrap().xml;
    assert!(xml.contains("<name>lab2</name>"), "{xml}");
    client.call(&StopNetwork { name: name.clone() }).unwrap();
    client.call(&UndefineNetwork { name: name.clone() }).unwrap();
    let (error, refusal) = refused(client.call(&ShowNetwork { name }));
    assert_eq!((error.as_str(), refusal.object.as_str(), refusal.exit), ("NotFound", "network 'lab2'", 3));
}

#[test]
fn a_part_of_a_network_is_updated() {
    let mut client = Door::open(root(), "").client();
    let update = |section: &str| UpdateNetwork {
        name: "lab".into(),
        command: "add".into(),
        section: section.into(),
        xml: "<portgroup name='new'/>".into(),
        ..UpdateNetwork::default()
    };
    client.call(&update("portgroup")).unwrap();
    let network = client.call(&ShowNetwork { name: "lab".into() }).unwrap().network;
    assert_eq!(network.portgroups, ["staff", "students", "new"]);
    let (name, refusal) = refused(client.call(&update("group")));
    assert_eq!((name.as_str(), refusal.exit), ("InvalidArgument", 2));
}

#[test]
fn a_fault_in_a_document_has_its_place() {
    let mut client = Door::open(root(), "").client();
    let xml = "<network>\n  <name>x</name>\n  <bridge nam='br0'/>\n</network>".to_owned();
    let (name, refusal) = refused(client.call(&DefineNetwork { xml: xml.clone() }));
    assert_eq!((name.as_str(), refusal.line, refusal.column), ("InvalidXml", Some(3), Some(11)));
    assert_eq!(&xml[refusal.start.unwrap()..refusal.end.unwrap()], "nam='br0'");
}

#[test]
fn a_nic_is_attached_with_its_descriptors() {
    let mut client = Door::open(root(), "").client();
    let two = "<interface type='network'><source network='lab'/><driver queues='2'/></interface>";
    let call = AttachNIC { fetch: Some(true), owner_pid: Some(std::process::id()), ..attach(two) };
    let (attached, fds) = client.call_with_fds(&call, |reply| reply.fds.clone().unwrap()).unwrap();
    let texts: Vec<String> = fds
        .into_iter()
        .map(|fd| {
            let mut text = String::new();
            std::fs::File::from(fd).read_to_string(&mut text).unwrap();
            text
        })
        .collect();
    assert_eq!(texts, ["queue 0", "queue 1"]);
    let nic = attached.nic;
    assert_eq!((nic.state.as_str(), nic.queues, nic.portgroup.as_deref()), ("plugged", 2, Some("staff")));
    assert_eq!(nic.owner.map(|o| o.pid), Some(std::process::id()));
    let (_, fds) = client.call_with_fds(&FetchNIC { id: nic.id.clone() }, |reply| reply.fds.clone()).unwrap();
    assert_eq!(fds.len(), 2);

    let none = "<interface type='none'/>".to_owned();
    let modified = client.call(&ModifyNIC { id: nic.id.clone(), xml: none }).unwrap().nic;
    assert_eq!((modified.state.as_str(), modified.actual.kind.as_str()), ("unplugged", "none"));
    assert_eq!(client.call(&OwnNIC { id: nic.id.clone(), pid: None }).unwrap().nic.owner, None);
    client.call(&DetachNIC { id: nic.id.clone() }).unwrap();
    for id in [nic.id, "web".into()] {
        let (name, refusal) = refused(client.call(&ShowNIC { id }));
        assert_eq!((name.as_str(), refusal.exit), ("NotFound", 3));
    }
}

#[test]
fn a_nic_whose_client_is_gone_before_the_reply_is_taken_back() {
    let door = Door::open(root(), "");
    let call = serde_json::json!({"method": "org.patchcord.Switch.AttachNIC", "parameters": attach(NIC)});
    let mut attached = 0;
    let watched = door.client().monitor(|message| {
        match message {
            Monitored::Snapshot { .. } => (0..20).for_each(|_| {
                // Closed at once, so that the reply has nowhere to go.
                door.raw().write_all(format!("{call}\0").as_bytes()).unwrap();
            }),
            Monitored::Event { event, .. } if event.what == "attached" => attached += 1,
            _ => {}
        }
        Ok::<_, ClientError>(attached < 20)
    });
    watched.unwrap();
    let (mut client, end) = (door.client(), std::time::Instant::now() + Duration::from_secs(20));
    while !client.call(&ListNICs { network: None }).unwrap().nics.is_empty() {
        assert!(std::time::Instant::now() < end, "NICs are left over");
        std::thread::yield_now();
    }
}

const ALICE: &str = "[[access]]\nusers = ['alice']\nnetworks = ['lab']\nportgroups = ['students']\nallow = ['attach']";

#[test]
fn others_do_what_the_list_grants_them() {
    let mut alice = Door::open(peer(1000, "alice"), ALICE).client();
    assert_eq!(alice.call(&ListNetworks::default()).unwrap().networks.len(), 1);
    // The default portgroup is another one.
    let (name, refusal) = refused(alice.call(&attach(NIC)));
    assert_eq!(name, "Denied");
    assert_eq!(refusal.cause, "user 'alice' may not attach to portgroup 'staff' of network 'lab'");
    let granted = "<interface type='network'><source network='lab' portgroup='students'/></interface>";
    let nic = alice.call(&attach(granted)).unwrap().nic;
    assert_eq!(nic.uid, 1000);
    assert_eq!(alice.call(&ListNICs { network: None }).unwrap().nics.len(), 1);
    for denied in [
        AttachNIC { owner_pid: Some(1), ..attach(granted) },
        AttachNIC { by_name: Some(true), uid: Some(0), ..attach(granted) },
        attach("<interface type='bridge'><source bridge='br0'/></interface>"),
        attach(
            "<interface type='network'><source network='lab' portgroup='students'/><port isolated='yes'/></interface>",
        ),
        attach(
            "<interface type='network'><source network='lab' portgroup='students'/><target dev='eth0'/></interface>",
        ),
    ] {
        assert_eq!(refused(alice.call(&denied)).0, "Denied", "{denied:?}");
    }
    let own = AttachNIC { by_name: Some(true), uid: Some(1000), ..attach(granted) };
    assert_eq!(alice.call(&own).unwrap().nic.handover, "name");
    let staff = "<interface type='network'><source network='lab' portgroup='staff'/></interface>".to_owned();
    assert_eq!(refused(alice.call(&ModifyNIC { id: nic.id.clone(), xml: staff })).0, "Denied");
    assert_eq!(refused(alice.call(&OwnNIC { id: nic.id.clone(), pid: Some(1) })).0, "Denied");
    for denied in [
        refused(alice.call(&StopNetwork { name: "lab".into() })),
        refused(alice.call(&DefineNetwork { xml: LAB.into() })),
        refused(alice.call(&UndefineNetwork { name: "lab".into() })),
    ] {
        assert_eq!(denied.0, "Denied");
    }
    alice.call(&DetachNIC { id: nic.id }).unwrap();

    let secret = refused(alice.call(&attach("<interface type='network'><source network='secret'/></interface>"))).1;
    assert_eq!(secret.cause, "user 'alice' may not attach to network 'secret'");

    let mut eve = Door::open(peer(1001, "eve"), ALICE).client();
    assert!(eve.call(&ListNetworks::default()).unwrap().networks.is_empty());
    assert_eq!(refused(eve.call(&ShowNetwork { name: "lab".into() })).0, "Denied");
    assert_eq!(refused(eve.call(&attach("<interface type='none'/>"))).0, "Denied");
}

#[test]
fn a_check_has_no_effect() {
    let mut client = Door::open(root(), "").client();
    let none = "<interface type='none'/>".to_owned();
    let check = CheckNIC { network: Some("lab".into()), guest: "web".into(), xml: none.clone(), ..CheckNIC::default() };
    let would = client.call(&check).unwrap().nic;
    assert_eq!((would.network.as_deref(), would.portgroup.as_deref()), (Some("lab"), Some("staff")));
    assert!(client.call(&ListNICs { network: None }).unwrap().nics.is_empty());
    let missing = CheckNIC { network: Some("nowhere".into()), guest: "web".into(), xml: none, ..CheckNIC::default() };
    assert_eq!(refused(client.call(&missing)).0, "NotFound");
    // What the document names counts, and must be what is asked about.
    for (kind, source, named) in [
        ("network", "network='nowhere'", "network 'nowhere'"),
        ("direct", "dev='nope0'", "device nope0"),
        ("bridge", "bridge='br0'", "bridge br0"),
    ] {
        let xml = format!("<interface type='{kind}'><source {source}/></interface>");
        let (kind, refusal) = refused(client.call(&CheckNIC { xml, ..check.clone() }));
        assert_eq!((kind.as_str(), refusal.exit), ("InvalidArgument", 2));
        assert_eq!(refusal.cause, format!("it names {named}, and network 'lab' is asked about"));
    }
    let xml = "<interface type='network'><source network='lab' portgroup='staff'/></interface>".to_owned();
    let uuid = client.call(&ShowNetwork { name: "lab".into() }).unwrap().network.uuid;
    let same = client.call(&CheckNIC { network: Some(uuid), xml, ..check }).unwrap().nic;
    assert_eq!(same.portgroup.as_deref(), Some("staff"));
}

#[test]
fn events_follow_a_snapshot_and_who_is_slow_gets_another() {
    let door = Door::open(root(), "");
    let mut client = door.client();
    let watcher = door.client();
    let mut step = 0;
    let seen = watcher.monitor(|message| {
        step += 1;
        match (step, message) {
            (1, Monitored::Snapshot { networks, nics }) => {
                assert_eq!((networks.len(), nics.len()), (1, 0));
                client.call(&StopNetwork { name: "lab".into() })?;
            }
            (2, Monitored::Event { event, sequence }) => {
                assert_eq!((event.kind.as_str(), event.what.as_str(), sequence), ("network", "stopped", 1));
                // More than the channel holds and the socket takes, while nobody reads.
                let define = |n| format!("<network><name>n{n}</name></network>");
                for n in 0..3000 {
                    client.call(&DefineNetwork { xml: define(n % 3) })?;
                }
            }
            (3..=99, Monitored::Overflow { missed }) => {
                assert!(missed > 0);
                step = 100; // Nothing but the snapshot may follow.
            }
            (101, Monitored::Snapshot { networks, .. }) => {
                assert_eq!(networks.len(), 3, "the three that were defined");
                return Ok(false);
            }
            (3..=99, Monitored::Event { .. }) => step = 3,
            (_, other) => panic!("{step}: {other:?}"),
        }
        Ok::<_, ClientError>(true)
    });
    seen.unwrap();
    assert!(door.lives());
}

#[test]
fn the_service_describes_itself_and_says_what_it_does_not_know() {
    let door = Door::open(None, "");
    let mut raw = door.raw();
    let mut replies = BufReader::new(raw.try_clone().unwrap());
    let mut ask = |call: &str| {
        raw.write_all(format!("{call}\0").as_bytes()).unwrap();
        let mut reply = Vec::new();
        replies.read_until(0, &mut reply).unwrap();
        assert_eq!(reply.pop(), Some(0));
        serde_json::from_slice::<serde_json::Value>(&reply).unwrap()
    };
    let info = ask(r#"{"method":"org.varlink.service.GetInfo"}"#);
    assert_eq!(info["parameters"]["interfaces"][1], "org.patchcord.Switch");
    let asked = r#"{"method":"org.varlink.service.GetInterfaceDescription",
                    "parameters":{"interface":"org.patchcord.Switch"}}"#;
    assert_eq!(ask(asked)["parameters"]["description"], patchcord_api::DESCRIPTION);
    for (call, error, parameter) in [
        (r#"{"method":"org.patchcord.Switch.Nothing"}"#, "MethodNotFound", "org.patchcord.Switch.Nothing"),
        (r#"{"method":"org.example.Nothing"}"#, "InterfaceNotFound", "org.example"),
        (r#"{"method":"nothing"}"#, "InterfaceNotFound", ""),
        (r#"{"method":"org.patchcord.Switch.ShowNetwork"}"#, "InvalidParameter", "name"),
        (r#"{"method":"org.patchcord.Switch.ListNetworks","parameters":{"x":1}}"#, "InvalidParameter", "x"),
    ] {
        let reply = ask(call);
        assert_eq!(reply["error"], format!("org.varlink.service.{error}"), "{call}");
        let parameters = reply["parameters"].as_object().unwrap();
        assert_eq!(parameters.values().next().unwrap(), parameter, "{call}");
    }
}
