//! Figures of the built program: durable, sealed turns over the WebSocket, beside the floor they stand on.
//!
//! Everything is measured in one run on one machine, so that ratios hold where absolute numbers do not: the floor is
//! one synced SQLite commit in the directory the gateway's store lies in.

mod figures;
mod floor;
mod process;
mod turns;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;

use figures::Report;

/// Measures `watertight serve` under load from loopback.
#[derive(Parser)]
struct Options {
    /// The program to measure; default: `watertight` beside this one.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Sessions at work at the same time.
    #[arg(long, default_value_t = 32)]
    sessions: usize,
    /// Turns of each session.
    #[arg(long, default_value_t = 30)]
    turns: usize,
    /// Chunks of each reply.
    #[arg(long, default_value_t = 20)]
    chunks: usize,
    /// Idle connections to measure memory with.
    #[arg(long, default_value_t = 500)]
    idle: usize,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let binary = match &options.binary {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("watertight"),
    };
    anyhow::ensure!(binary.exists(), "{} does not exist; build it with: cargo build --release", binary.display());
    // The program is started in a directory of its own.
    let binary = std::path::absolute(&binary)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    let report = runtime.block_on(turns::measure(&binary, &options))?;
    if options.json {
        print_json(&report);
    } else {
        print_table(&report);
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the report is what this program is for")]
fn print_json(report: &Report) {
    println!("{:#}", report.json());
}

#[allow(clippy::print_stdout, reason = "the report is what this program is for")]
fn print_table(report: &Report) {
    print!("{}", report.table());
}
