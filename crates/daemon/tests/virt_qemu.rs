//! Real machines that libvirt's own driver starts, on networks and devices of ours: it asks us for ports, and makes the
//! links itself.
//!
//! The driver comes with `virt-qemu-run`, which has no daemon of libvirt's about it and looks for us where libvirt's
//! network daemon would be.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::console::{BOOT, Console, guest_image};
use common::rates::{KIB, Sending, assert_rate, has_police, ifbs, limits_of, qdiscs, rates};
use common::switch::{pool, switch};
use common::{Host, SOON, ip, pid};
use patchcord_api::methods::ImportLibvirt;
use patchcord_testkit::{
    Libvirtd, Namespace, Process, in_namespace, needs, probe, skip, test_name, unpacked, wait_until,
};
use rustix::process::{Signal, kill_process};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const MAC: &str = "52:54:00:00:00:09";
const GATEWAY: &str = "192.0.2.1";

const LAB: &str = "<network><name>lab</name><forward mode='nat'/><bridge name='virbr0' stp='off'/><ip address='192.0.2.1' prefix='24'>\
                   <dhcp><range start='192.0.2.50' end='192.0.2.99'/></dhcp></ip></network>";

const APART: &str = "<network><name>apart</name><bridge name='virbr1' stp='off'/><port isolated='yes'/></network>";

/// The driver keeps its hands off all but the machine: no users, cgroups and namespaces, and no file of the image changes
/// its owner or is marked.
const CONFIGURATION: &str = "dynamic_ownership = 0\nremember_owner = 0\nuser = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\ncgroup_controllers = []\n\
                             namespaces = []\nstdio_handler = \"file\"\n";

/// libvirt's driver from its package.
struct Driver {
    package: PathBuf,
    image: PathBuf,
}

impl Driver {
    /// Finds it and what it boots, or skips the test.
    fn find() -> Option<Self> {
        Some(Self { image: guest_image()?, package: unpacked("virt-qemu-run")? })
    }

    /// Makes the test's namespace a host on which the driver finds us.
    fn host<'a>(&self, ns: &'a Namespace) -> Host<'a> {
        self.host_with(ns, "")
    }

    /// One whose daemon is configured so.
    fn host_with<'a>(&self, ns: &'a Namespace, configuration: &str) -> Host<'a> {
        ns.run("mount -t tmpfs tmpfs /run");
        fs::create_dir("/run/netns").unwrap();
        let mut host = Host::without_daemon(ns);
        symlink(host.root.join("run/libvirt"), "/run/libvirt").unwrap();
        Self::users(ns, &host);
        fs::create_dir_all(host.root.join("etc/patchcord")).unwrap();
        fs::write(host.root.join("etc/patchcord/patchcord.toml"), configuration).unwrap();
        host.start();
        host
    }

    /// Makes the driver's user and group.
    fn users(ns: &Namespace, host: &Host<'_>) {
        fs::create_dir_all(host.root.join("etc")).unwrap();
        // The package's installation would have made them, and the driver starts only if they exist.
        for (file, line) in
            [("passwd", "libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin"), ("group", "libvirt-qemu:x:64055:")]
        {
            let (of_host, copy) = (Path::new("/etc").join(file), host.root.join("etc").join(file));
            fs::write(&copy, format!("{}{line}\n", fs::read_to_string(&of_host).unwrap())).unwrap();
            ns.run(&format!("mount --bind {} {}", copy.display(), of_host.display()));
        }
    }

    /// Starts a machine with a NIC on each of these networks, the first of which it has an address on.
    fn machine(&self, host: &Host<'_>, networks: &[&str]) -> Machine {
        let root = host.root.join("driver");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/qemu.conf"), CONFIGURATION).unwrap();
        let (document, console) = (root.join("vm.xml"), root.join("console"));
        fs::write(&document, self.document(&console, networks)).unwrap();
        let door = UnixListener::bind(&console).unwrap();
        let mut run = Command::new(self.package.join("usr/bin/virt-qemu-run"));
        run.arg(format!("--root={}", root.display())).arg(document);
        let libraries = self.package.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
        run.env("LIBVIRT_DRIVER_DIR", libraries.join("libvirt/connection-driver")).env("LD_LIBRARY_PATH", libraries);
        let mut driver = Process::start(run);
        door.set_nonblocking(true).unwrap();
        let stream = wait_until("the machine's console", BOOT, || match driver.ended() {
            Some(status) => panic!("virt-qemu-run: {status}\n{}", host.log()),
            None => door.accept(),
        });
        let stream = stream.0;
        stream.set_nonblocking(false).unwrap();
        Machine { console: Console::new(stream.try_clone().unwrap(), stream), driver, root }
    }

    fn document(&self, console: &Path, networks: &[&str]) -> String {
        let file = |name: &str| self.image.join(name).display().to_string();
        let nic = |(n, network): (usize, &&str)| {
            format!(
                "<interface type='network'><mac address='52:54:00:00:00:{:02x}'/><source network='{network}'/>\
                 <model type='virtio'/><driver name='qemu'/><rom enabled='no'/></interface>",
                n + 9
            )
        };
        let nics: String = networks.iter().enumerate().map(nic).collect();
        format!(
            "<domain type='qemu'><name>vm</name><memory unit='MiB'>128</memory>\
             <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{}</kernel><initrd>{}</initrd>\
             <cmdline>console=ttyS0 quiet loglevel=1 panic=-1 guest_name=vm</cmdline></os><features><acpi/></features>\
             <devices><emulator>/usr/bin/qemu-system-x86_64</emulator><controller type='usb' model='none'/>\
             <memballoon model='none'/><serial type='unix'><source mode='connect' path='{}'/></serial>{nics}</devices>\
             </domain>",
            file("vmlinuz"),
            file("initramfs"),
            console.display()
        )
    }
}

/// A running machine.
struct Machine {
    console: Console,
    driver: Process,
    root: PathBuf,
}

impl Machine {
    /// Waits for its address.
    fn address(&self) -> String {
        self.console.hear("vm: address ", BOOT).split('/').next().unwrap().to_owned()
    }

    /// It still reaches what it pings all the time, and loses nothing.
    fn lost_nothing(&mut self) {
        let count = self.console.ask("count");
        assert!(count.contains(", lost 0, ") && !count.starts_with("sent 0,"), "{count}");
    }

    /// The driver ends the machine, and lets go of its ports. (When a machine powers itself off, virt-qemu-run may hang
    /// or crash, before or after that.)
    fn ends(self, host: &Host<'_>) {
        assert!(!host.nics().is_empty());
        let status = self.terminated();
        assert!(status.success(), "{status}");
        assert_eq!(host.nics(), []);
    }

    /// How the driver ends that is told to.
    fn terminated(mut self) -> ExitStatus {
        kill_process(pid(self.driver.id()), Signal::TERM).unwrap();
        wait_until("the driver's end", SOON, || self.driver.ended().ok_or("it runs"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.driver.kill();
        // It is nobody's child.
        let qemu = fs::read_to_string(self.root.join("run/qemu/vm.pid")).unwrap_or_default();
        let qemu = qemu.trim().parse().ok().filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&*self.root.to_string_lossy())
        });
        if let Some(qemu) = qemu {
            let _ = kill_process(pid(qemu), Signal::KILL);
        }
    }
}

/// A tap's bridge, and whether it is isolated there.
fn port(ns: &Namespace, tap: &str) -> (Option<String>, bool) {
    let link = &ns.json(&format!("bridge -d -j link show dev {tap}"))[0];
    (link["master"].as_str().map(str::to_owned), link["isolated"] == true)
}

/// What is plugged in, by network: the device that the guest's NIC is, if it is one of a bridge.
fn plugged(host: &Host<'_>) -> Vec<(String, String, Option<String>)> {
    let nics = host.nics().into_iter();
    let mut all: Vec<_> = nics.map(|nic| (nic.network.unwrap(), nic.state, nic.actual.tap)).collect();
    all.sort();
    all
}

fn virsh(ns: &Namespace, command: &str) -> String {
    ns.run(&format!("virsh -c network:///system {command}"))
}

#[test]
fn a_machine_keeps_its_networks_while_they_and_the_daemon_end_and_begin() {
    let Some(driver) = Driver::find() else { return };
    in_namespace(|ns| {
        let mut host = driver.host(ns);
        host.network(LAB);
        host.network(APART);
        let mut machine = driver.machine(&host, &["lab", "apart"]);
        let address = machine.address();
        assert!(machine.console.pings(GATEWAY));
        let (beside, mut guest) = host.guest_on("lab", "beside");
        guest.set_static(ip("192.0.2.200"), 24, None);
        Host::reaches(&mut guest, &address);
        host.detach(&beside.id);
        let leases = virsh(ns, "net-dhcp-leases lab");
        assert!(leases.contains(MAC) && leases.contains(&format!("{address}/24")), "{leases}");

        let all_well = |host: &Host<'_>| {
            assert_eq!(port(ns, "vnet0"), (Some("virbr0".into()), false));
            assert_eq!(port(ns, "vnet1"), (Some("virbr1".into()), true));
            let nic = |network: &str, tap: &str| (network.to_owned(), "plugged".to_owned(), Some(tap.to_owned()));
            assert_eq!(plugged(host), [nic("apart", "vnet1"), nic("lab", "vnet0")]);
        };
        all_well(&host);
        let before = host.nics();
        for nic in &before {
            assert_eq!((nic.guest.as_str(), nic.handover.as_str()), ("vm", "port"));
            let listed = virsh(ns, &format!("net-port-list {}", nic.network.as_ref().unwrap()));
            assert!(listed.contains(&nic.id), "{} in {listed}", nic.id);
        }

        assert_eq!(machine.console.ask(&format!("watch {GATEWAY}")), "answers");
        host.kill();
        assert!(machine.console.pings(GATEWAY));
        host.start();
        all_well(&host);
        assert_eq!(host.nics(), before);
        machine.lost_nothing();

        for network in ["lab", "apart"] {
            virsh(ns, &format!("net-destroy {network}"));
        }
        assert!(!machine.console.pings(GATEWAY));
        for network in ["lab", "apart"] {
            virsh(ns, &format!("net-start {network}"));
        }
        all_well(&host);
        wait_until("the machine on its network", SOON, || {
            machine.console.pings(GATEWAY).then_some(()).ok_or("no answer")
        });
        // A daemon that has not seen the machine start brings its network back too.
        host.kill();
        host.start();
        virsh(ns, "net-destroy lab");
        virsh(ns, "net-start lab");
        all_well(&host);
        wait_until("the machine on its network", SOON, || {
            machine.console.pings(GATEWAY).then_some(()).ok_or("no answer")
        });
        machine.ends(&host);
        assert!(!ns.run("ip link").contains("vnet"));
    });
}

#[test]
fn a_machine_of_libvirts_network_daemon_is_ours_and_notices_nothing() {
    let Some(driver) = Driver::find() else { return };
    in_namespace(|ns| {
        let Some(mut libvirtd) = Libvirtd::beside(ns) else { return };
        let mut host = Host::beside_libvirt(ns);
        Driver::users(ns, &host);
        // Where its clients look for it, and where the driver looks for libvirt's daemon for networks alone.
        symlink("/run", "/var/run").unwrap();
        let door = Path::new("/run/libvirt/virtnetworkd-sock");
        symlink(&libvirtd.sockets()[0], door).unwrap();
        fs::write("/run/lab.xml", LAB).unwrap();
        virsh(ns, "net-define /run/lab.xml");
        virsh(ns, "net-start lab");
        let mut machine = driver.machine(&host, &["lab"]);
        let address = machine.address();
        assert_eq!(machine.console.ask(&format!("watch {GATEWAY}")), "answers");

        libvirtd.stop();
        for socket in libvirtd.sockets().iter().map(PathBuf::as_path).chain([door]) {
            let _ = fs::remove_file(socket);
        }
        host.start();
        let imported = host.call(&ImportLibvirt { dry_run: Some(false), undo: Some(false) });
        assert!(imported.networks.iter().all(|n| n.done && n.warnings.is_empty()), "{imported:#?}");
        machine.lost_nothing();
        assert_eq!(plugged(&host), [("lab".to_owned(), "plugged".to_owned(), Some("vnet0".to_owned()))]);
        let leases = virsh(ns, "net-dhcp-leases lab");
        assert!(leases.contains(MAC) && leases.contains(&format!("{address}/24")), "{leases}");
        // The network is ours to stop and to start, and takes the machine with it.
        virsh(ns, "net-destroy lab");
        assert!(!machine.console.pings(GATEWAY));
        virsh(ns, "net-start lab");
        wait_until("the machine on its network", SOON, || {
            machine.console.pings(GATEWAY).then_some(()).ok_or("no answer")
        });
        // And the driver's port is one that it gives back to us.
        machine.ends(&host);
    });
}

/// How many bytes a link has carried so far.
fn bytes(ns: &Namespace, link: &str, direction: &str) -> u64 {
    ns.json(&format!("ip -s -j link show dev {link}"))[0]["stats64"][direction]["bytes"].as_u64().unwrap()
}

/// What limits a machine's tap: the rate of what leaves it, and what is done to what comes in.
fn limits(ns: &Namespace, tap: &str) -> (Option<String>, Vec<String>) {
    let classes = ns.run(&format!("tc class show dev {tap}"));
    let rate = classes.split_once("class htb 7063:1 ").and_then(|(_, class)| class.split_once(" rate "));
    let rate = rate.and_then(|(_, rate)| rate.split_once(' ')).map(|(rate, _)| rate.to_owned());
    let filters = ns.json(&format!("tc -j filter show dev {tap} ingress"));
    let actions = filters.as_array().unwrap().iter().filter_map(|f| f["options"]["actions"].as_array()).flatten();
    (rate, actions.map(|action| action["kind"].as_str().unwrap().to_owned()).collect())
}

#[test]
fn a_machine_is_limited_by_us_where_that_is_configured() {
    let Some(driver) = Driver::find() else { return };
    if !needs("sch_htb", &["tc qdisc add dev lo root handle 1: htb"]) {
        return;
    }
    let all = "<portgroup name='all' default='yes'><bandwidth><inbound average='1024'/><outbound average='512'/>\
               </bandwidth></portgroup>";
    in_namespace(|ns| {
        let mut host = driver.host_with(ns, "[libvirt]\nshaping = 'patchcord'\n");
        host.network(&LAB.replace("<ip ", &format!("{all}<ip ")));
        let mut machine = driver.machine(&host, &["lab"]);
        let address = machine.address();
        assert!(machine.console.pings(GATEWAY));
        let police = has_police(ns);
        let incoming = if police { "police" } else { "mirred" };
        let limited = (Some("8388Kbit".to_owned()), vec![incoming.to_owned()]);
        wait_until("the machine's limits", SOON, || match limits(ns, "vnet0") {
            there if there == limited => Ok(()),
            other => Err(format!("{other:?}\n{}", host.log())),
        });
        assert_eq!(ifbs(ns).len(), usize::from(!police));
        assert_eq!(qdiscs(ns, "vnet0")[0], "htb");
        assert!(!host.log().contains("somebody else"), "{}", host.log());

        // Nobody has to listen in the machine for frames to get to it.
        let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let to = (address.clone(), 9);
        let sending = Sending::start(move || drop(socket.send_to(&[0; 1000], &to)));
        let [inbound] = rates([&|| bytes(ns, "vnet0", "tx")]);
        drop(sending);
        assert_rate(inbound, 1024.0, "towards the machine");
        // What it sends back of a stream, as fast as it may. What is dropped above a rate slows a stream down.
        let [outbound] = echoed(&address, |received| rates([received]));
        let (least, most) = (if police { 128.0 } else { 384.0 }, 512.0 * 1.02);
        assert!((least * KIB..most * KIB).contains(&outbound), "from the machine: {:.0} KiB/s", outbound / KIB);

        // They are the tap's, and not the daemon's to carry out.
        let seen = || (limits_of(ns, "vnet0"), ifbs(ns));
        let before = seen();
        host.kill();
        assert_eq!(seen(), before);
        host.start();
        assert_eq!(seen(), before);
        assert_eq!(limits(ns, "vnet0"), limited);
        assert!(!host.log().contains("not as it should be"), "{}", host.log());
        assert!(machine.console.pings(GATEWAY));
        machine.ends(&host);
        wait_until("the ifb's end", SOON, || if ifbs(ns).is_empty() { Ok(()) } else { Err(ifbs(ns).join(" ")) });
    });
}

/// Measures what comes back of a stream to a machine that sends back all that it gets.
fn echoed<T>(address: &str, measure: impl FnOnce(&dyn Fn() -> u64) -> T) -> T {
    let stream = TcpStream::connect((address, 7)).unwrap();
    let received = Arc::new(AtomicU64::new(0));
    let (mut reader, count) = (stream.try_clone().unwrap(), Arc::clone(&received));
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            count.fetch_add(length as u64, Ordering::Relaxed);
        }
    });
    let mut writer = stream.try_clone().unwrap();
    std::thread::spawn(move || while writer.write_all(&[0; 65536]).is_ok() {});
    let measured = measure(&|| received.load(Ordering::Relaxed));
    stream.shutdown(Shutdown::Both).unwrap();
    measured
}

/// A switch outside the host that gives leases.
fn outside(ns: &Namespace, host: &Host<'_>, device: &str) -> (Namespace, Process) {
    let switch = switch(ns, &[device]);
    let dnsmasq = format!(
        "dnsmasq --keep-in-foreground --conf-file=/dev/null --pid-file= --port=0 --user=root --interface=fabric \
         --bind-interfaces --dhcp-range=10.9.0.50,10.9.0.99 --dhcp-leasefile={}/outside.leases",
        host.root.display()
    );
    let dnsmasq = switch.spawn(&dnsmasq);
    (switch, dnsmasq)
}

#[test]
fn a_machine_on_a_bridge_of_the_hosts() {
    let Some(driver) = Driver::find() else { return };
    in_namespace(|ns| {
        let mut host = driver.host(ns);
        let _outside = outside(ns, &host, "eth10");
        ns.run("ip link add br0 type bridge");
        ns.run("ip link set br0 up");
        ns.run("ip link set eth10 master br0");
        host.network("<network><name>office</name><forward mode='bridge'/><bridge name='br0'/></network>");
        let mut machine = driver.machine(&host, &["office"]);
        assert!(machine.address().starts_with("10.9.0."));
        let all_well = |host: &Host<'_>| {
            assert_eq!(port(ns, "vnet0"), (Some("br0".into()), false));
            assert_eq!(plugged(host), [("office".to_owned(), "plugged".to_owned(), Some("vnet0".to_owned()))]);
        };
        all_well(&host);
        assert!(host.log().contains("event=Plugged"), "{}", host.log());
        // Neither the network nor the daemon is between the machine and a bridge that is the host's.
        assert_eq!(machine.console.ask("watch 10.9.0.1"), "answers");
        virsh(ns, "net-destroy office");
        virsh(ns, "net-start office");
        host.kill();
        host.start();
        machine.lost_nothing();
        all_well(&host);
        machine.ends(&host);
    });
}

/// The driver opens a macvtap by the node in /dev that the kernel makes for its index, which must be no other
/// namespace's: these indices are beyond those that tests use, and of each test that needs them its own.
fn high_indices(ns: &Namespace, mode: &str) {
    let count = if mode == "passthrough" { 100 } else { 60 };
    for n in 0..count {
        ns.run(&format!("ip link add name high{n} group 9 type veth peer name low{n}"));
    }
    ns.run("ip link del group 9");
}

fn on_a_macvtap(mode: &str, by_ip: &str) {
    let Some(driver) = Driver::find() else { return };
    let made = [
        "ip link add name probe0 type veth peer name probe1",
        "ip link add link probe0 name probe2 index 4321 type macvtap",
        "test -c /dev/tap4321",
    ];
    if let Err(error) = probe(&made) {
        skip(
            &test_name(),
            &format!("kernel has no macvtap with a node in /dev ({})", error.trim_end().replace('\n', " ")),
        );
        return;
    }
    in_namespace(|ns| {
        let mut host = driver.host(ns);
        let _outside = outside(ns, &host, "eth10");
        high_indices(ns, mode);
        host.network(&pool("office", mode, &["eth10"]));
        let mut machine = driver.machine(&host, &["office"]);
        assert!(machine.address().starts_with("10.9.0."));
        assert!(machine.console.pings("10.9.0.1"));
        let link = host.link("macvtap0").unwrap();
        assert_eq!((link["link"].as_str(), link["address"].as_str()), (Some("eth10"), Some(MAC)));
        assert_eq!(link["linkinfo"]["info_data"]["mode"], by_ip, "{link}");
        let all_well = |host: &Host<'_>| {
            let nic = &host.nics()[0];
            assert_eq!((nic.state.as_str(), nic.actual.dev.as_deref()), ("plugged", Some("eth10")), "{nic:?}");
            assert_eq!(nic.actual.mode.as_deref(), Some(mode));
        };
        all_well(&host);
        assert_eq!(machine.console.ask("watch 10.9.0.1"), "answers");
        host.kill();
        host.start();
        all_well(&host);
        virsh(ns, "net-destroy office");
        virsh(ns, "net-start office");
        all_well(&host);
        machine.lost_nothing();
        // It listens to no netlink events, as libvirt's daemons do, and the driver, which stops listening for a macvtap
        // that it deletes, crashes there. So the port is for others to delete.
        let _ = machine.terminated();
        let id = &host.nics()[0].id;
        virsh(ns, &format!("net-port-delete office {id}"));
        assert_eq!(host.nics(), []);
    });
}

#[test]
fn a_machine_on_a_macvtap_by_the_switch() {
    on_a_macvtap("vepa", "vepa");
}

#[test]
fn a_machine_with_a_device_for_itself() {
    on_a_macvtap("passthrough", "passthru");
}
