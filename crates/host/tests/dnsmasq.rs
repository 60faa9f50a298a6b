//! Real dnsmasq processes on a bridge in a namespace of their own.
#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use patchcord_core::plan::dnsmasq::Config;
use patchcord_host::Error;
use patchcord_host::dnsmasq::{Dnsmasq, service_user};
use patchcord_host::process::{Process, Signal};
use patchcord_host::spawner::{AllowList, Spawner, spawner_main};
use patchcord_testkit::{Namespace, in_namespace, skip, test_name, wait_until};
use uuid::Uuid;

const PROGRAM: &str = "/usr/sbin/dnsmasq";
const NETWORK: Uuid = Uuid::from_u128(0x1234);

/// Not a test: the spawner process, started by the tests below.
#[test]
#[ignore = "is the spawner process of the other tests"]
fn spawner_process() {
    let _ = spawner_main();
}

fn spawner(program: &str) -> Spawner {
    let args = ["--ignored", "--exact", "spawner_process", "--nocapture"].map(OsStr::new);
    let allow = AllowList { programs: vec![program.into()], ..AllowList::default() };
    Spawner::start(&std::env::current_exe().unwrap(), &args, &allow).unwrap()
}

/// A bridge, directories, and what starts dnsmasq there.
struct Bed<'a> {
    ns: &'a Namespace,
    dir: tempfile::TempDir,
}

impl Bed<'_> {
    fn dnsmasq(&self) -> Dnsmasq {
        self.dnsmasq_at(PROGRAM)
    }

    fn dnsmasq_at(&self, program: &str) -> Dnsmasq {
        Dnsmasq::new(spawner(program), program.into(), self.path("lib"), self.path("run"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A configuration whose host file gives `guest` this address.
    fn config(&self, address: &str) -> Config {
        let lib = self.path("lib").display().to_string();
        let path = |kind: &str| format!("{lib}/{NETWORK}.{kind}");
        let pid_path = self.path("run").join(format!("{NETWORK}.pid")).display().to_string();
        let conf = format!(
            "pid-file={pid_path}\nuser={}\nno-resolv\nno-hosts\nexcept-interface=lo\nbind-interfaces\n\
            interface=br0\naddn-hosts={}\ndhcp-range=10.9.0.2,10.9.0.99\ndhcp-leasefile={}\n",
            service_user(),
            path("addnhosts"),
            path("leases"),
        );
        Config {
            args: vec![format!("--conf-file={}", path("conf"))],
            files: BTreeMap::from([(path("conf"), conf), (path("addnhosts"), format!("{address} guest\n"))]),
            conf_path: path("conf"),
            lease_path: Some(path("leases")),
            pid_path,
        }
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.path("lib").join(format!("{NETWORK}.{kind}"))
    }

    /// Number of dnsmasq processes that listen in this namespace.
    fn listening(&self) -> usize {
        self.ns.run("ss -Hlnpu sport = :67").lines().filter(|line| line.contains("dnsmasq")).count()
    }
}

/// Runs a test with its bed; what it leaves running of its own is killed.
fn with_bed(test: impl FnOnce(&Bed<'_>) + Send) {
    if !Path::new(PROGRAM).exists() {
        return skip(&test_name(), "no dnsmasq (Debian's package dnsmasq-base)");
    }
    in_namespace(|ns| {
        ns.run("ip link add br0 up type bridge");
        ns.run("ip addr add 10.9.0.1/24 dev br0");
        let dir = tempfile::tempdir().unwrap();
        // dnsmasq's user must get there.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let bed = Bed { ns, dir };
        struct Killer(PathBuf);
        impl Drop for Killer {
            fn drop(&mut self) {
                let pid = fs::read_to_string(&self.0).ok().and_then(|text| text.trim().parse().ok());
                if let Some(process) = pid.and_then(|pid| Process::open(pid).ok()).flatten() {
                    let is_dnsmasq =
                        process.info().ok().flatten().is_some_and(|i| i.exe.as_deref() == Some(Path::new(PROGRAM)));
                    if is_dnsmasq {
                        let _ = process.signal(Signal::Kill);
                    }
                }
            }
        }
        let _killer = Killer(bed.path("run").join(format!("{NETWORK}.pid")));
        test(&bed);
    });
}

/// Asks the dnsmasq on the bridge for the IPv4 address of `guest` (RFC 1035).
fn resolve() -> Option<[u8; 4]> {
    let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket.send_to(b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x05guest\0\0\x01\0\x01", "10.9.0.1:53").unwrap();
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).ok()?;
    let records = u16::from_be_bytes([answer[6], answer[7]]);
    (records == 1).then(|| *answer[..length].last_chunk().unwrap())
}

#[test]
fn it_starts_answers_reloads_and_stops() {
    with_bed(|bed| {
        let dnsmasq = bed.dnsmasq();
        assert!(
            bed.ns.run("/usr/sbin/dnsmasq --version").contains(&format!("version {} ", dnsmasq.version().unwrap()))
        );
        let process = dnsmasq.start(NETWORK, None, &bed.config("10.9.0.7")).unwrap();
        assert!(process.alive().unwrap());
        // No waiting: it answers when start returns.
        assert_eq!(resolve(), Some([10, 9, 0, 7]));
        assert_eq!(bed.listening(), 1);
        let user = bed.ns.run(&format!("ps -o user= -p {}", process.id().pid));
        assert_eq!(user.trim(), service_user());
        for (path, mode) in [(bed.path("lib"), 0o755), (bed.path("run"), 0o755), (bed.file("addnhosts"), 0o644)] {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
        }
        let written = fs::metadata(bed.file("conf")).unwrap().modified().unwrap();
        dnsmasq.reload(NETWORK, &process, &bed.config("10.9.0.8")).unwrap();
        wait_until("the new address", Duration::from_secs(5), || match resolve() {
            Some([10, 9, 0, 8]) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(fs::metadata(bed.file("conf")).unwrap().modified().unwrap(), written, "unchanged files stay");
        assert_eq!(dnsmasq.find(NETWORK).unwrap().unwrap().id(), process.id());
        dnsmasq.sweep(|network| network == NETWORK).unwrap();
        assert!(bed.file("conf").exists(), "it runs");
        dnsmasq.stop(NETWORK, &process).unwrap();
        assert!(!process.alive().unwrap());
        assert_eq!(bed.listening(), 0);
        assert_eq!(fs::read_dir(bed.path("run")).unwrap().count(), 0);
        dnsmasq.sweep(|_| false).unwrap();
        let left: Vec<_> = fs::read_dir(bed.path("lib")).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [bed.file("leases")], "leases stay");
        dnsmasq.stop(NETWORK, &process).unwrap();
        dnsmasq.clear(NETWORK).unwrap();
        assert!(matches!(dnsmasq.reload(NETWORK, &process, &bed.config("10.9.0.8")), Err(Error::Service { .. })));
        dnsmasq.forget(NETWORK).unwrap();
        assert_eq!(fs::read_dir(bed.path("lib")).unwrap().count(), 0);
    });
}

#[test]
fn it_is_found_again_by_another_daemon_and_told_what_changed() {
    with_bed(|bed| {
        let config = bed.config("10.9.0.7");
        let first = bed.dnsmasq();
        let id = first.start(NETWORK, None, &config).unwrap().id();
        drop(first);
        // As if the daemon had died between writing and telling.
        fs::write(bed.file("addnhosts"), "10.9.0.9 guest\n").unwrap();
        let second = bed.dnsmasq();
        let mut running = second.running().unwrap();
        assert_eq!(running.len(), 1);
        let found = running.remove(0);
        assert_eq!((found.network, found.process.id()), (NETWORK, id));
        let mut files = config.files.clone();
        files.insert(bed.file("addnhosts").display().to_string(), "10.9.0.9 guest\n".to_owned());
        assert_eq!(found.files, files);
        wait_until("the new address", Duration::from_secs(5), || match resolve() {
            Some([10, 9, 0, 9]) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        // A configuration that is newer than the process is not what that has read.
        let later = std::time::SystemTime::now() + Duration::from_secs(60);
        fs::File::options().write(true).open(bed.file("conf")).unwrap().set_modified(later).unwrap();
        let running = second.running().unwrap();
        assert_eq!(running[0].files.keys().collect::<Vec<_>>(), [&bed.file("addnhosts").display().to_string()]);
        // Starting replaces.
        let new = second.start(NETWORK, None, &config).unwrap();
        assert_ne!(new.id(), id);
        assert!(Process::open_same(id).unwrap().is_none());
        assert_eq!((bed.listening(), resolve()), (1, Some([10, 9, 0, 7])));
        second.stop(NETWORK, &new).unwrap();
    });
}

#[test]
fn a_killed_one_is_noticed_and_a_foreign_process_is_never_taken_for_it() {
    with_bed(|bed| {
        let dnsmasq = bed.dnsmasq();
        let process = dnsmasq.start(NETWORK, None, &bed.config("10.9.0.7")).unwrap();
        bed.ns.run(&format!("kill -KILL {}", process.id().pid));
        assert!(process.wait(Duration::from_secs(5)).unwrap(), "its descriptor becomes readable");
        let pid_file = bed.path("run").join(format!("{NETWORK}.pid"));
        assert!(pid_file.exists());
        assert!(dnsmasq.find(NETWORK).unwrap().is_none());
        assert!(!pid_file.exists());
        // Another program, and a dnsmasq of another configuration.
        let other = bed.ns.spawn(&format!("perl -e sleep(600) -- --conf-file={}", bed.file("conf").display()));
        let conf = bed.path("other.conf");
        fs::write(&conf, "port=0\n").unwrap();
        let foreign =
            bed.ns.spawn(&format!("{PROGRAM} --keep-in-foreground --conf-file={} --pid-file=", conf.display()));
        for (pid, argument) in [(other.id(), bed.file("conf")), (foreign.id(), conf)] {
            let argument = format!("--conf-file={}", argument.display());
            wait_until("exec", Duration::from_secs(5), || {
                let info = Process::open(pid).unwrap().unwrap().info().unwrap().unwrap();
                if info.cmdline.iter().any(|arg| *arg == *argument) { Ok(()) } else { Err(format!("{info:?}")) }
            });
        }
        for pid in [other.id(), foreign.id(), std::process::id(), 0] {
            fs::write(&pid_file, format!("{pid}\n")).unwrap();
            assert!(dnsmasq.find(NETWORK).unwrap().is_none());
            assert!(!pid_file.exists());
        }
        fs::write(&pid_file, "rubbish").unwrap();
        assert!(dnsmasq.running().unwrap().is_empty());
        assert!(Process::open(foreign.id()).unwrap().is_some());
    });
}

#[test]
fn refusals_say_what_dnsmasq_said_or_that_there_is_none() {
    with_bed(|bed| {
        let dnsmasq = bed.dnsmasq();
        let mut config = bed.config("10.9.0.7");
        config.files.get_mut(&config.conf_path).unwrap().push_str("no-such-option\n");
        let error = dnsmasq.start(NETWORK, None, &config).unwrap_err().to_string();
        assert!(error.starts_with("bad option at line 11 of "), "{error}");
        // Someone else has the port.
        let _taken = UdpSocket::bind("10.9.0.1:53").unwrap();
        let error = dnsmasq.start(NETWORK, None, &bed.config("10.9.0.7")).unwrap_err().to_string();
        assert!(error.ends_with("failed to create listening socket for 10.9.0.1: Address already in use"), "{error}");
        assert_eq!(bed.listening(), 0);

        let error = bed.dnsmasq_at("/nonexistent/dnsmasq").start(NETWORK, None, &bed.config("10.9.0.7")).unwrap_err();
        assert!(error.to_string().contains("Debian's package dnsmasq-base"), "{error}");
        let error = bed.dnsmasq_at("/usr/bin/true").version().unwrap_err();
        assert_eq!(error.to_string(), "cannot run /usr/bin/true: it does not say that it is dnsmasq");
        config.files.insert("/etc/passwd".to_owned(), String::new());
        assert!(matches!(dnsmasq.start(NETWORK, None, &config), Err(Error::Name { .. })));
    });
}

#[test]
fn one_whose_new_files_cant_be_written_goes_on() {
    with_bed(|bed| {
        let dnsmasq = bed.dnsmasq();
        let process = dnsmasq.start(NETWORK, None, &bed.config("10.9.0.50")).unwrap();
        let mut config = bed.config("10.9.0.50");
        let blocked = bed.path("lib").join(format!("{NETWORK}.dhcp-hosts"));
        fs::create_dir_all(blocked.join("in the way")).unwrap();
        config.files.insert(blocked.display().to_string(), String::new());
        let error = dnsmasq.start(NETWORK, None, &config).unwrap_err();
        assert!(matches!(&error, Error::File { path, .. } if *path == blocked), "{error}");
        assert_eq!(dnsmasq.find(NETWORK).unwrap().map(|p| p.id()), Some(process.id()));
        assert_eq!(resolve(), Some([10, 9, 0, 50]));
        dnsmasq.stop(NETWORK, &process).unwrap();
    });
}

#[test]
fn it_is_started_again_when_links_changed_while_it_listed_them() {
    with_bed(|bed| {
        let (program, tried) = (bed.path("dnsmasq"), bed.path("tried"));
        let complaint = "dnsmasq: failed to find list of interfaces: Bad file descriptor";
        let script = format!(
            "#!/bin/sh\n[ -e {tried} ] && exec {PROGRAM} \"$@\"\n: > {tried}\necho '{complaint}' >&2\nexit 2\n",
            tried = tried.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let dnsmasq = bed.dnsmasq_at(program.to_str().unwrap());
        dnsmasq.start(NETWORK, None, &bed.config("10.9.0.50")).unwrap();
        assert!(tried.exists());
        assert_eq!(resolve(), Some([10, 9, 0, 50]));
    });
}

#[test]
fn one_that_does_not_end_is_killed() {
    with_bed(|bed| {
        let dnsmasq = bed.dnsmasq();
        let process = dnsmasq.start(NETWORK, None, &bed.config("10.9.0.7")).unwrap();
        // A stopped process takes no SIGTERM.
        bed.ns.run(&format!("kill -STOP {}", process.id().pid));
        dnsmasq.stop(NETWORK, &process).unwrap();
        assert!(!process.alive().unwrap());
        assert_eq!(bed.listening(), 0);
    });
}
