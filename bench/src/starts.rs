//! From the start of the program to ready, and what it needs before anybody comes.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use watertight_testkit::gateway::{Gateway, GatewaySetup};

use crate::figures::Report;
use crate::stage::{self, Model};
use crate::{Options, process, progress};

/// Ready within this, in milliseconds.
pub(crate) const READY: f64 = 100.0;

pub(crate) async fn measure(report: &mut Report, binary: &Path, model: &Model, options: &Options) -> Result<()> {
    progress("starts");
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for _ in 0..options.starts.max(1) {
        let setup = stage::setup(binary, model);
        let (gateway, taken) = timed(&setup).await;
        first.push(taken);
        gateway.terminate().await;
        let (gateway, taken) = timed(&setup).await;
        later.push(taken);
        gateway.terminate().await;
    }
    report.at_most("first start to ready", middle(&mut first), READY, "ms", "8,800 ms");
    report.at_most("later start to ready", middle(&mut later), READY, "ms", "8,800 ms");

    let setup = stage::setup(binary, model);
    let gateway = setup.start().await;
    // What it still does after it is ready belongs to an idle program too.
    tokio::time::sleep(Duration::from_secs(1)).await;
    report.at_most("resident, idle", process::resident(gateway.pid())? / 1024.0, 20.0, "MiB", "884 MB");
    gateway.terminate().await;
    Ok(())
}

/// Starts it, and says how long that took, in milliseconds.
pub(crate) async fn timed(setup: &GatewaySetup) -> (Gateway, f64) {
    let began = Instant::now();
    let gateway = setup.start().await;
    (gateway, began.elapsed().as_secs_f64() * 1000.0)
}

/// The median.
pub(crate) fn middle(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
