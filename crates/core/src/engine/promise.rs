//! Guaranteed rates: a network's bridge promises its NICs no more than it may send, and keeps a class for each of them.

use super::input::JobOutcome;
use super::{Engine, Object};
use crate::intent::NicIntent;
use crate::merge::Merged;
use crate::model::Network;
use crate::plan::{Plan, rates, shape};
use crate::{Error, ErrorKind};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// How many of those whom something is promised to a refusal names.
const NAMED: usize = 8;

/// What a network promises to whom, by NIC: KiB a second, and the class.
type Promised = BTreeMap<Uuid, (u64, Option<u16>)>;

/// Notes the networks whose promises a change of a NIC concerns.
pub(super) fn note(networks: &mut BTreeSet<Uuid>, before: Option<&NicIntent>, now: Option<&NicIntent>) {
    let promise = |nic: Option<&NicIntent>| {
        let nic = nic.filter(|n| n.class.is_some())?;
        Some((nic.network, nic.class, nic.nic.bandwidth.clone()))
    };
    let (before, now) = (promise(before), promise(now));
    if before != now {
        networks.extend([before, now].into_iter().flatten().filter_map(|(network, ..)| network));
    }
}

impl Engine {
    /// The steps for the rates of a network's bridge.
    pub(super) fn plan_network_rates(&self, plan: &mut Plan, uuid: Uuid) {
        let rates = rates::of_network(&self.intent, &self.observed, uuid);
        shape::network(plan, (self.config.instance, uuid), &rates, &self.observed);
    }

    /// Whether a NIC's plan is about its network's bridge, too.
    pub(super) fn is_promised(&self, object: Object) -> bool {
        matches!(object, Object::Nic(id) if self.intent.nic(id).is_some_and(|nic| nic.class.is_some()))
    }

    /// Looks at the networks that promise other rates than before.
    pub(super) fn keep_promises(&mut self) {
        for network in std::mem::take(&mut self.concerned.promises) {
            let object = Object::Network(network);
            if !self.is_damaged(object) {
                self.work.entry(object).or_default().expected = true;
                self.advance(object);
            }
        }
    }

    /// Whether an object's rates depend on what the kernel can do, and that is not known yet.
    pub(super) fn needs_shaping_tried(&self, object: Object) -> bool {
        self.observed.shaping.is_none()
            && match object {
                Object::Host => false,
                Object::Network(uuid) => rates::network_needs_support(&self.intent, uuid),
                Object::Nic(id) => self.intent.nic(id).is_some_and(|nic| {
                    let bridge = nic.network.filter(|_| nic.class.is_some());
                    rates::nic_needs_support(&self.intent, nic)
                        || bridge.is_some_and(|network| rates::network_needs_support(&self.intent, network))
                }),
            }
    }

    /// What the kernel can do was found out, and told; or the job was dropped with its request.
    pub(super) fn shaping_tried(&mut self, object: Object, outcome: &JobOutcome) {
        self.work.entry(object).or_default().flight = None;
        if *outcome == JobOutcome::Done {
            // What can't be tried can't be done.
            self.observed.shaping.get_or_insert_default();
        }
        self.advance(object);
    }

    /// What a network promises, reservations included. A NIC under change counts with what it had before, too: should the change fail it comes
    /// back.
    fn promised(&self, network: Uuid) -> Promised {
        let mut promised = Promised::new();
        let reserved = self.intent.reservations().filter(|nic| nic.network == Some(network));
        for nic in self.intent.nics_of(network).chain(reserved).filter(|nic| nic.class.is_some()) {
            if let Some(floor) = rates::floor(&self.intent, nic) {
                promised.insert(nic.id, (floor, nic.class));
            }
        }
        for nic in self.leaving_nics().filter(|nic| nic.network == Some(network) && nic.class.is_some()) {
            if let Some(floor) = rates::floor(&self.intent, nic) {
                let now = promised.entry(nic.id).or_insert((floor, nic.class));
                now.0 = now.0.max(floor);
            }
        }
        promised
    }

    /// The class for what a NIC is to be promised, if it is to be promised anything, and there is enough left.
    pub(super) fn promise(&self, object: &str, nic: &NicIntent, merged: &Merged) -> Result<Option<u16>, Error> {
        let floor = merged.bandwidth.as_ref().and_then(|b| b.inbound).and_then(|rate| rate.floor);
        let (Some(floor), Some(uuid), Some(network)) = (floor, nic.network, self.intent.active_network_of(nic)) else {
            return Ok(None);
        };
        let refuse = |kind, cause: String| Error::new(kind, object, cause).field("<inbound floor>");
        if nic.nic.mac.is_none() {
            let cause = "the guest's address is not known, and by it frames are told apart";
            return Err(refuse(ErrorKind::InvalidArgument, cause.into()).hint("give it with --mac, or remove floor"));
        }
        let mut others = self.promised(uuid);
        others.remove(&nic.id);
        let (whole, promised) = (average(network), total(&others));
        if promised.saturating_add(floor) > whole {
            let left = whole.saturating_sub(promised);
            let cause = format!(
                "{floor} KiB/s are asked for, and network '{}' has {left} left of {whole}: {}",
                network.name,
                self.holders(&others)
            );
            return Err(refuse(ErrorKind::InUse, cause).hint("ask for less, or give the network a higher average"));
        }
        let mut taken: BTreeSet<u16> = others.values().filter_map(|(_, class)| *class).collect();
        // Parked ones keep theirs, whatever they are promised now.
        taken.extend(self.intent.nics_of(uuid).filter(|other| other.id != nic.id).filter_map(|other| other.class));
        let free = |class: &u16| !taken.contains(class);
        let class = nic.class.filter(free).or_else(|| rates::PROMISED.into_iter().find(free));
        let none = || refuse(ErrorKind::InUse, format!("network '{}' promises something to too many", network.name));
        class.ok_or_else(none).map(Some)
    }

    /// Whether a network that is about to run can keep what its NICs are promised.
    pub(super) fn promises_fit(&self, uuid: Uuid, network: &Network) -> Result<(), Error> {
        let lost = self.intent.nics_without_network().filter(|nic| nic.network_name() == Some(&network.name));
        let nics = self.intent.nics_of(uuid).chain(lost).filter(|nic| nic.class.is_some());
        let floor = |nic: &NicIntent| nic.nic.bandwidth.as_ref()?.inbound?.floor;
        let promised: Promised = nics.filter_map(|nic| Some((nic.id, (floor(nic)?, nic.class)))).collect();
        let whole = average(network);
        // Without a rate of its own it promises nothing, and those who were promised something wait.
        if whole == 0 || total(&promised) <= whole {
            return Ok(());
        }
        let cause = format!("its NICs are promised more than its {whole} KiB/s: {}", self.holders(&promised));
        Err(Error::new(ErrorKind::InUse, format!("network '{}'", network.name), cause)
            .field("<inbound average>")
            .hint("give it a higher average, or modify or detach NICs first"))
    }

    /// `300 are promised to guest 'a' (NIC ..), 200 to guest 'b' (NIC ..)`
    fn holders(&self, promised: &Promised) -> String {
        if promised.is_empty() {
            return "nothing is promised to anybody".into();
        }
        let mut all: Vec<String> = promised
            .iter()
            .take(NAMED)
            .map(|(id, (floor, _))| match self.intent.nic(*id) {
                Some(nic) => format!("{floor} to guest '{}' (NIC {id})", nic.guest),
                None => format!("{floor} to NIC {id}"),
            })
            .collect();
        if promised.len() > NAMED {
            all.push(format!("and more to {} others", promised.len() - NAMED));
        }
        format!("{} are promised", all.join(", "))
    }
}

fn average(network: &Network) -> u64 {
    network.bandwidth.as_ref().and_then(|b| b.inbound).and_then(|rate| rate.average).unwrap_or(0)
}

fn total(promised: &Promised) -> u64 {
    promised.values().fold(0, |sum, (floor, _)| sum.saturating_add(*floor))
}
