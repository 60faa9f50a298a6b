//! The Patchcord daemon: the loop that owns the engine, the doors that lead to it, and what carries out its effects.
//!
//! | file | what |
//! |---|---|
//! | `service` | start: locks, records, the kernel as it is |
//! | `engine_loop` | one input at a time goes in, and its effects are carried out |
//! | `records`, `jobs`, `leases` | files; dnsmasq and processes that are waited for; what dnsmasq writes |
//! | `handle` | what connections hold of the loop |
//! | `native`, `access`, `convert` | the native door, who may use it for what, and its types |
//! | `libvirt` | libvirt's door |
//! | `import` | networks that come from libvirt's own daemon, and go back |
//! | `polkit` | asking the host's policy who may do what |
//! | `hooks` | which hooks there are, and their calls |
//! | `config` | the configuration file |
//! | `confine` | what is given up before anybody is served |
//! | `systemd` | sockets that were passed, and telling when we are ready |
#![forbid(unsafe_code)]

pub mod access;
pub mod associations;
pub mod config;
pub mod confine;
pub mod convert;
pub mod engine_loop;
pub mod handle;
pub mod hooks;
pub mod import;
pub mod jobs;
pub mod leases;
pub mod libvirt;
pub mod native;
pub mod polkit;
pub mod pollable;
pub mod records;
pub mod service;
pub mod systemd;
