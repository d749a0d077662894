//! Connections: what opening one costs, and what one costs that only listens.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use crate::client::websocket::WebSocket;
use crate::figures::Report;
use crate::stage::{self, Model};
use crate::{Options, process, progress};

/// Handshakes under way at the same time. The gateway lets an address have 32.
const AT_ONCE: usize = 16;
/// Files each side needs beside its connections.
const SPARE_FILES: u64 = 200;
/// Seconds, at the most, for what the gateway still does with the last connection, such as telling the others of it.
const SETTLE: f64 = 3.0;

pub(crate) async fn measure(report: &mut Report, binary: &Path, model: &Model, options: &Options) -> Result<()> {
    let setup = stage::setup(binary, model);
    let gateway = setup.start().await;
    let (address, token): (_, Arc<str>) = (gateway.address(), gateway.token().into());
    let cpu = || process::cpu(gateway.pid()).map(|time| time.as_secs_f64() * 1000.0);

    if options.handshakes > 0 {
        progress("handshakes");
        open(address, &token, options.handshakes.min(100), After::Close).await?;
        let (before, began) = (cpu()?, Instant::now());
        open(address, &token, options.handshakes, After::Close).await?;
        let each = options.handshakes as f64;
        report.note("handshakes, each closed at once", each / began.elapsed().as_secs_f64(), "1/s");
        report.at_most("gateway CPU a handshake", (cpu()? - before) / each, 0.15, "ms", "1.3 ms");
    }
    let settle = Duration::from_secs_f64(options.seconds.min(SETTLE));
    if options.idle > 0 {
        progress("idle connections");
        let room = usize::try_from(report.open_files.saturating_sub(SPARE_FILES)).unwrap_or(usize::MAX);
        let wanted = options.idle.min(room);
        let (resident, before) = (process::resident(gateway.pid())?, cpu()?);
        let held = open(address, &token, wanted, After::Listen).await?;
        let opened = cpu()?;
        tokio::time::sleep(settle).await;
        let each = held.len() as f64;
        report.note("idle connections reached", each, "");
        report.note("gateway CPU a handshake that stays", (opened - before) / each, "ms");
        let kib = (process::resident(gateway.pid())? - resident) / each;
        report.at_most("memory of an idle connection", kib, 10.0, "KiB", "16 KB");
        let (quiet, began) = (cpu()?, Instant::now());
        tokio::time::sleep(settle).await;
        let share = (cpu()? - quiet) / began.elapsed().as_secs_f64() / 10.0;
        report.note("gateway CPU with all of them idle", share, "% of a core");
        if held.len() < options.idle {
            report.fault(format!("only {} of {} idle connections were reached", held.len(), options.idle));
        }
    }
    gateway.terminate().await;
    Ok(())
}

/// What becomes of a connection after hello.
#[derive(Clone, Copy, PartialEq)]
enum After {
    Close,
    /// Reads what comes until the set is dropped.
    Listen,
}

/// Opens `count` connections, some at a time; those that listen are in the set.
async fn open(address: SocketAddr, token: &Arc<str>, count: usize, after: After) -> Result<JoinSet<()>> {
    let left = Arc::new(AtomicUsize::new(count));
    let mut opening = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (left, token) = (Arc::clone(&left), Arc::clone(token));
        opening.spawn(async move {
            let mut listening = Vec::new();
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                let socket = WebSocket::open(address, &token).await?;
                match after {
                    After::Close => socket.close().await?,
                    After::Listen => listening.push(socket),
                }
            }
            anyhow::Ok(listening)
        });
    }
    let mut held = JoinSet::new();
    while let Some(opened) = opening.join_next().await {
        for mut socket in opened?? {
            held.spawn(async move { while socket.next().await.is_ok() {} });
        }
    }
    Ok(held)
}
