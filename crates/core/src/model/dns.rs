//! Name service of a network.

use std::net::IpAddr;

/// `<dns>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// `enable`; yes unless said otherwise.
    pub enable: Option<bool>,
    /// `forwardPlainNames`: whether names without a dot may go to the upstream servers; yes unless said otherwise.
    pub forward_plain_names: Option<bool>,
    /// `<forwarder>` elements.
    pub forwarders: Vec<DnsForwarder>,
    /// `<txt>` records.
    pub txts: Vec<DnsTxt>,
    /// `<srv>` records.
    pub srvs: Vec<DnsSrv>,
    /// `<host>` records.
    pub hosts: Vec<DnsHost>,
}

/// `<forwarder>`: an upstream server, for everything or for one domain; a domain without an address goes to the
/// host's own servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsForwarder {
    /// `addr`
    pub addr: Option<IpAddr>,
    /// `domain`
    pub domain: Option<String>,
}

/// `<txt>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsTxt {
    /// `name`
    pub name: String,
    /// `value`; absent in a deletion by name.
    pub value: Option<String>,
}

/// `<srv>` (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSrv {
    /// `service`, without the underscore.
    pub service: String,
    /// `protocol`, without the underscore.
    pub protocol: String,
    /// `domain`
    pub domain: Option<String>,
    /// `target`
    pub target: Option<String>,
    /// `port`, 1 to 65535.
    pub port: Option<u16>,
    /// `priority`
    pub priority: Option<u16>,
    /// `weight`
    pub weight: Option<u16>,
}

/// `<host>`: one address and its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsHost {
    /// `ip`; absent in a deletion by name.
    pub ip: Option<IpAddr>,
    /// `<hostname>` elements.
    pub hostnames: Vec<String>,
}
