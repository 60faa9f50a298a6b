//! Packets, values and calls as bytes: what libvirt's clients were seen to send, and what nobody should.
#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

use patchcord_libvirt_wire::frame::{BadLength, HEADER, MAX_FRAME, REMOTE, VERSION};
use patchcord_libvirt_wire::reply::{
    DeviceLifecycle, Lease, Lifecycle, RemoteError, device_lifecycle, device_update, lifecycle, metadata_change,
};
use patchcord_libvirt_wire::xdr::{Malformed, Parameter, Reader, Value, Writer};
use patchcord_libvirt_wire::{
    Call, Decoder, Frame, Header, InterfaceCall, InterfaceRef, Kind, NetworkRef, Procedure, Reply, Status,
};
use proptest::prelude::*;

fn header(procedure: Procedure) -> Header {
    let procedure = procedure.number();
    Header { program: REMOTE, version: VERSION, procedure, kind: Kind::Call, serial: 7, status: Status::Ok }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn lab() -> NetworkRef {
    NetworkRef { name: "lab".into(), uuid: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16] }
}

const LAB: &str = "00000003 6c616200 0102030405060708090a0b0c0d0e0f10";

fn eth0() -> InterfaceRef {
    InterfaceRef { name: "eth0".into(), mac: "aa:bb".into() }
}

const ETH0: &str = "00000004 65746830 00000005 61613a6262000000";

#[test]
fn calls_about_interfaces_have_the_arguments_that_clients_write() {
    let with_flags = format!("{ETH0} 00000001");
    let interface = eth0;
    for (procedure, payload, expected) in [
        (Procedure::ConnectNumOfInterfaces, "", InterfaceCall::NumOf),
        (Procedure::ConnectNumOfDefinedInterfaces, "", InterfaceCall::NumOfDefined),
        (Procedure::ConnectListInterfaces, "00000009", InterfaceCall::List { max: 9 }),
        (Procedure::ConnectListDefinedInterfaces, "00000009", InterfaceCall::ListDefined { max: 9 }),
        (
            Procedure::ConnectListAllInterfaces,
            "00000001 00000003",
            InterfaceCall::ListAll { need_results: true, flags: 3 },
        ),
        (Procedure::InterfaceLookupByName, "00000004 65746830", InterfaceCall::LookupByName { name: "eth0".into() }),
        (Procedure::InterfaceLookupByMacString, "00000001 61000000", InterfaceCall::LookupByMac { mac: "a".into() }),
        (Procedure::InterfaceGetXmlDesc, &with_flags, InterfaceCall::GetXmlDesc { interface: interface(), flags: 1 }),
        (Procedure::InterfaceIsActive, ETH0, InterfaceCall::IsActive { interface: interface() }),
        (
            Procedure::InterfaceDefineXml,
            "00000001 78000000 00000001",
            InterfaceCall::DefineXml { xml: "x".into(), flags: 1 },
        ),
        (Procedure::InterfaceUndefine, ETH0, InterfaceCall::Undefine { interface: interface() }),
        (Procedure::InterfaceCreate, &with_flags, InterfaceCall::Create { interface: interface(), flags: 1 }),
        (Procedure::InterfaceDestroy, &with_flags, InterfaceCall::Destroy { interface: interface(), flags: 1 }),
        (Procedure::InterfaceChangeBegin, "00000000", InterfaceCall::ChangeBegin { flags: 0 }),
        (Procedure::InterfaceChangeCommit, "00000000", InterfaceCall::ChangeCommit { flags: 0 }),
        (Procedure::InterfaceChangeRollback, "00000000", InterfaceCall::ChangeRollback { flags: 0 }),
    ] {
        assert_eq!(Call::decode(procedure, &bytes(payload)), Ok(Call::Interface(expected)), "{procedure:?}");
        if !payload.is_empty() {
            assert!(Call::decode(procedure, &bytes(payload)[4..]).is_err(), "{procedure:?} with less");
        }
    }
}

#[test]
fn a_connection_begins_as_virsh_begins_it() {
    // AUTH_LIST, then whether signs of life are understood, then CONNECT_OPEN of network:///system.
    let said = bytes(
        "0000001c 20008086 00000001 00000042 00000000 00000000 00000000
         00000020 20008086 00000001 0000003c 00000000 00000001 00000000 0000000a
         0000003c 20008086 00000001 00000001 00000000 00000002 00000000
         00000001 00000011 6e6574776f726b3a2f2f2f7379737465 6d000000 00000000",
    );
    let mut decoder = Decoder::default();
    let mut calls = Vec::new();
    for byte in said {
        decoder.push(&[byte]);
        while let Some(Frame { header, payload }) = decoder.next_frame().unwrap() {
            assert_eq!((header.program, header.version, header.kind), (REMOTE, VERSION, Kind::Call));
            assert_eq!(header.serial as usize, calls.len());
            calls.push(Call::decode(Procedure::of(header.procedure).unwrap(), &payload).unwrap());
        }
    }
    let open = Call::ConnectOpen { name: Some("network:///system".into()), flags: 0 };
    assert_eq!(calls, [Call::AuthList, Call::ConnectSupportsFeature { feature: 10 }, open]);
    assert!(decoder.is_between());
}

#[test]
fn answers_have_the_layout_that_clients_read() {
    let lease = Lease {
        bridge: "virbr0".into(),
        expires: 0x1_0000_0002,
        ipv6: false,
        mac: Some("52:54:00:00:00:01".into()),
        iaid: None,
        ip: "10.0.0.2".into(),
        prefix: 24,
        hostname: None,
        client_id: Some("x".into()),
    };
    let cases = [
        (Reply::Nothing, String::new()),
        (Reply::Int(-1), "ffffffff".into()),
        (Reply::Ints(vec![0]), "0000000100000000".into()),
        (Reply::Uhyper(9_000_000), "0000000000895440".into()),
        (Reply::Text("abcde".into()), "000000056162636465000000".into()),
        (Reply::Texts(vec!["a".into()]), "000000010000000161000000".into()),
        (Reply::OptionalText(None), "00000000".into()),
        (Reply::OptionalText(Some("a".into())), "000000010000000161000000".into()),
        (Reply::Interface(eth0()), ETH0.into()),
        (Reply::Interfaces(vec![eth0()], 7), format!("00000001{ETH0}00000007")),
        (Reply::NodeDevice("abc".into()), "0000000361626300".into()),
        (Reply::NodeDeviceNames(vec!["abc".into()]), "000000010000000361626300".into()),
        (Reply::NodeDevices(vec!["abc".into()], 7), "00000001000000036162630000000007".into()),
        (Reply::Network(lab()), LAB.into()),
        (Reply::Networks(vec![lab()], 1), format!("00000001{LAB}00000001")),
        (Reply::Networks(Vec::new(), 9), "0000000000000009".into()),
        (
            Reply::Leases(vec![lease], 1),
            "00000001 00000006 766972627230 0000 0000000100000002 00000000
             00000001 00000011 35323a35343a30303a30303a30303a3031 000000 00000000
             00000008 31302e302e302e32 00000018 00000000 00000001 00000001 78000000 00000001"
                .into(),
        ),
        (
            Reply::Parameters(vec![Parameter { field: "abc".into(), value: Value::Uint(5) }], 1),
            "00000001 00000003 61626300 00000002 00000005 00000001".into(),
        ),
    ];
    for (reply, expected) in cases {
        assert_eq!(hex(&reply.encode()), expected.replace(char::is_whitespace, ""), "{reply:?}");
    }
    let error = RemoteError::new(43, 19, "Network not found", "no x");
    assert_eq!((error.message.as_str(), error.format.as_str()), ("Network not found: no x", "Network not found: %s"));
    let encoded = error.encode();
    let mut r = Reader::new(&encoded);
    assert_eq!((r.i32("").unwrap(), r.i32("").unwrap()), (43, 19));
    assert_eq!(r.option("", |r| r.string("")).unwrap().as_deref(), Some("Network not found: no x"));
    assert_eq!((r.i32("").unwrap(), r.u32("").unwrap()), (2, 0), "an error, without a domain");
    for text in [Some("Network not found: %s"), Some("no x"), None] {
        assert_eq!(r.option("", |r| r.string("")).unwrap().as_deref(), text);
    }
    assert_eq!((r.i32("").unwrap(), r.i32("").unwrap(), r.u32("").unwrap()), (-1, -1, 0));
    r.end().unwrap();
    let told = lifecycle(3, &lab(), Lifecycle::Stopped).encode();
    let expected = format!("0000004020008086000000010000013b000000020000000100000000 00000003{LAB}0000000300000000");
    assert_eq!(hex(&told), expected.replace(' ', ""));
    let told = device_lifecycle(3, "abc", DeviceLifecycle::Deleted).encode();
    assert_eq!(hex(&told[12..16]), "00000178");
    assert_eq!(hex(&told[28..]), "000000030000000361626300 00000001 00000000".replace(' ', ""));
    let told = device_update(3, "abc").encode();
    assert_eq!((hex(&told[12..16]).as_str(), hex(&told[28..]).as_str()), ("00000179", "000000030000000361626300"));
    let told = metadata_change(3, &lab(), 2, Some("urn:a")).encode();
    let expected = format!(
        "0000004c 20008086 00000001 000001be 00000002 00000001 00000000 00000003{LAB}00000002 00000001 00000005 75726e3a61000000"
    );
    assert_eq!(hex(&told), expected.replace(' ', ""));
}

#[test]
fn metadata_is_asked_for_as_newer_clients_ask() {
    // virNetworkSetMetadata(lab, ELEMENT, "<a/>", "k", "urn:a", CONFIG), and the title taken away.
    let element = bytes(&format!(
        "{LAB} 00000002 00000001 00000004 3c612f3e 00000001 00000001 6b000000 \
        00000001 00000005 75726e3a61000000 00000002"
    ));
    let set = |kind, metadata: Option<&str>, key: Option<&str>, uri: Option<&str>, flags| {
        let [metadata, key, uri] = [metadata, key, uri].map(|text| text.map(str::to_owned));
        Call::NetworkSetMetadata { net: lab(), kind, metadata, key, uri, flags }
    };
    let expected = set(2, Some("<a/>"), Some("k"), Some("urn:a"), 2);
    assert_eq!(Call::decode(Procedure::NetworkSetMetadata, &element), Ok(expected));
    let title = bytes(&format!("{LAB} 00000001 00000000 00000000 00000000 00000001"));
    assert_eq!(Call::decode(Procedure::NetworkSetMetadata, &title), Ok(set(1, None, None, None, 1)));
    let get = bytes(&format!("{LAB} 00000002 00000001 00000005 75726e3a61000000 00000000"));
    let expected = Call::NetworkGetMetadata { net: lab(), kind: 2, uri: Some("urn:a".into()), flags: 0 };
    assert_eq!(Call::decode(Procedure::NetworkGetMetadata, &get), Ok(expected));
    let numbers = [Procedure::NetworkSetMetadata, Procedure::NetworkGetMetadata].map(Procedure::number);
    assert_eq!(numbers, [444, 445]);
}

#[test]
fn what_no_client_sends_is_refused() {
    let payload = |write: &dyn Fn(&mut Writer)| {
        let mut w = Writer::default();
        write(&mut w);
        w.into_bytes()
    };
    let cases: [(Procedure, Vec<u8>, Malformed); 9] = [
        (Procedure::NetworkLookupByName, Vec::new(), Malformed::Short("the name")),
        (Procedure::NetworkLookupByName, bytes("00000005 61626364"), Malformed::Short("the name")),
        (Procedure::NetworkLookupByName, bytes("00000001 61"), Malformed::Short("the name")),
        (
            Procedure::NetworkLookupByName,
            bytes("ffffffff"),
            Malformed::TooMany { what: "the name", count: u32::MAX, limit: 4 << 20 },
        ),
        (Procedure::NetworkLookupByName, bytes("00000002 c3280000"), Malformed::NoText("the name")),
        (Procedure::NetworkLookupByName, bytes("00000002 61000000"), Malformed::NoText("the name")),
        (Procedure::ConnectClose, vec![0; 4], Malformed::Trailing(4)),
        (Procedure::ConnectOpen, bytes("00000002"), Malformed::NoSuch { what: "the URI", value: 2 }),
        (
            Procedure::ConnectSetIdentity,
            payload(&|w| {
                w.u32(1).string("x").i32(9).u64(0).u32(0);
            }),
            Malformed::NoSuch { what: "the identity", value: 9 },
        ),
    ];
    for (procedure, payload, expected) in cases {
        assert_eq!(Call::decode(procedure, &payload), Err(expected), "{procedure:?} {payload:?}");
    }
    // Twenty-one parameters, and a count that the bytes can't hold.
    let many = bytes(&format!("00000015{}", "00".repeat(400)));
    assert!(matches!(Call::decode(Procedure::ConnectSetIdentity, &many), Err(Malformed::TooMany { .. })));
    let few = bytes("00000014 00000000");
    assert_eq!(Call::decode(Procedure::ConnectSetIdentity, &few), Err(Malformed::Short("the identity")));

    for length in [0, 27, u32::try_from(MAX_FRAME + 1).unwrap(), u32::MAX] {
        let mut decoder = Decoder::default();
        decoder.push(&length.to_be_bytes());
        assert_eq!(decoder.next_frame(), Err(BadLength(length)));
    }
}

#[test]
fn each_procedure_has_one_number() {
    for procedure in Procedure::ALL {
        assert_eq!(Procedure::of(procedure.number()), Some(*procedure));
        assert!(procedure.api().starts_with("vir"), "{procedure:?}");
        // Zeros have too few arguments or too many, or are those: but there is a reader for them.
        let read = Call::decode(*procedure, &[0; 64]);
        assert!(!matches!(read, Err(Malformed::NoSuch { what: "the procedure", .. })), "{procedure:?}");
    }
    assert_eq!(Procedure::of(0), None);
    assert_eq!(Procedure::of(-1), None);
}

proptest! {
    #[test]
    fn packets_come_out_as_they_went_in(
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..5),
        cut in 1usize..50,
    ) {
        let frames: Vec<Frame> =
            payloads.into_iter().map(|payload| Frame { header: header(Procedure::NetworkCreate), payload }).collect();
        let stream: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        for part in stream.chunks(cut) {
            decoder.push(part);
            while let Some(frame) = decoder.next_frame().unwrap() {
                seen.push(frame);
            }
        }
        prop_assert_eq!(seen, frames);
        prop_assert!(decoder.is_between());
    }

    #[test]
    fn no_bytes_are_too_odd(payload in proptest::collection::vec(any::<u8>(), 0..300)) {
        for procedure in Procedure::ALL {
            let _ = Call::decode(*procedure, &payload);
        }
        let mut decoder = Decoder::default();
        decoder.push(&payload);
        while let Ok(Some(frame)) = decoder.next_frame() {
            prop_assert!(frame.payload.len() + HEADER <= payload.len());
        }
    }

    #[test]
    fn values_come_out_as_they_went_in(
        text in "\\PC{0,40}", number in any::<i64>(), on in any::<bool>(), double in any::<f64>(),
    ) {
        let parameter = |field: &str, value| Parameter { field: field.into(), value };
        let parameters = vec![
            parameter("a", Value::String(text.clone())),
            parameter("b", Value::Llong(number)),
            parameter("c", Value::Ullong(number as u64)),
            parameter("d", Value::Int(number as i32)),
            parameter("e", Value::Boolean(on)),
            parameter("f", Value::Uint(number as u32)),
            parameter("g", Value::Double(if double.is_nan() { 0.5 } else { double })),
        ];
        let mut w = Writer::default();
        w.parameters(&parameters).text(Some(&text)).text(None).i64(number);
        let written = w.into_bytes();
        prop_assert_eq!(written.len() % 4, 0);
        let mut r = Reader::new(&written);
        prop_assert_eq!(r.parameters(16, "").unwrap(), parameters);
        prop_assert_eq!(r.option("", |r| r.string("")).unwrap(), Some(text));
        prop_assert_eq!(r.option("", |r| r.string("")).unwrap(), None);
        prop_assert_eq!(r.i64("").unwrap(), number);
        prop_assert!(r.end().is_ok());
    }
}
