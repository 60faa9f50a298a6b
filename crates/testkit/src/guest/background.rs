//! A guest that goes on while the test does something else, and counts what it loses.

use std::net::IpAddr;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::ping::Pinger;
use super::{Guest, GuestError};

/// How long the last answers may take after the last request.
const LATE: Duration = Duration::from_millis(300);

/// How well a stream of echo requests got through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Continuity {
    /// Requests sent.
    pub sent: u32,
    /// Requests answered.
    pub received: u32,
    /// The longest time in which no answer came, from the first request to the last.
    pub longest_gap: Duration,
}

impl Continuity {
    /// Requests without an answer (yet).
    pub fn lost(&self) -> u32 {
        self.sent - self.received
    }
}

/// A guest whose stack works on a thread of its own. Dropping it ends the guest.
pub struct Background {
    thread: Option<JoinHandle<Guest>>,
    orders: Sender<Order>,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Continuity>>,
}

/// What the guest's thread is to do.
enum Order {
    Begin(Stream),
    Work(Box<dyn FnOnce(&mut Guest) + Send>),
}

/// A stream to begin.
struct Stream {
    target: IpAddr,
    interval: Duration,
    /// Told once, when the first answer has come.
    answered: Sender<()>,
}

/// A stream that is running.
struct Running {
    pinger: Pinger,
    interval: Duration,
    answered: Option<Sender<()>>,
    next: Instant,
    last_answer: Instant,
    /// By the low 16 bits of its number: whether the request is unanswered.
    waiting: Vec<bool>,
}

impl Guest {
    /// Lets the guest's stack work on its own: it answers, renews its lease, and echoes.
    pub fn run_in_background(self) -> Background {
        let (orders, receiver) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Continuity::default()));
        let thread = {
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            std::thread::spawn(move || run(self, &receiver, &stop, &seen))
        };
        Background { thread: Some(thread), orders, stop, seen }
    }
}

impl Background {
    /// Begins to ping `target` every `interval` and to count anew; an earlier stream ends.
    ///
    /// Returns once the first answer has come, so that what is lost later is lost later.
    ///
    /// # Errors
    /// `Timeout` if there is no answer in time.
    pub fn ping_every(&self, target: IpAddr, interval: Duration, deadline: Duration) -> Result<(), GuestError> {
        let (answered, first) = channel();
        // If the guest's thread is gone, no answer will come, and finish() shows its panic.
        let _ = self.orders.send(Order::Begin(Stream { target, interval, answered }));
        first
            .recv_timeout(deadline)
            .map_err(|_| GuestError::Timeout { what: format!("echo reply from {target}"), deadline })
    }

    /// Lets the guest do something else in between, and returns what came of it. A stream of echo requests rests
    /// meanwhile, and its rest counts for nothing.
    ///
    /// # Panics
    /// If the guest's thread has ended, which is by a panic.
    pub fn with<T: Send + 'static>(&self, work: impl FnOnce(&mut Guest) -> T + Send + 'static) -> T {
        let (done, result) = channel();
        // The caller waits below, so that there is somebody to tell.
        let work = Box::new(move |guest: &mut Guest| drop(done.send(work(guest))));
        let _ = self.orders.send(Order::Work(work));
        result.recv().unwrap_or_else(|_| panic!("the guest's thread has ended"))
    }

    /// The count so far. Answers on their way count as lost here.
    pub fn continuity(&self) -> Continuity {
        *lock(&self.seen)
    }

    /// Stops the stream, waits up to 0.3 s for the last answers, and returns the guest and the final count.
    ///
    /// # Panics
    /// With the panic of the guest's thread.
    pub fn finish(mut self) -> (Guest, Continuity) {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else {
            unreachable!("only this takes the thread, and takes the value with it");
        };
        let guest = thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        (guest, *lock(&self.seen))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in the guest's thread has been printed; a second one here would abort.
            let _ = thread.join();
        }
    }
}

fn lock(seen: &Mutex<Continuity>) -> std::sync::MutexGuard<'_, Continuity> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(mut guest: Guest, orders: &Receiver<Order>, stop: &AtomicBool, seen: &Mutex<Continuity>) -> Guest {
    let mut running: Option<Running> = None;
    let mut stopping: Option<Instant> = None;
    loop {
        match orders.try_recv() {
            Ok(Order::Begin(stream)) => {
                if let Some(old) = running.take() {
                    guest.close_pinger(old.pinger);
                }
                *lock(seen) = Continuity::default();
                running = Some(Running::new(&mut guest, stream));
            }
            Ok(Order::Work(work)) => {
                let begin = Instant::now();
                work(&mut guest);
                if let Some(running) = &mut running {
                    running.last_answer += begin.elapsed();
                }
            }
            Err(_) => {}
        }
        let mut next = Instant::now() + Duration::from_millis(10);
        if let Some(running) = &mut running {
            running.receive(&mut guest, seen);
            if stopping.is_none() {
                running.send(&mut guest, seen);
                next = next.min(running.next);
            }
        }
        if stop.load(Ordering::Relaxed) {
            let end = *stopping.get_or_insert_with(|| Instant::now() + LATE);
            if lock(seen).lost() == 0 || Instant::now() >= end {
                if let Some(running) = running {
                    guest.close_pinger(running.pinger);
                }
                return guest;
            }
        }
        guest.step(next);
    }
}

impl Running {
    fn new(guest: &mut Guest, stream: Stream) -> Running {
        let now = Instant::now();
        Running {
            pinger: guest.open_pinger(stream.target),
            interval: stream.interval,
            answered: Some(stream.answered),
            next: now,
            last_answer: now,
            waiting: vec![false; 1 << 16],
        }
    }

    fn send(&mut self, guest: &mut Guest, seen: &Mutex<Continuity>) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        let mut seen = lock(seen);
        let seq = seen.sent as u16; // the low 16 bits
        self.waiting[usize::from(seq)] = true;
        guest.send_ping(&self.pinger, seq);
        seen.sent += 1;
        // After a late turn the pace starts anew, rather than with a burst.
        self.next = (self.next + self.interval).max(now);
        // What has not ended yet counts too.
        seen.longest_gap = seen.longest_gap.max(now - self.last_answer);
    }

    fn receive(&mut self, guest: &mut Guest, seen: &Mutex<Continuity>) {
        while let Some(seq) = guest.pong(&self.pinger) {
            let now = Instant::now();
            let mut seen = lock(seen);
            // A second answer to the same request is none.
            if std::mem::take(&mut self.waiting[usize::from(seq)]) {
                seen.received += 1;
                seen.longest_gap = seen.longest_gap.max(now - self.last_answer);
                self.last_answer = now;
                if let Some(answered) = self.answered.take() {
                    // Nobody listens any more after the deadline.
                    let _ = answered.send(());
                }
            }
        }
    }
}
