//! What the kernel tests share: a network namespace of their own, and iproute2's and nft's view of it.
#![allow(dead_code, reason = "every test binary uses a part")]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use patchcord_netlink::{BridgeSpec, Socket, VethSpec};
use patchcord_testkit::skip;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

/// Moves the calling thread into a new, empty network namespace, which ends with it and its sockets.
/// Returns false, with the reason printed, where that is not allowed.
pub(crate) fn in_new_namespace(test: &str) -> bool {
    // A child makes the namespace, because entering one is a safe call and making one is not.
    let child = Command::new("unshare")
        .args(["--net", "sh", "-c", "echo ready; read line"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            skip(test, &format!("no unshare program ({error})"));
            return false;
        }
    };
    let mut line = String::new();
    let stdout = child.stdout.take().expect("stdout is piped");
    BufReader::new(stdout).read_line(&mut line).expect("the child's stdout can be read");
    let entered = line == "ready\n" && {
        let namespace = File::open(format!("/proc/{}/ns/net", child.id())).expect("the child's namespace");
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).is_ok()
    };
    drop(child.stdin.take());
    child.wait().expect("the child ends");
    if !entered {
        skip(test, "network namespaces need root");
    }
    entered
}

/// Runs a program and returns its standard output.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a program that prints JSON.
pub(crate) fn json(program: &str, args: &[&str]) -> Value {
    let text = run(program, args);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{program} {args:?}: {error}: {text}"))
}

/// `ip -j -d link show dev NAME`.
pub(crate) fn ip_link(name: &str) -> Value {
    json("ip", &["-j", "-d", "link", "show", "dev", name])[0].clone()
}

/// The index of a link.
pub(crate) fn index(socket: &mut Socket, name: &str) -> u32 {
    socket.link_by_name(name).unwrap().unwrap().index
}

/// A plain bridge that is up.
pub(crate) fn bridge(socket: &mut Socket, name: &str) -> u32 {
    socket.make_bridge(&BridgeSpec { name: name.to_owned(), up: true, ..BridgeSpec::default() }).unwrap()
}

/// A veth pair; the indexes of both ends.
pub(crate) fn veth(socket: &mut Socket, name: &str, peer: &str) -> (u32, u32) {
    let spec = VethSpec { name: name.to_owned(), peer: peer.to_owned(), ..VethSpec::default() };
    let index = socket.make_veth(&spec).unwrap();
    let lower = socket.link_by_index(index).unwrap().unwrap().lower.unwrap();
    (index, lower)
}
