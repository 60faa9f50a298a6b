//! What clients are told: networks that come, start, stop and go.

use super::errors::invalid;
use super::session::Open;
use crate::handle::Numbered;
use patchcord_core::engine::{Event, NetworkEvent};
use patchcord_libvirt_wire::reply::{Lifecycle, RemoteError, lifecycle};
use patchcord_libvirt_wire::{NetworkRef, Reply};
use std::collections::BTreeMap;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use uuid::Uuid;

/// libvirt's number for the events of networks' lives.
const LIFECYCLE: i32 = 0;
/// Callbacks of one client at most.
const MAX_CALLBACKS: usize = 1024;

/// What a client wants to be told, by the number that it got for that: of which network, or of all.
#[derive(Debug, Default)]
pub(super) struct Callbacks {
    wanted: BTreeMap<i32, Option<Uuid>>,
    next: i32,
    /// What happens since the first of them was registered, until somebody passes it on.
    events: Option<Receiver<Numbered>>,
}

impl Open {
    /// The client wants to be told.
    pub(super) fn register(&self, event: i32, network: Option<NetworkRef>) -> Result<Reply, RemoteError> {
        if event != LIFECYCLE {
            return Err(invalid("the event", format!("there is no event {event} of networks")));
        }
        let mut callbacks = self.callbacks.borrow_mut();
        if callbacks.wanted.len() >= MAX_CALLBACKS {
            return Err(invalid("the event", format!("{MAX_CALLBACKS} callbacks are registered already")));
        }
        if callbacks.next == 0 {
            callbacks.events = Some(self.session.handle.subscribe());
            self.awake.notify_one();
        }
        let callback = callbacks.next;
        callbacks.next = callback.wrapping_add(1);
        callbacks.wanted.insert(callback, network.map(|network| Uuid::from_bytes(network.uuid)));
        Ok(Reply::Int(callback))
    }

    /// It wants to no longer.
    pub(super) fn deregister(&self, callback: i32) -> Result<Reply, RemoteError> {
        match self.callbacks.borrow_mut().wanted.remove(&callback) {
            Some(_) => Ok(Reply::Nothing),
            None => Err(RemoteError::new(
                1,
                19,
                "internal error",
                format!("network event callback {callback} not registered"),
            )),
        }
    }

    /// Tells the client what it wants to be told, until it closes the connection.
    pub(super) async fn tell(&self) {
        // Most clients want nothing, and are no burden when something happens.
        let mut events = loop {
            let events = self.callbacks.borrow_mut().events.take();
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
                Ok((_, event)) => self.pass_on(&event).await,
                // libvirt has no word for what was missed.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn pass_on(&self, event: &Event) {
        let Event::Network { name, uuid, what, .. } = event else { return };
        let what = match what {
            NetworkEvent::Defined => Lifecycle::Defined,
            NetworkEvent::Undefined => Lifecycle::Undefined,
            NetworkEvent::Started => Lifecycle::Started,
            NetworkEvent::Stopped => Lifecycle::Stopped,
            NetworkEvent::Updated => return,
        };
        let network = NetworkRef { name: name.clone(), uuid: uuid.into_bytes() };
        let callbacks: Vec<i32> = {
            let callbacks = self.callbacks.borrow();
            let wanted = callbacks.wanted.iter().filter(|(_, of)| of.is_none_or(|of| of == *uuid));
            wanted.map(|(callback, _)| *callback).collect()
        };
        for callback in callbacks {
            let _ = self.outgoing.send(lifecycle(callback, &network, what)).await;
        }
    }
}
