//! A network's document: no text makes the reader panic, and what it takes is printed so that it reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchcord_core::xml::{Mode, read_network, write_network};

fuzz_target!(|text: &str| {
    let _ = read_network(text, Mode::Lenient);
    let Ok(network) = read_network(text, Mode::Strict) else { return };
    let printed = write_network(&network);
    let again = read_network(&printed, Mode::Strict);
    assert_eq!(again.as_ref(), Ok(&network), "printed as:\n{printed}");
});
