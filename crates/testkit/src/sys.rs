//! The system calls that have no safe wrapper. All unsafe code of this crate is here.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

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

/// A `struct sockaddr_ll` of `linux/if_packet.h` that names a link and no protocol.
pub(crate) struct LinkAddress {
    /// The link's index.
    pub(crate) index: c_int,
}

// SAFETY: with_sockaddr hands out a pointer to a whole sockaddr_ll, initialised, and its length; it lives until the
// closure returns.
unsafe impl rustix::net::addr::SocketAddrArg for LinkAddress {
    // SAFETY: nothing is asked of the caller; the trait says unsafe.
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const rustix::net::addr::SocketAddrOpaque, rustix::net::addr::SocketAddrLen) -> R,
    ) -> R {
        let address = libc::sockaddr_ll {
            sll_family: rustix::net::AddressFamily::PACKET.as_raw(),
            sll_protocol: 0,
            sll_ifindex: self.index,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        f((&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32)
    }
}

// linux/bpf.h; the structures are parts of `union bpf_attr`, of which the kernel takes the rest as 0.
const BPF_PROG_LOAD: c_int = 5;
const BPF_OBJ_PIN: c_int = 6;
const BPF_LINK_CREATE: c_int = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_INGRESS: u32 = 46;

/// Pointers are 64 bits wide whatever the machine's are.
#[repr(C)]
struct ProgLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    licence: u64,
}

#[repr(C)]
struct ObjPin {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// # Safety
/// `T` is what the command reads of `union bpf_attr`, without padding, and its pointers lead to what the command expects.
unsafe fn bpf<T>(command: c_int, attributes: &T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads so many bytes of the attributes; what they point to is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}

/// Loads a program for traffic control.
pub(crate) fn load_classifier(instructions: &[[u8; 8]]) -> io::Result<OwnedFd> {
    let load = ProgLoad {
        program_type: BPF_PROG_TYPE_SCHED_CLS,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        licence: c"Dual MIT/GPL".as_ptr() as u64,
    };
    // SAFETY: both pointers lead to what lives until the end, the first one to so many instructions, the second to text.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &load) }?;
    // SAFETY: it is a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives a program a name in a file system of type bpf.
pub(crate) fn pin(program: impl AsFd, path: &CStr) -> io::Result<()> {
    let fd = program.as_fd().as_raw_fd().cast_unsigned();
    let pin = ObjPin { path: path.as_ptr() as u64, fd, flags: 0 };
    // SAFETY: the pointer leads to text that lives until the end.
    unsafe { bpf(BPF_OBJ_PIN, &pin) }.map(drop)
}

/// Has a program see what comes in at a link, by tcx, as long as the descriptor lives.
pub(crate) fn attach_tcx(program: impl AsFd, link: u32) -> io::Result<OwnedFd> {
    let program = program.as_fd().as_raw_fd().cast_unsigned();
    let create = LinkCreate { program, target: link, attach_type: BPF_TCX_INGRESS, flags: 0 };
    // SAFETY: there are no pointers in it.
    let fd = unsafe { bpf(BPF_LINK_CREATE, &create) }?;
    // SAFETY: it is a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
