//! Resident memory of the daemon and of its spawner.

use std::fs;

use crate::Result;

/// Memory of one process, in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// VmRSS of /proc/PID/status: every page that is mapped, shared ones too.
    pub(crate) resident: u64,
    /// Pss of /proc/PID/smaps_rollup: shared pages divided among those who share them.
    pub(crate) proportional: u64,
}

impl Memory {
    /// That process's.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        Ok(Self {
            resident: field(&format!("/proc/{pid}/status"), "VmRSS:")?,
            proportional: field(&format!("/proc/{pid}/smaps_rollup"), "Pss:")?,
        })
    }
}

/// A row for the table of memory: the daemon's and its spawner's.
pub(crate) fn row(what: &str, daemon: u32) -> Result<Vec<String>> {
    let children = fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children"))?;
    let spawner = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).ok_or("there is no spawner")?;
    let cells = [Memory::of(daemon)?, Memory::of(spawner)?];
    let cells = cells.map(|memory| [mebibytes(memory.resident), mebibytes(memory.proportional)]);
    Ok(std::iter::once(what.to_owned()).chain(cells.into_iter().flatten()).collect())
}

/// The head of that table.
pub(crate) const HEAD: [&str; 5] = ["with", "daemon VmRSS", "daemon PSS", "spawner VmRSS", "spawner PSS"];

fn mebibytes(kibibytes: u64) -> String {
    format!("{:.1} MiB", kibibytes as f64 / 1024.0)
}

/// What is free for programs, in KiB.
pub(crate) fn available() -> Result<u64> {
    field("/proc/meminfo", "MemAvailable:")
}

fn field(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.trim().strip_suffix("kB")).and_then(|rest| rest.trim().parse().ok());
    Ok(number.ok_or_else(|| format!("{path} has no {name}"))?)
}
