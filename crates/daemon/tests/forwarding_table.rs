//! A bridge whose forwarding table we keep (`macTableManager='libvirt'`): no learning, no flooding, and guests meet.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::{Host, SOON, interface};
use patchcord_testkit::in_namespace;

const NET: &str = "<network><name>net</name><bridge name='brnet' stp='off' macTableManager='libvirt'/>\
     <ip address='10.5.0.1' prefix='24'><dhcp><range start='10.5.0.10' end='10.5.0.99'/></dhcp></ip></network>";

#[test]
fn guests_meet_on_a_bridge_that_learns_nothing() {
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        host.network(NET);
        let (nic, mut one) = host.guest("one", &interface("net"));
        let (_, mut two) = host.guest("two", &interface("net"));
        one.dhcp(SOON).unwrap();
        let second = two.dhcp(SOON).unwrap().address;
        let _two = two.run_in_background();
        Host::reaches(&mut one, &second.to_string());

        let tap = common::tap(&nic).to_owned();
        let port = ns.json(&format!("bridge -j -d link show dev {tap}"));
        assert_eq!((&port[0]["learning"], &port[0]["flood"]), (&false.into(), &false.into()), "{port}");
        let mac = nic.mac.clone().unwrap();
        let written = |ns: &patchcord_testkit::Namespace| {
            let entries = ns.json(&format!("bridge -j fdb show dev {tap}"));
            let entries = entries.as_array().unwrap().clone();
            entries.iter().filter(|e| e["mac"] == mac.as_str() && e["state"] == "static").count()
        };
        assert_eq!(written(ns), 1);

        // The entry goes with the port and comes back with it, and a daemon that starts anew makes no second one.
        host.stop_network("net");
        host.start_network("net");
        Host::reaches(&mut one, &second.to_string());
        host.kill();
        host.start();
        host.nics();
        assert_eq!(written(ns), 1);
        Host::reaches(&mut one, &second.to_string());

        // It goes when the bridge learns again.
        host.call(&common::update("net", "modify", "bridge", "<bridge stp='off'/>"));
        assert_eq!(written(ns), 0);
        Host::reaches(&mut one, &second.to_string());
        host.call(&common::update("net", "modify", "bridge", "<bridge stp='off' macTableManager='libvirt'/>"));
        assert_eq!(written(ns), 1);
        Host::reaches(&mut one, &second.to_string());
    });
}
