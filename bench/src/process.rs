//! What the kernel says of a process, and what it allows.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

/// Clock ticks a second in `/proc/<pid>/stat`; fixed at 100 on every Linux this runs on.
const TICKS: f64 = 100.0;

/// User and system time so far.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field, the name, may hold spaces; everything after its closing bracket does not.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).context("unexpected stat");
    Ok(Duration::from_secs_f64((ticks(11)? + ticks(12)?) / TICKS))
}

/// Resident memory, in KiB.
pub(crate) fn resident(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// The three programs of a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Programs {
    pub(crate) gateway: u32,
    pub(crate) model: u32,
}

/// A value for each of the three programs.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Each {
    pub(crate) gateway: f64,
    pub(crate) model: f64,
    pub(crate) generator: f64,
}

impl Each {
    pub(crate) fn sum(self) -> f64 {
        self.gateway + self.model + self.generator
    }
}

impl Programs {
    /// CPU so far, in milliseconds.
    pub(crate) fn cpu(self) -> Result<Each> {
        let millis = |pid| cpu(pid).map(|time| time.as_secs_f64() * 1000.0);
        Ok(Each { gateway: millis(self.gateway)?, model: millis(self.model)?, generator: millis(std::process::id())? })
    }
}

/// Cores this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Raises the limit of open files as far as it goes, for this process and those it starts; returns it.
pub(crate) fn raise_open_files() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current };
    limit.unwrap_or(u64::MAX)
}
