//! Users other than root, whom polkit judges: a real polkitd, on a bus of its own, in the test's namespaces, with libvirt's own
//! actions. They come by libvirt's Python binding, and by what no client of libvirt's would send: `scripts/polkit.py`.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::python::{PYTHON, binding};
use common::remote::{Client, bytes, call, says, socket};
use common::{Host, SOON};
use patchcord_libvirt_wire::xdr::{Parameter, Value, Writer};
use patchcord_libvirt_wire::{Procedure, Status};
use patchcord_testkit::{Namespace, Process, in_namespace, skip, test_name, unpacked, wait_until};
use rustix::process::{Signal, kill_process};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const ALICE: u32 = 4711;
const BOB: u32 = 4712;
const CAROL: u32 = 4713;

const POLKIT: &str = "[libvirt]\nnodedev = 'on'\nauthentication = 'polkit'\n";
const CHECKED: &str = "[libvirt]\nnodedev = 'on'\nauthentication = 'polkit'\naccess_check = 'polkit'\n";

/// A bus on which everyone may do everything.
const BUS: &str = "<busconfig><type>system</type><listen>unix:path=SOCKET</listen>\
     <auth>EXTERNAL</auth><policy context='default'><allow user='*'/><allow own='*'/><allow send_type='method_call'/>\
     <allow send_type='signal'/><allow send_type='method_return'/><allow send_type='error'/>\
     <allow receive_type='method_call'/><allow receive_type='signal'/><allow receive_type='method_return'/>\
     <allow receive_type='error'/></policy></busconfig>";

/// Alice may manage, carol may not even monitor, and nothing is said of bob. Alice may do everything with the network 'lab',
/// and nobody may know of 'hidden', the bridge 'brhidden' and the computer.
const RULES: &str = r#"polkit.addRule(function(action, subject) {
    var network = action.lookup("network_name"), device = action.lookup("node_device_name");
    var interface = action.lookup("interface_name");
    polkit.log("asked for " + action.id + " of " + subject.user + " by " + action.lookup("connect_driver") + ": "
        + network + " " + action.lookup("network_uuid") + " " + action.lookup("port_uuid") + " " + device);
    if (action.id == "org.libvirt.unix.manage" && subject.user == "alice") return polkit.Result.YES;
    if (action.id.indexOf("org.libvirt.unix.") == 0 && subject.user == "carol") return polkit.Result.NO;
    if (action.id == "org.libvirt.api.network.getattr" && network == "hidden") return polkit.Result.NO;
    if (action.id == "org.libvirt.api.node-device.getattr" && device == "computer") return polkit.Result.NO;
    if (action.id == "org.libvirt.api.interface.getattr" && interface == "brhidden") return polkit.Result.NO;
    if (action.id.indexOf("org.libvirt.api.") == 0 && subject.user == "alice" && network == "lab")
        return polkit.Result.YES;
});
"#;

/// polkitd and its bus.
struct Polkitd {
    modules: PathBuf,
    log: PathBuf,
    process: Process,
    _bus: Process,
}

impl Polkitd {
    /// Puts the package's files under the test's /usr and /etc, and starts both; or skips the test.
    fn start(ns: &Namespace, package: &Path, modules: &Path, root: &Path) -> Option<Self> {
        for directory in ["/usr", "/etc"] {
            let more = format!("{}{directory}", package.display());
            let mount = format!("mount -t overlay -o lowerdir={directory}:{more} overlay {directory}");
            if let Err(error) = ns.try_run(&mount) {
                let error = error.trim_end().replace('\n', " ");
                skip(&test_name(), &format!("kernel has no overlay of directories ({error})"));
                return None;
            }
        }
        for directory in ["/etc/polkit-1/rules.d", "/usr/share/polkit-1/rules.d"] {
            ns.run(&format!("mount -t tmpfs tmpfs {directory}"));
        }
        fs::write("/etc/polkit-1/rules.d/50-test.rules", RULES).unwrap();
        let mut users = fs::read_to_string("/etc/passwd").unwrap();
        if !users.lines().any(|line| line.starts_with("polkitd:")) {
            users += "polkitd:x:4799:65534::/:/bin/false\n";
        }
        for (name, uid) in [("alice", ALICE), ("bob", BOB), ("carol", CAROL)] {
            users += &format!("{name}:x:{uid}:65534::/:/bin/false\n");
        }
        let passwd = root.join("passwd");
        fs::write(&passwd, users).unwrap();
        ns.run(&format!("mount --bind {} /etc/passwd", passwd.display()));
        // Where others than root get to it, wherever it was unpacked.
        let place = root.join("modules");
        ns.run(&format!("cp -r {} {}", modules.display(), place.display()));

        let socket = root.join("run/dbus/system_bus_socket");
        fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let (configuration, log) = (root.join("bus.conf"), root.join("polkitd.log"));
        fs::write(&configuration, BUS.replace("SOCKET", socket.to_str().unwrap())).unwrap();
        let bus = ns.spawn(&format!("dbus-daemon --nofork --nopidfile --config-file={}", configuration.display()));
        wait_until("the bus", SOON, || socket.exists().then_some(()).ok_or("there is no socket"));
        let mut polkitd = Command::new("/usr/lib/polkit-1/polkitd");
        polkitd.env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}", socket.display()));
        let output = File::create(&log).unwrap();
        polkitd.stdout(output.try_clone().unwrap()).stderr(output);
        let this = Self { modules: place, log, process: Process::start(polkitd), _bus: bus };
        wait_until("polkitd", SOON, || if this.log().contains("Acquired the name") { Ok(()) } else { Err(this.log()) });
        Some(this)
    }

    /// What it has said.
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn tell(&self, signal: Signal) {
        kill_process(common::pid(self.process.id()), signal).unwrap();
    }

    /// A section of the script, as a user.
    fn script(&self, host: &Host<'_>, uid: u32, section: &str) -> Command {
        let mut script = as_user(uid, PYTHON);
        script.args(["-c", include_str!("scripts/polkit.py"), section]).arg(host.root.join("run/libvirt"));
        script.env("PYTHONPATH", &self.modules).env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null());
        script
    }

    /// What it finds.
    fn finds(&self, host: &Host<'_>, uid: u32, section: &str) -> Vec<String> {
        let output = self.script(host, uid, section).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{section}: {error}\n{}\n{}", host.log(), self.log());
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }
}

fn as_user(uid: u32, program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={uid}"), "--regid=65534", "--clear-groups", program]);
    command
}

/// Runs a test with a daemon that is configured so, and polkitd.
fn with_polkit(config: &str, test: impl FnOnce(&Host<'_>, Polkitd) + Send) {
    let Some(package) = unpacked("polkit") else { return };
    let Some(modules) = binding() else { return };
    in_namespace(|ns| {
        let mut host = Host::without_daemon(ns);
        let Some(polkitd) = Polkitd::start(ns, &package, &modules, &host.root.clone()) else { return };
        fs::create_dir_all(host.root.join("etc/patchcord")).unwrap();
        fs::write(host.root.join("etc/patchcord/patchcord.toml"), config).unwrap();
        host.start();
        test(&host, polkitd);
    });
}

fn define(host: &Host<'_>, name: &str) {
    let file = host.root.join(format!("{name}.xml"));
    fs::write(&file, format!("<network><name>{name}</name></network>")).unwrap();
    says(host, &["net-define", file.to_str().unwrap()]);
}

/// Whether root is shown an interface: the daemon hears of links a moment after they are made.
fn knows_interface(host: &Host<'_>, name: &str) -> Result<(), String> {
    let socket = host.root.join("run/libvirt/virtinterfaced-sock-ro");
    let uri = format!("interface+unix:///system?socket={}", socket.display());
    let list = Command::new("virsh").args(["-r", "-c", &uri, "iface-list"]).stdin(Stdio::null()).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    if list.contains(name) { Ok(()) } else { Err(list) }
}

#[test]
fn who_comes_is_judged() {
    with_polkit(POLKIT, |host, mut polkitd| {
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!([false, true].map(|read_only| mode(socket(host, read_only))), [0o666; 2]);
        // Root is asked for nothing.
        define(host, "lab");
        assert_eq!(
            polkitd.finds(host, ALICE, "open"),
            ["open \"done\"", "define \"done\"", "open to read \"done\"", "list [\"lab\", \"made\"]"]
        );
        assert!(host.show("made").persistent);
        // Nobody is there to ask for root's password, and everybody may read.
        assert_eq!(
            polkitd.finds(host, BOB, "open"),
            ["open 94 60", "open to read \"done\"", "list [\"lab\", \"made\"]"]
        );
        assert_eq!(polkitd.finds(host, CAROL, "open"), ["open 45 60", "open to read 45 60"]);
        assert!(!polkitd.log().contains("org.libvirt.api."), "{}", polkitd.log());
        let required = "[39, 7, \"authentication required\"]";
        assert_eq!(
            polkitd.finds(host, ALICE, "strangers"),
            [
                "AUTH_LIST [1, 2]".to_owned(),
                format!("CONNECT_OPEN {required}"),
                format!("CONNECT_SUPPORTS_FEATURE {required}"),
                format!("CONNECT_CLOSE {required}"),
                "AUTH_LIST [1, 2]".to_owned(),
                "long \"closed\"".to_owned(),
            ]
        );

        // While polkit says nothing, others are served, and few wait for it.
        polkitd.tell(Signal::STOP);
        let mut waiting = polkitd.script(host, ALICE, "open").stdout(Stdio::piped()).spawn().unwrap();
        assert_eq!(
            polkitd.finds(host, BOB, "many"),
            ["AUTH_POLKIT [45, 60]", "AUTH_POLKIT [45, 60]", "twice [45, 60]"]
        );
        says(host, &["net-list"]);
        assert_eq!(waiting.try_wait().unwrap(), None);
        polkitd.tell(Signal::CONT);
        let mut said = String::new();
        waiting.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(waiting.wait().unwrap().success() && said.starts_with("open \"done\"\n"), "{said}");
        // Those who gave up wait no more.
        assert_eq!(polkitd.finds(host, BOB, "open")[0], "open 94 60");

        // Without it, nobody else gets in.
        polkitd.process.kill();
        assert_eq!(polkitd.finds(host, ALICE, "open"), ["open 45 60", "open to read 45 60"]);
        says(host, &["net-list"]);
    });
}

#[test]
fn what_a_user_may_do_is_judged_for_each_object() {
    with_polkit(CHECKED, |host, polkitd| {
        for name in ["lab", "other", "hidden"] {
            define(host, name);
        }
        let denied = |what: &str| format!("{what} 88 55");
        let done = |what: &str| format!("{what} \"done\"");
        let mut expected = vec![
            done("open"),
            "list [\"lab\", \"other\"]".into(),
            "names [\"lab\", \"other\"]".into(),
            "count [0, 2]".into(),
            "none 43 19".into(),
            denied("hidden"),
            "lab".into(),
            "active 0".into(),
        ];
        expected.extend(["start", "autostart", "save", "live"].map(|what| format!("{what} 0")));
        expected.extend(["port \"5d744f21-ba4a-4d6e-bdb2-30a35ff3207d\"", "ports 1", "stop 0"].map(str::to_owned));
        expected.extend(["other", "active 0"].map(str::to_owned));
        expected.extend(["start", "autostart", "save", "live", "port", "ports", "stop"].map(denied));
        expected.extend([done("define lab"), denied("define new"), denied("undefine")]);
        assert_eq!(polkitd.finds(host, ALICE, "networks"), expected, "{}", polkitd.log());
        let lab = host.show("lab");
        assert!(lab.autostart && !lab.active && host.nics().len() == 1);
        // The details by which libvirt's own access driver names a network and a port.
        let asked = format!("asked for org.libvirt.api.network-port.getattr of alice by network: lab {} ", lab.uuid);
        assert!(polkitd.log().contains(&(asked + "5d744f21-ba4a-4d6e-bdb2-30a35ff3207d ")), "{}", polkitd.log());

        // What happens to what one may not know of is not told.
        let mut listens = polkitd.script(host, ALICE, "events").stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(listens.stdout.take().unwrap());
        let mut line = String::new();
        while line != "listening\n" {
            line.clear();
            assert_ne!(said.read_line(&mut line).unwrap(), 0, "{}", host.log());
        }
        for name in ["hidden", "other", "lab"] {
            host.start_network(name);
        }
        line.clear();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "heard [\"other\", \"lab\"]\n");
        assert!(listens.wait().unwrap().success());

        for bridge in ["brseen", "brhidden"] {
            host.ns.run(&format!("ip link add {bridge} up type bridge"));
            wait_until(bridge, SOON, || knows_interface(host, bridge));
        }
        let found = polkitd.finds(host, BOB, "interfaces");
        assert!(found[1].contains("brseen") && !found[1].contains("brhidden"), "{found:?}");
        assert_eq!(found[2..], ["seen 1".into(), denied("hidden"), "none 57 26".into()]);

        let found = polkitd.finds(host, BOB, "devices");
        assert!(found[1].contains("net_lo_") && !found[1].contains("computer"), "{found:?}");
        assert_eq!(found[2], found[1].replace("list", "names"));
        assert_eq!(found[3], format!("count {}", found[1].matches(", ").count() + 1));
        assert_eq!(found[4..], [denied("computer"), "none 53 22".into()]);
    });
}

#[test]
fn a_daemon_of_libvirts_asks_for_its_clients_or_for_itself() {
    with_polkit(CHECKED, |host, _polkitd| {
        for name in ["lab", "other"] {
            define(host, name);
        }
        let token = host.root.join("run/libvirt/common/system.token");
        fs::create_dir_all(token.parent().unwrap()).unwrap();
        fs::write(&token, "cafe0123").unwrap();
        let user = Process::start({
            let mut sleeps = as_user(ALICE, "sleep");
            sleeps.arg("600");
            sleeps
        });
        let stat = fs::read_to_string(format!("/proc/{}/stat", user.id())).unwrap();
        let started: u64 = stat.rsplit(") ").next().unwrap().split(' ').nth(19).unwrap().parse().unwrap();
        let mut client = Client::opened(host);
        let number = |field: &str, number| Parameter { field: field.into(), value: Value::Ullong(number) };
        let token = |token: &str| Parameter { field: "system.token".into(), value: Value::String(token.into()) };
        let alice = [
            number("unix-user-id", ALICE.into()),
            number("process-time", started),
            Parameter { field: "process-id".into(), value: Value::Llong(user.id().into()) },
        ];
        let identify = |client: &mut Client, identity: &[Parameter]| {
            let identity = Writer::default().parameters(identity).u32(0).clone();
            client.say(&call(Procedure::ConnectSetIdentity, 1, &identity));
        };
        let start = |client: &mut Client, name: &str| {
            let uuid = bytes(&host.show(name).uuid);
            client.say(&call(Procedure::NetworkCreate, 2, Writer::default().string(name).uuid(uuid)));
        };
        let is_done = |client: &mut Client| assert_eq!(client.hears().unwrap().header.status, Status::Ok);

        identify(&mut client, &alice);
        is_done(&mut client);
        start(&mut client, "other");
        let refused = client.hears_refusal();
        let said = "access denied: polkit does not grant 'org.libvirt.api.network.start' on network 'other'";
        assert_eq!(refused, (88, said.into()));
        start(&mut client, "lab");
        is_done(&mut client);
        assert!(host.show("lab").active && !host.show("other").active);
        // For whom it asks may not ask for others.
        identify(&mut client, &[token("cafe0123")]);
        assert_eq!(client.hears_refusal().0, 88);
        let mut client = Client::opened(host);
        for wrong in [&[token("cafe0124")][..], &[token("")], &alice[..2], &[]] {
            identify(&mut client, wrong);
            assert_eq!(client.hears_refusal().0, 8);
        }
        identify(&mut client, &[token("cafe0123")]);
        is_done(&mut client);
        start(&mut client, "other");
        is_done(&mut client);
        assert!(host.show("other").active);
    });
}
