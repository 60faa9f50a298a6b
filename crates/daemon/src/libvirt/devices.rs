//! Which devices the host has: what is told to clients, kept true by what is heard of links and PCI devices.

use patchcord_core::nodedev::{DeviceId, DeviceKind, Listed, News, NodeDevice, Registry};
use patchcord_host::executor::Heard;
use patchcord_host::nodedev::NodeDevices;
use patchcord_host::root::Root;
use std::cell::{Ref, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::broadcast::{self, Receiver};
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;
use tracing::warn;

/// News that a slow client may be behind before it misses some.
const NEWS: usize = 4096;
/// Devices that are read at once: drivers may be slow to answer, and other jobs wait for the same threads.
const READERS: usize = 2;

/// The devices of the host.
#[derive(Debug)]
pub(super) struct Devices {
    host: NodeDevices,
    registry: RefCell<Registry>,
    /// Whether all devices were looked at once.
    complete: watch::Sender<bool>,
    news: broadcast::Sender<News>,
    readers: Semaphore,
}

/// What has to be looked at.
#[derive(Debug, Default)]
struct Concerned {
    /// Links by index, with the names that they have; without one they are gone.
    links: BTreeMap<u32, Option<String>>,
    all_links: bool,
    pci: bool,
}

/// What was found when that was looked at.
struct Found {
    links: Vec<(DeviceId, Option<Listed>)>,
    all_links: Option<BTreeMap<DeviceId, Listed>>,
    pci: Option<BTreeMap<DeviceId, Listed>>,
}

impl Concerned {
    const EVERYTHING: Self = Self { links: BTreeMap::new(), all_links: true, pci: true };

    fn add(&mut self, heard: Heard) {
        match heard {
            Heard::Link(index, name) => drop(self.links.insert(index, name)),
            Heard::Devices => self.pci = true,
            Heard::Everything => {
                self.all_links = true;
                self.pci = true;
            }
        }
    }

    /// Waits until something is heard, and takes up what else was; none when nothing will be any more.
    async fn next(heard: &mut Receiver<Heard>) -> Option<Self> {
        let mut concerned = Self::default();
        match heard.recv().await {
            Ok(first) => concerned.add(first),
            Err(RecvError::Lagged(_)) => concerned = Self::EVERYTHING,
            Err(RecvError::Closed) => return None,
        }
        loop {
            match heard.try_recv() {
                Ok(more) => concerned.add(more),
                Err(TryRecvError::Lagged(_)) => concerned.add(Heard::Everything),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return Some(concerned),
            }
        }
    }

    /// Reads it. What can't be read is left as it was believed to be.
    fn look(self, host: &NodeDevices) -> Found {
        let list = |what: &str, read: Result<_, patchcord_host::Error>| {
            read.inspect_err(|error| warn!(%error, "{what} can't be listed for libvirt's clients")).ok()
        };
        let pci = self.pci.then(|| list("PCI devices", host.pci())).flatten();
        let all_links = self.all_links.then(|| list("network devices", host.links())).flatten();
        let single = self.links.into_iter().filter(|_| !self.all_links);
        let look = |(index, name): (u32, Option<String>)| {
            (DeviceId::Link(index), name.and_then(|name| host.link(index, &name)))
        };
        Found { links: single.map(look).collect(), all_links, pci }
    }
}

impl Devices {
    /// Devices of the root's sysfs, or of the host's where the root has none; which those are is not known before
    /// [`Devices::keep`] runs.
    pub(super) fn new(root: &Root) -> Self {
        Self {
            host: NodeDevices::new(root.base()),
            registry: RefCell::default(),
            complete: watch::Sender::new(false),
            news: broadcast::Sender::new(NEWS),
            readers: Semaphore::new(READERS),
        }
    }

    /// Looks at everything, and then at what is heard of, for as long as something is.
    pub(super) async fn keep(self: Rc<Self>, mut heard: Receiver<Heard>) {
        let mut next = Some(Concerned::EVERYTHING);
        while let Some(concerned) = next {
            let host = self.host.clone();
            if let Ok(found) = spawn_blocking(move || concerned.look(&host)).await {
                self.take(found);
            }
            self.complete.send_replace(true);
            next = Concerned::next(&mut heard).await;
        }
    }

    fn take(&self, Found { links, all_links, pci }: Found) {
        let mut registry = self.registry.borrow_mut();
        // What others are part of comes first.
        let mut news = pci.map(|all| registry.put_all(DeviceKind::Pci, all)).unwrap_or_default();
        news.extend(all_links.map(|all| registry.put_all(DeviceKind::Net, all)).unwrap_or_default());
        news.extend(links.into_iter().flat_map(|(id, now)| registry.put(id, now)));
        for what in news {
            // There may be nobody who wants to know.
            let _ = self.news.send(what);
        }
    }

    /// Waits until all devices were looked at once.
    pub(super) async fn complete(&self) {
        // Its sender is ours, and there as long as we are.
        let _ = self.complete.subscribe().wait_for(|complete| *complete).await;
    }

    /// Which there are.
    pub(super) fn registry(&self) -> Ref<'_, Registry> {
        self.registry.borrow()
    }

    /// What happens from now on.
    pub(super) fn subscribe(&self) -> Receiver<News> {
        self.news.subscribe()
    }

    /// All about a device, as it is now; none when there is no such device, or it goes meanwhile.
    pub(super) async fn describe(&self, name: &str) -> Option<NodeDevice> {
        let _permit = self.readers.acquire().await.ok()?;
        let (id, listed, parent) = {
            let registry = self.registry.borrow();
            let (id, listed) = registry.get(name)?;
            (id, listed.clone(), registry.parent(id, listed))
        };
        let host = self.host.clone();
        spawn_blocking(move || host.describe(id, &listed, parent)).await.ok()?
    }
}
