//! What clients of libvirt send: packets, and each procedure's arguments.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchcord_libvirt_wire::{Call, Decoder, Procedure};

fuzz_target!(|bytes: &[u8]| {
    let mut decoder = Decoder::default();
    for part in bytes.chunks(7) {
        decoder.push(part);
        while let Ok(Some(frame)) = decoder.next_frame() {
            if let Some(procedure) = Procedure::of(frame.header.procedure) {
                let _ = Call::decode(procedure, &frame.payload);
            }
        }
    }
    for procedure in Procedure::ALL {
        let _ = Call::decode(*procedure, bytes);
    }
});
