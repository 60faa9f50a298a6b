//! The daemon is killed at random moments under a load of random requests: nothing that a client was told of is lost,
//! and nothing is left that nobody knows.

#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use common::{Host, attach, interface, tap};
use patchcord_api::Client;
use patchcord_api::error::ClientError;
use patchcord_api::methods::{
    AttachNIC, DefineNetwork, DetachNIC, ListNICs, Method, ModifyNIC, StartNetwork, StopNetwork, UndefineNetwork,
};
use patchcord_testkit::{in_namespace, wait_until};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const KILLS: u32 = 30;
const CLIENTS: u64 = 4;
const NETWORKS: [&str; 4] = ["nat", "isolated", "plain", "devices"];
const MINUTE: Duration = Duration::from_secs(60);

/// SplitMix64: the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }
}

fn define(name: &str) -> DefineNetwork {
    let xml = match name {
        "nat" => {
            "<network><name>nat</name><forward mode='nat'/><bridge name='brnat'/><ip address='10.5.0.1' prefix='24'>\
             <dhcp><range start='10.5.0.10' end='10.5.0.99'/></dhcp></ip></network>"
        }
        "isolated" => {
            "<network><name>isolated</name><bridge name='briso'/><ip address='10.6.0.1' prefix='24'>\
             <dhcp><range start='10.6.0.10' end='10.6.0.99'/></dhcp></ip></network>"
        }
        "devices" => "<network><name>devices</name><forward mode='vepa' dev='eth10'/></network>",
        _ => "<network><name>plain</name><bridge name='brplain'/></network>",
    };
    DefineNetwork { xml: xml.into() }
}

/// The `<interface>` of a new NIC: on a device it is a macvtap.
fn new_interface(network: &str) -> String {
    let interface = interface(network);
    if network != "devices" {
        return interface;
    }
    let macvtap = "<pc:driver xmlns:pc='urn:patchcord:1' plug='macvtap'/></interface>";
    interface.replace("</interface>", macvtap)
}

/// What a client knows of its NICs.
#[derive(Default)]
struct Known {
    /// Those it was told of, with the descriptors it got.
    nics: BTreeMap<String, Vec<OwnedFd>>,
    /// Those that it wanted detached when the connection broke.
    unsure: BTreeSet<String>,
    /// Guests whose NIC was being attached when the connection broke.
    unanswered: BTreeSet<String>,
    /// How many requests were answered, and how many connections broke.
    answered: u32,
    broken: u32,
}

struct Load<'a> {
    socket: &'a Path,
    client: Option<Client>,
    random: Random,
    known: Known,
}

impl Load<'_> {
    /// Asks; `None` when the connection broke, and nobody knows what became of it.
    fn ask<T>(&mut self, ask: impl FnOnce(&mut Client) -> Result<T, ClientError>) -> Option<Result<T, String>> {
        match ask(self.client.as_mut()?) {
            Ok(reply) => {
                self.known.answered += 1;
                Some(Ok(reply))
            }
            Err(ClientError::Refused { name, refusal }) => {
                self.known.answered += 1;
                assert!(!["Internal", "PartlyRolledBack"].contains(&&*name), "{name}: {refusal:?}");
                Some(Err(name))
            }
            Err(_) => {
                self.client = None;
                self.known.broken += 1;
                None
            }
        }
    }

    fn call<M: Method>(&mut self, method: &M) -> Option<Result<M::Reply, String>> {
        self.ask(|client| client.call(method))
    }

    fn one(&mut self, guest: &str) {
        if self.client.is_none() {
            match Client::connect(self.socket) {
                Ok(client) => self.client = Some(client),
                Err(_) => return std::thread::sleep(Duration::from_millis(1)),
            }
        }
        let network = *self.random.one_of(&NETWORKS);
        match self.random.below(20) {
            0 => drop(self.call(&StopNetwork { name: network.into() })),
            1..=4 => drop(self.call(&StartNetwork { name: network.into() })),
            5..=11 if self.known.nics.len() < 12 => {
                let by_name = self.random.below(2) == 0;
                let fetch = !by_name && self.random.below(3) > 0;
                let guest = format!("{guest}-{}", self.random.next());
                let method =
                    AttachNIC { by_name: Some(by_name), fetch: Some(fetch), ..attach(&guest, &new_interface(network)) };
                let answer = self.ask(|client| client.call_with_fds(&method, |r| r.fds.clone().unwrap_or_default()));
                match answer {
                    Some(Ok((reply, fds))) => drop(self.known.nics.insert(reply.nic.id, fds)),
                    Some(Err(_)) => {}
                    None => drop(self.known.unanswered.insert(guest)),
                }
            }
            what => {
                let ids: Vec<String> = self.known.nics.keys().cloned().collect();
                if ids.is_empty() {
                    return std::thread::sleep(Duration::from_millis(1));
                }
                let id = self.random.one_of(&ids).clone();
                if what < 16 {
                    drop(self.call(&ModifyNIC { id, xml: interface(network) }));
                    return;
                }
                match self.call(&DetachNIC { id: id.clone() }) {
                    Some(Ok(_)) => drop(self.known.nics.remove(&id)),
                    // Another client's stop or start is in the way.
                    Some(Err(error)) => assert_ne!(error, "NotFound", "{id} was lost"),
                    None => {
                        self.known.nics.remove(&id);
                        self.known.unsure.insert(id);
                    }
                }
            }
        }
    }
}

#[test]
fn killed_at_random_it_forgets_nothing_and_leaks_nothing() {
    let seed = std::env::var("PATCHCORD_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed
        .unwrap_or_else(|| u64::from(std::process::id()) << 20 | u64::from(Instant::now().elapsed().subsec_nanos()));
    println!("PATCHCORD_SEED={seed}");
    in_namespace(|ns| {
        let mut host = Host::new(ns);
        ns.run("ip link add eth10 type veth peer name eth11");
        ns.run("ip link set eth10 up");
        for name in NETWORKS {
            host.call(&define(name));
            host.start_network(name);
        }
        let (socket, stop) = (host.socket(), AtomicBool::new(false));
        let mut random = Random(seed);
        let known: Vec<Known> = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|number| {
                    let (socket, stop, seed) = (&socket, &stop, random.next());
                    scope.spawn(move || {
                        let random = Random(seed);
                        let mut load = Load { socket, client: None, random, known: Known::default() };
                        while !stop.load(Ordering::Relaxed) {
                            load.one(&format!("guest{number}"));
                        }
                        load.known
                    })
                })
                .collect();
            for _ in 0..KILLS {
                std::thread::sleep(Duration::from_millis(random.below(150)));
                host.kill();
                if random.below(4) == 0 {
                    // Killed while it starts.
                    host.start_unready();
                    std::thread::sleep(Duration::from_millis(random.below(40)));
                    host.kill();
                }
                host.start();
            }
            stop.store(true, Ordering::Relaxed);
            clients.into_iter().map(|client| client.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
        });
        let (answered, broken) = known.iter().fold((0, 0), |(a, b), k| (a + k.answered, b + k.broken));
        println!("{answered} requests were answered, {broken} connections broke");
        assert!(answered > 100 && broken > 5, "there was no load");

        // Everything that a client was told of is there, and works.
        for name in NETWORKS {
            let _ = host.client().call(&StartNetwork { name: name.into() });
        }
        let told: BTreeSet<&String> = known.iter().flat_map(|k| k.nics.keys()).collect();
        let unanswered: BTreeSet<&String> = known.iter().flat_map(|k| &k.unanswered).collect();
        let unsure: BTreeSet<&String> = known.iter().flat_map(|k| &k.unsure).collect();
        wait_until("every NIC to be plugged", MINUTE, || {
            let nics = host.nics();
            let there: BTreeSet<&String> = nics.iter().map(|n| &n.id).collect();
            let lost: Vec<_> = told.difference(&there).collect();
            assert!(lost.is_empty(), "NICs were lost: {lost:?}");
            let is_strange = |id: &String| !told.contains(id) && !unsure.contains(id);
            let strange: Vec<_> = nics.iter().filter(|nic| is_strange(&nic.id)).collect();
            // A NIC is confirmed before its answer goes out; between the two the daemon may be killed. Then it is one
            // that was asked for, and its guest's name says so.
            for nic in &strange {
                assert!(unanswered.contains(&nic.guest), "nobody asked for {nic:#?}");
            }
            assert!(strange.len() < KILLS as usize, "{} NICs that nobody was told of", strange.len());
            let loose = nics.iter().find(|nic| {
                let link = host.link(&tap(nic));
                let bridge = nic.actual.bridge.clone().map_or(serde_json::Value::Null, Into::into);
                nic.state != "plugged" || link.is_none_or(|link| link["master"] != bridge)
            });
            loose.map_or(Ok(()), |nic| Err(format!("{nic:?}")))
        });
        ends_clean(&mut host);
    });
}

/// Detaches and stops everything; then there must be no trace of us.
fn ends_clean(host: &mut Host<'_>) {
    for nic in host.call(&ListNICs { network: None }).nics {
        host.detach(&nic.id);
    }
    for name in NETWORKS {
        host.stop_network(name);
        host.call(&UndefineNetwork { name: name.into() });
    }
    // What it would have done next is left to another.
    host.kill();
    host.start();
    host.ns.run("ip link del eth10");
    wait_until("nothing to be left", MINUTE, || {
        let links = host.ns.json("ip -j -d link show");
        let links: Vec<String> = links.as_array().unwrap().iter().map(|l| l["ifname"].to_string()).collect();
        let rules = host.rules();
        let addresses = host.ns.run("ip -o addr show");
        let left =
            ["networks", "nics"].map(|d| std::fs::read_dir(host.root.join("run/patchcord").join(d)).unwrap().count());
        // What libvirt's modules are told of guests, and the note of it.
        let names = ["libvirt/dnsmasq", "patchcord/names"].map(|d| {
            let entries = std::fs::read_dir(host.root.join("var/lib").join(d)).unwrap().flatten();
            entries.map(|entry| entry.file_name()).collect::<Vec<_>>()
        });
        let forwarding = host.sysctl("ipv4/ip_forward");
        let clean = links == ["\"lo\""]
            && !rules.contains("chain")
            && !addresses.contains("10.")
            && host.dnsmasqs().is_empty()
            && left == [0, 0]
            && names.iter().all(Vec::is_empty)
            && forwarding == "0";
        let seen = || format!("{links:?}\n{rules}\n{addresses}\n{:?} {left:?} {names:?} {forwarding}", host.dnsmasqs());
        if clean { Ok(()) } else { Err(seen()) }
    });
    // Processes that forgot their pid files would be missed by them: look for our root in all command lines.
    let root = host.root.to_string_lossy().into_owned();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let strays: Vec<String> = processes
        .filter_map(|p| String::from_utf8(std::fs::read(p.path().join("cmdline")).ok()?).ok())
        .filter(|line| line.contains(&root) && line.contains("dnsmasq"))
        .collect();
    assert!(strays.is_empty(), "{strays:?}");
}
