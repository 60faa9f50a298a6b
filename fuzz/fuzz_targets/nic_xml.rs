//! A guest's interface: no text makes the reader panic, and what it takes is printed so that it reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchcord_core::xml::{read_nic, write_nic};

fuzz_target!(|text: &str| {
    let Ok(nic) = read_nic(text) else { return };
    let printed = write_nic(&nic);
    let again = read_nic(&printed);
    assert_eq!(again.as_ref(), Ok(&nic), "printed as:\n{printed}");
});
