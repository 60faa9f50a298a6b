//! Watched files and directories, changed by other programs.
#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use patchcord_host::files::Files;
use patchcord_host::sysctl;
use patchcord_testkit::in_namespace;
use rustix::io::Errno;

/// Runs a shell script in `directory`.
fn sh(directory: &Path, script: &str) {
    let status = Command::new("sh").arg("-ec").arg(script).current_dir(directory).status().unwrap();
    assert!(status.success(), "{script}");
}

/// The kernel notes a change before the system call that makes it returns, so there is nothing to wait for.
fn read(files: &mut Files) -> BTreeSet<PathBuf> {
    let changes = files.read();
    assert!(changes.errors.is_empty(), "{changes:?}");
    changes.paths
}

fn changed(files: &mut Files) -> Vec<String> {
    let names = read(files);
    names.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn a_file_is_followed_through_replacement_links_and_absence() {
    let temporary = tempfile::tempdir().unwrap();
    let here = temporary.path().canonicalize().unwrap();
    let mut files = Files::new().unwrap();
    files.watch_file(here.join("etc/resolv.conf")).unwrap();
    assert_eq!(read(&mut files), BTreeSet::new());
    let one = ["resolv.conf"];
    for (what, script) in [
        ("the directory appears", "mkdir etc"),
        ("the file appears", "echo 1 > etc/resolv.conf"),
        ("it is written to, twice", "echo 2 >> etc/resolv.conf; echo 3 >> etc/resolv.conf"),
        ("it is replaced", "echo 4 > etc/new; mv etc/new etc/resolv.conf"),
        ("it is written to after that", "echo 5 >> etc/resolv.conf"),
        ("it becomes a link to nothing", "ln -sf ../run/resolve/stub.conf etc/resolv.conf"),
        ("the first missing directory of the target appears", "mkdir run"),
        ("the target appears", "mkdir run/resolve; echo 6 > run/resolve/stub.conf"),
        ("the target is replaced", "echo 7 > run/resolve/new; mv run/resolve/new run/resolve/stub.conf"),
        ("the target's directory goes", "rm -r run/resolve"),
        ("and comes back", "mkdir run/resolve; echo 8 > run/resolve/stub.conf"),
        ("the target's directory is renamed", "mv run/resolve run/other"),
        ("the link is pointed elsewhere", "ln -sf ../run/other/stub.conf etc/resolv.conf"),
        ("and that is written to", "echo 9 > run/other/stub.conf"),
        ("it is deleted", "rm etc/resolv.conf"),
    ] {
        sh(&here, script);
        assert_eq!(changed(&mut files), one, "{what}");
        assert!(changed(&mut files).is_empty(), "{what}, once");
    }
    sh(&here, "echo 1 > etc/hosts; echo 1 > run/other/stub.conf");
    assert!(changed(&mut files).is_empty(), "what is not watched is not reported");
}

#[test]
fn a_directory_tells_which_entries_changed_each_once() {
    let temporary = tempfile::tempdir().unwrap();
    let here = temporary.path().canonicalize().unwrap();
    sh(&here, "mkdir leases");
    let mut files = Files::new().unwrap();
    files.watch_directory(here.join("leases")).unwrap();
    files.watch_file(here.join("leases/a")).unwrap();
    sh(&here, "for i in 1 2 3; do echo $i >> leases/a; done; echo > leases/b; rm leases/b");
    assert_eq!(read(&mut files), ["leases/a", "leases/b"].iter().map(|name| here.join(name)).collect());
    sh(&here, "echo > leases/b");
    assert_eq!(read(&mut files), BTreeSet::from([here.join("leases/b")]));
    sh(&here, "chmod -x leases/b");
    assert_eq!(read(&mut files), BTreeSet::from([here.join("leases/b")]), "a mode is a change");
    sh(&here, "rm -r leases");
    let gone: BTreeSet<PathBuf> = ["leases", "leases/a", "leases/b"].iter().map(|name| here.join(name)).collect();
    assert_eq!(read(&mut files), gone);
    assert_eq!(files.watch_directory(here.join("leases")).unwrap_err().errno(), Some(Errno::NOENT));
}

#[test]
fn a_loop_of_links_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    sh(temporary.path(), "ln -s a b; ln -s b a");
    let error = Files::new().unwrap().watch_file(temporary.path().join("a")).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::LOOP), "{error}");
}

#[test]
fn a_file_that_can_not_be_followed_takes_no_other_change_with_it() {
    let temporary = tempfile::tempdir().unwrap();
    let here = temporary.path().canonicalize().unwrap();
    let mut files = Files::new().unwrap();
    for name in ["a", "b", "c"] {
        files.watch_file(here.join(name)).unwrap();
    }
    sh(&here, "mkdir other; touch a c; ln -s b b; ln -sf other/c c");
    let changes = files.read();
    assert_eq!(changes.paths, ["a", "b", "c"].iter().map(|name| here.join(name)).collect());
    let errors: Vec<_> = changes.errors.iter().map(|error| (error.to_string(), error.errno())).collect();
    assert_eq!(errors, [(format!("cannot watch {}", here.join("b").display()), Some(Errno::LOOP))]);
    sh(&here, "touch other/c");
    assert_eq!(changed(&mut files), ["c"], "those behind it are followed");
    sh(&here, "ln -sf a b");
    assert_eq!(changed(&mut files), ["b"], "and so is it, once it leads somewhere");
    sh(&here, "touch a");
    assert_eq!(changed(&mut files), ["a", "b"]);
}

#[test]
fn lost_notes_report_everything() {
    let temporary = tempfile::tempdir().unwrap();
    let here = temporary.path().canonicalize().unwrap();
    let mut files = Files::new().unwrap();
    files.watch_directory(&here).unwrap();
    files.watch_file(here.join("quiet")).unwrap();
    let most: usize =
        std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    // Two different events in turn, since equal ones in a row are one.
    for _ in 0..=most / 2 {
        std::fs::write(here.join("noisy"), "").unwrap();
        std::fs::remove_file(here.join("noisy")).unwrap();
    }
    let names = read(&mut files);
    assert!(names.contains(&here.join("quiet")) && names.contains(&here), "{names:?}");
}

#[test]
fn settings_are_read_and_written_in_the_callers_namespace() {
    in_namespace(|ns| {
        ns.run("ip link add br.1 type bridge");
        let setting = ["ipv6", "conf", "br.1", "accept_ra"];
        sysctl::write(&setting, "2").unwrap();
        assert_eq!(ns.run("cat /proc/sys/net/ipv6/conf/br.1/accept_ra"), "2\n");
        assert_eq!(sysctl::read(&setting).unwrap(), "2");
        assert_eq!(sysctl::write(&setting, "rubbish").unwrap_err().errno(), Some(Errno::INVAL));
        let error = sysctl::read(&["ipv4", "conf", "nolink", "forwarding"]).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::NOENT));
        assert_eq!(error.to_string(), "cannot read /proc/sys/net/ipv4/conf/nolink/forwarding");
        let peer = ns.peer("other");
        peer.inside(|| sysctl::write(&["ipv4", "ip_forward"], "1").unwrap());
        assert_eq!(sysctl::read(&["ipv4", "ip_forward"]).unwrap(), "0");
    });
}
