//! `<bandwidth>`, `<vlan>`, trust and isolation: whose counts, and where each can be had.

use super::{ID, connections, for_each_connection, inbound, merged, name, nic, on_bridge, red, vlan};
use crate::merge::{Given, Merged, Precedence, merge};
use crate::model::{
    Bandwidth, ForwardMode, NativeMode, Network, Nic, NicSource, Rate, VirtualPort, VirtualPortType, Vlan, VlanTag,
};
use std::fmt::Write as _;

#[test]
fn whose_element_counts() {
    // Columns: what gives a value, as NIC, portgroup, network; then whose counts for bandwidth, VLAN, trust, isolation,
    // with x where the NIC is refused.
    let whose = |n: Option<u64>| n.map_or('-', |n| ['n', 'p', 'w'][n as usize - 1]);
    let mut table = String::new();
    for precedence in [Precedence::Nic, Precedence::Host] {
        writeln!(table, "{precedence:?}").unwrap();
        for mask in 0..8 {
            let has = |bit: u64| mask & (4 >> (bit - 1)) != 0;
            type Set<'a> = &'a dyn Fn(&mut Nic, &mut Network);
            let get = |set: Set<'_>| {
                let (mut nic, mut network) = (nic(), red(ForwardMode::Nat));
                set(&mut nic, &mut network);
                merge(&Given { object: format_args!("NIC"), nic: &nic, network: Some(&network), precedence, id: ID })
                    .ok()
            };
            let rate = |bit: u64| has(bit).then(|| inbound(bit));
            let bandwidth = get(&|nic, network| {
                nic.bandwidth = rate(1);
                (network.portgroups[0].bandwidth, network.bandwidth) = (rate(2), rate(3));
            });
            let bandwidth = bandwidth.map_or('x', |m| whose(m.bandwidth.and_then(|b| b.inbound?.average)));
            let tag = |bit: u64| has(bit).then(|| vlan(&[bit as u16]));
            let tagged = get(&|nic, network| {
                nic.vlan = tag(1);
                (network.portgroups[0].vlan, network.vlan) = (tag(2), tag(3));
            });
            let tagged = tagged.map_or('x', |m| whose(m.vlan.map(|v| u64::from(v.tags[0].id))));
            // A yes that counts shows among noes, and the other way round.
            let flag = |read: fn(&Merged) -> bool, set: fn(&mut Nic, &mut Network, [Option<bool>; 3])| {
                let counts = |bit: u64| {
                    let values = [1, 2, 3].map(|b| has(b).then_some(b == bit));
                    get(&|nic, network| set(nic, network, values)).map(|merged| read(&merged))
                };
                if (1..=3).any(|bit| counts(bit).is_none()) {
                    'x'
                } else {
                    whose((1..=3).find(|b| counts(*b) == Some(true)))
                }
            };
            let trust = flag(
                |m| m.trust_guest_rx_filters,
                |nic, network, [n, p, w]| {
                    nic.trust_guest_rx_filters = n;
                    network.portgroups[0].trust_guest_rx_filters = p;
                    network.trust_guest_rx_filters = w;
                },
            );
            let isolated =
                flag(|m| m.isolated, |nic, network, [n, _, w]| (nic.port_isolated, network.port_isolated) = (n, w));
            let given: String = (1..=3).map(|bit| if has(bit) { whose(Some(bit)) } else { '-' }).collect();
            writeln!(table, "{given} {bandwidth} {tagged} {trust} {isolated}").unwrap();
        }
    }
    insta::assert_snapshot!(table, @r#"
    Nic
    --- - - - -
    --w - w w w
    -p- p p p -
    -pw p p p w
    n-- n n n n
    n-w n n n n
    np- n n n n
    npw n n n n
    Host
    --- - - - -
    --w - w w w
    -p- p p p -
    -pw p p p w
    n-- x x x x
    n-w x w w w
    np- p p p x
    npw p p p w
    "#);
}

#[test]
fn an_element_counts_whole() {
    let (mut nic, mut network) = (nic(), red(ForwardMode::Nat));
    nic.bandwidth = Some(inbound(1));
    let both = Bandwidth { outbound: inbound(2).inbound, ..inbound(2) };
    network.portgroups[0].bandwidth = Some(both);
    assert_eq!(merged(&nic, &network).unwrap().bandwidth, Some(inbound(1)));
}

#[test]
fn each_vlan_on_each_connection() {
    let native = |native| Vlan { trunk: Some(true), tags: vec![VlanTag { id: 5, native: Some(native) }] };
    let vlans = [
        vlan(&[5]),
        Vlan { trunk: Some(true), ..vlan(&[5]) },
        vlan(&[5, 6]),
        native(NativeMode::Untagged),
        vlan(&[0]),
        vlan(&[4095]),
    ];
    let changes = vlans.map(|vlan| move |nic: &mut Nic| nic.vlan = Some(vlan.clone()));
    insta::assert_snapshot!(for_each_connection(&changes), @r#"
    isolated      yes      yes      yes      yes      -        -
    nat           yes      yes      yes      yes      -        -
    route         yes      yes      yes      yes      -        -
    open          yes      yes      yes      yes      -        -
    host bridge   yes      yes      yes      yes      -        -
    bridge        -        -        -        -        -        -
    private       -        -        -        -        -        -
    vepa          -        -        -        -        -        -
    passthrough   yes      -        -        -        yes      -
    hostdev       yes      -        -        -        yes      -
    type='bridge' yes      yes      yes      yes      -        -
    type='direct' -        -        -        -        -        -
    … passthrough yes      -        -        -        yes      -
    type='none'   yes      yes      yes      yes      yes      yes
    stopped       yes      yes      yes      yes      yes      yes
    "#);
}

#[test]
fn open_vswitch_takes_all_vlans() {
    let (mut nic, mut network) = (nic(), on_bridge());
    network.virtualport = Some(VirtualPort { kind: Some(VirtualPortType::OpenVSwitch), ..VirtualPort::default() });
    for ids in [&[0][..], &[4095], &[1, 2]] {
        nic.vlan = Some(vlan(ids));
        assert_eq!(merged(&nic, &network).unwrap().vlan, nic.vlan);
    }
}

#[test]
fn rates_and_isolation_on_each_connection() {
    let floor = Rate { floor: Some(7), ..Rate::default() };
    let changes: [&dyn Fn(&mut Nic); 4] = [
        &|nic| nic.bandwidth = Some(inbound(5)),
        &|nic| nic.bandwidth = Some(Bandwidth { inbound: Some(floor), outbound: None }),
        &|nic| nic.port_isolated = Some(true),
        &|nic| nic.port_isolated = Some(false),
    ];
    insta::assert_snapshot!(for_each_connection(&changes), @r#"
    isolated      yes      -        yes      yes
    nat           yes      -        yes      yes
    route         yes      -        yes      yes
    open          yes      -        yes      yes
    host bridge   yes      -        yes      yes
    bridge        yes      -        -        yes
    private       yes      -        -        yes
    vepa          yes      -        -        yes
    passthrough   yes      -        -        yes
    hostdev       -        -        -        yes
    type='bridge' yes      -        yes      yes
    type='direct' yes      -        -        yes
    … passthrough yes      -        -        yes
    type='none'   yes      yes      yes      yes
    stopped       yes      yes      yes      yes
    "#);
}

#[test]
fn promises_need_a_rate_to_promise_from() {
    let (mut nic, mut network) = (nic(), red(ForwardMode::Nat));
    nic.bandwidth = Some(Bandwidth { inbound: Some(Rate { floor: Some(7), ..Rate::default() }), outbound: None });
    for (own, fits) in [
        (None, false),
        (Some(Bandwidth { inbound: None, outbound: inbound(9).inbound }), false),
        (Some(inbound(9)), true),
    ] {
        network.bandwidth = own;
        assert_eq!(merged(&nic, &network).is_ok(), fits, "{:?}", network.bandwidth);
    }
}

#[test]
fn elements_that_are_refused() {
    let mut told = String::new();
    for (what, mut nic, network) in connections() {
        let mut tell = |nic: &Nic| {
            let given = Given {
                object: format_args!("NIC"),
                nic,
                network: network.as_ref(),
                precedence: Precedence::Nic,
                id: ID,
            };
            let error = merge(&given).unwrap_err();
            writeln!(told, "{:?}: {error}", error.kind).unwrap();
        };
        match what {
            "nat" => {
                nic.bandwidth =
                    Some(Bandwidth { inbound: Some(Rate { floor: Some(7), ..Rate::default() }), outbound: None });
                tell(&nic);
                nic.bandwidth = None;
                nic.vlan = Some(vlan(&[1, 4095]));
                tell(&nic);
            }
            "vepa" => {
                nic.vlan = Some(vlan(&[5]));
                tell(&nic);
                nic.vlan = None;
                nic.port_isolated = Some(true);
                tell(&nic);
            }
            "passthrough" => {
                nic.vlan = Some(vlan(&[5, 6]));
                tell(&nic);
            }
            "hostdev" => {
                nic.bandwidth = Some(inbound(5));
                tell(&nic);
            }
            "type='direct'" => {
                nic.bandwidth =
                    Some(Bandwidth { inbound: Some(Rate { floor: Some(7), ..Rate::default() }), outbound: None });
                tell(&nic);
            }
            _ => {}
        }
    }
    insta::assert_snapshot!(told, @r#"
    Unsupported: NIC, <inbound floor>: the NIC asks for 7 KiB/s at least, and network 'red' has no inbound rate of its own to promise from; give the network a <bandwidth> with <inbound average>, or remove floor
    Unsupported: NIC, <vlan>: the NIC asks for 2 VLANs, and network 'red' (forward mode 'nat') gives its NICs a bridge of its own, which has VLANs 1 to 4094, not 4095; give another <tag id>
    Unsupported: NIC, <vlan>: the NIC asks for VLAN 5, and network 'red' (forward mode 'vepa') gives its NICs a device of the host's (cord or macvtap), which has no VLANs, save in mode passthrough; use a bridge, or a VLAN link of the host's as the device
    Unsupported: NIC, <port isolated>: the NIC asks for isolation, and network 'red' (forward mode 'vepa') gives its NICs a device of the host's (cord or macvtap), which has none; remove it, or use a bridge; mode 'private' keeps NICs on one device apart
    Unsupported: NIC, <vlan>: the NIC asks for 2 VLANs, and network 'red' (forward mode 'passthrough') gives its NICs a device of the host's (cord or macvtap), which has one VLAN and no trunk; give one <tag>, and no trunk='yes'
    Unsupported: NIC, <bandwidth>: the NIC limits its rates, and network 'red' (forward mode 'hostdev') gives its NICs a PCI device, which nobody here can limit; remove <bandwidth>
    Unsupported: NIC, <inbound floor>: the NIC asks for 7 KiB/s at least, and its source is a device of the host's (cord or macvtap): only a network's own bridge promises rates; remove floor
    "#);
}

#[test]
fn every_reason_is_given() {
    // The fields that a refusal speaks of.
    let fields = |wanted: &Nic, network: &Network| -> Vec<String> {
        let error = merged(wanted, network).unwrap_err();
        let others = error.also.iter().map(|other| other.split(": ").next().unwrap().to_owned());
        error.field.into_iter().chain(others).collect()
    };
    let mut wanted = nic();
    wanted.virtualport = Some(VirtualPort { kind: Some(VirtualPortType::OpenVSwitch), ..VirtualPort::default() });
    let rate = Rate { floor: Some(100), ..Rate::default() };
    wanted.bandwidth = Some(Bandwidth { inbound: Some(rate), outbound: None });
    wanted.vlan = Some(vlan(&[5, 6]));
    wanted.port_isolated = Some(true);
    assert_eq!(
        fields(&wanted, &red(ForwardMode::Passthrough)),
        ["<virtualport type>", "<inbound floor>", "<vlan>", "<port isolated>"]
    );
    // What a portgroup that isn't there would have said is nobody's guess: only what the NIC itself says is looked at.
    wanted.source = NicSource::Network { network: name("red"), portgroup: Some(name("nobodys")) };
    let mut network = red(ForwardMode::Vepa);
    network.virtualport = Some(VirtualPort { kind: Some(VirtualPortType::Qbg), ..VirtualPort::default() });
    wanted.virtualport = None;
    assert_eq!(fields(&wanted, &network), ["<source portgroup>", "<inbound floor>", "<vlan>", "<port isolated>"]);
    // Contradictions in several parameters, and what is missing besides.
    let mut wanted = nic();
    let port = |manager_id, type_id| VirtualPort {
        kind: Some(VirtualPortType::Qbg),
        manager_id: Some(manager_id),
        type_id: Some(type_id),
        ..VirtualPort::default()
    };
    wanted.virtualport = Some(port(1, 2));
    network.virtualport = Some(port(3, 4));
    assert_eq!(
        fields(&wanted, &network),
        ["<parameters managerid>", "<parameters typeid>", "<virtualport parameters>"]
    );
}
