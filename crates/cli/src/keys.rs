//! `watertight keys`: what the keys are like, whether they open, and replacing them.

pub(crate) mod args;
mod report;

use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::runtime::Runtime;
use watertight_config::Overrides;
use watertight_core::ids::UnixMillis;
use watertight_engine::Engine;
use watertight_engine::rotation::{KeyProgress, OnKeyProgress, Rotated, Turned};
use watertight_engine::state_dir::StateDir;
use watertight_engine::verification::{self, Progress};

use self::args::{KeysCommand, KeysRotateArgs, KeysStatusArgs, KeysVerifyArgs};
use crate::admin::args::Reach;
use crate::admin::client::Client;
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
    if StateDir::holder(home.state_dir()).is_some() {
        return rotate_at_work(home, args).await;
    }
    let dir = StateDir::lock(home.state_dir()).map_err(Failure::new)?;
    let config = home.config(Overrides::default())?;
    let engine = Engine::open(Arc::new(config), dir).await.map_err(Failure::new)?;
    let rotated = replace(&engine, args).await;
    engine.drain(Duration::ZERO).await;
    print(&rotated?)?;
    Ok(ExitCode::SUCCESS)
}

/// Has the gateway that serves the state directory replace the keys, while it goes on.
async fn rotate_at_work(home: &Home, args: &KeysRotateArgs) -> Result<ExitCode, Failure> {
    let client = Client::find(home, &Reach::default()).await?;
    let mut body = json!({"master": args.master});
    if let Some(tenant) = &args.tenant {
        body["tenant"] = tenant.as_str().into();
    }
    let answer = client.call("POST", "/v1/admin/keys/rotate", Some(&body)).await;
    client.close().await;
    let answer = answer?;
    let text = match answer["masterKey"].as_str() {
        _ if args.json => format!("{answer:#}\n"),
        Some(file) => report::master_as(false, Path::new(file)),
        None => report::rotated_as_lines(&rotated_of(&answer)),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn rotated_of(answer: &Value) -> Vec<Rotated> {
    let tenants = answer["tenants"].as_array().into_iter().flatten();
    let number = |row: &Value, field: &str| row[field].as_u64().unwrap_or(0);
    tenants
        .map(|row| Rotated {
            tenant: row["tenant"].as_str().unwrap_or_default().to_owned(),
            turned: Turned {
                epoch: u32::try_from(number(row, "epoch")).unwrap_or(u32::MAX),
                rewrapped: number(row, "rewrapped"),
                damaged: number(row, "damaged"),
                epochs_left: number(row, "epochsLeft"),
            },
        })
        .collect()
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

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn print(text: &str) -> Result<(), Failure> {
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::new(format!("The result could not be written: {error}")))
}
