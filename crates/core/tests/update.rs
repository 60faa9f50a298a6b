//! Updates that succeed: where entries go, and what is left when the last one does.

use patchcord_core::model::{Network, UpdateCommand as Do, UpdateSection as In};
use patchcord_core::xml::{Mode, read_network, write_network};

const LAB: &str = "<network><name>lab</name>\
    <forward mode='nat' dev='eth0'/>\
    <dns><txt name='t' value='1'/><srv service='s' protocol='tcp'/><srv service='s' protocol='udp'/></dns>\
    <ip address='10.0.0.1' prefix='24'/>\
    <ip address='10.1.0.1' prefix='24'><dhcp><host mac='52:54:00:00:00:01' ip='10.1.0.2'/></dhcp></ip>\
    <portgroup name='a' default='yes'/></network>";

fn lab() -> Network {
    read_network(LAB, Mode::Strict).expect("a network")
}

/// The same with an element more.
fn lab_with(element: &str) -> Network {
    read_network(&LAB.replace("<dns>", &format!("{element}<dns>")), Mode::Strict).expect("a network")
}

/// The lines that an update takes away and adds.
fn change(command: Do, section: In, parent: Option<u32>, fragment: &str) -> String {
    changed(&lab(), command, section, parent, fragment)
}

/// The lines of `network` that an update takes away and adds.
fn changed(network: &Network, command: Do, section: In, parent: Option<u32>, fragment: &str) -> String {
    let before = write_network(network);
    let after = write_network(&network.update(command, section, parent, fragment).expect("an update"));
    let gone = before.lines().filter(|line| !after.lines().any(|l| l == *line)).map(|l| format!("- {}", l.trim()));
    let new = after.lines().filter(|line| !before.lines().any(|l| l == *line)).map(|l| format!("+ {}", l.trim()));
    gone.chain(new).collect::<Vec<_>>().join("\n")
}

fn order(network: &Network) -> Vec<&str> {
    network.portgroups.iter().map(|p| p.name.as_str()).collect()
}

#[test]
fn entries_go_first_or_last() {
    let first = lab().update(Do::AddFirst, In::Portgroup, None, "<portgroup name='b'/>").expect("an update");
    assert_eq!(order(&first), ["b", "a"]);
    let last = first.update(Do::AddLast, In::Portgroup, None, "<portgroup name='c'/>").expect("an update");
    assert_eq!(order(&last), ["b", "a", "c"]);
    let deleted = last.update(Do::Delete, In::Portgroup, None, "<portgroup name='a'/>").expect("an update");
    assert_eq!(order(&deleted), ["b", "c"]);
}

#[test]
fn each_section_changes_its_own() {
    // Without a number, the address that serves DHCP is meant.
    let host = "<host mac='52:54:00:00:00:02' ip='10.1.0.3'/>";
    assert_eq!(change(Do::AddFirst, In::IpDhcpHost, None, host), "+ <host mac='52:54:00:00:00:02' ip='10.1.0.3'/>");
    assert_eq!(
        change(Do::Modify, In::IpDhcpHost, None, "<host mac='52:54:00:00:00:01' name='n' ip='10.1.0.9'/>"),
        "- <host mac='52:54:00:00:00:01' ip='10.1.0.2'/>\n+ <host mac='52:54:00:00:00:01' name='n' ip='10.1.0.9'/>"
    );
    assert_eq!(
        change(Do::AddLast, In::IpDhcpRange, Some(1), "<range start='10.1.0.5' end='10.1.0.6'/>"),
        "+ <range start='10.1.0.5' end='10.1.0.6'/>"
    );
    assert_eq!(
        change(Do::Delete, In::ForwardInterface, None, "<interface dev='eth0'/>"),
        "- <forward dev='eth0' mode='nat'>\n- <interface dev='eth0'/>\n- </forward>\n+ <forward mode='nat'/>"
    );
    assert_eq!(change(Do::Delete, In::DnsSrv, None, "<srv protocol='udp'/>"), "- <srv service='s' protocol='udp'/>");
    assert_eq!(
        change(Do::AddLast, In::DnsHost, None, "<host ip='10.0.0.5'><hostname>h</hostname></host>"),
        "+ <host ip='10.0.0.5'>\n+ <hostname>h</hostname>\n+ </host>"
    );
    assert_eq!(change(Do::Delete, In::DnsTxt, None, "<txt name='t'/>"), "- <txt name='t' value='1'/>");
    assert_eq!(
        change(Do::Modify, In::DnsTxt, None, "<txt name='t' value='2'/>"),
        "- <txt name='t' value='1'/>\n+ <txt name='t' value='2'/>"
    );
}

#[test]
fn a_dns_host_is_known_by_its_address() {
    let of = |ip: &str, name: &str| format!("<host ip='{ip}'><hostname>{name}</hostname></host>");
    let host = lab().update(Do::AddLast, In::DnsHost, None, &of("10.0.0.5", "old")).expect("an update");
    let host = host.update(Do::AddLast, In::DnsHost, None, &of("10.0.0.6", "old")).expect("an update");
    let modified = changed(&host, Do::Modify, In::DnsHost, None, &of("10.0.0.6", "new"));
    assert_eq!(modified, "+ <hostname>new</hostname>");
    let error = host.update(Do::Modify, In::DnsHost, None, &of("10.0.0.7", "old")).expect_err("no such address");
    assert_eq!(error.to_string(), "network 'lab': there is no DNS host of that address");
}

#[test]
fn nothing_is_left_of_the_last_reservation() {
    assert_eq!(
        change(Do::Delete, In::IpDhcpHost, Some(1), "<host ip='10.1.0.2'/>"),
        "- <dhcp>\n- <host mac='52:54:00:00:00:01' ip='10.1.0.2'/>\n- </dhcp>"
    );
}

#[test]
fn a_deletion_that_fits_two_records_is_refused() {
    let error = lab().update(Do::Delete, In::DnsSrv, None, "<srv service='s'/>").expect_err("two records");
    assert_eq!(error.to_string(), "network 'lab': more than one SRV record matches; give more of its fields");
    let second = "<ip address='10.1.0.1' prefix='24'>";
    assert!(write_network(&lab()).contains(second));
    let error = lab().update(Do::AddLast, In::IpDhcpRange, Some(0), "<range start='10.0.0.5' end='10.0.0.6'/>");
    assert!(error.expect_err("two that serve").to_string().contains("a network serves one of each family"));
}

#[test]
fn what_is_one_element_is_replaced_as_a_whole() {
    // A bridge keeps its name where none is given, and nothing else.
    let named = lab_with("<bridge name='br7' stp='off' zone='home'/>");
    let text = "<bridge delay='3'/>";
    assert_eq!(
        changed(&named, Do::Modify, In::Bridge, None, text),
        "- <bridge name='br7' zone='home' stp='off' delay='0'/>\n+ <bridge name='br7' stp='on' delay='3'/>"
    );
    let domain = "<domain name='a.test' localOnly='yes'/>";
    assert_eq!(change(Do::AddLast, In::Domain, None, domain), format!("+ {domain}"));
    let with_domain = lab_with(domain);
    assert_eq!(
        changed(&with_domain, Do::Modify, In::Domain, None, "<domain name='b.test'/>"),
        format!("- {domain}\n+ <domain name='b.test'/>")
    );
    assert_eq!(changed(&with_domain, Do::Delete, In::Domain, None, "<domain name='a.test'/>"), format!("- {domain}"));
    assert_eq!(
        change(Do::Modify, In::Forward, None, "<forward mode='route' dev='eth1'/>"),
        "- <forward dev='eth0' mode='nat'>\n- <interface dev='eth0'/>\n\
         + <forward dev='eth1' mode='route'>\n+ <interface dev='eth1'/>"
    );
    assert!(change(Do::Delete, In::Forward, None, "<forward/>").ends_with("- </forward>"));
}

#[test]
fn an_address_is_meant_by_itself_or_by_its_number() {
    let second = "<ip address='10.1.0.1' prefix='16'/>";
    let found = change(Do::Modify, In::Ip, None, second);
    assert!(
        found.contains("- <ip address='10.1.0.1' prefix='24'>")
            && found.contains("+ <ip address='10.1.0.1' prefix='16'")
    );
    assert_eq!(
        change(Do::Modify, In::Ip, Some(0), "<ip address='10.2.0.1' prefix='24'/>"),
        "- <ip address='10.0.0.1' prefix='24'>\n+ <ip address='10.2.0.1' prefix='24'>"
    );
    let six = "<ip family='ipv6' address='fd00::1' prefix='64'>";
    let added = lab().update(Do::AddFirst, In::Ip, None, "<ip family='ipv6' address='fd00::1' prefix='64'/>");
    let added = added.expect("an update");
    assert_eq!(added.ips[0].address.to_string(), "fd00::1");
    assert!(write_network(&added).contains(six));
    let deleted = added.update(Do::Delete, In::Ip, None, "<ip address='10.1.0.1'/>").expect("an update");
    assert_eq!(deleted.ips.iter().map(|ip| ip.address.to_string()).collect::<Vec<_>>(), ["fd00::1", "10.0.0.1"]);
}

#[test]
fn a_pool_gets_other_functions() {
    let pool = "<network><name>p</name><forward mode='passthrough'><pf dev='eth0'/></forward></network>";
    let pool = read_network(pool, Mode::Strict).expect("a network");
    let other = pool.update(Do::Modify, In::ForwardPf, None, "<pf dev='eth1'/>").expect("an update");
    assert_eq!(other.forward.pf.as_ref().map(ToString::to_string).as_deref(), Some("eth1"));
    let error = other.update(Do::Delete, In::ForwardPf, None, "<pf dev='eth1'/>").expect_err("nothing is left");
    assert!(error.to_string().contains("needs a device"), "{error}");
    let error = other.update(Do::AddLast, In::ForwardPf, None, "<pf dev='eth2'/>").expect_err("one is enough");
    assert_eq!(error.to_string(), "network 'p': there is a <pf>, eth1, already");
}
