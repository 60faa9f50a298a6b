//! Whether what is there is what was asked for.

use super::Host;
use crate::engine::RecordKey;
use crate::plan::{MarkKind, Plug, Sysctl, desired, diff, dnsmasq, nft};
use std::collections::BTreeSet;

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
            if desired.bridge.is_some() {
                expected.insert((MarkKind::Bridge, uuid));
            }
            let mut plan = crate::plan::Plan::default();
            let _ = diff::network(&mut plan, (intent.instance, uuid), &desired, kernel, None);
            wrong.extend(plan.steps.iter().map(|s| format!("network {name}: {}", s.op)));
            let served = network.active.as_ref().is_some_and(dnsmasq::Config::needed);
            if served != kernel.services.contains_key(&uuid) {
                wrong.push(format!("network {name}: dnsmasq runs: {}", !served));
            }
            for (there, key) in [
                (network.definition.is_some(), RecordKey::Definition(name.clone())),
                (network.active.is_some(), RecordKey::Network(name.clone())),
                (network.autostart, RecordKey::Autostart(name.clone())),
            ] {
                if there != self.records.contains_key(&key) {
                    wrong.push(format!("record {key:?} is there: {}", !there));
                }
            }
        }
        for nic in intent.nics() {
            expected.insert((MarkKind::Tap, nic.id));
            let desired = desired::nic(intent, kernel, nic.id);
            let mut plan = crate::plan::Plan::default();
            diff::nic(&mut plan, nic.id, desired.as_ref(), kernel);
            wrong.extend(plan.steps.iter().map(|s| format!("NIC {}: {}", nic.id, s.op)));
            if let Some(Plug::Bridge { controller, .. }) = desired.map(|d| d.plug) {
                let there = kernel.link_marked(MarkKind::Tap, nic.id).and_then(|l| l.controller);
                if there != Some(controller) {
                    wrong.push(format!("NIC {} is in {there:?}, not in {controller:?}", nic.id));
                }
            }
            if !nic.confirmed {
                wrong.push(format!("NIC {} was never confirmed", nic.id));
            }
            if nic.owner.is_some_and(|o| !self.processes.contains(&o)) {
                wrong.push(format!("NIC {} outlives its owner", nic.id));
            }
        }
        for key in self.records.keys() {
            let known = match key {
                RecordKey::Nic(id) => intent.nic(*id).is_some(),
                RecordKey::PendingNic(_) => false,
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
}
