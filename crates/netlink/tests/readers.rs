//! Bytes from anywhere never make a reader panic.

use patchcord_netlink::fuzz_readers;
use proptest::prelude::*;

fn frame(kind: u16, value: Vec<u8>) -> Vec<u8> {
    let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Attributes that are well framed, with any types and values, some nested.
fn attributes() -> impl Strategy<Value = Vec<u8>> {
    let leaf = (0u16..70, prop::collection::vec(any::<u8>(), 0..24)).prop_map(move |(kind, value)| frame(kind, value));
    leaf.prop_recursive(4, 64, 6, move |inner| {
        (0u16..70, prop::collection::vec(inner, 0..6)).prop_map(move |(kind, parts)| frame(kind, parts.concat()))
    })
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        fuzz_readers(&bytes);
    }

    #[test]
    fn framed_attributes(
        kind in any::<u16>(),
        header in prop::collection::vec(any::<u8>(), 0..20),
        parts in prop::collection::vec(attributes(), 0..8),
    ) {
        let body = [header, parts.concat()].concat();
        let mut message = (body.len() as u32 + 16).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        fuzz_readers(&message);
    }

    #[test]
    fn traffic_controls_options(
        header in prop::collection::vec(any::<u8>(), 20),
        options in prop::collection::vec((0u16..12, prop::collection::vec(any::<u8>(), 0..70)), 0..6),
    ) {
        let options = options.into_iter().map(|(kind, value)| frame(kind, value)).collect::<Vec<_>>().concat();
        // What a kind or an action is called, and its options.
        let named = |name: &str, options: &[u8]| {
            [frame(1, [name.as_bytes(), &[0]].concat()), frame(2, options.to_vec())].concat()
        };
        for name in ["htb", "u32", "clsact"] {
            fuzz_readers(&[&header[..], &named(name, &options)].concat());
        }
        for name in ["mirred", "police", "gact"] {
            let action = frame(7, frame(1, named(name, &options)));
            fuzz_readers(&[&header[..], &named("u32", &action)].concat());
        }
    }
}

#[test]
fn every_attribute_type_with_few_bytes() {
    for kind in 0..80u16 {
        for length in 0..10usize {
            for header in [4usize, 8, 12, 16, 20] {
                for family in [0u8, 2, 7, 10] {
                    let mut body = vec![0; header];
                    body[0] = family;
                    body.extend((length as u16 + 4).to_ne_bytes());
                    body.extend(kind.to_ne_bytes());
                    body.resize(body.len() + length.next_multiple_of(4), 0);
                    fuzz_readers(&body);
                }
            }
        }
    }
}
