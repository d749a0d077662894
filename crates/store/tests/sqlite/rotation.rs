//! Epochs that turn and keys that are replaced, while the store is at work.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use watertight_core::Steward;
use watertight_core::ids::TenantId;
use watertight_seal::master::MasterKey;
use watertight_store::conformance::world::{Operator, START, World};
use watertight_store::keys::{Turned, Turning};
use watertight_store::sqlite::Verifier;
use watertight_store::verification::Selection;
use watertight_store::{OpenError, SqliteStore};

use crate::keys::counted;
use crate::verification::{blob, verify};
use crate::{Sqlite, master};

pub(crate) async fn turn(store: &SqliteStore, tenant: TenantId, how: Turning) -> Turned {
    let steward = Steward::from_opened_keystore();
    store.turn_keys(&steward, tenant, how, START, |_, _| ControlFlow::Continue(())).await.unwrap()
}

/// The store of a directory opened again, for an operator it knows.
pub(crate) fn again(fixture: &Sqlite, operator: Operator) -> (World, Arc<SqliteStore>) {
    let store = Arc::new(fixture.store());
    (World { hasher: store.token_hasher(), store: store.clone(), operator }, store)
}

/// So many sessions with a message each.
async fn fill(world: &World, sessions: usize) {
    for n in 0..sessions {
        world.say(&mut world.desk(&format!("agent:main:s{n}")).await, &format!("text {n}")).await;
    }
}

async fn assert_filled(world: &World, sessions: usize) {
    for n in 0..sessions {
        let desk = world.desk(&format!("agent:main:s{n}")).await;
        assert_eq!(world.texts(&desk).await, [format!("text {n}")]);
    }
}

/// The epochs of data keys and of epoch keys, each in order.
fn epochs(fixture: &Sqlite) -> (Vec<u32>, Vec<u32>) {
    let conn = fixture.database("keys.db");
    let read = |sql: &str| -> Vec<u32> {
        let mut statement = conn.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    (read("SELECT DISTINCT epoch FROM data_keys ORDER BY epoch"), read("SELECT epoch FROM epoch_keys ORDER BY epoch"))
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_turn_every_key_is_of_the_new_epoch_and_everything_opens() {
    let fixture = Sqlite::new();
    let (world, store) = counted(&fixture).await;
    fill(&world, 5).await;
    let tenant = world.operator.caller.tenant();
    for (how, epoch) in [(Turning::Epoch, 2), (Turning::WithTenantKey, 3)] {
        let turned = turn(&store, tenant, how).await;
        assert_eq!((turned.epoch, turned.damaged, turned.epochs_left), (epoch, 0, 0));
        assert!(turned.rewrapped >= 64, "the pool's too: {turned:?}");
        assert_eq!(epochs(&fixture), (vec![epoch], vec![epoch]));
    }
    // Keys drawn before and after serve as ever.
    world.say(&mut world.desk("agent:main:later").await, "later").await;
    assert_filled(&world, 5).await;
    let operator = world.operator;
    drop((world.store, store));
    let (world, _store) = again(&fixture, operator);
    assert_filled(&world, 5).await;
    assert_eq!(world.texts(&world.desk("agent:main:later").await).await, ["later"]);
    assert!(verify(fixture.path(), &Selection::default()).holds());
}

fn copy(from: &Path) -> Sqlite {
    let copy = Sqlite::new();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_breaks_off_leaves_what_opens_and_is_finished_later() {
    const SESSIONS: usize = 1200;
    let fixture = Sqlite::new();
    let (world, store) = counted(&fixture).await;
    for n in 0..SESSIONS {
        world.say(&mut world.desk(&format!("agent:main:s{n}")).await, &format!("text {n}")).await;
    }
    let (tenant, path): (_, PathBuf) = (world.operator.caller.tenant(), fixture.path().to_owned());
    let steward = Steward::from_opened_keystore();
    // What a kill would leave after the epoch was made and after each batch.
    let (killed, found) = std::sync::mpsc::channel();
    let turned = store
        .turn_keys(&steward, tenant, Turning::WithTenantKey, START, move |done, _| {
            killed.send((done, copy(&path))).unwrap();
            ControlFlow::Continue(())
        })
        .await
        .unwrap();
    assert_eq!(turned.epochs_left, 0);
    let operator = world.operator;
    drop((world.store, store));
    let mut operator = Some(operator);
    let mut seen = Vec::new();
    for (done, killed) in found {
        seen.push(done);
        let (world, store) = again(&killed, operator.take().unwrap());
        let unfinished: Vec<bool> = store.epochs(&steward).await.unwrap().iter().map(|age| age.unfinished).collect();
        assert_eq!(unfinished, [true]);
        for n in [0, 1, SESSIONS / 2, SESSIONS - 1] {
            let desk = world.desk(&format!("agent:main:s{n}")).await;
            assert_eq!(world.texts(&desk).await, [format!("text {n}")], "after {done}");
        }
        let finished = turn(&store, tenant, Turning::Finish).await;
        assert_eq!((finished.epoch, finished.damaged, finished.epochs_left), (2, 0, 0));
        assert_eq!(epochs(&killed), (vec![2], vec![2]));
        assert_filled(&world, 3).await;
        operator = Some(world.operator);
        drop((world.store, store));
    }
    assert!(seen.len() >= 3 && seen[0] == 0, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_is_stopped_goes_on_where_it_was() {
    let fixture = Sqlite::new();
    let (world, store) = counted(&fixture).await;
    fill(&world, 3).await;
    let tenant = world.operator.caller.tenant();
    let steward = Steward::from_opened_keystore();
    let stopped =
        store.turn_keys(&steward, tenant, Turning::Epoch, START, |_, _| ControlFlow::Break(())).await.unwrap();
    assert_eq!((stopped.rewrapped, stopped.epochs_left), (0, 1));
    assert_filled(&world, 3).await;
    // A key that is made meanwhile is of the new epoch.
    let mut desk = world.desk("agent:main:s0").await;
    world.switch(&mut desk, "second").await;
    assert_eq!(epochs(&fixture), (vec![1, 2], vec![1, 2]));
    let finished = turn(&store, tenant, Turning::Finish).await;
    assert_eq!((finished.epoch, finished.epochs_left), (2, 0));
    assert_eq!(epochs(&fixture), (vec![2], vec![2]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sessions_are_made_and_read_while_epochs_turn() {
    let fixture = Sqlite::new();
    let (world, store) = counted(&fixture).await;
    let (world, tenant) = (Arc::new(world), world_tenant(&store).await);
    let over = Arc::new(AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let (world, over) = (world.clone(), over.clone());
        writers.spawn(async move {
            let mut made = 0;
            while !over.load(Ordering::Acquire) {
                let key = format!("agent:main:w{writer}-{made}");
                let mut desk = world.desk(&key).await;
                world.say(&mut desk, &key).await;
                world.switch(&mut desk, "second").await;
                world.say(&mut desk, "in the second").await;
                made += 1;
            }
            made
        });
    }
    for n in 0..12 {
        let how = if n % 3 == 0 { Turning::WithTenantKey } else { Turning::Epoch };
        let turned = turn(&store, tenant, how).await;
        assert_eq!((turned.epoch, turned.damaged, turned.epochs_left), (n + 2, 0, 0));
    }
    over.store(true, Ordering::Release);
    assert!(writers.join_all().await.into_iter().sum::<usize>() > 0);
    assert_eq!(epochs(&fixture).1, [13]);
    drop((world, store));
    assert!(verify(fixture.path(), &Selection::default()).holds());
}

async fn world_tenant(store: &SqliteStore) -> TenantId {
    store.epochs(&Steward::from_opened_keystore()).await.unwrap()[0].tenant
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_was_opened_before_a_turn_goes_on_after_it() {
    let fixture = Sqlite::new();
    let (world, store) = counted(&fixture).await;
    fill(&world, 3).await;
    let verifier = Verifier::open(fixture.path(), &master()).unwrap();
    turn(&store, world.operator.caller.tenant(), Turning::WithTenantKey).await;
    let steward = Steward::from_opened_keystore();
    let report = verifier.verify(&steward, &Selection::default(), |_| {}).unwrap();
    assert!(report.holds() && report.sessions == 3, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_key_that_does_not_open_is_left_as_it_is_with_its_epoch() {
    let fixture = Sqlite::new();
    let (world, store) = counted(&fixture).await;
    fill(&world, 4).await;
    let tenant = world.operator.caller.tenant();
    let victim = world.scope(&world.operator.caller, "agent:main:s1").await.session();
    let operator = world.operator;
    drop((world.store, store));
    let row = |fixture: &Sqlite| -> Vec<u8> {
        let sql = format!("SELECT data_key FROM data_keys WHERE session = {}", blob(victim));
        fixture.database("keys.db").query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    let damage = format!(
        "UPDATE data_keys SET data_key = CAST(x'01ff' || substr(data_key, 3) AS BLOB) WHERE session = {}",
        blob(victim)
    );
    fixture.database("keys.db").execute_batch(&damage).unwrap();
    let before = row(&fixture);
    let (world, store) = again(&fixture, operator);
    for epoch in [2, 3] {
        let turned = turn(&store, tenant, Turning::Epoch).await;
        assert_eq!((turned.epoch, turned.damaged, turned.epochs_left), (epoch, 1, 1));
    }
    assert_eq!(epochs(&fixture), (vec![1, 3], vec![1, 3]));
    assert_eq!(row(&fixture), before, "it can still be mended");
    let mended = format!(
        "UPDATE data_keys SET data_key = CAST(x'0101' || substr(data_key, 3) AS BLOB) WHERE session = {}",
        blob(victim)
    );
    fixture.database("keys.db").execute_batch(&mended).unwrap();
    assert_eq!(turn(&store, tenant, Turning::Finish).await.epochs_left, 0);
    assert_filled(&world, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_master_key_replaces_the_old_one_for_every_tenant() {
    let fixture = Sqlite::new();
    let (world, store) = counted(&fixture).await;
    fill(&world, 2).await;
    let other = world.tenant("other").await;
    let mut desk = world.desk_of(&other.caller, "agent:main:own").await;
    world.say(&mut desk, "of the other").await;
    let new = || MasterKey::from_slice(&[9; 32]).unwrap();
    store.replace_master_key(&Steward::from_opened_keystore(), new()).await.unwrap();
    // At work it goes on, also with what is made now.
    world.say(&mut world.desk("agent:main:later").await, "later").await;
    let third = world.tenant("third").await;
    world.say(&mut world.desk_of(&third.caller, "agent:main:x").await, "third").await;
    turn(&store, third.caller.tenant(), Turning::WithTenantKey).await;
    let token = world.operator.token.expose().to_string();
    let operator = world.operator;
    drop((world.store, store));
    assert!(matches!(SqliteStore::open(fixture.path(), &master()), Err(OpenError::WrongMasterKey)));
    let store = Arc::new(SqliteStore::open(fixture.path(), &new()).unwrap());
    let world = World { hasher: store.token_hasher(), store: store.clone(), operator };
    assert_filled(&world, 2).await;
    let desk = world.desk_of(&other.caller, "agent:main:own").await;
    assert_eq!(world.texts(&desk).await, ["of the other"]);
    let token = watertight_seal::token::Token::parse(&token).unwrap();
    let dynamic: Arc<dyn watertight_store::Store> = store;
    assert!(watertight_store::conformance::world::caller(&dynamic, &world.hasher, &token).await.is_some());
}

/// `cargo test -p watertight-store --test sqlite rotation -- --ignored --nocapture`, with the number of sessions in
/// `WATERTIGHT_SESSIONS` if not 100,000.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "makes 100,000 sessions"]
async fn the_keys_of_a_hundred_thousand_sessions_turn_while_serving() {
    let sessions: usize = std::env::var("WATERTIGHT_SESSIONS").map_or(100_000, |text| text.parse().unwrap());
    let fixture = Sqlite::new();
    let (world, store) = counted(&fixture).await;
    let world = Arc::new(world);
    let tenant = world.operator.caller.tenant();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..256 {
        let world = world.clone();
        writers.spawn(async move {
            for n in (writer..sessions).step_by(256) {
                world.say(&mut world.desk(&format!("agent:main:s{n}")).await, "x").await;
            }
        });
    }
    writers.join_all().await;

    let over = Arc::new(AtomicBool::new(false));
    let serving = tokio::spawn({
        let (world, over) = (world.clone(), over.clone());
        async move {
            let (mut times, mut n) = (Vec::new(), 0);
            while !over.load(Ordering::Acquire) {
                let start = Instant::now();
                // Old sessions, whose keys are read from the keystore, and a new one each time.
                let mut old = world.desk(&format!("agent:main:s{}", n * 7919 % sessions)).await;
                world.say(&mut old, "while it turns").await;
                world.say(&mut world.desk(&format!("agent:main:new-{n}")).await, "new").await;
                times.push(start.elapsed());
                n += 1;
            }
            times.sort_unstable();
            times
        }
    });
    let start = Instant::now();
    let turned = turn(&store, tenant, Turning::WithTenantKey).await;
    let taken = start.elapsed();
    over.store(true, Ordering::Release);
    let times = serving.await.unwrap();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    println!(
        "{} data keys wrapped anew in {taken:.1?}; beside it {} times a message to an old and to a new session: p50 {:.1?}, p99 {:.1?}",
        turned.rewrapped,
        times.len(),
        at(50),
        at(99),
    );
    let steward = Steward::from_opened_keystore();
    let gone = world.scope(&world.operator.caller, "agent:main:s1").await.session();
    let start = Instant::now();
    assert!(store.shred_session(&steward, tenant, gone).await.unwrap());
    println!("one session shredded in {:.1?}", start.elapsed());
    let start = Instant::now();
    store.watch_heads(&steward).await.unwrap();
    println!("the first look at all sessions for checkpoints took {:.1?}", start.elapsed());
    assert!(turned.rewrapped as usize >= sessions);
    assert_eq!((turned.damaged, turned.epochs_left), (0, 0));
}
