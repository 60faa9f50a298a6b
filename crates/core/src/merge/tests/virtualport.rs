//! `<virtualport>`: each parameter and each type in each place.

use super::{ID, for_each_connection, merged, nic, on_bridge, red};
use crate::model::{ForwardMode, Network, Nic, VirtualPort, VirtualPortType};
use std::fmt::Write as _;
use uuid::Uuid;

pub(super) const UUIDS: [Uuid; 2] = [Uuid::from_u128(0xa), Uuid::from_u128(0xb)];

/// A parameter, a type that has it, how to set it to one of two values, and how to read it back as text.
type Parameter = (&'static str, VirtualPortType, fn(&mut VirtualPort, usize), fn(&VirtualPort) -> Option<String>);

const PARAMETERS: [Parameter; 7] = {
    use VirtualPortType::{Midonet, OpenVSwitch, Qbg, Qbh};
    [
        ("managerid", Qbg, |p, n| p.manager_id = Some(n as u8), |p| p.manager_id.map(|v| v.to_string())),
        ("typeid", Qbg, |p, n| p.type_id = Some(n as u32), |p| p.type_id.map(|v| v.to_string())),
        ("typeidversion", Qbg, |p, n| p.type_id_version = Some(n as u8), |p| p.type_id_version.map(|v| v.to_string())),
        ("instanceid", Qbg, |p, n| p.instance_id = Some(UUIDS[n]), |p| p.instance_id.map(|v| v.to_string())),
        ("profileid", Qbh, |p, n| p.profile_id = Some(n.to_string()), |p| p.profile_id.clone()),
        ("interfaceid", OpenVSwitch, |p, n| p.interface_id = Some(UUIDS[n]), |p| p.interface_id.map(|v| v.to_string())),
        ("interfaceid", Midonet, |p, n| p.interface_id = Some(UUIDS[n]), |p| p.interface_id.map(|v| v.to_string())),
    ]
};

/// What the NIC, the portgroup and the network give (`-` nothing, `a` or `b`), and what comes out; `P` and `N` are
/// refusals that name the portgroup and the network beside the NIC.
const GIVEN: [(&str, char); 27] = [
    ("---", '-'),
    ("--a", 'a'),
    ("--b", 'b'),
    ("-a-", 'a'),
    ("-aa", 'a'),
    ("-ab", 'a'),
    ("-b-", 'b'),
    ("-ba", 'b'),
    ("-bb", 'b'),
    ("a--", 'a'),
    ("a-a", 'a'),
    ("a-b", 'N'),
    ("aa-", 'a'),
    ("aaa", 'a'),
    ("aab", 'a'),
    ("ab-", 'P'),
    ("aba", 'P'),
    ("abb", 'P'),
    ("b--", 'b'),
    ("b-a", 'N'),
    ("b-b", 'b'),
    ("ba-", 'P'),
    ("baa", 'P'),
    ("bab", 'P'),
    ("bb-", 'b'),
    ("bba", 'b'),
    ("bbb", 'b'),
];

/// A network that can carry that type, where the other parameters that it needs are given.
fn network_for(kind: VirtualPortType, without: &str) -> Network {
    let (mut network, mut port) = match kind {
        VirtualPortType::Qbg | VirtualPortType::Qbh => (red(ForwardMode::Vepa), VirtualPort::default()),
        VirtualPortType::OpenVSwitch | VirtualPortType::Midonet => (on_bridge(), VirtualPort::default()),
    };
    port.kind = Some(kind);
    for (parameter, of, set, _) in PARAMETERS {
        if of == kind && parameter != without {
            set(&mut port, 0);
        }
    }
    network.virtualport = Some(port);
    network
}

#[test]
fn each_parameter_in_each_place() {
    for (parameter, kind, set, get) in PARAMETERS {
        let text = |n: usize| {
            let mut port = VirtualPort::default();
            set(&mut port, n);
            get(&port).unwrap()
        };
        for (given, want) in GIVEN {
            let (mut nic, mut network) = (nic(), network_for(kind, parameter));
            let mut ports = [None, None, network.virtualport.take()];
            for (port, letter) in ports.iter_mut().zip(given.chars()) {
                if let Some(n) = "ab".find(letter) {
                    set(port.get_or_insert_default(), n);
                }
            }
            [nic.virtualport, network.portgroups[0].virtualport, network.virtualport] = ports;
            let got = merged(&nic, &network);
            let context = format!("{parameter} of {}, {given}: {got:?}", kind.as_str());
            match (want, got) {
                ('-', Ok(got)) => {
                    assert!(matches!(parameter, "instanceid" | "interfaceid") && kind != VirtualPortType::Midonet);
                    assert!(got.id_used, "{context}");
                    assert_eq!(get(&got.virtualport.unwrap()), Some(ID.to_string()), "{context}");
                }
                ('-', Err(e)) => {
                    assert!(e.to_string().contains(&format!("needs {parameter}, which nobody gives")), "{context}");
                }
                ('a' | 'b', Ok(got)) => {
                    // The rest, and no generated id, unless another parameter needs one.
                    assert_eq!(
                        get(got.virtualport.as_ref().unwrap()),
                        Some(text("ab".find(want).unwrap())),
                        "{context}"
                    );
                    assert!(!got.id_used, "{context}");
                }
                ('P' | 'N', Err(e)) => {
                    let place = if want == 'P' { "portgroup 'staff' of network 'red'" } else { "network 'red'" };
                    let (mine, theirs) = if given.starts_with('a') { (text(0), text(1)) } else { (text(1), text(0)) };
                    let cause = format!("the NIC says {parameter} {mine}, {place} says {theirs}");
                    assert_eq!((e.cause, e.field), (cause, Some(format!("<parameters {parameter}>"))), "{context}");
                }
                _ => panic!("{context}"),
            }
        }
    }
}

#[test]
fn each_type_in_each_place() {
    // `-` nothing, `o` a virtualport without a type, `g` 802.1Qbg, `h` 802.1Qbh.
    let port = |letter: char| {
        let kind = match letter {
            '-' => return None,
            'g' => Some(VirtualPortType::Qbg),
            'h' => Some(VirtualPortType::Qbh),
            _ => None,
        };
        Some(VirtualPort { kind, ..VirtualPort::default() })
    };
    let mut table = String::new();
    for n in ['-', 'o', 'g', 'h'] {
        for p in ['-', 'o', 'g', 'h'] {
            for w in ['-', 'o', 'g', 'h'] {
                let (mut nic, mut network) = (nic(), red(ForwardMode::Private));
                nic.virtualport = port(n);
                network.portgroups[0].virtualport = port(p);
                network.virtualport = port(w);
                let told = merged(&nic, &network);
                let types: Vec<char> = [n, p, w].into_iter().filter(|c| matches!(c, 'g' | 'h')).collect();
                let want = match (types.contains(&'g'), types.contains(&'h')) {
                    (true, true) => "says type '802.1Qb",
                    (true, false) => "type '802.1Qbg' needs managerid and typeid and typeidversion",
                    (false, true) => "type '802.1Qbh' needs profileid",
                    (false, false) => {
                        assert_eq!(told.unwrap().virtualport, None, "{n}{p}{w}");
                        continue;
                    }
                };
                let cause = told.unwrap_err().cause;
                assert!(cause.contains(want), "{n}{p}{w}: {cause}");
                if ![n, p, w].contains(&'o') && want.starts_with("says") {
                    writeln!(table, "{n}{p}{w} {cause}").unwrap();
                }
            }
        }
    }
    insta::assert_snapshot!(table, @r#"
    -gh portgroup 'staff' of network 'red' says type '802.1Qbg', network 'red' says '802.1Qbh'
    -hg portgroup 'staff' of network 'red' says type '802.1Qbh', network 'red' says '802.1Qbg'
    g-h the NIC says type '802.1Qbg', network 'red' says '802.1Qbh'
    ggh the NIC says type '802.1Qbg', network 'red' says '802.1Qbh'
    gh- the NIC says type '802.1Qbg', portgroup 'staff' of network 'red' says '802.1Qbh'
    ghg the NIC says type '802.1Qbg', portgroup 'staff' of network 'red' says '802.1Qbh'
    ghh the NIC says type '802.1Qbg', portgroup 'staff' of network 'red' says '802.1Qbh'
    h-g the NIC says type '802.1Qbh', network 'red' says '802.1Qbg'
    hg- the NIC says type '802.1Qbh', portgroup 'staff' of network 'red' says '802.1Qbg'
    hgg the NIC says type '802.1Qbh', portgroup 'staff' of network 'red' says '802.1Qbg'
    hgh the NIC says type '802.1Qbh', portgroup 'staff' of network 'red' says '802.1Qbg'
    hhg the NIC says type '802.1Qbh', network 'red' says '802.1Qbg'
    "#);
}

#[test]
fn each_type_on_each_connection() {
    let complete = |kind: VirtualPortType| {
        move |nic: &mut Nic| {
            let mut port = VirtualPort { kind: Some(kind), ..VirtualPort::default() };
            PARAMETERS.iter().filter(|(_, of, ..)| *of == kind).for_each(|(_, _, set, _)| set(&mut port, 0));
            nic.virtualport = Some(port);
        }
    };
    use VirtualPortType::{Midonet, OpenVSwitch, Qbg, Qbh};
    insta::assert_snapshot!(for_each_connection(&[Qbg, Qbh, OpenVSwitch, Midonet].map(complete)), @r#"
    isolated      -        -        -        -
    nat           -        -        -        -
    route         -        -        -        -
    open          -        -        -        -
    host bridge   -        -        yes      yes
    bridge        yes      yes      -        -
    private       yes      yes      -        -
    vepa          yes      yes      -        -
    passthrough   yes      yes      -        -
    hostdev       -        yes      -        -
    type='bridge' -        -        yes      yes
    type='direct' yes      yes      -        -
    … passthrough yes      yes      -        -
    type='none'   yes      yes      yes      yes
    stopped       yes      yes      yes      yes
    "#);
}

#[test]
fn virtualports_that_are_refused() {
    let mut told = String::new();
    let mut tell = |change: &dyn Fn(&mut Nic, &mut Network), network: Network| {
        let (mut nic, mut network) = (nic(), network);
        change(&mut nic, &mut network);
        let error = merged(&nic, &network).unwrap_err();
        writeln!(told, "{:?}: {error}", error.kind).unwrap();
    };
    let port = |kind, set: fn(&mut VirtualPort)| {
        let mut port = VirtualPort { kind, ..VirtualPort::default() };
        set(&mut port);
        Some(port)
    };
    use VirtualPortType::{OpenVSwitch, Qbg, Qbh};
    tell(&|nic, _| nic.virtualport = port(None, |p| p.type_id = Some(5)), red(ForwardMode::Vepa));
    tell(&|_, net| net.portgroups[0].virtualport = port(None, |p| p.type_id = Some(5)), red(ForwardMode::Vepa));
    tell(&|nic, _| nic.virtualport = port(Some(Qbg), |p| p.type_id = Some(5)), red(ForwardMode::Vepa));
    tell(
        &|nic, net| {
            nic.virtualport = port(Some(Qbg), |_| ());
            net.virtualport = port(Some(Qbh), |_| ());
        },
        red(ForwardMode::Vepa),
    );
    tell(
        &|_, net| {
            net.portgroups[0].virtualport = port(None, |p| p.manager_id = Some(1));
            net.virtualport = port(Some(OpenVSwitch), |_| ());
        },
        on_bridge(),
    );
    tell(&|nic, _| nic.virtualport = port(Some(Qbg), |_| ()), red(ForwardMode::Nat));
    tell(&|nic, _| nic.virtualport = port(Some(OpenVSwitch), |_| ()), red(ForwardMode::Passthrough));
    tell(&|_, net| net.virtualport = port(Some(Qbg), |_| ()), red(ForwardMode::Hostdev));
    insta::assert_snapshot!(told, @r#"
    InvalidXml: NIC of guest 'web', <virtualport type>: the NIC gives parameters of a virtualport, and nobody its type; give it in the <virtualport> of the NIC, its portgroup or its network
    InvalidXml: NIC of guest 'web', <virtualport type>: portgroup 'staff' of network 'red' gives parameters of a virtualport, and nobody its type; give it in the <virtualport> of the NIC, its portgroup or its network
    InvalidXml: NIC of guest 'web', <virtualport parameters>: a virtualport of type '802.1Qbg' needs managerid and typeidversion, which nobody gives; give it in the <virtualport> of the NIC, its portgroup or its network
    InvalidXml: NIC of guest 'web', <virtualport type>: the NIC says type '802.1Qbg', network 'red' says '802.1Qbh'; give it in one of the two places only
    InvalidXml: NIC of guest 'web', <parameters managerid>: portgroup 'staff' of network 'red' gives managerid, and a virtualport of type 'openvswitch' has none
    Unsupported: NIC of guest 'web', <virtualport type>: the NIC says type '802.1Qbg', and network 'red' (forward mode 'nat') gives its NICs a bridge of its own, where it means nothing; 802.1Qbg goes with a device of the host's (cord or macvtap), 802.1Qbh with that or a PCI device, openvswitch and midonet with a bridge of the host's; leave <virtualport> out to go without
    Unsupported: NIC of guest 'web', <virtualport type>: the NIC says type 'openvswitch', and network 'red' (forward mode 'passthrough') gives its NICs a device of the host's (cord or macvtap), where it means nothing; 802.1Qbg goes with a device of the host's (cord or macvtap), 802.1Qbh with that or a PCI device, openvswitch and midonet with a bridge of the host's; leave <virtualport> out to go without
    Unsupported: NIC of guest 'web', <virtualport type>: network 'red' says type '802.1Qbg', and network 'red' (forward mode 'hostdev') gives its NICs a PCI device, where it means nothing; 802.1Qbg goes with a device of the host's (cord or macvtap), 802.1Qbh with that or a PCI device, openvswitch and midonet with a bridge of the host's; leave <virtualport> out to go without
    "#);
}
