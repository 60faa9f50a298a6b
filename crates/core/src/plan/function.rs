//! Virtual functions (VFs) of SR-IOV devices, and what each is told for the NIC that has it.
//!
//! A VF is set through its physical function (PF): no kernel object of ours carries that, and the values are not ours once
//! the NIC is gone. So what was there before is written down first, and put back when nobody wants the VF any more.

use super::desired::{self, Plug, Resolved};
use super::observed::Observed;
use crate::intent::{Intent, NicIntent};
use crate::merge::Merged;
use crate::model::{DirectMode, LinkName, LinkState, MacAddr, PciAddress, VirtualPortType};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A VF as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualFunction {
    /// Its number among those of its PF, from 0.
    pub number: u32,
    /// Its PCI address.
    pub address: PciAddress,
    /// Its link; none while it is a guest's, or its driver makes none.
    pub link: Option<LinkName>,
}

/// All VFs of the host, by the links of their PFs. A PF without VFs is in here, too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Functions {
    of: BTreeMap<LinkName, Vec<VirtualFunction>>,
    by_address: BTreeMap<PciAddress, (LinkName, usize)>,
    by_link: BTreeMap<LinkName, PciAddress>,
}

impl Functions {
    /// Those of each PF, in order of their numbers.
    pub fn new(of: BTreeMap<LinkName, Vec<VirtualFunction>>) -> Self {
        let places = || of.iter().flat_map(|(pf, all)| all.iter().enumerate().map(move |(place, vf)| (pf, place, vf)));
        let by_address = places().map(|(pf, place, vf)| (vf.address, (pf.clone(), place))).collect();
        let by_link = places().filter_map(|(.., vf)| Some((vf.link.clone()?, vf.address))).collect();
        Self { of, by_address, by_link }
    }

    /// The VFs of the PF with that link; none of a link that is no PF.
    pub fn of(&self, pf: &LinkName) -> Option<&[VirtualFunction]> {
        self.of.get(pf).map(Vec::as_slice)
    }

    /// The VF at that address, and the link of its PF.
    pub fn at(&self, address: PciAddress) -> Option<(&LinkName, &VirtualFunction)> {
        let (pf, place) = self.by_address.get(&address)?;
        Some((pf, self.of.get(pf)?.get(*place)?))
    }

    /// The address of the VF whose link this is.
    pub fn with_link(&self, link: &LinkName) -> Option<PciAddress> {
        self.by_link.get(link).copied()
    }

    /// The links of all VFs, by name.
    pub fn links(&self) -> impl Iterator<Item = &LinkName> {
        self.by_link.keys()
    }

    /// Whether a PF or VF has a link of that name.
    pub fn names(&self, link: &str) -> bool {
        LinkName::new(link).is_ok_and(|link| self.of.contains_key(&link) || self.by_link.contains_key(&link))
    }

    /// The addresses of all VFs, in order.
    pub fn addresses(&self) -> impl Iterator<Item = PciAddress> {
        self.by_address.keys().copied()
    }
}

/// What a VF is told for a NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionSetup {
    /// The NIC.
    pub nic: Uuid,
    /// The VF.
    pub address: PciAddress,
    /// The guest's address.
    pub mac: MacAddr,
    /// The VLAN of its frames, 1 to 4094; 0 for none, whatever was there before.
    pub vlan: u16,
    /// Whether its guest may change its address and receive more than is for it. Without, that is as it was before.
    pub trusted: bool,
    /// Whether its guest sees no carrier.
    pub unplugged: bool,
    /// The driver that it is to have; without one that is left to others.
    pub driver: Option<String>,
}

/// What a VF was before a NIC got it, as far as its PF's driver tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FunctionBefore {
    /// The address that the PF gave it; zeros are none.
    pub mac: Option<MacAddr>,
    /// The VLAN that the PF put it into.
    pub vlan: Option<FunctionVlan>,
    /// Whether it was trusted.
    pub trusted: Option<bool>,
    /// What it was told of the cable.
    pub cable: Option<Cable>,
    /// Its driver, where it had one.
    pub driver: Option<String>,
    /// Whether it was given another driver for a guest, and so is to get that one back.
    pub bound: bool,
}

/// The VLAN that a PF puts a VF into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FunctionVlan {
    /// 1 to 4094; 0 for none.
    pub id: u16,
    /// Priority (802.1p), 0 to 7.
    pub priority: u8,
    /// Whether its tag is a service tag (802.1ad).
    pub service: bool,
}

/// What a VF is told of the cable (`IFLA_VF_LINK_STATE_*` in the kernel's if_link.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cable {
    /// How it is.
    Auto,
    /// Always plugged.
    Plugged,
    /// Never plugged.
    Pulled,
}

impl Cable {
    /// The words of records.
    pub const WORDS: &[(&str, Self)] = &[("auto", Self::Auto), ("plugged", Self::Plugged), ("pulled", Self::Pulled)];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Plugged => "plugged",
            Self::Pulled => "pulled",
        }
    }
}

/// What a NIC's VF is to be told: of one that was given to the guest whole, for as long as the NIC has it; of one that
/// the NIC sits on alone, while it is plugged into that. With 802.1Qbh the switch's profile says all that, and a
/// port's function is set by whoever runs its guest.
pub fn function(intent: &Intent, observed: &Observed, nic: &NicIntent) -> Option<FunctionSetup> {
    if nic.is_port() {
        return None;
    }
    let resolved = desired::resolve(intent, nic);
    let network = resolved.network();
    // A guest keeps its VF while its network is stopped, as it was. What a network wanted that is gone nobody knows.
    let network = network.or_else(|| intent.network(nic.network?)?.current());
    if network.is_none() && nic.network.is_some() {
        return None;
    }
    let (address, unplugged, driver) = match (nic.function(), &resolved) {
        (Some(address), _) => {
            let in_place = matches!(resolved, Resolved::Function(..));
            let pulled = nic.nic.link == Some(LinkState::Down) || !in_place;
            (address, pulled, network.and_then(driver))
        }
        (None, Resolved::Device(Some(device), DirectMode::Passthrough, _)) => {
            let address = observed.functions.with_link(device)?;
            if matches!(desired::nic_as(intent, observed, nic)?.plug, Plug::Nothing(_)) {
                return None;
            }
            (address, false, None)
        }
        _ => return None,
    };
    observed.functions.at(address)?;
    let merged = desired::merged_with(network, nic).unwrap_or_else(|_| Merged::of_nic(&nic.nic));
    if merged.virtualport.as_ref().and_then(|v| v.kind) == Some(VirtualPortType::Qbh) {
        return None;
    }
    Some(FunctionSetup {
        nic: nic.id,
        address,
        mac: nic.nic.mac?,
        // More than one tag is refused here.
        vlan: merged.vlan.and_then(|vlan| vlan.tags.first().map(|tag| tag.id)).unwrap_or(0),
        trusted: merged.trust_guest_rx_filters,
        unplugged,
        driver,
    })
}

/// The driver that a network's devices are bound to for their guests, where that is for us to do; by libvirt's words for
/// them.
pub fn driver(network: &crate::model::Network) -> Option<String> {
    let forward = &network.forward;
    let driver = match forward.driver.as_deref() {
        Some("kvm") => "pci-stub",
        Some("xen") => "pciback",
        _ => "vfio-pci",
    };
    (forward.managed == Some(true)).then(|| driver.to_owned())
}
