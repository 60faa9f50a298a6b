//! Ports of Open vSwitch bridges. They are rows of a database, not kernel objects: a job writes them.

use super::observed::Index;
use crate::model::{Bandwidth, LinkName, MacAddr, Vlan};
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

/// A port of ours, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OvsKnown {
    /// Its name, and its tap's.
    pub name: LinkName,
    /// Its bridge and what it is; none when only its name was read.
    pub port: Option<(LinkName, OvsPort)>,
}
