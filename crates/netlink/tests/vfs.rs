//! Virtual functions of links that have none.
#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

use patchcord_netlink::{Socket, VfChange, VfVlan};
use patchcord_testkit::in_namespace;

const EOPNOTSUPP: i32 = 95;

#[test]
fn a_link_without_virtual_functions_has_none_to_set() {
    in_namespace(|ns| {
        ns.run("ip link add v0 type veth peer name v1");
        let mut socket = Socket::open().unwrap();
        let index = socket.link_by_name("v0").unwrap().unwrap().index;
        assert_eq!(socket.vfs(index).unwrap(), Some(vec![]));
        assert_eq!(socket.vfs(4711).unwrap(), None);
        let changes = [
            VfChange { mac: Some([0x52, 0x54, 0, 1, 2, 3]), ..VfChange::default() },
            VfChange { vlan: Some(VfVlan { id: 5, qos: 2, service: false }), ..VfChange::default() },
            VfChange { vlan: Some(VfVlan { id: 5, qos: 2, service: true }), ..VfChange::default() },
            VfChange { spoof_check: Some(true), ..VfChange::default() },
            VfChange { trust: Some(true), ..VfChange::default() },
        ];
        for change in changes {
            // Another errno would mean that the kernel didn't understand the request.
            let error = socket.set_vf(index, 0, &change).unwrap_err();
            assert_eq!(error.errno(), Some(EOPNOTSUPP), "{change:?}: {error}");
        }
    });
}
