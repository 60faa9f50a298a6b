//! What a client sends: frames of any bytes, cut anywhere, and the calls in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchcord_api::MAX_CALL;
use patchcord_api::frame::Decoder;
use patchcord_api::message::Call;

fuzz_target!(|parts: Vec<&[u8]>| {
    let mut frames = Decoder::new(MAX_CALL);
    for part in parts {
        frames.push(part);
        while let Ok(Some(message)) = frames.message() {
            let _ = serde_json::from_slice::<Call>(message);
        }
    }
});
