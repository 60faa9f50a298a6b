//! What clients are told: networks that come, start, stop and go, what is kept with them, and devices likewise.

use super::errors::invalid;
use super::metadata;
use super::session::Open;
use crate::handle::Numbered;
use patchcord_core::engine::{Event, NetworkEvent};
use patchcord_core::nodedev::News;
use patchcord_libvirt_wire::reply::{
    DeviceLifecycle, Lifecycle, RemoteError, device_lifecycle, device_update, lifecycle, metadata_change,
};
use patchcord_libvirt_wire::{Driver, Frame, NetworkRef, Reply};
use std::cell::RefCell;
use std::collections::BTreeMap;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use uuid::Uuid;

/// What clients can be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    /// Networks' lives.
    Lifecycle,
    /// What is kept with networks.
    Metadata,
}

impl Topic {
    /// That of libvirt's number (`virNetworkEventID`).
    const fn of(number: i32) -> Option<Self> {
        match number {
            0 => Some(Self::Lifecycle),
            1 => Some(Self::Metadata),
            _ => None,
        }
    }
}

/// libvirt's number for the events of devices' lives.
const LIFECYCLE: i32 = 0;
/// And for a device that is described otherwise now.
const UPDATE: i32 = 1;
/// Callbacks of one client at most.
const MAX_CALLBACKS: usize = 1024;

/// What a client wants to be told, by the number that it got for that.
#[derive(Debug)]
pub(super) struct Callbacks<Wish, What> {
    wanted: BTreeMap<i32, Wish>,
    next: i32,
    /// What happens since the first of them was registered, until somebody passes it on.
    events: Option<Receiver<What>>,
}

impl<Wish, What> Default for Callbacks<Wish, What> {
    fn default() -> Self {
        Self { wanted: BTreeMap::new(), next: 0, events: None }
    }
}

impl<Wish, What> Callbacks<Wish, What> {
    fn add(&mut self, wish: Wish, subscribe: impl FnOnce() -> Receiver<What>) -> Result<Reply, RemoteError> {
        if self.wanted.len() >= MAX_CALLBACKS {
            return Err(invalid("the event", format!("{MAX_CALLBACKS} callbacks are registered already")));
        }
        if self.next == 0 {
            self.events = Some(subscribe());
        }
        let callback = self.next;
        self.next = callback.wrapping_add(1);
        self.wanted.insert(callback, wish);
        Ok(Reply::Int(callback))
    }

    fn remove(&mut self, driver: Driver, callback: i32) -> Result<Reply, RemoteError> {
        let what = if driver == Driver::NodeDevice { "node device" } else { "network" };
        let missing = || format!("{what} event callback {callback} not registered");
        let removed = self.wanted.remove(&callback).map(|_| Reply::Nothing);
        removed.ok_or_else(|| RemoteError::new(1, driver.domain(), "internal error", missing()))
    }

    /// The callbacks that something concerns.
    fn concerned(&self, is: impl Fn(&Wish) -> bool) -> Vec<i32> {
        self.wanted.iter().filter(|(_, wish)| is(wish)).map(|(callback, _)| *callback).collect()
    }
}

/// Callbacks about something of a network, or of all.
pub(super) type NetworkCallbacks = Callbacks<(Topic, Option<Uuid>), Numbered>;
/// Callbacks about a device, or all.
pub(super) type DeviceCallbacks = Callbacks<DeviceWish, News>;

/// What a client wants to be told about devices.
#[derive(Debug)]
pub(super) struct DeviceWish {
    event: i32,
    device: Option<String>,
}

impl Open {
    /// The client wants to be told about networks.
    pub(super) fn register(&self, event: i32, network: Option<NetworkRef>) -> Result<Reply, RemoteError> {
        let unknown = || invalid("the event", format!("there is no event {event} of networks"));
        let topic = Topic::of(event).ok_or_else(unknown)?;
        let wish = (topic, network.map(|network| Uuid::from_bytes(network.uuid)));
        let registered = self.callbacks.borrow_mut().add(wish, || self.session.handle.subscribe());
        self.awake.notify_one();
        registered
    }

    /// The client wants to be told about devices.
    pub(super) async fn register_device(&self, event: i32, device: Option<String>) -> Result<Reply, RemoteError> {
        if event != LIFECYCLE && event != UPDATE {
            return Err(invalid("the event", format!("there is no event {event} of node devices")));
        }
        let devices = self.session.devices()?;
        // Until then those that were there already are found.
        devices.complete().await;
        let registered = self.device_callbacks.borrow_mut().add(DeviceWish { event, device }, || devices.subscribe());
        self.awake.notify_one();
        registered
    }

    /// It wants to no longer.
    pub(super) fn deregister(&self, callback: i32) -> Result<Reply, RemoteError> {
        match self.session.driver() {
            driver @ Driver::NodeDevice => self.device_callbacks.borrow_mut().remove(driver, callback),
            driver => self.callbacks.borrow_mut().remove(driver, callback),
        }
    }

    /// Tells the client what it wants to be told, until it closes the connection.
    pub(super) async fn tell(&self) {
        match self.session.driver() {
            Driver::NodeDevice => {
                self.tell_of(&self.device_callbacks, async |news| self.pass_on_device(news).await).await;
            }
            Driver::Network | Driver::Interface => {
                self.tell_of(&self.callbacks, async |(_, event)| self.pass_on(event).await).await;
            }
        }
    }

    async fn tell_of<Wish, What: Clone>(
        &self,
        callbacks: &RefCell<Callbacks<Wish, What>>,
        pass_on: impl AsyncFn(&What),
    ) {
        // Most clients want nothing, and are no burden when something happens.
        let mut events = loop {
            let events = callbacks.borrow_mut().events.take();
            match events {
                Some(events) => break events,
                None if self.is_closed() => return,
                None => self.awake.notified().await,
            }
        };
        while !self.is_closed() {
            let received = tokio::select! {
                received = events.recv() => received,
                () = self.awake.notified() => continue,
            };
            match received {
                Ok(what) => pass_on(&what).await,
                // libvirt has no word for what was missed.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn pass_on(&self, event: &Event) {
        let Event::Network { name, uuid, what, .. } = event else { return };
        let network = NetworkRef { name: name.clone(), uuid: uuid.into_bytes() };
        let (topic, frame): (_, Box<dyn Fn(i32) -> Frame>) = match what {
            NetworkEvent::Annotated(part) => {
                let (kind, uri) = metadata::number(part);
                (Topic::Metadata, Box::new(move |callback| metadata_change(callback, &network, kind, uri)))
            }
            what => {
                let Some(what) = life(what) else { return };
                (Topic::Lifecycle, Box::new(move |callback| lifecycle(callback, &network, what)))
            }
        };
        let about = |(of, network): &(Topic, Option<Uuid>)| *of == topic && network.is_none_or(|of| of == *uuid);
        let callbacks = self.callbacks.borrow().concerned(about);
        if callbacks.is_empty() || !self.session.sees_network(name, *uuid).await {
            return;
        }
        for callback in callbacks {
            let _ = self.outgoing.send(frame(callback)).await;
        }
    }

    async fn pass_on_device(&self, news: &News) {
        let event = if matches!(news, News::Updated(_)) { UPDATE } else { LIFECYCLE };
        let concerns = |of: &Option<String>| of.as_deref().is_none_or(|of| of == news.device());
        let callbacks = self.device_callbacks.borrow().concerned(|wish| wish.event == event && concerns(&wish.device));
        if callbacks.is_empty() || !self.session.sees_node_device(news.device()).await {
            return;
        }
        for callback in callbacks {
            let packet = match news {
                News::Created(name) => device_lifecycle(callback, name, DeviceLifecycle::Created),
                News::Deleted(name) => device_lifecycle(callback, name, DeviceLifecycle::Deleted),
                News::Updated(name) => device_update(callback, name),
            };
            let _ = self.outgoing.send(packet).await;
        }
    }
}

/// What an event means for a network's life.
const fn life(what: &NetworkEvent) -> Option<Lifecycle> {
    match what {
        NetworkEvent::Defined => Some(Lifecycle::Defined),
        NetworkEvent::Undefined => Some(Lifecycle::Undefined),
        NetworkEvent::Started => Some(Lifecycle::Started),
        NetworkEvent::Stopped => Some(Lifecycle::Stopped),
        NetworkEvent::Updated | NetworkEvent::Annotated(_) => None,
    }
}
