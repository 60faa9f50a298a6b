//! What libvirt's own daemon prints of its own test files, defined and running, ours prints likewise: virsh asks both.
//!
//! `PATCHCORD_CORPUS` names the folder of the files (by default `../shared/corpus/libvirt-9.0.0` beside the workspace).
//! They are not part of this project; without them the tests say that they were skipped.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::{Host, corpus, xml_files};
use patchcord_testkit::{Libvirtd, Namespace, in_namespace};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Files that libvirt's daemon does not take, or can't start, with what it complains of, and why ours does.
const KNOWN: &[(&str, &str, &str)] = &[
    ("8021Qbh-net", "doesn't support vlan configuration", "whether a VLAN can be set is seen when a NIC comes"),
    ("openvswitch-net", "doesn't support vlan configuration", "the bridge is found to be Open vSwitch's at the start"),
    ("passthrough-address-crash", "only supported for networks with forward mode", "it is a pool without a device"),
    ("hostdev", "is not an SR-IOV Virtual Function", "devices are looked for at the start, and may come later"),
    ("pool", "is not an SR-IOV Virtual Function", "likewise"),
    // On kernels without these:
    ("bandwidth-network", "qdisc kind is unknown", "we shape without sfq"),
    ("host-bridge-no-flood", "vlan_filtering via ioctl", "we keep the table of addresses without filtering VLANs"),
];

/// Updates that both refuse, ours as an error in the document and libvirt's as something else, since it has more words.
const CALLED_OTHERWISE: [&str; 2] = ["add-dhcp-range-outside-net", "insert-incomplete-host"];

/// Devices that files name.
const DEVICES: [&str; 6] = ["eth0", "eth1", "eth2", "eth3", "eth4", "eth5"];

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    Some(text.split_once(start)?.1.split_once(end)?.0)
}

/// What virsh prints and complains of.
fn virsh(socket: &Path, script: &str) -> [String; 2] {
    let mut virsh = Command::new("virsh");
    let uri = format!("network+unix:///system?socket={}", socket.display());
    virsh.args(["-q", "-c", &uri, script]).env("LC_ALL", "C").stdin(Stdio::null());
    let output = virsh.output().unwrap();
    [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap())
}

/// What a daemon makes of a document.
#[derive(Debug, PartialEq, Eq)]
struct Fate {
    /// How it prints it, unless it refuses it.
    defined: Option<String>,
    /// How it prints it while it runs, unless it does not start.
    running: Option<String>,
    /// What it complains of.
    errors: String,
}

impl Fate {
    /// Defines, starts, stops and removes it.
    fn of(file: &Path, socket: &Path) -> Self {
        let given = fs::read_to_string(file).unwrap();
        let name = between(&given, "<name>", "</name>").unwrap();
        let script = format!(
            "net-define {}; echo @@; net-dumpxml --inactive {name}; echo @@; net-start {name}; echo @@; \
             net-dumpxml {name}; net-destroy {name}; net-undefine {name}",
            file.display()
        );
        let [stdout, errors] = virsh(socket, &script);
        let parts: Vec<&str> = stdout.split("@@").collect();
        let document = |part: &str| document(part).map(|document| without_generated(document, &given));
        // The last one is the definition if it did not start.
        let started = parts.get(2).is_some_and(|said| said.contains("started")) || !errors.contains("Failed to start");
        Self {
            defined: parts.get(1).and_then(|part| document(part)),
            running: parts.get(3).filter(|_| started).and_then(|part| document(part)),
            errors,
        }
    }
}

/// The document in what virsh prints.
fn document(printed: &str) -> Option<&str> {
    printed.get(printed.find("<network")?..printed.find("</network>")? + "</network>".len())
}

/// A document without what the daemon made up: UUIDs, MACs and bridge names; and without empty metadata, which later
/// libvirts leave out.
fn without_generated(document: &str, given: &str) -> String {
    let made_up = |line: &str| {
        (line.starts_with("  <uuid>") && !given.contains("<uuid>"))
            || (line.starts_with("  <mac address=") && !given.contains("<mac address="))
            || line == "  <metadata/>"
    };
    let lines = document.lines().filter(|line| !made_up(line)).map(|line| {
        let generated = !given.contains("<bridge name=") && line.starts_with("  <bridge name='virbr");
        let rest = line.find(" stp=").or(line.find("/>")).filter(|_| generated);
        rest.map_or_else(|| line.to_owned(), |rest| format!("  <bridge{}", &line[rest..]))
    });
    lines.map(|line| line + "\n").collect()
}

fn devices(ns: &Namespace) {
    for device in DEVICES {
        ns.run(&format!("ip link add {device} type veth peer name {device}-peer"));
        ns.run(&format!("ip link set {device} up"));
    }
    ns.run("ip link add br0 type bridge");
    ns.run("ip link set br0 up");
}

#[test]
fn documents_are_what_libvirts_daemon_makes_of_them() {
    in_namespace(|ns| {
        let Some(corpus) = corpus() else { return };
        let Some(libvirtd) = Libvirtd::start(ns) else { return };
        let host = Host::new(ns);
        devices(ns);
        devices(&libvirtd.ns);
        // Where files say that what guests boot from is; /var is the test's own.
        fs::create_dir_all("/var/lib/tftproot").unwrap();
        let (mut defined, mut ran, mut wrong) = (0, 0, Vec::new());
        let folders = ["networkxml2xmlin", "networkxml2confdata", "networkxml2firewalldata"];
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/tests/data");
        for folder in folders.iter().map(|folder| corpus.join(folder)).chain([own]) {
            for file in xml_files(&folder) {
                let theirs = Fate::of(&file, &libvirtd.sockets()[0]);
                let ours = Fate::of(&file, &host.root.join("run/libvirt/virtnetworkd-sock"));
                defined += usize::from(ours.defined.is_some());
                ran += usize::from(ours.running.is_some());
                if (&ours.defined, &ours.running) == (&theirs.defined, &theirs.running) {
                    continue;
                }
                let name = file.file_stem().unwrap().to_str().unwrap();
                if !KNOWN.iter().any(|(known, sign, _)| *known == name && theirs.errors.contains(sign)) {
                    let fates = format!("libvirt's\n{theirs:#?}\nours\n{ours:#?}\n").replace("\\n", "\n");
                    wrong.push(format!("{}: {fates}", file.display()));
                }
            }
        }
        assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
        assert!(defined > 30 && ran > 20, "only {defined} were defined, and {ran} ran");
    });
}

#[test]
fn updates_give_what_libvirts_daemon_gives() {
    in_namespace(|ns| {
        let Some(corpus) = corpus() else { return };
        let Some(libvirtd) = Libvirtd::start(ns) else { return };
        let host = Host::new(ns);
        let sockets = [libvirtd.sockets()[0].clone(), host.root.join("run/libvirt/virtnetworkd-sock")];
        let (mut cases, mut wrong) = (0, Vec::new());
        for line in fs::read_to_string(corpus.join("net-update-cases.tsv")).unwrap().lines().skip(1) {
            let [case, definition, fragment, command, section, parent, result] =
                line.split('\t').collect::<Vec<_>>().try_into().expect("seven fields");
            let file = corpus.join(format!("networkxml2xmlin/{definition}.xml"));
            let given = fs::read_to_string(&file).unwrap();
            let name = between(&given, "<name>", "</name>").unwrap();
            let parent = if parent == "-1" { String::new() } else { format!("--parent-index {parent}") };
            let fragment = corpus.join(format!("networkxml2xmlupdatein/{fragment}.xml"));
            let script = format!(
                "net-define {}; net-update {name} {command} {section} {} --config {parent}; net-dumpxml --inactive {name}; \
                 net-undefine {name}",
                file.display(),
                fragment.display()
            );
            let [theirs, ours] = sockets.each_ref().map(|socket| {
                let [printed, errors] = virsh(socket, &script);
                // What follows is each daemon's own.
                let errors: Vec<_> =
                    errors.lines().map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(": ")).collect();
                (document(&printed).map(|document| without_generated(document, &given)), errors)
            });
            // What it doesn't take can't be changed there.
            if theirs.0.is_none() && KNOWN.iter().any(|(known, ..)| *known == definition) {
                continue;
            }
            cases += 1;
            let other_word = ours.1.len() == theirs.1.len() && CALLED_OTHERWISE.contains(&case);
            if ours.0 != theirs.0 || (ours.1 != theirs.1 && !other_word) {
                let both = format!("libvirt's\n{theirs:#?}\nours\n{ours:#?}\n").replace("\\n", "\n");
                wrong.push(format!("{case}: {both}"));
            }
            assert_eq!(result == "(refused)", !ours.1.is_empty(), "{case}: {ours:?}");
        }
        assert!(wrong.is_empty(), "{} of {cases} differ:\n{}", wrong.len(), wrong.join("\n"));
        assert!(cases > 8, "only {cases} cases");
    });
}
