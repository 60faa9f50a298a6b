//! Ports of host bridges that carry the VLANs of NICs there, as the host's operator wants.

use super::{Engine, Object};
use crate::model::LinkName;
use crate::plan::{Change, Link, Plan, uplink};

impl Engine {
    /// The steps for all uplinks. A NIC or network whose record can't be read may need what nobody else does.
    pub(super) fn plan_uplinks(&self, plan: &mut Plan) {
        if self.damaged.networks.is_empty() && self.damaged.nics.is_empty() {
            uplink::steps(plan, &self.intent, &self.observed, &self.config.uplinks);
        }
    }

    /// Whether a change is about an uplink or the bridge that it is one of, so that not each link has all be compared.
    pub(super) fn is_about_uplinks(&self, change: &Change) -> bool {
        let (index, now) = match change {
            Change::Link(index, now) => (index, now.as_ref()),
            Change::Vlans(index, _) => (index, None),
            _ => return false,
        };
        let (uplinks, carried) = (&self.config.uplinks, &self.intent.saved.carried);
        let concerned = |link: &Link| {
            let is = |name: &LinkName| name.as_str() == link.name;
            uplinks.iter().any(|(bridge, ports)| is(bridge) || ports.iter().any(is)) || carried.keys().any(is)
        };
        self.observed.link(*index).into_iter().chain(now).any(concerned)
    }

    /// Whether an uplink carries other VLANs than it should.
    pub(super) fn uplinks_differ(&self) -> bool {
        if self.config.uplinks.is_empty() && self.intent.saved.carried.is_empty() {
            return false;
        }
        let mut plan = Plan::default();
        self.plan_uplinks(&mut plan);
        !plan.is_empty()
    }

    /// Sees to the uplinks when NICs on their bridges were changed.
    pub(super) fn keep_uplinks(&mut self) {
        if std::mem::take(&mut self.concerned.uplinks) && self.uplinks_differ() {
            self.work.entry(Object::Host).or_default().expected = true;
            self.advance(Object::Host);
        }
    }
}
