//! Changes of a part of a network: libvirt's net-update, as a pure function.
//!
//! Which entry a fragment means is libvirt's rule for each section: what it names must agree. Whether the change suits
//! the guests that are there (a device in use, say) is not known here.

mod whole;

use super::{DeviceRef, DhcpHost, DnsHost, Ip, Network};
use crate::xml::dns::{SrvFields, read_dns_host, read_srv, read_srv_fields, read_txt};
use crate::xml::ip::{read_dhcp_host, read_range};
use crate::xml::network::read_portgroup;
use crate::xml::parts::link_name;
use crate::xml::reader::{Cursor, Mode, read_document};
use crate::{Error, ErrorKind, Result};
use UpdateCommand as Do;

/// What to do with the part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpdateCommand {
    /// Put it in place of the one that matches.
    Modify,
    /// Remove the one that matches.
    Delete,
    /// Add it behind the others.
    AddLast,
    /// Add it before the others.
    AddFirst,
}

/// Which part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpdateSection {
    /// `<bridge>`
    Bridge,
    /// `<domain>`
    Domain,
    /// `<ip>`
    Ip,
    /// `<host>` in `<dhcp>`
    IpDhcpHost,
    /// `<range>` in `<dhcp>`
    IpDhcpRange,
    /// `<forward>`
    Forward,
    /// `<interface>` in `<forward>`
    ForwardInterface,
    /// `<pf>` in `<forward>`
    ForwardPf,
    /// `<portgroup>`
    Portgroup,
    /// `<host>` in `<dns>`
    DnsHost,
    /// `<txt>` in `<dns>`
    DnsTxt,
    /// `<srv>` in `<dns>`
    DnsSrv,
    /// `<bandwidth>` of the network itself; libvirt has no such section
    Bandwidth,
}

impl UpdateSection {
    /// libvirt's word for it, as `virsh net-update` takes it, where it has one.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Domain => "domain",
            Self::Ip => "ip",
            Self::IpDhcpHost => "ip-dhcp-host",
            Self::IpDhcpRange => "ip-dhcp-range",
            Self::Forward => "forward",
            Self::ForwardInterface => "forward-interface",
            Self::ForwardPf => "forward-pf",
            Self::Portgroup => "portgroup",
            Self::DnsHost => "dns-host",
            Self::DnsTxt => "dns-txt",
            Self::DnsSrv => "dns-srv",
            Self::Bandwidth => "bandwidth",
        }
    }
}

impl Network {
    /// The network with one entry of `section` changed as `fragment` says, checked as a whole. `parent` is the number
    /// of the `<ip>` that is meant or that a DHCP entry belongs to; without it, an `<ip>` is known by its address, and a
    /// DHCP entry goes to the one that serves DHCP, else to the first.
    ///
    /// Refuses modifications of entries that have nothing else to be found by, as libvirt does, entries that are there
    /// already or are not to be found, and whatever [`Network::validate`] finds in the result.
    pub fn update(
        &self,
        command: UpdateCommand,
        section: UpdateSection,
        parent: Option<u32>,
        fragment: &str,
    ) -> Result<Self> {
        let mut network = self.clone();
        match section {
            UpdateSection::IpDhcpHost => network.update_dhcp_host(command, parent, fragment),
            UpdateSection::IpDhcpRange => network.update_dhcp_range(command, parent, fragment),
            UpdateSection::ForwardInterface => network.update_interface(command, fragment),
            UpdateSection::Portgroup => network.update_portgroup(command, fragment),
            UpdateSection::DnsHost => network.update_dns_host(command, fragment),
            UpdateSection::DnsTxt => network.update_dns_txt(command, fragment),
            UpdateSection::DnsSrv => network.update_dns_srv(command, fragment),
            UpdateSection::Bridge => network.update_bridge(command, fragment),
            UpdateSection::Domain => network.update_domain(command, fragment),
            UpdateSection::Bandwidth => network.update_bandwidth(command, fragment),
            UpdateSection::Ip => network.update_ip(command, parent, fragment),
            UpdateSection::Forward => network.update_forward(command, fragment),
            UpdateSection::ForwardPf => network.update_pf(command, fragment),
        }?;
        network.validate()?;
        Ok(network)
    }

    fn refusal(&self, kind: ErrorKind, cause: impl Into<String>) -> Error {
        Error::new(kind, format!("network '{}'", self.name), cause)
    }

    fn read<T>(&self, fragment: &str, root: &str, read: impl FnOnce(&Cursor<'_, '_>) -> Result<T>) -> Result<T> {
        read_document(fragment, Mode::Strict, &format!("network '{}'", self.name), root, read)
    }

    /// Refuses a modification in a section whose entries have nothing to find them by but themselves.
    fn not_modify(&self, command: UpdateCommand, what: &str) -> Result<()> {
        if command == Do::Modify {
            let cause = format!("{what} can't be modified, only added and deleted");
            return Err(self.refusal(ErrorKind::Unsupported, cause).hint("delete the old one and add the new one"));
        }
        Ok(())
    }

    fn exists(&self, what: &str) -> Error {
        self.refusal(ErrorKind::InvalidState, format!("there is {what} already"))
    }

    fn not_found(&self, what: &str) -> Error {
        self.refusal(ErrorKind::InvalidState, format!("there is no {what}"))
    }

    fn ambiguous(&self, what: &str) -> Error {
        let cause = format!("more than one {what} matches");
        self.refusal(ErrorKind::InvalidState, cause).hint("give more of its fields")
    }

    /// The `<ip>` that a DHCP entry belongs to.
    fn dhcp_parent(&self, parent: Option<u32>) -> Result<usize> {
        if let Some(number) = parent {
            return self.ip_number(number);
        }
        let serving = self.ips.iter().position(|ip| ip.dhcp.is_some());
        let first = self.ips.iter().position(|ip| ip.address.is_ipv4());
        serving.or(first).ok_or_else(|| self.not_found("<ip> that could serve DHCP"))
    }

    fn update_dhcp_host(&mut self, command: UpdateCommand, parent: Option<u32>, fragment: &str) -> Result<()> {
        let at = self.dhcp_parent(parent)?;
        let host = self.read(fragment, "host", |c| read_dhcp_host(c, &self.ips[at], command == Do::Delete))?;
        let hosts = self.ips[at].dhcp.as_ref().map_or(&[][..], |d| &d.hosts);
        let what = format!("reservation {}", describe_host(&host));
        let found = hosts.iter().position(|h| match command {
            Do::Modify => same(&host.mac, &h.mac) || same(&host.id, &h.id) || same(&host.name, &h.name),
            Do::Delete => {
                agrees(&host.mac, &h.mac)
                    && agrees(&host.id, &h.id)
                    && agrees(&host.name, &h.name)
                    && agrees(&host.ip, &h.ip)
            }
            Do::AddFirst | Do::AddLast => {
                same(&host.mac, &h.mac) || same(&host.id, &h.id) || same(&host.name, &h.name) || same(&host.ip, &h.ip)
            }
        });
        if let (Do::AddFirst | Do::AddLast, Some(n)) = (command, found) {
            return Err(self.exists(&format!("a reservation {}", describe_host(&hosts[n]))));
        }
        self.check_found(command, found, &what)?;
        let dhcp = self.ips[at].dhcp.get_or_insert_default();
        change(&mut dhcp.hosts, command, found, host);
        forget_empty_dhcp(&mut self.ips[at]);
        Ok(())
    }

    fn update_dhcp_range(&mut self, command: UpdateCommand, parent: Option<u32>, fragment: &str) -> Result<()> {
        self.not_modify(command, "DHCP ranges")?;
        let at = self.dhcp_parent(parent)?;
        let range = self.read(fragment, "range", |c| read_range(c, &self.ips[at]))?;
        let what = format!("range from {} to {}", range.start, range.end);
        let ranges = self.ips[at].dhcp.as_ref().map_or(&[][..], |d| &d.ranges);
        let found = ranges.iter().position(|r| r.start == range.start && r.end == range.end);
        self.check_found(command, found, &what)?;
        let dhcp = self.ips[at].dhcp.get_or_insert_default();
        change(&mut dhcp.ranges, command, found, range);
        forget_empty_dhcp(&mut self.ips[at]);
        Ok(())
    }

    fn update_interface(&mut self, command: UpdateCommand, fragment: &str) -> Result<()> {
        self.not_modify(command, "forward interfaces")?;
        let dev = self.read(fragment, "interface", |c| {
            c.ignore_attr("connections");
            c.required("dev", link_name)
        })?;
        if self.forward.mode.as_str().is_none() || self.forward.mode == super::ForwardMode::Open {
            let mode = self.forward.mode.as_str().unwrap_or("none");
            return Err(self.refusal(ErrorKind::InvalidState, format!("forward mode '{mode}' takes no device")));
        }
        let found = self.forward.devices.iter().position(|d| d.dev == dev);
        self.check_found(command, found, &format!("forward interface '{dev}'"))?;
        change(&mut self.forward.devices, command, found, DeviceRef { dev });
        Ok(())
    }

    fn update_portgroup(&mut self, command: UpdateCommand, fragment: &str) -> Result<()> {
        let portgroup = self.read(fragment, "portgroup", read_portgroup)?;
        let found = self.portgroups.iter().position(|p| p.name == portgroup.name);
        self.check_found(command, found, &format!("portgroup '{}'", portgroup.name))?;
        change(&mut self.portgroups, command, found, portgroup);
        Ok(())
    }

    fn update_dns_host(&mut self, command: UpdateCommand, fragment: &str) -> Result<()> {
        let delete = command == Do::Delete;
        let host = self.read(fragment, "host", |c| read_dns_host(c, delete))?;
        // Several addresses with one name are fine, so that only a deletion goes by names.
        let matches = |h: &DnsHost| {
            same(&host.ip, &h.ip) || (delete && host.hostnames.iter().any(|name| h.hostnames.contains(name)))
        };
        let hosts = self.dns.as_ref().map_or(&[][..], |d| &d.hosts);
        let mut found = hosts.iter().enumerate().filter(|(_, h)| matches(h)).map(|(n, _)| n);
        let (first, second) = (found.next(), found.next());
        let what = if delete { "DNS host of that address or name" } else { "DNS host of that address" };
        self.check_found(command, first, what)?;
        if delete && second.is_some() {
            return Err(self.ambiguous("DNS host"));
        }
        change(&mut self.dns.get_or_insert_default().hosts, command, first, host);
        self.forget_empty_dns();
        Ok(())
    }

    fn update_dns_txt(&mut self, command: UpdateCommand, fragment: &str) -> Result<()> {
        let txt = self.read(fragment, "txt", |c| read_txt(c, command == Do::Delete))?;
        let txts = self.dns.as_ref().map_or(&[][..], |d| &d.txts);
        let found = txts.iter().position(|t| t.name == txt.name);
        self.check_found(command, found, &format!("TXT record '{}'", txt.name))?;
        change(&mut self.dns.get_or_insert_default().txts, command, found, txt);
        self.forget_empty_dns();
        Ok(())
    }

    fn update_dns_srv(&mut self, command: UpdateCommand, fragment: &str) -> Result<()> {
        self.not_modify(command, "SRV records")?;
        let wanted: SrvFields = self.read(fragment, "srv", read_srv_fields)?;
        let srvs = self.dns.as_ref().map_or(&[][..], |d| &d.srvs);
        let mut found = srvs.iter().enumerate().filter(|(_, s)| wanted.matches(s)).map(|(n, _)| n);
        let (first, second) = (found.next(), found.next());
        self.check_found(command, first, "SRV record with all of these fields")?;
        if command == Do::Delete {
            let Some(at) = first.filter(|_| second.is_none()) else { return Err(self.ambiguous("SRV record")) };
            self.dns.get_or_insert_default().srvs.remove(at);
        } else {
            let srv = self.read(fragment, "srv", read_srv)?;
            change(&mut self.dns.get_or_insert_default().srvs, command, None, srv);
        }
        self.forget_empty_dns();
        Ok(())
    }

    /// Additions need an entry that is not there, everything else one that is.
    fn check_found(&self, command: UpdateCommand, found: Option<usize>, what: &str) -> Result<()> {
        match (command, found) {
            (Do::AddFirst | Do::AddLast, Some(_)) => Err(self.exists(&format!("a {what}"))),
            (Do::Modify | Do::Delete, None) => Err(self.not_found(what)),
            _ => Ok(()),
        }
    }

    /// `<dns>` that says nothing counts as none.
    fn forget_empty_dns(&mut self) {
        self.dns = self.dns.take().filter(|d| *d != super::Dns::default());
    }
}

/// Both are given, and the same.
fn same<T: PartialEq>(wanted: &Option<T>, there: &Option<T>) -> bool {
    wanted.is_some() && wanted == there
}

/// Nothing else is wanted than what is there.
fn agrees<T: PartialEq>(wanted: &Option<T>, there: &Option<T>) -> bool {
    wanted.is_none() || wanted == there
}

/// Carries out a command on a list whose entry `found` is the one meant.
fn change<T>(list: &mut Vec<T>, command: UpdateCommand, found: Option<usize>, entry: T) {
    match (command, found) {
        (Do::Modify, Some(at)) => list[at] = entry,
        (Do::Delete, Some(at)) => {
            list.remove(at);
        }
        (Do::AddFirst, _) => list.insert(0, entry),
        (Do::AddLast, _) => list.push(entry),
        (Do::Modify | Do::Delete, None) => {}
    }
}

/// `<dhcp>` without ranges and reservations serves nobody, and counts as none.
fn forget_empty_dhcp(ip: &mut Ip) {
    ip.dhcp = ip.dhcp.take().filter(|d| !d.ranges.is_empty() || !d.hosts.is_empty());
}

fn describe_host(host: &DhcpHost) -> String {
    let mut parts = Vec::new();
    parts.extend(host.mac.map(|m| format!("mac='{m}'")));
    parts.extend(host.id.iter().map(|i| format!("id='{i}'")));
    parts.extend(host.name.iter().map(|n| format!("name='{n}'")));
    parts.extend(host.ip.map(|i| format!("ip='{i}'")));
    parts.join(" ")
}
