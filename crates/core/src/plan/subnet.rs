//! Whether a network's subnets are free on this host.

use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;

/// What a subnet collides with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// An active network, by name.
    Network(String),
    /// A route of the host's, through the link of that name.
    Route(String),
    /// An address of the host's, on the link of that name.
    Address(String),
}

/// Two subnets that overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The subnet that is to be used.
    pub subnet: IpNet,
    /// The one that is there.
    pub other: IpNet,
    /// Whose that is.
    pub holder: Holder,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subnet, other, holder } = self;
        match holder {
            Holder::Network(name) => write!(f, "subnet {subnet} overlaps with {other} of the active network '{name}'"),
            Holder::Route(link) => {
                write!(f, "subnet {subnet} overlaps with the host's route to {other} through {link}")
            }
            Holder::Address(link) => {
                write!(f, "subnet {subnet} overlaps with the host's own address {} on {link}", other.addr())
            }
        }
    }
}

/// The first overlap between a network's `subnets`, those of other active networks, and the host's own `routes` and
/// `addresses`: one that is alone in its prefix is in no route, and guests would not find who has it.
///
/// A route that holds the subnet in a larger one is a conflict as well, save for the default route (length 0):
/// that one is how everything unknown leaves. What is of the network's own bridge must not be
/// among them.
pub fn subnets_overlap<'a>(
    subnets: impl IntoIterator<Item = IpNet>,
    networks: impl IntoIterator<Item = (&'a str, IpNet)> + Clone,
    routes: impl IntoIterator<Item = (&'a str, IpNet)> + Clone,
    addresses: impl IntoIterator<Item = (&'a str, IpAddr)> + Clone,
) -> Option<Conflict> {
    for subnet in subnets.into_iter().map(|s| s.trunc()) {
        let overlaps = |other: &IpNet| subnet.contains(other) || other.contains(&subnet);
        let conflict = |other: IpNet, holder| Some(Conflict { subnet, other: other.trunc(), holder });
        if let Some((name, other)) = networks.clone().into_iter().find(|(_, o)| overlaps(o)) {
            return conflict(other, Holder::Network(name.into()));
        }
        if let Some((link, other)) = routes.clone().into_iter().find(|(_, o)| o.prefix_len() > 0 && overlaps(o)) {
            return conflict(other, Holder::Route(link.into()));
        }
        if let Some((link, other)) = addresses.clone().into_iter().find(|(_, o)| subnet.contains(o)) {
            return conflict(other.into(), Holder::Address(link.into()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(s: &str) -> IpNet {
        s.parse().unwrap()
    }

    #[test]
    fn overlaps_are_found_either_way_round_and_named() {
        let networks = [("blue", net("10.1.0.1/16")), ("six", net("2001:db8:1::1/64"))];
        let routes = [("eth0", net("0.0.0.0/0")), ("eth0", net("192.168.1.0/24")), ("wg0", net("172.16.0.0/12"))];
        let addresses = [("lo", "10.77.0.5".parse().unwrap())];
        let check = |subnet: &str| subnets_overlap([net(subnet)], networks, routes, addresses).map(|c| c.to_string());
        assert_eq!(check("192.168.122.1/24"), None);
        assert_eq!(check("2001:db8:2::1/64"), None);
        let blue = "subnet 10.1.4.0/24 overlaps with 10.1.0.0/16 of the active network 'blue'";
        assert_eq!(check("10.1.4.1/24").as_deref(), Some(blue));
        assert!(check("10.0.0.1/8").is_some());
        assert!(check("2001:db8:1:0:8000::1/65").is_some());
        let wg = "subnet 172.20.0.0/16 overlaps with the host's route to 172.16.0.0/12 through wg0";
        assert_eq!(check("172.20.0.1/16").as_deref(), Some(wg));
        assert!(check("192.168.0.1/16").is_some());
        let lo = "subnet 10.77.0.0/24 overlaps with the host's own address 10.77.0.5 on lo";
        assert_eq!(check("10.77.0.1/24").as_deref(), Some(lo));
        assert_eq!(check("10.77.1.1/24"), None);
    }
}
