//! A program for the kernel that sends frames out of another link, as small as there is one.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::sys;

// linux/bpf.h, linux/bpf_common.h: 64-bit move of a constant, call of a helper, end.
const MOVE: u8 = 0xb7;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// The helper `bpf_redirect`: its arguments are a link and flags, its result is the verdict.
const BPF_REDIRECT: i32 = 23;

/// A loaded program, for traffic control.
#[derive(Debug)]
pub struct RedirectProgram {
    fd: OwnedFd,
}

impl RedirectProgram {
    /// Loads one that sends everything out of that link.
    ///
    /// # Errors
    /// The kernel's own: it has no eBPF, or does not let this process use it.
    pub fn load(to: u32) -> io::Result<Self> {
        let instructions = [
            instruction(MOVE, 1, to.cast_signed()),
            instruction(MOVE, 2, 0),
            instruction(CALL, 0, BPF_REDIRECT),
            instruction(EXIT, 0, 0),
        ];
        Ok(Self { fd: sys::load_classifier(&instructions)? })
    }

    /// Gives it a name in a file system of type bpf, by which `tc` finds it.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn pin(&self, path: &Path) -> io::Result<()> {
        sys::pin(&self.fd, &CString::new(path.as_os_str().as_bytes())?)
    }

    /// Has it see what comes in at a link, by tcx, as long as the result lives.
    ///
    /// # Errors
    /// The kernel's own: it has no tcx before Linux 6.6.
    pub fn attach_tcx(&self, link: u32) -> io::Result<OwnedFd> {
        sys::attach_tcx(&self.fd, link)
    }
}

/// `struct bpf_insn`: what to do, with which registers, an offset that is 0 here, and a constant.
fn instruction(code: u8, register: u8, constant: i32) -> [u8; 8] {
    // The destination is the first of two bit fields.
    let registers = if cfg!(target_endian = "little") { register } else { register << 4 };
    let [a, b, c, d] = constant.to_ne_bytes();
    [code, registers, 0, 0, a, b, c, d]
}
