//! Changes of the parts that are replaced as a whole: the bridge, the domain, an address, and where a network forwards
//! to. libvirt knows these sections and refuses all changes of them.

use super::{Do, UpdateCommand, change};
use crate::model::{Forward, ForwardMode, Network};
use crate::xml::forward::{read_forward_element, read_pf};
use crate::xml::ip::read_ip;
use crate::xml::network::{read_bridge_element, read_domain};
use crate::xml::parts::read_bandwidth_element;
use crate::{Error, ErrorKind, Result};

impl Network {
    /// A bridge whose name is left out keeps it; all else is as if it had been defined so.
    pub(super) fn update_bridge(&mut self, command: UpdateCommand, fragment: &str) -> Result<()> {
        if command != Do::Modify {
            let cause = "a network's bridge can be modified, and neither added nor deleted";
            return Err(self.refusal(ErrorKind::Unsupported, cause).hint("define the network anew"));
        }
        let mode = self.forward.mode;
        let mut bridge = self.read(fragment, "bridge", |c| read_bridge_element(c, mode))?;
        if let Some(pattern) = &bridge.pattern {
            let cause = format!("'{pattern}' is a pattern for a name, and the bridge has one");
            return Err(self.refusal(ErrorKind::InvalidArgument, cause).field("<bridge name>").hint("leave it out"));
        }
        if bridge.name.is_none() {
            bridge.name = self.bridge.name.clone();
            bridge.pattern = self.bridge.pattern.clone();
        }
        self.bridge = bridge;
        Ok(())
    }

    pub(super) fn update_domain(&mut self, command: UpdateCommand, fragment: &str) -> Result<()> {
        let domain = self.read(fragment, "domain", read_domain)?;
        let there = self.domain.as_ref();
        match (command, there) {
            (Do::AddFirst | Do::AddLast, Some(there)) => Err(self.exists(&format!("a domain, '{}',", there.name))),
            (Do::Modify, None) => Err(self.not_found("domain")),
            (Do::Delete, there) if there.is_none_or(|there| there.name != domain.name) => {
                Err(self.not_found(&format!("domain '{}'", domain.name)))
            }
            _ => {
                self.domain = (command != Do::Delete).then_some(domain);
                Ok(())
            }
        }
    }

    /// There is one or none, so that any fragment deletes it.
    pub(super) fn update_bandwidth(&mut self, command: UpdateCommand, fragment: &str) -> Result<()> {
        let bandwidth = self.read(fragment, "bandwidth", |c| read_bandwidth_element(c, false))?;
        match (command, &self.bandwidth) {
            (Do::AddFirst | Do::AddLast, Some(_)) => Err(self.exists("a <bandwidth>")),
            (Do::Modify, None) => Err(self.not_found("<bandwidth>").hint("add one")),
            (Do::Delete, None) => Err(self.not_found("<bandwidth>")),
            _ => {
                self.bandwidth = bandwidth.filter(|_| command != Do::Delete).map(|(bandwidth, _)| bandwidth);
                Ok(())
            }
        }
    }

    /// The one of that number is meant, or the one with the fragment's address.
    pub(super) fn update_ip(&mut self, command: UpdateCommand, parent: Option<u32>, fragment: &str) -> Result<()> {
        let ip = self.read(fragment, "ip", read_ip)?;
        let same_address = self.ips.iter().position(|there| there.address == ip.address);
        let found = match (command, parent) {
            (Do::AddFirst | Do::AddLast, _) | (_, None) => same_address,
            (Do::Modify, Some(number)) => Some(self.ip_number(number)?),
            (Do::Delete, Some(number)) => {
                Some(self.ip_number(number)?).filter(|at| self.ips[*at].address == ip.address)
            }
        };
        let what = format!("host address {}", ip.address);
        self.check_found(command, found, &what).map_err(|error| match (command, found) {
            (Do::Modify, None) => error.hint("to change an address, give the number of its <ip>, counted from 0"),
            _ => error,
        })?;
        change(&mut self.ips, command, found, ip);
        Ok(())
    }

    /// What a network without a mode forwards to is nothing.
    pub(super) fn update_forward(&mut self, command: UpdateCommand, fragment: &str) -> Result<()> {
        let (forward, named) = self.read(fragment, "forward", |c| {
            Ok((read_forward_element(c)?, c.attr("mode").is_some_and(|m| !m.is_empty())))
        })?;
        let there = (self.forward.mode != ForwardMode::Isolated).then_some(self.forward.mode);
        let after = match (command, there) {
            (Do::AddFirst | Do::AddLast, Some(there)) => {
                return Err(self.exists(&format!("a <forward>, of mode '{}',", there.as_str().unwrap_or_default())));
            }
            (Do::Modify, None) => return Err(self.not_found("<forward>").hint("add one")),
            (Do::Delete, there) if there.is_none_or(|there| named && there != forward.mode) => {
                let mode = forward.mode.as_str().unwrap_or_default();
                return Err(self.not_found(&format!("<forward> of mode '{mode}'")));
            }
            (Do::Delete, _) => Forward::default(),
            _ => forward,
        };
        if after.mode.has_own_bridge() != self.forward.mode.has_own_bridge() {
            let bridge = |mode: ForwardMode| if mode.has_own_bridge() { "a bridge of its own" } else { "none" };
            let mode = |mode: ForwardMode| mode.as_str().unwrap_or("none");
            let (from, to) = (self.forward.mode, after.mode);
            let cause = format!(
                "a network of mode '{}' has {}, and one of mode '{}' has {}",
                mode(from),
                bridge(from),
                mode(to),
                bridge(to)
            );
            return Err(self.refusal(ErrorKind::Unsupported, cause).field("<forward mode>").hint("define it anew"));
        }
        self.forward = after;
        Ok(())
    }

    pub(super) fn update_pf(&mut self, command: UpdateCommand, fragment: &str) -> Result<()> {
        let pf = self.read(fragment, "pf", read_pf)?;
        if self.forward.mode.has_own_bridge() {
            let mode = self.forward.mode.as_str().unwrap_or("none");
            return Err(self.refusal(ErrorKind::InvalidState, format!("forward mode '{mode}' takes no <pf>")));
        }
        match (command, &self.forward.pf) {
            (Do::AddFirst | Do::AddLast, Some(there)) => Err(self.exists(&format!("a <pf>, {there},"))),
            (Do::Modify, None) => Err(self.not_found("<pf>")),
            (Do::Delete, there) if *there != Some(pf.clone()) => Err(self.not_found(&format!("<pf> {pf}"))),
            _ => {
                self.forward.pf = (command != Do::Delete).then_some(pf);
                Ok(())
            }
        }
    }

    /// The place of the `<ip>` of that number.
    pub(super) fn ip_number(&self, number: u32) -> Result<usize, Error> {
        usize::try_from(number).ok().filter(|n| *n < self.ips.len()).ok_or_else(|| {
            let cause = format!("there is no <ip> number {number}: the network has {}", self.ips.len());
            self.refusal(ErrorKind::InvalidState, cause).hint("they are counted from 0")
        })
    }
}
