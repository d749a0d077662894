//! Syncs that fail and disks that fill up, under writers (isolation.md C9 and "Promises by failure").

use std::sync::Arc;

use tempfile::TempDir;
use watertight_core::ErrorCode;
use watertight_core::ids::RunId;
use watertight_engine::EngineError;
use watertight_engine::hub::{EventSink, Interest, Listener};
use watertight_engine::request::{Accepted, Target};
use watertight_testkit::disk::{Disk, Fault};

use crate::ledger::{Notebook, Said};
use crate::replay::{self, Plan};
use crate::subject::{PATIENCE, Say, Subject, everything};

/// Sessions at work at the same time.
const SESSIONS: usize = 4;
/// Turns of each before the fault.
const TURNS: usize = 3;

struct Stage {
    dir: TempDir,
    disk: Arc<Disk>,
    notebook: Arc<Notebook>,
    subject: Subject,
    listener: Listener,
    /// How many events came before the fault.
    set: usize,
}

impl Stage {
    /// A gateway at work: every session has taken and answered a few turns.
    async fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::recorded(dir.path());
        let notebook = Arc::new(Notebook::new(disk.clone()));
        let subject = Subject::open(dir.path()).await.unwrap();
        let sink: Arc<dyn EventSink> = notebook.clone();
        let listener = subject.engine.listen(&subject.access, Interest::Everything, sink);
        let mut stage = Self { dir, disk, notebook, subject, listener, set: 0 };
        for turn in 0..TURNS {
            for session in 0..SESSIONS {
                let run = format!("before-{session}-{turn}");
                stage.say(&key(session), &run, None).await.unwrap();
                stage.ended(&run).await;
            }
        }
        stage.set = stage.disk.now();
        stage
    }

    /// Ends the process and starts the next one.
    async fn restarted(mut self) -> Self {
        self.subject.clone().close().await;
        let Subject { engine, access } = self.subject;
        drop((self.listener, engine, access));
        self.subject = Subject::open(self.dir.path()).await.unwrap();
        let sink: Arc<dyn EventSink> = self.notebook.clone();
        self.listener = self.subject.engine.listen(&self.subject.access, Interest::Everything, sink);
        self
    }

    async fn say(&self, key: &str, run: &str, generation: Option<&str>) -> Result<Accepted, EngineError> {
        let said = Said { text: format!("turn {run}"), generation: generation.map(str::to_owned), hangs: false };
        let request = Say { generation, ..Say::plain(key, run, &said.text) }.request();
        let notebook = self.notebook.clone();
        let noted = move |accepted: &_| notebook.acknowledge(&said, accepted);
        self.subject.engine.submit(&self.subject.access, request, noted).await
    }

    async fn ended(&self, run: &str) {
        let run = RunId::parse(run).unwrap();
        let ended = self.subject.engine.wait(&self.subject.access, &run, Some(PATIENCE)).await;
        ended.expect("a run can be waited for").expect("it ends");
    }

    /// Turns in all sessions at once until the fault is met; answers what was refused.
    async fn until_met(&self) -> Vec<Refused> {
        let mut refused = Vec::new();
        for turn in 0.. {
            let keys: Vec<String> = (0..SESSIONS).map(key).collect();
            let runs: Vec<String> = (0..SESSIONS).map(|session| format!("around-{session}-{turn}")).collect();
            let all = keys.iter().zip(&runs).map(|(key, run)| self.say(key, run, None));
            let results = futures_util::future::join_all(all).await;
            for ((result, key), run) in results.into_iter().zip(&keys).zip(&runs) {
                if let Err(error) = result {
                    refused.push(Refused { key: key.clone(), run: run.clone(), code: error.code() });
                }
            }
            if self.disk.fault_met().is_some() && !refused.is_empty() {
                break;
            }
        }
        refused
    }

    /// Ends it and holds what is there now, and what every cut may leave, against what was acknowledged.
    async fn end(self) {
        let Self { dir, disk, notebook, subject, listener, set } = self;
        subject.close().await;
        drop(listener);
        let (recording, ledger) = (disk.finish(), notebook.close());
        let result = tokio::task::spawn_blocking(move || {
            let everything = recording.events.len();
            let seed = crate::first_seed();
            let plan = Plan { seed, seeds: 1, keeps: &replay::EVERY_KEEP, from: set, stop_at: usize::MAX };
            let result = replay::all_cuts(&recording, &ledger, &plan);
            println!("{result}");
            assert!(result.is_clean(), "\n{}", result.losses());
            // The page cache of the machine itself lost nothing.
            let now = replay::inspect_in_place(dir.path(), &ledger, everything);
            assert!(now.is_none(), "{}", now.unwrap());
        });
        result.await.unwrap();
    }
}

struct Refused {
    key: String,
    run: String,
    code: ErrorCode,
}

fn key(session: usize) -> String {
    format!("agent:main:s{session}")
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_sync_of_the_log_nothing_is_acknowledged() {
    let stage = Stage::set().await;
    stage.disk.inject(Some(Fault::SyncOf("store.db-wal")));
    let refused = stage.until_met().await;
    for Refused { run, code, .. } in &refused {
        assert_eq!(*code, ErrorCode::StorageUnavailable, "{run}");
    }
    let acknowledged = stage.notebook.acknowledged();
    for session in 0..SESSIONS + 2 {
        let result = stage.say(&key(session), &format!("after-{session}"), None).await;
        assert_eq!(result.unwrap_err().code(), ErrorCode::StorageUnavailable);
    }
    assert_eq!(stage.notebook.acknowledged(), acknowledged, "nothing is acknowledged after the failure");
    // What the sync was to make durable is in the system's memory still, and no later sync will write it: the next
    // process must not take it for durable when a client asks again.
    let stage = stage.restarted().await;
    for Refused { key, run, .. } in &refused {
        stage.say(key, run, None).await.unwrap();
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_sync_of_the_keystore_nothing_is_sealed_with_a_key_that_may_be_lost() {
    for file in ["keys.db-journal", "keys.db"] {
        let stage = Stage::set().await;
        stage.disk.inject(Some(Fault::SyncOf(file)));
        // A new transcript has a key of its own.
        let result = stage.say(&key(0), "needs-a-key", Some("another")).await;
        assert_eq!(result.unwrap_err().code(), ErrorCode::StorageUnavailable, "{file}");
        assert!(stage.disk.fault_met().is_some());
        for session in 0..SESSIONS {
            let result = stage.say(&key(session), &format!("after-{session}"), Some("another")).await;
            assert_eq!(result.unwrap_err().code(), ErrorCode::StorageUnavailable, "{file}");
        }
        stage.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_turns_and_takes_them_again_when_there_is_room() {
    let stage = Stage::set().await;
    stage.disk.inject(Some(Fault::Full));
    let refused = stage.until_met().await;
    for Refused { run, code, .. } in &refused {
        assert_eq!(*code, ErrorCode::StorageFull, "{run}");
    }
    let Subject { engine, access } = &stage.subject;
    let history = engine.history(access, &Target::of_key(key(0)), everything()).await.unwrap();
    assert!(history.entries.len() >= 2 * TURNS, "reads go on");
    stage.disk.inject(None);
    for session in 0..SESSIONS {
        let run = format!("after-{session}");
        stage.say(&key(session), &run, None).await.unwrap();
        stage.ended(&run).await;
    }
    stage.end().await;
}
