//! What one call of the engine changed, so that it can be put back when its records can't be written.

use super::effect::{Effect, Job, JobId, PlanId, Record, RecordKey};
use super::work::{Flight, Goal, Operation};
use super::{Engine, Object, promise};
use crate::intent::{NetworkIntent, NicIntent, Saved};
use crate::model::{Name, Network};
use crate::plan::{Outcome, StepFailure, uplink};
use crate::{Error, ErrorKind, xml};
use std::collections::BTreeSet;
use uuid::Uuid;

/// The values before the call's changes, in the order of the changes.
#[derive(Debug, Default)]
pub(super) struct Journal {
    entries: Vec<Entry>,
    /// Whether a request is being carried out. What happens without one stays as it is, and only its record is
    /// written again later: nobody is there who could be told that it didn't happen.
    pub(super) open: bool,
    /// The call's records, in the order in which they are written.
    records: Vec<RecordKey>,
    /// Objects whose operation began.
    begun: BTreeSet<Object>,
}

impl Journal {
    fn note(&mut self, entry: impl FnOnce() -> Entry) {
        if self.open {
            self.entries.push(entry());
        }
    }
}

#[derive(Debug)]
enum Entry {
    Network(Uuid, Option<Box<NetworkIntent>>),
    Nic(Uuid, Option<Box<NicIntent>>),
    Saved(Saved),
}

impl Engine {
    /// Begins an operation, and remembers that.
    pub(super) fn begin_operation(&mut self, object: Object, operation: Operation) {
        self.journal.begun.insert(object);
        self.work.entry(object).or_default().operation = Some(operation);
    }

    /// Changes a network's intent, and remembers what it was.
    pub(super) fn set_network(&mut self, uuid: Uuid, network: Option<NetworkIntent>) {
        let told = self.to_be_told(Object::Network(uuid));
        let before = self.intent.network(uuid);
        self.journal.note(|| Entry::Network(uuid, before.cloned().map(Box::new)));
        let network = network.unwrap_or_default();
        if !network.starts_by_itself() {
            self.waiting_for_uplink.remove(&uuid);
        }
        self.intent.set_network(uuid, network);
        self.untold(Object::Network(uuid), told);
        self.uplinks_concerned |= !self.config.uplinks.is_empty();
    }

    /// Changes a NIC's intent, and remembers what it was.
    pub(super) fn set_nic(&mut self, id: Uuid, nic: Option<NicIntent>) {
        let told = self.to_be_told(Object::Nic(id));
        self.note_left(id, nic.as_ref());
        let before = self.intent.nic(id);
        self.journal.note(|| Entry::Nic(id, before.cloned().map(Box::new)));
        let network = before.and_then(|nic| nic.network).filter(|network| self.intent.has_vlans(*network));
        promise::note(&mut self.promises, before, nic.as_ref());
        let on_uplink = |nic: &NicIntent| uplink::may_need(&self.intent, nic, &self.config.uplinks);
        self.uplinks_concerned |= before.into_iter().chain(nic.as_ref()).any(on_uplink);
        match nic {
            Some(nic) => self.intent.set_nic(nic),
            None => {
                self.intent.remove_nic(id);
                self.told_plugged.remove(&id);
            }
        }
        self.untold(Object::Nic(id), told);
        self.without_vlans.extend(network.filter(|network| !self.intent.has_vlans(*network)));
    }

    /// Changes what is known of the host's settings before us.
    pub(super) fn set_saved(&mut self, saved: Saved) {
        let before = std::mem::replace(&mut self.intent.saved, saved);
        // Always: a setting must not be changed while what it was stands in no file.
        self.journal.entries.push(Entry::Saved(before));
    }

    /// Has a record written, or removed without `content`.
    pub(super) fn persist(&mut self, key: RecordKey, content: Option<String>) {
        self.journal.records.push(key.clone());
        self.out.push(Effect::Persist(Record { key, content }));
    }

    /// A record of the last call couldn't be written. What that call changed is put back, with the records that were
    /// written before; its plans count as not started, and whoever was to be told of success is told why there is
    /// none.
    pub(super) fn not_persisted(&mut self, key: RecordKey, cause: &str, dropped: Vec<Effect>, journal: Journal) {
        const AGAIN: super::Now = 2000;
        let object = match &key {
            RecordKey::Definition(name) | RecordKey::Autostart(name) | RecordKey::Network(name) => {
                format!("network '{name}'")
            }
            RecordKey::Nic(id)
            | RecordKey::PendingNic(id)
            | RecordKey::Association(id)
            | RecordKey::Function(id, _) => self.describe(Object::Nic(*id)),
            RecordKey::Host => self.describe(Object::Host),
        };
        let error = || {
            Error::new(ErrorKind::HostFailed, object.clone(), cause.to_owned())
                .hint("nothing was changed; make room or make the directory writable, and try again")
        };
        let lost = dropped.iter().filter_map(|e| match e {
            Effect::Persist(record) => Some(record.key.clone()),
            Effect::Confirm(id) => Some(RecordKey::Nic(*id)),
            _ => None,
        });
        // A pending record that could not become the NIC's is still there.
        let both = |key| match key {
            RecordKey::Nic(id) => vec![key, RecordKey::PendingNic(id)],
            key => vec![key],
        };
        let lost: BTreeSet<RecordKey> = lost.chain([key]).flat_map(both).collect();
        let written: BTreeSet<RecordKey> = journal.records.into_iter().filter(|key| !lost.contains(key)).collect();
        self.unwritten.extend(lost);
        self.wake(self.now + AGAIN, Object::Host);
        let nobody_asked = journal.entries.iter().all(|e| matches!(e, Entry::Saved(_)));
        let mut touched = Vec::new();
        for entry in journal.entries.into_iter().rev() {
            match entry {
                Entry::Network(uuid, before) => {
                    self.intent.set_network(uuid, before.map(|before| *before).unwrap_or_default());
                    touched.push(Object::Network(uuid));
                }
                Entry::Nic(id, before) => {
                    promise::note(&mut self.promises, self.intent.nic(id), before.as_deref());
                    match before {
                        Some(nic) => self.intent.set_nic(*nic),
                        None => {
                            self.intent.remove_nic(id);
                        }
                    }
                    touched.push(Object::Nic(id));
                }
                Entry::Saved(saved) => self.intent.saved = saved,
            }
        }
        self.write(written);
        for &object in &touched {
            // One that was under way before goes on.
            if !journal.begun.contains(&object) {
                continue;
            }
            // What was put back is what the operation would restore, so it has failed without a trace.
            if let Some(operation) = self.work.get_mut(&object).and_then(|w| w.operation.as_mut()) {
                operation.error.get_or_insert_with(error);
                match &mut operation.goal {
                    Goal::Network { previous, .. } => {
                        *previous = match object {
                            Object::Network(uuid) => self.intent.network(uuid).cloned().map(Box::new),
                            _ => None,
                        }
                    }
                    Goal::Nic { previous, .. } => {
                        *previous = match object {
                            Object::Nic(id) => self.intent.nic(id).cloned().map(Box::new),
                            _ => None,
                        }
                    }
                }
            }
        }
        let mut events = Vec::new();
        for effect in dropped {
            match effect {
                Effect::Apply(id, _) => self.not_started(id, cause, &touched),
                // Looking changes nothing, and a process whose end nobody waits for would count as gone.
                Effect::Start(_, Job::WatchOwner(_) | Job::LookFor(_)) => self.out.push(effect),
                Effect::Start(id, _) => self.job_not_started(id, cause, &touched),
                Effect::Reply(id, Ok(_)) => self.out.push(Effect::refuse(id, error())),
                Effect::Reply(id, Err(e)) => self.out.push(Effect::refuse(id, e)),
                Effect::Wake(at) => self.out.push(Effect::Wake(at)),
                Effect::Release(id) if self.intent.nic(id).is_some() => {}
                Effect::Release(id) => self.out.push(Effect::Release(id)),
                // A record is written again, and an event may be true all the same.
                Effect::Persist(_) | Effect::Confirm(_) => {}
                Effect::Publish(event) => events.push(event),
            }
        }
        if nobody_asked {
            self.out.extend(events.into_iter().map(Effect::Publish));
        }
    }

    /// A plan was dropped. Where its object is what it was before, there is nothing to restore.
    fn not_started(&mut self, id: PlanId, cause: &str, restored: &[Object]) {
        let object = self.plans.get(&id).map(|(object, _)| *object).filter(|object| restored.contains(object));
        let Some(object) = object else {
            let failed = StepFailure { step: 0, cause: format!("not started: {cause}"), errno: None, left: Vec::new() };
            return self.applied(id, &Outcome { made: Vec::new(), failed: Some(failed) });
        };
        self.plans.remove(&id);
        self.line.leaves(object);
        if let Some(work) = self.work.get_mut(&object) {
            work.flight = None;
        }
        self.advance(object);
        self.serve_line();
    }

    /// The same for a job, of which nothing is known but that it didn't begin.
    fn job_not_started(&mut self, id: JobId, cause: &str, restored: &[Object]) {
        let Some((object, _)) = self.jobs.remove(&id) else { return };
        if restored.contains(&object) {
            if let Some(work) = self.work.get_mut(&object) {
                work.flight = None;
            }
            self.advance(object);
        } else if self.work.get(&object).is_some_and(|w| w.flight == Some(Flight::Job(id))) {
            let error = Error::new(ErrorKind::HostFailed, self.describe(object), format!("not started: {cause}"));
            self.failed(object, error);
        }
    }

    /// Writes the records that couldn't be written, as they should be now.
    pub(super) fn write_again(&mut self) {
        let unwritten = std::mem::take(&mut self.unwritten);
        self.write(unwritten);
    }

    /// Writes records as they should be now.
    fn write(&mut self, keys: BTreeSet<RecordKey>) {
        for key in keys {
            let named = |name: &str| {
                let uuid = Name::new(name).ok().and_then(|name| self.intent.named(&name))?;
                self.intent.network(uuid)
            };
            let is = |network: &Network, name: &str| network.name.as_str() == name;
            let content = match &key {
                RecordKey::Definition(name) => {
                    let definition = named(name).and_then(|n| n.definition.as_ref());
                    definition.filter(|d| is(d, name)).map(xml::write_network)
                }
                RecordKey::Autostart(name) => named(name).filter(|n| n.autostart).map(|_| String::new()),
                RecordKey::Network(name) => {
                    let active = named(name).and_then(|n| n.active.as_ref());
                    active.filter(|a| is(a, name)).map(|a| xml::write_network_state(&self.config.stamp, a))
                }
                RecordKey::Nic(id) | RecordKey::PendingNic(id) => {
                    let confirmed = matches!(key, RecordKey::Nic(_));
                    let nic = self.intent.nic(*id).filter(|n| n.confirmed == confirmed);
                    nic.map(|n| xml::write_nic_state(&self.config.stamp, n))
                }
                RecordKey::Association(id) => self.association_record(*id),
                RecordKey::Function(nic, address) => self.function_record(*nic, *address),
                RecordKey::Host => {
                    let saved = &self.intent.saved;
                    (*saved != Saved::default()).then(|| xml::write_host_state(&self.config.stamp, saved))
                }
            };
            self.persist(key, content);
        }
    }
}
