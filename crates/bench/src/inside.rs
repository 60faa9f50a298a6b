//! Attaching as the daemon itself sees it: from the decoded request to the ready reply, without socket and framing.
//!
//! The daemon's loop runs on this thread, as it does on its own in `patchcordd`, and is asked as its connections ask it.
//! By hand the same links are made on the same thread, in turn.

use std::path::Path;
use std::time::Duration;

use patchcord_core::engine::{Attach, Body, Command, NicView};
use patchcord_core::model::{Name, Nic, NicSource};
use patchcord_core::plan::Handover;
use patchcord_core::xml;
use patchcord_daemon::config::Config;
use patchcord_daemon::handle::Handle;
use patchcord_daemon::service::{Service, make_directories, start_spawner};
use patchcord_host::root::Root;
use patchcord_testkit::Namespace;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tokio::time::sleep;

use crate::networks::isolated;
use crate::nics::{PER_NETWORK, REST};
use crate::raw::Raw;
use crate::stats::{Samples, ratio, table};
use crate::{Result, Setup};

const DNSMASQ: &str = "/usr/sbin/dnsmasq";

/// How many come before those that count.
const WARMING: usize = 10;
/// How many of a row count, and how many rows there are. They are short, so that ours and those by hand fall into the same
/// moments of a machine that is now quick and now slow.
const ROW: usize = 30;
const ROWS: usize = 10;

/// Measures hosts with more and more NICs.
pub(crate) fn run(setup: &Setup, _: &Namespace) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let base = directory.path();
    mount("tmpfs", base, "tmpfs", MountFlags::empty(), Some(c"mode=0755"))?;
    std::fs::create_dir(base.join("etc"))?;
    std::fs::write(base.join("etc/resolv.conf"), "nameserver 192.0.2.53\n")?;
    let root = Root::new(base);
    let spawner = start_spawner(&setup.program, Path::new(DNSMASQ), &root)?;
    make_directories(&root)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = tokio::task::LocalSet::new().block_on(&runtime, async {
        let service = Service::open(&root, &Config::default(), spawner, Default::default()).await?;
        let daemon = Inside { handle: service.handle() };
        tokio::select! {
            () = service.run(std::future::pending()) => Err("the daemon ended".into()),
            result = measure(setup, &daemon) => result,
        }
    });
    unmount(base, UnmountFlags::DETACH)?;
    result
}

/// A daemon on this thread.
struct Inside {
    handle: Handle,
}

async fn measure(setup: &Setup, daemon: &Inside) -> Result<()> {
    let (levels, rounds): (&[usize], _) =
        if setup.quick { (&[1, 100], 5) } else { (&[1, 100, 1000, 4000, 10_000], 50) };
    let mut raw = Raw::new()?;
    daemon.network(&isolated("measured", "10.2.0")).await?;
    let (mut rows, mut filled) = (Vec::new(), 0);
    for &level in levels {
        while filled + 1 < level {
            let network = format!("fill{}", filled / PER_NETWORK);
            if filled % PER_NETWORK == 0 {
                daemon.network(&isolated(&network, &format!("10.2.{}", 1 + filled / PER_NETWORK))).await?;
            }
            daemon.attach(&network, true).await?;
            filled += 1;
        }
        for (how, by_name) in [("descriptor", false), ("name", true)] {
            let mut row = vec![level.to_string(), how.to_owned()];
            let alone = alone(daemon, &mut raw, by_name, rounds).await?;
            let in_a_row = in_a_row(daemon, &mut raw, by_name).await?;
            for (ours, by_hand) in [alone, in_a_row] {
                row.extend([ours.cell(), by_hand.cell(), ratio(ours.p50(), by_hand.p50())]);
            }
            row.push("≤ 1.25".to_owned());
            rows.push(row);
        }
    }
    table(
        &format!(
            "Attaching a NIC, from the decoded request to the ready reply ({rounds} alone and {ROWS} rows of {ROW}, after {WARMING} that do not count)"
        ),
        &["NICs", "handed over by", "alone", "raw", "alone / raw", "in a row", "raw", "in a row / raw", "target"],
        &rows,
    );
    Ok(())
}

/// NICs that come one at a time, after nothing was done for a while: by the daemon and by hand in turn, each gone before
/// the next one.
async fn alone(daemon: &Inside, raw: &mut Raw, by_name: bool, rounds: usize) -> Result<(Samples, Samples)> {
    let (mut ours, mut by_hand) = (Samples::default(), Samples::default());
    for round in 0..rounds + WARMING {
        sleep(REST).await;
        let (time, nic) = daemon.attach("measured", by_name).await?;
        daemon.detach(&nic).await?;
        raw.wait_gone(index(&nic)?)?;
        sleep(REST).await;
        let (raw_time, tap) = raw.attach(by_name)?;
        raw.detach(tap)?;
        if round >= WARMING {
            ours.push(time);
            by_hand.push(raw_time);
        }
    }
    Ok((ours, by_hand))
}

/// NICs that come one right after the other, as when a host's guests start: by the daemon and by hand in turn, in rows of
/// which the first ones do not count, each row gone before the next one.
async fn in_a_row(daemon: &Inside, raw: &mut Raw, by_name: bool) -> Result<(Samples, Samples)> {
    let (mut ours, mut by_hand) = (Samples::default(), Samples::default());
    for _ in 0..ROWS {
        let mut nics = Vec::new();
        for n in 0..WARMING + ROW {
            let (time, nic) = daemon.attach("measured", by_name).await?;
            nics.push(nic);
            if n >= WARMING {
                ours.push(time);
            }
        }
        for nic in &nics {
            daemon.detach(nic).await?;
        }
        for nic in &nics {
            raw.wait_gone(index(nic)?)?;
        }
        let mut taps = Vec::new();
        for n in 0..WARMING + ROW {
            let (time, tap) = raw.attach(by_name)?;
            taps.push(tap);
            if n >= WARMING {
                by_hand.push(time);
            }
        }
        for tap in taps {
            raw.detach(tap)?;
        }
    }
    Ok((ours, by_hand))
}

fn index(nic: &NicView) -> Result<u32> {
    Ok(nic.ifindex.ok_or("a NIC without a tap")?)
}

impl Inside {
    async fn ask(&self, command: Command) -> Result<Body> {
        Ok(self.handle.call(command).await?.body)
    }

    async fn network(&self, document: &str) -> Result<()> {
        let network = xml::read_network(document, xml::Mode::Strict)?;
        self.ask(Command::Create(Box::new(network))).await.map(drop)
    }

    async fn attach(&self, network: &str, by_name: bool) -> Result<(Duration, NicView)> {
        let source = NicSource::Network { network: Name::new(network)?, portgroup: None };
        let handover = if by_name { Handover::Name { uid: None } } else { Handover::Descriptor };
        let attach = Attach {
            guest: Name::new("bench")?,
            guest_uuid: None,
            nic: Nic::new(source),
            owner: None,
            handover,
            uid: 0,
            precedence: Default::default(),
            reservation: None,
            port: None,
            mac_unknown: false,
        };
        let begun = std::time::Instant::now();
        let body = self.ask(Command::Attach(Box::new(attach))).await?;
        match body {
            Body::Nic(nic) => Ok((begun.elapsed(), *nic)),
            other => Err(format!("no NIC was attached: {other:?}").into()),
        }
    }

    async fn detach(&self, nic: &NicView) -> Result<()> {
        self.ask(Command::Detach(nic.id)).await.map(drop)
    }
}
