//! Tests of the packet rules: their text, whom they let through, and how they are changed.

mod golden;
mod property;
mod reach;

use super::{Intent, NetworkRules, NftChange, ObservedTable, Scope, diff};
use crate::model::{DeviceRef, ForwardMode, Ip, LinkName, Mask, Name, Network};
use uuid::Uuid;

pub(super) const INSTANCE: Uuid = Uuid::from_u128(7);

pub(super) fn link(name: &str) -> LinkName {
    LinkName::new(name).unwrap()
}

/// A network with these addresses, each as `ADDRESS/LENGTH`.
pub(super) fn network(mode: ForwardMode, addresses: &[&str]) -> Network {
    let mut network = Network::new(Name::new("default").unwrap());
    network.forward.mode = mode;
    for address in addresses {
        let net: ipnet::IpNet = address.parse().unwrap();
        network.ips.push(Ip {
            family: None,
            address: net.addr(),
            mask: Some(Mask::Prefix(net.prefix_len())),
            local_ptr: None,
            tftp_root: None,
            dhcp: None,
        });
    }
    network
}

pub(super) fn with_uplink(mut network: Network, dev: &str) -> Network {
    network.forward.devices.push(DeviceRef { dev: link(dev) });
    network
}

pub(super) fn rules(network: &Network, bridge: &str) -> NetworkRules {
    NetworkRules::of(network, &link(bridge))
}

pub(super) fn from_nothing(intent: &Intent) -> NftChange {
    diff(&ObservedTable::default(), intent, Scope::Whole, INSTANCE).unwrap()
}
