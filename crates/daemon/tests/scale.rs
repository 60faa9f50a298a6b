//! More networks with DHCP than a host has inotify instances for.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::{Host, SOON, ip};
use patchcord_api::methods::{DefineNetwork, ListNetworks, StartNetwork};
use patchcord_testkit::{in_namespace, wait_until};
use std::net::UdpSocket;

/// Of networks; fs.inotify.max_user_instances is 128 where nobody changed it.
const MANY: u8 = 150;

/// Whether the network's dnsmasq answers a question about its own gateway.
fn answers(number: u8) -> Result<(), String> {
    let socket = UdpSocket::bind(format!("10.40.{number}.1:0")).map_err(|e| e.to_string())?;
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    question.extend(b"\x02gw\x04test\0\0\x01\0\x01");
    socket.send_to(&question, format!("10.40.{number}.1:53")).map_err(|e| e.to_string())?;
    let mut answer = [0; 512];
    let count = socket.recv(&mut answer).map_err(|e| e.to_string())?;
    if answer[..count].ends_with(&[10, 40, number, 1]) { Ok(()) } else { Err(format!("{:?}", &answer[..count])) }
}

#[test]
fn a_hundred_and_fifty_networks_all_answer_and_survive_a_restart() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        let mut client = host.client();
        for number in 0..MANY {
            let xml = format!(
                "<network><name>n{number}</name><forward mode='nat'/><bridge name='n{number}' stp='off'/>
                 <dns><host ip='10.40.{number}.1'><hostname>gw.test</hostname></host></dns>
                 <ip address='10.40.{number}.1' prefix='24'>
                 <dhcp><range start='10.40.{number}.2' end='10.40.{number}.254'/></dhcp></ip></network>"
            );
            client.call(&DefineNetwork { xml }).unwrap();
            let started = client.call(&StartNetwork { name: format!("n{number}") });
            started.unwrap_or_else(|error| panic!("network {number}: {}", common::told(&error)));
        }
        let all_answer = || (0..MANY).for_each(|number| wait_until("an answer", SOON, || answers(number)));
        all_answer();
        let before = host.dnsmasqs();
        assert_eq!(before.len(), usize::from(MANY));
        let (_, mut guest) = host.guest_on("n149", "g");
        guest.dhcp(SOON).unwrap();
        Host::reaches(&mut guest, "10.40.149.1");
        host.kill();
        host.start();
        assert_eq!(host.dnsmasqs(), before, "the same processes");
        let networks = host.call(&ListNetworks::default()).networks;
        assert!(networks.len() == usize::from(MANY) && networks.iter().all(|n| n.active && n.dnsmasq.is_some()));
        all_answer();
        guest.ping(ip("10.40.149.1"), SOON).unwrap();
        for number in 0..MANY {
            host.stop_network(&format!("n{number}"));
        }
        wait_until("nothing to be left", SOON, || {
            let links = ns.run("ip -o link show");
            if links.lines().count() == 2 && host.dnsmasqs().is_empty() { Ok(()) } else { Err(links) }
        });
        assert!(!host.rules().contains("10.40."), "{}", host.rules());
    });
}
