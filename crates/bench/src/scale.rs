//! A host full of NAT networks with DHCP: does one more cost what the first did?

use std::time::Instant;

use patchcord_api::methods::DefineNetwork;
use patchcord_testkit::Namespace;

use crate::daemon::Daemon;
use crate::networks::{Cycle, answers, nat};
use crate::raw::Raw;
use crate::stats::{ratio, show, table};
use crate::{Result, Setup, memory};

/// KiB that must be free: 0.6 GB for a thousand networks, and as much again.
const NEEDED: u64 = 1_300_000;

/// Starts networks up to a thousand; starts and stops one more at several numbers on the way.
pub(crate) fn run(setup: &Setup, _: &Namespace) -> Result<()> {
    let (levels, rounds, asked): (&[usize], _, _) =
        if setup.quick { (&[1, 10], 3, 5) } else { (&[1, 500, 1000], 20, 20) };
    let before = memory::available()?;
    if before < NEEDED {
        println!("\na thousand networks need {} MB, {} are free: skipped", NEEDED / 1000, before / 1000);
        return Ok(());
    }
    let mut daemon = Daemon::start(&setup.program)?;
    let mut raw = Raw::new()?;
    daemon.call(&DefineNetwork { xml: nat("measured", "10.255.255") })?;
    let mut rows = Vec::new();
    let (mut started, mut first) = (0, None);
    for &level in levels {
        let (begun, from) = (Instant::now(), started);
        // The one that is being measured counts.
        while started + 1 < level {
            daemon.transient(&nat(&format!("net{started}"), &subnet(started)))?;
            started += 1;
        }
        let filling = begun.elapsed();
        let mut cycle = Cycle::default();
        for _ in 0..rounds {
            cycle.round(&mut daemon, &mut raw, "measured", Some("10.255.255.1"))?;
        }
        let first = *first.get_or_insert(cycle.start.p50());
        let each = if started == from { "–".to_owned() } else { show(filling / u32::try_from(started - from)?) };
        let (start, stop) = (cycle.start.cell(), cycle.stop.cell());
        let against = ratio(cycle.start.p50(), first);
        rows.push(vec![level.to_string(), start, against, stop, cycle.gone.cell(), each]);
    }
    // Spread over all of them; which ones makes no difference.
    let mut answered = 0;
    for n in 0..asked {
        answered += usize::from(answers(&format!("{}.1", subnet(n * started / asked)))?);
    }
    let used = before.saturating_sub(memory::available()?);
    table(
        &format!("One more NAT network with DHCP ({rounds} rounds at each number)"),
        &[
            "networks",
            "start",
            "against the first row",
            "stop",
            "links gone after the stop",
            "mean of those started before",
        ],
        &rows,
    );
    let sizes = memory::row(&format!("{started} NAT networks"), daemon.pid())?;
    table("Memory, with a host full of networks", &memory::HEAD, &[sizes]);
    println!(
        "\n{answered} of {asked} of them, spread over all, answer DNS. The host has {} MB less free.",
        used / 1000
    );
    Ok(())
}

/// The first three octets of the `n`th network's addresses.
fn subnet(n: usize) -> String {
    format!("10.{}.{}", 10 + n / 250, n % 250)
}
