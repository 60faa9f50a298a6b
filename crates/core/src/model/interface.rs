//! Host interfaces: what the host itself is connected by, in libvirt's terms.
//!
//! What is nested in a bridge or bond has a type of its own, which holds no more than it may have there.

use super::{LinkName, MacAddr};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `<interface>` of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The link's name.
    pub name: LinkName,
    /// When it is started; nothing is said about it of one that nobody configured here.
    pub start: Option<StartMode>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Its addresses.
    pub addresses: Addresses,
    /// What its link does.
    pub report: Option<LinkReport>,
    /// What kind of interface it is.
    pub kind: InterfaceKind,
}

impl Interface {
    /// The same as somebody would configure it: without what links do, and without the addresses that the kernel gives
    /// each by itself.
    #[must_use]
    pub fn as_configured(mut self) -> Self {
        self.each_report(|_, report| *report = None);
        if let Some(ipv6) = &mut self.addresses.ipv6 {
            ipv6.addresses.retain(|(ip, _)| !ip.is_unicast_link_local());
        }
        let nothing = Some(Protocol::default());
        if self.addresses.ipv6 == nothing {
            self.addresses.ipv6 = None;
        }
        self
    }

    /// Goes through what is told of its links: its own, and those of its ports.
    pub fn each_report(&mut self, mut with: impl FnMut(&LinkName, &mut Option<LinkReport>)) {
        let of_bond = |bond: &mut Bond, with: &mut dyn FnMut(&LinkName, &mut Option<LinkReport>)| {
            bond.ports.iter_mut().for_each(|port| with(&port.name, &mut port.report));
        };
        with(&self.name, &mut self.report);
        match &mut self.kind {
            InterfaceKind::Bridge(bridge) => {
                for port in &mut bridge.ports {
                    with(&port.name, &mut port.report);
                    if let PortKind::Bond(bond) = &mut port.kind {
                        of_bond(bond, &mut with);
                    }
                }
            }
            InterfaceKind::Bond(bond) => of_bond(bond, &mut with),
            InterfaceKind::Ethernet(_) | InterfaceKind::Vlan(_) => {}
        }
    }
}

/// What kind of interface something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceKind {
    /// Whatever is none of the others.
    Ethernet(Ethernet),
    /// A bridge.
    Bridge(HostBridge),
    /// A bond.
    Bond(Bond),
    /// A VLAN of another link.
    Vlan(VlanLink),
}

/// `<start mode>`: when an interface is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartMode {
    /// `onboot`: with the host.
    OnBoot,
    /// `hotplug`: when its device appears.
    Hotplug,
    /// `none`: when somebody asks for it.
    None,
}

impl StartMode {
    /// libvirt's words.
    pub const WORDS: &[(&str, Self)] = &[("onboot", Self::OnBoot), ("none", Self::None), ("hotplug", Self::Hotplug)];
}

/// The addresses of an interface, by family: none of a family without `<protocol>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// IPv4.
    pub ipv4: Option<Protocol<Ipv4Addr>>,
    /// IPv6.
    pub ipv6: Option<Protocol<Ipv6Addr>>,
    /// IPv6: it takes addresses from router advertisements.
    pub autoconf: bool,
}

impl Addresses {
    /// An address more.
    pub fn add(&mut self, address: IpAddr, prefix: u8) {
        match address {
            IpAddr::V4(ip) => self.ipv4.get_or_insert_default().addresses.push((ip, Some(prefix))),
            IpAddr::V6(ip) => self.ipv6.get_or_insert_default().addresses.push((ip, Some(prefix))),
        }
    }

    /// Where everything goes that has no other way.
    pub fn set_gateway(&mut self, gateway: IpAddr) {
        match gateway {
            IpAddr::V4(ip) => self.ipv4.get_or_insert_default().gateway = Some(ip),
            IpAddr::V6(ip) => self.ipv6.get_or_insert_default().gateway = Some(ip),
        }
    }
}

/// `<protocol>`: the addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol<A> {
    /// It takes an address by DHCP.
    pub dhcp: Option<DhcpClient>,
    /// Addresses, each with the length of its prefix where that was given.
    pub addresses: Vec<(A, Option<u8>)>,
    /// The gateway of its default route.
    pub gateway: Option<A>,
}

impl<A> Default for Protocol<A> {
    fn default() -> Self {
        Self { dhcp: None, addresses: Vec::new(), gateway: None }
    }
}

/// `<dhcp>` of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DhcpClient {
    /// Whether name servers are taken over.
    pub peer_dns: Option<bool>,
}

/// `<link>`: what a link does. It is told, never asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkReport {
    /// Megabits in a second.
    pub speed: Option<u32>,
    /// Its state.
    pub state: Option<OperState>,
}

impl LinkReport {
    /// Whether the link is up; others have no speed.
    pub fn is_up(&self) -> bool {
        self.state == Some(OperState::Up)
    }
}

/// The operational state of a link (RFC 2863).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OperState {
    /// Its driver does not say.
    #[default]
    Unknown,
    /// The hardware is absent.
    NotPresent,
    /// Down.
    Down,
    /// The link below is down.
    LowerLayerDown,
    /// In a test mode.
    Testing,
    /// Waiting for an event, such as authentication.
    Dormant,
    /// Up.
    Up,
}

impl OperState {
    /// libvirt's word, which is the kernel's.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::NotPresent => "notpresent",
            Self::Down => "down",
            Self::LowerLayerDown => "lowerlayerdown",
            Self::Testing => "testing",
            Self::Dormant => "dormant",
            Self::Up => "up",
        }
    }
}

/// What is special about an Ethernet interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ethernet {
    /// Its address.
    pub mac: Option<MacAddr>,
}

/// What is special about a bridge of the host's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostBridge {
    /// Spanning tree (IEEE 802.1D).
    pub stp: Option<bool>,
    /// Forwarding delay.
    pub delay: Option<Delay>,
    /// Its ports.
    pub ports: Vec<BridgePort>,
}

/// A port of a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgePort {
    /// The link's name.
    pub name: LinkName,
    /// What its link does.
    pub report: Option<LinkReport>,
    /// What kind of interface it is.
    pub kind: PortKind,
}

/// What kinds of interfaces may be ports of a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// Whatever is none of the others.
    Ethernet(Ethernet),
    /// A bond.
    Bond(Bond),
    /// A VLAN of another link.
    Vlan(VlanLink),
}

/// A bridge's forwarding delay in hundredths of a second, as the kernel counts. Documents have seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delay(pub u32);

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (seconds, 0) => write!(f, "{seconds}"),
            (seconds, rest) if rest % 10 == 0 => write!(f, "{seconds}.{}", rest / 10),
            (seconds, rest) => write!(f, "{seconds}.{rest:02}"),
        }
    }
}

/// What is special about a bond.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bond {
    /// How frames are spread over its ports.
    pub mode: Option<BondMode>,
    /// How it notices that a port is of no use.
    pub monitor: Option<BondMonitor>,
    /// Its ports; the first is preferred where one is.
    pub ports: Vec<BondPort>,
}

/// A port of a bond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BondPort {
    /// The link's name.
    pub name: LinkName,
    /// What its link does.
    pub report: Option<LinkReport>,
    /// It can be nothing else.
    pub ethernet: Ethernet,
}

/// How a bond spreads frames over its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BondMode {
    /// `balance-rr`: one after the other.
    RoundRobin,
    /// `active-backup`: one is used, the others wait.
    ActiveBackup,
    /// `balance-xor`: by addresses.
    Xor,
    /// `broadcast`: all frames by all.
    Broadcast,
    /// `802.3ad`: as agreed with the switch.
    Lacp,
    /// `balance-tlb`: what is sent, by load.
    TransmitLoad,
    /// `balance-alb`: what is sent and received, by load.
    AdaptiveLoad,
}

impl BondMode {
    /// libvirt's words, which are the kernel's, in the order of the kernel's numbers (`BOND_MODE_*`).
    pub const WORDS: &[(&str, Self)] = &[
        ("balance-rr", Self::RoundRobin),
        ("active-backup", Self::ActiveBackup),
        ("balance-xor", Self::Xor),
        ("broadcast", Self::Broadcast),
        ("802.3ad", Self::Lacp),
        ("balance-tlb", Self::TransmitLoad),
        ("balance-alb", Self::AdaptiveLoad),
    ];
}

/// How a bond notices that a port is of no use. Times are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BondMonitor {
    /// `<miimon>`: by its carrier.
    Mii {
        /// How often that is looked at.
        interval: u32,
        /// How long it has to be gone until the port is not used any more.
        down_delay: Option<u32>,
        /// How long it has to be there until it is used.
        up_delay: Option<u32>,
        /// Who says whether there is one.
        carrier: Option<BondCarrier>,
    },
    /// `<arpmon>`: by asking for somebody.
    Arp {
        /// How often somebody is asked for.
        interval: u32,
        /// Who.
        target: Ipv4Addr,
        /// Which answers count; any, unless said otherwise.
        validate: Option<ArpValidate>,
    },
}

/// Who says whether a bond's port has a carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BondCarrier {
    /// `ioctl`: the hardware, asked for its registers.
    Ioctl,
    /// `netif`: its driver.
    Netif,
}

impl BondCarrier {
    /// libvirt's words.
    pub const WORDS: &[(&str, Self)] = &[("ioctl", Self::Ioctl), ("netif", Self::Netif)];
}

/// On which ports of a bond only real answers count, and not any frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpValidate {
    /// `none`
    None,
    /// `active`: on the one that is used.
    Active,
    /// `backup`: on those that wait.
    Backup,
    /// `all`
    All,
}

impl ArpValidate {
    /// libvirt's words, which are the kernel's, in the order of the kernel's numbers (`BOND_ARP_VALIDATE_*`).
    pub const WORDS: &[(&str, Self)] =
        &[("none", Self::None), ("active", Self::Active), ("backup", Self::Backup), ("all", Self::All)];
}

/// What is special about a VLAN link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VlanLink {
    /// The VLAN, 0 to 4094.
    pub tag: u16,
    /// The link whose VLAN it is.
    pub device: LinkName,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_told_in_seconds() {
        for (delay, text) in [(0, "0"), (1, "0.01"), (150, "1.5"), (1500, "15"), (205, "2.05")] {
            assert_eq!(Delay(delay).to_string(), text);
        }
    }
}
