//! A hook on the simulated host, and what it should have heard.

use super::Host;
use crate::engine::{HookCall, HookOperation, Input, JobId, JobOutcome};
use crate::intent::Intent;
use crate::plan::Change;
use std::collections::BTreeSet;
use uuid::Uuid;

/// The hook's path.
const PATH: &str = "/etc/patchcord/hooks/10-test";

/// A hook that does nothing but listen and refuse.
#[derive(Debug, Default)]
pub struct Hook {
    /// At which operations it fails.
    pub fails_at: Vec<HookOperation>,
    /// Whether it does not end; see [`Host::end_hooks`].
    pub hangs: bool,
    hung: Vec<JobId>,
    /// Calls, in order.
    pub calls: Vec<HookCall>,
    /// Networks that run and NICs that are there, as it knows.
    heard: BTreeSet<String>,
}

impl Hook {
    /// Takes a call; gives how it ended, if it did.
    pub(super) fn call(&mut self, id: JobId, call: HookCall) -> Option<JobOutcome> {
        match call.operation {
            HookOperation::Start => {}
            HookOperation::Started | HookOperation::PortCreated => drop(self.heard.insert(key(&call))),
            HookOperation::Stopped | HookOperation::PortDeleted => drop(self.heard.remove(&key(&call))),
            HookOperation::Updated | HookOperation::PortUpdated => {
                assert!(self.heard.contains(&key(&call)), "{call:?}")
            }
        }
        let outcome = match self.fails_at.contains(&call.operation) {
            true => JobOutcome::Failed(format!("{PATH}: exit status 3: not on my watch")),
            false => JobOutcome::Done,
        };
        self.calls.push(call);
        if self.hangs {
            self.hung.push(id);
            return None;
        }
        Some(outcome)
    }

    /// What there is when the daemon starts, or the hook is installed, it is not told of; nor, at a start, of NICs whose
    /// attach was not answered yet, of which it may have heard before the daemon died, but when they are gone.
    pub(super) fn count_as_told(&mut self, intent: &Intent, pending: impl Iterator<Item = Uuid>) {
        self.heard = there(intent);
        self.heard.extend(pending.map(|id| id.to_string()));
    }

    /// The operations it was called for since the last time, with their names.
    pub fn take(&mut self) -> Vec<String> {
        self.calls.drain(..).map(|call| format!("{} {}", call.arguments[0], call.operation)).collect()
    }
}

/// An object, as a call names it.
fn key(call: &HookCall) -> String {
    let nic = call.variables.iter().find(|(name, _)| *name == "PATCHCORD_NIC");
    nic.map_or_else(|| call.arguments[0].clone(), |(_, id)| id.clone())
}

/// What it should know.
fn there(intent: &Intent) -> BTreeSet<String> {
    let networks = intent.networks().filter_map(|(_, n)| n.active.as_ref()).map(|n| n.name.to_string());
    networks.chain(intent.nics().map(|n| n.id.to_string())).collect()
}

impl Host {
    /// Installs the hook, or removes it; the daemon notices.
    pub fn install_hook(&mut self, installed: bool) {
        self.kernel.hooks = if installed { vec![PATH.into()] } else { Vec::new() };
        self.tell(Input::Observed(Change::Hooks(self.kernel.hooks.clone())));
    }

    /// Kills the hooks that hang, as at the end of their time.
    pub fn end_hooks(&mut self) {
        for id in std::mem::take(&mut self.hook.hung) {
            let outcome = JobOutcome::Failed(format!("{PATH}: it did not end within 30 s and was killed"));
            self.tell(Input::Finished(id, outcome));
        }
    }

    /// Where what the hook heard differs from what is there. Empty on a host that has come to rest.
    pub fn check_hook(&self) -> Vec<String> {
        if self.kernel.hooks.is_empty() {
            return Vec::new();
        }
        let there = there(self.engine.intent());
        there.symmetric_difference(&self.hook.heard).map(|what| format!("the hook is wrong about {what}")).collect()
    }
}
