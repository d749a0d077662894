//! A few read-only connections. Each read runs in one read transaction, so that it sees one moment; look-ups of a few
//! rows on the thread that asks, everything longer on a blocking thread.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::{OpenError, checks};
use crate::StoreError;

/// Short reads under way at the most; more wait.
const CONNECTIONS: usize = 4;
/// Scans under way at the most, beside the short reads: nothing that a turn waits for waits behind a scan.
const SCANS: usize = 1;

/// The pool.
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    places: Arc<Semaphore>,
    scans: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let readers = Self {
            path: path.to_owned(),
            idle: Mutex::new(Vec::new()),
            places: Arc::new(Semaphore::new(CONNECTIONS)),
            scans: Arc::new(Semaphore::new(SCANS)),
        };
        let first = readers.connect()?;
        readers.put_back(first);
        Ok(readers)
    }

    /// Runs a short `read` on a blocking thread.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run_in(&self.places, read).await
    }

    /// Runs a `read` of a few rows found through an index, here if a connection is free: to hand it to another thread and
    /// back takes several times as long as the read itself.
    pub(super) async fn look_up<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let Ok(_place) = self.places.try_acquire() else { return self.run(read).await };
        self.run_blocking(read)
    }

    /// Runs a `read` whose length grows with the number of sessions.
    pub(super) async fn run_scan<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run_in(&self.scans, read).await
    }

    async fn run_in<T: Send + 'static>(
        self: &Arc<Self>,
        places: &Arc<Semaphore>,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let closed = || StoreError::Unavailable("the store is closed".to_owned());
        let place = places.clone().acquire_owned().await.map_err(|_| closed())?;
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

    /// A connection of its own that sees the present moment for as long as it is kept.
    pub(super) fn snapshot(&self) -> Result<Connection, StoreError> {
        let conn = self.connect().map_err(|e| StoreError::Unavailable(e.to_string()))?;
        conn.execute_batch("BEGIN")?;
        // The moment is that of the first read.
        conn.query_row("SELECT count(*) FROM store", [], |_| Ok(()))?;
        Ok(conn)
    }

    fn put_back(&self, conn: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < CONNECTIONS + SCANS {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn readers(dir: &Path) -> Arc<Readers> {
        let path = dir.join("t.db");
        Connection::open(&path).unwrap().execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x)").unwrap();
        Arc::new(Readers::open(&path).unwrap())
    }

    #[tokio::test]
    async fn a_look_up_runs_here_while_a_connection_is_free_and_waits_elsewhere_when_none_is() {
        let dir = tempfile::tempdir().unwrap();
        let readers = readers(dir.path());
        let here = std::thread::current().id();
        let place = |readers: Arc<Readers>| async move { readers.look_up(|_| Ok(std::thread::current().id())).await };
        assert_eq!(place(readers.clone()).await.unwrap(), here);
        let all = readers.places.clone().acquire_many_owned(CONNECTIONS as u32).await.unwrap();
        let waiting = tokio::spawn(place(readers));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(all);
        assert_ne!(waiting.await.unwrap().unwrap(), here);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_short_read_does_not_wait_for_scans() {
        let dir = tempfile::tempdir().unwrap();
        let readers = readers(dir.path());
        let (go, wait) = mpsc::channel::<()>();
        let (started, running) = tokio::sync::oneshot::channel::<()>();
        let first = tokio::spawn({
            let readers = readers.clone();
            async move {
                let held = move |_: &Connection| {
                    let _ = started.send(());
                    let _ = wait.recv();
                    Ok(())
                };
                readers.run_scan(held).await
            }
        });
        running.await.unwrap();
        let others: Vec<_> = (0..CONNECTIONS * 2)
            .map(|_| {
                let readers = readers.clone();
                tokio::spawn(async move { readers.run_scan(|_| Ok(())).await })
            })
            .collect();
        for _ in 0..CONNECTIONS * 2 {
            readers.run(|_| Ok(())).await.unwrap();
        }
        assert!(!first.is_finished() && others.iter().all(|scan| !scan.is_finished()), "scans wait for each other");
        go.send(()).unwrap();
        first.await.unwrap().unwrap();
        for scan in others {
            scan.await.unwrap().unwrap();
        }
    }
}
