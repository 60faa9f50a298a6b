//! Filters: reading them, and how those of kind u32 are written.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcFilterU32Option, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags};

use super::{Action, HEADER, Handle, Header, RTM_NEWTFILTER, TCA_KIND, TCA_OPTIONS, action, classify};
use crate::attr::Attrs;
use crate::error::Error;
use crate::socket::{Dump, Request, Socket};

const U32: &str = "u32";
const TCA_U32_CLASSID: u16 = 1;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;

/// The handle of the hash table that the kernel makes for the first u32 filters of a qdisc, `800:` as `tc` writes it.
const TABLE: u32 = 0x8000_0000;
/// The part of a handle that numbers a filter in its table; where it is 0, the handle is the table's own.
const NODE: u32 = 0xfff;

const ETH_P_ALL: u16 = 3;

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Index of the link.
    pub link: u32,
    /// The qdisc or class it is at, or [`Handle::INGRESS`].
    pub parent: Handle,
    /// Lower ones see a frame first.
    pub priority: u16,
    /// What it is called; each kind has its own notation.
    pub handle: u32,
    /// Such as `u32`, `flower`, `bpf`; empty if the kernel did not tell.
    pub kind: String,
    /// The class it leads to; read of kind `u32` only, as what follows.
    pub class: Option<Handle>,
    /// The Ethernet destination that it matches, as a [`ClassFilter`](super::ClassFilter) does.
    pub destination: Option<[u8; 6]>,
    /// What it does, in order.
    pub actions: Vec<Action>,
}

/// Reads the payload of an `RTM_NEWTFILTER`; `None` for what the kernel lists beside filters: priorities and u32's hash
/// tables.
pub(super) fn read(payload: &[u8]) -> Option<Filter> {
    let (header, attributes) = Header::read(payload)?;
    let kind = Attrs::find(attributes, TCA_KIND).map(|kind| kind.text()).unwrap_or_default();
    let is_u32 = kind == U32;
    if header.handle == 0 || is_u32 && header.handle & NODE == 0 {
        return None;
    }
    let options =
        Attrs::find(attributes, TCA_OPTIONS).filter(|_| is_u32).map(|options| options.value).unwrap_or_default();
    let class = Attrs::find(options, TCA_U32_CLASSID).and_then(|class| class.u32());
    let selector = Attrs::find(options, TCA_U32_SEL);
    let actions = Attrs::find(options, TCA_U32_ACT);
    Some(Filter {
        link: header.link,
        parent: header.parent,
        priority: (header.info >> 16) as u16,
        handle: header.handle,
        kind,
        class: class.filter(|class| *class != 0).map(Handle::read),
        destination: selector.and_then(|selector| classify::read_destination(&selector)),
        actions: actions.map(|list| action::read_all(list.value)).unwrap_or_default(),
    })
}

/// The header of a u32 filter for frames of all protocols. `node` is its number; 0 stands for all of the priority.
pub(super) fn u32_header(link: u32, parent: Handle, priority: u16, node: u16) -> Header {
    let handle = if node == 0 { 0 } else { TABLE | u32::from(node) & NODE };
    Header { link, handle, parent, info: u32::from(priority) << 16 | u32::from(ETH_P_ALL.to_be()) }
}

/// A u32 filter for what all these keys match.
pub(super) fn u32_message(header: Header, target: TcFilterU32Option, keys: Vec<TcU32Key>) -> RouteNetlinkMessage {
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    // Two at most.
    selector.nkeys = keys.len() as u8;
    selector.keys = keys;
    let options = [target, TcFilterU32Option::Selector(selector)].map(TcOption::U32).to_vec();
    let attributes = vec![TcAttribute::Kind(U32.to_owned()), TcAttribute::Options(options)];
    RouteNetlinkMessage::NewTrafficFilter(header.message(attributes))
}

pub(super) fn delete(name: &'static str, header: Header) -> Request {
    Request::new(name, 0, HEADER, &RouteNetlinkMessage::DelTrafficFilter(header.message(Vec::new())))
}

impl Socket {
    /// Lists the filters of a link below [`Handle::INGRESS`], a qdisc or a class; none where such a thing or the link is
    /// not there.
    ///
    /// # Errors
    /// [`Error::Kernel`] and the socket's own errors.
    pub fn filters(&mut self, link: u32, parent: Handle) -> Result<Dump<Filter>, Error> {
        let message = Header { link, handle: 0, parent, info: 0 }.message(Vec::new());
        let request = Request::new("list filters", 0, HEADER, &RouteNetlinkMessage::GetTrafficFilter(message));
        self.dump(&request, RTM_NEWTFILTER, read)
    }

    /// Lists the filters on what comes in at a link; none when it has no clsact or `ingress` qdisc or is not there.
    ///
    /// # Errors
    /// [`Error::Kernel`] and the socket's own errors.
    pub fn ingress_filters(&mut self, link: u32) -> Result<Dump<Filter>, Error> {
        self.filters(link, Handle::INGRESS)
    }
}
