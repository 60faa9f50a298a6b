//! What is beyond the host: another namespace with servers in it.

use super::{SOON, ip};
use patchcord_testkit::{Guest, Namespace};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::mpsc::{Receiver, channel};

/// An echo service in a namespace; tells who connected.
pub(crate) fn echo_server(ns: &Namespace, address: &str) -> Receiver<SocketAddr> {
    let listener = ns.inside(|| TcpListener::bind(address)).unwrap_or_else(|error| panic!("{address}: {error}"));
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        while let Ok((mut stream, from)) = listener.accept() {
            let mut bytes = [0; 1024];
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                let _ = stream.write_all(&bytes[..count]);
            }
            if sender.send(from).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The outside: namespace `uplink`, reached over `up0`, that knows no way to guests' networks.
pub(crate) fn uplink(ns: &Namespace) -> Namespace {
    let peer = ns.peer("uplink");
    ns.veth("up0", &peer, "up1");
    ns.run("ip addr add 203.0.113.1/24 dev up0");
    ns.run("ip addr add fd00:99::1/64 dev up0 nodad");
    peer.run("ip addr add 203.0.113.2/24 dev up1");
    peer.run("ip addr add fd00:99::2/64 dev up1 nodad");
    peer
}

/// A TCP connection of the guest's that must work; gives the source that the server saw.
pub(crate) fn seen_as(guest: &mut Guest, server: &Receiver<SocketAddr>, address: &str, port: u16) -> SocketAddr {
    let back = guest.tcp_echo_client(ip(address), port, b"through", SOON);
    assert_eq!(back.unwrap_or_else(|error| panic!("{address}: {error}")), b"through");
    server.recv_timeout(SOON).expect("the server saw a connection")
}

/// A name server that has `answer` for every name; tells which ones it was asked for.
pub(crate) fn name_server(ns: &Namespace, address: &str, answer: Ipv4Addr) -> Receiver<String> {
    let socket = ns.inside(|| UdpSocket::bind((address, 53))).unwrap_or_else(|error| panic!("{address}: {error}"));
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((_, from)) = socket.recv_from(&mut bytes) {
            // Labels end with an empty one; type and class follow (RFC 1035, section 4.1.2).
            let (mut labels, mut at) = (Vec::new(), 12);
            while bytes[at] != 0 {
                let next = at + 1 + usize::from(bytes[at]);
                labels.push(String::from_utf8_lossy(&bytes[at + 1..next]).into_owned());
                at = next;
            }
            // The question, and one answer whose name is where the question's is.
            let mut reply = [&bytes[..2], &[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0], &bytes[12..at + 5]].concat();
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            reply.extend(answer.octets());
            // Who has the answer can see that it was asked for.
            if sender.send(labels.join(".")).is_err() || socket.send_to(&reply, from).is_err() {
                return;
            }
        }
    });
    receiver
}
