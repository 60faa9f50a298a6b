//! What the executor reports while others change the kernel.
#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use common::{INSTANCE, NETWORKS, active, bridge, network_plan, options, plan, step, tap};
use patchcord_core::engine::PlanId;
use patchcord_core::intent::Intent;
use patchcord_core::plan::nft::{self, NftChange, NftOp};
use patchcord_core::plan::{Change, Handover, Index, LinkChange, LinkRef, Observed, Op, Outcome, Plan, Sysctl};
use patchcord_host::executor::{Executor, ExecutorReport, ExecutorRequest, Hands};
use patchcord_testkit::{Namespace, in_namespace};

/// An executor, and what its user would believe from the reports.
struct Daemon {
    hands: Hands,
    reports: Receiver<ExecutorReport>,
    believed: Observed,
    plans: u64,
    _executor: Executor,
}

const DEADLINE: Duration = Duration::from_secs(10);

impl Daemon {
    fn start() -> Self {
        let (sender, reports) = channel();
        let executor = Executor::start(&options(), move |report| {
            let _ = sender.send(report);
        })
        .unwrap();
        let hands = executor.hands();
        hands.ask(ExecutorRequest::Snapshot);
        let mut daemon = Self { hands, reports, believed: Observed::default(), plans: 0, _executor: executor };
        daemon.until(|report| matches!(report, ExecutorReport::Snapshot(_)));
        daemon
    }

    /// Takes on the reports up to the one that fits; gives all of them.
    fn until(&mut self, fits: impl Fn(&ExecutorReport) -> bool) -> Vec<ExecutorReport> {
        let end = Instant::now() + DEADLINE;
        let mut seen = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(report) = self.reports.recv_timeout(left) else { panic!("not among {seen:#?}") };
            match &report {
                ExecutorReport::Observed(change) => self.believed.take(change.clone()),
                ExecutorReport::Snapshot(observed) => self.believed = (**observed).clone(),
                _ => {}
            }
            let found = fits(&report);
            seen.push(report);
            if found {
                return seen;
            }
        }
    }

    fn until_change(&mut self, fits: impl Fn(&Change) -> bool) -> Vec<ExecutorReport> {
        self.until(|report| matches!(report, ExecutorReport::Observed(change) if fits(change)))
    }

    /// Carries out a plan that must succeed. Gives what came before it was done, too.
    fn apply(&mut self, plan: Plan) -> (Outcome, Vec<ExecutorReport>) {
        self.plans += 1;
        let id = PlanId(self.plans);
        let plan = Arc::new(plan);
        self.hands.apply(id, Arc::clone(&plan));
        let seen = self.until(|r| matches!(r, ExecutorReport::Applied { plan, .. } if *plan == id));
        let Some(ExecutorReport::Applied { outcome, .. }) = seen.last() else { unreachable!() };
        let outcome = outcome.clone();
        self.believed.absorb(&plan, &outcome);
        (outcome, seen)
    }

    /// All reports so far, once everything that was announced is looked at: links are before addresses, and in order.
    fn settle(&mut self, ns: &Namespace) -> Vec<ExecutorReport> {
        ns.run("ip link add settled type bridge");
        ns.run("ip addr add 198.51.100.1/32 dev settled");
        let address = "198.51.100.1/32".parse().unwrap();
        let mut seen = self.until_change(|c| matches!(c, Change::Addresses(_, all) if all.contains(&address)));
        ns.run("ip link del settled");
        seen.extend(self.until_change(|c| matches!(c, Change::Link(_, None))));
        seen
    }
}

/// Whether a report is about a link other than the one by which a test settles, or about rules.
fn is_news(report: &ExecutorReport) -> bool {
    match report {
        ExecutorReport::Observed(Change::Link(_, Some(link))) => link.name != "settled",
        ExecutorReport::Observed(Change::Nft(..)) | ExecutorReport::Snapshot(_) => true,
        _ => false,
    }
}

fn plugged() -> Vec<Op> {
    let into = LinkChange { up: Some(true), controller: Some(Some(LinkRef::MadeBy(0))), ..LinkChange::default() };
    vec![
        Op::MakeBridge(bridge("virbr0", 1, 1500)),
        Op::SetLink(LinkRef::MadeBy(0), LinkChange { up: Some(true), ..LinkChange::default() }),
        Op::MakeTap(tap("pct0", 2, Handover::Name { uid: None })),
        Op::SetLink(LinkRef::MadeBy(2), into),
    ]
}

#[test]
fn what_others_do_to_links_is_reported() {
    in_namespace(|ns| {
        let mut daemon = Daemon::start();
        let (outcome, _) = daemon.apply(plan(plugged()));
        let (sw, pct) = (outcome.made[0].unwrap(), outcome.made[2].unwrap());
        daemon.settle(ns);
        assert_eq!(daemon.believed.link(pct).unwrap().controller, Some(sw));

        ns.run("ip link set pct0 nomaster");
        daemon.until_change(
            |c| matches!(c, Change::Link(i, Some(link)) if *i == pct && link.controller.is_none() && link.port.is_none()),
        );
        ns.run("ip link set pct0 master virbr0");
        daemon.until_change(|c| matches!(c, Change::Link(i, Some(link)) if *i == pct && link.controller == Some(sw)));
        ns.run("bridge link set dev pct0 isolated on");
        daemon.until_change(
            |c| matches!(c, Change::Link(i, Some(link)) if *i == pct && link.port.is_some_and(|p| p.isolated)),
        );
        ns.run("ip addr add 10.0.0.1/24 dev virbr0");
        let address = "10.0.0.1/24".parse().unwrap();
        daemon.until_change(|c| matches!(c, Change::Addresses(i, all) if *i == sw && all.contains(&address)));
        daemon.until_change(|c| matches!(c, Change::Routes(all) if all.iter().any(|r| r.link == sw)));
        ns.run("ip link set virbr0 down");
        // The kernel doesn't announce that the route went.
        daemon.until_change(|c| matches!(c, Change::Routes(all) if all.iter().all(|r| r.link != sw)));
        ns.run("ip addr del 10.0.0.1/24 dev virbr0");
        daemon.until_change(|c| matches!(c, Change::Addresses(i, all) if *i == sw && all.is_empty()));
        ns.run("ip link set virbr0 name other0");
        daemon.until_change(|c| matches!(c, Change::Link(i, Some(link)) if *i == sw && link.name == "other0"));
        ns.run("ip link del pct0");
        daemon.until_change(|c| *c == Change::Link(pct, None));
        ns.run("ip link del other0");
        daemon.until_change(|c| *c == Change::Link(sw, None));
    });
}

#[test]
fn what_we_do_ourselves_is_no_news() {
    in_namespace(|ns| {
        let mut daemon = Daemon::start();
        let mut intent = Intent::new(INSTANCE);
        let uuid = active(&mut intent, 1, NETWORKS[0]);
        let start = network_plan(&intent, uuid, &daemon.believed, None);
        let (outcome, mut seen) = daemon.apply(start);
        let sw = outcome.made[0].unwrap();
        let into = LinkChange { up: Some(true), controller: Some(Some(LinkRef::Index(sw))), ..LinkChange::default() };
        let ops = [Op::MakeTap(tap("pct0", 2, Handover::Descriptor)), Op::SetLink(LinkRef::MadeBy(0), into)];
        seen.extend(daemon.apply(plan(ops)).1);
        seen.extend(daemon.settle(ns));
        let news: Vec<_> = seen.iter().filter(|report| is_news(report)).collect();
        assert!(news.is_empty(), "{news:#?}");
        assert_eq!(daemon.believed.link(sw).unwrap().name, "virbr0");

        // The end of a link of ours is reported when it is gone from the kernel.
        daemon.apply(plan([Op::Doom(sw)]));
        assert_eq!(daemon.believed.link(sw).unwrap().name, format!("pcdel{}", sw.0));
        daemon.until_change(|c| *c == Change::Link(sw, None));
    });
}

#[test]
fn rules_that_others_flush_are_reported_with_who_did_it() {
    in_namespace(|ns| {
        let mut daemon = Daemon::start();
        let mut intent = Intent::new(INSTANCE);
        let uuid = active(&mut intent, 1, NETWORKS[0]);
        let start = network_plan(&intent, uuid, &daemon.believed, None);
        daemon.apply(start);
        // Other tables are none of ours.
        ns.run("nft add table inet theirs");
        let seen = daemon.settle(ns);
        assert!(!seen.iter().any(|r| matches!(r, ExecutorReport::Observed(Change::Nft(..)))), "{seen:#?}");

        ns.run("nft insert rule inet patchcord from-virbr0 accept");
        daemon.until_change(
            |c| matches!(c, Change::Nft(table, _) if table.chains["from-virbr0"].rules[0].fingerprint.is_empty()),
        );
        ns.run("nft flush ruleset");
        let seen = daemon.until_change(|c| matches!(c, Change::Nft(table, _) if table.comment.is_none()));
        let Some(ExecutorReport::Observed(Change::Nft(_, Some(who)))) = seen.last() else { panic!("{seen:#?}") };
        assert!(who.starts_with("nft (pid ") && who.ends_with(')'), "{who}");

        let again = network_plan(&intent, uuid, &daemon.believed, None);
        daemon.apply(again);
        assert!(ns.run("nft list table inet patchcord").contains("from-virbr0"));

        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "table ip site {\nchain f {\ntype filter hook forward priority 0; policy drop;\n}\n}\n",
        )
        .unwrap();
        ns.run(&format!("nft -f {}", file.path().display()));
        daemon.until(|r| matches!(r, ExecutorReport::Firewalls(found) if found.dropping.len() == 1));
    });
}

#[test]
fn a_failed_change_of_rules_brings_what_is_there() {
    in_namespace(|ns| {
        let mut daemon = Daemon::start();
        let mut intent = Intent::new(INSTANCE);
        let uuid = active(&mut intent, 1, NETWORKS[0]);
        let start = network_plan(&intent, uuid, &daemon.believed, None);
        daemon.apply(start);
        daemon.settle(ns);
        let flush = NftChange { ops: vec![NftOp::FlushChain("to-virbr0".into())] };
        let undo = flush.undo(&daemon.believed.nft, &previous(&intent, uuid), INSTANCE);
        let refused =
            Op::SetLink(LinkRef::Index(Index(4_000_000)), LinkChange { up: Some(true), ..Default::default() });
        let failing = Plan { steps: vec![step(Op::Nft(flush), Some(Op::Nft(undo))), step(refused, None)] };
        let (outcome, before) = daemon.apply(failing);
        assert_eq!(outcome.failed.unwrap().left, Vec::<String>::new());
        let is_read = |report: &ExecutorReport| matches!(report, ExecutorReport::Observed(Change::Nft(_, None)));
        assert!(before.iter().any(is_read), "whoever hears of the failure knows what is there: {before:?}");
        let change = nft::diff(&daemon.believed.nft, &previous(&intent, uuid), nft::Scope::Whole, INSTANCE).unwrap();
        assert_eq!(change.ops, []);
        assert!(daemon.believed.nft.chains["to-virbr0"].rules.iter().all(|rule| rule.handle.is_some()));
    });
}

fn previous(intent: &Intent, uuid: uuid::Uuid) -> nft::Intent {
    patchcord_core::plan::desired::network(intent, uuid).rules.into_iter().collect()
}

#[test]
fn a_flood_leaves_nothing_out() {
    in_namespace(|ns| {
        let mut daemon = Daemon::start();
        let file = tempfile::NamedTempFile::new().unwrap();
        let lines: String = (0..60).map(|n| format!("link add b{n} type bridge\nlink set b{n} addrgenmode none\nlink set b{n} up\naddr add 10.1.{n}.1/24 dev b{n}\n")).collect();
        std::fs::write(file.path(), lines).unwrap();
        ns.run(&format!("ip -batch {}", file.path().display()));
        daemon.until_change(|c| matches!(c, Change::Link(_, Some(link)) if link.name == "b59" && link.up));
        daemon.settle(ns);
        daemon.hands.ask(ExecutorRequest::Snapshot);
        let believed = daemon.believed.clone();
        daemon.until(|report| matches!(report, ExecutorReport::Snapshot(_)));
        for link in daemon.believed.links() {
            assert_eq!(believed.link(link.index), Some(link));
            assert!(daemon.believed.addresses(link.index).eq(believed.addresses(link.index)));
        }
        assert_eq!(believed.links().count(), daemon.believed.links().count());
    });
}

#[test]
fn plans_come_before_hints_and_reports_in_order() {
    in_namespace(|ns| {
        let mut daemon = Daemon::start();
        let (outcome, _) = daemon.apply(plan(plugged()));
        let pct = outcome.made[2].unwrap();
        let change = |mtu| LinkChange { mtu: Some(mtu), ..LinkChange::default() };
        // While somebody else changes the same link, what is believed is in the end what is there.
        for round in 0..50 {
            if round % 5 == 0 {
                ns.run(&format!("ip link set pct0 mtu {}", 1400 + round));
            }
            daemon.apply(plan([Op::SetLink(LinkRef::Index(pct), change(1300 + round))]));
        }
        daemon.settle(ns);
        assert_eq!(daemon.believed.link(pct).unwrap().mtu, 1349);
        assert_eq!(common::link(ns, "pct0")["mtu"], 1349);
    });
}

#[test]
fn links_that_live_on_router_advertisements_are_known() {
    in_namespace(|ns| {
        for name in ["up0", "up.1"] {
            ns.run(&format!("ip link add {name} type veth peer name {name}p"));
            ns.run(&format!("ip link set {name} up"));
            ns.run(&format!("ip link set {name}p up"));
        }
        ns.run("ip -6 route add default via fe80::1 dev up0 proto ra metric 100");
        let mut daemon = Daemon::start();
        let setting = |name: &str| Sysctl::AcceptRa(name.to_owned());
        assert_eq!(daemon.believed.sysctls.get(&setting("up0")).map(String::as_str), Some("1"));
        assert_eq!(daemon.believed.sysctls.get(&setting("up.1")), None);
        assert_eq!(daemon.believed.sysctls.get(&Sysctl::Ipv6Forward).map(String::as_str), Some("0"));
        ns.run("ip -6 route add default via fe80::1 dev up.1 proto ra metric 101");
        daemon.until_change(|c| *c == Change::Sysctl(setting("up.1"), Some("1".into())));
        daemon.apply(plan([Op::SetSysctl(setting("up.1"), "2".into())]));
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv6/conf/up.1/accept_ra").unwrap().trim(), "2");
    });
}
