//! Every command of virsh about networks, given to our daemon and to libvirt's own: both print the same.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::Host;
use common::remote::socket;
use patchcord_testkit::{Libvirtd, in_namespace};
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const LAB: &str = "<network><name>lab</name><uuid>81ff0d90-c91e-6742-64da-4a736edb9a9b</uuid><forward mode='nat'/>\
    <bridge name='virbr7'/><mac address='52:54:00:77:00:01'/><ip address='10.77.0.1' netmask='255.255.255.0'>\
    <dhcp><range start='10.77.0.2' end='10.77.0.99'/></dhcp></ip></network>";
const BRIEF: &str = "<network><name>brief</name><uuid>91ff0d90-c91e-6742-64da-4a736edb9a9b</uuid><bridge name='virbr8'/>\
    <mac address='52:54:00:77:00:02'/></network>";
const PORT: &str = "<networkport><uuid>5d744f21-ba4a-4d6e-bdb2-30a35ff3207d</uuid><owner><name>web</name>\
    <uuid>06578fc1-c686-46fa-bc2c-83893b466a6d</uuid></owner><mac address='52:54:00:7b:35:93'/>\
    <port isolated='yes'/></networkport>";

/// What is said in order. `+` begins what virsh says that it did, `-` what it says that it did not. Of a port that is not
/// there it complains, and says that all went well.
const SESSION: &[&str] = &[
    "+net-list --all",
    "+net-define lab.xml",
    "+net-list",
    "+net-list --all",
    "+net-list --inactive",
    "+net-info lab",
    "+net-dumpxml lab",
    "+net-dumpxml --inactive lab",
    "-net-destroy lab",
    "-net-port-create lab port.xml",
    "+net-start lab",
    "-net-start lab",
    "+net-autostart lab",
    "+net-autostart --disable lab",
    "+net-autostart lab",
    "+net-create brief.xml",
    "-net-create brief.xml",
    "-net-autostart brief",
    "-net-undefine nope",
    "+net-list --all",
    "+net-list --name",
    "+net-list --uuid",
    "+net-list --transient",
    "+net-list --persistent --autostart",
    "+net-info lab",
    "+net-info brief",
    "+net-dumpxml lab",
    "+net-dumpxml brief",
    "+net-name 81ff0d90-c91e-6742-64da-4a736edb9a9b",
    "-net-name 00000000-c91e-6742-64da-4a736edb9a9b",
    "+net-uuid lab",
    "-net-uuid nope",
    "+net-dhcp-leases lab",
    "+net-dhcp-leases lab 52:54:00:00:00:99",
    "-net-dhcp-leases nope",
    "+net-update lab add ip-dhcp-host five.xml --live --config",
    "-net-update lab add ip-dhcp-host five.xml --live",
    "+net-update lab delete ip-dhcp-host five.xml --config",
    "+net-dumpxml lab",
    "+net-dumpxml --inactive lab",
    "+net-edit lab",
    "+net-dumpxml --inactive lab",
    "+net-port-list lab",
    "+net-port-create lab port.xml",
    "+net-port-list lab",
    "+net-port-list --uuid lab",
    "+net-port-dumpxml lab 5d744f21-ba4a-4d6e-bdb2-30a35ff3207d",
    "+net-port-dumpxml lab 00000000-ba4a-4d6e-bdb2-30a35ff3207d",
    "+net-port-delete lab 5d744f21-ba4a-4d6e-bdb2-30a35ff3207d",
    "+net-port-delete lab 5d744f21-ba4a-4d6e-bdb2-30a35ff3207d",
    "+net-dumpxml lab",
    "+net-destroy brief",
    "-net-info brief",
    "+net-destroy lab",
    "+net-info lab",
    "+net-undefine lab",
    "+net-list --all",
    "-net-define broken.xml",
    "-net-define missing.xml",
    "+net-event --list",
];

/// Whether it did what it was told, and what it printed and complained of.
fn virsh(socket: &Path, directory: &Path, words: &str) -> (bool, String, String) {
    let mut virsh = Command::new("virsh");
    let uri = format!("network+unix:///system?socket={}", socket.display());
    virsh.args(["-c", &uri]).args(words.split(' ')).current_dir(directory).stdin(Stdio::null());
    virsh.env("LC_ALL", "C").env("EDITOR", "sed -i -e 's/10.77.0.99/10.77.0.77/'");
    let Output { status, stdout, stderr } = virsh.output().unwrap();
    let [printed, complaint] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (status.success(), printed, complaint)
}

/// What clients know a refusal by: all of it up to what is particular to whoever refuses.
fn known(complaint: &str) -> Vec<String> {
    let line = |line: &str| line.splitn(3, ": ").take(2).collect::<Vec<_>>().join(": ");
    complaint.lines().map(line).collect()
}

#[test]
fn both_daemons_print_the_same() {
    in_namespace(|ns| {
        let host = Host::new(ns);
        let directory = host.root.join("documents");
        fs::create_dir(&directory).unwrap();
        for (file, text) in [
            ("lab.xml", LAB),
            ("brief.xml", BRIEF),
            ("port.xml", PORT),
            ("five.xml", "<host mac='52:54:00:00:00:05' name='five' ip='10.77.0.5'/>"),
            ("broken.xml", "<network><name>x</name><ip address='here'/></network>"),
        ] {
            fs::write(directory.join(file), text).unwrap();
        }
        let ours = socket(&host, false);
        let Some(libvirtd) = Libvirtd::start(ns) else { return };
        let theirs = &libvirtd.sockets()[0];
        let mut wrong = Vec::new();
        for said in SESSION {
            let (does, words) = said.split_at(1);
            let [ours, theirs] = [&ours, theirs].map(|socket| virsh(socket, &directory, words));
            let expected = does == "+";
            let alike = (ours.0, &ours.1, known(&ours.2)) == (theirs.0, &theirs.1, known(&theirs.2));
            if !alike || ours.0 != expected {
                wrong.push(format!("{words}\nours: {ours:#?}\nlibvirt's: {theirs:#?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}
