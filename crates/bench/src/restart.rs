//! Restarts of the daemon while networks and NICs stay.

use std::collections::BTreeMap;

use patchcord_api::methods::ListNICs;
use patchcord_api::types::Network;
use patchcord_testkit::Namespace;

use crate::daemon::{Daemon, on};
use crate::networks::{isolated, nat};
use crate::stats::{Samples, table};
use crate::{Result, Setup, memory};

const HEAD: [&str; 5] = ["with", "until the first answer", "until all is verified", "target", "dnsmasq processes kept"];

/// Measures restarts with NAT networks.
pub(crate) fn networks(setup: &Setup, _: &Namespace) -> Result<()> {
    let (networks, rounds) = if setup.quick { (8, 2) } else { (128, 10) };
    let mut daemon = Daemon::start(&setup.program)?;
    for n in 0..networks {
        daemon.network(&nat(&format!("net{n}"), &format!("10.3.{n}")))?;
    }
    let sizes = [memory::row(&format!("{networks} NAT networks"), daemon.pid())?];
    let before = servers(&daemon.networks()?);
    let (mut answered, mut whole) = (Samples::default(), Samples::default());
    for _ in 0..rounds {
        let (first, all) = daemon.restart(|now| servers(now).len() == before.len())?;
        answered.push(first);
        whole.push(all);
    }
    let after = servers(&daemon.networks()?);
    let kept = before.iter().filter(|(name, pid)| after.get(*name) == Some(*pid)).count();
    let what = format!("{networks} NAT networks");
    let row = vec![what, answered.cell(), whole.cell(), "≤ 0.2 s".into(), format!("{kept} of {networks}")];
    table(&format!("Restarting the daemon with networks ({rounds} rounds)"), &HEAD, &[row]);
    table("Memory, with networks", &memory::HEAD, &sizes);
    Ok(())
}

/// Measures restarts with NICs.
pub(crate) fn nics(setup: &Setup, _: &Namespace) -> Result<()> {
    let (nics, rounds) = if setup.quick { (50, 2) } else { (1000, 10) };
    let mut daemon = Daemon::start(&setup.program)?;
    daemon.network(&isolated("many", "10.4.0"))?;
    for n in 0..nics {
        daemon.attach(&on("many"), &format!("guest{n}"), true)?;
    }
    let (mut answered, mut whole) = (Samples::default(), Samples::default());
    for _ in 0..rounds {
        let (first, all) = daemon.restart(|now| now.iter().all(|network| network.nics == nics))?;
        answered.push(first);
        whole.push(all);
    }
    let found = daemon.call(&ListNICs { network: None })?.nics;
    if found.len() != nics || found.iter().any(|nic| nic.state != "plugged") {
        return Err("not every NIC is plugged in after the restarts".into());
    }
    let row = vec![format!("{nics} NICs"), answered.cell(), whole.cell(), "–".into(), "–".into()];
    table(&format!("Restarting the daemon with NICs ({rounds} rounds)"), &HEAD, &[row]);
    Ok(())
}

/// The dnsmasq of each active network that has one.
fn servers(networks: &[Network]) -> BTreeMap<String, u32> {
    let active = networks.iter().filter(|network| network.active);
    active.filter_map(|network| Some((network.name.clone(), network.dnsmasq?))).collect()
}
