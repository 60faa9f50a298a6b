//! Another installation's table of packet rules is where ours would be.

use super::Host;
use super::tests::{host, nat, network};
use crate::engine::{Command, Effect, Input};
use crate::model::{MetadataPart, UpdateCommand, UpdateSection};
use crate::plan::Change;
use crate::plan::nft::{ObservedTable, table_comment};
use crate::{Error, ErrorKind};
use uuid::Uuid;

/// A table of an installation that is not this one.
fn take_table(host: &mut Host) {
    host.kernel.nft = ObservedTable::default();
    host.kernel.nft.comment = Some(table_comment(Uuid::from_u128(8)));
    host.tell(Input::Observed(Change::Nft(host.kernel.nft.clone(), None)));
    host.settle();
}

fn is_refused(error: &Error, object: &str) {
    assert_eq!((error.kind, error.object.as_str()), (ErrorKind::InUse, object), "{error}");
    assert_eq!(error.cause.matches("is not ours").count(), 1, "{error}");
    assert!(error.hint.as_ref().is_some_and(|hint| hint.contains("another installation")), "{error}");
}

#[test]
fn a_network_that_needs_rules_is_refused_before_anything_is_done() {
    let mut host = host();
    host.settle();
    take_table(&mut host);
    host.ask(Command::Define(nat("lab", 1))).unwrap();
    let before = host.kernel.clone();
    is_refused(&host.ask(Command::Start("lab".into())).unwrap_err(), "network 'lab'");
    is_refused(&host.ask(Command::Create(nat("other", 2))).unwrap_err(), "network 'other'");
    host.settle_with_clock();
    assert_eq!(format!("{:?}", host.kernel), format!("{before:?}"));

    // Not even a record is written.
    host.request(Command::Start("lab".into()));
    loop {
        assert!(!host.pending.iter().any(|effect| matches!(effect, Effect::Persist(_))), "{:?}", host.pending);
        if !host.step() {
            break;
        }
    }

    // One without rules has nothing to do with the table.
    host.ask(Command::Create(network(
        "<network><name>open</name><forward mode='open'/><ip address='10.0.3.1' prefix='24'/></network>",
    )))
    .unwrap();
    host.ask(Command::Stop("open".into())).unwrap();
}

#[test]
fn what_runs_without_its_rules_is_not_half_changed_and_stops() {
    let mut host = host();
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    take_table(&mut host);
    let modify = Command::Update {
        network: "lab".into(),
        command: UpdateCommand::AddLast,
        section: UpdateSection::IpDhcpHost,
        parent: None,
        xml: "<host mac='52:54:00:00:00:09' ip='10.0.1.9'/>".into(),
        live: true,
        config: false,
    };
    is_refused(&host.ask(modify).unwrap_err(), "network 'lab'");
    // What is refused only when it is carried out: nothing was done, so that nothing is half done.
    let describe = Command::Annotate {
        network: "lab".into(),
        part: MetadataPart::Title,
        key: None,
        value: Some("Lab".into()),
        live: true,
        config: false,
    };
    is_refused(&host.ask(describe).unwrap_err(), "network 'lab'");
    host.ask(Command::Stop("lab".into())).unwrap();
    host.settle_with_clock();
    host.reap();
    assert!(host.kernel.services.is_empty() && host.kernel.link_named("virbr0").is_none());
    assert_eq!(host.kernel.nft.comment, Some(table_comment(Uuid::from_u128(8))), "it is not ours to delete");
}
