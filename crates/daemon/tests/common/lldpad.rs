//! An lldpad that tests play, for NICs whose ports a switch gives a profile.

use super::{Host, SOON};
use patchcord_testkit::{NetlinkPeer, Process, wait_until};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

const NLMSG_DONE: u16 = 3;
const RTM_GETLINK: u16 = 18;
const IFLA_VF_PORTS: u16 = 24;

/// Plays lldpad, in a test program's process of its own: whoever uses this has a test `lldpad_process` that does nothing but
/// this, and is ignored. It does what the file `mode` says at that time (`accept`, `refuse`, `silent`, when it takes requests
/// without a word), and writes down the requests.
pub(crate) fn play() {
    let Ok(directory) = std::env::var("PLAY") else { return };
    let directory = PathBuf::from(directory);
    let mut log = fs::File::create(directory.join("log")).unwrap();
    let peer = NetlinkPeer::bind(std::process::id());
    writeln!(log, "ready").unwrap();
    let mut known: BTreeSet<Vec<u8>> = BTreeSet::new();
    loop {
        let (message, from) = peer.receive();
        let mode = fs::read_to_string(directory.join("mode")).unwrap();
        let question = message[4..6] == RTM_GETLINK.to_ne_bytes();
        if !question {
            let told: String = message[16..].iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(log, "{told}").unwrap();
        }
        if question {
            if mode == "silent" {
                continue;
            }
            let port = |instance: &Vec<u8>| {
                let response = if mode == "refuse" { 4u16 } else { 0 };
                let parts = [
                    attribute(4, instance),
                    attribute(1, &u32::MAX.to_ne_bytes()),
                    attribute(7, &response.to_ne_bytes()),
                ];
                attribute(1, &parts.concat())
            };
            let ports: Vec<u8> = known.iter().flat_map(port).collect();
            if mode == "refuse" {
                known.clear();
            }
            let payload = [vec![0; 16], attribute(IFLA_VF_PORTS, &ports)].concat();
            peer.answer(from, &message, NLMSG_DONE, &payload);
            continue;
        }
        // The end of a request: instance (16 bytes), then the operation's attribute (8 bytes).
        let end = message.len();
        let (instance, operation) = (message[end - 24..end - 8].to_vec(), message[end - 4]);
        if operation == 3 {
            known.remove(&instance);
        } else {
            known.insert(instance);
        }
        if mode != "silent" {
            peer.acknowledge(from, &message, 0);
        }
    }
}

/// One attribute.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = [&(4 + value.len() as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A running lldpad of ours.
pub(crate) struct Lldpad {
    directory: tempfile::TempDir,
    _process: Process,
}

impl Lldpad {
    /// Starts it, with its pid file where the daemon looks for it.
    pub(crate) fn start(host: &Host<'_>, mode: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("lldpad");
        let test = std::env::current_exe().unwrap();
        if fs::hard_link(&test, &program).is_err() {
            fs::copy(&test, &program).unwrap();
        }
        fs::write(directory.path().join("mode"), mode).unwrap();
        let line = format!("{} --ignored --exact lldpad_process --nocapture", program.display());
        let mut command = host.ns.command(&line);
        command.env("PLAY", directory.path());
        let lldpad = Self { directory, _process: Process::start(command) };
        fs::write(host.root.join("var/run/lldpad.pid"), format!("{}\n", lldpad._process.id())).unwrap();
        wait_until("the player", SOON, || if lldpad.log().starts_with("ready\n") { Ok(()) } else { Err("not ready") });
        lldpad
    }

    pub(crate) fn mode(&self, mode: &str) {
        let new = self.directory.path().join("new");
        fs::write(&new, mode).unwrap();
        fs::rename(new, self.directory.path().join("mode")).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// The requests that it got, without what all have in common.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.log().lines().skip(1).map(str::to_owned).collect()
    }

    /// The profiles that it was asked for: manager, type, version, and whose it is.
    pub(crate) fn profiles(&self) -> Vec<String> {
        let read = |request: &String| {
            // The profile (`struct ifla_port_vsi`, 8 bytes) and the instance are two attributes beside each other.
            let at = request.find("0c000300").expect("a profile") + 8;
            let number = |from: usize| u32::from_str_radix(&request[at + from..at + from + 2], 16).unwrap();
            let type_id = number(2) | number(4) << 8 | number(6) << 16;
            let instance = &request[at + 24..at + 56];
            let instance = uuid::Uuid::parse_str(instance).unwrap();
            format!("{} {type_id} {} {instance}", number(0), number(8))
        };
        let asked = self.requests().into_iter().zip(self.operations()).filter(|(_, operation)| *operation == 2);
        asked.map(|(request, _)| read(&request)).collect()
    }

    /// The operations of those requests, in order: 2 to associate, 3 to end that.
    pub(crate) fn operations(&self) -> Vec<u8> {
        self.requests().iter().map(|r| u8::from_str_radix(&r[r.len() - 8..r.len() - 6], 16).unwrap()).collect()
    }
}
