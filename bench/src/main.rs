//! Figures of the built program: durable, sealed turns, beside the floor they stand on.
//!
//! Everything is measured in one run on one machine, so that ratios hold where absolute numbers do not. Three programs
//! share its cores: the gateway, the model ([`mock`], a process of its own) and the load generator (this process).
//!
//! * [`turns`]: every surface under load, from [`user`] and [`load`], with lean clients from [`client`].
//! * [`starts`], [`connections`], [`stored`]: what else has a target.
//! * [`floor`]: one synced commit.
//! * [`stage`], [`process`]: the other programs, and what the kernel says of them.
//! * [`figures`]: the report.

mod client;
mod connections;
mod figures;
mod floor;
mod label;
mod load;
mod mock;
mod process;
mod stage;
mod starts;
mod stored;
mod timer;
mod turns;
mod user;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use figures::Report;
use mock::Manner;

/// Measures `watertight serve` on loopback. State directories are made below $TMPDIR.
///
/// Ends with status 1 on any error or leak; a target that is not met is no error.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Program {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand)]
enum Command {
    /// Be the model: an OpenAI-compatible endpoint that answers at once. Ends with standard input.
    Mock(Manner),
}

#[derive(clap::Args, Serialize)]
struct Options {
    /// The program to measure; default: `watertight` beside this one.
    #[arg(long)]
    #[serde(skip)]
    binary: Option<PathBuf>,
    /// Where the JSON goes.
    #[arg(long, default_value = "target/bench.json")]
    #[serde(skip)]
    json: PathBuf,
    /// Measure only this; may be given several times.
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// A few seconds in all: small sizes, for whatever is not given.
    #[arg(long)]
    quick: bool,
    /// Sessions at work at the same time.
    #[arg(long, default_value_t = 32)]
    sessions: usize,
    /// Seconds of each load; a quarter more goes before it.
    #[arg(long, default_value_t = 8.0, default_value_if("quick", "true", "0.6"))]
    seconds: f64,
    /// Turns of a conversation, after which its user begins another session. The prompt grows with it.
    #[arg(long, default_value_t = 20)]
    conversation: u32,
    /// The paced load, as a share of the rate at full speed.
    #[arg(long, default_value_t = 0.25)]
    pace: f64,
    #[command(flatten)]
    manner: Manner,
    /// Starts of each sort, of which the median counts.
    #[arg(long, default_value_t = 9, default_value_if("quick", "true", "2"))]
    starts: usize,
    /// Handshakes, each closed at once.
    #[arg(long, default_value_t = 4000, default_value_if("quick", "true", "300"))]
    handshakes: usize,
    /// Idle connections.
    #[arg(long, default_value_t = 8000, default_value_if("quick", "true", "200"))]
    idle: usize,
    /// Sessions in the full store.
    #[arg(long, default_value_t = 100_000, default_value_if("quick", "true", "1000"))]
    stored: u64,
    /// Calls of `sessions.list`.
    #[arg(long, default_value_t = 1000, default_value_if("quick", "true", "100"))]
    lists: usize,
}

#[derive(Clone, Copy, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Part {
    /// Every surface under load.
    Turns,
    /// Starts on an empty store, and memory of an idle program.
    Starts,
    /// Handshakes and idle connections.
    Connections,
    /// A full store: `sessions.list`, and starts on it.
    Stored,
}

fn main() -> Result<ExitCode> {
    let Program { command, options } = Program::parse();
    if let Some(Command::Mock(manner)) = command {
        mock::serve(manner)?;
        return Ok(ExitCode::SUCCESS);
    }
    // One thread: a generator that spreads over the cores costs more for the same load.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let report = runtime.block_on(async {
        let (mut terminated, mut interrupted) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        // Giving up ends the other programs and removes their directories.
        tokio::select! {
            report = measure(&options) => report,
            _ = terminated.recv() => bail!("terminated"),
            _ = interrupted.recv() => bail!("interrupted"),
        }
    })?;
    std::io::stdout().write_all(report.text().as_bytes())?;
    if let Some(folder) = options.json.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let json = serde_json::to_string_pretty(&report)? + "\n";
    std::fs::write(&options.json, json).with_context(|| format!("{} is written", options.json.display()))?;
    progress(&format!("JSON in {}", options.json.display()));
    Ok(if report.errors + report.leaks == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn measure(options: &Options) -> Result<Report> {
    let binary = match &options.binary {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("watertight"),
    };
    anyhow::ensure!(binary.exists(), "{} does not exist; build it with: cargo build --release", binary.display());
    // The program is started in a directory of its own.
    let binary = std::path::absolute(&binary)?;
    let mut report = Report {
        cores: process::cores(),
        open_files: process::raise_open_files(),
        settings: serde_json::to_value(options)?,
        ..Report::default()
    };
    let model = stage::Model::start(options.manner).await?;
    let sessions = Arc::new(AtomicU32::new(1));
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    if wanted(Part::Turns) {
        turns::measure(&mut report, &binary, &model, &sessions, options).await?;
    }
    if wanted(Part::Starts) {
        starts::measure(&mut report, &binary, &model, options).await?;
    }
    if wanted(Part::Connections) {
        connections::measure(&mut report, &binary, &model, options).await?;
    }
    if wanted(Part::Stored) {
        stored::measure(&mut report, &binary, &model, &sessions, options).await?;
    }
    Ok(report)
}

/// Says on standard error what goes on.
fn progress(what: &str) {
    let _ = writeln!(std::io::stderr(), "bench: {what}");
}
