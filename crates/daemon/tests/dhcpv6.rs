//! IPv6 addresses by DHCP, as a client of others gets them: ISC's `dhclient`, with a kernel of its own behind a NIC.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::{Events, Host, SOON, attach, interface_with_mac};
use patchcord_api::methods::{AttachNIC, ListLeases};
use patchcord_api::types::{Lease, Nic};
use patchcord_testkit::{Namespace, Process, Wire, in_namespace, unpacked, wait_until};
use std::fs;
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The DUID of `52:54:00:00:00:44`, of type "link-layer" (RFC 8415 section 11.4), and one of no address.
const DUID: &str = "00:03:00:01:52:54:00:00:00:44";
const DUID_UUID: &str = "00:04:30:39:6b:b4:30:a6:48:d7:9b:a2:95:7d:27:3c:5c:1c";

const NET: &str = "<network><name>six</name><forward mode='nat'><nat ipv6='yes'/></forward><bridge name='brsix' stp='off'/>\
     <domain name='lab.test' localOnly='yes'/><ip family='ipv6' address='fd00:5::1' prefix='64'><dhcp>\
     <range start='fd00:5::100' end='fd00:5::1ff'><lease expiry='10' unit='minutes'/></range>\
     <host id='00:03:00:01:52:54:00:00:00:44' name='kept' ip='fd00:5::44'/>\
     <host id='0:4:30:39:6b:b4:30:a6:48:d7:9b:a2:95:7d:27:3c:5c:1c' ip='fd00:5::45'/>\
     <host name='called' ip='fd00:5::46'/></dhcp></ip></network>";

const DHCLIENT: &str = "usr/sbin/dhclient";

/// What `dhclient` runs when something happens to its lease: it writes that down, and gives the link its address.
const SCRIPT: &str = "#!/bin/sh\nPATH=/usr/sbin:/sbin:/usr/bin:/bin\n\
     [ \"$reason\" != BOUND6 ] || ip addr add \"$new_ip6_address/128\" dev \"$interface\"\n\
     echo \"$reason $new_ip6_address$old_ip6_address $new_dhcp6_name_servers\" >> \"$(dirname \"$0\")/told\"\n";

/// A machine on the network, whose DHCP client is `dhclient`.
struct Machine {
    ns: Namespace,
    nic: Nic,
    directory: PathBuf,
    command: String,
    client: Option<Process>,
    _wire: Wire,
}

impl Machine {
    /// Attaches a NIC and boots what is behind it. The client calls itself `name`, and by `duid` or by its MAC.
    fn new(host: &Host<'_>, dhclient: &Path, name: &str, mac: &str, duid: Option<&str>) -> Self {
        let method = AttachNIC { fetch: Some(true), ..attach(name, &interface_with_mac("six", mac)) };
        let answer = host.client().call_with_fds(&method, |reply| reply.fds.clone().unwrap_or_default());
        let (reply, mut fds) = answer.unwrap_or_else(|error| panic!("{}", common::told(&error)));
        let ns = host.ns.peer(name);
        let wire = ns.behind(fds.remove(0), "eth0", common::mac(&reply.nic));

        let directory = host.root.join(name);
        fs::create_dir(&directory).unwrap();
        let at = |file: &str| directory.join(file);
        fs::write(at("script"), SCRIPT).unwrap();
        fs::set_permissions(at("script"), fs::Permissions::from_mode(0o755)).unwrap();
        let conf = format!("send fqdn.fqdn \"{name}\";\nsend fqdn.encoded on;\nrequest dhcp6.name-servers;\n");
        fs::write(at("conf"), conf).unwrap();
        let duid =
            duid.map(|duid| format!("default-duid \"{}\";\n", duid.replace(':', "\\x").replacen("00", "\\x00", 1)));
        fs::write(at("leases"), duid.unwrap_or_default()).unwrap();
        let command = format!(
            "{} -6 -D LL -cf {d}/conf -lf {d}/leases -pf {d}/pid -sf {d}/script",
            dhclient.display(),
            d = directory.display()
        );
        Self { ns, nic: reply.nic, directory, command, client: None, _wire: wire }
    }

    /// Asks for an address; gives it and the name server that came with it.
    fn solicit(&mut self) -> (Ipv6Addr, String) {
        self.client = Some(self.ns.spawn(&format!("{} -d eth0", self.command)));
        let told = self.told("BOUND6");
        let (address, server) = told.split_once(' ').unwrap();
        (address.parse().unwrap(), server.to_owned())
    }

    /// Gives its address back.
    fn release(&mut self) {
        self.client = None;
        self.ns.run(&format!("{} -r eth0", self.command));
        self.told("RELEASE6");
    }

    fn told(&self, reason: &str) -> String {
        wait_until(reason, SOON, || {
            let told = fs::read_to_string(self.directory.join("told")).unwrap_or_default();
            let rest = told.lines().find_map(|line| line.strip_prefix(reason).map(|rest| rest.trim().to_owned()));
            rest.ok_or(told)
        })
    }
}

fn lease_event(events: &mut Events, what: &str, address: Ipv6Addr) -> Lease {
    let address = address.to_string();
    let wanted = |e: &patchcord_api::Event| {
        e.kind == "lease" && e.what == what && e.lease.as_ref().is_some_and(|l| l.ip == address)
    };
    events.wait(&format!("{address} {what}"), wanted).lease.unwrap()
}

#[test]
fn a_guest_gets_an_ipv6_lease_from_a_range_and_gives_it_back() {
    let Some(package) = unpacked("dhclient") else { return };
    in_namespace(|ns| {
        let host = Host::new(ns);
        let mut events = host.events();
        host.network(NET);
        let mac = "52:54:00:00:00:43";
        let mut one = Machine::new(&host, &package.join(DHCLIENT), "one", mac, None);
        let (address, server) = one.solicit();
        assert!((0x100..0x200).contains(&address.segments()[7]), "{address} is not from the range");
        assert_eq!(address.segments()[..7], [0xfd00, 5, 0, 0, 0, 0, 0]);
        assert_eq!(server, "fd00:5::1");

        let added = lease_event(&mut events, "added", address);
        assert_eq!(host.call(&ListLeases { network: "six".into() }).leases, std::slice::from_ref(&added));
        assert_eq!((added.network.as_str(), added.prefix), ("six", 64));
        assert_eq!(added.client_id.as_deref(), Some("00:03:00:01:52:54:00:00:00:43"));
        // ISC's client numbers its only association by the end of the MAC.
        assert_eq!(added.iaid, Some(0x43));
        assert_eq!((added.mac.as_deref(), added.nic.as_ref()), (Some(mac), Some(&one.nic.id)));
        assert_eq!(added.hostname.as_deref(), Some("one"));
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let left = added.expires.unwrap().saturating_sub(now);
        assert!((1..=600).contains(&left), "{left} s are left of ten minutes");

        // The address is good: its network's gateway, which it knows by advertisement, answers there.
        let gateway: SocketAddr = "[fd00:5::1]:53".parse().unwrap();
        let stream = one.ns.inside(|| {
            // The advertisement may come after the lease.
            wait_until("the gateway", SOON, || TcpStream::connect_timeout(&gateway, SOON))
        });
        assert_eq!(stream.local_addr().unwrap().ip(), address);

        one.release();
        lease_event(&mut events, "removed", address);
        assert_eq!(host.call(&ListLeases { network: "six".into() }).leases, []);
    });
}

#[test]
fn ipv6_reservations_by_duid_and_by_name_are_honoured() {
    let Some(package) = unpacked("dhclient") else { return };
    in_namespace(|ns| {
        let host = Host::new(ns);
        let mut events = host.events();
        host.network(NET);
        let machine = |name, mac, duid| Machine::new(&host, &package.join(DHCLIENT), name, mac, duid);

        let mut kept = machine("whatever", "52:54:00:00:00:44", None);
        assert_eq!(kept.solicit().0.to_string(), "fd00:5::44");
        let lease = lease_event(&mut events, "added", "fd00:5::44".parse().unwrap());
        assert_eq!((lease.client_id.as_deref(), lease.hostname.as_deref()), (Some(DUID), Some("kept")));

        let mut unnamed = machine("unnamed", "52:54:00:00:00:45", Some(DUID_UUID));
        assert_eq!(unnamed.solicit().0.to_string(), "fd00:5::45");
        let lease = lease_event(&mut events, "added", "fd00:5::45".parse().unwrap());
        // Such a DUID says nothing of the NIC.
        assert_eq!((lease.client_id.as_deref(), lease.mac, lease.nic), (Some(DUID_UUID), None, None));

        let mut called = machine("called", "52:54:00:00:00:46", None);
        assert_eq!(called.solicit().0.to_string(), "fd00:5::46");
        let lease = lease_event(&mut events, "added", "fd00:5::46".parse().unwrap());
        assert_eq!((lease.hostname.as_deref(), lease.nic), (Some("called"), Some(called.nic.id.clone())));
    });
}
