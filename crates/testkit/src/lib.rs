//! What Patchcord's tests share: private network namespaces, guests in user space, a sysfs of files, simulated devices,
//! probes and skips.
//!
//! A kernel test runs in a namespace of its own and looks at it through other people's programs:
//!
//! ```no_run
//! // with #[test] in front:
//! fn a_bridge_gets_its_port() {
//!     patchcord_testkit::in_namespace(|ns| {
//!         ns.run("ip link add br0 type bridge");
//!         let links = ns.json("ip -j link show dev br0");
//!         assert_eq!(links[0]["ifname"], "br0");
//!     });
//! }
//! ```
//!
//! This crate is for tests only: its helpers panic with a message where a product would return an error.
#![deny(unsafe_code)]

mod dns;
mod ebpf;
mod guest;
mod libvirtd;
mod namespace;
mod netdevsim;
mod openvswitch;
mod packages;
mod peer;
mod process;
mod raw;
mod skip;
mod sys;
mod sysfs;
mod wait;
mod wire;

pub use dns::{DnsAnswer, DnsKind, DnsRecord, ask_dns};
pub use ebpf::RedirectProgram;
pub use guest::{
    Background, Continuity, Guest, GuestError, Lease, Prefix, RouterAdvertisement, create_tap, keep_tap, open_node,
    open_tap,
};
pub use libvirtd::Libvirtd;
pub use namespace::{Namespace, in_namespace};
pub use netdevsim::NetdevSim;
pub use openvswitch::OpenVSwitch;
pub use packages::unpacked;
pub use peer::NetlinkPeer;
pub use process::Process;
pub use raw::{Frames, VNET_HEADER, frame, send_on};
pub use skip::{
    has_bond, has_bridge_vlan_filtering, has_dummy, has_netdevsim, has_vlan, needs, probe, require_root, skip,
    test_name,
};
pub use sysfs::Sysfs;
pub use wait::wait_until;
pub use wire::Wire;
