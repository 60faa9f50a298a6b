//! Ports of Open vSwitch bridges. They are rows of a database, not kernel objects: a job writes them.

mod settings;

use super::observed::Index;
use crate::model::{Bandwidth, LinkName, MacAddr, Vlan};
pub use settings::{INSTANCE, INTERFACE_KEYS, Limit, PORT, PORT_KEYS, Policing, Settings, Shaping, VlanColumns};
use std::collections::BTreeSet;
use uuid::Uuid;

/// A port, as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OvsPort {
    /// The tap's name; Port and Interface have it, too.
    pub name: LinkName,
    /// The tap's index. Open vSwitch may never notice that a link is gone and another one has its name; then it takes no
    /// frames from it. So a port that was made for another link is made anew.
    pub link: Index,
    /// The NIC that it is for.
    pub nic: Uuid,
    /// The virtualport's `interfaceid`, by which a controller of Open vSwitch knows the interface (`iface-id`).
    pub interface_id: Uuid,
    /// The virtualport's `profileid` (`port-profile`).
    pub profile_id: Option<String>,
    /// The guest's MAC (`attached-mac`).
    pub mac: Option<MacAddr>,
    /// The guest's UUID (`vm-id`).
    pub guest: Option<Uuid>,
    /// VLANs; with none the port is a trunk of all.
    pub vlan: Option<Vlan>,
    /// Limits, of which a port of Open vSwitch holds `average` and `burst`: either direction has one bucket, so that a
    /// burst goes as fast as the link does, whatever `peak` says. `floor` is no limit, and not for host bridges.
    pub bandwidth: Option<Bandwidth>,
}

/// A port that carries our mark, as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OvsState {
    /// Its name, and the tap's.
    pub name: LinkName,
    /// The bridges that it is on: one, unless others put it on more.
    pub bridges: BTreeSet<String>,
    /// Its columns.
    pub settings: Settings,
    /// Why ovs-vswitchd can't use it, in its words.
    pub error: Option<String>,
}

/// A port that we made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OvsKnown {
    /// Its name.
    pub name: LinkName,
    /// What it is like; none when others removed it.
    pub port: Option<OvsState>,
}

impl OvsState {
    /// What a port is like that is as it should be.
    pub fn of(bridge: &LinkName, port: &OvsPort, instance: Uuid) -> Self {
        Self {
            name: port.name.clone(),
            bridges: BTreeSet::from([bridge.to_string()]),
            settings: Settings::of(port, instance),
            error: None,
        }
    }

    /// What is wrong with a port that should be like this, for people.
    pub fn wrong(&self, port: Option<&Self>) -> String {
        let name = &self.name;
        let bridges = |bridges: &BTreeSet<String>| bridges.iter().cloned().collect::<Vec<_>>().join(", ");
        let Some(port) = port else { return format!("port {name} was gone from bridge {}", bridges(&self.bridges)) };
        let (is, wanted) = (&port.settings, &self.settings);
        let mut wrong = Vec::new();
        if port.bridges != self.bridges {
            wrong.push(format!("was on bridge {}, not {}", bridges(&port.bridges), bridges(&self.bridges)));
        }
        if is.vlan != wanted.vlan {
            wrong.push(format!("had {}, not {}", is.vlan, wanted.vlan));
        }
        if is.policing != wanted.policing || is.shaping != wanted.shaping {
            wrong.push("had other rates".to_owned());
        }
        if is.port_ids != wanted.port_ids || is.interface_ids != wanted.interface_ids {
            wrong.push("had other external_ids".to_owned());
        }
        if let Some(error) = &port.error {
            wrong.push(format!("could not be used: {error}"));
        }
        format!("port {name} {}", wrong.join("; it "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::VlanTag;

    #[test]
    fn what_is_wrong_is_told() {
        let bridge = LinkName::new("br0").unwrap();
        let vlan = Vlan { trunk: None, tags: vec![VlanTag { id: 42, native: None }] };
        let port = OvsPort {
            name: LinkName::new("pct0").unwrap(),
            link: Index(7),
            nic: Uuid::from_u128(1),
            interface_id: Uuid::from_u128(2),
            profile_id: None,
            mac: None,
            guest: None,
            vlan: Some(vlan),
            bandwidth: None,
        };
        let wanted = OvsState::of(&bridge, &port, Uuid::nil());
        let told = |change: fn(&mut OvsState)| {
            let mut state = wanted.clone();
            change(&mut state);
            wanted.wrong(Some(&state))
        };
        assert_eq!(wanted.wrong(None), "port pct0 was gone from bridge br0");
        assert_eq!(told(|p| p.settings.vlan.tag = Some(9)), "port pct0 had tag=9, not tag=42");
        let no_vlan = told(|p| p.settings.vlan = VlanColumns::default());
        assert_eq!(no_vlan, "port pct0 had no VLAN of its own, not tag=42");
        let odd = told(|p| p.settings.vlan.mode = Some("dot1q-tunnel".into()));
        assert_eq!(odd, "port pct0 had vlan_mode=dot1q-tunnel tag=42, not tag=42");
        let moved = told(|p| {
            p.bridges = ["br1", "br2"].map(str::to_owned).into();
            p.settings.interface_ids.clear();
        });
        assert_eq!(moved, "port pct0 was on bridge br1, br2, not br0; it had other external_ids");
        let more = told(|p| (p.settings.policing.rate, p.error) = (1, Some("no such device".into())));
        assert_eq!(more, "port pct0 had other rates; it could not be used: no such device");
    }
}
