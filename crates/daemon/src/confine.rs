//! What the daemon gives up before it serves anybody: capabilities and paths that it has no use for.
//!
//! It parses what strangers send. Should one of them get the better of it, what is left is the kernel's networking and
//! our own directories. Programs are run by the spawner, which was started before.

use landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use patchcord_host::root::Root;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tracing::{info, warn};

/// The newest set of rights that is asked for; older kernels enforce what they know.
const RIGHTS: ABI = ABI::V5;

/// What the daemon reads: the kernel, users and groups, names of devices, and the host's name servers, wherever they
/// really are.
const READ: [&str; 8] = [
    "/proc",
    "/sys",
    "/etc",
    "/usr/share/hwdata",
    "/usr/share/misc",
    "/run/systemd",
    "/run/NetworkManager",
    "/run/resolvconf",
];

/// What the daemon keeps: links, addresses, rules and taps; announcing guests by packet socket.
const KEPT: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::NET_RAW);

/// What macvtaps take besides: to give their nodes to users, and to make nodes where those of /dev are not theirs.
const FOR_MACVTAPS: CapabilitySet = CapabilitySet::CHOWN.union(CapabilitySet::MKNOD);

/// What the daemon is used for that takes more than the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uses {
    /// Macvtaps, whose nodes come and go below /dev.
    pub macvtaps: bool,
    /// Binding PCI devices to other drivers, by files below /sys.
    pub drivers: bool,
}

/// Gives up, for this thread and those it starts later, everything that serving takes nothing of. The directories
/// below `root` must be there already. What this kernel can't enforce is logged.
pub fn confine(root: &Root, uses: Uses) {
    match restrict(root, uses) {
        Ok(RulesetStatus::FullyEnforced) => info!("confined to its own paths"),
        Ok(RulesetStatus::PartiallyEnforced) => info!("confined to its own paths, as far as this kernel can"),
        Ok(RulesetStatus::NotEnforced) => {
            warn!("this kernel can't confine the daemon to its paths: it has no Landlock")
        }
        Err(error) => warn!(%error, "the daemon is not confined to its paths"),
    }
    let kept = if uses.macvtaps { KEPT | FOR_MACVTAPS } else { KEPT };
    if let Err(error) = drop_capabilities(kept) {
        warn!(%error, "the daemon keeps capabilities that it has no use for");
    }
}

fn restrict(root: &Root, uses: Uses) -> Result<RulesetStatus, RulesetError> {
    let own = [
        parent(root.config()),
        root.run(),
        root.lib(),
        root.libvirt_run(),
        root.libvirt_dnsmasq(),
        // What says which of libvirt's networks start by themselves changes hands with them.
        root.libvirt_networks(),
    ];
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let own = own.iter().map(|path| (path.as_path(), AccessFs::from_all(RIGHTS)));
    // Name servers, devices and their names may be given below the root too.
    let [etc, sys, share] = ["etc", "sys", "usr/share"].map(|path| root.base().join(path));
    // And resolv.conf may be a link to anywhere; the directory, since whoever writes it replaces it.
    let resolv_conf = std::fs::canonicalize("/etc/resolv.conf").ok().map(parent).filter(|path| path != Path::new("/"));
    let names = ["hwdata", "misc"].map(|path| Some(share.join(path)));
    let also = [Some(etc), Some(sys.clone()), resolv_conf].into_iter().chain(names);
    let also: Vec<PathBuf> = also.flatten().collect();
    let also = also.iter().map(PathBuf::as_path);
    let read = READ.iter().map(Path::new).chain(also).map(|path| (path, AccessFs::from_read(RIGHTS)));
    let rest = [
        (Path::new(if uses.macvtaps { "/dev" } else { "/dev/net/tun" }), device),
        (Path::new("/proc/sys/net"), AccessFs::from_read(RIGHTS) | AccessFs::WriteFile | AccessFs::Truncate),
    ];
    let mut rules = Ruleset::default().handle_access(AccessFs::from_all(RIGHTS))?.create()?;
    let drivers = if uses.drivers { files_for_drivers(&sys) } else { BTreeSet::new() };
    let drivers = drivers.iter().map(|path| (path.as_path(), AccessFs::WriteFile.into()));
    for (path, rights) in own.chain(read).chain(rest).chain(drivers) {
        // What is not there needs no permission.
        if let Ok(fd) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(fd, rights))?;
        }
    }
    Ok(rules.restrict_self()?.ruleset)
}

/// What is written to when PCI devices are bound to other drivers. A device's own file is below its host bridge, which is there
/// as long as the host runs, while virtual functions come and go; nothing narrower could be said of those.
fn files_for_drivers(sys: &Path) -> BTreeSet<PathBuf> {
    let bus = sys.join("bus/pci");
    let devices = std::fs::read_dir(bus.join("devices")).into_iter().flatten().flatten();
    let bridges = devices.filter_map(|device| host_bridge(&std::fs::canonicalize(device.path()).ok()?));
    bridges.chain(["drivers", "drivers_probe"].map(|name| bus.join(name))).collect()
}

/// The host bridge that a PCI device is below: the outermost directory that is called like one, wherever firmware or
/// platform have that.
fn host_bridge(device: &Path) -> Option<PathBuf> {
    let name = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pci"));
    device.ancestors().skip(1).filter(|path| name(path)).last().map(Path::to_path_buf)
}

fn parent(path: PathBuf) -> PathBuf {
    path.parent().map_or(path.clone(), Path::to_path_buf)
}

/// Keeps these of the capabilities that there are.
fn drop_capabilities(kept: CapabilitySet) -> rustix::io::Result<()> {
    let now = capabilities(None)?;
    let none = CapabilitySet::empty();
    let left = CapabilitySets { effective: now.effective & kept, permitted: now.permitted & kept, inheritable: none };
    set_capabilities(None, left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use patchcord_testkit::{Sysfs, skip};
    use std::fs::{self, OpenOptions};
    use std::io::ErrorKind;

    /// Whether each of these files can be opened so by who is confined.
    fn opened(root: &Path, uses: Uses, how: &OpenOptions, files: &[&str]) -> Option<Vec<bool>> {
        // A thread is confined for itself and those that it starts.
        let confined = || {
            let enforced = restrict(&Root::new(root), uses).unwrap() != RulesetStatus::NotEnforced;
            let open = |file: &&str| match how.open(root.join(file)) {
                Ok(_) => true,
                Err(error) if error.kind() == ErrorKind::PermissionDenied => false,
                Err(error) => panic!("{file}: {error}"),
            };
            enforced.then(|| files.iter().map(open).collect())
        };
        std::thread::scope(|scope| scope.spawn(confined).join().unwrap())
    }

    #[test]
    fn what_is_others_is_out_of_reach() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let sysfs = Sysfs::new(root);
        sysfs.add_function("0000:3b:02.0");
        sysfs.add_driver("iavf");
        let host_s = ["run/patchcord/host.xml", "run/secret", "var/run/lldpad.pid", "sys/devices/system/cpu/online"];
        // The last is a function's that comes while the daemon runs.
        let devices = ["sys/bus/pci/drivers_probe", "sys/bus/pci/drivers/iavf/unbind", "sys/bus/pci/rescan"];
        let functions = ["02.0", "02.1"].map(|at| format!("sys/devices/pci0000:3a/0000:3b:{at}/driver_override"));
        let devices = [&devices[..], &functions.each_ref().map(String::as_str)].concat();
        for file in host_s.iter().chain(&devices) {
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::write(root.join(file), "").unwrap();
        }
        let [plain, binding] = [false, true].map(|drivers| Uses { macvtaps: false, drivers });
        let (mut read, mut write) = (OpenOptions::new(), OpenOptions::new());
        read.read(true);
        write.write(true);
        let Some(readable) = opened(root, binding, &read, &host_s) else {
            return skip("what_is_others_is_out_of_reach", "this kernel has no Landlock");
        };
        assert_eq!(readable, [true, false, false, true]);
        assert_eq!(opened(root, binding, &write, &host_s).unwrap(), [true, false, false, false]);
        assert_eq!(opened(root, binding, &write, &devices).unwrap(), [true, true, false, true, true]);
        assert_eq!(opened(root, plain, &write, &devices).unwrap(), [false; 5]);
    }

    #[test]
    fn a_device_is_below_its_host_bridge_wherever_that_is() {
        for (device, bridge) in [
            ("/sys/devices/pci0000:3a/0000:3a:00.0/0000:3b:02.1", Some("/sys/devices/pci0000:3a")),
            (
                "/sys/devices/platform/40000000.pcie/pci0001:00/0001:00:00.0",
                Some("/sys/devices/platform/40000000.pcie/pci0001:00"),
            ),
            ("/sys/devices/pci0000:00/0000:00:05.5/pci10000:e0/10000:e1:00.0", Some("/sys/devices/pci0000:00")),
            ("/sys/devices/platform/thing", None),
        ] {
            assert_eq!(host_bridge(Path::new(device)).as_deref(), bridge.map(Path::new), "{device}");
        }
    }
}
