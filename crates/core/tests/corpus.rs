//! libvirt's own test files: what it reads and prints, we read and print alike.
//!
//! `PATCHCORD_CORPUS` names the folder (by default `../shared/corpus/libvirt-9.0.0` beside the workspace). The files are
//! not part of this project; without them the tests say that they were skipped.

mod corpus_nodedev;

use patchcord_core::model::{UpdateCommand, UpdateSection};
use patchcord_core::xml::{Mode, read_network, read_networkport, write_network, write_networkport, write_node_device};
use patchcord_testkit::skip;
use std::path::{Path, PathBuf};
use std::process::Command;

fn corpus(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("PATCHCORD_CORPUS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus/libvirt-9.0.0"),
        PathBuf::from,
    );
    if folder.is_dir() {
        return Some(folder);
    }
    skip(name, &format!("host has no {} (PATCHCORD_CORPUS)", folder.display()));
    None
}

fn xml_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder of the corpus");
    let mut files: Vec<_> = entries.map(|e| e.expect("an entry").path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "xml"));
    files.sort();
    assert!(!files.is_empty(), "{} has no files", folder.display());
    files
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn stem(path: &Path) -> String {
    path.file_stem().expect("a name").to_string_lossy().into_owned()
}

/// What libvirt's own test expects to be refused, and what of the refusal a person must be able to see.
const REFUSED: &[(&str, &str)] = &[
    ("open-network-with-forward-dev", "forward mode 'open' takes no device"),
    ("routed-network-no-dns-extra-elements", "enable='no' leaves nobody to serve the records"),
    // The result of an update that libvirt's test makes and its daemon refuses.
    ("nat-network-forward-ifaces", "forward mode 'nat' takes one device, and there are 2"),
];

#[test]
fn definitions_are_printed_as_libvirt_prints_them() {
    let Some(corpus) = corpus("definitions_are_printed_as_libvirt_prints_them") else { return };
    let mut wrong = Vec::new();
    for file in xml_files(&corpus.join("networkxml2xmlin")) {
        let (name, text) = (stem(&file), read(&file));
        if let Some((_, cause)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
            let error = read_network(&text, Mode::Strict).expect_err(&name);
            assert!(error.to_string().contains(cause), "{name}: {error}");
            continue;
        }
        let out = corpus.join("networkxml2xmlout").join(file.file_name().expect("a name"));
        let network = match read_network(&text, Mode::Strict) {
            Ok(network) => network,
            Err(e) => {
                wrong.push(format!("{name}: {e}"));
                continue;
            }
        };
        let printed = write_network(&network);
        if out.exists() && printed != read(&out) {
            wrong.push(format!("{name}: printed\n{printed}"));
        }
        // What was printed is read back as the same, and printed the same again.
        assert_eq!(read_network(&printed, Mode::Strict).as_ref(), Ok(&network), "{name}");
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_definition_of_the_other_folders_is_read() {
    let Some(corpus) = corpus("every_definition_of_the_other_folders_is_read") else { return };
    for folder in ["networkxml2confdata", "networkxml2firewalldata", "networkxml2xmlout", "networkxml2xmlupdateout"] {
        for file in xml_files(&corpus.join(folder)) {
            let network = match read_network(&read(&file), Mode::Strict) {
                Ok(network) => network,
                Err(e) => {
                    let known = REFUSED.iter().find(|(name, _)| *name == stem(&file));
                    assert!(known.is_some_and(|(_, cause)| e.to_string().contains(cause)), "{}: {e}", file.display());
                    continue;
                }
            };
            let printed = write_network(&network);
            assert_eq!(read_network(&printed, Mode::Strict).as_ref(), Ok(&network), "{}", file.display());
            if folder == "networkxml2xmlout" {
                assert_eq!(printed, read(&file), "{}", file.display());
            }
        }
    }
}

/// A copy without what virsh's test driver adds on its own: generated MACs, bridge names and NAT's default ports.
fn without_defaults(xml: &str, given: &str) -> String {
    xml.lines()
        .filter(|line| given.contains("<mac") || !line.contains("<mac address="))
        .map(|line| match (given.contains("<bridge"), line.find("<bridge name='virbr")) {
            (false, Some(at)) => format!("{}<bridge{}", &line[..at], &line[line.find(" stp=").unwrap_or(line.len())..]),
            _ => line.to_owned(),
        })
        .fold(String::new(), |all, line| all + &line + "\n")
}

/// Prints each file with virsh and with us, and says where they differ; the number is how many could be compared.
/// `None` without virsh.
fn compare_with_virsh(test: &str, files: &[PathBuf]) -> Option<(usize, Vec<String>)> {
    if Command::new("virsh").arg("--version").output().is_err() {
        skip(test, "host has no virsh (package libvirt-clients)");
        return None;
    }
    let (mut compared, mut wrong) = (0, Vec::new());
    for file in files {
        let text = read(file);
        let Ok(ours) = read_network(&text, Mode::Lenient) else { continue };
        // The test driver does not know dnsmasq's options.
        let Some(uuid) = ours.uuid.filter(|_| ours.dnsmasq_options.is_empty()) else { continue };
        let script =
            format!("net-destroy default; net-undefine default; net-define {}; net-dumpxml {uuid}", file.display());
        let mut virsh = Command::new("virsh");
        let output = virsh.args(["-q", "-c", "test:///default", &script]).output().expect("virsh runs");
        let theirs = String::from_utf8(output.stdout).expect("UTF-8");
        let theirs = &theirs[theirs.find("<network").unwrap_or(theirs.len())..];
        let mut ours = without_defaults(&write_network(&ours), &text);
        let theirs = without_defaults(theirs.trim_end(), &text);
        // We print as libvirt 9 does; later ones leave it out where it is empty.
        if !theirs.contains("<metadata/>") {
            ours = ours.replace("  <metadata/>\n", "");
        }
        compared += 1;
        if ours != theirs {
            let errors = String::from_utf8_lossy(&output.stderr);
            wrong.push(format!("{}: virsh\n{theirs}{errors}we\n{ours}", file.display()));
        }
    }
    Some((compared, wrong))
}

#[test]
fn virsh_prints_the_same() {
    let name = "virsh_prints_the_same";
    let Some(corpus) = corpus(name) else { return };
    let folders = ["networkxml2xmlin", "networkxml2confdata", "networkxml2firewalldata"];
    let files: Vec<_> = folders.iter().flat_map(|folder| xml_files(&corpus.join(folder))).collect();
    let Some((compared, wrong)) = compare_with_virsh(name, &files) else { return };
    assert!(compared > 30, "only {compared} files were compared");
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Documents of ours, with what libvirt's have not: white space, order and forms that printing changes.
#[test]
fn virsh_prints_our_own_documents_the_same() {
    let files = xml_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data"));
    for file in &files {
        let network = read_network(&read(file), Mode::Lenient).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert_eq!(read_network(&write_network(&network), Mode::Strict).as_ref(), Ok(&network), "{}", file.display());
    }
    let Some((compared, wrong)) = compare_with_virsh("virsh_prints_our_own_documents_the_same", &files) else { return };
    assert_eq!(compared, files.len());
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn updates_give_what_libvirts_give() {
    use UpdateCommand as Do;
    use UpdateSection as In;
    let Some(corpus) = corpus("updates_give_what_libvirts_give") else { return };
    let sections = [In::IpDhcpHost, In::IpDhcpRange, In::Portgroup, In::DnsHost, In::DnsTxt, In::DnsSrv];
    let commands =
        [("modify", Do::Modify), ("delete", Do::Delete), ("add-last", Do::AddLast), ("add-first", Do::AddFirst)];
    let (mut cases, mut wrong) = (0, Vec::new());
    for line in read(&corpus.join("net-update-cases.tsv")).lines().skip(1) {
        let [case, definition, fragment, command, section, parent, result] =
            line.split('\t').collect::<Vec<_>>().try_into().expect("seven fields");
        let network = read(&corpus.join(format!("networkxml2xmlin/{definition}.xml")));
        let network = read_network(&network, Mode::Strict).expect(definition);
        let fragment = read(&corpus.join(format!("networkxml2xmlupdatein/{fragment}.xml")));
        let command = commands.iter().find(|(name, _)| *name == command).expect(command).1;
        let section = *sections.iter().find(|s| s.as_str() == section).expect(section);
        let updated = network.update(command, section, parent.parse().ok(), &fragment);
        cases += 1;
        match (updated, result) {
            (Err(_), "(refused)") => {}
            (Ok(_), "(refused)") => wrong.push(format!("{case}: it was not refused")),
            (Err(e), _) => wrong.push(format!("{case}: {e}")),
            (Ok(updated), _) => {
                let want = read(&corpus.join(format!("networkxml2xmlupdateout/{result}.xml")));
                let printed = write_network(&updated);
                if printed != want {
                    wrong.push(format!("{case}: printed\n{printed}"));
                }
            }
        }
    }
    assert!(cases > 10, "only {cases} cases");
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn ports_come_back_as_they_were() {
    let Some(corpus) = corpus("ports_come_back_as_they_were") else { return };
    for file in xml_files(&corpus.join("virnetworkportxml2xmldata")) {
        let text = read(&file);
        let port = read_networkport(&text, Mode::Strict).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert_eq!(write_networkport(&port), text, "{}", file.display());
    }
}

#[test]
fn devices_are_printed_as_libvirt_prints_them() {
    let Some(corpus) = corpus("devices_are_printed_as_libvirt_prints_them") else { return };
    let mut compared = 0;
    for file in xml_files(&corpus.join("nodedevschemadata")) {
        let original = read(&file);
        let Some(device) = corpus_nodedev::read(&original) else { continue };
        // Which port a link is of is not printed, and an empty list is written in one way only.
        let expected = corpus_nodedev::without_ports(&original);
        let empty = "<capability type='virt_functions'";
        let expected = expected.replace(&format!("{empty}>\n    </capability>"), &format!("{empty}/>"));
        assert_eq!(write_node_device(&device), expected, "{}", stem(&file));
        compared += 1;
    }
    assert!(compared >= 8, "{compared} documents");
}
