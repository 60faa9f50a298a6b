//! A daemon's native door in front of the real engine, on a simulated host; and commands that talk to it.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use patchcord_core::engine::{self, Answer, Body};
use patchcord_core::{plan, sim, xml};
use patchcord_daemon::access::Access;
use patchcord_daemon::handle::{Ask, Handle, Numbered};
use patchcord_daemon::import::Importer;
use patchcord_daemon::native;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{broadcast, mpsc};
use uuid::Uuid;

/// A root directory with a daemon in it. The thread behind it ends with the test's process.
pub struct TestEnv {
    directory: tempfile::TempDir,
}

/// How a command ended.
pub struct Ended {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl TestEnv {
    /// Starts it. Everybody is root in these tests, as far as the daemon can tell.
    pub fn new() -> Self {
        let env = Self { directory: tempfile::tempdir().unwrap() };
        let socket = env.path(patchcord_api::SOCKET);
        std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let base = env.path("");
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let (asks, questions) = mpsc::channel(4);
                let (events, _) = broadcast::channel(64);
                let handle = Handle::new(asks, events.clone());
                let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                tokio::join!(
                    native::serve(listener, handle, Arc::new(Access::default()), Arc::new(Importer::new(base))),
                    run_engine(questions, events)
                );
            });
        });
        env
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file, and gives its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// One of the two programs, with a clean environment.
    pub fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("TMPDIR", self.directory.path());
        command.current_dir(self.directory.path()).stdin(Stdio::null());
        command
    }

    /// `patchcord` with these arguments, in words.
    pub fn patchcord(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(env!("CARGO_BIN_EXE_patchcord"));
        command.arg("--root").arg(self.directory.path()).args(arguments);
        command
    }

    /// Runs `patchcord`.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        ended(self.patchcord(arguments).output().unwrap())
    }

    /// Runs `patchcord`, which must do what it is told.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let ended = self.run(arguments);
        assert_eq!(ended.status, 0, "{arguments:?}: {}", ended.stderr);
        ended.stdout
    }

    /// Runs `patchcord --json`, and gives the document.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(&[&["--json"], arguments].concat())).unwrap()
    }

    /// A network that runs, whose NICs get the two virtual functions of eth0.
    pub fn sriov(&self) -> &Self {
        let network = "<network><name>sriov</name><tag name='blue'/><tag name='fast'/><forward mode='hostdev'>\
                       <pf dev='eth0'/></forward></network>";
        let file = self.write("sriov.xml", network);
        self.ok(&["network", "define", path(&file)]);
        self.ok(&["network", "start", "sriov"]);
        self
    }

    /// A network that runs.
    pub fn lab(&self) -> &Self {
        let file = self.write("lab.xml", "<network><name>lab</name><portgroup name='a,b'/></network>");
        self.ok(&["network", "define", path(&file)]);
        self.ok(&["network", "start", "lab"]);
        self
    }
}

/// A path as an argument.
pub fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn ended(output: Output) -> Ended {
    Ended {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The engine on a simulated host, with pipes in place of taps' descriptors.
async fn run_engine(mut questions: mpsc::Receiver<Ask>, events: broadcast::Sender<Numbered>) {
    let dnsmasq = plan::dnsmasq::Settings {
        dir: "/lib/d".into(),
        run_dir: "/run/d".into(),
        user: None,
        group: None,
        instance: Uuid::from_u128(7),
        upstream: Vec::new(),
    };
    let stamp = xml::Stamp { boot_id: "boot".into(), netns: 1 };
    let mut host = sim::Host::new(engine::Config {
        instance: Uuid::from_u128(7),
        stamp,
        needs_carrier: false,
        binds_drivers: false,
        plug: Default::default(),
        shapes_ports: false,
        uplinks: Default::default(),
        nodes: "/run/patchcord/nodes".into(),
        dnsmasq,
    });
    host.set_functions("eth0", &[(0, None), (1, None)]);
    let mut sequence = 0;
    let started = Instant::now();
    while let Some(question) = questions.recv().await {
        host.wait_until(started.elapsed().as_millis().try_into().unwrap());
        match question {
            Ask::Command(command, answer) => {
                match &*command {
                    engine::Command::Attach(attach) => host.processes.extend(attach.owner),
                    engine::Command::Own(_, owner) => host.processes.extend(*owner),
                    _ => {}
                }
                let _ = answer.send(host.ask(*command));
                for event in host.events.drain(..) {
                    sequence += 1;
                    let _ = events.send((sequence, Arc::new(event)));
                }
            }
            Ask::Descriptors(id, answer) => {
                let queues = match host.ask(engine::Command::ShowNic(id)) {
                    Ok(Answer { body: Body::Nic(nic), .. }) => nic.queues,
                    other => panic!("{other:?}"),
                };
                let pipes: Vec<OwnedFd> = (0..queues)
                    .map(|queue| {
                        let (reader, mut writer) = std::io::pipe().unwrap();
                        write!(writer, "queue {queue};").unwrap();
                        reader.into()
                    })
                    .collect();
                let _ = answer.send(Ok(pipes));
            }
        }
    }
}
