//! A device with virtual functions, and who sets those, on the simulated host.

use super::Host;
use crate::engine::{Input, JobId, JobOutcome, RecordKey};
use crate::intent::NicIntent;
use crate::model::{LinkName, MacAddr, PciAddress};
use crate::plan::{self, Cable, Change, FunctionBefore, FunctionSetup, FunctionVlan, Functions, VirtualFunction};
use crate::xml;
use std::collections::BTreeMap;

/// What drivers and sysfs know of functions.
#[derive(Debug, Default)]
pub struct Sysfs {
    /// Whether drivers refuse every setting.
    pub refuses: bool,
    /// Whether drivers can't be told to give back what was there.
    pub keeps: bool,
    /// Whether giving back takes until [`Host::end_restores`].
    pub slow: bool,
    slowly: Vec<(JobId, PciAddress, FunctionBefore)>,
    /// What each function is set to.
    set: BTreeMap<PciAddress, FunctionBefore>,
    /// What was done, in order: `?` reads, `+` sets, `-` restores; and the function's number.
    done: Vec<String>,
}

/// A function's number, and the link that it has.
pub type Numbered<'a> = (u8, Option<&'a str>);

/// The function of that number of the simulated device.
pub fn address(number: u8) -> PciAddress {
    PciAddress { domain: 0, bus: 0x3b, slot: 2, function: number }
}

/// What that function is set to when no NIC has it: something other than nothing, so that forgetting is seen.
pub fn untouched(number: u8) -> FunctionBefore {
    FunctionBefore {
        mac: Some(MacAddr([2, 0, 0, 0, 0, number])),
        vlan: Some(FunctionVlan { id: u16::from(number), priority: 1, service: false }),
        trusted: Some(false),
        cable: Some(Cable::Auto),
        driver: Some("iavf".into()),
        bound: false,
    }
}

impl Sysfs {
    fn note(&mut self, what: char, address: PciAddress) {
        self.done.push(format!("{what}{}", address.function));
    }

    pub(super) fn read(&mut self, address: PciAddress) -> JobOutcome {
        self.note('?', address);
        match self.set.get(&address) {
            Some(now) => JobOutcome::Function(Box::new(now.clone())),
            None => JobOutcome::Failed(format!("{address} is not there")),
        }
    }

    pub(super) fn set(&mut self, setup: &FunctionSetup, before: &FunctionBefore) -> JobOutcome {
        self.note('+', setup.address);
        let Some(now) = self.set.get_mut(&setup.address) else {
            return JobOutcome::Failed(format!("{} is not there", setup.address));
        };
        if self.refuses {
            return JobOutcome::Failed("its driver refuses the MAC address".into());
        }
        *now = as_set(setup, before);
        JobOutcome::Done
    }

    pub(super) fn restore(&mut self, id: JobId, address: PciAddress, before: FunctionBefore) -> Option<JobOutcome> {
        if self.slow {
            self.slowly.push((id, address, before));
            return None;
        }
        self.note('-', address);
        if self.keeps {
            return Some(JobOutcome::Failed("its driver refuses the VLAN".into()));
        }
        self.set.entry(address).and_modify(|now| {
            let driver = if before.bound { before.driver } else { now.driver.take() };
            *now = FunctionBefore { driver, bound: false, ..before };
        });
        Some(JobOutcome::Done)
    }

    /// What a function is set to.
    pub fn is_set(&self, address: PciAddress) -> FunctionBefore {
        self.set[&address].clone()
    }

    /// What was done since the last time.
    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.done)
    }
}

/// What a function is once it was set.
fn as_set(setup: &FunctionSetup, before: &FunctionBefore) -> FunctionBefore {
    FunctionBefore {
        mac: Some(setup.mac),
        vlan: Some(FunctionVlan { id: setup.vlan, ..FunctionVlan::default() }),
        trusted: if setup.trusted { Some(true) } else { before.trusted },
        cable: if setup.unplugged { Some(Cable::Pulled) } else { before.cable },
        driver: setup.driver.clone().or_else(|| before.driver.clone()),
        bound: false,
    }
}

impl Host {
    /// What a function was is in a file before it is set.
    pub(super) fn see_that_it_is_written_down(&self, setup: &FunctionSetup) {
        let record = self.records.get(&RecordKey::Function(setup.nic, setup.address));
        // why: nobody could put back what nobody knows
        let record = record.unwrap_or_else(|| panic!("{} is set, and no record says what it was", setup.address));
        let bound =
            xml::read_function(&self.config.stamp, record).is_ok_and(|r| r.is_some_and(|(.., before)| before.bound));
        assert!(setup.driver.is_none() || bound, "{} is bound, and no record says so", setup.address);
    }

    /// The device `pf`, and no other, has these functions from now on, of which those with a name have a link of that
    /// name, which is there or not. What was there before and still is keeps what it was set to.
    pub fn set_functions(&mut self, pf: &str, functions: &[Numbered<'_>]) {
        self.set_all_functions(&[(pf, functions)]);
    }

    /// The same of several devices, whose functions have numbers of their own.
    pub fn set_all_functions(&mut self, all: &[(&str, &[Numbered<'_>])]) {
        let link = |name: &str| LinkName::new(name).ok();
        let found = |(number, name): &Numbered<'_>| VirtualFunction {
            number: u32::from(*number),
            address: address(*number),
            link: name.and_then(link),
        };
        let of = all.iter().filter_map(|(pf, functions)| Some((link(pf)?, functions.iter().map(found).collect())));
        self.kernel.functions = Functions::new(of.collect());
        let numbers: Vec<u8> = all.iter().flat_map(|(_, functions)| *functions).map(|(number, _)| *number).collect();
        self.sysfs.set.retain(|known, _| numbers.iter().any(|number| address(*number) == *known));
        for number in numbers {
            self.sysfs.set.entry(address(number)).or_insert_with(|| untouched(number));
        }
        self.tell(Input::Observed(Change::Functions(self.kernel.functions.clone())));
    }

    /// What is given back slowly has been given back.
    pub fn end_restores(&mut self) {
        self.sysfs.slow = false;
        for (id, address, before) in std::mem::take(&mut self.sysfs.slowly) {
            if let Some(outcome) = self.sysfs.restore(id, address, before) {
                self.tell(Input::Finished(id, outcome));
            }
        }
        self.settle();
    }

    /// The daemon is started anew, and may bind no drivers.
    pub fn forbid_drivers(&mut self) {
        self.config.binds_drivers = false;
        self.crash();
        self.settle();
    }

    /// Where functions are not set as NICs should have them, or not as they were.
    pub fn check_functions(&self) -> Vec<String> {
        let intent = self.engine.intent();
        // What a guest keeps of a network that is gone is as that wanted it.
        let kept = |nic: &NicIntent| nic.network.is_some_and(|n| intent.network(n).is_none());
        let kept: Vec<PciAddress> = intent.nics().filter(|nic| kept(nic)).filter_map(NicIntent::function).collect();
        let setups = intent.nics().filter_map(|nic| plan::function(intent, &self.kernel, nic));
        let wanted: BTreeMap<PciAddress, FunctionSetup> = setups.map(|setup| (setup.address, setup)).collect();
        let differs = |(address, now): (&PciAddress, &FunctionBefore)| {
            let before = untouched(address.function);
            let should = wanted.get(address).map_or_else(|| before.clone(), |setup| as_set(setup, &before));
            // A cable that could not be pulled stays, and that was told.
            let pulled = wanted.get(address).is_some_and(|setup| setup.unplugged);
            let now = FunctionBefore { cable: if pulled { should.cable } else { now.cable }, ..now.clone() };
            (now != should && !kept.contains(address)).then(|| format!("function {address} is {now:?}, not {should:?}"))
        };
        self.sysfs.set.iter().filter_map(differs).collect()
    }
}
