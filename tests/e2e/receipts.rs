//! Receipts: every acknowledgement and every end says where the session stood then.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::socket::Socket;
use crate::stage::{self, Stage};

const KEY: &str = "agent:main:proved";

/// The receipt of an answer: its session and its place.
#[track_caller]
fn receipt(of: &Value) -> (String, u64) {
    let receipt = &of["receipt"];
    let hex = |field: &str, digits: usize| {
        let text = receipt[field].as_str().unwrap_or_default().to_owned();
        assert!(text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit()), "{field} in {of:#}");
        text
    };
    hex("chain", 64);
    (hex("session", 32), receipt["seq"].as_u64().unwrap_or_else(|| panic!("no place in {of:#}")))
}

fn send(message: &str, run: &str) -> Value {
    json!({"sessionKey": KEY, "message": message, "idempotencyKey": run})
}

/// What names a run on the wire.
async fn lifecycle_end(client: &mut Socket, run: &str) -> Value {
    let of_run = |frame: &Value| {
        let payload = &frame["payload"];
        let phase = payload["data"]["phase"].as_str().unwrap_or_default();
        frame["event"] == "agent" && payload["runId"] == run && matches!(phase, "end" | "error")
    };
    client.until("the end of the run's life", of_run).await["payload"]["data"].clone()
}

#[tokio::test]
async fn chat_send_proves_the_input_and_the_final_event_the_answer() {
    let gateway = stage::echo().await;
    let mut client = gateway.client().await;
    let mut session = None;
    for n in 0..3 {
        let run = format!("r{n}");
        let (of, place) = receipt(&client.call("chat.send", send("hello", &run)).await);
        let turn = client.end_of(run.clone()).await;
        let (of_end, end) = receipt(&turn.end()["message"]);
        assert_eq!((place, end), (2 * n + 1, 2 * n + 2));
        assert_eq!((&of_end, session.get_or_insert(of.clone())), (&of, &mut of.clone()), "one session, one name");
        assert_eq!(lifecycle_end(&mut client, &run).await["receipt"], turn.end()["message"]["receipt"]);
    }
}

#[tokio::test]
async fn agent_and_agent_wait_carry_the_same_receipts() {
    let gateway = stage::echo().await;
    let mut client = gateway.client().await;
    let params = json!({"sessionKey": KEY, "message": "hello", "idempotencyKey": "r"});
    let id = client.start("agent", params.clone()).await;
    let accepted = client.response(&id).await;
    assert_eq!(receipt(&accepted["payload"]).1, 1);
    let last = client.response(&id).await;
    assert_eq!(receipt(&last["payload"]).1, 2);
    let turn = client.end_of("r".into()).await;
    assert_eq!(turn.end()["message"]["receipt"], last["payload"]["receipt"]);
    let waited = client.call("agent.wait", json!({"runId": "r"})).await;
    assert_eq!(waited["receipt"], last["payload"]["receipt"]);
    assert_eq!(client.call("agent", params).await["receipt"], last["payload"]["receipt"], "asked again");
}

#[tokio::test]
async fn runs_that_fail_or_are_stopped_have_receipts_too() {
    let gateway = stage::echo().await;
    let mut client = gateway.client().await;
    let failed = client.chat(KEY, "/echo fail").await;
    assert_eq!(failed.state(), "error", "{:#}", failed.end());
    let (_, failed) = receipt(&lifecycle_end(&mut client, &failed.run).await);
    let run = client.start_chat(KEY, "/echo slow 1000").await;
    client.until("it begins to answer", |frame| frame["payload"]["state"] == "delta").await;
    client.call("chat.abort", json!({"sessionKey": KEY})).await;
    let aborted = client.end_of(run.clone()).await;
    assert_eq!(aborted.state(), "aborted");
    let (_, stopped) = receipt(&lifecycle_end(&mut client, &run).await);
    assert_eq!((stopped, receipt(&aborted.end()["message"]).1), (failed + 2, failed + 2));
}

#[tokio::test]
async fn a_repeated_request_gets_the_receipt_it_got_before() {
    let gateway = stage::echo().await;
    let mut client = gateway.client().await;
    let first = client.call("chat.send", send("hello", "r")).await;
    client.end_of("r".into()).await;
    client.chat(KEY, "and more").await;
    let again = client.call("chat.send", send("hello", "r")).await;
    assert_eq!(again["receipt"], first["receipt"], "{again:#}");
    let gateway = gateway.kill_and_restart().await;
    let again = gateway.client().await.call("chat.send", send("hello", "r")).await;
    assert_eq!(again["receipt"], first["receipt"], "{again:#}");
}

/// `watertight agent` with these arguments: what it printed.
async fn agent(gateway: &Stage, args: &[&str]) -> String {
    let output = gateway.run(&[&["agent", "--session-key", KEY, "--message", "hello"], args].concat()).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test]
async fn the_command_line_shows_the_receipt_in_json_only() {
    let gateway = stage::echo().await;
    let json: Value = serde_json::from_str(&agent(&gateway, &["--json"]).await).expect("JSON");
    assert_eq!(receipt(&json).1, 2);
    let plain = agent(&gateway, &[]).await;
    assert!(plain.contains("hello") && !plain.contains("chain"), "{plain}");
    let setup = gateway.stop().await;
    let local = ["agent", "--local", "--session-key", KEY, "--message", "hello", "--json"];
    let output = setup.command(&local).output().await.expect("the program runs");
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(receipt(&json["meta"]).1, 6, "{json:#}");
}

#[tokio::test]
async fn a_turn_nobody_sees_the_end_of_still_has_its_receipt() {
    let gateway = stage::echo().await;
    let run = Uuid::new_v4().to_string();
    gateway.client().await.call("chat.send", send("hello", &run)).await;
    let mut later = gateway.client().await;
    let waited = later.call("agent.wait", json!({"runId": run})).await;
    assert_eq!((&waited["status"], receipt(&waited).1), (&json!("ok"), 2));
}
