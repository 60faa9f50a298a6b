//! Files that a crash or a disk may have damaged: records of run state, and dnsmasq's lease file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchcord_core::plan::dnsmasq::parse_leases;
use patchcord_core::xml::{Stamp, nic_claim, read_association, read_host_state, read_network_state, read_nic_state};

fuzz_target!(|text: &str| {
    let stamp = Stamp { boot_id: "b".into(), netns: 1 };
    let _ = read_network_state(&stamp, text);
    let _ = read_nic_state(&stamp, text);
    let _ = read_host_state(&stamp, text);
    let _ = read_association(&stamp, text);
    let _ = nic_claim(text);
    let _ = parse_leases(text);
});
