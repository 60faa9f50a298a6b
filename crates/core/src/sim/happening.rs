//! What may happen to a simulated host: what is asked for, and what others do.

use super::associations::associated;
use super::bandwidth::{limited, pick_shaped, shaped};
use super::hostdev::on_functions;
use super::ports::port_id;
use super::reshape::reshape;
use super::tests::{attach, nat, nic_in, nic_on, on_devices, on_open_vswitch};
use super::{Full, Host};
use crate::engine::{Command, Input};
use crate::intent::Owner;
use crate::model::{DevicePlug, Network, Nic, NicSource, UpdateCommand, UpdateSection, Vlan, VlanTag};
use crate::plan::{Change, Handover, Link, LinkKind, MarkKind, PortVlans, VlanState};
use proptest::prelude::*;

/// One thing that happens.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    Define(u8),
    Create(u8),
    Start(u8),
    Stop(u8),
    Undefine(u8),
    Autostart(u8, bool),
    Update {
        network: u8,
        host: u8,
        live: bool,
        config: bool,
    },
    /// A whole part of a network is another.
    Reshape(u8, u8, bool, bool),
    Attach {
        network: u8,
        by_name: bool,
        owner: Option<u8>,
        plug: Option<DevicePlug>,
        optional: bool,
        vlan: bool,
        rates: u8,
    },
    /// A NIC that knows a network's bridge by its name.
    AttachToBridge(u8),
    Detach(u8),
    Modify(u8, Option<u8>, bool, u8),
    Link(u8, bool),
    OwnerDies(u8),
    Fetched(u8),
    BridgeDeleted(u8),
    TapPulled(u8),
    /// Somebody gives a NIC other VLANs, or has its bridge keep them apart no longer.
    VlansChanged(u8),
    RulesFlushed,
    /// A device of the host's comes or goes.
    Device(u8),
    /// A device has virtual functions as the bits say.
    Functions(u8),
    /// Its driver refuses all that it is told about them.
    FunctionsRefuse(bool),
    /// Somebody takes a cord's filter or macvlan away.
    CordCut(u8),
    /// Somebody takes away what limits a link, or the link.
    LimitLifted(u8),
    DnsmasqKilled(u8),
    RefuseStep(u8),
    DiskFull(Full),
    /// Somebody removes or changes a port of Open vSwitch.
    PortMeddled(u8),
    /// Open vSwitch's database starts anew, empty.
    DatabaseEmptied,
    /// libvirt's driver asks for a port, or for one that it had.
    Port {
        id: u8,
        network: u8,
        reclaim: bool,
        rates: u8,
    },
    /// It gives one back.
    PortDeleted(u8),
    /// It makes the link of a port's guest, or that goes.
    PortLink(u8),
    /// Somebody takes the link of a port's guest out of its bridge.
    PortLinkOut(u8),
    /// Somebody limits the link of a port's guest, taking our limits away or beside them, or does so no longer.
    PortLinkLimited(u8, bool),
    /// The daemon starts with the other setting for the rates at ports' links.
    OtherShaping,
    /// Open vSwitch takes no ports, or takes them again.
    SwitchRefuses(bool),
    /// A hook is installed, or removed.
    Hook(bool),
    /// It fails at what the bits say.
    HookFails(u8),
    /// The switch refuses profiles, or does not answer.
    Profiles(bool, bool),
    /// The last request comes before all reports of what is under way.
    Overtake,
    /// Jobs that are done are reported after all else that is under way.
    JobsTakeLonger,
    /// Lets that many effects happen.
    Steps(u8),
    /// Lets that many effects happen, and then the daemon dies.
    Crash(u8),
    Rest,
}

pub(super) fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    let network = 0u8..NETWORKS;
    let nic = any::<u8>();
    let network_of_port = network.clone();
    prop_oneof![
        1 => network.clone().prop_map(Define),
        1 => network.clone().prop_map(Create),
        3 => network.clone().prop_map(Start),
        1 => network.clone().prop_map(Stop),
        1 => network.clone().prop_map(Undefine),
        1 => (network.clone(), any::<bool>()).prop_map(|(n, on)| Autostart(n, on)),
        2 => (network.clone(), 2u8..9, any::<bool>(), any::<bool>())
            .prop_map(|(network, host, live, config)| Update { network, host, live, config }),
        3 => (network.clone(), 0u8..9, any::<bool>(), any::<bool>())
            .prop_map(|(network, part, live, config)| Reshape(network, part, live, config)),
        4 => (network.clone(), any::<bool>(), proptest::option::of(0u8..3), plug(), any::<[bool; 2]>(), 0u8..6)
            .prop_map(|(network, by_name, owner, plug, [optional, vlan], rates)| {
                Attach { network, by_name, owner, plug, optional, vlan, rates }
            }),
        2 => (0u8..3).prop_map(AttachToBridge),
        1 => nic.prop_map(Detach),
        1 => (nic, proptest::option::of(network.clone()), any::<bool>(), 0u8..6)
            .prop_map(|(n, to, vlan, rates)| Modify(n, to, vlan, rates)),
        1 => (nic, any::<bool>()).prop_map(|(n, up)| Link(n, up)),
        1 => (0u8..3).prop_map(OwnerDies),
        1 => nic.prop_map(Fetched),
        1 => network.clone().prop_map(BridgeDeleted),
        1 => nic.prop_map(TapPulled),
        1 => nic.prop_map(VlansChanged),
        1 => Just(RulesFlushed),
        2 => (0u8..4).prop_map(Device),
        2 => (0u8..16).prop_map(Functions),
        1 => any::<bool>().prop_map(FunctionsRefuse),
        1 => nic.prop_map(CordCut),
        1 => nic.prop_map(LimitLifted),
        1 => network.prop_map(DnsmasqKilled),
        1 => (0u8..10).prop_map(RefuseStep),
        1 => any::<[bool; 2]>().prop_map(|[definitions, run_state]| DiskFull(Full { definitions, run_state, services: false })),
        2 => nic.prop_map(PortMeddled),
        1 => Just(DatabaseEmptied),
        4 => (0u8..PORTS, network_of_port, any::<bool>(), 0u8..6)
            .prop_map(|(id, network, reclaim, rates)| Port { id, network, reclaim, rates }),
        1 => (0u8..PORTS).prop_map(PortDeleted),
        4 => (0u8..PORTS).prop_map(PortLink),
        2 => (0u8..PORTS).prop_map(PortLinkOut),
        2 => (0u8..PORTS, any::<bool>()).prop_map(|(id, beside)| PortLinkLimited(id, beside)),
        1 => Just(OtherShaping),
        1 => any::<bool>().prop_map(SwitchRefuses),
        1 => any::<bool>().prop_map(Hook),
        1 => any::<u8>().prop_map(HookFails),
        1 => any::<(bool, bool)>().prop_map(|(refuses, hangs)| Profiles(refuses, hangs)),
        4 => Just(Overtake),
        4 => Just(JobsTakeLonger),
        6 => (0u8..12).prop_map(Steps),
        3 => (0u8..12).prop_map(Crash),
        4 => Just(Rest),
    ]
}

/// Requests alone, that come while those before are under way.
pub(super) fn hurried() -> impl Strategy<Value = Happening> {
    use Happening::*;
    let network = 0u8..NETWORKS;
    prop_oneof![
        2 => network.clone().prop_map(Start),
        3 => network.clone().prop_map(Stop),
        1 => (network.clone(), 0u8..9, Just(true), any::<bool>()).prop_map(|(n, part, live, config)| Reshape(n, part, live, config)),
        2 => any::<u8>().prop_map(Detach),
        2 => (any::<u8>(), proptest::option::of(network), any::<bool>(), 0u8..6)
            .prop_map(|(n, to, vlan, rates)| Modify(n, to, vlan, rates)),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(n, up)| Link(n, up)),
        5 => Just(Overtake),
        5 => Just(JobsTakeLonger),
        8 => (0u8..12).prop_map(Steps),
    ]
}

fn plug() -> impl Strategy<Value = Option<DevicePlug>> {
    prop_oneof![Just(None), Just(Some(DevicePlug::Cord)), Just(Some(DevicePlug::Macvtap))]
}

pub(super) fn name(network: u8) -> String {
    format!("net{network}")
}

/// How many ports libvirt's driver may have.
pub(super) const PORTS: u8 = 4;
/// How many networks there are.
pub(super) const NETWORKS: u8 = 8;

/// Networks with a bridge, one of them with rates, one on shared devices whose NICs a switch gives profiles, one that needs
/// devices for itself (those share a device), one on a bridge of Open vSwitch, and two on virtual functions of one device,
/// by link and whole.
pub(super) fn network(n: u8) -> Box<Network> {
    match n {
        3 => associated(&name(n), "vepa", &["eth0", "eth1", "eth2"]),
        4 => on_devices(&name(n), "passthrough", &["eth2", "eth3"]),
        5 => on_open_vswitch(&name(n)),
        6 => on_functions(&name(n), "passthrough"),
        7 => on_functions(&name(n), "hostdev"),
        1 => shaped(&name(n), n),
        // One whose NICs are all in a VLAN, and the host with them.
        2 => {
            let vlan = Some(Vlan { trunk: None, tags: vec![VlanTag { id: 7, native: None }] });
            Box::new(Network { vlan, ..*nat(&name(n), n) })
        }
        n => nat(&name(n), n),
    }
}

/// The device with these virtual functions, of which each other has a link.
pub(super) fn has_functions(host: &mut Host, bits: u8) {
    let there = (0..4).filter(|number| bits & (1 << number) != 0);
    let links = [Some("ethv0"), None, Some("ethv2"), None];
    let functions: Vec<_> = there.map(|number| (number, links[usize::from(number)])).collect();
    for name in links.into_iter().flatten() {
        let wanted = functions.iter().any(|(_, link)| *link == Some(name));
        // Links are heard of before it is known whose they are.
        let index = match (host.kernel.link_named(name).map(|l| l.index), wanted) {
            (Some(index), false) => {
                host.remove_link(index);
                index
            }
            (None, true) => host.add_link(name, device()),
            _ => continue,
        };
        let link = host.kernel.link(index).cloned();
        host.tell(Input::Observed(Change::Link(index, link)));
    }
    host.set_functions("eth4", &functions);
}

/// A NIC on a network, in a VLAN of its own if so wanted and possible there, and often with rates, which not every network
/// can give.
pub(super) fn nic_of(network: u8, vlan: bool, rates: u8) -> Nic {
    let tags = vec![VlanTag { id: 42, native: None }, VlanTag { id: 43, native: None }];
    let vlan = (vlan && network < 3).then_some(Vlan { trunk: Some(true), tags });
    let bandwidth = match rates {
        0 => "<inbound average='100' floor='300'/>",
        1 => "<inbound floor='400'/><outbound average='50'/>",
        2 => "<inbound average='100'/><outbound average='60'/>",
        _ => return Nic { vlan, ..nic_on(&name(network)) },
    };
    Nic { mac: None, vlan, ..limited(&name(network), bandwidth) }
}

/// The nth NIC there is, counted round.
pub(super) fn pick(host: &Host, n: u8) -> Option<uuid::Uuid> {
    let nics: Vec<_> = host.engine.intent().nics().map(|n| n.id).collect();
    (!nics.is_empty()).then(|| nics[usize::from(n) % nics.len()])
}

pub(super) fn device() -> LinkKind {
    LinkKind::Other("veth".into())
}

pub(super) fn owner(n: u8) -> Owner {
    Owner { pid: 100 + u32::from(n), start_time: 5 }
}

/// A reservation more, of the address with that last octet.
fn update(network: u8, last: u8, live: bool, config: bool) -> Command {
    Command::Update {
        network: name(network),
        command: UpdateCommand::AddLast,
        section: UpdateSection::IpDhcpHost,
        parent: None,
        xml: format!("<host mac='52:54:00:00:00:0{last}' ip='10.0.{network}.{last}'/>"),
        live,
        config,
    }
}

pub(super) fn happen(host: &mut Host, what: &Happening) {
    let request = |host: &mut Host, command| {
        host.request(command);
    };
    match what {
        Happening::Define(n) => request(host, Command::Define(network(*n))),
        Happening::Create(n) => request(host, Command::Create(network(*n))),
        Happening::Start(n) => request(host, Command::Start(name(*n))),
        Happening::Stop(n) => request(host, Command::Stop(name(*n))),
        Happening::Undefine(n) => request(host, Command::Undefine(name(*n))),
        Happening::Autostart(n, on) => request(host, Command::Autostart(name(*n), *on)),
        Happening::Update { network, host: last, live, config } => {
            request(host, update(*network, *last, *live, *config))
        }
        Happening::Reshape(n, part, live, config) => request(host, reshape(&name(*n), *n, *part, (*live, *config))),
        Happening::Attach { network, by_name, owner: of, plug, optional, vlan, rates } => {
            let Command::Attach(mut wanted) = attach("guest", nic_of(*network, *vlan, *rates)) else { unreachable!() };
            (wanted.nic.plug, wanted.nic.optional) = (*plug, *optional);
            wanted.handover = if *by_name { Handover::Name { uid: None } } else { Handover::Descriptor };
            wanted.owner = of.map(owner).filter(|o| host.processes.contains(o));
            request(host, Command::Attach(wanted));
        }
        Happening::AttachToBridge(n) => request(host, attach("guest", nic_in(&format!("virbr{n}")))),
        Happening::Detach(n) => {
            if let Some(id) = pick(host, *n) {
                request(host, Command::Detach(id));
            }
        }
        Happening::Modify(n, to, vlan, rates) => {
            if let Some(id) = pick(host, *n) {
                let nic = to.map_or(Nic::new(NicSource::None), |to| nic_of(to, *vlan, *rates));
                request(host, Command::Modify(id, Box::new(nic), Default::default()));
            }
        }
        Happening::Link(n, up) => {
            if let Some(id) = pick(host, *n) {
                request(host, Command::Link(id, *up));
            }
        }
        Happening::OwnerDies(n) => host.kill(owner(*n)),
        Happening::Fetched(n) => {
            host.held.extend(pick(host, *n));
        }
        Happening::BridgeDeleted(n) => {
            let bridge = host.kernel.links().find(|l| l.name == format!("virbr{n}")).map(|l| l.index);
            if let Some(index) = bridge {
                host.remove_link(index);
                host.see_everything();
            }
        }
        Happening::TapPulled(n) => {
            let link = pick(host, *n).and_then(|id| host.kernel.link_marked(MarkKind::Tap, id).cloned());
            if let Some(mut link) = link {
                (link.controller, link.port) = (None, None);
                host.kernel.set_link(link.index, Some(link.clone()));
                host.see_everything();
            }
        }
        Happening::VlansChanged(n) => {
            let link = pick(host, *n).and_then(|id| host.kernel.link_marked(MarkKind::Tap, id).cloned());
            let Some(bridge) = link.as_ref().and_then(|l| host.kernel.link(l.controller?)).cloned() else { return };
            if let (Some(tap), 0) = (link, n % 2) {
                host.kernel.set_vlans(tap.index, PortVlans::access(9));
            } else {
                let vlan = VlanState { filtering: !bridge.vlan.filtering, ..bridge.vlan };
                host.kernel.set_link(bridge.index, Some(Link { vlan, ..bridge }));
            }
            host.see_everything();
        }
        Happening::RulesFlushed => {
            host.kernel.nft = Default::default();
            host.see_everything();
        }
        Happening::Device(n) => {
            let name = format!("eth{n}");
            match host.kernel.link_named(&name).map(|l| l.index) {
                Some(index) => host.remove_link(index),
                None => drop(host.add_link(&name, device())),
            }
            host.see_everything();
        }
        Happening::Functions(bits) => has_functions(host, *bits),
        Happening::FunctionsRefuse(yes) => (host.sysfs.refuses, host.sysfs.keeps) = (*yes, *yes),
        Happening::CordCut(n) => {
            let end = pick(host, *n).and_then(|id| host.kernel.link_marked(MarkKind::Macvlan, id).map(|l| l.index));
            if let Some(end) = end {
                if n % 2 == 0 {
                    host.kernel.redirects.remove(&end);
                } else {
                    host.remove_link(end);
                }
                host.see_everything();
            }
        }
        Happening::LimitLifted(n) => {
            if let Some(link) = pick_shaped(host, *n) {
                match host.kernel.link(link).and_then(|l| l.mark).map(|m| m.kind) {
                    Some(MarkKind::Ifb | MarkKind::NetworkIfb) if n % 3 == 0 => host.remove_link(link),
                    Some(MarkKind::Ifb | MarkKind::NetworkIfb) if n % 3 == 1 => {
                        host.kernel.redirects.retain(|_, to| *to != Some(link));
                    }
                    _ => drop(host.kernel.shapes.remove(&link)),
                }
                host.see_everything();
            }
        }
        Happening::DnsmasqKilled(n) => {
            let uuid = host.kernel.services.keys().nth(usize::from(*n)).copied();
            if let Some(uuid) = uuid {
                host.kernel.services.remove(&uuid);
                host.see_everything();
            }
        }
        Happening::RefuseStep(n) => host.refuse_after = Some(usize::from(*n)),
        Happening::DiskFull(full) => host.full = *full,
        Happening::PortMeddled(n) => {
            let nics: Vec<_> = host.kernel.ovs.keys().copied().collect();
            let Some(nic) = nics.get(usize::from(n / 4) % nics.len().max(1)).copied() else { return };
            let Some(mut port) = host.port(nic) else { return };
            match n % 4 {
                0 => return host.meddle_with_port(nic, None),
                1 => port.settings.vlan.tag = Some(9),
                2 => drop(port.bridges.insert("br9".into())),
                _ => port.error = Some("No such device".into()),
            }
            host.meddle_with_port(nic, Some(port));
        }
        Happening::DatabaseEmptied => host.empty_ports(),
        Happening::SwitchRefuses(yes) => host.ovs.refuses = yes.then(|| "no room".to_owned()),
        Happening::Port { id, network, reclaim, rates } => {
            host.ask_for_port(*id, nic_of(*network, false, *rates), *reclaim);
        }
        Happening::PortDeleted(id) => request(host, Command::Detach(port_id(*id))),
        Happening::PortLink(id) => {
            host.make_or_end_link(*id);
            host.see_everything();
        }
        Happening::PortLinkOut(id) => {
            if host.take_link_out(*id) {
                host.see_everything();
            }
        }
        Happening::PortLinkLimited(id, beside) => {
            if host.limit_link(*id, *beside) {
                host.see_everything();
            }
        }
        Happening::OtherShaping => {
            host.config.shapes_ports = !host.config.shapes_ports;
            host.crash();
        }
        Happening::Hook(installed) => host.install_hook(*installed),
        Happening::HookFails(bits) => {
            use crate::engine::HookOperation::*;
            let all = [Start, Started, Updated, Stopped, PortCreated, PortUpdated, PortDeleted];
            let fails = all.into_iter().enumerate().filter(|(n, _)| bits & (1 << n) != 0);
            host.hook.fails_at = fails.map(|(_, operation)| operation).collect();
        }
        Happening::Profiles(refuses, hangs) => (host.switch.refuses, host.switch.hangs) = (*refuses, *hangs),
        Happening::Overtake => host.overtake(),
        Happening::JobsTakeLonger => host.jobs_take_longer(),
        Happening::Steps(effects) => (0..*effects).for_each(|_| {
            host.step();
        }),
        Happening::Crash(effects) => {
            happen(host, &Happening::Steps(*effects));
            host.crash();
        }
        Happening::Rest => host.settle(),
    }
}
