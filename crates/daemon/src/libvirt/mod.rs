//! libvirt's doors: its wire protocol over Unix sockets, one pair for each driver, so that its clients find networks here.
//!
//! | file | what |
//! |---|---|
//! | `sockets` | where clients look for us, and whether we serve there |
//! | `connection` | packets in and out, within limits |
//! | `session` | what any connection can be asked |
//! | `networks` | calls about networks |
//! | `names` | files for libvirt's modules of the name service switch |
//! | `ports` | calls about network ports |
//! | `interfaces` | calls about interfaces of the host |
//! | `nodedevs` | calls about node devices |
//! | `devices` | which devices there are |
//! | `metadata` | calls about what is kept with networks |
//! | `events` | what clients are told |
//! | `guard` | who a client is |
//! | `permissions` | what it may do with which object |
//! | `errors` | our errors as libvirt's |

mod connection;
mod devices;
mod errors;
mod events;
mod guard;
mod interfaces;
mod metadata;
mod names;
mod networks;
mod nodedevs;
mod permissions;
mod ports;
mod session;
mod sockets;

pub use sockets::{Switch, open};

use crate::config::Libvirt;
use crate::handle::Handle;
use devices::Devices;
use guard::{Gate, Guard};
use names::NameFiles;
use patchcord_host::executor::Heard;
use patchcord_host::root::Root;
use patchcord_libvirt_wire::Driver;
use session::Session;
use sockets::Door;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::broadcast;
use tokio::task::{Id, JoinSet};
use tokio::time::sleep;
use tracing::{debug, warn};

/// Connections to one socket at once, as many as libvirt's own daemon has.
const MAX_CONNECTIONS: usize = 5000;
/// Connections of one user at once to a socket that anybody may come to, save of root's: each takes a descriptor.
const MAX_PER_STRANGER: usize = 64;

/// Serves clients of libvirt on the sockets that were opened, for as long as it is polled; when it is dropped, all
/// connections end. `heard` is what is heard of the host's devices.
pub async fn serve(doors: Vec<Door>, root: Root, libvirt: Libvirt, handle: Handle, heard: broadcast::Receiver<Heard>) {
    let mut served = JoinSet::new();
    if doors.iter().any(|door| door.driver == Driver::Network) {
        match NameFiles::open(&root, handle.clone()) {
            Ok(files) => drop(served.spawn_local(files.keep())),
            Err(error) => warn!(%error, "guests' names can't be told to libvirt's modules"),
        }
    }
    let devices = doors.iter().any(|door| door.driver == Driver::NodeDevice).then(|| Rc::new(Devices::new(&root)));
    match &devices {
        Some(devices) => drop(served.spawn_local(Rc::clone(devices).keep(heard))),
        None => drop(heard),
    }
    let gate = Rc::new(Gate::new(&root, libvirt));
    for door in doors {
        let devices = devices.clone().filter(|_| door.driver == Driver::NodeDevice);
        served.spawn_local(serve_one(door, root.clone(), Rc::clone(&gate), handle.clone(), devices));
    }
    while served.join_next().await.is_some() {}
}

async fn serve_one(
    Door { driver, listener, read_only }: Door,
    root: Root,
    gate: Rc<Gate>,
    handle: Handle,
    devices: Option<Rc<Devices>>,
) {
    let mut connections = JoinSet::new();
    let mut users: HashMap<Id, u32> = HashMap::new();
    // Who was told of in the log to have too many, so that it is said once, and not of each.
    let mut refused = BTreeSet::new();
    loop {
        let stream = tokio::select! {
            stream = accept(&listener) => stream,
            Some(ended) = connections.join_next_with_id() => {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                if let Some(uid) = users.remove(&id) {
                    refused.remove(&uid);
                }
                continue;
            }
        };
        let Ok(peer) = stream.peer_cred() else { continue };
        let uid = peer.uid();
        let limited = (read_only || gate.is_open()) && uid != 0;
        let too_many = || users.values().filter(|user| **user == uid).count() >= MAX_PER_STRANGER;
        if users.len() >= MAX_CONNECTIONS || (limited && too_many()) {
            if refused.insert(uid) {
                warn!(
                    uid,
                    daemon = driver.daemon(),
                    "too many connections of libvirt's clients, so that more are refused"
                );
            }
            continue;
        }
        let guard = Guard::new(Rc::clone(&gate), peer);
        let session = Session::new(handle.clone(), root.clone(), driver, devices.clone(), read_only, guard);
        let task = connections.spawn_local(async move {
            if let Err(error) = connection::converse(stream, session).await {
                debug!(uid, %error, "a connection of a libvirt client ended");
            }
        });
        users.insert(task.id(), uid);
    }
}

async fn accept(listener: &UnixListener) -> tokio::net::UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                // Out of descriptors, most likely. Clients wait in the kernel's queue meanwhile.
                warn!(%error, "can't take a connection of a libvirt client");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
