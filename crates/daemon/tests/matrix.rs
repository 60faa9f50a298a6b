//! What frames get where on a device of the host's: the same for cords and macvtaps, in each mode, with a switch that
//! reflects frames and with one that does not.
//!
//! The expectations are the kernel's macvlan driver's (drivers/net/macvlan.c); each is what was measured for a macvtap.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::switch::pool;
use common::{Host, attach, mac};
use patchcord_api::methods::AttachNIC;
use patchcord_testkit::{Frames, Namespace, frame, in_namespace, needs, open_tap};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

const MODES: [&str; 4] = ["vepa", "private", "bridge", "passthrough"];
/// How long to wait for a frame that is to come.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long to go on listening when all that were sent must have come.
const GRACE: Duration = Duration::from_millis(10);
const BROADCAST: [u8; 6] = [0xff; 6];
/// Whoever is outside.
const OUTSIDE: [u8; 6] = [0x52, 0x54, 0, 0x99, 0, 2];
/// An address behind a guest's own, as of a guest in a guest.
const NESTED: [u8; 6] = [0x52, 0x54, 0, 0x77, 0, 1];
/// mDNS, and a group by which neighbours are found (RFC 4291, section 2.7.1).
const GROUP_V4: [u8; 6] = [0x01, 0, 0x5e, 0, 0, 0xfb];
const GROUP_V6: [u8; 6] = [0x33, 0x33, 0xff, 0x12, 0x34, 0x56];
const VLAN: Option<u16> = Some(5);
const UDP: u16 = 4789;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Party {
    Outside,
    /// A guest, and another one on the same device.
    Guest,
    Other,
    /// The host's own stack on that device.
    Host,
}

/// One frame, from whom to whom, and how often it arrives in each mode; none where there can be no second guest.
struct Row {
    name: &'static str,
    from: Party,
    to: Party,
    /// The destination; none for the receiver's own address.
    destination: Option<[u8; 6]>,
    /// The source; none for the sender's own address.
    source: Option<[u8; 6]>,
    vlan: Option<u16>,
    length: usize,
    expected: [Option<usize>; 4],
}

fn row(name: &'static str, from: Party, to: Party, expected: [usize; 4]) -> Row {
    let expected = expected.map(Some);
    Row { name, from, to, destination: None, source: None, vlan: None, length: 60, expected }
}

/// Between two guests.
fn pair(name: &'static str, expected: [usize; 3]) -> Row {
    let [vepa, private, bridge] = expected.map(Some);
    Row { expected: [vepa, private, bridge, None], ..row(name, Party::Guest, Party::Other, [0; 4]) }
}

impl Row {
    fn to(self, destination: [u8; 6]) -> Self {
        Self { destination: Some(destination), ..self }
    }
    fn all(self) -> Self {
        self.to(BROADCAST)
    }
    fn long(self, vlan: Option<u16>, length: usize) -> Self {
        Self { vlan, length, ..self }
    }
}

/// With a switch that sends nothing back to where it came from.
fn plain_rows() -> Vec<Row> {
    use Party::{Guest, Host, Outside};
    vec![
        row("guest to outside", Guest, Outside, [1; 4]),
        row("guest to outside, broadcast", Guest, Outside, [1; 4]).all(),
        row("guest to outside, IPv4 group", Guest, Outside, [1; 4]).to(GROUP_V4),
        row("guest to outside, IPv6 group", Guest, Outside, [1; 4]).to(GROUP_V6),
        Row { source: Some(NESTED), ..row("guest to outside, another source", Guest, Outside, [1; 4]) },
        row("outside to guest", Outside, Guest, [1; 4]),
        row("outside to guest, broadcast", Outside, Guest, [1; 4]).all(),
        row("outside to guest, IPv4 group", Outside, Guest, [1; 4]).to(GROUP_V4),
        row("outside to guest, IPv6 group", Outside, Guest, [1; 4]).to(GROUP_V6),
        row("outside to an address behind the guest's", Outside, Guest, [0, 0, 0, 1]).to(NESTED),
        pair("guest to guest", [0, 0, 1]),
        pair("guest to guest, broadcast", [0, 0, 1]).all(),
        row("own broadcast", Guest, Guest, [0; 4]).all(),
        // In passthrough mode all that comes in at the device is the guest's.
        row("outside to host", Outside, Host, [1, 1, 1, 0]),
        row("host to outside", Host, Outside, [1; 4]),
        row("guest to host", Guest, Host, [0; 4]),
        row("guest to host, broadcast", Guest, Host, [0; 4]).all(),
        row("host to guest", Host, Guest, [0; 4]),
        row("host to guest, broadcast", Host, Guest, [0; 4]).all(),
        row("guest to outside, tagged", Guest, Outside, [1; 4]).long(VLAN, 64),
        row("guest to outside, tagged broadcast", Guest, Outside, [1; 4]).all().long(VLAN, 64),
        row("outside to guest, tagged", Outside, Guest, [1; 4]).long(VLAN, 64),
        row("outside to guest, tagged broadcast", Outside, Guest, [1; 4]).all().long(VLAN, 64),
        row("guest to outside, 1514 bytes", Guest, Outside, [1; 4]).long(None, 1514),
        row("outside to guest, 1514 bytes", Outside, Guest, [1; 4]).long(None, 1514),
        row("guest to outside, 1518 bytes, tagged", Guest, Outside, [1; 4]).long(VLAN, 1518),
        row("outside to guest, 1518 bytes, tagged", Outside, Guest, [1; 4]).long(VLAN, 1518),
    ]
}

/// With one that reflects frames.
fn reflected_rows() -> Vec<Row> {
    use Party::{Guest, Host};
    vec![
        pair("guest to guest, reflected", [1, 1, 1]),
        pair("guest to guest, broadcast, reflected", [1, 0, 1]).all(),
        row("own broadcast, reflected", Guest, Guest, [0, 1, 0, 1]).all(),
        row("guest to host, reflected", Guest, Host, [1, 1, 1, 0]),
    ]
}

/// The device that guests sit on.
#[derive(Clone, Copy, Debug)]
enum Lower {
    Plain,
    Vlan,
    Bond,
}

/// A host with a device, the switch that it leads to, and somebody else on that.
struct Bed<'a> {
    ns: &'a Namespace,
    switch: Namespace,
    /// The device, and its port of the switch.
    lower: &'static str,
    port: &'static str,
    outside: Frames,
    guests: Vec<([u8; 6], Frames)>,
    socket: UdpSocket,
    number: u32,
}

impl<'a> Bed<'a> {
    fn new(ns: &'a Namespace, lower: Lower) -> Self {
        let switch = ns.peer("switch");
        switch.run("ip link add fabric address 52:54:00:99:00:01 type bridge mcast_snooping 0");
        switch.run("ip link set fabric up");
        ns.veth("eth10", &switch, "p0");
        let (lower, port) = match lower {
            Lower::Plain => ("eth10", "p0"),
            Lower::Vlan => {
                ns.run("ip link add link eth10 name eth10.7 type vlan id 7");
                switch.run("ip link add link p0 name p0.7 type vlan id 7");
                ("eth10.7", "p0.7")
            }
            Lower::Bond => {
                ns.run("ip link add bond0 type bond mode active-backup");
                ns.run("ip link set eth10 down");
                ns.run("ip link set eth10 master bond0");
                ("bond0", "p0")
            }
        };
        ns.run(&format!("ip link set {lower} up"));
        ns.run(&format!("ip addr add 10.9.0.5/24 dev {lower}"));
        switch.run(&format!("ip link set {port} up master fabric"));
        let outside = switch.inside(|| open_tap("out")).unwrap();
        switch.run("ip link set out up master fabric");
        let socket = UdpSocket::bind(("0.0.0.0", UDP)).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        let outside = Frames::new(outside).unwrap();
        Self { ns, switch, lower, port, outside, guests: Vec::new(), socket, number: 0 }
    }

    fn reflect(&self, on: bool) {
        let on = if on { "on" } else { "off" };
        self.switch.run(&format!("bridge link set dev {} hairpin {on}", self.port));
    }

    /// The neighbours that the host's stack knows.
    fn introduce(&self) {
        let outside = OUTSIDE.map(|byte| format!("{byte:02x}")).join(":");
        self.ns.run(&format!("ip neigh replace 10.9.0.2 lladdr {outside} dev {}", self.lower));
        let guest = self.guests[0].0.map(|byte| format!("{byte:02x}")).join(":");
        self.ns.run(&format!("ip neigh replace 10.9.0.3 lladdr {guest} dev {}", self.lower));
    }

    fn address(&self, party: Party) -> [u8; 6] {
        match party {
            Party::Outside => OUTSIDE,
            Party::Guest => self.guests[0].0,
            Party::Other => self.guests[1].0,
            Party::Host => {
                let links = self.ns.json(&format!("ip -j link show dev {}", self.lower));
                let bytes =
                    links[0]["address"].as_str().unwrap().split(':').map(|b| u8::from_str_radix(b, 16).unwrap());
                bytes.collect::<Vec<_>>().try_into().unwrap()
            }
        }
    }

    fn frames(&mut self, party: Party) -> &mut Frames {
        match party {
            Party::Outside => &mut self.outside,
            Party::Guest => &mut self.guests[0].1,
            Party::Other => &mut self.guests[1].1,
            Party::Host => panic!("the host's stack takes no frames"),
        }
    }

    /// Sends a row's frame, and counts how often it arrives whole: by what makes it what it is, of a datagram its
    /// contents, of others all of it.
    fn deliver(&mut self, row: &Row, expected: usize) -> usize {
        self.number += 1;
        let text = format!("frame number {:08}", self.number).into_bytes();
        let all = row.destination == Some(BROADCAST);
        let from = row.source.unwrap_or_else(|| self.address(row.from));
        let to = row.destination.unwrap_or_else(|| self.address(row.to));
        let mark = match (row.from, row.to) {
            (Party::Host, to) => {
                let to = match to {
                    _ if all => "10.9.0.255",
                    Party::Outside => "10.9.0.2",
                    _ => "10.9.0.3",
                };
                assert_eq!(self.socket.send_to(&text, (to, UDP)).unwrap(), text.len());
                text
            }
            (_, Party::Host) => {
                let datagram = datagram(to, from, if all { [10, 9, 0, 255] } else { [10, 9, 0, 5] }, &text);
                self.frames(row.from).send(&datagram);
                text
            }
            _ => {
                let frame = frame(to, from, row.vlan, row.length, self.number);
                self.frames(row.from).send(&frame);
                frame
            }
        };
        let is_it = |seen: &Vec<u8>| seen.windows(mark.len()).any(|part| part == mark);
        if row.to == Party::Host {
            let mut count = 0;
            let end = Instant::now() + DEADLINE;
            while count < expected && Instant::now() < end {
                count += self.heard(is_it);
            }
            self.flush();
            return count + self.heard(is_it);
        }
        let frames = self.frames(row.to);
        frames.read_until(DEADLINE, |seen| seen.iter().filter(|f| is_it(f)).count() >= expected);
        self.flush();
        self.frames(row.to).take().iter().filter(|f| is_it(f)).count()
    }

    /// What the host's stack got.
    fn heard(&self, is_it: impl Fn(&Vec<u8>) -> bool) -> usize {
        let mut buffer = [0; 2048];
        let mut count = 0;
        while let Ok(len) = self.socket.recv(&mut buffer) {
            count += usize::from(is_it(&buffer[..len].to_vec()));
        }
        count
    }

    /// Waits until everything that is under way must have come: behind it two frames are sent that always do.
    fn flush(&mut self) {
        self.number += 1;
        let last = frame(BROADCAST, OUTSIDE, None, 60, self.number);
        self.outside.send(&last);
        for (_, guest) in &mut self.guests {
            assert!(guest.read_until(DEADLINE, |seen| seen.contains(&last)), "the guests hear the outside");
        }
        self.number += 1;
        let last = frame(BROADCAST, self.guests[0].0, None, 60, self.number);
        self.guests[0].1.send(&last);
        assert!(self.outside.read_until(DEADLINE, |seen| seen.contains(&last)), "the outside hears the guest");
        std::thread::sleep(GRACE);
    }

    /// Delivers each row, and gives those that are not as expected.
    fn run(&mut self, mode: usize, rows: &[Row]) -> Vec<String> {
        let mut wrong = Vec::new();
        for row in rows {
            let Some(expected) = row.expected[mode] else { continue };
            for party in [&mut self.outside].into_iter().chain(self.guests.iter_mut().map(|(_, g)| g)) {
                party.take();
            }
            let count = self.deliver(row, expected);
            if count != expected {
                wrong.push(format!("{}: {count}, not {expected}", row.name));
            }
        }
        wrong
    }
}

/// An IPv4 datagram in a frame (RFC 791, RFC 768), without the latter's checksum.
fn datagram(to: [u8; 6], from: [u8; 6], address: [u8; 4], text: &[u8]) -> Vec<u8> {
    let length = u16::try_from(28 + text.len()).unwrap().to_be_bytes();
    let mut ip = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 77];
    ip.extend(address);
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let port = UDP.to_be_bytes();
    let length = u16::try_from(8 + text.len()).unwrap().to_be_bytes();
    let udp = [port, port, length, [0, 0]].concat();
    [&to[..], &from, &[0x08, 0x00], &ip, &udp, text].concat()
}

/// Attaches a guest: its NIC's id and address, and its frames.
fn guest(host: &Host<'_>, name: &str, xml: &str) -> (String, [u8; 6], Frames) {
    let ask = AttachNIC { fetch: Some(true), ..attach(name, xml) };
    let (reply, mut fds) = host.client().call_with_fds(&ask, |r| r.fds.clone().unwrap_or_default()).unwrap();
    assert_eq!(reply.nic.state, "plugged");
    let mac = mac(&reply.nic);
    (reply.nic.id, mac, Frames::new(fds.remove(0)).unwrap())
}

fn nic(network: &str, plug: &str) -> String {
    let source = format!("<source network='{network}'/>");
    format!("<interface type='network' xmlns:pc='urn:patchcord:1'>{source}<pc:driver plug='{plug}'/></interface>")
}

/// Runs the whole matrix on a device.
fn matrix(lower: Lower) {
    in_namespace(|ns| {
        let mut bed = Bed::new(ns, lower);
        let host = Host::new(ns);
        let mut wrong = Vec::new();
        for (n, mode) in MODES.into_iter().enumerate() {
            host.network(&pool(mode, mode, &[bed.lower]));
            for plug in ["cord", "macvtap"] {
                let guests = if mode == "passthrough" { &["a"][..] } else { &["a", "b"] };
                let mut ids = Vec::new();
                for name in guests {
                    let (id, mac, frames) = guest(&host, name, &nic(mode, plug));
                    ids.push(id);
                    bed.guests.push((mac, frames));
                }
                bed.introduce();
                let mut differ = bed.run(n, &plain_rows());
                bed.reflect(true);
                differ.extend(bed.run(n, &reflected_rows()));
                bed.reflect(false);
                wrong.extend(differ.iter().map(|what| format!("{plug}, {mode}: {what}\n")));
                ids.iter().for_each(|id| host.detach(id));
                bed.guests.clear();
            }
        }
        assert!(wrong.is_empty(), "on {lower:?}:\n{}", wrong.concat());
    });
}

#[test]
fn matrix_on_a_plain_device() {
    matrix(Lower::Plain);
}

#[test]
fn matrix_on_a_vlan_link() {
    let link = ["ip link add probe0 type veth", "ip link add link probe0 name probe2 type vlan id 5"];
    if needs("802.1Q links", &link) {
        matrix(Lower::Vlan);
    }
}

#[test]
fn matrix_on_a_bond() {
    if needs("bonds", &["ip link add probe0 type bond"]) {
        matrix(Lower::Bond);
    }
}

/// Nobody is behind a dummy, and so guests on one reach only each other, in the mode that has them do that.
#[test]
fn matrix_on_a_dummy() {
    if !needs("dummy links", &["ip link add probe0 type dummy"]) {
        return;
    }
    in_namespace(|ns| {
        ns.run("ip link add dummy0 type dummy");
        ns.run("ip link set dummy0 up");
        let host = Host::new(ns);
        for (mode, expected) in [("vepa", 0), ("private", 0), ("bridge", 1)] {
            host.network(&pool(mode, mode, &["dummy0"]));
            for plug in ["cord", "macvtap"] {
                let (one, from, sender) = guest(&host, "a", &nic(mode, plug));
                let (other, to, mut receiver) = guest(&host, "b", &nic(mode, plug));
                for to in [to, BROADCAST] {
                    let frame = frame(to, from, None, 60, 7);
                    sender.send(&frame);
                    let wait = if expected == 0 { GRACE } else { DEADLINE };
                    receiver.read_until(wait, |seen| seen.len() >= expected);
                    let arrived = receiver.take().iter().filter(|seen| **seen == frame).count();
                    assert_eq!(arrived, expected, "{plug}, {mode}: {to:02x?}");
                }
                [one, other].iter().for_each(|id| host.detach(id));
            }
        }
    });
}
