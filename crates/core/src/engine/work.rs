//! What each object is doing: the plan or job in flight, the operation it belongs to, and what waits behind it.

use super::Object;
use super::adopt::Transfer;
use super::effect::{JobId, NetworkEvent, NicEvent, PlanId};
use super::input::{Command, Now, RequestId};
use crate::intent::{NetworkIntent, NicIntent};
use crate::{Error, ErrorKind};
use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};
use uuid::Uuid;

/// Requests that may wait for one object.
const WAITING: usize = 256;

/// Plans that an operation may need before we say that it doesn't settle. Two are common: one, and one for what
/// changed meanwhile.
pub(super) const PLANS: u32 = 8;

/// What is under way for one object.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// The plan or job whose end it waits for.
    pub(super) flight: Option<Flight>,
    /// The operation that somebody waits for.
    pub(super) operation: Option<Operation>,
    /// Requests that wait for the operation's end.
    pub(super) waiting: VecDeque<(RequestId, Command, u128)>,
    /// Plans since it was last settled.
    pub(super) plans: u32,
    /// Why its last plan was needed, for the report on drift.
    pub(super) why: Option<Cow<'static, str>>,
    /// Who made it needed, where that is known.
    pub(super) culprit: Option<String>,
    /// Whether it is looked at because of what somebody asked of another object: what differs is no drift.
    pub(super) expected: bool,
    /// Whether a bridge was made, so that NICs are to be plugged in again.
    pub(super) made_bridge: bool,
    /// Whether a NIC's tap was made anew, so that its guest is cut off.
    pub(super) made_tap: bool,
    /// Whether its port was seen otherwise than the job under way makes it, be it before or after.
    pub(super) port_doubted: bool,
}

/// The plan or job in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flight {
    /// A plan.
    Plan(PlanId),
    /// A job.
    Job(JobId),
}

/// An operation that was asked for, with what was there before it.
#[derive(Debug)]
pub(super) struct Operation {
    /// Who asked; nobody for what the daemon does by itself.
    pub(super) request: Option<RequestId>,
    /// What to tell the watchers when it is done.
    pub(super) goal: Goal,
    /// NICs that have to settle first.
    pub(super) nics: BTreeSet<Uuid>,
    /// Whether the NICs were told to follow.
    pub(super) followed: bool,
    /// It failed, and what was before is being restored.
    pub(super) error: Option<Error>,
    /// Whether a plan or a job was begun for it.
    pub(super) touched: bool,
    /// What the client should know besides.
    pub(super) warnings: Vec<String>,
    /// That the network comes from others, or goes to them, while it runs.
    pub(super) transfer: Option<Transfer>,
}

/// What an operation is for, with what is restored when it fails.
#[derive(Debug)]
pub(super) enum Goal {
    /// A network as intended now.
    Network {
        /// What it was.
        previous: Option<Box<NetworkIntent>>,
        /// What to publish.
        event: NetworkEvent,
    },
    /// A NIC as intended now.
    Nic {
        /// What it was.
        previous: Option<Box<NicIntent>>,
        /// What to publish.
        event: NicEvent,
    },
}

impl Operation {
    /// One that starts.
    pub(super) fn new(request: Option<RequestId>, goal: Goal) -> Self {
        Self {
            request,
            goal,
            nics: BTreeSet::new(),
            followed: false,
            error: None,
            touched: false,
            warnings: Vec::new(),
            transfer: None,
        }
    }
}

impl Work {
    /// Puts a request behind the operation under way.
    pub(super) fn wait(&mut self, id: RequestId, command: Command, random: u128) -> Result<(), Error> {
        if self.waiting.len() >= WAITING {
            return Err(Error::new(
                ErrorKind::Busy,
                "the daemon",
                format!("{WAITING} requests wait for the same object already"),
            )
            .hint("try again when they are done"));
        }
        self.waiting.push_back((id, command, random));
        Ok(())
    }

    /// The network as it was before the operation under way.
    pub(super) fn network_before(&self) -> Option<&NetworkIntent> {
        match &self.operation.as_ref()?.goal {
            Goal::Network { previous, .. } => previous.as_deref(),
            Goal::Nic { .. } => None,
        }
    }

    /// The NIC as it was before the operation under way.
    pub(super) fn nic_before(&self) -> Option<&NicIntent> {
        match &self.operation.as_ref()?.goal {
            Goal::Nic { previous, .. } => previous.as_deref(),
            Goal::Network { .. } => None,
        }
    }

    /// A plan or a job begins.
    pub(super) fn touch(&mut self) {
        if let Some(operation) = &mut self.operation {
            operation.touched = true;
        }
    }

    /// Whether nothing is under way, nor to be remembered.
    pub(super) fn is_idle(&self) -> bool {
        self.flight.is_none() && self.operation.is_none() && self.waiting.is_empty() && !self.made_bridge
    }
}

/// Who may change what networks share: our table of packet rules, and the host's settings. A plan is made from what is
/// there, so no two plans about the same thing may be under way at once. NICs share nothing, save what a bridge promises them.
#[derive(Debug, Default)]
pub(super) struct Line {
    first: Option<Object>,
    waiting: VecDeque<Object>,
}

impl Line {
    /// Whether an object's plan may be carried out now; if not, its turn comes. `shares` says whether a NIC's is about
    /// what networks share.
    pub(super) fn joins(&mut self, object: Object, shares: bool) -> bool {
        if matches!(object, Object::Nic(_)) && !shares {
            return true;
        }
        if self.first.is_none() {
            self.first = Some(object);
            return true;
        }
        if !self.waiting.contains(&object) {
            self.waiting.push_back(object);
        }
        false
    }

    /// An object's plan is done.
    pub(super) fn leaves(&mut self, object: Object) {
        if self.first == Some(object) {
            self.first = None;
        }
    }

    /// Whose turn it is, if it is anyone's.
    pub(super) fn next(&mut self) -> Option<Object> {
        if self.first.is_some() { None } else { self.waiting.pop_front() }
    }
}

/// How what nobody asked for fails, again and again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Repairs {
    /// How many failed in a row.
    pub(super) failures: u32,
    /// When what failed is tried again.
    pub(super) until: Now,
}

/// Others undo what is put right as often as that is done. So that nobody pulls for ever, it is let be for longer and
/// longer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Contest {
    /// When something was put right last, in milliseconds.
    last: Now,
    /// How often, since it began.
    count: u32,
    /// It is let be until then.
    rests_until: Now,
    /// Whether watchers were told that it is.
    told: bool,
}

impl Contest {
    /// How often something is put right at once.
    const AT_ONCE: u32 = 8;
    /// How many milliseconds without end it.
    const OVER: Now = 10_000;

    /// Something was put right.
    pub(super) fn put_right(&mut self, now: Now) {
        if now > self.last.max(self.rests_until).saturating_add(Self::OVER) {
            *self = Self::default();
        }
        self.last = now;
        self.count = self.count.saturating_add(1);
        if let Some(pauses) = self.count.checked_sub(Self::AT_ONCE) {
            self.rests_until = now + backoff(pauses + 1);
            self.told = false;
        }
    }

    /// Until when it is let be, if it is.
    pub(super) fn rests(&self, now: Now) -> Option<Now> {
        (now < self.rests_until).then_some(self.rests_until)
    }

    /// Whether watchers are to be told that it is, which they are once.
    pub(super) fn is_to_be_told(&mut self) -> bool {
        !std::mem::replace(&mut self.told, true)
    }
}

/// How long to wait before trying again what failed that often, in milliseconds.
pub(super) fn backoff(failures: u32) -> Now {
    const LONGEST: Now = 60_000;
    const FIRST: Now = 100;
    match failures {
        0 => FIRST,
        n => (1000 << (n - 1).min(6)).min(LONGEST),
    }
}
