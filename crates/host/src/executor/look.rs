//! Looks at what the watcher heard: reads the object, and reports it when it is not what is believed.

use std::sync::atomic::Ordering;
use std::time::Instant;

use patchcord_core::plan::rates::{Classes, Shape};
use patchcord_core::plan::{Change, Index, Link, Sysctl};

use super::{ExecutorReport, Heard, Worker};
use crate::hints::Hint;
use crate::nft::same;
use crate::{Result, observe, shaping, vlan};

impl Worker {
    /// Looks at an object.
    pub(super) fn look_paced(&mut self, hint: Hint) {
        let heavy = self.stale || matches!(hint, Hint::Routes | Hint::Functions | Hint::Rules(_) | Hint::Everything(_));
        let begun = Instant::now();
        if heavy {
            self.load.fetch_add(1, Ordering::AcqRel);
        }
        if let Err(error) = self.look(hint) {
            self.trouble("the kernel can't be read", &error);
        }
        if heavy {
            self.done();
            self.pace.heavy(begun, Instant::now());
        }
    }

    /// Reads what a hint is about, and reports it when it is not what is believed.
    pub(super) fn look(&mut self, hint: Hint) -> Result<()> {
        if self.stale {
            self.snapshot(false);
            return Ok(());
        }
        match hint {
            Hint::Everything(reason) => {
                self.report(ExecutorReport::Trouble(format!("everything is read again: {reason}")));
                self.snapshot(false);
            }
            Hint::Link(index, told) => self.look_at_link(Index(index), told.as_deref())?,
            Hint::Addresses(index) => {
                let index = Index(index);
                let now = observe::read_addresses(&mut self.kernel.route, index)?;
                if !self.kernel.observed().addresses(index).eq(now.iter().copied()) {
                    self.changed(Change::Addresses(index, now));
                    // An address takes its routes along, and not all of that is announced.
                    self.hints.add_routes();
                }
            }
            Hint::Traffic(index) => {
                let link = self.kernel.observed().link(Index(index));
                if let Some(link) = link.filter(|link| shaping::may_be_limited(link)).cloned() {
                    self.look_at_traffic(&link)?;
                }
            }
            Hint::Routes => self.look_at_routes()?,
            Hint::Functions => {
                self.report(ExecutorReport::Heard(Heard::Devices));
                let now = self.kernel.sriov.all()?;
                if now != self.kernel.observed().functions {
                    self.changed(Change::Functions(now));
                }
            }
            Hint::Settings => self.look_at_settings()?,
            Hint::Rules(who) => self.look_at_rules(who)?,
        }
        Ok(())
    }

    pub(super) fn look_for(&mut self, name: &str) -> Result<()> {
        let found = self.kernel.route.link_by_name(name)?;
        match found {
            Some(link) => self.look_at_link(Index(link.index), Some(&link)),
            None => Ok(()),
        }
    }

    fn look_at_link(&mut self, index: Index, told: Option<&patchcord_netlink::Link>) -> Result<()> {
        let believed = self.kernel.observed().link(index);
        // Should it be different by now, another announcement is on its way.
        if told.is_some_and(|told| believed == Some(&observe::link(told))) {
            let name = believed.filter(|link| !link.is_doomed()).map(|link| link.name.clone());
            self.report(ExecutorReport::Heard(Heard::Link(index.0, name)));
            return Ok(());
        }
        let was_up = believed.is_some_and(|link| link.up);
        let known = believed.cloned();
        let now = self.kernel.read_link(index)?;
        let name = now.as_ref().filter(|link| !link.is_doomed()).map(|link| link.name.clone());
        self.report(ExecutorReport::Heard(Heard::Link(index.0, name)));
        if known.is_none() && now.as_ref().is_some_and(|link| link.is_doomed()) {
            return Ok(());
        }
        self.look_at_names(known.as_ref(), now.as_ref());
        let vlan = |link: &Option<Link>| link.as_ref().map(|link| link.vlan).unwrap_or_default();
        let other_vlans = vlan(&known) != vlan(&now);
        if known != now {
            if was_up && now.as_ref().is_none_or(|link| !link.up) {
                // The kernel announces no IPv4 routes that go with a link.
                self.hints.add_routes();
            }
            self.changed(Change::Link(index, now));
        }
        // A bridge announces its ports' VLANs with what it tells of a port, and that is never all about a link.
        if other_vlans {
            self.look_at_ports(index);
            return Ok(());
        }
        self.look_at_vlans(index)
    }

    /// A link that came, went or got another name may be a physical or virtual function's.
    fn look_at_names(&self, known: Option<&Link>, now: Option<&Link>) {
        let (old, new) = (known.map(|link| &link.name), now.map(|link| &link.name));
        if old == new {
            return;
        }
        let functions = &self.kernel.observed().functions;
        let concerned = |name: &String| functions.names(name) || self.kernel.sriov.has_device(name);
        if old.into_iter().chain(new).any(concerned) {
            self.hints.add_functions();
        }
    }

    /// What ports are in counts again, or counts for the first time.
    pub(super) fn look_at_ports(&mut self, bridge: Index) {
        let ports: Vec<Index> = self.kernel.observed().ports_of(bridge).map(|port| port.index).collect();
        for link in ports.into_iter().chain([bridge]) {
            if let Err(error) = self.look_at_vlans(link) {
                self.trouble("VLANs can't be read", &error);
            }
        }
    }

    /// Reads the VLANs of a port or bridge, where they count.
    fn look_at_vlans(&mut self, index: Index) -> Result<()> {
        let observed = self.kernel.observed();
        let Some(link) = observed.link(index) else { return Ok(()) };
        if observed.bridge_of(link).is_none_or(|bridge| !bridge.vlan.filtering) {
            return Ok(());
        }
        let believed = observed.vlans_of(link);
        if let Some(now) = vlan::read(&mut self.kernel.route, index)?.filter(|now| *now != believed) {
            self.changed(Change::Vlans(index, now));
        }
        Ok(())
    }

    /// Only a link that we gave classes has any of ours.
    fn look_at_traffic(&mut self, link: &Link) -> Result<()> {
        let incoming = shaping::read_incoming(&mut self.kernel.route, link, self.kernel.instance)?;
        if self.kernel.observed().redirects.get(&link.index) != incoming.redirect.as_ref() {
            self.changed(Change::Redirect(link.index, incoming.redirect));
        }
        let believed = self.kernel.observed().shapes.get(&link.index).cloned().unwrap_or_default();
        let classes = match &believed.classes {
            none if none.is_empty() => Classes::new(),
            _ => shaping::read_classes(&mut self.kernel.route, link.index)?,
        };
        let limited = incoming.is_others(self.kernel.observed().shaping);
        let others = shaping::is_others_tap(link) && (limited || self.kernel.has_others_root(link.index)?);
        let now = Shape { classes, police: incoming.police, others };
        if now != believed {
            self.changed(Change::Shape(link.index, now));
        }
        Ok(())
    }

    fn look_at_routes(&mut self) -> Result<()> {
        let now = observe::read_routes(&mut self.kernel.route)?;
        if !self.kernel.observed().routes().eq(now.iter()) {
            self.changed(Change::Routes(now));
        }
        // A link that gets its default route from a router's advertisement is to keep it.
        for setting in observe::router_settings(self.kernel.observed()) {
            if !self.kernel.observed().sysctls.contains_key(&setting)
                && let Some(value) = observe::read_sysctl(&setting)?
            {
                self.changed(Change::Sysctl(setting, Some(value)));
            }
        }
        Ok(())
    }

    fn look_at_settings(&mut self) -> Result<()> {
        for setting in [Sysctl::Ipv4Forward, Sysctl::Ipv6Forward] {
            let now = observe::read_sysctl(&setting)?;
            if self.kernel.observed().sysctls.get(&setting) != now.as_ref() {
                self.changed(Change::Sysctl(setting, now));
            }
        }
        Ok(())
    }

    /// Somebody else changed the ruleset, though maybe not our part of it.
    fn look_at_rules(&mut self, who: Option<String>) -> Result<()> {
        let now = self.kernel.read_nft()?;
        if !same(&now, &self.kernel.observed().nft) {
            self.changed(Change::Nft(now, who));
        }
        let found = self.kernel.foreign_firewalls()?;
        if found != self.firewalls {
            self.firewalls.clone_from(&found);
            self.report(ExecutorReport::Firewalls(found));
        }
        Ok(())
    }
}
