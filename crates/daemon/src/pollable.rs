//! Descriptors that the runtime waits for.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Something with a descriptor, as the runtime wants it.
#[derive(Debug)]
pub struct Pollable<T>(pub T);

impl<T: AsFd> AsFd for Pollable<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<T: AsFd> AsRawFd for Pollable<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Waits for something to become readable. What can't be waited for comes back with the reason.
///
/// # Errors
/// When the runtime's own descriptor takes no more.
#[expect(
    deprecated,
    reason = "the replacement is unsafe for descriptors that change; a type that owns its `AsFd` has one"
)]
pub fn readable<T: AsFd>(inner: T) -> Result<AsyncFd<Pollable<T>>, (T, std::io::Error)> {
    AsyncFd::try_with_interest(Pollable(inner), Interest::READABLE).map_err(|error| {
        let (Pollable(inner), cause) = error.into_parts();
        (inner, cause)
    })
}
