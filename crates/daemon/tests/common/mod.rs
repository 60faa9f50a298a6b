//! The real daemon in a test's own network namespace, and what tests ask it.
// Each test program uses its own part of this.
#![allow(dead_code)]

pub(crate) mod console;
pub(crate) mod lldpad;
pub(crate) mod outside;
pub(crate) mod python;
pub(crate) mod rates;
pub(crate) mod remote;
pub(crate) mod switch;

use patchcord_api::Client;
use patchcord_api::error::{ClientError, Refusal};
use patchcord_api::event::{Event, Monitored};
use patchcord_api::methods::{
    AttachNIC, CreateNetwork, DefineNetwork, DetachNIC, ListNICs, ListNetworks, Method, ShowNIC, ShowNetwork,
    StartNetwork, StopNetwork, UpdateNetwork,
};
use patchcord_api::types::{Network, Nic};
use patchcord_testkit::{Guest, Namespace, Process, skip, test_name, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::HashSet;
use std::fmt::Debug;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Long enough for anything that works, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// A daemon with a root directory of its own. Its dnsmasqs end with it.
pub(crate) struct Host<'a> {
    pub(crate) ns: &'a Namespace,
    pub(crate) root: PathBuf,
    daemon: Option<Process>,
    _directory: tempfile::TempDir,
}

impl<'a> Host<'a> {
    /// An empty root directory, and a daemon that serves.
    pub(crate) fn new(ns: &'a Namespace) -> Self {
        let mut host = Self::without_daemon(ns);
        host.start();
        host
    }

    /// An empty root directory, with name servers that nobody asks.
    pub(crate) fn without_daemon(ns: &'a Namespace) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // dnsmasq reads its files as a user of its own.
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let root = directory.path().to_owned();
        fs::create_dir(root.join("etc")).unwrap();
        fs::write(root.join("etc/resolv.conf"), "nameserver 192.0.2.53\n").unwrap();
        Self { ns, root, daemon: None, _directory: directory }
    }

    /// A root directory whose directories of libvirt are libvirt's own, and no daemon.
    pub(crate) fn beside_libvirt(ns: &'a Namespace) -> Self {
        let host = Self::without_daemon(ns);
        for directory in ["run", "var/lib"] {
            fs::create_dir_all(host.root.join(directory)).unwrap();
        }
        for directory in ["run/libvirt", "var/lib/libvirt", "etc/libvirt"] {
            symlink(Path::new("/").join(directory), host.root.join(directory)).unwrap();
        }
        host
    }

    /// The daemon's command on a root directory. What it says goes to `log`.
    pub(crate) fn command(root: &Path, log: &Path) -> Command {
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_patchcordd"));
        command.arg("--root").arg(root).stdout(log.try_clone().unwrap()).stderr(log);
        command
    }

    /// Starts the daemon, and waits until it answers.
    pub(crate) fn start(&mut self) {
        self.start_as(Self::command(&self.root, &self.root.join("daemon.log")));
    }

    /// Starts the daemon by a command that becomes it, and waits until it answers.
    pub(crate) fn start_as(&mut self, command: Command) {
        assert!(self.daemon.is_none(), "there is a daemon");
        self.daemon = Some(Process::start(command));
        wait_until("the daemon", SOON, || {
            if let Some(status) = self.daemon.as_mut().unwrap().ended() {
                panic!("the daemon ended: {status}\n{}", self.log());
            }
            let mut client = Client::connect(&self.socket()).map_err(|e| e.to_string())?;
            client.call(&ListNetworks::default()).map_err(|e| e.to_string())
        });
    }

    /// Starts the daemon without waiting for it.
    pub(crate) fn start_unready(&mut self) {
        assert!(self.daemon.is_none(), "there is a daemon");
        self.daemon = Some(Process::start(Self::command(&self.root, &self.root.join("daemon.log"))));
    }

    /// Kills the daemon as a crash would.
    pub(crate) fn kill(&mut self) {
        self.daemon.take().expect("a daemon").kill();
    }

    /// Ends the daemon the way a service manager does.
    pub(crate) fn stop(&mut self) {
        let mut daemon = self.daemon.take().expect("a daemon");
        kill_process(pid(daemon.id()), Signal::TERM).unwrap();
        wait_until("the daemon's end", SOON, || daemon.ended().ok_or("it runs"));
    }

    /// The daemon's process.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("a daemon").id()
    }

    /// What the daemon has said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.root.join("daemon.log")).unwrap_or_default()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.root.join("run/patchcord/patchcord.sock")
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket()).unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// Calls a method that must succeed.
    pub(crate) fn call<M: Method + Debug>(&self, method: &M) -> M::Reply {
        self.client().call(method).unwrap_or_else(|error| panic!("{method:?}: {}", told(&error)))
    }

    /// Calls a method that must be refused; gives the error's name and what it says.
    pub(crate) fn refused<M: Method + Debug>(&self, method: &M) -> (String, Refusal)
    where
        M::Reply: Debug,
    {
        match self.client().call(method) {
            Err(ClientError::Refused { name, refusal }) => (name, *refusal),
            other => panic!("{method:?} should have been refused: {other:?}"),
        }
    }

    /// Defines and starts a network.
    pub(crate) fn network(&self, xml: &str) -> Network {
        let defined = self.call(&DefineNetwork { xml: xml.into() }).network;
        self.call(&StartNetwork { name: defined.name }).network
    }

    pub(crate) fn transient(&self, xml: &str) -> Network {
        self.call(&CreateNetwork { xml: xml.into() }).network
    }

    pub(crate) fn start_network(&self, name: &str) -> Network {
        self.call(&StartNetwork { name: name.into() }).network
    }

    pub(crate) fn stop_network(&self, name: &str) {
        self.call(&StopNetwork { name: name.into() });
    }

    pub(crate) fn show(&self, name: &str) -> Network {
        self.call(&ShowNetwork { name: name.into() }).network
    }

    pub(crate) fn nic(&self, id: &str) -> Nic {
        self.call(&ShowNIC { id: id.into() }).nic
    }

    pub(crate) fn nics(&self) -> Vec<Nic> {
        self.call(&ListNICs { network: None }).nics
    }

    pub(crate) fn detach(&self, id: &str) {
        self.call(&DetachNIC { id: id.into() });
    }

    /// Attaches a NIC whose tap comes as a descriptor, and puts a guest behind it.
    pub(crate) fn guest(&self, name: &str, xml: &str) -> (Nic, Guest) {
        let method = AttachNIC { fetch: Some(true), ..attach(name, xml) };
        let answer = self.client().call_with_fds(&method, |reply| reply.fds.clone().unwrap_or_default());
        let (reply, mut fds) = answer.unwrap_or_else(|error| panic!("{method:?}: {}", told(&error)));
        assert_eq!(fds.len(), 1, "one queue, one descriptor");
        let guest = Guest::new(fds.remove(0), mac(&reply.nic), 12).unwrap();
        (reply.nic, guest)
    }

    /// A guest on a network, with nothing said but that.
    pub(crate) fn guest_on(&self, network: &str, name: &str) -> (Nic, Guest) {
        self.guest(name, &interface(network))
    }

    /// A link, as `ip` sees it.
    pub(crate) fn link(&self, name: &str) -> Option<Value> {
        self.ns.try_run(&format!("ip -d -j link show dev {name}")).ok().map(|text| {
            let links: Value = serde_json::from_str(&text).unwrap();
            links[0].clone()
        })
    }

    /// A setting below /proc/sys/net.
    pub(crate) fn sysctl(&self, key: &str) -> String {
        let path = format!("/proc/sys/net/{key}");
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().to_owned()
    }

    /// Our packet rules, as text; empty without any.
    pub(crate) fn rules(&self) -> String {
        let all = self.ns.run("nft list ruleset");
        // A table without chains is as good as none.
        all.trim().to_owned()
    }

    /// What can be compared before and after an operation that must change nothing: links, addresses, routes, rules,
    /// forwarding and the files below the root. Counters and what passes by itself are left out; doomed links, whose
    /// deletion the daemon doesn't wait for, are waited for.
    pub(crate) fn state(&self) -> String {
        let mut links = wait_until("the deletion of doomed links", SOON, || {
            let links = self.ns.json("ip -j -d link show");
            let doomed = |link: &Value| link["ifname"].as_str().is_some_and(|name| name.starts_with("pcdel"));
            if links.as_array().unwrap().iter().any(doomed) { Err(links.to_string()) } else { Ok(links) }
        });
        for link in links.as_array_mut().unwrap() {
            scrub(link);
        }
        // IPv6 addresses come out of tentativeness by themselves.
        let addresses = self.ns.run("ip -o addr show").replace(" tentative", "");
        let sysctls: Vec<String> =
            ["ipv4/ip_forward", "ipv6/conf/all/forwarding"].iter().map(|k| self.sysctl(k)).collect();
        let mut files = Vec::new();
        list(&self.root, &mut files);
        format!("{links:#}\n{addresses}\n{}\n{sysctls:?}\n{}", self.rules(), files.join("\n"))
    }

    /// Everything that happens from now on.
    pub(crate) fn events(&self) -> Events {
        let (sender, receiver) = channel();
        let client = self.client();
        let (ready, snapshot) = channel();
        std::thread::spawn(move || {
            let _ = client.monitor::<ClientError>(|message| {
                Ok(match message {
                    Monitored::Snapshot { .. } => {
                        // Only the first one is waited for.
                        let _ = ready.send(());
                        true
                    }
                    Monitored::Event { event, .. } => sender.send(*event).is_ok(),
                    Monitored::Overflow { missed } => panic!("{missed} events were missed"),
                })
            });
        });
        snapshot.recv_timeout(SOON).expect("the monitor's snapshot");
        Events { receiver, seen: Vec::new() }
    }

    /// Waits until a guest reaches `target`, in the sense of ping.
    pub(crate) fn reaches(guest: &mut Guest, target: &str) {
        let target: IpAddr = target.parse().unwrap();
        guest.ping(target, SOON).unwrap_or_else(|error| panic!("{target}: {error}"));
    }

    /// Processes of dnsmasq below this root, by network UUID.
    /// The dnsmasqs of this root, by their command lines: one that was just started has no pid file yet, and one may have
    /// lost it.
    pub(crate) fn dnsmasqs(&self) -> Vec<u32> {
        let mark = format!("--conf-file={}/", self.root.display());
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let ours = processes.filter(|process| {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&mark)
        });
        let mut pids: Vec<u32> = ours.filter_map(|process| process.file_name().to_str()?.parse().ok()).collect();
        pids.sort_unstable();
        pids
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill();
        }
        for dnsmasq in self.dnsmasqs() {
            let _ = kill_process(pid(dnsmasq), Signal::KILL);
        }
        if std::thread::panicking() {
            eprintln!("the daemon said:\n{}", self.log());
        }
    }
}

/// A stream of events.
pub(crate) struct Events {
    receiver: Receiver<Event>,
    pub(crate) seen: Vec<Event>,
}

impl Events {
    /// Waits for an event, among those that came already too.
    pub(crate) fn wait(&mut self, what: &str, mut wanted: impl FnMut(&Event) -> bool) -> Event {
        let end = std::time::Instant::now() + SOON;
        let mut next = 0;
        loop {
            if let Some(found) = self.seen[next..].iter().position(&mut wanted) {
                return self.seen.remove(next + found);
            }
            next = self.seen.len();
            match self.receiver.recv_timeout(end.saturating_duration_since(std::time::Instant::now())) {
                Ok(event) => self.seen.push(event),
                Err(error) => panic!("no event for {what}: {error}; there were {:#?}", self.seen),
            }
        }
    }
}

/// libvirt's own test data, or nothing, and the running test is skipped.
pub(crate) fn corpus() -> Option<PathBuf> {
    let folder = std::env::var_os("PATCHCORD_CORPUS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus/libvirt-9.0.0"),
        PathBuf::from,
    );
    if folder.is_dir() {
        return Some(folder);
    }
    skip(&test_name(), &format!("host has no {} (PATCHCORD_CORPUS)", folder.display()));
    None
}

/// The documents in a folder of it, in order.
pub(crate) fn xml_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "xml"));
    files.sort();
    files
}

/// The `<interface>` of a NIC on a network.
pub(crate) fn interface(network: &str) -> String {
    let network = network.replace('&', "&amp;").replace('\'', "&apos;").replace('<', "&lt;");
    format!("<interface type='network'><source network='{network}'/></interface>")
}

/// The same with a MAC.
pub(crate) fn interface_with_mac(network: &str, mac: &str) -> String {
    format!("<interface type='network'><mac address='{mac}'/><source network='{network}'/></interface>")
}

/// The parameters of an attach by descriptor, without an owner.
pub(crate) fn attach(guest: &str, xml: &str) -> AttachNIC {
    AttachNIC { guest: guest.into(), xml: xml.into(), ..AttachNIC::default() }
}

/// The parameters of a change of a part of a network, now and from now on.
pub(crate) fn update(network: &str, command: &str, section: &str, xml: &str) -> UpdateNetwork {
    UpdateNetwork {
        name: network.into(),
        command: command.into(),
        section: section.into(),
        xml: xml.into(),
        live: Some(true),
        config: Some(true),
        ..UpdateNetwork::default()
    }
}

/// A NIC's MAC.
pub(crate) fn mac(nic: &Nic) -> [u8; 6] {
    let text = nic.mac.as_deref().expect("a MAC");
    let bytes: Vec<u8> = text.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// A NIC's tap.
pub(crate) fn tap(nic: &Nic) -> String {
    nic.actual.tap.clone().expect("a tap")
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

/// An error with what the daemon says in full.
pub(crate) fn told(error: &ClientError) -> String {
    format!("{error} {error:?}")
}

/// A program that does nothing until it is killed.
pub(crate) fn idler() -> Process {
    let mut command = Command::new("sleep");
    command.arg("600").stdout(Stdio::null());
    Process::start(command)
}

/// The lines that only one of two states has.
pub(crate) fn differences(before: &str, after: &str) -> String {
    let only = |of: &str, not: &str, sign: &str| {
        let others: HashSet<&str> = not.lines().collect();
        let lines = of.lines().filter(|line| !others.contains(line));
        lines.map(|line| format!("{sign} {line}\n")).collect::<String>()
    };
    only(before, after, "-") + &only(after, before, "+")
}

/// Leaves out what changes by itself.
fn scrub(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| {
                !key.ends_with("_timer")
                    && !["stats", "stats64", "operstate", "flags", "tso_max_size", "fdb_n_learned"]
                        .contains(&key.as_str())
            });
            map.values_mut().for_each(scrub);
        }
        Value::Array(values) => values.iter_mut().for_each(scrub),
        _ => {}
    }
}

/// Files below a directory with their content; those that name or quote the daemon's process are left out, and those for
/// libvirt's modules of the name service switch, which are written some time after what they tell of.
fn list(directory: &Path, into: &mut Vec<String>) {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        if path.ends_with("var/lib/libvirt/dnsmasq") || path.ends_with("var/lib/patchcord/names") {
            continue;
        }
        if path.is_dir() && !path.is_symlink() {
            list(&path, into);
        } else if path.file_name().is_some_and(|n| n != "daemon.log" && n != "lock")
            && path.extension().is_none_or(|e| e != "sock")
        {
            into.push(format!("{}: {}", path.display(), fs::read_to_string(&path).unwrap_or_default()));
        }
    }
}
