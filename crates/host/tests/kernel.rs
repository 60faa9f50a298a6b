//! Plans on a kernel of their own, seen with `ip`, `bridge` and `nft`.
#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use std::os::fd::AsFd;
use std::time::Duration;

use common::{
    INSTANCE, NETWORKS, active, apply, bridge, everything, exists, kernel, link, make, network_plan, plan, step, tap,
};
use patchcord_core::intent::Intent;
use patchcord_core::model::MacAddr;
use patchcord_core::plan::{
    BridgeState, Change, Handover, Index, Link, LinkChange, LinkRef, Mark, Observed, Op, Plan, PortFlags, RouteSpec,
    Sysctl,
};
use patchcord_host::kernel::Kernel;
use patchcord_host::{observe, tap as taps};
use patchcord_testkit::{Guest, Namespace, in_namespace, wait_until};
use serde_json::{Value, json};
use uuid::Uuid;

const GUEST: MacAddr = MacAddr([0x52, 0x54, 0, 0, 2, 9]);

fn up() -> LinkChange {
    LinkChange { up: Some(true), ..LinkChange::default() }
}

fn into_bridge(controller: LinkRef) -> LinkChange {
    LinkChange { controller: Some(Some(controller)), ..up() }
}

fn sysctl(ns: &Namespace, key: &str) -> String {
    ns.run(&format!("sysctl -n net.{}", key.replace('/', "."))).trim().to_owned()
}

fn gone(ns: &Namespace, name: &str) {
    wait_until("the link to go", Duration::from_secs(5), || if exists(ns, name) { Err("there") } else { Ok(()) });
}

#[test]
fn links_are_made_marked_and_quiet() {
    in_namespace(|ns| {
        let mut kernel = kernel();
        let mut spec = bridge("virbr0", 1, 1400);
        spec.settings = BridgeState { stp: true, delay: 400 };
        let sw = make(&mut kernel, Op::MakeBridge(spec.clone()));
        let seen = link(ns, "virbr0");
        assert_eq!(seen["ifindex"], sw.0);
        assert_eq!(seen["address"], spec.mac.to_string());
        assert_eq!((&seen["mtu"], &seen["operstate"]), (&json!(1400), &json!("DOWN")));
        assert_eq!(seen["ifalias"], spec.mark.to_string());
        assert_eq!(seen["group"], "28771");
        assert_eq!(seen["inet6_addr_gen_mode"], "none");
        assert_eq!(seen["linkinfo"]["info_data"]["stp_state"], 1);
        assert_eq!(seen["linkinfo"]["info_data"]["forward_delay"], 400);

        let mut spec = tap("pct0", 2, Handover::Descriptor);
        (spec.queues, spec.mtu) = (3, 1400);
        let applied = apply(
            &mut kernel,
            &plan([Op::MakeTap(spec.clone()), Op::SetLink(LinkRef::MadeBy(0), into_bridge(LinkRef::Index(sw)))]),
        );
        let seen = link(ns, "pct0");
        assert_eq!(applied.outcome.made, [Some(Index(seen["ifindex"].as_u64().unwrap() as u32)), None]);
        let [(nic, fds)] = &applied.taps[..] else { panic!("{:?}", applied.taps) };
        assert_eq!((*nic, fds.len()), (spec.mark.id, 3));
        for fd in fds {
            assert_eq!(taps::name_of(fd.as_fd()).unwrap(), "pct0");
        }
        assert_eq!(seen["address"], spec.mac.unwrap().to_string());
        assert_eq!((&seen["mtu"], &seen["master"]), (&json!(1400), &json!("virbr0")));
        assert_eq!(seen["ifalias"], spec.mark.to_string());
        assert_eq!((&seen["group"], &seen["inet6_addr_gen_mode"]), (&json!("28771"), &json!("none")));
        assert!(seen["flags"].as_array().unwrap().contains(&json!("UP")));
        assert_eq!(sysctl(ns, "ipv6/conf/pct0/disable_ipv6"), "1");
        let port = &ns.json("bridge -d -j link show dev pct0")[0];
        assert_eq!((&port["isolated"], &port["learning"], &port["flood"]), (&json!(false), &json!(true), &json!(true)));

        let by_name = tap("pct1", 3, Handover::Name { uid: Some(1234) });
        let applied = apply(&mut kernel, &plan([Op::MakeTap(by_name)]));
        assert!(applied.taps.is_empty());
        let info = link(ns, "pct1")["linkinfo"]["info_data"].clone();
        assert_eq!(
            (&info["persist"], &info["user"], &info["multi_queue"]),
            (&json!(true), &json!(1234), &json!(false))
        );
        make(&mut kernel, Op::MakeTap(tap("pct2", 4, Handover::Name { uid: None })));
        // Owned by root, not by nobody in particular, which would be everybody.
        assert!(ns.run("ip -d link show dev pct2").contains("user root"));
    });
}

#[test]
fn links_too_small_for_ipv6_are_made_all_the_same() {
    in_namespace(|ns| {
        let mut kernel = kernel();
        let mut small = tap("pct0", 2, Handover::Descriptor);
        small.mtu = 1000;
        let held = apply(&mut kernel, &plan([Op::MakeTap(small), Op::MakeBridge(bridge("virbr0", 1, 600))]));
        let quiet = Op::SetSysctl(Sysctl::DisableIpv6("virbr0".into()), "1".into());
        apply(&mut kernel, &plan([quiet]));
        assert_eq!((&link(ns, "pct0")["mtu"], &link(ns, "virbr0")["mtu"]), (&json!(1000), &json!(600)));
        drop(held);
    });
}

#[test]
fn links_addresses_routes_and_entries_change_as_asked() {
    in_namespace(|ns| {
        let mut kernel = kernel();
        let sw = LinkRef::Index(make(&mut kernel, Op::MakeBridge(bridge("virbr0", 1, 1500))));
        let made = apply(&mut kernel, &plan([Op::MakeTap(tap("pct0", 2, Handover::Descriptor))]));
        let pct = LinkRef::Index(made.outcome.made[0].unwrap());
        let net = |text: &str| text.parse().unwrap();
        let route = RouteSpec { to: net("10.9.0.0/16"), via: Some("192.168.122.9".parse().unwrap()), metric: 1 };
        let route6 = RouteSpec { to: net("fd09::/48"), via: Some("fd00::9".parse().unwrap()), metric: 7 };
        let ops = [
            Op::AddAddress(sw, net("192.168.122.1/24")),
            Op::AddAddress(sw, net("10.0.0.1/32")),
            Op::AddAddress(sw, net("fd00::1/64")),
            Op::SetLink(sw, up()),
            Op::SetLink(pct, into_bridge(sw)),
            Op::SetPort(pct, PortFlags { isolated: true, learning: false, flood: false }),
            Op::SetForwarding { port: pct, mac: GUEST, present: true },
            Op::AddRoute(sw, route.clone()),
            Op::AddRoute(sw, route6.clone()),
            Op::SetBridge(sw, BridgeState { stp: true, delay: 500 }),
            Op::SetSysctl(Sysctl::Ipv4Forward, "1".into()),
            Op::SetSysctl(Sysctl::AcceptRa("virbr0".into()), "0".into()),
        ];
        // Twice: what is there already is done.
        for _ in 0..2 {
            apply(&mut kernel, &plan(ops.clone()));
        }
        let addresses = ns.json("ip -j addr show dev virbr0")[0]["addr_info"].clone();
        let seen: Vec<_> = addresses
            .as_array()
            .unwrap()
            .iter()
            .map(|a| {
                (
                    a["local"].clone(),
                    a["prefixlen"].clone(),
                    a["broadcast"].clone(),
                    a["nodad"].clone(),
                    a["protocol"].clone(),
                )
            })
            .collect();
        let (null, ours) = (Value::Null, |n: &Value| *n == json!("112") || *n == json!("0x70") || n.is_null());
        assert!(seen.iter().all(|a| ours(&a.4)), "{seen:?}");
        let seen: Vec<_> = seen.into_iter().map(|(local, len, brd, nodad, _)| (local, len, brd, nodad)).collect();
        assert_eq!(
            seen,
            [
                (json!("192.168.122.1"), json!(24), json!("192.168.122.255"), null.clone()),
                (json!("10.0.0.1"), json!(32), null.clone(), null.clone()),
                (json!("fd00::1"), json!(64), null.clone(), json!(true)),
            ]
        );
        let routes = ns.json("ip -j route show 10.9.0.0/16");
        assert_eq!(
            (&routes[0]["gateway"], &routes[0]["metric"], &routes[0]["protocol"]),
            (&json!("192.168.122.9"), &json!(1), &json!("112"))
        );
        assert_eq!(ns.json("ip -6 -j route show fd09::/48")[0]["metric"], 7);
        let port = &ns.json("bridge -d -j link show dev pct0")[0];
        assert_eq!(
            (&port["isolated"], &port["learning"], &port["flood"]),
            (&json!(true), &json!(false), &json!(false))
        );
        assert!(ns.run("bridge fdb show dev pct0").contains(&format!("{GUEST} master virbr0 static")));
        let info = link(ns, "virbr0")["linkinfo"]["info_data"].clone();
        assert_eq!((&info["stp_state"], &info["forward_delay"]), (&json!(1), &json!(500)));
        assert_eq!(sysctl(ns, "ipv4/ip_forward"), "1");
        assert_eq!(sysctl(ns, "ipv6/conf/virbr0/accept_ra"), "0");

        let ops = [
            Op::SetForwarding { port: pct, mac: GUEST, present: false },
            Op::RemoveRoute(sw, route),
            Op::RemoveRoute(sw, route6),
            Op::RemoveAddress(sw, net("192.168.122.1/24")),
            Op::RemoveAddress(sw, net("fd00::1/64")),
            Op::SetBridge(sw, BridgeState { stp: false, delay: 0 }),
            Op::SetLink(pct, LinkChange { controller: Some(None), mtu: Some(1300), ..LinkChange::default() }),
        ];
        for _ in 0..2 {
            apply(&mut kernel, &plan(ops.clone()));
        }
        assert_eq!(ns.json("ip -j addr show dev virbr0")[0]["addr_info"].as_array().unwrap().len(), 1);
        assert_eq!(ns.run("ip route show proto 112") + &ns.run("ip -6 route show proto 112"), "");
        assert!(!ns.run("bridge fdb show dev pct0").contains("static"));
        let seen = link(ns, "pct0");
        assert_eq!((&seen["master"], &seen["mtu"]), (&Value::Null, &json!(1300)));
        let info = link(ns, "virbr0")["linkinfo"]["info_data"].clone();
        assert_eq!((&info["stp_state"], &info["forward_delay"]), (&json!(0), &json!(0)));
    });
}

#[test]
fn a_written_entry_takes_the_place_of_a_learned_one() {
    in_namespace(|ns| {
        let mut kernel = kernel();
        let sw = LinkRef::Index(make(&mut kernel, Op::MakeBridge(bridge("virbr0", 1, 1500))));
        let ops = [
            Op::MakeTap(tap("pct0", 2, Handover::Descriptor)),
            Op::SetLink(LinkRef::MadeBy(0), into_bridge(sw)),
            Op::MakeTap(tap("pct1", 3, Handover::Descriptor)),
            Op::SetLink(LinkRef::MadeBy(2), into_bridge(sw)),
            Op::SetLink(sw, up()),
        ];
        let made = apply(&mut kernel, &plan(ops)).outcome.made;
        ns.run(&format!("bridge fdb add {GUEST} dev pct1 master dynamic"));
        let port = LinkRef::Index(made[0].unwrap());
        apply(&mut kernel, &plan([Op::SetForwarding { port, mac: GUEST, present: true }]));
        assert!(ns.run("bridge fdb show dev pct0").contains(&format!("{GUEST} master virbr0 static")));
        assert!(!ns.run("bridge fdb show dev pct1").contains(&GUEST.to_string()));
    });
}

#[test]
fn a_refused_step_takes_back_everything_and_says_why() {
    in_namespace(|ns| {
        ns.run("ip link add host0 type bridge");
        ns.run("ip link set host0 addrgenmode none");
        ns.run("ip link set host0 up");
        ns.run("ip link add v0 type veth peer name v1");
        ns.run("nft add table inet theirs");
        let mut kernel = kernel();
        let old = make(&mut kernel, Op::MakeBridge(bridge("virbr9", 9, 1500)));
        let held = apply(
            &mut kernel,
            &plan([
                Op::MakeTap(tap("pct9", 8, Handover::Descriptor)),
                Op::SetLink(LinkRef::MadeBy(0), into_bridge(LinkRef::Index(old))),
                Op::SetLink(LinkRef::Index(old), up()),
            ]),
        );
        let moved = LinkRef::Index(held.outcome.made[0].unwrap());
        let mut intent = Intent::new(INSTANCE);
        let uuid = active(&mut intent, 1, NETWORKS[0]);
        let before = everything(ns);
        let believed = kernel.observed().clone();

        let mut plan = network_plan(&intent, uuid, kernel.observed(), None);
        plan.steps.push(step(Op::MakeTap(tap("pct0", 2, Handover::Name { uid: None })), None));
        let tap = LinkRef::MadeBy(plan.steps.len() - 1);
        plan.steps.push(step(Op::SetLink(tap, into_bridge(LinkRef::MadeBy(0))), None));
        plan.steps.push(step(
            Op::SetLink(moved, LinkChange { mtu: Some(1300), ..into_bridge(LinkRef::MadeBy(0)) }),
            Some(Op::SetLink(moved, LinkChange { mtu: Some(1500), ..into_bridge(LinkRef::Index(old)) })),
        ));
        plan.steps.push(step(
            Op::SetSysctl(Sysctl::Ipv4Forward, "1".into()),
            Some(Op::SetSysctl(Sysctl::Ipv4Forward, "0".into())),
        ));
        // A bridge can't be a port of a bridge.
        let host = kernel.observed().link_named("host0").unwrap().index;
        let refused = LinkChange { mtu: Some(1400), ..into_bridge(LinkRef::MadeBy(0)) };
        let undo = LinkChange { mtu: Some(1500), up: Some(true), controller: Some(None), ..LinkChange::default() };
        plan.steps
            .push(step(Op::SetLink(LinkRef::Index(host), refused), Some(Op::SetLink(LinkRef::Index(host), undo))));
        let applied = kernel.apply(&plan);
        let failure = applied.outcome.failed.unwrap();
        assert_eq!(failure.step, plan.steps.len() - 1);
        assert_eq!(failure.errno, Some(40));
        assert_eq!(failure.cause, "ELOOP (Too many levels of symbolic links): Can not enslave a bridge to a bridge");
        assert_eq!(failure.left, Vec::<String>::new());
        assert!(applied.outcome.made.is_empty() && applied.taps.is_empty());
        assert_eq!(*kernel.observed(), believed);
        wait_until("all to be as before", Duration::from_secs(5), || common::same(&before, &everything(ns)));
    });
}

#[test]
fn every_step_of_a_start_can_be_the_one_that_is_refused() {
    in_namespace(|ns| {
        let mut kernel = kernel();
        let mut intent = Intent::new(INSTANCE);
        let uuid = active(&mut intent, 1, NETWORKS[0]);
        let whole = network_plan(&intent, uuid, kernel.observed(), None);
        let before = everything(ns);
        let refused = Op::SetLink(LinkRef::Index(Index(4_000_000)), up());
        for at in 0..=whole.steps.len() {
            let mut plan = Plan { steps: whole.steps[..at].to_vec() };
            plan.steps.push(step(refused.clone(), None));
            let failure = kernel.apply(&plan).outcome.failed.unwrap();
            assert_eq!((failure.step, failure.errno), (at, Some(19)));
            assert!(failure.cause.starts_with("ENODEV (No such device)"), "{}", failure.cause);
            assert_eq!(failure.left, Vec::<String>::new());
            assert!(!exists(ns, "virbr0"), "the name is free at once");
            wait_until("all to be as before", Duration::from_secs(5), || {
                let now = everything(ns);
                if now == before { Ok(()) } else { Err(now) }
            });
        }
        apply(&mut kernel, &whole);
        let doom = kernel.observed().link_named("virbr0").unwrap().index;
        // What can't be taken back is said.
        let failure = kernel.apply(&plan([Op::Doom(doom), refused])).outcome.failed.unwrap();
        assert_eq!(failure.left, [format!("ip link del if{} was done", doom.0)]);
    });
}

#[test]
fn names_that_are_taken_are_named() {
    in_namespace(|ns| {
        ns.run("ip link add pct0 type bridge");
        let mut kernel = kernel();
        let failure = kernel.apply(&plan([Op::MakeTap(tap("pct0", 2, Handover::Descriptor))])).outcome.failed.unwrap();
        assert_eq!(failure.errno, Some(17));
        assert!(failure.cause.contains("tap pct0: a link of that name exists"), "{}", failure.cause);
        let failure = kernel.apply(&plan([Op::MakeBridge(bridge("pct0", 1, 1500))])).outcome.failed.unwrap();
        assert!(failure.cause.starts_with("EEXIST (File exists)"), "{}", failure.cause);
        assert_eq!(link(ns, "pct0")["group"], "default");
    });
}

#[test]
fn doomed_links_free_their_names_at_once_and_go() {
    in_namespace(|ns| {
        let mut kernel = kernel();
        let sw = make(&mut kernel, Op::MakeBridge(bridge("virbr0", 1, 1500)));
        let mut made = vec![sw];
        let mut held = Vec::new();
        for n in 0..8 {
            let handover = if n % 2 == 0 { Handover::Descriptor } else { Handover::Name { uid: None } };
            let ops = [
                Op::MakeTap(tap(&format!("pct{n}"), 2 + n, handover)),
                Op::SetLink(LinkRef::MadeBy(0), into_bridge(LinkRef::Index(sw))),
            ];
            let applied = apply(&mut kernel, &plan(ops));
            made.extend(applied.outcome.made[0]);
            held.extend(applied.taps);
        }
        // One of somebody else's in our group: it stays, and ours go all the same.
        ns.run("ip link add theirs type bridge");
        ns.run("ip link set theirs group 28772");
        for _ in 0..2 {
            apply(&mut kernel, &plan(made.iter().map(|index| Op::Doom(*index))));
        }
        for name in ["virbr0", "pct0", "pct7"] {
            assert!(!exists(ns, name), "{name}");
        }
        make(&mut kernel, Op::MakeBridge(bridge("virbr0", 1, 1500)));
        for index in &made {
            gone(ns, &format!("pcdel{}", index.0));
        }
        assert!(exists(ns, "theirs") && exists(ns, "virbr0"));
        ns.run("ip link set theirs group 0");
        let again: Vec<Index> = (0..4)
            .map(|n| make(&mut kernel, Op::MakeTap(tap(&format!("pct{n}"), 20 + n, Handover::Name { uid: None }))))
            .collect();
        apply(&mut kernel, &plan(again.iter().map(|index| Op::Doom(*index))));
        // Ending waits for what is to be deleted.
        drop(kernel);
        assert!(again.iter().all(|index| !exists(ns, &format!("pcdel{}", index.0))));
    });
}

#[test]
fn what_a_predecessor_doomed_is_deleted_and_nothing_else() {
    in_namespace(|ns| {
        let mark = bridge("virbr0", 1, 1500).mark;
        let other = Mark { instance: Uuid::from_u128(99), ..mark };
        for (name, group, alias) in [
            ("pcdel5", 28772, mark.to_string()),
            ("pcdel6", 28772, other.to_string()),
            ("pcdel7", 28771, mark.to_string()),
            ("pcdel8", 28772, "mine".to_owned()),
        ] {
            ns.run(&format!("ip link add {name} type bridge"));
            ns.run(&format!("ip link set {name} group {group} alias {alias}"));
        }
        drop(kernel());
        let left: Vec<_> = ["pcdel5", "pcdel6", "pcdel7", "pcdel8"].into_iter().filter(|l| exists(ns, l)).collect();
        assert_eq!(left, ["pcdel6", "pcdel7", "pcdel8"]);
    });
}

#[test]
fn guests_are_announced_through_the_tap_or_its_bridge() {
    in_namespace(|ns| {
        let mut kernel = kernel();
        let sw = LinkRef::Index(make(&mut kernel, Op::MakeBridge(bridge("virbr0", 1, 1500))));
        let ear = patchcord_testkit::create_tap("ear").unwrap();
        ns.run("ip link set ear master virbr0 up");
        let ops = [
            Op::MakeTap(tap("pct0", 2, Handover::Descriptor)),
            Op::SetLink(LinkRef::MadeBy(0), into_bridge(sw)),
            Op::MakeTap(tap("pct1", 3, Handover::Name { uid: None })),
            Op::SetLink(LinkRef::MadeBy(2), into_bridge(sw)),
            Op::SetLink(sw, up()),
        ];
        let made = apply(&mut kernel, &plan(ops));
        let [first, second] = [0, 2].map(|at| LinkRef::Index(made.outcome.made[at].unwrap()));
        let (held, named) = (MacAddr([0x52, 0x54, 0, 0, 3, 1]), MacAddr([0x52, 0x54, 0, 0, 3, 2]));
        apply(&mut kernel, &plan([Op::Announce(first, held), Op::Announce(second, named)]));
        // The bridge knows where the first one is, since the frame came in from there.
        assert!(ns.run("bridge fdb show dev pct0").contains(&held.to_string()));
        let mut heard = Vec::new();
        wait_until("both announcements", Duration::from_secs(5), || {
            while let Some(frame) = common::read_frame(&ear) {
                if frame.len() >= 38 && frame[12..14] == [0x80, 0x35] {
                    heard.push(frame[6..12].to_vec());
                }
            }
            if heard == [held.0.to_vec(), named.0.to_vec()] { Ok(()) } else { Err(format!("{heard:?}")) }
        });
        let alone = make(&mut kernel, Op::MakeTap(tap("pct2", 4, Handover::Name { uid: None })));
        let applied = kernel.apply(&plan([Op::Announce(LinkRef::Index(alone), held)]));
        assert_eq!(applied.outcome.failed, None);
        assert!(applied.notes[0].contains("it is plugged into nothing"), "{:?}", applied.notes);
    });
}

/// The snapshot, without what only it reads: settings that nobody asked for, and name servers.
fn read_whole(kernel: &mut Kernel, believed: &Observed) -> Observed {
    let mut observed = kernel.snapshot().unwrap().observed;
    observed.sysctls.retain(|setting, _| believed.sysctls.contains_key(setting));
    observed
}

#[test]
fn a_snapshot_is_what_the_plans_made_of_the_one_before() {
    in_namespace(|ns| {
        ns.run("ip link add up0 type bridge");
        ns.run("ip link set up0 up alias uplink");
        ns.run("ip addr add 192.0.2.2/24 dev up0");
        let mut kernel = kernel();
        let mut intent = Intent::new(INSTANCE);
        let mut held = Vec::new();
        for (at, xml) in NETWORKS.iter().enumerate() {
            let uuid = active(&mut intent, at as u128, xml);
            let plan = network_plan(&intent, uuid, kernel.observed(), None);
            apply(&mut kernel, &plan);
            let sw = kernel.observed().link_marked(patchcord_core::plan::MarkKind::Bridge, uuid).unwrap().index;
            let mut spec = tap(&format!("pct{at}"), 50 + at as u128, Handover::Descriptor);
            spec.mtu = kernel.observed().link(sw).unwrap().mtu;
            let ops = [
                Op::MakeTap(spec),
                Op::SetLink(LinkRef::MadeBy(0), into_bridge(LinkRef::Index(sw))),
                Op::SetPort(LinkRef::MadeBy(0), PortFlags { isolated: at % 2 == 0, learning: false, flood: false }),
                Op::SetForwarding { port: LinkRef::MadeBy(0), mac: GUEST, present: true },
            ];
            held.extend(apply(&mut kernel, &common::plan(ops)).taps);
        }
        // Addresses of the uplink and routes that the kernel makes by itself are read, not foreseen.
        let mut believed = kernel.observed().clone();
        let routes = observe::read_routes(&mut patchcord_netlink::Socket::open().unwrap()).unwrap();
        for route in believed.routes().filter(|route| route.protocol == 112) {
            assert!(routes.contains(route), "{route:?}");
        }
        believed.take(Change::Routes(routes));
        let seen = read_whole(&mut kernel, &believed);
        // Nor is foreseen what links do by themselves.
        for link in seen.links() {
            let state = link.state;
            if let Some(known) = believed.link(link.index).cloned() {
                believed.take(Change::Link(link.index, Some(Link { state, ..known })));
            }
        }
        for link in believed.links() {
            assert_eq!(seen.link(link.index), Some(link));
            assert!(seen.addresses(link.index).eq(believed.addresses(link.index)), "{}", link.name);
        }
        assert_eq!(seen.forwarding, believed.forwarding);
        assert_eq!(seen.nft, believed.nft);
        assert_eq!(seen.sysctls, believed.sysctls);
        assert_eq!(seen, believed);
        assert_eq!(seen.forwarding.len(), NETWORKS.len());

        // Away again, with the network stopped.
        let uuid = Uuid::from_u128(0);
        let wanted = patchcord_core::plan::desired::network(&intent, uuid).rules;
        intent.set_network(
            uuid,
            patchcord_core::intent::NetworkIntent { definition: None, autostart: false, active: None },
        );
        let plan = network_plan(&intent, uuid, kernel.observed(), wanted);
        apply(&mut kernel, &plan);
        let rules = kernel.read_nft().unwrap();
        assert_eq!(rules, kernel.observed().nft);
        assert!(!rules.chains.contains_key("to-virbr0") && rules.chains.contains_key("to-virbr1"));
    });
}

#[test]
fn a_guest_talks_over_a_plugged_tap() {
    in_namespace(|ns| {
        let mut kernel = kernel();
        let mut intent = Intent::new(INSTANCE);
        let uuid = active(&mut intent, 3, NETWORKS[3]);
        let plan = network_plan(&intent, uuid, kernel.observed(), None);
        apply(&mut kernel, &plan);
        let sw = kernel.observed().link_named("virbr3").unwrap().index;
        let ops = [
            Op::MakeTap(tap("pct0", 2, Handover::Descriptor)),
            Op::SetLink(LinkRef::MadeBy(0), into_bridge(LinkRef::Index(sw))),
        ];
        let mut applied = apply(&mut kernel, &common::plan(ops));
        let fd = applied.taps.remove(0).1.remove(0);
        let mut guest = Guest::new(fd, GUEST.0, 12).unwrap();
        guest.set_static("10.4.0.9".parse().unwrap(), 24, None);
        guest.ping("10.4.0.1".parse().unwrap(), Duration::from_secs(5)).unwrap();
        assert!(ns.run("ip neigh show dev virbr3").contains(&GUEST.to_string()));
    });
}
