//! Logs: to stderr, so that stdout holds nothing but data.

use std::io::IsTerminal as _;

use anyhow::{Context as _, Result};
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts logging. `level` is what the user asked for, a level or a filter such as `info,watertight_store=debug`.
pub(crate) fn start(level: Option<&str>, default: &str) -> Result<()> {
    let level = level.map(str::trim).filter(|level| !level.is_empty()).unwrap_or(default);
    let filter = EnvFilter::try_new(level).with_context(|| format!("--log does not understand \"{level}\""))?;
    let terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(terminal);
    tracing_subscriber::registry().with(filter).with(filter_fn(may_be_logged)).with(lines).init();
    Ok(())
}

/// Libraries log what passes through them when asked for details: whole frames, tokens and messages included. Only our
/// own code, which never does, is heard below `info`.
fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("watertight") || *metadata.level() <= Level::INFO
}
