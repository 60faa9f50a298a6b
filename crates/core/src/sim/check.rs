//! Whether what is there is what was asked for.

use super::Host;
use crate::engine::RecordKey;
use crate::intent::{Claim, NicIntent};
use crate::model::Rate;
use crate::plan::desired::DesiredNic;
use crate::plan::rates::Shape;
use crate::plan::{
    DesiredMacvtap, Link, LinkKind, MacvlanSpec, MarkKind, OvsState, Plug, Sysctl, claim, desired, diff, dnsmasq, nft,
    plug, rates, shape,
};
use crate::pool::Device;
use crate::{plan, xml};
use std::collections::BTreeSet;
use uuid::Uuid;

impl Host {
    /// Everything that is not as it should be, for people. Empty on a host that has come to rest.
    pub fn check(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let intent = self.engine.intent();
        let kernel = &self.kernel;
        let mut expected = BTreeSet::new();
        for (uuid, network) in intent.networks() {
            let name = network.current().map(|n| n.name.to_string()).unwrap_or_default();
            let desired = desired::network(intent, uuid);
            // One that others made stays behind.
            let claimed = kernel.link_marked(MarkKind::Bridge, uuid).is_some_and(Link::is_claimed);
            if desired.bridge.is_some() || claimed {
                expected.insert((MarkKind::Bridge, uuid));
            }
            let mut plan = crate::plan::Plan::default();
            let _ = diff::network(&mut plan, (intent.instance, uuid), &desired, kernel, None);
            let rates = rates::of_network(intent, kernel, uuid);
            shape::network(&mut plan, (intent.instance, uuid), &rates, kernel);
            if rates.incoming != rates::Incoming::Free && rates.incoming.police().is_none() {
                expected.insert((MarkKind::NetworkIfb, uuid));
            }
            wrong.extend(plan.steps.iter().map(|s| format!("network {name}: {}", s.op)));
            let served = network.active.as_ref().is_some_and(dnsmasq::Config::needed);
            if served != kernel.services.contains_key(&uuid) {
                wrong.push(format!("network {name}: dnsmasq runs: {}", !served));
            }
            let state = |active| xml::write_network_state(&self.config.stamp, active);
            for (content, key) in [
                (network.definition.as_ref().map(xml::write_network), RecordKey::Definition(name.clone())),
                (network.active.as_ref().map(state), RecordKey::Network(name.clone())),
                (network.autostart.then(String::new), RecordKey::Autostart(name.clone())),
            ] {
                let there = self.records.get(&key);
                if content.as_ref() != there {
                    wrong.push(format!("record {key:?} is {there:?}"));
                }
            }
        }
        let gone = self.kept.iter().filter(|nic| intent.nic(**nic).is_none());
        wrong.extend(gone.map(|nic| format!("the daemon has descriptors of NIC {nic}, which is gone")));
        let mut on_ovs = BTreeSet::new();
        for nic in intent.nics() {
            expected.insert((MarkKind::Tap, nic.id));
            let desired = desired::nic(intent, kernel, nic.id);
            let mut plan = crate::plan::Plan::default();
            if nic.is_port() {
                claim::limits(&mut plan, intent, kernel, nic, self.config.shapes_ports);
                expected.extend(self.check_ports_rates(nic, &mut wrong));
            } else {
                plug::nic(&mut plan, nic.id, desired.as_ref(), kernel);
            }
            wrong.extend(plan.steps.iter().map(|s| format!("NIC {}: {}", nic.id, s.op)));
            let tap = kernel.link_marked(MarkKind::Tap, nic.id);
            let ifb = |plug: &Plug| match plug {
                Plug::Bridge { .. } => true,
                Plug::Macvtap(_) => tap.is_some(),
                Plug::Cord(_) | Plug::Ovs(_) | Plug::Nothing(_) => false,
            };
            if let Some(DesiredNic { plug, rates, .. }) = &desired
                && ifb(plug)
                && !rates.incoming.classes().is_empty()
            {
                expected.insert((MarkKind::Ifb, nic.id));
                let ifb = kernel.link_marked(MarkKind::Ifb, nic.id).map(|l| l.index);
                let to = tap.and_then(|tap| kernel.redirects.get(&tap.index)).copied();
                if to != Some(ifb) {
                    wrong.push(format!("what comes in at the link of NIC {} goes to {to:?}, not to {ifb:?}", nic.id));
                }
            }
            match desired.map(|d| d.plug) {
                Some(Plug::Bridge { controller, vlans, .. }) => {
                    let there = tap.map(|l| kernel.vlans_of(l));
                    let apart = kernel.link(controller).is_some_and(|l| l.vlan.filtering);
                    if there.as_ref() != Some(&vlans) || (nic.nic.vlan.is_some() && !apart) {
                        wrong.push(format!("NIC {} is in {there:?}, not in {vlans:?}; apart: {apart}", nic.id));
                    }
                    let there = tap.and_then(|l| l.controller);
                    if there != Some(controller) {
                        wrong.push(format!("NIC {} is in {there:?}, not in {controller:?}", nic.id));
                    }
                }
                Some(Plug::Cord(spec)) => {
                    expected.insert((MarkKind::Macvlan, nic.id));
                    wrong.extend(self.check_cord(nic.id, tap, &spec));
                }
                Some(Plug::Ovs(bridge)) => {
                    let (is, wanted) = (self.port(nic.id), self.engine.wanted_port(nic.id));
                    let wanted = wanted.map(|(bridge, port)| OvsState::of(&bridge, &port, self.config.instance));
                    if is != wanted || wanted.is_none() {
                        wrong.push(format!("NIC {} is on {bridge} as {is:?}, not {wanted:?}", nic.id));
                    }
                    on_ovs.insert(nic.id);
                }
                Some(Plug::Macvtap(wanted)) => wrong.extend(check_macvtap(nic.id, tap, &wanted)),
                Some(Plug::Nothing(_)) | None => {}
            }
            if nic.port == Some(Claim::Bound) {
                let mut plan = crate::plan::Plan::default();
                claim::steps(&mut plan, intent, kernel, nic, claim::TakeBack { loose: true, left: None });
                wrong.extend(plan.steps.iter().map(|s| format!("port {}: {}", nic.id, s.op)));
            }
            if !nic.confirmed {
                wrong.push(format!("NIC {} was never confirmed", nic.id));
            }
            if nic.owner.is_some_and(|o| !self.processes.contains(&o)) {
                wrong.push(format!("NIC {} outlives its owner", nic.id));
            }
        }
        wrong.extend(self.check_pool());
        wrong.extend(self.check_taps_of_nobody());
        for key in self.records.keys() {
            let known = match key {
                RecordKey::Nic(id) => intent.nic(*id).is_some(),
                RecordKey::PendingNic(_) => false,
                RecordKey::Association(id) => plan::association(intent, kernel, *id).is_some(),
                RecordKey::Network(name) => {
                    intent.networks().any(|(_, n)| n.active.as_ref().is_some_and(|a| a.name.as_str() == name))
                }
                _ => true,
            };
            if !known {
                wrong.push(format!("record {key:?} belongs to nothing"));
            }
        }
        for link in kernel.links().filter(|l| !l.is_doomed()) {
            if let Some(mark) = link.mark.filter(|m| !expected.contains(&(m.kind, m.id))) {
                wrong.push(format!("link {} belongs to nothing: {mark}", link.name));
            }
        }
        for known in kernel.ovs.iter().filter(|(id, _)| !on_ovs.contains(*id)).map(|(_, known)| known) {
            wrong.push(format!("port {} belongs to nothing", known.name));
        }
        wrong.extend(self.check_switch());
        for (uuid, service) in &kernel.services {
            if intent.network(*uuid).is_none_or(|n| n.active.is_none()) {
                wrong.push(format!("dnsmasq {} belongs to nothing", service.pid));
            }
        }
        let wanted: nft::Intent =
            intent.networks().filter_map(|(uuid, _)| desired::network(intent, uuid).rules).collect();
        match nft::diff(&kernel.nft, &wanted, nft::Scope::Whole, intent.instance) {
            Ok(change) if !change.is_empty() => wrong.push(format!("packet rules: {change}")),
            Ok(_) => {}
            Err(foreign) => wrong.push(foreign.to_string()),
        }
        let needed = intent.routed();
        for (sysctl, users) in [(Sysctl::Ipv4Forward, needed.v4), (Sysctl::Ipv6Forward, needed.v6)] {
            let on = kernel.sysctls.get(&sysctl).map(String::as_str) == Some("1");
            if on != (users > 0) {
                wrong.push(format!("{} is on: {on}, with {users} users", sysctl.name()));
            }
        }
        wrong
    }

    /// Whether a port's tap has its rates, where they are ours to see to; gives the ifb that this takes.
    fn check_ports_rates(&self, port: &NicIntent, wrong: &mut Vec<String>) -> Option<(MarkKind, Uuid)> {
        let (intent, kernel) = (self.engine.intent(), &self.kernel);
        let tap = claim::claimed(intent, kernel, port).filter(|link| link.kind == LinkKind::Tap)?.index;
        let shape = kernel.shapes.get(&tap).cloned().unwrap_or_default();
        let ours = self.config.shapes_ports && rates::at_ports_tap(intent, port) && !shape.others;
        let bandwidth = desired::merged(intent, port).ok().and_then(|m| m.bandwidth).filter(|_| ours);
        let bytes = |rate: Option<Rate>| rate?.average.map(|kib| kib * 1024);
        let wanted = (bytes(bandwidth.as_ref().and_then(|b| b.inbound)), bytes(bandwidth.and_then(|b| b.outbound)));
        let ifb = kernel.redirects.get(&tap).map(|to| to.and_then(|to| kernel.shapes.get(&to)));
        let rate = |shape: &Shape| shape.classes.get(&rates::FIRST).map(|class| class.limit.rate);
        let from =
            shape.police.map(|police| police.rate).or_else(|| ifb??.classes.get(&rates::FIRST).map(|c| c.limit.rate));
        if (rate(&shape), from) != wanted {
            wrong.push(format!("the tap of port {} has {:?}, not {wanted:?}", port.id, (rate(&shape), from)));
        }
        ifb.map(|_| (MarkKind::Ifb, port.id))
    }

    /// Whether taps of others that are no port's have limits of ours.
    fn check_taps_of_nobody(&self) -> Vec<String> {
        let (intent, kernel) = (self.engine.intent(), &self.kernel);
        let ours = |shape: &Shape| !shape.classes.is_empty() || shape.police.is_some();
        let limited = kernel.shapes.iter().filter(|(_, shape)| ours(shape)).map(|(index, _)| index);
        let links = limited.chain(kernel.redirects.keys()).filter_map(|index| kernel.link(*index));
        let claimed = |link: &Link| {
            let mut ports = intent.nics().filter(|nic| nic.is_port());
            ports.any(|port| claim::claimed(intent, kernel, port).is_some_and(|tap| tap.index == link.index))
        };
        let nobodys = links.filter(|link| link.mark.is_none() && !(self.config.shapes_ports && claimed(link)));
        nobodys.map(|link| format!("{} has limits of ours", link.name)).collect()
    }

    /// Whether each device is held by those NICs that have it, and by no others.
    fn check_pool(&self) -> Vec<String> {
        let intent = self.engine.intent();
        let usage = intent.pool().usage();
        let held: BTreeSet<(Device, Uuid)> =
            usage.flat_map(|of| of.holders.iter().map(|id| (of.device.clone(), *id)).collect::<Vec<_>>()).collect();
        let nics = intent.nics().chain(intent.reservations());
        let has = nics.filter_map(|nic| Some((nic.allocation.as_ref()?.device(), nic.id))).collect();
        held.symmetric_difference(&has).map(|(device, id)| format!("{device} is held by {id}, or not")).collect()
    }

    /// Whether a NIC's tap and its one macvlan are joined in both directions.
    fn check_cord(&self, nic: Uuid, tap: Option<&Link>, spec: &MacvlanSpec) -> Option<String> {
        let kernel = &self.kernel;
        let ends: Vec<&Link> = kernel.links_marked(MarkKind::Macvlan, nic).collect();
        let ([end], Some(tap)) = (&ends[..], tap) else {
            return Some(format!("NIC {nic} has {} macvlans, and a tap: {}", ends.len(), tap.is_some()));
        };
        let there = kernel.redirects.get(&tap.index) == Some(&Some(end.index));
        let back = kernel.redirects.get(&end.index) == Some(&Some(tap.index));
        let same = (end.lower, end.mode, end.mac) == (Some(spec.lower), Some(spec.mode), Some(spec.mac));
        let whole = there && back && same && end.up && tap.up && tap.controller.is_none();
        (!whole).then(|| format!("the cord of NIC {nic} is not whole: {tap:?} {end:?}"))
    }
}

/// Whether a NIC that is a macvtap has one, as its device and network want it.
fn check_macvtap(nic: Uuid, link: Option<&Link>, wanted: &DesiredMacvtap) -> Option<String> {
    let right = match (link, &wanted.spec) {
        (None, spec) => spec.is_none(),
        (Some(link), None) => link.kind == LinkKind::Macvtap && !link.up,
        (Some(link), Some(spec)) => {
            let same =
                (link.lower, link.mode, link.mac) == (Some(spec.link.lower), Some(spec.link.mode), Some(spec.link.mac));
            link.kind == LinkKind::Macvtap && same && link.all_multicast && link.up == wanted.unplugged.is_none()
        }
    };
    (!right).then(|| format!("the macvtap of NIC {nic} is {link:?}, not {wanted:?}"))
}
