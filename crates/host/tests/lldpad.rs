//! Associations with Debian's own lldpad, which speaks VDP with a switch of ours behind a tap.
#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use patchcord_core::model::{LinkName, MacAddr, VirtualPort, VirtualPortType};
use patchcord_host::Error;
use patchcord_host::association::{Association, Guest, Uplink, associate, disassociate, reserve};
use patchcord_testkit::{Namespace, Process, create_tap, in_namespace, unpacked, wait_until};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use uuid::Uuid;

const INSTANCE: Uuid = Uuid::from_u128(0xfa9b_7fff_b0a0_4893_8e0e_beef_4ff1_8f8f);
const LONG: Duration = Duration::from_secs(20);

/// Before each frame of a tap.
const VNET_HEADER: usize = 10;
const SWITCH: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NEAREST_CUSTOMER_BRIDGE: [u8; 6] = [1, 0x80, 0xc2, 0, 0, 0];
const LLDP: [u8; 2] = [0x88, 0xcc];
/// The edge control protocol of 802.1Qbg's draft 0, which carries VDP: an OUI and a zero, subtype, whether it is an
/// acknowledgement, sequence number.
const ECP: [u8; 2] = [0x88, 0xb7];
const ECP_IS_ACK: usize = 20;
const ECP_SEQUENCE: usize = 21;
const ECP_BODY: usize = 23;
/// In a VDP TLV: what is answered.
const VDP_RESPONSE: usize = ECP_BODY + 7;
/// A switch with one port. It announces by LLDP whatever the station does, and answers VDP as it is told.
struct Switch {
    stop: Arc<AtomicBool>,
    /// Its answer; `None` is silence.
    answer: Arc<Mutex<Option<u8>>>,
    /// VDP TLVs that came.
    asked: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<()>>,
}

impl Switch {
    fn new(tap: OwnedFd, answer: Option<u8>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answer = Arc::new(Mutex::new(answer));
        let (ask, asked) = channel();
        let (stopped, answers) = (Arc::clone(&stop), Arc::clone(&answer));
        let thread = std::thread::spawn(move || {
            let mut sequence = 100;
            while !stopped.load(Ordering::Relaxed) {
                let mut ready = [PollFd::new(&tap, PollFlags::IN)];
                poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 })).unwrap();
                if ready[0].revents().contains(PollFlags::IN) {
                    let mut buffer = [0; 2048];
                    let length = rustix::io::read(&tap, &mut buffer).unwrap();
                    let answer = *answers.lock().unwrap();
                    for frame in answers_to(&buffer[VNET_HEADER..length], answer, &mut sequence, &ask) {
                        let _ = rustix::io::write(&tap, &[&[0; VNET_HEADER][..], &frame].concat());
                    }
                }
            }
        });
        Self { stop, answer, asked, thread: Some(thread) }
    }

    /// Whether it was asked for the association below last, or (mode 3) for its end: from the TLV's type and length on,
    /// OUI and subtype, mode, response, manager, type, version, instance, and one address with its VLAN.
    fn was_asked(&self, mode: u8) {
        let tlv = self.asked.try_iter().last().expect("nothing was asked");
        let tlv: String = tlv.iter().map(|byte| format!("{byte:02x}")).collect();
        let details = "000c12345601fa9b7fffb0a048938e0ebeef4ff18f8f020001525400c73ece0003";
        assert_eq!(tlv, format!("fe26001b3f02{mode:02x}{details}"));
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn answers_to(frame: &[u8], answer: Option<u8>, sequence: &mut u16, ask: &Sender<Vec<u8>>) -> Vec<Vec<u8>> {
    let station: [u8; 6] = frame[6..12].try_into().unwrap();
    let mut mirrored = frame.to_vec();
    mirrored[6..12].copy_from_slice(&SWITCH);
    if frame[12..14] == LLDP && frame[..6] == NEAREST_CUSTOMER_BRIDGE {
        // The station's address is in it as chassis and port, too.
        while let Some(at) = mirrored.windows(6).position(|window| window == station) {
            mirrored[at..at + 6].copy_from_slice(&SWITCH);
        }
        return vec![mirrored];
    }
    if frame[12..14] != ECP || frame[ECP_IS_ACK] != 0 {
        return Vec::new();
    }
    let mut ack = mirrored.clone();
    ack[ECP_IS_ACK] = 1;
    ack[ECP_BODY..].fill(0);
    let tlv = frame[ECP_BODY..].strip_prefix(&[0xfe]).map(|rest| &frame[ECP_BODY..ECP_BODY + 2 + usize::from(rest[0])]);
    let Some(tlv) = tlv else { return vec![ack] };
    let _ = ask.send(tlv.to_vec());
    let Some(response) = answer else { return vec![ack] };
    *sequence += 1;
    mirrored[ECP_SEQUENCE..ECP_BODY].copy_from_slice(&sequence.to_be_bytes());
    mirrored[VDP_RESPONSE] = response;
    vec![ack, mirrored]
}

/// lldpad with its client program, in mount and IPC namespaces of its own, since it writes to /run and /dev/shm.
struct Lldpad<'a> {
    ns: &'a Namespace,
    package: PathBuf,
    directory: tempfile::TempDir,
    process: Process,
}

impl<'a> Lldpad<'a> {
    fn start(ns: &'a Namespace, package: PathBuf, configuration: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("lldpad.conf"), configuration).unwrap();
        let process = Self::run(ns, &package, directory.path());
        let lldpad = Self { ns, package, directory, process };
        lldpad.answers();
        lldpad
    }

    fn run(ns: &Namespace, package: &Path, directory: &Path) -> Process {
        let program = package.join("usr/sbin/lldpad");
        let script = format!(
            "mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /dev/shm && exec {} -t -V 7 -f {}",
            program.display(),
            directory.join("lldpad.conf").display()
        );
        let mut command = with_libraries(ns.command("unshare --mount --ipc sh -c"), package);
        let log = File::create(directory.join("log")).unwrap();
        command.arg(script).stdout(log.try_clone().unwrap()).stderr(log);
        Process::start(command)
    }

    fn restart(&mut self) {
        self.process.kill();
        self.process = Self::run(self.ns, &self.package, self.directory.path());
        self.answers();
    }

    fn answers(&self) {
        wait_until("lldpad", LONG, || self.tool("-p").map(drop).map_err(|error| self.state(error)));
    }

    /// What lldptool prints.
    fn tool(&self, arguments: &str) -> Result<String, String> {
        let line = format!("{} {arguments}", self.package.join("usr/sbin/lldptool").display());
        let output = with_libraries(self.ns.command(&line), &self.package).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(text) } else { Err(text + &String::from_utf8_lossy(&output.stderr)) }
    }

    fn state(&self, seen: String) -> String {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("{seen}\n{}", lines[lines.len().saturating_sub(40)..].join("\n"))
    }

    /// Waits until the switch and lldpad have told each other that they speak VDP.
    fn agree(&self) {
        wait_until("VDP", LONG, || match self.tool("-t -i eth0 -g ncb -V vdp") {
            Ok(text) if text.contains("VDP Bit:yes") => Ok(()),
            Ok(text) | Err(text) => Err(self.state(text)),
        });
    }

    /// The ports that it has, as lldptool lists them.
    fn ports(&self) -> String {
        self.tool("-t -i eth0 -g ncb -V vdp -c mode").unwrap().trim().to_owned()
    }

    /// Its pid file, as it sees it.
    fn pid_file(&self) -> PathBuf {
        format!("/proc/{}/root/run/lldpad.pid", self.process.id()).into()
    }
}

fn with_libraries(mut command: Command, package: &Path) -> Command {
    let libraries = package.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    command.env("LD_LIBRARY_PATH", libraries);
    command
}

/// Runs a test with lldpad between eth0 and a switch that gives that answer, when both have agreed to speak VDP.
fn with_switch(answer: Option<u8>, test: impl FnOnce(&Lldpad<'_>, &Switch, Association) + Send) {
    let Some(package) = unpacked("lldpad") else { return };
    in_namespace(|ns| {
        let switch = Switch::new(create_tap("eth0").unwrap(), answer);
        let configuration = "nearest_customer_bridge : { eth0 : { adminStatus = 3;\n\
            tlvid001b3f00 : { enableTx = true; fmode = \"reflectiverelay\"; capabilities = \"rte,ecp,vdp\"; };\n\
            vdp : { enableTx = true; role = \"station\"; }; }; };\n";
        let lldpad = Lldpad::start(ns, package, configuration);
        lldpad.agree();
        test(&lldpad, &switch, port(ns, "eth0"));
    });
}

fn port(ns: &Namespace, link: &str) -> Association {
    let index = ns.json(&format!("ip -j link show dev {link}"))[0]["ifindex"].as_u64().unwrap();
    let virtualport = VirtualPort {
        kind: Some(VirtualPortType::Qbg),
        manager_id: Some(12),
        type_id: Some(0x12_3456),
        type_id_version: Some(1),
        instance_id: Some(INSTANCE),
        ..VirtualPort::default()
    };
    let mac = MacAddr([0x52, 0x54, 0, 0xc7, 0x3e, 0xce]);
    let guest = Guest { mac, vlan: 3, uuid: Uuid::nil(), host: Uuid::nil() };
    let uplink = Uplink { name: LinkName::new(link).unwrap(), index: index as u32, vf: None };
    Association::new(uplink, &virtualport, &guest).unwrap()
}

fn deadline() -> Instant {
    Instant::now() + LONG
}

fn said(outcome: Result<(), Error>) -> String {
    let error = outcome.unwrap_err();
    assert!(matches!(error, Error::Association { left: None, .. }), "{error:?}");
    error.to_string()
}

#[test]
fn a_switch_that_agrees_is_told_what_was_asked_for() {
    with_switch(Some(0), |lldpad, switch, port| {
        associate(&port, &lldpad.pid_file(), deadline()).unwrap();
        switch.was_asked(2);
        let ports = lldpad.ports();
        assert!(ports.starts_with("mode=2,12,1193046,1,fa9b7fff-b0a0-4893-8e0e-beef4ff18f8f,"), "{ports}");
        // What is there already is no error.
        associate(&port, &lldpad.pid_file(), deadline()).unwrap();

        disassociate(&port, &lldpad.pid_file(), deadline()).unwrap();
        switch.was_asked(3);
        disassociate(&port, &lldpad.pid_file(), deadline()).unwrap();
        assert_eq!(lldpad.ports(), "mode=");
    });
}

#[test]
fn what_a_switch_has_reserved_is_associated_in_place_or_given_back() {
    with_switch(Some(0), |lldpad, switch, port| {
        reserve(&port, &lldpad.pid_file(), deadline()).unwrap();
        switch.was_asked(1);
        associate(&port, &lldpad.pid_file(), deadline()).unwrap();
        switch.was_asked(2);
        assert!(lldpad.ports().starts_with("mode=2,12,1193046,1,"), "{}", lldpad.ports());
        disassociate(&port, &lldpad.pid_file(), deadline()).unwrap();
        reserve(&port, &lldpad.pid_file(), deadline()).unwrap();
        disassociate(&port, &lldpad.pid_file(), deadline()).unwrap();
        switch.was_asked(3);
        assert_eq!(lldpad.ports(), "mode=");
    });
}

#[test]
fn a_switch_that_refuses_is_quoted_and_nothing_is_left() {
    with_switch(Some(4), |lldpad, switch, port| {
        let error = said(associate(&port, &lldpad.pid_file(), deadline()));
        assert!(
            error.contains(": the type is not allowed here, or the switch has other reasons (response 4); "),
            "{error}"
        );
        assert_eq!(lldpad.ports(), "mode=");
        *switch.answer.lock().unwrap() = Some(0);
        associate(&port, &lldpad.pid_file(), deadline()).unwrap();
    });
}

#[test]
fn a_switch_that_is_silent_is_given_up() {
    with_switch(None, |lldpad, _, port| {
        let error = said(associate(&port, &lldpad.pid_file(), deadline()));
        assert!(error.contains(": lldpad has dropped it: the switch did not answer"), "{error}");
        assert_eq!(lldpad.ports(), "mode=");

        let error = said(associate(&port, &lldpad.pid_file(), Instant::now() + Duration::from_millis(500)));
        assert!(error.contains(": the switch did not decide in time; "), "{error}");
        wait_until("the end of it", LONG, || match lldpad.ports().as_str() {
            "mode=" => Ok(()),
            ports => Err(ports.to_owned()),
        });
    });
}

#[test]
fn a_link_without_vdp_says_what_is_to_be_done() {
    let Some(package) = unpacked("lldpad") else { return };
    in_namespace(|ns| {
        let _switch = Switch::new(create_tap("eth0").unwrap(), Some(0));
        let port = port(ns, "eth0");
        let mut lldpad = Lldpad::start(ns, package, "");
        let error = said(associate(&port, &lldpad.pid_file(), deadline()));
        assert!(error.contains(": lldpad does not speak VDP there; its link must be up, "), "{error}");
        disassociate(&port, &lldpad.pid_file(), deadline()).unwrap();

        let told = [
            ("lldptool -T -g ncb -i LINK", "-V vdp -c enableTx=yes"),
            ("lldptool -T -g ncb -i LINK", "-V evbCfg -c enableTx=yes"),
            ("lldptool -T -g ncb -i LINK", "-V evbCfg -c capabilities=rte,ecp,vdp"),
            ("lldptool -L -g ncb -i LINK", "adminStatus=rxtx"),
        ];
        for (command, with) in told {
            assert!(error.contains(command) && error.contains(with), "{error}");
            let arguments = command.strip_prefix("lldptool ").unwrap().replace("LINK", "eth0");
            lldpad.tool(&format!("{arguments} {with}")).unwrap();
        }
        lldpad.restart();
        lldpad.agree();
        associate(&port, &lldpad.pid_file(), deadline()).unwrap();
    });
}
