//! Others change what we have read before we write.
//!
//! A relay between us and ovsdb-server holds our transaction until they have.

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};

use patchcord_core::plan::OvsPort;
use patchcord_host::ovs::Ovs;
use patchcord_host::{Error, Result};
use patchcord_testkit::Namespace;
use serde_json::{Deserializer, Value};

use crate::bed::{Bed, INSTANCE, SOON, name, plain, with_bed};

/// Whether a request changes anything: then it tells ovs-vswitchd so.
fn writes(request: &Value) -> bool {
    let operations = request["params"].as_array().into_iter().flatten();
    operations.into_iter().any(|operation| operation["op"] == "mutate" && operation["table"] == "Open_vSwitch")
}

/// Does `work`; between its first writing request and ovsdb-server's getting it, `ovs-vsctl` carries out `words`.
fn while_others<T>(bed: &Bed<'_>, words: &str, work: impl FnOnce(&Ovs) -> Result<T>) -> Result<T> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("relay.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut us = listener.accept().unwrap().0;
            let mut server = UnixStream::connect(bed.socket()).unwrap();
            let requests = Deserializer::from_reader(us.try_clone().unwrap()).into_iter::<Value>();
            let mut replies = Deserializer::from_reader(server.try_clone().unwrap()).into_iter::<Value>();
            let mut held = false;
            for request in requests {
                let request = request.unwrap();
                if writes(&request) && !held {
                    held = true;
                    bed.vsctl(words);
                }
                server.write_all(request.to_string().as_bytes()).unwrap();
                us.write_all(replies.next().unwrap().unwrap().to_string().as_bytes()).unwrap();
            }
            assert!(held, "nothing was written");
        });
        work(&Ovs::new(path, INSTANCE, SOON))
    })
}

/// Whether the datapath has the link.
fn is_used(ns: &Namespace, link: &str) -> bool {
    ns.json(&format!("ip -d -j link show dev {link}"))[0]["promiscuity"] != 0
}

#[test]
fn what_is_written_fits_what_others_did_meanwhile() {
    with_bed(|bed| {
        let _tap = bed.tap("pct0");
        let (br0, br1) = (name("br0"), name("br1"));
        let port = plain("pct0");
        let tagged = |id| OvsPort { vlan: crate::access(id), ..plain("pct0") };
        let is = |bridge: &str, tag: &str| {
            assert_eq!((bed.vsctl("port-to-br pct0"), bed.get("Port", "pct0", "tag")), (bridge.into(), tag.into()));
            assert_eq!(bed.rows("Port").len(), 3, "those of the bridges, and it");
        };

        // They make a port of that name, and remove it.
        let error = while_others(bed, "add-port br0 pct0 tag=9", |ovs| ovs.set_port(&br0, &port)).unwrap_err();
        assert!(matches!(error, Error::OvsForeign { whose: "somebody else's", .. }), "{error}");
        is("br0", "9");
        bed.vsctl("del-port pct0");
        bed.ovs().set_port(&br0, &port).unwrap();
        while_others(bed, "del-port pct0", |ovs| ovs.set_port(&br0, &tagged(5))).unwrap();
        is("br0", "5");
        // They move it.
        let id = bed.get("Port", "pct0", "_uuid");
        let to_br1 = format!("remove Bridge br0 ports {id} -- add Bridge br1 ports {id}");
        while_others(bed, &to_br1, |ovs| ovs.set_port(&br0, &tagged(6))).unwrap();
        is("br0", "6");
        while_others(bed, &to_br1, |ovs| ovs.remove_port(&port.name)).unwrap();
        assert!(bed.try_vsctl("port-to-br pct0").is_err());
        assert!(!is_used(bed.ns, "pct0"));
        // They take it over.
        let to_others = "remove Port pct0 external_ids patchcord-instance";
        for remove in [false, true] {
            bed.ovs().set_port(&br0, &tagged(5)).unwrap();
            let work =
                |ovs: &Ovs| if remove { ovs.remove_port(&port.name) } else { ovs.set_port(&br0, &port).map(drop) };
            let error = while_others(bed, to_others, work).unwrap_err();
            assert!(matches!(error, Error::OvsForeign { .. }), "{error}");
            is("br0", "5");
            bed.vsctl("del-port pct0");
        }
        // They delete the bridge that it is to be on, or to go to.
        bed.vsctl("add-br br2 -- set bridge br2 datapath_type=netdev");
        let error = while_others(bed, "del-br br2", |ovs| ovs.set_port(&name("br2"), &port)).unwrap_err();
        assert!(matches!(error, Error::OvsNoBridge { .. }), "{error}");
        bed.ovs().set_port(&br1, &tagged(7)).unwrap();
        bed.vsctl("add-br br2 -- set bridge br2 datapath_type=netdev");
        let error = while_others(bed, "del-br br2", |ovs| ovs.set_port(&name("br2"), &port)).unwrap_err();
        assert!(matches!(error, Error::OvsNoBridge { .. }), "{error}");
        is("br1", "7");
    });
}
