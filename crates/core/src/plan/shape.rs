//! The steps for rates: what limits a link, and the ifbs in which incoming frames wait.
//!
//! What differs is changed in place, so that no frame is lost over it.

use super::mark::MarkKind;
use super::observed::{Index, Observed};
use super::plug;
use super::rates::{Classes, IfbSpec, Police, Rates, Shape};
use super::step::{LinkChange, LinkRef, Op, Plan};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A link, with its index if it is there already.
pub(super) type At = (LinkRef, Option<Index>);

fn shape(observed: &Observed, index: Option<Index>) -> Option<&Shape> {
    observed.shapes.get(&index?)
}

/// The classes of what leaves a link.
pub(super) fn outgoing(plan: &mut Plan, (link, index): At, wanted: &Classes, observed: &Observed, why: &'static str) {
    static NONE: Classes = BTreeMap::new();
    let there = shape(observed, index).map_or(&NONE, |shape| &shape.classes);
    match (there.is_empty(), wanted.is_empty()) {
        (true, true) => {}
        (true, false) => {
            plan.push(Op::AddHtb(link, wanted.clone()), index.map(|_| Op::EndHtb(link)), why);
        }
        (false, true) => {
            plan.push(Op::EndHtb(link), Some(Op::AddHtb(link, there.clone())), "nothing limits it any more");
        }
        (false, false) => {
            // Those that borrow have higher numbers, and go before whom they borrow from.
            for (number, was) in there.iter().rev().filter(|(number, _)| !wanted.contains_key(number)) {
                let undo = Op::SetClass(link, *number, *was);
                plan.push(Op::EndClass(link, *number), Some(undo), "nothing is promised to it any more");
            }
            for (number, class) in wanted {
                let was = there.get(number);
                if was != Some(class) {
                    let undo = match was {
                        Some(was) => Op::SetClass(link, *number, *was),
                        None => Op::EndClass(link, *number),
                    };
                    plan.push(Op::SetClass(link, *number, *class), Some(undo), why);
                }
            }
        }
    }
}

/// The limit on what comes in at a link.
pub(super) fn police(
    plan: &mut Plan,
    (link, index): At,
    wanted: Option<Police>,
    observed: &Observed,
    why: &'static str,
) {
    let there = shape(observed, index).and_then(|shape| shape.police);
    let undo = || index.map(|_| there.map_or(Op::EndPolice(link), |was| Op::Police(link, was)));
    match wanted {
        _ if wanted == there => {}
        Some(police) => drop(plan.push(Op::Police(link, police), undo(), why)),
        None => drop(plan.push(Op::EndPolice(link), undo(), "nothing limits it any more")),
    }
}

/// The ifb of a NIC or network, up and with the classes of what comes in at their link.
pub(super) fn ifb(
    plan: &mut Plan,
    (instance, kind, id): (Uuid, MarkKind, Uuid),
    classes: &Classes,
    observed: &Observed,
) -> Option<At> {
    if classes.is_empty() {
        return None;
    }
    let there = observed.link_marked(kind, id);
    let (link, index) = match there {
        Some(link) => (LinkRef::Index(link.index), Some(link.index)),
        None => (plan.push(Op::MakeIfb(IfbSpec::of(instance, kind, id)?), None, "where what comes in waits"), None),
    };
    outgoing(plan, (link, index), classes, observed, "the rate from guests");
    if there.is_none_or(|link| !link.up) {
        let change = |up| LinkChange { up: Some(up), ..LinkChange::default() };
        let undo = index.map(|_| Op::SetLink(link, change(false)));
        plan.push(Op::SetLink(link, change(true)), undo, "what waited passes");
    }
    Some((link, index))
}

/// Takes the ifbs of a NIC or network away, save this one.
pub(super) fn no_other_ifb(plan: &mut Plan, (kind, id): (MarkKind, Uuid), kept: Option<At>, observed: &Observed) {
    for old in observed.links_marked(kind, id) {
        if kept.and_then(|(_, index)| index) != Some(old.index) {
            plan.push(Op::Doom(old.index), None, "no frames wait there any more");
        }
    }
}

/// The limits at a network's own bridge, behind the steps that make or change the bridge itself.
pub fn network(plan: &mut Plan, (instance, uuid): (Uuid, Uuid), rates: &Rates, observed: &Observed) {
    let made = plan.steps.iter().position(|step| matches!(step.op, Op::MakeBridge(_)));
    let doomed = |index| plan.steps.iter().any(|step| step.op == Op::Doom(index));
    let there = observed.link_marked(MarkKind::Bridge, uuid).map(|l| l.index).filter(|index| !doomed(*index));
    let bridge = match (made, there) {
        (Some(step), _) => Some((LinkRef::MadeBy(step), None)),
        (None, Some(index)) => Some((LinkRef::Index(index), Some(index))),
        (None, None) => None,
    };
    let (kind, why) = (MarkKind::NetworkIfb, ("the network's rate towards guests", "the network's rate from guests"));
    limits(plan, (instance, kind, uuid), bridge.map(|bridge| (bridge, rates)), observed, why);
}

/// All limits at the link of a NIC or network, if there is one, where what comes in is handed to no other link but the ifb of
/// that kind. The reasons are those for limiting what leaves and what comes in.
pub(super) fn limits(
    plan: &mut Plan,
    (instance, kind, id): (Uuid, MarkKind, Uuid),
    at: Option<(At, &Rates)>,
    observed: &Observed,
    (leaves, comes_in): (&'static str, &'static str),
) {
    let mut kept = None;
    if let Some((link, rates)) = at {
        outgoing(plan, link, &rates.classes, observed, leaves);
        police(plan, link, rates.incoming.police(), observed, comes_in);
        kept = ifb(plan, (instance, kind, id), &rates.incoming.classes(), observed);
        match kept {
            Some((ifb, _)) => drop(plug::redirect(plan, link, ifb, observed, "what comes in waits for its turn")),
            None => plug::end_redirect(plan, link, observed, "what comes in no longer waits"),
        }
    }
    no_other_ifb(plan, (kind, id), kept, observed);
}

/// All limits of ours at a link go. An ifb goes with the NIC that it is of.
pub(super) fn lift(plan: &mut Plan, index: Index, observed: &Observed) {
    let at = (LinkRef::Index(index), Some(index));
    outgoing(plan, at, &Classes::new(), observed, "");
    police(plan, at, None, observed, "");
    end_waiting(plan, index, observed);
}

/// Those limits of ours at a link of others that can be left to them are; what waits at an ifb of ours waits no more.
pub(super) fn leave(plan: &mut Plan, index: Index, observed: &Observed) {
    let at = (LinkRef::Index(index), Some(index));
    if let Some(Shape { classes, police, .. }) = shape(observed, Some(index))
        && (police.is_some() || !classes.is_empty())
    {
        plan.push(
            Op::LeaveLimits(at.0, classes.clone(), *police),
            None,
            "its limits stay, and are others' from now on",
        );
    }
    end_waiting(plan, index, observed);
}

/// What comes in at a link is handed to no ifb any more. Without one that it is handed to it would be lost.
pub(super) fn end_waiting(plan: &mut Plan, index: Index, observed: &Observed) {
    let at = (LinkRef::Index(index), Some(index));
    plug::end_redirect(plan, at, observed, "what comes in no longer waits");
}

impl Observed {
    /// What limits a link was read.
    pub(super) fn set_shape(&mut self, index: Index, shape: Shape) {
        if shape == Shape::default() {
            self.shapes.remove(&index);
        } else {
            self.shapes.insert(index, shape);
        }
    }

    /// Takes on what an operation did to what limits a link.
    pub(super) fn absorb_shape(&mut self, index: Index, op: &Op) {
        let mut shape = self.shapes.get(&index).cloned().unwrap_or_default();
        match op {
            Op::AddHtb(_, classes) => shape.classes.clone_from(classes),
            Op::EndHtb(_) => shape.classes.clear(),
            Op::SetClass(_, number, class) => drop(shape.classes.insert(*number, *class)),
            Op::EndClass(_, number) => drop(shape.classes.remove(number)),
            Op::Police(_, police) => shape.police = Some(*police),
            Op::EndPolice(_) => shape.police = None,
            Op::LeaveLimits(..) => shape = Shape { others: true, ..Shape::default() },
            _ => {}
        }
        self.set_shape(index, shape);
    }
}
