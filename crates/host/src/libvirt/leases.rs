//! Leases as libvirt's daemon keeps them: `BRIDGE.status`, a list of objects in JSON, which its helper writes whenever
//! dnsmasq gives a lease, and reads to dnsmasq when that starts. (dnsmasq itself keeps no file for libvirt.)

use patchcord_core::plan::dnsmasq::{Lease, write_leases};
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// Longest file that libvirt's helper reads, and we, in bytes.
pub(super) const LONGEST: usize = 32 << 20;

/// dnsmasq's own lease file with what libvirt's says. Entries that are no leases are passed over.
///
/// # Errors
/// When it is not JSON, as a phrase.
pub(super) fn translate(status: &[u8]) -> Result<String, String> {
    // libvirt makes an empty file first.
    if status.iter().all(u8::is_ascii_whitespace) {
        return Ok(String::new());
    }
    let entries: Vec<Value> = serde_json::from_slice(status).map_err(|error| format!("is no list in JSON: {error}"))?;
    let entries: Vec<&Map<String, Value>> = entries.iter().filter_map(Value::as_object).collect();
    let leases: Vec<Lease> = entries.iter().filter_map(|entry| lease(entry)).collect();
    let duid = entries.iter().find_map(|entry| text(entry, "server-duid"));
    Ok(write_leases(&leases, duid.as_deref()))
}

/// Leases as libvirt's helper and its modules for the name service switch read them. `duid` is the server's own, which
/// goes with leases of IPv6.
pub fn status(leases: &[Lease], duid: Option<&str>) -> String {
    let entry = |lease: &Lease| {
        let mut entry = json!({ "ip-address": lease.ip.to_string(), "expiry-time": lease.expiry.unwrap_or(0) });
        let texts = [
            ("mac-address", lease.mac.map(|mac| mac.to_string())),
            ("hostname", lease.hostname.clone()),
            ("client-id", lease.client_id.clone()),
            ("iaid", lease.iaid.map(|iaid| iaid.to_string())),
            ("server-duid", lease.iaid.and(duid.map(str::to_owned))),
        ];
        for (key, text) in texts {
            if let Some(text) = text {
                entry[key] = Value::String(text);
            }
        }
        entry
    };
    format!("{:#}\n", Value::Array(leases.iter().map(entry).collect()))
}

fn lease(entry: &Map<String, Value>) -> Option<Lease> {
    let ip: IpAddr = text(entry, "ip-address")?.parse().ok()?;
    let expiry = entry.get("expiry-time").and_then(Value::as_u64).filter(|at| *at > 0);
    let mac = text(entry, "mac-address").and_then(|mac| mac.parse().ok());
    let iaid = text(entry, "iaid").and_then(|iaid| iaid.parse().ok());
    Some(Lease { ip, mac, expiry, hostname: text(entry, "hostname"), client_id: text(entry, "client-id"), iaid })
}

fn text(entry: &Map<String, Value>, key: &str) -> Option<String> {
    entry.get(key)?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use patchcord_core::plan::dnsmasq::parse_leases;

    #[test]
    fn leases_of_both_families_are_told_to_dnsmasq_as_its_own() {
        let status = r#"[
          {"ip-address": "192.168.122.44", "mac-address": "52:54:00:00:00:07", "hostname": "web",
           "client-id": "01:52:54:00:00:00:07", "expiry-time": 1700000000},
          {"ip-address": "fd00:7::144", "mac-address": "52:54:00:00:00:07", "iaid": "1193046",
           "client-id": "00:03:00:01:52:54:00:00:00:07", "server-duid": "00:01:00:01:2c:aa", "expiry-time": 1700000001},
          {"ip-address": "nowhere"}, 7
        ]"#;
        let expected = "\
1700000000 52:54:00:00:00:07 192.168.122.44 web 01:52:54:00:00:00:07
duid 00:01:00:01:2c:aa
1700000001 1193046 fd00:7::144 * 00:03:00:01:52:54:00:00:00:07
";
        assert_eq!(translate(status.as_bytes()).unwrap(), expected);
        let back = super::status(&parse_leases(expected), Some("00:01:00:01:2c:aa"));
        assert_eq!(translate(back.as_bytes()).unwrap(), expected);
        assert_eq!(translate(b" \n").unwrap(), "");
        assert!(translate(b"{").is_err());
    }
}
