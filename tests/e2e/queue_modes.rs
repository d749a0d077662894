//! What becomes of an input whose session is at work.

use serde_json::{Value, json};
use watertight_testkit::mock_provider::{Gate, ScriptedCall};
use watertight_testkit::{MockProvider, Reply};

use crate::socket::{Socket, message_text};
use crate::stage::{self, Stage};

const KEY: &str = "agent:main:busy";

/// A session at work: its run `first` waits at the gate before it says a word.
async fn at_work() -> (MockProvider, Gate, Stage, Socket) {
    let model = MockProvider::start().await;
    let (reply, gate) = Reply::gated(["answered ", "first"]);
    model.push(reply);
    let gateway = stage::with_model(&model, "").await;
    let mut client = gateway.client().await;
    client.call("chat.send", send("first", None)).await;
    model.wait_for_requests(1).await;
    (model, gate, gateway, client)
}

/// A message that is its own run id.
fn send(message: &str, mode: Option<&str>) -> Value {
    let mut params = json!({"sessionKey": KEY, "message": message, "idempotencyKey": message});
    if let Some(mode) = mode {
        params["queueMode"] = mode.into();
    }
    params
}

/// Run and text of every answer so far, in the order they came.
fn answers(client: &Socket) -> Vec<(String, String)> {
    let finals = client.log.iter().filter(|frame| frame["event"] == "chat" && frame["payload"]["state"] == "final");
    let answer =
        |payload: &Value| (payload["runId"].as_str().expect("a run").to_owned(), message_text(&payload["message"]));
    finals.map(|frame| answer(&frame["payload"])).collect()
}

#[tokio::test]
async fn every_waiting_turn_keeps_its_own_run_id_and_its_order() {
    let (_model, gate, _gateway, mut client) = at_work().await;
    let modes = [("a", None), ("b", Some("followup")), ("c", Some("collect")), ("d", Some("queue"))];
    for (message, mode) in modes {
        let ack = client.call("chat.send", send(message, mode)).await;
        assert_eq!((&ack["status"], &ack["runId"]), (&json!("started"), &json!(message)), "{ack:#}");
        assert!(ack["interruptedActiveRun"].is_null());
    }
    assert!(answers(&client).is_empty(), "none ends before its turn");
    gate.open(3);
    client.end_of("d".into()).await;
    let answers = answers(&client);
    let runs: Vec<_> = answers.iter().map(|(run, _)| run.as_str()).collect();
    assert_eq!(runs, ["first", "a", "b", "c", "d"]);
    assert!(answers.iter().all(|(run, text)| text.contains(run.as_str())), "{answers:?}");
}

#[tokio::test]
async fn an_interrupting_turn_aborts_the_one_under_way_and_goes_before_those_that_wait() {
    let (model, _gate, _gateway, mut client) = at_work().await;
    client.call("chat.send", send("waiting", None)).await;
    let ack = client.call("chat.send", send("urgent", Some("interrupt"))).await;
    assert_eq!((&ack["status"], &ack["interruptedActiveRun"]), (&json!("started"), &json!(true)), "{ack:#}");
    let first = client.end_of("first".into()).await;
    assert_eq!((first.state(), &first.end()["stopReason"]), ("aborted", &json!("interrupt")));
    client.end_of("waiting".into()).await;
    let runs: Vec<_> = answers(&client).into_iter().map(|(run, _)| run).collect();
    assert_eq!(runs, ["urgent", "waiting"]);
    model.wait_for_disconnects(1).await;
    let idle = client.call("chat.send", send("quiet", Some("interrupt"))).await;
    assert!(idle["interruptedActiveRun"].is_null(), "{idle:#}");
}

#[tokio::test]
async fn a_turn_that_would_not_wait_is_refused_and_leaves_no_trace() {
    let (_model, gate, _gateway, mut client) = at_work().await;
    for (method, params) in [
        ("chat.send", send("x", Some("reject"))),
        ("agent", json!({"sessionKey": KEY, "message": "x", "idempotencyKey": "x", "queueMode": "reject"})),
    ] {
        let error = client.refused(method, params).await;
        assert_eq!((&error["code"], &error["retryable"]), (&json!("UNAVAILABLE"), &json!(true)), "{error:#}");
        assert_eq!(error["details"]["code"], "session_busy");
    }
    gate.open(3);
    client.end_of("first".into()).await;
    assert_eq!(client.history(KEY).await.len(), 2);
    client.call("chat.send", send("x", Some("reject"))).await;
    assert_eq!(client.end_of("x".into()).await.state(), "final", "a session at rest takes it");
}

#[tokio::test]
async fn a_steering_turn_is_taken_up_by_the_run_under_way_and_ends_with_it() {
    let model = MockProvider::start().await;
    let (hold, gate) = Reply::gated(["looking it up"]);
    model.push(hold);
    let gateway = stage::with_model(&model, "").await;
    let mut client = gateway.client().await;
    // A turn in the way, so that the two behind it are certainly there before the first of them asks the model.
    client.call("chat.send", send("before", None)).await;
    model.wait_for_requests(1).await;
    let clock = ScriptedCall::new("c1", "time", &json!({}));
    model.push_all([Reply::tool_calls(vec![clock]), Reply::text("both answered")]);
    client.call("chat.send", send("first", None)).await;
    client.call("chat.send", send("and in french", Some("steer"))).await;
    gate.open(2);
    let first = client.end_of("first".into()).await;
    let steered = client.end_of("and in french".into()).await;
    assert_eq!((first.text(), steered.text()), ("both answered".into(), "both answered".into()));
    let requests = model.requests();
    assert_eq!(requests.len(), 3, "the turn in the way and two calls of one run");
    assert_eq!(requests[1].last_user_text(), "and in french");
    assert_eq!(client.history(KEY).await.iter().filter(|(role, _)| role == "user").count(), 3);
}

#[tokio::test]
async fn a_steering_turn_that_finds_no_further_call_waits_for_its_own() {
    let (_model, gate, _gateway, mut client) = at_work().await;
    client.call("chat.send", send("later", Some("steer"))).await;
    gate.open(3);
    assert_eq!(client.end_of("first".into()).await.text(), "answered first");
    assert!(client.end_of("later".into()).await.text().contains("later"));
}

#[tokio::test]
async fn an_unknown_mode_is_refused_with_the_known_ones() {
    let gateway = stage::echo().await;
    let mut client = gateway.client().await;
    let error = client.refused("chat.send", send("x", Some("whenever"))).await;
    let text =
        "invalid chat.send params: at /queueMode: must be one of steer, followup, collect, interrupt, queue, reject";
    assert_eq!((&error["code"], &error["message"]), (&json!("INVALID_REQUEST"), &json!(text)));
}

#[tokio::test]
async fn sessions_send_and_steer_want_a_session_that_exists() {
    let (_model, gate, _gateway, mut client) = at_work().await;
    for method in ["sessions.send", "sessions.steer"] {
        let error = client.refused(method, json!({"key": "agent:main:nowhere", "message": "x"})).await;
        assert_eq!(error["message"], "session not found: agent:main:nowhere");
    }
    let sent = client.call("sessions.send", json!({"key": KEY, "message": "sent", "idempotencyKey": "sent"})).await;
    assert_eq!((&sent["runId"], &sent["status"]), (&json!("sent"), &json!("started")));
    let steered = client.call("sessions.steer", json!({"key": KEY, "message": "steered"})).await;
    assert_eq!(steered["interruptedActiveRun"], true, "{steered:#}");
    let run = steered["runId"].as_str().expect("a run id of ours").to_owned();
    assert_eq!(client.end_of("first".into()).await.state(), "aborted");
    assert!(client.end_of(run).await.text().contains("steered"));
    assert!(client.end_of("sent".into()).await.text().contains("sent"));
    drop(gate);
}

#[tokio::test]
async fn the_command_line_has_the_modes() {
    let (_model, gate, gateway, mut client) = at_work().await;
    let agent =
        async |mode: &str| gateway.run(&["agent", "--session-key", KEY, "--message", mode, "--queue", mode]).await;
    let refused = agent("reject").await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("Error: The session is at work."), "{refused:?}");
    let unknown = agent("whenever").await;
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(unknown.status.code() == Some(1) && said.contains("Error: Invalid queue mode."), "{unknown:?}");
    let urgent = agent("interrupt").await;
    assert!(urgent.status.success() && String::from_utf8_lossy(&urgent.stdout).contains("interrupt"), "{urgent:?}");
    assert_eq!(client.end_of("first".into()).await.state(), "aborted");
    drop(gate);
}
