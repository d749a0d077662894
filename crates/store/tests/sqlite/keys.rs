//! The keystore and the pool of keys for sessions to come.

use std::collections::HashSet;

use watertight_core::grant::Verb;
use watertight_core::ids::SessionId;
use watertight_store::conformance::world::{START, World, said};
use watertight_store::conformance::{Fixture, Subject};
use watertight_store::model::Batch;
use watertight_store::{Store, StoreError};

use crate::Sqlite;

/// A world on a store whose counts can be read.
pub(crate) async fn counted(fixture: &Sqlite) -> (World, std::sync::Arc<watertight_store::SqliteStore>) {
    struct Shared(std::sync::Arc<watertight_store::SqliteStore>);
    impl Fixture for Shared {
        async fn open(&self) -> Subject {
            Subject { store: self.0.clone(), hasher: self.0.token_hasher() }
        }
    }
    let store = std::sync::Arc::new(fixture.store());
    (World::new(&Shared(store.clone())).await, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_session_costs_one_sync_and_none_in_the_keystore() {
    let fixture = Sqlite::new();
    let (world, store) = counted(&fixture).await;
    for n in 0..20 {
        let before = store.counts();
        let mut desk = world.desk(&format!("agent:main:s{n}")).await;
        world.say(&mut desk, "first").await;
        let after = store.counts();
        assert_eq!((after.commits - before.commits, after.keystore_syncs), (1, before.keystore_syncs));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_generation_costs_one_keystore_sync_and_an_old_one_none() {
    let fixture = Sqlite::new();
    let (world, store) = counted(&fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    world.say(&mut desk, "first").await;
    let first = desk.scope.generation().as_str().to_owned();
    let mut cost = async |to: &str| {
        let before = store.counts();
        world.switch(&mut desk, to).await;
        let after = store.counts();
        (after.commits - before.commits, after.keystore_syncs - before.keystore_syncs)
    };
    assert_eq!(cost("second").await, (1, 1));
    assert_eq!(cost(&first).await, (1, 0));
    assert_eq!(cost("second").await, (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn more_drafts_than_the_pool_holds_all_get_ids_of_their_own() {
    let fixture = Sqlite::new();
    let (world, _) = counted(&fixture).await;
    let world = std::sync::Arc::new(world);
    let tasks: Vec<_> = (0..300)
        .map(|n| {
            let world = world.clone();
            tokio::spawn(async move {
                let mut desk = world.desk(&format!("agent:main:s{n}")).await;
                world.say(&mut desk, &format!("{n}")).await;
                desk.scope.session()
            })
        })
        .collect();
    let mut ids = HashSet::new();
    for task in tasks {
        assert!(ids.insert(task.await.unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_drafts_at_once_wait_for_keys_as_long_as_it_takes() {
    let fixture = Sqlite::new();
    let world = std::sync::Arc::new(World::new(&fixture).await);
    // More at a time than one refill serves, again and again.
    let mut drafts = tokio::task::JoinSet::new();
    for n in 0..900 {
        let world = world.clone();
        drafts.spawn(async move { world.scope(&world.operator.caller, &format!("agent:main:s{n}")).await.session() });
    }
    let ids: HashSet<_> = drafts.join_all().await.into_iter().collect();
    assert_eq!(ids.len(), 900);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_draft_was_given_up_is_free_again_at_the_next_start() {
    let fixture = Sqlite::new();
    let (world, store) = counted(&fixture).await;
    let given_up = world.scope(&world.operator.caller, "agent:main:given-up").await.session();
    let mut kept = world.desk("agent:main:kept").await;
    world.say(&mut kept, "stays").await;
    let (operator, kept) = (world.operator, kept.scope.session());
    drop((world.store, store));

    let store = std::sync::Arc::new(fixture.store());
    let grants = store.grants(&operator.caller).await.unwrap();
    let mut drawn: HashSet<SessionId> = HashSet::new();
    // The pool holds 64 keys; the one in use is not among them.
    for n in 0..64 {
        let key = watertight_core::key::CanonicalKey::from_stored(&format!("agent:main:n{n}"));
        let permit = watertight_core::scope::admit(&operator.caller, &grants, Verb::Write, &key, START).unwrap();
        drawn.insert(store.draft_session(&permit, None, START).await.unwrap().id());
    }
    assert!(drawn.contains(&given_up));
    assert!(!drawn.contains(&kept));
}

#[tokio::test(flavor = "multi_thread")]
async fn drafts_that_are_given_up_do_not_pile_up_in_the_keystore() {
    // What the pool and the drafts that may still be committed come to, and a refill under way.
    const MOST: i64 = 1024 + 3 * 64;
    let fixture = Sqlite::new();
    let (world, store) = counted(&fixture).await;
    let keys = || -> i64 {
        let conn = fixture.database("keys.db");
        conn.query_row("SELECT count(*) FROM data_keys", [], |row| row.get(0)).unwrap()
    };
    let mut kept = world.desk("agent:main:kept").await;
    world.say(&mut kept, "stays").await;
    let oldest = world.desk("agent:main:oldest").await;
    for n in 0..1500 {
        drop(world.scope(&world.operator.caller, &format!("agent:main:n{n}")).await);
    }
    assert!(keys() <= MOST, "{} keys", keys());

    // What was given up is not written: its key is gone. A look-up drafts it anew.
    let batch = || Batch { at: START, entries: vec![said("late")], ..Batch::default() };
    let late = world.store.commit(&oldest.scope, oldest.lease, &oldest.head, batch()).await;
    assert_eq!(late.err(), Some(StoreError::KeyTaken));
    let mut again = world.desk("agent:main:oldest").await;
    assert_ne!(again.scope.session(), oldest.scope.session(), "somebody may still hold the old scope");
    world.say(&mut again, "anew").await;

    let (operator, hasher) = (world.operator, world.hasher);
    drop((world.store, store));
    let store = std::sync::Arc::new(fixture.store());
    let world = World { store: store.clone(), hasher, operator };
    drop(world.scope(&world.operator.caller, "agent:main:first").await);
    assert_eq!(keys(), 2 + 64, "the sessions that are stored, and one pool");
    assert_eq!(world.texts(&world.desk("agent:main:kept").await).await, ["stays"]);
    assert_eq!(world.texts(&world.desk("agent:main:oldest").await).await, ["anew"]);
}

/// Opens the store with another `store.db` than it was closed with.
struct Restored<'a> {
    fixture: &'a Sqlite,
    content: Vec<u8>,
}

impl Fixture for Restored<'_> {
    async fn open(&self) -> Subject {
        for name in ["store.db-wal", "store.db-shm"] {
            let _ = std::fs::remove_file(self.fixture.path().join(name));
        }
        std::fs::write(self.fixture.path().join("store.db"), &self.content).unwrap();
        self.fixture.open().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_older_store_gets_no_session_id_that_a_newer_copy_used() {
    let fixture = Sqlite::new();
    let closed = || std::fs::read(fixture.path().join("store.db")).unwrap();
    let world = World::new(&fixture).await.reopened(&fixture).await;
    // The first writes are in the log: what lies in the file is the state of the last clean end.
    let older = closed();

    let mut used = HashSet::new();
    for n in 0..5 {
        let mut desk = world.desk(&format!("agent:main:newer-{n}")).await;
        world.say(&mut desk, "said after the copy").await;
        used.insert(desk.scope.session());
    }
    let world = world.reopened(&fixture).await;
    let newer = closed();

    let world = world.reopened(&Restored { fixture: &fixture, content: older }).await;
    for n in 0..80 {
        let mut desk = world.desk(&format!("agent:main:other-{n}")).await;
        world.say(&mut desk, "said after the restore").await;
        assert!(!used.contains(&desk.scope.session()), "session {n} got an id that served another");
    }

    // The newer copy can still be put back: the keys of its sessions were kept.
    let world = world.reopened(&Restored { fixture: &fixture, content: newer }).await;
    let desk = world.desk("agent:main:newer-0").await;
    assert_eq!(world.texts(&desk).await, ["said after the copy"]);
}
