//! Documents of node devices. Those of libvirt's test files are printed in `corpus.rs`.

use patchcord_core::nodedev::{Capability, Firmware, NodeDevice, System, net_name, pci_name};
use patchcord_core::xml::{read_node_device_type, write_node_device};
use uuid::Uuid;

#[test]
fn the_computer_says_what_its_firmware_says() {
    let firmware = Firmware { vendor: Some("B".into()), version: None, released: Some("01/02/2020".into()) };
    let uuid = Uuid::from_u128(0x4c4c4544_0042_3510_8052_b4c04f4e3332);
    let system =
        System { product: Some("P & Q".into()), serial: Some("S".into()), uuid, firmware, ..System::default() };
    let (path, parent, driver) = (None, None, None);
    let device = NodeDevice { name: "computer".into(), path, parent, driver, capability: Capability::System(system) };
    let printed = "<device>\n  <name>computer</name>\n  <capability type='system'>\n    <product>P &amp; Q</product>\n    \
        <hardware>\n      <serial>S</serial>\n      <uuid>4c4c4544-0042-3510-8052-b4c04f4e3332</uuid>\n    </hardware>\n    \
        <firmware>\n      <vendor>B</vendor>\n      <release_date>01/02/2020</release_date>\n    </firmware>\n  \
        </capability>\n</device>\n";
    assert_eq!(write_node_device(&device), printed);
}

#[test]
fn names_have_letters_and_digits() {
    assert_eq!(pci_name("0000:3b:02.1".parse().expect("an address")), "pci_0000_3b_02_1");
    assert_eq!(net_name("eth.x-1", Some("52:54:00:00:00:0a")), "net_eth_x_1_52_54_00_00_00_0a");
    assert_eq!(net_name("tun0", None), "net_tun0");
    assert_eq!(net_name("ä", None), "net___");
}

#[test]
fn documents_say_what_they_describe() {
    let device = "<device><name>x</name><parent>y</parent><capability type='mdev'><type id='z'/></capability></device>";
    assert_eq!(read_node_device_type(device).expect("a type"), "mdev");
    for (document, says) in [
        ("<device", "node device"),
        ("<network/>", "the document's element is <network>"),
        ("<device/>", "<capability> is missing"),
        ("<device><capability/></device>", "'type' is missing"),
    ] {
        let error = read_node_device_type(document).expect_err(document).to_string();
        assert!(error.contains(says), "{document}: {error}");
    }
}
