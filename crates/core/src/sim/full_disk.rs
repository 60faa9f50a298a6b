//! Records that can't be written.

use super::Full;
use super::tests::{at_rest, attach, host, nat, nic_on};
use crate::engine::{Command, RecordKey};
use crate::intent::Owner;
use crate::model::{UpdateCommand, UpdateSection};

#[test]
fn a_full_disk_changes_nothing() {
    let mut host = host();
    host.ask(Command::Define(nat("lab", 1))).unwrap();
    host.full = Full { definitions: true, run_state: true, ..Full::default() };
    for command in [
        Command::Define(nat("other", 2)),
        Command::Start("lab".into()),
        Command::Autostart("lab".into(), true),
        Command::Undefine("lab".into()),
    ] {
        let error = host.ask(command).unwrap_err();
        assert!(error.to_string().contains("no space left"), "{error}");
        at_rest(&mut host);
    }
    host.full = Full::default();
    host.ask(Command::Start("lab".into())).unwrap();
    host.full = Full { definitions: true, run_state: true, ..Full::default() };
    let error = host.ask(attach("web", nic_on("lab"))).unwrap_err();
    assert!(error.to_string().contains("no space left"), "{error}");
    assert!(host.ask(Command::Stop("lab".into())).is_err());
    at_rest(&mut host);
    host.full = Full::default();
    host.ask(Command::Stop("lab".into())).unwrap();
    at_rest(&mut host);
}

#[test]
fn what_was_written_before_a_record_that_could_not_be_is_taken_back() {
    let mut host = host();
    host.ask(Command::Define(nat("lab", 1))).unwrap();
    host.ask(Command::Autostart("lab".into(), true)).unwrap();
    host.ask(Command::Start("lab".into())).unwrap();
    let before = host.records.clone();
    // The definition is written, the run state is not.
    host.full = Full { definitions: false, run_state: true, ..Full::default() };
    let update = Command::Update {
        network: "lab".into(),
        command: UpdateCommand::AddLast,
        section: UpdateSection::IpDhcpHost,
        parent: None,
        xml: "<host mac='52:54:00:00:00:01' ip='10.0.1.7'/>".into(),
        live: true,
        config: true,
    };
    let error = host.ask(update).unwrap_err();
    assert!(error.to_string().contains("no space left"), "{error}");
    assert_eq!(error.object, "network 'lab'");
    assert_eq!(host.records, before);
    // Nor does what was refused come with the next start.
    host.crash();
    host.full = Full::default();
    host.settle_with_clock();
    assert_eq!(host.records, before);
    at_rest(&mut host);
}

#[test]
fn a_record_that_cannot_be_written_takes_back_its_own_request_alone() {
    let mut host = host();
    host.ask(Command::Define(nat("lab", 1))).unwrap();
    let start = host.request(Command::Start("lab".into()));
    host.step();
    // Both wait for the start, and are carried out one after the other as it ends.
    let autostart = host.request(Command::Autostart("lab".into(), true));
    let update = host.request(Command::Update {
        network: "lab".into(),
        command: UpdateCommand::AddLast,
        section: UpdateSection::IpDhcpHost,
        parent: None,
        xml: "<host mac='52:54:00:00:00:01' ip='10.0.1.7'/>".into(),
        live: true,
        config: false,
    });
    while !host.replies.contains_key(&start) {
        // The start's own record has been written by the time that there is a bridge.
        host.full.run_state = host.kernel.link_named("virbr0").is_some();
        assert!(host.step());
    }
    host.settle();
    assert!(host.replies[&start].is_ok());
    assert!(host.replies[&autostart].is_ok());
    let error = host.replies[&update].as_ref().unwrap_err();
    assert!(error.to_string().contains("no space left"), "{error}");
    let network = host.engine.intent().networks().next().unwrap().1;
    assert!(network.autostart, "it was answered");
    assert!(network.active.as_ref().unwrap().ips[0].dhcp.as_ref().unwrap().hosts.is_empty(), "it was refused");
    assert!(host.records.contains_key(&RecordKey::Autostart("lab".into())));
    host.full = Full::default();
    at_rest(&mut host);
}

#[test]
fn a_start_that_cannot_write_takes_no_owner_for_gone() {
    let owner = Owner { pid: 100, start_time: 5 };
    let mut host = host();
    host.processes.insert(owner);
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    let Command::Attach(mut wanted) = attach("web", nic_on("lab")) else { unreachable!() };
    wanted.owner = Some(owner);
    host.ask(Command::Attach(wanted)).unwrap();
    // What somebody wrote without a UUID is finished at the start, and can't be.
    let by_hand = "<network><name>hand</name><bridge name='virbr9'/></network>";
    host.records.insert(RecordKey::Definition("hand".into()), by_hand.into());
    host.full = Full { definitions: true, run_state: false, ..Full::default() };
    host.crash();
    host.settle_with_clock();
    assert_eq!(host.engine.intent().nics().count(), 1);
    assert_eq!(host.records[&RecordKey::Definition("hand".into())], by_hand);
    host.full = Full::default();
    host.settle_with_clock();
    host.kill(owner);
    host.settle_with_clock();
    assert_eq!(host.engine.intent().nics().count(), 0, "it is waited for");
    at_rest(&mut host);
}
