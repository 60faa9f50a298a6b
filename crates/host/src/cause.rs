//! Why the kernel refused something, as one phrase: the error's name, its meaning, and the kernel's own words.

use std::error::Error as _;
use std::io;

use patchcord_netlink::Error as NetlinkError;
use rustix::io::Errno;

use crate::Error;

/// Why a step could not be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    /// `EBUSY (Device or resource busy): what else is known`.
    pub(crate) text: String,
    /// `errno`, where there was one.
    pub(crate) errno: Option<i32>,
}

impl Cause {
    /// A cause that is not the kernel's.
    pub(crate) fn ours(text: impl Into<String>) -> Self {
        Self { text: text.into(), errno: None }
    }

    fn new(errno: Option<i32>, words: Option<String>) -> Self {
        let text = match (errno.map(describe), words) {
            (Some(name), Some(words)) => format!("{name}: {words}"),
            (Some(name), None) => name,
            (None, words) => words.unwrap_or_else(|| "unknown".to_owned()),
        };
        Self { text, errno }
    }
}

impl From<NetlinkError> for Cause {
    fn from(error: NetlinkError) -> Self {
        let errno = error.errno();
        let words = match &error {
            NetlinkError::Kernel { source, .. } => source.ext_ack.clone(),
            NetlinkError::Transaction { object, source, .. } => Some(match &source.ext_ack {
                Some(words) => format!("{words}, for {object}"),
                None => object.clone(),
            }),
            other => Some(other.to_string()),
        };
        Self::new(errno, words)
    }
}

impl From<Error> for Cause {
    fn from(error: Error) -> Self {
        let errno = match &error {
            // What stands for an error number is the error's kind.
            Error::TapExists { .. } | Error::OvsForeign { .. } => Some(Errno::EXIST.raw_os_error()),
            Error::TapBusy { .. } => Some(Errno::BUSY.raw_os_error()),
            other => other.errno().map(Errno::raw_os_error),
        };
        let mut words = error.to_string();
        if errno.is_none() {
            let mut source = error.source();
            while let Some(error) = source {
                words = format!("{words}: {error}");
                source = error.source();
            }
        }
        Self::new(errno, Some(words))
    }
}

impl From<Errno> for Cause {
    fn from(errno: Errno) -> Self {
        Self::new(Some(errno.raw_os_error()), None)
    }
}

/// `EBUSY (Device or resource busy)`.
fn describe(errno: i32) -> String {
    let meaning = io::Error::from_raw_os_error(errno).to_string();
    let meaning = meaning.split(" (os error").next().unwrap_or_default();
    match NAMES.iter().find(|(known, _)| known.raw_os_error() == errno) {
        Some((_, name)) => format!("{name} ({meaning})"),
        None => format!("error {errno} ({meaning})"),
    }
}

/// The names of error numbers that rtnetlink, nftables, /dev/net/tun and /proc/sys give.
const NAMES: [(Errno, &str); 39] = [
    (Errno::PERM, "EPERM"),
    (Errno::NOENT, "ENOENT"),
    (Errno::SRCH, "ESRCH"),
    (Errno::INTR, "EINTR"),
    (Errno::IO, "EIO"),
    (Errno::NXIO, "ENXIO"),
    (Errno::TOOBIG, "E2BIG"),
    (Errno::BADF, "EBADF"),
    (Errno::AGAIN, "EAGAIN"),
    (Errno::NOMEM, "ENOMEM"),
    (Errno::ACCESS, "EACCES"),
    (Errno::FAULT, "EFAULT"),
    (Errno::BUSY, "EBUSY"),
    (Errno::EXIST, "EEXIST"),
    (Errno::XDEV, "EXDEV"),
    (Errno::NODEV, "ENODEV"),
    (Errno::NOTDIR, "ENOTDIR"),
    (Errno::INVAL, "EINVAL"),
    (Errno::NFILE, "ENFILE"),
    (Errno::MFILE, "EMFILE"),
    (Errno::NOSPC, "ENOSPC"),
    (Errno::ROFS, "EROFS"),
    (Errno::MLINK, "EMLINK"),
    (Errno::RANGE, "ERANGE"),
    (Errno::LOOP, "ELOOP"),
    (Errno::OVERFLOW, "EOVERFLOW"),
    (Errno::MSGSIZE, "EMSGSIZE"),
    (Errno::PROTONOSUPPORT, "EPROTONOSUPPORT"),
    (Errno::OPNOTSUPP, "EOPNOTSUPP"),
    (Errno::AFNOSUPPORT, "EAFNOSUPPORT"),
    (Errno::ADDRINUSE, "EADDRINUSE"),
    (Errno::ADDRNOTAVAIL, "EADDRNOTAVAIL"),
    (Errno::NETDOWN, "ENETDOWN"),
    (Errno::NETUNREACH, "ENETUNREACH"),
    (Errno::NOBUFS, "ENOBUFS"),
    (Errno::TIMEDOUT, "ETIMEDOUT"),
    (Errno::HOSTUNREACH, "EHOSTUNREACH"),
    (Errno::STALE, "ESTALE"),
    (Errno::XFULL, "EXFULL"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_names_the_error_and_says_what_it_means() {
        let busy = Cause::from(Errno::BUSY);
        assert_eq!((busy.text.as_str(), busy.errno), ("EBUSY (Device or resource busy)", Some(16)));
        let taken = Cause::from(Error::TapExists { name: "pct0".into() });
        assert_eq!(taken.text, "EEXIST (File exists): tap pct0: a link of that name exists");
        assert_eq!(describe(54), "EXFULL (Exchange full)");
        assert_eq!(describe(9999), "error 9999 (Unknown error 9999)");
    }
}
