//! What can go wrong between us and the kernel.

use std::{fmt, io};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The socket could not be opened or set up; usually for want of CAP_NET_ADMIN or a kernel option.
    #[error("can't open a netlink socket")]
    Open(#[source] io::Error),
    /// A request could not be handed to the kernel.
    #[error("can't {request}: sending failed")]
    Send {
        /// What was asked for, as a verb phrase.
        request: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// An answer could not be read from the socket.
    #[error("can't {request}: receiving failed")]
    Receive {
        /// What was asked for.
        request: &'static str,
        /// The system's error; ENOBUFS means that answers were lost.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the request.
    #[error("can't {request}")]
    Kernel {
        /// What was asked for.
        request: &'static str,
        /// The kernel's reasons.
        #[source]
        source: KernelError,
    },
    /// An answer was longer than the receive buffer or could not be framed.
    #[error("can't {request}: the answer is {what}")]
    Answer {
        /// What was asked for.
        request: &'static str,
        /// What is wrong with the answer.
        what: &'static str,
    },
    /// One message of an nftables transaction was refused; nothing of the transaction took effect.
    #[error("nftables refused {object}")]
    Transaction {
        /// The object that the refused message was about.
        object: String,
        /// The position of the refused message in the batch, from 0; `None` for the batch as a whole.
        message: Option<usize>,
        /// The kernel's reasons.
        #[source]
        source: KernelError,
    },
}

impl Error {
    /// The kernel's errno, where the kernel or the system gave one; positive, such as 19 for ENODEV.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Kernel { source, .. } | Error::Transaction { source, .. } => Some(source.errno),
            Error::Open(source) | Error::Send { source, .. } | Error::Receive { source, .. } => source.raw_os_error(),
            Error::Answer { .. } => None,
        }
    }

    /// Whether the object of the request does not exist: ENODEV, ENOENT, ESRCH or EADDRNOTAVAIL.
    pub fn is_not_found(&self) -> bool {
        use rustix::io::Errno;
        let absent = [Errno::NODEV, Errno::NOENT, Errno::SRCH, Errno::ADDRNOTAVAIL, Errno::NXIO];
        self.errno().is_some_and(|e| absent.iter().any(|a| a.raw_os_error() == e))
    }

    /// Whether the object of the request exists already: EEXIST.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(rustix::io::Errno::EXIST.raw_os_error())
    }

    /// Whether the kernel lacks what was asked for: EOPNOTSUPP.
    pub fn is_unsupported(&self) -> bool {
        self.errno() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error())
    }

    /// Whether the request makes no sense for its object: EINVAL.
    pub fn is_invalid(&self) -> bool {
        self.errno() == Some(rustix::io::Errno::INVAL.raw_os_error())
    }

    /// Whether the object of the request is in use: EBUSY.
    pub fn is_busy(&self) -> bool {
        self.errno() == Some(rustix::io::Errno::BUSY.raw_os_error())
    }
}

/// Why the kernel refused a request: its errno and what its extended acknowledgement adds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct KernelError {
    /// The errno, positive.
    pub errno: i32,
    /// The extended acknowledgement's sentence, which says more than the errno.
    pub ext_ack: Option<String>,
    /// Where in our request the offending attribute starts, in bytes from the start of its netlink header.
    pub offset: Option<u32>,
    /// The types of the attributes that enclose that place, outermost first; empty when there is none.
    pub attribute: Vec<u16>,
    /// The type of an attribute that the kernel missed in our request.
    pub missing: Option<u32>,
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ext_ack {
            Some(text) => write!(f, "{text} ({})", io::Error::from_raw_os_error(self.errno))?,
            None => write!(f, "{}", io::Error::from_raw_os_error(self.errno))?,
        }
        if !self.attribute.is_empty() {
            let path: Vec<String> = self.attribute.iter().map(u16::to_string).collect();
            write!(f, " at attribute {}", path.join("."))?;
        }
        if let Some(missing) = self.missing {
            write!(f, ", attribute {missing} is missing")?;
        }
        Ok(())
    }
}
