//! What is acknowledged is on disk, as a whole (isolation.md C3, C8).

use std::collections::HashSet;
use std::fs;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use watertight_core::ids::GenerationNo;
use watertight_store::conformance::Fixture;
use watertight_store::conformance::world::{World, accepted, run, said};
use watertight_store::model::{Batch, EntryRange};

use crate::Sqlite;

const ALL: EntryRange = EntryRange::Tail { limit: 1000, skip: 0 };

/// The files as a process that is killed now leaves them.
pub(crate) fn killed_now(fixture: &Sqlite) -> Sqlite {
    let copy = Sqlite::new();
    for entry in fs::read_dir(fixture.path()).unwrap() {
        let entry = entry.unwrap();
        // The shared-memory index and the lock are the dead process's own.
        if !["store.db-shm", "store.lock"].contains(&entry.file_name().to_str().unwrap()) {
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_write_survives_a_kill() {
    let fixture = Sqlite::new();
    let world = World::new(&fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    let mut told = Vec::new();
    for n in 0..20 {
        let text = format!("message {n}");
        world.say(&mut desk, &text).await;
        told.push(text);
        if n % 7 == 0 {
            world.switch(&mut desk, &format!("g{n}")).await;
            told.clear();
        }
        let copy = killed_now(&fixture);
        let subject = copy.open().await;
        let entries = subject.store.entries(&desk.scope, desk.scope.generation_no(), ALL).await.unwrap();
        assert_eq!(entries.iter().map(|entry| entry.body.message.text()).collect::<Vec<_>>(), told, "after {n}");
        let open = subject.store.open_session(&desk.scope).await.unwrap();
        assert_eq!(open.head, desk.head);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_commit_is_whole_or_absent() {
    let fixture = Sqlite::new();
    let world = World::new(&fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    world.say(&mut desk, "start").await;
    for n in 0..40 {
        let id = format!("r{n}");
        let input = said(&id);
        let batch = Batch { at: desk.now, runs: vec![accepted(&id, &input)], entries: vec![input], ..Batch::default() };
        {
            let mut commit = pin!(world.store.commit(&desk.scope, desk.lease, &desk.head, batch));
            for _ in 0..n % 3 {
                if commit.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                    break;
                }
            }
        }
        desk = world.desk("agent:main:main").await;
    }
    let range = EntryRange::Tail { limit: 100, skip: 0 };
    let entries = world.store.entries(&desk.scope, GenerationNo(1), range).await.unwrap();
    let stored: HashSet<String> = entries.iter().map(|entry| entry.body.message.text()).collect();
    assert_eq!(entries.len(), stored.len(), "none is doubled");
    for n in 0..40 {
        let id = format!("r{n}");
        let found = world.store.find_run(&world.operator.caller, &run(&id)).await.unwrap();
        assert_eq!(found.is_some(), stored.contains(&id), "run and entry {id} go together");
        assert_eq!(found.is_some(), n % 3 != 0, "what was handed over is carried out, what was not is not");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_sessions_each_keep_their_own_order() {
    let fixture = Sqlite::new();
    let world = std::sync::Arc::new(World::new(&fixture).await);
    let mut tasks = Vec::new();
    for session in 0..64 {
        let world = world.clone();
        tasks.push(tokio::spawn(async move {
            let key = format!("agent:main:s{session}");
            let mut desk = world.desk(&key).await;
            for n in 0..5 {
                world.say(&mut desk, &format!("{key} {n}")).await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    for session in 0..64 {
        let key = format!("agent:main:s{session}");
        let expected: Vec<_> = (0..5).map(|n| format!("{key} {n}")).collect();
        assert_eq!(world.texts(&world.desk(&key).await).await, expected);
    }
}
