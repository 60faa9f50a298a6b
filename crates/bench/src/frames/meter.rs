//! Frames sent and received on one thread, and the time that takes.
//!
//! The thread stays on one processor. A veth pair without NAPI hands frames to the far end's softirq, and that runs in the
//! sender's context when the system call is done: all the work is the thread's own, unless `ksoftirqd` takes over.

use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use patchcord_testkit::{VNET_HEADER, frame};
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use super::ways::Joined;
use crate::Result;

/// Frames that are under way at once: less than any queue on the way holds.
const BATCH: u32 = 64;
/// Batches of one measurement.
const BATCHES: u32 = 32;
/// Frames of one measurement.
pub(super) const FRAMES: u32 = BATCH * BATCHES;

/// Who sends.
#[derive(Clone, Copy)]
pub(super) enum Sender {
    Guest,
    Wire,
}

/// One measurement.
pub(super) struct Cost {
    /// The thread's CPU time.
    pub(super) cpu: Duration,
    /// By the clock.
    pub(super) wall: Duration,
    /// Frames that did not arrive.
    pub(super) lost: u64,
}

/// Measures one way, with frames of that length.
pub(super) fn measure(joined: &Joined, from: Sender, len: usize) -> Result<Cost> {
    let peer = [0x52, 0x54, 0, 4, 0, joined.mac[5]];
    let mut buffer = vec![0; VNET_HEADER + len];
    let mut lost = 0;
    let mut batch: Box<dyn FnMut() -> Result<()>> = match from {
        Sender::Guest => {
            let packet = [vec![0; VNET_HEADER], frame(peer, joined.mac, None, len, 0)].concat();
            Box::new(move || send(&joined.guest, &packet))
        }
        Sender::Wire => {
            let packet = frame(joined.mac, peer, None, len, 0);
            let (lost, buffer) = (&mut lost, &mut buffer);
            Box::new(move || {
                send(&joined.wire, &packet)?;
                *lost += u64::from(BATCH) - receive(joined, buffer);
                Ok(())
            })
        }
    };
    // The one before left other things in the caches.
    batch()?;
    let before = arrived(&joined.far)?;
    let (begun, used) = (Instant::now(), cpu_time()?);
    for _ in 0..BATCHES {
        batch()?;
    }
    let (wall, cpu) = (begun.elapsed(), cpu_time()?.saturating_sub(used));
    drop(batch);
    if matches!(from, Sender::Guest) {
        lost = u64::from(FRAMES).saturating_sub(arrived(&joined.far)? - before);
    }
    Ok(Cost { cpu, wall, lost })
}

fn send(by: impl AsFd, packet: &[u8]) -> Result<()> {
    for _ in 0..BATCH {
        rustix::io::write(&by, packet)?;
    }
    Ok(())
}

/// Reads what has come, up to a batch; how many frames.
fn receive(joined: &Joined, buffer: &mut [u8]) -> u64 {
    (0..BATCH).map_while(|_| rustix::io::read(&joined.guest, &mut *buffer).ok()).count() as u64
}

/// How many frames have come in at a link.
fn arrived(link: &str) -> Result<u64> {
    Ok(fs::read_to_string(format!("/sys/class/net/{link}/statistics/rx_packets"))?.trim().parse()?)
}

fn cpu_time() -> Result<Duration> {
    Ok(Duration::try_from(clock_gettime(ClockId::ThreadCPUTime))?)
}

/// The kernel's thread for softirqs that take too long, on this thread's processor.
pub(super) struct Helper {
    schedstat: String,
}

impl Helper {
    /// Keeps the calling thread on the processor where it is, and finds the kernel's thread there.
    pub(super) fn pinned() -> Result<Self> {
        let cpu = sched_getcpu();
        let mut only = CpuSet::new();
        only.set(cpu);
        sched_setaffinity(None, &only)?;
        let name = format!("ksoftirqd/{cpu}\n");
        let mut processes = fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
        let process = processes.find(|path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm == name));
        let process = process.ok_or("there is no ksoftirqd")?;
        Ok(Self { schedstat: process.join("schedstat").display().to_string() })
    }

    /// How long it has run.
    pub(super) fn ran(&self) -> Result<Duration> {
        let text = fs::read_to_string(&self.schedstat)?;
        Ok(Duration::from_nanos(text.split_whitespace().next().unwrap_or_default().parse()?))
    }
}
