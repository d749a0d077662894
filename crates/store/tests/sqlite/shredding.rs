//! What is shredded is gone: from the store, from the keystore's file after a turn, and for every backup of the store.

use std::path::Path;
use std::sync::Arc;

use watertight_core::Steward;
use watertight_core::grant::Verb;
use watertight_core::ids::SessionId;
use watertight_store::conformance::world::{World, accepted, everything, said};
use watertight_store::keys::Turning;
use watertight_store::model::Batch;
use watertight_store::verification::Selection;
use watertight_store::{SqliteStore, Store, StoreError};

use crate::Sqlite;
use crate::keys::counted;
use crate::rotation::{again, turn};
use crate::verification::{blob, verify};

const VICTIM: &str = "agent:main:victim";
const OTHER: &str = "agent:main:other";

/// Two sessions of two generations, a run each.
async fn filled(fixture: &Sqlite) -> (World, Arc<SqliteStore>, SessionId) {
    let (world, store) = counted(fixture).await;
    for key in [VICTIM, OTHER] {
        let mut desk = world.desk(key).await;
        let input = said(key);
        let runs = vec![accepted(key, &input)];
        world.commit(&mut desk, Batch { entries: vec![input], runs, ..Batch::default() }).await.unwrap();
        world.switch(&mut desk, "second").await;
        world.say(&mut desk, "more").await;
    }
    let victim = world.scope(&world.operator.caller, VICTIM).await.session();
    (world, store, victim)
}

/// The secrets that could open the victim's records: its wrapped keys and its epoch's wrapped key.
fn wrapped(fixture: &Sqlite, session: SessionId) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let conn = fixture.database("keys.db");
    let read = |sql: &str| -> Vec<Vec<u8>> {
        let mut statement = conn.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    (
        read(&format!("SELECT data_key FROM data_keys WHERE session = {}", blob(session))),
        read("SELECT epoch_key FROM epoch_keys"),
    )
}

/// Whether any file in the directory holds these bytes.
fn on_disk(dir: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(dir).unwrap().any(|entry| {
        let content = std::fs::read(entry.unwrap().path()).unwrap();
        content.windows(bytes.len()).any(|window| window == bytes)
    })
}

fn rows(fixture: &Sqlite, session: SessionId) -> i64 {
    let conn = fixture.database("store.db");
    ["sessions", "entries", "generations", "session_prefixes", "runs"]
        .iter()
        .map(|table| -> i64 {
            let sql = format!("SELECT count(*) FROM {table} WHERE session = {}", blob(session));
            conn.query_row(&sql, [], |row| row.get(0)).unwrap()
        })
        .sum()
}

async fn gone(world: &World, key: &str) {
    let permit = world.permit(&world.operator.caller, Verb::Read, key).await;
    let found = world.store.find_session(&permit).await;
    assert!(matches!(found, Ok(None) | Err(StoreError::Integrity(_))), "{found:?}");
    let listed = world.listed(everything()).await.0;
    assert!(!listed.contains(&key.to_owned()) && listed.contains(&OTHER.to_owned()), "{listed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shredded_session_is_gone_and_after_a_turn_so_are_its_wrapped_keys() {
    let fixture = Sqlite::new();
    let (world, store, victim) = filled(&fixture).await;
    let (steward, tenant) = (Steward::from_opened_keystore(), world.operator.caller.tenant());
    let mut desk = world.desk(VICTIM).await;
    let (data_keys, epoch_keys) = wrapped(&fixture, victim);
    assert_eq!((data_keys.len(), epoch_keys.len()), (2, 1));
    assert!(data_keys.iter().chain(&epoch_keys).all(|key| on_disk(fixture.path(), key)), "the search finds them");

    assert!(store.shred_session(&steward, tenant, victim).await.unwrap());
    gone(&world, VICTIM).await;
    assert_eq!((rows(&fixture, victim), wrapped(&fixture, victim).0.len()), (0, 0));
    assert!(matches!(world.store.describe(&desk.scope).await, Err(StoreError::NotPermitted)));
    for batch in [
        Batch { entries: vec![said("late")], ..Batch::default() },
        Batch {
            switch: Some(watertight_store::model::Switch {
                to: watertight_store::conformance::world::generation("third"),
            }),
            ..Batch::default()
        },
    ] {
        let late = world.commit(&mut desk, batch).await;
        assert!(late.is_err(), "{late:?}");
    }
    assert_eq!(wrapped(&fixture, victim).0.len(), 0, "it gets no new key");
    assert_eq!(turn(&store, tenant, Turning::Epoch).await.epochs_left, 0);
    for key in data_keys.iter().chain(&epoch_keys) {
        assert!(!on_disk(fixture.path(), key), "neither the keys nor what wrapped them is in any file");
    }
    assert!(!store.shred_session(&steward, tenant, victim).await.unwrap());

    // The key's name is free again, for another session.
    let mut anew = world.desk(VICTIM).await;
    assert_ne!(anew.scope.session(), victim);
    world.say(&mut anew, "anew").await;
    assert_eq!(world.texts(&anew).await, ["anew"]);
    assert_eq!(world.texts(&world.desk(OTHER).await).await, ["more"]);
    drop((world, store));
    assert!(verify(fixture.path(), &Selection::default()).holds());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_the_store_with_the_present_keystore_opens_nothing_of_it() {
    let fixture = Sqlite::new();
    let (world, store, victim) = filled(&fixture).await;
    let (steward, tenant) = (Steward::from_opened_keystore(), world.operator.caller.tenant());
    let backup = tempfile::tempdir().unwrap();
    let copy = |from: &Path, to: &Path| {
        for name in ["store.db", "store.db-wal", "store.db-shm"] {
            let _ = std::fs::remove_file(to.join(name));
            let _ = std::fs::copy(from.join(name), to.join(name));
        }
    };
    copy(fixture.path(), backup.path());
    assert!(store.shred_session(&steward, tenant, victim).await.unwrap());
    let operator = world.operator;
    drop((world.store, store));
    // As after a crash between the keys and the rows, too.
    copy(backup.path(), fixture.path());
    assert!(rows(&fixture, victim) > 0);
    let report = verify(fixture.path(), &Selection::default());
    assert!(report.holds(), "what was shredded is no damage: {report:?}");

    let (world, store) = again(&fixture, operator);
    gone(&world, VICTIM).await;
    assert_eq!(store.sweep_shredded(&steward).await.unwrap(), 1);
    assert_eq!(rows(&fixture, victim), 0);
    assert_eq!(store.sweep_shredded(&steward).await.unwrap(), 0);
    assert_eq!(world.texts(&world.desk(OTHER).await).await, ["more"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shredded_tenant_leaves_nothing_and_touches_no_other() {
    let fixture = Sqlite::new();
    let (world, store, _) = filled(&fixture).await;
    let steward = Steward::from_opened_keystore();
    let other = world.tenant("other").await;
    let tenant = other.caller.tenant();
    for n in 0..600 {
        let mut desk = world.desk_of(&other.caller, &format!("agent:main:s{n}")).await;
        world.say(&mut desk, "theirs").await;
    }
    let desk = world.desk_of(&other.caller, "agent:main:s0").await;
    assert!(store.shred_tenant(&steward, tenant).await.unwrap());
    assert!(matches!(store.describe(&desk.scope).await, Err(StoreError::NotPermitted | StoreError::Integrity(_))));
    let is_left = |file: &str| -> Vec<String> {
        let conn = fixture.database(file);
        let mut tables = conn
            .prepare(
                "SELECT m.name FROM sqlite_schema m JOIN pragma_table_info(m.name) c ON c.name = 'tenant'
                 WHERE m.type = 'table' AND m.name <> 'shredded'",
            )
            .unwrap();
        let tables: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert!(tables.len() >= 3);
        let holds = |table: &String| -> bool {
            let sql =
                format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE tenant = ?1 AND '{table}' NOT LIKE 'audit%')");
            conn.query_row(&sql, [tenant.as_bytes()], |row| row.get(0)).unwrap()
        };
        tables.into_iter().filter(holds).collect()
    };
    assert_eq!((is_left("store.db"), is_left("keys.db")), (Vec::new(), Vec::new()));
    assert!(!store.shred_tenant(&steward, tenant).await.unwrap());
    assert_eq!(world.texts(&world.desk(OTHER).await).await, ["more"]);
    // The name may be taken again, by another tenant.
    assert_ne!(world.tenant("other").await.caller.tenant(), tenant);
    drop((world, store));
    assert!(verify(fixture.path(), &Selection::default()).holds());
}
