//! Run state as libvirt's own daemon keeps it: `<networkstatus>` around an active network.

use super::network::{read_network_element, write_network_into};
use super::reader::{Mode, read_document};
use super::{TagForm, WriteOptions, Writer};
use crate::Result;
use crate::model::Network;
use std::collections::BTreeSet;

/// Classes 0 to 2 are the bridge's own.
const OWN_CLASSES: &str = "0-2";

/// Reads an active network of libvirt's daemon, and checks it with [`Network::validate`].
pub fn read_libvirt_state(text: &str) -> Result<Network> {
    let network = read_document(text, Mode::Lenient, "libvirt's run state", "networkstatus", |c| {
        read_network_element(&c.child("network").ok_or_else(|| c.error("it has no <network>"))?)
    })?;
    network.validate()?;
    Ok(network)
}

/// Prints an active network as libvirt's daemon reads it, with the classes that its NICs have on the bridge, and what it
/// guarantees them altogether, in KiB a second.
pub fn write_libvirt_state(network: &Network, classes: &BTreeSet<u32>, floor: u64) -> String {
    let mut w = Writer::new();
    w.element("networkstatus").body(|w| {
        let of_nics = classes.iter().map(|class| format!(",{class}"));
        w.element("class_id").attr("bitmap", OWN_CLASSES.to_owned() + &of_nics.collect::<String>()).close();
        w.element("floor").attr("sum", floor).close();
        write_network_into(w, network, &WriteOptions { tags: TagForm::Metadata, ..WriteOptions::default() });
    });
    w.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let text = "\
<!-- made by libvirt -->
<networkstatus>
  <class_id bitmap='0-2'/>
  <floor sum='0'/>
  <network>
    <name>default</name>
    <uuid>2073f403-bca6-40a6-8b64-0ba2977708dc</uuid>
    <bridge name='virbr0' stp='on' delay='0'/>
    <mac address='52:54:00:18:6f:74'/>
    <ip address='192.168.122.1' netmask='255.255.255.0'/>
  </network>
</networkstatus>";
        let network = read_libvirt_state(text).unwrap();
        assert_eq!(network.bridge.name.as_ref().unwrap().as_str(), "virbr0");
        let written = write_libvirt_state(&network, &BTreeSet::from([3, 5]), 20);
        assert!(written.contains("<class_id bitmap='0-2,3,5'/>\n  <floor sum='20'/>"), "{written}");
        assert_eq!(read_libvirt_state(&written).unwrap(), network);
        for wrong in ["<networkstatus/>", "<network><name>a</name></network>", ""] {
            assert!(read_libvirt_state(wrong).is_err(), "{wrong}");
        }
    }
}
