//! What client connections hold of the engine: a way to ask, to get descriptors, and to listen.

use patchcord_core::engine::{Answer, Command, Event};
use patchcord_core::{Error, ErrorKind};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::{broadcast, mpsc, oneshot};
use uuid::Uuid;

/// What a connection asks of the thread that owns the engine.
#[derive(Debug)]
pub enum Ask {
    /// Carry out a command.
    Command(Box<Command>, oneshot::Sender<Result<Answer, Error>>),
    /// Duplicate the descriptors of a NIC's tap.
    Descriptors(Uuid, oneshot::Sender<Result<Vec<OwnedFd>, Error>>),
}

/// An event and its number, which counts up by one.
pub type Numbered = (u64, Arc<Event>);

/// A cloneable way to the engine. Asking waits while too much is under way already.
#[derive(Clone, Debug)]
pub struct Handle {
    asks: mpsc::Sender<Ask>,
    events: broadcast::Sender<Numbered>,
}

impl Handle {
    /// A handle on these channels.
    pub fn new(asks: mpsc::Sender<Ask>, events: broadcast::Sender<Numbered>) -> Self {
        Self { asks, events }
    }

    /// Carries out a command.
    pub async fn call(&self, command: Command) -> Result<Answer, Error> {
        let (sender, answer) = oneshot::channel();
        self.ask(Ask::Command(Box::new(command), sender)).await?;
        answer.await.map_err(|_| stopping())?
    }

    /// Duplicates the descriptors of a NIC's tap, one for each queue.
    pub async fn descriptors(&self, nic: Uuid) -> Result<Vec<OwnedFd>, Error> {
        let (sender, answer) = oneshot::channel();
        self.ask(Ask::Descriptors(nic, sender)).await?;
        answer.await.map_err(|_| stopping())?
    }

    /// Events from now on. Who reads too slowly misses some, and is told how many.
    pub fn subscribe(&self) -> broadcast::Receiver<Numbered> {
        self.events.subscribe()
    }

    async fn ask(&self, ask: Ask) -> Result<(), Error> {
        self.asks.send(ask).await.map_err(|_| stopping())
    }
}

fn stopping() -> Error {
    Error::new(ErrorKind::Busy, "the daemon", "it is stopping")
}
