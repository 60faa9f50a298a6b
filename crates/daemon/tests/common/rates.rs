//! What passes towards guests and from them, counted where it arrives, and what `tc` says of the limits.

use super::{Host, attach, mac, told};
use patchcord_api::methods::AttachNIC;
use patchcord_api::types::Nic;
use patchcord_testkit::Namespace;
use serde_json::Value;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The header in front of each frame of a tap that nobody told otherwise.
pub(crate) const HEADER: usize = 10;
/// How long bytes are counted, after the burst has passed.
const WINDOW: Duration = Duration::from_secs(4);
pub(crate) const KIB: f64 = 1024.0;

/// A guest that only counts what it gets.
pub(crate) struct Port {
    pub(crate) nic: Nic,
    pub(crate) file: File,
    pub(crate) received: Arc<AtomicU64>,
}

impl Port {
    pub(crate) fn attach(host: &Host<'_>, guest: &str, xml: &str) -> Self {
        let method = AttachNIC { fetch: Some(true), ..attach(guest, xml) };
        let answer = host.client().call_with_fds(&method, |reply| reply.fds.clone().unwrap_or_default());
        let (reply, mut fds) = answer.unwrap_or_else(|error| panic!("{method:?}: {}", told(&error)));
        Self::new(reply.nic, File::from(fds.remove(0)))
    }

    /// A guest at a tap.
    pub(crate) fn new(nic: Nic, file: File) -> Self {
        let received = Arc::new(AtomicU64::new(0));
        let (mut reader, count) = (file.try_clone().unwrap(), Arc::clone(&received));
        // It ends with the tap.
        std::thread::spawn(move || {
            let mut buffer = vec![0; 70_000];
            loop {
                match reader.read(&mut buffer) {
                    // Of frames that are not the test's there are few, and they are short.
                    Ok(length) if length > 500 => drop(count.fetch_add((length - HEADER) as u64, Ordering::Relaxed)),
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Err(_) => return,
                }
            }
        });
        Self { nic, file, received }
    }

    /// Keeps sending frames to a guest, some 8 MiB a second.
    pub(crate) fn send_to(&self, to: [u8; 6]) -> Sending {
        let frame = [&[0; HEADER][..], &to, &mac(&self.nic), &[0x88, 0xb5], &[0; 1000]].concat();
        let mut file = self.file.try_clone().unwrap();
        // What the tap refuses is lost.
        Sending::start(move || drop(file.write(&frame)))
    }

    pub(crate) fn counter(&self) -> impl Fn() -> u64 + use<> {
        let received = Arc::clone(&self.received);
        move || received.load(Ordering::Relaxed)
    }
}

/// Something that is sent again and again, until this is dropped.
pub(crate) struct Sending(Arc<AtomicBool>);

impl Sending {
    pub(crate) fn start(mut once: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                (0..16).for_each(|_| once());
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Self(stop)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Bytes a second, over a while.
pub(crate) fn rates<const N: usize>(counters: [&dyn Fn() -> u64; N]) -> [f64; N] {
    // The burst passes, and queues fill.
    std::thread::sleep(Duration::from_millis(1500));
    let (begun, before) = (Instant::now(), counters.map(|count| count()));
    std::thread::sleep(WINDOW);
    let after = counters.map(|count| count());
    let seconds = begun.elapsed().as_secs_f64();
    std::array::from_fn(|n| (after[n] - before[n]) as f64 / seconds)
}

pub(crate) fn assert_rate(measured: f64, kib: f64, what: &str) {
    let off = measured / (kib * KIB) - 1.0;
    assert!(off.abs() < 0.05, "{what}: {:.0} KiB/s instead of {kib}", measured / KIB);
}

/// Measures what one guest gets of another that sends all it can.
pub(crate) fn rate_between(from: &Port, to: &Port) -> f64 {
    let _sending = from.send_to(mac(&to.nic));
    rates([&to.counter()])[0]
}

/// How many of 200 frames that one guest sends at once arrive at another.
pub(crate) fn passed(from: &Port, to: &Port) -> u64 {
    let frame = [&[0; HEADER][..], &mac(&to.nic), &mac(&from.nic), &[0x88, 0xb5], &[0; 1000]].concat();
    let before = to.received.load(Ordering::Relaxed);
    // What is dropped is none of the sender's business, and what the tap refuses is lost.
    (0..200).for_each(|_| drop((&from.file).write(&frame)));
    std::thread::sleep(Duration::from_millis(500));
    (to.received.load(Ordering::Relaxed) - before) / 1014
}

/// The `<interface>` of a NIC with rates.
pub(crate) fn limited(network: &str, bandwidth: &str) -> String {
    format!("<interface type='network'><source network='{network}'/><bandwidth>{bandwidth}</bandwidth></interface>")
}

/// The kinds of a link's qdiscs.
pub(crate) fn qdiscs(ns: &Namespace, link: &str) -> Vec<String> {
    let all = ns.json(&format!("tc -j qdisc show dev {link}"));
    all.as_array().unwrap().iter().map(|q| q["kind"].as_str().unwrap().to_owned()).collect()
}

/// What limits a link, as `tc` tells it, without the numbers that the kernel chooses anew: those of queues and actions.
pub(crate) fn limits_of(ns: &Namespace, link: &str) -> String {
    let shown = |what: String| ns.run(&format!("tc {what}"));
    let classes = shown(format!("class show dev {link}"));
    let filters = shown(format!("filter show dev {link}")) + &shown(format!("filter show dev {link} ingress"));
    let class = |line: &str| match line.split_once(" leaf ") {
        Some((before, behind)) => format!("{before} leaf{}", behind.split_once(' ').map_or("", |(_, rest)| rest)),
        None => line.to_owned(),
    };
    let classes: Vec<_> = classes.lines().map(class).collect();
    let filters: Vec<_> = filters.lines().filter(|line| !line.contains("index ")).collect();
    format!("{link} {:?} {classes:#?} {filters:#?}", qdiscs(ns, link))
}

pub(crate) fn ifbs(ns: &Namespace) -> Vec<String> {
    let links = ns.json("ip -j link show type ifb");
    let name = |l: &Value| Some(l["ifname"].as_str()?.to_owned());
    let mut names: Vec<_> = links.as_array().into_iter().flatten().filter_map(name).collect();
    names.sort();
    names
}

/// Whether this kernel drops what comes in above a rate.
pub(crate) fn has_police(ns: &Namespace) -> bool {
    ns.run("ip link add trial type bridge");
    ns.run("tc qdisc add dev trial clsact");
    let there = ns
        .try_run("tc filter add dev trial ingress protocol all u32 match u32 0 0 police rate 1mbit burst 10k drop")
        .is_ok();
    ns.run("ip link del trial");
    there
}

/// Rates that a test can measure.
pub(crate) const LIMITS: &str = "<inbound average='1024'/><outbound average='2048'/>";
