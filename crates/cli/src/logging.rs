//! Logs: to stderr, so that stdout holds nothing but data.

use std::io::IsTerminal as _;

use anyhow::{Context as _, Result};
use tracing_subscriber::EnvFilter;

/// Starts logging. `level` is what the user asked for, a level or a filter such as `info,watertight_store=debug`.
pub(crate) fn start(level: Option<&str>, default: &str) -> Result<()> {
    let level = level.map(str::trim).filter(|level| !level.is_empty()).unwrap_or(default);
    let filter = EnvFilter::try_new(level).with_context(|| format!("--log does not understand \"{level}\""))?;
    let terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal).init();
    Ok(())
}
