//! A network: the logical switch that guests name.

use super::{Bandwidth, Bridge, Dns, Forward, Ip, MacAddr, Metadata, Name, Portgroup, Route, Tag, VirtualPort, Vlan};
use uuid::Uuid;

/// `<network>`, in the order libvirt prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// `ipv6`: guests may use IPv6 among themselves although the host has no address there.
    pub ipv6: Option<bool>,
    /// `trustGuestRxFilters`
    pub trust_guest_rx_filters: Option<bool>,
    /// `<name>`
    pub name: Name,
    /// `<uuid>`; given one when defined without.
    pub uuid: Option<Uuid>,
    /// Labels.
    pub tags: Vec<Tag>,
    /// `<title>`
    pub title: Option<String>,
    /// `<description>`
    pub description: Option<String>,
    /// `<metadata>`
    pub metadata: Option<Metadata>,
    /// `<forward>`
    pub forward: Forward,
    /// `<bridge>`
    pub bridge: Bridge,
    /// `<mtu size>`, 68 to 65535 bytes.
    pub mtu: Option<u32>,
    /// `<mac address>` of the bridge; given one when defined without.
    pub mac: Option<MacAddr>,
    /// `<domain>`
    pub domain: Option<Domain>,
    /// `<dns>`, when given.
    pub dns: Option<Dns>,
    /// `<vlan>` of NICs that have none of their own.
    pub vlan: Option<Vlan>,
    /// `<bandwidth>` of the bridge as a whole.
    pub bandwidth: Option<Bandwidth>,
    /// `<port isolated>`
    pub port_isolated: Option<bool>,
    /// `<ip>` elements.
    pub ips: Vec<Ip>,
    /// `<route>` elements.
    pub routes: Vec<Route>,
    /// `<virtualport>` of all NICs.
    pub virtualport: Option<VirtualPort>,
    /// `<portgroup>` elements.
    pub portgroups: Vec<Portgroup>,
    /// `<dnsmasq:option value>` elements, handed to dnsmasq as they are.
    pub dnsmasq_options: Vec<String>,
}

/// `<domain>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// DNS domain of the guests.
    pub name: String,
    /// `localOnly`: unknown names in it are not asked upstream.
    pub local_only: Option<bool>,
    /// `register`: whether the domain is told to systemd-resolved (libvirt 10.1 and later).
    pub register: Option<bool>,
}

impl Network {
    /// A network of that name with nothing else said: isolated, no addresses.
    pub fn new(name: Name) -> Self {
        Self {
            ipv6: None,
            trust_guest_rx_filters: None,
            name,
            uuid: None,
            tags: Vec::new(),
            title: None,
            description: None,
            metadata: None,
            forward: Forward::default(),
            bridge: Bridge::default(),
            mtu: None,
            mac: None,
            domain: None,
            dns: None,
            vlan: None,
            bandwidth: None,
            port_isolated: None,
            ips: Vec::new(),
            routes: Vec::new(),
            virtualport: None,
            portgroups: Vec::new(),
            dnsmasq_options: Vec::new(),
        }
    }

    /// The portgroup that a NIC naming `wanted` gets: that one, else the default, else none.
    /// The error lists the portgroups there are.
    pub fn portgroup(&self, wanted: Option<&Name>) -> Result<Option<&Portgroup>, String> {
        match wanted {
            None => Ok(self.portgroups.iter().find(|p| p.default == Some(true))),
            Some(name) => self.portgroups.iter().find(|p| &p.name == name).map(Some).ok_or_else(|| {
                let names: Vec<_> = self.portgroups.iter().map(|p| format!("'{}'", p.name)).collect();
                if names.is_empty() {
                    format!("there is no portgroup '{name}': the network has none")
                } else {
                    format!("there is no portgroup '{name}'; there are {}", names.join(", "))
                }
            }),
        }
    }

    /// Whether guests are to be served names: `<dns enable>` is not no, and the host has an address there.
    pub fn serves_dns(&self) -> bool {
        self.forward.mode.has_own_bridge()
            && !self.ips.is_empty()
            && self.dns.as_ref().is_none_or(|dns| dns.enable != Some(false))
    }

    /// Whether guests are to be served addresses.
    pub fn serves_dhcp(&self) -> bool {
        self.ips.iter().any(|ip| ip.dhcp.as_ref().is_some_and(|d| !d.ranges.is_empty() || !d.hosts.is_empty()))
    }
}
