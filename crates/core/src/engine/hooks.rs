//! When hooks are called: before a network starts, and when an object is as it should be and they don't know it yet.
//!
//! What hooks were told of an object is compared with what is intended, as everything is. So an operation that is refused
//! after they heard of it, for whatever reason, leads to another call that tells what is there again. It is kept only
//! while it differs: with no hooks, and for objects at rest, nothing is. What runs when the daemon starts, or when the
//! first hook is installed, counts as told.

use super::effect::{Effect, Event, Job};
use super::hook_call::{About, HookCall, HookOperation};
use super::input::JobOutcome;
use super::{Engine, Object};
use crate::intent::NicIntent;
use crate::model::Network;
use crate::{Error, ErrorKind};

/// What hooks were told last of an object.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// That it is not there, or nothing.
    Nothing,
    /// That this network is about to start.
    Starting(Box<Network>),
    /// That this network runs.
    Network(Box<Network>),
    /// That this NIC is plugged in.
    Nic(Box<NicIntent>),
}

/// An object of which hooks don't know yet what is intended.
#[derive(Debug)]
pub(super) struct Untold {
    told: Told,
    /// What they are being told.
    telling: Option<Told>,
}

/// When to look whether hooks are to be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// Before an object's plan.
    Before,
    /// When it needs none any more.
    After,
}

impl Told {
    /// What comes next for whoever was told this, of an object that is `now`, whom it is about, and what is told then.
    fn next<'a>(&'a self, now: &'a Self) -> Option<(HookOperation, About<'a>, Self)> {
        use HookOperation::*;
        Some(match (self, now) {
            (Self::Nothing, Self::Network(n)) => (Start, About::Network(n), Self::Starting(n.clone())),
            (Self::Starting(_), Self::Network(n)) => (Started, About::Network(n), now.clone()),
            (Self::Network(was), Self::Network(n)) if was != n => (Updated, About::Network(n), now.clone()),
            (Self::Starting(n) | Self::Network(n), Self::Nothing) => (Stopped, About::Network(n), Self::Nothing),
            (Self::Nothing, Self::Nic(nic)) => (PortCreated, About::Nic(nic), now.clone()),
            (Self::Nic(was), Self::Nic(nic)) if !is_same(was, nic) => (PortUpdated, About::Nic(nic), now.clone()),
            (Self::Nic(nic), Self::Nothing) => (PortDeleted, About::Nic(nic), Self::Nothing),
            _ => return None,
        })
    }
}

/// Whether a NIC is to hooks what it was: they are not told who owns it, or whether its attach was answered.
fn is_same(a: &NicIntent, b: &NicIntent) -> bool {
    (&a.nic, a.network, &a.allocation, a.precedence) == (&b.nic, b.network, &b.allocation, b.precedence)
}

impl Engine {
    /// Other hooks are installed than before. When there are none, nobody is told anything any more.
    pub(super) fn hooks_changed(&mut self, hooks: &[String]) {
        if hooks.is_empty() {
            self.untold.clear();
        }
    }

    /// What hooks would be told of an object; none when there is none who could be told.
    pub(super) fn to_be_told(&self, object: Object) -> Option<Told> {
        (!self.observed.hooks.is_empty()).then(|| self.as_told(object))
    }

    fn as_told(&self, object: Object) -> Told {
        match object {
            Object::Host => Told::Nothing,
            Object::Network(uuid) => {
                let active = self.intent.network(uuid).and_then(|n| n.active.as_ref());
                active.map_or(Told::Nothing, |n| Told::Network(Box::new(n.clone())))
            }
            Object::Nic(id) => self.intent.nic(id).map_or(Told::Nothing, |n| Told::Nic(Box::new(n.clone()))),
        }
    }

    /// An object's intent was changed; `before` is what hooks would have been told before that.
    pub(super) fn untold(&mut self, object: Object, before: Option<Told>) {
        let Some(told) = before else { return };
        if !self.untold.contains_key(&object) && told.next(&self.as_told(object)).is_some() {
            self.untold.insert(object, Untold { told, telling: None });
        }
    }

    /// The hooks' job for an object, if it is time for one.
    pub(super) fn hook_job(&mut self, object: Object, moment: Moment) -> Option<Job> {
        let told = self.untold.get(&object)?.told.clone();
        let now = self.as_told(object);
        let Some((operation, about, then)) = told.next(&now) else {
            self.untold.remove(&object);
            return None;
        };
        if (operation == HookOperation::Start) != (moment == Moment::Before) {
            return None;
        }
        let refuses = operation.may_refuse() && self.can_be_refused(object);
        let call = self.hook_call(object, operation, &about, refuses);
        if let Some(untold) = self.untold.get_mut(&object) {
            untold.telling = Some(then);
        }
        Some(Job::Hook(Box::new(call)))
    }

    /// Whether there is an operation that a hook may refuse: not one that is being taken back.
    fn can_be_refused(&self, object: Object) -> bool {
        let operation = self.work.get(&object).and_then(|w| w.operation.as_ref());
        operation.is_some_and(|o| o.error.is_none())
    }

    /// Hooks were called. Whoever failed was told all the same, and so hears of the end, too.
    pub(super) fn hooks_called(&mut self, object: Object, call: HookCall, outcome: JobOutcome) {
        self.work.entry(object).or_default().flight = None;
        if let Some(untold) = self.untold.get_mut(&object)
            && let Some(told) = untold.telling.take()
        {
            untold.told = told;
        }
        if let JobOutcome::Failed(cause) = outcome {
            let cause = format!("the hook {} failed: {cause}", call.operation);
            if call.refuses && self.can_be_refused(object) {
                return self.failed(object, Error::new(ErrorKind::HookFailed, call.object, cause));
            }
            let what = cause.clone();
            self.out.push(Effect::Publish(Event::Drift { object: call.object, what, culprit: None, repaired: false }));
            if let Some(operation) = self.work.get_mut(&object).and_then(|w| w.operation.as_mut()) {
                operation.warnings.push(cause);
            }
        }
        self.advance(object);
    }

    /// A NIC ended while there was no daemon: hooks are told now.
    pub(super) fn ended_meanwhile(&mut self, nic: NicIntent) {
        if !self.observed.hooks.is_empty() {
            let told = Told::Nic(Box::new(nic.clone()));
            self.untold.insert(Object::Nic(nic.id), Untold { told, telling: None });
        }
    }

    /// Looks at the objects of [`Self::ended_meanwhile`], which are nobody's intent any more.
    pub(super) fn look_at_untold(&mut self) {
        let objects: Vec<Object> = self.untold.keys().copied().collect();
        for object in objects {
            self.advance(object);
        }
    }
}
