//! libvirt's own network driver beside ours, where it is installed: the same networks, started and stopped in turn.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use patchcord_api::methods::{DefineNetwork, StartNetwork, StopNetwork};
use patchcord_testkit::{Namespace, Process};
use rustix::mount::{MountFlags, mount};

use crate::daemon::Daemon;
use crate::networks::{isolated, nat};
use crate::stats::{Samples, ratio, table, timed};
use crate::{Result, Setup};

const PROGRAM: &str = "/usr/sbin/libvirtd";
/// Where it writes: covered, so that nothing of it stays.
const COVERED: [&str; 5] = ["/run", "/etc/libvirt", "/var/lib", "/var/log", "/var/cache"];
const DIRECTORIES: [&str; 4] =
    ["/run/libvirt", "/etc/libvirt/qemu/networks", "/var/lib/libvirt/dnsmasq", "/var/log/libvirt"];
const SOCKET: &str = "/run/libvirt/libvirt-sock";
const PATIENCE: Duration = Duration::from_secs(20);

/// Times by the network's name.
type Times = BTreeMap<&'static str, Samples>;

/// Measures both, or says why not.
pub(crate) fn run(setup: &Setup, ns: &Namespace) -> Result<()> {
    if !Path::new(PROGRAM).exists() || ns.try_run("virsh --version").is_err() {
        println!("\nlibvirtd not installed: skipped");
        return Ok(());
    }
    let rounds = if setup.quick { 2 } else { 15 };
    // What is below /run and /var stays visible to whoever has it open; programs look into these only.
    for path in COVERED {
        mount("tmpfs", path, "tmpfs", MountFlags::empty(), Some(c"mode=0755"))?;
    }
    for path in DIRECTORIES {
        fs::create_dir_all(path)?;
    }
    let version = ns.run(&format!("{PROGRAM} --version"));
    let mut libvirtd = Command::new(PROGRAM);
    libvirtd.stderr(fs::File::create("/var/log/libvirt/log")?);
    let _libvirtd = Process::start(libvirtd);
    let begun = Instant::now();
    while !Path::new(SOCKET).exists() {
        if begun.elapsed() > PATIENCE {
            let log = fs::read_to_string("/var/log/libvirt/log").unwrap_or_default();
            println!("\nlibvirtd does not start here: skipped\n{log}");
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for (name, xml) in [("lab", isolated("lab", "10.6.1")), ("out", nat("out", "10.6.2"))] {
        let file = format!("/run/{name}.xml");
        fs::write(&file, xml)?;
        virsh(&format!("net-define {file}"))?;
    }
    let mut daemon = Daemon::start(&setup.program)?;
    for xml in [isolated("lab", "10.6.3"), nat("out", "10.6.4")] {
        daemon.call(&DefineNetwork { xml })?;
    }
    let [mut their_starts, mut their_stops, mut starts, mut stops] = <[Times; 4]>::default();
    for _ in 0..rounds {
        for name in ["lab", "out"] {
            let took = virsh(&format!("net-start {name}; net-destroy {name}"))?;
            let [start, stop] = took[..] else { return Err("virsh tells no times".into()) };
            their_starts.entry(name).or_default().push(start);
            their_stops.entry(name).or_default().push(stop);
            let (time, _) = timed(|| daemon.call(&StartNetwork { name: name.to_owned() }))?;
            starts.entry(name).or_default().push(time);
            let (time, _) = timed(|| daemon.call(&StopNetwork { name: name.to_owned() }))?;
            stops.entry(name).or_default().push(time);
        }
    }
    let row = |what: &str, theirs: &Samples, ours: &Samples| {
        vec![what.to_owned(), theirs.cell(), ours.cell(), ratio(theirs.p50(), ours.p50())]
    };
    let rows = [
        row("start, isolated", &their_starts["lab"], &starts["lab"]),
        row("stop, isolated", &their_stops["lab"], &stops["lab"]),
        row("start, NAT with DHCP", &their_starts["out"], &starts["out"]),
        row("stop, NAT with DHCP", &their_stops["out"], &stops["out"]),
    ];
    let version = version.split_whitespace().next_back().unwrap_or("of unknown version");
    let title = format!("Beside libvirtd {version} ({rounds} rounds in turn, its times as virsh tells them)");
    table(&title, &["work", "libvirt", "Patchcord", "libvirt / Patchcord"], &rows);
    end_dnsmasqs(Path::new("/run/libvirt/network"));
    Ok(())
}

/// Runs commands in one virsh; how long each took, as virsh says.
fn virsh(commands: &str) -> Result<Vec<Duration>> {
    let output = Command::new("virsh").args(["-t", "-c", "network:///system", commands]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("virsh {commands}: {}{}", text, String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(times(&text))
}

/// The times in lines such as `(Time: 35.701 ms)`.
fn times(text: &str) -> Vec<Duration> {
    let told = text.lines().filter_map(|line| line.strip_prefix("(Time: ")?.strip_suffix(" ms)")?.parse().ok());
    told.map(|milliseconds: f64| Duration::from_secs_f64(milliseconds / 1e3)).collect()
}

/// Ends servers that a stop which failed left behind.
fn end_dnsmasqs(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "pid") {
            crate::daemon::end_process_of(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virshs_times_are_read() {
        let text = "Network lab started\n\n(Time: 35.701 ms)\n\nNetwork lab destroyed\n\n(Time: 260.000 ms)\n";
        assert_eq!(times(text), [Duration::from_micros(35_701), Duration::from_millis(260)]);
        assert!(times("error: no such network").is_empty());
    }
}
