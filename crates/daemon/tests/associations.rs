//! NICs whose ports a switch gives a profile, through an lldpad that this test plays.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::{Host, SOON, interface};
use patchcord_api::methods::{AttachNIC, ModifyNIC};
use patchcord_testkit::{Namespace, NetlinkPeer, Process, in_namespace, wait_until};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

const NLMSG_DONE: u16 = 3;
const RTM_GETLINK: u16 = 18;
const IFLA_VF_PORTS: u16 = 24;

/// The network of libvirt's 2011 design in vepa mode, whose virtualport says what is the same for all NICs.
const NETWORK: &str = "<network><name>red-network</name><forward mode='vepa'><interface dev='eth10'/></forward>
    <virtualport type='802.1Qbg'><parameters managerid='11' typeid='1193047' typeidversion='2'/></virtualport></network>";

/// And its NIC, which says the rest.
const NIC: &str = "<interface type='network'><source network='red-network'/><mac address='de:ad:be:ef:ca:fe'/>
    <virtualport><parameters instanceid='09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f'/></virtualport></interface>";

/// Not a test: the process that plays lldpad, started by the tests below. It does what the file `MODE` says at that time
/// (`accept`, `refuse`, `silent`, when it takes requests without a word), and writes down the requests.
#[test]
#[ignore = "is the lldpad process of the other tests"]
fn lldpad_process() {
    let Ok(directory) = std::env::var("PLAY") else { return };
    let directory = PathBuf::from(directory);
    let mut log = fs::File::create(directory.join("log")).unwrap();
    let peer = NetlinkPeer::bind(std::process::id());
    writeln!(log, "ready").unwrap();
    let mut known: BTreeSet<Vec<u8>> = BTreeSet::new();
    loop {
        let (message, from) = peer.receive();
        let mode = fs::read_to_string(directory.join("mode")).unwrap();
        let question = message[4..6] == RTM_GETLINK.to_ne_bytes();
        if !question {
            let told: String = message[16..].iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(log, "{told}").unwrap();
        }
        if question {
            if mode == "silent" {
                continue;
            }
            let port = |instance: &Vec<u8>| {
                let response = if mode == "refuse" { 4u16 } else { 0 };
                let parts = [
                    attribute(4, instance),
                    attribute(1, &u32::MAX.to_ne_bytes()),
                    attribute(7, &response.to_ne_bytes()),
                ];
                attribute(1, &parts.concat())
            };
            let ports: Vec<u8> = known.iter().flat_map(port).collect();
            if mode == "refuse" {
                known.clear();
            }
            let payload = [vec![0; 16], attribute(IFLA_VF_PORTS, &ports)].concat();
            peer.answer(from, &message, NLMSG_DONE, &payload);
            continue;
        }
        // The end of a request: instance (16 bytes), then the operation's attribute (8 bytes).
        let end = message.len();
        let (instance, operation) = (message[end - 24..end - 8].to_vec(), message[end - 4]);
        if operation == 3 {
            known.remove(&instance);
        } else {
            known.insert(instance);
        }
        if mode != "silent" {
            peer.acknowledge(from, &message, 0);
        }
    }
}

/// One attribute.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = [&(4 + value.len() as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A running lldpad of ours.
struct Lldpad {
    directory: tempfile::TempDir,
    _process: Process,
}

impl Lldpad {
    /// Starts it, with its pid file where the daemon looks for it.
    fn start(host: &Host<'_>, mode: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("lldpad");
        let test = std::env::current_exe().unwrap();
        if fs::hard_link(&test, &program).is_err() {
            fs::copy(&test, &program).unwrap();
        }
        fs::write(directory.path().join("mode"), mode).unwrap();
        let line = format!("{} --ignored --exact lldpad_process --nocapture", program.display());
        let mut command = host.ns.command(&line);
        command.env("PLAY", directory.path());
        let lldpad = Self { directory, _process: Process::start(command) };
        fs::write(host.root.join("var/run/lldpad.pid"), format!("{}\n", lldpad._process.id())).unwrap();
        wait_until("the player", SOON, || if lldpad.log().starts_with("ready\n") { Ok(()) } else { Err("not ready") });
        lldpad
    }

    fn mode(&self, mode: &str) {
        let new = self.directory.path().join("new");
        fs::write(&new, mode).unwrap();
        fs::rename(new, self.directory.path().join("mode")).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// The requests that it got, without what all have in common.
    fn requests(&self) -> Vec<String> {
        self.log().lines().skip(1).map(str::to_owned).collect()
    }

    /// The operations of those requests, in order: 2 to associate, 3 to end that.
    fn operations(&self) -> Vec<u8> {
        self.requests().iter().map(|r| u8::from_str_radix(&r[r.len() - 8..r.len() - 6], 16).unwrap()).collect()
    }
}

/// A host whose device eth10 leads to a switch, with a daemon that waits a second for it.
fn bed<'a>(ns: &'a Namespace, mode: &str) -> (Host<'a>, Lldpad, Namespace) {
    let switch = ns.peer("switch");
    ns.veth("eth10", &switch, "p0");
    ns.veth("eth11", &switch, "p1");
    let mut host = Host::without_daemon(ns);
    fs::create_dir_all(host.root.join("etc/patchcord")).unwrap();
    fs::create_dir_all(host.root.join("var/run")).unwrap();
    fs::write(host.root.join("etc/patchcord/patchcord.toml"), "[devices]\nassociation_timeout = 1\n").unwrap();
    let lldpad = Lldpad::start(&host, mode);
    host.start();
    host.network(NETWORK);
    host.network("<network><name>plain</name><forward mode='vepa'><interface dev='eth11'/></forward></network>");
    (host, lldpad, switch)
}

fn attach(xml: &str) -> AttachNIC {
    AttachNIC { guest: "web".into(), xml: xml.into(), ..AttachNIC::default() }
}

/// The request for the NIC above on eth10, with that index.
fn request(index: u32, operation: u8) -> String {
    let index: String = index.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "00000000{index}0000000000000000\
        0a0003006574683130000000\
        400016003c00010028000100ffffffffdeadbeefcafe0000000000000000000000000000000000000000000000000000\
        10000200ffffffff0000000000000000\
        300018002c0001000c0003000b57341202000000\
        1400040009b11c538b5c4eeb8f00d84eaa0aaa4f05000600{operation:02x}000000"
    )
}

#[test]
fn a_nic_is_associated_with_exactly_what_its_document_and_its_networks_say() {
    in_namespace(|ns| {
        let (host, lldpad, _switch) = bed(ns, "accept");
        let index = host.link("eth10").unwrap()["ifindex"].as_u64().unwrap() as u32;
        let nic = host.call(&attach(NIC)).nic;
        assert_eq!((nic.state.as_str(), nic.actual.dev.as_deref()), ("plugged", Some("eth10")));
        assert_eq!(lldpad.requests(), [request(index, 2)], "before the answer");
        // A NIC that says nothing has its id for an instance.
        let plain = host.call(&attach(&interface("red-network"))).nic;
        assert!(lldpad.requests()[1].contains(&plain.id.replace('-', "")));
        host.detach(&nic.id);
        assert_eq!(lldpad.requests()[2], request(index, 3));
        let moved = host.call(&ModifyNIC { id: plain.id.clone(), xml: interface("plain") }).nic;
        assert_eq!(moved.actual.dev.as_deref(), Some("eth11"));
        host.call(&ModifyNIC { id: plain.id.clone(), xml: interface("red-network") });
        host.detach(&plain.id);
        assert_eq!(lldpad.operations(), [2, 2, 3, 3, 2, 3]);
    });
}

#[test]
fn what_the_switch_refuses_or_does_not_answer_is_not_attached_and_leaves_nothing() {
    in_namespace(|ns| {
        let (host, lldpad, _switch) = bed(ns, "refuse");
        let before = host.state();
        let (name, refusal) = host.refused(&attach(NIC));
        assert!(name.ends_with("HostFailed"), "{name}");
        let says = "eth10: 802.1Qbg type 1193047 version 2 of manager 11, instance 09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f: \
            the type is not allowed here, or the switch has other reasons (response 4)";
        assert!(refusal.cause.contains(says), "{}", refusal.cause);
        assert_eq!(host.state(), before);
        lldpad.mode("silent");
        let (_, refusal) = host.refused(&attach(NIC));
        assert!(refusal.cause.contains(": lldpad does not answer; see "), "{}", refusal.cause);
        assert_eq!(host.state(), before);
        drop(lldpad);
        let (_, refusal) = host.refused(&attach(NIC));
        assert!(refusal.cause.contains("which does not run"), "{}", refusal.cause);
        assert_eq!(host.state(), before);
        let again = Lldpad::start(&host, "accept");
        assert_eq!(host.call(&attach(NIC)).nic.state, "plugged");
        assert_eq!(again.operations(), [2]);
    });
}

#[test]
fn a_daemon_that_is_killed_while_it_asks_leaves_nothing() {
    in_namespace(|ns| {
        let (mut host, lldpad, _switch) = bed(ns, "accept");
        let before = host.state();
        lldpad.mode("silent");
        let client = host.client();
        let asking = std::thread::spawn(move || {
            let mut client = client;
            client.call(&attach(NIC)).map(drop).map_err(|error| error.to_string())
        });
        wait_until("the request", SOON, || lldpad.operations().first().copied().ok_or("none"));
        host.kill();
        assert!(asking.join().unwrap().is_err());
        // It was taken after all.
        lldpad.mode("accept");
        host.start();
        let asked = |operations: &[u8]| {
            wait_until("the request", SOON, || match lldpad.operations() {
                got if got == operations => Ok(()),
                got => Err(format!("{got:?}")),
            });
        };
        asked(&[2, 3]);
        wait_until("the end of its record", SOON, || if host.state() == before { Ok(()) } else { Err(host.state()) });
        // And what lives on is asked for again.
        let nic = host.call(&attach(NIC)).nic;
        host.kill();
        host.start();
        asked(&[2, 3, 2, 2]);
        host.detach(&nic.id);
        asked(&[2, 3, 2, 2, 3]);
        assert_eq!(host.state(), before);
    });
}
