//! Keys that are no session keys.

use serde_json::json;

use super::assert_sound;
use crate::stage;

fn bad_keys() -> Vec<String> {
    let mut keys: Vec<String> = [
        "",
        "   ",
        "agent:main:a\u{1}b",
        "agent:main:a\nb",
        "agent:main:a\u{7f}",
        "agent:main:..",
        "agent:main:a..b",
        "agent:main:../../etc/passwd",
        "agent:main:",
        "agent::x",
        "agent:main::x",
        "agent:main:x:",
        ":x",
        "agent:main:\u{212a}im",
        "agent:m\u{430}in:x",
        "\u{ff41}gent:main:x",
        "agent:main:a\u{200d}b",
        "agent:main:a\u{202e}b",
        "agent:main:a b",
        "agent:main:a\\b",
        "agent:main:a\"b",
        "agent:main:subagent:x",
        "agent:main:Cron:x",
    ]
    .map(str::to_owned)
    .into();
    keys.push(format!("agent:main:{}", "x".repeat(502)));
    keys.push(format!("agent:main{}", ":x".repeat(15)));
    keys
}

#[tokio::test]
async fn a_malformed_key_is_refused_by_every_method_and_creates_nothing() {
    let gateway = stage::echo().await;
    let mut client = gateway.client().await;
    for key in bad_keys() {
        for (method, params) in [
            ("chat.send", json!({"sessionKey": key, "message": "x", "idempotencyKey": "bad-key"})),
            ("chat.history", json!({"sessionKey": key})),
            ("chat.abort", json!({"sessionKey": key})),
            ("sessions.messages.subscribe", json!({"key": key})),
            ("sessions.describe", json!({"key": key})),
        ] {
            let error = client.refused(method, params).await;
            assert_eq!(error["code"], "INVALID_REQUEST", "{method} {key:?}: {error:#}");
            assert!(!error["message"].as_str().unwrap_or_default().contains(['\n', '\u{1}', '\u{202e}']), "{error:#}");
        }
    }
    let list = client.call("sessions.list", json!({})).await;
    assert_eq!(list["count"], 0, "{list:#}");
    assert_sound(&gateway).await;
}

#[tokio::test]
async fn the_longest_key_and_the_most_segments_are_accepted() {
    let gateway = stage::echo().await;
    let mut client = gateway.client().await;
    let longest = format!("agent:main:{}", "x".repeat(512 - "agent:main:".len()));
    let deepest = format!("agent:main{}", ":x".repeat(14));
    for key in [longest, deepest] {
        assert!(client.chat(&key, "hello").await.text().contains("hello"));
        assert_eq!(client.history(&key).await.len(), 2);
    }
}

#[tokio::test]
async fn keys_that_look_alike_are_different_sessions() {
    let gateway = stage::echo().await;
    let mut client = gateway.client().await;
    let keys =
        ["agent:main:Alice", "agent:main:alice", "agent:main:alice.", "agent:main:alice%20", "agent:main:alice%2520"];
    for key in keys {
        client.chat(key, &format!("for {key}")).await;
    }
    for key in keys {
        let history = client.history(key).await;
        assert_eq!(history.len(), 2, "{key}");
        assert_eq!(history[0].1, format!("for {key}"));
    }
}

#[tokio::test]
async fn an_unknown_agent_is_refused_by_name() {
    let gateway = stage::echo().await;
    let mut client = gateway.client().await;
    let params = json!({"sessionKey": "agent:ghost:x", "message": "x", "idempotencyKey": "ghost"});
    let error = client.refused("chat.send", params).await;
    assert_eq!(error["code"], "INVALID_REQUEST");
    assert_eq!(error["message"], "Agent \"ghost\" no longer exists in configuration");
    let params = json!({"agentId": "ghost", "message": "x", "idempotencyKey": "ghost"});
    assert_eq!(client.refused("agent", params).await["code"], "INVALID_REQUEST");
    assert_eq!(client.call("sessions.list", json!({})).await["count"], 0);
    assert_sound(&gateway).await;
}
