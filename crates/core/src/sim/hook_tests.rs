//! Hooks on the simulated host: when they are called, what they refuse, and what is there after that.

use super::Host;
use super::tests::{at_rest, attach, host, nat, network, nic, nic_on, on_devices};
use crate::engine::HookOperation::*;
use crate::engine::{Command, Event, Input, NicView};
use crate::intent::Owner;
use crate::model::{MacAddr, Nic, NicSource, UpdateCommand, UpdateSection};
use crate::plan::{Change, LinkKind};
use crate::{Error, ErrorKind, xml};

/// A host with a hook, and a running network that it knows.
fn with_hook() -> Host {
    let mut host = host();
    host.install_hook(true);
    host.ask(Command::Create(nat("lab", 1))).unwrap();
    assert_eq!(host.hook.take(), ["lab start", "lab started"]);
    host
}

fn plug(host: &mut Host) -> NicView {
    let web = nic(host.ask(attach("web", nic_on("lab"))).unwrap().body);
    assert_eq!(host.hook.take(), ["lab port-created"]);
    web
}

fn unplugged(id: uuid::Uuid) -> Command {
    Command::Modify(id, Box::new(Nic::new(NicSource::None)), Default::default())
}

fn refusal(error: &Error, at: &str) {
    assert_eq!(error.kind, ErrorKind::HookFailed);
    let cause = format!("the hook {at} failed: /etc/patchcord/hooks/10-test: exit status 3: not on my watch");
    assert_eq!(error.cause, cause);
}

/// What can be compared before and after something that changed nothing.
fn state(host: &mut Host) -> String {
    at_rest(host);
    assert_eq!(host.check_hook(), Vec::<String>::new());
    let kernel = &host.kernel;
    let links: Vec<_> = kernel.links().map(|l| (l, kernel.addresses(l.index).collect::<Vec<_>>())).collect();
    let rest = (&kernel.redirects, &kernel.nft, &kernel.sysctls, &kernel.services);
    format!("{links:?} {rest:?} {:?} {:?}", host.records, host.engine.intent())
}

fn host_entry() -> Command {
    Command::Update {
        network: "lab".into(),
        command: UpdateCommand::AddLast,
        section: UpdateSection::IpDhcpHost,
        parent: None,
        xml: "<host mac='52:54:00:00:00:07' ip='10.0.1.7'/>".into(),
        live: true,
        config: false,
    }
}

#[test]
fn hooks_are_told_of_everything_once_and_in_order() {
    let mut host = with_hook();
    let web = plug(&mut host);
    host.ask(host_entry()).unwrap();
    host.ask(unplugged(web.id)).unwrap();
    host.ask(Command::Link(web.id, false)).unwrap();
    host.ask(Command::Own(web.id, None)).unwrap();
    host.ask(Command::Detach(web.id)).unwrap();
    host.ask(Command::Stop("lab".into())).unwrap();
    let told = ["lab updated", "- port-updated", "- port-updated", "- port-deleted", "lab stopped"];
    assert_eq!(host.hook.take(), told);
    at_rest(&mut host);
    assert!(host.hook.take().is_empty());
}

#[test]
fn a_call_has_libvirts_arguments_and_documents_and_our_own() {
    let mut host = host();
    host.install_hook(true);
    let lab = network(
        "<network><name>lab</name><tag name='blue'/><tag name='two words'/><ip address='10.0.1.1' prefix='24'/>
         <portgroup name='staff' default='yes'><tag name='green'/></portgroup></network>",
    );
    host.ask(Command::Create(lab)).unwrap();
    let Command::Attach(mut wanted) = attach("web", nic_on("lab")) else { unreachable!() };
    wanted.nic.mac = Some(MacAddr([0x52, 0x54, 0, 0, 0, 1]));
    wanted.guest_uuid = Some(uuid::Uuid::from_u128(9));
    let web = nic(host.ask(Command::Attach(wanted)).unwrap().body);
    let calls = std::mem::take(&mut host.hook.calls);
    let arguments: Vec<_> = calls.iter().map(|c| c.arguments.join(" ")).collect();
    assert_eq!(arguments, ["lab start begin -", "lab started begin -", "lab port-created begin -"]);
    let variables = |n: usize| calls[n].variables.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>();
    assert_eq!(
        variables(0),
        [
            "PATCHCORD_OPERATION=start",
            "PATCHCORD_OBJECT=network",
            "PATCHCORD_TAGS=blue\ntwo words",
            "PATCHCORD_NETWORK=lab"
        ]
    );
    let id = format!("PATCHCORD_NIC={}", web.id);
    assert_eq!(
        variables(2),
        [
            "PATCHCORD_OPERATION=port-created",
            "PATCHCORD_OBJECT=nic",
            &id,
            "PATCHCORD_GUEST=web",
            "PATCHCORD_TAP=pct0",
            "PATCHCORD_MAC=52:54:00:00:00:01",
            "PATCHCORD_TAGS=blue\ntwo words\ngreen",
            "PATCHCORD_NETWORK=lab",
        ]
    );
    let document = &calls[2].document;
    let part = |from: &str, to: &str| {
        let start = document.find(from).unwrap();
        &document[start..start + document[start..].find(to).unwrap() + to.len()]
    };
    let active = xml::read_network(part("<network ", "</network>"), xml::Mode::Strict).unwrap();
    assert_eq!(Some(&active), host.engine.intent().networks().next().unwrap().1.active.as_ref());
    let port = xml::read_networkport(part("<networkport>", "</networkport>"), xml::Mode::Strict).unwrap();
    assert_eq!((port.uuid, port.owner_uuid), (Some(web.id), uuid::Uuid::from_u128(9)));
    assert_eq!((port.owner.as_str(), port.group.unwrap().as_str()), ("web", "staff"));
    assert!(document.contains("<plug type='network' bridge='virbr0'/>"), "{document}");
    let head = format!("<pc:nic xmlns:pc='urn:patchcord:1' id='{}' guest='web' guestuuid=", web.id);
    assert!(part("<pc:nic", "</pc:nic>").starts_with(&head), "{document}");
    let interface = part("<interface", "</interface>");
    assert!(interface.contains("portgroup='staff' bridge='virbr0'"), "{interface}");
    assert!(interface.contains("<tag name='green'/>"), "{interface}");
    assert_eq!(document.matches("</").count(), document.lines().filter(|l| l.contains("</")).count());
}

#[test]
fn a_network_does_not_start_when_a_hook_says_no() {
    for (at, told) in
        [(Start, ["lab start", "lab stopped"].as_slice()), (Started, &["lab start", "lab started", "lab stopped"])]
    {
        let mut host = host();
        host.install_hook(true);
        host.ask(Command::Define(nat("lab", 1))).unwrap();
        let before = state(&mut host);
        host.hook.fails_at = vec![at];
        let error = host.ask(Command::Start("lab".into())).unwrap_err();
        refusal(&error, at.as_str());
        assert_eq!(error.object, "network 'lab'");
        assert_eq!(host.hook.take(), told);
        assert_eq!(state(&mut host), before);
        assert_eq!(host.last_plan.is_empty(), at == Start, "nothing is made before the start hook has agreed");
        host.hook.fails_at.clear();
        host.ask(Command::Start("lab".into())).unwrap();
        at_rest(&mut host);
    }
}

#[test]
fn a_nic_is_taken_back_when_a_hook_refuses_it() {
    let mut host = with_hook();
    let before = state(&mut host);
    host.hook.fails_at = vec![PortCreated];
    let error = host.ask(attach("web", nic_on("lab"))).unwrap_err();
    refusal(&error, "port-created");
    assert!(error.object.ends_with("of guest 'web'"), "{error}");
    assert_eq!(host.hook.take(), ["lab port-created", "lab port-deleted"]);
    assert_eq!(state(&mut host), before);
}

#[test]
fn a_nic_stays_where_it_was_when_a_hook_refuses_the_move() {
    let mut host = with_hook();
    let web = plug(&mut host);
    let before = state(&mut host);
    host.hook.fails_at = vec![PortUpdated];
    let error = host.ask(unplugged(web.id)).unwrap_err();
    refusal(&error, "port-updated");
    // The second one tells what is there again; its failure is told, and changes nothing.
    assert_eq!(host.hook.take(), ["- port-updated", "lab port-updated"]);
    assert_eq!(state(&mut host), before);
}

#[test]
fn what_cannot_be_refused_is_told_to_whoever_asked_and_to_watchers() {
    let mut host = with_hook();
    let web = plug(&mut host);
    host.hook.fails_at = vec![Updated, PortDeleted, Stopped];
    for (command, at) in
        [(host_entry(), "updated"), (Command::Detach(web.id), "port-deleted"), (Command::Stop("lab".into()), "stopped")]
    {
        host.events.clear();
        let warnings = host.ask(command).unwrap().warnings;
        let said = format!("the hook {at} failed: ");
        assert!(warnings.iter().any(|w| w.starts_with(&said)), "{at}: {warnings:?}");
        let events = &host.events;
        let told =
            events.iter().any(|e| matches!(e, Event::Drift { what, repaired: false, .. } if what.starts_with(&said)));
        assert!(told, "{at}: {events:?}");
    }
    at_rest(&mut host);
    assert_eq!(host.check_hook(), Vec::<String>::new());
}

#[test]
fn a_hook_that_hangs_delays_its_own_object_only() {
    let mut host = with_hook();
    host.hook.hangs = true;
    let stuck = host.request(attach("web", nic_on("lab")));
    host.settle();
    assert!(!host.replies.contains_key(&stuck));
    // Reading does not wait, and finds the NIC.
    let Ok(answer) = host.ask(Command::ListNics(None)) else { panic!("no answer") };
    let crate::engine::Body::Nics(nics) = answer.body else { panic!("no NICs") };
    let behind = host.request(Command::Link(nics[0].id, false));
    host.hook.hangs = false;
    nic(host.ask(attach("db", nic_on("lab"))).unwrap().body);
    host.ask(Command::Create(nat("other", 2))).unwrap();
    assert!(!host.replies.contains_key(&behind), "it waits behind the attach");
    host.end_hooks();
    host.settle();
    let error = host.replies.remove(&stuck).unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::HookFailed);
    assert!(error.cause.contains("did not end within 30 s"), "{error}");
    assert_eq!(host.replies.remove(&behind).unwrap().unwrap_err().kind, ErrorKind::NoNic);
    at_rest(&mut host);
    assert_eq!(host.check_hook(), Vec::<String>::new());
}

#[test]
fn what_runs_already_is_not_told_and_what_ended_meanwhile_is() {
    let mut host = with_hook();
    let owner = Owner { pid: 100, start_time: 5 };
    host.processes.insert(owner);
    let Command::Attach(mut wanted) = attach("web", nic_on("lab")) else { unreachable!() };
    wanted.owner = Some(owner);
    host.ask(Command::Attach(wanted.clone())).unwrap();
    let db = nic(host.ask(attach("db", nic_on("lab"))).unwrap().body);
    host.hook.take();
    host.crash();
    at_rest(&mut host);
    assert!(host.hook.take().is_empty());
    // Its guest ends while there is no daemon.
    host.processes.remove(&owner);
    host.crash();
    at_rest(&mut host);
    assert_eq!(host.hook.take(), ["lab port-deleted"]);
    // And while there is one.
    host.processes.insert(owner);
    host.ask(Command::Attach(wanted)).unwrap();
    host.kill(owner);
    at_rest(&mut host);
    assert_eq!(host.hook.take(), ["lab port-created", "lab port-deleted"]);
    // Neither is whatever was there before the first hook.
    host.install_hook(false);
    host.ask(attach("quiet", nic_on("lab"))).unwrap();
    host.install_hook(true);
    host.ask(Command::Detach(db.id)).unwrap();
    assert_eq!(host.hook.take(), ["lab port-deleted"]);
    assert_eq!(host.check_hook(), Vec::<String>::new());
}

#[test]
fn repairs_are_not_told() {
    let mut host = with_hook();
    plug(&mut host);
    let bridge = host.kernel.link_named("virbr0").unwrap().index;
    host.remove_link(bridge);
    host.tell(Input::Observed(Change::Link(bridge, None)));
    at_rest(&mut host);
    assert!(host.kernel.link_named("virbr0").is_some());
    assert!(host.hook.take().is_empty());
}

#[test]
fn a_start_that_cannot_be_recorded_is_not_told() {
    let mut host = host();
    host.install_hook(true);
    host.settle();
    host.full = super::Full { definitions: true, run_state: true, ..super::Full::default() };
    let error = host.ask(Command::Create(nat("lab", 1))).unwrap_err();
    assert_eq!((error.kind, error.object.as_str()), (ErrorKind::HostFailed, "network 'lab'"));
    assert!(host.hook.take().is_empty());
    host.full = super::Full::default();
    at_rest(&mut host);
}

#[test]
fn nics_that_get_another_device_at_a_start_are_told_of() {
    let mut host = host();
    for device in ["eth0", "eth1"] {
        let index = host.add_link(device, LinkKind::Other("veth".into()));
        let link = host.kernel.link(index).cloned();
        host.tell(Input::Observed(Change::Link(index, link)));
    }
    host.install_hook(true);
    host.ask(Command::Create(on_devices("pool", "vepa", &["eth0"]))).unwrap();
    host.ask(attach("web", nic_on("pool"))).unwrap();
    host.hook.take();
    host.ask(Command::Stop("pool".into())).unwrap();
    host.ask(Command::Create(on_devices("pool", "vepa", &["eth1"]))).unwrap();
    assert_eq!(host.hook.take(), ["pool stopped", "pool start", "pool started", "pool port-updated"]);
    at_rest(&mut host);
}
