//! Rows of the store that were damaged or tampered with while the gateway was down.

use rusqlite::Connection;
use serde_json::json;

use super::assert_sound;
use crate::stage::{self, Stage};

const HURT: &str = "agent:main:hurt";
const WELL: &str = "agent:main:well";

/// Two sessions of two turns each; then the gateway is stopped, the store changed by `change`, and started again: the
/// change is found, and only where it was made. Entries 1 to 4 of the table are those of [`HURT`], 5 to 8 those of [`WELL`].
async fn assert_found(change: impl FnOnce(&Connection) -> rusqlite::Result<usize>) {
    let gateway = stage::echo().await;
    let mut client = gateway.client().await;
    for key in [HURT, WELL] {
        for text in ["one", "two"] {
            client.chat(key, text).await;
        }
    }
    let setup = gateway.stop().await;
    let store = Connection::open(setup.state_dir().join("store.db")).expect("the store opens");
    let changed = change(&store).expect("the store can be changed");
    assert!(changed > 0, "something is changed");
    store.close().expect("the store closes");

    let gateway = Stage::resume(setup).await;
    let mut client = gateway.client().await;
    let error = client.refused("chat.history", json!({"sessionKey": HURT})).await;
    assert!(error.to_string().contains("integrity"), "{error:#}");
    let well = client.history(WELL).await;
    assert_eq!((well.len(), well[0].1.as_str()), (4, "one"), "the other session is whole");
    assert!(client.chat(WELL, "three").await.text().contains("(turn 3)"));
    assert_sound(&gateway).await;
}

#[tokio::test]
async fn a_changed_entry_is_an_integrity_error_of_its_session_alone() {
    assert_found(|store| {
        let mut body: Vec<u8> = store.query_row("SELECT body FROM entries WHERE rowid = 2", [], |row| row.get(0))?;
        let middle = body.len() / 2;
        body[middle] ^= 1;
        store.execute("UPDATE entries SET body = ?1 WHERE rowid = 2", [body])
    })
    .await;
}

#[tokio::test]
async fn an_entry_put_in_another_s_place_is_an_integrity_error() {
    assert_found(|store| {
        store.execute("UPDATE entries SET body = (SELECT body FROM entries WHERE rowid = 3) WHERE rowid = 1", [])
    })
    .await;
}

#[tokio::test]
async fn an_entry_of_another_session_is_an_integrity_error() {
    assert_found(|store| {
        store.execute("UPDATE entries SET body = (SELECT body FROM entries WHERE rowid = 5) WHERE rowid = 1", [])
    })
    .await;
}

#[tokio::test]
async fn an_entry_under_another_role_is_an_integrity_error() {
    assert_found(|store| store.execute("UPDATE entries SET role = 2 WHERE rowid = 1", [])).await;
}

#[tokio::test]
async fn a_removed_last_entry_is_an_integrity_error() {
    assert_found(|store| store.execute("DELETE FROM entries WHERE rowid = 4", [])).await;
}

#[tokio::test]
async fn a_removed_entry_in_the_middle_is_an_integrity_error() {
    assert_found(|store| store.execute("DELETE FROM entries WHERE rowid = 2", [])).await;
}
