//! Deletes links that were taken out of use, off everybody's path.
//!
//! Deleting a link takes the kernel 15 to 30 ms, a hundred of them by their group hardly more, and closing a tap
//! about 17 ms. So whoever dooms a link only takes it out of use, moves it into [`GROUP_DOOMED`] and tells this thread,
//! which has a socket of its own. A macvlan may still be up then, and quiet.
//!
//! Telling never waits: the queue is a list in memory. There is no limit to it besides the number of links that we
//! made ourselves, each of which is told once; an entry is a number and, for some, a descriptor.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use patchcord_core::plan::{GROUP_DOOMED, Index, Mark};
use patchcord_netlink::{Link, Socket};
use uuid::Uuid;

use crate::{Error, Result};

/// How long to wait for more of them after the first.
const GATHER: Duration = Duration::from_millis(3);
/// When to try again what the kernel refused to delete, and how often.
const RETRY: Duration = Duration::from_millis(500);
const ATTEMPTS: u32 = 10;

/// A link to be deleted, and descriptors to be closed once it is.
#[derive(Debug)]
struct Doomed {
    index: Option<Index>,
    fds: Vec<OwnedFd>,
    attempts: u32,
}

/// The thread that deletes.
#[derive(Debug)]
pub(crate) struct Reaper {
    queue: Option<Sender<Doomed>>,
    thread: Option<JoinHandle<()>>,
}

impl Reaper {
    /// Starts it in the caller's network namespace. It deletes links of this installation only.
    pub(crate) fn start(instance: Uuid) -> Result<Self> {
        let socket = Socket::open()?;
        let (queue, doomed) = channel();
        let thread = std::thread::Builder::new()
            .name("reaper".to_owned())
            .spawn(move || Worker { socket, instance }.run(&doomed))
            .map_err(|source: io::Error| Error::Thread { name: "reaper", source })?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Deletes this link, which is in the doomed group, then closes the descriptors.
    pub(crate) fn reap(&self, index: Index, fds: Vec<OwnedFd>) {
        self.send(Doomed { index: Some(index), fds, attempts: 0 });
    }

    /// Closes descriptors, which takes long when one is a tap's last.
    pub(crate) fn close(&self, fds: Vec<OwnedFd>) {
        if !fds.is_empty() {
            self.send(Doomed { index: None, fds, attempts: 0 });
        }
    }

    fn send(&self, doomed: Doomed) {
        if let Some(queue) = &self.queue {
            // It ends only with us, or by a panic: then the links stay doomed until the next start.
            let _ = queue.send(doomed);
        }
    }
}

impl Drop for Reaper {
    /// What was told is deleted before this returns.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker {
    socket: Socket,
    instance: Uuid,
}

impl Worker {
    fn run(&mut self, queue: &Receiver<Doomed>) {
        let mut again: Vec<Doomed> = Vec::new();
        loop {
            let first = if again.is_empty() {
                queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                queue.recv_timeout(RETRY)
            };
            let (mut batch, ends) = match first {
                Ok(first) => (vec![first], false),
                Err(RecvTimeoutError::Timeout) => (Vec::new(), false),
                Err(RecvTimeoutError::Disconnected) => (Vec::new(), true),
            };
            if !ends {
                gather(queue, &mut batch);
            }
            batch.append(&mut again);
            again = self.delete(batch);
            if ends {
                return;
            }
        }
    }

    /// Deletes them, closes their descriptors, and gives those that the kernel wouldn't delete.
    fn delete(&mut self, batch: Vec<Doomed>) -> Vec<Doomed> {
        let links: Vec<Index> = batch.iter().filter_map(|doomed| doomed.index).collect();
        if links.len() > 1 && self.group_is_ours() {
            // What it leaves is deleted one by one below.
            let _ = self.socket.delete_group(GROUP_DOOMED);
        }
        let mut refused = Vec::new();
        for mut doomed in batch {
            if let Some(index) = doomed.index
                && !self.delete_one(index)
            {
                doomed.attempts += 1;
                if doomed.attempts < ATTEMPTS {
                    refused.push(doomed);
                    continue;
                }
            }
            // Its descriptors are closed here.
            drop(doomed.fds);
        }
        refused
    }

    /// Whether the link is gone, or is none that we may delete.
    fn delete_one(&mut self, index: Index) -> bool {
        match self.socket.link_by_index(index.0) {
            Ok(Some(link)) if self.is_ours(&link) => match self.socket.delete_link(index.0) {
                Ok(()) => true,
                Err(error) => error.is_not_found(),
            },
            Ok(_) => true,
            Err(_) => false,
        }
    }

    fn is_ours(&self, link: &Link) -> bool {
        let mark = link.alias.as_deref().and_then(|alias| alias.parse::<Mark>().ok());
        link.group == GROUP_DOOMED && mark.is_some_and(|mark| mark.instance == self.instance)
    }

    /// Whether all links of the doomed group are ours: deleting by group asks nobody whose they are.
    fn group_is_ours(&mut self) -> bool {
        match self.socket.links() {
            Ok(links) => links.entries.iter().filter(|l| l.group == GROUP_DOOMED).all(|l| self.is_ours(l)),
            Err(_) => false,
        }
    }
}

/// What else is told in the next moment.
fn gather(queue: &Receiver<Doomed>, batch: &mut Vec<Doomed>) {
    let end = Instant::now() + GATHER;
    while let Ok(more) = queue.recv_timeout(end.saturating_duration_since(Instant::now())) {
        batch.push(more);
    }
}
