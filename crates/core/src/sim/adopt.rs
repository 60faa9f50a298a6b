//! Networks of libvirt's daemon are taken over while they run, and handed back; crashes at every point included.

use super::Host;
use super::ports::{made, port, tap};
use super::tests::{attach, host, network, nic_on};
use crate::engine::{Adoption, Body, Command, Effect, Input, Job};
use crate::model::{Network, UpdateCommand, UpdateSection};
use crate::plan::nft::foreign::{Firewalls, ForeignFirewall, Owner};
use crate::plan::{Change, GROUP_NONE, Index, LinkKind, Op};
use crate::{Error, ErrorKind};
use uuid::Uuid;

const UUID: u128 = 0x1000;
const FORWARDING: &str = "net.ipv4.ip_forward";

/// As libvirt's daemon writes it.
fn theirs() -> Network {
    *network(&format!(
        "<network><name>default</name><uuid>{}</uuid><forward mode='nat'/><bridge name='virbr0' stp='on' delay='0'/>
         <mac address='52:54:00:18:6f:74'/><ip address='192.168.122.1' netmask='255.255.255.0'><dhcp>
         <range start='192.168.122.2' end='192.168.122.99'/></dhcp></ip></network>",
        Uuid::from_u128(UUID)
    ))
}

fn adoption() -> Adoption {
    Adoption { definition: Some(theirs()), autostart: true, active: Some(theirs()), effect: true }
}

fn adopt() -> Command {
    Command::Adopt(Box::new(adoption()))
}

fn hand_back() -> Command {
    Command::HandBack { network: "default".into(), effect: true }
}

/// A host on which libvirt's daemon runs that network.
fn with_libvirts_bridge() -> (Host, Index) {
    let mut host = host();
    host.settle();
    let index = bridge(&mut host);
    (host, index)
}

fn bridge(host: &mut Host) -> Index {
    let index = host.add_link("virbr0", LinkKind::Bridge);
    host.tell(Input::Observed(Change::Link(index, host.kernel.link(index).cloned())));
    let address = "192.168.122.1/24".parse().unwrap();
    host.kernel.set_addresses(index, [address].into());
    host.tell(Input::Observed(Change::Addresses(index, [address].into())));
    host.settle();
    index
}

/// What happens until the host comes to rest, as far as it can be told in the order in which it happens.
fn told(host: &mut Host) -> Vec<&'static str> {
    let mut told = Vec::new();
    loop {
        match host.pending.front() {
            Some(Effect::Start(_, Job::EndLibvirtService { .. })) => told.push("libvirt's dnsmasq ends"),
            Some(Effect::Start(_, Job::StartService(..))) => told.push("ours starts"),
            Some(Effect::Start(_, Job::StopService(..))) => told.push("ours stops"),
            Some(Effect::Start(_, Job::RemoveLibvirtRules { .. })) => told.push("libvirt's rules go"),
            Some(Effect::Apply(_, plan)) => told.extend(plan.steps.iter().filter_map(|step| match step.op {
                Op::Claim(..) => Some("claim"),
                Op::Release(_) => Some("release"),
                Op::Nft(_) => Some("our rules"),
                Op::MakeBridge(_) | Op::Doom(_) | Op::RemoveAddress(..) => Some("a disturbance"),
                _ => None,
            })),
            _ => {}
        }
        if !host.step() {
            return told;
        }
    }
}

/// Whether it comes to rest as it should be. libvirt's daemon has turned forwarding on, for good.
fn at_rest(host: &mut Host) {
    host.settle_with_clock();
    host.reap();
    let wrong: Vec<String> = host.check().into_iter().filter(|wrong| !wrong.starts_with(FORWARDING)).collect();
    assert_eq!(wrong, Vec::<String>::new());
}

fn forwards(host: &Host) -> bool {
    host.kernel.sysctls.iter().any(|(sysctl, value)| sysctl.name() == FORWARDING && value == "1")
}

fn is_up(host: &Host, index: Index) -> bool {
    host.kernel.link(index).is_some_and(|link| link.up && link.name == "virbr0" && link.group == GROUP_NONE)
}

fn active(host: &mut Host) -> Option<bool> {
    match host.ask(Command::ShowNetwork("default".into())).ok()?.body {
        Body::Network(view) => Some(view.active),
        other => panic!("{other:?}"),
    }
}

fn refusal(host: &mut Host, adoption: Adoption) -> Error {
    host.ask(Command::Adopt(Box::new(adoption))).unwrap_err()
}

#[test]
fn a_network_is_taken_over_in_an_order_without_a_gap() {
    let (mut host, index) = with_libvirts_bridge();
    let dry = Adoption { effect: false, ..adoption() };
    host.ask(Command::Adopt(Box::new(dry))).unwrap();
    assert_eq!((active(&mut host), host.kernel.link(index).unwrap().mark), (None, None), "nothing was done");

    host.request(adopt());
    let order = told(&mut host);
    assert_eq!(order, ["claim", "our rules", "libvirt's dnsmasq ends", "ours starts", "libvirt's rules go"]);
    assert!(is_up(&host, index) && active(&mut host) == Some(true));
    at_rest(&mut host);
    assert_eq!(refusal(&mut host, adoption()).kind, ErrorKind::NetworkExists);

    // A daemon that starts sees to what may have been left.
    host.crash();
    assert_eq!(told(&mut host), ["libvirt's dnsmasq ends", "libvirt's rules go"]);
    at_rest(&mut host);

    host.request(hand_back());
    assert_eq!(told(&mut host), ["our rules", "release", "ours stops"]);
    assert!(is_up(&host, index) && active(&mut host).is_none());
    assert_eq!(host.kernel.addresses(index).count(), 1);
    at_rest(&mut host);
}

#[test]
fn a_claimed_bridge_is_left_behind_and_found_again_and_let_go_in_the_end() {
    let (mut host, index) = with_libvirts_bridge();
    host.ask(Command::Adopt(Box::new(Adoption { autostart: false, ..adoption() }))).unwrap();
    host.ask(Command::Stop("default".into())).unwrap();
    assert!(host.kernel.link(index).is_some_and(|link| !link.up && link.is_claimed() && link.name == "virbr0"));
    assert_eq!(host.kernel.addresses(index).count(), 0);
    at_rest(&mut host);
    host.crash();
    at_rest(&mut host);
    host.ask(Command::Start("default".into())).unwrap();
    assert!(is_up(&host, index) && host.kernel.addresses(index).count() == 1);
    at_rest(&mut host);
    host.ask(Command::Undefine("default".into())).unwrap();
    host.ask(Command::Stop("default".into())).unwrap();
    assert!(host.kernel.link(index).is_some_and(|link| link.mark.is_none()), "it is nobody's");
    at_rest(&mut host);
}

#[test]
fn one_that_is_undefined_while_it_is_stopped_lets_go_too() {
    let (mut host, index) = with_libvirts_bridge();
    host.ask(adopt()).unwrap();
    host.ask(Command::Stop("default".into())).unwrap();
    host.ask(Command::Undefine("default".into())).unwrap();
    at_rest(&mut host);
    assert!(host.kernel.link(index).is_some_and(|link| link.mark.is_none()));
}

#[test]
fn a_crash_at_any_point_leaves_the_bridge_and_one_truth() {
    for adopting in [true, false] {
        let mut steps = 0;
        let mut ends = std::collections::BTreeSet::new();
        loop {
            let (mut host, index) = with_libvirts_bridge();
            if !adopting {
                host.ask(adopt()).unwrap();
            }
            host.request(if adopting { adopt() } else { hand_back() });
            let went = (0..steps).all(|_| host.step());
            host.crash();
            host.settle_with_clock();
            host.reap();
            assert!(is_up(&host, index), "after {steps} steps");
            at_rest(&mut host);
            let owned = active(&mut host);
            let marked = host.kernel.link(index).unwrap().mark.is_some();
            assert_eq!(owned == Some(true), marked, "after {steps} steps");
            assert_eq!(host.kernel.addresses(index).count(), 1, "after {steps} steps");
            ends.insert(marked);
            if !went {
                assert_eq!(marked, adopting, "it was through");
                break;
            }
            steps += 1;
        }
        assert!(steps > 5 && ends.len() == 2, "{steps} steps, {ends:?}");
    }
}

#[test]
fn what_the_kernel_refuses_leaves_all_as_it_was() {
    for number in 0.. {
        let (mut host, index) = with_libvirts_bridge();
        host.refuse_after = Some(number);
        let result = host.ask(adopt());
        let through = host.refuse_after.take().is_some();
        at_rest(&mut host);
        assert_eq!((result.is_ok(), active(&mut host).is_some()), (through, through), "step {number}");
        assert!(is_up(&host, index) && host.kernel.addresses(index).count() == 1, "step {number}");
        if through {
            assert!(number > 2);
            break;
        }
        assert_eq!(host.kernel.link(index).unwrap().mark, None, "step {number}");
    }
}

#[test]
fn a_bridge_of_our_own_goes_back_without_being_deleted() {
    let mut host = host();
    host.ask(Command::Define(Box::new(theirs()))).unwrap();
    host.ask(Command::Start("default".into())).unwrap();
    let index = host.kernel.link_named("virbr0").unwrap().index;
    assert!(forwards(&host));
    host.request(hand_back());
    assert_eq!(told(&mut host), ["claim", "our rules", "release", "ours stops"]);
    assert!(is_up(&host, index));
    at_rest(&mut host);
    // libvirt's daemon counts on it.
    assert!(forwards(&host));
}

#[test]
fn rules_that_let_guests_through_another_firewall_stay() {
    let (mut host, _) = with_libvirts_bridge();
    let firewall = |owner| ForeignFirewall {
        owner,
        chain: "ip filter FORWARD".into(),
        what: "drops what guests send".into(),
        advice: "tell it".into(),
    };
    let dropping = vec![firewall(Owner::LibvirtChains), firewall(Owner::Ufw)];
    host.kernel.firewalls = Firewalls { dropping, firewalld: None };
    host.tell(Input::Observed(Change::Firewalls(host.kernel.firewalls.clone())));
    host.settle();
    let warnings = host.ask(Command::Adopt(Box::new(Adoption { effect: false, ..adoption() }))).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("ufw"), "{warnings:?}");
    host.request(adopt());
    assert!(!told(&mut host).contains(&"libvirt's rules go"));
    at_rest(&mut host);
}

#[test]
fn what_cannot_be_taken_over_or_handed_back_is_refused() {
    let mut host = host();
    host.settle();
    assert!(refusal(&mut host, adoption()).cause.contains("its bridge virbr0 is not there"));
    let index = host.add_link("virbr0", LinkKind::Tap);
    host.tell(Input::Observed(Change::Link(index, host.kernel.link(index).cloned())));
    assert!(refusal(&mut host, adoption()).cause.contains("virbr0 is no bridge"));
    let neither = Adoption { definition: None, active: None, ..adoption() };
    assert_eq!(refusal(&mut host, neither).kind, ErrorKind::InvalidArgument);

    let (mut host, _) = with_libvirts_bridge();
    host.ask(adopt()).unwrap();
    host.ask(attach("web", nic_on("default"))).unwrap();
    let refused = host.ask(hand_back()).unwrap_err();
    assert!(refused.kind == ErrorKind::InUse && refused.cause.contains("web"), "{refused}");
    assert_eq!(active(&mut host), Some(true));
    at_rest(&mut host);
}

#[test]
fn a_bridge_that_others_made_is_left_at_a_start_and_guests_come_along() {
    let (mut host, index) = with_libvirts_bridge();
    host.ask(adopt()).unwrap();
    made(&mut host, port(1, 7, "default", None));
    let tap = tap(&mut host, Some("virbr0"));
    let rename = |live, config| Command::Update {
        network: "default".into(),
        command: UpdateCommand::Modify,
        section: UpdateSection::Bridge,
        parent: None,
        xml: "<bridge name='swan'/>".into(),
        live,
        config,
    };
    let refused = host.ask(rename(true, true)).unwrap_err();
    assert_eq!((refused.kind, refused.field.as_deref()), (ErrorKind::Unsupported, Some("<bridge name>")), "{refused}");
    assert!(is_up(&host, index) && host.kernel.link(tap).unwrap().controller == Some(index));
    at_rest(&mut host);
    host.ask(rename(false, true)).unwrap();
    host.ask(Command::Stop("default".into())).unwrap();
    host.ask(Command::Start("default".into())).unwrap();
    let swan = host.kernel.link_named("swan").unwrap().index;
    assert_eq!(host.kernel.link(tap).unwrap().controller, Some(swan));
    let left = host.kernel.link(index).unwrap();
    assert!(left.mark.is_none() && !left.up && host.kernel.addresses(index).count() == 0, "{left:?}");
    at_rest(&mut host);
}
