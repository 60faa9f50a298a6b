//! `<dns>`. The readers of its records also read the fragments of an update, where a deletion may leave fields out.

use super::{
    parts::parse_ip,
    reader::{Cursor, plain_text},
    writer::Writer,
};
use crate::Result;
use crate::model::{Dns, DnsForwarder, DnsHost, DnsSrv, DnsTxt};

/// Bytes between two dots of a name at most (RFC 1035, section 2.3.4).
const LABEL_MAX: usize = 63;
/// The same of an SRV record's service and protocol, which have an underscore before them.
const SERVICE_MAX: usize = LABEL_MAX - 1;

/// An SRV record of which any part may be missing.
#[derive(Clone, Debug, Default)]
pub(crate) struct SrvFields {
    pub(crate) service: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) domain: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) priority: Option<u16>,
    pub(crate) weight: Option<u16>,
}

impl SrvFields {
    /// Whether a record agrees with all fields that are given.
    pub(crate) fn matches(&self, srv: &DnsSrv) -> bool {
        let text = |wanted: &Option<String>, there: Option<&String>| wanted.is_none() || wanted.as_ref() == there;
        let number = |wanted: Option<u16>, there: Option<u16>| wanted.is_none() || wanted == there;
        text(&self.service, Some(&srv.service))
            && text(&self.protocol, Some(&srv.protocol))
            && text(&self.domain, srv.domain.as_ref())
            && text(&self.target, srv.target.as_ref())
            && number(self.port, srv.port)
            && number(self.priority, srv.priority)
            && number(self.weight, srv.weight)
    }
}

/// A domain or host name: what ends up in dnsmasq's configuration between commas and slashes.
pub(crate) fn dns_name(text: &str) -> Result<String, String> {
    let text = plain_text(text)?;
    if let Some(c) = text.chars().find(|c| c.is_whitespace() || matches!(c, ',' | '/' | '#' | '"' | '\\')) {
        return Err(format!("{c:?} can't be in a name"));
    }
    // dnsmasq writes others than these in another way, which has another length.
    text.split('.').filter(|label| label.is_ascii()).try_for_each(|label| at_most(label, LABEL_MAX))?;
    Ok(text)
}

fn at_most(label: &str, max: usize) -> Result<(), String> {
    match label.len() {
        len if len > max => Err(format!("'{label}' has {len} bytes, and may have {max} between two dots")),
        _ => Ok(()),
    }
}

pub(crate) fn read_dns(parent: &Cursor<'_, '_>) -> Result<Option<Dns>> {
    let Some(c) = parent.child("dns") else { return Ok(None) };
    let mut dns =
        Dns { enable: c.yes_no("enable")?, forward_plain_names: c.yes_no("forwardPlainNames")?, ..Dns::default() };
    for f in c.children("forwarder") {
        let forwarder = DnsForwarder { addr: f.parsed("addr", parse_ip)?, domain: f.parsed("domain", dns_name)? };
        if forwarder.addr.is_none() && forwarder.domain.is_none() {
            return Err(f.error("it needs one of 'addr' and 'domain'"));
        }
        dns.forwarders.push(forwarder);
    }
    for txt in c.children("txt") {
        dns.txts.push(read_txt(&txt, false)?);
    }
    for srv in c.children("srv") {
        dns.srvs.push(read_srv(&srv)?);
    }
    for host in c.children("host") {
        dns.hosts.push(read_dns_host(&host, false)?);
    }
    // <dns/> says nothing, and libvirt does not print it.
    Ok((dns != Dns::default()).then_some(dns))
}

pub(crate) fn read_txt(c: &Cursor<'_, '_>, deletion: bool) -> Result<DnsTxt> {
    let txt = DnsTxt { name: c.required("name", dns_name)?, value: c.string("value")? };
    if txt.value.is_none() && !deletion {
        return Err(c.missing("value"));
    }
    Ok(txt)
}

pub(crate) fn read_srv_fields(c: &Cursor<'_, '_>) -> Result<SrvFields> {
    let number = |name| c.number(name, 0..=u16::MAX).map(|n| n.filter(|n| *n != 0));
    Ok(SrvFields {
        service: c.parsed("service", |text| {
            let name = dns_name(text)?;
            at_most(name.split('.').next().unwrap_or_default(), SERVICE_MAX)?;
            Ok(name)
        })?,
        protocol: c.parsed("protocol", |text| match text {
            _ if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                at_most(text, SERVICE_MAX).map(|()| text.to_owned())
            }
            _ => Err(format!("'{text}' is not a protocol's name, like tcp or udp")),
        })?,
        domain: c.parsed("domain", dns_name)?,
        target: c.parsed("target", dns_name)?,
        port: c.number("port", 1..=u16::MAX)?,
        priority: number("priority")?,
        weight: number("weight")?,
    })
}

pub(crate) fn read_srv(c: &Cursor<'_, '_>) -> Result<DnsSrv> {
    let f = read_srv_fields(c)?;
    if f.target.is_none() {
        for name in ["port", "priority", "weight"] {
            if c.attr(name).is_some() {
                return Err(c.attr_error(name, "it goes with a target only").hint("add target='NAME'"));
            }
        }
    }
    Ok(DnsSrv {
        service: f.service.ok_or_else(|| c.missing("service"))?,
        protocol: f.protocol.ok_or_else(|| c.missing("protocol"))?,
        domain: f.domain,
        target: f.target,
        port: f.port,
        priority: f.priority,
        weight: f.weight,
    })
}

pub(crate) fn read_dns_host(c: &Cursor<'_, '_>, deletion: bool) -> Result<DnsHost> {
    let mut host = DnsHost { ip: c.parsed("ip", parse_ip)?, hostnames: Vec::new() };
    for name in c.children("hostname") {
        host.hostnames.push(dns_name(&name.text()).map_err(|cause| name.error(cause))?);
    }
    match (host.ip.is_none(), host.hostnames.is_empty()) {
        (true, true) => Err(c.error("it needs an 'ip' and a <hostname>")),
        (true, _) if !deletion => Err(c.missing("ip")),
        (_, true) if !deletion => Err(c.error("it needs a <hostname>")),
        _ => Ok(host),
    }
}

pub(crate) fn write_dns(w: &mut Writer, dns: Option<&Dns>) {
    let Some(dns) = dns.filter(|d| **d != Dns::default()) else { return };
    let tag = w.element("dns").yes_no("enable", dns.enable).yes_no("forwardPlainNames", dns.forward_plain_names);
    tag.body_or_close(|w| {
        for f in &dns.forwarders {
            w.element("forwarder").opt("domain", f.domain.as_ref()).opt("addr", f.addr).close();
        }
        for txt in &dns.txts {
            w.element("txt").attr("name", &txt.name).opt("value", txt.value.as_ref()).close();
        }
        for s in &dns.srvs {
            w.element("srv")
                .attr("service", &s.service)
                .attr("protocol", &s.protocol)
                .opt("domain", s.domain.as_ref())
                .opt("target", s.target.as_ref())
                .opt("port", s.port)
                .opt("priority", s.priority)
                .opt("weight", s.weight)
                .close();
        }
        for host in &dns.hosts {
            w.element("host").opt("ip", host.ip).body(|w| {
                for name in &host.hostnames {
                    w.text("hostname", name);
                }
            });
        }
    });
}
