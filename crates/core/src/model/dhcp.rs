//! DHCP and network boot of a network.

use super::MacAddr;
use std::net::IpAddr;

/// `<dhcp>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dhcp {
    /// Ranges.
    pub ranges: Vec<DhcpRange>,
    /// Reservations.
    pub hosts: Vec<DhcpHost>,
    /// `<bootp>`.
    pub bootp: Option<Bootp>,
}

/// `<range>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpRange {
    /// First address.
    pub start: IpAddr,
    /// Last address.
    pub end: IpAddr,
    /// How long a lease lasts.
    pub lease: Option<Expiry>,
}

/// `<host>`: a reservation. IPv4 is keyed by MAC or name, IPv6 by DUID or name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DhcpHost {
    /// `mac`.
    pub mac: Option<MacAddr>,
    /// `id`: DUID or client id, as written.
    pub id: Option<String>,
    /// `name`.
    pub name: Option<String>,
    /// `ip`.
    pub ip: Option<IpAddr>,
    /// How long a lease lasts.
    pub lease: Option<Expiry>,
}

/// `<lease expiry unit>`; 0 is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// How many of `unit`.
    pub expiry: u64,
    /// The unit: minutes unless given, none when the lease never ends.
    pub unit: Option<LeaseUnit>,
}

/// Unit of a lease time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseUnit {
    /// `seconds`
    Seconds,
    /// `minutes`
    Minutes,
    /// `hours`
    Hours,
}

/// `<bootp>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootp {
    /// Boot file.
    pub file: String,
    /// TFTP server; ours unless given.
    pub server: Option<IpAddr>,
}

impl LeaseUnit {
    /// Seconds in one of them.
    pub const fn seconds(self) -> u64 {
        match self {
            Self::Seconds => 1,
            Self::Minutes => 60,
            Self::Hours => 3600,
        }
    }
}

impl Expiry {
    /// Seconds that the lease lasts; `None` is for ever.
    pub fn seconds(self) -> Option<u64> {
        let unit = self.unit.unwrap_or(LeaseUnit::Minutes);
        (self.expiry != 0).then(|| self.expiry.saturating_mul(unit.seconds()))
    }
}
