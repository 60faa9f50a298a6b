//! What one call of the engine changed, so that it can be put back when its records can't be written.

use super::effect::{Effect, Job, JobId, PlanId, Record, RecordKey};
use super::work::{Flight, Goal, Operation};
use super::{Engine, Object, promise};
use crate::intent::{NetworkIntent, NicIntent, Saved};
use crate::model::{Name, Network};
use crate::plan::{Outcome, StepFailure, uplink};
use crate::{Error, ErrorKind, xml};
use std::collections::BTreeSet;
use std::ops::Range;
use uuid::Uuid;

/// What a call changed, and where in the order of its effects, so that what comes before a record that can't be written
/// stays done.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// The values before the changes, in the order of the changes.
    changes: Vec<At<Before>>,
    /// The records, in the order in which they are written.
    records: Vec<At<RecordKey>>,
    /// Objects whose operation began.
    begun: Vec<At<Object>>,
    /// The requests that were carried out: which effects came of each.
    requests: Vec<Range<usize>>,
    /// Where the request under way began. What changes without one stays as it is, and only its record is written again
    /// later: nobody is there who could be told that it didn't happen.
    open: Option<usize>,
    /// How many effects there were in the end.
    effects: usize,
}

/// Something, and how many effects came before.
#[derive(Debug)]
struct At<T>(usize, T);

/// A value before it changed.
#[derive(Debug)]
enum Before {
    Network(Uuid, Option<Box<NetworkIntent>>),
    Nic(Uuid, Option<Box<NicIntent>>),
    Saved(Saved),
}

impl Journal {
    fn note(&mut self, before: impl FnOnce() -> Before) {
        if let Some(at) = self.open {
            self.changes.push(At(at, before()));
        }
    }

    /// What is to be taken back because the effect `failed` is not carried out, nor those after it: from the request that it
    /// came of, or else from there.
    fn undone(self, failed: usize) -> Undone {
        let request = self.requests.into_iter().find(|request| request.contains(&failed));
        let from = request.map_or(failed, |request| request.start);
        fn since<T>(all: Vec<At<T>>, from: usize) -> impl Iterator<Item = T> {
            all.into_iter().filter(move |At(at, _)| *at >= from).map(|At(_, what)| what)
        }
        Undone {
            changes: since(self.changes, from).collect(),
            written: since(self.records, from).collect(),
            begun: since(self.begun, from).collect(),
        }
    }
}

/// The part of a journal that didn't happen.
struct Undone {
    changes: Vec<Before>,
    written: BTreeSet<RecordKey>,
    begun: BTreeSet<Object>,
}

impl Engine {
    /// Carries something out for a request, whose changes can be taken back until its records are written.
    pub(super) fn within_request(&mut self, carry_out: impl FnOnce(&mut Self)) {
        if self.journal.open.is_some() {
            // One that waited for the end of what the one under way ends belongs to that.
            return carry_out(self);
        }
        let begins = self.out.len();
        self.journal.open = Some(begins);
        carry_out(self);
        self.journal.open = None;
        self.journal.requests.push(begins..self.out.len());
    }

    /// What a call wants done, in order.
    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        self.journal.effects = self.out.len();
        std::mem::take(&mut self.out)
    }

    /// Begins an operation, and remembers that.
    pub(super) fn begin_operation(&mut self, object: Object, operation: Operation) {
        self.journal.begun.push(At(self.out.len(), object));
        self.work.entry(object).or_default().operation = Some(operation);
    }

    /// Changes a network's intent, and remembers what it was.
    pub(super) fn set_network(&mut self, uuid: Uuid, network: Option<NetworkIntent>) {
        let told = self.to_be_told(Object::Network(uuid));
        let before = self.intent.network(uuid);
        self.journal.note(|| Before::Network(uuid, before.cloned().map(Box::new)));
        let network = network.unwrap_or_default();
        if !network.starts_by_itself() {
            self.waiting_for_uplink.remove(&uuid);
        }
        self.intent.set_network(uuid, network);
        self.untold(Object::Network(uuid), told);
        self.concerned.uplinks |= !self.config.uplinks.is_empty();
    }

    /// Changes a NIC's intent, and remembers what it was.
    pub(super) fn set_nic(&mut self, id: Uuid, nic: Option<NicIntent>) {
        let told = self.to_be_told(Object::Nic(id));
        self.note_left(id, nic.as_ref());
        let before = self.intent.nic(id);
        self.journal.note(|| Before::Nic(id, before.cloned().map(Box::new)));
        let network = before.and_then(|nic| nic.network).filter(|network| self.intent.has_vlans(*network));
        promise::note(&mut self.concerned.promises, before, nic.as_ref());
        let on_uplink = |nic: &NicIntent| uplink::may_need(&self.intent, nic, &self.config.uplinks);
        self.concerned.uplinks |= before.into_iter().chain(nic.as_ref()).any(on_uplink);
        match nic {
            Some(nic) => self.intent.set_nic(nic),
            None => {
                self.intent.remove_nic(id);
                self.ports.told_plugged.remove(&id);
            }
        }
        self.untold(Object::Nic(id), told);
        self.without_vlans.extend(network.filter(|network| !self.intent.has_vlans(*network)));
    }

    /// Changes what is known of the host's settings before us.
    pub(super) fn set_saved(&mut self, saved: Saved) {
        let before = std::mem::replace(&mut self.intent.saved, saved);
        // Always: a setting must not be changed while what it was stands in no file.
        let at = self.journal.open.unwrap_or(self.out.len());
        self.journal.changes.push(At(at, Before::Saved(before)));
    }

    /// Has a record written, or removed without `content`.
    pub(super) fn persist(&mut self, key: RecordKey, content: Option<String>) {
        self.journal.records.push(At(self.out.len(), key.clone()));
        self.out.push(Effect::Persist(Record { key, content }));
    }

    /// A record of the last call couldn't be written. What the request changed that it came of is put back, with the records
    /// that were written before; its plans count as not started, and whoever was to be told of success is told why there
    /// is none.
    pub(super) fn not_persisted(&mut self, key: RecordKey, cause: &str, dropped: Vec<Effect>, journal: Journal) {
        const AGAIN: super::Now = 2000;
        let failed = journal.effects.saturating_sub(dropped.len() + 1);
        let undone = journal.undone(failed);
        let error = Error::new(ErrorKind::HostFailed, self.describe_record(&key), cause.to_owned())
            .hint("nothing was changed; make room or make the directory writable, and try again");
        let lost = lost(key, &dropped);
        let written = undone.written.difference(&lost).cloned().collect();
        self.unwritten.extend(lost);
        self.wake(self.now + AGAIN, Object::Host);
        let nobody_asked = undone.changes.iter().all(|change| matches!(change, Before::Saved(_)));
        let restored = self.put_back(undone.changes);
        self.write(written);
        // What was under way before goes on.
        for object in restored.iter().filter(|object| undone.begun.contains(object)) {
            self.fail_without_a_trace(*object, &error);
        }
        self.not_carried_out(dropped, cause, &error, &restored, nobody_asked);
    }

    /// How users know what a record is about.
    fn describe_record(&self, key: &RecordKey) -> String {
        match key {
            RecordKey::Definition(name) | RecordKey::Autostart(name) | RecordKey::Network(name) => {
                format!("network '{name}'")
            }
            RecordKey::Nic(id)
            | RecordKey::PendingNic(id)
            | RecordKey::Association(id)
            | RecordKey::Function(id, _) => self.describe(Object::Nic(*id)),
            RecordKey::Host => self.describe(Object::Host),
        }
    }

    /// Puts values back, the last one first, and gives the objects that they are of.
    fn put_back(&mut self, changes: Vec<Before>) -> Vec<Object> {
        let mut restored = Vec::new();
        for change in changes.into_iter().rev() {
            match change {
                Before::Network(uuid, before) => {
                    self.intent.set_network(uuid, before.map(|before| *before).unwrap_or_default());
                    restored.push(Object::Network(uuid));
                }
                Before::Nic(id, before) => {
                    promise::note(&mut self.concerned.promises, self.intent.nic(id), before.as_deref());
                    match before {
                        Some(nic) => self.intent.set_nic(*nic),
                        None => {
                            self.intent.remove_nic(id);
                            self.reserve_again(id);
                        }
                    }
                    restored.push(Object::Nic(id));
                }
                Before::Saved(saved) => self.intent.saved = saved,
            }
        }
        restored
    }

    /// An operation fails. What was put back is what it would restore.
    fn fail_without_a_trace(&mut self, object: Object, error: &Error) {
        let Some(operation) = self.work.get_mut(&object).and_then(|w| w.operation.as_mut()) else { return };
        operation.error.get_or_insert_with(|| error.clone());
        match (object, &mut operation.goal) {
            (Object::Network(uuid), Goal::Network { previous, .. }) => {
                *previous = self.intent.network(uuid).cloned().map(Box::new);
            }
            (Object::Nic(id), Goal::Nic { previous, .. }) => *previous = self.intent.nic(id).cloned().map(Box::new),
            _ => {}
        }
    }

    /// What becomes of effects that are not carried out.
    fn not_carried_out(
        &mut self,
        dropped: Vec<Effect>,
        cause: &str,
        error: &Error,
        restored: &[Object],
        nobody_asked: bool,
    ) {
        let mut events = Vec::new();
        for effect in dropped {
            match effect {
                Effect::Apply(id, _) => self.not_started(id, cause, restored),
                // Looking changes nothing, and a process whose end nobody waits for would count as gone.
                Effect::Start(_, Job::WatchOwner(_) | Job::LookFor(_)) => self.out.push(effect),
                Effect::Start(id, _) => self.job_not_started(id, cause, restored),
                Effect::Reply(id, Ok(_)) => self.out.push(Effect::refuse(id, error.clone())),
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

/// The records that are not what they should be because one could not be written.
fn lost(key: RecordKey, dropped: &[Effect]) -> BTreeSet<RecordKey> {
    let dropped = dropped.iter().filter_map(|effect| match effect {
        Effect::Persist(record) => Some(record.key.clone()),
        Effect::Confirm(id) => Some(RecordKey::Nic(*id)),
        _ => None,
    });
    let both = |key| match key {
        // A pending record that could not become the NIC's is still there.
        RecordKey::Nic(id) => vec![key, RecordKey::PendingNic(id)],
        key => vec![key],
    };
    dropped.chain([key]).flat_map(both).collect()
}
