//! Links are found by what they are.

use super::*;
use proptest::prelude::*;

/// A link with these properties, out of few so that links come to share them.
fn link(index: u32, [kind, mac, mark, below, name]: [u8; 5]) -> Link {
    let kinds = [LinkKind::Tap, LinkKind::Macvtap, LinkKind::Bridge, LinkKind::Other(String::new())];
    let mark =
        (mark > 0).then(|| Mark { instance: Uuid::nil(), kind: MarkKind::Tap, id: Uuid::from_u128(mark.into()) });
    Link {
        index: Index(index),
        // As the kernel, no two have one name at a time.
        name: format!("{index}-{name}"),
        kind: kinds[usize::from(kind)].clone(),
        mac: (mac > 0).then_some(MacAddr([2, 0, 0, 0, 0, mac])),
        mtu: 1500,
        up: true,
        controller: (below & 1 != 0).then_some(Index(9)),
        lower: (below & 2 != 0).then_some(Index(8)),
        mode: None,
        all_multicast: false,
        carrier: true,
        state: OperState::default(),
        mark,
        group: if name == 3 { GROUP_DOOMED } else { 0 },
        bridge: None,
        bond: None,
        tag: None,
        port: None,
        vlan: VlanState::default(),
    }
}

proptest! {
    /// However they changed, links are found by what they are, and by nothing that they were.
    #[test]
    fn links_are_found_by_what_they_are(
        changes in proptest::collection::vec((1u32..4, proptest::option::of([0u8..4, 0u8..3, 0u8..3, 0u8..4, 0u8..4])), 1..20)
    ) {
        let mut observed = Observed::default();
        for (index, properties) in changes {
            observed.set_link(Index(index), properties.map(|properties| link(index, properties)));
            let links: Vec<Link> = observed.links().cloned().collect();
            let of = |which: &dyn Fn(&&Link) -> bool| -> Vec<&Link> { links.iter().filter(which).collect() };
            for n in 0..3 {
                let (id, mac) = (Uuid::from_u128(n.into()), MacAddr([2, 0, 0, 0, 0, n]));
                let marked = of(&|l| !l.is_doomed() && l.mark.is_some_and(|mark| mark.id == id));
                prop_assert_eq!(observed.links_marked(MarkKind::Tap, id).collect::<Vec<_>>(), marked);
                let is_tap = |l: &Link| matches!(l.kind, LinkKind::Tap | LinkKind::Macvtap) && l.mark.is_none();
                let foreign = of(&|l| is_tap(l) && l.mac == Some(mac));
                prop_assert_eq!(observed.foreign_taps(mac).collect::<Vec<_>>(), foreign);
            }
            let on = of(&|l| l.is_macvlan() && l.lower.is_some());
            prop_assert_eq!(observed.macvlans_on(Index(8)).collect::<Vec<_>>(), on);
            prop_assert_eq!(observed.ports(Index(9)), of(&|l| l.controller.is_some()).len());
            let names: Vec<String> = (1..4).flat_map(|i| (0..4).map(move |name| format!("{i}-{name}"))).collect();
            for name in names {
                prop_assert_eq!(observed.link_named(&name), of(&|l| l.name == name).first().copied());
            }
        }
    }
}
