//! What plugging a NIC in costs, against the least that the kernel can be asked for. Run by hand:
//! `cargo test --release -p patchcord-host --test cost -- --ignored --nocapture`.
#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

mod common;

use std::time::{Duration, Instant};

use common::{apply, bridge, kernel, make, plan, tap};
use patchcord_core::intent::{Intent, NetworkIntent};
use patchcord_core::plan::{Handover, LinkChange, LinkRef, Op, desired};
use patchcord_host::tap::{Tap, TapSpec};
use patchcord_netlink as netlink;
use patchcord_testkit::in_namespace;

const NICS: u32 = 100;
const ROUNDS: usize = 5;
const NETWORKS: u128 = 50;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
#[ignore = "a measurement"]
fn plugging_in_costs_little_more_than_the_kernel_takes() {
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let (mut raw, mut planned) = (Vec::new(), Vec::new());
        in_namespace(|_| {
            let mut kernel = kernel();
            let sw = make(&mut kernel, Op::MakeBridge(bridge("virbr0", 1, 1500)));
            let mut socket = netlink::Socket::open().unwrap();
            for n in 0..NICS {
                let name = format!("raw{n}");
                let begun = Instant::now();
                let spec = TapSpec { name: name.clone(), queues: 1, owner: None, vnet_hdr: true };
                let made = Tap::create(&spec).unwrap();
                patchcord_host::sysctl::write(&["ipv6", "conf", &name, "disable_ipv6"], "1").unwrap();
                let index = rustix::net::netdevice::name_to_index(&socket, &name).unwrap();
                let change = netlink::LinkChange { up: Some(true), controller: Some(Some(sw.0)), ..Default::default() };
                socket.set_link(index, &change).unwrap();
                raw.push(begun.elapsed());
                std::mem::forget(made);

                let id = 1000 + u128::from(n);
                let into =
                    LinkChange { up: Some(true), controller: Some(Some(LinkRef::Index(sw))), ..Default::default() };
                let plan = plan([
                    Op::MakeTap(tap(&format!("pct{n}"), id, Handover::Descriptor)),
                    Op::SetLink(LinkRef::MadeBy(0), into),
                ]);
                let begun = Instant::now();
                let applied = apply(&mut kernel, &plan);
                planned.push(begun.elapsed());
                std::mem::forget(applied);
            }
        });
        if raw.is_empty() {
            return;
        }
        let (raw, planned) = (median(raw), median(planned));
        println!("median of {NICS}: raw {raw:?}, as a plan {planned:?}");
        ratios.push(planned.as_secs_f64() / raw.as_secs_f64());
    }
    println!("as a plan over raw: {ratios:.2?}");
}

#[test]
#[ignore = "a measurement"]
fn networks_start_and_stop_in_little_time() {
    in_namespace(|_| {
        for (what, xml) in [("isolated", common::NETWORKS[3]), ("nat", common::NETWORKS[0])] {
            let mut kernel = kernel();
            let mut intent = Intent::new(common::INSTANCE);
            let (mut started, mut stopped) = (Vec::new(), Vec::new());
            for id in 0..NETWORKS {
                let uuid = common::active(&mut intent, id, xml);
                let rules = desired::network(&intent, uuid).rules;
                let plan = common::network_plan(&intent, uuid, kernel.observed(), None);
                let begun = Instant::now();
                apply(&mut kernel, &plan);
                started.push(begun.elapsed());
                intent.set_network(uuid, NetworkIntent { definition: None, autostart: false, active: None });
                let plan = common::network_plan(&intent, uuid, kernel.observed(), rules);
                let begun = Instant::now();
                apply(&mut kernel, &plan);
                stopped.push(begun.elapsed());
            }
            println!("{what}: started in {:?}, stopped in {:?}", median(started), median(stopped));
        }
    });
}
