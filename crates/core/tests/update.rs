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

/// The lines that an update takes away and adds.
fn change(command: Do, section: In, parent: Option<u32>, fragment: &str) -> String {
    let before = write_network(&lab());
    let after = write_network(&lab().update(command, section, parent, fragment).expect("an update"));
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
