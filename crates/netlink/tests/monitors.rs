//! The kernel's announcements, made by iproute2 and nft.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::{Duration, Instant};

use common::{bridge, in_new_namespace, run, veth};
use patchcord_netlink::nft::{Change, Generation};
use patchcord_netlink::{Hint, LINK_GROUPS, LinkChange, Monitor, MonitorGroups, Socket, nft};
use patchcord_testkit::skip;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Reads until a hint fits, at most ten seconds; what came before it is given too.
fn until(monitor: &mut Monitor, fits: impl Fn(&Hint) -> bool) -> Vec<Hint> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut all = Vec::new();
    while Instant::now() < deadline {
        let hints = monitor.receive(Some(Duration::from_millis(200))).unwrap();
        let found = hints.iter().any(&fits);
        all.extend(hints);
        if found {
            return all;
        }
    }
    panic!("not among {all:?}");
}

#[test]
fn links_that_come_change_and_go_are_announced() {
    if !in_new_namespace("links_that_come_change_and_go_are_announced") {
        return;
    }
    let mut monitor = Monitor::open(LINK_GROUPS).unwrap();
    assert!(monitor.receive(Some(Duration::ZERO)).unwrap().is_empty());
    run("ip", &["link", "add", "sw0", "type", "bridge"]);
    let hints = until(&mut monitor, |hint| matches!(hint, Hint::Link { link: Some(link), .. } if link.name == "sw0"));
    let index = hints.iter().find_map(|hint| match hint {
        Hint::Link { index, gone: false, link: Some(link) } if link.name == "sw0" => Some(*index),
        _ => None,
    });
    let index = index.unwrap();
    run("ip", &["addr", "add", "10.1.2.3/24", "dev", "sw0"]);
    until(&mut monitor, |hint| *hint == Hint::Address { index });
    run("ip", &["link", "set", "sw0", "up"]);
    until(&mut monitor, |hint| *hint == Hint::Route);
    run("ip", &["link", "del", "sw0"]);
    let hints = until(&mut monitor, |hint| *hint == Hint::Link { index, gone: true, link: None });
    assert!(!hints.iter().any(|hint| matches!(hint, Hint::Resync { .. })), "{hints:?}");
}

#[test]
fn a_port_that_leaves_its_bridge_is_not_gone() {
    if !in_new_namespace("a_port_that_leaves_its_bridge_is_not_gone") {
        return;
    }
    let mut socket = Socket::open().unwrap();
    let controller = bridge(&mut socket, "sw0");
    let (port, _) = veth(&mut socket, "p", "q");
    let join = LinkChange { controller: Some(Some(controller)), ..Default::default() };
    socket.set_link(port, &join).unwrap();
    let mut monitor = Monitor::open(MonitorGroups { links: true, ..Default::default() }).unwrap();
    run("ip", &["link", "set", "p", "nomaster"]);
    run("ip", &["link", "set", "sw0", "alias", "end"]);
    let hints = until(
        &mut monitor,
        |hint| matches!(hint, Hint::Link { link: Some(link), .. } if link.alias.as_deref() == Some("end")),
    );
    assert!(hints.iter().any(|hint| matches!(hint, Hint::Link { index, .. } if *index == port)));
    assert!(!hints.iter().any(|hint| matches!(hint, Hint::Link { gone: true, .. })), "{hints:?}");
}

#[test]
fn a_flood_ends_in_a_resync() {
    if !in_new_namespace("a_flood_ends_in_a_resync") {
        return;
    }
    let mut socket = Socket::open().unwrap();
    let index = bridge(&mut socket, "sw0");
    let mut monitor = Monitor::open(LINK_GROUPS).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&monitor, 4096).unwrap();
    for n in 0..50 {
        socket.set_link(index, &LinkChange { group: Some(n), ..Default::default() }).unwrap();
    }
    until(&mut monitor, |hint| matches!(hint, Hint::Resync { .. }));
    // And it goes on listening.
    socket.set_link(index, &LinkChange { alias: Some("after".to_owned()), ..Default::default() }).unwrap();
    until(
        &mut monitor,
        |hint| matches!(hint, Hint::Link { link: Some(link), .. } if link.alias.as_deref() == Some("after")),
    );
}

#[test]
fn one_thread_hears_links_and_nftables() {
    if !in_new_namespace("one_thread_hears_links_and_nftables") {
        return;
    }
    if std::process::Command::new("nft").arg("--version").output().is_err() {
        skip("one_thread_hears_links_and_nftables", "no nft program");
        return;
    }
    let mut links = Monitor::open(LINK_GROUPS).unwrap();
    let mut rules = nft::Monitor::open().unwrap();
    let mut socket = nft::Socket::open().unwrap();
    let wait = |links: &Monitor, rules: &nft::Monitor| {
        let mut fds = [PollFd::new(links, PollFlags::IN), PollFd::new(rules, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 10, tv_nsec: 0 })).unwrap();
        (fds[0].revents().contains(PollFlags::IN), fds[1].revents().contains(PollFlags::IN))
    };
    run("nft", &["add table inet theirs; add chain inet theirs c"]);
    assert_eq!(wait(&links, &rules), (false, true));
    let changes = rules.receive(Some(Duration::ZERO)).unwrap();
    let [Change::Committed { generation: Generation { number, pid, process }, port }] = &changes[..] else {
        panic!("{changes:?}")
    };
    assert_eq!(process, "nft");
    assert!(*pid != 0 && *pid != std::process::id());
    assert_ne!(*port, socket.port());
    assert_eq!(*number, socket.generation().unwrap().number);

    let mut batch = nft::Batch::new();
    batch.add_table(nft::Family::Inet, "patchcord", None);
    socket.commit(&batch).unwrap();
    assert_eq!(wait(&links, &rules), (false, true));
    let changes = rules.receive(Some(Duration::ZERO)).unwrap();
    let [Change::Committed { port, .. }] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!(*port, socket.port());

    run("nft", &["flush", "ruleset"]);
    assert_eq!(wait(&links, &rules), (false, true));
    assert!(matches!(&rules.receive(None).unwrap()[..], [Change::Committed { .. }]));
    run("ip", &["link", "set", "lo", "up"]);
    assert_eq!(wait(&links, &rules), (true, false));
    assert!(!links.receive(None).unwrap().is_empty());
}
