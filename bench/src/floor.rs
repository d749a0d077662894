//! The floor: one synced commit of one row, nothing else.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use rusqlite::Connection;

use crate::figures::histogram;

/// Commits rows of 1 KiB for `time` in WAL mode with `synchronous=FULL`, and records each.
pub(crate) fn synced_commits(dir: &Path, time: Duration) -> Result<Histogram<u64>> {
    let dir = tempfile::tempdir_in(dir)?;
    let db = Connection::open(dir.path().join("floor.db"))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.execute_batch("CREATE TABLE row (id INTEGER PRIMARY KEY, body BLOB NOT NULL)")?;
    let body = vec![0x5a_u8; 1024];
    let mut taken = histogram();
    let start = Instant::now();
    while start.elapsed() < time {
        let at = Instant::now();
        db.execute("INSERT INTO row (body) VALUES (?1)", [&body])?;
        taken.saturating_record(at.elapsed().as_micros() as u64);
    }
    Ok(taken)
}
