//! What the kernel tests share: networks and NICs as intent, and a kernel of their own.
#![allow(dead_code, clippy::unwrap_used)] // not every test needs all of it; a helper that fails is the test failing

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use patchcord_core::intent::{Intent, NetworkIntent};
use patchcord_core::model::{LinkName, MacAddr};
use patchcord_core::plan::{
    BridgeSpec, BridgeState, Handover, Mark, MarkKind, Observed, Op, Plan, Step, TapSpec, desired, diff,
};
use patchcord_core::xml::{Mode, read_network};
use patchcord_host::kernel::{Applied, Kernel, KernelOptions};
use patchcord_testkit::Namespace;
use rustix::event::{PollFd, PollFlags, Timespec};
use serde_json::Value;
use uuid::Uuid;

pub(crate) const INSTANCE: Uuid = Uuid::from_u128(0x1457);

pub(crate) fn options() -> KernelOptions {
    let nowhere = PathBuf::from("/nonexistent");
    KernelOptions {
        instance: INSTANCE,
        resolv_conf: nowhere.join("resolv.conf"),
        root: nowhere.clone(),
        nodes: nowhere.join("nodes"),
    }
}

/// A kernel that has read what is there.
pub(crate) fn kernel() -> Kernel {
    let mut kernel = Kernel::open(&options()).unwrap();
    kernel.snapshot().unwrap();
    kernel
}

pub(crate) fn name(text: &str) -> LinkName {
    LinkName::new(text).unwrap()
}

pub(crate) fn bridge(link: &str, id: u128, mtu: u32) -> BridgeSpec {
    BridgeSpec {
        name: name(link),
        mark: Mark { instance: INSTANCE, kind: MarkKind::Bridge, id: Uuid::from_u128(id) },
        mac: MacAddr([0x52, 0x54, 0, 0, 1, id as u8]),
        mtu,
        settings: BridgeState { stp: false, delay: 0 },
        vlan_filtering: false,
    }
}

pub(crate) fn tap(link: &str, id: u128, handover: Handover) -> TapSpec {
    TapSpec {
        name: name(link),
        mark: Mark { instance: INSTANCE, kind: MarkKind::Tap, id: Uuid::from_u128(id) },
        mac: Some(MacAddr([0xfe, 0x54, 0, 0, 2, id as u8])),
        mtu: 1500,
        queues: 1,
        handover,
    }
}

pub(crate) fn step(op: Op, undo: Option<Op>) -> Step {
    Step { op, undo, why: "the test wants it" }
}

pub(crate) fn plan(ops: impl IntoIterator<Item = Op>) -> Plan {
    Plan { steps: ops.into_iter().map(|op| step(op, None)).collect() }
}

/// Carries out a plan that must succeed.
pub(crate) fn apply(kernel: &mut Kernel, plan: &Plan) -> Applied {
    let applied = kernel.apply(plan);
    assert_eq!(applied.outcome.failed, None);
    assert_eq!(applied.notes, Vec::<String>::new());
    applied
}

pub(crate) fn make(kernel: &mut Kernel, op: Op) -> patchcord_core::plan::Index {
    apply(kernel, &plan([op])).outcome.made[0].unwrap()
}

/// What `ip` says about a link.
pub(crate) fn link(ns: &Namespace, name: &str) -> Value {
    ns.json(&format!("ip -d -j link show dev {name}"))[0].clone()
}

pub(crate) fn exists(ns: &Namespace, name: &str) -> bool {
    ns.try_run(&format!("ip link show dev {name}")).is_ok()
}

/// Everything that `ip`, `bridge` and `nft` show, without timers that run and what the kernel decides by itself later.
pub(crate) fn everything(ns: &Namespace) -> String {
    let commands = [
        "ip -d link",
        "ip addr",
        "ip route show table all",
        "ip -6 route show table all",
        "bridge -d link",
        "bridge fdb",
        "nft -a list ruleset",
        "sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding",
    ];
    let settled = |line: &str| {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        for at in 1..words.len() {
            if words[at - 1].ends_with("_timer") || words[at - 1] == "state" {
                words[at] = "";
            }
        }
        words.join(" ") + "\n"
    };
    let shown = |command: &str| ns.run(command).lines().map(settled).collect::<String>();
    commands.map(|command| format!("# {command}\n{}", shown(command))).concat()
}

/// Whether two texts have the same lines; else those that one has more often than the other.
pub(crate) fn same(before: &str, now: &str) -> Result<(), String> {
    if before == now {
        return Ok(());
    }
    let missing = |from: &str, of: &str, sign: &str| -> String {
        let has: Vec<&str> = from.lines().collect();
        of.lines().filter(|line| !has.contains(line)).map(|line| format!("{sign}{line}\n")).collect()
    };
    Err(missing(now, before, "-") + &missing(before, now, "+"))
}

/// The next frame that the host sends to a tap, behind its virtio-net header of ten bytes; none when none waits.
pub(crate) fn read_frame(tap: &OwnedFd) -> Option<Vec<u8>> {
    let mut ready = [PollFd::new(tap, PollFlags::IN)];
    rustix::event::poll(&mut ready, Some(&Timespec::default())).unwrap();
    ready[0].revents().contains(PollFlags::IN).then(|| {
        let mut buffer = [0; 2048];
        let length = rustix::io::read(tap, &mut buffer).unwrap();
        buffer[10..length].to_vec()
    })
}

/// A network that has been started, as intent.
pub(crate) fn active(intent: &mut Intent, id: u128, xml: &str) -> Uuid {
    let uuid = Uuid::from_u128(id);
    let network = read_network(xml, Mode::Strict).unwrap();
    intent.set_network(uuid, NetworkIntent { definition: None, autostart: false, active: Some(network) });
    uuid
}

/// The plan that makes a network what its intent says.
pub(crate) fn network_plan(intent: &Intent, uuid: Uuid, observed: &Observed, before: diff::RulesBefore) -> Plan {
    let mut plan = Plan::default();
    let wanted = desired::network(intent, uuid);
    diff::network(&mut plan, (intent.instance, uuid), &wanted, observed, before).unwrap();
    plan
}

/// Networks of all kinds that have rules, and some that have none.
pub(crate) const NETWORKS: [&str; 6] = [
    "<network><name>nat</name><forward mode='nat'><nat ipv6='yes'><port start='1024' end='4000'/></nat></forward>\
     <bridge name='virbr0' stp='on' delay='0'/><mac address='52:54:00:00:00:10'/>\
     <ip address='192.168.122.1' prefix='24'/><ip family='ipv6' address='fd00:122::1' prefix='64'/>\
     <route address='10.9.0.0' prefix='16' gateway='192.168.122.9'/></network>",
    "<network><name>snat</name><forward mode='nat' dev='up0'><nat><address start='192.0.2.7' end='192.0.2.9'/></nat>\
     </forward><bridge name='virbr1' stp='off' delay='0'/><mac address='52:54:00:00:00:11'/>\
     <ip address='10.1.0.1' prefix='20'/><ip address='10.2.0.1' prefix='32'/></network>",
    "<network><name>routed</name><forward mode='route'/><bridge name='virbr2' stp='off' delay='0'/>\
     <mac address='52:54:00:00:00:12'/><ip address='10.3.0.1' prefix='9'/>\
     <ip family='ipv6' address='fd00:3::1' prefix='60'/></network>",
    "<network><name>isolated</name><bridge name='virbr3' stp='off' delay='0'/><mac address='52:54:00:00:00:13'/>\
     <mtu size='9000'/><ip address='10.4.0.1' prefix='24'/></network>",
    "<network><name>open</name><forward mode='open'/><bridge name='virbr4' stp='off' delay='0'/>\
     <mac address='52:54:00:00:00:14'/><ip address='10.5.0.1' prefix='24'/></network>",
    "<network><name>one</name><forward mode='nat'><nat><address start='192.0.2.9' end='192.0.2.9'/>\
     <port start='5000' end='5000'/></nat></forward><bridge name='virbr5' stp='off' delay='0'/>\
     <mac address='52:54:00:00:00:15'/><ip address='172.20.0.1' prefix='23'/></network>",
];
