//! A switch that gives guests' ports profiles, with the agent that asks it, on the simulated host.

use super::Host;
use crate::engine::{Input, JobId, JobOutcome};
use crate::plan::Association;
use std::collections::BTreeMap;
use uuid::Uuid;

/// The switch.
#[derive(Debug, Default)]
pub struct Switch {
    /// Whether it refuses every profile.
    pub refuses: bool,
    /// Whether it does not answer when it is asked for one; see [`Host::end_associations`].
    pub hangs: bool,
    /// Whether it can't be told that a port is gone.
    pub keeps: bool,
    hung: Vec<(JobId, Uuid)>,
    /// What it has given, by NIC.
    pub given: BTreeMap<Uuid, Association>,
    /// What it was asked, in order: `+`, `(+)` for a reservation, or `-`, and the device.
    asked: Vec<String>,
}

impl Switch {
    pub(super) fn associate(&mut self, id: JobId, of: Association) -> Option<JobOutcome> {
        self.asked.push(format!("{}{}", if of.reserved { "(+)" } else { "+" }, of.device));
        if self.refuses {
            self.given.remove(&of.nic);
            return Some(JobOutcome::Failed("the switch doesn't know the type (response 3)".into()));
        }
        if self.hangs {
            self.hung.push((id, of.nic));
        }
        // What it does not answer it may have done.
        let before = self.given.insert(of.nic, of.clone());
        let of_two = before.is_some_and(|before| before != of && !before.leads_to(&of));
        assert!(!of_two, "NIC {} would have two associations", of.nic);
        (!self.hangs).then_some(JobOutcome::Done)
    }

    pub(super) fn disassociate(&mut self, of: &Association) -> JobOutcome {
        self.asked.push(format!("-{}", of.device));
        if self.given.get(&of.nic) == Some(of) {
            self.given.remove(&of.nic);
        }
        if self.keeps { JobOutcome::Failed("lldpad does not answer".into()) } else { JobOutcome::Done }
    }

    /// Whoever waited for it is gone.
    pub(super) fn abandon(&mut self) {
        self.hung.clear();
    }

    /// What it was asked since the last time.
    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.asked)
    }
}

impl Host {
    /// The time of those that hang is over, and they were taken back.
    pub fn end_associations(&mut self) {
        for (id, nic) in std::mem::take(&mut self.switch.hung) {
            self.switch.given.remove(&nic);
            self.tell(Input::Finished(id, JobOutcome::Failed("the switch did not decide in time".into())));
        }
    }

    /// Where what the switch has given differs from what NICs should have.
    pub(super) fn check_switch(&self) -> Vec<String> {
        let intent = self.engine.intent();
        let wanted = intent.nics().filter_map(|nic| self.engine.wanted_association(nic.id));
        let mut wanted: BTreeMap<Uuid, Association> = wanted.map(|a| (a.nic, a)).collect();
        let mut wrong = Vec::new();
        for (nic, given) in &self.switch.given {
            match wanted.remove(nic) {
                Some(wanted) if wanted == *given => {}
                other => wrong.push(format!("NIC {nic} is associated as {given:?}, not as {other:?}")),
            }
        }
        wrong.extend(wanted.into_keys().map(|nic| format!("NIC {nic} is not associated")));
        wrong
    }
}
