//! The stream of events.

use super::connection::{Broken, Connection};
use super::session::{Session, refusal};
use crate::convert;
use patchcord_api::Monitored;
use patchcord_api::message::Reply;
use patchcord_core::Error;
use patchcord_core::engine::Event;
use tokio::sync::broadcast::error::RecvError;

impl Session {
    /// What there is.
    pub(super) async fn snapshot(&self) -> Result<Monitored, Error> {
        Ok(Monitored::Snapshot { networks: self.networks().await?, nics: self.nics(None).await? })
    }

    /// Sends a snapshot and then every event that the peer may see, until it closes its sending side.
    pub(super) async fn monitor(&self, connection: &mut Connection) -> Result<(), Broken> {
        let mut events = self.handle.subscribe();
        if !self.send_snapshot(connection).await? {
            return Ok(());
        }
        loop {
            let received = tokio::select! {
                received = events.recv() => received,
                closed = connection.closed() => return closed,
            };
            match received {
                Ok((sequence, event)) if self.may_see(&event) => {
                    let event = Box::new(convert::event(&event));
                    send(connection, &Monitored::Event { sequence, event }).await?;
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    send(connection, &Monitored::Overflow { missed }).await?;
                    if !self.send_snapshot(connection).await? {
                        return Ok(());
                    }
                }
                Err(RecvError::Closed) => return Ok(()),
            }
        }
    }

    /// Sends a snapshot, or the error why there is none; then false.
    async fn send_snapshot(&self, connection: &mut Connection) -> Result<bool, Broken> {
        match self.snapshot().await {
            Ok(snapshot) => send(connection, &snapshot).await.map(|()| true),
            Err(error) => connection.send(&refusal(&error), &[]).await.map(|()| false),
        }
    }

    fn may_see(&self, event: &Event) -> bool {
        match event {
            Event::Network { name, .. } => self.access.shows_network(self.peer(), name),
            Event::Lease { network, .. } => self.access.shows_network(self.peer(), network),
            Event::Nic { nic, .. } => self.shows(nic),
            Event::Device { networks, .. } => networks.iter().any(|name| self.access.shows_network(self.peer(), name)),
            Event::Drift { .. } => self.peer().is_full(),
        }
    }
}

async fn send(connection: &mut Connection, message: &Monitored) -> Result<(), Broken> {
    let parameters = serde_json::to_value(message)?;
    connection.send(&Reply { parameters, continues: true, ..Reply::default() }, &[]).await
}
