//! What a person reads when a document is refused.

use patchcord_core::model::{UpdateCommand, UpdateSection};
use patchcord_core::xml::{Mode, read_network, read_nic, write_network};
use std::fmt::Write as _;

fn refusals(cases: &[&str], read: impl Fn(&str) -> patchcord_core::Result<()>) -> String {
    cases.iter().fold(String::new(), |mut all, case| {
        let told = read(case).map_or_else(|e| e.to_string(), |()| "accepted".to_owned());
        writeln!(all, "{told}").expect("a String");
        all
    })
}

fn networks(cases: &[&str]) -> String {
    refusals(cases, |body| {
        let text = format!("<network>\n  <name>lab</name>\n  {body}\n</network>\n");
        read_network(&text, Mode::Strict).map(drop)
    })
}

fn nics(cases: &[&str]) -> String {
    refusals(cases, |text| read_nic(text).map(drop))
}

#[test]
fn documents() {
    let deep = format!("<network>{}{}</network>", "<a>".repeat(70), "</a>".repeat(70));
    let long = " ".repeat(1_100_000);
    let wide = format!("<network {}/>", (0..200).map(|n| format!("a{n}='' ")).collect::<String>());
    let cases = [
        "",
        "no XML",
        "<network>",
        "<network>\n  <name>lab</nam>\n</network>",
        "<network><name>&lab;</name></network>",
        "<!DOCTYPE network [<!ENTITY a 'b'>]><network><name>&a;</name></network>",
        "<domain/>",
        "<network/>",
        "<network><name/></network>",
        "<network><name>a/b</name></network>",
        "<network><name>a&#10;b</name></network>",
        &deep,
        &long,
        &wide,
    ];
    insta::assert_snapshot!(refusals(&cases, |text| read_network(text, Mode::Strict).map(drop)), @r#"
    network: not well-formed XML: the document does not have a root node (line 1, column 1)
    network: not well-formed XML: unknown token (line 1, column 1)
    network: not well-formed XML: the root node was opened but never closed (line 1, column 1)
    network: not well-formed XML: expected 'name' tag, not 'nam' (line 2, column 12)
    network: not well-formed XML: unknown entity reference 'lab' (line 1, column 16)
    network: document types (<!DOCTYPE …>) are not accepted (line 1, column 1)
    network, <domain>: the document's element is <domain> (line 1, column 1); write <network>
    network, <network>: <name> is missing (line 1, column 1); add <name>NAME</name>
    network, <name>: a name can't be empty (line 1, column 10)
    network, <name>: '/' can't be in a name (line 1, column 10)
    network, <name>: '\n' can't be in a name (line 1, column 10)
    network: elements are nested more than 64 deep (line 1, column 199)
    network: the document has 1100000 bytes, and may have 1048576
    network: the element has more than 128 attributes (line 1, column 1)
    "#);
}

#[test]
fn what_the_grammar_has_not() {
    insta::assert_snapshot!(networks(&[
        "<brigde name='virbr0'/>",
        "<bridge nam='virbr0'/>",
        "<bridge name='virbr0'/><bridge name='virbr1'/>",
        "<ip address='10.0.0.1' prefix='24'><dhcp><range start='10.0.0.2' end='10.0.0.9'/><hots/></dhcp></ip>",
        "some text",
        "<x:tag xmlns:x='urn:other' name='a'/>",
    ]), @r#"
    network 'lab', <brigde>: there is no such element in <network> (line 3, column 3)
    network 'lab', <bridge nam>: <bridge> has no attribute 'nam' (line 3, column 11)
    network 'lab', <bridge>: there can be only one in <network> (line 3, column 26)
    network 'lab', <hots>: there is no such element in <dhcp> (line 3, column 84)
    network 'lab', <network>: <network> has no text of its own (line 2, column 19)
    network 'lab', <x:tag>: there is no such element in <network> (line 3, column 3)
    "#);
}

#[test]
fn values() {
    insta::assert_snapshot!(networks(&[
        "<uuid>81ff0d90</uuid>",
        "<bridge name='a-very-long-bridge-name'/>",
        "<bridge name='br%dx'/>",
        "<bridge stp='maybe'/>",
        "<bridge delay='-1'/>",
        "<mtu size='67'/>",
        "<mtu size='1e3'/>",
        "<mac address='53:54:00:00:00:01'/>",
        "<mac/>",
        "<domain name='a,b'/>",
        "<domain name='a&#10;dhcp-script=/bin/sh'/>",
        "<dns><txt name='a' value='x&#10;y'/></dns>",
        "<dns><forwarder/></dns>",
        "<dns><srv service='s' protocol='tcp' port='5'/></dns>",
        "<dns><host ip='10.0.0.1'/></dns>",
        "<vlan><tag id='4096'/></vlan>",
        "<vlan trunk='no'><tag id='1'/><tag id='2'/></vlan>",
        "<vlan/>",
        "<bandwidth><inbound peak='5'/></bandwidth>",
        "<bandwidth><inbound average='5' floor='1'/></bandwidth>",
        "<virtualport type='802.1Qbx'/>",
        "<forward mode='bridge'/><virtualport type='openvswitch'><parameters managerid='1'/></virtualport>",
        "<tag name='a/b'/>",
    ]), @r#"
    network 'lab', <uuid>: '81ff0d90' is not a UUID: 32 hexadecimal digits (line 3, column 3)
    network 'lab', <bridge name>: 'a-very-long-bridge-name' has 23 bytes, and a link name has at most 15 (line 3, column 11)
    network 'lab', <bridge name>: 'br%dx' is not a pattern for names: it must end with its only %, in %d (line 3, column 11)
    network 'lab', <bridge stp>: 'maybe' is none of 'on', 'off' (line 3, column 11)
    network 'lab', <bridge delay>: '-1' is not a number from 0 to 4294967295 (line 3, column 11)
    network 'lab', <mtu size>: '67' is not a number from 68 to 65535 (line 3, column 8)
    network 'lab', <mtu size>: '1e3' is not a number from 68 to 65535 (line 3, column 8)
    network 'lab', <mac address>: '53:54:00:00:00:01' is a multicast address: the second digit must be even (line 3, column 8)
    network 'lab', <mac>: the attribute 'address' is missing (line 3, column 3)
    network 'lab', <domain name>: ',' can't be in a name (line 3, column 11)
    network 'lab', <domain name>: the control character '\n' can't be in it (line 3, column 11)
    network 'lab', <txt value>: the control character '\n' can't be in it (line 3, column 22)
    network 'lab', <forwarder>: it needs one of 'addr' and 'domain' (line 3, column 8)
    network 'lab', <srv port>: it goes with a target only (line 3, column 40); add target='NAME'
    network 'lab', <host>: it needs a <hostname> (line 3, column 8)
    network 'lab', <tag id>: '4096' is not a number from 0 to 4095 (line 3, column 14)
    network 'lab', <vlan trunk>: several VLANs need trunk='yes' (line 3, column 9)
    network 'lab', <vlan>: there is no <tag> in it (line 3, column 3); write <tag id='N'/> for each VLAN
    network 'lab', <inbound>: it needs 'average' (line 3, column 14)
    network 'lab', <inbound floor>: a guaranteed rate is not possible here (line 3, column 35); give floor in the <inbound> of a NIC
    network 'lab', <virtualport type>: '802.1Qbx' is none of '802.1Qbg', '802.1Qbh', 'openvswitch', 'midonet' (line 3, column 16)
    network 'lab', <parameters managerid>: a virtualport of type 'openvswitch' has no such parameter (line 3, column 71)
    network 'lab', <tag name>: '/' can't be in a name (line 3, column 8)
    "#);
}

#[test]
fn addresses() {
    let ip = |inner: &str| format!("<ip address='10.0.0.1' prefix='24'>{inner}</ip>");
    let host = |attributes: &str| ip(&format!("<dhcp><host {attributes}/></dhcp>"));
    let range = |start: &str, end: &str| ip(&format!("<dhcp><range start='{start}' end='{end}'/></dhcp>"));
    let cases = [
        "<ip address='10.0.0.256'/>".to_owned(),
        "<ip address='2001:db8::1'/>".to_owned(),
        "<ip family='ipv6' address='10.0.0.1'/>".to_owned(),
        "<ip address='10.0.0.1' netmask='255.0.255.0'/>".to_owned(),
        "<ip address='10.0.0.1' prefix='33'/>".to_owned(),
        "<ip address='10.0.0.1' prefix='24' netmask='255.255.255.0'/>".to_owned(),
        range("10.0.0.9", "10.0.0.2"),
        range("10.0.1.2", "10.0.1.9"),
        range("10.0.0.0", "10.0.0.9"),
        range("10.0.0.2", "10.0.0.255"),
        host("name='a'"),
        host("mac='52:54:00:00:00:01' ip='10.1.0.2'"),
        host("ip='10.0.0.2'"),
        ip("<dhcp><host name='a' ip='10.0.0.2'/><host name='b' ip='10.0.0.2'/></dhcp>"),
        ip("<dhcp><range start='10.0.0.2' end='10.0.0.9'><lease expiry='1'/></range></dhcp>"),
        ip("<dhcp><range start='10.0.0.2' end='10.0.0.9'/><bootp file='f' server='tftp'/></dhcp>"),
        ip("") + "<route address='10.2.0.1' prefix='16' gateway='10.0.0.2'/>",
        ip("") + "<route address='10.2.0.0' prefix='16' gateway='10.9.0.2'/>",
        ip("<dhcp><range start='10.0.0.2' end='10.0.0.9'/></dhcp>")
            + "<ip address='10.1.0.1' prefix='24'><dhcp><range start='10.1.0.2' end='10.1.0.9'/></dhcp></ip>",
        host("name='ignore' ip='10.0.0.2'"),
        host("name='2h' ip='10.0.0.2'"),
        host("name='tag:a' ip='10.0.0.2'"),
    ];
    let cases: Vec<&str> = cases.iter().map(String::as_str).collect();
    insta::assert_snapshot!(networks(&cases), @r#"
    network 'lab', <ip address>: '10.0.0.256' is not an IP address (line 3, column 7)
    network 'lab', <ip address>: 2001:db8::1 is an IPv6 address, and no family is given (line 3, column 7); add family='ipv6'
    network 'lab', <ip family>: it is 'ipv6', and 10.0.0.1 is an IPv4 address (line 3, column 7)
    network 'lab', <ip netmask>: 255.0.255.0 is not a netmask: its ones must all come first (line 3, column 26)
    network 'lab', <ip prefix>: '33' is not a number from 0 to 32 (line 3, column 26)
    network 'lab', <ip prefix>: there is a netmask already (line 3, column 26); leave one of them out
    network 'lab', <range end>: 10.0.0.2 is before the start, 10.0.0.9 (line 3, column 68)
    network 'lab', <range start>: 10.0.1.2 is outside the network 10.0.0.0/24 (line 3, column 51)
    network 'lab', <range start>: 10.0.0.0 is the network's own address (line 3, column 51)
    network 'lab', <range end>: 10.0.0.255 is the network's broadcast address (line 3, column 68)
    network 'lab', <host>: the attribute 'ip' is missing (line 3, column 44)
    network 'lab', <host ip>: 10.1.0.2 is outside the network 10.0.0.0/24 (line 3, column 74)
    network 'lab', <host>: it needs one of 'mac' and 'name' (line 3, column 44)
    network 'lab', <host ip>: 10.0.0.2 is reserved twice, the second time for 'b'
    network 'lab', <lease expiry>: a lease lasts at least 120 seconds, or 0 for ever (line 3, column 90)
    network 'lab', <bootp server>: 'tftp' is not an IP address (line 3, column 100)
    network 'lab', <route address>: 10.2.0.1 is not the address of a network of 16 bits (line 3, column 50); did you mean 10.2.0.0?
    network 'lab', <route gateway>: no address of the network reaches 10.9.0.2; the gateway must lie within an <ip>
    network 'lab', <dhcp>: there are two for IPv4, and a network serves one of each family
    network 'lab', <host name>: dnsmasq takes 'ignore' for something else than a name (line 3, column 50)
    network 'lab', <host name>: dnsmasq takes '2h' for something else than a name (line 3, column 50)
    network 'lab', <host name>: ':' can't be in a guest's name (line 3, column 50)
    "#);
}

/// Addresses that no host can have on a network, and networks within each other.
#[test]
fn addresses_of_the_host() {
    let cases = [
        "<ip address='127.0.0.1' prefix='8'/>",
        "<ip address='224.0.0.1' prefix='24'/>",
        "<ip address='0.0.0.0' prefix='24'/>",
        "<ip address='10.4.0.0' prefix='24'/>",
        "<ip address='10.4.0.255' prefix='24'/>",
        "<ip address='255.255.255.255' prefix='32'/>",
        "<ip address='10.4.0.0' prefix='31'/>",
        "<ip address='10.4.0.255' prefix='32'/>",
        "<ip family='ipv6' address='::1' prefix='64'/>",
        "<ip family='ipv6' address='ff02::1' prefix='64'/>",
        "<ip family='ipv6' address='::' prefix='64'/>",
        "<ip family='ipv6' address='fd00:1::' prefix='64'/>",
        "<ip address='10.20.0.1' prefix='24'/><ip address='10.20.0.129' prefix='25'/>",
        "<ip address='10.20.0.129' prefix='25'/><ip address='10.20.0.1' prefix='24'/>",
        "<ip address='10.20.0.1' prefix='24'/><ip address='10.20.0.2' prefix='24'/>",
        "<ip address='10.20.0.1' prefix='25'/><ip address='10.20.0.129' prefix='25'/>",
    ];
    insta::assert_snapshot!(networks(&cases), @r#"
    network 'lab', <ip address>: 127.0.0.1 is a loopback address, which leaves no host; give one that the host can have for itself
    network 'lab', <ip address>: 224.0.0.1 is a multicast address, which no host has as its own; give one that the host can have for itself
    network 'lab', <ip address>: 0.0.0.0 stands for no address, or for any; give one that the host can have for itself
    network 'lab', <ip address>: 10.4.0.0 is the network's own address, with a prefix of 24 bits; give one that the host can have for itself
    network 'lab', <ip address>: 10.4.0.255 is the network's broadcast address, with a prefix of 24 bits; give one that the host can have for itself
    network 'lab', <ip address>: 255.255.255.255 is everybody's broadcast address; give one that the host can have for itself
    accepted
    accepted
    network 'lab', <ip address>: ::1 is a loopback address, which leaves no host; give one that the host can have for itself
    network 'lab', <ip address>: ff02::1 is a multicast address, which no host has as its own; give one that the host can have for itself
    network 'lab', <ip address>: :: stands for no address, or for any; give one that the host can have for itself
    accepted
    network 'lab', <ip address>: its subnets 10.20.0.0/24 and 10.20.0.128/25 overlap; choose another subnet for one of them
    network 'lab', <ip address>: its subnets 10.20.0.128/25 and 10.20.0.0/24 overlap; choose another subnet for one of them
    accepted
    accepted
    "#);
}

/// What dnsmasq, which is told the name, would take for something else.
#[test]
fn names_of_own_bridges() {
    insta::assert_snapshot!(networks(&[
        "<bridge name='vb*'/>",
        "<bridge name='vbc,up0'/>",
        "<bridge name='a&quot;b;'/>",
        "<bridge name='a#%d'/>",
        "<bridge name='a\\b'/><forward mode='nat'/><ip address='10.0.0.1' prefix='24'/>",
        "<bridge name='vb;0'/>",
        "<forward mode='bridge'/><bridge name='vb*'/>",
    ]), @r#"
    network 'lab', <bridge name>: '*' can't be in the name of a network's own bridge: dnsmasq would misread it; use letters, digits, '-', '_' and '.'
    network 'lab', <bridge name>: ',' can't be in the name of a network's own bridge: dnsmasq would misread it; use letters, digits, '-', '_' and '.'
    network 'lab', <bridge name>: '"' can't be in the name of a network's own bridge: dnsmasq would misread it; use letters, digits, '-', '_' and '.'
    network 'lab', <bridge name>: '#' can't be in the name of a network's own bridge: dnsmasq would misread it; use letters, digits, '-', '_' and '.'
    network 'lab', <bridge name>: '\\' can't be in the name of a network's own bridge: dnsmasq would misread it; use letters, digits, '-', '_' and '.'
    accepted
    accepted
    "#);
}

/// dnsmasq would not start with them.
#[test]
fn names_that_are_too_long() {
    let record = |label: &str| {
        networks(&[
            &format!("<domain name='{label}.test'/>"),
            &format!("<dns><txt name='a.{label}' value='v'/></dns>"),
            &format!("<dns><forwarder domain='{label}'/></dns>"),
            &format!("<dns><srv service='{}' protocol='tcp' target='{label}'/></dns>", &label[1..]),
            &format!("<dns><srv service='s' protocol='{}'/></dns>", &label[1..]),
        ])
    };
    assert_eq!(record(&"a".repeat(63)), "accepted\n".repeat(5));
    let longer = record(&"a".repeat(64));
    assert_eq!(longer.matches("bytes, and may have 6").count(), 5, "{longer}");
}

#[test]
fn what_does_not_go_together() {
    insta::assert_snapshot!(networks(&[
        "<forward/>",
        "<forward mode='BRIDGE'/>",
        "<forward mode='route'><nat/></forward>",
        "<forward mode='vepa' dev='eth0'><interface dev='eth1'/></forward>",
        "<forward mode='vepa'><interface dev='eth1'/><interface dev='eth1'/></forward>",
        "<forward mode='bridge' dev='eth0'/><bridge name='br0'/>",
        "<forward mode='bridge'/><bridge name='br0' stp='on'/>",
        "<forward mode='bridge'/><bridge name='br0'/><ip address='10.0.0.1' prefix='24'/>",
        "<forward mode='vepa' dev='eth0'/><bridge name='br0'/>",
        "<portgroup name='a' default='yes'/><portgroup name='b' default='yes'/>",
        "<portgroup name='a'/><portgroup name='a'/>",
        "<dns enable='no'><host ip='10.0.0.1'><hostname>a</hostname></host></dns>",
        "<virtualport type='802.1Qbg'/>",
    ]), @r#"
    network 'lab', <ip>: forward mode 'nat' needs an address; add an <ip address='…' prefix='…'>, or remove <forward>
    network 'lab', <forward mode>: 'BRIDGE' is none of 'none', 'nat', 'route', 'open', 'bridge', 'private', 'vepa', 'passthrough', 'hostdev' (line 3, column 12)
    network 'lab', <nat>: it goes with <forward mode='nat'> only (line 3, column 25)
    network 'lab', <forward dev>: <forward dev='eth0'> must name the first <interface>, which is 'eth1' (line 3, column 24)
    network 'lab', <interface dev>: 'eth1' is listed twice (line 3, column 58)
    network 'lab', <bridge name>: there is a <bridge> and a <forward> device: NICs join the one or sit on the other; remove one of them
    network 'lab', <bridge stp>: forward mode 'bridge' uses a bridge of the host's as it is (line 3, column 46)
    network 'lab', <ip>: forward mode 'bridge' leaves it to whoever runs the outer network; remove it, or use mode nat, route, open or none
    network 'lab', <bridge name>: forward mode 'vepa' has no bridge
    network 'lab', <portgroup default>: 'a' and 'b' are both the default; only one portgroup can be it
    network 'lab', <portgroup name>: there are two portgroups 'a'
    network 'lab', <dns>: enable='no' leaves nobody to serve the records that it lists; remove the records, or enable='no'
    network 'lab', <virtualport type>: the type of the network does not go with forward mode 'none'; 802.1Qbg goes with a device of the host's (cord or macvtap), 802.1Qbh with that or a PCI device, openvswitch and midonet with a bridge of the host's; leave <virtualport> out to go without
    "#);
}

#[test]
fn devices() {
    insta::assert_snapshot!(networks(&[
        "<forward mode='vepa' dev='eth0'><interface dev='eth0'/><interface dev='eth1'/><interface dev='eth0'/></forward>",
        "<forward mode='hostdev'><address type='pci' bus='1' slot='2' function='3'/>\
            <address type='pci' domain='0' bus='0x1' slot='0x02' function='3'/></forward>",
        "<forward mode='passthrough' dev='eth0'><interface dev='eth1'/><interface dev='eth0'/></forward>",
        "<forward mode='passthrough'><pf dev='eth0'/><interface dev='eth1'/></forward>",
        "<forward mode='hostdev'><pf dev='eth0'/><address type='pci' bus='1' slot='2' function='3'/></forward>",
        "<forward mode='passthrough' dev='eth0'><pf dev='eth0'/></forward>",
        "<forward mode='passthrough'><pf dev='eth0'/><pf dev='eth1'/></forward>",
        "<forward mode='passthrough'><interface dev='eth1'/><address type='pci' bus='1' slot='2' function='3'/></forward>",
        "<forward mode='hostdev'><interface dev='eth1'/></forward>",
        "<forward mode='hostdev'/>",
        "<forward mode='passthrough'/>",
        "<forward mode='private'/>",
        "<forward mode='vepa'/>",
        "<forward mode='bridge'/>",
        "<forward mode='vepa'><pf dev='eth0'/></forward>",
        "<forward mode='bridge'><address type='pci' bus='1' slot='2' function='3'/></forward>",
        "<forward mode='bridge'><address type='pci' bus='1' slot='2' function='3'/></forward><bridge name='br0'/>",
        "<forward mode='bridge'><pf dev='eth0'/></forward>",
        "<forward mode='passthrough'><address type='pci' bus='1' slot='2' function='3'/></forward>",
    ]), @r#"
    network 'lab', <interface dev>: 'eth0' is listed twice (line 3, column 92)
    network 'lab', <address>: this address is listed twice (line 3, column 78)
    network 'lab', <forward dev>: <forward dev='eth0'> must name the first <interface>, which is 'eth1' (line 3, column 31)
    network 'lab', <forward pf>: it can't be mixed with <interface> and <address>; remove them: the functions of <pf> are found at each start
    network 'lab', <forward pf>: it can't be mixed with <interface> and <address>; remove them: the functions of <pf> are found at each start
    network 'lab', <forward dev>: it can't be given together with <pf> or <address> (line 3, column 31)
    network 'lab', <pf>: there can be only one in <forward> (line 3, column 47)
    network 'lab', <forward>: <interface> and <address> can't be mixed (line 3, column 3)
    network 'lab', <forward interface>: forward mode 'hostdev' gives PCI devices away, and these are links; list <address type='pci' …/>, or use mode 'passthrough'
    network 'lab', <forward>: forward mode 'hostdev' needs devices, and there are none; add <pf dev='…'/>, or <address type='pci' …/> for each device
    network 'lab', <forward dev>: forward mode 'passthrough' needs a device, and there is none; add dev='…', or <interface dev='…'/> for each device
    network 'lab', <forward dev>: forward mode 'private' needs a device, and there is none; add dev='…', or <interface dev='…'/> for each device
    network 'lab', <forward dev>: forward mode 'vepa' needs a device, and there is none; add dev='…', or <interface dev='…'/> for each device
    accepted
    accepted
    network 'lab', <forward address>: forward mode 'bridge' takes no PCI devices, and it names neither a bridge nor a device; name the host's bridge, list <interface dev='…'/>, or use mode 'passthrough' or 'hostdev'
    network 'lab', <bridge name>: there is a <bridge> and a <forward> device: NICs join the one or sit on the other; remove one of them
    accepted
    accepted
    "#);
}

#[test]
fn what_no_nic_could_have() {
    let direct = "<forward mode='vepa' dev='eth0'/>";
    let hostdev = "<forward mode='hostdev'><pf dev='eth0'/></forward>";
    let cases = [
        format!("{direct}<vlan><tag id='5'/></vlan>"),
        format!("{direct}<portgroup name='a'/><portgroup name='b'><vlan><tag id='5'/></vlan></portgroup>"),
        "<forward mode='bridge' dev='eth0'/><vlan><tag id='5'/></vlan>".to_owned(),
        "<forward mode='passthrough' dev='eth0'/><vlan><tag id='5'/></vlan>".to_owned(),
        format!("{hostdev}<vlan><tag id='5'/></vlan>"),
        "<forward mode='bridge'/><bridge name='br0'/><vlan><tag id='5'/></vlan>".to_owned(),
        "<vlan><tag id='5'/></vlan>".to_owned(),
        "<vlan><tag id='0'/></vlan>".to_owned(),
        "<forward mode='bridge'/><bridge name='br0'/><portgroup name='p'><vlan><tag id='4095'/></vlan></portgroup>"
            .to_owned(),
        "<forward mode='passthrough' dev='eth0'/><vlan trunk='yes'><tag id='5'/></vlan>".to_owned(),
        format!("{hostdev}<portgroup name='a'><bandwidth><inbound average='5'/></bandwidth></portgroup>"),
        format!("{hostdev}<virtualport type='802.1Qbg'/>"),
        format!("{direct}<virtualport type='midonet'/>"),
        "<forward mode='bridge'><pf dev='eth0'/></forward><virtualport type='openvswitch'/>".to_owned(),
        "<forward mode='bridge'/><bridge name='br0'/><virtualport type='802.1Qbh'/>".to_owned(),
        format!("{direct}<virtualport type='802.1Qbg'/><portgroup name='a'><virtualport type='802.1Qbh'/></portgroup>"),
        format!(
            "{direct}<virtualport type='802.1Qbg'/>\
            <portgroup name='a'><virtualport><parameters profileid='x'/></virtualport></portgroup>"
        ),
        format!("{direct}<port isolated='yes'/>"),
        format!("{direct}<port isolated='no'/>"),
    ];
    let cases: Vec<&str> = cases.iter().map(String::as_str).collect();
    insta::assert_snapshot!(networks(&cases), @r#"
    network 'lab', <vlan>: it puts NICs into VLANs, and forward mode 'vepa' gives them a device of the host's (cord or macvtap), which has no VLANs, save in mode passthrough; use a bridge, or a VLAN link of the host's as the device
    network 'lab', <vlan>: portgroup 'b' puts NICs into VLANs, and forward mode 'vepa' gives them a device of the host's (cord or macvtap), which has no VLANs, save in mode passthrough; use a bridge, or a VLAN link of the host's as the device
    network 'lab', <vlan>: it puts NICs into VLANs, and forward mode 'bridge' gives them a device of the host's (cord or macvtap), which has no VLANs, save in mode passthrough; use a bridge, or a VLAN link of the host's as the device
    accepted
    accepted
    accepted
    accepted
    network 'lab', <vlan>: it puts NICs into VLANs, and forward mode 'none' gives them a bridge of its own, which has VLANs 1 to 4094, not 0; give another <tag id>
    network 'lab', <vlan>: portgroup 'p' puts NICs into VLANs, and forward mode 'bridge' gives them a bridge of the host's, which has VLANs 1 to 4094, not 4095; give another <tag id>
    network 'lab', <vlan>: it puts NICs into VLANs, and forward mode 'passthrough' gives them a device of the host's (cord or macvtap), which has one VLAN and no trunk; give one <tag>, and no trunk='yes'
    network 'lab', <bandwidth>: portgroup 'a' limits rates, which nobody can do for a PCI device; remove it
    network 'lab', <virtualport type>: the type of the network does not go with forward mode 'hostdev'; 802.1Qbg goes with a device of the host's (cord or macvtap), 802.1Qbh with that or a PCI device, openvswitch and midonet with a bridge of the host's; leave <virtualport> out to go without
    network 'lab', <virtualport type>: the type of the network does not go with forward mode 'vepa'; 802.1Qbg goes with a device of the host's (cord or macvtap), 802.1Qbh with that or a PCI device, openvswitch and midonet with a bridge of the host's; leave <virtualport> out to go without
    network 'lab', <virtualport type>: the type of the network does not go with forward mode 'bridge'; 802.1Qbg goes with a device of the host's (cord or macvtap), 802.1Qbh with that or a PCI device, openvswitch and midonet with a bridge of the host's; leave <virtualport> out to go without
    network 'lab', <virtualport type>: the type of the network does not go with forward mode 'bridge'; 802.1Qbg goes with a device of the host's (cord or macvtap), 802.1Qbh with that or a PCI device, openvswitch and midonet with a bridge of the host's; leave <virtualport> out to go without
    network 'lab', <virtualport type>: portgroup 'a' and the network name different types
    network 'lab', <virtualport parameters>: 'profileid' does not go with the type of portgroup 'a'
    network 'lab', <port isolated>: NICs can't be isolated in forward mode 'vepa'; use a bridge, or mode 'private'
    accepted
    "#);
}

/// In a network, in a portgroup and in a NIC.
#[test]
fn rates_and_vlans() {
    let elements = [
        "<bandwidth><inbound average='5' peak='6' burst='7'/><outbound average='5'/></bandwidth>",
        "<bandwidth><inbound peak='6'/></bandwidth>",
        "<bandwidth><outbound burst='6'/></bandwidth>",
        "<bandwidth><inbound floor='3' peak='6'/></bandwidth>",
        "<bandwidth><inbound floor='3'/></bandwidth>",
        "<bandwidth><outbound average='5' floor='3'/></bandwidth>",
        "<bandwidth><inbound average='-1'/></bandwidth>",
        "<vlan/>",
        "<vlan trunk='yes'/>",
        "<vlan><tag id='4096'/></vlan>",
        "<vlan><tag id='-1'/></vlan>",
        "<vlan trunk='no'><tag id='1'/><tag id='2'/></vlan>",
        "<vlan trunk='no'><tag id='1' nativeMode='tagged'/></vlan>",
        "<vlan trunk='yes'><tag id='1' nativeMode='tagged'/><tag id='2' nativeMode='untagged'/></vlan>",
        "<vlan><tag id='1'/><tag id='2'/></vlan>",
    ];
    let each = |wrap: &dyn Fn(&str) -> String, read: &dyn Fn(&[&str]) -> String| {
        let cases: Vec<_> = elements.iter().map(|e| wrap(e)).collect();
        read(&cases.iter().map(String::as_str).collect::<Vec<_>>())
    };
    insta::assert_snapshot!(each(&|e| e.to_owned(), &networks), @r#"
    accepted
    network 'lab', <inbound>: it needs 'average' (line 3, column 14)
    network 'lab', <outbound>: it needs 'average' (line 3, column 14)
    network 'lab', <inbound floor>: a guaranteed rate is not possible here (line 3, column 23); give floor in the <inbound> of a NIC
    network 'lab', <inbound floor>: a guaranteed rate is not possible here (line 3, column 23); give floor in the <inbound> of a NIC
    network 'lab', <outbound floor>: a guaranteed rate is not possible here (line 3, column 36); give floor in the <inbound> of a NIC
    network 'lab', <inbound average>: '-1' is not a number from 0 to 18014398509481983 (line 3, column 23)
    network 'lab', <vlan>: there is no <tag> in it (line 3, column 3); write <tag id='N'/> for each VLAN
    network 'lab', <vlan>: there is no <tag> in it (line 3, column 3); write <tag id='N'/> for each VLAN
    network 'lab', <tag id>: '4096' is not a number from 0 to 4095 (line 3, column 14)
    network 'lab', <tag id>: '-1' is not a number from 0 to 4095 (line 3, column 14)
    network 'lab', <vlan trunk>: several VLANs need trunk='yes' (line 3, column 9)
    network 'lab', <vlan trunk>: a native VLAN needs trunk='yes' (line 3, column 9)
    network 'lab', <tag nativeMode>: another <tag> is the native VLAN already (line 3, column 66)
    accepted
    "#);
    insta::assert_snapshot!(each(&|e| format!("<portgroup name='a'>{e}</portgroup>"), &networks), @r#"
    accepted
    network 'lab', <inbound>: it needs 'average' (line 3, column 34)
    network 'lab', <outbound>: it needs 'average' (line 3, column 34)
    network 'lab', <inbound floor>: a guaranteed rate is not possible here (line 3, column 43); give floor in the <inbound> of a NIC
    network 'lab', <inbound floor>: a guaranteed rate is not possible here (line 3, column 43); give floor in the <inbound> of a NIC
    network 'lab', <outbound floor>: a guaranteed rate is not possible here (line 3, column 56); give floor in the <inbound> of a NIC
    network 'lab', <inbound average>: '-1' is not a number from 0 to 18014398509481983 (line 3, column 43)
    network 'lab', <vlan>: there is no <tag> in it (line 3, column 23); write <tag id='N'/> for each VLAN
    network 'lab', <vlan>: there is no <tag> in it (line 3, column 23); write <tag id='N'/> for each VLAN
    network 'lab', <tag id>: '4096' is not a number from 0 to 4095 (line 3, column 34)
    network 'lab', <tag id>: '-1' is not a number from 0 to 4095 (line 3, column 34)
    network 'lab', <vlan trunk>: several VLANs need trunk='yes' (line 3, column 29)
    network 'lab', <vlan trunk>: a native VLAN needs trunk='yes' (line 3, column 29)
    network 'lab', <tag nativeMode>: another <tag> is the native VLAN already (line 3, column 86)
    accepted
    "#);
    let nic = |e: &str| format!("<interface type='network'><source network='lab'/>{e}</interface>");
    insta::assert_snapshot!(each(&nic, &nics), @r#"
    accepted
    NIC, <inbound>: it needs one of 'average' and 'floor' (line 1, column 61)
    NIC, <outbound>: it needs 'average' (line 1, column 61)
    NIC, <inbound>: 'peak' and 'burst' need 'average' (line 1, column 61)
    accepted
    NIC, <outbound floor>: a guaranteed rate is not possible here (line 1, column 83); give floor in the <inbound> of a NIC
    NIC, <inbound average>: '-1' is not a number from 0 to 18014398509481983 (line 1, column 70)
    NIC, <vlan>: there is no <tag> in it (line 1, column 50); write <tag id='N'/> for each VLAN
    NIC, <vlan>: there is no <tag> in it (line 1, column 50); write <tag id='N'/> for each VLAN
    NIC, <tag id>: '4096' is not a number from 0 to 4095 (line 1, column 61)
    NIC, <tag id>: '-1' is not a number from 0 to 4095 (line 1, column 61)
    NIC, <vlan trunk>: several VLANs need trunk='yes' (line 1, column 56)
    NIC, <vlan trunk>: a native VLAN needs trunk='yes' (line 1, column 56)
    NIC, <tag nativeMode>: another <tag> is the native VLAN already (line 1, column 113)
    accepted
    "#);
}

#[test]
fn interfaces() {
    insta::assert_snapshot!(nics(&[
        "<interface/>",
        "<interface type='network'/>",
        "<interface type='network'><source bridge='br0'/></interface>",
        "<interface type='ethernet'/>",
        "<interface type='vhostuser'/>",
        "<interface type='network'>\n  <source network='lab'/>\n  <filterref filter='clean-traffic'/>\n</interface>",
        "<interface type='bridge'><source bridge='br0'/><script path='/x'/></interface>",
        "<interface type='bridge'><source bridge='br0'/><actual type='direct'/></interface>",
        "<interface type='bridge'><source bridge='br0'/><modle type='virtio'/></interface>",
        "<interface type='bridge'><source bridge='br0'/><mac address='01:00:00:00:00:01'/></interface>",
        "<interface type='direct'><source dev='eth0' mode='bridged'/></interface>",
        "<interface type='none'><driver queues='0'/></interface>",
    ]), @r#"
    NIC, <interface>: the attribute 'type' is missing (line 1, column 1)
    NIC, <interface>: type 'network' needs a <source> (line 1, column 1); add <source network='…'/>
    NIC, <source>: the attribute 'network' is missing (line 1, column 27)
    NIC, <interface type>: type 'ethernet' is not supported (line 1, column 12); let a network or bridge make the tap: type 'network' or 'bridge'
    NIC, <interface type>: type 'vhostuser' is not supported (line 1, column 12); use one of 'network', 'bridge', 'direct', 'none'
    NIC, <filterref>: <filterref> is not accepted (line 3, column 3); network filters are not supported yet; remove it to go without
    NIC, <script>: <script> is not accepted (line 1, column 48); scripts are not run here; use a hook
    NIC, <actual>: <actual> is not accepted (line 1, column 48); what a NIC resolved to is this daemon's to say; remove it
    NIC, <modle>: there is no such element in <interface> (line 1, column 48)
    NIC, <mac address>: '01:00:00:00:00:01' is a multicast address: the second digit must be even (line 1, column 53)
    NIC, <source mode>: 'bridged' is none of 'vepa', 'bridge', 'private', 'passthrough' (line 1, column 45)
    NIC, <driver queues>: '0' is not a number from 1 to 256 (line 1, column 32)
    "#);
}

#[test]
fn updates() {
    let text = "<network><name>lab</name><ip address='10.0.0.1' prefix='24'><dhcp>\
        <host mac='52:54:00:00:00:01' ip='10.0.0.2'/></dhcp></ip><portgroup name='a' default='yes'/></network>";
    let network = read_network(text, Mode::Strict).expect("a network");
    let before = write_network(&network);
    use UpdateCommand::{AddLast, Delete, Modify};
    use UpdateSection as In;
    let cases = [
        (AddLast, In::Bridge, None, "<bridge name='x'/>"),
        (Modify, In::Bridge, None, "<bridge name='br%d'/>"),
        (Modify, In::Bridge, None, "<bridge stp='perhaps'/>"),
        (Modify, In::Domain, None, "<domain name='x.test'/>"),
        (Delete, In::Domain, None, "<domain name='x.test'/>"),
        (AddLast, In::Ip, None, "<ip address='10.0.0.1' prefix='16'/>"),
        (Modify, In::Ip, None, "<ip address='10.0.0.9' prefix='24'/>"),
        (Modify, In::Ip, Some(1), "<ip address='10.0.0.9' prefix='24'/>"),
        (Delete, In::Ip, Some(0), "<ip address='10.0.0.9' prefix='24'/>"),
        (Modify, In::Forward, None, "<forward mode='nat'/>"),
        (Delete, In::Forward, None, "<forward mode='nat'/>"),
        (AddLast, In::Forward, None, "<forward mode='bridge'/>"),
        (AddLast, In::ForwardPf, None, "<pf dev='eth0'/>"),
        (Delete, In::ForwardPf, None, "<pf dev='eth0'/>"),
        (Modify, In::ForwardPf, None, "<pf dev='eth0'/>"),
        (AddLast, In::IpDhcpHost, Some(3), "<host/>"),
        (AddLast, In::IpDhcpHost, None, "<range/>"),
        (AddLast, In::IpDhcpHost, None, "<host mac='52:54:00:00:00:01' ip='10.0.0.3'/>"),
        (Modify, In::IpDhcpHost, None, "<host mac='52:54:00:00:00:02' ip='10.0.0.3'/>"),
        (Delete, In::IpDhcpHost, None, "<host/>"),
        (Modify, In::IpDhcpRange, None, "<range start='10.0.0.5' end='10.0.0.6'/>"),
        (Delete, In::IpDhcpRange, None, "<range start='10.0.0.5' end='10.0.0.6'/>"),
        (AddLast, In::ForwardInterface, None, "<interface dev='eth0'/>"),
        (AddLast, In::Portgroup, None, "<portgroup name='a'/>"),
        (AddLast, In::Portgroup, None, "<portgroup name='b' default='yes'/>"),
        (Delete, In::DnsTxt, None, "<txt name='a'/>"),
        (AddLast, In::DnsSrv, None, "<srv protocol='tcp'/>"),
        (AddLast, In::DnsHost, None, "<host ip='10.0.0.1'><hostname>a</hostname>"),
    ];
    let told = cases.iter().fold(String::new(), |mut all, (command, section, parent, fragment)| {
        let told =
            network.update(*command, *section, *parent, fragment).map_or_else(|e| e.to_string(), |_| "done".into());
        writeln!(all, "{told}").expect("a String");
        all
    });
    insta::assert_snapshot!(told, @r#"
    network 'lab': a network's bridge can be modified, and neither added nor deleted; define the network anew
    network 'lab', <bridge name>: 'br%d' is a pattern for a name, and the bridge has one; leave it out
    network 'lab', <bridge stp>: 'perhaps' is none of 'on', 'off' (line 1, column 9)
    network 'lab': there is no domain
    network 'lab': there is no domain 'x.test'
    network 'lab': there is a host address 10.0.0.1 already
    network 'lab': there is no host address 10.0.0.9; to change an address, give the number of its <ip>, counted from 0
    network 'lab': there is no <ip> number 1: the network has 1; they are counted from 0
    network 'lab': there is no host address 10.0.0.9
    network 'lab': there is no <forward>; add one
    network 'lab': there is no <forward> of mode 'nat'
    network 'lab', <forward mode>: a network of mode 'none' has a bridge of its own, and one of mode 'bridge' has none; define it anew
    network 'lab': forward mode 'none' takes no <pf>
    network 'lab': forward mode 'none' takes no <pf>
    network 'lab': forward mode 'none' takes no <pf>
    network 'lab': there is no <ip> number 3: the network has 1; they are counted from 0
    network 'lab', <range>: the document's element is <range> (line 1, column 1); write <host>
    network 'lab': there is a reservation mac='52:54:00:00:00:01' ip='10.0.0.2' already
    network 'lab': there is no reservation mac='52:54:00:00:00:02' ip='10.0.0.3'
    network 'lab', <host>: it needs one of 'mac', 'name' and 'ip' to be found by (line 1, column 1)
    network 'lab': DHCP ranges can't be modified, only added and deleted; delete the old one and add the new one
    network 'lab': there is no range from 10.0.0.5 to 10.0.0.6
    network 'lab': forward mode 'none' takes no device
    network 'lab': there is a portgroup 'a' already
    network 'lab', <portgroup default>: 'a' and 'b' are both the default; only one portgroup can be it
    network 'lab': there is no TXT record 'a'
    network 'lab', <srv>: the attribute 'service' is missing (line 1, column 1)
    network 'lab': not well-formed XML: the root node was opened but never closed (line 1, column 1)
    "#);
    assert_eq!(write_network(&network), before);
}
