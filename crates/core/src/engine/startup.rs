//! The first look after a start: records become intent, and then every object is looked at, as at any other time.

use super::effect::{Effect, Event, RecordKey};
use super::input::{Startup, Text};
use super::{Engine, Object};
use crate::intent::{NetworkIntent, NicIntent};
use crate::model::{ForwardMode, Network};
use crate::plan::{Handover, Mark, MarkKind, claim};
use crate::{Error, xml};
use std::collections::BTreeSet;
use uuid::Uuid;

/// Objects whose run state can't be read.
#[derive(Clone, Debug, Default)]
pub(super) struct Damaged {
    /// Names of networks.
    pub(super) networks: BTreeSet<String>,
    /// Ids of NICs.
    pub(super) nics: BTreeSet<Uuid>,
    /// Whether what the host's settings were before us can't be read.
    pub(super) host: bool,
}

impl Engine {
    /// Whether an object, or the network it is on, has run state that can't be read.
    pub(super) fn is_damaged(&self, object: Object) -> bool {
        if self.damaged.networks.is_empty() && self.damaged.nics.is_empty() {
            return false;
        }
        let named = |name: &crate::model::Name| self.damaged.networks.contains(name.as_str());
        match object {
            Object::Host => false,
            Object::Network(uuid) => match self.intent.network(uuid).and_then(NetworkIntent::current) {
                Some(network) => named(&network.name),
                // One that nobody knows may be the transient network whose record can't be read, unless it is being
                // stopped for good just now.
                None => {
                    let leaves = self.work.get(&object).is_some_and(|w| w.operation.is_some());
                    !self.damaged.networks.is_empty() && !leaves
                }
            },
            Object::Nic(id) => {
                self.damaged.nics.contains(&id)
                    || self.intent.nic(id).and_then(NicIntent::network_name).is_some_and(named)
            }
        }
    }

    /// Whether a link that nobody knows may belong to such an object.
    pub(super) fn may_be_damaged(&self, mark: Mark) -> bool {
        match mark.kind {
            MarkKind::Bridge | MarkKind::NetworkIfb => !self.damaged.networks.is_empty(),
            MarkKind::Tap | MarkKind::Macvlan | MarkKind::Ifb => self.damaged.nics.contains(&mark.id),
        }
    }

    /// The daemon starts.
    pub(super) fn start_up(&mut self, startup: Startup) {
        self.observed = startup.observed.clone();
        let mut broken = Vec::new();
        if let Some(text) = &startup.host {
            match parsed(text, |text| xml::read_host_state(&self.config.stamp, text)) {
                Ok(Some(saved)) => self.intent.saved = saved,
                Ok(None) => self.persist(RecordKey::Host, None),
                Err(error) => {
                    self.damaged.host = true;
                    broken.push(("what the host's settings were (host.xml)".to_owned(), error));
                }
            }
        }
        self.load_networks(&startup, &mut broken);
        self.load_nics(&startup, &mut broken);
        self.load_associations(&startup, &mut broken);
        self.load_functions(&startup, &mut broken);
        self.list_all_functions();
        for (object, what) in broken {
            let what = format!("{what}; it is left as it is");
            self.out.push(Effect::Publish(Event::Drift { object, what, culprit: None, repaired: false }));
        }
        let owners: Vec<_> = self.intent.nics().filter_map(|n| n.owner).collect();
        for owner in owners {
            self.watch(Some(owner));
        }
        // Counting goes on behind the highest number in use.
        let taps = self.intent.nics().filter_map(|n| n.nic.target.as_ref()?.as_str().strip_prefix("pct")?.parse().ok());
        self.numbers.tap = taps.max().map_or(0, |n: u32| n.wrapping_add(1));
        let macvlans = self.intent.nics().filter_map(|n| n.allocation.as_ref());
        let macvlans = macvlans.filter_map(|a| a.macvlan()?.as_str().strip_prefix("pcm")?.parse().ok());
        self.numbers.macvlan = macvlans.max().map_or(0, |n: u32| n.wrapping_add(1));
        self.numbers.turn = self.intent.nics().map(|n| n.turn).max().unwrap_or(0) + 1;
        let by_descriptor = self.intent.nics().filter(|nic| nic.handover == Handover::Descriptor);
        let untapped = by_descriptor.filter(|nic| self.observed.link_marked(MarkKind::Tap, nic.id).is_none());
        self.untapped = untapped.map(|nic| nic.id).collect();
        self.look_at_everything();
        self.look_at_leftover_ports();
        self.look_at_untold();
        self.started = true;
        self.autostart_all();
    }

    /// Ports of Open vSwitch whose NIC is gone go as well.
    fn look_at_leftover_ports(&mut self) {
        let ours = |id: &&Uuid| self.intent.nic(**id).is_none() && !self.damaged.nics.contains(id);
        let leftover: Vec<Uuid> = self.observed.ovs.keys().filter(ours).copied().collect();
        for id in leftover {
            self.advance(Object::Nic(id));
        }
    }

    fn load_networks(&mut self, startup: &Startup, broken: &mut Vec<(String, String)>) {
        let autostart = |name: &Network| startup.autostart.iter().any(|a| a == name.name.as_str());
        let mut unfinished = Vec::new();
        for (stem, text) in &startup.definitions {
            let mut leave = |why: String| broken.push((format!("definition {stem}.xml"), why));
            let network = match parsed(text, |text| xml::read_network(text, xml::Mode::Lenient)) {
                Ok(network) if network.name.as_str() == stem => network,
                Ok(network) => {
                    leave(format!("it defines network '{}': its file must have that name", network.name));
                    continue;
                }
                Err(error) => {
                    leave(error);
                    continue;
                }
            };
            let twin = network.uuid.and_then(|uuid| self.intent.network(uuid)).and_then(NetworkIntent::current);
            if let Some(twin) = twin {
                leave(format!("it has the <uuid> of network '{}'", twin.name));
                continue;
            }
            let own = network.forward.mode.has_own_bridge();
            match network.uuid {
                Some(uuid) if !own || (network.bridge.name.is_some() && network.mac.is_some()) => {
                    let autostart = autostart(&network);
                    let intent = NetworkIntent { definition: Some(network), autostart, active: None };
                    self.intent.set_network(uuid, intent);
                }
                // Somebody wrote it by hand, and left to us what a definition over the API leaves to us, too.
                _ => unfinished.push(network),
            }
        }
        for (stem, text) in &startup.networks {
            match parsed(text, |text| xml::read_network_state(&self.config.stamp, text)) {
                Ok(Some((uuid, active))) => {
                    let known = self.intent.network(uuid).cloned();
                    let intent = NetworkIntent { active: Some(active), ..known.unwrap_or_default() };
                    self.intent.set_network(uuid, intent);
                }
                // Before a reboot, or in another network namespace: it is gone.
                Ok(None) => self.persist(RecordKey::Network(stem.clone()), None),
                Err(error) => {
                    // What belongs to it stays untouched: its links are not orphans.
                    self.damaged.networks.insert(stem.clone());
                    broken.push((format!("run state of network '{stem}'"), error));
                }
            }
        }
        for (number, network) in (0u128..).zip(unfinished) {
            let autostart = autostart(&network);
            let object = format!("definition {}.xml", network.name);
            // Any bits will do, as long as they differ.
            let random = startup.random.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
            let finished = self.identify(&network, random).and_then(|(uuid, known)| {
                let network = self.complete(network, uuid, known.as_ref(), random)?;
                Ok((uuid, NetworkIntent { definition: Some(network), autostart, active: known.and_then(|k| k.active) }))
            });
            match finished {
                // The file says so from now on.
                Ok((uuid, intent)) => self.put_network(uuid, Some(intent)),
                Err(error) => broken.push((object, error.to_string())),
            }
        }
    }

    fn load_nics(&mut self, startup: &Startup, broken: &mut Vec<(String, String)>) {
        for (stem, text) in &startup.nics {
            let id = Uuid::try_parse(stem).ok();
            match (id, parsed(text, |text| xml::read_nic_state(&self.config.stamp, text))) {
                (Some(id), Ok(Some(nic))) if nic.id == id => self.load_nic(startup, nic),
                (Some(id), Ok(None)) => self.persist(RecordKey::Nic(id), None),
                (_, Ok(_)) => broken.push((format!("run state {stem}.xml"), "it is not that NIC's".into())),
                (_, Err(error)) => {
                    self.damaged.nics.extend(id);
                    broken.push((format!("run state of NIC {stem}"), error));
                }
            }
        }
        for (stem, text) in &startup.pending_nics {
            let Ok(id) = Uuid::try_parse(stem) else { continue };
            match text.as_ref().map(|text| xml::read_nic_state(&self.config.stamp, text)) {
                Err(cause) => {
                    self.damaged.nics.insert(id);
                    broken.push((format!("run state of NIC {stem}"), cause.clone()));
                }
                Ok(Ok(Some(nic))) if nic.id == id && !startup.nics.contains_key(stem) => {
                    self.load_nic(startup, NicIntent { confirmed: false, ..nic });
                }
                // Not written whole, so that nothing was made; or gone with its boot; or confirmed after all.
                _ => self.persist(RecordKey::PendingNic(id), None),
            }
        }
    }

    /// A NIC lives on while its owner does. One whose attach nobody was told of is taken back, unless somebody holds the
    /// descriptor of its tap: then the telling came first, and only the note about it was lost. A tap that was to be
    /// opened by name is there whether somebody was told or not, and says nothing; one that libvirt's driver has made for a
    /// port says that the driver was.
    fn load_nic(&mut self, startup: &Startup, nic: NicIntent) {
        let id = nic.id;
        let owner_lives = nic.owner.is_none_or(|o| startup.owners.contains(&o));
        let in_hand = match nic.is_port() {
            true => claim::is_made(&self.intent, &self.observed, &nic),
            false => nic.handover == Handover::Descriptor && startup.held.contains(&id),
        };
        let answered = nic.confirmed || in_hand;
        if !owner_lives || !answered {
            self.persist(if nic.confirmed { RecordKey::Nic(id) } else { RecordKey::PendingNic(id) }, None);
            return self.ended_meanwhile(nic);
        }
        if !nic.confirmed {
            self.out.push(Effect::Confirm(id));
        }
        self.intent.set_nic(NicIntent { confirmed: true, ..nic });
    }

    /// Starts the networks that start by themselves; one whose uplink is not there yet starts when it appears.
    fn autostart_all(&mut self) {
        let networks = self.intent.networks().filter(|(_, network)| network.starts_by_itself());
        let networks: Vec<Uuid> = networks.map(|(uuid, _)| uuid).collect();
        for uuid in networks {
            self.try_autostart(uuid);
        }
    }

    /// Starts a network by itself, or waits for its uplink.
    pub(super) fn try_autostart(&mut self, uuid: Uuid) {
        let object = Object::Network(uuid);
        let starts = self.intent.network(uuid).filter(|n| n.starts_by_itself() && !self.is_damaged(object));
        let Some(definition) = starts.and_then(|network| network.definition.clone()) else { return };
        if let Some(missing) = uplinks(&definition).find(|link| self.observed.link_named(link).is_none()) {
            self.waiting_for_uplink.insert(uuid, missing.to_owned());
            return;
        }
        match self.may_start(uuid, &definition) {
            Ok(warnings) => self.activate(None, uuid, definition, warnings),
            Err(error) => self.drift(object, error.to_string(), false),
        }
    }
}

/// The host links that a network needs from its first moment. Of a pool, NICs get those that are there.
fn uplinks(network: &Network) -> impl Iterator<Item = &str> {
    let bridge = network.bridge.name.iter().filter(|_| network.forward.mode == ForwardMode::Bridge);
    let devices = network.forward.devices.iter().filter(|_| network.forward.mode.has_own_bridge()).map(|d| &d.dev);
    bridge.chain(devices).chain(&network.forward.pf).map(|l| l.as_str())
}

/// What a stored document says, or why that is not known.
pub(super) fn parsed<T>(text: &Text, parse: impl FnOnce(&str) -> Result<T, Error>) -> Result<T, String> {
    parse(text.as_ref().map_err(Clone::clone)?).map_err(|error| error.to_string())
}
