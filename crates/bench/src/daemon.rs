//! A daemon below a root of its own on a tmpfs, and what is asked of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use patchcord_api::Client;
use patchcord_api::methods::{
    AttachNIC, CreateNetwork, DefineNetwork, DetachNIC, ListNetworks, Method, ModifyNIC, StartNetwork,
};
use patchcord_api::types::{Network, Nic};
use patchcord_testkit::Process;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::stats::timed;

/// How often a daemon that starts is asked whether it answers.
const ASK_EVERY: Duration = Duration::from_micros(200);
const PATIENCE: Duration = Duration::from_secs(60);

/// A running daemon. Its dnsmasqs end with it.
pub(crate) struct Daemon {
    program: PathBuf,
    root: PathBuf,
    process: Process,
    client: Client,
    _directory: tempfile::TempDir,
}

/// A method that no daemon has: the round trip of its refusal is the socket's and the framing's own.
#[derive(Serialize, Deserialize)]
struct Nothing {}

impl Method for Nothing {
    const NAME: &'static str = "Nothing";
    type Reply = Nothing;
}

impl Daemon {
    /// Starts one on an empty root. It must be called in private network and mount namespaces.
    pub(crate) fn start(program: &Path) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let root = directory.path().to_owned();
        // dnsmasq reads its files as a user of its own.
        mount("tmpfs", &root, "tmpfs", MountFlags::empty(), Some(c"mode=0755"))?;
        fs::create_dir(root.join("etc"))?;
        fs::write(root.join("etc/resolv.conf"), "nameserver 192.0.2.53\n")?;
        let process = spawn(program, &root)?;
        let client = first_answer(&root)?;
        Ok(Self { program: program.to_owned(), root, process, client, _directory: directory })
    }

    /// Ends it as a service manager does, and starts it again: how long that takes until the first answered call,
    /// and until it shows every network as `is_whole` wants it.
    pub(crate) fn restart(&mut self, mut is_whole: impl FnMut(&[Network]) -> bool) -> Result<(Duration, Duration)> {
        kill_process(pid(self.process.id())?, Signal::TERM)?;
        let begun = Instant::now();
        while self.process.ended().is_none() {
            if begun.elapsed() > PATIENCE {
                return Err("the daemon does not end".into());
            }
            std::thread::sleep(ASK_EVERY);
        }
        let begun = Instant::now();
        self.process = spawn(&self.program, &self.root)?;
        self.client = first_answer(&self.root)?;
        let answered = begun.elapsed();
        while !is_whole(&self.networks()?) {
            if begun.elapsed() > PATIENCE {
                return Err("the daemon does not find everything again".into());
            }
        }
        Ok((answered, begun.elapsed()))
    }

    /// Its root.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn call<M: Method>(&mut self, method: &M) -> Result<M::Reply> {
        self.client.call(method).map_err(|error| self.explain(&error))
    }

    fn explain(&self, error: &patchcord_api::ClientError) -> Box<dyn std::error::Error> {
        let log = fs::read_to_string(self.root.join("daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("{error}; the daemon said last:\n{}", lines[lines.len().saturating_sub(20)..].join("\n")).into()
    }

    /// How long a call takes that asks nothing.
    pub(crate) fn trivial_call(&mut self) -> Duration {
        let begun = Instant::now();
        // The refusal is the answer.
        let _ = self.client.call(&Nothing {});
        begun.elapsed()
    }

    /// Defines a network and starts it.
    pub(crate) fn network(&mut self, xml: &str) -> Result<Network> {
        let name = self.call(&DefineNetwork { xml: xml.to_owned() })?.network.name;
        Ok(self.call(&StartNetwork { name })?.network)
    }

    /// Starts a network without a definition.
    pub(crate) fn transient(&mut self, xml: &str) -> Result<Network> {
        Ok(self.call(&CreateNetwork { xml: xml.to_owned() })?.network)
    }

    pub(crate) fn networks(&mut self) -> Result<Vec<Network>> {
        Ok(self.call(&ListNetworks::default())?.networks)
    }

    /// Attaches a NIC, and says how long that took. By descriptor, the descriptor comes with the answer.
    pub(crate) fn attach(&mut self, interface: &str, guest: &str, by_name: bool) -> Result<(Duration, Nic)> {
        let (by_name, fetch) = (by_name.then_some(true), (!by_name).then_some(true));
        let (guest, xml) = (guest.to_owned(), interface.to_owned());
        let method = AttachNIC { guest, xml, by_name, fetch, ..AttachNIC::default() };
        let places = |reply: &patchcord_api::methods::Attached| reply.fds.clone().unwrap_or_default();
        let (time, (reply, _fds)) =
            timed(|| self.client.call_with_fds(&method, places)).map_err(|error| self.explain(&error))?;
        Ok((time, reply.nic))
    }

    /// Configures a NIC anew, and says how long that took.
    pub(crate) fn modify(&mut self, nic: &Nic, interface: &str) -> Result<(Duration, Nic)> {
        let method = ModifyNIC { id: nic.id.clone(), xml: interface.to_owned() };
        let (time, changed) = timed(|| self.call(&method))?;
        Ok((time, changed.nic))
    }

    /// Detaches a NIC, and says how long that took.
    pub(crate) fn detach(&mut self, nic: &Nic) -> Result<Duration> {
        let method = DetachNIC { id: nic.id.clone() };
        Ok(timed(|| self.call(&method))?.0)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process.kill();
        let pid_files = fs::read_dir(self.root.join("run/patchcord/dnsmasq")).into_iter().flatten().flatten();
        pid_files.for_each(|file| end_process_of(&file.path()));
        let _ = unmount(&self.root, UnmountFlags::DETACH);
    }
}

/// A guest's interface on a network.
pub(crate) fn on(network: &str) -> String {
    format!("<interface type='network'><source network='{network}'/></interface>")
}

/// The same by a macvtap.
pub(crate) fn by_macvtap(network: &str) -> String {
    let driver = "<pc:driver xmlns:pc='urn:patchcord:1' plug='macvtap'/>";
    format!("<interface type='network'><source network='{network}'/>{driver}</interface>")
}

/// Ends the process whose id is in that file.
pub(crate) fn end_process_of(pid_file: &Path) {
    let text = fs::read_to_string(pid_file).unwrap_or_default();
    if let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) {
        // It may have ended already.
        let _ = kill_process(pid, Signal::KILL);
    }
}

fn spawn(program: &Path, root: &Path) -> Result<Process> {
    let log = File::options().create(true).append(true).open(root.join("daemon.log"))?;
    let mut command = Command::new(program);
    command.arg("--root").arg(root).stdout(log.try_clone()?).stderr(log);
    Ok(Process::start(command))
}

/// A connection to a daemon that has just started, once it has answered a call.
fn first_answer(root: &Path) -> Result<Client> {
    let socket = root.join("run/patchcord/patchcord.sock");
    let begun = Instant::now();
    loop {
        let answer = Client::connect(&socket).and_then(|mut client| {
            client.call(&ListNetworks::default())?;
            Ok(client)
        });
        match answer {
            Ok(client) => return Ok(client),
            Err(error) if begun.elapsed() > PATIENCE => {
                let log = fs::read_to_string(root.join("daemon.log")).unwrap_or_default();
                return Err(format!("the daemon does not answer: {error}\n{log}").into());
            }
            Err(_) => std::thread::sleep(ASK_EVERY),
        }
    }
}

fn pid(pid: u32) -> Result<Pid> {
    Ok(i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or("no process id")?)
}
