//! What the daemon gives up before it serves anybody: capabilities and paths that it has no use for.
//!
//! It parses what strangers send. Should one of them get the better of it, what is left is the kernel's networking and
//! our own directories. Programs are run by the spawner, which was started before.

use landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use patchcord_host::root::Root;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
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
    // lldpad's pid file, which comes and goes with it.
    let lldpad = std::fs::canonicalize(parent(root.lldpad_pid())).unwrap_or_default();
    let rest = [
        (lldpad.as_path(), AccessFs::ReadFile.into()),
        (Path::new(if uses.macvtaps { "/dev" } else { "/dev/net/tun" }), device),
        (Path::new("/proc/sys/net"), AccessFs::from_read(RIGHTS) | AccessFs::WriteFile | AccessFs::Truncate),
    ];
    let mut rules = Ruleset::default().handle_access(AccessFs::from_all(RIGHTS))?.create()?;
    let drivers = [sys.join("bus/pci"), sys.join("devices")];
    let drivers = drivers.iter().filter(|_| uses.drivers).map(|path| (path.as_path(), AccessFs::WriteFile.into()));
    for (path, rights) in own.chain(read).chain(rest).chain(drivers) {
        // What is not there needs no permission.
        if let Ok(fd) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(fd, rights))?;
        }
    }
    Ok(rules.restrict_self()?.ruleset)
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
