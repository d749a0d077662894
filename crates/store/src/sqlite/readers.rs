//! A few read-only connections. Each read runs on a blocking thread, in one read transaction: it sees one moment.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::{OpenError, checks};
use crate::StoreError;

/// Reads under way at the most; more wait.
const CONNECTIONS: usize = 4;

/// The pool.
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    places: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let readers =
            Self { path: path.to_owned(), idle: Mutex::new(Vec::new()), places: Arc::new(Semaphore::new(CONNECTIONS)) };
        let first = readers.connect()?;
        readers.put_back(first);
        Ok(readers)
    }

    /// Runs `read` on a blocking thread.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let closed = || StoreError::Unavailable("the store is closed".to_owned());
        let place = self.places.clone().acquire_owned().await.map_err(|_| closed())?;
        let readers = self.clone();
        tokio::task::spawn_blocking(move || {
            let result = readers.run_blocking(read);
            drop(place);
            result
        })
        .await
        .map_err(|_| closed())?
    }

    /// Runs `read` here; for threads that may block.
    pub(super) fn run_blocking<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let conn = match idle {
            Some(conn) => conn,
            None => self.connect().map_err(|e| StoreError::Unavailable(e.to_string()))?,
        };
        let transaction = conn.unchecked_transaction()?;
        let result = read(&conn);
        transaction.finish()?;
        self.put_back(conn);
        result
    }

    fn put_back(&self, conn: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < CONNECTIONS {
            idle.push(conn);
        }
    }

    fn connect(&self) -> Result<Connection, OpenError> {
        let conn = Connection::open_with_flags(
            &self.path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        checks::common_settings(&conn)?;
        checks::pragma(&conn, "query_only", "ON", "1")?;
        // 16 MiB: the index behind lists of 100,000 sessions stays in memory.
        checks::pragma(&conn, "cache_size", "-16384", "-16384")?;
        conn.set_prepared_statement_cache_capacity(64);
        Ok(conn)
    }
}
