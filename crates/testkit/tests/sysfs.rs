//! The sysfs of files: everything is where its links say, and goes without leaving any behind.
#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

use std::fs;
use std::path::{Path, PathBuf};

use patchcord_testkit::{Sysfs, in_namespace};

const PF: &str = "0000:3b:00.0";
const VF: &str = "0000:3b:02.0";

/// What is there, and where links lead.
fn entries(directory: &Path, found: &mut Vec<(PathBuf, Option<PathBuf>)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        let target = entry.file_type().unwrap().is_symlink().then(|| fs::canonicalize(&path));
        let target = target.transpose().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if entry.file_type().unwrap().is_dir() {
            entries(&path, found);
        }
        found.push((path, target));
    }
}

fn all(sysfs: &Sysfs) -> Vec<(PathBuf, Option<PathBuf>)> {
    let mut found = Vec::new();
    entries(&sysfs.path(""), &mut found);
    found.sort();
    found
}

#[test]
fn links_lead_where_the_kernels_do() {
    let root = tempfile::tempdir().unwrap();
    let sysfs = Sysfs::new(root.path());
    for function in [PF, VF] {
        sysfs.add_function(function);
    }
    sysfs.add_driver("ixgbevf");
    sysfs.add_driver("vfio-pci");
    let before = all(&sysfs);

    sysfs.enable(PF, &[VF]);
    sysfs.bind(VF, "ixgbevf");
    sysfs.add_link(VF, "eth0v0", &[("ifindex", "7")]);
    let target = |link: &str| fs::canonicalize(sysfs.path(link)).unwrap();
    let vf = sysfs.device(VF);
    for link in [
        "class/net/eth0v0/device",
        "bus/pci/devices/0000:3b:02.0",
        "bus/pci/devices/0000:3b:00.0/virtfn0",
        "bus/pci/drivers/ixgbevf/0000:3b:02.0",
    ] {
        assert_eq!(target(link), vf, "{link}");
    }
    assert_eq!(target("class/net/eth0v0"), vf.join("net/eth0v0"));
    assert_eq!(target("bus/pci/devices/0000:3b:02.0/physfn"), sysfs.device(PF));
    assert_eq!(target("bus/pci/devices/0000:3b:02.0/driver"), sysfs.path("bus/pci/drivers/ixgbevf"));
    assert_eq!(target("bus/pci/devices/0000:3b:02.0/subsystem"), sysfs.path("bus/pci"));
    let read = |file| fs::read_to_string(sysfs.path(file)).unwrap();
    assert_eq!(read("class/net/eth0v0/ifindex"), "7\n");
    assert_eq!(read("bus/pci/devices/0000:3b:02.0/driver_override"), "(null)\n");
    assert_eq!(read("bus/pci/devices/0000:3b:00.0/sriov_numvfs"), "1\n");

    sysfs.unbind(VF);
    assert!(!sysfs.path("class/net/eth0v0").exists() && !vf.join("driver").exists());
    sysfs.bind(VF, "vfio-pci");
    assert_eq!(target("bus/pci/drivers/vfio-pci/0000:3b:02.0"), vf);
    sysfs.enable(PF, &[]);
    sysfs.remove_function(VF);
    sysfs.add_function(VF);
    let mut after = all(&sysfs);
    after.retain(|(path, _)| !["sriov_totalvfs", "sriov_numvfs"].iter().any(|name| path.ends_with(name)));
    assert_eq!(after, before);
}

#[test]
fn a_real_link_has_its_number() {
    in_namespace(|ns| {
        ns.run("ip link add eth0 type veth peer name eth1");
        let root = tempfile::tempdir().unwrap();
        let sysfs = Sysfs::new(root.path());
        sysfs.add_function(PF);
        sysfs.add_real_link(PF, "eth0");
        let number = fs::read_to_string(sysfs.path("class/net/eth0/ifindex")).unwrap();
        assert_eq!(number.trim(), ns.json("ip -j link show eth0")[0]["ifindex"].to_string());
    });
}
