//! Virtual functions: which of them networks have, and what is done about those that NICs have.
//!
//! A function is read, and what it was is written down, before it is set for a NIC; when that NIC has it no longer it is
//! made what it was. Of what a record says after a start nothing is certain, so that the function is set again. One that
//! can't be made what it was goes to nobody else, who might find it trusted, or in a VLAN of others; that is tried again.

use super::effect::{DeviceEvent, Job, RecordKey};
use super::hooks::Moment;
use super::input::{JobOutcome, Now, Startup};
use super::startup::parsed;
use super::work::backoff;
use super::{Engine, Object};
use crate::intent::{NetworkIntent, NicIntent};
use crate::model::{ActualType, DeviceRef, LinkName, Network, PciAddress};
use crate::plan::{self, FunctionBefore, FunctionSetup, Functions};
use crate::pool::{Device, Unusable};
use crate::{Error, ErrorKind, xml};
use std::collections::BTreeSet;
use uuid::Uuid;

/// A function that a NIC has, or had and that is not yet what it was.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    before: FunctionBefore,
    /// What it was set to since this daemon started.
    set: Option<FunctionSetup>,
    /// It could not be made what it was.
    refused: Option<Refused>,
}

/// A function could not be made what it was, which is tried again until it is.
#[derive(Clone, Debug)]
struct Refused {
    cause: String,
    /// How often, in a row.
    times: u32,
    /// When it is tried again.
    until: Now,
}

impl Taken {
    const fn new(before: FunctionBefore) -> Self {
        Self { before, set: None, refused: None }
    }

    fn waits(&self, now: Now) -> bool {
        self.refused.as_ref().is_some_and(|refused| refused.until > now)
    }
}

/// Takes away what [`Engine::list_functions`] added to a network, which its definition has not.
pub(super) fn without_found_functions(network: &mut Network) {
    if network.forward.pf.is_some() {
        network.forward.devices.clear();
        network.forward.addresses.clear();
    }
}

impl Engine {
    /// The functions of a network's `<pf>` as they are now, where NICs of its mode find them: by link to sit on, by address
    /// to be given away.
    pub(super) fn list_functions(&self, network: &mut Network) {
        let Some(pf) = &network.forward.pf else { return };
        let functions = self.observed.functions.of(pf).unwrap_or_default();
        if ActualType::of_network(network) == ActualType::Hostdev {
            network.forward.addresses = functions.iter().map(|vf| vf.address).collect();
        } else {
            let links = functions.iter().filter_map(|vf| vf.link.clone());
            network.forward.devices = links.map(|dev| DeviceRef { dev }).collect();
        }
    }

    /// Whether the device whose functions a network wants has any.
    pub(super) fn functions_can_be_had(&self, network: &Network) -> Result<Option<String>, Error> {
        let Some(pf) = &network.forward.pf else { return Ok(None) };
        let refuse =
            |kind, cause: String| Error::new(kind, format!("network '{}'", network.name), cause).field("<pf dev>");
        match self.observed.functions.of(pf) {
            None if self.observed.link_named(pf.as_str()).is_none() => {
                Err(refuse(ErrorKind::NoDevice, format!("there is no device {pf} on this host")))
            }
            None => Err(refuse(ErrorKind::InvalidArgument, format!("{pf} is no device that has virtual functions"))
                .hint(
                    "'ls /sys/class/net/*/device/sriov_numvfs' shows those that can; list others as <interface dev>",
                )),
            Some([]) => Ok(Some(format!(
                "{pf} has no virtual functions now, and NICs get none before it has: 'echo N > \
                 /sys/class/net/{pf}/device/sriov_numvfs' makes N"
            ))),
            Some(_) => Ok(None),
        }
    }

    /// The PCI functions of a hostdev network that are no virtual functions, or not there.
    pub(super) fn absent_functions(&self, network: &Network) -> Option<String> {
        let absent = network.forward.addresses.iter().filter(|a| self.observed.functions.at(**a).is_none());
        let absent: Vec<String> = absent.map(ToString::to_string).collect();
        (!absent.is_empty())
            .then(|| format!("no virtual functions of this host's: {}; NICs get others", absent.join(", ")))
    }

    /// Other functions are there than before: networks list those, NICs that have one that came or went are looked at,
    /// and what has gone was set to nothing.
    pub(super) fn functions_changed(&mut self, before: &Functions, concerned: &mut BTreeSet<Object>) {
        let now = &self.observed.functions;
        let differs = |address: &PciAddress| before.at(*address).is_some() != now.at(*address).is_some();
        let differing: BTreeSet<PciAddress> = before.addresses().chain(now.addresses()).filter(differs).collect();
        for ((nic, address), taken) in &mut self.functions {
            if differing.contains(address) {
                (taken.set, taken.refused) = (None, None);
                concerned.insert(Object::Nic(*nic));
            }
        }
        let gone: Vec<_> = differing.iter().filter(|a| now.at(**a).is_none()).copied().collect();
        for address in differing.iter().map(|address| Device::Pci(*address)) {
            concerned.extend(self.intent.nics_on_device(&address).map(|nic| Object::Nic(nic.id)));
        }
        // A link may have been seen before it was known whose it is.
        let other = |link: &&LinkName| before.with_link(link) != now.with_link(link);
        for link in before.links().chain(now.links()).filter(other).cloned().map(Device::Link) {
            concerned.extend(self.intent.nics_on_device(&link).map(|nic| Object::Nic(nic.id)));
        }
        for address in gone {
            self.publish_device(&Device::Pci(address), DeviceEvent::Gone);
        }
        let mut appeared: BTreeSet<Device> = self.list_all_functions().into_iter().collect();
        let there = |address: &PciAddress| self.observed.functions.at(*address).is_some();
        appeared.extend(differing.into_iter().filter(there).map(Device::Pci));
        for device in appeared {
            self.offer(&device);
            self.publish_device(&device, DeviceEvent::Appeared);
        }
    }

    /// The functions of all active networks as they are now; gives what is newly listed.
    pub(super) fn list_all_functions(&mut self) -> Vec<Device> {
        let with_pf = |n: &NetworkIntent| n.active.as_ref().is_some_and(|active| active.forward.pf.is_some());
        let networks = self.intent.networks().filter(|(_, n)| with_pf(n));
        let networks: Vec<(Uuid, NetworkIntent)> = networks.map(|(uuid, n)| (uuid, n.clone())).collect();
        let mut new = Vec::new();
        for (uuid, mut network) in networks {
            let before: BTreeSet<Device> = self.intent.pool().listed(uuid).cloned().collect();
            if let Some(active) = &mut network.active {
                self.list_functions(active);
            }
            self.put_network(uuid, Some(network));
            new.extend(self.intent.pool().listed(uuid).filter(|device| !before.contains(*device)).cloned());
        }
        new
    }

    /// The job that a NIC's function needs: to be set before the NIC is plugged in, and to be what it was once it is not.
    pub(super) fn function_job(&mut self, object: Object, moment: Moment) -> Option<Job> {
        let Object::Nic(id) = object else { return None };
        let nic = self.intent.nic(id);
        let wanted = nic.and_then(|nic| plan::function(&self.intent, &self.observed, nic));
        let wanted = wanted.or_else(|| self.left_behind(nic?));
        match moment {
            Moment::Before => {
                let wanted = wanted?;
                let Some(taken) = self.functions.get_mut(&(id, wanted.address)) else {
                    return Some(Job::ReadFunction(wanted.address));
                };
                if taken.set.as_ref() == Some(&wanted) {
                    return None;
                }
                let first = wanted.driver.is_some() && !taken.before.bound;
                taken.before.bound |= first;
                let before = taken.before.clone();
                // What could not be written down before is written now: without that, nothing is set.
                if first || self.unwritten.contains(&RecordKey::Function(id, wanted.address)) {
                    self.persist_function(id, wanted.address);
                }
                Some(Job::SetFunction(Box::new((wanted, before))))
            }
            Moment::After => {
                // One that its guest has is the guest's, also while it is not there.
                let kept = wanted.map(|w| w.address).or_else(|| nic?.function());
                let due = |(address, taken): &(PciAddress, &Taken)| Some(*address) != kept && !taken.waits(self.now);
                let (address, taken) = self.functions_of(id).find(due)?;
                Some(Job::RestoreFunction(address, Box::new(taken.before.clone())))
            }
        }
    }

    /// What the function of a NIC is to be whose network is gone for good: what it is, without its cable.
    fn left_behind(&self, nic: &NicIntent) -> Option<FunctionSetup> {
        let address = nic.function().filter(|_| nic.network.is_some_and(|n| self.intent.network(n).is_none()))?;
        let set = self.functions.get(&(nic.id, address))?.set.clone()?;
        Some(FunctionSetup { unplugged: true, ..set })
    }

    fn functions_of(&self, nic: Uuid) -> impl Iterator<Item = (PciAddress, &Taken)> {
        let all = (nic, PciAddress::FIRST)..=(nic, PciAddress::LAST);
        self.functions.range(all).map(|((_, address), taken)| (*address, taken))
    }

    /// That a function is what it was before NICs had it that have it no longer.
    pub(super) fn is_restored(&self, address: PciAddress) -> Result<(), Unusable> {
        let holds = |nic: Uuid| {
            let nic = self.intent.nic(nic);
            let on = nic.and_then(|n| n.device()).and_then(|link| self.observed.functions.with_link(link));
            nic.and_then(|n| n.function()).or(on) == Some(address)
        };
        match self.functions.iter().find(|((nic, of), _)| *of == address && !holds(*nic)) {
            None => Ok(()),
            Some((_, Taken { refused: Some(refused), .. })) => Err(Unusable::NotRestored(refused.cause.clone())),
            Some(_) => Err(Unusable::Leaving),
        }
    }

    /// A function was read, set or restored, or could not be.
    pub(super) fn function_done(&mut self, object: Object, job: Job, outcome: JobOutcome) {
        let Object::Nic(id) = object else { return };
        let work = self.work.entry(object).or_default();
        work.flight = None;
        let asked_for = work.operation.is_some();
        match (job, outcome) {
            (Job::ReadFunction(address), JobOutcome::Function(before)) => {
                self.functions.insert((id, address), Taken::new(*before));
                self.persist_function(id, address);
            }
            (Job::SetFunction(set), JobOutcome::Done) => {
                if let Some(taken) = self.functions.get_mut(&(id, set.0.address)) {
                    (taken.set, taken.refused) = (Some(set.0), None);
                }
            }
            (Job::SetFunction(set), JobOutcome::Failed(cause)) if set.0.unplugged && !asked_for => {
                // Some drivers can't pull a function's cable. That keeps nobody from stopping a network.
                self.drift(object, format!("its guest may still see its cable plugged in: {cause}"), false);
                if let Some(taken) = self.functions.get_mut(&(id, set.0.address)) {
                    taken.set = Some(set.0);
                }
            }
            (Job::ReadFunction(_) | Job::SetFunction(_), JobOutcome::Failed(cause)) => {
                let error = Error::new(ErrorKind::HostFailed, self.describe(object), cause);
                return self.failed(object, error.field("<source>"));
            }
            (Job::RestoreFunction(address, _), JobOutcome::Failed(cause)) => self.not_restored(id, address, cause),
            (Job::RestoreFunction(address, _), _) => {
                let taken = self.functions.remove(&(id, address));
                self.persist_function(id, address);
                self.offer(&Device::Pci(address));
                if taken.is_some_and(|taken| taken.refused.is_some()) {
                    self.drift(object, format!("{address} is what it was before this NIC had it"), true);
                }
            }
            _ => {}
        }
        self.advance(object);
    }

    /// A function could not be made what it was. Its NIC goes all the same, and what was written down of it stays.
    fn not_restored(&mut self, nic: Uuid, address: PciAddress, cause: String) {
        let Some(taken) = self.functions.get_mut(&(nic, address)) else { return };
        let times = taken.refused.as_ref().map_or(0, |refused| refused.times);
        let until = self.now + backoff(times);
        let what = format!(
            "{address} is not what it was before this NIC had it, and is given to no other until it is: {cause}"
        );
        taken.refused = Some(Refused { cause, times: times + 1, until });
        let object = Object::Nic(nic);
        self.wake(until, object);
        if let Some(operation) = self.work.get_mut(&object).and_then(|w| w.operation.as_mut()) {
            operation.warnings.push(what.clone());
        }
        if times == 0 {
            self.drift(object, what, false);
        }
    }

    fn persist_function(&mut self, nic: Uuid, address: PciAddress) {
        self.persist(RecordKey::Function(nic, address), self.function_record(nic, address));
    }

    /// What a NIC's function was before, as it is to be written down.
    pub(super) fn function_record(&self, nic: Uuid, address: PciAddress) -> Option<String> {
        let taken = self.functions.get(&(nic, address))?;
        Some(xml::write_function(&self.config.stamp, nic, address, &taken.before))
    }

    /// Takes on what a daemon before this one had set. A record that can't be read was never written whole, and so nothing
    /// was set.
    pub(super) fn load_functions(&mut self, startup: &Startup, broken: &mut Vec<(String, String)>) {
        for (stem, text) in &startup.functions {
            match parsed(text, |text| xml::read_function(&self.config.stamp, text)) {
                Ok(Some((nic, address, before))) => {
                    self.functions.insert((nic, address), Taken::new(before));
                }
                Ok(None) => {
                    let (nic, address) = stem.split_once('@').unwrap_or_default();
                    if let (Ok(nic), Ok(address)) = (Uuid::try_parse(nic), address.parse()) {
                        self.persist(RecordKey::Function(nic, address), None);
                    }
                }
                Err(error) => broken.push((format!("record {stem} of a virtual function"), error)),
            }
        }
    }

    /// The NICs that functions were set for, whether they are there or not.
    pub(super) fn nics_with_functions(&self) -> impl Iterator<Item = Uuid> {
        self.functions.keys().map(|(nic, _)| *nic)
    }
}
