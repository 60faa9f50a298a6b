//! What holds whatever is given.

use super::virtualport::UUIDS;
use super::{ID, connections, inbound, name, vlan};
use crate::merge::{Given, Merged, Precedence, merge};
use crate::model::{Bandwidth, Name, NicSource, VirtualPort, VirtualPortType, Vlan};
use proptest::option::of;
use proptest::prelude::*;
use uuid::Uuid;

fn a_port() -> impl Strategy<Value = Option<VirtualPort>> {
    use VirtualPortType::{Midonet, OpenVSwitch, Qbg, Qbh};
    let kind = of(prop_oneof![3 => Just(Qbg), 1 => Just(Qbh), 1 => Just(OpenVSwitch), 1 => Just(Midonet)]);
    let uuid = || of((0usize..2).prop_map(|n| UUIDS[n]));
    let rest = (of(0u8..2), of(0u32..2), of(0u8..2), uuid(), of(prop_oneof![Just("x".to_owned())]), uuid());
    of((kind, rest).prop_map(
        |(kind, (manager_id, type_id, type_id_version, instance_id, profile_id, interface_id))| {
            let mut port =
                VirtualPort { kind, manager_id, type_id, type_id_version, instance_id, profile_id, interface_id };
            // Otherwise nearly all would be refused for it.
            match kind {
                Some(Qbg) | None => (port.profile_id, port.interface_id) = (None, None),
                Some(_) => {
                    (port.manager_id, port.type_id, port.type_id_version, port.instance_id) = (None, None, None, None)
                }
            }
            port
        },
    ))
}

type Elements = (Option<VirtualPort>, Option<Bandwidth>, Option<Vlan>, Option<bool>, Option<bool>, Vec<Name>);

fn elements() -> impl Strategy<Value = Elements> {
    let tags = proptest::collection::vec((0u8..4).prop_map(|n| name(&format!("t{n}"))), 0..3);
    let vlans = of(prop_oneof![Just(vlan(&[5])), Just(vlan(&[5, 6]))]);
    (a_port(), of((1u64..3).prop_map(inbound)), vlans, of(any::<bool>()), of(any::<bool>()), tags)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// What came out, given back as the NIC's own, comes out again.
    #[test]
    fn merging_twice_changes_nothing(
        which in 0usize..15,
        mine in elements(),
        portgroup in elements(),
        network in elements(),
        host in any::<bool>(),
    ) {
        let (_, mut nic, mut of) = connections().swap_remove(which);
        (nic.virtualport, nic.bandwidth, nic.vlan, nic.trust_guest_rx_filters, nic.port_isolated, nic.tags) = mine;
        if let Some(n) = &mut of {
            let p = &mut n.portgroups[0];
            (p.virtualport, p.bandwidth, p.vlan, p.trust_guest_rx_filters, _, p.tags) = portgroup;
            (n.virtualport, n.bandwidth, n.vlan, n.trust_guest_rx_filters, n.port_isolated, n.tags) = network;
        }
        let precedence = if host { Precedence::Host } else { Precedence::Nic };
        let once = merge(&Given { object: format_args!("NIC"), nic: &nic, network: of.as_ref(), precedence, id: ID });
        let Ok(once) = once else { return Ok(()) };
        if let NicSource::Network { portgroup, .. } = &mut nic.source {
            *portgroup = once.portgroup.clone();
        }
        nic.virtualport = once.virtualport.clone();
        nic.bandwidth = once.bandwidth.clone();
        nic.vlan = once.vlan.clone();
        nic.trust_guest_rx_filters = Some(once.trust_guest_rx_filters);
        nic.port_isolated = Some(once.isolated);
        nic.tags = once.tags.clone();
        let other = Uuid::from_u128(0x2d);
        let twice = merge(&Given { object: format_args!("NIC"), nic: &nic, network: of.as_ref(), precedence, id: other });
        prop_assert_eq!(twice, Ok(Merged { id_used: false, ..once }));
    }

    /// Where nobody says anything, nothing comes out.
    #[test]
    fn nothing_comes_of_nothing(which in 0usize..15, host in any::<bool>()) {
        let (_, nic, mut of) = connections().swap_remove(which);
        of.iter_mut().for_each(|n| n.portgroups.clear());
        let precedence = if host { Precedence::Host } else { Precedence::Nic };
        let got = merge(&Given { object: format_args!("NIC"), nic: &nic, network: of.as_ref(), precedence, id: ID });
        prop_assert_eq!(got, Ok(Merged::default()));
    }
}
