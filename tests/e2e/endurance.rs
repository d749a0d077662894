//! What never ends, what comes all at once, and what finds no place to write.

mod disk;
mod keys;

use std::fs;

use serde_json::{Value, json};
use watertight_testkit::mock_provider::ScriptedCall;
use watertight_testkit::{MockProvider, Reply};

use crate::socket::Socket;
use crate::stage::{self, Stage};

const KEY: &str = "agent:main:long";

/// The most memory a process has held so far, in bytes.
fn peak(gateway: &Stage) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).expect("the process is there");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("its peak is told");
    let kib = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).expect("a number of KiB");
    kib * 1024
}

/// A connection that hears no runs but those it waits for.
async fn quiet(gateway: &Stage) -> Socket {
    let caps = json!(["session-scoped-events"]);
    Socket::connect(&gateway.url(), &gateway.token(), json!(["operator.admin"]), caps).await.0
}

/// Starts a turn whose message is `message` and waits for its end.
async fn outcome(client: &mut Socket, message: &str) -> Value {
    let run = client.start_chat(KEY, message).await;
    client.call("agent.wait", json!({"runId": run, "timeoutMs": 600_000})).await
}

/// A stream of deltas of this field, far larger than any limit, that never ends.
fn endless(field: &str) -> Reply {
    let delta = json!({"choices": [{"index": 0, "delta": {field: "x".repeat(32 * 1024)}, "finish_reason": null}]});
    let piece = format!("data: {delta}\n\n");
    Reply::raw("text/event-stream", vec![piece; 600]).then_hang()
}

async fn assert_bounded(field: &str) {
    let model = MockProvider::start().await;
    model.push(endless(field));
    let gateway = stage::with_model(&model, "").await;
    let mut client = quiet(&gateway).await;
    let before = peak(&gateway);
    let ended = outcome(&mut client, "go on").await;
    assert_eq!(ended["status"], "error", "{ended:#}");
    let error = ended["error"].as_str().unwrap_or_default();
    assert!(error.contains("8388608 bytes in one answer"), "{error}");
    // The answer, its event and its entry, each once or twice over.
    let grown = peak(&gateway) - before;
    assert!(grown < 160 * 1024 * 1024, "{grown} bytes for an answer of 8 MiB");
    model.wait_for_disconnects(1).await;
    assert!(outcome(&mut client, "still there?").await["status"] == "ok");
}

#[tokio::test]
async fn an_answer_that_never_ends_is_broken_off_at_a_bound() {
    assert_bounded("content").await;
}

#[tokio::test]
async fn a_thought_that_never_ends_is_broken_off_at_the_same_bound() {
    assert_bounded("reasoning_content").await;
}

#[tokio::test]
async fn a_model_that_never_stops_asking_for_tools_is_stopped() {
    let model = MockProvider::start().await;
    model.answer_with(|request| {
        let call = ScriptedCall::new(&format!("call{}", request.order), "time", &json!({}));
        Some(Reply::tool_calls(vec![call]))
    });
    let gateway = stage::with_model(&model, "").await;
    let mut client = quiet(&gateway).await;
    let ended = outcome(&mut client, "go on").await;
    assert_eq!(ended["status"], "error", "{ended:#}");
    assert!(ended["error"].as_str().unwrap_or_default().contains("tool"), "{ended:#}");
}

#[tokio::test]
async fn a_run_whose_client_never_returns_ends_and_its_answer_is_in_the_history() {
    let model = MockProvider::start().await;
    let (reply, gate) = Reply::gated(["nobody ", "listens"]);
    model.push(reply);
    let gateway = stage::with_model(&model, "").await;
    let mut client = gateway.client().await;
    client.start_chat(KEY, "are you there?").await;
    gate.open(1);
    client.until("it begins to answer", |frame| frame["payload"]["state"] == "delta").await;
    drop(client);
    gate.open(2);
    model.wait_for_answers(1).await;
    // Another turn of the session begins only when that one has ended.
    let mut later = gateway.client().await;
    later.chat(KEY, "again").await;
    let history = later.history(KEY).await;
    assert_eq!(history[1], ("assistant".to_owned(), "nobody listens".to_owned()), "{history:?}");
}

/// How many sessions are woken at once: `WATERTIGHT_TEST_SESSIONS`, else few enough for a debug build.
fn many() -> usize {
    std::env::var("WATERTIGHT_TEST_SESSIONS").ok().and_then(|number| number.parse().ok()).unwrap_or(600)
}

/// One turn in each of `sessions`, all asked for before any is waited for.
async fn all_at_once(gateway: &Stage, sessions: usize, round: &str) {
    // A connection may have 256 requests that start; each has fewer.
    const PER_CONNECTION: usize = 200;
    let mut connections = Vec::new();
    for first in (0..sessions).step_by(PER_CONNECTION) {
        let mut client = quiet(gateway).await;
        let mut asked = Vec::new();
        for n in first..sessions.min(first + PER_CONNECTION) {
            let key = format!("agent:main:many-{n}");
            let params = json!({"sessionKey": key, "message": round, "idempotencyKey": format!("{round}-{n}")});
            asked.push((n, client.start("agent", params).await));
        }
        connections.push((client, asked));
    }
    for (client, asked) in &mut connections {
        for (n, id) in asked {
            let accepted = client.response(id).await;
            assert_eq!(accepted["payload"]["status"], "accepted", "session {n}: {accepted:#}");
            let ended = client.response(id).await;
            assert_eq!(ended["payload"]["status"], "ok", "session {n}: {ended:#}");
        }
    }
}

#[tokio::test]
async fn sessions_that_are_all_woken_at_once_are_all_answered_in_bounded_memory() {
    let sessions = many();
    let gateway = stage::echo().await;
    all_at_once(&gateway, sessions, "first").await;
    let gateway = gateway.restart().await;
    let before = peak(&gateway);
    all_at_once(&gateway, sessions, "second").await;
    let each = (peak(&gateway) - before) / sessions as u64;
    eprintln!("{sessions} sessions at once: {each} bytes each");
    assert!(each < 200 * 1024, "{each} bytes for each session");
    assert_eq!(gateway.client().await.history("agent:main:many-0").await.len(), 4);
}

#[tokio::test]
async fn runs_that_a_kill_left_open_in_many_sessions_are_all_answered_after_it() {
    let sessions = many() / 4;
    let model = MockProvider::start().await;
    model.answer_with(move |request| {
        Some(if request.order < sessions { Reply::hang() } else { Reply::text("at last") })
    });
    let gateway = stage::with_model(&model, "").await;
    let mut client = quiet(&gateway).await;
    for n in 0..sessions {
        let key = format!("agent:main:open-{n}");
        client
            .call("chat.send", json!({"sessionKey": key, "message": "hello", "idempotencyKey": format!("r{n}")}))
            .await;
    }
    model.wait_for_requests(sessions).await;
    let gateway = gateway.kill_and_restart().await;
    let mut client = quiet(&gateway).await;
    for n in 0..sessions {
        let ended = client.call("agent.wait", json!({"runId": format!("r{n}"), "timeoutMs": 60_000})).await;
        assert_eq!(
            (&ended["status"], &ended["terminalReply"]["text"]),
            (&json!("ok"), &json!("at last")),
            "{n}: {ended:#}"
        );
    }
}
