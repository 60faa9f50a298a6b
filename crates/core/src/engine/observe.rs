//! Which objects a change concerns. They are looked at again; nothing else is.

use super::effect::{DeviceEvent, Effect, Event, LeaseEvent, NicEvent};
use super::{Engine, Object, view};
use crate::intent::NetworkIntent;
use crate::model::LinkName;
use crate::plan::nft::foreign::ForeignFirewall;
use crate::plan::{Change, Index, Link, LinkKind, Mark, MarkKind};
use crate::pool::Device;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

impl Engine {
    /// Takes on what was read, and looks at the objects that it concerns.
    pub(super) fn observe(&mut self, change: Change) {
        if let Change::Link(index, Some(link)) = &change
            && self.observed.link(*index).is_some_and(|before| before.is_but_for_state(link))
        {
            return self.observed.take(change);
        }
        self.follow_renamed_ports(&change);
        let mut concerned = BTreeSet::new();
        self.concerned_by_limits(&change, &mut concerned);
        match &change {
            Change::Link(index, link) => self.concerned_by_link(*index, link.as_ref(), &mut concerned),
            Change::Addresses(index, _)
            | Change::Redirect(index, _)
            | Change::Vlans(index, _)
            | Change::Shape(index, _) => concerned.extend(self.object_of_link(*index)),
            Change::Routes(routes) => {
                let lost = self.observed.routes().filter(|r| !routes.contains(*r)).map(|r| r.link);
                concerned.extend(lost.filter_map(|link| self.object_of_link(link)));
            }
            Change::Nft(table, who) => {
                if *table != self.observed.nft {
                    self.culprit.clone_from(who);
                    concerned.insert(Object::Host);
                }
            }
            Change::Sysctl(sysctl, _) => {
                use crate::plan::Sysctl;
                let link = match sysctl {
                    Sysctl::AcceptRa(link) | Sysctl::DisableIpv6(link) | Sysctl::Autoconf(link) => link,
                    Sysctl::Ipv4Forward | Sysctl::Ipv6Forward => {
                        concerned.insert(Object::Host);
                        ""
                    }
                };
                let index = self.observed.link_named(link).map(|l| l.index);
                concerned.extend(index.and_then(|i| self.object_of_link(i)));
            }
            Change::Service(network, _) => {
                concerned.insert(Object::Network(*network));
            }
            Change::Leases(network, leases) => self.publish_leases(*network, leases),
            Change::Resolvers(_) => {
                concerned.extend(self.observed.services.keys().map(|uuid| Object::Network(*uuid)));
            }
            Change::Firewalls(found) => {
                self.publish_firewalls(&found.dropping);
                if found.firewalld != self.observed.firewalls.firewalld {
                    concerned.extend(self.observed.zones.keys().map(|uuid| Object::Network(*uuid)));
                }
            }
            Change::Hooks(hooks) => self.hooks_changed(hooks),
            Change::OvsPort(nic, port) => self.port_seen(*nic, port.as_deref(), &mut concerned),
            Change::OvsPorts(ports) => self.ports_seen(ports, &mut concerned),
            Change::Functions(_) | Change::Snapshot(_) | Change::Shaping(_) => {}
        }
        let everything = matches!(change, Change::Snapshot(_));
        let uplinks = self.is_about_uplinks(&change);
        let macvtaps = self.macvtaps(&change);
        let devices = self.may_be_had_after(&change);
        let functions =
            matches!(change, Change::Functions(_) | Change::Snapshot(_)).then(|| self.observed.functions.clone());
        self.observed.take(change);
        if let Some(before) = functions.filter(|before| *before != self.observed.functions) {
            self.functions_changed(&before, &mut concerned);
        }
        devices.iter().for_each(|device| self.offer(device));
        for nic in macvtaps {
            // Where no other is made nothing is done that would be told of.
            if self.observed.link_marked(MarkKind::Tap, nic).is_none() {
                self.publish_nic(nic, Some(NicEvent::Unplugged));
            }
        }
        if everything {
            self.look_at_everything();
            return self.start_those_that_waited();
        }
        if uplinks && self.uplinks_differ() {
            concerned.insert(Object::Host);
        }
        for object in concerned {
            self.advance(object);
        }
        self.culprit = None;
        self.start_those_that_waited();
    }

    /// The NICs whose macvtap may go with this change.
    fn macvtaps(&self, change: &Change) -> Vec<Uuid> {
        let nic = |link: &Link| link.mark.filter(|m| m.kind == MarkKind::Tap && !link.is_doomed()).map(|m| m.id);
        let macvtap = |link: &&Link| link.kind == LinkKind::Macvtap;
        match change {
            Change::Link(index, None) => self.observed.link(*index).filter(macvtap).and_then(nic).into_iter().collect(),
            Change::Snapshot(_) => self.observed.links().filter(macvtap).filter_map(nic).collect(),
            _ => Vec::new(),
        }
    }

    /// Tells the watchers of firewalls that are new and would drop guests' traffic, while there are guests to suffer.
    fn publish_firewalls(&mut self, found: &[ForeignFirewall]) {
        if self.intent.networks().all(|(_, n)| n.active.is_none()) {
            return;
        }
        let new = found.iter().filter(|f| !self.observed.firewalls.dropping.contains(f));
        let events: Vec<_> = new
            .map(|f| Event::Drift {
                object: "the host's firewall".into(),
                what: f.to_string(),
                culprit: Some(f.owner.to_string()),
                repaired: false,
            })
            .map(Effect::Publish)
            .collect();
        self.out.extend(events);
    }

    /// Everything was read anew: every object is looked at.
    pub(super) fn look_at_everything(&mut self) {
        self.offer_all();
        self.advance(Object::Host);
        // Services whose network was being stopped for good when the daemon died are in nobody's intent.
        let networks = self.intent.networks().map(|(uuid, _)| uuid);
        let networks: BTreeSet<Uuid> = networks.chain(self.observed.services.keys().copied()).collect();
        for uuid in networks {
            self.advance(Object::Network(uuid));
        }
        // Associations of NICs that are gone are to be ended, and their functions to be what they were.
        let nics = self.intent.nics().map(|n| n.id).chain(self.associations.keys().copied());
        let nics: BTreeSet<Uuid> = nics.chain(self.nics_with_functions()).collect();
        for id in nics {
            self.advance(Object::Nic(id));
        }
    }

    fn concerned_by_link(&mut self, index: Index, link: Option<&Link>, concerned: &mut BTreeSet<Object>) {
        let before = self.observed.link(index).cloned();
        let before = before.as_ref();
        for link in before.into_iter().chain(link) {
            concerned.extend(link.mark.filter(|m| m.instance == self.config.instance).map(object));
        }
        if let (Some(before), Some(link)) = (before, link)
            && let Some(mark) = link.mark.filter(|_| before.vlan != link.vlan)
        {
            // What is known of its ports' VLANs went with that.
            concerned.extend(self.intent.nics_of(mark.id).map(|nic| Object::Nic(nic.id)));
        }
        let named = |l: Option<&Link>| {
            l.filter(|l| l.mark.is_none() && l.kind == LinkKind::Bridge).map(|l| (l.name.clone(), l.vlan))
        };
        let (was, is) = (named(before), named(link));
        if was != is {
            // A host bridge came or went, or treats VLANs otherwise: whoever names it is concerned.
            for (bridge, _) in was.iter().chain(&is) {
                let Ok(bridge) = LinkName::new(bridge.as_str()) else { continue };
                concerned.extend(self.intent.nics_on_bridge(&bridge).map(|nic| Object::Nic(nic.id)));
            }
        }
        self.concerned_by_device(before, link, concerned);
        for foreign in before.into_iter().chain(link).filter(|l| l.mark.is_none()) {
            let Some(mac) = foreign.mac else { continue };
            match foreign.kind {
                LinkKind::Tap => concerned.extend(self.intent.ports_with_tap(mac).map(Object::Nic)),
                LinkKind::Macvtap => {
                    let ports = self.intent.nics_with(mac).filter(|nic| nic.is_port());
                    concerned.extend(ports.map(|nic| Object::Nic(nic.id)));
                }
                _ => {}
            }
        }
    }

    /// A link that is not ours came, went, or is different: NICs that sit on it are concerned, and watchers are told of
    /// the coming and going of what networks list and NICs hold.
    fn concerned_by_device(&mut self, before: Option<&Link>, now: Option<&Link>, concerned: &mut BTreeSet<Object>) {
        let foreign = |link: Option<&Link>| link.filter(|l| l.mark.is_none()).map(|l| (l.index, l.name.clone(), l.mtu));
        let (was, is) = (foreign(before), foreign(now));
        if was == is {
            return;
        }
        let name =
            |link: Option<&(Index, String, u32)>| link.and_then(|(_, name, _)| LinkName::new(name.as_str()).ok());
        let (old, new) = (name(was.as_ref()), name(is.as_ref()));
        for device in old.iter().chain(new.iter().filter(|_| old != new)) {
            let device = Device::Link(device.clone());
            concerned.extend(self.intent.nics_on_device(&device).map(|nic| Object::Nic(nic.id)));
        }
        if old != new {
            for (link, what) in [(old, DeviceEvent::Gone), (new, DeviceEvent::Appeared)] {
                if let Some(link) = link {
                    self.publish_device(&Device::Link(link), what);
                }
            }
        }
    }

    pub(super) fn publish_device(&mut self, device: &Device, what: DeviceEvent) {
        let networks: Vec<Uuid> = self.intent.pool().lists(device).collect();
        if networks.is_empty() && self.intent.pool().holders(device).next().is_none() {
            return;
        }
        let networks = networks.into_iter().filter_map(|uuid| self.intent.network(uuid)?.current());
        let networks = networks.map(|n| n.name.to_string()).collect();
        self.out.push(Effect::Publish(Event::Device { device: device.to_string(), networks, what }));
    }

    fn object_of_link(&self, index: Index) -> Option<Object> {
        let mark = self.observed.link(index)?.mark?;
        (mark.instance == self.config.instance).then(|| object(mark))
    }

    /// Networks that start by themselves and waited for a link that is there now, under whatever name it came, start. Nothing
    /// is under way for them: whoever decides about one meanwhile takes it out of those that wait.
    pub(super) fn start_those_that_waited(&mut self) {
        let waited = self.waiting_for_uplink.iter().filter(|(_, link)| self.observed.link_named(link).is_some());
        for uuid in waited.map(|(uuid, _)| *uuid).collect::<Vec<_>>() {
            self.waiting_for_uplink.remove(&uuid);
            self.try_autostart(uuid);
        }
    }

    /// Tells the watchers which leases came, changed and went.
    fn publish_leases(&mut self, uuid: Uuid, leases: &[crate::plan::dnsmasq::Lease]) {
        let Some(network) = self.intent.network(uuid).and_then(NetworkIntent::current) else { return };
        let views = |list: &[crate::plan::dnsmasq::Lease]| -> BTreeMap<_, _> {
            list.iter().map(|l| (l.ip, view::lease(&self.intent, network, uuid, l))).collect()
        };
        let before = views(self.observed.leases.get(&uuid).map(Vec::as_slice).unwrap_or_default());
        let now = views(leases);
        let added = now.iter().filter(|(ip, _)| !before.contains_key(*ip)).map(|(_, l)| (l, LeaseEvent::Added));
        let renewed = now.iter().filter(|(ip, l)| before.get(*ip).is_some_and(|b| b != *l));
        let removed = before.iter().filter(|(ip, _)| !now.contains_key(*ip)).map(|(_, l)| (l, LeaseEvent::Removed));
        let all = added.chain(renewed.map(|(_, l)| (l, LeaseEvent::Renewed))).chain(removed);
        let name = network.name.to_string();
        let events: Vec<_> = all
            .map(|(lease, what)| Event::Lease { network: name.clone(), lease: lease.clone(), what })
            .map(Effect::Publish)
            .collect();
        self.out.extend(events);
    }
}

/// The object that a marked link belongs to.
fn object(mark: Mark) -> Object {
    match mark.kind {
        MarkKind::Bridge | MarkKind::NetworkIfb => Object::Network(mark.id),
        MarkKind::Tap | MarkKind::Macvlan | MarkKind::Ifb => Object::Nic(mark.id),
    }
}
