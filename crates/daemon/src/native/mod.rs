//! The native door: varlink over a Unix socket, one task for each connection.
//!
//! | file | what |
//! |---|---|
//! | `connection` | messages in and out, within limits |
//! | `peer` | who is at the other end |
//! | `session` | calls about networks, and those about the service itself |
//! | `nics` | calls about NICs |
//! | `monitor` | the stream of events |

mod connection;
mod monitor;
mod nics;
mod peer;
mod session;
#[cfg(test)]
mod tests;

use crate::access::Access;
use crate::handle::Handle;
use crate::import::Importer;
use connection::{Broken, Connection};
use session::{Answered, Session};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

/// Connections at once.
const MAX_CONNECTIONS: usize = 1024;
/// Connections besides, for those who may do everything, so that nobody can keep them out.
const RESERVED: usize = 64;
/// How long nothing is said of connections that are refused, so that nobody can fill the log with them.
const QUIET: Duration = Duration::from_secs(10);
/// Connections of one user at once, save of those who may do everything.
const MAX_PER_USER: usize = 64;

/// Serves the native API on a socket for as long as it is polled; when it is dropped, all connections end.
///
/// One connection more than there may be is closed at once.
pub async fn serve(listener: UnixListener, handle: Handle, access: Arc<Access>, importer: Arc<Importer>) {
    let mut connections = JoinSet::new();
    let mut users: HashMap<Id, u32> = HashMap::new();
    let mut told = None;
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely. Clients wait in the kernel's queue meanwhile.
                    warn!(%error, "can't take a native connection");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            Some(ended) = connections.join_next_with_id() => {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                users.remove(&id);
                continue;
            }
        };
        let peer = match peer::of(&stream) {
            Ok(peer) => peer,
            Err(error) => {
                warn!(%error, "can't tell who connects");
                continue;
            }
        };
        let own = users.values().filter(|uid| **uid == peer.uid).count();
        let refused = match peer.is_full() {
            true => users.len() >= MAX_CONNECTIONS + RESERVED,
            false => users.len() >= MAX_CONNECTIONS || own >= MAX_PER_USER,
        };
        if refused {
            if told.is_none_or(|told: Instant| told.elapsed() > QUIET) {
                warn!(uid = peer.uid, "too many native connections");
                told = Some(Instant::now());
            }
            continue;
        }
        let uid = peer.uid;
        let session = Session::new(handle.clone(), Arc::clone(&access), Arc::clone(&importer), peer);
        let task = connections.spawn(async move {
            if let Err(error) = converse(stream, &session).await {
                debug!(uid, %error, "a native connection ended");
            }
        });
        users.insert(task.id(), uid);
    }
}

/// Answers one client's calls in order, until it goes or breaks the rules.
async fn converse(stream: UnixStream, session: &Session) -> Result<(), Broken> {
    let mut connection = Connection::new(stream);
    loop {
        let call = match connection.call().await {
            Ok(Some(call)) => call,
            Ok(None) => return Ok(()),
            Err(Broken::TooLong(error)) => {
                // It is found before the rest is sent, and the connection ends with it.
                connection.send(&session::too_long(error), &[]).await?;
                return Err(error.into());
            }
            Err(Broken::Garbage(error)) => {
                connection.send(&session::garbage(&error), &[]).await?;
                return Err(error.into());
            }
            Err(broken) => return Err(broken),
        };
        match session.answer(call).await {
            Answered::Once { message, fds, undo } => {
                if let Err(broken) = connection.send(&message, &fds).await {
                    // Nobody has the NIC's id, so that nobody could detach it.
                    if let Some(nic) = undo {
                        session.take_back(nic).await;
                    }
                    return Err(broken);
                }
            }
            Answered::Quiet => {}
            Answered::Stream => return session.monitor(&mut connection).await,
        }
    }
}
