//! Providers that fail.

use std::net::TcpListener;

use watertight_testkit::{MockProvider, Reply};

use super::assert_sound;
use crate::socket::Turn;
use crate::stage;

/// Sends one message to an agent whose provider always answers like this, beside one that works.
async fn turn_against(reply: Reply) -> Turn {
    let model = MockProvider::start().await;
    model.answer_with(move |_| Some(reply.clone()));
    turn_at(&model.base_url()).await
}

async fn turn_at(base_url: &str) -> Turn {
    let gateway = stage::start(&format!(
        "[[agents]]\nid = \"main\"\ndefault = true\n\
         [[agents]]\nid = \"broken\"\nmodel = \"p1/m1\"\n\
         [providers.p1]\nkind = \"openai\"\nbase_url = \"{base_url}\"\n"
    ))
    .await;
    let mut client = gateway.client().await;
    let turn = client.chat("agent:broken:x", "hello").await;
    assert_sound(&gateway).await;
    let history = client.history("agent:broken:x").await;
    assert_eq!(history.first(), Some(&("user".to_owned(), "hello".to_owned())), "the input is kept");
    let next = client.chat("agent:broken:x", "again").await;
    assert_eq!(next.state(), turn.state(), "the session is not stuck");
    turn
}

#[track_caller]
fn assert_error(turn: &Turn, kind: Option<&str>, says: &str) {
    assert_eq!(turn.state(), "error", "{:#}", turn.end());
    let message = turn.end()["errorMessage"].as_str().unwrap_or_default();
    assert!(message.contains(says), "{message}");
    if let Some(kind) = kind {
        assert_eq!(turn.end()["errorKind"], kind, "{:#}", turn.end());
    }
}

#[tokio::test]
async fn a_provider_that_is_down_ends_the_turn_with_an_error() {
    // Bound and freed again: nothing listens there.
    let address = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let turn = turn_at(&format!("http://{address}/v1")).await;
    assert_error(&turn, None, "cannot be reached");
}

#[tokio::test]
async fn a_rate_limit_is_reported_as_one() {
    let turn = turn_against(Reply::error(429, "rate_limit_exceeded", "slow down")).await;
    assert_error(&turn, Some("rate_limit"), "slow down");
    assert_eq!(turn.end()["errorDetail"]["httpStatus"], 429, "{:#}", turn.end());
}

#[tokio::test]
async fn a_web_page_instead_of_an_answer_is_named_as_such() {
    let turn = turn_against(Reply::html()).await;
    assert_error(&turn, None, "text/html");
}

#[tokio::test]
async fn a_broken_event_stream_ends_the_turn_with_an_error() {
    let garbage = ["data: {\"choices\":[{\"delta\":{\"cont\n\n", "data: }{\n\n"];
    let turn = turn_against(Reply::raw("text/event-stream", garbage)).await;
    assert_error(&turn, None, "cannot be understood");
}

#[tokio::test]
async fn a_stream_that_stops_without_its_end_ends_the_turn_with_an_error() {
    let turn = turn_against(Reply::pieces(["half an ", "answer"]).then_end_early()).await;
    assert_error(&turn, None, "broke off");
}

#[tokio::test]
async fn a_provider_that_dies_in_the_middle_of_an_answer_ends_the_turn_with_an_error() {
    let turn = turn_against(Reply::pieces(["half an ", "answer"]).then_die()).await;
    assert_error(&turn, None, "broke off");
}

#[tokio::test]
async fn a_provider_that_hangs_up_ends_the_turn_with_an_error() {
    let turn = turn_against(Reply::close()).await;
    assert_error(&turn, None, "");
}

#[tokio::test]
async fn a_provider_that_never_answers_is_given_up_at_the_turn_s_time_limit() {
    let model = MockProvider::start().await;
    model.push(Reply::hang());
    let gateway = stage::with_model(&model, "").await;
    let mut client = gateway.client().await;
    let params = serde_json::json!({
        "sessionKey": "agent:main:slow", "message": "hello", "timeout": 1, "idempotencyKey": "slow-1",
    });
    let id = client.start("agent", params).await;
    assert_eq!(client.response(&id).await["payload"]["status"], "accepted");
    let end = client.response(&id).await;
    assert_eq!(end["payload"]["status"], "timeout", "{end:#}");
    model.wait_for_disconnects(1).await;
    let turn = client.chat("agent:main:slow", "are you back?").await;
    assert_eq!(turn.text(), "are you back?", "the session is not stuck");
}
