//! Taps: made, handed over by descriptor or by name, attached to again, and announced for.
//!
//! *By descriptor*: the tap lives as long as someone holds one of its queues. *By name*: the tap is persistent,
//! its owner may attach to it, and we keep no descriptor, since a held queue makes the tap busy for others.
//! What a holder of a descriptor can change, it may have changed: owner, persistence, header size and carrier are
//! never trusted after the hand-over (`Documentation/networking/tuntap.rst`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::{Error, Result, sys};

/// Most queues that a tap can have (`MAX_TAP_QUEUES` of drivers/net/tun.c).
pub const MAX_QUEUES: u16 = 256;

/// What a new tap is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapSpec {
    /// The link's name, 1 to 15 bytes.
    pub name: String,
    /// Queues, at least 1. With more than one the tap is multi_queue, and by descriptor each has its own.
    pub queues: u16,
    /// Given: the tap belongs to this user, who opens it by its name once it was made persistent.
    pub owner: Option<TapOwner>,
    /// A virtio-net header before each frame, as every VMM wants it.
    pub vnet_hdr: bool,
}

/// Who may attach to a persistent tap without CAP_NET_ADMIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TapOwner {
    /// The user.
    pub uid: u32,
    /// With a group, a process needs both: the uid and membership of the group.
    pub gid: Option<u32>,
}

/// A tap and its queues.
#[derive(Debug)]
pub struct Tap {
    /// The link's name.
    pub name: String,
    /// One descriptor per queue, blocking and close-on-exec; the first one only of a tap that is handed over by name.
    pub fds: Vec<OwnedFd>,
}

impl Tap {
    /// Makes a tap in the caller's network namespace.
    ///
    /// # Errors
    /// [`Error::TapExists`] when a link has the name, [`Error::TunDevice`] without /dev/net/tun, [`Error::Tap`]
    /// otherwise; nothing stays behind then.
    pub fn create(spec: &TapSpec) -> Result<Self> {
        check_link_name(&spec.name)?;
        let flags = flags(spec.vnet_hdr, spec.queues > 1);
        let first = open_tun()?;
        sys::tun_set_iff(first.as_fd(), &spec.name, flags | sys::IFF_TUN_EXCL).map_err(|errno| match errno {
            Errno::BUSY => Error::TapExists { name: spec.name.clone() },
            _ => tap_error(&spec.name, "make it", errno),
        })?;
        if let Some(owner) = spec.owner {
            sys::tun_set_owner(first.as_fd(), owner.uid).map_err(|e| tap_error(&spec.name, "set its owner", e))?;
            if let Some(gid) = owner.gid {
                sys::tun_set_group(first.as_fd(), gid).map_err(|e| tap_error(&spec.name, "set its group", e))?;
            }
            return Ok(Self { name: spec.name.clone(), fds: vec![first] });
        }
        let mut fds = vec![first];
        for _ in 1..spec.queues {
            fds.push(attach_queue(&spec.name, flags)?);
        }
        Ok(Self { name: spec.name.clone(), fds })
    }

    /// Makes the tap outlive its descriptors, and lets go of them. It comes last: whatever goes wrong before it, a crash
    /// included, takes the tap along.
    ///
    /// # Errors
    /// [`Error::Tap`] with the kernel's answer; then the tap is gone.
    pub fn persist(self) -> Result<()> {
        let queues = self.fds.first().into_iter();
        queues.map(AsFd::as_fd).try_for_each(|queue| {
            sys::tun_set_persist(queue, true).map_err(|e| tap_error(&self.name, "make it persistent", e))
        })
    }

    /// Attaches to a persistent tap, with the flags it was made with; `queues` descriptors come back.
    ///
    /// # Errors
    /// [`Error::TapAbsent`] when there is no persistent tap of the name (none is made), [`Error::TapBusy`] when
    /// its queues are taken, [`Error::Tap`] when it was made with other flags or belongs to another user.
    pub fn attach(name: &str, queues: u16, vnet_hdr: bool) -> Result<Self> {
        check_link_name(name)?;
        let flags = flags(vnet_hdr, queues > 1);
        let mut fds = Vec::with_capacity(queues.into());
        for _ in 0..queues.max(1) {
            let queue = attach_queue(name, flags)?;
            // Without such a tap the kernel makes one; it goes again with this descriptor.
            let (_, found) = sys::tun_get_iff(queue.as_fd()).map_err(|e| tap_error(name, "read its flags", e))?;
            if found & sys::IFF_PERSIST == 0 {
                return Err(Error::TapAbsent { name: name.to_owned() });
            }
            fds.push(queue);
        }
        Ok(Self { name: name.to_owned(), fds })
    }
}

/// Opens one queue of the tap `name`.
fn attach_queue(name: &str, flags: u16) -> Result<OwnedFd> {
    let queue = open_tun()?;
    sys::tun_set_iff(queue.as_fd(), name, flags).map_err(|errno| match errno {
        Errno::BUSY => Error::TapBusy { name: name.to_owned() },
        _ => tap_error(name, "attach a queue", errno),
    })?;
    Ok(queue)
}

/// Opens /dev/net/tun. Blocking, as QEMU's own helpers do it: some VMMs rely on it, the others change it.
fn open_tun() -> Result<OwnedFd> {
    rustix::fs::open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::TunDevice { source: errno.into() })
}

fn flags(vnet_hdr: bool, multi_queue: bool) -> u16 {
    let mut flags = sys::IFF_TAP | sys::IFF_NO_PI;
    if vnet_hdr {
        flags |= sys::IFF_VNET_HDR;
    }
    if multi_queue {
        flags |= sys::IFF_MULTI_QUEUE;
    }
    flags
}

/// The kernel's rules for link names, and no `%`, in which the kernel would fill in a number.
fn check_link_name(name: &str) -> Result<()> {
    let problem = if name.is_empty() || name.len() > 15 {
        "must have 1 to 15 bytes"
    } else if name == "." || name == ".." {
        "is not allowed"
    } else if name.bytes().any(|b| matches!(b, b'/' | b':' | b'%' | 0 | 0x7f) || b <= b' ') {
        "must not contain '/', ':', '%', white space or control characters"
    } else {
        return Ok(());
    };
    Err(Error::Name { what: "link", name: name.to_owned(), problem })
}

fn tap_error(name: &str, op: &'static str, errno: Errno) -> Error {
    Error::Tap { name: name.to_owned(), op, source: errno.into() }
}

/// What an error says for a tap that is known by its descriptor only.
const BY_DESCRIPTOR: &str = "(given by descriptor)";

/// Name of the tap that `fd` is a queue of, in the tap's own network namespace.
///
/// # Errors
/// [`Error::Tap`] when it is no tap, or its link is gone.
pub fn name_of(fd: BorrowedFd<'_>) -> Result<String> {
    Ok(sys::tun_get_iff(fd).map_err(|e| tap_error(BY_DESCRIPTOR, "read its name", e))?.0)
}

/// Whether the tap that `fd` is a queue of is persistent now; its holder may have changed that.
///
/// # Errors
/// [`Error::Tap`] when it is no tap, or its link is gone.
pub fn is_persistent(fd: BorrowedFd<'_>) -> Result<bool> {
    let (_, flags) = sys::tun_get_iff(fd).map_err(|e| tap_error(BY_DESCRIPTOR, "read its flags", e))?;
    Ok(flags & sys::IFF_PERSIST != 0)
}

/// Makes the tap persistent, or lets it go with its last descriptor.
///
/// # Errors
/// [`Error::Tap`] with the kernel's answer.
pub fn set_persistent(fd: BorrowedFd<'_>, persistent: bool) -> Result<()> {
    sys::tun_set_persist(fd, persistent).map_err(|e| tap_error(BY_DESCRIPTOR, "change its persistence", e))
}

/// Sets the carrier that the host sees. The guest does not see it, and its frames still pass.
///
/// # Errors
/// [`Error::Tap`] with the kernel's answer; the link must be up.
pub fn set_carrier(fd: BorrowedFd<'_>, carrier: bool) -> Result<()> {
    sys::tun_set_carrier(fd, carrier).map_err(|e| tap_error(BY_DESCRIPTOR, "set its carrier", e))
}

/// Sets the size in bytes of the virtio-net header (10, or 12 with mergeable buffers).
///
/// # Errors
/// [`Error::Tap`] with the kernel's answer.
pub fn set_vnet_hdr_size(fd: BorrowedFd<'_>, size: usize) -> Result<()> {
    sys::tun_set_vnet_hdr_size(fd, size).map_err(|e| tap_error(BY_DESCRIPTOR, "set its header size", e))
}

/// Says which offloads the reader accepts, as `TUN_F_` bits of `linux/if_tun.h`.
///
/// # Errors
/// [`Error::Tap`] with the kernel's answer.
pub fn set_offloads(fd: BorrowedFd<'_>, offloads: u32) -> Result<()> {
    sys::tun_set_offload(fd, offloads).map_err(|e| tap_error(BY_DESCRIPTOR, "set its offloads", e))
}

/// Ethernet's shortest frame without its checksum, in bytes.
const FRAME: usize = 60;

/// Announces `mac` for the guest behind the tap: a RARP request (RFC 903) as if the guest had sent it, so that
/// switches learn the way there. The header size is asked for each time, because the VMM changes it.
///
/// # Errors
/// [`Error::Tap`]: EAGAIN while the tap takes no frame, because its link is down or its send buffer full.
pub fn announce(fd: BorrowedFd<'_>, mac: [u8; 6]) -> Result<()> {
    let failed = |errno| tap_error(BY_DESCRIPTOR, "announce its guest", errno);
    let (_, flags) = sys::tun_get_iff(fd).map_err(failed)?;
    let header = if flags & sys::IFF_VNET_HDR == 0 { 0 } else { sys::tun_vnet_hdr_size(fd).map_err(failed)? };
    let mut buffer = vec![0; header];
    buffer.extend_from_slice(&rarp_request(mac));
    // The descriptor is shared with the VMM, which decides whether it blocks: so ask first.
    let mut ready = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    rustix::event::poll(&mut ready, Some(&Timespec::default())).map_err(failed)?;
    if ready[0].revents().intersects(PollFlags::ERR) {
        return Err(failed(Errno::IO));
    }
    if !ready[0].revents().contains(PollFlags::OUT) {
        return Err(failed(Errno::AGAIN));
    }
    let written = rustix::io::write(fd, &buffer).map_err(failed)?;
    if written == buffer.len() {
        Ok(())
    } else {
        let source = io::Error::new(io::ErrorKind::WriteZero, format!("{written} of {} bytes taken", buffer.len()));
        Err(Error::Tap { name: BY_DESCRIPTOR.to_owned(), op: "announce its guest", source })
    }
}

/// A broadcast RARP request with `mac` as sender and target.
pub(crate) fn rarp_request(mac: [u8; 6]) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[0..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&[0x80, 0x35]);
    // Hardware Ethernet (1), protocol IPv4 (0x0800), their address lengths, operation 3: reverse request.
    frame[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 3]);
    frame[22..28].copy_from_slice(&mac);
    frame[32..38].copy_from_slice(&mac);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_follow_the_kernels_rules() {
        for good in ["tap0", "a", "br.1", "123456789012345"] {
            assert!(check_link_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "1234567890123456", "a/b", "a b", "tap%d", "a:1", "a\nb"] {
            assert!(check_link_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn announcement_is_a_reverse_request_of_sixty_bytes() {
        let frame = rarp_request([0x52, 0x54, 0, 1, 2, 3]);
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = "ffffffffffff525400010203803500010800060400035254000102030000000052540001020300000000";
        assert_eq!(hex, format!("{expected:0<120}"));
    }
}
