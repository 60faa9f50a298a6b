//! Queueing disciplines: listing them, deleting a root, and clsact, which is the place for filters on what comes in at a link.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcMessage};

use super::{HEADER, Handle, Header, RTM_NEWQDISC, TCA_KIND};
use crate::attr::Attrs;
use crate::channel::{NLM_F_CREATE, NLM_F_EXCL};
use crate::error::Error;
use crate::socket::{Dump, Request, Socket};

/// The handle of the one clsact that a link can have.
const CLSACT: u32 = 0xffff_0000;

/// A queueing discipline of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qdisc {
    /// Index of the link.
    pub link: u32,
    /// What it is called; `0:` for those that the kernel made by itself.
    pub handle: Handle,
    /// Where it is: [`Handle::ROOT`], [`Handle::CLSACT`], or a class.
    pub parent: Handle,
    /// Such as `noqueue`, `fq_codel`, `htb`, `clsact`; empty if the kernel did not tell.
    pub kind: String,
}

/// Reads the payload of an `RTM_NEWQDISC`; `None` only when it is shorter than its fixed header.
pub(super) fn read(payload: &[u8]) -> Option<Qdisc> {
    let (header, attributes) = Header::read(payload)?;
    let kind = Attrs::find(attributes, TCA_KIND);
    Some(Qdisc {
        link: header.link,
        handle: Handle::read(header.handle),
        parent: header.parent,
        kind: kind.map(|kind| kind.text()).unwrap_or_default(),
    })
}

fn message(link: u32, handle: u32, parent: Handle, kind: &str) -> TcMessage {
    Header { link, handle, parent, info: 0 }.message(vec![TcAttribute::Kind(kind.to_owned())])
}

fn clsact(link: u32) -> TcMessage {
    message(link, CLSACT, Handle::CLSACT, "clsact")
}

impl Request {
    /// Gives a link the qdisc that holds filters on what comes in and goes out; the kernel refuses it (EEXIST) when the
    /// link has it or its predecessor `ingress`.
    pub fn add_clsact(link: u32) -> Self {
        let message = RouteNetlinkMessage::NewQueueDiscipline(clsact(link));
        Request::new("add the clsact qdisc", NLM_F_CREATE | NLM_F_EXCL, HEADER, &message)
    }

    /// Gives a link the qdisc that holds filters on what comes in, and none on what goes out: clsact's predecessor, in the
    /// same place.
    pub fn add_ingress(link: u32) -> Self {
        let message = RouteNetlinkMessage::NewQueueDiscipline(message(link, CLSACT, Handle::CLSACT, "ingress"));
        Request::new("add the ingress qdisc", NLM_F_CREATE | NLM_F_EXCL, HEADER, &message)
    }

    /// Has frames that leave by a link go to its driver at once, in place of the root qdisc that the kernel chose.
    pub fn no_queue(link: u32) -> Self {
        let message = RouteNetlinkMessage::NewQueueDiscipline(message(link, 0, Handle::ROOT, "noqueue"));
        Request::new("let frames leave at once", NLM_F_CREATE | NLM_F_EXCL, HEADER, &message)
    }

    /// Takes a link's clsact away, **with all its filters**, whoever put them there.
    pub fn delete_clsact(link: u32) -> Self {
        let message = RouteNetlinkMessage::DelQueueDiscipline(clsact(link));
        Request::new("delete the clsact qdisc", 0, HEADER, &message)
    }

    /// Deletes the root qdisc of this major number, with its classes and filters; the kernel refuses it when the root is
    /// another one. Its own choice comes back.
    pub fn delete_root(link: u32, major: u16) -> Self {
        let handle = Handle { major, minor: 0 }.number();
        let message = Header { link, handle, parent: Handle::ROOT, info: 0 }.message(Vec::new());
        Request::new("delete the root qdisc", 0, HEADER, &RouteNetlinkMessage::DelQueueDiscipline(message))
    }
}

impl Socket {
    /// Lists the qdiscs of one link or of all; none for a link that is not there.
    ///
    /// The kernel goes through all links for either, and the request for a single qdisc it answers by an announcement to
    /// everybody. What hangs on the qdiscs of one link is told by [`Socket::ingress_filters`] and [`Socket::htb_classes`].
    ///
    /// # Errors
    /// [`Error::Kernel`] and the socket's own errors.
    pub fn qdiscs(&mut self, link: Option<u32>) -> Result<Dump<Qdisc>, Error> {
        let header = Header { link: 0, handle: 0, parent: Handle::default(), info: 0 };
        let message = RouteNetlinkMessage::GetQueueDiscipline(header.message(Vec::new()));
        let request = Request::new("list qdiscs", 0, HEADER, &message);
        let wanted = |qdisc: &Qdisc| link.is_none_or(|link| qdisc.link == link);
        self.dump(&request, RTM_NEWQDISC, |payload| read(payload).filter(wanted))
    }

    /// Gives a link the clsact qdisc.
    ///
    /// # Errors
    /// [`Error::Kernel`], with EEXIST when it has it, and the socket's own errors.
    pub fn add_clsact(&mut self, link: u32) -> Result<(), Error> {
        self.execute(&Request::add_clsact(link))
    }

    /// Takes a link's clsact away, **with all its filters**.
    ///
    /// # Errors
    /// [`Error::Kernel`], with ENOENT when it has none, and the socket's own errors.
    pub fn delete_clsact(&mut self, link: u32) -> Result<(), Error> {
        self.execute(&Request::delete_clsact(link))
    }

    /// Deletes the root qdisc of this major number, with its classes and filters.
    ///
    /// # Errors
    /// [`Error::Kernel`], with EINVAL when the root is another one or the kernel's own choice, and the socket's own errors.
    pub fn delete_root(&mut self, link: u32, major: u16) -> Result<(), Error> {
        self.execute(&Request::delete_root(link, major))
    }
}
