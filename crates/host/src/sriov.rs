//! SR-IOV: which virtual functions (VFs) a physical one (PF) has, whose VF something is, and what a VF is given through
//! its PF for a guest.
//!
//! Where functions belong is told by sysfs, by links from device to device; how a VF is set by rtnetlink.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use patchcord_core::model::{LinkName, PciAddress};
use patchcord_core::plan::{Functions, VirtualFunction};
use patchcord_netlink::{Error as NetlinkError, Socket, VfChange};
use rustix::io::Errno;

use crate::{Error, Result};

/// What some drivers take for no address at all, since they refuse zeros.
const NO_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0];

/// A VF as it is set: by its PF's link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VfPlace {
    /// The PF's link.
    pub pf: LinkName,
    /// The VF's number.
    pub number: u32,
}

/// The devices that sysfs shows below a root directory.
#[derive(Debug, Clone)]
pub struct Sriov {
    sys: PathBuf,
}

impl Sriov {
    /// With sysfs at `ROOT/sys`; the root directory is normally `/`.
    pub fn new(root: &Path) -> Self {
        Self { sys: root.join("sys") }
    }

    /// All VFs of the host, by the links of their PFs. Links that stand for a VF inside its device are no PFs'.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn all(&self) -> Result<Functions> {
        let mut all = BTreeMap::new();
        for link in link_names(&self.sys.join("class/net"))? {
            let device = self.device(&link);
            if device.join("sriov_numvfs").exists() && !self.is_representor(&link) {
                all.insert(link, functions(&device)?);
            }
        }
        Ok(Functions::new(all))
    }

    /// Whether a link belongs to a device, and not only to the kernel.
    pub fn has_device(&self, link: &str) -> bool {
        self.sys.join("class/net").join(link).join("device").exists()
    }

    /// The PF and the number of the VF whose link this is; `None` when it is no VF's.
    ///
    /// # Errors
    /// [`Error::VirtualFunction`] when the PF has no link or one can't tell which; [`Error::File`].
    pub fn of_link(&self, link: &LinkName) -> Result<Option<VfPlace>> {
        let device = self.device(link);
        let Some(address) = target_address(&device)? else { return Ok(None) };
        self.place(&device, address, Some(link))
    }

    /// The PF and the number of the VF at this PCI address; `None` when it is no VF.
    ///
    /// # Errors
    /// As [`Sriov::of_link`].
    pub fn of_address(&self, address: PciAddress) -> Result<Option<VfPlace>> {
        let device = self.sys.join("bus/pci/devices").join(address.to_string());
        self.place(&device, address, None)
    }

    /// The index of the PF's link.
    ///
    /// # Errors
    /// [`Error::VirtualFunction`] when it is gone; [`Error::File`], and [`Error::Content`] for what is no number.
    pub fn pf_index(&self, place: &VfPlace) -> Result<u32> {
        let path = self.sys.join("class/net").join(place.pf.as_str()).join("ifindex");
        let gone = || Error::VirtualFunction {
            function: format!("{} of {}", place.number, place.pf),
            problem: "that link is gone".to_owned(),
            left: None,
            source: None,
        };
        let text = read(&path)?.ok_or_else(gone)?;
        let problem = || Error::Content { path, problem: format!("{text:?} is no number") };
        text.parse().map_err(|_| problem())
    }

    fn device(&self, link: &LinkName) -> PathBuf {
        self.sys.join("class/net").join(link.as_str()).join("device")
    }

    fn place(&self, device: &Path, address: PciAddress, link: Option<&LinkName>) -> Result<Option<VfPlace>> {
        let physical = device.join("physfn");
        let Some(pf) = target_address(&physical)? else { return Ok(None) };
        let problem = |problem: String| Error::VirtualFunction {
            function: link.map_or_else(|| address.to_string(), LinkName::to_string),
            problem,
            left: None,
            source: None,
        };
        let number = virtual_functions(&physical)?.into_iter().find(|(_, of)| *of == address).map(|(number, _)| number);
        let number = number.ok_or_else(|| problem(format!("its physical function {pf} does not list it")))?;
        let mut candidates = links(&physical)?;
        if candidates.len() > 1 {
            // A PF that is a switch has a link for each VF besides its own.
            candidates.retain(|link| !self.is_representor(link));
        }
        if candidates.len() > 1
            && let Some(port) = link.and_then(|link| self.port(link))
        {
            // Several ports at one PCI address.
            candidates.retain(|candidate| self.port(candidate).as_ref() == Some(&port));
        }
        match &candidates[..] {
            [pf] => Ok(Some(VfPlace { pf: pf.clone(), number })),
            [] => Err(problem(format!("its physical function {pf} has no link; it needs its network driver"))),
            several => {
                let names: Vec<&str> = several.iter().map(LinkName::as_str).collect();
                Err(problem(format!("its physical function {pf} has several links: {}", names.join(", "))))
            }
        }
    }

    /// Whether the link stands for a VF or another part inside the device (kernel: `devlink_port` names such as `pf0vf3`).
    fn is_representor(&self, link: &LinkName) -> bool {
        let name = self.attribute(link, "phys_port_name").unwrap_or_default();
        name.contains("vf") || name.contains("sf")
    }

    /// The port that the link leads to, where its driver tells.
    fn port(&self, link: &LinkName) -> Option<String> {
        self.attribute(link, "phys_port_id").filter(|port| !port.is_empty())
    }

    /// A setting that many drivers don't have, and then can't be read in one way or another.
    fn attribute(&self, link: &LinkName, name: &str) -> Option<String> {
        let path = self.sys.join("class/net").join(link.as_str()).join(name);
        fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
    }
}

/// A PF's VFs, in order. One with several links is taken for the first: they are ports of one device, of which one is set.
fn functions(device: &Path) -> Result<Vec<VirtualFunction>> {
    let of = |(number, address)| {
        let link = links(&device.join(format!("virtfn{number}")))?.into_iter().next();
        Ok(VirtualFunction { number, address, link })
    };
    virtual_functions(device)?.into_iter().map(of).collect()
}

/// The numbers and addresses of a PF's VFs, in order.
pub(crate) fn virtual_functions(device: &Path) -> Result<Vec<(u32, PciAddress)>> {
    let mut functions = Vec::new();
    for name in names(device)? {
        let Some(number) = name.strip_prefix("virtfn").and_then(|number| number.parse().ok()) else { continue };
        if let Some(address) = target_address(&device.join(&name))? {
            functions.push((number, address));
        }
    }
    functions.sort_unstable();
    Ok(functions)
}

/// The links of a device, by name. A name that is none can't be any of ours to use.
fn links(device: &Path) -> Result<Vec<LinkName>> {
    link_names(&device.join("net"))
}

fn link_names(directory: &Path) -> Result<Vec<LinkName>> {
    let mut links: Vec<LinkName> = names(directory)?.into_iter().filter_map(|name| LinkName::new(name).ok()).collect();
    links.sort_unstable();
    Ok(links)
}

/// What is in a directory; nothing when there is none.
pub(crate) fn names(directory: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("read", directory)(error)),
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect::<io::Result<_>>().map_err(Error::file("read", directory))
}

/// The PCI address of the device that a link of sysfs leads to; `None` when there is no such link, or it leads to a
/// device of another bus.
fn target_address(link: &Path) -> Result<Option<PciAddress>> {
    match fs::read_link(link) {
        Ok(target) => Ok(target.file_name().and_then(|name| name.to_str()?.parse().ok())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", link)(error)),
    }
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", path)(error)),
    }
}

/// Sets what is not yet as it should be, one after the other, and gives what was there before, for [`restore`]. What the
/// driver did not tell is not in that. A VF that is refused one of several is left as it was. `pf` is the index of its
/// PF's link.
///
/// # Errors
/// [`Error::VirtualFunction`] when there is no such VF or it is refused, which says what could not be put back;
/// [`Error::Netlink`].
pub fn program(netlink: &mut Socket, pf: u32, place: &VfPlace, wanted: &VfChange) -> Result<VfChange> {
    let failed = |problem: &str, left: Option<String>, source| Error::VirtualFunction {
        function: format!("{} of {}", place.number, place.pf),
        problem: problem.to_owned(),
        left,
        source,
    };
    let vfs = netlink.vfs(pf)?.ok_or_else(|| failed("that link is gone", None, None))?;
    let Some(now) = vfs.iter().find(|vf| vf.number == place.number) else {
        let problem = format!("there is none of that number; the link has {}", vfs.len());
        return Err(failed(&problem, None, None));
    };
    let steps = steps(now, wanted);
    carry_out(&steps, |change| netlink.set_vf(pf, place.number, change))
        .map_err(|refused| failed(&refused.problem, refused.left, Some(refused.source)))?;
    Ok(before(&steps))
}

/// Sets what [`program`] gave back.
///
/// # Errors
/// [`Error::Netlink`] for the first that is refused; the others are set all the same.
pub fn restore(netlink: &mut Socket, pf: u32, place: &VfPlace, before: &VfChange) -> Result<()> {
    restore_by(before, |change| netlink.set_vf(pf, place.number, change)).map_err(Error::from)
}

/// One setting that changes.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    what: &'static str,
    change: VfChange,
    /// What takes it back; nothing where the driver does not tell what is there.
    undo: VfChange,
}

/// What differs, in the kernel's order.
fn steps(now: &patchcord_netlink::VirtualFunction, wanted: &VfChange) -> Vec<Step> {
    let none = VfChange::default();
    let mut steps = Vec::new();
    let mut add = |what, differs: bool, change, undo| {
        if differs {
            steps.push(Step { what, change, undo });
        }
    };
    let mac = |mac| VfChange { mac, ..none };
    add("MAC address", wanted.mac.is_some() && wanted.mac != now.mac, mac(wanted.mac), mac(now.mac));
    let vlan = |vlan| VfChange { vlan, ..none };
    add("VLAN", wanted.vlan.is_some() && wanted.vlan != now.vlan, vlan(wanted.vlan), vlan(now.vlan));
    let check = |spoof_check| VfChange { spoof_check, ..none };
    let differs = wanted.spoof_check.is_some() && wanted.spoof_check != now.spoof_check;
    add("spoof check", differs, check(wanted.spoof_check), check(now.spoof_check));
    let cable = |link_state| VfChange { link_state, ..none };
    let differs = wanted.link_state.is_some() && wanted.link_state != now.link_state;
    add("cable", differs, cable(wanted.link_state), cable(now.link_state));
    let trust = |trust| VfChange { trust, ..none };
    add("trust", wanted.trust.is_some() && wanted.trust != now.trust, trust(wanted.trust), trust(now.trust));
    steps
}

/// What was there before all steps.
fn before(steps: &[Step]) -> VfChange {
    steps.iter().fold(VfChange::default(), |all, Step { undo, .. }| VfChange {
        mac: all.mac.or(undo.mac),
        vlan: all.vlan.or(undo.vlan),
        spoof_check: all.spoof_check.or(undo.spoof_check),
        link_state: all.link_state.or(undo.link_state),
        trust: all.trust.or(undo.trust),
    })
}

/// A step that was refused.
#[derive(Debug)]
struct Refused {
    problem: String,
    /// What could not be put back.
    left: Option<String>,
    source: NetlinkError,
}

/// Carries out steps, or takes back those before the first that is refused.
fn carry_out(steps: &[Step], mut set: impl FnMut(&VfChange) -> Result<(), NetlinkError>) -> Result<(), Refused> {
    for (at, step) in steps.iter().enumerate() {
        let Err(source) = set(&step.change) else { continue };
        let mut left = Vec::new();
        for done in steps[..at].iter().rev() {
            if done.undo == VfChange::default() || restore_by(&done.undo, &mut set).is_err() {
                left.push(done.what);
            }
        }
        let left = (!left.is_empty()).then(|| left.join(", "));
        return Err(Refused { problem: format!("its driver refuses the {}", step.what), left, source });
    }
    Ok(())
}

fn restore_by(
    before: &VfChange,
    mut set: impl FnMut(&VfChange) -> Result<(), NetlinkError>,
) -> Result<(), NetlinkError> {
    const EINVAL: i32 = Errno::INVAL.raw_os_error();
    let mut outcome = Ok(());
    // Against a VF of which nothing is known, each setting is a step.
    for Step { change, .. } in steps(&patchcord_netlink::VirtualFunction::default(), before) {
        let mut done = set(&change);
        if change.mac == Some([0; 6]) && done.as_ref().is_err_and(|error| error.errno() == Some(EINVAL)) {
            done = set(&VfChange { mac: Some(NO_MAC), ..change });
        }
        outcome = outcome.and(done);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use patchcord_netlink::{KernelError, VfVlan, VirtualFunction};

    const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
    const VLAN: VfVlan = VfVlan { id: 5, qos: 2, service: false };

    fn refusal(errno: i32) -> NetlinkError {
        let source = KernelError { errno, ext_ack: None, offset: None, attribute: Vec::new(), missing: None };
        NetlinkError::Kernel { request: "change the virtual function", source }
    }

    fn wanted() -> VfChange {
        VfChange { mac: Some(MAC), vlan: Some(VLAN), spoof_check: Some(true), link_state: None, trust: Some(false) }
    }

    fn now() -> VirtualFunction {
        VirtualFunction {
            mac: Some([0; 6]),
            vlan: Some(VfVlan::default()),
            spoof_check: Some(true),
            trust: None,
            ..VirtualFunction::default()
        }
    }

    /// The settings that were tried, of which those at the given places are refused.
    fn carried_out(refuse: &[(usize, i32)]) -> (Result<(), Refused>, Vec<VfChange>) {
        let mut tried = Vec::new();
        let outcome = carry_out(&steps(&now(), &wanted()), |change| {
            tried.push(*change);
            match refuse.iter().find(|(at, _)| at + 1 == tried.len()) {
                Some((_, errno)) => Err(refusal(*errno)),
                None => Ok(()),
            }
        });
        (outcome, tried)
    }

    #[test]
    fn only_what_differs_is_set_and_what_was_there_is_given_back() {
        let none = VfChange::default();
        let set = [
            VfChange { mac: Some(MAC), ..none },
            VfChange { vlan: Some(VLAN), ..none },
            VfChange { trust: Some(false), ..none },
        ];
        let (outcome, tried) = carried_out(&[]);
        outcome.unwrap();
        assert_eq!(tried, set);
        let was = VfChange { mac: Some([0; 6]), vlan: Some(VfVlan::default()), ..none };
        assert_eq!(before(&steps(&now(), &wanted())), was);
        let there = VirtualFunction { mac: Some(MAC), vlan: Some(VLAN), trust: Some(false), ..now() };
        assert_eq!(steps(&there, &wanted()), []);
        assert_eq!(steps(&now(), &none), []);
    }

    #[test]
    fn a_refusal_takes_back_what_was_done() {
        let none = VfChange::default();
        let no_vlan = VfChange { vlan: Some(VfVlan::default()), ..none };
        let no_mac = VfChange { mac: Some([0; 6]), ..none };
        let (outcome, tried) = carried_out(&[(2, 95)]);
        let refused = outcome.unwrap_err();
        assert_eq!((refused.problem.as_str(), refused.left), ("its driver refuses the trust", None));
        assert_eq!(tried[3..], [no_vlan, no_mac]);

        // A driver that takes no zeros as a MAC address gets another one that belongs to nobody.
        let (outcome, tried) = carried_out(&[(2, 95), (4, 22)]);
        assert_eq!(outcome.unwrap_err().left, None);
        assert_eq!(tried[3..], [no_vlan, no_mac, VfChange { mac: Some(NO_MAC), ..none }]);

        let (outcome, tried) = carried_out(&[(2, 95), (3, 5), (4, 5)]);
        assert_eq!(outcome.unwrap_err().left.as_deref(), Some("VLAN, MAC address"));
        assert_eq!(tried.len(), 5);
    }

    #[test]
    fn what_the_driver_did_not_tell_cannot_be_taken_back() {
        let wanted = VfChange { spoof_check: Some(false), trust: Some(true), ..VfChange::default() };
        let unknown = VirtualFunction::default();
        let mut tried = 0;
        let refused = carry_out(&steps(&unknown, &wanted), |_| {
            tried += 1;
            if tried == 2 { Err(refusal(95)) } else { Ok(()) }
        });
        assert_eq!(refused.unwrap_err().left.as_deref(), Some("spoof check"));
        assert_eq!((tried, before(&steps(&unknown, &wanted))), (2, VfChange::default()));
    }

    #[test]
    fn one_setting_that_cannot_be_restored_does_not_keep_the_others() {
        let mut tried = Vec::new();
        let outcome = restore_by(&wanted(), |change| {
            tried.push(*change);
            if change.mac.is_some() { Err(refusal(22)) } else { Ok(()) }
        });
        assert_eq!(outcome.unwrap_err().errno(), Some(22));
        assert_eq!(tried.len(), 4, "an address that is not zero is tried once");
    }
}
