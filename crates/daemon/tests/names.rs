//! Who is asked for which name.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::outside::{name_server, uplink};
use common::{Host, SOON, ip};
use patchcord_testkit::{Guest, GuestError, in_namespace};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// What the host's own server says of every name, and what another one says.
const HOSTS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const OTHERS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 8);

/// A network with NAT, and what else is in it.
fn nat(name: &str, net: u8, children: &str) -> String {
    format!(
        "<network><name>{name}</name><bridge stp='off'/><forward mode='nat'/>{children}<ip address='10.5.{net}.1' \
         prefix='24'><dhcp><range start='10.5.{net}.10' end='10.5.{net}.20'/></dhcp></ip></network>"
    )
}

/// A guest on such a network, and whom it asks.
fn guest(host: &Host<'_>, xml: &str, name: &str) -> impl FnMut(&str) -> Result<Vec<Ipv4Addr>, GuestError> + use<> {
    host.network(xml);
    let (_, mut guest): (_, Guest) = host.guest_on(name, name);
    let lease = guest.dhcp(SOON).unwrap();
    let server = lease.dns[0].into();
    move |name| guest.resolve(name, server, SOON)
}

fn asked(server: &Receiver<String>) -> Vec<String> {
    server.try_iter().collect()
}

#[test]
fn names_of_a_local_domain_are_asked_of_nobody_else() {
    in_namespace(|ns| {
        let peer = uplink(ns);
        let upstream = name_server(&peer, "203.0.113.2", HOSTS);
        let mut host = Host::without_daemon(ns);
        std::fs::write(host.root.join("etc/resolv.conf"), "nameserver 203.0.113.2\n").unwrap();
        host.start();
        let local = nat("local", 1, "<domain name='lab.test' localOnly='yes'/>");
        let mut resolve = guest(&host, &local, "local");
        assert_eq!(resolve("www.example.test").unwrap(), [HOSTS]);
        assert_eq!(asked(&upstream), ["www.example.test"]);
        let nobody = resolve("nobody.lab.test");
        assert!(matches!(nobody, Err(GuestError::Dns { .. })), "{nobody:?}");
        assert_eq!(asked(&upstream), [""; 0]);
        // Without the word, the same is asked.
        let mut resolve = guest(&host, &nat("wide", 2, "<domain name='wide.test'/>"), "wide");
        assert_eq!(resolve("nobody.wide.test").unwrap(), [HOSTS]);
        assert_eq!(asked(&upstream), ["nobody.wide.test"]);
    });
}

#[test]
fn forwarders_get_the_names_of_their_domain_and_no_others() {
    in_namespace(|ns| {
        let peer = uplink(ns);
        peer.run("ip addr add 203.0.113.3/24 dev up1");
        let upstream = name_server(&peer, "203.0.113.2", HOSTS);
        let other = name_server(&peer, "203.0.113.3", OTHERS);
        let mut host = Host::without_daemon(ns);
        std::fs::write(host.root.join("etc/resolv.conf"), "nameserver 203.0.113.2\n").unwrap();
        host.start();
        let forwarders =
            "<dns><forwarder domain='corp.test' addr='203.0.113.3'/><forwarder domain='open.corp.test'/></dns>";
        let mut resolve = guest(&host, &nat("n", 1, forwarders), "n");
        assert_eq!(resolve("db.corp.test").unwrap(), [OTHERS]);
        assert_eq!(resolve("db.example.test").unwrap(), [HOSTS]);
        assert_eq!(resolve("www.open.corp.test").unwrap(), [HOSTS]);
        assert_eq!(asked(&other), ["db.corp.test"]);
        assert_eq!(asked(&upstream), ["db.example.test", "www.open.corp.test"]);
        // One for everything takes the place of the host's.
        let all = "<dns><forwarder addr='203.0.113.3'/></dns>";
        let mut resolve = guest(&host, &nat("all", 2, all), "all");
        assert_eq!(resolve("db.example.test").unwrap(), [OTHERS]);
        assert_eq!((asked(&upstream), asked(&other)), (vec![], vec!["db.example.test".to_owned()]));
    });
}

#[test]
fn without_dns_nobody_answers_and_guests_are_told_of_no_server() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(&nat("mute", 1, "<dns enable='no'/>"));
        host.network(&nat("loud", 2, ""));
        let (_, mut mute) = host.guest_on("mute", "mute");
        assert_eq!(mute.dhcp(SOON).unwrap().dns, [Ipv4Addr::UNSPECIFIED; 0]);
        let silence = mute.resolve("mute.test", ip("10.5.1.1"), Duration::from_secs(2));
        assert!(silence.is_err(), "{silence:?}");
        // Nor is it the rules alone.
        let connected = TcpStream::connect("10.5.1.1:53").map_err(|error| error.kind());
        assert_eq!(connected.map(drop), Err(ErrorKind::ConnectionRefused));
        TcpStream::connect("10.5.2.1:53").expect("the other network's answers");
    });
}
