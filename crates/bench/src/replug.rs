//! Moving a NIC that is in use from one network to another, beside the kernel's own cost of the same changes.

use std::num::NonZeroU16;
use std::os::fd::AsFd;
use std::thread::sleep;
use std::time::Duration;

use patchcord_host::tap::announce;
use patchcord_netlink::{LinkChange, Request};
use patchcord_testkit::Namespace;

use crate::daemon::{Daemon, on};
use crate::devices::{make, pool};
use crate::networks::isolated;
use crate::nics::REST;
use crate::raw::{Place, Raw, RawNic, doom_macvlan, redirect};
use crate::stats::{Samples, ratio, show, table, timed};
use crate::{Result, Setup};

/// The moves of a round, and the network that each leads to; the last one leads back to the bridge of the beginning.
const MOVES: [(&str, &str); 4] = [
    ("network to network", "second"),
    ("network to device", "one"),
    ("device to device", "other"),
    ("device to network", "first"),
];

const HEAD: [&str; 6] = ["NICs", "move", "socket alone", "modify", "raw", "(modify − socket) / raw"];

/// Measures hosts with more and more NICs on devices.
pub(crate) fn run(setup: &Setup, _: &Namespace) -> Result<()> {
    let (levels, rounds, devices): (&[usize], _, _) =
        if setup.quick { (&[1, 20], 5, 10) } else { (&[1, 1000], 50, 100) };
    let mut raw = Raw::new()?;
    make(&mut raw, devices + 4)?;
    let mut places = [Place::Bridge(raw.bridge("raw2")?), Place::Cord(0), Place::Cord(0), raw.place];
    for (place, n) in places[1..3].iter_mut().zip(devices + 2..) {
        *place = Place::Cord(raw.index_of(&format!("dev{n}"))?);
    }
    let mut daemon = Daemon::start(&setup.program)?;
    for (name, subnet) in [("first", "10.2.0"), ("second", "10.2.1")] {
        daemon.network(&isolated(name, subnet))?;
    }
    for (name, first, count) in [("many", 0, devices), ("one", devices, 1), ("other", devices + 1, 1)] {
        daemon.transient(&pool(name, first, count))?;
    }
    let (mut nic, (_, mut by_hand)) = (daemon.attach(&on("first"), "bench", false)?.1, raw.attach(false)?);
    let (mut rows, mut filled) = (Vec::new(), 0);
    for &level in levels {
        // The one that is being measured counts.
        while filled + 1 < level {
            daemon.attach(&on("many"), &format!("guest{filled}"), true)?;
            filled += 1;
        }
        let mut socket = Samples::default();
        let mut times: [(Samples, Samples); MOVES.len()] = Default::default();
        for round in 0..rounds + 10 {
            for ((place, (_, to)), (ours, theirs)) in places.into_iter().zip(MOVES).zip(&mut times) {
                sleep(REST);
                let alone = daemon.trivial_call();
                let (time, moved) = daemon.modify(&nic, &on(to))?;
                nic = moved;
                if nic.state != "plugged" {
                    return Err(format!("the NIC is {} on {to}", nic.state).into());
                }
                // What it left is deleted by now.
                sleep(REST * 10);
                let raw_time = replug(&mut raw, &mut by_hand, place)?;
                if round >= 10 {
                    socket.push(alone);
                    ours.push(time);
                    theirs.push(raw_time);
                }
            }
        }
        for ((what, _), (ours, theirs)) in MOVES.into_iter().zip(times) {
            let own = ours.p50().saturating_sub(socket.p50());
            let cells = [show(socket.p50()), ours.cell(), theirs.cell(), ratio(own, theirs.p50())];
            rows.push([level.to_string(), what.to_owned()].into_iter().chain(cells).collect());
        }
    }
    table(&format!("Moving a NIC ({rounds} rounds after 10 that do not count)"), &HEAD, &rows);
    Ok(())
}

/// Plugs a NIC's tap into another place, as the daemon does: the new way is there before the old one goes, then the guest
/// is announced, and what is left is taken out of use. Says how long that took; then deletes that.
fn replug(raw: &mut Raw, nic: &mut RawNic, to: Place) -> Result<Duration> {
    let from = std::mem::replace(&mut raw.place, to);
    let left = nic.macvlan.take();
    let controller = |to| LinkChange { controller: Some(to), ..LinkChange::default() };
    let (time, ()) = timed(|| {
        match to {
            Place::Bridge(bridge) => raw.socket.set_link(nic.tap, &controller(Some(bridge)))?,
            Place::Cord(device) => {
                let macvlan = raw.far_end(nic.tap, device)?;
                // It has its place for filters from the first time on.
                match raw.socket.execute(&Request::add_ingress(nic.tap)) {
                    Err(error) if !error.is_exists() => return Err(error.into()),
                    _ => raw.socket.execute(&redirect(nic.tap, macvlan))?,
                }
                nic.macvlan = Some(macvlan);
            }
            Place::Macvtap(_) => return Err("a macvtap takes no tap".into()),
        }
        match (from, to) {
            (Place::Bridge(_), Place::Cord(_)) => raw.socket.set_link(nic.tap, &controller(None))?,
            (Place::Cord(_), Place::Bridge(_)) => {
                raw.socket.execute(&Request::delete_redirect(nic.tap, NonZeroU16::MIN))?;
            }
            _ => {}
        }
        announce(nic.queue.as_ref().ok_or("a NIC without a descriptor")?.as_fd(), [0x52, 0x54, 0, 2, 0, 1])?;
        raw.all(&left.map(doom_macvlan).unwrap_or_default())
    })?;
    left.map_or(Ok(()), |link| raw.socket.delete_link(link))?;
    Ok(time)
}
