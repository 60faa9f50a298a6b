//! Messages in and out of one connection, within limits.

use patchcord_api::frame::{self, Decoder, TooLong};
use patchcord_api::message::{Call, Reply};
use patchcord_api::{MAX_CALL, socket};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long a client may take none of what is sent to it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that are read at once.
const READ: usize = 16 * 1024;

/// Why a connection ended before its client closed it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The socket says so.
    #[error("the socket failed: {0}")]
    Io(#[from] io::Error),
    /// What came is no varlink.
    #[error("a message is no call: {0}")]
    Garbage(#[from] serde_json::Error),
    /// A message is too long.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// It ended inside a message.
    #[error("it ended inside a message")]
    Torn,
    /// The client doesn't take its answers.
    #[error("the client takes none of its answers")]
    Stuck,
}

/// One client's connection. Descriptors that it sends are closed by the kernel, since nobody receives them.
pub(super) struct Connection {
    stream: UnixStream,
    decoder: Decoder,
}

impl Connection {
    /// On that socket.
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, decoder: Decoder::new(MAX_CALL) }
    }

    /// The next call; `None` when the client has closed its sending side.
    pub(super) async fn call(&mut self) -> Result<Option<Call>, Broken> {
        loop {
            if let Some(message) = self.decoder.message()? {
                return Ok(Some(serde_json::from_slice(message)?));
            }
            if !self.read().await? {
                return if self.decoder.is_between() { Ok(None) } else { Err(Broken::Torn) };
            }
        }
    }

    /// Sends a message with descriptors beside it.
    pub(super) async fn send(&mut self, message: &Reply, fds: &[OwnedFd]) -> Result<(), Broken> {
        let bytes = frame::encode(message)?;
        let (mut rest, mut fds) = (&bytes[..], fds.iter().map(AsFd::as_fd).collect::<Vec<_>>());
        while !rest.is_empty() {
            let sent = self.stream.async_io(Interest::WRITABLE, || socket::send(&self.stream, rest, &fds));
            let sent = timeout(PATIENCE, sent).await.map_err(|_| Broken::Stuck)??;
            // They went with the first byte.
            fds.clear();
            rest = &rest[sent..];
        }
        Ok(())
    }

    /// Returns when the client has closed its sending side. What it sends before waits, and may be one message long.
    pub(super) async fn closed(&mut self) -> Result<(), Broken> {
        while self.read().await? {
            if self.decoder.pending() > MAX_CALL {
                return Err(TooLong(MAX_CALL).into());
            }
        }
        Ok(())
    }

    /// Reads some bytes; false at the end. Nothing is lost when it is dropped while it waits.
    async fn read(&mut self) -> Result<bool, Broken> {
        loop {
            self.stream.readable().await?;
            let mut bytes = [0; READ];
            match self.stream.try_read(&mut bytes) {
                Ok(count) => {
                    self.decoder.push(&bytes[..count]);
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
