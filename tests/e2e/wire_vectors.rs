//! The recorded exchanges of `tests/vectors/gateway-ws`, replayed over a real socket: what we send has the recorded
//! shape and the recorded constants ([`crate::shape`]).

use serde_json::{Value, json};
use watertight_testkit::{MockProvider, Reply};

use crate::shape::assert_matches;
use crate::socket::{Close, Socket};
use crate::stage;

/// One recorded step.
struct Exchange(Vec<Value>);

impl Exchange {
    fn load(name: &str) -> Self {
        let path = format!("{}/vectors/gateway-ws/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let file: Value = serde_json::from_str(&text).expect("a recorded exchange is JSON");
        Self(file["exchange"].as_array().expect("an exchange has steps").clone())
    }

    /// The frames of one direction, `c2s` or `s2c`.
    fn frames(&self, direction: &str) -> Vec<Value> {
        self.0.iter().filter(|step| step["dir"] == direction).map(|step| step["frame"].clone()).collect()
    }

    /// How the connection ended.
    fn close(&self) -> Close {
        let step = self.0.iter().find(|step| step["dir"] == "close").expect("the connection ends");
        let code = step["code"].as_u64().and_then(|code| u16::try_from(code).ok());
        Close { code, reason: step["reason"].as_str().unwrap_or_default().to_owned() }
    }
}

/// The first response to the request.
async fn answer_to(socket: &mut Socket, request: &Value) -> Value {
    socket.send(request).await;
    socket.response(request["id"].as_str().expect("a request has an id")).await
}

/// The response or event of ours that stands for a recorded one.
async fn event(socket: &mut Socket, recorded: &Value, fits: impl Fn(&Value) -> bool) -> Value {
    let what = format!("the event {recorded}");
    socket.until(&what, |frame| frame["event"] == recorded["event"] && fits(&frame["payload"])).await
}

#[tokio::test]
async fn exchange_01_connect_with_a_token() {
    let gateway = stage::echo().await;
    let exchange = Exchange::load("01-connect-token-backend");
    let [challenge, hello] = &exchange.frames("s2c")[..] else { panic!("two frames") };
    let mut request = exchange.frames("c2s").remove(0);
    request["params"]["auth"]["token"] = gateway.token().into();

    let mut socket = Socket::open(&gateway.url()).await;
    let ours = socket.until("the challenge", |_| true).await;
    assert_matches(challenge, &ours, &[]);
    assert_eq!(ours.get("seq"), None, "the challenge has no number");
    let ours = answer_to(&mut socket, &request).await;
    assert_matches(hello, &ours, &[]);
    // Decided otherwise than recorded: 8 MiB.
    assert_eq!(ours["payload"]["policy"]["maxBufferedBytes"], 8_388_608);
    let uptime = ours["payload"]["snapshot"]["uptimeMs"].as_u64();
    assert!(uptime.is_some_and(|ms| ms < 600_000), "{uptime:?}");
}

#[tokio::test]
async fn exchanges_03_and_04_refuse_a_protocol_and_a_token() {
    let gateway = stage::echo().await;
    for name in ["03-connect-protocol-mismatch", "04-connect-bad-token"] {
        let exchange = Exchange::load(name);
        let mut socket = Socket::open(&gateway.url()).await;
        let ours = answer_to(&mut socket, &exchange.frames("c2s")[0]).await;
        assert_matches(&exchange.frames("s2c")[0], &ours, &[]);
        let close = socket.closed().await;
        assert_eq!(close.code, exchange.close().code, "{name}");
        assert!(close.reason.starts_with(&exchange.close().reason), "{name}: {close:?}");
    }
}

/// The exchanges of one conversation, in their order: each stands on those before it.
#[tokio::test]
async fn exchanges_05_to_13_of_one_conversation() {
    let model = MockProvider::start().await;
    let gateway = stage::with_model(&model, "").await;
    let mut socket = gateway.client().await;

    model.push(Reply::pieces(["Hi", " there"]));
    let subscribe = Exchange::load("12-sessions-subscribe-list");
    chat_send_streams_and_ends(&mut socket).await;
    chat_send_again_is_not_run_again(&mut socket).await;
    let session_id = chat_history_reads_back(&mut socket).await;
    assert_eq!(model.requests().len(), 1, "the repeated request asked no model");

    let [request] = &subscribe.frames("c2s")[..] else { panic!("one request") };
    let [list, changed] = &subscribe.frames("s2c")[..] else { panic!("an answer and an event") };
    let ours = answer_to(&mut socket, request).await;
    assert_matches(list, &ours, &[]);

    sessions_resolve_finds_live_generations(&mut socket, &session_id).await;

    model.push(Reply::text("pong"));
    agent_answers_twice(&mut socket).await;
    // The recorded change is a patch; a run is what changes a session here.
    let ours = event(&mut socket, changed, |payload| payload["session"].is_object()).await;
    let any = ["payload.reason", "payload.session.status", "payload.session.hasActiveRun"];
    assert_matches(changed, &ours, &any);

    let (reply, gate) = Reply::gated(["part", " never"]);
    model.push(reply);
    gate.open(1);
    chat_abort_ends_the_run(&mut socket).await;

    model.answer_with(|_| Some(Reply::error(429, "rate_limit_exceeded", "slow down")));
    a_rate_limit_is_an_error_event(&mut socket).await;
    assert_increasing_numbers(&socket);
}

async fn chat_send_streams_and_ends(socket: &mut Socket) {
    let exchange = Exchange::load("05-chat-send-stream-final");
    let [ack, status, delta, _, end] = &exchange.frames("s2c")[..] else { panic!("five frames") };
    let ours = answer_to(socket, &exchange.frames("c2s")[0]).await;
    assert_matches(ack, &ours, &[]);
    let run = ours["payload"]["runId"].as_str().expect("a run id").to_owned();

    assert_matches(status, &event(socket, status, |payload| payload["state"] == "status").await, &[]);
    let turn = socket.end_of(run).await;
    let recorded = |frame: &Value| json!({ "payload": frame["payload"] });
    let mut streamed = String::new();
    for ours in turn.events.iter().filter(|payload| payload["state"] == "delta") {
        assert_matches(&recorded(delta), &json!({ "payload": ours }), &[]);
        streamed.push_str(ours["deltaText"].as_str().expect("a delta has text"));
        assert_eq!(ours["message"]["content"][0]["text"], streamed.as_str(), "the message is what came so far");
    }
    assert_eq!(streamed, "Hi there");
    assert_matches(&recorded(end), &json!({ "payload": turn.end() }), &[]);
    assert_eq!(turn.text(), "Hi there");
    let numbers: Vec<i64> = turn.events.iter().filter_map(|payload| payload["seq"].as_i64()).collect();
    assert!(numbers.is_sorted() && numbers.len() == turn.events.len(), "{numbers:?}");
}

async fn chat_send_again_is_not_run_again(socket: &mut Socket) {
    let exchange = Exchange::load("06-chat-send-duplicate");
    let ours = answer_to(socket, &exchange.frames("c2s")[0]).await;
    assert_matches(&exchange.frames("s2c")[0], &ours, &[]);
}

async fn chat_history_reads_back(socket: &mut Socket) -> String {
    let exchange = Exchange::load("10-chat-history");
    let recorded = &exchange.frames("s2c")[0];
    let ours = answer_to(socket, &exchange.frames("c2s")[0]).await;
    assert_matches(recorded, &ours, &[]);
    let (recorded, messages) = (&recorded["payload"]["messages"], &ours["payload"]["messages"]);
    assert_eq!(messages.as_array().map(Vec::len), Some(2), "{messages:#}");
    for n in 0..2 {
        assert_matches(&recorded[n], &messages[n], &[]);
        assert_eq!(messages[n]["__openclaw"]["seq"], recorded[n]["__openclaw"]["seq"]);
    }
    assert_eq!(ours["payload"]["totalMessages"], 2);
    assert_eq!(messages[0]["content"], recorded[0]["content"]);
    assert_eq!(messages[1]["content"], recorded[1]["content"]);

    let exchange = Exchange::load("11-chat-history-cursor-reset");
    let reset = answer_to(socket, &exchange.frames("c2s")[0]).await;
    assert_matches(&exchange.frames("s2c")[0], &reset, &[]);
    ours["payload"]["sessionId"].as_str().expect("a session id").to_owned()
}

async fn sessions_resolve_finds_live_generations(socket: &mut Socket, session_id: &str) {
    let exchange = Exchange::load("13-sessions-resolve");
    let mut requests = exchange.frames("c2s");
    requests[0]["params"]["sessionId"] = session_id.into();
    for (request, recorded) in requests.iter().zip(exchange.frames("s2c")) {
        assert_matches(&recorded, &answer_to(socket, request).await, &[]);
    }
}

async fn agent_answers_twice(socket: &mut Socket) {
    let exchange = Exchange::load("07-agent-two-responses");
    let [accepted, start, text, end, done, waited] = &exchange.frames("s2c")[..] else { panic!("six frames") };
    let [request, wait] = &exchange.frames("c2s")[..] else { panic!("two requests") };
    let from = socket.log.len();
    assert_matches(accepted, &answer_to(socket, request).await, &[]);
    let run = request["params"]["idempotencyKey"].clone();
    let of_run = |payload: &Value| payload["runId"] == run;

    let ours = event(socket, start, |payload| of_run(payload) && payload["data"]["phase"] == "start").await;
    assert_matches(start, &ours, &[]);
    let ours = event(socket, text, |payload| of_run(payload) && payload["stream"] == "assistant").await;
    assert_matches(text, &ours, &[]);
    let ours = event(socket, end, |payload| of_run(payload) && payload["state"] == "final").await;
    assert_matches(end, &ours, &[]);
    let ours = socket.response("4").await;
    assert_matches(done, &ours, &[]);
    assert_eq!(ours["payload"]["result"]["payloads"][0]["text"], "pong");
    let order: Vec<&str> = socket.log[from..]
        .iter()
        .filter_map(|frame| match (frame["type"].as_str(), frame["id"].as_str(), frame["payload"]["state"].as_str()) {
            (Some("res"), Some("4"), _) => Some("response"),
            (Some("event"), _, Some("final")) => Some("final"),
            _ => None,
        })
        .collect();
    assert_eq!(order, ["response", "final", "response"]);

    let ours = answer_to(socket, wait).await;
    assert_matches(waited, &ours, &[]);
}

async fn chat_abort_ends_the_run(socket: &mut Socket) {
    let exchange = Exchange::load("08-chat-abort");
    let [aborted, answer] = &exchange.frames("s2c")[..] else { panic!("two frames") };
    let abort = &exchange.frames("c2s")[0];
    let run = abort["params"]["runId"].clone();
    let params = json!({"sessionKey": "agent:main:main", "message": "go on", "idempotencyKey": run});
    assert_eq!(socket.call("chat.send", params).await["status"], "started");
    let of_run = |payload: &Value| payload["runId"] == run;
    event(socket, aborted, |payload| of_run(payload) && payload["state"] == "delta").await;

    assert_matches(answer, &answer_to(socket, abort).await, &[]);
    let before_answer = socket.log.iter().rev().skip_while(|frame| frame["id"] != abort["id"]);
    let ours = before_answer.into_iter().find(|frame| frame["payload"]["state"] == "aborted").cloned();
    let ours = ours.expect("the event comes before the answer");
    assert_matches(aborted, &ours, &[]);
    assert_eq!(ours["payload"]["message"]["content"][0]["text"], "part");
}

async fn a_rate_limit_is_an_error_event(socket: &mut Socket) {
    let recorded = &Exchange::load("09-chat-error").frames("s2c")[0];
    let params = json!({
        "sessionKey": "agent:main:main", "message": "once more", "idempotencyKey": recorded["payload"]["runId"],
    });
    assert_eq!(socket.call("chat.send", params).await["status"], "started");
    let ours = event(socket, recorded, |payload| payload["state"] == "error").await;
    assert_matches(recorded, &ours, &[]);
    assert_eq!(ours["payload"]["errorDetail"]["provider"], "p1");
    assert_eq!(ours["payload"]["errorDetail"]["model"], "m1");
}

fn assert_increasing_numbers(socket: &Socket) {
    let numbers: Vec<u64> = socket.log.iter().filter_map(|frame| frame["seq"].as_u64()).collect();
    assert!(numbers.len() > 10, "events are numbered");
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "without gaps: {numbers:?}");
}

#[tokio::test]
async fn exchange_17_refuses_a_missing_scope_and_an_unknown_method() {
    let gateway = stage::echo().await;
    let exchange = Exchange::load("17-missing-scope-and-bad-params");
    let (mut socket, hello) = Socket::connect(&gateway.url(), &gateway.token(), json!([]), json!([])).await;
    assert_eq!(hello["payload"]["auth"]["scopes"], json!([]), "no scope asked for is no scope");
    for (request, recorded) in exchange.frames("c2s").iter().zip(exchange.frames("s2c")) {
        assert_matches(&recorded, &answer_to(&mut socket, request).await, &[]);
    }
}

#[tokio::test]
async fn exchange_18_ticks_presence_health_and_shutdown() {
    let gateway = stage::echo().await;
    let exchange = Exchange::load("18-tick-health-presence-shutdown");
    let [tick, presence, health, shutdown] = &exchange.frames("s2c")[..] else { panic!("four frames") };
    let mut socket = gateway.client().await;
    let _second = gateway.client().await;
    // The host and the words for a mode are each gateway's own.
    assert_matches(presence, &event(&mut socket, presence, |_| true).await, &[]);
    assert_matches(health, &event(&mut socket, health, |_| true).await, &[]);
    assert_matches(tick, &event(&mut socket, tick, |_| true).await, &[]);

    let (_state, close) = tokio::join!(gateway.stop(), socket.closed());
    let ours = socket.log.iter().find(|frame| frame["event"] == "shutdown").expect("a shutdown event");
    assert_matches(shutdown, ours, &[]);
    assert_eq!(close, exchange.close());
}

#[tokio::test]
async fn exchange_19_agent_tool_frames() {
    let gateway = stage::echo().await;
    let exchange = Exchange::load("19-agent-tool-stream");
    let recorded = exchange.frames("s2c");
    let (mut socket, _) =
        Socket::connect(&gateway.url(), &gateway.token(), json!(["operator.write"]), json!(["tool-events"])).await;
    let params = json!({
        "sessionKey": "agent:main:main", "message": "/echo tool time {}", "deliver": false,
        "idempotencyKey": recorded[0]["payload"]["runId"],
    });
    assert_eq!(socket.call("agent", params).await["status"], "accepted");
    let mut calls = Vec::new();
    for (recorded, phase) in recorded.iter().zip(["start", "result"]) {
        let mut recorded = recorded.clone();
        // The recorded tool takes an argument, ours takes none.
        if phase == "start" {
            recorded["payload"]["data"]["args"] = json!({});
        }
        let ours =
            event(&mut socket, &recorded, |payload| payload["data"]["phase"] == phase && payload["stream"] == "tool")
                .await;
        assert_matches(&recorded, &ours, &[]);
        assert_eq!(ours["payload"]["data"]["name"], "time");
        calls.push(ours["payload"]["data"]["toolCallId"].clone());
    }
    assert_eq!(calls[0], calls[1]);
}
