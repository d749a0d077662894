//! What was acknowledged is there after the process ends, whichever way it ends.

use crate::stage::{self, Stage};

const KEY: &str = "agent:main:kept";

async fn holds_after(restart: impl AsyncFnOnce(Stage) -> Stage) {
    let gateway = stage::echo().await;
    let mut client = gateway.client().await;
    client.chat(KEY, "one").await;
    client.chat(KEY, "two").await;
    let before = client.history(KEY).await;
    assert_eq!(before.len(), 4);

    let gateway = restart(gateway).await;
    let mut client = gateway.client().await;
    assert_eq!(client.history(KEY).await, before, "nothing lost, nothing doubled");
    let turn = client.chat(KEY, "/echo history").await;
    assert!(turn.text().contains("1. one\n2. two\n"), "the model sees what was said: {}", turn.text());
    assert_eq!(client.history(KEY).await.len(), 6);
}

#[tokio::test]
async fn a_conversation_goes_on_after_a_stop() {
    holds_after(Stage::restart).await;
}

#[tokio::test]
async fn a_conversation_goes_on_after_a_kill() {
    holds_after(Stage::kill_and_restart).await;
}

#[tokio::test]
async fn a_repeated_request_after_a_kill_does_not_run_again() {
    let gateway = stage::echo().await;
    let mut client = gateway.client().await;
    let turn = client.chat(KEY, "only once").await;
    let gateway = gateway.kill_and_restart().await;
    let mut client = gateway.client().await;
    let params = serde_json::json!({"sessionKey": KEY, "message": "only once", "idempotencyKey": turn.run});
    let again = client.call("chat.send", params).await;
    assert_eq!(again["status"], "ok", "{again:#}");
    assert_eq!(client.history(KEY).await.len(), 2);
}

#[tokio::test]
async fn an_acknowledged_input_survives_a_kill_in_the_middle_of_its_turn() {
    let gateway = stage::echo().await;
    let mut client = gateway.client().await;
    client.start_chat(KEY, "/echo hang").await;
    let gateway = gateway.kill_and_restart().await;
    let mut client = gateway.client().await;
    let history = client.history(KEY).await;
    assert_eq!(history.first(), Some(&("user".to_owned(), "/echo hang".to_owned())), "{history:?}");
    assert!(client.chat("agent:main:other", "hello").await.text().contains("hello"));
}
