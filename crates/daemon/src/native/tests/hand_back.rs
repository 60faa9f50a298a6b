//! Handing networks back to libvirt's daemon where its files can't be written.

use super::*;
use std::fs;

/// Something that stands where a file is to be written, in a network that is handed back.
const OBSTACLES: [(&str, &str); 2] = [
    ("its run state", "run/libvirt/network/lab2.xml"),
    // What is written last.
    ("its leases", "var/lib/libvirt/dnsmasq/virbr7.status"),
];

#[test]
fn a_network_that_can_not_be_handed_back_is_left_out_of_what_libvirt_is_to_run() {
    for (what, path) in OBSTACLES {
        let door = Door::open(root(), "");
        let base = door.directory.path();
        let mut client = door.client();
        let xml = "<network><name>lab2</name><bridge name='virbr7'/></network>".to_owned();
        let uuid = client.call(&DefineNetwork { xml }).unwrap().network.uuid;
        client.call(&StartNetwork { name: "lab2".into() }).unwrap();
        client.call(&SetAutostart { name: "lab2".into(), autostart: true }).unwrap();
        let leases = base.join("var/lib/patchcord/dnsmasq");
        fs::create_dir_all(&leases).unwrap();
        fs::write(leases.join(format!("{uuid}.leases")), "").unwrap();
        let obstacle = base.join(path);
        fs::create_dir_all(&obstacle).unwrap();

        let mut hand_back = || {
            let call = ImportLibvirt { dry_run: Some(false), undo: Some(true) };
            client.call(&call).unwrap().networks.into_iter().find(|network| network.name == "lab2").unwrap()
        };
        let row = hand_back();
        assert!(!row.done && row.active && row.cause.is_some(), "{what}: {row:?}");
        let [state, link] = ["run/libvirt/network/lab2.xml", "etc/libvirt/qemu/networks/autostart/lab2.xml"];
        assert!(!base.join(state).is_file(), "{what}: libvirt's daemon would think that it runs the network");
        assert!(!base.join(link).is_symlink(), "{what}: libvirt's daemon would start the network");

        fs::remove_dir(&obstacle).unwrap();
        let row = hand_back();
        assert!(row.done, "{what}: {row:?}");
        assert!(base.join(state).is_file() && base.join(link).is_symlink() && base.join(path).is_file(), "{what}");
    }
}
