//! P03 to P06: a key text never means another session than its bytes say.

use serde_json::{Value, json};
use uuid::Uuid;
use watertight_testkit::GatewayClient;

use crate::file;
use crate::world::{World, reason, turn};

fn id() -> String {
    Uuid::new_v4().to_string()
}

async fn send(client: &GatewayClient, key: &str) -> Result<Value, Value> {
    let params = json!({"sessionKey": key, "message": "hello", "idempotencyKey": id()});
    client.request("chat.send", params).await
}

/// Sends to keys that are refused with one of these words; nothing is stored and no model asked.
async fn all_refused(world: &World, who: &str, keys: &[String], words: &[&str]) {
    let tenant = &world.person(who).tenant;
    let before = world.state(tenant).await;
    let client = world.socket(who).await;
    for key in keys {
        let error = send(&client, key).await.expect_err(key);
        assert!(words.contains(&reason(&error)), "{key:?}: {error}");
        assert_eq!(error["code"], "INVALID_REQUEST", "{key:?}: {error}");
        for method in ["chat.history", "sessions.messages.subscribe"] {
            let field = if method == "chat.history" { "sessionKey" } else { "key" };
            let error = client.request(method, json!({field: key})).await.expect_err(key);
            assert!(words.contains(&reason(&error)), "{method} {key:?}: {error}");
        }
    }
    assert_eq!((world.state(tenant).await, world.model_calls()), (before, 0), "{who}");
}

pub(crate) async fn p03() {
    let world = World::open().await;
    for step in file::steps("P03") {
        assert_eq!(step["ws"], "chat.send");
        let (who, key) = (step["as"].as_str().unwrap(), step["sessionKey"].as_str().unwrap().to_owned());
        all_refused(&world, who, &[key], &["invalid_session_key"]).await;
    }
}

pub(crate) async fn p04() {
    // Distinct sessions by the file, or, for the long one, by the bound: 256 bytes is that of the user header; a key
    // may have 512.
    let own = |key: &str| key.contains('%') || (key.len() > 256 && key.bytes().all(|byte| byte == b'a'));
    let keys: Vec<String> = file::steps("P04").iter().map(|step| step["key"].as_str().unwrap().to_owned()).collect();
    let world = World::open().await;
    let bad: Vec<String> = keys.iter().filter(|key| !own(key)).cloned().collect();
    all_refused(&world, "alice", &bad, &["invalid_session_key"]).await;
    all_refused(&world, "alice", &["a".repeat(513)], &["invalid_session_key"]).await;

    // None of these is another: each remembers what was said under it and nothing else.
    let alice = world.socket("alice").await;
    let own: Vec<String> =
        keys.into_iter().filter(|key| own(key)).chain(["alice".into(), "alice:thread:x".into()]).collect();
    for (at, key) in own.iter().enumerate() {
        turn(&alice, key, &format!("marker-{at}-")).await.unwrap();
    }
    for (at, key) in own.iter().enumerate() {
        let history = alice.request("chat.history", json!({"sessionKey": key})).await.unwrap().to_string();
        for other in 0..own.len() {
            assert_eq!(history.contains(&format!("marker-{other}-")), other == at, "{key} shows {other}: {history}");
        }
    }
}

pub(crate) async fn p05() {
    let world = World::with_agents(&["main", "ops-team"]).await;
    let (admin, alice) = (world.socket("t1admin").await, world.socket("alice").await);
    let before = world.state("T1").await;
    for step in file::steps("P05") {
        let agent = step["agent"].as_str().unwrap();
        let beside = json!({"sessionKey": "p05", "agentId": agent, "message": "hi", "idempotencyKey": id()});
        let within = format!("agent:{agent}:p05");
        if agent.eq_ignore_ascii_case("ops-team") {
            // Only the case of ASCII letters is folded, and only for those who hold a grant there.
            let error = send(&alice, &within).await.unwrap_err();
            assert_eq!(reason(&error), "session_not_found", "{error}");
            assert_eq!(world.state("T1").await, before);
            turn(&admin, &within, "hi").await.unwrap();
            let state = world.state("T1").await;
            assert_eq!((state.as_array().unwrap().len(), state[0][0].as_str()), (1, Some("agent:ops-team:p05")));
            continue;
        }
        let error = admin.request("chat.send", beside).await.unwrap_err();
        assert_eq!(reason(&error), "invalid_agent_id", "{agent}: {error}");
        let error = send(&admin, &within).await.unwrap_err();
        // A character that no key may have is found before the agent is looked for.
        assert!(["invalid_agent_id", "invalid_session_key"].contains(&reason(&error)), "{within}: {error}");
        assert_eq!((world.state("T1").await, world.model_calls()), (before.clone(), 0), "{agent}");
    }
}

pub(crate) async fn p06() {
    let world = World::open().await;
    let words = ["reserved_namespace", "invalid_session_key"];
    for step in file::steps("P06") {
        let (who, key) = (step["as"].as_str().unwrap(), step["key"].as_str().unwrap().to_owned());
        all_refused(&world, who, std::slice::from_ref(&key), &words).await;
        let token = &world.person(who).token;
        let url = world.gateway.url();
        let args = ["agent", "--url", &url, "--session-key", &key, "--message", "hi", "--json"];
        let output = world.setup.command(&args).env("WATERTIGHT_TOKEN", token).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{key}: {said}");
        assert_eq!(world.model_calls(), 0, "{key}");
    }
    // The operator's own.
    let operator = world.operator_socket("T1").await;
    for key in ["global", "unknown"] {
        turn(&operator, key, "hi").await.unwrap();
        let page = operator.request("sessions.describe", json!({"key": key})).await.unwrap();
        assert_eq!(page["session"]["key"], key, "{page}");
    }
}
