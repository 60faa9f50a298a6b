//! Clients of libvirt's door that are slow, and calls that are: nobody else waits for them.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::Host;
use common::remote::{Client, bytes, call};
use patchcord_libvirt_wire::frame::{KEEPALIVE, PING, PONG};
use patchcord_libvirt_wire::xdr::Writer;
use patchcord_libvirt_wire::{Frame, Header, Kind, Procedure, Status};
use patchcord_testkit::in_namespace;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;

const UUID: &str = "81ff0d90-c91e-6742-64da-4a736edb9a9b";

fn lab() -> String {
    format!("<network><name>lab</name><uuid>{UUID}</uuid><bridge name='virbr7'/></network>")
}

fn network() -> Writer {
    let mut w = Writer::default();
    w.string("lab").uuid(bytes(UUID));
    w
}

fn look_up(serial: u32) -> Frame {
    call(Procedure::NetworkLookupByName, serial, Writer::default().string("lab"))
}

/// Another client is answered.
fn others_are_served(host: &Host<'_>) {
    let mut other = Client::opened(host);
    other.say(&look_up(1));
    assert_eq!(other.hears().unwrap().header.status, Status::Ok);
}

#[test]
fn a_slow_operation_holds_up_neither_its_connection_nor_others() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        // A network starts when something is written to the door.
        let hooks = host.root.join("etc/patchcord/hooks");
        let (hook, door) = (hooks.join("10-wait"), tempfile::tempdir().unwrap());
        fs::create_dir_all(&hooks).unwrap();
        ns.run(&format!("mkfifo {0}/door {0}/here", door.path().display()));
        let at = door.path().display();
        fs::write(&hook, format!("#!/bin/sh\n[ $2 != start ] || {{ echo here > {at}/here; cat {at}/door; }}\n"))
            .unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
        host.call(&patchcord_api::methods::DefineNetwork { xml: lab() });

        let mut client = Client::opened(&host);
        client.say(&call(Procedure::NetworkCreate, 1, &network()));
        assert_eq!(fs::read_to_string(door.path().join("here")).unwrap(), "here\n");
        client.say(&look_up(2));
        assert_eq!(client.hears().unwrap().header.serial, 2, "what was asked later is answered first");
        let ping = Header { program: KEEPALIVE, procedure: PING, kind: Kind::Message, ..look_up(0).header };
        client.say(&Frame { header: ping, payload: Vec::new() });
        let pong = client.hears().unwrap().header;
        assert_eq!((pong.program, pong.procedure), (KEEPALIVE, PONG));
        others_are_served(&host);
        assert!(host.link("virbr7").is_none());

        fs::write(door.path().join("door"), "").unwrap();
        let started = client.hears().unwrap().header;
        assert_eq!((started.serial, started.status), (1, Status::Ok));
        assert!(host.link("virbr7").is_some());
    });
}

#[test]
fn who_speaks_slowly_is_understood() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(&lab());
        let mut client = Client::opened(&host);
        let said = look_up(7).encode();
        for part in said.chunks(9) {
            client.stream.write_all(part).unwrap();
            others_are_served(&host);
        }
        assert_eq!(client.hears().unwrap().header.serial, 7);
    });
}

#[test]
fn who_never_listens_is_asked_to_wait_and_misses_nothing() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        host.network(&lab());
        let mut client = Client::opened(&host);
        client.stream.set_nonblocking(true).unwrap();
        let (mut asked, mut rest) = (0, Vec::new());
        // Until the daemon takes no more, however often it has answered others meanwhile.
        let mut refusals = 0;
        while refusals < 20 {
            if rest.is_empty() {
                asked += 1;
                rest = look_up(asked).encode();
            }
            match client.stream.write(&rest) {
                Ok(count) => {
                    rest.drain(..count);
                    refusals = 0;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                    others_are_served(&host);
                    refusals += 1;
                }
            }
            assert!(asked < 1_000_000, "all is taken, and kept");
        }
        others_are_served(&host);
        client.stream.set_nonblocking(false).unwrap();
        let mut answered = Vec::new();
        answered.push(client.hears().unwrap().header.serial);
        let mut writer = client.stream.try_clone().unwrap();
        let last = std::thread::spawn(move || writer.write_all(&rest).unwrap());
        while answered.len() < asked as usize {
            answered.push(client.hears().unwrap().header.serial);
        }
        last.join().unwrap();
        answered.sort_unstable();
        assert_eq!(answered, (1..=asked).collect::<Vec<_>>());
        others_are_served(&host);
    });
}
