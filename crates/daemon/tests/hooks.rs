//! Hooks as their authors see them: what they are called with, what they can refuse, and what they can't hold up.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::{Host, SOON, attach, differences, interface, interface_with_mac, pid, tap};
use patchcord_api::methods::{DetachNIC, ModifyNIC, StartNetwork, StopNetwork, UpdateNetwork};
use patchcord_testkit::{Namespace, in_namespace, skip, test_name, wait_until};
use rustix::process::test_kill_process;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const LAB: &str = "<network><name>lab</name><tag name='blue'/><tag name='two words'/>
    <ip address='10.77.1.1' prefix='24'><dhcp><range start='10.77.1.2' end='10.77.1.99'/></dhcp></ip>
    <portgroup name='staff' default='yes'><tag name='green'/></portgroup></network>";

/// A daemon's hooks, and a directory outside its root where they write.
struct Hooks<'a> {
    host: Host<'a>,
    notes: tempfile::TempDir,
}

impl<'a> Hooks<'a> {
    /// A host whose hooks have some seconds each, with its daemon.
    fn new(ns: &'a Namespace, seconds: u32) -> Self {
        let mut host = Host::without_daemon(ns);
        fs::create_dir_all(host.root.join("etc/patchcord")).unwrap();
        let config = format!("[hooks]\ntimeout = {seconds}\n");
        fs::write(host.root.join("etc/patchcord/patchcord.toml"), config).unwrap();
        host.start();
        Self { host, notes: tempfile::tempdir().unwrap() }
    }

    fn directory(&self) -> PathBuf {
        self.host.root.join("etc/patchcord/hooks")
    }

    /// Installs a shell script, in which `NOTES` is the directory of notes, as an administrator's editor would.
    fn install(&self, name: &str, script: &str) {
        let script = script.replace("NOTES", self.notes.path().to_str().unwrap());
        fs::create_dir_all(self.directory()).unwrap();
        let path = self.directory().join(name);
        fs::write(&path, format!("#!/bin/sh -e\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.directory().join(name)).unwrap();
    }

    fn note(&self, name: &str) -> String {
        fs::read_to_string(self.notes.path().join(name)).unwrap_or_default()
    }

    /// The lines of a note, which is emptied.
    fn take(&self, name: &str) -> Vec<String> {
        let lines = self.note(name).lines().map(str::to_owned).collect();
        let _ = fs::remove_file(self.notes.path().join(name));
        lines
    }
}

fn runs(process: &str) -> bool {
    test_kill_process(pid(process.trim().parse().unwrap())).is_ok()
}

#[test]
fn a_hook_gets_libvirts_arguments_and_documents_and_a_clean_environment() {
    in_namespace(|ns| {
        let hooks = Hooks::new(ns, 30);
        hooks.install("10-note", "echo \"$*\" >> NOTES/calls; env > NOTES/env; cat > NOTES/stdin; pwd > NOTES/pwd");
        let host = &hooks.host;
        host.network(LAB);
        assert_eq!(hooks.take("calls"), ["lab start begin -", "lab started begin -"]);
        let update = UpdateNetwork {
            name: "lab".into(),
            command: "add".into(),
            section: "ip-dhcp-host".into(),
            xml: "<host mac='52:54:00:77:00:07' ip='10.77.1.7'/>".into(),
            ..UpdateNetwork::default()
        };
        host.call(&update);
        let xml = interface_with_mac("lab", "52:54:00:77:00:01");
        let id = "9d1d5d4e-0b8e-4b43-8a35-0f6c9d0a1f5b";
        let attach = patchcord_api::methods::AttachNIC { guest_uuid: Some(id.into()), ..attach("web", &xml) };
        let nic = host.call(&attach).nic;
        assert_eq!(hooks.take("calls"), ["lab updated begin -", "lab port-created begin -"]);

        let stdin = hooks.note("stdin");
        let document = roxmltree::Document::parse(&stdin).unwrap_or_else(|error| panic!("{error}: {stdin}"));
        let root = document.root_element();
        assert_eq!(root.tag_name().name(), "hookData");
        let children: Vec<_> = root.children().filter(roxmltree::Node::is_element).collect();
        let names: Vec<_> = children.iter().map(|c| (c.tag_name().namespace(), c.tag_name().name())).collect();
        assert_eq!(names, [(None, "network"), (None, "networkport"), (Some("urn:patchcord:1"), "nic")]);
        let find = |in_: usize, name: &str| {
            let found = children[in_].descendants().find(|n| n.tag_name().name() == name);
            found.unwrap_or_else(|| panic!("no {name} in {stdin}"))
        };
        assert_eq!(find(0, "name").text(), Some("lab"));
        assert_eq!(children[0].attribute("connections"), Some("1"));
        assert_eq!(find(0, "bridge").attribute("name"), nic.actual.bridge.as_deref());
        assert_eq!(find(0, "host").attribute("ip"), Some("10.77.1.7"));
        assert_eq!(find(1, "uuid").text(), Some(&*nic.id));
        let owner: Vec<_> = find(1, "owner").children().filter_map(|n| n.first_child()?.text()).collect();
        assert_eq!(owner, ["web", id]);
        assert_eq!(find(1, "group").text(), Some("staff"));
        assert_eq!(find(1, "mac").attribute("address"), Some("52:54:00:77:00:01"));
        let plug = find(1, "plug");
        assert_eq!((plug.attribute("type"), plug.attribute("bridge")), (Some("network"), nic.actual.bridge.as_deref()));
        assert_eq!((children[2].attribute("id"), children[2].attribute("guest")), (Some(&*nic.id), Some("web")));
        assert_eq!(find(2, "target").attribute("dev"), nic.actual.tap.as_deref());
        let tags = children[2].descendants().filter(|n| n.tag_name().name() == "tag");
        assert_eq!(tags.filter_map(|t| t.attribute("name")).collect::<Vec<_>>(), ["blue", "two words", "green"]);

        // What the shell itself sets is not ours.
        let shell = ["PWD=", "OLDPWD=", "SHLVL=", "_="];
        let mut environment = hooks.take("env");
        environment.retain(|line| !shell.iter().any(|own| line.starts_with(own)));
        environment.sort_unstable();
        let mut expected = vec![
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            "LANG=C".into(),
            "PATCHCORD_OBJECT=nic".into(),
            "PATCHCORD_OPERATION=port-created".into(),
            "PATCHCORD_NETWORK=lab".into(),
            "PATCHCORD_GUEST=web".into(),
            format!("PATCHCORD_NIC={}", nic.id),
            format!("PATCHCORD_TAP={}", tap(&nic)),
            "PATCHCORD_MAC=52:54:00:77:00:01".into(),
            "PATCHCORD_TAGS=blue".into(),
            "two words".into(),
            "green".into(),
        ];
        expected.sort_unstable();
        assert_eq!(environment, expected);
        assert_eq!(hooks.take("pwd"), ["/"]);

        host.call(&ModifyNIC { id: nic.id.clone(), xml: "<interface type='none'/>".into() });
        host.detach(&nic.id);
        host.stop_network("lab");
        let calls = ["- port-updated begin -", "- port-deleted begin -", "lab stopped end -"];
        assert_eq!(hooks.take("calls"), calls);
        let about = hooks.note("stdin");
        assert!(about.contains("<name>lab</name>") && !about.contains("<networkport>"), "{about}");
    });
}

#[test]
fn a_hook_refuses_a_start_and_an_attach_and_leaves_no_trace() {
    in_namespace(|ns| {
        let hooks = Hooks::new(ns, 30);
        let host = &hooks.host;
        host.network(LAB);
        // The file of its leases is there from now on: a stop keeps it.
        host.stop_network("lab");
        hooks.install("10-note", "echo \"$2\" >> NOTES/calls");
        for refused in ["start", "started"] {
            hooks.install("20-no", &format!("[ $2 != {refused} ] || {{ echo not today >&2; exit 3; }}"));
            let before = host.state();
            let (name, refusal) = host.refused(&StartNetwork { name: "lab".into() });
            assert_eq!((name.as_str(), refusal.object.as_str()), ("HostFailed", "network 'lab'"));
            let path = hooks.directory().join("20-no");
            let cause = format!("the hook {refused} failed: {}: exit status 3: not today", path.display());
            assert_eq!(refusal.cause, cause);
            assert_eq!(differences(&before, &host.state()), "", "after {refused}");
            assert!(host.dnsmasqs().is_empty());
        }
        // Whoever heard of the beginning hears of the end.
        assert_eq!(hooks.take("calls"), ["start", "stopped", "start", "started", "stopped"]);
        hooks.remove("20-no");
        host.start_network("lab");

        hooks.install("20-no", "[ $2 != port-created ] || exit 7");
        // A tap that comes and goes leaves the bridge's multicast state to settle.
        let before = host.state();
        hooks.take("calls");
        let (_, refusal) = host.refused(&attach("web", &interface("lab")));
        assert!(refusal.cause.ends_with("20-no: exit status 7"), "{refusal:?}");
        assert!(host.nics().is_empty());
        assert_eq!(differences(&before, &host.state()), "");
        assert_eq!(hooks.take("calls"), ["port-created", "port-deleted"]);
        hooks.remove("20-no");
        host.call(&attach("web", &interface("lab")));
    });
}

#[test]
fn what_a_hook_cannot_refuse_is_done_and_told() {
    in_namespace(|ns| {
        let hooks = Hooks::new(ns, 30);
        let host = &hooks.host;
        host.network(LAB);
        let nic = host.call(&attach("web", &interface("lab"))).nic;
        hooks.install("10-no", "echo \"$2\" >> NOTES/calls; echo cannot cope >&2; exit 1");
        let mut events = host.events();
        let warnings = host.call(&DetachNIC { id: nic.id.clone() }).warnings;
        assert!(
            warnings.iter().any(|w| w.contains("port-deleted failed") && w.ends_with("cannot cope")),
            "{warnings:?}"
        );
        let warnings = host.call(&StopNetwork { name: "lab".into() }).warnings;
        assert!(warnings.iter().any(|w| w.contains("stopped failed")), "{warnings:?}");
        events.wait("the hook's failure", |event| {
            event.kind == "drift"
                && event.what == "failed"
                && event.object.as_deref() == Some("network 'lab'")
                && event.cause.as_ref().is_some_and(|cause| cause.contains("cannot cope"))
        });
        assert_eq!(hooks.take("calls"), ["port-deleted", "stopped"]);
        assert!(host.nics().is_empty() && host.link("virbr0").is_none());
    });
}

#[test]
fn a_hook_that_hangs_is_killed_with_its_children_and_delays_nobody_else() {
    in_namespace(|ns| {
        let hooks = Hooks::new(ns, 3);
        let host = &hooks.host;
        host.network(LAB);
        let script = "[ \"$PATCHCORD_GUEST\" = web ] && [ $2 = port-created ] || exit 0
            sleep 600 & echo $! > NOTES/child; echo $$ > NOTES/hook; echo I wait >&2; wait";
        hooks.install("10-hang", script);
        let client = host.client();
        let stuck = std::thread::spawn(move || {
            let mut client = client;
            client.call(&attach("web", &interface("lab"))).unwrap_err()
        });
        wait_until("the hook", SOON, || match hooks.note("hook") {
            hook if hook.ends_with('\n') => Ok(()),
            _ => Err("it is not there"),
        });
        // Others are served while it hangs: the same network's other NICs, and reading of the NIC itself.
        host.call(&attach("db", &interface("lab")));
        let waiting: Vec<_> = host.nics().into_iter().map(|nic| (nic.guest, nic.state)).collect();
        assert!(waiting.contains(&("web".into(), "pending".into())), "{waiting:?}");
        let (hook, child) = (hooks.note("hook"), hooks.note("child"));
        assert!(runs(&hook) && runs(&child), "it hung no longer than the others took");
        let error = stuck.join().unwrap();
        let said = common::told(&error);
        assert!(said.contains("10-hang: it did not end within 3 s and was killed: I wait"), "{said}");
        wait_until("the end of its child", SOON, || if runs(&child) { Err("it runs") } else { Ok(()) });
        assert!(!runs(&hook));
        assert_eq!(host.nics().iter().map(|nic| nic.guest.as_str()).collect::<Vec<_>>(), ["db"]);
    });
}

#[test]
fn a_hook_may_ask_the_daemon() {
    in_namespace(|ns| {
        let patchcord = Path::new(env!("CARGO_BIN_EXE_patchcordd")).with_file_name("patchcord");
        if !patchcord.exists() {
            return skip(&test_name(), "host has no patchcord: 'cargo build --workspace' makes it");
        }
        let hooks = Hooks::new(ns, 30);
        let host = &hooks.host;
        let ask = format!("{} --json --root {}", patchcord.display(), host.root.display());
        hooks.install("10-ask", &format!("{ask} nic list > NOTES/nics; {ask} network show lab > NOTES/network"));
        host.network(LAB);
        assert!(hooks.note("network").contains("\"lab\""));
        let nic = host.call(&attach("web", &interface("lab"))).nic;
        assert!(hooks.note("nics").contains(&nic.id), "{}", hooks.note("nics"));
    });
}

#[test]
fn hooks_come_and_go_while_the_daemon_runs() {
    in_namespace(|ns| {
        let mut hooks = Hooks::new(ns, 30);
        hooks.host.network(LAB);
        let called = |hooks: &Hooks<'_>| {
            let nic = hooks.host.call(&attach("web", &interface("lab"))).nic;
            hooks.host.detach(&nic.id);
            hooks.take("calls").join(" ")
        };
        let script = "echo \"${0##*/}\" >> NOTES/calls";
        assert!(!hooks.directory().exists());
        assert_eq!(called(&hooks), "");
        hooks.install("20-b", script);
        assert_eq!(called(&hooks), "20-b 20-b");
        hooks.install("10-a", script);
        for none in [".hidden", "30-c~"] {
            hooks.install(none, script);
        }
        assert_eq!(called(&hooks), "10-a 20-b 10-a 20-b", "in the order of their names");
        let data = hooks.directory().join("40-data");
        let notes = hooks.notes.path().to_str().unwrap();
        fs::write(&data, format!("#!/bin/sh\n{}\n", script.replace("NOTES", notes))).unwrap();
        assert_eq!(called(&hooks), "10-a 20-b 10-a 20-b");
        let log = hooks.host.log();
        let warned: Vec<_> =
            log.lines().filter(|l| l.contains("passed over as a hook") && l.contains("40-data")).collect();
        assert_eq!(warned.len(), 1, "{log}");
        assert!(warned[0].contains("not executable"), "{}", warned[0]);
        fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(called(&hooks), "10-a 20-b 40-data 10-a 20-b 40-data", "a mode is enough");
        hooks.remove("10-a");
        assert_eq!(called(&hooks), "20-b 40-data 20-b 40-data");
        fs::rename(hooks.directory(), hooks.host.root.join("elsewhere")).unwrap();
        assert_eq!(called(&hooks), "");
        fs::rename(hooks.host.root.join("elsewhere"), hooks.directory()).unwrap();
        assert_eq!(called(&hooks), "20-b 40-data 20-b 40-data");
        fs::remove_dir_all(hooks.directory()).unwrap();
        assert_eq!(called(&hooks), "");
        hooks.install("50-e", script);
        assert_eq!(called(&hooks), "50-e 50-e");
        // What runs on through a restart of the daemon is not told again.
        hooks.host.kill();
        hooks.host.start();
        assert_eq!(hooks.take("calls"), [""; 0]);
        assert_eq!(called(&hooks), "50-e 50-e");
    });
}

#[test]
fn the_examples_in_the_documentation_work() {
    in_namespace(|ns| {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/hooks.md")).unwrap();
        let blocks: Vec<&str> = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        let script = |about: &str| {
            let found = blocks.iter().find(|b| b.starts_with("#!/bin/sh -e\n") && b.contains(about));
            found.unwrap_or_else(|| panic!("no example about {about}")).replace("/var/lib/inventory", "NOTES/inventory")
        };
        let hooks = Hooks::new(ns, 30);
        let host = &hooks.host;
        hooks.install("10-inventory", &script("inventory"));
        hooks.install("20-reviewed", &script("reviewed"));
        host.network(LAB);
        let nic = host.call(&attach("web", &interface_with_mac("lab", "52:54:00:77:00:01"))).nic;
        let note = format!("inventory/{}", nic.id);
        assert_eq!(hooks.note(&note), format!("web 52:54:00:77:00:01 lab {}\n", tap(&nic)));
        host.detach(&nic.id);
        assert_eq!(hooks.note(&note), "");
        host.network("<network><name>dmz</name></network>");
        let (_, refusal) = host.refused(&attach("web", &interface("dmz")));
        assert!(refusal.cause.ends_with("NICs on dmz need the tag 'reviewed'"), "{refusal:?}");
        host.call(&attach(
            "web",
            "<interface type='network'><source network='dmz'/><tag name='reviewed'/></interface>",
        ));
    });
}
