//! `<ip>` with its `<dhcp>`, and `<route>`.

use super::{
    dns::dns_name,
    parts::{parse_ip, parse_unicast_mac},
    reader::{Cursor, number_in},
    writer::Writer,
};
use crate::Result;
use crate::model::{Bootp, Dhcp, DhcpHost, DhcpRange, Expiry, Family, Ip, LeaseUnit, Mask, Route};
use std::net::{IpAddr, Ipv4Addr};

const FAMILIES: &[(&str, Family)] = &[("ipv4", Family::V4), ("ipv6", Family::V6)];
const LEASE_UNITS: &[(&str, LeaseUnit)] =
    &[("seconds", LeaseUnit::Seconds), ("minutes", LeaseUnit::Minutes), ("hours", LeaseUnit::Hours)];

/// Seconds of a lease at least: dnsmasq's own limit.
const LEASE_MIN: u64 = 120;

/// The attributes that `<ip>` and `<route>` have in common. A prefix of 0 is `everything` to a route; an address has none
/// then, as libvirt has it.
fn read_prefix(c: &Cursor<'_, '_>, everything: bool) -> Result<(Option<Family>, IpAddr, Option<Mask>)> {
    let family = c.choice("family", FAMILIES)?;
    let address = c.required("address", parse_ip)?;
    match (family, address) {
        (Some(Family::V4), IpAddr::V6(_)) => {
            return Err(c.attr_error("family", format!("it is 'ipv4', and {address} is an IPv6 address")));
        }
        (Some(Family::V6), IpAddr::V4(_)) => {
            return Err(c.attr_error("family", format!("it is 'ipv6', and {address} is an IPv4 address")));
        }
        (None, IpAddr::V6(_)) => {
            return Err(c
                .attr_error("address", format!("{address} is an IPv6 address, and no family is given"))
                .hint("add family='ipv6'"));
        }
        _ => {}
    }
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let prefix = c.parsed("prefix", |text| number_in(text, 0..=longest))?.filter(|p| everything || *p != 0);
    let netmask = c.parsed("netmask", |text| {
        let mask: Ipv4Addr = text.parse().map_err(|_| format!("'{text}' is not an IPv4 netmask"))?;
        let bits = u32::from(mask);
        if bits.leading_ones() + bits.trailing_zeros() < 32 {
            return Err(format!("{mask} is not a netmask: its ones must all come first"));
        }
        Ok(mask)
    })?;
    if netmask.is_some() && address.is_ipv6() {
        return Err(c.attr_error("netmask", "an IPv6 address has none").hint("write prefix='64' instead"));
    }
    if netmask.is_some() && prefix.is_some() {
        return Err(c.attr_error("prefix", "there is a netmask already").hint("leave one of them out"));
    }
    Ok((family, address, netmask.map(Mask::Netmask).or(prefix.map(Mask::Prefix))))
}

fn write_family(family: Option<Family>) -> Option<&'static str> {
    family.map(|f| if f == Family::V4 { "ipv4" } else { "ipv6" })
}

fn split_mask(mask: Option<Mask>) -> (Option<Ipv4Addr>, Option<u8>) {
    match mask {
        Some(Mask::Netmask(m)) => (Some(m), None),
        Some(Mask::Prefix(p)) => (None, Some(p)),
        None => (None, None),
    }
}

pub(crate) fn read_ip(c: &Cursor<'_, '_>) -> Result<Ip> {
    let (family, address, mask) = read_prefix(c, false)?;
    let mut ip = Ip { family, address, mask, local_ptr: c.yes_no("localPtr")?, tftp_root: None, dhcp: None };
    if ip.local_ptr == Some(true) {
        let len = ip.network().prefix_len();
        // Reverse zones are delegated at whole octets, and at whole nibbles for IPv6 (RFC 1035, RFC 3596).
        let step = if address.is_ipv4() { 8 } else { 4 };
        if !len.is_multiple_of(step) || (address.is_ipv4() && len == 32) {
            let cause = format!("a prefix of {len} bits has no reverse zone of its own");
            return Err(c
                .attr_error("localPtr", cause)
                .hint(format!("use a prefix length that is a multiple of {step}")));
        }
    }
    if let Some(tftp) = c.child("tftp") {
        if address.is_ipv6() {
            return Err(tftp.error("it goes with an IPv4 address only"));
        }
        ip.tftp_root = tftp.string("root")?;
    }
    if let Some(dhcp) = c.child("dhcp") {
        ip.dhcp = read_dhcp(&dhcp, &ip)?;
    }
    Ok(ip)
}

fn read_dhcp(c: &Cursor<'_, '_>, ip: &Ip) -> Result<Option<Dhcp>> {
    let mut dhcp = Dhcp::default();
    for range in c.children("range") {
        dhcp.ranges.push(read_range(&range, ip)?);
    }
    for host in c.children("host") {
        dhcp.hosts.push(read_dhcp_host(&host, ip, false)?);
    }
    if let Some(bootp) = c.child("bootp") {
        if ip.address.is_ipv6() {
            return Err(bootp.error("it goes with an IPv4 address only"));
        }
        let file = bootp.string("file")?.ok_or_else(|| bootp.missing("file"))?;
        dhcp.bootp = Some(Bootp { file, server: bootp.parsed("server", parse_ip)? });
    }
    // Without ranges and hosts nobody is served, and libvirt prints nothing of it.
    Ok((!dhcp.ranges.is_empty() || !dhcp.hosts.is_empty()).then_some(dhcp))
}

/// A `<range>` of the network that `ip` is in.
pub(crate) fn read_range(c: &Cursor<'_, '_>, ip: &Ip) -> Result<DhcpRange> {
    let range =
        DhcpRange { start: c.required("start", parse_ip)?, end: c.required("end", parse_ip)?, lease: read_lease(c)? };
    ip.check_range(&range).map_err(|(field, cause)| c.attr_error(field, cause))?;
    Ok(range)
}

/// A reservation in the network that `ip` is in. A deletion needs only as much as finds it.
pub(crate) fn read_dhcp_host(c: &Cursor<'_, '_>, ip: &Ip, deletion: bool) -> Result<DhcpHost> {
    let host = DhcpHost {
        mac: c.parsed("mac", parse_unicast_mac)?,
        id: c.parsed("id", |text| match text {
            "" => Err("the value is empty".into()),
            _ if text.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') => Ok(text.to_owned()),
            _ => Err(format!("'{text}' has other characters than hexadecimal digits and colons")),
        })?,
        name: c.parsed("name", |text| if deletion { dns_name(text) } else { guest_name(text) })?,
        ip: c.parsed("ip", parse_ip)?,
        lease: read_lease(c)?,
    };
    if deletion {
        if host == DhcpHost::default() {
            return Err(c.error("it needs one of 'mac', 'name' and 'ip' to be found by"));
        }
        return Ok(host);
    }
    if ip.address.is_ipv6() && host.mac.is_some() {
        let hint = "identify the guest by id='DUID' or name";
        return Err(c.attr_error("mac", "DHCP for IPv6 knows no MAC addresses").hint(hint));
    }
    let key = if ip.address.is_ipv4() { host.mac.is_some() } else { host.id.is_some() };
    if !key && host.name.is_none() {
        let keys = if ip.address.is_ipv4() { "'mac' and 'name'" } else { "'id' and 'name'" };
        return Err(c.error(format!("it needs one of {keys}")));
    }
    let address = host.ip.ok_or_else(|| c.missing("ip"))?;
    ip.check_host_address(address).map_err(|cause| c.attr_error("ip", cause))?;
    Ok(host)
}

/// A reservation's name: what dnsmasq, which tells the parts of a reservation by their form, takes for a name.
fn guest_name(text: &str) -> Result<String, String> {
    let name = dns_name(text)?;
    if let Some(c) = name.chars().find(|c| c.is_ascii() && !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.'))
    {
        return Err(format!("{c:?} can't be in a guest's name"));
    }
    let digits = name.strip_suffix(|c| "wdhmsWDHMS".contains(c)).unwrap_or(&name);
    let time = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if time || matches!(name.as_str(), "ignore" | "infinite") || name.parse::<IpAddr>().is_ok() {
        return Err(format!("dnsmasq takes '{name}' for something else than a name"));
    }
    Ok(name)
}

fn read_lease(c: &Cursor<'_, '_>) -> Result<Option<Expiry>> {
    let Some(lease) = c.child("lease") else { return Ok(None) };
    let expiry = lease.required("expiry", |text| number_in(text, 0..=u64::from(u32::MAX)))?;
    let unit = lease.choice("unit", LEASE_UNITS)?.unwrap_or(LeaseUnit::Minutes);
    let seconds = expiry.saturating_mul(unit.seconds());
    if expiry != 0 && !(LEASE_MIN..u64::from(u32::MAX)).contains(&seconds) {
        return Err(lease.attr_error("expiry", format!("a lease lasts at least {LEASE_MIN} seconds, or 0 for ever")));
    }
    Ok(Some(Expiry { expiry, unit: (expiry != 0).then_some(unit) }))
}

pub(crate) fn write_ip(w: &mut Writer, ip: &Ip) {
    let (netmask, prefix) = split_mask(ip.mask);
    w.element("ip")
        .opt("family", write_family(ip.family))
        .attr("address", ip.address)
        .opt("netmask", netmask)
        .opt("prefix", prefix)
        .yes_no("localPtr", ip.local_ptr)
        .body(|w| {
            if let Some(root) = &ip.tftp_root {
                w.element("tftp").attr("root", root).close();
            }
            if let Some(dhcp) = ip.dhcp.as_ref().filter(|d| !d.ranges.is_empty() || !d.hosts.is_empty()) {
                w.element("dhcp").body(|w| write_dhcp(w, dhcp));
            }
        });
}

fn write_dhcp(w: &mut Writer, dhcp: &Dhcp) {
    for range in &dhcp.ranges {
        let tag = w.element("range").attr("start", range.start).attr("end", range.end);
        tag.body_or_close(|w| write_lease(w, range.lease));
    }
    for host in &dhcp.hosts {
        w.element("host")
            .opt("mac", host.mac)
            .opt("id", host.id.as_ref())
            .opt("name", host.name.as_ref())
            .opt("ip", host.ip)
            .body_or_close(|w| write_lease(w, host.lease));
    }
    if let Some(bootp) = &dhcp.bootp {
        w.element("bootp").attr("file", &bootp.file).opt("server", bootp.server).close();
    }
}

fn write_lease(w: &mut Writer, lease: Option<Expiry>) {
    let Some(lease) = lease else { return };
    let unit = match lease.unit.unwrap_or(LeaseUnit::Minutes) {
        LeaseUnit::Seconds => "seconds",
        LeaseUnit::Minutes => "minutes",
        LeaseUnit::Hours => "hours",
    };
    w.element("lease").attr("expiry", lease.expiry).opt("unit", (lease.expiry != 0).then_some(unit)).close();
}

pub(crate) fn read_route(c: &Cursor<'_, '_>) -> Result<Route> {
    let (family, address, mask) = read_prefix(c, true)?;
    let route = Route {
        family,
        address,
        mask,
        gateway: c.required("gateway", parse_ip)?,
        metric: c.number("metric", 1..=u32::MAX)?,
    };
    if route.gateway.is_ipv4() != address.is_ipv4() {
        return Err(c.attr_error("gateway", format!("{} is not of the destination's family", route.gateway)));
    }
    let destination = route.destination();
    if destination.addr() != destination.network() {
        let cause = format!("{address} is not the address of a network of {} bits", destination.prefix_len());
        return Err(c.attr_error("address", cause).hint(format!("did you mean {}?", destination.network())));
    }
    Ok(route)
}

pub(crate) fn write_route(w: &mut Writer, route: &Route) {
    let (netmask, prefix) = split_mask(route.mask);
    w.element("route")
        .opt("family", write_family(route.family))
        .attr("address", route.address)
        .opt("netmask", netmask)
        .opt("prefix", prefix)
        .attr("gateway", route.gateway)
        .opt("metric", route.metric)
        .close();
}
