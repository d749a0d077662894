//! The proof that what is stored is what was stored: every damage is named with its place, nothing is written, and a
//! store at work is verified like one at rest.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rusqlite::Connection;
use watertight_core::Steward;
use watertight_core::ids::{EntryId, Seq, SessionId};
use watertight_core::receipt::Receipt;
use watertight_core::run::RunOutcome;
use watertight_core::transcript::StopReason;
use watertight_seal::master::MasterKey;
use watertight_store::OpenError;
use watertight_store::conformance::world::{Desk, World, accepted, run, said};
use watertight_store::conformance::{Fixture, Subject};
use watertight_store::model::{Batch, NewEntry, RunChange};
use watertight_store::sqlite::Verifier;
use watertight_store::verification::{Progress, Report, Selection, VerifyError};

use crate::durability::killed_now;
use crate::{Sqlite, master};

const KEY: &str = "agent:main:main";
const OTHER: &str = "agent:main:other";

/// What a verification of the directory finds.
pub(crate) fn verify(dir: &Path, selection: &Selection) -> Report {
    verifier(dir).verify(&Steward::from_opened_keystore(), selection, |_| {}).unwrap()
}

fn verifier(dir: &Path) -> Verifier {
    Verifier::open(dir, &master()).unwrap()
}

/// Each problem as `entry: what`.
fn said_of(report: &Report) -> Vec<String> {
    assert_eq!(report.further, 0);
    let place = |seq: Option<u64>| seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
    report.problems.iter().map(|problem| format!("{}: {}", place(problem.seq), problem.what)).collect()
}

/// An input that names its run, as the engine writes it.
fn asked(run_id: &str) -> NewEntry {
    let mut input = said(run_id);
    input.body.run = Some(run(run_id));
    input.body.turn = Some(input.id);
    input
}

/// One turn, answered.
async fn turn(world: &World, desk: &mut Desk, id: &str) -> [Receipt; 2] {
    let input = asked(id);
    let receipt = |desk: &Desk| Receipt { session: desk.scope.session(), seq: desk.head.seq, chain: desk.head.chain };
    let runs = vec![accepted(id, &input)];
    world.commit(desk, Batch { entries: vec![input], runs, ..Batch::default() }).await.unwrap();
    let acknowledged = receipt(desk);
    let mut answer = said("answer");
    answer.body.run = Some(run(id));
    let outcome = RunOutcome::Completed { stop: StopReason::Stop, answer: answer.id };
    let runs = vec![RunChange::End { id: run(id), outcome }];
    world.commit(desk, Batch { entries: vec![answer], runs, ..Batch::default() }).await.unwrap();
    [acknowledged, receipt(desk)]
}

/// Two sessions of three turns each in two generations, and the receipts of the first.
async fn filled(fixture: &impl Fixture) -> (World, Vec<Receipt>) {
    let world = World::new(fixture).await;
    let mut receipts = Vec::new();
    for key in [KEY, OTHER] {
        let mut desk = world.desk(key).await;
        for n in 1..=3 {
            let given = turn(&world, &mut desk, &format!("{key} {n}")).await;
            if key == KEY {
                receipts.extend(given);
            }
            if n == 2 {
                world.switch(&mut desk, "second").await;
            }
        }
    }
    (world, receipts)
}

fn sql(fixture: &Sqlite, file: &str, sql: &str) {
    let conn = fixture.database(file);
    conn.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    let before = conn.total_changes();
    conn.execute_batch(sql).unwrap();
    assert!(conn.total_changes() > before, "{sql}");
}

/// A session's id in SQL.
pub(crate) fn blob(session: SessionId) -> String {
    format!("x'{}'", session.to_string().replace('-', ""))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_store_holds_at_rest_at_work_and_after_a_kill() {
    let fixture = Sqlite::new();
    let (world, receipts) = filled(&fixture).await;
    let everything = Selection::default();
    let check = |dir: &Path| {
        let mut seen = Vec::new();
        let report = verifier(dir).verify(&Steward::from_opened_keystore(), &everything, |at| seen.push(at)).unwrap();
        assert_eq!(said_of(&report), Vec::<String>::new());
        assert_eq!((report.sessions, report.entries, report.runs, report.receipts), (2, 12, 6, 0));
        assert_eq!(seen, [1, 2].map(|done| Progress { done, total: 2 }));
        let report = verify(dir, &Selection { receipts: receipts.clone(), ..Selection::default() });
        assert_eq!(said_of(&report), Vec::<String>::new());
        assert_eq!((report.sessions, report.entries, report.runs, report.receipts), (1, 6, 3, 6));
    };
    check(fixture.path());
    check(killed_now(&fixture).path());
    drop(world);
    check(fixture.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_written_meanwhile_hold_at_every_moment() {
    let fixture = Sqlite::new();
    let (world, _) = filled(&fixture).await;
    let dir = fixture.path().to_owned();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let verifying = tokio::task::spawn_blocking(move || {
        let verifier = verifier(&dir);
        let mut rounds = 0;
        // At least once after the last write.
        loop {
            let last = stopped.try_recv().is_err_and(|error| error == std::sync::mpsc::TryRecvError::Disconnected);
            let report = verifier.verify(&Steward::from_opened_keystore(), &Selection::default(), |_| {}).unwrap();
            assert_eq!(said_of(&report), Vec::<String>::new());
            rounds += 1;
            if last {
                return (rounds, report);
            }
        }
    });
    let mut desk = world.desk(KEY).await;
    for n in 0..50 {
        turn(&world, &mut desk, &format!("more {n}")).await;
        world.say(&mut world.desk(&format!("agent:main:new-{n}")).await, "one").await;
    }
    drop(stop);
    let (_, report) = verifying.await.unwrap();
    assert_eq!((report.sessions, report.entries, report.runs), (52, 162, 56));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written() {
    // SQLite's index of its log is nobody's data.
    let contents = |dir: &Path| -> BTreeMap<String, Vec<u8>> {
        let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
        files
            .map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap()))
            .filter(|(name, _)| name != "store.db-shm")
            .collect()
    };
    let fixture = Sqlite::new();
    drop(filled(&fixture).await);
    let before = contents(fixture.path());
    verify(fixture.path(), &Selection::default());
    assert!(before == contents(fixture.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_hold_is_named_with_its_place() {
    let cases: &[(&str, &[&str])] = &[
        (
            "UPDATE entries SET body = CAST(substr(body, 1, 40) || x'00' || substr(body, 42) AS BLOB)
             WHERE session = $V AND seq = 4",
            &[
                "4: it is not the entry that was stored here: its link in the chain is another",
                "4: a stored record failed its integrity check (sealed record)",
            ],
        ),
        (
            "DELETE FROM entries WHERE session = $V AND seq = 6",
            &[
                "6: the entry is missing",
                "-: its generation 2 does not end where the head or its closing says",
                "5: the answer of its run is not there",
            ],
        ),
        (
            "DELETE FROM entries WHERE session = $V AND seq IN (2, 3)",
            &[
                "2: the entries 2 to 3 are missing",
                "1: the answer of its run is not there",
                "-: the input of one of its runs is not there",
            ],
        ),
        (
            "UPDATE entries SET seq = -seq WHERE session = $V AND seq IN (2, 3);
             UPDATE entries SET seq = 5 + seq WHERE session = $V AND seq < 0",
            &[
                "2: it is not the entry that was stored here: its link in the chain is another",
                "2: a stored record failed its integrity check (sealed record)",
                "2: it is not the next message of its generation",
                "3: it is not the entry that was stored here: its link in the chain is another",
                "3: a stored record failed its integrity check (sealed record)",
                "3: it is not the next message of its generation",
                "4: it is not the entry that was stored here: its link in the chain is another",
                "4: it is not the next message of its generation",
            ],
        ),
        (
            "INSERT INTO entries SELECT tenant, session, 7, generation, 3, entry, lifecycle, role, at, body, chain
             FROM entries WHERE session = $V AND seq = 6",
            &[
                "7: it is not the entry that was stored here: its link in the chain is another",
                "7: a stored record failed its integrity check (sealed record)",
                "7: it is stored beyond the end that the session's head names",
                "-: its generation 2 does not end where the head or its closing says",
            ],
        ),
        (
            "UPDATE sessions SET head_seq = 5, head_message_seq = 1,
                 (head_chain, head_leaf) = (SELECT chain, entry FROM entries WHERE session = $V AND seq = 5)
             WHERE session = $V",
            &[
                "-: a stored record failed its integrity check (session head)",
                "6: it is stored beyond the end that the session's head names",
            ],
        ),
        (
            "UPDATE sessions SET lifecycle = 9 WHERE session = $V",
            &["-: a stored record failed its integrity check (session head)"],
        ),
        (
            "UPDATE generations SET end_message_seq = 3 WHERE session = $V AND generation = 1",
            &["-: a stored record failed its integrity check (generation end)"],
        ),
        ("DELETE FROM sessions WHERE session = $V", &["-: the session has no row that can be read"]),
        (
            "DELETE FROM runs WHERE session = $V AND input = (SELECT entry FROM entries WHERE session = $V AND seq = 3)",
            &["3: its run is not there: the run's id could be used again"],
        ),
        (
            "UPDATE runs SET state = 1 WHERE session = $V AND input = (SELECT entry FROM entries WHERE session = $V AND seq = 3)",
            &["3: its run: a stored record failed its integrity check (run state)"],
        ),
    ];
    for (damage, expected) in cases {
        let fixture = Sqlite::new();
        let (world, receipts) = filled(&fixture).await;
        drop(world);
        let victim = receipts[0].session;
        sql(&fixture, "store.db", &damage.replace("$V", &blob(victim)));
        let report = verify(fixture.path(), &Selection::default());
        assert_eq!(said_of(&report), *expected, "{damage}");
        for problem in &report.problems {
            assert_eq!((problem.session, problem.tenant.as_deref()), (Some(victim), Some("default")));
            assert!(problem.key.is_none() || problem.key.as_deref() == Some(KEY));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_left_no_row_anywhere_is_missed_all_the_same() {
    let fixture = Sqlite::new();
    let (world, receipts) = filled(&fixture).await;
    // More sessions, so that the keystore is told which of its keys are in use.
    for n in 0..40 {
        world.say(&mut world.desk(&format!("agent:main:{n}")).await, "one").await;
    }
    drop(world);
    let victim = receipts[0].session;
    let deleted = ["runs", "entries", "generations", "session_prefixes", "sessions"]
        .map(|table| format!("DELETE FROM {table} WHERE session = {};", blob(victim)))
        .concat();
    sql(&fixture, "store.db", &deleted);
    let report = verify(fixture.path(), &Selection::default());
    assert_eq!(said_of(&report), ["-: the session is gone: its key is there, the session is not"]);
    assert_eq!(report.problems[0].session, Some(victim));
    let report = verify(fixture.path(), &Selection { receipts: receipts[..1].to_vec(), ..Selection::default() });
    assert_eq!(said_of(&report), ["1: there is no session of this receipt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_rolled_back_as_a_whole_is_told_by_a_receipt() {
    let fixture = Sqlite::new();
    let (world, _) = filled(&fixture).await;
    let World { store, operator, .. } = world;
    drop(store);
    let older = fs::read(fixture.path().join("store.db")).unwrap();
    let Subject { store, hasher } = fixture.open().await;
    let world = World { store, hasher, operator };
    let mut desk = world.desk(KEY).await;
    let [input, end] = turn(&world, &mut desk, "later").await;
    drop(world);
    assert!(verify(fixture.path(), &Selection { receipts: vec![input, end], ..Selection::default() }).holds());
    fs::write(fixture.path().join("store.db"), older).unwrap();
    let report = verify(fixture.path(), &Selection { receipts: vec![input, end], ..Selection::default() });
    assert_eq!(
        said_of(&report),
        ["7: the entry of this receipt is not there", "8: the entry of this receipt is not there"]
    );
    assert_eq!(report.problems.iter().map(|problem| problem.receipt).collect::<Vec<_>>(), [Some(input), Some(end)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_that_was_never_given_does_not_hold() {
    let fixture = Sqlite::new();
    let (world, receipts) = filled(&fixture).await;
    let other = world.scope(&world.operator.caller, OTHER).await.session();
    let first = receipts[0];
    let cases = [
        (
            Receipt { chain: [7; 32], ..first },
            "1: the entry, or one before it, is not the one the receipt was given for",
        ),
        (Receipt { seq: Seq(2), ..first }, "2: the entry, or one before it, is not the one the receipt was given for"),
        (
            Receipt { session: other, ..first },
            "1: the entry, or one before it, is not the one the receipt was given for",
        ),
        (Receipt { seq: Seq(0), ..first }, "0: the entry of this receipt is not there"),
        (Receipt { seq: Seq(u64::MAX), ..first }, &format!("{}: the entry of this receipt is not there", u64::MAX)),
        (Receipt { session: SessionId::from_bytes([9; 16]), ..first }, "1: there is no session of this receipt"),
    ];
    for (receipt, expected) in cases {
        let receipts = [&receipts[..], &[receipt]].concat();
        let report = verify(fixture.path(), &Selection { receipts, ..Selection::default() });
        assert_eq!(said_of(&report), [expected], "{receipt}");
        assert_eq!((report.receipts, report.problems[0].receipt), (7, Some(receipt)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selection_is_verified_and_nothing_else() {
    let fixture = Sqlite::new();
    let (world, receipts) = filled(&fixture).await;
    let theirs = world.tenant("theirs").await;
    world.say(&mut world.desk_of(&theirs.caller, KEY).await, "one").await;
    let (key, other) =
        (world.scope(&world.operator.caller, KEY).await, world.scope(&world.operator.caller, OTHER).await);
    drop(world);
    sql(&fixture, "store.db", &format!("DELETE FROM entries WHERE seq = 2 AND session = {}", blob(other.session())));
    let selected = |tenant: &str, key: &watertight_core::key::CanonicalKey| Selection {
        sessions: vec![(tenant.to_owned(), key.clone())],
        ..Selection::default()
    };
    let report = verify(fixture.path(), &selected("default", key.key()));
    assert_eq!((report.sessions, report.entries, said_of(&report).len()), (1, 6, 0));
    let report = verify(fixture.path(), &selected("theirs", key.key()));
    assert_eq!((report.sessions, report.entries, said_of(&report).len()), (1, 1, 0));
    assert!(!verify(fixture.path(), &selected("default", other.key())).holds());
    let report = verify(fixture.path(), &selected("theirs", other.key()));
    assert_eq!(said_of(&report), ["-: there is no session of this key"]);
    assert_eq!(report.problems[0].key.as_deref(), Some(OTHER));

    let tenant = |name: &str| Selection { tenant: Some(name.to_owned()), ..Selection::default() };
    let report = verify(fixture.path(), &tenant("theirs"));
    assert_eq!((report.sessions, report.holds()), (1, true));
    assert!(!verify(fixture.path(), &tenant("default")).holds());
    let unknown = verifier(fixture.path()).verify(&Steward::from_opened_keystore(), &tenant("nobody"), |_| {});
    assert_eq!(unknown.err(), Some(VerifyError::UnknownTenant("nobody".to_owned())));
    let elsewhere = Selection { receipts: receipts[..1].to_vec(), ..tenant("theirs") };
    assert_eq!(said_of(&verify(fixture.path(), &elsewhere)), ["1: there is no session of this receipt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_no_entry_names_are_verified_too() {
    let fixture = Sqlite::new();
    let world = World::new(&fixture).await;
    let mut desk = world.desk(KEY).await;
    for id in ["r1", "r2"] {
        let input = said("names no run");
        let runs = vec![accepted(id, &input)];
        world.commit(&mut desk, Batch { entries: vec![input], runs, ..Batch::default() }).await.unwrap();
    }
    let runs = vec![RunChange::End {
        id: run("r2"),
        outcome: RunOutcome::Completed { stop: StopReason::Stop, answer: EntryId::from_bytes([5; 16]) },
    }];
    world.commit(&mut desk, Batch { runs, ..Batch::default() }).await.unwrap();
    drop(world);
    let report = verify(fixture.path(), &Selection::default());
    assert_eq!((report.runs, said_of(&report)), (2, vec!["2: the answer of its run is not there".to_owned()]));
    sql(&fixture, "store.db", "UPDATE runs SET request = zeroblob(60), state = 1, how = NULL, outcome = NULL");
    let report = verify(fixture.path(), &Selection::default());
    assert_eq!(
        (report.runs, said_of(&report)),
        (
            0,
            vec![
                "1: its run: a stored record failed its integrity check (sealed record)".to_owned(),
                "2: its run: a stored record failed its integrity check (sealed record)".to_owned(),
            ]
        )
    );
    sql(&fixture, "store.db", "UPDATE runs SET session = zeroblob(16)");
    let report = verify(fixture.path(), &Selection::default());
    assert_eq!(said_of(&report), ["-: there are runs of it, but no session"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_keys_are_gone_is_named_and_the_others_are_verified() {
    let fixture = Sqlite::new();
    let (world, _) = filled(&fixture).await;
    let theirs = world.tenant("theirs").await;
    world.say(&mut world.desk_of(&theirs.caller, KEY).await, "one").await;
    drop(world);
    let tenant = theirs.caller.tenant();
    let conn = fixture.database("keys.db");
    conn.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    assert_eq!(conn.execute("DELETE FROM epoch_keys WHERE tenant = ?1", [tenant.as_bytes()]).unwrap(), 1);
    drop(conn);
    let report = verify(fixture.path(), &Selection::default());
    assert_eq!(said_of(&report), ["-: nothing of the tenant can be verified: its tenant keys does not hold"]);
    assert_eq!((report.problems[0].tenant.as_deref(), report.sessions), (Some("theirs"), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_count_of_sessions_is_found() {
    let fixture = Sqlite::new();
    drop(filled(&fixture).await);
    sql(&fixture, "store.db", "UPDATE session_counts SET sessions = sessions + 1");
    let report = verify(fixture.path(), &Selection::default());
    assert_eq!(said_of(&report), ["-: the kept count of its sessions is wrong, so lists name a wrong total"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn problems_beyond_the_bound_are_counted() {
    let fixture = Sqlite::new();
    let world = World::new(&fixture).await;
    let mut desk = world.desk(KEY).await;
    let many = Report::KEPT as u64 + 7;
    let entries = (0..many).map(|n| said(&n.to_string())).collect();
    world.commit(&mut desk, Batch { entries, ..Batch::default() }).await.unwrap();
    drop(world);
    sql(&fixture, "store.db", "UPDATE entries SET at = at + 1");
    let report = verify(fixture.path(), &Selection::default());
    assert_eq!((report.problems.len(), report.further, report.entries), (Report::KEPT, 7, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_verified_is_refused_with_advice() {
    let fixture = Sqlite::new();
    let refused = |dir: &Path, key: &MasterKey| Verifier::open(dir, key).err().expect("it is refused");
    assert!(matches!(refused(fixture.path(), &master()), OpenError::NoStore { .. }));
    assert_eq!(fs::read_dir(fixture.path()).unwrap().count(), 0, "nothing is made");
    drop(filled(&fixture).await);
    let wrong = MasterKey::from_slice(&[2; 32]).unwrap();
    assert!(matches!(refused(fixture.path(), &wrong), OpenError::WrongMasterKey));

    let other = Sqlite::new();
    drop(filled(&other).await);
    let keys = fs::read(fixture.path().join("keys.db")).unwrap();
    fs::copy(other.path().join("keys.db"), fixture.path().join("keys.db")).unwrap();
    assert!(matches!(refused(fixture.path(), &master()), OpenError::NotTogether));
    fs::remove_file(fixture.path().join("keys.db")).unwrap();
    assert!(matches!(refused(fixture.path(), &master()), OpenError::KeystoreMissing { .. }));
    fs::write(fixture.path().join("keys.db"), keys).unwrap();
    fs::remove_file(fixture.path().join("store.db")).unwrap();
    assert!(matches!(refused(fixture.path(), &master()), OpenError::StoreMissing { .. }));
    drop(Connection::open(fixture.path().join("store.db")).unwrap());
    fs::write(fixture.path().join("store.db"), b"").unwrap();
    assert!(matches!(refused(fixture.path(), &master()), OpenError::Unfinished { .. }));
}
