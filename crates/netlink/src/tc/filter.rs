//! Filters of kind u32 on what comes in at a link with clsact.
//!
//! Each of ours has a fixed handle, so that one message adds it or replaces it in place. In place means that no frame
//! passes between the old and the new one.

use std::num::NonZeroU16;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAction, TcAttribute, TcFilterU32Option, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};

use super::{Action, HEADER, Handle, Header, RTM_NEWTFILTER, TCA_KIND, TCA_OPTIONS, action};
use crate::attr::Attrs;
use crate::channel::NLM_F_CREATE;
use crate::error::Error;
use crate::socket::{Dump, Request, Socket};

const U32: &str = "u32";
const TCA_U32_ACT: u16 = 7;

/// The handles of our filters, written `800::2` by `tc`: the hash table that the kernel makes for the first u32 filters
/// of a link, and a number in it. The kernel asks filters by rising numbers; 1 is kept for what comes before a redirect.
const REDIRECT: u32 = 0x8000_0002;
/// The part of a u32 handle that numbers a filter; where it is 0, the handle is a hash table's.
const U32_NODE: u32 = 0xfff;

const ETH_P_ALL: u16 = 3;

/// Everything that comes in at one link leaves by another. The kernel drops what comes in while the other is down, and
/// keeps the filter, without a target, when the other is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Index of the link that frames come in at; it has clsact.
    pub link: u32,
    /// Filters of a lower number see a frame first. All our filters of a link have the same: the kernel numbers hash
    /// tables across priorities, so that **a u32 filter that others put on the link first, at another priority, would be
    /// replaced instead**.
    pub priority: NonZeroU16,
    /// Index of the link that they leave by.
    pub to: u32,
    /// The mark on the action.
    pub cookie: [u8; 16],
}

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
    /// What it does, in order; read of kind `u32` only.
    pub actions: Vec<Action>,
}

/// Reads the payload of an `RTM_NEWTFILTER`; `None` for what the kernel lists beside filters: priorities and u32's hash
/// tables.
pub(super) fn read(payload: &[u8]) -> Option<Filter> {
    let header = Header::read(payload)?;
    let attributes = Attrs::after(payload, HEADER);
    let find = |kind| attributes.clone().find(|attr| attr.kind == kind);
    let kind = find(TCA_KIND).map(|kind| kind.text()).unwrap_or_default();
    let is_table = kind == U32 && header.handle & U32_NODE == 0;
    if header.handle == 0 || is_table {
        return None;
    }
    let mut actions = Vec::new();
    if let Some(options) = find(TCA_OPTIONS)
        && kind == U32
    {
        actions = Attrs::find(options.value, TCA_U32_ACT).map(|list| action::read_all(list.value)).unwrap_or_default();
    }
    Some(Filter {
        link: header.link,
        parent: header.parent,
        priority: (header.info >> 16) as u16,
        handle: header.handle,
        kind,
        actions,
    })
}

/// The header of a filter on what comes in, of all protocols.
fn ingress(link: u32, priority: u16, handle: u32) -> Header {
    let info = u32::from(priority) << 16 | u32::from(ETH_P_ALL.to_be());
    Header { link, handle, parent: Handle::INGRESS, info }
}

/// Adds or replaces a filter that matches every frame.
fn set_match_all(name: &'static str, header: Header, action: TcAction) -> Request {
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = 1;
    selector.keys = vec![TcU32Key::default()];
    let options = [TcFilterU32Option::Selector(selector), TcFilterU32Option::Action(vec![action])];
    let attributes = vec![TcAttribute::Kind(U32.to_owned()), TcAttribute::Options(options.map(TcOption::U32).to_vec())];
    let message = RouteNetlinkMessage::NewTrafficFilter(header.message(attributes));
    Request::new(name, NLM_F_CREATE, HEADER, &message)
}

impl Request {
    /// Adds a redirect, or replaces the one of the same link and priority in place.
    pub fn redirect(redirect: &Redirect) -> Self {
        let header = ingress(redirect.link, redirect.priority.get(), REDIRECT);
        set_match_all("redirect what comes in", header, action::redirect(redirect.to, redirect.cookie))
    }

    /// Deletes all filters of this priority on what comes in at a link, whoever put them there.
    pub fn delete_filter(link: u32, priority: NonZeroU16) -> Self {
        let message = ingress(link, priority.get(), 0).message(Vec::new());
        Request::new("delete the filter", 0, HEADER, &RouteNetlinkMessage::DelTrafficFilter(message))
    }
}

impl Socket {
    /// Lists the filters on what comes in at a link; none when it has no clsact or `ingress` qdisc or is not there.
    ///
    /// # Errors
    /// [`Error::Kernel`] and the socket's own errors.
    pub fn ingress_filters(&mut self, link: u32) -> Result<Dump<Filter>, Error> {
        let header = Header { link, handle: 0, parent: Handle::INGRESS, info: 0 };
        let message = RouteNetlinkMessage::GetTrafficFilter(header.message(Vec::new()));
        self.dump(&Request::new("list filters", 0, HEADER, &message), RTM_NEWTFILTER, read)
    }

    /// Adds a redirect, or replaces the one of the same link and priority in place.
    ///
    /// # Errors
    /// [`Error::Kernel`], with EINVAL when the link has no clsact, ENODEV when a link is not there, and the socket's own errors.
    pub fn redirect(&mut self, redirect: &Redirect) -> Result<(), Error> {
        self.execute(&Request::redirect(redirect))
    }

    /// Deletes all filters of this priority on what comes in at a link, whoever put them there.
    ///
    /// # Errors
    /// [`Error::Kernel`], with ENOENT when there is none, and the socket's own errors.
    pub fn delete_filter(&mut self, link: u32, priority: NonZeroU16) -> Result<(), Error> {
        self.execute(&Request::delete_filter(link, priority))
    }
}
