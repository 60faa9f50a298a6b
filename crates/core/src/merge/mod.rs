//! What a NIC effectively gets: its own configuration, its portgroup's and its network's put together, or refused.

mod place;
#[cfg(test)]
mod tests;
mod virtualport;

use crate::error::Reasons;
use crate::model::{ActualType, Bandwidth, Name, Network, Nic, NicSource, Portgroup, Tag, VirtualPort, Vlan};
use crate::{Error, ErrorKind, Result};
use place::Place;
use std::collections::HashSet;
use std::fmt::Arguments;
use uuid::Uuid;

/// Whose value of a whole element counts (`<vlan>`, `<bandwidth>`, isolation, trust) where both sides give one. It has no
/// say in `<virtualport>`, which never contradicts the host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precedence {
    /// The NIC's.
    #[default]
    Nic,
    /// The portgroup's, then the network's: for users whose access the administrator shapes. What such a NIC asks for and
    /// the host says nothing about is refused.
    Host,
}

/// What is put together.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// What errors call the NIC.
    pub object: Arguments<'a>,
    /// The NIC's own configuration.
    pub nic: &'a Nic,
    /// The active network that it names; none for other sources, and while the network is stopped.
    pub network: Option<&'a Network>,
    /// Who wins.
    pub precedence: Precedence,
    /// The `instanceid` or `interfaceid` to use where the virtualport needs one that nobody gave. It names the NIC to
    /// switches, and so must be the same each time, and no other NIC's.
    pub id: Uuid,
}

/// What a NIC gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// The portgroup: the one that it named, else the default one.
    pub portgroup: Option<Name>,
    /// The virtualport: with a type, and with all parameters that the type needs.
    pub virtualport: Option<VirtualPort>,
    /// Whether [`Given::id`] is in the virtualport, and so must be kept.
    pub id_used: bool,
    /// Its rates. `floor` only in networks that count what they promise.
    pub bandwidth: Option<Bandwidth>,
    /// Its VLANs.
    pub vlan: Option<Vlan>,
    /// Whether the guest may change its MAC filter.
    pub trust_guest_rx_filters: bool,
    /// Whether it may not reach other isolated NICs.
    pub isolated: bool,
    /// Its own labels, then its network's, then its portgroup's, each once.
    pub tags: Vec<Tag>,
}

impl Merged {
    /// What a NIC says about itself that needs no network.
    pub fn of_nic(nic: &Nic) -> Self {
        Self { tags: nic.tags.clone(), ..Self::default() }
    }
}

/// Puts together what a NIC gets.
///
/// # Errors
/// `NoPortgroup` if there is no portgroup of the name it gives; `InvalidXml` if places contradict each other, or a
/// virtualport stays incomplete; `Unsupported` if what is asked for can't be had where the NIC is connected to. All that
/// is in the way is in the one error.
pub fn merge(given: &Given<'_>) -> Result<Merged> {
    let mut reasons = Reasons::default();
    let merged = merge_noting(given, &mut reasons);
    reasons.or_value(merged)
}

/// The same for those who look on after a refusal: every reason is noted, and what is refused is left out.
pub fn merge_noting(given: &Given<'_>, reasons: &mut Reasons) -> Merged {
    let portgroup = reasons.note(portgroup(given));
    let sides = Sides {
        given,
        portgroup: portgroup.flatten(),
        portgroup_unknown: portgroup.is_none(),
        actual: ActualType::of_nic(given.nic, given.network),
    };
    let portgroup = sides.portgroup;
    let (virtualport, id_used) = sides.virtualport(reasons).unwrap_or_default();
    let bandwidth = reasons.note(sides.bandwidth()).flatten();
    let vlan = reasons.note(sides.vlan()).flatten();
    let isolated = reasons.note(sides.isolated()).unwrap_or_default();
    let (nic, network) = (given.nic, given.network);
    let trust = reasons.note(sides.first(
        "trustGuestRxFilters",
        sides.wish(nic.trust_guest_rx_filters),
        portgroup.and_then(|p| p.trust_guest_rx_filters),
        network.and_then(|n| n.trust_guest_rx_filters),
    ));
    let mut seen = HashSet::new();
    let tags = [Some(&nic.tags), network.map(|n| &n.tags), portgroup.map(|p| &p.tags)].into_iter().flatten().flatten();
    Merged {
        portgroup: portgroup.map(|p| p.name.clone()),
        virtualport,
        id_used,
        bandwidth,
        vlan,
        trust_guest_rx_filters: trust.flatten().is_some_and(|(trust, _)| trust),
        isolated,
        tags: tags.filter(|tag| seen.insert(*tag)).cloned().collect(),
    }
}

fn portgroup<'a>(given: &Given<'a>) -> Result<Option<&'a Portgroup>> {
    let (Some(network), NicSource::Network { portgroup, .. }) = (given.network, &given.nic.source) else {
        return Ok(None);
    };
    network.portgroup(portgroup.as_ref()).map_err(|cause| {
        Error::new(ErrorKind::NoPortgroup, given.object.to_string(), format!("network '{}': {cause}", network.name))
            .field("<source portgroup>")
            .hint("leave it out to get the network's default")
    })
}

/// The three places that say something about a NIC, and what it is connected to.
struct Sides<'a> {
    given: &'a Given<'a>,
    portgroup: Option<&'a Portgroup>,
    /// Whether the NIC names a portgroup that isn't there: what it would have said, nobody knows.
    portgroup_unknown: bool,
    actual: ActualType,
}

impl<'a> Sides<'a> {
    /// The value that counts of those that each place gives, and where it is from.
    fn first<T>(
        &self,
        field: &str,
        nic: Option<T>,
        portgroup: Option<T>,
        network: Option<T>,
    ) -> Result<Option<(T, Place<'a>)>> {
        let [at_nic, at_portgroup, at_network] = self.places();
        let nic = nic.zip(at_nic);
        if self.portgroup_unknown {
            return Ok(nic.filter(|_| self.given.precedence == Precedence::Nic));
        }
        let host = portgroup.zip(at_portgroup).or(network.zip(at_network));
        match self.given.precedence {
            Precedence::Nic => Ok(nic.or(host)),
            // A stopped network says nothing for now.
            Precedence::Host if host.is_some() || nic.is_none() || self.actual == ActualType::None => Ok(host),
            Precedence::Host => Err(self
                .refuse(ErrorKind::Denied, field, "the host decides it for this network")
                .hint("leave it out; 'nic_policy = true' in the access list would let the NIC choose")),
        }
    }

    /// What a NIC says about a thing that is on or off: off, where it may not choose, is no wish.
    fn wish(&self, nic: Option<bool>) -> Option<bool> {
        nic.filter(|on| *on || self.given.precedence == Precedence::Nic)
    }

    /// The NIC, its portgroup and its network, where there are such.
    fn places(&self) -> [Option<Place<'a>>; 3] {
        let network = self.given.network.map(|n| &n.name);
        let portgroup = self.portgroup.zip(network).map(|(p, n)| Place::Portgroup(&p.name, n));
        [Some(Place::Nic), portgroup, network.map(Place::Network)]
    }

    fn refuse(&self, kind: ErrorKind, field: &str, cause: impl Into<String>) -> Error {
        Error::new(kind, self.given.object.to_string(), cause).field(field)
    }

    /// What the NIC is connected to, for messages: `network 'red' (forward mode 'nat') gives its NICs a bridge of its own`.
    fn connected(&self) -> String {
        let noun = self.actual.noun();
        match self.given.network {
            Some(network) => {
                let mode = network.forward.mode.as_str().unwrap_or("none");
                format!("network '{}' (forward mode '{mode}') gives its NICs {noun}", network.name)
            }
            None => format!("its source is {noun}"),
        }
    }

    fn bandwidth(&self) -> Result<Option<Bandwidth>> {
        // That of the network itself is for its bridge as a whole.
        let portgroup = self.portgroup.and_then(|p| p.bandwidth.as_ref());
        let Some((bandwidth, place)) = self.first("<bandwidth>", self.given.nic.bandwidth.as_ref(), portgroup, None)?
        else {
            return Ok(None);
        };
        if self.actual == ActualType::Hostdev {
            let cause = format!("{place} limits its rates, and {}, which nobody here can limit", self.connected());
            return Err(self.refuse(ErrorKind::Unsupported, "<bandwidth>", cause).hint("remove <bandwidth>"));
        }
        if let Some(floor) = bandwidth.inbound.and_then(|rate| rate.floor) {
            self.check_floor(floor, place)?;
        }
        Ok(Some(bandwidth.clone()))
    }

    /// Whether somebody counts what is promised to the NICs together. That there is enough left is for admission to say.
    fn check_floor(&self, floor: u64, place: Place<'_>) -> Result<()> {
        let (why, hint) = match (self.actual, self.given.network) {
            (ActualType::None, _) => return Ok(()),
            (ActualType::Network, Some(network)) => {
                let rate = network.bandwidth.as_ref().and_then(|b| b.inbound);
                if rate.is_some_and(|rate| rate.average.is_some()) {
                    return Ok(());
                }
                let why = format!("network '{}' has no inbound rate of its own to promise from", network.name);
                (why, "give the network a <bandwidth> with <inbound average>, or remove floor")
            }
            _ => (format!("{}: only a network's own bridge promises rates", self.connected()), "remove floor"),
        };
        let cause = format!("{place} asks for {floor} KiB/s at least, and {why}");
        Err(self.refuse(ErrorKind::Unsupported, "<inbound floor>", cause).hint(hint))
    }

    fn vlan(&self) -> Result<Option<Vlan>> {
        let (nic, network) = (self.given.nic, self.given.network);
        let portgroup = self.portgroup.and_then(|p| p.vlan.as_ref());
        let given = self.first("<vlan>", nic.vlan.as_ref(), portgroup, network.and_then(|n| n.vlan.as_ref()))?;
        let Some((vlan, place)) = given else { return Ok(None) };
        if let Some((why, hint)) = self.actual.refuses_vlan(vlan, self.wanted_kind()) {
            let what = match &vlan.tags[..] {
                [tag] => format!("VLAN {}", tag.id),
                tags => format!("{} VLANs", tags.len()),
            };
            let cause = format!("{place} asks for {what}, and {}, {why}", self.connected());
            return Err(self.refuse(ErrorKind::Unsupported, "<vlan>", cause).hint(hint));
        }
        Ok(Some(vlan.clone()))
    }

    fn isolated(&self) -> Result<bool> {
        let network = self.given.network.and_then(|n| n.port_isolated);
        let isolated = self.first("<port isolated>", self.wish(self.given.nic.port_isolated), None, network)?;
        let Some((true, place)) = isolated else { return Ok(false) };
        if matches!(self.actual, ActualType::Direct(_) | ActualType::Hostdev) {
            let cause = format!("{place} asks for isolation, and {}, which has none", self.connected());
            return Err(self
                .refuse(ErrorKind::Unsupported, "<port isolated>", cause)
                .hint("remove it, or use a bridge; mode 'private' keeps NICs on one device apart"));
        }
        Ok(true)
    }
}
