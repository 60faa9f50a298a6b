//! The connection to the daemon, with a word to the user when an answer takes its time.

use crate::args::Place;
use crate::document::Document;
use crate::error::CommandError;
use patchcord_api::methods::Method;
use patchcord_api::{Client, ClientError, SOCKET};
use std::io::{self, IsTerminal};
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::time::Duration;

/// How long nothing is said.
const PATIENCE: Duration = Duration::from_secs(1);

/// The daemon.
pub(crate) struct Daemon {
    client: Client,
}

impl Daemon {
    /// Connects to it.
    pub(crate) fn connect(place: &Place) -> Result<Self, CommandError> {
        let path = place.socket.clone().unwrap_or_else(|| place.root.join(SOCKET));
        Ok(Self { client: Client::connect(&path)? })
    }

    /// Calls a method.
    pub(crate) fn call<M: Method>(&mut self, method: &M) -> Result<M::Reply, CommandError> {
        Ok(self.try_call(method)?)
    }

    /// Calls a method whose refusal means something to the caller.
    pub(crate) fn try_call<M: Method>(&mut self, method: &M) -> Result<M::Reply, ClientError> {
        waiting(|| self.client.call(method))
    }

    /// Calls a method that submits a document, under whose line a fault is drawn.
    pub(crate) fn submit<M: Method>(&mut self, method: &M, document: &Document) -> Result<M::Reply, CommandError> {
        self.try_call(method).map_err(|error| CommandError::about(error, document))
    }

    /// Calls a method whose answer brings descriptors.
    pub(crate) fn call_with_fds<M: Method>(
        &mut self,
        method: &M,
        places: impl FnOnce(&M::Reply) -> Vec<usize>,
    ) -> Result<(M::Reply, Vec<OwnedFd>), ClientError> {
        waiting(|| self.client.call_with_fds(method, places))
    }

    /// The client itself.
    pub(crate) fn into_client(self) -> Client {
        self.client
    }
}

/// Says that it waits, if that takes long and somebody sits there.
fn waiting<T>(call: impl FnOnce() -> T) -> T {
    if !io::stderr().is_terminal() {
        return call();
    }
    let (done, wait) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if wait.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                anstream::eprintln!("waiting for the daemon …");
            }
        });
        let result = call();
        drop(done);
        result
    })
}
