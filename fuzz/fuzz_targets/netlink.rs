//! What the kernel sends, or something that is taken for it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| patchcord_netlink::fuzz_readers(bytes));
