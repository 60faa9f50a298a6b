//! The configuration of a network's dnsmasq: the same service as libvirt's, in a form of which a host can carry a
//! thousand.
//!
//! What differs from the configuration that libvirt writes, and why:
//! - `bind-interfaces` for `bind-dynamic`: with that, each network that comes or goes costs every instance time.
//!   `interface` stays, since it is what ties the DHCP socket to the bridge. The bridge's addresses must be there
//!   when dnsmasq starts, and are named in a comment, so that it is started again when they change.
//! - `no-resolv` always, with the host's name servers in a `servers-file`: watching resolv.conf takes an inotify
//!   instance each, of which a user has 128. The daemon watches it for all, and writes the file.
//! - `dhcp-option=option6:dns-server`, the network's own address: without it router advertisements name the
//!   bridge's link-local address, which comes into being after dnsmasq has bound its sockets.
//! - `dhcp-option=option:mtu` where the network has an MTU.
//! - `dhcp-lease-max` only where dnsmasq's own limit is less than there are addresses: the size of the ranges alone leaves no
//!   lease for reservations beside them.
//! - A lease file, and no script per lease (see [`Lease`]).
//! - File names are made of the network's UUID, so that nothing in its name needs quoting.

mod config;
mod lease;

#[cfg(test)]
mod tests;

pub use config::{Config, Refresh, Settings, refresh_needed};
pub use lease::{Lease, parse_leases, write_leases};
