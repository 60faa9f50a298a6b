//! Settings of bonds.

use std::net::{IpAddr, Ipv4Addr};

use super::read::keep;
use crate::attr::Attrs;

const IFLA_BOND_MODE: u16 = 1;
const IFLA_BOND_MIIMON: u16 = 3;
const IFLA_BOND_UPDELAY: u16 = 4;
const IFLA_BOND_DOWNDELAY: u16 = 5;
const IFLA_BOND_USE_CARRIER: u16 = 6;
const IFLA_BOND_ARP_INTERVAL: u16 = 7;
const IFLA_BOND_ARP_IP_TARGET: u16 = 8;
const IFLA_BOND_ARP_VALIDATE: u16 = 9;
const IFLA_BOND_PRIMARY: u16 = 11;

/// A bond's settings; `None` means that the kernel did not tell it. Times are in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BondOptions {
    /// How frames are spread over the ports (`BOND_MODE_*`): 0 round robin, 1 active-backup, 2 xor, 3 broadcast, 4
    /// 802.3ad, 5 and 6 adaptive.
    pub mode: Option<u8>,
    /// How often ports' carriers are looked at; 0 is never.
    pub mii_interval: Option<u32>,
    /// How long a carrier has to be there before its port is used.
    pub up_delay: Option<u32>,
    /// How long it has to be gone before the port is not used any more.
    pub down_delay: Option<u32>,
    /// Carriers are what drivers say, and not read from the hardware by ioctl.
    pub use_carrier: Option<bool>,
    /// How often ARP requests are sent; 0 is never.
    pub arp_interval: Option<u32>,
    /// Whom they ask for, IPv4.
    pub arp_targets: Vec<Ipv4Addr>,
    /// On which ports answers count (`arp_validate`): 0 anything counts, 1 on the active one, 2 on the others, 3 on all.
    pub arp_validate: Option<u32>,
    /// Index of the port that is preferred over the others.
    pub primary: Option<u32>,
}

impl BondOptions {
    pub(super) fn read(attrs: Attrs<'_>) -> (Self, bool) {
        let mut options = Self::default();
        let mut whole = true;
        for attr in attrs {
            let number = attr.u32().map(Some);
            whole &= match attr.kind {
                IFLA_BOND_MODE => keep(&mut options.mode, attr.u8().map(Some)),
                IFLA_BOND_MIIMON => keep(&mut options.mii_interval, number),
                IFLA_BOND_UPDELAY => keep(&mut options.up_delay, number),
                IFLA_BOND_DOWNDELAY => keep(&mut options.down_delay, number),
                IFLA_BOND_USE_CARRIER => keep(&mut options.use_carrier, attr.u8().map(|byte| Some(byte != 0))),
                IFLA_BOND_ARP_INTERVAL => keep(&mut options.arp_interval, number),
                IFLA_BOND_ARP_IP_TARGET => {
                    options.arp_targets = attr.nested().filter_map(|target| target.ip()).filter_map(v4).collect();
                    true
                }
                IFLA_BOND_ARP_VALIDATE => keep(&mut options.arp_validate, number),
                IFLA_BOND_PRIMARY => keep(&mut options.primary, number),
                _ => true,
            };
        }
        (options, whole)
    }
}

fn v4(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}
