//! A damaged, moved or rolled-back row answers for its own session only (isolation.md §2.8).

use rusqlite::Connection;
use watertight_core::Steward;
use watertight_core::grant::Verb;
use watertight_core::ids::GenerationNo;
use watertight_core::key::AgentId;
use watertight_core::scope::authorize;
use watertight_store::conformance::world::{START, World, accepted, everything, generation, reading, run, said};
use watertight_store::conformance::{Fixture, Subject};
use watertight_store::model::{Batch, EntryRange, ListQuery, Switch};
use watertight_store::verification::Selection;
use watertight_store::{Store, StoreError};

use crate::Sqlite;
use crate::verification::{blob, verify};

const ALL: EntryRange = EntryRange::Tail { limit: 100, skip: 0 };
const VICTIM: &str = "agent:main:victim";
const OTHER: &str = "agent:main:other";

/// Everything a user of the session reads, by the way it is reached.
async fn read_all(world: &World, key: &str) -> Result<Vec<String>, StoreError> {
    let permit = world.permit(&world.operator.caller, Verb::Write, key).await;
    let record = world.store.find_session(&permit).await?.expect("the session is there");
    let scope = authorize(permit, &record).unwrap();
    let open = world.store.open_session(&scope).await?;
    let mut texts = Vec::new();
    for generation in world.store.generations(&scope).await? {
        for entry in world.store.entries(&scope, generation.no, ALL).await? {
            assert_eq!(world.store.entry(&scope, entry.id).await?.as_ref(), Some(&entry));
            texts.push(entry.body.message.text());
        }
    }
    assert_eq!(open.head.seq.0, texts.len() as u64);
    Ok(texts)
}

/// Two sessions of two generations with five entries each, closed.
async fn filled(fixture: &Sqlite) -> World {
    let world = World::new(fixture).await;
    for key in [VICTIM, OTHER] {
        let mut desk = world.desk(key).await;
        for n in 1..=2 {
            world.say(&mut desk, &format!("{key} {n}")).await;
        }
        world.switch(&mut desk, "second").await;
        for n in 3..=5 {
            world.say(&mut desk, &format!("{key} {n}")).await;
        }
    }
    world
}

/// Damages `file` of a filled store by this SQL, in which `$V` is the victim's id and `$O` the other's: the victim
/// answers with an integrity error, the other goes on.
async fn damaged(file: &str, what: &str, sql: &str) {
    let fixture = Sqlite::new();
    let world = filled(&fixture).await;
    let id = async |key| world.scope(&world.operator.caller, key).await.session();
    let (victim_id, other) = (id(VICTIM).await, blob(id(OTHER).await));
    let victim = blob(victim_id);
    drop(world.store);

    let conn = fixture.database(file);
    let sql = sql.replace("$V", &victim).replace("$O", &other);
    // Whoever damages a file does not mind its constraints.
    conn.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON").unwrap();
    let before = conn.total_changes();
    conn.execute_batch(&sql).unwrap();
    assert!(conn.total_changes() > before, "{what}: the statement changed nothing");
    drop(conn);

    let verified = verify(fixture.path(), &Selection::default());
    assert!(!verified.holds(), "{what}: the verification finds it too");
    assert!(verified.problems.iter().all(|problem| problem.session == Some(victim_id)), "{what}: {verified:?}");
    let Subject { store, hasher } = fixture.open().await;
    let world = World { store, hasher, operator: world.operator };
    let found = read_all(&world, VICTIM).await;
    assert!(matches!(found, Err(StoreError::Integrity(_))), "{what}: {found:?}");
    let other = read_all(&world, OTHER).await;
    assert_eq!(other.unwrap().len(), 5, "{what}: the other session is unharmed");
    let listed = world.listed(everything()).await.0;
    assert!(listed.contains(&OTHER.to_owned()), "{what}: {listed:?}");
    let mut desk = world.desk(OTHER).await;
    world.say(&mut desk, "goes on").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_or_moved_entry_is_found() {
    let cases = [
        (
            "a byte of a body",
            "UPDATE entries SET body = CAST(substr(body, 1, 40) || x'00' || substr(body, 42) AS BLOB) \
             WHERE session = $V AND seq = 4",
        ),
        ("an empty body", "UPDATE entries SET body = x'' WHERE session = $V AND seq = 4"),
        (
            "a cut body",
            "UPDATE entries SET body = substr(body, 1, length(body) - 1) WHERE session = $V AND seq = \
             5",
        ),
        (
            "an unknown version",
            "UPDATE entries SET body = CAST(x'02' || substr(body, 2) AS BLOB) WHERE session = $V AND \
             seq = 1",
        ),
        (
            "another key number",
            "UPDATE entries SET body = CAST(substr(body, 1, 2) || x'01000000' || substr(body, 7) AS \
             BLOB) WHERE session = $V AND seq = 4",
        ),
        ("a link", "UPDATE entries SET chain = zeroblob(32) WHERE session = $V AND seq = 2"),
        (
            "two swapped bodies",
            "UPDATE entries SET body = (SELECT o.body FROM entries o WHERE o.session = $V AND o.seq = \
             9 - entries.seq) WHERE session = $V AND seq IN (4, 5)",
        ),
        (
            "two swapped rows",
            "UPDATE entries SET seq = -seq WHERE session = $V AND seq IN (3, 4); UPDATE entries SET \
             seq = 7 + seq WHERE session = $V AND seq < 0",
        ),
        (
            "a body from another session",
            "UPDATE entries SET body = (SELECT o.body FROM entries o WHERE o.session = $O AND o.seq = \
             4) WHERE session = $V AND seq = 4",
        ),
        (
            "rows from another session",
            "DELETE FROM entries WHERE session = $V; INSERT INTO entries SELECT tenant, $V, seq, \
             generation, message_seq, entry, lifecycle, role, at, body, chain FROM entries WHERE \
             session = $O",
        ),
        ("the last entry cut off", "DELETE FROM entries WHERE session = $V AND seq = 5"),
        ("an entry in the middle", "DELETE FROM entries WHERE session = $V AND seq = 4"),
        ("the first entry", "DELETE FROM entries WHERE session = $V AND seq = 1"),
        ("the end of an older generation", "DELETE FROM entries WHERE session = $V AND seq = 2"),
        ("a whole older generation", "DELETE FROM entries WHERE session = $V AND generation = 1"),
        ("every entry", "DELETE FROM entries WHERE session = $V"),
        (
            "an entry twice",
            "INSERT INTO entries SELECT tenant, session, 6, generation, 4, entry, lifecycle, role, \
             at, body, chain FROM entries WHERE session = $V AND seq = 5",
        ),
        ("another role", "UPDATE entries SET role = 2 WHERE session = $V AND seq = 4"),
        ("another time", "UPDATE entries SET at = at + 1 WHERE session = $V AND seq = 4"),
        ("another message number", "UPDATE entries SET message_seq = message_seq + 1 WHERE session = $V AND seq = 5"),
        ("another generation", "UPDATE entries SET generation = 1, message_seq = 3 WHERE session = $V AND seq = 3"),
        ("another life", "UPDATE entries SET lifecycle = lifecycle + 1 WHERE session = $V AND seq = 4"),
        ("another entry id", "UPDATE entries SET entry = zeroblob(16) WHERE session = $V AND seq = 4"),
    ];
    for (what, sql) in cases {
        damaged("store.db", what, sql).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_session_row_is_found() {
    let cases = [
        (
            "a head before the end",
            "UPDATE sessions SET head_seq = 4, head_chain = (SELECT chain FROM entries WHERE session \
             = $V AND seq = 4), head_message_seq = 2, head_leaf = (SELECT entry FROM entries WHERE \
             session = $V AND seq = 4) WHERE session = $V",
        ),
        ("the head's link", "UPDATE sessions SET head_chain = zeroblob(32) WHERE session = $V"),
        (
            "the head's MAC",
            "UPDATE sessions SET head_mac = (SELECT o.head_mac FROM sessions o WHERE o.session = $O) \
             WHERE session = $V",
        ),
        ("the life", "UPDATE sessions SET lifecycle = lifecycle + 1 WHERE session = $V"),
        ("the live generation", "UPDATE sessions SET generation = 1 WHERE session = $V"),
        ("the message count", "UPDATE sessions SET head_message_seq = 2 WHERE session = $V"),
        ("the leaf", "UPDATE sessions SET head_leaf = NULL WHERE session = $V"),
        ("the owner", "UPDATE sessions SET owner = zeroblob(16) WHERE session = $V"),
        ("the time of creation", "UPDATE sessions SET created_at = 0 WHERE session = $V"),
        (
            "the key",
            "UPDATE sessions SET key = (SELECT o.key FROM sessions o WHERE o.session = $O) WHERE \
             session = $V",
        ),
        (
            "the description",
            "UPDATE sessions SET meta = (SELECT o.meta FROM sessions o WHERE o.session = $O) WHERE \
             session = $V",
        ),
        ("the label's hash", "UPDATE sessions SET label_hash = zeroblob(32) WHERE session = $V"),
        ("the pinned flag", "UPDATE sessions SET pinned = 1 WHERE session = $V"),
        (
            "a generation's id",
            "UPDATE generations SET id = (SELECT o.id FROM generations o WHERE o.session = $O AND \
             o.generation = 2) WHERE session = $V AND generation = 2",
        ),
        (
            "two swapped generation ids",
            "UPDATE generations SET (id_hash, id) = (SELECT o.id_hash, o.id FROM generations o WHERE \
             o.session = $V AND o.generation = 3 - generations.generation) WHERE session = $V",
        ),
        (
            "the end of an older generation",
            "UPDATE generations SET end_message_seq = 1 WHERE session = $V AND generation = 1",
        ),
        (
            "an older generation without its end",
            "UPDATE generations SET end_mac = NULL WHERE session = $V AND generation = 1",
        ),
        ("the live generation's row", "DELETE FROM generations WHERE session = $V AND generation = 2"),
    ];
    for (what, sql) in cases {
        damaged("store.db", what, sql).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_end_of_a_generation_that_went_on_is_found() {
    const END: &str = "end_lifecycle, end_message_seq, end_leaf, end_mac";
    // The end alone, and with what it cuts off moved out of the generation.
    for cut in ["", "UPDATE entries SET generation = 9 WHERE generation = 1 AND message_seq > 2"] {
        let fixture = Sqlite::new();
        let world = World::new(&fixture).await;
        let mut desk = world.desk(VICTIM).await;
        for text in ["1", "2"] {
            world.say(&mut desk, text).await;
        }
        let first = desk.scope.generation().as_str().to_owned();
        world.switch(&mut desk, "second").await;
        let saved = format!("CREATE TABLE saved AS SELECT {END} FROM generations WHERE generation = 1");
        fixture.database("store.db").execute_batch(&saved).unwrap();
        world.switch(&mut desk, &first).await;
        world.say(&mut desk, "3").await;
        world.switch(&mut desk, "second").await;
        world.say(&mut desk, "4").await;
        let entries = world.store.entries(&desk.scope, GenerationNo(1), ALL).await.unwrap();
        assert_eq!(entries.len(), 3);

        let restored = format!("UPDATE generations SET ({END}) = (SELECT * FROM saved) WHERE generation = 1; {cut}");
        fixture.database("store.db").execute_batch(&restored).unwrap();
        let found = world.store.entries(&desk.scope, GenerationNo(1), ALL).await;
        assert!(matches!(found, Err(StoreError::Integrity(_))), "{cut}: {found:?}");
        let back = Batch { at: START, switch: Some(Switch { to: generation(&first) }), ..Batch::default() };
        let back = world.store.commit(&desk.scope, desk.lease, &desk.head, back).await;
        assert!(matches!(back, Err(StoreError::Integrity(_))), "{cut}: {back:?}");
        assert_eq!(world.texts(&desk).await, ["4"], "the live generation goes on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_or_missing_data_key_is_found() {
    let cases = [
        ("no data key", "DELETE FROM data_keys WHERE session = $V AND key_gen = 1"),
        (
            "the other session's key",
            "UPDATE data_keys SET (data_key, commitment) = (SELECT o.data_key, o.commitment FROM \
             data_keys o WHERE o.session = $O AND o.key_gen = data_keys.key_gen) WHERE session = $V",
        ),
        ("another commitment", "UPDATE data_keys SET commitment = zeroblob(32) WHERE session = $V AND key_gen = 2"),
        ("another epoch", "UPDATE data_keys SET epoch = 2 WHERE session = $V AND key_gen = 2"),
    ];
    for (what, sql) in cases {
        damaged("keys.db", what, sql).await;
    }
}

/// P29: what is swapped between two sessions opens in neither; both take no writes, others go on.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_swapped_between_two_sessions_harms_those_two_only() {
    const SECOND: &str = "agent:main:second";
    let swap = |table: &str, columns: &str, place: &str| {
        format!(
            "CREATE TABLE saved AS SELECT session, {place} AS place, {columns} FROM {table} WHERE session IN ($V, $S);
             UPDATE {table} SET ({columns}) = (SELECT {columns} FROM saved
                 WHERE saved.place = {table}.{place} AND saved.session <> {table}.session)
                 WHERE session IN ($V, $S);
             DROP TABLE saved;"
        )
    };
    let cases = [
        ("keys.db", "the wrapped data keys", swap("data_keys", "data_key, commitment", "key_gen")),
        ("store.db", "every body", swap("entries", "body", "seq")),
        ("store.db", "every body with its link", swap("entries", "body, chain", "seq")),
        ("store.db", "key texts and descriptions", swap("sessions", "key, meta", "tenant")),
    ];
    for (file, what, sql) in cases {
        let fixture = Sqlite::new();
        let world = filled(&fixture).await;
        let mut desk = world.desk(SECOND).await;
        for n in 1..=5 {
            if n == 3 {
                world.switch(&mut desk, "second").await;
            }
            world.say(&mut desk, &format!("{SECOND} {n}")).await;
        }
        let id = async |key| world.scope(&world.operator.caller, key).await.session();
        let (victim, second) = (id(VICTIM).await, id(SECOND).await);
        let World { store, operator, .. } = world;
        drop(store);
        let conn = fixture.database(file);
        conn.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        conn.execute_batch(&sql.replace("$V", &blob(victim)).replace("$S", &blob(second))).unwrap();
        drop(conn);

        let verified = verify(fixture.path(), &Selection::default());
        let mut named: Vec<_> = verified.problems.iter().filter_map(|problem| problem.session).collect();
        named.sort();
        named.dedup();
        let mut both = [victim, second];
        both.sort();
        assert_eq!(named, both, "{what}: {verified:?}");
        let Subject { store, hasher } = fixture.open().await;
        let world = World { store, hasher, operator };
        for key in [VICTIM, SECOND] {
            let found = read_all(&world, key).await;
            assert!(matches!(found, Err(StoreError::Integrity(_))), "{what}, {key}: {found:?}");
            // It takes no writes: whoever would write has to open it first.
            let permit = world.permit(&world.operator.caller, Verb::Write, key).await;
            let refused = match world.store.find_session(&permit).await {
                Ok(Some(record)) => {
                    let scope = authorize(permit, &record).unwrap();
                    world.store.open_session(&scope).await.err()
                }
                Ok(None) => None,
                Err(error) => Some(error),
            };
            assert!(matches!(refused, Some(StoreError::Integrity(_))), "{what}, {key}: {refused:?}");
        }
        assert_eq!(read_all(&world, OTHER).await.unwrap().len(), 5, "{what}");
        world.say(&mut world.desk(OTHER).await, "goes on").await;
    }
}

/// P29: rows put under another tenant are in neither tenant's reach.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_whose_tenants_are_swapped_are_shown_to_neither() {
    let fixture = Sqlite::new();
    let world = World::new(&fixture).await;
    let other = world.tenant("other").await;
    let mut sessions = Vec::new();
    for (caller, text) in [(&world.operator.caller, "secret of the first"), (&other.caller, "secret of the other")] {
        let mut desk = world.desk_of(caller, VICTIM).await;
        world.say(&mut desk, text).await;
        let mut bystander = world.desk_of(caller, OTHER).await;
        world.say(&mut bystander, "unharmed").await;
        sessions.push((desk.scope.session(), caller.tenant(), bystander));
    }
    let World { store, operator, .. } = world;
    drop(store);
    let tenant = |n: usize| format!("x'{}'", sessions[n].1.to_string().replace('-', ""));
    let mut sql = "PRAGMA foreign_keys = OFF;".to_owned();
    for table in ["sessions", "entries", "generations", "session_prefixes", "runs"] {
        for (session, to) in [(sessions[0].0, tenant(1)), (sessions[1].0, tenant(0))] {
            sql.extend([format!("UPDATE {table} SET tenant = {to} WHERE session = {};", blob(session))]);
        }
    }
    fixture.database("store.db").execute_batch(&sql).unwrap();

    let verified = verify(fixture.path(), &Selection::default());
    for (session, _, bystander) in &sessions {
        assert!(verified.problems.iter().any(|problem| problem.session == Some(*session)), "{verified:?}");
        assert!(verified.problems.iter().all(|problem| problem.session != Some(bystander.scope.session())));
    }
    let Subject { store, hasher } = fixture.open().await;
    let world = World { store, hasher, operator };
    for (caller, (_, _, bystander)) in [&world.operator.caller, &other.caller].into_iter().zip(&sessions) {
        let permit = world.permit(caller, Verb::Read, VICTIM).await;
        let found = world.store.find_session(&permit).await;
        assert!(matches!(found, Ok(None) | Err(StoreError::Integrity(_))), "{found:?}");
        let grants = world.store.grants(caller).await.unwrap();
        let page = world.store.list(caller, &grants, everything()).await.unwrap();
        let keys: Vec<_> = page.rows.iter().map(|row| row.record.key().as_str()).collect();
        assert_eq!(keys, [OTHER]);
        assert_eq!(world.texts(bystander).await, ["unharmed"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_anywhere_in_a_stored_body_is_found() {
    let fixture = Sqlite::new();
    let world = World::new(&fixture).await;
    world.say(&mut world.desk(VICTIM).await, "short").await;
    let World { store, operator, .. } = world;
    drop(store);
    let body: Vec<u8> =
        fixture.database("store.db").query_row("SELECT body FROM entries", [], |row| row.get(0)).unwrap();
    let mut operator = Some(operator);
    for at in (0..body.len()).step_by(17) {
        let mut flipped = body.clone();
        flipped[at] ^= 1;
        assert_eq!(fixture.database("store.db").execute("UPDATE entries SET body = ?1", [flipped]).unwrap(), 1);
        let Subject { store, hasher } = fixture.open().await;
        let world = World { store, hasher, operator: operator.take().unwrap() };
        let found = read_all(&world, VICTIM).await;
        assert!(matches!(found, Err(StoreError::Integrity(_))), "byte {at}: {found:?}");
        operator = Some(world.operator);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_put_under_other_keys_than_its_own_is_not_shown_there() {
    let fixture = Sqlite::new();
    let world = World::new(&fixture).await;
    let own = "agent:main:user:own:a";
    for key in [own, "agent:ops:user:victim:b", "unknown"] {
        let mut desk = world.desk(key).await;
        world.switch(&mut desk, "shared").await;
    }
    let caller = &world.operator.caller;
    let id = async |key| {
        let session = world.scope(caller, key).await.session();
        format!("x'{}'", session.to_string().replace('-', ""))
    };
    let (own_id, victim, sentinel) = (id(own).await, id("agent:ops:user:victim:b").await, id("unknown").await);
    let forged = format!(
        "INSERT INTO session_prefixes SELECT tenant, prefix_hash, other.id FROM session_prefixes
             JOIN (SELECT {victim} AS id UNION SELECT {sentinel}) other WHERE session = {own_id}
             ON CONFLICT DO NOTHING;
         UPDATE sessions SET sentinel = 0, agent_tag = (SELECT o.agent_tag FROM sessions o WHERE o.session = {own_id})"
    );
    fixture.database("store.db").execute_batch(&forged).unwrap();

    let granted = reading(caller, &["agent:main:user:own"]);
    let everywhere = world.store.grants(caller).await.unwrap();
    let agent = Some(AgentId::parse("main").unwrap());
    let cases = [
        (&granted, everything()),
        (&granted, ListQuery { search: Some("a".to_owned()), ..everything() }),
        (&everywhere, ListQuery { agent: agent.clone(), ..everything() }),
        (&everywhere, ListQuery { agent, search: Some("a".to_owned()), ..everything() }),
    ];
    for (grants, query) in cases {
        let text = format!("{query:?}");
        let page = world.store.list(caller, grants, query).await.unwrap();
        let keys: Vec<_> = page.rows.iter().map(|row| row.record.key().as_str()).collect();
        assert_eq!(keys, [own], "{text}");
    }
    let page = world.store.list(caller, &everywhere, everything()).await.unwrap();
    assert!(page.rows.iter().all(|row| !row.record.key().is_sentinel()));
    let hits = world.store.find_generation(caller, &granted, &generation("shared"), START).await.unwrap();
    assert_eq!(hits.iter().map(|hit| hit.key.as_str()).collect::<Vec<_>>(), [own]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_run_is_found() {
    let fixture = Sqlite::new();
    let world = World::new(&fixture).await;
    let mut desk = world.desk(VICTIM).await;
    for id in ["r1", "r2"] {
        let input = said(id);
        let runs = vec![accepted(id, &input)];
        world.commit(&mut desk, Batch { entries: vec![input], runs, ..Batch::default() }).await.unwrap();
    }
    let hash = |conn: &Connection, at: u32| -> Vec<u8> {
        conn.query_row("SELECT run_hash FROM runs ORDER BY run_hash LIMIT 1 OFFSET ?1", [at], |row| row.get(0)).unwrap()
    };
    let operator = world.operator;
    drop(world.store);
    for sql in [
        "UPDATE runs SET request = (SELECT o.request FROM runs o WHERE o.run_hash <> ?1) WHERE run_hash = ?1",
        "UPDATE runs SET input = zeroblob(16) WHERE run_hash = ?1",
        "UPDATE runs SET how = 'completed' WHERE run_hash = ?1",
        "UPDATE runs SET state = 6 WHERE run_hash = ?1",
        "UPDATE runs SET state = 77 WHERE run_hash = ?1",
    ] {
        let saved = tempfile::tempdir().unwrap();
        for file in ["store.db", "keys.db"] {
            std::fs::copy(fixture.path().join(file), saved.path().join(file)).unwrap();
        }
        let copy = Sqlite { dir: saved };
        let conn = copy.database("store.db");
        let first = hash(&conn, 0);
        assert_eq!(conn.execute(sql, [first]).unwrap(), 1);
        drop(conn);
        let store = copy.store();
        let (r1, r2) = (run("r1"), run("r2"));
        let found = [store.find_run(&operator.caller, &r1).await, store.find_run(&operator.caller, &r2).await];
        let damaged = found.iter().filter(|run| matches!(run, Err(StoreError::Integrity(_)))).count();
        let sound = found.iter().filter(|run| matches!(run, Ok(Some(_)))).count();
        assert_eq!((damaged, sound), (1, 1), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_open_run_hides_no_other_and_can_be_ended() {
    // What is damaged, and whose runs can be taken up all the same: those of the victim, those of the other session.
    let cases: [(&str, &str, usize, usize); 7] = [
        (
            "store.db",
            "UPDATE runs SET request = zeroblob(60) WHERE input IN (SELECT entry FROM entries WHERE session = $V AND seq = 1)",
            1,
            2,
        ),
        (
            "store.db",
            "UPDATE runs SET input = zeroblob(16) WHERE input IN (SELECT entry FROM entries WHERE session = $V AND seq = 1)",
            1,
            2,
        ),
        (
            "store.db",
            "UPDATE runs SET run_hash = x'00' WHERE input IN (SELECT entry FROM entries WHERE session = $V AND seq = 1)",
            1,
            2,
        ),
        ("store.db", "UPDATE runs SET principal = zeroblob(16) WHERE session = $V", 0, 2),
        ("store.db", "UPDATE sessions SET head_mac = zeroblob(32) WHERE session = $V", 0, 2),
        ("store.db", "UPDATE principals SET auth_epoch = 7", 0, 0),
        ("keys.db", "DELETE FROM epoch_keys", 0, 0),
    ];
    for (file, damage, taken_up, elsewhere) in cases {
        let fixture = Sqlite::new();
        let world = World::new(&fixture).await;
        let mut sessions = Vec::new();
        for key in [VICTIM, OTHER] {
            let mut desk = world.desk(key).await;
            for n in 1..=2 {
                let (id, input) = (format!("{key}-{n}"), said("one"));
                let runs = vec![accepted(&id, &input)];
                world.commit(&mut desk, Batch { entries: vec![input], runs, ..Batch::default() }).await.unwrap();
            }
            sessions.push((desk.scope.tenant(), desk.scope.session()));
        }
        drop(world);
        let conn = fixture.database(file);
        conn.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        assert!(conn.execute(&damage.replace("$V", &blob(sessions[0].1)), []).unwrap() > 0, "{damage}");
        drop(conn);

        let store = fixture.store();
        let steward = Steward::from_opened_keystore();
        assert_eq!(store.unfinished(&steward).await.unwrap().len(), 2, "{damage}");
        for ((tenant, session), expected) in sessions.into_iter().zip([taken_up, elsewhere]) {
            let open = store.open_runs(&steward, tenant, session).await.unwrap();
            assert_eq!((open.runs.len(), open.damaged.len()), (expected, 2 - expected), "{damage}");
            for run in &open.damaged {
                assert!(run.session == session && matches!(run.fault, StoreError::Integrity(_)), "{damage}: {run:?}");
                store.interrupt_damaged_run(&steward, tenant, run, START).await.unwrap();
            }
            for open in &open.runs {
                store.interrupt_run(&steward, tenant, &open.run, START).await.unwrap();
            }
        }
        assert_eq!(store.unfinished(&steward).await, Ok(Vec::new()), "{damage}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_keys_do_not_open_does_not_stop_the_others() {
    let fixture = Sqlite::new();
    let world = World::new(&fixture).await;
    world.say(&mut world.desk(OTHER).await, "one").await;
    let broken = world.tenant("broken").await;
    let mut desk = world.desk_of(&broken.caller, VICTIM).await;
    world.say(&mut desk, "one").await;
    let World { store, operator, .. } = world;
    drop(store);
    let tenant = broken.caller.tenant();
    let conn = fixture.database("keys.db");
    let changed =
        conn.execute("UPDATE tenant_keys SET tenant_key = zeroblob(74) WHERE tenant = ?1", [tenant.as_bytes()]);
    assert_eq!(changed.unwrap(), 1);
    drop(conn);
    let Subject { store, hasher } = fixture.open().await;
    assert!(matches!(store.grants(&broken.caller).await, Err(StoreError::Integrity(_))));
    assert!(matches!(store.describe(&desk.scope).await, Err(StoreError::Integrity(_))));
    let world = World { store, hasher, operator };
    assert_eq!(world.texts(&world.desk(OTHER).await).await, ["one"]);
}
