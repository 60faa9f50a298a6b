//! The host's name servers, from resolv.conf(5).

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use crate::{Error, Result};

/// Most name servers that are taken. The C library takes three.
const MOST: usize = 8;

/// Name servers in the file's order; none when there is no file. Loopback addresses count: dnsmasq runs on the
/// host, so a local resolver such as systemd-resolved at 127.0.0.53 is in its reach.
///
/// # Errors
/// [`Error::File`] when the file is there and can't be read.
pub fn name_servers(path: &Path) -> Result<Vec<IpAddr>> {
    match fs::read(path) {
        Ok(text) => Ok(parse(&String::from_utf8_lossy(&text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::file("read", path)(error)),
    }
}

/// The `nameserver` lines. An address with a zone (`fe80::1%eth0`) is passed over: dnsmasq would need the link, and
/// it may not be the same tomorrow.
fn parse(text: &str) -> Vec<IpAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        if let Some(address) = words.next().and_then(|word| word.parse().ok())
            && !servers.contains(&address)
            && servers.len() < MOST
        {
            servers.push(address);
        }
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_in_order_once_and_at_most_eight() {
        let text = "# made by hand\nnameserver 127.0.0.53 # local\n nameserver\t2001:db8::1\nsearch example.org\n\
            nameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver\nnameserver rubbish\n;nameserver 192.0.2.9\n";
        let expected: Vec<IpAddr> = ["127.0.0.53", "2001:db8::1"].iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(parse(text), expected);
        let many: String = (0..20).map(|n| format!("nameserver 192.0.2.{n}\n")).collect();
        assert_eq!(parse(&many).len(), MOST);
        assert!(name_servers(Path::new("/nonexistent/resolv.conf")).unwrap().is_empty());
    }
}
