//! Whether a network may be defined or started, and what its document leaves to us.

use super::Engine;
use super::reconcile::foreign_table;
use crate::intent::NetworkIntent;
use crate::model::{ActualType, ForwardMode, LinkName, MacAddr, Network, VirtualPortType};
use crate::plan::{Index, MarkKind, nft, subnet};
use crate::{Error, ErrorKind};
use uuid::Uuid;

/// Networks' bridges that we name: `virbr0`, `virbr1` and so on.
const BRIDGE_PATTERN: &str = "virbr%d";

impl Engine {
    /// The UUID a document's network has, and what is known under it. A name and a UUID that belong to two networks
    /// are refused.
    pub(super) fn identify(&self, network: &Network, random: u128) -> Result<(Uuid, Option<NetworkIntent>), Error> {
        let object = || format!("network '{}'", network.name);
        let named = self.intent.named(&network.name);
        match (network.uuid, named) {
            (Some(uuid), Some(other)) if uuid != other => {
                Err(Error::new(ErrorKind::NetworkExists, object(), format!("it is defined already, with UUID {other}"))
                    .field("<uuid>")
                    .hint("leave <uuid> out to keep that one, or choose another name"))
            }
            (Some(uuid), None) => match self.intent.network(uuid).and_then(NetworkIntent::current) {
                Some(other) => Err(Error::new(
                    ErrorKind::NetworkExists,
                    object(),
                    format!("network '{}' has UUID {uuid} already", other.name),
                )
                .field("<uuid>")
                .hint("leave <uuid> out to get a new one")),
                None => Ok((uuid, None)),
            },
            (_, Some(uuid)) => Ok((uuid, self.intent.network(uuid).cloned())),
            (None, None) => Ok((uuid::Builder::from_random_bytes(random.to_be_bytes()).into_uuid(), None)),
        }
    }

    /// Fills in what a definition leaves to us: UUID, bridge name and MAC, which stay what they were. Refuses a bridge
    /// that another network has.
    pub(super) fn complete(
        &self,
        mut network: Network,
        uuid: Uuid,
        known: Option<&NetworkIntent>,
        random: u128,
    ) -> Result<Network, Error> {
        network.validate()?;
        network.uuid = Some(uuid);
        if !network.forward.mode.has_own_bridge() {
            return Ok(network);
        }
        // What runs may be otherwise for the time being.
        let before = known.into_iter().flat_map(|known| known.definition.iter().chain(&known.active));
        let before = before.into_iter().find(|network| network.forward.mode.has_own_bridge());
        if network.bridge.name.is_none() {
            let kept = before.and_then(|n| n.bridge.name.clone()).filter(|_| network.bridge.pattern.is_none());
            let name = match kept {
                Some(name) => name,
                None => self.free_bridge(network.bridge.pattern.as_deref().unwrap_or(BRIDGE_PATTERN), &network)?,
            };
            network.bridge.name = Some(name);
        }
        network.bridge.pattern = None;
        let is_free = self.bridge_is_nobodys(uuid, &network);
        is_free.map_err(|error| error.hint("leave the name out to get a free one"))?;
        let generated = || self.bridge_mac(&network.name, uuid, random);
        network.mac = network.mac.or_else(|| before.and_then(|n| n.mac)).or_else(|| Some(generated()));
        Ok(network)
    }

    /// Refuses a bridge that another network has.
    pub(super) fn bridge_is_nobodys(&self, uuid: Uuid, network: &Network) -> Result<(), Error> {
        let Some(name) = network.bridge.name.as_ref().filter(|_| network.forward.mode.has_own_bridge()) else {
            return Ok(());
        };
        let mut all = self.intent.networks().chain(self.leaving());
        let Some((_, other)) = all.find(|(other, n)| *other != uuid && uses_bridge(n, name)) else { return Ok(()) };
        let who = other.current().map(|n| n.name.to_string()).unwrap_or_default();
        let cause = format!("bridge {name} belongs to network '{who}'");
        Err(Error::new(ErrorKind::InUse, format!("network '{}'", network.name), cause)
            .field("<bridge name>")
            .hint("choose another name"))
    }

    /// The MAC of a bridge that gave none. It is made of the network's name, so that a network that is removed and made
    /// again has the one that its guests know; only where another network has it does chance decide.
    fn bridge_mac(&self, name: &crate::model::Name, uuid: Uuid, random: u128) -> MacAddr {
        let seed = self.config.instance.as_bytes().iter().chain(name.as_str().as_bytes());
        // FNV-1a, 32 bits.
        let hash = seed.fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
        let mac = MacAddr::generated(hash);
        let mut others = self.intent.networks().filter(|(other, _)| *other != uuid);
        let taken = others.any(|(_, n)| [&n.definition, &n.active].into_iter().flatten().any(|n| n.mac == Some(mac)));
        // The bits that the UUID leaves.
        if taken { MacAddr::generated((random >> 96) as u32 ^ random as u32) } else { mac }
    }

    /// The first free name of a pattern such as `virbr%d`.
    fn free_bridge(&self, pattern: &str, network: &Network) -> Result<LinkName, Error> {
        let all = self.intent.networks().chain(self.leaving());
        let taken: std::collections::BTreeSet<&LinkName> = all.flat_map(|(_, n)| bridges(n)).collect();
        let free = (0..100_000)
            .map(|n| LinkName::new(pattern.replacen("%d", &n.to_string(), 1)))
            .take_while(Result::is_ok)
            .flatten()
            .find(|name| !taken.contains(name) && self.observed.link_named(name.as_str()).is_none());
        free.ok_or_else(|| {
            Error::new(
                ErrorKind::InUse,
                format!("network '{}'", network.name),
                format!("there is no free bridge name for {pattern}"),
            )
            .field("<bridge name>")
        })
    }

    /// Whether a network may start now; gives what the user should know besides.
    pub(super) fn may_start(&self, uuid: Uuid, network: &Network) -> Result<Vec<String>, Error> {
        let refuse = |kind, cause: String| Error::new(kind, format!("network '{}'", network.name), cause);
        let mut warnings = Vec::new();
        self.promises_fit(uuid, network)?;
        match network.forward.mode {
            ForwardMode::Isolated | ForwardMode::Nat | ForwardMode::Route | ForwardMode::Open => {
                let Some(bridge) = &network.bridge.name else {
                    return Err(refuse(ErrorKind::Internal, "it has no bridge name".into()));
                };
                let own = self.observed.link_marked(MarkKind::Bridge, uuid).is_some_and(|l| l.name == bridge.as_str());
                if let Some(link) = self.observed.link_named(bridge.as_str()).filter(|l| !own && !l.is_doomed()) {
                    let what = match link.mark.map(|mark| mark.kind) {
                        Some(MarkKind::Bridge) => "another network's bridge",
                        Some(_) => "a link of ours",
                        None => "a link that is not ours",
                    };
                    return Err(refuse(ErrorKind::InUse, format!("{bridge} is there already: {what}"))
                        .field("<bridge name>")
                        .hint("choose another name, or forward mode 'bridge' to use it as it is"));
                }
                self.subnets_free(uuid, network, None)?;
                self.rules_can_be_had(network, bridge)?;
                if !network.ips.is_empty() && network.forward.mode != ForwardMode::Open {
                    warnings.extend(self.observed.firewalls.dropping.iter().map(ToString::to_string));
                }
                for device in &network.forward.devices {
                    if self.observed.link_named(device.dev.as_str()).is_none() {
                        warnings.push(format!("{} is not there: guests reach the outside when it appears", device.dev));
                    }
                }
            }
            ForwardMode::Bridge if ActualType::of_network(network) == ActualType::Bridge => {
                let Some(bridge) = &network.bridge.name else {
                    return Err(refuse(ErrorKind::InvalidXml, "it names neither a bridge nor a device".into())
                        .field("<bridge name>")
                        .hint("name the host's bridge, or the one of Open vSwitch"));
                };
                if self.observed.link_named(bridge.as_str()).is_none() && !may_be_ovs(network) {
                    return Err(refuse(ErrorKind::NoDevice, format!("there is no bridge {bridge} on this host"))
                        .field("<bridge name>")
                        .hint("make it first, or leave <forward> out to get a bridge of the network's own"));
                }
                warnings.extend(self.vlans_cannot_be_had(network));
            }
            ForwardMode::Bridge | ForwardMode::Private | ForwardMode::Vepa | ForwardMode::Passthrough => {
                warnings.extend(self.functions_can_be_had(network)?);
                let devices = network.forward.devices.iter().map(|d| d.dev.as_str());
                let absent: Vec<&str> = devices.filter(|d| self.observed.link_named(d).is_none()).collect();
                if !absent.is_empty() {
                    warnings.push(format!(
                        "not there: {}; NICs get others, and are refused where there are none",
                        absent.join(", ")
                    ));
                }
            }
            ForwardMode::Hostdev => {
                if network.forward.managed == Some(true) && !self.config.binds_drivers {
                    let cause = "it wants its devices bound to another driver for their guests".into();
                    return Err(refuse(ErrorKind::Unsupported, cause).field("<forward managed>").hint(
                        "allow it with 'bind_drivers = true' under [devices] in patchcord.toml, or set managed='no' and \
                         bind them yourself",
                    ));
                }
                warnings.extend(self.functions_can_be_had(network)?);
                warnings.extend(self.absent_functions(network));
            }
        }
        Ok(warnings)
    }

    /// Refuses a network with packet rules where another installation has the table of our name.
    pub(super) fn rules_can_be_had(&self, network: &Network, bridge: &LinkName) -> Result<(), Error> {
        if nft::NetworkRules::of(network, bridge).is_empty() {
            return Ok(());
        }
        nft::not_foreign(&self.observed.nft, self.config.instance)
            .map_err(|table| foreign_table(format!("network '{}'", network.name), &table))
    }

    /// Refuses addresses that overlap with those of an active network, or with a route or an address of the host.
    /// `adopted` is the bridge that it is about to get.
    pub(super) fn subnets_free(&self, uuid: Uuid, network: &Network, adopted: Option<Index>) -> Result<(), Error> {
        let own = adopted.or_else(|| self.observed.link_marked(MarkKind::Bridge, uuid).map(|l| l.index));
        let subnets = network.ips.iter().map(crate::model::Ip::network);
        let others = self.intent.networks().chain(self.leaving()).filter(|(other, _)| *other != uuid);
        let others = others.filter_map(|(_, n)| n.active.as_ref());
        let others: Vec<_> = others.flat_map(|n| n.ips.iter().map(|ip| (n.name.as_str(), ip.network()))).collect();
        // A bridge that is about to be deleted has none any more.
        let routes = self.observed.routes().filter(|r| Some(r.link) != own);
        let routes = routes.filter_map(|r| Some((self.observed.link(r.link).filter(|l| !l.is_doomed())?, r.to)));
        let routes: Vec<_> = routes.map(|(link, to)| (link.name.as_str(), to)).collect();
        // Those of our bridges are the networks' that were compared.
        let addresses = self.observed.all_addresses().filter(|(index, _)| Some(*index) != own);
        let addresses = addresses.filter_map(|(index, net)| Some((self.observed.link(index)?, net.addr())));
        let addresses = addresses.filter(|(link, _)| link.mark.is_none());
        let addresses: Vec<_> = addresses.map(|(link, address)| (link.name.as_str(), address)).collect();
        let (others, routes) = (others.iter().copied(), routes.iter().copied());
        match subnet::subnets_overlap(subnets, others, routes, addresses.iter().copied()) {
            None => Ok(()),
            Some(conflict) => {
                let object = format!("network '{}'", network.name);
                Err(Error::new(ErrorKind::InUse, object, conflict.to_string())
                    .field("<ip address>")
                    .hint("choose another subnet"))
            }
        }
    }
}

/// Whether the bridge of a network, or of one of its portgroups, is one of Open vSwitch, which need not be a link.
fn may_be_ovs(network: &Network) -> bool {
    let all = network.virtualport.iter().chain(network.portgroups.iter().filter_map(|p| p.virtualport.as_ref()));
    all.into_iter().any(|v| v.kind == Some(VirtualPortType::OpenVSwitch))
}

fn bridges(network: &NetworkIntent) -> impl Iterator<Item = &LinkName> {
    let known = network.definition.iter().chain(&network.active);
    known.filter(|n| n.forward.mode.has_own_bridge()).filter_map(|n| n.bridge.name.as_ref())
}

fn uses_bridge(network: &NetworkIntent, name: &LinkName) -> bool {
    bridges(network).any(|b| b == name)
}
