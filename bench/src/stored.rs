//! A store that is full: ready again, and `sessions.list`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use watertight_testkit::gateway::Gateway;

use crate::client::websocket::{WebSocket, contains, is_ok, shown};
use crate::figures::{Quantiles, Report, histogram};
use crate::load::{Crowd, Until};
use crate::stage::{self, Model};
use crate::starts::{READY, middle, timed};
use crate::user::Surface;
use crate::user::chat::request;
use crate::{Options, process, progress};

/// Users who fill the store together.
const FILLERS: usize = 64;

pub(crate) async fn measure(
    report: &mut Report,
    binary: &Path,
    model: &Model,
    sessions: &Arc<AtomicU32>,
    options: &Options,
) -> Result<()> {
    let stored = options.stored;
    progress(&format!("{stored} sessions"));
    let setup = stage::setup(binary, model);
    let gateway = setup.start().await;
    let began = Instant::now();
    // Every turn is the only one of its session. The built-in model answers: nobody else is asked.
    let world = stage::world(&gateway, model, "echo", 1, sessions);
    let filled = Crowd::gather(&world, Surface::Agent, FILLERS).await?.at_full_speed(Until::Turns(stored)).await?;
    report.errors += filled.errors;
    report.leaks += filled.leaks;
    report.examples.extend(filled.examples);
    report.note("sessions stored", filled.turns as f64, "");
    report.note("sessions stored a second", filled.turns as f64 / began.elapsed().as_secs_f64(), "1/s");
    report.note("resident after storing them", process::resident(gateway.pid())? / 1024.0, "MiB");

    let listed = list(&gateway, options.lists).await?;
    report.note(format!("sessions.list of 50 out of {stored}, p50"), listed.p50, "ms");
    let name = format!("sessions.list of 50 out of {stored}, p99");
    report.at_most(name, listed.p99, 5.0, "ms", "17 ms (out of 10,000)");

    gateway.terminate().await;
    let (mut after_stop, mut after_kill) = (Vec::new(), Vec::new());
    for _ in 0..options.starts.max(1) {
        let (gateway, taken) = timed(&setup).await;
        after_stop.push(taken);
        gateway.kill().await;
        let (gateway, taken) = timed(&setup).await;
        after_kill.push(taken);
        gateway.terminate().await;
    }
    report.at_most(format!("start to ready, {stored} sessions"), middle(&mut after_stop), READY, "ms", "");
    report.at_most(format!("the same after a kill, {stored} sessions"), middle(&mut after_kill), 1000.0, "ms", "");
    let gateway = setup.start().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    report.note(format!("resident, idle, {stored} sessions"), process::resident(gateway.pid())? / 1024.0, "MiB");
    gateway.terminate().await;
    Ok(())
}

async fn list(gateway: &Gateway, times: usize) -> Result<Quantiles> {
    let mut socket = WebSocket::open(gateway.address(), &gateway.token()).await?;
    let mut taken = histogram();
    for _ in 0..times.max(1) {
        let began = Instant::now();
        socket.queue(&request("list", "sessions.list", r#"{"limit":50}"#));
        socket.flush().await?;
        let answer = socket.response("list").await?;
        taken.saturating_record(began.elapsed().as_micros() as u64);
        ensure!(is_ok(answer) && contains(answer, b"bench-"), "no list: {}", shown(answer));
    }
    Quantiles::of(&taken).ok_or_else(|| anyhow::anyhow!("nothing was listed"))
}
