//! Attaching and detaching NICs on devices of a large pool, by cords and by macvtaps, beside the kernel's own cost.

use patchcord_testkit::Namespace;

use crate::daemon::{Daemon, by_macvtap, on};
use crate::nics::{HEAD, Times};
use crate::raw::{Place, Raw};
use crate::stats::table;
use crate::{Result, Setup};

/// Devices of the pool.
pub(crate) const DEVICES: usize = 1000;

/// Measures NICs that are joined to their devices by cords.
pub(crate) fn cords(setup: &Setup, _: &Namespace) -> Result<()> {
    measure(setup, "by a cord", &on("pool"), Place::Cord)
}

/// Measures NICs that are macvtaps.
pub(crate) fn macvtaps(setup: &Setup, _: &Namespace) -> Result<()> {
    measure(setup, "by a macvtap", &by_macvtap("pool"), Place::Macvtap)
}

fn measure(setup: &Setup, how: &str, interface: &str, place: fn(u32) -> Place) -> Result<()> {
    let (levels, rounds, devices): (&[usize], _, _) =
        if setup.quick { (&[1, 20], 5, 10) } else { (&[100, 1000, 4000], 50, DEVICES) };
    let mut raw = Raw::new()?;
    make(&mut raw, devices + 1)?;
    raw.place = place(raw.index_of(&format!("dev{devices}"))?);
    let mut daemon = Daemon::start(&setup.program)?;
    daemon.transient(&pool("pool", 0, devices))?;
    let (mut rows, mut filled) = (Vec::new(), 0);
    for &level in levels {
        // The one that is being measured counts.
        while filled + 1 < level {
            daemon.attach(interface, &format!("guest{filled}"), true)?;
            filled += 1;
        }
        for (handed, by_name) in [("descriptor", false), ("name", true)] {
            let mut times = Times::default();
            for round in 0..rounds + 10 {
                times.round(interface, &mut daemon, &mut raw, by_name, round >= 10)?;
            }
            rows.push(times.row(level, handed));
        }
    }
    let title = format!(
        "Attaching and detaching a NIC on one of {devices} devices, {how} ({rounds} rounds after 10 that do not count)"
    );
    table(&title, &HEAD, &rows);
    Ok(())
}

/// Makes what stands for devices: bridges without ports, as cheap as devices get. Macvlans sit on them like on any.
pub(crate) fn make(raw: &mut Raw, devices: usize) -> Result<()> {
    (0..devices).try_for_each(|n| raw.bridge(&format!("dev{n}")).map(drop))
}

/// A network of some of those devices.
pub(crate) fn pool(name: &str, first: usize, devices: usize) -> String {
    let listed: String = (first..first + devices).map(|n| format!("<interface dev='dev{n}'/>")).collect();
    format!("<network><name>{name}</name><forward mode='vepa'>{listed}</forward></network>")
}
