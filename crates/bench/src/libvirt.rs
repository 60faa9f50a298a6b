//! libvirt's own daemon beside ours: one program asks both for the same in turn, through libvirt's library.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use patchcord_testkit::{Libvirtd, Namespace, unpacked};

use crate::daemon::Daemon;
use crate::stats::{Samples, ratio, table};
use crate::{Result, Setup};

/// The program.
const CLIENT: &str = include_str!("clients.py");
const PYTHON: &str = "/usr/bin/python3";

/// Measures both, or says why not.
pub(crate) fn run(setup: &Setup, ns: &Namespace) -> Result<()> {
    let Some(package) = unpacked("python3-libvirt") else { return Ok(()) };
    let daemon = Daemon::start(&setup.program)?;
    let Some(libvirtd) = Libvirtd::start(ns) else { return Ok(()) };
    let uri = |socket: &Path| format!("network+unix:///system?socket={}", socket.display());
    let uris = [uri(&libvirtd.sockets()[0]), uri(&daemon.root().join("run/libvirt/virtnetworkd-sock"))];
    let [rounds, networks, ports] = if setup.quick { ["2", "20", "20"] } else { ["20", "1000", "100,1000,10000"] };
    let mut client = Command::new(PYTHON);
    client.args(["-c", CLIENT, rounds, networks, ports]).args(uris);
    client.env("PYTHONPATH", package.join("usr/lib/python3/dist-packages")).stderr(Stdio::inherit());
    let output = client.output()?;
    if !output.status.success() {
        return Err(format!("{PYTHON} ended: {}", output.status).into());
    }
    let text = String::from_utf8(output.stdout)?;
    let rows: Vec<_> = text.lines().map(row).collect::<Result<_>>()?;
    let title = format!("Beside libvirtd, by one Python program in turn ({rounds} rounds, of ports ten times as many)");
    table(&title, &["work", "libvirt", "Patchcord", "libvirt / Patchcord"], &rows);
    Ok(())
}

/// A row of the table, of a line of the program's: what was done, and how long it took with either, in microseconds.
fn row(line: &str) -> Result<Vec<String>> {
    let [work, theirs, ours] = line.split('\t').collect::<Vec<_>>()[..] else {
        return Err(format!("no times: {line}").into());
    };
    let (theirs, ours) = (times(theirs)?, times(ours)?);
    Ok(vec![work.to_owned(), theirs.cell(), ours.cell(), ratio(theirs.p50(), ours.p50())])
}

fn times(text: &str) -> Result<Samples> {
    let mut samples = Samples::default();
    for micros in text.split(' ') {
        samples.push(Duration::from_secs_f64(micros.parse::<f64>()? / 1e6));
    }
    Ok(samples)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a helper that fails is the test failing
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_a_row() {
        let row = row("list\t1500.0 500.0 1000.0\t100.0 100.0 100.0").unwrap();
        assert_eq!(row, ["list", "1.00 ms / 1.50 ms", "100 µs / 100 µs", "10.00"]);
        assert!(super::row("list").is_err());
    }
}
