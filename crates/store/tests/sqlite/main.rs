//! The SQLite store passes the conformance suite, and keeps the promises of its own: damage is found, nothing readable
//! is on disk, and what is acknowledged survives.

#![allow(clippy::unwrap_used, reason = "a test ends at what it does not expect; the lint sees test functions only")]

mod authority;
mod cancellation;
mod checkpoints;
mod damage;
mod devices;
mod durability;
mod keys;
mod opening;
mod rotation;
mod scale;
mod secrecy;
mod shredding;
mod verification;

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use tempfile::TempDir;
use watertight_seal::master::MasterKey;
use watertight_store::conformance::{Fixture, Subject};
use watertight_store::{SqliteStore, conformance_suite};

/// A state directory of its own, gone with the value.
struct Sqlite {
    dir: TempDir,
}

impl Sqlite {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn store(&self) -> SqliteStore {
        SqliteStore::open(self.path(), &master()).unwrap()
    }

    /// The database itself, while no store has it open.
    fn database(&self, name: &str) -> Connection {
        Connection::open(self.path().join(name)).unwrap()
    }
}

fn master() -> MasterKey {
    MasterKey::from_slice(&[1; 32]).unwrap()
}

impl Fixture for Sqlite {
    async fn open(&self) -> Subject {
        let store = self.store();
        let hasher = store.token_hasher();
        Subject { store: Arc::new(store), hasher }
    }
}

conformance_suite!(Sqlite::new());
