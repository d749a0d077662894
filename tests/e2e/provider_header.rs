//! The provider learns which session it serves, on every request of a turn.

use serde_json::json;
use watertight_testkit::mock_provider::ScriptedCall;
use watertight_testkit::{MockProvider, Recorded, Reply};

use crate::stage;

/// A turn that asks for the tool `time` twice, then answers.
fn two_tool_rounds() -> [Reply; 3] {
    let ask = |id| Reply::tool_calls(vec![ScriptedCall::new(id, "time", &json!({}))]);
    [ask("call-1"), ask("call-2"), Reply::text("It is late.")]
}

#[tokio::test]
async fn every_request_of_a_tool_turn_names_the_session_and_its_generation() {
    let model = MockProvider::start().await;
    model.push_all(two_tool_rounds().into_iter().chain(two_tool_rounds()));
    let gateway = stage::with_model(&model, "").await;
    let mut client = gateway.client().await;
    let key = "agent:main:Case-Sensitive.Peer@example";

    let turn = client.chat(key, "What time is it?").await;
    assert_eq!((turn.state(), turn.text().as_str()), ("final", "It is late."), "{:#}", turn.end());
    client.chat(key, "And now?").await;
    let generation = client.call("chat.history", json!({"sessionKey": key})).await["sessionId"].clone();

    let requests = model.requests();
    assert_eq!(requests.len(), 6, "three requests a turn");
    let roles: Vec<&str> = requests.iter().map(Recorded::last_role).collect();
    assert_eq!(roles, ["user", "tool", "tool", "user", "tool", "tool"]);
    for request in &requests {
        assert_eq!(request.session_key(), Some(key));
        assert_eq!(request.session_id(), generation.as_str());
    }
}

#[tokio::test]
async fn a_retried_request_names_the_session_too() {
    let model = MockProvider::start().await;
    model.push_all([Reply::error(503, "overloaded", "try again"), Reply::text("Here I am.")]);
    let gateway = stage::with_model(&model, "").await;
    let mut client = gateway.client().await;
    assert_eq!(client.chat("agent:main:retry", "hello").await.text(), "Here I am.");
    assert_eq!(model.requests().len(), 2);
    assert_eq!(model.requests_of("agent:main:retry").len(), 2);
}

#[tokio::test]
async fn hashed_names_are_stable_over_a_restart_and_differ_by_session() {
    let model = MockProvider::start().await;
    let gateway = stage::with_model(&model, "session_header = \"hashed\"").await;
    let mut client = gateway.client().await;
    client.chat("agent:main:one", "a").await;
    client.chat("agent:main:two", "b").await;
    let gateway = gateway.restart().await;
    let mut client = gateway.client().await;
    client.chat("agent:main:one", "c").await;

    let requests = model.requests();
    let keys: Vec<&str> = requests.iter().filter_map(|request| request.session_key()).collect();
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|key| key.starts_with("wt1_") && key.len() == 47), "{keys:?}");
    assert_eq!(keys[0], keys[2]);
    assert_ne!(keys[0], keys[1]);
    assert!(requests.iter().all(|request| !format!("{:?}", request.headers).contains("agent:main")));
}

#[tokio::test]
async fn nothing_is_told_where_the_header_is_off() {
    let model = MockProvider::start().await;
    let gateway = stage::with_model(&model, "session_header = \"off\"").await;
    let mut client = gateway.client().await;
    client.chat("agent:main:one", "a").await;
    let requests = model.requests();
    assert_eq!(requests.len(), 1);
    assert!(
        requests[0].headers.keys().all(|name| !name.as_str().starts_with("x-openclaw")),
        "{:?}",
        requests[0].headers
    );
}
