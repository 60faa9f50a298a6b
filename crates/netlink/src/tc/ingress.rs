//! What is done to the frames that come in at a link with clsact: dropped above a rate, sent out of another link.
//!
//! Each of our filters has a fixed handle, so that one message adds it or replaces it in place: no frame passes between
//! the old and the new one.

use std::num::{NonZeroU16, NonZeroU64};

use netlink_packet_route::tc::{TcAction, TcFilterU32Option, TcU32Key};

use super::filter::{delete, u32_header, u32_message};
use super::{HEADER, Handle, action};
use crate::channel::NLM_F_CREATE;
use crate::error::Error;
use crate::socket::{Request, Socket};

/// The numbers of our filters, `800::1` and `800::2` as `tc` writes them. The kernel asks filters by rising numbers, and a
/// redirect leaves nothing for those behind.
const POLICE: u16 = 1;
const REDIRECT: u16 = 2;
/// Stands for all filters of a priority.
const ALL: u16 = 0;

/// Everything that comes in at one link leaves by another. The kernel drops what comes in while the other is down, and
/// keeps the filter, without a target, when the other is deleted.
///
/// A frame is redirected from a link once: one that an ifb gives back is not asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Index of the link that frames come in at; it has clsact.
    pub link: u32,
    /// Filters of a lower number see a frame first. All filters that we put on a link have the same: the kernel finds a
    /// u32 filter by its handle across priorities, so that **one that others put on the link first, at another
    /// priority, may be replaced instead**.
    pub priority: NonZeroU16,
    /// Index of the link that they leave by.
    pub to: u32,
    /// The mark on the action.
    pub cookie: [u8; 16],
}

/// Frames that come in at a link above a rate are dropped; the others go on to the redirect, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Police {
    /// Index of the link; it has clsact.
    pub link: u32,
    /// That of the link's redirect; see [`Redirect::priority`].
    pub priority: NonZeroU16,
    /// In bytes per second. For the kernel a rate of 0 is no limit at all.
    pub rate: NonZeroU64,
    /// How many bytes may come at once, at least the longest frame: a longer one than this never passes. With offloads a
    /// frame has up to 64 KiB.
    pub burst: u64,
    /// The longest frame that passes, in bytes, its Ethernet header counted; 0 is the kernel's choice.
    pub mtu: u32,
    /// The mark on the action.
    pub cookie: [u8; 16],
}

/// Adds or replaces a filter that matches every frame.
fn set_match_all(name: &'static str, (link, priority): (u32, NonZeroU16), node: u16, action: TcAction) -> Request {
    let header = u32_header(link, Handle::INGRESS, priority.get(), node);
    let message = u32_message(header, TcFilterU32Option::Action(vec![action]), vec![TcU32Key::default()]);
    Request::new(name, NLM_F_CREATE, HEADER, &message)
}

impl Request {
    /// Adds a redirect, or replaces the link's in place.
    pub fn redirect(redirect: &Redirect) -> Self {
        let action = action::redirect(redirect.to, redirect.cookie);
        set_match_all("redirect what comes in", (redirect.link, redirect.priority), REDIRECT, action)
    }

    /// Limits what comes in at a link, or changes the limit in place; the new one begins with a whole burst.
    pub fn police(police: &Police) -> Self {
        let action = action::police(police.rate.get(), police.burst, police.mtu, police.cookie);
        set_match_all("limit what comes in", (police.link, police.priority), POLICE, action)
    }

    /// Deletes a link's redirect.
    pub fn delete_redirect(link: u32, priority: NonZeroU16) -> Self {
        delete("delete the redirect", u32_header(link, Handle::INGRESS, priority.get(), REDIRECT))
    }

    /// Deletes the limit on what comes in at a link.
    pub fn delete_police(link: u32, priority: NonZeroU16) -> Self {
        delete("delete the limit", u32_header(link, Handle::INGRESS, priority.get(), POLICE))
    }

    /// Deletes all filters of this priority on what comes in at a link, whoever put them there.
    pub fn delete_filter(link: u32, priority: NonZeroU16) -> Self {
        delete("delete the filters", u32_header(link, Handle::INGRESS, priority.get(), ALL))
    }
}

impl Socket {
    /// Adds a redirect, or replaces the link's in place.
    ///
    /// # Errors
    /// [`Error::Kernel`], with EINVAL when the link has no clsact, ENODEV when a link is not there, and the socket's own
    /// errors.
    pub fn redirect(&mut self, redirect: &Redirect) -> Result<(), Error> {
        self.execute(&Request::redirect(redirect))
    }

    /// Limits what comes in at a link, or changes the limit in place.
    ///
    /// # Errors
    /// [`Error::Kernel`], with EINVAL when the link has no clsact, ENOENT when the kernel has no police,
    /// and the socket's own errors.
    pub fn police(&mut self, police: &Police) -> Result<(), Error> {
        self.execute(&Request::police(police))
    }

    /// Deletes a link's redirect.
    ///
    /// # Errors
    /// [`Error::Kernel`], with ENOENT when there is none, and the socket's own errors.
    pub fn delete_redirect(&mut self, link: u32, priority: NonZeroU16) -> Result<(), Error> {
        self.execute(&Request::delete_redirect(link, priority))
    }

    /// Deletes the limit on what comes in at a link.
    ///
    /// # Errors
    /// [`Error::Kernel`], with ENOENT when there is none, and the socket's own errors.
    pub fn delete_police(&mut self, link: u32, priority: NonZeroU16) -> Result<(), Error> {
        self.execute(&Request::delete_police(link, priority))
    }

    /// Deletes all filters of this priority on what comes in at a link, whoever put them there.
    ///
    /// # Errors
    /// [`Error::Kernel`], with ENOENT when there is none, and the socket's own errors.
    pub fn delete_filter(&mut self, link: u32, priority: NonZeroU16) -> Result<(), Error> {
        self.execute(&Request::delete_filter(link, priority))
    }
}
