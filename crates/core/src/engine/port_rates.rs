//! Rates at ports' taps: where the configuration says so they are ours to see to, and not the driver's that makes the tap.
//!
//! Never both: while others limit a tap we don't, and what they take away of ours they may be about to replace. Nor has a
//! driver done all that it does to a tap when it puts it into a bridge: what limits nothing (`noqueue`) it puts at the root
//! afterwards, in place of what is there.

use super::input::Now;
use super::{Engine, Object};
use crate::intent::NicIntent;
use crate::plan::rates::Shape;
use crate::plan::{Change, Index, Link, Plan, claim, rates};
use std::collections::BTreeSet;
use uuid::Uuid;

/// How long whoever took our limits away, or put the tap where it is, has to do what it likes to, in milliseconds.
const MOMENT: Now = 1000;

impl Engine {
    /// The steps for the rates at a port's tap.
    pub(super) fn plan_port_rates(&self, plan: &mut Plan, port: &NicIntent) {
        let waits = self.ports.lifted.get(&port.id).is_some_and(|until| *until > self.now);
        if !waits || claim::is_limited_by_others(&self.intent, &self.observed, port) {
            claim::limits(plan, &self.intent, &self.observed, port, self.config.shapes_ports);
        }
    }

    /// Takes our limits off taps that are no port's any more. Those of ports that are on their way to others stay.
    pub(super) fn lift_ports_limits(&self, plan: &mut Plan) {
        claim::lift_limits(plan, &self.intent, &self.observed, |link| self.is_tap_in_transfer(link));
    }

    /// Whether a port's rates are for its tap, and ours to see to, so that its driver is not to hear of them.
    pub(super) fn shapes_port(&self, port: &NicIntent) -> bool {
        self.config.shapes_ports && rates::at_ports_tap(&self.intent, port)
    }

    /// The objects that traffic control at somebody else's link concerns. A driver takes away what is there before it sets
    /// its own limits: what we put back at once would be in its way.
    pub(super) fn concerned_by_limits(&mut self, change: &Change, concerned: &mut BTreeSet<Object>) {
        let observed = &self.observed;
        let (link, leave_alone) = match change {
            Change::Shape(index, now) => (observed.link(*index), self.has_lost(*index, now)),
            Change::Redirect(index, now) => {
                (observed.link(*index), now.is_none() && observed.redirects.contains_key(index))
            }
            Change::Link(index, Some(now)) if self.config.shapes_ports => {
                let same = |was: &Link| (was.mac, was.controller) == (now.mac, now.controller);
                (Some(now).filter(|_| !observed.link(*index).is_some_and(same)), true)
            }
            _ => return,
        };
        let Some(link) = link.filter(|link| link.mark.is_none()) else { return };
        let ports: Vec<Uuid> = claim::of_tap(&self.intent, link).map(|port| port.id).collect();
        // Links come and go by the hundred; those that we limit are few.
        let limited = [observed.shapes.contains_key(&link.index), observed.redirects.contains_key(&link.index)];
        if ports.is_empty() && (limited.contains(&true) || !matches!(change, Change::Link(..))) {
            concerned.insert(Object::Host);
        }
        for id in ports {
            if leave_alone {
                let until = self.now + MOMENT;
                self.ports.lifted.insert(id, until);
                self.wake(until, Object::Nic(id));
            }
            concerned.insert(Object::Nic(id));
        }
    }

    fn has_lost(&self, index: Index, now: &Shape) -> bool {
        let Some(was) = self.observed.shapes.get(&index) else { return false };
        (!was.classes.is_empty() && now.classes.is_empty()) || (was.police.is_some() && now.police.is_none())
    }

    /// Tells watchers of a port whose tap others limit, so that our limits are withdrawn.
    pub(super) fn look_for_others_limits(&mut self, object: Object) {
        let Object::Nic(id) = object else { return };
        if self.ports.lifted.get(&id).is_some_and(|until| *until <= self.now) {
            self.ports.lifted.remove(&id);
        }
        let port = self.intent.nic(id).filter(|port| self.shapes_port(port));
        let limited = port.filter(|port| claim::is_limited_by_others(&self.intent, &self.observed, port));
        let tap = limited.and_then(|port| claim::claimed(&self.intent, &self.observed, port));
        let Some(tap) = tap.map(|tap| tap.name.clone()) else {
            self.ports.limited_by_others.remove(&id);
            return;
        };
        if self.ports.limited_by_others.insert(id) {
            let what = format!("somebody else limits or filters at its tap {tap}, so that we don't limit it meanwhile");
            self.drift(object, what, false);
        }
    }
}
