//! What of a network depends on several of its fields.

use super::{ActualType, Bandwidth, ForwardMode, Ip, Network, VIRTUALPORT_TYPES_HINT, VirtualPort, VirtualPortType};
use crate::{Error, ErrorKind, Result};
use std::collections::HashSet;
use std::iter;

/// `<ip>` elements of a network at most: each is compared with each route.
const MAX_IPS: usize = 1024;

/// What dnsmasq, which is told to listen on the bridge, would take for a pattern, a list, quotes or a comment.
const NOT_IN_OWN_BRIDGES: [char; 5] = ['*', ',', '"', '\\', '#'];

impl Network {
    /// Checks a definition: libvirt's rules about what goes with which forward mode, and that portgroups, addresses,
    /// ranges, reservations and routes agree with each other. Nothing here depends on the host.
    pub fn validate(&self) -> Result<()> {
        self.check_mode()?;
        self.check_bridge_name()?;
        self.check_portgroups()?;
        self.check_virtualports()?;
        self.check_nics()?;
        self.check_addresses()?;
        self.check_routes()?;
        self.check_dns()?;
        self.check_floors()
    }

    fn invalid(&self, field: &str, cause: impl Into<String>) -> Error {
        Error::new(ErrorKind::InvalidXml, format!("network '{}'", self.name), cause).field(field)
    }

    fn check_mode(&self) -> Result<()> {
        let forward = &self.forward;
        let Some(mode) = forward.mode.as_str() else { return Ok(()) };
        if forward.mode.has_own_bridge() {
            if self.ips.is_empty() {
                let hint = "add an <ip address='…' prefix='…'>, or remove <forward>";
                return Err(self.invalid("<ip>", format!("forward mode '{mode}' needs an address")).hint(hint));
            }
            if forward.devices.len() > 1 {
                let cause = format!("forward mode '{mode}' takes one device, and there are {}", forward.devices.len());
                return Err(self.invalid("<forward interface>", cause));
            }
            if forward.pf.is_some() || !forward.addresses.is_empty() {
                let cause = format!("forward mode '{mode}' takes neither <pf> nor <address>");
                return Err(self.invalid("<forward>", cause));
            }
            return Ok(());
        }
        let bridge = &self.bridge;
        let named = bridge.name.is_some() || bridge.pattern.is_some();
        if forward.mode == ForwardMode::Bridge {
            if named && (!forward.devices.is_empty() || forward.pf.is_some() || !forward.addresses.is_empty()) {
                let cause = "there is a <bridge> and a <forward> device: NICs join the one or sit on the other";
                return Err(self.invalid("<bridge name>", cause).hint("remove one of them"));
            }
            if bridge.pattern.is_some() {
                let cause = "forward mode 'bridge' uses a bridge that is there, and makes none";
                return Err(self.invalid("<bridge name>", cause).hint("name a bridge of the host"));
            }
        } else if named {
            return Err(self.invalid("<bridge name>", format!("forward mode '{mode}' has no bridge")));
        }
        self.check_devices(mode)?;
        let has_records = self.dns.as_ref().is_some_and(|d| *d != super::Dns::default());
        let not_ours = [
            ("<mac>", self.mac.is_some()),
            ("<ip>", !self.ips.is_empty()),
            ("<route>", !self.routes.is_empty()),
            ("<dns>", has_records),
            ("<domain>", self.domain.is_some()),
            ("<mtu>", self.mtu.is_some()),
            ("<bandwidth>", self.bandwidth.is_some()),
        ];
        if let Some((field, _)) = not_ours.iter().find(|(_, given)| *given) {
            let cause = format!("forward mode '{mode}' leaves it to whoever runs the outer network");
            return Err(self.invalid(field, cause).hint("remove it, or use mode nat, route, open or none"));
        }
        Ok(())
    }

    /// A host's bridge may be called as its owner likes, one that we make is named to dnsmasq.
    fn check_bridge_name(&self) -> Result<()> {
        let name = self.bridge.name.as_ref().map(|name| name.as_str()).or(self.bridge.pattern.as_deref());
        let Some(name) = name.filter(|_| self.forward.mode.has_own_bridge()) else { return Ok(()) };
        match name.chars().find(|c| NOT_IN_OWN_BRIDGES.contains(c)) {
            None => Ok(()),
            Some(c) => {
                let cause = format!("{c:?} can't be in the name of a network's own bridge: dnsmasq would misread it");
                Err(self.invalid("<bridge name>", cause).hint("use letters, digits, '-', '_' and '.'"))
            }
        }
    }

    /// What NICs that need a device of the host's choose from.
    fn check_devices(&self, mode: &str) -> Result<()> {
        let forward = &self.forward;
        let (links, addresses) = (!forward.devices.is_empty(), !forward.addresses.is_empty());
        if forward.pf.is_some() && (links || addresses) {
            // Live views, and so run state, show the functions that were found.
            let hint = "remove them: the functions of <pf> are found at each start";
            return Err(self.invalid("<forward pf>", "it can't be mixed with <interface> and <address>").hint(hint));
        }
        match ActualType::of_network(self) {
            ActualType::Hostdev if links => {
                let cause = "forward mode 'hostdev' gives PCI devices away, and these are links";
                let hint = "list <address type='pci' …/>, or use mode 'passthrough'";
                Err(self.invalid("<forward interface>", cause).hint(hint))
            }
            ActualType::Hostdev if forward.pf.is_none() && !addresses => Err(self
                .invalid("<forward>", "forward mode 'hostdev' needs devices, and there are none")
                .hint("add <pf dev='…'/>, or <address type='pci' …/> for each device")),
            // Its PCI devices say nothing about where its NICs would be.
            ActualType::Bridge if addresses && self.bridge.name.is_none() => {
                let cause =
                    format!("forward mode '{mode}' takes no PCI devices, and it names neither a bridge nor a device");
                let hint = "name the host's bridge, list <interface dev='…'/>, or use mode 'passthrough' or 'hostdev'";
                Err(self.invalid("<forward address>", cause).hint(hint))
            }
            ActualType::Direct(_) if forward.pf.is_none() && !links && !addresses => {
                let cause = format!("forward mode '{mode}' needs a device, and there is none");
                Err(self.invalid("<forward dev>", cause).hint("add dev='…', or <interface dev='…'/> for each device"))
            }
            _ => Ok(()),
        }
    }

    fn check_portgroups(&self) -> Result<()> {
        let mut names = HashSet::new();
        if let Some(twice) = self.portgroups.iter().find(|p| !names.insert(&p.name)) {
            return Err(self.invalid("<portgroup name>", format!("there are two portgroups '{}'", twice.name)));
        }
        let mut defaults = self.portgroups.iter().filter(|p| p.default == Some(true));
        if let (Some(first), Some(second)) = (defaults.next(), defaults.next()) {
            let cause = format!("'{}' and '{}' are both the default", first.name, second.name);
            return Err(self.invalid("<portgroup default>", cause).hint("only one portgroup can be it"));
        }
        Ok(())
    }

    fn check_virtualports(&self) -> Result<()> {
        let own = self.virtualport.as_ref().and_then(|port| port.kind);
        let check = |port: &VirtualPort, whose: &str| {
            // Without a type, a portgroup's virtualport is of the network's.
            let kind = port.kind.or(own);
            if let Some(name) = (VirtualPort { kind, ..port.clone() }).foreign_parameter() {
                return Err(
                    self.invalid("<virtualport parameters>", format!("'{name}' does not go with the type of {whose}"))
                );
            }
            if kind.is_none_or(|kind| ActualType::of_network(self).takes_virtualport(kind)) {
                return Ok(());
            }
            let cause = format!("the type of {whose} does not go with forward mode '{}'", self.mode());
            Err(self.invalid("<virtualport type>", cause).hint(VIRTUALPORT_TYPES_HINT))
        };
        if let Some(port) = &self.virtualport {
            check(port, "the network")?;
        }
        for portgroup in &self.portgroups {
            let Some(port) = &portgroup.virtualport else { continue };
            check(port, &format!("portgroup '{}'", portgroup.name))?;
            if own.is_some() && port.kind.is_some() && own != port.kind {
                let cause = format!("portgroup '{}' and the network name different types", portgroup.name);
                return Err(self.invalid("<virtualport type>", cause));
            }
        }
        Ok(())
    }

    /// What is said for NICs and could be had by none of them.
    fn check_nics(&self) -> Result<()> {
        let actual = ActualType::of_network(self);
        let mode = self.mode();
        let own = self.virtualport.as_ref().and_then(|port| port.kind);
        let portgroups = self.portgroups.iter().map(|p| {
            let kind = p.virtualport.as_ref().and_then(|port| port.kind);
            (format!("portgroup '{}'", p.name), &p.vlan, kind.or(own))
        });
        for (whose, vlan, kind) in iter::once(("it".to_owned(), &self.vlan, own)).chain(portgroups) {
            // Documents of libvirt's have a <vlan> beside 802.1Qbh, whose profile decides on VLANs: NICs are refused instead.
            let Some(vlan) = vlan.as_ref().filter(|_| kind != Some(VirtualPortType::Qbh)) else { continue };
            if let Some((why, hint)) = actual.refuses_vlan(vlan, kind) {
                let noun = actual.noun();
                let cause = format!("{whose} puts NICs into VLANs, and forward mode '{mode}' gives them {noun}, {why}");
                return Err(self.invalid("<vlan>", cause).hint(hint));
            }
        }
        if actual == ActualType::Hostdev
            && let Some(portgroup) = self.portgroups.iter().find(|p| p.bandwidth.is_some())
        {
            let cause = format!("portgroup '{}' limits rates, which nobody can do for a PCI device", portgroup.name);
            return Err(self.invalid("<bandwidth>", cause).hint("remove it"));
        }
        if matches!(actual, ActualType::Direct(_) | ActualType::Hostdev) && self.port_isolated == Some(true) {
            let cause = format!("NICs can't be isolated in forward mode '{mode}'");
            return Err(self.invalid("<port isolated>", cause).hint("use a bridge, or mode 'private'"));
        }
        Ok(())
    }

    fn mode(&self) -> &'static str {
        self.forward.mode.as_str().unwrap_or("none")
    }

    fn check_addresses(&self) -> Result<()> {
        if self.ips.len() > MAX_IPS {
            return Err(self.invalid("<ip>", format!("there are {}, and there may be {MAX_IPS}", self.ips.len())));
        }
        let mut own = HashSet::new();
        for (n, ip) in self.ips.iter().enumerate() {
            if !own.insert(ip.address) {
                return Err(self.invalid("<ip address>", format!("{} is there twice", ip.address)));
            }
            ip.check_address().map_err(|cause| {
                self.invalid("<ip address>", cause).hint("give one that the host can have for itself")
            })?;
            // Two addresses of one subnet are none of two.
            let (net, others) = (ip.network().trunc(), self.ips[..n].iter().map(|other| other.network().trunc()));
            if let Some(other) = others.filter(|o| *o != net).find(|o| o.contains(&net) || net.contains(o)) {
                let cause = format!("its subnets {other} and {net} overlap");
                return Err(self.invalid("<ip address>", cause).hint("choose another subnet for one of them"));
            }
            let Some(dhcp) = &ip.dhcp else { continue };
            let family = if ip.address.is_ipv4() { "IPv4" } else { "IPv6" };
            if self.ips[..n].iter().any(|o| o.dhcp.is_some() && o.address.is_ipv4() == ip.address.is_ipv4()) {
                let cause = format!("there are two for {family}, and a network serves one of each family");
                return Err(self.invalid("<dhcp>", cause));
            }
            let mut ranges: Vec<_> = dhcp.ranges.iter().collect();
            for range in &ranges {
                ip.check_range(range).map_err(|(field, cause)| self.invalid(&format!("<range {field}>"), cause))?;
            }
            ranges.sort_by_key(|r| r.start);
            if let Some(pair) = ranges.windows(2).find(|pair| pair[1].start <= pair[0].end) {
                let (a, b) = (pair[0], pair[1]);
                let cause = format!("{}-{} and {}-{} overlap", a.start, a.end, b.start, b.end);
                return Err(self.invalid("<range>", cause));
            }
            let (mut macs, mut ids, mut addresses) = (HashSet::new(), HashSet::new(), HashSet::new());
            for host in &dhcp.hosts {
                let who = || host.name.clone().or_else(|| host.mac.map(|m| m.to_string())).unwrap_or_default();
                if let Some(address) = host.ip {
                    ip.check_host_address(address).map_err(|cause| self.invalid("<host ip>", cause))?;
                    if !addresses.insert(address) {
                        let cause = format!("{address} is reserved twice, the second time for '{}'", who());
                        return Err(self.invalid("<host ip>", cause));
                    }
                }
                if let Some(mac) = host.mac.filter(|mac| !macs.insert(*mac)) {
                    return Err(self.invalid("<host mac>", format!("{mac} has two reservations")));
                }
                if let Some(id) = host.id.as_ref().filter(|id| !ids.insert(id.to_lowercase())) {
                    return Err(self.invalid("<host id>", format!("'{id}' has two reservations")));
                }
            }
        }
        Ok(())
    }

    fn check_routes(&self) -> Result<()> {
        let mut seen = HashSet::new();
        let networks: Vec<_> = self.ips.iter().map(Ip::network).collect();
        for route in &self.routes {
            if !networks.iter().any(|net| net.contains(&route.gateway)) {
                let cause = format!("no address of the network reaches {}", route.gateway);
                return Err(self.invalid("<route gateway>", cause).hint("the gateway must lie within an <ip>"));
            }
            if self.ips.iter().any(|ip| ip.address == route.gateway) {
                let cause = format!("{} is the host's own address", route.gateway);
                return Err(self.invalid("<route gateway>", cause));
            }
            if !seen.insert((route.destination(), route.metric)) {
                return Err(self.invalid("<route address>", format!("there are two to {}", route.destination())));
            }
        }
        Ok(())
    }

    fn check_dns(&self) -> Result<()> {
        let Some(dns) = &self.dns else { return Ok(()) };
        let records = dns.forwarders.len() + dns.txts.len() + dns.srvs.len() + dns.hosts.len();
        if dns.enable == Some(false) && records > 0 {
            let cause = "enable='no' leaves nobody to serve the records that it lists";
            return Err(self.invalid("<dns>", cause).hint("remove the records, or enable='no'"));
        }
        if dns.hosts.iter().any(|h| h.ip.is_none() || h.hostnames.is_empty()) {
            return Err(self.invalid("<dns host>", "a record needs an 'ip' and a <hostname>"));
        }
        if dns.txts.iter().any(|t| t.value.is_none()) {
            return Err(self.invalid("<dns txt>", "a record needs a 'value'"));
        }
        Ok(())
    }

    fn check_floors(&self) -> Result<()> {
        let floor = |b: &Option<Bandwidth>| b.as_ref().and_then(|b| b.inbound).and_then(|r| r.floor).is_some();
        if floor(&self.bandwidth) || self.portgroups.iter().any(|p| floor(&p.bandwidth)) {
            let cause = "a guaranteed rate belongs to a NIC";
            return Err(self.invalid("<inbound floor>", cause));
        }
        Ok(())
    }
}
