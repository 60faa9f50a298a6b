//! Single frames, sent and counted at a tap's or macvtap's descriptor, or sent out of a link.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use crate::sys;

/// The virtio-net header before each frame, in bytes, as QEMU sets it.
pub const VNET_HEADER: usize = 12;
/// EtherType for local experiments (IEEE 802, clause 9.2.3).
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];
/// An 802.1Q tag: its EtherType, then the VLAN.
const TAG: [u8; 2] = [0x81, 0x00];

/// A frame of `len` bytes, its Ethernet header included and its checksum not, in that VLAN if any, that carries a number
/// by which it is known.
///
/// # Panics
/// If it is too short for that.
pub fn frame(to: [u8; 6], from: [u8; 6], vlan: Option<u16>, len: usize, number: u32) -> Vec<u8> {
    let mut frame = [to, from].concat();
    if let Some(vlan) = vlan {
        frame.extend(TAG);
        frame.extend(vlan.to_be_bytes());
    }
    frame.extend(EXPERIMENT);
    frame.extend(number.to_be_bytes());
    assert!(frame.len() <= len, "{len} bytes are too few");
    frame.resize(len, 0);
    frame
}

/// A socket that sends what is written to it out of the link with that index as a frame, and receives none.
///
/// # Errors
/// The kernel's own.
pub fn send_on(link: u32) -> io::Result<OwnedFd> {
    // Without a protocol the kernel gives it no frames.
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let index = i32::try_from(link).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    bind(&socket, &sys::LinkAddress { index })?;
    Ok(socket)
}

/// A tap's or macvtap's descriptor, for frames as they are.
#[derive(Debug)]
pub struct Frames {
    fd: OwnedFd,
    /// What has come so far.
    seen: Vec<Vec<u8>>,
}

impl Frames {
    /// Takes a descriptor that was opened with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR. No offloads.
    ///
    /// # Errors
    /// The ioctls' own.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        sys::set_up_tap(&fd, VNET_HEADER)?;
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self { fd, seen: Vec::new() })
    }

    /// Sends a frame.
    ///
    /// # Panics
    /// If it is not taken.
    pub fn send(&self, frame: &[u8]) {
        let sent = rustix::io::write(&self.fd, &[&[0; VNET_HEADER], frame].concat());
        assert_eq!(sent, Ok(VNET_HEADER + frame.len()));
    }

    /// Reads what has come, until `enough` or for that time; gives whether it was enough.
    pub fn read_until(&mut self, time: Duration, enough: impl Fn(&[Vec<u8>]) -> bool) -> bool {
        let end = Instant::now() + time;
        let mut buffer = vec![0; 16 << 10];
        loop {
            while let Ok(len) = rustix::io::read(&self.fd, &mut buffer) {
                self.seen.push(buffer[VNET_HEADER.min(len)..len].to_vec());
            }
            if enough(&self.seen) {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let left = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos().clamp(1, 10_000_000)) };
            // An interrupted wait is a short one.
            let _ = poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&left));
        }
    }

    /// The frames that have come since the last call, in order.
    pub fn take(&mut self) -> Vec<Vec<u8>> {
        self.read_until(Duration::ZERO, |_| true);
        std::mem::take(&mut self.seen)
    }
}

/// The descriptor itself, not blocking, where each frame has its header in front.
impl AsFd for Frames {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
