//! A tap's file descriptor as a smoltcp device.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

/// The largest frame: 1500 bytes of payload behind an Ethernet header.
const FRAME_LEN: usize = 1514;

/// Reads frames without, and writes them with, a virtio-net header. No offloads.
pub(super) struct TapDevice {
    fd: OwnedFd,
    header_len: usize,
    /// ICMPv6 frames as received, for what the IP stack keeps to itself; the newest 16.
    pub(super) icmpv6: VecDeque<Vec<u8>>,
}

impl TapDevice {
    /// Takes a tap's descriptor; sets its header size, and switches it to non-blocking.
    pub(super) fn new(fd: OwnedFd, header_len: usize) -> io::Result<TapDevice> {
        crate::sys::set_up_tap(&fd, header_len)?;
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(TapDevice { fd, header_len, icmpv6: VecDeque::new() })
    }

    /// Waits until a frame can be read, or for the given time.
    pub(super) fn wait(&self, time: Duration) {
        let time = Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        // An interrupted wait is a short one; a tap whose device is gone reads as an error at once.
        let ready = poll(&mut fds, Some(&time));
        if ready.is_ok() && fds[0].revents().contains(PollFlags::ERR) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends one frame, an Ethernet header first. A frame that the tap refuses (it is down, or gone) is lost.
    pub(super) fn send(&self, frame: &[u8]) {
        let mut buffer = vec![0; self.header_len];
        buffer.extend_from_slice(frame);
        let _ = rustix::io::write(&self.fd, &buffer);
    }

    fn receive_frame(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; self.header_len + FRAME_LEN + 4];
        let len = rustix::io::read(&self.fd, &mut buffer).ok()?;
        buffer.truncate(len);
        let frame = buffer.split_off(self.header_len.min(len));
        // EtherType IPv6, next header ICMPv6
        if frame.get(12..14) == Some(&[0x86, 0xdd]) && frame.get(20) == Some(&58) {
            self.icmpv6.truncate(15);
            self.icmpv6.push_front(frame.clone());
        }
        Some(frame)
    }
}

impl AsFd for TapDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl phy::Device for TapDevice {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(RxToken, TxToken<'_>)> {
        let frame = self.receive_frame()?;
        Some((RxToken(frame), TxToken(self)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<TxToken<'_>> {
        Some(TxToken(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_LEN;
        capabilities
    }
}

/// One received frame.
pub(super) struct RxToken(Vec<u8>);

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

/// The right to send one frame.
pub(super) struct TxToken<'a>(&'a TapDevice);

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut frame = vec![0; len];
        let result = fill(&mut frame);
        self.0.send(&frame);
        result
    }
}
