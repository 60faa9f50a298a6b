//! What libvirt's modules for the name service switch find of guests.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::{Host, SOON, interface, update};
use patchcord_api::methods::ModifyNIC;
use patchcord_testkit::{in_namespace, wait_until};
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

const LAB: &str = "<network><name>lab</name><forward mode='nat'/><bridge name='virbr7'/><ip address='10.77.0.1' \
    netmask='255.255.255.0'><dhcp><range start='10.77.0.2' end='10.77.0.99'/></dhcp></ip></network>";

#[test]
fn guests_are_found_by_their_names() {
    in_namespace(|ns| {
        let Some(packages) = patchcord_testkit::unpacked("nss-libvirt") else { return };
        let mut host = Host::new(ns);
        host.network(LAB);
        // Where libvirt's modules look.
        let files = host.root.join("var/lib/libvirt/dnsmasq");
        ns.run("mount -t tmpfs tmpfs /var/lib");
        fs::create_dir_all("/var/lib/libvirt/dnsmasq").unwrap();
        ns.run(&format!("mount --bind {} /var/lib/libvirt/dnsmasq", files.display()));
        let (nic, mut guest) = host.guest_on("lab", "web");
        guest.dhcp(SOON).unwrap();
        let address = guest.addresses().into_iter().find(|(address, _)| address.is_ipv4()).unwrap().0.to_string();
        let modules = packages.join("usr/lib/x86_64-linux-gnu");
        let asked = |name: &str| {
            let mut getent = Command::new("getent");
            getent.args(["-s", "hosts:libvirt_guest", "hosts", name]).env("LD_LIBRARY_PATH", &modules);
            let said = String::from_utf8(getent.output().unwrap().stdout).unwrap();
            said.split_whitespace().next().map(str::to_owned)
        };
        let known = |host: &Host<'_>| {
            wait_until("the guest's name", SOON, || match asked("web") {
                Some(found) if found == address => Ok(()),
                other => Err(format!("{other:?}, {}", host.log())),
            });
        };
        known(&host);
        assert_eq!(asked("db"), None);
        host.kill();
        fs::remove_file(files.join("virbr7.macs")).unwrap();
        host.start();
        known(&host);
        // Files are called like their bridge.
        host.call(&update("lab", "modify", "bridge", "<bridge name='swan'/>"));
        let left = || {
            let names = fs::read_dir(&files).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
            names.collect::<BTreeSet<_>>()
        };
        let of_swan = ["swan.macs", "swan.status"].map(str::to_owned).into();
        wait_until(
            "the bridge's files",
            SOON,
            || if left() == of_swan { Ok(()) } else { Err(format!("{:?}", left())) },
        );
        known(&host);
        host.detach(&nic.id);
        wait_until("the name's end", SOON, || asked("web").map_or(Ok(()), Err));
        host.stop_network("lab");
        wait_until("the files' end", SOON, || if left().is_empty() { Ok(()) } else { Err(format!("{:?}", left())) });
    });
}

#[test]
fn guests_are_in_the_file_of_the_network_that_they_are_on() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        host.network("<network><name>one</name><bridge name='virbr1'/></network>");
        host.network("<network><name>two</name><bridge name='virbr2'/></network>");
        let files = host.root.join("var/lib/libvirt/dnsmasq");
        let guests = |bridge: &str| -> Vec<String> {
            let text = fs::read_to_string(files.join(format!("{bridge}.macs"))).unwrap_or_default();
            let all: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            let all = all.as_array().into_iter().flatten();
            all.map(|guest| format!("{} {}", guest["domain"].as_str().unwrap(), guest["macs"][0].as_str().unwrap()))
                .collect()
        };
        let come_to = |one: &[String], two: &[String]| {
            wait_until("the files", SOON, || {
                let found = (guests("virbr1"), guests("virbr2"));
                if (&found.0[..], &found.1[..]) == (one, two) { Ok(()) } else { Err(format!("{found:?}")) }
            });
        };
        let (web, _web) = host.guest_on("one", "web");
        let (db, _db) = host.guest_on("one", "db");
        let [is_web, is_db] =
            [("web", &web), ("db", &db)].map(|(guest, nic)| format!("{guest} {}", nic.mac.clone().unwrap()));
        come_to(&[is_db.clone(), is_web.clone()], &[]);
        // Nothing else happens on the network that it leaves.
        host.call(&ModifyNIC { id: web.id.clone(), xml: interface("two") });
        come_to(std::slice::from_ref(&is_db), std::slice::from_ref(&is_web));
        host.kill();
        for bridge in ["virbr1", "virbr2"] {
            fs::remove_file(files.join(format!("{bridge}.macs"))).unwrap();
        }
        host.start();
        come_to(std::slice::from_ref(&is_db), std::slice::from_ref(&is_web));
        host.detach(&db.id);
        come_to(&[], std::slice::from_ref(&is_web));
    });
}

#[test]
fn files_of_a_network_that_stopped_as_the_daemon_died_go_and_libvirts_stay() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        let files = host.root.join("var/lib/libvirt/dnsmasq");
        let left = || {
            let names = fs::read_dir(&files).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
            names.collect::<BTreeSet<_>>()
        };
        let come_to = |host: &Host<'_>, names: &[&str]| {
            let names: BTreeSet<String> = names.iter().map(ToString::to_string).collect();
            wait_until("the files", SOON, || {
                if left() == names { Ok(()) } else { Err(format!("{:?} {}", left(), host.log())) }
            });
        };
        let theirs = ["virbr0.macs", "virbr0.status"];
        for name in theirs {
            fs::write(files.join(name), "[]").unwrap();
        }
        // Whatever is under way when it dies.
        let record = host.root.join("var/lib/patchcord/names/lab.br");
        let half = files.join(".tmp-0123456789abcdef");
        let ours = ["virbr0.macs", "virbr0.status", "virbr7.macs", "virbr7.status"];
        let stopped_and_killed = |host: &mut Host<'_>| {
            host.network(LAB);
            come_to(host, &ours);
            fs::write(&half, "[").unwrap();
            let noted = fs::read(&record).unwrap();
            host.stop_network("lab");
            host.kill();
            // Were it slower to die than to remove them, there would be nothing to see.
            fs::write(&record, &noted).unwrap();
            for name in ["virbr7.macs", "virbr7.status"] {
                fs::write(files.join(name), "[]").unwrap();
            }
        };
        stopped_and_killed(&mut host);
        host.start();
        come_to(&host, &theirs);

        // libvirt's daemon runs a network with a bridge of that name now.
        stopped_and_killed(&mut host);
        let runs = host.root.join("run/libvirt/network");
        fs::create_dir_all(&runs).unwrap();
        fs::write(runs.join("other.xml"), "<networkstatus><network><bridge name='virbr7'/></network></networkstatus>")
            .unwrap();
        host.start();
        wait_until(
            "the end of what was half written",
            SOON,
            || if half.exists() { Err(String::new()) } else { Ok(()) },
        );
        wait_until("the record's end", SOON, || if record.exists() { Err(String::new()) } else { Ok(()) });
        come_to(&host, &ours);
        // Once it was left to libvirt's, it is.
        fs::remove_file(runs.join("other.xml")).unwrap();
        host.kill();
        host.start();
        host.nics();
        std::thread::sleep(std::time::Duration::from_millis(300));
        come_to(&host, &ours);
    });
}
