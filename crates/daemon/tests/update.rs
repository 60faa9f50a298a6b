//! Networks that change while they run.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::{Host, SOON, attach, interface, interface_with_mac, ip, update};
use patchcord_api::methods::{GetNetworkXML, ListLeases, UpdateNetwork};
use patchcord_testkit::{DnsKind, DnsRecord, GuestError, in_namespace, wait_until};
use std::net::IpAddr;

const NET: &str = "<network><name>net</name><forward mode='nat'/><bridge name='brnet' stp='off'/>\
     <domain name='lab.test' localOnly='yes'/><ip address='10.5.0.1' prefix='24'><dhcp>\
     <range start='10.5.0.10' end='10.5.0.12'/><host mac='52:54:00:00:00:01' ip='10.5.0.101' name='one'/></dhcp></ip>\
     </network>";

fn change(command: &str, section: &str, xml: &str) -> UpdateNetwork {
    update("net", command, section, xml)
}

fn documents(host: &Host<'_>) -> [String; 2] {
    [false, true].map(|inactive| host.call(&GetNetworkXML { name: "net".into(), inactive: Some(inactive) }).xml)
}

#[test]
fn reservations_come_and_go_without_a_restart_of_dnsmasq() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        let mut events = host.events();
        host.network(NET);
        let dnsmasq = host.show("net").dnsmasq;
        let add = "<host mac='52:54:00:00:00:02' ip='10.5.0.102' name='two'/>";
        host.call(&change("add", "ip-dhcp-host", add));
        events.wait("the update", |e| e.kind == "network" && e.what == "updated");
        for document in documents(&host) {
            assert!(document.contains("10.5.0.102") && document.contains("10.5.0.101"), "{document}");
        }
        let (nic, mut two) = host.guest("two", &interface_with_mac("net", "52:54:00:00:00:02"));
        assert_eq!(IpAddr::from(two.dhcp(SOON).unwrap().address), ip("10.5.0.102"));
        let leases = host.call(&ListLeases { network: "net".into() }).leases;
        assert_eq!((leases.len(), leases[0].nic.as_deref()), (1, Some(&*nic.id)), "{leases:?}");
        assert_eq!((leases[0].ip.as_str(), leases[0].prefix), ("10.5.0.102", 24));

        // It is given another address, and gets it with its next request.
        let modify = "<host mac='52:54:00:00:00:02' ip='10.5.0.103' name='two'/>";
        host.call(&change("modify", "ip-dhcp-host", modify));
        assert_eq!(IpAddr::from(two.dhcp(SOON).unwrap().address), ip("10.5.0.103"));
        assert_eq!(two.resolve("two.lab.test", ip("10.5.0.1"), SOON).unwrap().len(), 1);
        host.call(&change("delete", "ip-dhcp-host", "<host mac='52:54:00:00:00:02'/>"));
        for document in documents(&host) {
            assert!(!document.contains("10.5.0.103"), "{document}");
        }
        let (error, refusal) = host.refused(&change("delete", "ip-dhcp-host", "<host mac='52:54:00:00:00:02'/>"));
        assert!(refusal.to_string().contains("52:54:00:00:00:02"), "{error}: {refusal}");
        assert_eq!(host.show("net").dnsmasq, dnsmasq, "never restarted");
        assert_eq!(host.dnsmasqs(), [dnsmasq.unwrap()]);
        // The definition has it all after a restart of everything.
        host.call(&change("add", "ip-dhcp-host", add));
        host.kill();
        host.start();
        assert!(documents(&host).iter().all(|d| d.contains("10.5.0.102")));
        host.stop_network("net");
        host.start_network("net");
        assert_eq!(IpAddr::from(two.dhcp(SOON).unwrap().address), ip("10.5.0.102"));
    });
}

#[test]
fn ranges_are_added() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(&NET.replace("<range start='10.5.0.10' end='10.5.0.12'/>", ""));
        let range = "<range start='10.5.0.60' end='10.5.0.60'/>";
        host.call(&change("add", "ip-dhcp-range", range));
        let (_, mut guest) = host.guest_on("net", "g");
        assert_eq!(IpAddr::from(guest.dhcp(SOON).unwrap().address), ip("10.5.0.60"));
        host.call(&change("delete", "ip-dhcp-range", range));
        assert!(documents(&host).iter().all(|d| !d.contains("10.5.0.60")));
        assert_eq!(host.dnsmasqs().len(), 1);
        Host::reaches(&mut guest, "10.5.0.1");
    });
}

#[test]
fn names_are_added_and_taken_away() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(NET);
        let (_, mut guest) = host.guest_on("net", "g");
        guest.set_static(ip("10.5.0.2"), 24, None);
        let record = "<host ip='10.5.0.200'><hostname>printer.lab.test</hostname></host>";
        // dnsmasq reads its files again a moment after it was told to.
        let mut finds = |name: &str, address: Option<&str>| {
            wait_until(name, SOON, || {
                let found = guest.resolve(name, ip("10.5.0.1"), SOON).ok();
                let found: Vec<IpAddr> = found.into_iter().flatten().map(IpAddr::from).collect();
                if found == Vec::from_iter(address.map(ip)) { Ok(()) } else { Err(format!("{found:?}")) }
            });
        };
        finds("printer.lab.test", None);
        host.call(&change("add", "dns-host", record));
        finds("printer.lab.test", Some("10.5.0.200"));
        host.call(&change("modify", "dns-host", &record.replace("printer", "scanner")));
        finds("scanner.lab.test", Some("10.5.0.200"));
        finds("printer.lab.test", None);
        host.call(&change("delete", "dns-host", "<host><hostname>scanner.lab.test</hostname></host>"));
        finds("scanner.lab.test", None);
    });
}

#[test]
fn texts_and_services_are_added_changed_and_taken_away() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(NET);
        let (_, mut guest) = host.guest_on("net", "g");
        guest.set_static(ip("10.5.0.2"), 24, None);
        // What a guest is told, no such name being nothing.
        let mut heard = || {
            [("note.lab.test", DnsKind::Txt), ("_sip._tcp.lab.test", DnsKind::Srv)].map(|(name, kind)| {
                let answer = guest.query(name, kind, ip("10.5.0.1"), SOON);
                if matches!(&answer, Err(GuestError::Dns { rcode, .. }) if rcode == "NXDomain") {
                    return vec![];
                }
                answer.unwrap()
            })
        };
        let text = |text: &str| vec![DnsRecord::Text(vec![text.to_owned()])];
        let service =
            |port, priority| vec![DnsRecord::Service { priority, weight: 0, port, target: "x.lab.test".to_owned() }];
        let txt = |value: &str| format!("<txt name='note.lab.test' value='{value}'/>");
        let srv =
            |rest: &str| format!("<srv service='sip' protocol='tcp' domain='lab.test' target='x.lab.test' {rest}/>");
        assert_eq!(heard(), [vec![], vec![]]);

        host.call(&change("add", "dns-txt", &txt("hello")));
        host.call(&change("add", "dns-srv", &srv("port='5060'")));
        assert_eq!(heard(), [text("hello"), service(5060, 0)]);
        for document in documents(&host) {
            assert!(document.contains("hello") && document.contains("5060"), "{document}");
        }
        host.refused(&change("add", "dns-txt", &txt("again")));
        assert_eq!(heard(), [text("hello"), service(5060, 0)]);

        host.call(&change("modify", "dns-txt", &txt("changed")));
        assert_eq!(heard(), [text("changed"), service(5060, 0)]);
        // There is no changing services but by taking away and adding, here as in libvirt.
        host.refused(&change("modify", "dns-srv", &srv("port='5061'")));
        host.call(&change("delete", "dns-txt", &txt("changed")));
        assert_eq!(heard(), [vec![], service(5060, 0)]);
        host.call(&change("add", "dns-txt", &txt("bye")));
        host.call(&change("delete", "dns-srv", &srv("port='5060'")));
        assert_eq!(heard(), [text("bye"), vec![]]);
        host.call(&change("add", "dns-srv", &srv("port='5061' priority='3'")));
        assert_eq!(heard(), [text("bye"), service(5061, 3)]);
        assert!(documents(&host).iter().all(|d| !d.contains("hello") && !d.contains("5060")));
    });
}

#[test]
fn portgroups_change_and_only_one_can_be_the_default() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(NET);
        let (error, refusal) = host.refused(&attach("g", &with_portgroup("blue")));
        assert_eq!(error, "NotFound", "{refusal}");
        host.call(&change("add", "portgroup", "<portgroup name='blue'/>"));
        host.call(&change("add", "portgroup", "<portgroup name='red' default='yes'/>"));
        let blue = host.call(&attach("g", &with_portgroup("blue"))).nic;
        let default = host.call(&attach("h", &interface("net"))).nic;
        assert_eq!([blue.portgroup.as_deref(), default.portgroup.as_deref()], [Some("blue"), Some("red")]);
        host.refused(&change("add", "portgroup", "<portgroup name='green' default='yes'/>"));
        assert_eq!(host.show("net").portgroups.len(), 2);
        let (_, refusal) = host.refused(&attach("i", &with_portgroup("green")));
        let text = format!("{refusal} {:?}", refusal.hint);
        assert!(text.contains("blue") && text.contains("red"), "it says which there are: {text}");
    });
}

fn with_portgroup(name: &str) -> String {
    format!("<interface type='network'><source network='net' portgroup='{name}'/></interface>")
}

#[test]
fn live_alone_and_config_alone() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(NET);
        let only = |live, config, address: u8| {
            let xml = format!("<host mac='52:54:00:00:00:{address:02}' ip='10.5.0.{address}'/>");
            host.call(&UpdateNetwork { live: Some(live), config: Some(config), ..change("add", "ip-dhcp-host", &xml) });
        };
        only(true, false, 51);
        only(false, true, 52);
        let [live, config] = documents(&host);
        assert!(live.contains("10.5.0.51") && !live.contains("10.5.0.52"), "{live}");
        assert!(config.contains("10.5.0.52") && !config.contains("10.5.0.51"), "{config}");
        host.stop_network("net");
        let (error, refusal) =
            host.refused(&change("add", "ip-dhcp-host", "<host mac='52:54:00:00:00:77' ip='10.5.0.77'/>"));
        assert_eq!(error, "InvalidState", "{refusal}");
        assert!(!documents(&host)[1].contains("10.5.0.77"), "all or nothing");
    });
}
