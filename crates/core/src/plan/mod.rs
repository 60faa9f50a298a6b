//! From what should be and what is to what has to be done: pure functions.

pub mod dnsmasq;
pub mod nft;
pub mod subnet;
