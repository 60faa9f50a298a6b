//! Hands and eyes: the only crate that touches the kernel, processes and files.
//!
//! It decides nothing. What to do comes from `patchcord-core` as plans and records; this crate carries them out
//! and reports what it found. Everything here blocks; the daemon calls it from threads of its own, or waits for
//! the descriptors that the types give out through `AsFd`.
#![deny(unsafe_code)]

mod announce;
pub mod association;
mod cause;
mod cord;
pub mod dnsmasq;
pub mod driver;
pub mod error;
pub mod executor;
pub mod files;
pub mod firewalls;
pub mod function;
mod hints;
pub mod hooks;
pub mod ident;
pub mod kernel;
pub mod libvirt;
pub mod lldpad;
pub mod lock;
pub mod macvtap;
pub mod nft;
pub mod nodedev;
pub mod observe;
mod ops;
pub mod ovs;
pub mod process;
mod reaper;
pub mod reclaim;
pub mod resolv;
pub mod root;
mod shaping;
pub mod spawner;
pub mod speed;
pub mod sriov;
pub mod store;
mod sys;
pub mod sysctl;
pub mod tap;
mod vlan;
mod watcher;

pub use error::Error;

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
