//! From a network to dnsmasq's files and arguments.

use crate::model::{Dhcp, DhcpHost, DnsSrv, Expiry, ForwardMode, Ip, LeaseUnit, LinkName, Network};
use crate::{Error, ErrorKind, Result};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use uuid::Uuid;

/// Bytes of a line at most: dnsmasq reads lines into a buffer of 1,025 and would take the rest of a longer one for
/// a line of its own.
const LINE_MAX: usize = 1000;

/// Leases that `dhcp-lease-max` allows at most, however large the ranges are (an IPv6 one can hold 2⁶⁴).
const LEASES_MAX: u128 = 1_000_000;

/// Leases that dnsmasq allows where it is told no number. Less would be too few: it counts those of reserved addresses, and
/// those of ranges that were changed, until they expire.
const LEASES_MIN: u128 = 1000;

/// What the host brings to a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The directory of the files; absolute. All but the pid file are read by `user` on SIGHUP, too.
    pub dir: String,
    /// The directory of the pid file; absolute.
    pub run_dir: String,
    /// The user that dnsmasq becomes; its own default unless given.
    pub user: Option<String>,
    /// The group that dnsmasq becomes.
    pub group: Option<String>,
    /// This installation's id, for the files' first line.
    pub instance: Uuid,
    /// The host's own name servers, in order.
    pub upstream: Vec<IpAddr>,
}

/// What a network's dnsmasq is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Arguments behind the program's name.
    pub args: Vec<String>,
    /// Contents by absolute path: the configuration, and the files that dnsmasq reads again on SIGHUP.
    pub files: BTreeMap<String, String>,
    /// Which of the files is the configuration.
    pub conf_path: String,
    /// Where dnsmasq keeps its leases, when it gives any.
    pub lease_path: Option<String>,
    /// Where dnsmasq writes its pid.
    pub pid_path: String,
}

/// What a running dnsmasq needs in order to serve a new configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// Nothing: it is the same.
    Nothing,
    /// The files written, then SIGHUP.
    Reload,
    /// The files written, then another process.
    Restart,
}

/// What a dnsmasq that was started with, or last reloaded, `old` files needs in order to serve `new`.
pub fn refresh_needed(old: &BTreeMap<String, String>, new: &Config) -> Refresh {
    if old.get(&new.conf_path) != new.files.get(&new.conf_path) {
        Refresh::Restart
    } else if *old != new.files {
        Refresh::Reload
    } else {
        Refresh::Nothing
    }
}

/// Lines of one file. What is not one line can't get in.
struct Lines<'a> {
    network: &'a Network,
    text: String,
}

impl<'a> Lines<'a> {
    fn new(network: &'a Network, instance: Uuid, uuid: Uuid) -> Self {
        Self { network, text: format!("# patchcord:{instance}:dnsmasq:{uuid}, written anew at every change\n") }
    }

    /// Adds a line; `field` names what it comes from.
    fn push(&mut self, field: &str, line: &str) -> Result<()> {
        let refuse = |cause: String| {
            Err(Error::new(ErrorKind::InvalidXml, format!("network '{}'", self.network.name), cause).field(field))
        };
        if let Some(c) = line.chars().find(|c| c.is_control() && *c != '\t') {
            return refuse(format!("{c:?} can't be in what dnsmasq reads"));
        }
        if line.len() > LINE_MAX {
            return refuse(format!("it makes a line of {} bytes, and dnsmasq reads {LINE_MAX}", line.len()));
        }
        self.text.push_str(line);
        self.text.push('\n');
        Ok(())
    }
}

impl Config {
    /// Whether the network has a dnsmasq: it has an address of the host's, and serves names or addresses.
    pub fn needed(network: &Network) -> bool {
        network.forward.mode.has_own_bridge()
            && !network.ips.is_empty()
            && (network.serves_dns() || network.serves_dhcp())
    }

    /// The configuration of `network`, whose bridge is called `bridge`. The error names what can't be written as
    /// a line of dnsmasq's.
    pub fn of(network: &Network, uuid: Uuid, bridge: &LinkName, settings: &Settings) -> Result<Self> {
        let path = |kind: &str| format!("{}/{uuid}.{kind}", settings.dir);
        let (conf_path, servers_path) = (path("conf"), path("servers"));
        let pid_path = format!("{}/{uuid}.pid", settings.run_dir);
        let dns = network.serves_dns();
        let dhcp = network.serves_dhcp();
        let mut conf = Lines::new(network, settings.instance, uuid);
        let mut files = BTreeMap::new();
        let mut new_file = |kind: &str, lines: Lines<'_>| {
            files.insert(path(kind), lines.text);
        };

        conf.push("pid-file", &format!("pid-file={}", quoted(&pid_path)))?;
        for (key, value) in [("user", &settings.user), ("group", &settings.group)] {
            if let Some(value) = value {
                conf.push(key, &format!("{key}={value}"))?;
            }
        }
        conf.push("", "strict-order")?;
        conf.push("", "no-resolv")?;
        if dns {
            conf.push("", &format!("servers-file={}", quoted(&servers_path)))?;
            new_file("servers", servers(network, uuid, settings)?);
        } else {
            conf.push("", "port=0")?;
        }
        names(network, &mut conf)?;
        for line in ["except-interface=lo", "bind-interfaces"] {
            conf.push("", line)?;
        }
        conf.push("<bridge name>", &format!("interface={bridge}"))?;
        // It binds to those that are there when it starts: with others it is another configuration.
        for ip in &network.ips {
            conf.push("", &format!("# {}", ip.address))?;
        }
        if network.forward.mode == ForwardMode::Isolated {
            // No default route: there is none.
            conf.push("", "dhcp-option=3")?;
        }
        records(network, &mut conf)?;
        addresses(network, &mut conf)?;
        if dhcp {
            conf.push("", &format!("dhcp-leasefile={}", quoted(&path("leases"))))?;
            conf.push("", &format!("dhcp-hostsfile={}", quoted(&path("hosts"))))?;
            new_file("hosts", reservations(network, uuid, settings)?);
        }
        if dns {
            conf.push("", &format!("addn-hosts={}", quoted(&path("addnhosts"))))?;
            new_file("addnhosts", host_records(network, uuid, settings)?);
        }
        router_advertisements(network, dns, &mut conf)?;
        for option in &network.dnsmasq_options {
            conf.push("<dnsmasq:option value>", option)?;
        }
        new_file("conf", conf);
        Ok(Self {
            args: vec![format!("--conf-file={conf_path}")],
            lease_path: dhcp.then(|| path("leases")),
            files,
            conf_path,
            pid_path,
        })
    }
}

/// A text as a configuration file takes it: between quotes where dnsmasq would see a quote, comment, list, edge or tag.
fn quoted(text: &str) -> String {
    let tagged = text.starts_with("tag:") || text.starts_with("net:");
    if text.contains(['"', '#', ',']) || text.trim() != text || tagged {
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        text.into()
    }
}

/// The value of a `<txt>`. Commas part its strings, and one that is between quotes already stays as it is: that is how
/// libvirt's users, whose values are written as they are, write a string with a comma in it.
fn strings(value: &str) -> String {
    let (mut parts, mut rest) = (Vec::new(), Some(value));
    while let Some(text) = rest {
        let end = quoted_len(text).or_else(|| text.find(',')).unwrap_or(text.len());
        let (part, behind) = text.split_at(end);
        parts.push(if quoted_len(part).is_some() { part.to_owned() } else { quoted(part) });
        rest = behind.strip_prefix(',');
    }
    parts.join(",")
}

/// How long the string between quotes is that a text begins with, if there is nothing or a comma behind it.
fn quoted_len(text: &str) -> Option<usize> {
    let (mut escaped, inner) = (false, text.strip_prefix('"')?);
    let closing = inner.find(|c| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes
    })?;
    let end = closing + 2;
    (end == text.len() || text[end..].starts_with(',')).then_some(end)
}

/// The servers for what no other line is about: the host's, unless the network is isolated (a way out otherwise)
/// or names its own. One of the network's own addresses would be a loop.
fn servers<'a>(network: &'a Network, uuid: Uuid, settings: &Settings) -> Result<Lines<'a>> {
    let mut lines = Lines::new(network, settings.instance, uuid);
    let own = network.dns.iter().flat_map(|d| &d.forwarders).any(|f| f.domain.is_none() && f.addr.is_some());
    if own || network.forward.mode == ForwardMode::Isolated {
        return Ok(lines);
    }
    for server in settings.upstream.iter().filter(|s| network.ips.iter().all(|ip| ip.address != **s)) {
        lines.push("", &format!("server={server}"))?;
    }
    Ok(lines)
}

/// Forwarders, domain, plain names and reverse look-ups.
fn names(network: &Network, conf: &mut Lines<'_>) -> Result<()> {
    for forwarder in network.dns.iter().flat_map(|d| &d.forwarders) {
        let domain = forwarder.domain.as_ref().map(|d| format!("/{d}/")).unwrap_or_default();
        // `#`: this domain goes to the servers for everything.
        let server = forwarder.addr.map_or_else(|| "#".into(), |a| a.to_string());
        conf.push("<forwarder>", &format!("server={domain}{server}"))?;
    }
    if let Some(domain) = &network.domain {
        if domain.local_only == Some(true) {
            conf.push("<domain name>", &format!("local=/{}/", domain.name))?;
        }
        conf.push("<domain name>", &format!("domain={}", domain.name))?;
        conf.push("", "expand-hosts")?;
    }
    if network.dns.as_ref().is_some_and(|d| d.forward_plain_names == Some(false)) {
        conf.push("", "domain-needed")?;
        conf.push("", "local=//")?;
    }
    for ip in network.ips.iter().filter(|ip| ip.local_ptr == Some(true)) {
        let Some(domain) = reverse_domain(ip.network()) else {
            return Err(Error::new(
                ErrorKind::InvalidXml,
                format!("network '{}'", network.name),
                format!("a prefix of {} bits has no reverse domain of its own", ip.network().prefix_len()),
            )
            .field("<ip localPtr>")
            .hint("reverse domains end at 8 bits for IPv4 and at 4 bits for IPv6"));
        };
        conf.push("<ip localPtr>", &format!("local=/{domain}/"))?;
    }
    Ok(())
}

/// The domain of a prefix' reverse look-ups (RFC 1035 section 3.5, RFC 3596 section 2.5), if it is one domain.
fn reverse_domain(net: IpNet) -> Option<String> {
    let len = usize::from(net.prefix_len());
    let (labels, step, suffix): (Vec<String>, usize, &str) = match net.trunc() {
        IpNet::V4(n) => (n.network().octets().iter().map(u8::to_string).collect(), 8, "in-addr.arpa"),
        IpNet::V6(n) => {
            let nibbles = n.network().octets().into_iter().flat_map(|o| [o >> 4, o & 15]);
            (nibbles.map(|d| format!("{d:x}")).collect(), 4, "ip6.arpa")
        }
    };
    if len == 0 || !len.is_multiple_of(step) {
        return None;
    }
    let mut parts: Vec<&str> = labels[..len / step].iter().rev().map(String::as_str).collect();
    parts.push(suffix);
    Some(parts.join("."))
}

/// `<txt>` and `<srv>`.
fn records(network: &Network, conf: &mut Lines<'_>) -> Result<()> {
    let Some(dns) = &network.dns else { return Ok(()) };
    for txt in &dns.txts {
        let value = txt.value.as_ref().map(|v| format!(",{}", strings(v))).unwrap_or_default();
        conf.push("<txt value>", &format!("txt-record={}{value}", txt.name))?;
    }
    for srv in &dns.srvs {
        conf.push("<srv>", &srv_record(srv))?;
    }
    Ok(())
}

fn srv_record(srv: &DnsSrv) -> String {
    let mut line = format!("srv-host=_{}._{}", srv.service, srv.protocol);
    if let Some(domain) = &srv.domain {
        let _ = write!(line, ".{domain}");
    }
    // Without a target the record says that there is no such service; the numbers' defaults are dnsmasq's own.
    if let Some(target) = &srv.target {
        let (port, priority, weight) = (srv.port.unwrap_or(1), srv.priority.unwrap_or(0), srv.weight.unwrap_or(0));
        let _ = write!(line, ",{target},{port},{priority},{weight}");
    }
    line
}

/// TFTP, DHCP ranges and what goes with them.
fn addresses(network: &Network, conf: &mut Lines<'_>) -> Result<()> {
    let mut leases: u128 = 0;
    let mut dhcp_v4 = false;
    for ip in &network.ips {
        if let Some(root) = &ip.tftp_root {
            conf.push("", "enable-tftp")?;
            conf.push("<tftp root>", &format!("tftp-root={}", quoted(root)))?;
        }
        let Some(dhcp) = serving(ip) else { continue };
        leases = leases.saturating_add(dhcp.hosts.len() as u128);
        let size = match ip.network() {
            IpNet::V4(n) => n.netmask().to_string(),
            IpNet::V6(n) => n.prefix_len().to_string(),
        };
        for range in &dhcp.ranges {
            leases = leases.saturating_add(range_size(range.start, range.end));
            let lease = range.lease.map(|l| format!(",{}", lease_time(l))).unwrap_or_default();
            conf.push("<range>", &format!("dhcp-range={},{},{size}{lease}", range.start, range.end))?;
        }
        if dhcp.ranges.is_empty() {
            let size = if ip.address.is_ipv6() { format!(",{size}") } else { String::new() };
            conf.push("<dhcp>", &format!("dhcp-range={},static{size}", ip.address))?;
        }
        if ip.address.is_ipv4() {
            dhcp_v4 = true;
            if let Some(bootp) = &dhcp.bootp {
                let server = bootp.server.as_ref().map(|s| format!(",,{s}")).unwrap_or_default();
                conf.push("<bootp file>", &format!("dhcp-boot={}{server}", quoted(&bootp.file)))?;
            }
        }
    }
    if dhcp_v4 {
        conf.push("", "dhcp-no-override")?;
        conf.push("", "dhcp-authoritative")?;
        if let Some(mtu) = network.mtu {
            conf.push("<mtu size>", &format!("dhcp-option=option:mtu,{mtu}"))?;
        }
    }
    if leases > LEASES_MIN {
        conf.push("", &format!("dhcp-lease-max={}", leases.min(LEASES_MAX)))?;
    }
    Ok(())
}

/// The `<dhcp>` of an address, where it gives any leases.
fn serving(ip: &Ip) -> Option<&Dhcp> {
    ip.dhcp.as_ref().filter(|d| !d.ranges.is_empty() || !d.hosts.is_empty())
}

/// How many addresses there are from `start` to `end`.
fn range_size(start: IpAddr, end: IpAddr) -> u128 {
    let number = |a| match a {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    };
    number(end).saturating_sub(number(start)).saturating_add(1)
}

/// dnsmasq's way to write a lease time.
fn lease_time(lease: Expiry) -> String {
    let unit = match lease.unit {
        _ if lease.expiry == 0 => return "infinite".into(),
        Some(LeaseUnit::Seconds) => 's',
        Some(LeaseUnit::Hours) => 'h',
        Some(LeaseUnit::Minutes) | None => 'm',
    };
    format!("{}{unit}", lease.expiry)
}

/// The file of reservations.
fn reservations<'a>(network: &'a Network, uuid: Uuid, settings: &Settings) -> Result<Lines<'a>> {
    let mut lines = Lines::new(network, settings.instance, uuid);
    for host in network.ips.iter().filter_map(serving).flat_map(|d| &d.hosts) {
        lines.push("<dhcp><host>", &reservation(host))?;
    }
    Ok(lines)
}

fn reservation(host: &DhcpHost) -> String {
    let mut fields = Vec::new();
    fields.extend(host.id.as_ref().map(|id| format!("id:{id}")));
    fields.extend(host.mac.map(|mac| mac.to_string()));
    let ip = host.ip.map(|ip| if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() });
    // dnsmasq knows the fields by their form, their order is what libvirt writes.
    match host.ip {
        Some(IpAddr::V6(_)) => fields.extend(host.name.iter().cloned().chain(ip)),
        _ if host.mac.is_none() => fields.extend(host.name.iter().cloned().chain(ip)),
        _ => fields.extend(ip.into_iter().chain(host.name.iter().cloned())),
    }
    fields.extend(host.lease.map(lease_time));
    fields.join(",")
}

/// The file of `<host>` records, in the form of `/etc/hosts`.
fn host_records<'a>(network: &'a Network, uuid: Uuid, settings: &Settings) -> Result<Lines<'a>> {
    let mut lines = Lines::new(network, settings.instance, uuid);
    for host in network.dns.iter().flat_map(|d| &d.hosts) {
        if let Some(ip) = host.ip {
            lines.push("<dns><host>", &format!("{ip}\t{}", host.hostnames.join("\t")))?;
        }
    }
    Ok(lines)
}

/// Router advertisements: beside DHCPv6 where there is any, else alone on each IPv6 prefix.
fn router_advertisements(network: &Network, dns: bool, conf: &mut Lines<'_>) -> Result<()> {
    let mut v6 = network.ips.iter().filter(|ip| ip.address.is_ipv6()).peekable();
    let Some(first) = v6.peek().map(|ip| ip.address) else { return Ok(()) };
    if network.ips.iter().any(|ip| ip.address.is_ipv6() && serving(ip).is_some()) {
        conf.push("", "enable-ra")?;
    } else {
        for ip in v6 {
            conf.push("<ip>", &format!("dhcp-range={},ra-only", ip.address))?;
        }
    }
    let told = |o: &String| o.contains("option6:dns-server") || o.contains("option6:23");
    if dns && !network.dnsmasq_options.iter().any(told) {
        conf.push("<ip>", &format!("dhcp-option=option6:dns-server,[{first}]"))?;
    }
    Ok(())
}
