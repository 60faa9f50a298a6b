//! QEMU's helper, called as QEMU calls it.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Ended, TestEnv, ended};
use rustix::io::FdFlags;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

/// Runs the helper with these arguments besides QEMU's; gives how it ended and what it sent.
fn call(env: &TestEnv, arguments: &[&str], br: &str) -> (Ended, Vec<OwnedFd>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    rustix::io::fcntl_setfd(&theirs, FdFlags::empty()).unwrap();
    let mut command = env.program(env!("CARGO_BIN_EXE_patchcord-qemu-helper"));
    command.arg("--root").arg(env.path("")).args(arguments);
    command.args(["--use-vnet", &format!("--fd={}", theirs.as_raw_fd()), &format!("--br={br}")]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(theirs);
    let (mut byte, mut fds) = ([0; 16], Vec::new());
    // As QEMU reads it: one byte, a descriptor beside it.
    let count = patchcord_api::socket::receive(&ours, &mut byte, &mut fds).unwrap();
    assert_eq!(count, fds.len());
    (ended(child.wait_with_output().unwrap()), fds)
}

fn text(fd: OwnedFd) -> String {
    let mut text = String::new();
    File::from(fd).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_network_by_br() {
    let env = TestEnv::new();
    env.lab();
    let (ended, mut fds) = call(&env, &[], "lab:a,b");
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("the NIC's address is not recorded"), "{}", ended.stderr);
    assert_eq!(text(fds.pop().unwrap()), "queue 0;");
    let nic = &env.json(&["nic", "list"])[0];
    assert_eq!((&nic["network"], &nic["portgroup"], &nic["mac"]), (&"lab".into(), &"a,b".into(), &().into()));
    // QEMU made the socket pair, so that the NIC is QEMU's: here, this test's.
    assert_eq!(nic["owner"]["pid"], std::process::id());
    assert_eq!(nic["guest"], format!("qemu-{}", std::process::id()));
}

#[test]
fn the_whole_of_br_is_a_network_first() {
    let env = TestEnv::new();
    let file = env.write("colon.xml", "<network><name>lab:x</name></network>");
    env.ok(&["network", "define", common::path(&file)]);
    env.ok(&["network", "start", "lab:x"]);
    let (ended, fds) = call(&env, &[], "lab:x");
    assert_eq!((ended.status, fds.len()), (0, 1), "{}", ended.stderr);
    assert_eq!(env.json(&["nic", "list"])[0]["network"], "lab:x");
}

#[test]
fn a_network_by_options() {
    let env = TestEnv::new();
    env.lab();
    let options = ["--network=lab", "--portgroup=a,b", "--mac=52:54:00:00:00:05", "--guest=vm"];
    let (ended, fds) = call(&env, &options, "br0");
    assert_eq!((ended.status, ended.stderr.as_str(), fds.len()), (0, "", 1));
    let nic = &env.json(&["nic", "list"])[0];
    assert_eq!((&nic["mac"], &nic["guest"]), (&"52:54:00:00:00:05".into(), &"vm".into()));
}

#[test]
fn a_refusal_leaves_nothing_behind() {
    let env = TestEnv::new();
    env.lab();
    for (options, br, status) in
        [(&[][..], "nowhere", 3), (&[][..], "lab:nowhere", 3), (&["--network=lab", "--portgroup=none"][..], "br0", 3)]
    {
        let (ended, fds) = call(&env, options, br);
        assert_eq!((ended.status, fds.len()), (status, 0), "{br}: {}", ended.stderr);
        assert!(ended.stderr.starts_with("error: "), "{}", ended.stderr);
        assert_eq!(env.json(&["nic", "list"]), serde_json::json!([]));
    }
}
