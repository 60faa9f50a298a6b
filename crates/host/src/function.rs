//! Setting virtual functions for NICs and making them what they were, by their PF and by their driver: for a job's thread,
//! since a driver may take its time.

use std::path::Path;

use patchcord_core::model::{MacAddr, PciAddress};
use patchcord_core::plan::{Cable, FunctionBefore, FunctionSetup, FunctionVlan};
use patchcord_netlink::{Socket, VfChange, VfLinkState, VfVlan};

use crate::driver::Drivers;
use crate::sriov::{Sriov, VfPlace, program, restore};
use crate::{Error, Result};

/// Whoever sets virtual functions.
#[derive(Debug, Clone)]
pub struct FunctionSetter {
    sriov: Sriov,
    drivers: Drivers,
}

impl FunctionSetter {
    /// With sysfs at `ROOT/sys`; the root directory is normally `/`.
    pub fn new(root: &Path) -> Self {
        Self { sriov: Sriov::new(root), drivers: Drivers::new(root) }
    }

    /// What a function is set to.
    ///
    /// # Errors
    /// [`Error::VirtualFunction`] when there is no such function, [`Error::Netlink`], [`Error::File`].
    pub fn read(&self, address: PciAddress) -> Result<FunctionBefore> {
        let (place, pf) = self.find(address)?;
        let vfs = Socket::open()?.vfs(pf)?.unwrap_or_default();
        let vf = vfs.into_iter().find(|vf| vf.number == place.number).unwrap_or_default();
        Ok(FunctionBefore {
            mac: vf.mac.map(MacAddr),
            vlan: vf.vlan.map(|VfVlan { id, qos, service }| FunctionVlan { id, priority: qos, service }),
            trusted: vf.trust,
            cable: vf.link_state.map(|state| match state {
                VfLinkState::Auto => Cable::Auto,
                VfLinkState::Enable => Cable::Plugged,
                VfLinkState::Disable => Cable::Pulled,
            }),
            driver: self.drivers.of(address)?,
            bound: false,
        })
    }

    /// Sets a function, which was like that before. What is refused leaves it as it was at this call.
    ///
    /// # Errors
    /// As [`Self::read`], and [`Error::Driver`].
    pub fn set(&self, setup: &FunctionSetup, before: &FunctionBefore) -> Result<()> {
        let (place, pf) = self.find(setup.address)?;
        let mut netlink = Socket::open()?;
        let was = program(&mut netlink, pf, &place, &wanted(setup, before))?;
        // Its driver asks for the address when it takes the function, and so comes last.
        let bound = setup.driver.as_ref().map_or(Ok(()), |driver| self.drivers.bind(setup.address, driver));
        bound.inspect_err(|_| {
            // What its PF refuses now is no news beside that.
            let _ = restore(&mut netlink, pf, &place, &was);
        })
    }

    /// Makes a function what it was. One that is gone needs nothing.
    ///
    /// # Errors
    /// As [`Self::set`], for the first that is refused; the others are done all the same.
    pub fn restore(&self, address: PciAddress, before: &FunctionBefore) -> Result<()> {
        let Some(place) = self.sriov.of_address(address)? else { return Ok(()) };
        let given_back = match before.bound {
            true => self.drivers.give_back(address, before.driver.as_deref()),
            false => Ok(()),
        };
        let pf = self.sriov.pf_index(&place)?;
        restore(&mut Socket::open()?, pf, &place, &as_before(before)).and(given_back)
    }

    fn find(&self, address: PciAddress) -> Result<(VfPlace, u32)> {
        let place = self.sriov.of_address(address)?.ok_or_else(|| Error::VirtualFunction {
            function: address.to_string(),
            problem: "there is none at that address".to_owned(),
            left: None,
            source: None,
        })?;
        let pf = self.sriov.pf_index(&place)?;
        Ok((place, pf))
    }
}

/// What a function is to be set to. That a driver can't tell whether there is a VLAN is no reason to ask it for none.
fn wanted(setup: &FunctionSetup, before: &FunctionBefore) -> VfChange {
    let vlan = VfVlan { id: setup.vlan, ..VfVlan::default() };
    let was = as_before(before);
    VfChange {
        mac: Some(setup.mac.0),
        vlan: (setup.vlan != 0 || before.vlan.is_some()).then_some(vlan),
        spoof_check: None,
        link_state: if setup.unplugged { Some(VfLinkState::Disable) } else { was.link_state },
        trust: if setup.trusted { Some(true) } else { was.trust },
    }
}

fn as_before(before: &FunctionBefore) -> VfChange {
    VfChange {
        mac: before.mac.map(|mac| mac.0),
        vlan: before.vlan.map(|FunctionVlan { id, priority, service }| VfVlan { id, qos: priority, service }),
        spoof_check: None,
        link_state: before.cable.map(|cable| match cable {
            Cable::Auto => VfLinkState::Auto,
            Cable::Plugged => VfLinkState::Enable,
            Cable::Pulled => VfLinkState::Disable,
        }),
        trust: before.trusted,
    }
}
