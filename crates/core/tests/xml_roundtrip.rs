//! Properties of reading and printing: what was printed reads back as the same, and no bytes make the reader panic.

use patchcord_core::model::*;
use patchcord_core::xml::{
    Mode, TagForm, WriteOptions, read_network, read_nic, write_network, write_network_with, write_nic,
};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use uuid::Uuid;

fn yes_no() -> impl Strategy<Value = Option<bool>> {
    of(any::<bool>())
}

fn yes() -> impl Strategy<Value = Option<bool>> {
    of(Just(true))
}

fn name() -> impl Strategy<Value = Name> {
    "[ -.0-~äπ]{0,12}[a-z'\"<&>]".prop_map(|s| Name::new(s).expect("a name"))
}

fn tags() -> impl Strategy<Value = Vec<Tag>> {
    vec(name(), 0..3).prop_map(|tags| {
        tags.into_iter().fold(Vec::new(), |mut all, tag| {
            if !all.contains(&tag) {
                all.push(tag);
            }
            all
        })
    })
}

fn link() -> impl Strategy<Value = LinkName> {
    "[a-z][a-z0-9.-]{0,14}".prop_map(|s| LinkName::new(s).expect("a link name"))
}

fn plain() -> impl Strategy<Value = String> {
    "[ -~é✓]{1,20}"
}

fn mac() -> impl Strategy<Value = MacAddr> {
    any::<[u8; 5]>().prop_map(|[a, b, c, d, e]| MacAddr([0x52, a, b, c, d, e]))
}

fn uuid() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn vlan() -> impl Strategy<Value = Vlan> {
    let native = of(prop_oneof![Just(NativeMode::Tagged), Just(NativeMode::Untagged)]);
    (any::<bool>(), native, vec(1_u16..=4094, 1..4)).prop_map(|(trunk, native, ids)| {
        let trunk = trunk || native.is_some() || ids.len() > 1;
        let tag = |(n, id)| VlanTag { id, native: if n == 0 { native } else { None } };
        Vlan { trunk: trunk.then_some(true), tags: ids.into_iter().enumerate().map(tag).collect() }
    })
}

fn rate() -> impl Strategy<Value = Rate> {
    (1_u64..1 << 40, of(1_u64..1 << 40), of(1_u64..1 << 40)).prop_map(|(average, peak, burst)| Rate {
        average: Some(average),
        peak,
        burst,
        floor: None,
    })
}

fn bandwidth() -> impl Strategy<Value = Bandwidth> {
    (rate(), of(rate())).prop_map(|(inbound, outbound)| Bandwidth { inbound: Some(inbound), outbound })
}

fn text() -> impl Strategy<Value = String> {
    "[ -~\n\tß]{0,30}x"
}

fn dns() -> impl Strategy<Value = Dns> {
    let host = (any::<[u8; 4]>(), vec("[a-z0-9.-]{1,10}", 1..3))
        .prop_map(|(ip, hostnames)| DnsHost { ip: Some(Ipv4Addr::from(ip).into()), hostnames });
    let txt = ("[a-z._-]{1,9}", plain()).prop_map(|(name, value)| DnsTxt { name, value: Some(value) });
    let srv = ("[a-z-]{1,9}", "[a-z]{1,5}", of("[a-z.]{1,9}"), of(("[a-z.]{1,9}", of(1_u16..), of(1_u16..)))).prop_map(
        |(service, protocol, domain, target)| {
            let (target, port, weight) = target.map_or((None, None, None), |(t, p, w)| (Some(t), p, w));
            DnsSrv { service, protocol, domain, target, port, priority: None, weight }
        },
    );
    let forwarder = (any::<[u8; 16]>(), of("[a-z.]{1,9}"))
        .prop_map(|(addr, domain)| DnsForwarder { addr: Some(Ipv6Addr::from(addr).into()), domain });
    (yes(), yes_no(), vec(forwarder, 0..2), vec(txt, 0..3), vec(srv, 0..3), vec(host, 0..3)).prop_map(
        |(enable, forward_plain_names, forwarders, txts, srvs, hosts)| Dns {
            enable,
            forward_plain_names,
            forwarders,
            txts,
            srvs,
            hosts,
        },
    )
}

fn lease() -> impl Strategy<Value = Option<Expiry>> {
    of(prop_oneof![
        Just(Expiry { expiry: 0, unit: None }),
        (2_u64..999).prop_map(|expiry| Expiry { expiry, unit: Some(LeaseUnit::Minutes) }),
        (120_u64..999).prop_map(|expiry| Expiry { expiry, unit: Some(LeaseUnit::Seconds) }),
        (1_u64..999).prop_map(|expiry| Expiry { expiry, unit: Some(LeaseUnit::Hours) }),
    ])
}

/// An address `10.x.y.1/24`, the third and second octet given, with what may be in it.
fn ip(second: u8) -> impl Strategy<Value = Ip> {
    let at = move |third: u8, last: u8| IpAddr::V4(Ipv4Addr::new(10, second, third, last));
    let mask = prop_oneof![Just(Mask::Prefix(24)), Just(Mask::Netmask(Ipv4Addr::new(255, 255, 255, 0))),];
    let bootp = of((plain(), of(any::<[u8; 4]>())))
        .prop_map(|b| b.map(|(file, server)| Bootp { file, server: server.map(|s| Ipv4Addr::from(s).into()) }));
    let dhcp = (2_u8..100, 100_u8..200, lease(), vec((mac(), lease()), 0..3), bootp);
    (any::<u8>(), mask, of(Just(Family::V4)), yes_no(), of(plain()), of(dhcp)).prop_map(
        move |(third, mask, family, local_ptr, tftp_root, dhcp)| Ip {
            family,
            address: at(third, 1),
            mask: Some(mask),
            local_ptr,
            tftp_root,
            dhcp: dhcp.filter(|_| second == 0).map(|(start, end, lease, hosts, bootp)| Dhcp {
                ranges: vec![DhcpRange { start: at(third, start), end: at(third, end), lease }],
                hosts: (200..)
                    .zip(hosts)
                    .map(|(last, (mac, lease))| DhcpHost {
                        mac: Some(MacAddr([mac.0[0], mac.0[1], mac.0[2], mac.0[3], mac.0[4], last])),
                        id: None,
                        name: Some(format!("host-{last}")),
                        ip: Some(at(third, last)),
                        lease,
                    })
                    .collect(),
                bootp,
            }),
        },
    )
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let leaf =
        prop_oneof!["[ -~\nü]{0,9}x".prop_map(MetadataNode::Text), "[a-z]{0,9}".prop_map(MetadataNode::Comment),];
    let element = |name: String, children| MetadataElement {
        uri: "urn:a".into(),
        name: format!("a:{name}"),
        namespaces: Vec::new(),
        attributes: vec![("b".into(), "it's \"quoted\" <&>".into())],
        children,
    };
    let node = ("[a-z]{1,5}", vec(leaf, 0..2)).prop_map(move |(name, mut children)| {
        // Two texts side by side would be one.
        children.truncate(if matches!(children.first(), Some(MetadataNode::Text(_))) { 1 } else { 2 });
        MetadataNode::Element(element(name, children))
    });
    vec(node, 0..4).prop_map(move |children| {
        let mut whole = element("whole".into(), children);
        whole.namespaces = vec![("a".into(), "urn:a".into())];
        Metadata { namespaces: Vec::new(), elements: vec![whole] }
    })
}

fn portgroups() -> impl Strategy<Value = Vec<Portgroup>> {
    vec((name(), yes_no(), tags(), of(vlan()), of(bandwidth())), 0..4).prop_map(|all| {
        all.into_iter()
            .enumerate()
            .map(|(n, (name, trust_guest_rx_filters, tags, vlan, bandwidth))| Portgroup {
                name: Name::new(format!("{n} {name}")).expect("a name"),
                default: (n == 1).then_some(true),
                trust_guest_rx_filters,
                tags,
                vlan,
                virtualport: None,
                bandwidth,
            })
            .collect()
    })
}

fn network() -> impl Strategy<Value = Network> {
    let nat = (yes_no(), of((any::<[u8; 4]>(), any::<u8>())), of((1_u16..1000, 1000_u16..)));
    let forward = (0_usize..4, of(link()), nat);
    let bridge = (of(link()), any::<bool>(), 0_u32..100, of(plain()), yes());
    let first = (name(), yes(), yes_no(), of(uuid()), tags(), of(text()), of(text()), of(metadata()));
    let second = (forward, bridge, of(68_u32..=65535), of(mac()), of(("[a-z.]{1,9}", yes_no(), yes_no())), of(dns()));
    let third = (of(vlan()), of(bandwidth()), yes_no(), ip(0), of(ip(1)), portgroups(), vec(plain(), 0..3));
    (first, second, third).prop_map(|(first, second, third)| {
        let mut n = Network::new(first.0);
        (n.ipv6, n.trust_guest_rx_filters, n.uuid, n.tags) = (first.1, first.2, first.3, first.4);
        (n.title, n.description, n.metadata) = (first.5, first.6, first.7);
        let (mode, dev, (nat_ipv6, addresses, ports)) = second.0;
        n.forward.mode = [ForwardMode::Isolated, ForwardMode::Nat, ForwardMode::Route, ForwardMode::Open][mode];
        if matches!(n.forward.mode, ForwardMode::Nat | ForwardMode::Route) {
            n.forward.devices = dev.into_iter().map(|dev| DeviceRef { dev }).collect();
        }
        if n.forward.mode == ForwardMode::Nat {
            let to = |[a, b, c, _]: [u8; 4], last| Ipv4Addr::new(a, b, c, last);
            let addresses =
                addresses.map(|(start, last)| (to(start, start[3].min(last)), to(start, start[3].max(last))));
            n.forward.nat = Nat { ipv6: nat_ipv6, addresses, ports };
        }
        let (name, stp, delay, zone, manager) = second.1;
        n.bridge = Bridge {
            name,
            pattern: None,
            stp: Some(stp),
            delay: Some(delay),
            zone,
            mac_table_manager: manager.map(|_| MacTableManager::Libvirt),
        };
        (n.mtu, n.mac) = (second.2, second.3);
        n.domain = second.4.map(|(name, local_only, register)| Domain { name, local_only, register });
        n.dns = second.5.filter(|d| *d != Dns::default());
        (n.vlan, n.bandwidth, n.port_isolated) = (third.0, third.1, third.2);
        n.ips = std::iter::once(third.3).chain(third.4).collect();
        (n.portgroups, n.dnsmasq_options) = (third.5, third.6);
        n
    })
}

fn nic() -> impl Strategy<Value = Nic> {
    let mode = of(prop_oneof![Just(DirectMode::Vepa), Just(DirectMode::Passthrough)]);
    let source = prop_oneof![
        (name(), of(name())).prop_map(|(network, portgroup)| NicSource::Network { network, portgroup }),
        link().prop_map(|bridge| NicSource::Bridge { bridge }),
        (link(), mode).prop_map(|(dev, mode)| NicSource::Direct { dev, mode }),
        Just(NicSource::None),
    ];
    let first = (source, any::<bool>(), of(mac()), of(link()), tags(), of(bandwidth()), of(vlan()));
    let plug = prop_oneof![Just(DevicePlug::Cord), Just(DevicePlug::Macvtap)];
    let second = (yes_no(), yes_no(), of(any::<bool>()), of(68_u32..=65535), of(1_u16..=256), of(plug));
    (first, second).prop_map(|(first, second)| {
        let mut n = Nic::new(first.0);
        (n.optional, n.mac, n.target, n.tags, n.bandwidth, n.vlan) =
            (first.1, first.2, first.3, first.4, first.5, first.6);
        (n.trust_guest_rx_filters, n.port_isolated) = (second.0, second.1);
        n.link = second.2.map(|up| if up { LinkState::Up } else { LinkState::Down });
        (n.mtu, n.queues, n.plug) = (second.3, second.4, second.5);
        n.kept = vec!["<model type='virtio'/>".into(), "<boot order=\"1\"/>".into()];
        n.driver_attributes = vec![("name".into(), "vhost".into())];
        n
    })
}

proptest! {
    #[test]
    fn a_printed_network_reads_back_as_the_same(network in network()) {
        let printed = write_network(&network);
        let read = read_network(&printed, Mode::Strict).map_err(|e| TestCaseError::fail(format!("{e}\n{printed}")))?;
        prop_assert_eq!(&read, &network, "{}", printed);
    }

    #[test]
    fn tags_come_back_from_metadata(network in network()) {
        let options = WriteOptions { tags: TagForm::Metadata, ..WriteOptions::default() };
        let printed = write_network_with(&network, &options);
        prop_assert!(!printed.contains("<tag name="), "{}", printed);
        let read = read_network(&printed, Mode::Strict).map_err(|e| TestCaseError::fail(format!("{e}\n{printed}")))?;
        prop_assert_eq!(&read, &network, "{}", printed);
    }

    #[test]
    fn a_printed_nic_reads_back_as_the_same(nic in nic()) {
        let printed = write_nic(&nic);
        let read = read_nic(&printed).map_err(|e| TestCaseError::fail(format!("{e}\n{printed}")))?;
        prop_assert_eq!(&read, &nic, "{}", printed);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,60}|[<>/='\"a-z &!?\\[\\]#;-]{0,80}") {
        let _ = read_network(&text, Mode::Strict);
        let _ = read_nic(&text);
    }

    #[test]
    fn no_damage_makes_the_reader_panic(network in network(), at in any::<prop::sample::Index>(), put in "\\PC{0,3}", cut in 0_usize..9) {
        let printed = write_network(&network);
        let chars: Vec<char> = printed.chars().collect();
        let at = at.index(chars.len());
        let damaged: String = chars[..at].iter().chain(put.chars().collect::<Vec<_>>().iter()).chain(chars[(at + cut).min(chars.len())..].iter()).collect();
        for mode in [Mode::Strict, Mode::Lenient] {
            if let Ok(read) = read_network(&damaged, mode) {
                // What was accepted is as good as any other network.
                let again = read_network(&write_network(&read), Mode::Strict);
                prop_assert_eq!(again.as_ref(), Ok(&read), "{}", damaged);
            }
        }
    }
}

/// Documents that are cheap to send and would be dear to a careless reader: with none of them does it hang or overflow
/// its stack.
#[test]
fn hostile_documents_cost_little() {
    let filler = |text: &str| text.repeat(1_000_000 / text.len());
    let each = |item: &dyn Fn(usize) -> String| {
        let mut all = String::new();
        (0..)
            .map(item)
            .take_while(|item| {
                all.push_str(item);
                all.len() < 1_000_000
            })
            .for_each(drop);
        all
    };
    let network = |body: String| format!("<network><name>a</name>{body}</network>");
    let ip = |body: String| network(format!("<ip address='10.0.0.1' prefix='8'>{body}</ip>"));
    let documents = [
        filler("<a>"),
        filler("<"),
        filler("<a b='"),
        filler("<!--"),
        format!("<network {}/>", each(&|n| format!("a{n}='' "))),
        network(each(&|n| format!("<a xmlns:p{n}='u'/>"))),
        network(filler("<ip/>")),
        network(filler("<tag name='x'/>")),
        network(each(&|n| format!("<tag name='{n}'/>"))),
        network(each(&|n| format!("<portgroup name='{n}'/>"))),
        network(each(&|n| format!("<ip address='10.{}.{}.1' prefix='24'/>", n / 256 % 256, n % 256))),
        network(format!("<forward mode='vepa'>{}</forward>", each(&|n| format!("<interface dev='e{n}'/>")))),
        network(format!("<metadata xmlns:a='u'>{}</metadata>", filler("<a:b/>"))),
        ip(format!(
            "<dhcp>{}</dhcp>",
            each(&|n| { format!("<range start='10.{0}.{1}.2' end='10.{0}.{1}.9'/>", n / 256 % 256, n % 256) })
        )),
        ip(String::new()) + &filler(" "),
    ];
    for text in documents {
        let _ = read_network(&text, Mode::Strict);
        let _ = read_network(&text, Mode::Lenient);
        let _ = read_nic(&text);
    }
}
