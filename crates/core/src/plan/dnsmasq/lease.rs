//! dnsmasq's lease file.
//!
//! dnsmasq writes the whole file again, in place, whenever a lease is given, renewed or ended; the daemon watches
//! it, so no script has to run per lease. IPv4 leases come first:
//! `EXPIRY MAC IP NAME CLIENT-ID`, then a line `duid SERVER-DUID`, then IPv6: `EXPIRY IAID IP NAME CLIENT-DUID`.
//! `*` stands for what is not known.

use crate::model::MacAddr;
use std::net::IpAddr;

/// A lease that dnsmasq gave.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lease {
    /// Its address.
    pub ip: IpAddr,
    /// The guest's MAC. For IPv6 it is taken from the client's DUID where that holds one.
    pub mac: Option<MacAddr>,
    /// When it ends, in seconds since 1970; `None` is never.
    pub expiry: Option<u64>,
    /// The name the guest has there.
    pub hostname: Option<String>,
    /// The client id (IPv4) or DUID (IPv6), hexadecimal octets between colons.
    pub client_id: Option<String>,
    /// The identity association (RFC 8415) of an IPv6 lease.
    pub iaid: Option<u32>,
}

/// Reads a lease file, passing over lines that are not leases, and a last one that does not end: the file may be read
/// while it is written.
pub fn parse_leases(text: &str) -> Vec<Lease> {
    text.split_inclusive('\n').filter(|line| line.ends_with('\n')).filter_map(parse_lease).collect()
}

fn parse_lease(line: &str) -> Option<Lease> {
    let mut fields = line.split_ascii_whitespace();
    let expiry: u64 = fields.next()?.parse().ok()?;
    let (who, ip, name, id) = (fields.next()?, fields.next()?, fields.next()?, fields.next());
    let ip: IpAddr = ip.parse().ok()?;
    let known = |s: &str| (s != "*").then(|| s.to_owned());
    let client_id = id.and_then(known);
    let (mac, iaid) = match ip {
        // A hardware type other than Ethernet stands before the address, as `06-`.
        IpAddr::V4(_) => (Some(who.parse().ok()?), None),
        // A `T` marks a temporary address.
        IpAddr::V6(_) => {
            let iaid = who.strip_prefix('T').unwrap_or(who).parse().ok()?;
            (client_id.as_deref().and_then(mac_of_duid), Some(iaid))
        }
    };
    let expiry = (expiry != 0).then_some(expiry);
    Some(Lease { ip, mac, expiry, hostname: known(name), client_id, iaid })
}

/// Writes a lease file for a dnsmasq that is to go on where another one left off; `duid` is the other one's own, which
/// IPv6 clients know their server by.
pub fn write_leases(leases: &[Lease], duid: Option<&str>) -> String {
    // One word each; what is none would be read as something else.
    let word = |text: Option<&String>| {
        let word =
            text.filter(|text| !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control()));
        word.map_or("*", String::as_str).to_owned()
    };
    let line = |lease: &Lease| {
        let who = match lease.ip {
            IpAddr::V4(_) => lease.mac.map(|mac| mac.to_string()),
            IpAddr::V6(_) => lease.iaid.map(|iaid| iaid.to_string()),
        };
        let (expiry, name, id) =
            (lease.expiry.unwrap_or(0), word(lease.hostname.as_ref()), word(lease.client_id.as_ref()));
        who.map(|who| format!("{expiry} {who} {} {name} {id}\n", lease.ip))
    };
    let of = |v6: bool| leases.iter().filter(move |lease| lease.ip.is_ipv6() == v6).filter_map(line);
    let server = word(duid.map(str::to_owned).as_ref());
    let server = (server != "*").then(|| format!("duid {server}\n"));
    of(false).chain(server).chain(of(true)).collect()
}

/// The Ethernet address in a DUID of type 1 (link-layer plus time) or 3 (link-layer), RFC 8415 section 11.
fn mac_of_duid(duid: &str) -> Option<MacAddr> {
    let octets: Vec<u8> = duid.split(':').map(|o| u8::from_str_radix(o, 16)).collect::<Result<_, _>>().ok()?;
    let address = match octets.as_slice() {
        [0, 1, 0, 1, _, _, _, _, address @ ..] | [0, 3, 0, 1, address @ ..] => address,
        _ => return None,
    };
    address.try_into().ok().map(MacAddr)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
1700000000 52:54:00:12:34:56 192.168.122.10 web ff:00:01
0 52:54:00:12:34:57 192.168.122.11 * *
duid 00:01:00:01:2c:aa:bb:cc:52:54:00:00:00:01
1700000001 1193046 2001:db8::10 web 00:01:00:01:2c:11:22:33:52:54:00:12:34:56
1700000002 T7 2001:db8::11 * 00:04:aa
1700000003 8 2001:db8::12 * 00:0";

    #[test]
    fn both_families_are_read_and_half_a_line_is_passed_over() {
        let leases = parse_leases(FILE);
        let mac = |s: &str| s.parse::<MacAddr>().ok();
        let short: Vec<_> = leases
            .iter()
            .map(|l| (l.ip.to_string(), l.mac, l.expiry, l.hostname.as_deref(), l.client_id.as_deref(), l.iaid))
            .collect();
        let duid = "00:01:00:01:2c:11:22:33:52:54:00:12:34:56";
        assert_eq!(
            short,
            [
                (
                    "192.168.122.10".into(),
                    mac("52:54:00:12:34:56"),
                    Some(1_700_000_000),
                    Some("web"),
                    Some("ff:00:01"),
                    None
                ),
                ("192.168.122.11".into(), mac("52:54:00:12:34:57"), None, None, None, None),
                (
                    "2001:db8::10".into(),
                    mac("52:54:00:12:34:56"),
                    Some(1_700_000_001),
                    Some("web"),
                    Some(duid),
                    Some(1_193_046)
                ),
                ("2001:db8::11".into(), None, Some(1_700_000_002), None, Some("00:04:aa"), Some(7)),
            ]
        );
    }

    #[test]
    fn what_is_written_is_read_and_no_name_makes_two() {
        let leases = parse_leases(FILE);
        let duid = "00:01:00:01:2c:aa:bb:cc:52:54:00:00:00:01";
        let written = write_leases(&leases, Some(duid));
        assert_eq!(parse_leases(&written), leases);
        assert!(written.starts_with(&FILE[..FILE.find("1700000001").unwrap()]), "{written}");
        let odd = Lease { hostname: Some("a b".into()), client_id: Some("1\n2".into()), ..leases[0].clone() };
        let expected = Lease { hostname: None, client_id: None, ..odd.clone() };
        assert_eq!(parse_leases(&write_leases(&[odd], Some("x y"))), [expected]);
    }

    #[test]
    fn junk_gives_no_leases() {
        for text in [
            "",
            "\0\0",
            "a b c d e",
            "1 52:54:00:12:34:56 300.1.1.1 * *\n",
            "1 xx 10.0.0.1 * *\n",
            "99999999999999999999 a b c d\n",
        ] {
            assert_eq!(parse_leases(text), [], "{text:?}");
        }
    }
}
