//! A network device: what sysfs and the kernel's `ethtool` and `devlink` interfaces say of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use patchcord_core::model::PciAddress;
use patchcord_core::nodedev::Net;
use patchcord_netlink::GenericSocket;

use super::{target_name, text};
use crate::speed;
use crate::sriov::names;

/// libvirt's word for a feature, and those of the kernel's that each make it so (kernel: `netdev_features_strings`). As
/// `ethtool` counts them: a word stands for any of several.
const FEATURES: [(&str, &[&str]); 12] = [
    ("rx", &["rx-checksum"]),
    (
        "tx",
        &["tx-checksum-ipv4", "tx-checksum-ip-generic", "tx-checksum-ipv6", "tx-checksum-fcoe-crc", "tx-checksum-sctp"],
    ),
    ("sg", &["tx-scatter-gather", "tx-scatter-gather-fraglist"]),
    (
        "tso",
        &["tx-tcp-segmentation", "tx-tcp-ecn-segmentation", "tx-tcp-mangleid-segmentation", "tx-tcp6-segmentation"],
    ),
    ("gso", &["tx-generic-segmentation"]),
    ("gro", &["rx-gro"]),
    ("lro", &["rx-lro"]),
    ("rxvlan", &["rx-vlan-hw-parse"]),
    ("txvlan", &["tx-vlan-hw-insert"]),
    ("ntuple", &["rx-ntuple-filter"]),
    ("rxhash", &["rx-hashing"]),
    ("txudptnl", &["tx-udp_tnl-segmentation"]),
];
/// Where in libvirt's order those stand that no link has by itself: behind `rxhash`, and behind all.
const RDMA: &str = "rdma";
const SWITCHDEV: &str = "switchdev";

/// What the kernel announces of a link, as its file `uevent` repeats it.
pub(super) struct Uevent {
    pub(super) index: u32,
    kind: Option<String>,
}

impl Uevent {
    /// That of the link whose directory it is; none when it is gone.
    pub(super) fn read(directory: &Path) -> Option<Self> {
        let text = fs::read_to_string(directory.join("uevent")).ok()?;
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        Some(Self { index: value("IFINDEX")?.parse().ok()?, kind: value("DEVTYPE").map(str::to_owned) })
    }

    /// libvirt lists wireless links and those that are of no kind of their own: no bridges, bonds and VLANs.
    pub(super) fn is_listed(&self) -> bool {
        self.kind.is_none() || self.is_wireless()
    }

    fn is_wireless(&self) -> bool {
        self.kind.as_deref() == Some("wlan")
    }
}

/// Reads all about a link; none when it is gone.
pub(super) fn read(sys: &Path, link: &Path, index: u32) -> Option<Net> {
    let uevent = Uevent::read(link).filter(|uevent| uevent.index == index)?;
    let state = text(link, "operstate");
    let has_speed = state.as_deref() == Some("up");
    let speed = has_speed.then(|| speed::of(link)).flatten();
    Some(Net {
        interface: link.file_name()?.to_string_lossy().into_owned(),
        address: text(link, "address"),
        state,
        speed,
        features: features(sys, link, index),
        wireless: uevent.is_wireless(),
    })
}

/// What can't be found out counts as off.
fn features(sys: &Path, link: &Path, index: u32) -> Vec<&'static str> {
    let mut socket = GenericSocket::open().ok();
    let on = socket.as_mut().and_then(|socket| socket.features(index).ok()).unwrap_or_default();
    let on: BTreeSet<String> = on.into_iter().collect();
    let mut features = Vec::new();
    for (word, any) in FEATURES {
        if any.iter().any(|feature| on.contains(*feature)) {
            features.push(word);
        }
        if word == "rxhash" && does_rdma(sys, link) {
            features.push(RDMA);
        }
    }
    let pci = target_name(link, "device").filter(|name| name.parse::<PciAddress>().is_ok());
    if let (Some(socket), Some(address)) = (&mut socket, pci)
        && matches!(socket.is_switch("pci", &address), Ok(Some(true)))
    {
        features.push(SWITCHDEV);
    }
    features
}

/// Whether the link's device is an `InfiniBand` one too.
fn does_rdma(sys: &Path, link: &Path) -> bool {
    let Ok(device) = fs::canonicalize(link.join("device")) else { return false };
    let class = sys.join("class/infiniband");
    let same = |name: &String| fs::canonicalize(class.join(name).join("device")).is_ok_and(|other| other == device);
    names(&class).unwrap_or_default().iter().any(same)
}
