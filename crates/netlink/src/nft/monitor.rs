//! nftables' announcements: that the ruleset changed, and who did it.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::read::{self, Generation};
use super::{NEWGEN, SUBSYSTEM};
use crate::error::Error;
use crate::events::Events;
use crate::frame::Frame;

const NFNLGRP_NFTABLES: u32 = 7;

/// The ruleset changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A transaction took effect.
    Committed {
        /// The ruleset's new generation, and who made it.
        generation: Generation,
        /// The port of the socket that it came through; equal to [`Socket::port`](super::Socket::port) for our own.
        port: u32,
    },
    /// Announcements were lost or not understood: read everything.
    Resync {
        /// Why, for the log.
        reason: &'static str,
    },
}

/// A socket that listens to nftables. It can be polled together with others; [`Monitor::receive`] with a timeout of zero
/// then never blocks.
#[derive(Debug)]
pub struct Monitor {
    events: Events,
}

impl Monitor {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Open`], also where the kernel has no nftables.
    pub fn open() -> Result<Self, Error> {
        Ok(Monitor { events: Events::open(netlink_sys::protocols::NETLINK_NETFILTER, &[NFNLGRP_NFTABLES])? })
    }

    /// Waits for announcements (`None`: as long as it takes) and returns the changes; nothing when the time is over.
    ///
    /// # Errors
    /// The socket's own errors. Lost announcements are no error but a [`Change::Resync`].
    pub fn receive(&mut self, timeout: Option<Duration>) -> Result<Vec<Change>, Error> {
        let mut changes = Vec::new();
        self.events.receive(timeout, |message| {
            let change = match message {
                Ok(frame) => classify(frame),
                Err(reason) => Some(Change::Resync { reason }),
            };
            if let Some(change) = change.filter(|change| changes.last() != Some(change)) {
                changes.push(change);
            }
        })?;
        Ok(changes)
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

/// What an announcement says. Every transaction ends with its generation, so the tables, chains, rules and elements
/// in front of it need not be read.
pub(crate) fn classify(frame: &Frame<'_>) -> Option<Change> {
    if frame.kind == NEWGEN {
        let resync = Change::Resync { reason: "a generation could not be read" };
        return Some(
            read::generation(frame.payload)
                .map_or(resync, |generation| Change::Committed { generation, port: frame.port }),
        );
    }
    let known = frame.kind >> 8 == SUBSYSTEM || frame.kind < 16;
    (!known).then_some(Change::Resync { reason: "a message was of an unknown type" })
}
