//! The thread that listens to the kernel. It only notes which objects changed; the executor reads them.
//!
//! Not announced by netlink, and so not noticed before the next snapshot: settings of single links below /proc/sys,
//! and static forwarding entries that others remove.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::Duration;

use patchcord_netlink::{DeviceMonitor, LINK_GROUPS, Monitor, nft};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use crate::executor::ExecutorRequest;
use crate::hints::Hints;
use crate::{Error, Result};

/// How long to wait for more announcements when one was heard. One change brings several, and whoever makes it, most
/// often the executor's own plan, would be slowed down by a thread that is woken by each of them, and by another one
/// that asks the kernel about an object half made.
const GATHER: Duration = Duration::from_millis(3);

/// The thread that listens.
#[derive(Debug)]
pub(crate) struct Watcher {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Starts listening in the caller's network namespace: what happens from now on becomes hints, and the executor
    /// is told that there are some.
    pub(crate) fn start(hints: Arc<Hints>, executor: SyncSender<ExecutorRequest>) -> Result<Self> {
        let failed = |op| move |errno: Errno| Error::Listen { op, source: errno.into() };
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(failed("make"))?);
        let mut listener = Listener {
            links: Monitor::open(LINK_GROUPS)?,
            // Without nftables there is nothing to hear about it.
            rules: nft::Monitor::open().ok(),
            devices: DeviceMonitor::open("pci").ok(),
            hints,
            executor,
            stop: Arc::clone(&stop),
        };
        let thread = std::thread::Builder::new()
            .name("watcher".to_owned())
            .spawn(move || listener.run())
            .map_err(|source: io::Error| Error::Thread { name: "watcher", source })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let told = rustix::io::write(&self.stop, &1u64.to_ne_bytes()).is_ok();
        if let Some(thread) = self.thread.take()
            && told
        {
            let _ = thread.join();
        }
    }
}

struct Listener {
    links: Monitor,
    rules: Option<nft::Monitor>,
    devices: Option<DeviceMonitor>,
    hints: Arc<Hints>,
    executor: SyncSender<ExecutorRequest>,
    stop: Arc<OwnedFd>,
}

impl Listener {
    fn run(&mut self) {
        loop {
            match self.listen() {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => {
                    self.hints.add_everything("listening failed");
                    // Whatever it was, it is not tried again all the time.
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
            if self.hints.ring() {
                // When its queue is full it looks at the hints anyway, before it waits again.
                let _ = self.executor.try_send(ExecutorRequest::Look);
            }
        }
    }

    /// Waits for announcements and notes them; false when it is time to end.
    fn listen(&mut self) -> Result<bool> {
        let (links, rules, devices) = {
            // For one that could not be opened another one stands in: nothing is read of it.
            let rules = self.rules.as_ref().map_or(self.links.as_fd(), AsFd::as_fd);
            let devices = self.devices.as_ref().map_or(self.links.as_fd(), AsFd::as_fd);
            let mut fds = [self.stop.as_fd(), self.links.as_fd(), rules, devices]
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::Listen { op: "wait for", source: errno.into() }),
            }
            let [stop, links, rules, devices] = fds.map(|fd| !fd.revents().is_empty());
            if stop {
                return Ok(false);
            }
            (links, rules, devices)
        };
        std::thread::sleep(GATHER);
        if links {
            self.hints.add_route(self.links.receive(Some(Duration::ZERO))?);
        }
        if let (true, Some(monitor)) = (rules, &mut self.rules) {
            self.hints.add_rules(monitor.receive(Some(Duration::ZERO))?);
        }
        if let (true, Some(monitor)) = (devices, &mut self.devices)
            && monitor.receive(Some(Duration::ZERO))?
        {
            self.hints.add_functions();
        }
        Ok(true)
    }
}
