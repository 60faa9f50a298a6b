//! The crate's only unsafe code: what no crate offers safely.
//!
//! The ioctls are those of `linux/if_tun.h`; `struct ifreq` is that of `linux/if.h`.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint};
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::{Errno, Result};
use rustix::ioctl::{Getter, IntegerSetter, Opcode, Setter, Updater, ioctl, opcode};

/// `IFF_TAP`: Ethernet frames.
pub(crate) const IFF_TAP: u16 = 0x0002;
/// `IFF_MULTI_QUEUE`: more than one queue may attach.
pub(crate) const IFF_MULTI_QUEUE: u16 = 0x0100;
/// `IFF_PERSIST`: reported by `TUNGETIFF` for a tap that outlives its descriptors.
pub(crate) const IFF_PERSIST: u16 = 0x0800;
/// `IFF_NO_PI`: no four bytes of packet information before each frame.
pub(crate) const IFF_NO_PI: u16 = 0x1000;
/// `IFF_VNET_HDR`: a `virtio_net_hdr` before each frame.
pub(crate) const IFF_VNET_HDR: u16 = 0x4000;
/// `IFF_TUN_EXCL`: the link must not exist yet.
pub(crate) const IFF_TUN_EXCL: u16 = 0x8000;

const TUNSETIFF: Opcode = opcode::write::<c_int>(b'T', 202);
const TUNSETPERSIST: Opcode = opcode::write::<c_int>(b'T', 203);
const TUNSETOWNER: Opcode = opcode::write::<c_int>(b'T', 204);
const TUNSETGROUP: Opcode = opcode::write::<c_int>(b'T', 206);
const TUNSETOFFLOAD: Opcode = opcode::write::<c_uint>(b'T', 208);
const TUNGETIFF: Opcode = opcode::read::<c_uint>(b'T', 210);
const TUNGETVNETHDRSZ: Opcode = opcode::read::<c_int>(b'T', 215);
const TUNSETVNETHDRSZ: Opcode = opcode::write::<c_int>(b'T', 216);
const TUNSETCARRIER: Opcode = opcode::write::<c_int>(b'T', 226);

/// Bytes of a link name, its NUL included (`IFNAMSIZ`).
const NAME_SIZE: usize = 16;

/// `struct ifreq` with `ifr_flags` as the union's member.
#[repr(C)]
struct IfReq {
    name: [u8; NAME_SIZE],
    flags: u16,
    rest: [u8; IfReq::REST],
}

impl IfReq {
    /// What is left of the union, whose longest member is `struct ifmap`: 24 bytes with 64-bit longs, else 16.
    const REST: usize = if cfg!(target_pointer_width = "64") { 22 } else { 14 };

    fn new(name: &str, flags: u16) -> Result<Self> {
        let bytes = name.as_bytes();
        if bytes.len() >= NAME_SIZE || bytes.contains(&0) {
            return Err(Errno::INVAL);
        }
        let mut request = Self { name: [0; NAME_SIZE], flags, rest: [0; Self::REST] };
        request.name[..bytes.len()].copy_from_slice(bytes);
        Ok(request)
    }

    fn name(&self) -> String {
        let length = self.name.iter().position(|byte| *byte == 0).unwrap_or(NAME_SIZE);
        String::from_utf8_lossy(&self.name[..length]).into_owned()
    }
}

/// Makes `fd`, an open /dev/net/tun, a queue of the tap `name`; the kernel's name for it comes back.
pub(crate) fn tun_set_iff(fd: BorrowedFd<'_>, name: &str, flags: u16) -> Result<String> {
    let mut request = IfReq::new(name, flags)?;
    // SAFETY: TUNSETIFF reads and writes one struct ifreq, which IfReq is, despite the size in its number.
    unsafe { ioctl(fd, Updater::<TUNSETIFF, IfReq>::new(&mut request))? };
    Ok(request.name())
}

/// Name and `IFF_` flags of the tap that `fd` is a queue of.
pub(crate) fn tun_get_iff(fd: BorrowedFd<'_>) -> Result<(String, u16)> {
    let mut request = IfReq::new("", 0)?;
    // SAFETY: TUNGETIFF writes one struct ifreq, which IfReq is.
    unsafe { ioctl(fd, Updater::<TUNGETIFF, IfReq>::new(&mut request))? };
    Ok((request.name(), request.flags))
}

/// Lets the tap outlive its descriptors, or not.
pub(crate) fn tun_set_persist(fd: BorrowedFd<'_>, persist: bool) -> Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument by value.
    unsafe { ioctl(fd, IntegerSetter::<TUNSETPERSIST>::new_usize(persist.into())) }
}

/// Lets a user without CAP_NET_ADMIN attach queues.
pub(crate) fn tun_set_owner(fd: BorrowedFd<'_>, uid: u32) -> Result<()> {
    // SAFETY: TUNSETOWNER takes its argument by value.
    unsafe { ioctl(fd, IntegerSetter::<TUNSETOWNER>::new_usize(uid as usize)) }
}

/// Lets a group without CAP_NET_ADMIN attach queues.
pub(crate) fn tun_set_group(fd: BorrowedFd<'_>, gid: u32) -> Result<()> {
    // SAFETY: TUNSETGROUP takes its argument by value.
    unsafe { ioctl(fd, IntegerSetter::<TUNSETGROUP>::new_usize(gid as usize)) }
}

/// Says which offloads (`TUN_F_` bits) the reader of the tap accepts.
pub(crate) fn tun_set_offload(fd: BorrowedFd<'_>, offloads: u32) -> Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    unsafe { ioctl(fd, IntegerSetter::<TUNSETOFFLOAD>::new_usize(offloads as usize)) }
}

/// Bytes of the virtio-net header before each frame.
pub(crate) fn tun_vnet_hdr_size(fd: BorrowedFd<'_>) -> Result<usize> {
    // SAFETY: TUNGETVNETHDRSZ writes one int.
    let size = unsafe { ioctl(fd, Getter::<TUNGETVNETHDRSZ, c_int>::new())? };
    usize::try_from(size).map_err(|_| Errno::RANGE)
}

/// Sets the size of the virtio-net header, in bytes; the kernel takes 10 or more.
pub(crate) fn tun_set_vnet_hdr_size(fd: BorrowedFd<'_>, size: usize) -> Result<()> {
    let size = c_int::try_from(size).map_err(|_| Errno::INVAL)?;
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    unsafe { ioctl(fd, Setter::<TUNSETVNETHDRSZ, c_int>::new(size)) }
}

/// Sets the carrier that the host sees on the tap.
pub(crate) fn tun_set_carrier(fd: BorrowedFd<'_>, carrier: bool) -> Result<()> {
    // SAFETY: TUNSETCARRIER reads one int.
    unsafe { ioctl(fd, Setter::<TUNSETCARRIER, c_int>::new(carrier.into())) }
}

/// Makes the command's process the leader of a session, and so of a process group, of its own.
pub(crate) fn start_in_own_session(command: &mut Command) {
    let lead = || {
        rustix::process::setsid()?;
        Ok(())
    };
    // SAFETY: between fork and exec only one system call is made; it takes no lock and allocates nothing.
    unsafe { command.pre_exec(lead) };
}

/// Sets close-on-exec on all open descriptors from `first` on: what systemd or a shell left open is for no child.
pub(crate) fn close_on_exec_from(first: RawFd) -> Result<()> {
    let list = std::fs::read_dir("/proc/self/fd").map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    for entry in list.flatten() {
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else { continue };
        if fd < first {
            continue;
        }
        // SAFETY: the borrow ends with this call. A descriptor that was closed since it was listed gives EBADF.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        match rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC) {
            Ok(()) | Err(Errno::BADF) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// A `struct sockaddr_ll` of `linux/if_packet.h` that names a link and nothing else.
pub(crate) struct LinkAddress {
    /// The link's index.
    pub(crate) index: c_int,
}

/// `struct sockaddr_ll`.
#[repr(C)]
struct SockaddrLl {
    family: u16,
    protocol: u16,
    index: c_int,
    hardware: u16,
    packet: u8,
    length: u8,
    address: [u8; 8],
}

// SAFETY: with_sockaddr hands out a pointer to a whole sockaddr_ll, initialised, and its length; it lives until the
// closure returns.
unsafe impl rustix::net::addr::SocketAddrArg for LinkAddress {
    // SAFETY: nothing is asked of the caller; the trait says unsafe.
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const rustix::net::addr::SocketAddrOpaque, rustix::net::addr::SocketAddrLen) -> R,
    ) -> R {
        let family = rustix::net::AddressFamily::PACKET.as_raw();
        let address =
            SockaddrLl { family, protocol: 0, index: self.index, hardware: 0, packet: 0, length: 0, address: [0; 8] };
        f((&raw const address).cast(), size_of::<SockaddrLl>() as u32)
    }
}
