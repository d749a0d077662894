//! The official client library, driven by the scripts of `tests/clients`.

use serde_json::Value;

use crate::clients::Clients;
use crate::stage;

fn states(events: &Value) -> Vec<&str> {
    events.as_array().into_iter().flatten().filter_map(|event| event["state"].as_str()).collect()
}

fn texts(history: &Value) -> Vec<String> {
    let text = |message: &Value| match &message["content"] {
        Value::String(text) => text.clone(),
        blocks => blocks.as_array().into_iter().flatten().filter_map(|block| block["text"].as_str()).collect(),
    };
    history["messages"].as_array().into_iter().flatten().map(text).collect()
}

#[tokio::test]
async fn the_official_library_holds_a_conversation() {
    let Some(clients) = Clients::find() else { return };
    let gateway = stage::echo().await;
    let mut script = clients.script("conversation.mjs", &gateway.target());

    let hello = script.expect("hello").await;
    assert_eq!(hello["hello"]["protocol"], 4);
    assert_eq!(script.expect("health").await["answer"]["ok"], true);
    assert_eq!(script.expect("sessions.list").await["answer"]["count"], 0);
    assert_eq!(script.expect("sessions.messages.subscribe").await["answer"]["key"], "agent:main:portal");

    let chat = script.expect("chat").await;
    assert_eq!(chat["ack"]["status"], "started");
    assert_eq!(chat["ack"]["runId"], chat["runId"]);
    assert_eq!(states(&chat["events"]).last(), Some(&"final"), "{chat:#}");
    let streamed: String =
        chat["events"].as_array().into_iter().flatten().filter_map(|event| event["deltaText"].as_str()).collect();
    let last = chat["events"].as_array().and_then(|events| events.last()).expect("events came");
    assert_eq!(streamed, last["message"]["content"][0]["text"], "the pieces add up to the answer");
    assert!(streamed.contains("first message"), "{streamed}");

    let agent = script.expect("agent").await;
    assert_eq!(agent["final"]["status"], "ok");
    assert_eq!(agent["final"]["runId"], agent["runId"]);
    let answer = agent["final"]["result"]["payloads"][0]["text"].as_str().expect("an answer");
    assert!(answer.contains("second message") && answer.contains("(turn 2)"), "{answer}");
    assert_eq!(script.expect("agent.wait").await["answer"]["status"], "ok");

    let history = script.expect("chat.history").await;
    let texts = texts(&history["answer"]);
    assert_eq!(texts.len(), 4, "{texts:?}");
    assert_eq!((texts[0].as_str(), texts[2].as_str()), ("first message", "second message"));
    assert_eq!(texts[1], streamed);
    let list = script.expect("sessions.list").await;
    assert_eq!(list["answer"]["sessions"][0]["key"], "agent:main:portal");
    assert_eq!(script.expect("refused").await["message"], "unknown method: no.such.method");

    let end = script.expect("end").await;
    assert_eq!(end["schemaProblems"], serde_json::json!([]), "frames fit the published schemas");
    assert_eq!(end["gaps"], serde_json::json!([]), "event numbers have no gaps");
    script.finish().await;
}

#[tokio::test]
async fn the_official_library_reconnects_after_a_restart_and_goes_on() {
    let Some(clients) = Clients::find() else { return };
    let gateway = stage::echo().await;
    let (url, token) = (gateway.url(), gateway.token());
    let mut script = clients.script("reconnect.mjs", &gateway.target());

    let before = script.expect("before").await;
    assert_eq!(states(&before["events"]).last(), Some(&"final"));
    let gateway = gateway.restart().await;
    assert_eq!((gateway.url(), gateway.token()), (url, token), "same address, same token");

    let reconnected = script.expect("reconnected").await;
    assert_eq!(reconnected["closes"][0]["code"], 1012, "{reconnected:#}");
    assert_eq!(reconnected["shutdown"]["reason"], "gateway stopping");
    let history = script.expect("history").await;
    assert_eq!(texts(&history["answer"])[0], "before the restart");
    let after = script.expect("after").await;
    let last = after["events"].as_array().and_then(|events| events.last()).expect("events came");
    let answer = last["message"]["content"][0]["text"].as_str().expect("an answer");
    assert!(answer.contains("after the restart") && answer.contains("(turn 2)"), "{answer}");
    assert_eq!(script.expect("end").await["schemaProblems"], serde_json::json!([]));
    script.finish().await;
}
