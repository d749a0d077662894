//! `watertight keys`: what the keys are like, whether they open, and replacing them.

pub(crate) mod args;
mod report;

use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::runtime::Runtime;
use watertight_config::Overrides;
use watertight_core::ids::UnixMillis;
use watertight_engine::Engine;
use watertight_engine::rotation::{KeyProgress, OnKeyProgress};
use watertight_engine::state_dir::{OpenError, StateDir};
use watertight_engine::verification::{self, Progress};

use self::args::{KeysCommand, KeysRotateArgs, KeysStatusArgs, KeysVerifyArgs};
use crate::failure::Failure;
use crate::home::Home;
use crate::verify::{FOUND, NOT_VERIFIED, ProgressLine};

pub(crate) fn run(runtime: &Runtime, home: &Home, command: &KeysCommand) -> Result<ExitCode, Failure> {
    match command {
        KeysCommand::Status(args) => status(home, args),
        KeysCommand::Verify(args) => verify(home, args).map_err(|failure| Failure { exit: NOT_VERIFIED, ..failure }),
        KeysCommand::Rotate(args) => runtime.block_on(rotate(home, args)),
    }
}

fn status(home: &Home, args: &KeysStatusArgs) -> Result<ExitCode, Failure> {
    let config = home.client_config()?;
    let tenants = verification::key_status(&config, home.state_dir()).map_err(Failure::new)?;
    let lasts = Duration::from_hours(u64::from(config.keys.epoch_hours));
    let text = if args.json {
        report::status_as_json(&tenants, lasts)
    } else {
        report::status_as_lines(&tenants, lasts, now())
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn verify(home: &Home, args: &KeysVerifyArgs) -> Result<ExitCode, Failure> {
    let config = home.client_config()?;
    let mut line = ProgressLine::new("data keys");
    let verified =
        verification::verify_keys(&config, home.state_dir(), args.tenant.as_deref(), |progress| line.show(progress));
    line.clear();
    let report = verified.map_err(Failure::new)?;
    print(&if args.json { report::keys_as_json(&report) } else { report::keys_as_lines(&report) })?;
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::from(FOUND) })
}

async fn rotate(home: &Home, args: &KeysRotateArgs) -> Result<ExitCode, Failure> {
    verification::find(home.state_dir()).map_err(Failure::new)?;
    let dir = StateDir::lock(home.state_dir()).map_err(occupied)?;
    let config = home.config(Overrides::default())?;
    let engine = Engine::open(Arc::new(config), dir).await.map_err(Failure::new)?;
    let rotated = replace(&engine, args).await;
    engine.drain(Duration::ZERO).await;
    print(&rotated?)?;
    Ok(ExitCode::SUCCESS)
}

/// Replaces the keys; what was done.
async fn replace(engine: &Engine, args: &KeysRotateArgs) -> Result<String, Failure> {
    if args.master {
        let file = engine.rotate_master_key().await.map_err(Failure::new)?;
        return Ok(report::master_as(args.json, &file));
    }
    let line = Arc::new(Mutex::new(ProgressLine::new("data keys")));
    let shown = line.clone();
    let progress: OnKeyProgress = Arc::new(move |KeyProgress { done, total, .. }| {
        let mut line = shown.lock().unwrap_or_else(PoisonError::into_inner);
        line.show(Progress { done: *done, total: *total });
        ControlFlow::Continue(())
    });
    let rotated = engine.rotate_keys(args.tenant.as_deref(), progress).await;
    line.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let rotated = rotated.map_err(Failure::new)?;
    Ok(if args.json { report::rotated_as_json(&rotated) } else { report::rotated_as_lines(&rotated) })
}

fn occupied(error: OpenError) -> Failure {
    match error {
        OpenError::InUse { path, holder } => {
            let who = match holder.address {
                Some(address) => format!("the gateway on {address} (process {})", holder.pid),
                None => format!("process {}", holder.pid),
            };
            Failure::new(format!(
                "{who} is at work in {}. It turns key epochs by itself, every keys.epoch_hours; to replace keys now, stop \
                 it first.",
                path.display()
            ))
        }
        error => Failure::new(error),
    }
}

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn print(text: &str) -> Result<(), Failure> {
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::new(format!("The result could not be written: {error}")))
}
