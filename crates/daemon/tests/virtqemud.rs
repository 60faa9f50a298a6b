//! What libvirt's QEMU driver asks of a network daemon, call by call, from a daemon of its own (`virtqemud`): each operation
//! on a connection of its own, with somebody's identity. The host's part of that driver is played here, too: it makes a
//! guest's tap and puts it where the port says.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::rates::{has_police, ifbs};
use common::remote::{Client, call, says, virsh};
use common::{Host, SOON, ip};
use patchcord_api::methods::ImportLibvirt;
use patchcord_libvirt_wire::xdr::{Parameter, Reader, Value, Writer};
use patchcord_libvirt_wire::{Procedure as P, Status};

use patchcord_testkit::{Guest, Namespace, in_namespace, wait_until};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x7b, 0x35, 0x93];
const FIRST: u8 = 1;
const SECOND: u8 = 2;
const RECLAIM: u32 = 1;

fn network(name: &str, number: u8, more: &str) -> String {
    format!(
        "<network><name>{name}</name><forward mode='nat'/><bridge name='virbr{number}'/>{more}\
         <ip address='10.77.{number}.1' prefix='24'><dhcp><range start='10.77.{number}.2' end='10.77.{number}.99'/></dhcp>\
         </ip></network>"
    )
}

/// A port's UUID.
fn id(number: u8) -> [u8; 16] {
    [number; 16]
}

fn uuid(number: u8) -> String {
    let two = format!("{number:02x}");
    [4, 2, 2, 2, 6].map(|bytes| two.repeat(bytes)).join("-")
}

/// What the driver says of a port: what the guest's `<interface>` says, whose it is, and where it is if it was reclaimed.
fn port(number: u8, more: &str) -> String {
    format!(
        "<networkport><uuid>{}</uuid><owner><name>web</name><uuid>06578fc1-c686-46fa-bc2c-83893b466a6d</uuid></owner>\
         <mac address='52:54:00:7b:35:93'/>{more}</networkport>",
        uuid(number)
    )
}

/// A connection of the driver's, for one operation.
struct Operation {
    client: Client,
    serial: u32,
}

/// Whom the driver speaks for: itself, or a client of its own.
enum For {
    Itself,
    User(u64),
}

impl Operation {
    fn of(host: &Host<'_>, whom: &For) -> Self {
        let mut new = Self { client: Client::new(host), serial: 0 };
        new.ok(P::AuthList, &Writer::default());
        assert_eq!(new.feature(10), 1);
        new.ok(P::ConnectOpen, Writer::default().text(Some("network:///system")).u32(0));
        assert_eq!((new.feature(14), new.feature(15)), (1, 1));
        let text = |field: &str, value: &str| Parameter { field: field.into(), value: Value::String(value.into()) };
        let number = |field: &str, value| Parameter { field: field.into(), value: Value::Ullong(value) };
        let identity = match whom {
            For::Itself => vec![
                text("user-name", "root"),
                number("unix-user-id", 0),
                number("process-id", u64::from(std::process::id())),
                text("system.token", "d41d8cd98f00b204e9800998ecf8427ed41d8cd98f00b204e9800998ecf8427e"),
            ],
            For::User(uid) => {
                vec![text("user-name", "nobody"), number("unix-user-id", *uid), number("unix-group-id", *uid)]
            }
        };
        new.ok(P::ConnectSetIdentity, Writer::default().parameters(&identity).u32(0));
        new
    }

    fn ask(&mut self, procedure: P, arguments: &Writer) -> Result<Vec<u8>, (i32, String)> {
        self.serial += 1;
        self.client.say(&call(procedure, self.serial, arguments));
        let frame = self.client.hears().unwrap();
        assert_eq!((frame.header.serial, frame.header.procedure), (self.serial, procedure.number()));
        if frame.header.status == Status::Ok {
            return Ok(frame.payload);
        }
        let mut r = Reader::new(&frame.payload);
        let (code, _domain) = (r.i32("").unwrap(), r.i32("").unwrap());
        Err((code, r.option("", |r| r.string("")).unwrap().unwrap()))
    }

    fn ok(&mut self, procedure: P, arguments: &Writer) -> Vec<u8> {
        self.ask(procedure, arguments).unwrap_or_else(|refused| panic!("{}: {refused:?}", procedure.api()))
    }

    fn feature(&mut self, number: i32) -> i32 {
        Reader::new(&self.ok(P::ConnectSupportsFeature, Writer::default().i32(number))).i32("").unwrap()
    }

    /// Looks a network up; gives what names it in later calls.
    fn network(&mut self, name: &str) -> Writer {
        let reply = self.ok(P::NetworkLookupByName, Writer::default().string(name));
        let mut r = Reader::new(&reply);
        let mut named = Writer::default();
        named.string(&r.string("").unwrap()).uuid(r.uuid("").unwrap());
        named
    }

    fn xml(&mut self, network: &Writer) -> String {
        Reader::new(&self.ok(P::NetworkGetXmlDesc, network.clone().u32(0))).string("").unwrap()
    }

    /// Makes a port; gives what it says of itself.
    fn create(&mut self, name: &str, xml: &str, flags: u32) -> Result<String, (i32, String)> {
        let network = self.network(name);
        let port = self.ask(P::NetworkPortCreateXml, network.clone().string(xml).u32(flags))?;
        let mut r = Reader::new(&port);
        let mut named = Writer::default();
        named.string(&r.string("").unwrap()).uuid(r.uuid("").unwrap()).uuid(r.uuid("").unwrap());
        Ok(Reader::new(&self.ok(P::NetworkPortGetXmlDesc, named.u32(0))).string("").unwrap())
    }

    /// Whether there is such a port; gives what names it.
    fn port(&mut self, name: &str, number: u8) -> Result<Writer, (i32, String)> {
        let network = self.network(name);
        self.ask(P::NetworkPortLookupByUuid, network.clone().uuid(id(number)))?;
        Ok(network.clone().uuid(id(number)).clone())
    }

    fn delete(&mut self, name: &str, number: u8) {
        let port = self.port(name, number).unwrap();
        self.ok(P::NetworkPortDelete, port.clone().u32(0));
    }

    fn end(mut self) {
        self.ok(P::ConnectClose, &Writer::default());
        assert_eq!(self.client.hears().map(|frame| frame.header), None);
    }
}

/// The bridge that a port's guest is to be in.
fn bridge(port: &str) -> String {
    let plug = port.split("<plug type='network' bridge='").nth(1).unwrap_or_else(|| panic!("{port}"));
    plug.split('\'').next().unwrap().to_owned()
}

/// Makes a guest's tap as the driver does, which limits nothing, and starts the guest.
fn plug_in(ns: &Namespace, bridge: &str) -> Guest {
    ns.run("ip tuntap add dev vnet0 mode tap vnet_hdr");
    ns.run(&format!("ip link set dev vnet0 address fe:54:00:7b:35:93 master {bridge} up"));
    ns.run("tc qdisc add dev vnet0 root noqueue");
    Guest::open_by_name("vnet0", MAC).unwrap()
}

fn controller(ns: &Namespace) -> Option<String> {
    ns.json("ip -j link show dev vnet0")[0]["master"].as_str().map(str::to_owned)
}

fn is_plugged(host: &Host<'_>, network: &str) {
    wait_until("the port's tap to be known", SOON, || match &host.nics()[..] {
        [nic] if nic.state == "plugged" && nic.network.as_deref() == Some(network) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// A guest that the driver starts on the network `red`.
fn started(host: &Host<'_>, ns: &Namespace, xml: &str) -> Guest {
    let mut first = Operation::of(host, &For::User(65534));
    let network = first.network("red");
    let shown = first.xml(&network);
    assert!(shown.contains("<forward mode='nat'>"), "the driver reads what the network is: {shown}");
    first.end();
    let mut second = Operation::of(host, &For::User(65534));
    let made = second.create("red", xml, 0).unwrap();
    let guest = plug_in(ns, &bridge(&made));
    second.end();
    is_plugged(host, "red");
    guest
}

#[test]
fn a_guest_starts_is_given_rates_and_ends() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(&network(
            "red",
            1,
            "<portgroup name='staff'><bandwidth><outbound average='500'/></bandwidth></portgroup>",
        ));
        let mut guest = started(&host, ns, &port(FIRST, "<group>staff</group>"));
        let lease = guest.dhcp(SOON).unwrap();
        guest.ping(ip("10.77.1.1"), SOON).unwrap();

        // domifaddr --source lease
        let mut leases = Operation::of(&host, &For::User(0));
        let network = leases.network("red");
        let mac = Some("52:54:00:7b:35:93");
        let reply = leases.ok(P::NetworkGetDhcpLeases, network.clone().text(mac).u32(1).u32(0));
        let said = String::from_utf8_lossy(&reply).into_owned();
        assert!(said.contains(&lease.address.to_string()), "{said}");
        leases.end();

        // domiftune
        let mut tune = Operation::of(&host, &For::User(0));
        let named = tune.port("red", FIRST).unwrap();
        let rate = |field: &str, n| Parameter { field: field.into(), value: Value::Uint(n) };
        // All that is to be, what stays as it was too.
        let inbound = [("inbound.average", 1000), ("inbound.peak", 2000), ("inbound.burst", 512)];
        let rates: Vec<_> =
            inbound.into_iter().chain([("outbound.average", 500)]).map(|(name, n)| rate(name, n)).collect();
        tune.ok(P::NetworkPortSetParameters, named.clone().parameters(&rates).u32(0));
        let shown = Reader::new(&tune.ok(P::NetworkPortGetXmlDesc, named.clone().u32(0))).string("").unwrap();
        for part in ["<inbound average='1000' peak='2000' burst='512'/>", "<outbound average='500'/>"] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        tune.end();

        let mut stop = Operation::of(&host, &For::User(0));
        stop.delete("red", FIRST);
        assert_eq!(stop.port("red", FIRST).unwrap_err().0, 107);
        stop.end();
        assert!(host.nics().is_empty());
    });
}

/// The rate of our class at the tap's root in `tc`'s words, if there is one, and whether something is done at its ingress.
fn limits(ns: &Namespace) -> (Option<String>, bool) {
    let classes = ns.run("tc class show dev vnet0");
    let ours = classes.lines().find_map(|line| line.strip_prefix("class htb 7063:1 ")?.split(" rate ").nth(1));
    let rate = ours.and_then(|rest| rest.split(' ').next()).map(str::to_owned);
    (rate, ns.run("tc filter show dev vnet0 ingress").contains("action order"))
}

fn are_limits(ns: &Namespace, wanted: (Option<&str>, bool)) {
    wait_until("the tap's limits", SOON, || match limits(ns) {
        (rate, incoming) if (rate.as_deref(), incoming) == wanted => Ok(()),
        other => Err(format!("{other:?}, not {wanted:?}")),
    });
}

#[test]
fn a_tap_of_the_drivers_is_limited_by_us_where_that_is_configured() {
    in_namespace(|ns| {
        let mut host = Host::without_daemon(ns);
        std::fs::create_dir_all(host.root.join("etc/patchcord")).unwrap();
        let config = host.root.join("etc/patchcord/patchcord.toml");
        std::fs::write(&config, "[libvirt]\nshaping = 'patchcord'\n").unwrap();
        host.start();
        let staff = "<portgroup name='staff'><bandwidth><inbound average='1000'/><outbound average='500'/></bandwidth></portgroup>";
        host.network(&network("red", 1, staff));
        let mut first = Operation::of(&host, &For::User(0));
        let made = first.create("red", &port(FIRST, "<group>staff</group>"), 0).unwrap();
        assert!(!made.contains("bandwidth"), "{made}");
        let mut guest = plug_in(ns, &bridge(&made));
        is_plugged(&host, "red");
        let (limited, faster) = ((Some("8192Kbit"), true), (Some("16384Kbit"), true));
        are_limits(ns, limited);
        guest.dhcp(SOON).unwrap();

        // The network and the daemon come and go.
        host.stop_network("red");
        host.start_network("red");
        are_limits(ns, limited);
        host.kill();
        host.start();
        are_limits(ns, limited);

        // Changed by the parameters, which still tell them.
        let mut tune = Operation::of(&host, &For::User(0));
        let named = tune.port("red", FIRST).unwrap();
        let rate = |field: &str, n| Parameter { field: field.into(), value: Value::Uint(n) };
        let rates = [rate("inbound.average", 2000), rate("outbound.average", 500)];
        tune.ok(P::NetworkPortSetParameters, named.clone().parameters(&rates).u32(0));
        are_limits(ns, faster);

        // As the driver does it: what is there goes, and its own comes. Nothing is put in its way, or back.
        ns.run("tc qdisc del dev vnet0 root");
        ns.run("tc qdisc del dev vnet0 ingress");
        ns.run("tc qdisc add dev vnet0 root handle 1: htb default 1");
        wait_until("word of that", SOON, || {
            host.log()
                .contains("somebody else limits or filters at its tap vnet0")
                .then_some(())
                .ok_or_else(|| host.log())
        });
        are_limits(ns, (None, false));
        assert!(ns.run("tc qdisc show dev vnet0").contains("htb 1: root"));
        ns.run("tc qdisc del dev vnet0 root");
        are_limits(ns, faster);

        // A filter that limits nothing, and that ours would take the place of, stays as it is too.
        ns.run("ip link add name seen type veth peer name sees");
        ns.run("tc filter del dev vnet0 ingress");
        let theirs = "filter add dev vnet0 ingress prio 7 handle 800::2 protocol all u32 match u32 0 0 action mirred egress \
                      mirror dev seen";
        ns.run(&format!("tc {theirs}"));
        are_limits(ns, (None, true));
        let mirrors = || ns.run("tc filter show dev vnet0 ingress").contains("Egress Mirror to device seen");
        assert!(mirrors());
        ns.run("tc filter del dev vnet0 ingress");
        are_limits(ns, faster);
        assert!(!mirrors());

        // With the other setting there are none, and the driver hears of the rates.
        host.kill();
        std::fs::write(&config, "").unwrap();
        host.start();
        are_limits(ns, (None, false));
        host.kill();
        std::fs::write(&config, "[libvirt]\nshaping = 'patchcord'\n").unwrap();
        host.start();
        are_limits(ns, faster);
        let mut stop = Operation::of(&host, &For::User(0));
        stop.delete("red", FIRST);
        are_limits(ns, (None, false));
        assert!(controller(ns).is_some(), "the tap is the driver's");
        let root = ns.run("tc qdisc show dev vnet0");
        assert!(root.contains("qdisc noqueue "), "as its driver had it: {root}");
    });
}

#[test]
fn a_guest_that_is_handed_back_keeps_what_limits_it() {
    in_namespace(|ns| {
        let mut host = Host::without_daemon(ns);
        for directory in ["patchcord", "libvirt/qemu/networks/autostart"] {
            std::fs::create_dir_all(host.root.join("etc").join(directory)).unwrap();
        }
        std::fs::write(host.root.join("etc/patchcord/patchcord.toml"), "[libvirt]\nshaping = 'patchcord'\n").unwrap();
        host.start();
        let staff = "<portgroup name='staff'><bandwidth><inbound average='1000'/><outbound average='500'/></bandwidth></portgroup>";
        host.network(&network("red", 1, staff));
        let mut guest = started(&host, ns, &port(FIRST, "<group>staff</group>"));
        are_limits(ns, (Some("8192Kbit"), true));
        guest.dhcp(SOON).unwrap();
        let back = host.call(&ImportLibvirt { dry_run: Some(false), undo: Some(true) });
        assert!(back.networks.iter().all(|network| network.done), "{back:#?}");
        assert!(host.nics().is_empty());
        // They are as if libvirt's driver had made them, which takes away what it finds before it sets others.
        let class = || ns.run("tc class show dev vnet0").lines().next().unwrap_or_default().to_owned();
        let theirs = class();
        assert!(theirs.contains("class htb 1:1 root") && theirs.contains(" rate 8192Kbit "), "{theirs}");
        let police = |ns: &Namespace| ns.run("tc filter show dev vnet0 ingress").contains("police");
        assert_eq!(police(ns), has_police(ns));
        wait_until("the ifb's end", SOON, || if ifbs(ns).is_empty() { Ok(()) } else { Err(ifbs(ns).join(" ")) });
        guest.ping(ip("10.77.1.1"), SOON).unwrap();
        // Whoever starts the daemon again finds nothing of its own.
        host.kill();
        host.start();
        assert_eq!(class(), theirs);
        assert_eq!(police(ns), has_police(ns));
    });
}

#[test]
fn a_nic_that_could_not_be_plugged_in_leaves_nothing() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(&network("red", 1, ""));
        let before = host.state();
        // The network runs, but the guest does not take the NIC.
        let mut plug = Operation::of(&host, &For::User(0));
        plug.create("red", &port(FIRST, ""), 0).unwrap();
        assert_eq!(plug.create("red", &port(FIRST, ""), 0).unwrap_err().0, 106);
        plug.delete("red", FIRST);
        plug.end();
        assert_eq!(host.state(), before);
        // And one that has stopped gives none.
        host.stop_network("red");
        let mut late = Operation::of(&host, &For::User(0));
        let (code, said) = late.create("red", &port(FIRST, ""), 0).unwrap_err();
        assert!(code == 55 && said.starts_with("Requested operation is not valid: "), "{code}: {said}");
        assert!(said.ends_with("network 'red' is not active"), "nothing of a command that is not libvirt's: {said}");
        assert!(host.nics().is_empty());
    });
}

#[test]
fn a_running_nic_changes_its_network() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(&network("red", 1, ""));
        host.network(&network("blue", 2, ""));
        let mut guest = started(&host, ns, &port(FIRST, ""));
        guest.dhcp(SOON).unwrap();
        // update-device: the new port is there before the old one goes, both with the same address.
        let mut update = Operation::of(&host, &For::User(0));
        let made = update.create("blue", &port(SECOND, ""), 0).unwrap();
        assert_eq!(controller(ns).as_deref(), Some("virbr1"), "it is not moved before the driver moves it");
        let bridge = bridge(&made);
        ns.run("ip link set dev vnet0 nomaster");
        ns.run(&format!("ip link set dev vnet0 master {bridge}"));
        update.delete("red", FIRST);
        update.end();
        is_plugged(&host, "blue");
        guest.dhcp(SOON).unwrap();
        guest.ping(ip("10.77.2.1"), SOON).unwrap();
        // What changes nothing makes a port all the same, and throws it away.
        let mut nothing = Operation::of(&host, &For::User(0));
        nothing.create("blue", &port(FIRST, ""), 0).unwrap();
        nothing.delete("blue", FIRST);
        nothing.end();
        is_plugged(&host, "blue");
        assert_eq!(controller(ns).as_deref(), Some("virbr2"));
        host.stop_network("blue");
        host.start_network("blue");
        assert_eq!(controller(ns).as_deref(), Some("virbr2"), "it is still the network's to plug in");
        guest.ping(ip("10.77.2.1"), SOON).unwrap();
    });
}

#[test]
fn a_network_takes_the_drivers_guests_to_another_bridge() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        host.network(&network("red", 1, ""));
        let mut guest = started(&host, ns, &port(FIRST, ""));
        guest.dhcp(SOON).unwrap();
        says(&host, &["net-update", "red", "modify", "bridge", "<bridge name='swan' stp='off'/>", "--live"]);
        assert_eq!(controller(ns).as_deref(), Some("swan"));
        guest.ping(ip("10.77.1.1"), SOON).unwrap();
        let mut look = Operation::of(&host, &For::Itself);
        let named = look.port("red", FIRST).unwrap();
        let shown = Reader::new(&look.ok(P::NetworkPortGetXmlDesc, named.clone().u32(0))).string("").unwrap();
        assert_eq!(bridge(&shown), "swan");
        look.end();
        host.kill();
        host.start();
        is_plugged(&host, "red");
        assert_eq!(controller(ns).as_deref(), Some("swan"));
        guest.ping(ip("10.77.1.1"), SOON).unwrap();
        // What would cut them off is refused.
        let other = "<ip address='10.77.9.1' prefix='24'/>";
        let change = ["net-update", "red", "modify", "ip", other, "--parent-index", "0", "--live"];
        let refused = virsh(&host, false, &change).output().unwrap();
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(error.contains("Requested operation is not valid: ") && error.contains("guest 'web'"), "{error}");
    });
}

#[test]
fn a_table_that_learns_nothing_knows_the_drivers_guests() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        host.network(&network("red", 1, ""));
        let mut guest = started(&host, ns, &port(FIRST, ""));
        guest.dhcp(SOON).unwrap();
        let written = || {
            let entries = ns.json("bridge -j fdb show dev vnet0");
            let mut entries = entries.as_array().unwrap().iter();
            entries.any(|entry| entry["mac"] == "52:54:00:7b:35:93" && entry["state"] == "static")
        };
        assert!(!written());
        let modify = |bridge: &str| says(&host, &["net-update", "red", "modify", "bridge", bridge, "--live"]);
        modify("<bridge stp='off' macTableManager='libvirt'/>");
        assert!(written());
        modify("<bridge name='swan' stp='off' macTableManager='libvirt'/>");
        assert!(written());
        guest.ping(ip("10.77.1.1"), SOON).unwrap();
        // So does the one that a start makes, and a new daemon.
        let swan = "<bridge name='swan' stp='off' macTableManager='libvirt'/>";
        says(&host, &["net-update", "red", "modify", "bridge", swan, "--config"]);
        says(&host, &["net-destroy", "red"]);
        says(&host, &["net-start", "red"]);
        host.kill();
        host.start();
        is_plugged(&host, "red");
        assert!(written());
        guest.ping(ip("10.77.1.1"), SOON).unwrap();
    });
}

#[test]
fn the_driver_claims_back_what_a_host_lost() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        host.network(&network("red", 1, ""));
        let mut guest = started(&host, ns, &port(FIRST, ""));
        guest.dhcp(SOON).unwrap();
        // The driver's daemon starts anew, and finds its port.
        let mut again = Operation::of(&host, &For::Itself);
        again.port("red", FIRST).unwrap();
        again.end();

        // Ours starts on a host where somebody removed all that it knew.
        host.kill();
        for kept in ["ports", "nics"] {
            let _ = std::fs::remove_dir_all(host.root.join("run/patchcord").join(kept));
        }
        host.start();
        assert!(host.nics().is_empty());
        let mut again = Operation::of(&host, &For::Itself);
        let (code, said) = again.port("red", FIRST).unwrap_err();
        assert!(code == 107 && said.starts_with("network port not found: "), "{said}");
        let (code, said) = again.create("red", &port(FIRST, ""), RECLAIM).unwrap_err();
        assert!(code == 8 && said.contains("<plug>"), "{code}: {said}");
        let plug = "<plug type='network' bridge='virbr1' macTableManager='kernel'/>";
        let (code, _) = again.create("red", &port(FIRST, plug), 0).unwrap_err();
        assert_eq!(code, 8, "who makes a port does not say where it is");
        let made = again.create("red", &port(FIRST, plug), RECLAIM).unwrap();
        assert_eq!(bridge(&made), "virbr1");
        again.end();
        is_plugged(&host, "red");
        guest.ping(ip("10.77.1.1"), SOON).unwrap();
        let bound = says(&host, &["net-port-list", "red"]);
        assert!(bound.contains(&uuid(FIRST)), "{bound}");
        host.stop_network("red");
        host.start_network("red");
        assert_eq!(controller(ns).as_deref(), Some("virbr1"));
        guest.ping(ip("10.77.1.1"), SOON).unwrap();
    });
}

#[test]
fn who_may_only_read_speaks_for_nobody_else() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        let mut reader = Client::opened_at(&host, true);
        let identity = [Parameter { field: "unix-user-id".into(), value: Value::Ullong(0) }];
        reader.say(&call(P::ConnectSetIdentity, 1, Writer::default().parameters(&identity).u32(0)));
        let refused = reader.hears_refusal();
        assert_eq!(refused, (29, "operation forbidden: read only access prevents virConnectSetIdentity".into()));
    });
}
