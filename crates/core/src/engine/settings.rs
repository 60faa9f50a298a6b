//! What we change of the host's own: settings, and the VLANs that its ports carry. What was before is written down first, and
//! comes back once nobody needs the change any more.

use super::Engine;
use super::effect::RecordKey;
use crate::intent::Saved;
use crate::model::LinkName;
use crate::plan::{Change, Link, Op, Plan, Sysctl, desired, uplink};
use crate::xml;
use std::collections::BTreeMap;

impl Engine {
    /// Settings that go back to what they were once no network needs them. A network whose record can't be read may.
    pub(super) fn to_be_put_back(&self) -> &BTreeMap<Sysctl, String> {
        static NONE: BTreeMap<Sysctl, String> = BTreeMap::new();
        if self.damaged.networks.is_empty() { &self.intent.saved.settings } else { &NONE }
    }

    /// What the plan is going to change of the host's own is written down first: settings with the value that they have, and
    /// VLANs that are added.
    pub(super) fn remember_settings(&mut self, plan: &Plan) {
        if !plan.steps.iter().any(|step| matches!(step.op, Op::SetSysctl(..) | Op::Carry { .. })) {
            return;
        }
        let wanted = desired::host(&self.intent, &self.observed);
        let mut saved = self.intent.saved.clone();
        for step in &plan.steps {
            match &step.op {
                Op::SetSysctl(sysctl, _) => {
                    if let (true, Some(was)) = (wanted.contains_key(sysctl), self.observed.sysctls.get(sysctl)) {
                        saved.settings.entry(sysctl.clone()).or_insert_with(|| was.clone());
                    }
                }
                Op::Carry { port, add, .. } if !add.is_empty() => {
                    let port = self.observed.link(*port).and_then(|port| LinkName::new(port.name.as_str()).ok());
                    port.into_iter().for_each(|port| saved.carried.entry(port).or_default().extend(add));
                }
                _ => {}
            }
        }
        self.remember(saved);
    }

    /// What is back to what it was needs no remembering.
    pub(super) fn forget_settings(&mut self) {
        if self.intent.saved == Saved::default() {
            return;
        }
        let wanted = desired::host(&self.intent, &self.observed);
        // A plan in flight may be about to write it.
        let in_flight = |sysctl: &Sysctl| {
            let steps = self.plans.values().flat_map(|(_, plan)| &plan.steps);
            steps.into_iter().any(|s| matches!(&s.op, Op::SetSysctl(written, _) if written == sysctl))
        };
        let mut saved = self.intent.saved.clone();
        saved.settings.retain(|sysctl, was| {
            let restored = self.observed.sysctls.get(sysctl).is_none_or(|v| v == was);
            wanted.contains_key(sysctl) || !restored || in_flight(sysctl)
        });
        if !self.plans.values().any(|(_, plan)| plan.steps.iter().any(|s| matches!(s.op, Op::Carry { .. }))) {
            saved.carried = uplink::still_carried(&self.intent, &self.observed, &self.config.uplinks);
        }
        self.remember(saved);
    }

    /// Writes down what the host's own was before us.
    pub(super) fn remember(&mut self, saved: Saved) {
        if saved == self.intent.saved {
            return;
        }
        let content = (saved != Saved::default()).then(|| xml::write_host_state(&self.config.stamp, &saved));
        self.set_saved(saved);
        // What could not be read is left as it is. Until somebody has seen to it, this daemon alone knows.
        if !self.damaged.host {
            self.persist(RecordKey::Host, content);
        }
    }

    /// Ports of ours to see to may get another name: what we had them carry is theirs still.
    pub(super) fn follow_renamed_ports(&mut self, change: &Change) {
        let name_now = |port: &Link| match change {
            Change::Link(index, Some(now)) if *index == port.index => Some(now.name.clone()),
            Change::Snapshot(seen) => seen.link(port.index).map(|now| now.name.clone()),
            _ => None,
        };
        let renamed = |(name, _): (&LinkName, _)| {
            let now = name_now(self.observed.link_named(name.as_str())?)?;
            let now = LinkName::new(now.as_str()).ok().filter(|now| now != name)?;
            Some((name.clone(), now))
        };
        let renamed: Vec<(LinkName, LinkName)> = self.intent.saved.carried.iter().filter_map(renamed).collect();
        if renamed.is_empty() {
            return;
        }
        let mut saved = self.intent.saved.clone();
        // All are taken out before any is put back: two may have changed names.
        let carried: Vec<_> = renamed.into_iter().map(|(was, is)| (is, saved.carried.remove(&was))).collect();
        saved.carried.extend(carried.into_iter().filter_map(|(name, vids)| Some((name, vids?))));
        self.remember(saved);
    }
}
