//! Bridges that others made for networks of ours: libvirt's, whose network was taken over while it ran.
//!
//! Such a bridge is *claimed*: it carries its network's mark, and not our link group, which only what we made is in. Its
//! settings, addresses and ports follow the network; it is never deleted or renamed. When its network stops it is left
//! behind, down and without addresses, and found again by the next start; when there is no such network any more the mark
//! goes, and it is foreign again.

use super::mark::{Mark, MarkKind};
use super::observed::{Link, LinkKind, Observed};
use super::step::{LinkChange, LinkRef, Op, Plan};
use ipnet::IpNet;
use uuid::Uuid;

/// The link of that name, if a network may claim it or has done so.
///
/// # Errors
/// Why not, as a phrase.
pub fn claimable<'a>(observed: &'a Observed, bridge: &str, network: Uuid) -> Result<&'a Link, String> {
    let link = observed.link_named(bridge).filter(|link| !link.is_doomed());
    let link = link.ok_or_else(|| format!("its bridge {bridge} is not there"))?;
    match link.mark {
        _ if link.kind != LinkKind::Bridge => Err(format!("{bridge} is no bridge")),
        Some(mark) if mark.kind != MarkKind::Bridge || mark.id != network => {
            Err(format!("{bridge} is another network's bridge"))
        }
        _ => Ok(link),
    }
}

/// The step by which a network gets a bridge that is there; none where it has it already.
pub fn claim(plan: &mut Plan, link: &Link, mark: Mark) {
    if link.mark != Some(mark) || !link.is_claimed() {
        let undo = link.mark.is_none().then_some(Op::Release(link.index));
        plan.push(Op::Claim(link.index, mark), undo, "the bridge is the network's from now on");
    }
}

/// The step after which a bridge is nobody's.
pub fn release(plan: &mut Plan, link: &Link) {
    let undo = link.mark.map(|mark| Op::Claim(link.index, mark));
    plan.push(Op::Release(link.index), undo, "the bridge is nobody's any more");
}

/// The steps for the claimed bridge of a network that is stopped: nothing passes it, and the host has no address there.
pub fn rest(plan: &mut Plan, link: &Link, observed: &Observed) {
    let here = LinkRef::Index(link.index);
    let addresses: Vec<IpNet> = observed.addresses(link.index).collect();
    for address in addresses {
        let undo = Op::AddAddress(here, address);
        plan.push(Op::RemoveAddress(here, address), Some(undo), "the network is stopped");
    }
    if link.up {
        let change = |up| LinkChange { up: Some(up), ..LinkChange::default() };
        let undo = Op::SetLink(here, change(true));
        plan.push(Op::SetLink(here, change(false)), Some(undo), "the network is stopped, and others made its bridge");
    }
}
