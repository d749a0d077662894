//! What a store refuses to open, and that it writes nothing then.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use watertight_seal::master::MasterKey;
use watertight_store::conformance::world::{World, said};
use watertight_store::model::{Batch, EntryRange};
use watertight_store::{OpenError, SqliteStore, Store, StoreError};

use crate::{Sqlite, master};

/// A closed store with one session in it.
async fn used() -> Sqlite {
    let fixture = Sqlite::new();
    let world = World::new(&fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    world.say(&mut desk, "one").await;
    fixture
}

fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect()
}

fn refused(fixture: &Sqlite) -> OpenError {
    SqliteStore::open(fixture.path(), &master()).err().expect("the store is refused")
}

#[tokio::test(flavor = "multi_thread")]
async fn another_master_key_is_refused_and_nothing_is_written() {
    let fixture = used().await;
    let before = contents(fixture.path());
    let other = MasterKey::from_slice(&[2; 32]).unwrap();
    assert!(matches!(SqliteStore::open(fixture.path(), &other), Err(OpenError::WrongMasterKey)));
    assert_eq!(contents(fixture.path()), before);
    drop(fixture.store());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_opener_is_refused_and_told_who_holds_the_store() {
    let fixture = used().await;
    let store = fixture.store();
    let OpenError::InUse { holder, .. } = refused(&fixture) else { panic!("not refused as in use") };
    assert_eq!(holder, format!("process {}", std::process::id()));
    store.close().await;
    drop(fixture.store());
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_store_is_refused() {
    let fixture = used().await;
    assert!(SqliteStore::exists(fixture.path()));
    fs::rename(fixture.path().join("keys.db"), fixture.path().join("away")).unwrap();
    assert!(SqliteStore::exists(fixture.path()));
    assert!(matches!(refused(&fixture), OpenError::KeystoreMissing { .. }));
    assert!(!fixture.path().join("keys.db").exists(), "no new keystore is made");
    fs::rename(fixture.path().join("away"), fixture.path().join("keys.db")).unwrap();
    fs::rename(fixture.path().join("store.db"), fixture.path().join("away")).unwrap();
    assert!(matches!(refused(&fixture), OpenError::StoreMissing { .. }));
    assert!(!fixture.path().join("store.db").exists(), "no new store is made");
    fs::rename(fixture.path().join("away"), fixture.path().join("store.db")).unwrap();
    drop(fixture.store());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_broke_off_is_taken_up_again() {
    let fixture = Sqlite::new();
    assert!(!SqliteStore::exists(fixture.path()));
    drop(fixture.store());
    // No tenant was ever made: the keystore guards nothing.
    fs::remove_file(fixture.path().join("store.db")).unwrap();
    drop(fixture.store());
    for empty in ["keys.db", "store.db"] {
        let fixture = Sqlite::new();
        fs::write(fixture.path().join("keys.db"), "").unwrap();
        if empty == "store.db" {
            fs::write(fixture.path().join(empty), "").unwrap();
        }
        let world = World::new(&fixture).await;
        world.say(&mut world.desk("agent:main:main").await, "one").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_two_stores_are_not_mixed() {
    let (one, two) = (used().await, used().await);
    fs::copy(two.path().join("keys.db"), one.path().join("keys.db")).unwrap();
    assert!(matches!(refused(&one), OpenError::NotTogether));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keystore_older_than_its_store_is_refused_and_nothing_is_written() {
    let fixture = used().await;
    let keys = fs::read(fixture.path().join("keys.db")).unwrap();
    drop(fixture.store());
    let newer = fs::read(fixture.path().join("keys.db")).unwrap();
    fs::write(fixture.path().join("keys.db"), &keys).unwrap();
    let counted = || -> (i64, bool) {
        let conn = fixture.database("store.db");
        conn.query_row("SELECT opens, clean FROM store", [], |row| row.try_into()).unwrap()
    };
    let before = counted();
    assert!(matches!(refused(&fixture), OpenError::KeystoreOlder));
    assert_eq!(fs::read(fixture.path().join("keys.db")).unwrap(), keys);
    assert_eq!(counted(), before);
    fs::write(fixture.path().join("keys.db"), newer).unwrap();
    drop(fixture.store());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_or_changed_schema_is_refused() {
    for file in ["store.db", "keys.db"] {
        let fixture = used().await;
        let conn = fixture.database(file);
        conn.execute("INSERT INTO schema_migrations VALUES (99, zeroblob(32))", []).unwrap();
        drop(conn);
        assert!(matches!(refused(&fixture), OpenError::NewerSchema { found: 99, .. }), "{file}");
        let conn = fixture.database(file);
        conn.execute_batch(
            "DELETE FROM schema_migrations WHERE version = 99; UPDATE schema_migrations SET checksum = zeroblob(32)",
        )
        .unwrap();
        drop(conn);
        assert!(matches!(refused(&fixture), OpenError::ChangedSchema { version: 1 }), "{file}");
    }
}

/// Damage that only a check of the whole file finds: a row that breaks a constraint.
const DAMAGE: &str = "PRAGMA writable_schema = ON;
    UPDATE sqlite_schema SET sql = replace(sql, 'created_at INTEGER', 'created_at INTEGER CHECK (created_at < 0)')
    WHERE name = 'tenants'";
/// A file too large to be checked before it is opened, as a process that was killed leaves it.
const LARGE: &str =
    "CREATE TABLE filler (x); INSERT INTO filler VALUES (zeroblob(67108864)); UPDATE store SET clean = 0";

fn is_clean(fixture: &Sqlite) -> bool {
    fixture.database("store.db").query_row("SELECT clean FROM store", [], |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_store_opens_after_an_unclean_end_and_is_checked_meanwhile() {
    let fixture = used().await;
    fixture.database("store.db").execute_batch(LARGE).unwrap();
    let store = fixture.store();
    store.checked().await.unwrap();
    store.close().await;
    assert!(is_clean(&fixture));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_found_after_opening_stops_every_write_until_it_is_mended() {
    let fixture = Sqlite::new();
    let world = World::new(&fixture).await;
    let mut desk = world.desk("agent:main:main").await;
    world.say(&mut desk, "one").await;
    drop(world);
    let conn = fixture.database("store.db");
    conn.execute_batch(LARGE).unwrap();
    conn.execute_batch(DAMAGE).unwrap();
    drop(conn);
    for _ in 0..2 {
        let store = fixture.store();
        let found = store.checked().await;
        assert!(matches!(&found, Err(StoreError::Unavailable(text)) if text.contains("damaged")), "{found:?}");
        let batch = Batch { at: desk.now, entries: vec![said("two")], ..Batch::default() };
        assert_eq!(store.commit(&desk.scope, desk.lease, &desk.head, batch).await.err(), found.err());
        let entries = store.entries(&desk.scope, desk.scope.generation_no(), EntryRange::Tail { limit: 9, skip: 0 });
        assert_eq!(entries.await.unwrap().len(), 1, "what is sound can be read");
        store.close().await;
        assert!(!is_clean(&fixture), "the next start checks again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unclean_end_is_followed_by_a_check_and_a_clean_one_is_not() {
    let fixture = used().await;
    let conn = fixture.database("store.db");
    let clean: bool = conn.query_row("SELECT clean FROM store", [], |row| row.get(0)).unwrap();
    assert!(clean, "closing marks the end as clean");
    conn.execute_batch(DAMAGE).unwrap();
    drop(conn);
    drop(fixture.store());
    let conn = fixture.database("store.db");
    conn.execute_batch("UPDATE store SET clean = 0").unwrap();
    drop(conn);
    assert!(matches!(refused(&fixture), OpenError::Damaged { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_open_to_others_are_closed_to_them() {
    let fixture = used().await;
    for file in ["store.db", "keys.db"] {
        fs::set_permissions(fixture.path().join(file), fs::Permissions::from_mode(0o644)).unwrap();
    }
    drop(fixture.store());
    for file in ["store.db", "keys.db"] {
        assert_eq!(fs::metadata(fixture.path().join(file)).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn the_state_directory_is_made_private() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("a/b");
    drop(SqliteStore::open(&dir, &master()).unwrap());
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_store_beside_its_keystore_is_refused_and_can_be_put_back() {
    let fixture = used().await;
    let store = fs::read(fixture.path().join("store.db")).unwrap();
    for name in ["store.db-wal", "store.db-shm"] {
        let _ = fs::remove_file(fixture.path().join(name));
    }
    fs::write(fixture.path().join("store.db"), b"").unwrap();
    let keys = fs::read(fixture.path().join("keys.db")).unwrap();
    assert!(matches!(refused(&fixture), OpenError::StoreEmpty { .. }));
    assert_eq!(fs::read(fixture.path().join("keys.db")).unwrap(), keys);
    fs::write(fixture.path().join("store.db"), store).unwrap();
    drop(fixture.store());
}
