//! Networks in a zone of firewalld's: a real one, on a bus of its own, in the test's namespaces.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::{Host, SOON, differences, update};
use patchcord_api::methods::StartNetwork;
use patchcord_testkit::{Guest, Namespace, Process, in_namespace, skip, test_name, unpacked, wait_until};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Long enough for what should not arrive.
const NEVER: Duration = Duration::from_secs(3);

/// A bus on which everyone may do everything.
const BUS: &str = "<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen>\
     <auth>EXTERNAL</auth><policy context='default'><allow user='*'/><allow own='*'/><allow send_type='method_call'/>\
     <allow send_type='signal'/><allow send_type='method_return'/><allow send_type='error'/>\
     <allow receive_type='method_call'/><allow receive_type='signal'/><allow receive_type='method_return'/>\
     <allow receive_type='error'/></policy></busconfig>";

/// Its default zone lets nobody ask for a lease. `rpfilter` needs what not every kernel has.
const CONFIGURATION: &str = "DefaultZone=block\nIPv6_rpfilter=no\nFirewallBackend=nftables\n";

/// A network whose bridge is in a zone.
fn network(zone: &str) -> String {
    format!(
        "<network><name>z</name><forward mode='nat'/><bridge name='brz' stp='off' zone='{zone}'/>\
         <ip address='10.5.0.1' prefix='24'><dhcp><range start='10.5.0.10' end='10.5.0.99'/></dhcp></ip></network>"
    )
}

/// firewalld and its bus.
struct Firewalld<'a> {
    ns: &'a Namespace,
    configuration: PathBuf,
    _bus: Process,
    process: Option<Process>,
}

impl<'a> Firewalld<'a> {
    /// Puts the package's files under the test's /usr and /etc, and starts both; or skips the test.
    fn start(ns: &'a Namespace, package: &Path, scratch: &Path) -> Option<Self> {
        for directory in ["/usr", "/etc"] {
            let more = format!("{}{directory}", package.display());
            let mount = format!("mount -t overlay -o lowerdir={directory}:{more} overlay {directory}");
            if let Err(error) = ns.try_run(&mount) {
                let error = error.trim_end().replace('\n', " ");
                skip(&test_name(), &format!("kernel has no overlay of directories ({error})"));
                return None;
            }
        }
        ns.run("mount -t tmpfs tmpfs /run");
        for directory in ["/run/netns", "/run/dbus"] {
            fs::create_dir(directory).unwrap();
        }
        let (bus, configuration) = (scratch.join("bus.conf"), scratch.join("firewalld"));
        fs::write(&bus, BUS).unwrap();
        fs::create_dir(&configuration).unwrap();
        fs::write(configuration.join("firewalld.conf"), CONFIGURATION).unwrap();
        let bus = ns.spawn(&format!("dbus-daemon --nofork --nopidfile --config-file={}", bus.display()));
        wait_until("the bus", SOON, || {
            Path::new("/run/dbus/system_bus_socket").exists().then_some(()).ok_or("there is no socket")
        });
        let mut this = Self { ns, configuration, _bus: bus, process: None };
        this.restart();
        Some(this)
    }

    /// Ends it, as far as it runs, and starts it.
    fn restart(&mut self) {
        self.stop();
        let mut command = Command::new("/usr/sbin/firewalld");
        command.args(["--nofork", "--nopid", "--log-target=console", "--system-config"]).arg(&self.configuration);
        self.process = Some(Process::start(command));
        wait_until("firewalld", SOON, || self.ns.try_run("firewall-cmd --state"));
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let pid = common::pid(process.id());
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
            wait_until("firewalld's end", SOON, || process.ended().ok_or("it runs"));
        }
    }

    /// The zone of the network's bridge, as firewalld tells.
    fn zone(&self) -> String {
        self.zone_of("brz")
    }

    fn zone_of(&self, bridge: &str) -> String {
        let answer = self.ns.command(&format!("firewall-cmd --get-zone-of-interface={bridge}")).output().unwrap();
        String::from_utf8_lossy(&answer.stdout).trim().to_owned()
    }

    fn wait_for_zone(&self, zone: &str) {
        wait_until(zone, SOON, || match self.zone() {
            now if now == zone => Ok(()),
            now => Err(now),
        });
    }
}

/// Runs a test with a daemon and firewalld.
fn with_firewalld(test: impl FnOnce(&mut Host<'_>, &mut Firewalld<'_>) + Send) {
    let Some(package) = unpacked("firewalld") else { return };
    in_namespace(|ns| {
        let mut host = Host::without_daemon(ns);
        let scratch = host.root.clone();
        let Some(mut firewalld) = Firewalld::start(ns, &package, &scratch) else { return };
        host.start();
        test(&mut host, &mut firewalld);
    });
}

/// Whether what a guest asks of the host gets through firewalld.
fn gets_a_lease(guest: &mut Guest, within: Duration) -> bool {
    guest.dhcp(within).is_ok()
}

#[test]
fn a_bridge_is_in_its_zone_while_its_network_runs() {
    with_firewalld(|host, firewalld| {
        host.network(&network("trusted"));
        assert_eq!(firewalld.zone(), "trusted");
        let (_, mut guest) = host.guest_on("z", "g");
        assert!(gets_a_lease(&mut guest, SOON));
        host.kill();
        host.start();
        assert_eq!(firewalld.zone(), "trusted");
        // With another bridge, and a zone that there is not.
        host.call(&update("z", "modify", "bridge", "<bridge name='swan' stp='off' zone='trusted'/>"));
        assert_eq!([firewalld.zone(), firewalld.zone_of("swan")], ["", "trusted"]);
        let (error, refusal) = host.refused(&update("z", "modify", "bridge", "<bridge stp='off' zone='nowhere'/>"));
        assert_eq!((error.as_str(), refusal.field.as_deref()), ("HostFailed", Some("<bridge zone>")), "{refusal}");
        assert_eq!(firewalld.zone_of("swan"), "trusted");
        assert!(gets_a_lease(&mut guest, SOON));
        host.call(&update("z", "modify", "bridge", "<bridge name='brz' stp='off' zone='trusted'/>"));
        assert_eq!([firewalld.zone(), firewalld.zone_of("swan")], ["trusted", ""]);
        host.stop_network("z");
        assert_eq!(firewalld.zone(), "", "nothing is left in firewalld");
    });
}

#[test]
fn a_zone_that_does_not_exist_and_a_firewalld_that_does_not_run_refuse_the_start() {
    with_firewalld(|host, firewalld| {
        host.call(&patchcord_api::methods::DefineNetwork { xml: network("nowhere") });
        let refused = |host: &Host<'_>, says: &str| {
            let before = host.state();
            let (error, refusal) = host.refused(&StartNetwork { name: "z".into() });
            assert_eq!((error.as_str(), refusal.field.as_deref()), ("HostFailed", Some("<bridge zone>")), "{refusal}");
            assert!(refusal.cause.contains("'nowhere'") && refusal.cause.contains(says), "{refusal}");
            assert_eq!(differences(&before, &host.state()), "");
            assert_eq!(host.dnsmasqs(), [0; 0]);
        };
        refused(host, "INVALID_ZONE");
        firewalld.stop();
        refused(host, "not running");
    });
}

#[test]
fn a_bridge_is_put_back_into_its_zone_when_firewalld_forgets_it() {
    with_firewalld(|host, firewalld| {
        let mut events = host.events();
        host.network(&network("trusted"));
        for forget in ["firewall-cmd --reload", "firewall-cmd --complete-reload"] {
            host.ns.run(forget);
            firewalld.wait_for_zone("trusted");
            let event = events.wait(forget, |e| e.kind == "drift" && e.what == "repaired");
            assert!(event.cause.as_ref().is_some_and(|cause| cause.contains("'trusted'")), "{event:?}");
        }
        firewalld.restart();
        firewalld.wait_for_zone("trusted");
        let (_, mut guest) = host.guest_on("z", "g");
        assert!(gets_a_lease(&mut guest, SOON));
        // That is firewalld's doing.
        host.ns.run("firewall-cmd --zone=trusted --remove-interface=brz");
        assert!(!gets_a_lease(&mut guest, NEVER));
    });
}
