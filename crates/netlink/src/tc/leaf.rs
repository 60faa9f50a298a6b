//! The qdiscs that hold a class's frames until they may leave.

use netlink_packet_core::DefaultNla;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::TcAttribute;

use super::{HEADER, Handle, Header, TCA_OPTIONS};
use crate::channel::{NLM_F_CREATE, NLM_F_REPLACE};
use crate::error::Error;
use crate::socket::{Request, Socket};

/// How a class's frames wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaf {
    /// Flows in turn, and none waits for long (RFC 8290), with the kernel's settings.
    FqCodel,
    /// Flows in turn, with the kernel's settings.
    Sfq,
    /// First in, first out.
    Pfifo {
        /// Frames that may wait; what comes then is dropped.
        limit: u32,
    },
}

impl Leaf {
    /// The kernel's name for it, as in [`Qdisc::kind`](super::Qdisc::kind).
    pub fn kind(self) -> &'static str {
        match self {
            Leaf::FqCodel => "fq_codel",
            Leaf::Sfq => "sfq",
            Leaf::Pfifo { .. } => "pfifo",
        }
    }

    fn options(self) -> Option<TcAttribute> {
        match self {
            // With options the kernel would refuse an sfq where one is already: it can't change them.
            Leaf::FqCodel | Leaf::Sfq => None,
            // struct tc_fifo_qopt
            Leaf::Pfifo { limit } => {
                Some(TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, limit.to_ne_bytes().to_vec())))
            }
        }
    }
}

impl Request {
    /// Puts a qdisc below a class. One of the kind that is there already is changed; in place of another kind it comes
    /// under a handle of the kernel's choice, and what waited is dropped.
    pub fn set_leaf(link: u32, class: Handle, leaf: Leaf) -> Self {
        let mut attributes = vec![TcAttribute::Kind(leaf.kind().to_owned())];
        attributes.extend(leaf.options());
        let message = Header { link, handle: 0, parent: class, info: 0 }.message(attributes);
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        Request::new("set the class's qdisc", flags, HEADER, &RouteNetlinkMessage::NewQueueDiscipline(message))
    }
}

impl Socket {
    /// Puts a qdisc below a class; see [`Request::set_leaf`].
    ///
    /// # Errors
    /// [`Error::Kernel`], with ENOENT when there is no such class or the kernel lacks the kind, and the socket's own errors.
    pub fn set_leaf(&mut self, link: u32, class: Handle, leaf: Leaf) -> Result<(), Error> {
        self.execute(&Request::set_leaf(link, class, leaf))
    }
}
