//! A guest on a bridge of its own, with dnsmasq and the kernel at the other end.
// clippy.toml allows it in tests, which does not cover the helpers beside them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::time::Duration;

use patchcord_testkit::{Guest, GuestError, Namespace, Process, create_tap, in_namespace};

const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const SOON: Duration = Duration::from_secs(10);
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// A bridge with addresses, and a guest on one of its ports.
fn bridge_with_guest(ns: &Namespace) -> Guest {
    ns.run("ip link add br0 type bridge");
    ns.run("ip addr add 192.0.2.1/24 dev br0");
    ns.run("ip addr add 2001:db8::1/64 dev br0 nodad");
    ns.run("ip link set br0 up");
    let fd = create_tap("tap0").unwrap();
    ns.run("ip link set tap0 master br0");
    Guest::new(fd, MAC, 10).unwrap()
}

/// dnsmasq on br0, its files in a directory of its own that goes with it.
struct Dnsmasq {
    _process: Process,
    dir: std::path::PathBuf,
}

impl Dnsmasq {
    fn start(ns: &Namespace, arguments: &str) -> Dnsmasq {
        let dir = std::env::temp_dir().join(format!(
            "patchcord-dnsmasq-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        fs::create_dir_all(&dir).unwrap();
        let show = dir.display();
        let process = ns.spawn(&format!(
            "/usr/sbin/dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --no-ping \
             --user=root --interface=br0 --bind-interfaces --pid-file={show}/pid --log-facility={show}/log \
             --dhcp-leasefile={show}/leases --dhcp-authoritative {arguments}"
        ));
        Dnsmasq { _process: process, dir }
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn a_guest_gets_a_lease_and_names() {
    in_namespace(|ns| {
        let mut guest = bridge_with_guest(ns);
        let server = Dnsmasq::start(
            ns,
            "--dhcp-range=192.0.2.100,192.0.2.100,255.255.255.0,600 --domain=example.test \
             --local=/example.test/ --local=/org/ --address=/printer.example.test/192.0.2.77 \
             --address=/printer.example.test/2001:db8::77 --dhcp-option=option:mtu,1400",
        );
        guest.set_hostname("alice");
        let lease = guest.dhcp(SOON).unwrap();
        assert_eq!(lease.address.to_string(), "192.0.2.100");
        assert_eq!(lease.prefix_len, 24);
        assert_eq!(IpAddr::from(lease.server), HOST);
        assert_eq!(lease.router.map(IpAddr::from), Some(HOST));
        assert_eq!(lease.dns, [Ipv4Addr::new(192, 0, 2, 1)]);
        assert_eq!(lease.lease_seconds, 600);
        assert_eq!(lease.options[&26], 1400_u16.to_be_bytes());
        assert_eq!(lease.options[&15], b"example.test");
        let told = fs::read_to_string(server.dir.join("leases")).unwrap();
        assert!(told.contains("52:54:00:01:02:03 192.0.2.100 alice"), "{told}");

        guest.ping(HOST, SOON).unwrap();
        let mut ask = |name: &str| guest.resolve(name, HOST, SOON);
        assert_eq!(ask("printer.example.test").unwrap(), [Ipv4Addr::new(192, 0, 2, 77)]);
        assert_eq!(ask("alice.example.test").unwrap(), [lease.address]);
        let error = ask("nobody.example.org").unwrap_err();
        assert!(matches!(&error, GuestError::Dns { rcode, .. } if rcode == "NXDomain"), "{error}");
        let six = guest.resolve_ipv6("printer.example.test", HOST, SOON).unwrap();
        assert_eq!(six, ["2001:db8::77".parse::<std::net::Ipv6Addr>().unwrap()]);
        // Another lease, from nothing.
        assert_eq!(guest.dhcp(SOON).unwrap().address, lease.address);
    });
}

#[test]
fn nothing_is_there_without_a_server() {
    in_namespace(|ns| {
        let mut guest = bridge_with_guest(ns);
        let short = Duration::from_millis(300);
        assert!(matches!(guest.dhcp(short), Err(GuestError::Timeout { .. })));
        assert!(matches!(guest.solicit_router(short), Err(GuestError::Timeout { .. })));
        assert!(matches!(guest.ping(HOST, short), Err(GuestError::CannotSend(_))));
        guest.set_static(Ipv4Addr::new(192, 0, 2, 9).into(), 24, None);
        let absent = Ipv4Addr::new(192, 0, 2, 66).into();
        assert!(matches!(guest.ping(absent, short), Err(GuestError::Timeout { .. })));
        guest.ping(HOST, SOON).unwrap();
        let error = guest.tcp_echo_client(HOST, 9, b"x", SOON).unwrap_err();
        assert!(matches!(error, GuestError::Reset { bytes: 0, .. }), "{error}");
    });
}

#[test]
fn a_guest_takes_addresses_from_a_router() {
    in_namespace(|ns| {
        let mut guest = bridge_with_guest(ns);
        let _server = Dnsmasq::start(ns, "--enable-ra --dhcp-range=2001:db8::,ra-only,64,1800");
        let heard = guest.solicit_router(SOON).unwrap();
        assert_eq!(heard.prefixes.len(), 1, "{heard:?}");
        assert_eq!(heard.prefixes[0].prefix.to_string(), "2001:db8::");
        assert_eq!(heard.prefixes[0].len, 64);
        assert!(heard.prefixes[0].autonomous && heard.prefixes[0].on_link);
        assert!(!heard.managed);
        let mine = "2001:db8::5054:ff:fe01:203".parse().unwrap();
        assert!(guest.addresses().contains(&(mine, 64)), "{:?}", guest.addresses());
        guest.ping("2001:db8::1".parse().unwrap(), SOON).unwrap();
        guest.ping(heard.router.into(), SOON).unwrap();
    });
}

#[test]
fn tcp_echoes_in_both_directions() {
    in_namespace(|ns| {
        let mut guest = bridge_with_guest(ns);
        let address = Ipv4Addr::new(192, 0, 2, 9);
        guest.set_static(address.into(), 24, None);
        let payload: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();

        let listener = TcpListener::bind("192.0.2.1:7").unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = stream.try_clone().unwrap();
            std::io::copy(&mut reader, &mut stream).unwrap()
        });
        let echoed = guest.tcp_echo_client(HOST, 7, &payload, SOON).unwrap();
        assert!(echoed == payload, "{} bytes came back changed", echoed.len());
        assert_eq!(server.join().unwrap(), payload.len() as u64);

        guest.tcp_server(8);
        let guest = guest.run_in_background();
        for _ in 0..6 {
            use std::io::{Read as _, Write as _};
            let mut stream = std::net::TcpStream::connect((address, 8)).unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            stream.write_all(b"hello").unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "hello");
        }
        // It answers another guest, too.
        let fd = create_tap("tap1").unwrap();
        ns.run("ip link set tap1 master br0");
        let mut other = Guest::new(fd, [0x52, 0x54, 0, 1, 2, 4], 10).unwrap();
        other.set_static(Ipv4Addr::new(192, 0, 2, 10).into(), 24, None);
        other.ping(address.into(), SOON).unwrap();
        assert_eq!(other.tcp_echo_client(address.into(), 8, b"hello", SOON).unwrap(), b"hello");
        other.ping("fe80::5054:ff:fe01:203".parse().unwrap(), SOON).unwrap();
        guest.finish();
    });
}

#[test]
fn continuity_counts_what_is_lost() {
    in_namespace(|ns| {
        let mut guest = bridge_with_guest(ns);
        guest.set_static(Ipv4Addr::new(192, 0, 2, 9).into(), 24, None);
        let every = Duration::from_millis(5);
        let guest = guest.run_in_background();
        let wait = |what: &str, ready: &dyn Fn() -> bool| {
            patchcord_testkit::wait_until(what, SOON, || {
                if ready() { Ok(()) } else { Err(format!("{:?}", guest.continuity())) }
            })
        };

        guest.ping_every(HOST, every, SOON).unwrap();
        wait("100 answers", &|| guest.continuity().received >= 100);

        ns.run("ip link set tap0 nomaster");
        let before = guest.continuity();
        wait("20 lost requests", &|| guest.continuity().lost() >= before.lost() + 20);
        ns.run("ip link set tap0 master br0");
        let gone = guest.continuity();
        wait("10 more answers", &|| guest.continuity().received >= gone.received + 10);
        let (guest, broken) = guest.finish();
        assert!(broken.lost() >= 20, "{broken:?}");
        assert!(broken.longest_gap >= 15 * every, "{broken:?}");

        // Undisturbed, nothing is lost.
        let guest = guest.run_in_background();
        guest.ping_every(HOST, every, SOON).unwrap();
        // Nor while the guest does something else.
        let rest = Duration::from_secs(1);
        let before = guest.continuity().sent;
        let after = guest.with(move |guest| {
            guest.serve(rest);
            guest.ping(HOST, SOON).map(|_| ())
        });
        after.unwrap();
        assert!(guest.continuity().sent < before + 50, "the stream went on");
        patchcord_testkit::wait_until("100 answers", SOON, || {
            let seen = guest.continuity();
            if seen.received >= 100 { Ok(()) } else { Err(format!("{seen:?}")) }
        });
        let (_, whole) = guest.finish();
        assert_eq!(whole.lost(), 0, "{whole:?}");
        assert!(whole.longest_gap < rest, "{whole:?}");
        assert!(whole.sent >= 100, "{whole:?}");
        assert!(whole.longest_gap < broken.longest_gap, "{whole:?} {broken:?}");
    });
}

#[test]
fn a_guest_opens_a_persistent_tap_by_name() {
    in_namespace(|ns| {
        ns.run("ip link add br0 type bridge");
        ns.run("ip addr add 192.0.2.1/24 dev br0");
        ns.run("ip link set br0 up");
        let missing = Guest::open_by_name("tap1", MAC).err().unwrap();
        assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
        for kind in ["vnet_hdr", "vnet_hdr multi_queue"] {
            ns.run(&format!("ip tuntap add tap1 mode tap {kind}"));
            ns.run("ip link set tap1 master br0 up");
            let mut guest = Guest::open_by_name("tap1", MAC).unwrap();
            guest.set_static(Ipv4Addr::new(192, 0, 2, 9).into(), 24, Some(HOST));
            guest.ping(HOST, SOON).unwrap();
            drop(guest);
            ns.run("ip link del tap1");
        }
    });
}

#[test]
fn the_header_may_have_another_size() {
    in_namespace(|ns| {
        drop(bridge_with_guest(ns));
        let fd = create_tap("tap1").unwrap();
        ns.run("ip link set tap1 master br0");
        let mut guest = Guest::new(fd, MAC, 12).unwrap();
        guest.set_static(Ipv4Addr::new(192, 0, 2, 9).into(), 24, None);
        guest.ping(HOST, SOON).unwrap();
    });
}
