//! Opening `store.db`, and every reason not to.

use std::path::{Path, PathBuf};
use std::{fs, io};

use rusqlite::{Connection, OpenFlags};

use super::keystore::{self, Step};
use super::soundness::{self, Finding};
use super::{checks, fault, migration};
use crate::StoreError;

/// Why a store was not opened. Texts say what to do; none holds stored content.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// This SQLite can lose data in WAL mode.
    #[error("SQLite {found} can damage a write-ahead log; 3.51.3 or later is needed: rebuild with the bundled SQLite")]
    OldSqlite {
        /// Its version.
        found: String,
    },
    /// The state directory or a file in it cannot be used.
    #[error("cannot use {path}: {source}")]
    Directory {
        /// Which path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// SQLite's locks and syncs do not hold there.
    #[error("{path} is on a network file system ({name}), where a write may be lost: use a directory on a local disk")]
    NetworkFileSystem {
        /// The state directory.
        path: PathBuf,
        /// What file system.
        name: &'static str,
    },
    /// Somebody else has it open.
    #[error("the store in {path} is in use by {holder}: stop that first, or name another state directory")]
    InUse {
        /// The state directory.
        path: PathBuf,
        /// Who.
        holder: String,
    },
    /// `store.db` is there without the keys to it.
    #[error(
        "{path} exists but keys.db beside it does not: restore keys.db; without it the stored sessions cannot be read"
    )]
    KeystoreMissing {
        /// The database.
        path: PathBuf,
    },
    /// `store.db` is there and empty, but its keystore guards something.
    #[error("{path} is empty, but keys.db beside it holds keys: restore store.db, or move keys.db away to start empty")]
    StoreEmpty {
        /// The database.
        path: PathBuf,
    },
    /// Nothing is there to be read.
    #[error("there is no store in {path}: name the state directory of a gateway that was started once")]
    NoStore {
        /// The state directory.
        path: PathBuf,
    },
    /// The file lacks its schema, or a step of it, which only a start can bring.
    #[error("{path} is not of the present schema: start the gateway once; it brings the file up to date")]
    Unfinished {
        /// The file.
        path: PathBuf,
    },
    /// `keys.db` is there without the store.
    #[error("{path} exists but store.db beside it does not: restore store.db, or move keys.db away to start empty")]
    StoreMissing {
        /// The keystore.
        path: PathBuf,
    },
    /// Another master key made this store.
    #[error("the master key does not open this store: use the key it was made with; nothing was written")]
    WrongMasterKey,
    /// Database and keystore come from different stores.
    #[error("store.db and keys.db do not belong together: restore both from the same moment")]
    NotTogether,
    /// The keystore was put back from a copy older than the store: keys of later sessions are not in it.
    #[error("keys.db is older than store.db, and lacks keys of stored sessions: restore both from the same moment")]
    KeystoreOlder,
    /// A later version of the program wrote it.
    #[error(
        "the store is at schema {found}, this program knows {known}: use the program that wrote it, or a later one"
    )]
    NewerSchema {
        /// The store's version.
        found: u32,
        /// The latest known version.
        known: u32,
    },
    /// The schema was applied from other files than ours.
    #[error("schema step {version} of the store is not the one this program has: it was changed after it was applied")]
    ChangedSchema {
        /// Which step.
        version: u32,
    },
    /// The check of a small store after an unclean end found damage.
    #[error("the store is damaged ({found}): restore it from a backup")]
    Damaged {
        /// What SQLite found.
        found: String,
    },
    /// SQLite did not take a setting that durability or safety needs.
    #[error("SQLite runs with {name} = {found} instead of {expected}")]
    Setting {
        /// The pragma.
        name: &'static str,
        /// What it is.
        found: String,
        /// What it must be.
        expected: String,
    },
    /// The operating system gave no random bytes.
    #[error("no random bytes from the operating system")]
    Random,
    /// Anything else SQLite said.
    #[error("the store cannot be opened: {0}")]
    Database(#[from] rusqlite::Error),
    /// The opened store refused its first reads.
    #[error("the store cannot be opened: {0}")]
    Store(#[from] StoreError),
}

/// `store.db`, open for writing.
pub(super) struct Opened {
    pub(super) conn: Connection,
    pub(super) schema_version: u32,
    /// Unknown when the check of a large file after an unclean end is still to be made.
    pub(super) finding: Finding,
}

/// Opens `store.db` for writing, checks it and brings its schema up to date.
///
/// `expected` says that it must hold something already: an empty file in its place is a restore that went wrong.
pub(super) fn open_database(path: &Path, keystore: &keystore::Opened, expected: bool) -> Result<Opened, OpenError> {
    let store_id = keystore.store_id;
    checks::private_file(path)?;
    let mut finding = Finding::Sound;
    let mut opened_before = 0;
    let mut left_unclean = false;
    let mut conn =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    checks::common_settings(&conn)?;
    let version = migration::check(&conn, migration::STORE)?;
    if version == 0 && expected {
        return Err(OpenError::StoreEmpty { path: path.to_owned() });
    }
    if version > 0 {
        let (id, clean, opens): ([u8; 16], bool, i64) =
            conn.query_row("SELECT store_id, clean, opens FROM store WHERE id = 1", [], |row| row.try_into())?;
        // How often the store was opened until now.
        opened_before = opens;
        if id != store_id {
            return Err(OpenError::NotTogether);
        }
        left_unclean = !clean;
        if !clean {
            let bytes =
                fs::metadata(path).map_err(|source| OpenError::Directory { path: path.to_owned(), source })?.len();
            if bytes < soundness::SMALL {
                tracing::info!("the store was not closed in order; checking it");
                checks::quick_check(&conn)?;
            } else {
                tracing::info!(bytes, "the store was not closed in order; checking it beside the work");
                finding = Finding::Unknown;
            }
        }
    }
    // The keystore counts first: only one that was put back from a copy can be behind.
    match keystore.keystore.keep_step(opened_before)? {
        Step::Together => {}
        Step::Behind => return Err(OpenError::KeystoreOlder),
        Step::Ahead => {
            tracing::warn!("the store is older than its keystore; keys kept ready are set aside");
        }
    }
    checks::pragma(&conn, "journal_mode", "WAL", "wal")?;
    checks::pragma(&conn, "synchronous", "FULL", "2")?;
    checks::pragma(&conn, "fullfsync", "ON", "1")?;
    checks::pragma(&conn, "checkpoint_fullfsync", "ON", "1")?;
    // The writer decides when to checkpoint, between groups.
    checks::pragma(&conn, "wal_autocheckpoint", "0", "0")?;
    if left_unclean {
        make_durable(&conn)?;
    }
    let schema_version = migration::apply(&mut conn, migration::STORE, |conn| {
        conn.execute(
            "INSERT INTO store (id, store_id, clean, opens) VALUES (1, ?1, 0, 1)
             ON CONFLICT (id) DO UPDATE SET clean = 0, opens = opens + 1",
            [store_id],
        )?;
        Ok(())
    })?;
    Ok(Opened { conn, schema_version, finding })
}

/// Writes what the log holds into the database and syncs it. After a kill, and more so after a failed sync, that may be
/// nowhere but in the system's memory although it reads as committed, and another sync of the log would not write it
/// again. A repeated request is acknowledged from it, so it must be durable before (isolation.md C9).
fn make_durable(conn: &Connection) -> Result<(), OpenError> {
    // Waits for nobody: a verification may be reading.
    let folded = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        let (pages, folded): (i64, i64) = (row.get(1)?, row.get(2)?);
        Ok(folded == pages)
    });
    match folded {
        Ok(true) => {}
        Ok(false) => {
            tracing::warn!("the write-ahead log is being read, so only a part of it was folded into the database");
        }
        Err(error) if fault::is_survivable(&error) => {
            tracing::warn!(%error, "the write-ahead log could not be folded into the database yet");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_only_in_the_log_is_written_into_the_database() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let writer = Connection::open(&path).unwrap();
        writer.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (x)").unwrap();
        writer.execute("INSERT INTO t VALUES (randomblob(100000))", []).unwrap();
        let bytes = || fs::metadata(&path).unwrap().len();
        assert!(bytes() < 100_000);
        make_durable(&Connection::open(&path).unwrap()).unwrap();
        assert!(bytes() > 100_000);
    }
}
