//! What an operation does to the host, as far as it is observed. The engine takes it on when the host says that the
//! operation was done; the simulated host does nothing else. What the kernel does besides is read later.

use super::mark::Mark;
use super::mark::{GROUP_DOOMED, GROUP_LIVE, GROUP_NONE, ROUTE_PROTOCOL};
use super::observed::{Change, Index, Link, LinkKind, Observed, PortFlags, Route};
use super::ovs::{OvsKnown, OvsState};
use super::step::{LinkChange, LinkRef, MacvlanSpec, Op, Outcome, Plan};
use super::vlan::VlanState;
use crate::model::interface::OperState;
use uuid::Uuid;

/// The index that a reference stands for, given what each step made.
pub(crate) fn resolve(link: LinkRef, made: &[Option<Index>]) -> Option<Index> {
    match link {
        LinkRef::Index(index) => Some(index),
        LinkRef::MadeBy(step) => made.get(step).copied().flatten(),
    }
}

impl Observed {
    /// Takes on a plan that was carried out. A failed one left nothing behind, or the host reads it again.
    pub fn absorb(&mut self, plan: &Plan, outcome: &Outcome) {
        if let Some(failure) = &outcome.failed {
            // What is out of use stays so, whatever else was taken back.
            let doomed = plan.steps.iter().take(failure.step).filter(|step| matches!(step.op, Op::Doom(_)));
            return doomed.for_each(|step| self.absorb_op(&step.op, None, &[]));
        }
        for (number, step) in plan.steps.iter().enumerate() {
            let made = outcome.made.get(number).copied().flatten();
            self.absorb_op(&step.op, made, &outcome.made);
        }
    }

    /// Takes on one operation; `made` is what it made, `all` what the plan's steps made.
    pub fn absorb_op(&mut self, op: &Op, made: Option<Index>, all: &[Option<Index>]) {
        match op {
            Op::MakeBridge(spec) => {
                let Some(index) = made else { return };
                let link = Link {
                    mac: Some(spec.mac),
                    bridge: Some(spec.settings),
                    vlan: VlanState { filtering: spec.vlan_filtering, ..VlanState::default() },
                    ..made_link(index, spec.name.to_string(), LinkKind::Bridge, spec.mtu, spec.mark)
                };
                self.set_link(index, Some(link));
            }
            Op::MakeTap(spec) => {
                let Some(index) = made else { return };
                let link = Link {
                    mac: spec.mac,
                    ..made_link(index, spec.name.to_string(), LinkKind::Tap, spec.mtu, spec.mark)
                };
                self.set_link(index, Some(link));
            }
            Op::MakeMacvlan(spec) => {
                let Some(index) = made else { return };
                self.set_link(index, Some(on_device(index, LinkKind::Macvlan, spec)));
            }
            Op::MakeMacvtap(spec) => {
                let Some(index) = made else { return };
                self.set_link(index, Some(on_device(index, LinkKind::Macvtap, &spec.link)));
            }
            Op::SetMode(link, mode) => self.edit(*link, all, |l| l.mode = Some(*mode)),
            Op::Redirect(link, to) => {
                if let (Some(link), Some(to)) = (resolve(*link, all), resolve(*to, all)) {
                    self.redirects.insert(link, Some(to));
                }
            }
            Op::EndRedirect(link) => {
                if let Some(link) = resolve(*link, all) {
                    self.redirects.remove(&link);
                }
            }
            Op::MakeIfb(spec) => {
                let Some(index) = made else { return };
                // The kernel's default MTU, which stops no frame here.
                let link = made_link(
                    index,
                    spec.name.to_string(),
                    LinkKind::Other("ifb".into()),
                    super::desired::MTU,
                    spec.mark,
                );
                self.set_link(index, Some(link));
            }
            Op::AddHtb(link, _)
            | Op::EndHtb(link)
            | Op::SetClass(link, ..)
            | Op::EndClass(link, _)
            | Op::Police(link, _)
            | Op::EndPolice(link)
            | Op::LeaveLimits(link, ..) => {
                if let Some(index) = resolve(*link, all) {
                    self.absorb_shape(index, op);
                }
            }
            Op::Delete(index) => self.set_link(*index, None),
            Op::SetLink(link, change) => self.edit(*link, all, |l| set_link(l, change, all)),
            Op::SetBridge(link, settings) => self.edit(*link, all, |l| l.bridge = Some(*settings)),
            Op::SetPort(link, flags) => self.edit(*link, all, |l| l.port = Some(*flags)),
            Op::SetFiltering(link, on) => self.edit(*link, all, |l| l.vlan.filtering = *on),
            Op::SetVlans { link, vlans, .. } => {
                if let Some(index) = resolve(*link, all) {
                    self.set_vlans(index, vlans.clone());
                }
            }
            Op::Carry { port, add, end } => {
                if let Some(mut vlans) = self.link(*port).map(|port| self.vlans_of(port)) {
                    vlans.tagged.extend(add);
                    vlans.tagged.retain(|vid| !end.contains(vid));
                    self.set_vlans(*port, vlans);
                }
            }
            Op::Doom(index) => {
                let doomed = format!("pcdel{}", index.0);
                self.redirects.remove(index);
                self.shapes.remove(index);
                self.edit(LinkRef::Index(*index), all, |l| {
                    l.group = GROUP_DOOMED;
                    l.name = doomed;
                    l.up = false;
                    l.mode = None;
                    l.controller = None;
                    l.port = None;
                });
            }
            Op::Claim(index, mark) => self.edit(LinkRef::Index(*index), all, |l| {
                l.mark = Some(*mark);
                l.group = GROUP_NONE;
            }),
            Op::Release(index) => self.edit(LinkRef::Index(*index), all, |l| l.mark = None),
            Op::AddAddress(link, address) => {
                if let Some(index) = resolve(*link, all) {
                    self.addresses_mut(index).insert(*address);
                }
            }
            Op::RemoveAddress(link, address) => {
                if let Some(index) = resolve(*link, all) {
                    self.addresses_mut(index).remove(address);
                }
            }
            Op::AddRoute(link, r) => {
                if let Some(link) = resolve(*link, all) {
                    let route = Route { to: r.to, via: r.via, link, metric: r.metric, protocol: ROUTE_PROTOCOL };
                    self.routes_mut().insert(route);
                }
            }
            Op::RemoveRoute(link, r) => {
                if let Some(link) = resolve(*link, all) {
                    let route = Route { to: r.to, via: r.via, link, metric: r.metric, protocol: ROUTE_PROTOCOL };
                    self.routes_mut().remove(&route);
                }
            }
            Op::SetForwarding { port, mac, present } => {
                if let Some(index) = resolve(*port, all) {
                    if *present {
                        self.forwarding.insert((index, *mac));
                    } else {
                        self.forwarding.remove(&(index, *mac));
                    }
                }
            }
            Op::Nft(change) => self.nft.apply(change),
            Op::SetSysctl(sysctl, value) => {
                self.sysctls.insert(sysctl.clone(), value.clone());
            }
            Op::Announce(..) => {}
        }
    }

    /// A NIC's port on a bridge of Open vSwitch was read.
    fn set_ovs(&mut self, nic: Uuid, port: Option<OvsState>) {
        match (self.ovs.get_mut(&nic), port) {
            // Another one with our NIC's mark is none that we made.
            (Some(known), Some(port)) if known.name != port.name => {}
            (Some(known), port) => known.port = port,
            (None, Some(port)) => drop(self.ovs.insert(nic, OvsKnown { name: port.name.clone(), port: Some(port) })),
            (None, None) => {}
        }
    }

    fn edit(&mut self, link: LinkRef, all: &[Option<Index>], edit: impl FnOnce(&mut Link)) {
        let Some(index) = resolve(link, all) else { return };
        let Some(mut link) = self.link(index).cloned() else { return };
        let was = link.controller;
        edit(&mut link);
        if link.controller != was {
            self.forget_forwarding(index);
        }
        self.set_link(index, Some(link));
    }

    /// Takes on one thing that was read.
    pub fn take(&mut self, change: Change) {
        match change {
            Change::Link(index, link) => self.set_link(index, link),
            Change::Addresses(index, addresses) => self.set_addresses(index, addresses),
            Change::Redirect(index, Some(to)) => {
                self.redirects.insert(index, to);
            }
            Change::Redirect(index, None) => {
                self.redirects.remove(&index);
            }
            Change::Vlans(index, vlans) => self.set_vlans(index, vlans),
            Change::Shape(index, shape) => self.set_shape(index, shape),
            Change::Shaping(support) => self.shaping = Some(support),
            Change::Routes(routes) => self.set_routes(routes),
            Change::Nft(table, _) => self.nft = table,
            Change::Sysctl(sysctl, Some(value)) => {
                self.sysctls.insert(sysctl, value);
            }
            Change::Sysctl(sysctl, None) => {
                self.sysctls.remove(&sysctl);
            }
            Change::Service(network, Some(service)) => {
                self.services.insert(network, service);
            }
            Change::Service(network, None) => {
                self.services.remove(&network);
            }
            Change::Leases(network, leases) => {
                self.leases.insert(network, leases);
            }
            Change::Resolvers(resolvers) => self.resolvers = resolvers,
            Change::Firewalls(firewalls) => self.firewalls = firewalls,
            Change::Functions(functions) => self.functions = functions,
            Change::Hooks(hooks) => self.hooks = hooks,
            Change::OvsPort(nic, port) => self.set_ovs(nic, port.map(|port| *port)),
            Change::OvsPorts(ports) => {
                let gone: Vec<Uuid> = self.ovs.keys().filter(|nic| !ports.contains_key(*nic)).copied().collect();
                gone.into_iter().for_each(|nic| self.set_ovs(nic, None));
                ports.into_iter().for_each(|(nic, port)| self.set_ovs(nic, Some(port)));
            }
            Change::Snapshot(observed) => *self = *observed,
        }
    }
}

/// A link of ours as it is when it was just made.
fn made_link(index: Index, name: String, kind: LinkKind, mtu: u32, mark: Mark) -> Link {
    Link {
        index,
        name,
        kind,
        mac: None,
        mtu,
        up: false,
        controller: None,
        lower: None,
        mode: None,
        all_multicast: false,
        carrier: true,
        state: OperState::Unknown,
        mark: Some(mark),
        group: GROUP_LIVE,
        bridge: None,
        bond: None,
        tag: None,
        port: None,
        vlan: VlanState::default(),
    }
}

/// The same of a macvlan or macvtap.
fn on_device(index: Index, kind: LinkKind, spec: &MacvlanSpec) -> Link {
    Link {
        mac: Some(spec.mac),
        lower: Some(spec.lower),
        mode: Some(spec.mode),
        all_multicast: true,
        ..made_link(index, spec.name.to_string(), kind, spec.mtu, spec.mark)
    }
}

fn set_link(link: &mut Link, change: &LinkChange, all: &[Option<Index>]) {
    if let Some(up) = change.up {
        link.up = up;
    }
    if let Some(mtu) = change.mtu {
        link.mtu = mtu;
    }
    if let Some(all) = change.all_multicast {
        link.all_multicast = all;
    }
    if let Some(mac) = change.mac {
        link.mac = Some(mac);
    }
    if let Some(controller) = change.controller {
        link.controller = controller.and_then(|c| resolve(c, all));
        link.port = link.controller.map(|_| PortFlags::NEW);
    }
}
