//! Whether a NIC's VLANs can be had on a bridge of the host's, whose settings and other ports are not ours to change.

use super::Engine;
use crate::model::{Network, Vlan};
use crate::plan::desired::Resolved;
use crate::plan::{Link, LinkKind, PortVlans};
use crate::{Error, ErrorKind};

/// Ports and VLANs that a warning names at most.
const NAMED: usize = 8;

impl Engine {
    /// Whether a NIC can have these VLANs where it would be; gives what the user should know besides.
    pub(super) fn vlans_can_be_had(
        &self,
        object: &str,
        resolved: &Resolved<'_>,
        vlan: Option<&Vlan>,
    ) -> Result<Option<String>, Error> {
        let (Resolved::HostBridge(name, _), Some(vlan)) = (resolved, vlan) else { return Ok(None) };
        // That the bridge is not there, or none, is said elsewhere.
        let bridge = self.observed.link_named(name.as_str()).filter(|l| l.kind == LinkKind::Bridge);
        let Some(bridge) = bridge else { return Ok(None) };
        if !bridge.vlan.filtering {
            return Err(Error::new(ErrorKind::Unsupported, object, passes_all(bridge))
                .field("<vlan>")
                .hint(filter(bridge)));
        }
        Ok(self.without_uplink(bridge, vlan))
    }

    /// That none of the ports that others put into a host bridge is in a VLAN, so that its frames don't leave the host.
    fn without_uplink(&self, bridge: &Link, vlan: &Vlan) -> Option<String> {
        let ports: Vec<&Link> = self.observed.ports_of(bridge.index).filter(|port| port.mark.is_none()).collect();
        let uplinks = self.config.uplinks.iter().filter(|(name, _)| name.as_str() == bridge.name);
        if uplinks.flat_map(|(_, names)| names).any(|name| ports.iter().any(|port| port.name == name.as_str())) {
            return None;
        }
        let carried = |vid: u16| ports.iter().any(|port| self.observed.vlans_of(port).contains(vid));
        let wanted = PortVlans::of(vlan);
        let missing = wanted.untagged.union(&wanted.tagged).copied().filter(|vid| !carried(*vid));
        let missing = some_of(missing.map(|vid| vid.to_string()));
        if ports.is_empty() || missing.is_empty() {
            return None;
        }
        let names = some_of(ports.iter().map(|port| port.name.clone()));
        Some(format!(
            "no other port of {} ({names}) carries VLAN {missing}: the guest reaches only guests on this bridge there; \
             'bridge vlan add dev PORT vid VLAN' lets it out, or uplinks of [bridges.{}] in patchcord.toml",
            bridge.name, bridge.name
        ))
    }

    /// That no NIC can have the VLANs of a network or its portgroups, since its host bridge does not filter.
    pub(super) fn vlans_cannot_be_had(&self, network: &Network) -> Option<String> {
        let bridge = self.observed.link_named(network.bridge.name.as_ref()?.as_str())?;
        let given = network.vlan.is_some() || network.portgroups.iter().any(|p| p.vlan.is_some());
        let refused = given && bridge.kind == LinkKind::Bridge && !bridge.vlan.filtering;
        refused.then(|| format!("NICs with a VLAN will be refused: {}; {}", passes_all(bridge), filter(bridge)))
    }
}

fn passes_all(bridge: &Link) -> String {
    format!("bridge {} does not keep VLANs apart", bridge.name)
}

/// We don't do that ourselves: ports that the host reaches others by may be in no VLAN yet.
fn filter(bridge: &Link) -> String {
    let name = &bridge.name;
    format!(
        "once its ports are in the VLANs they need ('bridge vlan'), 'ip link set dev {name} type bridge vlan_filtering 1' \
         has it do so"
    )
}

fn some_of(mut names: impl Iterator<Item = String>) -> String {
    let mut text = names.by_ref().take(NAMED).collect::<Vec<_>>().join(", ");
    if names.next().is_some() {
        text.push_str(" and others");
    }
    text
}
