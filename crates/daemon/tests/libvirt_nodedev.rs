//! Node devices as libvirt's clients see them, beside what libvirt's own daemon shows of the same host.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::python::{PYTHON, binding};
use common::remote::{Client, call};
use common::{Host, SOON, tap};
use patchcord_libvirt_wire::xdr::Writer;
use patchcord_libvirt_wire::{Procedure, Status};
use patchcord_testkit::{Libvirtd, Namespace, Process, Sysfs, has_dummy, has_vlan, in_namespace, wait_until};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A host whose daemon serves node devices.
fn serving<'a>(ns: &'a Namespace, prepare: impl FnOnce(&Host<'a>)) -> Host<'a> {
    let mut host = Host::without_daemon(ns);
    fs::create_dir_all(host.root.join("etc/patchcord")).unwrap();
    fs::write(host.root.join("etc/patchcord/patchcord.toml"), "[libvirt]\nnodedev = \"on\"\n").unwrap();
    prepare(&host);
    host.start();
    host
}

fn sockets(host: &Host<'_>) -> [PathBuf; 2] {
    ["virtnodedevd-sock", "virtnodedevd-sock-ro"].map(|name| host.root.join("run/libvirt").join(name))
}

/// virsh on a socket for node devices.
struct Virsh {
    uri: String,
}

impl Virsh {
    fn on(socket: &Path) -> Self {
        Self { uri: uri(socket) }
    }

    fn ours(host: &Host<'_>) -> Self {
        Self::on(&sockets(host)[0])
    }

    fn command(&self, arguments: &str) -> Command {
        let mut virsh = Command::new("virsh");
        virsh.args(["-q", "-c", &self.uri]).args(arguments.split(' ')).env("LC_ALL", "C").stdin(Stdio::null());
        virsh
    }

    /// What it prints of something that works.
    fn says(&self, arguments: &str) -> String {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(status.success(), "virsh {arguments}: {stdout}{stderr}");
        stdout
    }

    /// What it prints of something that does not: its own line, and the daemon's words up to what is ours in them.
    fn complains(&self, arguments: &str) -> String {
        let Output { status, stderr, .. } = self.command(arguments).output().unwrap();
        let error = String::from_utf8(stderr).unwrap();
        assert!(!status.success(), "virsh {arguments} should fail");
        let lines: Vec<&str> = error.lines().collect();
        let fixed = lines.get(1).map_or("", |line| line.trim_start_matches("error: ").split(": ").next().unwrap());
        format!("{}\n{fixed}", lines[0])
    }

    /// The names in a list, of devices that are known to both.
    fn list(&self, arguments: &str) -> Vec<String> {
        let said = self.says(&format!("nodedev-list {arguments}"));
        let known = |name: &&str| ["net_", "pci_", "computer"].iter().any(|start| name.starts_with(start));
        said.lines().filter(known).map(str::to_owned).collect()
    }
}

fn uri(socket: &Path) -> String {
    format!("nodedev+unix:///system?socket={}", socket.display())
}

/// Makes two links, joined.
const PAIR: &str = "ip link add veth7 address 02:00:00:00:00:07 type veth peer name veth8 address 02:00:00:00:00:08";

const VETH: &str = "net_veth7_02_00_00_00_00_07";
const LO: &str = "net_lo_00_00_00_00_00_00";

/// Brings both up. That they work the kernel finds out a moment later.
fn bring_up(ns: &Namespace) {
    let ends = ["veth7", "veth8"];
    for end in ends {
        ns.run(&format!("ip link set {end} up"));
    }
    wait_until("both ends to work", SOON, || {
        let states = ends.map(|end| ns.json(&format!("ip -j link show dev {end}"))[0]["operstate"].clone());
        if states.iter().all(|state| state == "UP") { Ok(()) } else { Err(format!("{states:?}")) }
    });
}

#[test]
fn links_are_listed_and_described() {
    in_namespace(|ns| {
        ns.run(PAIR);
        ns.run("ip link add br7 type bridge");
        let host = serving(ns, |_| {});
        let virsh = Virsh::ours(&host);
        let links = [LO, VETH, "net_veth8_02_00_00_00_00_08"];
        assert_eq!(virsh.list("--cap net"), links);
        let all = virsh.list("--all");
        assert!(all.contains(&"computer".to_owned()) && links.iter().all(|link| all.contains(&(*link).to_owned())));
        assert_eq!(virsh.list("--inactive"), [""; 0]);
        let tree = virsh.says("nodedev-list --tree");
        assert!(tree.starts_with("computer\n  |\n  +- net_lo_00_00_00_00_00_00\n"), "{tree}");
        let info = virsh.says(&format!("nodedev-info {VETH}"));
        let info: Vec<String> = info.lines().map(|line| line.split_whitespace().collect()).collect();
        let name = format!("Name:{VETH}");
        assert_eq!(info[..5], [&name, "Parent:computer", "Active:yes", "Persistent:no", "Autostart:no"]);
        let xml = virsh.says(&format!("nodedev-dumpxml {VETH}"));
        let begins = format!(
            "<device>\n  <name>{VETH}</name>\n  <path>/sys/devices/virtual/net/veth7</path>\n  <parent>computer</parent>\n  \
             <capability type='net'>\n    <interface>veth7</interface>\n    <address>02:00:00:00:00:07</address>\n    \
             <link state='down'/>\n"
        );
        assert!(xml.starts_with(&begins), "{xml}");
        assert!(xml.ends_with("    <capability type='80203'/>\n  </capability>\n</device>\n"), "{xml}");
        assert!(xml.contains("<feature name='tso'/>"), "{xml}");
        ns.run("ethtool -K veth7 tso off");
        bring_up(ns);
        let xml = virsh.says(&format!("nodedev-dumpxml {VETH}"));
        assert!(!xml.contains("<feature name='tso'/>") && xml.contains("<link speed='10000' state='up'/>"), "{xml}");
    });
}

#[test]
fn links_of_our_own_are_listed_until_they_are_doomed() {
    in_namespace(|ns| {
        let host = serving(ns, |_| {});
        let virsh = Virsh::ours(&host);
        let mut client = Client::on(&sockets(&host)[0]);
        client.say(&call(Procedure::ConnectOpen, 0, Writer::default().u32(0).u32(0)));
        client.say(&call(Procedure::ConnectNodeDeviceEventRegisterAny, 1, Writer::default().i32(0).u32(0)));
        for _ in 0..2 {
            assert_eq!(client.hears().unwrap().header.status, Status::Ok);
        }
        host.network("<network><name>lab</name><bridge name='virbr7'/></network>");
        let (nic, guest) = host.guest_on("lab", "web");
        let name = format!("net_{}_", tap(&nic));
        let listed = || virsh.list("--cap net").iter().any(|device| device.starts_with(&name));
        wait_until("the tap", SOON, || if listed() { Ok(()) } else { Err(virsh.says("nodedev-list")) });
        host.detach(&nic.id);
        wait_until("its end", SOON, || if listed() { Err(virsh.says("nodedev-list")) } else { Ok(()) });
        drop(guest);
        host.stop_network("lab");
        ns.run(PAIR);
        let mut told = Vec::new();
        while !told.iter().any(|what: &String| what.contains(VETH)) {
            told.push(String::from_utf8_lossy(&client.hears().unwrap().payload).into_owned());
        }
        assert!(told.iter().all(|what| !what.contains("pcdel")), "{told:?}");
        assert_eq!(told.iter().filter(|what| what.contains(&name)).count(), 2, "{told:?}");
    });
}

#[test]
fn virsh_hears_of_links() {
    in_namespace(|ns| {
        let host = serving(ns, |_| {});
        let virsh = Virsh::ours(&host);
        let watch = |event: &str| {
            let file = host.root.join(event);
            let plain = virsh.command(&format!("nodedev-event --event {event} --loop"));
            // virsh keeps to itself for a while what it writes to a file.
            let mut watch = Command::new("stdbuf");
            watch.arg("-oL").arg(plain.get_program()).args(plain.get_args()).env("LC_ALL", "C").stdin(Stdio::null());
            watch.stdout(fs::File::create(&file).unwrap());
            (Process::start(watch), file)
        };
        let (_lifecycle, lives) = watch("lifecycle");
        let (_update, updates) = watch("update");
        let heard = |file: &Path| fs::read_to_string(file).unwrap();
        // Whether it is registered nobody says; a link that comes, changes and goes tells.
        wait_until("virsh to listen", SOON, || {
            ns.run("ip link add veth1 type veth peer name veth2");
            ns.run("ip link set veth2 up");
            ns.run("ip link set veth1 up");
            ns.run("ip link del veth1");
            let both = heard(&lives).contains("Deleted") && heard(&updates).contains("net_veth");
            if both { Ok(()) } else { Err(heard(&lives)) }
        });
        ns.peer("other");
        // What happens at once may be heard of as one change.
        let step = |command: &str, expected: &[(&str, &str)]| {
            fs::write(&lives, "").unwrap();
            ns.run(command);
            let line = |(name, what): &(&str, &str)| format!("event 'lifecycle' for node device {name}: {what}\n");
            wait_until(command, SOON, || {
                let heard = heard(&lives);
                let all = expected.iter().all(|event| heard.contains(&line(event)));
                if all { Ok(()) } else { Err(heard) }
            });
        };
        let (veth8, veth9) = ("net_veth8_02_00_00_00_00_08", "net_veth9_02_00_00_00_00_08");
        step(PAIR, &[(VETH, "Created"), (veth8, "Created")]);
        step("ip link set veth8 name veth9", &[(veth8, "Deleted"), (veth9, "Created")]);
        step("ip link set veth9 netns other", &[(veth9, "Deleted")]);
        step("ip link del veth7", &[(VETH, "Deleted")]);
    });
}

/// What both daemons show of a device; only ours knows that a speed is unknown, and only libvirt's may read which of a
/// device's ports a link is of, and that a device is PCI Express that has no link. Whom a device shares an IOMMU group with
/// libvirt lists as its directory does.
fn document(virsh: &Virsh, device: &str) -> String {
    let xml = virsh.says(&format!("nodedev-dumpxml {device}")).replace(" speed='4294967295'", "");
    let xml = xml.replace(" port='1'", "").replace("    <pci-express/>\n", "");
    let mut lines: Vec<&str> = xml.lines().collect();
    let begin = lines.iter().position(|line| line.contains("<iommuGroup "));
    let end = lines.iter().position(|line| line.contains("</iommuGroup>"));
    if let (Some(begin), Some(end)) = (begin, end) {
        lines[begin..end].sort_by_key(|line| (!line.contains("<iommuGroup "), *line));
    }
    lines.join("\n")
}

fn compare(ours: &Virsh, theirs: &Virsh) {
    for list in ["", "--all", "--inactive", "--cap net", "--cap pci", "--cap system", "--cap usb", "--cap net,pci"] {
        assert_eq!(ours.list(list), theirs.list(list), "nodedev-list {list}");
    }
    for device in ours.list("") {
        let info = format!("nodedev-info {device}");
        assert_eq!(ours.says(&info), theirs.says(&info), "{info}");
        assert_eq!(document(ours, &device), document(theirs, &device));
    }
}

#[test]
fn libvirts_own_daemon_shows_the_same_of_links() {
    in_namespace(|ns| {
        ns.run(PAIR);
        bring_up(ns);
        ns.run("ip link add br7 type bridge");
        ns.run("ip tuntap add dev tap7 mode tap");
        ns.run("ip tuntap add dev tun7 mode tun");
        ns.run("ip link add a.b-c type veth peer name e");
        ns.run("ip link add macvlan7 link veth7 type macvlan");
        if has_dummy() {
            ns.run("ip link add dummy7 type dummy");
        }
        if has_vlan() {
            ns.run("ip link add vlan7 link veth7 type vlan id 7");
        }
        let host = serving(ns, |_| {});
        let Some(libvirtd) = Libvirtd::with_devices(ns) else { return };
        let (ours, theirs) = (Virsh::ours(&host), Virsh::on(&libvirtd.sockets()[0]));
        compare(&ours, &theirs);
        // Refusals begin alike.
        let file = host.root.join("device.xml");
        fs::write(&file, ours.says(&format!("nodedev-dumpxml {VETH}"))).unwrap();
        for command in [
            "nodedev-dumpxml nonsense".to_owned(),
            "nodedev-info nonsense".to_owned(),
            format!("nodedev-create {}", file.display()),
            format!("nodedev-define {}", file.display()),
            format!("nodedev-destroy {VETH}"),
            "nodedev-destroy computer".to_owned(),
            format!("nodedev-undefine {VETH}"),
            "nodedev-undefine computer".to_owned(),
            format!("nodedev-start {VETH}"),
            format!("nodedev-autostart {VETH}"),
            format!("nodedev-autostart {VETH} --disable"),
            format!("nodedev-detach {VETH}"),
            format!("nodedev-detach {VETH} --driver vfio"),
            format!("nodedev-reattach {VETH}"),
            format!("nodedev-reset {VETH}"),
            "nodedev-list --cap nonsense".to_owned(),
            "nodedev-event --device nonsense --event lifecycle".to_owned(),
        ] {
            assert_eq!(ours.complains(&command), theirs.complains(&command), "{command}");
        }
    });
}

/// A function's configuration space: what all have of it and, for PCI Express, a link of 8 GT/s with 8 lanes that now
/// has 5 GT/s and 4.
fn configuration(header: u8, express: bool) -> Vec<u8> {
    let mut space = vec![0; 256];
    space[0x0e] = header;
    if express {
        (space[0x06], space[0x34], space[0x40], space[0x42]) = (0x10, 0x40, 0x10, 0x02);
        space[0x4c..0x50].copy_from_slice(&(3_u32 | 8 << 4 | 1 << 24).to_le_bytes());
        space[0x52..0x54].copy_from_slice(&(2_u16 | 4 << 4).to_le_bytes());
    }
    space
}

fn function(sysfs: &Sysfs, address: &str, [vendor, device, class]: [&str; 3], header: u8, express: bool) {
    sysfs.add_function(address);
    let uevent = format!("PCI_CLASS={class}\nPCI_ID={vendor}:{device}\nPCI_SLOT_NAME={address}\n");
    let [vendor, device, class] = [vendor, device, class].map(|id| format!("0x{id}\n"));
    let space = configuration(header, express);
    let attributes = [
        ("vendor", vendor.as_bytes()),
        ("device", device.as_bytes()),
        ("class", class.as_bytes()),
        ("config", &space),
        ("numa_node", b"-1\n"),
        // By this libvirt knows which devices are one.
        ("resource", address.as_bytes()),
        ("irq", b"0\n"),
        ("subsystem_vendor", b"0x0000\n"),
        ("subsystem_device", b"0x0000\n"),
        ("uevent", uevent.as_bytes()),
    ];
    sysfs.describe(address, &attributes);
    if express {
        let link =
            [("max_link_speed", "8.0 GT/s PCIe"), ("max_link_width", "8"), ("current_link_speed", "5.0 GT/s PCIe")];
        let link = link.into_iter().chain([("current_link_width", "4")]);
        link.for_each(|(name, value)| sysfs.describe(address, &[(name, value.as_bytes())]));
    }
}

const PF: &str = "0000:3b:00.0";
const VFS: [&str; 2] = ["0000:3b:02.0", "0000:3b:02.1"];

/// A network card with virtual functions, one of them given away; another that has none yet, a bridge, and one more.
fn card(root: &Path) -> Sysfs {
    let sysfs = Sysfs::new(root);
    function(&sysfs, PF, ["8086", "158b", "020000"], 0, true);
    for vf in VFS {
        function(&sysfs, vf, ["8086", "154c", "020000"], 0, true);
    }
    function(&sysfs, "0000:3b:00.1", ["8086", "158b", "020000"], 0, false);
    function(&sysfs, "0000:3a:00.0", ["8086", "2030", "060400"], 1, true);
    function(&sysfs, "0000:3a:01.0", ["1af4", "1041", "020000"], 0x80, false);
    sysfs.enable(PF, &VFS);
    sysfs.enable("0000:3b:00.1", &[]);
    for (address, driver) in [(PF, "i40e"), (VFS[0], "iavf"), (VFS[1], "vfio-pci")] {
        sysfs.add_driver(driver);
        sysfs.bind(address, driver);
    }
    sysfs.describe(PF, &[("numa_node", b"1\n")]);
    sysfs.group(7, &[PF]);
    sysfs.group(8, &VFS);
    let link = |name, index, mac, state| [("address", mac), ("ifindex", index), ("operstate", state), ("speed", name)];
    sysfs.add_link(PF, "ens1f0", &link("25000", "100", "3c:fd:fe:00:00:01", "up"));
    sysfs.add_link(VFS[0], "ens1f0v0", &link("-1", "101", "3c:fd:fe:00:00:02", "down"));
    sysfs.add_link("0000:3a:01.0", "eth.x-1", &link("-1", "102", "52:54:00:00:00:0a", "up"));
    sysfs.add_link(VFS[0], "wlp1", &link("-1", "103", "3c:fd:fe:00:00:03", "dormant"));
    fs::write(sysfs.path("class/net/wlp1/uevent"), "DEVTYPE=wlan\nINTERFACE=wlp1\nIFINDEX=103\n").unwrap();
    let infiniband = sysfs.path("class/infiniband/irdma0");
    fs::create_dir_all(&infiniband).unwrap();
    std::os::unix::fs::symlink(format!("../../../bus/pci/devices/{PF}"), infiniband.join("device")).unwrap();
    let firmware = sysfs.path("devices/virtual/dmi/id");
    fs::create_dir_all(&firmware).unwrap();
    fs::create_dir_all(sysfs.path("class/dmi")).unwrap();
    std::os::unix::fs::symlink("../../../../class/dmi", firmware.join("subsystem")).unwrap();
    for (name, text) in [
        ("product_name", "Rack & Co"),
        ("sys_vendor", "Vendor Inc."),
        ("product_version", "V1"),
        ("product_serial", "S-1"),
        ("product_uuid", "4c4c4544-0042-3510-8052-b4c04f4e3332"),
        ("bios_vendor", "Firmware Inc."),
        ("bios_version", "2.3"),
        ("bios_date", "01/02/2020"),
        ("uevent", "MODALIAS=dmi:"),
    ] {
        fs::write(firmware.join(name), format!("{text}\n")).unwrap();
    }
    sysfs
}

#[test]
fn functions_are_described() {
    in_namespace(|ns| {
        let host = serving(ns, |host| {
            card(&host.root);
            let share = host.root.join("usr/share/misc");
            fs::create_dir_all(&share).unwrap();
            let list = "8086  Intel Corporation\n\t158b  Ethernet Controller XXV710 for 25GbE SFP28\n";
            fs::write(share.join("pci.ids"), list).unwrap();
        });
        let virsh = Virsh::ours(&host);
        let address = |slot: &str, function| {
            format!("      <address domain='0x0000' bus='0x3b' slot='{slot}' function='{function}'/>\n")
        };
        let expected = [
            "<device>\n  <name>pci_0000_3b_00_0</name>\n  <path>/sys/devices/pci0000:3a/0000:3b:00.0</path>\n  ",
            "<parent>computer</parent>\n  <driver>\n    <name>i40e</name>\n  </driver>\n  <capability type='pci'>\n    ",
            "<class>0x020000</class>\n    <domain>0</domain>\n    <bus>59</bus>\n    <slot>0</slot>\n    ",
            "<function>0</function>\n    ",
            "<product id='0x158b'>Ethernet Controller XXV710 for 25GbE SFP28</product>\n    ",
            "<vendor id='0x8086'>Intel Corporation</vendor>\n    <capability type='virt_functions' maxCount='64'>\n",
            &address("0x02", "0x0"),
            &address("0x02", "0x1"),
            "    </capability>\n    <iommuGroup number='7'>\n",
            &address("0x00", "0x0"),
            "    </iommuGroup>\n    <numa node='1'/>\n    <pci-express>\n      ",
            "<link validity='cap' speed='8' width='8'/>\n      <link validity='sta' speed='5' width='4'/>\n    ",
            "</pci-express>\n  </capability>\n</device>\n",
        ];
        assert_eq!(virsh.says("nodedev-dumpxml pci_0000_3b_00_0"), expected.concat());
        assert_eq!(virsh.list("--cap pci").len(), 6);
        let links = [
            "net_ens1f0_3c_fd_fe_00_00_01",
            "net_ens1f0v0_3c_fd_fe_00_00_02",
            "net_eth_x_1_52_54_00_00_00_0a",
            "net_wlp1_3c_fd_fe_00_00_03",
        ];
        assert_eq!(virsh.list("--cap net"), links);
        for (link, part) in [(links[0], "<feature name='rdma'/>"), (links[3], "<capability type='80211'/>")] {
            let xml = virsh.says(&format!("nodedev-dumpxml {link}"));
            assert!(xml.contains(part), "{xml}");
        }
        let parent = virsh.says(&format!("nodedev-info {}", links[1]));
        assert!(parent.contains("pci_0000_3b_02_0"), "{parent}");
    });
}

#[test]
fn libvirts_own_daemon_shows_the_same_of_functions() {
    in_namespace(|ns| {
        let host = serving(ns, |host| drop(card(&host.root)));
        ns.run(&format!("mount --bind {} /sys", host.root.join("sys").display()));
        let Some(libvirtd) = Libvirtd::with_devices(ns) else { return };
        let (ours, theirs) = (Virsh::ours(&host), Virsh::on(&libvirtd.sockets()[0]));
        compare(&ours, &theirs);
        assert_eq!(ours.list("--cap pci").len(), 6);
        assert_eq!(ours.says("nodedev-list --tree"), theirs.says("nodedev-list --tree"));
    });
}

#[test]
fn functions_that_come_change_and_go_are_told() {
    in_namespace(|ns| {
        let mut sysfs = None;
        let host = serving(ns, |host| sysfs = Some(card(&host.root)));
        let sysfs = sysfs.unwrap();
        let virsh = Virsh::ours(&host);
        assert!(virsh.list("--cap pci").contains(&"pci_0000_3b_02_1".to_owned()));
        let mut client = Client::on(&sockets(&host)[0]);
        let say = |client: &mut Client, procedure, arguments: &Writer| {
            client.say(&call(procedure, 1, arguments));
            let answer = client.hears().unwrap();
            assert_eq!(answer.header.status, Status::Ok, "{procedure:?}");
        };
        say(&mut client, Procedure::ConnectOpen, Writer::default().u32(0).u32(0));
        for event in [0, 1] {
            say(&mut client, Procedure::ConnectNodeDeviceEventRegisterAny, Writer::default().i32(event).u32(0));
        }
        // The kernel's announcement of a link of a function stands for those of functions, which only the kernel makes.
        let announce = |n: u32| {
            let name = format!("eth{n}");
            sysfs.add_link("0000:3b:00.1", &name, &[("ifindex", "0")]);
            ns.run(&format!("ip link add {name} type veth peer name peer{n}"));
        };
        sysfs.unbind(VFS[1]);
        function(&sysfs, "0000:3b:03.0", ["8086", "154c", "020000"], 0, true);
        announce(1);
        let mut told = Vec::new();
        let mut until = |client: &mut Client, device: &str, procedure: i32| {
            loop {
                let message = client.hears().unwrap();
                let text = String::from_utf8_lossy(&message.payload).into_owned();
                told.push((message.header.procedure, text.clone()));
                if message.header.procedure == procedure && text.contains(device) {
                    return message.payload[message.payload.len() - 8..].to_vec();
                }
            }
        };
        until(&mut client, "pci_0000_3b_02_1", 377);
        let event = until(&mut client, "pci_0000_3b_03_0", 376);
        assert_eq!(event, [0; 8], "created");
        assert!(virsh.list("--cap pci").contains(&"pci_0000_3b_03_0".to_owned()));
        sysfs.remove_function("0000:3b:03.0");
        announce(2);
        let event = until(&mut client, "pci_0000_3b_03_0", 376);
        assert_eq!(event, [0, 0, 0, 1, 0, 0, 0, 0], "deleted");
        assert!(!virsh.list("--cap pci").contains(&"pci_0000_3b_03_0".to_owned()));
    });
}

#[test]
fn odd_calls_are_refused() {
    in_namespace(|ns| {
        ns.run(PAIR);
        let host = serving(ns, |_| {});
        let [socket, read_only] = sockets(&host);
        let mut client = Client::on(&socket);
        client.say(&call(Procedure::ConnectOpen, 0, Writer::default().u32(0).u32(0)));
        assert_eq!(client.hears().unwrap().header.status, Status::Ok);
        let name = || {
            let mut w = Writer::default();
            w.string(VETH);
            w
        };
        for (procedure, arguments, code) in [
            (Procedure::ConnectNodeDeviceEventRegisterAny, Writer::default().i32(2).u32(0).clone(), 8),
            (Procedure::ConnectNodeDeviceEventDeregisterAny, Writer::default().i32(7).clone(), 1),
            (Procedure::NodeListDevices, Writer::default().u32(0).i32(-1).u32(0).clone(), 8),
            (Procedure::NodeDeviceListCaps, name().i32(-1).clone(), 8),
            (Procedure::NodeDeviceCreate, name().u32(1).clone(), 8),
            (Procedure::NodeDeviceUndefine, name().u32(1).clone(), 8),
            (Procedure::NodeDeviceUndefine, name(), 39),
            (Procedure::NetworkLookupByName, name(), 3),
        ] {
            client.say(&call(procedure, 1, &arguments));
            let refused = client.hears_refusal();
            assert_eq!(refused.0, code, "{procedure:?}: {refused:?}");
        }
        let mut reader = Client::on(&read_only);
        reader.say(&call(Procedure::ConnectOpen, 0, Writer::default().u32(0).u32(0)));
        assert_eq!(reader.hears().unwrap().header.status, Status::Ok);
        reader.say(&call(Procedure::NodeDeviceDestroy, 1, &name()));
        let refused = reader.hears_refusal();
        assert!(refused.0 == 29 && refused.1.contains("virNodeDeviceDestroy"), "{refused:?}");
    });
}

/// Goes through a section of `scripts/nodedevs.py`.
fn script(whose: &str, [socket, read_only]: &[PathBuf; 2], section: &str) {
    let Some(modules) = binding() else { return };
    let mut python = Command::new(PYTHON);
    python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/nodedevs.py")).args([whose, section]);
    python.args([uri(socket), uri(read_only)]).env("PYTHONPATH", modules).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = python.stdin(Stdio::null()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{section}, {whose}: {error}{}", String::from_utf8_lossy(&output.stdout));
}

fn ours(section: &str) {
    in_namespace(|ns| {
        ns.run(PAIR);
        script("ours", &sockets(&serving(ns, |_| {})), section);
    });
}

#[test]
fn programs_connect() {
    ours("connection");
}

#[test]
fn programs_list() {
    ours("lists");
}

#[test]
fn programs_ask_about_devices() {
    ours("devices");
}

#[test]
fn programs_make_mistakes() {
    ours("mistakes");
}

#[test]
fn programs_hear_of_what_happens() {
    ours("events");
}

#[test]
fn threads_share_a_connection() {
    ours("threads");
}

/// What the script expects is what libvirt's own daemon does, where it doesn't say otherwise. Without udev's daemon it hears
/// of nothing.
#[test]
fn libvirts_own_daemon_answers_likewise() {
    in_namespace(|ns| {
        ns.run(PAIR);
        let Some(libvirtd) = Libvirtd::with_devices(ns) else { return };
        for section in ["connection", "lists", "devices", "mistakes"] {
            script("libvirts", &libvirtd.sockets(), section);
        }
    });
}
