//! Rates in the kernel: what is set is what is read back, however large the numbers.
#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::{apply, kernel, make, plan, tap};
use patchcord_core::model::{MacAddr, Rate};
use patchcord_core::plan::rates::{Class, Classes, Limit};
use patchcord_core::plan::{Handover, LinkRef, Op};
use patchcord_testkit::in_namespace;

/// The classes of a bridge, with a guarantee for each of these MACs' last bytes.
fn classes(limit: Limit, promised: &[u8]) -> Classes {
    let class = |parent, destination, queue| Class { parent, limit, destination, queue };
    let mut classes = Classes::from([(1, class(None, None, false)), (2, class(Some(1), None, true))]);
    for last in promised {
        let mac = MacAddr([0x52, 0x54, 0, 0, 0, *last]);
        classes.insert(2 + u16::from(*last), class(Some(1), Some(mac), true));
    }
    classes
}

#[test]
fn what_is_read_is_what_was_set() {
    in_namespace(|ns| {
        let mut kernel = kernel();
        let link = make(&mut kernel, Op::MakeTap(tap("pct0", 1, Handover::Descriptor)));
        let here = LinkRef::Index(link);
        let averages = [1, 7, 1000, 15_000, 16_000, 123_457, 10_000_000, 4_000_000_000];
        for average in averages {
            for burst in [None, Some(1), Some(12_345)] {
                for peak in [None, Some(average * 3 + 1)] {
                    let limit = Limit::of(&Rate { average: Some(average), peak, burst, floor: None }).unwrap();
                    apply(&mut kernel, &plan([Op::AddHtb(here, classes(limit, &[1, 2]))]));
                    let believed = kernel.observed().shapes.clone();
                    kernel.snapshot().unwrap();
                    assert_eq!(kernel.observed().shapes, believed, "{average} {peak:?} {burst:?}");
                }
            }
        }
        // Class by class, with an address that is another one's now.
        let slow = Limit::of(&Rate { average: Some(50), ..Rate::default() }).unwrap();
        let wanted = classes(slow, &[1, 3]);
        let moved = Class { destination: wanted[&5].destination, ..wanted[&3] };
        let ops = [
            Op::EndClass(here, 4),
            Op::SetClass(here, 5, wanted[&5]),
            Op::EndClass(here, 5),
            Op::SetClass(here, 3, moved),
        ];
        apply(&mut kernel, &plan(ops));
        let believed = kernel.observed().shapes.clone();
        kernel.snapshot().unwrap();
        assert_eq!(kernel.observed().shapes, believed);
        let shown = ns.run("tc filter show dev pct0");
        assert!(shown.contains("00000003/ffffffff") && !shown.contains("00000001/ffffffff"), "{shown}");
        // What is gone is gone, also when it was before.
        apply(&mut kernel, &plan([Op::EndHtb(here), Op::EndHtb(here)]));
        assert!(kernel.snapshot().unwrap().observed.shapes.is_empty());
        assert!(ns.run("tc class show dev pct0").is_empty());
    });
}
