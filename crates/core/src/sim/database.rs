//! Open vSwitch's database, and who watches it: what is written there is seen, sometimes as it was a moment ago.

use super::Host;
use crate::engine::{Input, JobOutcome};
use crate::model::LinkName;
use crate::plan::{Change, OvsKnown, OvsPort, OvsState};
use std::collections::VecDeque;
use uuid::Uuid;

/// The database.
#[derive(Debug, Default)]
pub struct Database {
    /// What is said to every port, if none is taken.
    pub refuses: Option<String>,
    /// How often one was to be made or changed.
    pub set: usize,
    /// How often one was: what is seen of some changes comes late.
    changes: usize,
    /// What is seen once the end of the job under way was told.
    pub(super) late: VecDeque<Input>,
}

impl Host {
    /// A job of the daemon's makes a port, or changes it.
    pub(super) fn set_port(&mut self, bridge: &LinkName, port: &OvsPort) -> JobOutcome {
        self.ovs.set += 1;
        if let Some(cause) = &self.ovs.refuses {
            return JobOutcome::Failed(cause.clone());
        }
        let state = OvsState::of(bridge, port, self.config.instance);
        let before = self.port(port.nic);
        if before.as_ref() == Some(&state) {
            return JobOutcome::Unchanged;
        }
        self.put_port(port.nic, Some(state.clone()));
        self.seen_by_and_by(port.nic, before, Some(state));
        JobOutcome::Done
    }

    /// Another one removes it.
    pub(super) fn remove_port(&mut self, nic: Uuid) -> JobOutcome {
        let before = self.port(nic);
        self.put_port(nic, None);
        self.seen_by_and_by(nic, before, None);
        JobOutcome::Done
    }

    /// A NIC's port, as it is.
    pub fn port(&self, nic: Uuid) -> Option<OvsState> {
        self.kernel.ovs.get(&nic)?.port.clone()
    }

    /// Somebody makes a NIC's port like that, or removes it.
    pub fn meddle_with_port(&mut self, nic: Uuid, port: Option<OvsState>) {
        self.put_port(nic, port.clone());
        self.tell(seen(nic, port));
    }

    /// The database starts anew, empty.
    pub fn empty_ports(&mut self) {
        self.kernel.ovs.clear();
        self.tell(Input::Observed(Change::OvsPorts(Default::default())));
    }

    fn put_port(&mut self, nic: Uuid, port: Option<OvsState>) {
        match port {
            None => drop(self.kernel.ovs.remove(&nic)),
            Some(port) => {
                let known = OvsKnown { name: port.name.clone(), port: Some(port) };
                self.kernel.ovs.insert(nic, known);
            }
        }
    }

    /// What a job did is seen before its end is told or after it, and now and then what was there before still is.
    fn seen_by_and_by(&mut self, nic: Uuid, before: Option<OvsState>, now: Option<OvsState>) {
        self.ovs.changes += 1;
        match self.ovs.changes % 3 {
            0 => self.inputs.push_back(seen(nic, now)),
            1 => self.ovs.late.push_back(seen(nic, now)),
            _ => self.ovs.late.extend([seen(nic, before), seen(nic, now)]),
        }
    }
}

fn seen(nic: Uuid, port: Option<OvsState>) -> Input {
    Input::Observed(Change::OvsPort(nic, port.map(Box::new)))
}
