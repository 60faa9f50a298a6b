//! From what is to what should be: ordered steps, each with its undo. Steps only for what differs. Those for a NIC are in
//! `plug`.

use super::adopt;
use super::desired::{DesiredBridge, DesiredNetwork};
use super::mark::{Mark, MarkKind, ROUTE_PROTOCOL};
use super::nft::{self, ForeignTable, NetworkRules};
use super::observed::{Index, Link, Observed, Sysctl};
use super::step::{LinkChange, LinkRef, Op, Plan, RouteSpec};
use super::{shape, vlan};
use crate::intent::Intent;
use crate::model::LinkName;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// What a network's rules are now, and what they were made for before: the bridge and the rules that an undo
/// restores. A network that is stopped has none, and so has one that never ran.
pub type RulesBefore = Option<(LinkName, NetworkRules)>;

/// The steps for one network: its bridge and what is on it, then its rules; backwards when it stops.
pub fn network(
    plan: &mut Plan,
    (instance, uuid): (Uuid, Uuid),
    desired: &DesiredNetwork,
    observed: &Observed,
    before: RulesBefore,
) -> Result<(), ForeignTable> {
    let there = observed.link_marked(MarkKind::Bridge, uuid);
    let Some(bridge) = &desired.bridge else {
        rules(plan, instance, desired, observed, before)?;
        match there {
            Some(link) if link.is_claimed() => adopt::rest(plan, link, observed),
            Some(link) => {
                plan.push(Op::Doom(link.index), None, "the network is stopped");
            }
            None => {}
        }
        return Ok(());
    };
    match there {
        Some(link) if link.name == bridge.spec.name.as_str() => existing_bridge(plan, bridge, link, observed),
        former => new_bridge(plan, bridge, former, observed),
    }
    rules(plan, instance, desired, observed, before)
}

/// The steps by which a network leaves its bridge to others as it is: its rules go, and the mark.
pub fn hand_back(
    plan: &mut Plan,
    (instance, uuid): (Uuid, Uuid),
    observed: &Observed,
    before: RulesBefore,
) -> Result<(), ForeignTable> {
    rules(plan, instance, &DesiredNetwork::default(), observed, before)?;
    if let Some(link) = observed.link_marked(MarkKind::Bridge, uuid) {
        shape::end_waiting(plan, link.index, observed);
        adopt::release(plan, link);
    }
    shape::no_other_ifb(plan, (MarkKind::NetworkIfb, uuid), None, observed);
    Ok(())
}

/// The packet rules of one network, which go with the bridge's name.
fn rules(
    plan: &mut Plan,
    instance: Uuid,
    desired: &DesiredNetwork,
    observed: &Observed,
    before: RulesBefore,
) -> Result<(), ForeignTable> {
    let mut wanted = nft::Intent::new();
    let mut previous = nft::Intent::new();
    if let Some((bridge, rules)) = before {
        wanted.insert(bridge.clone(), NetworkRules::default());
        previous.insert(bridge, rules);
    }
    if let Some((bridge, rules)) = &desired.rules {
        previous.entry(bridge.clone()).or_default();
        wanted.insert(bridge.clone(), rules.clone());
    }
    let change = nft::diff(&observed.nft, &wanted, nft::Scope::Changed, instance)?;
    if !change.is_empty() {
        let undo = change.undo(&observed.nft, &previous, instance);
        plan.push(Op::Nft(change), Some(Op::Nft(undo)), "the network's packet rules");
    }
    Ok(())
}

/// A bridge that is not there yet, and the end of one of another name. That comes second: it is not taken back, and somebody
/// may have made a link of the new name meanwhile.
fn new_bridge(plan: &mut Plan, bridge: &DesiredBridge, former: Option<&Link>, observed: &Observed) {
    let made = plan.push(Op::MakeBridge(bridge.spec.clone()), None, "the network's bridge");
    match former {
        Some(link) if link.is_claimed() => adopt::release(plan, link),
        Some(link) => {
            plan.push(Op::Doom(link.index), None, "the network's bridge has another name now");
        }
        None => {}
    }
    on_bridge(plan, bridge, made, None, observed);
    vlan::bridge(plan, bridge, made, None, observed);
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    plan.push(Op::SetLink(made, up), None, "the bridge carries frames");
    // Routes need the link up.
    routes(plan, &bridge.routes, made, None, observed);
}

/// What differs about a bridge that is there.
fn existing_bridge(plan: &mut Plan, desired: &DesiredBridge, link: &Link, observed: &Observed) {
    let here = LinkRef::Index(link.index);
    on_bridge(plan, desired, here, Some(link.index), observed);
    vlan::bridge(plan, desired, here, Some(link), observed);
    if let Some(settings) = link.bridge.filter(|s| *s != desired.spec.settings) {
        let undo = Op::SetBridge(here, settings);
        plan.push(Op::SetBridge(here, desired.spec.settings), Some(undo), "spanning tree as defined");
    }
    let (mut change, mut undo) = (LinkChange::default(), LinkChange::default());
    if link.mtu != desired.spec.mtu {
        (change.mtu, undo.mtu) = (Some(desired.spec.mtu), Some(link.mtu));
    }
    if link.mac != Some(desired.spec.mac) {
        (change.mac, undo.mac) = (Some(desired.spec.mac), link.mac);
    }
    if !link.up {
        (change.up, undo.up) = (Some(true), Some(false));
    }
    if change != LinkChange::default() {
        plan.push(Op::SetLink(here, change), Some(Op::SetLink(here, undo)), "the bridge as defined");
    }
    routes(plan, &desired.routes, here, Some(link.index), observed);
}

/// Settings and addresses of a bridge. Addresses go first: the kernel takes others of their subnet with them, and those of
/// IPv6 where a setting ends it.
fn on_bridge(plan: &mut Plan, desired: &DesiredBridge, link: LinkRef, index: Option<Index>, observed: &Observed) {
    let there: BTreeSet<IpNet> = index.map(|i| observed.addresses(i).collect()).unwrap_or_default();
    for address in there.difference(&desired.addresses) {
        plan.push(
            Op::RemoveAddress(link, *address),
            Some(Op::AddAddress(link, *address)),
            "no longer the host's address on the network",
        );
    }
    for (sysctl, value) in &desired.sysctls {
        // A new link has the host's defaults, whatever was read under its name before.
        let was = index.and_then(|_| observed.sysctls.get(sysctl));
        if was != Some(value) {
            let undo = was.map(|was| Op::SetSysctl(sysctl.clone(), was.clone()));
            plan.push(Op::SetSysctl(sysctl.clone(), value.clone()), undo, "the host's part in IPv6 on the bridge");
        }
    }
    for address in desired.addresses.difference(&there) {
        plan.push(
            Op::AddAddress(link, *address),
            Some(Op::RemoveAddress(link, *address)),
            "the host's address on the network",
        );
    }
}

/// Static routes out of a bridge.
fn routes(plan: &mut Plan, wanted: &BTreeSet<RouteSpec>, link: LinkRef, index: Option<Index>, observed: &Observed) {
    if wanted.is_empty() && index.is_none() {
        return;
    }
    let there: BTreeSet<RouteSpec> = index
        .map(|i| {
            // What others made, with the bridge, need not be ours.
            let claimed = observed.link(i).is_some_and(Link::is_claimed);
            let kept = |r: &RouteSpec| claimed && wanted.contains(r);
            let there = observed.routes().filter(|r| r.link == i);
            let ours = there.filter(|r| r.protocol == ROUTE_PROTOCOL || kept(&RouteSpec::from(*r)));
            ours.map(RouteSpec::from).collect()
        })
        .unwrap_or_default();
    for route in wanted.difference(&there) {
        plan.push(
            Op::AddRoute(link, route.clone()),
            Some(Op::RemoveRoute(link, route.clone())),
            "the network's static route",
        );
    }
    for route in there.difference(wanted) {
        plan.push(
            Op::RemoveRoute(link, route.clone()),
            Some(Op::AddRoute(link, route.clone())),
            "no longer the network's static route",
        );
    }
}

/// The steps for host-wide settings: what is wanted, and what nobody wants any more goes back to what it was.
pub fn host(plan: &mut Plan, wanted: &BTreeMap<Sysctl, String>, saved: &BTreeMap<Sysctl, String>, observed: &Observed) {
    let mut set = |sysctl: &Sysctl, value: &String, why| {
        let was = observed.sysctls.get(sysctl);
        if was != Some(value) {
            let undo = was.map(|was| Op::SetSysctl(sysctl.clone(), was.clone()));
            plan.push(Op::SetSysctl(sysctl.clone(), value.clone()), undo, why);
        }
    };
    // Listening to router advertisements comes before forwarding, which would end it.
    for (sysctl, value) in wanted.iter().filter(|(s, _)| matches!(s, Sysctl::AcceptRa(_))) {
        set(sysctl, value, "the uplink keeps its router while the host forwards");
    }
    for (sysctl, value) in wanted.iter().filter(|(s, _)| !matches!(s, Sysctl::AcceptRa(_))) {
        set(sysctl, value, "the host routes for its guests");
    }
    let there = |sysctl: &Sysctl| sysctl.link().is_none_or(|link| observed.link_named(link).is_some());
    for (sysctl, value) in saved.iter().rev().filter(|(s, _)| !wanted.contains_key(*s) && there(s)) {
        set(sysctl, value, "back to what it was: nobody needs it any more");
    }
}

/// Links that carry our mark and that nobody knows any more go, unless `keep` says that they may yet have an owner.
pub fn orphans(plan: &mut Plan, intent: &Intent, observed: &Observed, keep: impl Fn(Mark) -> bool) {
    for link in observed.links().filter(|l| !l.is_doomed()) {
        let Some(mark) = link.mark.filter(|m| m.instance == intent.instance) else { continue };
        let known = match mark.kind {
            MarkKind::Bridge | MarkKind::NetworkIfb => intent.network(mark.id).is_some(),
            MarkKind::Tap | MarkKind::Macvlan | MarkKind::Ifb => intent.nic(mark.id).is_some(),
        };
        if known || keep(mark) {
            continue;
        }
        if link.is_claimed() {
            adopt::release(plan, link);
        } else {
            plan.push(Op::Doom(link.index), None, "it belongs to nothing any more");
        }
    }
}

/// The packet rules of all networks at once: after a start, and when somebody else changed our table.
pub fn all_rules(plan: &mut Plan, intent: &Intent, observed: &Observed, scope: nft::Scope) -> Result<(), ForeignTable> {
    let networks = intent.networks().filter(|(_, n)| n.active.is_some());
    let wanted: nft::Intent = networks.filter_map(|(uuid, _)| super::desired::network(intent, uuid).rules).collect();
    let change = nft::diff(&observed.nft, &wanted, scope, intent.instance)?;
    if !change.is_empty() {
        // What was wrong before is not worth restoring.
        plan.push(Op::Nft(change), None, "the packet rules of all networks");
    }
    Ok(())
}
