//! Others who undo what is put right, as often as that is done: they meet pauses, and watchers are told.

use super::Host;
use super::tests::{attach, host, nat, nic_on};
use crate::engine::{Command, Event, Input};
use crate::plan::nft::ObservedTable;
use crate::plan::{Change, Link, MarkKind};

const AT_ONCE: usize = 8;

type Meddle = fn(&mut Host);

/// Takes a NIC out of its bridge.
fn unplug(host: &mut Host) {
    let tap = host.kernel.links().find(|l| l.mark.is_some_and(|m| m.kind == MarkKind::Tap)).cloned().unwrap();
    let change = Change::Link(tap.index, Some(Link { controller: None, port: None, ..tap }));
    seen(host, change);
}

fn flush(host: &mut Host) {
    seen(host, Change::Nft(ObservedTable::default(), None));
}

fn end_dnsmasq(host: &mut Host) {
    let Some(network) = host.kernel.services.keys().next().copied() else { return };
    seen(host, Change::Service(network, None));
}

/// Others change something, and the daemon sees it.
fn seen(host: &mut Host, change: Change) {
    host.kernel.take(change.clone());
    host.tell(Input::Observed(change));
    host.settle();
}

/// What watchers were told of drift since the last time: whether it was put right.
fn told(host: &mut Host) -> Vec<(String, bool)> {
    let told = std::mem::take(&mut host.events).into_iter();
    told.filter_map(|event| match event {
        Event::Drift { what, repaired, .. } => Some((what, repaired)),
        _ => None,
    })
    .collect()
}

#[test]
fn whoever_undoes_repairs_all_the_time_meets_longer_and_longer_pauses() {
    for (what, meddle) in [("NIC", unplug as Meddle), ("rules", flush), ("dnsmasq", end_dnsmasq)] {
        let mut host = host();
        host.ask(Command::Create(nat("lab", 1))).unwrap();
        host.ask(attach("web", nic_on("lab"))).unwrap();
        host.settle_with_clock();
        told(&mut host);
        for n in 0..20 {
            meddle(&mut host);
            assert_eq!(host.check().is_empty(), n < AT_ONCE, "{what} {n}");
        }
        let drifts = told(&mut host);
        let waits = drifts.iter().filter(|(what, _)| what.ends_with("changed again and again; we wait a little"));
        assert_eq!(waits.count(), 1, "{what}: {drifts:?}");
        // Each pause is longer than the one before.
        let mut pauses = Vec::new();
        for _ in 0..4 {
            let begun = host.now;
            while !host.check().is_empty() {
                let next = host.next_wake().unwrap();
                host.wait_until(next);
            }
            pauses.push(host.now - begun);
            meddle(&mut host);
            assert!(!host.check().is_empty(), "{what}");
        }
        assert!(pauses.is_sorted_by(|a, b| a < b), "{what}: {pauses:?}");
        // Whoever asks for something doesn't wait.
        host.ask(Command::Stop("lab".into())).unwrap();
        host.settle_with_clock();
        host.ask(Command::Undefine("lab".into())).unwrap_err();
    }
}

#[test]
fn who_has_stopped_pulling_is_forgotten() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    host.ask(attach("web", nic_on("lab"))).unwrap();
    for n in 0..100 {
        unplug(&mut host);
        assert_eq!(host.check(), [""; 0], "{n}");
        host.wait_until(host.now + 11_000);
    }
}
