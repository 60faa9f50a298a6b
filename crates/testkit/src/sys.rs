//! The system calls that have no safe wrapper. All unsafe code of this crate is here.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::ioctl::{Getter, Opcode, Setter, Updater, ioctl, opcode};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// `struct ifreq` of `linux/if.h` as TUNSETIFF uses it: name, flags, padding to 40 bytes.
#[repr(C)]
struct Ifreq {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

// linux/if_tun.h
const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
const TUNSETPERSIST: Opcode = opcode::write::<i32>(b'T', 203);
const TUNSETOWNER: Opcode = opcode::write::<i32>(b'T', 204);
const TUNSETOFFLOAD: Opcode = opcode::write::<u32>(b'T', 208);
const TUNGETVNETHDRSZ: Opcode = opcode::read::<i32>(b'T', 215);
const TUNSETVNETHDRSZ: Opcode = opcode::write::<i32>(b'T', 216);
const IFF_TAP: u16 = 0x0002;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

/// Moves the calling thread, and only it, into a new network namespace and, if asked, a new mount namespace.
pub(crate) fn unshare(mounts: bool) -> io::Result<()> {
    let mut flags = UnshareFlags::NEWNET;
    if mounts {
        flags |= UnshareFlags::NEWNS;
    }
    // SAFETY: the file descriptor table stays shared (no CLONE_FILES), which is what the function warns of.
    unsafe { unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Opens the tap `name` with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR; makes it if there is none.
///
/// The tap disappears with its last descriptor unless it is persistent.
pub(crate) fn open_tap(name: &str, multi_queue: bool) -> io::Result<OwnedFd> {
    let mut request = Ifreq { name: [0; 16], flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, rest: [0; 22] };
    if multi_queue {
        request.flags |= IFF_MULTI_QUEUE;
    }
    // The last byte stays 0: the kernel wants a terminated string.
    if name.is_empty() || name.len() >= request.name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    let fd = OwnedFd::from(File::options().read(true).write(true).open("/dev/net/tun")?);
    // SAFETY: TUNSETIFF reads and writes one struct ifreq, and Ifreq has its size and layout.
    unsafe { ioctl(&fd, Updater::<TUNSETIFF, Ifreq>::new(&mut request)) }?;
    Ok(fd)
}

/// Opens a queue of a macvtap by its device node, with the flags of [`open_tap`].
pub(crate) fn open_node(node: &std::path::Path) -> io::Result<OwnedFd> {
    let mut request = Ifreq { name: [0; 16], flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, rest: [0; 22] };
    let fd = OwnedFd::from(File::options().read(true).write(true).open(node)?);
    // SAFETY: TUNSETIFF reads and writes one struct ifreq, and Ifreq has its size and layout.
    unsafe { ioctl(&fd, Updater::<TUNSETIFF, Ifreq>::new(&mut request)) }?;
    Ok(fd)
}

/// Makes a tap outlive its descriptors and gives it to that user.
pub(crate) fn keep_tap(fd: impl AsFd, uid: u32) -> io::Result<()> {
    // SAFETY: TUNSETOWNER takes the uid as the argument itself.
    unsafe { ioctl(&fd, rustix::ioctl::IntegerSetter::<TUNSETOWNER>::new_usize(uid as usize)) }?;
    // SAFETY: TUNSETPERSIST takes its flag as the argument itself.
    unsafe { ioctl(&fd, rustix::ioctl::IntegerSetter::<TUNSETPERSIST>::new_usize(1)) }?;
    Ok(())
}

/// The size in bytes of the virtio-net header in front of each frame of this tap or macvtap.
pub(crate) fn vnet_header_len(fd: impl AsFd) -> io::Result<usize> {
    // SAFETY: TUNGETVNETHDRSZ writes one int.
    let len = unsafe { ioctl(fd, Getter::<TUNGETVNETHDRSZ, i32>::new()) }?;
    usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Sets the header size and switches all offloads off, as a VMM does when its guest's driver has none.
pub(crate) fn set_up_tap(fd: impl AsFd, vnet_header_len: usize) -> io::Result<()> {
    let len = i32::try_from(vnet_header_len).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: TUNSETVNETHDRSZ reads one int through its argument.
    unsafe { ioctl(&fd, Setter::<TUNSETVNETHDRSZ, i32>::new(len)) }?;
    // SAFETY: TUNSETOFFLOAD takes its flags as the argument itself; 0 is valid and means none.
    unsafe { ioctl(&fd, rustix::ioctl::IntegerSetter::<TUNSETOFFLOAD>::new_usize(0)) }?;
    Ok(())
}
