//! What is refused: with a reason, and with nothing changed.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::{Host, SOON, attach, differences, interface, interface_with_mac};
use patchcord_api::error::Refusal;
use patchcord_api::methods::{AttachNIC, CreateNetwork, DefineNetwork, Method, StartNetwork, UpdateNetwork};
use patchcord_testkit::{Process, in_namespace, wait_until};
use std::fmt::Debug;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

const NET: &str = "<network><name>net</name><uuid>8f1a2b3c-0000-4000-8000-000000000001</uuid><bridge name='brnet' stp='off'/>\
     <ip address='10.5.0.1' prefix='24'/></network>";

/// Refused as `kind`, with a word of the reason in its text, and with nothing changed.
fn refused<M: Method + Debug>(host: &Host<'_>, method: &M, kind: &str, says: &str) -> Refusal
where
    M::Reply: Debug,
{
    let before = host.state();
    let (error, refusal) = host.refused(method);
    let text = format!("{refusal} {}", refusal.hint.as_deref().unwrap_or_default());
    assert_eq!(error, kind, "{method:?}: {text}");
    assert!(text.contains(says), "'{says}' is not in: {text}");
    assert!(!refusal.object.is_empty() && (1..=5).contains(&refusal.exit), "{refusal:?}");
    let after = host.state();
    assert!(before == after, "{method:?} changed something: {}", differences(&before, &after));
    refusal
}

fn define(xml: impl Into<String>) -> DefineNetwork {
    DefineNetwork { xml: xml.into() }
}

#[test]
fn documents_that_are_none() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        let deep = format!("<network>{}{}</network>", "<metadata>".repeat(5000), "</metadata>".repeat(5000));
        let huge = format!("<network><name>big</name><title>{}</title></network>", "x".repeat(6_000_000));
        for xml in ["", "no xml", "<network>", "<network><name>x</network>", &deep] {
            refused(&host, &define(xml), "InvalidXml", "");
        }
        // A document that is too large is told so, and a message that is too long as well: before it has ended.
        let large = format!("<network><name>big</name><title>{}</title></network>", "x".repeat(1_500_000));
        refused(&host, &define(large), "InvalidXml", "and may have 1048576");
        refused(&host, &define(huge), "InvalidArgument", "longer than 2097152 bytes a document may have 1048576 bytes");
        let dtd = "<!DOCTYPE n [<!ENTITY a 'b'><!ENTITY c '&a;&a;'>]><network><name>&c;</name></network>";
        refused(&host, &define(dtd), "InvalidXml", "");
        let refusal =
            refused(&host, &define("<network>\n <name>x</name>\n <nonsense/>\n</network>"), "InvalidXml", "nonsense");
        assert_eq!((refusal.line, refusal.column.is_some()), (Some(3), true), "{refusal:?}");
        refused(
            &host,
            &define("<network><name>x</name><ip address='10.0.0.300'/></network>"),
            "InvalidXml",
            "10.0.0.300",
        );
        refused(&host, &define("<network/>"), "InvalidXml", "name");
        refused(&host, &define("<domain><name>x</name></domain>"), "InvalidXml", "network");
    });
}

#[test]
fn names_that_are_none() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        let long = "n".repeat(201);
        for name in ["../../etc/x", "a/b", "&#10;", long.as_str(), "", ".", ".."] {
            refused(&host, &define(format!("<network><name>{name}</name></network>")), "InvalidXml", "");
        }
        for bridge in
            ["sixteen-bytes-xx", "a/b", "a b", "..", "a:b", "vb*", "vbc,up0", "a&quot;b;", "a\\b", "a#b", "a*%d"]
        {
            let xml = format!("<network><name>x</name><bridge name='{bridge}'/></network>");
            refused(&host, &define(xml), "InvalidXml", "");
        }
        host.network(NET);
        for guest in ["", "a/b", long.as_str(), "\u{7}"] {
            refused(&host, &attach(guest, &interface("net")), "InvalidArgument", "");
        }
        for target in ["sixteen-bytes-xx", "a/b", "brnet", "lo"] {
            let xml = format!("<interface type='network'><source network='net'/><target dev='{target}'/></interface>");
            let before = host.state();
            host.refused(&attach("g", &xml));
            assert_eq!(before, host.state());
        }
    });
}

#[test]
fn what_is_there_already() {
    in_namespace(|ns| {
        ns.run("ip link add taken type bridge");
        ns.run("ip link add up0 type bridge");
        ns.run("ip link set up0 up");
        ns.run("ip addr add 172.20.0.1/16 dev up0");
        let host = Host::new(ns);
        host.network(NET);
        let other = NET.replace("000000000001", "000000000002");
        refused(&host, &define(other.as_str()), "Exists", "8f1a2b3c-0000-4000-8000-000000000001");
        refused(&host, &define(NET.replace(">net<", ">net2<")), "Exists", "net");
        let named = |name: &str, bridge: &str, ip: &str| {
            format!("<network><name>{name}</name><bridge name='{bridge}'/><ip address='{ip}' prefix='24'/></network>")
        };
        refused(&host, &define(named("b", "brnet", "10.6.0.1")), "InUse", "net");
        refused(&host, &StartNetwork { name: "net".into() }, "InvalidState", "active");
        refused(&host, &StartNetwork { name: "nowhere".into() }, "NotFound", "nowhere");
        // Overlaps are refused at the start: with an active network, and with a route of the host's.
        let create = |name: &str, bridge: &str, ip: &str| CreateNetwork { xml: named(name, bridge, ip) };
        refused(&host, &create("o", "bro", "10.5.0.129"), "InUse", "net");
        refused(&host, &create("o", "bro", "172.20.9.1"), "InUse", "up0");
        refused(&host, &create("o", "taken", "10.9.0.1"), "InUse", "taken");
        // An address of the host's that no route of the main table leads to.
        ns.run("ip addr add 10.77.0.5/32 dev up0");
        wait_until("the daemon to see the address", SOON, || {
            match host.client().call(&create("o", "bro", "10.77.0.1")) {
                Err(refused) if refused.to_string().contains("10.77.0.5 on up0") => Ok(()),
                Err(other) => Err(other.to_string()),
                Ok(_) => {
                    host.stop_network("o");
                    Err("it starts".into())
                }
            }
        });
        let lan = "<network><name>lan</name><forward mode='bridge'/><bridge name='nobr'/></network>";
        refused(&host, &CreateNetwork { xml: lan.into() }, "NotFound", "nobr");
    });
}

#[test]
fn nics_that_cannot_be() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(NET);
        host.call(&define("<network><name>idle</name></network>"));
        let nic = host.call(&attach("g", &interface_with_mac("net", "52:54:00:00:00:01"))).nic;
        assert_eq!(nic.state, "plugged");
        let same = interface_with_mac("net", "52:54:00:00:00:01");
        refused(&host, &attach("h", &same), "InUse", "52:54:00:00:00:01");
        refused(&host, &attach("h", &interface_with_mac("net", "01:00:5e:00:00:01")), "InvalidXml", "multicast");
        refused(&host, &attach("h", &interface_with_mac("net", "00:00:00:00:00:00")), "InvalidXml", "");
        refused(&host, &attach("h", &interface("nowhere")), "NotFound", "nowhere");
        refused(&host, &attach("h", &interface("idle")), "InvalidState", "idle");
        refused(
            &host,
            &attach("h", "<interface type='bridge'><source bridge='nobr'/></interface>"),
            "NotFound",
            "nobr",
        );
        let filtered = "<interface type='network'><source network='net'/><filterref filter='clean'/></interface>";
        refused(&host, &attach("h", filtered), "InvalidXml", "filterref");
        let actual = "<interface type='network'><source network='net'/><actual type='bridge'/></interface>";
        refused(&host, &attach("h", actual), "InvalidXml", "actual");
        let owned = |pid| AttachNIC { owner_pid: Some(pid), ..attach("h", &interface("net")) };
        refused(&host, &owned(4_194_304), "InvalidArgument", "4194304");
        refused(&host, &owned(0), "InvalidArgument", "");
        let update = UpdateNetwork {
            name: "net".into(),
            command: "add".into(),
            section: "ip-dhcp-host".into(),
            xml: "<host mac='52:54:00:00:00:09' ip='10.99.0.9'/>".into(),
            ..UpdateNetwork::default()
        };
        let before = host.state();
        host.refused(&update);
        assert_eq!(before, host.state());
    });
}

/// Starts another daemon, which must give up; gives what it said.
fn gives_up(host: &Host<'_>, root: &std::path::Path) -> String {
    let log = host.root.join("second.log");
    let mut second = Process::start(Host::command(root, &log));
    let status = wait_until("the second daemon to give up", SOON, || second.ended().ok_or("it runs"));
    assert!(!status.success());
    let said = fs::read_to_string(&log).unwrap();
    fs::remove_file(log).unwrap();
    said
}

#[test]
fn a_second_daemon_gives_up() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(NET);
        let before = host.state();
        let said = gives_up(&host, &host.root);
        assert!(said.contains(&host.pid().to_string()), "it names the first: {said}");
        let elsewhere = tempfile::tempdir().unwrap();
        let said = gives_up(&host, elsewhere.path());
        assert!(said.contains("namespace") && said.contains(&host.pid().to_string()), "{said}");
        assert_eq!(before, host.state());
        assert!(host.show("net").active);
    });
}

#[test]
fn clients_that_send_garbage_or_go_away() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(NET);
        let before = host.state();
        let mut garbage: Vec<Vec<u8>> = vec![
            b"{\"method\":\"org.patchcord.Switch.StopNetwork\",\"parameters\":{\"name\":1}}\0".to_vec(),
            b"\0\0\0".to_vec(),
            b"GET / HTTP/1.1\r\n\r\n\0".to_vec(),
            b"{\"method\":12}\0".to_vec(),
            b"{\"method\":\"org.patchcord.Switch.Nothing\"}\0".to_vec(),
            b"{\"method\":\"org.patchcord.Switch.StopNetwork\",\"parameters\":{\"nome\":\"net\"}}\0".to_vec(),
            vec![0xff; 100_000],
        ];
        garbage.push([b"[".repeat(500_000), vec![0]].concat());
        for bytes in garbage {
            let mut stream = UnixStream::connect(host.socket()).unwrap();
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            let answer = String::from_utf8(answer).unwrap();
            let (begins, is_whole) = (&bytes[..bytes.len().min(60)], bytes.ends_with(&[0]));
            let says = ["org.patchcord.Switch.", "org.varlink.service."].iter().any(|error| answer.contains(error));
            assert_eq!(says, is_whole, "{:?}: {answer}", String::from_utf8_lossy(begins));
            assert!(
                !answer.contains("InvalidParameter") || answer.contains("nome") || answer.contains("string"),
                "{answer}"
            );
        }
        assert_eq!(before, host.state());
        // A client that asks for descriptors and is gone before they come leaves no NIC.
        for _ in 0..20 {
            let parameters = serde_json::json!({ "guest": "g", "xml": interface("net"), "fetch": true });
            let call = serde_json::json!({ "method": "org.patchcord.Switch.AttachNIC", "parameters": parameters });
            let mut stream = UnixStream::connect(host.socket()).unwrap();
            // However soon the answer comes, it comes too late.
            stream.shutdown(std::net::Shutdown::Read).unwrap();
            stream.write_all(&[call.to_string().as_bytes(), b"\0"].concat()).unwrap();
            drop(stream);
        }
        wait_until("NICs of nobody to be gone", SOON, || match (host.nics().len(), host.state()) {
            (0, state) if state == before => Ok(()),
            (count, state) => Err(format!("{count} NICs, {}", differences(&before, &state))),
        });
    });
}

#[test]
fn users_cannot_keep_the_administrator_out() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(NET);
        let socket = host.socket();
        // As many as one user may have, by as many users as it takes.
        let idle = |uid: u32| {
            let socket = socket.clone();
            let connect = move || {
                let uid = rustix::process::Uid::from_raw(uid);
                rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
                (0..64).map(|_| UnixStream::connect(&socket).unwrap()).collect::<Vec<_>>()
            };
            // A user of the thread's own, whoever runs the test.
            std::thread::spawn(connect).join().unwrap()
        };
        let users: Vec<_> = (20_000..20_017).map(idle).collect();
        for _ in 0..20 {
            assert!(host.show("net").active);
        }
        let refusals = host.log().matches("too many native connections").count();
        assert_eq!(refusals, 1, "those of the last user are refused, and the log is not filled with that");
        drop(users);
    });
}
