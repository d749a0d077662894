//! `watertight verify`, beside a gateway and alone.

use rusqlite::Connection;
use serde_json::{Value, json};
use watertight_core::ids::{Seq, SessionId};
use watertight_core::receipt::Receipt;
use watertight_testkit::GatewaySetup;

use crate::command::{Ran, run, run_with_input, setup};

/// Two sessions: two turns in `x`, one in `y`.
async fn filled() -> GatewaySetup {
    let setup = setup();
    for key in ["x", "x", "y"] {
        let ran = run(&setup, &["agent", "--local", "-m", "hi", "--session-key", key]).await;
        assert_eq!(ran.exit, Some(0), "{ran:?}");
    }
    setup
}

fn database(setup: &GatewaySetup) -> Connection {
    let conn = Connection::open(setup.state_dir().join("store.db")).unwrap();
    conn.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    conn
}

/// A receipt for each entry, as the store holds them: the session with more entries first.
fn receipts(setup: &GatewaySetup) -> Vec<Receipt> {
    let conn = database(setup);
    let mut statement = conn
        .prepare(
            "SELECT session, seq, chain FROM entries e
             ORDER BY (SELECT count(*) FROM entries o WHERE o.session = e.session) DESC, seq",
        )
        .unwrap();
    let rows = statement.query_map([], |row| {
        let seq: i64 = row.get(1)?;
        Ok(Receipt { session: SessionId::from_bytes(row.get(0)?), seq: Seq(seq as u64), chain: row.get(2)? })
    });
    rows.unwrap().map(Result::unwrap).collect()
}

#[track_caller]
fn held(ran: &Ran, counted: &str) {
    let expected = format!("Verified {counted}: all of it holds.\n");
    assert_eq!((ran.exit, ran.stdout.as_str(), ran.stderr.as_str()), (Some(0), expected.as_str(), ""));
}

/// Asserts that nothing could be verified, and why.
#[track_caller]
fn not_verified(ran: &Ran, why: &str) {
    assert_eq!((ran.exit, ran.stdout.as_str()), (Some(2), ""), "{ran:?}");
    assert!(ran.stderr.starts_with("Error: ") && ran.stderr.contains(why), "{ran:?}");
}

#[tokio::test]
async fn a_sound_directory_holds_alone_and_beside_a_gateway() {
    let setup = filled().await;
    held(&run(&setup, &["verify"]).await, "2 sessions, 6 entries, 3 runs, 0 receipts");
    let gateway = setup.start().await;
    let turn = run(&setup, &["agent", "-m", "hi", "--session-key", "z"]).await;
    assert_eq!(turn.exit, Some(0), "{turn:?}");
    held(&run(&setup, &["verify"]).await, "3 sessions, 8 entries, 4 runs, 0 receipts");
    let ran = run(&setup, &["verify", "--json"]).await;
    assert_eq!(
        (ran.exit, ran.json()),
        (
            Some(0),
            json!({"ok": true, "verified": {"sessions": 3, "entries": 8, "runs": 4, "receipts": 0, "checkpoints": 0}, "problems": [],
                "furtherProblems": 0})
        )
    );
    let turn = run(&setup, &["agent", "-m", "still here", "--session-key", "z"]).await;
    assert_eq!(turn.exit, Some(0), "{turn:?}");
    drop(gateway);
}

#[tokio::test]
async fn a_session_is_named_as_in_every_other_command() {
    let setup = filled().await;
    for key in ["x", "agent:main:x"] {
        held(&run(&setup, &["verify", "--session", key]).await, "1 session, 4 entries, 2 runs, 0 receipts");
    }
    let both = run(&setup, &["verify", "--session", "x", "--session", "y", "--tenant", "default"]).await;
    held(&both, "2 sessions, 6 entries, 3 runs, 0 receipts");
    for key in ["nobody", "agent:gone:x"] {
        let ran = run(&setup, &["verify", "--session", key]).await;
        assert_eq!(ran.exit, Some(1), "{ran:?}");
        assert!(ran.stdout.contains("there is no session of this key"), "{ran:?}");
    }
}

#[tokio::test]
async fn damage_is_named_with_session_and_entry() {
    let cases = [
        (
            "UPDATE entries SET body = CAST(substr(body, 1, 60) || x'00' || substr(body, 62) AS BLOB) WHERE session = ?1 AND seq = 2",
            "entry 2",
        ),
        ("DELETE FROM entries WHERE session = ?1 AND seq = 4", "entry 4: the entry is missing"),
        (
            "UPDATE entries SET (entry, at, body, chain) = (SELECT o.entry, o.at, o.body, o.chain FROM entries o
             WHERE o.session = ?1 AND o.seq = 6 - entries.seq) WHERE session = ?1 AND seq IN (2, 4)",
            "entry 2: it is not the entry that was stored here",
        ),
        (
            "UPDATE sessions SET head_seq = 3, head_message_seq = 3, (head_chain, head_leaf) =
             (SELECT chain, entry FROM entries WHERE session = ?1 AND seq = 3) WHERE session = ?1",
            "entry 4: it is stored beyond the end that the session's head names",
        ),
        ("DELETE FROM runs WHERE session = ?1", "entry 1: its run is not there"),
    ];
    for (sql, expected) in cases {
        let setup = filled().await;
        let victim = receipts(&setup)[0].session;
        assert!(database(&setup).execute(sql, [victim.as_bytes()]).unwrap() > 0);
        let ran = run(&setup, &["verify"]).await;
        assert_eq!((ran.exit, ran.stderr.as_str()), (Some(1), ""), "{ran:?}");
        assert!(ran.stdout.contains(expected), "{sql}: {ran:?}");
        assert!(!ran.stdout.contains("agent:main:y") && ran.stdout.contains(" found.\n"), "{ran:?}");
        held(&run(&setup, &["verify", "--session", "y"]).await, "1 session, 2 entries, 1 run, 0 receipts");
        let found = run(&setup, &["verify", "--json"]).await.json();
        assert_eq!(found["ok"], false);
        let hex = victim.to_string().replace('-', "");
        let problems = found["problems"].as_array().unwrap();
        assert!(!problems.is_empty() && problems.iter().all(|problem| problem["session"] == hex.as_str()), "{found}");
    }
}

#[tokio::test]
async fn receipts_are_read_in_every_form_and_place() {
    let setup = filled().await;
    let all = receipts(&setup);
    let json = |receipt: &Receipt| serde_json::to_string(receipt).unwrap();
    let one = run(&setup, &["verify", "--receipt", &all[0].to_string(), "--receipt", &json(&all[3])]).await;
    held(&one, "1 session, 4 entries, 2 runs, 2 receipts");
    let lines: Vec<String> = all.iter().map(|receipt| format!("{receipt}\n{}\n\n", json(receipt))).collect();
    let lines = lines.concat();
    let counted = "2 sessions, 6 entries, 3 runs, 12 receipts";
    held(&run_with_input(&setup, &["verify", "--receipt", "-"], lines.as_bytes()).await, counted);
    held(&run_with_input(&setup, &["verify", "--receipts", "-"], lines.as_bytes()).await, counted);
    let file = setup.state_dir().join("receipts.txt");
    std::fs::write(&file, &lines).unwrap();
    held(&run(&setup, &["verify", "--receipts", file.to_str().unwrap()]).await, counted);
    let with_session = run(&setup, &["verify", "--session", "y", "--receipt", &all[0].to_string()]).await;
    held(&with_session, "2 sessions, 6 entries, 3 runs, 1 receipt");
}

#[tokio::test]
async fn a_receipt_that_does_not_hold_is_named() {
    let setup = filled().await;
    let all = receipts(&setup);
    let (mine, theirs) = (all[0], all[4]);
    assert_ne!(mine.session, theirs.session);
    let forged = Receipt { chain: [1; 32], ..mine };
    let of_another_session = Receipt { session: theirs.session, ..mine };
    let beyond = Receipt { seq: Seq(5), ..mine };
    for receipt in [forged, of_another_session, beyond] {
        let ran = run(&setup, &["verify", "--receipt", &mine.to_string(), "--receipt", &receipt.to_string()]).await;
        assert_eq!((ran.exit, ran.stdout.matches("(receipt ").count()), (Some(1), 1), "{ran:?}");
        assert!(ran.stdout.contains(&format!("(receipt {receipt})")), "{ran:?}");
        let found = run(&setup, &["verify", "--receipt", &receipt.to_string(), "--json"]).await.json();
        assert_eq!(found["problems"][0]["receipt"], serde_json::to_value(receipt).unwrap());
    }
}

#[tokio::test]
async fn what_cannot_be_verified_says_why() {
    let fresh = setup();
    not_verified(&run(&fresh, &["verify"]).await, "there is no store in");
    assert!(!fresh.state_dir().join("store.db").exists() && !fresh.state_dir().join("master.key").exists());

    let setup = filled().await;
    let receipt = receipts(&setup)[0].to_string();
    not_verified(&run(&setup, &["verify", "--receipt", "x"]).await, "this is no receipt");
    not_verified(&run(&setup, &["verify", "--receipt", &receipt[1..]]).await, "this is no receipt");
    not_verified(&run_with_input(&setup, &["verify", "--receipts", "-"], b"\n\n").await, "No receipt was given");
    let second = format!("{receipt}\n{{\"session\":1}}\n");
    not_verified(&run_with_input(&setup, &["verify", "--receipt", "-"], second.as_bytes()).await, "line 2");
    not_verified(&run(&setup, &["verify", "--receipts", "/nowhere"]).await, "Cannot read /nowhere");
    not_verified(&run(&setup, &["verify", "--tenant", "nobody"]).await, "there is no tenant \"nobody\"");
    not_verified(&run(&setup, &["verify", "--session", "a::b"]).await, "empty segment");
    not_verified(&run(&setup, &["verify", "--bogus"]).await, "does not recognize option \"--bogus\"");

    let key = setup.state_dir().join("master.key");
    let kept = std::fs::read(&key).unwrap();
    std::fs::remove_file(&key).unwrap();
    not_verified(&run(&setup, &["verify"]).await, "does not exist: restore it");
    assert!(!key.exists(), "a missing key is never made up");
    let other = filled().await;
    std::fs::copy(other.state_dir().join("master.key"), &key).unwrap();
    drop(other);
    not_verified(&run(&setup, &["verify"]).await, "the master key does not open this store");
    let ran = run(&setup, &["verify", "--json"]).await;
    assert_eq!((ran.exit, &ran.json()["ok"]), (Some(2), &Value::Bool(false)), "{ran:?}");
    std::fs::write(&key, kept).unwrap();
    held(&run(&setup, &["verify", "--receipt", &receipt]).await, "1 session, 4 entries, 2 runs, 1 receipt");
}
