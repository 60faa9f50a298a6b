//! Our requests beside those of iproute2's `tc` 6.1 for the same wish, as strace shows them on a little-endian machine.
#![cfg(target_endian = "little")]

use std::num::{NonZeroU16, NonZeroU64};

use super::{ClassFilter, ClassNumber, Handle, Htb, HtbClass, Leaf, Police, Redirect};
use crate::attr::Attrs;
use crate::frame;
use crate::socket::Request;

const PRIORITY: NonZeroU16 = NonZeroU16::new(7).unwrap();
const COOKIE: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn encoded(request: &Request) -> Vec<u8> {
    let mut bytes = Vec::new();
    request.append(&mut bytes, 0);
    bytes
}

/// The request, compared with a whole message save its sequence number.
fn assert_sent(request: &Request, hex: &str) {
    let mut expected = bytes(hex);
    expected[8..12].fill(0);
    let sent = encoded(request);
    assert_eq!(sent, expected, "{}:\n{sent:02x?}\n{expected:02x?}", request.name());
}

/// The value at this path of attributes.
fn part(request: &Request, path: &[u16]) -> Vec<u8> {
    let sent = encoded(request);
    let mut value = &sent[frame::HEADER + super::HEADER..];
    for kind in path {
        value = Attrs::find(value, *kind).unwrap_or_else(|| panic!("no {kind} of {path:?}")).value;
    }
    value.to_vec()
}

#[test]
fn qdiscs() {
    assert_sent(
        &Request::add_clsact(3),
        "30000000 24000506 22aa056b 00000000 00000000 03000000 0000ffff f1ffffff 00000000 0b000100 636c7361 63740000",
    );
    assert_sent(
        &Request::delete_clsact(3),
        "30000000 25000500 1bac056b 00000000 00000000 03000000 0000ffff f1ffffff 00000000 0b000100 636c7361 63740000",
    );
    assert_sent(
        &Request::add_ingress(3),
        "30000000 24000506 3fd6056b 00000000 00000000 03000000 0000ffff f1ffffff 00000000 0c000100 696e6772 65737300",
    );
    assert_sent(
        &Request::no_queue(3),
        "30000000 24000506 3fd6056b 00000000 00000000 03000000 00000000 ffffffff 00000000 0c000100 6e6f7175 65756500",
    );
    assert_sent(
        &Request::add_htb(&Htb { link: 3, major: 1, default: 0x10 }),
        "48000000 24000506 22aa056b 00000000 00000000 03000000 00000100 ffffffff 00000000 08000100 68746200 1c000200
         18000200 03000000 0a000000 10000000 00000000 00000000",
    );
    assert_sent(
        &Request::delete_root(3, 1),
        "24000000 25000500 1bac056b 00000000 00000000 03000000 00000100 ffffffff 00000000",
    );
    let class = Handle { major: 1, minor: 0x10 };
    let mut pfifo = bytes(
        "38000000 24000506 00000000 00000000 00000000 03000000 00000000 10000100 00000000 0a000100 70666966 6f000000
         08000200 64000000",
    );
    // tc was told to add: NLM_F_EXCL in place of NLM_F_REPLACE.
    pfifo[7] ^= 3;
    assert_eq!(encoded(&Request::set_leaf(3, class, Leaf::Pfifo { limit: 100 })), pfifo);
}

#[test]
fn classes() {
    let class = HtbClass {
        link: 3,
        handle: Handle { major: 1, minor: 0x10 },
        parent: Handle { major: 1, minor: 0 },
        priority: 3,
        rate: 1_000_000,
        ceil: 2_000_000,
        burst: 10_000,
        cburst: 20_000,
        leaf: None,
    };
    let request = Request::set_htb_class(&class);
    let header = bytes("28000504 00000000 00000000 00000000 03000000 10000100 00000100 00000000 08000100 68746200");
    assert_eq!(encoded(&request)[4..44], header);
    // With "quantum 100000". tc names the step and the alignment of its tables in both rates; we send no tables.
    let mut expected =
        bytes("03010000 ffff0000 40420f00 03010000 ffff0000 80841e00 5a620200 5a620200 a0860100 00000000 03000000");
    for at in [0, 4, 5, 12, 16, 17] {
        expected[at] = 0;
    }
    assert_eq!(part(&request, &[2, 1]), expected);
    let fast = HtbClass { rate: 40_000_000_000, ceil: 50_000_000_000, ..class };
    let request = Request::set_htb_class(&fast);
    assert_eq!(part(&request, &[2, 6]), bytes("00902f50 09000000"));
    assert_eq!(part(&request, &[2, 7]), bytes("00743ba4 0b000000"));
    assert_eq!(part(&request, &[2, 1])[8..12], [0xff; 4]);
    assert_sent(
        &Request::delete_htb_class(3, Handle { major: 1, minor: 0x11 }),
        "24000000 29000500 1bac056b 00000000 00000000 03000000 11000100 00000000 00000000",
    );
}

#[test]
fn filters_on_what_comes_in() {
    assert_sent(
        &Request::redirect(&Redirect { link: 3, priority: PRIORITY, to: 2, cookie: COOKIE }),
        "a0000000 2c000504 22aa056b 00000000 00000000 03000000 02000080 f2ffffff 00030700 08000100 75333200 74000200
         4c000700 48000100 0b000100 6d697272 65640000 24000280 20000200 00000000 00000000 04000000 00000000 00000000
         01000000 02000000 14000600 00010203 04050607 08090a0b 0c0d0e0f 24000500 01000100 00000000 00000000 00000000
         00000000 00000000 00000000 00000000",
    );
    assert_sent(
        &Request::delete_filter(3, PRIORITY),
        "24000000 2d000500 1bac056b 00000000 00000000 03000000 00000000 f2ffffff 00030700",
    );
    let rate = |rate| NonZeroU64::new(rate).unwrap();
    let police =
        Police { link: 3, priority: PRIORITY, rate: rate(1_000_000), burst: 10_000, mtu: 65_536, cookie: COOKIE };
    let request = Request::police(&police);
    let header = bytes("2c000504 00000000 00000000 00000000 03000000 01000080 f2ffffff 00030700 08000100 75333200");
    assert_eq!(encoded(&request)[4..44], header);
    // As above, for one of the two rates.
    let mut expected = bytes(
        "00000000 02000000 00000000 5a620200 00000100 09010000 ffff0000 40420f00 00000000 00000000 00000000 00000000
         00000000 00000000",
    );
    expected[24..26].fill(0);
    assert_eq!(part(&request, &[2, 7, 1, 2, 1]), expected);
    assert_eq!(part(&request, &[2, 7, 1, 2, 2]).len(), 1024);
    assert_eq!(part(&request, &[2, 7, 1, 2, 5]), [0xff; 4]);
    let request = Request::police(&Police { rate: rate(40_000_000_000), ..police });
    assert_eq!(part(&request, &[2, 7, 1, 2, 8]), bytes("00902f50 09000000"));
}

#[test]
fn filters_into_classes() {
    let class = ClassNumber::new(0x10).unwrap();
    let destination = [0x52, 0x54, 0, 1, 2, 3];
    let filter = ClassFilter { link: 3, major: 1, priority: PRIORITY, class, destination };
    assert_sent(
        &Request::add_class_filter(&filter),
        "6c000000 2c000506 22aa056b 00000000 00000000 03000000 10000080 00000100 00030700 08000100 75333200 40000200
         08000100 10000100 34000500 01000200 00000000 00000000 00000000 0000ffff 00005254 f0ffffff 00000000 ffffffff
         00010203 f4ffffff 00000000",
    );
    for none in [0, 0x1000, u16::MAX] {
        assert_eq!(ClassNumber::new(none), None);
    }
}
