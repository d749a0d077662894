//! The echo model as callers see it.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use watertight_core::run::FailureKind;
use watertight_core::transcript::{Block, Message, StopReason, ToolCall};
use watertight_provider::{Answer, Echo, ModelEvent};

use crate::support::{
    Outcome, answer_text, as_message, collect, failure, message, request, run, text_of, tool_result, user,
};

async fn call(messages: Vec<Message>) -> Outcome {
    collect(&Echo::new("echo"), "agent:main:main", request(messages)).await
}

async fn say(text: &str) -> Answer {
    let (events, outcome) = call(vec![message(text)]).await;
    let answer = outcome.expect("an answer");
    assert_eq!(text_of(&events), answer_text(&answer), "what was streamed is what was answered");
    answer
}

fn tool_call(answer: &Answer) -> &ToolCall {
    assert_eq!(answer.stop, StopReason::ToolUse);
    answer
        .content
        .iter()
        .find_map(|block| match block {
            Block::ToolCall(call) => Some(call),
            _ => None,
        })
        .expect("a tool call")
}

#[tokio::test]
async fn it_says_what_it_is_once_and_counts_the_turns() {
    let (events, outcome) = call(vec![message("hello there my friend")]).await;
    let first = outcome.unwrap();
    insta::assert_snapshot!(answer_text(&first), @r#"
    Echo: hello there my friend

    This is the built-in echo model, not an AI: it repeats what it is sent. For a real model set OPENAI_API_KEY, or name a provider in config.toml. Try /echo for its scripts.
    (turn 1)
    "#);
    assert!(events.iter().filter(|event| matches!(event, ModelEvent::Text(_))).count() > 2, "it streams");
    assert_eq!(first.usage.unwrap().input, 6);

    let second = call(vec![message("hello there my friend"), as_message(first), message("again")]).await.1.unwrap();
    assert_eq!(answer_text(&second), "Echo: again (turn 2)");
}

#[tokio::test]
async fn the_same_transcript_gets_the_same_events() {
    let script = "/echo tool time {\"zone\": \"UTC\"}";
    assert_eq!(call(vec![message(script)]).await, call(vec![message(script)]).await);
}

#[tokio::test]
async fn it_asks_for_a_tool_and_answers_with_the_result() {
    let question = message("/echo tool time {\"zone\": \"UTC\"}");
    let asked = say("/echo tool time {\"zone\": \"UTC\"}").await;
    let call_made = tool_call(&asked).clone();
    assert_eq!((call_made.name.as_str(), &call_made.arguments), ("time", &json!({"zone": "UTC"})));
    let result = tool_result(&call_made.id, "time", "noon");
    let answer = call(vec![question, as_message(asked), result]).await.1.unwrap();
    assert_eq!(answer_text(&answer), "time said: noon\n(turn 1)");
    assert_eq!(answer.stop, StopReason::Stop);
}

#[tokio::test]
async fn it_asks_for_one_tool_after_the_other() {
    let mut transcript = vec![message("/echo tools time session_info")];
    let mut ids = Vec::new();
    for tool in ["time", "session_info"] {
        let asked = call(transcript.clone()).await.1.unwrap();
        let made = tool_call(&asked).clone();
        assert_eq!(made.name, tool);
        transcript.extend([as_message(asked), tool_result(&made.id, tool, "x")]);
        ids.push(made.id);
    }
    assert_ne!(ids[0], ids[1]);
    let answer = call(transcript).await.1.unwrap();
    assert_eq!(answer_text(&answer), "time said: x\nsession_info said: x\n(turn 1)");
}

#[tokio::test(start_paused = true)]
async fn slow_takes_its_time_word_by_word() {
    let began = Instant::now();
    let (events, _) = call(vec![message("/echo slow 3")]).await;
    assert_eq!(text_of(&events), "word1 word2 word3 (turn 1)");
    assert!(began.elapsed() >= Duration::from_millis(300));
    let quick = Echo::new("echo").with_slow_step(Duration::ZERO);
    let began = Instant::now();
    collect(&quick, "agent:main:main", user("/echo slow 50")).await.1.unwrap();
    assert!(began.elapsed() < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn hang_never_answers() {
    let hang = call(vec![message("/echo hang")]);
    assert!(tokio::time::timeout(Duration::from_secs(10), hang).await.is_err());
}

#[tokio::test]
async fn failures_are_those_asked_for() {
    for (script, kind) in [
        ("/echo fail", FailureKind::ProviderUnavailable),
        ("/echo fail rate_limit", FailureKind::RateLimit),
        ("/echo fail timeout", FailureKind::Timeout),
        ("/echo fail context_length", FailureKind::ContextLength),
        ("/echo fail auth", FailureKind::ProviderAuth),
        ("/echo fail refusal", FailureKind::Refusal),
    ] {
        let outcome = call(vec![message(script)]).await;
        assert!(outcome.0.is_empty(), "nothing was said before");
        assert_eq!(failure(outcome).kind(), kind, "{script}");
    }
    let (events, outcome) = call(vec![message("/echo die")]).await;
    assert!(!text_of(&events).is_empty());
    assert!(outcome.unwrap_err().to_string().contains("the provider's stream ended early"));
}

#[tokio::test]
async fn long_is_exactly_that_long() {
    for bytes in [0, 1, 100_000] {
        assert_eq!(answer_text(&say(&format!("/echo long {bytes}")).await).len(), bytes);
    }
}

#[tokio::test]
async fn history_shows_what_it_was_sent() {
    let transcript = vec![message("one"), as_message(say("one").await), message("/echo history")];
    let answer = call(transcript).await.1.unwrap();
    assert_eq!(answer_text(&answer), "1. one\n2. /echo history\n(turn 2)");
    assert!(answer_text(&say("/echo what").await).starts_with("Scripts of the echo model"));
}

#[tokio::test]
async fn a_transcript_without_a_user_is_answered_too() {
    let stream_ends = run(watertight_provider::Provider::call(
        &Echo::new("echo"),
        &watertight_testkit::scope::scope(watertight_testkit::scope::tenant(1), "agent:main:main", "g"),
        request(vec![]),
    ));
    assert!(stream_ends.await.1.is_ok());
}
