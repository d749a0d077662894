//! Whether the database file is known to be sound, and the check that finds out after an unclean end.
//!
//! Such an end leaves the file as the log's recovery makes it; a whole-file check looks for what an unreliable disk may
//! have done besides. It takes time in proportion to the file, so only a small file is checked before the store opens.
//! A large one is checked beside the work, since a start after a kill must not take longer the more is stored. Until the
//! check is over every record is still verified when it is read, which is what keeps a damaged one from being believed.
//! When the check finds damage nothing more is written: a write could bury what a backup can still mend.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::watch;

use super::{OpenError, checks};
use crate::StoreError;

/// Files below this many bytes are checked before the store opens: a fraction of a second.
pub(super) const SMALL: u64 = 64 * 1024 * 1024;
/// Steps of the check between two looks at whether it is still wanted.
const STEPS: i32 = 1000;

/// What is known of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Nothing speaks against it.
    Sound,
    /// The check is under way, or was given up: the next start makes it.
    Unknown,
    /// This is wrong with it.
    Damaged(String),
}

/// Shared by the check, the writer and whoever waits for the check.
#[derive(Clone)]
pub(super) struct Soundness(Arc<watch::Sender<Finding>>);

impl Soundness {
    pub(super) fn new(finding: Finding) -> Self {
        Self(Arc::new(watch::Sender::new(finding)))
    }

    /// Refused once damage was found.
    pub(super) fn demand(&self) -> Result<(), StoreError> {
        match &*self.0.borrow() {
            Finding::Damaged(found) => Err(damaged(found)),
            Finding::Sound | Finding::Unknown => Ok(()),
        }
    }

    /// Whether the end may be marked as clean.
    pub(super) fn is_sound(&self) -> bool {
        *self.0.borrow() == Finding::Sound
    }

    /// Waits for the end of the check.
    pub(super) async fn known(&self) -> Result<(), StoreError> {
        let mut changes = self.0.subscribe();
        // The sender lives as long as `self`.
        let _ = changes.wait_for(|finding| *finding != Finding::Unknown).await;
        self.demand()
    }
}

fn damaged(found: &str) -> StoreError {
    StoreError::Unavailable(format!("the store is damaged ({found}): restore it from a backup"))
}

/// A check under way on a thread and a connection of its own.
pub(super) struct Check {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Check {
    /// Starts the check of a file that is open elsewhere. While it reads, the log cannot be folded back entirely.
    pub(super) fn start(path: &Path, soundness: Soundness) -> Result<Self, OpenError> {
        // On a connection that is opened for reading alone SQLite leaves CHECK constraints out.
        let mut conn =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        checks::common_settings(&conn)?;
        checks::pragma(&conn, "query_only", "ON", "1")?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        conn.progress_handler(STEPS, Some(move || asked.load(Ordering::Relaxed)))?;
        let thread = std::thread::Builder::new()
            .name("store-check".to_owned())
            .spawn(move || {
                let Some(finding) = inspect(&conn) else { return };
                match &finding {
                    Finding::Damaged(found) => {
                        tracing::error!(
                            found,
                            "the store is damaged; nothing more is written: restore it from a backup"
                        );
                    }
                    _ => tracing::info!("the check of the store found nothing"),
                }
                soundness.0.send_replace(finding);
            })
            .map_err(|source| OpenError::Directory { path: path.to_owned(), source })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Gives the check up and waits for its thread.
    pub(super) fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the check of the store ended in a panic");
        }
    }
}

/// None when the check was given up.
fn inspect(conn: &Connection) -> Option<Finding> {
    match checks::quick_check(conn) {
        Ok(()) => Some(Finding::Sound),
        Err(OpenError::Database(error)) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => None,
        Err(OpenError::Damaged { found }) => Some(Finding::Damaged(found)),
        // What cannot be read to its end is not sound either.
        Err(error) => Some(Finding::Damaged(error.to_string())),
    }
}
