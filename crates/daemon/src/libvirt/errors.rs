//! Our errors as libvirt's clients know them.

use patchcord_core::{Error, ErrorKind};
use patchcord_libvirt_wire::Driver;
use patchcord_libvirt_wire::reply::RemoteError;

/// An error of ours. The fixed text, code and domain are of the kind; what follows the colon is all that we say, save of
/// what our own command could do: who uses libvirt's has that of libvirt's.
pub(super) fn remote(error: &Error) -> RemoteError {
    let codes = error.kind.codes();
    let number = |number: u32| i32::try_from(number).unwrap_or(1);
    let hint = error.hint.clone().filter(|hint| !hint.contains("patchcord "));
    let said = Error { hint, ..error.clone() }.to_string();
    RemoteError::new(number(codes.libvirt_code), number(codes.libvirt_domain), codes.prefix, said)
}

/// An error of that driver's: most of our kinds are counted as the network driver's, whoever was asked.
pub(super) fn of(driver: Driver, error: RemoteError) -> RemoteError {
    let domain = if error.domain == Driver::Network.domain() { driver.domain() } else { error.domain };
    RemoteError { domain, ..error }
}

/// That a connection can't write.
pub(super) fn read_only(driver: Driver, api: &str) -> RemoteError {
    RemoteError::new(29, driver.domain(), "operation forbidden", format!("read only access prevents {api}"))
}

/// That a function is another driver's.
pub(super) fn no_support(driver: Driver, api: &str) -> RemoteError {
    RemoteError::new(3, driver.domain(), "this function is not supported by the connection driver", api)
}

/// That an argument is not what belongs there.
pub(super) fn invalid(argument: &str, cause: impl Into<String>) -> RemoteError {
    remote(&Error::new(ErrorKind::InvalidArgument, argument, cause))
}

/// That nothing is asked for but what is known: a flag may ask for less to be done than is without it.
pub(super) fn known_flags(flags: u32, known: u32) -> Result<(), RemoteError> {
    match flags & !known {
        0 => Ok(()),
        unknown => Err(invalid("the flags", format!("{unknown:#x} is not known here"))),
    }
}

/// That the engine answered something else than was asked for.
pub(super) fn unexpected() -> RemoteError {
    remote(&Error::new(ErrorKind::Internal, "the daemon", "the answer is not what was asked for"))
}
