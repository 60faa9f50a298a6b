//! A DHCPv4 client (RFC 2131) that keeps its lease for as long as the guest's stack works.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use smoltcp::socket::dhcpv4;
use smoltcp::wire::{DhcpOption, DhcpPacket};

use super::{Guest, GuestError};

/// Options asked for (RFC 2132, 3397, 3442): mask, router, DNS, host name, domain, MTU, broadcast, NTP, search list,
/// classless routes.
const REQUESTED: &[u8] = &[1, 3, 6, 12, 15, 26, 28, 42, 119, 121];
const HOST_NAME: u8 = 12;
const LEASE_TIME: u8 = 51;

/// What a DHCP server gave to a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The guest's address.
    pub address: Ipv4Addr,
    /// The length of its prefix.
    pub prefix_len: u8,
    /// The server's address.
    pub server: Ipv4Addr,
    /// The default gateway.
    pub router: Option<Ipv4Addr>,
    /// DNS servers, the first three.
    pub dns: Vec<Ipv4Addr>,
    /// How long the lease lasts, in seconds; `u32::MAX` is for ever.
    pub lease_seconds: u32,
    /// Where the boot file is (`siaddr`).
    pub boot_server: Ipv4Addr,
    /// The boot file (`file`); empty without one.
    pub boot_file: String,
    /// Every option of the server's last message by its number, as bytes.
    pub options: BTreeMap<u8, Vec<u8>>,
}

impl Guest {
    /// The name that the guest sends with its next [`Guest::dhcp`] (option 12).
    pub fn set_hostname(&mut self, name: &str) {
        self.hostname = Some(name.to_owned());
    }

    /// Gets a lease, from nothing: an address and a gateway that the guest has are forgotten first.
    ///
    /// The lease is renewed for as long as the stack works, and taken off when it ends.
    ///
    /// # Errors
    /// `Timeout`.
    pub fn dhcp(&mut self, deadline: Duration) -> Result<Lease, GuestError> {
        if let Some(old) = self.dhcp.take() {
            self.sockets.remove(old);
        }
        self.remove_ipv4();
        self.lease = None;
        let mut socket = dhcpv4::Socket::new();
        let mut retry = dhcpv4::RetryConfig::default();
        // The defaults of 10 s and 5 s would make a test wait whose first request was lost.
        retry.discover_timeout = smoltcp::time::Duration::from_millis(250);
        retry.initial_request_timeout = smoltcp::time::Duration::from_millis(500);
        socket.set_retry_config(retry);
        socket.set_parameter_request_list(REQUESTED);
        // The socket borrows these for its life, which is the guest's; a test makes few guests.
        socket.set_receive_packet_buffer(Box::leak(vec![0; 1500].into_boxed_slice()));
        if let Some(name) = &self.hostname {
            let name: &'static [u8] = Box::leak(name.clone().into_bytes().into_boxed_slice());
            let option = DhcpOption { kind: HOST_NAME, data: name };
            socket.set_outgoing_options(Box::leak(Box::new([option])));
        }
        self.dhcp = Some(self.sockets.add(socket));
        self.until(|| "DHCP lease".to_owned(), deadline, |guest| guest.lease.clone())
    }

    /// The lease that the guest holds now.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Applies what the DHCP socket has to tell.
    pub(super) fn follow_dhcp(&mut self) {
        let Some(handle) = self.dhcp else {
            return;
        };
        match self.sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll() {
            Some(dhcpv4::Event::Configured(config)) => {
                let lease = lease(&config);
                self.remove_ipv4();
                self.add_address(lease.address.into(), lease.prefix_len);
                if let Some(router) = lease.router {
                    self.set_gateway(router.into());
                }
                self.lease = Some(lease);
            }
            // A new socket says this first: it must not take a static address off.
            Some(dhcpv4::Event::Deconfigured) if self.lease.is_some() => {
                self.remove_ipv4();
                self.lease = None;
            }
            Some(dhcpv4::Event::Deconfigured) | None => {}
        }
    }
}

fn lease(config: &dhcpv4::Config<'_>) -> Lease {
    let packet = config.packet.as_ref();
    let options: BTreeMap<u8, Vec<u8>> = packet
        .map(|packet| packet.options().map(|option| (option.kind, option.data.to_vec())).collect())
        .unwrap_or_default();
    let seconds = options.get(&LEASE_TIME).and_then(|data| data.as_slice().try_into().ok());
    Lease {
        address: config.address.address(),
        prefix_len: config.address.prefix_len(),
        server: config.server.identifier,
        router: config.router,
        dns: config.dns_servers.iter().copied().collect(),
        lease_seconds: seconds.map_or(0, u32::from_be_bytes),
        boot_server: packet.map_or(Ipv4Addr::UNSPECIFIED, DhcpPacket::server_ip),
        boot_file: packet.and_then(|packet| packet.get_boot_file().ok()).unwrap_or_default().to_owned(),
        options,
    }
}
