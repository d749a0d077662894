//! Checkpoints find what a store cannot see from inside: that it, or one session of it, is an older copy.

use std::path::Path;
use std::sync::Arc;

use watertight_core::Steward;
use watertight_core::ids::SessionId;
use watertight_seal::master::MasterKey;
use watertight_store::SqliteStore;
use watertight_store::conformance::world::{START, World};
use watertight_store::keys::Turning;
use watertight_store::sqlite::Verifier;
use watertight_store::verification::{Report, Selection, VerifyError};

use crate::keys::counted;
use crate::rotation::{again, turn};
use crate::verification::{blob, verify};
use crate::{Sqlite, master};

/// What a gateway would have appended.
#[derive(Default)]
struct Exported {
    lines: String,
    number: u64,
    mac: Option<[u8; 32]>,
}

impl Exported {
    /// Appends a checkpoint; whether there was one to append.
    fn append(&mut self, store: &SqliteStore, end: bool) -> bool {
        let steward = Steward::from_opened_keystore();
        let lines = &mut self.lines;
        let write = |line: &str| {
            lines.push_str(line);
            lines.push('\n');
            Ok::<_, ()>(())
        };
        let mac = store.checkpoint(&steward, (self.number + 1, self.mac), START, end, write).unwrap();
        if mac.is_some() {
            (self.number, self.mac) = (self.number + 1, mac);
        }
        mac.is_some()
    }
}

fn compare(dir: &Path, lines: &str) -> Report {
    try_compare(dir, lines).unwrap()
}

fn try_compare(dir: &Path, lines: &str) -> Result<Report, VerifyError> {
    let mut report = Report::default();
    let verifier = Verifier::open(dir, &master()).unwrap();
    verifier.compare(&Steward::from_opened_keystore(), "c.jsonl", lines.as_bytes(), &mut report)?;
    Ok(report)
}

fn problems(report: &Report) -> Vec<(Option<SessionId>, Option<u64>, String)> {
    report.problems.iter().map(|found| (found.session, found.seq, found.what.clone())).collect()
}

/// An opened store whose changes are noted.
async fn watched(fixture: &Sqlite) -> (World, Arc<SqliteStore>) {
    let (world, store) = counted(fixture).await;
    store.watch_heads(&Steward::from_opened_keystore()).await.unwrap();
    (world, store)
}

fn saved(fixture: &Sqlite) -> Sqlite {
    let copy = Sqlite::new();
    for entry in std::fs::read_dir(fixture.path()).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_made_when_something_changed_and_holds_while_the_store_goes_on() {
    let fixture = Sqlite::new();
    let (world, store) = watched(&fixture).await;
    let mut exported = Exported::default();
    assert!(!exported.append(&store, false), "nothing changed");
    let mut desk = world.desk("agent:main:a").await;
    for n in 0..3 {
        world.say(&mut desk, "more").await;
        assert!(exported.append(&store, false) && !exported.append(&store, false), "{n}");
        let report = compare(fixture.path(), &exported.lines);
        assert!(report.holds() && report.checkpoints == n + 1, "{report:?}");
    }
    // What is written after the last checkpoint is none of its business.
    world.say(&mut desk, "after").await;
    world.say(&mut world.desk("agent:main:b").await, "after").await;
    world.switch(&mut desk, "second").await;
    assert!(compare(fixture.path(), &exported.lines).holds());
    let text = "agent:main";
    assert!(!exported.lines.contains(text) && !exported.lines.contains("more"), "content-free");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sum_that_is_carried_on_is_that_of_a_look_at_everything() {
    let fixture = Sqlite::new();
    let (world, store) = counted(&fixture).await;
    for n in 0..20 {
        world.say(&mut world.desk(&format!("agent:main:before-{n}")).await, "x").await;
    }
    let steward = Steward::from_opened_keystore();
    // Sessions are written while the first look is taken.
    let (world, tenant) = (Arc::new(world), world_tenant(&store).await);
    let writing = tokio::spawn({
        let world = world.clone();
        async move {
            for n in 0..200 {
                let mut desk = world.desk(&format!("agent:main:beside-{}", n % 50)).await;
                world.say(&mut desk, "y").await;
            }
        }
    });
    store.watch_heads(&steward).await.unwrap();
    writing.await.unwrap();
    let mut desk = world.desk("agent:main:before-3").await;
    world.switch(&mut desk, "second").await;
    world.say(&mut desk, "z").await;
    let gone = world.scope(&world.operator.caller, "agent:main:before-7").await.session();
    assert!(store.shred_session(&steward, tenant, gone).await.unwrap());
    let mut exported = Exported::default();
    assert!(exported.append(&store, true));
    drop((world, store));
    let report = compare(fixture.path(), &exported.lines);
    assert!(report.holds(), "{report:?}");

    // The same end, but a session that no line names is changed: the sum tells.
    let names = blob(gone);
    let changed = fixture
        .database("store.db")
        .execute(&format!("UPDATE sessions SET head_seq = head_seq + 1 WHERE session = (SELECT max(session) FROM sessions WHERE session <> {names})"), [])
        .unwrap();
    assert_eq!(changed, 1);
    let found = problems(&compare(fixture.path(), &exported.lines));
    assert!(found.iter().any(|(_, _, what)| what.contains("the sessions as a whole")), "{found:?}");
}

async fn world_tenant(store: &SqliteStore) -> watertight_core::ids::TenantId {
    store.epochs(&Steward::from_opened_keystore()).await.unwrap()[0].tenant
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_one_sessions_rows_is_found() {
    let fixture = Sqlite::new();
    let (world, store) = watched(&fixture).await;
    let mut exported = Exported::default();
    let (mut victim, mut other) = (world.desk("agent:main:victim").await, world.desk("agent:main:other").await);
    world.say(&mut victim, "one").await;
    world.say(&mut other, "one").await;
    exported.append(&store, false);
    let operator = world.operator;
    drop((world.store, store));
    let yesterday = saved(&fixture);
    let (world, store) = again(&fixture, operator);
    store.watch_heads(&Steward::from_opened_keystore()).await.unwrap();
    for desk in [&mut victim, &mut other] {
        let scope = world.scope(&world.operator.caller, desk.scope.key().as_str()).await;
        *desk = world.open(scope).await;
        world.say(desk, "two").await;
    }
    exported.append(&store, false);
    let id = victim.scope.session();
    drop((world, store));

    let mut restore =
        format!("PRAGMA foreign_keys = OFF; ATTACH '{}' AS old;", yesterday.path().join("store.db").display());
    for table in ["sessions", "entries", "generations", "runs", "session_prefixes"] {
        restore.extend([
            format!("DELETE FROM {table} WHERE session = {};", blob(id)),
            format!("INSERT INTO {table} SELECT * FROM old.{table} WHERE session = {};", blob(id)),
        ]);
    }
    fixture.database("store.db").execute_batch(&restore).unwrap();
    // From inside it cannot be seen; by the checkpoint it can.
    assert!(verify(fixture.path(), &Selection::default()).holds());
    let found = problems(&compare(fixture.path(), &exported.lines));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].0, found[0].1), (Some(id), Some(2)));
    assert!(found[0].2.contains("the session is an older copy: it ends at entry 1, checkpoint 2"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_whole_store_is_found_and_what_a_restore_drill_says() {
    let fixture = Sqlite::new();
    let (world, store) = watched(&fixture).await;
    let mut exported = Exported::default();
    let mut desk = world.desk("agent:main:a").await;
    world.say(&mut desk, "one").await;
    exported.append(&store, true);
    let operator = world.operator;
    drop((world.store, store));
    let backup = saved(&fixture);
    // The backup is whole: chains, keys and the checkpoint of its moment hold.
    assert!(verify(backup.path(), &Selection::default()).holds());
    assert!(compare(backup.path(), &exported.lines).holds());

    let (world, store) = again(&fixture, operator);
    store.watch_heads(&Steward::from_opened_keystore()).await.unwrap();
    world.say(&mut world.desk("agent:main:a").await, "two").await;
    let mut later = world.desk("agent:main:later").await;
    world.say(&mut later, "one").await;
    turn(&store, later.scope.tenant(), Turning::Epoch).await;
    exported.append(&store, true);
    assert!(compare(fixture.path(), &exported.lines).holds());
    let operator = world.operator;
    drop((world.store, store));
    assert!(compare(fixture.path(), &exported.lines).holds());

    // Both files of the same older moment, and the older store with the present keystore: sound, but behind.
    for name in ["store.db", "store.db-wal", "store.db-shm"] {
        // A log of the newer file must not be read into the older one.
        let _ = std::fs::remove_file(fixture.path().join(name));
        let _ = std::fs::copy(backup.path().join(name), fixture.path().join(name));
    }
    for dir in [backup.path(), fixture.path()] {
        let report = compare(dir, &exported.lines);
        let found = problems(&report);
        assert!(found.iter().any(|(_, _, what)| what.contains("the whole store is an older copy")), "{found:?}");
        assert!(found.iter().any(|(_, seq, what)| *seq == Some(2) && what.contains("an older copy")), "{found:?}");
        let gone =
            |(session, _, what): &(_, _, String)| *session == Some(later.scope.session()) && what.contains("gone");
        assert!(found.iter().any(gone), "{found:?}");
    }
    let report = verify(backup.path(), &Selection::default());
    assert!(report.holds(), "{report:?}");
    // With the present keystore it serves again: what it holds opens, and goes on.
    let (world, store) = again(&fixture, operator);
    let mut desk = world.desk("agent:main:a").await;
    assert_eq!(world.texts(&desk).await, ["one"]);
    world.say(&mut desk, "after the restore").await;
    drop((world, store));
    // An older keystore under a newer store is refused.
    std::fs::copy(backup.path().join("keys.db"), fixture.path().join("keys.db")).unwrap();
    let refused = SqliteStore::open(fixture.path(), &master()).err();
    assert!(matches!(refused, Some(watertight_store::OpenError::KeystoreOlder)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_session_is_missed_by_no_checkpoint() {
    let fixture = Sqlite::new();
    let (world, store) = watched(&fixture).await;
    let steward = Steward::from_opened_keystore();
    let mut exported = Exported::default();
    let mut desk = world.desk("agent:main:a").await;
    world.say(&mut desk, "one").await;
    exported.append(&store, false);
    let (tenant, id) = (desk.scope.tenant(), desk.scope.session());
    assert!(store.shred_session(&steward, tenant, id).await.unwrap());
    assert!(compare(fixture.path(), &exported.lines).holds(), "destroyed since the last checkpoint");
    exported.append(&store, false);
    assert!(compare(fixture.path(), &exported.lines).holds());
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_missing_and_foreign_lines_are_found() {
    let fixture = Sqlite::new();
    let (world, store) = watched(&fixture).await;
    let mut exported = Exported::default();
    let mut desk = world.desk("agent:main:a").await;
    for _ in 0..3 {
        world.say(&mut desk, "x").await;
        exported.append(&store, false);
    }
    let lines: Vec<&str> = exported.lines.lines().collect();
    let text = |lines: &[&str]| lines.join("\n") + "\n";
    // From any point on, and with the last line cut by a kill, it is sound.
    assert!(compare(fixture.path(), &text(&lines[1..])).holds());
    assert!(compare(fixture.path(), &format!("{}{}", text(&lines[..2]), &lines[2][..40])).holds());
    let found = problems(&compare(fixture.path(), &text(&[lines[0], lines[2]])));
    assert_eq!(found[0].2, "c.jsonl, line 2: checkpoint 3 does not follow checkpoint 1");
    let changed = lines[1].replacen("\"opens\":1", "\"opens\":0", 1);
    assert_ne!(changed, lines[1]);
    let found = problems(&compare(fixture.path(), &text(&[lines[0], &changed])));
    assert_eq!(found[0].2, "c.jsonl, line 2 is not a checkpoint of this store, or was changed");
    for none in ["", "\n", "{}\n", "x"] {
        let refused = try_compare(fixture.path(), none);
        assert!(matches!(refused, Err(VerifyError::Checkpoints(_))), "{none:?}: {refused:?}");
    }
    let long = "x".repeat(2 << 20);
    assert!(matches!(try_compare(fixture.path(), &long), Err(VerifyError::Checkpoints(_))));

    let other = Sqlite::new();
    let (_world, _store) = counted(&other).await;
    assert!(matches!(try_compare(other.path(), &exported.lines), Err(VerifyError::Checkpoints(_))));

    // They outlive a new master key.
    let new = MasterKey::from_slice(&[9; 32]).unwrap();
    store.replace_master_key(&Steward::from_opened_keystore(), new).await.unwrap();
    let new = MasterKey::from_slice(&[9; 32]).unwrap();
    let mut report = Report::default();
    let verifier = Verifier::open(fixture.path(), &new).unwrap();
    verifier.compare(&Steward::from_opened_keystore(), "c", exported.lines.as_bytes(), &mut report).unwrap();
    assert!(report.holds() && report.checkpoints == 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_changes_than_a_line_names_are_counted_and_summed() {
    let fixture = Sqlite::new();
    let (world, store) = watched(&fixture).await;
    let world = Arc::new(world);
    let mut writers = tokio::task::JoinSet::new();
    let due = Box::pin(store.much_changed());
    for writer in 0..64 {
        let world = world.clone();
        writers.spawn(async move {
            for n in 0..80 {
                world.say(&mut world.desk(&format!("agent:main:{writer}-{n}")).await, "x").await;
            }
        });
    }
    due.await;
    writers.join_all().await;
    let mut exported = Exported::default();
    assert!(exported.append(&store, true));
    let line: serde_json::Value = serde_json::from_str(exported.lines.trim()).unwrap();
    assert_eq!((line["sessions"].as_array().unwrap().len(), line["unnamed"].as_u64()), (4096, Some(64 * 80 - 4096)));
    assert!(exported.lines.len() < 1 << 20);
    drop((world, store));
    assert!(compare(fixture.path(), &exported.lines).holds());
}
