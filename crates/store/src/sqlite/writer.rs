//! The one writer: a thread that owns the writing connection and commits in groups (isolation.md C8).
//!
//! There is no timer. An idle writer commits at once; what arrives during a commit forms the next group. Each
//! operation runs in its own savepoint, so that one refused write does not undo its neighbours, and is answered only
//! after the group's COMMIT has returned.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::fault::{self, Fault};
use super::soundness::Soundness;
use crate::StoreError;

/// Operations of one group at the most.
const GROUP: usize = 256;
/// Operations that wait at the most; whoever brings one more waits with it.
const QUEUE: usize = 1024;
/// Pages in the log that call for a checkpoint.
const CHECKPOINT_PAGES: usize = 1000;

/// Hands operations to the writer thread.
pub(super) struct Writer {
    queue: Option<mpsc::Sender<Box<dyn Work>>>,
    thread: Option<JoinHandle<()>>,
    counts: Arc<Counts>,
    stopped: watch::Receiver<Option<StoreError>>,
}

#[derive(Default)]
struct Counts {
    commits: AtomicU64,
    operations: AtomicU64,
}

impl Writer {
    /// Starts the thread on a connection that is set up for writing.
    pub(super) fn start(mut conn: Connection, soundness: Soundness) -> Result<Self, StoreError> {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let counts = Arc::new(Counts::default());
        let log_pages = Arc::new(AtomicUsize::new(0));
        let pages = log_pages.clone();
        conn.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, count| {
            pages.store(usize::try_from(count).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        conn.set_prepared_statement_cache_capacity(64);
        let file = File::of(&conn);
        let (stop, stopped) = watch::channel(None);
        let thread = Thread { conn, file, waiting, counts: counts.clone(), log_pages, soundness, stopped: stop };
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || thread.run())
            .map_err(|e| StoreError::Unavailable(e.to_string()))?;
        Ok(Self { queue: Some(queue), thread: Some(thread), counts, stopped })
    }

    /// Resolves when nothing is written any more because something failed, with the reason.
    pub(super) async fn failed(&self) -> StoreError {
        let mut stopped = self.stopped.clone();
        let failed = stopped.wait_for(Option::is_some).await.ok().and_then(|stopped| stopped.clone());
        match failed {
            Some(failed) => failed,
            // The thread ended in order.
            None => std::future::pending().await,
        }
    }

    /// Runs `operation` in the next group and answers when it is durable, or was refused. Dropping the future once the
    /// operation is queued changes nothing: it is carried out as a whole.
    pub(super) async fn submit<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.submit_then(operation, |_| {}).await
    }

    /// [`Self::submit`], and tells `then` what is durable before the answer, also when nobody waits for it any more.
    pub(super) async fn submit_then<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
        then: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let work = Operation { run: Some(operation), result: None, then, reply };
        let queue = self.queue.as_ref().ok_or_else(closed)?;
        queue.send(Box::new(work)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Synced transactions so far.
    pub(super) fn commits(&self) -> u64 {
        self.counts.commits.load(Ordering::Relaxed)
    }

    /// Operations carried out so far.
    pub(super) fn operations(&self) -> u64 {
        self.counts.operations.load(Ordering::Relaxed)
    }

    /// Finishes what is queued, folds the log into the database, marks the end as clean and waits for the thread.
    pub(super) fn stop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's writer ended in a panic");
        }
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}

/// One queued operation, whatever it answers.
trait Work: Send {
    /// Runs it inside its savepoint; keeps the answer.
    fn run(&mut self, conn: &Connection) -> Result<(), Failed>;
    /// Answers: what it kept, or why nothing of its group was written.
    fn finish(self: Box<Self>, lost: Option<StoreError>);
}

/// An operation that wrote nothing that may stay.
struct Failed {
    error: StoreError,
    /// Whether the file itself failed, so that nothing after it can be trusted either.
    io: bool,
}

/// A group of which nothing was written.
struct Lost {
    error: StoreError,
    /// Whether the store goes on.
    survivable: bool,
}

impl From<rusqlite::Error> for Lost {
    fn from(error: rusqlite::Error) -> Self {
        Self { survivable: fault::is_survivable(&error), error: error.into() }
    }
}

struct Operation<F, T, D> {
    run: Option<F>,
    result: Option<Result<T, StoreError>>,
    then: D,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T, D> Work for Operation<F, T, D>
where
    F: FnOnce(&Connection) -> Result<T, Fault> + Send,
    T: Send,
    D: FnOnce(&T) + Send,
{
    fn run(&mut self, conn: &Connection) -> Result<(), Failed> {
        let result = self.run.take().map_or_else(|| Err(closed().into()), |run| run(conn));
        let io = matches!(&result, Err(Fault::Sqlite(error)) if fault::is_io(error));
        let result = result.map_err(StoreError::from);
        let failed = result.as_ref().err().map(|error| Failed { error: error.clone(), io });
        self.result = Some(result);
        failed.map_or(Ok(()), Err)
    }

    fn finish(self: Box<Self>, lost: Option<StoreError>) {
        let answer = match (lost, self.result) {
            // A refusal stands whatever became of the group.
            (_, Some(Err(refused))) => Err(refused),
            (Some(lost), _) => Err(lost),
            (None, Some(Ok(answer))) => {
                (self.then)(&answer);
                Ok(answer)
            }
            (None, None) => Err(closed()),
        };
        // Nobody waits when the caller's future was dropped.
        let _ = self.reply.send(answer);
    }
}

/// The database file the connection was opened on. What is written to a file that has no name any more is acknowledged
/// and lost, so the name is looked at before every group.
struct File(Option<(std::path::PathBuf, (u64, u64))>);

impl File {
    fn of(conn: &Connection) -> Self {
        let path = conn.path().filter(|path| !path.is_empty()).map(std::path::PathBuf::from);
        Self(path.and_then(|path| Self::identity(&path).map(|identity| (path, identity))))
    }

    fn is_in_place(&self) -> bool {
        self.0.as_ref().is_none_or(|(path, identity)| Self::identity(path) == Some(*identity))
    }

    fn identity(path: &std::path::Path) -> Option<(u64, u64)> {
        std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
    }
}

struct Thread {
    conn: Connection,
    file: File,
    waiting: mpsc::Receiver<Box<dyn Work>>,
    counts: Arc<Counts>,
    log_pages: Arc<AtomicUsize>,
    soundness: Soundness,
    /// Why nothing is written any more.
    stopped: watch::Sender<Option<StoreError>>,
}

impl Thread {
    fn run(mut self) {
        while let Some(first) = self.waiting.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(next) = self.waiting.try_recv()
            {
                group.push(next);
            }
            let lost = self.commit(&mut group).err();
            for work in group {
                work.finish(lost.clone());
            }
            if !self.is_stopped() && self.log_pages.load(Ordering::Relaxed) >= CHECKPOINT_PAGES {
                self.checkpoint();
            }
        }
        if !self.is_stopped()
            && let Err(error) = self.close()
        {
            tracing::warn!(%error, "the store could not be closed in order; the next start will check it");
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.borrow().is_some()
    }

    /// Writes nothing from now on, for this reason.
    fn stop(&self, why: StoreError) -> StoreError {
        self.stopped.send_replace(Some(why.clone()));
        why
    }

    /// Runs the group in one transaction. An error means that nothing of it was written.
    fn commit(&mut self, group: &mut [Box<dyn Work>]) -> Result<(), StoreError> {
        if let Some(stopped) = &*self.stopped.borrow() {
            return Err(stopped.clone());
        }
        if let Err(damaged) = self.soundness.demand() {
            return Err(self.stop(damaged));
        }
        if !self.file.is_in_place() {
            let gone = StoreError::Unavailable("its file was removed or replaced while in use".to_owned());
            tracing::error!(
                "the store's file is gone from its place; nothing more is written until it is started again"
            );
            return Err(self.stop(gone));
        }
        let result = self.transact(group);
        self.counts.operations.fetch_add(group.len() as u64, Ordering::Relaxed);
        let Err(lost) = result else {
            self.counts.commits.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        };
        if !self.conn.is_autocommit() {
            // Fails only when the transaction is gone already.
            let _ = self.conn.execute_batch("ROLLBACK");
        }
        if lost.survivable {
            return Err(lost.error);
        }
        tracing::error!(error = %lost.error, "a write could not be made durable; the store takes no more until a restart");
        Err(self.stop(StoreError::Unavailable(format!("stopped after a failed write: {}", lost.error))))
    }

    fn transact(&mut self, group: &mut [Box<dyn Work>]) -> Result<(), Lost> {
        let conn = &self.conn;
        let execute = |sql: &str| conn.prepare_cached(sql)?.execute([]).map(drop);
        execute("BEGIN IMMEDIATE")?;
        for work in group {
            execute("SAVEPOINT operation")?;
            if let Err(failed) = work.run(conn) {
                // On a full disk, among others, SQLite rolls the whole transaction back by itself.
                if failed.io || conn.is_autocommit() {
                    let survivable = !failed.io && failed.error == StoreError::Full;
                    return Err(Lost { error: failed.error, survivable });
                }
                execute("ROLLBACK TO operation")?;
            }
            execute("RELEASE operation")?;
        }
        Ok(execute("COMMIT")?)
    }

    /// Moves the log into the database. Readers keep it from finishing for a moment at the most; it is tried again.
    fn checkpoint(&mut self) {
        let result = self.conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        if let Err(error) = result {
            if fault::is_survivable(&error) {
                tracing::warn!(%error, "the write-ahead log could not be folded into the database yet");
            } else {
                tracing::error!(%error, "a checkpoint failed; the store stops until it is started again");
                self.stop(StoreError::Unavailable(format!("stopped after a failed checkpoint: {error}")));
            }
        }
    }

    fn close(&mut self) -> rusqlite::Result<()> {
        self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        // Else the check that was due is due at the next start.
        if self.soundness.is_sound() {
            self.conn.execute("UPDATE store SET clean = 1 WHERE id = 1", [])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::soundness::Finding;

    fn writer(dir: &tempfile::TempDir) -> Writer {
        writer_of(dir, Finding::Sound)
    }

    fn writer_of(dir: &tempfile::TempDir, finding: Finding) -> Writer {
        let conn = Connection::open(dir.path().join("t.db")).unwrap();
        conn.execute_batch(
            "PRAGMA journal_mode = WAL; CREATE TABLE t (x UNIQUE); CREATE TABLE store (id, clean);
             INSERT INTO store VALUES (1, 0)",
        )
        .unwrap();
        Writer::start(conn, Soundness::new(finding)).unwrap()
    }

    fn insert(x: i64) -> impl FnOnce(&Connection) -> Result<(), Fault> + Send + 'static {
        move |conn| Ok(conn.execute("INSERT INTO t VALUES (?1)", [x]).map(drop)?)
    }

    fn rows(dir: &tempfile::TempDir) -> i64 {
        let conn = Connection::open(dir.path().join("t.db")).unwrap();
        conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
    }

    #[tokio::test]
    async fn writes_that_wait_together_are_committed_together() {
        let dir = tempfile::tempdir().unwrap();
        let writer = Arc::new(writer(&dir));
        // The first operation holds the writer until the others are queued.
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (started, running) = oneshot::channel::<()>();
        let held = tokio::spawn({
            let writer = writer.clone();
            async move {
                writer
                    .submit(move |_| {
                        let _ = started.send(());
                        let _ = wait.recv();
                        Ok(())
                    })
                    .await
            }
        });
        running.await.unwrap();
        let others: Vec<_> = (0..64).map(|x| writer.submit(insert(x))).collect();
        let all = futures_join(others);
        tokio::pin!(all);
        // One poll queues them all.
        assert!(futures_poll_once(all.as_mut()).await.is_none());
        go.send(()).unwrap();
        assert!(all.await.into_iter().all(|result| result.is_ok()));
        held.await.unwrap().unwrap();
        assert_eq!(writer.commits(), 2, "one for the first, one for the sixty-four");
        assert_eq!(rows(&dir), 64);
    }

    #[tokio::test]
    async fn a_refused_write_does_not_undo_its_neighbours() {
        let dir = tempfile::tempdir().unwrap();
        let writer = writer(&dir);
        let refused = writer.submit(|conn| {
            conn.execute("INSERT INTO t VALUES (100)", [])?;
            Err::<(), _>(StoreError::StaleLease.into())
        });
        let results = futures_join(vec![
            Box::pin(writer.submit(insert(1))) as std::pin::Pin<Box<dyn Future<Output = _>>>,
            Box::pin(refused),
            Box::pin(writer.submit(insert(2))),
        ])
        .await;
        assert_eq!(results, [Ok(()), Err(StoreError::StaleLease), Ok(())]);
        assert_eq!(rows(&dir), 2);
    }

    #[tokio::test]
    async fn a_dropped_future_leaves_the_whole_write_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(&dir);
        {
            let queued = writer.submit(|conn| {
                conn.execute("INSERT INTO t VALUES (1)", [])?;
                conn.execute("INSERT INTO t VALUES (2)", [])?;
                Ok(())
            });
            tokio::pin!(queued);
            let _ = futures_poll_once(queued.as_mut()).await;
        }
        drop(writer.submit(insert(3)));
        writer.stop();
        assert_eq!(rows(&dir), 2, "queued is written whole, never polled is not written");
    }

    #[tokio::test]
    async fn a_store_whose_file_is_gone_acknowledges_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let writer = writer(&dir);
        writer.submit(insert(1)).await.unwrap();
        std::fs::rename(dir.path().join("t.db"), dir.path().join("elsewhere.db")).unwrap();
        assert!(matches!(writer.submit(insert(2)).await, Err(StoreError::Unavailable(_))));
        std::fs::write(dir.path().join("t.db"), b"").unwrap();
        assert!(matches!(writer.submit(insert(3)).await, Err(StoreError::Unavailable(_))), "it does not start anew");
    }

    #[tokio::test]
    async fn after_a_failed_commit_nothing_is_acknowledged_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(&dir);
        writer.submit(insert(1)).await.unwrap();
        // A deferred constraint lets the operation pass and COMMIT fail.
        let broken = writer.submit(|conn| {
            conn.execute_batch(
                "CREATE TABLE p (id PRIMARY KEY);
                 CREATE TABLE c (p REFERENCES p (id) DEFERRABLE INITIALLY DEFERRED);
                 INSERT INTO c VALUES (1);",
            )?;
            Ok(())
        });
        assert!(matches!(broken.await, Err(StoreError::Unavailable(_))));
        for x in 2..5 {
            assert!(matches!(writer.submit(insert(x)).await, Err(StoreError::Unavailable(_))));
        }
        assert!(matches!(writer.failed().await, StoreError::Unavailable(_)), "whoever waits for it hears of it");
        writer.stop();
        assert_eq!(rows(&dir), 1);
    }

    #[tokio::test]
    async fn a_full_disk_refuses_writes_until_there_is_room_again() {
        let dir = tempfile::tempdir().unwrap();
        let writer = writer(&dir);
        writer.submit(insert(1)).await.unwrap();
        let limit = |pages: u32| {
            writer
                .submit(move |conn| Ok(conn.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?))
        };
        limit(8).await.unwrap();
        let large =
            || writer.submit(|conn| Ok(conn.execute("INSERT INTO t VALUES (zeroblob(100000))", []).map(drop)?));
        assert_eq!(large().await, Err(StoreError::Full));
        // Together with a write that would fit: it is refused too or stored, never lost after an answer.
        let results = futures_join(vec![
            Box::pin(writer.submit(insert(2))) as std::pin::Pin<Box<dyn Future<Output = _>>>,
            Box::pin(large()),
        ])
        .await;
        assert_eq!(results[1], Err(StoreError::Full));
        assert_eq!(rows(&dir), 1 + i64::from(results[0].is_ok()));
        limit(1_000_000).await.unwrap();
        large().await.unwrap();
        writer.submit(insert(3)).await.unwrap();
        assert_eq!(rows(&dir), 3 + i64::from(results[0].is_ok()));
    }

    #[tokio::test]
    async fn only_the_end_of_a_store_known_to_be_sound_is_clean() {
        for (finding, clean) in [(Finding::Sound, 1), (Finding::Unknown, 0), (Finding::Damaged("a page".to_owned()), 0)]
        {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = writer_of(&dir, finding.clone());
            let written = writer.submit(insert(1)).await;
            assert_eq!(written.is_err(), matches!(finding, Finding::Damaged(_)));
            writer.stop();
            let conn = Connection::open(dir.path().join("t.db")).unwrap();
            let found: i64 = conn.query_row("SELECT clean FROM store", [], |row| row.get(0)).unwrap();
            assert_eq!(found, clean, "{finding:?}");
        }
    }

    #[tokio::test]
    async fn the_log_is_folded_into_the_database_before_it_grows_without_bound() {
        let dir = tempfile::tempdir().unwrap();
        let writer = writer(&dir);
        for _ in 0..40 {
            writer
                .submit(|conn| Ok(conn.execute("INSERT INTO t VALUES (randomblob(200000))", []).map(drop)?))
                .await
                .unwrap();
        }
        let size = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().len();
        // 8 MB were written; without checkpoints all of it would still be in the log.
        assert!(size("t.db-wal") < 6_000_000 && size("t.db") > 2_000_000);
    }

    /// Polls once; none when the future is not ready.
    async fn futures_poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            std::task::Poll::Ready(value) => std::task::Poll::Ready(Some(value)),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        })
        .await
    }

    /// All results in order; every future is polled from the start.
    async fn futures_join<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
        let mut futures: Vec<_> = futures.into_iter().map(|f| (Box::pin(f), None)).collect();
        std::future::poll_fn(move |cx| {
            for (future, result) in &mut futures {
                if result.is_none()
                    && let std::task::Poll::Ready(value) = future.as_mut().poll(cx)
                {
                    *result = Some(value);
                }
            }
            if futures.iter().all(|(_, result)| result.is_some()) {
                std::task::Poll::Ready(futures.drain(..).filter_map(|(_, result)| result).collect())
            } else {
                std::task::Poll::Pending
            }
        })
        .await
    }
}
