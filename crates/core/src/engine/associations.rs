//! When NICs are associated with a profile of the switch, and when that ends.
//!
//! What was asked for is kept in a record of its own from before it is asked for until it has ended. Of what a record
//! says after a start nothing is certain: what is wanted is asked for again, which switches allow, and what nobody
//! wants any more is ended.

use super::effect::{Job, NicEvent, RecordKey};
use super::input::{JobOutcome, Startup};
use super::startup::parsed;
use super::work::Goal;
use super::{Engine, Object};
use crate::plan::Association;
use crate::{Error, ErrorKind, plan, xml};
use uuid::Uuid;

/// An association that was asked for.
#[derive(Clone, Debug)]
pub(super) struct Known {
    association: Association,
    /// Whether the switch has agreed to it since this daemon started.
    agreed: bool,
}

impl Engine {
    /// The job that a NIC's association needs. What was written down is so when the job starts.
    pub(super) fn association_job(&mut self, object: Object) -> Option<Job> {
        let Object::Nic(id) = object else { return None };
        let wanted = self.wanted_association(id);
        match (wanted, self.associations.get(&id)) {
            (Some(wanted), Some(known)) if known.association.leads_to(&wanted) => {
                self.associations.insert(id, Known { association: wanted.clone(), agreed: false });
                self.persist_association(id);
                Some(Job::Associate(Box::new(wanted)))
            }
            (wanted, Some(known)) if wanted.as_ref() != Some(&known.association) => {
                Some(Job::Disassociate(Box::new(known.association.clone())))
            }
            (Some(wanted), Some(known)) => (!known.agreed).then(|| Job::Associate(Box::new(wanted))),
            (Some(wanted), None) => {
                self.associations.insert(id, Known { association: wanted.clone(), agreed: false });
                self.persist_association(id);
                Some(Job::Associate(Box::new(wanted)))
            }
            (None, _) => None,
        }
    }

    /// The association that a NIC should have. A reservation is made for one that is attached with its cable pulled; nobody
    /// is kept from pulling a cable later by a switch that has none to give.
    pub(crate) fn wanted_association(&self, id: Uuid) -> Option<Association> {
        let wanted = plan::association(&self.intent, &self.observed, id)?;
        let known = self.associations.get(&id).is_some_and(|known| known.association.reserved);
        let operation = self.work.get(&Object::Nic(id)).and_then(|work| work.operation.as_ref());
        let attached = operation.is_some_and(|o| matches!(o.goal, Goal::Nic { event: NicEvent::Attached, .. }));
        (!wanted.reserved || known || attached).then_some(wanted)
    }

    /// A switch was asked to associate a NIC, or to end that.
    pub(super) fn association_done(&mut self, object: Object, job: Job, outcome: JobOutcome) {
        let Object::Nic(id) = object else { return };
        self.work.entry(object).or_default().flight = None;
        match (job, outcome) {
            (Job::Associate(_), JobOutcome::Failed(cause)) => {
                // Whoever asked took it back, or says that this failed, too.
                self.forget_association(id);
                let cause = format!("the switch did not give its port the profile: {cause}");
                let error = Error::new(ErrorKind::HostFailed, self.describe(object), cause).field("<virtualport>");
                self.failed(object, error);
            }
            (Job::Associate(association), _) => {
                if let Some(known) = self.associations.get_mut(&id).filter(|k| k.association == *association) {
                    known.agreed = true;
                }
                self.advance(object);
            }
            (_, outcome) => {
                self.forget_association(id);
                if let JobOutcome::Failed(cause) = outcome {
                    let what = format!("the switch was not told that its port is gone: {cause}");
                    self.drift(object, what.clone(), false);
                    if let Some(operation) = self.work.get_mut(&object).and_then(|w| w.operation.as_mut()) {
                        operation.warnings.push(what);
                    }
                }
                self.advance(object);
            }
        }
    }

    fn forget_association(&mut self, id: Uuid) {
        self.associations.remove(&id);
        self.persist_association(id);
    }

    fn persist_association(&mut self, id: Uuid) {
        self.persist(RecordKey::Association(id), self.association_record(id));
    }

    /// A NIC's association as it is to be written down.
    pub(super) fn association_record(&self, id: Uuid) -> Option<String> {
        let known = self.associations.get(&id)?;
        Some(xml::write_association(&self.config.stamp, &known.association))
    }

    /// Takes on what a daemon before this one had asked for. A record that can't be read was never written whole; what
    /// is wanted is asked for anyhow.
    pub(super) fn load_associations(&mut self, startup: &Startup, broken: &mut Vec<(String, String)>) {
        for (stem, text) in &startup.associations {
            let Ok(id) = Uuid::try_parse(stem) else { continue };
            match parsed(text, |text| xml::read_association(&self.config.stamp, text)) {
                Ok(Some(association)) if association.nic == id => {
                    self.associations.insert(id, Known { association, agreed: false });
                }
                // Before a reboot, or in another network namespace: the switch has noticed.
                Ok(_) => self.persist(RecordKey::Association(id), None),
                Err(error) => broken.push((format!("association of NIC {stem}"), error)),
            }
        }
    }
}
