//! A guest in user space: a TCP/IP stack behind a tap's file descriptor, where a VMM would put its guest.

mod background;
mod device;
mod dhcp;
mod dns;
mod ping;
mod router;
mod tcp;
mod tftp;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::udp;
use smoltcp::wire::{EthernetAddress, IpCidr};

pub use background::{Background, Continuity};
pub use dhcp::Lease;
pub use router::{Prefix, RouterAdvertisement};

use device::TapDevice;

/// What a guest could not do. Deadlines are the caller's.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// Nobody answered in time.
    #[error("no {what} within {deadline:?}")]
    Timeout {
        /// What the guest waited for.
        what: String,
        /// How long it waited.
        deadline: Duration,
    },
    /// A TCP peer refused or reset the connection.
    #[error("connection to {peer} refused or reset after {bytes} bytes")]
    Reset {
        /// The peer's address and port.
        peer: String,
        /// How much had come back from it.
        bytes: usize,
    },
    /// A DNS server answered with an error code.
    #[error("DNS server answers {rcode} for {name}")]
    Dns {
        /// The name asked for.
        name: String,
        /// The answer's code, such as `NXDomain`.
        rcode: String,
    },
    /// A TFTP server refuses a file.
    #[error("TFTP server refuses {file}: {said}")]
    Tftp {
        /// The file asked for.
        file: String,
        /// What the server says.
        said: String,
    },
    /// The guest has no address of the family, or the request cannot be sent.
    #[error("cannot send: {0}")]
    CannotSend(String),
}

/// A guest with one NIC. Its stack works while one of its methods runs, or in the background.
///
/// It answers ARP, neighbour solicitations and echo requests, and takes no offloads. A new guest has its link-local
/// IPv6 address (made from its MAC) and nothing else.
pub struct Guest {
    device: TapDevice,
    interface: Interface,
    sockets: SocketSet<'static>,
    mac: [u8; 6],
    start: Instant,
    hostname: Option<String>,
    dhcp: Option<SocketHandle>,
    lease: Option<Lease>,
    echo_servers: Vec<(u16, SocketHandle)>,
    /// The last local port, ICMP identifier or DNS transaction used.
    last_number: u16,
}

impl Guest {
    /// Puts a guest behind a tap's or macvtap's descriptor that was opened with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR.
    ///
    /// `vnet_hdr_len` is the size in bytes of the virtio-net header and is set on the tap, as a VMM does: the kernel
    /// begins with 10, QEMU sets 12. The open file becomes non-blocking, for its duplicates too.
    ///
    /// # Errors
    /// The ioctls' own; a descriptor that is no tap has none of them.
    pub fn new(fd: OwnedFd, mac: [u8; 6], vnet_hdr_len: usize) -> io::Result<Guest> {
        let mut device = TapDevice::new(fd, vnet_hdr_len)?;
        let mut config = Config::new(EthernetAddress(mac).into());
        // Guests of one test should not choose the same numbers.
        config.random_seed = mac.iter().fold(0, |seed, byte| seed << 8 | u64::from(*byte));
        let start = Instant::now();
        let interface = Interface::new(config, &mut device, stack_time(start));
        let mut guest = Guest {
            device,
            interface,
            sockets: SocketSet::new(Vec::new()),
            mac,
            start,
            hostname: None,
            dhcp: None,
            lease: None,
            echo_servers: Vec::new(),
            last_number: 49151,
        };
        guest.add_address(guest.eui64(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)).into(), 64);
        Ok(guest)
    }

    /// Puts a guest behind the existing tap `name` of the calling thread's network namespace, as a VMM does that was
    /// given a name (`ifname=`): keeps the tap's header size, and asks for several queues only where the tap does.
    ///
    /// # Errors
    /// `NotFound` if there is no such link; the kernel's own, such as EBUSY for a tap in use.
    pub fn open_by_name(name: &str, mac: [u8; 6]) -> io::Result<Guest> {
        if !Path::new("/sys/class/net").join(name).exists() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no link {name}")));
        }
        let fd = match crate::sys::open_tap(name, false) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => crate::sys::open_tap(name, true)?,
            result => result?,
        };
        let header_len = crate::sys::vnet_header_len(&fd)?;
        Guest::new(fd, mac, header_len)
    }

    /// Puts a guest behind a macvtap's device node, as a VMM does that was given one.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn open_by_node(node: &Path, mac: [u8; 6]) -> io::Result<Guest> {
        Guest::new(crate::sys::open_node(node)?, mac, 12)
    }

    /// The MAC address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// The addresses and prefix lengths that the guest has now.
    pub fn addresses(&self) -> Vec<(IpAddr, u8)> {
        let addresses = self.interface.ip_addrs().iter();
        addresses.map(|cidr| (cidr.address().into(), cidr.prefix_len())).collect()
    }

    /// Gives the guest an address and, if there is one, the gateway of that family. An IPv4 address replaces the
    /// former; IPv6 addresses add up.
    pub fn set_static(&mut self, address: IpAddr, prefix_len: u8, gateway: Option<IpAddr>) {
        if address.is_ipv4() {
            self.remove_ipv4();
        }
        self.add_address(address, prefix_len);
        if let Some(gateway) = gateway {
            self.set_gateway(gateway);
        }
    }

    /// Sends one frame as it is, an Ethernet header first, whatever its source address says.
    pub fn send_frame(&self, frame: &[u8]) {
        self.device.send(frame);
    }

    /// Lets the stack work for this long, to answer others; see [`Guest::run_in_background`] for longer.
    pub fn serve(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.step(end);
        }
    }

    /// Lets the stack work until `ready` returns a value.
    fn until<T>(
        &mut self,
        what: impl FnOnce() -> String,
        deadline: Duration,
        mut ready: impl FnMut(&mut Guest) -> Option<T>,
    ) -> Result<T, GuestError> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(value) = ready(self) {
                return Ok(value);
            }
            if Instant::now() >= end {
                return Err(GuestError::Timeout { what: what(), deadline });
            }
            self.step(end);
        }
    }

    /// Handles what has come and what is due, then waits for the next event, a hundredth of a second, or `end`.
    fn step(&mut self, end: Instant) {
        let now = stack_time(self.start);
        let changed = self.interface.poll(now, &mut self.device, &mut self.sockets);
        self.follow_dhcp();
        self.echo();
        if changed == PollResult::SocketStateChanged {
            return; // the caller may have what it waits for
        }
        let wait = end.saturating_duration_since(Instant::now()).min(Duration::from_millis(10));
        let due = self.interface.poll_delay(now, &self.sockets);
        self.device.wait(due.map_or(wait, |due| Duration::from(due).min(wait)));
    }

    /// A number that this guest has not used lately, 49152 or more.
    fn next_number(&mut self) -> u16 {
        self.last_number = self.last_number.checked_add(1).unwrap_or(49152);
        self.last_number
    }

    /// A UDP socket of its own port, for a question; the asker removes it.
    fn udp_socket(&mut self) -> (SocketHandle, u16) {
        let port = self.next_number();
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 8192]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        // A fresh socket and a port that is not 0 are all that bind asks for.
        let _ = socket.bind(port);
        (self.sockets.add(socket), port)
    }

    fn add_address(&mut self, address: IpAddr, prefix_len: u8) {
        let cidr = IpCidr::new(address.into(), prefix_len);
        let mut full = false;
        self.interface.update_ip_addrs(|all| {
            full = !all.contains(&cidr) && all.push(cidr).is_err();
        });
        assert!(!full, "the guest has no room for the address {cidr}");
    }

    fn remove_ipv4(&mut self) {
        self.interface.update_ip_addrs(|all| all.retain(|cidr| matches!(cidr, IpCidr::Ipv6(_))));
        self.interface.routes_mut().remove_default_ipv4_route();
    }

    fn set_gateway(&mut self, gateway: IpAddr) {
        let routes = self.interface.routes_mut();
        let added = match gateway {
            IpAddr::V4(gateway) => routes.add_default_ipv4_route(gateway).map(drop),
            IpAddr::V6(gateway) => routes.add_default_ipv6_route(gateway).map(drop),
        };
        assert!(added.is_ok(), "the guest has no room for the route via {gateway}");
    }

    /// The guest's source address towards `target`.
    fn source(&self, target: IpAddr) -> Result<IpAddr, GuestError> {
        let source = self.interface.get_source_address(&target.into());
        match source.map(IpAddr::from) {
            Some(address) if address != IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ok(address),
            _ => Err(GuestError::CannotSend(format!("no address to reach {target} from"))),
        }
    }

    /// The address that this MAC makes below a /64 prefix (RFC 4291 appendix A).
    fn eui64(&self, prefix: Ipv6Addr) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac;
        let mut octets = prefix.octets();
        octets[8..].copy_from_slice(&[a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        octets.into()
    }
}

/// The stack's clock: it starts a minute after zero, since zero means "long ago" to the stack.
fn stack_time(start: Instant) -> smoltcp::time::Instant {
    let micros = (start.elapsed() + Duration::from_secs(60)).as_micros();
    smoltcp::time::Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}

/// Makes a tap in the calling thread's network namespace, with a virtio-net header, and brings it up. It ends with
/// the descriptor.
///
/// # Errors
/// The kernel's own.
pub fn create_tap(name: &str) -> io::Result<OwnedFd> {
    let fd = open_tap(name)?;
    let mut up = std::process::Command::new("ip");
    up.args(["link", "set", "dev", name, "up"]);
    crate::process::output(up).map_err(io::Error::other)?;
    Ok(fd)
}

/// Makes a tap in the calling thread's network namespace, with a virtio-net header, and leaves it down. It ends with the
/// descriptor.
///
/// # Errors
/// The kernel's own.
pub fn open_tap(name: &str) -> io::Result<OwnedFd> {
    crate::sys::open_tap(name, false)
}

/// Opens a macvtap by its device node, with a virtio-net header.
///
/// # Errors
/// The kernel's own.
pub fn open_node(node: &Path) -> io::Result<OwnedFd> {
    crate::sys::open_node(node)
}

/// Makes a tap outlive its descriptors, to be opened by its name by that user.
///
/// # Errors
/// The kernel's own.
pub fn keep_tap(tap: impl AsFd, uid: u32) -> io::Result<()> {
    crate::sys::keep_tap(tap, uid)
}
