//! Clients that break the rules, or stretch them.

use super::super::{MAX_CONNECTIONS, RESERVED};
use super::{Door, root};
use patchcord_api::methods::ListNetworks;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

#[test]
fn a_client_that_breaks_the_rules_harms_only_itself() {
    let door = Door::open(root(), "");
    let mut well_behaved = door.client();
    let list = r#"{"method":"org.patchcord.Switch.ListNetworks"}"#;
    let closed = |mut raw: std::os::unix::net::UnixStream| {
        let mut rest = Vec::new();
        // Closed with unread bytes is a reset.
        raw.read_to_end(&mut rest).map_or(true, |_| rest.is_empty())
    };
    // What is said before the connection ends.
    let told = |garbage: &[u8]| {
        let (mut raw, mut answer) = (door.raw(), String::new());
        raw.write_all(garbage).unwrap();
        raw.read_to_string(&mut answer).unwrap();
        answer
    };
    for garbage in
        [&b"\0"[..], b"\xff\xfe\0", b"[]\0", b"{\"method\":1}\0", b"null\0", b"{}\0", b"GET / HTTP/1.1\r\n\r\n\0"]
    {
        assert!(told(garbage).contains("it is no varlink call"), "{garbage:?}");
    }
    let deep = [vec![b'['; 200_000], vec![0]].concat();
    assert!(told(&deep).contains("it is no varlink call"));

    // Endless: refused at the limit, not kept until memory ends.
    let mut raw = door.raw();
    let (block, mut sent) = (vec![b'x'; 64 * 1024], 0);
    while raw.write_all(&block).is_ok() {
        sent += block.len();
        assert!(sent < 2 * patchcord_api::MAX_CALL, "{sent} bytes are taken");
    }

    // Half a message and an end; and an end without a message.
    let mut raw = door.raw();
    raw.write_all(&list.as_bytes()[..20]).unwrap();
    raw.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(closed(raw));
    drop(door.raw());

    // What was asked before the sending side was closed is answered.
    let mut raw = door.raw();
    raw.write_all(format!("{list}\0{list}\0").as_bytes()).unwrap();
    raw.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answers = Vec::new();
    raw.read_to_end(&mut answers).unwrap();
    assert_eq!(answers.iter().filter(|byte| **byte == 0).count(), 2);

    well_behaved.call(&ListNetworks::default()).unwrap();
}

#[test]
fn thousands_of_calls_in_a_row_are_answered_in_order_and_others_are_served_meanwhile() {
    let door = Door::open(root(), "");
    let mut raw = door.raw();
    let mut sender = raw.try_clone().unwrap();
    const CALLS: usize = 5000;
    let writer = std::thread::spawn(move || {
        for n in 0..CALLS {
            let call = format!(r#"{{"method":"org.patchcord.Switch.ShowNetwork","parameters":{{"name":"x{n}"}}}}"#);
            let _ = sender.write_all(format!("{call}\0").as_bytes());
        }
    });
    // Nobody reads the answers yet, so that they pile up in the socket and no further.
    for _ in 0..20 {
        assert!(door.lives());
    }
    let mut answers = BufReader::new(&mut raw);
    for n in 0..CALLS {
        let mut answer = Vec::new();
        answers.read_until(0, &mut answer).unwrap();
        assert!(String::from_utf8_lossy(&answer).contains(&format!("network 'x{n}'")), "{n}");
    }
    writer.join().unwrap();
}

#[test]
fn descriptors_that_a_client_sends_are_closed() {
    let door = Door::open(root(), "");
    let raw = door.raw();
    let (reader, writer) = std::io::pipe().unwrap();
    let call = b"{\"method\":\"org.patchcord.Switch.ListNetworks\"}\0";
    assert_eq!(patchcord_api::socket::send(&raw, call, &[writer.as_fd()]).unwrap(), call.len());
    drop(writer);
    BufReader::new(&raw).read_until(0, &mut Vec::new()).unwrap();
    // The pipe ends only if nobody holds its other side any more.
    assert_eq!({ reader }.read(&mut [0; 1]).unwrap(), 0);
    drop(raw);
}

#[test]
fn one_connection_too_many_is_closed() {
    let door = Door::open(None, "");
    // Who runs the test may do everything, so that there are some more.
    let most = MAX_CONNECTIONS + RESERVED;
    let mut all: Vec<_> = (0..=most).map(|_| door.raw()).collect();
    assert_eq!(all[most].read(&mut [0; 1]).unwrap(), 0);
    // When some have gone, there is room again.
    all.clear();
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while !door.lives() {
        assert!(std::time::Instant::now() < end, "their places stay taken");
    }
}
