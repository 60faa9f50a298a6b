//! libvirt's own clients on our socket: what they ask for and see, and what no client should send.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::remote::{Client, bytes, call, says, socket, virsh};
use common::{Host, SOON};
use patchcord_libvirt_wire::frame::{KEEPALIVE, PING, PONG};
use patchcord_libvirt_wire::xdr::{Reader, Writer};
use patchcord_libvirt_wire::{Frame, Header, Kind, Procedure, Status};
use patchcord_testkit::{Process, in_namespace, skip, test_name, wait_until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};

const LAB: &str = "<network><name>lab</name><uuid>81ff0d90-c91e-6742-64da-4a736edb9a9b</uuid><forward mode='nat'/>\
    <bridge name='virbr7'/><mac address='52:54:00:77:00:01'/><ip address='10.77.0.1' netmask='255.255.255.0'>\
    <dhcp><range start='10.77.0.2' end='10.77.0.99'/></dhcp></ip></network>";

/// What it prints of something that does not.
fn complains(host: &Host<'_>, read_only: bool, arguments: &[&str]) -> String {
    let Output { status, stderr, .. } = virsh(host, read_only, arguments).output().unwrap();
    assert!(!status.success(), "virsh {arguments:?} should fail");
    String::from_utf8(stderr).unwrap()
}

/// A table's rows, with their columns one space apart.
fn rows(table: &str) -> Vec<String> {
    let rows = table.lines().skip(2).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    rows.filter(|row| !row.is_empty()).collect()
}

#[test]
fn virsh_manages_networks() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        let file = host.root.join("lab.xml");
        fs::write(&file, LAB).unwrap();
        let lab = file.to_str().unwrap();
        assert_eq!(
            says(&host, &["uri"]).trim(),
            format!("network+unix:///system?socket={}", socket(&host, false).display())
        );
        let events = host.root.join("events");
        let plain = virsh(&host, false, &["net-event", "--event", "lifecycle", "--loop"]);
        // virsh keeps to itself for a while what it writes to a file.
        let mut watch = Command::new("stdbuf");
        watch.arg("-oL").arg(plain.get_program()).args(plain.get_args()).env("LC_ALL", "C").stdin(Stdio::null());
        watch.stdout(fs::File::create(&events).unwrap());
        let mut watching = Process::start(watch);
        // Whether it is registered nobody says; a network that comes and goes tells.
        wait_until("virsh to listen", SOON, || {
            says(&host, &["net-create", lab]);
            says(&host, &["net-destroy", "lab"]);
            let heard = fs::read_to_string(&events).unwrap();
            if heard.contains("Stopped") { Ok(()) } else { Err(heard) }
        });
        fs::write(&events, "").unwrap();

        says(&host, &["net-define", lab]);
        assert_eq!(rows(&says(&host, &["net-list", "--all"])), ["lab inactive no yes"]);
        assert_eq!(rows(&says(&host, &["net-list"])), [""; 0]);
        says(&host, &["net-start", "lab"]);
        says(&host, &["net-autostart", "lab"]);
        assert_eq!(rows(&says(&host, &["net-list", "--persistent", "--autostart"])), ["lab active yes yes"]);
        assert_eq!(rows(&says(&host, &["net-list", "--transient"])), [""; 0]);
        assert_eq!(says(&host, &["net-list", "--name"]).trim(), "lab");
        let bridge = &ns.json("ip -j addr show virbr7")[0];
        assert!(bridge["addr_info"].as_array().unwrap().iter().any(|a| a["local"] == "10.77.0.1"), "{bridge}");
        let info = says(&host, &["net-info", "lab"]);
        for (key, value) in [
            ("Name", "lab"),
            ("UUID", "81ff0d90-c91e-6742-64da-4a736edb9a9b"),
            ("Active", "yes"),
            ("Persistent", "yes"),
            ("Autostart", "yes"),
            ("Bridge", "virbr7"),
        ] {
            let line = info.lines().find(|line| line.starts_with(&format!("{key}:"))).unwrap();
            assert_eq!(line.split_whitespace().nth(1), Some(value), "{info}");
        }
        assert_eq!(says(&host, &["net-uuid", "lab"]).trim(), "81ff0d90-c91e-6742-64da-4a736edb9a9b");
        assert_eq!(says(&host, &["net-name", "81ff0d90-c91e-6742-64da-4a736edb9a9b"]).trim(), "lab");
        let reserved = "<host mac='52:54:00:00:00:05' name='five' ip='10.77.0.5'/>";
        says(&host, &["net-update", "lab", "add-last", "ip-dhcp-host", reserved, "--live", "--config"]);
        for which in [&["net-dumpxml", "lab"][..], &["net-dumpxml", "--inactive", "lab"]] {
            assert!(says(&host, which).contains(reserved), "{which:?}");
        }

        // A guest's lease, by the network's own dnsmasq.
        let (nic, mut guest) = host.guest_on("lab", "web");
        guest.dhcp(SOON).unwrap();
        let leases = rows(&says(&host, &["net-dhcp-leases", "lab"]));
        assert!(leases.len() == 1 && leases[0].contains(nic.mac.as_deref().unwrap()), "{leases:?}");
        assert!(leases[0].contains("ipv4 10.77.0."), "{leases:?}");
        assert_eq!(rows(&says(&host, &["net-dhcp-leases", "lab", "52:54:00:00:00:99"])), [""; 0]);

        says(&host, &["net-destroy", "lab"]);
        assert!(host.link("virbr7").is_none());
        says(&host, &["net-undefine", "lab"]);
        assert_eq!(rows(&says(&host, &["net-list", "--all"])), [""; 0]);
        let expected = ["Defined", "Started", "Stopped", "Undefined"];
        wait_until("the events", SOON, || {
            let heard = fs::read_to_string(&events).unwrap().replace('\0', "");
            let heard: Vec<&str> = heard.lines().filter_map(|line| line.split_whitespace().last()).collect();
            if heard == expected { Ok(()) } else { Err(format!("{heard:?}")) }
        });
        watching.kill();
    });
}

#[test]
fn refusals_have_the_codes_and_words_that_clients_know() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(LAB);
        let twin = host.root.join("twin.xml");
        fs::write(&twin, LAB.replace("<name>lab", "<name>twin")).unwrap();
        let broken = host.root.join("broken.xml");
        fs::write(&broken, "<network><name>x</name><ip address='here'/></network>").unwrap();
        let odd = host.root.join("odd.xml");
        fs::write(
            &odd,
            LAB.replace("lab", "odd")
                .replace("virbr7", "virbr8")
                .replace("81ff", "91ff")
                .replace("</network>", "<odd/></network>"),
        )
        .unwrap();
        for (arguments, says) in [
            (&["net-info", "nope"][..], "error: Network not found: network 'nope'"),
            (&["net-start", "lab"], "error: Requested operation is not valid: network 'lab': it is active already"),
            (&["net-define", twin.to_str().unwrap()], "error: operation failed: network 'twin', <uuid>: "),
            (
                &["net-define", broken.to_str().unwrap()],
                "error: XML error: network 'x', <ip address>: 'here' is not an IP address (line 1, column 28)",
            ),
            (
                &["net-define", "--validate", odd.to_str().unwrap()],
                "error: XML error: network 'odd', <odd>: there is no such element in <network>",
            ),
            (&["list"], "error: this function is not supported by the connection driver: "),
        ] {
            let said = complains(&host, false, arguments);
            assert!(said.lines().any(|line| line.starts_with(says)), "{arguments:?}: {said}");
        }
        says(&host, &["net-define", odd.to_str().unwrap()]);
        // The socket for reading is for reading, whatever its client says.
        for (arguments, api) in [
            (&["net-destroy", "lab"][..], "virNetworkDestroy"),
            (&["net-define", twin.to_str().unwrap()], "virNetworkDefineXML"),
            (&["net-autostart", "lab"], "virNetworkSetAutostart"),
        ] {
            let said = complains(&host, true, arguments);
            let says = format!("error: operation forbidden: read only access prevents {api}");
            assert!(said.contains(&says), "{arguments:?}: {said}");
        }
        let Output { status, stdout, .. } = virsh(&host, true, &["net-list"]).output().unwrap();
        assert!(status.success() && rows(&String::from_utf8(stdout).unwrap()) == ["lab active no yes"]);
    });
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn many_calls_and_signs_of_life_go_side_by_side() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        let network = host.network(LAB);
        let mut client = Client::opened(&host);
        for serial in 1..=40 {
            client.say(&call(Procedure::NetworkLookupByName, serial, Writer::default().string("lab")));
            let ping = Header { program: KEEPALIVE, ..call(Procedure::ConnectOpen, 0, &Writer::default()).header };
            let ping = Header { procedure: PING, kind: Kind::Message, ..ping };
            client.say(&Frame { header: ping, payload: Vec::new() });
        }
        let (mut answered, mut pongs) = (Vec::new(), 0);
        while answered.len() < 40 || pongs < 40 {
            let Frame { header, payload } = client.hears().unwrap();
            if header.program == KEEPALIVE {
                assert_eq!((header.procedure, header.kind, payload.len()), (PONG, Kind::Message, 0));
                pongs += 1;
            } else {
                let mut r = Reader::new(&payload);
                assert_eq!(r.string("").unwrap(), "lab");
                assert_eq!(hex(&r.uuid("").unwrap()), network.uuid.replace('-', ""));
                answered.push(header.serial);
            }
        }
        answered.sort_unstable();
        assert_eq!(answered, (1..=40).collect::<Vec<_>>());
        client.say(&call(Procedure::ConnectClose, 41, &Writer::default()));
        assert_eq!(client.hears().unwrap().header.serial, 41);
        assert_eq!(client.hears(), None);
    });
}

#[test]
fn what_no_client_sends_harms_nobody() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(LAB);
        // Before it is opened, a connection answers little.
        let mut client = Client::new(&host);
        client.say(&call(Procedure::ConnectListAllNetworks, 0, Writer::default().u32(1).u32(0)));
        assert_eq!(client.hears_refusal(), (39, "the connection is not open".into()));
        let uri = |uri: &str| {
            let mut w = Writer::default();
            w.text(Some(uri)).u32(0);
            w
        };
        client.say(&call(Procedure::ConnectOpen, 1, &uri("network:///session")));
        let refused = client.hears_refusal();
        assert!(refused.0 == 8 && refused.1.contains("'network:///session' is not network:///system"), "{refused:?}");

        // It goes on after each of these.
        let mut client = Client::opened(&host);
        let odd = |change: &dyn Fn(Header) -> Header| {
            let frame = call(Procedure::ConnectGetType, 5, &Writer::default());
            Frame { header: change(frame.header), ..frame }
        };
        for (frame, code, says) in [
            (odd(&|h| Header { procedure: 9999, ..h }), 39, "unknown procedure: 9999"),
            (odd(&|h| Header { procedure: -1, ..h }), 39, "unknown procedure: -1"),
            (
                odd(&|h| Header { procedure: 273, ..h }),
                3,
                "this function is not supported by the connection driver: procedure 273",
            ),
            (odd(&|h| Header { program: 0x2000_8087, ..h }), 39, "Cannot find program 536903815 version 1"),
            (odd(&|h| Header { version: 2, ..h }), 39, "Cannot find program 536903814 version 2"),
            (odd(&|h| Header { kind: Kind::Other(4), ..h }), 39, "packets of type 4 are not taken here"),
            (odd(&|h| Header { kind: Kind::Reply, ..h }), 39, "that is for a server to send"),
            (
                call(Procedure::NetworkLookupByName, 6, Writer::default().u32(5).u32(0)),
                39,
                "the arguments of virNetworkLookupByName: the message ends inside the name",
            ),
            (
                call(Procedure::ConnectGetType, 7, Writer::default().u32(5)),
                39,
                "the arguments of virConnectGetType: 4 bytes too many",
            ),
        ] {
            client.say(&frame);
            assert_eq!(client.hears_refusal(), (code, says.to_owned()));
        }
        client.say(&call(Procedure::ConnectGetType, 8, &Writer::default()));
        assert_eq!(Reader::new(&client.hears().unwrap().payload).string("").unwrap(), "network");

        // And ends after each of those.
        for bytes in [&[0, 0, 0, 1][..], &[0xff; 40], &[0, 0, 0, 27, 1, 2, 3]] {
            let mut client = Client::opened(&host);
            client.stream.write_all(bytes).unwrap();
            assert_eq!(client.hears(), None, "{bytes:?}");
        }
        // Where anybody may come, a long packet is not waited for.
        let mut client = Client::at(&host, true);
        client.stream.write_all(&(64_u32 * 1024 + 1).to_be_bytes()).unwrap();
        assert_eq!(client.hears(), None);
        // One that closes its side is answered still, and then let go; half a packet is no call.
        let mut client = Client::opened(&host);
        client.say(&call(Procedure::ConnectGetType, 9, &Writer::default()));
        client.stream.write_all(&[0, 0, 0, 40, 1]).unwrap();
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(client.hears().map(|frame| frame.header.serial), Some(9));
        assert_eq!(client.hears(), None);
    });
}

/// As many as libvirt's own daemon takes.
const CONNECTIONS: usize = 5000;

#[test]
fn five_thousand_clients_are_no_burden_and_one_more_is_turned_away() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(LAB);
        // Their other ends are ours.
        let files = Some(CONNECTIONS as u64 + 1000);
        if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: files, ..getrlimit(Resource::Nofile) }) {
            return skip(&test_name(), &format!("host lets a test open too few files: {error}"));
        }
        let ask = |client: &mut Client| {
            client.say(&call(Procedure::NetworkLookupByName, 1, Writer::default().string("lab")));
            assert_eq!(client.hears().unwrap().header.status, Status::Ok);
        };
        let open = |n: usize| if n.is_multiple_of(2) { Client::opened(&host) } else { Client::new(&host) };
        let mut all: Vec<Client> = (1..CONNECTIONS).map(open).collect();
        // Most of them say nothing.
        assert_eq!(rows(&says(&host, &["net-list"])), ["lab active no yes"]);
        let memory = memory(&host);
        assert!(memory < 200 * 1024, "{memory} KiB of memory");
        wait_until("room for the last one", SOON, || {
            let mut last = Client::new(&host);
            last.say(&call(Procedure::ConnectOpen, 0, Writer::default().u32(0).u32(0)));
            last.hears().map(|_| all.push(last)).ok_or("virsh has not gone")
        });
        for _ in 0..3 {
            assert_eq!(Client::new(&host).hears(), None);
        }
        assert_eq!(host.log().matches("more are refused").count(), 1, "{}", host.log());
        ask(all.last_mut().unwrap());
        ask(&mut all[1]);
        // Others are not kept out by that.
        assert!(host.show("lab").active);
        ask(&mut Client::opened_at(&host, true));
        all.clear();
        wait_until("room again", SOON, || {
            let output = virsh(&host, false, &["net-list"]).output().unwrap();
            if output.status.success() { Ok(()) } else { Err(String::from_utf8(output.stderr).unwrap()) }
        });
    });
}

/// The daemon's memory, in KiB.
fn memory(host: &Host<'_>) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_host_that_libvirt_serves_is_left_to_it() {
    in_namespace(|ns| {
        let mut host = Host::without_daemon(ns);
        fs::create_dir_all(host.root.join("run/libvirt")).unwrap();
        let monolith = std::os::unix::net::UnixListener::bind(host.root.join("run/libvirt/libvirt-sock")).unwrap();
        host.start();
        assert!(!socket(&host, false).exists());
        assert!(host.log().contains("libvirt's clients are left to it"), "{}", host.log());
        // Unless that is what is wanted.
        host.kill();
        fs::create_dir_all(host.root.join("etc/patchcord")).unwrap();
        let config = host.root.join("etc/patchcord/patchcord.toml");
        fs::write(&config, "[libvirt]\nnetwork = \"on\"\n").unwrap();
        host.start();
        assert_eq!(rows(&says(&host, &["net-list"])), [""; 0]);
        drop(monolith);
        host.kill();
        fs::write(&config, "[libvirt]\nnetwork = \"off\"\n").unwrap();
        host.start();
        assert!(UnixStream::connect(socket(&host, false)).is_err());
    });
}

#[test]
fn each_driver_has_its_sockets_and_a_switch() {
    in_namespace(|ns| {
        let mut host = Host::without_daemon(ns);
        fs::create_dir_all(host.root.join("etc/patchcord")).unwrap();
        let config = host.root.join("etc/patchcord/patchcord.toml");
        let served = |host: &Host<'_>| {
            let entries = fs::read_dir(host.root.join("run/libvirt")).unwrap().flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        host.start();
        let both = |daemon: &str| [format!("{daemon}-sock"), format!("{daemon}-sock-ro")];
        assert_eq!(served(&host), [both("virtinterfaced"), both("virtnetworkd")].concat());
        host.stop();
        fs::remove_dir_all(host.root.join("run/libvirt")).unwrap();
        fs::write(&config, "[libvirt]\nnetwork = \"off\"\ninterface = \"off\"\nnodedev = \"on\"\n").unwrap();
        host.start();
        assert_eq!(served(&host), both("virtnodedevd"));
    });
}

#[test]
fn a_driver_leaves_to_others_what_is_theirs() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        let path = host.root.join("run/libvirt/virtinterfaced-sock");
        let uri = format!("interface+unix:///system?socket={}", path.display());
        let said = Command::new("virsh").args(["-c", &uri, "version"]).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(said.contains("Running hypervisor: interface 9.0.0"), "{said}");
        let mut client = Client::on(&path);
        client.say(&call(Procedure::ConnectOpen, 0, Writer::default().text(Some("network:///system")).u32(0)));
        let refused = client.hears_refusal();
        assert!(refused.0 == 8 && refused.1.contains("is not interface:///system"), "{refused:?}");
        client.say(&call(Procedure::ConnectOpen, 1, Writer::default().text(Some("interface:///system")).u32(0)));
        assert_eq!(client.hears().unwrap().header.status, Status::Ok);
        client.say(&call(Procedure::ConnectGetType, 2, &Writer::default()));
        assert_eq!(Reader::new(&client.hears().unwrap().payload).string("").unwrap(), "interface");
        client.say(&call(Procedure::NetworkLookupByName, 3, Writer::default().string("lab")));
        let refused = client.hears_refusal();
        assert_eq!(
            refused,
            (3, "this function is not supported by the connection driver: virNetworkLookupByName".into())
        );
    });
}

const PORT: &str = "<networkport><uuid>5d744f21-ba4a-4d6e-bdb2-30a35ff3207d</uuid><owner><name>web</name>\
    <uuid>06578fc1-c686-46fa-bc2c-83893b466a6d</uuid></owner><group>staff</group>\
    <mac address='52:54:00:7b:35:93'/></networkport>";

#[test]
fn a_port_says_what_its_guest_gets_and_takes_its_tap_back_into_the_bridge() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        let staff = "<portgroup name='staff'><bandwidth><inbound average='100'/></bandwidth></portgroup>";
        let isolated = "<port isolated='yes'/></network>";
        host.network(&LAB.replace("</network>", &format!("{staff}{isolated}")));
        let file = host.root.join("port.xml");
        fs::write(&file, PORT).unwrap();
        let (file, uuid) = (file.to_str().unwrap().to_owned(), "5d744f21-ba4a-4d6e-bdb2-30a35ff3207d");
        says(&host, &["net-port-create", "lab", &file]);
        assert_eq!(rows(&says(&host, &["net-port-list", "lab"])), [uuid]);
        let xml = says(&host, &["net-port-dumpxml", "lab", uuid]);
        for part in [
            "<group>staff</group>",
            "<mac address='52:54:00:7b:35:93'/>",
            "<inbound average='100'/>",
            "<port isolated='yes'/>",
            "<plug type='network' bridge='virbr7'/>",
        ] {
            assert!(xml.contains(part), "{part} in {xml}");
        }
        let twice = complains(&host, false, &["net-port-create", "lab", &file]);
        assert!(twice.contains("error: network port already exists: "), "{twice}");
        // virsh says nothing of why.
        let mut client = Client::opened(&host);
        let network = host.show("lab");
        let lab = bytes(&network.uuid);
        client.say(&call(
            Procedure::NetworkPortLookupByUuid,
            1,
            Writer::default().string("lab").uuid(lab).uuid([7; 16]),
        ));
        let missing = client.hears_refusal();
        assert!(missing.0 == 107 && missing.1.starts_with("network port not found: port 07070707-"), "{missing:?}");

        // As libvirt's driver makes a guest's tap.
        ns.run("ip tuntap add dev vnet0 mode tap");
        ns.run("ip link set dev vnet0 address fe:54:00:7b:35:93 master virbr7 up");
        let controller = || ns.json("ip -j link show dev vnet0")[0]["master"].as_str().map(str::to_owned);
        wait_until("the port's tap", SOON, || match host.nics().first() {
            Some(nic) if nic.state == "plugged" && nic.actual.tap.as_deref() == Some("vnet0") => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let back = |host: &Host<'_>| {
            host.stop_network("lab");
            // Its bridge is deleted a moment later.
            assert!(controller().is_none_or(|name| name.starts_with("pcdel")), "{:?}", controller());
            host.start_network("lab");
            assert_eq!(controller().as_deref(), Some("virbr7"));
            let port = &ns.json("bridge -d -j link show dev vnet0")[0];
            assert_eq!(port["isolated"], true, "{port}");
        };
        back(&host);
        host.kill();
        host.start();
        assert_eq!(says(&host, &["net-port-dumpxml", "lab", uuid]), xml);
        back(&host);
        // A network that stops while there is no daemon to see it can't be; one that others take the bridge of can.
        ns.run("ip link del virbr7");
        wait_until("the tap's return", SOON, || if controller().is_some() { Ok(()) } else { Err("it is in none") });

        says(&host, &["net-port-delete", "lab", uuid]);
        assert_eq!(rows(&says(&host, &["net-port-list", "lab"])), [""; 0]);
        assert!(ns.json("ip -j link show dev vnet0")[0]["ifname"] == "vnet0", "it is not ours to delete");
        host.stop_network("lab");
        host.start_network("lab");
        assert_ne!(controller().as_deref(), Some("virbr7"));
    });
}
