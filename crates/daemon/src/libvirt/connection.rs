//! Packets in and out of one connection, within limits: calls are carried out side by side and answered as they end, and
//! signs of life are answered meanwhile, up to the first call that has to wait for others.

use super::session::{Open, Session};
use patchcord_libvirt_wire::frame::{BadLength, KEEPALIVE, MAX_FRAME, PING, PONG, REMOTE, VERSION};
use patchcord_libvirt_wire::reply::RemoteError;
use patchcord_libvirt_wire::{Decoder, Frame, Header, Kind, Reply, Status};
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a client may take none of what is sent to it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Calls that are carried out for one client at once; the next one waits, and nothing behind it is read, as in libvirt.
const IN_FLIGHT: usize = 5;
/// Packets that wait to be sent to one client.
const OUTGOING: usize = 64;
/// Bytes that are read at once.
const READ: usize = 16 * 1024;
/// Bytes of a packet at most of who may not write, or has not proved that it may: nothing that is asked for is long.
const LONGEST_OF_STRANGERS: usize = 64 * 1024;

/// Why a connection ended before its client closed it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The socket says so.
    #[error("the socket failed: {0}")]
    Io(#[from] io::Error),
    /// What came is no packet.
    #[error(transparent)]
    Length(#[from] BadLength),
    /// It ended inside a packet.
    #[error("it ended inside a packet")]
    Torn,
    /// The client doesn't take its answers.
    #[error("the client takes none of its answers")]
    Stuck,
}

/// Serves one client until it goes or breaks the rules.
pub(super) async fn converse(stream: UnixStream, session: Session) -> Result<(), Broken> {
    let (mut input, output) = stream.into_split();
    let (outgoing, frames) = mpsc::channel(OUTGOING);
    let read_only = session.is_read_only();
    let mut decoder = Decoder::within(LONGEST_OF_STRANGERS);
    let open = Rc::new(Open::new(session, outgoing.clone()));
    let mut parts = JoinSet::new();
    parts.spawn_local(send(output, frames));
    parts.spawn_local({
        let open = Rc::clone(&open);
        async move {
            open.tell().await;
            Ok(())
        }
    });
    let mut calls = JoinSet::new();
    let mut bytes = vec![0; READ];
    // The call that waits for others to end.
    let mut held = None;
    loop {
        if !read_only && open.session.guard.is_authenticated() {
            decoder.limit(MAX_FRAME);
        }
        while let Some(frame) = match held.take() {
            Some(frame) if calls.len() < IN_FLIGHT => Some(frame),
            Some(frame) => {
                held = Some(frame);
                None
            }
            None => decoder.next_frame()?,
        } {
            if let Some(answer) = signs_of_life(&frame) {
                let _ = outgoing.send(answer).await;
                continue;
            }
            if calls.len() >= IN_FLIGHT {
                held = Some(frame);
                break;
            }
            let (open, outgoing) = (Rc::clone(&open), outgoing.clone());
            calls.spawn_local(async move {
                let header = frame.header;
                let answer = open.answer(frame).await;
                // Whoever sends has ended when nobody takes it.
                let _ = outgoing.send(reply(header, answer)).await;
            });
        }
        tokio::select! {
            Some(_) = calls.join_next() => {}
            Some(ended) = parts.join_next() => return ended.unwrap_or(Ok(())),
            count = input.read(&mut bytes), if held.is_none() => match count? {
                0 => break,
                count => decoder.push(&bytes[..count]),
            },
        }
        if open.is_closed() {
            break;
        }
    }
    // Nobody is asked for a password for who is gone.
    if !open.session.guard.is_authenticated() {
        calls.abort_all();
    }
    // What was asked for is answered before the connection ends.
    while calls.join_next().await.is_some() {}
    open.close();
    drop((open, outgoing));
    while let Some(ended) = parts.join_next().await {
        ended.unwrap_or(Ok(()))?;
    }
    if decoder.is_between() { Ok(()) } else { Err(Broken::Torn) }
}

/// Sends what is to be sent, in order.
async fn send(mut output: OwnedWriteHalf, mut frames: mpsc::Receiver<Frame>) -> Result<(), Broken> {
    while let Some(frame) = frames.recv().await {
        timeout(PATIENCE, output.write_all(&frame.encode())).await.map_err(|_| Broken::Stuck)??;
    }
    Ok(())
}

/// The answer to a client that wants to know whether we live; nothing for what is something else.
fn signs_of_life(frame: &Frame) -> Option<Frame> {
    let header = frame.header;
    let asks = header.program == KEEPALIVE && header.version == VERSION && header.procedure == PING;
    asks.then(|| Frame { header: Header { procedure: PONG, kind: Kind::Message, ..header }, payload: Vec::new() })
}

fn reply(header: Header, answer: Result<Reply, RemoteError>) -> Frame {
    match answer {
        Ok(reply) => Frame { header: header.answer(Status::Ok), payload: reply.encode() },
        Err(error) => Frame { header: header.answer(Status::Error), payload: error.encode() },
    }
}

/// Whether a packet is of the program that we speak.
///
/// # Errors
/// Says which one it is of.
pub(super) fn is_ours(header: Header) -> Result<(), RemoteError> {
    let Header { program, version, kind, .. } = header;
    if (program, version) != (REMOTE, VERSION) {
        return Err(RemoteError::rpc(format!("Cannot find program {program} version {version}")));
    }
    match kind {
        Kind::Call => Ok(()),
        Kind::Reply | Kind::Message => Err(RemoteError::rpc("that is for a server to send")),
        Kind::Other(number) => Err(RemoteError::rpc(format!("packets of type {number} are not taken here"))),
    }
}
