//! A wire between two taps: it puts a kernel's own stack, and programs of others, behind a NIC.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{Namespace, open_tap, sys};

/// The virtio-net header before each frame, in bytes, as QEMU sets it.
const HEADER: usize = 12;

/// More than any frame without offloads, its header included.
const FRAME: usize = 16 << 10;

/// Carries frames both ways until it is dropped, and holds both taps as long.
pub struct Wire {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    /// Makes the link `name` with that MAC in this namespace, brings it up, and joins it to the guest's side of `tap`:
    /// what runs in this namespace is the guest, then. IPv6 addresses are there at once: nobody is asked whether he
    /// has them.
    ///
    /// # Panics
    /// If that fails.
    pub fn behind(&self, tap: OwnedFd, name: &str, mac: [u8; 6]) -> Wire {
        let inside = self.inside(|| {
            std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")?;
            open_tap(name)
        });
        let inside = inside.unwrap_or_else(|error| panic!("{name}: {error}"));
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        self.run(&format!("ip link set dev {name} address {mac} up"));
        Wire::new([tap, inside]).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

impl Wire {
    fn new(ends: [OwnedFd; 2]) -> io::Result<Self> {
        for end in &ends {
            sys::set_up_tap(end, HEADER)?;
            let flags = rustix::fs::fcntl_getfl(end)?;
            rustix::fs::fcntl_setfl(end, flags | rustix::fs::OFlags::NONBLOCK)?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                carry(&ends);
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

/// Carries what has come, or waits a moment for it. What the other side refuses (it is down, or full) is lost.
fn carry(ends: &[OwnedFd; 2]) {
    let [a, b] = ends;
    let mut frame = vec![0; FRAME];
    let mut carried = false;
    for (from, to) in [(a, b), (b, a)] {
        while let Ok(len @ 1..) = rustix::io::read(from, &mut frame) {
            carried = true;
            let _ = rustix::io::write(to, &frame[..len]);
        }
    }
    if !carried {
        let moment = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        let mut both = [PollFd::new(a, PollFlags::IN), PollFd::new(b, PollFlags::IN)];
        // A tap that is down or gone is "ready" all the time.
        let broken =
            poll(&mut both, Some(&moment)).is_err() || both.iter().any(|fd| fd.revents().contains(PollFlags::ERR));
        if broken {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It can't panic: nothing in it does.
            let _ = thread.join();
        }
    }
}
