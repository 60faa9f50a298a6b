//! The simulated kernel: what it says to a plan's steps, and links that come and go by others' doing.

use super::{Host, rules};
use crate::engine::Input;
use crate::model::DirectMode;
use crate::model::interface::OperState;
use crate::plan::absorb::resolve;
use crate::plan::nft;
use crate::plan::{
    Change, Index, Link, LinkKind, LinkRef, MacvlanSpec, Op, Outcome, Plan, StepFailure, Sysctl, VlanState,
};

impl Host {
    /// Carries out a plan as the real host does: in order, and backwards when a step is refused.
    pub(super) fn apply(&mut self, plan: &Plan) -> Outcome {
        let mut made = Vec::new();
        for (number, step) in plan.steps.iter().enumerate() {
            let refused = match &mut self.refuse_after {
                Some(0) => {
                    self.refuse_after = None;
                    Err("EPERM (refused by the test)".to_owned())
                }
                Some(left) => {
                    *left -= 1;
                    self.do_op(&step.op, &made)
                }
                None => self.do_op(&step.op, &made),
            };
            match refused {
                Ok(index) => made.push(index),
                Err(cause) => {
                    for (done, step) in plan.steps[..number].iter().enumerate().rev() {
                        if let Some(index) = made[done] {
                            self.kernel.set_link(index, None);
                        }
                        if let Some(undo) = &step.undo {
                            let _ = self.do_op(undo, &made);
                        }
                        if let Op::Delete(index) = step.op {
                            // What is gone for good is announced, as by the real host.
                            self.inputs.push_back(Input::Observed(Change::Link(index, None)));
                        }
                    }
                    let failed = StepFailure { step: number, cause, errno: None, left: Vec::new() };
                    return Outcome { made: Vec::new(), failed: Some(failed) };
                }
            }
        }
        Outcome { made, failed: None }
    }

    fn do_op(&mut self, op: &Op, made: &[Option<Index>]) -> std::result::Result<Option<Index>, String> {
        let vlans = matches!(op, Op::SetFiltering(..) | Op::SetVlans { .. } | Op::Carry { .. });
        if self.no_vlans && (vlans || matches!(op, Op::MakeBridge(spec) if spec.vlan_filtering)) {
            return Err("EOPNOTSUPP".into());
        }
        let name = match op {
            Op::MakeBridge(spec) => Some(spec.name.to_string()),
            Op::MakeTap(spec) => Some(spec.name.to_string()),
            Op::MakeIfb(spec) => Some(spec.name.to_string()),
            Op::MakeMacvlan(spec) => {
                self.macvlan_refused(spec)?;
                Some(spec.name.to_string())
            }
            Op::MakeMacvtap(spec) => {
                self.macvlan_refused(&spec.link)?;
                Some(spec.link.name.to_string())
            }
            _ => None,
        };
        let mut index = None;
        if let Some(name) = name {
            if self.kernel.link_named(&name).is_some() {
                return Err(format!("EEXIST ({name})"));
            }
            self.next_index += 1;
            index = Some(Index(self.next_index));
        }
        if let Some(LinkRef::Index(i)) = link_of(op)
            && self.kernel.link(i).is_none()
        {
            // What is to be gone and is, is done.
            if matches!(op, Op::Doom(_) | Op::Release(_)) {
                return Ok(None);
            }
            return Err(format!("ENODEV ({})", i.0));
        }
        if let Op::Nft(change) = op {
            let mut after = self.kernel.nft.clone();
            for op in &change.ops {
                rules::refused(&after, op)?;
                after.apply(&nft::NftChange { ops: vec![op.clone()] });
            }
        }
        self.ipv6_refused(op, made)?;
        self.kernel.absorb_op(op, index, made);
        if let Op::SetSysctl(Sysctl::DisableIpv6(link), value) = op
            && let (Some(link), "1") = (self.kernel.link_named(link).map(|l| l.index), value.as_str())
        {
            let gone: Vec<_> = self.kernel.addresses(link).filter(|a| a.addr().is_ipv6()).collect();
            for address in gone {
                self.kernel.absorb_op(&Op::RemoveAddress(link.into(), address), None, made);
            }
        }
        Ok(index)
    }

    /// What the kernel says of IPv6 addresses where there are none, and of those that are not there.
    fn ipv6_refused(&self, op: &Op, made: &[Option<Index>]) -> std::result::Result<(), String> {
        let (Op::AddAddress(link, address) | Op::RemoveAddress(link, address)) = op else { return Ok(()) };
        let Some(link) = resolve(*link, made).and_then(|index| self.kernel.link(index)) else { return Ok(()) };
        if matches!(op, Op::RemoveAddress(..)) && !self.kernel.addresses(link.index).any(|there| there == *address) {
            return Err(format!("EADDRNOTAVAIL ({address})"));
        }
        let quiet = self.kernel.sysctls.get(&Sysctl::DisableIpv6(link.name.clone())).is_some_and(|value| value == "1");
        if matches!(op, Op::AddAddress(..)) && address.addr().is_ipv6() && quiet {
            return Err(format!("EACCES ({} has no IPv6)", link.name));
        }
        Ok(())
    }

    /// What the kernel says to a new macvlan.
    fn macvlan_refused(&self, spec: &MacvlanSpec) -> std::result::Result<(), String> {
        let Some(lower) = self.kernel.link(spec.lower) else { return Err("ENODEV (no such device)".into()) };
        if lower.controller.is_some() {
            return Err(format!("EBUSY ({} is a port)", lower.name));
        }
        // What is doomed the real host deletes before it gives up.
        let mut siblings = self.kernel.macvlans_on(spec.lower).filter(|l| !l.is_doomed());
        let alone = spec.mode == DirectMode::Passthrough;
        match siblings.find(|l| alone || l.mode == Some(DirectMode::Passthrough)) {
            Some(sibling) => Err(format!("EINVAL ({} is there)", sibling.name)),
            None => Ok(()),
        }
    }

    /// A link that is not ours appears, up, which nothing announces yet.
    pub fn add_link(&mut self, name: &str, kind: LinkKind) -> Index {
        self.next_index += 1;
        let index = Index(self.next_index);
        let link = Link {
            index,
            name: name.into(),
            kind,
            mac: None,
            mtu: 1500,
            up: true,
            controller: None,
            lower: None,
            mode: None,
            all_multicast: false,
            carrier: true,
            state: OperState::Up,
            mark: None,
            group: 0,
            bridge: None,
            bond: None,
            tag: None,
            port: None,
            vlan: VlanState::default(),
        };
        self.kernel.set_link(index, Some(link));
        index
    }

    /// Deletes what is doomed, as the reaper does.
    pub fn reap(&mut self) {
        let doomed: Vec<Index> = self.kernel.links().filter(|l| l.is_doomed()).map(|l| l.index).collect();
        for index in doomed {
            self.remove_link(index);
        }
    }

    /// A link goes, and its ports are free.
    pub fn remove_link(&mut self, index: Index) {
        let ports: Vec<_> = self.kernel.links().filter(|l| l.controller == Some(index)).cloned().collect();
        for mut port in ports {
            port.controller = None;
            port.port = None;
            self.kernel.set_link(port.index, Some(port));
        }
        let uppers: Vec<Index> = self.kernel.macvlans_on(index).map(|l| l.index).collect();
        for upper in uppers {
            self.kernel.set_link(upper, None);
        }
        self.kernel.set_link(index, None);
    }
}

/// The link that an operation is about.
fn link_of(op: &Op) -> Option<LinkRef> {
    Some(match op {
        Op::SetLink(l, _) | Op::SetBridge(l, _) | Op::SetPort(l, _) | Op::Announce(l, _) => *l,
        Op::AddAddress(l, _) | Op::RemoveAddress(l, _) | Op::AddRoute(l, _) | Op::RemoveRoute(l, _) => *l,
        Op::SetForwarding { port, .. } => *port,
        Op::SetFiltering(l, _) | Op::SetVlans { link: l, .. } => *l,
        Op::SetMode(l, _) | Op::Redirect(l, _) | Op::EndRedirect(l) => *l,
        Op::AddHtb(l, _) | Op::EndHtb(l) | Op::SetClass(l, ..) | Op::EndClass(l, _) => *l,
        Op::Police(l, _) | Op::EndPolice(l) | Op::LeaveLimits(l, ..) => *l,
        Op::Doom(index) | Op::Carry { port: index, .. } | Op::Claim(index, _) | Op::Release(index) => {
            LinkRef::Index(*index)
        }
        Op::MakeBridge(_)
        | Op::MakeTap(_)
        | Op::MakeMacvlan(_)
        | Op::MakeMacvtap(_)
        | Op::MakeIfb(_)
        | Op::Delete(_)
        | Op::Nft(_)
        | Op::SetSysctl(..) => {
            return None;
        }
    })
}
