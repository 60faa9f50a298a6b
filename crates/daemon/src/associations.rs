//! Asking switches for NICs' profiles: each request on a thread of its own, since it takes as long as the switch does.

use crate::jobs::phrase;
use patchcord_core::engine::JobOutcome;
use patchcord_core::model::VirtualPortType;
use patchcord_core::plan::Association;
use patchcord_host::association::{self, Guest, Uplink};
use patchcord_host::lldpad::PidFile;
use patchcord_host::root::Root;
use patchcord_host::spawner::Spawner;
use patchcord_host::sriov::Sriov;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tracing::debug;
use uuid::Uuid;

/// What a switch is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Give a port its profile.
    Associate,
    /// Take it away.
    Disassociate,
}

/// Asks switches, through lldpad or devices' drivers.
#[derive(Debug)]
pub struct Associator {
    asker: Arc<Asker>,
    /// Who asks about which link, one at a time: lldpad tells of a refusal once, whoever asks.
    turns: HashMap<u32, Arc<Mutex<()>>>,
}

#[derive(Debug)]
struct Asker {
    pid_file: PathBuf,
    /// Who may read that.
    spawner: Spawner,
    sriov: Sriov,
    host: Uuid,
    patience: Duration,
}

impl Associator {
    /// With lldpad and sysfs below `root`; the host is known to switches by `host`. Each request has `patience`, from
    /// when its turn comes.
    pub fn new(root: &Root, spawner: Spawner, host: Uuid, patience: Duration) -> Self {
        let asker = Asker { pid_file: root.lldpad_pid(), spawner, sriov: Sriov::new(root.base()), host, patience };
        Self { asker: Arc::new(asker), turns: HashMap::new() }
    }

    /// Makes a request, and says how it went. It must be called from within the runtime's local set.
    pub fn start(&mut self, demand: Demand, of: Association, done: impl Fn(JobOutcome) + Clone + Send + 'static) {
        // Turns that nobody waits for.
        self.turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        let turn = Arc::clone(self.turns.entry(of.index.0).or_default());
        let asker = Arc::clone(&self.asker);
        tokio::task::spawn_local(async move {
            let turn = turn.lock_owned().await;
            let told = done.clone();
            let thread = std::thread::Builder::new().name("association".to_owned()).spawn(move || {
                let outcome = asker.ask(demand, &of);
                debug!(?demand, device = %of.device, nic = %of.nic, ?outcome, "the switch was asked");
                drop(turn);
                told(outcome);
            });
            if let Err(error) = thread {
                done(JobOutcome::Failed(format!("there is no thread to ask it: {error}")));
            }
        });
    }
}

impl Asker {
    fn ask(&self, demand: Demand, of: &Association) -> JobOutcome {
        let asked = self.port(of).and_then(|port| {
            let deadline = Instant::now() + self.patience;
            let pid_file = PidFile::read_by(&self.spawner, &self.pid_file);
            match demand {
                Demand::Associate if of.reserved => association::reserve(&port, pid_file, deadline),
                Demand::Associate => association::associate(&port, pid_file, deadline),
                Demand::Disassociate => association::disassociate(&port, pid_file, deadline),
            }
        });
        asked.map_or_else(|error| JobOutcome::Failed(phrase(&error)), |()| JobOutcome::Done)
    }

    fn port(&self, of: &Association) -> Result<association::Association, patchcord_host::Error> {
        let guest = Guest { mac: of.mac, vlan: of.vlan, uuid: of.guest, host: self.host };
        association::Association::new(self.uplink(of)?, &of.port, &guest)
    }

    /// The link that is asked about: for 802.1Qbh on a virtual function its PF's.
    fn uplink(&self, of: &Association) -> Result<Uplink, patchcord_host::Error> {
        let itself = Uplink { name: of.device.clone(), index: of.index.0, vf: None };
        if of.port.kind != Some(VirtualPortType::Qbh) {
            return Ok(itself);
        }
        let place = match of.function {
            Some(address) => self.sriov.of_address(address)?,
            None => self.sriov.of_link(&of.device)?,
        };
        let Some(place) = place else { return Ok(itself) };
        let index = self.sriov.pf_index(&place)?;
        Ok(Uplink { name: place.pf, index, vf: Some(place.number) })
    }
}
