//! What is printed of what is running, and our own elements.

use patchcord_core::model::{DeviceRef, DirectMode, LinkName, Name, NicType};
use patchcord_core::xml::{
    Connections, LiveSource, Mode, Stamp, TagForm, WriteOptions, read_network, read_network_state, read_nic,
    write_network, write_network_state, write_network_with, write_nic, write_nic_live,
};

const POOL: &str = "<network><name>pool</name><tag name='blue'/><tag name='blue'/>\
    <forward mode='passthrough'><interface dev='eth1'/><interface dev='eth2'/></forward>\
    <portgroup name='fast'><tag name='gold'/></portgroup>\
    <o:options xmlns:o='http://libvirt.org/schemas/network/dnsmasq/1.0'><o:option value='no-hosts'/></o:options>\
    </network>";

#[test]
fn a_definition_with_what_is_ours() {
    let pool = read_network(POOL, Mode::Strict).expect("a network");
    insta::assert_snapshot!(write_network(&pool), @r#"
    <network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>
      <name>pool</name>
      <tag name='blue'/>
      <forward dev='eth1' mode='passthrough'>
        <interface dev='eth1'/>
        <interface dev='eth2'/>
      </forward>
      <portgroup name='fast'>
        <tag name='gold'/>
      </portgroup>
      <dnsmasq:options>
        <dnsmasq:option value='no-hosts'/>
      </dnsmasq:options>
    </network>
    "#);
}

#[test]
fn a_live_network_counts_its_connections() {
    let pool = read_network(POOL, Mode::Strict).expect("a network");
    let eth2 = LinkName::new("eth2").expect("a name");
    let connections = Connections { network: 2, by_device: [(eth2, 2)].into(), ..Connections::default() };
    let options = WriteOptions { connections: Some(&connections), tags: TagForm::Metadata, ..WriteOptions::default() };
    let printed = write_network_with(&pool, &options);
    insta::assert_snapshot!(printed, @r#"
    <network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0' connections='2'>
      <name>pool</name>
      <metadata>
        <pc:tags xmlns:pc="urn:patchcord:1">
          <pc:tag name="blue"/>
          <pc:portgroup name="fast">
            <pc:tag name="gold"/>
          </pc:portgroup>
        </pc:tags>
      </metadata>
      <forward dev='eth1' mode='passthrough'>
        <interface dev='eth1'/>
        <interface dev='eth2' connections='2'/>
      </forward>
      <portgroup name='fast'>
      </portgroup>
      <dnsmasq:options>
        <dnsmasq:option value='no-hosts'/>
      </dnsmasq:options>
    </network>
    "#);
    // A live view can be defined again as it is.
    assert_eq!(read_network(&printed, Mode::Strict), Ok(pool.clone()));
    let inactive = WriteOptions { inactive: true, ..options };
    assert!(!write_network_with(&pool, &inactive).contains("connections"));
}

#[test]
fn a_live_network_that_translates_says_from_which_ports() {
    let live = |nat: &str| {
        let text = format!(
            "<network><name>n</name><forward mode='nat'>{nat}</forward>\
            <ip address='10.0.0.1' prefix='24'/><ip family='ipv6' address='fd00::1' prefix='64'/></network>"
        );
        let network = read_network(&text, Mode::Strict).expect("a network");
        assert!(!write_network(&network).contains("1024"), "{nat}");
        let connections = Connections::default();
        let options = WriteOptions { connections: Some(&connections), ..WriteOptions::default() };
        write_network_with(&network, &options)
    };
    for given in ["", "<nat ipv6='yes'/>", "<nat><address start='192.0.2.1' end='192.0.2.9'/></nat>"] {
        assert!(live(given).contains("<port start='1024' end='65535'/>"), "{given}");
    }
    let given = live("<nat><port start='500' end='1000'/></nat>");
    assert!(given.contains("<port start='500' end='1000'/>") && !given.contains("1024"), "{given}");
}

#[test]
fn the_functions_of_a_physical_function() {
    let text = "<network><name>vfs</name><uuid>81ff0d90-c91e-6742-64da-4a736edb9a9b</uuid>\
        <forward mode='passthrough'><pf dev='eth0'/></forward></network>";
    let definition = read_network(text, Mode::Strict).expect("a network");
    let mut active = definition.clone();
    active.forward.devices =
        ["eth0v0", "eth0v1"].map(|dev| DeviceRef { dev: LinkName::new(dev).expect("a name") }).into();
    // Those that were found stay through a restart of the daemon, and are no part of the definition.
    let stamp = Stamp { boot_id: "b".into(), netns: 1 };
    let state = read_network_state(&stamp, &write_network_state(&stamp, &active)).expect("run state");
    assert_eq!(state.map(|(_, network)| network), Some(active.clone()));
    assert_eq!(write_network(&active), write_network(&definition));
}

const NIC: &str = r#"<interface type='network' xmlns:p='urn:patchcord:1'>
  <boot order="1"/>
  <model type='virtio'/>
  <mac address='52:54:00:AA:BB:CC'/>
  <source portgroup='fast' network='pool' startupPolicy='optional'/>
  <tag name='red'/>
  <target dev='tap7'/>
  <driver queues='4' name='vhost'><guest tso4='off'/></driver>
  <p:driver plug='macvtap'/>
  <link state='down'/>
  <mtu size='9000'/>
  <vlan><tag id='7'/></vlan>
  <bandwidth><inbound floor='100'/></bandwidth>
  <port isolated='yes'/>
</interface>"#;

#[test]
fn a_nic_as_given() {
    insta::assert_snapshot!(write_nic(&read_nic(NIC).expect("a NIC")), @r#"
    <interface xmlns:pc='urn:patchcord:1' type='network'>
      <mac address='52:54:00:aa:bb:cc'/>
      <source network='pool' portgroup='fast' startupPolicy='optional'/>
      <tag name='red'/>
      <vlan>
        <tag id='7'/>
      </vlan>
      <bandwidth>
        <inbound floor='100'/>
      </bandwidth>
      <port isolated='yes'/>
      <target dev='tap7'/>
      <driver name='vhost' queues='4'>
        <guest tso4='off'/>
      </driver>
      <pc:driver plug='macvtap'/>
      <link state='down'/>
      <mtu size='9000'/>
      <boot order="1"/>
      <model type='virtio'/>
    </interface>
    "#);
}

#[test]
fn a_nic_as_it_is() {
    let nic = read_nic(NIC).expect("a NIC");
    let dev = LinkName::new("eth2").expect("a name");
    let live = LiveSource {
        kind: NicType::Direct,
        bridge: None,
        dev: Some(&dev),
        mode: Some(DirectMode::Passthrough),
        function: None,
    };
    insta::assert_snapshot!(write_nic_live(&nic, &live), @r#"
    <interface xmlns:pc='urn:patchcord:1' type='direct'>
      <mac address='52:54:00:aa:bb:cc'/>
      <source network='pool' portgroup='fast' dev='eth2' mode='passthrough' startupPolicy='optional'/>
      <tag name='red'/>
      <vlan>
        <tag id='7'/>
      </vlan>
      <bandwidth>
        <inbound floor='100'/>
      </bandwidth>
      <port isolated='yes'/>
      <target dev='tap7'/>
      <driver name='vhost' queues='4'>
        <guest tso4='off'/>
      </driver>
      <pc:driver plug='macvtap'/>
      <link state='down'/>
      <mtu size='9000'/>
      <boot order="1"/>
      <model type='virtio'/>
    </interface>
    "#);
}

#[test]
fn both_spellings_of_none() {
    for spelling in ["none", "null"] {
        let nic = read_nic(&format!("<interface type='{spelling}'/>")).expect("a NIC");
        assert_eq!(write_nic(&nic), "<interface type='none'>\n</interface>\n");
    }
}

#[test]
fn tags_in_metadata_are_read_wherever_they_stand() {
    let text = "<network><name>a</name><metadata xmlns:x='urn:patchcord:1'>\
        <x:tag name='direct'/><x:tags><x:tag name='listed'/><x:portgroup name='gone'><x:tag name='t'/></x:portgroup>\
        </x:tags></metadata></network>";
    let network = read_network(text, Mode::Strict).expect("a network");
    assert_eq!(network.tags.iter().map(Name::as_str).collect::<Vec<_>>(), ["direct", "listed"]);
    assert_eq!(network.metadata, None);
}
