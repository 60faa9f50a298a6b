//! Records, locks and claims, with temporary directories.
#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use patchcord_host::Error;
use patchcord_host::lock::{NamespaceClaim, NamespaceLock, RootLock};
use patchcord_host::root::Root;
use patchcord_host::store::{Definitions, Directory, Durability, FileMode, Limits};
use patchcord_testkit::{Process, in_namespace, require_root};
use rustix::io::Errno;

fn mode(path: impl AsRef<std::path::Path>) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn records_are_written_replaced_read_and_deleted() {
    let temporary = tempfile::tempdir().unwrap();
    let root = Root::new(temporary.path());
    let nics = Directory::open(root.run_nics(), FileMode::Private).unwrap();
    assert_eq!(mode(root.run_nics()), 0o700);
    assert_eq!(mode(root.run()), 0o755);
    for (durability, text) in [(Durability::Power, "<one/>"), (Durability::Crash, "<two/>")] {
        nics.write("a.xml", text.as_bytes(), durability).unwrap();
        assert_eq!(fs::read_to_string(root.run_nics().join("a.xml")).unwrap(), text);
    }
    assert_eq!(mode(root.run_nics().join("a.xml")), 0o600);
    assert_eq!(nics.read("a.xml", 100).unwrap().unwrap(), b"<two/>");
    assert!(nics.read("b.xml", 100).unwrap().is_none());
    assert!(nics.delete("a.xml", Durability::Crash).unwrap());
    assert!(!nics.delete("a.xml", Durability::Crash).unwrap());
    assert_eq!(fs::read_dir(root.run_nics()).unwrap().count(), 0, "nothing is left");
    for bad in ["", ".", "..", "a/b", "a\0b"] {
        assert!(matches!(nics.write(bad, b"", Durability::Crash), Err(Error::Name { .. })), "{bad:?}");
    }
}

#[test]
fn one_bad_file_does_not_hide_the_others() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = Directory::open(temporary.path(), FileMode::Private).unwrap();
    directory.write("good name's.xml", b"good", Durability::Crash).unwrap();
    directory.write("long.xml", &[b'x'; 101], Durability::Crash).unwrap();
    directory.write("other.txt", b"", Durability::Crash).unwrap();
    fs::write(temporary.path().join(".tmp-0123456789abcdef"), "half").unwrap();
    // What a network called .tmp-1 is defined in.
    directory.write(".tmp-1.xml", b"kept", Durability::Crash).unwrap();
    fs::create_dir(temporary.path().join("sub.xml")).unwrap();
    symlink("/nowhere", temporary.path().join("dangling.xml")).unwrap();
    symlink("/dev/null", temporary.path().join("device.xml")).unwrap();

    let entries = directory.read_all(".xml", Limits { file: 100, files: 10 }).unwrap();
    let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, [".tmp-1", "device", "good name's", "long"]);
    assert_eq!(entries[2].contents.as_ref().unwrap(), b"good");
    let problem = entries[3].contents.as_ref().unwrap_err().to_string();
    assert!(problem.ends_with("long.xml: is longer than 100 bytes"), "{problem}");
    assert!(entries[1].contents.is_err());

    let error = directory.read_all(".xml", Limits { file: 100, files: 2 }).unwrap_err();
    assert!(error.to_string().ends_with("holds more than 2 files"), "{error}");
    directory.sweep().unwrap();
    assert!(!temporary.path().join(".tmp-0123456789abcdef").exists());
    assert!(temporary.path().join(".tmp-1.xml").exists());
    assert!(temporary.path().join("other.txt").exists());
}

#[test]
fn autostart_is_a_relative_link_and_foreign_links_count() {
    let temporary = tempfile::tempdir().unwrap();
    let root = Root::new(temporary.path());
    let networks = Definitions::open(root.networks()).unwrap();
    networks.write("lab", b"<network/>").unwrap();
    networks.set_autostart("lab", true).unwrap();
    networks.set_autostart("lab", true).unwrap();
    let link = root.networks_autostart().join("lab.xml");
    assert_eq!(fs::read_link(&link).unwrap().to_str(), Some("../lab.xml"));
    assert_eq!(fs::read(&link).unwrap(), b"<network/>");
    symlink(root.networks().join("old.xml"), root.networks_autostart().join("old.xml")).unwrap();
    assert_eq!(networks.autostarted(Limits::default()).unwrap(), ["lab", "old"]);
    assert!(networks.delete("lab").unwrap());
    assert!(fs::symlink_metadata(&link).is_err());
    networks.set_autostart("old", false).unwrap();
    assert!(networks.autostarted(Limits::default()).unwrap().is_empty());
}

#[test]
fn full_and_read_only_disks_are_named_and_change_nothing() {
    in_namespace(|ns| {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().display().to_string();
        ns.run(&format!("mount -t tmpfs -o size=64k none {path}"));
        let directory = Directory::open(temporary.path(), FileMode::Private).unwrap();
        directory.write("a.xml", b"old", Durability::Power).unwrap();
        let error = directory.write("a.xml", &[b'x'; 1 << 20], Durability::Power).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write {path}/a.xml"));
        assert_eq!(error.errno(), Some(Errno::NOSPC));
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1);
        ns.run(&format!("mount -o remount,ro {path}"));
        let error = directory.write("a.xml", b"new", Durability::Crash).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ROFS));
        assert_eq!(directory.delete("a.xml", Durability::Crash).unwrap_err().errno(), Some(Errno::ROFS));
        assert_eq!(directory.read("a.xml", 10).unwrap().unwrap(), b"old");
        drop(directory);
        ns.run(&format!("umount {path}"));
    });
}

#[test]
fn a_second_daemon_on_one_root_learns_who_has_it() {
    let temporary = tempfile::tempdir().unwrap();
    let path = Root::new(temporary.path()).lock();
    let held = RootLock::take(&path).unwrap();
    let error = RootLock::take(&path).unwrap_err();
    let pid = std::process::id();
    assert!(matches!(error, Error::RootHeld { pid: Some(holder), .. } if holder == pid), "{error}");
    assert!(error.to_string().contains(&format!("process {pid}")), "{error}");
    let status = Command::new("flock").args(["-n"]).arg(&path).arg("true").status().unwrap();
    assert!(!status.success(), "flock(1) sees the lock");
    drop(held);
    RootLock::take(&path).unwrap();
}

#[test]
fn a_namespace_is_claimed_once() {
    in_namespace(|ns| {
        let NamespaceClaim::Held(held) = NamespaceLock::claim().unwrap() else { panic!("not ours") };
        let error = NamespaceLock::claim().unwrap_err();
        assert!(matches!(error, Error::NamespaceHeld { pid: Some(pid) } if pid == std::process::id()), "{error}");
        let sockets = ns.run("ss -xlH");
        assert!(sockets.contains("@patchcord/netns"), "{sockets}");
        // Another namespace is another claim.
        let peer = ns.peer("other");
        peer.inside(|| assert!(matches!(NamespaceLock::claim(), Ok(NamespaceClaim::Held(_)))));
        drop(held);
        assert!(matches!(NamespaceLock::claim(), Ok(NamespaceClaim::Held(_))));
    });
}

#[test]
fn a_squatter_is_reported_and_does_not_count() {
    if !require_root() {
        return;
    }
    in_namespace(|_| {
        let program = "use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0); $< = $> = 12345; \
            bind(S, pack_sockaddr_un(\"\\0patchcord/netns\")) or die; listen(S, 1) or die; \
            $| = 1; print \"ready\\n\"; sleep 600";
        let mut command = Command::new("perl");
        command.args(["-e", program]);
        let squatter = Process::start(command);
        let pid = squatter.id();
        let (uid, seen) = patchcord_testkit::wait_until("the squatter", std::time::Duration::from_secs(5), || {
            match NamespaceLock::claim().unwrap() {
                NamespaceClaim::Squatted { uid: Some(uid), pid } => Ok((uid, pid)),
                other => Err(format!("{other:?}")),
            }
        });
        assert_eq!((uid, seen), (12345, Some(pid)));
    });
}
