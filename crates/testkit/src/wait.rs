//! Waiting for a condition, with a deadline and the last state seen in the failure.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Asks `poll` every 10 ms until it returns `Ok`, and returns its value.
///
/// `Err` is the state that was seen instead.
///
/// # Panics
/// After `within`, with `what` and the state that was seen last.
pub fn wait_until<T, E: Display>(what: &str, within: Duration, mut poll: impl FnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + within;
    loop {
        match poll() {
            Ok(value) => return value,
            Err(seen) if Instant::now() >= end => {
                panic!("waited {within:?} for {what}; seen last: {seen}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
